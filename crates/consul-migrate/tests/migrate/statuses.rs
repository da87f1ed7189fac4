//! The exit status of each verb, whatever answers in the place of etcd or Consul, and of what cannot be written.

use super::program::VERBS;
use crate::support::consul::{RealConsul, SIM};
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

/// Answers of other programs, or of servers that fail.
const SAID: &[&str] = &[
    "",
    "SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html>log",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{",
    "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 400 Bad Request\r\nContent-Length: 9\r\n\r\n<html>bad",
    "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\n<html>no!",
    "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n<html>404",
    "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 9\r\n\r\n<html>405",
    "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops",
    "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 9\r\n\r\n<html>502",
    "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
];

/// The address of a server that says this to each request.
fn server(said: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            // The other side may have gone.
            let _ = connection.read(&mut [0; 16 << 10]);
            let _ = connection.write_all(said.as_bytes());
        }
    });
    address
}

fn program(etcd: &str, consul: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consul-migrate"));
    for (name, _) in std::env::vars() {
        if name.starts_with("CONSUL_") || name.starts_with("ETCDCTL_") {
            command.env_remove(name);
        }
    }
    command.args(["--etcd", etcd, "--http-addr", consul, "--patience", "0"]);
    command.args(arguments).stdin(Stdio::null());
    command
}

#[track_caller]
fn ends(output: &Output, status: i32, what: &str) {
    assert_eq!(output.status.code(), Some(status), "{what}: {output:?}");
}

pub fn run() {
    let consul = RealConsul::start(SIM).unwrap();
    has_a_job(&consul.address);
    let of_consul = [&["export", "-"][..], &["import", "-"], &["finish", "--yes"]];
    for said in SAID {
        let strange = server(said);
        for verb in VERBS.iter().chain(&of_consul) {
            let output = program("127.0.0.1:1", &strange, verb).output().unwrap();
            ends(&output, 3, &format!("{verb:?}, {said:?} in the place of Consul"));
        }
        for verb in VERBS.iter().chain(&of_consul[2..]) {
            let output = program(&strange, &consul.address, verb).output().unwrap();
            ends(&output, 3, &format!("{verb:?}, {said:?} in the place of etcd"));
        }
    }
    for verb in VERBS.iter().chain(&of_consul[2..]) {
        ends(&program("127.0.0.1:1", &consul.address, verb).output().unwrap(), 3, "no etcd");
    }
    for verb in VERBS.iter().chain(&of_consul) {
        ends(&program("127.0.0.1:1", "127.0.0.1:1", verb).output().unwrap(), 3, "no Consul");
    }
    for wrong in [
        "",
        "::1",
        "fe80::1%lo",
        "[fe80::1%lo]:1",
        "[a]:1",
        "a..b",
        "a!",
        "a:0",
        "a:1:2",
        "http://a?x",
        "x://a",
    ] {
        for (etcd, consul) in [(wrong, "127.0.0.1:1"), ("127.0.0.1:1", wrong)] {
            ends(&program(etcd, consul, &["plan"]).output().unwrap(), 2, wrong);
        }
    }
    is_not_written(&consul.address);
}

/// The record of a job, so that each verb asks etcd.
fn has_a_job(consul: &str) {
    let mapping = json!({ "etcd_prefix": "", "consul_prefix": "", "on": {}, "form": "slashed", "mark": 7, "refused": [] });
    let record = json!({
        "cluster_id": "7", "mapping": mapping, "phase": "tail", "snapshot": 1, "loaded": null, "sweeps": false, "revision": 2,
        "offset": 0, "step": 1,
    });
    for (key, value) in [("_migrate/etcd", record.to_string()), ("a", "1".repeat(100_000))] {
        let answer = put(consul, key, &value);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

fn put(consul: &str, key: &str, value: &str) -> String {
    let mut connection = std::net::TcpStream::connect(consul).unwrap();
    let head = format!(
        "PUT /v1/kv/{key} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        value.len()
    );
    connection.write_all((head + value).as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

/// A file that takes nothing, as on a full disk.
fn is_not_written(consul: &str) {
    let folder = std::env::temp_dir().join(format!("migrate-{}-statuses", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (lines, report) = (folder.join("lines"), folder.join("report"));
    let (lines, report) = (lines.to_str().unwrap(), report.to_str().unwrap());
    let limited = |arguments: &[&str]| {
        let program = program("127.0.0.1:1", consul, arguments);
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -f 0; trap '' XFSZ; exec \"$@\"", "sh"]);
        shell.arg(program.get_program()).args(program.get_args());
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).output().unwrap()
    };
    ends(&limited(&["export", lines]), 1, "a file that takes nothing");
    assert!(!std::fs::exists(lines).unwrap() && !std::fs::exists(format!("{lines}.part")).unwrap());
    let output = limited(&["--report", report, "export", "-"]);
    ends(&output, 1, "a report that takes nothing");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be written"), "{output:?}");
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    for arguments in [&["export", "-"][..], &["export", "--format", "consul-kv", "-"]] {
        let output = program("127.0.0.1:1", consul, arguments).stdout(full()).output().unwrap();
        ends(&output, 1, "a full standard output");
    }
    let output =
        program("127.0.0.1:1", consul, &["--report", "/dev/full", "export", lines]).output();
    ends(&output.unwrap(), 1, "a full report");
    ends(&program("127.0.0.1:1", consul, &["export", lines]).output().unwrap(), 2, "it is there");
    for wrong in [&["export", "/no/such/file"][..], &["--report", "/no/such/file", "export", "-"]] {
        ends(&program("127.0.0.1:1", consul, wrong).output().unwrap(), 2, "no such folder");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
