//! The weights that operators have set. Their key is below the nodes' prefix, whose list every process of the cluster reads,
//! and has no session: it outlives restarts. Each node takes its own weight from there into its own key, from which the others
//! and a leader of an older release have it. The key is never deleted: without it Consul has lost data.

use super::node::Record;
use super::operate::no_such_node;
use super::registered::Said;
use crate::cluster::Cluster;
use crate::keys::{self, Update};
use crate::leader::history;
use crate::options::Options;
use crate::{Snapshot, Unchanged};
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_client::Client;
use consul_process::sync::lock;
use std::collections::BTreeMap;

/// The key, after the nodes' prefix. A node's name has no `/`.
const NAME: &str = "all/weights";

/// The weights by the names of their nodes.
pub type Weights = BTreeMap<String, f64>;

/// Whether a key below the nodes' prefix is that of the weights.
pub(super) fn is_key(name: &str) -> bool {
    name == NAME
}

/// Whether a node can have this weight.
pub fn is_valid(weight: f64) -> bool {
    weight.is_finite() && weight >= 0.0
}

pub(super) fn encode(weights: &Weights) -> Vec<u8> {
    serde_json::to_vec(weights).unwrap_or_default()
}

/// The key's members; `None`: another program has written it.
fn members(bytes: &[u8]) -> Option<BTreeMap<String, serde_json::Value>> {
    match bytes {
        b"" => Some(BTreeMap::new()),
        _ => serde_json::from_slice(bytes).ok(),
    }
}

/// Reads the key's value. A value that is not a weight is ignored: the node has its configuration's weight.
fn decode(bytes: &[u8]) -> Weights {
    let weight = |(id, found): (String, serde_json::Value)| {
        Some((id, found.as_f64().filter(|weight| is_valid(*weight))?))
    };
    members(bytes).into_iter().flatten().filter_map(weight).collect()
}

/// The weights in a list of the keys below the nodes' prefix.
pub(super) enum Listed {
    /// The key is not there.
    Absent,
    /// Another program has written it.
    Foreign,
    Weights(Weights),
}

/// As [`Listed`].
pub(super) fn listed(options: &Options, entries: &Value, said: &mut Said) -> Listed {
    let key = options.weights_key();
    let Some(bytes) = keys::listed(entries, &key) else { return Listed::Absent };
    if members(bytes).is_some() {
        return Listed::Weights(decode(bytes));
    }
    if said.is_new(&key) {
        tracing::warn!(key, "not the weights of nodes; they are ignored");
    }
    Listed::Foreign
}

/// The weight that an operator has given to a node. A token may lack the right to read it.
pub(super) async fn read(client: &Client, options: &Options) -> Result<Option<f64>, Error> {
    let key = options.weights_key();
    match keys::read(client, &key).await {
        Ok(Some((bytes, _))) => Ok(decode(&bytes).get(&options.node_id).copied()),
        Ok(None) => Ok(None),
        Err(error) if error.kind() == Kind::PermissionDenied => {
            tracing::debug!(%error, "the weight that an operator has set is not known");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Options {
    /// The key of the weights that operators have set.
    pub fn weights_key(&self) -> String {
        self.node_key(NAME)
    }
}

impl Snapshot {
    /// Whether a live node shows the weight that an operator has given to it, or the lack of one. A node of an earlier
    /// release does not tell the latter.
    pub fn has_taken_weight(&self, node_id: &str, weight: Option<f64>) -> bool {
        let Some(node) = self.nodes.get(node_id) else { return false };
        match weight {
            Some(weight) => node.record.weight == weight,
            None => node.record.set_weight.is_none(),
        }
    }
}

impl Cluster {
    /// Gives a node another weight than its configuration has, or with `None` that one again, while another key is unchanged.
    /// It lasts over restarts. Returns the weight that an operator had set before.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if this process knows no such node; [`Kind::Argument`] for a weight that is negative or not
    /// finite; [`Kind::Conflict`] if the other key has changed, or another program's value is in that of the weights; errors of
    /// the calls.
    pub async fn set_weight(
        &self,
        condition: Option<&Unchanged>,
        node_id: &str,
        weight: Option<f64>,
    ) -> Result<Option<f64>, Error> {
        if weight.is_some_and(|weight| !is_valid(weight)) {
            let why = "the weight of a node must be a number from 0 on";
            return Err(Error::new(Kind::Argument, why).not_sent());
        }
        let snapshot = self.snapshot();
        let is_known = snapshot.nodes.contains_key(node_id)
            || snapshot.kept_modes.contains_key(node_id)
            || snapshot.weights.contains_key(node_id);
        if !is_known {
            return Err(no_such_node(node_id));
        }
        let (key, mut before) = (self.options.weights_key(), None);
        let update = self.update_while(condition, &key, |found| {
            let mut weights =
                members(found.unwrap_or_default()).ok_or_else(|| keys::foreign(&key))?;
            before = decode(found.unwrap_or_default()).get(node_id).copied();
            match weight {
                Some(weight) => _ = weights.insert(node_id.to_owned(), weight.into()),
                None => _ = weights.remove(node_id),
            }
            let value = serde_json::to_vec(&weights).unwrap_or_default();
            let is_same = found == Some(&*value) || found.is_none() && weights.is_empty();
            Ok(if is_same { Update::Keep } else { Update::Put(value) })
        });
        self.in_time(update).await?;
        Ok(before)
    }

    /// The keys of what operators set and of the history of leaders in which another program's value is: each error names one,
    /// with its cure.
    ///
    /// # Errors
    /// Errors of the calls.
    pub async fn foreign_values(&self) -> Result<Vec<Error>, Error> {
        let key = self.options.weights_key();
        let found = keys::read(&self.client, &key).await?;
        let is_foreign = found.is_some_and(|(bytes, _)| members(&bytes).is_none());
        let mut foreign = Vec::from_iter(is_foreign.then(|| keys::foreign(&key)));
        match history::leaders(self).await {
            Err(error) if error.kind() == Kind::Conflict => foreign.push(error),
            known => _ = known?,
        }
        Ok(foreign)
    }

    /// Takes the weight of this node, which is that of its configuration unless an operator has set another one. Whether it
    /// has changed.
    pub(super) fn take_weight(&self, of_operator: Option<f64>) -> bool {
        let Record { weight, set_weight, .. } = &mut *lock(&self.record);
        let wanted = of_operator.unwrap_or(self.options.weight);
        let is_new = *weight != wanted || *set_weight != of_operator;
        *set_weight = of_operator;
        if *weight != wanted {
            tracing::info!(
                node = self.options.node_id,
                weight = wanted,
                before = *weight,
                "the node takes another weight"
            );
            *weight = wanted;
        }
        is_new
    }
}
