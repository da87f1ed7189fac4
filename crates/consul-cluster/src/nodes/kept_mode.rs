//! The mode of a node that is not there: what an operator has ordered lasts until an operator ends it.
//!
//! A node that stops takes its key away, and a leader that of a node which is down for too long. Either leaves the node's mode
//! in a key beside it, unless it is active; the node's next start takes that key away and goes on in the mode. So one of the
//! two keys has the mode at any time. After a loss of Consul's data the leader puts these keys back.

use super::node::{Mode, Record, Records};
use super::pause::Pause;
use super::weights::Weights;
use crate::keys::{self, Said};
use crate::options::Options;
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_client::Client;
use consul_client::coordination::{Operation, delete_unchanged, set, unchanged};
use consul_process::clock::Instant;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The end of the key, after the node's own.
const END: &str = "/mode";

/// The document of the key.
#[derive(Serialize, Deserialize)]
struct Document {
    mode: Mode,
}

/// The modes of nodes that are not there.
pub type Modes = BTreeMap<String, Mode>;

/// The modes, the pause and the weights that Consul has lost, and until when they are put back. Each has the modify index of the
/// entry that a restored snapshot has brought in its place, 0 if there is none.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    pub(super) modes: BTreeMap<String, (Mode, u64)>,
    pub(super) pause: Option<(Option<Pause>, u64)>,
    pub(super) weights: Option<(Weights, u64)>,
    pub(super) until: Instant,
}

impl Lost {
    /// Forgets the modes of nodes that Consul has again.
    pub(super) fn found(&mut self, listed: &Records, kept: &Modes) {
        self.modes.retain(|id, (_, at)| {
            let index = listed.get(id).map_or(0, |(_, index)| *index);
            !kept.contains_key(id) && index == *at
        });
    }

    pub(super) fn is_none(&self) -> bool {
        self.modes.is_empty() && self.pause.is_none() && self.weights.is_none()
    }
}

impl Options {
    /// The key with the mode of a node that is not there.
    pub fn mode_key(&self, id: &str) -> String {
        format!("{}{END}", self.node_key(id))
    }
}

/// The name of the node whose kept mode is in this key, which is below the nodes' prefix.
pub(super) fn id_of(key: &str) -> Option<&str> {
    key.strip_suffix(END).filter(|id| !id.is_empty() && !id.contains('/'))
}

/// The document of the key.
pub(super) fn encode(mode: Mode) -> Vec<u8> {
    serde_json::to_vec(&Document { mode }).unwrap_or_default()
}

/// Reads the key's value. `None`: it is not a mode, or active.
pub(super) fn decode(bytes: &[u8]) -> Option<Mode> {
    let document: Option<Document> = serde_json::from_slice(bytes).ok();
    document.map(|it| it.mode).filter(|mode| *mode != Mode::Active)
}

/// The kept modes in a list of the keys below the nodes' prefix.
pub(super) fn listed(options: &Options, entries: &Value, said: &mut Said) -> Modes {
    let mode = |entry: &Value| {
        let key = entry.get("Key").and_then(Value::as_str)?;
        let id = id_of(key.strip_prefix(&options.nodes_prefix)?)?;
        let Some(Value::Bytes(bytes)) = entry.get("Value") else { return None };
        let mode = decode(bytes);
        if mode.is_none() && said.is_new(key) {
            tracing::warn!(key, "not the mode of a node that is stopped; it is ignored");
        }
        Some((id.to_owned(), mode?))
    };
    entries.items().iter().filter_map(mode).collect()
}

/// The kept mode of a node, if its key has one, and the key's modify index. A token may lack the right to read it, which has
/// that of the node's own key alone.
pub(super) async fn read(
    client: &Client,
    options: &Options,
    id: &str,
) -> Result<(Option<Mode>, u64), Error> {
    match keys::read(client, &options.mode_key(id)).await {
        Ok(Some((bytes, index))) => Ok((decode(&bytes), index)),
        Ok(None) => Ok((None, 0)),
        Err(error) if error.kind() == Kind::PermissionDenied => {
            tracing::debug!(%error, "the mode from before a stop is not known");
            Ok((None, 0))
        }
        Err(error) => Err(error),
    }
}

/// The operation that keeps a mode; `None`: the node is active, so there is nothing to keep.
pub(crate) fn keep(options: &Options, id: &str, mode: Mode) -> Option<Operation> {
    (mode != Mode::Active).then(|| set(&options.mode_key(id), encode(mode)))
}

/// The operations that write a node's key, which had this modify index, and take away its kept mode.
pub(super) fn taken(options: &Options, record: &Record, before: u64, kept: u64) -> [Operation; 3] {
    let key = options.node_key(&record.id);
    let kept = delete_unchanged(&options.mode_key(&record.id), kept);
    [unchanged(&key, before), set(&key, record.to_bytes()), kept]
}
