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

/// One revision takes several transactions, and the tail is killed, or its watch cut, between them: it goes on in the middle of the
/// revision.
pub fn in_parts() {
    let (whole, _) = transactions(None);
    let moments = (0..200).step_by(10).flat_map(|ms| [(ms, false), (ms, true)]);
    let in_middle = moments.filter(|at| {
        let (count, is_in_middle) = transactions(Some(*at));
        assert!(count <= whole + 1, "{at:?}: {count} of {whole}");
        is_in_middle
    });
    assert!(in_middle.count() > 10);
}

/// How many transactions a revision takes, and whether one was the last before the watch was cut, or the tail killed.
fn transactions(ends: Option<(u64, bool)>) -> (u64, bool) {
    const KEYS: usize = 300;
    let world = World::plain(1, &[]);
    world.put("/app/000", Some("1"));
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let begun = run.job.record().step;
        let change = |at| (format!("/app/{at:03}").into_bytes(), Some(("2".into(), 0)));
        assert!(world.fake.write(&(0..KEYS).map(change).collect::<Vec<_>>()));
        world.way_ms.store(10, Ordering::Relaxed);
        let mut tails = Some(Box::pin(tail(&run, &Until::Dropped)));
        let mut is_in_middle = false;
        if let Some((ms, is_killed)) = ends {
            let life = pin!(world.clock.sleep(Duration::from_millis(ms)));
            let _ = select(tails.as_mut().unwrap(), life).await;
            if is_killed {
                tails = None;
                // A transaction may be on its way.
                world.clock.sleep(Duration::from_secs(1)).await;
            }
            is_in_middle = world.record().await.unwrap().offset > 0;
            world.fake.cut_watches();
        }
        let life = pin!(world.clock.sleep(Duration::from_secs(3)));
        if let Some(tails) = tails {
            let _ = select(tails, life).await;
        } else {
            let (again, _) = world.hold(2).await.unwrap();
            let _ = select(pin!(tail(&again, &Until::Dropped)), life).await;
        }
        let (record, revision) = (world.record().await.unwrap(), world.fake.revision());
        assert!(world.found().await == world.wanted(&record.mapping, revision), "{ends:?}");
        (record.step - begun, is_in_middle)
    })
}

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
