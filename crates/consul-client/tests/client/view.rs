//! Service views on the simulated agent, on a clock that the tests advance.

use crate::support::world::World;
use bytes::Bytes;
use consul_api::api::{acl, kv};
use consul_api::error::{Error, Kind};
use consul_api::request::{Args, Defaults};
use consul_api::value::Value;
use consul_client::transport::Transport;
use consul_client::view::{EMPTY_HOLD, View, view};
use consul_client::views::{Wanted, views};
use consul_client::watch::{WatchOptions, watch};
use consul_client::{Client, Settings};
use consul_process::clock::{BoxFuture, Clock, Instant, ManualClock};
use consul_sim::{Fault, Retained, SimTransport};
use futures_util::StreamExt;
use http::{Request, Response};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A view that is kept current while the clock advances.
fn view_of(client: &Arc<Client>, args: Args, empty_hold: Duration) -> Arc<View> {
    let (view, answers) = view(Arc::clone(client), args, empty_hold).expect("a view");
    let clock = client.clock().as_manual().expect("a manual clock");
    clock.spawn(answers.for_each(|()| async {}));
    view
}

/// A client with this transport, without retries.
fn client_over(world: &World, transport: Arc<dyn Transport>) -> Arc<Client> {
    let settings = Settings { timeout: SECOND, retry_count: 0, defaults: Defaults::default() };
    let clock: Arc<dyn Clock> = Arc::new(world.clock.clone());
    Arc::new(Client::new(vec![transport], settings, clock, fastrand::Rng::with_seed(1)))
}

/// A view of the service `web`, alone or as one of many.
fn view_over(world: &World, client: Arc<Client>, is_of_many: bool) -> Arc<View> {
    if !is_of_many {
        return view_of(&client, Args::new().arg("web"), EMPTY_HOLD);
    }
    view_of_many(world, client)
}

fn view_of_many(world: &World, client: Arc<Client>) -> Arc<View> {
    let wanted = Wanted::Named(vec!["web".into()]);
    let (all, news) = views(client, wanted, EMPTY_HOLD).expect("views");
    let told = Arc::clone(&all);
    world.clock.spawn(news.for_each(move |()| {
        told.were_told();
        async {}
    }));
    world.pass(SECOND * 2);
    all.view("web").expect("a view")
}

impl World {
    fn view(&self) -> Arc<View> {
        view_of(&self.client(), Args::new().arg("web"), EMPTY_HOLD)
    }

    /// Registers an instance with a check that passes for an hour.
    fn register(&self, id: &str, weights: &str) {
        let definition = format!(
            r#"{{"Name": "web", "ID": "{id}", "Address": "10.0.0.1", "Port": 80, "Weights": {weights},
                "Check": {{"TTL": "1h", "Status": "passing"}}}}"#
        );
        self.send("PUT", "/v1/agent/service/register", &definition);
    }

    fn check(&self, verdict: &str, id: &str) {
        self.send("PUT", &format!("/v1/agent/check/{verdict}/service:{id}"), "");
    }

    fn deregister(&self, id: &str) {
        self.send("PUT", &format!("/v1/agent/service/deregister/{id}"), "");
    }

    /// Lets time pass.
    fn pass(&self, duration: Duration) {
        self.run(self.clock.sleep(duration));
    }
}

const EVEN: &str = r#"{"Passing": 1, "Warning": 1}"#;
const SECOND: Duration = Duration::from_secs(1);

/// The instances and their weights: `w1:1 w2:5`.
fn shown(view: &View) -> String {
    let list = view.all().expect("a list");
    let one = |one: &consul_client::view::Instance| format!("{}:{}", one.id, one.weight);
    list.instances().iter().map(one).collect::<Vec<_>>().join(" ")
}

fn picks(view: &View, count: usize) -> BTreeMap<String, usize> {
    let mut picks = BTreeMap::new();
    for _ in 0..count {
        *picks.entry(view.pick().expect("a pick").instance().id.clone()).or_default() += 1;
    }
    picks
}

#[test]
fn it_follows_whatever_happens_to_instances_within_a_second() {
    let world = World::new();
    let view = world.view();
    let then = |wanted: &str| {
        world.pass(SECOND);
        assert_eq!(shown(&view), wanted);
    };
    then("");
    world.register("w1", EVEN);
    then("w1:1");
    world.register("w2", r#"{"Passing": 5, "Warning": 2}"#);
    then("w1:1 w2:5");
    world.check("fail", "w1");
    then("w2:5");
    world.check("warn", "w2");
    then("w2:2");
    world.check("pass", "w1");
    world.check("pass", "w2");
    then("w1:1 w2:5");
    world.register("w1", r#"{"Passing": 7, "Warning": 1}"#);
    then("w1:7 w2:5");
    world.deregister("w2");
    then("w1:7");
    // Without an outage before, an empty answer is accepted.
    world.deregister("w1");
    then("");
}

#[test]
fn an_empty_view_says_that_acls_hide_its_instances() {
    let (world, management) = World::with_acl();
    let client = world.client_with_rules(management, "");
    let view = view_of(&client, Args::new().arg("web"), EMPTY_HOLD);
    let owner = world.client_with_rules(management, r#"service "web" { policy = "write" }"#);
    let definition = Value::Map(vec![("Name".to_owned(), "web".into())]);
    world.run(async {
        let register = &consul_api::api::agent::SERVICE_REGISTER;
        owner.call(register, &Args::new().arg(definition)).await.expect("it may write");
    });
    // Streamed answers do not report it.
    for _ in 0..3 {
        world.pass(Duration::from_secs(15));
        for error in [view.pick().unwrap_err(), view.pick_by(b"key").unwrap_err()] {
            assert_eq!(error.kind(), Kind::NotFound);
            assert!(error.message().contains("instances are hidden by ACLs"), "{error}");
        }
    }
}

/// Consul ends its stream; its next answers are refusals.
#[test]
fn a_view_whose_token_is_deleted_keeps_its_list() {
    for is_streamed in [true, false] {
        let (world, management) = World::with_acl();
        let rules = r#"service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }"#;
        let client = world.client_with_rules(management, rules);
        let args = Args::new().arg("web");
        let args = if is_streamed { args } else { args.opt("consistent", true) };
        let one = view_of(&client, args, EMPTY_HOLD);
        let (all, news) = views(Arc::clone(&client), Wanted::Named(vec!["web".into()]), EMPTY_HOLD)
            .expect("views");
        let told = Arc::clone(&all);
        world.clock.spawn(news.for_each(move |()| {
            told.were_told();
            async {}
        }));
        let definition = Value::Map(vec![
            ("Name".to_owned(), "web".into()),
            ("Address".to_owned(), "10.0.0.1".into()),
        ]);
        let accessor = world.run(async {
            let register = &consul_api::api::agent::SERVICE_REGISTER;
            client.call(register, &Args::new().arg(definition)).await.expect("it may write");
            let own = client.call(&acl::TOKEN_SELF, &Args::new()).await.expect("a token");
            own.value.get("AccessorID").cloned().expect("an id")
        });
        world.pass(SECOND * 30);
        assert_eq!(shown(&one), "web:1");
        world.run(async {
            let args = Args::new().arg(accessor).opt("token", management);
            client.call(&acl::TOKEN_DELETE, &args).await.expect("it is deleted");
        });
        world.pass(SECOND * 120);
        assert_eq!(shown(&one), "web:1", "{is_streamed}");
        assert!(one.age().expect("a list") > SECOND * 60, "{:?}", one.age());
        let view = all.view("web").expect("a view");
        assert_eq!(shown(&view), "web:1", "{is_streamed}");
        assert!(view.age().expect("a list") > SECOND * 60, "{:?}", view.age());
    }
}

/// Of a cache, or of an agent that has just started: the next answer contradicts it.
#[test]
fn one_empty_answer_empties_no_view() {
    for lasts_ms in [0, 250] {
        empty_answers_empty_no_view(Duration::from_millis(lasts_ms));
    }
}

fn empty_answers_empty_no_view(lasts: Duration) {
    let world = World::new();
    world.register("w1", EVEN);
    let once = Arc::new(EmptyOnce {
        consul: SimTransport::new(Arc::clone(&world.agent), "simulated"),
        clock: world.clock.clone(),
        is_due: AtomicBool::new(false),
        lasts,
        ends: Mutex::default(),
    });
    let client = client_over(&world, Arc::clone(&once) as _);
    let view = view_of(&client, Args::new().arg("web"), EMPTY_HOLD);
    world.pass(SECOND);
    for _ in 0..20 {
        once.is_due.store(true, Relaxed);
        while once.is_due.load(Relaxed) {
            world.pass(SECOND / 10);
            assert_eq!(shown(&view), "w1:1");
        }
        // The answer to the second query.
        world.pass(SECOND);
        assert_eq!(shown(&view), "w1:1");
    }
    world.deregister("w1");
    // A wrong index delays it, and what follows an outage is held.
    world.pass(SECOND * 120);
    assert_eq!(shown(&view), "");
}

/// The list stays, and its age grows, until the second query is answered.
#[test]
fn a_last_instance_stays_until_its_end_is_verified() {
    for is_of_many in [false, true] {
        let world = World::new();
        world.register("w1", EVEN);
        let flaky = Arc::new(Flaky {
            consul: SimTransport::new(Arc::clone(&world.agent), "simulated"),
            answers: AtomicUsize::new(usize::MAX),
        });
        let client = client_over(&world, Arc::clone(&flaky) as _);
        let view = view_over(&world, client, is_of_many);
        world.pass(SECOND * 2);
        assert_eq!(shown(&view), "w1:1");
        // Many are read by queries that do not wait.
        flaky.answers.store(usize::from(is_of_many), Relaxed);
        world.deregister("w1");
        world.pass(SECOND * 60);
        assert_eq!(shown(&view), "w1:1", "{is_of_many}");
        assert!(view.age().expect("a list") > SECOND * 50, "{is_of_many}: {:?}", view.age());
        flaky.answers.store(usize::MAX, Relaxed);
        // The list after an outage is held.
        world.pass(SECOND * 120);
        assert_eq!(shown(&view), "", "{is_of_many}");
    }
}

/// A cache that marks nothing, and keeps each answer to a query that does not wait.
#[derive(Debug)]
struct Cache {
    consul: SimTransport,
    kept: Mutex<BTreeMap<String, Response<Bytes>>>,
}

impl Transport for Cache {
    fn endpoint(&self) -> &str {
        "cache"
    }

    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let target = request.uri().to_string();
        if target.contains("index=") {
            return self.consul.send(request);
        }
        Box::pin(async move {
            let kept = self.kept.lock().expect("no panic").get(&target).cloned();
            let answer = match kept {
                Some(answer) => answer,
                None => self.consul.send(request).await?,
            };
            self.kept.lock().expect("no panic").insert(target, answer.clone());
            Ok(answer)
        })
    }
}

#[test]
fn behind_a_cache_that_marks_nothing_a_view_follows_its_service() {
    for is_of_many in [false, true] {
        let world = World::new();
        world.register("w1", EVEN);
        let consul = SimTransport::new(Arc::clone(&world.agent), "simulated");
        let cache = Cache { consul, kept: Mutex::default() };
        let view = view_over(&world, client_over(&world, Arc::new(cache)), is_of_many);
        world.pass(SECOND * 2);
        assert_eq!(shown(&view), "w1:1", "{is_of_many}");
        world.register("w2", EVEN);
        world.pass(SECOND * 2);
        assert_eq!(shown(&view), "w1:1 w2:1", "{is_of_many}");
        ["w1", "w2"].iter().for_each(|id| world.deregister(id));
        world.pass(SECOND * 2);
        assert_eq!(shown(&view), "", "{is_of_many}");
    }
}

/// Answers a number of queries that do not wait, and then none of them.
#[derive(Debug)]
struct Flaky {
    consul: SimTransport,
    answers: AtomicUsize,
}

impl Transport for Flaky {
    fn endpoint(&self) -> &str {
        "flaky"
    }

    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let waits = request.uri().query().is_some_and(|query| query.contains("index="));
        let left = |left: usize| left.checked_sub(1);
        let is_instances = request.uri().path().starts_with("/v1/health/service/");
        if waits || !is_instances || self.answers.fetch_update(Relaxed, Relaxed, left).is_ok() {
            return self.consul.send(request);
        }
        let response =
            Response::builder().status(500).body(Bytes::from_static(b"No cluster leader"));
        Box::pin(std::future::ready(Ok(response.expect("a response"))))
    }
}

/// Answers without instances: one, or all for as long as `lasts`.
#[derive(Debug)]
struct EmptyOnce {
    consul: SimTransport,
    clock: ManualClock,
    is_due: AtomicBool,
    lasts: Duration,
    ends: Mutex<Option<Instant>>,
}

impl Transport for EmptyOnce {
    fn endpoint(&self) -> &str {
        "between"
    }

    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let now = self.clock.now();
        let mut ends = self.ends.lock().expect("no panic");
        if self.is_due.swap(false, Relaxed) {
            *ends = Some(now + self.lasts);
        } else if ends.take_if(|ends| *ends <= now).is_some() || ends.is_none() {
            return self.consul.send(request);
        }
        let response = Response::builder().header("X-Consul-Index", 1_000_000);
        let response = response.body(Bytes::from_static(b"[]")).expect("a response");
        Box::pin(std::future::ready(Ok(response)))
    }
}

#[test]
fn ten_thousand_picks_send_nothing() {
    let world = World::new();
    (1..=3).for_each(|number| world.register(&format!("w{number}"), EVEN));
    let view = world.view();
    world.pass(SECOND);
    let before = world.agent.stats().requests;
    picks(&view, 5000);
    (0..5000_u32).for_each(|key| assert!(view.pick_by(&key.to_le_bytes()).is_ok()));
    assert_eq!(world.agent.stats().requests, before);
}

#[test]
fn with_consul_away_it_has_the_last_list_and_its_age() {
    let world = World::new();
    world.register("w1", EVEN);
    let view = world.view();
    world.pass(Duration::from_secs(60));
    // A query waits for 10 s, and up to a sixteenth more.
    let quiet = view.age().expect("an age");
    assert!(quiet < Duration::from_millis(10_625) + SECOND / 10, "{quiet:?}");
    world.agent.add_fault(Fault { partition: true, ..Fault::default() });
    world.agent.restart(Retained::Disk);
    world.pass(Duration::from_secs(300));
    assert_eq!(view.age().expect("an age"), quiet + Duration::from_secs(300));
    assert_eq!((shown(&view).as_str(), picks(&view, 10)["w1"]), ("w1:1", 10));
    world.agent.clear_faults();
    world.pass(Duration::from_secs(10));
    assert!(view.age().expect("an age") < Duration::from_secs(10));
}

/// Adds a header to each answer.
#[derive(Debug)]
struct Marked(SimTransport, (&'static str, &'static str));

impl Transport for Marked {
    fn endpoint(&self) -> &str {
        "marked"
    }

    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            let mut answer = self.0.send(request).await?;
            answer.headers_mut().insert(self.1.0, self.1.1.parse().expect("a value"));
            Ok(answer)
        })
    }
}

#[test]
fn the_age_of_an_answer_counts_too() {
    for (name, value, age_ms) in
        [("age", "7", 7000), ("x-consul-lastcontact", "2500", 2500), ("x-cache", "HIT", 0)]
    {
        let world = World::new();
        world.register("w1", EVEN);
        let consul = SimTransport::new(Arc::clone(&world.agent), "simulated");
        let client = client_over(&world, Arc::new(Marked(consul, (name, value))));
        let view = view_of(&client, Args::new().arg("web"), EMPTY_HOLD);
        world.pass(SECOND);
        assert_eq!(view.age().expect("an age"), SECOND + Duration::from_millis(age_ms), "{name}");
    }
}

#[test]
fn an_empty_answer_after_a_restart_is_not_believed_for_a_while() {
    let world = World::new();
    let patient = view_of(&world.client(), Args::new().arg("web"), Duration::from_secs(20));
    let trusting = view_of(&world.client(), Args::new().arg("web"), Duration::ZERO);
    world.register("w1", EVEN);
    world.pass(SECOND);
    world.agent.restart(Retained::Nothing);
    world.pass(SECOND);
    assert_eq!((shown(&patient).as_str(), shown(&trusting).as_str()), ("w1:1", ""));
    assert!(patient.age().expect("an age") >= SECOND);
    // The registration of another service wakes the query, but changes nothing here.
    world.send("PUT", "/v1/agent/service/register", r#"{"Name": "other"}"#);
    world.pass(Duration::from_secs(18));
    assert_eq!(shown(&patient), "w1:1");
    world.pass(Duration::from_secs(2));
    assert_eq!(shown(&patient), "");
    assert_eq!(patient.pick().expect_err("nobody").kind(), Kind::NotFound);
}

#[test]
fn what_registers_again_after_a_restart_replaces_the_last_list_at_once() {
    let world = World::new();
    let view = world.view();
    world.register("w1", EVEN);
    world.pass(SECOND);
    world.agent.restart(Retained::Nothing);
    world.pass(5 * SECOND);
    world.register("w2", EVEN);
    world.pass(SECOND);
    assert_eq!(shown(&view), "w2:1");
    // The hold is over: an ordinary deregistration is accepted.
    world.deregister("w2");
    world.pass(SECOND);
    assert_eq!(shown(&view), "");
}

#[test]
fn a_second_outage_begins_the_wait_anew() {
    let world = World::new();
    let view = world.view();
    world.register("w1", EVEN);
    world.pass(SECOND);
    world.agent.restart(Retained::Nothing);
    world.pass(20 * SECOND);
    world.agent.add_fault(Fault { partition: true, ..Fault::default() });
    world.agent.restart(Retained::Nothing);
    world.pass(100 * SECOND);
    assert_eq!(shown(&view), "w1:1");
    world.agent.clear_faults();
    world.pass(25 * SECOND);
    assert_eq!(shown(&view), "w1:1");
    world.pass(30 * SECOND);
    assert_eq!(shown(&view), "");
}

#[test]
fn without_an_answer_it_says_so_and_why() {
    let world = World::new();
    world.agent.add_fault(Fault { partition: true, ..Fault::default() });
    let view = world.view();
    let refused = |view: &View| -> Vec<Error> {
        vec![
            view.all().map(|_| ()).expect_err("no list"),
            view.age().map(|_| ()).expect_err("no list"),
            view.pick().map(|_| ()).expect_err("no list"),
            view.pick_by(b"key").map(|_| ()).expect_err("no list"),
        ]
    };
    for error in refused(&view) {
        assert_eq!(error.message(), "service_view \"web\": no answer from Consul yet");
        assert_eq!((error.kind(), error.is_retryable()), (Kind::Timeout, true));
    }
    world.pass(30 * SECOND);
    for error in refused(&view) {
        assert!(error.message().starts_with("service_view \"web\": no answer yet: "), "{error}");
        assert_eq!(error.kind(), Kind::Timeout);
    }
    world.agent.clear_faults();
    world.pass(30 * SECOND);
    assert_eq!(shown(&view), "");
}

#[test]
fn a_view_without_a_feed_has_ended() {
    let world = World::new();
    let (ended, feed) = view(world.client(), Args::new().arg("web"), EMPTY_HOLD).expect("a view");
    drop(feed);
    assert_eq!(ended.all().map(|_| ()).expect_err("an end").kind(), Kind::Closed);
}

#[test]
fn picks_are_fair_by_weight_and_evenly_spread() {
    let world = World::new();
    for (id, weight) in [("w1", 5), ("w2", 1), ("w3", 3), ("w4", 1)] {
        world.register(id, &format!(r#"{{"Passing": {weight}, "Warning": 1}}"#));
    }
    let view = world.view();
    world.pass(SECOND);
    // In any ten consecutive picks.
    for _ in 0..20 {
        let ten = picks(&view, 10);
        assert_eq!(ten.into_values().collect::<Vec<_>>(), [5, 1, 3, 1]);
        picks(&view, 3);
    }
    let picked: Vec<_> =
        (0..20).map(|_| view.pick().expect("a pick").instance().id.clone()).collect();
    assert!(picked.windows(3).all(|row| row.iter().any(|id| id != "w1")), "{picked:?}");
    // Also while instances are added and removed.
    let mut counts = BTreeMap::new();
    for round in 0..100 {
        for (id, count) in picks(&view, 97) {
            *counts.entry(id).or_insert(0) += count;
        }
        match round % 2 {
            0 => world.register("w5", r#"{"Passing": 2, "Warning": 1}"#),
            _ => world.deregister("w5"),
        }
        world.pass(SECOND);
    }
    let total: usize = ["w1", "w2", "w3", "w4"].iter().map(|id| counts[*id]).sum();
    for (id, share) in [("w1", 0.5), ("w2", 0.1), ("w3", 0.3), ("w4", 0.1)] {
        let fair = total as f64 * share;
        let off = (counts[id] as f64 - fair).abs() / fair;
        assert!(off < 0.02, "{id} is off by {off}: {counts:?}");
    }
}

#[test]
fn not_all_programs_begin_with_the_same_instance() {
    let world = World::new();
    (1..=5).for_each(|number| world.register(&format!("w{number}"), EVEN));
    let views: Vec<_> = (0..20).map(|_| world.view()).collect();
    world.pass(SECOND);
    let first = |view: &Arc<View>| view.pick().expect("a pick").instance().id.clone();
    let firsts: std::collections::BTreeSet<_> = views.iter().map(first).collect();
    assert!(firsts.len() > 2, "{firsts:?}");
}

#[test]
fn who_weighs_nothing_is_picked_only_when_all_do() {
    let world = World::new();
    let nothing = r#"{"Passing": 1, "Warning": 0}"#;
    world.register("w1", nothing);
    world.register("w2", nothing);
    world.check("warn", "w1");
    let view = world.view();
    world.pass(SECOND);
    assert_eq!((shown(&view).as_str(), picks(&view, 10)["w2"]), ("w1:0 w2:1", 10));
    (0..100_u32).for_each(|key| {
        assert_eq!(view.pick_by(&key.to_le_bytes()).expect("a pick").instance().id, "w2");
    });
    world.check("warn", "w2");
    world.pass(SECOND);
    assert_eq!(picks(&view, 10).into_values().collect::<Vec<_>>(), [5, 5]);
}

fn owners(view: &View) -> Vec<String> {
    let owner = |key: u32| view.pick_by(&key.to_le_bytes()).expect("a pick").instance().id.clone();
    (0..2000).map(owner).collect()
}

#[test]
fn only_keys_of_an_instance_that_goes_change_their_instance() {
    let world = World::new();
    for number in 1..=10 {
        let weight = 1 + number % 3 * 20;
        let weights = format!(r#"{{"Passing": {weight}, "Warning": 1}}"#);
        world.register(&format!("w{number}"), &weights);
    }
    let view = world.view();
    world.pass(SECOND);
    let before = owners(&view);
    world.check("fail", "w4");
    world.pass(SECOND);
    let after = owners(&view);
    let mut moved = 0;
    for (before, after) in before.iter().zip(&after) {
        if before == "w4" {
            moved += 1;
            assert_ne!(after, "w4");
        } else {
            assert_eq!(before, after);
        }
    }
    assert!(moved > 0, "it had no keys");
    world.check("pass", "w4");
    world.pass(SECOND);
    assert_eq!(owners(&view), before);
}

/// A Consul that answers every query at once with these instances.
#[derive(Debug)]
struct Answering(Mutex<(u64, String)>);

impl Transport for Answering {
    fn endpoint(&self) -> &str {
        "scripted"
    }

    fn send(&self, _: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let mut answer = self.0.lock().expect("no panic");
        answer.0 += 1;
        let response = Response::builder().header("X-Consul-Index", answer.0);
        let body = Bytes::from(answer.1.clone());
        Box::pin(std::future::ready(Ok(response.body(body).expect("a response"))))
    }
}

#[test]
fn a_view_without_an_instance_says_how_many_entries_are_invalid_and_of_how_many_the_checks_fail() {
    let entry = |service: &str, status: &str| {
        let node = r#""Node": {"Node": "n1", "Address": "10.1.1.1"}"#;
        let service = format!(r#""Service": {{"ID": "w", "Service": "web", {service}}}"#);
        format!(r#"{{{node}, {service}, "Checks": [{{"Status": "{status}"}}]}}"#)
    };
    let invalid = || {
        let of = |service| entry(service, "passing");
        vec![of(r#""Port": 70000"#), of(r#""Tags": [1]"#), of(r#""Weights": {"Passing": -1}"#)]
    };
    let failing = || vec![entry(r#""Port": 80"#, "critical"), entry(r#""Port": 81"#, "critical")];
    for (entries, wanted) in [
        (Vec::new(), "Consul lists none"),
        (failing(), "of 2 the checks fail"),
        (invalid(), "of 3 the entries are invalid, as the log says"),
        ([failing(), invalid()].concat(), "of 2 the checks fail, and of 3 the entries are invalid"),
    ] {
        let world = World::new();
        let transport = Answering(Mutex::new((1, format!("[{}]", entries.join(", ")))));
        let client = client_over(&world, Arc::new(transport));
        let view = view_of(&client, Args::new().arg("web"), EMPTY_HOLD);
        world.pass(SECOND);
        for error in [view.pick().unwrap_err(), view.pick_by(b"key").unwrap_err()] {
            let wanted = format!("there is no instance whose checks pass: {wanted}");
            assert!(error.message().ends_with(&wanted), "{error}");
        }
    }
}

#[test]
fn entries_that_are_not_instances_are_left_out() {
    let node = r#""Node": {"Node": "n1", "Address": "10.1.1.1"}"#;
    let entries = [
        // Usable entries, as real catalogs have them.
        format!(
            r#"{{{node}, "Service": {{"ID": "own", "Service": "web", "Address": "10.0.0.1", "Port": 80}}, "Checks": []}}"#
        ),
        format!(
            r#"{{{node}, "Service": {{"ID": "nodes", "Service": "web", "Address": "", "Port": 0, "Tags": null, "Meta": null, "Weights": null}}, "Checks": null}}"#
        ),
        format!(
            r#"{{{node}, "Service": {{"ID": "zero", "Service": "web", "Port": 1, "Weights": {{"Passing": 0, "Warning": 0}}}}}}"#
        ),
        // Unusable entries.
        format!(r#"{{{node}, "Service": null, "Checks": []}}"#),
        format!(r#"{{{node}, "Checks": []}}"#),
        format!(r#"{{{node}, "Service": {{"ID": "", "Service": "web"}}}}"#),
        format!(r#"{{{node}, "Service": {{"ID": "port", "Port": 70000}}}}"#),
        format!(r#"{{{node}, "Service": {{"ID": "text", "Port": "80"}}}}"#),
        format!(r#"{{{node}, "Service": {{"ID": "weight", "Weights": {{"Passing": -1}}}}}}"#),
        format!(r#"{{{node}, "Service": {{"ID": "weights", "Weights": 1}}}}"#),
        format!(r#"{{{node}, "Service": {{"ID": "tags", "Tags": [1]}}}}"#),
        format!(r#"{{{node}, "Service": {{"ID": "meta", "Meta": ["a"]}}}}"#),
        r#"{"Node": {"Node": "n1"}, "Service": {"ID": "nowhere", "Address": "", "Port": 80}}"#
            .to_owned(),
        r#"{"Node": null, "Service": {"ID": "lost", "Address": "10.0.0.1", "Port": 80}}"#
            .to_owned(),
        "null".to_owned(),
        "17".to_owned(),
        // Entries whose checks do not pass.
        format!(
            r#"{{{node}, "Service": {{"ID": "down"}}, "Checks": [{{"Status": "passing"}}, {{"Status": "critical"}}]}}"#
        ),
        format!(
            r#"{{{node}, "Service": {{"ID": "odd"}}, "Checks": [{{"Status": "unheard of"}}]}}"#
        ),
    ];
    let world = World::new();
    let transport = Answering(Mutex::new((1, format!("[{}]", entries.join(", ")))));
    let client = client_over(&world, Arc::new(transport));
    let view = view_of(&client, Args::new().arg("web"), EMPTY_HOLD);
    world.pass(SECOND);
    assert_eq!(shown(&view), "own:1 nodes:1 zero:1");
    let list = view.all().expect("a list");
    let places: Vec<_> =
        list.instances().iter().map(|one| (one.address.as_str(), one.port)).collect();
    assert_eq!(places, [("10.0.0.1", 80), ("10.1.1.1", 0), ("10.1.1.1", 1)]);
}

#[test]
fn an_option_of_another_is_refused() {
    let world = World::new();
    let refused = |args: Args| {
        let made = view(world.client(), args, EMPTY_HOLD);
        made.map(|_| ()).expect_err("a refusal").message().to_owned()
    };
    assert!(refused(Args::new()).contains("argument #1 (service) is missing"));
    assert!(refused(Args::new().arg("web").opt("wait", "5s")).contains("wait"));
    assert!(refused(Args::new().arg("web").opt("tags", "a")).contains("did you mean \"tag\"?"));
}

/// The way to an agent on which answers about instances are changed.
struct Changing {
    consul: SimTransport,
    /// The query of a request, the number of the request since it was armed, and its answer.
    change: Box<Change>,
    armed: AtomicBool,
    number: AtomicUsize,
}

type Change = dyn Fn(&str, usize, Response<Bytes>) -> Response<Bytes> + Send + Sync;

impl std::fmt::Debug for Changing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("changing")
    }
}

impl Changing {
    fn new(
        world: &World,
        change: impl Fn(&str, usize, Response<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let consul = SimTransport::new(Arc::clone(&world.agent), "simulated");
        let (armed, number) = Default::default();
        Arc::new(Self { consul, change: Box::new(change), armed, number })
    }

    fn arm(&self, is_armed: bool) {
        self.number.store(0, Relaxed);
        self.armed.store(is_armed, Relaxed);
    }
}

impl Transport for Changing {
    fn endpoint(&self) -> &str {
        "changing"
    }

    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let is_instances = request.uri().path().starts_with("/v1/health/service/");
        Box::pin(async move {
            let answer = self.consul.send(request).await?;
            if !is_instances || !self.armed.load(Relaxed) {
                return Ok(answer);
            }
            Ok((self.change)(&query, self.number.fetch_add(1, Relaxed) + 1, answer))
        })
    }
}

fn only_first(answer: Response<Bytes>) -> Response<Bytes> {
    let items: Vec<serde_json::Value> = serde_json::from_slice(answer.body()).expect("instances");
    answer.map(|_| Bytes::from(serde_json::to_vec(&items[..1]).expect("JSON")))
}

/// The view of a service, alone or as one of many.
fn view_through(world: &World, client: Arc<Client>, is_of_many: bool, args: Args) -> Arc<View> {
    if !is_of_many {
        let view = view_of(&client, args, EMPTY_HOLD);
        world.pass(SECOND * 2);
        return view;
    }
    view_of_many(world, client)
}

/// Of a server that is behind, of a cache, or of another request.
#[test]
fn one_answer_without_some_of_the_instances_removes_none() {
    for is_of_many in [false, true] {
        for wrong in [1, 2] {
            let world = World::new();
            for id in ["w1", "w2", "w3"] {
                world.register(id, EVEN);
            }
            let changing = Changing::new(
                &world,
                move |_: &str, number, it| {
                    if number == wrong { only_first(it) } else { it }
                },
            );
            let client = client_over(&world, Arc::clone(&changing) as _);
            let view = view_through(&world, client, is_of_many, Args::new().arg("web"));
            assert_eq!(shown(&view), "w1:1 w2:1 w3:1");
            changing.arm(true);
            // A change, after which the instances are read: one goes if the second answer is the wrong one.
            let left = if wrong == 1 { "w1:1 w2:1 w3:7" } else { "w1:1 w2:1" };
            match wrong {
                1 => world.register("w3", r#"{"Passing": 7, "Warning": 1}"#),
                _ => world.deregister("w3"),
            }
            for _ in 0..100 {
                world.pass(SECOND / 10);
                assert!(
                    shown(&view).contains("w1:1 w2:1"),
                    "{is_of_many} {wrong}: {}",
                    shown(&view)
                );
            }
            assert_eq!(shown(&view), left, "{is_of_many} {wrong}");
        }
    }
}

/// Two answers in a row: the list is one of many, and no query shows that something is missing.
#[test]
fn instances_that_two_answers_lack_by_mistake_are_back_soon() {
    for is_of_many in [false, true] {
        let world = World::new();
        for id in ["w1", "w2", "w3"] {
            world.register(id, EVEN);
        }
        let changing = Changing::new(
            &world,
            |_: &str, number, it| if number <= 2 { only_first(it) } else { it },
        );
        let client = client_over(&world, Arc::clone(&changing) as _);
        let view = view_through(&world, client, is_of_many, Args::new().arg("web"));
        changing.arm(true);
        world.register("w3", r#"{"Passing": 7, "Warning": 1}"#);
        world.pass(SECOND * 15);
        assert_eq!(shown(&view), "w1:1 w2:1 w3:7", "{is_of_many}");
    }
}

/// A part that a server without a leader lacks, as a server that the others have left behind.
#[test]
fn a_server_without_a_leader_removes_no_instance() {
    for is_of_many in [false, true] {
        let world = World::new();
        for id in ["w1", "w2"] {
            world.register(id, EVEN);
        }
        let changing = Changing::new(&world, |_: &str, _, answer| {
            let mut answer = only_first(answer);
            let no = "false".parse().expect("a header");
            answer.headers_mut().insert("x-consul-knownleader", no);
            answer.headers_mut().remove("x-consul-query-backend");
            answer
        });
        let client = client_over(&world, Arc::clone(&changing) as _);
        let view = view_through(&world, client, is_of_many, Args::new().arg("web"));
        changing.arm(true);
        world.register("w3", EVEN);
        world.pass(SECOND * 30);
        assert_eq!(shown(&view), "w1:1 w2:1", "{is_of_many}");
        assert!(view.age().expect("a list") > SECOND * 20, "{is_of_many}: {:?}", view.age());
        changing.arm(false);
        world.pass(SECOND * 10);
        assert_eq!(shown(&view), "w1:1 w2:1 w3:1", "{is_of_many}");
    }
}

/// The agent's cache has lost them, for all that ask it.
#[test]
fn the_second_look_of_a_cached_view_goes_past_the_agents_cache() {
    for lost in [0, 1] {
        let world = World::new();
        for id in ["w1", "w2"] {
            world.register(id, EVEN);
        }
        let changing =
            Changing::new(&world, move |query: &str, _, answer| match query.contains("cached") {
                true if lost == 0 => answer.map(|_| Bytes::from_static(b"[]")),
                true => only_first(answer),
                false => answer,
            });
        let client = client_over(&world, Arc::clone(&changing) as _);
        let args = Args::new().arg("web").opt("cached", true).opt("cache_control", "max-age=60");
        let view = view_through(&world, client, false, args);
        changing.arm(true);
        world.register("w2", r#"{"Passing": 7, "Warning": 1}"#);
        world.pass(SECOND * 30);
        assert_eq!(shown(&view), "w1:1 w2:7", "{lost}");
    }
}

/// The way to an agent on which each answer has these headers, or is a refusal with them.
#[derive(Debug)]
struct WithHeaders {
    consul: SimTransport,
    headers: Vec<(&'static str, &'static str)>,
    refuses: Mutex<Option<u16>>,
}

impl Transport for WithHeaders {
    fn endpoint(&self) -> &str {
        "headers"
    }

    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            let refuses = *self.refuses.lock().expect("no panic");
            let mut answer = self.consul.send(request).await?;
            if let Some(status) = refuses {
                answer = Response::new(Bytes::new());
                *answer.status_mut() = status.try_into().expect("a status");
            }
            for (name, value) in &self.headers {
                answer.headers_mut().append(*name, value.parse().expect("a header"));
            }
            Ok(answer)
        })
    }
}

const EXTREMES: [&str; 8] = [
    "0",
    "18446744073709551615",
    "9223372036854775807",
    "99999999999999999999",
    "-1",
    "1e400",
    "soon",
    "",
];

/// Calls, a watch, a view and views of many go on, whatever numbers a proxy adds.
#[test]
fn the_extremes_of_a_number_in_a_header_end_nothing() {
    const NAMES: [&str; 3] = ["age", "x-consul-lastcontact", "retry-after"];
    let one = NAMES.iter().flat_map(|name| EXTREMES.map(|value| vec![(*name, value)]));
    let twice = NAMES.iter().map(|name| vec![(*name, EXTREMES[1]), (*name, "1")]);
    let all = EXTREMES.map(|value| NAMES.map(|name| (name, value)).to_vec());
    for headers in one.chain(twice).chain(all) {
        let world = World::new();
        world.register("w1", EVEN);
        let case = format!("{headers:?}");
        let transport = Arc::new(WithHeaders {
            consul: SimTransport::new(Arc::clone(&world.agent), "simulated"),
            headers,
            refuses: Mutex::default(),
        });
        let client = client_over(&world, Arc::clone(&transport) as _);
        let views = [false, true]
            .map(|many| view_through(&world, Arc::clone(&client), many, Args::new().arg("web")));
        let args = Args::new().arg("a");
        let changes = watch(Arc::clone(&client), &kv::GET, args.clone(), WatchOptions::default());
        let seen = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&seen);
        world.clock.spawn(changes.expect("a watch").for_each(move |_| {
            count.fetch_add(1, Relaxed);
            async {}
        }));
        for (round, status) in [429, 503].into_iter().enumerate() {
            *transport.refuses.lock().expect("no panic") = Some(status);
            world.pass(SECOND * 5);
            let _ = world.run(client.call(&kv::GET, &args));
            *transport.refuses.lock().expect("no panic") = None;
            world.register(&format!("x{round}"), EVEN);
            world.send("PUT", "/v1/kv/a", &format!("{round}"));
            let before = seen.load(Relaxed);
            // The longest pause that an agent may ask for, and a wait.
            world.pass(SECOND * 180);
            world.run(client.call(&kv::GET, &args)).expect(&case);
            assert!(seen.load(Relaxed) > before, "{case}");
            for view in &views {
                assert_eq!(view.all().expect("a list").instances().len(), round + 2, "{case}");
                view.age().expect("an age");
                view.pick().expect("a pick");
            }
        }
    }
}
