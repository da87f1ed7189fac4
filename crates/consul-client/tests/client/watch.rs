//! Watches on the simulated agent, on a clock that the tests advance.

use crate::methods::sample;
use crate::support::world::World;
use bytes::Bytes;
use consul_api::api::event;
use consul_api::endpoint;
use consul_api::error::{Error, Kind};
use consul_api::request::{Args, Defaults};
use consul_api::response::Meta;
use consul_api::value::Value;
use consul_client::transport::Transport;
use consul_client::view::{EMPTY_HOLD, view};
use consul_client::views::{Wanted, views};
use consul_client::watch::{Change, WatchOptions, watch};
use consul_client::{Client, Settings};
use consul_process::clock::{BoxFuture, Clock, Instant, ManualClock};
use consul_sim::{Agent, Fault, Retained, SimTransport};
use futures_util::future::Either;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

type Changes = BoxStream<'static, Result<(Change, Meta), Error>>;

impl World {
    fn watch(&self, method: &str, args: Args) -> Changes {
        let endpoint = endpoint(method).expect("a method");
        watch(self.client(), endpoint, args, WatchOptions::default()).expect("a watch").boxed()
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
        // The same value with other flags.
        world.put("a?flags=7", "1");
        assert_eq!(next(&mut key).await, Change::Put { id: String::new(), value: "1".into() });
        world.send("DELETE", "/v1/kv/a", "");
        assert_eq!(next(&mut key).await, Change::Delete { id: String::new(), value: "1".into() });
    });
}

#[test]
fn a_watch_of_a_prefix_reports_only_the_changes() {
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
        world.agent.restart(Retained::Disk);
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

/// An agent that refuses every request, and the times of the requests.
#[derive(Debug)]
struct Refuses {
    clock: ManualClock,
    times: Mutex<Vec<Instant>>,
}

impl Transport for Refuses {
    fn send(&self, _: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        self.times.lock().expect("no panic").push(self.clock.now());
        let response = Response::builder().status(403).body(Bytes::from("Permission denied"));
        Box::pin(async { Ok(response.expect("a response")) })
    }

    fn endpoint(&self) -> &str {
        "refuses"
    }
}

#[test]
fn after_each_failure_it_waits_twice_as_long_up_to_5_s() {
    let world = World::new();
    let agent = Arc::new(Refuses { clock: world.clock.clone(), times: Mutex::default() });
    let transport = Arc::clone(&agent) as Arc<dyn Transport>;
    let (clock, rng) = (Arc::new(world.clock.clone()), fastrand::Rng::with_seed(1));
    let settings = Settings { timeout: MINUTE, retry_count: 0, defaults: Defaults::default() };
    let client = Arc::new(Client::new(vec![transport], settings, clock, rng));
    let options = WatchOptions { rate_per_s: 1000.0, ..WatchOptions::default() };
    let get = endpoint("kv_get").expect("a method");
    let changes = watch(client, get, Args::new().arg("a"), options).expect("a watch");
    world.run(async {
        let failures = changes.for_each(|change| async move { assert!(change.is_err()) });
        futures_util::future::select(Box::pin(failures), world.clock.sleep(MINUTE)).await;
    });
    let times = agent.times.lock().expect("no panic");
    assert!(times.len() > 15, "{times:?}");
    for (number, pair) in times.windows(2).enumerate() {
        // The pause of the rate comes in addition.
        let (pause_ms, longest_ms) =
            ((pair[1] - pair[0]).as_millis(), (100 << number.min(6)).min(5000));
        assert!((longest_ms / 2..=longest_ms + 2).contains(&pause_ms), "{number}: {pause_ms}");
    }
}

/// The way to an agent on which the second request breaks off, as a proxy ends a wait, after these values were written.
#[derive(Debug)]
struct BreaksOff {
    agent: SimTransport,
    requests: AtomicU32,
    written: &'static [&'static str],
    to: Arc<Agent>,
}

impl Transport for BreaksOff {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        if self.requests.fetch_add(1, Ordering::Relaxed) != 1 {
            return self.agent.send(request);
        }
        for value in self.written {
            let put = Request::builder().method("PUT").uri("/v1/kv/a").body(Bytes::from(*value));
            self.to.handle(put.expect("a request")).now_or_never().expect("at once");
        }
        std::future::ready(Err(Error::new(Kind::Connect, "broken off"))).boxed()
    }

    fn endpoint(&self) -> &str {
        "breaks off"
    }
}

#[test]
fn a_query_that_breaks_off_is_a_resynchronisation_only_if_something_was_written() {
    for (written, told) in [
        (&[][..], None),
        (&["2"], Some(Change::Resynchronised("2".into()))),
        (&["2", "1"], Some(Change::Resynchronised("1".into()))),
    ] {
        let world = World::new();
        world.put("a", "1");
        let agent = SimTransport::new(Arc::clone(&world.agent), "simulated");
        let (requests, to) = (AtomicU32::new(0), Arc::clone(&world.agent));
        let transport = Arc::new(BreaksOff { agent, requests, written, to }) as Arc<dyn Transport>;
        let (clock, rng) = (Arc::new(world.clock.clone()), fastrand::Rng::with_seed(1));
        let settings = Settings { timeout: MINUTE, retry_count: 0, defaults: Defaults::default() };
        let client = Arc::new(Client::new(vec![transport], settings, clock, rng));
        let get = endpoint("kv_get").expect("a method");
        let args = Args::new().arg("a");
        let changes = watch(client, get, args, WatchOptions::default()).expect("a watch");
        let mut changes: Changes = changes.boxed();
        world.run(async {
            assert_eq!(next(&mut changes).await, Change::Initial("1".into()));
            let begun = world.clock.now();
            if let Some(told) = told {
                assert_eq!(next(&mut changes).await, told, "{written:?}");
                assert!(world.clock.now() - begun < Duration::from_millis(200));
            }
            let later = async {
                world.clock.sleep(MINUTE).await;
                world.put("a", "3");
            };
            let (change, ()) = futures_util::join!(next(&mut changes), later);
            assert_eq!(change, Change::Put { id: String::new(), value: "3".into() }, "{written:?}");
        });
    }
}

#[test]
fn changes_are_reported_in_the_order_of_the_answer() {
    let world = World::new();
    world.run(async {
        let mut events = world.watch(event::LIST.name, Args::new());
        next(&mut events).await;
        let fire = async {
            for step in 0..20 {
                world.send("PUT", "/v1/event/fire/deploy", &step.to_string());
            }
        };
        let told = async {
            let mut told = Vec::new();
            for _ in 0..20 {
                let Change::Put { value, .. } = next(&mut events).await else { panic!("no event") };
                told.push(value.get("Payload").and_then(Value::as_str).map(str::to_owned));
            }
            told
        };
        let (told, ()) = futures_util::join!(told, fire);
        assert_eq!(told, (0..20).map(|step| Some(step.to_string())).collect::<Vec<_>>());
    });
}

/// Keys that its token may not read any more are not deleted: in a part of the list, or in all of it.
#[test]
fn the_loss_of_a_permission_is_an_error_once_and_no_deletion() {
    for left in [r#"key_prefix "p/a" { policy = "read" }"#, r#"key "other" { policy = "read" }"#] {
        let (world, management) = World::with_acl();
        let put = |key: &str, value: &str| {
            world.send("PUT", &format!("/v1/kv/{key}?token={management}"), value);
        };
        ["p/a", "p/b", "p/c"].iter().for_each(|key| put(key, "1"));
        let rules = r#"key_prefix "p/" { policy = "read" }"#;
        let client = world.client_with_rules(management, rules);
        let allow = |rules: &str| world.change_rules(management, rules);
        world.run(async {
            let row = endpoint("kv_list").expect("a method");
            let args = Args::new().arg("p/");
            let changes = watch(client, row, args, WatchOptions::default()).expect("a watch");
            let mut changes: Changes = changes.boxed();
            next(&mut changes).await;
            allow(left);
            put("p/b", "2");
            let lost = changes.next().await.expect("a watch does not end").expect_err("a loss");
            assert_eq!(lost.kind(), Kind::PermissionDenied, "{lost}");
            assert!(lost.message().contains("the token may not read"), "{lost}");
            // Nothing more is reported while it lasts, whatever changes.
            let quiet = async {
                put("p/c", "2");
                world.clock.sleep(3 * MINUTE).await;
            };
            let said = futures_util::future::select(changes.next(), quiet.boxed()).await;
            assert!(matches!(said, Either::Right(_)), "{left}");
            allow(rules);
            put("p/d", "1");
            let mut told = Vec::new();
            while told.last().is_none_or(|id| id != "p/d") {
                let Change::Put { id, .. } = next(&mut changes).await else { panic!("no put") };
                told.push(id);
            }
            assert_eq!(told, ["p/b", "p/c", "p/d"], "{left}");
            world.send("DELETE", &format!("/v1/kv/p/c?token={management}"), "");
            let Change::Delete { id, .. } = next(&mut changes).await else { panic!("no delete") };
            assert_eq!(id, "p/c");
        });
    }
}

/// A list with some items that a token can read: how they are made and removed, by their names, and the rule for one.
struct Listed {
    method: &'static str,
    arg: Option<&'static str>,
    /// The path and body that make an item; `{}` is its name.
    make: (&'static str, &'static str),
    /// The method, path and body that remove it, by its name or its id.
    remove: (&'static str, &'static str, &'static str),
    rule: &'static str,
}

const LISTED: &[Listed] = &[
    Listed {
        method: "kv_list",
        arg: Some("p/"),
        make: ("/v1/kv/p/{}", "1"),
        remove: ("DELETE", "/v1/kv/p/{}", ""),
        rule: r#"key "p/{}" { policy = "read" }"#,
    },
    Listed {
        method: "kv_keys",
        arg: Some("p/"),
        make: ("/v1/kv/p/{}", "1"),
        remove: ("DELETE", "/v1/kv/p/{}", ""),
        rule: r#"key "p/{}" { policy = "read" }"#,
    },
    Listed {
        method: "catalog_service",
        arg: Some("web"),
        make: (
            "/v1/catalog/register",
            r#"{"Node": "{}", "Address": "10.0.0.1", "Service": {"Service": "web"}}"#,
        ),
        remove: ("PUT", "/v1/catalog/deregister", r#"{"Node": "{}"}"#),
        rule: r#"node "{}" { policy = "read" } service "web" { policy = "read" }"#,
    },
    Listed {
        method: "session_list",
        arg: None,
        make: ("/v1/session/create", r#"{"Node": "{}", "NodeChecks": []}"#),
        remove: ("PUT", "/v1/session/destroy/{}", ""),
        rule: r#"session "{}" { policy = "read" }"#,
    },
    Listed {
        method: "catalog_services",
        arg: None,
        make: (
            "/v1/catalog/register",
            r#"{"Node": "n", "Address": "10.0.0.1", "Service": {"Service": "{}"}}"#,
        ),
        remove: ("PUT", "/v1/catalog/deregister", r#"{"Node": "n", "ServiceID": "{}"}"#),
        rule: r#"service "{}" { policy = "read" } node "n" { policy = "read" }"#,
    },
];

/// Its token does not see the item `x` from the start, so that each answer leaves something out.
#[test]
fn an_item_that_a_token_with_a_part_of_a_list_may_not_read_any_more_is_not_deleted() {
    for (listed, is_cut_off) in LISTED.iter().flat_map(|listed| [(listed, false), (listed, true)]) {
        let (world, management) = World::with_acl();
        let send = |method: &str, path: &str, body: &str| {
            let path = format!("{path}?token={management}");
            let request = Request::builder().method(method).uri(&path);
            let request = request.body(Bytes::copy_from_slice(body.as_bytes()));
            let answer = world.run(world.agent.handle(request.expect("a request")));
            assert!(answer.status().is_success(), "{path} {body}: {answer:?}");
            serde_json::from_slice::<serde_json::Value>(answer.body()).unwrap_or_default()
        };
        let make = |name: &str| {
            if listed.method == "session_list" {
                let node = format!(r#"{{"Node": "{name}", "Address": "10.0.0.1"}}"#);
                send("PUT", "/v1/catalog/register", &node);
            }
            let (path, body) = listed.make;
            let made = send("PUT", &path.replace("{}", name), &body.replace("{}", name));
            made["ID"].as_str().unwrap_or(name).to_owned()
        };
        let remove = |id: &str| {
            let (method, path, body) = listed.remove;
            send(method, &path.replace("{}", id), &body.replace("{}", id));
        };
        let [_a, b, c, _x] = ["a", "b", "c", "x"].map(make);
        let rules = |names: &[&str]| {
            names.iter().map(|name| listed.rule.replace("{}", name)).collect::<Vec<_>>().join("\n")
        };
        let client = world.client_with_rules(management, &rules(&["a", "b", "c"]));
        let allow = |names: &[&str]| world.change_rules(management, &rules(names));
        let row = endpoint(listed.method).expect("a method");
        let args = listed.arg.map_or_else(Args::new, |arg| Args::new().arg(arg));
        let changes = watch(client, row, args, WatchOptions::default()).expect("a watch");
        let mut changes: Changes = changes.boxed();
        // Its report in three minutes, which are longer than its queries wait.
        let mut said = || {
            let mut said = Vec::new();
            world.run(async {
                let mut end = world.clock.sleep(3 * MINUTE);
                while let Either::Left((change, rest)) =
                    futures_util::future::select(changes.next(), end).await
                {
                    end = rest;
                    said.push(change.expect("a watch does not end").map(|(change, _)| change));
                }
            });
            said
        };
        let what = listed.method;
        let first = said();
        assert!(matches!(&first[..], [Ok(Change::Initial(_))]), "{what}: {first:?}");
        if is_cut_off {
            world.agent.add_fault(Fault { partition: true, ..Fault::default() });
            world.agent.restart(Retained::Disk);
            let outage = said();
            assert!(matches!(&outage[..], [Err(_)]), "{what}: {outage:?}");
        }
        allow(&["a", "b"]);
        world.agent.clear_faults();
        let mut lost = said();
        if is_cut_off {
            // The whole is told again, with what is kept.
            let Ok(Change::Resynchronised(all)) = lost.remove(0) else {
                panic!("{what}: {lost:?}")
            };
            let Ok(Change::Initial(first)) = &first[0] else { panic!("{what}: {first:?}") };
            let count = |all: &Value| match all {
                Value::Map(members) => members.len(),
                list => list.items().len(),
            };
            assert_eq!(count(&all), count(first), "{what}: {all:?}");
        }
        let [Err(error)] = &lost[..] else { panic!("{what}: {lost:?}, first {first:?}") };
        assert_eq!(error.kind(), Kind::PermissionDenied, "{what}: {error}");
        let nothing = said();
        assert!(nothing.is_empty(), "{what}: {nothing:?}");
        // A deletion is reported all the same.
        remove(&b);
        let gone = said();
        let [Ok(Change::Delete { id, .. })] = &gone[..] else { panic!("{what}: {gone:?}") };
        assert!(id.contains(&b), "{what}: {id}");
        allow(&["a", "c"]);
        let nothing = said();
        assert!(nothing.is_empty(), "{what}: {nothing:?}");
        remove(&c);
        let gone = said();
        let [Ok(Change::Delete { id, .. })] = &gone[..] else { panic!("{what}: {gone:?}") };
        assert!(id.contains(&c), "{what}: {id}");
    }
}

/// How something between the client and Consul ends a wait.
#[derive(Clone, Copy, Debug)]
enum End {
    Cut,
    /// As with a `max_query_time` of 20 s.
    Early,
    Status(u16, &'static str),
}

/// The way to an agent on which each wait is ended after 20 s.
#[derive(Debug)]
struct EndsWaits {
    agent: SimTransport,
    clock: ManualClock,
    end: End,
    ended: AtomicU32,
}

impl Transport for EndsWaits {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let query = request.uri().query().unwrap_or_default();
        if !query.split('&').any(|it| it.starts_with("index=") || it.starts_with("hash=")) {
            return self.agent.send(request);
        }
        let (mut head, body) = request.into_parts();
        let earlier = head.uri.to_string().replace("wait=50s", "wait=20s");
        head.uri = earlier.parse().expect("a URL");
        Box::pin(async {
            if !matches!(self.end, End::Early) {
                self.clock.sleep(Duration::from_secs(20)).await;
            }
            self.ended.fetch_add(1, Ordering::Relaxed);
            match self.end {
                End::Early => self.agent.send(Request::from_parts(head, body)).await,
                End::Cut => Err(Error::new(Kind::Connect, "broken off")),
                End::Status(status, body) => {
                    Ok(Response::builder().status(status).body(body.into()).expect("a response"))
                }
            }
        })
    }

    fn endpoint(&self) -> &str {
        "ends waits"
    }
}

#[test]
fn a_wait_that_a_proxy_ends_is_no_change_in_any_row_that_waits() {
    const ENDS: [End; 5] = [
        End::Cut,
        End::Early,
        End::Status(504, "<html>504 Gateway Time-out</html>"),
        End::Status(408, "<html>408 Request Time-out</html>"),
        End::Status(200, "<html>The service is busy</html>"),
    ];
    let mut watched = 0;
    for row in consul_api::endpoints() {
        let waits = |name| row.all_options().any(|param| param.name == name);
        if !waits("index") && !waits("hash") {
            continue;
        }
        for end in ENDS {
            let world = World::new();
            world.put("a", "1");
            let service = r#"{"Name": "a", "ID": "a", "Check": {"TTL": "1h"}}"#;
            world.send("PUT", "/v1/agent/service/register", service);
            let agent = SimTransport::new(Arc::clone(&world.agent), "simulated");
            let (clock, ended) = (world.clock.clone(), AtomicU32::new(0));
            let transport = Arc::new(EndsWaits { agent, clock, end, ended });
            let (clock, rng) = (Arc::new(world.clock.clone()), fastrand::Rng::with_seed(1));
            let settings =
                Settings { timeout: MINUTE, retry_count: 3, defaults: Defaults::default() };
            let to = Arc::clone(&transport) as Arc<dyn Transport>;
            let client = Arc::new(Client::new(vec![to], settings, clock, rng));
            let required = row.positional.iter().filter(|param| !param.optional);
            let args = required.fold(Args::new(), |args, param| args.arg(sample(param)));
            let changes = watch(client, row, args, WatchOptions::default()).expect("a watch");
            let mut changes: Changes = changes.boxed();
            let what = format!("{} {end:?}", row.name);
            let said = world.run(async {
                if changes.next().await.expect("a watch does not end").is_err() {
                    // Without access control, a mesh or another cluster there is nothing to watch.
                    return None;
                }
                let quiet = world.clock.sleep(3 * MINUTE);
                match futures_util::future::select(changes.next(), quiet).await {
                    Either::Left((change, _)) => Some(change),
                    Either::Right(_) => Some(None),
                }
            });
            if let Some(said) = said {
                assert!(said.is_none(), "{what}: {said:?}");
                let ended = transport.ended.load(Ordering::Relaxed);
                // Without coordinates their rows have no index.
                let is_known = row.name.starts_with("coordinate_") && ended == 0;
                assert!((7..=9).contains(&ended) || is_known, "{what}: {ended} waits");
                watched += usize::from(!is_known);
            }
        }
    }
    assert!(watched >= 20 * ENDS.len(), "{watched}");
}

/// The way to an agent whose answers have this index, or none.
#[derive(Debug)]
struct OtherIndex {
    agent: SimTransport,
    index: Option<&'static str>,
    requests: AtomicU32,
}

impl Transport for OtherIndex {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Box::pin(async {
            let mut response = self.agent.send(request).await?;
            response.headers_mut().remove("x-consul-index");
            if let Some(index) = self.index {
                response.headers_mut().insert("x-consul-index", index.parse().expect("a header"));
            }
            Ok(response)
        })
    }

    fn endpoint(&self) -> &str {
        "without an index"
    }
}

#[test]
fn without_an_index_there_is_none_in_the_metadata_and_a_watch_asks_once_a_second() {
    for index in [None, Some("0"), Some(""), Some("-1"), Some("nil")] {
        let world = World::new();
        world.put("a", "1");
        let agent = SimTransport::new(Arc::clone(&world.agent), "simulated");
        let transport = Arc::new(OtherIndex { agent, index, requests: AtomicU32::new(0) });
        let (clock, rng) = (Arc::new(world.clock.clone()), fastrand::Rng::with_seed(1));
        let settings = Settings { timeout: MINUTE, retry_count: 3, defaults: Defaults::default() };
        let to = Arc::clone(&transport) as Arc<dyn Transport>;
        let client = Arc::new(Client::new(vec![to], settings, clock, rng));
        let get = endpoint("kv_get").expect("a method");
        // The loop of README ends here, since the next read would not wait.
        let answer = world.run(client.call(get, &Args::new().arg("a"))).expect("an answer");
        assert_eq!(answer.meta.index, None, "{index:?}");
        let args = Args::new().arg("a");
        let changes = watch(client, get, args, WatchOptions::default()).expect("a watch");
        let mut changes: Changes = changes.boxed();
        transport.requests.store(0, Ordering::Relaxed);
        world.run(async {
            assert_eq!(next(&mut changes).await, Change::Initial("1".into()), "{index:?}");
            let quiet = world.clock.sleep(MINUTE);
            let said = futures_util::future::select(changes.next(), quiet).await;
            assert!(matches!(said, Either::Right(_)), "{index:?}");
        });
        let requests = transport.requests.load(Ordering::Relaxed);
        assert!((50..=61).contains(&requests), "{index:?}: {requests} in a minute");
    }
}

/// With a key `a`, whose index is above those that an agent has soon after a reset.
fn with_a_large_index() -> World {
    let world = World::new();
    for _ in 0..20 {
        world.put("other", "1");
    }
    world.put("a", "1");
    world
}

#[test]
fn an_index_that_goes_back_is_a_resynchronisation() {
    let world = with_a_large_index();
    world.run(async {
        let mut key = world.watch("kv_get", Args::new().arg("a"));
        next(&mut key).await;
        let reset = async {
            // While the query waits.
            world.clock.sleep(Duration::from_secs(10)).await;
            world.agent.reset();
            world.put("a", "2");
            world.clock.now()
        };
        let (change, reset) = futures_util::join!(next(&mut key), reset);
        assert_eq!(change, Change::Resynchronised("2".into()));
        assert!(world.clock.now() - reset < Duration::from_millis(100));
        world.put("a", "3");
        assert_eq!(next(&mut key).await, Change::Put { id: String::new(), value: "3".into() });
    });
}

#[test]
fn an_index_that_goes_back_in_an_answer_is_a_resynchronisation() {
    // Another value, and the same one, which was written again.
    for value in ["2", "1"] {
        let world = with_a_large_index();
        world.run(async {
            let mut key = world.watch("kv_get", Args::new().arg("a"));
            next(&mut key).await;
            // Between two queries, so that none breaks off: the next one waits for an index that is far.
            world.agent.reset();
            world.put("a", value);
            let reset = world.clock.now();
            assert_eq!(next(&mut key).await, Change::Resynchronised(value.into()));
            assert!(world.clock.now() - reset >= WatchOptions::default().wait);
            world.put("a", "3");
            assert_eq!(next(&mut key).await, Change::Put { id: String::new(), value: "3".into() });
        });
    }
}

#[test]
fn events_come_one_by_one_and_cost_no_queries_between() {
    let world = World::new();
    world.run(async {
        world.send("PUT", "/v1/event/fire/deploy", "1");
        let mut events = world.watch(event::LIST.name, Args::new());
        let (_, meta) = events.next().await.expect("a watch does not end").expect("no outage");
        assert!(meta.index.expect("an index") > 1 << 53);
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
fn an_endpoint_without_blocking_queries_cannot_be_watched() {
    let world = World::new();
    let refused = |method: &str, args: Args| {
        let endpoint = endpoint(method).expect("a method");
        let made = watch(world.client(), endpoint, args, WatchOptions::default()).map(|_| ());
        made.expect_err("a refusal").message().to_owned()
    };
    assert!(refused("kv_put", Args::new().arg("a").arg("1")).contains("no blocking queries"));
    assert!(refused("kv_get", Args::new().arg("a").opt("index", 1)).contains("index"));
    assert!(refused("kv_get", Args::new().arg("a").opt("retry", true)).contains("retry"));
    assert!(refused("kv_get", Args::new().arg("//a")).contains("//a"));
    let refused = |options: WatchOptions| {
        let endpoint = endpoint("kv_get").expect("a method");
        let made = watch(world.client(), endpoint, Args::new().arg("a"), options);
        made.map(|_| ()).expect_err("a refusal").message().to_owned()
    };
    for rate_per_s in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE] {
        let options = WatchOptions { rate_per_s, ..WatchOptions::default() };
        assert!(refused(options).contains("rate_per_s"), "{rate_per_s}");
    }
    for wait_s in [0, 601] {
        let wait = Duration::from_secs(wait_s);
        let options = WatchOptions { wait, ..WatchOptions::default() };
        assert!(refused(options).contains("wait"), "{wait_s}");
    }
}

type Changed = fn(u32, Response<Bytes>) -> Response<Bytes>;

/// The way to an agent on which the answers to some queries are others.
#[derive(Debug)]
struct Answers {
    agent: SimTransport,
    /// The number of a query, from 1 on, and what is made of its answer.
    changed: Changed,
    queries: AtomicU32,
    targets: Mutex<Vec<String>>,
}

impl Transport for Answers {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let number = self.queries.fetch_add(1, Ordering::Relaxed) + 1;
        self.targets.lock().expect("no panic").push(request.uri().to_string());
        Box::pin(async move { Ok((self.changed)(number, self.agent.send(request).await?)) })
    }

    fn endpoint(&self) -> &str {
        "answers"
    }
}

impl World {
    fn watch_through(&self, method: &str, args: Args, changed: Changed) -> (Changes, Arc<Answers>) {
        let agent = SimTransport::new(Arc::clone(&self.agent), "simulated");
        let transport = Arc::new(Answers {
            agent,
            changed,
            queries: AtomicU32::new(0),
            targets: Mutex::default(),
        });
        let (clock, rng) = (Arc::new(self.clock.clone()), fastrand::Rng::with_seed(1));
        let settings = Settings { timeout: MINUTE, retry_count: 0, defaults: Defaults::default() };
        let to = Arc::clone(&transport) as Arc<dyn Transport>;
        let client = Arc::new(Client::new(vec![to], settings, clock, rng));
        let row = endpoint(method).expect("a method");
        let changes = watch(client, row, args, WatchOptions::default()).expect("a watch");
        (changes.boxed(), transport)
    }

    /// The reports of a watch within this time.
    fn said_within(&self, changes: &mut Changes, time: Duration) -> Vec<Change> {
        let mut said = Vec::new();
        self.run(async {
            let mut end = self.clock.sleep(time);
            while let Either::Left((change, rest)) =
                futures_util::future::select(changes.next(), end).await
            {
                end = rest;
                said.push(change.expect("a watch does not end").expect("no outage").0);
            }
        });
        said
    }
}

fn with_index(mut response: Response<Bytes>, change: impl Fn(u64) -> u64) -> Response<Bytes> {
    let index =
        response.headers().get("x-consul-index").and_then(|it| it.to_str().ok()?.parse().ok());
    let index = change(index.unwrap_or_default()).to_string();
    response.headers_mut().insert("x-consul-index", index.parse().expect("a number"));
    response
}

/// One of two agents behind a balancer was restarted and lacks the older events.
#[test]
fn an_event_that_another_server_does_not_list_is_not_reported_again() {
    let world = World::new();
    for step in 0..8 {
        world.send("PUT", "/v1/event/fire/deploy", &step.to_string());
    }
    let half = |number, response: Response<Bytes>| {
        let (parts, body) = response.into_parts();
        let events: Vec<serde_json::Value> = serde_json::from_slice(&body).expect("events");
        let left = if number % 2 == 0 { 4.min(events.len()) } else { 0 };
        let body = serde_json::to_vec(&events[left..]).expect("JSON").into();
        with_index(Response::from_parts(parts, body), |index| index + u64::from(number))
    };
    let (mut changes, _) = world.watch_through("event_list", Args::new(), half);
    let first = world.said_within(&mut changes, MINUTE);
    assert!(matches!(&first[..], [Change::Initial(all)] if all.items().len() == 8), "{first:?}");
    world.send("PUT", "/v1/event/fire/deploy", "new");
    let news = world.said_within(&mut changes, MINUTE);
    assert!(matches!(&news[..], [Change::Put { .. }]), "{news:?}");
}

#[test]
fn an_answer_of_a_server_that_is_behind_is_not_told_if_it_has_the_same_value() {
    for (method, key) in [("kv_get", "a"), ("kv_list", "a"), ("kv_keys", "a")] {
        let world = World::new();
        world.put("a", "1");
        world.put("b", "1");
        let behind = |number, response| with_index(response, |it| it + 9 - u64::from(number % 9));
        let (mut changes, _) = world.watch_through(method, Args::new().arg(key), behind);
        let said = world.said_within(&mut changes, 10 * MINUTE);
        assert!(matches!(&said[..], [Change::Initial(_)]), "{method}: {said:?}");
    }
}

/// Another cluster's, which has none of it, and an index far above this one's.
#[test]
fn one_answer_that_there_is_nothing_is_asked_again_and_its_index_blocks_nothing() {
    fn nothing() -> Response<Bytes> {
        let response = Response::builder().header("x-consul-index", "999999");
        response.body(Bytes::from("[]")).expect("a response")
    }
    let once: Changed = |number, response| if number == 2 { nothing() } else { response };
    let twice: Changed = |number, response| match number {
        2 | 3 => nothing(),
        _ => response,
    };
    for (answers, told) in [(once, 0), (twice, 1)] {
        let world = World::new();
        let (mut changes, _) = world.watch_through("catalog_nodes", Args::new(), answers);
        // Its first wait has ended, and one of a second more.
        let said = world.said_within(&mut changes, MINUTE);
        let deleted = said.iter().filter(|it| matches!(it, Change::Delete { .. })).count();
        assert_eq!(deleted, told, "{said:?}");
        if told == 1 {
            let [Change::Initial(_), Change::Delete { .. }, back] = &said[..] else {
                panic!("{said:?}")
            };
            let is_back = matches!(back, Change::Resynchronised(_) | Change::Put { .. });
            assert!(is_back, "{back:?}");
        }
    }
}

/// As a late copy of the answer to another call does, or the answer of a server that is behind.
#[test]
fn one_answer_without_a_part_of_a_list_deletes_nothing() {
    fn without_last(response: Response<Bytes>) -> Response<Bytes> {
        let mut body: serde_json::Value =
            serde_json::from_slice(response.body()).expect("an answer");
        match &mut body {
            serde_json::Value::Array(items) => drop(items.pop()),
            serde_json::Value::Object(members) => {
                let last = members.keys().next_back().expect("a member").clone();
                members.remove(&last);
            }
            other => panic!("{other}"),
        }
        response.map(|_| Bytes::from(body.to_string()))
    }
    /// As many items, and one of them is another.
    fn with_another(response: Response<Bytes>) -> Response<Bytes> {
        let text = String::from_utf8_lossy(response.body()).into_owned();
        let text = text.replace("a/3", "a/9").replace("\"web\"", "\"wob\"");
        response.map(|_| Bytes::from(text.replace("service:web", "service:wob")))
    }
    let first: Changed = |number, it| if number == 2 { without_last(it) } else { it };
    let later: Changed = |number, it| if number == 3 { without_last(it) } else { it };
    let another: Changed = |number, it| if number == 3 { with_another(it) } else { it };
    for (method, args) in [
        ("kv_list", Args::new().arg("a/")),
        ("kv_keys", Args::new().arg("a/")),
        ("catalog_services", Args::new()),
        ("health_state", Args::new().arg("any")),
    ] {
        for (answers, lacking) in [(first, 2), (later, 3), (another, 3)] {
            let world = World::new();
            for key in ["a/1", "a/2", "a/3"] {
                world.put(key, "1");
            }
            for name in ["web", "db"] {
                let service = format!(r#"{{"Name": "{name}", "Check": {{"TTL": "90m"}}}}"#);
                world.send("PUT", "/v1/agent/service/register", &service);
            }
            let (mut changes, transport) = world.watch_through(method, args.clone(), answers);
            let said = world.said_within(&mut changes, 5 * MINUTE);
            assert!(matches!(&said[..], [Change::Initial(_)]), "{method}: {said:?}");
            // No cache has an answer for the second look.
            let targets = transport.targets.lock().expect("no panic");
            assert!(!targets[..lacking].contains(&targets[lacking]), "{method}: {targets:?}");
        }
    }
}

/// Of a restored snapshot, for example: what there was before does not show that an item is only hidden.
#[test]
fn an_item_that_is_gone_when_the_index_has_gone_back_is_not_kept_as_hidden() {
    let changed: Changed = |number, mut response| {
        let body = match number {
            1 => r#"["a/1","a/2"]"#,
            _ => {
                let name = "x-consul-results-filtered-by-acls";
                response.headers_mut().insert(name, "true".parse().expect("a header"));
                r#"["a/1"]"#
            }
        };
        let back = if number == 1 { 100 } else { 0 };
        with_index(response, |it| it + back).map(|_| Bytes::from(body))
    };
    let world = World::new();
    world.put("a/1", "1");
    let (mut changes, _) = world.watch_through("kv_keys", Args::new().arg("a/"), changed);
    let said = world.said_within(&mut changes, 3 * MINUTE);
    let left = Value::List(vec!["a/1".into()]);
    assert_eq!(said.get(1..), Some(&[Change::Resynchronised(left)][..]), "{said:?}");
}

#[test]
fn a_deletion_is_told_although_the_second_answer_is_of_a_server_that_is_behind() {
    let behind: Changed = |number, response| match number {
        3 => {
            let mut body: serde_json::Value =
                serde_json::from_slice(response.body()).expect("an answer");
            body.as_array_mut().expect("keys").push("a/2".into());
            with_index(response, |it| it - 2).map(|_| Bytes::from(body.to_string()))
        }
        _ => response,
    };
    let world = World::new();
    world.put("a/1", "1");
    world.put("a/2", "1");
    let (mut changes, transport) = world.watch_through("kv_keys", Args::new().arg("a/"), behind);
    world.run(async {
        next(&mut changes).await;
        world.send("DELETE", "/v1/kv/a/2", "");
        let Change::Delete { id, .. } = next(&mut changes).await else { panic!("no deletion") };
        assert_eq!((id.as_str(), transport.queries.load(Ordering::Relaxed)), ("a/2", 5));
    });
}

/// The way to an agent, and from 10 s to 15 s to another one, which has nothing, and a higher index with each answer.
#[derive(Debug)]
struct Balanced {
    agent: SimTransport,
    clock: ManualClock,
    begun: Instant,
}

impl Transport for Balanced {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let elapsed = self.clock.now() - self.begun;
        if !(Duration::from_secs(10)..Duration::from_secs(15)).contains(&elapsed) {
            return self.agent.send(request);
        }
        let index = (999_000 + elapsed.as_millis()).to_string();
        let response = Response::builder().status(404).header("x-consul-index", index);
        let response = response.body(Bytes::new());
        std::future::ready(Ok(response.expect("a response"))).boxed()
    }

    fn endpoint(&self) -> &str {
        "balanced"
    }
}

#[test]
fn the_index_of_another_server_holds_up_a_watch_for_a_second() {
    let world = World::new();
    let agent = SimTransport::new(Arc::clone(&world.agent), "simulated");
    let transport = Balanced { agent, clock: world.clock.clone(), begun: world.clock.now() };
    let (clock, rng) = (Arc::new(world.clock.clone()), fastrand::Rng::with_seed(1));
    let settings = Settings { timeout: MINUTE, retry_count: 0, defaults: Defaults::default() };
    let client = Arc::new(Client::new(vec![Arc::new(transport)], settings, clock, rng));
    world.put("a", "1");
    let row = endpoint("kv_list").expect("a method");
    let changes = watch(client, row, Args::new().arg("a"), WatchOptions::default());
    let mut changes: Changes = changes.expect("a watch").boxed();
    let first = world.said_within(&mut changes, Duration::from_secs(11));
    assert!(matches!(&first[..], [Change::Initial(_)]), "{first:?}");
    // It ends the wait.
    world.put("a", "2");
    let gone = world.said_within(&mut changes, Duration::from_secs(4));
    assert!(matches!(gone.last(), Some(Change::Delete { .. })), "{gone:?}");
    let back = world.said_within(&mut changes, Duration::from_millis(1500));
    assert!(
        matches!(back.last(), Some(Change::Resynchronised(_) | Change::Put { .. })),
        "{back:?}"
    );
}

#[test]
fn nothing_of_a_server_that_knows_no_leader_is_an_outage() {
    let leaderless: fn(u32, Response<Bytes>) -> Response<Bytes> = |number, response| match number {
        2..6 => {
            let response = Response::builder().header("x-consul-index", "1");
            let response = response.header("x-consul-knownleader", "false");
            response.body(Bytes::from("[]")).expect("a response")
        }
        _ => response,
    };
    for method in ["catalog_nodes", "health_state"] {
        let world = World::new();
        let args = if method == "health_state" { Args::new().arg("any") } else { Args::new() };
        let (mut changes, _) = world.watch_through(method, args, leaderless);
        let mut said = Vec::new();
        world.run(async {
            let mut end = world.clock.sleep(5 * MINUTE);
            while let Either::Left((change, rest)) =
                futures_util::future::select(changes.next(), end).await
            {
                end = rest;
                said.push(change.expect("a watch does not end").map(|(change, _)| change));
            }
        });
        let is_lost = |it: &Result<Change, Error>| match it {
            Ok(Change::Delete { .. }) => true,
            Ok(Change::Resynchronised(value)) => value.items().is_empty(),
            _ => false,
        };
        assert!(!said.iter().any(is_lost), "{method}: {said:?}");
        assert!(
            said.iter().any(|it| it.as_ref().is_err_and(|it| it.kind() == Kind::NoLeader)),
            "{said:?}"
        );
    }
}

fn is_loss(change: &Change) -> bool {
    match change {
        Change::Delete { .. } => true,
        Change::Resynchronised(value) => value.items().len() < 3,
        _ => false,
    }
}

fn three_keys() -> World {
    let world = World::new();
    for key in ["a/1", "a/2", "a/3"] {
        world.put(key, "1");
    }
    world
}

fn no_key(index: &str) -> Response<Bytes> {
    let response = Response::builder().status(404).header("x-consul-index", index);
    response.body(Bytes::new()).expect("a response")
}

/// Consul was restored from a snapshot: its indexes are lower. An answer that there is nothing comes before the right ones.
#[test]
fn one_answer_that_there_is_nothing_before_lower_indexes_deletes_nothing() {
    let low: Changed = |number, it| match number {
        1 => with_index(it, |index| index + 1000),
        2 => no_key("12"),
        _ => it,
    };
    let high: Changed = |number, it| match number {
        1 => with_index(it, |index| index + 1000),
        2 => no_key("5000"),
        _ => it,
    };
    let twice: Changed = |number, it| match number {
        1 => with_index(it, |index| index + 1000),
        2 | 4 => no_key("5000"),
        _ => it,
    };
    for (place, answers) in [low, high, twice].into_iter().enumerate() {
        for method in ["kv_list", "kv_keys"] {
            let world = three_keys();
            let (mut changes, _) = world.watch_through(method, Args::new().arg("a/"), answers);
            let mut said = world.said_within(&mut changes, MINUTE);
            assert!(!said.iter().any(is_loss), "{method} {place}: {said:?}");
            world.put("a/4", "1");
            said.extend(world.said_within(&mut changes, MINUTE));
            assert!(!said.iter().any(is_loss), "{method} {place}: {said:?}");
            let is_new = |it: &Change| match it {
                Change::Put { id, .. } => id == "a/4",
                Change::Resynchronised(all) => all.items().len() == 4,
                _ => false,
            };
            assert!(said.iter().any(is_new), "{method} {place}: {said:?}");
        }
    }
}

/// A query that waits returns with what it has found before, and a write makes the index higher than it ever was.
#[test]
fn a_restored_snapshot_is_told_at_once_and_as_one() {
    for write in [None, Some("b/1"), Some("a/1"), Some("a/5")] {
        for method in ["kv_list", "kv_keys"] {
            let world = three_keys();
            let snapshot = world.agent.back_up();
            world.put("a/4", "1");
            let args = Args::new().arg("a/");
            let mut changes = world.watch(method, args);
            world.said_within(&mut changes, Duration::from_secs(1));
            world.agent.restore_snapshot(&snapshot);
            if let Some(key) = write {
                world.put(key, "2");
            }
            let said = world.said_within(&mut changes, Duration::from_secs(1));
            let [Change::Resynchronised(all)] = &said[..] else {
                panic!("{method} {write:?}: {said:?}")
            };
            let count = if write == Some("a/5") { 4 } else { 3 };
            assert_eq!(all.items().len(), count, "{method} {write:?}");
        }
    }
}

/// The first answer lacks what was deleted, the second one all of it, or another part.
#[test]
fn what_only_the_second_of_two_answers_lacks_is_not_deleted() {
    let all: Changed = |number, it| if number == 3 { no_key("999999") } else { it };
    let another: Changed = |number, it| match number {
        3 => it.map(|_| Bytes::from(r#"["a/1"]"#)),
        _ => it,
    };
    for (place, answers) in [all, another].into_iter().enumerate() {
        let world = three_keys();
        let (mut changes, _) = world.watch_through("kv_keys", Args::new().arg("a/"), answers);
        let first = world.said_within(&mut changes, Duration::from_secs(1));
        assert!(matches!(&first[..], [Change::Initial(_)]), "{place}: {first:?}");
        world.send("DELETE", "/v1/kv/a/3", "");
        let said = world.said_within(&mut changes, MINUTE);
        let Some(Change::Delete { id, .. }) = said.first() else { panic!("{place}: {said:?}") };
        assert_eq!((id.as_str(), said.len()), ("a/3", 1), "{place}: {said:?}");
    }
}

/// An item that is another's in the place of one of the list.
#[test]
fn one_answer_with_other_items_deletes_none() {
    let answers: Changed = |number, it| match number {
        2 => it.map(|_| Bytes::from(r#"["a/7","a/8","a/9"]"#)),
        _ => it,
    };
    let world = three_keys();
    let (mut changes, _) = world.watch_through("kv_keys", Args::new().arg("a/"), answers);
    let said = world.said_within(&mut changes, 5 * MINUTE);
    assert!(matches!(&said[..], [Change::Initial(_)]), "{said:?}");
}

/// Servers that contradict each other forever: neither is believed, which is reported.
#[test]
fn answers_that_contradict_each_other_are_an_outage() {
    let answers: Changed = |number, it| match number {
        1 => it,
        odd if odd % 2 == 1 => it.map(|_| Bytes::from(r#"["a/1"]"#)),
        _ => it.map(|_| Bytes::from(r#"["a/2"]"#)),
    };
    let world = three_keys();
    let (mut changes, _) = world.watch_through("kv_keys", Args::new().arg("a/"), answers);
    world.run(async {
        assert!(matches!(next(&mut changes).await, Change::Initial(_)));
        let error = changes.next().await.expect("no end").expect_err("no two agree");
        assert_eq!(error.kind(), Kind::NoLeader, "{error}");
        assert!(error.message().contains("contradict each other"), "{error}");
    });
}

/// As answers of a server that the others have left behind, with stale reads.
#[test]
fn a_part_that_a_server_without_a_leader_lacks_is_not_deleted() {
    let answers: Changed = |number, mut it| {
        if (2..8).contains(&number) {
            it.headers_mut().insert("x-consul-knownleader", "false".parse().expect("a header"));
            return it.map(|_| Bytes::from(r#"["a/1"]"#));
        }
        it
    };
    let world = three_keys();
    let args = Args::new().arg("a/").opt("stale", true);
    let (mut changes, _) = world.watch_through("kv_keys", args, answers);
    world.run(async {
        assert!(matches!(next(&mut changes).await, Change::Initial(_)));
        let error = changes.next().await.expect("no end").expect_err("it is not believed");
        assert_eq!(error.kind(), Kind::NoLeader, "{error}");
        let Change::Resynchronised(all) = next(&mut changes).await else { panic!("no value") };
        assert_eq!(all.items().len(), 3);
    });
}

/// The way to an agent through a cache of 60 s, whose key is the URL, and which marks nothing.
#[derive(Debug)]
struct UrlCache {
    agent: SimTransport,
    clock: ManualClock,
    kept: Mutex<BTreeMap<String, (Instant, Response<Bytes>)>>,
    requests: AtomicU32,
}

impl UrlCache {
    fn before(world: &World) -> (Arc<UrlCache>, Arc<Client>) {
        let agent = SimTransport::new(Arc::clone(&world.agent), "simulated");
        let (clock, kept) = (world.clock.clone(), Mutex::default());
        let cache = Arc::new(UrlCache { agent, clock, kept, requests: AtomicU32::new(0) });
        let (clock, rng) = (Arc::new(world.clock.clone()), fastrand::Rng::with_seed(1));
        let settings = Settings { timeout: MINUTE, retry_count: 0, defaults: Defaults::default() };
        let to = Arc::clone(&cache) as Arc<dyn Transport>;
        (cache, Arc::new(Client::new(vec![to], settings, clock, rng)))
    }
}

impl Transport for UrlCache {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let url = request.uri().to_string();
        let kept = self.kept.lock().expect("no panic").get(&url).cloned();
        if let Some((_, kept)) = kept.filter(|(at, _)| self.clock.now() - *at < MINUTE) {
            return std::future::ready(Ok(kept)).boxed();
        }
        Box::pin(async move {
            let answer = self.agent.send(request).await?;
            let now = self.clock.now();
            if answer.status().is_success() {
                self.kept.lock().expect("no panic").insert(url, (now, answer.clone()));
            }
            Ok(answer)
        })
    }

    fn endpoint(&self) -> &str {
        "cache"
    }
}

#[test]
fn behind_a_cache_that_marks_nothing_a_change_is_seen_at_once_and_nothing_spins() {
    let world = three_keys();
    let (cache, client) = UrlCache::before(&world);
    let watched = |client: &Arc<Client>, method| {
        let row = endpoint(method).expect("a method");
        let options = WatchOptions { wait: Duration::from_secs(5), ..WatchOptions::default() };
        watch(Arc::clone(client), row, Args::new().arg("a/"), options).expect("a watch").boxed()
    };
    let mut changes: Changes = watched(&client, "kv_list");
    let first = world.said_within(&mut changes, Duration::from_secs(20));
    assert!(matches!(&first[..], [Change::Initial(_)]), "{first:?}");
    for value in ["2", "3", "2"] {
        world.put("a/1", value);
        let said = world.said_within(&mut changes, Duration::from_secs(1));
        assert!(matches!(&said[..], [Change::Put { .. }]), "{value}: {said:?}");
    }
    world.send("DELETE", "/v1/kv/a/3", "");
    let said = world.said_within(&mut changes, Duration::from_secs(1));
    assert!(matches!(&said[..], [Change::Delete { .. }]), "{said:?}");
    let before = cache.requests.load(Ordering::Relaxed);
    let said = world.said_within(&mut changes, MINUTE);
    assert!(said.is_empty(), "{said:?}");
    let requests = cache.requests.load(Ordering::Relaxed) - before;
    assert!(requests <= 13, "{requests} in a minute of waits of 5 s");
}

#[test]
fn behind_a_cache_that_marks_nothing_views_follow_within_two_seconds() {
    let world = World::new();
    let (_, client) = UrlCache::before(&world);
    let register = |id: &str| {
        let service =
            format!(r#"{{"Name": "web", "ID": "{id}", "Address": "10.0.0.1", "Port": 80}}"#);
        world.send("PUT", "/v1/agent/service/register", &service);
    };
    register("w1");
    let (one, answers) =
        view(Arc::clone(&client), Args::new().arg("web"), EMPTY_HOLD).expect("a view");
    world.clock.spawn(answers.for_each(|()| async {}));
    let wanted = Wanted::Named(vec!["web".to_owned()]);
    let (all, news) = views(client, wanted, EMPTY_HOLD).expect("views");
    world.clock.spawn(news.for_each(|()| async {}));
    let then = |count: usize| {
        world.run(world.clock.sleep(Duration::from_secs(2)));
        let of_many = all.view("web").expect("a view").all().expect("a list");
        let counts = [one.all().expect("a list").instances().len(), of_many.instances().len()];
        assert_eq!(counts, [count; 2]);
    };
    then(1);
    register("w2");
    then(2);
    for (id, left) in [("w1", 1), ("w2", 0)] {
        world.send("PUT", &format!("/v1/agent/service/deregister/{id}"), "");
        then(left);
    }
}
