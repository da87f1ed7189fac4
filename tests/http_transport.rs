//! The client against servers on loopback that do not behave: each failure has its kind, names the
//! endpoint, comes within the timeout and leaves the client usable.

use consul_ffi::client::{Client, Settings};
use consul_ffi::clock::SystemClock;
use consul_ffi::error::{Error, Kind};
use consul_ffi::transport::http::HttpTransport;
use consul_ffi::transport::{Options, Transport};
use consul_ffi::wire;
use consul_ffi::wire::request::{Args, Defaults};
use consul_ffi::wire::response::Answer;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_millis(1000);

/// A server that does `serve` to each connection, one after the other; gives its URL.
fn server(mut serve: impl FnMut(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || listener.incoming().flatten().for_each(&mut serve));
    url
}

/// Reads a request's head and answers with these bytes.
fn answer(mut stream: TcpStream, reply: &str) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
    let _ = stream.write_all(reply.as_bytes());
}

fn reply(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn client(urls: &[&str], retry_count: u32) -> Client {
    let transports = urls.iter().map(|url| -> Arc<dyn Transport> {
        let options = Options { connect_timeout: TIMEOUT, ..Options::default() };
        Arc::new(HttpTransport::new(url, &options).expect("a transport"))
    });
    let settings = Settings { timeout: TIMEOUT, retry_count, defaults: Defaults::default() };
    let clock = Arc::new(SystemClock::new());
    Client::new(transports.collect(), settings, clock, fastrand::Rng::with_seed(1))
}

fn call(client: &Client, method: &str, args: Args) -> Result<Answer, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let endpoint = wire::endpoint(method).expect("a method");
    let begun = Instant::now();
    let outcome = runtime.expect("a runtime").block_on(client.call(endpoint, &args));
    assert!(begun.elapsed() < TIMEOUT + Duration::from_millis(700), "{:?}", begun.elapsed());
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
        error.message().contains(&url) && error.retryable() && !error.maybe_applied(),
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
fn a_redirect_of_a_write_is_not_followed() {
    let aim = server(|_| panic!("the redirect was followed"));
    let redirect = reply("307 Temporary Redirect", &format!("Location: {aim}/v1/kv/other\r\n"), "");
    let url = server(move |stream| answer(stream, &redirect));
    let put = Args::new().arg("k").arg("v");
    let error = call(&client(&[&url], 0), "kv_put", put).expect_err("a redirect");
    assert_eq!((error.kind(), error.status()), (Kind::Argument, Some(307)));
}

#[test]
fn the_next_endpoint_is_asked_when_one_refuses() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let refusing = format!("http://{}", closed.local_addr().expect("an address"));
    drop(closed);
    let page = reply("404 Not Found", "Vary: Accept-Encoding\r\n", "");
    let url = server(move |stream| answer(stream, &page));
    let client = client(&[&refusing, &url], 3);
    let answer = get(&client).expect("the second one answers");
    assert_eq!((answer.meta.endpoint.as_str(), answer.meta.attempts), (url.as_str(), 2));
    // It is remembered.
    assert_eq!(get(&client).expect("an answer").meta.attempts, 1);
}

#[test]
fn a_guarded_write_that_may_have_been_applied_is_not_sent_again() {
    let url = server(drop);
    let cas = Args::new().arg("k").arg("v").opt("cas", 1);
    let error = call(&client(&[&url], 3), "kv_put", cas).expect_err("no answer");
    assert_eq!(error.attempts(), 1);
    let error = get(&client(&[&url], 3)).expect_err("no answer");
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
