//! What nodes and operators say about replicated stores in Consul.
//!
//! The word of an operator, `accept_loss`, is about the replicas that are known to be missing then. It ends
//! with the last of them that is back or replaced, so it has no effect on what is lost later.

use super::Shared;
use super::document::{Announcement, MemberRecord};
use consul_api::value::Value;
use consul_client::coordination::{Operation, delete_unchanged, set, unchanged};
use consul_client::watch::State;
use consul_replication::map::{NodeId, Place, StoreId};
use consul_replication::plan::{Accepted, Map};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The value of a word that is given while it is not known who has the replicas, and of all words of earlier
/// versions: about what is missing as soon as the leader knows that.
const UNBOUND: &[u8] = b"accepted";

/// The word of an operator that accepts the loss of what is missing of a shard: the value of one key.
#[derive(Clone, Debug)]
pub(super) struct Word {
    /// The modify index of the key.
    pub index: u64,
    /// The replicas whose loss is accepted; `None`: those that are missing when the leader sees it,
    /// and whatever does not answer when Consul went back.
    pub lost: Option<BTreeSet<Place>>,
}

impl Word {
    /// Reads a value; any that names no replicas is unbound.
    pub fn decode(bytes: &[u8], index: u64) -> Self {
        Word { index, lost: serde_json::from_slice(bytes).ok() }
    }

    /// What it is about if that changes: what is missing, and of a bound word only what is still missing.
    pub fn narrowed(&self, missing: &BTreeSet<Place>) -> Option<BTreeSet<Place>> {
        let Some(lost) = &self.lost else { return Some(missing.clone()) };
        let narrowed = BTreeSet::from_iter(lost.intersection(missing).cloned());
        (narrowed != *lost).then_some(narrowed)
    }

    /// The operations that make a word be about these replicas, or remove it if there are none.
    pub fn write(&self, key: &str, lost: &BTreeSet<Place>) -> Vec<Operation> {
        if lost.is_empty() {
            return vec![delete_unchanged(key, self.index)];
        }
        vec![unchanged(key, self.index), set(key, encode(Some(lost)))]
    }
}

/// The value of a word about these replicas; `None`: unbound.
pub(super) fn encode(lost: Option<&BTreeSet<Place>>) -> Vec<u8> {
    // Numbers and strings can always be encoded.
    lost.map_or(UNBOUND.to_vec(), |lost| serde_json::to_vec(lost).unwrap_or_default())
}

/// What is accepted after another word, if the key had this value before; `None`: unbound.
pub(super) fn joined(
    found: Option<&[u8]>,
    lost: Option<&BTreeSet<Place>>,
) -> Option<BTreeSet<Place>> {
    let Some(found) = found else { return lost.cloned() };
    let before = Word::decode(found, 0).lost?;
    Some(BTreeSet::from_iter(lost?.union(&before).cloned()))
}

/// Tells what a word is about.
pub(super) fn log_word(store: &str, shard: u32, lost: &BTreeSet<Place>) {
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

/// What the nodes and the operators say about one store.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    /// The records of the nodes, with the modify indexes of their keys.
    pub members: BTreeMap<NodeId, (MemberRecord, u64)>,
    /// What nodes said before they opened their storages, with the modify indexes of the keys.
    pub openings: BTreeMap<NodeId, (Announcement, u64)>,
    /// The words of operators about shards.
    pub words: BTreeMap<u32, Word>,
}

impl Said {
    /// What concerns the store with this id: without the records of nodes with disks of another one.
    pub fn of(self: &Arc<Self>, id: Option<StoreId>) -> Arc<Self> {
        let is_other = |record: &MemberRecord| StoreId::differ(id, record.id);
        if !self.records().any(is_other) {
            return Arc::clone(self);
        }
        let mut said = Said::clone(self);
        said.members.retain(|_, (record, _)| !is_other(record));
        Arc::new(said)
    }

    /// The replicas whose loss operators have accepted.
    pub fn accepted(&self) -> Accepted {
        let words = self.words.iter();
        BTreeMap::from_iter(words.filter_map(|(shard, word)| Some((*shard, word.lost.clone()?))))
    }

    /// Whether a node has said that it has this disk, and not that the replica of a shard is missing.
    pub fn has(&self, shard: u32, place: &Place) -> bool {
        let record = self.members.get(&place.node).map(|(record, _)| record);
        record.is_some_and(|it| it.disk == place.disk && !it.report.missing.contains(&shard))
    }

    /// The shards of which live nodes know newer entries than the map has, with these nodes.
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

    /// Those of the nodes.
    pub fn records(&self) -> impl Iterator<Item = &MemberRecord> + Clone {
        self.members.values().map(|(record, _)| record)
    }

    /// Those of some nodes that have the options which all nodes must agree on.
    pub fn agreeing(&self, nodes: &BTreeSet<NodeId>, shared: Shared) -> BTreeSet<NodeId> {
        let record = |node: &NodeId| self.members.get(node).map(|(record, _)| record);
        let agrees = |node: &&NodeId| record(node).is_some_and(|it| it.shared == shared);
        BTreeSet::from_iter(nodes.iter().filter(agrees).cloned())
    }
}

/// The same for each store.
pub(super) type AllSaid = BTreeMap<String, Arc<Said>>;

/// Reads the keys below a prefix.
pub(super) fn parse(prefix: &str, state: &State) -> AllSaid {
    let mut all: BTreeMap<String, Said> = BTreeMap::new();
    for entry in state.answer.value.items() {
        let Some(key) = entry.get("Key").and_then(Value::as_str) else { continue };
        let Some(Value::Bytes(bytes)) = entry.get("Value") else { continue };
        let index = entry.get("ModifyIndex").and_then(Value::as_u64).unwrap_or_default();
        let mut parts = key.strip_prefix(prefix).unwrap_or_default().splitn(3, '/');
        let (Some(store), Some(what), Some(name)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let said = all.entry(store.to_owned()).or_default();
        match what {
            "nodes" => match MemberRecord::decode(bytes) {
                Ok(record) => _ = said.members.insert(name.into(), (record, index)),
                Err(error) => tracing::warn!(key, %error, "not a record of a node"),
            },
            "opening" => match Announcement::decode(bytes) {
                Ok(opening) => _ = said.openings.insert(name.into(), (opening, index)),
                Err(error) => tracing::warn!(key, %error, "not an announcement of a node"),
            },
            "accepted" => {
                let word = |shard| (shard, Word::decode(bytes, index));
                said.words.extend(name.parse::<u32>().map(word));
            }
            _ => {}
        }
    }
    BTreeMap::from_iter(all.into_iter().map(|(store, said)| (store, Arc::new(said))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use consul_replication::map::Disk;

    /// Before it knows what it should have, a node with a new disk says that nothing is missing.
    #[test]
    fn a_node_with_another_disk_does_not_have_a_replica() {
        let record = r#"{"format":1,"shared":{"shards":1,"replicas":1,"write_quorum":1,"read_quorum":1},"incarnation":"",
            "leader":"","seen":0,"disk":2,"opening":{"starts":1,"id":1},"zone":"","weight":1.0,"copied":0,
            "move_timeout_s":60,"report":{"finished":[],"missing":[7],"returned":[],"fenced":[]}}"#;
        let record = MemberRecord::decode(record.as_bytes()).expect("a record");
        let said = Said { members: [("n1".into(), (record, 1))].into(), ..Said::default() };
        let place = |disk: u64| Place { node: "n1".into(), disk: Disk(disk), is_first: true };
        assert!(said.has(0, &place(2)));
        assert!(!said.has(0, &place(1)), "another disk");
        assert!(!said.has(7, &place(2)), "it is missing");
    }
}
