//! Ordered maps and sets from iterators, entry by entry. `collect` sorts the entries first, which is faster for
//! thousands of them, and 6 kB of code in the module for each type.

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
