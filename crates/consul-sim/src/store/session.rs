//! The session table.

use crate::store::timer::TimerKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A session's id.
pub(crate) type SessionId = Arc<str>;

/// The effect of a session's end on the keys that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub(crate) enum Behavior {
    Release,
    Delete,
}

/// One session.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(crate) struct Session {
    pub id: SessionId,
    pub name: String,
    pub node: String,
    /// In nanoseconds, as given; may be negative.
    pub lock_delay_ns: i64,
    pub behavior: Behavior,
    /// As given.
    pub ttl_text: String,
    /// Zero if the session does not expire.
    pub ttl: Duration,
    pub node_checks: Option<Vec<String>>,
    pub service_checks: Option<Vec<(String, String)>>,
    pub checks: Option<Vec<String>>,
    pub create_index: u64,
    pub modify_index: u64,
    #[serde(skip)]
    pub expires: Option<TimerKey>,
}

impl Session {
    /// The ids of all checks that the session is bound to.
    pub fn check_ids(&self) -> BTreeSet<String> {
        let node = self.node_checks.iter().flatten().cloned();
        let service = self.service_checks.iter().flatten().map(|(id, _)| id.clone());
        let old = self.checks.iter().flatten().cloned();
        BTreeSet::from_iter(node.chain(service).chain(old))
    }
}

/// A check on a node, both in lower case.
type CheckPlace = (String, String);

/// All sessions.
#[derive(Clone, Debug, Default, serde::Deserialize, serde::Serialize)]
pub(crate) struct SessionTable {
    sessions: BTreeMap<SessionId, Session>,
    by_check: BTreeMap<CheckPlace, BTreeSet<SessionId>>,
    newest: u64,
}

impl SessionTable {
    pub fn get(&self, id: &str) -> Option<&Session> {
        self.sessions.get(id)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut Session> {
        self.sessions.get_mut(id)
    }

    /// All sessions in the order of their ids.
    pub fn all(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    /// The number of sessions with a TTL.
    pub fn with_ttl(&self) -> usize {
        self.all().filter(|session| !session.ttl.is_zero()).count()
    }

    /// The index of the newest change in the table; 0 before the first one.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    pub fn insert(&mut self, session: Session, index: u64) {
        self.newest = index;
        for check in session.check_ids() {
            let place = place(&session.node, &check);
            self.by_check.entry(place).or_default().insert(Arc::clone(&session.id));
        }
        self.sessions.insert(Arc::clone(&session.id), session);
    }

    pub fn remove(&mut self, id: &str, index: u64) -> Option<Session> {
        let session = self.sessions.remove(id)?;
        self.newest = index;
        for check in session.check_ids() {
            let place = place(&session.node, &check);
            if let Some(bound) = self.by_check.get_mut(&place) {
                bound.remove(id);
                if bound.is_empty() {
                    self.by_check.remove(&place);
                }
            }
        }
        Some(session)
    }

    /// The sessions that are bound to a check.
    pub fn bound_to(&self, node: &str, check: &str) -> Vec<SessionId> {
        self.by_check.get(&place(node, check)).into_iter().flatten().cloned().collect()
    }

    /// The sessions of a node.
    pub fn of_node<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Session> {
        self.all().filter(move |session| session.node.eq_ignore_ascii_case(node))
    }
}

fn place(node: &str, check: &str) -> CheckPlace {
    (node.to_lowercase(), check.to_lowercase())
}
