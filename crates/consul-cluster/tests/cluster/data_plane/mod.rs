//! Calls between nodes through the Rust API, over real sockets: guarantees, limits, and misbehaving
//! nodes. The specs of the Lua API are in `spec`.

mod avoided;
mod bad_peers;
mod encrypted;
mod flood;
mod golden;
mod log;
mod replies;
mod services;
mod strangers;
pub mod world;

use crate::support::{AT_ONCE, PATIENCE};
use consul_api::error::{Error, Kind};
use consul_cluster::Options;
use consul_cluster::data_plane::{Body, CallOptions, ClusterKey, DataPlane, Request};
use consul_sim::{Fault, Retained};
use futures_util::future::join_all;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};
use world::{Node, World, echo, keyed, options};

fn refused(outcome: Result<Body, Error>, kind: Kind, words: &str) -> Error {
    let error = outcome.expect_err("a call that fails");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.message().contains(words), "{words:?} is not in: {error}");
    error
}

#[test]
fn a_call_reaches_its_handler_and_its_reply_the_caller_with_and_without_a_key() {
    for options in [options, keyed] {
        let world = World::new();
        let [one, two] = ["n1", "n2"].map(|id| world.echo(options(id)));
        let as_usual = CallOptions::default();
        world.settle();
        for (from, to) in [(&one, "n2"), (&two, "n1"), (&one, "n1")] {
            let bytes = Body::bytes((0..=255).collect::<Vec<u8>>());
            for body in [bytes, Body::json("[1,{}]"), Body::bytes("")] {
                let call = from.plane.call(to, "echo", &body, &as_usual);
                assert_eq!(world.runtime.block_on(call).expect("a reply"), body);
            }
        }
    }
}

#[test]
fn a_handler_gets_the_caller_and_the_key() {
    let world = World::new();
    let two = world.node(options("ключ %"), &["tell"], |request| async {
        let (from, name, shard) = (&request.from, &request.name, request.shard);
        let told = format!("{from} {name} {shard:?} {} {}", request.epoch, request.idempotency_key);
        request.reply(Ok(Body::bytes(told)));
    });
    let one = world.echo(options("n1"));
    world.settle();
    let epoch = one.cluster.snapshot().map.as_ref().expect("a map").epoch();
    let options = CallOptions {
        shard: Some(7),
        idempotency_key: Some("a b".to_owned()),
        ..CallOptions::default()
    };
    let body = Body::json("null");
    let call = one.plane.call("ключ %", "tell", &body, &options);
    let told = world.runtime.block_on(call).expect("a reply");
    assert_eq!(told.bytes, format!("n1 tell Some(7) {epoch} a b"));
    drop(two);
}

/// Handlers of two nodes that call each other, up to this depth.
#[test]
fn two_nodes_that_call_each_other_at_once_do_not_deadlock() {
    static PLANES: OnceLock<Mutex<Vec<Weak<DataPlane>>>> = OnceLock::new();
    async fn down(request: Request) {
        let level: u32 = String::from_utf8_lossy(&request.body.bytes).parse().expect("a level");
        if level == 0 {
            return request.reply(Ok(Body::bytes("bottom")));
        }
        let (back, below) = (request.from.clone(), Body::bytes((level - 1).to_string()));
        let planes = PLANES.get().expect("planes").lock().expect("no panic").clone();
        let here = planes[usize::from(back == "n1")].upgrade().expect("a node that runs");
        let reply = here.call(&back, "down", &below, &CallOptions::default()).await;
        request.reply(reply.map_err(|error| error.to_string()));
    }
    let world = World::new();
    let [one, two] = ["n1", "n2"].map(|id| world.node(options(id), &["down"], down));
    world.settle();
    let planes = [&one, &two].map(|node| Arc::downgrade(&node.plane)).to_vec();
    assert!(PLANES.set(Mutex::new(planes)).is_ok());
    let options = CallOptions { timeout: PATIENCE, ..CallOptions::default() };
    // 8 from each side, 6 deep: more at a time than connections are kept, but fewer than the limit.
    let body = Body::bytes("6");
    let calls = (0..16).map(|number| {
        let (node, to) = if number % 2 == 0 { (&one, "n2") } else { (&two, "n1") };
        node.plane.call(to, "down", &body, &options)
    });
    for reply in world.runtime.block_on(join_all(calls)) {
        assert_eq!(reply.expect("the bottom").bytes, "bottom");
    }
}

#[test]
fn a_message_that_is_too_large_is_refused_with_the_limit() {
    let world = World::new();
    let small = Options { max_request_bytes: 10, max_reply_bytes: 100, ..options("small") };
    let small = world.node(small, &["zeros"], |request| async {
        let count = String::from_utf8_lossy(&request.body.bytes).parse().expect("a number");
        request.reply(Ok(Body::bytes(vec![0; count])));
    });
    let large = world.echo(Options { max_reply_bytes: 90, ..options("large") });
    world.settle();
    let call = |from, to, name, body: &str| world.call(from, to, name, body, PATIENCE).0;
    let error = call(&small, "large", "echo", &"x".repeat(11));
    let error = refused(error, Kind::TooLarge, "has 11 bytes, and max_request_bytes is 10");
    assert!(!error.maybe_applied());
    let error = call(&large, "small", "zeros", &"x".repeat(11));
    let error = refused(error, Kind::TooLarge, "max_request_bytes is 10");
    assert!(!error.maybe_applied() && error.message().contains("node \"small\""), "{error}");
    for (count, limit) in [("91", 90), ("101", 100)] {
        let error = call(&large, "small", "zeros", count);
        let error = refused(error, Kind::TooLarge, &format!("max_reply_bytes is {limit}"));
        assert!(error.maybe_applied());
    }
    refused(call(&small, "small", "zeros", "101"), Kind::TooLarge, "max_reply_bytes is 100");
    assert_eq!(call(&large, "small", "zeros", "90").expect("a reply").bytes.len(), 90);
    let error = call(&small, "large", &"n".repeat(257), "");
    refused(error, Kind::Argument, "the name has 257 bytes");
}

/// A handler that takes longer than any test waits.
async fn stall(request: Request) {
    tokio::time::sleep(PATIENCE).await;
    drop(request);
}

#[test]
fn a_call_too_many_fails_at_once() {
    let world = World::new();
    let one = world.echo(Options { max_in_flight: 2, ..options("n1") });
    let two = world.node(options("n2"), &["stall", "echo"], stall);
    world.echo(options("n3"));
    world.settle();
    for _ in 0..2 {
        let plane = Arc::clone(&one.plane);
        world.runtime.spawn(async move {
            plane.call("n2", "stall", &Body::bytes(""), &CallOptions::default()).await
        });
    }
    while two.seen.lock().expect("no panic").len() < 2 {
        std::thread::yield_now();
    }
    let (outcome, took) = world.call(&one, "n2", "echo", "", PATIENCE);
    refused(outcome, Kind::RateLimited, "max_in_flight is 2");
    assert!(took < AT_ONCE, "{took:?}");
    assert!(world.call(&one, "n3", "echo", "", PATIENCE).0.is_ok());
}

/// A node with the handler `echo`, whose requests wait in a list.
fn idle(world: &World, options: Options) -> (Node, Arc<Mutex<Vec<Request>>>) {
    let waiting: Arc<Mutex<Vec<Request>>> = Arc::default();
    let kept = Arc::clone(&waiting);
    let node =
        world.node_with(options, move |request| kept.lock().expect("no panic").push(request));
    node.plane.set_handler("echo", true);
    (node, waiting)
}

#[test]
fn requests_that_no_handler_takes_are_refused_when_too_many_wait() {
    let world = World::new();
    let (_idle, waiting) = idle(&world, Options { max_waiting_requests: 1, ..options("idle") });
    let one = world.echo(options("n1"));
    world.settle();
    let plane = Arc::clone(&one.plane);
    let first = world.runtime.spawn(async move {
        plane.call("idle", "echo", &Body::bytes("1"), &CallOptions::default()).await
    });
    while waiting.lock().expect("no panic").is_empty() {
        std::thread::yield_now();
    }
    let (outcome, took) = world.call(&one, "idle", "echo", "2", PATIENCE);
    let error = refused(outcome, Kind::RateLimited, "max_waiting_requests is 1");
    assert_eq!((error.status(), error.attempts(), error.maybe_applied()), (Some(429), 4, false));
    assert!(error.message().ends_with("; tried 4 times"), "{error}");
    assert!(took < AT_ONCE, "{took:?}");
    // The node itself refuses at once; the call is made without the pauses of retries.
    let (body, options) = (Body::bytes("3"), CallOptions { retries: 0, ..CallOptions::default() });
    let begun = Instant::now();
    for _ in 0..21 {
        let call = one.plane.call("idle", "echo", &body, &options);
        let error = world.runtime.block_on(call).expect_err("a full queue");
        assert_eq!((error.kind(), error.attempts()), (Kind::RateLimited, 1), "{error}");
    }
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    let request = waiting.lock().expect("no panic").remove(0).begin().expect("a caller");
    world.runtime.block_on(echo(request));
    assert!(world.runtime.block_on(first).expect("no panic").is_ok());
}

#[test]
fn a_request_that_was_given_up_leaves_its_place_in_the_queue_at_once() {
    let world = World::new();
    let (_idle, waiting) = idle(&world, Options { max_waiting_requests: 1, ..options("idle") });
    let one = world.echo(options("n1"));
    world.settle();
    let call = |timeout| {
        let plane = Arc::clone(&one.plane);
        let options = CallOptions { timeout, retries: 0, ..CallOptions::default() };
        world
            .runtime
            .spawn(async move { plane.call("idle", "echo", &Body::bytes(""), &options).await })
    };
    // One caller closes its connection, the next one times out; no handler takes a request
    // meanwhile.
    for (given_up, timeout) in [(1, PATIENCE), (2, Duration::from_millis(50))] {
        let first = call(timeout);
        while waiting.lock().expect("no panic").len() < given_up {
            std::thread::yield_now();
        }
        if timeout == PATIENCE {
            first.abort();
        }
        while !waiting.lock().expect("no panic")[given_up - 1].is_given_up() {
            std::thread::yield_now();
        }
    }
    let last = call(PATIENCE);
    while waiting.lock().expect("no panic").len() < 3 {
        assert!(!last.is_finished(), "the queue is full");
        std::thread::yield_now();
    }
    let mut requests = std::mem::take(&mut *waiting.lock().expect("no panic"));
    let request = requests.pop().and_then(Request::begin).expect("a caller");
    assert!(requests.into_iter().all(|request| request.begin().is_none()));
    world.runtime.block_on(echo(request));
    assert!(world.runtime.block_on(last).expect("no panic").is_ok());
}

#[test]
fn a_request_whose_deadline_has_passed_reaches_no_handler() {
    let world = World::new();
    let (_idle, waiting) = idle(&world, options("idle"));
    let one = world.echo(options("n1"));
    world.settle();
    let mut timeout = Duration::from_millis(50);
    let request = loop {
        let (outcome, took) = world.call(&one, "idle", "echo", "", timeout);
        // Both sides check the deadline, and either may notice it first.
        refused(outcome, Kind::Timeout, "node \"idle\": call \"echo\": ");
        assert!(took < timeout + AT_ONCE, "{took:?}");
        if let Some(request) = waiting.lock().expect("no panic").pop() {
            break request;
        }
        // On a busy machine the deadline may pass on the way.
        timeout *= 2;
        assert!(timeout < PATIENCE, "no request arrived");
    };
    // It starts when the request arrives.
    while !request.left().is_zero() {
        std::thread::yield_now();
    }
    assert!(request.begin().is_none());
}

#[test]
fn a_program_that_does_not_poll_is_not_ready_and_its_node_lives() {
    let world = World::new();
    let idle = world.echo(options("idle"));
    let one = world.echo(options("n1"));
    world.settle();
    let limit = one.cluster.options().profile.check_ttl * 2;
    world.simulated.wait(limit);
    let error =
        refused(world.call(&one, "idle", "echo", "", PATIENCE).0, Kind::NotReady, "not polled");
    assert_eq!((error.status(), error.attempts(), error.maybe_applied()), (Some(503), 4, false));
    assert!(!idle.plane.is_ready());
    assert!(one.cluster.snapshot().nodes["idle"].is_live);
    idle.plane.poll();
    assert!(world.call(&one, "idle", "echo", "", PATIENCE).0.is_ok());
    idle.plane.set_handler("echo", false);
    world.simulated.wait(limit * 2);
    assert!(idle.plane.is_ready(), "without handlers there is nothing to poll for");
    refused(world.call(&one, "idle", "echo", "", PATIENCE).0, Kind::NotFound, "has no handler");
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_node_that_is_unknown_or_down_fails_at_once() {
    let world = World::new();
    let one = world.echo(options("n1"));
    world.member("gone", "");
    let call = |to| world.call(&one, to, "echo", "", PATIENCE);
    let (outcome, took) = call("n9");
    refused(outcome, Kind::NotFound, "node \"n9\": call \"echo\": there is no such node");
    assert!(took < AT_ONCE, "{took:?}");
    refused(call("gone").0, Kind::Unsupported, "its key has no data_address");
    // The check of `gone` passes for an hour.
    world.simulated.wait(Duration::from_secs(3700));
    one.plane.poll();
    let (outcome, took) = call("gone");
    let error = outcome.expect_err("a node that is down");
    assert!([Kind::Connect, Kind::NotFound].contains(&error.kind()), "{error}");
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn a_wipe_of_consul_makes_no_call_fail() {
    let world = World::new();
    let one = world.echo(options("n1"));
    let two = world.echo(options("n2"));
    world.settle();
    // The second node reaches Consul later than the first.
    let fault = Fault { clients: vec!["1".to_owned()], drop_before: 1.0, ..Fault::default() };
    world.simulated.agent.add_fault(fault);
    world.simulated.agent.restart(Retained::Nothing);
    for step in 0..300 {
        if step == 60 {
            world.simulated.agent.clear_faults();
        }
        world.simulated.wait(Duration::from_millis(50));
        for (from, to) in [(&one, "n2"), (&two, "n1")] {
            from.plane.poll();
            let (outcome, _) = world.call(from, to, "echo", "body", PATIENCE);
            outcome.expect("a reply");
        }
    }
}

#[test]
fn nothing_listens_beyond_loopback_without_a_key() {
    let world = World::new();
    let made = |data_address: &str, key: Option<&str>| {
        let data_address = data_address.to_owned();
        let cluster_key = key.map(ClusterKey::new);
        let options = Options { data_address, cluster_key, ..options("n1") };
        DataPlane::new(world.cluster(options), drop)
    };
    for everywhere in ["0.0.0.0:0", "[::]:0"] {
        let error = made(everywhere, None).expect_err("a refusal");
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.message().contains(everywhere), "{error}");
        assert!(error.message().contains("cluster_key"), "{error}");
    }
    assert!(made("127.0.0.1:0", None).is_ok());
    assert!(made("0.0.0.0:0", Some("a secret of the cluster")).is_ok());
    let error = made("nowhere", None).expect_err("no address");
    assert!(error.message().contains("data_address \"nowhere\""), "{error}");
}

#[test]
fn a_node_that_listens_everywhere_is_found_at_the_host_of_its_address() {
    let world = World::new();
    let node = world.echo(Options { data_address: "0.0.0.0:0".to_owned(), ..keyed("n1") });
    let one = world.echo(keyed("n2"));
    assert!(address(&world, &node).starts_with("127.0.0.1:"));
    assert!(world.call(&one, "n1", "echo", "", PATIENCE).0.is_ok());
}

/// The address of a node, from its key.
fn address(world: &World, node: &Node) -> String {
    world.settle();
    let snapshot = node.cluster.snapshot();
    snapshot.nodes[&node.cluster.options().node_id].record.data_address.clone()
}

/// Many calls at once would hold up the background, and with it the node's beats.
#[test]
fn a_broadcast_calls_each_node_once_however_many_names_it_is_given() {
    let world = World::new();
    let one = world.node(options("n1"), &["echo"], echo);
    world.settle();
    let mut ids: Vec<String> = (0..100_000).map(|id| format!("unknown-{id}")).collect();
    ids.extend(vec!["n1".to_owned(); 1000]);
    let (body, as_usual) = (Body::bytes("x"), CallOptions::default());
    let outcomes = world.runtime.block_on(one.plane.broadcast(ids, "echo", &body, &as_usual));
    assert_eq!((outcomes.len(), one.seen.lock().expect("no panic").len()), (100_001, 1));
    for (id, outcome) in outcomes {
        match id.as_str() {
            "n1" => assert_eq!(outcome.expect("a reply"), body),
            _ => _ = refused(outcome, Kind::NotFound, "there is no such node in the cluster"),
        }
    }
}
