//! On consul-sim and real Consuls, with network faults and agents that stall or restart.

use super::{KEY, SLACK, acquire, call, permit, present, runtime, settings};
use crate::support::cluster::Cluster;
use crate::support::consul::{self, RealConsul};
use crate::support::proxy::{Network, Proxy};
use crate::support::trials::Trials;
use bytes::Bytes;
use consul_api as wire;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::value::Value;
use consul_api::value::shape::ValuePath;
use consul_client::Client;
use consul_client::coordination::{Event, Lease, Presence, Profile, Wait};
use consul_client::transport::http::HttpTransport;
use consul_client::transport::{Options, Transport};
use consul_process::clock::{BoxFuture, SystemClock};
use http::{Request, Response};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

type OnOne = fn(&Runtime, &RealConsul);
type OnCluster = fn(&Runtime, &mut Cluster);

const ON_ONE: &[(&str, OnOne)] = &[
    ("contenders_hold_one_after_the_other_with_growing_tokens", contenders),
    ("holders_of_a_semaphore_are_never_too_many", many_permits),
    ("short_attempts_of_new_processes_get_a_dead_holders_permit", dead_holders_permit),
    ("behind_a_black_hole_the_end_comes_at_the_deadline", black_hole),
    ("errors_are_tolerated_during_a_lease_and_while_waiting", errors),
];

const ON_CLUSTERS: &[(&str, OnCluster)] = &[
    ("a_stall_of_the_agent_for_two_seconds_loses_nothing", stalled),
    ("a_restart_of_the_agent_is_survived_or_announced", restarted),
];

/// On a server and the client agent of the holder.
const ON_A_CLIENT_AGENT: &[(&str, OnCluster)] = &[
    ("the_death_of_a_machine_is_noticed_within_machine_takeover_ms", dead_machine),
    ("a_stall_of_a_machine_is_tolerated_without_node_checks", stalled_machine),
];

pub fn add_to(trials: &mut Trials) {
    for version in [consul::SIM, "1.21", "1.8"] {
        let missing = consul::is_missing(version, &format!("locks on Consul {version}"));
        for (name, run) in ON_ONE {
            trials.add_unless(missing, format!("{name} [{version}]"), move || {
                RealConsul::start(version).map(|consul| run(&runtime(), &consul))
            });
        }
        let name = "the_acl_of_the_documentation_keeps_others_from_a_locks_key";
        trials.add_unless(missing, format!("{name} [{version}]"), move || {
            RealConsul::start_with_acl(version, "deny").map(|consul| acl(&runtime(), &consul))
        });
        if version == consul::SIM {
            continue;
        }
        for (name, run) in ON_CLUSTERS {
            trials.add_unless(missing, format!("{name} [{version}]"), move || {
                Cluster::start(1, version).map(|mut cluster| run(&runtime(), &mut cluster))
            });
        }
        for (name, run) in ON_A_CLIENT_AGENT {
            trials.add_unless(missing, format!("{name} [{version}]"), move || {
                let cluster = Cluster::start_with_clients(1, 1, version);
                cluster.map(|mut cluster| run(&runtime(), &mut cluster))
            });
        }
    }
}

/// A process on real sockets; within a runtime.
fn process(urls: &[String]) -> Arc<Presence> {
    process_with(urls, Profile::standard(), None, |transport| transport)
}

/// The same with a profile that tolerates stalls of a busy machine.
fn patient(urls: &[String], token: Option<&str>) -> Arc<Presence> {
    process_with(urls, Profile::wan(), token, |transport| transport)
}

fn process_with(
    urls: &[String],
    profile: Profile,
    token: Option<&str>,
    wrap: impl Fn(Arc<dyn Transport>) -> Arc<dyn Transport>,
) -> Arc<Presence> {
    let transports = urls.iter().map(|url| {
        wrap(Arc::new(HttpTransport::new(url, &Options::default()).expect("a transport")))
    });
    let clock = Arc::new(SystemClock::new());
    let client = Client::new(transports.collect(), settings(token), clock, fastrand::Rng::new());
    let presence = present(client, profile);
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
            let process = patient(&[url(&consul.address)], None);
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
            let process = patient(&[url(&consul.address)], None);
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

fn dead_holders_permit(runtime: &Runtime, consul: &RealConsul) {
    let urls = [url(&consul.address)];
    runtime.block_on(async {
        let one = process(&urls);
        let wait = Wait::For(Duration::from_secs(30));
        let lease = permit(&one, 1, wait).await.expect("it is free");
        keep(&lease);
        let begun = std::time::Instant::now();
        call(one.client(), "session_destroy", Args::new().arg(lease.session())).await;
        let next = loop {
            match permit(&process(&urls), 1, Wait::Once).await {
                Ok(next) => break next,
                Err(error) => assert_eq!(error.kind(), Kind::Conflict, "{error}"),
            }
            assert!(begun.elapsed() < Duration::from_secs(60));
            sleep(Duration::from_millis(300)).await;
        };
        assert!(begun.elapsed() >= one.profile().lock_delay, "{:?}", begun.elapsed());
        assert!(!lease.is_held() && next.token() > lease.token());
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

/// The agent, whose servers sometimes answer 500; its own work continues.
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
        process_with(&[url(&consul.address)], Profile::wan(), None, |transport| {
            Arc::new(Ill { transport, is_ill: Arc::clone(&is_ill) })
        })
    };
    runtime.block_on(async {
        let (process, other) = (ill_process(), ill_process());
        let lease = hold(&process).await;
        // Within a lease the errors have no effect.
        illness(true);
        assert_eq!(next(&lease, Duration::from_millis(1000)).await, None);
        assert!(lease.is_held());
        let error = acquire(&other, Wait::Once).await.expect_err("there is no leader");
        assert_eq!(error.status(), Some(500), "{error}");
        illness(false);
        assert_eq!(next(&lease, Duration::from_millis(1000)).await, None);
        // After it the lock is suspended, until the next proof.
        illness(true);
        assert_eq!(next(&lease, process.profile().lease + SLACK).await, Some(Event::Suspended));
        assert!(!lease.is_held());
        illness(false);
        assert_eq!(next(&lease, Duration::from_secs(20)).await, Some(Event::Resumed));
        assert!(lease.is_held());
        // A waiter keeps waiting.
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
            // The lease of a proof from before the stall may end a moment before the stall. Then the
            // lock is suspended until the next proof, and no other process has it meanwhile.
            sleep(Duration::from_secs(3)).await;
            match lease.poll_event() {
                None => {}
                Some(event) => {
                    assert_eq!(event, Event::Suspended);
                    let resumed = next(&lease, Duration::from_secs(20)).await;
                    assert_eq!(resumed, Some(Event::Resumed));
                }
            }
            assert_eq!(lease.poll_event(), None);
            assert!(lease.is_held() && lease.token() == token && !waiting.is_finished());
        }
        waiting.abort();
    });
}

fn dead_machine(runtime: &Runtime, cluster: &mut Cluster) {
    for node_checks in [true, false] {
        runtime.block_on(async {
            let profile = Profile { node_checks, ..Profile::standard() };
            let agent = url(&cluster.address(1));
            let holder = process_with(&[agent], profile.clone(), None, |transport| transport);
            let other = process(&[url(&cluster.address(0))]);
            hold(&holder).await;
            cluster.kill(1);
            let begun = tokio::time::Instant::now();
            acquire(&other, Wait::Forever).await.expect("it becomes free").give_up();
            let took = begun.elapsed();
            // A renewal just before the death, and a busy machine.
            let longest = profile.machine_takeover() + SLACK * 2;
            assert!(took <= longest, "node_checks = {node_checks}: {took:?}");
            cluster.restart(1);
            cluster.wait_until_healthy(1);
        });
    }
}

fn stalled_machine(runtime: &Runtime, cluster: &mut Cluster) {
    const STALL: Duration = Duration::from_secs(15);
    runtime.block_on(async {
        let times = [("check_ttl_ms", 60_000.into()), ("node_checks", false.into())];
        let times = times.map(|(name, value): (&str, Value)| (name.to_owned(), value));
        let profile = Profile::from_value(&Value::Map(times.into()), &ValuePath::top("profile"));
        let profile = profile.expect("a profile");
        let agent = url(&cluster.address(1));
        let holder = process_with(&[agent], profile, None, |transport| transport);
        let lease = hold(&holder).await;
        let other = process(&[url(&cluster.address(0))]);
        let waiting = tokio::spawn(async move { acquire(&other, Wait::Forever).await });
        cluster.stop(1);
        sleep(STALL).await;
        assert!(!waiting.is_finished(), "another holds it");
        cluster.cont(1);
        assert_eq!(lease.poll_event(), Some(Event::Suspended));
        assert_eq!(next(&lease, Duration::from_secs(60)).await, Some(Event::Resumed));
        assert!(lease.is_held() && !waiting.is_finished());
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
    let page = include_str!("../../../../../docs/coordination.md");
    let rules = |name: &str| {
        let block = page.split("```hcl\n").find(|block| block.starts_with(&format!("# {name}\n")));
        block.and_then(|block| block.split("```").next()).expect("the rules are in the page")
    };
    runtime.block_on(async {
        let urls = [url(&consul.address)];
        let manager = patient(&urls, Some(&consul.token));
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
        let holder = patient(&urls, Some(&tokens[0]));
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
        // They may read the holder.
        call(manager, "kv_get", key()).await;
        assert_eq!(next(&lease, Duration::from_secs(1)).await, None);
        lease.fenced_put("data/a", b"1".to_vec()).await.expect("it may write data");
        lease.release().await.expect("it is held");
    });
}
