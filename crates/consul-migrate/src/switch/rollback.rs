//! The way back: etcd gets the state that Consul has now, but for what programs have set in etcd since the cut-over, and
//! for what they delete there during the way back.
//!
//! Each transaction changes keys only as they were looked at, and sets a *mark* with them, a sentinel that it has begun before.
//! So the revisions of the marks belong to the way back itself, also of a run before it that was killed; a later revision of
//! any other key is a program's. A transaction that is repeated, or comes late, does not find the mark as it was begun.
//!
//! It ends, whatever programs do in etcd: the first round changes all that differs, and a difference in the next round
//! is a program's doing, which stays. Only programs that write to Consul make further rounds necessary.

use crate::etcd::{BEGUN, Change, Etcd, KeyValue, Pages, Range, Refused};
use crate::job::source::restored;
use crate::job::{Keys, Phase, Record};
use crate::mapping::shown::shown;
use crate::mapping::{Choice, Form, Mapping, Place, Problem, part_of};
use crate::snapshot::nothing::has_none;
use crate::switch::cutover::{LAST_LOOK, keys_below, lift, refuse_alarms, write};
use crate::target::{Stored, Target};
use crate::verify::{self, Difference};
use crate::{Run, Stop};
use bytes::{Bytes, BytesMut};
use consul_api::error::{Error, Kind};
use futures_util::future::select;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The changes that are made together.
const AT_ONCE: usize = 64;

/// The requests at once.
const IN_FLIGHT: usize = 8;

/// The keys that are named.
const NAMED: usize = 1000;

/// The same in an error.
const NAMED_IN_TEXT: usize = 10;

/// Why keys stay as they are.
const HELD: &str = "a session holds it in Consul";
const LEASED: &str = "it has a lease in etcd, and the same value";
const LEASED_DIFFERENT: &str = "it has a lease in etcd, and another value in Consul";

/// While Consul changes, or etcd is compacted, further rounds are necessary.
const ROUNDS: usize = 5;

/// How often a key is looked at again that a program changes at the same moment.
const TRIES: usize = 3;

/// The changes in etcd, made or planned.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RolledBack {
    /// The number of keys of etcd that get the value of Consul.
    pub set: u64,
    /// The number of keys of etcd that are deleted because Consul does not have them.
    pub deleted: u64,
    /// The number of keys that stay as they are: a session holds the key in Consul, or etcd's key has a lease.
    pub left: u64,
    /// How many of them have a lease in etcd, and another value in Consul.
    pub left_different: u64,
    /// The first of them, those that differ before the others.
    pub left_keys: Vec<LeftKey>,
    /// The first keys that are changed, as text.
    pub keys: Vec<String>,
    /// The first keys that etcd had with another value, or that Consul does not have.
    pub overwritten: Vec<String>,
    /// The rights that roles of etcd lack although the cut-over has taken them, because somebody else has changed them: how to give
    /// each back.
    pub not_given_back: Vec<String>,
    /// The keys of Consul that no key of etcd has as its place.
    pub without_source: Vec<String>,
    /// The keys that programs have set in etcd since the cut-over, or deleted during the way back, and that are otherwise in
    /// Consul: they stay.
    pub changed: Vec<String>,
}

/// A key that stays as it is on both sides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LeftKey {
    /// Whether no session holds it, and its values differ: it is not a lock of Consul, and what programs have written there
    /// is not in etcd.
    #[serde(skip)]
    is_alike: bool,
    /// The key of etcd, as text.
    pub key: String,
    /// Why it stays.
    pub why: &'static str,
}

impl fmt::Display for LeftKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.why)
    }
}

/// The treatment of a difference.
enum Way {
    /// etcd is as Consul already.
    Nothing,
    /// The same, by what a program has set since the cut-over.
    SetAlike,
    Change(Change),
    Left(&'static str),
    WithoutSource(String),
    /// A program has set the key since the cut-over, or has deleted it since the round before.
    Changed,
}

/// The outcome of changes that belong together.
enum Outcome {
    Made,
    /// A program has changed one of their keys meanwhile.
    Overtaken,
    /// etcd takes no transaction with as many of them, for this reason.
    Oversized(Error),
}

/// The changes that a way back may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayChange {
    /// Nothing: it tells what it would change.
    Nothing,
    /// All but what programs have set in etcd since the cut-over. Of an etcd that was restored from a snapshot since that is
    /// not known: there it changes nothing if it would overwrite or delete a key, nor does it if Consul has no keys any more.
    NoNewKeys,
    /// The same, and all of an etcd that was restored, or whose Consul was emptied.
    Restored,
}

/// Makes etcd as Consul, or tells what that would change.
///
/// # Errors
/// See [`Stop`].
pub async fn roll_back(run: &Run<'_>, may_change: MayChange) -> Result<RolledBack, Stop> {
    let record = run.job.record();
    may_roll_back(&record)?;
    // A version that did not note the revision has set none either that can be told.
    let switched = record.switched_revision.unwrap_or(u64::MAX);
    let (why, known) = match restored(run.etcd, &record, &run.job.keys).await? {
        Some(why) => {
            let why = format!("{why}, and does not tell which of its keys programs have set since");
            // Programs have set what comes after this look.
            let now = run.etcd.revision(&Range::prefix(&record.mapping.etcd_prefix).start).await?;
            (Some(why), now)
        }
        None if has_none(run.job.target, &record.mapping).await? => {
            let why =
                "Consul has no key of the job any more, and what etcd has may be the last copy"
                    .to_owned();
            (Some(why), switched)
        }
        None => (None, switched),
    };
    if may_change == MayChange::NoNewKeys
        && let Some(why) = why
    {
        let would = make_as_consul(run, &record, known, true).await?;
        refuse_to_overwrite(&why, &would)?;
    }
    make_as_consul(run, &record, known, may_change == MayChange::Nothing).await
}

/// Refuses the way back of a job that is not cut over.
///
/// # Errors
/// See [`Stop`].
pub fn may_roll_back(record: &Record) -> Result<(), Stop> {
    record.refuse_finishing()?;
    match record.phase {
        Phase::Switched => Ok(()),
        _ => Err(Stop::Refused(
            "the job is not cut over: etcd has what programs have written, and there is no way back to go"
                .to_owned(),
        )),
    }
}

/// Refuses to overwrite or delete keys of etcd where that may lose them, for this reason. Keys that it lacks may be set.
fn refuse_to_overwrite(why: &str, would: &RolledBack) -> Result<(), Stop> {
    if would.overwritten.is_empty() {
        return Ok(());
    }
    let first: Vec<&str> =
        would.overwritten.iter().take(NAMED_IN_TEXT).map(String::as_str).collect();
    Err(Stop::Refused(format!(
        "{why}. A rollback would overwrite or delete keys of etcd, such as {}. Nothing was changed: --dry-run names them; set in Consul what is to stay, and run rollback with --overwrite",
        first.join(", ")
    )))
}

/// `known`: the revision after which each other write is a program's.
async fn make_as_consul(
    run: &Run<'_>,
    record: &Record,
    known: u64,
    is_dry: bool,
) -> Result<RolledBack, Stop> {
    let marks = marks(&record.mapping, &run.job.keys);
    if !is_dry {
        check_names(run).await?;
        lift_own(run).await?;
        end_begun(run, &marks).await?;
    }
    let mapping = &record.mapping;
    let mut back = WayBack {
        run,
        mapping,
        is_dry,
        known_up_to: known,
        marks,
        own: HashSet::new(),
        known: HashSet::new(),
        before: None,
        most: AT_ONCE,
        oversized: BTreeMap::new(),
        is_equal: true,
        done: RolledBack::default(),
        work: Arc::default(),
    };
    for _ in 0..ROUNDS {
        let revision = match back.round().await {
            Err(Stop::Compacted) => continue,
            round => round?,
        };
        if !is_dry && !back.is_equal {
            back.before = Some(revision);
            continue;
        }
        let WayBack { marks, mut done, oversized, .. } = back;
        if !oversized.is_empty() {
            return Err(Stop::Refused(named_oversized(&oversized)));
        }
        if !is_dry {
            let mut own = keys_below(run, &marks).await?;
            own.extend(keys_below(run, &run.job.keys.left_by_cutovers(mapping)).await?);
            end(run, if done.changed.is_empty() { revision } else { known }).await?;
            done.not_given_back = not_given_back(run).await?;
            // The next cut-over deletes those that are left. From now on another instance may have put its own.
            let deleted = pin!(run.etcd.delete_unchanged(&own));
            let _ = select(deleted, run.etcd.clock().sleep(LAST_LOOK)).await;
        }
        return Ok(done);
    }
    Err(Stop::Refused(format!(
        "programs change Consul all the time, or etcd is compacted each time before both sides are compared: stop those that \
         write to Consul, and run rollback again. Until then the job is cut over, Consul is the truth, and etcd, which takes \
         writes, is as Consul was {ROUNDS} times"
    )))
}

/// Refuses names of Consul that end a comparison, before anything is changed for it.
pub(crate) async fn check_names(run: &Run<'_>) -> Result<(), Stop> {
    let (target, mapping) = (run.job.target, run.job.record().mapping);
    let (plain, encoded) = (mapping.plain_prefix(), mapping.encoded_prefix());
    target.keys(&plain, None).await?;
    if !encoded.starts_with(&plain) {
        target.keys(&encoded, None).await?;
    }
    Ok(())
}

/// Deletes the marks whose changes an instance before has not made: its requests that come late change nothing any more.
async fn end_begun(run: &Run<'_>, marks: &[u8]) -> Result<(), Stop> {
    let mut pages = Pages::new(run.etcd, Range::prefix(marks), 0, run.pace.page);
    let mut begun = Vec::new();
    while let Some(page) = pages.next().await? {
        begun.extend(page.kvs.into_iter().filter(|mark| mark.value.0 == BEGUN));
    }
    for mark in begun {
        run.etcd.delete(&Range::one(&mark.key.0)).await?;
    }
    Ok(())
}

/// Lifts what the cut-over has left, also if another alarm is on, so that another job whose way back waits for it can go on.
async fn lift_own(run: &Run<'_>) -> Result<(), Stop> {
    // An instance that was replaced lifts nothing any more on which another relies.
    run.job.next_epoch().await?;
    lift(run.etcd, &run.job).await?;
    refuse_alarms(run).await.map_err(|stop| match stop {
        Stop::Refused(why) => Stop::Refused(format!(
            "this job stops no writer of etcd any more, and can go back when the other alarm is off: {why}"
        )),
        stop => stop,
    })
}

/// The rights that a cut-over has taken, and that roles lack still. Of one before the last the user may not be allowed to ask.
async fn not_given_back(run: &Run<'_>) -> Result<Vec<String>, Stop> {
    match run.etcd.not_given_back(&run.job.record().given_back()).await {
        Err(Refused::Failed(error)) if error.kind() == Kind::PermissionDenied => Ok(Vec::new()),
        missing => Ok(missing?.into_iter().map(ToString::to_string).collect()),
    }
}

/// The prefix of the marks of a way back.
pub(crate) fn marks(mapping: &Mapping, keys: &Keys) -> Vec<u8> {
    [&keys.sentinels(mapping)[..], b"rollback/"].concat()
}

/// Whether a way back of a job has changed etcd, and has not come to its end.
///
/// # Errors
/// See [`Stop`].
pub async fn rollback_has_begun(etcd: &Etcd, record: &Record, keys: &Keys) -> Result<bool, Stop> {
    Ok(etcd.first(&Range::prefix(&marks(&record.mapping, keys))).await?.is_some())
}

/// The keys that etcd does not take, and what helps. Without them the job cannot go on with etcd: Consul would lose them.
fn named_oversized(keys: &BTreeMap<Bytes, Error>) -> String {
    let first: Vec<String> = keys.keys().take(NAMED_IN_TEXT).map(|key| shown(key)).collect();
    let more = match keys.len() - first.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let why = keys.values().next().map_or("", |error| error.message());
    let limit = match why {
        _ if why.contains("too many operations") => "start etcd with --max-txn-ops of 2 at least",
        _ if why.contains("request is too large") => {
            "set these by `etcdctl put`, whose requests are smaller, or start etcd with a larger --max-request-bytes"
        }
        _ => {
            "raise the limit of what is before etcd, such as client_max_body_size of nginx, or go around it"
        }
    };
    format!(
        "etcd takes no transaction as large as that of one key ({}{more}): {why}. All other keys are set; {limit}, and run rollback \
         again. Until then the job is cut over, Consul is the truth, and etcd takes writes",
        first.join(", ")
    )
}

/// The job goes on with the changes after this revision.
async fn end(run: &Run<'_>, revision: u64) -> Result<(), Stop> {
    let back = Record {
        phase: Phase::Tail,
        revision: revision + 1,
        offset: 0,
        switched_at: None,
        switched_revision: None,
        left: None,
        tally: None,
        ..run.job.record()
    };
    run.job.save(back, &[]).await
}

struct WayBack<'r, 'a> {
    run: &'r Run<'a>,
    mapping: &'r Mapping,
    is_dry: bool,
    /// The revision of the cut-over, or of a look since: a later write that is not the way back's own is a program's.
    known_up_to: u64,
    /// The prefix of the marks.
    marks: Vec<u8>,
    /// The revisions of the way back itself.
    own: HashSet<u64>,
    /// The keys that this run has set, or found set or deleted by programs: what becomes of them in etcd is a program's doing.
    known: HashSet<Bytes>,
    /// The revision that the round before has compared.
    before: Option<u64>,
    /// How many changes etcd takes in one transaction, as far as it has refused more.
    most: usize,
    /// The keys whose change alone is too large for etcd.
    oversized: BTreeMap<Bytes, Error>,
    /// Whether the present round has found nothing to change.
    is_equal: bool,
    done: RolledBack,
    work: Arc<Work>,
}

/// The keys that the present round has compared, and those that are changed.
#[derive(Default)]
struct Work {
    compared: AtomicU64,
    changed: AtomicU64,
}

impl Work {
    /// Of how many is not known: etcd's number has none of the keys that only Consul has.
    fn report(&self, run: &Run<'_>) {
        let done = self.compared.load(Relaxed) + self.changed.load(Relaxed);
        run.report.progress("compared or changed", done, None);
    }
}

impl WayBack<'_, '_> {
    /// Compares both sides and changes what differs; returns the revision that it has compared.
    async fn round(&mut self) -> Result<u64, Stop> {
        let WayBack { run, mapping, .. } = *self;
        self.is_equal = true;
        let done = &mut self.done;
        (done.left, done.left_different, done.left_keys) = (0, 0, vec![]);
        (done.without_source, done.changed) = (vec![], vec![]);
        let (_, revision) = run.etcd.count(&Range::prefix(&mapping.etcd_prefix), 0).await?;
        let mut pages = Pages::new(run.etcd, Range::prefix(&self.marks), revision, run.pace.page);
        while let Some(page) = pages.next().await? {
            self.own.extend(page.kvs.iter().map(|mark| mark.mod_revision.0));
        }
        let work = Arc::clone(&self.work);
        work.compared.store(0, Relaxed);
        let mut waiting = Vec::new();
        let found = async |difference| {
            waiting.push(difference);
            match waiting.len() < AT_ONCE {
                true => Ok(()),
                false => self.apply(std::mem::take(&mut waiting)).await,
            }
        };
        let progress = |keys| {
            work.compared.store(keys, Relaxed);
            work.report(run);
        };
        let (etcd, target, pace) = (run.etcd, run.job.target, run.pace);
        verify::compare(etcd, target, mapping, revision, pace, found, progress).await?;
        self.apply(waiting).await?;
        Ok(revision)
    }

    async fn apply(&mut self, differences: Vec<Difference>) -> Result<(), Stop> {
        let WayBack { run, mapping, .. } = *self;
        let found = differences.iter().map(|it| source(run.etcd, mapping, &it.key));
        let found: Vec<_> = stream::iter(found).buffered(IN_FLIGHT).try_collect().await?;
        let mut sources = BTreeSet::new();
        for (difference, source) in differences.into_iter().zip(found) {
            match source {
                Some(source) => _ = sources.insert(source),
                None => self.done.without_source.push(difference.key),
            }
        }
        let ways = sources.iter().map(|key| self.way(key));
        let ways: Vec<Way> = stream::iter(ways).buffered(IN_FLIGHT).try_collect().await?;
        let mut changes = Vec::new();
        for (key, way) in sources.iter().zip(ways) {
            changes.extend(self.note(key, way));
        }
        let mut rest = &changes[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(Change::fitting(rest).min(self.most));
            match self.make(now).await? {
                Outcome::Oversized(_) if now.len() > 1 => {
                    self.most = now.len() / 2;
                    continue;
                }
                Outcome::Oversized(why) => _ = self.oversized.insert(now[0].key.clone(), why),
                Outcome::Made => {}
                Outcome::Overtaken => {
                    for change in now {
                        self.make_alone(&change.key).await?;
                    }
                }
            }
            rest = later;
        }
        Ok(())
    }

    /// Counts what becomes of a key; returns the change that is to be made.
    fn note(&mut self, key: &Bytes, way: Way) -> Option<Change> {
        match way {
            Way::Nothing => {}
            Way::SetAlike => _ = self.known.insert(key.clone()),
            Way::Left(why) => self.done.leave(key, why),
            Way::WithoutSource(key) => self.done.without_source.push(key),
            Way::Changed => {
                self.done.changed.push(shown(key));
                self.known.insert(key.clone());
            }
            Way::Change(change) if self.oversized.contains_key(key) => drop(change),
            Way::Change(change) => return Some(change),
        }
        None
    }

    /// Makes changes and counts those that were made.
    async fn make(&mut self, changes: &[Change]) -> Result<Outcome, Stop> {
        self.is_equal = false;
        let outcome = if self.is_dry { Outcome::Made } else { self.change(changes).await? };
        if let Outcome::Made = outcome {
            self.work.changed.fetch_add(changes.len() as u64, Relaxed);
            self.work.report(self.run);
            for change in changes {
                self.done.count(change);
                match change.value {
                    Some(_) => self.known.insert(change.key.clone()),
                    None => self.known.remove(&change.key),
                };
            }
        }
        Ok(outcome)
    }

    /// Changes a key however fast a program changes it: after some looks it is as that program has it.
    async fn make_alone(&mut self, key: &Bytes) -> Result<(), Stop> {
        for _ in 0..TRIES {
            let way = self.way(key).await?;
            let Some(change) = self.note(key, way) else { return Ok(()) };
            match self.make(std::slice::from_ref(&change)).await? {
                Outcome::Overtaken => {}
                Outcome::Made => return Ok(()),
                Outcome::Oversized(why) => {
                    self.oversized.insert(key.clone(), why);
                    return Ok(());
                }
            }
        }
        self.note(key, Way::Changed);
        Ok(())
    }

    async fn change(&mut self, changes: &[Change]) -> Result<Outcome, Stop> {
        let name = format!("{:016x}", fastrand::u64(..));
        let mark = Bytes::from([&self.marks[..], name.as_bytes()].concat());
        let etcd = self.run.etcd;
        let revision =
            async || Ok::<_, Stop>(etcd.get(&mark, 0).await?.map(|it| it.mod_revision.0));
        let begun = match write(self.run, async || etcd.begin(&mark).await).await? {
            None => revision().await?.unwrap_or(u64::MAX >> 1),
            Some(begun) => begun,
        };
        // An instance that replaces this one deletes the mark.
        self.run.job.apply(&[]).await?;
        let attempt = async || match etcd.change(changes, &mark, begun).await {
            Err(Refused::Oversized(why)) => Ok(Err(why)),
            answered => answered.map(Ok),
        };
        let outcome = match write(self.run, attempt).await? {
            Err(why) => Outcome::Oversized(why),
            Ok(Some(made)) => {
                self.own.insert(made);
                return Ok(Outcome::Made);
            }
            Ok(None) => match revision().await? {
                Some(made) if made != begun => {
                    self.own.insert(made);
                    return Ok(Outcome::Made);
                }
                _ => Outcome::Overtaken,
            },
        };
        // An attempt that comes late finds no mark.
        etcd.delete(&Range::one(&mark)).await?;
        Ok(outcome)
    }

    /// The change that makes a key of etcd equal to Consul's.
    async fn way(&self, key: &Bytes) -> Result<Way, Stop> {
        let (target, mapping) = (self.run.job.target, self.mapping);
        let before = self.run.etcd.get(key, 0).await?;
        let is_leased = before.as_ref().is_some_and(|kv| kv.lease.0 != 0);
        let value = match value_in_consul(target, mapping, key).await? {
            Ok(Some(found)) if found.is_held => return Ok(Way::Left(HELD)),
            Ok(found) => found.map(|found| found.value),
            Err(part) => return Ok(Way::WithoutSource(part)),
        };
        if is_leased && mapping.choice(Problem::Leased) != Choice::Encode {
            let is_alike = before.map(|kv| kv.value.0) == value;
            return Ok(Way::Left(if is_alike { LEASED } else { LEASED_DIFFERENT }));
        }
        let from = before.as_ref().map_or(0, |kv| kv.mod_revision.0);
        let is_set = from > self.known_up_to && !self.own.contains(&from);
        if before.map(|kv| kv.value.0) == value {
            return Ok(if is_set { Way::SetAlike } else { Way::Nothing });
        }
        let is_changed = is_set || (from == 0 && self.was_there(key).await?);
        Ok(match is_changed {
            true => Way::Changed,
            false => Way::Change(Change { key: key.clone(), value, from }),
        })
    }

    /// Whether etcd had a key after the round before, so that a program has deleted it since.
    async fn was_there(&self, key: &Bytes) -> Result<bool, Stop> {
        let Some(before) = self.before else { return Ok(false) };
        if self.known.contains(key) {
            return Ok(true);
        }
        match self.run.etcd.get(key, before).await {
            Ok(found) => Ok(found.is_some()),
            // It is not known: Consul has it, and is what counts.
            Err(Refused::Compacted) => Ok(false),
            Err(refused) => Err(refused.into()),
        }
    }
}

impl RolledBack {
    fn leave(&mut self, key: &Bytes, why: &'static str) {
        let is_alike = why != LEASED_DIFFERENT;
        self.left += 1;
        self.left_different += u64::from(!is_alike);
        let left = LeftKey { is_alike, key: shown(key), why };
        let place = self.left_keys.partition_point(|other| *other < left);
        self.left_keys.insert(place, left);
        self.left_keys.truncate(NAMED);
    }

    fn count(&mut self, change: &Change) {
        match change.value {
            Some(_) => self.set += 1,
            None => self.deleted += 1,
        }
        if self.keys.len() < NAMED {
            self.keys.push(shown(&change.key));
        }
        if change.from != 0 && self.overwritten.len() < NAMED {
            self.overwritten.push(shown(&change.key));
        }
    }
}

/// The key of etcd for a key of Consul: the key that etcd has, or the key of the form that most keys have.
async fn source(etcd: &Etcd, mapping: &Mapping, key: &str) -> Result<Option<Bytes>, Stop> {
    if let Some(part) = key.strip_prefix(&mapping.encoded_prefix()) {
        return Ok(part_of(part).map(|(key, ..)| key.into()));
    }
    let is_place = |source: &Bytes| mapping.place(&empty(source)) == Place::Plain(key.to_owned());
    let mut sources = mapping.sources(key);
    sources.retain(is_place);
    if mapping.form == Some(Form::Bare) {
        sources.reverse();
    }
    for source in &sources {
        if etcd.get(source, 0).await?.is_some() {
            return Ok(Some(source.clone()));
        }
    }
    Ok(sources.into_iter().next())
}

/// An entry of this key, whose place depends on the key alone.
fn empty(key: &Bytes) -> KeyValue {
    let mut kv = KeyValue::default();
    kv.key.0 = key.clone();
    kv
}

/// A value that is stored in parts.
pub(crate) struct Joined {
    pub value: Bytes,
    /// The flags of all parts; 0 if they differ.
    pub flags: u64,
}

/// A value of Consul in the place of a key of etcd.
pub(crate) struct InConsul {
    pub value: Bytes,
    /// Whether a session holds the key.
    pub is_held: bool,
}

/// The value of Consul in the place of a key of etcd; an error with a part of it if others are missing.
pub(crate) async fn value_in_consul(
    target: &Target,
    mapping: &Mapping,
    key: &Bytes,
) -> Result<Result<Option<InConsul>, String>, Stop> {
    if let Place::Plain(place) = mapping.place(&empty(key))
        && let Some(Stored { value, is_held, .. }) = target.get(&place).await?
    {
        return Ok(Ok(Some(InConsul { value, is_held })));
    }
    let found = joined(target, &mapping.encoded(key)).await?;
    Ok(found.map(|found| found.map(|it| InConsul { value: it.value, is_held: false })))
}

/// The parts that have this prefix, as they are at one moment, together; `None` without parts, an error with a part if
/// others are missing.
pub(crate) async fn joined(
    target: &Target,
    prefix: &str,
) -> Result<Result<Option<Joined>, String>, Stop> {
    let Parts { found, is_whole } = parts_now(target, prefix).await?;
    Ok(match found.first() {
        None => Ok(None),
        Some((first, _)) if !is_whole => Err(first.clone()),
        Some(_) => Ok(Some(join(&found))),
    })
}

/// The value of these parts.
pub(crate) fn join(parts: &[(String, Stored)]) -> Joined {
    let flags = parts.first().map_or(0, |(_, part)| part.flags);
    let mut value = BytesMut::new();
    parts.iter().for_each(|(_, part)| value.extend_from_slice(&part.value));
    let flags = if parts.iter().all(|(_, part)| part.flags == flags) { flags } else { 0 };
    Joined { value: value.freeze(), flags }
}

/// The parts of a key, in their order.
pub(crate) struct Parts {
    pub found: Vec<(String, Stored)>,
    /// Whether no other part is missing or beside them.
    pub is_whole: bool,
}

/// The parts that have this prefix; other names that begin with it are not its.
pub(crate) async fn parts_now(target: &Target, prefix: &str) -> Result<Parts, Error> {
    let mut names = target.keys(prefix, None).await?;
    let all = prefix.trim_end_matches('/').rfind('/').map_or(0, |at| at + 1);
    names.retain(|name| part_of(&name[all..]).is_some());
    let asked: Vec<&str> = names.iter().map(String::as_str).collect();
    let stored = target.entries(&asked).await?;
    let place = |at: usize| format!("{prefix}{at:04}-{:04}", names.len());
    let is_whole = names.iter().enumerate().all(|(at, name)| *name == place(at))
        && stored.iter().all(Option::is_some);
    let found = names.into_iter().zip(stored).filter_map(|(name, stored)| Some((name, stored?)));
    Ok(Parts { found: found.collect(), is_whole })
}
