//! The view of a process on its node and its cluster, shown to the other nodes, to operators, to Prometheus and to systemd.

mod numbers;
pub mod overview;
pub mod report;
pub mod status;
pub mod systemd;
