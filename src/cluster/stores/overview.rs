//! The stores of a cluster for operators: from their maps in Consul, and from what the nodes tell.

use super::document::StoreMap;
use super::{Store, map_key};
use crate::cluster::Cluster;
use crate::cluster::replication::map::{ChangeKind, Entry, NodeId, Quorums, Slot};
use crate::cluster::report::Told;
use crate::error::Error;
use crate::wire::api::kv;
use crate::wire::request::Args;
use crate::wire::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A replicated store.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoreOverview {
    /// Its name.
    pub name: String,
    /// The number of shards.
    pub shards: u32,
    /// N.
    pub replicas: usize,
    /// W.
    pub write_quorum: usize,
    /// R.
    pub read_quorum: usize,
    /// The version of its map.
    pub map_version: u64,
    /// The replicas that move from one node to another.
    pub moving: Vec<ShardMoving>,
    /// The new replicas in place of lost ones.
    pub repairing: Vec<ShardRepairing>,
    /// The shards of which a replica is missing.
    pub at_risk: Vec<ShardAtRisk>,
    /// The number of shards of which it is not known who has them, since Consul went back.
    pub unrecovered: usize,
}

/// A replica that moves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShardMoving {
    /// The shard.
    pub shard: u32,
    /// The node that gets it.
    pub to: String,
    /// The share of the records that is copied, about; `None`: nobody tells.
    pub done: Option<f64>,
}

/// A new replica in place of a lost one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShardRepairing {
    /// The shard.
    pub shard: u32,
    /// The node that gets it.
    pub on: String,
    /// The share of the records that is copied, about; `None`: nobody tells.
    pub done: Option<f64>,
}

/// A shard of which a replica is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardAtRisk {
    /// The shard.
    pub shard: u32,
    /// The nodes whose replicas are lost, or that are down.
    pub missing: Vec<String>,
    /// The replicas that are there.
    pub left: usize,
    /// With fewer, no new replica can be made without the loss of acknowledged writes.
    pub needed: usize,
}

/// How far a node is with what it copies for a store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CopyReport {
    /// The store.
    pub store: String,
    /// The shards that it copies, each with the share that it has, if that is known.
    pub copies: Vec<(u32, Option<f64>)>,
}

impl Store {
    /// How far this node is with its copies.
    pub(in crate::cluster) async fn copy_report(&self) -> CopyReport {
        let mut report = CopyReport { store: self.options.name.clone(), ..CopyReport::default() };
        let (map, holder) = (self.map.borrow().clone(), self.holder());
        let (Some(map), Some(holder)) = (map, holder) else { return report };
        for (shard, entry) in map.entries().filter(|(_, it)| it.change_to(holder.node()).is_some())
        {
            let since = entry.change_to(holder.node()).map(|(_, change)| change.since);
            let work = holder.state(shard).await.work;
            let is_done = work.is_some_and(|work| Some(work.since) == since && work.is_done);
            report.copies.push((shard, is_done.then_some(1.0)));
        }
        report
    }
}

/// The maps of all stores of a cluster, by name. One that cannot be read is left out.
#[derive(Default)]
pub(in crate::cluster) struct StoreMaps(BTreeMap<String, StoreMap>);

impl StoreMaps {
    /// Reads them; any server may answer.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn read(cluster: &Cluster) -> Result<Self, Error> {
        let prefix = map_key(cluster.options(), "");
        let args = Args::new().arg(prefix.as_str()).opt("stale", true);
        let answer = cluster.client().call(&kv::LIST, &args).await?;
        let map = |entry: &Value| {
            let name = entry.get("Key").and_then(Value::as_str)?.strip_prefix(&prefix)?;
            let Some(Value::Bytes(bytes)) = entry.get("Value") else { return None };
            Some((name.to_owned(), StoreMap::decode(bytes).ok()?))
        };
        Ok(StoreMaps(answer.value.items().iter().filter_map(map).collect()))
    }

    /// The stores.
    pub fn overviews(
        &self,
        is_live: impl Fn(&str) -> bool,
        told: &BTreeMap<String, Told>,
    ) -> Vec<StoreOverview> {
        self.0.iter().map(|(name, map)| store_overview(name, map, &is_live, told)).collect()
    }
}

fn store_overview(
    name: &str,
    map: &StoreMap,
    is_live: impl Fn(&str) -> bool,
    told: &BTreeMap<String, Told>,
) -> StoreOverview {
    let shared = map.shared;
    let changes = |kind| {
        map.entries().flat_map(move |(shard, entry)| {
            let changes = entry.slots.iter().filter_map(|slot| slot.change.as_ref());
            changes.filter(move |it| it.kind == kind).map(move |it| (shard, it.to.to_string()))
        })
    };
    let done = |shard, node: &str| told.get(node)?.copied(name, shard);
    let moving = changes(ChangeKind::Move).map(|(shard, to)| ShardMoving {
        shard,
        done: done(shard, &to),
        to,
    });
    let repairing = changes(ChangeKind::Failover).map(|(shard, on)| ShardRepairing {
        shard,
        done: done(shard, &on),
        on,
    });
    let quorums =
        Quorums { replicas: shared.replicas, write: shared.write_quorum, read: shared.read_quorum };
    let at_risk = |(shard, entry): (u32, &Entry)| {
        let missing = map.missing(shard, &is_live)?;
        let is_there = |node: &NodeId| missing.iter().all(|place| place.node != *node);
        let left = entry.counting().filter(|(_, place)| is_there(&place.node)).count();
        let vacant = entry.slots.iter().filter(|slot: &&Slot| slot.is_vacant()).count();
        let needed = quorums.fenced().saturating_sub(vacant);
        let missing: Vec<String> = missing.iter().map(|place| place.node.to_string()).collect();
        (!missing.is_empty()).then_some(ShardAtRisk { shard, missing, left, needed })
    };
    StoreOverview {
        name: name.to_owned(),
        shards: shared.shards,
        replicas: shared.replicas,
        write_quorum: shared.write_quorum,
        read_quorum: shared.read_quorum,
        map_version: map.map.version,
        moving: moving.collect(),
        repairing: repairing.collect(),
        at_risk: map.entries().filter_map(at_risk).collect(),
        unrecovered: map.unrecovered.len(),
    }
}
