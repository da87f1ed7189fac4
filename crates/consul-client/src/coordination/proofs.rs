//! The proofs of all leases of a presence: transactions that only read, each for many keys. A proof extends the leases that
//! it shows. A lease that it does not show is looked at alone (`lease.rs`), and it alone finds out whether it is lost.

use super::lease::{Alone, Lease};
use super::presence::Presence;
use super::transaction;
use consul_api::api::txn;
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_process::clock::Instant;
use consul_process::sync::lock;
use futures_util::stream::{self, StreamExt};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

/// The most operations in a transaction, which each Consul takes.
///
/// Source: "Transactions" in Consul's HTTP API reference: 64 before Consul 1.14.
pub(super) const MAX_OPERATIONS: usize = 64;

/// The most bytes of keys in a transaction; JSON makes up to six times as many of them, and a body has up to 512 KiB.
const MAX_KEY_BYTES: usize = 48 * 1024;

/// How many transactions, and how many proofs of single leases, are on their way at a time, so that beats have
/// their share of the connections.
const MAX_AT_A_TIME: usize = 8;

/// The leases of a presence.
#[derive(Debug)]
pub(super) struct Proofs {
    leases: Mutex<Vec<Weak<Lease>>>,
    /// There is one more to prove together.
    added: Notify,
    /// A permit for each proof of a single lease.
    pub alone: Semaphore,
    /// Whether the last transaction was answered by another than the leader.
    is_doubted: AtomicBool,
}

impl Default for Proofs {
    fn default() -> Self {
        let (leases, added, is_doubted) = Default::default();
        Self { leases, added, alone: Semaphore::new(MAX_AT_A_TIME), is_doubted }
    }
}

impl Proofs {
    pub fn add(&self, lease: Weak<Lease>) {
        lock(&self.leases).push(lease);
        self.added.notify_one();
    }

    /// A lease that was proven alone is proven with the others again.
    pub fn rejoin(&self) {
        self.added.notify_one();
    }

    /// How many leases there are, those that have just ended with them.
    pub fn count(&self) -> usize {
        lock(&self.leases).len()
    }

    /// The leases that are proven together.
    fn together(&self) -> Vec<Arc<Lease>> {
        let mut leases = lock(&self.leases);
        leases.retain(|lease| lease.upgrade().is_some_and(|lease| !lease.has_ended()));
        let living = leases.iter().filter_map(Weak::upgrade);
        living.filter(|lease| lease.is_proven_together()).collect()
    }
}

impl Presence {
    /// Proves the leases that are kept, forever.
    pub(super) async fn prove_leases(&self) -> Infallible {
        let (clock, interval) = (self.client().clock(), self.profile().proof_interval());
        let mut last = Instant::from_origin(Duration::ZERO);
        loop {
            let leases = self.proofs.together();
            let first = leases.iter().map(|lease| lease.begun()).min();
            let due = first.map(|first| first.max(last) + interval);
            if due.is_some_and(|due| due <= clock.now()) {
                last = clock.now();
                let proofs = parts(leases).into_iter().map(|part| self.prove_together(part));
                stream::iter(proofs).buffer_unordered(MAX_AT_A_TIME).collect::<()>().await;
                continue;
            }
            drop(leases);
            tokio::select! {
                biased;
                () = self.proofs.added.notified() => {}
                () = clock.sleep_until_any(due) => {}
            }
        }
    }

    /// Extends the leases by one linearizable transaction. Those that it refuses are left out of the next one.
    async fn prove_together(&self, mut leases: Vec<Arc<Lease>>) {
        while !leases.is_empty() {
            let begun = self.client().clock().now();
            let operations = leases.iter().flat_map(|lease| lease.proof());
            match self.read_proof(&txn::TXN, transaction(operations)).await {
                Ok(answer) => {
                    self.proofs.is_doubted.store(false, Ordering::Relaxed);
                    return extend(&leases, answer.value.items(), begun);
                }
                Err(error) if error.kind() == Kind::TxnFailed || !error.refused().is_empty() => {
                    let refused = refused(&leases, &error);
                    leases.retain(|lease| !refused.iter().any(|it| Arc::ptr_eq(it, lease)));
                    refused.iter().for_each(|lease| lease.look_alone(Alone::Refused));
                }
                Err(error) if may_concern_one(&error) => {
                    tracing::debug!(leases = leases.len(), %error, "not proven together");
                    return leases.iter().for_each(|lease| lease.look_alone(Alone::Unanswered));
                }
                Err(error) => return self.note_no_proof(&leases, &error),
            }
        }
    }

    fn note_no_proof(&self, leases: &[Arc<Lease>], error: &Error) {
        leases.iter().for_each(|lease| lease.note_no_proof(error));
        let (key, leases) = (leases.first().map_or("", |lease| lease.key()), leases.len());
        if error.kind() == Kind::NoLeader && error.status().is_none() {
            if !self.proofs.is_doubted.swap(true, Ordering::Relaxed) {
                let why = error.message();
                tracing::warn!(key, leases, why, "an answer is not believed; it is asked again");
            }
        } else {
            tracing::info!(key, leases, %error, "no proof");
        }
    }
}

/// Extends the leases that the results show as held. The leases of keys that the token may not read are left out.
fn extend(leases: &[Arc<Lease>], results: &[Value], begun: Instant) {
    let entries = results.iter().filter_map(|result| result.get("KV"));
    let entries: HashMap<_, _> =
        entries.filter_map(|entry| Some((entry.get("Key")?.as_str()?, entry))).collect();
    for lease in leases {
        match lease.is_shown_by(|key| entries.get(key).copied()) {
            true => lease.extend_by_proof(begun),
            false => lease.look_alone(Alone::Refused),
        }
    }
}

/// Whether the reason for a failure may be one of the keys, or something between that lets reads pass: a filter may answer,
/// close the connection, or keep silent. Servers without a leader or with too many requests concern all.
fn may_concern_one(error: &Error) -> bool {
    !matches!(error.kind(), Kind::NoLeader | Kind::RateLimited)
}

/// The leases whose operations were refused; all, if the answer does not say which.
fn refused(leases: &[Arc<Lease>], error: &Error) -> Vec<Arc<Lease>> {
    let mut first = 0;
    let is_refused = |lease: &&Arc<Lease>| {
        let own = first..first + lease.proof_size();
        first = own.end;
        error.refused().iter().any(|refused| own.contains(&refused.index))
    };
    let named: Vec<_> = leases.iter().filter(is_refused).cloned().collect();
    if named.is_empty() { leases.to_vec() } else { named }
}

/// Divides leases into parts, each for one transaction.
fn parts(leases: Vec<Arc<Lease>>) -> Vec<Vec<Arc<Lease>>> {
    let mut parts: Vec<Vec<Arc<Lease>>> = Vec::new();
    let (mut operations, mut bytes) = (MAX_OPERATIONS, 0);
    for lease in leases {
        let (more, key) = (lease.proof_size(), lease.key().len());
        if operations + more > MAX_OPERATIONS || bytes + key * more > MAX_KEY_BYTES {
            parts.push(Vec::new());
            (operations, bytes) = (0, 0);
        }
        (operations, bytes) = (operations + more, bytes + key * more);
        parts.last_mut().into_iter().for_each(|part| part.push(Arc::clone(&lease)));
    }
    parts
}
