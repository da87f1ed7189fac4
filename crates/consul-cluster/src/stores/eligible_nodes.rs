//! The nodes that the leader counts on: they live, have reported to this leader, and accept its `cluster_key`.
//!
//! A node that was started with another `cluster_key` is refused by its peers and refuses them: as a target it never gets
//! its copy, as a holder it lacks every write. Keys stay as they are while a process runs, so the key of each start of a
//! node is checked until it has accepted this process's signature once.
//!
//! A node that the leader cannot reach stays among them, since its replicas are not given up sooner for it, and gets no
//! new ones: it would not get its copy either, or nobody could read it.
//!
//! The leader's own key may be the other one. So it leaves nodes out only while, with it, more of the live nodes accept its
//! key than refuse it; otherwise it counts on all of them, and plans nothing.

use super::leader::{ANSWER_TIME, Duty};
use super::reports::StoreReports;
use crate::Snapshot;
use consul_api::error::{Error, Kind};
use consul_process::clock::Instant;
use consul_process::sync::lock;
use consul_replication::map::NodeId;
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The pause before the key of a node that has not accepted the signature is checked again.
const CHECK_KEY_AGAIN: Duration = Duration::from_secs(10);

/// The pause before a node that has answered is asked again whether it can be reached.
const REACH_AGAIN: Duration = Duration::from_secs(30);

/// How long a check may take: the leader's other work waits for it.
const CHECK_TIME: Duration = Duration::from_secs(2);

/// How many checks in a row a node has to answer after a missed one.
const ANSWERS: usize = 2;

/// The last check of the `cluster_key` of one start of a node.
struct KeyCheck {
    incarnation: String,
    at: Instant,
    /// How many checks it has to answer before it counts as reachable.
    owes: usize,
    /// Whether the node accepted the leader's signature; `None`: it did not answer.
    accepted: Option<bool>,
}

/// The last check of each node that has reported about a store.
#[derive(Default)]
pub(super) struct KeyChecks(BTreeMap<NodeId, KeyCheck>);

impl KeyChecks {
    /// The last check of a node, if that was of this start.
    fn of(&self, node: &NodeId, incarnation: &str) -> Option<&KeyCheck> {
        self.0.get(node).filter(|check| check.incarnation == incarnation)
    }

    /// Notes the answer of a node.
    fn note(&mut self, node: NodeId, incarnation: String, at: Instant, answer: Result<(), Error>) {
        let before = self.0.get(&node).and_then(|check| check.accepted);
        let known = self.of(&node, &incarnation);
        let (known, owed) = (known.and_then(|it| it.accepted), known.map_or(0, |it| it.owes));
        let (accepted, owes) = match &answer {
            Ok(()) => (Some(true), owed.saturating_sub(1)),
            Err(error) if error.kind() == Kind::PermissionDenied => (Some(false), owed),
            // Whose key it has is known already.
            Err(_) => (known, ANSWERS),
        };
        match &answer {
            Err(error) if owes > 0 && owed == 0 => {
                tracing::warn!(%node, %error, "the leader cannot reach a node: it gets no new replicas");
            }
            Ok(()) if owes == 0 && owed > 0 => {
                tracing::info!(%node, "the leader reaches a node again");
            }
            _ => {}
        }
        match answer {
            Err(error) if accepted == Some(false) && before != accepted => {
                tracing::warn!(
                    %node, %error,
                    "a node and the leader refuse each other's cluster_key"
                );
            }
            Ok(()) if before == Some(false) => {
                tracing::info!(%node, "a node and the leader accept each other's cluster_key again");
            }
            _ => {}
        }
        self.0.insert(node, KeyCheck { incarnation, at, owes, accepted });
    }

    /// The live nodes that accept the leader's `cluster_key`.
    fn accepting(&self, snapshot: &Snapshot) -> BTreeSet<NodeId> {
        self.answered(true, snapshot)
    }

    /// The live nodes that refuse the leader's `cluster_key`, or whose key the leader refuses.
    fn refusing(&self, snapshot: &Snapshot) -> BTreeSet<NodeId> {
        self.answered(false, snapshot)
    }

    /// Whether a node has not answered lately, although it is live: it gets no new replicas.
    pub(super) fn is_unreached(&self, node: &NodeId, snapshot: &Snapshot) -> bool {
        let live = snapshot.nodes.get(&**node).filter(|it| it.is_live);
        let check = live.and_then(|it| self.of(node, &it.record.incarnation));
        check.is_some_and(|check| check.owes > 0)
    }

    fn answered(&self, accepted: bool, snapshot: &Snapshot) -> BTreeSet<NodeId> {
        let is_live = |node: &NodeId, check: &KeyCheck| {
            let live = snapshot.nodes.get(&**node).filter(|it| it.is_live);
            live.is_some_and(|it| it.record.incarnation == check.incarnation)
        };
        let answered = self.0.iter().filter(|(_, check)| check.accepted == Some(accepted));
        let answered = answered.filter(|(node, check)| is_live(node, check));
        BTreeSet::from_iter(answered.map(|(node, _)| node.clone()))
    }
}

impl Duty<'_> {
    /// Checks the `cluster_key` of the live nodes with records that have not accepted this process's signature, and of all
    /// now and then whether they can be reached.
    pub(super) async fn check_keys(
        &mut self,
        store: &str,
        reports: &StoreReports,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        let own = self.cluster.options().node_id.as_str();
        let mut due = Vec::new();
        for node in reports.members.keys().filter(|node| ***node != *own) {
            let Some(live) = snapshot.nodes.get(&**node).filter(|it| it.is_live) else { continue };
            let incarnation = live.record.incarnation.clone();
            let check = self.key_checks.of(node, &incarnation);
            let pause = |it: &KeyCheck| match it.accepted == Some(true) && it.owes == 0 {
                true => REACH_AGAIN,
                false => CHECK_KEY_AGAIN,
            };
            if check.is_none_or(|it| now >= it.at + pause(it)) {
                due.push((node.clone(), incarnation));
            }
        }
        if due.is_empty() {
            return;
        }
        let peers = (self.reach)(store);
        let checks = due.into_iter().map(|(node, incarnation)| {
            let (answer, clock) = (peers.check_key(&node), self.cluster.client().clock());
            async move {
                let answer = tokio::select! {
                    biased;
                    answer = answer => answer,
                    () = clock.sleep(CHECK_TIME) => {
                        let why = format!("it has not answered for {} s", CHECK_TIME.as_secs());
                        Err(Error::new(Kind::Timeout, why))
                    }
                };
                (node, incarnation, answer)
            }
        });
        for (node, incarnation, answer) in join_all(checks).await {
            self.key_checks.note(node, incarnation, now, answer);
        }
        self.key_checks.0.retain(|node, _| snapshot.nodes.contains_key(&**node));
        let refusing = self.key_checks.refusing(snapshot);
        self.cluster.note_refusing(refusing.iter().map(|node| node.to_string()).collect());
        let checked = self.key_checks.0.keys();
        let unreached = checked.filter(|node| self.key_checks.is_unreached(node, snapshot));
        self.cluster.note_unreached(unreached.map(|node| node.to_string()).collect());
    }

    /// Whether the leader's own `cluster_key` is the other one, as far as it can know.
    pub(super) fn is_outvoted(&self, snapshot: &Snapshot) -> bool {
        let accepting = 1 + self.key_checks.accepting(snapshot).len();
        self.key_checks.refusing(snapshot).len() >= accepting
    }

    /// The live nodes that have reported to this leader and accept its key; `None` while one of the live nodes is waited
    /// for to report.
    pub(super) fn eligible(
        &mut self,
        store: &str,
        reports: &StoreReports,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Option<BTreeSet<NodeId>> {
        let mut live = BTreeSet::new();
        let mut waits = false;
        let in_map = self.stores.get(store).map(|state| &state.nodes);
        let nodes = BTreeSet::from_iter(in_map.into_iter().flatten().chain(reports.members.keys()));
        for node in nodes {
            let key = (store.to_owned(), node.clone());
            let Some(member) = snapshot.nodes.get(&**node).filter(|it| it.is_live) else {
                self.silent_since.remove(&key);
                continue;
            };
            let has_reported = reports.members.get(node).is_some_and(|(record, _)| {
                record.incarnation == member.record.incarnation
                    && record.leader == self.lease.session()
            });
            if has_reported {
                self.silent_since.remove(&key);
                lock(&self.history.reported_once).insert(key);
                live.insert(node.clone());
            } else {
                let since = *self.silent_since.entry(key).or_insert(now);
                waits |= now < since + ANSWER_TIME;
            }
        }
        if !self.is_outvoted(snapshot) {
            let refusing = self.key_checks.refusing(snapshot);
            live.retain(|node| !refusing.contains(node));
        }
        (!waits).then_some(live)
    }
}
