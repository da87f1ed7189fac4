//! Locks: a key held by a session, in the layout of Consul's Go client.

use super::acquire::{Contender, RETRY_PAUSE_MS};
use super::guard::ReleaseStep;
use super::lease::Claim;
use super::presence::Behavior;
use super::{
    Grant, Lease, Operation, Presence, Proof, Wait, are_refused, holds, transact, transaction,
    unchanged,
};
use consul_api::api::{kv, txn};
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::response::{Answer, EntryMeta};
use consul_api::shell::kv_delete;
use consul_api::value::Value;
use std::sync::Arc;
use std::time::Duration;

/// The flags of a key that is a lock, by which all clients recognise it.
///
/// Source: `LockFlagValue` in the package `api` of Consul's Go client.
pub const LOCK_FLAGS: u64 = 0x2ddc_cbc0_58a5_0c18;

/// The random pause between two looks at a key that is taken over soon.
const TAKE_OVER_POLL_MS: std::ops::Range<f64> = 100.0..300.0;

/// The options of [`acquire`].
#[derive(Clone, Debug)]
pub struct LockOptions {
    /// The value of the key while it is held; `None` keeps the value that it has. Locks do not use
    /// it.
    pub value: Option<Vec<u8>>,
    /// How long to wait.
    pub wait: Wait,
    /// Whether no other program uses the key, so that whatever is in it is replaced.
    pub is_own: bool,
}

/// Acquires the lock on `key`.
///
/// A key that has lost the flags of a lock, by `consul kv put -release` or another write, is taken when it has stayed so for the
/// lock delay: no session holds it, and a holder has noticed by then.
///
/// # Errors
/// [`Kind::Conflict`] when another session holds it and [`Wait::Once`] is set, when this process
/// holds it or waits for it already, and when the key has data and never was a lock; [`Kind::Timeout`]
/// at the end of the wait; otherwise Consul's error. After an error no session is left behind: a session that Consul
/// could not be asked to end yet is ended by [`Presence::run`].
pub async fn acquire(
    presence: &Arc<Presence>,
    key: &str,
    options: &LockOptions,
) -> Result<Arc<Lease>, Error> {
    let mut contender = Contender::new(presence, ("lock", Behavior::Release), key, options.wait)?;
    let timeout = contender.timeout();
    let outcome = tokio::select! {
        biased;
        outcome = attempt_repeatedly(&mut contender, options) => Some(outcome),
        () = timeout => None,
    };
    contender.finish(outcome).await
}

/// Unlocks the key, so that a waiter can have it at once.
pub(super) async fn release(
    presence: &Presence,
    key: &str,
    session: &str,
    value: &[u8],
    limit: Duration,
) -> Result<(), Error> {
    transact(presence.client(), [unlock(key, session, value)], Some(limit)).await.map(|_| ())
}

fn unlock(key: &str, session: &str, value: &[u8]) -> Operation {
    vec![
        ("Verb", "unlock".into()),
        ("Key", key.into()),
        ("Value", value.to_vec().into()),
        ("Flags", LOCK_FLAGS.into()),
        ("Session", session.into()),
    ]
}

/// Proves the lock by a linearizable read.
pub(super) async fn prove(
    presence: &Presence,
    key: &str,
    session: &str,
    token: u64,
) -> Result<Proof, Error> {
    let seen = read_consistent(presence, key).await?;
    let index = seen.entry.as_ref().map_or(seen.index, |entry| Some(presence.token_of(entry)));
    let lost = |why| Ok(Proof::lost(why, index, token));
    match &seen.entry {
        None => lost("its key was deleted"),
        Some(entry) => match entry.session.as_deref() {
            None => lost("its session ended"),
            Some(holder) if holder != session => lost("another session holds it"),
            Some(_) if index != Some(token) => lost("another client wrote its key"),
            Some(_) => Ok(Proof::Held),
        },
    }
}

/// Whether a transaction shows too that the lock is lost.
pub(super) async fn is_lost(
    presence: &Presence,
    key: &str,
    session: &str,
    token: u64,
) -> Result<bool, Error> {
    let is_index = presence.token_is_modify_index();
    let operations = std::iter::once(holds(key, session));
    are_refused(presence, operations.chain(is_index.then(|| unchanged(key, token)))).await
}

/// The key of a lock, as a read shows it.
struct LockKey {
    entry: Option<EntryMeta>,
    /// The index of the answer.
    index: Option<u64>,
    value: Vec<u8>,
}

impl LockKey {
    fn from_answer(answer: Answer) -> Self {
        let value = match answer.value {
            Value::Bytes(bytes) => bytes,
            _ => Vec::new(),
        };
        Self { entry: answer.meta.entry, index: answer.meta.index, value }
    }

    fn holder(&self) -> Option<&str> {
        self.entry.as_ref().and_then(|entry| entry.session.as_deref())
    }
}

async fn attempt_repeatedly(
    contender: &mut Contender<'_>,
    options: &LockOptions,
) -> Result<Grant, Error> {
    let mut memory = Memory::default();
    loop {
        let (begun, waited) = (contender.now(), memory.waits_for.is_some());
        let attempt =
            async |contender: &mut Contender<'_>| attempt(contender, options, &mut memory).await;
        match contender.unless_refused(attempt).await {
            Ok(Some(grant)) => return Ok(grant),
            Ok(None) => contender.pause_after(begun, !waited && memory.waits_for.is_some()).await,
            Err(error) => contender.tolerate(error).await?,
        }
    }
}

/// The memory of a contender from one attempt to the next.
#[derive(Default)]
struct Memory {
    /// The index that the next read waits for a change of, and the modify index of the key.
    waits_for: Option<(u64, u64)>,
    /// The free key that a lock delay keeps from all sessions.
    delayed: Option<LockKey>,
}

/// The conclusion from the key as it was read.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    /// The key exists and is not a lock.
    Refuse,
    /// This session of the contender holds it: an earlier attempt that seemed to fail has succeeded.
    Confirm(&'a str),
    /// Another session holds it: it is to be read again after a change.
    Wait(&'a str),
    /// This session of the contender is on it, and another client has overwritten it since.
    GiveUp,
    /// It is free.
    Lock,
    /// Nobody holds it, and it has lost the flags of a lock at this index.
    TakeOver(u64),
}

/// Decides by the key and the contender's own session, if it has one.
fn decide<'a>(seen: &'a LockKey, own: Option<&str>, is_own: bool) -> Step<'a> {
    let holder = seen.holder();
    match &seen.entry {
        Some(entry) if entry.flags != LOCK_FLAGS => {
            // A plain put takes flags and lock index away, and leaves the session.
            let is_data = entry.flags != 0 || entry.lock_index == 0 && !seen.value.is_empty();
            match holder {
                Some(holder) if own == Some(holder) => Step::GiveUp,
                Some(holder) if is_own || entry.flags == 0 => Step::Wait(holder),
                None if is_own || !is_data => Step::TakeOver(entry.modify_index),
                _ => Step::Refuse,
            }
        }
        _ => match holder {
            Some(holder) if own == Some(holder) => Step::Confirm(holder),
            Some(holder) => Step::Wait(holder),
            None => Step::Lock,
        },
    }
}

/// Reads the key, after a change if another session held it, and locks it when it is free.
async fn attempt(
    contender: &mut Contender<'_>,
    options: &LockOptions,
    memory: &mut Memory,
) -> Result<Option<Grant>, Error> {
    let value = options.value.as_deref();
    if let Some(seen) = memory.delayed.take() {
        return lock_free(contender, value, seen, memory).await;
    }
    let last = match memory.waits_for.take() {
        Some((index, modify_index)) => contender.wait(index, Some(modify_index)).await?,
        None => None,
    };
    let answer = contender.read(&kv::GET, Args::new().arg(contender.key), last).await?;
    let next = answer.meta.next_index(last);
    let seen = LockKey::from_answer(answer);
    match decide(&seen, contender.session_id(), options.is_own) {
        Step::Refuse => Err(contender.conflict(&format!(
            "the key exists and is not a lock: if no program needs it, {} makes room",
            kv_delete(contender.key)
        ))),
        Step::TakeOver(modify_index) => {
            if !contender.has_stayed(modify_index) {
                contender.held_up("another client has released or overwritten its key")?;
                contender.pause(TAKE_OVER_POLL_MS).await;
                return Ok(None);
            }
            tracing::warn!(
                key = contender.key,
                "a lock's key that another client has released or overwritten is taken over"
            );
            contender.obstacle.clear();
            lock_free(contender, value, seen, memory).await
        }
        Step::GiveUp => {
            contender.forget_session();
            contender.held_up("another client has overwritten its key")?;
            contender.pause(RETRY_PAUSE_MS).await;
            Ok(None)
        }
        Step::Confirm(session) => confirm(contender, session, value).await,
        Step::Wait(holder) => {
            contender.held_up(format!("session {holder} holds it"))?;
            let modify_index = seen.entry.as_ref().map_or(0, |entry| entry.modify_index);
            memory.waits_for = next.map(|index| (index, modify_index));
            contender.forget_delay();
            contender.renew_session().await;
            Ok(None)
        }
        Step::Lock => {
            contender.obstacle.clear();
            lock_free(contender, value, seen, memory).await
        }
    }
}

/// Locks the key, which was free when it was read. During a lock delay it needs no other read for the next attempt.
async fn lock_free(
    contender: &mut Contender<'_>,
    wanted: Option<&[u8]>,
    seen: LockKey,
    memory: &mut Memory,
) -> Result<Option<Grant>, Error> {
    let outcome = try_to_lock(contender, wanted, &seen).await;
    memory.delayed = (contender.is_delayed() && matches!(outcome, Ok(None))).then_some(seen);
    outcome
}

async fn try_to_lock(
    contender: &mut Contender<'_>,
    wanted: Option<&[u8]>,
    seen: &LockKey,
) -> Result<Option<Grant>, Error> {
    let session = contender.session().await?;
    let (presence, key) = (contender.presence, contender.key);
    let value = wanted.unwrap_or(&seen.value).to_vec();
    let bytes = value.len();
    let unchanged = unchanged(key, seen.entry.as_ref().map_or(0, |entry| entry.modify_index));
    let lock = vec![
        ("Verb", "lock".into()),
        ("Key", key.into()),
        ("Value", value.clone().into()),
        ("Flags", LOCK_FLAGS.into()),
        ("Session", session.as_str().into()),
    ];
    // Before the lock is held, so that the guard process knows of it at any moment.
    let unlock = transaction([unlock(key, &session, &value)]);
    let deferred = presence.defer(ReleaseStep::Unlock, &txn::TXN, &unlock)?;
    let begun = presence.client().clock().now();
    match contender.take(Claim::Lock(value), deferred, [unchanged, lock]).await {
        Ok(results) => {
            let locked = results.items().last().and_then(|result| result.get("KV"));
            let token = locked.and_then(|entry| entry.get(presence.token_member()));
            match token.and_then(Value::as_u64) {
                Some(token) if !contender.is_late(begun) => Ok(Some(Grant { token, begun })),
                _ => confirm(contender, &session, wanted).await,
            }
        }
        Err(error) => not_locked(contender, &session, wanted, with_size(error, bytes)).await,
    }
}

/// Consul tells the size of the request alone; the value is what the caller can make smaller.
fn with_size(error: Error, bytes: usize) -> Error {
    match error.kind() {
        Kind::TooLarge => error.with_note(&format!(
            "the key's value has {bytes} bytes: a transaction holds some 380 KiB of values, because base64 counts"
        )),
        _ => error,
    }
}

/// Why the transaction has not locked the key.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    LockDelay,
    /// The session has ended.
    Session,
    /// The key has changed since it was read.
    Changed,
    /// It may have locked the key.
    Unknown,
    /// Another error.
    Failed,
}

fn refusal(error: &Error) -> Refusal {
    let says = |word: &str| error.message().contains(word);
    match error.kind() {
        Kind::TxnFailed if says("due to lock delay") => Refusal::LockDelay,
        Kind::TxnFailed | Kind::SessionInvalid
            if says("invalid session") || says("missing session") =>
        {
            Refusal::Session
        }
        _ if error.maybe_applied() => Refusal::Unknown,
        Kind::TxnFailed => Refusal::Changed,
        _ => Refusal::Failed,
    }
}

/// The conclusion from a failed transaction.
async fn not_locked(
    contender: &mut Contender<'_>,
    session: &str,
    wanted: Option<&[u8]>,
    error: Error,
) -> Result<Option<Grant>, Error> {
    match refusal(&error) {
        Refusal::LockDelay if contender.tries_once() => {
            Err(contender.conflict("its last holder lost it and the lock delay is not over"))
        }
        Refusal::LockDelay => {
            contender.pause_in_delay().await;
            Ok(None)
        }
        Refusal::Changed => {
            contender.forget_delay();
            Ok(None)
        }
        Refusal::Session => {
            contender.forget_session();
            Ok(None)
        }
        Refusal::Unknown => confirm(contender, session, wanted)
            .await
            .map_err(|lookup| error.with_note(&format!("the outcome is unknown: {lookup}"))),
        Refusal::Failed => Err(error),
    }
}

/// Reads whether an attempt without a clear answer has succeeded.
async fn confirm(
    contender: &mut Contender<'_>,
    session: &str,
    wanted: Option<&[u8]>,
) -> Result<Option<Grant>, Error> {
    let (presence, key) = (contender.presence, contender.key);
    let begun = presence.client().clock().now();
    let LockKey { entry, value, .. } = read_consistent(presence, key).await?;
    let Some(entry) = entry.filter(|entry| entry.session.as_deref() == Some(session)) else {
        return Ok(None);
    };
    if wanted.is_some_and(|wanted| *wanted != value) {
        // Another client has written the key since. Acquired again, it has the wanted value.
        release(presence, key, session, &value, presence.end_timeout()).await?;
        return Ok(None);
    }
    let unlock = transaction([unlock(key, session, &value)]);
    let deferred = presence.defer(ReleaseStep::Unlock, &txn::TXN, &unlock)?;
    let token = presence.token_of(&entry);
    contender.note_held(Claim::Lock(value), deferred);
    Ok(Some(Grant { token, begun }))
}

/// A linearizable read: the answer is true at a moment between request and answer.
///
/// A default read is not linearizable: a leader that is cut off from the other servers answers it
/// for a while.
async fn read_consistent(presence: &Presence, key: &str) -> Result<LockKey, Error> {
    presence.read_proof(&kv::GET, Args::new().arg(key)).await.map(LockKey::from_answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(flags: u64, session: Option<&str>) -> LockKey {
        let session = session.map(str::to_owned);
        let entry = EntryMeta { flags, session, lock_index: 1, create_index: 2, modify_index: 3 };
        LockKey { entry: Some(entry), index: None, value: vec![] }
    }

    #[test]
    fn the_key_and_the_own_session_determine_the_step() {
        let absent = LockKey { entry: None, index: None, value: vec![] };
        let free = key(LOCK_FLAGS, None);
        let held = key(LOCK_FLAGS, Some("a"));
        let other = key(7, None);
        let other_held = key(7, Some("a"));
        let released = key(0, None);
        let overwritten = key(0, Some("a"));
        let data = LockKey {
            entry: released.entry.clone().map(|it| EntryMeta { lock_index: 0, ..it }),
            index: None,
            value: b"data".to_vec(),
        };
        for (seen, step, of_own) in [
            (&released, Step::TakeOver(3), Step::TakeOver(3)),
            (&overwritten, Step::Wait("a"), Step::Wait("a")),
            (&data, Step::Refuse, Step::TakeOver(3)),
            (&other, Step::Refuse, Step::TakeOver(3)),
            (&other_held, Step::Refuse, Step::Wait("a")),
        ] {
            assert_eq!(decide(seen, None, false), step, "{:?}", seen.entry);
            assert_eq!(decide(seen, None, true), of_own, "{:?}", seen.entry);
        }
        for (seen, own, step) in [
            (&absent, None, Step::Lock),
            (&absent, Some("a"), Step::Lock),
            (&free, None, Step::Lock),
            (&free, Some("a"), Step::Lock),
            (&held, None, Step::Wait("a")),
            (&held, Some("b"), Step::Wait("a")),
            (&held, Some("a"), Step::Confirm("a")),
            (&other, None, Step::Refuse),
            (&other, Some("a"), Step::Refuse),
            (&other_held, None, Step::Refuse),
            (&other_held, Some("b"), Step::Refuse),
            (&other_held, Some("a"), Step::GiveUp),
            (&overwritten, Some("b"), Step::Wait("a")),
            (&overwritten, Some("a"), Step::GiveUp),
        ] {
            assert_eq!(decide(seen, own, false), step, "{:?}, {own:?}", seen.entry);
        }
    }

    #[test]
    fn an_error_says_whether_the_key_can_be_locked() {
        for (kind, message, maybe, wanted) in [
            (Kind::TxnFailed, "Lock \"k\" due to lock delay", false, Refusal::LockDelay),
            (Kind::TxnFailed, "invalid session \"s\"", false, Refusal::Session),
            (Kind::TxnFailed, "missing session", false, Refusal::Session),
            (Kind::SessionInvalid, "invalid session \"s\"", false, Refusal::Session),
            (Kind::TxnFailed, "current modify index is another", false, Refusal::Changed),
            // The first of two that were sent may have locked it.
            (Kind::TxnFailed, "current modify index is another", true, Refusal::Unknown),
            (Kind::SessionInvalid, "it has ended", true, Refusal::Unknown),
            (Kind::Timeout, "no answer", true, Refusal::Unknown),
            (Kind::Timeout, "not sent: invalid session", false, Refusal::Failed),
            (Kind::PermissionDenied, "no key:write", false, Refusal::Failed),
        ] {
            let error = Error::new(kind, message).with_maybe_applied(maybe);
            assert_eq!(refusal(&error), wanted, "{kind}: {message}");
        }
    }
}
