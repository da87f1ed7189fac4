//! Clusters of processes that share work: membership, leader election and the shard map.
//!
//! Each process runs a [`Cluster`]. The shared state is in Consul: a key for each node, written by that
//! node, a service whose TTL check shows that the node is alive, the lock on the leader's key, and the
//! shard map, which only the leader changes.
//!
//! ```
//! # use std::sync::Arc;
//! use consul_cluster::{Cluster, Options};
//! # use consul_api::request::Defaults;
//! # use consul_client::{Client, Settings};
//! # use consul_process::{clock::SystemClock, os};
//! # use consul_sim::{Agent, SimTransport};
//! # use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let agent = Arc::new(Agent::new(consul_sim::Options::default()));
//! # let connect = || {
//! #     let transport = Arc::new(SimTransport::new(Arc::clone(&agent), "simulated"));
//! #     let (timeout, defaults) = (Duration::from_secs(5), Defaults::default());
//! #     let settings = Settings { timeout, retry_count: 3, defaults };
//! #     let clock = Arc::new(SystemClock::new());
//! #     Arc::new(Client::new(vec![transport], settings, clock, os::generator()))
//! # };
//! let (client, waiting) = (connect(), connect());
//! let cluster = Cluster::new(client, waiting, Options::new("n1", "10.0.0.1:9000"))?;
//! let work = async {
//!     cluster.started().await?;
//!     let snapshot = cluster.snapshot();
//!     let node = snapshot.node_for(b"user:1").expect("a live node");
//!     assert_eq!(node.record.id, "n1");
//!     Ok(())
//! };
//! tokio::select! {
//!     why = cluster.run() => Err(why),
//!     done = work => done,
//! }?;
//! cluster.leave().await?;
//! # Ok(()) }) }
//! ```

mod cluster;
pub mod data_plane;
mod event;
mod keys;
mod leader;
pub mod nodes;
pub mod observe;
pub mod options;
mod pauses;
pub mod shard_map;
pub mod snapshot;
pub mod stores;

pub use cluster::Cluster;
pub use consul_api::shell;
pub use event::{Event, PastEvent};
pub use keys::{Reads, Unchanged, has_no_raft_leader, reads};
pub use leader::history::{
    KEPT as KEPT_LEADERS, NAME as HISTORY, PastLeader, PastLeaders, leaders as past_leaders,
};
pub use leader::record::Blocked;
pub use nodes::node::{Complaint, Mode, Node, Record};
pub use nodes::operate::Forgotten;
pub use nodes::registered::{is_live_instance, is_of_other_cluster};
pub use nodes::request::{Asked, HandOver, Leave, Reinit, Request};
pub use options::Options;
pub use snapshot::{Leader, Snapshot};
