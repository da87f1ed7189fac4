//! The key-value table: entries in the order of their keys, and the tombstones of deleted ones.

use super::session::SessionId;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};

/// An entry without its key.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(crate) struct Entry {
    pub value: Box<[u8]>,
    pub flags: u64,
    /// The session that holds the lock.
    pub session: Option<SessionId>,
    pub lock_index: u64,
    pub create_index: u64,
    pub modify_index: u64,
}

impl Entry {
    /// Whether writing `self` over `other` changes nothing.
    fn same_as(&self, other: &Entry) -> bool {
        self.lock_index == other.lock_index
            && self.flags == other.flags
            && self.session == other.session
            && self.value == other.value
    }
}

/// All entries.
#[derive(Clone, Debug, Default, serde::Deserialize, serde::Serialize)]
pub(crate) struct KvTable {
    entries: BTreeMap<Box<[u8]>, Entry>,
    tombstones: BTreeMap<Box<[u8]>, u64>,
    /// The index of the newest change, deletions included.
    newest: u64,
    locked: BTreeMap<SessionId, BTreeSet<Box<[u8]>>>,
    /// How to undo the changes of the current transaction, if there is one.
    #[serde(skip)]
    undo: Option<Undo>,
}

#[derive(Clone, Debug)]
struct Undo {
    newest: u64,
    entries: Vec<(Box<[u8]>, Option<Entry>)>,
    tombstones: Vec<(Box<[u8]>, Option<u64>)>,
}

impl KvTable {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The entries whose key begins with `prefix`, in the order of their keys.
    pub fn under<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a Entry)> {
        from_prefix(&self.entries, prefix)
    }

    /// The index of the newest change in the table; 0 before the first one.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// The index of the newest known change under `prefix`, else of the table.
    pub fn newest_under(&self, prefix: &[u8]) -> u64 {
        if prefix.is_empty() {
            return self.newest;
        }
        let entries = self.under(prefix).map(|(_, entry)| entry.modify_index);
        let tombstones = from_prefix(&self.tombstones, prefix).map(|(_, index)| *index);
        entries.chain(tombstones).max().unwrap_or(self.newest)
    }

    /// Where the server waits for keys under a prefix that has none, nor a tombstone: at the node of its tree
    /// of keys where the way of the prefix ends.
    pub fn near(&self, prefix: &[u8]) -> Option<Near> {
        let has_none = self.under(prefix).next().is_none()
            && from_prefix(&self.tombstones, prefix).next().is_none();
        let is_waiting = has_none && !prefix.is_empty();
        is_waiting.then(|| self.place(prefix))
    }

    /// Where the server waits for a key that does not exist.
    pub fn near_key(&self, key: &[u8]) -> Near {
        self.place(&Vec::from_iter(ended(key)))
    }

    /// The index of the last known change there; 0 if there is none.
    pub fn newest_near(&self, near: &Near) -> u64 {
        // The place itself has moved.
        if self.place(&near.prefix) != *near {
            return self.newest;
        }
        let within = near.path.get(..near.depth).unwrap_or_default();
        let is_there = |key: &[u8]| in_common(key, &near.path) >= near.depth;
        let prefix = within.strip_suffix(&[0]).unwrap_or(within);
        let entries = self.under(prefix).filter(|(key, _)| is_there(key));
        let tombstones = from_prefix(&self.tombstones, prefix).filter(|(key, _)| is_there(key));
        let indexes = entries.map(|(_, entry)| entry.modify_index);
        indexes.chain(tombstones.map(|(_, index)| *index)).max().unwrap_or(0)
    }

    fn place(&self, prefix: &[u8]) -> Near {
        let before =
            |key: &[u8]| self.entries.range::<[u8], _>((Unbounded, Excluded(key))).next_back();
        let after = |key: &[u8]| self.entries.range::<[u8], _>((Included(key), Unbounded)).next();
        let common = |found: Option<(&Box<[u8]>, _)>, with: &[u8]| {
            found.map_or(0, |(key, _): (_, &Entry)| in_common(key, with))
        };
        let shared = common(before(prefix), prefix).max(common(after(prefix), prefix));
        let mut near = Near { prefix: prefix.into(), path: Vec::new(), depth: 0 };
        if shared == 0 {
            return near;
        }
        let around = &prefix[..shared];
        let Some(first) = self.under(around).map(|(key, _)| key).next() else { return near };
        let end = behind(around).map_or(Unbounded, Excluded);
        let last =
            self.entries.range::<[u8], _>((Included(around), end.as_ref().map(|end| &**end)));
        let last = last.map(|(key, _)| &**key).next_back().unwrap_or(first);
        near.path = ended(first).take(in_common(last, &Vec::from_iter(ended(first)))).collect();
        // Keys beyond it end where they differ from it.
        let beyond = self.entries.range::<[u8], _>((Excluded(last), Unbounded)).next();
        near.depth = 1 + common(before(first), &near.path).max(common(beyond, &near.path));
        near
    }

    /// Whether the server wakes those who wait there, after a change of this key.
    pub fn wakes(&self, key: &[u8], near: &Near) -> bool {
        in_common(key, &near.path) >= near.depth
            // A node that is left alone becomes one with its child.
            || self.get(key).is_none() && self.place(&near.prefix) != *near
    }

    /// Writes an entry and sets its indexes; false if it is the same as the present one.
    pub fn put(&mut self, key: &[u8], mut entry: Entry, index: u64) -> bool {
        entry.create_index = index;
        entry.modify_index = index;
        if let Some(present) = self.entries.get(key) {
            if entry.same_as(present) {
                return false;
            }
            entry.create_index = present.create_index;
        }
        self.newest = index;
        self.replace(key, Some(entry));
        true
    }

    /// Deletes a key and leaves a tombstone; false if the key does not exist.
    pub fn delete(&mut self, key: &[u8], index: u64) -> bool {
        if !self.entries.contains_key(key) {
            return false;
        }
        self.replace(key, None);
        self.add_tombstone(key, index);
        true
    }

    /// Deletes all keys under a prefix and returns them. One tombstone covers them all; the empty
    /// prefix needs none, because its index is the table's.
    pub fn delete_under(&mut self, prefix: &[u8], index: u64) -> Vec<Box<[u8]>> {
        let keys: Vec<Box<[u8]>> = self.under(prefix).map(|(key, _)| key.into()).collect();
        for key in &keys {
            self.replace(key, None);
        }
        if !keys.is_empty() {
            self.newest = index;
            if !prefix.is_empty() {
                self.add_tombstone(prefix, index);
            }
        }
        keys
    }

    /// Reaps the tombstones up to `index`.
    pub fn reap(&mut self, index: u64) {
        self.tombstones.retain(|_, buried| *buried > index);
    }

    /// The keys that a session has locked.
    pub fn locked_by(&self, session: &SessionId) -> Vec<Box<[u8]>> {
        self.locked.get(session).into_iter().flatten().cloned().collect()
    }

    /// Starts to record how to undo the changes from here on.
    pub fn begin(&mut self) {
        let undo = Undo { newest: self.newest, entries: Vec::new(), tombstones: Vec::new() };
        self.undo = Some(undo);
    }

    /// Keeps the changes since [`KvTable::begin`].
    pub fn commit(&mut self) {
        self.undo = None;
    }

    /// Undoes the changes since [`KvTable::begin`].
    pub fn roll_back(&mut self) {
        let Some(undo) = self.undo.take() else { return };
        self.newest = undo.newest;
        for (key, entry) in undo.entries.into_iter().rev() {
            self.replace(&key, entry);
        }
        for (key, tombstone) in undo.tombstones.into_iter().rev() {
            match tombstone {
                Some(index) => self.tombstones.insert(key, index),
                None => self.tombstones.remove(&key),
            };
        }
    }

    fn add_tombstone(&mut self, key: &[u8], index: u64) {
        self.newest = index;
        let before = self.tombstones.insert(key.into(), index);
        if let Some(undo) = &mut self.undo {
            undo.tombstones.push((key.into(), before));
        }
    }

    /// Sets or removes an entry as it is; the only place that changes entries.
    fn replace(&mut self, key: &[u8], entry: Option<Entry>) {
        let holder = entry.as_ref().and_then(|entry| entry.session.clone());
        let before = match entry {
            Some(entry) => match self.entries.get_mut(key) {
                Some(present) => Some(std::mem::replace(present, entry)),
                None => self.entries.insert(key.into(), entry),
            },
            None => self.entries.remove(key),
        };
        let held = before.as_ref().and_then(|entry| entry.session.clone());
        if held != holder {
            self.set_holder(key, held, holder);
        }
        if let Some(undo) = &mut self.undo {
            undo.entries.push((key.into(), before));
        }
    }

    fn set_holder(&mut self, key: &[u8], before: Option<SessionId>, after: Option<SessionId>) {
        if let Some(session) = before
            && let Some(keys) = self.locked.get_mut(&session)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.locked.remove(&session);
            }
        }
        if let Some(session) = after {
            self.locked.entry(session).or_default().insert(key.into());
        }
    }
}

/// A place in the server's tree of keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Near {
    prefix: Box<[u8]>,
    /// The common beginning of the keys from there on.
    path: Vec<u8>,
    /// A key that begins with this number of bytes of the path changes the place.
    depth: usize,
}

/// The first key behind all that begin with `prefix`; `None` if there can be none.
fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let place = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut key = prefix[..=place].to_vec();
    key[place] += 1;
    Some(key)
}

/// A key with the byte that ends it in the tree.
fn ended(key: &[u8]) -> impl Iterator<Item = u8> {
    key.iter().copied().chain([0])
}

/// The number of bytes that a key and a path begin with.
fn in_common(key: &[u8], path: &[u8]) -> usize {
    ended(key).zip(path).take_while(|(one, other)| one == *other).count()
}

fn from_prefix<'a, V>(
    map: &'a BTreeMap<Box<[u8]>, V>,
    prefix: &'a [u8],
) -> impl Iterator<Item = (&'a [u8], &'a V)> {
    map.range::<[u8], _>((Included(prefix), Unbounded))
        .map(|(key, value)| (&**key, value))
        .take_while(move |(key, _)| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &str) -> Entry {
        Entry {
            value: value.as_bytes().into(),
            flags: 0,
            session: None,
            lock_index: 0,
            create_index: 0,
            modify_index: 0,
        }
    }

    #[test]
    fn a_prefix_keeps_the_index_of_its_tombstone_until_it_is_reaped() {
        let mut kv = KvTable::default();
        kv.put(b"p/a", entry("1"), 5);
        kv.put(b"p/b", entry("1"), 6);
        assert!(kv.delete(b"p/b", 7));
        kv.put(b"q", entry("1"), 8);
        assert_eq!((kv.newest_under(b"p/"), kv.newest_under(b"x"), kv.newest()), (7, 8, 8));
        kv.reap(7);
        assert_eq!(kv.newest_under(b"p/"), 5);
    }

    #[test]
    fn a_deleted_tree_leaves_one_tombstone_at_its_prefix() {
        let mut kv = KvTable::default();
        kv.put(b"t/a/1", entry("1"), 5);
        kv.put(b"t/b", entry("1"), 6);
        assert_eq!(kv.delete_under(b"t/", 7).len(), 2);
        kv.put(b"q", entry("1"), 8);
        assert_eq!((kv.newest_under(b"t/"), kv.newest_under(b"t/a/")), (7, 8));
    }

    #[test]
    fn rolling_back_leaves_no_trace() {
        let mut kv = KvTable::default();
        let session: SessionId = "s".into();
        kv.put(b"a", entry("1"), 5);
        kv.delete(b"gone", 6);
        kv.begin();
        kv.put(b"a", Entry { session: Some(session.clone()), ..entry("2") }, 7);
        kv.put(b"b", entry("2"), 7);
        kv.delete(b"a", 7);
        kv.delete_under(b"b", 7);
        kv.roll_back();
        assert_eq!(
            kv.get(b"a").map(|entry| (&*entry.value, entry.modify_index)),
            Some((&b"1"[..], 5))
        );
        assert!(kv.get(b"b").is_none());
        assert_eq!((kv.newest(), kv.newest_under(b"a"), kv.newest_under(b"b")), (5, 5, 5));
        assert!(kv.locked_by(&session).is_empty());
    }
}
