//! A cluster's nodes on a simulated agent whose clock the tests move.

mod data_plane;
mod election;
mod keys;
mod log_lines;
mod losses;
mod metrics;
mod nodes;
mod observer;
mod overview;
mod replication;
mod requests;
mod settings;
mod start;
mod status;
mod storage;
mod stores;
#[path = "../support/mod.rs"]
mod support;
