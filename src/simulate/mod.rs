//! An in-memory Consul agent.
//!
//! It speaks Consul's HTTP semantics, not a client's: statuses, headers, texts, indexes, blocking
//! queries, sessions and their locks, checks that expire, as Consul 1.21 answers. It starts with
//! what a fresh server has, its own node and the service `consul`, and nothing else. Time and
//! randomness come from outside, so that the same requests give the same answers.

pub mod acl;
mod agent;
mod agent_health;
mod blocking;
mod catalog;
pub mod checks;
mod connect;
mod control;
mod coordinate;
mod decode;
mod definition;
mod event;
mod fault;
mod filter;
mod go;
pub mod hcl;
mod health;
mod kv;
mod local;
mod maintenance;
mod members;
mod metrics;
mod near;
mod probe;
mod proxy;
mod registration;
mod reply;
mod request;
mod route;
mod self_info;
#[cfg(feature = "server")]
pub mod serve;
mod session;
mod status;
mod store;
mod txn;
mod txn_catalog;
mod views;

use crate::clock::{BoxFuture, Clock, SystemClock};
use crate::error::{Error, Kind};
use crate::sync::lock;
use crate::transport::Transport;
use acl::{Acl, DefaultPolicy};
use bytes::Bytes;
use checks::Prober;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use probe::SocketProber;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};
use store::State;
use store::timer::Timer;
use tokio::sync::Notify;

pub use control::{Backup, Keeps, Stats};
pub use fault::Fault;

/// The one datacenter.
const DATACENTER: &str = "dc1";

/// The version that the agent says it is.
pub const VERSION: &str = "1.21.0";

/// The address of the agent's node, and of its server for other servers.
const ADDRESS: &str = "127.0.0.1";
const SERVER_ADDRESS: &str = "127.0.0.1:8300";
const SERVER_PORT: i64 = 8300;

/// The check that a node's agent itself is for the others.
const SERF_HEALTH: &str = "serfHealth";

/// What an [`Agent`] is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of the agent's node.
    pub node_name: String,
    /// The id of the agent's node, a UUID; default: a random one.
    pub node_id: Option<String>,
    /// What the agent's node says of itself, besides what every Consul says.
    pub node_meta: BTreeMap<String, String>,
    /// The time that sessions, checks and waits go by.
    pub clock: Arc<dyn Clock>,
    /// Where ids and the jitter of waits begin.
    pub seed: u64,
    /// Whether JSON is indented, as by an agent in dev mode.
    pub pretty: bool,
    /// Whether the mesh's certificate authority is on, as it is in dev mode.
    pub connect: bool,
    /// Who may do what.
    pub acl: Acl,
    /// The moment of the clock's origin, as the time since 1970 that dates are counted from.
    pub epoch: Duration,
    /// What does the I/O of checks; the machine's sockets by default.
    pub prober: Arc<dyn Prober>,
}

impl Default for Options {
    /// A node named `sim` on the machine's clock, with a random seed.
    fn default() -> Self {
        Self {
            node_name: "sim".to_owned(),
            node_id: None,
            node_meta: BTreeMap::new(),
            clock: Arc::new(SystemClock::new()),
            seed: fastrand::u64(..),
            pretty: false,
            connect: true,
            acl: Acl::default(),
            epoch: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            prober: Arc::new(SocketProber),
        }
    }
}

/// One Consul in memory: an agent and the server behind it.
pub struct Agent {
    clock: Arc<dyn Clock>,
    pretty: bool,
    options: Options,
    /// What replies say that the default policy is.
    default_policy: &'static str,
    state: Mutex<State>,
    faults: Mutex<Vec<fault::InForce>>,
    requests: AtomicU64,
    /// Tells the requests that wait that their connection is gone.
    restarted: Notify,
    timers_changed: Notify,
    /// Held by the one waiting call that drives the timers.
    driver: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl Agent {
    /// A fresh agent.
    pub fn new(options: Options) -> Self {
        let state = State::new(options.clock.now(), &options);
        Self {
            default_policy: match state.acl.default_policy() {
                DefaultPolicy::Allow => "allow",
                DefaultPolicy::Deny => "deny",
            },
            state: Mutex::new(state),
            clock: Arc::clone(&options.clock),
            pretty: options.pretty,
            options,
            faults: Mutex::default(),
            requests: AtomicU64::new(0),
            restarted: Notify::new(),
            timers_changed: Notify::new(),
            driver: tokio::sync::Mutex::new(()),
        }
    }

    /// Answers one request, whose URI is a path and a query. A blocking query waits in here; the
    /// timers that end its wait must be driven meanwhile, see [`Agent::run_timers`].
    pub async fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let (parts, body) = request.into_parts();
        route::answer(self, parts, body).await.into()
    }

    /// Does what was to happen until now: sessions and checks expire, each at its own moment.
    pub fn tick(&self) {
        self.with(|_| ());
    }

    /// Drives the timers, and runs the checks that the agent runs, for ever.
    pub async fn run_timers(&self) -> Infallible {
        let mut running = FuturesUnordered::new();
        loop {
            running.extend(self.with(State::take_due).into_iter().map(|due| self.run_check(due)));
            let deadline = self.lock().timers.next_deadline();
            let changed = pin!(self.timers_changed.notified());
            let due = self.clock.sleep_until_any(deadline);
            let finished = pin!(async {
                if running.next().await.is_none() {
                    std::future::pending().await
                }
            });
            select(select(changed, due), finished).await;
        }
    }

    /// Waits for something and drives the timers meanwhile, unless another call does. Checks whose
    /// time has come are run first: nobody else might.
    async fn driving<R>(&self, work: impl Future<Output = R>) -> R {
        self.run_due_checks().await;
        let drive = async {
            let _turn = self.driver.lock().await;
            self.run_timers().await
        };
        match select(pin!(work), pin!(drive)).await {
            Either::Left((result, _)) => result,
            Either::Right((never, _)) => match never {},
        }
    }

    /// Where the randomness of another client begins: by the agent's seed, and for each another.
    pub fn seed_of_a_client(&self) -> u64 {
        self.lock().rng.u64(..)
    }

    /// The clock that the agent goes by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Lets `act` work on the state as it is now, and tells everybody whom its changes concern.
    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let now = self.clock.now();
        while let Some((at, timer)) = state.timers.take_due(now) {
            state.now = at;
            fire(&mut state, timer);
        }
        state.now = now;
        let result = act(&mut state);
        state.refresh_aliases();
        state.publish();
        if state.timers.take_earlier() {
            self.timers_changed.notify_one();
        }
        result
    }
}

fn fire(state: &mut State, timer: Timer) {
    match timer {
        Timer::SessionExpires(id) => {
            let index = state.next_index();
            state.end_session(&id, index);
        }
        Timer::CheckExpires(id) => state.expire_check(&id),
        Timer::RunCheck(id) => state.check_is_due(&id),
        Timer::SyncCheck(id) => state.sync_check_now(&id),
        Timer::Sync => state.sync_all(),
        Timer::SweepCritical => state.sweep_critical(),
        Timer::LockDelayEnds(key) => state.end_lock_delay(&key),
        Timer::ApplyCoordinates => state.apply_coordinates(),
        Timer::ReapTombstones => state.reap(),
        Timer::TokenExpires(accessor) => {
            state.delete_token(&accessor);
        }
    }
}

/// A transport to an agent in the same process.
#[derive(Debug)]
pub struct SimTransport {
    agent: Arc<Agent>,
    endpoint: String,
    client: String,
}

impl SimTransport {
    /// A transport to `agent`, which messages call `endpoint`.
    pub fn new(agent: Arc<Agent>, endpoint: impl Into<String>) -> Self {
        Self { agent, endpoint: endpoint.into(), client: String::new() }
    }

    /// The same transport, for the client of this name: faults can concern it alone.
    pub fn for_client(self, client: impl Into<String>) -> Self {
        Self { client: client.into(), ..self }
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        let mut restarted = pin!(self.agent.restarted.notified());
        restarted.as_mut().enable();
        let answer = self.agent.handle_faulty(&self.client, &self.endpoint, request);
        match self.agent.driving(select(pin!(answer), restarted)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => {
                let message = format!("{}: the agent was restarted", self.endpoint);
                Err(Error::new(Kind::Connect, message).with_endpoint(&self.endpoint).transient())
            }
        }
    }
}

impl Transport for SimTransport {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(self.exchange(request))
    }

    fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

static AGENTS: LazyLock<Mutex<HashMap<String, Arc<Agent>>>> = LazyLock::new(Mutex::default);

/// The agent that this process knows by `name`; the first call makes it. It keeps its state as
/// long as the process lives.
pub fn shared(name: &str) -> Arc<Agent> {
    shared_or(name, Options::default)
}

/// As [`shared`], but the first call makes the agent of these options.
pub fn shared_or(name: &str, options: impl FnOnce() -> Options) -> Arc<Agent> {
    let mut agents = lock(&AGENTS);
    let agent = agents.entry(name.to_owned());
    Arc::clone(agent.or_insert_with(|| Arc::new(Agent::new(options()))))
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;
    use testing::World;

    fn get(path: &str) -> Request<Bytes> {
        World::request(http::Method::GET, path, "")
    }

    #[test]
    fn a_name_stands_for_one_agent_as_long_as_the_process_lives() {
        assert!(Arc::ptr_eq(&shared("one"), &shared("one")));
        assert!(!Arc::ptr_eq(&shared("one"), &shared("other")));
    }

    #[test]
    fn a_transport_waits_on_the_machines_clock() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let transport = SimTransport::new(Arc::new(Agent::new(Options::default())), "simulated");
        assert_eq!(transport.endpoint(), "simulated");
        let begun = std::time::Instant::now();
        let answer =
            runtime.expect("a runtime").block_on(transport.send(get("kv/a?index=9&wait=20ms")));
        assert_eq!(answer.expect("an answer").status(), 404);
        assert!(begun.elapsed() >= std::time::Duration::from_millis(20));
    }

    #[test]
    fn json_is_indented_in_dev_mode_and_on_request() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let agent = |pretty| Agent::new(Options { pretty, ..Options::default() });
        let body = |agent: Agent, path: &str| {
            let response = runtime.block_on(agent.handle(get(path)));
            String::from_utf8_lossy(response.body()).into_owned()
        };
        let list = "[\n    \"dc1\"\n]";
        assert_eq!(body(agent(true), "catalog/datacenters"), list);
        assert_eq!(body(agent(true), "catalog/datacenters?pretty"), format!("{list}\n"));
        assert_eq!(body(agent(false), "catalog/datacenters?pretty"), format!("{list}\n"));
        assert_eq!(body(agent(false), "catalog/datacenters"), "[\"dc1\"]");
    }

    #[test]
    fn a_change_wakes_one_of_ten_thousand_waiting_queries() {
        let world = World::new();
        world.put("kv/other", "1");
        let index = world.get("kv/none").index();
        let watches: Vec<_> =
            (0..10_000).map(|place| world.watch(&format!("kv/{place}?index={index}"))).collect();
        world.put("kv/5000", "1");
        let woken: Vec<_> = (0..10_000).filter(|place| watches[*place].was_woken()).collect();
        assert_eq!(woken, [5000]);
    }
}
