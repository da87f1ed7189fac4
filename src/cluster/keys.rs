//! Keys of a cluster: read so that the answer is true at some moment since the question, changed by
//! check-and-set.

use crate::client::Client;
use crate::error::{Error, Kind};
use crate::wire::kv;
use crate::wire::request::Args;
use crate::wire::value::Value;

/// A key's value and modify index; none when it does not exist.
pub(super) async fn read(client: &Client, key: &str) -> Result<Option<(Vec<u8>, u64)>, Error> {
    let args = Args::new().arg(key).opt("consistent", true);
    let answer = client.call(&kv::GET, &args).await?;
    let Some(entry) = answer.meta.entry else { return Ok(None) };
    let value = match answer.value {
        Value::Bytes(bytes) => bytes,
        _ => Vec::new(),
    };
    Ok(Some((value, entry.modify_index)))
}

/// Writes a key when it is still as it was; 0 for one that did not exist.
///
/// # Errors
/// [`Kind::Conflict`] when it is not; else those of the call.
pub(super) async fn write(
    client: &Client,
    key: &str,
    value: Vec<u8>,
    before: u64,
) -> Result<(), Error> {
    let args = Args::new().arg(key).arg(value).opt("cas", before);
    client.call(&kv::PUT, &args).await.map(|_| ())
}

/// What becomes of a key after a look at it.
pub(super) enum Then {
    Keep,
    Put(Vec<u8>),
    Delete,
}

/// Looks at a key and changes it, again until nobody else has changed it in between.
///
/// # Errors
/// What `decide` refused; else those of the calls.
pub(super) async fn change(
    client: &Client,
    key: &str,
    mut decide: impl FnMut(Option<&[u8]>) -> Result<Then, Error>,
) -> Result<(), Error> {
    loop {
        let found = read(client, key).await?;
        let (value, before) = found.map_or((None, 0), |(value, index)| (Some(value), index));
        let changed = match decide(value.as_deref())? {
            Then::Keep => return Ok(()),
            Then::Put(value) => write(client, key, value, before).await,
            Then::Delete => {
                let args = Args::new().arg(key).opt("cas", before);
                client.call(&kv::DELETE, &args).await.map(|_| ())
            }
        };
        match changed {
            Err(error) if error.kind() == Kind::Conflict => {}
            changed => return changed,
        }
    }
}
