//! The rollback of transactions that change the catalog: all tables that such a change can affect,
//! also through the sessions that it ends. The key-value table has its own undo.

use super::State;
use super::catalog::CatalogTable;
use super::coordinate::CoordinateTable;
use super::session::SessionTable;
use super::timer::Timers;
use crate::query::table::QueryTable;
use consul_process::clock::Instant;
use std::collections::{HashMap, VecDeque};

/// A copy of the tables that a change of the catalog can affect.
pub(crate) struct Before {
    catalog: CatalogTable,
    coordinates: CoordinateTable,
    sessions: SessionTable,
    queries: QueryTable,
    timers: Timers,
    lock_delays: HashMap<Box<[u8]>, Instant>,
    tombstone_batches: VecDeque<(Instant, u64)>,
}

impl State {
    /// A copy of the tables that a change of the catalog can affect.
    pub fn before(&self) -> Before {
        Before {
            catalog: self.catalog.clone(),
            coordinates: self.coordinates.clone(),
            sessions: self.sessions.clone(),
            queries: self.queries.clone(),
            timers: self.timers.clone(),
            lock_delays: self.lock_delays.clone(),
            tombstone_batches: self.tombstone_batches.clone(),
        }
    }

    /// Takes all changes back since the copy was made.
    pub fn roll_back(&mut self, before: Before) {
        let Before {
            catalog,
            coordinates,
            sessions,
            queries,
            timers,
            lock_delays,
            tombstone_batches,
        } = before;
        self.catalog = catalog;
        self.coordinates = coordinates;
        self.sessions = sessions;
        self.queries = queries;
        self.timers = timers;
        self.lock_delays = lock_delays;
        self.tombstone_batches = tombstone_batches;
    }
}
