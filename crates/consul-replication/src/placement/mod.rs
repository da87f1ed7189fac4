//! Placement of the replicas of shards on nodes, and the choice of primaries.

mod pairs;
pub mod primaries;
pub mod rebalancer;
pub(super) mod shares;

/// A node that can have shards.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its share of the replicas relative to the other candidates; above 0.
    pub weight: f64,
    /// Replicas of a shard are in different zones if there are enough zones.
    pub zone: String,
    /// The most replicas it gets, if the other candidates can take the rest.
    pub max_replicas: usize,
}
