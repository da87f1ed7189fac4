//! Requests that are served in the background, without the program.

use super::refused;
use super::world::{Node, World, echo, keyed, options};
use crate::support::PATIENCE;
use consul_api::error::{Error, Kind};
use consul_cluster::Options;
use consul_cluster::data_plane::{Body, CallOptions, Service};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Replies with the body of the request.
fn echoing() -> Service {
    Arc::new(|body| Box::pin(async move { Ok(body) }))
}

/// A service that goes on when the test lets it: how many have begun, how many may go on, how many have
/// ended.
#[derive(Clone)]
struct Gate {
    begun: Arc<AtomicUsize>,
    open: Arc<Semaphore>,
    ended: Arc<AtomicUsize>,
}

impl Gate {
    fn new() -> Self {
        Gate { begun: Arc::default(), open: Arc::new(Semaphore::new(0)), ended: Arc::default() }
    }

    fn service(&self) -> Service {
        let gate = self.clone();
        Arc::new(move |body| {
            let gate = gate.clone();
            Box::pin(async move {
                gate.begun.fetch_add(1, Ordering::SeqCst);
                gate.open.acquire().await.expect("an open semaphore").forget();
                gate.ended.fetch_add(1, Ordering::SeqCst);
                Ok(body)
            })
        })
    }

    fn wait_until(count: &AtomicUsize, least: usize) {
        while count.load(Ordering::SeqCst) < least {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_service_is_served_although_the_program_does_not_poll() {
    for options in [options, keyed] {
        let world = World::new();
        let idle = world.echo(options("idle"));
        let one = world.echo(options("n1"));
        idle.plane.set_service("copy", Some(echoing()));
        let observer = Options { cluster_key: options("").cluster_key, ..Options::observer("o") };
        let observer = world.node_with(observer, drop);
        world.settle();
        world.simulated.wait(idle.cluster.options().profile.check_ttl * 2);
        refused(world.call(&one, "idle", "echo", "", PATIENCE).0, Kind::NotReady, "not polled");
        for from in [&one, &observer, &idle] {
            let body = world.call(from, "idle", "copy", "body", PATIENCE).0.expect("a reply");
            assert_eq!(body.bytes, "body");
        }
        let refusal = world.call(&one, "n1", "copy", "", PATIENCE).0;
        refused(refusal, Kind::NotFound, "it has no handler of this name");
        idle.plane.set_service("copy", None);
        let refusal = world.call(&one, "idle", "copy", "", PATIENCE).0;
        refused(refusal, Kind::NotFound, "it has no handler of this name");
        assert_eq!(idle.seen.lock().expect("no panic").len(), 0);
    }
}

#[test]
fn the_error_of_a_service_reaches_the_caller() {
    let world = World::new();
    let [one, two] = ["n1", "n2"].map(|id| world.echo(options(id)));
    let newer: Service =
        Arc::new(|_| Box::pin(async { Err(Error::new(Kind::Unsupported, "format 2")) }));
    two.plane.set_service("copy", Some(newer));
    world.settle();
    for from in [&one, &two] {
        let error = world.call(from, "n2", "copy", "", PATIENCE).0;
        refused(error, Kind::Unsupported, "node \"n2\": call \"copy\": format 2");
    }
}

#[test]
fn a_service_runs_to_its_end_although_its_caller_is_gone() {
    let world = World::new();
    let [one, two] = ["n1", "n2"].map(|id| world.echo(options(id)));
    let gate = Gate::new();
    two.plane.set_service("copy", Some(gate.service()));
    world.settle();
    let call = |from: &Node, timeout| {
        let plane = Arc::clone(&from.plane);
        let options = CallOptions { timeout, retries: 0, ..CallOptions::default() };
        world
            .runtime
            .spawn(async move { plane.call("n2", "copy", &Body::bytes(""), &options).await })
    };
    // From another node and from the own one, with a closed connection and with a deadline that passes.
    for from in [&one, &two] {
        let begun = gate.begun.load(Ordering::SeqCst);
        let aborted = call(from, PATIENCE);
        Gate::wait_until(&gate.begun, begun + 1);
        aborted.abort();
        let mut timeout = Duration::from_millis(50);
        while gate.begun.load(Ordering::SeqCst) < begun + 2 {
            // On a busy machine the deadline may pass on the way.
            timeout *= 2;
            let outcome = world.runtime.block_on(call(from, timeout)).expect("no panic");
            refused(outcome, Kind::Timeout, "node \"n2\": call \"copy\": ");
        }
    }
    assert_eq!(gate.ended.load(Ordering::SeqCst), 0);
    gate.open.add_permits(100);
    Gate::wait_until(&gate.ended, gate.begun.load(Ordering::SeqCst));
}

#[test]
fn requests_to_a_slow_service_do_not_use_up_the_calls_to_its_node() {
    let world = World::new();
    let one = world.echo(Options { max_in_flight: 2, ..options("n1") });
    let two = world.node(options("n2"), &["echo"], echo);
    let gate = Gate::new();
    two.plane.set_service("copy", Some(gate.service()));
    world.settle();
    let of_service =
        CallOptions { timeout: PATIENCE, retries: 0, of_service: true, ..CallOptions::default() };
    for _ in 0..2 {
        let (plane, of_service) = (Arc::clone(&one.plane), of_service.clone());
        let call = async move { plane.call("n2", "copy", &Body::bytes(""), &of_service).await };
        world.runtime.spawn(call);
    }
    Gate::wait_until(&gate.begun, 2);
    let empty = Body::bytes("");
    let another = world.runtime.block_on(one.plane.call("n2", "copy", &empty, &of_service));
    refused(another, Kind::RateLimited, "max_in_flight is 2");
    assert!(world.call(&one, "n2", "echo", "", PATIENCE).0.is_ok());
    gate.open.add_permits(2);
}

#[test]
fn services_that_run_are_counted_apart_from_requests_that_wait_for_the_program() {
    let world = World::new();
    let two = Options { max_waiting_requests: 1, ..options("n2") };
    let two = world.node(two, &["echo"], echo);
    let one = world.echo(options("n1"));
    let gate = Gate::new();
    two.plane.set_service("copy", Some(gate.service()));
    world.settle();
    let plane = Arc::clone(&one.plane);
    let first = world.runtime.spawn(async move {
        plane.call("n2", "copy", &Body::bytes(""), &CallOptions::default()).await
    });
    Gate::wait_until(&gate.begun, 1);
    // The place stays taken when the caller has gone, since the service runs on.
    first.abort();
    for from in [&one, &two] {
        let error = world.call(from, "n2", "copy", "", PATIENCE).0;
        let error = refused(error, Kind::RateLimited, "max_waiting_requests is 1");
        assert_eq!((error.status(), error.maybe_applied()), (Some(429), false));
    }
    assert!(world.call(&one, "n2", "echo", "", PATIENCE).0.is_ok());
    gate.open.add_permits(2);
    Gate::wait_until(&gate.ended, 1);
    // The place is free a moment after the end.
    let again = || world.call(&one, "n2", "copy", "2", PATIENCE).0;
    while again().is_err_and(|error| error.kind() == Kind::RateLimited) {}
    assert_eq!(gate.ended.load(Ordering::SeqCst), 2);
}
