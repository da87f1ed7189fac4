//! The pause of all automatic moves of shards, which an operator orders and ends. Its key is below the nodes' prefix, whose
//! list every process of the cluster reads, and has no session: it outlives restarts and changes of the leader.

use crate::cluster::Cluster;
use crate::keys::{self, Update};
use crate::options::Options;
use crate::{Snapshot, Unchanged};
use consul_api::error::Error;
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
    fn decode(bytes: &[u8]) -> Self {
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

impl Snapshot {
    /// Whether shards that have a place keep it.
    pub(crate) fn moves_nothing(&self) -> bool {
        !self.frozen.is_empty() || self.paused.is_some()
    }
}

impl Cluster {
    /// Stops all automatic moves of shards until [`Cluster::resume_moves`], while another key is unchanged. Returns the pause
    /// that was ordered before, which stays; `None`: there was none.
    ///
    /// # Errors
    /// Errors of the calls; [`consul_api::error::Kind::Conflict`] if the other key has changed.
    pub async fn pause_moves(
        &self,
        condition: Option<&Unchanged>,
        by: &str,
        why: &str,
    ) -> Result<Option<Pause>, Error> {
        let pause = Pause { by: by.to_owned(), since_ms: self.unix_ms(), why: why.to_owned() };
        let mut before = None;
        let key = self.options.pause_key();
        let update = self.update_while(condition, &key, |found| {
            // An answer that was lost makes it find its own.
            before = found.map(Pause::decode).filter(|found| *found != pause);
            Ok(if found.is_some() { Update::Keep } else { Update::Put(pause.encode()) })
        });
        self.in_time(update).await?;
        Ok(before)
    }

    /// Ends a pause. Returns it; `None`: there was none.
    ///
    /// # Errors
    /// As [`Cluster::pause_moves`].
    pub async fn resume_moves(
        &self,
        condition: Option<&Unchanged>,
    ) -> Result<Option<Pause>, Error> {
        let mut before = None;
        let key = self.options.pause_key();
        let update = self.update_while(condition, &key, |found| {
            before = found.map(Pause::decode).or(before.take());
            Ok(if found.is_some() { Update::Delete } else { Update::Keep })
        });
        self.in_time(update).await?;
        Ok(before)
    }
}
