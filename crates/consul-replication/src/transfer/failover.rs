//! A failover: its target fences the other replicas and copies them, until none can have an acknowledged write that it lacks.

use super::{Transfer, unfinished};
use crate::map::{Change, Entry, NodeId, Slot};
use crate::message::{Action, NotReady, Outcome};
use crate::record::Version;
use crate::rules::Rule;
use crate::state::Work;
use consul_api::error::Error;

/// The replicas of a shard that a failover needs.
struct Needed<'a> {
    change: &'a Change,
    /// The nodes of the other replicas that count.
    others: Vec<&'a NodeId>,
    /// The nodes that hold another slot, also one whose replica does not count.
    holders: Vec<&'a NodeId>,
    /// The nodes to ask: their loss was not accepted.
    asked: Vec<&'a NodeId>,
    /// How many of the others are to be fenced, and to be copied.
    to_fence: usize,
    to_copy: usize,
}

impl<'a> Needed<'a> {
    fn of(transfer: &Transfer, entry: &'a Entry, slot: &Slot, change: &'a Change) -> Self {
        let rules = transfer.holder.rules();
        let slots = || entry.slots.iter().filter(move |other| !std::ptr::eq(*other, slot));
        let others: Vec<_> = slots().filter_map(Slot::counting).map(|place| &place.node).collect();
        let holders = slots().filter_map(|slot| slot.holder.as_ref()).map(|place| &place.node);
        let asked = match change.unites {
            true => {
                let holders = entry.slots.iter().filter_map(|slot| slot.holder.as_ref());
                let holders = holders.map(|place| &place.node);
                holders.filter(|node| *node != transfer.holder.node()).collect()
            }
            false => others.clone(),
        };
        let to_fence = if rules.has(Rule::FenceEnough) { entry.fenced() } else { 1 };
        let to_copy = if rules.has(Rule::CopyUnion) { entry.copied() } else { 1 };
        Needed {
            change,
            holders: holders.collect(),
            asked: asked.into_iter().filter(|node| !change.lost.contains(*node)).collect(),
            others,
            // A slot without a replica has no write.
            to_fence: to_fence.saturating_sub(entry.vacant()),
            to_copy: to_copy.saturating_sub(entry.vacant()),
        }
    }

    /// How many of these are replicas that count. A node that has handed its slot to another since does not count beside
    /// that one.
    fn counting(&self, nodes: &[NodeId]) -> usize {
        nodes.iter().filter(|node| self.others.contains(node)).count()
    }

    fn are_met(&self, work: &Work) -> bool {
        let has_quorum = self.counting(&work.fenced) >= self.to_fence
            && self.counting(&work.copied) >= self.to_copy;
        has_quorum || (self.change.takes_what_is_left() && self.is_nothing_left(work))
    }

    /// Whether the work has all that is left. A loss after the operator's word is not among the accepted ones.
    fn is_nothing_left(&self, work: &Work) -> bool {
        if self.change.unites {
            let has = |node: &&NodeId| work.copied.contains(node) || work.doubted.contains(node);
            return self.asked.iter().all(has);
        }
        self.holders.iter().all(|node| {
            let is_copied = self.others.contains(node) && work.copied.contains(node);
            is_copied || self.change.lost.contains(*node)
        })
    }

    fn needs_copy(&self, work: &Work, node: &NodeId) -> bool {
        let lacks = self.change.takes_what_is_left() || self.counting(&work.copied) < self.to_copy;
        !work.copied.contains(node) && lacks
    }
}

impl Transfer {
    /// Fences other replicas and copies them, each after it was fenced, until they are enough.
    pub(super) async fn fail_over(
        &self,
        shard: u32,
        entry: &Entry,
        slot: &Slot,
        change: &Change,
    ) -> Result<(), Error> {
        let needed = Needed::of(self, entry, slot, change);
        let (mut why, mut to_remake) = (None, Vec::new());
        for node in &needed.asked {
            let Some(work) = self.work_since(shard, change.since).await else { return Ok(()) };
            if needed.are_met(&work) {
                break;
            }
            let needs_copy = needed.needs_copy(&work, node);
            match self.fence(shard, entry, node, &work, needs_copy).await {
                Ok(true) => {}
                Ok(false) => to_remake.push(*node),
                Err(error) => why = Some(error),
            }
        }
        why = self.take_from(shard, entry, &needed, &to_remake).await?.or(why);
        match self.work_since(shard, change.since).await {
            Some(work) if !needed.are_met(&work) => Err(why.unwrap_or_else(|| {
                unfinished(shard, self.holder.node(), "too few replicas are left")
            })),
            _ => Ok(()),
        }
    }

    /// Takes what it lacks from replicas that are to be made again, if with them it has enough. Their records may be wrong:
    /// after the others, since what comes first of records of one version may stay. Returns why one gave nothing.
    async fn take_from(
        &self,
        shard: u32,
        entry: &Entry,
        needed: &Needed<'_>,
        to_remake: &[&NodeId],
    ) -> Result<Option<Error>, Error> {
        let since = needed.change.since;
        let state = self.holder.state(shard).await;
        let Some(work) = state.work.filter(|work| work.since == since) else { return Ok(None) };
        let mut with_these = work.clone();
        with_these.copied.extend(to_remake.iter().map(|node| NodeId::clone(node)));
        if to_remake.is_empty() || !needed.are_met(&with_these) {
            return Ok(None);
        }
        let (mut taken, mut horizon, mut why) = (work, state.horizon, None);
        for node in to_remake {
            if needed.are_met(&taken) {
                break;
            }
            match self.take_lacking(shard, entry, node, since, state.horizon).await {
                Ok((of_node, is_whole)) => {
                    horizon = horizon.max(of_node);
                    let of = if is_whole { &mut taken.copied } else { &mut taken.doubted };
                    of.push(NodeId::clone(node));
                }
                Err(error) => why = Some(error),
            }
        }
        // All at once: another one may have what the first says was deleted.
        if needed.are_met(&taken) {
            let noted = |work: &mut Work| *work = taken;
            self.holder.take(shard, since, Vec::new(), noted, horizon).await?;
        }
        Ok(why)
    }

    /// Fences a replica unless it is, and copies it if it is to be copied; not if it is to be made again. Returns
    /// whether it was copied as far as it is to be.
    async fn fence(
        &self,
        shard: u32,
        entry: &Entry,
        node: &NodeId,
        work: &Work,
        is_copied: bool,
    ) -> Result<bool, Error> {
        let since = work.since;
        let is_fenced = work.fenced.contains(node);
        // An order to make it again may have come since it was fenced.
        let answer = match is_copied || !is_fenced {
            true => self.answer(shard, entry, node, Action::Fence).await?.1,
            false => Outcome::Done,
        };
        let (is_whole, is_to_remake) = match answer {
            // A replica that is not whole has learned the entry too, and executes nothing before it.
            Outcome::NotReady(NotReady::NotWhole) if entry.unites() => (false, false),
            Outcome::NotReady(NotReady::ToRemake) => (true, true),
            Outcome::NotReady(why) => return Err(unfinished(shard, node, &format!("{why:?}"))),
            _ => (true, false),
        };
        if is_whole && !is_fenced {
            self.note(shard, since, node, |work| &mut work.fenced).await?;
        }
        if is_copied && is_to_remake {
            return Ok(false);
        }
        let unites = entry.unites() || self.holder.state(shard).await.doubt.is_some();
        match (is_copied, is_whole) {
            (false, _) => {}
            (true, true) if !unites => self.copy(shard, entry, node, since).await?,
            (true, true) => {
                self.unite(shard, entry, node, since, true).await?;
                self.note(shard, since, node, |work| &mut work.copied).await?;
            }
            (true, false) if work.doubted.contains(node) => {}
            (true, false) => {
                self.unite(shard, entry, node, since, false).await?;
                self.note(shard, since, node, |work| &mut work.doubted).await?;
            }
        }
        Ok(true)
    }

    /// Takes of a replica that is to be made again what this one lacks; what is missing here below this horizon was deleted.
    /// Returns its horizon, and whether it is whole.
    async fn take_lacking(
        &self,
        shard: u32,
        entry: &Entry,
        node: &NodeId,
        since: u64,
        horizon: Version,
    ) -> Result<(Version, bool), Error> {
        let decides = self.holder.rules().has(Rule::HorizonDecides);
        let least = if decides { horizon } else { Version::default() };
        let is_whole = !entry.unites()
            || matches!(self.answer(shard, entry, node, Action::Ping).await?.1, Outcome::Done);
        Ok((self.pull(shard, entry, node, since, least).await?, is_whole))
    }
}
