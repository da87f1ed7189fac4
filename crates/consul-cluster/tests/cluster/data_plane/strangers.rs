//! Requests of strangers to a node, and the calls of its members meanwhile.

use super::address;
use super::world::{Node, World, keyed, options};
use crate::support::{AT_ONCE, PATIENCE};
use consul_api::error::Kind;
use consul_cluster::Options;
use consul_cluster::data_plane::ClusterKey;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

/// Sends bytes to a node, and reads its answer until it closes.
fn say(address: &str, bytes: &[u8]) -> String {
    hear(connected(address, bytes))
}

fn connected(address: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    // A node may close before it has read all.
    let _ = stream.write_all(bytes);
    stream
}

fn hear(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request as a node without a key makes it.
fn request(changes: &[(&str, &str)]) -> String {
    let headers = [
        ("node-protocol", "2"),
        ("node-cluster", "tsdb/cluster/nodes/"),
        ("node-from", "n2"),
        ("node-to", "n1"),
        ("node-call", "echo"),
        ("node-epoch", "0"),
        ("idempotency-key", "k"),
        ("node-deadline-ms", "5000"),
        ("content-length", "2"),
    ];
    let mut head = "POST /v1/call HTTP/1.1\r\nhost: a\r\nconnection: close\r\n".to_owned();
    for (name, value) in headers {
        let changed = changes.iter().find(|(changed, _)| *changed == name);
        head += &format!("{name}: {}\r\n", changed.map_or(value, |(_, value)| value));
    }
    for (name, value) in changes.iter().filter(|(name, _)| !headers.iter().any(|it| it.0 == *name))
    {
        head += &format!("{name}: {value}\r\n");
    }
    head + "\r\nhi"
}

/// A node without a key, and its address.
fn open_node(world: &World) -> (Node, String) {
    let node = world.echo(options("n1"));
    let address = address(world, &node);
    (node, address)
}

#[test]
fn an_invalid_request_is_refused_by_name() {
    let world = World::new();
    let (node, address) = open_node(&world);
    assert!(say(&address, request(&[]).as_bytes()).ends_with("hi"));
    for (changes, status, words) in [
        (&[("node-protocol", "1")][..], 400, "version \"1\""),
        (&[("node-cluster", "other/nodes/")], 421, "to the cluster \"tsdb/cluster/nodes/\""),
        (&[("node-to", "n7")], 421, "the node at that address is \"n1\""),
        (&[("node-call", "nothing")], 404, "no handler of this name"),
        (&[("node-shard", "1")], 409, "stale_epoch: the caller's shard map has epoch 0"),
        (&[("node-epoch", "-1")], 400, "the header node-epoch"),
        (&[("node-from", "%ff")], 400, "the header node-from"),
        (&[("node-deadline-ms", "soon")], 400, "the header node-deadline-ms"),
        (&[("node-deadline-ms", "0")], 408, "its deadline passed"),
        (&[("content-length", "99999999999")], 413, "max_request_bytes is 4194304"),
    ] {
        let answer = say(&address, request(changes).as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{changes:?}: {answer}");
        assert!(answer.contains(words), "{changes:?}: {answer}");
    }
    let other = say(
        &address,
        b"GET /v1/kv/x HTTP/1.1\r\nhost: a\r\nnode-protocol: 2\r\nconnection: close\r\n\r\n",
    );
    assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
    assert_eq!(node.seen.lock().expect("no panic").len(), 1);
}

#[test]
fn random_bytes_and_requests_with_random_changes_break_nothing() {
    let world = World::new();
    let (node, address) = open_node(&world);
    let whole = request(&[("node-shard", "3"), ("node-epoch", "9")]).into_bytes();
    let change = (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..4));
    let changed = prop::collection::vec(change, 1..4).prop_map(move |changes| {
        let mut bytes = whole.clone();
        for (place, with) in changes {
            let at = place.index(bytes.len());
            let end = (at + with.len()).min(bytes.len());
            bytes.splice(at..end, with);
        }
        bytes
    });
    let random = prop::collection::vec(any::<u8>(), 0..300);
    let mut runner =
        TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let said = runner.run(&prop_oneof![random, changed], |bytes| {
        let stream = connected(&address, &bytes);
        // An incomplete request waits for the rest.
        let _ = stream.shutdown(Shutdown::Write);
        let answer = hear(stream);
        prop_assert!(answer.is_empty() || answer.starts_with("HTTP/1."), "{answer}");
        Ok(())
    });
    said.expect("an answer or none");
    let (outcome, took) = world.call(&node, "n1", "echo", "still there", PATIENCE);
    assert!(outcome.is_ok() && took < AT_ONCE);
    assert!(say(&address, request(&[]).as_bytes()).ends_with("hi"));
}

/// Connections that begin a request and never end it.
#[test]
fn slow_strangers_delay_no_member() {
    let world = World::new();
    let (_node, address) = open_node(&world);
    let two = world.echo(options("n2"));
    world.settle();
    let slow: Vec<_> = (0..100)
        .map(|number| {
            let mut stream = TcpStream::connect(&address).expect("a connection");
            let whole = request(&[("content-length", "4000000")]);
            stream.write_all(&whole.as_bytes()[..number * whole.len() / 100]).expect("a part");
            stream
        })
        .collect();
    let (outcome, took) = world.call(&two, "n1", "echo", "", PATIENCE);
    assert!(outcome.is_ok() && took < AT_ONCE, "{outcome:?} after {took:?}");
    drop(slow);
}

#[test]
fn a_node_with_a_key_takes_no_request_without_it() {
    let world = World::new();
    let node = world.echo(keyed("n1"));
    let address = address(&world, &node);
    let without = world.echo(options("n2"));
    let other = Some(ClusterKey::new("the secret of another"));
    let other = world.echo(Options { cluster_key: other, ..options("n3") });
    world.settle();
    let answer = say(&address, request(&[]).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    for stranger in [&without, &other] {
        let error = world.call(stranger, "n1", "echo", "", PATIENCE).0.expect_err("a refusal");
        assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
        assert!(error.message().contains("cluster_key"), "{error}");
    }
    // A node with the key accepts no answer of a node without one.
    let error = world.call(&node, "n2", "echo", "", PATIENCE).0.expect_err("a refusal");
    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
    assert!(node.seen.lock().expect("no panic").is_empty());
}

/// The bytes from one side to the other.
type Heard = Arc<Mutex<Vec<u8>>>;

/// The change that the proxy makes to bytes in transit.
type Change = fn(usize, Vec<u8>) -> Vec<u8>;

/// A proxy between two nodes, which records the bytes of both. It forwards them as `change` returns
/// them: the first node's (0), and the answers (1).
fn in_between(to: String, change: Change) -> (String, [Heard; 2]) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let heard: [Heard; 2] = Default::default();
    let hears = heard.clone();
    thread::spawn(move || {
        for from in listener.incoming() {
            let from = from.expect("a connection");
            let to = TcpStream::connect(&to).expect("a connection");
            for (side, (input, output)) in [(&from, &to), (&to, &from)].into_iter().enumerate() {
                let mut input = input.try_clone().expect("a copy");
                let mut output = output.try_clone().expect("a copy");
                let hears = Arc::clone(&hears[side]);
                thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(count @ 1..) = input.read(&mut bytes) {
                        hears.lock().expect("no panic").extend_from_slice(&bytes[..count]);
                        if output.write_all(&change(side, bytes[..count].to_vec())).is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    (address, heard)
}

/// The node `n1`, in a separate world, so that `n2` reaches it through the proxy.
fn far_node() -> (World, Node, String) {
    let far = World::new();
    let node = far.echo(keyed("n1"));
    let address = address(&far, &node);
    (far, node, address)
}

fn has(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).rposition(|it| it == part)
}

#[test]
fn a_recorded_request_cannot_be_used_again() {
    let (_far, node, address) = far_node();
    // Each call is forwarded twice, on the same connection.
    let (between, heard) = in_between(address.clone(), |side, bytes| match has(&bytes, b"POST") {
        Some(0) if side == 0 => bytes.repeat(2),
        _ => bytes,
    });
    let world = World::new();
    let two = world.echo(keyed("n2"));
    world.member("n1", &between);
    assert!(world.call(&two, "n1", "echo", "pay 5", PATIENCE).0.is_ok());
    let begun = Instant::now();
    while has(&heard[1].lock().expect("no panic"), b"its counter is not above").is_none() {
        assert!(begun.elapsed() < PATIENCE, "the second one was not answered");
        thread::yield_now();
    }
    // A new connection has another nonce.
    let said = heard[0].lock().expect("no panic").clone();
    let call = has(&said, b"POST").expect("a call");
    let end = b"GET /v1/nonce HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    for again in [&said[..], &said[call..]] {
        let answer = say(&address, &[again, end].concat());
        assert!(answer.contains("HTTP/1.1 401 "), "{answer}");
    }
    assert_eq!(node.seen.lock().expect("no panic").len(), 1, "the first time only");
}

#[test]
fn a_request_or_a_reply_that_was_changed_on_the_way_is_refused() {
    fn put(mut bytes: Vec<u8>, from: &[u8], into: &[u8]) -> Vec<u8> {
        if let Some(at) = has(&bytes, from) {
            bytes[at..at + from.len()].copy_from_slice(into);
        }
        bytes
    }
    let changes: [(Change, usize); 4] = [
        (|side, bytes| if side == 0 { put(bytes, b"pay 5", b"pay 9") } else { bytes }, 0),
        (|side, bytes| if side == 0 { put(bytes, b"from: n2", b"from: n3") } else { bytes }, 0),
        (|side, bytes| if side == 1 { put(bytes, b"pay 5", b"pay 9") } else { bytes }, 1),
        (
            |side, bytes| {
                if side == 1 { put(bytes, b"octet-stream", b"octet-steaks") } else { bytes }
            },
            1,
        ),
    ];
    let (_far, node, address) = far_node();
    let world = World::new();
    let two = world.echo(keyed("n2"));
    for (change, seen) in changes {
        let (between, _) = in_between(address.clone(), change);
        world.member("n1", &between);
        two.plane.poll();
        node.plane.poll();
        node.seen.lock().expect("no panic").clear();
        let error = world.call(&two, "n1", "echo", "pay 5", PATIENCE).0.expect_err("a refusal");
        assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
        assert_eq!(node.seen.lock().expect("no panic").len(), seen, "{error}");
    }
}
