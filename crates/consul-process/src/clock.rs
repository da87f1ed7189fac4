//! Time: the client, the cluster and the simulated agent read a [`Clock`], never the operating
//! system, so that all of them run on a virtual clock in tests.

use crate::os;
use crate::sync::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

/// A future that is owned and can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A moment on one [`Clock`]: the time since that clock's origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// The moment at this time after the clock's origin.
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// The time since the clock's origin.
    pub const fn since_origin(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(rhs))
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// The time from `rhs` to `self`; zero if `rhs` is later.
    fn sub(self, rhs: Instant) -> Duration {
        self.0.saturating_sub(rhs.0)
    }
}

/// The time of day, which may be wrong and may be set while the process runs. No duration is measured
/// with it.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn(Instant) -> Duration + Send + Sync>);

impl WallClock {
    /// A clock that gets the Unix time of a moment from `unix`.
    pub fn new(unix: impl Fn(Instant) -> Duration + Send + Sync + 'static) -> Self {
        WallClock(Arc::new(unix))
    }

    /// The machine's clock, which is read each time.
    pub fn machine() -> Self {
        Self::new(|_| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }

    /// A clock that goes with a [`Clock`], and shows `unix` at its origin.
    pub fn from_origin(unix: Duration) -> Self {
        Self::new(move |now| unix + now.since_origin())
    }

    /// The Unix milliseconds at this moment, which is the current one.
    pub fn unix_ms(&self, now: Instant) -> u64 {
        u64::try_from((self.0)(now).as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WallClock").finish_non_exhaustive()
    }
}

/// A source of time, with timers.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The current moment, which never goes back.
    fn now(&self) -> Instant;

    /// Completes when [`Clock::now`] has reached `deadline`.
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()>;

    /// This clock, if it is a manual one.
    fn as_manual(&self) -> Option<&ManualClock> {
        None
    }

    /// As [`Clock::sleep_until`]; without a deadline it never completes.
    fn sleep_until_any(&self, deadline: Option<Instant>) -> BoxFuture<'static, ()> {
        match deadline {
            Some(deadline) => self.sleep_until(deadline),
            None => Box::pin(std::future::pending()),
        }
    }

    /// Completes `duration` from now.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now() + duration)
    }
}

/// The machine's clock, which goes on while the machine is suspended. Its sleeps need a tokio
/// runtime with time enabled.
///
/// The timers of the runtime stop while the machine is suspended, so a sleep across a suspension
/// ends late, by up to the time of that suspension. [`Clock::now`] is right at once.
#[derive(Clone, Debug)]
pub struct SystemClock {
    /// The machine's uptime at the origin.
    origin: Duration,
}

impl SystemClock {
    /// A clock whose origin is now.
    pub fn new() -> Self {
        Self { origin: os::uptime() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant(os::uptime().saturating_sub(self.origin))
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        Box::pin(async move {
            loop {
                let left = deadline - clock.now();
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left).await;
            }
        })
    }
}

/// A clock that is advanced by the program. Clones share the same time.
///
/// Tasks can be spawned on it. At each moment they do all that they can, in the order in which they
/// were spawned, before the time advances.
#[derive(Clone, Default)]
pub struct ManualClock {
    shared: Arc<Mutex<Manual>>,
}

#[derive(Default)]
struct Manual {
    now: Instant,
    next_id: u64,
    sleepers: BTreeMap<(Instant, u64), Waker>,
    /// The spawned tasks; `None` while one is polled.
    tasks: BTreeMap<u64, Option<BoxFuture<'static, ()>>>,
    /// The tasks that were woken.
    ready: BTreeSet<u64>,
}

impl ManualClock {
    /// A clock at its origin.
    pub fn new() -> Self {
        Self::default()
    }

    /// Advances the time by `duration`, in steps from one timer to the next, and runs the tasks in
    /// between.
    pub fn advance(&self, duration: Duration) {
        let target = self.lock().now + duration;
        self.run_until_stalled();
        loop {
            let next = self.lock().sleepers.keys().next().map(|(at, _)| *at);
            let Some(at) = next.filter(|at| *at <= target) else { break };
            self.move_to(at);
            self.run_until_stalled();
        }
        self.move_to(target);
    }

    /// Spawns a task, which runs whenever this clock is driven or advanced, until it is done or
    /// cancelled. It is not polled yet.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> TaskId {
        let mut manual = self.lock();
        let id = manual.fresh_id();
        manual.tasks.insert(id, Some(Box::pin(work)));
        manual.ready.insert(id);
        TaskId(id)
    }

    /// Drops a task.
    pub fn cancel(&self, task: TaskId) {
        let abandoned = self.lock().tasks.remove(&task.0);
        // Dropped without the lock, because its sleeps lock the clock.
        drop(abandoned);
    }

    /// Drops all tasks, and what they hold. A task that holds this clock is kept by it, and keeps it.
    pub fn cancel_all(&self) {
        let abandoned = std::mem::take(&mut self.lock().tasks);
        drop(abandoned);
    }

    /// Polls the tasks until none of them can continue at this moment.
    pub fn run_until_stalled(&self) {
        self.run_ready(Waker::noop());
    }

    /// The same; a task that is woken later wakes `driver` too.
    fn run_ready(&self, driver: &Waker) {
        loop {
            let ready = std::mem::take(&mut self.lock().ready);
            if ready.is_empty() {
                return;
            }
            for id in ready {
                let Some(mut work) = self.lock().tasks.get_mut(&id).and_then(Option::take) else {
                    continue;
                };
                let waker = Waker::from(Arc::new(TaskWaker {
                    clock: Arc::downgrade(&self.shared),
                    id,
                    driver: driver.clone(),
                }));
                let polled = work.as_mut().poll(&mut Context::from_waker(&waker));
                let mut manual = self.lock();
                if polled.is_ready() {
                    manual.tasks.remove(&id);
                } else if let Some(place) = manual.tasks.get_mut(&id) {
                    *place = Some(work);
                    continue;
                }
                // Done or cancelled. Its values may use this clock when they are dropped.
                drop(manual);
            }
        }
    }

    /// Advances the time to the earliest timer; returns false if there is none.
    pub fn advance_to_next(&self) -> bool {
        let next = self.lock().sleepers.keys().next().map(|(at, _)| *at);
        match next {
            Some(at) => {
                self.move_to(at);
                true
            }
            None => false,
        }
    }

    /// Polls `work` to its end, and advances the time to the next timer whenever neither the work
    /// nor a task can continue.
    pub async fn drive<R>(&self, work: impl Future<Output = R>) -> R {
        let mut work = std::pin::pin!(work);
        let driven = std::future::poll_fn(|context| {
            let woken =
                Arc::new(Woken { since: AtomicBool::new(false), outer: context.waker().clone() });
            let waker = Waker::from(Arc::clone(&woken));
            loop {
                woken.since.store(false, Ordering::Relaxed);
                self.run_ready(&waker);
                let polled = work.as_mut().poll(&mut Context::from_waker(&waker));
                if polled.is_ready() {
                    return polled;
                }
                let can_go_on = woken.since.load(Ordering::Relaxed) || self.has_ready();
                if !can_go_on && !self.advance_to_next() {
                    return Poll::Pending;
                }
            }
        });
        // One poll of this polls the work many times. Within tokio's budget for one poll, channels
        // would soon appear empty, and the time would advance.
        tokio::task::unconstrained(driven).await
    }

    fn move_to(&self, target: Instant) {
        let due = {
            let mut manual = self.lock();
            let now = manual.now.max(target);
            manual.now = now;
            let later = manual.sleepers.split_off(&(now, u64::MAX));
            std::mem::replace(&mut manual.sleepers, later)
        };
        due.into_values().for_each(Waker::wake);
    }

    fn has_ready(&self) -> bool {
        !self.lock().ready.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Manual> {
        lock(&self.shared)
    }
}

impl Manual {
    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// A task of a [`ManualClock`].
#[derive(Clone, Copy, Debug)]
pub struct TaskId(u64);

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let manual = self.lock();
        f.debug_struct("ManualClock")
            .field("now", &manual.now)
            .field("sleepers", &manual.sleepers.len())
            .finish()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.lock().now
    }

    fn as_manual(&self) -> Option<&ManualClock> {
        Some(self)
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(ManualSleep { clock: self.clone(), deadline, id: None })
    }
}

/// Records that the driven work was woken, and wakes the outer task.
struct Woken {
    since: AtomicBool,
    outer: Waker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.since.store(true, Ordering::Relaxed);
        self.outer.wake_by_ref();
    }
}

/// Records that a spawned task was woken, and wakes the driver.
struct TaskWaker {
    clock: Weak<Mutex<Manual>>,
    id: u64,
    driver: Waker,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if let Some(shared) = self.clock.upgrade() {
            lock(&shared).ready.insert(self.id);
        }
        self.driver.wake_by_ref();
    }
}

struct ManualSleep {
    clock: ManualClock,
    deadline: Instant,
    id: Option<u64>,
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.clock.shared);
        let mut manual = lock(&shared);
        if manual.now >= self.deadline {
            return Poll::Ready(());
        }
        let id = *self.id.get_or_insert_with(|| manual.fresh_id());
        manual.sleepers.insert((self.deadline, id), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for ManualSleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.clock.lock().sleepers.remove(&(self.deadline, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_manual_sleep_ends_exactly_at_its_moment() {
        let clock = ManualClock::new();
        let mut sleep = clock.sleep(Duration::from_millis(10));
        assert!((&mut sleep).now_or_never().is_none());
        clock.advance(Duration::from_millis(9));
        assert!((&mut sleep).now_or_never().is_none());
        clock.advance(Duration::from_millis(1));
        assert!((&mut sleep).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_sleep_on_the_machines_clock_ends_when_its_moment_has_come() {
        let clock = SystemClock::new();
        let deadline = clock.now() + Duration::from_millis(20);
        clock.sleep_until(deadline).await;
        let late = clock.now() - deadline;
        assert!(clock.now() >= deadline && late < Duration::from_secs(1), "{late:?} late");
        clock.sleep_until(deadline).await;
        assert!(clock.sleep(Duration::MAX).now_or_never().is_none());
    }

    #[test]
    fn the_machines_wall_clock_is_read_each_time() {
        let unix = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let before = unix();
        let clock = WallClock::machine();
        let far = Instant::from_origin(Duration::from_secs(1 << 40));
        let read = [clock.unix_ms(Instant::default()), clock.unix_ms(far)].map(u128::from);
        assert!(before <= read[0] && read[0] <= read[1] && read[1] <= unix(), "{read:?}");
    }

    #[test]
    fn advance_to_next_goes_to_the_earliest_sleeper() {
        let clock = ManualClock::new();
        let mut late = clock.sleep(Duration::from_secs(5));
        let mut early = clock.sleep(Duration::from_secs(2));
        assert!((&mut late).now_or_never().is_none());
        assert!((&mut early).now_or_never().is_none());
        assert!(clock.advance_to_next());
        assert_eq!(clock.now(), Instant::from_origin(Duration::from_secs(2)));
        assert!((&mut early).now_or_never().is_some());
        assert!((&mut late).now_or_never().is_none());
    }

    #[tokio::test]
    async fn driven_work_can_do_much_in_one_moment() {
        let clock = ManualClock::new();
        let later = clock.clone();
        clock.spawn(async move { later.sleep(Duration::from_secs(1)).await });
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        (0..1000).for_each(|number| sender.send(number).expect("a receiver"));
        clock
            .drive(async {
                for number in 0..1000 {
                    assert_eq!(receiver.recv().await, Some(number));
                }
            })
            .await;
        assert_eq!(clock.now().since_origin(), Duration::ZERO);
    }

    #[test]
    fn driven_work_does_not_wait() {
        let clock = ManualClock::new();
        let work = async {
            clock.sleep(Duration::from_secs(3600)).await;
            clock.sleep(Duration::from_secs(60)).await;
            clock.now().since_origin()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(clock.drive(work)), Duration::from_secs(3660));
    }

    /// A task that records its name and the second after each of these pauses.
    fn diary(
        clock: &ManualClock,
        name: &'static str,
        pauses_s: &'static [u64],
    ) -> (impl Future<Output = ()> + Send + 'static, Arc<Mutex<Vec<String>>>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (clock, written) = (clock.clone(), Arc::clone(&lines));
        let work = async move {
            for pause in pauses_s {
                clock.sleep(Duration::from_secs(*pause)).await;
                let line = format!("{name} {}", clock.now().since_origin().as_secs());
                written.lock().unwrap().push(line);
            }
        };
        (work, lines)
    }

    #[test]
    fn spawned_work_does_each_thing_at_its_moment_while_time_is_moved() {
        let clock = ManualClock::new();
        let (work, lines) = diary(&clock, "a", &[1, 2, 3]);
        clock.spawn(work);
        clock.advance(Duration::from_secs(5));
        assert_eq!(*lines.lock().unwrap(), ["a 1", "a 3"]);
        clock.advance(Duration::from_secs(1));
        assert_eq!(*lines.lock().unwrap(), ["a 1", "a 3", "a 6"]);
        assert!(clock.lock().tasks.is_empty());
    }

    #[test]
    fn spawned_work_goes_on_while_other_work_is_driven() {
        let clock = ManualClock::new();
        let (work, lines) = diary(&clock, "a", &[1, 1, 1]);
        clock.spawn(work);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(clock.drive(clock.sleep(Duration::from_secs(2))));
        assert_eq!(*lines.lock().unwrap(), ["a 1", "a 2"]);
    }

    #[test]
    fn cancelled_work_is_dropped_at_once_and_holds_no_sleep() {
        let clock = ManualClock::new();
        let (work, lines) = diary(&clock, "a", &[1]);
        let task = clock.spawn(work);
        clock.run_until_stalled();
        clock.cancel(task);
        assert_eq!(Arc::strong_count(&lines), 1);
        assert!(!clock.advance_to_next());
    }

    #[test]
    fn work_can_cancel_work_and_itself() {
        let clock = ManualClock::new();
        let (other, lines) = diary(&clock, "a", &[0]);
        let handle = clock.clone();
        clock.spawn(async move {
            for id in 0..10 {
                handle.cancel(TaskId(id));
            }
            std::future::pending().await
        });
        clock.spawn(other);
        clock.run_until_stalled();
        assert!(lines.lock().unwrap().is_empty());
        assert!(clock.lock().tasks.is_empty());
    }

    #[test]
    fn a_dropped_sleep_is_forgotten() {
        let clock = ManualClock::new();
        let mut sleep = clock.sleep(Duration::from_secs(1));
        assert!((&mut sleep).now_or_never().is_none());
        drop(sleep);
        assert!(!clock.advance_to_next());
    }
}
