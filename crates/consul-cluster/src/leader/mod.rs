//! The leader of a cluster: how a node becomes it, and its work.

mod assign;
pub(crate) mod election;
pub(crate) mod fitness;
pub mod history;
pub mod record;
pub(crate) mod refused;
