//! Compares a snapshot of etcd with Consul: both are walked through in the order of Consul's names.

use super::ahead::{Ahead, ahead};
use super::etcd::{Etcd, Pages, Range, Sorted, by_form};
use super::mapping::{JOBS, Mapping, Op, Place, part_of, parts};
use super::names::Names;
use super::survey::shown;
use super::target::Target;
use super::trees::Trees;
use super::{Pace, Stop};
use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};
use std::pin::pin;
use std::time::Duration;

/// How Consul differs in a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// etcd has it, Consul does not.
    Missing,
    /// Consul has it, etcd does not.
    Extra,
    /// The values are not the same.
    Different,
}

/// A key that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The key in Consul.
    pub key: String,
    /// In what way the two sides differ.
    pub what: What,
}

/// What is compared.
#[derive(Clone, Copy)]
struct Sides<'a> {
    etcd: &'a Etcd,
    target: &'a Target,
    mapping: &'a Mapping,
    revision: u64,
    pace: Pace,
    compares_values: bool,
}

/// Compares all keys of a revision with Consul; returns how many of etcd's there are.
///
/// # Errors
/// See [`Stop`], and those of `found`.
pub async fn compare(
    etcd: &Etcd,
    target: &Target,
    mapping: &Mapping,
    revision: u64,
    pace: Pace,
    found: impl AsyncFnMut(Difference, u64) -> Result<(), Stop>,
    progress: impl Fn(u64),
) -> Result<u64, Stop> {
    let sides = Sides { etcd, target, mapping, revision, pace, compares_values: true };
    sides.compare(found, progress).await
}

/// What a comparison has found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The keys of etcd that were compared.
    pub keys: u64,
    /// The keys that are not the same, up to the limit of the comparison.
    pub differences: Vec<Difference>,
    /// Whether all keys were compared. If not there may be more differences.
    pub is_whole: bool,
}

/// Compares the keys of a revision with Consul until there are `most` differences.
///
/// # Errors
/// See [`Stop`].
pub async fn compare_up_to(
    most: usize,
    etcd: &Etcd,
    target: &Target,
    mapping: &Mapping,
    revision: u64,
    pace: Pace,
    progress: impl Fn(u64),
) -> Result<Found, Stop> {
    let mut found = Found { keys: 0, differences: Vec::new(), is_whole: true };
    let add = async |difference, compared| {
        found.keys = compared;
        found.differences.push(difference);
        found.is_whole = found.differences.len() < most;
        // The error ends the comparison.
        if found.is_whole { Ok(()) } else { Err(Stop::Refused(String::new())) }
    };
    match compare(etcd, target, mapping, revision, pace, add, progress).await {
        Ok(keys) => Ok(Found { keys, ..found }),
        Err(_) if !found.is_whole => Ok(found),
        Err(stop) => Err(stop),
    }
}

/// The keys that Consul has and the revision does not.
///
/// # Errors
/// See [`Stop`], and those of `found`.
pub async fn extras(
    etcd: &Etcd,
    target: &Target,
    mapping: &Mapping,
    revision: u64,
    pace: Pace,
    mut found: impl AsyncFnMut(Difference) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let sides = Sides { etcd, target, mapping, revision, pace, compares_values: false };
    sides.compare(async |difference, _| found(difference).await, |_| ()).await.map(|_| ())
}

/// The keys that are compared together, with the transactions' default of 64 operations.
const AT_ONCE: usize = 256;

/// How often a difference is looked at again: it may be a change that is on its way.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// Of these differences those that last, while etcd's changes may still be applied.
///
/// # Errors
/// See [`Stop`].
pub async fn confirmed(
    etcd: &Etcd,
    target: &Target,
    mapping: &Mapping,
    suspects: Vec<Difference>,
) -> Result<Vec<Difference>, Stop> {
    let mut suspects = suspects;
    for look in 0..LOOKS {
        if look > 0 && !suspects.is_empty() {
            etcd.clock().sleep(PAUSE).await;
        }
        let again = suspects.iter().map(|suspect| difference(etcd, target, mapping, &suspect.key));
        let again = stream::iter(again).buffered(8).try_collect::<Vec<_>>().await?;
        suspects = again.into_iter().flatten().collect();
    }
    Ok(suspects)
}

/// How a key of Consul differs from etcd now.
async fn difference(
    etcd: &Etcd,
    target: &Target,
    mapping: &Mapping,
    key: &str,
) -> Result<Option<Difference>, Stop> {
    let wanted = wanted(etcd, mapping, key).await?;
    // A transaction reads any key, a URL does not.
    let found = target.entries(&[key]).await?.pop().flatten().map(|stored| stored.value);
    let what = match (wanted, found) {
        (Some(_), None) => What::Missing,
        (None, Some(_)) => What::Extra,
        (Some(wanted), Some(found)) if wanted != found => What::Different,
        _ => return Ok(None),
    };
    Ok(Some(Difference { key: key.to_owned(), what }))
}

/// The value that a key of Consul is to have by etcd's present state.
async fn wanted(etcd: &Etcd, mapping: &Mapping, key: &str) -> Result<Option<Bytes>, Stop> {
    let part = key.strip_prefix(&mapping.encoded_prefix()).and_then(part_of);
    let candidates = match part {
        Some((key, ..)) => vec![Bytes::from(key)],
        None => mapping.sources(key),
    };
    for candidate in candidates {
        let Some(kv) = etcd.get(&candidate, 0).await? else { continue };
        let mut ops = mapping.load(&kv).into_iter();
        let value = ops.find_map(|op| match op {
            Op::Set { key: place, value, .. } if place == key => Some(value),
            _ => None,
        });
        if value.is_some() {
            return Ok(value);
        }
    }
    Ok(None)
}

impl<'a> Sides<'a> {
    async fn compare(
        self,
        mut found: impl AsyncFnMut(Difference, u64) -> Result<(), Stop>,
        progress: impl Fn(u64),
    ) -> Result<u64, Stop> {
        let mut compared = 0;
        for is_encoded in [false, true] {
            let (mut wanted, mut names) = (self.wanted(is_encoded), self.names(is_encoded).await?);
            let next_wanted = async || wanted.next(self.mapping).await;
            let is_compared = |name: &str| match is_encoded {
                true => self.mapping.is_own_part(name),
                false => !self.mapping.is_own(name),
            };
            let next_name = async || loop {
                match names.next().await? {
                    Some(name) if !is_compared(&name) => {}
                    name => break Ok(name),
                }
            };
            let walks = async |wanted| {
                ahead(next_name, String::len, async |names| {
                    let walk = Walk::new(self.target.max_ops, wanted, names).await;
                    let batches = stream::unfold(walk, |mut walk| async move {
                        Some((Ok::<_, Stop>(walk.batch().await?), walk))
                    });
                    let checked = batches.map_ok(|batch| self.check(batch, is_encoded));
                    let mut checked = pin!(checked.try_buffer_unordered(self.pace.in_flight));
                    while let Some((keys, differences)) = checked.try_next().await? {
                        compared += keys;
                        progress(compared);
                        for difference in differences {
                            found(difference, compared).await?;
                        }
                    }
                    Ok(())
                })
                .await
            };
            ahead(next_wanted, |(key, value)| key.len() + value.len(), walks).await?;
        }
        Ok(compared)
    }

    /// The plain keys that Consul is to have, or the encoded ones.
    fn wanted(self, is_encoded: bool) -> Wanted<'a> {
        let Sides { etcd, mapping, revision, pace, .. } = self;
        match is_encoded {
            false => Wanted::Plain(Sorted::new(etcd, &mapping.etcd_prefix, revision, pace.page)),
            true if mapping.may_encode() => {
                let range = Range::prefix(&mapping.etcd_prefix);
                Wanted::Encoded(Pages::new(etcd, range, revision, pace.page), VecDeque::new())
            }
            true => Wanted::Nothing,
        }
    }

    /// The names of the keys that Consul has, which for the plain ones may be of others.
    async fn names(
        self,
        is_encoded: bool,
    ) -> Result<Names<'a, impl AsyncFn(&str) -> Result<u64, Stop>>, Stop> {
        let prefix = match is_encoded {
            true => self.mapping.encoded_prefix(),
            false => self.mapping.plain_prefix(),
        };
        let count = async move |prefix: &str| match is_encoded {
            true => Ok(0),
            false => self.count(prefix).await,
        };
        Names::new(self.target, &prefix, count).await
    }

    /// How many keys of etcd have a name in Consul with this prefix.
    async fn count(self, prefix: &str) -> Result<u64, Stop> {
        let below = prefix.strip_prefix(&self.mapping.consul_prefix).unwrap_or_default();
        let ranges = match below {
            "" => {
                let (slashed, bare) = by_form(&self.mapping.etcd_prefix);
                [slashed, bare].concat()
            }
            below => {
                vec![Range::prefix(format!("/{below}").as_bytes()), Range::prefix(below.as_bytes())]
            }
        };
        // A role for a prefix may not count others.
        let all = &self.mapping.etcd_prefix;
        let is_inside = |range: &&Range| all.is_empty() || range.start.starts_with(all);
        let counts = ranges.iter().filter(is_inside);
        let counts = counts.map(|range| self.etcd.count(range, self.revision));
        Ok(try_join_all(counts).await?.iter().map(|(count, _)| count).sum())
    }

    async fn check(self, batch: Batch, is_encoded: bool) -> Result<(u64, Vec<Difference>), Stop> {
        if !self.compares_values {
            return Ok((batch.keys, batch.differences));
        }
        // Between encoded keys there may be those of other jobs.
        let equal = if is_encoded { HashSet::new() } else { self.equal_in_trees(&batch).await? };
        let Batch { keys, names, mut differences, .. } = batch;
        let pairs =
            names.iter().filter_map(|(name, wanted)| Some((name.as_str(), wanted.as_ref()?)));
        let pairs: Vec<_> = pairs.filter(|(name, _)| !equal.contains(*name)).collect();
        let asked: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
        let found = self.target.entries(&asked).await?;
        for ((name, wanted), found) in pairs.into_iter().zip(found) {
            let what = match found {
                None => What::Missing,
                Some(found) if found.value == *wanted => continue,
                Some(_) => What::Different,
            };
            differences.push(Difference { key: name.to_owned(), what });
        }
        Ok((keys, differences))
    }

    /// The names of a batch whose values are found equal by few operations. Of the others nothing is known yet.
    async fn equal_in_trees(self, batch: &Batch) -> Result<HashSet<String>, Stop> {
        let (plain, encoded) = (self.mapping.plain_prefix(), self.mapping.encoded_prefix());
        let trees = Trees {
            before: batch.before.as_deref(),
            after: batch.after.as_deref(),
            least: plain.len(),
            others: [JOBS, &encoded],
        };
        let names: Vec<&str> = batch.names.iter().map(|(name, _)| name.as_str()).collect();
        let found = self.target.trees(&trees.prefixes(&names)).await?;
        let (mut equal, mut names) = (HashSet::new(), batch.names.iter().peekable());
        for (key, value) in found {
            while names.next_if(|(name, _)| *name < key).is_some() {}
            if names
                .next_if(|(name, wanted)| *name == key && wanted.as_ref() == Some(&value))
                .is_some()
            {
                equal.insert(key);
            }
        }
        Ok(equal)
    }
}

/// Keys that are compared together.
#[derive(Default)]
struct Batch {
    /// Of etcd.
    keys: u64,
    /// The names of Consul, which follow each other, with the values that etcd has for them.
    names: Vec<(String, Option<Bytes>)>,
    /// The names in Consul before and after these.
    before: Option<String>,
    after: Option<String>,
    differences: Vec<Difference>,
}

/// The keys that Consul is to have, in bytewise order.
enum Wanted<'a> {
    Plain(Sorted<'a>),
    Encoded(Pages<'a>, VecDeque<(String, Bytes)>),
    Nothing,
}

impl Wanted<'_> {
    async fn next(&mut self, mapping: &Mapping) -> Result<Option<(String, Bytes)>, Stop> {
        match self {
            Wanted::Nothing => Ok(None),
            Wanted::Plain(entries) => {
                while let Some(kv) = entries.next().await? {
                    if let Place::Plain(key) = mapping.place(&kv) {
                        return Ok(Some((key, kv.value.0)));
                    }
                }
                Ok(None)
            }
            Wanted::Encoded(pages, ready) => loop {
                if let Some(first) = ready.pop_front() {
                    return Ok(Some(first));
                }
                let Some(page) = pages.next().await? else { return Ok(None) };
                for kv in &page.kvs {
                    let Place::Encoded(prefix) = mapping.place(kv) else { continue };
                    ready.extend(parts(&prefix, &kv.value.0, mapping.mark).filter_map(
                        |op| match op {
                            Op::Set { key, value, .. } => Some((key, value)),
                            Op::Delete { .. } | Op::DeleteAt { .. } | Op::DeleteTree { .. } => None,
                        },
                    ));
                }
            },
        }
    }
}

/// Both sides, walked through together.
struct Walk {
    max_ops: usize,
    wanted: Ahead<(String, Bytes)>,
    names: Ahead<String>,
    next_wanted: Option<(String, Bytes)>,
    next_name: Option<String>,
    last_name: Option<String>,
}

impl Walk {
    async fn new(
        max_ops: usize,
        mut wanted: Ahead<(String, Bytes)>,
        mut names: Ahead<String>,
    ) -> Self {
        let (next_wanted, next_name) = (wanted.next().await, names.next().await);
        Walk { max_ops, wanted, names, next_wanted, next_name, last_name: None }
    }

    /// The next keys; `None` after the last ones.
    async fn batch(&mut self) -> Option<Batch> {
        let (mut batch, mut bytes) = (Batch::default(), 0);
        batch.before = self.last_name.take();
        while batch.names.len() < AT_ONCE.min(4 * self.max_ops)
            && batch.differences.len() < self.max_ops
            && bytes < super::mapping::MAX_IN_TXN
        {
            let order = match (&self.next_wanted, &self.next_name) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((wanted, _)), Some(name)) => wanted.cmp(name),
            };
            let wanted = match order.is_le() {
                true => std::mem::replace(&mut self.next_wanted, self.wanted.next().await),
                false => None,
            };
            let name = match order.is_ge() {
                true => std::mem::replace(&mut self.next_name, self.names.next().await),
                false => None,
            };
            batch.keys += u64::from(wanted.is_some());
            match (wanted, name) {
                (Some((key, value)), Some(_)) => {
                    bytes += value.len();
                    batch.names.push((key, Some(value)));
                }
                (Some((key, _)), None) => {
                    batch.differences.push(Difference { key, what: What::Missing });
                }
                (None, Some(key)) => {
                    batch.names.push((key.clone(), None));
                    batch.differences.push(Difference { key, what: What::Extra });
                }
                (None, None) => break,
            }
        }
        self.last_name = batch.names.last().map(|(name, _)| name.clone()).or(batch.before.clone());
        batch.after = self.next_name.clone();
        let is_empty = batch.names.is_empty() && batch.differences.is_empty();
        (!is_empty).then_some(batch)
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.what {
            What::Missing => "missing",
            What::Extra => "extra",
            What::Different => "different",
        };
        write!(f, "{what}: {}", shown(self.key.as_bytes()))
    }
}
