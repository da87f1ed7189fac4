//! The options of a node, with their defaults and the checks that they fit together.

use super::data_plane::auth::{ClusterKey, MAX_SECRETS, MIN_SECRET_BYTES};
use super::data_plane::tls::DataTls;
use super::shard_map::MAX_SHARDS;
use consul_api::error::{Error, Kind};
use consul_client::coordination::Profile;
use consul_process::clock::WallClock;
use std::collections::BTreeMap;
use std::time::Duration;

/// The options of a node and of its cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether this process only routes and calls: it is not a member, and has no key, check, session or
    /// shards. Of the other options it uses only the options of keys and calls.
    pub observer: bool,
    /// The node's name in the cluster, which no other live node has. An observer gives it as the caller.
    pub node_id: String,
    /// The address of the node's program, published to the other nodes: `host:port`; empty: none.
    pub node_address: String,
    /// The zone of the node; empty: none. Replicas of a shard are in different zones if there are
    /// enough zones.
    pub zone: String,
    /// The node's share of the shards relative to the other nodes, 0 to 1000; 0: no shards.
    pub weight: f64,
    /// Application metadata published to the other nodes.
    pub meta: BTreeMap<String, String>,
    /// The key whose lock is the leadership.
    pub leader_key: String,
    /// The prefix of the nodes' keys.
    pub nodes_prefix: String,
    /// The prefix of the shard map's keys.
    pub shards_prefix: String,
    /// The key of the configuration that must be the same on all nodes.
    pub config_key: String,
    /// The times that decide how fast a crash is detected.
    pub profile: Profile,
    /// The number of shards; the same on all nodes.
    pub shards: usize,
    /// The number of replicas of each shard; the same on all nodes.
    pub replicas: usize,
    /// Whether the program copies the data of new shards and reports when it has them.
    pub hand_off: bool,
    /// With fewer live nodes the shard map does not change.
    pub min_nodes: usize,
    /// How long a node may be down before other nodes get its shards.
    pub replace_after: Duration,
    /// How long a node may be down before it is removed from the members.
    pub forget_after: Duration,
    /// The time limit of a start.
    pub start_timeout: Duration,
    /// How often a node reads its own key back.
    pub heartbeat_interval: Duration,
    /// The address at which the node listens for requests of other nodes: `host:port`; port 0: any.
    pub data_address: String,
    /// The secret that signs requests and replies between nodes.
    pub cluster_key: Option<ClusterKey>,
    /// The files of mutual TLS between nodes.
    pub data_tls: Option<DataTls>,
    /// Whether `data_tls` is required.
    pub encrypt_traffic: bool,
    /// The largest request that the node sends or accepts.
    pub max_request_bytes: usize,
    /// The largest reply that the node sends or accepts.
    pub max_reply_bytes: usize,
    /// The most calls in flight to one other node.
    pub max_in_flight: usize,
    /// The most requests of other nodes that may wait for the program.
    pub max_waiting_requests: usize,
    /// Whether systemd is told that the node takes part and that its program is alive.
    pub notify: bool,
    /// The time of day.
    pub wall_clock: WallClock,
}

impl Options {
    /// The defaults for a node of this name and address.
    pub fn new(node_id: impl Into<String>, node_address: impl Into<String>) -> Self {
        Options {
            observer: false,
            node_id: node_id.into(),
            node_address: node_address.into(),
            zone: String::new(),
            weight: 1.0,
            meta: BTreeMap::new(),
            leader_key: "tsdb/cluster/leader".to_owned(),
            nodes_prefix: "tsdb/cluster/nodes/".to_owned(),
            shards_prefix: "tsdb/cluster/shards/".to_owned(),
            config_key: "tsdb/cluster/config".to_owned(),
            profile: Profile::standard(),
            shards: 1024,
            replicas: 2,
            hand_off: false,
            min_nodes: 1,
            replace_after: Duration::from_secs(300),
            forget_after: Duration::from_secs(3600),
            start_timeout: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(5),
            data_address: "127.0.0.1:0".to_owned(),
            cluster_key: None,
            data_tls: None,
            encrypt_traffic: false,
            max_request_bytes: 4 << 20,
            max_reply_bytes: 16 << 20,
            max_in_flight: 64,
            max_waiting_requests: 256,
            notify: false,
            wall_clock: WallClock::from_origin(Duration::ZERO),
        }
    }

    /// The defaults for an observer of this name.
    pub fn observer(name: impl Into<String>) -> Self {
        Options { observer: true, ..Options::new(name, "") }
    }

    /// Checks the value of each option, and that the options fit together.
    ///
    /// # Errors
    /// [`Kind::Config`], naming the option, its value and what is allowed.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::new(Kind::Config, why).not_sent());
        check_name("node_id", &self.node_id)?;
        if self.zone.contains(char::is_control) {
            return refuse(format!("zone is {:?}: it must not have control characters", self.zone));
        }
        if !(self.weight.is_finite() && (0.0..=1000.0).contains(&self.weight)) {
            return refuse(format!("weight is {}: it must be from 0 to 1000", self.weight));
        }
        for (name, value, most) in
            [("shards", self.shards, MAX_SHARDS), ("replicas", self.replicas, 16)]
        {
            if !(1..=most).contains(&value) {
                return refuse(format!("{name} is {value}: it must be from 1 to {most}"));
            }
        }
        let keys = [
            ("leader_key", &self.leader_key),
            ("nodes_prefix", &self.nodes_prefix),
            ("shards_prefix", &self.shards_prefix),
            ("config_key", &self.config_key),
        ];
        for (name, key) in keys {
            if key.is_empty() || key.starts_with('/') {
                return refuse(format!(
                    "{name} is {key:?}: it must not be empty or begin with `/`"
                ));
            }
            if name.ends_with("prefix") && !key.ends_with('/') {
                return refuse(format!("{name} is {key:?}: it must end with `/`"));
            }
            let other = keys.iter().find(|(other, it)| {
                *other != name
                    && (key == *it || (name.ends_with("prefix") && it.starts_with(key.as_str())))
            });
            if let Some((other, it)) = other {
                return refuse(format!("{name} is {key:?} and {other} is {it:?}: they overlap"));
            }
        }
        if self.cluster_key.as_ref().is_some_and(ClusterKey::is_too_short) {
            return refuse(format!(
                "cluster_key is too short: it must have at least {MIN_SECRET_BYTES} bytes"
            ));
        }
        let secrets = self.cluster_key.as_ref().map_or(0, ClusterKey::secrets);
        if secrets > MAX_SECRETS {
            return refuse(format!(
                "cluster_key is a list of {secrets} secrets: it can have up to {MAX_SECRETS}"
            ));
        }
        if self.encrypt_traffic && self.data_tls.is_none() {
            return refuse(
                "encrypt_traffic is true: data_tls is required, with cert_file, key_file and ca_file".into(),
            );
        }
        if self.forget_after < self.replace_after {
            return refuse(format!(
                "forget_after_s is {} and replace_after_s is {}: forget_after_s must not be the smaller one, since a node's shards are replaced before the node is removed",
                self.forget_after.as_secs_f64(),
                self.replace_after.as_secs_f64()
            ));
        }
        self.profile.check().map_err(|error| Error::new(Kind::Config, error.message()).not_sent())
    }

    /// The name of the service whose instances are the nodes.
    pub fn service(&self) -> String {
        self.nodes_prefix.trim_end_matches('/').replace('/', "-")
    }

    /// The id of this node's instance of it.
    pub fn service_id(&self) -> String {
        self.service_id_of(&self.node_id)
    }

    /// The id of a node's instance of it.
    pub fn service_id_of(&self, node_id: &str) -> String {
        format!("{}-{node_id}", self.service())
    }

    /// The node's name if it is a member: an observer may have the name of one.
    pub fn member_id(&self) -> Option<&str> {
        (!self.observer).then_some(&*self.node_id)
    }

    /// The key of a node, this one or another.
    pub fn node_key(&self, id: &str) -> String {
        format!("{}{id}", self.nodes_prefix)
    }

    /// The key of the shard map.
    pub fn map_key(&self) -> String {
        format!("{}map", self.shards_prefix)
    }

    /// The key that announces the shard map; it is small, and every node watches it.
    pub fn epoch_key(&self) -> String {
        format!("{}epoch", self.shards_prefix)
    }
}

/// Checks a name that becomes a part of a key.
///
/// # Errors
/// [`Kind::Config`], naming the option, its value and what is allowed.
pub(super) fn check_name(option: &str, name: &str) -> Result<(), Error> {
    let is_plain = !name.contains(|c: char| c == '/' || c.is_control());
    if is_plain && !matches!(name, "" | "." | "..") {
        return Ok(());
    }
    let why = format!("{option} is {name:?}: it must be a name without `/` or control characters");
    Err(Error::new(Kind::Config, why).not_sent())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_option_that_does_not_fit() {
        let refused = |change: fn(&mut Options)| {
            let mut options = Options::new("n1", "127.0.0.1:9000");
            options.check().expect("good defaults");
            change(&mut options);
            options.check().expect_err("a bad option").message().to_owned()
        };
        for (change, why) in [
            ((|o| o.node_id = "a/b".into()) as fn(&mut Options), "node_id is \"a/b\""),
            (|o| o.node_id = "..".into(), "node_id"),
            (|o| o.zone = "z\u{1b}[2J\nforged".into(), "must not have control characters"),
            (|o| o.weight = f64::NAN, "weight is NaN"),
            (|o| o.shards = 0, "shards is 0"),
            (|o| o.replicas = 17, "from 1 to 16"),
            (|o| o.leader_key = "/x".into(), "leader_key is \"/x\""),
            (|o| o.nodes_prefix = "nodes".into(), "must end with `/`"),
            (|o| o.config_key = "tsdb/cluster/nodes/x".into(), "they overlap"),
            (|o| o.encrypt_traffic = true, "data_tls is required"),
            (|o| o.forget_after = Duration::from_secs(1), "forget_after_s is 1"),
            (|o| o.profile.beat = Duration::from_secs(2), "a third of check_ttl_ms"),
        ] {
            let message = refused(change);
            assert!(message.contains(why), "{message}");
        }
    }
}
