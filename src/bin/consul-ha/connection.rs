//! The client and the observer of a run.

use super::arguments::{CommandLine, Consul, Keys};
use super::failure::Failure;
use consul_ffi::client::Client;
use consul_ffi::clock::WallClock;
use consul_ffi::cluster::{Cluster, Options, Snapshot};
use consul_ffi::config::{Config, of_cluster};
use consul_ffi::connect::connect;
use consul_ffi::error::Error;
use consul_ffi::logs;
use consul_ffi::wire::value::Value;
use consul_ffi::wire::value::shape::unknown;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

/// The name by which nodes see this program when it calls them.
const NAME: &str = "consul-ha";

pub struct Session {
    pub client: Arc<Client>,
    pub options: Options,
}

impl Session {
    pub fn new(line: &CommandLine) -> Result<Self, Failure> {
        let env = |name: &str| std::env::var_os(name).map(OsStringExt::into_vec);
        let config = Config::new(&of_consul(&line.consul), env)?;
        logs::init(config.log_level);
        let (options, _) = of_cluster(&of_keys(&line.keys))?;
        let options = Options { wall_clock: WallClock::machine(), ..options };
        Ok(Session { client: Arc::new(connect(&config)?), options })
    }

    /// An observer of the cluster, which has not read anything yet.
    pub fn observer(&self) -> Result<Arc<Cluster>, Error> {
        let client = || Arc::clone(&self.client);
        Cluster::new(client(), client(), self.options.clone())
    }

    /// The cluster as it is now.
    pub async fn look(&self) -> Result<Arc<Cluster>, Error> {
        let cluster = self.observer()?;
        cluster.look().await?;
        Ok(cluster)
    }
}

/// Refuses a name that no node of the cluster has, with the nearest one that there is.
pub fn check_node(snapshot: &Snapshot, id: &str) -> Result<(), Failure> {
    if snapshot.nodes.contains_key(id) {
        return Ok(());
    }
    let known: Vec<&str> = snapshot.nodes.keys().map(String::as_str).collect();
    Err(Failure::Refused(unknown("node", id, &known)))
}

fn of_consul(consul: &Consul) -> Vec<(String, Value)> {
    let text = |text: &Option<String>| text.as_deref().map(Value::from);
    let addresses = consul.http_addr.iter().map(|address| address.as_str().into()).collect();
    let given = [
        ("endpoints", (!consul.http_addr.is_empty()).then_some(Value::List(addresses))),
        ("token_file", text(&consul.token_file)),
        ("tls_ca_file", text(&consul.ca_file)),
        ("tls_cert_file", text(&consul.client_cert)),
        ("tls_key_file", text(&consul.client_key)),
        ("tls_server_name", text(&consul.tls_server_name)),
        ("datacenter", text(&consul.datacenter)),
        ("timeout", Some(u64::from(consul.timeout_ms).into())),
    ];
    named(given)
}

fn of_keys(keys: &Keys) -> Vec<(String, Value)> {
    let text = |text: &Option<String>| text.as_deref().map(Value::from);
    let nodes = match &keys.prefix {
        Some(prefix) if prefix.trim_matches('/').is_empty() => Some("nodes/".into()),
        Some(prefix) => Some(format!("{}/nodes/", prefix.trim_end_matches('/')).into()),
        None => text(&keys.nodes_prefix),
    };
    let given = [
        ("observer", Some(true.into())),
        ("node_id", Some(NAME.into())),
        ("leader_key", text(&keys.leader_key)),
        ("nodes_prefix", nodes),
        ("shards_prefix", text(&keys.shards_prefix)),
        ("config_key", text(&keys.config_key)),
    ];
    named(given)
}

fn named<const N: usize>(given: [(&str, Option<Value>); N]) -> Vec<(String, Value)> {
    let given = given.into_iter();
    given.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
