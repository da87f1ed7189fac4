//! Real Consul servers for tests, by `scripts/with-consul.sh`, which knows how to get and run one.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The exit status of the script when this Consul cannot be had here.
const CANNOT_BE_HAD: i32 = 3;

/// The program of this version (`1.21`, `1.8`), got first if need be. `Err` says why it cannot be had
/// here.
pub fn binary(version: &str) -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/consul.sh");
    let output = Command::new(script).arg(version).output().expect("the script runs");
    if output.status.code() == Some(CANNOT_BE_HAD) {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let binary = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    assert!(output.status.success() && binary.exists(), "scripts/consul.sh: {output:?}");
    Ok(binary)
}

/// Whether the Consul of this version cannot be had here; then says that `what` is skipped.
pub fn is_missing(version: &str, what: &str) -> bool {
    binary(version).inspect_err(|why| say_skipped(what, why)).is_err()
}

/// Says aloud what is not tested, and why.
#[allow(clippy::print_stderr)]
pub fn say_skipped(what: &str, why: &str) {
    eprintln!("SKIPPED: {what}: {why}");
}

/// A running Consul in dev mode; it ends when this is dropped, and also when this process dies.
pub struct RealConsul {
    /// Its address, `127.0.0.1:port`.
    pub address: String,
    /// The secret of its management token; empty when it has no ACLs.
    pub token: String,
    script: Child,
}

impl RealConsul {
    /// Starts the Consul of this version (`1.21`, `1.8`). `Err` says why it cannot be had.
    pub fn start(version: &str) -> Result<RealConsul, String> {
        Self::run(version, &mut Self::script())
    }

    /// Starts the Consul of this version with ACLs and this default policy (`allow`, `deny`).
    pub fn start_with_acl(version: &str, policy: &str) -> Result<RealConsul, String> {
        Self::run(version, Self::script().args(["--acl", policy]))
    }

    /// Starts the Consul of this version with the configuration in this file too.
    pub fn start_with_config(version: &str, file: &str) -> Result<RealConsul, String> {
        Self::run(version, Self::script().args(["--config", file]))
    }

    /// Starts this program in place of Consul 1.21 with ACLs and this default policy.
    pub fn start_program_with_acl(program: &str, policy: &str) -> Result<RealConsul, String> {
        let mut script = Self::script();
        Self::run("1.21", script.env("CONSUL_BIN", program).args(["--acl", policy]))
    }

    /// Starts this program in place of Consul 1.21.
    pub fn start_program(program: &str) -> Result<RealConsul, String> {
        // Else the script would start another Consul in its place.
        if !Path::new(program).exists() {
            return Err(format!("{program} is not built; it needs the feature server"));
        }
        Self::run("1.21", Self::script().env("CONSUL_BIN", program))
    }

    fn script() -> Command {
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/with-consul.sh"))
    }

    fn run(version: &str, script: &mut Command) -> Result<RealConsul, String> {
        let mut script = script
            // The command lives until its input is closed.
            .args([version, "sh", "-c", "echo \"$CONSUL_HTTP_ADDR $CONSUL_HTTP_TOKEN\"; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the script runs");
        let mut line = String::new();
        let stdout = script.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the script's output can be read");
        if let Some((address, token)) = line.trim_end_matches('\n').split_once(' ') {
            let (address, token) = (address.to_owned(), token.to_owned());
            return Ok(RealConsul { address, token, script });
        }
        let mut said = String::new();
        if let Some(mut stderr) = script.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        let status = script.wait().expect("the script ends");
        match status.code() {
            Some(CANNOT_BE_HAD) => Err(said.trim().to_owned()),
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
