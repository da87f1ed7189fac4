//! Real Consul servers for tests, started by `scripts/with-consul.sh`.

use crate::program::built;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The exit statuses of the script if this Consul is not available here, and without bash.
const CANNOT_BE_HAD: [i32; 2] = [3, 127];

/// The simulated agent behind a socket, in place of a version of Consul.
pub const SIM: &str = "consul-sim";

/// The program of this version (`1.21`, `1.8`, `consul-sim`), which is fetched if it is missing.
/// `Err` says why it is not available here.
pub fn binary(version: &str) -> Result<PathBuf, String> {
    if version == SIM {
        return Ok(built(SIM));
    }
    is_allowed(version)?;
    let script = Path::new(crate::root()).join("scripts/consul.sh");
    let output = Command::new(script).arg(version).output().expect("the script runs");
    if output.status.code().is_some_and(|code| CANNOT_BE_HAD.contains(&code)) {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let binary = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    assert!(output.status.success() && binary.exists(), "scripts/consul.sh: {output:?}");
    Ok(binary)
}

/// Whether only the tests of `make test` run, which start no server that would have to be downloaded.
pub fn is_quick() -> bool {
    std::env::var_os("PART").is_some_and(|part| part == "quick")
}

/// `Err` for a real Consul where only the tests of `make test` run.
fn is_allowed(version: &str) -> Result<(), String> {
    if version != SIM && is_quick() {
        return Err("make test starts no real Consul; make test-all does".to_owned());
    }
    Ok(())
}

/// Whether the Consul of this version is not available here; if so, reports `what` as skipped, unless another part of the
/// tests has it.
pub fn is_missing(version: &str, what: &str) -> bool {
    let say = |why: &String| {
        if is_allowed(version).is_ok() {
            say_skipped(what, why);
        }
    };
    binary(version).inspect_err(say).is_err()
}

/// Reports a skipped test and the reason on standard error, past the capture of the test runner.
pub fn say_skipped(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: {why}");
}

/// The script that runs a command with a fresh Consul of this version, with these options.
pub fn script(version: &str, options: &[&str]) -> Result<Command, String> {
    is_allowed(version)?;
    let script = Path::new(crate::root()).join("scripts/with-consul.sh");
    let mut script = Command::new(script);
    script.args(options);
    if version == SIM {
        script.env("CONSUL_BIN", binary(SIM)?).arg("1.21");
    } else {
        script.arg(version);
    }
    Ok(script)
}

/// A running Consul in dev mode; it ends when this is dropped, and also when this process dies.
pub struct RealConsul {
    /// Its address, `127.0.0.1:port`.
    pub address: String,
    /// Where it is asked by DNS, `127.0.0.1:port`.
    pub dns: String,
    /// The secret of its management token; empty when it has no ACLs.
    pub token: String,
    script: Child,
}

impl RealConsul {
    /// Starts the Consul of this version (`1.21`, `1.8`, `consul-sim`). `Err` says why it is
    /// not available.
    pub fn start(version: &str) -> Result<RealConsul, String> {
        Self::run(version, &[])
    }

    /// Starts the Consul of this version with ACLs and this default policy (`allow`, `deny`).
    pub fn start_with_acl(version: &str, policy: &str) -> Result<RealConsul, String> {
        Self::run(version, &["--acl", policy])
    }

    /// Starts the Consul of this version, also with the configuration in this file.
    pub fn start_with_config(version: &str, file: &str) -> Result<RealConsul, String> {
        Self::run(version, &["--config", file])
    }

    /// Starts the Consul of this version with these options of the script.
    pub fn run(version: &str, options: &[&str]) -> Result<RealConsul, String> {
        let mut command = script(version, options)?;
        let mut script = command
            // The command lives until its input is closed.
            .args([
                "sh",
                "-c",
                "echo \"$CONSUL_HTTP_ADDR $CONSUL_DNS_ADDR $CONSUL_HTTP_TOKEN\"; cat",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the script runs");
        let mut line = String::new();
        let stdout = script.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the script's output can be read");
        if let [address, dns, token] =
            line.trim_end_matches('\n').split(' ').collect::<Vec<_>>()[..]
        {
            let [address, dns, token] = [address, dns, token].map(str::to_owned);
            return Ok(RealConsul { address, dns, token, script });
        }
        let mut said = String::new();
        if let Some(mut stderr) = script.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        let status = script.wait().expect("the script ends");
        match status.code() {
            Some(code) if CANNOT_BE_HAD.contains(&code) => Err(said.trim().to_owned()),
            _ => panic!("Consul {version} did not start: {said}"),
        }
    }
}

impl Drop for RealConsul {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}
