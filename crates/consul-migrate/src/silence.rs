//! Says that a side does not answer, so that no run is silent meanwhile.

use crate::Report;
use consul_process::clock::{Clock, Instant};
use consul_process::sync::lock;
use futures_util::future::{Either, select};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How soon a line says that there is no answer, and how often further ones do.
pub(crate) const AFTER: Duration = Duration::from_millis(1500);
pub(crate) const EVERY: Duration = Duration::from_millis(2500);

/// A request that is repeated for so long ends only with the run.
pub(crate) const WITHOUT_END: Duration = Duration::from_secs(10 * 365 * 86_400);

impl State {
    /// A request that began then has no answer; returns since when the side has given none.
    fn waits(&mut self, begun: Instant) -> Instant {
        let since = self.since.map_or(begun, |since| since.min(begun));
        self.since = Some(since);
        since
    }
}

/// One side, with possibly several requests that wait at once.
pub(crate) struct Silence {
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
    /// Since when some request has no answer, unless the side has answered another one since.
    since: Option<Instant>,
    /// When it was last reported that the side does not answer, unless it has answered since.
    said: Option<Instant>,
}

impl Silence {
    /// Says nothing before it has a report.
    pub(crate) fn new(side: &'static str, clock: Arc<dyn Clock>, patience: Duration) -> Self {
        Silence { side, clock, report: None, state: Mutex::default(), patience: patience.into() }
    }

    pub(crate) fn report_to(&mut self, report: Arc<dyn Report>) {
        self.report = Some(report);
    }

    pub(crate) fn patience(&self) -> Duration {
        *lock(&self.patience)
    }

    pub(crate) fn wait_without_end(&self) {
        *lock(&self.patience) = WITHOUT_END;
    }

    /// Says something that belongs to this side.
    pub(crate) fn note(&self, text: &str) {
        if let Some(report) = &self.report {
            report.note(text);
        }
    }

    /// Notes why an attempt has failed that will be repeated.
    pub(crate) fn failed(&self, why: &str) {
        why.clone_into(&mut lock(&self.state).why);
    }

    /// Waits for the result of a request with all its attempts, and says meanwhile that there is none.
    pub(crate) async fn tell<T, E>(
        &self,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let Some(report) = &self.report else { return request.await };
        let (begun, mut next) = (self.clock.now(), self.clock.now() + AFTER);
        let mut request = pin!(request);
        loop {
            match select(request.as_mut(), self.clock.sleep_until(next)).await {
                Either::Left((result, _)) => {
                    let before = {
                        let mut state = lock(&self.state);
                        match &result {
                            Ok(_) => std::mem::take(&mut *state),
                            Err(_) => {
                                // A refusal is an answer. Else the requests that wait or follow go on with this time.
                                if !state.why.is_empty() {
                                    state.waits(begun);
                                }
                                State::default()
                            }
                        }
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
        let since = state.waits(begun);
        let until = match self.patience() {
            WITHOUT_END => "it does".to_owned(),
            patience if now - begun >= patience => "this attempt ends".to_owned(),
            // The time of this request, counted as the one before.
            patience => format!("{} s are over", (begun + patience - since).as_secs()),
        };
        let why = if state.why.is_empty() { "no answer yet" } else { &state.why };
        let seconds = (now - since).as_secs();
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

#[cfg(test)]
mod tests {
    use super::*;
    use consul_process::clock::ManualClock;
    use futures_util::future::{join3, pending};

    #[derive(Debug, Default)]
    struct Said(Mutex<Vec<String>>);

    impl Report for Said {
        fn progress(&self, _: &'static str, _: u64, _: Option<u64>) {}

        fn note(&self, text: &str) {
            lock(&self.0).push(text.to_owned());
        }
    }

    fn numbers(text: &str) -> Vec<u64> {
        text.split(' ').filter_map(|word| word.parse().ok()).collect()
    }

    /// Requests of each kind wait at once and one after the other: the time is that of the side until it answers.
    #[test]
    fn the_time_without_an_answer_is_of_the_side() {
        let clock = ManualClock::new();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let said = Arc::new(Said::default());
        let mut silence = Silence::new("a side", shared, Duration::from_secs(20));
        silence.report_to(said.clone());
        let silence = &silence;
        let fails = async |after: u64, takes: u64| {
            clock.sleep(Duration::from_secs(after)).await;
            let request = async {
                silence.failed("refused");
                clock.sleep(Duration::from_secs(takes)).await;
                Err::<(), ()>(())
            };
            silence.tell(request).await
        };
        let given_up = async {
            clock.sleep(Duration::from_secs(1)).await;
            let request = pin!(silence.tell(pending::<Result<(), ()>>()));
            select(request, clock.sleep(Duration::from_secs(6))).await;
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(clock.drive(async {
            // A refusal is an answer.
            silence.tell(async { Err::<(), ()>(()) }).await.unwrap_err();
            clock.sleep(Duration::from_secs(100)).await;
            let _ = join3(fails(0, 5), fails(3, 17), given_up).await;
            let _ = fails(2, 4).await;
            silence.tell(async { Ok::<(), ()>(()) }).await.unwrap();
            clock.sleep(Duration::from_secs(100)).await;
            let _ = fails(0, 4).await;
        }));
        let said = lock(&said.0);
        let end = said.iter().position(|text| text.ends_with("answers again")).unwrap();
        let (before, after) = said.split_at(end);
        let times: Vec<u64> = before.iter().map(|text| numbers(text)[0]).collect();
        assert_eq!(times, [1, 4, 6, 9, 11, 14, 16, 19, 23], "{said:?}");
        // The patience is of each request, and counted like the time before.
        let last = numbers(&before[before.len() - 1]);
        assert_eq!(last[1], 22 + 20, "{said:?}");
        assert_eq!(numbers(&after[1])[0], 1, "{said:?}");
    }
}
