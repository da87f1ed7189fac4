//! An in-memory Consul agent.
//!
//! It implements the server side of Consul's HTTP API: statuses, headers, texts, indexes,
//! blocking queries, sessions and their locks, checks that expire, as Consul 1.21 answers. It
//! starts as a fresh server does, with its own node and the service `consul`, and nothing else.
//! Time and randomness come from outside, so that the same requests get the same answers.
//!
//! ```
//! # use std::{sync::Arc, time::Duration};
//! use consul_client::{Client, Settings};
//! use consul_process::clock::{Clock, ManualClock};
//! use consul_sim::{Agent, Options, SimTransport};
//! use consul_api::api::session;
//! use consul_api::request::{Args, Defaults};
//! use consul_api::value::Value;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let clock = ManualClock::new();
//! let agent = Arc::new(Agent::new(Options { clock: Arc::new(clock.clone()), ..Options::default() }));
//! let timers = Arc::clone(&agent);
//! clock.spawn(async move { match timers.run_timers().await {} });
//!
//! let transport = Arc::new(SimTransport::new(agent, "simulated"));
//! let settings =
//!     Settings { timeout: Duration::from_secs(5), retry_count: 3, defaults: Defaults::default() };
//! let client =
//!     Client::new(vec![transport], settings, Arc::new(clock.clone()), fastrand::Rng::with_seed(1));
//! let work = async {
//!     let definition = Value::Map(vec![("ttl".to_owned(), "10s".into())]);
//!     let id = client.call(&session::CREATE, &Args::new().arg(definition)).await?.value;
//!     // It is not renewed, so it ends, at twice its TTL at the latest. No real time passes.
//!     clock.sleep(Duration::from_secs(20)).await;
//!     client.call(&session::INFO, &Args::new().arg(id)).await
//! };
//! # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! let info = runtime.block_on(clock.drive(work))?;
//! assert_eq!(info.value, Value::Null);
//! # Ok(()) }
//! ```

pub mod acl;
pub mod agent;
mod blocking;
mod catalog;
pub mod config;
pub mod control;
pub mod dns;
mod entry;
mod event;
mod filter;
mod go;
pub mod hcl;
pub mod http;
mod key_names;
mod kv;
mod log;
mod operator;
mod query;
mod session;
pub mod settings;
mod snapshot;
mod status;
mod store;
mod txn;

use ::http::{Request, Response};
use acl::{Acl, DefaultPolicy};
use agent::checks::Prober;
use agent::probe::MachineProber;
use agent::samples::Samples;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_client::transport::Transport;
use consul_process::clock::{BoxFuture, Clock, SystemClock};
use consul_process::os;
use consul_process::sync::lock;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use log::{Level, Log};
use settings::Settings;
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

pub use control::fault::Fault;
pub use control::{Backup, Retained, Stats};
pub use key_names::KeyNames;

/// The version that the agent reports.
pub const VERSION: &str = "1.21.0";

/// The id of the check that shows whether a node's agent is alive.
const SERF_HEALTH: &str = "serfHealth";

/// The configuration of an [`Agent`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of the agent's node.
    pub node_name: String,
    /// The id of the agent's node, a UUID; by default random.
    pub node_id: Option<String>,
    /// Metadata of the agent's node, in addition to what every Consul sets.
    pub node_meta: BTreeMap<String, String>,
    /// The clock of sessions, checks and waits.
    pub clock: Arc<dyn Clock>,
    /// The seed of ids and of the jitter of waits.
    pub seed: u64,
    /// Whether JSON is indented, as an agent in dev mode does.
    pub pretty: bool,
    /// Whether the certificate authority of the mesh is on, as in dev mode.
    pub connect: bool,
    /// Access control.
    pub acl: Acl,
    /// The settings that a configuration file can change.
    pub settings: Settings,
    /// The date of the clock's origin, as the time since 1970.
    pub epoch: Duration,
    /// The I/O of checks; by default the machine's.
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
            seed: os::generator().u64(..),
            pretty: false,
            connect: true,
            acl: Acl::default(),
            settings: Settings::default(),
            epoch: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            prober: Arc::new(MachineProber),
        }
    }
}

/// A Consul in memory: an agent and the server behind it.
pub struct Agent {
    clock: Arc<dyn Clock>,
    pretty: bool,
    options: Options,
    /// The default policy as replies report it.
    default_policy: &'static str,
    state: Mutex<State>,
    log: Log,
    samples: Arc<Mutex<Samples>>,
    faults: Mutex<Vec<control::fault::ActiveFault>>,
    requests: AtomicU64,
    /// Notifies waiting requests that their connection is closed.
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
    /// An agent as a fresh server starts.
    pub fn new(options: Options) -> Self {
        let state = State::new(options.clock.now(), &options);
        Self {
            log: state.log.clone(),
            samples: Arc::clone(&state.samples),
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
        http::route::answer(self, parts, body).await.into()
    }

    /// Answers a client's request under the faults; a restart closes its connection.
    async fn exchange(
        &self,
        client: &str,
        endpoint: &str,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Error> {
        // It is notified of every restart from here on, also before its first poll.
        let restarted = pin!(self.restarted.notified());
        let answer = self.handle_with_faults(client, endpoint, request);
        match select(pin!(answer), restarted).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => {
                let message = format!("{endpoint}: the agent was restarted");
                Err(Error::new(Kind::Connect, message).with_endpoint(endpoint).retryable())
            }
        }
    }

    /// Reads the configuration files again, if the agent was made from any.
    ///
    /// # Errors
    /// The reason why the new configuration is not used.
    pub fn reload(&self) -> Result<(), String> {
        self.with(State::reload)
    }

    /// Fires the timers that are due: sessions and checks expire, each at its own moment.
    pub fn tick(&self) {
        self.with(|_| ());
    }

    /// Drives the timers, and runs the checks that the agent runs, forever.
    pub async fn run_timers(&self) -> Infallible {
        let mut running = FuturesUnordered::new();
        loop {
            running.extend(
                self.with(State::take_due_checks).into_iter().map(|due| self.run_check(due)),
            );
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

    /// Waits for `work` and drives the timers meanwhile, unless another call does. Due checks run
    /// first, since other callers may not.
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

    /// A seed for the randomness of one more client: another for each call, the same for the same
    /// seed of the agent.
    pub fn client_seed(&self) -> u64 {
        self.lock().rng.u64(..)
    }

    /// Which names of keys the server takes.
    pub fn key_names(&self) -> KeyNames {
        self.options.settings.key_names
    }

    /// The clock of sessions, checks and waits.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Runs `act` on the current state, and wakes the queries that its changes concern.
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
            let fields = [("session", &*id)];
            state.log(Level::Debug, "agent.server", "Session TTL expired", &fields);
            let index = state.next_index();
            state.end_session(&id, index);
        }
        Timer::CheckExpires(id) => state.expire_check(&id),
        Timer::RunCheck(id) => state.check_is_due(&id),
        Timer::SyncCheck(id) => state.sync_check_now(&id),
        Timer::Sync => state.sync_all(),
        Timer::ReapCritical => state.reap_critical(),
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
    /// A transport to `agent`, which error messages call `endpoint`.
    pub fn new(agent: Arc<Agent>, endpoint: impl Into<String>) -> Self {
        Self { agent, endpoint: endpoint.into(), client: String::new() }
    }

    /// The same transport for the client of this name: faults can be limited to it.
    pub fn for_client(self, client: impl Into<String>) -> Self {
        Self { client: client.into(), ..self }
    }
}

impl Transport for SimTransport {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async {
            let answer = self.agent.exchange(&self.client, &self.endpoint, request);
            self.agent.driving(answer).await
        })
    }

    fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

static AGENTS: LazyLock<Mutex<HashMap<String, Arc<Agent>>>> = LazyLock::new(Mutex::default);

/// The agent of this name in this process, created by the first call. It keeps its state as long as
/// the process lives.
pub fn shared(name: &str) -> Arc<Agent> {
    shared_or(name, Options::default)
}

/// As [`shared`], but the first call creates the agent with these options.
pub fn shared_or(name: &str, options: impl FnOnce() -> Options) -> Arc<Agent> {
    let mut agents = lock(&AGENTS);
    let agent = agents.entry(name.to_owned());
    Arc::clone(agent.or_insert_with(|| Arc::new(Agent::new(options()))))
}

#[cfg(test)]
mod tests {
    use super::control::testing::World;
    use super::*;

    fn get(path: &str) -> Request<Bytes> {
        World::request(::http::Method::GET, path, "")
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
