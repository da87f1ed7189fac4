//! etcd is restored from a snapshot: it has an earlier revision, and the names and addresses that it had.

use super::{World, instance};
use bytes::Bytes;
use consul_migrate::job::{Phase, Record, source};
use consul_migrate::mapping::Op;
use consul_migrate::{
    Freeze, Frozen, MayChange, Run, Stop, Until, cut_over, finish, load, roll_back, tail,
};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, select};
use std::pin::pin;
use std::time::Duration;

/// etcd is away for a time, at each moment of a tail; programs write as soon as it is back.
pub fn a_tail() {
    for away_ms in [0, 100, 900, 2500] {
        for after_ms in (0..2200).step_by(100) {
            for sets in [0, 1, 3] {
                is_noticed(Duration::from_millis(away_ms), Duration::from_millis(after_ms), sets);
            }
        }
    }
}

fn is_noticed(away: Duration, after: Duration, sets: usize) {
    let world = World::plain(1, &[]);
    (0..9).for_each(|at| world.put(&format!("/{at}"), Some("1")));
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let restored = async {
            world.clock.sleep(after).await;
            if away > Duration::ZERO {
                world.fake.answer_as(Some((503, "")));
                world.fake.cut_watches();
                world.clock.sleep(away).await;
                world.fake.answer_as(None);
            }
            world.fake.restore(4);
            (0..sets).for_each(|_| world.put("/new", Some("2")));
            world.clock.sleep(Duration::from_secs(10)).await;
        };
        match select(pin!(tail(&run, &Until::Dropped)), pin!(restored)).await {
            Either::Left((Err(Stop::Refused(why)), _)) => {
                assert!(why.contains("was restored from a snapshot"), "{why}");
            }
            _ => panic!("not noticed: away for {away:?}, after {after:?}, {sets}"),
        }
    });
}

async fn cut_over_with<'w>(world: &'w World) -> Run<'w> {
    let (run, kept) = world.hold(1).await.unwrap();
    load(&run, kept).await.unwrap();
    let limit = Duration::from_secs(60);
    cut_over(&run, Freeze::Alarm, &Frozen::default(), limit, async |_| Ok(())).await.unwrap();
    run
}

/// A key, and its new value; `None` deletes it.
type Write = (&'static str, Option<&'static str>);

/// A copy from another cluster is advised only as long as programs do not use Consul.
pub fn as_a_new_cluster() {
    let world = World::plain(1, &[]);
    world.put("/a", Some("1"));
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        for phase in [Phase::Load, Phase::Sweep, Phase::Tail, Phase::Switched] {
            let record = Record { cluster_id: "8".to_owned(), phase, ..run.job.record() };
            let why = source::check_cluster(&world.etcd, &record).await.unwrap_err().to_string();
            let is_late = phase == Phase::Switched;
            assert_eq!(why.contains("copy --replace"), !is_late, "{why}");
            assert_eq!(why.contains("finish --without-etcd"), is_late, "{why}");
        }
    });
}

/// etcd is restored while a tail follows a job that is cut over, or before: however many writes there were since, also of the keys
/// that the cut-over has left, no deletion in the restored one comes to Consul, and the tail says why, also without a deletion.
pub fn a_tail_after_the_cut_over() {
    for ((after_ms, writes), deletions) in (0..2200)
        .step_by(200)
        .flat_map(|after| [0, 1, 40].map(|writes| (after, writes)))
        .flat_map(|it| [(it, 0), (it, 5)])
    {
        let world = World::plain(1, &[]);
        (0..9).for_each(|at| world.put(&format!("/{at}"), Some("1")));
        world.works(async {
            let run = cut_over_with(&world).await;
            let before = world.found().await;
            let left = world.fake.at(world.fake.revision()).into_keys();
            let left: Vec<_> =
                left.filter_map(|key| String::from_utf8(key.to_vec()).ok()).collect();
            let left = left.iter().filter(|key| key.contains("cut-over/"));
            assert!(left.clone().next().is_some());
            let restored = async {
                world.clock.sleep(Duration::from_millis(after_ms)).await;
                world.fake.cut_watches();
                world.fake.restore(7);
                left.for_each(|key| world.put(key, Some("")));
                (0..writes).for_each(|_| world.put("/new", Some("2")));
                (0..deletions).for_each(|at| world.put(&format!("/{at}"), None));
                world.clock.sleep(Duration::from_secs(10)).await;
            };
            let tails = pin!(tail(&run, &Until::Dropped));
            let Either::Left((Err(Stop::Refused(why)), _)) = select(tails, pin!(restored)).await
            else {
                panic!("not noticed after {after_ms} ms, {writes}, {deletions}")
            };
            assert!(why.contains("was restored from a snapshot"), "{why}");
            assert!(world.found().await == before, "after {after_ms} ms, {writes}: {why}");
        });
    }
}

/// The Consul that is there while an instance works.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Consul {
    Wiped,
    /// As after the copy.
    Older,
    WithoutHolder,
    OfAnother,
}

/// Consul is wiped, restored, or names another instance under a tail and under a cut-over: each ends and says so, no writer
/// stays stopped, and the same command goes on where the job is still there.
pub fn consul_under_an_instance() {
    for consul in [Consul::Wiped, Consul::Older, Consul::WithoutHolder, Consul::OfAnother] {
        for freeze in [None, Some(Freeze::Alarm), Some(Freeze::Operator)] {
            ends_and_goes_on(consul, freeze);
        }
    }
}

/// A tail without a freeze, otherwise a cut-over.
fn ends_and_goes_on(consul: Consul, freeze: Option<Freeze>) {
    let world = World::plain(1, &[]);
    world.put("/app/a", Some("1"));
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let keys = run.job.keys.clone();
        let all = world.direct.entries(&[&keys.record, &keys.holder, "app/a"]).await.unwrap();
        let changes = async || {
            world.put("/app/a", Some("2"));
            world.clock.sleep(Duration::from_secs(2)).await;
            let stored = |at: usize, key: &str| {
                let it = all[at].clone().unwrap();
                Op::Set { key: key.to_owned(), value: it.value, flags: it.flags }
            };
            let other = Bytes::from(serde_json::to_vec(&instance(2)).unwrap());
            let ops = match consul {
                Consul::Wiped => ["app/", "_migrate/"]
                    .map(|it| Op::DeleteTree { prefix: it.to_owned() })
                    .to_vec(),
                Consul::Older => {
                    vec![stored(0, &keys.record), stored(1, &keys.holder), stored(2, "app/a")]
                }
                Consul::WithoutHolder => vec![Op::Delete { key: keys.holder.clone() }],
                Consul::OfAnother => vec![Op::set(keys.holder.clone(), other)],
            };
            world.direct.txn_surely(&[], &ops).await.unwrap();
            world.put("/app/b", Some("1"));
            world.clock.sleep(Duration::from_secs(2)).await;
        };
        let frozen = Frozen::default();
        let ended = match freeze {
            None => {
                let limit = world.clock.sleep(Duration::from_secs(30));
                let beside = pin!(async { _ = (changes().await, limit.await) });
                match select(pin!(tail(&run, &Until::Dropped)), beside).await {
                    Either::Left((ended, _)) => ended.map(|_| ()),
                    Either::Right(_) => panic!("it goes on: {consul:?}"),
                }
            }
            Some(freeze) => {
                let consent = async |_| {
                    changes().await;
                    Ok(())
                };
                let limit = Duration::from_secs(60);
                cut_over(&run, freeze, &frozen, limit, consent).await.map(|_| ())
            }
        };
        match ended {
            Err(Stop::Held(_)) => assert_eq!(consul, Consul::OfAnother, "{freeze:?}"),
            Err(Stop::Refused(why)) => {
                assert_ne!(consul, Consul::OfAnother, "{freeze:?}: {why}");
                assert!(why.to_lowercase().contains("the same command goes on"), "{why}");
            }
            other => panic!("{consul:?} {freeze:?}: {other:?}"),
        }
        frozen.lift(&world.etcd, &world.target, &keys).await.unwrap();
        assert!(world.fake.alarms().is_empty());
        let is_there = world.record().await.is_some();
        assert_eq!(is_there, consul != Consul::Wiped);
        if is_there {
            // The same command, and the comparison of its end.
            let (again, _) = world.hold(1).await.unwrap();
            let limit = Duration::from_secs(60);
            let by = freeze.unwrap_or(Freeze::Operator);
            let done = cut_over(&again, by, &Frozen::default(), limit, async |_| Ok(())).await;
            assert!(done.unwrap().differences.is_empty(), "{consul:?} {freeze:?}");
            assert_eq!(world.stored("app/a").await.as_deref(), Some("2"));
            assert_eq!(world.stored("app/b").await.as_deref(), Some("1"));
        }
    });
}

pub fn a_way_back() {
    let all = [("/a", "1"), ("/b", "1"), ("/c", "1"), ("/d", "1")];
    // Changes of programs in the restored etcd, and the keys that a rollback would overwrite or delete.
    let cases: [(&[Write], &[&str]); 6] = [
        (&[], &[]),
        (&[("/new", Some("2"))], &["/new"]),
        (&[("/a", Some("2"))], &["/a"]),
        (&[("/a", None)], &[]),
        (&[("/a", Some("1"))], &[]),
        (&[("/a", Some("2")), ("/b", None), ("/new", Some("2"))], &["/a", "/new"]),
    ];
    for (changes, at_risk) in cases {
        // Also with more writes since than were lost.
        for (revision, writes) in (1..=5).flat_map(|revision| [(revision, 0), (revision, 40)]) {
            let world = World::plain(1, &[]);
            all.iter().for_each(|(key, value)| world.put(key, Some(value)));
            world.works(async {
                let run = cut_over_with(&world).await;
                let record = run.job.record();
                let why = source::restored(&world.etcd, &record, &run.job.keys).await.unwrap();
                assert_eq!(why, None);
                world.fake.restore(revision);
                (0..writes).for_each(|_| world.put("/other", Some("0")));
                if writes > 0 {
                    world.put("/other", None);
                }
                let why = source::restored(&world.etcd, &record, &run.job.keys).await.unwrap();
                assert!(why.unwrap().contains("restored from a snapshot"));
                changes.iter().for_each(|(key, value)| world.put(key, *value));
                let before = world.fake.at(world.fake.revision());
                // Which keys programs have set is not known.
                if !before.is_empty() {
                    let finished = finish(&run, false).await;
                    let Err(Stop::Refused(why)) = finished else { panic!("{finished:?}") };
                    assert!(why.contains("--without-etcd"), "{why}");
                }
                assert_eq!(world.fake.at(world.fake.revision()), before);
                let done = roll_back(&run, MayChange::NoNewKeys).await;
                if at_risk.is_empty() {
                    done.unwrap();
                } else {
                    let Err(Stop::Refused(why)) = done else { panic!("{done:?}") };
                    at_risk.iter().for_each(|key| assert!(why.contains(key), "{key}: {why}"));
                    assert!(why.contains("--overwrite"), "{why}");
                    assert_eq!(world.fake.at(world.fake.revision()), before);
                    let would = roll_back(&run, MayChange::Nothing).await.unwrap();
                    assert_eq!(would.overwritten.len(), at_risk.len(), "{:?}", would.overwritten);
                    roll_back(&run, MayChange::Restored).await.unwrap();
                }
                let found = world.fake.at(world.fake.revision());
                let found = found.iter().map(|(key, entry)| (&key[..], &entry.value[..]));
                let wanted = all.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
                assert!(found.eq(wanted), "{changes:?} {revision}");
            });
        }
    }
}

/// Programs set keys of a restored etcd while its way back goes: these stay, and are named, also where it may overwrite those
/// before.
pub fn beside_programs() {
    for may_change in [MayChange::NoNewKeys, MayChange::Restored] {
        let world = World::plain(1, &[]);
        (0..300).for_each(|at| world.put(&format!("/{at:03}"), Some("1")));
        world.works(async {
            let run = cut_over_with(&world).await;
            world.fake.restore(1);
            let mut set = Vec::new();
            let writes = async {
                for at in 0.. {
                    world.clock.sleep(Duration::from_millis(40)).await;
                    for key in [format!("/{:03}", at * 13 % 300), format!("/new/{at}")] {
                        world.put(&key, Some("2"));
                        set.push(key);
                    }
                }
            };
            let back = pin!(roll_back(&run, may_change));
            let done = match select(back, pin!(writes)).await {
                Either::Left((done, _)) => done.unwrap(),
                Either::Right(_) => unreachable!("it has no end"),
            };
            assert!(set.len() > 4, "{}", set.len());
            let found = world.fake.at(world.fake.revision());
            for key in &set {
                let value = found.get(key.as_bytes()).map(|it| &it.value[..]);
                assert_eq!(value, Some(&b"2"[..]), "{key} of {}: {done:?}", set.len());
            }
            assert!(!done.changed.is_empty());
        });
    }
}
