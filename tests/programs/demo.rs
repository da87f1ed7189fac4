//! The demo prints the same on the simulated agent and on real Consuls, and leaves nothing.

use crate::support::consul;
use crate::support::program;
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use std::process::Output;

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    for version in ["1.21", "1.8"] {
        let missing = consul::is_missing(version, &format!("the demo on Consul {version}"));
        let name = format!("the_output_is_the_same_on_each_consul [{version}]");
        trials.add_unless(missing, name, || the_output_is_the_same_on_each_consul(version));
        let name = format!("it_leaves_nothing_behind [{version}]");
        trials.add_unless(missing, name, || it_leaves_nothing_behind(version));
    }
    trials
}

fn the_output_is_the_same_on_each_consul(version: &str) -> Result<(), Failed> {
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

/// The demo's output without its first line, which names the Consul, and its last one, which
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
