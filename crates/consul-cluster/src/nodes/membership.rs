//! Membership: maintains the node's own key, and learns which nodes are live.
//!
//! A key is written when a node starts, stops or changes. Liveness comes from the TTL check of the
//! node's service, which costs no Raft write.

use super::node::{Complaint, Mode, Node, Record};
use super::request;
use crate::Event;
use crate::cluster::{Cluster, PAUSE};
use crate::keys::{self, Update};
use crate::options::Options;
use crate::snapshot::{Sight, Snapshot};
use consul_api::api::health;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::value::Value;
use consul_client::Client;
use consul_client::coordination::Service;
use consul_client::watch::State;
use consul_process::sync::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// How long nodes that Consul has lost stay as they were: after an outage, a wipe or the restoration of
/// a snapshot they are not listed until they have written their keys and registered again. Longer than
/// the pauses of two watches.
const LOSS_GRACE: Duration = Duration::from_secs(10);

/// The service that registers a node in Consul.
pub(crate) fn service(options: &Options, record: &Record) -> Service {
    let meta = vec![("incarnation".to_owned(), record.incarnation.as_str().into())];
    let mut members = vec![("Meta".to_owned(), Value::Map(meta))];
    // Consul takes a host and a port; an address of another form is only in the record.
    if let Some((host, port)) = options.node_address.rsplit_once(':')
        && let Ok(port) = port.parse::<u16>()
    {
        members.push(("Address".to_owned(), host.into()));
        members.push(("Port".to_owned(), u64::from(port).into()));
    }
    Service { name: options.service(), id: options.service_id(), members }
}

/// Records by node name, each with the modify index of its key.
type Records = BTreeMap<String, (Arc<Record>, u64)>;

/// The nodes in the last answers of Consul.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    records: Records,
    /// Each registered incarnation; `None` before the first answer.
    instances: Option<Instances>,
}

/// What Consul lists of a registered incarnation.
#[derive(Debug, Default)]
struct Instance {
    /// Whether it has no critical check.
    is_live: bool,
    complaint: Complaint,
}

type Instances = BTreeMap<String, Instance>;

impl Instance {
    fn of(entry: &Value) -> Self {
        let text = |check: &Value, name| check.get(name).and_then(Value::as_str).map(str::to_owned);
        let checks = entry.get("Checks").map(Value::items).unwrap_or_default();
        let output_of = |status: &str| {
            let found = checks.iter().find(|it| text(it, "Status").as_deref() == Some(status))?;
            Some(text(found, "Output").unwrap_or_default())
        };
        let (critical, warning) = (output_of("critical"), output_of("warning"));
        let (is_live, is_warning) = (critical.is_none(), critical.is_none() && warning.is_some());
        let output = critical.or(warning).unwrap_or_default();
        Instance { is_live, complaint: Complaint { is_warning, output } }
    }
}

fn is_live(instances: &Instances, incarnation: &str) -> bool {
    instances.get(incarnation).is_some_and(|instance| instance.is_live)
}

/// The records under the nodes' prefix. Keys of other programs are ignored.
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
            Some(record) => {
                if let Some(mode) = &record.unknown_mode {
                    let modes = Mode::ALL.map(Mode::name).join(", ");
                    tracing::warn!(
                        key,
                        mode,
                        "the mode in a node's key is unknown and read as active; the modes are: {modes}"
                    );
                }
                records.insert(id.to_owned(), (Arc::new(record), index));
            }
            None => tracing::warn!(key, "not a node's key"),
        }
    }
    records
}

/// The instances by incarnation. Of one that is registered twice, after it went to another agent, the live
/// one counts.
fn instances(entries: &Value) -> Instances {
    let incarnation = |entry: &Value| {
        Some(entry.get("Service")?.get("Meta")?.get("incarnation")?.as_str()?.to_owned())
    };
    let mut instances = Instances::new();
    for entry in entries.items() {
        if let Some(incarnation) = incarnation(entry)
            && !is_live(&instances, &incarnation)
        {
            instances.insert(incarnation, Instance::of(entry));
        }
    }
    instances
}

/// Whether an instance, as Consul lists it, lives: no check of it is critical, and none of its agent.
pub fn is_live_instance(entry: &Value) -> bool {
    Instance::of(entry).is_live
}

/// Whether this list of instances has this incarnation as live.
pub(crate) fn is_listed_live(entries: &Value, incarnation: &str) -> bool {
    is_live(&instances(entries), incarnation)
}

/// Whether this list of instances has this incarnation, live or not.
pub(crate) fn is_listed(entries: &Value, incarnation: &str) -> bool {
    instances(entries).contains_key(incarnation)
}

/// The names of the nodes of which instances are registered.
pub(crate) fn named(entries: &Value, service: &str) -> BTreeSet<String> {
    let name = |entry: &Value| {
        let id = entry.get("Service")?.get("ID")?.as_str()?;
        Some(id.strip_prefix(service)?.strip_prefix('-')?.to_owned())
    };
    entries.items().iter().filter_map(name).collect()
}

/// The ids of the registered instances of an incarnation, each with its agent.
pub(crate) fn registered(entries: &Value, incarnation: &str) -> Vec<(String, String)> {
    let text = |of: Option<&Value>, name| of?.get(name)?.as_str().map(str::to_owned);
    let registered = |entry: &Value| {
        let service = entry.get("Service");
        let is_its = service?.get("Meta")?.get("incarnation")?.as_str()? == incarnation;
        is_its.then_some((text(service, "ID")?, text(entry.get("Node"), "Node")?))
    };
    entries.items().iter().filter_map(registered).collect()
}

/// Reads a node's key and its modify index, with a linearizable read.
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

pub(crate) fn parse(options: &Options, id: &str, bytes: &[u8]) -> Result<Record, Error> {
    Record::parse(id, bytes).ok_or_else(|| {
        let key = options.node_key(id);
        let why = format!("the key {key} holds another program's data, not a node's record");
        Error::new(Kind::Conflict, why).with_maybe_applied(false)
    })
}

/// Writes a node's key if its modify index is still `before`; 0: if it does not exist.
async fn write(
    client: &Client,
    options: &Options,
    record: &Record,
    before: u64,
) -> Result<(), Error> {
    keys::write(client, &options.node_key(&record.id), record.to_bytes(), before).await
}

/// Claims the node's name unless another live node has it. A node that has died is live for Consul
/// until its check expires, so this waits for that long.
///
/// # Errors
/// [`Kind::Conflict`], naming the address and the start of the node that has the name.
pub(crate) async fn claim_name(
    client: &Client,
    options: &Options,
    record: &Record,
) -> Result<(), Error> {
    let clock = client.clock();
    let deadline = clock.now() + options.profile.check_ttl + options.profile.beat * 2;
    loop {
        let found = read(client, options, &record.id).await?;
        let before = found.as_ref().map_or(0, |(_, index)| *index);
        if let Some((other, _)) = found.filter(|(other, _)| other.incarnation != record.incarnation)
        {
            let args = Args::new().arg(options.service());
            let instances = instances(&client.call(&health::SERVICE, &args).await?.value);
            if is_live(&instances, &other.incarnation) {
                if clock.now() >= deadline {
                    return Err(name_taken(client, options, &other));
                }
                clock.sleep(options.profile.beat).await;
                continue;
            }
        }
        match write(client, options, record, before).await {
            Err(error) if error.kind() == Kind::Conflict => {
                client.pause(keys::CONFLICT_PAUSE_MS).await;
            }
            written => return written,
        }
    }
}

/// Whether other nodes than this are live.
pub(crate) async fn others_are_live(client: &Client, options: &Options) -> Result<bool, Error> {
    let args = Args::new().arg(options.service());
    let answer = client.call(&health::SERVICE, &args).await?;
    let own = options.service_id();
    let is_other = |entry: &&Value| {
        let id = entry.get("Service").and_then(|service| service.get("ID"));
        id.and_then(Value::as_str) != Some(&own)
    };
    Ok(answer.value.items().iter().filter(is_other).any(|entry| Instance::of(entry).is_live))
}

/// The error for a name that another live node has.
fn name_taken(client: &Client, options: &Options, other: &Record) -> Error {
    let now_ms = options.wall_clock.unix_ms(client.clock().now());
    let age_s = now_ms.saturating_sub(other.started_ms) / 1000;
    let address = if other.address.is_empty() { "an unknown address" } else { &other.address };
    let why = format!(
        "node_id {:?} is taken: the node at {address} has it, started {age_s} s ago; \
         give one of the two another node_id",
        other.id
    );
    Error::new(Kind::Conflict, why).with_maybe_applied(false)
}

impl Cluster {
    /// Reports that this node has the data of these shards; they become available on it with the next
    /// map. Shards that are not initializing on it are ignored.
    ///
    /// # Errors
    /// Those of the calls. The report is then repeated in the background.
    pub async fn shards_ready(&self, shards: &[usize]) -> Result<(), Error> {
        if self.options.observer {
            let why = "an observer has no shards";
            return Err(Error::new(Kind::Unsupported, why).not_sent());
        }
        let snapshot = self.snapshot();
        if let Some(ready) = &mut lock(&self.record).ready {
            let waiting = self.initializing(&snapshot);
            let is_ready = |it: &(usize, u64)| ready.contains(it) || shards.contains(&it.0);
            *ready = waiting.into_iter().filter(is_ready).collect();
        }
        self.reconcile_record().await
    }

    fn initializing(&self, snapshot: &Snapshot) -> Vec<(usize, u64)> {
        let map = snapshot.map.as_ref();
        map.map_or_else(Vec::new, |map| map.initializing(&self.options.node_id))
    }

    /// Removes the reports about shards that are not initializing any more.
    fn forget_ready(&self, snapshot: &Snapshot) {
        if let Some(ready) = lock(&self.record).ready.as_mut().filter(|ready| !ready.is_empty()) {
            let waiting = self.initializing(snapshot);
            ready.retain(|it| waiting.contains(it));
        }
    }

    /// Keeps the node's key equal to its record. Returns when another node has taken the name.
    pub(crate) async fn maintain_record(&self) -> Error {
        let mut changes = self.changes();
        loop {
            let checked = self.now();
            match self.reconcile_record().await {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Conflict => return error,
                Err(error) => tracing::info!(%error, "the node's key could not be checked"),
            }
            self.sleep_until(checked + PAUSE).await;
            let is_wrong = |snapshot: &Arc<Snapshot>| {
                self.forget_ready(snapshot);
                let seen = snapshot.nodes.get(&self.options.node_id);
                seen.is_none_or(|seen| *seen.record != *lock(&self.record))
            };
            tokio::select! {
                biased;
                _ = changes.wait_for(is_wrong) => {}
                () = self.own_key_lost.notified() => {}
                () = self.sleep_until(checked + self.options.heartbeat_interval) => {
                    self.check_service();
                }
            }
        }
    }

    /// Registers the service again if Consul does not report this node as live: an agent or servers that
    /// were restored from a backup may have the service of a previous incarnation.
    fn check_service(&self) {
        let is_connected = self.snapshot().is_connected;
        let reported = lock(&self.reported);
        let is_lost = |instances: &Instances| !is_live(instances, &self.incarnation);
        if is_connected && reported.instances.as_ref().is_some_and(is_lost) {
            self.presence.register_again();
        }
    }

    /// Reads the node's key, and writes it if it differs from the record.
    async fn reconcile_record(&self) -> Result<(), Error> {
        let id = &self.options.node_id;
        let found = read(&self.client, &self.options, id).await?;
        let mine = lock(&self.record).clone();
        let mut asked = None;
        let index = match found {
            // Of an earlier start: Consul was restored from a backup.
            Some((other, index)) if !self.is_me(&other) && other.started_ms < mine.started_ms => {
                self.hold_off();
                index
            }
            Some((other, _)) if !self.is_me(&other) => {
                return Err(name_taken(&self.client, &self.options, &other));
            }
            Some((mut record, index)) => {
                // Others may change only the mode, and ask something.
                if let Some(request) = record.request.clone() {
                    request::prepare(self, &request, &mut record);
                    asked = Some(request);
                }
                lock(&self.record).mode = record.mode;
                let mine = Record { mode: record.mode, ..mine.clone() };
                if record == mine {
                    return Ok(());
                }
                index
            }
            None => {
                tracing::warn!(node = id, "the node's key is gone; it is written again");
                self.hold_off();
                0
            }
        };
        let map_epoch = self.epoch();
        let mine = {
            let mut record = lock(&self.record);
            record.map_epoch = map_epoch;
            record.clone()
        };
        match write(&self.client, &self.options, &mine, index).await {
            // The key was changed in between; the caller's loop checks it again.
            Err(error) if error.kind() == Kind::Conflict => Ok(()),
            Ok(()) => {
                asked.iter().for_each(|request| request::act_on(self, request));
                Ok(())
            }
            written => written,
        }
    }

    /// Removes this node's key; false if the key belongs to another node.
    pub(crate) async fn remove_record(&self) -> Result<bool, Error> {
        let id = &self.options.node_id;
        let mut is_ours = true;
        keys::update(&self.client, &self.options.node_key(id), |found| {
            let Some(bytes) = found else { return Ok(Update::Keep) };
            is_ours = self.is_me(&parse(&self.options, id, bytes)?);
            Ok(if is_ours { Update::Delete } else { Update::Keep })
        })
        .await?;
        Ok(is_ours)
    }

    /// Applies a new list of the nodes' keys.
    pub(crate) fn apply_records(&self, state: &State) {
        let hides = state.answer.meta.filtered_by_acl == Some(true);
        if self.snapshot().hides_keys != hides {
            self.update(|snapshot| snapshot.hides_keys = hides);
        }
        self.keep_nodes_after_loss(state);
        let records = records(&self.options, &state.answer.value);
        let own = records.get(&self.options.node_id);
        if own.is_none_or(|(record, _)| **record != *lock(&self.record)) {
            self.own_key_lost.notify_one();
        }
        lock(&self.reported).records = records;
        self.apply_members();
    }

    /// Applies a new list of the nodes' services and checks.
    pub(crate) fn apply_health(&self, state: &State) {
        let meta = &state.answer.meta;
        let sight = match meta.filtered_by_acl {
            Some(true) => Sight::Part,
            _ if meta.tells_hidden() => Sight::Whole,
            _ => Sight::Untold,
        };
        if self.snapshot().sight != sight {
            self.update(|snapshot| snapshot.sight = sight);
        }
        self.keep_nodes_after_loss(state);
        let instances = instances(&state.answer.value);
        let is_listed = |instances: &Instances| instances.contains_key(&self.incarnation);
        let is_lost = !is_listed(&instances);
        let before = lock(&self.reported).instances.replace(instances);
        if is_lost && before.is_some_and(|before| is_listed(&before)) {
            self.presence.register_again();
        }
        self.apply_members();
    }

    /// Keeps the nodes that Consul has lost for [`LOSS_GRACE`]. Further losses do not extend that.
    fn keep_nodes_after_loss(&self, state: &State) {
        let now = self.now();
        if state.is_resynchronised && now >= *self.kept_until.borrow() {
            self.kept_until.send_replace(now + LOSS_GRACE);
        }
    }

    /// Drops the nodes that were kept after a loss and have not registered again.
    pub(crate) async fn drop_lost_nodes(&self) -> Infallible {
        let mut kept_until = self.kept_until.subscribe();
        loop {
            // The sender lives as long as `self`.
            let _ = kept_until.changed().await;
            let until = *kept_until.borrow_and_update();
            self.sleep_until(until).await;
            self.apply_members();
        }
    }

    /// Combines records and liveness into the members of the snapshot, and emits the events of nodes
    /// that joined or left.
    fn apply_members(&self) {
        let now = self.now();
        let before = self.snapshot();
        let reported = lock(&self.reported);
        let mut records = reported.records.clone();
        // Until Consul has reported the live nodes, none counts as live.
        let Some(instances) = &reported.instances else {
            let unknown = |(id, (record, modify_index))| {
                let (down_since, complaint) = (Some(now), Complaint::default());
                let (is_live, vanished_at) = (false, None);
                (id, Node { record, modify_index, is_live, down_since, vanished_at, complaint })
            };
            let nodes = BTreeMap::from_iter(records.into_iter().map(unknown));
            return self.update(|snapshot| snapshot.nodes = nodes);
        };
        let mut kept = BTreeMap::new();
        if now < *self.kept_until.borrow() {
            kept.extend(before.nodes.iter().filter(|(_, node)| node.is_live));
        }
        for (id, node) in &kept {
            let is_newer =
                |(record, _): &(Arc<Record>, u64)| record.started_ms >= node.record.started_ms;
            if !records.get(*id).is_some_and(is_newer) {
                records.insert((*id).clone(), (Arc::clone(&node.record), node.modify_index));
            }
        }
        let as_seen = |(id, (record, modify_index)): (String, (Arc<Record>, u64))| {
            let (is_live, complaint) = match instances.get(&record.incarnation) {
                Some(instance) => (instance.is_live, instance.complaint.clone()),
                None => {
                    let kept = kept.get(&id);
                    let is_kept =
                        kept.is_some_and(|node| node.record.incarnation == record.incarnation);
                    (is_kept, Complaint::default())
                }
            };
            let old = before.nodes.get(&id);
            let was_live = old.is_some_and(|old| old.is_live);
            let down_since = match old.and_then(|old| old.down_since) {
                _ if is_live => None,
                Some(since) => Some(since),
                None => Some(now),
            };
            let vanished_at = match old.and_then(|old| old.vanished_at) {
                _ if is_live => None,
                None if was_live => Some(now),
                since => since,
            };
            (id, Node { record, modify_index, is_live, down_since, vanished_at, complaint })
        };
        let nodes = BTreeMap::from_iter(records.into_iter().map(as_seen));
        drop(reported);
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
        joined.into_iter().for_each(|id| self.emit(Event::NodeJoined(id)));
        left.into_iter().for_each(|id| self.emit(Event::NodeLeft(id)));
        self.note_first_look();
    }
}
