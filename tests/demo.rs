//! The demo tells the same story on the simulated agent and on real Consuls, and leaves nothing.

#[allow(dead_code)]
#[path = "support/consul.rs"]
mod consul;
#[path = "support/outside.rs"]
mod outside;
#[allow(dead_code)]
#[path = "support/program.rs"]
mod program;

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::Output;

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
    program::leaves_nothing(version, "luajit examples/demo.lua", "consul_ffi-demo")
}

fn demo(consul: Option<&str>) -> std::io::Result<Output> {
    program::make("demo").args(consul.map(|version| format!("CONSUL={version}"))).output()
}

/// The demo's account without its first line, which names the Consul, and its last one, which
/// names the next command.
fn account(output: &Output) -> Result<Vec<String>, Failed> {
    let text = program::text(output);
    let lines = text.lines().skip_while(|line| !line.starts_with("consul_ffi "));
    let mut lines: Vec<_> = lines.skip(1).map(str::to_owned).collect();
    let last = lines.pop().unwrap_or_default();
    if output.status.success() && last.contains("make ") {
        return Ok(lines);
    }
    Err(format!("{text}\n{}", program::errors(output)).into())
}
