//! The guard as the process sees it that it looks after: how it is found, started and told.

use super::order::{Connection, Errand, Order};
use super::{GREETING, PROGRAM, READY};
use crate::client::coordination::{Deed, Guard};
use crate::clock::BoxFuture;
use crate::error::{Error, Kind};
use crate::os::{self, NoSigpipe, NotInChildren};
use crate::sync::lock;
use crate::transport::TlsOptions;
use bytes::Bytes;
use http::Request;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a guard may take to say that it is ready.
const GREETING_TAKES: Duration = Duration::from_secs(5);

/// How long a guard may leave what it is told unread, once the socket is full.
const READING_TAKES: Duration = Duration::from_millis(250);

/// Variables that say where the system's authorities are; a guard gets no others.
///
/// Source: the documentation of the crate rustls-native-certs.
const OF_TLS: &[&str] = &["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// The guard of this process, for one client: started when it is first needed, and again when it is
/// gone.
pub struct Keeper {
    program: PathBuf,
    connection: Connection,
    /// The process that this is for, counted in forks.
    generation: u32,
    state: Mutex<State>,
    starting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    numbers: u64,
    /// What is entrusted, as the lines that say so.
    errands: BTreeMap<u64, Vec<u8>>,
    line: Line,
}

/// The way to the guard.
#[derive(Default)]
enum Line {
    /// There never was one, or none can be had.
    #[default]
    None,
    Open(Open),
    /// It leads nowhere any more, because the guard does this.
    Broken(&'static str),
}

type Open = NotInChildren<UnixStream>;

impl Keeper {
    /// A guard that reaches Consul so. `program` is the file of the program; none: where it was
    /// installed with this module. Nothing is started yet.
    ///
    /// # Errors
    /// [`Kind::Config`] when there is no such program, or a path of it or of a file of the
    /// connection is not UTF-8.
    pub fn new(program: Option<&Path>, connection: Connection) -> Result<Arc<Self>, Error> {
        let program = find(program)?;
        let connection = Connection {
            token_file: absolute(connection.token_file)?,
            tls: TlsOptions {
                ca_file: absolute(connection.tls.ca_file)?,
                ca_path: absolute(connection.tls.ca_path)?,
                cert_file: absolute(connection.tls.cert_file)?,
                key_file: absolute(connection.tls.key_file)?,
                ..connection.tls
            },
            ..connection
        };
        os::watch_forks().map_err(|error| config(error.to_string()))?;
        Ok(Arc::new(Self {
            program,
            connection,
            generation: os::fork_generation(),
            state: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
        }))
    }

    fn is_ours(&self) -> bool {
        self.generation == os::fork_generation()
    }

    /// Starts a guard in a thread, because it takes some milliseconds, and tells it all.
    async fn begin(&self) -> Result<(), Error> {
        let (send, receive) = oneshot::channel();
        let (program, connection) = (self.program.clone(), self.connection.clone());
        let started = os::spawn("consul_ffi guard", move || {
            let _ = send.send(start(&program, connection));
        });
        let outcome = match started {
            Ok(_) => receive.await.unwrap_or_else(|_| Err("it was not started".to_owned())),
            Err(error) => Err(error.to_string()),
        };
        let failed = |why: String| {
            config(format!("the guard {} cannot be started: {why}", self.program.display()))
        };
        let open = outcome.map_err(failed)?;
        let mut state = lock(&self.state);
        let told = state.errands.values().try_for_each(|line| tell(&open, line));
        state.line = Line::Open(open);
        told.map_err(|error| failed(state.give_up(&error).to_owned()))
    }

    fn order(&self, order: impl FnOnce(&mut State) -> Option<Vec<u8>>) {
        if !self.is_ours() {
            return;
        }
        let mut state = lock(&self.state);
        let line = order(&mut state);
        if let (Some(line), Line::Open(open)) = (line, &state.line)
            && let Err(error) = tell(open, &line)
        {
            state.give_up(&error);
        }
    }
}

impl Guard for Keeper {
    fn start(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            let _turn = self.starting.lock().await;
            if !self.is_ours() || lock(&self.state).is_attended() {
                return Ok(());
            }
            self.begin().await
        })
    }

    fn keep(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let _turn = self.starting.lock().await;
            if !self.is_ours() {
                return;
            }
            let broken = {
                let mut state = lock(&self.state);
                if state.is_attended() {
                    return;
                }
                match mem::take(&mut state.line) {
                    Line::Broken(why) => why,
                    _ => return,
                }
            };
            tracing::warn!("the guard of this process {broken}: starting another");
            if let Err(error) = self.begin().await {
                tracing::warn!(%error, "locks are not free at once if this process dies");
            }
        })
    }

    fn entrust(&self, deed: Deed, home: usize, request: &Request<Bytes>) -> u64 {
        let mut number = 0;
        self.order(|state| {
            state.numbers += 1;
            number = state.numbers;
            let line = Order::Entrust(number, Errand::new(deed, home, request)).line().ok()?;
            state.errands.insert(number, line.clone());
            Some(line)
        });
        number
    }

    fn withdraw(&self, number: u64) {
        self.order(|state| {
            state.errands.remove(&number)?;
            Order::Withdraw(number).line().ok()
        });
    }
}

impl State {
    /// Whether there is a guard that lives, as far as it can be seen.
    fn is_attended(&mut self) -> bool {
        if let Line::Open(open) = &self.line
            && let Some(Err(error)) = open.get().map(has_reader)
        {
            self.give_up(&error);
        }
        matches!(self.line, Line::Open(_))
    }

    /// Lets go of a guard that cannot be told; gives why, as what it does.
    fn give_up(&mut self, error: &io::Error) -> &'static str {
        let (why, is_closed) = match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ("is gone", true),
            io::ErrorKind::WouldBlock => ("does not listen", false),
            _ => ("cannot be told anything", false),
        };
        let line = mem::replace(&mut self.line, Line::Broken(why));
        if !is_closed {
            // A guard that is only stopped must not take this for the end of the process, and of a
            // descriptor that somebody closed the number may be another's.
            mem::forget(line);
        }
        why
    }
}

/// Whether there is somebody at the other end, who never says anything.
fn has_reader(mut stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let read = stream.read(&mut [0]);
    stream.set_nonblocking(false)?;
    match read {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

fn tell(open: &Open, line: &[u8]) -> io::Result<()> {
    let _no_sigpipe = NoSigpipe::new();
    match open.get() {
        Some(mut stream) => stream.write_all(line),
        None => Ok(()),
    }
}

/// The file of the program, in its absolute path: the process may change its folder.
fn find(program: Option<&Path>) -> Result<PathBuf, Error> {
    let places = match program {
        Some(program) => vec![program.to_owned()],
        None => {
            let module = os::own_file().unwrap_or_default();
            let folder = module.parent().unwrap_or(Path::new("/"));
            vec![
                folder.join(PROGRAM),
                // A tree of luarocks has modules in lib/lua/5.1.
                folder.join("../../../bin").join(PROGRAM),
            ]
        }
    };
    match places.iter().find(|place| place.is_file()) {
        Some(place) => std::path::absolute(place).map_err(|error| config(error.to_string())),
        None => {
            let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
            Err(config(format!("guard: there is no program {}", places.join(", nor "))))
        }
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

/// Starts the program, and waits until it is ready or says why it is not.
fn start(program: &Path, connection: Connection) -> Result<Open, String> {
    let text = |error: io::Error| error.to_string();
    let (ours, theirs) = UnixStream::pair().map_err(text)?;
    let ours = NotInChildren::new(ours).map_err(text)?;
    let variables = OF_TLS.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
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
    // What was started ends when the guard has left it. A program that waits for all its children
    // may have been faster.
    let _ = child.wait();
    let Some(stream) = ours.get() else { return Err("the process was forked".to_owned()) };
    let greeted = (|| {
        stream.set_read_timeout(Some(GREETING_TAKES))?;
        stream.set_write_timeout(Some(READING_TAKES))?;
        tell(&ours, &Order::Connect(connection).line()?)?;
        let mut line = String::new();
        BufReader::new(stream.take(4096)).read_line(&mut line)?;
        Ok(line)
    })();
    let greeting = greeted.map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock => "it does not answer".to_owned(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ENDED.to_owned(),
        _ => error.to_string(),
    })?;
    match greeting.strip_prefix(GREETING).map(str::trim_end) {
        Some(READY) => Ok(ours),
        Some(why) => Err(why.to_owned()),
        None if greeting.is_empty() => Err(ENDED.to_owned()),
        None => Err("it is of another version than this module".to_owned()),
    }
}

const ENDED: &str = "it ended without a word";

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keeper").field(&self.program).finish()
    }
}
