//! Which nodes the leader counts on: those that live, have given it their word, and do not refuse its signature.
//!
//! A node that was started with another `cluster_key` is refused by its peers and refuses them: as a target it never gets
//! its copy, as a holder it lacks every write. Keys stay as they are while a process runs, so each start of a node is
//! greeted until it has accepted this process's signature once.
//!
//! The leader's own key may be the other one. So it leaves nodes out only while, with it, more of the live nodes accept its
//! key than refuse it; otherwise it counts on all of them, and plans nothing.

use super::leader::{ANSWER_TIME, Duty};
use super::said::Said;
use crate::Snapshot;
use consul_api::error::{Error, Kind};
use consul_process::clock::Instant;
use consul_process::sync::lock;
use consul_replication::map::NodeId;
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The pause before a node that has not accepted the signature is greeted again.
const GREET_AGAIN: Duration = Duration::from_secs(10);

/// What a start of a node has said to the last greeting.
struct Greeted {
    incarnation: String,
    at: Instant,
    /// `None`: it did not answer.
    accepts: Option<bool>,
}

/// What the nodes with records have said to the leader's greetings.
#[derive(Default)]
pub(super) struct Greetings(BTreeMap<NodeId, Greeted>);

impl Greetings {
    /// What is known of a start of a node.
    fn of(&self, node: &NodeId, incarnation: &str) -> Option<&Greeted> {
        self.0.get(node).filter(|greeted| greeted.incarnation == incarnation)
    }

    /// Notes the answer of a node.
    fn note(&mut self, node: NodeId, incarnation: String, at: Instant, answer: Result<(), Error>) {
        let before = self.0.get(&node).and_then(|greeted| greeted.accepts);
        let accepts = match &answer {
            Ok(()) => Some(true),
            Err(error) if error.kind() == Kind::PermissionDenied => Some(false),
            Err(_) => None,
        };
        match answer {
            Err(error) if accepts == Some(false) && before != accepts => {
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
        self.0.insert(node, Greeted { incarnation, at, accepts });
    }

    /// The live nodes that have accepted the signature, or refused it.
    fn that(&self, accept: bool, snapshot: &Snapshot) -> BTreeSet<NodeId> {
        let is_live = |node: &NodeId, greeted: &Greeted| {
            let live = snapshot.nodes.get(&**node).filter(|it| it.is_live);
            live.is_some_and(|it| it.record.incarnation == greeted.incarnation)
        };
        let that = self.0.iter().filter(|(_, greeted)| greeted.accepts == Some(accept));
        BTreeSet::from_iter(
            that.filter(|(node, it)| is_live(node, it)).map(|(node, _)| node.clone()),
        )
    }
}

impl Duty<'_> {
    /// Greets the live nodes with records that have not accepted this process's signature.
    pub(super) async fn greet(
        &mut self,
        store: &str,
        said: &Said,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        let own = self.cluster.options().node_id.as_str();
        let mut due = Vec::new();
        for node in said.members.keys().filter(|node| ***node != *own) {
            let Some(live) = snapshot.nodes.get(&**node).filter(|it| it.is_live) else { continue };
            let incarnation = live.record.incarnation.clone();
            let greeted = self.greetings.of(node, &incarnation);
            if greeted.is_none_or(|it| it.accepts != Some(true) && now >= it.at + GREET_AGAIN) {
                due.push((node.clone(), incarnation));
            }
        }
        if due.is_empty() {
            return;
        }
        let peers = (self.reach)(store);
        let greetings = due.into_iter().map(|(node, incarnation)| {
            let answer = peers.greet(&node);
            async move { (node, incarnation, answer.await) }
        });
        for (node, incarnation, answer) in join_all(greetings).await {
            self.greetings.note(node, incarnation, now, answer);
        }
        self.greetings.0.retain(|node, _| snapshot.nodes.contains_key(&**node));
        let refusing = self.greetings.that(false, snapshot);
        self.cluster.note_refusing(refusing.iter().map(|node| node.to_string()).collect());
    }

    /// Whether the leader's own `cluster_key` is the other one, as far as it can know.
    pub(super) fn is_outvoted(&self, snapshot: &Snapshot) -> bool {
        let accepting = 1 + self.greetings.that(true, snapshot).len();
        self.greetings.that(false, snapshot).len() >= accepting
    }

    /// The live nodes that have given their word to this leader; `None` while one has yet to do so.
    pub(super) fn live(
        &mut self,
        store: &str,
        said: &Said,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Option<BTreeSet<NodeId>> {
        let mut live = BTreeSet::new();
        let mut waits = false;
        let named = self.stores.get(store).map(|known| &known.named);
        let nodes = BTreeSet::from_iter(named.into_iter().flatten().chain(said.members.keys()));
        for node in nodes {
            let key = (store.to_owned(), node.clone());
            let Some(member) = snapshot.nodes.get(&**node).filter(|it| it.is_live) else {
                self.heard.remove(&key);
                continue;
            };
            let has_said = said.members.get(node).is_some_and(|(record, _)| {
                record.incarnation == member.record.incarnation
                    && record.leader == self.lease.session()
            });
            if has_said {
                self.heard.remove(&key);
                lock(&self.life.met).insert(key);
                live.insert(node.clone());
            } else {
                let since = *self.heard.entry(key).or_insert(now);
                waits |= now < since + ANSWER_TIME;
            }
        }
        if !self.is_outvoted(snapshot) {
            let refusing = self.greetings.that(false, snapshot);
            live.retain(|node| !refusing.contains(node));
        }
        (!waits).then_some(live)
    }
}
