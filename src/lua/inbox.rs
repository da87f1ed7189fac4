//! The requests of other nodes that wait for a Lua state, of all nodes that the state runs.

use crate::cluster::data_plane::{DataPlane, Request};
use crate::sync::lock;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A node of this process, whatever its name is.
pub type NodeNumber = u64;

/// Requests, and who is told of them.
#[derive(Default)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    news: Condvar,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<(NodeNumber, Request)>,
    nodes: BTreeMap<NodeNumber, Listening>,
}

/// A node that takes requests.
struct Listening {
    plane: Arc<DataPlane>,
    /// Rings the bell of the node's descriptor, or silences it.
    ring: Box<dyn Fn(bool) + Send + Sync>,
}

/// A number that no other node has.
pub fn fresh_number() -> NodeNumber {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

impl Inbox {
    /// Has a node take part.
    pub fn add(
        &self,
        number: NodeNumber,
        plane: Arc<DataPlane>,
        ring: impl Fn(bool) + Send + Sync + 'static,
    ) {
        let mut waiting = lock(&self.waiting);
        ring(!waiting.requests.is_empty());
        waiting.nodes.insert(number, Listening { plane, ring: Box::new(ring) });
    }

    /// Has a node take part no more. What waits for it stays without a reply.
    pub fn remove(&self, number: NodeNumber) {
        let mut waiting = lock(&self.waiting);
        let removed = waiting.nodes.remove(&number);
        waiting.requests.retain(|(of, _)| *of != number);
        waiting.ring();
        drop(waiting);
        self.news.notify_all();
        // Dropped without the lock: it ends connections.
        drop(removed);
    }

    /// Puts a request of a node at the end.
    pub fn push(&self, number: NodeNumber, request: Request) {
        let mut waiting = lock(&self.waiting);
        waiting.requests.push_back((number, request));
        waiting.ring();
        drop(waiting);
        self.news.notify_all();
    }

    /// Takes the first request that somebody still waits for.
    pub fn take(&self) -> Option<(NodeNumber, Request)> {
        let mut waiting = lock(&self.waiting);
        let taken = std::iter::from_fn(|| waiting.requests.pop_front())
            .find_map(|(number, request)| Some((number, request.begin()?)));
        waiting.ring();
        taken
    }

    /// Says to all nodes that the program looks for requests at this moment.
    pub fn poll(&self) {
        lock(&self.waiting).nodes.values().for_each(|node| node.plane.poll());
    }

    /// Wakes whoever waits.
    pub fn wake(&self) {
        drop(lock(&self.waiting));
        self.news.notify_all();
    }

    /// Waits for a request or for something to be over, of which [`Inbox::wake`] tells; false when
    /// the time is over first.
    pub fn wait(&self, limit: Duration, is_over: impl Fn() -> bool) -> bool {
        let is_quiet = |waiting: &mut Waiting| waiting.requests.is_empty() && !is_over();
        let waited = self.news.wait_timeout_while(lock(&self.waiting), limit, is_quiet);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Whether a request waits.
    pub fn has_requests(&self) -> bool {
        !lock(&self.waiting).requests.is_empty()
    }
}

impl Waiting {
    fn ring(&self) {
        let rings = !self.requests.is_empty();
        self.nodes.values().for_each(|node| (node.ring)(rings));
    }
}
