//! The servers' Raft status.

use crate::target::{T, args, behaviours, list};

behaviours![the_leader_is_one_of_the_peers];

async fn the_leader_is_one_of_the_peers(t: T) {
    let leader = t.value("status_leader", args![]).await;
    assert!(leader.as_str().is_some_and(|address| address.contains(':')), "{leader:?}");
    assert_eq!(t.value("status_peers", args![]).await, list![leader.as_str().unwrap()]);
}
