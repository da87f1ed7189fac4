//! A proxy on loopback that injects network faults: between a client and a server, on its own port,
//! with faults that a test turns on and off.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The state of the network, for present and new connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Network {
    /// Everything arrives.
    Good,
    /// Connections are refused, and present ones cut.
    Refuse,
    /// Nothing arrives, in either direction. When this ends, the pending bytes arrive late, as
    /// after a partition.
    BlackHole,
    /// The connection is cut after this number of bytes of the server's answers; with 0 the request
    /// arrives, but nothing of its answer.
    CutAfter(usize),
    /// The server's bytes arrive with this delay.
    Delay(Duration),
    /// The server's bytes arrive one by one, with this interval.
    Drip(Duration),
}

/// A proxy in front of one server. It ends when it is dropped, with all its connections.
pub struct Proxy {
    /// Its address, `127.0.0.1:port`.
    pub address: String,
    network: watch::Sender<Network>,
    silence: Arc<Silence>,
    connections: Arc<AtomicUsize>,
}

/// Once a request has one of the texts, no answer arrives any more, on any connection.
#[derive(Default)]
struct Silence {
    texts: Mutex<Vec<String>>,
    is_on: AtomicBool,
}

impl Silence {
    fn hear(&self, request: &[u8]) {
        let has = |text: &String| request.windows(text.len()).any(|part| part == text.as_bytes());
        if self.texts.lock().expect("no panic").iter().any(has) {
            self.is_on.store(true, Ordering::Relaxed);
        }
    }
}

impl Proxy {
    /// A proxy in front of the server at this address, without faults.
    pub fn new(server: &str) -> Proxy {
        let server: SocketAddr = server.parse().expect("an address with a port");
        // Below the range that the system takes ports of outgoing connections from, so that the
        // port is still free when the proxy has refused connections for a while.
        let listener = std::iter::repeat_with(|| fastrand::u16(10_000..32_000))
            .take(1000)
            .find_map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).ok())
            .expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (network, watched) = watch::channel(Network::Good);
        let connections = Arc::new(AtomicUsize::new(0));
        let silence = Arc::<Silence>::default();
        let (count, silent) = (Arc::clone(&connections), Arc::clone(&silence));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(run(listener, server, watched, silent, count));
        });
        Proxy { address: address.to_string(), network, silence, connections }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the state of the network.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// From a request with one of these texts on, which still arrives, no answer arrives any more.
    pub fn silence_after(&self, texts: Vec<String>) {
        *self.silence.texts.lock().expect("no panic") = texts;
    }

    /// Answers arrive again.
    pub fn end_silence(&self) {
        self.silence_after(Vec::new());
        self.silence.is_on.store(false, Ordering::Relaxed);
    }

    /// Whether such a request has come.
    pub fn is_silent(&self) -> bool {
        self.silence.is_on.load(Ordering::Relaxed)
    }

    /// The number of connections that were made through it.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

type Watched = watch::Receiver<Network>;

/// Accepts connections until the proxy is dropped.
async fn run(
    listener: std::net::TcpListener,
    server: SocketAddr,
    mut network: Watched,
    silence: Arc<Silence>,
    connections: Arc<AtomicUsize>,
) {
    let address = listener.local_addr().expect("it is bound");
    listener.set_nonblocking(true).expect("a socket can be made so");
    let mut listener = Some(TcpListener::from_std(listener).expect("within a runtime"));
    loop {
        let present = *network.borrow_and_update();
        if present == Network::Refuse {
            // Only a port without a listener refuses connections.
            listener = None;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(address).await.expect("the port is still free"));
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = network.changed() => if changed.is_err() { return },
            accepted = accepted => {
                if let Ok((client, _)) = accepted {
                    connections.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(connect(client, server, network.clone(), Arc::clone(&silence)));
                }
            }
        }
    }
}

/// Serves one connection until either side or the network ends it.
async fn connect(
    client: TcpStream,
    server: SocketAddr,
    mut network: Watched,
    silence: Arc<Silence>,
) {
    if hold(&mut network).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // The first direction that ends takes the other with it.
    tokio::select! {
        _ = pump(from_client, to_server, network.clone(), &silence, false) => {}
        _ = pump(from_server, to_client, network, &silence, true) => {}
    }
}

/// Waits while nothing arrives. An error: the connection is cut, or the proxy dropped.
async fn hold(network: &mut Watched) -> io::Result<Network> {
    loop {
        match *network.borrow_and_update() {
            Network::BlackHole => {}
            Network::Refuse => return Err(io::ErrorKind::ConnectionReset.into()),
            present => return Ok(present),
        }
        network.changed().await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    }
}

/// Forwards bytes in one direction, with the faults of the network.
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut network: Watched,
    silence: &Silence,
    is_answer: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut carried = 0;
    loop {
        hold(&mut network).await?;
        let count = tokio::select! {
            changed = network.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
            read = from.read(&mut buffer) => read?,
        };
        // A fault may have begun meanwhile.
        let present = hold(&mut network).await?;
        if count == 0 {
            return Ok(());
        }
        let bytes = &buffer[..count];
        if !is_answer {
            silence.hear(bytes);
        } else if silence.is_on.load(Ordering::Relaxed) {
            continue;
        }
        match present {
            Network::CutAfter(limit) if is_answer => {
                let left = limit.saturating_sub(carried).min(count);
                to.write_all(&bytes[..left]).await?;
                if left < count {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
            Network::Delay(late) if is_answer => {
                tokio::time::sleep(late).await;
                to.write_all(bytes).await?;
            }
            Network::Drip(pause) if is_answer => {
                for byte in bytes {
                    to.write_all(&[*byte]).await?;
                    tokio::time::sleep(pause).await;
                }
            }
            _ => to.write_all(bytes).await?,
        }
        carried += count;
    }
}
