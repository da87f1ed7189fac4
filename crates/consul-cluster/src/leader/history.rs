//! The history of leaders, which outlives restarts: a key below the shard maps' prefix with the last ones, which each leader
//! adds itself to when it begins.

use crate::cluster::Cluster;
use crate::keys;
use crate::options::Options;
use crate::pauses::{PAUSE, REFUSED_PAUSE};
use consul_api::api::kv;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::value::Value;
use consul_client::coordination::{Lease, set, unchanged};
use consul_process::sync::lock;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;

/// The key, after the prefix of the shard maps.
pub const NAME: &str = "leaders";

/// How many leaders are kept.
pub const KEPT: usize = 100;

/// A leadership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastLeader {
    /// The node's name.
    pub node_id: String,
    /// The fencing token of its leadership.
    pub token: u64,
    /// When it became the leader, in Unix milliseconds by its own clock.
    pub elected_at_ms: u64,
    /// The version of its release.
    #[serde(default)]
    pub version: String,
}

impl Options {
    /// The key of the history of leaders.
    pub fn history_key(&self) -> String {
        format!("{}{NAME}", self.shards_prefix)
    }
}

/// Reads the key's value. Another program's value is left alone.
fn decode(key: &str, bytes: &[u8]) -> Result<Vec<PastLeader>, Error> {
    match bytes {
        b"" => Ok(Vec::new()),
        _ => serde_json::from_slice(bytes).map_err(|_| keys::foreign(key)),
    }
}

/// The leaders of a cluster, the newest at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastLeaders {
    /// The leaders.
    pub leaders: Vec<PastLeader>,
    /// How long ago, in milliseconds, the server that has told them had contact with a Raft leader; `None`: it is the newest.
    pub age_ms: Option<u64>,
}

/// The leaders of a cluster; while Consul's servers have no Raft leader, those that one server has heard last.
///
/// # Errors
/// Errors of the call; [`Kind::Conflict`] for another program's value.
pub async fn leaders(cluster: &Cluster) -> Result<PastLeaders, Error> {
    let (key, client) = (cluster.options().history_key(), cluster.client());
    let reads = keys::reads(client).await;
    let args = Args::new().arg(key.as_str()).opt(reads.option(), true);
    let answer = client.call(&kv::GET, &args).await?;
    let leaders = match &answer.value {
        Value::Bytes(bytes) => decode(&key, bytes)?,
        _ => Vec::new(),
    };
    Ok(PastLeaders { leaders, age_ms: reads.age_ms(&answer.meta) })
}

/// Adds this leadership to the history.
pub(super) async fn note(cluster: &Cluster, lease: &Lease) -> Infallible {
    let this = PastLeader {
        node_id: cluster.options.node_id.clone(),
        token: lease.token(),
        elected_at_ms: cluster.unix_ms(),
        version: crate::nodes::node::VERSION.to_owned(),
    };
    let note_refused = |why: Option<String>| *lock(&cluster.history_refused) = why;
    note_refused(None);
    let mut is_said = false;
    loop {
        match add(cluster, lease, &this).await {
            Ok(()) => {
                note_refused(None);
                is_said = false;
                // Another program may write the key later.
                cluster.client.clock().sleep(REFUSED_PAUSE).await;
            }
            Err(error) if error.kind() == Kind::TxnFailed => {
                cluster.client.clock().sleep(PAUSE).await;
            }
            Err(error) => {
                // Without a way to Consul, or with an unknown token, all is refused: that is told elsewhere.
                let is_of_key = !error.is_transient()
                    && !matches!(error.kind(), Kind::Tls | Kind::AclNotFound | Kind::Connect);
                if is_of_key && !is_said {
                    let node = &cluster.options.node_id;
                    tracing::warn!(node, %error, "the history of leaders is not kept");
                    is_said = true;
                }
                if is_of_key {
                    note_refused(Some(error.message().to_owned()));
                }
                cluster.client.clock().sleep(REFUSED_PAUSE).await;
            }
        }
    }
}

async fn add(cluster: &Cluster, lease: &Lease, this: &PastLeader) -> Result<(), Error> {
    let key = cluster.options.history_key();
    let found = keys::read(&cluster.client, &key).await?;
    let (bytes, index) = found.unwrap_or_default();
    let mut leaders = decode(&key, &bytes)?;
    if leaders.last() == Some(this) {
        return Ok(());
    }
    leaders.push(this.clone());
    leaders.drain(..leaders.len().saturating_sub(KEPT));
    // Numbers and strings can always be encoded.
    let value = serde_json::to_vec(&leaders).unwrap_or_default();
    // A leader that may not write it leads all the same.
    lease.fenced([unchanged(&key, index), set(&key, value)]).await.map(|_| ())
}
