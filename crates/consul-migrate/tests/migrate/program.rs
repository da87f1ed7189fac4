//! Runs of the program.

use super::etcd::{Etcd, Gateway};
pub use crate::support::PATIENCE;
use crate::support::consul::RealConsul;
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The verbs that need both servers.
pub const VERBS: [&[&str]; 7] = [
    &["plan"],
    &["copy"],
    &["tail"],
    &["verify"],
    &["cutover", "--yes"],
    &["rollback", "--yes"],
    &["status"],
];

/// Both servers, for one test.
pub struct Servers {
    pub etcd: Etcd,
    /// The addresses of Consul's servers.
    pub consul: Vec<String>,
    /// The variables of the program.
    pub environment: Vec<(&'static str, String)>,
    /// The server that ends with this test; others start theirs.
    _consul: Option<RealConsul>,
}

/// The output of a run, and its exit status.
#[derive(Debug)]
pub struct Run {
    pub out: String,
    pub err: String,
    pub status: i32,
}

impl Servers {
    pub fn start(name: &str, version: &str) -> Servers {
        let etcd = Etcd::start(&format!("{name}-{version}"));
        Servers::beside(etcd, RealConsul::start(version).unwrap())
    }

    pub fn beside(etcd: Etcd, consul: RealConsul) -> Servers {
        let mut servers = Servers::of(etcd, vec![consul.address.clone()]);
        servers._consul = Some(consul);
        servers
    }

    /// Servers that are there already.
    pub fn of(etcd: Etcd, consul: Vec<String>) -> Servers {
        Servers { etcd, consul, environment: Vec::new(), _consul: None }
    }

    /// The program, with nothing of the environment of the test.
    pub fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_consul-migrate"));
        for (name, _) in std::env::vars() {
            if name.starts_with("CONSUL_") || name.starts_with("ETCDCTL_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(["--etcd", &self.etcd.urls()]);
        command.args(self.consul.iter().map(|address| format!("--http-addr={address}")));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Run {
        let output = self.program(arguments).output().unwrap();
        Run {
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
            status: output.status.code().unwrap(),
        }
    }

    /// A run that goes on in the background.
    pub fn start_run(&self, arguments: &[&str]) -> Running {
        let mut command = self.program(arguments);
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// The record of the job; null if there is none.
    pub fn record(&self) -> Value {
        let run = self.run(&["status", "--json"]);
        let said: Value = serde_json::from_str(&run.out).unwrap_or_default();
        said["record"].clone()
    }

    /// Consul, for requests of the test itself.
    pub fn consul(&self) -> Gateway {
        Gateway::new(&[&format!("http://{}", self.consul[0])])
    }

    /// The bytes of a key in Consul.
    pub fn stored(&self, key: &str) -> Option<Vec<u8>> {
        let path = format!("/v1/kv/{key}?raw");
        let (status, body) = self.consul().send("GET", &path, "").unwrap();
        (status == 200).then_some(body)
    }

    /// Waits until the tail has applied all that etcd has now.
    #[track_caller]
    pub fn wait_for_tail(&self) {
        let (end, wanted) = (Instant::now() + PATIENCE, self.etcd.gateway().revision());
        loop {
            let record = self.record();
            if record["phase"] == "tail" && record["revision"].as_u64() > Some(wanted) {
                return;
            }
            assert!(Instant::now() < end, "{wanted}: {record}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Run {
    /// The standard output of a success.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "{self:?}");
        self.out
    }

    /// Requires this status and these words.
    #[track_caller]
    pub fn ends(self, status: i32, words: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        for word in words {
            assert!(self.err.contains(word) || self.out.contains(word), "{word}: {self:?}");
        }
    }
}

/// A run in the background; it is killed when this is dropped.
pub struct Running(Child);

impl Running {
    /// Kills it without notice.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    pub fn signal(&self, signal: &str) {
        let flag = format!("-{signal}");
        // It may have ended already.
        let _ = Command::new("kill")
            .args([&flag, &self.0.id().to_string()])
            .stderr(Stdio::null())
            .status();
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Run {
        let end = Instant::now() + PATIENCE;
        while !self.has_ended() {
            assert!(Instant::now() < end, "it goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
        let read = |from: Option<&mut dyn std::io::Read>| {
            let mut text = String::new();
            from.unwrap().read_to_string(&mut text).unwrap();
            text
        };
        let out = read(self.0.stdout.as_mut().map(|it| it as _));
        let err = read(self.0.stderr.as_mut().map(|it| it as _));
        Run { out, err, status: self.0.wait().unwrap().code().unwrap_or(-1) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
