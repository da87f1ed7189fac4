//! Requests for some keys, or of some kinds, get no answer: those for others go on as if there were none of these.

use super::many::{Counting, Rule, SILENT, acquire, answer, counted, events, hold, permit};
use super::on_a_clock::Simulated;
use crate::support::trials::{Trials, add};
use bytes::Bytes;
use consul_api::error::Kind;
use consul_client::coordination::{Lease, Presence, Profile, Wait};
use consul_process::clock::Clock;
use http::Request;
use std::sync::Arc;
use std::time::Duration;

pub fn add_to(trials: &mut Trials) {
    add!(trials, contenders_without_answers_hold_up_no_other_lock);
    add!(trials, releases_without_answers_hold_up_no_other_lock);
    add!(trials, a_refused_ttl_of_sessions_ends_the_wait_and_names_its_option);
    add!(trials, an_attempt_that_has_sent_nothing_that_could_take_says_so);
}

const SECOND: Duration = Duration::from_secs(1);

fn is(request: &Request<Bytes>, method: &str, path: &str) -> bool {
    request.method().as_str() == method && request.uri().path().starts_with(path)
}

fn has(request: &Request<Bytes>, what: &str) -> bool {
    String::from_utf8_lossy(request.body()).contains(what)
}

/// The requests of a contender for a key below `slow`, by name.
const OF_CONTENDERS: &[(&str, Rule)] = &[
    ("reads", |it| is(it, "GET", "/v1/kv/slow").then(|| answer(SILENT, ""))?),
    ("sessions", |it| {
        (is(it, "PUT", "/v1/session/create") && has(it, "slow/")).then(|| answer(SILENT, ""))?
    }),
    ("contenders' keys", |it| is(it, "PUT", "/v1/kv/slow").then(|| answer(SILENT, ""))?),
    ("takes", |it| (is(it, "PUT", "/v1/txn") && has(it, "slow/")).then(|| answer(SILENT, ""))?),
];

fn process(world: &Simulated) -> (Arc<Presence>, Arc<Counting>) {
    counted(world, Profile::standard(), 64)
}

fn slow(process: &Arc<Presence>, world: &Simulated, number: usize, is_permit: bool) {
    let (process, key) = (Arc::clone(process), format!("slow/{number}"));
    world.clock.spawn(async move {
        let lease = match is_permit {
            true => permit(&process, &key, Wait::Forever).await,
            false => acquire(&process, &key, Wait::Forever).await,
        };
        drop(lease);
    });
}

fn held(world: &Simulated, process: &Arc<Presence>) -> Vec<Arc<Lease>> {
    let keys: Vec<String> = (0..5).map(|number| format!("held/{number}")).collect();
    hold(world, process, &keys)
}

fn contenders_without_answers_hold_up_no_other_lock() {
    for (name, rule) in OF_CONTENDERS {
        for is_permit in [false, true] {
            let what = format!("{name}, {is_permit}");
            let world = Simulated::new();
            let (process, counting) = process(&world);
            let held = held(&world, &process);
            world.clock.advance(SECOND);
            counting.answer_by(Some(*rule));
            (0..120).for_each(|number| slow(&process, &world, number, is_permit));
            for number in 0..12 {
                world.clock.advance(SECOND * 4);
                let free = world.run(acquire(&process, &format!("free/{number}"), Wait::Once));
                let free = free.unwrap_or_else(|error| panic!("{what}, {number}: {error}"));
                world.run(free.release()).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            for lease in &held {
                let events = events(lease);
                assert!(lease.is_held() && events.is_empty(), "{what}: {events:?}");
            }
        }
    }
}

fn releases_without_answers_hold_up_no_other_lock() {
    for (count, is_dropped) in [(20, true), (100, true), (100, false)] {
        let world = Simulated::new();
        let (process, counting) = process(&world);
        let kept = held(&world, &process);
        let keys: Vec<String> = (0..count).map(|number| format!("slow/{number}")).collect();
        let slow = hold(&world, &process, &keys);
        let one = hold(&world, &process, &["one".to_owned()]);
        counting.answer_by(Some(|it| {
            (is(it, "PUT", "/v1/txn") && has(it, "unlock") && has(it, "slow/"))
                .then(|| answer(SILENT, ""))?
        }));
        let waiter = world.process();
        world.run(waiter.registered()).expect("it is registered");
        for lease in slow.into_iter().chain(one) {
            match is_dropped {
                true => lease.give_up(),
                false => {
                    world.clock.spawn(async move { drop(lease.release().await) });
                }
            }
        }
        let (before, limit) = (world.clock.now(), process.profile().takeover());
        let next = world.run(acquire(&waiter, "one", Wait::For(SECOND * 60))).expect("it is free");
        let took = world.clock.now() - before;
        assert!(next.is_held() && took <= limit, "{count}, {is_dropped}: {took:?}");
        world.clock.advance(SECOND * 30);
        assert!(kept.iter().all(|lease| lease.is_held() && events(lease).is_empty()));
        counting.answer_by(None);
        world.clock.advance(limit);
        for key in [0, count - 1] {
            let next = world.run(acquire(&waiter, &format!("slow/{key}"), Wait::Once));
            assert!(next.is_ok(), "{count}, {is_dropped}: {next:?}");
        }
    }
}

/// The aims that an error may name for the wait of an attempt, by the requests that have no answer.
const WAITED: &[(&str, &str)] = &[
    ("reads", "Consul has not answered a read"),
    ("sessions", "Consul has not answered the request for a session"),
    ("contenders' keys", "Consul has not answered the request for its key"),
    ("takes", "Consul has not answered the transaction that takes it"),
    ("takes", "Consul has not answered a read"),
];

fn an_attempt_that_has_sent_nothing_that_could_take_says_so() {
    for (name, rule) in OF_CONTENDERS {
        for is_permit in [false, true] {
            for wait in [Wait::Once, Wait::For(SECOND * 2), Wait::For(SECOND * 20)] {
                let world = Simulated::new();
                let (process, counting) = process(&world);
                counting.answer_by(Some(*rule));
                let outcome = world.run(async {
                    match is_permit {
                        true => permit(&process, "slow/1", wait).await,
                        false => acquire(&process, "slow/1", wait).await,
                    }
                });
                let what = format!("{name}, {is_permit}, {wait:?}");
                match outcome {
                    // A lock has no contender's key.
                    Ok(lease) => assert!(*name == "contenders' keys" && lease.is_held(), "{what}"),
                    Err(error) => {
                        let is_taken = *name == "takes";
                        assert_eq!(error.maybe_applied(), is_taken, "{what}: {error}");
                        let ends_wait = error.message().contains("not acquired within");
                        if ends_wait && !error.message().contains("last: ") {
                            let waited = WAITED
                                .iter()
                                .any(|(of, why)| of == name && error.message().contains(why));
                            assert!(waited, "{what}: {error}");
                        }
                    }
                }
            }
        }
    }
    // Another process holds it all the time.
    let world = Simulated::new();
    let (holder, (process, _)) = (world.process(), process(&world));
    let _held = hold(&world, &holder, &["slow/1".to_owned()]);
    let error = world.run(acquire(&process, "slow/1", Wait::For(SECOND * 2))).expect_err("held");
    assert_eq!((error.kind(), error.maybe_applied()), (Kind::Timeout, false), "{error}");
}

fn a_refused_ttl_of_sessions_ends_the_wait_and_names_its_option() {
    const REFUSALS: [Rule; 2] = [
        |it| is(it, "PUT", "/v1/session/create").then(|| answer(400, TTL_REFUSED))?,
        // Consul 1.8
        |it| is(it, "PUT", "/v1/session/create").then(|| answer(500, TTL_REFUSED))?,
    ];
    const TTL_REFUSED: &str = "Invalid Session TTL '10000000000', must be between [30s=24h0m0s]";
    for refusal in REFUSALS {
        for wait in [Wait::Once, Wait::For(SECOND * 60), Wait::Forever] {
            let world = Simulated::new();
            let (process, counting) = process(&world);
            counting.answer_by(Some(refusal));
            let before = world.clock.now();
            for refused in [
                world.run(acquire(&process, "k", wait)),
                world.run(permit(&process, "permits", wait)),
            ] {
                let error = refused.expect_err("there is no session");
                assert_eq!((error.kind(), error.maybe_applied()), (Kind::Config, false), "{error}");
                assert!(error.message().contains("session_ttl_s"), "{error}");
            }
            assert!(world.clock.now() - before < SECOND);
        }
    }
}
