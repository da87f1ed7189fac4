//! A server that shows operators the state of a process and its clusters over HTTP: for load balancers,
//! for people (the page), and for programs. It only reads.
//!
//! Nobody has to prove anything to it, so it listens on loopback unless it is given another address, has
//! nothing of the program's data to show, and answers requests for its own names alone: a page of another
//! site whose name was bound to this machine's address does not get through.

mod limits;
mod route;
mod stream;

use crate::observe::report::Overviews;
use consul_api::error::{Error, Kind};
use consul_process::hosts::Hosts;
use consul_process::os::{self, CloseOnFork};
use consul_process::sync::lock;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use limits::{Connections, Places, Seat, Timed};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The address by default: any free port of loopback.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:0";

/// The most connections at a time.
pub const MAX_CONNECTIONS: usize = 32;

/// The most of them that follow events.
pub const MAX_STREAMS: usize = 16;

/// How long a client may take for the head of a request, and between two requests.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// How long a client may read nothing of an answer.
const STALL_TIME: Duration = Duration::from_secs(5);

/// The largest head of a request.
const MAX_HEAD: usize = 8 << 10;

/// The pause after a failed accept, for example without a free file descriptor.
const PAUSE: Duration = Duration::from_millis(50);

/// How often it is logged that connections cannot be accepted.
const REMINDER: Duration = Duration::from_secs(60);

/// The answer to a client for which there is no place, since all others are being answered.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\n\
    retry-after: 1\r\nconnection: close\r\ncontent-length: 22\r\n\r\ntoo many connections.\n";

/// The nodes and observers of a process that the server shows, in the order of their starts.
#[derive(Debug, Default)]
pub struct Nodes(Mutex<Vec<Weak<Overviews>>>);

impl Nodes {
    /// Shows a node or an observer, as long as it lives.
    pub fn add(&self, node: &Arc<Overviews>) {
        let mut nodes = lock(&self.0);
        nodes.retain(|node| node.strong_count() > 0);
        nodes.push(Arc::downgrade(node));
    }

    fn all(&self) -> Vec<Arc<Overviews>> {
        lock(&self.0).iter().filter_map(Weak::upgrade).collect()
    }
}

/// A server that listens.
pub struct StatusServer {
    listener: CloseOnFork<tokio::net::TcpListener>,
    address: SocketAddr,
    state: Arc<State>,
}

impl fmt::Debug for StatusServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusServer").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The state that all connections share.
struct State {
    nodes: Arc<Nodes>,
    hosts: Hosts,
    streams: Places,
}

impl StatusServer {
    /// Listens at an address, `host:port`; port 0: any. Answers requests for its address, for `localhost`
    /// and for `hosts`, names without a port. Requires a tokio runtime.
    ///
    /// # Errors
    /// [`Kind::Config`] if it cannot listen there.
    pub fn bind(address: &str, hosts: &[String], nodes: Arc<Nodes>) -> Result<Self, Error> {
        let refused =
            |why: &str| Error::new(Kind::Config, format!("address {address:?} {why}")).not_sent();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => refused(
                "is in use by another program: choose another port, or port 0 for any free one",
            ),
            io::ErrorKind::AddrNotAvailable => refused("is not one of this machine"),
            io::ErrorKind::InvalidInput => {
                refused("must be host:port, with a port from 0 to 65535, where 0 is any free one")
            }
            _ => refused(&format!("cannot be listened at: {error}")),
        };
        let addresses: Vec<SocketAddr> = address.to_socket_addrs().map_err(failed)?.collect();
        let listener = TcpListener::bind(addresses.as_slice()).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let listener = CloseOnFork::new(listener).map_err(failed)?;
        let hosts = Hosts::new(address.ip(), hosts);
        let state = Arc::new(State { nodes, hosts, streams: Places::new(MAX_STREAMS) });
        Ok(StatusServer { listener, address, state })
    }

    /// The address at which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until this future is dropped, which closes all connections.
    pub async fn serve(self) -> Infallible {
        let places = Connections::new(MAX_CONNECTIONS);
        let (mut connections, mut said) = (JoinSet::new(), None);
        loop {
            let Some(listener) = self.listener.get() else { return std::future::pending().await };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let (mut stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if said.is_none_or(|at: Instant| at.elapsed() >= REMINDER) {
                        said = Some(Instant::now());
                        let cure = os::cure_of(&error).unwrap_or_default();
                        tracing::warn!(%error, cure, "a connection to the status server could not be accepted");
                    }
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(place) = places.take(from.ip()) else {
                // One write of a few bytes into an empty buffer does not wait.
                let _ = timeout(PAUSE, stream.write_all(TOO_MANY)).await;
                continue;
            };
            let state = Arc::clone(&self.state);
            connections.spawn(async move {
                tokio::select! {
                    () = connection(state, &place.seat, stream) => {}
                    () = place.seat.evicted() => {}
                }
            });
        }
    }
}

async fn connection(state: Arc<State>, seat: &Arc<Seat>, stream: TcpStream) {
    // An answer is one write; waiting for more would only delay it.
    let _ = stream.set_nodelay(true);
    let service =
        service_fn(|request| route::answer(Arc::clone(&state), seat.answering(), request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Timed::new(stream, STALL_TIME)), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the status server ended");
    }
}
