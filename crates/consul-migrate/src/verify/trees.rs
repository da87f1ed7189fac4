//! Reads many names that follow each other in Consul by few operations: a prefix that only they have reads all
//! of them at once, for a third of the processor's time that Consul takes to read each.

use consul_api::value::shape::check_key;

/// Prefixes of names, which follow each other in bytewise order.
#[derive(Debug)]
pub struct Trees<'a> {
    /// The name in Consul before the first of these, and the one after the last.
    pub before: Option<&'a str>,
    pub after: Option<&'a str>,
    /// A prefix that is not longer may have further names.
    pub least: usize,
    /// Prefixes of other names that Consul may have between these.
    pub others: [&'a str; 2],
}

impl Trees<'_> {
    /// The prefixes that read the names, but none of further ones. A name that is itself a prefix of a further one
    /// is left out.
    pub fn prefixes<'n>(&self, names: &[&'n str]) -> Vec<&'n str> {
        let (mut prefixes, mut at) = (Vec::new(), 0);
        while let Some(name) = names.get(at) {
            let before = if at > 0 { Some(names[at - 1]) } else { self.before };
            let least = before.map_or(0, |before| common(before, name) + 1).max(self.least + 1);
            let mut read = 1;
            for length in (least..=name.len()).filter(|length| name.is_char_boundary(*length)) {
                let prefix = &name[..length];
                let end = at + names[at..].partition_point(|name| name.starts_with(prefix));
                let has_further =
                    end == names.len() && self.after.is_some_and(|after| after.starts_with(prefix));
                let is_apart = !self.others.iter().any(|other| other.starts_with(prefix));
                // A prefix can end like a path that the client refuses, and the name does not.
                if !has_further && is_apart && check_key(prefix).is_ok() {
                    prefixes.push(prefix);
                    read = end - at;
                    break;
                }
            }
            at += read;
        }
        prefixes
    }
}

/// The number of bytes that two names have in common at their beginnings.
fn common(one: &str, other: &str) -> usize {
    one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn trees<'a>(before: Option<&'a str>, after: Option<&'a str>) -> Trees<'a> {
        Trees { before, after, least: 0, others: ["_migrate/", "_etcd/"] }
    }

    #[test]
    fn whole_directories_are_one_operation() {
        let names = ["app/1/a", "app/1/b", "app/2/a", "app/2/b", "b"];
        assert_eq!(trees(None, None).prefixes(&names), ["a", "b"]);
        assert_eq!(trees(Some("app/0/z"), Some("b/2")).prefixes(&names[..4]), ["app/1", "app/2"]);
        assert_eq!(
            trees(None, Some("app/2/c")).prefixes(&names[..4]),
            ["app/1", "app/2/a", "app/2/b"]
        );
        // It is the beginning of a name that is not among these.
        assert_eq!(trees(None, Some("b/2")).prefixes(&names), ["a"]);
    }

    #[test]
    fn keys_of_jobs_are_not_read_with_others() {
        assert_eq!(trees(None, None).prefixes(&["_a", "_f", "_migrant"]), ["_a", "_f", "_migran"]);
        let below = Trees { least: 2, ..trees(None, None) };
        assert_eq!(below.prefixes(&["d/a", "d/b"]), ["d/a", "d/b"]);
    }

    #[test]
    fn a_prefix_that_the_client_refuses_is_not_asked_for() {
        let names = ["x/..a", "x/.b", "x/.c"];
        assert_eq!(trees(Some("x/-"), None).prefixes(&names), ["x/..a", "x/.b", "x/.c"]);
    }

    proptest! {
        #[test]
        fn each_name_is_read_once_and_no_further_one(
            all in prop::collection::btree_set("[abü/]{1,6}", 1..40),
            from in 0_usize..40,
            count in 1_usize..40,
        ) {
            let all = all.iter().map(String::as_str).filter(|name| check_key(name).is_ok());
            let all: Vec<&str> = all.collect();
            prop_assume!(!all.is_empty());
            let from = from % all.len();
            let names = &all[from..all.len().min(from + count)];
            let before = from.checked_sub(1).map(|at| all[at]);
            let after = all.get(from + names.len()).copied();
            let prefixes = trees(before, after).prefixes(names);
            let under = |prefix: &&str| all.iter().filter(|name| name.starts_with(*prefix)).count();
            let is_under = |name: &&&str| prefixes.iter().any(|prefix| name.starts_with(*prefix));
            let read: Vec<&str> = all.iter().filter(is_under).copied().collect();
            let once: BTreeSet<&str> = read.iter().copied().collect();
            prop_assert_eq!(prefixes.iter().map(under).sum::<usize>(), read.len());
            prop_assert!(read.iter().all(|name| names.contains(name)));
            for name in names.iter().filter(|name| !once.contains(**name)) {
                prop_assert!(after.is_some_and(|after| after.starts_with(*name)), "{}", name);
            }
        }
    }
}
