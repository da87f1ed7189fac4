//! The side of the guarded process: finds and starts its guard process, and hands over requests.

use super::message::{Connection, DeferredRequest, Message};
use super::{GREETING, PONG, PROGRAM, READY};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_client::coordination::{Guard, ReleaseStep};
use consul_client::transport::{Options, TlsOptions};
use consul_process::clock::BoxFuture;
use consul_process::os::{self, CloseOnFork, NoSigpipe};
use consul_process::sync::lock;
use http::Request;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedMutexGuard, oneshot};

/// How long a started program may take to detach the guard process, and how often that is looked at.
const DETACH_TIMEOUT: Duration = Duration::from_secs(3);
const DETACH_PAUSE: Duration = Duration::from_millis(2);

/// The time limit for an answer of the guard process.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a write may wait for the guard process to read, once the socket is full.
const WRITE_TIMEOUT: Duration = Duration::from_millis(250);

/// The environment variables that name the system's certificate authorities; the guard process gets
/// no others.
///
/// Source: the documentation of the crate rustls-native-certs.
const TLS_VARIABLES: &[&str] = &["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// A client of the guard process of this process, which is started with the first session of any
/// client, and again when it has died.
pub struct GuardProcess {
    shared: Arc<Shared>,
    /// The number of this client.
    client: u64,
    connection: Connection,
}

/// The guard process for all clients with the same program.
struct Shared {
    program: PathBuf,
    /// The fork generation of the guarded process.
    generation: u32,
    state: Mutex<State>,
    /// Held while the guard process is started or a client is introduced to it.
    starting: Arc<Starting>,
}

type Starting = tokio::sync::Mutex<()>;

static SHARED: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

#[derive(Default)]
struct State {
    /// The last number of a client or request.
    last_number: u64,
    /// The clients that the guard process knows.
    clients: BTreeMap<u64, Connection>,
    /// The deferred requests by number, each with its client and as its encoded message.
    requests: BTreeMap<u64, (u64, Vec<u8>)>,
    link: Link,
    /// Since when the guard process owes a sign of life.
    pinged: Option<Instant>,
}

/// The connection to the guard process.
#[derive(Default)]
enum Link {
    /// The guard process was never started, or could not be, or its last client has ended.
    #[default]
    None,
    Open(Arc<Socket>),
    /// It failed, for this reason.
    Broken(&'static str),
}

type Socket = CloseOnFork<UnixStream>;

impl GuardProcess {
    /// A guard process that reaches Consul by `connection`. `program` is the path of consul-guard;
    /// by default it is where it was installed with this module. Nothing is started yet.
    ///
    /// # Errors
    /// [`Kind::Config`] when the program is not found, or the path of a file of the connection is
    /// not UTF-8.
    pub fn new(program: Option<&Path>, connection: Connection) -> Result<Arc<Self>, Error> {
        let program = find(program)?;
        let Connection { endpoints, token_file, http } = connection;
        let tls = TlsOptions {
            ca_file: absolute(http.tls.ca_file)?,
            ca_path: absolute(http.tls.ca_path)?,
            cert_file: absolute(http.tls.cert_file)?,
            key_file: absolute(http.tls.key_file)?,
            ..http.tls
        };
        let http = Options { tls, ..http };
        let connection = Connection { endpoints, token_file: absolute(token_file)?, http };
        os::watch_forks().map_err(|error| config(error.to_string()))?;
        let shared = Shared::of(program);
        let client = lock(&shared.state).next_number();
        Ok(Arc::new(Self { shared, client, connection }))
    }
}

impl Drop for GuardProcess {
    fn drop(&mut self) {
        self.shared.update(|state| {
            state.requests.retain(|_, (client, _)| *client != self.client);
            state.forget(self.client).then_some(())?;
            Message::Disconnect(self.client).encode().ok()
        });
    }
}

impl Shared {
    /// The one of this process and this program.
    fn of(program: PathBuf) -> Arc<Self> {
        let generation = os::fork_generation();
        let mut all = lock(&SHARED);
        all.retain(|shared| shared.strong_count() > 0);
        let mut all_alive = all.iter().filter_map(Weak::upgrade);
        let is_same = |shared: &Arc<Self>| shared.is_ours() && shared.program == program;
        if let Some(shared) = all_alive.find(is_same) {
            return shared;
        }
        let (state, starting) = (Mutex::default(), Arc::default());
        let shared = Arc::new(Self { program, generation, state, starting });
        all.push(Arc::downgrade(&shared));
        shared
    }

    fn is_ours(&self) -> bool {
        self.generation == os::fork_generation()
    }

    /// Runs work with the guard process in a thread, because it takes some milliseconds. It goes on when
    /// this future is dropped.
    async fn in_thread(
        self: &Arc<Self>,
        starting: OwnedMutexGuard<()>,
        work: impl FnOnce(&Self) -> Result<(), String> + Send + 'static,
    ) -> Result<(), Error> {
        let (send, receive) = oneshot::channel();
        let shared = Arc::clone(self);
        let started = os::spawn("consul_ffi guard", move || {
            let outcome = work(&shared);
            drop(starting);
            let _ = send.send(outcome);
        });
        let outcome = match started {
            Ok(_) => {
                receive.await.unwrap_or_else(|_| Err("the thread that starts it ended".to_owned()))
            }
            Err(error) => Err(error.to_string()),
        };
        outcome.map_err(|why| {
            config(format!("the guard {} cannot be started: {why}", self.program.display()))
        })
    }

    /// Introduces a client to the guard process, which is started unless it runs.
    fn connect(&self, client: u64, connection: Connection) -> Result<(), String> {
        let socket = {
            let mut state = lock(&self.state);
            state.clients.insert(client, connection.clone());
            state.socket()
        };
        let outcome = match socket {
            Some(socket) => self.introduce(&socket, client, connection),
            None => self.launch(Some(client)),
        };
        outcome.inspect_err(|_| _ = lock(&self.state).forget(client))
    }

    /// Starts a guard process, and introduces all clients to it. Fails if the wanted one could not be
    /// introduced.
    fn launch(&self, wanted: Option<u64>) -> Result<(), String> {
        let socket = Arc::new(start(&self.program)?);
        let clients = {
            let mut state = lock(&self.state);
            state.link = Link::Open(Arc::clone(&socket));
            state.pinged = None;
            state.clients.clone()
        };
        let mut outcome = Ok(());
        for (client, connection) in clients {
            let introduced = self.introduce(&socket, client, connection);
            if wanted == Some(client) {
                outcome = introduced;
            } else if let Err(why) = introduced {
                tracing::warn!(why, "a client of this process has no guard");
                lock(&self.state).forget(client);
            }
        }
        outcome
    }

    /// Has the guard process reach Consul for a client, and hands over its requests.
    fn introduce(
        &self,
        socket: &Socket,
        client: u64,
        connection: Connection,
    ) -> Result<(), String> {
        let connect = Message::Connect(client, connection).encode();
        let connect = connect.map_err(|error| error.to_string())?;
        lock(&self.state).send(&connect)?;
        let answer = match read_greeting(socket) {
            Ok(answer) => answer,
            Err(error) => {
                lock(&self.state).break_link(&error);
                return Err(reason(&error));
            }
        };
        match answer.strip_prefix(GREETING).map(str::trim_end) {
            Some(READY) => {}
            Some(why) => return Err(why.to_owned()),
            None if answer.is_empty() => return Err(ENDED.to_owned()),
            None => return Err("its version is not that of this module".to_owned()),
        }
        let mut state = lock(&self.state);
        // All signs of life came before the greeting.
        state.pinged = None;
        let requests = state.requests.values().filter(|(of, _)| *of == client);
        let requests: Vec<_> = requests.map(|(_, message)| message.clone()).collect();
        requests.iter().try_for_each(|message| state.send(message))
    }

    /// Changes the state and sends the resulting message, if any.
    fn update(&self, change: impl FnOnce(&mut State) -> Option<Vec<u8>>) {
        if !self.is_ours() {
            return;
        }
        let mut state = lock(&self.state);
        if let Some(message) = change(&mut state) {
            // A guard process that has died is replaced, and gets all requests.
            let _ = state.send(&message);
        }
    }
}

impl Guard for GuardProcess {
    fn start(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            let starting = Arc::clone(&self.shared.starting).lock_owned().await;
            let is_known = || {
                let mut state = lock(&self.shared.state);
                state.socket().is_some() && state.clients.contains_key(&self.client)
            };
            if !self.shared.is_ours() || is_known() {
                return Ok(());
            }
            let (client, connection) = (self.client, self.connection.clone());
            self.shared.in_thread(starting, move |shared| shared.connect(client, connection)).await
        })
    }

    fn replace_dead(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let starting = Arc::clone(&self.shared.starting).lock_owned().await;
            if !self.shared.is_ours() {
                return;
            }
            let broken = {
                let mut state = lock(&self.shared.state);
                if state.socket().is_some() {
                    state.ping();
                    return;
                }
                match mem::take(&mut state.link) {
                    Link::Broken(why) => why,
                    _ => return,
                }
            };
            tracing::warn!("the guard of this process {broken}: starting another");
            if let Err(error) = self.shared.in_thread(starting, |shared| shared.launch(None)).await
            {
                tracing::warn!(%error, "no guard: if this process dies, its locks stay held until its check expires");
            }
        })
    }

    fn defer(&self, step: ReleaseStep, endpoint: usize, request: &Request<Bytes>) -> u64 {
        let mut number = 0;
        self.shared.update(|state| {
            number = state.next_number();
            let request = DeferredRequest::new(step, endpoint, request);
            let message = Message::Defer(number, self.client, request).encode().ok()?;
            state.requests.insert(number, (self.client, message.clone()));
            // Otherwise it gets the request with the client's introduction.
            state.clients.contains_key(&self.client).then_some(message)
        });
        number
    }

    fn cancel(&self, number: u64) {
        self.shared.update(|state| {
            state.requests.remove(&number)?;
            Message::Cancel(number).encode().ok()
        });
    }
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// The socket of the guard process, if that lives, as far as its socket and its last signs of life
    /// show.
    fn socket(&mut self) -> Option<Arc<Socket>> {
        if let Link::Open(socket) = &self.link {
            match socket.get().map(read_signs_of_life) {
                Some(Ok(true)) => self.pinged = None,
                Some(Err(error)) => self.break_link(&error),
                Some(Ok(false))
                    if self.pinged.is_some_and(|since| since.elapsed() > ANSWER_TIMEOUT) =>
                {
                    self.break_link(&io::ErrorKind::TimedOut.into());
                }
                Some(Ok(false)) | None => {}
            }
        }
        match &self.link {
            Link::Open(socket) => Some(Arc::clone(socket)),
            _ => None,
        }
    }

    /// Removes a client; returns whether it was known. Without clients the guard process ends.
    fn forget(&mut self, client: u64) -> bool {
        let was_known = self.clients.remove(&client).is_some();
        if was_known && self.clients.is_empty() {
            self.link = Link::None;
        }
        was_known
    }

    /// Sends a message to the guard process, if there is one.
    fn send(&mut self, message: &[u8]) -> Result<(), String> {
        let Link::Open(socket) = &self.link else { return Ok(()) };
        write(socket, message).map_err(|error| {
            self.break_link(&error);
            reason(&error)
        })
    }

    /// Asks the guard process for a sign of life, unless it owes one.
    fn ping(&mut self) {
        if self.pinged.is_none()
            && let Ok(ping) = Message::Ping.encode()
            && self.send(&ping).is_ok()
        {
            self.pinged = Some(Instant::now());
        }
    }

    /// Gives up a guard process that cannot be written to, or does not answer.
    fn break_link(&mut self, error: &io::Error) {
        let (why, is_closed) = match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ("has died", true),
            io::ErrorKind::WouldBlock => ("does not read", false),
            io::ErrorKind::TimedOut => ("does not answer", false),
            _ => ("cannot be written to", false),
        };
        self.pinged = None;
        let link = mem::replace(&mut self.link, Link::Broken(why));
        if !is_closed {
            // Not closed: a guard process that is only stopped would take it for the death of this
            // process. And if the program closed the descriptor, its number may be another file's.
            mem::forget(link);
        }
    }
}

/// Whether there are signs of life; fails if the other end is closed. Without a client that waits for its
/// greeting nothing else comes.
fn read_signs_of_life(mut stream: &UnixStream) -> io::Result<bool> {
    stream.set_nonblocking(true)?;
    let read = stream.read(&mut [0; 64]);
    stream.set_nonblocking(false)?;
    match read {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
        Ok(0) => Err(io::ErrorKind::BrokenPipe.into()),
        Ok(_) => Ok(true),
    }
}

fn write(socket: &Socket, message: &[u8]) -> io::Result<()> {
    let _no_sigpipe = NoSigpipe::new();
    match socket.get() {
        Some(mut stream) => stream.write_all(message),
        None => Ok(()),
    }
}

/// The absolute path of the program, because the process may change its working directory.
fn find(program: Option<&Path>) -> Result<PathBuf, Error> {
    let place = match program {
        Some(program) => program.to_owned(),
        None => {
            let module = os::module_path().unwrap_or_default();
            let folder = module.parent().unwrap_or(Path::new("/"));
            folder.join(PROGRAM)
        }
    };
    if place.is_file() {
        std::path::absolute(place).map_err(|error| config(error.to_string()))
    } else {
        Err(config(format!("guard: there is no program {}", place.display())))
    }
}

fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>, Error> {
    let path = path.map(std::path::absolute).transpose();
    let path = path.map_err(|error| config(error.to_string()))?;
    match &path {
        Some(path) if path.to_str().is_none() => {
            Err(config(format!("guard: the path {} is not UTF-8", path.display())))
        }
        _ => Ok(path),
    }
}

fn config(why: String) -> Error {
    Error::new(Kind::Config, why).not_sent()
}

/// Starts the program.
fn start(program: &Path) -> Result<Socket, String> {
    let text = |error: io::Error| error.to_string();
    let (ours, theirs) = UnixStream::pair().map_err(text)?;
    ours.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(text)?;
    ours.set_write_timeout(Some(WRITE_TIMEOUT)).map_err(text)?;
    let ours = CloseOnFork::new(ours).map_err(text)?;
    let variables = TLS_VARIABLES.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    let mut child = Command::new(program)
        .arg(process::id().to_string())
        .env_clear()
        .envs(variables)
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(text)?;
    // The started process ends once the guard process has detached from it. It may have been reaped
    // already, by a program that waits for all its children.
    let begun = Instant::now();
    while let Ok(None) = child.try_wait() {
        if begun.elapsed() >= DETACH_TIMEOUT {
            // Not a guard: nothing else would end it.
            let _ = child.kill();
            let _ = child.wait();
            return Err("it does not detach itself from this process".to_owned());
        }
        thread::sleep(DETACH_PAUSE);
    }
    Ok(ours)
}

/// Reads the greeting of the guard process, after any signs of life; empty: it ended.
fn read_greeting(socket: &Socket) -> io::Result<String> {
    let mut line = String::new();
    if let Some(stream) = socket.get() {
        let mut lines = BufReader::new(stream.take(4096));
        lines.read_line(&mut line)?;
        while line == PONG {
            line.clear();
            lines.read_line(&mut line)?;
        }
    }
    Ok(line)
}

/// Why the guard process cannot be talked to.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock => "it does not answer".to_owned(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ENDED.to_owned(),
        _ => error.to_string(),
    }
}

const ENDED: &str = "it ended without an answer";

impl fmt::Debug for GuardProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GuardProcess").field(&self.shared.program).finish()
    }
}
