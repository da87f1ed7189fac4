//! The mode of a node that is not there: what an operator has ordered lasts until an operator ends it.
//!
//! A node that stops takes its key away, and a leader that of a node which is down for too long. Either leaves the node's mode
//! in a key beside it, unless it is active; the node's next start takes that key away and goes on in the mode. So one of the
//! two keys has the mode at any time. After a loss of Consul's data the leader puts these keys back.

use super::node::{Mode, Record};
use super::pause::Pause;
use super::registered::{Records, Said};
use super::weights::{self, Weights};
use crate::cluster::{Cluster, PAUSE, REFUSED_PAUSE};
use crate::keys;
use crate::leader::refused;
use crate::options::Options;
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_client::Client;
use consul_client::coordination::{Lease, Operation, delete_unchanged, set, unchanged};
use consul_client::watch::State;
use consul_process::clock::Instant;
use consul_process::sync::lock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

/// The end of the key, after the node's own.
const END: &str = "/mode";

/// For how long after a loss of Consul's data the leader puts back what is lost. Longer than an election takes.
const RESTORED_WITHIN: Duration = Duration::from_secs(60);

/// The document of the key.
#[derive(Serialize, Deserialize)]
struct Document {
    mode: Mode,
}

/// The modes of nodes that are not there.
pub type Modes = BTreeMap<String, Mode>;

/// The modes, the pause and the weights that Consul has lost, and until when they are put back.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    modes: Modes,
    pause: Option<Pause>,
    weights: Weights,
    until: Instant,
}

impl Lost {
    /// Forgets the modes of nodes that Consul has again.
    pub(super) fn found(&mut self, listed: &Records, kept: &Modes) {
        self.modes.retain(|id, _| !kept.contains_key(id) && !listed.contains_key(id));
    }

    fn is_none(&self) -> bool {
        self.modes.is_empty() && self.pause.is_none() && self.weights.is_empty()
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

impl Cluster {
    /// Notes the modes that a loss of Consul's data takes with it: the kept modes, and the modes of nodes that are down.
    pub(super) fn note_lost_modes(
        &self,
        state: &State,
        listed: &Records,
        (kept, pause, weights): (&Modes, Option<&Pause>, Option<&Weights>),
    ) {
        let before = self.snapshot();
        let pause = before.paused.clone().filter(|_| pause.is_none());
        let weights = if weights.is_none() { before.weights.clone() } else { Weights::new() };
        let of_down = before.nodes.iter().filter(|(id, node)| {
            !node.is_live && node.record.mode != Mode::Active && !listed.contains_key(*id)
        });
        let of_down = of_down.map(|(id, node)| (id.clone(), node.record.mode));
        let known = before.kept_modes.iter().map(|(id, mode)| (id.clone(), *mode)).chain(of_down);
        let lost: Modes = known.filter(|(id, _)| !kept.contains_key(id)).collect();
        let is_told = state.answer.meta.filtered_by_acl != Some(true);
        if (!lost.is_empty() || pause.is_some() || !weights.is_empty()) && is_told {
            let until = self.now() + RESTORED_WITHIN;
            self.lost_modes.send_modify(|all| {
                all.modes.extend(lost);
                all.pause = pause.or(all.pause.take());
                if !weights.is_empty() {
                    all.weights = weights;
                }
                all.until = until;
            });
        }
    }

    /// The weights that Consul has lost, and a leader puts back.
    pub(super) fn lost_weights(&self) -> Weights {
        let lost = self.lost_modes.borrow();
        if self.now() < lost.until { lost.weights.clone() } else { Weights::new() }
    }

    /// The mode that this node leaves when it stops.
    pub(super) fn mode_to_keep(&self, record: &Record) -> Mode {
        lock(&self.left_from).unwrap_or(record.mode)
    }

    /// Drains this node, to stop it then: the mode that it has now is the one of its next start.
    ///
    /// # Errors
    /// As [`Cluster::set_mode`].
    pub async fn drain_to_leave(&self) -> Result<(), Error> {
        self.note_leaving(self.mode());
        self.set_mode(&self.options.node_id, Mode::Draining).await
    }

    /// Notes from which mode this node leaves.
    pub(super) fn note_leaving(&self, from: Mode) {
        lock(&self.left_from).get_or_insert(from);
    }
}

/// Puts back the kept modes that Consul has lost, while this node leads.
pub(super) async fn restore(cluster: &Cluster) -> Infallible {
    let mut changes = cluster.lost_modes.subscribe();
    loop {
        // The sender lives as long as `cluster`.
        let _ = changes.wait_for(|lost| !lost.is_none()).await;
        cluster.client.clock().sleep(PAUSE).await;
        let now = cluster.now();
        if now >= cluster.lost_modes.borrow().until {
            cluster.lost_modes.send_modify(|lost| *lost = Lost::default());
        }
        let lease = cluster.lease().filter(|lease| lease.is_held());
        let Some(lease) = lease.filter(|_| now >= cluster.hold_off_until()) else { continue };
        if let Err(error) = put_all_back(cluster, &lease).await {
            tracing::info!(%error, "what an operator has ordered was not put back");
            cluster.client.clock().sleep(REFUSED_PAUSE).await;
        }
    }
}

async fn put_all_back(cluster: &Cluster, lease: &Lease) -> Result<(), Error> {
    let (modes, pause, lost_weights) = {
        let lost = cluster.lost_modes.borrow();
        (lost.modes.clone(), lost.pause.clone(), lost.weights.clone())
    };
    let options = &cluster.options;
    for (id, mode) in modes {
        let key = options.mode_key(&id);
        // The node may be back.
        let operations =
            [unchanged(&options.node_key(&id), 0), unchanged(&key, 0), set(&key, encode(mode))];
        if is_written(cluster, lease, operations).await? {
            tracing::warn!(
                node = id,
                mode = mode.name(),
                "Consul has lost the mode of a node that is stopped; it is put back"
            );
        }
        cluster.lost_modes.send_modify(|lost| {
            lost.modes.remove(&id);
        });
    }
    if let Some(pause) = pause {
        let key = options.pause_key();
        let operations = [unchanged(&key, 0), set(&key, pause.encode())];
        if is_written(cluster, lease, operations).await? {
            tracing::warn!(by = pause.by, "Consul has lost the pause; it is put back");
        }
        cluster.lost_modes.send_modify(|lost| lost.pause = None);
    }
    if !lost_weights.is_empty() {
        let key = options.weights_key();
        let operations = [unchanged(&key, 0), set(&key, weights::encode(&lost_weights))];
        if is_written(cluster, lease, operations).await? {
            tracing::warn!("Consul has lost the weights of nodes; they are put back");
        }
        cluster.lost_modes.send_modify(|lost| lost.weights.clear());
    }
    Ok(())
}

/// Writes what is lost; false: a key is there again.
async fn is_written(
    cluster: &Cluster,
    lease: &Lease,
    operations: impl IntoIterator<Item = Operation>,
) -> Result<bool, Error> {
    match refused::write(cluster, lease, operations).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == Kind::TxnFailed => Ok(false),
        Err(error) => Err(error),
    }
}
