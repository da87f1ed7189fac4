//! Agents that are not as their client takes them: an agent that reaches no server and so refuses every token, and several
//! behind one address. On a clock that the test advances, and beside a client agent of real Consuls.

use super::cuts::Claim;
use super::on_a_clock::Simulated;
use super::{acquire, present, runtime, settings};
use crate::support::consul::{self, RealConsul};
use crate::support::lines::logged;
use crate::support::outside::without_consul;
use crate::support::trials::{Trials, add};
use bytes::Bytes;
use consul_api::error::Error;
use consul_client::Client;
use consul_client::coordination::{Presence, Profile, Wait};
use consul_client::transport::http::HttpTransport;
use consul_client::transport::{Options, Transport};
use consul_cluster::{self as cluster, Cluster};
use consul_process::clock::{BoxFuture, Clock, Instant, ManualClock, SystemClock};
use consul_sim::SimTransport;
use http::{Request, Response};
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::Level;

pub fn add_to(trials: &mut Trials) {
    add!(trials, a_refusal_by_an_agent_without_servers_ends_no_wait);
    add!(trials, a_process_leaves_an_agent_without_servers_for_the_next_one);
    add!(trials, an_outage_of_all_servers_moves_nobody);
    add!(trials, several_agents_behind_one_address_are_named_once);
    const NAME: &str = "a_client_agent_without_servers_refuses_nothing_for_good";
    for version in ["1.21", "1.8"] {
        let missing = consul::is_missing(version, &format!("client agents of Consul {version}"));
        trials.add_unless(missing, format!("{NAME} [{version}]"), move || {
            beside_a_client_agent(version)
        });
    }
}

/// The answers of client agents of 1.21 and of 1.8 that reach no server and do not know the token.
const REFUSALS: [&str; 2] = [
    "Permission denied: token with AccessorID 'primary-dc-down' lacks permission 'service:write' on \"x\"",
    "Permission denied: Missing service:write on x",
];

/// The trouble of an agent.
#[derive(Clone, Copy, Debug)]
enum Ill {
    /// It reaches no server, and knows no token: so it refuses each.
    Alone(&'static str),
    /// The same after a restart, so that it does not know the check either.
    Restarted(&'static str),
    /// It reaches no server, and has no ACLs: it answers beats.
    WithoutAcls,
    /// It has an old answer about the token, and reaches the servers.
    Stale,
}

/// An agent with which something is wrong from one time to another.
#[derive(Debug)]
struct Alone {
    transport: SimTransport,
    clock: ManualClock,
    ill: Ill,
    times: Mutex<(Duration, Duration)>,
}

impl Alone {
    fn is_alone(&self) -> bool {
        let now = self.clock.now().since_origin();
        let (from, to) = *self.times.lock().expect("no panic elsewhere");
        (from..to).contains(&now)
    }
}

impl Transport for Alone {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            if !self.is_alone() {
                return self.transport.send(request).await;
            }
            let path = request.uri().path();
            let (of_agent, is_beat) =
                (path.starts_with("/v1/agent/"), path.starts_with("/v1/agent/check/pass/"));
            let answer = |status, body: String| {
                let answer = Response::builder().status(status).header("vary", "Accept-Encoding");
                Ok(answer.body(body.into()).expect("a response"))
            };
            match self.ill {
                Ill::Restarted(_) if is_beat => answer(404, unknown_check(path)),
                Ill::Alone(refusal) | Ill::Restarted(refusal) if of_agent => {
                    answer(403, refusal.to_owned())
                }
                Ill::Stale if of_agent => answer(403, REFUSALS[1].to_owned()),
                Ill::Stale => self.transport.send(request).await,
                Ill::WithoutAcls if of_agent => self.transport.send(request).await,
                _ => answer(500, "No known Consul servers".to_owned()),
            }
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

/// The answer of an agent to a beat of a process that is not registered with it.
fn unknown_check(path: &str) -> String {
    let check = path.rsplit('/').next().unwrap_or_default().replace("%3A", ":");
    format!("Unknown check ID \"{check}\". Ensure that the check ID is passed, not the check name.")
}

fn alone(world: &Simulated, ill: Ill, from_s: u64, to_s: u64) -> Arc<Alone> {
    let transport = SimTransport::new(Arc::clone(&world.agent), "simulated");
    let times = Mutex::new((Duration::from_secs(from_s), Duration::from_secs(to_s)));
    Arc::new(Alone { transport, clock: world.clock.clone(), ill, times })
}

fn process(world: &Simulated, agents: Vec<Arc<dyn Transport>>, profile: Profile) -> Arc<Presence> {
    let (clock, rng) = (Arc::new(world.clock.clone()), fastrand::Rng::with_seed(7));
    world.running(present(Client::new(agents, settings(None), clock, rng), profile))
}

/// From the start of the process, and while it waits for a lock that another has.
fn a_refusal_by_an_agent_without_servers_ends_no_wait() {
    let ills = REFUSALS.into_iter().flat_map(|it| [Ill::Alone(it), Ill::Restarted(it)]);
    let ills = ills.chain([Ill::WithoutAcls]);
    for (ill, from_s) in ills.flat_map(|it| [0, 20].map(|from| (it, from))) {
        for claim in [Claim::Lock, Claim::Permit] {
            for profile in [Profile::standard(), Profile::fast(), Profile::wan()] {
                let what = format!("{ill:?}, from {from_s} s, {claim:?}");
                let world = Simulated::new();
                let other = world.process_with(Profile::standard());
                let held = world.run(claim.acquire(&other, Wait::Forever)).expect("it is free");
                world.keep(&held);
                let to_s = from_s + 4 * profile.check_ttl.as_secs().max(1);
                let agent = alone(&world, ill, from_s, to_s);
                let process = process(&world, vec![agent], profile.clone());
                let is_free_at = Instant::from_origin(Duration::from_secs(to_s + 20));
                let (lease, ()) = world.run(async {
                    tokio::join!(claim.acquire(&process, Wait::Forever), async {
                        world.clock.sleep_until(is_free_at).await;
                        held.release().await.expect("an answer");
                    })
                });
                lease.unwrap_or_else(|error| panic!("{what}: {error}"));
                let late = world.clock.now() - is_free_at;
                assert!(late < profile.takeover(), "{what}: {late:?}");
            }
        }
    }
}

fn a_process_leaves_an_agent_without_servers_for_the_next_one() {
    let ills = REFUSALS.into_iter().flat_map(|it| [Ill::Alone(it), Ill::Restarted(it)]);
    let ills = ills.chain([Ill::WithoutAcls, Ill::Stale]);
    for (ill, from_s) in ills.flat_map(|it| [0, 20].map(|from| (it, from))) {
        for claim in [Claim::Lock, Claim::Permit] {
            let what = format!("{ill:?}, from {from_s} s, {claim:?}");
            let (world, profile) = (Simulated::new(), Profile::standard());
            let first = alone(&world, ill, from_s, 1_000_000);
            let next = SimTransport::new(Arc::clone(&world.agent), "next");
            let process = process(&world, vec![first, Arc::new(next)], profile.clone());
            world.clock.advance(Duration::from_secs(from_s + 1));
            let begun = world.clock.now();
            let lease = world.run(claim.acquire(&process, Wait::Forever));
            let lease = lease.unwrap_or_else(|error| panic!("{what}: {error}"));
            let took = world.clock.now() - begun;
            assert!(took < profile.check_ttl * 2, "{what}: {took:?}");
            // From the start only a process has to wait that an agent has let in.
            let is_in = matches!(ill, Ill::WithoutAcls);
            assert!(from_s > 0 || is_in || took < profile.beat * 2, "{what}: {took:?}");
            world.keep(&lease);
            world.clock.advance(Duration::from_secs(120));
            // A lock that it got from the first agent has ended with its check.
            if !lease.is_held() {
                assert!(from_s > 0, "{what}");
                drop(lease);
                world.run(claim.acquire(&process, Wait::Forever)).expect("it is registered there");
            }
        }
    }
}

/// While all servers are away a move would end the locks, and help nobody.
fn an_outage_of_all_servers_moves_nobody() {
    for ill in [Ill::WithoutAcls, Ill::Alone(REFUSALS[0]), Ill::Alone(REFUSALS[1])] {
        let (world, profile) = (Simulated::new(), Profile::standard());
        let both = [20, 20].map(|from_s| alone(&world, ill, from_s, from_s + 9));
        let both = both.map(|agent| agent as Arc<dyn Transport>);
        let process = process(&world, both.into(), profile);
        let lease = world.run(acquire(&process, Wait::Forever)).expect("it is free");
        world.keep(&lease);
        world.clock.advance(Duration::from_secs(60));
        // The agents have no beat for a check without the right: its session has ended.
        assert_eq!(lease.is_held(), matches!(ill, Ill::WithoutAcls), "{ill:?}");
    }
}

/// A balancer that sends each nth beat to an agent with which the process is not registered.
#[derive(Debug)]
struct Balancer {
    transport: SimTransport,
    every: usize,
    beats: AtomicUsize,
}

impl Transport for Balancer {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            if !request.uri().path().starts_with("/v1/agent/check/pass/")
                || !(self.beats.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(self.every)
            {
                return self.transport.send(request).await;
            }
            let why = unknown_check(request.uri().path());
            let answer = Response::builder().status(404).header("vary", "Accept-Encoding");
            Ok(answer.body(why.into()).expect("a response"))
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

/// Of two agents each forgets nothing any more once the process is registered with both. An agent that restarts forgets the
/// check, too, and an agent that reaches no server then refuses each registration.
fn several_agents_behind_one_address_are_named_once() {
    for (every, is_told) in [(2, true), (3, true), (1000, false)] {
        let world = Simulated::new();
        logged(Level::WARN, Arc::new(world.clock.clone()), |lines| {
            let transport = SimTransport::new(Arc::clone(&world.agent), "simulated");
            let balancer = Balancer { transport, every, beats: AtomicUsize::new(0) };
            let _process = process(&world, vec![Arc::new(balancer)], Profile::standard());
            world.clock.advance(Duration::from_secs(6000));
            let told = lines.count("several agents seem to answer at this endpoint");
            assert_eq!(told, usize::from(is_told), "{every}: {}", lines.text());
        });
    }
    for refusal in REFUSALS {
        let world = Simulated::new();
        logged(Level::WARN, Arc::new(world.clock.clone()), |lines| {
            let agent = alone(&world, Ill::Restarted(refusal), 20, 60);
            let _process = process(&world, vec![agent], Profile::standard());
            world.clock.advance(Duration::from_secs(600));
            assert_eq!(lines.count("several agents"), 0, "{}", lines.text());
        });
    }
}

/// A client agent of a real Consul that reaches no server.
struct ClientAgent {
    folder: PathBuf,
    agent: Child,
}

impl ClientAgent {
    fn start(version: &str) -> Result<Self, String> {
        let binary = consul::binary(version)?;
        let name = format!("consul_ffi-agent-{:016x}", fastrand::u64(..));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).expect("a folder can be made");
        let socket = folder.join("http.sock");
        let hcl = format!(
            "bind_addr = \"127.0.0.1\" disable_update_check = true ports {{ dns = -1 grpc = -1 serf_lan = {} }} \
             addresses {{ http = \"unix://{}\" }} acl {{ enabled = true default_policy = \"deny\" }}",
            free_port(),
            socket.display()
        );
        let log = fs::File::create(folder.join("log")).expect("a log");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(binary)
            .args(["agent", "-retry-join=127.0.0.2:9"]);
        command.arg(format!("-data-dir={}", folder.join("data").display()));
        command.arg(format!("-hcl={hcl}"));
        without_consul(&mut command);
        let stderr = log.try_clone().expect("a log");
        command.stdin(Stdio::null()).stdout(log).stderr(stderr);
        let mut agent = ClientAgent { agent: command.spawn().expect("the agent starts"), folder };
        while !socket.exists() {
            if let Ok(Some(status)) = agent.agent.try_wait() {
                let log = fs::read_to_string(agent.folder.join("log")).unwrap_or_default();
                panic!("the client agent ended with {status}: {log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(agent)
    }

    fn transport(&self) -> Arc<dyn Transport> {
        transport(&format!("unix://{}", self.folder.join("http.sock").display()))
    }
}

impl Drop for ClientAgent {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A port for TCP and UDP that nothing has at this moment.
fn free_port() -> u16 {
    loop {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
        let address = free.expect("a free port");
        if UdpSocket::bind(address).is_ok() {
            return address.port();
        }
    }
}

fn transport(url: &str) -> Arc<dyn Transport> {
    Arc::new(HttpTransport::new(url, &Options::default()).expect("a transport"))
}

fn beside_a_client_agent(version: &'static str) -> Result<(), String> {
    let server = RealConsul::start_with_acl(version, "deny")?;
    let agent = ClientAgent::start(version)?;
    let client = |transports| {
        let clock = Arc::new(SystemClock::new());
        Client::new(transports, settings(Some(&server.token)), clock, fastrand::Rng::new())
    };
    runtime().block_on(async {
        // Alone, a wait is not over before its time.
        let process = present(client(vec![agent.transport()]), Profile::fast());
        let running = Arc::clone(&process);
        tokio::spawn(async move { match running.run().await {} });
        let wait = Wait::For(Profile::fast().check_ttl * 2);
        let error = acquire(&process, wait).await.expect_err("there is no server");
        let refusal = process.registration_error().expect("it is not registered");
        assert!(refusal.message().contains("Permission denied"), "{refusal}");
        assert!(refusal.is_transient() && error.is_transient(), "{error}, {refusal}");
        // With a server behind it, locks and nodes go on there.
        let both = || vec![agent.transport(), transport(&format!("http://{}", server.address))];
        let process = present(client(both()), Profile::fast());
        let running = Arc::clone(&process);
        tokio::spawn(async move { match running.run().await {} });
        acquire(&process, Wait::Forever).await.expect("the other agent is asked");
        let client = Arc::new(client(both()));
        let options = cluster::Options::new("n1", "127.0.0.1:1");
        let node = Cluster::new(Arc::clone(&client), client, options).expect("good options");
        let running = Arc::clone(&node);
        tokio::spawn(async move { running.run().await });
        node.started().await.expect("the other agent is asked");
    });
    Ok(())
}
