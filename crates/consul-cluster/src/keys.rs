//! Linearizable reads and check-and-set updates of the cluster's keys.

use consul_api::api::kv;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::value::Value;
use consul_client::Client;
use std::ops::Range;

/// The random pause before an update that lost a race is tried again.
pub(crate) const CONFLICT_PAUSE_MS: Range<f64> = 5.0..25.0;

/// A key's value and modify index; `None` if it does not exist.
pub(crate) async fn read(client: &Client, key: &str) -> Result<Option<(Vec<u8>, u64)>, Error> {
    let args = Args::new().arg(key).opt("consistent", true);
    let answer = client.call(&kv::GET, &args).await?;
    let Some(entry) = answer.meta.entry else { return Ok(None) };
    let value = match answer.value {
        Value::Bytes(bytes) => bytes,
        _ => Vec::new(),
    };
    Ok(Some((value, entry.modify_index)))
}

/// Writes a key if its modify index is still `before`; 0: if it does not exist.
///
/// # Errors
/// [`Kind::Conflict`] if the index has changed; otherwise those of the call.
pub(crate) async fn write(
    client: &Client,
    key: &str,
    value: Vec<u8>,
    before: u64,
) -> Result<(), Error> {
    let args = Args::new().arg(key).arg(value).opt("cas", before);
    client.call(&kv::PUT, &args).await.map(|_| ())
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
/// The error of `decide`; otherwise those of the calls.
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
            Update::Put(value) => write(client, key, value, before).await,
            Update::Delete => {
                let args = Args::new().arg(key).opt("cas", before);
                client.call(&kv::DELETE, &args).await.map(|_| ())
            }
        };
        match changed {
            Err(error) if error.kind() == Kind::Conflict => client.pause(CONFLICT_PAUSE_MS).await,
            changed => return changed,
        }
    }
}
