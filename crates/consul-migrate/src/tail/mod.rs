//! The changes since the snapshot. Each transaction moves the record's position with the changes up to it,
//! so that each event is applied exactly once, in the order of etcd.

mod lag;

use crate::etcd::{Changes, Event, EventKind, Pages, Range, Refused, Watch, by_form};
use crate::job::Record;
use crate::job::source;
use crate::mapping::shown::shown;
use crate::mapping::{Choice, Form, Op, Place, Problem, counterpart, form_of};
use crate::silence::{AFTER, EVERY};
use crate::snapshot::load::{Rounds, TOO_LARGE, load_in, refused, restart};
use crate::snapshot::survey::Kept;
use crate::tail::lag::Lag;
use crate::target::{Stored, Target};
use crate::{Run, Stop};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::clock::Instant;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use std::collections::{HashSet, VecDeque};
use std::pin::pin;
use std::time::Duration;
use twox_hash::XxHash3_64;

/// The events that wait to be applied; more stay at etcd.
const MAX_WAITING: usize = 10_000;
const MAX_WAITING_BYTES: usize = 16 << 20;

/// So often the watch's server is asked how far etcd is, and whether it is cut off from the others; without an event, or
/// sooner if no request is to be repeated for so long. A stuck server is left some 5 s later, see `etcd::FIRST_TIMEOUT`.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const PAUSE: Duration = Duration::from_millis(200);

/// A watch that has told nothing for so long although etcd goes on may be stuck: it is looked whether keys have changed. Of a
/// tail that waits for a change this is sooner.
const QUIET: Duration = Duration::from_secs(60);
const QUIET_AT_END: Duration = Duration::from_secs(5);

/// A look that took long is not repeated before this many times as long.
const SELDOM: u32 = 50;

/// How many watches in a row may have a line that is not etcd's.
const MAX_STRANGE: usize = 3;

/// When a tail ends.
#[derive(Clone, Debug)]
pub enum Until {
    /// When its future is dropped.
    Dropped,
    /// After the deletion of this key, which existed when the tail began.
    Deleted(Bytes),
}

/// Follows etcd; returns how many of its changes have set keys. With revisions that are compacted it copies a new
/// snapshot.
///
/// # Errors
/// See [`Stop`].
pub async fn tail(run: &Run<'_>, until: &Until) -> Result<u64, Stop> {
    let snapshot = run.job.record().snapshot;
    let mut rounds = Rounds::new(!matches!(until, Until::Dropped));
    loop {
        load_in(run, Kept::default(), &mut rounds).await?;
        let copied = run.job.record().revision;
        let followed = async {
            if let Until::Deleted(key) = until
                && run.job.record().snapshot != snapshot
                && run.etcd.get(key, run.job.record().snapshot).await?.is_none()
            {
                // The new snapshot has the deletion.
                return Ok(Some(0));
            }
            // It is large, and a cut-over has several.
            let mut tail = Tail::new(run, until).await?;
            Box::pin(tail.follow()).await
        };
        let followed = followed.await;
        if run.job.record().revision > copied {
            rounds.forget();
        }
        match followed {
            Err(Stop::Compacted) => rounds.restart(run).await?,
            Ok(None) => restart(run, TOO_LARGE).await?,
            Ok(Some(sets)) => return Ok(sets),
            Err(stop) => return Err(stop),
        }
    }
}

/// An event that waits, with the position after it.
struct Waiting {
    /// The key, if the event has set one.
    set: Option<Bytes>,
    ops: Vec<Op>,
    revision: u64,
    offset: u64,
}

/// The messages of a watch that have come while a transaction was under way. Without them the next one would have a single
/// change: what else there is comes from the connection only while it is asked for.
#[derive(Default)]
struct Arrived {
    told: VecDeque<Result<Changes, Refused>>,
    bytes: usize,
}

impl Arrived {
    /// Does the work, and takes what the watch tells meanwhile.
    async fn beside<R>(&mut self, watch: &mut Watch<'_>, work: impl Future<Output = R>) -> R {
        let mut work = pin!(work);
        while self.bytes < MAX_WAITING_BYTES && !matches!(self.told.back(), Some(Err(_))) {
            match select(work.as_mut(), pin!(watch.next())).await {
                Either::Left((done, _)) => return done,
                Either::Right((told, _)) => {
                    self.bytes += size_of(&told);
                    self.told.push_back(told);
                }
            }
        }
        work.await
    }

    fn take(&mut self) -> Option<Result<Changes, Refused>> {
        let told = self.told.pop_front()?;
        self.bytes -= size_of(&told);
        Some(told)
    }
}

/// About how much memory a message takes.
fn size_of(told: &Result<Changes, Refused>) -> usize {
    let event = |event: &Event| event.kv.key.0.len() + event.kv.value.0.len() + 500;
    told.as_ref().map_or(0, |changes| 500 + changes.events.iter().map(event).sum::<usize>())
}

/// Why a watch is followed no longer.
enum Ended {
    Done,
    /// Another server is to be asked.
    Silent,
    /// Its connection has ended, or it did not begin.
    Broken(Error),
    /// The next message is too large.
    TooLarge,
}

/// Since when no watch has lasted, and when that was reported.
struct Broken {
    since: Instant,
    said: Option<Instant>,
}

/// The keys of the rarer form, with which others may collide: hashes of them, as of the present event.
struct Rare {
    /// `None` if no key has to be looked at: collisions are not refused, or all keys have one form.
    form: Option<Form>,
    keys: HashSet<u64>,
}

impl Rare {
    async fn read(run: &Run<'_>, record: &Record) -> Result<Self, Stop> {
        let mapping = &record.mapping;
        let is_needed =
            mapping.etcd_prefix.is_empty() && mapping.choice(Problem::Collision) == Choice::Refuse;
        let (slashed, bare) = by_form(&mapping.etcd_prefix);
        let (form, ranges) = match mapping.form {
            _ if !is_needed => (None, Vec::new()),
            Some(Form::Bare) => (Some(Form::Slashed), slashed),
            _ => (Some(Form::Bare), bare),
        };
        let mut keys = HashSet::new();
        for range in ranges {
            let mut pages = Pages::new(run.etcd, range, record.revision - 1, run.pace.page);
            while let Some(page) = pages.next().await? {
                keys.extend(page.kvs.iter().map(|kv| hash(&kv.key.0)));
            }
        }
        Ok(Rare { form, keys })
    }

    /// Notes the event; returns whether its key may now exist in both forms.
    fn may_collide(&mut self, event: &Event) -> bool {
        let key = &event.kv.key.0;
        match (self.form, event.kind) {
            (None, _) => false,
            (Some(form), EventKind::Put) if form_of(key) == form => {
                self.keys.insert(hash(key));
                event.kv.is_new()
            }
            (Some(form), EventKind::Delete) if form_of(key) == form => {
                self.keys.remove(&hash(key));
                false
            }
            (Some(_), EventKind::Put) => {
                !self.keys.is_empty() && self.keys.contains(&hash(&counterpart(key)))
            }
            (Some(_), EventKind::Delete) => false,
        }
    }
}

fn hash(key: &[u8]) -> u64 {
    XxHash3_64::oneshot(key)
}

struct Tail<'r, 'a> {
    run: &'r Run<'a>,
    until: &'r Until,
    range: Range,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// The position after the events that are applied or wait.
    revision: u64,
    offset: u64,
    /// The events of `revision` that the present watch has told.
    told: u64,
    rare: Rare,
    is_last: bool,
    applied: u64,
    /// How many of these have set keys.
    sets: u64,
    /// The watches in a row that were not etcd's.
    strange: usize,
    lag: Lag,
    looked: Instant,
    broken: Option<Broken>,
    /// When the watch has told something last, and when next it is looked whether it is stuck.
    told_at: Instant,
    next_look: Instant,
    /// How many keys there were before a revision.
    count: Option<(u64, u64)>,
    received: u64,
    /// The watches in a row that were stuck: each has twice the time of the one before, since etcd may need it for a large line.
    stuck: u32,
}

impl<'r, 'a> Tail<'r, 'a> {
    async fn new(run: &'r Run<'a>, until: &'r Until) -> Result<Self, Stop> {
        let record = run.job.record();
        let rare = Rare::read(run, &record).await?;
        let now = run.etcd.clock().now();
        Ok(Tail {
            run,
            until,
            range: Range::prefix(&record.mapping.etcd_prefix),
            waiting: VecDeque::new(),
            bytes: 0,
            revision: record.revision,
            offset: record.offset,
            told: 0,
            rare,
            is_last: false,
            applied: 0,
            sets: 0,
            strange: 0,
            lag: Lag::default(),
            looked: now,
            broken: None,
            told_at: now,
            next_look: now,
            count: None,
            received: 0,
            stuck: 0,
        })
    }

    /// Returns how many changes have set keys; `None` if what comes next is too large.
    async fn follow(&mut self) -> Result<Option<u64>, Stop> {
        self.run.report.progress("followed", 0, None);
        loop {
            self.told = 0;
            match Box::pin(self.follow_watch()).await? {
                Ended::Done => return Ok(Some(self.sets)),
                Ended::TooLarge => return Ok(None),
                Ended::Silent => source::check(self.run.etcd, &self.run.job.record()).await?,
                Ended::Broken(why) => {
                    self.say_broken(why)?;
                    self.wait_for_etcd().await?;
                }
            }
        }
    }

    /// The message of a watch, or why it has none: its connection has ended, or another program has answered. Other
    /// requests have been repeated for long.
    fn unbroken<T>(&mut self, told: Result<T, Refused>) -> Result<Result<T, Ended>, Stop> {
        match told {
            Err(Refused::TooLarge) => Ok(Err(Ended::TooLarge)),
            Err(Refused::Failed(error)) if error.is_retryable() => Ok(Err(Ended::Broken(error))),
            // An answer that etcd itself sends would come again.
            Err(Refused::Failed(error))
                if error.kind() == Kind::Decode && self.strange < MAX_STRANGE =>
            {
                self.strange += 1;
                Ok(Err(Ended::Broken(error)))
            }
            told => Ok(Ok(told?)),
        }
    }

    /// Says now and then that no watch lasts, although etcd answers; after its patience that is an error.
    fn say_broken(&mut self, why: Error) -> Result<(), Stop> {
        let etcd = self.run.etcd;
        let now = etcd.clock().now();
        let broken = self.broken.get_or_insert(Broken { since: now, said: None });
        let time = now - broken.since;
        if time >= etcd.patience() {
            return Err(why.into());
        }
        if time >= AFTER && broken.said.is_none_or(|said| now - said >= EVERY) {
            broken.said = Some(now);
            let seconds = time.as_secs();
            let message = why.message();
            self.run
                .report
                .note(&format!("no watch of etcd has lasted for {seconds} s: {message}"));
        }
        Ok(())
    }

    /// The watch has told something, or has lasted.
    fn lasts(&mut self) {
        if self.broken.take().is_some_and(|broken| broken.said.is_some()) {
            self.run.report.note("a watch of etcd lasts again");
        }
    }

    /// Whether the watch has told nothing for long, and keys have changed: then something between lets nothing through.
    async fn is_stuck(&mut self, received: u64) -> Result<bool, Stop> {
        let (etcd, clock) = (self.run.etcd, self.run.etcd.clock());
        let quiet = if matches!(self.until, Until::Dropped) { QUIET } else { QUIET_AT_END };
        let quiet = quiet * (1 << self.stuck.min(5));
        let begun = clock.now();
        if received != self.received {
            (self.received, self.told_at) = (received, begun);
        }
        if begun - self.told_at < quiet || begun < self.next_look {
            return Ok(false);
        }
        // A change of this moment may be on its way.
        let (count, revision) = etcd.count(&self.range, 0).await?;
        source::check_read(&self.run.job.record(), revision)?;
        let has_changed = match revision < self.revision {
            true => {
                self.count = Some((self.revision, count));
                false
            }
            false if self.counted().await? != count => true,
            false => !etcd.set_since(&self.range, self.revision, 1).await?.is_empty(),
        };
        let now = clock.now();
        self.next_look = now + quiet.max((now - begun) * SELDOM);
        self.stuck += u32::from(has_changed);
        Ok(has_changed)
    }

    /// The number of keys before the next revision. While it stays the next one, etcd may compact what was before it.
    async fn counted(&mut self) -> Result<u64, Stop> {
        let count = match self.count {
            Some((at, count)) if at == self.revision => count,
            _ => self.run.etcd.count(&self.range, self.revision - 1).await?.0,
        };
        self.count = Some((self.revision, count));
        Ok(count)
    }

    /// Waits until etcd answers, on another server if there are several. It may have been restored meanwhile.
    async fn wait_for_etcd(&self) -> Result<(), Stop> {
        self.run.etcd.leave_server();
        self.run.etcd.clock().sleep(PAUSE).await;
        source::check(self.run.etcd, &self.run.job.record()).await
    }

    /// Follows one watch until all is done, or it is broken or silent for long.
    async fn follow_watch(&mut self) -> Result<Ended, Stop> {
        let etcd = self.run.etcd;
        // etcd takes a watch from the revision of a compaction, although that has removed its deletions: from the last
        // revision that is applied, it is refused.
        let opened = etcd.watch(&self.range, self.revision.saturating_sub(1).max(1)).await;
        let mut watch = match self.unbroken(opened)? {
            Ok(watch) => watch,
            Err(ended) => return Ok(ended),
        };
        // A restore ends the watches of before.
        let job = &self.run.job;
        source::check_switched(etcd, &job.record(), &job.keys).await?;
        self.told_at = etcd.clock().now();
        let mut arrived = Arrived::default();
        loop {
            let ready = self.take_ready(&mut watch, &mut arrived).await;
            while !self.waiting.is_empty() {
                arrived.beside(&mut watch, self.apply()).await?;
                if self.is_due() {
                    self.look(false).await?;
                }
            }
            let ready = ready?;
            if self.is_last {
                return Ok(Ended::Done);
            }
            self.save_position().await?;
            if let Err(ended) = ready {
                return Ok(ended);
            }
            if !arrived.told.is_empty() {
                continue;
            }
            let silence = etcd.clock().sleep(LOOK_EVERY.min(etcd.patience().max(PAUSE)));
            let is_silent = match select(pin!(watch.next()), silence).await {
                Either::Left((changes, _)) => match self.unbroken(changes)? {
                    Ok(changes) => {
                        self.add(changes).await?;
                        false
                    }
                    Err(ended) => return Ok(ended),
                },
                Either::Right(_) => true,
            };
            if is_silent {
                self.lasts();
            }
            if (is_silent || self.is_due()) && !self.look(is_silent).await? {
                return Ok(Ended::Silent);
            }
            if is_silent && Box::pin(self.is_stuck(watch.received())).await? {
                self.run.report.note(
                    "the watch of etcd has not reported changes that etcd has: something between holds it up; another one is opened",
                );
                etcd.leave_server();
                return Ok(Ended::Silent);
            }
        }
    }

    fn is_due(&self) -> bool {
        self.run.etcd.clock().now() - self.looked >= LOOK_EVERY
    }

    /// Looks how far etcd is, and reports how far behind this is; returns whether the watch's server has answered.
    async fn look(&mut self, is_silent: bool) -> Result<bool, Stop> {
        let etcd = self.run.etcd;
        let (revision, is_here) = etcd.revision_on_this_server(&self.range).await?;
        let record = self.run.job.record();
        // A watch waits for a revision that etcd has not any more.
        source::check_read(&record, revision)?;
        let now = etcd.clock().now();
        self.looked = now;
        self.lag.look(now, revision);
        // The changes that a silent watch has not told are of other keys.
        let applied = if is_silent && is_here { revision } else { record.revision - 1 };
        let (revisions, time) = self.lag.behind(now, applied);
        self.run.report.behind(revisions, time);
        Ok(is_here)
    }

    /// Takes what has arrived already, or returns why the watch has ended.
    async fn take_ready(
        &mut self,
        watch: &mut Watch<'_>,
        arrived: &mut Arrived,
    ) -> Result<Result<(), Ended>, Stop> {
        while self.waiting.len() < MAX_WAITING && self.bytes < MAX_WAITING_BYTES && !self.is_last {
            let changes = arrived.take().or_else(|| watch.next().now_or_never());
            let Some(changes) = changes else { break };
            match self.unbroken(changes)? {
                Ok(changes) => self.add(changes).await?,
                Err(ended) => return Ok(Err(ended)),
            }
        }
        Ok(Ok(()))
    }

    async fn add(&mut self, changes: Changes) -> Result<(), Stop> {
        let Changes { events, is_part, told_up_to } = changes;
        (self.strange, self.stuck) = (0, 0);
        self.told_at = self.run.etcd.clock().now();
        self.lasts();
        if events.is_empty() {
            self.reach(told_up_to);
            return Ok(());
        }
        let last = events.last().map(|event| event.kv.mod_revision.0);
        let puts = events.iter().filter(|event| event.kind == EventKind::Put);
        self.run.job.learn(puts.map(|event| &event.kv.key.0)).await?;
        let record = self.run.job.record();
        self.check(&record, &events).await?;
        self.check_left(&record, &events).await?;
        let mut is_whole = !is_part;
        for event in events {
            if self.is_last {
                // The rest is for the next tail: the position stays before it.
                is_whole = false;
                break;
            }
            let revision = event.kv.mod_revision.0;
            if revision < self.revision {
                continue;
            }
            if revision > self.revision {
                (self.revision, self.offset, self.told) = (revision, 0, 0);
            }
            self.told += 1;
            if self.told <= self.offset {
                continue;
            }
            self.offset = self.told;
            self.push(&record, &event);
        }
        if let (Some(last), true) = (last, is_whole)
            && last == self.revision
        {
            self.reach(last);
        }
        Ok(())
    }

    /// After the cut-over, refuses deletions in an etcd that has lost what the cut-over has left there: all its keys were deleted.
    async fn check_left(&self, record: &Record, events: &[Event]) -> Result<(), Stop> {
        let job = &self.run.job;
        let deletes = events.iter().any(|event| event.kind == EventKind::Delete);
        if record.switched_at.is_none() || !deletes {
            return Ok(());
        }
        let checked = source::check_switched(self.run.etcd, record, &job.keys).await;
        if checked.is_err() {
            // By the way back or the finish of an instance that has taken over.
            job.apply(&[]).await?;
        }
        checked
    }

    /// All events up to this revision are applied or wait.
    fn reach(&mut self, last: u64) {
        if last < self.revision {
            return;
        }
        (self.revision, self.offset, self.told) = (last + 1, 0, 0);
        if let Some(waiting) = self.waiting.back_mut() {
            (waiting.revision, waiting.offset) = (self.revision, 0);
        }
    }

    /// Notes how far etcd is although no key of the job has changed: what it compacts is not needed any more.
    async fn save_position(&self) -> Result<(), Stop> {
        let (record, job) = (self.run.job.record(), &self.run.job);
        if (record.revision, record.offset) >= (self.revision, self.offset) {
            return Ok(());
        }
        job.save(Record { revision: self.revision, offset: self.offset, ..record }, &[]).await
    }

    fn push(&mut self, record: &Record, event: &Event) {
        let ops = record.mapping.ops(event);
        self.bytes += ops.iter().map(Op::bytes).sum::<usize>();
        self.is_last = match self.until {
            Until::Deleted(key) => event.kind == EventKind::Delete && event.kv.key.0 == *key,
            Until::Dropped => false,
        };
        let is_set = event.kind == EventKind::Put
            && !matches!(record.mapping.place(&event.kv), Place::Sentinel);
        let set = is_set.then(|| event.kv.key.0.clone());
        let (revision, offset) = (self.revision, self.offset);
        self.waiting.push_back(Waiting { set, ops, revision, offset });
    }

    /// Refuses what the mapping refuses; nothing of these events is applied yet.
    async fn check(&mut self, record: &Record, events: &[Event]) -> Result<(), Stop> {
        if record.switched_at.is_some() {
            return Ok(());
        }
        for event in events {
            let is_past = event.kv.mod_revision.0 < self.revision;
            let collides = !is_past && self.rare.may_collide(event);
            if is_past || event.kind == EventKind::Delete {
                continue;
            }
            match record.mapping.place(&event.kv) {
                Place::Nowhere(problem) if record.mapping.choice(problem) == Choice::Refuse => {
                    return Err(refused(problem, &event.kv));
                }
                Place::Plain(_) if collides => {
                    let other = Range::one(&counterpart(&event.kv.key.0));
                    let revision = event.kv.mod_revision.0;
                    if self.run.etcd.count(&other, revision).await?.0 > 0 {
                        return Err(refused(Problem::Collision, &event.kv));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Applies as many of the waiting events as one transaction takes.
    async fn apply(&mut self) -> Result<(), Stop> {
        let job = &self.run.job;
        let (mut events, mut ops, mut position) = (0, Vec::new(), None);
        let mut room = job.room()?;
        for waiting in &self.waiting {
            if !waiting.ops.iter().all(|op| room.take(op)) {
                break;
            }
            ops.extend(waiting.ops.iter().cloned());
            position = Some((waiting.revision, waiting.offset));
            events += 1;
        }
        if let Some(index) = job.record().switched_at {
            return self.apply_switched(index).await;
        }
        let Some((revision, offset)) = position else { return self.apply_large().await };
        if job.try_save(Record { revision, offset, ..job.record() }, &ops).await? {
            self.applied(events);
        }
        Ok(())
    }

    /// After the cut-over: of a deletion, keys of Consul are deleted that are as the job wrote them; of a write, nothing
    /// is applied.
    async fn apply_switched(&mut self, index: u64) -> Result<(), Stop> {
        let Some(first) = self.waiting.front() else { return Ok(()) };
        let job = &self.run.job;
        let ops = match &first.set {
            Some(key) => {
                self.run.report.note(&format!(
                    "a program has set {} in etcd after the cut-over; Consul is not changed",
                    shown(key)
                ));
                Vec::new()
            }
            None => deletions(job.target, &first.ops, index, job.record().mapping.mark).await?,
        };
        let fitting = job.room()?.fitting(&ops).max(1).min(ops.len());
        let (now, is_all) = (&ops[..fitting], fitting == ops.len());
        let mut next = job.record();
        if is_all {
            (next.revision, next.offset) = (first.revision, first.offset);
        }
        match job.try_save(next, now).await {
            Ok(false) => Ok(()),
            // A program has changed a key meanwhile: they are looked at again.
            Err(Stop::Failed(error)) if error.kind() == Kind::TxnFailed => Ok(()),
            Ok(true) => {
                self.applied(usize::from(is_all));
                Ok(())
            }
            Err(stop) => Err(stop),
        }
    }

    /// Applies an event that does not fit in one transaction. Its operations set the whole state of its key,
    /// so that they can be repeated until the position is after them.
    async fn apply_large(&mut self) -> Result<(), Stop> {
        let job = &self.run.job;
        let Some(first) = self.waiting.front() else { return Ok(()) };
        job.apply_all(&first.ops).await?;
        let (revision, offset) = (first.revision, first.offset);
        job.next_epoch().await?;
        job.save(Record { revision, offset, ..job.record() }, &[]).await?;
        self.applied(1);
        Ok(())
    }

    fn applied(&mut self, events: usize) {
        for waiting in self.waiting.drain(..events) {
            self.bytes -= waiting.ops.iter().map(Op::bytes).sum::<usize>();
            self.applied += 1;
            let sets = waiting.ops.iter().any(|op| matches!(op, Op::Set { .. }));
            self.sets += u64::from(sets);
        }
        self.run.report.progress("followed", self.applied, None);
    }
}

/// The deletions of keys that nothing has written since this index of Consul. A Consul whose keys were taken to another one
/// counts from the beginning again: there the mark tells what the job has written.
async fn deletions(target: &Target, ops: &[Op], index: u64, mark: u64) -> Result<Vec<Op>, Stop> {
    let mut keys = Vec::new();
    for op in ops {
        match op {
            Op::Delete { key } => keys.push(key.clone()),
            Op::DeleteTree { prefix } => keys.extend(target.keys(prefix, None).await?),
            Op::Set { .. } | Op::DeleteAt { .. } => {}
        }
    }
    let names: Vec<&str> = keys.iter().map(String::as_str).collect();
    let found = target.entries(&names).await?;
    let deletion = |(key, stored): (String, Option<Stored>)| {
        let is_own = |stored: &Stored| stored.index <= index && (mark == 0 || stored.flags == mark);
        let index = stored.filter(is_own)?.index;
        Some(Op::DeleteAt { key, index })
    };
    Ok(keys.into_iter().zip(found).filter_map(deletion).collect())
}
