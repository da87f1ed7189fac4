//! Many locks of one process: what it costs to hold them and to wait for them, and that none of them depends on the others.

use super::on_a_clock::Simulated;
use super::{call, present, settings};
use crate::support::trials::{Trials, add};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_client::Client;
use consul_client::coordination::lock::{self, LOCK_FLAGS, LockOptions};
use consul_client::coordination::semaphore::{self, SemaphoreOptions};
use consul_client::coordination::{Event, Lease, Presence, Profile, Wait};
use consul_client::transport::Transport;
use consul_process::clock::{BoxFuture, Clock, Instant};
use consul_sim::{Fault, SimTransport};
use futures_util::future::join_all;
use http::{Request, Response};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub fn add_to(trials: &mut Trials) {
    add!(trials, many_leases_are_proven_by_few_requests);
    add!(trials, a_lease_that_is_lost_suspends_no_other);
    add!(trials, a_key_for_which_transactions_fail_suspends_no_other, long);
    add!(trials, a_permit_whose_document_acls_hide_suspends_no_other);
    add!(trials, waiters_with_a_common_directory_share_a_query);
    add!(trials, a_lock_that_is_released_while_its_waiter_joins_others_is_acquired);
    add!(trials, waiters_that_cannot_share_are_refused_beyond_the_connections);
    add!(trials, waiters_whose_shared_query_fails_get_their_locks);
    add!(trials, a_lock_delay_costs_few_requests_and_is_over_on_time);
    add!(trials, a_takeover_takes_the_round_trips_of_its_requests_more);
}

/// The treatment of a request by a transport; instead of an answer with the status [`CLOSED`] the connection ends, and
/// an answer with [`SILENT`] never comes.
pub type Rule = fn(&Request<Bytes>) -> Option<Response<Bytes>>;

const CLOSED: u16 = 998;
pub const SILENT: u16 = 999;

/// Counts requests, and answers some of them itself.
#[derive(Debug)]
pub struct Counting {
    transport: SimTransport,
    counts: Mutex<Counts>,
    max_in_flight: usize,
}

#[derive(Debug, Default)]
struct Counts {
    /// By method and the beginning of the path.
    requests: BTreeMap<String, usize>,
    waiting: usize,
    most_waiting: usize,
    rule: Option<Rule>,
    /// A key that answers to transactions leave out.
    hidden: Option<&'static str>,
}

impl Counting {
    fn hide(&self, key: Option<&'static str>) {
        self.counts.lock().expect("no panic").hidden = key;
    }

    fn take(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut self.counts.lock().expect("no panic").requests)
    }

    pub fn answer_by(&self, rule: Option<Rule>) {
        self.counts.lock().expect("no panic").rule = rule;
    }

    fn most_waiting(&self) -> usize {
        self.counts.lock().expect("no panic").most_waiting
    }
}

impl Transport for Counting {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            let path = request.uri().path().split('/').take(4).collect::<Vec<_>>().join("/");
            let path = if path.starts_with("/v1/kv") { "/v1/kv" } else { &path };
            let waits = request.uri().query().is_some_and(|query| query.contains("wait="));
            let rule = {
                let mut counts = self.counts.lock().expect("no panic");
                *counts.requests.entry(format!("{} {path}", request.method())).or_default() += 1;
                counts.waiting += usize::from(waits);
                counts.most_waiting = counts.most_waiting.max(counts.waiting);
                counts.rule
            };
            let own = rule.and_then(|rule| rule(&request));
            let _ends = Ends(self, waits);
            let is_txn = request.uri().path() == "/v1/txn";
            let answer = match own {
                Some(answer) if answer.status() == SILENT => std::future::pending().await,
                Some(answer) if answer.status() == CLOSED => {
                    return Err(Error::new(Kind::Connect, "the connection was closed").retryable());
                }
                Some(answer) => answer,
                None => self.transport.send(request).await?,
            };
            let hidden = self.counts.lock().expect("no panic").hidden.filter(|_| is_txn);
            Ok(hidden.map_or(answer.clone(), |key| without(key, &answer)))
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }

    fn max_in_flight(&self) -> usize {
        self.max_in_flight
    }
}

/// An answer to a transaction without the results of a key.
fn without(key: &str, answer: &Response<Bytes>) -> Response<Bytes> {
    let mut body: serde_json::Value = serde_json::from_slice(answer.body()).expect("JSON");
    if let Some(results) = body["Results"].as_array_mut() {
        results.retain(|result| result["KV"]["Key"] != key);
    }
    answer.clone().map(|_| body.to_string().into())
}

struct Ends<'a>(&'a Counting, bool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.counts.lock().expect("no panic").waiting -= usize::from(self.1);
    }
}

/// A process whose requests are counted.
pub fn counted(world: &Simulated, profile: Profile, max: usize) -> (Arc<Presence>, Arc<Counting>) {
    let transport = SimTransport::new(Arc::clone(&world.agent), "simulated");
    let counts = Mutex::default();
    let counting = Arc::new(Counting { transport, counts, max_in_flight: max });
    let rng = fastrand::Rng::with_seed(7);
    let clock = Arc::new(world.clock.clone());
    let client = Client::new(vec![Arc::clone(&counting) as _], settings(None), clock, rng);
    let process = present(client, profile);
    let running = Arc::clone(&process);
    world.clock.spawn(async move { match running.run().await {} });
    (process, counting)
}

pub async fn acquire(process: &Arc<Presence>, key: &str, wait: Wait) -> Result<Arc<Lease>, Error> {
    lock::acquire(process, key, &LockOptions { value: None, wait, is_own: false }).await
}

pub async fn permit(
    process: &Arc<Presence>,
    prefix: &str,
    wait: Wait,
) -> Result<Arc<Lease>, Error> {
    let options = SemaphoreOptions { limit: 1, value: Vec::new(), wait };
    semaphore::acquire(process, prefix, &options).await
}

/// Locks of a process, which are kept.
pub fn hold(world: &Simulated, process: &Arc<Presence>, keys: &[String]) -> Vec<Arc<Lease>> {
    let leases = keys.iter().map(|key| acquire(process, key, Wait::Once));
    let leases = world.run(join_all(leases));
    let leases: Vec<_> = leases.into_iter().map(|lease| lease.expect("it is free")).collect();
    leases.iter().for_each(|lease| world.keep(lease));
    leases
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("many/{number}")).collect()
}

pub fn events(lease: &Lease) -> Vec<Event> {
    std::iter::from_fn(|| lease.poll_event()).collect()
}

const SECOND: Duration = Duration::from_secs(1);

fn many_leases_are_proven_by_few_requests() {
    let world = Simulated::new();
    let (process, counting) = counted(&world, Profile::standard(), 64);
    let leases = hold(&world, &process, &keys(300));
    let permits = (0..20).map(|number| format!("permits/{number}")).collect::<Vec<_>>();
    let permits = world.run(join_all(permits.iter().map(|it| permit(&process, it, Wait::Once))));
    let permits: Vec<_> = permits.into_iter().map(|it| it.expect("a permit is free")).collect();
    permits.iter().for_each(|permit| world.keep(permit));
    world.clock.advance(SECOND);
    counting.take();
    world.clock.advance(SECOND * 30);
    let sent = counting.take();
    // 300 operations for the locks and 40 for the permits, 64 in a transaction, four times a second.
    let proofs = sent["PUT /v1/txn"];
    assert!((6 * 4 * 29..=6 * 4 * 31).contains(&proofs), "{sent:?}");
    assert_eq!(sent.get("GET /v1/kv"), None, "{sent:?}");
    let renewals = sent["PUT /v1/session/renew"];
    assert!((320 * 9..=320 * 10).contains(&renewals), "{sent:?}");
    for lease in leases.iter().chain(&permits) {
        assert!(lease.is_held() && events(lease).is_empty(), "{}", lease.key());
        let least = process.profile().lease - process.profile().proof_interval() * 2;
        assert!(lease.remaining() > least, "{:?}", lease.remaining());
    }
}

fn a_lease_that_is_lost_suspends_no_other() {
    let world = Simulated::new();
    let (process, _) = counted(&world, Profile::standard(), 64);
    let leases = hold(&world, &process, &keys(130));
    world.clock.advance(SECOND);
    let lost = [7, 64, 65, 129];
    let other = world.process();
    for (place, number) in lost.into_iter().enumerate() {
        let lease = &leases[number];
        let key = Args::new().arg(lease.key());
        match place {
            0 => drop(world.run(call(other.client(), "kv_delete", key))),
            1 => {
                let put = key.arg("x").opt("flags", LOCK_FLAGS);
                drop(world.run(call(other.client(), "kv_put", put)));
            }
            _ => {
                let session = Args::new().arg(lease.session());
                drop(world.run(call(other.client(), "session_destroy", session)));
            }
        }
    }
    world.clock.advance(process.profile().proof_interval() + Duration::from_millis(1));
    for (number, lease) in leases.iter().enumerate() {
        let events = events(lease);
        match lost.contains(&number) {
            true => assert!(matches!(events[..], [Event::Lost(_)]), "{number}: {events:?}"),
            false => assert!(lease.is_held() && events.is_empty(), "{number}: {events:?}"),
        }
    }
    world.clock.advance(SECOND * 10);
    let held = leases.iter().filter(|lease| lease.is_held() && events(lease).is_empty());
    assert_eq!(held.count(), leases.len() - lost.len());
}

/// Whether it is a transaction with the key of the seventh lock.
fn has_seventh(request: &Request<Bytes>) -> bool {
    request.uri().path() == "/v1/txn"
        && String::from_utf8_lossy(request.body()).contains("\"many/7\"")
}

pub fn answer(status: u16, body: &'static str) -> Option<Response<Bytes>> {
    Some(Response::builder().status(status).body(body.into()).expect("a response"))
}

fn a_key_for_which_transactions_fail_suspends_no_other() {
    const REFUSALS: &[Rule] = &[
        |it| has_seventh(it).then(|| answer(400, "Bad request: invalid key name"))?,
        |it| has_seventh(it).then(|| answer(403, "Permission denied: \"many/7\""))?,
        |it| has_seventh(it).then(|| answer(404, "404 page not found"))?,
        |it| has_seventh(it).then(|| answer(413, "Request body too large"))?,
        |it| has_seventh(it).then(|| answer(500, "invalid key name, keys should respect it"))?,
        |it| has_seventh(it).then(|| answer(200, "<html>"))?,
        |it| has_seventh(it).then(|| answer(200, r#"{"Results":[],"Errors":null}"#))?,
        |it| has_seventh(it).then(|| answer(409, r#"{"Results":null,"Errors":[]}"#))?,
        |it| has_seventh(it).then(|| answer(503, "<html>"))?,
        |it| has_seventh(it).then(|| answer(CLOSED, ""))?,
        |it| has_seventh(it).then(|| answer(SILENT, ""))?,
    ];
    for (place, refusal) in REFUSALS.iter().enumerate() {
        let world = Simulated::new();
        let (process, counting) = counted(&world, Profile::standard(), 64);
        let leases = hold(&world, &process, &keys(130));
        world.clock.advance(SECOND);
        counting.answer_by(Some(*refusal));
        world.clock.advance(SECOND * 10);
        for (number, lease) in leases.iter().enumerate().filter(|(number, _)| *number != 7) {
            let events = events(lease);
            assert!(lease.is_held() && events.is_empty(), "{place}, {number}: {events:?}");
        }
        assert!(!leases[7].has_ended(), "{place}: nothing shows that it is lost");
        counting.answer_by(None);
        world.clock.advance(SECOND * 2);
        assert!(leases[7].is_held(), "{place}");
    }
}

fn a_permit_whose_document_acls_hide_suspends_no_other() {
    let world = Simulated::new();
    let (process, counting) = counted(&world, Profile::standard(), 64);
    let permits = (0..20).map(|number| format!("permits/{number}")).collect::<Vec<_>>();
    let permits = world.run(join_all(permits.iter().map(|it| permit(&process, it, Wait::Once))));
    let permits: Vec<_> = permits.into_iter().map(|it| it.expect("a permit is free")).collect();
    permits.iter().for_each(|permit| world.keep(permit));
    counting.hide(Some("permits/7/.lock"));
    world.clock.advance(SECOND * 10);
    for (number, permit) in permits.iter().enumerate() {
        assert_eq!(permit.is_held(), number != 7, "{number}: {:?}", events(permit));
        assert!(!permit.has_ended(), "{number}");
    }
    counting.hide(None);
    world.clock.advance(SECOND);
    assert!(permits[7].is_held());
}

/// By key.
type Acquired = BTreeMap<String, (Instant, Arc<Lease>)>;

/// Many waiters of one process, each for a lock of another one, with a latency of 1 ms; what each has acquired, and when.
struct Waiting {
    world: Simulated,
    holder: Arc<Presence>,
    held: Vec<Arc<Lease>>,
    waiter: Arc<Presence>,
    counting: Arc<Counting>,
    acquired: Arc<Mutex<Acquired>>,
}

impl Waiting {
    fn for_keys(keys: &[String], max: usize) -> Self {
        let world = Simulated::new();
        let holder = world.process();
        let held = hold(&world, &holder, keys);
        let latency = Duration::from_millis(1);
        world.agent.add_fault(Fault { latency, ..Fault::default() });
        let (waiter, counting) = counted(&world, Profile::standard(), max);
        let acquired = Arc::default();
        let waiting = Self { world, holder, held, waiter, counting, acquired };
        keys.iter().for_each(|key| waiting.start(key));
        waiting.world.clock.advance(SECOND * 2);
        waiting
    }

    fn start(&self, key: &str) {
        let (clock, key) = (self.world.clock.clone(), key.to_owned());
        let (waiter, acquired) = (Arc::clone(&self.waiter), Arc::clone(&self.acquired));
        self.world.clock.spawn(async move {
            let lease = acquire(&waiter, &key, Wait::Forever).await.expect("it becomes free");
            acquired.lock().expect("no panic").insert(key, (clock.now(), Arc::clone(&lease)));
            drop(lease.keep().await);
        });
    }

    fn release(&self, number: usize) -> Instant {
        self.world.run(self.held[number].release()).expect("it is held");
        self.world.clock.now()
    }

    fn acquired_at(&self, number: usize) -> Option<Instant> {
        let acquired = self.acquired.lock().expect("no panic");
        acquired.get(self.held[number].key()).map(|(at, _)| *at)
    }
}

fn waiters_with_a_common_directory_share_a_query() {
    let in_one = keys(400);
    let in_many: Vec<String> = (0..80).map(|it| format!("app/{it}/lock")).collect();
    let in_two = (0..80).map(|it| format!("app-{}/{it}/lock", it % 2)).collect();
    for keys in [in_one, in_many, in_two] {
        let waiting = Waiting::for_keys(&keys, 64);
        waiting.counting.take();
        waiting.world.clock.advance(SECOND * 20);
        let sent: usize = waiting.counting.take().values().sum();
        // Each 3 s a query of 16 waiters and one or two for the others, and 7 transactions; 2 beats a second.
        assert!(sent <= 7 * (16 + 2 + 8) + 2 * 21, "{sent} for {}", keys[0]);
        assert!(waiting.counting.most_waiting() <= 18, "{}", waiting.counting.most_waiting());
        for number in [keys.len() - 1, 3, 20, 50, 70] {
            let released = waiting.release(number);
            waiting.world.clock.advance(Duration::from_millis(50));
            let at = waiting.acquired_at(number).unwrap_or_else(|| panic!("{}", keys[number]));
            assert!(at - released <= Duration::from_millis(50), "{:?}", at - released);
        }
        // All others at once.
        let others = waiting.held.iter().filter(|lease| !lease.has_ended());
        let released = waiting.world.run(join_all(others.map(|lease| lease.release())));
        assert!(released.iter().all(Result::is_ok));
        waiting.world.clock.advance(Duration::from_millis(500));
        assert_eq!(waiting.acquired.lock().expect("no panic").len(), keys.len());
        waiting.world.clock.advance(SECOND);
        let acquired = waiting.acquired.lock().expect("no panic");
        assert!(acquired.values().all(|(_, lease)| lease.is_held()));
    }
}

fn a_lock_that_is_released_while_its_waiter_joins_others_is_acquired() {
    for after in (0..60).step_by(3) {
        let keys = keys(20);
        let waiting = Waiting::for_keys(&keys, 2);
        let held = hold(&waiting.world, &waiting.holder, &["many/late".to_owned()]);
        waiting.start("many/late");
        waiting.world.clock.advance(Duration::from_millis(after));
        waiting.world.run(held[0].release()).expect("it is held");
        waiting.world.clock.advance(Duration::from_millis(60));
        let acquired = waiting.acquired.lock().expect("no panic");
        assert!(acquired.contains_key("many/late"), "released after {after} ms");
    }
}

fn waiters_that_cannot_share_are_refused_beyond_the_connections() {
    let flat: Vec<String> = (0..8).map(|number| format!("flat-{number}")).collect();
    let waiting = Waiting::for_keys(&flat, 8);
    let Waiting { world, waiter, holder, .. } = &waiting;
    hold(world, holder, &["flat".to_owned(), "tree/a".to_owned()]);
    let permit_held = world.run(permit(holder, "permits", Wait::Once)).expect("a permit is free");
    world.keep(&permit_held);
    let wait = Wait::For(SECOND);
    let refused = [
        world.run(acquire(waiter, "flat", wait)),
        world.run(acquire(waiter, "tree/a", wait)),
        world.run(permit(waiter, "permits", wait)),
    ];
    for refused in refused {
        let error = refused.expect_err("all connections wait");
        assert_eq!((error.kind(), error.maybe_applied()), (Kind::Config, false), "{error}");
        assert!(error.message().contains("8 blocking queries"), "{error}");
    }
    // A waiter that waits no more leaves its place.
    waiting.release(0);
    world.clock.advance(SECOND);
    let error = world.run(acquire(waiter, "flat", wait)).expect_err("it is held");
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
}

fn waiters_whose_shared_query_fails_get_their_locks() {
    fn is_shared(request: &Request<Bytes>) -> bool {
        request.uri().query().is_some_and(|query| query.contains("keys"))
    }
    fn is_look(request: &Request<Bytes>) -> bool {
        request.uri().path() == "/v1/txn" && !has_writes(request)
    }
    const RULES: &[Rule] = &[
        |it| is_shared(it).then(|| answer(403, "Permission denied"))?,
        |it| is_shared(it).then(|| answer(500, "rpc error"))?,
        |it| is_shared(it).then(|| answer(200, "<html>"))?,
        // After any refusal each waiter looks for itself.
        |it| (is_look(it) || is_shared(it)).then(|| answer(404, "404 page not found"))?,
        |it| is_look(it).then(|| answer(429, "Too many requests"))?,
        |it| is_look(it).then(|| answer(CLOSED, ""))?,
    ];
    let many = Waiting::for_keys(&keys(120), 64);
    many.counting.answer_by(Some(RULES[RULES.len() - 1]));
    many.world.clock.advance(SECOND * 10);
    many.counting.take();
    many.world.clock.advance(SECOND * 10);
    let sent: usize = many.counting.take().values().sum();
    assert!(sent < 10 * 300, "{sent} requests in 10 s");
    let released = many.release(100);
    many.world.clock.advance(SECOND * 3);
    assert!(many.acquired_at(100).is_some_and(|at| at - released <= SECOND * 2));
    for (place, rule) in RULES.iter().enumerate() {
        let waiting = Waiting::for_keys(&keys(10), 2);
        waiting.counting.answer_by(Some(*rule));
        waiting.world.clock.advance(SECOND * 10);
        waiting.counting.take();
        waiting.world.clock.advance(SECOND * 10);
        let sent: usize = waiting.counting.take().values().sum();
        assert!(sent < 10 * 10 * 20, "{place}: {sent} requests in 10 s");
        for number in [2, 9] {
            let released = waiting.release(number);
            waiting.world.clock.advance(SECOND);
            let at = waiting.acquired_at(number).unwrap_or_else(|| panic!("{place}"));
            assert!(at - released <= SECOND / 2, "{place}: {:?}", at - released);
        }
    }
}

fn has_writes(request: &Request<Bytes>) -> bool {
    String::from_utf8_lossy(request.body()).contains("lock\"")
}

fn a_lock_delay_costs_few_requests_and_is_over_on_time() {
    let profiles = [Profile::fast(), Profile::standard(), Profile::wan()];
    for holder_profile in &profiles {
        for profile in &profiles {
            for is_permit in [false, true] {
                delay(holder_profile, profile, is_permit);
            }
        }
    }
}

fn delay(holder_profile: &Profile, profile: &Profile, is_permit: bool) {
    let what = format!("{} after {}, {is_permit}", profile.name, holder_profile.name);
    let world = Simulated::new();
    let holder = world.process_with(holder_profile.clone());
    let claim = async |process| match is_permit {
        true => permit(process, "permits", Wait::Forever).await,
        false => acquire(process, "many/1", Wait::Forever).await,
    };
    let lease = world.run(claim(&holder)).expect("it is free");
    world.keep(&lease);
    let (waiter, counting) = counted(&world, profile.clone(), 64);
    let ends = async {
        world.clock.sleep(SECOND).await;
        counting.take();
        let session = Args::new().arg(lease.session());
        call(holder.client(), "session_destroy", session).await;
        world.clock.now()
    };
    let (next, ended) = world.run(async {
        let waits = async {
            let next = claim(&waiter).await.expect("it becomes free");
            (next, world.clock.now())
        };
        tokio::join!(waits, ends)
    });
    let delay = holder_profile.lock_delay;
    let took = next.1 - ended;
    let late = if holder_profile == profile { 10 } else { 300 };
    assert!((delay..=delay + Duration::from_millis(late)).contains(&took), "{what}: {took:?}");
    let sent = counting.take();
    let sent: usize =
        ["PUT /v1/txn", "GET /v1/kv"].map(|it| sent.get(it).copied().unwrap_or(0)).iter().sum();
    let most = if is_permit { 24.0 } else { 12.0 } * delay.as_secs_f64() + 16.0;
    assert!((sent as f64) < most, "{what}: {sent} requests in {delay:?}");
}

/// The round trips of a takeover: one of the last beat, which may have just arrived, and two of the waiter.
const ROUND_TRIPS: u32 = 3;

/// A process dies at each moment of a beat, with a latency.
fn a_takeover_takes_the_round_trips_of_its_requests_more() {
    for profile in [Profile::fast(), Profile::standard(), Profile::wan()] {
        for latency in [0, 5, 50, 150].map(Duration::from_millis) {
            for is_permit in [false, true] {
                let took = [0, 20, 40, 60, 80].map(|part| {
                    takeover_takes(&profile, latency, is_permit, profile.beat * part / 100)
                });
                let longest = took.into_iter().max().unwrap_or_default();
                let limit = profile.takeover() + latency * ROUND_TRIPS + Duration::from_millis(10);
                let what = format!("{}, {latency:?}, {is_permit}", profile.name);
                assert!(longest <= limit, "{what}: {longest:?} of {limit:?}");
            }
        }
    }
}

fn takeover_takes(
    profile: &Profile,
    latency: Duration,
    is_permit: bool,
    after: Duration,
) -> Duration {
    let world = Simulated::new();
    let agent = Arc::clone(&world.agent);
    world.clock.spawn(async move { match agent.run_timers().await {} });
    world.agent.add_fault(Fault { latency, ..Fault::default() });
    let transport = SimTransport::new(Arc::clone(&world.agent), "simulated");
    let (clock, rng) = (Arc::new(world.clock.clone()), fastrand::Rng::with_seed(3));
    let client = Client::new(vec![Arc::new(transport)], settings(None), clock, rng);
    let (holder, waiter) = (present(client, profile.clone()), world.process_with(profile.clone()));
    let running = Arc::clone(&holder);
    let life = world.clock.spawn(async move { match running.run().await {} });
    let claim = async |process| match is_permit {
        true => permit(process, "permits", Wait::Forever).await,
        false => acquire(process, "many/1", Wait::Forever).await,
    };
    let lease = world.run(claim(&holder)).expect("it is free");
    let kept = Arc::clone(&lease);
    let keeps = world.clock.spawn(async move { drop(kept.keep().await) });
    let dies = async {
        world.clock.sleep(SECOND * 5 + after).await;
        world.clock.cancel(keeps);
        world.clock.cancel(life);
        world.clock.now()
    };
    let waits = async {
        let next = claim(&waiter).await.expect("it becomes free");
        (next, world.clock.now())
    };
    let (died, (_next, at)) = world.run(async { tokio::join!(dies, waits) });
    at - died
}
