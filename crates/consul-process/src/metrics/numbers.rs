//! The numbers of a process, and the metrics that they are shown as.

use super::source::Sources;
use super::table::*;
use super::{Counter, Gauge, Histogram, Metric, Outcomes, Page, Strangers};
use crate::sync::lock;
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};

/// More than Consul has endpoints.
const MAX_ENDPOINTS: usize = 256;

/// The numbers of a process.
pub struct Numbers {
    endpoints: [OnceLock<Box<EndpointNumbers>>; MAX_ENDPOINTS],
    /// The connections to agents.
    pub connections: Gauge,
    /// Those that were opened.
    pub connections_opened: Counter,
    /// The endpoints that calls avoid.
    pub benched: Gauge,
    /// How often one was benched.
    pub endpoint_failures: Counter,
    /// Locks.
    pub locks: ClaimNumbers,
    /// Permits of semaphores.
    pub permits: ClaimNumbers,
    /// How often a node became the leader.
    pub elections_won: Counter,
    /// How often a node saw the leader change.
    pub leader_changes: Counter,
    /// How often a leader was suspended.
    pub suspensions: Counter,
    /// The calls between nodes.
    pub calls: CallNumbers,
    stores: Mutex<BTreeMap<String, &'static StoreNumbers>>,
    /// The log lines that were left out.
    pub lines_left_out: Counter,
    pub(super) sources: Sources,
}

impl Default for Numbers {
    fn default() -> Self {
        Numbers {
            endpoints: [const { OnceLock::new() }; MAX_ENDPOINTS],
            connections: Gauge::default(),
            connections_opened: Counter::default(),
            benched: Gauge::default(),
            endpoint_failures: Counter::default(),
            locks: ClaimNumbers::default(),
            permits: ClaimNumbers::default(),
            elections_won: Counter::default(),
            leader_changes: Counter::default(),
            suspensions: Counter::default(),
            calls: CallNumbers::default(),
            stores: Mutex::default(),
            lines_left_out: Counter::default(),
            sources: Sources::default(),
        }
    }
}

/// The calls of one of Consul's endpoints, and its watches.
#[derive(Debug, Default)]
pub struct EndpointNumbers {
    name: &'static str,
    /// The calls that have ended.
    pub requests: Outcomes,
    /// The requests sent for them.
    pub attempts: Counter,
    /// How long they took, unless they waited for a change.
    pub durations: Histogram,
    /// The watches.
    pub watches: Gauge,
    /// Those that get no answer.
    pub watches_failing: Gauge,
    /// Their answers.
    pub watch_updates: Counter,
    /// Their queries that failed.
    pub watch_failures: Counter,
}

/// Locks, or permits of semaphores.
#[derive(Debug, Default)]
pub struct ClaimNumbers {
    /// Those that were acquired.
    pub acquired: Counter,
    /// Those that were released.
    pub released: Counter,
    /// Those that were lost.
    pub lost: Counter,
    /// How often the proof of one expired.
    pub suspended: Counter,
    /// Those that are held.
    pub held: Gauge,
}

/// The calls between nodes.
#[derive(Debug, Default)]
pub struct CallNumbers {
    /// The calls that have ended.
    pub sent: Outcomes,
    /// How long they took.
    pub durations: Histogram,
    /// The attempts after the first one of a call.
    pub retries: Counter,
    /// The requests of other nodes that were answered.
    pub served: Outcomes,
    /// The nodes that are avoided.
    pub avoided: Gauge,
    /// How often one was avoided.
    pub avoidances: Counter,
    /// Those that did not prove that they are a node.
    pub strangers: Strangers,
}

/// The operations on the shards of a store.
#[derive(Debug, Default)]
pub struct StoreNumbers {
    /// The reads of a page.
    pub reads: OperationNumbers,
    /// The writes.
    pub writes: OperationNumbers,
    /// The writes that only delete.
    pub deletions: OperationNumbers,
    /// The replicas that were copied to this process.
    pub copies: Counter,
    /// The disks that were opened and may lack something.
    pub doubted: Counter,
    /// The shards whose replicas were brought together since too few were whole.
    pub united: Counter,
    /// The comparisons of two replicas.
    pub repairs: Counter,
    /// The records that were stored by them.
    pub repaired_records: Counter,
    /// The calls of the storage's functions that failed.
    pub storage_errors: StorageErrors,
}

/// Calls of a storage's functions that failed.
#[derive(Debug, Default)]
pub struct StorageErrors(Mutex<BTreeMap<&'static str, u64>>);

impl StorageErrors {
    /// Counts one more of a function.
    pub fn add(&self, function: &'static str) {
        *lock(&self.0).entry(function).or_default() += 1;
    }
}

/// One operation on the shards of a store.
#[derive(Debug, Default)]
pub struct OperationNumbers {
    /// Those that have ended.
    pub outcomes: Outcomes,
    /// How long they took.
    pub durations: Histogram,
    /// Their records.
    pub records: Counter,
}

impl Numbers {
    /// The numbers of the endpoint with this place in the caller's list and this name.
    pub fn endpoint(&self, place: usize, name: &'static str) -> &EndpointNumbers {
        self.endpoints[place.min(MAX_ENDPOINTS - 1)]
            .get_or_init(|| Box::new(EndpointNumbers { name, ..EndpointNumbers::default() }))
    }

    /// The numbers of the store with this name, which stay when it is closed.
    pub fn store(&self, name: &str) -> &'static StoreNumbers {
        let mut stores = lock(&self.stores);
        stores.entry(name.to_owned()).or_insert_with(|| Box::leak(Box::default()))
    }

    pub(super) fn write(&self, page: &mut Page) {
        for endpoint in self.endpoints.iter().filter_map(OnceLock::get) {
            endpoint.write(page);
        }
        for (metric, counter) in [
            (&CLIENT_CONNECTIONS_OPENED, &self.connections_opened),
            (&CLIENT_FAILURES, &self.endpoint_failures),
            (&CLUSTER_ELECTIONS_WON, &self.elections_won),
            (&CLUSTER_LEADER_CHANGES, &self.leader_changes),
            (&CLUSTER_SUSPENSIONS, &self.suspensions),
            (&LOG_LEFT_OUT, &self.lines_left_out),
        ] {
            page.count(metric, &[], counter.get());
        }
        page.level(&CLIENT_CONNECTIONS, &[], self.connections.get() as f64);
        page.level(&CLIENT_BENCHED, &[], self.benched.get() as f64);
        self.locks.write(page, "lock");
        self.permits.write(page, "semaphore");
        self.calls.write(page);
        for (name, store) in &*lock(&self.stores) {
            store.write(page, name);
        }
    }
}

impl EndpointNumbers {
    fn write(&self, page: &mut Page) {
        let labels = &[self.name];
        outcomes(page, &CLIENT_REQUESTS, labels, &self.requests);
        if self.attempts.get() > 0 {
            page.count(&CLIENT_ATTEMPTS, labels, self.attempts.get());
            page.durations(&CLIENT_DURATION, labels, &self.durations);
        }
        if self.watches.was_used() {
            page.level(&WATCHES, labels, self.watches.get() as f64);
            page.level(&WATCHES_FAILING, labels, self.watches_failing.get() as f64);
            page.count(&WATCH_UPDATES, labels, self.watch_updates.get());
            page.count(&WATCH_FAILURES, labels, self.watch_failures.get());
        }
    }
}

/// Adds the counters that have counted something.
fn outcomes(page: &mut Page, metric: &'static Metric, labels: &[&str], outcomes: &Outcomes) {
    for (outcome, count) in outcomes.counted() {
        page.count(metric, &[labels, &[outcome]].concat(), count);
    }
}

impl ClaimNumbers {
    fn write(&self, page: &mut Page, kind: &str) {
        page.count(&LOCKS_ACQUIRED, &[kind], self.acquired.get());
        page.count(&LOCKS_RELEASED, &[kind], self.released.get());
        page.count(&LOCKS_LOST, &[kind], self.lost.get());
        page.count(&LOCKS_SUSPENDED, &[kind], self.suspended.get());
        page.level(&LOCKS_HELD, &[kind], self.held.get() as f64);
    }
}

impl CallNumbers {
    fn write(&self, page: &mut Page) {
        outcomes(page, &CALLS, &[], &self.sent);
        outcomes(page, &SERVED, &[], &self.served);
        page.durations(&CALL_DURATION, &[], &self.durations);
        page.count(&CALL_RETRIES, &[], self.retries.get());
        page.level(&AVOIDED, &[], self.avoided.get() as f64);
        page.count(&AVOIDANCES, &[], self.avoidances.get());
        for (why, count) in self.strangers.counted() {
            page.count(&STRANGERS, &[why], count);
        }
    }
}

impl StoreNumbers {
    fn write(&self, page: &mut Page, store: &str) {
        let Self { reads, writes, deletions, .. } = self;
        for (operation, numbers) in [("read", reads), ("write", writes), ("delete", deletions)] {
            let labels = &[store, operation];
            outcomes(page, &STORE_OPERATIONS, labels, &numbers.outcomes);
            page.durations(&STORE_DURATION, labels, &numbers.durations);
            page.count(&STORE_RECORDS, labels, numbers.records.get());
        }
        page.count(&STORE_COPIES, &[store], self.copies.get());
        page.count(&STORE_DOUBTED, &[store], self.doubted.get());
        page.count(&STORE_UNITED, &[store], self.united.get());
        page.count(&STORE_REPAIRS, &[store], self.repairs.get());
        page.count(&STORE_REPAIRED_RECORDS, &[store], self.repaired_records.get());
        for (function, count) in &*lock(&self.storage_errors.0) {
            page.count(&STORE_STORAGE_ERRORS, &[store, function], *count);
        }
    }
}
