//! What a process shows of its node and its cluster: to the other nodes, to operators, to Prometheus and to systemd.

mod numbers;
pub mod overview;
pub mod report;
pub mod status;
pub mod systemd;
