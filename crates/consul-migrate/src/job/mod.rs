//! The job in Consul: what has been done, and which instance may go on.
//!
//! `_migrate/<job>` is the record. `_migrate/<job>/holder` names the instance; its modify index is the
//! *epoch*, which every write of the instance checks, so that an instance which was replaced changes nothing
//! any more. `_migrate/<job>/beat` changes while the instance lives.

mod record;
mod rights;
pub mod source;

pub use record::{Phase, Record, Rights, others, record, refuse_switched};
pub use rights::{also_opened, give_back, give_back_unnoted, note_rights};
pub(crate) use rights::{forgotten, noted};

use crate::Stop;
use crate::mapping::shown::shown;
use crate::mapping::{Choice, JOBS, MAX_OPS, Mapping, Op, Problem};
use crate::target::{Check, Outcome, Room, Target};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::sync::lock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a living instance changes its beat.
const BEAT: Duration = Duration::from_secs(1);

/// For how long another instance looks for a beat before it takes over.
const SILENCE: Duration = Duration::from_secs(4);

/// The largest record that a transaction takes.
const MAX_RECORD: usize = MAX_OPS / 4 * 3;

/// An instance of the program.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Instance {
    /// The random text that tells this instance apart from all others.
    pub id: String,
    /// The name of its machine.
    pub host: String,
    /// The boot ID of its machine; empty if it is not known.
    pub boot: String,
    /// The process ID on that machine.
    pub process: u32,
    /// The verb that it runs.
    pub verb: String,
}

impl Instance {
    /// For messages.
    pub fn shown(&self) -> String {
        format!("process {} on {} ({})", self.process, self.host, self.verb)
    }
}

/// An instance in a later epoch of its own.
#[derive(Serialize)]
struct Holding<'a> {
    #[serde(flatten)]
    instance: &'a Instance,
    after: u64,
}

/// The keys of a job.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The key of the job's [`Record`], `_migrate/<job>`.
    pub record: String,
    /// The key that names the instance which holds the job, `_migrate/<job>/holder`.
    pub holder: String,
    /// The key that changes while that instance lives, `_migrate/<job>/beat`.
    pub beat: String,
}

impl Keys {
    /// The keys of the job with this name.
    pub fn new(job: &str) -> Keys {
        let record = format!("{JOBS}{job}");
        let below = |name: &str| format!("{record}/{name}");
        Keys { holder: below("holder"), beat: below("beat"), record }
    }

    /// The prefix of the job's sentinels in etcd.
    pub(crate) fn sentinels(&self, mapping: &Mapping) -> Vec<u8> {
        [&mapping.sentinels(), self.record.as_bytes(), b"/"].concat()
    }

    /// The prefix of the keys that cut-overs leave in etcd.
    pub(crate) fn left_by_cutovers(&self, mapping: &Mapping) -> Vec<u8> {
        [&self.sentinels(mapping)[..], b"cut-over/"].concat()
    }
}

/// A job that this instance holds.
#[derive(Debug)]
pub struct Job<'a> {
    /// The Consul that has the record of the job and gets the copied keys.
    pub target: &'a Target,
    /// The keys in Consul of the job itself.
    pub keys: Keys,
    me: Instance,
    epoch: Mutex<u64>,
    state: Mutex<State>,
    /// Whether this instance deletes the holder and the record.
    is_ending: AtomicBool,
}

/// This instance's knowledge of the record.
#[derive(Debug)]
struct State {
    record: Record,
    /// That of Consul at which it was last changed.
    index: u64,
    /// The record of a call that has not come to its end: if it was dropped, Consul may have it, or get it yet.
    sent: Option<Record>,
}

impl State {
    fn of(record: Record, index: u64) -> State {
        State { record, index, sent: None }
    }
}

/// A change of the record.
struct Attempt {
    next: Record,
    /// The index of the record that it replaces.
    index: u64,
    /// The record that an earlier call has sent in its place.
    before: Option<Record>,
}

/// Reads which instance holds a job.
///
/// # Errors
/// Consul's.
pub async fn holder(target: &Target, keys: &Keys) -> Result<Option<(Instance, u64)>, Error> {
    let Some(stored) = target.get(&keys.holder).await? else { return Ok(None) };
    let instance = serde_json::from_slice(&stored.value).map_err(|error| {
        Error::new(Kind::Decode, format!("the job's holder in Consul is not one: {error}"))
    })?;
    Ok(Some((instance, stored.index)))
}

/// Writes the holder, as [`Job::hold`] says, and returns the epoch.
async fn take(
    target: &Target,
    keys: &Keys,
    me: &Instance,
    is_dead: &dyn Fn(&Instance) -> bool,
    takes_over: bool,
) -> Result<u64, Stop> {
    let mine = encoded(me)?;
    loop {
        let index = match holder(target, keys).await? {
            Some((instance, index)) if instance == *me => return Ok(index),
            Some((instance, index)) => {
                let may_replace = takes_over || is_dead(&instance);
                if !may_replace {
                    let seconds = SILENCE.as_secs();
                    target.note(&format!(
                        "{} holds the job: it is looked for {seconds} s whether it lives",
                        instance.shown()
                    ));
                }
                if !may_replace && beats(target, keys).await? {
                    return Err(Stop::Held(instance.shown()));
                }
                index
            }
            None => 0,
        };
        let swap = Check::Swap(keys.holder.clone(), index, mine.clone());
        // After a refusal it may have been written by an attempt whose answer was lost.
        if let Outcome::Applied(index) = target.txn_surely(&[swap], &[]).await? {
            return Ok(index);
        }
    }
}

/// Ends the epoch of an instance that does not live; returns the instance that holds the job, if it lives.
///
/// # Errors
/// Consul's.
pub async fn end_abandoned(
    target: &Target,
    keys: &Keys,
    is_dead: &dyn Fn(&Instance) -> bool,
) -> Result<Option<Instance>, Error> {
    while let Some((instance, index)) = holder(target, keys).await? {
        if !is_dead(&instance) && beats(target, keys).await? {
            return Ok(Some(instance));
        }
        if target.delete(&keys.holder, index).await? {
            break;
        }
    }
    Ok(None)
}

/// Ends the epoch of an instance, so that its requests which are still on their way change nothing any more.
///
/// # Errors
/// Consul's.
pub async fn end(target: &Target, keys: &Keys, me: &Instance) -> Result<(), Error> {
    match holder(target, keys).await? {
        Some((instance, index)) if instance == *me => {
            target.delete(&keys.holder, index).await.map(|_| ())
        }
        _ => Ok(()),
    }
}

/// Whether the holder of a job changes its beat.
async fn beats(target: &Target, keys: &Keys) -> Result<bool, Error> {
    let before = target.get(&keys.beat).await?;
    target.clock().sleep(SILENCE).await;
    Ok(target.get(&keys.beat).await? != before)
}

impl<'a> Job<'a> {
    /// Becomes the holder of a job; a new job begins with the record `new`. `is_dead` tells
    /// whether an instance has certainly ended; an instance without a beat is replaced too, and with
    /// `takes_over` every one.
    ///
    /// # Errors
    /// [`Stop::Held`] by another instance; that there is no such job.
    pub async fn hold(
        target: &'a Target,
        name: &str,
        me: Instance,
        is_dead: &dyn Fn(&Instance) -> bool,
        takes_over: bool,
        new: Option<Record>,
    ) -> Result<Job<'a>, Stop> {
        let keys = Keys::new(name);
        let epoch = take(target, &keys, &me, is_dead, takes_over).await?;
        let found = record(target, &keys).await?;
        let (first, index) = match (found, new) {
            (Some(found), _) => found,
            (None, Some(new)) => {
                let replaces = if new.sweeps { epoch } else { 0 };
                (Record { replaces, ..new }, 0)
            }
            (None, None) => return Err(Stop::Refused(format!("there is no job {name:?}"))),
        };
        let job = Job {
            target,
            keys,
            me,
            epoch: epoch.into(),
            state: State::of(first.clone(), index).into(),
            is_ending: AtomicBool::new(false),
        };
        // The record of an instance that has taken over meanwhile names an alarm on which that one relies.
        if holder(target, &job.keys).await?.is_none_or(|(_, index)| index != epoch) {
            return Err(job.fenced().await);
        }
        if index == 0 {
            job.save(first, &[]).await?;
        }
        Ok(job)
    }

    /// The random text of this instance.
    pub(crate) fn id(&self) -> &str {
        &self.me.id
    }

    /// A copy of the record as this instance last read or wrote it.
    pub fn record(&self) -> Record {
        lock(&self.state).record.clone()
    }

    /// Learns whether the server takes the names of these keys in a URL. Refused spellings are stored with the next
    /// change of the record.
    ///
    /// # Errors
    /// Consul's.
    pub async fn learn(&self, keys: impl IntoIterator<Item = &Bytes>) -> Result<(), Error> {
        let mut mapping = self.record().mapping;
        for key in keys {
            let refused = self.target.refused_in(&mapping, key).await?;
            if !refused.is_empty() {
                mapping.refused.extend(refused);
                lock(&self.state).record.mapping.refused.extend(mapping.refused.iter().cloned());
            }
        }
        Ok(())
    }

    /// Lets sweeps delete the keys that Consul has now, also other programs' keys.
    ///
    /// # Errors
    /// [`Stop::Held`] if another instance has taken over.
    pub async fn replace_all(&self) -> Result<(), Stop> {
        let replaces = *lock(&self.epoch);
        self.save(Record { replaces, ..self.record() }, &[]).await
    }

    /// The index of Consul at which the record was last changed.
    pub fn index(&self) -> u64 {
        lock(&self.state).index
    }

    /// The room for operations of a transaction that also changes the record.
    ///
    /// # Errors
    /// The record cannot be encoded.
    pub(crate) fn room(&self) -> Result<Room, Error> {
        let record = encoded(&lock(&self.state).record)?;
        Ok(self.target.room(2).beside(record.len()))
    }

    /// The check that this instance still holds the job.
    pub fn fence(&self) -> Check {
        Check::Index(self.keys.holder.clone(), *lock(&self.epoch))
    }

    /// Changes the record, and applies these operations with it: all or nothing, and exactly once.
    ///
    /// # Errors
    /// [`Stop::Held`] if another instance has taken over.
    pub async fn save(&self, next: Record, ops: &[Op]) -> Result<(), Stop> {
        match self.try_save(next, ops).await? {
            true => Ok(()),
            false => Err(record_not_taken()),
        }
    }

    /// The same; returns whether the server has taken a transaction as large as this. If it has not, nothing is changed.
    ///
    /// # Errors
    /// See [`Self::save`].
    pub(crate) async fn try_save(&self, next: Record, ops: &[Op]) -> Result<bool, Stop> {
        let mut is_open = false;
        let saved = match self.save_surely(next, ops, &mut is_open).await {
            // Fewer operations would not make it smaller.
            Ok(false) if ops.is_empty() => Err(record_not_taken()),
            saved => saved,
        };
        saved.map_err(|stop| match stop {
            // Also an error of a look at what an attempt has done.
            Stop::Failed(error) => {
                let is_open = is_open || error.maybe_applied();
                error.with_maybe_applied(is_open).into()
            }
            other => other,
        })
    }

    /// The same; an attempt whose result is not known is noted.
    async fn save_surely(
        &self,
        next: Record,
        ops: &[Op],
        is_open: &mut bool,
    ) -> Result<bool, Stop> {
        let mut attempt = self.attempt(&next);
        let begun = self.target.clock().now();
        loop {
            let text = encoded(&attempt.next)?;
            if ops.is_empty() && text.len() > MAX_RECORD {
                return Err(too_large(&attempt.next, text.len()).into());
            }
            let checks = [self.fence(), Check::Swap(self.keys.record.clone(), attempt.index, text)];
            lock(&self.state).sent = Some(attempt.next.clone());
            let error = match self.target.txn(&checks, ops).await {
                Ok(Outcome::Applied(index)) => {
                    self.saved(attempt.next, index);
                    return Ok(true);
                }
                Ok(Outcome::Refused(at, _)) if at < checks.len() => {
                    // By an attempt whose answer was lost; or by this one, which a proxy has repeated, if the fence held.
                    *is_open |= at > 0;
                    match record(self.target, &self.keys).await? {
                        Some((found, index)) if *is_open && found == attempt.next => {
                            self.saved(found, index);
                            return Ok(true);
                        }
                        // By a call that was dropped.
                        Some((found, index)) if attempt.before.as_ref() == Some(&found) => {
                            self.saved(found, index);
                            attempt = self.attempt(&next);
                            continue;
                        }
                        _ => return Err(self.fenced().await),
                    }
                }
                Ok(Outcome::Oversized) => return Ok(false),
                Ok(Outcome::Refused(at, why)) => {
                    return Err(refused(&ops[at - checks.len()], &why));
                }
                Err(error) => error,
            };
            *is_open |= error.maybe_applied();
            // Reads may be answered while no write is.
            let is_late = self.target.clock().now() - begun >= self.target.patience();
            if is_late || !(error.is_transient() || error.maybe_applied()) {
                return Err(error.into());
            }
            // A read that repeats itself waits until a server answers again.
            self.target.clock().sleep(crate::target::PAUSE).await;
            self.target.get(&self.keys.record).await?;
        }
    }

    /// The record as it is to be stored, in the place of the known one.
    fn attempt(&self, next: &Record) -> Attempt {
        let state = lock(&self.state);
        let mut next = Record { step: state.record.step + 1, ..next.clone() };
        next.mapping.refused.extend(state.record.mapping.refused.iter().cloned());
        Attempt { next, index: state.index, before: state.sent.clone() }
    }

    /// Names that were found refused meanwhile are stored with the next change.
    fn saved(&self, mut record: Record, index: u64) {
        let mut state = lock(&self.state);
        record.mapping.refused.extend(state.record.mapping.refused.iter().cloned());
        *state = State::of(record, index);
    }

    /// Why a check of the job failed.
    async fn fenced(&self) -> Stop {
        match holder(self.target, &self.keys).await {
            Ok(Some((instance, _))) if instance == self.me => {
                Stop::Refused(
                    "the job's record in Consul was changed by something else, such as a snapshot of Consul that was \
                     restored: the same command goes on from the record that is there now"
                        .to_owned(),
                )
            }
            Ok(Some((instance, _))) => Stop::Held(instance.shown()),
            Ok(None) if self.has_beat_of_another().await => Stop::Refused(
                "another instance has replaced this one, and has ended: the same command goes on if the job is still there"
                    .to_owned(),
            ),
            Ok(None) => Stop::Refused(
                "the job's holder in Consul was deleted: another instance has replaced this one and has ended, or a snapshot of \
                 Consul was restored. The same command goes on if the job is still there"
                    .to_owned(),
            ),
            Err(error) => error.into(),
        }
    }

    /// Whether another instance has held the job after this one: the beat of an ended one stays.
    async fn has_beat_of_another(&self) -> bool {
        let Ok(Some(beat)) = self.target.get(&self.keys.beat).await else { return false };
        let mine = format!("{} ", self.me.id);
        beat.index > *lock(&self.epoch) && !beat.value.starts_with(mine.as_bytes())
    }

    /// Applies operations that may be repeated, while this instance holds the job. Returns whether the server has taken a
    /// transaction as large as this; if it has not, nothing is changed.
    ///
    /// # Errors
    /// [`Stop::Held`] if another instance has taken over.
    pub async fn apply(&self, ops: &[Op]) -> Result<bool, Stop> {
        match self.target.txn_surely(&[self.fence()], ops).await? {
            Outcome::Applied(_) => Ok(true),
            Outcome::Oversized => Ok(false),
            Outcome::Refused(0, _) => Err(self.fenced().await),
            Outcome::Refused(at, why) => Err(refused(&ops[at - 1], &why)),
        }
    }

    /// Sets a key whose value is too large for a transaction.
    ///
    /// A PUT cannot check the epoch. So a transaction first sets a text that no other instance writes, and
    /// the PUT applies only to that: whatever another instance has written since, it fails.
    ///
    /// # Errors
    /// [`Stop::Held`] if another instance has taken over.
    pub async fn put(&self, key: &str, value: &[u8], flags: u64) -> Result<(), Stop> {
        let text = format!("{CLAIM}{}{CLAIMED}", self.me.id);
        let ours = Op::Set { key: key.to_owned(), value: text.clone().into(), flags };
        loop {
            if !self.apply(std::slice::from_ref(&ours)).await? {
                return Err(not_taken(
                    key,
                    value,
                    "a transaction with its name alone is too large",
                ));
            }
            let Some(stored) = self.target.get(key).await? else { continue };
            if stored.value != text {
                continue;
            }
            let written = self.target.put(key, value, flags, stored.index).await;
            if let Err(error) = &written
                && error.kind() == Kind::TooLarge
            {
                return Err(not_taken(key, value, error.message()));
            }
            if let Err(error) = &written
                && !(error.is_transient() || error.maybe_applied())
            {
                return Err(error.clone().into());
            }
            let now = self.target.get(key).await?;
            if now.is_some_and(|now| now.value == value) {
                return Ok(());
            }
        }
    }

    /// Applies operations of any size that may be repeated.
    ///
    /// # Errors
    /// [`Stop::Held`] if another instance has taken over.
    pub async fn apply_all(&self, ops: &[Op]) -> Result<(), Stop> {
        let divided;
        let mut rest = ops;
        if self.target.fitting(ops, 1) < ops.len() {
            divided = self.target.divisible(ops).await?;
            rest = &divided;
        }
        while let [first, others @ ..] = rest {
            match (self.target.fitting(rest, 1), first) {
                (0, Op::Set { key, value, flags }) => {
                    self.put(key, value, *flags).await?;
                    rest = others;
                }
                (fitting, _) => {
                    let (now, later) = rest.split_at(fitting.max(1));
                    if self.apply(now).await? {
                        rest = later;
                    }
                }
            }
        }
        Ok(())
    }

    /// Begins a new epoch: requests of this instance that are still on their way change nothing any more.
    ///
    /// # Errors
    /// [`Stop::Held`] if another instance has taken over.
    pub async fn next_epoch(&self) -> Result<(), Stop> {
        let before = *lock(&self.epoch);
        let mine = encoded(&Holding { instance: &self.me, after: before })?;
        let swap = Check::Swap(self.keys.holder.clone(), before, mine.clone());
        if let Outcome::Applied(index) = self.target.txn_surely(&[swap], &[]).await? {
            *lock(&self.epoch) = index;
            return Ok(());
        }
        // An attempt whose answer was lost may have been applied.
        match self.target.get(&self.keys.holder).await? {
            Some(stored) if stored.value == mine => {
                *lock(&self.epoch) = stored.index;
                Ok(())
            }
            _ => Err(self.fenced().await),
        }
    }

    /// Changes the beat until this instance no longer holds the job.
    pub async fn beat(&self) -> Stop {
        for count in 0_u64.. {
            let beat = Op::set(self.keys.beat.clone(), format!("{} {count}", self.me.id).into());
            let beaten = self.target.txn(&[self.fence()], &[beat]).await;
            if !matches!(beaten, Ok(Outcome::Applied(_))) {
                match holder(self.target, &self.keys).await {
                    // It began another epoch meanwhile.
                    Ok(Some((instance, _))) if instance == self.me => {}
                    // The answer to that is on its way.
                    Ok(None) if self.is_ending.load(Ordering::Relaxed) => {}
                    Ok(_) => return self.fenced().await,
                    Err(_) => {}
                }
            }
            self.target.clock().sleep(BEAT).await;
        }
        unreachable!("the loop has no end")
    }

    /// Deletes the record, and lets the job go with it.
    ///
    /// # Errors
    /// [`Stop::Held`] if another instance has taken over.
    pub(crate) async fn delete(&self) -> Result<(), Stop> {
        self.is_ending.store(true, Ordering::Relaxed);
        let all = [&self.keys.beat, &self.keys.holder, &self.keys.record];
        self.apply_all(&all.map(|key| Op::Delete { key: key.clone() })).await
    }

    /// Lets another instance hold the job at once.
    pub async fn release(&self) {
        let epoch = *lock(&self.epoch);
        let _ = self.target.delete(&self.keys.holder, epoch).await;
    }

    /// Changes what is done with keys that have a problem.
    ///
    /// # Errors
    /// That another choice than `refuse` would change.
    pub async fn choose(&self, wanted: &BTreeMap<Problem, Choice>) -> Result<(), Stop> {
        let record = self.record().choosing(wanted)?;
        if record.mapping == self.record().mapping {
            return Ok(());
        }
        self.save(record, &[]).await
    }
}

/// The text that a large value replaces, with an instance's number between.
const CLAIM: &str = "consul-migrate ";
const CLAIMED: &str = " sets this key";

/// Whether a value is such a text, and its large value is not there yet.
pub(crate) fn is_claim(value: &[u8]) -> bool {
    const LONGEST: usize = 200;
    value.len() < LONGEST
        && value.starts_with(CLAIM.as_bytes())
        && value.ends_with(CLAIMED.as_bytes())
}

/// A transaction with the record alone is refused for its size.
fn record_not_taken() -> Stop {
    Stop::Refused(
        "Consul takes no transaction as large as the job's record: raise the servers' limits.txn_max_req_len, or the limit of what \
         is before them"
            .to_owned(),
    )
}

/// Why a record is not sent.
fn not_taken(key: &str, value: &[u8], why: &str) -> Stop {
    Stop::Refused(format!(
        "Consul takes no value as large as that of {}, {} bytes ({why}): raise the servers' limits.kv_max_value_size, or the limit of \
         what is before them, until the job is finished; the same command goes on",
        shown(key.as_bytes()),
        value.len()
    ))
}

fn too_large(record: &Record, bytes: usize) -> Error {
    let why = match record.taken.len() {
        0 => "shorter prefixes make it smaller".to_owned(),
        rights => format!(
            "it names the {rights} rights that the cut-over is to take from roles of etcd: `--freeze operator` or `alarm` has none"
        ),
    };
    Error::new(
        Kind::TooLarge,
        format!(
            "the job's record in Consul would have {bytes} bytes, and Consul takes {MAX_RECORD}: {why}"
        ),
    )
}

pub(crate) fn refused(op: &Op, why: &str) -> Stop {
    let message = format!("Consul refuses \"{}\": {why}", shown(op.key().as_bytes()));
    let kind = match why.contains("Permission denied") {
        true => Kind::PermissionDenied,
        false => Kind::TxnFailed,
    };
    Error::new(kind, message).into()
}

fn encoded(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::argument(error.to_string()))
}
