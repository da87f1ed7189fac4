//! Replicated shards: how records survive while shards move and nodes and disks fail.
//!
//! **The promise.** With a write quorum W and a read quorum R of N replicas, W + R > N: every later
//! complete read has each acknowledged write, or a newer version of its record,
//! as long as no more than W - 1 of the shard's N disks are lost between two repairs.
//!
//! **The invariant**, for each shard: each acknowledged write is on the counting disks of at least W of
//! its N slots. A holder counts if a mark on its own disk says that it is whole, the map's entry names
//! this disk, it is not sealed, and its epoch of the shard is the request's. While N, W and R change, W is the smaller W
//! of before and after ([`numbers`]).
//!
//! Nothing here does I/O of its own: nodes are reached through [`peers::Peers`], records are kept in a
//! [`storage::Storage`], time and tasks come from a [`peers::Runtime`].
//!
//! ```
//! use consul_replication::placement::Candidate;
//! use consul_replication::placement::rebalancer::{moves, rebalance};
//!
//! let node = |zone: &str| Candidate { weight: 1.0, zone: zone.to_owned(), max_replicas: 100 };
//! let none = vec![Vec::new(); 16];
//! let two = rebalance(&[node("a"), node("b")], 2, &none, &none);
//! assert!(two.iter().all(|replicas| replicas.len() == 2));
//! // A third node gets a third of the 32 replicas, and no other moves.
//! let three = rebalance(&[node("a"), node("b"), node("c")], 2, &two, &two);
//! assert!((10..=11).contains(&moves(&two, &three)));
//! ```

pub mod clock;
pub mod digest;
mod format;
pub mod holder;
pub mod map;
pub mod message;
pub mod numbers;
pub mod peers;
pub mod placement;
pub mod plan;
pub mod progress;
pub mod quorum;
pub mod read_times;
pub mod record;
pub mod recover;
pub mod rules;
pub mod state;
pub mod storage;
pub mod transfer;
