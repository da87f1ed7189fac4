//! A snapshot that was kept serves only a job of the same one.

use super::{World, changes};
use consul_ffi::migrate::{load, restart};

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
