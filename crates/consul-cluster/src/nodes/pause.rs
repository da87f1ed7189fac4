//! The pause of all automatic moves of shards, which an operator orders and ends. Its key is below the nodes' prefix, whose
//! list every process of the cluster reads, and has no session: it outlives restarts and changes of the leader.

use crate::keys;
use crate::options::Options;
use consul_api::value::Value;
use serde::{Deserialize, Serialize};

/// The key, after the nodes' prefix. A node's name has no `/`.
const NAME: &str = "all/paused";

/// A pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Who has ordered it.
    pub by: String,
    /// When, in Unix milliseconds by the clock of that process.
    pub since_ms: u64,
    /// Why; empty: there is none.
    #[serde(default)]
    pub why: String,
}

impl Pause {
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the key's value. Another one is a pause too: to move nothing is what is safe.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_else(|_| Pause {
            by: "nobody known".to_owned(),
            since_ms: 0,
            why: String::new(),
        })
    }
}

/// Whether a key below the nodes' prefix is that of the pause.
pub(super) fn is_key(name: &str) -> bool {
    name == NAME
}

/// The pause in a list of the keys below the nodes' prefix.
pub(super) fn listed(options: &Options, entries: &Value) -> Option<Pause> {
    keys::listed(entries, &options.pause_key()).map(Pause::decode)
}

impl Options {
    /// The key of the pause of all moves.
    pub fn pause_key(&self) -> String {
        self.node_key(NAME)
    }
}
