//! Work that goes on while the Lua program does something else: where it runs, and the queue that
//! its results come back in. Nothing here calls Lua.

use crate::clock::{Clock, ManualClock, TaskId};
use crate::error::{Error, Kind};
use crate::os::{self, Bell};
use crate::sync::lock;
use futures_util::future::{AbortHandle, abortable, select};
use futures_util::{Stream, StreamExt};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::RawFd;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// How many results of paced work wait for a program that does not take them.
const MOST_WAITING: usize = 16;

/// Where work goes on.
#[derive(Clone, Debug)]
pub enum Home {
    /// On the background thread, of which a process has one.
    Thread(Handle),
    /// On the calling thread, whenever somebody drives this clock or moves it.
    Clock(ManualClock),
}

impl Home {
    /// The background thread, which the first call starts.
    ///
    /// # Errors
    /// [`Kind::Config`] when the system has no thread or no descriptors to give.
    pub fn thread() -> Result<Home, Error> {
        Ok(Home::Thread(thread()?.clone()))
    }

    /// Starts the last work of something that ends, and waits for it, but no longer than `limit`;
    /// it goes on then. On a manual clock it does what it can at this moment, and the rest when
    /// somebody moves the clock.
    pub fn finish(&self, work: impl Future<Output = ()> + Send + 'static, limit: Duration) {
        match self {
            Home::Thread(runtime) => {
                let (working, is_done) = mpsc::channel::<()>();
                runtime.spawn(async move {
                    work.await;
                    drop(working);
                });
                // The background thread itself may let go of something last.
                if Handle::try_current().is_err() {
                    let _ = is_done.recv_timeout(limit);
                }
            }
            Home::Clock(clock) => {
                clock.spawn(work);
                // Without descriptors for a runtime it is left to whoever moves the clock next.
                let _ = in_runtime(|_| clock.settle());
            }
        }
    }
}

/// On a manual clock, how far a wait moves it from one pause to the next.
const STRIDE: Duration = Duration::from_secs(10);

/// The background thread of a process. A forked child has none of its parent's threads: it starts
/// its own and leaves the parent's in the chain, untouched.
struct Thread {
    generation: u32,
    runtime: Handle,
    /// Ends the thread when it is dropped.
    _stop: oneshot::Sender<()>,
    of_child: OnceLock<Box<Thread>>,
}

/// A chain and no lock: another thread could hold a lock at the moment of a fork, and in the child
/// nobody would ever give it back.
static THREAD: OnceLock<Box<Thread>> = OnceLock::new();

fn thread() -> Result<&'static Handle, Error> {
    let generation = os::fork_generation();
    let mut place = &THREAD;
    loop {
        match place.get() {
            Some(thread) if thread.generation == generation => return Ok(&thread.runtime),
            Some(thread) => place = &thread.of_child,
            None => {
                let thread = start_thread(generation).map_err(|error| {
                    let why = format!("no background thread can be started: {error}");
                    Error::new(Kind::Config, why).not_sent()
                })?;
                // When another thread was faster, ours ends.
                let _ = place.set(Box::new(thread));
            }
        }
    }
}

fn start_thread(generation: u32) -> io::Result<Thread> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel();
    os::spawn("consul_ffi", move || drop(runtime.block_on(stopped)))?;
    Ok(Thread { generation, runtime: handle, _stop: stop, of_child: OnceLock::new() })
}

/// Does what polls work on a manual clock. That takes a runtime, because probes of checks use
/// sockets.
///
/// # Errors
/// [`Kind::Config`] when the system has no descriptors to give.
pub fn in_runtime<R>(poll: impl FnOnce(&Runtime) -> R) -> Result<R, Error> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| {
        Error::new(Kind::Config, format!("no runtime can be started: {error}")).not_sent()
    })?;
    let result = {
        let _entered = runtime.enter();
        poll(&runtime)
    };
    // A plain drop would wait for name look-ups that are still under way.
    runtime.shutdown_background();
    Ok(result)
}

/// Work in the background as the Lua program holds it: the results, and how to end it.
#[derive(Debug)]
pub struct Job<T> {
    results: Arc<Queue<T>>,
    task: Option<Task>,
    generation: u32,
}

#[derive(Debug)]
enum Task {
    Thread(AbortHandle),
    Clock(ManualClock, TaskId),
}

impl<T: Send + 'static> Job<T> {
    /// Starts work that gives these results, one after the other.
    ///
    /// # Errors
    /// [`Kind::Config`] when the system has no descriptors to give.
    pub fn start(
        home: &Home,
        results: impl Stream<Item = T> + Send + 'static,
    ) -> Result<Self, Error> {
        Self::run(home, results, usize::MAX)
    }

    /// The same, but the work pauses when the program does not take its results, until all that wait
    /// were taken.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn start_paced(
        home: &Home,
        results: impl Stream<Item = T> + Send + 'static,
    ) -> Result<Self, Error> {
        Self::run(home, results, MOST_WAITING)
    }

    fn run(
        home: &Home,
        results: impl Stream<Item = T> + Send + 'static,
        most_waiting: usize,
    ) -> Result<Self, Error> {
        let queue = Arc::new(Queue::default());
        let end = EndOf(Arc::clone(&queue));
        let work = async move {
            let mut results = pin!(results);
            while let Some(result) = results.next().await {
                end.0.push(result);
                poll_fn(|context| end.0.poll_room(most_waiting, context)).await;
            }
        };
        let task = match home {
            Home::Thread(runtime) => {
                let (work, abort) = abortable(work);
                runtime.spawn(work);
                Task::Thread(abort)
            }
            Home::Clock(clock) => {
                let task = in_runtime(|_| {
                    let task = clock.spawn(work);
                    clock.settle();
                    task
                })?;
                Task::Clock(clock.clone(), task)
            }
        };
        Ok(Job { results: queue, task: Some(task), generation: os::fork_generation() })
    }

    /// Makes the descriptor readable for something else too, or no more.
    pub fn ringer(&self) -> impl Fn(bool) + Send + Sync + use<T> {
        let results = Arc::clone(&self.results);
        move |rings| {
            let mut waiting = results.lock();
            waiting.rings_besides = rings;
            waiting.set_bell();
        }
    }

    /// Work that was over before it began, with this result.
    pub fn over(result: T) -> Self {
        let results = Arc::new(Queue::default());
        results.push(result);
        results.end();
        Job { results, task: None, generation: os::fork_generation() }
    }
}

impl<T> Job<T> {
    /// Whether this is a forked child and the work its parent's, which does not go on here and of
    /// which nothing may be touched.
    pub fn is_of_parent(&self) -> bool {
        self.generation != os::fork_generation()
    }

    /// Whether [`Job::next`] has something to say already.
    pub fn has_news(&self) -> bool {
        self.results.lock().has_news()
    }

    /// The next result when there is one; `Ready(None)`: there will be no more.
    ///
    /// # Errors
    /// [`Kind::Config`] when the system has no descriptors to give.
    pub fn next(&self) -> Result<Poll<Option<T>>, Error> {
        self.settle()?;
        Ok(self.results.next())
    }

    /// On a manual clock, lets the work do what it can at this moment; otherwise it does so anyway.
    ///
    /// # Errors
    /// [`Kind::Config`] when the system has no descriptors to give.
    pub fn settle(&self) -> Result<(), Error> {
        match &self.task {
            Some(Task::Clock(clock, _)) => in_runtime(|_| clock.settle()),
            _ => Ok(()),
        }
    }

    /// Waits until [`Job::next`] has something to say, at most this long; a manual clock is moved
    /// meanwhile. There are pauses, each `interval` on the machine's clock, in which `pause` is
    /// called; what it refuses ends the wait.
    ///
    /// # Errors
    /// What `pause` refused, and as [`Job::next`].
    pub fn wait<E: From<Error>>(
        &self,
        limit: Option<Duration>,
        interval: Duration,
        pause: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(Task::Clock(clock, _)) = &self.task {
            let limit = limit.map(|limit| clock.now() + limit);
            while !self.is_of_parent() {
                let stride = clock.now() + STRIDE;
                let over = clock.sleep_until(limit.map_or(stride, |limit| limit.min(stride)));
                let result = poll_fn(|context| self.results.poll_news(context));
                in_runtime(|runtime| {
                    runtime.block_on(clock.drive(select(pin!(result), over)));
                })?;
                if self.has_news() || limit.is_some_and(|limit| clock.now() >= limit) {
                    break;
                }
                pause()?;
            }
            return Ok(());
        }
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        // What `pause` runs may fork: then the results are the parent's.
        while !self.is_of_parent() {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let turn = left.unwrap_or(interval).min(interval);
            if self.results.wait(turn) || left == Some(turn) {
                break;
            }
            pause()?;
        }
        Ok(())
    }

    /// A descriptor that is readable as long as [`Job::next`] has something to say, for an event
    /// loop of the program's own, which neither reads nor closes it.
    ///
    /// # Errors
    /// When the system has no descriptor to give.
    pub fn fd(&self) -> io::Result<RawFd> {
        self.results.lock().fd()
    }

    /// Ends the work. What it gave already stays in the queue, and nothing comes after it.
    pub fn cancel(&self) {
        if self.is_of_parent() {
            return;
        }
        match &self.task {
            Some(Task::Thread(abort)) => abort.abort(),
            Some(Task::Clock(clock, task)) => clock.cancel(*task),
            None => {}
        }
        self.results.end();
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.cancel();
        if !self.is_of_parent() {
            // The work has the queue too, and may end a little later.
            self.results.lock().bell = None;
        }
    }
}

/// What work gave and the program has not taken yet.
#[derive(Debug)]
struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    news: Condvar,
}

#[derive(Debug)]
struct Waiting<T> {
    results: VecDeque<T>,
    has_ended: bool,
    /// Whether the bell rings for something that is not in this queue.
    rings_besides: bool,
    /// Rings as long as there is news; made when the program asks for it.
    bell: Option<Bell>,
    /// Whoever polls for news.
    waker: Option<Waker>,
    /// The work, while it pauses because nobody takes what it gave.
    paused: Option<Waker>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let waiting = Waiting {
            results: VecDeque::new(),
            has_ended: false,
            rings_besides: false,
            bell: None,
            waker: None,
            paused: None,
        };
        Queue { waiting: Mutex::new(waiting), news: Condvar::new() }
    }
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        lock(&self.waiting)
    }

    fn push(&self, result: T) {
        self.change(|waiting| waiting.results.push_back(result));
    }

    fn next(&self) -> Poll<Option<T>> {
        let (next, paused) = {
            let mut waiting = self.lock();
            let next = waiting.next();
            let is_empty = waiting.results.is_empty();
            (next, waiting.paused.take_if(|_| is_empty))
        };
        if let Some(paused) = paused {
            paused.wake();
        }
        next
    }

    fn poll_room(&self, most_waiting: usize, context: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.lock();
        if waiting.results.len() < most_waiting {
            return Poll::Ready(());
        }
        waiting.paused = Some(context.waker().clone());
        Poll::Pending
    }

    fn end(&self) {
        self.change(|waiting| waiting.has_ended = true);
    }

    fn change(&self, change: impl FnOnce(&mut Waiting<T>)) {
        let waker = {
            let mut waiting = self.lock();
            change(&mut waiting);
            waiting.set_bell();
            waiting.waker.take()
        };
        self.news.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for news; false when the time is over first.
    fn wait(&self, limit: Duration) -> bool {
        let is_quiet = |waiting: &mut Waiting<T>| !waiting.has_news();
        let waited = self.news.wait_timeout_while(self.lock(), limit, is_quiet);
        waited.unwrap_or_else(PoisonError::into_inner).0.has_news()
    }

    fn poll_news(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.lock();
        if waiting.has_news() {
            return Poll::Ready(());
        }
        waiting.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl<T> Waiting<T> {
    fn has_news(&self) -> bool {
        self.has_ended || !self.results.is_empty()
    }

    fn next(&mut self) -> Poll<Option<T>> {
        let next = self.results.pop_front();
        self.set_bell();
        match next {
            None if !self.has_ended => Poll::Pending,
            next => Poll::Ready(next),
        }
    }

    fn fd(&mut self) -> io::Result<RawFd> {
        if let Some(bell) = &self.bell {
            return Ok(bell.fd());
        }
        let fd = self.bell.insert(Bell::new()?).fd();
        self.set_bell();
        Ok(fd)
    }

    fn set_bell(&mut self) {
        let rings = self.has_news() || self.rings_besides;
        match &mut self.bell {
            Some(bell) if rings => bell.ring(),
            Some(bell) => bell.silence(),
            None => {}
        }
    }
}

/// Ends a queue when its work does, however that may be.
struct EndOf<T>(Arc<Queue<T>>);

impl<T> Drop for EndOf<T> {
    fn drop(&mut self) {
        self.0.end();
    }
}
