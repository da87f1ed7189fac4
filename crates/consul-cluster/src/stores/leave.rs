//! Whether the node of this process can leave: no replica of a store is its own.

use super::document::StoreMap;
use super::{Store, lock, outside};
use crate::Cluster;
use consul_api::error::Error;
use std::sync::Weak;

/// Whether Consul's map of no store names the node of this process, and none of these maps is older than what the
/// process and its disks know: a Consul that lost its data names nobody.
///
/// # Errors
/// As [`outside::held_shards`].
pub async fn holds_none(cluster: &Cluster) -> Result<bool, Error> {
    let (id, maps) = (&cluster.options().node_id, outside::maps(cluster).await?);
    if maps.values().any(|map| map.names(id)) {
        return Ok(false);
    }
    let opened: Vec<_> = lock(&cluster.stores).iter().filter_map(Weak::upgrade).collect();
    let opened = opened.into_iter().filter_map(|store| store.downcast::<Store>().ok());
    for store in opened.filter(|store| store.storage.is_some()) {
        if !store.is_current(maps.get(&store.options.name)).await {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Notes a store that this process opens.
pub(super) fn note(cluster: &Cluster, store: Weak<Store>) {
    let mut stores = lock(&cluster.stores);
    stores.retain(|store| store.strong_count() > 0);
    stores.push(store);
}

impl Store {
    /// Whether no shard's entry names this node, as far as this process knows.
    pub fn holds_none(&self) -> bool {
        let map = self.map.borrow();
        map.as_ref().is_none_or(|map| !map.names(&self.cluster.options().node_id))
    }

    /// Whether Consul's map of this store is at least as new as all entries that this process's disk knows. The disk
    /// knows each entry by which it has a replica.
    async fn is_current(&self, stored: Option<&StoreMap>) -> bool {
        let Some(member) = lock(&self.member).clone() else {
            // A store that cannot be used any more has no part in the map; the storage may be open soon.
            return stored.is_some() && lock(&self.failure).is_some();
        };
        let Some(stored) = stored else { return member.transfer.holder.shards().is_empty() };
        let shards = &stored.map.shards;
        let epoch = |shard: u32| shards.get(shard as usize).map_or(0, |entry| entry.epoch);
        member.transfer.holder.report(epoch).await.newer.is_empty()
    }
}
