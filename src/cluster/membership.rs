//! Members: the key that each node writes of itself, and which of the nodes live.
//!
//! A key is written when a node starts, stops or changes. That a node lives is what the TTL check of
//! its service says, which costs no Raft write.

use super::keys::{self, Then};
use super::options::Options;
use super::snapshot::Snapshot;
use super::{Cluster, Event, PAUSE};
use crate::client::Client;
use crate::client::coordination::Service;
use crate::client::watch::State;
use crate::clock::Instant;
use crate::error::{Error, Kind};
use crate::sync::lock;
use crate::wire::health;
use crate::wire::request::Args;
use crate::wire::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What a node says of itself, in its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The node's name.
    pub id: String,
    /// Where it is found.
    pub address: String,
    /// Where its data plane listens; empty: it has none.
    #[serde(default)]
    pub data_address: String,
    /// Its zone.
    #[serde(default)]
    pub zone: String,
    /// Its share of the shards.
    pub weight: f64,
    /// What else the others shall know.
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    /// Whether it takes part.
    #[serde(default)]
    pub mode: Mode,
    /// When it started, in milliseconds of Unix time by its own clock.
    pub started_ms: u64,
    /// Tells this start apart from any other.
    pub incarnation: String,
    /// The epoch of the shard map that it had when this was written; 0: none.
    #[serde(default)]
    pub map_epoch: u64,
    /// The shards whose data it has got, each with the epoch since which it was to; none when it does
    /// not hand data over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Vec<(usize, u64)>>,
}

/// Whether a node takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It does.
    #[default]
    Active,
    /// Its shards go to others, and it does not lead.
    Draining,
    /// It keeps its shards, nothing is routed to it, and it does not lead.
    Maintenance,
}

impl Mode {
    /// Its name in the key.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Active => "active",
            Mode::Draining => "draining",
            Mode::Maintenance => "maintenance",
        }
    }
}

/// A node as another one knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its key's document.
    pub record: Arc<Record>,
    /// The modify index of its key.
    pub modify_index: u64,
    /// Whether its check is not critical.
    pub is_live: bool,
    /// Since when this node has seen it down.
    pub down_since: Option<Instant>,
    /// When it was seen to turn from live to down, unless an operator has accepted that.
    pub vanished: Option<Instant>,
}

impl Node {
    /// Whether requests may go to it.
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
    /// What this node says when it starts.
    pub fn new(options: &Options, incarnation: &str, now: Instant) -> Self {
        Record {
            id: options.node_id.clone(),
            address: options.node_address.clone(),
            data_address: String::new(),
            zone: options.zone.clone(),
            weight: options.weight,
            meta: options.meta.clone(),
            mode: Mode::Active,
            started_ms: unix_ms(options.epoch, now),
            incarnation: incarnation.to_owned(),
            map_epoch: 0,
            ready: options.hand_off.then(Vec::new),
        }
    }

    /// The document of a key; none when it is nobody's of ours.
    fn parse(id: &str, bytes: &[u8]) -> Option<Self> {
        let record: Record = serde_json::from_slice(bytes).ok()?;
        (record.id == id && record.weight.is_finite() && record.weight >= 0.0).then_some(record)
    }

    /// The document.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// A time in milliseconds since the beginning of 1970.
pub(super) fn unix_ms(epoch: Duration, now: Instant) -> u64 {
    u64::try_from((epoch + now.since_origin()).as_millis()).unwrap_or(u64::MAX)
}

/// The service of a node.
pub(super) fn service(options: &Options, record: &Record) -> Service {
    let meta = vec![("incarnation".to_owned(), record.incarnation.as_str().into())];
    let mut members = vec![("Meta".to_owned(), Value::Map(meta))];
    // Consul takes a host and a port; what is no such pair is in the record alone.
    if let Some((host, port)) = options.node_address.rsplit_once(':')
        && let Ok(port) = port.parse::<u16>()
    {
        members.push(("Address".to_owned(), host.into()));
        members.push(("Port".to_owned(), u64::from(port).into()));
    }
    let name = options.service();
    let id = format!("{name}-{}", options.node_id);
    Service { name, id, members }
}

/// Records by the nodes' names, with the modify indexes of their keys.
type Records = BTreeMap<String, (Arc<Record>, u64)>;

/// The records under the nodes' prefix. What else is there is no node's and left alone.
fn records(options: &Options, entries: &Value) -> Records {
    let mut records = BTreeMap::new();
    for entry in entries.items() {
        let Some(key) = entry.get("Key").and_then(Value::as_str) else { continue };
        let Some(id) = key.strip_prefix(&options.nodes_prefix) else { continue };
        let index = entry.get("ModifyIndex").and_then(Value::as_u64).unwrap_or_default();
        let record = match entry.get("Value") {
            Some(Value::Bytes(bytes)) => Record::parse(id, bytes),
            _ => None,
        };
        match record {
            Some(record) => _ = records.insert(id.to_owned(), (Arc::new(record), index)),
            None => tracing::warn!(key, "not a node's key"),
        }
    }
    records
}

/// The incarnations whose checks are not critical.
fn live(instances: &Value) -> BTreeSet<String> {
    let status = |check: &Value| check.get("Status").and_then(Value::as_str) == Some("critical");
    let is_live = |instance: &&Value| {
        let checks = instance.get("Checks").map(Value::items).unwrap_or_default();
        !checks.iter().any(status)
    };
    let incarnation = |instance: &Value| {
        Some(instance.get("Service")?.get("Meta")?.get("incarnation")?.as_str()?.to_owned())
    };
    instances.items().iter().filter(is_live).filter_map(incarnation).collect()
}

/// Reads a node's key, so that the answer is true at some moment since now.
async fn read(
    client: &Client,
    options: &Options,
    id: &str,
) -> Result<Option<(Record, u64)>, Error> {
    let Some((bytes, index)) = keys::read(client, &options.node_key(id)).await? else {
        return Ok(None);
    };
    Ok(Some((parse(options, id, &bytes)?, index)))
}

fn parse(options: &Options, id: &str, bytes: &[u8]) -> Result<Record, Error> {
    Record::parse(id, bytes).ok_or_else(|| {
        let key = options.node_key(id);
        let why = format!("the key {key} exists and is not a node's: it is another program's data");
        Error::new(Kind::Conflict, why).with_maybe_applied(false)
    })
}

/// Writes a node's key when it is still as it was; 0 for one that did not exist.
async fn write(
    client: &Client,
    options: &Options,
    record: &Record,
    before: u64,
) -> Result<(), Error> {
    keys::write(client, &options.node_key(&record.id), record.to_bytes(), before).await
}

/// Takes this node's name, unless a live node has it. A node that died is live for Consul until its
/// check has expired, and so long this waits.
///
/// # Errors
/// [`Kind::Conflict`], naming the address and the start of the node that has the name.
pub(super) async fn claim(
    client: &Client,
    options: &Options,
    record: &Record,
) -> Result<(), Error> {
    let clock = client.clock();
    let patience = clock.now() + options.profile.check_ttl + options.profile.beat * 2;
    loop {
        let found = read(client, options, &record.id).await?;
        let before = found.as_ref().map_or(0, |(_, index)| *index);
        if let Some((other, _)) = found.filter(|(other, _)| other.incarnation != record.incarnation)
        {
            let args = Args::new().arg(options.service());
            let instances = client.call(&health::SERVICE, &args).await?.value;
            if live(&instances).contains(&other.incarnation) {
                if clock.now() >= patience {
                    return Err(taken(&other));
                }
                clock.sleep(options.profile.beat).await;
                continue;
            }
        }
        match write(client, options, record, before).await {
            Err(error) if error.kind() == Kind::Conflict => {}
            written => return written,
        }
    }
}

/// That another live node has the name.
fn taken(other: &Record) -> Error {
    let why = format!(
        "node_id {:?} is taken: a node at {} has it, started at {} ms of Unix time",
        other.id, other.address, other.started_ms
    );
    Error::new(Kind::Conflict, why).with_maybe_applied(false)
}

impl Cluster {
    /// Changes how a node takes part, this one or another.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such node; else those of the calls.
    pub async fn set_mode(&self, node_id: &str, mode: Mode) -> Result<(), Error> {
        keys::change(&self.client, &self.options.node_key(node_id), |found| {
            let Some(bytes) = found else {
                return Err(Error::new(Kind::NotFound, format!("there is no node {node_id:?}")));
            };
            let record = parse(&self.options, node_id, bytes)?;
            Ok(Then::Put(Record { mode, ..record }.to_bytes()))
        })
        .await
    }

    /// Says that this node has the data of these shards, which are available on it from the next map.
    /// Those that it has no need to get are passed over.
    ///
    /// # Errors
    /// Those of the calls. Consul hears of it later all the same.
    pub async fn shards_ready(&self, shards: &[usize]) -> Result<(), Error> {
        let snapshot = self.snapshot();
        if let Some(ready) = &mut lock(&self.record).ready {
            let waiting = self.initializing(&snapshot);
            let is_ready = |it: &(usize, u64)| ready.contains(it) || shards.contains(&it.0);
            *ready = waiting.into_iter().filter(is_ready).collect();
        }
        self.look_after_record().await
    }

    fn initializing(&self, snapshot: &Snapshot) -> Vec<(usize, u64)> {
        let map = snapshot.map.as_ref();
        map.map_or_else(Vec::new, |map| map.initializing(&self.options.node_id))
    }

    /// Takes back what this node has said of shards that no map waits for any more.
    fn forget_ready(&self, snapshot: &Snapshot) {
        if let Some(ready) = lock(&self.record).ready.as_mut().filter(|ready| !ready.is_empty()) {
            let waiting = self.initializing(snapshot);
            ready.retain(|it| waiting.contains(it));
        }
    }

    /// Keeps this node's key as it should be, until another node has taken the name.
    pub(super) async fn keep_record(&self) -> Error {
        let mut changes = self.changes();
        loop {
            let looked = self.now();
            match self.look_after_record().await {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Conflict => return error,
                Err(error) => tracing::info!(%error, "the node's key was not looked at"),
            }
            self.sleep_until(looked + PAUSE).await;
            let is_wrong = |snapshot: &Arc<Snapshot>| {
                self.forget_ready(snapshot);
                let seen = snapshot.nodes.get(&self.options.node_id);
                seen.is_none_or(|seen| *seen.record != *lock(&self.record))
            };
            tokio::select! {
                _ = changes.wait_for(is_wrong) => {}
                () = self.sleep_until(looked + self.options.heartbeat_interval) => {
                    self.look_after_service();
                }
            }
        }
    }

    /// Has the service registered again when this node is not seen to live: an agent that was set back
    /// to an old state has the service of an incarnation before.
    fn look_after_service(&self) {
        let snapshot = self.snapshot();
        let me = snapshot.nodes.get(&self.options.node_id);
        if snapshot.in_touch && me.is_some_and(|me| self.is_me(&me.record) && !me.is_live) {
            self.presence.doubt();
        }
    }

    async fn look_after_record(&self) -> Result<(), Error> {
        let id = &self.options.node_id;
        let found = read(&self.client, &self.options, id).await?;
        let mine = lock(&self.record).clone();
        let index = match found {
            Some((other, _)) if !self.is_me(&other) => return Err(taken(&other)),
            Some((record, index)) => {
                // Others may change how this node takes part, and nothing else.
                lock(&self.record).mode = record.mode;
                let mine = Record { mode: record.mode, ..mine.clone() };
                if record == mine {
                    return Ok(());
                }
                index
            }
            None => {
                tracing::warn!(node = id, "the node's key is gone; it is written again");
                self.unsettle();
                0
            }
        };
        let map_epoch = self.snapshot().map.as_ref().map_or(0, |map| map.epoch());
        let mine = {
            let mut record = lock(&self.record);
            record.map_epoch = map_epoch;
            record.clone()
        };
        match write(&self.client, &self.options, &mine, index).await {
            // Somebody was faster; it is looked at again.
            Err(error) if error.kind() == Kind::Conflict => Ok(()),
            written => written,
        }
    }

    /// Takes this node's key away; false when the key is another node's.
    pub(super) async fn remove_record(&self) -> Result<bool, Error> {
        let id = &self.options.node_id;
        let mut is_ours = true;
        keys::change(&self.client, &self.options.node_key(id), |found| {
            let Some(bytes) = found else { return Ok(Then::Keep) };
            is_ours = self.is_me(&parse(&self.options, id, bytes)?);
            Ok(if is_ours { Then::Delete } else { Then::Keep })
        })
        .await?;
        Ok(is_ours)
    }

    /// Takes the nodes' keys.
    pub(super) fn take_records(&self, state: &State) {
        self.take_members(|_| records(&self.options, &state.answer.value));
    }

    /// Takes the nodes' checks.
    pub(super) fn take_liveness(&self, state: &State) {
        *lock(&self.live) = Some(live(&state.answer.value));
        self.take_members(|nodes| {
            let same = |node: &Node| (Arc::clone(&node.record), node.modify_index);
            nodes.iter().map(|(id, node)| (id.clone(), same(node))).collect()
        });
    }

    /// Takes what is known of the members now, and tells who came and who went.
    fn take_members(&self, records: impl FnOnce(&BTreeMap<String, Node>) -> Records) {
        let now = self.now();
        let live = lock(&self.live).clone();
        let before = self.snapshot();
        let records = records(&before.nodes);
        // Until Consul has said who lives, nobody is known to.
        let Some(live) = live else {
            let unknown = |(id, (record, modify_index))| {
                let down_since = Some(now);
                (id, Node { record, modify_index, is_live: false, down_since, vanished: None })
            };
            let nodes = records.into_iter().map(unknown).collect();
            return self.update(|snapshot| snapshot.nodes = nodes);
        };
        let as_seen = |(id, (record, modify_index)): (String, (Arc<Record>, u64))| {
            let is_live = live.contains(&record.incarnation);
            let old = before.nodes.get(&id);
            let was_live = old.is_some_and(|old| old.is_live);
            let down_since = match old.and_then(|old| old.down_since) {
                _ if is_live => None,
                Some(since) => Some(since),
                None => Some(now),
            };
            let vanished = match old.and_then(|old| old.vanished) {
                _ if is_live => None,
                None if was_live => Some(now),
                since => since,
            };
            (id, Node { record, modify_index, is_live, down_since, vanished })
        };
        let nodes: BTreeMap<String, Node> = records.into_iter().map(as_seen).collect();
        if nodes == before.nodes {
            return;
        }
        let live_in = |nodes: &BTreeMap<String, Node>, id: &str| {
            nodes.get(id).is_some_and(|node| node.is_live)
        };
        let joined = nodes.keys().filter(|id| live_in(&nodes, id) && !live_in(&before.nodes, id));
        let joined: Vec<String> = joined.cloned().collect();
        let left = before.nodes.keys();
        let left = left.filter(|id| live_in(&before.nodes, id) && !live_in(&nodes, id));
        let left: Vec<String> = left.cloned().collect();
        self.update(|snapshot| snapshot.nodes = nodes);
        joined.into_iter().for_each(|id| self.events.tell(Event::NodeJoined(id)));
        left.into_iter().for_each(|id| self.events.tell(Event::NodeLeft(id)));
    }
}
