//! Why a node has not started, for the message of its start; and what ACLs may hide from it.

use super::rights::{self, lacking};
use crate::cluster::Cluster;
use crate::pauses::REFUSED_PAUSE;
use crate::snapshot::Sight;
use consul_api::api::{health, kv, status};
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::response::Answer;
use consul_api::table::Endpoint;
use futures_util::future::join_all;
use std::convert::Infallible;
use std::time::Duration;

/// The timeout of each request that finds out why a start takes too long.
const TIMEOUT_MS: u64 = 1000;

/// The part of a start's time limit in which that is found out, but at most a half.
const LOOK: Duration = Duration::from_secs(2);

/// How often it is found out what ACLs may hide, while Consul's answers do not tell that; and whether they still may.
const HIDDEN_PAUSE: Duration = Duration::from_secs(60);
const LACKING_PAUSE: Duration = Duration::from_secs(3);

/// Why this node has not started when `limit` is over, at that moment. It finds that out within the limit.
pub async fn missing_after(cluster: &Cluster, limit: Duration) -> String {
    let clock = cluster.client.clock();
    let end = clock.now() + limit;
    clock.sleep(limit - LOOK.min(limit / 2)).await;
    let found = tokio::select! {
        biased;
        found = missing(cluster) => Some(found),
        () = clock.sleep_until(end) => None,
    };
    clock.sleep_until(end).await;
    found.unwrap_or_else(|| {
        let error = cluster.presence.registration_error();
        let why = error.map(|error| format!("; its service is not registered: {error}"));
        let asked = cluster.client.endpoint_health().into_iter().map(|it| it.address);
        let asked = asked.collect::<Vec<_>>().join(", ");
        format!("Consul does not answer in time (asked at {asked}){}", why.unwrap_or_default())
    })
}

/// Why this node is not a live member of a cluster with a leader. Reads what the node waits for, to
/// see whether ACLs hide it.
pub async fn missing(cluster: &Cluster) -> String {
    let snapshot = cluster.snapshot();
    if !snapshot.is_connected {
        let args = Args::new().opt("timeout_ms", TIMEOUT_MS);
        if let Err(error) = cluster.client.call(&status::LEADER, &args).await {
            return error.message().to_owned();
        }
    }
    let refused = refused_key(cluster).await;
    let (missing, hidden) = match snapshot.nodes.get(&cluster.options.node_id) {
        _ if cluster.options.observer => match snapshot.live().next() {
            None if snapshot.nodes.is_empty() => {
                ("the cluster has no nodes", hidden_keys(cluster).await)
            }
            None => ("no node is live", hidden_instances(cluster).await),
            Some(_) if snapshot.leader.is_none() => ("the cluster has no leader", None),
            Some(_) => ("the cluster has no shard map", None),
        },
        None => ("its key is not written", hidden_keys(cluster).await),
        Some(node) if !cluster.is_me(&node.record) => {
            ("its key is that of another start, which is asked whether it lives", None)
        }
        Some(node) if !node.is_live => ("its check does not pass", hidden_instances(cluster).await),
        Some(_) => {
            let hidden = match hidden_keys(cluster).await {
                None => hidden_instances(cluster).await,
                hidden => hidden,
            };
            ("the cluster has no leader", hidden)
        }
    };
    let mut missing = missing.to_owned();
    let blocked = snapshot.blocked.as_ref().filter(|_| snapshot.leader.is_none());
    if let Some(why) = refused {
        return format!("{missing}: {why}");
    }
    if let Some(blocked) = blocked {
        missing.push_str(&format!("; {}: {}", blocked.text(), blocked.cure()));
    }
    if let Some(hidden) = hidden {
        missing.push_str(&format!("; {hidden}"));
    } else if let Ok(Some(rights)) = may_hide(cluster).await {
        missing.push_str(&format!("; ACLs may hide nodes: the token lacks {rights}"));
    }
    if let Some(error) = cluster.presence.registration_error() {
        missing.push_str(&format!("; its service is not registered: {error}"));
    }
    missing
}

/// The first key that this node needs and cannot use, such as one with a character that the server does not take, and
/// the server's reason.
async fn refused_key(cluster: &Cluster) -> Option<String> {
    let options = &cluster.options;
    let mut keys = vec![options.leader_key.clone(), options.map_key(), options.epoch_key()];
    if options.observer {
        keys.push(options.nodes_prefix.clone());
    } else {
        keys.extend([options.node_key(&options.node_id), options.config_key.clone()]);
    }
    let looks = keys.into_iter().map(|key| async move {
        let args = Args::new().arg(key.as_str()).opt("timeout_ms", TIMEOUT_MS);
        let error = cluster.client.call(&kv::GET, &args).await.err()?;
        // The lists find keys and services that ACLs hide from an observer.
        let is_final = match options.observer {
            true => error.kind() == Kind::Argument,
            false => !error.is_transient(),
        };
        is_final.then(|| format!("{key}: {}", error.message()))
    });
    join_all(looks).await.into_iter().flatten().next()
}

/// Why this node does not see all keys of nodes, if ACLs hide some.
async fn hidden_keys(cluster: &Cluster) -> Option<String> {
    let why = hidden(cluster, &kv::LIST, &cluster.options.nodes_prefix).await?;
    Some(format!("keys {why} (key:read)"))
}

/// Why this node does not see all instances of nodes, if ACLs hide some.
pub(crate) async fn hidden_instances(cluster: &Cluster) -> Option<String> {
    let why = hidden(cluster, &health::SERVICE, &cluster.options.service()).await?;
    Some(format!("instances {why} (service:read and node:read)"))
}

/// Keeps the snapshot's word on what ACLs may hide, while Consul's answers do not tell that: answers of 1.8, streamed
/// ones, and answers to a process without a token.
pub(crate) async fn note_hidden(cluster: &Cluster) -> Infallible {
    let mut changes = cluster.changes();
    loop {
        // The sender lives as long as `self`.
        let _ = changes.wait_for(|snapshot| snapshot.sight == Sight::Untold).await;
        let pause = match may_hide(cluster).await {
            Ok(found) => {
                let pause = if found.is_some() { LACKING_PAUSE } else { HIDDEN_PAUSE };
                if cluster.snapshot().may_hide != found {
                    cluster.update(|snapshot| snapshot.may_hide = found);
                }
                pause
            }
            Err(error) => {
                tracing::debug!(%error, "it was not found out what ACLs hide");
                REFUSED_PAUSE
            }
        };
        cluster.client.clock().sleep(pause).await;
    }
}

/// The right that this process lacks to see all nodes.
async fn may_hide(cluster: &Cluster) -> Result<Option<String>, Error> {
    let args = Args::new().arg(cluster.options.service()).opt("timeout_ms", TIMEOUT_MS);
    let Answer { value, meta } = cluster.client.call(&health::SERVICE, &args).await?;
    if meta.tells_hidden() {
        let hides = meta.filtered_by_acl == Some(true);
        return Ok(hides.then(|| "service:read or node:read".to_owned()));
    }
    let mut needed = rights::to_see_nodes(&cluster.options);
    needed.extend(cluster.rights_to_unseen(&value));
    let lacking = lacking(&cluster.client, needed).await?;
    Ok((!lacking.is_empty()).then(|| rights::listed(&lacking)))
}

/// Whether ACLs hide entries of a list.
async fn hidden(
    cluster: &Cluster,
    endpoint: &'static Endpoint,
    name: &str,
) -> Option<&'static str> {
    let args = Args::new().arg(name).opt("timeout_ms", TIMEOUT_MS);
    cluster.client.call(endpoint, &args).await.ok()?.meta.hidden()
}
