//! Requests and replies between the nodes of a cluster.
//!
//! Each node listens at an address that its key in Consul says. A call is one POST on a connection of
//! its own; connections are kept for the next calls. Nothing here waits for the program but the
//! requests that it answers.

mod auth;
mod incoming;
mod peer;
mod server;
mod wire;

pub use auth::{ClusterKey, SHORTEST_SECRET};
pub use incoming::Request;
pub use wire::Body;

use super::{Cluster, Options, membership::Node};
use crate::clock::Instant as ClockInstant;
use crate::error::{Error, Kind};
use crate::sync::lock;
use incoming::{Outcome, Place};
use peer::Peer;
use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout_at};
use wire::Head;

/// The longest that a call may take, whatever its caller says.
const LONGEST_CALL: Duration = Duration::from_secs(3600);

/// How many times a call is made again after a failure of which the handler knows nothing.
const MOST_RETRIES: u32 = 3;

/// The longest pause before the first of them; each further one may be twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(25);

/// How many retries each call gives room for, and how many may be saved up: an outage must not
/// multiply requests.
const RETRIES_OF_A_CALL: f64 = 0.1;
const MOST_SAVED_RETRIES: f64 = 10.0;

/// How a call is made.
#[derive(Clone, Debug)]
pub struct CallOptions {
    /// The whole time that it may take, an hour at most.
    pub timeout: Duration,
    /// The shard that it is about: a node that has a newer shard map refuses it.
    pub shard: Option<u64>,
    /// Tells the handler which calls are the same one; made up when there is none.
    pub idempotency_key: Option<String>,
}

impl Default for CallOptions {
    fn default() -> Self {
        CallOptions { timeout: Duration::from_secs(5), shard: None, idempotency_key: None }
    }
}

/// Takes requests for the program.
type Deliver = Box<dyn Fn(Request) + Send + Sync>;

/// What a node has to speak with the others.
pub struct DataPlane {
    cluster: Arc<Cluster>,
    listener: Mutex<Option<TcpListener>>,
    deliver: Deliver,
    /// What the program has handlers for.
    handlers: Mutex<BTreeSet<String>>,
    /// When the program last looked for requests.
    polled: Mutex<ClockInstant>,
    waiting: Arc<AtomicUsize>,
    peers: Mutex<HashMap<String, Arc<Peer>>>,
    saved_retries: Mutex<f64>,
}

impl fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPlane").field("node", &self.options().node_id).finish_non_exhaustive()
    }
}

impl DataPlane {
    /// Listens at the node's `data_address`, and has the node's key say where. Requests go to
    /// `deliver`, which must not block.
    ///
    /// # Errors
    /// [`Kind::Config`] when the address cannot be had, or is not this machine's alone and there is no
    /// key.
    pub fn new(
        cluster: Arc<Cluster>,
        deliver: impl Fn(Request) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, Error> {
        let listener = listen(cluster.options())?;
        let bound = listener.local_addr().map_err(|error| unbound(cluster.options(), &error))?;
        cluster.advertise(advertised(cluster.options(), bound));
        let polled = Mutex::new(cluster.now());
        Ok(Arc::new(DataPlane {
            cluster,
            listener: Mutex::new(Some(listener)),
            deliver: Box::new(deliver),
            handlers: Mutex::default(),
            polled,
            waiting: Arc::default(),
            peers: Mutex::default(),
            saved_retries: Mutex::new(MOST_SAVED_RETRIES),
        }))
    }

    fn options(&self) -> &Options {
        self.cluster.options()
    }

    /// Takes requests until it is dropped. It needs a tokio runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch the listener, or when this is called again.
    pub async fn serve(self: Arc<Self>) -> io::Result<Infallible> {
        let listener = lock(&self.listener).take();
        let listener = listener.ok_or_else(|| io::Error::other("it serves already"))?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let serving = Arc::clone(&self);
        tokio::select! {
            never = server::serve(serving, listener) => match never {},
            never = self.report() => match never {},
        }
    }

    /// Says in the node's check whether the program answers.
    async fn report(&self) -> Infallible {
        loop {
            self.cluster.warn(self.refusal().map(|error| error.message().to_owned()));
            sleep(self.options().profile.beat).await;
        }
    }

    /// Says that the program has a handler of this name, or none any more.
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

    /// Says that the program looks for requests at this moment.
    pub fn poll(&self) {
        *lock(&self.polled) = self.cluster.now();
    }

    /// Whether the program answers requests: it has no handlers, or looked for requests lately.
    pub fn is_ready(&self) -> bool {
        self.refusal().is_none()
    }

    /// Why requests are not given to the program.
    fn refusal(&self) -> Option<Error> {
        if lock(&self.handlers).is_empty() {
            return None;
        }
        let (silent, limit) =
            (self.cluster.now() - *lock(&self.polled), self.options().profile.check_ttl * 2);
        (silent > limit).then(|| {
            let why = format!(
                "its program has not polled for {} ms, and {} ms are allowed",
                silent.as_millis(),
                limit.as_millis()
            );
            Error::new(Kind::NotReady, why).transient().with_status(503).not_sent()
        })
    }

    /// Calls a handler of a node, which may be this one, and waits for the reply.
    ///
    /// # Errors
    /// What the node answers, or why it does not; the message names the node.
    pub async fn call(
        &self,
        node_id: &str,
        name: &str,
        body: &Body,
        options: &CallOptions,
    ) -> Result<Body, Error> {
        let timeout = options.timeout.min(LONGEST_CALL);
        let deadline = Instant::now() + timeout;
        let call = self.attempts(node_id, name, body, options, deadline);
        let outcome = timeout_at(deadline.into(), call).await.unwrap_or_else(|_| {
            let why = format!("no reply within {} ms", timeout.as_millis());
            Err(Error::new(Kind::Timeout, why).transient())
        });
        outcome.map_err(|error| error.context(&format!("node {node_id:?}: call {name:?}")))
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
                .unwrap_or_else(|| format!("{:016x}", self.cluster.client().random())),
            deadline: Duration::ZERO,
        };
        head.check()?;
        self.save_retry();
        for attempt in 1.. {
            head.epoch = self.epoch();
            head.deadline = deadline.saturating_duration_since(Instant::now());
            let error = match self.attempt(&head, body, deadline).await? {
                Ok(reply) => return Ok(reply),
                Err(error) => error.with_attempts(attempt),
            };
            let may_repeat = error.retryable() && !error.maybe_applied();
            if !may_repeat || attempt > MOST_RETRIES || !self.take_retry() {
                return Err(error);
            }
            let longest = FIRST_PAUSE * (1 << (attempt - 1));
            sleep(longest.mul_f64(self.cluster.client().chance())).await;
        }
        unreachable!("the last attempt returns")
    }

    /// Makes a call once. What the node has no part in is the outer error, and final.
    async fn attempt(&self, head: &Head, body: &Body, deadline: Instant) -> Result<Outcome, Error> {
        if head.to == self.options().node_id {
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
        let peer = self.peer(&head.to)?;
        let _in_flight = peer.enter(self.options().max_in_flight)?;
        let outcome = peer.exchange(self.options(), head, body).await;
        Ok(outcome.map_err(|error| error.with_endpoint(&peer.address)))
    }

    /// The connections to a node.
    fn peer(&self, node_id: &str) -> Result<Arc<Peer>, Error> {
        let snapshot = self.cluster.snapshot();
        let node: &Node = snapshot.nodes.get(node_id).ok_or_else(|| {
            Error::new(Kind::NotFound, "there is no such node in the cluster").not_sent()
        })?;
        if !node.is_live {
            return Err(Error::new(Kind::Connect, "it is down").transient().not_sent());
        }
        let address = &node.record.data_address;
        if address.is_empty() {
            let why = "it takes no requests: its key says no data_address";
            return Err(Error::new(Kind::Unsupported, why).not_sent());
        }
        let mut peers = lock(&self.peers);
        if let Some(peer) = peers.get(node_id).filter(|peer| peer.address == *address) {
            return Ok(Arc::clone(peer));
        }
        peers.retain(|id, _| snapshot.nodes.contains_key(id));
        let peer = Arc::new(Peer::new(address)?);
        peers.insert(node_id.to_owned(), Arc::clone(&peer));
        Ok(peer)
    }

    /// Gives a request to the program, unless something speaks against it.
    fn admit(
        &self,
        head: Head,
        body: Body,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Outcome>, Error> {
        let Options { nodes_prefix, node_id, max_waiting_requests, .. } = self.options();
        let refuse = |status, kind, why| Err(Error::new(kind, why).with_status(status).not_sent());
        if head.cluster != *nodes_prefix {
            let why = format!("it is of the cluster {nodes_prefix:?}, not {:?}", head.cluster);
            return refuse(421, Kind::Conflict, why);
        }
        if head.to != *node_id {
            return refuse(421, Kind::Conflict, format!("at its address is the node {node_id:?}"));
        }
        if !lock(&self.handlers).contains(&head.name) {
            return refuse(404, Kind::NotFound, "it has no handler of this name".to_owned());
        }
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let epoch = self.epoch();
        if head.shard.is_some() && head.epoch < epoch {
            let why = format!(
                "stale_epoch: the caller's shard map has epoch {}, its own {epoch}",
                head.epoch
            );
            return refuse(409, Kind::Conflict, why).map_err(Error::transient);
        }
        let Some(place) = Place::take(&self.waiting, *max_waiting_requests) else {
            let why = format!(
                "{max_waiting_requests} requests wait there, and max_waiting_requests is {max_waiting_requests}"
            );
            return refuse(429, Kind::RateLimited, why).map_err(Error::transient);
        };
        let (request, outcome) = Request::new(head, body, deadline, place);
        (self.deliver)(request);
        Ok(outcome)
    }

    /// A reply that is not too large.
    fn bounded(&self, reply: Body) -> Outcome {
        let (length, most) = (reply.bytes.len(), self.options().max_reply_bytes);
        if length > most {
            let why = format!("the reply has {length} bytes, and max_reply_bytes is {most}");
            return Err(Error::new(Kind::TooLarge, why).with_status(413));
        }
        Ok(reply)
    }

    /// The epoch of this node's shard map; 0: it has none.
    fn epoch(&self) -> u64 {
        self.cluster.snapshot().map.as_ref().map_or(0, |map| map.epoch())
    }

    fn save_retry(&self) {
        let mut saved = lock(&self.saved_retries);
        *saved = (*saved + RETRIES_OF_A_CALL).min(MOST_SAVED_RETRIES);
    }

    fn take_retry(&self) -> bool {
        let mut saved = lock(&self.saved_retries);
        let is_there = *saved >= 1.0;
        *saved -= f64::from(u8::from(is_there));
        is_there
    }
}

fn unbound(options: &Options, error: &io::Error) -> Error {
    let why = format!("data_address {:?} cannot be listened at: {error}", options.data_address);
    Error::new(Kind::Config, why).not_sent()
}

/// A listener at the node's address.
fn listen(options: &Options) -> Result<TcpListener, Error> {
    let text = &options.data_address;
    let failed = |error| unbound(options, &error);
    let addresses: Vec<SocketAddr> = text.to_socket_addrs().map_err(failed)?.collect();
    if options.cluster_key.is_none() && !addresses.iter().all(|it| it.ip().is_loopback()) {
        let why = format!(
            "data_address is {text:?}, which other machines can reach: that takes a cluster_key"
        );
        return Err(Error::new(Kind::Config, why).not_sent());
    }
    let listener = TcpListener::bind(addresses.as_slice()).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Where others find a listener: what listens everywhere is found at the host of the node's address.
fn advertised(options: &Options, bound: SocketAddr) -> String {
    let host = options.node_address.rsplit_once(':').map_or("", |(host, _)| host);
    match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => format!("{host}:{}", bound.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => format!("{host}:{}", bound.port()),
        _ => bound.to_string(),
    }
}
