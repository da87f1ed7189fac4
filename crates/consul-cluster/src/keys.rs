//! Linearizable reads and check-and-set updates of the cluster's keys.

use crate::pauses::{CERTAIN_AFTER, PAUSE};
use crate::shell::kv_delete;
use consul_api::api::{kv, status, txn};
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::response::Meta;
use consul_api::value::Value;
use consul_client::Client;
use consul_client::coordination::{linearizable, transaction};
use std::collections::BTreeSet;
use std::ops::Range;

/// The random pause before an update that lost a race is tried again.
pub(crate) const CONFLICT_PAUSE_MS: Range<f64> = 5.0..25.0;

/// Which server answers a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// The leader: the answer is the newest.
    Linearizable,
    /// Any, also while there is no leader: what it has heard last.
    OfAnyServer,
}

impl Reads {
    /// The option of a read.
    pub fn option(self) -> &'static str {
        match self {
            Reads::Linearizable => "consistent",
            Reads::OfAnyServer => "stale",
        }
    }

    /// How long ago, in milliseconds, the server of an answer had contact with a Raft leader; `None`: it is the newest.
    pub fn age_ms(self, meta: &Meta) -> Option<u64> {
        (self == Reads::OfAnyServer).then(|| meta.last_contact_ms.unwrap_or_default())
    }
}

/// The timeout of the question whether Consul has a Raft leader.
const LEADER_TIMEOUT_MS: u64 = 1000;

/// How an operator's reads are answered: while Consul's servers have no Raft leader, by any of them.
pub async fn reads(client: &Client) -> Reads {
    match has_no_raft_leader(client).await {
        true => Reads::OfAnyServer,
        false => Reads::Linearizable,
    }
}

/// Whether a server of Consul says that there is no Raft leader.
pub async fn has_no_raft_leader(client: &Client) -> bool {
    let args = Args::new().opt("timeout_ms", LEADER_TIMEOUT_MS);
    let leader = client.call(&status::LEADER, &args).await;
    leader.is_ok_and(|answer| answer.value.as_str() == Some(""))
}

/// The keys that the log calls other programs': once, as long as they are so.
#[derive(Debug, Default)]
pub(crate) struct Said {
    before: BTreeSet<String>,
    now: BTreeSet<String>,
}

impl Said {
    /// After these.
    pub fn after(before: BTreeSet<String>) -> Self {
        Said { before, now: BTreeSet::new() }
    }

    /// Those that are so now.
    pub fn now(self) -> BTreeSet<String> {
        self.now
    }

    /// Whether the log has not called this key so yet.
    pub fn is_new(&mut self, key: &str) -> bool {
        self.now.insert(key.to_owned()) && !self.before.contains(key)
    }
}

fn entry<'e>(entries: &'e Value, key: &str) -> Option<&'e Value> {
    let is_it = |entry: &&Value| entry.get("Key").and_then(Value::as_str) == Some(key);
    entries.items().iter().find(is_it)
}

/// The modify index of an entry in a list.
pub(crate) fn index(entry: &Value) -> u64 {
    entry.get("ModifyIndex").and_then(Value::as_u64).unwrap_or_default()
}

/// The modify index of a key in a list of entries, 0 if it is not there.
pub(crate) fn listed_index(entries: &Value, key: &str) -> u64 {
    entry(entries, key).map_or(0, index)
}

/// The value of a key in a list of entries, empty if it has none; `None`: the key is not there.
pub(crate) fn listed<'e>(entries: &'e Value, key: &str) -> Option<&'e [u8]> {
    match entry(entries, key)?.get("Value") {
        Some(Value::Bytes(bytes)) => Some(bytes),
        _ => Some(b""),
    }
}

/// A key's value and modify index; `None` if it does not exist.
pub(crate) async fn read(client: &Client, key: &str) -> Result<Option<(Vec<u8>, u64)>, Error> {
    read_by(client, key, Reads::Linearizable).await
}

/// As [`read`], from the leader or from any server.
pub(crate) async fn read_by(
    client: &Client,
    key: &str,
    reads: Reads,
) -> Result<Option<(Vec<u8>, u64)>, Error> {
    let args = Args::new().arg(key);
    let answer = match reads {
        Reads::Linearizable => linearizable(client.call_past_caches(&kv::GET, args).await?)?,
        Reads::OfAnyServer => client.call(&kv::GET, &args.opt(reads.option(), true)).await?,
    };
    let Some(entry) = answer.meta.entry else { return Ok(None) };
    let value = match answer.value {
        Value::Bytes(bytes) => bytes,
        _ => Vec::new(),
    };
    Ok(Some((value, entry.modify_index)))
}

/// Whether a key that was read goes on to be as it was read: in each read for [`CERTAIN_AFTER`], and at the end also in
/// a transaction. A cache answers no transaction, and what sends reads elsewhere, such as to the servers of another
/// datacenter, sends it to where the writes go.
///
/// # Errors
/// Errors of the transaction; then it is not known. Reads that fail show nothing.
pub(crate) async fn stays(
    client: &Client,
    key: &str,
    is_same: impl Fn(&[u8]) -> bool,
) -> Result<bool, Error> {
    let end = client.clock().now() + CERTAIN_AFTER;
    while client.clock().now() < end {
        client.clock().sleep(PAUSE).await;
        match read(client, key).await {
            Ok(found) if !found.as_ref().is_some_and(|(bytes, _)| is_same(bytes)) => {
                return Ok(false);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(key, %error, "it could not be read again"),
        }
    }
    let get = vec![("Verb", "get".into()), ("Key", key.into())];
    let results = match client.call_past_caches(&txn::TXN, transaction([get])).await {
        Ok(answer) => linearizable(answer)?.value,
        // There is no such key.
        Err(error) if error.kind() == Kind::TxnFailed => return Ok(false),
        Err(error) => return Err(error),
    };
    let value = results.items().first().and_then(|it| it.get("KV")).and_then(|it| it.get("Value"));
    Ok(matches!(value, Some(Value::Bytes(bytes)) if is_same(bytes)))
}

/// Writes a key if its modify index is still `before`; 0: if it does not exist.
///
/// # Errors
/// [`Kind::Conflict`] if the index has changed; otherwise errors of the call.
pub(crate) async fn write(
    client: &Client,
    key: &str,
    value: Vec<u8>,
    before: u64,
) -> Result<(), Error> {
    change(client, key, Some(value), before).await
}

/// Writes or deletes a key if its modify index is still `before`. If an answer was lost and the key is what it was to be, it
/// is done.
async fn change(
    client: &Client,
    key: &str,
    value: Option<Vec<u8>>,
    before: u64,
) -> Result<(), Error> {
    let args = Args::new().arg(key);
    let changed = match value.clone() {
        Some(value) => client.call_again(&kv::PUT, args.arg(value).opt("cas", before)).await,
        None => client.call_again(&kv::DELETE, args.opt("cas", before)).await,
    };
    match changed {
        Err(error) if error.kind() == Kind::Conflict && error.maybe_applied() => {
            let found = read(client, key).await?.map(|(found, _)| found);
            if found == value { Ok(()) } else { Err(error) }
        }
        changed => changed.map(|_| ()),
    }
}

/// A key of Consul that must not have changed since an operator looked at it.
#[derive(Clone, Debug)]
pub struct Unchanged {
    pub(crate) key: String,
    pub(crate) index: u64,
}

/// The refusal to change a key of the cluster in which another program's value is.
pub(crate) fn foreign(key: &str) -> Error {
    let why = format!(
        "{key} has another program's value, which stays: if no program needs it, {} makes room",
        kv_delete(key)
    );
    Error::new(Kind::Conflict, why).with_maybe_applied(false)
}

/// The change that [`update`] makes to a key.
pub(crate) enum Update {
    Keep,
    Put(Vec<u8>),
    Delete,
}

/// Reads a key, lets `decide` choose the change and applies it by check-and-set; repeats that while
/// the key is changed in between.
///
/// # Errors
/// The error of `decide`; otherwise errors of the calls.
pub(crate) async fn update(
    client: &Client,
    key: &str,
    mut decide: impl FnMut(Option<&[u8]>) -> Result<Update, Error>,
) -> Result<(), Error> {
    loop {
        let found = read(client, key).await?;
        let (value, before) = found.map_or((None, 0), |(value, index)| (Some(value), index));
        let changed = match decide(value.as_deref())? {
            Update::Keep => return Ok(()),
            Update::Put(value) => change(client, key, Some(value), before).await,
            Update::Delete => change(client, key, None, before).await,
        };
        match changed {
            Err(error) if error.kind() == Kind::Conflict => client.pause(CONFLICT_PAUSE_MS).await,
            changed => return changed,
        }
    }
}
