//! When writers are not stopped: for no keys, and by an alarm that opens the cluster to all.

use super::World;
use bytes::Bytes;
use consul_api::error::Kind;
use consul_migrate::job::Phase;
use consul_migrate::mapping::{Choice, Mapping, Op, Problem};
use consul_migrate::{CutOver, Freeze, Frozen, Run, Stop, alarm_refused, cut_over, load};
use consul_process::clock::Clock as _;
use futures_util::future::{join, select};
use std::pin::pin;
use std::time::Duration;

/// A cut-over; `meanwhile` happens before consent is given.
async fn cut(
    world: &World,
    run: &Run<'_>,
    freeze: Freeze,
    meanwhile: impl FnOnce(),
) -> Result<CutOver, Stop> {
    let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
    let consent = async |_| {
        meanwhile();
        Ok(())
    };
    let done = cut_over(run, freeze, &frozen, limit, consent).await;
    if done.is_err() {
        assert!(!frozen.may_be_on() && world.fake.alarms().is_empty());
        assert!(run.job.record().alarms.is_empty(), "an alarm was to be raised");
        assert_ne!(run.job.record().phase, Phase::Switched);
    }
    done
}

/// How a cut-over is given up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum GivenUp {
    WithoutConsent,
    ByADifference,
    After(u64),
    Never,
}

/// A cut-over leaves a key in etcd if it ends well, and none if it is given up.
pub fn that_gives_up() {
    let mut ended = [0; 2];
    let moments = (0..20).map(|at| GivenUp::After(at * 10));
    let all = [GivenUp::WithoutConsent, GivenUp::ByADifference, GivenUp::Never]
        .into_iter()
        .chain(moments);
    for (given_up, freeze) in
        all.flat_map(|it| [Freeze::Alarm, Freeze::Roles, Freeze::Operator].map(|by| (it, by)))
    {
        let world = with("");
        put(&world, "/app/a", 0);
        world.fake.have_users("3.6.0");
        world.fake.permit("app", "READWRITE", "/app/", "/app0");
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            if given_up == GivenUp::ByADifference {
                let extra = Op::set("app/extra".to_owned(), Bytes::new());
                world.direct.txn_surely(&[], &[extra]).await.unwrap();
            }
            let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
            let consent = async |_| match given_up {
                GivenUp::WithoutConsent => Err(Stop::Refused("no".to_owned())),
                _ => Ok(()),
            };
            {
                let cuts = pin!(cut_over(&run, freeze, &frozen, limit, consent));
                let after = match given_up {
                    GivenUp::After(ms) => Duration::from_millis(ms),
                    _ => limit,
                };
                let _ = select(cuts, pin!(world.clock.sleep(after))).await;
            }
            // A request that was on its way.
            world.clock.sleep(Duration::from_secs(1)).await;
            let is_switched = world.record().await.unwrap().phase == Phase::Switched;
            if !is_switched {
                frozen.lift(&world.etcd, &world.target, &run.job.keys).await.unwrap();
                frozen.clean(&world.etcd).await;
            }
            match given_up {
                GivenUp::After(_) => ended[usize::from(is_switched)] += 1,
                _ => assert_eq!(is_switched, given_up == GivenUp::Never),
            }
            let keys = world.fake.at(world.fake.revision());
            let left =
                keys.keys().filter(|key| key.starts_with(&world.mapping.sentinels())).count();
            assert_eq!(
                left,
                usize::from(is_switched),
                "{given_up:?} {freeze:?}: {:?}",
                keys.keys()
            );
        });
    }
    assert!(ended.iter().all(|count| *count > 5), "{ended:?}");
}

fn why(done: Result<CutOver, Stop>) -> String {
    match done {
        Err(Stop::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Keys with their lease; the prefix of the job, and what the warning names.
type Case = (&'static [(&'static str, u64)], &'static str, &'static [&'static str]);

const CASES: &[Case] = &[
    (&[], "", &["etcd has no keys"]),
    (&[], "app/", &["begins with --etcd-prefix \"app/\"", "etcd has no keys at all"]),
    (
        &[("/app/a", 0), ("b", 0)],
        "app/",
        &["\"app/\"; etcd has keys that begin with \"/app/\", \"b\""],
    ),
    (
        &[("/a", 0), ("/b/c/d", 0), ("/b/e", 0), ("\u{7f}", 0)],
        "/c",
        &["\"/a\", \"/b/\", \"\\u{7f}\""],
    ),
    (
        &[("/a/x", 0), ("/b/x", 0), ("/c/x", 0), ("/d/x", 0), ("/e/x", 0), ("/f/x", 0)],
        "x",
        &["\"/e/\", others"],
    ),
    (&[("/app/a", 7), ("/app/b", 7)], "", &["are left out (leased)", "--on KIND=encode"]),
    (
        &[("/app/a//b", 0), ("/other", 0)],
        "/app/",
        &["begin with \"/app/\" are left out (path-key)"],
    ),
];

pub fn for_no_keys() {
    let freezes = [Freeze::Alarm, Freeze::AlarmThatOpens, Freeze::Roles, Freeze::Operator];
    for (keys, prefix, words) in CASES {
        for (freeze, is_left) in freezes.into_iter().flat_map(|it| [(it, false), (it, true)]) {
            let world = with(prefix);
            keys.iter().for_each(|(key, lease)| put(&world, key, *lease));
            if is_left {
                // A sentinel of another job, which was killed.
                let sentinel = [&world.mapping.sentinels()[..], b"other/1"].concat();
                world.fake.write(&[(sentinel, Some((Bytes::new(), 0)))]);
            }
            world.works(async {
                let (run, kept) = world.hold(1).await.unwrap();
                load(&run, kept).await.unwrap();
                let why = why(cut(&world, &run, freeze, || panic!("it asks")).await);
                assert!(why.contains("no writer was stopped: there is nothing to move"), "{why}");
                words.iter().for_each(|words| assert!(why.contains(words), "{words}: {why}"));
            });
        }
    }
    goes_meanwhile();
    go_while_writers_are_stopped();
}

/// etcd deletes keys also while the alarm is on.
fn go_while_writers_are_stopped() {
    let world = with("/app/");
    put(&world, "/app/a", 0);
    world.fake.be_slow(Duration::from_millis(20));
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let deletes = async {
            while world.fake.alarms().is_empty() {
                world.clock.sleep(Duration::from_millis(1)).await;
            }
            world.put("/app/a", None);
        };
        let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
        let cuts = cut_over(&run, Freeze::Alarm, &frozen, limit, async |_| Ok(()));
        let (done, ()) = join(cuts, deletes).await;
        assert!(why(done).contains("all keys of the job were deleted"));
        assert_ne!(run.job.record().phase, Phase::Switched);
    });
}

/// The only key is deleted before consent is given.
fn goes_meanwhile() {
    let world = with("/app/");
    put(&world, "/app/a", 0);
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let deletes = || world.put("/app/a", None);
        let why = why(cut(&world, &run, Freeze::Alarm, deletes).await);
        assert!(why.contains("there is nothing to move"), "{why}");
    });
}

fn with(prefix: &str) -> World {
    let world =
        World::plain(1, &[(Problem::PathKey, Choice::Skip), (Problem::Leased, Choice::Skip)]);
    let mapping = Mapping { etcd_prefix: prefix.into(), ..world.mapping.clone() };
    World { mapping, ..world }
}

fn put(world: &World, key: &str, lease: u64) {
    world.fake.write(&[(key.into(), Some((Bytes::from_static(b"1"), lease)))]);
}

pub fn that_opens() {
    for (version, is_refused) in [
        ("3.2.32", true),
        ("3.4.23", true),
        ("3.5.35", true),
        ("3.6.0", false),
        ("3.10.1", false),
        ("4.0.0", false),
        // Servers that have not agreed on one yet.
        ("not_decided", true),
        ("", true),
    ] {
        for is_late in [false, true] {
            let world = with("");
            put(&world, "/a", 0);
            if !is_late {
                world.fake.have_users(version);
            }
            world.works(async {
                let (run, kept) = world.hold(1).await.unwrap();
                load(&run, kept).await.unwrap();
                // Access control is switched on while consent is asked for.
                let done =
                    cut(&world, &run, Freeze::Alarm, || world.fake.have_users(version)).await;
                if !is_refused {
                    assert!(done.is_ok(), "{version}: {done:?}");
                    return;
                }
                let why = why(done);
                let alternatives = ["--freeze roles", "--freeze operator", "--accept-open-deletes"];
                for words in ["etcd has users"].into_iter().chain(alternatives) {
                    assert!(why.contains(words), "{version}: {words}: {why}");
                }
                let is_known = version.starts_with(|c: char| c.is_ascii_digit());
                assert_eq!(why.contains("cannot be learnt"), !is_known, "{version}: {why}");
                let other = if is_late { Freeze::Operator } else { Freeze::AlarmThatOpens };
                assert!(cut(&world, &run, other, || {}).await.is_ok(), "{version}");
            });
        }
    }
}

/// etcd lets this user raise no alarm, from the beginning or since consent was asked for: it is told before.
pub fn without_the_right() {
    for freeze in [Freeze::Alarm, Freeze::AlarmThatOpens, Freeze::Roles, Freeze::Operator] {
        for (version, opens) in
            [("3.4.0", true), ("3.5.0", true), ("3.6.0", false), ("3.7.0", false)]
        {
            for is_late in [false, true] {
                is_said_before(freeze, version, opens, is_late);
            }
        }
    }
}

fn is_said_before(freeze: Freeze, version: &'static str, opens: bool, is_late: bool) {
    let world = with("");
    put(&world, "/a", 0);
    world.fake.have_users(version);
    world.fake.permit("app", "READWRITE", "/", "0");
    if !is_late {
        world.fake.keep_alarms_for_root();
    }
    let is_alarm = matches!(freeze, Freeze::Alarm | Freeze::AlarmThatOpens);
    world.works(async {
        let planned = alarm_refused(&world.etcd, b"", false).await.unwrap();
        assert_eq!(planned.is_some(), opens || !is_late, "{version}: {planned:?}");
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let meanwhile = || match is_late {
            true => world.fake.keep_alarms_for_root(),
            false => assert!(!is_alarm, "it asks"),
        };
        match cut(&world, &run, freeze, meanwhile).await {
            Ok(_) => assert!(!is_alarm, "{version} {freeze:?}"),
            Err(Stop::Refused(why)) => {
                assert!(freeze == Freeze::Alarm && opens, "{why}");
            }
            Err(Stop::Failed(error)) => {
                assert_eq!(error.kind(), Kind::PermissionDenied);
                assert!(is_alarm && error.message().contains("--freeze operator"), "{error}");
            }
            Err(stop) => panic!("{stop}"),
        }
    });
}
