//! From etcd to Consul for good, and back: the cut-over, the rollback, and the end of a move.

pub mod cutover;
pub mod finish;
pub mod rollback;
