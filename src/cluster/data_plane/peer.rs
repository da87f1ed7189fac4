//! The side that makes requests: the connections to one other node.

use super::auth::ClusterKey;
use super::server;
use super::wire::{self, Body, Head, MAX_HEAD_BYTES, NONCE, NONCE_PATH, Signing};
use crate::cluster::Options;
use crate::error::{Error, Kind};
use crate::sync::lock;
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How many connections are kept for the next requests. One in flight has a connection of its own:
/// it never waits behind one whose handler waits for it.
const MOST_IDLE: usize = 4;

/// How long a connection is kept: not so long that the other end closes it while a request is sent.
const LONGEST_IDLE: Duration = server::IDLE.saturating_sub(Duration::from_secs(10));

/// How long it may take to be connected.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Another node, at one address.
#[derive(Debug)]
pub(super) struct Peer {
    pub address: String,
    host: HeaderValue,
    idle: Mutex<Vec<Connection>>,
    in_flight: Arc<AtomicUsize>,
}

/// One of the calls that are under way to a node.
pub(super) struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Connection {
    requests: SendRequest<Full<Bytes>>,
    /// Empty without a key.
    nonce: String,
    counter: u64,
    /// When it was used last.
    used: Instant,
}

/// Why a request has no reply, and whether the node was told of it.
enum Failure {
    /// It was not, because the connection was closed meanwhile.
    NotSent,
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Final(error)
    }
}

impl Peer {
    pub fn new(address: &str) -> Result<Self, Error> {
        let host = HeaderValue::from_str(address).map_err(|_| {
            Error::new(Kind::Connect, format!("{address:?} is no address")).not_sent()
        })?;
        let (address, idle) = (address.to_owned(), Mutex::default());
        Ok(Peer { address, host, idle, in_flight: Arc::default() })
    }

    /// A place among the calls that are under way.
    ///
    /// # Errors
    /// [`Kind::RateLimited`] when there are `most`.
    pub fn enter(&self, most: usize) -> Result<InFlight, Error> {
        let place = InFlight(Arc::clone(&self.in_flight));
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= most {
            let why = format!("{most} calls to it are under way, and max_in_flight is {most}");
            return Err(Error::new(Kind::RateLimited, why).transient().not_sent());
        }
        Ok(place)
    }

    /// Sends a request and reads the reply.
    pub async fn exchange(
        &self,
        options: &Options,
        head: &Head,
        body: &Body,
    ) -> Result<Body, Error> {
        loop {
            let kept = self.take();
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect(options.cluster_key.is_some()).await?,
            };
            match connection.exchange(&self.host, options, head, body).await {
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

    fn take(&self) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        idle.retain(Connection::is_usable);
        idle.pop()
    }

    fn keep(&self, mut connection: Connection) {
        connection.used = Instant::now();
        let mut idle = lock(&self.idle);
        idle.retain(Connection::is_usable);
        if idle.len() < MOST_IDLE {
            idle.push(connection);
        }
    }

    async fn connect(&self, has_key: bool) -> Result<Connection, Error> {
        let connected = timeout(CONNECT_LIMIT, async {
            let stream = TcpStream::connect(&self.address);
            let stream = stream.await.map_err(|error| refused(&error.to_string()))?;
            // A request is one write; waiting for more would only delay it.
            let _ = stream.set_nodelay(true);
            let handshake =
                http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).handshake(TokioIo::new(stream));
            let (mut requests, connection) =
                handshake.await.map_err(|error| refused(&error.to_string()))?;
            tokio::spawn(connection);
            let mut nonce = String::new();
            if has_key {
                nonce = ask_for_nonce(&mut requests, &self.host).await?;
            }
            Ok(Connection { requests, nonce, counter: 0, used: Instant::now() })
        });
        connected.await.unwrap_or_else(|_| {
            let why = format!("no connection within {} ms", CONNECT_LIMIT.as_millis());
            Err(refused(&why))
        })
    }
}

/// The error for a node that nothing was said to.
fn refused(why: &str) -> Error {
    Error::new(Kind::Connect, why).transient().not_sent()
}

async fn ask_for_nonce(
    requests: &mut SendRequest<Full<Bytes>>,
    host: &HeaderValue,
) -> Result<String, Error> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = Uri::from_static(NONCE_PATH);
    request.headers_mut().insert(HOST, host.clone());
    let response = requests.send_request(request).await;
    let response = response.map_err(|error| broken(&error).not_sent())?;
    let nonce = response.headers().get(NONCE).and_then(|nonce| nonce.to_str().ok());
    let Some(nonce) = nonce.filter(|nonce| !nonce.is_empty()).map(str::to_owned) else {
        return Err(Error::new(Kind::Decode, "it gives no nonce, as a node would").not_sent());
    };
    // What is left of the response would come before the next one.
    let rest = Limited::new(response.into_body(), MAX_HEAD_BYTES).collect().await;
    rest.map_err(|error| Error::new(Kind::Decode, error.to_string()).not_sent())?;
    Ok(nonce)
}

/// What is wrong with a connection.
fn broken(error: &hyper::Error) -> Error {
    if error.is_parse() {
        return Error::new(Kind::Decode, format!("its answer is no HTTP response: {error}"));
    }
    Error::new(Kind::Connect, format!("the connection broke: {error}"))
}

impl Connection {
    fn is_usable(&self) -> bool {
        !self.requests.is_closed() && self.used.elapsed() < LONGEST_IDLE
    }

    async fn exchange(
        &mut self,
        host: &HeaderValue,
        options: &Options,
        head: &Head,
        body: &Body,
    ) -> Result<Result<Body, Error>, Failure> {
        self.counter += 1;
        let counter = self.counter;
        let key = options.cluster_key.as_ref();
        let signing = key.map(|key| Signing { key, nonce: &self.nonce, counter });
        let request = head.request(host, body, signing.as_ref())?;
        // Its task may still be busy with the end of the last response.
        if self.requests.ready().await.is_err() {
            return Err(Failure::NotSent);
        }
        let response = match self.requests.try_send_request(request).await {
            Ok(response) => response,
            Err(error) if error.message().is_some() => return Err(Failure::NotSent),
            Err(error) => return Err(broken(error.error()).into()),
        };
        let response = read(response, options.max_reply_bytes).await?;
        if let Some(key) = key {
            self.check(key, &response)?;
        }
        Ok(wire::outcome(response))
    }

    /// Whether a reply is one to the last request, of a node that has the key.
    fn check(&self, key: &ClusterKey, response: &Response<Bytes>) -> Result<(), Error> {
        let headers = response.headers();
        let counter = wire::is_signed(headers, "reply", key, &self.nonce);
        if counter == Some(self.counter) && wire::is_signed_body(headers, response.body()) {
            return Ok(());
        }
        let why = "its answer is not signed with this node's cluster_key";
        let denied = Error::new(Kind::PermissionDenied, why);
        Err(denied.with_status(response.status().as_u16()))
    }
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
