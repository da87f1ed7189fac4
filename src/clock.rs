//! Time as a seam: the client, the cluster and the simulated agent ask a [`Clock`], never the
//! operating system, so that all of them run on a virtual clock in tests.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// A future that is owned and can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A moment on one [`Clock`]: the time since that clock's origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// The moment `since_origin` after the clock's origin.
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

    /// The time from `rhs` to `self`, zero when `rhs` is later.
    fn sub(self, rhs: Instant) -> Duration {
        self.0.saturating_sub(rhs.0)
    }
}

/// A source of time that can also be waited for.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The present moment; never goes back.
    fn now(&self) -> Instant;

    /// Completes when [`Clock::now`] has reached `deadline`.
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()>;

    /// This clock, when it stands still until it is moved.
    fn as_manual(&self) -> Option<&ManualClock> {
        None
    }

    /// Completes `duration` from now.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now() + duration)
    }
}

/// The machine's clock; its sleeps need a tokio runtime with time enabled.
#[derive(Debug)]
pub struct SystemClock {
    origin: std::time::Instant,
}

impl SystemClock {
    /// A clock whose origin is now.
    pub fn new() -> Self {
        Self { origin: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant(self.origin.elapsed())
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let at = self.origin.checked_add(deadline.0);
        Box::pin(async move {
            match at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        })
    }
}

/// A clock that stands still until it is told to move. Clones share the same time.
#[derive(Clone, Default)]
pub struct ManualClock {
    shared: Arc<Mutex<Manual>>,
}

#[derive(Default)]
struct Manual {
    now: Instant,
    next_id: u64,
    sleepers: BTreeMap<(Instant, u64), Waker>,
}

impl ManualClock {
    /// A clock that stands at its origin.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves time on by `duration` and wakes every sleeper whose moment has come.
    pub fn advance(&self, duration: Duration) {
        let target = self.lock().now + duration;
        self.move_to(target);
    }

    /// Moves time on to the earliest moment that somebody waits for; false when nobody waits.
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

    /// Polls `work` to its end, and moves time on to the next moment that somebody waits for
    /// whenever the work can do nothing else.
    pub async fn drive<R>(&self, work: impl Future<Output = R>) -> R {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|context| {
            let woken =
                Arc::new(Woken { since: AtomicBool::new(false), outer: context.waker().clone() });
            let waker = Waker::from(Arc::clone(&woken));
            loop {
                woken.since.store(false, Ordering::Relaxed);
                let polled = work.as_mut().poll(&mut Context::from_waker(&waker));
                if polled.is_ready() {
                    return polled;
                }
                if !woken.since.load(Ordering::Relaxed) && !self.advance_to_next() {
                    return Poll::Pending;
                }
            }
        })
        .await
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

    fn lock(&self) -> MutexGuard<'_, Manual> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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

/// Notices whether work was woken, and passes it on.
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

struct ManualSleep {
    clock: ManualClock,
    deadline: Instant,
    id: Option<u64>,
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.clock.shared);
        let mut manual = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if manual.now >= self.deadline {
            return Poll::Ready(());
        }
        let id = *self.id.get_or_insert_with(|| {
            manual.next_id += 1;
            manual.next_id
        });
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

    #[test]
    fn a_dropped_sleep_is_forgotten() {
        let clock = ManualClock::new();
        let mut sleep = clock.sleep(Duration::from_secs(1));
        assert!((&mut sleep).now_or_never().is_none());
        drop(sleep);
        assert!(!clock.advance_to_next());
    }
}
