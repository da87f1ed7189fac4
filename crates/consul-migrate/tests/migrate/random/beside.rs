//! A way back beside programs that write to etcd, or to Consul, at any rate.

use super::super::fake::TxnsBy;
use super::{World, instance};
use bytes::Bytes;
use consul_migrate::job::{Job, Phase};
use consul_migrate::mapping::Op;
use consul_migrate::{
    Freeze, Frozen, MayChange, Report, RolledBack, Run, Stop, cut_over, load, roll_back,
    rollback_has_begun,
};
use consul_process::clock::{Clock as _, Instant, ManualClock};
use futures_util::future::{Either, join, select};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const KEYS: u64 = 100;

/// The changes of a way back, each of these numbers of keys.
#[derive(Clone, Copy, Debug)]
enum Does {
    Sets,
    Overwrites,
    Deletes,
}

/// A transaction of a way back is repeated, or comes late, while programs change what it has changed: nothing is undone.
pub fn transactions_are_done_once() {
    let late = [20, 300, 9000].map(Duration::from_millis);
    let all =
        late.into_iter().flat_map(|it| [TxnsBy::Twice(it), TxnsBy::Late(it), TxnsBy::Silent(it)]);
    for by in all.chain([TxnsBy::Losing]) {
        for (does, count) in [Does::Sets, Does::Overwrites, Does::Deletes]
            .into_iter()
            .flat_map(|it| [(it, 1), (it, 70)])
        {
            is_done_once(by, does, count);
        }
    }
}

fn is_done_once(by: TxnsBy, does: Does, count: u64) {
    let world = World::plain(1, &[]);
    let keys: Vec<String> = (0..count).map(|at| format!("/app/{at:03}")).collect();
    let is_set = matches!(does, Does::Sets);
    world.put("/app", Some("1"));
    keys.iter().filter(|_| !is_set).for_each(|key| world.put(key, Some("before")));
    world.works(async {
        let run = moved(&world).await;
        for key in &keys {
            let op = match does {
                Does::Deletes => Op::Delete { key: key[1..].to_owned() },
                _ => Op::set(key[1..].to_owned(), Bytes::from_static(b"of Consul")),
            };
            world.direct.txn_surely(&[], &[op]).await.unwrap();
        }
        world.fake.change_by(by);
        // A worker deletes what has come, and puts what has gone.
        let (fake, clock, all) = (world.fake.clone(), world.clock.clone(), keys.clone());
        let done = Arc::new(Mutex::new(BTreeSet::new()));
        let seen = Arc::clone(&done);
        // A deletion between two ways back would not stay.
        let works = Arc::new(AtomicBool::new(!matches!(by, TxnsBy::Silent(_))));
        let may_work = Arc::clone(&works);
        world.clock.spawn(async move {
            let mut looked_at = 0;
            loop {
                let revision = fake.revision();
                let is_new = may_work.load(Ordering::Relaxed) && revision != looked_at;
                let now = if is_new { fake.at(revision) } else { BTreeMap::new() };
                looked_at = if is_new { revision } else { looked_at };
                for key in all.iter().filter(|_| is_new) {
                    let value = now.get(key.as_bytes()).map(|entry| entry.value.clone());
                    let comes = match does {
                        Does::Deletes => value.is_none(),
                        _ => value.is_some_and(|it| it == "of Consul"),
                    };
                    if comes && seen.lock().unwrap().insert(key.clone()) {
                        let put = matches!(does, Does::Deletes)
                            .then(|| (Bytes::from_static(b"of a program"), 0));
                        assert!(fake.write(&[(key.as_bytes().to_vec(), put)]));
                    }
                }
                clock.sleep(Duration::from_millis(1)).await;
            }
        });
        let back = roll_back(&run, MayChange::NoNewKeys);
        match by {
            TxnsBy::Silent(after) => {
                // Another instance takes the job meanwhile.
                let paused = world.clock.sleep(Duration::from_millis(500).min(after));
                let _ = select(pin!(back), pin!(paused)).await;
                let (other, _) = world.hold(2).await.unwrap();
                roll_back(&other, MayChange::NoNewKeys).await.unwrap();
                works.store(true, Ordering::Relaxed);
            }
            _ => _ = back.await.unwrap(),
        }
        world.clock.sleep(Duration::from_secs(12)).await;
        assert_eq!(done.lock().unwrap().len(), keys.len(), "{by:?} {does:?}");
        let now = world.fake.at(world.fake.revision());
        for key in &keys {
            let value = now.get(key.as_bytes()).map(|entry| &entry.value[..]);
            let wanted = matches!(does, Does::Deletes).then_some(&b"of a program"[..]);
            assert_eq!(value, wanted, "{by:?} {does:?} {count}: {key}");
        }
        assert!(
            !now.keys().any(|key| key.starts_with(&world.mapping.sentinels())),
            "{by:?} {does:?}"
        );
    });
}

pub fn run() {
    for (seed, every) in [0, 3, 200].into_iter().enumerate() {
        for deletes in [0, 30, 100] {
            it_ends(seed as u64, Duration::from_millis(every), deletes);
        }
    }
    let seen = (0..12).filter(|seed| a_deletion_meanwhile_stays_and_one_before_comes_back(*seed));
    assert!(seen.count() > 0, "no round has seen the deletions");
    one_beside_writers_of_consul_says_what_both_sides_are();
}

/// The job that is cut over.
async fn moved(world: &World) -> Run<'_> {
    let (run, kept) = world.hold(1).await.unwrap();
    load(&run, kept).await.unwrap();
    let limit = Duration::from_secs(60);
    cut_over(&run, Freeze::Alarm, &Frozen::default(), limit, async |_| Ok(())).await.unwrap();
    run
}

fn filled(seed: u64) -> World {
    let world = World::plain(seed, &[]);
    for place in 0..KEYS {
        world.put(&format!("/app/{place:03}"), Some("before"));
    }
    world
}

/// Programs set keys and delete them: `deletes` of a hundred times.
async fn write(world: &World, seed: u64, every: Duration, deletes: u8) {
    let mut rng = fastrand::Rng::with_seed(seed);
    loop {
        let key = format!("/app/{:03}", rng.u64(..KEYS)).into_bytes();
        let value = (rng.u8(..100) >= deletes).then(|| (Bytes::from(rng.u64(..).to_string()), 0));
        world.fake.write(&[(key, value)]);
        match every.is_zero() {
            // As often as anything happens.
            true => world.clock.sleep(Duration::from_micros(100)).await,
            false => world.clock.sleep(every).await,
        }
    }
}

fn it_ends(seed: u64, every: Duration, deletes: u8) {
    let world = filled(seed);
    world.works(async {
        let run = moved(&world).await;
        for place in (0..KEYS).step_by(3) {
            let key = format!("app/{place:03}");
            world.direct.put_any(&key, b"of Consul", 0).await.unwrap();
        }
        let writer = write(&world, seed, every, deletes);
        let limit = world.clock.sleep(Duration::from_secs(300));
        let (back, writer) = (pin!(roll_back(&run, MayChange::NoNewKeys)), pin!(writer));
        let done = match select(select(back, writer), limit).await {
            Either::Left((Either::Left((done, _)), _)) => done,
            _ => panic!("it goes on: {every:?}, {deletes} % deletions"),
        };
        let done = done.unwrap();
        assert!(world.fake.alarms().is_empty());
        let record = run.job.record();
        assert_eq!(record.phase, Phase::Tail);
        assert!(!rollback_has_begun(&world.etcd, &record, &run.job.keys).await.unwrap());
        // Each key is as Consul, or as a program has made it: that is told by its value, or that it is gone.
        for (key, entry) in world.fake.at(world.fake.revision()) {
            let Ok(key) = String::from_utf8(key) else { continue };
            let Some(name) = key.strip_prefix('/') else { continue };
            let of_program = entry.value.first().is_some_and(u8::is_ascii_digit);
            let of_consul = world.stored(name).await;
            assert!(
                of_program || of_consul.as_deref().map(str::as_bytes) == Some(&entry.value[..]),
                "{key}: {done:?}"
            );
        }
    });
}

/// Returns whether the way back has seen the deletions; those after its last look are for the next tail alone.
fn a_deletion_meanwhile_stays_and_one_before_comes_back(seed: u64) -> bool {
    let world = filled(seed);
    world.works(async {
        let run = moved(&world).await;
        world.put("/app/001", None);
        world.direct.put_any("app/002", b"of Consul", 0).await.unwrap();
        let deletes = async {
            // The way back has changed what differs, and not yet looked again.
            let has_begun = async |key: &str| {
                let value = world.fake.at(world.fake.revision()).get(key.as_bytes()).cloned();
                value.is_some_and(|entry| entry.value != "before")
            };
            while !has_begun("/app/002").await {
                world.clock.sleep(Duration::from_millis(1)).await;
            }
            world.put("/app/001", None);
            world.put("/app/003", None);
        };
        let (done, ()) = join(roll_back(&run, MayChange::NoNewKeys), deletes).await;
        let RolledBack { set, changed, .. } = done.unwrap();
        let has = |key: &str| world.fake.at(world.fake.revision()).contains_key(key.as_bytes());
        assert_eq!((set, has("/app/001"), has("/app/003")), (2, false, false));
        assert!(changed.is_empty() || changed == ["/app/001", "/app/003"], "{changed:?}");
        drop(run);
        // The next cut-over takes both to Consul.
        let done = world.instance(2, true).await.unwrap().unwrap();
        assert!(done.differences.is_empty(), "{:?}", done.differences);
        assert_eq!((world.stored("app/001").await, world.stored("app/003").await), (None, None));
        assert_eq!(world.stored("app/002").await.as_deref(), Some("of Consul"));
        !changed.is_empty()
    })
}

fn one_beside_writers_of_consul_says_what_both_sides_are() {
    let world = filled(2);
    world.works(async {
        let run = moved(&world).await;
        let writes = async {
            for number in 0_u64.. {
                let key = format!("app/{:03}", number % KEYS);
                world.direct.put_any(&key, number.to_string().as_bytes(), 0).await.unwrap();
                world.clock.sleep(Duration::from_millis(1)).await;
            }
        };
        let Either::Left((done, _)) =
            select(pin!(roll_back(&run, MayChange::NoNewKeys)), pin!(writes)).await
        else {
            unreachable!("it has no end")
        };
        let Err(Stop::Refused(why)) = done else { panic!("{done:?}") };
        for words in
            ["write to Consul", "Consul is the truth", "takes writes", "run rollback again"]
        {
            assert!(why.contains(words), "{words}: {why}");
        }
        let record = run.job.record();
        assert_eq!(record.phase, Phase::Switched);
        assert!(rollback_has_begun(&world.etcd, &record, &run.job.keys).await.unwrap());
        drop(run);
        let job =
            Job::hold(&world.target, "job", instance(3), &|_| true, true, None).await.unwrap();
        let report = Arc::new(super::Silent);
        let run = Run { etcd: &world.etcd, job, pace: super::PACE, report };
        assert!(roll_back(&run, MayChange::NoNewKeys).await.unwrap().changed.is_empty());
    });
}

/// The counts that were shown, and when.
struct Counts(ManualClock, Mutex<Vec<(u64, Instant)>>);

impl Report for Counts {
    fn progress(&self, _: &'static str, done: u64, of: Option<u64>) {
        assert!(of.is_none_or(|of| done <= of), "{done} of {of:?}");
        self.1.lock().unwrap().push((done, self.0.now()));
    }

    fn note(&self, _: &str) {}
}

/// Many keys are set or deleted again: the count goes on all the time.
pub fn is_counted() {
    const MANY: u64 = 2000;
    for is_deleted in [false, true] {
        let world = World::plain(1, &[]);
        let key = |at: u64| format!("/{at:04}");
        (0..MANY).for_each(|at| world.put(&key(at), Some("1")));
        world.works(async {
            let run = moved(&world).await;
            let keys: Vec<u64> = (0..MANY).collect();
            for keys in keys.chunks(64) {
                if is_deleted {
                    keys.iter().for_each(|at| world.put(&key(*at), None));
                } else {
                    let name = |at: &u64| Op::Delete { key: format!("{at:04}") };
                    let ops: Vec<Op> = keys.iter().map(name).collect();
                    world.direct.txn(&[], &ops).await.unwrap();
                }
            }
            let counts = Arc::new(Counts(world.clock.clone(), Mutex::default()));
            let run = Run { report: counts.clone(), ..run };
            let done = roll_back(&run, MayChange::Restored).await.unwrap();
            assert_eq!(done.set + done.deleted, MANY);
            let counts = counts.1.lock().unwrap();
            assert!(counts.iter().any(|(done, _)| *done >= MANY), "{:?}", counts.last());
            let gap = counts.windows(2).map(|it| it[1].1 - it[0].1).max().unwrap();
            assert!(gap < Duration::from_secs(3), "{gap:?}");
        });
    }
}
