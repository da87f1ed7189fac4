//! The work of a node that an operator has asked for. It takes a request out of its key with the write that acknowledges it,
//! and then acts on it.

use super::node::{Mode, Record};
use super::request::{HandOver, Leave, Request};
use crate::cluster::Cluster;
use crate::pauses::PAUSE;
use crate::stores;
use consul_api::error::{Error, Kind};

/// Makes the changes of a request in this node's record, before it is taken out of the key.
pub(crate) fn prepare(cluster: &Cluster, request: &Request, record: &mut Record) {
    let leaves = |leave: &Leave| leave.incarnation == cluster.incarnation;
    if request.leave.as_ref().is_some_and(leaves) {
        cluster.note_leaving(record.mode);
        record.mode = Mode::Draining;
    }
}

/// Acts on a request that was taken out of this node's key.
pub(crate) fn act_on(cluster: &Cluster, request: &Request) {
    let node = &cluster.options.node_id;
    if let Some(HandOver { token, to }) = &request.hand_over {
        if cluster.lease().is_some_and(|lease| lease.token() == *token) {
            tracing::info!(node, ?to, "an operator asks for another leader");
            cluster.hand_overs.send_replace(to.clone());
        } else {
            tracing::warn!(node, token, "an operator's request is about another leadership");
        }
    }
    match &request.leave {
        Some(leave) if leave.incarnation == cluster.incarnation => {
            tracing::warn!(node, "an operator asks this node to leave");
            cluster.leaves.send_replace(true);
        }
        Some(_) => tracing::warn!(node, "an operator's request is about another start"),
        None => {}
    }
    let reinit = request.in_force(&cluster.incarnation, None).reinit;
    if reinit.len() < request.reinit.len() {
        tracing::warn!(node, "an operator's request is about another start");
    }
    if !reinit.is_empty() {
        cluster.reinits.send_modify(|all| all.extend(reinit));
    }
}

/// Completes when an operator has asked this node to leave and it has no shard any more. To set its mode
/// to active cancels that.
pub(crate) async fn asked_to_leave(cluster: &Cluster) -> Error {
    let mut asked = cluster.leaves.subscribe();
    loop {
        // The sender lives as long as `self`.
        let _ = asked.wait_for(|asked| *asked).await;
        match holds_none(cluster).await {
            Ok(true) => {
                return Error::new(Kind::Closed, "an operator asked it to leave").not_sent();
            }
            Ok(false) => {}
            Err(error) => tracing::info!(%error, "the maps of stores are read again"),
        }
        if cluster.mode() != Mode::Draining {
            tracing::warn!(
                node = cluster.options.node_id,
                "it stays: an operator has made it active"
            );
            cluster.leaves.send_replace(false);
        }
        cluster.client.clock().sleep(PAUSE).await;
    }
}

/// Whether neither the shard map nor a store names this node, which drains.
async fn holds_none(cluster: &Cluster) -> Result<bool, Error> {
    let id = &cluster.options.node_id;
    let snapshot = cluster.snapshot();
    let drains = snapshot.nodes.get(id).is_some_and(|it| it.record.mode == Mode::Draining);
    if !drains || snapshot.map.as_ref().is_some_and(|map| map.has(id)) {
        return Ok(false);
    }
    stores::leave::holds_none(cluster).await
}
