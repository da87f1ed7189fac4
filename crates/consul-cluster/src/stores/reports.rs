//! The reports of the nodes about replicated stores in Consul, and the losses that operators have accepted.
//!
//! An operator who runs `accept_loss` accepts the loss of the replicas that are known to be missing then. The acceptance
//! ends with the last of them that is back or replaced, so it has no effect on what is lost later.

use super::branch::contradicting;
use super::document::{Announcement, FORMAT, MemberRecord, StoreMap, read};
use super::{Shared, forget};
use consul_api::value::Value;
use consul_client::coordination::{Operation, delete_unchanged, set, unchanged};
use consul_client::watch::State;
use consul_replication::map::{NodeId, Place, Quorums, StoreId};
use consul_replication::plan::{Accepted, Map};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The value of an acceptance that names no replicas: of an acceptance while it is not known which nodes have the
/// replicas, and of all that earlier releases have written. The leader fills in the replicas as soon as it knows them.
const UNBOUND: &[u8] = b"accepted";

/// The replicas of one shard whose loss an operator has accepted (`accept_loss`); one key per shard.
#[derive(Clone, Debug)]
pub(super) struct LossAcceptance {
    /// The modify index of the key.
    pub index: u64,
    /// The replicas whose loss is accepted; `None`: those that are missing when the leader reads the key, and the
    /// replicas that do not answer when Consul went back.
    pub lost: Option<BTreeSet<Place>>,
}

impl LossAcceptance {
    /// Reads a value; any that names no replicas is unbound.
    pub fn decode(bytes: &[u8], index: u64) -> Self {
        LossAcceptance { index, lost: serde_json::from_slice(bytes).ok() }
    }

    /// The value of an acceptance of the loss of these replicas; `None`: unbound.
    pub fn encode(lost: Option<&BTreeSet<Place>>) -> Vec<u8> {
        // Numbers and strings can always be encoded.
        lost.map_or(UNBOUND.to_vec(), |lost| serde_json::to_vec(lost).unwrap_or_default())
    }

    /// The replicas whose loss is accepted after another acceptance, if the key had the value `found` before; `None`:
    /// unbound.
    pub fn merged(found: Option<&[u8]>, lost: Option<&BTreeSet<Place>>) -> Option<BTreeSet<Place>> {
        let Some(found) = found else { return lost.cloned() };
        let before = LossAcceptance::decode(found, 0).lost?;
        Some(BTreeSet::from_iter(lost?.union(&before).cloned()))
    }

    /// The accepted replicas that are still missing, if these are others than the key names: of an unbound acceptance
    /// all that are missing.
    pub fn still_missing(&self, missing: &BTreeSet<Place>) -> Option<BTreeSet<Place>> {
        let Some(lost) = &self.lost else { return Some(missing.clone()) };
        let still_missing = BTreeSet::from_iter(lost.intersection(missing).cloned());
        (still_missing != *lost).then_some(still_missing)
    }

    /// The operations that write these replicas into the key, or delete the key if there are none.
    pub fn replace(&self, key: &str, lost: &BTreeSet<Place>) -> Vec<Operation> {
        if lost.is_empty() {
            return vec![delete_unchanged(key, self.index)];
        }
        vec![unchanged(key, self.index), set(key, LossAcceptance::encode(Some(lost)))]
    }
}

/// Logs which replicas an acceptance applies to.
pub(super) fn log_acceptance(store: &str, shard: u32, lost: &BTreeSet<Place>) {
    if lost.is_empty() {
        tracing::warn!(
            store,
            shard,
            "accept_loss had no effect: no replica is known to be missing"
        );
        return;
    }
    let nodes: Vec<&NodeId> = lost.iter().map(|place| &place.node).collect();
    tracing::warn!(store, shard, ?nodes, "an operator accepts the loss of replicas");
}

/// The reports of the nodes about one store, and the losses that operators have accepted.
#[derive(Clone, Debug, Default)]
pub(super) struct StoreReports {
    /// The records of the nodes, with the modify indexes of their keys.
    pub members: BTreeMap<NodeId, (MemberRecord, u64)>,
    /// The announcements of nodes that open their storages, with the modify indexes of their keys.
    pub openings: BTreeMap<NodeId, (Announcement, u64)>,
    /// The accepted losses by shard.
    pub acceptances: BTreeMap<u32, LossAcceptance>,
    /// N, W and R that an operator wants, with the modify index of the key; the leader deletes it when the map has them.
    pub wanted: Option<(Wanted, u64)>,
    /// That an operator wants the store to be removed, with the modify index of the key.
    pub forget: Option<(forget::Request, u64)>,
}

/// N, W and R that an operator wants, as the key has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    format: u32,
    replicas: usize,
    write_quorum: usize,
    read_quorum: usize,
}

impl Wanted {
    pub fn new(quorums: Quorums) -> Self {
        let Quorums { replicas, write: write_quorum, read: read_quorum } = quorums;
        Wanted { format: FORMAT, replicas, write_quorum, read_quorum }
    }

    pub fn quorums(self) -> Quorums {
        let Wanted { replicas, write_quorum: write, read_quorum: read, .. } = self;
        Quorums { replicas, write, read }
    }

    /// Whether a map has them, or cannot have them.
    pub fn is_done(self, map: &StoreMap) -> bool {
        let shared = map.shared.with(self.quorums());
        shared == map.shared || shared.check().is_err()
    }

    /// The document of the key.
    pub fn encode(self) -> Vec<u8> {
        // Numbers can always be encoded.
        serde_json::to_vec(&self).unwrap_or_default()
    }
}

impl StoreReports {
    /// The reports about the store with this id: without the records of nodes with disks of another store.
    pub fn of(self: &Arc<Self>, id: Option<StoreId>) -> Arc<Self> {
        let is_other = |record: &MemberRecord| StoreId::differ(id, record.id);
        if !self.records().any(is_other) {
            return Arc::clone(self);
        }
        let mut reports = StoreReports::clone(self);
        reports.members.retain(|_, (record, _)| !is_other(record));
        Arc::new(reports)
    }

    /// The nodes among the live ones whose disks are copies that have lived on elsewhere, with those that contradict each.
    pub fn copies(
        &self,
        stored: &StoreMap,
        live: &BTreeSet<NodeId>,
    ) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
        let of_live = || self.members.iter().filter(|(node, _)| live.contains(*node));
        if of_live().all(|(_, (record, _))| record.known.len() < 2) {
            return BTreeMap::new();
        }
        let records = of_live().map(|(node, (record, _))| (node.clone(), record.clone()));
        let records = BTreeMap::from_iter(records);
        let contradicted = |(node, record): (&NodeId, &MemberRecord)| {
            let others = contradicting(node, &record.known, stored, &records);
            (!others.is_empty()).then(|| (node.clone(), others))
        };
        records.iter().filter_map(contradicted).collect()
    }

    /// The same reports without these nodes'.
    pub fn without<T>(self: Arc<Self>, nodes: &BTreeMap<NodeId, T>) -> Arc<Self> {
        if nodes.is_empty() {
            return self;
        }
        let mut reports = StoreReports::clone(&self);
        reports.members.retain(|node, _| !nodes.contains_key(node));
        Arc::new(reports)
    }

    /// The replicas whose loss operators have accepted.
    pub fn accepted(&self) -> Accepted {
        let acceptances = self.acceptances.iter();
        BTreeMap::from_iter(
            acceptances.filter_map(|(shard, acceptance)| Some((*shard, acceptance.lost.clone()?))),
        )
    }

    /// Whether a node has reported that it has this disk, and not that the replica of a shard is missing.
    pub fn has(&self, shard: u32, place: &Place) -> bool {
        let record = self.members.get(&place.node).map(|(record, _)| record);
        record.is_some_and(|it| it.disk == place.disk && !it.report.missing.contains(&shard))
    }

    /// The shards whose newer entries live nodes know, and not the map, with these nodes.
    pub fn newer(&self, live: &BTreeSet<NodeId>, map: &Map) -> BTreeMap<u32, BTreeSet<NodeId>> {
        let mut newer: BTreeMap<u32, BTreeSet<NodeId>> = BTreeMap::new();
        for (node, (record, _)) in self.members.iter().filter(|(node, _)| live.contains(*node)) {
            for (shard, epoch) in &record.report.newer {
                if map.shards.get(*shard as usize).is_some_and(|entry| *epoch > entry.epoch) {
                    newer.entry(*shard).or_default().insert(node.clone());
                }
            }
        }
        newer
    }

    /// The records of all nodes.
    pub fn records(&self) -> impl Iterator<Item = &MemberRecord> + Clone {
        self.members.values().map(|(record, _)| record)
    }

    /// The nodes among these whose store has as many shards; `before_first_map`: and the same options.
    pub fn agreeing(
        &self,
        nodes: &BTreeSet<NodeId>,
        shared: Shared,
        before_first_map: bool,
    ) -> BTreeSet<NodeId> {
        let record = |node: &NodeId| self.members.get(node).map(|(record, _)| record);
        let agrees = |node: &&NodeId| {
            record(node).is_some_and(|it| match before_first_map {
                true => it.shared == shared,
                false => it.shared.shards == shared.shards,
            })
        };
        BTreeSet::from_iter(nodes.iter().filter(agrees).cloned())
    }
}

/// The reports by the name of the store.
pub(super) type AllReports = BTreeMap<String, Arc<StoreReports>>;

/// Reads the keys of reports, announcements and accepted losses below a prefix.
pub(super) fn parse(prefix: &str, state: &State) -> AllReports {
    let mut all: BTreeMap<String, StoreReports> = BTreeMap::new();
    for entry in state.answer.value.items() {
        let Some(key) = entry.get("Key").and_then(Value::as_str) else { continue };
        let Some(Value::Bytes(bytes)) = entry.get("Value") else { continue };
        let index = entry.get("ModifyIndex").and_then(Value::as_u64).unwrap_or_default();
        let mut parts = key.strip_prefix(prefix).unwrap_or_default().splitn(3, '/');
        let (Some(store), Some(what), Some(name)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let reports = all.entry(store.to_owned()).or_default();
        match what {
            "nodes" => match MemberRecord::decode(bytes) {
                Ok(record) => _ = reports.members.insert(name.into(), (record, index)),
                Err(error) => tracing::warn!(key, %error, "not a record of a node"),
            },
            "opening" => match Announcement::decode(bytes) {
                Ok(opening) => _ = reports.openings.insert(name.into(), (opening, index)),
                Err(error) => tracing::warn!(key, %error, "not an announcement of a node"),
            },
            "wanted" => match read(bytes) {
                Ok(wanted) => reports.wanted = Some((wanted, index)),
                Err(error) => tracing::warn!(key, %error, "not what an operator wants of a store"),
            },
            "forget" => match read(bytes) {
                Ok(request) => reports.forget = Some((request, index)),
                Err(error) => tracing::warn!(key, %error, "not a request to forget a store"),
            },
            "accepted" => {
                let acceptance = |shard| (shard, LossAcceptance::decode(bytes, index));
                reports.acceptances.extend(name.parse::<u32>().map(acceptance));
            }
            _ => {}
        }
    }
    BTreeMap::from_iter(all.into_iter().map(|(store, reports)| (store, Arc::new(reports))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use consul_replication::map::Disk;

    /// Before it knows what it should have, a node with a new disk reports that nothing is missing.
    #[test]
    fn a_node_with_another_disk_does_not_have_a_replica() {
        let record = r#"{"format":1,"shared":{"shards":1,"replicas":1,"write_quorum":1,"read_quorum":1},"incarnation":"",
            "leader":"","seen":0,"disk":2,"opening":{"starts":1,"id":1},"zone":"","weight":1.0,"copied":0,
            "move_timeout_s":60,"report":{"finished":[],"missing":[7],"returned":[],"fenced":[]}}"#;
        let record = MemberRecord::decode(record.as_bytes()).expect("a record");
        let reports = StoreReports {
            members: [("n1".into(), (record, 1))].into(),
            ..StoreReports::default()
        };
        let place = |disk: u64| Place { node: "n1".into(), disk: Disk(disk), is_first: true };
        assert!(reports.has(0, &place(2)));
        assert!(!reports.has(0, &place(1)), "another disk");
        assert!(!reports.has(7, &place(2)), "it is missing");
    }
}
