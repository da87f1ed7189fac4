//! An attacker without the key between two nodes: a reply that was recorded, changed or made up is
//! never accepted, and no other version of the protocol can be forced.

use super::log::Log;
use super::world::{Node, World, keyed, options};
use super::{address, refused};
use crate::support::PATIENCE;
use consul_api::error::{Error, Kind};
use consul_cluster::Options;
use consul_cluster::data_plane::{Body, CallOptions, ClusterKey, Request};
use futures_util::future::join;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

/// Sends a message to the node and returns its answer.
pub(super) type Forward<'a> = &'a mut dyn FnMut(&[u8]) -> Vec<u8>;

/// Listens between a caller and the node at `node`: `middle` answers each message of the caller.
pub(super) fn in_the_middle(
    node: &str,
    middle: impl Fn(&[u8], Forward) -> Vec<u8> + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (node, middle) = (node.to_owned(), Arc::new(middle));
    thread::spawn(move || {
        for caller in listener.incoming() {
            let mut caller = caller.expect("a connection");
            let mut node = TcpStream::connect(&node).expect("a connection");
            let middle = Arc::clone(&middle);
            thread::spawn(move || {
                while let Some(request) = message(&mut caller) {
                    let reply = middle(&request, &mut |request| {
                        node.write_all(request).expect("a node that reads");
                        message(&mut node).expect("an answer")
                    });
                    if caller.write_all(&reply).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Reads one HTTP message; `None` if the other end has closed.
pub(super) fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |it| it.parse().expect("a length"))];
    stream.read_exact(&mut body).ok()?;
    Some([bytes, body].concat())
}

fn is_call(message: &[u8]) -> bool {
    message.starts_with(b"POST")
}

/// The message with `from` replaced by `into`.
fn changed(message: &[u8], from: &str, into: &str) -> Vec<u8> {
    let text = String::from_utf8(message.to_vec()).expect("text");
    assert!(text.contains(from), "{from:?} is not in {text}");
    text.replace(from, into).into_bytes()
}

/// Two nodes in separate worlds, so that `n2` reaches `n1` only through the attacker.
struct Pair {
    near: World,
    _far: World,
    two: Node,
    one: Node,
    /// The address of `n1`.
    address: String,
}

impl Pair {
    fn new() -> Self {
        async fn tell(request: Request) {
            let text = String::from_utf8_lossy(&request.body.bytes).into_owned();
            let reply = match request.name.as_str() {
                "fail" => Err("not enough money".to_owned()),
                name => Ok(Body::bytes(format!("{name} of {text}"))),
            };
            request.reply(reply);
        }
        let far = World::new();
        let one = far.node(keyed("n1"), &["amount", "pay", "fail"], tell);
        let address = address(&far, &one);
        let near = World::new();
        let two = near.echo(keyed("n2"));
        Pair { near, _far: far, two, one, address }
    }

    /// Puts `middle` before the node of this name, as `n2` sees it.
    fn intercept(
        &self,
        id: &str,
        middle: impl Fn(&[u8], Forward) -> Vec<u8> + Send + Sync + 'static,
    ) {
        self.near.member(id, &in_the_middle(&self.address, middle));
    }

    fn call(&self, to: &str, name: &str, body: &str) -> Result<Body, Error> {
        let body = Body::bytes(body.to_owned());
        let options = CallOptions {
            timeout: PATIENCE,
            idempotency_key: Some("the same".to_owned()),
            ..CallOptions::default()
        };
        self.near.runtime.block_on(self.two.plane.call(to, name, &body, &options))
    }

    /// The number of requests that reached the handlers of `n1`.
    fn seen(&self) -> usize {
        self.one.seen.lock().expect("no panic").len()
    }
}

fn not_believed(outcome: Result<Body, Error>) {
    let error = refused(outcome, Kind::PermissionDenied, "its answer is not signed");
    assert!(error.maybe_applied() && error.attempts() <= 1, "{error:?}");
}

#[test]
fn a_recorded_reply_answers_no_other_call_on_any_connection() {
    let pair = Pair::new();
    let recorded: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let records = Arc::clone(&recorded);
    pair.intercept("n1", move |request, forward| {
        let reply = forward(request);
        records.lock().expect("no panic").push(reply.clone());
        reply
    });
    assert_eq!(pair.call("n1", "amount", "alice").expect("a reply").bytes, "amount of alice");
    // The nonce of the connection, and the reply.
    let [nonce, reply] = recorded.lock().expect("no panic").clone().try_into().expect("two");
    for id in ["n1", "n3"] {
        let (nonce, reply) = (nonce.clone(), reply.clone());
        pair.intercept(
            id,
            move |request, _| {
                if is_call(request) { reply.clone() } else { nonce.clone() }
            },
        );
        for (name, body) in [("pay", "bob"), ("amount", "bob"), ("amount", "alice")] {
            not_believed(pair.call(id, name, body));
        }
    }
    assert_eq!(pair.seen(), 1);
}

#[test]
fn the_reply_before_is_not_believed_on_its_own_connection() {
    let pair = Pair::new();
    let first: Mutex<Option<Vec<u8>>> = Mutex::default();
    pair.intercept("n1", move |request, forward| {
        let reply = forward(request);
        if !is_call(request) {
            return reply;
        }
        first.lock().expect("no panic").get_or_insert(reply).clone()
    });
    assert_eq!(pair.call("n1", "amount", "alice").expect("a reply").bytes, "amount of alice");
    not_believed(pair.call("n1", "amount", "alice"));
    assert_eq!(pair.seen(), 2);
}

#[test]
fn replies_that_change_places_are_not_believed() {
    let pair = Pair::new();
    let (both, replies) = (Barrier::new(2), Mutex::new([Vec::new(), Vec::new()]));
    pair.intercept("n1", move |request, forward| {
        let reply = forward(request);
        if !is_call(request) {
            return reply;
        }
        let place = usize::from(request.ends_with(b"bob"));
        replies.lock().expect("no panic")[place] = reply;
        both.wait();
        replies.lock().expect("no panic")[1 - place].clone()
    });
    let options = CallOptions { timeout: PATIENCE, ..CallOptions::default() };
    let [alice, bob] = ["alice", "bob"].map(Body::bytes);
    let call = |body| pair.two.plane.call("n1", "amount", body, &options);
    let (first, second) = pair.near.runtime.block_on(join(call(&alice), call(&bob)));
    not_believed(first);
    not_believed(second);
}

/// Changes a reply in transit; the first argument is the request.
type Change = fn(&[u8], Vec<u8>) -> Vec<u8>;

#[test]
fn a_reply_that_was_changed_or_made_up_is_not_believed() {
    let cases: [(&str, &str, Change, Kind, &str); 7] = [
        (
            "truncated",
            "amount",
            |_, reply| {
                let short = changed(&reply, "content-length: 15", "content-length: 9");
                short[..short.len() - 6].to_vec()
            },
            Kind::PermissionDenied,
            "does not match its signed digest",
        ),
        (
            "the request reflected",
            "amount",
            |request, _| changed(request, "POST /v1/call HTTP/1.1", "HTTP/1.1 200 OK"),
            Kind::PermissionDenied,
            "is not signed",
        ),
        (
            "an error as a success",
            "fail",
            |_, reply| {
                let reply = changed(&reply, "node-error: http\r\n", "");
                changed(&reply, "500 Internal Server Error", "200 OK")
            },
            Kind::PermissionDenied,
            "is not signed",
        ),
        (
            "an error that denies that the handler ran",
            "fail",
            |_, reply| changed(&reply, "maybe-applied: true", "maybe-applied: false"),
            Kind::PermissionDenied,
            "is not signed",
        ),
        (
            "an error that asks for a retry",
            "fail",
            |_, reply| changed(&reply, "node-error: http", "node-error: not_ready"),
            Kind::PermissionDenied,
            "is not signed",
        ),
        (
            "an older version",
            "amount",
            |_, reply| changed(&reply, "node-protocol: 2", "node-protocol: 1"),
            Kind::Unsupported,
            "version \"1\"",
        ),
        (
            "no version",
            "amount",
            |_, reply| changed(&reply, "node-protocol: 2\r\n", ""),
            Kind::Decode,
            "no version",
        ),
    ];
    let pair = Pair::new();
    for (number, (what, name, change, kind, words)) in cases.into_iter().enumerate() {
        pair.intercept("n1", move |request, forward| {
            let reply = forward(request);
            if is_call(request) { change(request, reply) } else { reply }
        });
        let error = refused(pair.call("n1", name, "alice"), kind, words);
        assert!(error.maybe_applied() && error.attempts() <= 1, "{what}: {error:?}");
        assert_eq!(pair.seen(), number + 1, "{what}: the handler ran once");
    }
}

#[test]
fn an_older_version_cannot_be_forced() {
    let pair = Pair::new();
    let answer: Arc<Mutex<Vec<u8>>> = Arc::default();
    let noted = Arc::clone(&answer);
    for version in ["node-protocol: 1\r\n", "node-protocol: 3\r\n", ""] {
        // In the request: the node refuses it with a text, which is not signed.
        let noted = Arc::clone(&noted);
        pair.intercept("n1", move |request, forward| {
            if !is_call(request) {
                return forward(request);
            }
            let reply = forward(&changed(request, "node-protocol: 2\r\n", version));
            *noted.lock().expect("no panic") = reply.clone();
            reply
        });
        not_believed(pair.call("n1", "amount", "alice"));
        let said = String::from_utf8(answer.lock().expect("no panic").clone()).expect("text");
        assert!(said.starts_with("HTTP/1.1 400 ") && said.contains("speak version 2"), "{said}");
        // In the node's nonce: nothing is sent.
        pair.intercept("n1", move |request, forward| {
            assert!(!is_call(request), "a call in another version");
            changed(&forward(request), "node-protocol: 2\r\n", version)
        });
        let error = pair.call("n1", "amount", "alice").expect_err("a refusal");
        assert!(error.message().contains("speak version 2"), "{error}");
        assert!(!error.maybe_applied(), "{error}");
    }
    assert_eq!(pair.seen(), 0);
}

#[test]
fn keys_rotate_one_node_after_the_other() {
    const OLD: &str = "the secret of last year";
    const NEW: &str = "the secret of this year";
    let world = World::new();
    let node = |id: &str, key| world.echo(Options { cluster_key: Some(key), ..options(id) });
    let before = node("before", ClusterKey::new(OLD));
    let learns = node("learns", ClusterKey::new(OLD).with(NEW));
    let turns = node("turns", ClusterKey::new(NEW).with(OLD));
    let after = node("after", ClusterKey::new(NEW));
    world.settle();
    let order = [(&before, "before"), (&learns, "learns"), (&turns, "turns"), (&after, "after")];
    for (place, (from, _)) in order.iter().enumerate() {
        for (other, (_, to)) in order.iter().enumerate() {
            let (outcome, _) = world.call(from, to, "echo", "", PATIENCE);
            // All that have a secret in common, whichever is the first.
            if place.abs_diff(other) < order.len() - 1 {
                outcome.expect("a reply");
            } else {
                refused(outcome, Kind::PermissionDenied, "cluster_key");
            }
        }
    }
}

#[test]
fn a_request_of_another_key_is_told_to_the_receiver() {
    let log = Log::whole();
    let world = World::new();
    let node = |id: &str, secret| {
        let cluster_key = Some(ClusterKey::new(secret));
        world.echo(Options { cluster_key, ..options(id) })
    };
    let one = node("n1", "the secret of the first");
    let two = node("n2", "the secret of the second");
    world.settle();
    refused(world.call(&one, "n2", "echo", "", PATIENCE).0, Kind::PermissionDenied, "cluster_key");
    assert!(two.seen.lock().expect("no panic").is_empty());
    log.says("no secret of this node's cluster_key signed it");
}
