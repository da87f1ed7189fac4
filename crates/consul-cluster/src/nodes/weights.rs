//! The weights that operators have set. Their key is below the nodes' prefix, whose list every process of the cluster reads,
//! and has no session: it outlives restarts. Each node takes its own weight from there into its own key, from which the others
//! and a leader of an older release have it. The key is never deleted: without it Consul has lost data.

use crate::keys::{self, Said};
use crate::options::Options;
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_client::Client;
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
pub(super) fn members(bytes: &[u8]) -> Option<BTreeMap<String, serde_json::Value>> {
    match bytes {
        b"" => Some(BTreeMap::new()),
        _ => serde_json::from_slice(bytes).ok(),
    }
}

/// Reads the key's value. A value that is not a weight is ignored: the node has its configuration's weight.
pub(super) fn decode(bytes: &[u8]) -> Weights {
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
        tracing::warn!(key, "not the weights of nodes; those known before count");
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
