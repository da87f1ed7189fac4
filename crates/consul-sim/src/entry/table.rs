//! The stored entries.

use crate::http::decode::Json;
use std::collections::BTreeMap;

/// One entry.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(super) struct Entry {
    /// The members in the order of replies, without the indexes.
    pub body: Json,
    pub create_index: u64,
    pub modify_index: u64,
}

impl Entry {
    /// The name as it was written; `None` if the kind has only one entry without one.
    pub fn name(&self) -> Option<&str> {
        Some(self.body.at("Name").as_text()).filter(|name| !name.is_empty())
    }

    /// The entry in replies. Its hash only says whether it changes.
    pub fn view(&self) -> Json {
        let number = |name: &str, value: u64| (name.to_owned(), Json::Number(value.into()));
        let hash = self.modify_index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut members = self.body.members().to_vec();
        members.push(number("Hash", hash));
        members.push(number("CreateIndex", self.create_index));
        members.push(number("ModifyIndex", self.modify_index));
        Json::Object(members)
    }
}

/// All entries, by kind and by name in lower case: names that differ in case are the same.
#[derive(Clone, Debug, Default, serde::Deserialize, serde::Serialize)]
pub(crate) struct EntryTable {
    entries: BTreeMap<String, BTreeMap<String, Entry>>,
    newest: u64,
    /// The index of the last change of each kind, and of each `kind/name`.
    #[serde(default)]
    changes: BTreeMap<String, u64>,
}

impl EntryTable {
    /// The index of the last change.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// The index of the last change of a kind or of a `kind/name`; 0 if there was none.
    pub(super) fn changed(&self, path: &str) -> u64 {
        self.changes.get(path).copied().unwrap_or(0)
    }

    /// The names that the last change was of.
    pub(super) fn last_changes(&self) -> impl Iterator<Item = &String> {
        self.changes.iter().filter(|(_, index)| **index == self.newest).map(|(path, _)| path)
    }

    fn change(&mut self, kind: &str, name: &str, index: u64) {
        self.newest = index;
        for path in [kind.to_owned(), format!("{kind}/{name}")] {
            self.changes.insert(path, index);
        }
    }

    pub(super) fn get(&self, kind: &str, name: &str) -> Option<&Entry> {
        self.entries.get(kind)?.get(&name.to_lowercase())
    }

    /// The entries of a kind with their names, as these were written.
    pub(super) fn of_kind(&self, kind: &str) -> impl Iterator<Item = (&str, &Entry)> {
        let entries = self.entries.get(kind).into_iter().flatten();
        entries.map(|(key, entry)| (entry.name().unwrap_or(key), entry))
    }

    pub(super) fn put(&mut self, kind: &str, name: &str, body: Json, index: u64) {
        let entries = self.entries.entry(kind.to_owned()).or_default();
        let name = name.to_lowercase();
        let create_index = entries.get(&name).map_or(index, |present| present.create_index);
        entries.insert(name.clone(), Entry { body, create_index, modify_index: index });
        self.change(kind, &name, index);
    }

    pub(super) fn remove(&mut self, kind: &str, name: &str, index: u64) {
        let removed =
            self.entries.get_mut(kind).and_then(|entries| entries.remove(&name.to_lowercase()));
        if removed.is_some() {
            self.change(kind, &name.to_lowercase(), index);
        }
    }
}
