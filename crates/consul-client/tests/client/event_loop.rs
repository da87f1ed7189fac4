//! Calls whose bytes an event loop sends and receives: whatever comes in whatever pieces, they end as calls on connections of
//! the client do.

use bytes::Bytes;
use consul_api::api::kv;
use consul_api::error::{Error, Kind};
use consul_api::request::{Args, Defaults};
use consul_api::response::Answer;
use consul_api::table::Endpoint;
use consul_api::value::Value;
use consul_client::transport::Options;
use consul_client::transport::event_loop::{
    LoopCall, LoopClock, LoopTransport, Need, Received, Step,
};
use consul_client::{Client, Settings};
use consul_process::clock::{Clock as _, ManualClock};
use std::sync::Arc;
use std::time::Duration;

const FIRST: &str = "http://127.0.0.1:8501";
const SECOND: &str = "unix:///tmp/second.sock";

const FOUND: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Consul-Index: 7\r\nX-Consul-Knownleader: true\r\n\
    X-Consul-Lastcontact: 0\r\nContent-Length: 89\r\n\r\n\
    [{\"LockIndex\":0,\"Key\":\"a\",\"Flags\":0,\"Value\":\"dmFsdWU=\",\"CreateIndex\":7,\"ModifyIndex\":7}]\n";
const CHUNKED: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nX-Consul-Knownleader: true\r\n\
    X-Consul-Lastcontact: 0\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
    2d\r\n[{\"LockIndex\":0,\"Key\":\"a\",\"Flags\":0,\"Value\":\"\r\n2B\r\ndmFsdWU=\",\"CreateIndex\":7,\"ModifyIndex\":7}]\
    \r\n0\r\n\r\n";
const WRITTEN: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\ntrue";

/// How the other end answers the requests of a call, one after the other.
enum Reply {
    Pieces(Vec<&'static [u8]>),
    /// These bytes, and then the end.
    Ends(&'static [u8]),
    Refuses,
    Breaks,
    Keeps,
}

/// The outcome of a call, whether its connection can be used again, and where its requests went.
struct Played {
    outcome: Result<Answer, Error>,
    can_reuse: bool,
    asked: Vec<(String, String)>,
}

fn play(endpoint: &'static Endpoint, args: Args, replies: Vec<Reply>) -> Played {
    let options = Options::default();
    let transport =
        |url| LoopTransport::new(url, &options).expect("a URL").expect("without TLS and a name");
    let settings = Settings {
        timeout: Duration::from_millis(200),
        retry_count: 1,
        defaults: Defaults::default(),
    };
    let time = ManualClock::new();
    let clock = Arc::new(LoopClock::new(Arc::new(time.clone())));
    let transports: Vec<Arc<dyn consul_client::transport::Transport>> =
        vec![Arc::new(transport(FIRST)), Arc::new(transport(SECOND))];
    let client = Client::new(transports, settings, clock, fastrand::Rng::with_seed(1));
    let mut call = LoopCall::new(async move { client.call(endpoint, &args).await });
    let (mut replies, mut coming, mut asked) = (replies.into_iter(), Vec::new(), Vec::new());
    let mut received = None;
    loop {
        match call.step(received.take()) {
            Step::Done(outcome, can_reuse) => return Played { outcome, can_reuse, asked },
            Step::Waits(Need::Exchange(exchange), _) => {
                let line = exchange.request.split(|byte| *byte == b'\r').next().unwrap_or_default();
                let line = String::from_utf8_lossy(line).into_owned();
                asked.push((exchange.address.host.clone(), line));
                let failed = |sent| vec![Received::Failed { why: "refused".into(), sent }];
                let bytes = |bytes: &[u8]| Received::Bytes(bytes.to_vec());
                coming = match replies.next().expect("no more requests") {
                    Reply::Pieces(pieces) => pieces.into_iter().map(bytes).collect(),
                    Reply::Ends(part) => vec![bytes(part), Received::End],
                    Reply::Refuses => failed(false),
                    Reply::Breaks => failed(true),
                    Reply::Keeps => Vec::new(),
                };
                coming.reverse();
                received = coming.pop();
            }
            Step::Waits(need, until) => {
                received = match need {
                    Need::More => coming.pop(),
                    _ => None,
                };
                if received.is_none() {
                    let until = until.expect("no call waits without a limit");
                    time.advance(until - time.now());
                }
            }
        }
    }
}

fn read(replies: Vec<Reply>) -> Played {
    play(&kv::GET, Args::new().arg("a"), replies)
}

fn write(replies: Vec<Reply>) -> Played {
    play(&kv::PUT, Args::new().arg("a").arg("v").opt("cas", 0), replies)
}

fn hosts(played: &Played) -> Vec<&str> {
    played.asked.iter().map(|(host, _)| host.as_str()).collect()
}

#[test]
fn an_answer_is_the_same_in_any_pieces() {
    for whole in [FOUND, CHUNKED] {
        for cut in 1..whole.len() {
            let (first, second) = whole.split_at(cut);
            let played = read(vec![Reply::Pieces(vec![first, second])]);
            let value = played.outcome.expect("it is whole").value;
            assert_eq!(value, Value::Bytes(b"value".to_vec()), "cut at {cut}");
            assert!(played.can_reuse, "cut at {cut}");
        }
    }
}

#[test]
fn a_connection_with_further_bytes_or_an_end_is_not_used_again() {
    let more: &[u8] = b"HTTP/1.1 200 OK\r\n";
    assert!(!read(vec![Reply::Pieces(vec![&[FOUND, more].concat().leak()[..]])]).can_reuse);
    let closed =
        String::from_utf8_lossy(WRITTEN).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let played = write(vec![Reply::Pieces(vec![closed.leak().as_bytes()])]);
    assert!(played.outcome.is_ok() && !played.can_reuse);
}

#[test]
fn a_read_goes_to_the_next_endpoint_whatever_happens_to_it() {
    let failures = [
        || Reply::Refuses,
        || Reply::Breaks,
        || Reply::Keeps,
        || Reply::Ends(b""),
        || Reply::Ends(&FOUND[..FOUND.len() - 1]),
        || Reply::Pieces(vec![b"SSH-2.0-OpenSSH\r\n"]),
    ];
    for failure in failures {
        let played = read(vec![failure(), Reply::Pieces(vec![FOUND])]);
        assert_eq!(hosts(&played), ["127.0.0.1", "unix:/tmp/second.sock"]);
        let answer = played.outcome.expect("the second one answers");
        assert_eq!((answer.meta.attempts, played.can_reuse), (2, true));
    }
}

#[test]
fn a_write_is_sent_again_only_if_nobody_can_have_got_it() {
    let played = write(vec![Reply::Refuses, Reply::Pieces(vec![WRITTEN])]);
    assert!(played.outcome.is_ok() && played.asked.len() == 2);
    for (lost, kind) in [
        (Reply::Breaks, Kind::Connect),
        (Reply::Ends(b""), Kind::Connect),
        (Reply::Ends(&WRITTEN[..WRITTEN.len() - 1]), Kind::Connect),
        (Reply::Keeps, Kind::Timeout),
    ] {
        let played = write(vec![lost]);
        let error = played.outcome.expect_err("its answer was lost");
        assert_eq!((error.kind(), error.maybe_applied()), (kind, true), "{error}");
        assert_eq!(
            played.asked,
            [("127.0.0.1".to_owned(), "PUT /v1/kv/a?cas=0 HTTP/1.1".to_owned())]
        );
        assert!(!played.can_reuse);
    }
}

#[test]
fn it_connects_to_addresses_and_unix_sockets_without_tls_alone() {
    let address =
        |url: &str| LoopTransport::new(url, &Options::default()).expect("a URL").is_some();
    for url in ["http://127.0.0.1", "http://10.0.0.1:8500/consul", "http://[::1]:8500", "unix:///a"]
    {
        assert!(address(url), "{url}");
    }
    for url in
        ["https://127.0.0.1:8501", "https+unix:///a", "http://localhost:8500", "http://consul"]
    {
        assert!(!address(url), "{url}");
    }
}

#[test]
fn a_request_is_that_of_other_transports_with_its_body() {
    let bytes = |url: &'static str| {
        let transport = LoopTransport::new(url, &Options::default()).unwrap().unwrap();
        let mut call = LoopCall::new(async move {
            use consul_client::transport::Transport as _;
            let request = http::Request::put("/v1/kv/a").body(Bytes::from_static(b"v")).unwrap();
            transport.send(request).await
        });
        let Step::Waits(Need::Exchange(exchange), None) = call.step(None) else {
            panic!("it has an exchange")
        };
        String::from_utf8(exchange.request).expect("ASCII")
    };
    let request = bytes("http://[::1]:8500/behind");
    assert!(request.starts_with("PUT /behind/v1/kv/a HTTP/1.1\r\n"), "{request}");
    let lower = request.to_lowercase();
    assert!(lower.contains("host: [::1]:8500\r\n") && lower.contains("user-agent: consul_ffi/"));
    assert!(request.ends_with("\r\n\r\nv"), "{request}");
    assert!(bytes(SECOND).to_lowercase().contains("host: localhost\r\n"));
}

#[test]
fn after_an_answer_that_is_not_consuls_no_connection_of_before_is_used() {
    let options = Options::default();
    let transport = Arc::new(LoopTransport::new(FIRST, &options).unwrap().unwrap());
    let settings = Settings {
        timeout: Duration::from_millis(200),
        retry_count: 0,
        defaults: Defaults::default(),
    };
    let clock = Arc::new(LoopClock::new(Arc::new(ManualClock::new())));
    let client = Arc::new(Client::new(vec![transport], settings, clock, fastrand::Rng::new()));
    let pool_of = |answer: &[u8]| {
        let client = Arc::clone(&client);
        let mut call =
            LoopCall::new(async move { client.call(&kv::GET, &Args::new().arg("a")).await });
        let Step::Waits(Need::Exchange(exchange), _) = call.step(None) else {
            panic!("it has an exchange")
        };
        let Step::Done(_, can_reuse) = call.step(Some(Received::Bytes(answer.to_vec()))) else {
            panic!("it is complete")
        };
        (exchange.address.pool.clone(), can_reuse)
    };
    let before = pool_of(FOUND);
    assert_eq!(pool_of(FOUND), before);
    let (pool, can_reuse) = pool_of(WRITTEN);
    assert!(pool == before.0 && !can_reuse, "an answer to another call");
    assert_ne!(pool_of(FOUND).0, pool);
}
