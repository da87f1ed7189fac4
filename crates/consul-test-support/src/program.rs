//! Programs that make runs, their output, and the data that they leave.

use super::consul::is_quick;
use super::outside::outside_cargo;
use libtest_mimic::Failed;
use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// The path of one of our programs, each in the package of its name: consul-sim, consul-guard, consul-ha or consul-migrate.
/// Cargo builds it, unless scripts/test.sh has built all of them with the tests.
///
/// # Panics
/// If cargo cannot build it.
pub fn built(program: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    if let Some(folder) = env::var_os("PROGRAMS") {
        return Path::new(&folder).join(program);
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = built.get(program) {
        return path.clone();
    }
    let test = env::current_exe().expect("the path of the test");
    let folder = test.parent().and_then(Path::parent).expect("the folder of the profile");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--package", program, "--bin", program, "--target-dir"]);
    cargo.arg(folder.parent().expect("the folder of builds"));
    let done = outside_cargo(cargo.current_dir(crate::root())).status().expect("cargo runs");
    assert!(done.success(), "cargo cannot build {program}: {done}");
    let path = folder.join(program);
    built.insert(program.to_owned(), path.clone());
    path
}

/// `make` with a target, without a Consul in the environment.
pub fn make(target: &str) -> Command {
    let mut make = Command::new("make");
    // Without QUICK: the modules that other tests use, too.
    make.args(["--no-print-directory", target, "QUICK="]).current_dir(crate::root());
    for name in ["CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN"] {
        make.env_remove(name);
    }
    make.env("CONSUL_SIM", built("consul-sim"));
    outside_cargo(&mut make);
    make
}

/// The folder with the modules for the engines: the modules of `make test` are not optimised.
pub fn modules() -> PathBuf {
    let folder = if is_quick() { "target/lua-quick" } else { "target/lua" };
    Path::new(crate::root()).join(folder)
}

/// The standard output of a program.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Its standard error.
pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A failure with both outputs.
pub fn failed(why: &str, output: &Output) -> Result<(), Failed> {
    Err(format!("{why}\n{}\n{}", text(output), errors(output)).into())
}

/// Whether a program succeeds and prints all these parts, in this order.
pub fn tells(command: &mut Command, account: &[&str]) -> Result<(), Failed> {
    let output = command.output()?;
    if !output.status.success() {
        return failed(&output.status.to_string(), &output);
    }
    let text = text(&output);
    let mut rest = &*text;
    for part in account {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return failed(&format!("missing, or not in its place: {part}"), &output),
        }
    }
    Ok(())
}

/// Whether a shell command succeeds on a real Consul of this version and leaves nothing: no key below
/// `prefix`, no service except Consul's own, no session. A thing that a program cannot end within its last second, as
/// on a busy machine, may be there until it expires.
pub fn leaves_nothing(version: &str, command: &str, prefix: &str) -> Result<(), Failed> {
    let left = format!(
        "local c = require('consul_ffi').new() \
        local keys, services, sessions, _ \
        for _ = 1, 120 do \
            _, keys = c:kv_keys('{prefix}') \
            _, services = c:agent_services() \
            _, sessions = c:session_list() \
            if #keys + #sessions == 0 and not next(services) then break end \
            os.execute('sleep 1') \
        end \
        print(#keys, next(services), #sessions)"
    );
    let script = format!("{command} >&2 && luajit -e \"{left}\"");
    let mut command = Command::new("scripts/with-consul.sh");
    command.args([version, "sh", "-c", &script]).env("LUA_CPATH", "./target/lua/luajit/?.so;;");
    command.current_dir(crate::root());
    let output = outside_cargo(&mut command).output()?;
    if output.status.success() && text(&output).trim() == "0\tnil\t0" {
        return Ok(());
    }
    failed("keys, services and sessions that are left:", &output)
}
