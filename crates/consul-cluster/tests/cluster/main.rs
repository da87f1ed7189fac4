//! A cluster's nodes on a simulated agent whose clock the tests move.

mod copies;
mod data_plane;
mod disk;
mod election;
mod keys;
mod log_lines;
mod losses;
mod metrics;
mod mixed_answers;
mod modes;
mod nodes;
mod observer;
mod older_answers;
mod overview;
#[allow(dead_code)]
#[path = "../../../consul-test-support/src/world.rs"]
mod own_world;
mod refused;
mod replication;
mod requests;
mod settings;
mod shared_service;
mod start;
mod starts;
mod status;
mod storage;
mod stores;
mod time_limits;

/// The common parts of tests, to which this binary adds methods.
mod support {
    pub(crate) use crate::own_world as world;
    pub use consul_test_support::*;
}
