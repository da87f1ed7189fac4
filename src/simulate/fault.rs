//! What goes wrong on purpose between clients and the agent, for tests of programs.

use super::Agent;
use super::store::timer::Timers;
use super::store::watch::Watches;
use crate::clock::Instant;
use crate::error::{Error, Kind};
use crate::sync::lock;
use crate::wire::shape::{At, unknown};
use crate::wire::table::Shape;
use crate::wire::value::Value;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How long a leader that is cut off from the other servers still believes that it leads.
///
/// Measured on real servers: up to 2.4 s.
const ISOLATED_FOR: Duration = Duration::from_millis(2400);

/// How long a server without a leader holds a request before it says so.
///
/// Measured on real servers: 7 to 12 s.
const NO_LEADER_HOLD: Duration = Duration::from_secs(7);

/// One thing that goes wrong, for some clients or all. Chances are from 0 to 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fault {
    /// The clients that it concerns, by the name in their configuration; none: all.
    pub clients: Vec<String>,
    /// How much later a request arrives.
    pub latency: Duration,
    /// How much later still, at most, by chance.
    pub jitter: Duration,
    /// The chance that a request is lost before it is applied.
    pub drop_before: f64,
    /// The chance that the answer is lost after the request was applied.
    pub drop_after: f64,
    /// The status that is answered in place of an answer; the request is not applied.
    pub status: Option<StatusCode>,
    /// The chance of that.
    pub status_chance: f64,
    /// Nothing arrives and nothing is answered.
    pub partition: bool,
    /// The servers have no leader.
    pub no_leader: bool,
    /// The clients speak to a leader that is cut off from the other servers: for 2.4 s it answers
    /// reads and renews sessions as if nothing had changed since, but for consistent reads and
    /// writes; then it knows no leader.
    pub isolated_leader: bool,
}

/// A fault since it began.
#[derive(Debug)]
pub(super) struct InForce {
    fault: Fault,
    since: Instant,
    /// What a leader that is cut off from the others knows.
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
    /// The fault that a table of options says.
    ///
    /// # Errors
    /// [`Kind::Argument`], naming the option, what was given and what is allowed.
    pub fn from_options(options: &[(String, Value)]) -> Result<Fault, Error> {
        let mut fault = Fault { status_chance: 1.0, ..Fault::default() };
        for (name, value) in options {
            let at = At::top(name);
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

fn chance(value: &Value, at: &At) -> Result<f64, Error> {
    let chance = match value {
        Value::Int(number) => *number as f64,
        Value::Float(number) => *number,
        _ => return Err(at.wrong_type_text("a number from 0 to 1", value)),
    };
    if (0.0..=1.0).contains(&chance) {
        Ok(chance)
    } else {
        Err(at.bad_value(value, "a chance is from 0 to 1"))
    }
}

fn status(value: &Value, at: &At) -> Result<StatusCode, Error> {
    let number = Shape::Uint.uint(value, at)?;
    let status = u16::try_from(number).ok().and_then(|number| StatusCode::from_u16(number).ok());
    status.ok_or_else(|| at.bad_value(value, "it is no HTTP status"))
}

/// What becomes of one request.
enum Fate {
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
        let frozen = fault.isolated_leader.then(|| Arc::new(self.frozen()));
        self.faults().push(InForce { fault, since: self.clock.now(), frozen });
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.faults().clear();
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, Vec<InForce>> {
        lock(&self.faults)
    }

    /// An agent that knows what this one knows now, and in which nothing ends by itself.
    fn frozen(&self) -> Agent {
        let mut state = self.with(|state| state.clone());
        state.watches = Watches::default();
        state.timers = Timers::default();
        Agent { state: Mutex::new(state), ..Agent::new(self.options.clone()) }
    }

    /// Answers a client's request, or does to it what the faults say.
    pub(super) async fn handle_faulty(
        &self,
        client: &str,
        endpoint: &str,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Error> {
        let (delay, fate) = self.fate(client);
        if !delay.is_zero() {
            self.clock.sleep(delay).await;
        }
        let broken = |what: &str| {
            let message = format!("{endpoint}: the connection was broken {what}, by a fault");
            Error::new(Kind::Connect, message).with_endpoint(endpoint).transient()
        };
        match fate {
            Fate::Delivered => Ok(self.handle(request).await),
            Fate::Lost => Err(broken("before an answer")),
            Fate::AnswerLost => {
                self.handle(request).await;
                Err(broken("before an answer"))
            }
            Fate::Unanswered => std::future::pending().await,
            Fate::Answered(status) => Ok(text(status, "a fault of the simulated agent")),
            Fate::NoLeader => Ok(self.handle_leaderless(request).await),
            Fate::Isolated(frozen) => Ok(self.handle_isolated(&frozen, request).await),
        }
    }

    /// Decides by chance; every request takes the same number of chances, so that one fault more
    /// does not change what the others do.
    fn fate(&self, client: &str) -> (Duration, Fate) {
        let mut delay = Duration::ZERO;
        let mut fate = Fate::Delivered;
        let faults = self.faults();
        for InForce { fault, since, frozen } in
            faults.iter().filter(|in_force| in_force.fault.concerns(client))
        {
            let [late, before, after, answered] =
                self.with(|state| std::array::from_fn(|_| state.rng.f64()));
            delay += fault.latency + fault.jitter.mul_f64(late);
            fate = match fault {
                Fault { partition: true, .. } => Fate::Unanswered,
                Fault { no_leader: true, .. } => Fate::NoLeader,
                Fault { isolated_leader: true, .. } => match frozen {
                    Some(frozen) if self.clock.now() - *since < ISOLATED_FOR => {
                        Fate::Isolated(Arc::clone(frozen))
                    }
                    _ => Fate::NoLeader,
                },
                _ if before < fault.drop_before => Fate::Lost,
                _ if after < fault.drop_after => Fate::AnswerLost,
                Fault { status: Some(status), .. } if answered < fault.status_chance => {
                    Fate::Answered(*status)
                }
                _ => fate,
            };
        }
        (delay, fate)
    }

    /// As a leader that is cut off from the other servers and has not noticed.
    async fn handle_isolated(&self, frozen: &Agent, request: Request<Bytes>) -> Response<Bytes> {
        let path = request.uri().path();
        let is_consistent = has_flag(&request, "consistent");
        let is_read = request.method() == Method::GET && !is_consistent;
        if path.starts_with("/v1/agent/") {
            self.handle(request).await
        } else if is_read || path.starts_with("/v1/session/renew/") {
            frozen.driving(frozen.handle(request)).await
        } else {
            self.handle_leaderless(request).await
        }
    }

    /// As an agent whose servers lost their leader: it still knows its own services, and stale
    /// reads; everything else waits and fails.
    async fn handle_leaderless(&self, request: Request<Bytes>) -> Response<Bytes> {
        let path = request.uri().path();
        let is_stale = request.method() == Method::GET && has_flag(&request, "stale");
        match path {
            "/v1/status/leader" => json("\"\""),
            "/v1/status/peers" => json("[]"),
            "/v1/event/list" => self.handle(request).await,
            _ if path.starts_with("/v1/agent/") || is_stale => self.handle(request).await,
            _ => {
                self.clock.sleep(NO_LEADER_HOLD).await;
                text(StatusCode::INTERNAL_SERVER_ERROR, "No cluster leader")
            }
        }
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
    use super::super::testing::World;
    use super::super::{Agent, SimTransport};
    use super::*;
    use crate::clock::Clock;
    use crate::transport::Transport;
    use futures_util::FutureExt;
    use std::sync::Arc;

    fn send(world: &World, client: &str, path: &str) -> Option<Result<Response<Bytes>, Error>> {
        let transport = SimTransport::new(Arc::clone(&world.agent), "sim").for_client(client);
        let mut answer = transport.send(World::request(Method::PUT, path, "v"));
        // Time moves whenever nothing else can.
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
        assert!(error.maybe_applied() && error.retryable());
        assert_eq!(key(&lossy.agent), 1);
    }

    #[test]
    fn latency_passes_on_the_agents_clock() {
        let slow = world(Fault { latency: Duration::from_secs(3), ..Fault::default() });
        assert!(send(&slow, "", "kv/a").is_some());
        assert_eq!(slow.clock.now().since_origin(), Duration::from_secs(3));
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
        // By now it has noticed.
        assert!(read("kv/a?raw").is_none());
        assert_eq!(world.get("kv/a?raw").text(), "after");
    }

    #[test]
    fn options_are_checked() {
        let of = |name: &str, value: Value| Fault::from_options(&[(name.to_owned(), value)]);
        assert_eq!(of("drop_before", 1.into()).expect("a fault").drop_before, 1.0);
        for (name, value) in [
            ("drop_before", Value::Float(1.5)),
            ("status", 99.into()),
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
