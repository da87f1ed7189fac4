//! The nodes of a cluster: what each says of itself in its key, which of them are live, and what operators ask of them.

mod claim;
mod contest;
pub mod kept_mode;
pub(crate) mod membership;
pub(crate) mod node;
pub mod operate;
pub mod pause;
pub(crate) mod registered;
pub(crate) mod request;
pub(crate) mod requested;
mod restore;
pub mod rights;
pub(crate) mod settings;
pub mod start;
pub mod weights;

/// Whether a key below the nodes' prefix, after that prefix, is not a node's but has what operators have chosen: the mode of a
/// stopped node, the pause, the weights.
pub fn is_of_operators(name: &str) -> bool {
    kept_mode::id_of(name).is_some() || pause::is_key(name) || weights::is_key(name)
}
