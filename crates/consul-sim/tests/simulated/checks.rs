//! Checks of all kinds: consul-sim runs them as Consul 1.21 does.

use crate::served::{Outcome, PATIENCE, ask, shown};
use crate::support::answering::Server;
use crate::support::authority::{Authority, Folder};
use crate::support::consul::{self, RealConsul};
use crate::support::trials::Trials;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use libtest_mimic::Failed;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let what = "checks of all kinds, on Consul 1.21";
    let missing = consul::is_missing(consul::SIM, what) || consul::is_missing("1.21", what);
    trials.add_unless(missing, "each_kind_runs [1.21]", each_kind_runs);
    trials.add_unless(
        missing,
        "scripts_run_only_where_they_are_enabled [1.21]",
        scripts_run_only_where_they_are_enabled,
    );
    trials
}

/// Answers each datagram with itself.
fn serve_udp() -> Result<String, Failed> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?.to_string();
    thread::spawn(move || {
        let mut bytes = [0; 100];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..length], from);
        }
    });
    Ok(address)
}

/// A server that redirects `/n` to `/n-1`, answers `/0` with the page that led to it, and redirects other paths to a closed port.
fn serve_redirects() -> Result<String, Failed> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}", listener.local_addr()?);
    let own = address.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = String::new();
            let mut lines = BufReader::new(&stream);
            while !head.ends_with("\r\n\r\n")
                && lines.read_line(&mut head).is_ok_and(|read| read > 0)
            {}
            let path = head.split(' ').nth(1).unwrap_or_default();
            let (status, target) = match path.trim_start_matches('/').parse::<u8>() {
                Ok(0) => ("200 OK", String::new()),
                Ok(count) => ("302 Found", format!("/{}", count - 1)),
                Err(_) => ("302 Found", "http://127.0.0.1:1/x".to_owned()),
            };
            let referer = head.lines().find_map(|line| line.strip_prefix("Referer: "));
            let body = referer.unwrap_or("none").replace(&own, "");
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nLocation: {target}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    });
    Ok(address)
}

/// A server with gRPC's health service, whose services `serving` and the empty one serve.
fn serve_grpc() -> Result<String, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?.to_string();
    thread::spawn(move || {
        runtime.block_on(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, answer))) = connection.accept().await {
                        tokio::spawn(answer_grpc(request, answer));
                    }
                });
            }
        });
    });
    Ok(address)
}

async fn answer_grpc(
    request: http::Request<h2::RecvStream>,
    mut answer: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut asked = Vec::new();
    let mut body = request.into_body();
    while let Some(part) = body.data().await {
        asked.extend_from_slice(&part?);
    }
    let head = || Response::builder().header("content-type", "application/grpc");
    let service = asked.get(7..).unwrap_or_default();
    let status = match service {
        b"" | b"serving" => 1,
        b"idle" => 2,
        _ => {
            let head = head().header("grpc-status", "5").header("grpc-message", "unknown service");
            return answer.send_response(head.body(()).expect("a response"), true).map(drop);
        }
    };
    let mut body = answer.send_response(head().body(()).expect("a response"), false)?;
    body.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false)?;
    body.send_trailers(HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]))
}

/// A check, and whether its output is the same on both.
struct Case {
    name: &'static str,
    definition: Value,
    status: &'static str,
    is_same: bool,
}

fn case(name: &'static str, status: &'static str, definition: Value) -> Case {
    Case { name, definition, status, is_same: true }
}

/// With an output whose reason is that of another library.
fn roughly(name: &'static str, status: &'static str, definition: Value) -> Case {
    Case { is_same: false, ..case(name, status, definition) }
}

fn each_kind_runs() -> Outcome {
    let folder = Folder::new();
    let tls = Server::tls(Authority::new("the CA").sign(&["localhost"]).server(None)).address;
    let (udp, grpc) = (serve_udp()?, serve_grpc()?);
    let redirects = serve_redirects()?;
    let closed = "127.0.0.1:1";
    let script = |text: &str| json!({"Args": ["sh", "-c", text]});
    let cases = [
        case("udp", "passing", json!({"UDP": udp})),
        roughly("udp-closed", "critical", json!({"UDP": closed})),
        roughly("https", "critical", json!({"HTTP": format!("https://{tls}/")})),
        case(
            "https-any",
            "passing",
            json!({"HTTP": format!("https://{tls}/"), "TLSSkipVerify": true}),
        ),
        roughly("tls", "critical", json!({"TCP": tls, "TCPUseTLS": true})),
        case("tls-any", "passing", json!({"TCP": tls, "TCPUseTLS": true, "TLSSkipVerify": true})),
        case("tls-closed", "critical", json!({"TCP": closed, "TCPUseTLS": true})),
        case("redirected", "passing", json!({"HTTP": format!("{redirects}/9")})),
        case("in-circles", "critical", json!({"HTTP": format!("{redirects}/10")})),
        case("leads-away", "critical", json!({"HTTP": format!("{redirects}/away")})),
        case("grpc", "passing", json!({"GRPC": grpc})),
        case("grpc-service", "passing", json!({"GRPC": format!("{grpc}/serving")})),
        case("grpc-idle", "critical", json!({"GRPC": format!("{grpc}/idle")})),
        case("grpc-unknown", "critical", json!({"GRPC": format!("{grpc}/other")})),
        case("grpc-closed", "critical", json!({"GRPC": closed})),
        roughly("grpc-tls", "critical", json!({"GRPC": tls, "GRPCUseTLS": true})),
        case("ping", "passing", json!({"H2PING": grpc, "H2PingUseTLS": false})),
        case("ping-closed", "critical", json!({"H2PING": closed, "H2PingUseTLS": false})),
        roughly("ping-tls", "critical", json!({"H2PING": grpc, "TLSSkipVerify": true})),
        case("script", "passing", script("echo ok")),
        case("script-warns", "warning", script("echo warned >&2; exit 1")),
        case("script-fails", "critical", script("echo failed; exit 7")),
        case(
            "script-in-order",
            "passing",
            script("echo a; echo b >&2; echo c; echo d >&2; printf e; printf f >&2; printf g"),
        ),
        case("script-killed", "critical", script("echo killed; kill -9 $$")),
        case("script-long", "passing", script("head -c 6000 /dev/zero | tr '\\0' x")),
        case("script-slow", "critical", json!({"Args": ["sleep", "30"], "Timeout": "1s"})),
        case("script-absent", "critical", json!({"Args": ["/nonexistent"]})),
    ];
    let file = folder.file("agent.hcl", "node_name = \"n1\" enable_script_checks = true");
    let ours = RealConsul::start_with_config(consul::SIM, &file)?;
    let real = RealConsul::start_with_config("1.21", &file)?;
    for agent in [&ours, &real] {
        for Case { name, definition, .. } in &cases {
            let mut definition = definition.clone();
            definition["Name"] = json!(name);
            definition["Interval"] = json!("1s");
            let said =
                shown(&agent.address, "PUT", "/v1/agent/check/register", &definition.to_string())?;
            if !said.contains(" 200 ") {
                return Err(format!("{definition}: {said}").into());
            }
        }
    }
    let end = Instant::now() + PATIENCE;
    loop {
        let [ours, theirs] = [checks(&ours.address)?, checks(&real.address)?];
        let wrong = cases.iter().filter_map(|case| {
            let of = |all: &Value| {
                let check = &all[case.name];
                [check["Type"].clone(), check["Status"].clone(), check["Output"].clone()]
            };
            let (ours, theirs) = (of(&ours), of(&theirs));
            let is_right = theirs[1] == case.status
                && ours[..2] == theirs[..2]
                && (ours[2] == theirs[2] || !case.is_same)
                && ours[2] != "";
            (!is_right).then(|| format!("{}: {ours:?}\n  on 1.21: {theirs:?}", case.name))
        });
        let wrong: Vec<String> = wrong.collect();
        if wrong.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(wrong.join("\n").into());
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn checks(address: &str) -> Result<Value, Failed> {
    let said = ask(address, "GET", "/v1/agent/checks", "")?;
    let body = said.text.split_once("\r\n\r\n").ok_or("no body")?.1;
    Ok(serde_json::from_str(body)?)
}

fn scripts_run_only_where_they_are_enabled() -> Outcome {
    let folder = Folder::new();
    let of_file = r#"check { name = "of-file" args = ["true"] interval = "10s" }"#;
    let local = folder.file(
        "local.hcl",
        format!("node_name = \"n1\" enable_local_script_checks = true {of_file}"),
    );
    let body = r#"{"Name": "s", "Args": ["true"], "Interval": "10s"}"#;
    let docker = r#"{"Name": "d", "DockerContainerID": "x", "Args": ["true"], "Interval": "10s"}"#;
    let mut said = Vec::new();
    for version in [consul::SIM, "1.21"] {
        let agent = RealConsul::start_with_config(version, &local)?;
        let refused = shown(&agent.address, "PUT", "/v1/agent/check/register", body)?;
        said.push((refused, checks(&agent.address)?["of-file"]["Name"].clone()));
        if version == consul::SIM {
            let refused = shown(&agent.address, "PUT", "/v1/agent/check/register", docker)?;
            if !refused.contains(" 500 ") || !refused.contains("Docker") {
                return Err(refused.into());
            }
        }
    }
    if said[0] != said[1] || said[0].1 != "of-file" {
        return Err(format!("{said:?}").into());
    }
    Ok(())
}
