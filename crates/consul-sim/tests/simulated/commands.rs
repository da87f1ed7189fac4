//! Consul's command line prints on consul-sim what it prints on Consul 1.21.

use crate::support::authority::Folder;
use crate::support::consul;
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use regex_lite::Regex;
use std::fmt::Write as _;

const COMMANDS: &str = include_str!("commands.txt");

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let missing = |version| consul::is_missing(version, "Consul's command line");
    trials.add_unless(
        missing(consul::SIM) || missing("1.21"),
        "the_command_line_prints_the_same [1.21]",
        the_command_line_prints_the_same,
    );
    trials
}

/// A command, and whether it prints something else on consul-sim.
struct Run<'a> {
    command: &'a str,
    differs: bool,
}

/// The commands above the line of dashes; with `COMMANDS=all` in the environment all of them.
fn commands() -> Vec<Run<'static>> {
    let short = COMMANDS.split("\n---").next().unwrap_or_default();
    let all = std::env::var("COMMANDS").is_ok_and(|which| which == "all");
    let (mut runs, mut differs) = (Vec::new(), false);
    for line in if all { COMMANDS } else { short }.lines() {
        if line.starts_with("# differs: ") {
            differs = true;
        } else if !line.starts_with(['#', '-']) {
            runs.push(Run { command: line, differs });
            differs = false;
        }
    }
    runs
}

fn the_command_line_prints_the_same() -> Result<(), Failed> {
    let runs = commands();
    let [real, simulated] = ["1.21", consul::SIM].map(|version| printed(version, &runs));
    let (real, simulated) = (real?, simulated?);
    let mut wrong = String::new();
    for (place, run) in runs.iter().enumerate() {
        let [real, simulated] = [&real, &simulated].map(|all| all.get(place));
        if real.is_none() || (real == simulated) == run.differs {
            writeln!(wrong, "{}\n1.21: {real:?}\nsim:  {simulated:?}", run.command)?;
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
}

/// The output of each command on a fresh Consul of this version, and its exit status.
fn printed(version: &str, runs: &[Run<'_>]) -> Result<Vec<String>, Failed> {
    let folder = Folder::new();
    let config = folder.file("node.json", r#"{"node_name": "n1"}"#);
    let commands: String = runs.iter().map(|run| format!("{}\n", run.command)).collect();
    let commands = folder.file("commands", commands);
    std::os::unix::fs::symlink(consul::binary("1.21")?, folder.path("consul"))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let each = "cd \"${0%/*}\"; while IFS= read -r command; do \
                    timeout 30 sh -c \"$command\" 2>&1 </dev/null; printf '%s\\n\\0' \"exit $?\"; \
                done <\"$0\"";
    let output = consul::script(version, &["--config", &config])?
        .args(["sh", "-c", each, &commands])
        .env("PATH", format!("{}:{path}", folder.path("").display()))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("{version}: {output:?}").into());
    }
    Ok(text.split_terminator('\0').map(without_accidents).collect())
}

/// The text without what differs from run to run: ids, indexes, times, ports and the width of columns.
pub fn without_accidents(text: &str) -> String {
    let replaced = [
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{8}\b", "<id>"),
        (r"\w+day, \d\d-\w{3}-\d\d \d\d:\d\d:\d\d UTC", "<time>"),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:<port>"),
        (r"\b(port|wan_join_port)=\d+", "$1=<port>"),
        (r#"([Ii]ndex(":|=|"?:? +)|Hash"?:? +|true +3 +)\d+"#, "$1<index>"),
        (r"\d+(\.\d+)? ?(µs|ms)\b", "<time>"),
        (r" +", " "),
    ];
    replaced.iter().fold(text.to_owned(), |text, (pattern, with)| {
        let pattern = Regex::new(pattern).expect("a pattern");
        pattern.replace_all(&text, *with).into_owned()
    })
}
