//! The user events that the agent received.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use std::collections::VecDeque;

/// The number of events that an agent keeps. Source: "List Events" in Consul's HTTP reference.
const REMEMBERED: usize = 256;

/// The Lamport time of the first event: the clock of a fresh agent stands at 1.
const FIRST_TIME: u64 = 2;

/// The events that the agent received, the oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    recent: VecDeque<Event>,
    fired: u64,
}

impl Events {
    /// The time of a new event.
    pub fn fire(&mut self) -> u64 {
        let time = FIRST_TIME + self.fired;
        self.fired += 1;
        time
    }

    /// Keeps an event; the oldest is forgotten when the agent has too many.
    pub fn keep(&mut self, event: Event) {
        self.recent.push_back(event);
        if self.recent.len() > REMEMBERED {
            self.recent.pop_front();
        }
    }

    /// The events that are kept, the oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Event> {
        self.recent.iter()
    }
}

/// One event.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Event {
    #[serde(rename = "ID")]
    pub id: String,
    pub name: String,
    #[serde(serialize_with = "base64_or_null")]
    pub payload: Vec<u8>,
    pub node_filter: String,
    pub service_filter: String,
    pub tag_filter: String,
    pub version: u8,
    #[serde(rename = "LTime")]
    pub time: u64,
}

fn base64_or_null<S: Serializer>(payload: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    match payload {
        [] => serializer.serialize_none(),
        bytes => serializer.serialize_str(&STANDARD.encode(bytes)),
    }
}
