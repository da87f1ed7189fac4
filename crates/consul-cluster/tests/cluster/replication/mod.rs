//! Replicated shards: their messages, the way that these take between nodes, what a read asks, and what a
//! page costs.

mod failover;
mod format;
mod horizons;
mod pages;
mod plan;
mod promises;
mod reads;
mod remote;
mod repair;
