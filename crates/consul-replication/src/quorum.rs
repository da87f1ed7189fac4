//! Writes and reads by quorums.

use super::clock::VersionClock;
use super::map::{Entry, NodeId};
use super::message::{Action, NotReady, Outcome, Reply, other_store};
use super::peers::{Entries, Known, Peers, Runtime};
use super::read_times::ReadTimes;
use super::record::{Range, Record, Version};
use super::rules::{Rule, Rules};
use super::storage::Message;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::clock::{BoxFuture, Instant};
use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// The pause before a call is made again.
const PAUSE: Duration = Duration::from_millis(50);

/// The pause before a replica that has refused is asked again, while others are silent.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// The records per replica of a page that follows one of deleted records alone, at most, unless more were
/// asked for.
const LONGEST_SEARCH: usize = 1000;

/// A node whose clock was heard so recently is taken to be there with the same clock.
const FRESH: Duration = Duration::from_secs(1);

/// How long the other replicas are waited for when one has a version that is not believed.
const UNBELIEVED_WAIT: Duration = Duration::from_millis(500);

/// How long a read waits for replicas to store what they lack.
const REPAIR_WAIT: Duration = Duration::from_millis(500);

/// Reads and writes of one process.
#[derive(Clone)]
pub struct Router {
    /// Its knowledge of the map.
    pub entries: Arc<Entries>,
    /// The way to the nodes.
    pub peers: Arc<dyn Peers>,
    /// Time, and tasks in the background.
    pub runtime: Arc<dyn Runtime>,
    /// The clock that gives writes their versions.
    pub clock: Arc<VersionClock>,
    /// How fast the nodes are.
    pub times: Arc<ReadTimes>,
    /// The rules in force.
    pub rules: Rules,
}

/// A page of a read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The records, without deleted ones, in the order of ids.
    pub records: Vec<Record>,
    /// Where the next page begins; `None`: this is the last one.
    pub next: Option<Bytes>,
}

/// The answer of a slot's replica.
type Answer = (usize, NodeId, Result<Reply, Error>);

/// The most characters of what an error says about one node.
const MAX_REASON: usize = 200;

/// Why an attempt has no quorum.
struct Attempt {
    error: Error,
    /// Whether a newer entry was learned, so that the next attempt may begin at once.
    is_stale: bool,
}

impl Router {
    /// Writes records of one shard; without bytes a record is deleted. Completes when W replicas have
    /// them; the others get them too, or a repair brings them.
    ///
    /// # Errors
    /// [`Kind::NotReady`] or [`Kind::Timeout`] if there is no quorum until the deadline; the records may
    /// be stored nevertheless, unless no quorum was there when it began. [`Kind::Conflict`] if this process's
    /// clock is so far ahead of the replicas' clocks that fewer than W take the records; none of them is stored.
    /// [`Kind::TooLarge`] if the records do not fit into a request.
    pub async fn write(
        &self,
        shard: u32,
        records: Vec<(Bytes, Option<Bytes>)>,
        deadline: Instant,
    ) -> Result<Version, Error> {
        let version = loop {
            let met_ms = self.meet_quorum(shard, deadline).await?;
            let version = self.clock.next();
            // The machine's clock may have been set since.
            if version.time().ms() <= self.clock.allowed(met_ms) {
                break version;
            }
        };
        let record = |(id, data)| Record { id, version, data };
        let mut records: Vec<Record> = records.into_iter().map(record).collect();
        let mut highest = version;
        loop {
            let written = self.write_once(shard, &mut records, deadline).await;
            let overtaken = written.map_err(|why| {
                if version < highest { why.with_maybe_applied(true) } else { why }
            })?;
            if overtaken.is_empty() || !self.rules.has(Rule::RepeatAboveNewer) {
                return Ok(highest);
            }
            // Acknowledged means visible, although the clocks of writers differ.
            let mut again = Vec::with_capacity(overtaken.len());
            for (index, record) in records.into_iter().enumerate() {
                let Some(newer) = overtaken.get(&index) else { continue };
                let above = self.clock.above(*newer);
                let version = above.map_err(|error| error.with_maybe_applied(true))?;
                highest = highest.max(version);
                again.push(Record { version, ..record });
            }
            records = again;
        }
    }

    /// Completes when W replicas of a shard are there whose clocks take a version of this process's: a write
    /// that has no chance leaves nothing on the disks of those that would take it. Returns the time of that version.
    async fn meet_quorum(&self, shard: u32, deadline: Instant) -> Result<u64, Error> {
        let none = |error: Error| error.with_maybe_applied(false);
        loop {
            match self.try_meet(shard, deadline).await {
                Ok(own_ms) => return Ok(own_ms),
                Err(attempt) => self.pause(attempt, deadline).await.map_err(none)?,
            }
        }
    }

    async fn try_meet(&self, shard: u32, deadline: Instant) -> Result<u64, Attempt> {
        let known = self.known(shard)?;
        let quorum = known.entry.quorums.write;
        let (begun, own_ms) = (self.runtime.clock().now(), self.clock.now().ms());
        let mut places = self.places(&known.entry);
        let mut slots = BTreeSet::new();
        // How far this process's clock is ahead of the clocks of replicas that refuse its versions.
        let mut ahead: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut meets = |slot: usize, node: &NodeId, ms: u64| {
            if own_ms <= self.clock.allowed(ms) {
                slots.insert(slot);
            } else {
                ahead.insert(node.clone(), own_ms - ms);
            }
            slots.len()
        };
        let mut count = 0;
        // A clock that would refuse them may have been set right since.
        let would_take =
            |(ms, at): &(u64, Instant)| begun - *at < FRESH && own_ms <= self.clock.allowed(*ms);
        places.retain(|(slot, node)| {
            let heard = self.clock.heard(node, begun).filter(would_take);
            count = heard.map_or(count, |(ms, _)| meets(*slot, node, ms));
            heard.is_none()
        });
        let mut request = self.request(shard, &known, places, Action::Ping);
        if count < quorum {
            request.ask(usize::MAX);
        }
        while count < quorum {
            let Some(Answered { slot, node, outcome, .. }) = request.next(deadline).await else {
                break;
            };
            let heard = outcome.and_then(|_| self.clock.heard(&node, begun));
            count = heard.map_or(count, |(ms, _)| meets(slot, &node, ms));
        }
        if count >= quorum {
            return Ok(own_ms);
        }
        for (node, ahead_ms) in &ahead {
            request.refused(node, self.clock.conflict(*ahead_ms).message());
        }
        let mut failed = request.failed("write", count, quorum);
        if count + ahead.len() >= quorum {
            failed.error = Error::new(Kind::Conflict, failed.error.message());
        }
        Err(failed)
    }

    /// The last millisecond that a quorum of a shard's replicas believes, by the clocks that they have shown.
    fn believed_ms(&self, entry: &Entry) -> u64 {
        let now = self.runtime.clock().now();
        let heard = entry.counting().filter_map(|(_, place)| self.clock.heard(&place.node, now));
        let mut times: Vec<u64> = heard.map(|(ms, _)| ms).collect();
        times.sort_unstable();
        let middle = times.len().saturating_sub(1) / 2;
        times.get(middle).map_or(u64::MAX, |ms| self.clock.allowed(*ms))
    }

    /// The versions above which each record has to be written again, of those that the replicas named for it;
    /// `None`: too few have stored one of the records above all versions that are believed. A version that is not
    /// believed is passed over if too few replicas have it for a read to show it.
    fn to_exceed(
        &self,
        entry: &Entry,
        acknowledged: usize,
        newer: &BTreeMap<usize, Vec<Version>>,
    ) -> Option<BTreeMap<usize, Version>> {
        let (replicas, write) = (entry.slots.len(), entry.quorums.write);
        let believed_ms = self.believed_ms(entry);
        let mut overtaken = BTreeMap::new();
        for (index, versions) in newer {
            let believed = versions.iter().filter(|it| it.time().ms() <= believed_ms);
            let rest = versions.len() - believed.clone().count();
            if rest > 0 && acknowledged - rest < write.max((replicas + 1).saturating_sub(write)) {
                return None;
            }
            overtaken.extend(believed.max().map(|version| (*index, *version)));
        }
        Some(overtaken)
    }

    /// Writes records with their versions to a quorum; returns those that newer versions have overtaken.
    async fn write_once(
        &self,
        shard: u32,
        records: &mut [Record],
        deadline: Instant,
    ) -> Result<BTreeMap<usize, Version>, Error> {
        let mut maybe_applied = false;
        loop {
            if !self.rules.has(Rule::OneVersion) {
                let version = self.clock.next();
                records.iter_mut().for_each(|record| record.version = version);
            }
            match self.try_write(shard, records, deadline).await {
                Ok(overtaken) => return Ok(overtaken),
                Err(attempt) => {
                    maybe_applied |= attempt.error.maybe_applied();
                    let paused = self.pause(attempt, deadline).await;
                    paused.map_err(|error| error.with_maybe_applied(maybe_applied))?;
                }
            }
        }
    }

    /// Waits before the next attempt, or fails if there is no time for one or it would fail too.
    async fn pause(&self, attempt: Attempt, deadline: Instant) -> Result<(), Error> {
        if !attempt.error.is_retryable() {
            return Err(attempt.error);
        }
        let clock = self.runtime.clock();
        if !attempt.is_stale {
            clock.sleep(PAUSE.mul_f64(0.5 + self.runtime.fraction())).await;
        }
        if clock.now() >= deadline { Err(attempt.error) } else { Ok(()) }
    }

    /// The replicas that count: their slots and nodes.
    fn places(&self, entry: &Entry) -> Vec<(usize, NodeId)> {
        let targets = if self.rules.has(Rule::TargetCountsLate) { None } else { Some(entry) };
        let early = targets.into_iter().flat_map(|entry| {
            let slots = entry.slots.iter().enumerate();
            slots.filter_map(|(number, slot)| Some((number, slot.target()?.clone())))
        });
        let places = entry.counting().map(|(number, place)| (number, place.node.clone()));
        places.chain(early).collect()
    }

    /// A request to the replicas in these places, which are not asked yet.
    fn request(
        &self,
        shard: u32,
        known: &Known,
        places: Vec<(usize, NodeId)>,
        action: Action,
    ) -> Asking<'_> {
        Asking {
            router: self,
            shard,
            known: known.clone(),
            action,
            places: places.into_iter(),
            answers: FuturesUnordered::new(),
            silent: BTreeMap::new(),
            again: VecDeque::new(),
            refusals: BTreeMap::new(),
            is_stale: false,
            is_too_large: false,
            maybe_executed: false,
        }
    }

    fn known(&self, shard: u32) -> Result<Known, Attempt> {
        self.entries.get(shard).ok_or_else(|| {
            let why = format!("shard {shard}: this process has no map yet");
            let error = Error::new(Kind::NotReady, why).retryable().with_maybe_applied(false);
            Attempt { error, is_stale: false }
        })
    }

    async fn try_write(
        &self,
        shard: u32,
        records: &[Record],
        deadline: Instant,
    ) -> Result<BTreeMap<usize, Version>, Attempt> {
        let known = self.known(shard)?;
        let places = self.places(&known.entry);
        let mut request = self.request(shard, &known, places, Action::Write(records.to_vec()));
        request.ask(usize::MAX);
        let mut acknowledged = BTreeSet::new();
        let mut newer: BTreeMap<usize, Vec<Version>> = BTreeMap::new();
        let (mut overtaken, mut until) = (None, deadline);
        while let Some(Answered { slot, node, outcome, .. }) = request.next(until).await {
            match outcome {
                Some(Outcome::Stored { overtaken }) => {
                    acknowledged.insert(slot);
                    for (index, version) in overtaken {
                        newer.entry(index).or_default().push(version);
                    }
                }
                Some(_) => request.refused(&node, "its answer is not that of a write"),
                None => {}
            }
            if acknowledged.len() >= known.entry.quorums.write {
                overtaken = self.to_exceed(&known.entry, acknowledged.len(), &newer);
                if overtaken.is_some() {
                    break;
                }
                until = until.min(self.runtime.clock().now() + UNBELIEVED_WAIT);
            }
        }
        let (count, quorum) = (acknowledged.len(), known.entry.quorums.write);
        let failed = (count < quorum).then(|| request.failed("write", count, quorum));
        let mut answers = request.answers;
        // The others go on.
        self.runtime.spawn(Box::pin(async move { while answers.next().await.is_some() {} }));
        let highest = || {
            let newer = newer.iter();
            BTreeMap::from_iter(
                newer.filter_map(|(at, versions)| Some((*at, *versions.iter().max()?))),
            )
        };
        match failed {
            Some(failed) => Err(failed),
            None => Ok(overtaken.unwrap_or_else(highest)),
        }
    }

    /// Reads a page of up to `limit` records per replica. Pages of deleted records alone are passed over,
    /// with more and more records per replica; if the deadline comes meanwhile, an empty page says where the
    /// next one begins.
    ///
    /// # Errors
    /// [`Kind::NotReady`] if fewer than R replicas answer until the deadline: the read is incomplete.
    /// [`Kind::TooLarge`] if an answer is larger than this process accepts.
    pub async fn read(
        &self,
        shard: u32,
        range: &Range,
        limit: usize,
        deadline: Instant,
    ) -> Result<Page, Error> {
        let (mut range, mut limit) = (range.clone(), limit);
        let mut passed = None;
        loop {
            let page = match self.page(shard, &range, limit, deadline).await {
                Ok(page) => page,
                Err(error) => return passed.ok_or(error),
            };
            let Some(next) = page.next.clone().filter(|_| page.records.is_empty()) else {
                return Ok(page);
            };
            range.after = Some(next);
            limit = limit.max(LONGEST_SEARCH.min(2 * limit));
            passed = Some(page);
        }
    }

    /// Reads one page, also one without records because all of them are deleted.
    ///
    /// # Errors
    /// As [`Router::read`].
    pub async fn page(
        &self,
        shard: u32,
        range: &Range,
        limit: usize,
        deadline: Instant,
    ) -> Result<Page, Error> {
        loop {
            match self.try_read(shard, range, limit, deadline).await {
                Ok(page) => return Ok(page),
                Err(attempt) => {
                    let paused = self.pause(attempt, deadline).await;
                    paused.map_err(|error| error.with_maybe_applied(false))?;
                }
            }
        }
    }

    async fn try_read(
        &self,
        shard: u32,
        range: &Range,
        limit: usize,
        deadline: Instant,
    ) -> Result<Page, Attempt> {
        let known = self.known(shard)?;
        let (clock, quorum) = (self.runtime.clock(), known.entry.quorums.read);
        let mut places = self.places(&known.entry);
        self.times.begin(&mut places, quorum);
        let action = Action::Read { range: range.clone(), limit };
        let mut request = self.request(shard, &known, places, action);
        request.ask(quorum);
        let (patience, late) = self.times.patience();
        let late_at = clock.now() + late;
        let mut another_at = clock.now() + patience;
        let mut pages: BTreeMap<usize, PageOf> = BTreeMap::new();
        while pages.len() < quorum {
            let are_left = request.places.len() > 0;
            let until = if are_left { another_at.min(deadline) } else { deadline };
            let Some(answer) = request.next(until).await else {
                if !are_left || clock.now() >= deadline {
                    break;
                }
                let is_late = another_at >= late_at;
                if is_late || self.times.may_ask_another() {
                    request.ask(1);
                }
                another_at = if is_late { another_at + late } else { late_at };
                continue;
            };
            let Answered { slot, node, took, outcome } = answer;
            if let Some(Outcome::Page { records, is_last, .. }) = outcome {
                self.times.answered(&node, took);
                pages.insert(slot, (node, records, is_last));
                continue;
            }
            if outcome.is_some() {
                request.refused(&node, "its answer is not a page");
            }
            self.times.is_silent(&node, late);
            request.ask(1);
        }
        for (node, asked) in &request.silent {
            self.times.is_silent(node, clock.now() - *asked);
        }
        let is_enough =
            pages.len() >= quorum || (!self.rules.has(Rule::SayIncomplete) && !pages.is_empty());
        if !is_enough {
            return Err(request.failed("read", pages.len(), quorum));
        }
        let believed_ms = self.believed_ms(&known.entry);
        let of_write = known.entry.quorums.write;
        let has = |pages: &BTreeMap<usize, PageOf>, counts: std::ops::Range<usize>| {
            let end = end_of(pages.values());
            let unbelieved = unbelieved(pages.values(), believed_ms, end.as_ref());
            unbelieved.values().any(|count| counts.contains(count))
        };
        if has(&pages, 0..of_write) {
            request.ask(usize::MAX);
            let until = deadline.min(clock.now() + UNBELIEVED_WAIT);
            while let Some(Answered { slot, node, outcome, .. }) = request.next(until).await {
                if let Some(Outcome::Page { records, is_last, .. }) = outcome {
                    pages.insert(slot, (node, records, is_last));
                }
            }
            // A record that some of them lack is acknowledged if enough of those that have not answered have it too.
            let replicas = known.entry.slots.len();
            let least = (of_write + pages.len()).saturating_sub(replicas);
            if has(&pages, least..of_write.min(pages.len())) {
                let mut failed = request.failed("read", pages.len(), replicas);
                failed.error = failed.error.with_note(
                    "a record has a version ahead of the clocks, which those that do not answer may have too",
                );
                return Err(failed);
            }
        }
        let (page, lacking) = self.merged(&known.entry, believed_ms, pages.into_values().collect());
        let others = request.places.map(|(_, node)| node).collect();
        self.bring(shard, &known, lacking, others, deadline).await;
        Ok(page)
    }

    /// Brings records to the replicas that lack them, as a read has shown, and to those that were not asked, until
    /// enough of them have all: the next read then shows nothing older.
    async fn bring(
        &self,
        shard: u32,
        known: &Known,
        lacking: Vec<(NodeId, Vec<Record>)>,
        others: Vec<NodeId>,
        deadline: Instant,
    ) {
        let whole = lacking.iter().filter(|(_, records)| records.is_empty()).count();
        if whole == lacking.len() {
            return;
        }
        let clock = self.runtime.clock();
        let until = deadline.min(clock.now() + REPAIR_WAIT);
        let needed = known.entry.quorums.write.min(lacking.len());
        let records = lacking.iter().flat_map(|(_, records)| records);
        let all = BTreeMap::from_iter(records.map(|record| (&record.id, record)));
        let mut message = Message::default();
        let fits = |record: &&&Record| message.takes(record.size());
        let all: Vec<Record> = all.values().take_while(fits).map(|it| (*it).clone()).collect();
        let others = others.into_iter().map(|node| (node, all.clone()));
        let asked = lacking.into_iter().filter(|(_, records)| !records.is_empty()).chain(others);
        let ask = |(node, records): (NodeId, Vec<Record>)| -> BoxFuture<'static, _> {
            let stored =
                self.peers.ask(&node, known.request(shard, Action::Repair(records.clone())));
            Box::pin(async move { (stored.await, (node, records)) })
        };
        let mut answers: FuturesUnordered<_> = asked.map(ask).collect();
        let mut again: VecDeque<(Instant, (NodeId, Vec<Record>))> = VecDeque::new();
        let mut count = whole;
        while count < needed {
            let again_at = again.front().map_or(until, |(at, _)| until.min(*at));
            match select(answers.next(), clock.sleep_until(again_at)).await {
                Either::Left((Some((answer, asked)), _)) => {
                    let is_stored = |reply: Reply| matches!(reply.outcome, Outcome::Stored { .. });
                    match answer.is_ok_and(is_stored) {
                        true => count += 1,
                        // Its storage may be busy.
                        false => again.push_back((clock.now() + PAUSE, asked)),
                    }
                }
                // A repair brings them.
                _ if clock.now() >= until => break,
                _ => match again.pop_front() {
                    Some((at, asked)) => {
                        clock.sleep_until(at).await;
                        answers.push(ask(asked));
                    }
                    None => break,
                },
            }
        }
        self.runtime.spawn(Box::pin(async move { while answers.next().await.is_some() {} }));
    }

    /// Merges pages up to the smallest of their last ids; returns also what each node lacks. A version that is not believed
    /// loses against all others unless W replicas have it, as it may be acknowledged then.
    fn merged(
        &self,
        entry: &Entry,
        believed_ms: u64,
        pages: Vec<PageOf>,
    ) -> (Page, Vec<(NodeId, Vec<Record>)>) {
        let end = end_of(pages.iter());
        let unbelieved = unbelieved(pages.iter(), believed_ms, end.as_ref());
        let enough = entry.quorums.write.min(pages.len());
        let counts = |record: &&Record| {
            unbelieved.get(&(&record.id, record.version)).is_none_or(|count| *count >= enough)
        };
        let is_in = |record: &&Record| is_before(record, end.as_ref());
        let mut newest: BTreeMap<Bytes, Record> = BTreeMap::new();
        let records = pages.iter().flat_map(|(_, records, _)| records);
        for record in records.filter(is_in).filter(counts) {
            match newest.get(&record.id) {
                Some(other) if !record.replaces(other) => {}
                _ => _ = newest.insert(record.id.clone(), record.clone()),
            }
        }
        let lacking = |(node, records, _): &PageOf| {
            let has = BTreeMap::from_iter(records.iter().map(|it| (&it.id, it)));
            // Other data of the same version is damaged, and which one is not known.
            let lacks = |it: &&Record| has.get(&it.id).is_none_or(|own| own.version < it.version);
            let mut message = Message::default();
            let fits = |record: &&Record| message.takes(record.size());
            let missing = newest.values().filter(lacks).take_while(fits).cloned().collect();
            (node.clone(), missing)
        };
        let lacking = pages.iter().map(lacking).collect();
        let records = newest.into_values().filter(|record| record.data.is_some()).collect();
        (Page { records, next: end }, lacking)
    }
}

/// A replica's part of a range: its node, the records, and whether they are the last ones.
type PageOf = (NodeId, Vec<Record>, bool);

/// The id up to which all pages have what their replicas have; `None`: all that there is.
fn end_of<'a>(pages: impl Iterator<Item = &'a PageOf>) -> Option<Bytes> {
    let ends = pages.filter(|(_, _, is_last)| !is_last);
    ends.filter_map(|(_, records, _)| records.last().map(|it| it.id.clone())).min()
}

fn is_before(record: &Record, end: Option<&Bytes>) -> bool {
    end.is_none_or(|end| record.id <= *end)
}

/// The versions of records up to `end` that are later than the last millisecond that is believed, and how many pages have
/// each.
fn unbelieved<'a>(
    pages: impl Iterator<Item = &'a PageOf>,
    believed_ms: u64,
    end: Option<&Bytes>,
) -> BTreeMap<(&'a Bytes, Version), usize> {
    let mut unbelieved = BTreeMap::new();
    let records = pages.flat_map(|(_, records, _)| records).filter(|it| is_before(it, end));
    for record in records.filter(|it| it.version.time().ms() > believed_ms) {
        *unbelieved.entry((&record.id, record.version)).or_default() += 1;
    }
    unbelieved
}

/// A request to the replicas of a shard that count.
struct Asking<'a> {
    router: &'a Router,
    shard: u32,
    known: Known,
    action: Action,
    /// The replicas that were not asked yet.
    places: std::vec::IntoIter<(usize, NodeId)>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// The nodes that have not answered, and when they were asked.
    silent: BTreeMap<NodeId, Instant>,
    /// The replicas that have refused for a reason that may pass, and when they are asked again.
    again: VecDeque<(Instant, (usize, NodeId))>,
    /// The nodes that did not do what they were asked for, and why.
    refusals: BTreeMap<NodeId, String>,
    /// Whether a newer entry was learned.
    is_stale: bool,
    is_too_large: bool,
    /// Whether a node may have executed it, although it did not say so.
    maybe_executed: bool,
}

/// The answer of a replica.
struct Answered {
    slot: usize,
    node: NodeId,
    took: Duration,
    /// `None`: it did not execute the request, which is noted.
    outcome: Option<Outcome>,
}

impl Asking<'_> {
    /// Asks up to this many of the replicas that were not asked yet.
    fn ask(&mut self, count: usize) {
        for _ in 0..count {
            let Some(place) = self.places.next() else { return };
            self.send(place);
        }
    }

    fn send(&mut self, (slot, node): (usize, NodeId)) {
        let request = self.known.request(self.shard, self.action.clone());
        let answer = self.router.peers.ask(&node, request);
        self.silent.insert(node.clone(), self.router.runtime.clock().now());
        self.answers.push(Box::pin(async move { (slot, node, answer.await) }));
    }

    /// The next answer; `None` when all have come or this time has. While it waits, replicas that have refused
    /// are asked again: one may have just started, and the silent ones may stay so.
    async fn next(&mut self, until: Instant) -> Option<Answered> {
        let clock = self.router.runtime.clock();
        let (slot, node, answer) = loop {
            let again_at = self.again.front().map_or(until, |(at, _)| until.min(*at));
            match select(self.answers.next(), clock.sleep_until(again_at)).await {
                Either::Left((answer, _)) => break answer?,
                Either::Right(_) if again_at >= until => return None,
                Either::Right(_) => {
                    let refused = self.again.pop_front();
                    refused.into_iter().for_each(|(_, place)| self.send(place));
                }
            }
        };
        let now = clock.now();
        let took = now - self.silent.remove(&node).unwrap_or(now);
        let may_pass = match &answer {
            Ok(reply) => matches!(reply.outcome, Outcome::NotReady(_)),
            Err(error) => error.kind() != Kind::TooLarge,
        };
        if may_pass {
            self.again.push_back((now + ASK_AGAIN, (slot, node.clone())));
        }
        let outcome = self.executed(&node, answer);
        Some(Answered { slot, node, took, outcome })
    }

    /// Notes the clock and the entry of an answer; returns its outcome if the request was executed.
    fn executed(&mut self, node: &NodeId, answer: Result<Reply, Error>) -> Option<Outcome> {
        let why = match answer {
            Err(error) => {
                self.is_too_large |= error.kind() == Kind::TooLarge;
                self.maybe_executed |= error.maybe_applied();
                error.message().to_owned()
            }
            Ok(Reply { time, outcome }) => {
                // A clock that is too far ahead is that of the node; its answer is good.
                _ = self.router.clock.observe(time);
                match outcome {
                    Outcome::Stale(newer) => {
                        let store = self.known.store;
                        self.is_stale |= self.router.entries.learn(store, self.shard, &newer);
                        "it knows a newer map".to_owned()
                    }
                    Outcome::OtherStore(id) => {
                        self.router.entries.suspect();
                        other_store(id)
                    }
                    Outcome::NotReady(why) => why.to_string(),
                    Outcome::Failed(why) => {
                        self.maybe_executed = true;
                        why
                    }
                    outcome => {
                        let now = self.router.runtime.clock().now();
                        self.router.clock.hear(node, time, now);
                        self.refusals.remove(node);
                        return Some(outcome);
                    }
                }
            }
        };
        self.refused(node, &why);
        None
    }

    fn refused(&mut self, node: &NodeId, why: &str) {
        self.refusals.insert(node.clone(), why.to_owned());
    }

    /// The attempt without a quorum: each replica that is not among the `count`, and why.
    fn failed(&self, what: &str, count: usize, quorum: usize) -> Attempt {
        let now = self.router.runtime.clock().now();
        let silent = self.silent.iter().map(|(node, asked)| {
            format!("{node}: no answer within {} ms", (now - *asked).as_millis())
        });
        let left = self.places.as_slice().iter().map(|(_, node)| format!("{node}: not asked"));
        let uncounted = self.known.entry.slots.iter().filter(|slot| slot.counting().is_none());
        let uncounted = uncounted.map(|slot| match (&slot.holder, slot.target()) {
            (Some(gone), Some(to)) if gone.node != *to => {
                format!("{}: it is being replaced by {to}", gone.node)
            }
            (_, Some(to)) => format!("{to}: {}", NotReady::NotWhole),
            (_, None) => "a replica has no node yet".to_owned(),
        });
        let refusals = self.refusals.iter().filter(|(node, _)| !self.silent.contains_key(*node));
        let refusals = refusals.map(|(node, why)| format!("{node}: {why}"));
        let reasons = refusals.chain(silent).chain(left).chain(uncounted);
        let shard = self.shard;
        let mut why =
            format!("the {what} of shard {shard} has no quorum: {count} of {quorum} replicas");
        for reason in reasons {
            why += "; ";
            why.extend(reason.chars().take(MAX_REASON));
        }
        let error = match self.is_too_large {
            true => Error::new(Kind::TooLarge, why),
            false => Error::new(Kind::NotReady, why).retryable(),
        };
        let maybe_applied = count > 0 || self.maybe_executed || !self.silent.is_empty();
        Attempt { error: error.with_maybe_applied(maybe_applied), is_stale: self.is_stale }
    }
}
