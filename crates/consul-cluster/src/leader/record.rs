//! The content of the leader's key: the record of the node that leads, or the cause that keeps all nodes from the key, which is a
//! session that is not a leader's, or a value that another program has written.

use crate::shell::kv_delete;
use consul_api::value::Value;
use consul_client::coordination::lock::LOCK_FLAGS;
use serde::{Deserialize, Serialize};

/// The document of the leader's key.
#[derive(Serialize, Deserialize)]
pub(super) struct LeaderRecord {
    pub(super) node_id: String,
    pub(super) address: String,
    #[serde(default)]
    pub(super) elected_at_ms: u64,
    /// The node to which it handed the leadership over, in the key that it has released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) successor: Option<String>,
}

impl LeaderRecord {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// Why no node can have the leader's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The key.
    pub key: String,
    /// The session that holds it without the record of a leader; `None`: nobody holds it, and another program has written it.
    pub session: Option<String>,
}

impl Blocked {
    /// The block of a key with these flags, session and value.
    pub(super) fn of(key: &str, flags: u64, session: Option<&str>, value: &[u8]) -> Option<Self> {
        let is_lock = flags == LOCK_FLAGS;
        let is_blocked = match session {
            Some(_) => !is_lock || LeaderRecord::parse(value).is_none(),
            None => !is_lock,
        };
        is_blocked.then(|| Blocked { key: key.to_owned(), session: session.map(str::to_owned) })
    }

    /// The block as a process sees it that knows the sessions with which nodes have led: a node that leads and whose record
    /// another program has overwritten gives the key up at once.
    pub(crate) fn seen_by(self, is_nodes: impl Fn(&str) -> bool) -> Self {
        let session = self.session.filter(|id| !is_nodes(id));
        Blocked { session, ..self }
    }

    /// As an entry of a list of keys shows it.
    pub fn of_entry(entry: &Value) -> Option<Self> {
        let text = |name| entry.get(name).and_then(Value::as_str);
        let session = text("Session").filter(|id| !id.is_empty());
        let flags = entry.get("Flags").and_then(Value::as_u64).unwrap_or_default();
        let value = match entry.get("Value") {
            Some(Value::Bytes(bytes)) => bytes.as_slice(),
            _ => b"",
        };
        Self::of(text("Key")?, flags, session, value)
    }

    /// The problem, in words.
    pub fn text(&self) -> String {
        let Blocked { key, session } = self;
        match session {
            Some(session) => format!(
                "session {session} holds the leader's key {key} without the record of a node: no node leads while it lasts"
            ),
            None => format!(
                "another program has written the leader's key {key}: no node leads until it has stayed as it is for the lock \
                 delay"
            ),
        }
    }

    /// The remedy for an operator.
    pub fn cure(&self) -> String {
        match &self.session {
            Some(session) => format!(
                "find out which program has made the session; `curl -X PUT …/v1/session/destroy/{session}` makes room"
            ),
            None => format!(
                "stop the program if it writes the key again and again; then {} makes room at once",
                kv_delete(&self.key)
            ),
        }
    }
}
