//! The demo tells the same story on the simulated agent and on real Consuls, and leaves nothing.

#[allow(dead_code)]
#[path = "support/consul.rs"]
mod consul;
#[path = "support/outside.rs"]
mod outside;

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::{Command, Output};

fn main() {
    let mut trials = Vec::new();
    for version in ["1.21", "1.8"] {
        let missing = consul::is_missing(version, &format!("the demo on Consul {version}"));
        let mut add = |name: &str, run: fn(&str) -> Result<(), Failed>| {
            let trial = Trial::test(format!("{name} [{version}]"), move || run(version));
            trials.push(trial.with_ignored_flag(missing));
        };
        add("the_account_is_the_same", the_account_is_the_same);
        add("it_leaves_nothing_behind", it_leaves_nothing_behind);
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn the_account_is_the_same(version: &str) -> Result<(), Failed> {
    let simulated = account(&demo(None)?)?;
    let real = account(&demo(Some(version))?)?;
    if simulated == real && simulated.len() > 20 {
        return Ok(());
    }
    Err(format!("simulated:\n{}\non {version}:\n{}", simulated.join("\n"), real.join("\n")).into())
}

fn it_leaves_nothing_behind(version: &str) -> Result<(), Failed> {
    let left = "local c = require('consul_ffi').new() \
        local _, keys = c:kv_keys('consul_ffi-demo') \
        local _, services = c:agent_services() \
        local _, sessions = c:session_list() \
        print(#keys, next(services), #sessions)";
    let script = format!("luajit examples/demo.lua >&2 && luajit -e \"{left}\"");
    let output = Command::new("scripts/with-consul.sh")
        .args([version, "sh", "-c", &script])
        .env("LUA_CPATH", "./target/lua/luajit/?.so;;")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    let found = String::from_utf8_lossy(&output.stdout);
    if found.trim() == "0\tnil\t0" {
        return Ok(());
    }
    Err(format!("left: {found}\n{}", String::from_utf8_lossy(&output.stderr)).into())
}

fn demo(consul: Option<&str>) -> std::io::Result<Output> {
    let mut make = Command::new("make");
    make.arg("--no-print-directory").arg("demo");
    make.args(consul.map(|version| format!("CONSUL={version}")));
    make.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("CONSUL_HTTP_ADDR");
    outside::outside_cargo(&mut make).output()
}

/// The demo's account without its first line, which names the Consul, and its last one, which
/// names the next command.
fn account(output: &Output) -> Result<Vec<String>, Failed> {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().skip_while(|line| !line.starts_with("consul_ffi "));
    let mut lines: Vec<_> = lines.skip(1).map(str::to_owned).collect();
    let last = lines.pop().unwrap_or_default();
    if output.status.success() && last.contains("make ") {
        return Ok(lines);
    }
    Err(format!("{text}\n{}", String::from_utf8_lossy(&output.stderr)).into())
}
