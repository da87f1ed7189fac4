//! The programs of Prometheus that check texts and rules.

use super::consul::say_skipped;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Parses a text as Prometheus' own client library for Python does, and fails for what it refuses.
const PARSE: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
parse = open_metrics if sys.argv[1] == 'openmetrics' else prometheus
families = list(parse(sys.stdin.read()))
assert families and all(family.type != 'unknown' for family in families), families
";

/// Fails with the reason if `promtool check metrics` has an objection to a text.
pub fn check_text(text: &str) {
    if let Some(mut promtool) = promtool() {
        feed(promtool.args(["check", "metrics"]), text);
    }
}

/// Fails with the reason if the parser of Prometheus' client library refuses a text in this format.
pub fn parse_text(format: &str, text: &str) {
    // Debian's packages are not for another Python.
    match ["/usr/bin/python3", "python3"].into_iter().find(|python| has_parser(python)) {
        Some(python) => feed(Command::new(python).args(["-c", PARSE, format]), text),
        None => say_skipped("the parser of Prometheus' texts", "no python3-prometheus-client"),
    }
}

fn has_parser(python: &str) -> bool {
    let import = Command::new(python).args(["-c", "import prometheus_client"]).output();
    import.is_ok_and(|output| output.status.success())
}

/// Fails with the reason if `promtool check rules` has an objection to a file.
pub fn check_rules(file: &Path) {
    if let Some(mut promtool) = promtool() {
        feed(promtool.args(["check", "rules"]).arg(file), "");
    }
}

/// Fails with what promtool says if the tests of rules in a file do not pass.
pub fn test_rules(file: &Path) {
    if let Some(mut promtool) = promtool() {
        feed(promtool.args(["test", "rules"]).arg(file), "");
    }
}

fn promtool() -> Option<Command> {
    if Command::new("promtool").arg("--version").output().is_ok() {
        return Some(Command::new("promtool"));
    }
    say_skipped("promtool's checks", "it is missing; it is in Debian's package prometheus");
    None
}

fn feed(command: &mut Command, text: &str) {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("a program");
    let mut input = child.stdin.take().expect("an input");
    input.write_all(text.as_bytes()).expect("it reads all");
    drop(input);
    let output = child.wait_with_output().expect("an end");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&said));
}
