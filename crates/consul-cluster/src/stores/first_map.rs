//! The first map of a store. It is made when all nodes that may have a disk of the store have reported what is
//! on it: an older map among them is put back instead.

use super::document::StoreMap;
use super::leader::{ANSWER_TIME, Duty};
use super::next_map::{View, planner};
use super::reports::StoreReports;
use super::waiting_key;
use crate::Snapshot;
use consul_api::error::Error;
use consul_client::coordination::set;
use consul_replication::map::{NodeId, StoreId};
use consul_replication::plan::Map;
use std::collections::BTreeSet;

impl Duty<'_> {
    /// Makes the first map when enough nodes are there, and no other one may know a map.
    pub(super) async fn begin(
        &mut self,
        store: &str,
        reports: &StoreReports,
        live: &BTreeSet<NodeId>,
        snapshot: &Snapshot,
    ) -> Result<(), Error> {
        if let Some(why) = self.awaited(store, reports, snapshot) {
            return self.show_wait(store, why).await;
        }
        if self.is_outvoted(snapshot) {
            let leader = &self.cluster.options().node_id;
            let why = format!("too many nodes refuse the cluster_key of {leader}, the leader");
            return self.show_wait(store, why).await;
        }
        let first = live.iter().find_map(|node| reports.members.get(node));
        let Some(shared) = first.map(|(record, _)| record.shared) else { return Ok(()) };
        let needed = shared.write_quorum.max(shared.read_quorum);
        let needed = needed.max(self.cluster.options().min_nodes);
        // The others may be about to start.
        let is_early = self.cluster.now() < self.begun + ANSWER_TIME;
        if live.len() < needed || (live.len() < shared.replicas && is_early) {
            let why = match live.len() < needed {
                true => format!("{} of {needed} nodes that it needs are there", live.len()),
                false => format!(
                    "{} of {} nodes are there, the others have a moment",
                    live.len(),
                    shared.replicas
                ),
            };
            return self.show_wait(store, why).await;
        }
        let (down, unrecovered, openings) = Default::default();
        let mut live = reports.agreeing(live, shared, true);
        let is_reached = |node: &&NodeId| !self.key_checks.is_unreached(node, snapshot);
        let reached = BTreeSet::from_iter(live.iter().filter(is_reached).cloned());
        if reached.len() >= needed.max(shared.replicas) {
            live = reached;
        }
        let view = View { shared, reports, live: &live, snapshot, now: self.cluster.now() };
        let members = self.members(&view, None, &BTreeSet::new());
        let (stuck, accepted) = Default::default();
        let planner = planner(&members, shared, true, &stuck, &accepted, 0);
        // Above the versions of most earlier stores of this name, which makes it easy to tell them apart.
        let version = self.cluster.unix_ms();
        let map = Map::first(shared.shards as usize, version, &planner);
        let id = Some(StoreId(self.cluster.client().random_u64()));
        let mut map = StoreMap { id, shared, map, down, unrecovered, openings };
        map.note_openings(reports.records());
        self.publish(store, map).await
    }

    /// The live nodes that may know a map and have not reported: those that open their storages, for as long as
    /// they do, and for some time those that have not announced that either.
    fn awaited(
        &mut self,
        store: &str,
        reports: &StoreReports,
        snapshot: &Snapshot,
    ) -> Option<String> {
        let now = self.cluster.now();
        let mut awaited = Vec::new();
        for node in snapshot.live().map(|node| &node.record) {
            let has_reported = reports.members.get(&*node.id);
            if has_reported.is_some_and(|(record, _)| record.incarnation == node.incarnation) {
                continue;
            }
            let opening = reports.openings.get(&*node.id);
            if opening.is_some_and(|(opening, _)| opening.incarnation == node.incarnation) {
                awaited.push(format!("{} has not opened its storage", node.id));
                continue;
            }
            let key = (store.to_owned(), node.id.as_str().into());
            let since = *self.silent_since.entry(key).or_insert(now);
            if now < since + ANSWER_TIME {
                let seconds = ANSWER_TIME.as_secs();
                awaited.push(format!("{} has said nothing for less than {seconds} s", node.id));
            }
        }
        (!awaited.is_empty()).then(|| awaited.join(", "))
    }

    /// Tells the other processes what the first map waits for.
    pub(super) async fn show_wait(&mut self, store: &str, why: String) -> Result<(), Error> {
        let Some(state) = self.stores.get_mut(store) else { return Ok(()) };
        if state.waits_for.as_ref() == Some(&why) {
            return Ok(());
        }
        tracing::info!(store, why, "the first map of a store waits");
        let key = waiting_key(self.cluster.options(), store);
        state.waits_for = Some(why.clone());
        self.change(vec![set(&key, why.into_bytes())]).await
    }
}
