//! The control endpoints of consul-sim: what a test in any language does with its clock, its faults and its agents.

use crate::served::{Named, Outcome, Served, talk};
use crate::support::authority::Folder;
use crate::support::consul;
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let missing = consul::is_missing(consul::SIM, "the control endpoints of consul-sim");
    let all: [Named; 11] = [
        ("a_session_ends_when_its_clock_is_advanced", a_session_ends),
        ("a_restored_session_has_its_whole_ttl_again", a_restored_session_ends),
        ("a_waiting_query_ends_at_its_advanced_moment", a_waiting_query_ends),
        ("a_clock_that_stands_still_moves_only_when_advanced", a_standing_clock),
        ("a_fault_lasts_until_it_is_removed_and_concerns_its_clients", faults),
        ("a_restart_loses_what_it_is_told_to_lose", restarts),
        ("a_reset_begins_again_with_the_services_of_the_configuration", resets),
        ("further_agents_have_their_own_state_and_end", further_agents),
        ("only_requests_for_its_own_names_control_it", own_names),
        ("the_control_endpoints_are_on_loopback_unless_an_address_is_given", own_address),
        ("a_file_says_that_it_answers", a_file_says_that_it_answers),
    ];
    for (name, run) in all {
        trials.add_unless(missing, name, run);
    }
    for (language, command) in EXAMPLES {
        let lacks = Command::new(command[0]).arg("--help").output().err();
        let what = format!("the example of consul-sim in {language}");
        if let Some(why) = &lacks {
            consul::say_skipped(&what, &format!("{}: {why}", command[0]));
        }
        let name = format!("the_example_runs [{language}]");
        trials.add_unless(missing || lacks.is_some(), name, || the_example_runs(command));
    }
    trials
}

/// The examples of docs/consul-sim.md, by the command that runs each.
const EXAMPLES: [(&str, &[&str]); 6] = [
    ("Go", &["go", "run", "-C", "go", "."]),
    ("Go, a package", &["go", "test", "-C", "go", "./consulsim"]),
    ("Python", &["python3", "lock.py"]),
    ("Node.js", &["node", "lock.mjs"]),
    ("Java", &["java", "Lock.java"]),
    ("shell", &["sh", "lock.sh"]),
];

fn the_example_runs(command: &[&str]) -> Outcome {
    let simulated = consul::binary(consul::SIM)?;
    let folder = Path::new(&simulated).parent().ok_or("no folder")?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
    let output = Command::new(command[0])
        .args(&command[1..])
        .current_dir(format!("{}/examples/consul-sim", crate::support::root()))
        .env("PATH", path)
        .env("GOWORK", "off")
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let is_tested = printed.starts_with("ok ") && !printed.contains("no test");
    if output.status.success() && (is_tested || printed == "the lock is free\n") {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {printed}{error}", output.status).into())
}

/// A consul-sim with control endpoints.
struct Controlled {
    served: Served,
    control: SocketAddr,
}

impl Controlled {
    fn start(flags: &[&str]) -> Result<Controlled, Failed> {
        let served = Served::start_with(&[flags, &["-sim-port=0"]].concat())?;
        let control = address_of(served.urls.last().ok_or("no URL")?)?;
        Ok(Controlled { served, control })
    }

    fn call(&self, method: &str, path: &str, body: Value) -> Result<(u16, Value), Failed> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        exchange(self.control, method, &format!("/sim/{path}"), "", &body)
    }

    /// A control request that must succeed.
    fn control(&self, method: &str, path: &str, body: Value) -> Result<Value, Failed> {
        match self.call(method, path, body)? {
            (200, answer) => Ok(answer),
            other => Err(format!("{method} {path}: {other:?}").into()),
        }
    }

    fn put(&self, path: &str, body: &str) -> Result<Value, Failed> {
        Ok(exchange(self.served.address, "PUT", &format!("/v1/{path}"), "", body)?.1)
    }

    fn get(&self, path: &str) -> Result<(u16, Value), Failed> {
        exchange(self.served.address, "GET", &format!("/v1/{path}"), "", "")
    }

    /// A session with a TTL of 10 s that holds the key `lock`.
    fn hold(&self) -> Outcome {
        let body = r#"{"TTL":"10s","LockDelay":"0s","Behavior":"release"}"#;
        let session = self.put("session/create", body)?;
        let session = session["ID"].as_str().ok_or("no session")?.to_owned();
        match self.put(&format!("kv/lock?acquire={session}"), "x")? {
            Value::Bool(true) => Ok(()),
            other => Err(format!("not acquired: {other}").into()),
        }
    }

    fn holder(&self) -> Result<Option<String>, Failed> {
        let (_, keys) = self.get("kv/lock")?;
        Ok(keys[0]["Session"].as_str().map(str::to_owned))
    }
}

fn address_of(url: &str) -> Result<SocketAddr, Failed> {
    Ok(url.trim_start_matches("http://").parse()?)
}

/// A request with these headers; the status, and the body if it is JSON.
fn exchange(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &str,
    body: &str,
) -> Result<(u16, Value), Failed> {
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    let said = talk(address, request.as_bytes())?;
    let status = said.statuses.first().copied().unwrap_or_default();
    let body = said.text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, serde_json::from_str(body).unwrap_or_default()))
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Outcome {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?}, not {wanted:?}").into()) }
}

fn a_restored_session_ends() -> Outcome {
    let sim = Controlled::start(&["-sim-clock=manual"])?;
    let folder = Folder::new();
    let file = folder.path("snapshot").display().to_string();
    let url = format!("http://{}/v1/snapshot", sim.served.address);
    let curl = |arguments: &[&str]| -> Outcome {
        let output = Command::new("curl").args(["-sSf", &url]).args(arguments).output()?;
        same(&url, output.status.success(), true)
    };
    let advance = || sim.control("POST", "advance", json!({"by": "15s"}));
    sim.hold()?;
    advance()?;
    curl(&["-o", &file])?;
    curl(&["-X", "PUT", "--data-binary", &format!("@{file}")])?;
    advance()?;
    same("its lock after 15 s", sim.holder()?.is_some(), true)?;
    advance()?;
    same("its lock after 30 s", sim.holder()?.is_some(), false)
}

fn a_session_ends() -> Outcome {
    let sim = Controlled::start(&[])?;
    sim.hold()?;
    let begun = Instant::now();
    sim.control("POST", "advance", json!({ "by": "9s" }))?;
    same("held for 9 s", sim.holder()?.is_some(), true)?;
    // A server lets a session live for up to twice its TTL.
    sim.control("POST", "advance", json!({ "by": 11 }))?;
    same("held for 20 s", sim.holder()?, None)?;
    same("sessions", sim.get("session/list")?.1, json!([]))?;
    same("waited", begun.elapsed() < Duration::from_secs(20), true)
}

fn a_waiting_query_ends() -> Outcome {
    let sim = Controlled::start(&["-sim-clock=manual"])?;
    sim.hold()?;
    let index = sim.get("kv/lock")?.1[0]["ModifyIndex"].as_u64().ok_or("no index")?;
    let address = sim.served.address;
    let waiting = std::thread::spawn(move || {
        let target = format!("/v1/kv/lock?index={index}&wait=60s");
        exchange(address, "GET", &target, "", "").map_err(|error| format!("{error:?}"))
    });
    let end = Instant::now() + crate::served::PATIENCE;
    while sim.control("GET", "stats", Value::Null)?["waiting"] != 1 {
        same("it waits in time", Instant::now() < end, true)?;
        std::thread::sleep(Duration::from_millis(10));
    }
    sim.control("POST", "advance", json!({ "by": "20s" }))?;
    let (status, keys) = waiting.join().map_err(|_| "a panic")??;
    same("status", status, 200)?;
    same("the key's session", keys[0]["Session"].as_str(), None)
}

fn a_standing_clock() -> Outcome {
    let sim = Controlled::start(&["-sim-clock=manual", "-sim-seed=7"])?;
    let now = || Ok::<_, Failed>(sim.control("GET", "stats", Value::Null)?["now"].clone());
    same("at first", now()?, json!(0.0))?;
    sim.hold()?;
    same("it stands", now()?, json!(0.0))?;
    sim.control("POST", "advance", json!({ "by": "1m30s" }))?;
    same("it moved", now()?, json!(90.0))?;
    let (status, body) = sim.call("POST", "advance", json!({ "by": "-1s" }))?;
    same("back", status, 400)?;
    let why = body["error"].as_str().unwrap_or_default();
    same("the argument is named", why.starts_with("by "), true)?;
    // The same seed gives the same ids.
    let ids = |sim: &Controlled| Ok::<_, Failed>(sim.put("session/create", "")?["ID"].clone());
    let other = Controlled::start(&["-sim-clock=manual", "-sim-seed=7"])?;
    other.hold()?;
    same("ids of one seed", ids(&sim)?, ids(&other)?)
}

fn faults() -> Outcome {
    let sim = Controlled::start(&[])?;
    let as_client = |name: &str| {
        let header = format!("X-Sim-Client: {name}\r\n");
        Ok::<_, Failed>(exchange(sim.served.address, "GET", "/v1/status/leader", &header, "")?.0)
    };
    sim.control("POST", "fault", json!({ "status": 503, "clients": ["one"] }))?;
    same("its client", as_client("one")?, 503)?;
    same("another client", as_client("two")?, 200)?;
    sim.control("POST", "fault", json!({ "drop_after": 1 }))?;
    let lost = exchange(sim.served.address, "PUT", "/v1/kv/written", "", "x")?;
    same("a lost answer", lost.0, 0)?;
    sim.control("DELETE", "fault", Value::Null)?;
    same("its client afterwards", as_client("one")?, 200)?;
    same("what was written", sim.get("kv/written")?.0, 200)?;
    let (status, body) = sim.call("POST", "fault", json!({ "latncy_ms": 5 }))?;
    same("a misspelt option", status, 400)?;
    let why = body["error"].as_str().unwrap_or_default();
    same("what is known", why.contains("latency_ms"), true)
}

fn restarts() -> Outcome {
    let sim = Controlled::start(&[])?;
    sim.hold()?;
    sim.control("POST", "restart", Value::Null)?;
    same("a session outlives a restart", sim.holder()?.is_some(), true)?;
    sim.control("POST", "restart", json!({ "lose_sessions": true }))?;
    same("a lost session", sim.holder()?, None)?;
    same("its key", sim.get("kv/lock")?.0, 200)?;
    sim.control("POST", "restart", json!({ "wipe": true }))?;
    same("a lost key", sim.get("kv/lock")?.0, 404)
}

fn resets() -> Outcome {
    let folder = Folder::new();
    let file = folder.file("web.hcl", r#"service { name = "web" port = 80 }"#);
    let sim = Controlled::start(&["-config-file", &file])?;
    sim.hold()?;
    sim.put("agent/service/register", r#"{"Name":"own"}"#)?;
    sim.control("POST", "fault", json!({ "status": 503 }))?;
    sim.control("POST", "reset", json!({ "seed": 3 }))?;
    same("keys", sim.get("kv/lock")?.0, 404)?;
    let services = sim.get("agent/services")?.1;
    let names: Vec<&String> =
        services.as_object().into_iter().flat_map(|services| services.keys()).collect();
    same("services", names, vec![&"web".to_owned()])
}

fn further_agents() -> Outcome {
    let sim = Controlled::start(&[])?;
    let flags = json!({ "name": "east", "flags": ["-datacenter=east", "-node=e1"] });
    let started = sim.control("POST", "agents", flags.clone())?;
    let east = address_of(started["urls"][0].as_str().ok_or("no URL")?)?;
    same("a name twice", sim.call("POST", "agents", flags)?.0, 409)?;
    exchange(east, "PUT", "/v1/kv/only/east", "", "x")?;
    same("its own keys", sim.get("kv/only/east")?.0, 404)?;
    same(
        "its datacenter",
        exchange(east, "GET", "/v1/catalog/datacenters", "", "")?.1[0].clone(),
        json!("east"),
    )?;
    sim.control("POST", "advance?agent=east", json!({ "by": "1h" }))?;
    let now = |name: &str| {
        let stats = sim.control("GET", &format!("stats?agent={name}"), Value::Null)?;
        Ok::<_, Failed>(stats["now"].as_f64().unwrap_or_default() >= 3600.0)
    };
    same("its own clock", (now("east")?, now("first")?), (true, false))?;
    sim.control("DELETE", "agents/east", Value::Null)?;
    same("its end", sim.call("GET", "stats?agent=east", Value::Null)?.0, 404)?;
    let end = Instant::now() + crate::served::PATIENCE;
    while std::net::TcpStream::connect(east).is_ok() {
        same("its socket is closed in time", Instant::now() < end, true)?;
        std::thread::sleep(Duration::from_millis(10));
    }
    let page = exchange(sim.control, "POST", "/sim/reset", "Origin: http://example.com\r\n", "")?;
    same("a web page", page.0, 403)
}

fn own_names() -> Outcome {
    let sim = Controlled::start(&["-sim-host=sim.example"])?;
    sim.put("kv/kept", "x")?;
    let reset = |host: &str| {
        let asked = format!(
            "POST /sim/reset HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: 0\r\n\r\n"
        );
        talk(sim.control, asked.as_bytes())
    };
    for host in ["evil.example", "127.0.0.1.evil.example:80", "10.0.0.1"] {
        let said = reset(&format!("Host: {host}\r\n"))?;
        same(host, &said.statuses[..], &[421])?;
        same("the flag is named", said.text.contains("-sim-host"), true)?;
    }
    same("no name", &reset("")?.statuses[..], &[400])?;
    same("two names", &reset("Host: localhost\r\nHost: localhost\r\n")?.statuses[..], &[400])?;
    same("the key afterwards", sim.get("kv/kept")?.0, 200)?;
    same("a name of its own", &reset("Host: Sim.Example:1\r\n")?.statuses[..], &[200])?;
    same("the key after a reset", sim.get("kv/kept")?.0, 404)
}

fn own_address() -> Outcome {
    let sim = Controlled::start(&["-client=0.0.0.0"])?;
    same("with -client", sim.control.ip().to_string(), "127.0.0.1".to_owned())?;
    let sim = Controlled::start(&["-sim-address=127.0.0.2"])?;
    same("with -sim-address", sim.control.ip().to_string(), "127.0.0.2".to_owned())?;
    sim.control("GET", "stats", Value::Null)?;
    for (flags, why) in [
        (&["-sim-port=0", "-sim-address=here"][..], "-sim-address = here: must be an IP address"),
        (&["-sim-port=70000"], "-sim-port = 70000: must be from 0 to 65535"),
        (&["-sim-address=127.0.0.1"], "-sim-address requires -sim-port"),
        (&["-sim-host=a"], "-sim-host requires -sim-port"),
    ] {
        let mut agent = Command::new("timeout");
        agent.arg("20").arg(consul::binary(consul::SIM)?).args(["agent", "-dev", "-http-port=0"]);
        let output = agent.args(flags).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.code() != Some(1) || !said.contains(why) {
            return Err(format!("{flags:?}: {}: {said}", output.status).into());
        }
    }
    Ok(())
}

fn a_file_says_that_it_answers() -> Outcome {
    let folder = Folder::new();
    let file = folder.file("ready", "of an earlier process");
    let flag = format!("-sim-ready-file={file}");
    let mut sim = Served::start_with(&[&flag, "-sim-port=0"])?;
    let ready: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    same("urls", ready["urls"][0].as_str(), sim.urls.first().map(String::as_str))?;
    same("control", ready["control_urls"][0].as_str(), sim.urls.last().map(String::as_str))?;
    let pid = sim.child.id();
    same("pid", ready["pid"].as_u64(), Some(pid.into()))?;
    Command::new("kill").args(["-TERM", &pid.to_string()]).status()?;
    same("its status", sim.child.wait()?.code(), Some(1))?;
    same("the file afterwards", std::fs::exists(&file)?, false)?;
    let mut sim = Served::start_with(&[&flag])?;
    folder.file("ready", "of a later process");
    Command::new("kill").args(["-TERM", &sim.child.id().to_string()]).status()?;
    sim.child.wait()?;
    same("that of another", std::fs::read_to_string(&file)?.as_str(), "of a later process")?;
    let pipe = folder.path("pipe").display().to_string();
    same("a pipe", Command::new("mkfifo").arg(&pipe).status()?.success(), true)?;
    let flag = format!("-sim-ready-file={pipe}");
    let mut sim = Command::new("timeout");
    sim.arg("20").arg(consul::binary(consul::SIM)?).args(["agent", "-http-port=0", &flag]);
    let output = sim.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    same("its words", said.contains("it is not a regular file"), true)?;
    same("the pipe afterwards", std::fs::exists(&pipe)?, true)
}
