//! The record of a job, as it stands in Consul.

use super::Keys;
use crate::Stop;
use crate::etcd::{Range, Right};
use crate::mapping::{Choice, JOBS, Mapping, Problem};
use crate::tally::Tally;
use crate::target::{Stored, Target};
use consul_api::error::{Error, Kind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use twox_hash::XxHash3_64;

/// The work of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The keys of the snapshot are written.
    Load,
    /// Keys that the snapshot does not have are deleted.
    Sweep,
    /// The changes since the snapshot are applied.
    Tail,
    /// The programs go over to Consul: of etcd only deletions are still applied.
    Switched,
}

/// The work on the rights of roles. Each step is written into the record first, and then done in etcd, which knows no fence: an
/// instance that finds another state there leaves etcd alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rights {
    /// They are being taken, or taken.
    #[default]
    Taken,
    /// They are being given back.
    GivingBack,
    /// The roles have them again; a request that comes late may still take one.
    GivenBack,
}

impl Rights {
    pub(super) fn are_taken(&self) -> bool {
        *self == Rights::Taken
    }
}

/// The bits of an alarm's number that are random; those above tell its job.
const ALARM_BITS: u32 = 28;

/// The largest revision and count that etcd and a record can have, so that one more is a number, too.
const MAX_NUMBER: u64 = 1 << 62;

/// The progress, as it stands in Consul. Additions of a later version must not be lost by a change of this one.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The ID of the etcd cluster with which the job began, in decimal digits.
    pub cluster_id: String,
    /// Which keys of etcd are copied, and what each becomes in Consul.
    pub mapping: Mapping,
    /// The part of the work at which the job is.
    pub phase: Phase,
    /// The revision of the snapshot.
    pub snapshot: u64,
    /// Load: the key of the snapshot, in hexadecimal digits, before which all are written.
    pub loaded: Option<String>,
    /// The keys of the snapshot; during the load those that are written, and after a cut-over those that it has compared.
    #[serde(default)]
    pub tally: Option<Tally>,
    /// Whether Consul may have keys that the snapshot does not have.
    pub sweeps: bool,
    /// The index of Consul up to which a sweep deletes also keys that the job has not written.
    #[serde(default)]
    pub replaces: u64,
    /// Tail: the revision whose events are applied next, and how many of them are already.
    pub revision: u64,
    /// Tail: the number of events of `revision` that are applied already.
    pub offset: u64,
    /// The numbers of the alarms with which cut-overs have stopped the writers of etcd, or may still stop
    /// them: an instance that was replaced may raise its own late.
    #[serde(default)]
    pub alarms: Vec<u64>,
    /// The rights with which the last cut-over by roles has stopped the writers of etcd. A job that is cut over otherwise has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<Right>,
    /// The rights from cut-overs before that roles may lack: they are named, and nothing gives them back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Right>,
    /// The work on the taken ones.
    #[serde(default, skip_serializing_if = "Rights::are_taken")]
    pub rights: Rights,
    /// The random number of that taking, so that an instance knows its own.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub taking: u64,
    /// Switched: the index of Consul up to which all writes were the job's.
    #[serde(default)]
    pub switched_at: Option<u64>,
    /// Switched: the revision of etcd up to which Consul has all writes of programs.
    #[serde(default)]
    pub switched_revision: Option<u64>,
    /// Switched: the revision in which the cut-over has created the key that it leaves in etcd; a restore takes that away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
    /// Whether a finish has begun to remove what the other verbs rely on, so that only a finish can follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finishing: bool,
    /// Grows with each change of the record.
    pub step: u64,
}

impl Record {
    /// The record of a job that begins with this snapshot. If it sweeps, it replaces all keys that Consul has.
    pub fn new(cluster_id: String, mapping: Mapping, snapshot: u64, sweeps: bool) -> Record {
        Record {
            cluster_id,
            mapping,
            phase: Phase::Load,
            snapshot,
            loaded: None,
            tally: None,
            sweeps,
            replaces: 0,
            revision: snapshot + 1,
            offset: 0,
            alarms: Vec::new(),
            taken: Vec::new(),
            lost: Vec::new(),
            rights: Rights::Taken,
            taking: 0,
            switched_at: None,
            switched_revision: None,
            left: None,
            finishing: false,
            step: 0,
        }
    }

    /// A record for a new snapshot.
    pub fn restarted(&self, snapshot: u64) -> Record {
        Record {
            phase: Phase::Load,
            snapshot,
            loaded: None,
            tally: None,
            sweeps: true,
            revision: snapshot + 1,
            offset: 0,
            ..self.clone()
        }
    }

    /// The record with these choices for keys that have a problem.
    ///
    /// # Errors
    /// That another choice than `refuse` would change.
    pub fn choosing(mut self, wanted: &BTreeMap<Problem, Choice>) -> Result<Record, Stop> {
        for (problem, choice) in wanted {
            let before = self.mapping.choice(*problem);
            if before != *choice && before != Choice::Refuse {
                return Err(Stop::Refused(format!(
                    "the job began with --on {problem}={before}, which can no longer change, and --on {problem}={choice} is \
                     given: leave it out, or use another --job"
                )));
            }
            self.mapping.on.insert(*problem, *choice);
        }
        Ok(self)
    }

    /// Refuses all but a finish after that of a finish that has begun.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn refuse_finishing(&self) -> Result<(), Stop> {
        let verb = match self.phase {
            _ if !self.finishing => return Ok(()),
            Phase::Switched => "finish",
            _ => "finish --without-etcd",
        };
        Err(Stop::Refused(format!(
            "a finish of the job has begun and has not ended, so that nothing else can follow: run `{verb}` again"
        )))
    }

    /// The rights that roles may lack by a cut-over.
    pub fn may_be_taken(&self) -> &[Right] {
        match self.rights {
            Rights::GivenBack => &[],
            Rights::Taken | Rights::GivingBack => &self.taken,
        }
    }

    /// Whether it has taken a right for the same keys, and gives it back.
    pub(crate) fn has_taken(&self, right: &Right) -> bool {
        self.may_be_taken().iter().any(|it| it.is_for_keys_of(right))
    }

    /// Whether another taking than this one has a right for the same keys, and gives it back.
    pub(crate) fn is_taken_since(&self, right: &Right, taking: u64) -> bool {
        self.taking != taking && self.has_taken(right)
    }

    /// Whether programs may set keys of this job in etcd, although it is cut over, when a role has this right again.
    pub(super) fn is_opened_by(&self, right: &Right) -> bool {
        self.phase == Phase::Switched && right.overlaps(&Range::prefix(&self.mapping.etcd_prefix))
    }

    /// The rights that roles have again, as far as this job has taken any.
    pub fn given_back(&self) -> Vec<Right> {
        let taken = match self.rights {
            Rights::GivenBack => &self.taken[..],
            Rights::Taken | Rights::GivingBack => &[],
        };
        taken
            .iter()
            .chain(self.lost.iter().filter(|it| !self.taken.contains(it)))
            .cloned()
            .collect()
    }

    /// The number of a new alarm of this job, below 2^48.
    pub(crate) fn new_alarm(&self, keys: &Keys) -> u64 {
        (self.alarm_form(keys) << ALARM_BITS) | fastrand::u64(1..1 << ALARM_BITS)
    }

    /// Whether an alarm is of this job and its record does not name it, because Consul was restored to a state before.
    pub fn has_raised(&self, keys: &Keys, alarm: u64) -> bool {
        let is_of_job = self.mapping.mark != 0 && alarm >> ALARM_BITS == self.alarm_form(keys);
        is_of_job && !self.alarms.contains(&alarm)
    }

    /// The part of the numbers of its alarms that tells the job, by its mark, which no other job has.
    fn alarm_form(&self, keys: &Keys) -> u64 {
        let seed = self.mapping.mark;
        XxHash3_64::oneshot_with_seed(seed, keys.record.as_bytes()) >> (16 + ALARM_BITS)
    }

    pub(super) fn decode(key: &str, stored: &Stored) -> Result<Record, Error> {
        let refused = |why: String| {
            let text = format!(
                "the job's record in Consul, {key}, is not one that this version knows: {why}. It is damaged, or of another \
                 version of consul-migrate: use that one"
            );
            Error::new(Kind::Decode, text)
        };
        let record: Record = serde_json::from_slice(&stored.value).map_err(|error| {
            let why = error.to_string();
            refused(why.split(", expected").next().unwrap_or_default().to_owned())
        })?;
        let numbers = [record.snapshot, record.revision, record.offset, record.step];
        let numbers = numbers.into_iter().chain(record.switched_revision).chain(record.left);
        match record.revision > 0 && numbers.max().is_some_and(|number| number <= MAX_NUMBER) {
            true => Ok(record),
            false => Err(refused("no etcd has such a revision".to_owned())),
        }
    }

    /// Whether a value is the record of some version, which may not be this one.
    pub(super) fn is_of_some_version(value: &[u8]) -> bool {
        let found: serde_json::Value = serde_json::from_slice(value).unwrap_or_default();
        ["cluster_id", "mapping", "phase"].iter().all(|name| found.get(name).is_some())
    }
}

/// Reads the record of a job; `None` if there is no such job.
///
/// # Errors
/// Consul's; a record that is not one.
pub async fn record(target: &Target, keys: &Keys) -> Result<Option<(Record, u64)>, Error> {
    let Some(stored) = target.get(&keys.record).await? else { return Ok(None) };
    Ok(Some((Record::decode(&keys.record, &stored)?, stored.index)))
}

/// Reads the names and records of the other jobs.
///
/// # Errors
/// Consul's.
pub async fn others(target: &Target, keys: &Keys) -> Result<Vec<(String, Record)>, Error> {
    let mut others = Vec::new();
    for key in target.keys(JOBS, Some("/")).await? {
        let name = key.strip_prefix(JOBS).unwrap_or_default();
        if key == keys.record || name.is_empty() || name.ends_with('/') {
            continue;
        }
        let Some(stored) = target.get(&key).await? else { continue };
        match Record::decode(&key, &stored) {
            Ok(record) => others.push((name.to_owned(), record)),
            Err(error) if Record::is_of_some_version(&stored.value) => return Err(error),
            // A key of something else.
            Err(_) => {}
        }
    }
    Ok(others)
}

/// Refuses to change keys of Consul that another job has handed over to programs: what etcd has is not the truth there.
///
/// # Errors
/// See [`Stop`].
pub async fn refuse_switched(target: &Target, keys: &Keys, mapping: &Mapping) -> Result<(), Stop> {
    for (name, other) in others(target, keys).await? {
        if other.phase == Phase::Switched && mapping.shares_keys(&other.mapping) {
            let back = match other.finishing {
                true => String::new(),
                false => format!(", `--job {name} rollback` makes etcd the truth"),
            };
            return Err(Stop::Refused(format!(
                "programs use these keys of Consul since the cut-over of the job {name:?}: what etcd has would replace or delete \
                 what they have written. `--job {name} finish` ends that job{back}"
            )));
        }
    }
    Ok(())
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
