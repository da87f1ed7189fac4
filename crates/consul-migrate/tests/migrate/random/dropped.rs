//! Calls that change the job's record and are dropped at each moment, as by a compaction that ends the reading of a copy.

use super::World;
use consul_migrate::job::{self, Record};
use consul_migrate::{load, restart};
use consul_process::clock::Clock as _;
use futures_util::future::select;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// One way; the request is there after it, and the answer after the second one.
const WAY: u64 = 20;

pub fn run() {
    for dropped_after in (0..70).step_by(3) {
        for restarts in [true, false] {
            for pause in [0, 15, 200] {
                let world = World::plain(1, &[]);
                world.put("/a", Some("1"));
                world.works(goes_on(&world, dropped_after, pause, restarts));
            }
        }
    }
}

async fn goes_on(world: &World, dropped_after: u64, pause: u64, restarts: bool) {
    let at = format!("dropped after {dropped_after} ms, {pause} ms, {restarts}");
    let sleep = async |ms| world.clock.sleep(Duration::from_millis(ms)).await;
    let (run, kept) = world.hold(1).await.unwrap();
    world.way_ms.store(WAY, Ordering::Relaxed);
    let loaded = Record { loaded: Some("2f61".to_owned()), ..run.job.record() };
    let save = run.job.save(loaded, &[]);
    drop(select(pin!(save), pin!(sleep(dropped_after))).await);
    sleep(pause).await;
    match restarts {
        true => restart(&run, "a test").await,
        false => run.job.save(Record { loaded: None, ..run.job.record() }, &[]).await,
    }
    .unwrap_or_else(|error| panic!("{at}: {error}"));
    world.way_ms.store(0, Ordering::Relaxed);
    sleep(3 * WAY).await;
    let (found, index) = job::record(&world.direct, &run.job.keys).await.unwrap().unwrap();
    assert_eq!((&found, index), (&run.job.record(), run.job.index()), "{at}");
    load(&run, kept).await.unwrap_or_else(|error| panic!("{at}: {error}"));
    assert_eq!(world.stored("a").await.as_deref(), Some("1"), "{at}");
}
