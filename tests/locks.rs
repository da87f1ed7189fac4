//! Locks and semaphores as a program in Rust has them: on the simulated agent and a clock that the test
//! moves, then on consul-sim and real Consuls behind a bad network, with agents that stall, answer 500
//! or start again. Histories by chance are in `simulation`, the Lua side in `spec`.

#[allow(dead_code)]
#[path = "support/cluster.rs"]
mod cluster;
#[allow(dead_code)]
#[path = "support/consul.rs"]
mod consul;
#[allow(dead_code)]
#[path = "support/proxy.rs"]
mod proxy;

use bytes::Bytes;
use cluster::Cluster;
use consul::RealConsul;
use consul_ffi::client::coordination::lock::{self, LockOptions};
use consul_ffi::client::coordination::semaphore::{self, SemaphoreOptions};
use consul_ffi::client::coordination::{Event, Lease, Presence, Profile, Service, Wait};
use consul_ffi::client::{Client, Settings};
use consul_ffi::clock::{BoxFuture, Clock, Instant, ManualClock, SystemClock};
use consul_ffi::error::{Error, Kind};
use consul_ffi::simulate::{self, Agent, SimTransport};
use consul_ffi::transport::http::HttpTransport;
use consul_ffi::transport::{Options, Transport};
use consul_ffi::wire;
use consul_ffi::wire::request::{Args, Defaults};
use consul_ffi::wire::value::Value;
use http::{Request, Response};
use libtest_mimic::{Arguments, Failed, Trial};
use proxy::{Network, Proxy};
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

const KEY: &str = "locks/tested";

/// What a loaded machine may take longer.
const SLACK: Duration = Duration::from_millis(500);

const VERSIONS: [&str; 2] = ["1.21", "1.8"];

type OnClock = fn(&Simulated);
type OnSocket = fn(&Runtime, &RealConsul);
type OnCluster = fn(&Runtime, &mut Cluster);

const ON_A_CLOCK: &[(&str, OnClock)] = &[
    ("after_a_suspension_of_the_machine_it_is_not_held_at_once", suspended_machine),
    ("a_fenced_put_is_written_only_by_the_holder", fenced_put),
    ("who_withdraws_is_no_service_and_has_no_session_any_more", withdrawn),
    ("a_missing_permission_ends_the_wait", missing_permission),
    ("a_semaphore_has_as_many_holders_as_permits", permits),
    ("a_dead_holders_permit_is_given_away_after_the_lock_delay", dead_holders_permit),
    ("a_waiting_program_sends_little", waiting_sends_little),
];

const ON_SOCKETS: &[(&str, OnSocket)] = &[
    ("contenders_hold_one_after_the_other_with_growing_tokens", contenders),
    ("holders_of_a_semaphore_are_never_too_many", many_permits),
    ("behind_a_black_hole_the_end_comes_at_the_deadline", black_hole),
    ("errors_are_borne_for_a_lease_and_by_who_waits", errors),
];

const ON_CLUSTERS: &[(&str, OnCluster)] = &[
    ("a_stall_of_the_agent_for_two_seconds_loses_nothing", stalled),
    ("a_restart_of_the_agent_is_survived_or_announced", restarted),
];

fn main() {
    let mut trials: Vec<_> = ON_A_CLOCK
        .iter()
        .map(|(name, run)| {
            Trial::test(*name, || {
                run(&Simulated::new());
                Ok(())
            })
        })
        .collect();
    let program = env!("CARGO_BIN_EXE_consul-sim");
    let mut on_target = |target: &'static str, missing: bool, start: fn(&str) -> Started| {
        for (name, run) in ON_SOCKETS {
            let trial = Trial::test(format!("{name} [{target}]"), move || {
                run(&runtime(), &start(target)?);
                Ok(())
            });
            trials.push(trial.with_ignored_flag(missing));
        }
    };
    on_target("consul-sim", false, |_| RealConsul::start_program(env!("CARGO_BIN_EXE_consul-sim")));
    let missing =
        VERSIONS.map(|version| consul::is_missing(version, &format!("locks on Consul {version}")));
    for (version, missing) in VERSIONS.into_iter().zip(missing) {
        on_target(version, missing, RealConsul::start);
    }
    for (version, missing) in VERSIONS.into_iter().zip(missing) {
        for (name, run) in ON_CLUSTERS {
            let trial = Trial::test(format!("{name} [{version}]"), move || {
                run(&runtime(), &mut Cluster::start(1, version)?);
                Ok(())
            });
            trials.push(trial.with_ignored_flag(missing));
        }
    }
    let name = "the_acl_of_the_documentation_keeps_others_from_a_locks_key";
    trials.push(Trial::test(format!("{name} [consul-sim]"), move || {
        acl(&runtime(), &RealConsul::start_program_with_acl(program, "deny")?);
        Ok(())
    }));
    for (version, missing) in VERSIONS.into_iter().zip(missing) {
        let trial = Trial::test(format!("{name} [{version}]"), move || -> Result<(), Failed> {
            acl(&runtime(), &RealConsul::start_with_acl(version, "deny")?);
            Ok(())
        });
        trials.push(trial.with_ignored_flag(missing));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

type Started = Result<RealConsul, String>;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn settings(token: Option<&str>) -> Settings {
    let defaults = Defaults { token: token.map(str::to_owned), ..Defaults::default() };
    Settings { timeout: Duration::from_secs(5), retry_count: 3, defaults }
}

fn present(client: Client, profile: Profile) -> Arc<Presence> {
    let client = Arc::new(client);
    let service = Service::of_a_process(&client);
    Presence::new(Arc::clone(&client), client, profile, service)
}

async fn acquire(presence: &Arc<Presence>, wait: Wait) -> Result<Arc<Lease>, Error> {
    lock::acquire(presence, KEY, &LockOptions { value: None, wait }).await
}

async fn permit(presence: &Arc<Presence>, limit: u64, wait: Wait) -> Result<Arc<Lease>, Error> {
    let options = SemaphoreOptions { limit, value: Vec::new(), wait };
    semaphore::acquire(presence, "permits", &options).await
}

async fn call(client: &Client, method: &str, args: Args) -> Value {
    let endpoint = wire::endpoint(method).expect("a method");
    client.call(endpoint, &args).await.unwrap_or_else(|error| panic!("{method}: {error}")).value
}

/// A simulated agent on a clock that the test moves.
struct Simulated {
    clock: ManualClock,
    agent: Arc<Agent>,
    processes: AtomicU64,
}

impl Simulated {
    fn new() -> Self {
        Self::with(simulate::Options::default())
    }

    fn with(options: simulate::Options) -> Self {
        let clock = ManualClock::new();
        let options = simulate::Options { clock: Arc::new(clock.clone()), seed: 1, ..options };
        let (agent, processes) = (Arc::new(Agent::new(options)), AtomicU64::new(0));
        Self { clock, agent, processes }
    }

    fn run<R>(&self, work: impl Future<Output = R>) -> R {
        runtime().block_on(self.clock.drive(work))
    }

    fn client(&self, clock: Arc<dyn Clock>) -> Client {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        let transport = SimTransport::new(Arc::clone(&self.agent), "simulated");
        let transport = transport.for_client(number.to_string());
        let rng = fastrand::Rng::with_seed(number);
        Client::new(vec![Arc::new(transport)], settings(None), clock, rng)
    }

    /// A process; the first is the client `0` of the agent's faults.
    fn process(&self) -> Arc<Presence> {
        self.process_on(Arc::new(self.clock.clone()))
    }

    fn process_on(&self, clock: Arc<dyn Clock>) -> Arc<Presence> {
        let presence = present(self.client(clock), Profile::standard());
        let running = Arc::clone(&presence);
        self.clock.spawn(async move { match running.run().await {} });
        presence
    }

    fn keep(&self, lease: &Arc<Lease>) {
        let lease = Arc::clone(lease);
        self.clock.spawn(async move { drop(lease.keep().await) });
    }

    fn cut_off(&self, process: &str) {
        let clients = vec![process.to_owned()];
        let fault = simulate::Fault { clients, partition: true, ..simulate::Fault::default() };
        self.agent.add_fault(fault);
    }
}

/// A clock that goes on while the machine is suspended, which its timers do not.
#[derive(Debug, Default)]
struct Suspended {
    awake: ManualClock,
    slept_ms: AtomicU64,
}

impl Suspended {
    fn slept(&self) -> Duration {
        Duration::from_millis(self.slept_ms.load(Ordering::Relaxed))
    }
}

impl Clock for Suspended {
    fn now(&self) -> Instant {
        self.awake.now() + self.slept()
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        // What is left when the sleep begins passes while the machine is awake.
        self.awake.sleep(deadline - self.now())
    }
}

fn suspended_machine(world: &Simulated) {
    let clock = Arc::new(Suspended { awake: world.clock.clone(), slept_ms: AtomicU64::new(0) });
    let process = world.process_on(Arc::clone(&clock) as Arc<dyn Clock>);
    let lease = world.run(acquire(&process, Wait::Forever)).expect("it is free");
    world.keep(&lease);
    world.clock.advance(Duration::from_secs(10));
    assert!(lease.is_held() && lease.poll_event().is_none());
    // The servers are elsewhere and took it away meanwhile.
    world.cut_off("0");
    clock.slept_ms.store(3_600_000, Ordering::Relaxed);
    // Nothing has run yet.
    assert!(!lease.is_held());
    assert_eq!(lease.remaining(), Duration::ZERO);
    assert_eq!(lease.poll_event(), None);
    world.clock.advance(process.profile().proof_interval());
    assert_eq!(lease.poll_event(), Some(Event::Suspended));
}

fn fenced_put(world: &Simulated) {
    let (one, two) = (world.process(), world.process());
    world.run(async {
        let read = async || {
            let args = Args::new().arg("data");
            let answer = one.client().call(&wire::kv::GET, &args).await.expect("an answer");
            (answer.value, answer.meta.entry.map(|entry| entry.modify_index))
        };
        let lease = acquire(&one, Wait::Forever).await.expect("it is free");
        let index = lease.fenced_put("data", b"1".to_vec()).await.expect("it is held");
        assert_eq!(read().await, ("1".into(), Some(index)));
        let error = lease.fenced_put(KEY, b"x".to_vec()).await.expect_err("its own key");
        assert_eq!(error.kind(), Kind::Argument, "{error}");
        // Consul itself refuses it when the session is over, whatever the holder believes.
        call(two.client(), "session_destroy", Args::new().arg(lease.session())).await;
        assert!(lease.is_held());
        let error = lease.fenced_put("data", b"2".to_vec()).await.expect_err("it is lost");
        assert_eq!((error.kind(), error.maybe_applied()), (Kind::Conflict, false), "{error}");
        assert_eq!(read().await, ("1".into(), Some(index)));
        // Nothing is sent once it is not held.
        let before = world.agent.stats().requests;
        world.clock.sleep(one.profile().lease).await;
        let error = lease.fenced_put("data", b"2".to_vec()).await.expect_err("it is suspended");
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        assert!(world.agent.stats().requests - before < 10, "only beats");
        drop(lease);
        let lease = acquire(&two, Wait::Forever).await.expect("it is free again");
        lease.release().await.expect("it is held");
        let error = lease.fenced_put("data", b"3".to_vec()).await.expect_err("it was released");
        assert_eq!((error.kind(), error.maybe_applied()), (Kind::Conflict, false), "{error}");
        assert_eq!(read().await.0, "1".into());
    });
}

fn withdrawn(world: &Simulated) {
    let process = present(world.client(Arc::new(world.clock.clone())), Profile::standard());
    world.run(process.withdraw()).expect("there is nothing to withdraw");
    let running = Arc::clone(&process);
    let beats = world.clock.spawn(async move { match running.run().await {} });
    world.run(async {
        let lease = acquire(&process, Wait::Forever).await.expect("it is free");
        let services = call(process.client(), "agent_services", Args::new()).await;
        assert!(format!("{services:?}").contains("consul_ffi-"), "{services:?}");
        world.clock.cancel(beats);
        process.withdraw().await.expect("the agent answers");
        let services = call(process.client(), "agent_services", Args::new()).await;
        assert!(!format!("{services:?}").contains("consul_ffi-"), "{services:?}");
        let session = Args::new().arg(lease.session());
        assert_eq!(call(process.client(), "session_info", session).await, Value::Null);
    });
}

fn missing_permission(_: &Simulated) {
    use consul_ffi::simulate::acl::{Acl, DefaultPolicy, Secret};
    let acl = Acl {
        enabled: true,
        default_policy: DefaultPolicy::Deny,
        initial_management: Some(Secret::new("6a1253d2-1785-24fd-91c2-f8e78c745511")),
        ..Acl::default()
    };
    let world = Simulated::with(simulate::Options { acl, ..simulate::Options::default() });
    let process = world.process();
    let error = world.run(acquire(&process, Wait::Forever)).expect_err("no permission");
    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
    assert!(world.clock.now().since_origin() < Duration::from_secs(1));
}

fn permits(world: &Simulated) {
    let processes: Vec<_> = (0..4).map(|_| world.process()).collect();
    world.run(async {
        let one = permit(&processes[0], 2, Wait::Forever).await.expect("a permit is free");
        let two = permit(&processes[1], 2, Wait::Forever).await.expect("a permit is free");
        world.keep(&one);
        world.keep(&two);
        assert!(two.token() > one.token());
        let error = permit(&processes[2], 2, Wait::Once).await.expect_err("none is free");
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        let error = permit(&processes[2], 3, Wait::Forever).await.expect_err("another limit");
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        let error = permit(&processes[0], 2, Wait::Forever).await.expect_err("it has one");
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        let limit = Wait::For(Duration::from_secs(2));
        let error = permit(&processes[2], 2, limit).await.expect_err("none becomes free");
        assert_eq!(error.kind(), Kind::Timeout, "{error}");
        // Neither a key nor a session is left of the three that failed.
        let keys = call(processes[3].client(), "kv_keys", Args::new().arg("permits/")).await;
        assert_eq!(keys.items().len(), 3, "{keys:?}");
        assert_eq!(world.agent.stats().sessions, 2);
        one.release().await.expect("it is held");
        let three = permit(&processes[2], 2, Wait::Once).await.expect("one is free again");
        assert!(three.token() > two.token());
        two.fenced_put("data", b"1".to_vec()).await.expect("it holds a permit");
        let own = format!("permits/{}", two.session());
        let error = two.fenced_put(&own, Vec::new()).await.expect_err("its own key");
        assert_eq!(error.kind(), Kind::Argument, "{error}");
    });
}

fn dead_holders_permit(world: &Simulated) {
    let (one, two) = (world.process(), world.process());
    let lease = world.run(permit(&one, 1, Wait::Forever)).expect("a permit is free");
    world.keep(&lease);
    let session = Args::new().arg(lease.session());
    world.run(call(two.client(), "session_destroy", session));
    let taken = world.run(async {
        let begun = world.clock.now();
        let next = permit(&two, 1, Wait::Forever).await.expect("it becomes free");
        assert!(next.token() > lease.token());
        world.clock.now() - begun
    });
    assert!(!lease.is_held());
    let delay = one.profile().lock_delay;
    assert!((delay..delay + Duration::from_millis(200)).contains(&taken), "{taken:?}");
}

fn waiting_sends_little(world: &Simulated) {
    let (one, two) = (world.process(), world.process());
    let lease = world.run(acquire(&one, Wait::Forever)).expect("it is free");
    world.keep(&lease);
    let sent = |work: &dyn Fn()| {
        let before = world.agent.stats().requests;
        work();
        world.agent.stats().requests - before
    };
    let minute = Duration::from_secs(60);
    let alone = sent(&|| world.clock.advance(minute));
    let waiting = sent(&|| {
        let wait = Wait::For(minute);
        world.run(acquire(&two, wait)).expect_err("it is held");
    });
    // One query in 5 s, and the renewal of a session only after an attempt in vain.
    assert!(waiting - alone < 60 / 5 * 2 + 5, "{alone} alone, {waiting} while one waits");
    assert!(lease.is_held());
}

/// A process on real sockets; within a runtime.
fn process(urls: &[String]) -> Arc<Presence> {
    process_with(urls, None, |transport| transport)
}

fn process_with(
    urls: &[String],
    token: Option<&str>,
    wrap: impl Fn(Arc<dyn Transport>) -> Arc<dyn Transport>,
) -> Arc<Presence> {
    let transports = urls.iter().map(|url| {
        wrap(Arc::new(HttpTransport::new(url, &Options::default()).expect("a transport")))
    });
    let clock = Arc::new(SystemClock::new());
    let client = Client::new(transports.collect(), settings(token), clock, fastrand::Rng::new());
    let presence = present(client, Profile::standard());
    let running = Arc::clone(&presence);
    tokio::spawn(async move { match running.run().await {} });
    presence
}

fn url(address: &str) -> String {
    format!("http://{address}")
}

async fn hold(presence: &Arc<Presence>) -> Arc<Lease> {
    let lease = acquire(presence, Wait::For(Duration::from_secs(30))).await.expect("it is free");
    keep(&lease);
    lease
}

fn keep(lease: &Arc<Lease>) {
    let lease = Arc::clone(lease);
    tokio::spawn(async move { lease.keep().await });
}

async fn next(lease: &Lease, within: Duration) -> Option<Event> {
    timeout(within, lease.next_event()).await.ok().flatten()
}

/// All leases of a test.
#[derive(Clone, Default)]
struct Leases(Arc<Mutex<Vec<Arc<Lease>>>>);

impl Leases {
    fn add(&self, lease: &Arc<Lease>) {
        self.0.lock().expect("no panic elsewhere").push(Arc::clone(lease));
    }

    fn held(&self) -> usize {
        let leases = self.0.lock().expect("no panic elsewhere");
        leases.iter().filter(|lease| lease.is_held()).count()
    }

    fn tokens(&self) -> Vec<u64> {
        let leases = self.0.lock().expect("no panic elsewhere");
        leases.iter().map(|lease| lease.token()).collect()
    }
}

fn contenders(runtime: &Runtime, consul: &RealConsul) {
    runtime.block_on(async {
        let leases = Leases::default();
        let contending = (0..4).map(|_| {
            let process = process(&[url(&consul.address)]);
            let leases = leases.clone();
            tokio::spawn(async move {
                for _ in 0..3 {
                    let lease = hold(&process).await;
                    leases.add(&lease);
                    for _ in 0..5 {
                        assert_eq!(leases.held(), 1);
                        sleep(Duration::from_millis(5)).await;
                    }
                    lease.release().await.expect("it is held");
                    let error = lease.release().await.expect_err("it is not held any more");
                    assert_eq!(error.kind(), Kind::Conflict);
                }
            })
        });
        for contender in contending.collect::<Vec<_>>() {
            contender.await.expect("no two hold it");
        }
        let tokens = leases.tokens();
        assert!(tokens.len() == 12 && tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    });
}

fn many_permits(runtime: &Runtime, consul: &RealConsul) {
    const LIMIT: u64 = 2;
    runtime.block_on(async {
        let leases = Leases::default();
        let contending = (0..5).map(|_| {
            let process = process(&[url(&consul.address)]);
            let leases = leases.clone();
            tokio::spawn(async move {
                for _ in 0..2 {
                    let wait = Wait::For(Duration::from_secs(30));
                    let lease = permit(&process, LIMIT, wait).await.expect("one becomes free");
                    keep(&lease);
                    leases.add(&lease);
                    assert!(leases.held() as u64 <= LIMIT, "{} hold one", leases.held());
                    sleep(Duration::from_millis(30)).await;
                    lease.release().await.expect("it is held");
                }
            })
        });
        for contender in contending.collect::<Vec<_>>() {
            contender.await.expect("never too many");
        }
        let tokens: BTreeSet<_> = leases.tokens().into_iter().collect();
        assert_eq!(tokens.len(), 10, "each grant has a token of its own");
    });
}

fn black_hole(runtime: &Runtime, consul: &RealConsul) {
    let proxy = Proxy::new(&consul.address);
    runtime.block_on(async {
        let lease = hold(&process(&[proxy.url()])).await;
        let other = process(&[url(&consul.address)]);
        let profile = other.profile().clone();
        let waiting = tokio::spawn(async move {
            acquire(&other, Wait::For(Duration::from_secs(60))).await.expect("it becomes free")
        });
        assert_eq!(next(&lease, Duration::from_millis(600)).await, None);
        proxy.set(Network::BlackHole);
        let begun = std::time::Instant::now();
        assert_eq!(next(&lease, profile.lease + SLACK).await, Some(Event::Suspended));
        let took = begun.elapsed();
        assert!(took <= profile.lease + SLACK, "{took:?}");
        assert!(!lease.is_held());
        let error = lease.fenced_put("data", Vec::new()).await.expect_err("it is suspended");
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        let next_lease = waiting.await.expect("no panic");
        let took = begun.elapsed();
        assert!(!lease.is_held() && next_lease.token() > lease.token());
        assert!(took <= profile.takeover() + SLACK * 2, "{took:?}");
        keep(&next_lease);
        proxy.set(Network::Good);
        let lost = next(&lease, Duration::from_secs(10)).await;
        assert!(matches!(lost, Some(Event::Lost(_))), "{lost:?}");
        assert_eq!(lease.next_event().await, None);
        assert!(next_lease.is_held());
    });
}

/// The agent, whose servers answer 500 now and then; what it does by itself goes on.
#[derive(Debug)]
struct Ill {
    transport: Arc<dyn Transport>,
    is_ill: Arc<AtomicBool>,
}

impl Transport for Ill {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let is_local = request.uri().path().starts_with("/v1/agent/");
        if is_local || !self.is_ill.load(Ordering::Relaxed) {
            return self.transport.send(request);
        }
        let mut answer = Response::new(Bytes::from_static(b"rpc error: No cluster leader"));
        *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        Box::pin(std::future::ready(Ok(answer)))
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

fn errors(runtime: &Runtime, consul: &RealConsul) {
    let is_ill = Arc::new(AtomicBool::new(false));
    let illness = |is: bool| is_ill.store(is, Ordering::Relaxed);
    let ill_process = || {
        process_with(&[url(&consul.address)], None, |transport| {
            Arc::new(Ill { transport, is_ill: Arc::clone(&is_ill) })
        })
    };
    runtime.block_on(async {
        let (process, other) = (ill_process(), ill_process());
        let lease = hold(&process).await;
        // Within a lease nothing comes of them.
        illness(true);
        assert_eq!(next(&lease, Duration::from_millis(1000)).await, None);
        assert!(lease.is_held());
        let error = acquire(&other, Wait::Once).await.expect_err("there is no leader");
        assert_eq!(error.status(), Some(500), "{error}");
        illness(false);
        assert_eq!(next(&lease, Duration::from_millis(1000)).await, None);
        // After it the holder stops, and goes on with the next proof.
        illness(true);
        assert_eq!(next(&lease, process.profile().lease + SLACK).await, Some(Event::Suspended));
        assert!(!lease.is_held());
        illness(false);
        assert_eq!(next(&lease, Duration::from_secs(5)).await, Some(Event::Resumed));
        assert!(lease.is_held());
        // Who waits waits on.
        lease.release().await.expect("it is held");
        illness(true);
        let waiting = tokio::spawn(async move {
            acquire(&other, Wait::For(Duration::from_secs(20))).await.expect("it is free")
        });
        sleep(Duration::from_millis(500)).await;
        assert!(!waiting.is_finished());
        illness(false);
        assert!(waiting.await.expect("no panic").is_held());
    });
}

fn stalled(runtime: &Runtime, cluster: &mut Cluster) {
    const STALL: Duration = Duration::from_secs(2);
    runtime.block_on(async {
        let address = url(&cluster.address(0));
        let (process, other) = (process(std::slice::from_ref(&address)), process(&[address]));
        let lease = hold(&process).await;
        let waiting = tokio::spawn(async move { acquire(&other, Wait::Forever).await });
        sleep(Duration::from_millis(500)).await;
        for _ in 0..2 {
            let token = lease.token();
            cluster.stop(0);
            sleep(STALL).await;
            cluster.cont(0);
            // A proof of before the stall may be over a moment before its end; then it is suspended
            // until the next one, and nobody else has it meanwhile.
            sleep(Duration::from_secs(3)).await;
            match lease.poll_event() {
                None => {}
                Some(event) => {
                    assert_eq!(event, Event::Suspended);
                    assert_eq!(lease.poll_event(), Some(Event::Resumed));
                }
            }
            assert_eq!(lease.poll_event(), None);
            assert!(lease.is_held() && lease.token() == token && !waiting.is_finished());
        }
        waiting.abort();
    });
}

fn restarted(runtime: &Runtime, cluster: &mut Cluster) {
    runtime.block_on(async {
        let process = process(&[url(&cluster.address(0))]);
        let lease = hold(&process).await;
        cluster.kill(0);
        assert_eq!(next(&lease, process.profile().lease + SLACK).await, Some(Event::Suspended));
        assert!(!lease.is_held());
        cluster.restart(0);
        match next(&lease, Duration::from_secs(60)).await {
            Some(Event::Resumed) => assert!(lease.is_held()),
            Some(Event::Lost(_)) => {
                assert!(!lease.is_held());
                let again = acquire(&process, Wait::For(Duration::from_secs(60))).await;
                assert!(again.expect("it is free again").token() > lease.token());
            }
            other => panic!("after the restart: {other:?}"),
        }
    });
}

/// The rules of docs/coordination.md.
fn acl(runtime: &Runtime, consul: &RealConsul) {
    let page = include_str!("../docs/coordination.md");
    let rules = |name: &str| {
        let block = page.split("```hcl\n").find(|block| block.starts_with(&format!("# {name}\n")));
        block.and_then(|block| block.split("```").next()).expect("the rules are in the page")
    };
    runtime.block_on(async {
        let urls = [url(&consul.address)];
        let manager = process_with(&urls, Some(&consul.token), |transport| transport);
        let manager = manager.client();
        let table = |members: Vec<(&str, Value)>| {
            let named = |(name, value): (&str, Value)| (name.to_owned(), value);
            Args::new().arg(Value::Map(members.into_iter().map(named).collect()))
        };
        let mut tokens = Vec::new();
        for name in ["holders", "others"] {
            let policy = table(vec![("Name", name.into()), ("Rules", rules(name).into())]);
            call(manager, "acl_policy_create", policy).await;
            let link = Value::Map(vec![("Name".to_owned(), name.into())]);
            let token = table(vec![("Policies", Value::List(vec![link]))]);
            let token = call(manager, "acl_token_create", token).await;
            let secret = token.get("SecretID").and_then(Value::as_str).expect("a secret");
            tokens.push(secret.to_owned());
        }
        let holder = process_with(&urls, Some(&tokens[0]), |transport| transport);
        let lease = hold(&holder).await;
        let defaults = [("token", Value::from(tokens[1].as_str()))];
        let other =
            |args: Args| defaults.iter().fold(args, |args, (name, v)| args.opt(*name, v.clone()));
        let key = || other(Args::new().arg(KEY));
        let forbidden = [
            ("kv_delete", key()),
            ("kv_delete_tree", other(Args::new().arg("locks/"))),
            ("kv_put", other(Args::new().arg(KEY).arg("x"))),
            ("session_destroy", other(Args::new().arg(lease.session()))),
        ];
        for (method, args) in forbidden {
            let endpoint = wire::endpoint(method).expect("a method");
            let error = manager.call(endpoint, &args).await.expect_err("it is forbidden");
            assert_eq!(error.kind(), Kind::PermissionDenied, "{method}: {error}");
        }
        // They may see who holds it.
        call(manager, "kv_get", key()).await;
        assert_eq!(next(&lease, Duration::from_secs(1)).await, None);
        lease.fenced_put("data/a", b"1".to_vec()).await.expect("it may write data");
        lease.release().await.expect("it is held");
    });
}
