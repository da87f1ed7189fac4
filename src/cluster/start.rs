//! Why a node has not started, for the message of its start.

use super::Cluster;
use crate::wire::api::{health, kv, status};
use crate::wire::request::Args;
use crate::wire::table::Endpoint;

/// The timeout of each request that finds out why a start takes too long.
const TIMEOUT_MS: u64 = 1000;

impl Cluster {
    /// Why this node is not a live member of a cluster with a leader. Reads what the node waits for, to
    /// see whether ACLs hide it.
    pub async fn missing(&self) -> String {
        let snapshot = self.snapshot();
        if !snapshot.is_connected {
            let args = Args::new().opt("timeout_ms", TIMEOUT_MS);
            if let Err(error) = self.client.call(&status::LEADER, &args).await {
                return error.message().to_owned();
            }
        }
        let (missing, hidden) = match snapshot.nodes.get(&self.options.node_id) {
            _ if self.options.observer => match snapshot.live().next() {
                None if snapshot.nodes.is_empty() => {
                    ("the cluster has no nodes", self.hidden_keys().await)
                }
                None => ("no node is live", self.hidden_instances().await),
                Some(_) if snapshot.leader.is_none() => ("the cluster has no leader", None),
                Some(_) => ("the cluster has no shard map", None),
            },
            None => ("its key is not written", self.hidden_keys().await),
            Some(node) if !node.is_live => {
                ("its check does not pass", self.hidden_instances().await)
            }
            Some(_) => {
                let hidden = match self.hidden_keys().await {
                    None => self.hidden_instances().await,
                    hidden => hidden,
                };
                ("the cluster has no leader", hidden)
            }
        };
        let mut missing = missing.to_owned();
        if let Some(hidden) = hidden {
            missing.push_str(&format!("; {hidden}"));
        }
        if let Some(error) = self.presence.registration_error() {
            missing.push_str(&format!("; its service is not registered: {error}"));
        }
        missing
    }

    /// Why this node does not see all keys of nodes, if ACLs hide some.
    async fn hidden_keys(&self) -> Option<String> {
        let why = self.hidden(&kv::LIST, &self.options.nodes_prefix).await?;
        Some(format!("keys {why} (key:read)"))
    }

    /// Why this node does not see all instances of nodes, if ACLs hide some.
    pub(super) async fn hidden_instances(&self) -> Option<String> {
        let why = self.hidden(&health::SERVICE, &self.options.service()).await?;
        Some(format!("instances {why} (service:read and node:read)"))
    }

    /// Whether ACLs hide entries of a list.
    async fn hidden(&self, endpoint: &'static Endpoint, name: &str) -> Option<&'static str> {
        let args = Args::new().arg(name).opt("timeout_ms", TIMEOUT_MS);
        self.client.call(endpoint, &args).await.ok()?.meta.hidden()
    }
}
