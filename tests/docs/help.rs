//! Each program says what it is: its version, its verbs, and what each flag means, on standard output, with status 0.

use super::support::program::built;
use std::process::{Command, Stdio};

/// The programs, and how their verbs, which are in the help, are asked for theirs.
const PROGRAMS: [(&str, &[&str]); 4] = [
    ("consul-sim", &["-help", "--help", "-h"]),
    ("consul-ha", &["--help", "-h"]),
    ("consul-migrate", &["--help", "-h"]),
    ("consul-guard", &[]),
];

/// The output of a program; it succeeds, and has nothing to complain about.
#[track_caller]
fn said(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(built(program));
    let output = command.args(arguments).stdin(Stdio::null()).output().expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{program} {arguments:?}: {errors}");
    assert!(errors.is_empty() && !output.stdout.is_empty(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The flags and arguments in a help that nothing explains: no words after two spaces, nor below and further in.
fn unexplained(help: &str) -> Vec<&str> {
    let lines: Vec<_> = help.lines().filter(|line| !line.trim().is_empty()).collect();
    let is_name = |line: &str| {
        let text = line.trim_start();
        // `- ` begins one of the possible values.
        let is_flag = text.starts_with('-') && !text.starts_with("- ");
        indent(line) > 0 && (is_flag || text.starts_with('<') && text.ends_with('>'))
    };
    let is_explained = |place: usize| {
        let has_words = |text: &str| text.chars().filter(|it| it.is_alphabetic()).count() > 2;
        let beside = lines[place].trim_start().split_once("  ").is_some_and(|it| {
            let text = it.1.trim_start();
            !text.starts_with('[') && has_words(text)
        });
        let below = lines.get(place + 1).is_some_and(|next| {
            indent(next) > indent(lines[place]) && !next.trim_start().starts_with(['[', '-'])
        });
        beside || below
    };
    let names = (0..lines.len()).filter(|place| is_name(lines[*place]));
    names.filter(|place| !is_explained(*place)).map(|place| lines[place]).collect()
}

#[test]
fn every_program_and_every_verb_explains_every_flag() {
    for (program, of_verbs) in PROGRAMS {
        let help = said(program, &["--help"]);
        assert!(help.contains(program), "{help}");
        assert_eq!(unexplained(&help), Vec::<&str>::new(), "{program}");
        for words in [["-h"], ["help"]] {
            assert!(said(program, &words).contains(program), "{program} {words:?}");
        }
        let verbs: Vec<&str> = match program {
            "consul-sim" => vec!["agent", "version"],
            "consul-guard" => Vec::new(),
            _ => {
                let (_, verbs) = help.split_once("\nCommands:\n").expect("verbs");
                let verbs = verbs.lines().take_while(|line| !line.is_empty());
                let verbs = verbs.filter_map(|line| line.split_whitespace().next());
                verbs.filter(|verb| *verb != "help").collect()
            }
        };
        assert!(verbs.len() > 10 || !["consul-ha", "consul-migrate"].contains(&program));
        for verb in verbs {
            for word in of_verbs {
                let help = said(program, &[verb, word]);
                assert_eq!(unexplained(&help), Vec::<&str>::new(), "{program} {verb} {word}");
            }
        }
    }
}

#[test]
fn every_program_has_a_version() {
    for (program, _) in PROGRAMS {
        for word in ["--version", "-V"] {
            let text = said(program, &[word]);
            assert!(text.contains(&format!("{program} {}", env!("CARGO_PKG_VERSION"))), "{text}");
        }
    }
    for words in [["version"], ["-version"]] {
        assert_eq!(said("consul-sim", &words), said("consul-sim", &["--version"]));
    }
}
