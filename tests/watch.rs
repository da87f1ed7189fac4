//! Watches on the simulated agent, on a clock that the tests move.

use bytes::Bytes;
use consul_ffi::client::watch::{Change, WatchOptions, watch};
use consul_ffi::client::{Client, Settings};
use consul_ffi::clock::{Clock, ManualClock};
use consul_ffi::error::Error;
use consul_ffi::simulate::{Agent, Fault, Keeps, Options, SimTransport};
use consul_ffi::wire::request::{Args, Defaults};
use consul_ffi::wire::response::Meta;
use consul_ffi::wire::value::Value;
use consul_ffi::wire::{endpoint, event};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use http::Request;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

struct World {
    clock: ManualClock,
    agent: Arc<Agent>,
    client: Arc<Client>,
}

type Changes = BoxStream<'static, Result<(Change, Meta), Error>>;

impl World {
    fn new() -> Self {
        let clock = ManualClock::new();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let options = Options { clock: Arc::clone(&shared), seed: 1, ..Options::default() };
        let agent = Arc::new(Agent::new(options));
        let settings = Settings {
            timeout: Duration::from_secs(5),
            retry_count: 0,
            defaults: Defaults::default(),
        };
        let transport = SimTransport::new(Arc::clone(&agent), "simulated");
        let rng = fastrand::Rng::with_seed(1);
        let client = Arc::new(Client::new(vec![Arc::new(transport)], settings, shared, rng));
        Self { clock, agent, client }
    }

    fn run<R>(&self, work: impl Future<Output = R>) -> R {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(self.clock.drive(work))
    }

    fn watch(&self, method: &str, args: Args) -> Changes {
        let endpoint = endpoint(method).expect("a method");
        watch(Arc::clone(&self.client), endpoint, args, WatchOptions::default())
            .expect("a watch")
            .boxed()
    }

    /// What happens by other hands, without any time passing.
    fn send(&self, method: &str, path: &str, body: &str) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let request = Request::builder().method(method).uri(path).body(body).expect("a request");
        let answer = self.agent.handle(request).now_or_never().expect("at once");
        assert!(answer.status().is_success(), "{path}: {answer:?}");
    }

    fn put(&self, key: &str, value: &str) {
        self.send("PUT", &format!("/v1/kv/{key}"), value);
    }
}

async fn next(changes: &mut Changes) -> Change {
    changes.next().await.expect("a watch does not end").expect("no outage").0
}

#[test]
fn a_key_is_told_as_it_is_then_as_it_changes() {
    let world = World::new();
    world.run(async {
        let mut key = world.watch("kv_get", Args::new().arg("a"));
        assert_eq!(next(&mut key).await, Change::Initial(Value::Null));
        world.put("a", "1");
        assert_eq!(next(&mut key).await, Change::Put { id: String::new(), value: "1".into() });
        world.send("DELETE", "/v1/kv/a", "");
        assert_eq!(next(&mut key).await, Change::Delete { id: String::new(), value: "1".into() });
    });
}

#[test]
fn of_a_prefix_only_what_changed_is_told() {
    let world = World::new();
    for key in ["p/a", "p/b", "p/c"] {
        world.put(key, "1");
    }
    world.run(async {
        let mut tree = world.watch("kv_list", Args::new().arg("p/"));
        let Change::Initial(all) = next(&mut tree).await else { panic!("no beginning") };
        assert_eq!(all.items().len(), 3);
        world.put("p/b", "2");
        world.send("DELETE", "/v1/kv/p/c", "");
        let Change::Put { id, value } = next(&mut tree).await else { panic!("no put") };
        assert_eq!((id.as_str(), value.get("Value")), ("p/b", Some(&"2".into())));
        let Change::Delete { id, .. } = next(&mut tree).await else { panic!("no delete") };
        assert_eq!(id, "p/c");
    });
}

#[test]
fn the_last_state_comes_at_the_rate_and_none_comes_twice() {
    let world = World::new();
    world.run(async {
        let mut key = world.watch("kv_get", Args::new().arg("a"));
        next(&mut key).await;
        let begun = world.clock.now();
        let writes = async {
            for number in 1..=10_000 {
                world.put("a", &number.to_string());
                world.clock.sleep(Duration::from_micros(100)).await;
            }
            world.clock.now()
        };
        let told = async {
            let mut told = Vec::new();
            while told.last() != Some(&Value::from("10000")) {
                match next(&mut key).await {
                    Change::Put { value, .. } => told.push(value),
                    other => panic!("{other:?}"),
                }
            }
            (told, world.clock.now())
        };
        let (written, (told, seen)) = futures_util::join!(writes, told);
        assert!(seen - written < Duration::from_secs(1), "{:?} later", seen - written);
        assert!(told.windows(2).all(|pair| pair[0] != pair[1]));
        let rate = told.len() as f64 / (seen - begun).as_secs_f64();
        assert!(rate < 21.0, "{rate} states per second");
    });
}

#[test]
fn after_an_outage_it_says_so_once_and_tells_the_whole_again() {
    let world = World::new();
    world.put("p/a", "1");
    world.run(async {
        let mut tree = world.watch("kv_list", Args::new().arg("p/"));
        next(&mut tree).await;
        world.agent.add_fault(Fault { partition: true, ..Fault::default() });
        world.agent.restart(Keeps::Disk);
        let outage = tree.next().await.expect("a watch does not end");
        assert!(outage.is_err());
        world.put("p/b", "1");
        let healed = async {
            world.clock.sleep(Duration::from_secs(30)).await;
            world.agent.clear_faults();
        };
        let (change, ()) = futures_util::join!(next(&mut tree), healed);
        let Change::Resynchronised(all) = change else { panic!("{change:?}") };
        assert_eq!(all.items().len(), 2);
    });
}

#[test]
fn an_index_that_goes_back_is_a_resynchronisation() {
    let world = World::new();
    for _ in 0..20 {
        world.put("other", "1");
    }
    world.put("a", "1");
    world.run(async {
        let mut key = world.watch("kv_get", Args::new().arg("a"));
        next(&mut key).await;
        world.agent.reset();
        world.put("a", "2");
        assert_eq!(next(&mut key).await, Change::Resynchronised("2".into()));
        world.put("a", "3");
        assert_eq!(next(&mut key).await, Change::Put { id: String::new(), value: "3".into() });
    });
}

#[test]
fn events_come_one_by_one_and_cost_no_queries_between() {
    let world = World::new();
    world.run(async {
        world.send("PUT", "/v1/event/fire/deploy", "1");
        let mut events = world.watch(event::LIST.name, Args::new());
        next(&mut events).await;
        world.send("PUT", "/v1/event/fire/deploy", "2");
        let Change::Put { value, .. } = next(&mut events).await else { panic!("no event") };
        assert_eq!(value.get("Payload"), Some(&"2".into()));
        let before = world.agent.stats().requests;
        let quiet = world.clock.sleep(Duration::from_secs(300));
        futures_util::future::select(events.next(), quiet).await;
        let asked = world.agent.stats().requests - before;
        assert!(asked < 10, "{asked} queries in 5 quiet minutes");
    });
}

#[test]
fn a_service_is_told_by_its_instances() {
    let world = World::new();
    world.run(async {
        let mut web = world.watch("health_service", Args::new().arg("web"));
        assert_eq!(next(&mut web).await, Change::Initial(Value::List(Vec::new())));
        world.send("PUT", "/v1/agent/service/register", r#"{"Name": "web", "ID": "w1"}"#);
        let Change::Put { id, .. } = next(&mut web).await else { panic!("no instance") };
        assert_eq!(id, "sim/w1");
        world.send("PUT", "/v1/agent/service/deregister/w1", "");
        let Change::Delete { id, .. } = next(&mut web).await else { panic!("no instance") };
        assert_eq!(id, "sim/w1");
    });
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let world = World::new();
    let refused = |method: &str, args: Args| {
        let endpoint = endpoint(method).expect("a method");
        let made =
            watch(Arc::clone(&world.client), endpoint, args, WatchOptions::default()).map(|_| ());
        made.expect_err("a refusal").message().to_owned()
    };
    assert!(refused("kv_put", Args::new().arg("a").arg("1")).contains("no blocking queries"));
    assert!(refused("kv_get", Args::new().arg("a").opt("index", 1)).contains("index"));
    assert!(refused("kv_get", Args::new().arg("//a")).contains("//a"));
}
