//! Ordered maps and sets from iterators, and sorted lists, entry by entry. `collect` and `sort` of the standard
//! library are faster for thousands of entries, and 6 to 12 kB of code in the module for each type.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// The map of these entries; of several with the same key the last one counts.
pub fn map<K: Ord, V>(entries: impl IntoIterator<Item = (K, V)>) -> BTreeMap<K, V> {
    let mut map = BTreeMap::new();
    for (key, value) in entries {
        map.insert(key, value);
    }
    map
}

/// As [`map`], up to the first error.
///
/// # Errors
/// The first error among the entries.
pub fn try_map<K: Ord, V, E>(
    entries: impl IntoIterator<Item = Result<(K, V), E>>,
) -> Result<BTreeMap<K, V>, E> {
    let mut map = BTreeMap::new();
    for entry in entries {
        let (key, value) = entry?;
        map.insert(key, value);
    }
    Ok(map)
}

/// The set of these values.
pub fn set<T: Ord>(values: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    let mut set = BTreeSet::new();
    for value in values {
        set.insert(value);
    }
    set
}

/// Sorts a list and keeps the order of equal items. For up to some hundred items, or those that are mostly in order.
pub fn sort_by<T>(items: &mut [T], compare: impl Fn(&T, &T) -> Ordering) {
    for end in 1..items.len() {
        let (sorted, rest) = items.split_at(end);
        let place = sorted.partition_point(|item| compare(item, &rest[0]).is_le());
        for later in (place..end).rev() {
            items.swap(later, later + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sorted_list_keeps_the_order_of_equal_items() {
        let mut rng = fastrand::Rng::with_seed(1);
        for length in 0..40 {
            let mut items: Vec<_> = (0..length).map(|place| (rng.u8(..8), place)).collect();
            let mut expected = items.clone();
            expected.sort();
            sort_by(&mut items, |one, other| one.0.cmp(&other.0));
            assert_eq!(items, expected);
        }
    }
}
