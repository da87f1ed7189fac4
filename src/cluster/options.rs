//! How a node takes part in its cluster.

use super::data_plane::{ClusterKey, SHORTEST_SECRET};
use super::shard_map::MOST_SHARDS;
use crate::client::coordination::Profile;
use crate::error::{Error, Kind};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a node says of itself and of its cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node's name in the cluster, which no other live node has.
    pub node_id: String,
    /// Where the node is found, for the other nodes to use: `host:port`.
    pub node_address: String,
    /// Replicas of a shard are in different zones as long as there are enough of them; empty: none.
    pub zone: String,
    /// Its share of the shards beside the others'; 0: it gets none.
    pub weight: f64,
    /// What else the other nodes shall know of it.
    pub meta: BTreeMap<String, String>,
    /// The key whose lock is the leadership.
    pub leader_key: String,
    /// The prefix of the nodes' keys.
    pub nodes_prefix: String,
    /// The prefix of the shard map's keys.
    pub shards_prefix: String,
    /// The key of what all nodes must agree on.
    pub config_key: String,
    /// How fast a crash is noticed.
    pub profile: Profile,
    /// How many shards there are; the same on all nodes.
    pub shards: usize,
    /// How many nodes have each shard; the same on all nodes.
    pub replicas: usize,
    /// Whether this node's program gets the data of new shards, and says when it has them.
    pub hand_off: bool,
    /// With fewer live nodes than these the shard map stays as it is.
    pub min_nodes: usize,
    /// How long a node may be away before others get its shards.
    pub replace_after: Duration,
    /// How long a node may be away before it is no member any more.
    pub forget_after: Duration,
    /// How long a start may take.
    pub start_timeout: Duration,
    /// How often a node looks whether its own key is as it should be.
    pub heartbeat_interval: Duration,
    /// Where the node listens for requests of the others: `host:port`, 0 for any port.
    pub data_address: String,
    /// What requests between nodes are signed with.
    pub cluster_key: Option<ClusterKey>,
    /// The largest request that the node makes or takes.
    pub max_request_bytes: usize,
    /// The largest reply that the node gives or takes.
    pub max_reply_bytes: usize,
    /// How many calls to one other node may be under way.
    pub max_in_flight: usize,
    /// How many requests may wait for the program.
    pub max_waiting_requests: usize,
    /// The Unix time at the origin of the client's clock.
    pub epoch: Duration,
}

impl Options {
    /// The defaults for a node of this name and address.
    pub fn new(node_id: impl Into<String>, node_address: impl Into<String>) -> Self {
        Options {
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
            max_request_bytes: 4 << 20,
            max_reply_bytes: 16 << 20,
            max_in_flight: 64,
            max_waiting_requests: 256,
            epoch: Duration::ZERO,
        }
    }

    /// Whether they fit together.
    ///
    /// # Errors
    /// [`Kind::Config`], naming the option, its value and what is allowed.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::new(Kind::Config, why).not_sent());
        let is_plain =
            |id: &str| !id.is_empty() && !id.contains(|c: char| c == '/' || c.is_control());
        if !is_plain(&self.node_id) || matches!(self.node_id.as_str(), "." | "..") {
            return refuse(format!(
                "node_id is {:?}: it must be a name without `/` and control characters",
                self.node_id
            ));
        }
        if self.node_address.is_empty() {
            return refuse(
                "node_address is empty: it must say where the node is, host:port".into(),
            );
        }
        if !(self.weight.is_finite() && (0.0..=1000.0).contains(&self.weight)) {
            return refuse(format!("weight is {}: it must be from 0 to 1000", self.weight));
        }
        for (name, value, most) in
            [("shards", self.shards, MOST_SHARDS), ("replicas", self.replicas, 16)]
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
                    "{name} is {key:?}: it must not be empty nor begin with `/`"
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
                "cluster_key is too short: it must have {SHORTEST_SECRET} bytes"
            ));
        }
        if self.forget_after < self.replace_after {
            return refuse(format!(
                "forget_after_s is {} and replace_after_s {}: a node's shards must be replaced before it is forgotten",
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

    /// The key of this or another node.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_named() {
        let refused = |change: fn(&mut Options)| {
            let mut options = Options::new("n1", "127.0.0.1:9000");
            options.check().expect("good defaults");
            change(&mut options);
            options.check().expect_err("a bad option").message().to_owned()
        };
        for (change, why) in [
            ((|o| o.node_id = "a/b".into()) as fn(&mut Options), "node_id is \"a/b\""),
            (|o| o.node_id = "..".into(), "node_id"),
            (|o| o.node_address.clear(), "node_address is empty"),
            (|o| o.weight = f64::NAN, "weight is NaN"),
            (|o| o.shards = 0, "shards is 0"),
            (|o| o.replicas = 17, "from 1 to 16"),
            (|o| o.leader_key = "/x".into(), "leader_key is \"/x\""),
            (|o| o.nodes_prefix = "nodes".into(), "must end with `/`"),
            (|o| o.config_key = "tsdb/cluster/nodes/x".into(), "they overlap"),
            (|o| o.forget_after = Duration::from_secs(1), "forget_after_s is 1"),
            (|o| o.profile.beat = Duration::from_secs(2), "a third of check_ttl_ms"),
        ] {
            let message = refused(change);
            assert!(message.contains(why), "{message}");
        }
    }
}
