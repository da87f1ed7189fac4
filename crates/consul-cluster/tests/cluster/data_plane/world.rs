//! Nodes that call each other over loopback. Their cluster is on a simulated agent, whose clock
//! stands still unless a test advances it.

use crate::support::world as simulated;
use bytes::Bytes;
use consul_api::api::{agent, kv};
use consul_api::error::Error;
use consul_api::request::Args;
use consul_api::value::Value;
use consul_cluster::data_plane::{Body, CallOptions, ClusterKey, DataPlane, Request};
use consul_cluster::{Cluster, Options};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// The prefix of the nodes' keys, by default.
const NODES: &str = "tsdb/cluster/nodes/";

pub struct World {
    pub simulated: simulated::World,
    /// The runtime of the real sockets and handlers.
    pub runtime: Runtime,
}

/// A node whose handlers run concurrently.
pub struct Node {
    pub plane: Arc<DataPlane>,
    pub cluster: Arc<Cluster>,
    /// The requests that reached its handlers: names and bodies.
    pub seen: Arc<Mutex<Vec<(String, Bytes)>>>,
}

impl World {
    pub fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        World { simulated: simulated::World::new(), runtime: runtime.expect("a runtime") }
    }

    /// A node of the cluster, not started.
    pub fn cluster(&self, options: Options) -> Arc<Cluster> {
        let client = self.simulated.client();
        Cluster::new(Arc::clone(&client), client, options).expect("options that fit together")
    }

    /// A started node. Its requests go to `deliver`.
    pub fn node_with(
        &self,
        options: Options,
        deliver: impl Fn(Request) + Send + Sync + 'static,
    ) -> Node {
        let cluster = self.cluster(options);
        let plane = DataPlane::new(Arc::clone(&cluster), deliver).expect("a data plane");
        self.runtime.spawn(Arc::clone(&plane).serve());
        let running = Arc::clone(&cluster);
        self.simulated.clock.spawn(async move { drop(running.run().await) });
        self.simulated.run(cluster.started()).expect("nothing is refused");
        Node { plane, cluster, seen: Arc::default() }
    }

    /// A node with a handler of each of these names, which run concurrently.
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

    /// A node that replies with the body of the request.
    pub fn echo(&self, options: Options) -> Node {
        self.node(options, &["echo"], echo)
    }

    /// Advances the clock until all nodes see each other.
    pub fn settle(&self) {
        self.simulated.wait(Duration::from_secs(2));
    }

    /// A live member without a process: its data plane is the listener at this address.
    pub fn member(&self, id: &str, data_address: &str) {
        self.member_of_start(id, data_address, "first");
    }

    /// The same with the name of this start of the member.
    pub fn member_of_start(&self, id: &str, data_address: &str, start: &str) {
        let record = format!(
            r#"{{"id":"{id}","address":"a:1","data_address":"{data_address}","weight":0,"started_ms":0,"incarnation":"{start} of {id}"}}"#
        );
        let text = |text: &str| Value::from(text);
        let map = |members: Vec<(&str, Value)>| {
            Value::Map(members.into_iter().map(|(name, it)| (name.to_owned(), it)).collect())
        };
        let service = map(vec![
            ("ID", text(&format!("tsdb-cluster-nodes-{id}"))),
            ("Name", text("tsdb-cluster-nodes")),
            ("Meta", map(vec![("incarnation", text(&format!("{start} of {id}")))])),
            ("Check", map(vec![("TTL", text("1h")), ("Status", text("passing"))])),
        ]);
        let client = self.simulated.client();
        self.simulated.run(async {
            let key = Args::new().arg(format!("{NODES}{id}")).arg(record.into_bytes());
            client.call(&kv::PUT, &key).await.expect("a key");
            let service = Args::new().arg(service);
            client.call(&agent::SERVICE_REGISTER, &service).await.expect("a service");
        });
        self.settle();
    }

    /// Calls a handler of a node, and returns the duration too.
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

/// Replies with the body of the request.
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
