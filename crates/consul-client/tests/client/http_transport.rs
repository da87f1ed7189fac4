//! The client against misbehaving servers on loopback: each failure has its kind, names the
//! endpoint, returns within the timeout and leaves the client usable.

use crate::support::PATIENCE;
use consul_api as wire;
use consul_api::error::{Error, Kind};
use consul_api::request::{Args, Defaults};
use consul_api::response::Answer;
use consul_api::value::Value;
use consul_client::transport::http::HttpTransport;
use consul_client::transport::{Options, Transport, blocking_read};
use consul_client::{Client, Settings};
use consul_process::clock::SystemClock;
use futures_util::FutureExt as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_millis(1000);

/// A server that calls `serve` for each connection, one after the other; returns its URL.
fn server(mut serve: impl FnMut(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || listener.incoming().flatten().for_each(&mut serve));
    url
}

/// Reads a request's head.
fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
}

/// Reads a request's head and answers with these bytes.
fn answer(mut stream: TcpStream, reply: &str) {
    read_head(&mut stream);
    let _ = stream.write_all(reply.as_bytes());
}

fn reply(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn client(urls: &[&str], retry_count: u32) -> Client {
    client_with(urls, retry_count, TIMEOUT)
}

fn client_with(urls: &[&str], retry_count: u32, timeout: Duration) -> Client {
    let transports = urls.iter().map(|url| -> Arc<dyn Transport> {
        let options = Options { connect_timeout: TIMEOUT, ..Options::default() };
        Arc::new(HttpTransport::new(url, &options).expect("a transport"))
    });
    let settings = Settings { timeout, retry_count, defaults: Defaults::default() };
    let clock = Arc::new(SystemClock::new());
    Client::new(transports.collect(), settings, clock, fastrand::Rng::with_seed(1))
}

fn call(client: &Client, method: &str, args: Args) -> Result<Answer, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let endpoint = wire::endpoint(method).expect("a method");
    let begun = Instant::now();
    let outcome = runtime.expect("a runtime").block_on(client.call(endpoint, &args));
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    outcome
}

fn get(client: &Client) -> Result<Answer, Error> {
    call(client, "kv_get", Args::new().arg("k"))
}

#[test]
fn a_server_that_never_answers_is_a_timeout() {
    let mut kept = Vec::new();
    let url = server(move |stream| kept.push(stream));
    let error = get(&client(&[&url], 0)).expect_err("no answer");
    assert_eq!((error.kind(), error.endpoint()), (Kind::Timeout, Some(url.as_str())));
    assert!(
        error.message().contains(&url) && error.is_retryable() && !error.maybe_applied(),
        "{error}"
    );
}

#[test]
fn a_server_that_closes_is_a_broken_connection() {
    let url = server(drop);
    let error = get(&client(&[&url], 0)).expect_err("no answer");
    assert_eq!(error.kind(), Kind::Connect, "{error}");
    assert!(error.message().contains(&url), "{error}");
}

#[test]
fn an_answer_cut_short_is_a_broken_connection() {
    let url = server(|stream| answer(stream, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[{"));
    let error = get(&client(&[&url], 0)).expect_err("half an answer");
    assert_eq!(error.kind(), Kind::Connect, "{error}");
}

#[test]
fn a_page_that_is_not_consuls_is_told_by_its_beginning() {
    let page = reply("200 OK", "Content-Type: text/html\r\n", "<html>It works!</html>");
    let url = server(move |stream| answer(stream, &page));
    let error = get(&client(&[&url], 0)).expect_err("a page");
    assert_eq!(error.kind(), Kind::Decode, "{error}");
    assert!(error.message().contains("It works!"), "{error}");
}

#[test]
fn a_redirect_is_not_followed_and_leaves_the_client_usable() {
    let aim = server(|_| panic!("the redirect was followed"));
    for (status, number) in [("301 Moved Permanently", 301), ("307 Temporary Redirect", 307)] {
        let location = format!("Location: {aim}/v1/kv/other?token=s3cret\r\n");
        let mut replies = vec![reply("200 OK", "", "true")];
        replies.extend([reply(status, &location, ""), reply(status, &location, "")]);
        let url = server(move |stream| answer(stream, &replies.pop().expect("a reply")));
        let client = client(&[&url], 0);
        let put = || Args::new().arg("k").arg("v");
        let error = call(&client, "kv_put", put()).expect_err("a redirect");
        for error in [error, get(&client).expect_err("a redirect of a read")] {
            assert_eq!((error.kind(), error.status()), (Kind::Decode, Some(number)));
            assert!(error.message().contains(&format!("\"{aim}/v1/kv/other\", which")), "{error}");
            assert!(!error.is_retryable() && !error.message().contains("s3cret"), "{error}");
        }
        call(&client, "kv_put", put()).expect("the next call is answered");
    }
}

#[test]
fn the_next_endpoint_is_asked_when_one_refuses() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let refusing = format!("http://{}", closed.local_addr().expect("an address"));
    drop(closed);
    let page = reply("404 Not Found", "X-Consul-Index: 1\r\n", "");
    let url = server(move |stream| answer(stream, &page));
    let client = client(&[&refusing, &url], 3);
    let answer = get(&client).expect("the second one answers");
    assert_eq!((answer.meta.endpoint.as_str(), answer.meta.attempts), (url.as_str(), 2));
    // It is remembered.
    assert_eq!(get(&client).expect("an answer").meta.attempts, 1);
}

#[test]
fn a_guarded_write_that_may_have_been_applied_is_not_sent_again() {
    let url = server(|mut stream| read_head(&mut stream));
    let cas = Args::new().arg("k").arg("v").opt("cas", 1);
    let client = client_with(&[&url], 3, PATIENCE);
    let error = call(&client, "kv_put", cas).expect_err("no answer");
    assert_eq!(error.attempts(), 1);
    let error = get(&client).expect_err("no answer");
    assert_eq!(error.attempts(), 4);
}

#[test]
fn no_leader_is_waited_for_and_a_bad_filter_is_not() {
    let bodies =
        ["No cluster leader", "rpc error making call: EOF", "Failed to create boolean expression"];
    for (body, attempts) in bodies.iter().zip([3, 3, 1]) {
        let text = reply("500 Internal Server Error", "", body);
        let url = server(move |stream| answer(stream, &text));
        let error = get(&client(&[&url], 2)).expect_err("an error");
        assert_eq!(error.attempts(), attempts, "{error}");
    }
}

type Sends = Box<dyn Fn(&mut TcpStream) -> std::io::Result<()> + Send>;

/// The bytes that a server sends instead of a valid answer, and the failure of the call.
struct Bad {
    what: &'static str,
    sends: Sends,
    kind: Kind,
    says: &'static str,
}

fn bad(
    what: &'static str,
    sends: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + 'static,
    kind: Kind,
    says: &'static str,
) -> Bad {
    Bad { what, sends: Box::new(sends), kind, says }
}

fn text(reply: String) -> impl Fn(&mut TcpStream) -> std::io::Result<()> + Clone + Send {
    move |stream| stream.write_all(reply.as_bytes())
}

/// Sends `piece` repeatedly, each time after a pause, until the client closes the connection.
fn endless(
    head: &'static str,
    piece: Vec<u8>,
    pause: Duration,
) -> impl Fn(&mut TcpStream) -> std::io::Result<()> + Send {
    move |stream| {
        stream.write_all(head.as_bytes())?;
        loop {
            stream.write_all(&piece)?;
            thread::sleep(pause);
        }
    }
}

fn bad_answers() -> Vec<Bad> {
    const JSON: &str = "Content-Type: application/json\r\n";
    const HTML: &str = "Content-Type: text/html; charset=utf-8\r\n";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let entry = |value: &str| {
        format!(
            r#"[{{"Key":"k","Value":"{value}","Flags":0,"LockIndex":0,"CreateIndex":1,"ModifyIndex":1}}]"#
        )
    };
    let drip = Duration::from_millis(50);
    vec![
        bad("truncated JSON", text(reply("200 OK", JSON, "[{\"Key\"")), Kind::Decode, "EOF while"),
        bad(
            "bad base64",
            text(reply("200 OK", JSON, &entry("%%%"))),
            Kind::Decode,
            "Invalid symbol",
        ),
        bad(
            "another type",
            text(reply("200 OK", "Content-Type: image/png\r\n", "\u{89}PNG")),
            Kind::Decode,
            "PNG",
        ),
        bad(
            "a web page",
            text(reply("200 OK", HTML, "<html>Log in</html>")),
            Kind::Decode,
            "Log in",
        ),
        bad(
            "a web page's 404",
            text(reply("404 Not Found", HTML, "<html>Oops")),
            Kind::Decode,
            "Oops",
        ),
        bad("not HTTP", text("SSH-2.0-OpenSSH_9.2\r\n".to_owned()), Kind::Connect, "HTTP version"),
        bad(
            "a huge header block",
            endless(
                "HTTP/1.1 200 OK\r\n",
                format!("X-A: {}\r\n", "a".repeat(8000)).into(),
                Duration::ZERO,
            ),
            Kind::Connect,
            "head is too large",
        ),
        bad(
            "a length above the bound",
            text(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n[", (256 << 20) + 1)),
            Kind::TooLarge,
            "256 MiB",
        ),
        bad(
            "a dripping body",
            endless(CHUNKED, b"1\r\n[\r\n".to_vec(), drip),
            Kind::Timeout,
            "within",
        ),
        bad(
            "dripping headers",
            endless("HTTP/1.1 200 OK\r\n", b"X-A: a\r\n".to_vec(), drip * 4),
            Kind::Timeout,
            "within",
        ),
        bad("chunks without an end", endless(CHUNKED, Vec::new(), drip), Kind::Timeout, "within"),
    ]
}

#[test]
fn a_bad_answer_has_its_kind_and_leaves_the_client_usable() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let kv_get = wire::endpoint("kv_get").expect("a method");
    let key = Args::new().arg("k");
    for bad in bad_answers() {
        let mut sends = Some(bad.sends);
        let url = server(move |mut stream| match sends.take() {
            Some(sends) => {
                // The client ends it by closing the connection.
                thread::spawn(move || {
                    read_head(&mut stream);
                    let _ = sends(&mut stream);
                });
            }
            None => answer(stream, &reply("404 Not Found", "X-Consul-Index: 1\r\n", "")),
        });
        let client = client(&[&url], 0);
        let begun = Instant::now();
        let error = runtime.block_on(client.call(kv_get, &key)).expect_err(bad.what);
        assert!(begun.elapsed() < PATIENCE, "{}: {:?}", bad.what, begun.elapsed());
        assert_eq!(error.kind(), bad.kind, "{}: {error}", bad.what);
        for wanted in [bad.says, url.as_str()] {
            assert!(error.message().contains(wanted), "{}: {error}", bad.what);
        }
        assert_eq!(error.endpoint(), Some(url.as_str()), "{}", bad.what);
        let answer = runtime.block_on(client.call(kv_get, &key)).expect(bad.what);
        assert_eq!((answer.value, answer.meta.attempts), (Value::Null, 1), "{}", bad.what);
    }
}

#[test]
fn a_body_that_never_ends_is_refused_at_the_bound() {
    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let sends = endless(head, chunk, Duration::ZERO);
    let url = server(move |mut stream| {
        read_head(&mut stream);
        let _ = sends(&mut stream);
    });
    let args = Args::new().arg("k").opt("timeout_ms", 60_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let kv_get = wire::endpoint("kv_get").expect("a method");
    let call = client(&[&url], 0);
    let error = runtime.expect("a runtime").block_on(call.call(kv_get, &args)).expect_err("no end");
    assert_eq!(error.kind(), Kind::TooLarge, "{error}");
    assert!(error.message().contains(&url) && !error.is_retryable(), "{error}");
}

#[test]
fn a_name_without_an_address_is_another_endpoints_chance() {
    let page = reply("404 Not Found", "X-Consul-Index: 1\r\n", "");
    let url = server(move |stream| answer(stream, &page));
    let answer = get(&client(&["http://no.such.host.invalid:8500", &url], 0)).expect("an answer");
    assert_eq!(answer.meta.endpoint, url);
}

/// Reads requests without a body and answers each with `sends`, on any number of connections.
fn keeping_server(
    sends: impl Fn(&mut TcpStream) -> std::io::Result<()> + Clone + Send + 'static,
) -> String {
    server(move |mut stream| {
        let sends = sends.clone();
        thread::spawn(move || {
            let mut byte = [0];
            while stream.peek(&mut byte).is_ok_and(|count| count == 1) {
                read_head(&mut stream);
                let _ = sends(&mut stream);
            }
        });
    })
}

/// Whether a call that may read in place, on an open connection, completes in one poll; then the result of
/// the call. The server is told when the poll is over.
fn polled_in_place(
    sends: impl Fn(&mut TcpStream, &dyn Fn() -> bool) -> std::io::Result<()> + Clone + Send + 'static,
) -> (bool, Result<Answer, Error>) {
    let is_over = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&is_over);
    let url = keeping_server(move |stream| sends(stream, &|| told.load(Ordering::SeqCst)));
    let client = client_with(&[&url], 0, PATIENCE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (kv_get, key) = (wire::endpoint("kv_get").expect("a method"), Args::new().arg("k"));
    let _ = runtime.block_on(client.call(kv_get, &key));
    let _context = runtime.enter();
    let mut call = Box::pin(client.call(kv_get, &key));
    is_over.store(false, Ordering::SeqCst);
    let polled = blocking_read::allow(|| (&mut call).now_or_never());
    is_over.store(true, Ordering::SeqCst);
    drop(_context);
    match polled {
        Some(outcome) => (true, outcome),
        None => (false, runtime.block_on(call)),
    }
}

const ABSENT: &str = "HTTP/1.1 404 Not Found\r\nX-Consul-Index: 1\r\nContent-Length: 0\r\n\r\n";

#[test]
fn a_call_that_may_wait_in_place_is_over_when_the_answer_comes_at_once() {
    // A busy machine may be late many times.
    let begun = Instant::now();
    while !polled_in_place(|stream, _| stream.write_all(ABSENT.as_bytes())).0 {
        assert!(begun.elapsed() < PATIENCE, "it is never over");
    }
}

#[test]
fn a_call_that_may_wait_in_place_does_so_for_a_moment_and_then_like_any_other() {
    // Each sends the rest when the poll is over, or after a time that the poll must not last.
    let late = |stream: &mut TcpStream, is_over: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !is_over() && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5));
        }
        stream.write_all(ABSENT.as_bytes())
    };
    let drips = |stream: &mut TcpStream, is_over: &dyn Fn() -> bool| {
        let (head, rest) = ABSENT.split_once("\r\n").expect("a status line");
        stream.write_all(format!("{head}\r\nDrips: ").as_bytes())?;
        let begun = Instant::now();
        while !is_over() && begun.elapsed() < PATIENCE {
            stream.write_all(b".")?;
            thread::sleep(Duration::from_millis(5));
        }
        stream.write_all(format!("\r\n{rest}").as_bytes())
    };
    let (is_over, outcome) = polled_in_place(late);
    assert!(!is_over);
    assert_eq!(outcome.expect("an answer").value, Value::Null);
    let (is_over, outcome) = polled_in_place(drips);
    assert!(!is_over);
    assert_eq!(outcome.expect("an answer").value, Value::Null);
}

#[test]
fn a_connection_that_the_server_closed_meanwhile_is_not_used() {
    let url = server(|stream| answer(stream, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue"));
    let client = client(&[&url], 0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let kv_put = wire::endpoint("kv_put").expect("a method");
    for index in 0..20 {
        // A request that must not be sent twice.
        let cas = Args::new().arg("k").arg("").opt("cas", index);
        runtime.block_on(client.call(kv_put, &cas)).expect("an answer");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_answer_that_comes_before_the_request_was_read_counts() {
    let refusal = reply("413 Request Entity Too Large", "", "too large");
    let mut kept = Vec::new();
    let url = server(move |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(refusal.as_bytes());
        // The rest is never read.
        kept.push(stream);
    });
    let transport = HttpTransport::new(&url, &Options::default()).expect("a transport");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    for _ in 0..2 {
        let request = http::Request::put("/v1/txn").body(vec![0; 32 << 20].into());
        let answer = runtime.block_on(async {
            let answer = transport.send(request.expect("a request"));
            tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time")
        });
        let answer = answer.expect("an answer");
        assert_eq!(
            (answer.status().as_u16(), answer.body().as_ref()),
            (413, b"too large".as_slice())
        );
    }
}

#[test]
fn a_big_request_reaches_a_server_that_reads_slowly() {
    const LENGTH: usize = 8 << 20;
    let url = server(|mut stream| {
        read_head(&mut stream);
        let (mut part, mut read) = (vec![0; 1 << 20], 0);
        while read < LENGTH {
            read += stream.read(&mut part).unwrap_or(LENGTH);
            thread::sleep(Duration::from_millis(2));
        }
        let _ = stream.write_all(reply("200 OK", "", &read.to_string()).as_bytes());
    });
    let transport = HttpTransport::new(&url, &Options::default()).expect("a transport");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let request = http::Request::put("/v1/txn").body(vec![0; LENGTH].into()).expect("a request");
    let answer = runtime.expect("a runtime").block_on(transport.send(request)).expect("an answer");
    assert_eq!(answer.body().as_ref(), LENGTH.to_string().as_bytes());
}
