//! Faults between clients and the agent, for tests of programs.

use crate::Agent;
use crate::http::route;
use crate::store::timer::Timers;
use crate::store::watch::Watches;
use bytes::Bytes;
use consul_api::api::{session, status};
use consul_api::error::{Error, Kind};
use consul_api::table::Shape;
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, unknown};
use consul_process::clock::Instant;
use consul_process::sync::lock;
use http::{Method, Request, Response, StatusCode};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The time for which a leader that lost contact to the other servers still acts as the leader.
///
/// Measured on real servers: up to 2.4 s.
const ISOLATED_FOR: Duration = Duration::from_millis(2400);

/// The time for which a server without a leader holds a request before it returns an error.
///
/// Measured on real servers: 7 to 12 s.
const NO_LEADER_HOLD: Duration = Duration::from_secs(7);

/// A fault, for some clients or all. Probabilities are from 0 to 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fault {
    /// The affected clients, by the name in their configuration; all if empty.
    pub clients: Vec<String>,
    /// The delay of each request.
    pub latency: Duration,
    /// The largest random delay in addition.
    pub jitter: Duration,
    /// The probability that a request is lost before it is applied.
    pub drop_before: f64,
    /// The probability that the answer is lost after the request was applied.
    pub drop_after: f64,
    /// The status of a reply in place of the answer; the request is not applied.
    pub status: Option<StatusCode>,
    /// The probability of `status`.
    pub status_chance: f64,
    /// No request arrives and none is answered, also not those that have arrived.
    pub partition: bool,
    /// The servers have no leader.
    pub no_leader: bool,
    /// The clients are connected to a leader that lost contact to the other servers: for 2.4 s it
    /// answers reads and renews sessions from the state of that moment, but refuses consistent
    /// reads and writes; then it has no leader.
    pub isolated_leader: bool,
}

/// A fault, and when it began.
#[derive(Debug)]
pub(crate) struct ActiveFault {
    fault: Fault,
    since: Instant,
    /// The state of an isolated leader.
    frozen: Option<Arc<Agent>>,
}

const OPTIONS: &[&str] = &[
    "clients",
    "latency_ms",
    "jitter_ms",
    "drop_before",
    "drop_after",
    "status",
    "status_chance",
    "partition",
    "no_leader",
    "isolated_leader",
];

impl Fault {
    /// The fault of a table of options.
    ///
    /// # Errors
    /// [`Kind::Argument`], naming the option, what was given and what is allowed.
    pub fn from_options(options: &[(String, Value)]) -> Result<Fault, Error> {
        let mut fault = Fault { status_chance: 1.0, ..Fault::default() };
        for (name, value) in options {
            let at = ValuePath::top(name);
            match name.as_str() {
                "clients" => fault.clients = Shape::TextList.texts(value, &at)?,
                "latency_ms" => fault.latency = Shape::Millis.duration(value, &at)?,
                "jitter_ms" => fault.jitter = Shape::Millis.duration(value, &at)?,
                "drop_before" => fault.drop_before = chance(value, &at)?,
                "drop_after" => fault.drop_after = chance(value, &at)?,
                "status" => fault.status = Some(status(value, &at)?),
                "status_chance" => fault.status_chance = chance(value, &at)?,
                "partition" => fault.partition = Shape::Bool.boolean(value, &at)?,
                "no_leader" => fault.no_leader = Shape::Bool.boolean(value, &at)?,
                "isolated_leader" => fault.isolated_leader = Shape::Bool.boolean(value, &at)?,
                _ => return Err(Error::misuse(unknown("option", name, OPTIONS))),
            }
        }
        Ok(fault)
    }

    fn concerns(&self, client: &str) -> bool {
        self.clients.is_empty() || self.clients.iter().any(|name| name == client)
    }
}

fn chance(value: &Value, at: &ValuePath) -> Result<f64, Error> {
    let chance = match value {
        Value::Int(number) => *number as f64,
        Value::Float(number) => *number,
        _ => return Err(at.wrong_type_text("a number from 0 to 1", value)),
    };
    if (0.0..=1.0).contains(&chance) {
        Ok(chance)
    } else {
        Err(at.bad_value(value, "a probability is from 0 to 1"))
    }
}

fn status(value: &Value, at: &ValuePath) -> Result<StatusCode, Error> {
    let number = Shape::Uint.uint(value, at)?;
    let status = u16::try_from(number).ok().and_then(|number| StatusCode::from_u16(number).ok());
    // A status below 200 is not the end of an answer (RFC 9110, section 15.2).
    let status = status.filter(|status| !status.is_informational());
    status.ok_or_else(|| at.bad_value(value, "not an HTTP status (200 to 999)"))
}

/// The effect of the faults on one request.
enum Effect {
    Delivered,
    Lost,
    Unanswered,
    AnswerLost,
    Answered(StatusCode),
    NoLeader,
    Isolated(Arc<Agent>),
}

impl Agent {
    /// Adds a fault to those in force.
    pub fn add_fault(&self, fault: Fault) {
        let frozen = fault.isolated_leader.then(|| Arc::new(self.frozen_copy()));
        self.faults().push(ActiveFault { fault, since: self.clock.now(), frozen });
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.faults().clear();
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Vec<ActiveFault>> {
        lock(&self.faults)
    }

    /// A copy of the agent in which nothing expires.
    fn frozen_copy(&self) -> Agent {
        let mut state = self.with(|state| state.clone());
        state.watches = Watches::default();
        state.timers = Timers::default();
        Agent { state: Mutex::new(state), ..Agent::new(self.options.clone()) }
    }

    /// Answers a client's request under the faults.
    pub(crate) async fn handle_with_faults(
        &self,
        client: &str,
        endpoint: &str,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Error> {
        let (delay, effect) = self.effect(client);
        if !delay.is_zero() {
            self.clock.sleep(delay).await;
        }
        let broken = || {
            let message = format!("{endpoint}: a simulated fault closed the connection");
            Error::new(Kind::Connect, message).with_endpoint(endpoint).retryable()
        };
        let answer = match effect {
            Effect::Delivered => Ok(self.handle(request).await),
            Effect::Lost => Err(broken()),
            Effect::AnswerLost => {
                self.handle(request).await;
                Err(broken())
            }
            Effect::Unanswered => std::future::pending().await,
            Effect::Answered(status) => Ok(text(status, said(status))),
            Effect::NoLeader => Ok(self.handle_leaderless(request).await),
            Effect::Isolated(frozen) => Ok(self.handle_isolated(&frozen, request).await),
        };
        if self.is_cut_off(client) {
            std::future::pending::<()>().await;
        }
        answer
    }

    /// Whether the answers to a client are lost, also those to requests that came before.
    fn is_cut_off(&self, client: &str) -> bool {
        self.faults().iter().any(|it| it.fault.partition && it.fault.concerns(client))
    }

    /// Decides at random. Every fault takes the same number of random values from each request,
    /// whatever the other faults do.
    fn effect(&self, client: &str) -> (Duration, Effect) {
        let mut delay = Duration::ZERO;
        let mut effect = Effect::Delivered;
        let faults = self.faults();
        for ActiveFault { fault, since, frozen } in
            faults.iter().filter(|active| active.fault.concerns(client))
        {
            let [late, before, after, answered] =
                self.with(|state| std::array::from_fn(|_| state.rng.f64()));
            delay += fault.latency + fault.jitter.mul_f64(late);
            effect = match fault {
                // The following requests get no answer.
                _ if matches!(effect, Effect::Unanswered) => effect,
                Fault { partition: true, .. } => Effect::Unanswered,
                Fault { no_leader: true, .. } => Effect::NoLeader,
                Fault { isolated_leader: true, .. } => match frozen {
                    Some(frozen) if self.clock.now() - *since < ISOLATED_FOR => {
                        Effect::Isolated(Arc::clone(frozen))
                    }
                    _ => Effect::NoLeader,
                },
                _ if before < fault.drop_before => Effect::Lost,
                _ if after < fault.drop_after => Effect::AnswerLost,
                Fault { status: Some(status), .. } if answered < fault.status_chance => {
                    Effect::Answered(*status)
                }
                _ => effect,
            };
        }
        (delay, effect)
    }

    /// Answers as a leader that lost contact to the other servers and has not noticed.
    async fn handle_isolated(&self, frozen: &Agent, request: Request<Bytes>) -> Response<Bytes> {
        let Some(endpoint) = route::endpoint(&request).filter(|endpoint| !endpoint.local) else {
            return self.handle(request).await;
        };
        let is_read = request.method() == Method::GET && !has_flag(&request, "consistent");
        if is_read || endpoint.name == session::RENEW.name {
            frozen.driving(frozen.handle(request)).await
        } else {
            self.handle_leaderless(request).await
        }
    }

    /// Answers as an agent whose servers have no leader: local endpoints, stale reads and unknown paths
    /// still work; everything else waits and fails.
    async fn handle_leaderless(&self, request: Request<Bytes>) -> Response<Bytes> {
        let is_stale = request.method() == Method::GET && has_flag(&request, "stale");
        match route::endpoint(&request) {
            Some(endpoint) if endpoint.name == status::LEADER.name => json("\"\""),
            Some(endpoint) if endpoint.name == status::PEERS.name => json("[]"),
            Some(endpoint) if !endpoint.local && !is_stale => {
                self.clock.sleep(NO_LEADER_HOLD).await;
                text(StatusCode::INTERNAL_SERVER_ERROR, "No cluster leader")
            }
            _ => self.handle(request).await,
        }
    }
}

/// The text of a fault: Consul's, where clients know its statuses by their texts.
fn said(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "ACL support disabled",
        StatusCode::FORBIDDEN => "Permission denied",
        _ => "a fault of the simulated agent",
    }
}

fn has_flag(request: &Request<Bytes>, name: &str) -> bool {
    request.uri().query().is_some_and(|query| query.split('&').any(|part| part == name))
}

fn text(status: StatusCode, text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response
}

fn json(body: &'static str) -> Response<Bytes> {
    Response::new(Bytes::from_static(body.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::World;
    use crate::{Agent, SimTransport};
    use consul_client::transport::Transport;
    use consul_process::clock::Clock;
    use futures_util::FutureExt;
    use std::sync::Arc;

    fn send(world: &World, client: &str, path: &str) -> Option<Result<Response<Bytes>, Error>> {
        let transport = SimTransport::new(Arc::clone(&world.agent), "sim").for_client(client);
        let mut answer = transport.send(World::request(Method::PUT, path, "v"));
        // Time advances when nothing else is ready.
        for _ in 0..50 {
            if let Some(answer) = (&mut answer).now_or_never() {
                return Some(answer);
            }
            world.clock.advance_to_next();
        }
        None
    }

    fn world(fault: Fault) -> World {
        let world = World::new();
        world.agent.add_fault(fault);
        world
    }

    fn key(agent: &Agent) -> usize {
        agent.stats().keys
    }

    #[test]
    fn a_lost_request_is_not_applied_and_a_lost_answer_is() {
        let lossy = world(Fault { drop_before: 1.0, ..Fault::default() });
        assert!(send(&lossy, "", "kv/a").is_some_and(|answer| answer.is_err()));
        assert_eq!(key(&lossy.agent), 0);
        let lossy = world(Fault { drop_after: 1.0, ..Fault::default() });
        let error = send(&lossy, "", "kv/a").and_then(Result::err).expect("an error");
        assert!(error.maybe_applied() && error.is_retryable());
        assert_eq!(key(&lossy.agent), 1);
    }

    #[test]
    fn latency_passes_on_the_agents_clock() {
        let slow = world(Fault { latency: Duration::from_secs(3), ..Fault::default() });
        assert!(send(&slow, "", "kv/a").is_some());
        assert_eq!(slow.clock.now().since_origin(), Duration::from_secs(3));
    }

    #[test]
    fn jitter_is_at_random_up_to_its_limit() {
        let limit = Duration::from_secs(3);
        let slow = world(Fault { jitter: limit, ..Fault::default() });
        let mut before = Duration::ZERO;
        let waits = (0..9).map(|_| {
            assert!(send(&slow, "", "kv/a").is_some());
            let now = slow.clock.now().since_origin();
            now - std::mem::replace(&mut before, now)
        });
        let waits: std::collections::BTreeSet<_> = waits.collect();
        assert!(waits.len() == 9 && waits.iter().all(|wait| *wait < limit), "{waits:?}");
    }

    #[test]
    fn a_fault_concerns_only_its_clients() {
        let one = Fault { clients: vec!["one".into()], partition: true, ..Fault::default() };
        let world = world(one);
        assert!(send(&world, "one", "kv/a").is_none());
        assert!(send(&world, "two", "kv/a").is_some());
        world.agent.clear_faults();
        assert!(send(&world, "one", "kv/a").is_some());
    }

    #[test]
    fn a_partition_answers_nothing_whatever_fault_follows() {
        let world = world(Fault { partition: true, ..Fault::default() });
        let status = Some(StatusCode::SERVICE_UNAVAILABLE);
        world.agent.add_fault(Fault { status, status_chance: 1.0, ..Fault::default() });
        assert!(send(&world, "", "kv/a").is_none());
    }

    /// Else a blocking query would tell through it that the checks of those that are cut off have failed.
    #[test]
    fn a_partition_answers_no_request_that_came_before_either() {
        let status = Some(StatusCode::SERVICE_UNAVAILABLE);
        for fault in [
            Fault::default(),
            Fault { latency: Duration::from_secs(3), ..Fault::default() },
            Fault { latency: Duration::from_secs(3), drop_before: 1.0, ..Fault::default() },
            Fault { latency: Duration::from_secs(3), drop_after: 1.0, ..Fault::default() },
            Fault {
                latency: Duration::from_secs(3),
                status,
                status_chance: 1.0,
                ..Fault::default()
            },
            Fault { no_leader: true, ..Fault::default() },
            Fault { isolated_leader: true, ..Fault::default() },
        ] {
            let world = world(Fault::default());
            let transport = SimTransport::new(Arc::clone(&world.agent), "sim");
            let path = format!("kv/a?wait=1m&index={}", world.get("kv/a").index());
            world.agent.add_fault(fault.clone());
            let mut waits = transport.send(World::request(Method::GET, &path, ""));
            assert!((&mut waits).now_or_never().is_none(), "{fault:?}");
            world.agent.add_fault(Fault { partition: true, ..Fault::default() });
            world.put("kv/a", "v");
            for _ in 0..50 {
                assert!((&mut waits).now_or_never().is_none(), "{fault:?}");
                world.clock.advance_to_next();
            }
            world.agent.clear_faults();
            assert!((&mut waits).now_or_never().is_none(), "it is lost: {fault:?}");
            assert!(send(&world, "", "kv/a").is_some());
        }
    }

    #[test]
    fn without_a_leader_writes_wait_and_fail_and_stale_reads_go_on() {
        let world = world(Fault { no_leader: true, ..Fault::default() });
        let answer = send(&world, "", "kv/a").expect("an answer").expect("from the agent");
        assert_eq!(answer.body(), "No cluster leader");
        assert_eq!(world.clock.now().since_origin(), NO_LEADER_HOLD);
        let transport = SimTransport::new(Arc::clone(&world.agent), "sim");
        let stale = World::request(Method::GET, "kv/a?stale", "");
        let answer = transport.send(stale).now_or_never().expect("at once").expect("an answer");
        assert_eq!(answer.status(), 404);
    }

    #[test]
    fn without_a_leader_the_agent_answers_what_its_row_says_at_once() {
        for row in consul_api::endpoints() {
            let world = world(Fault { no_leader: true, ..Fault::default() });
            let path = row.path.trim_start_matches("/v1/").replace(['{', '}'], "");
            let request = World::request(row.method.into(), &path, "{}");
            let is_simulated = route::endpoint(&request).is_some();
            let transport = SimTransport::new(Arc::clone(&world.agent), "sim");
            let at_once = transport.send(request).now_or_never().is_some();
            let needs_no_leader =
                row.local || [status::LEADER.name, status::PEERS.name].contains(&row.name);
            assert_eq!(at_once, needs_no_leader || !is_simulated, "{}", row.name);
        }
    }

    #[test]
    fn an_isolated_leader_answers_what_it_knew_but_neither_consistent_reads_nor_writes() {
        let world = World::new();
        world.put("kv/a", "before");
        let isolated =
            Fault { clients: vec!["one".into()], isolated_leader: true, ..Fault::default() };
        world.agent.add_fault(isolated);
        world.put("kv/a", "after");
        let transport = SimTransport::new(Arc::clone(&world.agent), "sim").for_client("one");
        let read =
            |path: &str| transport.send(World::request(Method::GET, path, "")).now_or_never();
        let known = read("kv/a?raw").expect("at once").expect("an answer");
        assert_eq!(known.body(), "before");
        assert!(read("kv/a?consistent").is_none());
        assert!(send(&world, "one", "kv/a").is_some_and(|answer| {
            answer.is_ok_and(|answer| answer.body() == "No cluster leader")
        }));
        // By now the leader has noticed.
        assert!(read("kv/a?raw").is_none());
        assert_eq!(world.get("kv/a?raw").text(), "after");
    }

    #[test]
    fn options_are_checked() {
        let of = |name: &str, value: Value| Fault::from_options(&[(name.to_owned(), value)]);
        assert_eq!(of("drop_before", 1.into()).expect("a fault").drop_before, 1.0);
        for (name, value) in [
            ("drop_before", Value::Float(1.5)),
            ("status", 199.into()),
            ("latency_ms", "x".into()),
            ("latncy_ms", 1.into()),
        ] {
            assert!(of(name, value).is_err(), "{name}");
        }
    }

    #[test]
    fn a_restart_breaks_what_waits() {
        let world = World::new();
        let transport = SimTransport::new(Arc::clone(&world.agent), "sim");
        let mut watch = transport.send(World::request(Method::GET, "kv/a?index=5&wait=1m", ""));
        assert!((&mut watch).now_or_never().is_none());
        world.agent.reset();
        assert!((&mut watch).now_or_never().is_some_and(|answer| answer.is_err()));
    }
}
