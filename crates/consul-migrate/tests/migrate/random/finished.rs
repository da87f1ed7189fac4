//! The end of a move: nothing of it is left on either side, and etcd takes writes again.

use super::World;
use bytes::Bytes;
use consul_migrate::job::{self, Keys, Phase, Record, source};
use consul_migrate::mapping::{Choice, Op, Problem};
use consul_migrate::{
    Freeze, Frozen, MayChange, Run, Stop, cut_over, finish, finish_without_etcd, load,
    may_cut_over, may_finish, may_roll_back, restart, roll_back, rollback_has_begun,
};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, select};
use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

pub fn run() {
    for freeze in [Freeze::Alarm, Freeze::Roles, Freeze::Operator] {
        leaves_nothing(freeze);
    }
    comes_after_the_cut_over();
    for freeze in [Freeze::Alarm, Freeze::Roles, Freeze::Operator] {
        let killed = (0..80).filter(|life| goes_on_after_a_kill(freeze, *life));
        assert!(killed.count() > 5, "{freeze:?}");
    }
}

/// Returns whether it was killed after this time before its end.
fn goes_on_after_a_kill(freeze: Freeze, life: u64) -> bool {
    let world = World::plain(1, &[]);
    (0..200).for_each(|at| world.put(&format!("/app/{at:03}"), Some("1")));
    if freeze == Freeze::Roles {
        world.fake.have_users("3.5.0");
        world.fake.permit("app", "READWRITE", "/", "0");
    }
    world.works(async {
        let run = cut(&world, freeze).await;
        {
            let killed = world.clock.sleep(Duration::from_millis(life));
            select(pin!(finish(&run, false)), pin!(killed)).await;
        }
        if world.record().await.is_none() {
            return false;
        }
        finish(&run, false).await.unwrap();
        let keys = world.fake.at(world.fake.revision());
        assert!(!keys.keys().any(|key| key.starts_with(&world.mapping.sentinels())));
        assert!(world.record().await.is_none());
        true
    })
}

/// The things that happen after a finish was cut.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Since {
    Nothing,
    /// etcd has an older state, and programs have written so much since that its revisions do not show that.
    EtcdRestored,
    /// Consul has the job as it was before the finish.
    ConsulRestored,
    Both,
}

/// A finish is cut at each moment, and then no way back overwrites what programs have set in etcd since. The job can be ended.
pub fn then_restored() {
    for freeze in [Freeze::Alarm, Freeze::Roles, Freeze::Operator] {
        for since in [Since::Nothing, Since::EtcdRestored, Since::ConsulRestored, Since::Both] {
            let ends = (0..60).map(|life| cut_and_restored(freeze, life, since));
            let ends: BTreeSet<_> = ends.collect();
            let wanted: &[Cut] = match since {
                Since::Nothing | Since::EtcdRestored => &[Cut::Before, Cut::Begun, Cut::Over],
                _ => &[Cut::Before, Cut::Over],
            };
            assert!(ends.iter().eq(wanted), "{freeze:?} {since:?}: {ends:?}");
        }
    }
}

/// How far a finish had come when it was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cut {
    /// A way back may still follow.
    Before,
    Begun,
    Over,
}

fn cut_and_restored(freeze: Freeze, life: u64, since: Since) -> Cut {
    let world = World::plain(1, &[]);
    (0..20).for_each(|at| world.put(&format!("/app/{at:03}"), Some("1")));
    let snapshot = world.fake.revision();
    (0..20).for_each(|at| world.put(&format!("/app/{at:03}"), Some("2")));
    if freeze == Freeze::Roles {
        world.fake.have_users("3.5.0");
        world.fake.permit("app", "READWRITE", "/", "0");
    }
    world.works(async {
        let run = cut(&world, freeze).await;
        let name = run.job.keys.record.as_str();
        let kept = world.direct.get(name).await.unwrap().unwrap().value;
        {
            let killed = world.clock.sleep(Duration::from_millis(life));
            select(pin!(finish(&run, false)), pin!(killed)).await;
        }
        // A request that was on its way.
        world.clock.sleep(Duration::from_secs(1)).await;
        if world.record().await.is_none() {
            return Cut::Over;
        }
        if matches!(since, Since::EtcdRestored | Since::Both) {
            world.fake.restore(snapshot);
            (0..60).for_each(|_| world.put("/other", Some("0")));
        }
        if matches!(since, Since::ConsulRestored | Since::Both) {
            let record = Op::set(name.to_owned(), kept);
            world.direct.txn_surely(&[], &[record]).await.unwrap();
        }
        world.fake.lift();
        world.put("/app/000", Some("of a program"));
        let before = world.fake.at(world.fake.revision());
        let (run, _) = world.hold(2).await.unwrap();
        let shown = format!("{freeze:?} {life} {since:?}");
        let back = roll_back(&run, MayChange::NoNewKeys).await;
        let now = world.fake.at(world.fake.revision());
        let value = now.get(&b"/app/000"[..]).map(|it| &it.value[..]);
        assert_eq!(value, Some(&b"of a program"[..]), "{shown}: {back:?}");
        match back {
            Ok(done) => {
                let is_known = matches!(since, Since::Nothing | Since::ConsulRestored);
                assert!(is_known, "{shown}: {done:?}");
                assert_eq!(done.changed, ["/app/000"], "{shown}");
                Cut::Before
            }
            Err(Stop::Refused(why)) => {
                assert!(now == before, "{shown}: {why}");
                let has_begun = why.contains("a finish of the job has begun");
                // Only then its key is to be there still.
                assert!(has_begun || why.contains("etcd has not the key"), "{shown}: {why}");
                if has_begun {
                    let overwrites = roll_back(&run, MayChange::Restored).await;
                    assert!(matches!(overwrites, Err(Stop::Refused(_))), "{shown}: {overwrites:?}");
                    assert!(world.fake.at(world.fake.revision()) == before, "{shown}");
                }
                match finish(&run, false).await {
                    Ok(done) => {
                        assert!(has_begun && done.set_since[0] == "/app/000", "{shown}: {done:?}")
                    }
                    Err(Stop::Refused(why)) => {
                        assert!(!has_begun && why.contains("--without-etcd"), "{shown}: {why}");
                        finish_without_etcd(&run).await.unwrap();
                    }
                    other => panic!("{shown}: {other:?}"),
                }
                assert!(world.record().await.is_none(), "{shown}");
                if has_begun { Cut::Begun } else { Cut::Before }
            }
            other => panic!("{shown}: {other:?}"),
        }
    })
}

/// A finish without etcd is cut at each moment of a job that follows etcd, or is cut over. As soon as a key has lost its mark,
/// nothing but a finish follows.
pub fn nothing_else_follows() {
    for is_switched in [false, true] {
        let begun = (0..40).step_by(3).filter(|life| is_begun_alone(is_switched, *life));
        assert!(begun.count() > 3, "{is_switched}");
    }
}

/// Returns whether it had begun, and had not ended, after this time.
fn is_begun_alone(is_switched: bool, life: u64) -> bool {
    let world = World::plain(1, &[]);
    (0..200).for_each(|at| world.put(&format!("/app/{at:03}"), Some("1")));
    world.works(async {
        let run = if is_switched {
            cut(&world, Freeze::Operator).await
        } else {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            run
        };
        {
            let killed = world.clock.sleep(Duration::from_millis(life));
            select(pin!(finish_without_etcd(&run)), pin!(killed)).await;
        }
        let Some(record) = world.record().await else { return false };
        let names = world.direct.keys("app/", None).await.unwrap();
        let flags = async |name: &str| world.direct.get(name).await.unwrap().unwrap().flags;
        // They lose it in this order.
        assert!(record.finishing || flags(&names[0]).await != 0, "{life}");
        // A way back that was half done is given up.
        let mark = [&world.mapping.sentinels()[..], b"_migrate/job/rollback/1"].concat();
        assert!(world.fake.write(&[(mark, Some((Bytes::new(), 0)))]));
        let before = world.fake.at(world.fake.revision());
        let (run, _) = world.hold(2).await.unwrap();
        let why = |done: Result<(), Stop>| match done {
            Err(Stop::Refused(why)) => why,
            other => panic!("{other:?}"),
        };
        let cuts = async |_| Ok(());
        let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
        let may_cut =
            may_cut_over(&world.etcd, &world.target, &record, &run.job.keys, Freeze::Operator)
                .await;
        if record.finishing {
            let again = cut_over(&run, Freeze::Operator, &frozen, limit, cuts).await.map(|_| ());
            let back = roll_back(&run, MayChange::Restored).await.map(|_| ());
            for done in [may_cut, may_roll_back(&record), again, back] {
                let why = why(done);
                assert_eq!(why.contains("--without-etcd"), !is_switched, "{why}");
                assert!(why.contains("a finish of the job has begun"), "{why}");
            }
            assert!(world.fake.at(world.fake.revision()) == before);
        } else {
            assert_eq!(
                (may_cut.is_ok(), may_roll_back(&record).is_ok()),
                (!is_switched, is_switched)
            );
        }
        if is_switched {
            let others = Keys::new("other");
            let of_another = job::refuse_switched(&world.direct, &others, &record.mapping).await;
            for why in [why(of_another), why(source::check_read(&record, 0))] {
                assert!(why.contains("finish") || !record.finishing, "{why}");
                assert_eq!(why.contains("rollback"), !record.finishing, "{why}");
            }
        }
        // No advice is refused.
        if !is_switched && record.finishing {
            let ends = may_finish(&world.etcd, &record, &run.job.keys, false).await;
            for why in [why(ends), why(source::check_read(&record, 0))] {
                assert!(why.contains("finish --without-etcd"), "{why}");
                assert!(!why.contains("cutover") && !why.contains("copy --again"), "{why}");
            }
        }
        match is_switched && record.finishing {
            true => finish(&run, false).await.unwrap(),
            false => finish_without_etcd(&run).await.unwrap(),
        };
        assert!(world.record().await.is_none());
        assert_eq!((flags(&names[0]).await, flags(&names[199]).await), (0, 0));
        record.finishing
    })
}

/// While the way back of a job is half done no other verb does its work.
pub fn after_half_a_rollback() {
    let mut begun = 0;
    for life in (0..1600).step_by(100) {
        for abandons in [false, true] {
            begun += u64::from(is_refused_after_half_a_rollback(life, abandons));
        }
    }
    assert!(begun > 3, "{begun}");
}

async fn refuses_for_a_rollback(run: &Run<'_>) {
    match finish(run, false).await {
        Err(Stop::Refused(why)) => assert!(why.contains("run rollback again"), "{why}"),
        other => panic!("{other:?}"),
    }
}

async fn cut(world: &World, freeze: Freeze) -> Run<'_> {
    let (run, kept) = world.hold(1).await.unwrap();
    load(&run, kept).await.unwrap();
    let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
    let done = cut_over(&run, freeze, &frozen, limit, async |_| Ok(())).await.unwrap();
    assert!(done.differences.is_empty(), "{done:?}");
    run
}

/// Returns whether the way back had begun, and not ended, after this time.
fn is_refused_after_half_a_rollback(life: u64, abandons: bool) -> bool {
    let world = World::plain(1, &[]);
    (0..200).for_each(|at| world.put(&format!("/{at:03}"), Some("1")));
    world.works(async {
        let run = cut(&world, Freeze::Alarm).await;
        (0..200).for_each(|at| world.put(&format!("/{at:03}"), None));
        {
            let killed = world.clock.sleep(Duration::from_millis(life));
            select(pin!(roll_back(&run, MayChange::NoNewKeys)), pin!(killed)).await;
        }
        let record = run.job.record();
        let has_begun = rollback_has_begun(&world.etcd, &record, &run.job.keys).await.unwrap();
        if !has_begun || record.phase != Phase::Switched {
            return false;
        }
        let before = world.fake.at(world.fake.revision());
        refuses_for_a_rollback(&run).await;
        let asks = async |_| panic!("it asks");
        let limit = Duration::from_secs(60);
        let again = cut_over(&run, Freeze::Alarm, &Frozen::default(), limit, asks).await;
        assert!(matches!(again, Err(Stop::Refused(_))), "{again:?}");
        assert!(matches!(restart(&run, "a test").await, Err(Stop::Refused(_))));
        assert_eq!(world.fake.at(world.fake.revision()), before);
        assert_eq!(run.job.record(), record);
        if abandons {
            // Programs that set a key as Consul has it, and another one.
            world.put("/000", Some("1"));
            world.put("/late", Some("2"));
            let done = finish(&run, true).await.unwrap();
            assert_eq!(done.set_since, ["/late"]);
        } else {
            roll_back(&run, MayChange::NoNewKeys).await.unwrap();
            assert_eq!(world.fake.at(world.fake.revision()).len(), 200);
            assert_eq!(run.job.record().phase, Phase::Tail);
        }
        true
    })
}

/// Others refuse writes: their alarms, and rights that somebody has changed.
pub fn while_etcd_refuses_writes() {
    for freeze in [Freeze::Alarm, Freeze::Roles, Freeze::Operator] {
        for has_alarm in [None, Some(false), Some(true)] {
            for is_changed in [false, true] {
                says_what_etcd_refuses(freeze, has_alarm, is_changed);
            }
        }
    }
}

/// `alarm`: whether another job names the alarm that is on.
fn says_what_etcd_refuses(freeze: Freeze, alarm: Option<bool>, is_changed: bool) {
    let world = World::plain(1, &[]);
    world.put("/app/a", Some("1"));
    if freeze == Freeze::Roles {
        world.fake.have_users("3.6.0");
        world.fake.permit("app", "READWRITE", "/", "0");
    }
    let is_changed = is_changed && freeze == Freeze::Roles;
    world.works(async {
        let run = cut(&world, freeze).await;
        if let Some(is_named) = alarm {
            world.fake.raise(99);
            let other = Record { alarms: vec![99], ..run.job.record() };
            let value = Bytes::from(serde_json::to_vec(&other).unwrap());
            let record = Op::set("_migrate/other".to_owned(), value);
            let ops = if is_named { vec![record] } else { vec![] };
            world.direct.txn_surely(&[], &ops).await.unwrap();
        }
        if is_changed {
            world.fake.forbid("app", "/", "0");
        }
        let done = finish(&run, false).await.unwrap();
        let said = &done.not_lifted;
        assert_eq!(said.len(), usize::from(alarm.is_some()) + usize::from(is_changed), "{said:?}");
        let words = match alarm {
            None => None,
            Some(false) => Some("no job in Consul names"),
            Some(true) => Some("of the job \"other\""),
        };
        assert!(words.is_none_or(|words| said[0].contains(words)), "{said:?}");
        assert!(
            !is_changed || said.iter().any(|it| it.contains("grant-permission app")),
            "{said:?}"
        );
    });
}

fn with() -> World {
    let world =
        World::plain(1, &[Problem::PathKey, Problem::LargeValue].map(|it| (it, Choice::Encode)));
    for place in 0..200 {
        world.put(&format!("/app/{place:03}"), Some("1"));
    }
    world.put("/x//y", Some("odd"));
    world.put("/changed", Some("1"));
    // By a PUT, and in three parts.
    for (key, size) in [("/large", 400_000), ("/larger", 900_000)] {
        let value = Bytes::from(vec![b'l'; size]);
        assert!(world.fake.write(&[(key.into(), Some((value, 0)))]));
    }
    world
}

fn leaves_nothing(freeze: Freeze) {
    let world = with();
    if freeze == Freeze::Roles {
        world.fake.have_users("3.5.0");
        world.fake.permit("app", "READWRITE", "/", "0");
    }
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
        let done = cut_over(&run, freeze, &frozen, limit, async |_| Ok(())).await.unwrap();
        assert!(done.differences.is_empty(), "{done:?}");
        let of_program = Op::Set { key: "changed".to_owned(), value: "2".into(), flags: 9 };
        world.direct.txn_surely(&[], &[of_program]).await.unwrap();
        let before = world.found().await;
        // An unknown program, where the operator has let it go on; and a killed way back.
        let late = (b"/late".to_vec(), Some((Bytes::from_static(b"1"), 0)));
        let is_late = freeze != Freeze::Alarm && world.fake.write(&[late]);
        let sentinel = [&world.mapping.sentinels()[..], b"_migrate/job/rollback/1"].concat();
        if is_late {
            assert!(world.fake.write(&[(sentinel, Some((Bytes::new(), 0)))]));
        }

        if is_late {
            refuses_for_a_rollback(&run).await;
        }
        let done = finish(&run, is_late).await.unwrap();
        assert!(done.not_lifted.is_empty() && !done.alarms_unknown);
        assert_eq!(done.lifted, freeze != Freeze::Operator, "{freeze:?}");
        assert!(world.fake.alarms().is_empty());
        if freeze == Freeze::Roles {
            assert_eq!(world.fake.permitted("app"), ["READWRITE"]);
        }
        // Of 204 keys one was changed.
        assert_eq!((done.unmarked, done.left), (203, Some(204 + u64::from(is_late))), "{done:?}");
        let told = "204 keys in etcd: 204 moved (2 encoded); Consul has 204 keys";
        assert_eq!(done.keys.as_ref().map(ToString::to_string).as_deref(), Some(told));
        assert_eq!(done.all, done.left);
        assert_eq!(done.set_since, if is_late { vec!["/late"] } else { vec![] });
        let keys = world.fake.at(world.fake.revision());
        assert!(!keys.keys().any(|key| key.starts_with(&world.mapping.sentinels())));
        assert!(world.found().await == before, "a value has changed");
        // Nor does a beat that comes now leave anything. It does not take the own end for a replacement, and goes on until the
        // answer to that has come.
        let beats = pin!(run.job.beat());
        let over = pin!(world.clock.sleep(Duration::from_secs(10)));
        assert!(matches!(select(beats, over).await, Either::Right(_)));
        let names = world.direct.keys("", None).await.unwrap();
        assert!(!names.iter().any(|name| name.starts_with("_migrate/")), "{names:?}");
        for name in &names {
            let stored = world.direct.entries(&[name]).await.unwrap().pop().flatten().unwrap();
            let flags = if name == "changed" { 9 } else { 0 };
            assert_eq!(stored.flags, flags, "{name}");
        }
    });
}

fn comes_after_the_cut_over() {
    let world = with();
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        match finish(&run, false).await {
            Err(Stop::Refused(why)) => assert!(why.contains("not cut over"), "{why}"),
            other => panic!("{other:?}"),
        }
        assert!(world.record().await.is_some());
    });
}
