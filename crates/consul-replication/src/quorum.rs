//! Writes and reads by quorums.

use super::clock::VersionClock;
use super::map::{Entry, NodeId, Quorums};
use super::message::{Action, NotReady, Outcome, Reply, other_store};
use super::peers::{Entries, Known, Peers, Runtime};
use super::read_times::ReadTimes;
use super::record::{Range, Record, Version};
use super::rules::{Rule, Rules};
use super::storage::Message;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::ordered;
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

/// The most records that a read sends to replicas that lack them.
const MAX_READ_REPAIR: usize = 100;

/// Reads and writes of one process.
#[derive(Clone)]
pub struct Router {
    /// What it knows of the map.
    pub entries: Arc<Entries>,
    /// The way to the nodes.
    pub peers: Arc<dyn Peers>,
    /// Time, and tasks in the background.
    pub runtime: Arc<dyn Runtime>,
    /// What gives writes their versions.
    pub clock: Arc<VersionClock>,
    /// N, W and R.
    pub quorums: Quorums,
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
    /// be stored nevertheless. [`Kind::TooLarge`] if the records do not fit into a request.
    pub async fn write(
        &self,
        shard: u32,
        records: Vec<(Bytes, Option<Bytes>)>,
        deadline: Instant,
    ) -> Result<Version, Error> {
        let version = self.clock.next();
        let record = |(id, data)| Record { id, version, data };
        let mut records: Vec<Record> = records.into_iter().map(record).collect();
        let mut highest = version;
        loop {
            let written = self.write_once(shard, &mut records, deadline).await;
            let overtaken = written.map_err(|why| {
                if version < highest { why.with_maybe_applied(true) } else { why }
            })?;
            let Some(above) = overtaken.values().max().copied() else { return Ok(highest) };
            if !self.rules.has(Rule::RepeatAboveNewer) {
                return Ok(highest);
            }
            // Acknowledged means visible, although the clocks of writers differ.
            self.clock.observe(above.time())?;
            highest = self.clock.next();
            let mut index = 0;
            records.retain_mut(|record| {
                record.version = highest;
                index += 1;
                overtaken.contains_key(&(index - 1))
            });
        }
    }

    /// Writes records with their versions to a quorum; returns those that newer versions have overtaken.
    async fn write_once(
        &self,
        shard: u32,
        records: &mut [Record],
        deadline: Instant,
    ) -> Result<BTreeMap<usize, Version>, Error> {
        let mut across_epochs = BTreeSet::new();
        let mut maybe_applied = false;
        loop {
            if !self.rules.has(Rule::OneVersion) {
                let version = self.clock.next();
                records.iter_mut().for_each(|record| record.version = version);
            }
            match self.try_write(shard, records, deadline, &mut across_epochs).await {
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

    /// A request to the replicas in these places, none of which is asked yet.
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
        across_epochs: &mut BTreeSet<usize>,
    ) -> Result<BTreeMap<usize, Version>, Attempt> {
        let known = self.known(shard)?;
        let places = self.places(&known.entry);
        let mut request = self.request(shard, &known, places, Action::Write(records.to_vec()));
        request.ask(usize::MAX);
        let mut acknowledged = BTreeSet::new();
        if !self.rules.has(Rule::CountWithinOneEpoch) {
            acknowledged.append(across_epochs);
        }
        let mut overtaken = BTreeMap::new();
        while let Some(Answered { slot, node, outcome, .. }) = request.next(deadline).await {
            match outcome {
                Some(Outcome::Stored { overtaken: newer }) => {
                    acknowledged.insert(slot);
                    for (index, version) in newer {
                        let highest: &mut Version = overtaken.entry(index).or_default();
                        *highest = version.max(*highest);
                    }
                }
                Some(_) => request.refused(&node, "its answer is not that of a write"),
                None => {}
            }
            if acknowledged.len() >= self.quorums.write {
                break;
            }
        }
        let (count, quorum) = (acknowledged.len(), self.quorums.write);
        let failed = (count < quorum).then(|| request.failed("write", count, quorum));
        let mut answers = request.answers;
        // The others go on.
        self.runtime.spawn(Box::pin(async move { while answers.next().await.is_some() {} }));
        let Some(failed) = failed else { return Ok(overtaken) };
        across_epochs.append(&mut acknowledged);
        Err(failed)
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
        let (clock, quorum) = (self.runtime.clock(), self.quorums.read);
        let mut places = self.places(&known.entry);
        self.times.begin(&mut places, quorum);
        let action = Action::Read { range: range.clone(), limit };
        let mut request = self.request(shard, &known, places, action);
        request.ask(quorum);
        let (patience, late) = self.times.patience();
        let late_at = clock.now() + late;
        let mut another_at = clock.now() + patience;
        let mut pages: BTreeMap<usize, (NodeId, Vec<Record>, bool)> = BTreeMap::new();
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
        Ok(self.merged(shard, &known, pages.into_values().collect()))
    }

    /// Merges pages up to the smallest of their last ids.
    fn merged(&self, shard: u32, known: &Known, pages: Vec<(NodeId, Vec<Record>, bool)>) -> Page {
        let ends = pages.iter().filter(|(_, _, is_last)| !is_last);
        let ends = ends.filter_map(|(_, records, _)| records.last().map(|it| it.id.clone()));
        let end = ends.min();
        let is_in = |record: &&Record| end.as_ref().is_none_or(|end| record.id <= *end);
        let mut newest: BTreeMap<Bytes, Record> = BTreeMap::new();
        for record in pages.iter().flat_map(|(_, records, _)| records).filter(is_in) {
            match newest.get(&record.id) {
                Some(other) if !record.replaces(other) => {}
                _ => _ = newest.insert(record.id.clone(), record.clone()),
            }
        }
        for (node, records, _) in &pages {
            let has = ordered::map(records.iter().map(|it| (&it.id, it)));
            let lacks =
                |record: &&Record| has.get(&record.id).is_none_or(|own| record.replaces(own));
            let mut message = Message::default();
            let missing: Vec<Record> = newest
                .values()
                .filter(lacks)
                .take_while(|record| message.takes(record.size()))
                .cloned()
                .collect();
            if (1..=MAX_READ_REPAIR).contains(&missing.len()) {
                let request = known.request(shard, Action::Repair(missing));
                let repair = self.peers.ask(node, request);
                // It is made again by the next read or repair.
                self.runtime.spawn(Box::pin(async move { _ = repair.await }));
            }
        }
        let records = newest.into_values().filter(|record| record.data.is_some()).collect();
        Page { records, next: end }
    }
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

/// What a replica has answered.
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
                        self.router.entries.doubt();
                        other_store(id)
                    }
                    Outcome::NotReady(why) => why.to_string(),
                    Outcome::Failed(why) => {
                        self.maybe_executed = true;
                        why
                    }
                    outcome => {
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
