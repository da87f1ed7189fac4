//! The modes, the pause and the weights after a loss of Consul's data, or the restore of a snapshot: the leader puts back what an
//! operator has ordered last.

use super::kept_mode::{Lost, Modes, encode};
use super::node::{Mode, Record, Records};
use super::pause::Pause;
use super::weights::{self, Weights};
use crate::cluster::Cluster;
use crate::keys;
use crate::pauses::{PAUSE, REFUSED_PAUSE};
use consul_api::error::{Error, Kind};
use consul_client::coordination::{Lease, Operation, delete_unchanged, set, unchanged};
use consul_client::watch::State;
use consul_process::sync::lock;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

/// For how long after a loss of Consul's data the leader puts back what is lost. Longer than an election takes.
const RESTORED_WITHIN: Duration = Duration::from_secs(60);

/// Notes the orders that a loss of Consul's data takes with it: the pause, the kept modes, and the modes of nodes that are down.
/// An order with an index up to the `newest` of before is that of a restored snapshot.
pub(super) fn note_lost(
    cluster: &Cluster,
    state: &State,
    newest: u64,
    listed: &Records,
    (kept, pause): (&Modes, Option<&Pause>),
) {
    let before = cluster.snapshot();
    let at = keys::listed_index(&state.answer.value, &cluster.options.pause_key());
    let is_other = before.paused.as_ref() != pause && at <= newest;
    let pause = is_other.then(|| (before.paused.clone(), at));
    // A node that lives keeps its own mode; an unknown node was active when it stopped.
    let of_down = |id: &String| match before.nodes.get(id) {
        Some(node) => (!node.is_live).then_some(node.record.mode),
        None => Some(before.kept_modes.get(id).copied().unwrap_or_default()),
    };
    let restored = listed.iter().filter_map(|(id, (record, at))| {
        let mode = of_down(id).filter(|mode| *at <= newest && record.mode != *mode)?;
        Some((id.clone(), (mode, *at)))
    });
    let gone = before.nodes.keys().chain(before.kept_modes.keys());
    let gone = gone.filter(|id| !listed.contains_key(*id) && !kept.contains_key(*id));
    let gone = gone.filter_map(|id| {
        let mode = of_down(id).filter(|mode| *mode != Mode::Active)?;
        Some((id.clone(), (mode, 0)))
    });
    let lost: BTreeMap<_, _> = restored.chain(gone).collect();
    note(cluster, state, !lost.is_empty() || pause.is_some(), |all| {
        all.modes.extend(lost);
        all.pause = pause.or(all.pause.take());
    });
}

/// Notes the weights if their key is gone, which nobody deletes to end a weight, or if it is that of a restored snapshot.
pub(super) fn note_lost_weights(
    cluster: &Cluster,
    state: &State,
    newest: u64,
    weights: Option<&Weights>,
) {
    let known = cluster.snapshot().weights.clone();
    let at = keys::listed_index(&state.answer.value, &cluster.options.weights_key());
    let is_lost = match weights {
        Some(weights) => state.is_resynchronised && *weights != known && at <= newest,
        None => !known.is_empty(),
    };
    note(cluster, state, is_lost, |all| all.weights = Some((known, at)));
}

fn note(cluster: &Cluster, state: &State, is_lost: bool, change: impl FnOnce(&mut Lost)) {
    let is_told = state.answer.meta.filtered_by_acl != Some(true);
    if is_lost && is_told {
        let until = cluster.now() + RESTORED_WITHIN;
        cluster.lost_modes.send_modify(|all| {
            change(all);
            all.until = until;
        });
    }
}

/// The weights that Consul has lost, and a leader puts back in place of those with this modify index.
pub(super) fn lost_weights(cluster: &Cluster, at: u64) -> Option<Weights> {
    let lost = cluster.lost_modes.borrow();
    let (weights, _) = lost.weights.as_ref().filter(|it| it.1 == at)?;
    (cluster.now() < lost.until).then(|| weights.clone())
}

/// The pause, or that there is none, which Consul has lost, and a leader puts back in place of that with this modify index.
pub(super) fn lost_pause(cluster: &Cluster, at: u64) -> Option<Option<Pause>> {
    let lost = cluster.lost_modes.borrow();
    let (pause, _) = lost.pause.as_ref().filter(|it| it.1 == at)?;
    (cluster.now() < lost.until).then(|| pause.clone())
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
    for (id, (mode, at)) in modes {
        let (node_key, key) = (options.node_key(&id), options.mode_key(&id));
        let restored = lock(&cluster.reported).records.get(&id).filter(|it| it.1 == at).cloned();
        // The node may be back.
        let operations = match restored {
            Some((record, _)) => {
                let record = Record { mode, ..(*record).clone() };
                [unchanged(&node_key, at), set(&node_key, record.to_bytes())].to_vec()
            }
            None => {
                let put = set(&key, encode(mode));
                [unchanged(&node_key, 0), unchanged(&key, 0), put].to_vec()
            }
        };
        if is_written(lease, operations).await? {
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
    if let Some((pause, at)) = pause {
        let key = options.pause_key();
        let change = match &pause {
            Some(pause) => [unchanged(&key, at), set(&key, pause.encode())].to_vec(),
            None => [delete_unchanged(&key, at)].to_vec(),
        };
        if is_written(lease, change).await? {
            let by = pause.map(|pause| pause.by);
            tracing::warn!(by, "Consul has lost the pause, or its end; it is put back");
        }
        cluster.lost_modes.send_modify(|lost| lost.pause = None);
    }
    if let Some((weights, at)) = lost_weights {
        let key = options.weights_key();
        let operations = [unchanged(&key, at), set(&key, weights::encode(&weights))];
        if is_written(lease, operations).await? {
            tracing::warn!("Consul has lost the weights of nodes; they are put back");
        }
        cluster.lost_modes.send_modify(|lost| lost.weights = None);
    }
    Ok(())
}

/// Writes what is lost; false: a key is there again. A leader that may not write it leads all the same.
async fn is_written(
    lease: &Lease,
    operations: impl IntoIterator<Item = Operation>,
) -> Result<bool, Error> {
    match lease.fenced(operations).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == Kind::TxnFailed => Ok(false),
        Err(error) => Err(error),
    }
}
