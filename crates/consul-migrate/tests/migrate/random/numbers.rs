//! The same numbers in the plan, the copy, the comparison and the cut-over, whatever the keys and the choices are.

use super::{PACE, Silent, World, changes};
use consul_migrate::mapping::{Choice, Mapping, Op, Problem};
use consul_migrate::snapshot::survey::survey;
use consul_migrate::tally::Tally;
use consul_migrate::{Freeze, Frozen, Until, cut_over, load, tail, verify};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, join, select};
use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

pub fn run() {
    let seen: BTreeSet<&str> = (0..8).flat_map(add_up).collect();
    // Else the histories would show nothing.
    for kind in ["moved", "encoded", "leased", "skipped", "several parts"] {
        assert!(seen.contains(kind), "{kind}: {seen:?}");
    }
    refused_keys_are_counted();
    differences_are_looked_at_for_two_seconds();
    the_first_of_many_differences_are_looked_at();
    let moments: u64 = (0..20).map(|seed| u64::from(add_up_beside_writers(seed))).sum();
    assert!(moments > 5, "{moments}");
}

/// A difference that goes within 2 s was a change on its way.
fn differences_are_looked_at_for_two_seconds() {
    for (mended_after_ms, lasts) in [(100, false), (1900, false), (4000, true)] {
        let world = World::plain(1, &[]);
        world.put("/a", Some("1"));
        world.works(async {
            let (etcd, target, mapping) = (&world.etcd, &world.target, &world.mapping);
            let revision = world.fake.revision();
            let found = verify::compare_up_to(9, etcd, target, mapping, revision, PACE, |_| ());
            let found = found.await.unwrap();
            let mends = async {
                world.clock.sleep(Duration::from_millis(mended_after_ms)).await;
                world.direct.put_any("a", b"1", 0).await.unwrap();
            };
            let (found, ()) = join(verify::lasting(9, etcd, target, mapping, found), mends).await;
            assert_eq!(!found.unwrap().differences.is_empty(), lasts, "{mended_after_ms}");
        });
    }
}

/// A comparison that ends early names no more than those.
fn the_first_of_many_differences_are_looked_at() {
    let world = World::plain(1, &[]);
    (0..30).for_each(|at| world.put(&format!("/{at:02}"), Some("1")));
    world.works(async {
        let (etcd, target, mapping) = (&world.etcd, &world.target, &world.mapping);
        for (most, looked_at, whole) in [(20, 5, false), (99, 5, true)] {
            let revision = world.fake.revision();
            let found = verify::compare_up_to(most, etcd, target, mapping, revision, PACE, |_| ());
            let found = found.await.unwrap();
            assert_eq!(found.is_whole, whole);
            let found = verify::lasting(looked_at, etcd, target, mapping, found).await.unwrap();
            assert_eq!(found.differences.len(), if whole { 30 } else { looked_at });
        }
    });
}

/// Programs write, and a tail follows; returns whether Consul was further at the first look, and lacks a key.
fn add_up_beside_writers(seed: u64) -> bool {
    let mut rng = fastrand::Rng::with_seed(seed);
    let world = World::with_faults(0, seed, &mut rng);
    world.put("/d/kept", Some("1"));
    (0..30).for_each(|_| _ = world.fake.write(&changes(&mut rng)));
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        let mapping = run.job.record().mapping;
        load(&run, kept).await.unwrap();
        // They last.
        let extra = format!("{}zzz", mapping.plain_prefix());
        world.direct.put_any(&extra, b"1", 0).await.unwrap();
        let missing = Op::Delete { key: format!("{}d/kept", mapping.consul_prefix) };
        world.direct.txn_surely(&[], &[missing]).await.unwrap();
        let writes = async {
            for number in 0..80 {
                world.clock.sleep(Duration::from_millis(rng.u64(1..12))).await;
                let name = format!("/d/{}", rng.u8(..30));
                world.put(&name, (rng.u8(..3) > 0).then_some("2"));
                if number == 40 {
                    world.fake.write(&changes(&mut rng));
                }
            }
            std::future::pending::<()>().await;
        };
        let looks = async {
            world.clock.sleep(Duration::from_millis(150)).await;
            let (etcd, target, revision) = (&world.etcd, &world.target, world.fake.revision());
            let found =
                verify::compare_up_to(999, etcd, target, &mapping, revision, PACE, |_| ()).await;
            let found = found.unwrap();
            let first = found.differences.len();
            (verify::lasting(9, etcd, target, &mapping, found).await.unwrap(), first)
        };
        let follows = async {
            let _ = join(tail(&run, &Until::Dropped), writes).await;
        };
        let Either::Right(((found, first), _)) = select(pin!(follows), pin!(looks)).await else {
            panic!("the tail has ended");
        };
        let count = |what| found.differences.iter().filter(|it| it.what == what).count() as u64;
        let tally = &found.tally;
        let (missing, extras) = (count(verify::What::Missing), count(verify::What::Extra));
        assert_eq!(
            tally.consul,
            Some(tally.moved + extras - missing),
            "SEED={seed}: {tally}: {:?}",
            found.differences
        );
        add_up_alone(tally);
        // A new snapshot brings back what is missing.
        let is_known = missing <= 1 && extras == 1;
        assert!(is_known && found.differences.len() as u64 == missing + extras, "SEED={seed}");
        let have_gone = first > found.differences.len();
        assert_eq!(found.digests.is_none(), have_gone, "SEED={seed}");
        have_gone && missing == 1
    })
}

/// Returns which numbers were not zero.
fn add_up(seed: u64) -> Vec<&'static str> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let world = World::with_faults(0, seed, &mut rng);
    world.put("/d/kept", Some("1"));
    world.put("/d/large", Some(&"x".repeat(800_000)));
    for _ in 0..60 {
        world.fake.write(&changes(&mut rng));
    }
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        let mapping = run.job.record().mapping;
        let planned =
            survey(&world.etcd, &world.target, &world.mapping, PACE, &Silent).await.unwrap().tally;
        // The form of most keys is known to a job that has begun.
        let again =
            survey(&world.etcd, &world.target, &mapping, PACE, &Silent).await.unwrap().tally;
        assert_eq!(planned, again, "SEED={seed}");
        add_up_alone(&planned);
        load(&run, kept).await.unwrap();
        drop(run);
        let copied = world.record().await.unwrap().tally.unwrap();
        assert_eq!(copied, planned, "SEED={seed}");
        let revision = world.fake.revision();
        let found =
            verify::compare_up_to(99, &world.etcd, &world.target, &mapping, revision, PACE, |_| ());
        let found = found.await.unwrap();
        assert!(found.differences.is_empty(), "SEED={seed}: {:?}", found.differences);
        assert_eq!(
            found.tally,
            Tally { consul: Some(planned.moved), ..planned.clone() },
            "SEED={seed}"
        );
        let digests = found.digests.unwrap();
        assert_eq!(digests.etcd, digests.consul);
        assert_eq!(digests.etcd.len(), 64);
        changes_the_digest_of_its_side(&world, &mapping, &digests.etcd).await;
        let (run, _) = world.hold(99).await.unwrap();
        let (limit, frozen) = (Duration::from_secs(60), Frozen::default());
        let done = cut_over(&run, Freeze::Alarm, &frozen, limit, async |_| Ok(())).await.unwrap();
        assert_eq!((done.tally, done.digests), (found.tally, Some(digests)), "SEED={seed}");
        let names = world.found().await.len() as u64;
        let skipped: u64 = planned.skipped.values().sum();
        let seen = [
            ("moved", planned.moved > 0),
            ("encoded", planned.encoded > 0),
            ("leased", planned.leased > 0),
            ("skipped", skipped > 0),
            ("several parts", names > planned.moved),
        ];
        seen.into_iter().filter(|(_, is_seen)| *is_seen).map(|(kind, _)| kind).collect()
    })
}

fn add_up_alone(tally: &Tally) {
    let left: u64 = tally.skipped.values().chain(tally.refused.values()).sum();
    assert_eq!(tally.etcd, Some(tally.moved + tally.leased + left), "{tally}");
}

/// A value that differs changes the digest of Consul alone, and so do a key more and a key less.
async fn changes_the_digest_of_its_side(world: &World, mapping: &Mapping, etcd: &str) {
    let names = world.found().await.into_keys();
    let Some(key) = names.into_iter().find(|name| !mapping.is_own(name)) else { return };
    let before = world.direct.get(&key).await.unwrap().unwrap().value;
    let extra = format!("{}zz", mapping.plain_prefix());
    let mut all = BTreeSet::from([etcd.to_owned()]);
    for (key, value) in [(&key, Some("2")), (&key, None), (&extra, Some("3"))] {
        match value {
            Some(value) => world.direct.put_any(key, value.as_bytes(), 0).await.unwrap(),
            None => delete(world, key).await,
        }
        let found = verify::compare_up_to(
            99,
            &world.etcd,
            &world.target,
            mapping,
            world.fake.revision(),
            PACE,
            |_| (),
        );
        let found = found.await.unwrap();
        assert!(!found.differences.is_empty());
        let digests = found.digests.unwrap();
        assert_eq!(digests.etcd, etcd);
        assert!(all.insert(digests.consul), "{key} {value:?}");
    }
    delete(world, &extra).await;
    world.direct.put_any(&key, &before, mapping.mark).await.unwrap();
}

async fn delete(world: &World, key: &str) {
    let index = world.direct.get(key).await.unwrap().unwrap().index;
    assert!(world.direct.delete(key, index).await.unwrap());
}

/// A key that a copy refuses is neither moved nor skipped.
fn refused_keys_are_counted() {
    let world = World::plain(1, &[(Problem::NotUtf8, Choice::Skip)]);
    for key in ["/a", "a", "/b", "/c//d", "/"] {
        world.put(key, Some("1"));
    }
    world.fake.write(&[
        (b"/\xff".to_vec(), Some(("1".into(), 0))),
        (b"/l".to_vec(), Some(("1".into(), 7))),
    ]);
    world.works(async {
        let tally = survey(&world.etcd, &world.target, &world.mapping, PACE, &Silent).await.unwrap().tally;
        assert_eq!(
            tally.to_string(),
            "7 keys in etcd: 2 moved, 1 leased, 1 skipped (not-utf8 1), 3 refused (empty-key 1, collision 1, path-key 1)"
        );
        add_up_alone(&tally);
    });
}
