//! The log on a program's standard error at each level: success is silent except at DEBUG, and no
//! level shows a secret.

use crate::support::authority::Folder;
use crate::support::consul::{RealConsul, SIM};
use crate::support::trials::{Trials, add};
use std::process::Command;

/// Does what the name of each section says; prints all its secrets to standard output.
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

/// Handlers that raise and return errors, 50 times each.
const FAILING: &str = r#"
local node = require("consul_ffi").ConsulHACluster.new({
  node_id = "n1", node_address = "127.0.0.1:1", simulate = true, log_level = "INFO",
})
assert(node:start())
node:handle("raise", function() error("raised") end)
node:handle("return", function() return nil, "returned" end)
for _ = 1, 50 do
  for _, name in ipairs({ "raise", "return" }) do
    local ok, _, err = node:call("n1", name)
    assert(not ok and err.kind == "http")
  end
end
node:stop()
"#;

fn handlers_that_raise_errors_log_no_more_than_the_limit() {
    let output = Command::new("luajit")
        .args(["-e", FAILING])
        .env("LUA_CPATH", "./target/lua/luajit/?.so;;")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("luajit runs");
    let log = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{log}");
    let count = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    let raised = count("a handler raised an error");
    // 10 within 10 s, which a busy machine may exceed.
    assert!((10..50).contains(&raised), "{log}");
    assert_eq!(count("returned"), 0, "{log}");
}

/// Makes clients and nodes whose configuration is valid and likely not meant, twice each.
const UNLIKELY: &str = r#"
local consul_ffi = require("consul_ffi")
local HighAvailabilityCluster = require("consistent_hash_cluster").HighAvailabilityCluster
for _ = 1, 2 do
  for _, endpoint in ipairs({ "localhost", "127.0.0.1:8500/v1", "127.0.0.1:8500" }) do
    consul_ffi.new({ endpoint = endpoint }):close()
  end
  consul_ffi.new({ timeout = 5, simulate = true }):close()
  HighAvailabilityCluster:new({
    node_id = "n1", endpoint = "127.0.0.1:1", token = "s3cret", cluster_key = "sixteen bytes or more", zone = "z",
    replicas = 3, weight = 2, replication_facter = 3, log_level = "INFO", data_address = "x", capacity = 0,
    block_size = 30, gossip_port = 1, seed_nodes = {}, [1] = 2, simulate = true,
  })
end
"#;

fn a_configuration_that_is_likely_not_meant_is_a_warning_once_with_the_right_name() {
    let output = Command::new("luajit")
        .args(["-e", UNLIKELY])
        .envs([("LUA_PATH", "./lua/?.lua;;"), ("LUA_CPATH", "./target/lua/luajit/?.so;;")])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("luajit runs");
    let log = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success() && !log.contains("s3cret"), "{log}");
    let wanted = [
        "the endpoint http://localhost has no port",
        "the endpoint http://127.0.0.1:8500/v1 ends in /v1",
        "timeout is 5 milliseconds",
        "HighAvailabilityCluster: the option endpoint has no effect here; likely meant: consul_endpoints",
        "the option token has no effect here; likely meant: cluster_options = { token = … }",
        "the option zone has no effect here; likely meant: cluster_options = { zone = … }",
        "the option replicas has no effect here; likely meant: replication_factor",
        "the option weight has no effect here; likely meant: capacity",
        "the option replication_facter has no effect here; likely meant: replication_factor",
        "the option log_level has no effect here; likely meant: cluster_options = { log_level = … }",
        "the option data_address has no effect here; likely meant: host and data_port",
    ];
    for wanted in wanted {
        let found = log.lines().filter(|line| line.contains(wanted) && line.contains(" WARN "));
        assert_eq!(found.count(), 1, "{wanted}\n{log}");
    }
    assert_eq!(log.lines().count(), wanted.len(), "{log}");
}

/// Has lines arise, with log functions that raise, yield, make calls, replace themselves and end the process, and
/// prints those that a function takes.
const OWN_LOG: &str = r#"
local consul_ffi = require("consul_ffi")
local function new(config)
  config.simulate = "own"
  return consul_ffi.new(config)
end
local function line(level, message)
  consul_ffi._internal.log(level, message)
end

new({ log_format = "json" })
line("WARN", 'a "line" as JSON')
new({ log_level = "OFF" })
line("ERROR", "at OFF")
new({ log_level = "INFO", log_format = "text", log = function() error({}) end })
line("INFO", "its function raises a table")
line("INFO", "it raises again")
new({ log = coroutine.yield })
coroutine.wrap(line)("INFO", "its function yields")
new({ log = function(_, message)
  print(message)
  line("INFO", "a line of the function's own")
  assert(new({ log_level = "DEBUG" }):kv_get("key"))
  new({ log_level = "INFO" })
end })
line("INFO", "first")
line("INFO", "second")
new({ log = function(_, message)
  print(message)
  new({ log = false })
  line("INFO", "without a function")
end })
line("INFO", "third")
new({ log = function(_, message)
  print(message)
  new({ log = function() end })
end })
line("INFO", "fourth")
new({ log = function() os.exit(0, true) end })
line("INFO", "its function ends the process")
"#;

fn what_the_programs_function_does_not_take_goes_to_standard_error() {
    let output = Command::new("luajit")
        .args(["-e", OWN_LOG])
        .env("LUA_CPATH", "./target/lua/luajit/?.so;;")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("luajit runs");
    let log = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{log}");
    let printed = String::from_utf8(output.stdout).expect("text");
    assert_eq!(printed, "first\nsecond\nthird\nfourth\n", "{log}");
    let (json, log) = log.split_once('\n').expect("lines");
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(json["message"], "a \"line\" as JSON");
    assert_eq!(
        (json["level"].as_str(), json["fields"].as_object().map(|it| it.len())),
        (Some("WARN"), Some(0))
    );
    let raised = "ERROR consul_ffi::runtime::log: the program's log function raised an error";
    let own = ["a line of the function's own", "kv_get"];
    let wanted = [
        &["its function raises a table", raised, "it raises again", "its function yields", raised]
            [..],
        &own,
        &own,
        &["without a function"],
    ];
    let wanted = wanted.concat();
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), wanted.len(), "{log}");
    for (line, wanted) in lines.iter().zip(wanted) {
        assert!(line.contains(wanted), "{wanted}\n{log}");
    }
}

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

/// The expected lines of the log: section, level and words.
type Wanted<'a> = &'a [(&'a str, &'a str, &'a str)];

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    add!(trials, each_log_level_has_its_lines_and_no_secret);
    add!(trials, what_the_programs_function_does_not_take_goes_to_standard_error);
    add!(trials, handlers_that_raise_errors_log_no_more_than_the_limit);
    add!(trials, a_configuration_that_is_likely_not_meant_is_a_warning_once_with_the_right_name);
    trials
}

fn each_log_level_has_its_lines_and_no_secret() {
    let consul = RealConsul::start_with_acl(SIM, "deny");
    let consul = consul.expect("consul-sim runs");
    let lost = ("loss", "WARN", "the token file cannot be used");
    let new = ("rotation", "INFO", "the token file changed");
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
    says("success", &["DEBUG", "answered", "PUT /v1/kv/{key}", "attempts=1"]);
    says("success", &["DEBUG", "answered", "acl_token_create"]);
    says("failure", &["DEBUG", "failed", "kv_put", "ACL not found"]);
    says("failure", &["DEBUG", "failed", "http_request", "refused"]);
    says(new.0, &[new.1, new.2]);
    says(lost.0, &[lost.1, lost.2]);
}
