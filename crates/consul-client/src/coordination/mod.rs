//! Locks and semaphores whose holder knows, without a request, whether it may still act.
//!
//! A holder relies on its lock for a limited time from the start of its last proof, a linearizable
//! read, and the lock delay of its session is longer than that. Every grant has a fencing token.
//!
//! ```
//! # use std::sync::Arc;
//! use consul_client::coordination::lock::{LockOptions, acquire};
//! use consul_client::coordination::{Presence, Profile, Service, Wait};
//! # use consul_api::request::Defaults;
//! # use consul_client::{Client, Settings};
//! # use consul_process::{clock::SystemClock, os};
//! # use consul_sim::{Agent, Options, SimTransport};
//! # use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let agent = Arc::new(Agent::new(Options::default()));
//! # let connect = || {
//! #     let transport = Arc::new(SimTransport::new(Arc::clone(&agent), "simulated"));
//! #     let (timeout, defaults) = (Duration::from_secs(5), Defaults::default());
//! #     let settings = Settings { timeout, retry_count: 3, defaults };
//! #     let clock = Arc::new(SystemClock::new());
//! #     Arc::new(Client::new(vec![transport], settings, clock, os::generator()))
//! # };
//! // Blocking queries have a client of their own, so that they cannot delay a beat.
//! let (client, waiting) = (connect(), connect());
//! let service = Service::for_process(&client);
//! let presence = Presence::new(client, waiting, Profile::standard(), service);
//! let work = async {
//!     let options = LockOptions { value: None, wait: Wait::Forever, is_own: false };
//!     let lease = acquire(&presence, "locks/report", &options).await?;
//!     assert!(lease.is_held() && lease.token() > 0);
//!     lease.release().await
//! };
//! tokio::select! {
//!     never = presence.run() => match never {},
//!     done = work => done?,
//! }
//! # Ok(()) }) }
//! ```

mod acquire;
mod ending;
mod guard;
mod lease;
pub mod lock;
mod making;
mod presence;
mod profile;
mod proofs;
pub mod semaphore;
mod shared_queries;
mod waits;

pub use acquire::Wait;
pub use guard::{Guard, ReleaseStep};
pub use lease::{Event, Lease};
pub use presence::{Behavior, Presence, Registration, Rule, Rules, Service, Session};
pub use profile::{NamedProfile, Profile};

use crate::Client;
use consul_api::api::txn;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::response::{Answer, Meta};
use consul_api::value::Value;
use consul_process::clock::Instant;
use std::time::Duration;

/// One acquisition of a lock or permit by one session.
struct Grant {
    token: u64,
    /// When the write or read that proves it was begun.
    begun: Instant,
}

/// An operation on a key in a transaction: its members, by Consul's names (`Verb`, `Key`, …).
pub type Operation = Vec<(&'static str, Value)>;

/// The operation that writes a key.
pub fn set(key: &str, value: Vec<u8>) -> Operation {
    vec![("Verb", "set".into()), ("Key", key.into()), ("Value", value.into())]
}

/// The operation that refuses the transaction unless a key still has this modify index; 0: unless it does not
/// exist.
pub fn unchanged(key: &str, index: u64) -> Operation {
    match index {
        0 => vec![("Verb", "check-not-exists".into()), ("Key", key.into())],
        _ => {
            vec![("Verb", "check-index".into()), ("Key", key.into()), ("Index", index.into())]
        }
    }
}

/// The operation that refuses the transaction unless a session holds a key.
fn holds(key: &str, session: &str) -> Operation {
    vec![("Verb", "check-session".into()), ("Key", key.into()), ("Session", session.into())]
}

/// The operation that deletes a key if it still has this modify index.
pub fn delete_unchanged(key: &str, index: u64) -> Operation {
    vec![("Verb", "delete-cas".into()), ("Key", key.into()), ("Index", index.into())]
}

/// Applies operations on keys in one transaction, and returns their results. Without a time limit of its own it is
/// sent again as by [`Client::call_again`], so one of the operations has to check that none was applied before.
///
/// # Errors
/// Errors of the call; [`consul_api::error::Kind::TxnFailed`] names the operations that were refused.
pub async fn transact(
    client: &Client,
    operations: impl IntoIterator<Item = Operation>,
    timeout: Option<Duration>,
) -> Result<Value, Error> {
    let args = transaction(operations);
    let answer = match timeout {
        Some(timeout) => {
            client.call(&txn::TXN, &args.opt("timeout_ms", timeout.as_millis() as u64)).await
        }
        None => client.call_again(&txn::TXN, args).await,
    };
    answer.map(|answer| answer.value)
}

/// The result of a linearizable read of a lock or a permit.
enum Proof {
    /// It is held.
    Held,
    /// It is lost, for this reason.
    Lost(&'static str),
    /// Another client has overwritten the document of the semaphore, so that it does not tell.
    NoDocument(semaphore::Lost),
    /// It is lost, by a state from before the grant, at this index: the answer is that of a cache, or Consul was restored
    /// from a snapshot.
    Before(u64, &'static str),
}

impl Proof {
    /// By a state at this index that does not show it as held.
    fn lost(why: &'static str, index: Option<u64>, token: u64) -> Self {
        match index.filter(|index| *index < token) {
            Some(index) => Proof::Before(index, why),
            None => Proof::Lost(why),
        }
    }
}

/// Refuses the answer to a linearizable read that the leader of Consul's servers did not give now. A header that is missing
/// shows nothing: a proxy may have dropped it.
///
/// Source: `Server.setQueryMeta` and `Server.consistentRead` in `agent/consul/rpc.go` of Consul's source: who answers is the
/// leader, after the others have confirmed that, so the header `X-Consul-KnownLeader` is `true` and `X-Consul-LastContact`
/// is 0.
///
/// # Errors
/// [`Kind::NoLeader`], after which it may be asked again.
pub fn linearizable(answer: Answer) -> Result<Answer, Error> {
    let Meta { known_leader, last_contact_ms, cache, age_s, .. } = &answer.meta;
    let why = if *known_leader == Some(false) {
        "from servers without a leader".to_owned()
    } else if let Some(ms) = last_contact_ms.filter(|ms| *ms > 0) {
        format!("from a server that was in touch with the leader {ms} ms ago")
    } else if cache.as_deref() == Some("HIT") || age_s.is_some_and(|age| age > 0) {
        "from a cache".to_owned()
    } else {
        return Ok(answer);
    };
    let endpoint = answer.meta.endpoint;
    let why = format!("a linearizable read was answered {why}, not by the leader ({endpoint})");
    Err(Error::new(Kind::NoLeader, why).with_maybe_applied(false).retryable())
}

/// Whether the operations, which only check and read, are refused, by a transaction that is linearizable. A cache answers
/// none, and what sends reads elsewhere sends it to where the writes go.
///
/// # Errors
/// Errors of the transaction; then it is not known.
pub async fn are_refused(
    presence: &Presence,
    operations: impl IntoIterator<Item = Operation>,
) -> Result<bool, Error> {
    match presence.read_proof(&txn::TXN, transaction(operations)).await {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == Kind::TxnFailed => Ok(true),
        Err(error) => Err(error),
    }
}

/// The arguments of a transaction.
pub fn transaction(operations: impl IntoIterator<Item = Operation>) -> Args {
    let of_key = |operation| map(vec![("KV", map(operation))]);
    Args::new().arg(Value::List(operations.into_iter().map(of_key).collect()))
}

/// The modify index of the key of the last operation.
fn modify_index(results: &Value) -> Option<u64> {
    let index = results.items().last()?.get("KV")?.get("ModifyIndex")?.as_u64();
    // Consul's indexes begin with 1.
    index.filter(|index| *index > 0)
}

fn map(members: Vec<(&str, Value)>) -> Value {
    Value::Map(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
