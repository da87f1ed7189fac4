//! What happens to a cluster, for the program that asks.

use crate::sync::lock;
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::sync::Notify;

/// How many events wait for a program that does not take them; then the oldest are forgotten.
const MOST_WAITING: usize = 1024;

/// What happens to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Another node leads, or none.
    LeaderChanged(Option<String>),
    /// A node is there that was not.
    NodeJoined(String),
    /// A node is gone: it was stopped, or it is down.
    NodeLeft(String),
    /// There is a shard map of this epoch.
    ShardsChanged(u64),
    /// This node leads and may do nothing as the leader: Consul gives no proof of it.
    Suspended,
    /// It may again: it led all the while.
    Resumed,
    /// The shard map stays as it is, because these members are gone at once; none: it moves again.
    Frozen(Vec<String>),
    /// This node takes part no more, for this reason. Nothing follows.
    Stopped(String),
}

/// Events that nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct Events {
    waiting: Mutex<VecDeque<Event>>,
    happened: Notify,
}

impl Events {
    pub fn tell(&self, event: Event) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() == MOST_WAITING {
            waiting.pop_front();
        }
        waiting.push_back(event);
        drop(waiting);
        self.happened.notify_waiters();
    }

    pub fn poll(&self) -> Option<Event> {
        lock(&self.waiting).pop_front()
    }

    pub async fn next(&self) -> Event {
        loop {
            let happened = self.happened.notified();
            if let Some(event) = self.poll() {
                return event;
            }
            happened.await;
        }
    }
}
