//! The queue of a Lua state, which may run several nodes: requests from other nodes, and calls of storages.

use super::lua_storage::StorageCall;
use consul_cluster::data_plane::{DataPlane, Request};
use consul_process::sync::lock;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The number of a started node, unique in this process.
pub type NodeNumber = u64;

/// An item that waits for the program.
pub enum Waiting {
    /// A request for a handler.
    Request(Request),
    /// A call of a storage.
    Storage(StorageCall),
}

impl Waiting {
    /// Whether its caller is gone.
    fn is_given_up(&self) -> bool {
        match self {
            Waiting::Request(request) => request.is_given_up(),
            Waiting::Storage(_) => false,
        }
    }

    /// Takes it out of the queue; `None` if its caller no longer waits.
    fn begin(self) -> Option<Self> {
        match self {
            Waiting::Request(request) => request.begin().map(Waiting::Request),
            Waiting::Storage(call) => Some(Waiting::Storage(call)),
        }
    }
}

/// A queue, and the nodes that take requests.
#[derive(Default)]
pub struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

/// The fewest entries among which those that were given up are looked for.
const FEW: usize = 64;

#[derive(Default)]
struct State {
    waiting: VecDeque<(NodeNumber, Waiting)>,
    /// The number of entries left when those that were given up were last removed.
    left: usize,
    /// The requests that are answered after their handlers have returned, by number.
    deferred: BTreeMap<u64, (NodeNumber, Request)>,
    last_deferred: u64,
    nodes: BTreeMap<NodeNumber, Listener>,
}

/// A node that takes requests.
struct Listener {
    plane: Arc<DataPlane>,
    /// Makes the descriptor of the node readable, or not.
    notify: Box<dyn Fn(bool) + Send + Sync>,
}

/// The number for a node that starts.
pub fn next_number() -> NodeNumber {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

impl Inbox {
    /// Adds a node. `notify` tells it whether anything is queued.
    pub fn add(
        &self,
        number: NodeNumber,
        plane: Arc<DataPlane>,
        notify: impl Fn(bool) + Send + Sync + 'static,
    ) {
        let mut state = lock(&self.state);
        notify(!state.waiting.is_empty());
        state.nodes.insert(number, Listener { plane, notify: Box::new(notify) });
    }

    /// Removes a node and its requests, which get no reply.
    pub fn remove(&self, number: NodeNumber) {
        let mut state = lock(&self.state);
        let removed = state.nodes.remove(&number);
        state.waiting.retain(|(of, _)| *of != number);
        state.deferred.retain(|_, (of, _)| *of != number);
        state.notify();
        drop(state);
        self.changed.notify_all();
        // Dropped without the lock: it ends connections.
        drop(removed);
    }

    /// Adds a request for a node.
    pub fn push(&self, number: NodeNumber, request: Request) {
        self.add_waiting(number, Waiting::Request(request));
    }

    /// Adds a call of a storage of a node; it is dropped if the node has stopped.
    pub fn push_storage(&self, number: NodeNumber, call: StorageCall) {
        self.add_waiting(number, Waiting::Storage(call));
    }

    fn add_waiting(&self, number: NodeNumber, waiting: Waiting) {
        let mut state = lock(&self.state);
        if !state.nodes.contains_key(&number) {
            return;
        }
        if state.waiting.len() >= FEW.max(2 * state.left) {
            state.waiting.retain(|(_, waiting)| !waiting.is_given_up());
            state.left = state.waiting.len();
        }
        state.waiting.push_back((number, waiting));
        state.notify();
        drop(state);
        self.changed.notify_all();
    }

    /// Takes the first entry whose caller still waits.
    pub fn take(&self) -> Option<(NodeNumber, Waiting)> {
        let mut state = lock(&self.state);
        let taken = std::iter::from_fn(|| state.waiting.pop_front())
            .find_map(|(number, waiting)| Some((number, waiting.begin()?)));
        state.notify();
        taken
    }

    /// Keeps a request until it is answered or its node stops; returns its number.
    pub fn defer(&self, number: NodeNumber, request: Request) -> u64 {
        let mut state = lock(&self.state);
        state.last_deferred += 1;
        let deferred = state.last_deferred;
        state.deferred.insert(deferred, (number, request));
        deferred
    }

    /// Takes a request that [`Inbox::defer`] keeps; None if it is answered or its node has stopped.
    pub fn take_deferred(&self, deferred: u64) -> Option<Request> {
        lock(&self.state).deferred.remove(&deferred).map(|(_, request)| request)
    }

    /// Reports to all nodes that the program polls at this moment.
    pub fn poll(&self) {
        lock(&self.state).nodes.values().for_each(|node| node.plane.poll());
    }

    /// Wakes all waiters.
    pub fn wake(&self) {
        drop(lock(&self.state));
        self.changed.notify_all();
    }

    /// Waits for an entry, or for `is_over` after [`Inbox::wake`]; returns false if the time is over
    /// first.
    pub fn wait(&self, limit: Duration, is_over: impl Fn() -> bool) -> bool {
        let is_idle = |state: &mut State| state.waiting.is_empty() && !is_over();
        let waited = self.changed.wait_timeout_while(lock(&self.state), limit, is_idle);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Whether anything is queued.
    pub fn has_waiting(&self) -> bool {
        !lock(&self.state).waiting.is_empty()
    }
}

impl State {
    fn notify(&self) {
        let has_waiting = !self.waiting.is_empty();
        self.nodes.values().for_each(|node| (node.notify)(has_waiting));
    }
}
