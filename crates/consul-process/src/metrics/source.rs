//! Objects that have numbers while they exist.

use super::numbers::Numbers;
use super::{Page, numbers};
use crate::sync::lock;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, Weak};

/// The numbers that an object gives whenever the text is made, on any thread.
pub trait Source: Send + Sync {
    /// Adds its numbers.
    fn write(&self, page: &mut Page);
}

/// The objects of a process.
#[derive(Default)]
pub(super) struct Sources(Mutex<BTreeMap<u64, Weak<dyn Source>>>);

/// An object that is asked for its numbers until this is dropped.
#[must_use]
pub struct Registered {
    key: u64,
    numbers: &'static Numbers,
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registered")
    }
}

/// Has the object asked for its numbers from now on.
pub fn register(source: Weak<dyn Source>) -> Registered {
    let numbers = numbers();
    let mut sources = lock(&numbers.sources.0);
    let key = sources.last_key_value().map_or(0, |(last, _)| last + 1);
    sources.insert(key, source);
    Registered { key, numbers }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.numbers.sources.0).remove(&self.key);
    }
}

/// Asks each object, without the lock: it may take others.
pub(super) fn write(numbers: &Numbers, page: &mut Page) {
    let sources: Vec<_> = lock(&numbers.sources.0).values().cloned().collect();
    for source in sources.iter().filter_map(Weak::upgrade) {
        source.write(page);
    }
}
