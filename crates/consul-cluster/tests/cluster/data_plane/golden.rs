//! Conversations between nodes of an earlier release: a node of this one answers their requests as they
//! were answered, and takes the answers as they were meant.

use super::replies::{in_the_middle, message};
use super::*;
use crate::support::golden;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

/// The body of a reply, or the kind of an error and words in its message.
type Expected = Result<&'static str, (Kind, &'static str)>;

/// The calls: the name of the handler, the body, and what the caller gets.
const CALLS: [(&str, &str, Expected); 5] = [
    ("echo", "some bytes", Ok("some bytes")),
    ("echo", "", Ok("")),
    ("json", "[1,{\"a\":null}]", Ok("[1,{\"a\":null}]")),
    ("fail", "why not", Err((Kind::Http, "it fails: why not"))),
    ("absent", "x", Err((Kind::NotFound, "no handler"))),
];

fn body(name: &str, text: &str) -> Body {
    if name == "json" { Body::json(text.to_owned()) } else { Body::bytes(text.to_owned()) }
}

async fn answer(request: Request) {
    let reply = match request.name.as_str() {
        "fail" => Err(format!("it fails: {}", String::from_utf8_lossy(&request.body.bytes))),
        _ => Ok(request.body.clone()),
    };
    request.reply(reply);
}

fn answering(world: &World) -> (Node, String) {
    let node = world.node(options("n1"), &["echo", "json", "fail"], answer);
    let address = address(world, &node);
    (node, address)
}

/// Makes the calls to `n1`, whose data plane listens at this address.
fn call_all(address: &str) {
    let world = World::new();
    let caller = world.echo(options("n2"));
    world.member("n1", address);
    for (name, text, expected) in CALLS {
        let as_usual = CallOptions {
            timeout: PATIENCE,
            idempotency_key: Some("the same".to_owned()),
            ..CallOptions::default()
        };
        let body = |text| body(name, text);
        let asked = body(text);
        let call = caller.plane.call("n1", name, &asked, &as_usual);
        match (world.runtime.block_on(call), expected) {
            (Ok(reply), Ok(expected)) => assert_eq!(reply, body(expected)),
            (reply, Err((kind, words))) => _ = refused(reply, kind, words),
            (reply, _) => panic!("{name}: {reply:?}"),
        }
    }
}

/// The conversation of two nodes of this release, message by message.
fn conversation() -> String {
    let world = World::new();
    let (_node, address) = answering(&world);
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let record = Arc::clone(&said);
    let between = in_the_middle(&address, move |request, forward| {
        let reply = forward(request);
        let both = [request, &reply].map(|it| String::from_utf8_lossy(it).into_owned());
        record.lock().expect("no panic").extend(both);
        reply
    });
    call_all(&between);
    let said = said.lock().expect("no panic");
    serde_json::to_string_pretty(&*said).expect("JSON")
}

fn of_each_release() -> Vec<Vec<String>> {
    let texts = golden::of_each_release("conversation.json", conversation);
    texts.iter().map(|text| serde_json::from_str(text).expect("a list of texts")).collect()
}

/// A message without what differs each time.
fn lasting(message: &str) -> String {
    let differs = ["date: ", "host: ", "node-deadline-ms: "];
    let lasts = |line: &&str| !differs.iter().any(|name| line.starts_with(name));
    let lines = message.split("\r\n").filter(lasts);
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_requests_of_each_release_are_answered_as_they_were() {
    for said in of_each_release() {
        let world = World::new();
        let (_node, address) = answering(&world);
        let mut caller = TcpStream::connect(address).expect("a connection");
        for both in said.chunks(2) {
            caller.write_all(both[0].as_bytes()).expect("a node that reads");
            let reply = message(&mut caller).expect("a reply");
            let reply = String::from_utf8(reply).expect("text");
            assert_eq!(lasting(&reply), lasting(&both[1]), "to {}", both[0]);
        }
    }
}

#[test]
fn the_replies_of_each_release_mean_what_they_meant() {
    for said in of_each_release() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (asked, requests) = mpsc::channel();
        let replies: Vec<_> = said.chunks(2).map(|both| both[1].clone()).collect();
        thread::spawn(move || {
            let mut replies = replies.into_iter();
            for caller in listener.incoming() {
                let mut caller = caller.expect("a connection");
                while let Some(request) = message(&mut caller) {
                    let Some(reply) = replies.next() else { return };
                    asked.send(request).expect("a test that waits");
                    caller.write_all(reply.as_bytes()).expect("a caller that reads");
                }
            }
        });
        call_all(&address);
        // A node of that release reads what it wrote itself; it ignores further headers.
        for both in said.chunks(2) {
            let request = requests.try_recv().expect("a request");
            let request = String::from_utf8(request).expect("text");
            for line in lasting(&both[0]).lines() {
                assert!(request.split("\r\n").any(|it| it == line), "{line:?} is not in {request}");
            }
        }
    }
}
