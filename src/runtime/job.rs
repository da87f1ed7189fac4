//! Background work as the Lua program holds it: the queue that the results come back in, and how to
//! wait for them. Nothing here calls Lua.

use super::executor::{Executor, in_runtime};
use super::wake::{self, Cancel, Ticket, Waited};
use consul_api::error::Error;
use consul_process::clock::{BoxFuture, Clock, ManualClock, TaskId};
use consul_process::os::{self, EventFd};
use consul_process::sync::lock;
use futures_util::future::{AbortHandle, abortable, select};
use futures_util::{Stream, StreamExt};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::RawFd;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How many results a bounded job queues before it pauses.
const QUEUE_BOUND: usize = 16;

/// On a manual clock, how far a wait moves it between two pauses.
const CLOCK_STEP: Duration = Duration::from_secs(10);

/// Background work: its results, and how to cancel it.
#[derive(Debug)]
pub struct Job<T> {
    queue: Arc<Queue<T>>,
    /// None: the job was complete from the beginning.
    task: Option<Task>,
    generation: u32,
    /// How often the program has asked for the descriptor and not found what it waited for since.
    waits: AtomicUsize,
    /// With which a client of the process's unix socket waits for it.
    ticket: OnceLock<Ticket>,
}

#[derive(Debug)]
enum Task {
    Thread(AbortHandle),
    Clock(ManualClock, TaskId),
}

impl Task {
    /// Starts work, which is boxed so that the runtime's code for a task is in the module once.
    fn start(executor: &Executor, work: BoxFuture<'static, ()>) -> Result<Self, Error> {
        Ok(match executor {
            Executor::Thread(runtime) => {
                let (work, abort) = abortable(work);
                runtime.spawn(work);
                Task::Thread(abort)
            }
            Executor::Clock(clock) => {
                let task = in_runtime(|_| {
                    let task = clock.spawn(work);
                    clock.run_until_stalled();
                    task
                })?;
                Task::Clock(clock.clone(), task)
            }
        })
    }
}

impl<T: Send + 'static> Job<T> {
    /// Starts work that produces a stream of results.
    ///
    /// # Errors
    /// [`Kind::Config`](consul_api::error::Kind::Config) if the descriptors of a runtime cannot be created.
    pub fn start(
        executor: &Executor,
        results: impl Stream<Item = T> + Send + 'static,
    ) -> Result<Self, Error> {
        Self::start_with_bound(executor, results, usize::MAX)
    }

    /// As [`Job::start`], but the work pauses when [`QUEUE_BOUND`] results are queued, until the
    /// program has taken all of them.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn start_bounded(
        executor: &Executor,
        results: impl Stream<Item = T> + Send + 'static,
    ) -> Result<Self, Error> {
        Self::start_with_bound(executor, results, QUEUE_BOUND)
    }

    fn start_with_bound(
        executor: &Executor,
        results: impl Stream<Item = T> + Send + 'static,
        bound: usize,
    ) -> Result<Self, Error> {
        let queue = Arc::new(Queue::default());
        let end = EndOnDrop(Arc::clone(&queue));
        let work = async move {
            let mut results = pin!(results);
            while let Some(result) = results.next().await {
                end.0.push(result);
                poll_fn(|context| end.0.poll_room(bound, context)).await;
            }
        };
        let task = Task::start(executor, Box::pin(work))?;
        Ok(Self::new(queue, Some(task)))
    }

    /// A function that makes the descriptor readable for a second reason, or takes that reason away.
    pub fn notifier(&self) -> impl Fn(bool) + Send + Sync + use<T> {
        let queue = Arc::clone(&self.queue);
        move |notifies| {
            let mut state = queue.lock();
            state.is_notified = notifies;
            state.update_event_fd();
            drop(state);
            queue.waiting.notify_waiters();
        }
    }

    /// A job that was complete before it began, with this result.
    pub fn completed(result: T) -> Self {
        let queue = Arc::new(Queue::default());
        queue.push(result);
        queue.end();
        Self::new(queue, None)
    }

    fn new(queue: Arc<Queue<T>>, task: Option<Task>) -> Self {
        Job {
            queue,
            task,
            generation: os::fork_generation(),
            waits: AtomicUsize::default(),
            ticket: OnceLock::new(),
        }
    }

    /// The ticket for a wait at the process's unix socket. The first call's `cancel` is called when a client goes away
    /// while it waits.
    pub fn ticket(&self, cancel: impl FnOnce() -> Option<Cancel>) -> &Ticket {
        self.ticket
            .get_or_init(|| wake::ticket(Arc::clone(&self.queue) as Arc<dyn Waited>, cancel()))
    }

    /// Ends the work of a job in the background.
    pub fn canceller(&self) -> Option<Cancel> {
        match &self.task {
            Some(Task::Thread(abort)) => {
                let abort = abort.clone();
                Some(Arc::new(move |_| abort.abort()))
            }
            _ => None,
        }
    }
}

impl<T> Job<T> {
    /// Whether this process is a forked child of the process with the job. The work does not
    /// continue here, and nothing of it may be touched.
    pub fn belongs_to_parent(&self) -> bool {
        self.generation != os::fork_generation()
    }

    /// Whether [`Job::next`] returns a result or the end of the job.
    pub fn is_ready(&self) -> bool {
        self.queue.lock().is_ready()
    }

    /// Takes the next result; `Ready(None)` is the end of the job.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn next(&self) -> Result<Poll<Option<T>>, Error> {
        self.run_pending()?;
        let next = self.queue.next();
        if next.is_ready() {
            self.end_wait();
        }
        Ok(next)
    }

    /// Notes that a wait for the descriptor has ended, if there is one: the program has what it waited for.
    pub fn end_wait(&self) {
        let less = |waits: usize| waits.checked_sub(1);
        // There was none.
        _ = self.waits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// On a manual clock, runs work as far as it gets without a move of the clock. The background
    /// thread does so by itself.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn run_pending(&self) -> Result<(), Error> {
        match &self.task {
            Some(Task::Clock(clock, _)) => in_runtime(|_| clock.run_until_stalled()),
            _ => Ok(()),
        }
    }

    /// Waits until the job is ready or the limit is over; moves a manual clock meanwhile. Calls
    /// `pause` after each `interval` of the machine's clock; an error of it ends the wait, and so does true.
    ///
    /// # Errors
    /// Errors of `pause`, and as [`Job::start`].
    pub fn wait<E: From<Error>>(
        &self,
        limit: Option<Duration>,
        interval: Duration,
        pause: impl Fn() -> Result<bool, E>,
    ) -> Result<(), E> {
        if let Some(Task::Clock(clock, _)) = &self.task {
            return self.wait_on_clock(clock, limit, pause);
        }
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        // A fork in `pause` leaves the job to the parent.
        while !self.belongs_to_parent() {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let turn = left.unwrap_or(interval).min(interval);
            if self.queue.wait(turn) || left == Some(turn) {
                break;
            }
            if pause()? {
                break;
            }
        }
        Ok(())
    }

    fn wait_on_clock<E: From<Error>>(
        &self,
        clock: &ManualClock,
        limit: Option<Duration>,
        pause: impl Fn() -> Result<bool, E>,
    ) -> Result<(), E> {
        let deadline = limit.map(|limit| clock.now() + limit);
        while !self.belongs_to_parent() {
            let step = clock.now() + CLOCK_STEP;
            let over = clock.sleep_until(deadline.map_or(step, |deadline| deadline.min(step)));
            in_runtime(|runtime| {
                runtime
                    .block_on(clock.drive(select(pin!(self.queue.until(State::is_ready)), over)));
            })?;
            if self.is_ready() || deadline.is_some_and(|deadline| clock.now() >= deadline) {
                break;
            }
            if pause()? {
                break;
            }
        }
        Ok(())
    }

    /// A descriptor that is readable while the job is ready, for the event loop of the program,
    /// which must neither read nor close it.
    ///
    /// # Errors
    /// If the descriptor cannot be created.
    pub fn fd(&self) -> io::Result<RawFd> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.queue.lock().fd()
    }

    /// Whether the program has asked for the descriptor and found nothing since: an event loop may wait for it, and would
    /// not notice that it is closed.
    pub fn is_awaited(&self) -> bool {
        self.waits.load(Ordering::Relaxed) > 0
    }

    /// Closes the descriptor, unless somebody may wait for it.
    pub fn close_fd(&self) {
        if !self.is_awaited() {
            self.queue.lock().event_fd = None;
        }
    }

    /// Ends the work. Queued results stay, and none is added.
    pub fn cancel(&self) {
        if self.belongs_to_parent() {
            return;
        }
        match &self.task {
            Some(Task::Thread(abort)) => abort.abort(),
            Some(Task::Clock(clock, task)) => clock.cancel(*task),
            None => {}
        }
        self.queue.end();
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.cancel();
        if !self.belongs_to_parent() {
            // The work shares the queue and may end a little later.
            self.queue.lock().event_fd = None;
        }
    }
}

/// Results that the program has not taken yet.
#[derive(Debug)]
struct Queue<T> {
    state: Mutex<State<T>>,
    /// For threads that wait.
    changed: Condvar,
    /// For tasks that wait.
    waiting: Notify,
}

#[derive(Debug)]
struct State<T> {
    results: VecDeque<T>,
    has_ended: bool,
    /// Whether the descriptor is readable for a reason outside of this queue.
    is_notified: bool,
    /// Readable while the queue is ready; created when the program asks for the descriptor.
    event_fd: Option<EventFd>,
    /// The work, while it pauses because the queue is full.
    paused: Option<Waker>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let state = State {
            results: VecDeque::new(),
            has_ended: false,
            is_notified: false,
            event_fd: None,
            paused: None,
        };
        Queue { state: Mutex::new(state), changed: Condvar::new(), waiting: Notify::new() }
    }
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        lock(&self.state)
    }

    fn push(&self, result: T) {
        self.change(|state| state.results.push_back(result));
    }

    fn next(&self) -> Poll<Option<T>> {
        let (next, paused) = {
            let mut state = self.lock();
            let next = state.next();
            let is_empty = state.results.is_empty();
            (next, state.paused.take_if(|_| is_empty))
        };
        if let Some(paused) = paused {
            paused.wake();
        }
        next
    }

    fn poll_room(&self, bound: usize, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.results.len() < bound {
            return Poll::Ready(());
        }
        state.paused = Some(context.waker().clone());
        Poll::Pending
    }

    fn end(&self) {
        self.change(|state| state.has_ended = true);
    }

    fn change(&self, change: impl FnOnce(&mut State<T>)) {
        {
            let mut state = self.lock();
            change(&mut state);
            state.update_event_fd();
        }
        self.changed.notify_all();
        self.waiting.notify_waiters();
    }

    /// Waits until the queue is ready; returns false if the time is over first.
    fn wait(&self, limit: Duration) -> bool {
        let is_empty = |state: &mut State<T>| !state.is_ready();
        let waited = self.changed.wait_timeout_while(self.lock(), limit, is_empty);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_ready()
    }

    /// Waits until the state is as wanted.
    async fn until(&self, is_wanted: impl Fn(&State<T>) -> bool) {
        loop {
            let mut changed = pin!(self.waiting.notified());
            changed.as_mut().enable();
            if is_wanted(&self.lock()) {
                return;
            }
            changed.await;
        }
    }
}

impl<T: Send + 'static> Waited for Queue<T> {
    fn ready(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.until(State::is_due).await })
    }
}

impl<T> State<T> {
    fn is_ready(&self) -> bool {
        self.has_ended || !self.results.is_empty()
    }

    /// Whether the descriptor is readable.
    fn is_due(&self) -> bool {
        self.is_ready() || self.is_notified
    }

    fn next(&mut self) -> Poll<Option<T>> {
        let next = self.results.pop_front();
        self.update_event_fd();
        match next {
            None if !self.has_ended => Poll::Pending,
            next => Poll::Ready(next),
        }
    }

    fn fd(&mut self) -> io::Result<RawFd> {
        if let Some(event_fd) = &self.event_fd {
            return Ok(event_fd.fd());
        }
        let fd = self.event_fd.insert(EventFd::new()?).fd();
        self.update_event_fd();
        Ok(fd)
    }

    fn update_event_fd(&mut self) {
        let is_set = self.is_due();
        match &mut self.event_fd {
            Some(event_fd) if is_set => event_fd.set(),
            Some(event_fd) => event_fd.clear(),
            None => {}
        }
    }
}

/// Ends a queue when its work is done, cancelled or panics.
struct EndOnDrop<T>(Arc<Queue<T>>);

impl<T> Drop for EndOnDrop<T> {
    fn drop(&mut self) {
        self.0.end();
    }
}
