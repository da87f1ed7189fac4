//! Retry, failover and budgets, exact to the millisecond: the client on a clock that the test moves,
//! over endpoints that do what the test says. Behind those that work is one simulated agent.

use bytes::Bytes;
use consul_ffi::client::{Client, Settings};
use consul_ffi::clock::{BoxFuture, Clock, ManualClock};
use consul_ffi::error::{Error, Kind};
use consul_ffi::simulate::{Agent, Options, SimTransport};
use consul_ffi::transport::Transport;
use consul_ffi::wire;
use consul_ffi::wire::request::{Args, Defaults};
use consul_ffi::wire::response::Answer;
use consul_ffi::wire::value::Value;
use http::{Request, Response};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_millis(5000);

/// What an endpoint does with a request.
#[derive(Clone, Debug)]
enum Does {
    /// Answers as the agent behind it.
    Work,
    /// Refuses the connection.
    Refuse,
    /// Cannot agree on TLS.
    BadTls,
    /// Never answers; the request is lost.
    Nothing,
    /// Cuts the connection after so many milliseconds; the request is lost.
    Cut(u64),
    /// Cuts the connection when the request is applied.
    CutApplied,
    /// Never answers, but the request is applied.
    ApplySilently,
    /// Answers with this status, text and `Retry-After`; the request is not applied.
    Say(u16, &'static str, Option<u64>),
    /// Answers so, but the request is applied.
    SayApplied(u16, &'static str),
    /// Answers stale reads as the agent behind it, and nothing else.
    StaleOnly,
}
use Does::*;

const NO_LEADER: Does = Say(500, "No cluster leader", None);
const LEADERSHIP_LOST: &str = "raft apply failed: leadership lost while committing log";

/// A request as an endpoint got it.
#[derive(Clone, Debug, PartialEq)]
struct Got {
    endpoint: usize,
    at_ms: u128,
    /// Method and target: `GET /v1/kv/k`.
    what: String,
    /// Whether it was or may have been applied, as far as a client can know.
    maybe_applied: bool,
}

struct Script {
    place: usize,
    name: String,
    world: Arc<WorldState>,
    works: SimTransport,
}

struct WorldState {
    clock: ManualClock,
    /// By endpoint: what it does with the next requests, the last for ever.
    plans: Mutex<Vec<VecDeque<Does>>>,
    log: Mutex<Vec<Got>>,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Transport for Script {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(self.act(request))
    }

    fn endpoint(&self) -> &str {
        &self.name
    }
}

impl Script {
    async fn act(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        let does = {
            let plan = &mut lock(&self.world.plans)[self.place];
            if plan.len() > 1 { plan.pop_front() } else { plan.front().cloned() }
        };
        let does = does.unwrap_or(Work);
        let is_stale = request.uri().query().is_some_and(|query| query.contains("stale"));
        lock(&self.world.log).push(Got {
            endpoint: self.place,
            at_ms: self.world.clock.now().since_origin().as_millis(),
            what: format!("{} {}", request.method(), request.uri()),
            maybe_applied: match &does {
                Refuse | BadTls => false,
                Say(status, text, _) => *status > 500 || text.contains("lost"),
                _ => true,
            },
        });
        let fail = |kind, why: &str| Error::new(kind, format!("{}: {why}", self.name));
        let forever = std::future::pending();
        match does {
            Work => self.works.send(request).await,
            Refuse => Err(fail(Kind::Connect, "connection refused").transient().not_sent()),
            BadTls => Err(fail(Kind::Tls, "unknown issuer").not_sent()),
            Nothing => forever.await,
            Cut(after_ms) => {
                self.world.clock.sleep(Duration::from_millis(after_ms)).await;
                Err(fail(Kind::Connect, "connection reset").transient())
            }
            CutApplied => {
                self.works.send(request).await?;
                Err(fail(Kind::Connect, "connection reset").transient())
            }
            ApplySilently => {
                self.works.send(request).await?;
                forever.await
            }
            Say(status, text, retry_after) => Ok(reply(status, text, retry_after)),
            SayApplied(status, text) => {
                self.works.send(request).await?;
                Ok(reply(status, text, None))
            }
            StaleOnly if is_stale => self.works.send(request).await,
            StaleOnly => forever.await,
        }
    }
}

fn reply(status: u16, text: &'static str, retry_after: Option<u64>) -> Response<Bytes> {
    let mut response = Response::builder().status(status).header("vary", "Accept-Encoding");
    if let Some(seconds) = retry_after {
        response = response.header("retry-after", seconds);
    }
    response.body(Bytes::from_static(text.as_bytes())).expect("a response")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no other test panicked with it")
}

/// A client of some endpoints, and the agent behind them.
struct World {
    state: Arc<WorldState>,
    client: Client,
    /// A client of the agent itself, to prepare and to look at what there is.
    direct: Client,
}

impl World {
    fn new(plans: Vec<Vec<Does>>) -> World {
        World::with(plans, Defaults::default(), 1)
    }

    fn with(plans: Vec<Vec<Does>>, defaults: Defaults, seed: u64) -> World {
        let clock = ManualClock::new();
        // Its origin is no moment like others: nothing can have been before it.
        clock.advance(Duration::from_secs(1000));
        let options = Options { clock: Arc::new(clock.clone()), seed, ..Options::default() };
        let agent = Arc::new(Agent::new(options));
        let count = plans.len();
        let plans = Mutex::new(plans.into_iter().map(VecDeque::from).collect());
        let state = Arc::new(WorldState { clock: clock.clone(), plans, log: Mutex::default() });
        let script = |place: usize| -> Arc<dyn Transport> {
            let works = SimTransport::new(Arc::clone(&agent), "agent");
            let name = format!("http://endpoint-{place}");
            Arc::new(Script { place, name, world: Arc::clone(&state), works })
        };
        let client = |transports: Vec<Arc<dyn Transport>>, defaults: Defaults| {
            let settings = Settings { timeout: TIMEOUT, retry_count: 3, defaults };
            let rng = fastrand::Rng::with_seed(seed);
            Client::new(transports, settings, Arc::new(clock.clone()), rng)
        };
        World {
            client: client((0..count).map(script).collect(), defaults),
            direct: client(
                vec![Arc::new(SimTransport::new(Arc::clone(&agent), "agent"))],
                Defaults::default(),
            ),
            state,
        }
    }

    fn run<R>(&self, work: impl Future<Output = R>) -> R {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(self.state.clock.drive(work))
    }

    fn call(&self, method: &str, args: Args) -> Result<Answer, Error> {
        self.run(self.client.call(wire::endpoint(method).expect("a method"), &args))
    }

    fn direct(&self, method: &str, args: Args) -> Answer {
        let endpoint = wire::endpoint(method).expect("a method");
        self.run(self.direct.call(endpoint, &args)).expect("the agent answers")
    }

    fn get(&self) -> Result<Answer, Error> {
        self.call("kv_get", Args::new().arg("k"))
    }

    /// Lets an endpoint do this from now on.
    fn now_does(&self, endpoint: usize, does: Does) {
        lock(&self.state.plans)[endpoint] = VecDeque::from([does]);
    }

    fn advance(&self, duration: Duration) {
        self.state.clock.advance(duration);
    }

    fn now_ms(&self) -> u128 {
        self.state.clock.now().since_origin().as_millis()
    }

    /// What the endpoints got since the last look.
    fn log(&self) -> Vec<Got> {
        std::mem::take(&mut lock(&self.state.log))
    }

    /// Which endpoints were asked since the last look, in order.
    fn asked(&self) -> Vec<usize> {
        self.log().iter().map(|got| got.endpoint).collect()
    }

    fn session(&self) -> String {
        let created = self.direct("session_create", Args::new().arg(Value::Map(Vec::new())));
        created.value.as_str().expect("a session").to_owned()
    }

    fn holder(&self) -> Option<String> {
        self.direct("kv_get", Args::new().arg("k")).meta.entry.and_then(|entry| entry.session)
    }
}

fn put() -> Args {
    Args::new().arg("k").arg("v")
}

fn acquire(session: &str) -> Args {
    put().opt("acquire", session)
}

#[test]
fn of_three_endpoints_one_refuses_one_never_answers_and_one_works() {
    for (method, args) in [("kv_get", Args::new().arg("k")), ("kv_put", put())] {
        let world = World::new(vec![vec![Refuse], vec![Nothing], vec![Work]]);
        let answer = world.call(method, args.clone()).expect("the third one answers");
        assert_eq!((answer.meta.endpoint.as_str(), answer.meta.attempts), ("http://endpoint-2", 3));
        // The silent one had half of the time, because two endpoints were left.
        assert_eq!(answer.meta.request_ms, 2500.0);
        assert_eq!(world.asked(), [0, 1, 2]);
        // Meanwhile the first one is due for a probe; then both are left alone.
        world.call(method, args.clone()).expect("the third one answers");
        assert_eq!(world.asked(), [0, 2]);
        assert_eq!(world.call(method, args).expect("an answer").meta.request_ms, 0.0);
        assert_eq!(world.asked(), [2]);
    }
}

#[test]
fn endpoints_come_back_when_they_work_again() {
    let world = World::new(vec![vec![Refuse], vec![Refuse], vec![Work]]);
    world.get().expect("the third one answers");
    assert_eq!(world.asked(), [0, 1, 2]);
    // After a second at most both are probed, and benched for longer: from one to two seconds.
    world.advance(Duration::from_secs(1));
    world.get().expect("the third one answers");
    assert_eq!(world.asked(), [0, 1, 2]);
    world.advance(Duration::from_millis(999));
    world.get().expect("the third one answers");
    assert_eq!(world.asked(), [2]);
    world.now_does(0, Work);
    world.now_does(1, Work);
    world.advance(Duration::from_millis(1001));
    assert_eq!(world.get().expect("an answer").meta.endpoint, "http://endpoint-0");
    // The second one is back too, for when it is needed.
    world.now_does(0, Refuse);
    world.now_does(2, Refuse);
    assert_eq!(world.get().expect("an answer").meta.endpoint, "http://endpoint-1");
}

#[test]
fn a_dead_endpoint_is_probed_about_once_a_minute() {
    let world = World::new(vec![vec![Refuse], vec![Work]]);
    for _ in 0..3600 {
        world.advance(Duration::from_secs(1));
        world.get().expect("the second one answers");
    }
    let probes = world.asked().iter().filter(|endpoint| **endpoint == 0).count();
    assert!((60..=130).contains(&probes), "{probes} probes in an hour");
}

#[test]
fn of_many_calls_at_once_one_is_the_probe() {
    let world = World::new(vec![vec![Refuse], vec![Work]]);
    world.get().expect("the second one answers");
    world.advance(Duration::from_secs(1));
    world.now_does(0, Nothing);
    world.log();
    let endpoint = wire::endpoint("kv_get").expect("a method");
    let args = Args::new().arg("k");
    let calls = (0..64).map(|_| world.client.call(endpoint, &args));
    let answers = world.run(futures_util::future::join_all(calls));
    assert!(answers.iter().all(Result::is_ok));
    let asked = world.asked();
    assert_eq!(asked.iter().filter(|endpoint| **endpoint == 0).count(), 1);
}

#[test]
fn writes_that_must_not_be_repeated_and_long_waits_are_no_probes() {
    let world = World::new(vec![vec![Refuse], vec![Work]]);
    world.get().expect("the second one answers");
    world.advance(Duration::from_secs(1));
    world.now_does(0, Nothing);
    world.log();
    world.call("kv_put", put().opt("cas", 0)).expect("the second one answers");
    world
        .call("kv_get", Args::new().arg("k").opt("index", 1).opt("wait", "60s"))
        .expect("the second one answers");
    assert_eq!(world.asked(), [1, 1]);
}

#[test]
fn silence_of_all_endpoints_is_a_timeout_at_the_end_of_the_budget() {
    let world = World::new(vec![vec![Nothing], vec![Nothing], vec![Nothing]]);
    let begun = world.now_ms();
    let error = world.get().expect_err("nobody answers");
    assert_eq!((error.kind(), error.attempts()), (Kind::Timeout, 3));
    assert_eq!(world.now_ms() - begun, 5000);
    assert_eq!(
        error.message(),
        "kv_get \"k\": no answer from http://endpoint-2 within 1667 ms; after 3 attempts in 5000 ms"
    );
    assert!(!error.maybe_applied(), "a read applies nothing");
    assert!(world.call("kv_put", put()).expect_err("nobody answers").maybe_applied());
}

#[test]
fn a_bad_certificate_is_another_endpoints_chance_but_no_reason_to_repeat() {
    let world = World::new(vec![vec![BadTls], vec![Work]]);
    assert_eq!(world.get().expect("the second one answers").meta.attempts, 2);
    let world = World::new(vec![vec![BadTls], vec![BadTls]]);
    let error = world.get().expect_err("no one can be trusted");
    assert_eq!((error.kind(), error.attempts(), world.now_ms()), (Kind::Tls, 2, 1_000_000));
}

#[test]
fn each_endpoint_is_asked_once_and_then_the_retries_begin() {
    let world = World::new(vec![vec![NO_LEADER], vec![NO_LEADER]]);
    let error = world.get().expect_err("there is no leader");
    assert_eq!((error.kind(), error.attempts()), (Kind::NoLeader, 5));
    assert_eq!(world.asked(), [0, 1, 0, 1, 0]);
    // Such an answer says nothing against the endpoint.
    world.now_does(0, Work);
    assert_eq!(world.get().expect("an answer").meta.endpoint, "http://endpoint-0");
}

#[test]
fn what_an_agent_lacks_another_may_have() {
    for does in [Say(500, "No known Consul servers", None), Say(502, "", None), Say(504, "", None)]
    {
        let world = World::new(vec![vec![does], vec![Work]]);
        let answer = world.get().expect("the second one answers");
        assert_eq!((answer.meta.attempts, answer.meta.request_ms), (2, 0.0));
        assert_eq!(world.get().expect("an answer").meta.attempts, 1);
    }
}

#[test]
fn what_the_server_refuses_for_good_is_not_sent_again() {
    for (status, text) in [
        (400, "Invalid wait time"),
        (403, "Permission denied"),
        (413, "Request body too large"),
        (500, "Failed to create boolean expression evaluator: …"),
        (500, "raft apply failed: invalid session \"x\""),
        (500, "No path to datacenter"),
    ] {
        let world = World::new(vec![vec![Say(status, text, None)], vec![Work]]);
        let error = world.get().expect_err("it is refused");
        assert_eq!((error.attempts(), error.retryable()), (1, false), "{error}");
    }
}

#[test]
fn a_guarded_write_or_transaction_that_may_have_been_applied_is_not_sent_again() {
    let txn = || Args::new().arg(Value::List(Vec::new()));
    let cas = || put().opt("cas", 0);
    for does in [Cut(0), CutApplied, Nothing, Say(500, LEADERSHIP_LOST, None), Say(502, "", None)] {
        for (method, args) in
            [("kv_put", cas()), ("kv_delete", Args::new().arg("k").opt("cas", 1)), ("txn", txn())]
        {
            let world = World::new(vec![vec![does.clone()], vec![Work]]);
            let error = world.call(method, args).expect_err("its fate is unknown");
            assert!(error.maybe_applied() && error.retryable(), "{error}");
            assert_eq!(world.asked(), [0], "{method} {does:?}");
        }
    }
}

#[test]
fn a_guarded_write_that_cannot_have_been_applied_is_sent_again() {
    for does in [
        Refuse,
        BadTls,
        NO_LEADER,
        Say(429, "", None),
        Say(500, "rpc error getting client: EOF", None),
    ] {
        let world = World::new(vec![vec![does], vec![Work]]);
        world.call("kv_put", put().opt("cas", 0)).expect("the second one does it");
        assert_eq!(world.asked(), [0, 1]);
    }
}

#[test]
fn retry_false_sends_a_write_at_most_once() {
    let world = World::new(vec![vec![Cut(0)], vec![Work]]);
    let error = world.call("kv_put", put().opt("retry", false)).expect_err("its fate is unknown");
    assert!(error.maybe_applied());
    assert_eq!(world.asked(), [0]);
}

#[test]
fn a_failure_stays_open_when_the_last_attempt_was_refused() {
    let world = World::new(vec![vec![Cut(0), Refuse]]);
    let error = world.call("kv_put", put()).expect_err("it is refused");
    assert!(error.message().contains("refused") && error.maybe_applied(), "{error}");
}

#[test]
fn an_acquire_whose_answer_is_lost_is_settled_by_a_read() {
    for (does, settled_at_ms) in [
        (CutApplied, 0),
        (SayApplied(500, LEADERSHIP_LOST), 0),
        (SayApplied(500, "rpc error making call: EOF"), 0),
        // Silence takes half of the budget, so that time is left to look.
        (ApplySilently, 2500),
    ] {
        let world = World::new(vec![vec![does, Work]]);
        let session = world.session();
        let begun = world.now_ms();
        let answer = world.call("kv_put", acquire(&session)).expect("the session holds the lock");
        assert_eq!(answer.value, Value::Bool(true));
        assert_eq!((answer.meta.attempts, world.now_ms() - begun), (1, settled_at_ms));
        assert_eq!(answer.meta.request_ms, settled_at_ms as f64);
        let sent: Vec<_> = world.log().into_iter().map(|got| got.what).collect();
        assert_eq!(
            sent,
            [format!("PUT /v1/kv/k?acquire={session}"), "GET /v1/kv/k?consistent".into()]
        );
        assert_eq!(world.holder(), Some(session));
    }
}

#[test]
fn what_became_of_an_acquire_is_asked_until_there_is_a_leader_again() {
    let mut plan = vec![SayApplied(500, LEADERSHIP_LOST)];
    plan.extend(vec![NO_LEADER; 6]);
    plan.push(Work);
    let world = World::new(vec![plan]);
    let session = world.session();
    let answer = world.call("kv_put", acquire(&session)).expect("the session holds the lock");
    assert_eq!((answer.meta.attempts, world.asked().len()), (1, 8));
}

#[test]
fn an_acquire_that_another_session_won_is_a_conflict() {
    let world = World::new(vec![vec![Cut(0), Work]]);
    let (winner, loser) = (world.session(), world.session());
    world.direct("kv_put", acquire(&winner));
    let error = world.call("kv_put", acquire(&loser)).expect_err("the other one holds it");
    assert_eq!(error.kind(), Kind::Conflict);
    // It can still be on its way, and be granted when the other one is done.
    assert!(error.maybe_applied(), "{error}");
}

#[test]
fn an_acquire_that_left_no_trace_stays_open() {
    let world = World::new(vec![vec![Cut(0), Work]]);
    let session = world.session();
    let error = world.call("kv_put", acquire(&session)).expect_err("the lock is free");
    assert_eq!(error.kind(), Kind::Connect);
    assert!(error.maybe_applied() && error.message().contains("the lock was free"), "{error}");
}

#[test]
fn an_acquire_that_cannot_be_looked_up_stays_open() {
    let world = World::new(vec![vec![CutApplied, Nothing]]);
    let session = world.session();
    let begun = world.now_ms();
    let error = world.call("kv_put", acquire(&session)).expect_err("nobody knows");
    assert!(error.maybe_applied() && error.message().contains("unknown"), "{error}");
    assert_eq!(world.now_ms() - begun, 5000);
}

#[test]
fn with_retry_false_nothing_is_looked_up() {
    let world = World::new(vec![vec![CutApplied, Work]]);
    let session = world.session();
    let args = acquire(&session).opt("retry", false);
    assert!(world.call("kv_put", args).expect_err("its fate is unknown").maybe_applied());
    assert_eq!(world.asked(), [0]);
}

#[test]
fn a_release_whose_answer_is_lost_is_settled_by_a_read() {
    let world = World::new(vec![vec![CutApplied, Work, Cut(0), Work]]);
    let session = world.session();
    let release = || put().opt("release", session.as_str());
    world.direct("kv_put", acquire(&session));
    world.call("kv_put", release()).expect("the lock is free");
    world.direct("kv_put", acquire(&session));
    let error = world.call("kv_put", release()).expect_err("the session holds the lock");
    assert!(error.maybe_applied() && error.message().contains("held the lock"), "{error}");
}

#[test]
fn a_busy_server_is_asked_again_when_it_wants_to_be() {
    let world = World::new(vec![vec![Say(429, "", Some(2)), Work]]);
    assert_eq!(world.get().expect("an answer").meta.request_ms, 2000.0);
    // Within the budget only.
    let world = World::new(vec![vec![Say(429, "", Some(6)), Work]]);
    let error = world.get().expect_err("it is too long");
    assert_eq!((error.kind(), error.attempts()), (Kind::RateLimited, 1));
    assert!(error.retryable() && !error.maybe_applied());
    // The next call may try at once: it is the only one there is.
    world.get().expect("an answer");
}

#[test]
fn another_endpoint_is_asked_instead_of_a_busy_one_after_a_pause() {
    let world = World::new(vec![vec![Say(429, "", Some(20)), Work], vec![Work]]);
    let answer = world.get().expect("the second one answers");
    assert_eq!(answer.meta.endpoint, "http://endpoint-1");
    assert!((1.0..=50.0).contains(&answer.meta.request_ms), "{}", answer.meta.request_ms);
    world.advance(Duration::from_millis(19_900));
    assert_eq!(world.get().expect("an answer").meta.endpoint, "http://endpoint-1");
    world.advance(Duration::from_millis(200));
    assert_eq!(world.get().expect("an answer").meta.endpoint, "http://endpoint-0");
}

#[test]
fn pauses_grow_with_full_jitter() {
    let world = World::new(vec![vec![NO_LEADER]]);
    let mut longest = [0; 3];
    for _ in 0..200 {
        world.get().expect_err("there is no leader");
        let at: Vec<_> = world.log().iter().map(|got| got.at_ms).collect();
        for (place, pair) in at.windows(2).enumerate() {
            longest[place] = longest[place].max(pair[1] - pair[0]);
        }
    }
    for (longest, limit) in longest.into_iter().zip([50, 100, 200]) {
        assert!((limit * 9 / 10..=limit + 1).contains(&longest), "{longest} of {limit}");
    }
}

fn stale_if_error() -> Defaults {
    Defaults { stale_if_error: true, ..Defaults::default() }
}

#[test]
fn after_half_of_the_budget_any_server_may_answer() {
    let world = World::with(vec![vec![StaleOnly]], stale_if_error(), 1);
    let answer = world.get().expect("a stale answer");
    assert_eq!((answer.meta.request_ms, answer.meta.stale), (2500.0, true));
    let two = World::with(vec![vec![StaleOnly], vec![StaleOnly]], stale_if_error(), 1);
    let answer = two.get().expect("a stale answer");
    assert_eq!((answer.meta.request_ms, answer.meta.attempts), (2500.0, 3));
    let plain = World::new(vec![vec![StaleOnly]]);
    assert_eq!(plain.get().expect_err("the leader is silent").kind(), Kind::Timeout);
    let answer = plain.call("kv_get", Args::new().arg("k").opt("stale_if_error", true));
    assert!(answer.expect("a stale answer").meta.stale);
}

#[test]
fn a_leader_that_is_lost_is_not_waited_for_when_any_server_may_answer() {
    for text in ["No cluster leader", LEADERSHIP_LOST, "rpc error making call: EOF"] {
        let world = World::with(vec![vec![Say(500, text, None), Work]], stale_if_error(), 1);
        let answer = world.get().expect("a stale answer");
        assert_eq!((answer.meta.request_ms, answer.meta.stale), (0.0, true));
    }
    let world = World::with(vec![vec![Work]], stale_if_error(), 1);
    assert!(!world.get().expect("an answer").meta.stale);
    // An agent without servers is another matter: the leader may be well.
    let cut_off = vec![Say(500, "No known Consul servers", None)];
    let world = World::with(vec![cut_off, vec![Work]], stale_if_error(), 1);
    assert!(!world.get().expect("an answer").meta.stale);
}

#[test]
fn a_consistent_read_is_never_answered_by_any_server() {
    let world = World::with(vec![vec![StaleOnly]], stale_if_error(), 1);
    let args = Args::new().arg("k").opt("consistent", true);
    assert_eq!(world.call("kv_get", args).expect_err("silence").kind(), Kind::Timeout);
}

#[test]
fn a_wait_that_is_cut_goes_on_elsewhere_for_the_rest_of_its_time() {
    let world = World::new(vec![vec![Cut(10_000)], vec![Work]]);
    let index = world.direct("kv_put", put()).meta.index;
    assert_eq!(index, None);
    let index = world.direct("kv_get", Args::new().arg("k")).meta.index.expect("an index");
    let args = Args::new().arg("k").opt("index", index).opt("wait", "60s");
    let answer = world.call("kv_get", args).expect("nothing changed");
    let sent: Vec<_> = world.log().into_iter().map(|got| got.what).collect();
    assert_eq!(sent[1], format!("GET /v1/kv/k?index={index}&wait=50000ms"));
    let bound = 60_000.0 + 50_000.0 / 16.0;
    assert!((60_000.0..=bound).contains(&answer.meta.request_ms), "{}", answer.meta.request_ms);
}

#[test]
fn a_wait_that_is_never_answered_ends_with_a_plain_read_elsewhere() {
    let world = World::new(vec![vec![Nothing], vec![Work]]);
    world.direct("kv_put", put());
    let args = Args::new().arg("k").opt("index", 1_000_000).opt("wait", "16s");
    let answer = world.call("kv_get", args).expect("the value as it is");
    assert_eq!(answer.value, Value::from("v"));
    // The wait, its sixteenth, and half of the timeout.
    assert_eq!(answer.meta.request_ms, 16_000.0 + 1000.0 + 2500.0);
    assert_eq!(world.log()[1].what, "GET /v1/kv/k");
}

#[test]
fn a_wait_without_an_answer_ends_at_wait_jitter_and_timeout() {
    let world = World::new(vec![vec![Nothing]]);
    let begun = world.now_ms();
    let args = Args::new().arg("k").opt("index", 5).opt("wait", "16s");
    assert_eq!(world.call("kv_get", args).expect_err("silence").kind(), Kind::Timeout);
    assert_eq!(world.now_ms() - begun, 16_000 + 1000 + 5000);
}

fn fault() -> impl Strategy<Value = Does> {
    prop_oneof![
        Just(Refuse),
        Just(BadTls),
        Just(Nothing),
        (0..4000u64).prop_map(Cut),
        Just(CutApplied),
        Just(ApplySilently),
        Just(NO_LEADER),
        Just(Say(500, "No known Consul servers", None)),
        Just(Say(500, LEADERSHIP_LOST, None)),
        Just(Say(503, "", None)),
        (0..4u64).prop_map(|seconds| Say(429, "", Some(seconds))),
        Just(StaleOnly),
    ]
}

/// One call, and what happens between the calls.
#[derive(Clone, Debug)]
enum Step {
    Get,
    Put,
    Cas,
    Acquire,
    Pass(u64),
    Break(usize, Vec<Does>),
    Mend(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Get),
        2 => Just(Step::Put),
        1 => Just(Step::Cas),
        1 => Just(Step::Acquire),
        1 => (0..90_000u64).prop_map(Step::Pass),
        3 => (0..4usize, prop::collection::vec(fault(), 1..4))
            .prop_map(|(index, plan)| Step::Break(index, plan)),
        1 => (0..4usize).prop_map(Step::Mend),
    ]
}

/// How many sequences; scripts/soak.sh wants more.
fn cases() -> u32 {
    std::env::var("SEQUENCES").ok().and_then(|count| count.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the endpoints do, in whatever order: no call takes longer than its budget; a write
    /// that must not be repeated is never sent again once it can have been applied; and a read or
    /// an idempotent write succeeds when one endpoint works during the call.
    ///
    /// The last holds as long as the timeout is longer than the pauses of one round, at most 50, 100
    /// and 200 ms, and the shortest attempt for each endpoint, 100 ms: here 750 of 5,000 ms.
    #[test]
    fn no_sequence_of_faults_breaks_the_promises(
        count in 1..=4usize,
        seed in any::<u64>(),
        falls_back in any::<bool>(),
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let defaults = Defaults { stale_if_error: falls_back, ..Defaults::default() };
        let world = World::with(vec![vec![Work]; count], defaults, seed);
        let session = world.session();
        let mut works = vec![true; count];
        for step in steps {
            let (method, args, may_repeat) = match step.clone() {
                Step::Get => ("kv_get", Args::new().arg("k"), true),
                Step::Put => ("kv_put", put(), true),
                Step::Cas => ("kv_put", put().opt("cas", 0), false),
                Step::Acquire => ("kv_put", acquire(&session), false),
                Step::Pass(ms) => {
                    world.advance(Duration::from_millis(ms));
                    continue;
                }
                Step::Break(index, plan) => {
                    works[index % count] = false;
                    lock(&world.state.plans)[index % count] = plan.into();
                    continue;
                }
                Step::Mend(index) => {
                    works[index % count] = true;
                    world.now_does(index % count, Work);
                    continue;
                }
            };
            world.log();
            let begun = world.now_ms();
            let outcome = world.call(method, args);
            let took = world.now_ms() - begun;
            prop_assert!(took <= TIMEOUT.as_millis(), "{step:?} took {took} ms");
            let log = world.log();
            let writes: Vec<_> = log.iter().filter(|got| got.what.starts_with("PUT")).collect();
            if !may_repeat {
                let open = writes.iter().filter(|got| got.maybe_applied).count();
                prop_assert!(open <= 1, "{step:?}: {log:?}");
            }
            if may_repeat && works.contains(&true) {
                prop_assert!(outcome.is_ok(), "{step:?}: {outcome:?} {log:?}");
            }
            if let (Step::Acquire, Ok(_)) = (&step, &outcome) {
                prop_assert_eq!(world.holder(), Some(session.clone()));
            }
            if let Err(error) = &outcome {
                let is_open = writes.iter().any(|got| got.maybe_applied);
                prop_assert!(error.maybe_applied() || !is_open || error.kind() == Kind::Conflict, "{error:?} {log:?}");
            }
        }
    }
}
