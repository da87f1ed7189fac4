//! A node as its key describes it, and as the other nodes see it.

use super::request::{Request, lenient};
use crate::options::Options;
use consul_process::clock::Instant;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The version of this release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The document of a node's key, which only that node writes, apart from its mode and what an operator
/// asks of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The node's name in the cluster.
    pub id: String,
    /// Its address for the program, `host:port`; empty: none.
    pub address: String,
    /// The address of its data plane; empty: none.
    #[serde(default)]
    pub data_address: String,
    /// Its zone; empty: none.
    #[serde(default)]
    pub zone: String,
    /// Its share of the shards relative to the other nodes; 0 or more.
    pub weight: f64,
    /// The weight that an operator has given to it, if one has and it has taken that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_weight: Option<f64>,
    /// Application metadata.
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    /// Whether it gets shards and requests.
    #[serde(default)]
    pub mode: Mode,
    /// The mode in the key, if there is no such mode: `mode` is then active.
    #[serde(skip)]
    pub unknown_mode: Option<String>,
    /// The version of its release; empty: it is of a release that does not tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The time of its start in Unix milliseconds, by its own clock.
    pub started_ms: u64,
    /// A random id of this start of the node.
    pub incarnation: String,
    /// The epoch of the node's shard map when the key was written; 0: none.
    #[serde(default)]
    pub map_epoch: u64,
    /// The initializing shards whose data it has by now, each with the epoch that assigned the shard to
    /// it; `None` without `hand_off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Vec<(usize, u64)>>,
    /// Why it may not do a leader's work, as it has found when it led; `None`: it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cannot_lead: Option<String>,
    /// The start that it has answered last ([`Request::answer`]); `None`: none has asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<String>,
    /// An operator's request to it that it has not taken yet.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient")]
    pub request: Option<Request>,
}

/// How a node takes part in its cluster, as an operator can set it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It gets shards and requests, and may lead.
    #[default]
    Active,
    /// Its shards move to other nodes, and it does not lead.
    Draining,
    /// It keeps its shards, but no requests are routed to it, and it does not lead.
    Maintenance,
}

impl Mode {
    /// All modes.
    pub const ALL: [Mode; 3] = [Mode::Active, Mode::Draining, Mode::Maintenance];

    /// Its name in the key.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Active => "active",
            Mode::Draining => "draining",
            Mode::Maintenance => "maintenance",
        }
    }
}

/// A member as this node sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The document of its key.
    pub record: Arc<Record>,
    /// The modify index of its key.
    pub modify_index: u64,
    /// Whether its service is registered and has no critical check.
    pub is_live: bool,
    /// The time since which this node has seen it down.
    pub down_since: Option<Instant>,
    /// When it was seen to go from live to down, unless an operator has accepted the loss since.
    pub vanished_at: Option<Instant>,
    /// Its faults by its checks.
    pub complaint: Complaint,
}

/// The outputs of the checks of a node and of its agent that do not pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Complaint {
    /// Whether its own check warns and none is critical: the node is live, and does not answer requests.
    pub is_warning: bool,
    /// The output of the worst check of its own, else the name and the output of a critical one of its agent, as while the
    /// agent is in maintenance; empty if all pass.
    pub output: String,
}

/// Records by node name, each with the modify index of its key.
pub(crate) type Records = BTreeMap<String, (Arc<Record>, u64)>;

impl Node {
    /// Whether requests are routed to it.
    pub fn is_available(&self) -> bool {
        self.is_live && self.record.mode != Mode::Maintenance
    }

    /// `up`, `down`, `draining` or `maintenance`.
    pub fn status(&self) -> &'static str {
        match (self.is_live, self.record.mode) {
            (false, _) => "down",
            (true, Mode::Active) => "up",
            (true, mode) => mode.name(),
        }
    }
}

impl Record {
    /// The record of a node that starts now.
    pub fn new(options: &Options, incarnation: &str, now: Instant) -> Self {
        Record {
            id: options.node_id.clone(),
            address: options.node_address.clone(),
            data_address: String::new(),
            zone: options.zone.clone(),
            weight: options.weight,
            set_weight: None,
            meta: options.meta.clone(),
            mode: Mode::Active,
            unknown_mode: None,
            version: VERSION.to_owned(),
            started_ms: options.wall_clock.unix_ms(now),
            incarnation: incarnation.to_owned(),
            map_epoch: 0,
            ready: options.hand_off.then(Vec::new),
            cannot_lead: None,
            answered: None,
            request: None,
        }
    }

    /// Whether a live node with this record may get shards.
    pub fn may_get_shards(&self) -> bool {
        self.mode != Mode::Draining && self.weight > 0.0
    }

    /// Reads the document of a key; `None` if it is not a node's.
    pub(crate) fn parse(id: &str, bytes: &[u8]) -> Option<Self> {
        let record: Option<Record> = serde_json::from_slice(bytes).ok();
        let record = record.or_else(|| Self::with_unknown_mode(bytes))?;
        (record.id == id && record.weight.is_finite() && record.weight >= 0.0).then_some(record)
    }

    /// Reads a document whose mode an operator has mistyped.
    fn with_unknown_mode(bytes: &[u8]) -> Option<Self> {
        let mut document: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        let mode = document.as_object_mut()?.remove("mode")?;
        // Not `from_value`: what reads a record would be in the module for that as well.
        let record: Record = serde_json::from_slice(document.to_string().as_bytes()).ok()?;
        Some(Record { unknown_mode: Some(mode.to_string()), ..record })
    }

    /// The document of the key, as JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Removes a part of what the node was asked and has not taken. Whether there was one.
    pub(super) fn take_back(&mut self, take: impl FnOnce(&mut Request) -> bool) -> bool {
        let Some(mut all) = self.request.take() else { return false };
        let taken = take(&mut all);
        self.request = Some(all).filter(|all| *all != Request::default());
        taken
    }

    /// Removes the request to leave.
    pub(crate) fn cancel_leave(&mut self) {
        self.take_back(|all| all.leave.take().is_some());
    }
}
