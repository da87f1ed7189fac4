//! A client's calls on the calling thread.

use crate::client::Client;
use crate::config::Config;
use crate::connect::connect;
use crate::error::{Error, Kind};
use crate::lua::runtime::native::Failure;
use crate::lua::runtime::wait;
use crate::os;
use crate::transport::blocking_read;
use mlua::Lua;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::mem;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// How long calls that need no runtime may keep it from its own work, such as the end of idle
/// connections.
const MAX_TIME_WITHOUT_RUNTIME: Duration = Duration::from_secs(1);

/// A client and a runtime for the calling thread, so that a plain client starts no thread.
pub struct Foreground {
    client: Client,
    runtime: Runtime,
    /// The next pause for hooks. It continues from call to call, because a timer for each call would
    /// cost more than the rest of the guard.
    tick: RefCell<Interval>,
    /// The last time the runtime ran.
    last_run: Cell<Instant>,
    /// The process that created this, counted in forks.
    generation: u32,
}

impl Foreground {
    /// Prepares calls with this configuration; sends nothing.
    ///
    /// # Errors
    /// [`Kind::Config`] if the descriptors of the runtime cannot be created, and as [`connect`].
    pub fn new(config: &Config) -> Result<Self, Error> {
        let unavailable = |error| {
            Error::new(Kind::Config, format!("cannot create a runtime: {error}")).not_sent()
        };
        os::watch_forks().map_err(unavailable)?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            // Name lookups run in threads and cannot be cancelled: a dead name server must not
            // add threads without limit.
            .max_blocking_threads(8)
            .on_thread_start(os::block_signals)
            .build()
            .map_err(unavailable)?;
        let mut tick = {
            let _context = runtime.enter();
            interval_at(Instant::now() + wait::INTERVAL, wait::INTERVAL)
        };
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let client = connect(config)?;
        let generation = os::fork_generation();
        Ok(Foreground {
            client,
            runtime,
            tick: RefCell::new(tick),
            last_run: Cell::new(Instant::now()),
            generation,
        })
    }

    /// The client whose calls run on the calling thread.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether this process is a forked child of the one that created this: the runtime would hang
    /// here, and the connections are the parent's.
    pub fn belongs_to_parent(&self) -> bool {
        self.generation != os::fork_generation()
    }

    /// Makes one call as [`Foreground::run`] does, but polls it once outside of the runtime first.
    /// Most calls are complete after that.
    ///
    /// # Errors
    /// What a hook raised; then the call is dropped.
    pub fn run_one<T>(&self, lua: &Lua, call: impl Future<Output = T>) -> Result<T, Failure> {
        let mut call = Box::pin(call);
        if self.client.clock().as_manual().is_none() && !self.is_runtime_due() {
            let _context = self.runtime.enter();
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
    /// What a hook raised; then the work is dropped.
    pub fn run<T>(&self, lua: &Lua, work: impl Future<Output = T>) -> Result<T, Failure> {
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
            let until_tick = poll_fn(|context| match self.tick.borrow_mut().poll_tick(context) {
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => work.as_mut().poll(context).map(Some),
            });
            let no_sigpipe = os::NoSigpipe::new();
            let done = self.runtime.block_on(until_tick);
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
        self.runtime.shutdown_background();
    }
}
