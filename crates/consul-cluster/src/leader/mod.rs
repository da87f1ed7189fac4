//! The leader of a cluster: how a node becomes it, and its work.

mod assign;
pub mod blocked;
pub(crate) mod election;
pub mod history;
pub(crate) mod refused;
