//! Watches and service views on real sockets when the network or the server fails. Times that are exact on a clock that
//! a test moves (watch.rs, view.rs) have slack here.

use crate::support::PATIENCE;
use crate::support::agent::serve_agent;
use crate::support::cluster::Cluster;
use crate::support::consul;
use crate::support::proxy::{Network, Proxy};
use crate::support::trials::Trials;
use consul_api as wire;
use consul_api::error::{Error, Kind};
use consul_api::request::{Args, Defaults};
use consul_api::value::Value;
use consul_client::transport::http::HttpTransport;
use consul_client::transport::{Options, Transport};
use consul_client::view::{EMPTY_HOLD, View, view};
use consul_client::watch::{Change, WatchOptions, watch};
use consul_client::{Client, Settings};
use consul_process::clock::SystemClock;
use futures_util::StreamExt;
use std::future::Future;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;

const TIMEOUT: Duration = Duration::from_secs(1);
const WAIT: Duration = Duration::from_secs(1);

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    trials.add("a_refused_watch_reports_the_outage_and_catches_up", refused);
    trials.add("a_watch_in_a_black_hole_reports_the_outage_and_catches_up", swallowed);
    let name = "a_query_whose_connection_breaks_is_sent_to_another_endpoint_without_an_outage";
    trials.add(name, broken_off);
    for version in ["1.21", "1.8"] {
        let missing = consul::is_missing(version, &format!("restarts of Consul {version}"));
        let name = format!("a_watch_and_a_view_survive_restarts [{version}]");
        trials.add_unless(missing, name, move || Cluster::start(1, version).map(restarts));
    }
    trials
}

/// Runs work on its own thread until the process ends.
fn beside<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) {
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work());
    });
}

fn client(urls: &[&str]) -> Arc<Client> {
    let transport = |url: &&str| -> Arc<dyn Transport> {
        let options = Options { connect_timeout: TIMEOUT, ..Options::default() };
        Arc::new(HttpTransport::new(url, &options).expect("a transport"))
    };
    let transports = urls.iter().map(transport).collect();
    let settings = Settings { timeout: TIMEOUT, retry_count: 3, defaults: Defaults::default() };
    let (clock, rng) = (Arc::new(SystemClock::new()), fastrand::Rng::with_seed(1));
    Arc::new(Client::new(transports, settings, clock, rng))
}

/// Repeats a call until it succeeds.
fn call(url: &str, method: &'static str, args: &Args) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let endpoint = wire::endpoint(method).expect("a method");
    let end = Instant::now() + PATIENCE;
    while let Err(error) = runtime.block_on(client(&[url]).call(endpoint, args)) {
        assert!(Instant::now() < end, "{error}");
    }
}

fn put(url: &str, value: &str) {
    call(url, "kv_put", &Args::new().arg("k").arg(value));
}

/// The reports of a watch on a key.
struct Told(mpsc::Receiver<Result<Change, Error>>);

impl Told {
    fn by(urls: &[&str]) -> Told {
        let (send, told) = mpsc::channel();
        let client = client(urls);
        beside(move || async move {
            let options = WatchOptions { wait: WAIT, ..WatchOptions::default() };
            let endpoint = wire::endpoint("kv_get").expect("a method");
            let changes = watch(client, endpoint, Args::new().arg("k"), options).expect("a watch");
            let told = changes.for_each(|change| async {
                let _ = send.send(change.map(|(change, _)| change));
            });
            told.await;
        });
        Told(told)
    }

    fn next(&self) -> Result<Change, Error> {
        self.0.recv_timeout(PATIENCE).expect("a report of the watch")
    }

    /// The state after an outage; another one may follow it.
    fn resynchronised(&self) -> Value {
        match self.next() {
            Ok(Change::Resynchronised(value)) => value,
            other => panic!("{other:?}"),
        }
    }
}

/// A simulated agent on a socket: its URL, and a proxy in front of it.
fn proxied() -> (String, Proxy) {
    let address = serve_agent();
    (format!("http://{address}"), Proxy::new(&address))
}

fn outage(network: Network, kind: Kind) {
    let (direct, proxy) = proxied();
    put(&direct, "1");
    let told = Told::by(&[&proxy.url()]);
    assert_eq!(told.next().expect("an answer"), Change::Initial("1".into()));
    proxy.set(network);
    assert_eq!(told.next().expect_err("an outage").kind(), kind);
    put(&direct, "2");
    put(&direct, "3");
    thread::sleep(Duration::from_secs(2));
    proxy.set(Network::Good);
    assert_eq!(told.resynchronised(), "3".into());
    put(&direct, "4");
    let change = told.next().expect("an answer");
    assert_eq!(change, Change::Put { id: String::new(), value: "4".into() });
}

fn refused() {
    outage(Network::Refuse, Kind::Connect);
}

fn swallowed() {
    outage(Network::BlackHole, Kind::Timeout);
}

fn broken_off() {
    let (direct, proxy) = proxied();
    put(&direct, "1");
    let told = Told::by(&[&proxy.url(), &direct]);
    assert_eq!(told.next().expect("an answer"), Change::Initial("1".into()));
    // The next query waits.
    thread::sleep(WAIT / 2);
    proxy.set(Network::Refuse);
    thread::sleep(Duration::from_secs(1));
    // Nothing has changed until here. On a busy machine the other endpoint is asked only after this.
    put(&direct, "2");
    match told.next().expect("no outage") {
        Change::Put { value, .. } | Change::Resynchronised(value) => assert_eq!(value, "2".into()),
        other => panic!("{other:?}"),
    }
}

fn register(url: &str, id: &str) {
    let definition = [("Name", "web"), ("ID", id), ("Address", "10.0.0.1")];
    let definition = definition.map(|(name, value)| (name.to_owned(), Value::from(value)));
    call(url, "agent_service_register", &Args::new().arg(Value::Map(definition.into())));
}

/// Waits until the view has these instances; meanwhile it is never empty.
fn wait_for(view: &View, wanted: &[&str], limit: Duration) {
    let end = Instant::now() + limit;
    loop {
        let list = view.all().expect("a list");
        let ids: Vec<_> = list.instances().iter().map(|one| one.id.as_str()).collect();
        if ids == wanted {
            return;
        }
        assert!(!ids.is_empty(), "it is empty");
        assert!(Instant::now() < end, "{ids:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn restarts(mut cluster: Cluster) {
    let url = format!("http://{}", cluster.address(0));
    put(&url, "1");
    register(&url, "w1");
    let told = Told::by(&[&url]);
    assert_eq!(told.next().expect("an answer"), Change::Initial("1".into()));
    let (web, answers) = view(client(&[&url]), Args::new().arg("web"), EMPTY_HOLD).expect("a view");
    let (ready, is_ready) = mpsc::channel();
    beside(move || {
        answers.for_each(move |()| {
            let _ = ready.send(());
            async {}
        })
    });
    is_ready.recv_timeout(PATIENCE).expect("an answer");
    wait_for(&web, &["w1"], PATIENCE);

    cluster.kill(0);
    assert_eq!(told.next().expect_err("an outage").kind(), Kind::Connect);
    let away = Instant::now();
    thread::sleep(Duration::from_secs(2));
    assert!(web.age().expect("an age") >= away.elapsed());
    wait_for(&web, &["w1"], Duration::ZERO);
    cluster.restart(0);
    // A server can answer before it has replayed its log.
    if told.resynchronised() != "1".into() {
        let change = told.next().expect("an answer");
        assert_eq!(change, Change::Put { id: String::new(), value: "1".into() });
    }
    put(&url, "2");
    let change = told.next().expect("an answer");
    assert_eq!(change, Change::Put { id: String::new(), value: "2".into() });

    // The same with all data lost, so that the index starts again.
    cluster.kill(0);
    assert_eq!(told.next().expect_err("an outage").kind(), Kind::Connect);
    cluster.wipe(0);
    cluster.restart(0);
    assert_eq!(told.resynchronised(), Value::Null);
    put(&url, "3");
    let change = told.next().expect("an answer");
    assert_eq!(change, Change::Put { id: String::new(), value: "3".into() });
    wait_for(&web, &["w1"], Duration::ZERO);
    register(&url, "w2");
    // Its query may have to wait until a pause of the outage is over.
    wait_for(&web, &["w2"], PATIENCE);
    assert!(web.age().expect("an age") < PATIENCE);
}
