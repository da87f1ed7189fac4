//! What a behaviour runs against, and the words in which it is written.

use crate::consul::RealConsul;
use consul_ffi::client::{Client, Settings};
use consul_ffi::clock::{Clock, SystemClock};
use consul_ffi::error::{Error, Kind};
use consul_ffi::simulate;
use consul_ffi::transport::Transport;
use consul_ffi::transport::http::HttpTransport;
use consul_ffi::wire;
use consul_ffi::wire::request::{Args, Defaults};
use consul_ffi::wire::response::Answer;
use consul_ffi::wire::value::Value;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// One behaviour: a name that says it, and the program that shows it.
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
        consul_ffi::wire::request::Args::new()$(.arg($value))*$($(.opt($name, $option))*)?
    };
}
pub(crate) use args;

/// A table as a Lua program would write it: `table!{"Name" = "web", "Port" = 80}`.
macro_rules! table {
    ($($name:literal = $value:expr),* $(,)?) => {
        consul_ffi::wire::value::Value::Map(vec![$(($name.to_string(), $value.into())),*])
    };
}
pub(crate) use table;

/// A list as a Lua program would write it.
macro_rules! list {
    ($($item:expr),* $(,)?) => { consul_ffi::wire::value::Value::List(vec![$($item.into()),*]) };
}
pub(crate) use list;

/// A Consul, simulated or real.
pub struct Target {
    pub name: &'static str,
    /// Why it cannot be had here, when it cannot.
    pub missing: Option<String>,
    address: Option<String>,
    _server: Option<RealConsul>,
}

impl Target {
    pub fn simulated() -> Target {
        Target { name: "simulated", missing: None, address: None, _server: None }
    }

    /// The simulated agent behind a socket.
    pub fn served() -> Target {
        match option_env!("CARGO_BIN_EXE_consul-sim") {
            Some(program) => Self::of("consul-sim", RealConsul::start_program(program)),
            None => Self::of("consul-sim", Err("built without the feature server".to_owned())),
        }
    }

    pub fn real(version: &'static str) -> Target {
        Self::of(version, RealConsul::start(version))
    }

    fn of(name: &'static str, server: Result<RealConsul, String>) -> Target {
        match server {
            Ok(server) => {
                let address = Some(format!("http://{}", server.address));
                Target { name, missing: None, address, _server: Some(server) }
            }
            Err(why) => Target { name, missing: Some(why), address: None, _server: None },
        }
    }

    fn transport(&self) -> Arc<dyn Transport> {
        match &self.address {
            Some(address) => {
                let transport = HttpTransport::new(address, Duration::from_secs(5));
                Arc::new(transport.expect("the address is a URL"))
            }
            None => Arc::new(simulate::SimTransport::new(
                simulate::shared("contract"),
                "simulate:contract".to_owned(),
            )),
        }
    }
}

static RUNS: AtomicU32 = AtomicU32::new(0);

/// One run of a behaviour: a client of the target, and names that no other run uses.
pub struct T {
    target: Arc<Target>,
    transport: Arc<dyn Transport>,
    client: Client,
    unique: String,
}

impl T {
    pub fn new(target: Arc<Target>, behaviour: &str) -> T {
        let transport = target.transport();
        let settings = Settings {
            timeout: Duration::from_secs(20),
            retry_count: 0,
            defaults: Defaults::default(),
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let client =
            Client::new(vec![Arc::clone(&transport)], settings, clock, fastrand::Rng::with_seed(1));
        let unique = format!("{behaviour}-{}", RUNS.fetch_add(1, Ordering::Relaxed));
        T { target, transport, client, unique }
    }

    /// Whether the target is the oldest supported Consul.
    pub fn is_1_8(&self) -> bool {
        self.target.name == "1.8"
    }

    /// A name that no other run uses: for keys, services, nodes, checks.
    pub fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.unique)
    }

    /// Makes a call.
    pub async fn call(&self, method: &str, args: Args) -> Result<Answer, Error> {
        let endpoint = wire::endpoint(method).unwrap_or_else(|| panic!("no method {method}"));
        self.client.call(endpoint, &args).await
    }

    /// Makes a call that must succeed.
    pub async fn ok(&self, method: &str, args: Args) -> Answer {
        match self.call(method, args.clone()).await {
            Ok(answer) => answer,
            Err(error) => panic!("{method} {args:?} failed: {} ({})", error, error.kind()),
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

    /// Creates a session and gives its id.
    pub async fn session(&self, definition: Value) -> String {
        let id = self.value("session_create", Args::new().arg(definition)).await;
        id.as_str().expect("an id is a string").to_owned()
    }

    /// Sends a request by itself, past the client's checks.
    pub async fn raw(&self, method: &str, target: &str, body: &str) -> Raw {
        let request = ::http::Request::builder()
            .method(method)
            .uri(target)
            .body(bytes::Bytes::copy_from_slice(body.as_bytes()))
            .expect("the request is well-formed");
        let response = self.transport.send(request).await.expect("the agent answers");
        let headers = response.headers().clone();
        let status = response.status().as_u16();
        Raw {
            status,
            headers,
            body: String::from_utf8_lossy(response.body()).trim_end().to_owned(),
        }
    }

    /// Waits until a condition holds, 10 s at most.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, condition: impl Fn() -> F) {
        let end = Instant::now() + Duration::from_secs(10);
        while !condition().await {
            assert!(Instant::now() < end, "not within 10 s: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// An answer as it came.
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
        Some(member) => member.as_str().unwrap_or_else(|| panic!("{name} is no text: {value:?}")),
        None => panic!("no {name} in {value:?}"),
    }
}

/// The texts of a member, one of each table of a list.
pub fn texts<'a>(value: &'a Value, name: &str) -> Vec<&'a str> {
    value.items().iter().map(|item| text(item, name)).collect()
}
