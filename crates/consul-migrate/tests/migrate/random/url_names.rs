//! Names that newer servers refuse in a URL, each release by its own rule: on such servers from the beginning, and on a
//! server that is upgraded after the copy.

use super::{Silent, World, instance};
use crate::random::PACE;
use bytes::Bytes;
use consul_migrate::job::{Job, Phase, Record};
use consul_migrate::mapping::{Choice, Op, Problem};
use consul_migrate::snapshot::survey::survey;
use consul_migrate::target::Outcome;
use consul_migrate::verify::{Found, compare_up_to};
use consul_migrate::{
    CutOver, Freeze, Frozen, MayChange, Run, Stop, Until, cut_over, load, restart, roll_back, tail,
};
use consul_process::clock::Clock as _;
use consul_sim::KeyNames;
use futures_util::future::{Either, select};
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// The names, and whether 1.21.5 and 1.22 take them in a URL.
const NAMES: &[(&str, bool, bool)] = &[
    ("/plain/a-b_c.d", true, true),
    ("/jobs/nightly ", false, false),
    ("/ first", false, false),
    ("/a b", false, true),
    ("/a:b", false, true),
    ("/ü/中", false, true),
    ("/100%", false, true),
    ("/cache/http%3A%2F%2Fx%2Fy", false, true),
    ("/cache/http%3A%2F%2Fx%2Fa%20b", false, false),
    ("/cache/a b%3Ac", false, false),
    ("/cache/100%/a%20b", false, true),
    ("/up/%2e%2e/x", false, false),
    ("/q?a=1&b", true, true),
];

const RELEASES: [KeyNames; 3] = [KeyNames::V1_21_0, KeyNames::V1_21_5, KeyNames::V1_22];

fn is_taken((_, by_1_21_5, by_1_22): &(&str, bool, bool), release: KeyNames) -> bool {
    match release {
        KeyNames::V1_21_0 => true,
        KeyNames::V1_21_5 => *by_1_21_5,
        KeyNames::V1_22 => *by_1_22,
    }
}

fn refused(release: KeyNames) -> BTreeSet<String> {
    let names = NAMES.iter().filter(|name| !is_taken(name, release));
    names.map(|(name, ..)| (*name).to_owned()).collect()
}

fn with(release: KeyNames, choice: Choice) -> World {
    let world = World::plain(1, &[(Problem::UrlKey, choice)]);
    world.upgrade(release);
    NAMES.iter().for_each(|(name, ..)| world.put(name, Some("1")));
    world
}

pub fn run() {
    for release in RELEASES {
        are_named(release);
        end_a_tail(release);
        for choice in [Choice::Encode, Choice::Skip] {
            are_moved_and_back(release, choice);
        }
        are_refused_after_an_upgrade(release);
        are_moved_back_after_an_upgrade(release);
    }
    are_listed_without_their_url();
    prefixes_that_no_url_has_are_listed();
}

/// `--etcd-prefix` takes any text, and `--consul-prefix` also what ends within a segment.
fn prefixes_that_no_url_has_are_listed() {
    let world = World::plain(1, &[]);
    let names = [".k/0", "..k", "a/.b/c", "a/..b", "x/1", "z"];
    world.works(async {
        for name in names {
            let op = consul_migrate::mapping::Op::set(name.to_owned(), "v".into());
            world.direct.txn_surely(&[], &[op]).await.unwrap();
        }
        let prefixes = [
            ".", "..", "./", "../", "a/.", "a/..", "a/./", "a//", "x//", "x//y/", "x//y", "/",
            "//", "a\n/",
        ];
        for (prefix, separator) in prefixes.iter().flat_map(|it| [(*it, None), (*it, Some("/"))]) {
            let found = world.target.keys(prefix, separator).await.unwrap();
            let cut = |name: &str| match separator.and_then(|_| name[prefix.len()..].find('/')) {
                Some(at) => name[..=prefix.len() + at].to_owned(),
                None => name.to_owned(),
            };
            let below = names.iter().filter(|name| name.starts_with(prefix)).map(|name| cut(name));
            let wanted: BTreeSet<String> = below.collect();
            assert_eq!(found, wanted.into_iter().collect::<Vec<_>>(), "{prefix:?} {separator:?}");
        }
    });
}

fn are_named(release: KeyNames) {
    let world = with(release, Choice::Refuse);
    world.works(async {
        let World { etcd, target, mapping, .. } = &world;
        let found = survey(etcd, target, mapping, PACE, &Silent).await.unwrap();
        let named = found.problems.get(&Problem::UrlKey).map(|it| it.keys.clone());
        let named: BTreeSet<String> = named.unwrap_or_default().into_iter().collect();
        assert_eq!(named, refused(release), "{release:?}");
        let counted = found.tally.refused.get(&Problem::UrlKey).copied().unwrap_or(0);
        assert_eq!(counted, named.len() as u64, "{release:?}: {}", found.tally);
        assert_eq!(found.tally.etcd, Some(found.tally.moved + counted), "{release:?}");
        // A copy of a snapshot in which they are new refuses them too.
        let (run, kept) = world.hold(1).await.unwrap();
        let loaded = load(&run, kept).await;
        match refused(release).is_empty() {
            true => {
                loaded.unwrap();
                assert_eq!(run.job.record().tally, Some(found.tally), "{release:?}");
            }
            false => assert!(why(loaded).contains("--on url-key=skip"), "{release:?}"),
        }
    });
}

fn why<T: std::fmt::Debug>(done: Result<T, Stop>) -> String {
    match done {
        Err(Stop::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn end_a_tail(release: KeyNames) {
    for (name, ..) in NAMES.iter().filter(|name| !is_taken(name, release)) {
        let world = World::plain(1, &[]);
        world.upgrade(release);
        world.put("/plain", Some("1"));
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            world.put(name, Some("1"));
            let said = why(tail(&run, &Until::Dropped).await);
            assert!(said.contains(name) && said.contains("in a URL"), "{release:?}: {said}");
        });
    }
}

async fn follow(world: &World, run: &Run<'_>) {
    let looks = pin!(world.clock.sleep(Duration::from_secs(5)));
    match select(pin!(tail(run, &Until::Dropped)), looks).await {
        Either::Left((ended, _)) => panic!("{ended:?}"),
        Either::Right(_) => {}
    }
}

async fn cut(run: &Run<'_>) -> Result<CutOver, Stop> {
    let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
    let done = cut_over(run, Freeze::Alarm, &frozen, limit, async |_| Ok(())).await;
    frozen.lift(run.etcd, run.job.target, &run.job.keys).await.unwrap();
    done
}

async fn compared(world: &World, record: &Record) -> Result<Found, Stop> {
    let World { etcd, target, .. } = world;
    let revision = world.fake.revision();
    compare_up_to(10, etcd, target, &record.mapping, revision, PACE, |_| ()).await
}

/// Consul has what it is to have, and programs can read each key that is there as it is.
async fn is_moved(world: &World, record: &Record) {
    let found = world.found().await;
    assert_eq!(found, world.wanted(&record.mapping, world.fake.revision()));
    for name in found.keys() {
        assert!(world.target.takes(name).await.unwrap(), "{name:?}");
    }
}

fn are_moved_and_back(release: KeyNames, choice: Choice) {
    let world = with(release, choice);
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        is_moved(&world, &run.job.record()).await;
        // A key of each name changes, another one comes and goes.
        for (name, ..) in NAMES {
            world.put(name, Some("2"));
            world.put(&format!("/new{name}"), Some("3"));
            world.put(&format!("{name}/gone"), Some("3"));
            world.put(&format!("{name}/gone"), None);
        }
        follow(&world, &run).await;
        is_moved(&world, &run.job.record()).await;
        run.job.release().await;

        // Another process knows nothing but the record.
        let me = instance(2);
        let job = Job::hold(&world.target, "job", me, &|_| true, true, None).await.unwrap();
        let run = Run { etcd: &world.etcd, job, pace: PACE, report: Arc::new(Silent) };
        let found = compared(&world, &run.job.record()).await.unwrap();
        assert!(found.is_whole && found.differences.is_empty(), "{found:?}");
        let done = cut(&run).await.unwrap();
        assert!(done.differences.is_empty(), "{release:?} {choice:?}: {done:?}");
        is_moved(&world, &run.job.record()).await;

        // Programs change all keys of Consul, and set a new one.
        let names = world.found().await.into_keys();
        let set = |key: String| Op::set(key, Bytes::from_static(b"of Consul"));
        let ops: Vec<Op> = names.chain(["plain/new".to_owned()]).map(set).collect();
        for ops in ops.chunks(60) {
            let applied = world.direct.txn_surely(&[], ops).await.unwrap();
            assert!(matches!(applied, Outcome::Applied(_)), "{applied:?}");
        }
        let done = roll_back(&run, MayChange::NoNewKeys).await.unwrap();
        assert!(done.without_source.is_empty() && done.left == 0, "{done:?}");
        let found = world.fake.at(world.fake.revision());
        for (name, ..) in NAMES.iter().chain([&("/plain/new", true, true)]) {
            let is_left_out = choice == Choice::Skip && refused(release).contains(*name);
            let wanted = if is_left_out { "2" } else { "of Consul" };
            assert_eq!(found[name.as_bytes()].value, wanted, "{release:?} {choice:?} {name:?}");
        }
        is_moved(&world, &run.job.record()).await;
    });
}

/// The names were copied as they are. No verb says that all is well; what it says goes on.
fn are_refused_after_an_upgrade(release: KeyNames) {
    let world = with(KeyNames::V1_21_0, Choice::Refuse);
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        follow(&world, &run).await;
        run.job.release().await;
    });
    world.upgrade(release);
    let world = world.again();
    world.works(async {
        let (run, _) = world.hold(2).await.unwrap();
        if refused(release).is_empty() {
            assert!(cut(&run).await.unwrap().differences.is_empty());
            return;
        }
        for said in [why(compared(&world, &run.job.record()).await), why(cut(&run).await)] {
            for words in ["programs cannot read the key", "copy --again --on url-key=encode"] {
                assert!(said.contains(words), "{release:?}: {said}");
            }
        }
        assert!(world.fake.alarms().is_empty());
        assert_ne!(run.job.record().phase, Phase::Switched);
        run.job.choose(&[(Problem::UrlKey, Choice::Encode)].into()).await.unwrap();
        // This release deletes no such key at all.
        if release == KeyNames::V1_22 {
            return;
        }
        restart(&run, "--again").await.unwrap();
        load(&run, Default::default()).await.unwrap();
        is_moved(&world, &run.job.record()).await;
        assert!(cut(&run).await.unwrap().differences.is_empty());
    });
}

/// The upgrade comes after the cut-over: the way back reads the names all the same.
fn are_moved_back_after_an_upgrade(release: KeyNames) {
    let world = with(KeyNames::V1_21_0, Choice::Refuse);
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        assert!(cut(&run).await.unwrap().differences.is_empty());
        let set = |(name, ..): &(&str, bool, bool)| {
            Op::set(name.trim_start_matches('/').to_owned(), Bytes::from_static(b"of Consul"))
        };
        let ops: Vec<Op> = NAMES.iter().map(set).collect();
        world.direct.txn_surely(&[], &ops).await.unwrap();
        run.job.release().await;
    });
    world.upgrade(release);
    let world = world.again();
    world.works(async {
        let (run, _) = world.hold(2).await.unwrap();
        let done = roll_back(&run, MayChange::NoNewKeys).await.unwrap();
        assert_eq!((done.set, done.deleted), (NAMES.len() as u64, 0), "{release:?}: {done:?}");
        let found = world.fake.at(world.fake.revision());
        assert!(NAMES.iter().all(|(name, ..)| found[name.as_bytes()].value == "of Consul"));
    });
}

/// A prefix that no URL takes.
fn are_listed_without_their_url() {
    for release in RELEASES {
        let world = World::plain(1, &[]);
        world.works(async {
            let set = |key: &str| Op::set(key.to_owned(), Bytes::new());
            let names = ["a", "d/a b /c", "d/a b /e/f", "d/a b /e/g", "d/a b c", "d/z", "e"];
            world.direct.txn_surely(&[], &names.map(set)).await.unwrap();
            world.upgrade(release);
            let keys =
                async |prefix: &str, separator| world.target.keys(prefix, separator).await.unwrap();
            assert_eq!(keys("d/a b ", None).await, names[1..5]);
            assert_eq!(keys("d/a b /", Some("/")).await, ["d/a b /c", "d/a b /e/"]);
            assert_eq!(keys("d/a b /e/", None).await, names[2..4]);
            assert_eq!(keys("d/x ", None).await, [""; 0]);
        });
    }
}
