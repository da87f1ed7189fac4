//! Copies of disks that have lived on elsewhere: their map is that of this store, with another history.
//!
//! A map knows the last opening of each disk, and each disk its own last ones. Where copies of the disks of several nodes
//! were started elsewhere, their map has openings that the disks here never had. A node may know a later opening of another
//! node's disk than that disk itself, if an old copy was put back there; but not of the disks of most nodes that live and
//! count. Then that node comes from elsewhere: it is refused before its map or its records enter anything.

use super::document::{MemberRecord, Opening, StoreMap};
use super::lists::listed;
use super::{Adopted, Store, members_prefix, read_map};
use crate::pauses::PAUSE;
use consul_api::error::{Error, Kind};
use consul_process::sync::lock;
use consul_replication::map::{Disk, NodeId};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long the others have to contradict a map: the records of nodes that have just started may be from before.
const CERTAIN_AFTER: Duration = Duration::from_secs(15);

/// How long a node that has its map from its disk leaves it to others to put back theirs.
pub(super) const LIVING_FIRST: Duration = Duration::from_secs(5);

/// How often a node looks whether the others contradict the map that its disk had kept, and how many times: after that the
/// leader leaves out what it reports.
const INTERVAL: Duration = Duration::from_secs(5);
const LOOKS: usize = 12;

/// The nodes that live and count, as `stored` says, and whose disks never had the openings that `known` says of them;
/// empty unless they are two at least and most of the nodes with replicas other than `own`.
pub(super) fn contradicting(
    own: &str,
    known: &BTreeMap<Disk, Opening>,
    stored: &StoreMap,
    live: &BTreeMap<NodeId, MemberRecord>,
) -> BTreeSet<NodeId> {
    let slots = stored.map.shards.iter().flat_map(|entry| &entry.slots);
    let places = slots.filter_map(|slot| slot.counting()).filter(|place| *place.node != *own);
    let others = BTreeSet::from_iter(places.map(|place| (&place.node, place.disk)));
    let contradicts = |(node, disk): &&(&NodeId, Disk)| {
        let record = live.get(*node).filter(|it| it.disk == *disk && it.is_confirmed(stored));
        let pair = record.zip(known.get(disk));
        pair.is_some_and(|(record, known)| {
            record.opening != *known && !record.opening.follows(&record.before, *known)
        })
    };
    let found = others.iter().filter(contradicts).map(|(node, _)| NodeId::clone(node));
    let found = BTreeSet::from_iter(found);
    if found.len() >= 2 && 2 * found.len() > others.len() { found } else { BTreeSet::new() }
}

impl Store {
    /// Whether the map that a disk had kept is that of this cluster.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if the nodes that live here contradict it. If Consul does not answer, that is not known yet.
    pub(super) async fn check_branch(&self, known: &BTreeMap<Disk, Opening>) -> Result<(), Error> {
        let since = self.cluster.now();
        loop {
            let nodes = match self.contradicted_by(known).await {
                Ok(nodes) => nodes,
                Err(error) => {
                    let store = &self.options.name;
                    tracing::debug!(store, %error, "the map of the disk was not compared");
                    return Ok(());
                }
            };
            if nodes.is_empty() {
                return Ok(());
            }
            if self.cluster.now() >= since + CERTAIN_AFTER {
                let nodes: Vec<&str> = nodes.iter().map(|node| &**node).collect();
                let why = format!(
                    "the storage is a copy that has lived on elsewhere: it knows openings of the disks of {} that these \
                     disks never had; nothing of it was used or changed: give the node its own disk or an empty one",
                    nodes.join(", ")
                );
                return Err(Error::new(Kind::Conflict, why).with_maybe_applied(false));
            }
            self.sleep(PAUSE).await;
        }
    }

    /// Looks whether nodes that came later contradict the map that the disk had kept. Completes when they do.
    pub(super) async fn watch_branch(&self) -> Error {
        for _ in 0..LOOKS {
            self.sleep(INTERVAL).await;
            let member = lock(&self.member).clone();
            let Some(member) = member.filter(|it| !it.known().is_empty()) else { continue };
            if let Err(why) = self.check_branch(member.known()).await {
                return why;
            }
        }
        pending().await
    }

    /// The nodes here that contradict a map; each of them answers.
    async fn contradicted_by(
        &self,
        known: &BTreeMap<Disk, Opening>,
    ) -> Result<BTreeSet<NodeId>, Error> {
        let (cluster, name) = (&self.cluster, &self.options.name);
        let (Some(stored), _) = read_map(cluster, name).await? else { return Ok(BTreeSet::new()) };
        if stored.openings == *known || self.is_foreign(stored.id) {
            return Ok(BTreeSet::new());
        }
        let snapshot = cluster.snapshot();
        let prefix = format!("{}{name}/nodes/", members_prefix(cluster.options()));
        let mut live = BTreeMap::new();
        for (node, bytes) in listed(cluster, &prefix).await? {
            let Ok(record) = MemberRecord::decode(&bytes) else { continue };
            let node = snapshot.nodes.get(&node).filter(|it| it.is_live);
            if let Some(node) = node.filter(|it| it.record.incarnation == record.incarnation) {
                live.insert(NodeId::from(node.record.id.as_str()), record);
            }
        }
        let own = cluster.options().node_id.as_str();
        let found = contradicting(own, known, &stored, &live);
        // Consul's records of them may be from before it went back.
        let asked = found.iter().map(|node| self.peers.check_key(node));
        let answers = join_all(asked).await;
        match answers.iter().all(Result::is_ok) {
            true => Ok(found),
            false => Ok(BTreeSet::new()),
        }
    }

    /// Makes the map that the disk had kept the current one, if this process knows none that is newer.
    pub(super) fn adopt_kept(&self, map: StoreMap) -> Result<(), Error> {
        let knows_one = self.map.borrow().is_some();
        if self.adopt(map, None)? == Adopted::Current && !knows_one {
            self.is_map_of_disk.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Whether the current map is that of a disk, and Consul has not shown one to this process.
    pub(super) fn has_map_of_disk(&self) -> bool {
        self.is_map_of_disk.load(Ordering::Acquire)
    }
}
