//! Three live nodes with a replicated store, on one Consul with ACLs.

use crate::program::{Following, PATIENCE, PRINTED, Run, Server};
use crate::support::agent::serve_agent;
use crate::support::authority::Folder;
use crate::support::consul::RealConsul;
use consul_api::api::{acl, agent, kv, session};
use consul_api::request::Args;
use consul_api::value::Value;
use consul_client::Client;
use consul_client::coordination::Profile;
use consul_cluster::data_plane::{ClusterKey, DataPlane};
use consul_cluster::observe::report::Overviews;
use consul_cluster::stores::leader::{self, Reach};
use consul_cluster::stores::remote::{Background, Remote, service, service_name};
use consul_cluster::stores::{Store, StoreOptions};
use consul_cluster::{Cluster, Options};
use consul_config::Config;
use consul_config::connect::connect;
use consul_process::clock::WallClock;
use consul_replication::storage::Memory;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// A value that no output may show.
pub const SECRET: &str = "planted-value-8d1c";

/// A key of the program's data, which no output may show.
pub const SECRET_KEY: &str = "planted-key-77aa";

/// The secret of the calls between nodes, which no output may show.
pub const CLUSTER_KEY: &str = "planted-cluster-key-19f0";

/// A node that listens at its data address, and does not answer there.
pub const DEAF: &str = "n4";

pub struct System {
    pub consul: RealConsul,
    key_file: String,
    _folder: Folder,
    pub client: Arc<Client>,
    runtime: Runtime,
    nodes: Mutex<BTreeMap<String, JoinHandle<()>>>,
}

/// A client with this token.
pub fn client(address: &str, token: &str) -> Arc<Client> {
    let given = [("endpoint", address), ("token", token)];
    let given = given.map(|(name, text)| (name.to_owned(), text.into()));
    let config = Config::new(&given, |_| None).expect("good options");
    Arc::new(connect(&config).expect("a client"))
}

impl System {
    /// Starts Consul and the nodes, and waits until they share their shards.
    pub fn start(version: &str) -> System {
        let consul = RealConsul::start_with_acl(version, "deny").expect("it is there");
        let client = client(&consul.address, &consul.token);
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let folder = Folder::new();
        let key_file = folder.file("cluster.key", CLUSTER_KEY);
        let nodes = Mutex::default();
        let system = System { consul, key_file, _folder: folder, client, runtime, nodes };
        (1..=3).for_each(|number| system.start_node(&format!("n{number}")));
        system.put(&format!("user/{SECRET_KEY}"), SECRET);
        system.wait_for("three nodes with shards", || {
            let nodes = system.run(&["nodes", "--json"]).json()["nodes"].clone();
            let has = |node: &Json| node["replicas"].as_u64() > Some(0);
            nodes.as_array().is_some_and(|nodes| nodes.len() == 3 && nodes.iter().all(has))
        });
        system.wait_for("the store has a map", || {
            system.traces()[0].iter().any(|key| key == "ha/shards/maps/points")
        });
        system.wait_for("the election is over", || system.traces()[2].len() == 1);
        system
    }

    /// Starts a node in the background.
    pub fn start_node(&self, id: &str) {
        self.start_node_with(id, WallClock::machine(), true);
    }

    /// Starts a node with this clock; without shards unless it is `whole`.
    pub fn start_node_with(&self, id: &str, wall_clock: WallClock, whole: bool) {
        self.start_node_at((&self.consul.address, &self.consul.token), id, wall_clock, whole);
    }

    /// Starts a node that has another Consul, and returns its record there.
    pub fn start_node_elsewhere(&self, id: &str) -> String {
        let address = serve_agent();
        self.start_node_at((&address, ""), id, WallClock::machine(), true);
        let (other, key) = (client(&address, ""), Args::new().arg(format!("ha/nodes/{id}")));
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.runtime.block_on(other.call(&kv::GET, &key)).expect("an answer").value;
            if let Value::Bytes(record) = found {
                return String::from_utf8(record).expect("a record");
            }
            assert!(Instant::now() < end, "{id} does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn start_node_at(
        &self,
        (address, token): (&str, &str),
        id: &str,
        wall_clock: WallClock,
        whole: bool,
    ) {
        let options = Options {
            leader_key: "ha/leader".to_owned(),
            nodes_prefix: "ha/nodes/".to_owned(),
            shards_prefix: "ha/shards/".to_owned(),
            config_key: "ha/config".to_owned(),
            // The effects of a node that hangs are tested before its check expires.
            profile: if id == DEAF { Profile::standard() } else { Profile::fast() },
            shards: 16,
            zone: format!("zone-{id}"),
            weight: if whole { 1.0 } else { 0.0 },
            wall_clock,
            cluster_key: Some(ClusterKey::new(CLUSTER_KEY)),
            meta: [("purpose".to_owned(), SECRET.to_owned())].into(),
            ..Options::new(id, "127.0.0.1:9000")
        };
        let new = || client(address, token);
        let _entered = self.runtime.enter();
        let (beats, waits) = (new(), new());
        let cluster = Cluster::new(Arc::clone(&beats), waits, options).expect("good options");
        let plane = DataPlane::new(Arc::clone(&cluster), |_| ()).expect("a port is free");
        let store = self.store(&cluster, &plane, beats);
        let overviews = Overviews::new(Arc::clone(&cluster), Some(Arc::clone(&plane)));
        overviews.add_store(&store);
        let reach = Arc::clone(&plane);
        let reach: Reach = Arc::new(move |store| Arc::new(remote(&reach, store)));
        let is_deaf = id == DEAF;
        let running = self.runtime.spawn(async move {
            let _overviews = overviews;
            tokio::select! {
                why = cluster.run() => drop(why),
                never = leader::run(&cluster, &reach) => match never {},
                _ = plane.serve(), if !is_deaf => {}
                _ = store.run() => {}
            }
        });
        self.nodes.lock().unwrap().insert(id.to_owned(), running);
    }

    /// Ends a node as the death of its process does.
    pub fn stop_node(&self, id: &str) {
        self.nodes.lock().unwrap().remove(id).expect("it runs").abort();
    }

    fn store(
        &self,
        cluster: &Arc<Cluster>,
        plane: &Arc<DataPlane>,
        client: Arc<Client>,
    ) -> Arc<Store> {
        let options = StoreOptions { shards: 8, ..StoreOptions::new("points", cluster.options()) };
        let (name, shards) = (options.name.clone(), options.shards);
        let peers = Arc::new(remote(plane, &name));
        let background = Arc::new(Background::new(self.runtime.handle().clone(), client));
        let memory = Some(Arc::new(Memory::new()) as _);
        let store = Store::new(Arc::clone(cluster), peers, background, memory, options);
        let store = store.expect("good options");
        let serving = Arc::clone(&store);
        let serve = Arc::new(move |body| {
            let holder = serving.holder();
            Box::pin(async move {
                match holder {
                    Some(holder) => service(holder, shards)(body).await,
                    None => Err(consul_api::error::Error::new(
                        consul_api::error::Kind::NotReady,
                        "the storage is not open",
                    )),
                }
            }) as _
        });
        plane.set_service(&service_name(&name), Some(serve));
        store
    }

    /// Runs the program as an operator with all rights; again, where this machine was too busy for the nodes to reply in time.
    pub fn run(&self, arguments: &[&str]) -> Run {
        let end = Instant::now() + PATIENCE;
        loop {
            let run = self.run_as(&self.consul.token, arguments);
            let is_late =
                run.status == 1 && run.out.contains("most nodes do not answer this process");
            if !(is_late && run.out.contains("no reply within") && Instant::now() < end) {
                return run;
            }
        }
    }

    /// Runs the program with this token.
    pub fn run_as(&self, token: &str, arguments: &[&str]) -> Run {
        Run::of(arguments, &self.environment(token))
    }

    /// Starts a verb that goes on until it is stopped.
    pub fn follow(&self, arguments: &[&str]) -> Following {
        Following::start(arguments, &self.environment(&self.consul.token))
    }

    /// Runs the program with this as its standard output.
    pub fn run_into(&self, out: std::fs::File, arguments: &[&str]) -> Run {
        Run::into(out.into(), arguments, &self.environment(&self.consul.token))
    }

    /// The output of a script of bash, for which the program is in the path.
    pub fn shell(&self, script: &str) -> String {
        let folder = std::path::Path::new(env!("CARGO_BIN_EXE_consul-ha")).parent().unwrap();
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let mut bash = std::process::Command::new("bash");
        bash.args(["-c", script]).envs(self.environment(&self.consul.token)).env("PATH", path);
        let output = bash.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts `serve`.
    pub fn serve(&self) -> Server {
        Server::start(&self.environment(&self.consul.token))
    }

    fn environment<'a>(&'a self, token: &'a str) -> [(&'static str, &'a str); 4] {
        [
            ("CONSUL_HA_CLUSTER_KEY_FILE", self.key_file.as_str()),
            ("CONSUL_HTTP_ADDR", self.consul.address.as_str()),
            ("CONSUL_HTTP_TOKEN", token),
            ("CONSUL_HA_PREFIX", "ha/"),
        ]
    }

    /// A token with these rules.
    pub fn token(&self, rules: &str) -> String {
        self.runtime.block_on(token(&self.client, rules))
    }

    /// The address of Consul.
    pub fn address(&self) -> &str {
        &self.consul.address
    }

    pub fn call(&self, endpoint: &'static consul_api::table::Endpoint, args: Args) -> Value {
        self.runtime.block_on(self.client.call(endpoint, &args)).expect("an answer").value
    }

    /// Whether the node runs, or has stopped by itself.
    pub fn is_running(&self, id: &str) -> bool {
        self.nodes.lock().unwrap().get(id).is_some_and(|node| !node.is_finished())
    }

    pub fn put(&self, key: &str, value: &str) {
        self.call(&kv::PUT, Args::new().arg(key).arg(value.as_bytes().to_vec()));
    }

    /// The keys of the cluster, the checks of the agent and the sessions.
    pub fn traces(&self) -> [Vec<String>; 3] {
        let keys = self.call(&kv::KEYS, Args::new().arg(""));
        let keys = keys.items().iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let Value::Map(checks) = self.call(&agent::CHECKS, Args::new()) else {
            panic!("no checks")
        };
        let sessions = self.call(&session::LIST, Args::new());
        let id = |it: &Value| it.get("ID").and_then(Value::as_str).map(str::to_owned);
        let sessions = sessions.items().iter().filter_map(id).collect();
        [keys, checks.into_iter().map(|(name, _)| name).collect(), sessions]
    }

    /// Waits until something is so.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < end, "never: {what}\n{:?}", self.run(&["nodes"]));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// One field of a node, as `nodes --json` shows it.
    pub fn node(&self, id: &str) -> Json {
        let nodes = self.run(&["nodes", "--json"]).json();
        let nodes = nodes["nodes"].as_array().unwrap().clone();
        nodes.into_iter().find(|node| node["id"] == id).unwrap_or(Json::Null)
    }

    /// Requires that no output had a token or a value.
    pub fn says_no_secret(&self) {
        let printed = PRINTED.lock().unwrap();
        assert!(printed.len() > 1000, "nothing was searched");
        for secret in [SECRET, SECRET_KEY, CLUSTER_KEY, &self.consul.token] {
            assert!(!printed.contains(secret), "{secret}");
        }
    }
}

/// Makes a token with these rules.
pub async fn token(client: &Client, rules: &str) -> String {
    let name = format!("policy-{:016x}", fastrand::u64(..));
    let policy = object(&[("Name", name.as_str().into()), ("Rules", rules.into())]);
    client.call(&acl::POLICY_CREATE, &Args::new().arg(policy)).await.expect("a policy");
    let policies = Value::List(vec![object(&[("Name", name.as_str().into())])]);
    let token = object(&[("Policies", policies)]);
    let token = client.call(&acl::TOKEN_CREATE, &Args::new().arg(token)).await.expect("a token");
    token.value.get("SecretID").and_then(Value::as_str).expect("a secret").to_owned()
}

fn remote(plane: &Arc<DataPlane>, store: &str) -> Remote {
    Remote::new(Arc::clone(plane), store, Duration::from_secs(5)).expect("good options")
}

pub fn object(members: &[(&str, Value)]) -> Value {
    Value::Map(members.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}
