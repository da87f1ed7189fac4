//! Rules that few histories need: each test has one in which what it forbids would do harm.

use super::{PATIENCE, World};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::request::Defaults;
use consul_client::transport::Transport;
use consul_client::{Client, Settings};
use consul_migrate::etcd::Etcd;
use consul_migrate::job::{Phase, Record, source};
use consul_migrate::mapping::{Choice, Mapping, Op, Problem};
use consul_migrate::target::Target;
use consul_migrate::{
    Freeze, Frozen, MayChange, Run, Stop, Until, cut_over, finish, load, roll_back, tail,
};
use consul_process::clock::{BoxFuture, Clock, ManualClock};
use consul_sim::SimTransport;
use futures_util::future::{Either, join, select};
use http::{Request, Response};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

fn with(prefix: &str, keys: &[&str], on: &[(Problem, Choice)]) -> World {
    let world = World::plain(1, on);
    let mapping = Mapping { etcd_prefix: prefix.into(), ..world.mapping.clone() };
    let world = World { mapping, ..world };
    keys.iter().for_each(|key| world.put(key, Some("1")));
    world
}

/// A look that takes long is made seldom: etcd is not kept busy by it.
pub fn looks_that_take_long() {
    let mut world = with("/app/", &["/app/a"], &[]);
    let servers = vec![Arc::new(world.fake.clone()) as _];
    let clock = Arc::new(world.clock.clone());
    world.etcd = Etcd::new(servers, None, clock, Duration::from_secs(60), PATIENCE);
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let before = world.fake.be_slow(Duration::from_secs(10));
        let hour = pin!(world.clock.sleep(Duration::from_secs(3600)));
        let tails = pin!(tail(&run, &Until::Dropped));
        assert!(matches!(select(tails, hour).await, Either::Right(_)));
        let looks = world.fake.be_slow(Duration::ZERO) - before;
        // After each that takes 10 s or longer nothing is looked for 500 s.
        assert!((3..=8).contains(&looks), "{looks}");
    });
}

/// A program that sets a key of Consul after the cut-over may keep its flags, which are the job's mark.
pub fn deletions_after_a_cut_over() {
    let world = with("/app/", &["/app/a", "/app/b"], &[]);
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
        cut_over(&run, Freeze::Operator, &frozen, limit, async |_| Ok(())).await.unwrap();
        let flags = run.job.record().mapping.mark;
        let found = world.direct.entries(&["app/a"]).await.unwrap().pop().flatten().unwrap();
        assert_eq!(found.flags, flags);
        let of_program = Op::Set { key: "app/a".to_owned(), value: "2".into(), flags };
        world.direct.txn_surely(&[], &[of_program]).await.unwrap();
        world.put("/app/a", None);
        world.put("/app/b", None);
        let later = pin!(world.clock.sleep(Duration::from_secs(3)));
        let tails = pin!(tail(&run, &Until::Dropped));
        assert!(matches!(select(tails, later).await, Either::Right(_)));
        assert_eq!(world.stored("app/a").await.as_deref(), Some("2"));
        assert_eq!(world.stored("app/b").await, None);
    });
}

/// A cut-over goes on however often etcd compacts, if changes are followed in between.
pub fn compactions_with_changes_in_between() {
    let world = with("/app/", &["/app/a", "/app/end"], &[]);
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let mut snapshots = 0;
        let changes = async {
            for number in 0..12 {
                world.put("/app/a", Some(&number.to_string()));
                while run.job.record().revision <= world.fake.revision() {
                    world.clock.sleep(Duration::from_millis(1)).await;
                }
                let snapshot = run.job.record().snapshot;
                world.fake.cut_watches();
                world.put("/app/a", None);
                world.put("/app/a", Some("again"));
                world.fake.compact();
                while run.job.record().revision <= world.fake.revision() {
                    world.clock.sleep(Duration::from_millis(1)).await;
                }
                snapshots += usize::from(run.job.record().snapshot != snapshot);
            }
            world.put("/app/end", None);
        };
        let until = Until::Deleted(Bytes::from_static(b"/app/end"));
        let tails = async {
            if let Err(stop) = tail(&run, &until).await {
                panic!("{stop}");
            }
        };
        join(tails, changes).await;
        assert_eq!(snapshots, 12);
    });
}

/// A server that was left is asked again for its cluster: it may have become a server of another one.
pub fn a_server_that_was_left() {
    let clock = ManualClock::new();
    let both = [1, 2].map(|seed| crate::fake::Fake::new(&clock, seed, 0));
    let servers = both.iter().map(|it| Arc::new(it.clone()) as _).collect();
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let etcd = Etcd::new(servers, None, shared, Duration::from_secs(5), PATIENCE);
    let key = Bytes::from_static(b"/app/a");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(clock.drive(async {
        etcd.touch(&key).await.unwrap();
        etcd.leave_server();
        etcd.touch(&key).await.unwrap();
        both[0].belong_to(8);
        let before = both[0].revision();
        etcd.leave_server();
        let touched = etcd.touch(&key).await;
        assert_eq!(both[0].revision(), before, "{touched:?}");
    }));
}

/// Both forms of a key were there once after the snapshot, and the first one is gone when the tail begins.
pub fn a_collision_before_the_tail() {
    let keys = ["/x", "/y", "a"];
    let world = with("", &keys, &[(Problem::Collision, Choice::Refuse)]);
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        world.put("/a", Some("2"));
        world.put("a", None);
        let later = pin!(world.clock.sleep(Duration::from_secs(3)));
        match select(pin!(tail(&run, &Until::Dropped)), later).await {
            Either::Left((Err(Stop::Refused(why)), _)) => {
                assert!(why.contains("collision"), "{why}")
            }
            Either::Left((ended, _)) => panic!("{ended:?}"),
            Either::Right(_) => {
                panic!("it is not noticed; Consul has {:?}", world.stored("a").await)
            }
        }
    });
}

/// A way back, or the end of a move, is held up at each moment, also after its last look at who holds the job, and the next cut-over
/// comes meanwhile: what that has left in etcd stays there.
pub fn keys_of_the_next_cut_over() {
    for finishes in [false, true] {
        let mut held_up = 0;
        while is_held_up_after(held_up, finishes) {
            held_up += 1;
        }
        assert!(held_up > 10, "{held_up}");
    }
}

/// Returns whether it had not come to its end.
fn is_held_up_after(ms: u64, finishes: bool) -> bool {
    let world = with("/app/", &["/app/a", "/app/b"], &[]);
    let limit = Duration::from_secs(60);
    world.works(async {
        let cut = async |run: &Run<'_>| {
            cut_over(run, Freeze::Operator, &Frozen::default(), limit, async |_| Ok(())).await
        };
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        cut(&run).await.unwrap();
        let of_program = Op::Set { key: "app/a".to_owned(), value: "2".into(), flags: 0 };
        world.direct.txn_surely(&[], &[of_program]).await.unwrap();
        world.way_ms.store(4, Relaxed);
        let mut ends = Box::pin(async {
            match finishes {
                true => finish(&run, false).await.map(|_| ()),
                false => roll_back(&run, MayChange::NoNewKeys).await.map(|_| ()),
            }
        });
        let held_up = pin!(world.clock.sleep(Duration::from_millis(ms)));
        if let Either::Left((ended, _)) = select(ends.as_mut(), held_up).await {
            ended.unwrap();
            return false;
        }
        let (mut other, mut kept) = world.hold(2).await.unwrap();
        if other.job.record().finishing {
            finish(&other, false).await.unwrap();
            (other, kept) = world.hold(3).await.unwrap();
        } else if other.job.record().phase == Phase::Switched {
            roll_back(&other, MayChange::Restored).await.unwrap();
        }
        load(&other, kept).await.unwrap();
        cut(&other).await.unwrap();
        let record = other.job.record();
        assert_eq!(source::restored(&world.etcd, &record, &other.job.keys).await.unwrap(), None);
        let _ = ends.await;
        let said = source::restored(&world.etcd, &record, &other.job.keys).await.unwrap();
        assert_eq!(said, None, "{ms} ms, finishes: {finishes}");
        true
    })
}

/// The first write is applied without an answer, and all later ones are refused.
#[derive(Debug)]
struct Losing {
    works: SimTransport,
    /// The number of the next write; none before 1 is disturbed.
    write: Arc<AtomicU64>,
}

impl Transport for Losing {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            if request.method() == "GET" || self.write.load(Relaxed) == 0 {
                return self.works.send(request).await;
            }
            if self.write.fetch_add(1, Relaxed) > 1 {
                let refusal = Bytes::from_static(b"Permission denied");
                return Ok(Response::builder().status(403).body(refusal).unwrap());
            }
            self.works.send(request).await?;
            Err(Error::new(Kind::Connect, "reset").with_maybe_applied(true))
        })
    }

    fn endpoint(&self) -> &str {
        "losing"
    }
}

/// The error of a later attempt says that an earlier one may be applied: a cut-over does not take it for a refusal.
pub fn a_save_whose_answer_is_lost() {
    let world = with("/app/", &["/app/a"], &[]);
    let works = SimTransport::new(Arc::clone(&world.agent), "simulated");
    let write = Arc::<AtomicU64>::default();
    let losing = Losing { works, write: Arc::clone(&write) };
    let settings =
        Settings { timeout: Duration::from_secs(5), retry_count: 0, defaults: Defaults::default() };
    let clock: Arc<dyn Clock> = Arc::new(world.clock.clone());
    let rng = fastrand::Rng::with_seed(1);
    let client = Client::new(vec![Arc::new(losing)], settings, clock, rng);
    let target = Target::new(Arc::new(client), PATIENCE, 64);
    let world = World { target, ..world };
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        write.store(1, Relaxed);
        let next = Record { replaces: 5, ..run.job.record() };
        match run.job.save(next, &[]).await {
            Err(Stop::Failed(error)) => assert!(error.maybe_applied(), "{error:?}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(world.record().await.unwrap().replaces, 5);
    });
}
