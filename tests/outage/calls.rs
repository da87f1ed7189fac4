//! The client on real sockets when the network or the servers fail: through proxies that inject
//! faults, and on three real servers whose Raft leader dies. Times that are exact on a clock that a test moves
//! (failover.rs) have slack here.

use crate::support::PATIENCE;
use crate::support::agent::serve_agent;
use crate::support::cluster::Cluster;
use crate::support::consul::{self, RealConsul};
use crate::support::proxy::{Network, Proxy};
use crate::support::trials::Trials;
use consul_api as wire;
use consul_api::error::{Error, Kind};
use consul_api::request::{Args, Defaults};
use consul_api::response::Answer;
use consul_api::value::Value;
use consul_client::transport::http::HttpTransport;
use consul_client::transport::{Options, Transport};
use consul_client::{Client, Settings};
use consul_process::clock::SystemClock;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

const TIMEOUT: Duration = Duration::from_millis(2000);
/// The delay that a loaded machine may add.
const SLACK: Duration = Duration::from_millis(1000);

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let name = "of_three_endpoints_one_refuses_one_never_answers_and_one_works";
    trials.add(name, three_endpoints);
    trials.add("a_dripping_answer_is_abandoned_for_another_endpoint", dripping);
    trials.add("a_slow_answer_within_the_budget_is_waited_for", slow);
    trials.add("a_request_whose_answer_is_cut_is_sent_again", cut);
    trials.add("an_acquire_whose_answer_is_lost_is_resolved_by_a_read", || settled(proxied(2)));
    trials.add("a_compare_and_set_whose_answer_is_lost_is_not_sent_again", not_repeated);
    trials.add("a_cut_blocking_query_continues_on_another_endpoint", wait_goes_on);
    for version in ["1.21", "1.8"] {
        let missing = consul::is_missing(version, &format!("outages of Consul {version}"));
        let name = format!("reads_and_writes_survive_the_death_of_the_raft_leader [{version}]");
        trials.add_unless(missing, name, move || Cluster::start(3, version).map(leaders_death));
        let name = format!("the_outcomes_of_writes_are_true_when_the_raft_leader_dies [{version}]");
        trials.add_unless(missing, name, move || Cluster::start(3, version).map(true_outcomes));
        let name = format!("an_acquire_whose_answer_is_lost_is_resolved_by_a_read [{version}]");
        trials.add_unless(missing, name, move || {
            RealConsul::start(version).map(|consul| settled(in_front_of(&consul.address, 2)))
        });
    }
    trials
}

/// A client of some endpoints, with its own runtime.
struct Program {
    client: Client,
    runtime: Runtime,
}

impl Program {
    fn new(urls: &[String], defaults: Defaults) -> Program {
        Program::with(urls, Settings { timeout: TIMEOUT, retry_count: 3, defaults })
    }

    /// It lives through an election.
    fn patient(urls: &[String]) -> Program {
        let (timeout, retry_count) = (Duration::from_secs(30), 30);
        Program::with(urls, Settings { timeout, retry_count, defaults: Defaults::default() })
    }

    fn with(urls: &[String], settings: Settings) -> Program {
        let transports = urls.iter().map(|url| -> Arc<dyn Transport> {
            let options = Options { connect_timeout: TIMEOUT, ..Options::default() };
            Arc::new(HttpTransport::new(url, &options).expect("a transport"))
        });
        let (clock, rng) = (Arc::new(SystemClock::new()), fastrand::Rng::with_seed(1));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        Program { client: Client::new(transports.collect(), settings, clock, rng), runtime }
    }

    fn call(&self, method: &str, args: Args) -> Result<Answer, Error> {
        let endpoint = wire::endpoint(method).expect("a method");
        self.runtime.block_on(self.client.call(endpoint, &args))
    }

    fn get(&self) -> Result<Answer, Error> {
        self.call("kv_get", key())
    }

    fn put(&self) -> Result<Answer, Error> {
        self.call("kv_put", key().arg("v"))
    }
}

fn key() -> Args {
    Args::new().arg("k")
}

/// Proxies in front of one simulated agent on a socket, and a client of them all.
fn proxied(count: usize) -> (Vec<Proxy>, Program) {
    in_front_of(&serve_agent(), count)
}

/// Proxies in front of one server, and a client of them all.
fn in_front_of(address: &str, count: usize) -> (Vec<Proxy>, Program) {
    let proxies: Vec<_> = (0..count).map(|_| Proxy::new(address)).collect();
    let urls: Vec<_> = proxies.iter().map(Proxy::url).collect();
    (proxies, Program::new(&urls, Defaults::default()))
}

fn three_endpoints() {
    let (proxies, program) = proxied(3);
    proxies[0].set(Network::Refuse);
    proxies[1].set(Network::BlackHole);
    for call in [Program::put, Program::get] {
        let begun = Instant::now();
        let answer = call(&program).expect("the third one answers");
        assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
        assert_eq!(answer.meta.endpoint, proxies[2].url());
    }
    // The bad ones are left alone, and come back when they work again.
    proxies[0].set(Network::Good);
    proxies[1].set(Network::Good);
    let end = Instant::now() + PATIENCE;
    while program.get().expect("an answer").meta.endpoint != proxies[0].url() {
        assert!(Instant::now() < end, "the first one does not come back");
        std::thread::sleep(Duration::from_millis(20));
    }
    proxies[0].set(Network::Refuse);
    proxies[2].set(Network::Refuse);
    assert_eq!(program.get().expect("an answer").meta.endpoint, proxies[1].url());
}

fn dripping() {
    let (proxies, program) = proxied(2);
    proxies[0].set(Network::Drip(Duration::from_millis(100)));
    let answer = program.get().expect("the second one answers");
    assert_eq!(answer.meta.endpoint, proxies[1].url());
    let half = TIMEOUT.as_secs_f64() * 500.0;
    let took = answer.meta.request_ms;
    assert!((half..half + SLACK.as_secs_f64() * 1e3).contains(&took), "{took} ms");
}

fn slow() {
    let (proxies, program) = proxied(1);
    proxies[0].set(Network::Delay(Duration::from_millis(500)));
    let answer = program.get().expect("it answers");
    assert!(answer.meta.attempts == 1 && answer.meta.request_ms >= 500.0, "{:?}", answer.meta);
}

fn cut() {
    for bytes in [0, 20] {
        let (proxies, program) = proxied(2);
        proxies[0].set(Network::CutAfter(bytes));
        let answer = program.get().expect("the second one answers");
        assert_eq!((answer.meta.endpoint, answer.meta.attempts), (proxies[1].url(), 2));
    }
}

fn settled((proxies, program): (Vec<Proxy>, Program)) {
    let session = program.call("session_create", Args::new().arg(Value::Map(Vec::new())));
    let session = session.expect("a session").value;
    let session = session.as_str().expect("text");
    proxies[0].set(Network::CutAfter(0));
    let acquire = || key().arg("v").opt("acquire", session);
    let answer = program.call("kv_put", acquire()).expect("the session holds the lock");
    assert_eq!(answer.meta.endpoint, proxies[1].url());
    let entry = program.get().expect("an answer").meta.entry.expect("an entry");
    assert_eq!((entry.session.as_deref(), entry.lock_index), (Some(session), 1));
}

fn not_repeated() {
    let (proxies, program) = proxied(2);
    proxies[0].set(Network::CutAfter(0));
    let error = program.call("kv_put", key().arg("v").opt("cas", 0)).expect_err("it is lost");
    assert_eq!((error.kind(), error.attempts()), (Kind::Connect, 1), "{error}");
    assert!(error.maybe_applied());
    assert_eq!(proxies[1].connections(), 0);
    // The request was applied.
    assert_eq!(program.get().expect("an answer").value, Value::from("v"));
}

fn wait_goes_on() {
    let (proxies, program) = proxied(2);
    program.put().expect("it is written");
    let index = program.get().expect("an answer").meta.index.expect("an index");
    let waiting = key().opt("index", index).opt("wait", "2s");
    let begun = Instant::now();
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            proxies[0].set(Network::Refuse);
        });
        program.call("kv_get", waiting).expect("nothing changed")
    });
    let took = begun.elapsed();
    assert_eq!((answer.meta.endpoint, answer.meta.attempts), (proxies[1].url(), 2));
    let wait = Duration::from_secs(2);
    assert!((wait..wait + wait / 16 + SLACK).contains(&took), "{took:?}");
}

/// Acquires and compare-and-sets, each of its own key, while the Raft leader dies: a write that
/// succeeded is there, and one with `maybe_applied = false` is not.
fn true_outcomes(mut cluster: Cluster) {
    const WRITING: Duration = Duration::from_secs(5);
    let urls: Vec<_> = (0..3).map(|index| format!("http://{}", cluster.address(index))).collect();
    let patient = Program::patient(&urls);
    // Without checks the session outlives the server on which it was created.
    let unchecked = Value::Map(vec![("NodeChecks".to_owned(), Value::List(Vec::new()))]);
    let session = patient.call("session_create", Args::new().arg(unchecked)).expect("a session");
    let session = session.value.as_str().expect("text").to_owned();
    // Shorter than an election, so that some calls fail.
    let timeout = Duration::from_millis(500);
    let impatient = Settings { timeout, retry_count: 3, defaults: Defaults::default() };
    let program = Program::with(&urls, impatient);
    let mut outcomes = Vec::new();
    let leader = cluster.wait_for_leader();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(WRITING / 10);
            cluster.kill(leader);
        });
        while begun.elapsed() < WRITING {
            let write = Args::new().arg(format!("k/{}", outcomes.len())).arg("v");
            let write = match outcomes.len() % 2 {
                0 => write.opt("acquire", session.as_str()),
                _ => write.opt("cas", 0),
            };
            outcomes.push(program.call("kv_put", write));
        }
    });
    cluster.wait_for_leader();
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    assert!(failed > 0 && failed < outcomes.len(), "{failed} of {} failed", outcomes.len());
    for (number, outcome) in outcomes.iter().enumerate() {
        let key = Args::new().arg(format!("k/{number}")).opt("consistent", true);
        let entry = patient.call("kv_get", key).expect("an answer").meta.entry;
        match outcome {
            Ok(_) => {
                let holder = entry.unwrap_or_else(|| panic!("{number} is lost")).session;
                assert_eq!(holder.is_some(), number % 2 == 0, "{number}: {outcome:?}");
            }
            Err(error) if error.maybe_applied() => {}
            Err(error) => assert_eq!(entry, None, "{number}: {error}"),
        }
    }
}

/// Waits until a server returns this value: a follower learns of a committed write a little later.
fn wait_for_value(url: &String, value: &str) {
    let one = Program::new(std::slice::from_ref(url), Defaults::default());
    let end = Instant::now() + PATIENCE;
    let has_it = || {
        let read = one.call("kv_get", key().opt("stale", true));
        read.is_ok_and(|answer| answer.value == Value::from(value))
    };
    while !has_it() {
        assert!(Instant::now() < end, "{url} does not return the value");
    }
}

/// Stale reads succeed without a Raft leader, and a write that may be repeated waits for the next
/// leader.
fn leaders_death(mut cluster: Cluster) {
    let urls: Vec<_> = (0..3).map(|index| format!("http://{}", cluster.address(index))).collect();
    let defaults = Defaults { stale_if_error: true, ..Defaults::default() };
    let program = Program::new(&urls, defaults);
    let patient = Program::patient(&urls);
    patient.put().expect("it is written");
    urls.iter().for_each(|url| wait_for_value(url, "v"));
    let leader = cluster.wait_for_leader();
    cluster.kill(leader);
    let killed = Instant::now();
    let (mut reads, mut stale) = (0, 0);
    let mut longest = Duration::ZERO;
    // Until the next leader answers.
    loop {
        let begun = Instant::now();
        let answer = program.get().unwrap_or_else(|error| panic!("after {reads} reads: {error}"));
        longest = longest.max(begun.elapsed());
        assert_eq!(answer.value, Value::from("v"));
        reads += 1;
        stale += u32::from(answer.meta.stale);
        if stale > 0 && !answer.meta.stale {
            break;
        }
        assert!(killed.elapsed() < Duration::from_secs(60), "no Raft leader was elected");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(longest < TIMEOUT + SLACK, "{longest:?}");
    let next = cluster.wait_for_leader();
    assert_ne!(next, leader);
    cluster.restart(leader);
    cluster.kill(next);
    patient.call("kv_put", key().arg("w")).expect("it is written");
    let running = urls.iter().enumerate().filter(|(index, _)| *index != next);
    running.for_each(|(_, url)| wait_for_value(url, "w"));
    // A stopped server keeps its connections and answers nothing; the last one has no quorum.
    let stopped = cluster.wait_for_leader();
    cluster.stop(stopped);
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = program.get().expect("an answer");
        assert_eq!(answer.value, Value::from("w"));
        let took = answer.meta.request_ms;
        assert!(took < (TIMEOUT + SLACK).as_secs_f64() * 1e3, "{took} ms");
        if answer.meta.stale {
            break;
        }
        assert!(Instant::now() < end, "there is no quorum, but a leader answers");
    }
    cluster.cont(stopped);
    cluster.wait_for_leader();
    let fresh = patient.get().expect("an answer");
    assert_eq!((fresh.value, fresh.meta.stale), (Value::from("w"), false));
}
