//! The exit status of each verb, whatever answers in the place of etcd or Consul, and of what cannot be written.

use super::program::{PATIENCE, VERBS};
use crate::support::consul::{RealConsul, SIM};
use crate::support::schema::fits;
use serde_json::{Value, json};
use std::io::{BufRead as _, Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

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
fn server(said: &str) -> String {
    let said = said.to_owned();
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
    with_patience("0", etcd, consul, arguments)
}

fn with_patience(patience: &str, etcd: &str, consul: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consul-migrate"));
    for (name, _) in std::env::vars() {
        if name.starts_with("CONSUL_") || name.starts_with("ETCDCTL_") {
            command.env_remove(name);
        }
    }
    command.args(["--etcd", etcd, "--http-addr", consul, "--patience", patience]);
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

/// An etcd without keys at revision 9, with these further fields in each answer. It may reset a connection, which is repeated.
fn etcd(more: &str) -> String {
    let body = format!(r#"{{"header":{{"cluster_id":"7","revision":"9"}}{more}}}"#);
    server(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

/// An alarm of etcd that no cut-over of the job has raised: `plan` says that a cut-over would be refused.
pub fn alarms_of_others() {
    let consul = RealConsul::start(SIM).unwrap();
    let says = |on: &str, more: &[&str]| {
        let output =
            with_patience("60", &etcd(on), &consul.address, &[more, &["plan"]].concat()).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let refused =
        "a cut-over would be refused: etcd refuses writes by an alarm that no job in Consul names";
    for has_job in [false, true] {
        if has_job {
            has_a_job(&consul.address);
        }
        for (on, is_told) in [
            ("", false),
            (r#","alarms":[{"memberID":"9","alarm":"NOSPACE"}]"#, true),
            (r#","alarms":[{"memberID":"9","alarm":"CORRUPT"}]"#, true),
            (r#","alarms":[{"memberID":"5","alarm":"NOSPACE"},{"alarm":"CORRUPT"}]"#, true),
            // That of the job is lifted by a cut-over.
            (r#","alarms":[{"memberID":"5","alarm":"NOSPACE"}]"#, !has_job),
        ] {
            let said = says(on, &[]);
            assert_eq!(said.contains(refused), is_told, "{has_job} {on}: {said}");
            let said: Value = serde_json::from_str(&says(on, &["--json"])).unwrap();
            assert_eq!(said["cutover_refused"].is_string(), is_told, "{has_job} {on}: {said}");
        }
    }
}

/// The side that is the truth for the keys of a job, beside another one.
pub fn keys_of_other_jobs() {
    let consul = RealConsul::start(SIM).unwrap();
    has_a_job(&consul.address);
    let etcd = etcd("");
    let status = || {
        let output = with_patience("60", &etcd, &consul.address, &["status"]).output().unwrap();
        ends(&output, 0, "status");
        String::from_utf8(output.stdout).unwrap().trim_end().lines().last().unwrap().to_owned()
    };
    let follows = "etcd is the truth: programs write there, and Consul follows";
    let not_all = "etcd is the truth, but not for keys of another job: programs use these keys of Consul since the cut-over of \
                   the job \"other\"";
    assert_eq!(status(), follows);
    for (phase, prefix, is_not_all) in [
        ("switched", "", true),
        ("switched", "app/", true),
        ("tail", "", false),
        ("load", "app/", false),
        ("sweep", "", false),
    ] {
        let other = record(phase, prefix);
        assert!(put(&consul.address, "_migrate/other", &other).starts_with("HTTP/1.1 200"));
        let said = status();
        assert!(said.starts_with(if is_not_all { not_all } else { follows }), "{other}: {said}");
    }
    // The keys of both are below different prefixes.
    for (own, other, is_not_all) in
        [("app/", "other/", false), ("app/", "app/a/", true), ("app/a/", "app/", true)]
    {
        for (name, record) in [("etcd", record("tail", own)), ("other", record("switched", other))]
        {
            let key = format!("_migrate/{name}");
            assert!(put(&consul.address, &key, &record).starts_with("HTTP/1.1 200"));
        }
        let said = status();
        let wanted = if is_not_all { not_all } else { follows };
        assert!(said.starts_with(wanted), "{own} {other}: {said}");
    }
}

/// The record of a job, so that each verb asks etcd.
fn has_a_job(consul: &str) {
    for (key, value) in [("_migrate/etcd", record("tail", "")), ("a", "1".repeat(100_000))] {
        let answer = put(consul, key, &value);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// The record of a job that has raised the alarm 5.
fn record(phase: &str, consul_prefix: &str) -> String {
    let mapping = json!({
        "etcd_prefix": "", "consul_prefix": consul_prefix, "on": {}, "form": "slashed", "mark": 7, "refused": [],
    });
    let record = json!({
        "cluster_id": "7", "mapping": mapping, "phase": phase, "snapshot": 1, "loaded": null, "sweeps": false, "revision": 2,
        "offset": 0, "alarms": [5], "step": 1,
    });
    record.to_string()
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

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/consul-migrate.schema.json");

/// All verbs that ask a side.
fn verbs() -> Vec<Vec<&'static str>> {
    let of_consul = [&["export", "-"][..], &["import", "-"], &["finish", "--yes"]];
    VERBS.iter().copied().chain(of_consul).map(<[_]>::to_vec).collect()
}

/// The document of a failure is the same by --json and by --report, and `report` prints it.
pub fn as_the_schema_says() {
    let consul = RealConsul::start(SIM).unwrap();
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(SCHEMA).unwrap()).unwrap();
    let folder = std::env::temp_dir().join(format!("migrate-{}-failures", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let report = folder.join("report");
    let failed = |etcd: &str, consul: &str, arguments: &[&str], kind: &str, has_session: bool| {
        let _ = std::fs::remove_file(&report);
        let mut command = program(etcd, consul, &["--json"]);
        if has_session {
            command.args(["--report", report.to_str().unwrap()]);
        }
        let output = command.args(arguments).output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{error}: {arguments:?}: {output:?}");
        });
        assert_ne!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(said["error"]["kind"], kind, "{arguments:?}: {said}");
        assert!(fits(&schema, &schema, &said), "{arguments:?}: {said}");
        assert_eq!(said["verb"].is_string(), has_session, "{arguments:?}: {said}");
        if has_session {
            let written = std::fs::read(&report).unwrap();
            assert_eq!(said, serde_json::from_slice::<Value>(&written).unwrap(), "{arguments:?}");
        }
        let shown = reported(&said.to_string(), &[]);
        ends(&shown, 0, "report -");
        let shown = String::from_utf8(shown.stdout).unwrap();
        let message = said["error"]["message"].as_str().unwrap().lines().next().unwrap();
        assert!(shown.contains(&format!("it has failed ({kind}): {message}")), "{shown}");
        let again = reported(&said.to_string(), &["--json"]);
        assert_eq!(said, serde_json::from_slice::<Value>(&again.stdout).unwrap());
    };
    // Consul does not answer: also to the first request, before the verb begins.
    for (verb, txn) in verbs().iter().flat_map(|verb| [(verb, "64"), (verb, "128")]) {
        let arguments = [&["--txn", txn][..], verb].concat();
        failed("127.0.0.1:1", "127.0.0.1:1", &arguments, "connect", true);
    }
    // There is no such job.
    for verb in
        [&["tail"][..], &["verify"], &["rollback", "--yes"], &["status"], &["finish", "--yes"]]
    {
        failed("127.0.0.1:1", &consul.address, verb, "refused", true);
    }
    has_a_job(&consul.address);
    let of_etcd = verbs().into_iter().filter(|verb| !["export", "import"].contains(&verb[0]));
    for verb in of_etcd {
        failed("127.0.0.1:1", &consul.address, &verb, "connect", true);
    }
    failed("127.0.0.1:1", &consul.address, &["import", "-"], "refused", true);
    failed("127.0.0.1:1", &consul.address, &["import", "--merge", "/no/file"], "usage", true);
    failed("127.0.0.1:1", &consul.address, &["export", "/no/folder/file"], "usage", true);
    failed("127.0.0.1:1", &consul.address, &["copy", "--replace"], "usage", true);
    for verb in verbs() {
        failed("::1", &consul.address, &verb, "usage", false);
        let unknown = [&verb[..], &["--unknown"]].concat();
        failed("127.0.0.1:1", &consul.address, &unknown, "usage", false);
    }
    failed("127.0.0.1:1", "127.0.0.1:1", &["report", "/no/file"], "usage", false);
    for wrong in [
        "[]",
        "null",
        "{}",
        "{\"error\":[\"a\",\"b\"]}",
        "{\"error\":{\"kind\":\"a\"}}",
        "[[\"a\",\"b\"]]",
    ] {
        let output = reported(wrong, &[]);
        ends(&output, 2, wrong);
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("it is not a report"),
            "{output:?}"
        );
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// The output of `report -` for a text.
fn reported(text: &str, more: &[&str]) -> Output {
    let mut command = program("127.0.0.1:1", "127.0.0.1:1", &["report", "-"]);
    command.args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Standard output is closed where an export or a report goes; elsewhere the status is that of the verb.
pub fn closed() {
    let consul = RealConsul::start(SIM).unwrap();
    has_a_job(&consul.address);
    let to = |redirected: &str, arguments: &[&str]| {
        let program = program("127.0.0.1:1", &consul.address, arguments);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec \"$@\" {redirected}"), "sh"]);
        shell.arg(program.get_program()).args(program.get_args());
        shell.stdin(Stdio::null()).output().unwrap()
    };
    let report = std::env::temp_dir().join(format!("migrate-{}-closed", std::process::id()));
    let error = json!({ "error": { "kind": "usage", "message": "x" } });
    std::fs::write(&report, error.to_string()).unwrap();
    let report = report.to_str().unwrap();
    for arguments in [
        &["export"][..],
        &["export", "-"],
        &["--json", "export", "-"],
        &["export", "--format", "consul-kv", "-"],
        &["report", report],
        &["report", "--json", report],
    ] {
        let output = to(">&-", arguments);
        ends(&output, 1, &format!("{arguments:?}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("standard output is closed"), "{said}");
        assert!(!said.contains("exported"), "{said}");
        for taken in [">/dev/null", "| cat >/dev/null", ""] {
            ends(&to(taken, arguments), 0, &format!("{arguments:?} {taken}"));
        }
    }
    std::fs::remove_file(report).unwrap();
}

/// Standard error takes nothing: the result is there nevertheless, and afterwards all lines, in their order.
pub fn held() {
    let consul = RealConsul::start(SIM).unwrap();
    has_a_job(&consul.address);
    let begun = VERBS.iter().map(|verb| {
        let (said, full) = UnixStream::pair().unwrap();
        full.set_nonblocking(true).unwrap();
        let mut filled = 0;
        while let Ok(count) = (&full).write(&[b'x'; 4096]) {
            filled += count;
        }
        full.set_nonblocking(false).unwrap();
        let mut command = with_patience("2", "127.0.0.1:1", &consul.address, &["--json"]);
        command.args(*verb).stdout(Stdio::piped()).stderr(OwnedFd::from(full));
        let run = command.spawn().unwrap();
        drop(command);
        said.set_read_timeout(Some(PATIENCE)).unwrap();
        (verb, run, said, filled)
    });
    let begun: Vec<_> = begun.collect();
    for (verb, mut run, mut said, filled) in begun {
        let mut out = String::new();
        std::io::BufReader::new(run.stdout.take().unwrap()).read_line(&mut out).unwrap();
        assert!(out.contains("\"error\""), "{verb:?}: {out}");
        assert!(run.try_wait().unwrap().is_none(), "{verb:?} has not said all");
        said.read_exact(&mut vec![0; filled]).unwrap();
        let mut text = String::new();
        said.read_to_string(&mut text).unwrap();
        assert_eq!(run.wait().unwrap().code(), Some(3), "{verb:?}: {text}");
        let (waits, fails) = text.split_once("has not answered").expect(&text);
        assert!(waits.starts_with("consul-migrate: etcd"), "{verb:?}: {text}");
        assert!(fails.contains("\nconsul-migrate: "), "{verb:?}: {text}");
    }
}

/// Each signal ends a run that waits for the other end of a pipe.
pub fn signals() {
    let consul = RealConsul::start(SIM).unwrap();
    put(&consul.address, "larger/than/a/pipe", &"v".repeat(300_000));
    let pipe = std::env::temp_dir().join(format!("migrate-{}-pipe", std::process::id()));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let pipe = pipe.to_str().unwrap();
    for (arguments, is_json) in [
        (&["import", "--merge"][..], false),
        (&["--json", "import", "--merge"], true),
        (&["import", "--merge", "--format", "consul-kv", "-"], false),
        (&["import", "--merge", pipe], false),
        (&["export"], false),
        (&["export", "--format", "consul-kv", "-"], false),
    ] {
        for signal in ["INT", "TERM", "HUP", "QUIT"] {
            let mut command = program("127.0.0.1:1", &consul.address, arguments);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut run = command.spawn().unwrap();
            let mut given = run.stdin.take();
            // It takes a line, and waits for the next one.
            if let Some(given) = given.as_mut().filter(|_| arguments.contains(&"import")) {
                given.write_all(b"{\"key\":\"a\",\"value\":\"\"}\n").unwrap();
            }
            if arguments.contains(&"export") {
                run.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            }
            let end = Instant::now() + PATIENCE;
            while !catches_signals(run.id()) {
                assert!(Instant::now() < end, "{arguments:?}");
                std::thread::sleep(Duration::from_millis(10));
            }
            let mut kill = Command::new("kill");
            kill.arg(format!("-{signal}")).arg(run.id().to_string());
            assert!(kill.status().unwrap().success());
            while run.try_wait().unwrap().is_none() {
                if Instant::now() > end {
                    run.kill().unwrap();
                    panic!("{arguments:?} {signal}: it waits");
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            drop(given);
            let output = run.wait_with_output().unwrap();
            ends(&output, 130, &format!("{arguments:?} {signal}"));
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("interrupted; the same command goes on"), "{said}");
            if is_json {
                let said: Value = serde_json::from_slice(&output.stdout).unwrap();
                assert_eq!(said["error"]["kind"], "interrupted");
            }
        }
    }
    std::fs::remove_file(pipe).unwrap();
}

/// A file that may not be as large as the export cannot be written, and nothing of it is left.
pub fn small_files() {
    let consul = RealConsul::start(SIM).unwrap();
    put(&consul.address, "larger/than/a/block", &"v".repeat(30_000));
    let folder = std::env::temp_dir().join(format!("migrate-{}-small", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    for (arguments, redirected) in
        [("export out", ""), ("export", ">out"), ("--report r export out", "")]
    {
        let program = program("127.0.0.1:1", &consul.address, &[]);
        let mut shell = Command::new("sh");
        let limited = format!("ulimit -f 8; exec \"$@\" {arguments} {redirected}");
        shell.current_dir(&folder).args(["-c", &limited, "sh"]);
        shell.arg(program.get_program()).args(program.get_args());
        let output = shell.stdin(Stdio::null()).output().unwrap();
        ends(&output, 1, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("the export cannot be written: File too large"), "{said}");
        let left = |name: &str| folder.join(name).exists();
        assert_eq!((left("out"), left("out.part")), (redirected == ">out", false), "{arguments}");
        let _ = std::fs::remove_file(folder.join("out"));
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// Whether a process has a handler of SIGINT.
fn catches_signals(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    // SIGHUP, SIGINT, SIGQUIT, SIGTERM.
    let all = 1 | 1 << 1 | 1 << 2 | 1 << 14;
    caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & all == all)
}

/// Beginnings of keys, for each verb; those that are right lead to the first request.
/// A variable without a value counts as unset.
pub fn empty_variables() {
    for name in [
        "ETCDCTL_USER",
        "ETCDCTL_PASSWORD",
        "ETCDCTL_CACERT",
        "ETCDCTL_CERT",
        "ETCDCTL_KEY",
        "ETCDCTL_INSECURE_SKIP_TLS_VERIFY",
        "CONSUL_HTTP_TOKEN",
        "CONSUL_CACERT",
        "CONSUL_HTTP_SSL",
    ] {
        let output = program("127.0.0.1:1", "127.0.0.1:1", &["plan"]).env(name, "").output();
        ends(&output.unwrap(), 3, name);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_consul-migrate"));
    command.args(["--http-addr", "127.0.0.1:1", "--patience", "0", "plan"]);
    let output = command.env("ETCDCTL_ENDPOINTS", "").stdin(Stdio::null()).output();
    ends(&output.unwrap(), 3, "ETCDCTL_ENDPOINTS");
}

pub fn prefixes() {
    let consul = RealConsul::start(SIM).unwrap();
    let long = "x".repeat(64_000);
    let verbs = [verbs(), vec![vec!["report", "-"], vec!["completion", "bash"]]].concat();
    for prefix in [
        "../",
        "a/../",
        "./",
        "a/./b",
        "x//y/",
        "x//",
        "/x",
        "a\nb/",
        "\u{200b}",
        "_etcd/",
        "_migrate/x",
        &long,
    ] {
        for verb in &verbs {
            let output = program("127.0.0.1:1", "127.0.0.1:1", &["--consul-prefix", prefix])
                .args(verb)
                .output()
                .unwrap();
            ends(&output, 2, &format!("{verb:?} {prefix:?}"));
            let said = String::from_utf8_lossy(&output.stderr);
            let reason = ["keys of Consul", "has keys of its own"];
            assert!(said.contains("--consul-prefix"), "{said}");
            assert!(reason.iter().any(|it| said.contains(it)), "{said}");
        }
    }
    for (prefix, key) in [
        (".", ".k/0"),
        ("a/.", "a/.k"),
        ("a/..", "a/..k"),
        ("a b/", "a%20b/k"),
        ("_etc", "_etcx"),
        ("", "z"),
    ] {
        let answer = put(&consul.address, key, "1");
        assert!(answer.starts_with("HTTP/1.1 200"), "{key}: {answer}");
        let export = ["--consul-prefix", prefix, "export", "-"];
        let output = program("127.0.0.1:1", &consul.address, &export).output().unwrap();
        ends(&output, 0, prefix);
        let lines = String::from_utf8(output.stdout).unwrap().lines().count();
        assert!(lines == 2 || prefix.is_empty() && lines == 7, "{prefix:?}: {lines}");
    }
}
