//! The target's side of a change: copies a replica, or the union of several, and marks it as whole.

mod failover;

use super::digest::{self, Part};
use super::holder::Holder;
use super::map::{ChangeKind, Entry, NodeId, Sizes, Slot};
use super::message::{Action, NotReady, Outcome, Request, other_store};
use super::peers::Peers;
use super::record::{HybridTime, OVERHEAD, Record, Version};
use super::rules::Rule;
use super::state::Work;
use super::storage::Message;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The ids of one request.
const IDS: usize = 1000;

/// The copies that a node makes, and its repairs.
#[derive(Clone)]
pub struct Transfer {
    /// The node's replicas.
    pub holder: Arc<Holder>,
    /// The way to the nodes.
    pub peers: Arc<dyn Peers>,
    /// The records of a page.
    pub page: usize,
}

/// The work of comparisons of replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// The records that were stored here.
    pub fetched: usize,
    /// The records that were sent.
    pub sent: usize,
    /// The records that were deleted here or there, as the replica of the higher horizon says.
    pub deleted: usize,
    /// The comparisons of two replicas.
    pub comparisons: usize,
    /// The records that were too far ahead of the clock of the node that lacks them, which has not stored them.
    pub unbelieved: usize,
}

impl Compared {
    fn add(&mut self, other: Compared) {
        self.fetched += other.fetched;
        self.sent += other.sent;
        self.deleted += other.deleted;
        self.comparisons += other.comparisons;
        self.unbelieved += other.unbelieved;
    }
}

impl Transfer {
    /// Does the work of a change of this node's, up to its end. Returns whether there was one.
    ///
    /// # Errors
    /// The reason why it stopped: call it again after a pause, and it goes on where it was.
    pub async fn pursue(&self, shard: u32) -> Result<bool, Error> {
        let state = self.holder.state(shard).await;
        let Some((entry, work)) = state.entry.as_ref().zip(state.work.as_ref()) else {
            return Ok(false);
        };
        let change = entry.change_to(self.holder.node());
        let Some((slot, change)) = change.filter(|(_, it)| it.since == work.since) else {
            return Ok(false);
        };
        if work.is_done {
            return Ok(false);
        }
        self.holder.begin_attempt(shard, work.since);
        match change.kind {
            ChangeKind::Move => self.follow(shard, entry, slot, work).await?,
            ChangeKind::Failover => self.fail_over(shard, entry, slot, change).await?,
        }
        self.holder.finish(shard, work.since).await?;
        Ok(true)
    }

    /// Asks a node about a shard by an entry.
    async fn ask(
        &self,
        shard: u32,
        entry: &Entry,
        node: &NodeId,
        action: Action,
    ) -> Result<Outcome, Error> {
        match self.answer(shard, entry, node, action).await? {
            (_, Outcome::NotReady(why)) => Err(unfinished(shard, node, &format!("{why:?}"))),
            (_, outcome) => Ok(outcome),
        }
    }

    /// The same, with the time of the node; that the replica does not count is an answer too.
    async fn answer(
        &self,
        shard: u32,
        entry: &Entry,
        node: &NodeId,
        action: Action,
    ) -> Result<(HybridTime, Outcome), Error> {
        let store = self.holder.store();
        let request = Request { store, shard, entry: entry.clone(), action };
        let reply = self.peers.ask(node, request).await?;
        self.holder.clock().compare(node, reply.time);
        _ = self.holder.clock().observe(reply.time);
        match reply.outcome {
            Outcome::Stale(newer) => {
                self.holder.learn(shard, &newer).await?;
                Err(unfinished(shard, node, "it knows a newer entry"))
            }
            Outcome::Failed(why) => Err(unfinished(shard, node, &why)),
            Outcome::OtherStore(id) => Err(unfinished(shard, node, &other_store(id))),
            outcome => Ok((reply.time, outcome)),
        }
    }

    /// Copies the replica that leaves, seals it, and copies the rest.
    async fn follow(
        &self,
        shard: u32,
        entry: &Entry,
        slot: &Slot,
        work: &Work,
    ) -> Result<(), Error> {
        let Some(source) = slot.holder.as_ref().map(|place| place.node.clone()) else {
            return Ok(());
        };
        let is_doubted = self.holder.state(shard).await.doubt.is_some();
        if !work.copied.contains(&source) && !is_doubted {
            self.copy(shard, entry, &source, work.since).await?;
        }
        let bring = async || match is_doubted {
            true => self.unite(shard, entry, &source, work.since, true).await,
            false => {
                let from = Version::default();
                let horizon = self.pull(shard, entry, &source, work.since, from).await?;
                self.holder.take(shard, work.since, Vec::new(), |_| {}, horizon).await.map(|_| ())
            }
        };
        bring().await?;
        self.wait_for_the_others(shard, entry, &source).await?;
        self.ask(shard, entry, &source, Action::Seal).await?;
        bring().await
    }

    /// Fails unless the other replicas are enough for reads and writes while the source is sealed.
    async fn wait_for_the_others(
        &self,
        shard: u32,
        entry: &Entry,
        source: &NodeId,
    ) -> Result<(), Error> {
        let Sizes { write, read } = entry.quorums;
        let needed = write.max(read).min(entry.slots.len() - 1);
        let mut count = 0;
        for (_, place) in entry.counting().filter(|(_, place)| place.node != *source) {
            if count >= needed {
                break;
            }
            if let Ok(Outcome::Done) = self.ask(shard, entry, &place.node, Action::Ping).await {
                count += 1;
            }
        }
        if count < needed {
            let why = format!("{count} of the other replicas answer, {needed} are needed");
            return Err(unfinished(shard, source, &why));
        }
        Ok(())
    }

    /// Gives up the own replica of a shard, so that it is made again from the others, if these are all whole. Of nodes that
    /// do this at the same time none does: each says no to the others before it asks them. Whether it was given up.
    ///
    /// # Errors
    /// Why another replica may not be whole; errors of the storage.
    pub async fn give_up(&self, shard: u32, entry: &Entry) -> Result<bool, Error> {
        let own = self.holder.node();
        let others = entry.counting().map(|(_, place)| &place.node).filter(|node| *node != own);
        let others: Vec<&NodeId> = others.collect();
        let changes = entry.slots.iter().any(|slot| slot.change.is_some() || slot.is_vacant());
        if changes || others.len() < entry.fenced() {
            return Ok(false);
        }
        let _until_it_is_done = self.holder.about_to_give_up(shard);
        for node in others {
            match self.answer(shard, entry, node, Action::Fence).await?.1 {
                Outcome::NotReady(NotReady::ToRemake) => {}
                Outcome::NotReady(why) => return Err(unfinished(shard, node, &format!("{why:?}"))),
                _ => {}
            }
        }
        self.holder.give_up(shard, entry.epoch).await
    }

    /// Notes a node in the work on a change.
    async fn note(
        &self,
        shard: u32,
        since: u64,
        node: &NodeId,
        of: fn(&mut Work) -> &mut Vec<NodeId>,
    ) -> Result<bool, Error> {
        let noted = |work: &mut Work| of(work).push(node.clone());
        self.holder.take(shard, since, Vec::new(), noted, Version::default()).await
    }

    /// The work on a change, unless it has ended.
    async fn work_since(&self, shard: u32, since: u64) -> Option<Work> {
        self.holder.state(shard).await.work.filter(|work| work.since == since)
    }

    /// Copies a replica in pages, from where an earlier attempt ended.
    async fn copy(
        &self,
        shard: u32,
        entry: &Entry,
        source: &NodeId,
        since: u64,
    ) -> Result<(), Error> {
        loop {
            let Some(work) = self.work_since(shard, since).await else {
                return Err(unfinished(shard, source, "the change has ended"));
            };
            let position = work.position.filter(|(node, _)| node == source);
            let after = position.map(|(_, id)| Bytes::from(id));
            let page = Action::Copy { after, limit: self.page };
            let outcome = self.ask(shard, entry, source, page).await?;
            let Outcome::Page { records, is_last, horizon } = outcome else {
                return Err(unfinished(shard, source, "its answer is not a page"));
            };
            let last = records.last().map(|record| record.id.to_vec());
            let progress = |work: &mut Work| {
                if is_last {
                    work.position = None;
                    work.copied.push(source.clone());
                } else {
                    work.position = last.map(|id| (source.clone(), id));
                }
            };
            let records = self.believed(shard, entry, source, records).await?;
            // It reports deletions to a replica that has the rest.
            let horizon = if is_last { horizon } else { Version::default() };
            self.holder.take(shard, since, records, progress, horizon).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Fetches what a replica has and this one lacks, from a version on. Returns the higher of the two horizons.
    async fn pull(
        &self,
        shard: u32,
        entry: &Entry,
        source: &NodeId,
        since: u64,
        least: Version,
    ) -> Result<Version, Error> {
        let mut parts = self.compare(shard, entry, source).await;
        let mut counted = self.holder.begin_comparison(shard, source);
        while let Some(difference) = self.next_difference(&mut parts).await? {
            counted.compared(difference.compared);
            self.fetch_and_take(shard, entry, source, since, &difference.theirs, least).await?;
        }
        counted.ends();
        Ok(parts.horizon)
    }

    /// Fetches the records of these ids for a copy, from a version on, and those that an accepted loss may have cost others.
    async fn fetch_and_take(
        &self,
        shard: u32,
        entry: &Entry,
        source: &NodeId,
        since: u64,
        mut ids: &[Bytes],
        least: Version,
    ) -> Result<(), Error> {
        while !ids.is_empty() {
            let (_, mut records) = self.fetch(shard, entry, source, &mut ids).await?;
            records.retain(|it| it.version >= least || it.version < entry.unproven);
            let records = self.believed(shard, entry, source, records).await?;
            self.holder.take(shard, since, records, |_| {}, Version::default()).await?;
        }
        Ok(())
    }

    /// Brings what a replica has together with what this one has, where one of the two may lack something. Below the
    /// higher of their horizons the replica that has it decides: it had everything then, and what it lacks was deleted
    /// since.
    async fn unite(
        &self,
        shard: u32,
        entry: &Entry,
        source: &NodeId,
        since: u64,
        is_whole: bool,
    ) -> Result<(), Error> {
        let decides = self.holder.rules().has(Rule::HorizonDecides);
        let state = self.holder.state(shard).await;
        let (own, from) = (state.horizon, state.unproven(entry));
        let least = if is_whole || !decides { Version::default() } else { own };
        // The removed records whose version at the source is older.
        let (mut removes, mut replaced) = (false, Vec::new());
        let mut parts = self.compare(shard, entry, source).await;
        let mut counted = self.holder.begin_comparison(shard, source);
        while let Some(difference) = self.next_difference(&mut parts).await? {
            let Difference { theirs, ours, older, compared, .. } = difference;
            let horizon = parts.horizon;
            counted.compared(compared);
            self.fetch_and_take(shard, entry, source, since, &theirs, least).await?;
            let mut rest = if horizon > own && decides { &ours[..] } else { &[] };
            while !rest.is_empty() {
                let (mut deleted, count) =
                    self.holder.reader().records(shard, &rest[..rest.len().min(IDS)]).await?;
                rest = &rest[count..];
                deleted.retain(|record| (from..horizon).contains(&record.version));
                self.holder.remove(shard, since, &deleted).await?;
                removes |= !deleted.is_empty();
                let ids = deleted.into_iter().map(|record| record.id);
                replaced.extend(ids.filter(|id| older.contains(id)));
            }
        }
        counted.ends();
        if removes {
            self.holder.purge_removed(shard, since, parts.horizon).await?;
            let least = Version::default();
            self.fetch_and_take(shard, entry, source, since, &replaced, least).await?;
        }
        self.holder.take(shard, since, Vec::new(), |_| {}, parts.horizon).await?;
        Ok(())
    }

    /// Fetches the records of the first ids, as many as fit into a message, and takes these ids away.
    async fn fetch(
        &self,
        shard: u32,
        entry: &Entry,
        node: &NodeId,
        ids: &mut &[Bytes],
    ) -> Result<(HybridTime, Vec<Record>), Error> {
        let mut message = Message::default();
        let fits = |id: &&Bytes| message.takes(OVERHEAD + id.len());
        let asked = &ids[..ids.iter().take(IDS).take_while(fits).count()];
        let asked_for = Action::Fetch(asked.to_vec());
        let (time, outcome) = self.answer(shard, entry, node, asked_for).await?;
        let no_page = || unfinished(shard, node, "its answer is not a page");
        let (records, is_last) = match outcome {
            Outcome::Page { records, is_last, .. } => (records, is_last),
            Outcome::NotReady(why) => return Err(unfinished(shard, node, &format!("{why:?}"))),
            _ => return Err(no_page()),
        };
        let last = records.last().map(|record| &record.id);
        let count = match last.and_then(|last| asked.iter().position(|id| id == last)) {
            _ if is_last => asked.len(),
            Some(index) => index + 1,
            None => return Err(no_page()),
        };
        *ids = &ids[count..];
        Ok((time, records))
    }

    /// The records of a copy. The other replicas are asked about a record that is too far ahead of this node's clock,
    /// as that may be the clock that is wrong: if each that lacks it would refuse it too, and fewer than W have it, it
    /// was never acknowledged, and their record comes in its place.
    async fn believed(
        &self,
        shard: u32,
        entry: &Entry,
        source: &NodeId,
        mut records: Vec<Record>,
    ) -> Result<Vec<Record>, Error> {
        let clock = self.holder.clock();
        let write = entry.lasting().write;
        let doubted: Vec<Bytes> = records
            .iter()
            .filter(|it| write > 1 && clock.is_ahead(it.version))
            .map(|it| it.id.clone())
            .collect();
        if doubted.is_empty() {
            return Ok(records);
        }
        let mut others: Vec<(HybridTime, BTreeMap<Bytes, Record>)> = Vec::new();
        let mut why = unfinished(shard, source, "no other replica says whether it has a record");
        for (_, place) in entry.counting().filter(|(_, place)| place.node != *source) {
            match self.fetch_all(shard, entry, &place.node, &doubted).await {
                Ok(found) => others.push(found),
                Err(error) => why = error,
            }
        }
        if others.is_empty() {
            return Err(why);
        }
        let all = std::mem::take(&mut records);
        for record in all {
            if !clock.is_ahead(record.version) {
                records.push(record);
                continue;
            }
            let has = |found: &BTreeMap<Bytes, Record>| {
                found.get(&record.id).is_some_and(|it| it.version >= record.version)
            };
            let (having, lacking): (Vec<_>, Vec<_>) =
                others.iter().partition(|(_, found)| has(found));
            let would_refuse =
                |time: HybridTime| record.version.time().ms() > clock.allowed(time.ms());
            let is_refused = having.len() + 1 < write
                && !lacking.is_empty()
                && lacking.iter().all(|(time, _)| would_refuse(*time));
            if is_refused {
                let theirs = lacking.iter().filter_map(|(_, found)| found.get(&record.id));
                records.extend(theirs.max_by_key(|it| it.version).cloned());
            } else {
                records.push(record);
            }
        }
        Ok(records)
    }

    /// The records of these ids that a node has, and its time.
    async fn fetch_all(
        &self,
        shard: u32,
        entry: &Entry,
        node: &NodeId,
        mut ids: &[Bytes],
    ) -> Result<(HybridTime, BTreeMap<Bytes, Record>), Error> {
        let mut all = (HybridTime::default(), BTreeMap::new());
        while !ids.is_empty() {
            let (time, records) = self.fetch(shard, entry, node, &mut ids).await?;
            all.0 = time;
            all.1.extend(records.into_iter().map(|record| (record.id.clone(), record)));
        }
        Ok(all)
    }

    /// Begins a comparison of the own replica of a shard with that of a node.
    async fn compare<'a>(&self, shard: u32, entry: &'a Entry, node: &'a NodeId) -> Comparison<'a> {
        let own_horizon = self.holder.state(shard).await.horizon;
        let (after, has_ended, horizon, page) = (None, false, own_horizon, digest::PAGE);
        Comparison { shard, entry, node, own_horizon, after, has_ended, horizon, page }
    }

    /// The ids of the records of the next part that are newer there or here; `None`: there are no more parts.
    async fn next_difference(
        &self,
        comparison: &mut Comparison<'_>,
    ) -> Result<Option<Difference>, Error> {
        let Comparison { shard, entry, node, own_horizon, .. } = *comparison;
        if comparison.has_ended {
            return Ok(None);
        }
        let (reader, after) = (self.holder.reader(), comparison.after.take());
        let begins = after.is_none();
        let mut ours = Part::read(reader, shard, after.clone(), None, comparison.page).await?;
        let read = ours.count(Version::default());
        let bits = ours.bits(own_horizon);
        let no_sums = || unfinished(shard, node, "its answer is not that of a comparison");
        let asked = Action::Sums {
            bits,
            horizon: own_horizon,
            after: after.clone(),
            through: ours.through.clone(),
        };
        let outcome = self.ask(shard, entry, node, asked).await?;
        let Outcome::Sums { sums, horizon, through } = outcome else { return Err(no_sums()) };
        ours.cut(through);
        if ours.through.is_some() && ours.through <= after {
            return Err(no_sums());
        }
        // Where the records of the other one are larger, its parts are shorter.
        let kept = ours.count(Version::default());
        comparison.page = match kept < read {
            true => (2 * kept).clamp(digest::PAGE / 100, digest::PAGE),
            false => (2 * comparison.page).min(digest::PAGE),
        };
        let progress = self.holder.progress();
        progress.counted(shard, after.clone(), ours.count(horizon), ours.through.clone());
        let own_sums = ours.sums(bits, horizon);
        if own_sums.len() != sums.len() {
            return Err(no_sums());
        }
        let compared = kept;
        let mut difference = Difference { horizon, compared, ..Difference::default() };
        let buckets = digest::differing(&own_sums, &sums);
        if !buckets.is_empty() {
            let theirs =
                self.versions(comparison, bits, &buckets, horizon, (&after, &ours)).await?;
            let ours = ours.versions(bits, &buckets, horizon);
            difference.theirs.extend(newer(&theirs, &ours));
            difference.ours.extend(newer(&ours, &theirs));
            let older = difference.ours.iter().filter(|id| theirs.contains_key(*id));
            difference.older = older.cloned().collect();
            let (low, high) =
                if horizon > own_horizon { (&ours, &theirs) } else { (&theirs, &ours) };
            let is_deleted = |(id, version): &(&Bytes, &Version)| {
                (entry.unproven..horizon).contains(*version) && !high.contains_key(*id)
            };
            difference.deleted.extend(low.iter().filter(is_deleted).map(|(id, _)| id.clone()));
        }
        // A write below a horizon that was raised since can have come to a part that was compared before.
        comparison.horizon = if begins { horizon } else { comparison.horizon.min(horizon) };
        comparison.has_ended = ours.through.is_none();
        comparison.after = ours.through;
        Ok(Some(difference))
    }

    /// The versions of the records that the node has in some buckets of a part.
    async fn versions(
        &self,
        comparison: &Comparison<'_>,
        bits: u32,
        buckets: &[u32],
        horizon: Version,
        (after, part): (&Option<Bytes>, &Part),
    ) -> Result<BTreeMap<Bytes, Version>, Error> {
        let Comparison { shard, entry, node, .. } = *comparison;
        let (mut all, mut after) = (BTreeMap::new(), after.clone());
        loop {
            let asked = Action::Versions {
                bits,
                buckets: buckets.to_vec(),
                horizon,
                after,
                through: part.through.clone(),
            };
            match self.ask(shard, entry, node, asked).await? {
                Outcome::Versions { versions, is_last } if is_last || !versions.is_empty() => {
                    after = versions.last().map(|(id, _)| id.clone());
                    all.extend(versions);
                    if is_last {
                        return Ok(all);
                    }
                }
                _ => {
                    let why = "its answer is not that of a comparison";
                    return Err(unfinished(shard, node, why));
                }
            }
        }
    }

    /// Makes the replica of a node and the own one equal.
    ///
    /// # Errors
    /// The reason why it stopped.
    pub async fn reconcile(
        &self,
        shard: u32,
        entry: &Entry,
        node: &NodeId,
    ) -> Result<Compared, Error> {
        self.make_equal(shard, entry, node, false).await
    }

    /// The same; whether it counts what one of the two does not believe.
    async fn make_equal(
        &self,
        shard: u32,
        entry: &Entry,
        node: &NodeId,
        counts_unbelieved: bool,
    ) -> Result<Compared, Error> {
        let mut compared = Compared { comparisons: 1, ..Compared::default() };
        let mut parts = self.compare(shard, entry, node).await;
        while let Some(mut difference) = self.next_difference(&mut parts).await? {
            compared.deleted += self.delete(shard, entry, node, &mut difference).await?;
            let mut ids = &difference.theirs[..];
            while !ids.is_empty() {
                let (_, records) = self.fetch(shard, entry, node, &mut ids).await?;
                let own = self.holder.node();
                let unbelieved =
                    records.iter().filter(|it| self.holder.disbelieves(entry, it.version));
                compared.unbelieved += unbelieved.count();
                self.ask(shard, entry, own, Action::Repair(records)).await?;
            }
            let late = self.give(shard, entry, node, &difference.ours, Version::default()).await?;
            if counts_unbelieved {
                compared.unbelieved += self.lacking(shard, entry, node, &late).await?;
            }
            compared.fetched += difference.theirs.len();
            compared.sent += difference.ours.len();
        }
        Ok(compared)
    }

    /// Deletes on both replicas what the one of the higher horizon says was deleted, such as what a backup has brought
    /// back, and takes it out of the difference. Returns the number of records.
    async fn delete(
        &self,
        shard: u32,
        entry: &Entry,
        node: &NodeId,
        difference: &mut Difference,
    ) -> Result<usize, Error> {
        let Difference { theirs, ours, deleted, horizon, .. } = difference;
        let decides = self.holder.rules().has(Rule::HorizonDecides) && !entry.unites();
        if deleted.is_empty() || !decides {
            return Ok(0);
        }
        // With equal horizons each was to have all: one of them has lost it.
        let own_horizon = self.holder.state(shard).await.horizon;
        let empty = Action::Fetch(Vec::new());
        let Outcome::Page { horizon: other, .. } = self.ask(shard, entry, node, empty).await?
        else {
            return Err(unfinished(shard, node, "its answer is not a page"));
        };
        if other == own_horizon {
            return Ok(0);
        }
        theirs.retain(|id| !deleted.contains(id));
        ours.retain(|id| !deleted.contains(id));
        let deletion = |id: &Bytes| Record { id: id.clone(), version: *horizon, data: None };
        let mut deletions: Vec<Record> = deleted.iter().map(deletion).collect();
        let count = deletions.len();
        while !deletions.is_empty() {
            let mut message = Message::default();
            let fits = |record: &&Record| message.takes(record.size());
            let rest = deletions.split_off(deletions.iter().take(IDS).take_while(fits).count());
            let asked = Action::Repair(std::mem::replace(&mut deletions, rest));
            self.ask(shard, entry, self.holder.node(), asked.clone()).await?;
            self.ask(shard, entry, node, asked).await?;
        }
        Ok(count)
    }

    /// Gives another replica these records, but for those below a version. Returns those that are later than its clock.
    async fn give(
        &self,
        shard: u32,
        entry: &Entry,
        node: &NodeId,
        ids: &[Bytes],
        least: Version,
    ) -> Result<Vec<(Bytes, Version)>, Error> {
        let (mut rest, mut late) = (ids, Vec::new());
        while !rest.is_empty() {
            let (mut records, count) =
                self.holder.reader().records(shard, &rest[..rest.len().min(IDS)]).await?;
            rest = &rest[count..];
            records.retain(|record| record.version >= least);
            let version = |record: &Record| (record.id.clone(), record.version);
            let given: Vec<(Bytes, Version)> = records.iter().map(version).collect();
            let (time, outcome) = self.answer(shard, entry, node, Action::Repair(records)).await?;
            if let Outcome::NotReady(why) = outcome {
                return Err(unfinished(shard, node, &format!("{why:?}")));
            }
            late.extend(given.into_iter().filter(|(_, version)| version.time() > time));
        }
        Ok(late)
    }

    /// How many of these records a replica lacks.
    async fn lacking(
        &self,
        shard: u32,
        entry: &Entry,
        node: &NodeId,
        records: &[(Bytes, Version)],
    ) -> Result<usize, Error> {
        let ids: Vec<Bytes> = records.iter().map(|(id, _)| id.clone()).collect();
        let (_, found) = self.fetch_all(shard, entry, node, &ids).await?;
        let lacks = |(id, version): &&(Bytes, Version)| {
            found.get(id).is_none_or(|found| found.version < *version)
        };
        Ok(records.iter().filter(lacks).count())
    }

    /// Makes the replicas that answer equal, and if these are all N purges what was deleted before `below`. Returns also
    /// whether they are all.
    ///
    /// # Errors
    /// That of a purge.
    pub async fn repair(&self, shard: u32, below: Version) -> Result<(Compared, bool), Error> {
        let Some(entry) = self.holder.state(shard).await.entry else {
            return Ok((Compared::default(), false));
        };
        let own = self.holder.node();
        let places: Vec<NodeId> = entry.counting().map(|(_, it)| it.node.clone()).collect();
        let mut is_whole = places.len() == entry.slots.len()
            && entry.slots.iter().all(|slot| slot.change.is_none());
        let needs_all = self.holder.rules().has(Rule::PurgeAfterRepair);
        // This node last: its own clock may be wrong.
        let others: Vec<&NodeId> = places.iter().filter(|node| *node != own).collect();
        let mut purges = is_whole || !needs_all;
        for node in others.iter().copied().chain([own]) {
            if purges
                && let Err(error) = self.ask(shard, &entry, node, Action::Floor { below }).await
            {
                tracing::debug!(shard, %error, "a repair purges nothing");
                purges = false;
            }
        }
        let rounds = if needs_all { 2 } else { 0 };
        let (compared, left_out) = self.compare_all(shard, &entry, &others, (rounds, false)).await;
        if !left_out.is_empty() {
            (is_whole, purges) = (false, false);
        }
        if purges {
            let mut purged = Ok(());
            for node in &places {
                let asked = self.ask(shard, &entry, node, Action::Purge { below }).await;
                purged = purged.and(asked.map(|_| ()));
            }
            purged?;
        }
        Ok((compared, is_whole))
    }

    /// Makes the replicas of a shard equal that know its entry, which all of them learn by it. Returns the nodes of the others.
    ///
    /// # Errors
    /// [`Kind::NotReady`] if the own replica does not count, or the clock of a node is behind the versions of records.
    pub async fn equalize(
        &self,
        shard: u32,
        entry: &Entry,
    ) -> Result<(Compared, Vec<NodeId>), Error> {
        let own = self.holder.node();
        self.ask(shard, entry, own, Action::Ping).await?;
        let others = entry.counting().map(|(_, place)| &place.node).filter(|node| *node != own);
        let others = Vec::from_iter(others);
        let (compared, left_out) = self.compare_all(shard, entry, &others, (2, true)).await;
        match compared.unbelieved {
            0 => Ok((compared, left_out)),
            _ => Err(unfinished(shard, own, "a clock is behind the versions of records")),
        }
    }

    /// Makes the own replica equal to other nodes' replicas, and these to each other. Returns the silent ones.
    async fn compare_all(
        &self,
        shard: u32,
        entry: &Entry,
        others: &[&NodeId],
        (rounds, counts_unbelieved): (usize, bool),
    ) -> (Compared, Vec<NodeId>) {
        let mut compared = Compared::default();
        let mut left_out: Vec<NodeId> = Vec::new();
        // The second round gives to the others what the first one brings here.
        for round in 0..rounds {
            if round == 1 && compared.fetched + compared.deleted == 0 {
                break;
            }
            for node in others {
                if left_out.contains(node) {
                    continue;
                }
                match self.make_equal(shard, entry, node, counts_unbelieved).await {
                    Ok(found) => compared.add(found),
                    Err(error) => {
                        tracing::debug!(shard, %node, %error, "a repair leaves a replica out");
                        left_out.push(NodeId::clone(node));
                    }
                }
            }
        }
        (compared, left_out)
    }

    /// Drops what the node has of a shard that `newest` does not give it, after all N replicas have what
    /// it has. Returns whether there is nothing left to drop.
    ///
    /// # Errors
    /// The reason why it stopped; also if one of the replicas does not answer.
    pub async fn drop_unnamed(&self, shard: u32, newest: &Entry) -> Result<bool, Error> {
        let state = self.holder.state(shard).await;
        let may_be_last = state.is_whole || state.doubt.is_some();
        if may_be_last && self.holder.rules().has(Rule::CheckBeforeDrop) {
            let places: Vec<NodeId> = newest.counting().map(|(_, it)| it.node.clone()).collect();
            if places.len() < newest.slots.len() {
                return Ok(false);
            }
            for node in &places {
                let mut parts = self.compare(shard, newest, node).await;
                while let Some(difference) = self.next_difference(&mut parts).await? {
                    // A record that others do not lack by an accepted loss, they lack since it was deleted.
                    let least = match state.unproven(newest).is_lowest() {
                        true => difference.horizon,
                        false => Version::default(),
                    };
                    self.give(shard, newest, node, &difference.ours, least).await?;
                }
            }
        }
        self.holder.drop_unnamed(shard, newest).await
    }
}

/// A comparison of two replicas, which goes on from part to part.
struct Comparison<'a> {
    shard: u32,
    entry: &'a Entry,
    node: &'a NodeId,
    own_horizon: Version,
    /// The last id of the part before.
    after: Option<Bytes>,
    has_ended: bool,
    /// The most records of the next part.
    page: usize,
    /// The higher horizon of the two replicas at the first part.
    horizon: Version,
}

/// The ids of the records of a part that are newer on one of two replicas.
#[derive(Default)]
struct Difference {
    theirs: Vec<Bytes>,
    ours: Vec<Bytes>,
    /// The records of `ours` whose version at the other replica is older.
    older: BTreeSet<Bytes>,
    /// Those that the replica of the higher horizon lacks, below which it had everything.
    deleted: BTreeSet<Bytes>,
    /// The higher of the two horizons.
    horizon: Version,
    /// The number of own records in the part.
    compared: usize,
}

fn newer<'a>(
    of: &'a BTreeMap<Bytes, Version>,
    than: &'a BTreeMap<Bytes, Version>,
) -> impl Iterator<Item = Bytes> + 'a {
    let is_newer =
        |(id, version): &(&Bytes, &Version)| than.get(*id).is_none_or(|old| old < *version);
    of.iter().filter(is_newer).map(|(id, _)| id.clone())
}

fn unfinished(shard: u32, node: &NodeId, why: &str) -> Error {
    Error::new(Kind::NotReady, format!("shard {shard}: node {node:?}: {why}")).retryable()
}
