//! The numbers of a node, and of its cluster as it sees it.

use crate::nodes::node::VERSION;
use crate::shard_map::ReplicaState;
use crate::{Cluster, Snapshot};
use consul_process::metrics::{Page, Source, table};

/// Every result of [`Cluster::state`].
const STATES: [&str; 8] = [
    "joining",
    "follower",
    "candidate",
    "leader",
    "suspended",
    "draining",
    "maintenance",
    "observer",
];

/// Every result of [`Node::status`](super::Node::status).
const STATUSES: [&str; 4] = ["up", "down", "draining", "maintenance"];

// Two nodes or observers of a process may have one name, in two datacenters or in two Lua states: neither hides what is wrong
// with the other, and nothing is added.
impl Source for Cluster {
    fn write(&self, page: &mut Page) {
        let snapshot = self.snapshot();
        let labels = [self.options.nodes_prefix.as_str(), self.options.node_id.as_str()];
        let [cluster, node] = labels;
        let state = self.state();
        for name in STATES {
            let level = f64::from(name == state);
            page.at_least(&table::CLUSTER_STATE, &[cluster, node, name], level);
        }
        for name in STATUSES {
            let nodes = snapshot.nodes.values().filter(|node| node.status() == name);
            let level = nodes.count() as f64;
            page.at_least(&table::CLUSTER_NODES, &[cluster, node, name], level);
        }
        for (metric, level) in [
            (&table::CLUSTER_IN_TOUCH, f64::from(self.is_in_touch())),
            (&table::CLUSTER_HAS_LEADER, f64::from(snapshot.leader.is_some())),
            (&table::CLUSTER_MAP_EPOCH, self.epoch() as f64),
        ] {
            page.at_most(metric, &labels, level);
        }
        for (metric, level) in [
            (&table::CLUSTER_CLOCK, self.unix_ms() as f64 / 1e3),
            (&table::CLUSTER_FROZEN, f64::from(!snapshot.frozen.is_empty())),
            (&table::CLUSTER_PAUSED, f64::from(snapshot.paused.is_some())),
            (&table::CLUSTER_HIDDEN, f64::from(snapshot.is_hidden())),
        ] {
            page.at_least(metric, &labels, level);
        }
        if let Some(expiry) = self.client.expiry() {
            page.at_most(&table::CONSUL_CERTIFICATE_EXPIRY, &labels, expiry.at_s as f64);
        }
        page.at_least(&table::BUILD_INFO, &[cluster, node, VERSION], 1.0);
        write_shards(page, labels, &snapshot, self.options.member_id());
    }
}

fn write_shards(
    page: &mut Page,
    [cluster, node]: [&str; 2],
    snapshot: &Snapshot,
    own: Option<&str>,
) {
    let (mut available, mut initializing, mut leaving) = (0, 0, 0);
    let (mut primaries, mut others) = (0, 0);
    let map = snapshot.map.as_deref();
    let shards = map.into_iter().flat_map(|map| (0..map.shard_count()).map(|it| map.nodes_of(it)));
    for (place, (id, state)) in shards.flat_map(Iterator::enumerate) {
        match state {
            ReplicaState::Available => available += 1,
            ReplicaState::Initializing { .. } => initializing += 1,
            ReplicaState::Leaving => leaving += 1,
        }
        match (Some(id) == own, place) {
            (true, 0) => primaries += 1,
            (true, _) => others += 1,
            (false, _) => {}
        }
    }
    for (metric, name, count) in [
        (&table::CLUSTER_SHARDS, "available", available),
        (&table::CLUSTER_SHARDS, "initializing", initializing),
        (&table::CLUSTER_SHARDS, "leaving", leaving),
        (&table::CLUSTER_OWN_SHARDS, "primary", primaries),
        (&table::CLUSTER_OWN_SHARDS, "replica", others),
    ] {
        page.at_least(metric, &[cluster, node, name], f64::from(count));
    }
}
