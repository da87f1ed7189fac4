//! Calls that a token with half of the rights makes: they end at once, name the permission, and cause
//! few requests. On the simulated agent in memory and on sockets, and on real Consuls.

use super::{MANAGEMENT, Token, permit, present, runtime, settings, with_acl};
use crate::support::consul::{self, RealConsul};
use crate::support::trials::Trials;
use bytes::Bytes;
use consul_api::api::kv;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_client::Client;
use consul_client::coordination::lock::{self, LockOptions};
use consul_client::coordination::{Lease, Presence, Profile, Wait};
use consul_client::transport::http::HttpTransport;
use consul_client::transport::{Options, Transport};
use consul_cluster::{self as cluster, Cluster};
use consul_process::clock::{BoxFuture, SystemClock};
use consul_sim::{Agent, SimTransport};
use http::{Request, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the requests of a call are counted, and how many there may be, beats included.
const COUNTED: Duration = Duration::from_secs(3);
const MAX_REQUESTS: usize = 20;

/// Longer than any refused call takes on a busy machine, and shorter than its retries would take.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Read access to all keys, and write access to the keys of the locks in these rules.
const READ_ALL: &str = r#"
    key_prefix "" { policy = "read" }
    node_prefix "" { policy = "read" }
    service_prefix "" { policy = "write" }
    session_prefix "" { policy = "write" }
"#;

pub fn add_to(trials: &mut Trials) {
    const NAME: &str = "a_refused_call_ends_at_once_and_sends_little";
    trials.add(format!("{NAME} [simulated]"), || {
        let agent = Arc::new(Agent::new(with_acl()));
        refused(MANAGEMENT, || Arc::new(SimTransport::new(Arc::clone(&agent), "simulated")));
    });
    for version in [consul::SIM, "1.21", "1.8"] {
        let missing = consul::is_missing(version, &format!("refused calls on Consul {version}"));
        trials.add_unless(missing, format!("{NAME} [{version}]"), move || {
            RealConsul::start_with_acl(version, "deny").map(|consul| {
                let url = format!("http://{}", consul.address);
                refused(&consul.token, || {
                    Arc::new(HttpTransport::new(&url, &Options::default()).expect("a transport"))
                });
            })
        });
    }
}

/// Counts the requests of one client.
#[derive(Clone, Debug)]
struct Counted {
    transport: Arc<dyn Transport>,
    sent: Arc<AtomicUsize>,
}

impl Transport for Counted {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.transport.send(request)
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

struct World<'a> {
    transport: &'a dyn Fn() -> Arc<dyn Transport>,
    manager: Client,
}

impl World<'_> {
    fn client(&self, token: &str) -> (Client, Arc<AtomicUsize>) {
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Counted { transport: (self.transport)(), sent: Arc::clone(&sent) };
        let clock = Arc::new(SystemClock::new());
        let settings = settings(Some(token));
        (Client::new(vec![Arc::new(counted)], settings, clock, fastrand::Rng::new()), sent)
    }

    /// A process, the number of its requests, and its token, which has these rules.
    async fn process(&self, rules: &str) -> (Arc<Presence>, Arc<AtomicUsize>, Token) {
        let token = Token::new(&self.manager, rules).await;
        let (client, sent) = self.client(&token.secret);
        let presence = present(client, Profile::standard());
        let running = Arc::clone(&presence);
        tokio::spawn(async move { match running.run().await {} });
        (presence, sent, token)
    }

    /// Counts the requests of a call that must be refused for this permission.
    async fn refuses(
        &self,
        what: &str,
        sent: &AtomicUsize,
        lacking: &str,
        work: impl AsyncFn() -> Result<(), Error>,
    ) {
        let mut is_late = false;
        let (before, begun, error) = loop {
            let (before, begun) = (sent.load(Ordering::Relaxed), Instant::now());
            let error = work().await.expect_err(what);
            // A busy machine may not answer in time, and apply it later.
            if error.kind() != Kind::Timeout {
                break (before, begun, error);
            }
            is_late = true;
        };
        assert!(begun.elapsed() < AT_ONCE, "{what}: {error} after {:?}", begun.elapsed());
        assert_eq!(error.kind(), Kind::PermissionDenied, "{what}: {error}");
        let lacking = format!("lacks permission {lacking}");
        assert!(error.message().contains(&lacking), "{what}: {lacking}: {error}");
        assert!(!error.refused().is_empty(), "{what}: {error:?}");
        assert!(is_late || !error.maybe_applied(), "{what}: {error:?}");
        sleep((begun + COUNTED).saturating_duration_since(Instant::now())).await;
        let requests = sent.load(Ordering::Relaxed) - before;
        assert!(requests <= MAX_REQUESTS, "{what}: {requests} requests");
    }
}

async fn locked(presence: &Arc<Presence>, key: &str, wait: Wait) -> Result<Arc<Lease>, Error> {
    lock::acquire(presence, key, &LockOptions { value: None, wait, is_own: false }).await
}

fn refused(management: &str, transport: impl Fn() -> Arc<dyn Transport>) {
    runtime().block_on(async {
        let clock = Arc::new(SystemClock::new());
        let (transports, rng) = (vec![transport()], fastrand::Rng::new());
        let manager = Client::new(transports, settings(Some(management)), clock, rng);
        let world = World { transport: &transport, manager };
        // A server can refuse tokens for a moment after its start.
        while let Err(error) = world.manager.call(&kv::PUT, &Args::new().arg("x").arg("1")).await {
            assert!(error.is_transient() || error.kind() == Kind::AclNotFound, "{error}");
            sleep(Duration::from_millis(50)).await;
        }
        let waits = [Wait::Once, Wait::For(Duration::from_secs(20)), Wait::Forever];
        let locks = async {
            for (key, wait) in [("locks/a", waits[0]), ("locks/a", waits[1]), ("locks/b", waits[2])]
            {
                let (process, sent, _) = world.process(READ_ALL).await;
                let work = async || locked(&process, key, wait).await.map(|_| ());
                world.refuses("a lock", &sent, &format!("'key:write' on {key:?}"), work).await;
            }
        };
        tokio::join!(
            locks,
            existing_lock(&world),
            semaphore(&world),
            fenced_put(&world),
            unreadable(&world),
            release(&world),
            cluster(&world),
            blind_node(&world),
        );
    });
}

async fn existing_lock(world: &World<'_>) {
    let (owner, _, _) =
        world.process(&format!("{READ_ALL}\nkey \"locks/old\" {{ policy = \"write\" }}")).await;
    let lease = locked(&owner, "locks/old", Wait::Forever).await.expect("it is free");
    lease.release().await.expect("it is held");
    let (process, sent, _) = world.process(READ_ALL).await;
    let work = async || locked(&process, "locks/old", Wait::Forever).await.map(|_| ());
    world.refuses("an existing lock", &sent, "'key:write' on \"locks/old\"", work).await;
}

async fn semaphore(world: &World<'_>) {
    let rules = format!(
        "{READ_ALL}\nkey_prefix \"permits/\" {{ policy = \"write\" }}\n\
         key \"permits/.lock\" {{ policy = \"read\" }}"
    );
    let (process, sent, _) = world.process(&rules).await;
    let work = async || permit(&process, 1, Wait::Forever).await.map(|_| ());
    world.refuses("a semaphore", &sent, "'key:write' on \"permits/.lock\"", work).await;
}

async fn fenced_put(world: &World<'_>) {
    let rules = format!("{READ_ALL}\nkey \"locks/c\" {{ policy = \"write\" }}");
    let (process, sent, _) = world.process(&rules).await;
    let lease = locked(&process, "locks/c", Wait::Forever).await.expect("it is free");
    let work = async || lease.fenced_put("data", b"1".to_vec()).await.map(|_| ());
    world.refuses("a fenced put", &sent, "'key:write' on \"data\"", work).await;
}

/// A missing permission for the check of the lock does not prove that the lock is lost.
async fn unreadable(world: &World<'_>) {
    let rules = format!("{READ_ALL}\nkey \"locks/e\" {{ policy = \"write\" }}");
    let (process, sent, token) = world.process(&rules).await;
    let lease = locked(&process, "locks/e", Wait::Forever).await.expect("it is free");
    token.set_rules(&world.manager, &READ_ALL.replace("key_prefix \"\"", "key \"data\"")).await;
    let work = async || lease.fenced_put("data", b"1".to_vec()).await.map(|_| ());
    world.refuses("a check", &sent, "'key:read' on \"locks/e\"", work).await;
}

async fn release(world: &World<'_>) {
    let rules = format!("{READ_ALL}\nkey \"locks/d\" {{ policy = \"write\" }}");
    let (process, sent, token) = world.process(&rules).await;
    let lease = locked(&process, "locks/d", Wait::Forever).await.expect("it is free");
    token.set_rules(&world.manager, READ_ALL).await;
    world
        .refuses("a release", &sent, "'key:write' on \"locks/d\"", async || lease.release().await)
        .await;
}

async fn cluster(world: &World<'_>) {
    let options = cluster::Options::new("n1", "127.0.0.1:1");
    let rules = format!(
        "{READ_ALL}\nkey_prefix \"tsdb/\" {{ policy = \"write\" }}\n\
         key {:?} {{ policy = \"read\" }}",
        options.leader_key
    );
    let (client, sent) = world.client(&Token::new(&world.manager, &rules).await.secret);
    let client = Arc::new(client);
    let lacking = format!("'key:write' on {:?}", options.leader_key);
    let node = Cluster::new(Arc::clone(&client), client, options).expect("good options");
    let running = Arc::clone(&node);
    tokio::spawn(async move { running.run().await });
    // A start makes some 20 requests without any refusal. The requests of the node after it are counted.
    let work = async || {
        let started = node.started().await;
        sent.store(0, Ordering::Relaxed);
        started
    };
    world.refuses("the start of a node", &sent, &lacking, work).await;
}

/// A node from which ACLs hide its instance says so, also where Consul's answer does not tell it.
async fn blind_node(world: &World<'_>) {
    let rules = r#"
        key_prefix "" { policy = "write" }
        session_prefix "" { policy = "write" }
        service_prefix "" { policy = "write" }
    "#;
    let client = Arc::new(world.client(&Token::new(&world.manager, rules).await.secret).0);
    let options = cluster::Options {
        nodes_prefix: "blind/nodes/".to_owned(),
        leader_key: "blind/leader".to_owned(),
        shards_prefix: "blind/shards/".to_owned(),
        ..cluster::Options::new("blind", "127.0.0.1:1")
    };
    let node = Cluster::new(Arc::clone(&client), client, options).expect("good options");
    let running = Arc::clone(&node);
    tokio::spawn(async move { running.run().await });
    let begun = Instant::now();
    loop {
        let why = consul_cluster::nodes::start::missing(&node).await;
        if why.starts_with("its check does not pass; ") && why.contains("node:read") {
            return;
        }
        assert!(begun.elapsed() < AT_ONCE, "{why}");
        sleep(Duration::from_millis(100)).await;
    }
}
