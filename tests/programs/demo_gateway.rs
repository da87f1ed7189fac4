//! The demo of the gateway comes to its end with all requests answered, and leaves nothing, also when it is ended.

use crate::nginx;
use crate::support::outside::outside_cargo;
use crate::support::program;
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

/// The parts of the output, in this order; between them are figures.
const ACCOUNT: &[&str] = &[
    " as a gateway to web and to api, which have two instances each",
    "  web: 200 requests, 200 answered with 200: ",
    "  api: 200 requests, 200 answered with 200: ",
    "web-1 is killed (kill -9), and Consul does not know it",
    "  web: 200 requests, 200 answered with 200: 200 by web-2",
    "  web-1 is ejected",
    "Consul is killed (kill -9)",
    "  api: 200 requests, 200 answered with 200: ",
    "  Consul confirmed the list of web ",
    "nginx is reloaded during requests, and Consul is still away",
    "  web: 200 requests, 200 answered with 200: 200 by web-2",
    "  web: 200 requests, 200 answered with 200: 200 by web-2",
    "nginx is stopped and started again, and Consul is still away",
    "  web: 200 requests, 200 answered with 200: 200 by web-2",
    "  consul_ffi: starts with ",
    " requests were answered with 200",
    "Left behind: nothing",
];

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let is_missing = nginx::unpacked().is_none();
    trials.add_unless(is_missing, "the_demo_of_a_gateway_comes_to_its_end", || {
        program::tells(&mut program::make("demo-gateway"), ACCOUNT)
    });
    trials.add_unless(
        is_missing,
        "the_demo_of_a_gateway_leaves_nothing_when_it_is_ended",
        is_ended,
    );
    trials
}

fn is_ended() -> Result<(), Failed> {
    let folder = std::env::temp_dir().join(format!("consul_ffi-ended.{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let mut command = Command::new("examples/openresty/demo.sh");
    let mut demo = outside_cargo(&mut command)
        .current_dir(crate::support::root())
        .env("TMPDIR", &folder)
        .env("CONSUL_SIM", program::built("consul-sim"))
        .env("LUA_CPATH", format!("{}/luajit/?.so;;", program::modules().display()))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(demo.stdout.take().ok_or("no output")?).lines();
    lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("is killed")));
    // Not SIGINT, which a process has to ignore that a script has started in the background.
    Command::new("kill").args(["-s", "TERM", &demo.id().to_string()]).status()?;
    let status = demo.wait()?;
    let left = fs::read_dir(&folder)?.count();
    let running = running_with(&folder.display().to_string())?;
    if status.code() != Some(143) || left > 0 || !running.is_empty() {
        return Err(format!("{status}, {left} folders, {running:?}").into());
    }
    Ok(fs::remove_dir_all(&folder)?)
}

/// The command lines of the processes that have this text in them.
fn running_with(text: &str) -> Result<Vec<String>, Failed> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc")? {
        // Others end meanwhile.
        let line = fs::read_to_string(process?.path().join("cmdline")).unwrap_or_default();
        if line.contains(text) {
            found.push(line);
        }
    }
    Ok(found)
}
