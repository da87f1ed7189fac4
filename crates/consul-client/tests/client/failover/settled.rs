//! The outcome of an acquire or a release whose answer was lost.

use super::Does::*;
use super::{LEADERSHIP_LOST, NO_LEADER, World, acquire, put};
use consul_api::endpoint;
use consul_api::error::Kind;
use consul_api::request::Args;
use consul_api::value::Value;
use consul_process::clock::Clock as _;
use std::time::Duration;

#[test]
fn an_acquire_whose_answer_is_lost_is_settled_by_a_read() {
    for (does, settled_at_ms) in [
        (CutApplied, 0),
        (SayApplied(500, LEADERSHIP_LOST), 0),
        (SayApplied(500, "rpc error making call: EOF"), 0),
        // A silent endpoint takes half of the budget, which leaves time for the read.
        (ApplySilently, 2500),
    ] {
        let world = World::new(vec![vec![does, Work]]);
        let session = world.session();
        let begun = world.now_ms();
        let answer = world.call("kv_put", acquire(&session)).expect("the session holds the lock");
        assert_eq!(answer.value, Value::Bool(true));
        assert_eq!((answer.meta.attempts, world.now_ms() - begun), (1, settled_at_ms));
        assert_eq!(answer.meta.request_ms, settled_at_ms as f64);
        // The URL of each read is another one.
        let before = |what: &str| what.split("&unique=").next().map(str::to_owned);
        let sent: Vec<_> = world.log().iter().filter_map(|got| before(&got.what)).collect();
        assert_eq!(
            sent,
            [format!("PUT /v1/kv/k?acquire={session}"), "GET /v1/kv/k?consistent".into()]
        );
        assert_eq!(world.holder(), Some(session));
    }
}

#[test]
fn the_outcome_of_an_acquire_is_asked_until_there_is_a_leader_again() {
    let mut plan = vec![SayApplied(500, LEADERSHIP_LOST)];
    plan.extend(vec![NO_LEADER; 6]);
    plan.push(Work);
    let world = World::new(vec![plan]);
    let session = world.session();
    let answer = world.call("kv_put", acquire(&session)).expect("the session holds the lock");
    assert_eq!((answer.meta.attempts, world.asked().len()), (1, 8));
}

#[test]
fn an_acquire_that_another_session_won_is_a_conflict() {
    let world = World::new(vec![vec![Cut(0), Work]]);
    let (winner, loser) = (world.session(), world.session());
    world.direct("kv_put", acquire(&winner));
    let error = world.call("kv_put", acquire(&loser)).expect_err("the other one holds it");
    assert_eq!(error.kind(), Kind::Conflict);
    // The acquire may still arrive, and be granted after the other session's release.
    assert!(error.maybe_applied(), "{error}");
}

#[test]
fn an_acquire_that_left_no_trace_stays_open() {
    let world = World::new(vec![vec![Cut(0), Work]]);
    let session = world.session();
    let error = world.call("kv_put", acquire(&session)).expect_err("the lock is free");
    assert_eq!(error.kind(), Kind::Connect);
    assert!(error.maybe_applied() && error.message().contains("the lock was free"), "{error}");
}

#[test]
fn an_acquire_that_cannot_be_looked_up_stays_open() {
    let world = World::new(vec![vec![CutApplied, Nothing]]);
    let session = world.session();
    let begun = world.now_ms();
    let error = world.call("kv_put", acquire(&session)).expect_err("nobody knows");
    assert!(error.maybe_applied() && error.message().contains("unknown"), "{error}");
    assert_eq!(world.now_ms() - begun, 5000);
}

#[test]
fn with_retry_false_nothing_is_looked_up() {
    let world = World::new(vec![vec![CutApplied, Work]]);
    let session = world.session();
    let args = acquire(&session).opt("retry", false);
    assert!(world.call("kv_put", args).expect_err("its fate is unknown").maybe_applied());
    assert_eq!(world.asked(), [0]);
}

#[test]
fn a_release_whose_answer_is_lost_is_settled_by_a_read() {
    let world = World::new(vec![vec![CutApplied, Work, Cut(0), Work]]);
    let session = world.session();
    let release = || put().opt("release", session.as_str());
    world.direct("kv_put", acquire(&session));
    world.call("kv_put", release()).expect("the lock is free");
    world.direct("kv_put", acquire(&session));
    let error = world.call("kv_put", release()).expect_err("the session holds the lock");
    assert!(error.maybe_applied() && error.message().contains("held the lock"), "{error}");
}

#[test]
fn a_cache_settles_neither_an_acquire_nor_a_release() {
    for marks in [
        &[][..],
        &[("x-cache", "HIT"), ("age", "60")],
        &[("age", "18446744073709551615")],
        &[("x-consul-knownleader", "false")],
        &[("x-consul-lastcontact", "60000")],
    ] {
        let world = World::new(vec![vec![Cache(marks)]]);
        let (own, other) = (world.session(), world.session());
        let release = |session: &str| put().opt("release", session);
        world.direct("kv_put", acquire(&own));
        // The cache has the lock as that session's.
        world.call("kv_get", Args::new().arg("k").opt("consistent", true)).expect("an answer");
        world.direct("kv_put", release(&own));
        world.direct("kv_put", acquire(&other));
        let error = world.call("kv_put", acquire(&own)).expect_err("the other one holds it");
        assert!(error.maybe_applied(), "{marks:?}: {error}");
        let error = world.call("kv_put", release(&other)).expect_err("it holds it still");
        assert!(error.maybe_applied(), "{marks:?}: {error}");
        assert_eq!(world.holder(), Some(other), "{marks:?}");
    }
}

#[test]
fn a_release_whose_answer_is_lost_is_done_although_another_session_has_the_lock_since() {
    let world = World::new(vec![vec![ApplySilently, Work]]);
    let (first, next) = (world.session(), world.session());
    world.direct("kv_put", acquire(&first));
    let row = endpoint("kv_put").expect("a method");
    let (release, acquire) = (put().opt("release", first.as_str()), acquire(&next));
    let released = world.run(async {
        let acquired = async {
            world.state.clock.sleep(Duration::from_secs(1)).await;
            world.direct.call(row, &acquire).await.expect("the lock is free");
        };
        futures_util::join!(world.client.call(row, &release), acquired).0
    });
    released.expect("the first one does not hold it");
    assert_eq!(world.holder(), Some(next));
}
