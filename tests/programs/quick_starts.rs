//! The quick starts print what they show (quick-start.sh).

use crate::nginx;
use crate::support::consul;
use crate::support::outside::outside_cargo;
use crate::support::pages::{blocks, read};
use crate::support::program::{built, errors, modules, text};
use crate::support::recipes::compare;
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use std::process::{Command, Stdio};

/// The quick start that needs nginx, and the others.
const GATEWAY: &str = "openresty";
const OTHERS: [&str; 3] = ["operators", "tests", "tsdb"];

/// The exit status of the script when it can have no namespaces.
const UNAVAILABLE: i32 = 3;

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let is_missing = nginx::unpacked().is_none();
    trials.add_unless(is_missing, format!("it_prints_what_it_shows [{GATEWAY}]"), || {
        it_prints_what_it_shows(GATEWAY)
    });
    for name in OTHERS {
        let trial = format!("it_prints_what_it_shows [{name}]");
        trials.add(trial, move || it_prints_what_it_shows(name));
    }
    trials
}

fn it_prints_what_it_shows(name: &str) -> Result<(), Failed> {
    let page = format!("docs/quick-start-{name}.md");
    built("consul-ha");
    let mut script = Command::new("tests/programs/quick-start.sh");
    let script = outside_cargo(&mut script)
        .arg(&page)
        .current_dir(crate::support::root())
        .env("PROGRAMS", built("consul-sim").parent().ok_or("no folder")?)
        .env("LUA_PATH", "./lua/?.lua;;")
        .env("LUA_CPATH", format!("{}/luajit/?.so;;", modules().display()))
        .stdin(Stdio::null());
    if name == GATEWAY {
        script.env("NGINX_FOLDER", nginx::unpacked().ok_or("there is no nginx")?);
    }
    let output = script.output()?;
    if output.status.code() == Some(UNAVAILABLE) {
        consul::say_skipped(&page, errors(&output).trim());
        return Ok(());
    }
    let printed = text(&output);
    if !output.status.success() {
        return Err(format!("{}: {printed}\n{}", output.status, errors(&output)).into());
    }
    let texts = blocks(&read(&page)).into_iter().filter(|(language, _)| language == "text");
    let shown: Vec<String> = texts.map(|(_, block)| block).collect();
    Ok(compare(&shown.join("\n"), &printed)?)
}
