//! Names and values around each size that something limits: a URL, a value, a transaction, the record of the job.

use super::{PACE, Silent, World};
use bytes::Bytes;
use consul_migrate::mapping::{Choice, Problem};
use consul_migrate::snapshot::survey::survey;
use consul_migrate::verify::compare_up_to;
use consul_migrate::{
    Freeze, Frozen, MayChange, Stop, Until, cut_over, load, restart, roll_back, tail,
};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, select};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The bytes of keys in etcd and of their values: names around those that fit in a URL, that a PUT takes encoded, and that are
/// encoded at all, and beyond a transaction; values around those that a transaction takes, and a key. All of them with each
/// other are in the test of `mapping`.
const SIZES: [(usize, usize); 11] = [
    (20, 0),
    (20, 524_288),
    (31_992, 524_289),
    (31_993, 524_289),
    (64_001, 0),
    (64_001, 524_288),
    (64_002, 0),
    (64_002, 300_000),
    (199_992, 100_000),
    (199_993, 0),
    (520_000, 1),
];

/// The first kind that a key has.
fn kind(name: usize, value: usize) -> Option<Problem> {
    match (name, value) {
        (199_993.., _) => Some(Problem::HugeKey),
        (64_002.., _) => Some(Problem::LongKey),
        (_, 524_289..) => Some(Problem::LargeValue),
        _ => None,
    }
}

/// A key of these sizes, which no other pair of sizes has.
fn key(name: usize, value: usize) -> Vec<u8> {
    let begins = format!("/{value:06}/{name:06}/");
    format!("{begins}{}", "n".repeat(name - begins.len())).into_bytes()
}

fn all() -> impl Iterator<Item = (usize, usize)> {
    SIZES.into_iter()
}

pub fn run() {
    for choice in [Choice::Encode, Choice::Skip] {
        are_moved_and_back(choice);
    }
    end_a_copy_and_a_tail();
    long_names_are_not_noted();
    go_back_to_an_etcd_with_any_limits();
}

fn are_moved_and_back(choice: Choice) {
    let on = [
        (Problem::LongKey, choice),
        (Problem::LargeValue, choice),
        (Problem::HugeKey, Choice::Skip),
    ];
    let world = World::plain(1, &on);
    let put = |name, value, byte: u8| {
        let value = Bytes::from(vec![byte; value]);
        assert!(world.fake.write(&[(key(name, value.len()), Some((value, 0)))]));
    };
    all().for_each(|(name, value)| put(name, value, b'1'));
    let mut counts = BTreeMap::<Problem, u64>::new();
    for kind in all().filter_map(|(name, value)| kind(name, value)) {
        *counts.entry(kind).or_default() += 1;
    }
    let count = |problem| counts.get(&problem).copied().unwrap_or(0);
    world.works(async {
        let (etcd, target) = (&world.etcd, &world.target);
        let planned = survey(etcd, target, &world.mapping, PACE, &Silent).await.unwrap();
        let named = planned.problems.iter().map(|(kind, it)| (*kind, it.count)).collect();
        assert_eq!((&counts, planned.tally.refused.len()), (&named, 0), "{}", planned.tally);
        let is_skipped = |problem| choice == Choice::Skip || problem == Problem::HugeKey;
        let skipped =
            counts.clone().into_iter().filter(|(problem, _)| is_skipped(*problem)).collect();
        assert_eq!(planned.tally.skipped, skipped);
        let encoded = count(Problem::LongKey) + count(Problem::LargeValue);
        assert_eq!(planned.tally.encoded, if choice == Choice::Encode { encoded } else { 0 });
        // No report has all of a long name.
        assert!(serde_json::to_string(&planned).unwrap().len() < 200_000);

        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let mapping = run.job.record().mapping;
        assert_eq!(run.job.record().tally, Some(planned.tally));
        assert!(world.found().await == world.wanted(&mapping, world.fake.revision()));

        // Each key changes its value, and each becomes small and is itself again.
        for (name, value) in all() {
            world.fake.write(&[(key(name, value), Some(("small".into(), 0)))]);
            put(name, value, b'2');
        }
        let gone = all()
            .filter(|(_, value)| *value == 300_000)
            .map(|(name, value)| (key(name, value), None));
        world.fake.write(&gone.collect::<Vec<_>>());
        follow(&world, &run).await;
        let revision = world.fake.revision();
        assert!(world.found().await == world.wanted(&mapping, revision));
        let found =
            compare_up_to(10, etcd, target, &mapping, revision, PACE, |_| ()).await.unwrap();
        assert!(found.is_whole && found.differences.is_empty());

        if choice == Choice::Skip {
            return;
        }
        let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
        let done = cut_over(&run, Freeze::Alarm, &frozen, limit, async |_| Ok(())).await.unwrap();
        assert!(done.differences.is_empty());
        let before = world.fake.at(done.revision);
        // Keys that programs have deleted in etcd meanwhile come back.
        let lost: Vec<_> = before.keys().map(|key| (key.clone(), None)).collect();
        world.fake.write(&lost);
        let done = roll_back(&run, MayChange::NoNewKeys).await.unwrap();
        assert_eq!((done.deleted, done.left, done.without_source.len()), (0, 0, 0));
        let after = world.fake.at(world.fake.revision());
        for (key, entry) in before {
            let is_moved = !mapping.load(&of(&key, &entry.value)).is_empty();
            let found = after.get(&key).map(|it| &it.value);
            assert!(
                found == is_moved.then_some(&entry.value),
                "{} {}",
                key.len(),
                entry.value.len()
            );
        }
    });
}

fn of(key: &[u8], value: &Bytes) -> consul_migrate::etcd::KeyValue {
    let mut kv = consul_migrate::etcd::KeyValue::default();
    (kv.key.0, kv.value.0) = (Bytes::copy_from_slice(key), value.clone());
    kv
}

async fn follow(world: &World, run: &consul_migrate::Run<'_>) {
    let looks = pin!(world.clock.sleep(Duration::from_secs(30)));
    match select(pin!(tail(run, &Until::Dropped)), looks).await {
        Either::Left((ended, _)) => panic!("{ended:?}"),
        Either::Right(_) => {}
    }
}

/// A page may end with a name that is too long for the record of the job, which then names an earlier one.
fn long_names_are_not_noted() {
    let on = [(Problem::LongKey, Choice::Encode), (Problem::HugeKey, Choice::Skip)];
    // It is the last of a page, or the first.
    let places = [PACE.page - 1, PACE.page];
    for (length, before) in
        [190_000, 520_000].into_iter().flat_map(|length| places.map(|it| (length, it)))
    {
        let world = World::plain(1, &on);
        let names = (0..before)
            .map(|at| format!("/a/{at}"))
            .chain([format!("/b/{}", "n".repeat(length)), "/c".to_owned()]);
        names.for_each(|name| world.put(&name, Some("1")));
        // So slow that the position is saved after each page.
        world.way_ms.store(600, Ordering::Relaxed);
        world.works(async {
            let (run, _) = world.hold(1).await.unwrap();
            load(&run, Default::default()).await.unwrap();
            let mapping = run.job.record().mapping;
            assert!(world.found().await == world.wanted(&mapping, world.fake.revision()));
        });
    }
}

/// Without a choice a copy begins with none of them, and a tail ends at each; the message has not all of the name.
fn end_a_copy_and_a_tail() {
    for (name, value) in [(64_002, 0), (199_993, 0), (20, 524_289)] {
        let world = World::plain(1, &[]);
        world.put("/plain", Some("1"));
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            world.fake.write(&[(key(name, value), Some((vec![0; value].into(), 0)))]);
            let kind = kind(name, value).unwrap();
            let ended = [tail(&run, &Until::Dropped).await.map(|_| ()), {
                restart(&run, "--again").await.unwrap();
                load(&run, Default::default()).await
            }];
            for said in ended.map(|ended| ended.unwrap_err().to_string()) {
                assert!(said.contains(&format!("--on {kind}=skip")) && said.len() < 2000, "{said}");
                assert_eq!(said.contains("=encode"), kind != Problem::HugeKey, "{said}");
            }
        });
    }
}

/// The limits of an etcd, and how many of the keys below it takes in a transaction alone.
const LIMITS: [(usize, usize, usize); 7] = [
    (128, 1536 << 10, 54),
    (17, 1536 << 10, 54),
    (2, 1536 << 10, 54),
    (128, 200_500, 54),
    (16, 100_500, 54),
    (128, 90_000, 52),
    (3, 40_000, 50),
];

fn go_back_to_an_etcd_with_any_limits() {
    for (operations, bytes, fit) in LIMITS {
        let world = World::plain(1, &[]);
        let sizes = [45_000, 45_000, 100_000, 100_000];
        let key = |at: usize| (format!("/app/{at:02}").into_bytes(), sizes.get(at).copied());
        let all: Vec<_> = (0..54).map(key).collect();
        for (key, size) in &all {
            let value = Bytes::from(vec![b'1'; size.unwrap_or(1)]);
            assert!(world.fake.write(&[(key.clone(), Some((value, 0)))]));
        }
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
            cut_over(&run, Freeze::Alarm, &frozen, limit, async |_| Ok(())).await.unwrap();
            let gone = all.iter().map(|(key, _)| (key.clone(), None));
            world.fake.write(&gone.collect::<Vec<_>>());
            world.fake.limit(operations, bytes);
            let done = roll_back(&run, MayChange::NoNewKeys).await;
            let found = world.fake.at(world.fake.revision());
            let is_there = |size: &Option<usize>| size.is_none_or(|size| size < bytes);
            for (key, size) in &all {
                assert_eq!(
                    found.contains_key(key),
                    is_there(size),
                    "{operations} {bytes} {size:?}"
                );
            }
            assert_eq!(all.iter().filter(|(_, size)| is_there(size)).count(), fit);
            if fit < all.len() {
                let Err(Stop::Refused(why)) = done else { panic!("{done:?}") };
                for (key, size) in &all {
                    let name = String::from_utf8_lossy(key);
                    assert_eq!(why.contains(&*name), !is_there(size), "{name}: {why}");
                }
                // The job is still cut over. With a larger limit the same command goes on.
                world.fake.limit(128, 1536 << 10);
                assert_eq!(
                    roll_back(&run, MayChange::NoNewKeys).await.unwrap().set,
                    (54 - fit) as u64
                );
            } else {
                assert_eq!(done.unwrap().set, 54);
            }
            assert_eq!(world.fake.at(world.fake.revision()).len(), 54);
        });
    }
}

/// The answers of proxies, also without a body, to what is too large for them.
const TOO_LARGE: [&str; 3] = [
    "",
    "<html><head><title>413 Request Entity Too Large</title></head></html>",
    "Payload Too Large",
];

/// The first request, which learns how many operations Consul takes, and reads of long names may be too large, too.
pub fn small_reads() {
    for (text, most) in TOO_LARGE.iter().flat_map(|text| [(*text, 1000), (*text, 4000)]) {
        let mut world = World::plain(1, &[]);
        let name = |at: usize| format!("/app/{}{at:03}", "n".repeat(300));
        (0..150).for_each(|at| world.put(&name(at), Some("1")));
        *world.bodies.lock().unwrap() = Some((most, text));
        world.target.max_ops = 128;
        let (clock, runtime) =
            (world.clock.clone(), tokio::runtime::Builder::new_current_thread().build().unwrap());
        runtime.block_on(clock.drive(world.target.learn_max_ops())).unwrap();
        assert!(world.target.max_ops < 128 && world.target.max_ops * 400 > most, "{text} {most}");
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            let mapping = run.job.record().mapping;
            let names: Vec<_> = (0..150).map(|at| name(at)[1..].to_owned()).collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let read = world.target.entries(&names).await.unwrap();
            assert!(read.iter().all(Option::is_some), "{text} {most}");
            assert!(world.found().await == world.wanted(&mapping, world.fake.revision()), "{text}");
        });
    }
}

/// The status 413 alone makes requests smaller on both sides, down to one key, which is named then.
pub fn small_bodies() {
    for (text, most) in TOO_LARGE.iter().flat_map(|text| [(*text, 12_000), (*text, 100_000)]) {
        let world = World::plain(1, &[]).with(consul_sim::settings::Settings::default());
        let value = |size: usize| Some((Bytes::from(vec![b'1'; size]), 0));
        let key = |at: usize| format!("/app/{at:02}").into_bytes();
        let put = |from: usize| {
            (from..from + 40).for_each(|at| _ = world.fake.write(&[(key(at), value(6000))]));
        };
        put(0);
        *world.bodies.lock().unwrap() = Some((most, text));
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            put(40);
            follow(&world, &run).await;
            let mapping = run.job.record().mapping;
            assert!(world.found().await == world.wanted(&mapping, world.fake.revision()), "{text}");
            // No request takes it.
            world.fake.write(&[(b"/app/large".to_vec(), value(most + 1))]);
            let said = tail(&run, &Until::Dropped).await.unwrap_err().to_string();
            assert!(said.contains("app/large") && said.contains("what is before them"), "{said}");
            world.put("/app/large", None);
            *world.bodies.lock().unwrap() = None;
            world.fake.write(&[(b"/app/large".to_vec(), value(most))]);

            let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
            cut_over(&run, Freeze::Alarm, &frozen, limit, async |_| Ok(())).await.unwrap();
            let all = world.fake.at(world.fake.revision());
            let gone = all.keys().map(|key| (key.clone(), None));
            world.fake.write(&gone.collect::<Vec<_>>());
            world.fake.limit(1, 1536 << 10);
            let said = roll_back(&run, MayChange::NoNewKeys).await.unwrap_err().to_string();
            assert!(said.contains("--max-txn-ops of 2") && !said.contains("bytes"), "{said}");
            world.fake.limit(128, 1536 << 10);
            world.fake.limit_bodies(Some((most, text)));
            let said = roll_back(&run, MayChange::NoNewKeys).await.unwrap_err().to_string();
            let needed = ["(/app/large)", "413", "client_max_body_size"];
            assert!(needed.iter().all(|it| said.contains(it)), "{said}");
            assert_eq!(world.fake.at(world.fake.revision()).range(key(0)..key(99)).count(), 80);
            world.fake.limit_bodies(None);
            assert_eq!(roll_back(&run, MayChange::NoNewKeys).await.unwrap().set, 1);
        });
    }
}

/// The limits of a transaction at Consul, from the smallest that its record needs.
pub fn small_transactions() {
    for most in [30_000, 60_000, 150_000, 400_000, 500_000, 524_288] {
        let settings =
            consul_sim::settings::Settings { txn_max_req_len: most, ..Default::default() };
        let world = World::plain(1, &[(Problem::LargeValue, Choice::Encode)]).with(settings);
        let value = |size: usize| Some((Bytes::from(vec![b'1'; size]), 0));
        let fill = |name: &str| {
            for at in 0..300 {
                world.fake.write(&[(format!("/{name}/{at:03}").into_bytes(), value(4000))]);
            }
            for size in [10_000, 100_000, 250_000, 380_000, 380_001, 524_000] {
                world.fake.write(&[(format!("/{name}/large-{size}").into_bytes(), value(size))]);
            }
        };
        fill("copied");
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            fill("followed");
            follow(&world, &run).await;
            let mapping = run.job.record().mapping;
            assert!(world.found().await == world.wanted(&mapping, world.fake.revision()), "{most}");
        });
    }
}
