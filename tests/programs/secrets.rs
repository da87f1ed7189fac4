//! Secrets that a program gives the library in every place that takes one, and nothing that is shown to operators has
//! any: no log line, page, number, document, event or audit line.

use crate::support::PATIENCE;
use crate::support::authority::{Authority, Folder, Identity};
use crate::support::consul::{self, RealConsul, SIM};
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

/// The beginning of each planted key, value, parameter, password and secret of the cluster.
const PLANTED: &str = "planted-";

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    for form in ["text", "json", "function"] {
        let name = format!("nothing_that_is_shown_has_a_secret_and_lines_go_to_{form}");
        let missing = consul::is_missing(SIM, &name);
        trials.add_unless(missing, name, move || nothing_that_is_shown_has_a_secret(form));
    }
    trials
}

fn nothing_that_is_shown_has_a_secret(form: &str) -> Result<(), Failed> {
    let consul = RealConsul::start_with_acl(SIM, "deny")?;
    let (authority, folder) = (Authority::new("cluster"), Folder::new());
    let identity = authority.sign(&["node"]);
    let mut shown = run(form, &consul, &authority, &identity, &folder)?;
    let audit = fs::read_to_string(folder.path("audit.log"))?;
    assert!(audit.contains("read_data key=\"audited-key\" result=ok"), "{audit}");
    let log = fs::read_to_string(folder.path("manager.log"))?;
    assert!(log.contains("has joined"), "{log}");
    shown.push(("the audit log", audit));
    shown.push(("the manager's log", log));
    let of_key: Vec<_> = identity.key.lines().filter(|line| !line.starts_with('-')).collect();
    let tokens = shown.iter().find(|(what, _)| *what == "secrets").map(|(_, text)| text.clone());
    let tokens = tokens.unwrap_or_default();
    assert!(tokens.lines().count() == 4 && of_key.len() > 1, "{tokens}");
    let secrets = tokens.lines().chain(of_key).chain([PLANTED, &consul.token]);
    for secret in secrets {
        for (what, text) in shown.iter().filter(|(what, _)| *what != "secrets") {
            let line = text.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{secret} in {what}: {line:?}");
        }
    }
    Ok(())
}

/// The output of the program, by where it is, and its `secrets`.
fn run(
    form: &str,
    consul: &RealConsul,
    authority: &Authority,
    identity: &Identity,
    folder: &Folder,
) -> Result<Vec<(&'static str, String)>, Failed> {
    let mut program = Command::new("luajit")
        .arg("tests/programs/secrets.lua")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .envs([("LUA_PATH", "./lua/?.lua;;"), ("LUA_CPATH", "./target/lua/luajit/?.so;;")])
        .envs([("ADDRESS", &consul.address), ("ADMIN", &consul.token)])
        .env_remove("CONSUL_HTTP_ADDR")
        .env("CONSUL_HTTP_TOKEN", &consul.token)
        .env("FORM", form)
        .env("FOLDER", folder.path(""))
        .env("CERT", folder.file("cert.pem", &identity.certificate))
        .env("KEY", folder.file("key.pem", &identity.key))
        .env("CA", folder.file("ca.pem", authority.pem()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(folder.path("stderr"))?)
        .spawn()?;
    let (mut secrets, mut lines) = (String::new(), String::new());
    let mut shown = Vec::new();
    let mut input = program.stdin.take();
    for said in BufReader::new(program.stdout.take().expect("an output")).lines() {
        let said = said?;
        match said.split_once(' ') {
            Some(("secret", secret)) => secrets += &format!("{secret}\n"),
            Some(("line", line)) => lines += &format!("{line}\n"),
            Some(("address", address)) => {
                for path in ["/", "/live", "/ready", "/leader", "/cluster", "/metrics", "/events"] {
                    shown.push((path, get(address, path)?));
                }
                // Its end lets the program go on.
                writeln!(input.take().expect("an input"), "go on")?;
            }
            _ => return Err(said.into()),
        }
    }
    let status = program.wait()?;
    let log = fs::read_to_string(folder.path("stderr"))?;
    assert!(status.success(), "{log}");
    // The searched texts are not empty.
    for (path, part) in
        [("/cluster", "\"points\""), ("/events", "\"points\""), ("/metrics", "store=\"points\"")]
    {
        assert!(shown.iter().any(|(at, text)| *at == path && text.contains(part)), "{shown:?}");
    }
    let all = if form == "function" { &lines } else { &log };
    for part in ["GET /v1/kv/{key}", "acl_token_create", "the endpoint failed", "a watch fails"] {
        assert!(all.contains(part), "{part}: {all}");
    }
    shown.extend([("standard error", log), ("the function's lines", lines), ("secrets", secrets)]);
    Ok(shown)
}

/// The answer to a GET; of a stream the first event.
fn get(address: &str, path: &str) -> Result<String, Failed> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    if path != "/events" {
        stream.read_to_string(&mut answer)?;
        return Ok(answer);
    }
    let mut lines = BufReader::new(stream);
    while !answer.lines().any(|line| line.starts_with("data: {")) {
        assert!(lines.read_line(&mut answer)? > 0, "the stream has ended: {answer}");
    }
    Ok(answer)
}
