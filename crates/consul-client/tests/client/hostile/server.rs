//! A server whose behaviour is written for each request: on a port, on a unix socket, over TLS.

use crate::support::PATIENCE;
use crate::support::authority::{Folder, Identity};
use rustls::{ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// How a client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    Tcp,
    Unix,
    Tls,
}

/// The two implementations of connections, and both kinds of sockets.
pub const WAYS: [Way; 3] = [Way::Tcp, Way::Unix, Way::Tls];

/// A part of what the server does about a request.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads the body of the request.
    Read,
    Send(Vec<u8>),
    /// Sends it again and again, until the client closes the connection.
    Flood(Vec<u8>),
    Wait(Duration),
    /// Waits for [`Server::go_on`].
    WaitForTest,
    Close,
    /// Neither reads nor writes any more.
    Stall,
}

/// A request whose head has arrived.
pub struct Asked {
    /// The number of its connection, from 0.
    pub connection: usize,
    /// Its number on its connection, from 0.
    pub number: usize,
    pub method: String,
    /// The path without the query.
    pub path: String,
}

impl Asked {
    /// The last segment of the path.
    pub fn key(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

type Script = dyn Fn(&Asked) -> Vec<Step> + Send + Sync;

/// A server; its threads end with the process.
pub struct Server {
    /// Its URL.
    pub url: String,
    shared: Arc<Shared>,
    _folder: Folder,
}

struct Shared {
    script: Box<Script>,
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    /// The number of its connection, the method and the path of each request.
    requests: Vec<(usize, String)>,
    /// The number of requests whose steps are done.
    done: usize,
    may_go_on: bool,
}

impl Server {
    pub fn new(way: Way, script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared {
            script: Box::new(script),
            seen: Mutex::default(),
            changed: Condvar::new(),
        });
        let folder = Folder::new();
        let accepting = Arc::clone(&shared);
        let url = if way == Way::Unix {
            let path = folder.path("socket");
            let listener = UnixListener::bind(&path).expect("the socket can be made");
            thread::spawn(move || {
                listener.incoming().flatten().for_each(|stream| accepting.spawn(stream));
            });
            format!("unix://{}", path.display())
        } else {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
            let address = listener.local_addr().expect("an address");
            let tls = Arc::new(Identity::self_signed(&["127.0.0.1"]).server(None));
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    stream.set_nodelay(true).expect("a socket");
                    if way == Way::Tls {
                        let tls = ServerConnection::new(Arc::clone(&tls)).expect("a connection");
                        accepting.spawn(StreamOwned::new(tls, stream));
                    } else {
                        accepting.spawn(stream);
                    }
                }
            });
            format!("{}://{address}", if way == Way::Tls { "https" } else { "http" })
        };
        Server { url, shared, _folder: folder }
    }

    /// The number of connections that were made.
    pub fn connections(&self) -> usize {
        self.shared.seen.lock().expect("no panic").connections
    }

    /// The number of requests with this method and path.
    pub fn count(&self, request: &str) -> usize {
        let seen = self.shared.seen.lock().expect("no panic");
        seen.requests.iter().filter(|(_, known)| known == request).count()
    }

    /// The number of the connection of the last request.
    pub fn last_connection(&self) -> Option<usize> {
        self.shared.seen.lock().expect("no panic").requests.last().map(|(number, _)| *number)
    }

    /// Waits until the steps of this number of requests are done, and what they sent has arrived.
    pub fn wait_until_done(&self, wanted: usize) {
        self.shared.wait(|seen| seen.done >= wanted);
        thread::sleep(Duration::from_millis(5));
    }

    /// Ends [`Step::WaitForTest`].
    pub fn go_on(&self) {
        self.shared.change(|seen| seen.may_go_on = true);
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().expect("no panic"));
        self.changed.notify_all();
    }

    fn wait(&self, until: impl Fn(&Seen) -> bool) {
        let seen = self.seen.lock().expect("no panic");
        let limit = PATIENCE;
        let waited = self.changed.wait_timeout_while(seen, limit, |seen| !until(seen));
        assert!(!waited.expect("no panic").1.timed_out(), "it does not happen");
    }

    fn spawn(self: &Arc<Self>, stream: impl Read + Write + Send + 'static) {
        let shared = Arc::clone(self);
        thread::spawn(move || {
            let connection = {
                let mut seen = shared.seen.lock().expect("no panic");
                seen.connections += 1;
                seen.connections - 1
            };
            shared.serve(connection, stream);
        });
    }

    fn serve(&self, connection: usize, mut stream: impl Read + Write) {
        for number in 0.. {
            let Some((asked, length)) = read_head(&mut stream, connection, number) else { return };
            let request = format!("{} {}", asked.method, asked.path);
            self.seen.lock().expect("no panic").requests.push((connection, request));
            let goes_on = (self.script)(&asked).into_iter().all(|step| match step {
                Step::Read => stream.read_exact(&mut vec![0; length]).is_ok(),
                Step::Send(bytes) => stream.write_all(&bytes).and_then(|()| stream.flush()).is_ok(),
                Step::Flood(bytes) => {
                    while stream.write_all(&bytes).is_ok() {}
                    false
                }
                Step::Wait(time) => {
                    thread::sleep(time);
                    true
                }
                Step::WaitForTest => {
                    self.wait(|seen| seen.may_go_on);
                    true
                }
                Step::Close => false,
                Step::Stall => loop {
                    thread::park();
                },
            });
            self.change(|seen| seen.done += 1);
            if !goes_on {
                return;
            }
        }
    }
}

/// The next request, and the length of its body.
fn read_head(stream: &mut impl Read, connection: usize, number: usize) -> Option<(Asked, usize)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut words = head.split_whitespace();
    let method = words.next()?.to_owned();
    let path = words.next()?.split('?').next()?.to_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
    });
    Some((Asked { connection, number, method, path }, length.unwrap_or(0)))
}
