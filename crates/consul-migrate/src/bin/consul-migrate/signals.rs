//! The signals that end a run, also while it waits for what is at the other end of a pipe.

use consul_cli::print::write_all;
use futures_util::future::select_all;
use std::fs::File;
use std::future::pending;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// So often it is looked whether a signal has come.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The bytes of a read.
const CHUNK: usize = 65_536;

static HAS_COME: AtomicBool = AtomicBool::new(false);

/// The number of SIGXFSZ on Linux.
const FILE_IS_LARGE: i32 = 25;

/// The signals that end a run, as they come.
pub struct Signals(watch::Receiver<()>);

impl Signals {
    /// Waits for the next one.
    pub async fn come(&mut self) {
        if self.0.changed().await.is_err() {
            // Its thread has ended: none comes any more.
            pending().await
        }
    }
}

/// Whether a signal has come since [`listen`].
pub fn has_come() -> bool {
    HAS_COME.load(Ordering::Relaxed)
}

/// Hears the signals that end a run, for the whole run: on a thread of its own, since that of the run may wait for a pipe.
/// From now on a file that may not be larger is an error of its write.
pub fn listen() -> io::Result<Signals> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut all = {
        let _inside = runtime.enter();
        drop(signal(SignalKind::from_raw(FILE_IS_LARGE))?);
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ];
        kinds.map(signal).into_iter().collect::<io::Result<Vec<_>>>()?
    };
    let (heard, signals) = watch::channel(());
    thread::Builder::new().spawn(move || {
        runtime.block_on(async {
            loop {
                select_all(all.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
                HAS_COME.store(true, Ordering::Relaxed);
                heard.send_replace(());
            }
        });
    })?;
    Ok(Signals(signals))
}

/// The next message of another thread, unless a signal comes before; `None` if it has ended.
fn wait<T>(from: &Receiver<T>) -> io::Result<Option<T>> {
    loop {
        match from.recv_timeout(LOOK_EVERY) {
            Ok(sent) => return Ok(Some(sent)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) if has_come() => {
                return Err(io::Error::other("interrupted by a signal"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Standard input, or a file that may not give anything.
pub struct Input {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: io::Cursor<Vec<u8>>,
}

impl Input {
    pub fn of(name: Option<String>) -> io::Result<Input> {
        let (sender, chunks) = sync_channel(1);
        thread::Builder::new().spawn(move || read_all(name, &sender))?;
        let mut input = Input { chunks, chunk: io::Cursor::default() };
        // The first chunk is empty: it is open.
        input.next()?;
        Ok(input)
    }

    /// Returns whether there was another chunk.
    fn next(&mut self) -> io::Result<bool> {
        let Some(chunk) = wait(&self.chunks)? else { return Ok(false) };
        self.chunk = io::Cursor::new(chunk?);
        Ok(true)
    }
}

fn read_all(name: Option<String>, sender: &SyncSender<io::Result<Vec<u8>>>) {
    let opened: io::Result<Box<dyn Read>> = match name {
        Some(name) => File::open(name).map(|file| Box::new(file) as _),
        None => Ok(Box::new(io::stdin())),
    };
    let mut from = match opened {
        Ok(from) => from,
        Err(error) => return drop(sender.send(Err(error))),
    };
    let mut read = Ok(Vec::new());
    while sender.send(read).is_ok() {
        let mut chunk = vec![0; CHUNK];
        read = match from.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                chunk.truncate(count);
                Ok(chunk)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Vec::new()),
            // Another program has made it non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(LOOK_EVERY);
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        };
    }
}

impl Read for Input {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.chunk.read(room)? {
                0 if self.next()? => {}
                count => return Ok(count),
            }
        }
    }
}

/// Standard output, which may take nothing for long.
pub struct Output {
    chunks: Sender<Vec<u8>>,
    done: Receiver<io::Result<()>>,
}

impl Output {
    pub fn stdout() -> io::Result<Output> {
        let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let (chunks, taken) = channel::<Vec<u8>>();
        let (sender, done) = channel();
        thread::Builder::new().spawn(move || {
            for chunk in taken {
                let _ = sender.send(write_all(&mut out, &chunk));
            }
        })?;
        Ok(Output { chunks, done })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let ended = || io::Error::other("its thread has ended");
        if has_come() {
            return Err(io::Error::other("interrupted by a signal"));
        }
        self.chunks.send(bytes.to_vec()).map_err(|_| ended())?;
        wait(&self.done)?.ok_or_else(ended)?.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
