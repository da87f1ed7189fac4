//! A watch that begins at a compacted revision, or comes back to one: the program says so, and copies a new snapshot.

use super::{PACE, World, instance};
use consul_migrate::job::{Job, Phase};
use consul_migrate::mapping::{Choice, Mapping, Problem};
use consul_migrate::snapshot::survey::survey;
use consul_migrate::{Freeze, Frozen, Report, Run, Stop, Until, cut_over, load, tail};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, select};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The notes of a run.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Report for Notes {
    fn progress(&self, _: &'static str, _: u64, _: Option<u64>) {}

    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

impl Notes {
    /// How many new snapshots were copied because of a compaction.
    fn compactions(&self) -> usize {
        let notes = self.0.lock().unwrap();
        let is_one = |note: &&String| {
            note.contains("copying a new snapshot") && note.contains("etcd has compacted")
        };
        notes.iter().filter(is_one).count()
    }
}

/// When the revisions are compacted that are read next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    /// While no instance runs.
    Before,
    /// While the connection of the watch is cut.
    Cut,
}

/// A world with a job of these keys.
fn with(prefix: &str, collision: Choice) -> World {
    let world = World::plain(1, &[(Problem::Collision, collision)]);
    let mapping = Mapping { etcd_prefix: prefix.into(), ..world.mapping.clone() };
    let world = World { mapping, ..world };
    for key in ["/app/a", "/app/gone", "/other/x"] {
        world.put(key, Some("1"));
    }
    world
}

/// The same job, held by another instance.
async fn again<'w>(world: &'w World, number: u64, notes: &Arc<Notes>) -> Run<'w> {
    let me = instance(number);
    let job = Job::hold(&world.target, "job", me, &|_| true, true, None).await.unwrap();
    Run { etcd: &world.etcd, job, pace: PACE, report: Arc::clone(notes) as Arc<dyn Report> }
}

async fn copied(world: &World) {
    let (run, kept) = world.hold(1).await.unwrap();
    load(&run, kept).await.unwrap();
    run.job.release().await;
}

/// The revision at which etcd compacts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// A deletion's, which is the next revision to be read.
    Deletion,
    /// A later one, of other keys.
    Others,
}

/// Changes of the job's keys; some are compacted at once.
fn change(world: &World, at: At) {
    world.put("/app/gone", None);
    if at == At::Deletion {
        world.fake.compact();
    }
    world.put("/app/new", Some("2"));
    if at == At::Others {
        for _ in 0..3 {
            world.put("/other/x", Some("2"));
        }
        world.fake.compact();
    }
}

async fn is_as_etcd(world: &World) {
    let mut found = world.found().await;
    found.retain(|key, _| key.starts_with("app/"));
    assert_eq!(found.into_keys().collect::<Vec<_>>(), ["app/a", "app/new"]);
}

pub fn run() {
    for prefix in ["", "/app/"] {
        for collision in [Choice::Refuse, Choice::Skip] {
            for moment in [Moment::Before, Moment::Cut] {
                for notifies in [300, 600_000] {
                    for at in [At::Deletion, At::Others] {
                        let notifies = Duration::from_millis(notifies);
                        is_followed(prefix, collision, (moment, at), notifies);
                        is_cut_over(prefix, collision, (moment, at), notifies);
                    }
                }
            }
        }
    }
}

fn is_followed(prefix: &str, collision: Choice, (moment, at): (Moment, At), notifies: Duration) {
    let case = (prefix, collision, moment, at, notifies);
    let (world, notes) = (with(prefix, collision), Arc::<Notes>::default());
    world.fake.notify_every(notifies);
    world.works(async {
        copied(&world).await;
        if moment == Moment::Before {
            change(&world, at);
        }
        let run = again(&world, 2, &notes).await;
        let looks = async {
            if moment == Moment::Cut {
                world.clock.sleep(Duration::from_secs(2)).await;
                world.fake.cut_watches();
                change(&world, at);
            }
            world.clock.sleep(Duration::from_secs(5)).await;
        };
        match select(pin!(tail(&run, &Until::Dropped)), pin!(looks)).await {
            Either::Left((ended, _)) => panic!("{case:?}: {ended:?}"),
            Either::Right(_) => {}
        }
        assert_eq!(notes.compactions(), 1, "{case:?}");
        is_as_etcd(&world).await;
    });
}

fn is_cut_over(prefix: &str, collision: Choice, (moment, at): (Moment, At), notifies: Duration) {
    let case = (prefix, collision, moment, at, notifies);
    let (world, notes) = (with(prefix, collision), Arc::<Notes>::default());
    world.fake.notify_every(notifies);
    world.works(async {
        copied(&world).await;
        if moment == Moment::Before {
            change(&world, at);
        }
        let run = again(&world, 2, &notes).await;
        let consent = async |_| {
            if moment == Moment::Cut {
                world.fake.cut_watches();
                change(&world, at);
            }
            Ok(())
        };
        let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
        let done = cut_over(&run, Freeze::Alarm, &frozen, limit, consent).await;
        let done = done.unwrap_or_else(|stop: Stop| panic!("{case:?}: {stop:?}"));
        assert!(done.differences.is_empty(), "{case:?}: {done:?}");
        assert_eq!(notes.compactions(), 1, "{case:?}");
        assert_eq!(run.job.record().phase, Phase::Switched);
        is_as_etcd(&world).await;
    });
}

/// etcd compacts all the time, faster than anything is read: each verb ends with what helps, and a tail goes on and says it.
/// When it compacts no more, the same job ends equal.
pub fn all_the_time() {
    for verb in ["survey", "copy", "cutover", "tail"] {
        let (world, notes) = (with("/app/", Choice::Refuse), Arc::<Notes>::default());
        for place in 0..100 {
            world.put(&format!("/app/{place:03}"), Some("1"));
        }
        world.works(async {
            if ["cutover", "tail"].contains(&verb) {
                copied(&world).await;
            }
            let (run, _) = world.hold(2).await.unwrap();
            let run = Run { report: Arc::clone(&notes) as Arc<dyn Report>, ..run };
            let compacts = async {
                for number in 0..20_000 {
                    world.put("/app/a", Some(&number.to_string()));
                    world.fake.compact();
                    world.clock.sleep(Duration::from_millis(1)).await;
                }
            };
            let works = async {
                match verb {
                    "survey" => {
                        let (etcd, target) = (&world.etcd, &world.target);
                        survey(etcd, target, &world.mapping, PACE, &*notes).await.map(|_| ())
                    }
                    "copy" => load(&run, Default::default()).await,
                    "tail" => tail(&run, &Until::Dropped).await.map(|_| ()),
                    _ => {
                        let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
                        let consent = async |_| Ok(());
                        cut_over(&run, Freeze::Alarm, &frozen, limit, consent).await.map(|_| ())
                    }
                }
            };
            let said = match select(pin!(works), pin!(compacts)).await {
                Either::Left((ended, _)) => ended.expect_err(verb).to_string(),
                Either::Right(_) => notes.0.lock().unwrap().join("\n"),
            };
            assert!(
                said.contains("5 snapshots in a row")
                    && said.contains("--auto-compaction-retention"),
                "{verb}: {said}"
            );
            assert!(world.fake.alarms().is_empty(), "{verb}");
            drop(run);
            let run = again(&world, 3, &notes).await;
            load(&run, Default::default()).await.unwrap();
            let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
            let done = cut_over(&run, Freeze::Alarm, &frozen, limit, async |_| Ok(()));
            assert!(done.await.unwrap().differences.is_empty(), "{verb}");
        });
    }
}

/// The job's keys rest while others change and etcd compacts, in a tail that lives. It still finds a watch that is held up.
pub fn while_keys_rest() {
    for keys in [&[][..], &["/app/new"], &["/app/gone"], &["/app/new", "/app/gone"]] {
        let (world, notes) = (with("/app/", Choice::Refuse), Arc::<Notes>::default());
        world.fake.notify_every(Duration::from_secs(100_000));
        world.works(async {
            copied(&world).await;
            let run = again(&world, 2, &notes).await;
            let rests = async {
                // Longer than a tail waits until it looks.
                for _ in 0..10 {
                    world.clock.sleep(Duration::from_secs(90)).await;
                    world.put("/other/x", Some("2"));
                    world.fake.compact();
                }
                assert_eq!(notes.compactions(), 0, "{keys:?}");
                world.fake.hold_watches_up(false);
                for key in keys {
                    world.put(key, (*key == "/app/new").then_some("2"));
                }
                world.clock.sleep(Duration::from_secs(150)).await;
            };
            match select(pin!(tail(&run, &Until::Dropped)), pin!(rests)).await {
                Either::Left((ended, _)) => panic!("{keys:?}: {ended:?}"),
                Either::Right(_) => {}
            }
            let found = world.found().await;
            assert_eq!(found.contains_key("app/new"), keys.contains(&"/app/new"), "{keys:?}");
            assert_eq!(found.contains_key("app/gone"), !keys.contains(&"/app/gone"), "{keys:?}");
        });
    }
}

/// The keys of other programs change, and are compacted: etcd has reported meanwhile how far it is.
pub fn idle() {
    for collision in [Choice::Refuse, Choice::Skip] {
        let (world, notes) = (with("/app/", collision), Arc::<Notes>::default());
        world.works(async {
            copied(&world).await;
            for number in 2..5 {
                let run = again(&world, number, &notes).await;
                let others = async {
                    for _ in 0..3 {
                        world.put("/other/x", Some("2"));
                        // Longer than the default of etcd is from one such line to the next.
                        world.clock.sleep(Duration::from_secs(601)).await;
                    }
                };
                match select(pin!(tail(&run, &Until::Dropped)), pin!(others)).await {
                    Either::Left((ended, _)) => panic!("{ended:?}"),
                    Either::Right(_) => {}
                }
                assert_eq!(run.job.record().revision, world.fake.revision() + 1);
                world.fake.compact();
            }
            assert_eq!(notes.compactions(), 0);
            // Later changes are not lost.
            world.put("/app/new", Some("2"));
            world.put("/app/gone", None);
            let run = again(&world, 5, &notes).await;
            let looks = pin!(world.clock.sleep(Duration::from_secs(5)));
            let _ = select(pin!(tail(&run, &Until::Dropped)), looks).await;
            assert_eq!(notes.compactions(), 0);
            is_as_etcd(&world).await;
        });
    }
}
