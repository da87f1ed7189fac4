//! Leader election: the holder of the lock on the leader's key is the leader.

use super::record::{Blocked, LeaderRecord};
use super::{assign, fitness, history};
use crate::cluster::Cluster;
use crate::event::Event;
use crate::nodes::node::Mode;
use crate::nodes::{settings, start};
use crate::pauses::{PAUSE, REFUSED_PAUSE};
use crate::snapshot::{Leader, Sight, Snapshot};
use consul_api::error::Kind;
use consul_api::value::Value;
use consul_client::coordination::lock::{LOCK_FLAGS, LockOptions, acquire};
use consul_client::coordination::{self, Lease, Wait};
use consul_client::watch::State;
use consul_process::sync::lock;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long the other nodes leave a leadership that was handed over to its successor.
const HEAD_START: Duration = Duration::from_secs(2);

/// How long the key is blocked until the log says so. An operator's single change ends sooner, also with the profile `wan`.
const SAID_AFTER: Duration = Duration::from_secs(10);

/// Waits while the key has the document of this node's candidacy: the program is not told that its node leads before the
/// node knows that it holds the lock. Returns whether the state is to be applied: not if the candidacy has ended without the
/// lock, after which the watch brings another state. A candidacy ends within the time of a takeover.
pub(crate) async fn wait_for_own_candidacy(cluster: &Cluster, state: Option<&State>) -> bool {
    let Some(State { answer, .. }) = state else { return true };
    let Value::Bytes(document) = &answer.value else { return true };
    let mut candidacy = cluster.candidacy.subscribe();
    if candidacy.borrow().as_ref() != Some(document) {
        return true;
    }
    // The sender lives as long as `cluster`.
    _ = candidacy.wait_for(|candidacy| candidacy.as_ref() != Some(document)).await;
    let session = answer.meta.entry.as_ref().and_then(|entry| entry.session.as_deref());
    cluster.lease().is_some_and(|lease| Some(lease.session()) == session)
}

/// Applies a new state of the leader's key; `None`: Consul is unreachable, so the leader is unknown.
pub(crate) fn apply_leader(cluster: &Cluster, state: Option<&State>) {
    let entry = state.and_then(|state| state.answer.meta.entry.as_ref());
    let held = entry.filter(|entry| entry.flags == LOCK_FLAGS);
    let value = match state.map(|state| &state.answer.value) {
        Some(Value::Bytes(bytes)) => bytes.as_slice(),
        _ => b"",
    };
    let claim = LeaderRecord::parse(value);
    let blocked = entry.and_then(|entry| {
        let key = &cluster.options.leader_key;
        Blocked::of(key, entry.flags, entry.session.as_deref(), value)
    });
    let successor = claim.as_ref().and_then(|claim| claim.successor.clone());
    let leader = held.and_then(|entry| Some((entry.session.clone()?, entry.modify_index)));
    let leader = leader.zip(claim).map(|((session_id, token), claim)| {
        cluster.note_leadership(cluster.epoch(), token);
        Leader {
            node_id: claim.node_id,
            address: claim.address,
            session_id,
            token,
            elected_at_ms: claim.elected_at_ms,
        }
    });
    let before = cluster.snapshot();
    // A session that acquires its own lock again, since an answer was lost, has another token.
    let leadership =
        |leader: &Option<Leader>| leader.clone().map(|leader| Leader { token: 0, ..leader });
    if leadership(&before.leader) != leadership(&leader) {
        let name = leader.as_ref().map(|leader| leader.node_id.clone());
        cluster.numbers.leader_changes.add_one();
        cluster.emit(Event::LeaderChanged(name));
    }
    if before.leader.is_some() && state.is_some() && entry.is_none() {
        *lock(&cluster.leader_key_gone) = Some(cluster.now());
    }
    let is_connected = state.is_some();
    let successor = successor.filter(|_| leader.is_none());
    if (&before.leader, &before.successor, &before.blocked) != (&leader, &successor, &blocked)
        || before.is_connected != is_connected
    {
        cluster.update(|snapshot| {
            (snapshot.leader, snapshot.successor) = (leader, successor);
            snapshot.blocked = blocked;
            snapshot.is_connected = is_connected;
        });
        cluster.note_first_look();
    }
}

/// Tries to become the leader whenever there is none, and leads while it is.
pub(crate) async fn campaign(cluster: &Cluster) -> Infallible {
    let mut changes = cluster.changes();
    loop {
        let is_wanted = |snapshot: &Arc<Snapshot>| {
            snapshot.is_connected && snapshot.leader.is_none() && may_lead(cluster, snapshot)
        };
        let _ = changes.wait_for(is_wanted).await;
        if matches!(cluster.snapshot().sight, Sight::None | Sight::Untold)
            && let Some(hidden) = start::hidden_instances(cluster).await
        {
            tracing::warn!(node = cluster.options.node_id, %hidden, "cannot stand for leader");
            cluster.client.clock().sleep(REFUSED_PAUSE).await;
            continue;
        }
        // Who led when the key was deleted has noticed after the lock delay, which Consul keeps only for ended sessions.
        let gone = *lock(&cluster.leader_key_gone);
        if let Some(gone) = gone {
            cluster.client.clock().sleep_until(gone + cluster.options.profile.lock_delay).await;
        }
        fitness::yield_to_fit(cluster).await;
        yield_to_successor(cluster).await;
        let value = Some(claim(cluster, None));
        let wait = Wait::For(cluster.options.profile.takeover());
        cluster.candidacy.send_replace(value.clone());
        let options = LockOptions { value, wait, is_own: true };
        let acquired = tokio::select! {
            biased;
            acquired = acquire(&cluster.presence, &cluster.options.leader_key, &options) => Some(acquired),
            // A node that goes on waiting would not leave the next leadership to a successor.
            () = other_leads(cluster) => None,
        };
        if let Some(Ok(lease)) = &acquired {
            *lock(&cluster.led_session) = Some(lease.session().to_owned());
            *lock(&cluster.lease) = Some(Arc::clone(lease));
            fitness::note_written(cluster, [cluster.options.leader_key.clone()]);
        }
        cluster.candidacy.send_replace(None);
        match acquired {
            None => {}
            Some(Ok(lease)) => lead(cluster, &lease).await,
            Some(Err(error)) if error.kind() == Kind::Timeout => {}
            Some(Err(error)) => {
                tracing::warn!(node = cluster.options.node_id, %error, "cannot stand for leader");
                fitness::note_cannot_stand(cluster, &error).await;
                let is_refused = cluster.note_refusal(&error);
                let pause = if is_refused { REFUSED_PAUSE } else { PAUSE };
                cluster.client.clock().sleep(pause).await;
            }
        }
    }
}

/// Leaves the leadership for a moment to the node to which the last leader handed it over.
async fn yield_to_successor(cluster: &Cluster) {
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

/// Completes when another node is the leader.
async fn other_leads(cluster: &Cluster) {
    let id = &cluster.options.node_id;
    let is_led = |snapshot: &Arc<Snapshot>| {
        snapshot.leader.as_ref().is_some_and(|leader| leader.node_id != *id)
    };
    // The sender lives as long as `self`.
    let _ = cluster.changes().wait_for(is_led).await;
}

/// The document of the leader's key.
fn claim(cluster: &Cluster, successor: Option<String>) -> Vec<u8> {
    let claim = LeaderRecord {
        node_id: cluster.options.node_id.clone(),
        address: cluster.options.node_address.clone(),
        elected_at_ms: cluster.unix_ms(),
        successor,
    };
    serde_json::to_vec(&claim).unwrap_or_default()
}

/// A node that does not see itself live does not see this cluster, or is not there for the others.
fn may_lead(cluster: &Cluster, snapshot: &Snapshot) -> bool {
    may_go_on(cluster, snapshot) && is_seen(cluster, snapshot)
}

/// A leader that does not see all nodes would take the shards of the others.
fn may_go_on(cluster: &Cluster, snapshot: &Snapshot) -> bool {
    let me = snapshot.nodes.get(&cluster.options.node_id);
    let sees_all = !snapshot.hides_keys && snapshot.sight != Sight::Part;
    sees_all && me.is_some_and(|me| cluster.is_me(&me.record) && me.record.mode == Mode::Active)
}

fn is_seen(cluster: &Cluster, snapshot: &Snapshot) -> bool {
    snapshot.nodes.get(&cluster.options.node_id).is_some_and(|me| me.is_live)
}

/// Acts as the leader until the leadership is lost or handed over.
async fn lead(cluster: &Cluster, lease: &Arc<Lease>) {
    cluster.numbers.elections_won.add_one();
    tracing::info!(node = cluster.options.node_id, token = lease.token(), "became the leader");
    let mut hand_overs = cluster.hand_overs.subscribe();
    let mut changes = cluster.changes();
    let stepped_down = tokio::select! {
        biased;
        _ = lease.keep() => None,
        never = relay_events(cluster, lease) => match never {},
        never = history::note(cluster, lease) => match never {},
        successor = asked_to_hand_over(cluster, &mut hand_overs) => Some(successor),
        () = fitness::another_is_fit(cluster) => Some(None),
        // A leader that is suspended does not act, and its check fails too: its lock decides.
        _ = changes.wait_for(|snapshot| {
            !may_go_on(cluster, snapshot) || lease.is_held() && !is_seen(cluster, snapshot)
        }) => Some(None),
        never = assign::run(cluster, lease) => match never {},
        _ = settings::keep(cluster, lease) => None,
    };
    if let Some(successor) = stepped_down {
        let left = successor.map(|successor| claim(cluster, Some(successor)));
        if let Err(error) = lease.release_leaving(left.as_deref()).await {
            tracing::info!(%error, "the leader's lock was not released; it ends with its session");
        }
        // Lets another node become the leader, if there is one.
        let end = cluster.now() + cluster.options.profile.takeover();
        *lock(&cluster.lease) = None;
        let has_other = |snapshot: &Arc<Snapshot>| {
            let leader = snapshot.leader.as_ref();
            leader.is_some_and(|leader| leader.session_id != lease.session())
        };
        tokio::select! {
            biased;
            _ = changes.wait_for(has_other) => {}
            () = cluster.sleep_until(end) => {}
        }
    }
    *lock(&cluster.lease) = None;
}

/// Completes with the successor when the leadership is to be handed over, and there is another node that may lead.
async fn asked_to_hand_over(
    cluster: &Cluster,
    asked: &mut watch::Receiver<Option<String>>,
) -> Option<String> {
    loop {
        // The sender lives as long as `cluster`.
        let _ = asked.changed().await;
        if fitness::has_other(cluster, &cluster.snapshot()) {
            return asked.borrow_and_update().clone();
        }
        tracing::warn!(
            node = cluster.options.node_id,
            "the leadership is not handed over: no other node may lead"
        );
    }
}

/// Emits the events of the lease as events of the cluster.
async fn relay_events(cluster: &Cluster, lease: &Lease) -> Infallible {
    loop {
        match lease.next_event().await {
            Some(coordination::Event::Suspended) => {
                cluster.numbers.suspensions.add_one();
                cluster.emit(Event::Suspended);
            }
            Some(coordination::Event::Resumed) => cluster.emit(Event::Resumed),
            Some(coordination::Event::Lost(_)) | None => std::future::pending().await,
        }
    }
}

/// Says in the log that the leader's key is blocked, once until there is a leader.
pub(crate) async fn tell(cluster: &Cluster) -> Infallible {
    let mut changes = cluster.changes();
    let blocked = |snapshot: &Arc<Snapshot>| snapshot.blocked.is_some();
    loop {
        // The sender lives as long as `cluster`.
        let _ = changes.wait_for(blocked).await;
        tokio::select! {
            biased;
            _ = changes.wait_for(|snapshot| !blocked(snapshot)) => continue,
            () = cluster.client.clock().sleep(SAID_AFTER) => {}
        }
        if let Some(it) = &cluster.snapshot().blocked {
            let (node, why, cure) = (&cluster.options.node_id, it.text(), it.cure());
            tracing::warn!(node, %why, %cure, "the leader's key is blocked");
        }
        let _ = changes.wait_for(|snapshot| snapshot.leader.is_some()).await;
    }
}
