//! What a node knows of its cluster at one time, and where that sends a key.

use super::membership::Node;
use super::shard_map::{ReplicaState, ShardMap};
use crate::ring::Ring;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Who leads.
#[derive(Clone, Debug, PartialEq)]
pub struct Leader {
    /// The node's name.
    pub node_id: String,
    /// Where it is found.
    pub address: String,
    /// The session that holds the leader's key.
    pub session_id: String,
    /// When it began to take the leadership, in milliseconds of Unix time by its own clock.
    pub elected_at_ms: u64,
}

/// The cluster as it was last known.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// All members by name, those that are down included.
    pub nodes: BTreeMap<String, Node>,
    /// Who leads; none also when Consul is away.
    pub leader: Option<Leader>,
    /// The shard map.
    pub map: Option<Arc<ShardMap>>,
    /// The members whose absence has frozen the map.
    pub frozen: Vec<String>,
    /// Whether Consul answers.
    pub in_touch: bool,
    ring: OnceLock<(Vec<String>, Ring)>,
}

impl Snapshot {
    /// A copy in which `change` was made.
    pub(super) fn with(&self, change: impl FnOnce(&mut Snapshot)) -> Self {
        let mut next = Snapshot {
            nodes: self.nodes.clone(),
            leader: self.leader.clone(),
            map: self.map.clone(),
            frozen: self.frozen.clone(),
            in_touch: self.in_touch,
            ring: OnceLock::new(),
        };
        change(&mut next);
        next
    }

    /// The members that live.
    pub fn live(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.is_live)
    }

    /// The shard of a key, once there is a map.
    pub fn shard_of(&self, key: &[u8]) -> Option<usize> {
        self.map.as_ref().map(|map| map.shard_of(key))
    }

    /// The node that a key belongs to: the first of its shard's replicas that is available, or the
    /// first of all when none is. Without a map it is what a ring of the available nodes says.
    pub fn node_for(&self, key: &[u8]) -> Option<&Node> {
        self.replicas_for(key, 1).into_iter().next()
    }

    /// The first `count` nodes for a key, each once: its shard's replicas, the available ones first,
    /// then the next nodes on the ring.
    pub fn replicas_for(&self, key: &[u8], count: usize) -> Vec<&Node> {
        let mut nodes: Vec<&Node> = Vec::new();
        if let Some(map) = &self.map {
            let has_data = |state: ReplicaState| match state {
                ReplicaState::Available => 0,
                ReplicaState::Leaving => 1,
                ReplicaState::Initializing { .. } => 2,
            };
            let holders = map.nodes_of(map.shard_of(key));
            let holders = holders.filter_map(|(id, state)| Some((self.nodes.get(id)?, state)));
            let mut holders: Vec<(&Node, ReplicaState)> = holders.collect();
            holders.sort_by_key(|(node, state)| (!node.is_available(), has_data(*state)));
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
