//! Locks: a key that a session holds, as for every other Consul client.

use super::contend::Contender;
use super::guard::Deed;
use super::presence::Behavior;
use super::{Claim, Grant, Lease, Operation, Presence, Wait, transact, transaction};
use crate::error::{Error, Kind};
use crate::wire::kv;
use crate::wire::request::Args;
use crate::wire::response::{Answer, EntryMeta};
use crate::wire::txn;
use crate::wire::value::Value;
use std::ops::Range;
use std::sync::Arc;

/// The flags of a key that is a lock, by which clients know each other's.
///
/// Source: `LockFlagValue` in the package `api` of Consul's Go client.
pub const LOCK_FLAGS: u64 = 0x2ddc_cbc0_58a5_0c18;

/// Within these bounds, by chance, it is asked again during a lock delay; such an attempt costs no
/// Raft write.
const DELAY_POLL_MS: Range<f64> = 20.0..50.0;

/// How a lock is taken.
#[derive(Clone, Debug)]
pub struct LockOptions {
    /// The value of the key while it is held, for people and programs to read; none: the key keeps
    /// the value it has.
    pub value: Option<Vec<u8>>,
    /// How long to wait.
    pub wait: Wait,
}

/// Acquires the lock on `key`.
///
/// # Errors
/// [`Kind::Conflict`] when it is held by another and was not to be waited for, when this process
/// holds it or waits for it already, and when the key is no lock; [`Kind::Timeout`] when the wait is
/// over; else what Consul refused. Whatever the error, no session is left behind, as far as Consul
/// can be reached.
pub async fn acquire(
    presence: &Arc<Presence>,
    key: &str,
    options: &LockOptions,
) -> Result<Arc<Lease>, Error> {
    let mut contender = Contender::new(presence, ("lock", Behavior::Release), key, options.wait)?;
    let limit = contender.limit();
    let outcome = tokio::select! {
        biased;
        outcome = compete(&mut contender, options.value.as_deref()) => Some(outcome),
        () = limit => None,
    };
    contender.conclude(outcome).await
}

/// Gives the lock up in favour of whoever waits.
pub(super) async fn release(
    presence: &Presence,
    key: &str,
    session: &str,
    value: &[u8],
) -> Result<(), Error> {
    transact(presence.client(), [unlock(key, session, value)], None).await.map(|_| ())
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

/// Why a linearizable read shows that a grant is over, if it does.
pub(super) async fn refutation(
    presence: &Presence,
    key: &str,
    session: &str,
    token: u64,
) -> Result<Option<&'static str>, Error> {
    let seen = prove(presence, key).await?;
    let Some(entry) = &seen.entry else { return Ok(Some("its key was deleted")) };
    Ok(match entry.session.as_deref() {
        None => Some("Consul took it away: its session is over"),
        Some(holder) if holder != session => Some("another session holds it"),
        Some(_) if presence.rules().token_of(entry) != token => {
            Some("its key was written by somebody else")
        }
        Some(_) => None,
    })
}

/// What a read shows of a lock's key.
struct Seen {
    entry: Option<EntryMeta>,
    value: Vec<u8>,
}

impl Seen {
    fn of(answer: Answer) -> Self {
        let value = match answer.value {
            Value::Bytes(bytes) => bytes,
            _ => Vec::new(),
        };
        Self { entry: answer.meta.entry, value }
    }

    fn holder(&self) -> Option<&str> {
        self.entry.as_ref().and_then(|entry| entry.session.as_deref())
    }
}

async fn compete(contender: &mut Contender<'_>, value: Option<&[u8]>) -> Result<Grant, Error> {
    let mut index = None;
    loop {
        match attempt(contender, value, &mut index).await {
            Ok(Some(grant)) => return Ok(grant),
            Ok(None) => {}
            Err(error) => contender.bear(error).await?,
        }
    }
}

/// Looks once, waiting for a change when there was nothing to be had, and takes the key when it is
/// free.
async fn attempt(
    contender: &mut Contender<'_>,
    value: Option<&[u8]>,
    index: &mut Option<u64>,
) -> Result<Option<Grant>, Error> {
    let last = index.take();
    let answer = contender.look(&kv::GET, Args::new().arg(contender.key), last).await?;
    let next = answer.meta.next_index(last);
    let seen = Seen::of(answer);
    if let Some(entry) = &seen.entry
        && entry.flags != LOCK_FLAGS
    {
        return Err(contender.conflict("the key exists and is no lock"));
    }
    if let Some(holder) = seen.holder() {
        if contender.is_mine(holder) {
            // An attempt that seemed to fail arrived after all.
            return settle(contender, holder, value).await;
        }
        contender.obstacle = format!("session {holder} holds it");
        if contender.tries_once() {
            return Err(contender.conflict(&contender.obstacle));
        }
        *index = next;
        contender.renew().await;
        return Ok(None);
    }
    contender.obstacle.clear();
    let session = contender.session().await?;
    let (presence, key) = (contender.presence, contender.key);
    let wanted = value;
    let value = wanted.unwrap_or(&seen.value).to_vec();
    let unchanged = match &seen.entry {
        Some(entry) => vec![
            ("Verb", "check-index".into()),
            ("Key", key.into()),
            ("Index", entry.modify_index.into()),
        ],
        None => vec![("Verb", "check-not-exists".into()), ("Key", key.into())],
    };
    let lock = vec![
        ("Verb", "lock".into()),
        ("Key", key.into()),
        ("Value", value.clone().into()),
        ("Flags", LOCK_FLAGS.into()),
        ("Session", session.as_str().into()),
    ];
    // Before it is held, so that there is no moment at which the guard does not know.
    let unlock = transaction([unlock(key, &session, &value)]);
    let entrusted = presence.entrust(Deed::Release, &txn::TXN, &unlock)?;
    let begun = presence.client().clock().now();
    let error = match transact(presence.client(), [unchanged, lock], None).await {
        Ok(results) => {
            let locked = results.items().last().and_then(|result| result.get("KV"));
            let token = locked.and_then(|entry| entry.get(presence.rules().token_member()));
            return match token.and_then(Value::as_u64) {
                Some(token) => {
                    Ok(Some(Grant { token, claim: Claim::Lock(value), begun, entrusted }))
                }
                None => settle(contender, &session, wanted).await,
            };
        }
        Err(error) => error,
    };
    let says = |word: &str| error.message().contains(word);
    match error.kind() {
        Kind::TxnFailed if says("due to lock delay") => {
            if contender.tries_once() {
                return Err(contender.conflict("it was lost and its lock delay is not over"));
            }
            contender.pause(DELAY_POLL_MS).await;
            Ok(None)
        }
        Kind::TxnFailed | Kind::SessionInvalid
            if says("invalid session") || says("missing session") =>
        {
            contender.forget_session();
            Ok(None)
        }
        // The key is not what it was when it was looked at.
        Kind::TxnFailed => Ok(None),
        _ if error.maybe_applied() => settle(contender, &session, wanted).await,
        _ => Err(error),
    }
}

/// Finds out whether an attempt whose answer was lost succeeded.
async fn settle(
    contender: &Contender<'_>,
    session: &str,
    wanted: Option<&[u8]>,
) -> Result<Option<Grant>, Error> {
    let (presence, key) = (contender.presence, contender.key);
    let begun = presence.client().clock().now();
    let Seen { entry, value } = prove(presence, key).await?;
    let Some(entry) = entry.filter(|entry| entry.session.as_deref() == Some(session)) else {
        return Ok(None);
    };
    if wanted.is_some_and(|wanted| *wanted != value) {
        // Somebody else has written the key since: it is taken anew, so that it says what it should.
        release(presence, key, session, &value).await?;
        return Ok(None);
    }
    let unlock = transaction([unlock(key, session, &value)]);
    let entrusted = presence.entrust(Deed::Release, &txn::TXN, &unlock)?;
    let token = presence.rules().token_of(&entry);
    Ok(Some(Grant { token, claim: Claim::Lock(value), begun, entrusted }))
}

/// Reads a lock's key so that the answer is true at some moment since now.
///
/// A default read is not: a leader that is cut off from the others answers it for a while.
async fn prove(presence: &Presence, key: &str) -> Result<Seen, Error> {
    let args = presence.proof(Args::new().arg(key));
    presence.client().call(&kv::GET, &args).await.map(Seen::of)
}
