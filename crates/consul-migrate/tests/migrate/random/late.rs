//! Requests to Consul that were given up and arrive later, when newer ones have been applied.

use super::World;
use bytes::Bytes;
use consul_migrate::mapping::{Choice, Mapping, Problem};
use consul_migrate::{Run, Until, load, restart, tail};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, select};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

const KEYS: usize = 12;

/// How many of a hundred requests have a fault.
const FAULTS: u8 = 50;

/// All have arrived after so long.
const LATEST: Duration = Duration::from_secs(4);

pub fn run() {
    for seed in 0..40 {
        changes_nothing(seed, 1, false);
        changes_nothing(seed, 1, true);
    }
    for seed in 0..20 {
        changes_nothing(seed, 800_000, false);
    }
}

/// Copies values of this size, and then newer ones: by another copy, or by a tail.
fn changes_nothing(seed: u64, size: usize, copies_again: bool) {
    let mut world = World::with_faults(FAULTS, seed, &mut fastrand::Rng::with_seed(seed));
    world.fake.heal();
    world.mapping = Mapping {
        etcd_prefix: Vec::new(),
        consul_prefix: String::new(),
        on: [(Problem::LargeValue, Choice::Encode)].into(),
        ..world.mapping
    };
    world.is_late.store(true, Ordering::Relaxed);
    let count = if size > 1 { 1 } else { KEYS };
    let put_all = |byte: u8| {
        let value = Some((Bytes::from(vec![byte; size]), 0));
        for place in 0..count {
            assert!(world.fake.write(&[(format!("/{place}").into(), value.clone())]));
        }
    };
    world.works(async {
        put_all(b'1');
        let (run, _) = world.hold(1).await.unwrap();
        load(&run, Default::default()).await.unwrap();
        for byte in [b'2', b'3'] {
            put_all(byte);
            if copies_again {
                restart(&run, "the test").await.unwrap();
                load(&run, Default::default()).await.unwrap();
            } else {
                follow(&world, &run).await;
            }
        }
        world.clock.sleep(LATEST).await;
        let mapping = run.job.record().mapping;
        let is_equal = world.found().await == world.wanted(&mapping, world.fake.revision());
        assert!(is_equal, "seed {seed}, {size} bytes, {copies_again}");
    });
}

/// Follows etcd until all that it has now is applied.
async fn follow(world: &World, run: &Run<'_>) {
    let applied = async {
        while run.job.record().revision <= world.fake.revision() {
            world.clock.sleep(Duration::from_millis(1)).await;
        }
    };
    match select(pin!(tail(run, &Until::Dropped)), pin!(applied)).await {
        Either::Left((ended, _)) => panic!("{ended:?}"),
        Either::Right(_) => {}
    }
}
