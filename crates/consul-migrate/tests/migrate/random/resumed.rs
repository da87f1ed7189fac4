//! A copy that is killed goes on where all keys before are written.

use super::{PACE, World};
use consul_migrate::job::Phase;
use consul_migrate::mapping::hex;
use consul_migrate::{Report, Run, load};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, select};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const KEYS: u64 = 150;

/// The reports of a run.
#[derive(Default)]
struct Reported(Mutex<Vec<(u64, Option<u64>)>>);

impl Report for Reported {
    fn progress(&self, phase: &'static str, done: u64, of: Option<u64>) {
        if phase == "copied" {
            self.0.lock().unwrap().push((done, of));
        }
    }

    fn note(&self, _: &str) {}
}

pub fn run() {
    let gone_on = (0..4).map(goes_on).sum::<u64>();
    assert!(gone_on > 3, "{gone_on} runs went on");
}

/// Returns how many runs went on from a later key than the first.
fn goes_on(seed: u64) -> u64 {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut world = World::plain(seed, &[]);
    let faulty = World::with_faults(20, seed, &mut rng);
    // Its clock, its etcd and its Consul belong together.
    world = World { mapping: world.mapping, ..faulty };
    for place in 0..KEYS {
        world.put(&format!("/app/{place:04}"), Some("1"));
    }
    world.works(async {
        let mut gone_on = 0;
        for number in 0.. {
            let (run, _) = world.hold(number).await.unwrap();
            let before = loaded(&world, &run.job.record().loaded).await;
            let reported = Arc::new(Reported::default());
            let run = Run { report: reported.clone(), pace: PACE, ..run };
            let life = world.clock.sleep(Duration::from_millis(rng.u64(200..4000)));
            let ended = match select(pin!(load(&run, Default::default())), life).await {
                Either::Left((ended, _)) => {
                    ended.unwrap();
                    true
                }
                Either::Right(_) => false,
            };
            let reported = reported.0.lock().unwrap();
            gone_on += u64::from(before > 0 && !reported.is_empty());
            if let (Some((first, of)), Some((last, _))) = (reported.first(), reported.last()) {
                // The bar begins there, so that its rate is this run's own.
                assert_eq!(*first, before, "{reported:?}");
                assert_eq!(*of, Some(KEYS));
                assert!(*last == KEYS || *last < KEYS && !ended, "{reported:?}");
            }
            if ended {
                break;
            }
        }
        let record = world.record().await.unwrap();
        assert_eq!(record.phase, Phase::Tail);
        let tally = record.tally.as_ref().unwrap();
        assert_eq!((tally.etcd, tally.moved), (Some(KEYS), KEYS), "{tally}");
        assert!(world.found().await == world.wanted(&record.mapping, record.snapshot));
        gone_on
    })
}

/// How many keys are before the key that the record names, which all are written.
async fn loaded(world: &World, loaded: &Option<String>) -> u64 {
    let Some(key) = loaded.as_deref().and_then(hex::bytes) else { return 0 };
    let record = world.record().await.unwrap();
    let (found, wanted) = (world.found().await, world.wanted(&record.mapping, record.snapshot));
    let before: Vec<_> = wanted.keys().filter(|name| name.as_bytes() < &key[1..]).collect();
    let missing: Vec<_> = before.iter().filter(|name| !found.contains_key(**name)).collect();
    assert!(missing.is_empty(), "{key:?}: {missing:?}");
    before.len() as u64
}
