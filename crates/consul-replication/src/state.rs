//! A node's state of each shard on the disk of its records, and its report to the leader.

use super::map::{Entry, NodeId};
use super::record::Version;
use serde::{Deserialize, Serialize};

/// The version of the format. Documents of a later format are not read.
const FORMAT: u32 = 1;

/// A node's knowledge and promises of one shard, kept on the disk of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The version of this format.
    format: u32,
    /// The newest entry.
    pub entry: Option<Entry>,
    /// Whether this disk has all that an entry means by it.
    pub is_whole: bool,
    /// The epoch that planned the move for which it refuses requests, since its target copies it for the
    /// last time.
    pub sealed_for: Option<u64>,
    /// It executes nothing in epochs below.
    pub fence: u64,
    /// The change that it is the target for.
    pub work: Option<Work>,
    /// Why the records that it has are not a whole replica, and are kept until others have them. It stays until the map
    /// counts the replica: a change that has finished may be given up before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
    /// Writes below are refused.
    pub floor: Version,
    /// Deleted records below are purged, and nothing below is accepted any more. A copy raises it when it has all of
    /// its source.
    pub horizon: Version,
    /// The [`Entry::unproven`] when the replica counted last: a record that it had then and others lack since was
    /// deleted, unless a loss was accepted after that.
    #[serde(default, skip_serializing_if = "Version::is_lowest")]
    pub counted_under: Version,
}

/// Why a replica may lack something. It does not count, and nobody drops its records before N others have them:
/// they may be the last ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// The machine was restarted, and the storage does not survive that: what came last may be missing.
    Restarted,
    /// The disk is older than a later disk of the node.
    Old,
    /// It was being copied, and was never whole.
    Partial,
}

/// The progress of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The epoch that planned the change.
    pub since: u64,
    /// Whether everything is copied.
    pub is_done: bool,
    /// The nodes that were fenced.
    pub fenced: Vec<NodeId>,
    /// The nodes that were copied to their ends.
    pub copied: Vec<NodeId>,
    /// The nodes whose records were taken although they may lack something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubted: Vec<NodeId>,
    /// The node that is being copied, and the last id that is stored.
    pub position: Option<(NodeId, Vec<u8>)>,
}

/// A node's report to the leader about its shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The changes that it is the target for and has finished: the shard and the epoch that planned it.
    pub finished: Vec<(u32, u64)>,
    /// The shards whose replica is missing here.
    pub missing: Vec<u32>,
    /// The failovers that are not needed, since it is back with its replica: the shard and the epoch that
    /// planned it.
    pub returned: Vec<(u32, u64)>,
    /// The shards for which it executes nothing before their entries have an epoch that is higher than
    /// this one.
    pub fenced: Vec<(u32, u64)>,
    /// The shards whose entries it knows in higher epochs than the map's, and these epochs: Consul went back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub newer: Vec<(u32, u64)>,
    /// The shards whose records it has although they may lack something, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubted: Vec<(u32, Doubt)>,
    /// The changing shards whose replicas it has found to be equal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub equal: Vec<Equal>,
}

/// The replicas of a shard were made equal after all of them knew an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Equal {
    /// The shard.
    pub shard: u32,
    /// The epoch of the entry.
    pub epoch: u64,
    /// The nodes whose replicas did not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<NodeId>,
}

impl State {
    /// The newest entry that is known where `told` is the newest one of others.
    pub fn newest<'a>(&'a self, told: &'a Entry) -> &'a Entry {
        self.entry.as_ref().filter(|it| it.epoch > told.epoch).unwrap_or(told)
    }

    /// Reads what was kept; the error says why it cannot be read.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let state: State = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match state.format {
            FORMAT => Ok(state),
            other => Err(format!("its format is {other}, this release supports {FORMAT}")),
        }
    }

    /// Below this version the replica had everything, so that a record that it lacks was deleted. A replica that was
    /// never whole proves nothing.
    pub(super) fn proved_horizon(&self) -> Version {
        match self.doubt {
            Some(Doubt::Partial) if !self.is_whole => Version::default(),
            _ => self.horizon,
        }
    }

    /// Below this version what others lack of the replica may have been lost with a loss that was accepted since it counted.
    pub(super) fn unproven(&self, entry: &Entry) -> Version {
        match self.counted_under < entry.unproven {
            true => entry.unproven,
            false => Version::default(),
        }
    }

    /// The text to keep.
    pub(super) fn encode(&self) -> Vec<u8> {
        // Numbers and strings can always be encoded.
        serde_json::to_vec(&State { format: FORMAT, ..self.clone() }).unwrap_or_default()
    }
}
