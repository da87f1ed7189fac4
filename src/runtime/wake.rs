//! A unix socket for event loops that can wait for a socket of their own alone, such as the cosockets of OpenResty.
//!
//! A client writes a line with two numbers, that of a ticket and, for a lock, that of the attempt (0 for others), and may add
//! a third, the longest wait in milliseconds. It reads a newline once the job of the ticket is ready, or is gone, or the wait
//! is over. It may write an empty line meanwhile, to be answered at once. If it goes away before it has read that a call or
//! a lock is ready, that is cancelled. Only this process is served.

use super::executor::background_thread;
use super::job::Job;
use super::native::{self, Returned};
use consul_api::error::{Error, Kind};
use consul_process::clock::BoxFuture;
use consul_process::os::{CloseOnFork, PerProcess, listen_privately};
use consul_process::sync::lock;
use mlua::{IntoLua as _, Lua};
use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::time::sleep;

/// The longest line of a client: three numbers of 64 bits.
const MAX_LINE: u64 = 63;

/// The pause after a failed accept, for example without a free descriptor.
const PAUSE: Duration = Duration::from_millis(50);

/// The objects that a client can wait for.
pub trait Waited: Send + Sync {
    /// Waits until it is ready or has ended.
    fn ready(self: Arc<Self>) -> BoxFuture<'static, ()>;
}

/// The number of a job in the table of this process, as long as it lives.
#[derive(Debug)]
pub struct Ticket(u64);

impl Ticket {
    /// The line that a client writes to wait.
    fn line(&self, number: u64) -> String {
        format!("{} {number}\n", self.0)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(TABLE.get()).remove(&self.0);
    }
}

/// Ends what a client waits for that goes away, by the number in its line.
pub type Cancel = Arc<dyn Fn(u64) + Send + Sync>;

type Table = Mutex<HashMap<u64, (Weak<dyn Waited>, Option<Cancel>)>>;

static TABLE: PerProcess<Table> = PerProcess::new();

/// A ticket for a job. `cancel` is called when its client goes away while it waits.
pub fn ticket(job: Arc<dyn Waited>, cancel: Option<Cancel>) -> Ticket {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    lock(TABLE.get()).insert(number, (Arc::downgrade(&job), cancel));
    Ticket(number)
}

/// The results of the method `unix_socket` of an object: the path, and the line to write there to wait for a job.
/// `number` is a lock's attempt, and `cancel` as for [`Job::ticket`].
///
/// # Errors
/// As [`path`].
pub fn unix_socket<T: Send + 'static>(
    lua: &Lua,
    job: &Job<T>,
    number: u64,
    cancel: impl FnOnce() -> Option<Cancel>,
) -> native::Result {
    let path = path()?.into_os_string().into_vec();
    let line = job.ticket(cancel).line(number);
    Ok(Returned::Pair(lua.create_string(path)?.into_lua(lua)?, line.into_lua(lua)?))
}

/// The path of the socket of this process, which the first call makes; again if its file is gone.
///
/// # Errors
/// [`Kind::Config`] if it cannot be made.
fn path() -> Result<PathBuf, Error> {
    static PATH: PerProcess<Mutex<Option<PathBuf>>> = PerProcess::new();
    let mut path = lock(PATH.get());
    if let Some(path) = path.as_ref().filter(|path| path.exists()) {
        return Ok(path.clone());
    }
    let made = start(background_thread()?).map_err(|error| {
        let folder = std::env::temp_dir();
        let why = format!("cannot make a unix socket in {}: {error}", folder.display());
        Error::new(Kind::Config, why).not_sent()
    })?;
    Ok(path.insert(made).clone())
}

fn start(thread: &Handle) -> io::Result<PathBuf> {
    let (listener, path) = listen_privately()?;
    let _entered = thread.enter();
    let listener = CloseOnFork::new(UnixListener::from_std(listener)?)?;
    thread.spawn(serve(listener));
    Ok(path)
}

async fn serve(listener: CloseOnFork<UnixListener>) {
    while let Some(listener) = listener.get() {
        match listener.accept().await {
            Ok((stream, _)) if is_ours(&stream) => {
                // A client that fails has gone away.
                tokio::spawn(async move { drop(answer(stream).await) });
            }
            Ok(_) => tracing::info!(
                "another process connected to the unix socket of this one, and was refused"
            ),
            Err(error) => {
                tracing::info!(%error, "a connection to the unix socket of this process could not be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Whether the other end belongs to this process, as the system says.
fn is_ours(stream: &UnixStream) -> bool {
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    pid.and_then(|pid| u32::try_from(pid).ok()) == Some(std::process::id())
}

/// The object that a client waits for, also when it is ready: the client may go away before it reads that.
type Wait = Option<(Cancel, u64)>;

async fn answer(stream: UnixStream) -> io::Result<()> {
    let mut wait = None;
    let ended = answer_lines(BufReader::new(stream), &mut wait).await;
    wait.inspect(|(cancel, number)| cancel(*number));
    ended
}

async fn answer_lines(mut stream: BufReader<UnixStream>, wait: &mut Wait) -> io::Result<()> {
    while let Some(numbers) = line(&mut stream).await? {
        let Some((ticket, number, limit)) = numbers else { continue };
        *wait = None;
        let found = lock(TABLE.get()).get(&ticket).cloned();
        if let Some((job, cancel)) = found
            && let Some(job) = job.upgrade()
        {
            *wait = cancel.map(|cancel| (cancel, number));
            let ended = tokio::select! {
                biased;
                () = job.ready() => None,
                interrupted = line(&mut stream) => Some(interrupted?.is_none()),
                () = over(limit) => Some(false),
            };
            match ended {
                None => {}
                Some(true) => return Ok(()),
                // A wait that is given up in words, or has reached its limit, does not cancel the job.
                Some(false) => *wait = None,
            }
        }
        stream.get_mut().write_all(b"\n").await?;
    }
    Ok(())
}

async fn over(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// The numbers of a ticket and an attempt, and the limit.
type Numbers = (u64, u64, Option<Duration>);

/// The content of the next line; within it `None` for a line without numbers, and outside of it for the end.
async fn line(stream: &mut BufReader<UnixStream>) -> io::Result<Option<Option<Numbers>>> {
    let mut line = String::new();
    if stream.take(MAX_LINE).read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut numbers = line.split_ascii_whitespace().map_while(|number| number.parse().ok());
    let ticket_and_number = numbers.next().zip(numbers.next());
    let limit = numbers.next().map(Duration::from_millis);
    Ok(Some(ticket_and_number.map(|(ticket, number)| (ticket, number, limit))))
}
