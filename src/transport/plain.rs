//! An agent without TLS, on a TCP port or a unix socket: connections that are kept for the next
//! request, and closed when they were idle for too long.

use super::Options;
use super::http::Failure;
use crate::error::{Error, Kind};
use crate::sync::lock;
use ::http::header::HOST;
use ::http::{HeaderMap, HeaderValue, Request, Response, Uri};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};
use tower_service::Service as _;

/// The connections to one agent.
pub(super) struct Plain {
    target: Target,
    /// What every request says that does not say otherwise.
    headers: HeaderMap,
    connect_timeout: Duration,
    idle: Arc<Idle>,
}

enum Target {
    /// A TCP port; the path is put before that of each request.
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
        let target = match endpoint.strip_prefix("unix://") {
            Some(path) => {
                // The host that the official client names too.
                headers.insert(HOST, HeaderValue::from_static("localhost"));
                Target::Unix(path.into())
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
                Target::Tcp(connector, url)
            }
        };
        let idle = Arc::new(Idle {
            connections: Mutex::new(Vec::new()),
            most: options.max_idle_connections,
            timeout: options.idle_timeout,
            is_watched: AtomicBool::new(false),
        });
        Ok(Plain { target, headers, connect_timeout: options.connect_timeout, idle })
    }

    /// Sends a request; the answer's body is still to be read, by [`Connection::drive`].
    pub(super) async fn send(
        &self,
        request: Request<Bytes>,
    ) -> Result<(Connection, Response<Incoming>), Failure> {
        let mut request = self.addressed(request)?;
        loop {
            let kept = self.idle.take().await;
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().await.map_err(|cause| Failure { cause, sent: false })?,
            };
            let answer = connection.sender.try_send_request(request);
            match connection.drive(answer).await {
                Ok(answer) => return Ok((connection, answer)),
                Err(mut error) => match error.take_message() {
                    // The server closed the kept connection before anything was sent on it.
                    Some(unsent) if is_kept => request = unsent,
                    unsent => {
                        let cause = error.into_error().into();
                        return Err(Failure { cause, sent: unsent.is_none() });
                    }
                },
            }
        }
    }

    /// Keeps a connection whose answer has been read to its end.
    pub(super) fn keep(&self, connection: Connection) {
        self.idle.keep(connection);
    }

    /// The request as this agent gets it.
    fn addressed(&self, request: Request<Bytes>) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = request.map(Full::new);
        if let Target::Tcp(_, url) = &self.target
            && url.path() != "/"
        {
            let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
            let target = format!("{}{target}", url.path()).parse();
            *request.uri_mut() =
                target.map_err(|error| Failure { cause: Box::from(error), sent: false })?;
        }
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            headers.entry(name).or_insert_with(|| value.clone());
        }
        Ok(request)
    }

    async fn connect(&self) -> Result<Connection, Box<dyn StdError + Send + Sync>> {
        let limit = self.connect_timeout;
        let connection = async {
            let stream = match &self.target {
                Target::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
                Target::Tcp(connector, url) => {
                    Stream::Tcp(connector.clone().call(url.clone()).await?.into_inner())
                }
            };
            Ok(Connection::start(stream).await?)
        };
        timeout(limit, connection).await.unwrap_or_else(|_| {
            let message = format!("no connection within {} ms", limit.as_millis());
            Err(io::Error::new(io::ErrorKind::TimedOut, message).into())
        })
    }
}

/// A connection that requests can be sent on, one after the other.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Writes and reads; it is over when the connection is.
    work: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Connection {
    async fn start(stream: Stream) -> Result<Self, hyper::Error> {
        let (sender, work) = http1::handshake(TokioIo::new(stream)).await?;
        // How it fails, the request learns too.
        Ok(Connection { sender, work: Box::pin(work.map(drop).fuse()) })
    }

    /// Lets the connection work while somebody waits for what it does. A task of its own would have
    /// to be woken, and to wake this one in turn, for each thing that passes between them.
    pub(super) async fn drive<R>(&mut self, exchange: impl Future<Output = R>) -> R {
        let mut exchange = pin!(exchange);
        poll_fn(|context| {
            if let Poll::Ready(done) = exchange.as_mut().poll(context) {
                return Poll::Ready(done);
            }
            let _ = self.work.as_mut().poll(context);
            exchange.as_mut().poll(context)
        })
        .await
    }

    /// Whether the next request can be sent: the server has not closed it.
    async fn is_ready(&mut self) -> bool {
        let work = poll_fn(|context| Poll::Ready(self.work.as_mut().poll(context))).await;
        work.is_pending() && self.sender.is_ready()
    }
}

/// A socket whose end is seen by a read at any time. Tokio's own reads believe, after one that gave
/// less than was asked for, that there is nothing more until the runtime has looked; so a connection
/// that the server closed meanwhile would be taken for an open one.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Calls a method of the socket, which both kinds have.
macro_rules! socket {
    ($stream:expr, $socket:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($socket) => $call,
            Stream::Unix($socket) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(socket!(&*self, socket => socket.poll_read_ready(context)))?;
            match socket!(&*self, socket => socket.try_read_buf(buffer)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        socket!(self.get_mut(), socket => Pin::new(socket).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        socket!(self.get_mut(), socket => Pin::new(socket).poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        socket!(self.get_mut(), socket => Pin::new(socket).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        socket!(self.get_mut(), socket => Pin::new(socket).poll_shutdown(context))
    }
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
    async fn take(&self) -> Option<Connection> {
        loop {
            let (mut connection, _) = self.fresh().pop()?;
            if connection.is_ready().await {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose answer has been read to its end.
    fn keep(self: &Arc<Self>, connection: Connection) {
        let mut connections = self.fresh();
        if connections.len() < self.most && !connection.sender.is_closed() {
            connections.push((connection, Instant::now()));
            drop(connections);
            if !self.is_watched.swap(true, Ordering::Relaxed) {
                tokio::spawn(watch(Arc::downgrade(self), self.timeout));
            }
        }
    }

    /// The connections, without those that were idle for too long.
    fn fresh(&self) -> MutexGuard<'_, Vec<(Connection, Instant)>> {
        let mut connections = lock(&self.connections);
        let fresh = connections.iter().position(|(_, since)| since.elapsed() < self.timeout);
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
        if idle.fresh().is_empty() {
            idle.is_watched.store(false, Ordering::Relaxed);
            return;
        }
    }
}
