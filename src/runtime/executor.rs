//! Where background work runs: on the background thread of the process, or on the clock of a test.

use consul_api::error::{Error, Kind};
use consul_process::clock::ManualClock;
use consul_process::os::{self, PerProcess};
use consul_process::sync::lock;
use std::future::Future;
use std::io;
use std::sync::{Condvar, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// How long the close of an object waits for its last work, such as a release, and how long the end of a Lua
/// state waits for that of all objects together.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The runner of background work.
#[derive(Clone, Debug)]
pub enum Executor {
    /// The background thread, one for each process.
    Thread(Handle),
    /// The calling thread, while a call drives this clock or a test moves it.
    Clock(ManualClock),
}

impl Executor {
    /// The background thread.
    ///
    /// # Errors
    /// As [`background_thread`].
    pub fn thread() -> Result<Executor, Error> {
        Ok(Executor::Thread(background_thread()?.clone()))
    }

    /// Starts the last work of an object and waits for it for up to [`SHUTDOWN_TIMEOUT`]; the work
    /// continues after that. On a manual clock it does what needs no time, and the rest when a test
    /// moves the clock.
    pub fn shut_down(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.shut_down_within(SHUTDOWN_TIMEOUT, work);
    }

    /// The same with another limit.
    pub fn shut_down_within(
        &self,
        limit: Duration,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        match self {
            Executor::Thread(runtime) => {
                let (working, is_done) = mpsc::channel::<()>();
                runtime.spawn(async move {
                    work.await;
                    drop(working);
                });
                // The background thread cannot wait for itself: it may drop the last reference.
                if Handle::try_current().is_err() {
                    let _ = is_done.recv_timeout(limit);
                }
            }
            Executor::Clock(_) => self.hand_over(work),
        }
    }

    /// Starts the last work of an object that is garbage and waits for nothing; [`EndOfState`] waits for it.
    pub fn hand_over(&self, work: impl Future<Output = ()> + Send + 'static) {
        match self {
            Executor::Thread(runtime) => {
                let pending = Pending::new();
                runtime.spawn(async move {
                    work.await;
                    drop(pending);
                });
            }
            Executor::Clock(clock) => {
                clock.spawn(work);
                // Without descriptors for a runtime, the next move of the clock does it.
                let _ = in_runtime(|_| clock.run_until_stalled());
            }
        }
    }
}

/// The last work of garbage that has not ended yet.
#[derive(Default)]
struct LastWork {
    pending: Mutex<usize>,
    ended: Condvar,
}

static LAST_WORK: PerProcess<LastWork> = PerProcess::new();

/// One piece of [`LastWork`], until it is dropped.
struct Pending;

impl Pending {
    fn new() -> Self {
        *lock(&LAST_WORK.get().pending) += 1;
        Pending
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let last = LAST_WORK.get();
        *lock(&last.pending) -= 1;
        last.ended.notify_all();
    }
}

/// The first object of a Lua state, and so the last that its end drops: waits for up to
/// [`SHUTDOWN_TIMEOUT`] for the last work of all others.
pub struct EndOfState;

impl Drop for EndOfState {
    fn drop(&mut self) {
        let last = LAST_WORK.get();
        let is_pending = |pending: &mut usize| *pending > 0;
        let waited =
            last.ended.wait_timeout_while(lock(&last.pending), SHUTDOWN_TIMEOUT, is_pending);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// The background thread of a process. A forked child has none of its parent's threads: it starts its own.
struct BackgroundThread {
    runtime: Handle,
    /// Ends the thread when it is dropped.
    _stop: oneshot::Sender<()>,
}

static THREAD: PerProcess<BackgroundThread> = PerProcess::new();

/// The runtime of the background thread, which the first call starts.
///
/// # Errors
/// [`Kind::Config`] if the thread or its descriptors cannot be created.
pub fn background_thread() -> Result<&'static Handle, Error> {
    let thread = THREAD.get_or_try_make(start_thread).map_err(|error| {
        let why = format!("cannot start the background thread: {error}");
        Error::new(Kind::Config, why).not_sent()
    })?;
    Ok(&thread.runtime)
}

fn start_thread() -> io::Result<BackgroundThread> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel();
    os::spawn("consul_ffi", move || drop(runtime.block_on(stopped)))?;
    Ok(BackgroundThread { runtime: handle, _stop: stop })
}

/// Polls work of a manual clock inside a runtime, which the probes of checks need for their sockets.
///
/// # Errors
/// [`Kind::Config`] if the descriptors of a runtime cannot be created.
pub fn in_runtime<R>(poll: impl FnOnce(&Runtime) -> R) -> Result<R, Error> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| {
        Error::new(Kind::Config, format!("cannot create a runtime: {error}")).not_sent()
    })?;
    let result = {
        let _entered = runtime.enter();
        poll(&runtime)
    };
    // A plain drop would wait for name lookups that are still running.
    runtime.shutdown_background();
    Ok(result)
}
