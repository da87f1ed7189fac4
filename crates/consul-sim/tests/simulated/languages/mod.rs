//! Programs in other languages print the same on consul-sim as on Consul 1.21: a client of each language, and a program that does
//! with it what its users do. With `LONG` also those that `make test-all` leaves out.

use crate::commands::without_accidents;
use crate::interop::Missing;
use crate::support::authority::Folder;
use crate::support::consul;
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use std::path::Path;
use std::process::Command;

/// A program, by its language, the variable that names the folder of the client, and its command.
struct Program {
    language: &'static str,
    variable: &'static str,
    command: &'static [&'static str],
}

const PROGRAMS: &[Program] = &[
    Program { language: "python", variable: "PYTHONPATH", command: &["python3", "client.py"] },
    Program { language: "node", variable: "NODE_PATH", command: &["node", "client.js"] },
    Program { language: "java", variable: "CLASSPATH", command: &["java", "Client.java"] },
];

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    if consul::is_quick() {
        return trials;
    }
    let missing = |version| consul::is_missing(version, "the programs in other languages");
    let missing = missing(consul::SIM) || missing("1.21");
    let all = std::env::var_os("LONG").is_some();
    for program in if all { PROGRAMS } else { &PROGRAMS[..1] } {
        let client = client(program.language);
        if let Err(Missing::Skipped(why)) = &client {
            consul::say_skipped(&format!("a program in {}", program.language), why);
        }
        let missing = missing || matches!(client, Err(Missing::Skipped(_)));
        let name = format!("a_program_prints_the_same [{} 1.21]", program.language);
        trials.add_unless(missing, name, move || a_program_prints_the_same(program, &client?));
    }
    trials
}

/// The folder of the client of a language.
fn client(language: &str) -> Result<String, Missing> {
    let script = Path::new(crate::support::root()).join("scripts/clients.sh");
    let output = Command::new(script).arg(language).output();
    let output = output.map_err(|error| Missing::Skipped(error.to_string()))?;
    let [printed, why] = [&output.stdout, &output.stderr]
        .map(|text| String::from_utf8_lossy(text).trim().to_owned());
    match output.status.code() {
        Some(0) => Ok(printed),
        Some(3) => Err(Missing::Skipped(why.lines().last().unwrap_or_default().to_owned())),
        _ => Err(Missing::Broken(why)),
    }
}

fn a_program_prints_the_same(program: &Program, client: &str) -> Result<(), Failed> {
    let real = printed("1.21", program, client)?;
    let simulated = printed(consul::SIM, program, client)?;
    if real == simulated && real.ends_with("\nthe end\n") {
        return Ok(());
    }
    let differences: String = real
        .lines()
        .zip(simulated.lines())
        .filter(|(real, simulated)| real != simulated)
        .map(|(real, simulated)| format!("1.21: {real}\nsim:  {simulated}\n"))
        .collect();
    let ends = [&real, &simulated].map(|text| text.lines().last().unwrap_or_default());
    Err(format!("{differences}the last lines: {ends:?}").into())
}

/// The output of a program with a fresh Consul of this version.
fn printed(version: &str, program: &Program, client: &str) -> Result<String, Failed> {
    let folder = Folder::new();
    let config = folder.file("node.json", r#"{"node_name": "n1"}"#);
    let output = consul::script(version, &["--config", &config])?
        .args(["timeout", "600"])
        .args(program.command)
        .env(program.variable, client)
        .current_dir(
            Path::new(crate::support::root()).join("crates/consul-sim/tests/simulated/languages"),
        )
        .output()?;
    let [text, errors] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
    match output.status.success() {
        true => Ok(without_accidents(&text)),
        false => Err(format!("{version}: {}: {text}{errors}", output.status).into()),
    }
}
