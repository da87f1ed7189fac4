//! A tail puts what comes while Consul answers into the next transaction, however far away Consul is.

use super::World;
use bytes::Bytes;
use consul_migrate::{Until, load, tail};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, select};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

const CHANGES: u64 = 1500;

/// The milliseconds that a request to Consul, which takes some 60 operations, is on its way, as is its answer; and those between
/// two changes of a program, each in a line of the watch.
pub fn run() {
    for (way, every) in [(1, 1), (10, 1), (50, 4)] {
        let world = World::plain(1, &[]).with(consul_sim::settings::Settings::default());
        world.put("/app/0", Some("0"));
        world.fake.tell_one_by_one();
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            let before = run.job.record().step;
            world.way_ms.store(way, Ordering::Relaxed);
            let writes = async {
                for at in 0..CHANGES {
                    let key = format!("/app/{}", at % 100).into_bytes();
                    world.fake.write(&[(key, Some((Bytes::from(at.to_string()), 0)))]);
                    world.clock.sleep(Duration::from_millis(every)).await;
                }
                // The last ones are on their way.
                world.clock.sleep(Duration::from_millis(40 + 4 * way)).await;
            };
            match select(pin!(tail(&run, &Until::Dropped)), pin!(writes)).await {
                Either::Left((ended, _)) => panic!("{ended:?}"),
                Either::Right(_) => {}
            }
            let revision = world.fake.revision();
            assert_eq!(run.job.record().revision, revision + 1, "{way} ms: it falls behind");
            let transactions = run.job.record().step - before;
            let wanted = way / every;
            let each = CHANGES / transactions;
            assert!(each >= wanted, "{way} ms: {each} changes in each of {transactions}");
            let mapping = run.job.record().mapping;
            assert!(world.found().await == world.wanted(&mapping, revision));
        });
    }
}
