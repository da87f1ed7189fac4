//! Whether the node of this process can leave: no replica of a store is its own.

use super::document::StoreMap;
use super::{Store, lock, outside};
use crate::cluster::Cluster;
use crate::error::Error;
use std::sync::{Arc, Weak};

/// Whether Consul's map of no store names the node of this process, and none of these maps is older than what the
/// process itself knows: a Consul that lost its data names nobody.
///
/// # Errors
/// As [`outside::held`].
pub async fn holds_none(cluster: &Cluster) -> Result<bool, Error> {
    let (id, maps) = (&cluster.options().node_id, outside::maps(cluster).await?);
    let opened: Vec<Arc<Store>> = lock(&cluster.stores).iter().filter_map(Weak::upgrade).collect();
    let is_current = |store: &Arc<Store>| store.is_current(maps.get(&store.options.name));
    Ok(maps.values().all(|map| !map.names(id)) && opened.iter().all(is_current))
}

impl Store {
    /// Whether no shard's entry names this node, so that it can leave.
    pub fn holds_none(&self) -> bool {
        let map = self.map.borrow();
        map.as_ref().is_none_or(|map| !map.names(&self.cluster.options().node_id))
    }

    /// Whether Consul's map of this store is at least as new as what this process and its disk know.
    fn is_current(&self, stored: Option<&StoreMap>) -> bool {
        let known = self.map.borrow().as_ref().map(|known| known.map.version);
        let member = lock(&self.member).clone();
        let Some(stored) = stored else {
            let has_none = |shards: Vec<u32>| shards.is_empty();
            let is_empty = member.is_some_and(|it| has_none(it.transfer.holder.shards()));
            return known.is_none() && (self.storage.is_none() || is_empty);
        };
        let is_opened = self.storage.is_none() || member.is_some() || lock(&self.failure).is_some();
        is_opened
            && stored.unrecovered.is_empty()
            && known.is_none_or(|known| known <= stored.map.version)
    }
}
