//! A request of an operator to a node from outside, in the node's key.

use consul_api::error::{Error, Kind};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A request of an operator. Fields that a release does not know are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// To hand over the leadership.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hand_over: Option<HandOver>,
    /// To hand over the shards, and then to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave: Option<Leave>,
    /// To make replicas again, by store.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reinit: BTreeMap<String, Reinit>,
    /// To take this request out of the key, and to show in [`super::node::Record::answered`] who has asked: another start with
    /// the node's name asks whether this one lives. A release that does not know it takes it out too.
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

/// To make replicas of a store again from the replicas of other nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reinit {
    /// The start of the node that it is about. It has no effect on another one.
    pub incarnation: String,
    /// Which order it is: a random number.
    pub order: u64,
    /// The disk that it is about. It has no effect on another one.
    pub disk: u64,
    /// The shards; empty: none more.
    pub shards: BTreeSet<u32>,
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
        self.reinit.extend(other.reinit.clone());
        Ok(*self != before)
    }

    /// The part of it with an effect on a node with this start, and this leadership if it leads.
    pub(crate) fn in_force(&self, incarnation: &str, token: Option<u64>) -> Request {
        let hand_over = self.hand_over.clone().filter(|it| Some(it.token) == token);
        let leave = self.leave.clone().filter(|it| it.incarnation == incarnation);
        let mut reinit = self.reinit.clone();
        reinit.retain(|_, it| it.incarnation == incarnation);
        Request { hand_over, leave, reinit, answer: None }
    }

    /// Removes what another request asks. Whether something was removed.
    pub(super) fn remove(&mut self, other: &Request) -> bool {
        let before = self.clone();
        self.hand_over = self.hand_over.take().filter(|it| Some(it) != other.hand_over.as_ref());
        self.leave = self.leave.take().filter(|it| Some(it) != other.leave.as_ref());
        self.reinit.retain(|store, it| Some(&*it) != other.reinit.get(store));
        *self != before
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
