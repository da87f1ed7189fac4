//! Connections that have not proved the cluster's key. They are few and have little time, and the oldest
//! ones make room for new ones, so that strangers cannot keep the members of the cluster out.

use consul_process::metrics::{ClusterNumbers, Stranger};
use consul_process::sync::lock;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// The most connections that have proved the key.
const MAX_PROVED: usize = 512;

/// The most connections that have not, from all addresses and from one.
const MAX_UNPROVED: usize = 256;
const MAX_UNPROVED_OF_ADDRESS: usize = 128;

/// How long a connection may take to prove the key; a member's first request follows at once.
const PROOF_TIME: Duration = Duration::from_secs(2);

/// The connections to a node, proved and not.
#[derive(Debug)]
pub(super) struct Connections {
    numbers: &'static ClusterNumbers,
    proved: AtomicUsize,
    unproved: Mutex<Unproved>,
}

#[derive(Debug, Default)]
struct Unproved {
    next: u64,
    /// In the order in which they came.
    connections: BTreeMap<u64, (IpAddr, Arc<Notify>)>,
}

/// Whether one connection has proved the key. Dropped with it.
#[derive(Debug)]
pub(super) struct Proof {
    connections: Arc<Connections>,
    number: u64,
    evicted: Arc<Notify>,
    is_given: AtomicBool,
}

impl Connections {
    pub fn new(numbers: &'static ClusterNumbers) -> Self {
        let (proved, unproved) = Default::default();
        Connections { numbers, proved, unproved }
    }

    /// Admits a connection, and closes the oldest unproved one from the address with the most of them if
    /// there are too many.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Proof {
        let mut unproved = lock(&self.unproved);
        let (number, evicted) = (unproved.next, Arc::new(Notify::new()));
        unproved.next += 1;
        unproved.connections.insert(number, (address, Arc::clone(&evicted)));
        unproved.evict(self.numbers);
        Proof { connections: Arc::clone(self), number, evicted, is_given: AtomicBool::new(false) }
    }
}

impl Unproved {
    fn evict(&mut self, numbers: &ClusterNumbers) {
        let connections = self.connections.iter().map(|(number, (address, _))| (*number, *address));
        let Some(Busiest { address, count, oldest }) = Busiest::of(connections) else { return };
        if count <= MAX_UNPROVED_OF_ADDRESS && self.connections.len() <= MAX_UNPROVED {
            return;
        }
        if let Some((_, evicted)) = self.connections.remove(&oldest) {
            evicted.notify_one();
            numbers.strangers.refuse(Stranger::Crowd);
            tracing::warn!(
                %address,
                "too many connections without a valid request: the oldest one is closed"
            );
        }
    }
}

/// The address with the most connections, which has to make room: so no client keeps the others out.
pub(crate) struct Busiest {
    pub address: IpAddr,
    pub count: usize,
    /// The number of its oldest connection.
    pub oldest: u64,
}

impl Busiest {
    /// Of connections by their numbers, in the order in which they came.
    pub fn of(connections: impl Iterator<Item = (u64, IpAddr)>) -> Option<Self> {
        let mut addresses: HashMap<IpAddr, Busiest> = HashMap::new();
        for (oldest, address) in connections {
            addresses.entry(address).or_insert(Busiest { address, count: 0, oldest }).count += 1;
        }
        addresses.into_values().max_by_key(|it| it.count)
    }
}

impl Proof {
    /// Records that the connection has carried a valid request. False if it is being closed, or if too
    /// many connections have proved the key.
    pub fn give(&self) -> bool {
        if self.is_given.load(Ordering::Relaxed) {
            return true;
        }
        let mut unproved = lock(&self.connections.unproved);
        let proved = &self.connections.proved;
        if proved.load(Ordering::Relaxed) >= MAX_PROVED {
            tracing::warn!(max = MAX_PROVED, "too many connections from other nodes");
            return false;
        }
        // The lock keeps the count.
        let is_in_time = unproved.connections.remove(&self.number).is_some();
        if is_in_time {
            proved.fetch_add(1, Ordering::Relaxed);
            self.is_given.store(true, Ordering::Relaxed);
        }
        is_in_time
    }

    /// Completes when the connection must be closed because it has not proved the key.
    pub async fn is_missing(&self) {
        let _ = timeout(PROOF_TIME, self.evicted.notified()).await;
        if self.is_given.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    }
}

impl Drop for Proof {
    fn drop(&mut self) {
        if *self.is_given.get_mut() {
            self.connections.proved.fetch_sub(1, Ordering::Relaxed);
        } else {
            lock(&self.connections.unproved).connections.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consul_process::metrics::numbers;
    use std::net::Ipv4Addr;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    /// Whether a connection may still prove the key.
    fn is_open(proof: &Proof) -> bool {
        lock(&proof.connections.unproved).connections.contains_key(&proof.number)
    }

    #[test]
    fn the_oldest_of_the_busiest_address_makes_room() {
        let connections = Arc::new(Connections::new(numbers().cluster("nodes")));
        let quiet = connections.admit(address(1));
        let busy: Vec<_> =
            (0..=MAX_UNPROVED_OF_ADDRESS).map(|_| connections.admit(address(2))).collect();
        assert!(is_open(&quiet) && !is_open(&busy[0]) && busy[1..].iter().all(is_open));
        // Each address below its own limit, and all together above theirs.
        let others: Vec<_> =
            (0..200).map(|number| connections.admit(address(3 + number % 8))).collect();
        assert!(is_open(&quiet) && others.iter().all(is_open));
        assert_eq!(lock(&connections.unproved).connections.len(), MAX_UNPROVED);
    }

    #[test]
    fn a_connection_that_has_proved_the_key_is_not_evicted() {
        let connections = Arc::new(Connections::new(numbers().cluster("nodes")));
        let member = connections.admit(address(1));
        assert!(member.give() && member.give());
        let strangers: Vec<_> = (0..1000).map(|_| connections.admit(address(1))).collect();
        assert!(member.give() && !strangers[0].give() && strangers[999].give());
        assert_eq!(connections.proved.load(Ordering::Relaxed), 2);
        drop((member, strangers));
        assert_eq!(connections.proved.load(Ordering::Relaxed), 0);
        assert!(lock(&connections.unproved).connections.is_empty());
    }

    #[test]
    fn no_more_than_the_limit_prove_the_key() {
        let connections = Arc::new(Connections::new(numbers().cluster("nodes")));
        let one = || {
            let proof = connections.admit(address(1));
            (proof.give(), proof)
        };
        let mut members: Vec<_> = (0..MAX_PROVED).map(|_| one()).collect();
        assert!(members.iter().all(|(is_given, _)| *is_given));
        assert!(!one().0);
        members.pop();
        assert!(one().0);
    }
}
