//! DNS on sockets.

use super::{Dns, Over};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long a connection may be without a request.
const IDLE: Duration = Duration::from_secs(8);

/// The most requests of a connection.
const MAX_REQUESTS: usize = 128;

/// The most connections at a time, so that they do not take all files.
const MAX_CONNECTIONS: usize = 256;

/// How often a free port is looked for that is free for both protocols.
const TRIES: usize = 20;

/// The sockets of one address.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
}

/// Takes requests at an address; port 0 is a port that is free for both protocols.
///
/// # Errors
/// The protocol that does not work there, and why.
pub(crate) async fn bind(at: SocketAddr) -> Result<Sockets, (&'static str, io::Error)> {
    let mut left = if at.port() == 0 { TRIES } else { 1 };
    loop {
        let tcp = TcpListener::bind(at).await.map_err(|error| ("tcp", error))?;
        let address = tcp.local_addr().map_err(|error| ("tcp", error))?;
        left -= 1;
        match UdpSocket::bind(address).await {
            Ok(udp) => return Ok(Sockets { udp, tcp, address }),
            Err(error) if left == 0 => return Err(("udp", error)),
            Err(_) => {}
        }
    }
}

/// An agent that is asked by DNS, and its sockets.
#[derive(Debug)]
pub struct Listening {
    dns: Arc<Dns>,
    sockets: Vec<Sockets>,
}

impl Listening {
    pub(crate) fn new(dns: Dns, sockets: Vec<Sockets>) -> Self {
        Self { dns: Arc::new(dns), sockets }
    }

    /// The addresses of the sockets.
    pub fn addresses(&self) -> Vec<String> {
        self.sockets.iter().map(|sockets| sockets.address.to_string()).collect()
    }

    /// Answers what comes to the sockets until this is dropped.
    pub async fn serve(self) -> Infallible {
        let mut each = JoinSet::new();
        for Sockets { udp, tcp, .. } in self.sockets {
            let dns = Arc::clone(&self.dns);
            each.spawn(async move { dns.packets(&udp).await });
            let dns = Arc::clone(&self.dns);
            each.spawn(async move { dns.connections(&tcp).await });
        }
        while each.join_next().await.is_some() {}
        std::future::pending().await
    }
}

impl Dns {
    async fn packets(&self, socket: &UdpSocket) {
        let mut bytes = vec![0; usize::from(u16::MAX)];
        loop {
            // An error is of a packet that was sent before.
            let Ok((size, client)) = socket.recv_from(&mut bytes).await else {
                sleep(Duration::from_millis(1)).await;
                continue;
            };
            if let Some(answer) = self.answer(&bytes[..size], Over::Udp) {
                let _ = socket.send_to(&answer, client).await;
            }
        }
    }

    async fn connections(self: Arc<Self>, listener: &TcpListener) {
        let mut open = JoinSet::new();
        loop {
            while open.try_join_next().is_some() {}
            if open.len() >= MAX_CONNECTIONS {
                open.join_next().await;
            }
            match listener.accept().await {
                Ok((stream, _)) => {
                    let dns = Arc::clone(&self);
                    open.spawn(async move { dns.requests(stream).await });
                }
                // The process has no free file descriptor at the moment.
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn requests(&self, mut stream: TcpStream) -> io::Result<()> {
        for _ in 0..MAX_REQUESTS {
            let size = in_time(stream.read_u16()).await?;
            let mut request = vec![0; usize::from(size)];
            in_time(stream.read_exact(&mut request)).await?;
            let Some(answer) = self.answer(&request, Over::Tcp) else { continue };
            let size = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let message = [&size.to_be_bytes()[..], &answer].concat();
            in_time(stream.write_all(&message)).await?;
        }
        Ok(())
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(IDLE, work).await?
}
