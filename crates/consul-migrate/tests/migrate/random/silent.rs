//! A server of etcd that is stuck: it takes requests and answers nothing, while the others go on.

use super::{PATIENCE, World};
use crate::fake::Fake;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_migrate::etcd::Etcd;
use consul_migrate::etcd::streaming::{Parts, Streaming};
use consul_migrate::{Stop, Until, load, tail};
use consul_process::clock::{BoxFuture, Clock as _, ManualClock};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use http::{Request, Response};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// The time limit of an attempt, which is that of the program.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A change arrives that soon although a server is stuck.
const LATEST: Duration = Duration::from_secs(10);

/// For so long no program writes.
const QUIET: Duration = Duration::from_secs(120);

#[derive(Clone, Debug)]
struct Server {
    works: Fake,
    clock: ManualClock,
    is_stuck: Arc<AtomicBool>,
    watches: Arc<AtomicUsize>,
}

impl Server {
    fn new(works: &Fake, clock: &ManualClock) -> Server {
        let (works, clock) = (works.clone(), clock.clone());
        Server { works, clock, is_stuck: Arc::default(), watches: Arc::default() }
    }

    fn stick(&self) {
        self.is_stuck.store(true, Ordering::Relaxed);
    }

    async fn while_stuck(&self) {
        while self.is_stuck.load(Ordering::Relaxed) {
            self.clock.sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Streaming for Server {
    fn open(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Parts>, Error>> {
        let is_watch = request.uri().path().ends_with("/watch");
        self.watches.fetch_add(usize::from(is_watch), Ordering::Relaxed);
        Box::pin(async move {
            self.while_stuck().await;
            let answer = self.works.open(request).await?;
            let server = self.clone();
            Ok(answer.map(|parts| {
                let parts = parts.then(move |part| {
                    let server = server.clone();
                    async move {
                        server.while_stuck().await;
                        part
                    }
                });
                parts.boxed()
            }))
        })
    }

    fn endpoint(&self) -> &str {
        "server"
    }
}

pub fn run() {
    a_tail_goes_on_with_another_server();
    one_that_is_stuck_from_the_beginning_is_left();
    one_of_another_cluster_is_refused();
    the_only_one_may_be_slow();
}

/// The world with these servers.
fn with_servers<const N: usize>(of: impl Fn(&World) -> [Fake; N]) -> (World, [Server; N]) {
    let mut world = World::plain(1, &[]);
    let servers = of(&world).map(|works| Server::new(&works, &world.clock));
    let all = servers.iter().map(|server| Arc::new(server.clone()) as _).collect();
    world.etcd = Etcd::new(all, None, Arc::new(world.clock.clone()), TIMEOUT, PATIENCE);
    (world, servers)
}

/// Three servers of one cluster.
fn three(world: &World) -> [Fake; 3] {
    [0; 3].map(|_| world.fake.clone())
}

/// Sets a key of etcd, and returns how long it takes to Consul.
async fn arrival(world: &World, key: &str) -> Duration {
    let begun = world.clock.now();
    world.put(&format!("/{key}"), Some("1"));
    while world.stored(key).await.is_none() {
        world.clock.sleep(Duration::from_millis(50)).await;
    }
    world.clock.now() - begun
}

fn a_tail_goes_on_with_another_server() {
    let (world, servers) = with_servers(three);
    let watches = |place: usize| servers[place].watches.load(Ordering::Relaxed);
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let looks = async {
            assert!(arrival(&world, "first").await < Duration::from_secs(1));
            // A watch without events is not a stuck one.
            world.clock.sleep(QUIET).await;
            assert_eq!([0, 1, 2].map(watches), [1, 0, 0]);
            servers[0].stick();
            let time = arrival(&world, "second").await;
            assert!(time < LATEST, "{time:?}");
            world.clock.sleep(QUIET).await;
            assert_eq!([0, 1, 2].map(watches), [1, 1, 0]);
            assert!(arrival(&world, "third").await < Duration::from_secs(1));
        };
        match select(pin!(tail(&run, &Until::Dropped)), pin!(looks)).await {
            Either::Left((ended, _)) => panic!("{ended:?}"),
            Either::Right(_) => {}
        }
    });
}

fn one_that_is_stuck_from_the_beginning_is_left() {
    let (world, servers) = with_servers(three);
    servers[0].stick();
    world.works(async {
        let begun = world.clock.now();
        world.hold(1).await.unwrap();
        let time = world.clock.now() - begun;
        assert!(time < LATEST, "{time:?}");
    });
}

/// One of the addresses is that of another cluster, which has other keys at the same revisions.
fn one_of_another_cluster_is_refused() {
    let other = |world: &World| {
        let other = Fake::new(&world.clock, 1, 0);
        other.belong_to(8);
        for place in 0..20 {
            other.write(&[(format!("/other/{place}").into(), Some((Bytes::new(), 0)))]);
        }
        [world.fake.clone(), other]
    };
    for is_copied in [false, true] {
        let (world, servers) = with_servers(other);
        world.put("/a", Some("1"));
        world.works(async {
            let (run, _) = world.hold(1).await.unwrap();
            if is_copied {
                load(&run, Default::default()).await.unwrap();
            }
            servers[0].stick();
            let ended = tail(&run, &Until::Dropped).await;
            let Err(Stop::Failed(error)) = ended else { panic!("{ended:?}") };
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.message().contains("it is a server of the etcd cluster 8"), "{error}");
            let found = world.found().await;
            assert!(found.keys().all(|key| key == "a"), "{found:?}");
        });
    }
}

/// There is no other one to ask.
fn the_only_one_may_be_slow() {
    let (world, servers) = with_servers(|world| [world.fake.clone()]);
    servers[0].stick();
    let answers = Arc::clone(&servers[0].is_stuck);
    let clock = world.clock.clone();
    world.clock.spawn(async move {
        clock.sleep(TIMEOUT - Duration::from_secs(1)).await;
        answers.store(false, Ordering::Relaxed);
    });
    let etcd = Etcd::new(
        vec![Arc::new(servers[0].clone()) as _],
        None,
        Arc::new(world.clock.clone()),
        TIMEOUT,
        Duration::ZERO,
    );
    world.works(async { etcd.status(&Bytes::from_static(b"a")).await.unwrap() });
}
