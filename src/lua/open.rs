//! What a client has until it is closed, and how calls run on the calling thread.

use super::handle::Background;
use super::hooks;
use super::native::Failure;
use crate::client::Client;
use crate::config::Config;
use crate::connect::connect;
use crate::error::{Error, Kind};
use crate::os;
use crate::transport::in_place;
use mlua::Lua;
use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// How long calls that need no runtime may keep it from its own work, which is to close connections
/// that nobody uses.
const LONGEST_WITHOUT_A_TURN: Duration = Duration::from_secs(1);

/// A runtime of its own lets a call run on the calling thread, and a plain client start none.
pub struct Open {
    client: Client,
    runtime: Runtime,
    /// When hooks are due. It goes on from call to call, since setting a timer for each call costs
    /// more than all the rest of the guard.
    tick: RefCell<Interval>,
    /// When the runtime had its last turn.
    turn: Cell<Instant>,
    /// Made when the first handle is.
    background: OnceCell<Arc<Background>>,
    /// The process that made this, counted in forks.
    generation: u32,
}

impl Open {
    /// What a client with this configuration needs. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Kind::Config`] when the system has no descriptors left, or as [`connect`].
    pub fn new(config: &Config) -> Result<Rc<Open>, Error> {
        let unavailable = |error| {
            Error::new(Kind::Config, format!("no runtime can be started: {error}")).not_sent()
        };
        os::watch_forks().map_err(unavailable)?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            // Name look-ups run in threads, and cannot be ended: a dead name server must not make
            // ever more of them.
            .max_blocking_threads(8)
            .on_thread_start(os::block_signals)
            .build()
            .map_err(unavailable)?;
        let mut tick = {
            let _context = runtime.enter();
            interval_at(Instant::now() + hooks::INTERVAL, hooks::INTERVAL)
        };
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let client = connect(config)?;
        let generation = os::fork_generation();
        Ok(Rc::new(Open {
            client,
            runtime,
            tick: RefCell::new(tick),
            turn: Cell::new(Instant::now()),
            background: OnceCell::new(),
            generation,
        }))
    }

    /// The client itself.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where calls of the client of this configuration go on in the background.
    ///
    /// # Errors
    /// As [`Background::new`].
    pub fn background(&self, config: &Config) -> Result<Arc<Background>, Error> {
        if let Some(background) = self.background.get() {
            return Ok(Arc::clone(background));
        }
        let made = Arc::new(Background::new(config)?);
        Ok(Arc::clone(self.background.get_or_init(|| made)))
    }

    /// Ends the calls in the background.
    pub fn end_background(&self) {
        if let Some(background) = self.background.get().filter(|_| self.is_ours()) {
            background.close();
        }
    }

    /// Whether this process made it, and not one that this was forked from: then its runtime would
    /// hang here, and its connections are the parent's.
    pub fn is_ours(&self) -> bool {
        self.generation == os::fork_generation()
    }

    /// Makes one call on the calling thread, as [`Open::run`] does. Most are over before there is
    /// anything for the runtime to do.
    ///
    /// # Errors
    /// What a hook raised; then the call is dropped.
    pub fn run_one<T>(&self, lua: &Lua, call: impl Future<Output = T>) -> Result<T, Failure> {
        let mut call = Box::pin(call);
        if self.client.clock().as_manual().is_none() && !self.is_overdue() {
            let _context = self.runtime.enter();
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(done) = in_place::allow(|| call.as_mut().poll(&mut context)) {
                return Ok(done);
            }
        }
        self.run(lua, call)
    }

    /// Whether the runtime has had no turn for so long that it may have something to do.
    fn is_overdue(&self) -> bool {
        self.turn.get().elapsed() > LONGEST_WITHOUT_A_TURN
    }

    /// Runs `work` to its end on the calling thread, with pauses in which hooks run.
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
        self.turn.set(Instant::now());
        loop {
            // The tick first: who yields in the runtime is woken after the poll, so the last poll
            // before the runtime is left must not be one of the work. A batch would lose calls.
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
            let hooks = hooks::run(lua);
            if !self.is_ours() {
                // To drop it would take the parent's connection out of what the parent waits for.
                mem::forget(work);
                let message =
                    "a hook forked the process during the call, which only its parent makes";
                return Err(Error::new(Kind::Closed, message).into());
            }
            hooks?;
        }
    }

    /// Lets go of it; what nobody uses any more ends.
    pub fn release(open: Rc<Open>) {
        if !open.is_ours() {
            mem::forget(open);
        } else if let Some(open) = Rc::into_inner(open) {
            drop(open.client);
            // A plain drop would wait for name look-ups that are still under way.
            open.runtime.shutdown_background();
        }
    }
}
