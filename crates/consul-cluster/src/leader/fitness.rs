//! The writes of a leader that Consul refuses for lack of a right. Its lock may be kept all the same, so such a node would lead
//! without assigning shards: it says so in its key, and hands over to a node that has not found the same.

use super::refused::Refusal;
use crate::Cluster;
use crate::nodes::node::{Mode, Node};
use crate::nodes::rights::{self, Right};
use crate::pauses::REFUSED_PAUSE;
use crate::snapshot::Snapshot;
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_client::coordination::{Lease, Operation};
use consul_process::sync::lock;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// How long a node that may not do a leader's work leaves a free leadership to others.
const HEAD_START: Duration = Duration::from_secs(10);

/// A node hands over for this reason once in this time, whatever the others do then.
const HAND_OVER_INTERVAL: Duration = Duration::from_secs(300);

/// A refusal counts at least this long; after that, the end of the lack of rights ends it too.
const COUNTS_FOR: Duration = Duration::from_secs(30);

/// Applies operations as the leader does, and notes whether Consul refuses the token a right.
pub(crate) async fn write(
    cluster: &Cluster,
    lease: &Lease,
    operations: impl IntoIterator<Item = Operation>,
) -> Result<Value, Error> {
    let operations: Vec<Operation> = operations.into_iter().collect();
    let keys: Vec<(String, bool)> = operations.iter().filter_map(written).collect();
    let written = lease.fenced(operations).await;
    match &written {
        Ok(_) => note_written(cluster, keys.into_iter().map(|(key, _)| key)),
        Err(error) if is_refusal(error) => {
            // The first operation of the transaction shows the lock.
            let is_refused = |place: usize| error.refused().iter().any(|it| it.index == place + 1);
            let all = keys.iter().enumerate().all(|(place, _)| !is_refused(place));
            let keys = keys
                .iter()
                .enumerate()
                .filter(|(place, (_, writes))| if all { *writes } else { is_refused(*place) });
            let keys = keys.map(|(_, (key, _))| key.clone()).collect();
            note_refused(cluster, keys, error).await;
        }
        Err(_) => {}
    }
    written
}

/// The key of an operation, and whether it writes.
fn written(operation: &Operation) -> Option<(String, bool)> {
    let member =
        |name| operation.iter().find(|(it, _)| *it == name).and_then(|(_, it)| it.as_str());
    let (verb, key) = (member("Verb")?, member("Key")?);
    Some((key.to_owned(), !verb.starts_with("check") && verb != "get"))
}

/// Notes that this node may not stand for leader.
pub(crate) async fn note_cannot_stand(cluster: &Cluster, error: &Error) {
    if is_refusal(error) {
        note_refused(cluster, vec![cluster.options.leader_key.clone()], error).await;
    }
}

/// Notes that keys were written.
pub(crate) fn note_written(cluster: &Cluster, keys: impl IntoIterator<Item = String>) {
    let mut refused = lock(&cluster.refused);
    let known = refused.keys.len();
    keys.into_iter().for_each(|key| drop(refused.keys.remove(&key)));
    let (is_changed, reason) = (refused.keys.len() != known, refused.reason());
    drop(refused);
    if is_changed {
        tracing::warn!(
            node = cluster.options.node_id,
            "what a leader writes is not refused any more"
        );
        show(cluster, reason);
    }
}

fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), Kind::PermissionDenied | Kind::AclNotFound)
}

async fn note_refused(cluster: &Cluster, keys: Vec<String>, error: &Error) {
    let at = cluster.now();
    let is_new = {
        let mut refused = lock(&cluster.refused);
        let before = refused.keys.len();
        for key in &keys {
            let refusal = Refusal { at, why: error.message().to_owned() };
            refused.keys.insert(key.clone(), refusal);
        }
        refused.keys.len() > before
    };
    if !is_new {
        return;
    }
    let needed = keys.iter().map(|key| Right::write("key", key)).collect();
    let error = rights::named(&cluster.client, error.clone(), needed).await;
    tracing::warn!(node = cluster.options.node_id, ?keys, %error, "a leader's write is refused");
    let mut refused = lock(&cluster.refused);
    let of_these = refused.keys.iter_mut().filter(|(key, _)| keys.contains(key));
    of_these.for_each(|(_, refusal)| error.message().clone_into(&mut refusal.why));
    let reason = refused.reason();
    drop(refused);
    show(cluster, reason);
}

/// Shows it in this node's key, and to this process.
fn show(cluster: &Cluster, reason: Option<String>) {
    lock(&cluster.record).cannot_lead.clone_from(&reason);
    cluster.update(|snapshot| snapshot.cannot_lead = reason);
    cluster.own_key_lost.notify_one();
}

/// The other nodes that are live and active.
fn others<'s>(cluster: &'s Cluster, snapshot: &'s Snapshot) -> impl Iterator<Item = &'s Node> {
    let others = snapshot.live().filter(|node| node.record.id != cluster.options.node_id);
    others.filter(|node| node.record.mode == Mode::Active)
}

/// Whether another node is live and active.
pub(crate) fn has_other(cluster: &Cluster, snapshot: &Snapshot) -> bool {
    others(cluster, snapshot).next().is_some()
}

/// Whether one of them has not found that it may not do a leader's work.
fn has_fit_other(cluster: &Cluster, snapshot: &Snapshot) -> bool {
    others(cluster, snapshot).any(|node| node.record.cannot_lead.is_none())
}

/// Completes when this leader may not do its work and there is a node that may.
pub(crate) async fn another_is_fit(cluster: &Cluster) {
    let mut changes = cluster.changes();
    loop {
        let is_due = |snapshot: &Arc<Snapshot>| {
            snapshot.cannot_lead.is_some() && has_fit_other(cluster, snapshot)
        };
        // The sender lives as long as `cluster`.
        let _ = changes.wait_for(is_due).await;
        let last = lock(&cluster.refused).handed_over;
        match last.map(|last| last + HAND_OVER_INTERVAL).filter(|next| *next > cluster.now()) {
            Some(next) => cluster.sleep_until(next).await,
            None => break,
        }
    }
    lock(&cluster.refused).handed_over = Some(cluster.now());
    tracing::warn!(
        node = cluster.options.node_id,
        "hands the leadership over to a node that may do its work"
    );
}

/// Leaves a free leadership for some time to nodes that may do its work, if this one may not.
pub(crate) async fn yield_to_fit(cluster: &Cluster) {
    let snapshot = cluster.snapshot();
    if snapshot.cannot_lead.is_none() || !has_fit_other(cluster, &snapshot) {
        return;
    }
    let until = cluster.now() + HEAD_START;
    let mut changes = cluster.changes();
    let is_over = |snapshot: &Arc<Snapshot>| {
        snapshot.leader.is_some()
            || snapshot.cannot_lead.is_none()
            || !has_fit_other(cluster, snapshot)
    };
    tokio::select! {
        biased;
        _ = changes.wait_for(is_over) => {}
        () = cluster.sleep_until(until) => {}
    }
}

/// Forgets refusals when the token has the rights again, for a node that does not write these keys any more.
pub(crate) async fn forget_outdated(cluster: &Cluster) -> Infallible {
    let mut changes = cluster.changes();
    loop {
        // The sender lives as long as `cluster`.
        let _ = changes.wait_for(|snapshot| snapshot.cannot_lead.is_some()).await;
        cluster.client.clock().sleep(REFUSED_PAUSE).await;
        let now = cluster.now();
        let keys = lock(&cluster.refused).older_than(now, COUNTS_FOR);
        if keys.is_empty() {
            continue;
        }
        let needed = keys.iter().map(|key| Right::write("key", key)).collect();
        match rights::lacking(&cluster.client, needed).await {
            Ok(lacking) => {
                let has = |key: &String| lacking.iter().all(|right| right.name != *key);
                note_written(cluster, keys.into_iter().filter(has));
            }
            Err(error) => tracing::debug!(%error, "it is not known what the token may do"),
        }
    }
}
