//! Misbehaving members affect only the calls to them.

use super::world::{World, keyed, options};
use crate::support::PATIENCE;
use consul_api::error::Kind;
use consul_cluster::Options;
use consul_cluster::data_plane::{Body, CallOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// The limit of a call to a member that never answers.
const LIMIT: Duration = Duration::from_millis(1500);

/// The reaction of a member to a connection.
type Behaviour = fn(TcpStream);

/// The address of a member with this reaction to each connection.
fn bad(behave: Behaviour) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            thread::spawn(move || behave(stream));
        }
    });
    address
}

/// Reads until the head of a request is there.
fn hear(stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    let mut part = [0; 1024];
    while !bytes.windows(4).any(|it| it == b"\r\n\r\n") {
        match stream.read(&mut part) {
            Ok(count @ 1..) => bytes.extend_from_slice(&part[..count]),
            _ => return,
        }
    }
}

fn answer(mut stream: TcpStream, text: &[u8]) {
    hear(&mut stream);
    let _ = stream.write_all(text);
    // Until the caller closes.
    let _ = stream.read(&mut [0]);
}

/// Sends the same bytes until the other end closes.
fn send_for_ever(mut stream: TcpStream, head: &[u8], part: &[u8]) {
    hear(&mut stream);
    let _ = stream.write_all(head);
    while stream.write_all(part).is_ok() {}
}

#[test]
fn a_bad_member_costs_only_its_own_calls() {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nnode-protocol: 2\r\n";
    let silent = |mut stream: TcpStream| drop(stream.read_to_end(&mut Vec::new()));
    let cases: [(&str, Behaviour, &[Kind]); 10] = [
        ("never answers", silent, &[Kind::Timeout]),
        ("closes at once", |_| {}, &[Kind::Connect]),
        ("closes instead of an answer", |mut stream| hear(&mut stream), &[Kind::Connect]),
        ("sends garbage", |stream| answer(stream, b"\0\xff garbage\r\n\r\n"), &[Kind::Decode]),
        (
            "is another server",
            |stream| {
                answer(stream, b"HTTP/1.1 418 Teapot\r\ncontent-length: 2\r\n\r\nhi");
            },
            &[Kind::Decode],
        ),
        (
            "stops in its answer",
            |stream| {
                answer(
                    stream,
                    b"HTTP/1.1 200 OK\r\nnode-protocol: 2\r\ncontent-length: 9\r\n\r\nhi",
                );
            },
            &[Kind::Timeout],
        ),
        (
            "promises too much",
            |stream| {
                answer(
                    stream,
                    b"HTTP/1.1 200 OK\r\nnode-protocol: 2\r\ncontent-length: 99999999999\r\n\r\n",
                );
            },
            &[Kind::TooLarge],
        ),
        (
            "has no end",
            |stream| {
                send_for_ever(
                    stream,
                    b"HTTP/1.1 200 OK\r\nnode-protocol: 2\r\ntransfer-encoding: chunked\r\n\r\n",
                    b"3\r\nabc\r\n",
                );
            },
            &[Kind::TooLarge],
        ),
        (
            "has a head without an end",
            |stream| {
                send_for_ever(stream, OK, b"a: b\r\n");
            },
            &[Kind::Decode],
        ),
        (
            "says it did what it refuses",
            |stream| {
                answer(
                    stream,
                    b"HTTP/1.1 200 OK\r\nnode-protocol: 2\r\nnode-error: nonsense\r\ncontent-length: 0\r\n\r\n",
                );
            },
            &[Kind::Decode],
        ),
    ];
    let world = World::new();
    let one = world.echo(Options { max_reply_bytes: 100_000, ..options("n1") });
    world.echo(options("good"));
    for (what, behave, kinds) in cases {
        let address = bad(behave);
        world.member("bad", &address);
        one.plane.poll();
        let call = |timeout| {
            let plane = Arc::clone(&one.plane);
            world.runtime.spawn(async move {
                let options = CallOptions { timeout, ..CallOptions::default() };
                plane.call("bad", "echo", &Body::bytes(""), &options).await
            })
        };
        let mut calling = call(PATIENCE);
        let (outcome, took) = world.call(&one, "n1", "echo", "", PATIENCE);
        assert!(outcome.is_ok(), "{what}: {outcome:?} after {took:?}");
        if kinds == [Kind::Timeout] {
            assert!(!calling.is_finished(), "{what}: the others waited {took:?} for it");
            calling.abort();
            calling = call(LIMIT);
        }
        let error = world.runtime.block_on(calling).expect("no panic").expect_err(what);
        assert!(kinds.contains(&error.kind()), "{what}: {:?} {error}", error.kind());
        assert!(error.message().contains("node \"bad\""), "{what}: {error}");
    }
}

#[test]
fn a_member_that_gives_no_proof_of_the_key_is_not_believed() {
    let world = World::new();
    let one = world.echo(keyed("n1"));
    let address = bad(|mut stream| {
        hear(&mut stream);
        let nonce =
            b"HTTP/1.1 200 OK\r\nnode-protocol: 2\r\nnode-nonce: abc\r\ncontent-length: 0\r\n\r\n";
        let _ = stream.write_all(nonce);
        answer(stream, b"HTTP/1.1 200 OK\r\nnode-protocol: 2\r\ncontent-length: 2\r\n\r\nhi");
    });
    world.member("bad", &address);
    one.plane.poll();
    let error = world.call(&one, "bad", "echo", "", PATIENCE).0.expect_err("no proof");
    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
}

#[test]
fn retries_are_a_tenth_of_the_calls() {
    let world = World::new();
    let one = world.echo(options("n1"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    world.member("dead", &address);
    one.plane.poll();
    let attempts = (0..100).map(|_| {
        let error = world.call(&one, "dead", "echo", "", PATIENCE).0.expect_err("a closed port");
        assert_eq!(error.kind(), Kind::Connect, "{error}");
        assert!(!error.maybe_applied());
        error.attempts()
    });
    let attempts: Vec<_> = attempts.collect();
    assert_eq!(attempts[0], 4);
    // Ten retries were in the budget.
    let all: u32 = attempts.iter().sum();
    assert!((115..=120).contains(&all), "{all} attempts of 100 calls");
}
