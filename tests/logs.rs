//! What a program's log shows at each level, as its standard error has it: success is silent unless
//! DEBUG is asked for, and no level shows a secret.

#[path = "support/authority.rs"]
#[allow(dead_code)] // what other tests need of it
mod authority;
#[path = "support/consul.rs"]
#[allow(dead_code)] // what other tests need of it
mod consul;

use authority::Folder;
use consul::RealConsul;
use std::process::Command;

/// Does what each section is called; prints every secret that it had to standard output.
const PROGRAM: &str = r#"
local consul_ffi = require("consul_ffi")
local address, admin_token, path, level = os.getenv("ADDRESS"), os.getenv("ADMIN"), os.getenv("FILE"), os.getenv("LEVEL")

local function section(name)
  io.stderr:write("== ", name, "\n")
end

local function token(admin)
  local _, created = assert(admin:acl_token_create({ policies = { { name = "global-management" } } }))
  print(created.SecretID)
  return created
end

local function write(content)
  local file = assert(io.open(path, "w"))
  file:write(content)
  file:close()
end

section("success")
local admin = consul_ffi.new({ endpoint = address, token = admin_token, log_level = level })
local first, second = token(admin), token(admin)
write(first.SecretID)
local client = consul_ffi.new({
  endpoint = address, token_file = path, http_auth = "user:hunter2", log_level = level,
})
assert(client:kv_put("color", "body-s3cret"))
assert(client:kv_get("color"))
assert(client:acl_token_read(first.AccessorID))
assert(client:txn({ { KV = { Verb = "set", Key = "color", Value = "body-s3cret" } } }))
assert(client:http_request("GET", "/v1/kv/color", nil, { token = admin_token }))
assert(client:http_request("GET", "/v1/kv/color?token=" .. admin_token))

section("rotation")
write(second.SecretID)
assert(admin:acl_token_delete(first.AccessorID))
assert(client:kv_get("color"))

section("loss")
os.remove(path)
assert(admin:acl_token_delete(second.AccessorID))
local ok, _, err = client:kv_get("color")
assert(not ok and err.kind == "acl_not_found")
client:kv_get("color")

section("failure")
ok, _, err = admin:kv_put("color", "body-s3cret", { token = "call-s3cret" })
assert(not ok and err.kind == "acl_not_found")
local nobody = consul_ffi.new({ endpoint = "127.0.0.1:1", token = admin_token, retry_count = 0 })
ok, _, err = nobody:http_request("GET", "/v1/kv/color", nil, { token = "call-s3cret" })
assert(not ok and err.kind == "connect")
"#;

/// The lines of each section.
fn sections(consul: &RealConsul, level: &str) -> Vec<(String, Vec<String>)> {
    let folder = Folder::new();
    let output = Command::new("luajit")
        .args(["-e", PROGRAM])
        .env("LUA_CPATH", "./target/lua/luajit/?.so;;")
        .envs([("ADDRESS", &consul.address), ("ADMIN", &consul.token)])
        .envs([("LEVEL", level), ("FILE", &folder.file("token", ""))])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("luajit runs");
    let log = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{log}");
    let printed = String::from_utf8(output.stdout).expect("text");
    let secrets = printed.lines().chain([consul.token.as_str()]);
    for secret in secrets.chain(["hunter2", "dXNlcjpodW50ZXIy", "body-s3cret", "call-s3cret"]) {
        assert!(!log.contains(secret), "{secret} is in the log at {level}:\n{log}");
    }
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    for line in log.lines() {
        match (line.strip_prefix("== "), sections.last_mut()) {
            (Some(name), _) => sections.push((name.to_owned(), Vec::new())),
            (None, Some((_, lines))) => lines.push(line.to_owned()),
            (None, None) => panic!("a line before the first section: {line}"),
        }
    }
    sections
}

/// Where each line of the log stands: its section, its level and its words.
type Wanted<'a> = &'a [(&'a str, &'a str, &'a str)];

#[test]
fn each_level_shows_what_it_should_and_no_secret() {
    let consul = RealConsul::start_program_with_acl(env!("CARGO_BIN_EXE_consul-sim"), "deny");
    let consul = consul.expect("consul-sim runs");
    let lost = ("loss", "WARN", "the file of the token cannot be used");
    let new = ("rotation", "INFO", "the file of the token holds a new one");
    let cases: [(&str, Wanted); 3] = [("ERROR", &[]), ("WARN", &[lost]), ("INFO", &[new, lost])];
    for (level, wanted) in cases {
        let mut found = Vec::new();
        for (section, lines) in sections(&consul, level) {
            found.extend(lines.into_iter().map(|line| (section.clone(), line)));
        }
        assert_eq!(found.len(), wanted.len(), "at {level}: {found:?}");
        for ((section, line), (wanted_section, label, words)) in found.iter().zip(wanted) {
            assert_eq!(section, wanted_section, "at {level}: {line}");
            assert!(line.contains(label) && line.contains(words), "at {level}: {line}");
        }
    }
    let sections = sections(&consul, "DEBUG");
    let of = |name: &str| &sections.iter().find(|(section, _)| section == name).expect(name).1;
    let says = |name: &str, words: &[&str]| {
        let is_said = |line: &String| words.iter().all(|word| line.contains(word));
        assert!(of(name).iter().any(is_said), "{name} has no line with {words:?}: {:?}", of(name));
    };
    says("success", &["DEBUG", "answered", "kv_put \\\"color\\\"", "attempts=1"]);
    says("success", &["DEBUG", "answered", "acl_token_create"]);
    says("failure", &["DEBUG", "failed", "kv_put", "ACL not found"]);
    says("failure", &["DEBUG", "failed", "http_request", "refused"]);
    says(new.0, &[new.1, new.2]);
    says(lost.0, &[lost.1, lost.2]);
}
