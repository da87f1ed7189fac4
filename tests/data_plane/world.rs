//! Nodes that speak with each other over loopback. Their cluster is on a simulated agent, whose clock
//! stands still unless a test moves it.

use bytes::Bytes;
use consul_ffi::client::{Client, Settings};
use consul_ffi::clock::{Clock, ManualClock};
use consul_ffi::cluster::data_plane::{Body, CallOptions, ClusterKey, DataPlane, Request};
use consul_ffi::cluster::{Cluster, Options};
use consul_ffi::error::Error;
use consul_ffi::simulate::{self, Agent, SimTransport};
use consul_ffi::wire::request::{Args, Defaults};
use consul_ffi::wire::value::Value;
use consul_ffi::wire::{agent, kv};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// The prefix of the nodes' keys, by default.
const NODES: &str = "tsdb/cluster/nodes/";

pub struct World {
    pub clock: ManualClock,
    pub runtime: Runtime,
    agent: Arc<Agent>,
    processes: AtomicU64,
}

/// A node whose handlers run beside each other.
pub struct Node {
    pub plane: Arc<DataPlane>,
    pub cluster: Arc<Cluster>,
    /// The requests that its handlers were given: names and bodies.
    pub seen: Arc<Mutex<Vec<(String, Bytes)>>>,
}

impl World {
    pub fn new() -> Self {
        let clock = ManualClock::new();
        let options = simulate::Options {
            clock: Arc::new(clock.clone()),
            seed: 1,
            ..simulate::Options::default()
        };
        let agent = Arc::new(Agent::new(options));
        let timers = Arc::clone(&agent);
        clock.spawn(async move { match timers.run_timers().await {} });
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        World { clock, runtime, agent, processes: AtomicU64::new(0) }
    }

    /// Does something in which the clock moves on.
    pub fn drive<R>(&self, work: impl Future<Output = R>) -> R {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(self.clock.drive(work))
    }

    pub fn wait(&self, time: Duration) {
        self.drive(self.clock.sleep(time));
    }

    pub fn client(&self) -> Arc<Client> {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        let transport = SimTransport::new(Arc::clone(&self.agent), "simulated");
        let transport = transport.for_client(number.to_string());
        let settings = Settings {
            timeout: Duration::from_secs(5),
            retry_count: 3,
            defaults: Defaults::default(),
        };
        let rng = fastrand::Rng::with_seed(number);
        let clock = Arc::new(self.clock.clone());
        Arc::new(Client::new(vec![Arc::new(transport)], settings, clock, rng))
    }

    /// A cluster's node that does not run yet.
    pub fn cluster(&self, options: Options) -> Arc<Cluster> {
        let client = self.client();
        Cluster::new(Arc::clone(&client), client, options).expect("options that fit together")
    }

    /// A node that takes part. Its requests go to `deliver`.
    pub fn node_with(
        &self,
        options: Options,
        deliver: impl Fn(Request) + Send + Sync + 'static,
    ) -> Node {
        let cluster = self.cluster(options);
        let plane = DataPlane::new(Arc::clone(&cluster), deliver).expect("a data plane");
        self.runtime.spawn(Arc::clone(&plane).serve());
        let running = Arc::clone(&cluster);
        self.clock.spawn(async move { drop(running.run().await) });
        self.drive(cluster.started());
        Node { plane, cluster, seen: Arc::default() }
    }

    /// A node with a handler of each of these names, which run beside each other.
    pub fn node<F>(&self, options: Options, names: &[&str], handler: fn(Request) -> F) -> Node
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let seen: Arc<Mutex<Vec<_>>> = Arc::default();
        let (noted, runtime) = (Arc::clone(&seen), self.runtime.handle().clone());
        let node = self.node_with(options, move |request| {
            let Some(request) = request.begin() else { return };
            noted
                .lock()
                .expect("no panic")
                .push((request.name.clone(), request.body.bytes.clone()));
            runtime.spawn(handler(request));
        });
        names.iter().for_each(|name| node.plane.set_handler(name, true));
        Node { seen, ..node }
    }

    /// A node that echoes what it is called with.
    pub fn echo(&self, options: Options) -> Node {
        self.node(options, &["echo"], echo)
    }

    /// Lets all nodes see each other.
    pub fn settle(&self) {
        self.wait(Duration::from_secs(2));
    }

    /// A live member that no process of ours is: its data plane is what listens at this address.
    pub fn member(&self, id: &str, data_address: &str) {
        let record = format!(
            r#"{{"id":"{id}","address":"a:1","data_address":"{data_address}","weight":0,"started_ms":0,"incarnation":"of {id}"}}"#
        );
        let text = |text: &str| Value::from(text);
        let map = |members: Vec<(&str, Value)>| {
            Value::Map(members.into_iter().map(|(name, it)| (name.to_owned(), it)).collect())
        };
        let service = map(vec![
            ("ID", text(&format!("member-{id}"))),
            ("Name", text("tsdb-cluster-nodes")),
            ("Meta", map(vec![("incarnation", text(&format!("of {id}")))])),
            ("Check", map(vec![("TTL", text("1h")), ("Status", text("passing"))])),
        ]);
        let client = self.client();
        self.drive(async {
            let key = Args::new().arg(format!("{NODES}{id}")).arg(record.into_bytes());
            client.call(&kv::PUT, &key).await.expect("a key");
            let service = Args::new().arg(service);
            client.call(&agent::SERVICE_REGISTER, &service).await.expect("a service");
        });
        self.settle();
    }

    /// Calls a handler of a node, and says too how long that took.
    pub fn call(
        &self,
        from: &Node,
        to: &str,
        name: &str,
        body: &str,
        timeout: Duration,
    ) -> (Result<Body, Error>, Duration) {
        let options = CallOptions { timeout, ..CallOptions::default() };
        let begun = Instant::now();
        let body = Body::bytes(body.to_owned());
        (self.runtime.block_on(from.plane.call(to, name, &body, &options)), begun.elapsed())
    }
}

/// Replies with what came.
pub async fn echo(request: Request) {
    let body = request.body.clone();
    request.reply(Ok(body));
}

/// A node's options.
pub fn options(id: &str) -> Options {
    Options::new(id, "127.0.0.1:9000")
}

/// The same with the cluster's key.
pub fn keyed(id: &str) -> Options {
    Options { cluster_key: Some(ClusterKey::new("a secret of the cluster")), ..options(id) }
}
