//! HashiCorp's own Go client sees the same on consul-sim as on real Consuls: the program in
//! `tests/interop` tells what it sees, and its accounts are compared.
//!
//! `scripts/with-consul.sh 1.21 sh -c 'cd tests/interop && go run .'` prints one of them.

#[allow(dead_code)]
#[path = "support/consul.rs"]
mod consul;

use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Most of an account is waiting.
const THREADS: usize = 4;

/// The account of consul-sim without and with ACLs, which the comparisons with all versions need.
static SIMULATED: [OnceLock<Result<String, String>>; 2] = [const { OnceLock::new() }; 2];

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let what = "the official Go client on consul-sim";
    let program = program();
    if let Err(Missing::Skipped(why)) = &program {
        consul::say_skipped(what, why);
    }
    let mut trials = Vec::new();
    for version in ["1.21", "1.8"] {
        let missing = matches!(program, Err(Missing::Skipped(_)))
            || consul::is_missing(version, &format!("{what} and on Consul {version}"));
        for (acl, name) in [
            (false, "the_go_client_sees_the_same"),
            (true, "the_go_client_sees_the_same_where_acls_are_enforced"),
        ] {
            let program = program.clone();
            let trial = Trial::test(format!("{name} [{version}]"), move || {
                the_go_client_sees_the_same(&program?, version, acl)
            });
            trials.push(trial.with_ignored_flag(missing));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// Why there is no program.
#[derive(Clone)]
enum Missing {
    /// What it needs cannot be had here.
    Skipped(String),
    Broken(String),
}

impl From<Missing> for Failed {
    fn from(missing: Missing) -> Self {
        let (Missing::Skipped(why) | Missing::Broken(why)) = missing;
        why.into()
    }
}

/// Builds the program.
fn program() -> Result<PathBuf, Missing> {
    if consul_sim().is_none() {
        return Err(Missing::Skipped("built without the feature server".to_owned()));
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    let go = |arguments: &[&str]| {
        let mut go = Command::new("go");
        go.args(arguments).current_dir(root().join("tests/interop")).env("GOWORK", "off");
        match go.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(said(&output)),
            Err(error) => Err(format!("go: {error}")),
        }
    };
    go(&["version"]).map_err(Missing::Skipped)?;
    go(&["mod", "download"]).map_err(Missing::Skipped)?;
    go(&["build", "-o", &program.to_string_lossy(), "."]).map_err(Missing::Broken)?;
    Ok(program)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn consul_sim() -> Option<&'static str> {
    option_env!("CARGO_BIN_EXE_consul-sim")
}

fn the_go_client_sees_the_same(program: &Path, version: &str, acl: bool) -> Result<(), Failed> {
    let real = account(program, version, None, acl)?;
    let simulated = &SIMULATED[usize::from(acl)];
    let simulated =
        simulated.get_or_init(|| account(program, "1.21", consul_sim(), acl)).clone()?;
    if simulated == real && real.ends_with("the end\n") && real.contains("# tokens") == acl {
        return Ok(());
    }
    Err(format!("on consul-sim:\n{simulated}\non {version}:\n{real}").into())
}

/// What the program tells of a fresh Consul, or of `consul` in its place.
fn account(
    program: &Path,
    version: &str,
    consul: Option<&str>,
    acl: bool,
) -> Result<String, String> {
    let mut script = Command::new(root().join("scripts/with-consul.sh"));
    script.args(acl.then_some(["--acl", "deny"]).iter().flatten());
    script.arg(version).arg(program).envs(consul.map(|consul| ("CONSUL_BIN", consul)));
    let output = script.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(said(&output)),
    }
}

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}").trim().to_owned()
}
