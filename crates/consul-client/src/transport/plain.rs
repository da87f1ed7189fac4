//! Connections without TLS, over TCP or a Unix socket. They are kept for later requests and closed
//! after an idle time. The bytes on them are made and read by `http1.rs`.

use super::http1::{ReceiveBuffer, RequestHeads, ResponseParser};
use super::{Cause, Failure, Options, blocking_read};
use ::http::header::HOST;
use ::http::{HeaderValue, Request, Response, Uri};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::metrics::{self, Held};
use consul_process::os::{self, ReceiveMode};
use consul_process::sync::lock;
use hyper_util::client::legacy::connect::HttpConnector;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tower_service::Service as _;

/// The pool of connections to one agent.
pub(super) struct Plain {
    target: Target,
    heads: RequestHeads,
    connect_timeout: Duration,
    idle: Arc<Idle>,
}

enum Target {
    Tcp(HttpConnector, Uri),
    Unix(PathBuf),
}

/// Where the agent of an endpoint is.
pub(super) enum Place {
    Tcp(Uri),
    Unix(PathBuf),
}

/// The place and the heads of requests for `http://…` without a trailing slash, or `unix:///path`.
///
/// # Errors
/// [`Kind::Config`] when the URL is not valid.
pub(super) fn place(endpoint: &str, options: &Options) -> Result<(Place, RequestHeads), Error> {
    let refuse = |why: &str| Error::new(Kind::Config, format!("{endpoint}: {why}")).not_sent();
    let mut headers = options.headers();
    let (place, prefix) = match endpoint.strip_prefix("unix://") {
        Some(path) => {
            // As Consul's Go client does.
            headers.insert(HOST, HeaderValue::from_static("localhost"));
            (Place::Unix(path.into()), String::new())
        }
        None => {
            let url: Uri = endpoint.parse().map_err(|error| refuse(&format!("{error}")))?;
            let host = url.authority().ok_or_else(|| refuse("it has no host"))?.as_str();
            let host = HeaderValue::from_str(host).map_err(|error| refuse(&error.to_string()));
            headers.insert(HOST, host?);
            let prefix = url.path().to_owned();
            (Place::Tcp(url), prefix)
        }
    };
    Ok((place, RequestHeads::new(&prefix, &headers)))
}

impl Plain {
    /// A pool for `http://…` without a trailing slash, or `unix:///path`; nothing is connected yet.
    ///
    /// # Errors
    /// As [`place`].
    pub(super) fn new(endpoint: &str, options: &Options) -> Result<Self, Error> {
        let (place, heads) = place(endpoint, options)?;
        let target = match place {
            Place::Unix(path) => Target::Unix(path),
            Place::Tcp(url) => {
                let mut connector = HttpConnector::new();
                connector.set_nodelay(true);
                // Divided among the addresses of the host.
                connector.set_connect_timeout(Some(options.connect_timeout));
                Target::Tcp(connector, url)
            }
        };
        let idle = Arc::new(Idle {
            connections: Mutex::new(Vec::new()),
            max: AtomicUsize::new(options.max_idle_connections),
            timeout: options.idle_timeout,
            is_watched: AtomicBool::new(false),
        });
        Ok(Plain { target, heads, connect_timeout: options.connect_timeout, idle })
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn send(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, Failure> {
        let head = self.heads.encode(request);
        let parts = [head.as_slice(), request.body()];
        loop {
            let kept = self.idle.take();
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => {
                    // Boxed: most requests do not need it, and it would enlarge the future of each.
                    let connection = Box::pin(self.connect()).await;
                    connection.map_err(|cause| Failure { cause, sent: false })?
                }
            };
            match connection.exchange(parts, ResponseParser::of_answer_to(request)).await {
                Ok((answer, can_reuse)) => {
                    if can_reuse {
                        self.idle.keep(connection);
                    }
                    return Ok(answer);
                }
                // The server closed the idle connection.
                Err(failure) if is_kept && !failure.sent => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Closes the connections that carry no request.
    pub(super) fn close_idle(&self) {
        lock(&self.idle.connections).clear();
    }

    /// Closes them, and keeps none from now on.
    pub(super) fn close(&self) {
        self.idle.max.store(0, Ordering::Relaxed);
        self.close_idle();
    }

    async fn connect(&self) -> Result<Connection, Cause> {
        let limit = self.connect_timeout;
        let connection = async {
            Ok(Connection::new(match &self.target {
                Target::Unix(path) => {
                    let stream = UnixStream::connect(path).await?.into_std()?;
                    stream.set_nonblocking(false)?;
                    stream.set_read_timeout(Some(blocking_read::MAX_WAIT))?;
                    stream.into()
                }
                Target::Tcp(connector, url) => {
                    let stream = connector.clone().call(url.clone()).await?;
                    let stream = stream.into_inner().into_std()?;
                    stream.set_nonblocking(false)?;
                    stream.set_read_timeout(Some(blocking_read::MAX_WAIT))?;
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

/// How many reads in a row a request may make before the runtime gets a turn, and with it the timer of
/// the call: up to 256 KiB.
const MAX_READS_IN_A_ROW: usize = 16;

type Watched = AsyncFd<Arc<OwnedFd>>;

/// A connection for one request after the other.
struct Connection {
    /// The socket's registration with the runtime, made when a request has to wait for the first
    /// time.
    watched: Option<Watched>,
    /// A read blocks for up to [`blocking_read::MAX_WAIT`], unless the call is non-blocking.
    socket: Arc<OwnedFd>,
    buffer: ReceiveBuffer,
    /// Counts it.
    _open: Held,
}

impl Connection {
    fn new(socket: OwnedFd) -> Self {
        let numbers = metrics::numbers();
        numbers.connections_opened.add_one();
        let (socket, buffer) = (Arc::new(socket), ReceiveBuffer::default());
        Connection { watched: None, socket, buffer, _open: numbers.connections.hold() }
    }

    /// Sends a request, as head and body, and reads its answer. Also returns whether the connection
    /// can be used again.
    async fn exchange(
        &mut self,
        request: [&[u8]; 2],
        answer: ResponseParser,
    ) -> Result<(Response<Bytes>, bool), Failure> {
        let mut exchange =
            Exchange { connection: self, request, sent: 0, send_error: None, answer };
        match exchange.run().await {
            Err(cause) => Err(Failure { cause, sent: exchange.sent > 0 }),
            Ok(()) => {
                let is_all_sent = exchange.is_all_sent();
                let (answer, keeps_alive) = exchange.answer.finish();
                // Further bytes would be taken for the answer to the next request.
                Ok((answer, keeps_alive && is_all_sent && self.buffer.is_empty()))
            }
        }
    }

    /// Registers the socket with the runtime of this thread, unless it is registered with one.
    fn watch(&mut self) -> io::Result<Watched> {
        // Readiness in a runtime that has ended is an error.
        let mut context = Context::from_waker(Waker::noop());
        let is_alive = |watched: &Watched| {
            !matches!(watched.poll_read_ready(&mut context), Poll::Ready(Err(_)))
        };
        match self.watched.take().filter(is_alive) {
            Some(watched) => Ok(watched),
            None => os::watch(Arc::clone(&self.socket)),
        }
    }

    /// Whether the next request can be sent: the server has neither closed it nor sent anything, which
    /// would be taken for the answer.
    fn is_usable(&self) -> bool {
        os::is_idle(&self.socket)
    }
}

/// A request that is being sent, and its answer.
struct Exchange<'a> {
    connection: &'a mut Connection,
    request: [&'a [u8]; 2],
    sent: usize,
    /// The error that ended the sending. The server may have sent an answer with the reason.
    send_error: Option<io::Error>,
    answer: ResponseParser,
}

/// The outcome of one read.
enum Received {
    Nothing,
    /// The buffer had more room.
    All,
    /// The buffer is full; there may be more.
    Part,
}

impl Exchange<'_> {
    async fn run(&mut self) -> Result<(), Cause> {
        self.send()?;
        if self.is_all_sent() && blocking_read::take() {
            self.connection.watched = None;
            let mut mode = ReceiveMode::Blocking;
            for _ in 0..MAX_READS_IN_A_ROW {
                if let Received::Nothing = self.receive(mode)? {
                    break;
                }
                if self.answer.is_complete() {
                    return Ok(());
                }
                mode = ReceiveMode::NonBlocking;
            }
        }
        let watched = self.connection.watch()?;
        poll_fn(|context| self.poll(&watched, context)).await?;
        self.connection.watched = Some(watched);
        Ok(())
    }

    /// Sends and receives as the socket becomes ready, until the answer is complete. Yields after
    /// [`MAX_READS_IN_A_ROW`]: an answer may arrive without end.
    fn poll(&mut self, watched: &Watched, context: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        while !self.is_all_sent() && self.send_error.is_none() {
            let Poll::Ready(ready) = watched.poll_write_ready(context) else { break };
            let mut ready = ready?;
            self.send()?;
            if !self.is_all_sent() {
                ready.clear_ready();
            }
        }
        for _ in 0..MAX_READS_IN_A_ROW {
            let mut ready = ready!(watched.poll_read_ready(context))?;
            if !matches!(self.receive(ReceiveMode::NonBlocking)?, Received::Part) {
                ready.clear_ready();
            }
            if self.answer.is_complete() {
                return Poll::Ready(Ok(()));
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_all_sent(&self) -> bool {
        self.sent == self.request[0].len() + self.request[1].len()
    }

    /// Sends until the socket's buffer is full.
    fn send(&mut self) -> io::Result<()> {
        while !self.is_all_sent() {
            let [head, body] = self.request;
            let of_head = self.sent.min(head.len());
            let rest = [&head[of_head..], &body[self.sent - of_head..]];
            match os::send(&self.connection.socket, rest) {
                Ok(count) => self.sent += count,
                Err(error) if is_temporary(&error) => break,
                Err(error) if self.sent == 0 => return Err(error),
                Err(error) => {
                    self.send_error = Some(error);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Reads once and parses the bytes.
    fn receive(&mut self, mode: ReceiveMode) -> Result<Received, Cause> {
        let Connection { socket, buffer, .. } = &mut *self.connection;
        let room = buffer.room();
        let size = room.len();
        let count = match os::receive(&socket, room, mode) {
            Err(error) if is_temporary(&error) => return Ok(Received::Nothing),
            Ok(count @ 1..) => count,
            end => {
                let end = end.map_err(Cause::from).and_then(|_| self.answer.end_of_stream());
                // The first error is the cause.
                return match self.send_error.take() {
                    Some(send_error) if end.is_err() => Err(send_error.into()),
                    _ => end.map(|()| Received::All),
                };
            }
        };
        buffer.parse(count, &mut self.answer)?;
        Ok(if count < size { Received::All } else { Received::Part })
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// The connections without a request.
struct Idle {
    /// In the order of their last use.
    connections: Mutex<Vec<(Connection, Instant)>>,
    max: AtomicUsize,
    timeout: Duration,
    /// Whether a task closes those that were idle for too long.
    is_watched: AtomicBool,
}

impl Idle {
    /// The connection that was used last and is still open.
    fn take(&self) -> Option<Connection> {
        let now = Instant::now();
        loop {
            let (connection, _) = self.fresh(now).pop()?;
            if connection.is_usable() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for later requests.
    fn keep(self: &Arc<Self>, connection: Connection) {
        let mut connections = lock(&self.connections);
        if connections.len() < self.max.load(Ordering::Relaxed) {
            connections.push((connection, Instant::now()));
            drop(connections);
            if !self.is_watched.swap(true, Ordering::Relaxed) {
                tokio::spawn(watch(Arc::downgrade(self), self.timeout));
            }
        }
    }

    /// Closes the connections that were idle for too long; returns the others.
    fn fresh(&self, now: Instant) -> MutexGuard<'_, Vec<(Connection, Instant)>> {
        let mut connections = lock(&self.connections);
        let fresh = connections.iter().position(|(_, since)| now - *since < self.timeout);
        let stale = fresh.unwrap_or(connections.len());
        connections.drain(..stale);
        connections
    }
}

/// Closes connections that were idle for too long, until there are none left.
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
