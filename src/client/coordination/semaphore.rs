//! Semaphores: at most so many holders at a time, in the layout of Consul's Go client.
//!
//! Under a prefix each contender has a key that its session holds, and the key `.lock` says who the
//! holders are. A holder whose session is over is struck off by the next contender; ours wait for
//! the lock delay before they do so, because the holder may believe until then, unless a guard gave
//! its permit back.

use super::contend::Contender;
use super::guard::Deed;
use super::presence::Behavior;
use super::{Claim, Grant, Lease, Operation, Presence, Wait, modify_index, transact, transaction};
use crate::clock::Instant;
use crate::error::{Error, Kind};
use crate::wire::kv;
use crate::wire::request::Args;
use crate::wire::response::Answer;
use crate::wire::txn;
use crate::wire::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The flags of a semaphore's keys.
///
/// Source: `SemaphoreFlagValue` in the package `api` of Consul's Go client.
pub const SEMAPHORE_FLAGS: u64 = 0xe0f6_9a2b_aa41_4de0;

/// The value of a contender's key that a guard gave back, for whoever takes a permit next to delete.
const GIVEN_BACK: &[u8] = b"given back";

/// How many of these are deleted at a time; a transaction has room for twice as many operations.
const MOST_DELETED: usize = 30;

/// How often a permit is looked for while one of a holder that is gone is not yet free.
const DELAY_POLL_MS: std::ops::Range<f64> = 50.0..150.0;

/// How a permit is taken.
#[derive(Clone, Debug)]
pub struct SemaphoreOptions {
    /// How many holders there may be; all contenders must say the same.
    pub limit: u64,
    /// The value of the contender's key, for people and programs to read.
    pub value: Vec<u8>,
    /// How long to wait.
    pub wait: Wait,
}

/// The value of `.lock`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    limit: u64,
    holders: BTreeMap<String, bool>,
}

/// What a read shows of a semaphore.
struct Seen {
    document: Option<(Document, u64)>,
    /// The sessions of the contenders that live.
    living: BTreeSet<String>,
    /// The sessions whose permit a guard gave back, because their process is dead.
    given_back: BTreeSet<String>,
}

/// Acquires a permit of the semaphore under `prefix`.
///
/// # Errors
/// [`Kind::Conflict`] when none is free and none was to be waited for, when this process holds one or
/// waits for one already, when others say another limit, and when `.lock` is no semaphore's;
/// [`Kind::Timeout`] when the wait is over; else what Consul refused. Whatever the error, no session
/// is left behind, as far as Consul can be reached.
pub async fn acquire(
    presence: &Arc<Presence>,
    prefix: &str,
    options: &SemaphoreOptions,
) -> Result<Arc<Lease>, Error> {
    if options.limit == 0 {
        return Err(Error::argument(format!("semaphore {prefix:?}: the limit must be at least 1")));
    }
    let prefix = prefix.trim_end_matches('/');
    let mut contender =
        Contender::new(presence, ("semaphore", Behavior::Delete), prefix, options.wait)?;
    let limit = contender.limit();
    let outcome = tokio::select! {
        biased;
        outcome = compete(&mut contender, options) => Some(outcome),
        () = limit => None,
    };
    contender.conclude(outcome).await
}

/// The key of a contender.
pub(super) fn contender_key(prefix: &str, session: &str) -> String {
    format!("{prefix}/{session}")
}

fn lock_key(prefix: &str) -> String {
    format!("{prefix}/.lock")
}

/// Gives the permit up in favour of whoever waits.
pub(super) async fn release(presence: &Presence, prefix: &str, session: &str) -> Result<(), Error> {
    loop {
        let Some((mut document, index)) = prove(presence, prefix).await?.document else {
            return Err(gone(prefix));
        };
        if document.holders.remove(session).is_none() {
            return Err(gone(prefix));
        }
        let operations = [write(prefix, &document, index)?, delete(prefix, session)];
        match transact(presence.client(), operations, None).await {
            Ok(_) => return Ok(()),
            // Somebody else wrote at the same time.
            Err(error) if error.kind() == Kind::TxnFailed => {}
            Err(error) => return Err(error),
        }
    }
}

/// The operation that deletes a contender's key.
fn delete(prefix: &str, session: &str) -> Operation {
    vec![("Verb", "delete".into()), ("Key", contender_key(prefix, session).into())]
}

fn gone(prefix: &str) -> Error {
    Error::new(Kind::TxnFailed, format!("semaphore {prefix:?}: the permit is gone"))
}

/// Why a linearizable read shows that a permit is over, if it does.
pub(super) async fn refutation(
    presence: &Presence,
    prefix: &str,
    session: &str,
) -> Result<Option<&'static str>, Error> {
    let seen = prove(presence, prefix).await?;
    let is_holder =
        seen.document.is_some_and(|(document, _)| document.holders.contains_key(session));
    Ok(match (is_holder, seen.living.contains(session)) {
        (false, _) => Some("it was struck off the holders"),
        (true, false) => Some("Consul took it away: its session is over"),
        (true, true) => None,
    })
}

/// What a contender knows from one look to the next.
#[derive(Default)]
struct Knowledge {
    /// What to wait for a change from.
    index: Option<u64>,
    /// The session whose key it made.
    entered_as: String,
    /// When a holder was first seen to be gone.
    gone: HashMap<String, Instant>,
}

async fn compete(
    contender: &mut Contender<'_>,
    options: &SemaphoreOptions,
) -> Result<Grant, Error> {
    let mut knowledge = Knowledge::default();
    loop {
        match attempt(contender, options, &mut knowledge).await {
            Ok(Some(grant)) => return Ok(grant),
            Ok(None) => {}
            Err(error) if error.kind() == Kind::SessionInvalid => contender.forget_session(),
            Err(error) => contender.bear(error).await?,
        }
    }
}

/// Looks once, waiting for a change when there was nothing to be had, and takes what is free.
async fn attempt(
    contender: &mut Contender<'_>,
    options: &SemaphoreOptions,
    knowledge: &mut Knowledge,
) -> Result<Option<Grant>, Error> {
    let session = contender.session().await?;
    if knowledge.entered_as != session {
        enter(contender, &session, &options.value).await?;
        knowledge.entered_as.clone_from(&session);
    }
    let last = knowledge.index.take();
    let answer = contender.look(&kv::LIST, tree(contender.key), last).await?;
    let next = answer.meta.next_index(last);
    let seen = read(answer, contender.key)?;
    if !seen.living.contains(&session) {
        // Our session is over, or a third party deleted our key.
        contender.forget_session();
        return Ok(None);
    }
    let (mut document, document_index) = seen
        .document
        .unwrap_or_else(|| (Document { limit: options.limit, holders: BTreeMap::new() }, 0));
    if document.limit != options.limit {
        return Err(contender.conflict(&format!(
            "others say that its limit is {}, here it is {}",
            document.limit, options.limit
        )));
    }
    let now = contender.presence.client().clock().now();
    let lock_delay = contender.presence.profile().lock_delay;
    knowledge
        .gone
        .retain(|holder, _| document.holders.contains_key(holder) && !seen.living.contains(holder));
    document.holders.retain(|holder, _| {
        seen.living.contains(holder)
            || !seen.given_back.contains(holder)
                && now - *knowledge.gone.entry(holder.clone()).or_insert(now) < lock_delay
    });
    let has_it = document.holders.contains_key(&session);
    if !has_it && document.holders.len() as u64 >= options.limit {
        let others: Vec<_> = document.holders.keys().map(String::as_str).collect();
        contender.obstacle = format!("sessions {} hold it", others.join(", "));
        if contender.tries_once() {
            return Err(contender.conflict(&contender.obstacle));
        }
        if others.iter().any(|holder| !seen.living.contains(*holder)) {
            contender.pause(DELAY_POLL_MS).await;
        } else {
            knowledge.index = next;
            contender.renew().await;
        }
        return Ok(None);
    }
    document.holders.insert(session.clone(), true);
    let own_key = contender_key(contender.key, &session);
    let give_back = vec![
        ("Verb", "unlock".into()),
        ("Key", own_key.as_str().into()),
        ("Value", GIVEN_BACK.to_vec().into()),
        ("Flags", SEMAPHORE_FLAGS.into()),
        ("Session", session.as_str().into()),
    ];
    // Before it is held, so that there is no moment at which the guard does not know.
    let entrusted =
        contender.presence.entrust(Deed::Release, &txn::TXN, &transaction([give_back]))?;
    let begun = contender.presence.client().clock().now();
    let holds = vec![
        ("Verb", "check-session".into()),
        ("Key", own_key.into()),
        ("Session", session.as_str().into()),
    ];
    let mut operations = vec![holds];
    let given_back = seen.given_back.iter().take(MOST_DELETED);
    operations.extend(given_back.map(|other| delete(contender.key, other)));
    operations.push(write(contender.key, &document, document_index)?);
    match transact(contender.presence.client(), operations, None).await {
        Ok(results) => {
            let token = modify_index(&results).unwrap_or(document_index);
            Ok(Some(Grant { token, claim: Claim::Permit, begun, entrusted }))
        }
        // Somebody else wrote at the same time, or our session is over: look again.
        Err(error) if error.kind() == Kind::TxnFailed => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the contender's key.
async fn enter(contender: &Contender<'_>, session: &str, value: &[u8]) -> Result<(), Error> {
    let args = Args::new()
        .arg(contender_key(contender.key, session))
        .arg(value.to_vec())
        .opt("flags", SEMAPHORE_FLAGS)
        .opt("acquire", session);
    contender.presence.client().call(&kv::PUT, &args).await.map(|_| ())
}

fn tree(prefix: &str) -> Args {
    Args::new().arg(format!("{prefix}/"))
}

/// Reads a semaphore's keys so that the answer is true at some moment since now.
async fn prove(presence: &Presence, prefix: &str) -> Result<Seen, Error> {
    let answer = presence.client().call(&kv::LIST, &presence.proof(tree(prefix))).await?;
    read(answer, prefix)
}

fn read(answer: Answer, prefix: &str) -> Result<Seen, Error> {
    let mut seen = Seen { document: None, living: BTreeSet::new(), given_back: BTreeSet::new() };
    for entry in answer.value.items() {
        let number = |name| entry.get(name).and_then(Value::as_u64).unwrap_or_default();
        let key = entry.get("Key").and_then(Value::as_str).unwrap_or_default();
        if key == lock_key(prefix) {
            let why = |why: String| {
                let message = format!("{}: {why}", lock_key(prefix));
                Error::new(Kind::Conflict, message).not_sent()
            };
            if number("Flags") != SEMAPHORE_FLAGS {
                return Err(why("the key exists and is no semaphore's".to_owned()));
            }
            let document = match entry.get("Value") {
                Some(Value::Bytes(bytes)) => serde_json::from_slice(bytes),
                _ => serde_json::from_slice(b""),
            };
            let document = document.map_err(|error| why(error.to_string()))?;
            seen.document = Some((document, number("ModifyIndex")));
        } else if let Some(session) = entry.get("Session").and_then(Value::as_str) {
            seen.living.insert(session.to_owned());
        } else if matches!(entry.get("Value"), Some(Value::Bytes(value)) if value == GIVEN_BACK)
            && let Some((_, session)) = key.rsplit_once('/')
        {
            seen.given_back.insert(session.to_owned());
        }
    }
    Ok(seen)
}

/// The operation that writes the document on condition that it is the one of `index`.
fn write(prefix: &str, document: &Document, index: u64) -> Result<Operation, Error> {
    let text = serde_json::to_vec(document)
        .map_err(|error| Error::argument(format!("semaphore {prefix:?}: {error}")))?;
    Ok(vec![
        ("Verb", "cas".into()),
        ("Key", lock_key(prefix).into()),
        ("Value", text.into()),
        ("Flags", SEMAPHORE_FLAGS.into()),
        ("Index", index.into()),
    ])
}
