//! The writers that a cut-over has stopped go on, whatever Consul says from some moment on.

use super::World;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::request::Defaults;
use consul_client::transport::Transport;
use consul_client::{Client, Settings};
use consul_migrate::etcd::Right;
use consul_migrate::job::{Keys, Phase};
use consul_migrate::target::Target;
use consul_migrate::{Freeze, Frozen, Stop, cut_over, lift_left_of, load};
use consul_process::clock::{BoxFuture, Clock, ManualClock};
use consul_sim::SimTransport;
use futures_util::future::{Either, select};
use http::{Request, Response};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A status and a body; the status 0 is a connection that is cut.
type Said = (u16, &'static str);

const SAID: [Said; 8] = [
    (403, "Permission denied"),
    (403, r#"{"Results":null,"Errors":[{"OpIndex":0,"What":"Permission denied"}]}"#),
    (409, r#"{"Results":null,"Errors":[{"OpIndex":0,"What":"Permission denied"}]}"#),
    (413, "Request body(9000 bytes) too large, max size: 1000 bytes."),
    (413, "<html>413 Request Entity Too Large</html>"),
    (500, "No cluster leader"),
    (200, "<html>log in</html>"),
    (0, ""),
];

/// The requests that something else answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Which {
    Writes,
    All,
}

/// When it begins: some milliseconds after etcd has refused the first write, or taken the first one again.
#[derive(Clone, Copy, Debug)]
enum Since {
    Stopped(u64),
    GivenBack(u64),
}

/// With these rights the record is larger than the smallest transaction that is divided.
const RIGHTS: usize = 12;

#[derive(Debug)]
struct Saying {
    works: SimTransport,
    clock: ManualClock,
    says: Arc<Mutex<Option<(Which, Said)>>>,
}

impl Transport for Saying {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            self.clock.sleep(Duration::from_millis(2)).await;
            let says = *self.says.lock().unwrap();
            let is_read = request.method() == "GET";
            match says.filter(|(which, _)| *which == Which::All || !is_read) {
                None => self.works.send(request).await,
                Some((_, (0, _))) => {
                    Err(Error::new(Kind::Connect, "reset").with_maybe_applied(true))
                }
                Some((_, (status, body))) => {
                    let answer = Response::builder().status(status);
                    Ok(answer.body(Bytes::from_static(body.as_bytes())).unwrap())
                }
            }
        })
    }

    fn endpoint(&self) -> &str {
        "saying"
    }
}

pub fn run() {
    let mut ends = BTreeMap::<_, usize>::new();
    let of_roles = [Since::Stopped(0), Since::Stopped(30), Since::GivenBack(0)];
    for said in SAID {
        for (freeze, moments) in [
            (Freeze::Alarm, &of_roles[..1]),
            (Freeze::Operator, &of_roles[..1]),
            (Freeze::Roles, &of_roles[..]),
        ] {
            for which in [Which::Writes, Which::All] {
                for since in moments {
                    let end = is_lifted(freeze, said, which, *since);
                    *ends.entry((format!("{freeze:?}"), end)).or_default() += 1;
                }
            }
        }
    }
    // Each freeze has moments at which the cut-over is ended, and roles have some at which Consul cannot be read.
    for end in [("Alarm", End::Lifted), ("Roles", End::Lifted), ("Roles", End::Told)] {
        assert!(ends.get(&(end.0.to_owned(), end.1)).is_some_and(|it| *it > 4), "{ends:?}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Lifted,
    /// Consul says nothing about other instances, so that the commands are named.
    Told,
    /// Switched, or perhaps.
    Switched,
}

fn is_lifted(freeze: Freeze, said: Said, which: Which, since: Since) -> End {
    let shown = format!("{freeze:?} {said:?} {which:?} {since:?}");
    let world = World::plain(1, &[]);
    let names: Vec<String> = (0..RIGHTS).map(|at| format!("/app/{at:02}")).collect();
    names.iter().for_each(|name| world.put(name, Some("1")));
    world.fake.have_users("3.6.0");
    names.iter().for_each(|name| world.fake.permit("app", "READWRITE", name, ""));
    let before = world.fake.permissions("app");
    let says = Arc::<Mutex<Option<(Which, Said)>>>::default();
    let works = SimTransport::new(Arc::clone(&world.agent), "simulated");
    let saying = Saying { works, clock: world.clock.clone(), says: Arc::clone(&says) };
    let settings =
        Settings { timeout: Duration::from_secs(5), retry_count: 0, defaults: Defaults::default() };
    let clock: Arc<dyn Clock> = Arc::new(world.clock.clone());
    let rng = fastrand::Rng::with_seed(1);
    let client = Client::new(vec![Arc::new(saying)], settings, clock, rng);
    let target = Target::new(Arc::new(client), Duration::from_secs(1), 64);
    let world = World { target, ..world };
    let is_over = Arc::<AtomicBool>::default();
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let is_stopped = {
            let (fake, before) = (world.fake.clone(), before.clone());
            let first = fake.revision();
            move || match freeze {
                Freeze::Roles => fake.permissions("app") != before,
                // It has put its last sentinel.
                Freeze::Operator => fake.revision() > first,
                _ => !fake.alarms().is_empty(),
            }
        };
        let (clock, is_ended) = (world.clock.clone(), Arc::clone(&is_over));
        let (told, taken) = (Arc::clone(&says), before.clone());
        let fake = world.fake.clone();
        world.clock.spawn(async move {
            let wait = async |it: &(dyn Fn() -> bool + Sync)| {
                while !it() && !is_ended.load(Relaxed) {
                    clock.sleep(Duration::from_millis(1)).await;
                }
            };
            wait(&is_stopped).await;
            let after = match since {
                Since::Stopped(after) => after,
                Since::GivenBack(after) => {
                    let least = fake.permissions("app");
                    let count = |of: &[_]| of.iter().filter(|it| taken.contains(it)).count();
                    wait(&|| count(&fake.permissions("app")) > count(&least)).await;
                    after
                }
            };
            clock.sleep(Duration::from_millis(after)).await;
            if !is_ended.load(Relaxed) {
                *told.lock().unwrap() = Some((which, said));
            }
        });
        let (frozen, limit) = (Frozen::default(), Duration::from_millis(1500));
        let limit = match since {
            Since::Stopped(_) => limit * 20,
            // It is ended by its limit, when Consul still answers.
            Since::GivenBack(_) => Duration::from_millis(300),
        };
        let done = cut_over(&run, freeze, &frozen, limit, async |_| Ok(())).await;
        if done.is_ok() || frozen.may_be_switched() {
            is_over.store(true, Relaxed);
            return End::Switched;
        }
        let keys = Keys::new("job");
        let lifted = {
            let lifts = pin!(frozen.lift(&world.etcd, &world.target, &keys));
            let long = pin!(world.clock.sleep(Duration::from_secs(60)));
            match select(lifts, long).await {
                Either::Left((lifted, _)) => lifted,
                Either::Right(_) => panic!("it does not end: {shown}"),
            }
        };
        is_over.store(true, Relaxed);
        let is_lifted = world.fake.alarms().is_empty() && world.fake.permissions("app") == before;
        let end = told_truly(&lifted, &frozen, is_lifted, &shown);
        // An instance that can read the record gives back; the alarm needs no Consul.
        if which == Which::Writes || freeze != Freeze::Roles {
            assert_eq!(end, End::Lifted, "{shown}: {lifted:?}");
        }
        *says.lock().unwrap() = None;
        let (again, _) = world.hold(2).await.unwrap();
        lift_left_of(&world.etcd, &again.job).await.unwrap();
        assert_ne!(again.job.record().phase, Phase::Switched);
        assert!(again.job.record().may_be_taken().is_empty(), "{shown}");
        assert_eq!(world.fake.permissions("app"), before, "{shown}");
        end
    })
}

/// The outcome is that of etcd.
fn told_truly(
    lifted: &Result<Option<Vec<Right>>, Stop>,
    frozen: &Frozen,
    is_lifted: bool,
    shown: &str,
) -> End {
    match lifted {
        Ok(Some(lacking)) => {
            assert!(lacking.is_empty() && is_lifted, "{shown}: {lacking:?}");
            End::Lifted
        }
        Ok(None) => panic!("there is no other instance: {shown}"),
        Err(_) => {
            assert!(!is_lifted, "it is lifted, and the program says that it is not: {shown}");
            assert!(frozen.cure().contains("role grant-permission app"), "{shown}");
            End::Told
        }
    }
}
