//! The events of a cluster: queued for the program, and the last ones kept for operators.

use consul_process::sync::lock;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::sync::Notify;

/// The most events in the queue; beyond that the oldest are dropped.
const MAX_WAITING: usize = 1024;

/// The events that a node keeps for operators, whether or not its program takes them.
pub const MAX_KEPT: usize = 256;

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
    /// An operator changes the numbers of replicas of a store: its name, and what they are to be.
    StoreChanges(String),
    /// A store has other numbers of replicas: its name, and what they are.
    StoreChanged(String),
    /// This node has opened the disk of a store that may lack records: the store's name, and why.
    DiskInDoubt(String),
    /// This node has stopped for this reason. It is the last event.
    Stopped(String),
}

impl Event {
    /// Its name for programs and operators.
    pub fn name(&self) -> &'static str {
        match self {
            Event::LeaderChanged(_) => "leader_changed",
            Event::NodeJoined(_) => "node_joined",
            Event::NodeLeft(_) => "node_left",
            Event::ShardsChanged(_) => "shards_changed",
            Event::Suspended => "suspended",
            Event::Resumed => "resumed",
            Event::Frozen(ids) if ids.is_empty() => "thawed",
            Event::Frozen(_) => "frozen",
            Event::StoreChanges(_) => "store_changes",
            Event::StoreChanged(_) => "store_changed",
            Event::DiskInDoubt(_) => "disk_in_doubt",
            Event::Stopped(_) => "stopped",
        }
    }

    /// Its subject, for people: a node, an epoch, a reason.
    pub fn detail(&self) -> String {
        match self {
            Event::LeaderChanged(id) => id.clone().unwrap_or_default(),
            Event::ShardsChanged(epoch) => epoch.to_string(),
            Event::Suspended | Event::Resumed => String::new(),
            Event::Frozen(ids) => ids.join(", "),
            Event::NodeJoined(what)
            | Event::NodeLeft(what)
            | Event::StoreChanges(what)
            | Event::StoreChanged(what)
            | Event::DiskInDoubt(what)
            | Event::Stopped(what) => what.clone(),
        }
    }
}

/// An event as a node remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastEvent {
    /// Its number among the events of the node since its start, from 1.
    pub seq: u64,
    /// When the node noticed it, in Unix milliseconds by its own clock.
    pub at_ms: u64,
    /// [`Event::name`].
    pub event: String,
    /// [`Event::detail`].
    pub detail: String,
}

/// The last events of a node, the newest at the end.
#[derive(Debug, Default)]
struct History {
    last_seq: u64,
    kept: VecDeque<PastEvent>,
}

/// The events that the program has not taken yet, and the last ones whether taken or not.
#[derive(Debug, Default)]
pub(crate) struct Events {
    waiting: Mutex<VecDeque<Event>>,
    history: Mutex<History>,
    added: Notify,
}

impl Events {
    /// Adds an event, for operators too if `at_ms` says when it was noticed, in Unix milliseconds.
    pub fn emit(&self, event: Event, at_ms: Option<u64>) {
        if let Some(at_ms) = at_ms {
            self.remember(&event, at_ms);
        }
        let mut waiting = lock(&self.waiting);
        if waiting.len() == MAX_WAITING {
            waiting.pop_front();
        }
        waiting.push_back(event);
        drop(waiting);
        self.added.notify_waiters();
    }

    fn remember(&self, event: &Event, at_ms: u64) {
        let mut history = lock(&self.history);
        if history.kept.len() == MAX_KEPT {
            history.kept.pop_front();
        }
        history.last_seq += 1;
        let seq = history.last_seq;
        let (event, detail) = (event.name().to_owned(), event.detail());
        history.kept.push_back(PastEvent { seq, at_ms, event, detail });
    }

    /// The last events with higher numbers than this one, up to [`MAX_KEPT`].
    pub fn after(&self, seq: u64) -> Vec<PastEvent> {
        let history = lock(&self.history);
        history.kept.iter().filter(|past| past.seq > seq).cloned().collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_events_stay_when_the_program_takes_them() {
        let events = Events::default();
        for epoch in 1..=300 {
            events.emit(Event::ShardsChanged(epoch), Some(1000 + epoch));
        }
        events.emit(Event::Resumed, None);
        while events.poll().is_some() {}
        let kept = events.after(0);
        assert_eq!((kept.len(), kept[0].seq, kept[0].at_ms), (MAX_KEPT, 45, 1045));
        let newest = PastEvent {
            seq: 300,
            at_ms: 1300,
            event: "shards_changed".to_owned(),
            detail: "300".to_owned(),
        };
        assert_eq!(events.after(299), [newest]);
        assert_eq!(events.after(300), []);
    }
}
