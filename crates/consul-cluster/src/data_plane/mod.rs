//! Requests and replies between the nodes of a cluster.
//!
//! Each node listens at the `data_address` in its key. A call is one POST; each call in flight has its
//! own connection, and idle connections are reused. Only the requests themselves wait for the program.

pub(super) mod auth;
mod circuit;
mod incoming;
mod peer;
mod server;
mod strangers;
pub(super) mod tls;
mod wire;

pub use auth::{ClusterKey, MIN_SECRET_BYTES};
pub use incoming::{Request, Service};
pub(crate) use strangers::Busiest;
pub use tls::DataTls;
pub use wire::Body;
pub(crate) use wire::MAX_NAME_BYTES;

use super::{Cluster, Node, Options};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::clock::{Instant as ClockInstant, ManualClock};
use consul_process::metrics::{self, Page, Source, table};
use consul_process::sync::lock;
use futures_util::future::join_all;
use incoming::{Awaited, Outcome, QueueSlot};
use peer::Peer;
use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tls::Tls;
use tokio::time::{sleep, timeout_at};
use wire::Head;

/// The upper limit of a call's timeout.
const MAX_CALL_TIME: Duration = Duration::from_secs(3600);

/// The most retries of a call; it is retried only if its handler has not seen it.
pub const MAX_RETRIES: u32 = 3;

/// The longest random pause before the first retry; it doubles with each further one.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(25);

/// The retries that each call adds to the retry budget of the node, and the most that the budget holds,
/// so that an outage does not multiply requests.
const RETRY_BUDGET_PER_CALL: f64 = 0.1;
const MAX_RETRY_BUDGET: f64 = 10.0;

/// The service by which nodes find out whether they accept each other's signatures, and its time limit.
const KEY_CHECK: &str = "cluster/greeting";

/// An address at which nobody answers.
const NOBODY: &str = "127.0.0.1:1";
const KEY_CHECK_TIME: Duration = Duration::from_secs(1);

/// The options of a call.
#[derive(Clone, Debug)]
pub struct CallOptions {
    /// The time limit of the whole call with its retries; up to an hour.
    pub timeout: Duration,
    /// The shard that the call is about: a node with a newer shard map refuses the call.
    pub shard: Option<u64>,
    /// The same for all calls that the handler must treat as one; by default a random key.
    pub idempotency_key: Option<String>,
    /// How often the call is retried if no handler can have seen it; up to [`MAX_RETRIES`], and while
    /// the node's retry budget lasts.
    pub retries: u32,
    /// Whether it is a request to a service ([`DataPlane::set_service`]): these count apart, so that a service
    /// that is slow on one node does not use up the `max_in_flight` calls to it.
    pub of_service: bool,
    /// Whether the node is asked although it may be down in Consul: such a call is not in the numbers.
    pub is_down: bool,
}

impl Default for CallOptions {
    fn default() -> Self {
        CallOptions {
            timeout: Duration::from_secs(5),
            shard: None,
            idempotency_key: None,
            retries: MAX_RETRIES,
            of_service: false,
            is_down: false,
        }
    }
}

/// A service, and the number of its requests that run.
type Served = (Service, Arc<AtomicUsize>);

/// The function that passes a request to the program.
type Deliver = Box<dyn Fn(Request) + Send + Sync>;

/// The calls between this node and the other nodes.
pub struct DataPlane {
    cluster: Arc<Cluster>,
    listener: Mutex<Option<TcpListener>>,
    deliver: Deliver,
    /// The names of the program's handlers.
    handlers: Mutex<BTreeSet<String>>,
    /// When the program last polled for requests.
    polled: Mutex<ClockInstant>,
    waiting: Arc<AtomicUsize>,
    /// The requests that are served in the background, by name.
    services: Mutex<HashMap<String, Served>>,
    peers: Mutex<HashMap<String, Arc<Peer>>>,
    retry_budget: Mutex<f64>,
    tls: Option<Tls>,
    /// The nodes that a test has cut off.
    #[cfg(feature = "sabotage")]
    cut: Mutex<BTreeSet<String>>,
}

impl fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPlane").field("node", &self.options().node_id).finish_non_exhaustive()
    }
}

impl DataPlane {
    /// Listens at the node's `data_address` and publishes the bound address in the node's key. Requests
    /// are passed to `deliver`, which must not block. An observer only calls.
    ///
    /// # Errors
    /// [`Kind::Config`] if it cannot listen at the address, if other machines can reach the address and
    /// there is neither `cluster_key` nor `data_tls`, or if a file of `data_tls` cannot be used.
    pub fn new(
        cluster: Arc<Cluster>,
        deliver: impl Fn(Request) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, Error> {
        let Options { data_tls, observer, .. } = cluster.options();
        let tls = data_tls.as_ref().map(|files| Tls::new(files, *observer)).transpose()?;
        let listener = if cluster.options().observer {
            None
        } else {
            let listener = listen(cluster.options())?;
            let bound =
                listener.local_addr().map_err(|error| unbound(cluster.options(), &error))?;
            cluster.advertise(advertised(cluster.options(), bound));
            Some(listener)
        };
        let polled = Mutex::new(cluster.now());
        let plane = Arc::new(DataPlane {
            cluster,
            listener: Mutex::new(listener),
            deliver: Box::new(deliver),
            handlers: Mutex::default(),
            polled,
            waiting: Arc::default(),
            services: Mutex::default(),
            peers: Mutex::default(),
            retry_budget: Mutex::new(MAX_RETRY_BUDGET),
            tls,
            #[cfg(feature = "sabotage")]
            cut: Mutex::default(),
        });
        let checked: Service = Arc::new(|_| Box::pin(async { Ok(Body::bytes(Bytes::new())) }));
        plane.set_service(KEY_CHECK, Some(checked));
        Ok(plane)
    }

    pub(crate) fn options(&self) -> &Options {
        self.cluster.options()
    }

    /// Accepts requests until this future is dropped. Requires a tokio runtime.
    ///
    /// # Errors
    /// If the runtime cannot use the listener, on a second call, and for an observer.
    pub async fn serve(self: Arc<Self>) -> io::Result<Infallible> {
        let listener = lock(&self.listener).take();
        let listener = listener.ok_or_else(|| io::Error::other("there is no listener to serve"))?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let _shown = metrics::register(Arc::downgrade(&self) as _);
        let serving = Arc::clone(&self);
        tokio::select! {
            never = server::serve(serving, listener) => match never {},
            never = self.report() => match never {},
        }
    }

    /// Sets the node's check to warning while the program does not poll.
    async fn report(&self) -> Infallible {
        loop {
            self.cluster.set_warning(self.refusal().map(|error| error.message().to_owned()));
            sleep(self.options().profile.beat).await;
        }
    }

    /// Registers or removes the name of a handler.
    pub fn set_handler(&self, name: &str, is_there: bool) {
        let mut handlers = lock(&self.handlers);
        if handlers.is_empty() {
            self.poll();
        }
        if is_there {
            handlers.insert(name.to_owned());
        } else {
            handlers.remove(name);
        }
    }

    /// Registers or removes the service of a name. Its requests do not reach the program, and need not wait
    /// until it polls. A request that was begun runs to its end, also after its caller has gone; up to
    /// `max_waiting_requests` of a service run at a time, so that the wait for a program which does not poll does not
    /// stop the others.
    pub fn set_service(&self, name: &str, service: Option<Service>) {
        let mut services = lock(&self.services);
        match service {
            Some(service) => services.insert(name.to_owned(), (service, Arc::default())),
            None => services.remove(name),
        };
    }

    /// The node's clock, if a test moves it.
    pub fn manual_clock(&self) -> Option<&ManualClock> {
        self.cluster.client.clock().as_manual()
    }

    /// Records that the program polls for requests now.
    pub fn poll(&self) {
        *lock(&self.polled) = self.cluster.now();
    }

    /// Whether the program answers requests: it has no handlers, or has polled recently.
    pub fn is_ready(&self) -> bool {
        self.refusal().is_none()
    }

    /// The error for requests while the program does not poll.
    fn refusal(&self) -> Option<Error> {
        if lock(&self.handlers).is_empty() {
            return None;
        }
        let (silent, limit) =
            (self.cluster.now() - *lock(&self.polled), self.options().profile.check_ttl * 2);
        (silent > limit).then(|| {
            let why = format!(
                "its program has not polled for {} ms, up to {} ms are allowed",
                silent.as_millis(),
                limit.as_millis()
            );
            Error::new(Kind::NotReady, why).retryable().with_status(503).not_sent()
        })
    }

    /// When other nodes begin to refuse this node's certificate, in Unix seconds; `None`: it has none, or that is years away.
    pub fn certificate_expires_s(&self) -> Option<u64> {
        self.tls.as_ref()?.current().expires.map(|time| time.as_secs())
    }

    /// Calls a handler of a node, which may be this one, and waits for the reply.
    ///
    /// # Errors
    /// The error that the node answers with, or the reason why there is no answer; the message names the
    /// node and the handler.
    pub async fn call(
        &self,
        node_id: &str,
        name: &str,
        body: &Body,
        options: &CallOptions,
    ) -> Result<Body, Error> {
        let timeout = options.timeout.min(MAX_CALL_TIME);
        let begun = Instant::now();
        let deadline = begun + timeout;
        let call = self.attempts(node_id, name, body, options, deadline);
        let outcome = timeout_at(deadline.into(), call).await.unwrap_or_else(|_| {
            let why = format!("no reply within {} ms", timeout.as_millis());
            Err(Error::new(Kind::Timeout, why).retryable())
        });
        // A node that is down is not expected to answer.
        if !options.is_down {
            let numbers = self.cluster.numbers;
            numbers.sent.add(&outcome);
            numbers.durations.add(begun.elapsed());
        }
        outcome.map_err(|error| error.context(&label(node_id, name)))
    }

    /// Finds out whether a node and this one accept each other's signatures.
    ///
    /// # Errors
    /// [`Kind::PermissionDenied`] if one of them refuses the other; otherwise the reason why there is no answer.
    pub async fn check_key(&self, node_id: &str) -> Result<(), Error> {
        let options = CallOptions {
            timeout: KEY_CHECK_TIME,
            retries: 0,
            of_service: true,
            ..CallOptions::default()
        };
        match self.call(node_id, KEY_CHECK, &Body::bytes(Bytes::new()), &options).await {
            // A node of an earlier release, whose signed answer says so.
            Err(error) if error.status() == Some(404) => Ok(()),
            checked => checked.map(|_| ()),
        }
    }

    /// Calls a handler of each of these nodes once, all at the same time.
    pub async fn broadcast(
        &self,
        node_ids: Vec<String>,
        name: &str,
        body: &Body,
        options: &CallOptions,
    ) -> Vec<(String, Result<Body, Error>)> {
        let node_ids = BTreeSet::from_iter(node_ids);
        let snapshot = self.cluster.snapshot();
        let own = self.options().member_id();
        let is_known = |id: &String| snapshot.nodes.contains_key(id) || own == Some(id.as_str());
        // There may be any number of others.
        let (known, others): (Vec<String>, Vec<String>) = node_ids.into_iter().partition(is_known);
        let calls = known.into_iter().map(async |id| {
            let outcome = self.call(&id, name, body, options).await;
            (id, outcome)
        });
        let mut outcomes = join_all(calls).await;
        outcomes.extend(others.into_iter().map(|id| {
            let error = no_such_node().context(&label(&id, name));
            (id, Err(error))
        }));
        outcomes
    }

    async fn attempts(
        &self,
        node_id: &str,
        name: &str,
        body: &Body,
        options: &CallOptions,
        deadline: Instant,
    ) -> Result<Body, Error> {
        let (length, most) = (body.bytes.len(), self.options().max_request_bytes);
        if length > most {
            let why = format!("the request has {length} bytes, and max_request_bytes is {most}");
            return Err(Error::new(Kind::TooLarge, why).not_sent());
        }
        let key = options.idempotency_key.clone();
        let mut head = Head {
            cluster: self.options().nodes_prefix.clone(),
            from: self.options().node_id.clone(),
            to: node_id.to_owned(),
            name: name.to_owned(),
            epoch: 0,
            shard: options.shard,
            idempotency_key: key
                .unwrap_or_else(|| format!("{:016x}", self.cluster.client().random_u64())),
            deadline: Duration::ZERO,
        };
        head.check()?;
        self.earn_retry();
        for attempt in 1.. {
            head.epoch = self.cluster.epoch();
            head.deadline = deadline.saturating_duration_since(Instant::now());
            let made = self.attempt(&head, body, options, deadline).await;
            let error = match made.map_err(|error| error.with_attempts(attempt - 1))? {
                Ok(reply) => return Ok(reply),
                Err(error) => error.with_attempts(attempt),
            };
            let may_repeat = error.is_retryable() && !error.maybe_applied();
            if !may_repeat || attempt > options.retries.min(MAX_RETRIES) || !self.spend_retry() {
                let said = format!("tried {attempt} times");
                return Err(if attempt > 1 { error.with_note(&said) } else { error });
            }
            self.cluster.numbers.retries.add_one();
            let longest = FIRST_RETRY_PAUSE * (1 << (attempt - 1));
            sleep(longest.mul_f64(self.cluster.client().random_fraction())).await;
        }
        unreachable!("the last attempt returns")
    }

    /// Makes one attempt. The outer error is of this node alone, and final.
    async fn attempt(
        &self,
        head: &Head,
        body: &Body,
        options: &CallOptions,
        deadline: Instant,
    ) -> Result<Outcome, Error> {
        if head.to == self.options().node_id && !self.options().observer {
            return Ok(match self.admit(head.clone(), body.clone(), deadline) {
                Ok(outcome) => outcome
                    .await
                    .unwrap_or_else(|_| {
                        Err(Error::new(Kind::Closed, "it was stopped before it replied"))
                    })
                    .and_then(|reply| self.bounded(reply)),
                Err(error) => Err(error),
            });
        }
        let peer = self.peer(&head.to, options.is_down)?;
        let _in_flight = peer.enter(options.of_service, self.options().max_in_flight)?;
        let tls = self.tls.as_ref().map(Tls::current);
        let pass = peer.circuit.enter(self.cluster.now());
        let pass = pass.map_err(|error| error.with_endpoint(&peer.address))?;
        let outcome = peer.call(&self.cluster, tls, head, body, pass).await;
        Ok(outcome.map_err(|error| error.with_endpoint(&peer.address)))
    }

    /// The live nodes that calls avoid since they do not answer; each is tried again.
    pub(crate) fn avoided(&self) -> Vec<String> {
        let snapshot = self.cluster.snapshot();
        let mut avoided = Vec::new();
        for (id, peer) in lock(&self.peers).iter().filter(|(_, peer)| peer.circuit.is_open()) {
            let node = snapshot.nodes.get(id).filter(|node| node.is_live);
            if node.is_some_and(|node| node.record.incarnation == peer.incarnation) {
                let tls = self.tls.as_ref().map(Tls::current);
                Arc::clone(peer).try_again(&self.cluster, tls);
                avoided.push(id.clone());
            }
        }
        avoided
    }

    /// Lets calls to a node find nobody.
    #[cfg(feature = "sabotage")]
    pub fn cut_off(&self, node_id: &str, is_cut: bool) {
        let mut cut = lock(&self.cut);
        match is_cut {
            true => _ = cut.insert(node_id.to_owned()),
            false => _ = cut.remove(node_id),
        }
    }

    #[cfg(feature = "sabotage")]
    fn is_cut(&self, node_id: &str) -> bool {
        lock(&self.cut).contains(node_id)
    }

    #[cfg(not(feature = "sabotage"))]
    fn is_cut(&self, _: &str) -> bool {
        false
    }

    /// The connections to a node. To a node that is down they are not kept, and its silence opens no circuit.
    fn peer(&self, node_id: &str, is_down: bool) -> Result<Arc<Peer>, Error> {
        let snapshot = self.cluster.snapshot();
        let node: &Node = snapshot.nodes.get(node_id).ok_or_else(no_such_node)?;
        let is_live = self.cluster.may_live(node);
        if !is_live && !is_down {
            // That it does not answer says nothing new.
            lock(&self.peers).remove(node_id);
            return Err(Error::new(Kind::Connect, "it is down").retryable().not_sent());
        }
        let address = &node.record.data_address;
        if address.is_empty() {
            let why = "it accepts no requests: its key has no data_address";
            return Err(Error::new(Kind::Unsupported, why).not_sent());
        }
        let address = if self.is_cut(node_id) { NOBODY } else { address };
        let incarnation = &node.record.incarnation;
        if !is_live {
            return Ok(Arc::new(Peer::new(address, incarnation)?));
        }
        let mut peers = lock(&self.peers);
        let is_current = |it: &&Arc<Peer>| it.address == address && it.incarnation == *incarnation;
        if let Some(peer) = peers.get(node_id).filter(is_current) {
            return Ok(Arc::clone(peer));
        }
        peers.retain(|id, _| snapshot.nodes.contains_key(id));
        let peer = Arc::new(Peer::new(address, incarnation)?);
        peers.insert(node_id.to_owned(), Arc::clone(&peer));
        Ok(peer)
    }

    /// Checks a request and passes it to its service or to the program.
    fn admit(&self, head: Head, body: Body, deadline: Instant) -> Result<Awaited, Error> {
        let Options { nodes_prefix, node_id, max_waiting_requests, .. } = self.options();
        let refuse = |status, kind, why| Err(Error::new(kind, why).with_status(status).not_sent());
        if head.cluster != *nodes_prefix {
            let why = format!("it belongs to the cluster {nodes_prefix:?}, not {:?}", head.cluster);
            return refuse(421, Kind::Conflict, why);
        }
        if head.to != *node_id {
            let why = format!("the node at that address is {node_id:?}");
            return refuse(421, Kind::Conflict, why);
        }
        let full = |what: &str| {
            let why = format!("its {what} full: max_waiting_requests is {max_waiting_requests}");
            refuse(429, Kind::RateLimited, why).map_err(Error::retryable)
        };
        let service = lock(&self.services).get(&head.name).cloned();
        if let Some((service, running)) = service {
            return match QueueSlot::take(&running, *max_waiting_requests) {
                Some(slot) => Ok(Awaited::of_service(service(body), slot)),
                None => full("places for requests in the background are"),
            };
        }
        if !lock(&self.handlers).contains(&head.name) {
            return refuse(404, Kind::NotFound, "it has no handler of this name".to_owned());
        }
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let epoch = self.cluster.epoch();
        if head.shard.is_some() && head.epoch < epoch {
            let why = format!(
                "stale_epoch: the caller's shard map has epoch {}, the node's has {epoch}",
                head.epoch
            );
            return refuse(409, Kind::Conflict, why).map_err(Error::retryable);
        }
        let Some(slot) = QueueSlot::take(&self.waiting, *max_waiting_requests) else {
            return full("queue is");
        };
        let (request, outcome) = Request::new(head, body, deadline, slot);
        (self.deliver)(request);
        Ok(outcome)
    }

    /// The reply, or an error if it is larger than `max_reply_bytes`.
    fn bounded(&self, reply: Body) -> Outcome {
        let (length, most) = (reply.bytes.len(), self.options().max_reply_bytes);
        if length > most {
            let why = format!("the reply has {length} bytes, and max_reply_bytes is {most}");
            return Err(Error::new(Kind::TooLarge, why).with_status(413));
        }
        Ok(reply)
    }

    fn earn_retry(&self) {
        let mut saved = lock(&self.retry_budget);
        *saved = (*saved + RETRY_BUDGET_PER_CALL).min(MAX_RETRY_BUDGET);
    }

    fn spend_retry(&self) -> bool {
        let mut saved = lock(&self.retry_budget);
        let is_there = *saved >= 1.0;
        *saved -= f64::from(u8::from(is_there));
        is_there
    }
}

impl Source for DataPlane {
    fn write(&self, page: &mut Page) {
        let labels = &[self.options().nodes_prefix.as_str(), &self.options().node_id];
        page.level(&table::WAITING, labels, self.waiting.load(Ordering::Relaxed) as f64);
        if let Some(seconds) = self.certificate_expires_s() {
            page.at_most(&table::CERTIFICATE_EXPIRY, labels, seconds as f64);
        }
    }
}

/// The name of a call in errors.
fn label(node_id: &str, name: &str) -> String {
    format!("node {node_id:?}: call {name:?}")
}

fn no_such_node() -> Error {
    Error::new(Kind::NotFound, "there is no such node in the cluster").not_sent()
}

/// The error for a request that no handler has seen.
fn refusal(status: u16, kind: Kind, why: impl Into<String>) -> Error {
    Error::new(kind, why).with_status(status).not_sent()
}

fn unbound(options: &Options, error: &io::Error) -> Error {
    let address = &options.data_address;
    let why = if error.kind() == io::ErrorKind::AddrInUse {
        format!(
            "data_address {address:?} is in use by another node or program: choose another port, or port 0 for any free one"
        )
    } else {
        format!("cannot listen at data_address {address:?}: {error}")
    };
    Error::new(Kind::Config, why).not_sent()
}

/// Binds the node's `data_address`.
fn listen(options: &Options) -> Result<TcpListener, Error> {
    let text = &options.data_address;
    let failed = |error| unbound(options, &error);
    let addresses: Vec<SocketAddr> = text.to_socket_addrs().map_err(failed)?.collect();
    let has_proof = options.cluster_key.is_some() || options.data_tls.is_some();
    if !has_proof && !addresses.iter().all(|it| it.ip().is_loopback()) {
        let why = format!(
            "data_address is {text:?}, which other machines can reach: a cluster_key or data_tls is required"
        );
        return Err(Error::new(Kind::Config, why).not_sent());
    }
    let is_everywhere = |it: &SocketAddr| it.ip().is_unspecified();
    if options.node_address.is_empty() && addresses.iter().any(is_everywhere) {
        let why = format!(
            "data_address is {text:?}, all addresses of the machine, of which the host of node_address \
             is published: node_address must be `host:port`"
        );
        return Err(Error::new(Kind::Config, why).not_sent());
    }
    let listener = TcpListener::bind(addresses.as_slice()).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// The address at which other nodes reach a listener: one on all addresses of the machine is published
/// with the host of `node_address`.
fn advertised(options: &Options, bound: SocketAddr) -> String {
    let host = options.node_address.rsplit_once(':').map_or("", |(host, _)| host);
    match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => format!("{host}:{}", bound.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => format!("{host}:{}", bound.port()),
        _ => bound.to_string(),
    }
}
