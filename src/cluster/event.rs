//! The events of a cluster, queued for the program.

use crate::sync::lock;
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::sync::Notify;

/// The most events in the queue; beyond that the oldest are dropped.
const MAX_WAITING: usize = 1024;

/// A change in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Another node has become the leader; `None`: there is no leader.
    LeaderChanged(Option<String>),
    /// This node has become live.
    NodeJoined(String),
    /// This node has left or is down.
    NodeLeft(String),
    /// The shard map of this epoch is in force.
    ShardsChanged(u64),
    /// This node holds the leadership but must not act on it: it has no recent proof from Consul.
    Suspended,
    /// The proof is back: this node was the leader all the time and may act again.
    Resumed,
    /// The shard map is frozen because these members vanished at once; empty: it is thawed.
    Frozen(Vec<String>),
    /// This node has stopped for this reason. It is the last event.
    Stopped(String),
}

/// The queue of events that the program has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Events {
    waiting: Mutex<VecDeque<Event>>,
    added: Notify,
}

impl Events {
    pub fn emit(&self, event: Event) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() == MAX_WAITING {
            waiting.pop_front();
        }
        waiting.push_back(event);
        drop(waiting);
        self.added.notify_waiters();
    }

    pub fn poll(&self) -> Option<Event> {
        lock(&self.waiting).pop_front()
    }

    pub async fn next(&self) -> Event {
        loop {
            let added = self.added.notified();
            if let Some(event) = self.poll() {
                return event;
            }
            added.await;
        }
    }
}
