//! Says that a side does not answer, so that no run is silent meanwhile.

use super::Report;
use consul_process::clock::{Clock, Instant};
use consul_process::sync::lock;
use futures_util::future::{Either, select};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How soon a line says that there is no answer, and how often further ones do.
pub(super) const AFTER: Duration = Duration::from_millis(1500);
pub(super) const EVERY: Duration = Duration::from_millis(2500);

/// A request that is repeated for so long ends only with the run.
pub(super) const WITHOUT_END: Duration = Duration::from_secs(10 * 365 * 86_400);

/// One side, with possibly several requests that wait at once.
pub(super) struct Silence {
    side: &'static str,
    clock: Arc<dyn Clock>,
    report: Option<Arc<dyn Report>>,
    state: Mutex<State>,
    /// For how long a request is repeated while the side does not answer.
    patience: Mutex<Duration>,
}

#[derive(Default)]
struct State {
    /// Why the last attempt has failed.
    why: String,
    /// When it was last reported that the side does not answer, unless it has answered since.
    said: Option<Instant>,
}

impl Silence {
    /// Says nothing before it has a report.
    pub(super) fn new(side: &'static str, clock: Arc<dyn Clock>, patience: Duration) -> Self {
        Silence { side, clock, report: None, state: Mutex::default(), patience: patience.into() }
    }

    pub(super) fn report_to(&mut self, report: Arc<dyn Report>) {
        self.report = Some(report);
    }

    pub(super) fn patience(&self) -> Duration {
        *lock(&self.patience)
    }

    pub(super) fn wait_without_end(&self) {
        *lock(&self.patience) = WITHOUT_END;
    }

    /// Says something that belongs to this side.
    pub(super) fn note(&self, text: &str) {
        if let Some(report) = &self.report {
            report.note(text);
        }
    }

    /// Notes why an attempt has failed that will be repeated.
    pub(super) fn failed(&self, why: &str) {
        why.clone_into(&mut lock(&self.state).why);
    }

    /// Waits for the result of a request with all its attempts, and says meanwhile that there is none.
    pub(super) async fn tell<T, E>(
        &self,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let Some(report) = &self.report else { return request.await };
        let (begun, mut next) = (self.clock.now(), self.clock.now() + AFTER);
        let mut request = pin!(request);
        loop {
            match select(request.as_mut(), self.clock.sleep_until(next)).await {
                Either::Left((result, _)) => {
                    let before = match &result {
                        Ok(_) => std::mem::take(&mut *lock(&self.state)),
                        Err(_) => State::default(),
                    };
                    if before.said.is_some() {
                        report.note(&format!("{} answers again", self.side));
                    }
                    return result;
                }
                Either::Right(_) => {
                    let now = self.clock.now();
                    let (text, said) = self.text(now, begun);
                    text.iter().for_each(|text| report.note(text));
                    next = said + EVERY;
                }
            }
        }
    }

    /// The report that is due now, unless another request has made it, and when it was made.
    fn text(&self, now: Instant, begun: Instant) -> (Option<String>, Instant) {
        let mut state = lock(&self.state);
        if let Some(said) = state.said
            && now - said < EVERY
        {
            return (None, said);
        }
        state.said = Some(now);
        let until = match self.patience() {
            WITHOUT_END => "it does".to_owned(),
            patience => format!("{} s are over", patience.as_secs()),
        };
        let why = if state.why.is_empty() { "no answer yet" } else { &state.why };
        let seconds = (now - begun).as_secs();
        let side = self.side;
        let text =
            format!("{side} has not answered for {seconds} s, and is asked until {until}: {why}");
        (Some(text), now)
    }
}

impl fmt::Debug for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Silence").field("side", &self.side).finish_non_exhaustive()
    }
}
