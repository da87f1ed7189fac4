//! Requests for some keys, or of some kinds, get no answer: those for others go on as if there were none of these.

use super::many::{Counting, Delay, Rule, SILENT, acquire, answer, counted, events, hold, permit};
use super::on_a_clock::Simulated;
use crate::support::trials::{Trials, add};
use bytes::Bytes;
use consul_api::error::Kind;
use consul_client::coordination::{Lease, Presence, Profile, Wait};
use consul_process::clock::Clock;
use http::Request;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub fn add_to(trials: &mut Trials) {
    add!(trials, contenders_without_answers_hold_up_no_other_lock);
    add!(trials, releases_without_answers_hold_up_no_other_lock);
    add!(trials, renewals_without_answers_lose_no_other_lock);
    add!(trials, ends_without_answers_hold_up_no_other_lock);
    add!(trials, slow_contenders_suspend_no_lock_and_hold_up_no_other);
    add!(trials, a_stall_beside_contenders_without_answers_is_soon_over);
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

/// How a server treats requests for some keys: it keeps silent, or takes so long.
const SLOWNESS: [Option<Duration>; 3] =
    [None, Some(Duration::from_millis(700)), Some(Duration::from_secs(3))];

/// The numbers of locks, and of those whose requests are slow.
const NUMBERS: [(usize, usize); 5] = [(1, 0), (3, 1), (24, 22), (240, 238), (400, 398)];

fn numbered(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}/{number}")).collect()
}

/// Whether the path ends with one of the sessions, which have been sorted.
fn is_of(request: &Request<Bytes>, sessions: &[String]) -> bool {
    let session = request.uri().path().rsplit('/').next().unwrap_or_default();
    sessions.binary_search_by(|it| it.as_str().cmp(session)).is_ok()
}

fn sessions(leases: &[Arc<Lease>]) -> Vec<String> {
    let mut sessions: Vec<_> = leases.iter().map(|lease| lease.session().to_owned()).collect();
    sessions.sort();
    sessions
}

/// Holds locks. The healthy ones are the last, so that their turns come last.
fn slow_and_healthy(
    world: &Simulated,
    process: &Arc<Presence>,
    (count, slow): (usize, usize),
) -> [Vec<Arc<Lease>>; 2] {
    let slow = hold(world, process, &numbered("slow", slow));
    let healthy = hold(world, process, &numbered("healthy", count - slow.len()));
    [slow, healthy]
}

fn renewals_without_answers_lose_no_other_lock() {
    for numbers in NUMBERS {
        for slowness in SLOWNESS {
            let what = format!("{numbers:?}, {slowness:?}");
            let world = Simulated::new();
            let (process, counting) = process(&world);
            let [slow, healthy] = slow_and_healthy(&world, &process, numbers);
            let of = sessions(&slow);
            let delay: Delay = Arc::new(move |it| {
                (is(it, "PUT", "/v1/session/renew") && is_of(it, &of)).then_some(slowness)
            });
            counting.delay_by(Some(delay));
            world.clock.advance(SECOND * 45);
            for lease in &healthy {
                let events = events(lease);
                assert!(
                    lease.is_held() && events.is_empty(),
                    "{what}, {}: {events:?}",
                    lease.key()
                );
            }
            let are_kept = slowness.is_some_and(|it| it < SECOND || numbers.1 < 50);
            let kept = slow.iter().filter(|lease| lease.is_held()).count();
            assert!(!are_kept || kept == numbers.1, "{what}: {kept}");
            assert!(counting.most_held() < 160, "{what}: {}", counting.most_held());
        }
    }
}

fn ends_without_answers_hold_up_no_other_lock() {
    for is_destroyed in [false, true] {
        let numbers = NUMBERS.into_iter().filter(|(_, slow)| !is_destroyed || *slow == 398);
        for numbers in numbers {
            for slowness in SLOWNESS {
                let what = format!("{is_destroyed}, {numbers:?}, {slowness:?}");
                let world = Simulated::new();
                let (process, counting) = process(&world);
                let kept = held(&world, &process);
                let [slow, healthy] = slow_and_healthy(&world, &process, numbers);
                let of = sessions(&slow);
                let delay: Delay = Arc::new(move |it| {
                    let is_end = match is_destroyed {
                        true => is(it, "PUT", "/v1/session/destroy") && is_of(it, &of),
                        false => is(it, "PUT", "/v1/txn") && has(it, "unlock") && has(it, "slow/"),
                    };
                    is_end.then_some(slowness)
                });
                counting.delay_by(Some(delay));
                let waiter = world.process();
                world.run(waiter.registered()).expect("it is registered");
                slow.iter().chain(&healthy).for_each(|lease| lease.give_up());
                let before = world.clock.now();
                let last = format!("healthy/{}", numbers.0 - numbers.1 - 1);
                let next = world.run(acquire(&waiter, &last, Wait::For(SECOND * 60)));
                let took = world.clock.now() - before;
                let takes = slowness.filter(|it| *it < SECOND).unwrap_or(SECOND * 3 / 10);
                let limit =
                    (takes * numbers.1 as u32 / 16 + SECOND).max(process.profile().takeover());
                assert!(next.is_ok() && took <= limit, "{what}: {took:?}");
                assert!(counting.most_held() < 180, "{what}: {}", counting.most_held());
                world.clock.advance(SECOND * 20);
                for lease in &kept {
                    let events = events(lease);
                    assert!(lease.is_held() && events.is_empty(), "{what}: {events:?}");
                }
                counting.delay_by(None);
                world.clock.advance(SECOND * 10);
                if numbers.1 > 0 {
                    let next = world.run(acquire(&waiter, "slow/0", Wait::Once));
                    assert!(next.is_ok(), "{what}: {next:?}");
                }
            }
        }
    }
}

/// Begins to acquire locks; how many it has is the length of what this returns.
fn begin(
    world: &Simulated,
    process: &Arc<Presence>,
    keys: Vec<String>,
) -> Arc<Mutex<Vec<Arc<Lease>>>> {
    let acquired = Arc::<Mutex<Vec<_>>>::default();
    for key in keys {
        let (process, acquired) = (Arc::clone(process), Arc::clone(&acquired));
        world.clock.spawn(async move {
            let lease = acquire(&process, &key, Wait::Forever).await.expect("it is acquired");
            acquired.lock().expect("no panic").push(lease);
        });
    }
    acquired
}

/// Until this number are acquired; how long that takes.
fn time_until(world: &Simulated, acquired: &Mutex<Vec<Arc<Lease>>>, count: usize) -> Duration {
    let before = world.clock.now();
    while acquired.lock().expect("no panic").len() < count
        && world.clock.now() - before < SECOND * 100
    {
        world.clock.advance(SECOND / 10);
    }
    world.clock.now() - before
}

fn slow_contenders_suspend_no_lock_and_hold_up_no_other() {
    for slowness in SLOWNESS {
        for (count, latency) in [(100, 0), (400, 0), (400, 150)] {
            let what = format!("{count}, {slowness:?}, {latency} ms");
            let world = Simulated::new();
            let (process, counting) = process(&world);
            let kept = hold(&world, &process, &numbered("held", 20));
            let latency = Duration::from_millis(latency);
            let delay: Delay = Arc::new(move |it| match is(it, "GET", "/v1/kv/slow") {
                true => Some(slowness),
                false if it.uri().path().starts_with("/v1/agent") || has(it, "check-session") => {
                    None
                }
                false => (!latency.is_zero() && !is(it, "PUT", "/v1/session/renew"))
                    .then_some(Some(latency)),
            });
            counting.delay_by(Some(delay));
            begin_slow(&world, &process, count);
            let healthy = begin(&world, &process, numbered("healthy", 40));
            let took = time_until(&world, &healthy, 40);
            assert!(took < SECOND * 20, "{what}: {took:?}");
            world.clock.advance(SECOND * 30);
            assert!(counting.most_held() < 160, "{what}: {}", counting.most_held());
            for lease in &kept {
                let events = events(lease);
                assert!(lease.is_held() && events.is_empty(), "{what}: {events:?}");
            }
        }
    }
}

fn begin_slow(world: &Simulated, process: &Arc<Presence>, count: usize) {
    (0..count).for_each(|number| slow(process, world, number, false));
}

fn a_stall_beside_contenders_without_answers_is_soon_over() {
    for count in [100, 300] {
        let world = Simulated::new();
        let (process, counting) = process(&world);
        let silent = |it: &Request<Bytes>| is(it, "GET", "/v1/kv/slow").then_some(None);
        counting.delay_by(Some(Arc::new(silent)));
        begin_slow(&world, &process, count);
        world.clock.advance(SECOND * 8);
        let (clock, stall) = (world.clock.clone(), SECOND * 3 / 2);
        let end = clock.now() + stall;
        counting.delay_by(Some(Arc::new(move |it| {
            let left = end - clock.now();
            let is_stalled = !left.is_zero() && !it.uri().path().starts_with("/v1/agent");
            silent(it).or_else(|| is_stalled.then_some(Some(left)))
        })));
        let healthy = begin(&world, &process, numbered("healthy", 20));
        let took = time_until(&world, &healthy, 20);
        assert!(took < SECOND * 8, "{count}: {took:?}");
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
