//! The connections to one endpoint: made, kept for the next request, closed when they were idle for
//! too long.
//!
//! A client crate with a pool, redirects and cookies took more instructions for a request than all
//! the rest of a call; an endpoint is one address, so its pool is a list.

use super::Options;
use ::http::Uri;
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::error::Error as StdError;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use std::{io, mem};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tower_service::Service as _;

/// A connection that requests can be sent on, one after the other.
pub type Connection = SendRequest<Full<Bytes>>;

/// Why there is no connection; its causes have the words for it.
pub type Failure = Box<dyn StdError + Send + Sync>;

/// Where connections go to.
pub enum Target {
    /// A TCP port, with TLS or without.
    Tcp(Uri, Option<(Arc<ClientConfig>, ServerName<'static>)>),
    /// A unix socket.
    Unix(PathBuf),
}

/// The connections to one endpoint that no request uses at present.
pub struct Pool {
    target: Target,
    connector: HttpConnector,
    connect_timeout: Duration,
    max_idle: usize,
    idle_timeout: Duration,
    /// The one that was used last is the last.
    idle: Mutex<Vec<Idle>>,
    /// Whether a task will close those that were idle for too long.
    is_watched: AtomicBool,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// A pool with no connections.
    pub fn new(target: Target, options: &Options) -> Arc<Self> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        // Divided among the addresses of a name.
        connector.set_connect_timeout(Some(options.connect_timeout));
        Arc::new(Pool {
            target,
            connector,
            connect_timeout: options.connect_timeout,
            max_idle: options.max_idle_connections,
            idle_timeout: options.idle_timeout,
            idle: Mutex::new(Vec::new()),
            is_watched: AtomicBool::new(false),
        })
    }

    /// A kept connection that is still open.
    pub async fn kept(&self) -> Option<Connection> {
        if self.idle().is_empty() {
            return None;
        }
        // That the server closed a connection is noticed only when the connection's task runs.
        tokio::task::yield_now().await;
        loop {
            let Idle { mut connection, .. } = self.idle().pop()?;
            if connection.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    /// Makes a connection.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        let limit = self.connect_timeout;
        timeout(limit, self.open()).await.unwrap_or_else(|_| {
            let message = format!("no connection within {} ms", limit.as_millis());
            Err(io::Error::new(io::ErrorKind::TimedOut, message).into())
        })
    }

    async fn open(&self) -> Result<Connection, Failure> {
        match &self.target {
            Target::Unix(path) => Ok(start(UnixStream::connect(path).await?).await?),
            Target::Tcp(address, tls) => {
                let stream = self.connector.clone().call(address.clone()).await?.into_inner();
                match tls {
                    None => Ok(start(stream).await?),
                    Some((config, name)) => {
                        let tls = TlsConnector::from(Arc::clone(config));
                        Ok(start(tls.connect(name.clone(), stream).await?).await?)
                    }
                }
            }
        }
    }

    /// Keeps a connection whose answer has been read to its end.
    pub fn keep(self: &Arc<Self>, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() < self.max_idle && !connection.is_closed() {
            idle.push(Idle { connection, since: Instant::now() });
            drop(idle);
            if !self.is_watched.swap(true, Ordering::Relaxed) {
                tokio::spawn(watch(Arc::downgrade(self)));
            }
        }
    }

    /// When the next connection will have been idle for too long. Without any nobody watches.
    fn next_end(&self) -> Option<Instant> {
        let idle = self.idle();
        let Some(oldest) = idle.first() else {
            self.is_watched.store(false, Ordering::Relaxed);
            return None;
        };
        // A limit beyond what a clock can show is none.
        oldest.since.checked_add(self.idle_timeout)
    }

    /// The idle connections, without those that were idle for too long.
    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = idle.iter().position(|idle| idle.since.elapsed() < self.idle_timeout);
        let stale = fresh.unwrap_or(idle.len());
        idle.drain(..stale);
        idle
    }
}

/// Speaks HTTP on a stream, in a task that ends with the connection.
async fn start<S>(stream: S) -> Result<Connection, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // How it fails, the request learns too.
    tokio::spawn(async move { mem::drop(connection.await) });
    Ok(sender)
}

/// Closes connections when they were idle for too long, as long as there are any.
async fn watch(pool: Weak<Pool>) {
    while let Some(end) = pool.upgrade().and_then(|pool| pool.next_end()) {
        sleep_until(end).await;
    }
}
