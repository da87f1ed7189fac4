//! The calling side: the connections to one other node.

use super::auth::{self, ClusterKey};
use super::circuit::{Circuit, FAILURES, Pass};
use super::server::{self, DEMANDS_TLS};
use super::tls::{self, Ends};
use super::wire::{self, Body, Bound, Head, MAX_HEAD_BYTES, NONCE_PATH, Signing};
use crate::{Cluster, Options};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::os::Stream;
use consul_process::sync::lock;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout};

/// The most idle connections kept for reuse. Each request in flight has its own connection, so it never
/// queues behind a request whose handler waits for it.
const MAX_IDLE: usize = 4;

/// How long an idle connection is kept: short enough that the other end does not close it while a
/// request is sent.
const MAX_IDLE_TIME: Duration = server::IDLE.saturating_sub(Duration::from_secs(10));

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a node may leave calls unanswered before it is asked for a sign of life. A handler may take
/// any time, but the node itself answers at once.
const SILENCE: Duration = Duration::from_millis(500);

/// How long a node has for a sign of life. With [`FAILURES`] in a row a silent node is avoided in less
/// than 3 s.
const SIGN_OF_LIFE: Duration = Duration::from_millis(750);

const _: () = assert!(SILENCE.as_millis() + SIGN_OF_LIFE.as_millis() * FAILURES as u128 <= 3000);

/// The connections to another node at one address.
#[derive(Debug)]
pub(super) struct Peer {
    pub address: String,
    /// The start of the node that listens there.
    pub incarnation: String,
    pub circuit: Circuit,
    /// Since when no call has been answered; None: none waits.
    silent_since: Mutex<Option<Instant>>,
    is_asked: AtomicBool,
    host: HeaderValue,
    idle: Mutex<Vec<Connection>>,
    calls_in_flight: Arc<AtomicUsize>,
    service_calls_in_flight: Arc<AtomicUsize>,
}

/// A call in flight, counted until it is dropped.
pub(super) struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Connection {
    requests: SendRequest<Full<Bytes>>,
    /// The other node's nonce.
    nonce: String,
    /// The configuration of TLS with which it was made.
    tls: Option<Arc<Ends>>,
    counter: u64,
    made: Instant,
    last_used: Instant,
}

/// The reason why a request has no reply.
enum Failure {
    /// The connection was closed before the request was sent.
    NotSent,
    Final(Error),
}

impl Failure {
    /// Whether there was no answer because the connection failed.
    fn is_of_connection(&self) -> bool {
        match self {
            Failure::NotSent => true,
            Failure::Final(error) => error.kind() == Kind::Connect,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Final(error)
    }
}

impl Peer {
    pub fn new(address: &str, incarnation: &str) -> Result<Self, Error> {
        let host = HeaderValue::from_str(address).map_err(|_| {
            Error::new(Kind::Connect, format!("its data_address {address:?} is invalid")).not_sent()
        })?;
        Ok(Peer {
            address: address.to_owned(),
            incarnation: incarnation.to_owned(),
            circuit: Circuit::default(),
            silent_since: Mutex::default(),
            is_asked: AtomicBool::new(false),
            host,
            idle: Mutex::default(),
            calls_in_flight: Arc::default(),
            service_calls_in_flight: Arc::default(),
        })
    }

    /// Counts a call in flight, apart from the others if it is a request to a service.
    ///
    /// # Errors
    /// [`Kind::RateLimited`] if `limit` calls are in flight.
    pub fn enter(&self, of_service: bool, limit: usize) -> Result<InFlight, Error> {
        let counter =
            if of_service { &self.service_calls_in_flight } else { &self.calls_in_flight };
        let call = InFlight(Arc::clone(counter));
        if counter.fetch_add(1, Ordering::Relaxed) >= limit {
            let why = format!("too many calls to it are in flight: max_in_flight is {limit}");
            return Err(Error::new(Kind::RateLimited, why).retryable().not_sent());
        }
        Ok(call)
    }

    /// Sends a request and reads the reply. Asks for a sign of life when there is no answer.
    pub async fn call(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        tls: Option<Arc<Ends>>,
        head: &Head,
        body: &Body,
        pass: Pass<'_>,
    ) -> Result<Body, Error> {
        tokio::select! {
            outcome = self.exchange(cluster, tls.clone(), head, body, pass) => outcome,
            never = self.watch_silence(cluster, tls.clone()) => match never {},
        }
    }

    async fn exchange(
        &self,
        cluster: &Cluster,
        tls: Option<Arc<Ends>>,
        head: &Head,
        body: &Body,
        pass: Pass<'_>,
    ) -> Result<Body, Error> {
        let options = cluster.options();
        // A trial takes a new connection that the node itself answers.
        let mut trial = pass.is_trial.then_some(pass);
        loop {
            let kept = if trial.is_none() { self.take(tls.as_ref()) } else { None };
            let is_kept = kept.is_some();
            let needs_nonce = options.cluster_key.is_some() || trial.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect(cluster, needs_nonce, tls.clone()).await?,
            };
            trial = None;
            let exchanged = connection.exchange(&self.host, options, head, body).await;
            if !matches!(&exchanged, Err(failure) if failure.is_of_connection()) {
                self.answered();
            }
            match exchanged {
                Ok(outcome) => {
                    self.keep(connection);
                    return outcome;
                }
                Err(Failure::NotSent) if is_kept => {}
                Err(Failure::NotSent) => return Err(refused("it closes connections at once")),
                Err(Failure::Final(error)) => return Err(error),
            }
        }
    }

    /// Notes a sign of life.
    fn answered(&self) {
        *lock(&self.silent_since) = None;
        if self.circuit.answered() {
            tracing::info!(address = self.address, "a node that was avoided answers again");
        }
    }

    /// Asks for a sign of life once the node has left calls unanswered for [`SILENCE`].
    async fn watch_silence(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        tls: Option<Arc<Ends>>,
    ) -> Infallible {
        loop {
            let since = *lock(&self.silent_since).get_or_insert_with(Instant::now);
            if since.elapsed() >= SILENCE {
                break;
            }
            sleep_until((since + SILENCE).into()).await;
        }
        if !self.is_asked.swap(true, Ordering::Relaxed) {
            // Not a part of the call, which may have a shorter timeout.
            tokio::spawn(Arc::clone(self).ask_for_sign_of_life(Arc::clone(cluster), tls));
        }
        pending().await
    }

    /// Tries an avoided node again, at once and not at the next call: an operator who looks is told that it answers.
    pub fn try_again(self: Arc<Self>, cluster: &Arc<Cluster>, tls: Option<Arc<Ends>>) {
        if self.is_asked.swap(true, Ordering::Relaxed) {
            return;
        }
        let cluster = Arc::clone(cluster);
        tokio::spawn(async move {
            let connected = self.connect_within(SIGN_OF_LIFE, &cluster, true, tls).await;
            connected.into_iter().for_each(|connection| self.keep(connection));
            self.is_asked.store(false, Ordering::Relaxed);
        });
    }

    async fn ask_for_sign_of_life(self: Arc<Self>, cluster: Arc<Cluster>, tls: Option<Arc<Ends>>) {
        for _ in 0..FAILURES {
            if self.circuit.is_open() {
                break;
            }
            let next = Instant::now() + SIGN_OF_LIFE;
            if let Ok(connection) =
                self.connect_within(SIGN_OF_LIFE, &cluster, true, tls.clone()).await
            {
                self.keep(connection);
                break;
            }
            sleep_until(next.into()).await;
        }
        self.is_asked.store(false, Ordering::Relaxed);
    }

    /// An idle connection, unless the files of TLS have changed since it was made.
    fn take(&self, tls: Option<&Arc<Ends>>) -> Option<Connection> {
        let is_current = |it: &Connection| it.tls.as_ref().map(Arc::as_ptr) == tls.map(Arc::as_ptr);
        let mut idle = lock(&self.idle);
        idle.retain(|connection| connection.is_usable() && is_current(connection));
        idle.pop()
    }

    fn keep(&self, mut connection: Connection) {
        connection.last_used = Instant::now();
        let mut idle = lock(&self.idle);
        idle.retain(Connection::is_usable);
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    async fn connect(
        &self,
        cluster: &Cluster,
        needs_nonce: bool,
        tls: Option<Arc<Ends>>,
    ) -> Result<Connection, Error> {
        self.connect_within(CONNECT_TIMEOUT, cluster, needs_nonce, tls).await
    }

    /// Connects, and notes whether the node can be reached.
    async fn connect_within(
        &self,
        limit: Duration,
        cluster: &Cluster,
        needs_nonce: bool,
        tls: Option<Arc<Ends>>,
    ) -> Result<Connection, Error> {
        let began = cluster.now();
        let connected = self.open(limit, needs_nonce, tls).await;
        match &connected {
            // The machine has accepted the connection, the node has not answered yet.
            Ok(connection) if connection.nonce.is_empty() => {}
            Err(error) if error.kind() == Kind::Connect => {
                let random = cluster.client().random_fraction();
                if self.circuit.failed(
                    (began, cluster.now()),
                    error.message(),
                    random,
                    cluster.numbers,
                ) {
                    lock(&self.idle).clear();
                    tracing::warn!(address = self.address, %error, "a node is avoided");
                }
            }
            _ => self.answered(),
        }
        connected
    }

    async fn open(
        &self,
        limit: Duration,
        needs_nonce: bool,
        tls: Option<Arc<Ends>>,
    ) -> Result<Connection, Error> {
        let connected = timeout(limit, async {
            let stream = TcpStream::connect(&self.address);
            let stream = stream.await.map_err(|error| refused(&error.to_string()))?;
            // A request is one write; waiting for more would only delay it.
            let _ = stream.set_nodelay(true);
            let (requests, nonce) = match &tls {
                Some(ends) => self.begin(Box::new(ends.connect(stream).await?), true).await?,
                None => self.begin(Box::new(stream), needs_nonce).await?,
            };
            let now = Instant::now();
            Ok(Connection { requests, nonce, tls, counter: 0, made: now, last_used: now })
        });
        connected.await.unwrap_or_else(|_| {
            let why = format!("no connection within {} ms", limit.as_millis());
            Err(refused(&why))
        })
    }

    /// Begins HTTP. The nonce is the first answer of the other side, which with TLS may be that it refuses
    /// this node's certificate.
    async fn begin(
        &self,
        stream: Box<dyn Stream>,
        needs_nonce: bool,
    ) -> Result<(SendRequest<Full<Bytes>>, String), Error> {
        let handshake =
            http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).handshake(TokioIo::new(stream));
        let (mut requests, connection) =
            handshake.await.map_err(|error| refused(&error.to_string()))?;
        let mut connection = Box::pin(connection);
        let mut nonce = String::new();
        if needs_nonce {
            let mut asked = pin!(ask_for_nonce(&mut requests, &self.host));
            let ended = tokio::select! {
                answer = &mut asked => Ok(answer?),
                ended = &mut connection => Err(ended),
            };
            nonce = match ended {
                Ok(nonce) => nonce,
                Err(ended) => {
                    // A request without an answer fails once its connection is dropped. The answer may
                    // have come before the end.
                    drop(connection);
                    let why = ended.err().and_then(|ended| tls::reason(&ended));
                    return Err(match asked.await {
                        Ok(_) => refused("it closes connections at once"),
                        Err(error) => why.unwrap_or(error).not_sent(),
                    });
                }
            };
        }
        tokio::spawn(connection);
        Ok((requests, nonce))
    }
}

/// The error for a node that could not be reached, so that the request was not sent.
fn refused(why: &str) -> Error {
    Error::new(Kind::Connect, why).retryable().not_sent()
}

async fn ask_for_nonce(
    requests: &mut SendRequest<Full<Bytes>>,
    host: &HeaderValue,
) -> Result<String, Error> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = Uri::from_static(NONCE_PATH);
    request.headers_mut().insert(HOST, host.clone());
    let response = requests.send_request(request).await;
    let response = response.map_err(|error| match broken(&error).not_sent() {
        error if error.kind() == Kind::Connect => error.retryable(),
        error => error,
    })?;
    wire::check_version(response.headers()).map_err(Error::not_sent)?;
    if wire::demands_tls(response.headers()) {
        return Err(Error::new(Kind::Tls, DEMANDS_TLS).not_sent());
    }
    let Some(nonce) = wire::nonce(response.headers()).map(str::to_owned) else {
        return Err(Error::new(
            Kind::Decode,
            "it returns no nonce: it is not a node of this cluster",
        )
        .not_sent());
    };
    // The rest of the response must be read before the next one.
    let rest = Limited::new(response.into_body(), MAX_HEAD_BYTES).collect().await;
    rest.map_err(|error| Error::new(Kind::Decode, error.to_string()).not_sent())?;
    Ok(nonce)
}

/// The error for a failed connection.
fn broken(error: &hyper::Error) -> Error {
    if let Some(error) = tls::reason(error) {
        return error;
    }
    if error.is_parse() {
        return Error::new(Kind::Decode, format!("its answer is not valid HTTP: {error}"));
    }
    Error::new(Kind::Connect, format!("the connection broke: {error}"))
}

impl Connection {
    fn is_usable(&self) -> bool {
        let may_be_expired = self.tls.is_some() && self.made.elapsed() >= tls::MAX_AGE;
        !self.requests.is_closed() && self.last_used.elapsed() < MAX_IDLE_TIME && !may_be_expired
    }

    async fn exchange(
        &mut self,
        host: &HeaderValue,
        options: &Options,
        head: &Head,
        body: &Body,
    ) -> Result<Result<Body, Error>, Failure> {
        self.counter += 1;
        let key = options.cluster_key.as_ref();
        let nonce = key.map(|_| auth::nonce()).transpose()?.unwrap_or_default();
        let signing = key.map(|key| Signing {
            key,
            connection: &self.nonce,
            nonce: &nonce,
            counter: self.counter,
        });
        let request = head.request(host, body, signing.as_ref())?;
        let signature = wire::signature(request.headers()).map(str::to_owned);
        // The connection's task may still be reading the end of the last response.
        if self.requests.ready().await.is_err() {
            return Err(Failure::NotSent);
        }
        let response = match self.requests.try_send_request(request).await {
            Ok(response) => response,
            Err(error) if error.message().is_some() => return Err(Failure::NotSent),
            Err(error) => return Err(broken(error.error()).into()),
        };
        wire::check_version(response.headers())?;
        let Some((key, signature)) = key.zip(signature) else {
            return Ok(wire::outcome(read(response, options.max_reply_bytes).await?));
        };
        check(response.headers(), key, &signature)?;
        let response = read(response, options.max_reply_bytes).await?;
        if !wire::has_signed_body(response.headers(), response.body()) {
            return Err(denied("the body of its answer does not match its signed digest").into());
        }
        Ok(wire::outcome(response))
    }
}

/// Checks by its head that a reply answers the request with this signature.
fn check(headers: &HeaderMap, key: &ClusterKey, request: &str) -> Result<(), Error> {
    let is_signed = wire::signer(headers, key, Bound::ToRequest(request)).is_some();
    let why = "its answer is not signed with this node's cluster_key for this request";
    if is_signed { Ok(()) } else { Err(denied(why)) }
}

fn denied(why: &str) -> Error {
    Error::new(Kind::PermissionDenied, why)
}

async fn read(response: Response<Incoming>, most: usize) -> Result<Response<Bytes>, Error> {
    let too_large = || {
        let why = format!("its reply is too large: max_reply_bytes is {most}");
        Error::new(Kind::TooLarge, why)
    };
    let (parts, body) = response.into_parts();
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(Response::from_parts(parts, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(match error.downcast_ref() {
            Some(error) => broken(error),
            None => Error::new(Kind::Connect, error.to_string()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};

    async fn connection(tls: Option<Arc<Ends>>) -> (Connection, DuplexStream) {
        let (here, there) = duplex(64);
        let (requests, task) = http1::handshake(TokioIo::new(here)).await.expect("a connection");
        tokio::spawn(task);
        let nonce = String::new();
        let now = Instant::now();
        (Connection { requests, nonce, tls, counter: 0, made: now, last_used: now }, there)
    }

    #[test]
    fn a_connection_is_used_again_unless_it_was_idle_for_too_long_or_is_closed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let peer = Peer::new("127.0.0.1:1", "").expect("an address");
            let (mut kept, there) = connection(None).await;
            kept.requests.ready().await.expect("it is open");
            peer.keep(kept);
            let kept = peer.take(None).expect("it is fresh");
            peer.keep(kept);
            // As if the time had passed.
            let long_ago = Instant::now().checked_sub(MAX_IDLE_TIME).expect("a time");
            lock(&peer.idle)[0].last_used = long_ago;
            assert!(peer.take(None).is_none());
            drop(there);

            let (kept, there) = connection(None).await;
            peer.keep(kept);
            drop(there);
            while !lock(&peer.idle)[0].requests.is_closed() {
                tokio::task::yield_now().await;
            }
            assert!(peer.take(None).is_none());
        });
    }
    #[test]
    fn a_connection_ends_after_a_time_in_which_certificates_may_have_expired() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let peer = Peer::new("127.0.0.1:1", "").expect("an address");
            let (ends, _) = tls::tests::node();
            let (mut kept, _there) = connection(Some(Arc::clone(&ends))).await;
            kept.requests.ready().await.expect("it is open");
            peer.keep(kept);
            let kept = peer.take(Some(&ends)).expect("it is fresh");
            peer.keep(kept);
            let long_ago = Instant::now().checked_sub(tls::MAX_AGE).expect("a time");
            lock(&peer.idle)[0].made = long_ago;
            assert!(peer.take(Some(&ends)).is_none());
        });
    }
}
