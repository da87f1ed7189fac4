//! The count of the keys of etcd by treatment: the one count that all verbs print, and have in their reports.

use crate::etcd::KeyValue;
use crate::mapping::{Choice, Mapping, Place, Problem};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;

/// Keys, each counted once, whatever number of parts its value has in Consul. Those in etcd are the sum of the moved, the
/// leased, the skipped and the refused ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Tally {
    /// The keys of etcd that the job is about, without the sentinels of jobs; `None` if etcd was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<u64>,
    /// The keys that have a place in Consul.
    pub moved: u64,
    /// The moved keys that have another form there.
    pub encoded: u64,
    /// The keys that are left out because they have a lease.
    pub leased: u64,
    /// The keys that are left out by choice, by kind.
    pub skipped: BTreeMap<Problem, u64>,
    /// The keys for which nothing is chosen, by kind: a copy does not begin with one, and a tail ends at one.
    pub refused: BTreeMap<Problem, u64>,
    /// The keys that Consul has in their place; `None` if they were not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consul: Option<u64>,
}

impl Tally {
    /// Counts an entry of etcd.
    pub fn add(&mut self, kv: &KeyValue, mapping: &Mapping) {
        match mapping.place(kv) {
            Place::Sentinel => return,
            Place::Plain(_) => self.moved += 1,
            Place::Encoded(_) => (self.moved, self.encoded) = (self.moved + 1, self.encoded + 1),
            Place::Nowhere(problem) => match mapping.choice(problem) {
                Choice::Refuse => *self.refused.entry(problem).or_default() += 1,
                _ if problem == Problem::Leased => self.leased += 1,
                _ => *self.skipped.entry(problem).or_default() += 1,
            },
        }
        *self.etcd.get_or_insert(0) += 1;
    }

    /// Counts what the choice for collisions does, if the form of most keys was not known before: `rarer` of the moved keys
    /// have the other one, and `collisions` of them collide.
    pub(crate) fn collide(&mut self, mapping: &Mapping, rarer: u64, collisions: u64) {
        let choice = mapping.choice(Problem::Collision);
        match choice {
            _ if mapping.form.is_some() && choice != Choice::Refuse => {}
            Choice::Encode => self.encoded += rarer,
            Choice::Skip | Choice::Refuse => {
                let (left_out, count) = match choice {
                    Choice::Skip => (&mut self.skipped, rarer),
                    _ => (&mut self.refused, collisions),
                };
                if count > 0 {
                    *left_out.entry(Problem::Collision).or_default() += count;
                    self.moved -= count;
                }
            }
        }
    }

    /// Counts entries of etcd.
    pub fn of(kvs: &[KeyValue], mapping: &Mapping) -> Tally {
        let mut tally = Tally { etcd: Some(0), ..Tally::default() };
        kvs.iter().for_each(|kv| tally.add(kv, mapping));
        tally
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (None, None) => None,
            (one, other) => Some(one.unwrap_or(0) + other.unwrap_or(0)),
        };
        self.etcd = sum(self.etcd, other.etcd);
        self.consul = sum(self.consul, other.consul);
        self.moved += other.moved;
        self.encoded += other.encoded;
        self.leased += other.leased;
        for (all, some) in [(&mut self.skipped, other.skipped), (&mut self.refused, other.refused)]
        {
            some.into_iter().for_each(|(problem, count)| *all.entry(problem).or_default() += count);
        }
    }
}

/// In one line, such as `4 keys in etcd: 2 moved (1 encoded), 1 leased, 1 skipped (path-key 1)`.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = |count: u64| format!("{count} key{}", if count == 1 { "" } else { "s" });
        match (self.etcd, self.consul) {
            (Some(count), _) => write!(f, "{} in etcd: {} moved", keys(count), self.moved)?,
            (None, count) => write!(f, "{}", keys(count.unwrap_or(self.moved)))?,
        }
        if self.encoded > 0 {
            write!(f, " ({} encoded)", self.encoded)?;
        }
        if self.leased > 0 {
            write!(f, ", {} leased", self.leased)?;
        }
        for (name, kinds) in [("skipped", &self.skipped), ("refused", &self.refused)] {
            if kinds.is_empty() {
                continue;
            }
            let each: Vec<String> =
                kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            write!(f, ", {} {name} ({})", kinds.values().sum::<u64>(), each.join(", "))?;
        }
        match (self.etcd, self.consul) {
            (Some(_), Some(count)) => write!(f, "; Consul has {}", keys(count)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn entry(key: &[u8], size: usize, lease: u64) -> KeyValue {
        let mut kv = KeyValue::default();
        (kv.key.0, kv.value.0) = (Bytes::copy_from_slice(key), vec![0; size].into());
        kv.lease.0 = lease;
        kv
    }

    fn choice() -> impl Strategy<Value = Choice> {
        prop_oneof![Just(Choice::Skip), Just(Choice::Encode), Just(Choice::Refuse)]
    }

    proptest! {
        /// For all keys and choices the numbers add up, also the numbers of parts of a snapshot.
        #[test]
        fn the_numbers_add_up(
            keys in prop::collection::vec(
                (prop_oneof!["/?[ab/.]{0,3}", "\\PC{1,3}", "_etcd/x"], 0_usize..3, 0_u64..2), 0..40),
            choices in prop::collection::vec(choice(), Problem::ALL.len()),
            at in 0_usize..40,
        ) {
            let on = Problem::ALL.iter().copied().zip(choices).collect();
            let mapping = Mapping {
                etcd_prefix: Vec::new(), consul_prefix: String::new(), on,
                form: Some(crate::mapping::Form::Slashed), mark: 0,
                refused: Default::default(),
            };
            let size = |size: usize| if size == 2 { crate::mapping::MAX_VALUE + 1 } else { size };
            let kvs: Vec<_> = keys.iter().map(|(key, of, lease)| entry(key.as_bytes(), size(*of), *lease)).collect();
            let all = Tally::of(&kvs, &mapping);
            let left = all.skipped.values().chain(all.refused.values()).sum::<u64>();
            prop_assert_eq!(all.etcd, Some(kvs.len() as u64));
            prop_assert_eq!(all.moved + all.leased + left, kvs.len() as u64);
            prop_assert!(!all.skipped.contains_key(&Problem::Leased) && all.encoded <= all.moved);
            let (first, rest) = kvs.split_at(at.min(kvs.len()));
            let mut sum = Tally::of(first, &mapping);
            sum += Tally::of(rest, &mapping);
            prop_assert_eq!(sum, all);
        }
    }

    #[test]
    fn the_line_has_each_number_that_is_not_zero() {
        let none = Tally { etcd: Some(0), ..Tally::default() };
        assert_eq!(none.to_string(), "0 keys in etcd: 0 moved");
        let all = Tally {
            etcd: Some(9),
            moved: 3,
            encoded: 1,
            leased: 2,
            skipped: [(Problem::PathKey, 1), (Problem::NotUtf8, 2)].into(),
            refused: [(Problem::EmptyKey, 1)].into(),
            consul: Some(3),
        };
        assert_eq!(
            all.to_string(),
            "9 keys in etcd: 3 moved (1 encoded), 2 leased, 3 skipped (path-key 1, not-utf8 2), 1 refused (empty-key 1); \
             Consul has 3 keys"
        );
        let export = Tally { moved: 1, encoded: 1, consul: Some(1), ..Tally::default() };
        assert_eq!(export.to_string(), "1 key (1 encoded)");
    }
}
