//! A node's knowledge of its cluster at one moment, and the routing of keys by it.

use crate::leader::record::Blocked;
use crate::nodes::kept_mode::Modes;
use crate::nodes::node::Node;
use crate::nodes::pause::Pause;
use crate::nodes::weights::Weights;
use crate::shard_map::{ReplicaState, ShardMap};
use consul_api::ring::Ring;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

/// The leader, from the document of the leader's key.
#[derive(Clone, Debug, PartialEq)]
pub struct Leader {
    /// The node's name.
    pub node_id: String,
    /// The node's address, `host:port`.
    pub address: String,
    /// The session that holds the leader's key.
    pub session_id: String,
    /// The fencing token of its leadership.
    pub token: u64,
    /// When it tried to become the leader, in Unix milliseconds by its own clock.
    pub elected_at_ms: u64,
}

/// The known state of Consul's last list of nodes' instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sight {
    /// There was no list yet.
    #[default]
    None,
    /// All that this process may not know of: the answer does not tell whether ACLs hide some.
    Untold,
    /// All instances.
    Whole,
    /// Not all: ACLs hide some.
    Part,
}

/// The state of the cluster as this node last learned it.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// All members by name, including those that are down.
    pub nodes: BTreeMap<String, Node>,
    /// The modes that operators have given to nodes which are not there: their next start takes them.
    pub kept_modes: Modes,
    /// The pause of all automatic moves of shards, if an operator has ordered one.
    pub paused: Option<Pause>,
    /// The weights that operators have set, also of nodes that are not there.
    pub weights: Weights,
    /// The leader; `None` also while Consul is unreachable.
    pub leader: Option<Leader>,
    /// The cause that keeps all nodes from the leader's key.
    pub blocked: Option<Blocked>,
    /// The shard map; `None` until the first one is known.
    pub map: Option<Arc<ShardMap>>,
    /// The members whose loss has frozen the map; empty: it is not frozen.
    pub frozen: Vec<String>,
    /// Whether the map was put back after Consul had lost it, and no leader has made another one since.
    pub is_restored: bool,
    /// Whether the watch of the leader's key gets answers from Consul.
    pub is_connected: bool,
    /// How long ago, in milliseconds, the server from which an operator has read this had contact with a Raft leader; `None`: it
    /// has it from the leader.
    pub age_ms: Option<u64>,
    /// The node to which the last leader handed the leadership over, until there is a leader.
    pub(crate) successor: Option<String>,
    /// Whether ACLs hide keys of nodes from this one.
    pub(crate) hides_keys: bool,
    /// Whether ACLs hide instances of nodes from this one.
    pub(crate) sight: Sight,
    /// The right that this process lacks to see all nodes, while Consul's answers do not tell what ACLs hide.
    pub(crate) may_hide: Option<String>,
    /// The nodes' prefixes of other clusters whose nodes are instances of the same service.
    pub(crate) other_clusters: BTreeSet<String>,
    /// Why this node may not do a leader's work.
    pub cannot_lead: Option<String>,
    /// Whether another program's value is in the key of the weights that operators set.
    pub has_foreign_weights: bool,
    /// Why keys of the shard map cannot be read, as an operator has looked.
    pub unreadable: Vec<String>,
    ring: OnceLock<(Vec<String>, Ring)>,
}

impl Snapshot {
    /// A copy with `change` applied.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Snapshot)) -> Self {
        let mut next = Snapshot {
            nodes: self.nodes.clone(),
            kept_modes: self.kept_modes.clone(),
            paused: self.paused.clone(),
            weights: self.weights.clone(),
            has_foreign_weights: self.has_foreign_weights,
            leader: self.leader.clone(),
            blocked: self.blocked.clone(),
            map: self.map.clone(),
            frozen: self.frozen.clone(),
            is_restored: self.is_restored,
            is_connected: self.is_connected,
            age_ms: self.age_ms,
            successor: self.successor.clone(),
            hides_keys: self.hides_keys,
            sight: self.sight,
            may_hide: self.may_hide.clone(),
            other_clusters: self.other_clusters.clone(),
            cannot_lead: self.cannot_lead.clone(),
            unreadable: self.unreadable.clone(),
            ring: OnceLock::new(),
        };
        change(&mut next);
        next
    }

    /// Whether ACLs hide nodes from this process, or may hide some since it lacks a right.
    pub(crate) fn is_hidden(&self) -> bool {
        self.hides_keys || self.sight == Sight::Part || self.may_hide().is_some()
    }

    /// The rights that this process lacks to see all nodes, where Consul does not tell what it hides.
    pub(crate) fn may_hide(&self) -> Option<&str> {
        self.may_hide.as_deref().filter(|_| self.sight == Sight::Untold)
    }

    /// The nodes' prefixes of other clusters whose nodes are instances of the same service in Consul.
    pub fn other_clusters(&self) -> impl Iterator<Item = &str> {
        self.other_clusters.iter().map(String::as_str)
    }

    /// The live members.
    pub fn live(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.is_live)
    }

    /// Whether shards that have a place keep it.
    pub(crate) fn moves_nothing(&self) -> bool {
        !self.frozen.is_empty() || self.paused.is_some()
    }

    /// The weight that an operator has given to a node. While Consul lacks the key of the weights, the node shows it.
    pub fn set_weight_of(&self, node_id: &str) -> Option<f64> {
        let shown = || self.nodes.get(node_id)?.record.set_weight;
        match self.weights.is_empty() {
            true => shown(),
            false => self.weights.get(node_id).copied(),
        }
    }

    /// Whether a live node shows the weight that an operator has given to it, or the lack of one. A node of an earlier
    /// release does not tell the latter.
    pub fn has_taken_weight(&self, node_id: &str, weight: Option<f64>) -> bool {
        let Some(node) = self.nodes.get(node_id) else { return false };
        match weight {
            Some(weight) => node.record.weight == weight,
            None => node.record.set_weight.is_none(),
        }
    }

    /// The shard of a key; `None` without a map.
    pub fn shard_of(&self, key: &[u8]) -> Option<usize> {
        self.map.as_ref().map(|map| map.shard_of(key))
    }

    /// The node to which requests for a key go: the first available replica of its shard, or the first
    /// replica if none is available. Without a map the hash ring of the available nodes decides.
    pub fn node_for(&self, key: &[u8]) -> Option<&Node> {
        self.replicas_for(key, 1).into_iter().next()
    }

    /// Up to `count` different nodes for a key: the replicas of its shard, available ones first, then
    /// the next nodes on the hash ring.
    pub fn replicas_for(&self, key: &[u8], count: usize) -> Vec<&Node> {
        let mut nodes: Vec<&Node> = Vec::new();
        if let Some(map) = &self.map {
            let rank = |(node, state): &(&Node, ReplicaState)| {
                let of_state = match state {
                    ReplicaState::Available => 0,
                    ReplicaState::Leaving => 1,
                    ReplicaState::Initializing { .. } => 2,
                };
                (!node.is_available(), of_state)
            };
            let holders = map.nodes_of(map.shard_of(key));
            let holders = holders.filter_map(|(id, state)| Some((self.nodes.get(id)?, state)));
            let mut holders: Vec<(&Node, ReplicaState)> = holders.collect();
            holders.sort_by_key(rank);
            nodes.extend(holders.into_iter().map(|(node, _)| node));
        }
        if nodes.len() < count {
            let (ids, ring) = self.ring();
            for place in ring.replicas(key, ids.len()) {
                let node = self.nodes.get(&ids[place]);
                let node =
                    node.filter(|node| !nodes.iter().any(|it| it.record.id == node.record.id));
                nodes.extend(node);
            }
        }
        nodes.truncate(count);
        nodes
    }

    fn ring(&self) -> &(Vec<String>, Ring) {
        self.ring.get_or_init(|| {
            let available = self.nodes.values().filter(|node| node.is_available());
            let weighted: Vec<(String, f64)> =
                available.map(|node| (node.record.id.clone(), node.record.weight)).collect();
            let ring = Ring::new(&weighted);
            (weighted.into_iter().map(|(id, _)| id).collect(), ring)
        })
    }
}
