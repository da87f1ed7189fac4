//! consul-sim on its socket: invalid requests, too many connections, its end. Each gets
//! Consul's answer or a clean close, and the agent answers afterwards.

use crate::support::AT_ONCE;
pub use crate::support::PATIENCE;
use crate::support::authority::Folder;
use crate::support::consul::{self, RealConsul};
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

/// The limit of connections from one address.
const CONNECTIONS: usize = 200;

pub type Outcome = Result<(), Failed>;
pub type Named = (&'static str, fn() -> Outcome);

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let alone: [Named; 13] = [
        ("command_line_and_files_configure_it", command_line_and_files_configure_it),
        (
            "a_configuration_that_is_not_a_file_is_refused",
            a_configuration_that_is_not_a_file_is_refused,
        ),
        ("unreadable_requests_are_refused_cleanly", unreadable_requests_are_refused_cleanly),
        ("a_chunked_upload_is_stored", a_chunked_upload_is_stored),
        ("each_byte_of_a_request_line_is_taken_or_refused", each_byte_of_a_line),
        ("a_client_that_disconnects_in_mid_request_does_not_affect_others", leaving_in_the_middle),
        ("half_open_connections_leave_room_for_others", half_open_connections_leave_room),
        ("leaving_ends_it_after_the_answer", leaving_ends_it),
        ("a_pid_file_is_written_and_removed", a_pid_file_is_written_and_removed),
        ("sigint_ends_it_promptly", || ends_promptly("INT", &[], 1)),
        ("sigterm_ends_it_promptly", || ends_promptly("TERM", &[], 1)),
        ("sigterm_makes_it_leave_where_it_is_told_to", || {
            ends_promptly("TERM", &["-hcl", "leave_on_terminate = true"], 0)
        }),
        ("sigint_makes_it_leave_where_it_is_told_to", || {
            ends_promptly("INT", &["-hcl", "skip_leave_on_interrupt = false"], 0)
        }),
    ];
    let missing = consul::is_missing(consul::SIM, "consul-sim on its socket");
    for (name, run) in alone {
        trials.add_unless(missing, name, run);
    }
    let what = "malformed requests and too many connections on Consul 1.21";
    let missing = missing || consul::is_missing("1.21", what);
    let name = "malformed_requests_get_the_same_status [1.21]";
    trials.add_unless(missing, name, malformed_requests_get_the_same_status);
    let name = "each_byte_of_a_request_line_has_the_same_effect [1.21]";
    trials.add_unless(missing, name, each_byte_of_a_line_on_both);
    let name = "cut_bodies_have_the_same_effect [1.21]";
    trials.add_unless(missing, name, cut_bodies_have_the_same_effect);
    let name = "the_limits_of_a_request_are_documented [1.21]";
    trials.add_unless(missing, name, the_limits_of_a_request_are_documented);
    let name = "too_many_connections_get_the_same_answer [1.21]";
    trials.add_unless(missing, name, too_many_connections);
    let name = "waits_of_connections_that_were_closed_count_until_they_end [1.21]";
    trials.add_unless(missing, name, waits_that_are_left);
    trials
}

/// A consul-sim for one test.
pub struct Served {
    pub child: Child,
    pub address: SocketAddr,
    /// Where it says that it answers.
    pub urls: Vec<String>,
}

impl Served {
    fn start() -> Result<Served, Failed> {
        Self::start_with(&[])
    }

    pub fn start_with(flags: &[&str]) -> Result<Served, Failed> {
        Self::start_to(flags, Stdio::inherit())
    }

    /// Starts one whose errors go there.
    pub fn start_to(flags: &[&str], errors: Stdio) -> Result<Served, Failed> {
        let mut child = Command::new(consul::binary(consul::SIM)?)
            .args(["agent", "-dev", "-http-port=0"])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let urls: Vec<String> = line
            .split_whitespace()
            .filter(|word| word.contains("://"))
            .map(str::to_owned)
            .collect();
        let address = urls.iter().find_map(|url| url.strip_prefix("http://"));
        let address = address.unwrap_or("127.0.0.1:0").parse()?;
        Ok(Served { child, address, urls })
    }

    /// Checks that it still answers.
    fn answers(&self) -> Outcome {
        let end = Instant::now() + PATIENCE;
        loop {
            // Connections that were just closed may still count.
            let said = talk(self.address, &request("GET", "/v1/status/leader", "", ""))?;
            match said.statuses[..] {
                [200] => return Ok(()),
                [429] if Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
                _ => return Err(format!("afterwards it says {said:?}").into()),
            }
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The bytes that a server sent on a connection until it closed it.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    pub statuses: Vec<u16>,
    pub text: String,
}

/// Sends bytes, and reads until the server closes.
pub fn talk(address: SocketAddr, bytes: &[u8]) -> Result<Said, Failed> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // A server may close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => return Err(format!("the server does not close: {error}").into()),
    }
    let text = String::from_utf8_lossy(&said).into_owned();
    let statuses = text
        .match_indices("HTTP/1.")
        .filter_map(|(place, _)| text.get(place + 9..place + 12)?.parse().ok());
    Ok(Said { statuses: statuses.collect(), text })
}

/// The answer to a request by HTTP/1.0, so that it does not come in chunks.
pub fn ask(address: &str, method: &str, path: &str, body: &str) -> Result<Said, Failed> {
    let length = body.len();
    let asked = format!(
        "{method} {path} HTTP/1.0\r\nHost: consul\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    talk(address.parse()?, asked.as_bytes())
}

/// The answer without what differs between two agents.
pub fn shown(address: &str, method: &str, path: &str, body: &str) -> Result<String, Failed> {
    let said = ask(address, method, path, body)?;
    let is_own = |line: &str| {
        let line = line.to_lowercase();
        ![
            "date:",
            "x-consul-index:",
            "content-length:",
            "\"id\"",
            "\"hash\"",
            "\"nodeid\"",
            "connection:",
            "x-consul-contenthash",
            "\"contenthash\"",
        ]
        .iter()
        .any(|start| line.trim_start().starts_with(start))
            && !["modifyindex", "createindex", "output", "\"lan", "\"wan"]
                .iter()
                .any(|part| line.contains(part))
    };
    let mut lines: Vec<&str> = said.text.lines().filter(|line| is_own(line)).collect();
    if let Some(end) = lines.iter().position(|line| line.is_empty()) {
        lines[..end].sort_unstable();
    }
    Ok(lines.join("\n"))
}

/// A request after which the server closes.
pub fn request(method: &str, target: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: consul\r\nConnection: close\r\n{headers}\r\n{body}"
    )
    .into()
}

fn host(name: &str) -> Vec<u8> {
    format!("GET /v1/status/leader HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n").into()
}

fn put(headers: &str, body: &str) -> Vec<u8> {
    request("PUT", "/v1/kv/served", headers, body)
}

fn get(headers: &str) -> Vec<u8> {
    request("GET", "/v1/status/leader", headers, "")
}

fn command_line_and_files_configure_it() -> Outcome {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("consul-sim.json");
    let meta = json!({"node_meta": {"rack": "r1"}, "node_name": "of the file"});
    std::fs::write(&file, meta.to_string())?;
    let served = Served::start_with(&[
        &format!("-config-file={}", file.display()),
        "-node-meta",
        "c:d:e",
        "-node=named",
    ])?;
    let said = talk(served.address, &request("GET", "/v1/catalog/nodes", "", ""))?;
    let body: Value = serde_json::from_str(said.text.rsplit("\r\n\r\n").next().unwrap_or(""))?;
    let (name, meta) = (&body[0]["Node"], &body[0]["Meta"]);
    if name == "named" && meta["rack"] == "r1" && meta["c"] == "d:e" {
        return Ok(());
    }
    Err(body.to_string().into())
}

fn a_configuration_that_is_not_a_file_is_refused() -> Outcome {
    let folder = Folder::new();
    let pipe = folder.path("pipe.hcl").display().to_string();
    if !Command::new("mkfifo").arg(&pipe).status()?.success() {
        return Err("no pipe".into());
    }
    let large = folder.file("large.hcl", "#".repeat((1 << 20) + 1));
    let binary = folder.file("binary.hcl", b"\xff");
    for (file, why) in [
        (pipe.as_str(), "it is not a regular file but a pipe"),
        ("/dev/zero", "file /dev/zero has unknown extension"),
        (&large, "it has more than 1048576 bytes"),
        (&binary, "At 1:1: illegal"),
    ] {
        let mut agent = Command::new("timeout");
        agent.arg("20").arg(consul::binary(consul::SIM)?);
        let output = agent.args(["agent", "-http-port=0", "-config-file", file]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.code() != Some(1) || !said.contains(why) {
            return Err(format!("{file}: {}: {said}", output.status).into());
        }
    }
    Ok(())
}

fn malformed_requests_get_the_same_status() -> Outcome {
    let real = RealConsul::start("1.21")?;
    let real: SocketAddr = real_address(&real)?;
    let served = Served::start()?;
    let chunked = "Transfer-Encoding: chunked\r\n";
    let large = "x".repeat(512 * 1024 + 1);
    let cases = [
        ("garbage", b"\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n".to_vec()),
        ("text", b"hello\r\n\r\n".to_vec()),
        ("zeros", [&[0; 200][..], b"\r\n\r\n"].concat()),
        ("no version", b"GET /v1/status/leader\r\n\r\n".to_vec()),
        ("HTTP/1.0", b"GET /v1/status/leader HTTP/1.0\r\n\r\n".to_vec()),
        ("no host", b"GET /v1/status/leader HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec()),
        ("two hosts", get("Host: other\r\n")),
        (
            "only line feeds",
            b"GET /v1/status/leader HTTP/1.1\nHost: a\nConnection: close\n\n".to_vec(),
        ),
        ("a bad method", request("G@T", "/v1/status/leader", "", "")),
        ("an unknown method", request("FROB", "/v1/status/leader", "", "")),
        ("a method in small letters", request("get", "/v1/status/leader", "", "")),
        ("a method of no endpoint", request("TRACE", "/v1/kv/a", "", "")),
        ("an encoded name", request("GET", "/v1/%73tatus/leader", "", "")),
        ("a whole URL", request("GET", "http://other/v1/status/leader", "", "")),
        ("a host with a space", host("a b")),
        ("a host with a slash", host("a/b")),
        ("a host with letters beyond ASCII", host("\u{e4}")),
        ("a host with all signs", host("[a!$%&'()*+,-.:;=_~]")),
        ("another expectation", put("Expect: much\r\nContent-Length: 3\r\n", "abc")),
        ("options of the server", request("OPTIONS", "*", "", "")),
        ("a star", request("GET", "*", "", "")),
        ("no slash", request("GET", "v1/status/leader", "", "")),
        ("no target", request("GET", "", "", "")),
        ("a space in the target", request("GET", "/v1/kv/a b", "", "")),
        ("a bad escape", request("GET", "/v1/kv/%zz", "", "")),
        ("a control character", request("GET", "/v1/kv/\u{1}", "", "")),
        ("letters beyond ASCII", request("GET", "/v1/kv/\u{e4}", "", "")),
        ("a long path", request("GET", &format!("/v1/kv/{}", "a".repeat(60_000)), "", "")),
        (
            "nearly the longest path",
            request("GET", &format!("/v1/kv/{}", "a".repeat(65_500)), "", ""),
        ),
        ("many headers", get(&"X-A: b\r\n".repeat(250))),
        ("escaped angle brackets", request("GET", "/v1/kv/%3Ca%3E", "", "")),
        ("a header without a colon", get("nonsense\r\n")),
        ("a header with a space before it", get("X-A : b\r\n")),
        ("a zero in a header", get("X-A: \0\r\n")),
        ("a control character in a header's name", get("X\u{1}A: b\r\n")),
        ("letters beyond ASCII in a header", get("X-A: \u{e4}\r\n")),
        ("a long header", get(&format!("X-A: {}\r\n", "a".repeat(900_000)))),
        (
            "a body where none is looked for",
            request("GET", "/v1/kv/a", "Content-Length: 1\r\n", "a"),
        ),
        ("an upgrade", request("GET", "/v1/status/leader", "Upgrade: h2c\r\n", "")),
        ("no body", put("", "")),
        ("chunks", put(chunked, "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")),
        ("chunks with a trailer", put(chunked, "3\r\nabc\r\n0\r\nX-A: b\r\n\r\n")),
        ("chunks with extensions", put(chunked, "3;a=b\r\nabc\r\n0\r\n\r\n")),
        (
            "chunks and a length",
            put(&format!("{chunked}Content-Length: 4\r\n"), "3\r\nabc\r\n0\r\n\r\n"),
        ),
        ("large chunks", put(chunked, &format!("80001\r\n{large}\r\n0\r\n\r\n"))),
        ("too large a body", put("Content-Length: 524289\r\n", &large)),
        ("a length without end", put("Content-Length: 9999999999\r\n", "abc")),
        ("a negative length", put("Content-Length: -3\r\n", "abc")),
        ("no number for a length", put("Content-Length: x\r\n", "abc")),
        ("too large a number", put("Content-Length: 99999999999999999999\r\n", "abc")),
        ("two lengths", put("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd")),
        ("one length twice", put("Content-Length: 3\r\nContent-Length: 3\r\n", "abc")),
        ("an expectation", put("Expect: 100-continue\r\nContent-Length: 3\r\n", "abc")),
        ("requests in a row", {
            let first = "GET /v1/status/leader HTTP/1.1\r\nHost: consul\r\n\r\n".repeat(3);
            [first.into_bytes(), get("")].concat()
        }),
    ];
    let mut different = Vec::new();
    for (what, bytes) in cases {
        let [ours, theirs] = [talk(served.address, &bytes)?, talk(real, &bytes)?];
        if ours.statuses != theirs.statuses {
            different.push(format!("{what}: {:?}, on 1.21 {:?}", ours.statuses, theirs.statuses));
        }
        served.answers()?;
    }
    if different.is_empty() { Ok(()) } else { Err(different.join("\n").into()) }
}

/// A request whose target, with a byte in the middle, is not encoded; with a pause in its line if `pauses`.
fn with_byte(
    address: SocketAddr,
    before: &str,
    byte: u8,
    after: &str,
    pauses: bool,
) -> Result<Vec<u16>, Failed> {
    let head = [before.as_bytes(), &[byte], after.as_bytes(), b" HTTP/1.1\r\n"].concat();
    let rest = "Host: consul\r\nConnection: close\r\nContent-Length: 1\r\n\r\nv";
    let bytes = [&head[..], rest.as_bytes()].concat();
    if !pauses {
        return Ok(talk(address, &bytes)?.statuses);
    }
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    for part in [&bytes[..6], &bytes[6..before.len() + 1], &bytes[before.len() + 1..]] {
        let _ = stream.write_all(part);
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut said = String::new();
    let _ = stream.read_to_string(&mut said);
    Ok(said.get(9..12).and_then(|status| status.parse().ok()).into_iter().collect())
}

/// A byte, and the statuses of requests with it in the path and in the query.
type Effect = (u8, [Vec<u16>; 2]);

/// The effect of each byte, and the keys that there are then.
fn effects_of_bytes(address: SocketAddr) -> Result<(Vec<Effect>, String), Failed> {
    let mut statuses = Vec::new();
    for byte in 0..=255 {
        let path =
            with_byte(address, &format!("PUT /v1/kv/line/{byte:02x}-"), byte, "z", byte % 4 == 3)?;
        // A part that is cut off takes the condition with it.
        let query =
            with_byte(address, "PUT /v1/kv/line/query?x=", byte, "&cas=999999", byte % 4 == 3)?;
        statuses.push((byte, [path, query]));
    }
    let keys = ask(&address.to_string(), "GET", "/v1/kv/line/?keys", "")?.text;
    // Go escapes what it puts in the place of bytes that are not UTF-8.
    let keys = keys.replace("\\ufffd", "\u{fffd}");
    Ok((statuses, keys.lines().filter(|line| line.contains('"')).collect::<Vec<_>>().join("\n")))
}

fn each_byte_of_a_line() -> Outcome {
    let served = Served::start()?;
    let (statuses, keys) = effects_of_bytes(served.address)?;
    for (byte, [path, query]) in statuses {
        let is_refused = byte <= b' ' || byte == 0x7f;
        let expected = |is_refused, status| if is_refused { vec![400] } else { vec![status] };
        let wanted = expected(is_refused || byte == b'%', 200);
        let of_query = match byte {
            b';' | b'%' => vec![500],
            _ => expected(is_refused, 200),
        };
        if (&path, &query) != (&wanted, &of_query) {
            return Err(format!("{byte:#x}: {path:?} {query:?}").into());
        }
        let shown = match byte {
            b'"' => "\\\"".to_owned(),
            b'\\' => "\\\\".to_owned(),
            b'<' | b'>' | b'&' => format!("\\u{byte:04x}"),
            128.. => char::REPLACEMENT_CHARACTER.to_string(),
            _ => char::from(byte).to_string(),
        };
        let key = match byte {
            b'?' => format!("\"line/{byte:02x}-\""),
            _ => format!("\"line/{byte:02x}-{shown}z\""),
        };
        if keys.contains(&key) == (is_refused || byte == b'%') {
            return Err(format!("{key} is not stored: {keys}").into());
        }
        if keys.contains(&format!("\"line/{byte:02x}-\"")) != (byte == b'?') {
            return Err(format!("{byte:#x} cuts the path").into());
        }
    }
    match keys.contains("line/query") {
        true => Err("a condition was cut off".into()),
        false => Ok(()),
    }
}

fn each_byte_of_a_line_on_both() -> Outcome {
    let real = RealConsul::start("1.21")?;
    let (theirs, served) = (effects_of_bytes(real_address(&real)?)?, Served::start()?);
    let ours = effects_of_bytes(served.address)?;
    for (ours, theirs) in ours.0.iter().zip(&theirs.0) {
        if ours != theirs {
            return Err(format!("{ours:?}, on 1.21 {theirs:?}").into());
        }
    }
    match ours.1 == theirs.1 {
        true => Ok(()),
        false => Err(format!("{}\non 1.21\n{}", ours.1, theirs.1).into()),
    }
}

/// A handler gets the part of the body that came; a handler that needs all of it, or whose value is cut, refuses it.
fn cut_bodies_have_the_same_effect() -> Outcome {
    let real = RealConsul::start("1.21")?;
    let real: SocketAddr = real_address(&real)?;
    let served = Served::start()?;
    let of = |path: &str, headers: &str, body: &str| request("PUT", path, headers, body);
    let (chunked, five) = ("Transfer-Encoding: chunked\r\n", "Content-Length: 5\r\n");
    let (mut said, mut stored) = (Vec::new(), Vec::new());
    for address in [served.address, real] {
        for bytes in [
            of("/v1/kv/cut", five, "ab"),
            of("/v1/kv/cut", chunked, ""),
            of("/v1/kv/cut", chunked, "3\r\nabc\r\n"),
            of("/v1/kv/cut", chunked, "3\r\nab"),
            of("/v1/kv/cut", chunked, "3\r\nabc\r\nzz\r\n"),
            of("/v1/event/fire/cut", five, "ab"),
            of("/v1/txn", five, "[]"),
            of("/v1/agent/service/register", "Content-Length: 50\r\n", r#"{"Name": "whole"}"#),
            of("/v1/agent/service/register", "Content-Length: 50\r\n", r#"{"Name": "cut""#),
            request("GET", "/v1/kv/cut", five, "ab"),
        ] {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&bytes)?;
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            let (head, body) = text.split_once("\r\n\r\n").ok_or("no answer")?;
            let status = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let body = if status == "200" { "" } else { body.trim_end() };
            said.push((status, body.to_owned()));
        }
        let services = shown(&address.to_string(), "GET", "/v1/agent/services", "")?;
        stored.push((services.contains("\"whole\""), services.contains("\"cut\"")));
    }
    let (ours, theirs) = said.split_at(said.len() / 2);
    if ours == theirs && stored == [(true, false); 2] {
        return Ok(());
    }
    Err(format!("{ours:?}\non 1.21:\n{theirs:?}\n{stored:?}").into())
}

/// The requests that Consul takes and `consul-sim` does not.
fn the_limits_of_a_request_are_documented() -> Outcome {
    const SAID: &str = "Keys are up to 65,534 characters long in a request's path, and a request may have up to 256 headers of any length,";
    let page = include_str!("../../../../docs/consul-sim.md");
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    if !page.contains(SAID) {
        return Err("docs/consul-sim.md does not say so".into());
    }
    let real = RealConsul::start("1.21")?;
    let real: SocketAddr = real_address(&real)?;
    let served = Served::start()?;
    for (what, bytes, status) in [
        ("a long key", request("GET", &format!("/v1/kv/{}", "a".repeat(65_535)), "", ""), 414),
        ("more headers", get(&"X-A: b\r\n".repeat(300)), 431),
    ] {
        let [ours, theirs] = [talk(served.address, &bytes)?, talk(real, &bytes)?];
        if ours.statuses != [status] || !matches!(theirs.statuses[..], [200] | [404]) {
            return Err(format!("{what}: {ours:?}, on 1.21 {theirs:?}").into());
        }
    }
    Ok(())
}

fn real_address(real: &RealConsul) -> Result<SocketAddr, Failed> {
    Ok(real.address.parse()?)
}

/// Requests that no client of Consul sends; the servers differ in which of them they accept.
fn unreadable_requests_are_refused_cleanly() -> Outcome {
    let served = Served::start()?;
    let chunked = "Transfer-Encoding: chunked\r\n";
    let long = "a".repeat(5_000_000);
    let cases = [
        ("too long a target", request("GET", &format!("/v1/kv/{long}"), "", "")),
        ("too long a header", get(&format!("X-A: {long}\r\n"))),
        ("too many headers", get(&"X-A: b\r\n".repeat(5_000))),
        ("a header without end", [b"GET / HTTP/1.1\r\nX-A: ", long.as_bytes()].concat()),
        ("a folded header", get("X-A: b\r\n c\r\n")),
        ("another version", b"GET / HTTP/3.0\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec()),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("a tunnel", request("CONNECT", "other:80", "", "")),
        ("a chunk that is none", put(chunked, "zz\r\nabc\r\n0\r\n\r\n")),
        ("a chunk without end", put(chunked, "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n")),
        ("another coding", put("Transfer-Encoding: gzip\r\n", "abc")),
    ];
    for (what, bytes) in cases {
        let said = talk(served.address, &bytes)?;
        if !matches!(said.statuses[..], [] | [400..=599]) {
            return Err(format!("{what}: {said:?}").into());
        }
        served.answers()?;
    }
    Ok(())
}

fn a_chunked_upload_is_stored() -> Outcome {
    let served = Served::start()?;
    let chunks = "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    talk(served.address, &put("Transfer-Encoding: chunked\r\n", chunks))?;
    let said = talk(served.address, &request("GET", "/v1/kv/served?raw", "", ""))?;
    if said.text.ends_with("\r\n\r\nabcde") { Ok(()) } else { Err(format!("{said:?}").into()) }
}

fn leaving_in_the_middle() -> Outcome {
    let served = Served::start()?;
    for part in [
        &b"GET /v1/kv/a?index=1000&wait=1s HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc",
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
        b"GET /v1/kv",
        b"",
    ] {
        // More than the limit, so each must stop counting.
        for _ in 0..CONNECTIONS {
            TcpStream::connect(served.address)?.write_all(part)?;
        }
        served.answers()?;
    }
    let said = talk(served.address, &request("GET", "/v1/kv/a", "", ""))?;
    if said.statuses == [404] { Ok(()) } else { Err(format!("half was stored: {said:?}").into()) }
}

fn half_open_connections_leave_room() -> Outcome {
    let served = Served::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let from = |last| IpAddr::from(Ipv4Addr::new(127, 0, 1, last));
        let mut held = Vec::new();
        for client in 1..=5 {
            for _ in 0..CONNECTIONS {
                let mut stream = connect(from(client), served.address).await?;
                stream.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHos").await?;
                held.push(stream);
            }
        }
        let mut other = connect(from(6), served.address).await?;
        other.write_all(&get("")).await?;
        let mut said = String::new();
        tokio::time::timeout(PATIENCE, other.read_to_string(&mut said)).await??;
        if !said.starts_with("HTTP/1.1 200 ") {
            return Err(format!("beside {} connections: {said}", held.len()).into());
        }
        // The rest of a head must come in time.
        for mut stream in held {
            let closed = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1024])).await;
            closed.map_err(|_| "a half-open connection stays")?.ok();
        }
        Ok::<_, Failed>(())
    })?;
    served.answers()
}

async fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

fn too_many_connections() -> Outcome {
    let real = RealConsul::start("1.21")?;
    let theirs = one_too_many(real_address(&real)?)?;
    let served = Served::start()?;
    let ours = one_too_many(served.address)?;
    served.answers()?;
    let body = |said: &Said| said.text.rsplit("\r\n\r\n").next().map(str::to_owned);
    if ours.statuses == [429] && theirs.statuses == [429] && body(&ours) == body(&theirs) {
        return Ok(());
    }
    Err(format!("{ours:?}, on 1.21 {theirs:?}").into())
}

/// The answer to the first connection above the limit.
fn one_too_many(address: SocketAddr) -> Result<Said, Failed> {
    let held: Vec<_> =
        (0..CONNECTIONS).map(|_| TcpStream::connect(address)).collect::<Result<_, _>>()?;
    let said = talk(address, b"")?;
    drop(held);
    Ok(said)
}

fn waits_that_are_left() -> Outcome {
    let real = RealConsul::start("1.21")?;
    let served = Served::start()?;
    for address in [real_address(&real)?, served.address] {
        let index = talk(address, &request("GET", "/v1/kv/?keys", "", ""))?;
        let index = index.text.lines().find_map(|line| line.strip_prefix("X-Consul-Index: "));
        let index = index.ok_or("no index")?.to_owned();
        let path = format!("/v1/kv/left?index={index}&wait=10m");
        let wait = request("GET", &path, "", "");
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(&wait)?;
            // Not before its query waits.
            stream.set_read_timeout(Some(Duration::from_millis(20)))?;
            if let Ok(read) = stream.read(&mut [0; 1]) {
                return Err(format!("{address}: a query that does not wait: {read}").into());
            }
            held.push(stream);
        }
        drop(held);
        for _ in 0..10 {
            let said = talk(address, b"")?;
            if said.statuses != [429] {
                return Err(format!("{address}: {said:?}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn leaving_ends_it() -> Outcome {
    let served = Served::start()?;
    let said = talk(served.address, &request("PUT", "/v1/agent/leave", "", ""))?;
    assert_eq!(said.statuses, [200]);
    ends(served, 0)
}

/// As Consul's server, which does not leave: it fails.
fn ends_promptly(signal: &str, flags: &[&str], status: i32) -> Outcome {
    let served = Served::start_with(flags)?;
    let mut open = Vec::new();
    for part in [
        &b"GET /v1/kv/a?index=1000&wait=5m HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc",
        b"GET /v1/kv",
        b"",
    ] {
        let mut stream = TcpStream::connect(served.address)?;
        stream.write_all(part)?;
        open.push(stream);
    }
    served.answers()?;
    Command::new("kill").args([&format!("-{signal}"), &served.child.id().to_string()]).status()?;
    ends(served, status)
}

/// The file with the process' number is there while it runs.
fn a_pid_file_is_written_and_removed() -> Outcome {
    let folder = Folder::new();
    let file = folder.path("pid");
    let path = file.to_str().ok_or("a path that is text")?;
    let mut served = Served::start_with(&["-pid-file", path])?;
    let id = served.child.id().to_string();
    assert_eq!(std::fs::read_to_string(&file)?, id);
    Command::new("kill").args(["-TERM", &id]).status()?;
    served.child.wait()?;
    assert!(!file.exists());
    let refused = Command::new(consul::binary(consul::SIM)?)
        .args(["agent", "-dev", "-http-port=0", "-pid-file=/nowhere/pid"])
        .output()?;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("Could not open pid file"), "{said}");
    Ok(())
}

/// It ends with this status, before a query that waits would.
fn ends(mut served: Served, expected: i32) -> Outcome {
    let sent = Instant::now();
    while sent.elapsed() < AT_ONCE {
        match served.child.try_wait()? {
            Some(status) if status.code() == Some(expected) => return Ok(()),
            Some(status) => return Err(format!("it ended with {status}").into()),
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    Err("it did not end".into())
}
