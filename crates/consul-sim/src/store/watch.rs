//! Waiting queries by topic, so that a change wakes only the queries that it affects.

use super::kv::{KvTable, Near};
use super::session::SessionId;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::sync::Notify;

/// The changes that a query can wait for. Names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// One key.
    Key(Box<[u8]>),
    /// The keys that begin with this; queries wait for it, changes publish keys.
    Prefix(Box<[u8]>),
    /// The keys near a prefix without keys; as of `Prefix`.
    Near(Near),
    /// The list of sessions.
    Sessions,
    /// One session.
    Session(SessionId),
    /// The sessions of a node.
    NodeSessions(String),
    /// The list of nodes.
    Nodes,
    /// A node and its services.
    Node(String),
    /// The list of services.
    Services,
    /// The instances of a service.
    Instances(String),
    /// The instances of a service and their checks.
    Health(String),
    /// The instances in the mesh.
    Mesh,
    /// The instances in the mesh of a service.
    MeshOf(String),
    /// The list of checks.
    Checks,
    /// The checks of a service's instances.
    ServiceChecks(String),
    /// A service of the agent.
    LocalService(String),
    /// The ACL tokens.
    Tokens,
    /// The ACL policies.
    Policies,
    /// The ACL roles.
    Roles,
    /// The auth methods.
    AuthMethods,
    /// The binding rules.
    BindingRules,
    /// The coordinates of nodes.
    Coordinates,
    /// The prepared queries.
    Queries,
    /// The configuration entries.
    Entries,
    /// The entries of a kind, or the entry of a `kind/name`.
    Entry(String),
    /// The mesh's certificate authority.
    Authority,
    /// The events that the agent received.
    Events,
}

type Waiters = BTreeMap<u64, Arc<Notify>>;

/// The waiting queries by topic.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watches {
    next_id: u64,
    keys: HashMap<Box<[u8]>, Waiters>,
    prefixes: HashMap<Box<[u8]>, Waiters>,
    /// The number of prefixes of each length: a written key is looked up at these lengths only.
    prefix_lengths: BTreeMap<usize, usize>,
    near: BTreeMap<u64, (Near, Arc<Notify>)>,
    others: HashMap<Topic, Waiters>,
}

impl Watches {
    /// Notifies `waiter` at changes of any of the topics; returns the id for [`Watches::remove`].
    pub fn add(&mut self, topics: &[Topic], waiter: &Arc<Notify>) -> u64 {
        self.next_id += 1;
        let id = self.next_id;
        for topic in topics {
            let waiters = match topic {
                Topic::Near(near) => {
                    self.near.insert(id, (near.clone(), Arc::clone(waiter)));
                    continue;
                }
                Topic::Key(key) => self.keys.entry(key.clone()).or_default(),
                Topic::Prefix(prefix) => {
                    let waiters = self.prefixes.entry(prefix.clone()).or_default();
                    if waiters.is_empty() {
                        *self.prefix_lengths.entry(prefix.len()).or_default() += 1;
                    }
                    waiters
                }
                other => self.others.entry(other.clone()).or_default(),
            };
            waiters.insert(id, Arc::clone(waiter));
        }
        id
    }

    pub fn remove(&mut self, topics: &[Topic], id: u64) {
        for topic in topics {
            match topic {
                Topic::Key(key) => {
                    forget(&mut self.keys, key, id);
                }
                Topic::Prefix(prefix) => {
                    if forget(&mut self.prefixes, prefix, id) {
                        self.forget_length(prefix.len());
                    }
                }
                Topic::Near(_) => drop(self.near.remove(&id)),
                other => {
                    forget(&mut self.others, other, id);
                }
            }
        }
    }

    fn forget_length(&mut self, length: usize) {
        if let Some(count) = self.prefix_lengths.get_mut(&length) {
            *count -= 1;
            if *count == 0 {
                self.prefix_lengths.remove(&length);
            }
        }
    }

    /// Notifies the waiters of a topic.
    pub fn publish(&self, topic: &Topic, kv: &KvTable) {
        match topic {
            Topic::Key(key) => {
                let near = self.near.values().filter(|(near, _)| kv.wakes(key, near));
                near.for_each(|(_, waiter)| waiter.notify_one());
                wake(self.keys.get(key));
                for length in self.prefix_lengths.range(..=key.len()).map(|(length, _)| *length) {
                    wake(self.prefixes.get(&key[..length]));
                }
            }
            other => wake(self.others.get(other)),
        }
    }

    /// Notifies all waiters, in the order in which they came: that of the topics is random.
    pub fn wake_all(&self) {
        wake(Some(&self.all()));
    }

    /// The number of waiters.
    pub fn waiters(&self) -> usize {
        self.all().len()
    }

    fn all(&self) -> Waiters {
        let topics = self.keys.values().chain(self.prefixes.values()).chain(self.others.values());
        topics.flatten().map(|(id, waiter)| (*id, Arc::clone(waiter))).collect()
    }

    /// The number of topics with waiters.
    #[cfg(test)]
    pub fn topics(&self) -> usize {
        self.keys.len()
            + self.prefixes.len()
            + self.near.len()
            + self.others.len()
            + self.prefix_lengths.len()
    }
}

fn wake(waiters: Option<&Waiters>) {
    waiters.into_iter().flat_map(BTreeMap::values).for_each(|waiter| waiter.notify_one());
}

/// Removes a waiter; returns whether it was the last one of its topic.
fn forget<K: std::hash::Hash + Eq + std::borrow::Borrow<Q>, Q: std::hash::Hash + Eq + ?Sized>(
    topics: &mut HashMap<K, Waiters>,
    topic: &Q,
    id: u64,
) -> bool {
    let Some(waiters) = topics.get_mut(topic) else { return false };
    let was_there = waiters.remove(&id).is_some();
    let last = was_there && waiters.is_empty();
    if last {
        topics.remove(topic);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::future::Future as _;
    use std::sync::Mutex;
    use std::task::{Context, Wake, Waker};

    struct OnWake<F>(F);

    impl<F: Fn() + Send + Sync + 'static> Wake for OnWake<F> {
        fn wake(self: Arc<Self>) {
            self.0();
        }
    }

    fn waker(on_wake: impl Fn() + Send + Sync + 'static) -> Waker {
        Waker::from(Arc::new(OnWake(on_wake)))
    }

    fn woken(waiter: &Arc<Notify>) -> bool {
        waiter.notified().now_or_never().is_some()
    }

    #[test]
    fn a_written_key_wakes_its_own_watchers_and_those_of_its_prefixes() {
        let mut watches = Watches::default();
        let topics = [
            Topic::Key(b"a/b".as_slice().into()),
            Topic::Key(b"a/bc".as_slice().into()),
            Topic::Prefix(b"a/".as_slice().into()),
            Topic::Prefix(b"".as_slice().into()),
            Topic::Prefix(b"a/bc".as_slice().into()),
        ];
        let waiters = topics.clone().map(|topic| {
            let waiter = Arc::new(Notify::new());
            watches.add(&[topic], &waiter);
            waiter
        });
        watches.publish(&topics[0], &KvTable::default());
        assert_eq!(waiters.map(|waiter| woken(&waiter)), [true, false, true, true, false]);
    }

    /// Simulations have the same history again only if the order is.
    #[test]
    fn all_waiters_are_woken_in_the_order_in_which_they_came() {
        let mut watches = Watches::default();
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for place in 0..20 {
            let waiter = Arc::new(Notify::new());
            watches.add(&[Topic::Key(format!("{place}").into_bytes().into())], &waiter);
            let mut notified = Box::pin(waiter.notified_owned());
            let woken = Arc::clone(&woken);
            let waker = waker(move || woken.lock().expect("no panic").push(place));
            assert!(notified.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            waiting.push(notified);
        }
        watches.wake_all();
        assert_eq!(*woken.lock().expect("no panic"), Vec::from_iter(0..20));
    }

    #[test]
    fn nothing_is_left_of_a_removed_waiter() {
        let mut watches = Watches::default();
        let topics = [Topic::Prefix(b"a".as_slice().into()), Topic::Nodes];
        let one = watches.add(&topics, &Arc::new(Notify::new()));
        let other = watches.add(&topics, &Arc::new(Notify::new()));
        watches.remove(&topics, one);
        assert_eq!(watches.topics(), 3);
        watches.remove(&topics, other);
        watches.remove(&topics, other);
        assert_eq!(watches.topics(), 0);
    }
}
