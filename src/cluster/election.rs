//! Election: who holds the lock on the leader's key leads.

use super::membership::{self, Mode};
use super::snapshot::{Leader, Snapshot};
use super::{Cluster, Event, PAUSE, leader};
use crate::client::coordination::lock::{LOCK_FLAGS, LockOptions, acquire};
use crate::client::coordination::{self, Lease, Wait};
use crate::client::watch::State;
use crate::error::Kind;
use crate::sync::lock;
use crate::wire::value::Value;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::Arc;

/// What the leader's key says.
#[derive(Serialize, Deserialize)]
struct Claim {
    node_id: String,
    address: String,
    #[serde(default)]
    elected_at_ms: u64,
}

impl Cluster {
    /// Takes who leads; nobody is known to while Consul is away.
    pub(super) fn take_leader(&self, state: Option<&State>) {
        let entry = state.and_then(|state| state.answer.meta.entry.as_ref());
        let held = entry.filter(|entry| entry.flags == LOCK_FLAGS);
        let claim = match state.map(|state| &state.answer.value) {
            Some(Value::Bytes(bytes)) => serde_json::from_slice::<Claim>(bytes).ok(),
            _ => None,
        };
        let leader = held.and_then(|entry| entry.session.clone()).zip(claim);
        let leader = leader.map(|(session_id, claim)| Leader {
            node_id: claim.node_id,
            address: claim.address,
            session_id,
            elected_at_ms: claim.elected_at_ms,
        });
        let before = self.snapshot();
        if before.leader != leader {
            let name = leader.as_ref().map(|leader| leader.node_id.clone());
            self.events.tell(Event::LeaderChanged(name));
        }
        let in_touch = state.is_some();
        if before.leader != leader || before.in_touch != in_touch {
            self.update(|snapshot| {
                snapshot.leader = leader;
                snapshot.in_touch = in_touch;
            });
        }
    }

    /// Leads whenever it can, for ever.
    pub(super) async fn campaign(&self) -> Infallible {
        let mut changes = self.changes();
        loop {
            let is_wanted = |snapshot: &Arc<Snapshot>| {
                snapshot.in_touch && snapshot.leader.is_none() && self.may_lead(snapshot)
            };
            let _ = changes.wait_for(is_wanted).await;
            let claim = Claim {
                node_id: self.options.node_id.clone(),
                address: self.options.node_address.clone(),
                elected_at_ms: membership::unix_ms(self.options.epoch, self.now()),
            };
            let value = serde_json::to_vec(&claim).unwrap_or_default();
            let wait = Wait::For(self.options.profile.takeover());
            let options = LockOptions { value: Some(value), wait };
            match acquire(&self.presence, &self.options.leader_key, &options).await {
                Ok(lease) => self.lead(&lease).await,
                Err(error) if error.kind() == Kind::Timeout => {}
                Err(error) => {
                    tracing::warn!(node = self.options.node_id, %error, "no candidate");
                    self.client.clock().sleep(PAUSE).await;
                }
            }
        }
    }

    fn may_lead(&self, snapshot: &Snapshot) -> bool {
        let me = snapshot.nodes.get(&self.options.node_id);
        me.is_some_and(|me| self.is_me(&me.record) && me.record.mode == Mode::Active)
    }

    /// Leads until the leadership is lost or given up.
    async fn lead(&self, lease: &Arc<Lease>) {
        *lock(&self.lease) = Some(Arc::clone(lease));
        tracing::info!(node = self.options.node_id, token = lease.token(), "leads");
        let mut hand_overs = self.hand_overs.subscribe();
        let mut changes = self.changes();
        let has_stepped_down = tokio::select! {
            biased;
            _ = lease.keep() => false,
            never = self.relay(lease) => match never {},
            _ = hand_overs.changed() => true,
            _ = changes.wait_for(|snapshot| !self.may_lead(snapshot)) => true,
            never = leader::work(self, lease) => match never {},
        };
        if has_stepped_down {
            if let Err(error) = lease.release().await {
                tracing::info!(%error, "the leadership ends with its session");
            }
            // Another shall have it, if there is one.
            let end = self.now() + self.options.profile.takeover();
            *lock(&self.lease) = None;
            let has_other = |snapshot: &Arc<Snapshot>| {
                let leader = snapshot.leader.as_ref();
                leader.is_some_and(|leader| leader.session_id != lease.session())
            };
            tokio::select! {
                _ = changes.wait_for(has_other) => {}
                () = self.sleep_until(end) => {}
            }
        }
        *lock(&self.lease) = None;
    }

    /// Tells when the leadership is in doubt.
    async fn relay(&self, lease: &Lease) -> Infallible {
        loop {
            match lease.next_event().await {
                Some(coordination::Event::Suspended) => self.events.tell(Event::Suspended),
                Some(coordination::Event::Resumed) => self.events.tell(Event::Resumed),
                Some(coordination::Event::Lost(_)) | None => std::future::pending().await,
            }
        }
    }
}
