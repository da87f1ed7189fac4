//! Many calls at once, with a limited number of them in flight.

use super::Client;
use consul_api::error::{Error, Kind};
use consul_api::request::Request;
use consul_api::response::Success;
use futures_util::StreamExt;
use futures_util::future::select;
use futures_util::stream;
use std::pin::pin;
use std::time::Duration;

/// The largest number of calls that a batch may have in flight.
///
/// Each has a connection of its own, and an agent refuses more than 200 connections from one
/// address. Source: `limits.http_max_conns_per_client` in Consul's reference of the agent's
/// configuration.
pub const MAX_IN_FLIGHT: usize = 64;

impl Client {
    /// Makes calls, `in_flight` of them at a time, and returns their outcomes in the calls' order.
    /// The outcome of a call whose arguments were refused is that refusal. A call that is not
    /// answered within `limit` is abandoned with an error of kind [`Kind::Timeout`].
    pub async fn batch(
        &self,
        calls: &[Result<Request, Error>],
        in_flight: usize,
        limit: Option<Duration>,
    ) -> Vec<Result<Success, Error>> {
        let mut outcomes: Vec<_> = calls.iter().map(|_| None).collect();
        let running = calls.iter().enumerate().map(|(place, call)| async move {
            let outcome = match call {
                Ok(request) => self.execute(request).await,
                Err(refusal) => Err(refusal.clone()),
            };
            (place, outcome)
        });
        let mut running = stream::iter(running).buffer_unordered(in_flight);
        let all = async {
            while let Some((place, outcome)) = running.next().await {
                outcomes[place] = Some(outcome);
            }
        };
        let over = self.clock.sleep_until_any(limit.map(|limit| self.clock.now() + limit));
        select(pin!(all), over).await;
        let or_late = |(outcome, call): (Option<_>, &Result<Request, Error>)| {
            outcome.unwrap_or_else(|| Err(late(call, limit.unwrap_or_default())))
        };
        outcomes.into_iter().zip(calls).map(or_late).collect()
    }
}

/// The error of a call without an answer at the end of the batch's time.
fn late(call: &Result<Request, Error>, limit: Duration) -> Error {
    match call {
        Ok(request) => {
            let limit = limit.as_millis();
            let message = format!("{}: no answer within the batch's {limit} ms", request.label);
            Error::new(Kind::Timeout, message).retryable()
        }
        Err(refusal) => refusal.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;
    use crate::transport::Transport;
    use bytes::Bytes;
    use consul_api::request::{Args, Defaults};
    use consul_api::value::Value;
    use consul_api::{endpoint, table::Endpoint};
    use consul_process::clock::{BoxFuture, Clock, ManualClock};
    use http::Response;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Answers each request with its path, after the number of milliseconds in that path.
    #[derive(Debug, Default)]
    struct Slow {
        clock: ManualClock,
        now: AtomicUsize,
        max: AtomicUsize,
        sent: AtomicUsize,
    }

    impl Transport for Slow {
        fn send(
            &self,
            request: http::Request<Bytes>,
        ) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
            Box::pin(async move {
                self.sent.fetch_add(1, Ordering::Relaxed);
                let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
                self.max.fetch_max(now, Ordering::Relaxed);
                let text = request.uri().path().rsplit('/').next().expect("a path").to_owned();
                let pause = Duration::from_millis(text.parse().expect("a number"));
                self.clock.sleep(pause).await;
                self.now.fetch_sub(1, Ordering::Relaxed);
                Ok(Response::new(text.into()))
            })
        }

        fn endpoint(&self) -> &str {
            "slow"
        }
    }

    /// Runs a batch of calls that each take a number of milliseconds; returns their answers, the
    /// transport and how many milliseconds the batch took.
    fn run(
        pauses: &[&str],
        in_flight: usize,
        limit_ms: Option<u64>,
    ) -> (Vec<Result<Value, Error>>, Arc<Slow>, u128) {
        let clock = ManualClock::new();
        let slow = Arc::new(Slow { clock: clock.clone(), ..Slow::default() });
        let settings = Settings {
            timeout: Duration::from_secs(5),
            retry_count: 0,
            defaults: Defaults::default(),
        };
        let rng = fastrand::Rng::with_seed(1);
        let client = Client::new(vec![slow.clone()], settings, Arc::new(clock.clone()), rng);
        let get: &'static Endpoint = endpoint("agent_service").expect("a method");
        let raw = consul_api::api::raw::endpoint("GET").expect("a method");
        let call = |pause: &&str| match *pause {
            "" => client.request(get, &Args::new().arg("")),
            pause => client.request(raw, &Args::new().arg(format!("/{pause}").as_str())),
        };
        let calls: Vec<_> = pauses.iter().map(call).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let limit = limit_ms.map(Duration::from_millis);
        let outcomes = runtime.block_on(clock.drive(client.batch(&calls, in_flight, limit)));
        let answers = outcomes.into_iter().map(|outcome| Ok(outcome?.answer().value));
        (answers.collect(), slow, clock.now().since_origin().as_millis())
    }

    #[test]
    fn outcomes_come_in_the_order_of_the_calls() {
        let (answers, ..) = run(&["30", "10", "20"], 3, None);
        let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers, ["30", "10", "20"].map(Value::from));
    }

    #[test]
    fn no_more_are_in_flight_than_allowed() {
        let (answers, slow, took_ms) = run(&["10"; 100], 8, None);
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(slow.max.load(Ordering::Relaxed), 8);
        assert_eq!(took_ms, 130); // 12 rounds of 8, and 4
    }

    #[test]
    fn a_refused_call_is_not_sent_and_does_not_hinder_the_others() {
        let (answers, slow, _) = run(&["1", "", "2"], 2, None);
        assert_eq!(answers[1].as_ref().unwrap_err().kind(), Kind::Argument);
        assert!(answers[0].is_ok() && answers[2].is_ok());
        assert_eq!(slow.sent.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn late_calls_are_abandoned_and_answers_that_came_are_kept() {
        let (answers, _, took_ms) = run(&["10", "300", "10", "10"], 2, Some(100));
        assert_eq!(took_ms, 100);
        let error = answers[1].as_ref().unwrap_err();
        assert_eq!(error.kind(), Kind::Timeout);
        assert!(error.message().contains("within the batch's 100 ms"), "{error}");
        assert!(answers[0].is_ok() && answers[2].is_ok() && answers[3].is_ok());
    }

    #[test]
    fn a_batch_of_nothing_gives_nothing() {
        assert!(run(&[], 1, None).0.is_empty());
    }
}
