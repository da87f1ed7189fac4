//! The reads before a copy: its counts, and a snapshot that was kept, which serves only a job of the same one.

use super::{PACE, Silent, World, changes};
use bytes::Bytes;
use consul_migrate::job::{Job, Record};
use consul_migrate::mapping::Problem;
use consul_migrate::snapshot::survey::survey;
use consul_migrate::{Run, load, restart};
use std::sync::Arc;

pub fn run() {
    for seed in 0..10 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let world = World::with_faults(0, seed, &mut rng);
        let mut write = |count| {
            for _ in 0..count {
                world.fake.write(&changes(&mut rng));
            }
        };
        write(40);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(world.clock.drive(async {
            let (run, kept) = world.hold(1).await.unwrap();
            assert!(!kept.kvs.is_empty());
            write(40);
            restart(&run, "the test").await.unwrap();
            load(&run, kept).await.unwrap();
            let record = run.job.record();
            assert!(world.found().await == world.wanted(&record.mapping, record.snapshot));
        }));
    }
}

/// A job that replaces all deletes what was there before it, and neither what programs set since then nor, without that, what
/// is not its own.
pub fn replaces() {
    for replaces in [true, false] {
        let world = World::plain(1, &[]);
        world.put("/a", Some("1"));
        world.works(async {
            world.direct.put_any("before", b"1", 0).await.unwrap();
            let found = survey(&world.etcd, &world.target, &world.mapping, PACE, &Silent).await;
            let found = found.unwrap();
            let mapping = found.completed(&world.mapping);
            let record = Record::new(found.cluster_id, mapping, found.revision, replaces);
            let me = super::instance(1);
            let job = Job::hold(&world.target, "job", me, &|_| true, true, Some(record)).await;
            let report = Arc::new(Silent);
            let run = Run { etcd: &world.etcd, job: job.unwrap(), pace: PACE, report };
            world.direct.put_any("since", b"1", 0).await.unwrap();
            load(&run, found.kept).await.unwrap();
            if !replaces {
                restart(&run, "--again").await.unwrap();
                load(&run, Default::default()).await.unwrap();
            }
            let names: Vec<_> = world.found().await.into_keys().collect();
            let wanted: &[&str] =
                if replaces { &["a", "since"] } else { &["a", "before", "since"] };
            assert_eq!(names, wanted, "{replaces}");
            if !replaces {
                // `copy --again --replace`.
                run.job.replace_all().await.unwrap();
                restart(&run, "--again").await.unwrap();
                load(&run, Default::default()).await.unwrap();
                assert_eq!(world.found().await.into_keys().collect::<Vec<_>>(), ["a"]);
            }
        });
    }
}

pub fn count() {
    let world = World::plain(2, &[]);
    let put = |key: &str, size: usize, lease: u64| {
        let value = Some((Bytes::from(vec![0; size]), lease));
        assert!(world.fake.write(&[(key.as_bytes().to_vec(), value)]));
    };
    for (key, size, lease) in [
        ("/a", 10, 0),
        ("/large", 400_000, 0),
        ("/leased", 0, 7),
        ("/x//y", 1, 7),
        ("b", 2, 0),
        ("a", 3, 0),
    ] {
        put(key, size, lease);
    }
    world.works(async {
        let World { etcd, target, mapping, .. } = &world;
        let survey = async || survey(etcd, target, mapping, PACE, &Silent).await.unwrap();
        let found = survey().await;
        assert_eq!((found.keys, found.slashed, found.bare), (6, 4, 2));
        assert_eq!((found.bytes, found.largest_value, found.by_put), (400_038, 400_000, 1));
        assert_eq!(found.kept.kvs.len(), 6);
        let problem = |problem: Problem| found.problems[&problem].keys.clone();
        assert_eq!(problem(Problem::Leased), ["/leased", "/x//y"]);
        assert_eq!(problem(Problem::PathKey), ["/x//y"]);
        assert_eq!(problem(Problem::Collision), ["a"]);
        assert_eq!(found.problems.len(), 3);

        // More than is kept.
        (0..70).for_each(|place| put(&format!("/many/{place}"), 500_000, 0));
        let found = survey().await;
        assert_eq!((found.keys, found.kept.kvs.len()), (76, 0));
    });
}
