//! The settings that must be the same on all nodes: in the config key, which a start writes and the leader puts
//! back, and in the shard map, which is what the living nodes use.

use super::registered::others_are_live;
use crate::cluster::Cluster;
use crate::keys::{self, Update};
use crate::leader::fitness;
use crate::options::Options;
use crate::pauses::{MAP_HOLD_OFF, PAUSE, REFUSED_PAUSE, WAIT};
use crate::shard_map::ShardMap;
use crate::shard_map::publication::{self, Content};
use crate::shell::kv_delete;
use consul_api::api::kv;
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_client::coordination::{Lease, set, unchanged};
use consul_process::sync::lock;
use serde::{Deserialize, Serialize};

/// The content of the config key.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    shards: usize,
    replicas: usize,
}

impl Settings {
    fn of_map(map: &ShardMap) -> Self {
        Settings { shards: map.shard_count(), replicas: map.replicas() }
    }

    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The error of a node that has others than those in this key.
    fn disagree(&self, key: &str, options: &Options) -> Error {
        let Options { shards, replicas, shards_prefix, config_key, .. } = options;
        let why = format!(
            "the cluster has shards = {} and replicas = {} (key {key}); this node has {shards} \
             and {replicas}: set the same, or another nodes_prefix (a cluster_name) for another \
             cluster; if that cluster is gone, delete {config_key} and the keys under {shards_prefix}",
            self.shards, self.replicas
        );
        Error::new(Kind::Conflict, why).with_maybe_applied(false)
    }
}

fn settings(cluster: &Cluster) -> Settings {
    Settings { shards: cluster.options.shards, replicas: cluster.options.replicas }
}

/// Compares the settings of this node with the cluster's, and writes them if it is the first node.
pub(crate) async fn check(cluster: &Cluster) -> Result<(), Error> {
    let Options { config_key, shards_prefix, .. } = &cluster.options;
    let ours = settings(cluster);
    let stored = publication::read(&cluster.client, &cluster.options).await?;
    let map = match &stored.map {
        Content::Map(map) => Some(map),
        _ => None,
    };
    let foreign = map.filter(|map| is_foreign(cluster, map)).map(|map| foreign(cluster, map));
    if map.is_none()
        && keys::read(&cluster.client, config_key).await?.is_none()
        && others_are_live(&cluster.client, &cluster.options).await?
    {
        let why = format!(
            "the keys {config_key} and {shards_prefix}map are gone, and other nodes are live: they put them back"
        );
        return Err(Error::new(Kind::NotFound, why).not_sent().retryable());
    }
    keys::update(&cluster.client, config_key, |found| {
        // An emptied key is nobody's data.
        let written = found.filter(|found| !found.is_empty());
        let theirs = match written.map(serde_json::from_slice::<Settings>) {
            Some(Ok(theirs)) => Some(theirs),
            Some(Err(_)) => {
                let why = format!(
                    "the key {config_key} holds another program's data: if no program needs it, {} makes room",
                    kv_delete(config_key)
                );
                return Err(Error::new(Kind::Conflict, why).with_maybe_applied(false));
            }
            None => None,
        };
        match (theirs.filter(|theirs| *theirs != ours), &foreign) {
            // The living nodes use the map, whatever this key has.
            (Some(theirs), _) if map.is_none() || foreign.is_some() => {
                Err(theirs.disagree(config_key, &cluster.options))
            }
            (_, Some(foreign)) => Err(foreign.clone()),
            _ if found == Some(&*ours.to_bytes()) => Ok(Update::Keep),
            _ => Ok(Update::Put(ours.to_bytes())),
        }
    })
    .await
}

/// Puts the config key back whenever it is gone or differs, while this node leads.
pub(crate) async fn keep(cluster: &Cluster, lease: &Lease) -> Error {
    let key = &cluster.options.config_key;
    cluster
        .observe(&kv::GET, key, WAIT, |state| async move {
            let Ok(state) = state else { return };
            let ours = settings(cluster).to_bytes();
            if matches!(&state.answer.value, Value::Bytes(bytes) if *bytes == ours) {
                return;
            }
            let index = state.answer.meta.entry.as_ref().map_or(0, |entry| entry.modify_index);
            tracing::warn!(
                key,
                "the cluster's settings are gone or were changed; they are written again"
            );
            while let Err(error) =
                fitness::write(cluster, lease, [unchanged(key, index), set(key, ours.clone())])
                    .await
            {
                // The key has changed since, which the watch reports.
                if error.kind() == Kind::TxnFailed {
                    break;
                }
                tracing::info!(key, %error, "the cluster's settings were not written");
                let pause = if error.is_transient() { PAUSE } else { REFUSED_PAUSE };
                cluster.client.clock().sleep(pause).await;
            }
        })
        .await
}

/// Whether a map has other settings than this member. An observer uses any map.
pub(crate) fn is_foreign(cluster: &Cluster, map: &ShardMap) -> bool {
    !cluster.options.observer && Settings::of_map(map) != settings(cluster)
}

/// The error of a node that finds such a map.
pub(crate) fn foreign(cluster: &Cluster, map: &ShardMap) -> Error {
    Settings::of_map(map).disagree(&cluster.options.map_key(), &cluster.options)
}

/// Notes since when this node has a map.
pub(crate) fn note_first_map(cluster: &Cluster) {
    lock(&cluster.mapped_since).get_or_insert(cluster.now());
}

/// Whether this node has had a map for so long that others have seen a loss of Consul's data. Then a foreign
/// map is that of a node which started after the loss and saw no other; otherwise this node is that one.
pub(crate) fn is_settled(cluster: &Cluster) -> bool {
    lock(&cluster.mapped_since).is_some_and(|since| cluster.now() - since >= MAP_HOLD_OFF)
}

/// Ends this node: the cluster has other settings.
pub(crate) fn end_as_foreign(cluster: &Cluster, map: &ShardMap) {
    cluster.misfit.send_replace(Some(foreign(cluster, map)));
}

/// Completes when that has happened.
pub(crate) async fn is_misfit(cluster: &Cluster) -> Error {
    let mut misfit = cluster.misfit.subscribe();
    match misfit.wait_for(Option::is_some).await.map(|why| why.clone()) {
        Ok(Some(why)) => why,
        // The sender lives as long as `self`.
        _ => std::future::pending().await,
    }
}
