//! Calls to a node that does not answer fail at once after a few failures. Sockets are in real time, the
//! pauses of the circuit breaker on the clock of the test.

use super::world::{Node, World, echo, options};
use super::{refused, stall};
use crate::support::PATIENCE;
use consul_api::api::agent;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_cluster::Options;
use consul_cluster::data_plane::{Body, CallOptions};
use consul_cluster::observe::report::Overviews;
use consul_sim::Fault;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Longer than a node is avoided before a call tries it.
const PAUSE: Duration = Duration::from_secs(3);

/// One attempt to call a node.
fn call(world: &World, from: &Node, to: &str, timeout: Duration) -> Result<Body, Error> {
    let options = CallOptions { timeout, retries: 0, ..CallOptions::default() };
    world.runtime.block_on(from.plane.call(to, "echo", &Body::bytes(""), &options))
}

/// The same while the test goes on.
fn start(world: &World, from: &Node, to: &'static str) -> JoinHandle<Result<Body, Error>> {
    let plane = Arc::clone(&from.plane);
    world.runtime.spawn(async move {
        let options = CallOptions { timeout: PATIENCE, retries: 0, ..CallOptions::default() };
        plane.call(to, "echo", &Body::bytes(""), &options).await
    })
}

/// A port on which nothing listens.
fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// A listener whose process stands still: the machine accepts connections.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    (listener, address)
}

/// Answers every request on a connection as a node does.
fn answer(mut stream: TcpStream) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\nnode-protocol: 2\r\nnode-nonce: abc\r\ncontent-length: 0\r\n\r\n";
    let mut heard = Vec::new();
    loop {
        let mut part = [0; 1024];
        match stream.read(&mut part) {
            Ok(0) => return,
            Ok(count) => heard.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
        if heard.ends_with(b"\r\n\r\n") {
            heard.clear();
            if stream.write_all(ANSWER).is_err() {
                return;
            }
        }
    }
}

/// Passes time on both clocks until a call is refused because its node is avoided.
fn until_avoided(world: &World, from: &Node, to: &'static str, timeout: Duration) -> Error {
    let limit = Instant::now() + PATIENCE;
    loop {
        let error = call(world, from, to, timeout).expect_err("a node that does not answer");
        if error.message().contains("it has been avoided for") {
            return error;
        }
        assert!(Instant::now() < limit, "{error}");
        thread::sleep(Duration::from_millis(20));
        world.simulated.wait(Duration::from_millis(100));
        from.plane.poll();
    }
}

#[test]
fn a_node_that_refuses_connections_is_avoided_until_it_answers() {
    let world = World::new();
    let one = world.echo(options("n1"));
    let address = closed_port();
    world.member("dead", &address.to_string());
    one.plane.poll();
    for _ in 0..3 {
        refused(call(&world, &one, "dead", PATIENCE), Kind::Connect, "refused");
        world.simulated.wait(Duration::from_millis(600));
    }
    let error = call(&world, &one, "dead", PATIENCE);
    let error = refused(
        error,
        Kind::Connect,
        "node \"dead\": call \"echo\": it has been avoided for 600 ms",
    );
    assert!(error.message().contains("(3 failures in a row, the last one: "), "{error}");
    assert!(error.message().contains("; a call tries it in "), "{error}");
    assert!(error.is_retryable() && !error.maybe_applied(), "{error}");
    assert_eq!(error.endpoint(), Some(&*address.to_string()));
    assert!(call(&world, &one, "n1", PATIENCE).is_ok(), "only this node is avoided");
    let listener = TcpListener::bind(address).expect("the port is free");
    thread::spawn(move || {
        listener.incoming().flatten().for_each(|it| _ = thread::spawn(|| answer(it)))
    });
    refused(call(&world, &one, "dead", PATIENCE), Kind::Connect, "it has been avoided for");
    world.simulated.wait(PAUSE);
    for _ in 0..3 {
        assert!(call(&world, &one, "dead", PATIENCE).is_ok());
    }
}

#[test]
fn a_node_that_starts_again_is_not_avoided() {
    let world = World::new();
    let one = world.echo(options("n1"));
    let address = closed_port().to_string();
    world.member("dead", &address);
    until_avoided(&world, &one, "dead", PATIENCE);
    world.member_of_start("dead", &address, "second");
    // The pause may be over by now, but one call alone would try then.
    for _ in 0..2 {
        refused(call(&world, &one, "dead", PATIENCE), Kind::Connect, "refused");
    }
}

#[test]
fn a_silent_node_is_avoided_before_its_first_call_has_timed_out() {
    let world = World::new();
    let one = world.echo(options("n1"));
    let (_listener, address) = silent();
    world.member("silent", &address);
    one.plane.poll();
    let first = start(&world, &one, "silent");
    let error = until_avoided(&world, &one, "silent", Duration::from_millis(200));
    assert!(error.message().contains("no connection within 750 ms"), "{error}");
    assert!(!first.is_finished(), "a call in flight keeps its own time");
    first.abort();
    // One call tries it, on a connection on which the node has to say something first.
    world.simulated.wait(PAUSE);
    let trial = start(&world, &one, "silent");
    let error = until_avoided(&world, &one, "silent", PATIENCE);
    let is_tried = error.message().contains("another call tries it now");
    assert!(trial.is_finished() || is_tried, "{error}");
    let error = world.runtime.block_on(trial).expect("no panic").expect_err("silence");
    assert!(!error.maybe_applied() && error.kind() == Kind::Connect, "{error}");
}

#[test]
fn short_timeouts_find_a_silent_node_but_not_a_slow_handler() {
    let short = Duration::from_millis(100);
    let world = World::new();
    let one = world.echo(options("n1"));
    let (_listener, address) = silent();
    world.member("silent", &address);
    let slow = world.node(options("slow"), &["echo"], stall);
    let quick = world.node(options("quick"), &["other"], echo);
    world.settle();
    until_avoided(&world, &one, "silent", short);
    // As long as a silent node takes to be avoided, and longer.
    for _ in 0..40 {
        [&one, &slow, &quick].iter().for_each(|node| node.plane.poll());
        let error = call(&world, &one, "slow", short).expect_err("a slow handler");
        assert_eq!(error.kind(), Kind::Timeout, "{error}");
        let error = call(&world, &one, "quick", PATIENCE);
        refused(error, Kind::NotFound, "has no handler of this name");
        world.simulated.wait(short);
    }
}

/// A stall of Consul, or of its agent, lets the checks of all nodes fail at once.
#[test]
fn the_last_word_of_a_silent_consul_is_in_the_way_of_no_call() {
    let world = World::new();
    let one = world.echo(options("n1"));
    let two = world.echo(options("n2"));
    let observer = world.echo(Options { observer: true, ..options("gateway") });
    world.member("n3", &closed_port().to_string());
    world.settle();
    let asked = |from: &Node, to: &str| {
        [&one, &two].iter().for_each(|node| node.plane.poll());
        call(&world, from, to, PATIENCE)
    };
    let overviews = [&one, &two]
        .map(|node| Overviews::new(Arc::clone(&node.cluster), Some(Arc::clone(&node.plane))));
    let client = world.simulated.client();
    world.simulated.run(async {
        for id in ["n1", "n2", "n3"] {
            let check = Args::new().arg(format!("service:tsdb-cluster-nodes-{id}"));
            client.call(&agent::CHECK_FAIL, &check).await.expect("a check");
        }
    });
    for _ in 0..20 {
        world.simulated.wait(Duration::from_millis(1));
    }
    for (from, to) in [(&one, "n2"), (&two, "n1"), (&observer, "n1"), (&observer, "n2")] {
        refused(asked(from, to), Kind::Connect, "it is down");
    }
    for node in &overviews {
        assert!(node.ready().is_err_and(|why| why.contains("its check does not pass")));
    }
    world.simulated.agent.add_fault(Fault { partition: true, ..Fault::default() });
    world.simulated.wait(Duration::from_secs(20));
    for _ in 0..10 {
        for (from, to) in [(&one, "n2"), (&two, "n1"), (&observer, "n1"), (&observer, "n2")] {
            asked(from, to).expect("a reply");
        }
        for node in &overviews {
            node.ready().expect("a balancer would take all nodes away");
        }
        world.simulated.wait(Duration::from_secs(1));
    }
    // Who is really down is avoided, as ever.
    until_avoided(&world, &one, "n3", PATIENCE);
    world.simulated.agent.clear_faults();
    world.simulated.wait(Duration::from_secs(20));
    assert!(one.cluster.snapshot().nodes["n2"].is_live);
    refused(asked(&one, "n3"), Kind::Connect, "it is down");
}
