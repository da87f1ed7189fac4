//! Keeps the presence, the locks and the semaphores of a client in the background. Nothing here calls
//! Lua.

use crate::runtime::executor::Executor;
use crate::runtime::job::Job;
use crate::runtime::wake::Cancel;
use consul_api::error::{Error, Kind};
use consul_client::Client;
use consul_client::coordination::lock::{self, LockOptions};
use consul_client::coordination::semaphore::{self, SemaphoreOptions};
use consul_client::coordination::{Event, Lease, Presence, Profile, Service, Wait};
use consul_process::sync::lock as locked;
use futures_util::future::{Either, ready, select};
use futures_util::stream::{self, Stream, StreamExt};
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::{mpsc, oneshot};

/// A presence that runs in the background, and the locks that depend on it.
pub struct CoordinationWorker {
    presence: Arc<Presence>,
    executor: Executor,
    presence_job: Job<Infallible>,
    is_closed: Arc<AtomicBool>,
    handles: Mutex<Vec<Weak<LockHandle>>>,
}

impl CoordinationWorker {
    /// Starts the worker of a client. `waiting` sends the blocking queries of waiters, so that they
    /// do not occupy the connections of beats.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn new(
        client: Arc<Client>,
        waiting: Arc<Client>,
        profile: Profile,
        executor: Executor,
    ) -> Result<Arc<Self>, Error> {
        let service = Service::for_process(&client);
        let presence = Presence::new(client, waiting, profile, service);
        let running = Arc::clone(&presence);
        let presence_job = Job::start(&executor, stream::once(async move { running.run().await }))?;
        let (is_closed, handles) = Default::default();
        Ok(Arc::new(Self { presence, executor, presence_job, is_closed, handles }))
    }

    /// The times of its presence.
    pub fn profile(&self) -> &Profile {
        self.presence.profile()
    }

    /// Gives up all locks and stops the beats; the returned future releases the locks and withdraws the
    /// presence. `None`: that was done before.
    pub fn end(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        if self.presence_job.belongs_to_parent() || self.is_closed.swap(true, Ordering::Relaxed) {
            return None;
        }
        self.presence_job.cancel();
        locked(&self.handles).iter().filter_map(Weak::upgrade).for_each(|handle| handle.give_up());
        let presence = Arc::clone(&self.presence);
        Some(async move {
            if let Err(error) = presence.deregister().await {
                tracing::info!(%error, "the service was not deregistered and stays until its check fails");
            }
            // Handles have the presence until they are collected.
            presence.close_connections();
        })
    }
}

impl Drop for CoordinationWorker {
    fn drop(&mut self) {
        if let Some(end) = self.end() {
            self.executor.hand_over(end);
        }
    }
}

/// The lock or permit that a handle acquires.
#[derive(Clone, Debug)]
pub enum LockSpec {
    /// The lock on a key.
    Lock {
        /// The locked key.
        key: String,
        /// The value of the key while the lock is held.
        value: Option<Vec<u8>>,
    },
    /// One permit of a semaphore.
    Permit {
        /// The keys of the semaphore.
        prefix: String,
        /// The number of permits.
        limit: u64,
        /// The value of the contender's key.
        value: Vec<u8>,
    },
}

/// The number of an attempt to acquire a lock; each handle counts from 1.
pub type AttemptId = u64;

/// The events of an attempt, from its start to the end of the lease.
pub enum AttemptEvent {
    /// The lock was acquired, with this fencing token.
    Acquired(AttemptId, u64),
    /// The lock was not acquired.
    Failed(AttemptId, Error),
    /// An event of the lease.
    Lease(AttemptId, Event),
    /// The last event of an attempt.
    Ended(AttemptId),
}

impl AttemptEvent {
    /// The attempt that it is of.
    pub fn attempt(&self) -> AttemptId {
        match self {
            AttemptEvent::Acquired(id, _)
            | AttemptEvent::Failed(id, _)
            | AttemptEvent::Lease(id, _)
            | AttemptEvent::Ended(id) => *id,
        }
    }
}

/// The command to acquire the lock.
struct Command {
    attempt: AttemptId,
    wait: Wait,
    /// Completes when the attempt is cancelled.
    cancelled: oneshot::Receiver<Infallible>,
}

/// One lock or permit of a worker: acquires it, keeps it and releases it. Background work may hold it for a
/// moment, so it does not hold its worker.
pub struct LockHandle {
    presence: Arc<Presence>,
    executor: Executor,
    is_closed: Arc<AtomicBool>,
    spec: LockSpec,
    state: Mutex<State>,
    attempts: AtomicU64,
    /// The last attempt whose outcome the program knows.
    known: AtomicU64,
    /// The last attempt whose caller went away while it waited.
    abandoned: AtomicU64,
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Waiting {
        attempt: AttemptId,
        /// Cancels the attempt when it is dropped.
        _cancel: oneshot::Sender<Infallible>,
    },
    Granted(Arc<Lease>),
}

impl LockHandle {
    /// A handle, and the job that reports its events.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn new(
        worker: &CoordinationWorker,
        spec: LockSpec,
    ) -> Result<(Arc<Self>, Job<AttemptEvent>), Error> {
        let (commands, received) = mpsc::unbounded_channel();
        let handle = Arc::new(Self {
            presence: Arc::clone(&worker.presence),
            executor: worker.executor.clone(),
            is_closed: Arc::clone(&worker.is_closed),
            spec,
            state: Mutex::default(),
            attempts: AtomicU64::default(),
            known: AtomicU64::default(),
            abandoned: AtomicU64::default(),
            commands,
        });
        {
            let mut handles = locked(&worker.handles);
            handles.retain(|handle| handle.strong_count() > 0);
            handles.push(Arc::downgrade(&handle));
        }
        let received = stream::unfold(received, |mut received| async move {
            received.recv().await.map(|command| (command, received))
        });
        let weak = Arc::downgrade(&handle);
        let presence = Arc::clone(&handle.presence);
        let spec = handle.spec.clone();
        let events = received.flat_map(move |command| {
            run_attempt(Arc::clone(&presence), spec.clone(), weak.clone(), command)
        });
        let job = Job::start(&handle.executor, events)?;
        Ok((handle, job))
    }

    /// Starts to acquire the lock in the background.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if it is held or waited for already, [`Kind::Closed`] if the client is closed.
    pub fn start_attempt(&self, wait: Wait) -> Result<AttemptId, Error> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Closed, "the client is closed").not_sent());
        }
        let mut state = locked(&self.state);
        let is_free = match &*state {
            State::Idle => true,
            State::Waiting { .. } => false,
            State::Granted(lease) => lease.has_ended(),
        };
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        let (_cancel, cancelled) = oneshot::channel();
        if !is_free || self.commands.send(Command { attempt, wait, cancelled }).is_err() {
            let message = "this client holds it or waits for it already";
            return Err(Error::new(Kind::Conflict, message).not_sent());
        }
        *state = State::Waiting { attempt, _cancel };
        Ok(attempt)
    }

    /// The executor of this handle's background work.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// Cancels an attempt that waits; returns false if none does.
    pub fn cancel(&self) -> bool {
        let mut state = locked(&self.state);
        let is_waiting = matches!(*state, State::Waiting { .. });
        if is_waiting {
            *state = State::Idle;
        }
        is_waiting
    }

    /// Notes that the program has learned the outcome of an attempt.
    pub fn record_known(&self, attempt: AttemptId) {
        self.known.store(attempt, Ordering::Relaxed);
    }

    /// Whether nobody waits for the events of an attempt any more.
    pub fn is_abandoned(&self, attempt: AttemptId) -> bool {
        attempt <= self.abandoned.load(Ordering::Relaxed)
    }

    /// Ends an attempt whose caller has gone away while it waited, also if it got the lock meanwhile.
    pub fn abandon(&self, attempt: AttemptId) {
        if attempt == self.attempts.load(Ordering::Relaxed)
            && attempt > self.known.load(Ordering::Relaxed)
        {
            self.abandoned.store(attempt, Ordering::Relaxed);
            self.give_up();
        }
    }

    /// Abandons attempts of this handle as long as it lives.
    pub fn abandoner(self: &Arc<Self>) -> Cancel {
        let handle = Arc::downgrade(self);
        Arc::new(move |attempt| {
            if let Some(handle) = handle.upgrade() {
                handle.abandon(attempt);
            }
        })
    }

    /// Whether an attempt waits for the lock.
    pub fn is_waiting(&self) -> bool {
        matches!(*locked(&self.state), State::Waiting { .. })
    }

    /// The last lease, which may have ended.
    pub fn lease(&self) -> Option<Arc<Lease>> {
        match &*locked(&self.state) {
            State::Granted(lease) => Some(Arc::clone(lease)),
            _ => None,
        }
    }

    /// Cancels an attempt and releases the lock in the background; waits for nothing.
    pub fn give_up(&self) {
        self.cancel();
        if let Some(lease) = self.lease() {
            lease.give_up();
        }
    }

    /// Cancels an attempt and releases the lock; waits for a short time.
    pub fn shut_down(self: Arc<Self>) {
        let executor = self.executor().clone();
        executor.shut_down(async move { self.release().await });
    }

    async fn release(&self) {
        self.cancel();
        if let Some(lease) = self.lease().filter(|lease| !lease.has_ended())
            && let Err(error) = lease.release().await
        {
            tracing::info!(%error, "the lock is not released yet");
        }
    }

    /// Stores the outcome of an attempt; returns false if the attempt was cancelled.
    fn complete(&self, attempt: AttemptId, outcome: &Result<Arc<Lease>, Error>) -> bool {
        let mut state = locked(&self.state);
        let is_current =
            matches!(&*state, State::Waiting { attempt: current, .. } if *current == attempt);
        if is_current {
            *state = match outcome {
                Ok(lease) => State::Granted(Arc::clone(lease)),
                Err(_) => State::Idle,
            };
        }
        is_current
    }
}

/// One attempt, from the wait for the lock to the end of the lease.
fn run_attempt(
    presence: Arc<Presence>,
    spec: LockSpec,
    handle: Weak<LockHandle>,
    Command { attempt, wait, cancelled }: Command,
) -> impl Stream<Item = AttemptEvent> + Send {
    let outcome = async move {
        let was_cancelled = || Error::new(Kind::Closed, "the attempt was cancelled");
        let outcome = match select(pin!(acquire(&presence, &spec, wait)), cancelled).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => Err(was_cancelled()),
        };
        let is_current = handle.upgrade().is_some_and(|handle| handle.complete(attempt, &outcome));
        if is_current {
            return outcome;
        }
        // The program has never learned of it.
        outcome.iter().for_each(|lease| lease.give_up());
        Err(was_cancelled())
    };
    let events = stream::once(outcome).flat_map(move |outcome| match outcome {
        Ok(lease) => {
            let acquired = AttemptEvent::Acquired(attempt, lease.token());
            stream::once(ready(acquired)).chain(keep(attempt, lease)).left_stream()
        }
        Err(error) => stream::once(ready(AttemptEvent::Failed(attempt, error))).right_stream(),
    });
    events.chain(stream::once(ready(AttemptEvent::Ended(attempt))))
}

async fn acquire(
    presence: &Arc<Presence>,
    spec: &LockSpec,
    wait: Wait,
) -> Result<Arc<Lease>, Error> {
    match spec {
        LockSpec::Lock { key, value } => {
            lock::acquire(presence, key, &LockOptions { value: value.clone(), wait, is_own: false })
                .await
        }
        LockSpec::Permit { prefix, limit, value } => {
            let options = SemaphoreOptions { limit: *limit, value: value.clone(), wait };
            semaphore::acquire(presence, prefix, &options).await
        }
    }
}

/// Keeps a lease, and reports its events until it ends.
fn keep(attempt: AttemptId, lease: Arc<Lease>) -> impl Stream<Item = AttemptEvent> + Send {
    let keeper = Arc::clone(&lease);
    let keeping = stream::once(async move { keeper.keep().await }).filter_map(|_| ready(None));
    let events = stream::unfold(lease, move |lease| async move {
        lease.next_event().await.map(|event| (AttemptEvent::Lease(attempt, event), lease))
    });
    stream::select(events, keeping)
}
