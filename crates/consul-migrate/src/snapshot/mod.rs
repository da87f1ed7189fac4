//! The snapshot of etcd: what it has, and its way to Consul.

pub(crate) mod load;
pub(crate) mod nothing;
pub mod survey;
