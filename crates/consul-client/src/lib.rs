//! The client: calls to Consul over one or several transports, and batches, watches, views, locks and
//! semaphores on top of them.
//!
//! ```
//! # use std::{sync::Arc, time::Duration};
//! use consul_client::{Client, Settings};
//! use consul_process::clock::SystemClock;
//! use consul_process::os;
//! use consul_api::error::Kind;
//! use consul_sim::{Agent, Options, SimTransport};
//! use consul_api::api::kv;
//! use consul_api::request::{Args, Defaults};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let agent = Arc::new(Agent::new(Options::default()));
//! let transport = Arc::new(SimTransport::new(agent, "simulated"));
//! let settings = Settings {
//!     timeout: Duration::from_secs(5),
//!     retry_count: 3,
//!     defaults: Defaults { consistency: Some("consistent"), ..Defaults::default() },
//! };
//! let client =
//!     Client::new(vec![transport], settings, Arc::new(SystemClock::new()), os::generator());
//! // Written only if the key does not exist.
//! let create = Args::new().arg("config").arg("v1").opt("cas", 0);
//! client.call(&kv::PUT, &create).await?;
//! let error = client.call(&kv::PUT, &create).await.expect_err("it exists");
//! assert_eq!(error.kind(), Kind::Conflict);
//! # Ok(()) }) }
//! ```

pub mod batch;
mod call;
pub mod coordination;
mod counted;
mod endpoints;
mod lost_answer;
mod refusal;
pub mod transport;
pub mod view;
pub mod views;
pub mod watch;

use crate::transport::{Expiry, Transport};
pub use call::is_endpoint_failure;
use consul_api::error::Error;
use consul_api::request::{Args, Defaults, Request};
use consul_api::response::Answer;
use consul_api::table::{Endpoint, Repeat};
use consul_process::clock::{Clock, Instant};
use consul_process::sync::lock;
use coordination::Guard;
pub use endpoints::EndpointHealth;
use endpoints::Endpoints;
use refusal::Refusals;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The options with which an agent answers from its cache.
const OF_AGENTS_CACHE: &[&str] = &["cached", "cache_control"];

/// How a client makes its calls.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The time limit of one call, all attempts together; a blocking query gets its wait in
    /// addition.
    pub timeout: Duration,
    /// How many more attempts a call makes after retryable failures, once it has asked each
    /// endpoint.
    pub retry_count: u32,
    /// Options of every call that does not set them itself.
    pub defaults: Defaults,
}

/// How long a client lets a slow Consul have the whole time limit of each call.
const SLOW: Duration = Duration::from_secs(60);

/// How long a client waits for an answer before it asks again, but for a while not.
#[derive(Debug, Default)]
struct Silence {
    patience: Option<Duration>,
    slow_until: Option<Instant>,
}

/// A client of one Consul datacenter through several agents; each can replace the others.
#[derive(Debug)]
pub struct Client {
    transports: Vec<Arc<dyn Transport>>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    rng: Mutex<fastrand::Rng>,
    endpoints: Mutex<Endpoints>,
    refusals: Mutex<Refusals>,
    silence: Mutex<Silence>,
    guard: Option<Arc<dyn Guard>>,
    /// The words of an error about an endpoint to which there is no connection.
    endpoints_from: String,
}

impl Client {
    /// A client over these transports, at least one; nothing is sent yet.
    pub fn new(
        transports: Vec<Arc<dyn Transport>>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        rng: fastrand::Rng,
    ) -> Self {
        let endpoints = Mutex::new(Endpoints::new(transports.len()));
        Client {
            transports,
            settings,
            clock,
            rng: Mutex::new(rng),
            endpoints,
            refusals: Mutex::default(),
            silence: Mutex::default(),
            guard: None,
            endpoints_from: String::new(),
        }
    }

    /// The same client, whose errors say this of an endpoint to which there is no connection.
    pub fn with_endpoints_from(self, endpoints_from: String) -> Self {
        Client { endpoints_from, ..self }
    }

    /// The same client, whose locks and semaphores `guard` releases if this process dies.
    pub fn with_guard(self, guard: Arc<dyn Guard>) -> Self {
        Client { guard: Some(guard), ..self }
    }

    /// From now on a request that may be repeated is sent again when its answer has not come within `patience`, in the time
    /// limit of its call: a silence of a moment does not cost the whole limit. After a call that got no answer within its limit
    /// requests have all of it for a minute, since a slow server may not be able to answer sooner; and for a minute after each
    /// answer that comes later than that. Other answers may come at once all the while, such as the agent's own.
    pub fn repeat_after(&self, patience: Duration) {
        *lock(&self.silence) = Silence { patience: Some(patience), slow_until: None };
    }

    /// One client for each endpoint, which asks only that one.
    pub fn each_endpoint(&self) -> Vec<Client> {
        let only = |transport: &Arc<dyn Transport>| {
            let rng = lock(&self.rng).fork();
            let (settings, clock) = (self.settings.clone(), Arc::clone(&self.clock));
            let patience = lock(&self.silence).patience;
            let client = Client::new(vec![Arc::clone(transport)], settings, clock, rng);
            Client { silence: Mutex::new(Silence { patience, slow_until: None }), ..client }
        };
        self.transports.iter().map(only).collect()
    }

    /// Closes its connections that carry no request, and from now on each one after its answer. Calls that run end as before,
    /// and further ones can be made.
    pub fn close_connections(&self) {
        self.transports.iter().for_each(|transport| transport.close());
    }

    /// How often the token of its token file has changed; `None` if it has no such file.
    pub fn token_changes(&self) -> Option<u64> {
        self.transports.first()?.token_changes()
    }

    /// Which certificates for its connections expire first, and when; `None`: they have none.
    pub fn expiry(&self) -> Option<Expiry> {
        self.transports.iter().filter_map(|transport| transport.expiry()).min()
    }

    /// Its endpoints in the order of its options, as its calls found them. Makes no request.
    pub fn endpoint_health(&self) -> Vec<EndpointHealth> {
        let (endpoints, now) = (self.endpoints(), self.clock.now());
        let health = |(index, transport): (usize, &Arc<dyn Transport>)| EndpointHealth {
            address: transport.endpoint().to_owned(),
            is_benched: endpoints.is_benched(index, now),
            latency: endpoints.latency(index),
        };
        self.transports.iter().enumerate().map(health).collect()
    }

    /// The settings that it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many requests to each endpoint may be on their way.
    pub fn max_in_flight(&self) -> usize {
        let limits = self.transports.iter().map(|transport| transport.max_in_flight());
        limits.min().unwrap_or(1)
    }

    /// The clock of its timeouts and pauses.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Makes one call: builds its request, runs it ([`Client::execute`]) and decodes the answer.
    ///
    /// # Errors
    /// An unacceptable argument, before anything is sent; then errors of the transport or the
    /// server, after the retries that the endpoint allows; an answer that cannot be decoded.
    pub async fn call(&self, endpoint: &'static Endpoint, args: &Args) -> Result<Answer, Error> {
        Ok(self.execute(&self.request(endpoint, args)?).await?.answer())
    }

    /// Makes a linearizable read, which may be a transaction that only reads, whose URL is like no other one: a cache in front
    /// of Consul that does not mark its answers has none for it.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_past_caches(
        &self,
        endpoint: &'static Endpoint,
        args: Args,
    ) -> Result<Answer, Error> {
        self.read_past_caches(endpoint, &args.opt("consistent", true)).await
    }

    /// Makes a read that is answered neither by a cache in front of Consul nor by an agent's.
    async fn read_past_caches(
        &self,
        endpoint: &'static Endpoint,
        args: &Args,
    ) -> Result<Answer, Error> {
        let args = args.clone().without(OF_AGENTS_CACHE);
        let mut request = self.past_caches(self.request(endpoint, &args)?);
        request.repeat = Repeat::Read;
        Ok(self.execute(&request).await?.answer())
    }

    /// A read whose URL is like no other one, since Consul ignores parameters that it does not know; its agents' cache does
    /// too.
    fn past_caches(&self, mut request: Request) -> Request {
        let now = self.clock().now().since_origin().as_nanos();
        let uri = request.http.uri();
        let mark = if uri.query().is_some() { '&' } else { '?' };
        if let Ok(uri) = format!("{uri}{mark}unique={now}").parse() {
            *request.http.uri_mut() = uri;
        }
        request
    }

    /// Makes a call that is not repeated by itself, and once more within the time limit if its answer was lost: also if it has
    /// not come within its patience ([`Client::repeat_after`]), since another connection may work. The first may
    /// have taken effect then: so a check-and-set is refused, and the key shows why. Of two servers behind one address,
    /// to which requests go in turn, a broken one would get each write, and the other each read before it.
    ///
    /// # Errors
    /// As [`Client::call`]; of the second they say too that it may have been applied.
    pub async fn call_again(
        &self,
        endpoint: &'static Endpoint,
        args: Args,
    ) -> Result<Answer, Error> {
        let begun = self.clock.now();
        let first = match self.patience().filter(|it| *it < self.settings.timeout) {
            Some(patience) => &args.clone().opt("timeout_ms", patience.as_millis() as u64),
            None => &args,
        };
        let lost = match self.call(endpoint, first).await {
            Err(error) if error.maybe_applied() => error,
            answered => return answered,
        };
        let left = self.settings.timeout.saturating_sub(self.clock.now() - begun).as_millis();
        if left == 0 {
            return Err(lost);
        }
        let again = self.call(endpoint, &args.opt("timeout_ms", left as u64)).await;
        again.map_err(|error| error.with_maybe_applied(true))
    }

    /// Checks a call's arguments and builds its request; nothing is sent yet.
    ///
    /// # Errors
    /// An unacceptable argument.
    pub fn request(&self, endpoint: &'static Endpoint, args: &Args) -> Result<Request, Error> {
        endpoint.request(args, &self.settings.defaults)
    }

    fn guard(&self) -> Option<&Arc<dyn Guard>> {
        self.guard.as_ref()
    }

    fn endpoints(&self) -> MutexGuard<'_, Endpoints> {
        lock(&self.endpoints)
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        lock(&self.refusals)
    }

    /// How long a request waits for an answer before it is sent again, if not for the whole time limit.
    fn patience(&self) -> Option<Duration> {
        let silence = lock(&self.silence);
        silence
            .patience
            .filter(|_| silence.slow_until.is_none_or(|until| until <= self.clock.now()))
    }

    /// Notes that a request that was sent then had an answer, or its call an end without one. `wait` is that of the server.
    fn note_time(&self, since: Instant, wait: Duration, is_answered: bool) {
        let mut silence = lock(&self.silence);
        let Some(patience) = silence.patience else { return };
        let limit = if is_answered { patience } else { self.settings.timeout };
        let now = self.clock.now();
        if (now - since).saturating_sub(wait) >= limit {
            silence.slow_until = Some(now + SLOW);
        }
    }

    /// When the pause of its waiting queries ends, which an agent refuses because of its limits.
    fn refusal_ends(&self) -> Option<Instant> {
        self.refusals().pause_ends(|| self.random_fraction())
    }

    /// A random number.
    pub fn random_u64(&self) -> u64 {
        lock(&self.rng).u64(..)
    }

    /// A random number from 0 up to 1.
    pub fn random_fraction(&self) -> f64 {
        lock(&self.rng).f64()
    }
}
