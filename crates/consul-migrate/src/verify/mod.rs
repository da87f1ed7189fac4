//! Compares a snapshot of etcd with Consul: both are walked through in the order of Consul's names.

pub mod digest;
mod trees;

use crate::ahead::{Ahead, ahead};
use crate::etcd::{Etcd, Pages, Range, Sorted, by_form};
use crate::mapping::shown::shown;
use crate::mapping::{JOBS, Mapping, Op, Place, Problem, part_of, parts};
use crate::tally::Tally;
use crate::target::Target;
use crate::target::names::Names;
use crate::verify::digest::{Both, Digests};
use crate::verify::trees::Trees;
use crate::{Pace, Stop};
use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};
use std::pin::pin;
use std::time::Duration;

/// How Consul differs in a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Difference {
    /// The key in Consul; that of a part if it is encoded there, unless the parts are [`joined`].
    pub key: String,
    /// In what way the two sides differ.
    pub what: What,
}

/// The subject of a comparison.
#[derive(Clone, Copy)]
struct Sides<'a> {
    etcd: &'a Etcd,
    target: &'a Target,
    mapping: &'a Mapping,
    revision: u64,
    pace: Pace,
    compares_values: bool,
    /// Whether the server is asked if it takes the names of the keys in a URL.
    asks_names: bool,
}

/// The keys that a whole comparison has read.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// The keys of both sides.
    pub tally: Tally,
    /// The digests, equal if two comparisons have read the same.
    pub digests: Digests,
}

/// Compares all keys of a revision with Consul.
///
/// # Errors
/// See [`Stop`], and errors of `found`.
pub async fn compare(
    etcd: &Etcd,
    target: &Target,
    mapping: &Mapping,
    revision: u64,
    pace: Pace,
    found: impl AsyncFnMut(Difference) -> Result<(), Stop>,
    progress: impl Fn(u64),
) -> Result<Compared, Stop> {
    let (compares_values, asks_names) = (true, false);
    let sides = Sides { etcd, target, mapping, revision, pace, compares_values, asks_names };
    sides.compare(found, progress).await
}

/// The result of a comparison.
#[derive(Clone, Debug)]
pub struct Found {
    /// The keys of both sides; not all unless the comparison is whole.
    pub tally: Tally,
    /// That of all keys; `None` unless the comparison is whole.
    pub digests: Option<Digests>,
    /// The keys that are not the same, up to the limit of the comparison.
    pub differences: Vec<Difference>,
    /// Whether all keys were compared. If not there may be more differences.
    pub is_whole: bool,
}

/// Compares the keys of a revision with Consul until there are `most` differences.
///
/// # Errors
/// See [`Stop`]; that programs cannot read a key in Consul, whose name the server does not take in a URL.
pub async fn compare_up_to(
    most: usize,
    etcd: &Etcd,
    target: &Target,
    mapping: &Mapping,
    revision: u64,
    pace: Pace,
    progress: impl Fn(u64),
) -> Result<Found, Stop> {
    let (tally, digests) = (Tally::default(), None);
    let mut found = Found { tally, digests, differences: Vec::new(), is_whole: true };
    let add = async |difference| {
        found.differences.push(difference);
        found.is_whole = found.differences.len() < most;
        // The error ends the comparison.
        if found.is_whole { Ok(()) } else { Err(Stop::Refused(String::new())) }
    };
    let (compares_values, asks_names) = (true, true);
    let sides = Sides { etcd, target, mapping, revision, pace, compares_values, asks_names };
    match sides.compare(add, progress).await {
        Ok(Compared { tally, digests }) => Ok(Found { tally, digests: Some(digests), ..found }),
        Err(_) if !found.is_whole => Ok(found),
        Err(stop) => Err(stop),
    }
}

/// The keys that Consul has and the revision does not.
///
/// # Errors
/// See [`Stop`], and errors of `found`.
pub async fn extras(
    etcd: &Etcd,
    target: &Target,
    mapping: &Mapping,
    revision: u64,
    pace: Pace,
    found: impl AsyncFnMut(Difference) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let (compares_values, asks_names) = (false, false);
    let sides = Sides { etcd, target, mapping, revision, pace, compares_values, asks_names };
    sides.compare(found, |_| ()).await.map(|_| ())
}

/// The same differences by keys: the parts of one encoded key are one difference; its name is the common beginning of
/// the parts.
pub fn joined(differences: Vec<Difference>, mapping: &Mapping) -> Vec<Difference> {
    let mut joined: Vec<Difference> = Vec::new();
    for Difference { key, what } in differences {
        let is_part =
            key.strip_prefix(&mapping.encoded_prefix()).is_some_and(|part| part_of(part).is_some());
        let whole = match key.rfind('/') {
            Some(at) if is_part => key[..=at].to_owned(),
            _ => key,
        };
        match joined.last_mut().filter(|other| is_part && other.key == whole) {
            Some(other) if other.what == what => {}
            Some(other) => other.what = What::Different,
            None => joined.push(Difference { key: whole, what }),
        }
    }
    joined
}

/// The keys that are compared together, with the transactions' default of 64 operations.
const AT_ONCE: usize = 256;

/// How often a difference is looked at again: it may be a change that is on its way.
pub(crate) const LOOKS: u32 = 5;
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// A comparison with the differences that last, while etcd's changes may still be applied; the parts of a key are one of
/// them. Of a comparison that is not whole only the first `most` are looked at.
///
/// The numbers are of the revision that was compared, also if Consul was further then: a key that programs have set
/// meanwhile is counted on neither side. Of two moments there are no digests.
///
/// # Errors
/// See [`Stop`].
pub async fn lasting(
    most: usize,
    etcd: &Etcd,
    target: &Target,
    mapping: &Mapping,
    found: Found,
) -> Result<Found, Stop> {
    let Found { mut tally, mut digests, differences: mut suspects, is_whole } = found;
    if !is_whole {
        suspects.truncate(most);
    }
    let lasting = confirmed(etcd, target, mapping, suspects.clone()).await?;
    let have_gone = lasting != suspects;
    let differences = joined(lasting, mapping);
    if have_gone {
        let count =
            |what| differences.iter().filter(|difference| difference.what == what).count() as u64;
        let moved = tally.moved + count(What::Extra);
        tally.consul = Some(moved.saturating_sub(count(What::Missing)));
        digests = None;
    }
    Ok(Found { tally, digests, differences, is_whole })
}

/// Of these differences those that last.
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
        mut found: impl AsyncFnMut(Difference) -> Result<(), Stop>,
        progress: impl Fn(u64),
    ) -> Result<Compared, Stop> {
        let mut compared = 0;
        let (mut tally, mut both) =
            (Tally { consul: Some(0), ..Tally::default() }, Both::default());
        for is_encoded in [false, true] {
            let (mut wanted, mut names) = (self.wanted(is_encoded), self.names(is_encoded).await?);
            let next_wanted = async || {
                let next = wanted.next(self.mapping, &mut tally).await?;
                match &next {
                    Some(Wanted { key, .. }) if self.asks_names && !is_encoded => {
                        self.ask(key).await?;
                    }
                    _ => {}
                }
                Ok(next)
            };
            let is_compared = |name: &str| match is_encoded {
                true => self.mapping.is_own_part(name),
                false => !self.mapping.is_own(name),
            };
            let (mut count, mut last) = (0, String::new());
            let next_name = async || loop {
                match names.next().await? {
                    Some(name) if !is_compared(&name) => {}
                    Some(name) => {
                        // Of several parts each but the first has the beginning of the one before.
                        let key = if is_encoded {
                            name.rfind('/').unwrap_or(name.len())
                        } else {
                            name.len()
                        };
                        count += u64::from(!is_encoded || name[..key] != last);
                        last.clear();
                        last.push_str(&name[..key]);
                        break Ok(Some(name));
                    }
                    None => break Ok(None),
                }
            };
            let walks = async |wanted| {
                ahead(next_name, String::len, async |names| {
                    let walk = Walk::new(self.target.max_ops, wanted, names).await;
                    let batches = stream::unfold(walk, |mut walk| async move {
                        Some((Ok::<_, Stop>(walk.batch().await?), walk))
                    });
                    let checked = batches.map_ok(|batch| self.check(batch, is_encoded));
                    // In their order, which is that of the digests.
                    let mut checked = pin!(checked.try_buffered(self.pace.in_flight));
                    while let Some(Checked { keys, differences, digested }) =
                        checked.try_next().await?
                    {
                        compared += keys;
                        progress(compared);
                        both.add(&digested);
                        for difference in differences {
                            found(difference).await?;
                        }
                    }
                    Ok(())
                })
                .await
            };
            ahead(next_wanted, Wanted::size, walks).await?;
            tally.consul = tally.consul.map(|before| before + count);
        }
        tally.etcd.get_or_insert(0);
        Ok(Compared { tally, digests: both.end() })
    }

    /// Refuses a key that programs cannot read.
    async fn ask(self, name: &str) -> Result<(), Stop> {
        match self.target.takes(name).await? {
            true => Ok(()),
            false => Err(Stop::Refused(format!(
                "programs cannot read the key {} of Consul: {}. If Consul was upgraded after the copy, `copy --again --on \
                 {problem}=encode` or {problem}=skip goes on, or the agent's option disable_kv_key_validation; if `tail` is behind, \
                 let it go on first",
                shown(name.as_bytes()),
                Problem::UrlKey.meaning(),
                problem = Problem::UrlKey,
            ))),
        }
    }

    /// The plain keys that Consul is to have, or the encoded ones.
    fn wanted(self, is_encoded: bool) -> AllWanted<'a> {
        let Sides { etcd, mapping, revision, pace, .. } = self;
        match is_encoded {
            false => AllWanted::Plain(Sorted::new(etcd, &mapping.etcd_prefix, revision, pace.page)),
            true if mapping.may_encode() => {
                let range = Range::prefix(&mapping.etcd_prefix);
                AllWanted::Encoded(Pages::new(etcd, range, revision, pace.page), VecDeque::new())
            }
            true => AllWanted::Nothing,
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

    async fn check(self, batch: Batch, is_encoded: bool) -> Result<Checked, Stop> {
        if !self.compares_values {
            let Batch { keys, differences, .. } = batch;
            return Ok(Checked { keys, differences, digested: [Vec::new(), Vec::new()] });
        }
        // Between encoded keys there may be other jobs' keys.
        let equal = if is_encoded { HashSet::new() } else { self.equal_in_trees(&batch).await? };
        let Batch { keys, names, mut differences, .. } = batch;
        let is_asked = |name: &&Name| name.is_in_consul && !equal.contains(&name.key);
        let asked: Vec<&str> =
            names.iter().filter(is_asked).map(|name| name.key.as_str()).collect();
        let mut found = self.target.entries(&asked).await?.into_iter();
        let mut digested = [Vec::new(), Vec::new()];
        for name in &names {
            let of_etcd = name.wanted.as_ref().map(|wanted| digest::of(&name.key, wanted));
            let of_consul = match is_asked(&name) {
                true => match (found.next().flatten(), &name.wanted) {
                    (Some(found), Some(wanted)) if found.value == *wanted => of_etcd,
                    (Some(found), wanted) => {
                        if wanted.is_some() {
                            differences
                                .push(Difference { key: name.key.clone(), what: What::Different });
                        }
                        Some(digest::of(&name.key, &found.value))
                    }
                    (None, Some(_)) => {
                        differences.push(Difference { key: name.key.clone(), what: What::Missing });
                        None
                    }
                    (None, None) => None,
                },
                false if name.is_in_consul => of_etcd,
                false => None,
            };
            for (side, one) in digested.iter_mut().zip([of_etcd, of_consul]) {
                side.extend(one.into_iter().flatten());
            }
        }
        Ok(Checked { keys, differences, digested })
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
        let names: Vec<&Name> = batch.names.iter().filter(|name| name.is_in_consul).collect();
        let asked: Vec<&str> = names.iter().map(|name| name.key.as_str()).collect();
        let found = self.target.trees(&trees.prefixes(&asked)).await?;
        let (mut equal, mut names) = (HashSet::new(), names.into_iter().peekable());
        for (key, value) in found {
            while names.next_if(|name| name.key < key).is_some() {}
            if names
                .next_if(|name| name.key == key && name.wanted.as_ref() == Some(&value))
                .is_some()
            {
                equal.insert(key);
            }
        }
        Ok(equal)
    }
}

/// The result of a batch.
struct Checked {
    /// Of etcd.
    keys: u64,
    differences: Vec<Difference>,
    /// The digests of etcd's keys, and of Consul's.
    digested: [Vec<u8>; 2],
}

/// Keys that are compared together.
#[derive(Default)]
struct Batch {
    /// Of etcd, with those before them that are left out.
    keys: u64,
    names: Vec<Name>,
    /// The names in Consul before and after these.
    before: Option<String>,
    after: Option<String>,
    differences: Vec<Difference>,
}

/// A name of Consul, at least on one side.
struct Name {
    key: String,
    /// The value that etcd has for it.
    wanted: Option<Bytes>,
    is_in_consul: bool,
}

/// A name that Consul is to have.
struct Wanted {
    key: String,
    value: Bytes,
    /// How many keys of etcd are reached with it: those before it that are left out, and it, if it is not a further part.
    keys: u64,
}

impl Wanted {
    fn size(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

/// The keys that Consul is to have, in bytewise order.
enum AllWanted<'a> {
    Plain(Sorted<'a>),
    Encoded(Pages<'a>, VecDeque<Wanted>),
    Nothing,
}

impl AllWanted<'_> {
    /// The next one. Counts all keys of etcd, each once.
    async fn next(&mut self, mapping: &Mapping, tally: &mut Tally) -> Result<Option<Wanted>, Stop> {
        match self {
            AllWanted::Nothing => Ok(None),
            AllWanted::Plain(entries) => {
                let mut keys = 0;
                while let Some(kv) = entries.next().await? {
                    match mapping.place(&kv) {
                        // In the other walk.
                        Place::Encoded(_) => continue,
                        Place::Plain(key) => {
                            tally.add(&kv, mapping);
                            return Ok(Some(Wanted { key, value: kv.value.0, keys: keys + 1 }));
                        }
                        Place::Nowhere(_) => keys += 1,
                        Place::Sentinel => {}
                    }
                    tally.add(&kv, mapping);
                }
                Ok(None)
            }
            AllWanted::Encoded(pages, ready) => loop {
                if let Some(first) = ready.pop_front() {
                    return Ok(Some(first));
                }
                let Some(page) = pages.next().await? else { return Ok(None) };
                for kv in &page.kvs {
                    let Place::Encoded(prefix) = mapping.place(kv) else { continue };
                    tally.add(kv, mapping);
                    let mut keys = 1;
                    for op in parts(&prefix, &kv.value.0, mapping.mark) {
                        let Op::Set { key, value, .. } = op else { continue };
                        ready.push_back(Wanted { key, value, keys });
                        keys = 0;
                    }
                }
            },
        }
    }
}

/// Both sides, walked through together.
struct Walk {
    max_ops: usize,
    wanted: Ahead<Wanted>,
    names: Ahead<String>,
    next_wanted: Option<Wanted>,
    next_name: Option<String>,
    last_name: Option<String>,
}

impl Walk {
    async fn new(max_ops: usize, mut wanted: Ahead<Wanted>, mut names: Ahead<String>) -> Self {
        let (next_wanted, next_name) = (wanted.next().await, names.next().await);
        Walk { max_ops, wanted, names, next_wanted, next_name, last_name: None }
    }

    /// The next keys; `None` after the last ones.
    async fn batch(&mut self) -> Option<Batch> {
        let (mut batch, mut bytes) = (Batch::default(), 0);
        batch.before = self.last_name.take();
        while batch.names.len() < AT_ONCE.min(4 * self.max_ops)
            && batch.differences.len() < self.max_ops
            && bytes < crate::mapping::MAX_IN_TXN
        {
            let order = match (&self.next_wanted, &self.next_name) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(wanted), Some(name)) => wanted.key.cmp(name),
            };
            let wanted = match order.is_le() {
                true => std::mem::replace(&mut self.next_wanted, self.wanted.next().await),
                false => None,
            };
            let name = match order.is_ge() {
                true => std::mem::replace(&mut self.next_name, self.names.next().await),
                false => None,
            };
            let is_in_consul = name.is_some();
            let (key, wanted) = match (wanted, name) {
                (Some(Wanted { key, value, keys }), name) => {
                    batch.keys += keys;
                    if name.is_none() {
                        batch
                            .differences
                            .push(Difference { key: key.clone(), what: What::Missing });
                    }
                    (key, Some(value))
                }
                (None, Some(key)) => {
                    batch.differences.push(Difference { key: key.clone(), what: What::Extra });
                    (key, None)
                }
                (None, None) => break,
            };
            if is_in_consul {
                bytes += key.len() + wanted.as_ref().map_or(0, Bytes::len);
                self.last_name = Some(key.clone());
            }
            batch.names.push(Name { key, wanted, is_in_consul });
        }
        self.last_name = self.last_name.take().or(batch.before.clone());
        batch.after = self.next_name.clone();
        (!batch.names.is_empty()).then_some(batch)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::{Form, hex};

    /// Any parts of a key that differ, in any way, are one key.
    #[test]
    fn the_parts_of_a_key_are_one_difference() {
        let mapping = Mapping {
            etcd_prefix: Vec::new(),
            consul_prefix: "x/".to_owned(),
            on: [].into(),
            form: Some(Form::Slashed),
            mark: 0,
            refused: Default::default(),
        };
        let part = |key: &str, part: &str| format!("x/_etcd/{}/{part}", hex::text(key.as_bytes()));
        let of = |names: &[(String, What)]| {
            let one = |(key, what): &(String, What)| Difference { key: key.clone(), what: *what };
            let all = joined(names.iter().map(one).collect(), &mapping);
            all.into_iter().map(|one| (one.key, one.what)).collect::<Vec<_>>()
        };
        let (missing, extra) = (What::Missing, What::Extra);
        let names = [
            ("x/a/b".to_owned(), missing),
            ("x/a/c".to_owned(), missing),
            (part("b", "0000-0002"), missing),
            (part("b", "0001-0002"), missing),
            (part("c", "0000-0001"), extra),
            (part("c", "0000-0002"), missing),
            ("x/_etcd/61/not-a-part".to_owned(), extra),
        ];
        let wanted = [
            ("x/a/b".to_owned(), missing),
            ("x/a/c".to_owned(), missing),
            (part("b", ""), missing),
            (part("c", ""), What::Different),
            ("x/_etcd/61/not-a-part".to_owned(), extra),
        ];
        assert_eq!(of(&names), wanted);
    }
}
