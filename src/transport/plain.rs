//! An agent without TLS, on a TCP port or a unix socket: connections that are kept for the next
//! request, and closed when they were idle for too long. What they say is in `http1.rs`.

use super::http::{Cause, Failure, MAX_REPLY_BYTES};
use super::http1::{Common, Incoming, MAX_HEAD_BYTES};
use super::{Options, in_place};
use crate::error::{Error, Kind};
use crate::os::{self, Patience};
use crate::sync::lock;
use ::http::header::HOST;
use ::http::{HeaderMap, HeaderValue, Request, Response, Uri};
use bytes::Bytes;
use hyper_util::client::legacy::connect::HttpConnector;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tower_service::Service as _;

/// The connections to one agent.
pub(super) struct Plain {
    target: Target,
    common: Common,
    connect_timeout: Duration,
    idle: Arc<Idle>,
}

enum Target {
    Tcp(HttpConnector, Uri),
    Unix(PathBuf),
}

impl Plain {
    /// Connections to `http://…` without a trailing slash, or `unix:///path`; none is made yet.
    ///
    /// # Errors
    /// [`Kind::Config`] when the URL is not one.
    pub(super) fn new(
        endpoint: &str,
        mut headers: HeaderMap,
        options: &Options,
    ) -> Result<Self, Error> {
        let refuse = |why: &str| Error::new(Kind::Config, format!("{endpoint}: {why}")).not_sent();
        let (target, prefix) = match endpoint.strip_prefix("unix://") {
            Some(path) => {
                // The host that the official client names too.
                headers.insert(HOST, HeaderValue::from_static("localhost"));
                (Target::Unix(path.into()), String::new())
            }
            None => {
                let url: Uri = endpoint.parse().map_err(|error| refuse(&format!("{error}")))?;
                let host = url.authority().ok_or_else(|| refuse("it has no host"))?.as_str();
                let host = HeaderValue::from_str(host).map_err(|error| refuse(&error.to_string()));
                headers.insert(HOST, host?);
                let mut connector = HttpConnector::new();
                connector.set_nodelay(true);
                // Divided among the addresses of a name.
                connector.set_connect_timeout(Some(options.connect_timeout));
                let prefix = url.path().to_owned();
                (Target::Tcp(connector, url), prefix)
            }
        };
        let common = Common::new(&prefix, &headers);
        let idle = Arc::new(Idle {
            connections: Mutex::new(Vec::new()),
            most: options.max_idle_connections,
            timeout: options.idle_timeout,
            is_watched: AtomicBool::new(false),
        });
        Ok(Plain { target, common, connect_timeout: options.connect_timeout, idle })
    }

    /// Sends a request and reads its answer.
    pub(super) async fn send(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, Failure> {
        let head = self.common.head(request);
        let request = [head.as_slice(), request.body()];
        loop {
            let kept = self.idle.take();
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => {
                    // In a box of its own, since most requests need no room for it.
                    let connection = Box::pin(self.connect()).await;
                    connection.map_err(|cause| Failure { cause, sent: false })?
                }
            };
            match connection.exchange(request).await {
                Ok((answer, is_lasting)) => {
                    if is_lasting {
                        self.idle.keep(connection);
                    }
                    return Ok(answer);
                }
                // The server closed it just now.
                Err(failure) if is_kept && !failure.sent => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn connect(&self) -> Result<Connection, Cause> {
        let limit = self.connect_timeout;
        let connection = async {
            Ok(Connection::new(match &self.target {
                Target::Unix(path) => {
                    let stream = UnixStream::connect(path).await?.into_std()?;
                    stream.set_nonblocking(false)?;
                    stream.set_read_timeout(Some(in_place::LONGEST))?;
                    stream.into()
                }
                Target::Tcp(connector, url) => {
                    let stream = connector.clone().call(url.clone()).await?;
                    let stream = stream.into_inner().into_std()?;
                    stream.set_nonblocking(false)?;
                    stream.set_read_timeout(Some(in_place::LONGEST))?;
                    stream.into()
                }
            }))
        };
        timeout(limit, connection).await.unwrap_or_else(|_| {
            let message = format!("no connection within {} ms", limit.as_millis());
            Err(io::Error::new(ErrorKind::TimedOut, message).into())
        })
    }
}

/// How many reads in a row leave the runtime no turn: a quarter of a MiB at most.
const READS_IN_PLACE: usize = 16;

/// A connection that was used so shortly before is used again without a look at it, which is a call of
/// the system. Servers close those that were idle for long.
const JUST_NOW: Duration = Duration::from_micros(100);

type Watched = AsyncFd<Arc<OwnedFd>>;

/// A connection that requests can be sent on, one after the other.
struct Connection {
    /// The socket as the runtime watches it, which it does from the first time on that a request
    /// had to wait for longer.
    watched: Option<Watched>,
    /// It blocks, for up to [`in_place::LONGEST`], unless a call says otherwise.
    socket: Arc<OwnedFd>,
    /// At its begin is what has come and belongs to no answer yet.
    buffer: Box<[u8]>,
    filled: usize,
}

impl Connection {
    fn new(socket: OwnedFd) -> Self {
        let buffer = vec![0; MAX_HEAD_BYTES].into_boxed_slice();
        Connection { watched: None, socket: Arc::new(socket), buffer, filled: 0 }
    }

    /// Sends a request, in two parts, and reads its answer; says too whether the next one can be
    /// sent.
    async fn exchange(&mut self, request: [&[u8]; 2]) -> Result<(Response<Bytes>, bool), Failure> {
        let answer = Incoming::new(MAX_REPLY_BYTES);
        let mut exchange = Exchange { connection: self, request, sent: 0, refusal: None, answer };
        match exchange.run().await {
            Err(cause) => Err(Failure { cause, sent: exchange.sent > 0 }),
            Ok(()) => {
                let is_all_sent = exchange.is_all_sent();
                let (answer, is_lasting) = exchange.answer.finish();
                // What comes unasked is no answer to the next request.
                Ok((answer, is_lasting && is_all_sent && self.filled == 0))
            }
        }
    }

    /// Has a runtime watch the socket, unless one does.
    fn watch(&mut self) -> io::Result<Watched> {
        // A runtime that has ended says so at any time.
        let mut context = Context::from_waker(Waker::noop());
        let is_alive = |watched: &Watched| {
            !matches!(watched.poll_read_ready(&mut context), Poll::Ready(Err(_)))
        };
        match self.watched.take().filter(is_alive) {
            Some(watched) => Ok(watched),
            None => os::watch(Arc::clone(&self.socket)),
        }
    }

    /// Whether the next request can be sent: the server has not closed it, and said nothing unasked.
    fn is_ready(&self) -> bool {
        os::is_silent(&self.socket)
    }
}

/// A request on its way, and its answer.
struct Exchange<'a> {
    connection: &'a mut Connection,
    request: [&'a [u8]; 2],
    sent: usize,
    /// Why the rest of the request cannot be sent. There may be an answer that says more.
    refusal: Option<io::Error>,
    answer: Incoming,
}

/// What a look at the socket gave.
enum Received {
    Nothing,
    /// All that has come.
    All,
    /// As much as there was room for.
    Part,
}

impl Exchange<'_> {
    async fn run(&mut self) -> Result<(), Cause> {
        self.send()?;
        if self.is_all_sent() && in_place::take() {
            self.connection.watched = None;
            let mut patience = Patience::ReadTimeout;
            for _ in 0..READS_IN_PLACE {
                if let Received::Nothing = self.receive(patience)? {
                    break;
                }
                if self.answer.is_whole() {
                    return Ok(());
                }
                patience = Patience::None;
            }
        }
        let watched = self.connection.watch()?;
        poll_fn(|context| self.poll(&watched, context)).await?;
        self.connection.watched = Some(watched);
        Ok(())
    }

    /// Sends and reads what can be now, until the whole answer has come.
    fn poll(&mut self, watched: &Watched, context: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        while !self.is_all_sent() && self.refusal.is_none() {
            let Poll::Ready(ready) = watched.poll_write_ready(context) else { break };
            let mut ready = ready?;
            self.send()?;
            if !self.is_all_sent() {
                ready.clear_ready();
            }
        }
        loop {
            let mut ready = ready!(watched.poll_read_ready(context))?;
            if !matches!(self.receive(Patience::None)?, Received::Part) {
                ready.clear_ready();
            }
            if self.answer.is_whole() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn is_all_sent(&self) -> bool {
        self.sent == self.request[0].len() + self.request[1].len()
    }

    /// Sends what there is room for.
    fn send(&mut self) -> io::Result<()> {
        while !self.is_all_sent() {
            let [head, body] = self.request;
            let of_head = self.sent.min(head.len());
            let rest = [&head[of_head..], &body[self.sent - of_head..]];
            match os::send(&self.connection.socket, rest) {
                Ok(count) => self.sent += count,
                Err(error) if is_for_later(&error) => break,
                Err(error) if self.sent == 0 => return Err(error),
                Err(error) => {
                    self.refusal = Some(error);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes what has come.
    fn receive(&mut self, patience: Patience) -> Result<Received, Cause> {
        let Connection { socket, buffer, filled, .. } = &mut *self.connection;
        let room = &mut buffer[*filled..];
        let all = room.len();
        let count = match os::receive(&socket, room, patience) {
            Err(error) if is_for_later(&error) => return Ok(Received::Nothing),
            Ok(count @ 1..) => count,
            end => {
                let end = end.map_err(Cause::from).and_then(|_| self.answer.end());
                // It says what was wrong first.
                return match self.refusal.take() {
                    Some(refusal) if end.is_err() => Err(refusal.into()),
                    _ => end.map(|()| Received::All),
                };
            }
        };
        *filled += count;
        let taken = self.answer.take(&buffer[..*filled])?;
        buffer.copy_within(taken..*filled, 0);
        *filled -= taken;
        Ok(if count < all { Received::All } else { Received::Part })
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// The connections that no request uses at present.
struct Idle {
    /// The one that was used last is the last.
    connections: Mutex<Vec<(Connection, Instant)>>,
    most: usize,
    timeout: Duration,
    /// Whether a task will look for those that were idle for too long.
    is_watched: AtomicBool,
}

impl Idle {
    /// A connection that is still open.
    fn take(&self) -> Option<Connection> {
        let now = Instant::now();
        loop {
            let (connection, since) = self.fresh(now).pop()?;
            if now - since < JUST_NOW || connection.is_ready() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose answer has been read to its end.
    fn keep(self: &Arc<Self>, connection: Connection) {
        let mut connections = lock(&self.connections);
        if connections.len() < self.most {
            connections.push((connection, Instant::now()));
            drop(connections);
            if !self.is_watched.swap(true, Ordering::Relaxed) {
                tokio::spawn(watch(Arc::downgrade(self), self.timeout));
            }
        }
    }

    /// The connections, without those that were idle for too long.
    fn fresh(&self, now: Instant) -> MutexGuard<'_, Vec<(Connection, Instant)>> {
        let mut connections = lock(&self.connections);
        let fresh = connections.iter().position(|(_, since)| now - *since < self.timeout);
        let stale = fresh.unwrap_or(connections.len());
        connections.drain(..stale);
        connections
    }
}

/// Closes connections that were idle for too long, as long as there are any.
async fn watch(idle: Weak<Idle>, timeout: Duration) {
    loop {
        sleep(timeout).await;
        let Some(idle) = idle.upgrade() else { return };
        if idle.fresh(Instant::now()).is_empty() {
            idle.is_watched.store(false, Ordering::Relaxed);
            return;
        }
    }
}
