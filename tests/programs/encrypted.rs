//! Mutual TLS between nodes, as Lua programs configure it.

use crate::support::authority::{Authority, Folder};
use crate::support::trials::{Trials, add};
use libtest_mimic::Failed;
use std::path::Path;
use std::process::Command;

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    add!(trials, nodes_of_lua_and_of_a_toml_file_encrypt_their_calls);
    trials
}

fn nodes_of_lua_and_of_a_toml_file_encrypt_their_calls() -> Result<(), Failed> {
    let (authority, folder) = (Authority::new("cluster"), Folder::new());
    let identity = authority.sign(&["node"]);
    let certificate = folder.file("cert.pem", identity.certificate);
    let (key, ca) = (folder.file("key.pem", identity.key), folder.file("ca.pem", authority.pem()));
    let toml = format!(
        "[security]\nencrypt_traffic = true\n\n[security.data_tls]\ncert_file = {certificate:?}\nkey_file = {key:?}\nca_file = {ca:?}\n"
    );
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("luajit")
        .arg("tests/programs/encrypted.lua")
        .current_dir(project)
        .env("LUA_PATH", "./lua/?.lua;;")
        .env("LUA_CPATH", project.join("target/lua/luajit/?.so"))
        .env_remove("CONSUL_HTTP_ADDR")
        .envs([("CERT", &certificate), ("KEY", &key), ("CA", &ca)])
        .env("TOML", folder.file("options.toml", toml))
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
}
