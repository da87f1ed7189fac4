//! What a transaction that changes the catalog goes back to when it is refused: all that such a
//! change can reach, through the sessions that it ends. Keys are undone by themselves.

use super::State;
use super::catalog::CatalogTable;
use super::coordinate::CoordinateTable;
use super::session::SessionTable;
use super::timer::Timers;
use crate::clock::Instant;
use std::collections::{HashMap, VecDeque};

/// A copy of what a change of the catalog can change.
pub(in crate::simulate) struct Snapshot {
    catalog: CatalogTable,
    coordinates: CoordinateTable,
    sessions: SessionTable,
    timers: Timers,
    lock_delays: HashMap<Box<[u8]>, Instant>,
    graves: VecDeque<(Instant, u64)>,
}

impl State {
    /// A copy to go back to.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            catalog: self.catalog.clone(),
            coordinates: self.coordinates.clone(),
            sessions: self.sessions.clone(),
            timers: self.timers.clone(),
            lock_delays: self.lock_delays.clone(),
            graves: self.graves.clone(),
        }
    }

    /// Goes back to a copy.
    pub fn restore(&mut self, before: Snapshot) {
        let Snapshot { catalog, coordinates, sessions, timers, lock_delays, graves } = before;
        self.catalog = catalog;
        self.coordinates = coordinates;
        self.sessions = sessions;
        self.timers = timers;
        self.lock_delays = lock_delays;
        self.graves = graves;
    }
}
