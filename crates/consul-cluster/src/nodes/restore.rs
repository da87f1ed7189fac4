//! The modes, the pause and the weights after a loss of Consul's data: the leader puts back what an operator has ordered.

use super::kept_mode::{Lost, Modes, encode};
use super::node::{Mode, Records};
use super::pause::Pause;
use super::weights::{self, Weights};
use crate::cluster::Cluster;
use crate::pauses::{PAUSE, REFUSED_PAUSE};
use consul_api::error::{Error, Kind};
use consul_client::coordination::{Lease, Operation, set, unchanged};
use consul_client::watch::State;
use std::convert::Infallible;
use std::time::Duration;

/// For how long after a loss of Consul's data the leader puts back what is lost. Longer than an election takes.
const RESTORED_WITHIN: Duration = Duration::from_secs(60);

/// Notes the modes and the pause that a loss of Consul's data takes with it: the kept modes, and the modes of nodes that are down.
pub(super) fn note_lost(
    cluster: &Cluster,
    state: &State,
    listed: &Records,
    (kept, pause): (&Modes, Option<&Pause>),
) {
    let before = cluster.snapshot();
    let pause = before.paused.clone().filter(|_| pause.is_none());
    let of_down = before.nodes.iter().filter(|(id, node)| {
        !node.is_live && node.record.mode != Mode::Active && !listed.contains_key(*id)
    });
    let of_down = of_down.map(|(id, node)| (id.clone(), node.record.mode));
    let known = before.kept_modes.iter().map(|(id, mode)| (id.clone(), *mode)).chain(of_down);
    let lost: Modes = known.filter(|(id, _)| !kept.contains_key(id)).collect();
    note(cluster, state, !lost.is_empty() || pause.is_some(), |all| {
        all.modes.extend(lost);
        all.pause = pause.or(all.pause.take());
    });
}

/// Notes the weights if their key is gone, which nobody deletes to end a weight.
pub(super) fn note_lost_weights(cluster: &Cluster, state: &State, weights: Option<&Weights>) {
    let lost = cluster.snapshot().weights.clone();
    let is_lost = weights.is_none() && !lost.is_empty();
    note(cluster, state, is_lost, |all| all.weights = lost);
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

/// The weights that Consul has lost, and a leader puts back.
pub(super) fn lost_weights(cluster: &Cluster) -> Weights {
    let lost = cluster.lost_modes.borrow();
    if cluster.now() < lost.until { lost.weights.clone() } else { Weights::new() }
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
    if let Some(pause) = pause {
        let key = options.pause_key();
        let operations = [unchanged(&key, 0), set(&key, pause.encode())];
        if is_written(lease, operations).await? {
            tracing::warn!(by = pause.by, "Consul has lost the pause; it is put back");
        }
        cluster.lost_modes.send_modify(|lost| lost.pause = None);
    }
    if !lost_weights.is_empty() {
        let key = options.weights_key();
        let operations = [unchanged(&key, 0), set(&key, weights::encode(&lost_weights))];
        if is_written(lease, operations).await? {
            tracing::warn!("Consul has lost the weights of nodes; they are put back");
        }
        cluster.lost_modes.send_modify(|lost| lost.weights.clear());
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
