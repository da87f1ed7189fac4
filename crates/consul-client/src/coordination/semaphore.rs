//! Semaphores: up to `limit` holders at a time, in the layout of Consul's Go client.
//!
//! Under a prefix each contender has a key that its session holds, and the key `.lock` lists the
//! holders. The next contender removes a holder whose session has ended. Ours lock the holder's key
//! in the same transaction, and delete it: Consul refuses that within the lock delay of the session
//! that held the key, while the holder may still rely on its lease, but not after a guard process
//! has unlocked it.

use super::acquire::{Contender, RETRY_PAUSE_MS};
use super::guard::ReleaseStep;
use super::lease::Claim;
use super::presence::Behavior;
use super::{
    Grant, Lease, Operation, Presence, Proof, Wait, holds, modify_index, transact, transaction,
    unchanged,
};
use consul_api::api::{kv, txn};
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::response::Answer;
use consul_api::shell::kv_delete;
use consul_api::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The flags of a semaphore's keys.
///
/// Source: `SemaphoreFlagValue` in the package `api` of Consul's Go client.
pub const SEMAPHORE_FLAGS: u64 = 0xe0f6_9a2b_aa41_4de0;

/// The flags of the key of a contender that was made a holder, which other clients do not look at: by these keys the holders
/// are known when another client has overwritten or deleted the document.
pub const HOLDER_FLAGS: u64 = SEMAPHORE_FLAGS | 1;

/// The value of a contender's key whose permit a guard process has released. The next contender
/// that gets a permit deletes the key.
const RELEASED_BY_GUARD: &[u8] = b"given back";

/// How many ended contenders are removed at a time: a transaction has room for two operations for each.
const MAX_REMOVED: usize = 30;

/// The random pause between two looks at a document that is taken over soon.
const TAKE_OVER_POLL_MS: std::ops::Range<f64> = 50.0..150.0;

/// The options of [`acquire`].
#[derive(Clone, Debug)]
pub struct SemaphoreOptions {
    /// How many holders there may be; it must be the same for all holders. Another one counts when nobody holds it.
    pub limit: u64,
    /// The value of the contender's key. Semaphores do not use it.
    pub value: Vec<u8>,
    /// How long to wait.
    pub wait: Wait,
}

/// The value of `.lock`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    limit: u64,
    holders: BTreeMap<String, bool>,
}

/// The keys of a semaphore, as a read shows them.
struct SemaphoreKeys {
    document: Option<(Document, u64)>,
    /// The state of a `.lock` that is not a document.
    unreadable: Option<Unreadable>,
    /// The contenders' sessions that have not ended.
    live: BTreeSet<String>,
    /// The contenders that were made holders.
    made_holders: BTreeSet<String>,
    /// The sessions whose permit a guard process has released, because their process is dead.
    released_by_guard: BTreeSet<String>,
    /// The index of the answer, and whether ACLs have hidden some of the keys.
    index: Option<u64>,
    is_filtered: bool,
}

/// A key `.lock` that is not the document of a semaphore.
#[derive(Clone, Debug)]
struct Unreadable {
    why: Error,
    index: u64,
    /// Whether it may be another program's.
    is_foreign: bool,
}

/// A document that another client has overwritten or deleted while the holder's own key is as it was.
pub(super) struct Lost {
    pub why: Error,
    /// The modify index of what is there; 0: nothing.
    pub index: u64,
    /// The sessions of the holders.
    holders: BTreeSet<String>,
}

impl SemaphoreKeys {
    /// Why there is no document; `None`: there is one.
    fn lost(&self, prefix: &str) -> Option<Lost> {
        // ACLs may hide a document that is there.
        if self.document.is_some() || self.is_filtered && self.unreadable.is_none() {
            return None;
        }
        let (why, index) = match &self.unreadable {
            Some(unreadable) => (unreadable.why.clone(), unreadable.index),
            None => {
                let why = format!("{}: another client has deleted the key", lock_key(prefix));
                (Error::new(Kind::Conflict, why).not_sent(), 0)
            }
        };
        Some(Lost { why, index, holders: self.made_holders.clone() })
    }
}

/// Acquires a permit of the semaphore under `prefix`.
///
/// # Errors
/// [`Kind::Conflict`] when no permit is free or the holders have another limit and [`Wait::Once`] is set, when this process
/// holds one or waits for one already, and when `.lock` is another program's; [`Kind::Timeout`] at the end of the wait; otherwise Consul's error. After an error
/// no session is left behind: a session that Consul could not be asked to end yet is ended by [`Presence::run`].
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
    let timeout = contender.timeout();
    let outcome = tokio::select! {
        biased;
        outcome = attempt_repeatedly(&mut contender, options) => Some(outcome),
        () = timeout => None,
    };
    contender.finish(outcome).await
}

pub(super) fn contender_key(prefix: &str, session: &str) -> String {
    format!("{prefix}/{session}")
}

pub(super) fn lock_key(prefix: &str) -> String {
    format!("{prefix}/.lock")
}

/// Removes the session from the holders, so that a waiter can have the permit at once.
pub(super) async fn release(
    presence: &Presence,
    prefix: &str,
    session: &str,
    limit: Duration,
) -> Result<(), Error> {
    loop {
        let seen = read_consistent(presence, prefix).await?;
        let lost = seen.lost(prefix).filter(|_| seen.live.contains(session));
        let shows_nothing = seen.document.is_none() && seen.live.is_empty();
        let held = seen.document.and_then(|(mut document, index)| {
            document.holders.remove(session).map(|_| (document, index))
        });
        let operations = match (held, lost) {
            (Some((document, index)), _) => {
                vec![write(prefix, &document, index)?, delete(prefix, session)]
            }
            // Without its key it is not a holder when the document is written again.
            (None, Some(lost)) => {
                vec![unchanged(&lock_key(prefix), lost.index), delete(prefix, session)]
            }
            (None, None) if seen.is_filtered => return Err(hidden()),
            (None, None) => {
                match is_lost(presence, prefix, session).await {
                    Ok(false) => {}
                    Err(error) if shows_nothing && error.kind() == Kind::PermissionDenied => {
                        return Err(error);
                    }
                    // If that cannot be found out, the end of the session frees it, after the lock delay.
                    Ok(true) | Err(_) => return Err(permit_lost(prefix)),
                }
                presence.client().pause(RETRY_PAUSE_MS).await;
                continue;
            }
        };
        match transact(presence.client(), operations, Some(limit)).await {
            Ok(_) => return Ok(()),
            // Another client wrote at the same time.
            Err(error) if error.kind() == Kind::TxnFailed => {
                presence.client().pause(RETRY_PAUSE_MS).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The operation that deletes a contender's key.
fn delete(prefix: &str, session: &str) -> Operation {
    vec![("Verb", "delete".into()), ("Key", contender_key(prefix, session).into())]
}

fn permit_lost(prefix: &str) -> Error {
    Error::new(Kind::TxnFailed, format!("semaphore {prefix:?}: the permit is lost"))
}

/// ACLs hide keys, so that nothing is known.
fn hidden() -> Error {
    let why = "ACLs hide keys of the semaphore: whether the permit is held is not known";
    Error::new(Kind::PermissionDenied, why).with_maybe_applied(false)
}

/// Proves the permit by a linearizable read.
pub(super) async fn prove(
    presence: &Presence,
    prefix: &str,
    session: &str,
    token: u64,
) -> Result<Proof, Error> {
    let seen = read_consistent(presence, prefix).await?;
    let is_live = seen.live.contains(session);
    if let Some(lost) = seen.lost(prefix).filter(|_| seen.made_holders.contains(session)) {
        return Ok(Proof::NoDocument(lost));
    }
    let document = seen.document.as_ref();
    let is_holder = document.is_some_and(|(document, _)| document.holders.contains_key(session));
    if is_holder && is_live {
        return Ok(Proof::Held);
    }
    if seen.is_filtered {
        return Err(hidden());
    }
    let index = document.map_or(seen.index, |(_, index)| Some(*index));
    let why = if is_holder { "its session ended" } else { "it was removed from the holders" };
    Ok(Proof::lost(why, index, token))
}

/// Writes the document again with the contenders that were made holders; this session is among them.
pub(super) async fn write_again(
    presence: &Presence,
    prefix: &str,
    (session, limit): (&str, u64),
    lost: &Lost,
) -> Result<(), Error> {
    let holders = lost.holders.iter().map(|holder| (holder.clone(), true)).collect();
    let document = Document { limit, holders };
    let operations =
        [holds(&contender_key(prefix, session), session), write(prefix, &document, lost.index)?];
    transact(presence.client(), operations, Some(presence.end_timeout())).await.map(|_| ())
}

/// Whether a transaction shows too that the permit is lost.
pub(super) async fn is_lost(
    presence: &Presence,
    prefix: &str,
    session: &str,
) -> Result<bool, Error> {
    let operations = [holds(&contender_key(prefix, session), session), get_document(prefix)];
    let results = match presence.read_proof(&txn::TXN, transaction(operations)).await {
        Ok(answer) => answer.value,
        Err(error) if error.kind() == Kind::TxnFailed => return Ok(true),
        Err(error) => return Err(error),
    };
    let entry = results.items().last().and_then(|result| result.get("KV"));
    Ok(!entry.is_some_and(|entry| names_holder(entry, session)))
}

/// The operation that reads the document.
pub(super) fn get_document(prefix: &str) -> Operation {
    vec![("Verb", "get".into()), ("Key", lock_key(prefix).into())]
}

/// Whether the entry of the document names the session as a holder.
pub(super) fn names_holder(entry: &Value, session: &str) -> bool {
    let document = match entry.get("Value") {
        Some(Value::Bytes(bytes)) => serde_json::from_slice::<Document>(bytes).ok(),
        _ => None,
    };
    document.is_some_and(|document| document.holders.contains_key(session))
}

/// The memory of a contender from one attempt to the next.
#[derive(Default)]
struct Memory {
    /// The index that the next read waits for a change of.
    index: Option<u64>,
    /// The session that the contender's key was created with.
    key_session: String,
}

async fn attempt_repeatedly(
    contender: &mut Contender<'_>,
    options: &SemaphoreOptions,
) -> Result<Grant, Error> {
    let mut memory = Memory::default();
    loop {
        let (begun, waited) = (contender.now(), memory.index.is_some());
        let attempt =
            async |contender: &mut Contender<'_>| attempt(contender, options, &mut memory).await;
        match contender.unless_refused(attempt).await {
            Ok(Some(grant)) => return Ok(grant),
            Ok(None) => contender.pause_after(begun, !waited && memory.index.is_some()).await,
            Err(error) if error.kind() == Kind::SessionInvalid => {
                contender.forget_session();
                contender.pause_after(begun, false).await;
            }
            Err(error) => contender.tolerate(error).await?,
        }
    }
}

/// Reads the semaphore, after a change if the last attempt found no free permit, and takes a permit
/// when one is free.
async fn attempt(
    contender: &mut Contender<'_>,
    options: &SemaphoreOptions,
    memory: &mut Memory,
) -> Result<Option<Grant>, Error> {
    let session = contender.session().await?;
    if memory.key_session != session {
        match create_contender_key(contender, &session, &options.value).await {
            Ok(()) => memory.key_session.clone_from(&session),
            // The key has the name of this session, which has ended: no other one holds it.
            Err(error) if error.kind() == Kind::Conflict => {
                contender.forget_session();
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    let last = match memory.index.take() {
        Some(index) => contender.wait(index, None).await?,
        None => None,
    };
    let answer = contender.read(&kv::LIST, tree(contender.key), last).await?;
    let next = answer.meta.next_index(last);
    let mut seen = read(answer, contender.key);
    if !seen.live.contains(&session) {
        // Our session ended, or a third party deleted our key.
        contender.forget_session();
        return Ok(None);
    }
    let Some((mut document, document_index)) =
        document(contender, options, &session, &mut seen).await?
    else {
        return Ok(None);
    };
    document.holders.retain(|holder, _| is_session(holder));
    let is_other_limit = document.limit != options.limit;
    let others = BTreeSet::from_iter(document.holders.keys().chain(&seen.released_by_guard));
    let ended = others.into_iter().filter(|other| !seen.live.contains(*other)).collect();
    let place = (&document, document_index);
    if let Try::Ended(grant) = try_to_take(contender, options, &session, place, ended).await? {
        return Ok(grant);
    }
    let holders: Vec<_> = document.holders.keys().map(String::as_str).collect();
    contender.held_up(match is_other_limit {
        true => format!(
            "its limit is {}, not {}: another one counts when nobody holds it",
            document.limit, options.limit
        ),
        false => format!("sessions {} hold it", holders.join(", ")),
    })?;
    if holders.iter().any(|holder| !seen.live.contains(*holder)) {
        contender.pause_in_delay().await;
    } else {
        memory.index = next;
        contender.forget_delay();
        contender.renew_session().await;
    }
    Ok(None)
}

/// The document with its index; a new document if there is none, or in the place of an unreadable document. `None`
/// after a pause.
async fn document(
    contender: &mut Contender<'_>,
    options: &SemaphoreOptions,
    session: &str,
    seen: &mut SemaphoreKeys,
) -> Result<Option<(Document, u64)>, Error> {
    let new = |index| (Document { limit: options.limit, holders: BTreeMap::new() }, index);
    let others_hold = seen.made_holders.iter().any(|holder| holder != session);
    let lost = seen.lost(contender.key);
    Ok(Some(match (lost, seen.document.take()) {
        (_, Some(document)) => document,
        (Some(Lost { index: 0, .. }), _) if !others_hold => new(0),
        (Some(lost), _) => {
            let is_foreign =
                seen.unreadable.as_ref().is_some_and(|it| it.is_foreign) && !others_hold;
            if others_hold || is_foreign || !contender.has_stayed(lost.index) {
                if is_foreign || contender.tries_once() {
                    return Err(lost.why);
                }
                contender.obstacle = match others_hold {
                    true => {
                        format!("its holders have yet to write its document again: {}", lost.why)
                    }
                    false => lost.why.to_string(),
                };
                contender.pause(TAKE_OVER_POLL_MS).await;
                contender.renew_session().await;
                return Ok(None);
            }
            tracing::warn!(
                prefix = contender.key,
                "a semaphore's document that another client has overwritten is taken over"
            );
            new(lost.index)
        }
        (None, None) => new(0),
    }))
}

/// How a try to take a permit ended.
enum Try {
    /// With a permit, or without an answer to whether one is free.
    Ended(Option<Grant>),
    /// None is free.
    Full,
}

/// Takes a permit if one is free without the ended contenders, and removes those.
async fn try_to_take(
    contender: &mut Contender<'_>,
    options: &SemaphoreOptions,
    session: &str,
    (document, document_index): (&Document, u64),
    mut ended: Vec<&String>,
) -> Result<Try, Error> {
    let are_too_many = ended.len() > MAX_REMOVED;
    ended.truncate(MAX_REMOVED);
    loop {
        let mut others_only = document.clone();
        others_only.holders.retain(|holder, _| !ended.contains(&holder));
        let mut with_own = others_only.clone();
        with_own.limit = options.limit;
        with_own.holders.insert(session.to_owned(), true);
        let may_count = document.limit == options.limit || others_only.holders.is_empty();
        let outcome = if may_count && with_own.holders.len() as u64 <= options.limit {
            let own = (session, options.value.as_slice());
            take_permit(contender, own, &ended, (&with_own, document_index)).await.map(Some)
        } else if are_too_many && !ended.is_empty() {
            // More have to go than a transaction has room for.
            let next = (&others_only, document_index);
            remove(contender, session, &ended, next).await.map(|()| None)
        } else {
            return Ok(Try::Full);
        };
        match outcome {
            // Taken again, it has a lease that is not over.
            Ok(Some(grant)) if contender.is_late(grant.begun) => return Ok(Try::Ended(None)),
            Ok(outcome) => return Ok(Try::Ended(outcome)),
            Err(error) if error.kind() == Kind::TxnFailed => {
                let removable = removable(&ended, &error);
                if removable.len() == ended.len() {
                    // Another client wrote at the same time, or our session ended.
                    return Ok(Try::Ended(None));
                }
                ended = removable;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Writes the document that has the session as a holder, and removes ended contenders, unless one of
/// them may still act.
async fn take_permit(
    contender: &mut Contender<'_>,
    (session, value): (&str, &[u8]),
    ended: &[&String],
    (document, index): (&Document, u64),
) -> Result<Grant, Error> {
    let own_key = contender_key(contender.key, session);
    let unlock = vec![
        ("Verb", "unlock".into()),
        ("Key", own_key.as_str().into()),
        ("Value", RELEASED_BY_GUARD.to_vec().into()),
        ("Flags", SEMAPHORE_FLAGS.into()),
        ("Session", session.into()),
    ];
    // Before the permit is held, so that the guard process knows of it at any moment.
    let deferred =
        contender.presence.defer(ReleaseStep::Unlock, &txn::TXN, &transaction([unlock]))?;
    let begun = contender.now();
    let mut operations = removals(contender, session, ended);
    operations.push(holds(&own_key, session));
    operations.push(vec![
        ("Verb", "lock".into()),
        ("Key", own_key.as_str().into()),
        ("Value", value.to_vec().into()),
        ("Flags", HOLDER_FLAGS.into()),
        ("Session", session.into()),
    ]);
    operations.push(write(contender.key, document, index)?);
    let claim = Claim::Permit { limit: document.limit };
    let results = contender.take(claim, deferred, operations).await?;
    let token = modify_index(&results).unwrap_or(index);
    Ok(Grant { token, begun })
}

/// Writes the document without ended contenders, unless one of them may still act.
async fn remove(
    contender: &Contender<'_>,
    session: &str,
    ended: &[&String],
    (document, index): (&Document, u64),
) -> Result<(), Error> {
    let mut operations = removals(contender, session, ended);
    operations.push(holds(&contender_key(contender.key, session), session));
    operations.push(write(contender.key, document, index)?);
    let presence = contender.presence;
    let _turn = presence.turn().await;
    transact(presence.client(), operations, Some(presence.end_timeout())).await.map(|_| ())
}

/// The operations that delete the keys of ended contenders, which Consul refuses while one of them may still act.
fn removals(contender: &Contender<'_>, session: &str, ended: &[&String]) -> Vec<Operation> {
    if !contender.presence.removal_needs_lock() {
        return Vec::new();
    }
    let removal = |other: &&String| {
        let lock = vec![
            ("Verb", "lock".into()),
            ("Key", contender_key(contender.key, other).into()),
            ("Session", session.into()),
        ];
        [lock, delete(contender.key, other)]
    };
    ended.iter().flat_map(removal).collect()
}

/// Whether a name in a document can be a session's; the key of another one may be a program's own.
fn is_session(name: &str) -> bool {
    let is_part = |(place, byte): (usize, u8)| match place {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    name.len() == 36 && name.bytes().enumerate().all(is_part)
}

/// The ended contenders whose removal was not refused because of their lock delay.
fn removable<'a>(ended: &[&'a String], error: &Error) -> Vec<&'a String> {
    let delayed = error.refused().iter().filter(|it| it.what.contains("due to lock delay"));
    // Each removal has two operations.
    let delayed = BTreeSet::from_iter(delayed.map(|it| it.index / 2));
    let ended = ended.iter().enumerate();
    ended.filter(|(place, _)| !delayed.contains(place)).map(|(_, other)| *other).collect()
}

/// Creates the contender's key, held by its session.
async fn create_contender_key(
    contender: &Contender<'_>,
    session: &str,
    value: &[u8],
) -> Result<(), Error> {
    let args = Args::new()
        .arg(contender_key(contender.key, session))
        .arg(value.to_vec())
        .opt("flags", SEMAPHORE_FLAGS)
        .opt("acquire", session);
    let presence = contender.presence;
    let begins = || {
        contender.note_step("Consul has not answered the request for its key");
        Ok(())
    };
    presence.call_in_turns(presence.client(), (&kv::PUT, args), begins).await.map(|_| ())
}

fn tree(prefix: &str) -> Args {
    Args::new().arg(format!("{prefix}/"))
}

/// A linearizable read of a semaphore's keys.
async fn read_consistent(presence: &Presence, prefix: &str) -> Result<SemaphoreKeys, Error> {
    Ok(read(presence.read_proof(&kv::LIST, tree(prefix)).await?, prefix))
}

/// Whether a key, as Consul lists it, is the document of a semaphore, under which contenders get permits.
pub fn is_document(entry: &Value) -> bool {
    let is_flagged = entry.get("Flags").and_then(Value::as_u64) == Some(SEMAPHORE_FLAGS);
    let value = match entry.get("Value") {
        Some(Value::Bytes(bytes)) => &bytes[..],
        _ => b"",
    };
    is_flagged && serde_json::from_slice::<Document>(value).is_ok()
}

fn read(answer: Answer, prefix: &str) -> SemaphoreKeys {
    let mut seen = SemaphoreKeys {
        document: None,
        unreadable: None,
        live: BTreeSet::new(),
        made_holders: BTreeSet::new(),
        released_by_guard: BTreeSet::new(),
        index: answer.meta.index,
        is_filtered: answer.meta.filtered_by_acl == Some(true),
    };
    for entry in answer.value.items() {
        let number = |name| entry.get(name).and_then(Value::as_u64).unwrap_or_default();
        let key = entry.get("Key").and_then(Value::as_str).unwrap_or_default();
        if key == lock_key(prefix) {
            let (flags, index) = (number("Flags"), number("ModifyIndex"));
            let bytes = match entry.get("Value") {
                Some(Value::Bytes(bytes)) => &bytes[..],
                _ => b"",
            };
            match serde_json::from_slice(bytes) {
                Ok(document) if flags == SEMAPHORE_FLAGS => seen.document = Some((document, index)),
                _ => {
                    let is_foreign = flags != 0 && flags != SEMAPHORE_FLAGS;
                    let key = lock_key(prefix);
                    let why = format!(
                        "{key}: the key exists and is not a semaphore's: when nobody holds a permit, {} makes room",
                        kv_delete(&key)
                    );
                    let why = Error::new(Kind::Conflict, why).not_sent();
                    seen.unreadable = Some(Unreadable { why, index, is_foreign });
                }
            }
        } else if let Some(session) = entry.get("Session").and_then(Value::as_str) {
            seen.live.insert(session.to_owned());
            if number("Flags") == HOLDER_FLAGS && key == contender_key(prefix, session) {
                seen.made_holders.insert(session.to_owned());
            }
        } else if matches!(entry.get("Value"), Some(Value::Bytes(value)) if value == RELEASED_BY_GUARD)
            && let Some((_, session)) = key.rsplit_once('/')
        {
            seen.released_by_guard.insert(session.to_owned());
        }
    }
    seen
}

/// The operation that writes the document if its modify index is `index`.
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
