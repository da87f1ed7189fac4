//! Strangers who hold connections half open and keep opening more, while two members call each other.

use super::address;
use super::log::Log;
use super::world::{Node, World, keyed};
use crate::support::PATIENCE;
use consul_api::error::Kind;
use consul_cluster::data_plane::{Body, CallOptions};
use futures_util::future::join_all;
use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// The calls in flight at a time: more than connections are kept, so that some connect again.
const AT_A_TIME: usize = 8;

/// The connections that are held half open.
const HALF_OPEN: usize = 512;

/// The pause between two further connections: 200 a second.
const PAUSE: Duration = Duration::from_millis(5);

/// Below this, a time depends on the machine more than on the strangers.
const NOISE: Duration = Duration::from_millis(30);

/// Opens and counts connections until it is stopped.
fn strangers(address: &str, stop: &AtomicBool, opened: &AtomicUsize) {
    let mut held = VecDeque::new();
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut stream) = TcpStream::connect(address) {
            // The node may have closed it already.
            let _ = stream.write_all(b"POST /v1/call HTTP/1.1\r\nhost: ");
            held.push_back(stream);
            opened.fetch_add(1, Ordering::Relaxed);
        }
        if held.len() > HALF_OPEN {
            held.pop_front();
            sleep(next.saturating_duration_since(Instant::now()));
            next += PAUSE;
        } else {
            next = Instant::now();
        }
    }
}

/// Makes this many calls within `time`; returns how long each took.
fn calls(world: &World, from: &Node, count: usize, time: Duration) -> Vec<Duration> {
    let options = CallOptions { timeout: PATIENCE, ..CallOptions::default() };
    let body = Body::bytes("body");
    let call = || async {
        let begun = Instant::now();
        // On a busy machine a handshake may last longer than a stranger may be silent.
        while let Err(error) = from.plane.call("n1", "echo", &body, &options).await {
            assert!(!is_long() && error.kind() == Kind::Connect, "{error}");
        }
        begun.elapsed()
    };
    let (begun, batches) = (Instant::now(), count / AT_A_TIME);
    let mut took = Vec::new();
    for batch in 1..=batches {
        took.extend(world.runtime.block_on(join_all((0..AT_A_TIME).map(|_| call()))));
        sleep((time * batch as u32 / batches as u32).saturating_sub(begun.elapsed()));
    }
    took
}

fn is_long() -> bool {
    std::env::var_os("FLOOD").is_some()
}

fn p99(took: &mut [Duration]) -> Duration {
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

/// With `FLOOD` set, as in `make soak`: 2,000 calls in 30 s, and how long they took.
#[allow(clippy::print_stdout)] // prints its results
#[test]
#[ignore = "computes long: make test-all"]
fn strangers_cost_the_members_nothing() {
    let is_long = is_long();
    let (count, seconds) = if is_long { (2000, 30) } else { (240, 2) };
    let (log, time) = (Log::limited(), Duration::from_secs(seconds));

    let world = World::new();
    let one = world.echo(keyed("n1"));
    let two = world.echo(keyed("n2"));
    let address = address(&world, &one);
    let mut calm = calls(&world, &two, count, time);
    let (stop, opened) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let lines = || {
        let text = log.text();
        text.lines().filter(|line| line.contains("without a valid request")).count()
    };
    let enough = HALF_OPEN + 150 * seconds as usize;
    let (told, counted) = (Arc::clone(&stop), Arc::clone(&opened));
    let begun = Instant::now();
    thread::spawn(move || strangers(&address, &told, &counted));
    while opened.load(Ordering::Relaxed) < HALF_OPEN {
        thread::yield_now();
    }
    let mut flooded = calls(&world, &two, count, time);
    // The machine may be busy, and other tests may have used up the lines of this time.
    let is_over = || opened.load(Ordering::Relaxed) > enough && lines() > 0;
    while !is_over() && begun.elapsed() < time + PATIENCE {
        sleep(PAUSE);
    }
    stop.store(true, Ordering::Relaxed);
    let (connections, lines, lasted) = (opened.load(Ordering::Relaxed), lines(), begun.elapsed());

    let (calm, flooded) = (p99(&mut calm), p99(&mut flooded));
    // Other tests run beside this one in its short form.
    let most = if is_long { calm.max(NOISE) * 3 } else { PATIENCE };
    assert!(flooded <= most, "p99 {flooded:?}, and {calm:?} without strangers");
    assert!(connections > enough, "{connections} connections");
    // Ten in 10 s, and the lines of the tests beside it.
    let most = 10 * (lasted.as_secs() as usize / 10 + 3);
    assert!((1..=most).contains(&lines), "{lines} lines in {lasted:?}");
    if is_long {
        println!(
            "{connections} connections, {lines} lines, p99 {calm:?} without, {flooded:?} with"
        );
    }
}
