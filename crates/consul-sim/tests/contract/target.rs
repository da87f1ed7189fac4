//! The targets on which behaviours run, and the helpers for writing them.

use crate::support::PATIENCE;
use crate::support::consul::RealConsul;
use consul_api as wire;
use consul_api::error::{Error, Kind};
use consul_api::request::{Args, Defaults};
use consul_api::response::Answer;
use consul_api::value::Value;
use consul_client::transport::http::HttpTransport;
use consul_client::transport::{self, Transport};
use consul_client::{Client, Settings};
use consul_process::clock::{Clock, SystemClock};
use consul_sim as simulate;
use consul_sim::acl::{Acl, DefaultPolicy, Secret};
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};

/// The wait of a query that something ends: as long as a test waits.
pub const LONG: &str = "300s";

/// One behaviour: a name that states it, and a program that shows it.
pub struct Behaviour {
    pub name: &'static str,
    pub run: fn(T) -> Pin<Box<dyn Future<Output = ()>>>,
}

/// Lists functions `async fn(T)` as an area's behaviours.
macro_rules! behaviours {
    ($($name:ident),* $(,)?) => {
        pub const BEHAVIOURS: &[crate::target::Behaviour] =
            &[$(crate::target::Behaviour { name: stringify!($name), run: |t| Box::pin($name(t)) }),*];
    };
}
pub(crate) use behaviours;

/// A call's arguments: `args!["key", "value"; "cas" = 0]`.
macro_rules! args {
    ($($value:expr),* $(; $($name:literal = $option:expr),*)?) => {
        consul_api::request::Args::new()$(.arg($value))*$($(.opt($name, $option))*)?
    };
}
pub(crate) use args;

/// A table as a Lua program would write it: `table!{"Name" = "web", "Port" = 80}`.
macro_rules! table {
    ($($name:literal = $value:expr),* $(,)?) => {
        consul_api::value::Value::Map(vec![$(($name.to_string(), $value.into())),*])
    };
}
pub(crate) use table;

/// A list as a Lua program would write it.
macro_rules! list {
    ($($item:expr),* $(,)?) => { consul_api::value::Value::List(vec![$($item.into()),*]) };
}
pub(crate) use list;

/// A Consul, simulated or real.
pub struct Target {
    pub name: &'static str,
    /// The reason why it is not available here, if so.
    pub missing: Option<String>,
    open: Option<Server>,
    /// The same with ACLs, started when a behaviour needs it, by default policy.
    with_acls: [OnceLock<Server>; 2],
    /// Locked for writing by a behaviour that must run alone, for reading by all others.
    pub turns: RwLock<()>,
}

impl Target {
    /// The target of this name: `simulated`, `consul-sim` (the simulated agent behind a socket) or
    /// a version of Consul.
    pub fn new(name: &'static str) -> Target {
        let (open, missing) = match Server::start(name, None) {
            Ok(server) => (Some(server), None),
            Err(why) => (None, Some(why)),
        };
        let with_acls = [OnceLock::new(), OnceLock::new()];
        Target { name, missing, open, with_acls, turns: RwLock::new(()) }
    }

    /// Whether it is a process, and not an agent in this one.
    pub fn has_sockets(&self) -> bool {
        !matches!(self.open, Some(Server::Simulated(_)))
    }

    /// Its server with ACLs and this default policy.
    fn with_acls(&self, policy: DefaultPolicy) -> &Server {
        self.with_acls[policy as usize].get_or_init(|| {
            let server = Server::start(self.name, Some(policy));
            server.unwrap_or_else(|why| panic!("{} with ACLs: {why}", self.name))
        })
    }
}

/// One running Consul of a target.
enum Server {
    Simulated(Arc<simulate::Agent>),
    Process(RealConsul),
}

/// The simulated agent's management token, where it has ACLs.
const MANAGEMENT: &str = "6a1253d2-1785-24fd-91c2-f8e78c745511";

impl Server {
    fn start(target: &str, acl: Option<DefaultPolicy>) -> Result<Server, String> {
        let policy = acl.map(|policy| match policy {
            DefaultPolicy::Allow => "allow",
            DefaultPolicy::Deny => "deny",
        });
        let process = match (target, policy) {
            ("simulated", _) => {
                let acl = Acl {
                    enabled: acl.is_some(),
                    default_policy: acl.unwrap_or_default(),
                    initial_management: Some(Secret::new(MANAGEMENT)),
                    agent_token: Some(Secret::new(MANAGEMENT)),
                    ..Acl::default()
                };
                let options = simulate::Options { acl, ..simulate::Options::default() };
                return Ok(Server::Simulated(Arc::new(simulate::Agent::new(options))));
            }
            (version, Some(policy)) => RealConsul::run(version, &["--acl", policy]),
            (version, None) => RealConsul::run(version, &[]),
        };
        process.map(Server::Process)
    }

    fn transport(&self) -> Arc<dyn Transport> {
        match self {
            Server::Process(server) => {
                let address = format!("http://{}", server.address);
                let transport = HttpTransport::new(&address, &transport::Options::default());
                Arc::new(transport.expect("the address is a URL"))
            }
            Server::Simulated(agent) => {
                Arc::new(simulate::SimTransport::new(Arc::clone(agent), "simulated"))
            }
        }
    }

    fn dns(&self) -> Option<&str> {
        match self {
            Server::Process(server) => Some(&server.dns),
            Server::Simulated(_) => None,
        }
    }

    fn management(&self) -> &str {
        match self {
            Server::Process(server) => &server.token,
            Server::Simulated(_) => MANAGEMENT,
        }
    }
}

/// The differences between the versions, by behaviour.
pub static DIFFERENCES: Mutex<BTreeSet<(&str, &str)>> = Mutex::new(BTreeSet::new());

static RUNS: AtomicU32 = AtomicU32::new(0);

/// One run of a behaviour: a client of the target, and names that are unique to the run.
pub struct T {
    target: Arc<Target>,
    transport: Arc<dyn Transport>,
    client: Arc<Client>,
    dns: Option<String>,
    behaviour: &'static str,
    unique: String,
    /// The token of the client; empty without one.
    token: String,
}

impl T {
    pub fn new(target: Arc<Target>, behaviour: &'static str) -> T {
        let server = target.open.as_ref().expect("the target is there");
        let (transport, dns) = (server.transport(), server.dns().map(str::to_owned));
        let client = client(&transport, Defaults::default());
        let unique = format!("{behaviour}-{}", RUNS.fetch_add(1, Ordering::Relaxed));
        T { target, transport, client, dns, behaviour, unique, token: String::new() }
    }

    /// The same on a server of the target that has ACLs, with its management token.
    pub fn with_acls(self, policy: DefaultPolicy) -> T {
        let server = self.target.with_acls(policy);
        let (transport, dns) = (server.transport(), server.dns().map(str::to_owned));
        let token = server.management().to_owned();
        let client =
            client(&transport, Defaults { token: Some(token.clone()), ..Defaults::default() });
        T { transport, client, dns, token, ..self }
    }

    /// The same without any token.
    pub fn anonymous(&self) -> T {
        let (target, transport) = (Arc::clone(&self.target), Arc::clone(&self.transport));
        let client = client(&transport, Defaults::default());
        let (behaviour, unique, dns) = (self.behaviour, self.unique.clone(), self.dns.clone());
        T { target, transport, client, dns, behaviour, unique, token: String::new() }
    }

    /// The same with another token.
    pub fn with_token(&self, secret: &str) -> T {
        let defaults = Defaults { token: Some(secret.to_owned()), ..Defaults::default() };
        T {
            client: client(&self.transport, defaults),
            token: secret.to_owned(),
            ..self.anonymous()
        }
    }

    /// The client that makes the calls.
    pub fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client)
    }

    /// Where the target is asked by HTTP, if it has sockets.
    pub fn address(&self) -> Option<&str> {
        match self.target.open.as_ref()? {
            Server::Process(server) => Some(&server.address),
            Server::Simulated(_) => None,
        }
    }

    /// Where the target is asked by DNS.
    pub fn dns(&self) -> &str {
        self.dns.as_deref().expect("the target has sockets")
    }

    /// Whether the target is the simulated agent, in process or served.
    pub fn is_simulated(&self) -> bool {
        matches!(self.target.name, "simulated" | "consul-sim")
    }

    /// Whether the target is the oldest supported Consul, which has this difference; the suite
    /// prints a table of them.
    pub fn is_1_8(&self, difference: &'static str) -> bool {
        let row = (self.behaviour, difference);
        DIFFERENCES.lock().expect("no panic elsewhere").insert(row);
        self.target.name == "1.8"
    }

    /// A name that is unique to this run: for keys, services, nodes, checks.
    pub fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.unique)
    }

    /// Makes a call.
    pub async fn call(&self, method: &str, args: Args) -> Result<Answer, Error> {
        let endpoint = wire::endpoint(method).unwrap_or_else(|| panic!("no method {method}"));
        let end = Instant::now() + PATIENCE;
        loop {
            let outcome = self.client.call(endpoint, &args).await;
            // A real Consul that has just started, or whose root was replaced, has gauges without a number for up to
            // an interval of its metrics, and fails to write them as JSON.
            let has_no_number =
                |error: &Error| error.to_string().contains("unsupported value: NaN");
            if Instant::now() > end || !outcome.as_ref().is_err_and(has_no_number) {
                return outcome;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Makes a call that must succeed.
    pub async fn ok(&self, method: &str, args: Args) -> Answer {
        match self.call(method, args.clone()).await {
            Ok(answer) => answer,
            Err(error) => panic!("{method} {args:?} failed: {} ({})", error, error.kind()),
        }
    }

    /// Deregisters nodes of the test.
    pub async fn deregister(&self, nodes: &[&str]) {
        for node in nodes {
            self.ok("catalog_deregister", args![table! {"Node" = self.name(node)}]).await;
        }
    }

    /// The value of a call that must succeed.
    pub async fn value(&self, method: &str, args: Args) -> Value {
        self.ok(method, args).await.value
    }

    /// The index of a call that must succeed.
    pub async fn index(&self, method: &str, args: Args) -> u64 {
        self.ok(method, args).await.meta.index.expect("the answer has an index")
    }

    /// Makes a call that must fail with this kind.
    pub async fn fails(&self, method: &str, args: Args, kind: Kind) -> Error {
        match self.call(method, args.clone()).await {
            Ok(answer) => panic!("{method} {args:?} gave {:?}, not {kind}", answer.value),
            Err(error) => {
                assert_eq!(error.kind(), kind, "{method} {args:?}: {error}");
                error
            }
        }
    }

    /// Creates a session and returns its id.
    pub async fn session(&self, definition: Value) -> String {
        let id = self.value("session_create", Args::new().arg(definition)).await;
        id.as_str().expect("an id is a string").to_owned()
    }

    /// Sends a request as it is, without the client's checks.
    pub async fn raw(&self, method: &str, target: &str, body: &str) -> Raw {
        let request = ::http::Request::builder().method(method).uri(target);
        self.send(request, body).await
    }

    /// As [`Self::raw`], with the token of the client.
    pub async fn raw_own(&self, method: &str, target: &str, body: &str) -> Raw {
        let request = ::http::Request::builder().method(method).uri(target);
        self.send(request.header("x-consul-token", &self.token), body).await
    }

    /// As [`Self::raw`] without a body, with these bytes as the token.
    pub async fn raw_by(&self, method: &str, target: &str, token: &[u8]) -> Raw {
        let request = ::http::Request::builder().method(method).uri(target);
        self.send(request.header("x-consul-token", token), "").await
    }

    /// As [`Self::raw`] without a body, with this header.
    pub async fn raw_with(&self, method: &str, target: &str, name: &str, value: &str) -> Raw {
        let request = ::http::Request::builder().method(method).uri(target);
        self.send(request.header(name, value), "").await
    }

    async fn send(&self, request: ::http::request::Builder, body: &str) -> Raw {
        let body = bytes::Bytes::copy_from_slice(body.as_bytes());
        let request = request.body(body).expect("the request is well-formed");
        let response = self.transport.send(request).await.expect("the agent answers");
        let headers = response.headers().clone();
        let status = response.status().as_u16();
        Raw {
            status,
            headers,
            body: String::from_utf8_lossy(response.body()).trim_end().to_owned(),
        }
    }

    /// Waits until a condition holds.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, condition: impl Fn() -> F) {
        // The agent runs its checks late on a busy machine.
        let end = Instant::now() + PATIENCE;
        while !condition().await {
            assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn client(transport: &Arc<dyn Transport>, defaults: Defaults) -> Arc<Client> {
    let settings = Settings { timeout: Duration::from_secs(20), retry_count: 0, defaults };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    Arc::new(Client::new(vec![Arc::clone(transport)], settings, clock, fastrand::Rng::with_seed(1)))
}

/// An answer as it was received.
pub struct Raw {
    pub status: u16,
    pub headers: ::http::HeaderMap,
    pub body: String,
}

impl Raw {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Waits while something else happens.
pub async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// The text of a member of a table.
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    match value.get(name) {
        Some(member) => member.as_str().unwrap_or_else(|| panic!("{name} is not text: {value:?}")),
        None => panic!("no {name} in {value:?}"),
    }
}

/// The texts of a member, one of each table of a list.
pub fn texts<'a>(value: &'a Value, name: &str) -> Vec<&'a str> {
    value.items().iter().map(|item| text(item, name)).collect()
}
