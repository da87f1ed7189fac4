//! Requests for some keys, or of some kinds, get no answer: those for others go on as if there were none of these.

use super::many::{Counting, Rule, SILENT, acquire, answer, counted, events, hold, permit};
use super::on_a_clock::Simulated;
use super::{call, settings};
use crate::support::trials::{Trials, add};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::value::Value;
use consul_client::Client;
use consul_client::coordination::{Lease, Presence, Profile, Service, Wait};
use consul_client::transport::Transport;
use consul_process::clock::{BoxFuture, Clock};
use consul_sim::{Fault, SimTransport};
use futures_util::future::join_all;
use http::{Request, Response};
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

pub fn add_to(trials: &mut Trials) {
    add!(trials, contenders_without_answers_hold_up_no_other_lock);
    add!(trials, releases_without_answers_hold_up_no_other_lock);
    add!(trials, a_refused_ttl_of_sessions_ends_the_wait_and_names_its_option);
    add!(trials, an_attempt_that_has_sent_nothing_that_could_take_says_so);
    add!(trials, a_request_without_an_answer_is_repeated_and_a_slow_consul_has_its_time);
    add!(trials, slow_servers_behind_a_quick_agent_have_their_time);
    add!(trials, many_locks_and_waiters_go_on_after_a_silence_of_consul, long);
}

const SECOND: Duration = Duration::from_secs(1);

fn is(request: &Request<Bytes>, method: &str, path: &str) -> bool {
    request.method().as_str() == method && request.uri().path().starts_with(path)
}

fn has(request: &Request<Bytes>, what: &str) -> bool {
    String::from_utf8_lossy(request.body()).contains(what)
}

/// The requests of a contender for a key below `slow`, by name.
const OF_CONTENDERS: &[(&str, Rule)] = &[
    ("reads", |it| is(it, "GET", "/v1/kv/slow").then(|| answer(SILENT, ""))?),
    ("sessions", |it| {
        (is(it, "PUT", "/v1/session/create") && has(it, "slow/")).then(|| answer(SILENT, ""))?
    }),
    ("contenders' keys", |it| is(it, "PUT", "/v1/kv/slow").then(|| answer(SILENT, ""))?),
    ("takes", |it| (is(it, "PUT", "/v1/txn") && has(it, "slow/")).then(|| answer(SILENT, ""))?),
];

fn process(world: &Simulated) -> (Arc<Presence>, Arc<Counting>) {
    counted(world, Profile::standard(), 64)
}

fn slow(process: &Arc<Presence>, world: &Simulated, number: usize, is_permit: bool) {
    let (process, key) = (Arc::clone(process), format!("slow/{number}"));
    world.clock.spawn(async move {
        let lease = match is_permit {
            true => permit(&process, &key, Wait::Forever).await,
            false => acquire(&process, &key, Wait::Forever).await,
        };
        drop(lease);
    });
}

fn held(world: &Simulated, process: &Arc<Presence>) -> Vec<Arc<Lease>> {
    let keys: Vec<String> = (0..5).map(|number| format!("held/{number}")).collect();
    hold(world, process, &keys)
}

fn contenders_without_answers_hold_up_no_other_lock() {
    for (name, rule) in OF_CONTENDERS {
        for is_permit in [false, true] {
            let what = format!("{name}, {is_permit}");
            let world = Simulated::new();
            let (process, counting) = process(&world);
            let held = held(&world, &process);
            world.clock.advance(SECOND);
            counting.answer_by(Some(*rule));
            (0..120).for_each(|number| slow(&process, &world, number, is_permit));
            for number in 0..12 {
                world.clock.advance(SECOND * 4);
                let free = world.run(acquire(&process, &format!("free/{number}"), Wait::Once));
                let free = free.unwrap_or_else(|error| panic!("{what}, {number}: {error}"));
                world.run(free.release()).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            for lease in &held {
                let events = events(lease);
                assert!(lease.is_held() && events.is_empty(), "{what}: {events:?}");
            }
        }
    }
}

fn releases_without_answers_hold_up_no_other_lock() {
    for (count, is_dropped) in [(20, true), (100, true), (100, false)] {
        let world = Simulated::new();
        let (process, counting) = process(&world);
        let kept = held(&world, &process);
        let keys: Vec<String> = (0..count).map(|number| format!("slow/{number}")).collect();
        let slow = hold(&world, &process, &keys);
        let one = hold(&world, &process, &["one".to_owned()]);
        counting.answer_by(Some(|it| {
            (is(it, "PUT", "/v1/txn") && has(it, "unlock") && has(it, "slow/"))
                .then(|| answer(SILENT, ""))?
        }));
        let waiter = world.process();
        world.run(waiter.registered()).expect("it is registered");
        for lease in slow.into_iter().chain(one) {
            match is_dropped {
                true => lease.give_up(),
                false => {
                    world.clock.spawn(async move { drop(lease.release().await) });
                }
            }
        }
        let (before, limit) = (world.clock.now(), process.profile().takeover());
        let next = world.run(acquire(&waiter, "one", Wait::For(SECOND * 60))).expect("it is free");
        let took = world.clock.now() - before;
        assert!(next.is_held() && took <= limit, "{count}, {is_dropped}: {took:?}");
        world.clock.advance(SECOND * 30);
        assert!(kept.iter().all(|lease| lease.is_held() && events(lease).is_empty()));
        counting.answer_by(None);
        world.clock.advance(limit);
        for key in [0, count - 1] {
            let next = world.run(acquire(&waiter, &format!("slow/{key}"), Wait::Once));
            assert!(next.is_ok(), "{count}, {is_dropped}: {next:?}");
        }
    }
}

/// The aims that an error may name for the wait of an attempt, by the requests that have no answer.
const WAITED: &[(&str, &str)] = &[
    ("reads", "Consul has not answered a read"),
    ("sessions", "Consul has not answered the request for a session"),
    ("contenders' keys", "Consul has not answered the request for its key"),
    ("takes", "Consul has not answered the transaction that takes it"),
    ("takes", "Consul has not answered a read"),
];

fn an_attempt_that_has_sent_nothing_that_could_take_says_so() {
    for (name, rule) in OF_CONTENDERS {
        for is_permit in [false, true] {
            for wait in [Wait::Once, Wait::For(SECOND * 2), Wait::For(SECOND * 20)] {
                let world = Simulated::new();
                let (process, counting) = process(&world);
                counting.answer_by(Some(*rule));
                let outcome = world.run(async {
                    match is_permit {
                        true => permit(&process, "slow/1", wait).await,
                        false => acquire(&process, "slow/1", wait).await,
                    }
                });
                let what = format!("{name}, {is_permit}, {wait:?}");
                match outcome {
                    // A lock has no contender's key.
                    Ok(lease) => assert!(*name == "contenders' keys" && lease.is_held(), "{what}"),
                    Err(error) => {
                        let is_taken = *name == "takes";
                        assert_eq!(error.maybe_applied(), is_taken, "{what}: {error}");
                        let ends_wait = error.message().contains("not acquired within");
                        if ends_wait && !error.message().contains("last: ") {
                            let waited = WAITED
                                .iter()
                                .any(|(of, why)| of == name && error.message().contains(why));
                            assert!(waited, "{what}: {error}");
                        }
                    }
                }
            }
        }
    }
    // Another process holds it all the time.
    let world = Simulated::new();
    let (holder, (process, _)) = (world.process(), process(&world));
    let _held = hold(&world, &holder, &["slow/1".to_owned()]);
    let error = world.run(acquire(&process, "slow/1", Wait::For(SECOND * 2))).expect_err("held");
    assert_eq!((error.kind(), error.maybe_applied()), (Kind::Timeout, false), "{error}");
}

fn a_refused_ttl_of_sessions_ends_the_wait_and_names_its_option() {
    const REFUSALS: [Rule; 2] = [
        |it| is(it, "PUT", "/v1/session/create").then(|| answer(400, TTL_REFUSED))?,
        // Consul 1.8
        |it| is(it, "PUT", "/v1/session/create").then(|| answer(500, TTL_REFUSED))?,
    ];
    const TTL_REFUSED: &str = "Invalid Session TTL '10000000000', must be between [30s=24h0m0s]";
    for refusal in REFUSALS {
        for wait in [Wait::Once, Wait::For(SECOND * 60), Wait::Forever] {
            let world = Simulated::new();
            let (process, counting) = process(&world);
            counting.answer_by(Some(refusal));
            let before = world.clock.now();
            for refused in [
                world.run(acquire(&process, "k", wait)),
                world.run(permit(&process, "permits", wait)),
            ] {
                let error = refused.expect_err("there is no session");
                assert_eq!((error.kind(), error.maybe_applied()), (Kind::Config, false), "{error}");
                assert!(error.message().contains("session_ttl_s"), "{error}");
            }
            assert!(world.clock.now() - before < SECOND);
        }
    }
}

/// A client that repeats requests, as the clients of a node do.
fn a_request_without_an_answer_is_repeated_and_a_slow_consul_has_its_time() {
    let ms = Duration::from_millis;
    let client = |world: &Simulated| {
        let transport = SimTransport::new(Arc::clone(&world.agent), "simulated");
        let (clock, rng) = (Arc::new(world.clock.clone()), fastrand::Rng::with_seed(1));
        let client = Client::new(vec![Arc::new(transport)], settings(None), clock, rng);
        client.repeat_after(SECOND);
        client
    };
    let key = Args::new().arg("other");
    for lasts in [100, 900, 1100, 2500, 3900].map(ms) {
        let (world, key) = (Simulated::new(), &key);
        let client = client(&world);
        world.agent.add_fault(Fault { partition: true, ..Fault::default() });
        let (answer, ()) = world.run(async {
            tokio::join!(client.call(&consul_api::api::kv::GET, key), async {
                world.clock.sleep(lasts).await;
                world.agent.clear_faults();
            })
        });
        let took = world.clock.now().since_origin();
        answer.unwrap_or_else(|error| panic!("{lasts:?}: {error}"));
        assert!(took <= lasts + SECOND, "{lasts:?}: {took:?}");
    }
    for latency in [200, 900, 1100, 2500, 4500].map(ms) {
        let world = Simulated::new();
        let client = client(&world);
        world.agent.add_fault(Fault { latency, ..Fault::default() });
        let call = || world.run(client.call(&consul_api::api::kv::GET, &key));
        let failed = (0..9).take_while(|_| call().is_err()).count();
        assert!(failed <= 2, "{latency:?}: {failed} calls");
        assert!((0..5).all(|_| call().is_ok()), "{latency:?}");
    }
}

/// An agent that answers what it knows itself at once, and has what it asks servers by another way.
#[derive(Debug)]
struct Agent {
    itself: SimTransport,
    servers: SimTransport,
    asked: AtomicU64,
}

impl Transport for Agent {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        if request.uri().path().starts_with("/v1/agent/") {
            return self.itself.send(request);
        }
        self.asked.fetch_add(1, Relaxed);
        self.servers.send(request)
    }

    fn endpoint(&self) -> &str {
        self.itself.endpoint()
    }
}

/// The beats of a node, for one, are answered at once.
fn slow_servers_behind_a_quick_agent_have_their_time() {
    for ms in [200, 900, 1100, 1900, 2500, 4500] {
        let world = Simulated::new();
        let latency = Duration::from_millis(ms);
        let transport =
            |name: &str| SimTransport::new(Arc::clone(&world.agent), name).for_client(name);
        let (itself, servers) = (transport("itself"), transport("servers"));
        let agent = Arc::new(Agent { itself, servers, asked: AtomicU64::default() });
        world.agent.add_fault(Fault {
            clients: vec!["servers".into()],
            latency,
            ..Fault::default()
        });
        let (clock, rng) = (Arc::new(world.clock.clone()), fastrand::Rng::with_seed(1));
        let client =
            Arc::new(Client::new(vec![Arc::clone(&agent) as _], settings(None), clock, rng));
        client.repeat_after(SECOND);
        let (beating, clock) = (Arc::clone(&client), world.clock.clone());
        world.clock.spawn(async move {
            loop {
                call(&beating, "agent_self", Args::new()).await;
                clock.sleep(SECOND / 2).await;
            }
        });
        let key = Args::new().arg("other");
        let call = || world.run(client.call(&consul_api::api::kv::GET, &key));
        let failed = (0..9).take_while(|_| call().is_err()).count();
        assert!(failed <= 1, "{latency:?}: {failed} calls");
        agent.asked.store(0, Relaxed);
        let failed = (0..50).filter(|_| call().is_err()).count();
        assert_eq!((failed, agent.asked.load(Relaxed)), (0, 50), "{latency:?}");
    }
}

/// The fate of requests and answers while Consul is silent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Silence {
    None,
    /// They are lost without a sign, and Consul's servers go on.
    BlackHole,
    /// Consul is stopped, and answers them when it goes on.
    Stopped,
}

/// The connections of a client, as many as it has by default.
#[derive(Debug)]
struct Connections {
    transport: SimTransport,
    places: Semaphore,
    silence: watch::Sender<Silence>,
}

const CONNECTIONS: usize = 64;

impl Connections {
    async fn pass(&self) {
        let mut silence = self.silence.subscribe();
        let now = *silence.borrow();
        match now {
            Silence::None => {}
            Silence::BlackHole => std::future::pending().await,
            // The sender lives as long as `self`.
            Silence::Stopped => drop(silence.wait_for(|it| *it == Silence::None).await),
        }
    }
}

impl Transport for Connections {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            let _place = self.places.acquire().await;
            self.pass().await;
            let answer = self.transport.send(request).await;
            self.pass().await;
            answer
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }

    fn max_in_flight(&self) -> usize {
        CONNECTIONS
    }
}

/// A process with connections for its blocking queries and others.
fn connected(world: &Simulated, seed: u64) -> (Arc<Presence>, [Arc<Connections>; 2]) {
    let connections = [(); 2].map(|()| {
        let transport = SimTransport::new(Arc::clone(&world.agent), "simulated");
        let places = Semaphore::new(CONNECTIONS);
        Arc::new(Connections { transport, places, silence: watch::Sender::new(Silence::None) })
    });
    let [client, waiting] = connections.clone().map(|it| {
        let (clock, rng) = (Arc::new(world.clock.clone()), fastrand::Rng::with_seed(seed));
        Arc::new(Client::new(vec![it as _], settings(None), clock, rng))
    });
    let service = Service::for_process(&client);
    let process = Presence::new(client, waiting, Profile::standard(), service);
    (world.running(process), connections)
}

const HELD: usize = 1000;
const WAITED_FOR: usize = 400;

/// A process holds many locks, and another one waits for some of them.
fn many_locks_and_waiters_go_on_after_a_silence_of_consul() {
    for silence in [Silence::BlackHole, Silence::Stopped] {
        for lasts in [1, 5, 30] {
            goes_on_after(silence, SECOND * lasts);
        }
    }
}

fn goes_on_after(silence: Silence, lasts: Duration) {
    let what = format!("{silence:?} for {lasts:?}");
    let world = Simulated::new();
    let latency = Duration::from_millis(1);
    world.agent.add_fault(Fault { latency, ..Fault::default() });
    let run_timers = || {
        let agent = Arc::clone(&world.agent);
        world.clock.spawn(async move { match agent.run_timers().await {} })
    };
    let timers = run_timers();
    let ((holder, lines), (waiter, more)) = (connected(&world, 1), connected(&world, 2));
    let lines: Vec<_> = lines.into_iter().chain(more).collect();
    let keys: Vec<String> = (0..HELD).map(|number| format!("many/{number}")).collect();
    let leases = hold(&world, &holder, &keys);
    let acquired: Arc<Mutex<Vec<Arc<Lease>>>> = Arc::default();
    for key in keys.iter().take(WAITED_FOR) {
        let (waiter, acquired, key) = (Arc::clone(&waiter), Arc::clone(&acquired), key.clone());
        world.clock.spawn(async move {
            let lease = acquire(&waiter, &key, Wait::Forever).await.expect("it becomes free");
            acquired.lock().expect("no panic").push(Arc::clone(&lease));
            drop(lease.keep().await);
        });
    }
    world.clock.advance(SECOND * 3);
    let observer = world.process();
    // Nobody acts under a lock that another session has.
    let look = || {
        let list = call(observer.client(), "kv_list", Args::new().arg("many/"));
        let list = world.run(list);
        let session = |it: &Value| it.get("Session").and_then(Value::as_str).map(str::to_owned);
        let entries = list.items().iter();
        let entries: HashMap<String, _> = entries
            .map(|it| {
                (it.get("Key").and_then(Value::as_str).expect("a key").to_owned(), session(it))
            })
            .collect();
        let acquired = acquired.lock().expect("no panic");
        for lease in leases.iter().chain(&*acquired).filter(|lease| lease.is_held()) {
            let has = entries[lease.key()].as_deref();
            assert!(has.is_none_or(|has| has == lease.session()), "{what}: {}", lease.key());
        }
    };
    let is_silent = |silence| lines.iter().for_each(|line| _ = line.silence.send_replace(silence));
    is_silent(silence);
    if silence == Silence::Stopped {
        world.clock.cancel(timers);
    }
    let (asked, client) = (Arc::new(Mutex::new(None)), Arc::clone(&holder));
    let (answered, clock) = (Arc::clone(&asked), world.clock.clone());
    let begun = world.clock.now();
    world.clock.spawn(async move {
        drop(client.client().call(&consul_api::api::kv::GET, &Args::new().arg("other")).await);
        *answered.lock().expect("no panic") = Some(clock.now() - begun);
    });
    while world.clock.now() - begun < lasts {
        world.clock.advance(Duration::from_millis(250));
        look();
    }
    is_silent(Silence::None);
    if silence == Silence::Stopped {
        run_timers();
    }
    let after = world.clock.now();
    world.run(call(holder.client(), "kv_get", Args::new().arg("other")));
    let took = world.clock.now() - after;
    assert!(took <= SECOND / 10, "{what}: a call of the client takes {took:?}");
    while world.clock.now() - after < holder.profile().takeover() {
        world.clock.advance(Duration::from_millis(50));
        look();
    }
    let took = asked.lock().expect("no panic").expect("its time limit is over");
    assert!(took <= holder.client().settings().timeout, "{what}: {took:?}");
    if lasts <= SECOND {
        let kept = leases.iter().filter(|lease| lease.is_held() && events(lease).is_empty());
        assert_eq!(kept.count(), HELD, "{what}");
        return;
    }
    let lost = leases.iter().filter(|lease| lease.has_ended()).count();
    assert!(leases.iter().all(|lease| lease.has_ended() || lease.is_held()), "{what}: {lost} lost");
    let next = acquired.lock().expect("no panic").iter().filter(|lease| lease.is_held()).count();
    let released = leases.iter().take(WAITED_FOR).filter(|lease| lease.has_ended()).count();
    assert_eq!(next, released, "{what}");
    let again = leases.iter().skip(WAITED_FOR).filter(|lease| lease.has_ended());
    let again = again.map(|lease| acquire(&holder, lease.key(), Wait::Once));
    let again = world.run(join_all(again));
    assert!(again.iter().all(Result::is_ok), "{what}: {:?}", again.iter().find(|it| it.is_err()));
}
