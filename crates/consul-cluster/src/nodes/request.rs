//! A request of an operator to a node from outside, in the node's key. The node takes a request out of its key
//! with the write that acknowledges it, and then acts on it.

use super::node::{Mode, Record};
use crate::cluster::{Cluster, PAUSE};
use crate::stores;
use consul_api::error::{Error, Kind};
use serde::{Deserialize, Deserializer, Serialize};
use std::time::Duration;

/// How long the other nodes leave a leadership that was handed over to its successor.
const HEAD_START: Duration = Duration::from_secs(2);

/// A request of an operator. Fields that a release does not know are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// To hand over the leadership.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hand_over: Option<HandOver>,
    /// To hand over the shards, and then to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave: Option<Leave>,
    /// To take this request out of the key, and to show in [`Record::answered`] who has asked: another start with the node's
    /// name asks whether this one lives. A release that does not know it takes it out too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// To hand over the leadership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOver {
    /// The fencing token of the leadership that it is about. It has no effect on another one.
    pub token: u64,
    /// The node that is to lead; `None`: any other one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// To hand over the shards, and then to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// The start of the node that it is about. It has no effect on another one.
    pub incarnation: String,
}

/// Reads a request; an unreadable one is none, and does not make the record unreadable.
pub(crate) fn lenient<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Request>, D::Error> {
    let found = Option::<serde_json::Value>::deserialize(from)?;
    Ok(found.and_then(|found| serde_json::from_slice(found.to_string().as_bytes()).ok()))
}

impl Request {
    /// Adds what another request asks of a node. Whether it was not asked already. A request about an earlier
    /// leadership or an earlier start is replaced.
    pub(super) fn add(&mut self, node_id: &str, other: &Request) -> Result<bool, Error> {
        let before = self.clone();
        if let Some(hand_over) = &other.hand_over {
            let is_other = |it: &&HandOver| it.token == hand_over.token && it.to != hand_over.to;
            if let Some(pending) = before.hand_over.as_ref().filter(is_other) {
                let to =
                    pending.to.as_ref().map_or("another node".to_owned(), |to| format!("{to:?}"));
                let why = format!(
                    "node {node_id:?} has yet to take the request to hand over to {to}: \
                     `consul-ha hand-over --withdraw` takes it back"
                );
                return Err(Error::new(Kind::Conflict, why).with_maybe_applied(false));
            }
            self.hand_over = Some(hand_over.clone());
        }
        if let Some(leave) = &other.leave {
            self.leave = Some(leave.clone());
        }
        Ok(*self != before)
    }

    /// The part of it with an effect on a node with this start, and this leadership if it leads.
    pub(crate) fn in_force(&self, incarnation: &str, token: Option<u64>) -> Request {
        let hand_over = self.hand_over.clone().filter(|it| Some(it.token) == token);
        let leave = self.leave.clone().filter(|it| it.incarnation == incarnation);
        Request { hand_over, leave, answer: None }
    }

    /// Removes what another request asks. Whether something was removed.
    pub(super) fn remove(&mut self, other: &Request) -> bool {
        let before = self.clone();
        self.hand_over = self.hand_over.take().filter(|it| Some(it) != other.hand_over.as_ref());
        self.leave = self.leave.take().filter(|it| Some(it) != other.leave.as_ref());
        *self != before
    }
}

impl Record {
    /// Removes a part of what the node was asked and has not taken. Whether there was one.
    pub(super) fn take_back(&mut self, take: impl FnOnce(&mut Request) -> bool) -> bool {
        let Some(mut all) = self.request.take() else { return false };
        let taken = take(&mut all);
        self.request = Some(all).filter(|all| *all != Request::default());
        taken
    }

    /// Removes the request to leave.
    pub(crate) fn cancel_leave(&mut self) {
        self.take_back(|all| all.leave.take().is_some());
    }
}

/// A request of this process to a node.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The node.
    pub node_id: String,
    /// The request itself.
    pub request: Request,
    /// Whether the node's key did not have it already, from another process.
    pub is_new: bool,
}

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

/// Leaves the leadership for a moment to the node to which the last leader handed it over.
pub(crate) async fn yield_to_successor(cluster: &Cluster) {
    let snapshot = cluster.snapshot();
    let others = snapshot.successor.as_ref().filter(|id| **id != cluster.options.node_id);
    if others.is_none() {
        return;
    }
    let until = cluster.now() + HEAD_START;
    let mut changes = cluster.changes();
    tokio::select! {
        biased;
        _ = changes.wait_for(|snapshot| snapshot.leader.is_some()) => {}
        () = cluster.sleep_until(until) => {}
    }
}
