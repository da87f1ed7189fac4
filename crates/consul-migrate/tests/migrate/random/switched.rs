//! The moment of the cut-over: what is before it and what after it.

use super::World;
use bytes::Bytes;
use consul_migrate::job::{Job, Phase, Record};
use consul_migrate::mapping::{Choice, Mapping, Op, Problem};
use consul_migrate::{
    CutOver, Freeze, Frozen, MayChange, RolledBack, Run, Stop, Until, cut_over, load, roll_back,
    tail,
};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, join, select};
use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

pub fn run() {
    for seed in 0..8 {
        the_last_write_is_of_the_job(seed);
        a_write_behind_a_sentinel_that_another_deletes_is_not_lost(seed);
        the_record_names_an_alarm_before_it_is_on(seed);
    }
    for ms in (0..80).step_by(2).chain([500, 1000, 1900]) {
        a_writer_that_was_not_stopped_is_noticed(ms);
    }
    for freeze in [Freeze::Alarm, Freeze::Roles] {
        let is_refused = |ms: &u64| a_write_behind_the_last_sentinel_is_not_lost(freeze, *ms);
        let refused = (0..25).filter(is_refused).count();
        assert!(refused > 2 && refused < 25, "{freeze:?}: {refused}");
    }
    it_ends_within_its_limit();
    without_consent_nothing_is_stopped();
    no_other_job_applies_changes_to_the_same_keys();
    the_first_write_after_it_stays();
    keys_that_stay_are_named();
    a_new_key_has_the_form_of_most();
    parts_that_are_missing_are_named();
}

async fn cut(run: &Run<'_>, freeze: Freeze) -> Result<CutOver, Stop> {
    cut_over(run, freeze, &Frozen::default(), Duration::from_secs(60), async |_| Ok(())).await
}

/// The job that is cut over, with these keys of etcd.
async fn moved<'w>(world: &'w World, keys: &[(&str, &str)], freeze: Freeze) -> Run<'w> {
    keys.iter().for_each(|(key, value)| world.put(key, Some(value)));
    let (run, kept) = world.hold(1).await.unwrap();
    load(&run, kept).await.unwrap();
    assert!(cut(&run, freeze).await.unwrap().differences.is_empty());
    run
}

/// A deletion after the cut-over is applied also to what the last transaction before it wrote, and to all parts.
fn the_last_write_is_of_the_job(seed: u64) {
    let world = World::plain(seed, &[(Problem::ControlKey, Choice::Encode)]);
    world.works(async {
        let (run, _) = world.hold(1).await.unwrap();
        let writes = async {
            loop {
                let value = Some((Bytes::from_static(b"1"), 0));
                world.fake.write(&[(b"/a".to_vec(), value.clone()), (b"/nul\0".to_vec(), value)]);
                world.clock.sleep(Duration::from_millis(1)).await;
            }
        };
        let done = match select(pin!(cut(&run, Freeze::Alarm)), pin!(writes)).await {
            Either::Left((done, _)) => done.unwrap(),
            Either::Right((never, _)) => never,
        };
        assert!(done.differences.is_empty(), "{done:?}");
        assert_eq!(world.found().await.len(), 2);
        world.put("/a", None);
        world.put("/nul\0", None);
        let follows = pin!(tail(&run, &Until::Dropped));
        let _ = select(follows, world.clock.sleep(Duration::from_secs(1))).await;
        let found = world.found().await;
        assert!(found.is_empty(), "{found:?}");
    });
}

fn a_write_behind_a_sentinel_that_another_deletes_is_not_lost(seed: u64) {
    let world = World::plain(seed, &[]);
    world.works(async {
        let (run, _) = world.hold(1).await.unwrap();
        let meddles = async {
            for number in 0.. {
                let sentinels = run.job.record().mapping.sentinels();
                let keys = world.fake.at(world.fake.revision()).into_keys();
                let left: Vec<_> = keys.filter(|key| key.starts_with(&sentinels)).collect();
                world.fake.write(&left.into_iter().map(|key| (key, None)).collect::<Vec<_>>());
                let value = Some((Bytes::from(format!("{number}")), 0));
                world.fake.write(&[(b"/a".to_vec(), value)]);
                world.clock.sleep(Duration::from_millis(1)).await;
            }
        };
        let done = match select(pin!(cut(&run, Freeze::Alarm)), pin!(meddles)).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => unreachable!("it has no end"),
        };
        match done {
            Err(Stop::Refused(why)) => {
                assert!(why.contains("another program has deleted the sentinel"), "{why}");
            }
            Ok(_) => {
                let mapping = run.job.record().mapping;
                assert!(world.found().await == world.wanted(&mapping, world.fake.revision()));
            }
            Err(other) => panic!("{other:?}"),
        }
    });
}

/// Another program deletes the last sentinel alone, so long after it was set, and then a program writes if it still may. Returns
/// whether the cut-over is refused.
fn a_write_behind_the_last_sentinel_is_not_lost(freeze: Freeze, ms: u64) -> bool {
    let world = World::plain(ms, &[]);
    world.put("/a", Some("1"));
    world.fake.have_users("3.6.0");
    world.fake.permit("app", "READWRITE", "/", "0");
    world.works(async {
        let (run, _) = world.hold(1).await.unwrap();
        let left = |key: &[u8]| key.windows(9).any(|it| it == b"cut-over/");
        let last = async || loop {
            let sentinels = run.job.record().mapping.sentinels();
            let keys = world.fake.at(world.fake.revision()).into_keys();
            let (stays, goes): (Vec<_>, Vec<_>) =
                keys.filter(|key| key.starts_with(&sentinels)).partition(|key| left(key));
            if !stays.is_empty() && !goes.is_empty() {
                return goes;
            }
            world.clock.sleep(Duration::from_millis(1)).await;
        };
        let meddles = async {
            let sentinels = last().await;
            world.clock.sleep(Duration::from_millis(ms)).await;
            let deleted: Vec<_> = sentinels.into_iter().map(|key| (key, None)).collect();
            assert!(world.fake.write(&deleted));
            let _ = world.fake.write_as("app", &[(b"/a".to_vec(), Some(("2".into(), 0)))]);
            std::future::pending::<()>().await;
        };
        let done = match select(pin!(cut(&run, freeze)), pin!(meddles)).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => unreachable!("it waits"),
        };
        match done {
            Err(Stop::Refused(why)) => {
                assert!(why.contains("another program has deleted the sentinel"), "{why}");
                true
            }
            Ok(done) => {
                let wanted = world.fake.at(world.fake.revision())[&b"/a"[..]].value.clone();
                let found = world.stored("a").await.unwrap();
                let is_whole = done.differences.is_empty() && found.as_bytes() == wanted;
                assert!(is_whole, "{freeze:?} {ms} ms: {found}");
                false
            }
            Err(other) => panic!("{other:?}"),
        }
    })
}

/// Otherwise nothing could lift that of an instance that is killed then.
fn the_record_names_an_alarm_before_it_is_on(seed: u64) {
    let world = World::plain(seed, &[]);
    world.put("/a", Some("1"));
    world.works(async {
        let (run, _) = world.hold(1).await.unwrap();
        let looks = async {
            loop {
                if let Some(alarm) = world.fake.alarms().first() {
                    return world.record().await.unwrap().alarms.contains(alarm);
                }
                world.clock.sleep(Duration::from_millis(1)).await;
            }
        };
        match select(pin!(cut(&run, Freeze::Alarm)), pin!(looks)).await {
            Either::Left((done, _)) => panic!("no alarm was seen: {done:?}"),
            Either::Right((is_named, done)) => assert!(done.await.is_ok() && is_named),
        }
    });
}

/// A program writes until so long after the consent of the operator.
fn a_writer_that_was_not_stopped_is_noticed(ms: u64) {
    let world = World::plain(ms, &[]);
    world.put("/b", Some("1"));
    world.works(async {
        let (run, _) = world.hold(1).await.unwrap();
        let begun = world.clock.now();
        let last = Cell::new(begun);
        let writes = async {
            // Late ones write once.
            world.clock.sleep(Duration::from_millis(if ms < 80 { 0 } else { ms })).await;
            while last.get() - begun < Duration::from_millis(ms) {
                last.set(world.clock.now());
                world.put("/a", Some("1"));
                world.clock.sleep(Duration::from_millis(1)).await;
            }
        };
        let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
        let cut = async {
            let done = cut_over(&run, Freeze::Operator, &frozen, limit, async |_| Ok(())).await;
            (done, world.clock.now())
        };
        let ((done, end), ()) = join(cut, writes).await;
        match done {
            Ok(done) => {
                let (since, last) = (end - last.get(), last.get() - begun);
                assert!(since > done.stopped, "{ms} ms: {last:?}, {since:?} before the end");
            }
            Err(Stop::Refused(why)) => assert!(why.contains("still write to etcd"), "{why}"),
            Err(other) => panic!("{other:?}"),
        }
    });
}

fn it_ends_within_its_limit() {
    let world = World::plain(1, &[]);
    world.put("/a", Some("1"));
    let mut was_on = false;
    world.works(async {
        for ms in (4..=16).step_by(3) {
            let (run, _) = world.hold(ms).await.unwrap();
            let (frozen, limit) = (Frozen::default(), Duration::from_millis(ms));
            let ended = cut_over(&run, Freeze::Alarm, &frozen, limit, async |_| Ok(())).await;
            assert!(
                matches!(&ended, Err(Stop::Refused(why)) if why.contains("not done within")),
                "{ended:?}"
            );
            was_on |= !world.fake.alarms().is_empty();
            frozen
                .lift(&world.etcd, &world.target, &consul_migrate::job::Keys::new("job"))
                .await
                .unwrap();
            assert!(world.fake.alarms().is_empty() && !frozen.may_be_on());
            assert_ne!(world.record().await.unwrap().phase, Phase::Switched);
        }
    });
    assert!(was_on, "no limit has ended while the writers were stopped");
}

fn without_consent_nothing_is_stopped() {
    let world = World::plain(1, &[]);
    world.put("/a", Some("1"));
    world.works(async {
        let (run, _) = world.hold(1).await.unwrap();
        let frozen = Frozen::default();
        let refuses = async |_| Err(Stop::Refused("not agreed".to_owned()));
        let limit = Duration::from_secs(60);
        let ended = cut_over(&run, Freeze::Alarm, &frozen, limit, refuses).await;
        assert!(matches!(&ended, Err(Stop::Refused(why)) if why == "not agreed"), "{ended:?}");
        assert!(!frozen.may_be_on() && world.fake.alarms().is_empty());
        assert!(world.record().await.unwrap().alarms.is_empty());
    });
}

fn no_other_job_applies_changes_to_the_same_keys() {
    for (etcd_prefix, consul_prefix, is_same) in [
        ("", "", true),
        ("/d/", "", true),
        ("/d/e/", "", true),
        ("/", "d/", true),
        ("/e/", "", false),
        ("", "copy/", false),
    ] {
        let mut world = World::plain(1, &[]);
        world.mapping.etcd_prefix = b"/d/".into();
        world.put("/d/a", Some("1"));
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            let mapping = Mapping {
                etcd_prefix: etcd_prefix.into(),
                consul_prefix: consul_prefix.to_owned(),
                ..run.job.record().mapping
            };
            let new = Record { mapping, ..run.job.record() };
            let me = super::instance(2);
            let other = Job::hold(&world.direct, "other", me, &|_| true, true, Some(new));
            let other = other.await.unwrap();
            let done = match select(pin!(cut(&run, Freeze::Alarm)), pin!(other.beat())).await {
                Either::Left((done, _)) => done,
                Either::Right((stop, _)) => panic!("{stop}"),
            };
            let said = "process 1 on h (tail) applies changes of etcd to the same keys of Consul";
            let is_refused = matches!(&done, Err(Stop::Refused(why)) if why.contains(said));
            assert_eq!(is_refused, is_same, "{etcd_prefix} {consul_prefix}: {done:?}");
            // It has ended.
            assert!(cut(&run, Freeze::Alarm).await.is_ok() || !is_same);
        });
    }
}

async fn back(run: &Run<'_>) -> RolledBack {
    roll_back(run, MayChange::NoNewKeys).await.unwrap()
}

fn the_first_write_after_it_stays() {
    let world = World::plain(1, &[]);
    world.works(async {
        let leased = Some((Bytes::from_static(b"1"), 7));
        world.fake.write(&[(b"/leased".to_vec(), leased)]);
        let run = moved(&world, &[("/a", "1"), ("/b", "1")], Freeze::Operator).await;
        let ops = ["a", "b", "leased"].map(|key| Op::set(key.to_owned(), "of Consul".into()));
        world.direct.txn_surely(&[], &ops).await.unwrap();
        world.put("/a", Some("of etcd"));
        let done = back(&run).await;
        assert_eq!((&done.changed[..], done.set), (&["/a".to_owned()][..], 1), "{done:?}");
        let keys = world.fake.at(world.fake.revision());
        let value = |key: &[u8]| keys[key].value.clone();
        assert_eq!((value(b"/a"), value(b"/b")), ("of etcd".into(), "of Consul".into()));
        assert_eq!((done.left, keys[&b"/leased"[..]].lease), (1, 7));
    });
}

/// Keys with a lease, whose values differ or not, beside a key that a session holds: each is named with its reason.
fn keys_that_stay_are_named() {
    let world = World::plain(1, &[]);
    world.works(async {
        let leased = |value: &'static str| Some((Bytes::from_static(value.as_bytes()), 7));
        world.fake.write(&[(b"/alike".to_vec(), leased("1")), (b"/other".to_vec(), leased("1"))]);
        let run = moved(&world, &[("/a", "1")], Freeze::Operator).await;
        let ops = [("alike", "1"), ("other", "2")];
        let ops = ops.map(|(key, value)| Op::set(key.to_owned(), value.into()));
        world.direct.txn_surely(&[], &ops).await.unwrap();
        let done = back(&run).await;
        let left: Vec<_> = done.left_keys.iter().map(ToString::to_string).collect();
        let wanted = [
            "/other: it has a lease in etcd, and another value in Consul",
            "/alike: it has a lease in etcd, and the same value",
        ];
        assert_eq!(
            (&left[..], done.left, done.left_different),
            (&wanted.map(str::to_owned)[..], 2, 1)
        );
    });
}

fn a_new_key_has_the_form_of_most() {
    for (keys, new) in [(["/a", "/b", "c"], "/new"), (["/a", "b", "c"], "new")] {
        let world = World::plain(1, &[]);
        world.works(async {
            let run = moved(&world, &keys.map(|key| (key, "1")), Freeze::Alarm).await;
            let ops = ["new", "a", "c"].map(|key| Op::set(key.to_owned(), "2".into()));
            world.direct.txn_surely(&[], &ops).await.unwrap();
            assert_eq!(back(&run).await.set, 3);
            let now = world.fake.at(world.fake.revision());
            let mut wanted: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
            wanted.push(new.as_bytes());
            wanted.sort_unstable();
            assert_eq!(now.keys().map(|key| &key[..]).collect::<Vec<_>>(), wanted);
        });
    }
}

/// A value does not come back as a shorter one if programs have deleted a part of it.
fn parts_that_are_missing_are_named() {
    let world = World::plain(1, &[(Problem::LargeValue, Choice::Encode)]);
    world.works(async {
        let large = "x".repeat(800_000);
        let run = moved(&world, &[("/large", &large)], Freeze::Alarm).await;
        let parts: Vec<String> = world.found().await.into_keys().collect();
        assert_eq!(parts.len(), 3);
        let lost = Op::Delete { key: parts[1].clone() };
        world.direct.txn_surely(&[], &[lost]).await.unwrap();
        let done = back(&run).await;
        assert_eq!(done.without_source, [parts[0].clone()]);
        assert_eq!(world.fake.at(world.fake.revision())[&b"/large"[..]].value, large);
    });
}
