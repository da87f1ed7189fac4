//! The server's data on its disk, as a snapshot contains them.

use super::State;
use super::catalog::CatalogTable;
use super::coordinate::CoordinateTable;
use super::kv::KvTable;
use super::session::SessionTable;
use crate::acl::table::AclTable;
use crate::entry::table::EntryTable;
use crate::query::table::QueryTable;
use std::mem::swap;
use std::sync::Arc;

/// A copy of the server's tables.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(crate) struct Image {
    /// The newest index of the Raft log.
    pub index: u64,
    kv: KvTable,
    sessions: SessionTable,
    queries: QueryTable,
    entries: EntryTable,
    catalog: CatalogTable,
    pub acl: AclTable,
    coordinates: CoordinateTable,
}

impl State {
    /// A copy of the server's tables.
    pub fn image(&self) -> Image {
        Image {
            index: self.index,
            kv: self.kv.clone(),
            sessions: self.sessions.clone(),
            queries: self.queries.clone(),
            entries: self.entries.clone(),
            catalog: self.catalog.clone(),
            acl: self.acl.clone(),
            coordinates: self.coordinates.clone(),
        }
    }

    /// Calls a function with the server's tables as they were before the last restore, if there was one.
    pub fn before_restore<R>(&mut self, read: impl FnOnce(&mut State) -> R) -> R {
        let Some(mut before) = self.before_restore.take() else { return read(self) };
        self.swap(&mut before);
        let answer = read(self);
        self.swap(&mut before);
        self.before_restore = Some(before);
        answer
    }

    fn swap(&mut self, image: &mut Image) {
        swap(&mut self.index, &mut image.index);
        swap(&mut self.kv, &mut image.kv);
        swap(&mut self.sessions, &mut image.sessions);
        swap(&mut self.queries, &mut image.queries);
        swap(&mut self.entries, &mut image.entries);
        swap(&mut self.catalog, &mut image.catalog);
        swap(&mut self.coordinates, &mut image.coordinates);
    }

    /// Replaces the server's tables. The agent keeps its services and checks, which it compares with the catalog up to a minute
    /// later. The indexes of the tables go back and the Raft log goes on, TTLs restart, lock delays end, and all waiting queries
    /// return what they have found before.
    ///
    /// Source: `Restore` of the library hashicorp/raft, and Consul 1.21.
    pub fn restore(&mut self, image: Image) {
        let is_read = self.watches.waiters() > 0;
        self.before_restore = is_read.then(|| Box::new(self.image()));
        let Image { index, kv, sessions, queries, entries, catalog, acl, coordinates } = image;
        self.index = self.index.max(index) + 1;
        self.kv = kv;
        self.sessions = sessions;
        self.queries = queries;
        self.entries = entries;
        self.catalog = catalog;
        self.coordinates = coordinates;
        self.timers.keep_those_of_the_agent();
        self.lock_delays.clear();
        self.tombstone_batches.clear();
        self.reap_later(self.index);
        self.restore_acl(acl);
        for id in self.sessions.all().map(|session| Arc::clone(&session.id)).collect::<Vec<_>>() {
            self.start_ttl(&id);
        }
        self.restores += 1;
        self.watches.wake_all();
        let node = self.node_name.clone();
        self.catalog_changed(&node);
    }
}
