//! The log of an agent that `/v1/agent/monitor` streams, on consul-sim and on Consul 1.21.

use crate::served::{Outcome, PATIENCE};
use crate::support::consul::{self, RealConsul};
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use regex_lite::Regex;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    for version in [consul::SIM, "1.21"] {
        let missing = consul::is_missing(version, &format!("the log of Consul {version}"));
        type Run = fn(&'static str) -> Outcome;
        let all: [(&str, Run); 3] = [
            ("it_has_what_happens_from_now_on", it_has_what_happens_from_now_on),
            ("it_is_limited_to_a_level_and_can_be_json", it_is_limited_to_a_level_and_can_be_json),
            ("it_needs_a_permission_and_a_known_level", it_needs_a_permission_and_a_known_level),
        ];
        for (name, run) in all {
            trials.add_unless(missing, format!("{name} [{version}]"), move || run(version));
        }
    }
    let missing = consul::is_missing(consul::SIM, "a slow reader of a log");
    trials.add_unless(missing, "a_slow_reader_loses_lines_and_is_told", a_slow_reader);
    trials
}

/// A reader of a log.
struct Monitor(BufReader<TcpStream>);

impl Monitor {
    fn open(consul: &RealConsul, query: &str) -> Result<Monitor, Failed> {
        let stream = send(consul, "GET", &format!("/v1/agent/monitor{query}"), "")?;
        let mut monitor = Monitor(BufReader::new(stream));
        let head = monitor.line_with("HTTP/1.1 ")?;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        while !monitor.line()?.is_empty() {}
        Ok(monitor)
    }

    fn line(&mut self) -> Result<String, Failed> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        assert!(!line.is_empty(), "the log has ended");
        Ok(line.trim_end().to_owned())
    }

    /// The next line with this text; chunks' lines and other lines are left out.
    fn line_with(&mut self, text: &str) -> Result<String, Failed> {
        loop {
            let line = self.line()?;
            if line.contains(text) {
                return Ok(line);
            }
        }
    }
}

fn send(consul: &RealConsul, verb: &str, path: &str, body: &str) -> Result<TcpStream, Failed> {
    let mut stream = TcpStream::connect(&consul.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let token = &consul.token;
    let length = body.len();
    write!(
        stream,
        "{verb} {path} HTTP/1.1\r\nHost: a\r\nX-Consul-Token: {token}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )?;
    Ok(stream)
}

/// Makes a request, and returns its whole answer.
fn ask(consul: &RealConsul, verb: &str, path: &str, body: &str) -> Result<String, Failed> {
    let mut answer = String::new();
    send(consul, verb, path, body)?.read_to_string(&mut answer)?;
    Ok(answer)
}

fn matches(pattern: &str, line: &str) {
    assert!(Regex::new(pattern).expect("a pattern").is_match(line), "{line}");
}

const DATE: &str = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z";

fn it_has_what_happens_from_now_on(version: &str) -> Outcome {
    let consul = RealConsul::start(version)?;
    let check = r#"{"Name": "before", "Check": {"TTL": "10s"}}"#;
    ask(&consul, "PUT", "/v1/agent/service/register", check)?;
    let mut log = Monitor::open(&consul, "?loglevel=debug")?;
    let service = r#"{"Name": "web", "Check": {"TTL": "10s", "CheckID": "alive"}}"#;
    ask(&consul, "PUT", "/v1/agent/service/register", service)?;
    let synced = log.line_with("Synced service")?;
    matches(&format!(r"{DATE} \[INFO\]  agent: Synced service: service=web$"), &synced);
    ask(&consul, "GET", "/v1/kv/a?token=hunter2&raw", "")?;
    let finished = log.line_with(r#"url="/v1/kv/a"#)?;
    matches(
        &format!(
            r"{DATE} \[DEBUG\] agent.http: Request finished: method=GET url=\S*/v1/kv/a\S* from=127\.0\.0\.1\S* latency=\S+$"
        ),
        &finished,
    );
    assert!(!finished.contains("hunter2"), "{finished}");
    ask(&consul, "PUT", "/v1/agent/service/deregister/web", "")?;
    let gone = log.line_with("Deregistered service")?;
    matches(&format!(r"{DATE} \[INFO\]  agent: Deregistered service: service=web$"), &gone);
    Ok(())
}

fn it_is_limited_to_a_level_and_can_be_json(version: &str) -> Outcome {
    let consul = RealConsul::start(version)?;
    let mut log = Monitor::open(&consul, "?logjson")?;
    for (name, service) in [("web", r#"{"Name": "web"}"#), ("db", r#"{"Name": "db"}"#)] {
        ask(&consul, "PUT", "/v1/agent/service/register", service)?;
        loop {
            let line = log.line()?;
            let Ok(line @ Value::Object(_)) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            assert!(["info", "warn", "error"].contains(&line["@level"].as_str().unwrap_or("")));
            if line["service"] == name {
                assert_eq!(
                    (&line["@message"], &line["@module"]),
                    (&"Synced service".into(), &"agent".into())
                );
                assert!(line["@timestamp"].is_string(), "{line}");
                break;
            }
        }
    }
    Ok(())
}

fn it_needs_a_permission_and_a_known_level(version: &str) -> Outcome {
    let mut consul = RealConsul::start_with_acl(version, "deny")?;
    let answer = ask(&consul, "GET", "/v1/agent/monitor?loglevel=loud", "")?;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.ends_with("Unknown log level: loud"), "{answer}");
    consul.token = String::new();
    let answer = ask(&consul, "GET", "/v1/agent/monitor", "")?;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("lacks permission 'agent:read'"), "{answer}");
    Ok(())
}

fn a_slow_reader() -> Outcome {
    let consul = RealConsul::start(consul::SIM)?;
    let mut log = Monitor::open(&consul, "?loglevel=debug")?;
    // More than sockets and the log keep.
    let mut stream = TcpStream::connect(&consul.address)?;
    let long = "x".repeat(8_000);
    let mut rest = BufReader::new(stream.try_clone()?);
    for _ in 0..2_000 {
        // In one write: Nagle's algorithm would wait between two.
        stream.write_all(format!("GET /v1/kv/{long} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())?;
        let mut line = String::new();
        while rest.read_line(&mut line)? > 2 {
            line.clear();
        }
    }
    matches(r"^\[WARN\] Dropped [1-9]\d* logs during monitor request$", &log.line_with("[WARN]")?);
    Ok(())
}
