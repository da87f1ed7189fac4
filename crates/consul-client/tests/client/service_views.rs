//! Views of many services on the simulated agent, on a clock that the tests advance.

use crate::support::world::World;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::request::Defaults;
use consul_client::transport::Transport;
use consul_client::view::EMPTY_HOLD;
use consul_client::views::{Views, Wanted, views};
use consul_client::{Client, Settings};
use consul_process::clock::{BoxFuture, Clock, ManualClock};
use consul_sim::{Retained, SimTransport};
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const READ: &str = "/v1/health/service/";

/// The way to the agent, on which answers come late or not at all.
#[derive(Debug)]
struct Network {
    agent: SimTransport,
    clock: ManualClock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How late the answers to the next reads of a service come.
    delays: VecDeque<Duration>,
    /// The next request for a path that begins with this reaches the agent so late.
    late: Option<(&'static str, Duration)>,
    /// Requests for paths that begin with this fail.
    cut: Option<&'static str>,
    /// Requests for paths that begin with this are refused because of the agent's limits.
    refused: Option<&'static str>,
    /// The services that the program was asked about.
    offered: Vec<String>,
    /// Whether the views were ready when the program was last told that there is news.
    was_ready: bool,
    /// How often the program was told that there is news.
    told: usize,
    /// How often the views' work went on.
    polls: usize,
    /// The services that were read.
    reads: Vec<String>,
    in_flight: usize,
    most_in_flight: usize,
    queries: usize,
}

impl Network {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    fn reads(&self) -> Vec<String> {
        mem::take(&mut self.state().reads)
    }

    fn offered(&self) -> Vec<String> {
        mem::take(&mut self.state().offered)
    }
}

impl Transport for Network {
    fn endpoint(&self) -> &str {
        "late"
    }

    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let path = request.uri().path().to_owned();
        let mut state = self.state();
        let mut delay = Duration::ZERO;
        if let Some(name) = path.strip_prefix(READ) {
            state.reads.push(name.to_owned());
            state.in_flight += 1;
            state.most_in_flight = state.most_in_flight.max(state.in_flight);
            delay = state.delays.pop_front().unwrap_or_default();
        } else {
            state.queries += 1;
        }
        if state.cut.is_some_and(|cut| path.starts_with(cut)) {
            state.in_flight -= usize::from(path.starts_with(READ));
            return std::future::ready(Err(Error::new(Kind::Connect, "cut"))).boxed();
        }
        if state.refused.is_some_and(|refused| path.starts_with(refused)) {
            state.in_flight -= usize::from(path.starts_with(READ));
            let refusal = Response::builder().status(429).body(Bytes::new()).expect("an answer");
            return std::future::ready(Ok(refusal)).boxed();
        }
        let late = state.late.take_if(|(late, _)| path.starts_with(*late));
        async move {
            if let Some((_, late)) = late {
                self.clock.sleep(late).await;
            }
            let answer = self.agent.send(request).await;
            if path.starts_with(READ) {
                self.clock.sleep(delay).await;
                self.state().in_flight -= 1;
            }
            answer
        }
        .boxed()
    }
}

/// The way to a world's agent, and a client that takes it.
fn connected(world: &World) -> (Arc<Network>, Arc<Client>) {
    let network = Arc::new(Network {
        agent: SimTransport::new(Arc::clone(&world.agent), "simulated"),
        clock: world.clock.clone(),
        state: Mutex::default(),
    });
    let settings = Settings {
        timeout: Duration::from_secs(60),
        retry_count: 0,
        defaults: Defaults::default(),
    };
    let clock = Arc::new(world.clock.clone());
    let rng = fastrand::Rng::with_seed(1);
    let transport = Arc::clone(&network) as Arc<dyn Transport>;
    (network, Arc::new(Client::new(vec![transport], settings, clock, rng)))
}

/// Views of services, kept up to date while the clock advances.
struct Scene {
    world: World,
    network: Arc<Network>,
    views: Arc<Views>,
}

impl Scene {
    /// Each service has one instance `w1` at first.
    fn new(names: &[&str]) -> Self {
        let wanted = Wanted::Named(names.iter().map(|name| (*name).to_owned()).collect());
        Self::with(names, wanted)
    }

    /// With [`Wanted::Chosen`] all services but `unwanted` and Consul's own are chosen.
    fn with(names: &[&str], wanted: Wanted) -> Self {
        Self::with_late(names, wanted, None)
    }

    fn with_late(names: &[&str], wanted: Wanted, late: Option<(&'static str, Duration)>) -> Self {
        let world = World::new();
        for name in names {
            register(&world, name, "w1", "10.0.0.1");
        }
        let (network, client) = connected(&world);
        network.state().late = late;
        let (views, news) = views(client, wanted, EMPTY_HOLD).expect("views");
        let mut work = news
            .for_each({
                let (views, network) = (Arc::clone(&views), Arc::clone(&network));
                move |()| {
                    views.were_told();
                    network.state().told += 1;
                    network.state().was_ready = views.are_ready().is_ok();
                    while let Some((name, _)) = views.next_offered() {
                        network.state().offered.push(name.clone());
                        let is_wanted = name != "consul" && name != "unwanted";
                        views.choose(name, is_wanted);
                    }
                    async {}
                }
            })
            .boxed();
        world.clock.spawn({
            let network = Arc::clone(&network);
            poll_fn(move |context| {
                network.state().polls += 1;
                work.poll_unpin(context)
            })
        });
        let scene = Self { world, network, views };
        scene.pass(SECOND);
        scene.network.reads();
        scene
    }

    fn pass(&self, duration: Duration) {
        self.world.run(self.world.clock.sleep(duration));
    }

    fn check(&self, verdict: &str, name: &str, id: &str) {
        let path = format!("/v1/agent/check/{verdict}/service:{name}-{id}");
        self.world.send("PUT", &path, "");
    }

    /// The addresses of a service's instances.
    fn shown(&self, name: &str) -> String {
        let list = self.views.view(name).expect("a view").all().expect("a list");
        list.instances().iter().map(|one| &*one.address).collect::<Vec<_>>().join(" ")
    }

    fn age(&self, name: &str) -> Duration {
        self.views.view(name).expect("a view").age().expect("an age")
    }
}

fn register(world: &World, name: &str, id: &str, address: &str) {
    let definition = format!(
        r#"{{"Name": "{name}", "ID": "{name}-{id}", "Address": "{address}", "Port": 80,
            "Check": {{"TTL": "1h", "Status": "passing"}}}}"#
    );
    world.send("PUT", "/v1/agent/service/register", &definition);
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("s{number:02}")).collect()
}

fn many(count: usize) -> Scene {
    let names = names(count);
    Scene::new(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn an_answer_that_comes_late_does_not_replace_a_newer_one() {
    let scene = Scene::new(&["web"]);
    scene.network.state().delays = [2 * SECOND].into();
    scene.check("fail", "web", "w1");
    scene.pass(SECOND);
    scene.check("pass", "web", "w1");
    scene.pass(5 * SECOND);
    assert_eq!(scene.shown("web"), "10.0.0.1");
}

#[test]
fn a_change_before_the_first_answer_of_either_query_is_noticed() {
    let web = || Wanted::Named(vec!["web".into()]);
    for wanted in [web, || Wanted::Chosen] {
        for late in ["/v1/catalog/services", "/v1/health/state/any"] {
            let scene = Scene::with_late(&["web"], wanted(), Some((late, 5 * SECOND)));
            // Of the service and of its node: the catalog's index says nothing of them.
            scene.check("fail", "web", "w1");
            scene.pass(20 * SECOND);
            assert_eq!(scene.shown("web"), "", "{late}");
            scene.check("pass", "web", "w1");
            scene.pass(20 * SECOND);
            assert_eq!(scene.shown("web"), "10.0.0.1", "{late}");
            let scene = Scene::with_late(&["web"], wanted(), Some((late, 5 * SECOND)));
            let check = r#"{"Name": "of the node", "TTL": "1h", "Status": "critical"}"#;
            scene.world.send("PUT", "/v1/agent/check/register", check);
            scene.pass(20 * SECOND);
            assert_eq!(scene.shown("web"), "", "the node, {late}");
        }
    }
}

/// A read of one service can see the check of its node before the query of the checks does, and see it end.
#[test]
fn a_nodes_check_that_a_read_sees_first_is_that_of_all_services_on_the_node() {
    for recovers in [false, true] {
        let scene = Scene::new(&["web", "api", "other"]);
        scene.pass(10 * SECOND);
        // The read of web comes after the check of the node, and the next query of the checks, a quarter of a second
        // after the one before, after both.
        scene.network.state().late = Some(("/v1/health/service/web", SECOND / 10));
        scene.check("fail", "web", "w1");
        scene.pass(SECOND / 100);
        scene.check("fail", "other", "w1");
        scene.pass(SECOND / 100);
        let critical = r#"{"Name": "node", "TTL": "1h", "Status": "critical"}"#;
        scene.world.send("PUT", "/v1/agent/check/register", critical);
        scene.pass(SECOND / 10);
        scene.check("pass", "web", "w1");
        if recovers {
            scene.world.send("PUT", "/v1/agent/check/pass/node", "");
        }
        scene.pass(10 * SECOND);
        let shown = if recovers { "10.0.0.1" } else { "" };
        for name in ["web", "api"] {
            assert_eq!(scene.shown(name), shown, "{name}, {recovers}");
        }
    }
}

#[test]
fn services_that_are_chosen_in_an_outage_say_why_they_are_not_ready() {
    let scene =
        Scene::with_late(&["web"], Wanted::Chosen, Some(("/v1/health/state/any", 100 * SECOND)));
    let why = |scene: &Scene| scene.views.are_ready().expect_err("no answer of the checks");
    assert!(why(&scene).message().contains("no answer from Consul yet"));
    scene.network.state().cut = Some("/v1/health/state/any");
    scene.pass(200 * SECOND);
    register(&scene.world, "api", "w1", "10.0.0.2");
    scene.pass(SECOND);
    assert!(why(&scene).message().contains("health_state"), "{}", why(&scene));
    for name in ["web", "api"] {
        let why = scene.views.view(name).expect("a view").all().expect_err("no answer");
        assert!(why.message().contains("health_state"), "{name}: {why}");
    }
    scene.network.state().cut = None;
    scene.pass(20 * SECOND);
    assert_eq!((scene.shown("web"), scene.shown("api")), ("10.0.0.1".into(), "10.0.0.2".into()));
    scene.views.are_ready().expect("both are answered");
}

/// A program looks on its own thread while the work goes on on another one.
#[test]
fn views_are_not_ready_before_there_is_one_for_each_chosen_service() {
    for _ in 0..50 {
        let world = World::new();
        register(&world, "web", "w1", "10.0.0.1");
        let (_, client) = connected(&world);
        let (views, news) = views(client, Wanted::Chosen, EMPTY_HOLD).expect("views");
        world.clock.spawn(news.for_each(|()| std::future::ready(())));
        let program = std::thread::spawn(move || {
            loop {
                while let Some((name, _)) = views.next_offered() {
                    views.choose(name, true);
                }
                if views.are_ready().is_ok() {
                    return views.names();
                }
            }
        });
        while !program.is_finished() {
            world.run(world.clock.sleep(SECOND / 10));
        }
        assert_eq!(program.join().expect("names"), ["consul", "web"]);
    }
}

#[test]
fn a_list_that_is_held_is_not_confirmed() {
    let scene = Scene::new(&["web", "api"]);
    scene.pass(10 * SECOND);
    scene.network.state().cut = Some("/");
    scene.world.agent.restart(Retained::Disk);
    scene.world.send("PUT", "/v1/agent/service/deregister/web-w1", "");
    scene.pass(SECOND);
    scene.network.state().cut = None;
    let confirmed = scene.age("web");
    scene.pass(25 * SECOND);
    assert_eq!(scene.shown("web"), "10.0.0.1");
    assert!(scene.age("web") >= confirmed + 25 * SECOND, "{:?}", scene.age("web"));
    assert!(scene.age("api") <= 12 * SECOND, "{:?}", scene.age("api"));
    scene.pass(30 * SECOND);
    assert_eq!(scene.shown("web"), "");
    assert!(scene.age("web") <= 12 * SECOND, "{:?}", scene.age("web"));
}

/// Consul finds services in any case.
#[test]
fn a_view_follows_a_service_whose_name_is_in_another_case() {
    let wanted = Wanted::Named(["shop", "SHOP", "Shop"].map(str::to_owned).into());
    let scene = Scene::with(&["Shop"], wanted);
    let shown = |scene: &Scene| ["shop", "SHOP", "Shop"].map(|name| scene.shown(name));
    scene.pass(10 * SECOND);
    for (verdict, shows) in [("fail", ""), ("pass", "10.0.0.1")] {
        scene.check(verdict, "Shop", "w1");
        scene.pass(SECOND);
        assert_eq!(shown(&scene), [shows; 3], "{verdict}");
    }
    scene.pass(10 * SECOND);
    register(&scene.world, "Shop", "w2", "10.0.0.2");
    scene.pass(SECOND);
    assert_eq!(shown(&scene), ["10.0.0.1 10.0.0.2"; 3]);
    scene.world.send("PUT", "/v1/agent/service/deregister/Shop-w2", "");
    scene.world.send("PUT", "/v1/agent/service/deregister/Shop-w1", "");
    scene.pass(5 * SECOND);
    assert_eq!(shown(&scene), [""; 3]);
}

/// No index grows with a change of rights: a wait ends with what was readable when it began, and the next one with the rest.
#[test]
fn a_change_of_rights_is_followed_after_two_waits_at_most() {
    let (world, management) = World::with_acl();
    let definition = r#"{"Name": "web", "Address": "10.0.0.1", "Port": 80}"#;
    world.send("PUT", &format!("/v1/agent/service/register?token={management}"), definition);
    let readable = r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;
    let client = world.client_with_rules(management, readable);
    let allow = |rules: &str| world.change_rules(management, rules);
    let wanted = Wanted::Named(vec!["web".into()]);
    let (views, news) = views(client, wanted, EMPTY_HOLD).expect("views");
    let work = news.for_each({
        let views = Arc::clone(&views);
        move |()| {
            views.were_told();
            async {}
        }
    });
    world.clock.spawn(work.map(|()| unreachable!("the stream does not end")));
    let shown = || views.view("web").expect("a view").all().expect("a list").instances().len();
    world.run(world.clock.sleep(5 * SECOND));
    assert_eq!(shown(), 1);
    for (rules, count) in [(r#"node_prefix "" { policy = "read" }"#, 0), (readable, 1)] {
        allow(rules);
        let mut seconds = 0;
        while shown() != count {
            world.run(world.clock.sleep(SECOND));
            seconds += 1;
            assert!(seconds <= 25, "{count}: {seconds} s");
        }
    }
}

#[test]
fn a_read_that_fails_is_made_again_after_a_second() {
    let scene = Scene::new(&["web"]);
    scene.network.state().cut = Some(READ);
    register(&scene.world, "web", "w2", "10.0.0.2");
    scene.pass(3 * SECOND + SECOND / 2);
    assert_eq!(scene.shown("web"), "10.0.0.1");
    assert_eq!(scene.network.reads().len(), 4);
    scene.network.state().cut = None;
    scene.pass(SECOND);
    assert_eq!(scene.shown("web"), "10.0.0.1 10.0.0.2");
    scene.network.reads();
    scene.pass(60 * SECOND);
    assert_eq!(scene.network.reads(), [""; 0]);
}

#[test]
fn reads_that_fail_are_not_more_often_while_others_change() {
    let scene = Scene::new(&["web", "api"]);
    scene.network.state().cut = Some("/v1/health/service/web");
    for number in 0..20 {
        register(&scene.world, "web", "w1", &format!("10.0.1.{number}"));
        scene.check(if number % 2 == 0 { "fail" } else { "pass" }, "web", "w1");
        scene.pass(SECOND);
    }
    let reads = scene.network.reads().into_iter().filter(|name| name == "web").count();
    assert!((19..=21).contains(&reads), "{reads} reads in 20 s");
}

#[test]
fn after_an_outage_all_services_are_read_again_at_most_once_for_each_query() {
    let scene = many(6);
    scene.pass(10 * SECOND);
    scene.network.reads();
    // The queries that wait are broken off by the end of the agent.
    scene.network.state().cut = Some("/");
    scene.world.agent.restart(Retained::Disk);
    scene.pass(30 * SECOND);
    scene.network.reads();
    scene.network.state().cut = None;
    scene.pass(60 * SECOND);
    let reads = scene.network.reads();
    for name in names(6) {
        let count = reads.iter().filter(|read| **read == name).count();
        assert!((1..=2).contains(&count), "{name} was read {count} times");
    }
}

#[test]
fn at_most_four_services_are_read_at_a_time() {
    let scene = many(20);
    scene.network.state().delays = vec![SECOND; 20].into();
    for name in names(20) {
        scene.check("fail", &name, "w1");
    }
    scene.pass(20 * SECOND);
    assert_eq!(scene.network.state().most_in_flight, 4);
    assert!(names(20).iter().all(|name| scene.shown(name).is_empty()));
}

#[test]
fn a_change_that_names_no_service_is_found_by_reading_in_turn() {
    let scene = many(8);
    scene.pass(10 * SECOND);
    scene.network.reads();
    register(&scene.world, "s07", "w1", "10.9.9.9");
    scene.pass(SECOND);
    let reads = scene.network.reads().len();
    assert!((2..=4).contains(&reads), "{reads} reads in the first second");
    scene.pass(4 * SECOND);
    assert_eq!(scene.shown("s07"), "10.9.9.9");
    scene.network.reads();
    scene.pass(60 * SECOND);
    assert_eq!(scene.network.reads(), [""; 0]);
    // The next one too, in a turn of its own.
    register(&scene.world, "s07", "w1", "10.9.9.8");
    scene.pass(5 * SECOND);
    assert_eq!(scene.shown("s07"), "10.9.9.8");
}

#[test]
fn an_empty_answer_after_an_outage_is_held() {
    for cut in ["/", READ] {
        let scene = Scene::new(&["web"]);
        scene.pass(10 * SECOND);
        scene.network.state().cut = Some(cut);
        if cut == "/" {
            scene.world.agent.restart(Retained::Disk);
        }
        scene.world.send("PUT", "/v1/agent/service/deregister/web-w1", "");
        scene.pass(20 * SECOND);
        scene.network.state().cut = None;
        scene.pass(20 * SECOND);
        assert_eq!(scene.shown("web"), "10.0.0.1", "without {cut}");
        scene.pass(30 * SECOND);
        assert_eq!(scene.shown("web"), "", "without {cut}");
    }
}

#[test]
fn the_two_queries_are_made_at_most_four_times_a_second_each() {
    let scene = Scene::new(&["web"]);
    scene.network.state().queries = 0;
    for number in 0..500 {
        register(&scene.world, "web", "w1", &format!("10.0.0.{}", number % 250));
        scene.check(if number % 2 == 0 { "fail" } else { "pass" }, "web", "w1");
        scene.pass(SECOND / 50);
    }
    let queries = scene.network.state().queries;
    assert!((70..=84).contains(&queries), "{queries} in 10 s");
}

#[test]
fn a_view_with_a_change_that_was_not_read_is_not_confirmed() {
    let scene = Scene::new(&["web", "api"]);
    scene.pass(10 * SECOND);
    scene.network.state().delays = [30 * SECOND].into();
    scene.check("fail", "web", "w1");
    scene.pass(10 * SECOND);
    scene.check("fail", "api", "w1");
    scene.pass(SECOND);
    assert!(scene.age("api") <= SECOND, "{:?}", scene.age("api"));
    assert!(scene.age("web") >= 11 * SECOND, "{:?}", scene.age("web"));
}

#[test]
fn a_view_whose_read_waits_for_others_is_not_confirmed() {
    let scene = many(6);
    scene.pass(5 * SECOND);
    scene.network.state().delays = [30 * SECOND; 4].into();
    for name in &names(6)[..5] {
        scene.check("fail", name, "w1");
    }
    scene.pass(SECOND);
    // Both queries are answered after their wait.
    scene.pass(19 * SECOND);
    assert!(scene.age("s05") <= 11 * SECOND, "{:?}", scene.age("s05"));
    assert!(scene.age("s04") >= 20 * SECOND, "{:?}", scene.age("s04"));
}

#[test]
fn a_view_is_confirmed_as_of_the_older_of_the_two_answers() {
    let scene = Scene::new(&["web", "api"]);
    scene.pass(5 * SECOND);
    // Only checks change: the catalog's query waits on.
    scene.check("fail", "web", "w1");
    scene.pass(SECOND);
    assert!(scene.age("api") >= 5 * SECOND, "{:?}", scene.age("api"));
    // Both are answered after their wait.
    scene.pass(20 * SECOND);
    assert!(scene.age("api") <= 11 * SECOND, "{:?}", scene.age("api"));
}

#[test]
fn a_view_that_waits_for_its_place_in_the_turn_is_not_confirmed() {
    let scene = many(8);
    scene.pass(10 * SECOND);
    register(&scene.world, "s07", "w1", "10.9.9.9");
    scene.pass(SECOND);
    // Both queries are answered in the turn.
    register(&scene.world, "s01", "w2", "10.0.0.2");
    scene.pass(SECOND);
    assert_eq!(scene.shown("s07"), "10.0.0.1");
    assert!(scene.age("s07") >= 2 * SECOND, "{:?}", scene.age("s07"));
    scene.pass(3 * SECOND);
    assert_eq!(scene.shown("s07"), "10.9.9.9");
    assert!(scene.age("s07") <= 3 * SECOND, "{:?}", scene.age("s07"));
}

#[test]
fn a_service_that_comes_back_does_not_get_the_answer_of_a_read_before() {
    let scene = Scene::with(&["web"], Wanted::Chosen);
    // The second read, and the read that looks again, begin while the service is away, and end when it is back.
    scene.network.state().delays = [SECOND, 5 * SECOND, 5 * SECOND].into();
    scene.world.send("PUT", "/v1/agent/service/deregister/web-w1", "");
    scene.pass(2 * SECOND);
    assert_eq!(scene.network.reads().len(), 3);
    register(&scene.world, "web", "w2", "10.0.0.2");
    scene.pass(10 * SECOND);
    assert_eq!(scene.shown("web"), "10.0.0.2");
}

#[test]
fn a_check_that_passes_again_before_its_query_saw_it_fail_is_noticed() {
    let scene = Scene::new(&["web", "api"]);
    scene.pass(10 * SECOND);
    // The next query of the checks begins a quarter of a second after the one between these answers.
    scene.check("fail", "api", "w1");
    scene.pass(SECOND / 100);
    scene.check("pass", "api", "w1");
    scene.pass(SECOND / 100);
    scene.check("fail", "web", "w1");
    // The catalog reports the tag, and the read sees that the check fails.
    let tagged =
        r#"{"Name": "web", "ID": "web-w1", "Address": "10.0.0.1", "Port": 80, "Tags": ["new"]}"#;
    scene.world.send("PUT", "/v1/agent/service/register", tagged);
    scene.pass(SECOND / 100);
    assert_eq!(scene.shown("web"), "");
    scene.check("pass", "web", "w1");
    scene.pass(SECOND);
    assert_eq!(scene.shown("web"), "10.0.0.1");
}

#[test]
fn a_client_that_is_refused_reads_less_and_less_often() {
    let scene = many(20);
    scene.pass(5 * SECOND);
    scene.network.reads();
    scene.network.state().refused = Some(READ);
    for name in names(20) {
        register(&scene.world, &name, "w2", "10.0.0.2");
    }
    scene.pass(5 * SECOND);
    let reads = scene.network.reads().len();
    assert!((4..=16).contains(&reads), "{reads} reads in 5 s");
    scene.network.state().refused = None;
    scene.pass(10 * SECOND);
    assert!(names(20).iter().all(|name| scene.shown(name) == "10.0.0.1 10.0.0.2"));
}

#[test]
fn what_was_refused_is_read_when_the_pause_ends() {
    let scene = Scene::new(&["web"]);
    scene.network.state().refused = Some(READ);
    register(&scene.world, "web", "w2", "10.0.0.2");
    scene.pass(SECOND / 2);
    assert_eq!(scene.network.reads().len(), 1);
    scene.network.state().refused = None;
    // No query is answered meanwhile.
    scene.pass(2 * SECOND);
    assert_eq!(scene.shown("web"), "10.0.0.1 10.0.0.2");
}

#[test]
fn a_service_is_offered_again_only_after_it_was_gone() {
    let scene = Scene::with(&["unwanted", "web"], Wanted::Chosen);
    assert_eq!(scene.network.offered(), ["consul", "unwanted", "web"]);
    for name in ["unwanted", "web"] {
        let tagged = format!(
            r#"{{"Name": "{name}", "ID": "{name}-w1", "Address": "10.0.0.1", "Tags": ["new"]}}"#
        );
        scene.world.send("PUT", "/v1/agent/service/register", &tagged);
    }
    scene.pass(SECOND);
    assert_eq!(scene.network.offered(), [""; 0]);
    let list = scene.views.view("web").expect("a view").all().expect("a list");
    assert_eq!(list.instances()[0].tags, ["new"]);
    for name in ["unwanted", "web"] {
        let path = format!("/v1/agent/service/deregister/{name}-w1");
        scene.world.send("PUT", &path, "");
    }
    scene.pass(SECOND);
    assert_eq!(scene.views.names(), [""; 0]);
    for name in ["unwanted", "web"] {
        register(&scene.world, name, "w2", "10.0.0.2");
    }
    scene.pass(SECOND);
    assert_eq!(scene.network.offered(), ["unwanted", "web"]);
    assert_eq!(scene.views.names(), ["web"]);
    assert_eq!(scene.shown("web"), "10.0.0.2");
}

#[test]
fn the_program_is_told_when_it_has_chosen_nothing() {
    let scene = Scene::with(&["unwanted"], Wanted::Chosen);
    assert!(scene.network.state().was_ready);
}

#[test]
fn views_are_ready_when_the_program_has_chosen_and_each_has_an_answer() {
    let world = World::new();
    register(&world, "web", "w1", "10.0.0.1");
    let (views, news) = views(world.client(), Wanted::Chosen, EMPTY_HOLD).expect("views");
    let kind = || views.are_ready().map_err(|error| error.kind());
    assert_eq!(kind(), Err(Kind::Timeout), "nothing is known");
    world.clock.spawn({
        let views = Arc::clone(&views);
        news.for_each(move |()| {
            views.were_told();
            async {}
        })
    });
    world.wait(SECOND);
    assert_eq!(kind(), Err(Kind::Timeout), "services are offered");
    views.choose("consul".to_owned(), false);
    views.choose("web".to_owned(), true);
    assert_eq!(kind(), Err(Kind::Timeout), "what was chosen has no view yet");
    world.wait(SECOND);
    assert_eq!(kind(), Ok(()));
    // It was offered again before its choice was taken.
    let before = views.view("web").expect("a view");
    views.choose("web".to_owned(), true);
    world.wait(SECOND);
    assert!(Arc::ptr_eq(&before, &views.view("web").expect("a view")));
    register(&world, "api", "w1", "10.0.0.1");
    world.wait(SECOND);
    assert!(views.next_offered().is_some());
    world.send("PUT", "/v1/agent/service/deregister/api-w1", "");
    world.wait(SECOND);
    assert_eq!(views.next_offered(), None, "it is gone");
}

#[test]
fn services_fail_and_recover_with_their_node_also_without_checks() {
    let scene = Scene::with(&["web"], Wanted::Named(vec!["plain".to_owned(), "web".to_owned()]));
    let plain = r#"{"Name": "plain", "ID": "plain-w1", "Address": "10.0.0.1", "Port": 80}"#;
    scene.world.send("PUT", "/v1/agent/service/register", plain);
    scene.pass(10 * SECOND);
    let disk = r#"{"Name": "disk", "ID": "disk", "TTL": "1h", "Status": "passing"}"#;
    scene.world.send("PUT", "/v1/agent/check/register", disk);
    scene.pass(10 * SECOND);
    for (verdict, address) in [("fail", ""), ("pass", "10.0.0.1")] {
        scene.world.send("PUT", &format!("/v1/agent/check/{verdict}/disk"), "");
        // Before its place in the turn.
        scene.pass(SECOND);
        assert_eq!(scene.shown("web"), address);
        scene.pass(4 * SECOND);
        assert_eq!(scene.shown("plain"), address);
        scene.pass(10 * SECOND);
    }
}

#[test]
fn the_end_of_the_hold_is_told() {
    let scene = Scene::with(&["web"], Wanted::Chosen);
    scene.pass(10 * SECOND);
    scene.network.state().cut = Some("/");
    scene.world.agent.restart(Retained::Disk);
    scene.world.send("PUT", "/v1/agent/service/deregister/web-w1", "");
    scene.pass(20 * SECOND);
    scene.network.state().cut = None;
    scene.pass(20 * SECOND);
    assert_eq!(scene.shown("web"), "10.0.0.1");
    while scene.views.next_changed().is_some() {}
    scene.pass(30 * SECOND);
    assert_eq!(scene.views.next_changed().as_deref(), Some("web"));
    assert_eq!(scene.views.names(), [""; 0]);
}

#[test]
fn a_change_after_its_place_in_the_turn_is_found_in_the_next() {
    let scene = many(8);
    scene.pass(10 * SECOND);
    register(&scene.world, "s07", "w1", "10.9.9.7");
    scene.pass(2 * SECOND);
    // It was the first in the turn.
    register(&scene.world, "s00", "w1", "10.9.9.0");
    scene.pass(5 * SECOND);
    assert_eq!((scene.shown("s00"), scene.shown("s07")), ("10.9.9.0".into(), "10.9.9.7".into()));
}

#[test]
fn nothing_is_done_when_a_turn_has_ended() {
    let scene = many(40);
    scene.pass(10 * SECOND);
    register(&scene.world, "s07", "w1", "10.9.9.9");
    scene.pass(10 * SECOND);
    scene.network.state().polls = 0;
    scene.pass(60 * SECOND);
    let polls = scene.network.state().polls;
    assert!(polls < 200, "{polls} in a minute");
}

#[test]
fn an_empty_answer_later_than_an_outage_is_not_held() {
    let scene = Scene::new(&["web"]);
    scene.network.state().cut = Some(READ);
    register(&scene.world, "web", "w2", "10.0.0.2");
    scene.pass(5 * SECOND);
    scene.network.state().cut = None;
    scene.pass(5 * SECOND);
    assert_eq!(scene.shown("web"), "10.0.0.1 10.0.0.2");
    for id in ["w1", "w2"] {
        scene.check("fail", "web", id);
    }
    scene.pass(SECOND);
    assert_eq!(scene.shown("web"), "");
}

#[test]
fn a_view_whose_read_fails_is_not_confirmed() {
    let scene = Scene::new(&["web"]);
    scene.pass(5 * SECOND);
    scene.network.state().cut = Some(READ);
    scene.check("fail", "web", "w1");
    // Both queries are answered meanwhile.
    scene.pass(30 * SECOND);
    assert!(scene.age("web") >= 30 * SECOND, "{:?}", scene.age("web"));
}

#[test]
fn the_program_is_told_of_the_services_that_changed_alone() {
    let scene = many(8);
    scene.pass(10 * SECOND);
    while scene.views.next_changed().is_some() {}
    scene.network.state().told = 0;
    // All are read.
    register(&scene.world, "s07", "w1", "10.9.9.9");
    scene.pass(10 * SECOND);
    assert_eq!(scene.network.state().told, 1);
    assert_eq!(scene.views.next_changed().as_deref(), Some("s07"));
    assert_eq!(scene.views.next_changed(), None);
}

#[test]
fn a_check_that_is_removed_is_noticed() {
    let scene = Scene::new(&["web"]);
    let check =
        r#"{"Name": "c", "ID": "c", "ServiceID": "web-w1", "TTL": "1h", "Status": "critical"}"#;
    scene.world.send("PUT", "/v1/agent/check/register", check);
    scene.pass(5 * SECOND);
    assert_eq!(scene.shown("web"), "");
    scene.world.send("PUT", "/v1/agent/check/deregister/c", "");
    scene.pass(SECOND);
    assert_eq!(scene.shown("web"), "10.0.0.1");
}

#[test]
fn a_service_whose_instances_all_fail_keeps_its_view() {
    let scene = Scene::with(&["web"], Wanted::Chosen);
    scene.check("fail", "web", "w1");
    scene.pass(SECOND);
    assert_eq!(scene.shown("web"), "");
    scene.check("pass", "web", "w1");
    scene.pass(SECOND);
    assert_eq!(scene.shown("web"), "10.0.0.1");
}

#[test]
fn a_named_service_keeps_its_view_while_it_is_away() {
    let scene = Scene::new(&["web"]);
    scene.world.send("PUT", "/v1/agent/service/deregister/web-w1", "");
    scene.pass(2 * SECOND);
    assert_eq!(scene.shown("web"), "");
    register(&scene.world, "web", "w2", "10.0.0.2");
    scene.pass(SECOND);
    assert_eq!(scene.shown("web"), "10.0.0.2");
}

#[test]
fn views_say_why_they_are_not_ready() {
    let world = World::new();
    let (network, client) = connected(&world);
    network.state().cut = Some("/");
    let (views, news) = views(client, Wanted::Chosen, EMPTY_HOLD).expect("views");
    world.clock.spawn(news.for_each(|()| async {}));
    world.wait(SECOND);
    assert_eq!(views.are_ready().map_err(|error| error.kind()), Err(Kind::Connect));
}
