//! Lists of the stores' keys, from which ACLs hide nothing.

use super::{map_key, members_prefix};
use crate::Cluster;
use crate::nodes::rights::{Right, lacking};
use consul_api::api::kv;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::response::Answer;
use consul_api::value::Value;

/// Refuses a list of the stores' maps from which ACLs hide some. Consul before 1.11 does not tell that.
pub(super) async fn check_whole(
    cluster: &Cluster,
    listed: &Answer,
    prefix: &str,
) -> Result<(), Error> {
    let refused =
        |why: String| Err(Error::new(Kind::PermissionDenied, why).with_maybe_applied(false));
    if listed.meta.filtered_by_acl == Some(true) {
        return refused(format!(
            "ACLs hide maps of stores: the token lacks key:read on {prefix:?}"
        ));
    }
    if listed.meta.tells_hidden() {
        return Ok(());
    }
    let mut rights = vec![Right::read_all("key", prefix)];
    if prefix == map_key(cluster.options(), "") {
        rights.extend(rights_to_unseen(cluster, listed).await?);
    }
    let lacking = lacking(cluster.client(), rights).await?;
    match lacking.first() {
        Some(right) => refused(format!("ACLs may hide maps of stores: the token lacks {right}")),
        None => Ok(()),
    }
}

/// The rights to read the maps that are not in a list, of stores about which nodes say something. ACLs may hide
/// them, or they do not exist.
async fn rights_to_unseen(cluster: &Cluster, listed: &Answer) -> Result<Vec<Right>, Error> {
    let prefix = members_prefix(cluster.options());
    let args = Args::new().arg(prefix.as_str()).opt("separator", "/");
    let found = cluster.client().call(&kv::KEYS, &args).await?;
    let store = |folder: &Value| {
        Some(folder.as_str()?.strip_prefix(&prefix)?.strip_suffix('/')?.to_owned())
    };
    let keys = found.value.items().iter().filter_map(store);
    let keys = keys.map(|store| map_key(cluster.options(), &store));
    let is_listed = |key: &String| {
        listed
            .value
            .items()
            .iter()
            .any(|entry| entry.get("Key").and_then(Value::as_str) == Some(key))
    };
    Ok(keys.filter(|key| !is_listed(key)).map(|key| Right::read("key", &key)).collect())
}

/// The keys below a prefix, without it, and their values; any server may answer.
///
/// # Errors
/// As [`super::StoreMaps::read`].
pub(super) async fn listed(
    cluster: &Cluster,
    prefix: &str,
) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let args = Args::new().arg(prefix).opt("stale", true);
    let answer = cluster.client().call(&kv::LIST, &args).await?;
    check_whole(cluster, &answer, prefix).await?;
    let entry = |entry: &Value| {
        let name = entry.get("Key").and_then(Value::as_str)?.strip_prefix(prefix)?;
        let bytes = match entry.get("Value") {
            Some(Value::Bytes(bytes)) => bytes.clone(),
            _ => Vec::new(),
        };
        Some((name.to_owned(), bytes))
    };
    Ok(answer.value.items().iter().filter_map(entry).collect())
}
