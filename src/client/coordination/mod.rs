//! Locks and semaphores whose holder knows, without asking, whether it may still act.
//!
//! The holder believes for a bounded time from the start of its last linearizable proof, and the
//! session's lock delay is longer than that. Every grant has a fencing token.

mod contend;
mod guard;
mod lease;
pub mod lock;
mod presence;
mod profile;
pub mod semaphore;

pub use contend::{Wait, may_pass};
pub use guard::{Deed, Guard};
pub use lease::{Event, Lease};
pub use presence::{Behavior, Presence, Registration, Rules, Service, Session};
pub use profile::Profile;

use crate::client::Client;
use crate::clock::Instant;
use crate::error::Error;
use crate::wire::request::Args;
use crate::wire::txn;
use crate::wire::value::Value;
use guard::Entrusted;
use lease::Claim;
use std::time::Duration;

/// What Consul gave to a session.
struct Grant {
    token: u64,
    claim: Claim,
    /// When the write or the read that proves it was begun.
    begun: Instant,
    /// That the guard gives it back.
    entrusted: Option<Entrusted>,
}

/// The members of an operation on a key in a transaction, as Consul names them: `Verb`, `Key`, …
pub type Operation = Vec<(&'static str, Value)>;

/// Applies operations on keys together or not at all; gives the results.
///
/// # Errors
/// Those of the call; [`crate::error::Kind::TxnFailed`] names the operations that were refused.
pub async fn transact(
    client: &Client,
    operations: impl IntoIterator<Item = Operation>,
    timeout: Option<Duration>,
) -> Result<Value, Error> {
    let mut args = transaction(operations);
    if let Some(timeout) = timeout {
        args = args.opt("timeout_ms", timeout.as_millis() as u64);
    }
    client.call(&txn::TXN, &args).await.map(|answer| answer.value)
}

fn transaction(operations: impl IntoIterator<Item = Operation>) -> Args {
    let of_key = |operation| map(vec![("KV", map(operation))]);
    Args::new().arg(Value::List(operations.into_iter().map(of_key).collect()))
}

/// The modify index of the key that the last operation was on.
fn modify_index(results: &Value) -> Option<u64> {
    results.items().last()?.get("KV")?.get("ModifyIndex")?.as_u64()
}

/// A table of named members.
fn map(members: Vec<(&str, Value)>) -> Value {
    Value::Map(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
