//! A run of the program.

pub use crate::support::PATIENCE;
use crate::support::outside::without_consul;
use crate::support::schema;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

/// Everything that the program has printed in this process, for the search for secrets.
pub static PRINTED: Mutex<String> = Mutex::new(String::new());

/// The verbs whose output has been as the schema says.
static OF_SCHEMA: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Requires that a line of the JSON of a verb is as docs/consul-ha.schema.json says, or a failure.
fn is_of_schema(arguments: &[&str], line: &str) {
    let file = format!("{}/docs/consul-ha.schema.json", crate::support::root());
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let document: Value = serde_json::from_str(line).unwrap();
    let fits = |name: &str| {
        let of = schema.pointer(&format!("/$defs/{name}")).unwrap_or_else(|| panic!("{name}"));
        schema::fits(&schema, of, &document)
    };
    let verb = arguments.iter().find(|it| !it.starts_with('-')).expect("a verb");
    if !fits("failure") {
        assert!(fits(verb), "{arguments:?}: {line}");
        OF_SCHEMA.lock().unwrap().insert((*verb).to_owned());
    }
}

/// Requires that JSON of each of these verbs was seen.
pub fn are_of_schema<'v>(mut verbs: impl Iterator<Item = &'v str>) {
    let seen = OF_SCHEMA.lock().unwrap();
    assert_eq!(verbs.find(|verb| !seen.contains(*verb)), None, "its JSON is compared: {seen:?}");
}

/// The output of a run, and its exit status.
#[derive(Debug)]
pub struct Run {
    pub out: String,
    pub err: String,
    pub status: i32,
}

/// The program, with these variables of Consul alone.
fn program(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consul-ha"));
    without_consul(&mut command);
    command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null());
    command
}

/// `consul-ha serve`, until it is stopped.
pub struct Server {
    process: Child,
    pub url: String,
}

impl Server {
    pub fn start(environment: &[(&str, &str)]) -> Server {
        let mut command = program(&["serve", "--listen", "127.0.0.1:0", "--json"], environment);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let stdout = process.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        is_of_schema(&["serve"], line.trim());
        let said: Value = serde_json::from_str(&line).unwrap();
        Server { process, url: said["url"].as_str().unwrap().to_owned() }
    }

    /// The answer to a GET, with its head.
    pub fn get(&self, path: &str) -> String {
        let address = self.url.strip_prefix("http://").unwrap().trim_end_matches('/');
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        PRINTED.lock().unwrap().push_str(&answer);
        answer
    }

    /// The document of the cluster.
    pub fn cluster(&self) -> Value {
        let answer = self.get("/cluster");
        let document = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(document).unwrap_or_default()
    }

    pub fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A verb that goes on until it is stopped.
pub struct Following {
    process: Child,
    lines: Receiver<String>,
}

impl Following {
    pub fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Following {
        let mut process = program(arguments, environment).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (said, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                PRINTED.lock().unwrap().push_str(&line);
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        Following { process, lines }
    }

    /// The lines that it has printed since the last awaited one.
    pub fn lines(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Waits for a line with these parts, and returns it.
    #[track_caller]
    pub fn wait_for(&self, parts: &[&str]) -> String {
        let (end, mut all) = (Instant::now() + PATIENCE, Vec::new());
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else { panic!("{parts:?}: {all:#?}") };
            if parts.iter().all(|part| line.contains(part)) {
                return line;
            }
            all.push(line);
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Run {
    pub fn of(arguments: &[&str], environment: &[(&str, &str)]) -> Run {
        Run::into(Stdio::piped(), arguments, environment)
    }

    /// With this as its standard output.
    pub fn into(out: Stdio, arguments: &[&str], environment: &[(&str, &str)]) -> Run {
        let mut program = program(arguments, environment);
        let run = Run::end_of(program.stdout(out).stderr(Stdio::piped()).spawn().unwrap());
        if arguments.contains(&"--json") {
            run.out.lines().for_each(|line| is_of_schema(arguments, line));
        }
        run
    }

    /// That Ctrl-C interrupts when `wait` has ended.
    pub fn interrupted(
        arguments: &[&str],
        environment: &[(&str, &str)],
        wait: impl FnOnce(),
    ) -> Run {
        let mut program = program(arguments, environment);
        let process = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait();
        let kill = Command::new("kill").args(["-INT", &process.id().to_string()]).status();
        assert!(kill.unwrap().success());
        Run::end_of(process)
    }

    /// On a terminal on which this is typed; what it prints to both is its output.
    pub fn on_terminal(arguments: &[&str], environment: &[(&str, &str)], typed: &str) -> Run {
        let words: Vec<String> = arguments.iter().map(|it| format!("'{it}'")).collect();
        let line = format!("'{}' {}", env!("CARGO_BIN_EXE_consul-ha"), words.join(" "));
        let mut terminal = Command::new("script");
        without_consul(&mut terminal);
        terminal.args(["-qec", &line, "/dev/null"]).envs(environment.iter().copied());
        terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut terminal = terminal.spawn().unwrap();
        // It may end before it reads that. When its input ends, it waits.
        let mut input = terminal.stdin.take().unwrap();
        let _ = writeln!(input, "{typed}");
        let run = Run::end_of(terminal);
        drop(input);
        run
    }

    fn end_of(process: Child) -> Run {
        let output = process.wait_with_output().unwrap();
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
