//! Retry, failover and budgets, exact to the millisecond: the client on a clock that the test
//! advances, over scripted endpoints. Behind the working ones is one simulated agent.

mod random;
mod settled;

use Does::*;
use bytes::Bytes;
use consul_api as wire;
use consul_api::error::{Error, Kind};
use consul_api::request::{Args, Defaults};
use consul_api::response::Answer;
use consul_api::value::Value;
use consul_client::transport::Transport;
use consul_client::watch::{WatchOptions, states};
use consul_client::{Client, Settings};
use consul_process::clock::{BoxFuture, Clock, ManualClock};
use consul_sim::{Agent, Options, SimTransport};
use futures_util::StreamExt as _;
use futures_util::future::select;
use futures_util::stream::select_all;
use http::{HeaderValue, Request, Response};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_millis(5000);

/// The reaction of an endpoint to a request.
#[derive(Clone, Debug)]
enum Does {
    /// Answers as the agent behind it.
    Work,
    /// Refuses the connection.
    Refuse,
    /// Cannot agree on TLS.
    BadTls,
    /// Is not sent: no connection of the client's own limit was free in time.
    NoConnection,
    /// Never answers; the request is lost.
    Nothing,
    /// Cuts the connection after this many milliseconds; the request is lost.
    Cut(u64),
    /// Cuts the connection when the request is applied.
    CutApplied,
    /// Never answers, but the request is applied.
    ApplySilently,
    /// Answers with this status, text and `Retry-After`; the request is not applied.
    Say(u16, &'static str, Option<u64>),
    /// The same, but the request is applied.
    SayApplied(u16, &'static str),
    /// Answers stale reads as the agent behind it, and nothing else.
    StaleOnly,
    /// Loses writes, and answers reads from a cache that marks its answers with these headers. Without any the URL is the
    /// cache's key, else the path alone.
    Cache(&'static [(&'static str, &'static str)]),
}

const NO_LEADER: Does = Say(500, "No cluster leader", None);
const LEADERSHIP_LOST: &str = "raft apply failed: leadership lost while committing log";

/// A request as an endpoint received it.
#[derive(Clone, Debug, PartialEq)]
struct Got {
    endpoint: usize,
    at_ms: u128,
    /// Method and target: `GET /v1/kv/k`.
    what: String,
    /// Whether a client must assume that it may have been applied.
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
    /// By endpoint: its reactions to the next requests; the last one is repeated forever.
    plans: Mutex<Vec<VecDeque<Does>>>,
    log: Mutex<Vec<Got>>,
    cache: Mutex<HashMap<String, Response<Bytes>>>,
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
                Refuse | BadTls | NoConnection => false,
                Say(status, text, _) => *status > 500 || text.contains("lost"),
                _ => true,
            },
        });
        let fail = |kind, why: &str| Error::new(kind, format!("{}: {why}", self.name));
        let forever = std::future::pending();
        match does {
            Work => self.works.send(request).await,
            Refuse => Err(fail(Kind::Connect, "connection refused").retryable().not_sent()),
            BadTls => Err(fail(Kind::Tls, "unknown issuer").not_sent()),
            NoConnection => {
                Err(fail(Kind::Timeout, "no connection is free").retryable().not_sent())
            }
            Nothing => forever.await,
            Cut(after_ms) => {
                self.world.clock.sleep(Duration::from_millis(after_ms)).await;
                Err(fail(Kind::Connect, "connection reset").retryable())
            }
            CutApplied => {
                self.works.send(request).await?;
                Err(fail(Kind::Connect, "connection reset").retryable())
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
            Cache(_) if request.method() != "GET" => {
                Err(fail(Kind::Connect, "connection reset").retryable())
            }
            Cache(marks) => {
                let uri = request.uri();
                let key = if marks.is_empty() { uri.to_string() } else { uri.path().to_owned() };
                if let Some(answer) = lock(&self.world.cache).get(&key) {
                    return Ok(answer.clone());
                }
                let answer = self.works.send(request).await?;
                let mut kept = answer.clone();
                for (name, value) in marks {
                    kept.headers_mut().insert(*name, HeaderValue::from_static(value));
                }
                lock(&self.world.cache).insert(key, kept);
                Ok(answer)
            }
        }
    }
}

fn reply(status: u16, text: &'static str, retry_after: Option<u64>) -> Response<Bytes> {
    let mut response = Response::builder().status(status).header("vary", "Accept-Encoding");
    if let Some(seconds) = retry_after {
        response = response.header("retry-after", seconds);
    }
    if status == 401 {
        response = response.header("www-authenticate", "Basic");
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
    /// A client of the agent itself, to prepare and to read data.
    direct: Client,
}

impl World {
    fn new(plans: Vec<Vec<Does>>) -> World {
        World::with(plans, Defaults::default(), 1)
    }

    fn with(plans: Vec<Vec<Does>>, defaults: Defaults, seed: u64) -> World {
        let clock = ManualClock::new();
        // No event is before its origin.
        clock.advance(Duration::from_secs(1000));
        let options = Options { clock: Arc::new(clock.clone()), seed, ..Options::default() };
        let agent = Arc::new(Agent::new(options));
        let count = plans.len();
        let plans = Mutex::new(plans.into_iter().map(VecDeque::from).collect());
        let state = Arc::new(WorldState {
            clock: clock.clone(),
            plans,
            log: Mutex::default(),
            cache: Mutex::default(),
        });
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

    /// Sets the reaction of an endpoint.
    fn now_does(&self, endpoint: usize, does: Does) {
        lock(&self.state.plans)[endpoint] = VecDeque::from([does]);
    }

    fn advance(&self, duration: Duration) {
        self.state.clock.advance(duration);
    }

    fn now_ms(&self) -> u128 {
        self.state.clock.now().since_origin().as_millis()
    }

    /// The requests to the endpoints since the last call.
    fn log(&self) -> Vec<Got> {
        std::mem::take(&mut lock(&self.state.log))
    }

    /// The endpoints that were asked since the last call, in order.
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
fn the_origin_of_the_address_is_named_where_there_is_no_connection_and_nowhere_else() {
    let error = |origin: &str, does: Does| {
        let mut world = World::new(vec![vec![does]]);
        world.client = world.client.with_endpoints_from(origin.to_owned());
        world.get().expect_err("no answer").message().to_owned()
    };
    assert!(error("by default", Refuse).ends_with("; by default"));
    let answered = error("by default", Say(500, "No known Consul servers", None));
    assert!(!answered.contains("by default"), "{answered}");
    assert!(!error("", Refuse).ends_with("; "));
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
        // Meanwhile the first one is due for a probe; then both are benched.
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
    // After up to a second both are probed, and benched for longer: one to two seconds.
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
    // The second one is usable again, too.
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
fn a_bad_certificate_or_a_proxys_401_is_another_endpoints_chance_but_no_reason_to_repeat() {
    for (does, kind) in [(BadTls, Kind::Tls), (Say(401, "", None), Kind::PermissionDenied)] {
        let world = World::new(vec![vec![does.clone()], vec![Work]]);
        assert_eq!(world.get().expect("the second one answers").meta.attempts, 2);
        let world = World::new(vec![vec![does.clone()], vec![does]]);
        let error = world.get().expect_err("no one can be trusted");
        assert_eq!((error.kind(), error.attempts(), world.now_ms()), (kind, 2, 1_000_000));
    }
}

/// Behind one address there can be several servers; one of them does not answer for Consul.
#[test]
fn an_answer_that_is_not_consuls_is_asked_for_again_at_the_same_endpoint() {
    let world = World::new(vec![vec![Say(200, "<html>", None), Work]]);
    assert_eq!(world.get().expect("the next answer").meta.attempts, 2);
    world.now_does(0, Say(200, "<html>", None));
    let error = world.get().expect_err("not Consul");
    assert_eq!((error.kind(), error.attempts()), (Kind::Decode, 4));
}

#[test]
fn a_request_that_waited_for_a_connection_of_our_own_is_not_the_endpoints_failure() {
    let world = World::with(vec![vec![NoConnection, Work], vec![Work]], stale_if_error(), 1);
    let answer = world.get().expect("an answer");
    assert_eq!((answer.meta.attempts, answer.meta.stale), (2, false));
    assert_eq!(world.get().expect("an answer").meta.endpoint, "http://endpoint-0");
}

#[test]
fn an_endpoint_that_had_less_than_100_ms_has_not_failed() {
    for (timeout_ms, next) in [(99, "http://endpoint-0"), (100, "http://endpoint-1")] {
        let world = World::new(vec![vec![Nothing, Work], vec![Work]]);
        let args = Args::new().arg("k").opt("timeout_ms", timeout_ms);
        assert_eq!(world.call("kv_get", args).expect_err("silence").kind(), Kind::Timeout);
        assert_eq!(world.get().expect("an answer").meta.endpoint, next);
    }
}

#[test]
fn each_endpoint_is_asked_once_and_then_the_retries_begin() {
    let world = World::new(vec![vec![NO_LEADER], vec![NO_LEADER]]);
    let error = world.get().expect_err("there is no leader");
    assert_eq!((error.kind(), error.attempts()), (Kind::NoLeader, 5));
    assert_eq!(world.asked(), [0, 1, 0, 1, 0]);
    // Such an answer does not bench the endpoint.
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
fn a_permanent_refusal_is_not_retried() {
    for (status, text) in [
        (400, "Invalid wait time"),
        (403, "Permission denied"),
        (413, "Request body too large"),
        (500, "Failed to create boolean expression evaluator: …"),
        (500, "raft apply failed: invalid session \"x\""),
        (500, "No path to datacenter"),
    ] {
        for defaults in [Defaults::default(), stale_if_error()] {
            let plans = vec![vec![Say(status, text, None)], vec![Work]];
            let world = World::with(plans, defaults, 1);
            let error = world.get().expect_err("it is refused");
            assert_eq!((error.attempts(), error.is_retryable()), (1, false), "{error}");
        }
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
            assert!(error.maybe_applied() && error.is_retryable(), "{error}");
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
fn a_busy_server_is_asked_again_when_it_wants_to_be() {
    let world = World::new(vec![vec![Say(429, "", Some(2)), Work]]);
    assert_eq!(world.get().expect("an answer").meta.request_ms, 2000.0);
    // Within the budget only.
    let world = World::new(vec![vec![Say(429, "", Some(6)), Work]]);
    let error = world.get().expect_err("it is too long");
    assert_eq!((error.kind(), error.attempts()), (Kind::RateLimited, 1));
    assert!(error.is_retryable() && !error.maybe_applied());
    // The next call may try at once: it is the only endpoint.
    world.get().expect("an answer");
}

/// The requests of 20 watches and of a call every 5 s, in the first minute.
fn a_minute_of_watches(plans: Vec<Vec<Does>>) -> (Vec<Got>, usize) {
    let world = World::new(plans);
    let client = Arc::new(world.client);
    let key = |number: u32| Args::new().arg(format!("k{number}"));
    let watches = (0..20).map(|number| {
        let options = WatchOptions::default();
        states(Arc::clone(&client), &wire::api::kv::GET, key(number), options)
            .expect("a watch")
            .boxed()
    });
    let mut watches = select_all(watches);
    let mut answers = 0;
    let clock = world.state.clock.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let minute = async {
        for _ in 0..12 {
            clock.sleep(Duration::from_secs(5)).await;
            answers += usize::from(client.call(&wire::api::kv::GET, &key(100)).await.is_ok());
        }
    };
    runtime.block_on(
        clock.drive(select(pin!(minute), pin!(async { while watches.next().await.is_some() {} }))),
    );
    (std::mem::take(&mut *lock(&world.state.log)), answers)
}

#[test]
fn watches_that_an_agent_refuses_leave_its_limits_to_the_calls() {
    let (log, _) = a_minute_of_watches(vec![vec![Say(429, "", None)]]);
    let of_watches = log.iter().filter(|got| !got.what.contains("k100")).count();
    // Each asks once at first and after pauses of 1, 2, 4, 8, 16 and 30 s, up to half longer.
    assert!((100..=140).contains(&of_watches), "{of_watches} requests of 20 watches");
    let of_calls = log.len() - of_watches;
    assert!(of_calls >= 12, "{of_calls} requests of 12 calls");
}

#[test]
fn watches_go_on_after_refusals_and_do_not_pause_while_an_endpoint_answers() {
    // A first wave of refusals; each watch sees one.
    let (_, answers) =
        a_minute_of_watches(vec![[vec![Say(429, "", None); 20], vec![Work]].concat()]);
    assert_eq!(answers, 12);
    let (log, answers) = a_minute_of_watches(vec![vec![Say(429, "", None)], vec![Work]]);
    let first_s = log.iter().filter(|got| got.endpoint == 1 && got.at_ms < 1_001_000).count();
    assert!(answers == 12 && first_s >= 20, "{answers} answers, {first_s} requests");
}

#[test]
fn any_answer_ends_the_pause_after_refusals() {
    // Only after the pause a query of a watch is repeated within its call, also when the answer was an error.
    for answer in [Work, Say(400, "Bad request", None), Say(403, "Permission denied", None)] {
        let world = World::new(vec![vec![Say(429, "", Some(6)), answer, NO_LEADER, Work]]);
        world.get().expect_err("it is refused for longer than its budget");
        world.advance(Duration::from_secs(7));
        let _ = world.get();
        let client = Arc::new(world.client);
        let options = WatchOptions::default();
        let key = Args::new().arg("k");
        let mut watch = states(client, &wire::api::kv::GET, key, options).expect("a watch").boxed();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let state = runtime.block_on(world.state.clock.drive(watch.next()));
        state.expect("a state").expect("no error");
    }
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
    // An agent without servers is different: the leader may be well.
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

#[test]
fn a_limit_below_the_wait_ends_a_call_and_is_not_the_endpoints_fault() {
    let world = World::new(vec![vec![Nothing, Work], vec![Work]]);
    let begun = world.now_ms();
    let args = Args::new().arg("k").opt("index", 5).opt("wait", "16s").opt("timeout_ms", 3000);
    assert_eq!(world.call("kv_get", args).expect_err("no change").kind(), Kind::Timeout);
    assert_eq!(world.now_ms() - begun, 3000);
    let answer = world.call("kv_get", Args::new().arg("k")).expect("an answer");
    assert_eq!(answer.meta.attempts, 1);
    let places: Vec<_> = world.log().iter().map(|got| got.endpoint).collect();
    assert_eq!(places, [0, 0]);
}
