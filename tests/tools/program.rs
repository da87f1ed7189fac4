//! A run of the program.

use serde_json::Value;
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// Everything that the program has printed in this process, for the search for secrets.
pub static PRINTED: Mutex<String> = Mutex::new(String::new());

/// What a run has printed, and its exit status.
#[derive(Debug)]
pub struct Run {
    pub out: String,
    pub err: String,
    pub status: i32,
}

impl Run {
    pub fn of(arguments: &[&str], environment: &[(&str, &str)]) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_consul-ha"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CONSUL_")) {
            command.env_remove(name);
        }
        command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let run = Run {
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
            status: output.status.code().unwrap(),
        };
        let mut printed = PRINTED.lock().unwrap();
        printed.push_str(&run.out);
        printed.push_str(&run.err);
        run
    }

    /// The standard output of a success.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "{self:?}");
        self.out
    }

    /// The JSON of a success.
    #[track_caller]
    pub fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// Requires a refusal with this status and these words.
    #[track_caller]
    pub fn refused(self, status: i32, words: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word}: {self:?}");
        }
    }
}
