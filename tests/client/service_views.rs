//! Views of many services on the simulated agent, on a clock that the tests advance.

use crate::support::world::World;
use bytes::Bytes;
use consul_ffi::client::view::EMPTY_HOLD;
use consul_ffi::client::views::{Views, Wanted, views};
use consul_ffi::client::{Client, Settings};
use consul_ffi::clock::{BoxFuture, Clock, ManualClock};
use consul_ffi::error::{Error, Kind};
use consul_ffi::simulate::{Retained, SimTransport};
use consul_ffi::transport::Transport;
use consul_ffi::wire::request::Defaults;
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response};
use std::collections::VecDeque;
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
    /// Requests for paths that begin with this fail.
    cut: Option<&'static str>,
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
        async move {
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

    /// With [`Wanted::Chosen`] all services but Consul's own are chosen.
    fn with(names: &[&str], wanted: Wanted) -> Self {
        let world = World::new();
        for name in names {
            register(&world, name, "w1", "10.0.0.1");
        }
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
        let client =
            Client::new(vec![Arc::clone(&network) as Arc<dyn Transport>], settings, clock, rng);
        let (views, news) = views(Arc::new(client), wanted, EMPTY_HOLD).expect("views");
        world.clock.spawn({
            let views = Arc::clone(&views);
            news.for_each(move |()| {
                views.were_told();
                while let Some((name, _)) = views.next_offered() {
                    let is_wanted = name != "consul";
                    views.choose(name, is_wanted);
                }
                async {}
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
    // The second read begins while the service is away, and ends when it is back.
    scene.network.state().delays = [SECOND, 5 * SECOND].into();
    scene.world.send("PUT", "/v1/agent/service/deregister/web-w1", "");
    scene.pass(2 * SECOND);
    assert_eq!(scene.network.reads().len(), 2);
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
