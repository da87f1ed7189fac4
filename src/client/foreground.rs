//! A client's calls on the calling thread.

use crate::runtime::native::Failure;
use crate::runtime::nginx;
use crate::runtime::wait;
use consul_api::error::{Error, Kind};
use consul_client::Client;
use consul_client::transport::blocking_read;
use consul_config::Config;
use consul_config::connect::connect;
use consul_process::os;
use mlua::Lua;
use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// How long calls that need no runtime may keep it from its own work, such as the end of idle
/// connections.
const MAX_TIME_WITHOUT_RUNTIME: Duration = Duration::from_secs(1);

/// A client, and a runtime for the calling thread, so that a plain client starts no thread.
pub struct Foreground {
    client: Client,
    /// Created for the first call, since it has descriptors.
    driver: OnceCell<Driver>,
    /// The last time the runtime ran.
    last_run: Cell<Instant>,
    /// The process that created this, counted in forks.
    generation: u32,
}

/// The runtime of calls.
struct Driver {
    runtime: Runtime,
    /// The next pause for hooks. It continues from call to call, because a timer for each call would
    /// cost more than the rest of the guard.
    tick: RefCell<Interval>,
}

impl Driver {
    fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            // Name lookups run in threads and cannot be cancelled: a dead name server must not
            // add threads without limit.
            .max_blocking_threads(8)
            .on_thread_start(os::block_signals)
            .build()?;
        let mut tick = {
            let _context = runtime.enter();
            interval_at(Instant::now() + wait::INTERVAL, wait::INTERVAL)
        };
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Driver { runtime, tick: RefCell::new(tick) })
    }
}

fn unavailable(error: io::Error) -> Error {
    Error::new(Kind::Config, format!("cannot create a runtime: {error}")).not_sent()
}

impl Foreground {
    /// Prepares calls with this configuration; sends nothing.
    ///
    /// # Errors
    /// [`Kind::Config`] if forks cannot be noticed, and as [`connect`].
    pub fn new(config: &Config) -> Result<Self, Error> {
        os::watch_forks().map_err(unavailable)?;
        Ok(Foreground {
            client: connect(config)?,
            driver: OnceCell::new(),
            last_run: Cell::new(Instant::now()),
            generation: os::fork_generation(),
        })
    }

    /// Without free descriptors, the clients that the program has dropped are collected first.
    fn driver(&self, lua: &Lua) -> Result<&Driver, Error> {
        if let Some(driver) = self.driver.get() {
            return Ok(driver);
        }
        let driver = Driver::new().or_else(|_| {
            // An error of a finalizer is not one of this call.
            let _ = lua.gc_collect();
            Driver::new().map_err(|error| {
                unavailable(error).with_note(
                    "each client that has made a call keeps descriptors until it is closed",
                )
            })
        })?;
        Ok(self.driver.get_or_init(|| driver))
    }

    /// The client whose calls run on the calling thread.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether this process is a forked child of this object's creator: the runtime would hang
    /// here, and the connections are the parent's.
    pub fn belongs_to_parent(&self) -> bool {
        self.generation != os::fork_generation()
    }

    /// Makes one call as [`Foreground::run`] does, but polls it once outside of the runtime first.
    /// Most calls are complete after that.
    ///
    /// # Errors
    /// As [`Foreground::run`].
    pub fn run_one<T>(&self, lua: &Lua, call: impl Future<Output = T>) -> Result<T, Failure> {
        nginx::before_block(lua);
        let mut call = Box::pin(call);
        if self.client.clock().as_manual().is_none() && !self.is_runtime_due() {
            let _context = self.driver(lua)?.runtime.enter();
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(outcome) = blocking_read::allow(|| call.as_mut().poll(&mut context))
            {
                return Ok(outcome);
            }
        }
        self.run(lua, call)
    }

    fn is_runtime_due(&self) -> bool {
        self.last_run.get().elapsed() > MAX_TIME_WITHOUT_RUNTIME
    }

    /// Runs `work` to completion on the calling thread, with pauses in which hooks run.
    ///
    /// # Errors
    /// The error that a hook raised; then the work is dropped. [`Kind::Config`] if the descriptors of the runtime cannot
    /// be created.
    pub fn run<T>(&self, lua: &Lua, work: impl Future<Output = T>) -> Result<T, Failure> {
        nginx::before_block(lua);
        let Driver { runtime, tick } = self.driver(lua)?;
        let mut work = Box::pin(async {
            match self.client.clock().as_manual() {
                Some(clock) => clock.drive(work).await,
                None => work.await,
            }
        });
        self.last_run.set(Instant::now());
        loop {
            // The tick first: a task that yields is woken after the poll, so the last poll before
            // the runtime is left must not be one of the work. A batch would lose calls.
            let until_tick = poll_fn(|context| match tick.borrow_mut().poll_tick(context) {
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => work.as_mut().poll(context).map(Some),
            });
            let no_sigpipe = os::NoSigpipe::new();
            let done = runtime.block_on(until_tick);
            drop(no_sigpipe);
            if let Some(done) = done {
                return Ok(done);
            }
            let pause = wait::pause(lua);
            if self.belongs_to_parent() {
                // To drop it would remove the parent's connection from what the parent waits for.
                mem::forget(work);
                let message =
                    "a hook forked the process during the call; it continues in the parent only";
                return Err(Error::new(Kind::Closed, message).into());
            }
            pause?;
        }
    }

    /// Drops the client, then the runtime, without waiting for name lookups that are still running.
    pub fn close(self) {
        drop(self.client);
        if let Some(driver) = self.driver.into_inner() {
            driver.runtime.shutdown_background();
        }
    }
}
