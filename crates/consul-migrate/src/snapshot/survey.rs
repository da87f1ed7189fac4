//! The content of a snapshot of etcd, and the keys that Consul does not take as they are. Writes nothing.

use crate::ahead::ahead;
use crate::etcd::{Etcd, KeyValue, Range, Sorted, Status};
use crate::mapping::shown::shown;
use crate::mapping::spelling::Spelling;
use crate::mapping::{Choice, Form, Mapping, Place, Problem, form_of};
use crate::snapshot::load::{ROUNDS, too_fast};
use crate::tally::Tally;
use crate::target::Target;
use crate::{Pace, Report, Stop};
use bytes::Bytes;
use futures_util::future::try_join;
use serde::Serialize;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

/// The keys that are named for each problem.
const NAMED: usize = 1000;

/// Up to this size in memory all keys of a snapshot are kept.
const KEPT_BYTES: usize = 32 << 20;

/// The number of keys after which the progress is reported.
const STEP: u64 = 1000;

/// The keys with one problem.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Affected {
    /// The number of these keys, also of those that `keys` does not name.
    pub count: u64,
    /// The first ones, as text.
    pub keys: Vec<String>,
}

/// The content of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Survey {
    /// The ID of the etcd cluster, in decimal digits.
    pub cluster_id: String,
    /// The revision of etcd at which the keys were read.
    pub revision: u64,
    /// The number of keys that begin with the prefix, without the sentinels of jobs.
    pub keys: u64,
    /// The size of these keys and their values, in bytes.
    pub bytes: u64,
    /// The size of the largest value, in bytes.
    pub largest_value: u64,
    /// Values that are set one by one, because they are too large for a transaction.
    pub by_put: u64,
    /// The number of keys with a leading slash.
    pub slashed: u64,
    /// The number of keys without a leading slash.
    pub bare: u64,
    /// The counts of a copy of these keys; not serialized.
    #[serde(skip)]
    pub tally: Tally,
    /// The first key that goes on without a slash after a prefix that does not end with one.
    pub beside: Option<String>,
    /// The keys that Consul does not take as they are, by problem; a key can have several.
    pub problems: BTreeMap<Problem, Affected>,
    /// The spellings in the names of these keys that the server refuses in a URL; not serialized.
    #[serde(skip)]
    pub refused_names: BTreeSet<Spelling>,
    /// The keys that were read, for a copy of the same snapshot; not serialized.
    #[serde(skip)]
    pub kept: Kept,
}

/// All keys of a snapshot, which a copy then need not read again; none of a large one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// The revision of the snapshot.
    pub revision: u64,
    /// The keys with their values; empty if they would take too much memory.
    pub kvs: Vec<KeyValue>,
}

impl Survey {
    /// The form of most keys.
    pub fn form(&self) -> Form {
        if self.bare > self.slashed { Form::Bare } else { Form::Slashed }
    }

    /// The mapping with the form of most keys, unless it has one, and the names that the server refuses.
    pub fn completed(&self, mapping: &Mapping) -> Mapping {
        let (form, refused) = (mapping.form.or(Some(self.form())), self.refused_names.clone());
        Mapping { form, refused, ..mapping.clone() }
    }

    /// The problems for which the mapping refuses to copy.
    pub fn refused(&self, mapping: &Mapping) -> Vec<Problem> {
        let refuses = |problem: &&Problem| mapping.choice(**problem) == Choice::Refuse;
        self.problems.keys().filter(refuses).copied().collect()
    }

    fn add(&mut self, problem: Problem, key: &[u8]) {
        let affected = self.problems.entry(problem).or_default();
        affected.count += 1;
        if affected.keys.len() < NAMED {
            affected.keys.push(shown(key));
        }
    }

    fn count(&mut self, kv: &KeyValue, mapping: &Mapping) {
        if mapping.place(kv) == Place::Sentinel {
            return;
        }
        self.tally.add(kv, mapping);
        let rest = kv.key.0.strip_prefix(&mapping.etcd_prefix[..]).unwrap_or_default();
        let is_whole = matches!(mapping.etcd_prefix.last(), None | Some(b'/'));
        if !is_whole && self.beside.is_none() && !matches!(rest.first(), None | Some(b'/')) {
            self.beside = Some(shown(&kv.key.0));
        }
        let size = kv.value.0.len() as u64;
        self.keys += 1;
        self.bytes += kv.key.0.len() as u64 + size;
        self.largest_value = self.largest_value.max(size);
        self.by_put += u64::from(mapping.load(kv).iter().any(crate::mapping::Op::needs_put));
        match form_of(&kv.key.0) {
            Form::Slashed => self.slashed += 1,
            Form::Bare => self.bare += 1,
        }
        if kv.lease.0 != 0 {
            self.add(Problem::Leased, &kv.key.0);
        }
        let unleased = KeyValue { lease: Default::default(), ..kv.clone() };
        if let Some(problem) = mapping.problem(&unleased) {
            self.add(problem, &kv.key.0);
        }
    }
}

/// Reads all keys at the present revision, and asks Consul whether it takes their names. Reads them again if etcd compacts
/// that revision meanwhile.
///
/// # Errors
/// Errors of both; that etcd compacts each revision.
pub async fn survey(
    etcd: &Etcd,
    target: &Target,
    mapping: &Mapping,
    pace: Pace,
    report: &dyn Report,
) -> Result<Survey, Stop> {
    for _ in 0..ROUNDS {
        match survey_once(etcd, target, mapping, pace, report).await {
            Err(Stop::Compacted) => {
                report
                    .note("etcd has compacted the revision that was read: the keys are read again");
            }
            surveyed => return surveyed,
        }
    }
    Err(Stop::Refused(too_fast()))
}

async fn survey_once(
    etcd: &Etcd,
    target: &Target,
    mapping: &Mapping,
    pace: Pace,
    report: &dyn Report,
) -> Result<Survey, Stop> {
    let all = Range::prefix(&mapping.etcd_prefix);
    let Status { cluster_id, revision } = etcd.status(&all.start).await?;
    let mut survey = Survey {
        cluster_id,
        revision,
        keys: 0,
        bytes: 0,
        largest_value: 0,
        by_put: 0,
        slashed: 0,
        bare: 0,
        tally: Tally { etcd: Some(0), ..Tally::default() },
        beside: None,
        problems: BTreeMap::new(),
        refused_names: mapping.refused.clone(),
        kept: Kept { revision, kvs: Vec::new() },
    };
    let mut mapping = mapping.clone();
    let total = Cell::new(None);
    let count = async || {
        total.set(Some(etcd.count(&all, revision).await?.0));
        Ok(())
    };
    // Of the two forms, and of both.
    let (mut plain, mut collisions) = ([0; 2], 0);
    let mut entries = Sorted::new(etcd, &mapping.etcd_prefix, revision, pace.page);
    let next = async || Ok(entries.next().await?);
    let read = ahead(next, KeyValue::size, async |mut entries| {
        let mut room = Some(KEPT_BYTES);
        let mut before: Option<(Bytes, bool)> = None;
        while let Some(kv) = entries.next().await {
            mapping.refused.extend(target.refused_in(&mapping, &kv.key.0).await?);
            survey.count(&kv, &mapping);
            let is_plain = matches!(mapping.place(&kv), Place::Plain(_));
            let form = form_of(&kv.key.0);
            plain[usize::from(form == Form::Bare)] += u64::from(is_plain);
            if let Some((before, was_plain)) = &before
                && crate::mapping::counterpart(before) == kv.key.0
                && form_of(before) != form
            {
                survey.add(Problem::Collision, &kv.key.0);
                collisions += u64::from(is_plain && *was_plain);
            }
            before = Some((kv.key.0.clone(), is_plain));
            room = room.and_then(|room| room.checked_sub(kv.size()));
            match room {
                Some(_) => survey.kept.kvs.push(kv),
                None => survey.kept.kvs = Vec::new(),
            }
            if survey.keys.is_multiple_of(STEP) {
                report.progress("read", survey.keys, total.get());
            }
        }
        Ok(())
    });
    try_join(count(), read).await?;
    report.progress("read", survey.keys, total.get());
    let rarer = plain[usize::from(survey.form() == Form::Slashed)];
    survey.tally.collide(&mapping, rarer, collisions);
    survey.refused_names = mapping.refused;
    Ok(survey)
}
