//! A store that nobody uses any more is removed by the leader, which would put its map back otherwise. An operator asks for that
//! with a key below the store's reports; what the ids of forgotten stores are, a key tells that stays, so that a disk which
//! comes back later does not bring the store back.

use super::document::{Announcement, FORMAT, MemberRecord, read};
use super::leader::Duty;
use super::reports::StoreReports;
use super::{Store, map_key, member_key, members_prefix, read_map, waiting_key};
use crate::keys::{self, Update};
use crate::leader::fitness;
use crate::nodes::rights::Right;
use crate::shell::kv_delete;
use crate::{Cluster, Options, Snapshot};
use consul_api::api::kv;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::value::Value;
use consul_client::coordination::{Operation, delete_unchanged, set, unchanged};
use consul_process::sync::lock;
use consul_replication::map::StoreId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The request of an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    format: u32,
    /// Who asks.
    by: String,
    /// When, in Unix milliseconds.
    at_ms: u64,
}

/// The stores of one name that were forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Forgotten {
    format: u32,
    ids: BTreeSet<u64>,
    /// Who has asked for the last one, and when.
    by: String,
    at_ms: u64,
}

/// The key of the request.
fn request_key(cluster: &Options, store: &str) -> String {
    format!("{}{store}/forget/all", members_prefix(cluster))
}

/// The key that tells which stores of this name were forgotten.
fn forgotten_key(cluster: &Options, store: &str) -> String {
    format!("{}forgotten/{store}", cluster.shards_prefix)
}

fn operation(verb: &str, key: &str) -> Operation {
    vec![("Verb", verb.into()), ("Key", key.into())]
}

async fn forgotten(cluster: &Cluster, store: &str) -> Result<(Forgotten, u64), Error> {
    let key = forgotten_key(cluster.options(), store);
    Ok(match keys::read(cluster.client(), &key).await? {
        Some((bytes, index)) => (read(&bytes).map_err(|error| error.context(&key))?, index),
        None => (Forgotten::default(), 0),
    })
}

/// The live nodes that have a store open, or are about to open it.
fn users<'a>(
    snapshot: &Snapshot,
    records: impl Iterator<Item = (&'a str, &'a str)>,
) -> BTreeSet<String> {
    let is_live = |(node, incarnation): &(&str, &str)| {
        let found = snapshot.nodes.get(*node);
        found.is_some_and(|it| it.is_live && it.record.incarnation == *incarnation)
    };
    records.filter(is_live).map(|(node, _)| node.to_owned()).collect()
}

impl Duty<'_> {
    /// Removes a store as an operator has asked, unless a live node has it open.
    pub(super) async fn forget(
        &mut self,
        store: &str,
        reports: &StoreReports,
        (request, index): (&Request, u64),
    ) -> Result<(), Error> {
        let (cluster, options) = (self.cluster, self.cluster.options());
        if cluster.now() < cluster.hold_off_until() {
            return Ok(());
        }
        let key = request_key(options, store);
        let members = reports.members.iter().map(|(node, (it, _))| (&**node, &*it.incarnation));
        let openings = reports.openings.iter().map(|(node, (it, _))| (&**node, &*it.incarnation));
        let users = users(&cluster.snapshot(), members.chain(openings));
        if !users.is_empty() {
            tracing::warn!(store, ?users, "a store that nodes have open is not forgotten");
            return self.change(vec![delete_unchanged(&key, index)]).await;
        }
        let (stored, map_index) = read_map(cluster, store).await?;
        let (known, known_index) = forgotten(cluster, store).await?;
        let ids = reports.records().filter_map(|record| record.id);
        let ids = ids.chain(stored.and_then(|stored| stored.id)).map(|id| id.0);
        let ids = ids.chain(known.ids).collect();
        let Request { by, at_ms, .. } = request.clone();
        let bytes = serde_json::to_vec(&Forgotten { format: FORMAT, ids, by, at_ms });
        let (map_key, told) = (map_key(options, store), forgotten_key(options, store));
        let operations = [
            unchanged(&map_key, map_index),
            unchanged(&key, index),
            unchanged(&told, known_index),
            set(&told, bytes.unwrap_or_default()),
            operation("delete-tree", &format!("{}{store}/", members_prefix(options))),
            operation("delete", &map_key),
            operation("delete", &waiting_key(options, store)),
        ];
        match fitness::write(cluster, self.lease, operations).await {
            Ok(_) => tracing::warn!(store, by = request.by, "a store is forgotten"),
            // It is tried again with what has changed.
            Err(error) if error.kind() == Kind::TxnFailed => return Ok(()),
            Err(error) => return Err(error),
        }
        self.stores.remove(store);
        lock(&self.history.reported_once).retain(|(of, _)| of != store);
        Ok(())
    }
}

impl Store {
    /// Refuses to go on with a store that an operator has forgotten.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if this is such a store; errors of the call.
    pub(super) async fn check_not_forgotten(&self, id: Option<StoreId>) -> Result<(), Error> {
        let Some(id) = id else { return Ok(()) };
        let (cluster, store) = (&self.cluster, &self.options.name);
        let (forgotten, _) = forgotten(cluster, store).await?;
        if !forgotten.ids.contains(&id.0) {
            return Ok(());
        }
        let why = format!(
            "the storage has records of the store with the id {id}, which {} has forgotten (`consul-ha forget-store`): \
             nothing was dropped or changed. Give the node an empty disk, or {} if the store is needed again",
            forgotten.by,
            kv_delete(&forgotten_key(cluster.options(), store))
        );
        Err(Error::new(Kind::Conflict, why).with_maybe_applied(false))
    }

    /// Takes away what this process has reported about a store that is forgotten.
    pub(super) async fn end_reports_if_forgotten(&self) {
        let id = *lock(&self.id);
        let checked = self.check_not_forgotten(id).await;
        if checked.is_err_and(|why| why.kind() == Kind::Conflict) {
            let options = self.cluster.options();
            let key = member_key(options, &self.options.name, &options.node_id);
            let removed = self.cluster.client().call(&kv::DELETE, &Args::new().arg(key)).await;
            if let Err(error) = removed {
                tracing::debug!(store = self.options.name, %error, "its report stays");
            }
            self.end_announcement().await;
        }
    }
}

/// The keys of a store in Consul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The nodes whose disks may have its records.
    pub disks: BTreeSet<String>,
    /// The live nodes that have it open.
    pub users: BTreeSet<String>,
    /// Whether the leader has yet to act on a request to forget it.
    pub is_asked: bool,
}

/// The keys of a store in Consul; `None`: there are none.
///
/// # Errors
/// Errors of the calls.
pub async fn find(cluster: &Cluster, store: &str) -> Result<Option<Found>, Error> {
    let prefix = format!("{}{store}/", members_prefix(cluster.options()));
    let args = Args::new().arg(prefix.as_str()).opt("consistent", true);
    let listed = cluster.client().call(&kv::LIST, &args).await?;
    super::lists::check_whole(cluster, &listed, &prefix).await?;
    let (map, index) = read_map(cluster, store).await?;
    let waiting = keys::read(cluster.client(), &waiting_key(cluster.options(), store)).await?;
    let items = listed.value.items();
    if index == 0 && items.is_empty() && waiting.is_none() {
        return Ok(None);
    }
    let mut found = Found { disks: BTreeSet::new(), users: BTreeSet::new(), is_asked: false };
    let mut records = Vec::new();
    for entry in items {
        let key = entry.get("Key").and_then(Value::as_str).unwrap_or_default();
        let rest = key.strip_prefix(&prefix).unwrap_or_default();
        let Some(Value::Bytes(bytes)) = entry.get("Value") else { continue };
        match rest.split_once('/') {
            Some(("nodes", node)) => {
                found.disks.insert(node.to_owned());
                if let Ok(record) = MemberRecord::decode(bytes) {
                    records.push((node, record.incarnation));
                }
            }
            Some(("opening", node)) => {
                if let Ok(opening) = Announcement::decode(bytes) {
                    records.push((node, opening.incarnation));
                }
            }
            Some(("forget", _)) => found.is_asked = true,
            _ => {}
        }
    }
    let holders = map.iter().flat_map(|map| &map.map.shards).flat_map(|entry| entry.members());
    found.disks.extend(holders.map(|node| node.to_string()));
    let records = records.iter().map(|(node, incarnation)| (*node, incarnation.as_str()));
    found.users = users(&cluster.snapshot(), records);
    Ok(Some(found))
}

/// Asks the leader to remove a store, which it does unless a live node has it open.
///
/// # Errors
/// Errors of the calls.
pub async fn ask(cluster: &Cluster, store: &str, by: &str) -> Result<(), Error> {
    let request = Request { format: FORMAT, by: by.to_owned(), at_ms: cluster.unix_ms() };
    let bytes = serde_json::to_vec(&request).unwrap_or_default();
    cluster
        .update_while(None, &request_key(cluster.options(), store), |found| {
            Ok(if found.is_some() { Update::Keep } else { Update::Put(bytes.clone()) })
        })
        .await
}

/// Takes a request back that the leader has not acted on.
///
/// # Errors
/// Errors of the calls.
pub async fn withdraw(cluster: &Cluster, store: &str) -> Result<(), Error> {
    let key = request_key(cluster.options(), store);
    let delete =
        |found: Option<&[u8]>| Ok(if found.is_some() { Update::Delete } else { Update::Keep });
    cluster.update_while(None, &key, delete).await
}

/// The rights to ask for that.
pub fn to_forget(options: &Options, store: &str) -> [Right; 2] {
    [
        Right::read("key", &map_key(options, store)),
        Right::write("key", &request_key(options, store)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::node::{Complaint, Node};

    /// A node that was started again without the store does not have it open, whatever its last start has reported.
    #[test]
    fn the_present_starts_of_live_nodes_use_a_store() {
        let record = serde_json::json!({
            "id": "n1", "address": "a:1", "weight": 1.0, "started_ms": 1, "incarnation": "second",
        });
        for is_live in [true, false] {
            let node = Node {
                record: serde_json::from_value::<crate::Record>(record.clone())
                    .expect("a record")
                    .into(),
                modify_index: 1,
                is_live,
                down_since: None,
                vanished_at: None,
                complaint: Complaint::default(),
            };
            let mut snapshot = Snapshot::default();
            snapshot.nodes.insert("n1".to_owned(), node);
            for (node, incarnation, uses) in
                [("n1", "second", is_live), ("n1", "first", false), ("n2", "second", false)]
            {
                let users = users(&snapshot, std::iter::once((node, incarnation)));
                assert_eq!(users.contains(node), uses, "{node} {incarnation} {is_live}");
            }
        }
    }
}
