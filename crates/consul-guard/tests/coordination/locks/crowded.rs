//! Hundreds of locks of one process while some requests are slow or get no answer, once or always: each scenario has the bound
//! that its numbers allow.

use super::many::hold;
use super::many::{Delay, acquire, events};
use super::on_a_clock::Simulated;
use super::silent::{begin, begin_slow, has, is, is_of, numbered, process, sessions, time_until};
use crate::support::trials::{Trials, add};
use bytes::Bytes;
use consul_client::coordination::{Event, Wait};
use consul_process::clock::Clock;
use http::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

pub fn add_to(trials: &mut Trials) {
    add!(trials, healthy_locks_are_renewed_in_time);
    add!(trials, dropped_locks_are_free_in_time);
    add!(trials, free_locks_are_acquired_in_time);
}

const SECOND: Duration = Duration::from_secs(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn is_for_the_agent(request: &Request<Bytes>) -> bool {
    request.uri().path().starts_with("/v1/agent")
}

fn waits(request: &Request<Bytes>) -> bool {
    request.uri().query().is_some_and(|query| query.contains("index="))
}

/// Held locks. Each renewal is answered after this long, but for the silent locks, which have no answer.
struct Renewals {
    locks: usize,
    silent: usize,
    answered_after: Duration,
    /// No renewal is answered for this long, from 7 s on; with `is_dropped` never.
    stall: Duration,
    is_dropped: bool,
    /// Other requests take as long.
    all: bool,
}

fn healthy_locks_are_renewed_in_time() {
    let usual = Renewals {
        locks: 400,
        silent: 0,
        answered_after: ms(5),
        stall: ms(0),
        is_dropped: false,
        all: false,
    };
    let rows = [
        ("a stall", Renewals { answered_after: ms(220), stall: ms(1200), ..usual }),
        ("slow", Renewals { locks: 150, answered_after: ms(1650), ..usual }),
        ("all are slow", Renewals { locks: 150, answered_after: ms(3000), all: true, ..usual }),
        (
            "an outage beside silent ones",
            Renewals { locks: 200, silent: 150, stall: ms(2000), is_dropped: true, ..usual },
        ),
        (
            "a longer outage beside silent ones",
            Renewals { locks: 200, silent: 150, stall: ms(4000), is_dropped: true, ..usual },
        ),
        ("nearly all are silent", Renewals { silent: 398, ..usual }),
        ("slower", Renewals { locks: 300, answered_after: ms(700), ..usual }),
        (
            "half are silent",
            Renewals { locks: 400, silent: 200, answered_after: ms(300), stall: ms(1200), ..usual },
        ),
    ];
    let mut failed = Vec::new();
    for (name, row) in rows {
        let world = Simulated::new();
        let (process, counting) = process(&world);
        let leases = hold(&world, &process, &numbered("k", row.locks));
        let (silent, healthy) = leases.split_at(row.silent);
        let (of, clock) = (sessions(silent), world.clock.clone());
        let stall = clock.now() + SECOND * 7;
        let end = stall + row.stall;
        counting.delay_answers_by(Arc::new(move |it| {
            let is_renewal = is(it, "PUT", "/v1/session/renew");
            if is_for_the_agent(it) || waits(it) || !is_renewal && !row.all {
                return None;
            }
            let left = if clock.now() < stall { Duration::ZERO } else { end - clock.now() };
            match is_renewal && (is_of(it, &of) || row.is_dropped && !left.is_zero()) {
                true => Some(None),
                false => Some(Some(left + row.answered_after)),
            }
        }));
        world.clock.advance(SECOND * 30);
        counting.delay_by(None);
        world.clock.advance(SECOND * 12);
        let is_lost = |event: &Event| matches!(event, Event::Lost(_));
        let lost = healthy.iter().filter(|it| events(it).iter().any(is_lost)).count();
        println!("{name}: {lost} lost, {} held by the server", counting.most_held());
        if lost > 0 {
            failed.push(format!("{name}: {lost} lost"));
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

fn dropped_locks_are_free_in_time() {
    let mut failed = Vec::new();
    let is_end = |it: &Request<Bytes>| {
        is(it, "PUT", "/v1/session/destroy") || is(it, "PUT", "/v1/txn") && has(it, "unlock")
    };
    // The number of locks that are dropped, how the server treats their ends, and the key that is acquired in time.
    let rows: [(&str, usize, &str, Duration); 6] = [
        ("q3", 60, "last", SECOND * 5 / 2),
        ("q3", 120, "last", SECOND * 4),
        ("q3", 240, "last", ms(5500)),
        ("e1", 300, "slow/299", ms(8200)),
        ("e2", 400, "first", ms(1400)),
        ("stall", 240, "last", ms(5500)),
    ];
    for (name, count, key, bound) in rows {
        let world = Simulated::new();
        let (process, counting) = process(&world);
        let kept = hold(&world, &process, &numbered("held", 3));
        let first = hold(&world, &process, &["first".to_owned()]);
        let slow = hold(&world, &process, &numbered("slow", count));
        let last = hold(&world, &process, &["last".to_owned()]);
        let waiter = world.process();
        world.run(waiter.registered()).expect("it is registered");
        let (clock, begun) = (world.clock.clone(), world.clock.now());
        let is_lost = AtomicBool::new(false);
        let delay: Delay = Arc::new(move |it| match name {
            "q3" => (is_end(it) && has(it, "slow/")).then_some(None),
            "e2" if is_end(it) => {
                match has(it, "first") && !is_lost.swap(true, Ordering::Relaxed) {
                    true => Some(None),
                    false => Some(Some(ms(300))),
                }
            }
            "stall" if has(it, "slow/") && is_end(it) => Some(None),
            "stall" if is_end(it) => {
                let left = (begun + ms(1200)) - clock.now();
                (!left.is_zero()).then_some(None)
            }
            "e1" if is_end(it) => Some(Some(ms(150))),
            _ => None,
        });
        counting.delay_by(Some(delay));
        if name == "e1" {
            counting.refuse_until(begun + SECOND * 3 / 2);
        }
        first.iter().chain(&slow).chain(&last).for_each(|lease| lease.give_up());
        let next = world.run(acquire(&waiter, key, Wait::For(SECOND * 60)));
        let took = world.clock.now() - begun;
        println!("{name} {count}: {took:?}, {} held by the server", counting.most_held());
        world.clock.advance(SECOND * 10);
        let are_kept = kept.iter().all(|it| it.is_held() && events(it).is_empty());
        if next.is_err() || took > bound || !are_kept {
            failed.push(format!("{name} {count}: {took:?} of {bound:?}, {are_kept}"));
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

fn free_locks_are_acquired_in_time() {
    let mut failed = Vec::new();
    let mut note = |name: &str, took: Duration, bound: Duration| {
        println!("{name}: {took:?}");
        if took > bound {
            failed.push(format!("{name}: {took:?} of {bound:?}"));
        }
    };
    for (silent, stall, bound) in [(100, 1500, ms(6000)), (100, 0, ms(3000)), (400, 4000, ms(9000))]
    {
        let world = Simulated::new();
        let (process, counting) = process(&world);
        let _warm = hold(&world, &process, &["warm".to_owned()]);
        let is_silent = |it: &Request<Bytes>| is(it, "GET", "/v1/kv/slow").then_some(None);
        counting.delay_by(Some(Arc::new(is_silent)));
        begin_slow(&world, &process, silent);
        world.clock.advance(SECOND * 8);
        let clock = world.clock.clone();
        let end = clock.now() + ms(stall);
        counting.delay_by(Some(Arc::new(move |it| {
            let left = end - clock.now();
            let is_stalled = !left.is_zero() && !is_for_the_agent(it) && !waits(it);
            is_silent(it).or_else(|| is_stalled.then_some(Some(left)))
        })));
        let healthy = begin(&world, &process, numbered("healthy", 20));
        let took = time_until(&world, &healthy, 20);
        note(&format!("n1 {silent} {stall}"), took, bound);
    }
    {
        let world = Simulated::new();
        let (holder, (process, counting)) = (world.process(), process(&world));
        let _held = hold(&world, &holder, &numbered("t", 100));
        let _warm = hold(&world, &process, &["warm".to_owned()]);
        let is_lost = AtomicBool::new(false);
        counting.delay_by(Some(Arc::new(move |it| {
            if is(it, "GET", "/v1/kv/victim") && !is_lost.swap(true, Ordering::Relaxed) {
                return Some(None);
            }
            let is_slow =
                !is_for_the_agent(it) && !waits(it) && !is(it, "PUT", "/v1/session/renew");
            is_slow.then_some(Some(ms(300)))
        })));
        for key in numbered("t", 100) {
            let process = Arc::clone(&process);
            world.clock.spawn(async move {
                loop {
                    drop(acquire(&process, &key, Wait::Once).await);
                    process.client().clock().sleep(ms(50)).await;
                }
            });
        }
        world.clock.advance(SECOND * 4);
        let victim = begin(&world, &process, vec!["victim".to_owned()]);
        note("T5", time_until(&world, &victim, 1), ms(4700));
    }
    for (count, writes) in [(200, 1000), (1, 4000), (20, 500)] {
        let world = Simulated::new();
        let (process, counting) = process(&world);
        world.run(process.registered()).expect("it is registered");
        let sessions = Arc::new(AtomicUsize::new(0));
        let made = Arc::clone(&sessions);
        counting.delay_by(Some(Arc::new(move |it| {
            if is(it, "PUT", "/v1/session/create") {
                made.fetch_add(1, Ordering::Relaxed);
            }
            let is_write =
                it.method() == "PUT" && !is_for_the_agent(it) && !has(it, "check-session");
            is_write.then_some(Some(ms(writes)))
        })));
        let all = begin(&world, &process, numbered("free", count));
        let took = time_until(&world, &all, count);
        println!("T6 {count} {writes}: {} sessions made", sessions.load(Ordering::Relaxed));
        note(&format!("T6 {count} {writes}"), took, ms(20_000));
    }
    assert!(failed.is_empty(), "{failed:?}");
}
