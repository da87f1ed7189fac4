//! Consul's endpoints: a row for each, by area.

// The documentation of a row is its `doc`.
#![allow(missing_docs)]

pub mod acl;
pub mod agent;
pub mod catalog;
pub mod config_entry;
pub mod connect;
pub mod coordinate;
pub mod event;
pub mod health;
pub mod kv;
pub mod operator;
pub mod peering;
pub mod query;
pub mod raw;
pub mod session;
pub mod status;
pub mod txn;
