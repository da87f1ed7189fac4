//! The clock of consul-sim, which a test advances.

use consul_process::clock::{BoxFuture, Clock, Instant, SystemClock};
use futures_util::future::{Either, select};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The machine's clock or a stopped clock, and the time by which it was advanced. Clones share the same time.
#[derive(Clone, Debug)]
pub struct SteeredClock {
    /// None if it stands still.
    machine: Option<Arc<SystemClock>>,
    advanced: Arc<watch::Sender<Duration>>,
}

impl SteeredClock {
    /// A clock that goes with the machine's.
    pub fn running() -> Self {
        Self { machine: Some(Arc::default()), ..Self::standing() }
    }

    /// A clock that stands still until it is advanced.
    pub fn standing() -> Self {
        Self { machine: None, advanced: Arc::new(watch::Sender::default()) }
    }

    /// Moves the time forward, and ends the sleeps until then.
    pub fn advance(&self, by: Duration) {
        self.advanced.send_modify(|advanced| *advanced = advanced.saturating_add(by));
    }
}

impl Clock for SteeredClock {
    fn now(&self) -> Instant {
        let own = self.machine.as_ref().map_or(Instant::default(), |machine| machine.now());
        own + *self.advanced.borrow()
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        Box::pin(async move {
            let mut advanced = clock.advanced.subscribe();
            loop {
                let left = deadline - clock.now();
                if left.is_zero() {
                    return;
                }
                let passes = async {
                    match &clock.machine {
                        Some(machine) => machine.sleep(left).await,
                        None => std::future::pending().await,
                    }
                };
                let moves = advanced.changed();
                if let Either::Left(((), _)) = select(pin!(passes), pin!(moves)).await {
                    return;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_clock_that_stands_still_ends_sleeps_at_their_moment() {
        let clock = SteeredClock::standing();
        let mut sleep = clock.sleep(Duration::from_secs(10));
        assert!((&mut sleep).now_or_never().is_none());
        clock.advance(Duration::from_secs(9));
        assert!((&mut sleep).now_or_never().is_none());
        clock.advance(Duration::from_secs(1));
        assert!((&mut sleep).now_or_never().is_some());
        assert_eq!(clock.now().since_origin(), Duration::from_secs(10));
    }

    #[tokio::test]
    async fn a_running_clock_goes_on_and_is_advanced() {
        let clock = SteeredClock::running();
        let begun = clock.now();
        clock.sleep(Duration::from_millis(20)).await;
        assert!(clock.now() - begun >= Duration::from_millis(20));
        let long = tokio::spawn(clock.sleep(Duration::from_secs(3600)));
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(3600));
        long.await.expect("the sleep ends");
    }
}
