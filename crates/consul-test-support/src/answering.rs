//! A server on loopback that gives every request the same answer and records what it saw: on a
//! port, on a unix socket, over TLS.

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The answer to each request that is not a write: the entry of a key whose value is `v`.
const ENTRY: &str =
    r#"[{"LockIndex":0,"Key":"k","Flags":0,"Value":"dg==","CreateIndex":1,"ModifyIndex":1}]"#;

/// A server; its threads end with the process.
pub struct Server {
    /// Its address without a scheme: `127.0.0.1:port`, or the socket's path.
    pub address: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    heads: Mutex<Vec<String>>,
    server_names: Mutex<Vec<String>>,
    pause: Duration,
    /// The answers to the first requests.
    first: Mutex<VecDeque<String>>,
}

impl Server {
    /// Without TLS, on a port.
    pub fn plain() -> Server {
        Self::slow(Duration::ZERO)
    }

    /// Without TLS, on a port, with a delay before each answer.
    pub fn slow(pause: Duration) -> Server {
        let seen = Arc::new(Seen { pause, ..Seen::default() });
        Self::on_a_port(seen, serve)
    }

    /// Without TLS, on a port; the answers to the first requests are these: the lines of their heads, and their bodies.
    pub fn after(answers: &[(&str, &str)]) -> Server {
        let whole = |(head, body): &(&str, &str)| {
            format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        let first = Mutex::new(answers.iter().map(whole).collect());
        Self::on_a_port(Arc::new(Seen { first, ..Seen::default() }), serve)
    }

    /// With TLS, on a port.
    pub fn tls(config: ServerConfig) -> Server {
        let config = Arc::new(config);
        Self::on_a_port(Arc::default(), move |stream, seen| serve_tls(&config, stream, seen))
    }

    /// Without TLS, on a unix socket.
    pub fn unix(path: &Path) -> Server {
        Self::on_a_socket(path, serve)
    }

    /// With TLS, on a unix socket.
    pub fn unix_tls(path: &Path, config: ServerConfig) -> Server {
        let config = Arc::new(config);
        Self::on_a_socket(path, move |stream, seen| serve_tls(&config, stream, seen))
    }

    fn on_a_socket(
        path: &Path,
        serve: impl Fn(UnixStream, &Seen) + Clone + Send + 'static,
    ) -> Server {
        let listener = UnixListener::bind(path).expect("the socket can be made");
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, serve) = (Arc::clone(&shared), serve.clone());
                thread::spawn(move || seen.count(|seen| serve(stream, seen)));
            }
        });
        Server { address: path.display().to_string(), seen }
    }

    fn on_a_port(
        seen: Arc<Seen>,
        serve: impl Fn(TcpStream, &Seen) + Clone + Send + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("an address").to_string();
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, serve) = (Arc::clone(&shared), serve.clone());
                thread::spawn(move || seen.count(|seen| serve(stream, seen)));
            }
        });
        Server { address, seen }
    }

    /// The number of connections that were made.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    /// The heads of the requests.
    pub fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().expect("no panic").clone()
    }

    /// The names that clients indicated in TLS, one for each connection.
    pub fn server_names(&self) -> Vec<String> {
        self.seen.server_names.lock().expect("no panic").clone()
    }
}

impl Seen {
    fn count(&self, serve: impl FnOnce(&Seen)) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        self.open.fetch_add(1, Ordering::SeqCst);
        serve(self);
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// As [`serve`], over TLS.
fn serve_tls(config: &Arc<ServerConfig>, stream: impl Read + Write, seen: &Seen) {
    let connection = ServerConnection::new(Arc::clone(config)).expect("a connection");
    let mut stream = StreamOwned::new(connection, stream);
    // The handshake, so that the name is known even if the request fails.
    while stream.conn.is_handshaking() && stream.conn.complete_io(&mut stream.sock).is_ok() {}
    let name = stream.conn.server_name().unwrap_or_default().to_owned();
    seen.server_names.lock().expect("no panic").push(name);
    serve(stream, seen);
}

/// Answers requests without a body until the client closes.
fn serve(mut stream: impl Read + Write, seen: &Seen) {
    let mut head = Vec::new();
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut part) {
        head.extend_from_slice(&part[..count]);
        if !head[0].is_ascii_uppercase() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            break;
        }
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let is_write = head.starts_with(b"PUT ");
        let text = String::from_utf8_lossy(&head).into_owned();
        seen.heads.lock().expect("no panic").push(text);
        head.clear();
        thread::sleep(seen.pause);
        let body = if is_write { "true" } else { ENTRY };
        let length = body.len();
        let reply = seen.first.lock().expect("no panic").pop_front().unwrap_or_else(|| {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
        });
        if stream.write_all(reply.as_bytes()).and_then(|()| stream.flush()).is_err() {
            break;
        }
    }
}
