//! The nodes in Consul: their keys, and their services with the checks.

use super::is_of_operators;
use super::node::{Complaint, Mode, Record, Records};
use crate::keys::{self, Said};
use crate::options::Options;
use crate::pauses::CERTAIN_AFTER;
use crate::shell::kv_delete;
use consul_api::api::health;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::value::Value;
use consul_client::Client;
use consul_client::coordination::Service;
use consul_process::clock::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The member of an instance's `Meta` that has the nodes' prefix of its cluster: the name of a service has `-` for `/`, so that
/// two clusters may have one. Instances of earlier releases have no such member.
const CLUSTER: &str = "nodes_prefix";

/// The longest value in `Meta`, in bytes.
///
/// Source: "metaValueMaxLength" in Consul's `agent/structs/structs.go`.
const MAX_META_BYTES: usize = 512;

/// The value of that member in instances of this cluster.
pub(super) fn cluster(options: &Options) -> &str {
    let prefix = &options.nodes_prefix;
    let mut end = prefix.len().min(MAX_META_BYTES);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    &prefix[..end]
}

/// The other cluster whose node an instance is, in a list of this cluster's instances, or of an agent's.
pub(super) fn other_cluster<'a>(options: &Options, service: &'a Value) -> Option<&'a str> {
    let theirs = service.get("Meta")?.get(CLUSTER)?.as_str()?;
    (theirs != cluster(options)).then_some(theirs)
}

/// Whether an instance, as Consul lists it, is a node of another cluster.
pub fn is_of_other_cluster(options: &Options, entry: &Value) -> bool {
    entry.get("Service").is_some_and(|service| other_cluster(options, service).is_some())
}

/// The nodes' prefixes of the other clusters in a list of this cluster's instances.
pub(super) fn other_clusters(options: &Options, entries: &Value) -> BTreeSet<String> {
    let other = |entry: &Value| Some(other_cluster(options, entry.get("Service")?)?.to_owned());
    entries.items().iter().filter_map(other).collect()
}

/// The service that registers a node in Consul.
pub(crate) fn service(options: &Options, record: &Record) -> Service {
    let meta = [("incarnation", record.incarnation.as_str()), (CLUSTER, cluster(options))];
    let meta = meta.map(|(name, value)| (name.to_owned(), value.into())).to_vec();
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

/// The nodes in the last answers of Consul.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    pub(super) records: Records,
    /// The highest modify index in the last list of keys.
    pub(super) newest: u64,
    /// The keys under the nodes' prefix that the log has called other programs'.
    pub(super) said: BTreeSet<String>,
    /// Each registered incarnation; `None` before the first answer.
    pub(super) instances: Option<Instances>,
    pub(super) of_records: Doubt,
    pub(super) of_instances: Doubt,
}

/// For how long a list of all nodes that lacks this node has to stay so before it is applied: longer than this node
/// needs to write its key or to register again, which puts it back into the list.
const ABSENT_FOR: Duration = CERTAIN_AFTER;

/// The pause before a list is asked for again that was not believed, and the longest while ACLs hide a part of it, to
/// which each further one is a doubling.
const DOUBT_PAUSE: Duration = Duration::from_millis(500);
const MAX_HIDDEN_PAUSE: Duration = Duration::from_secs(3);

/// Whether the answers of one list are believed: answers that lack this node itself, which lives and keeps its key and its
/// service there, may be about another cluster, or come from a cache.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    /// Since when the answers lack this node.
    since: Option<Instant>,
    /// How many answers in a row have hidden something.
    hidden: u32,
}

/// The verdict on a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Apply,
    /// It is the first of those that lack this node.
    Doubt,
    /// It is a further one.
    StillDoubt,
}

impl Doubt {
    /// Judges a list: whether it lacks this node, or to an observer all nodes that it knows, although the list that was
    /// applied last had it.
    pub(super) fn judge(&mut self, is_lacking: bool, now: Instant) -> Verdict {
        match (is_lacking, self.since) {
            (false, _) => self.since = None,
            (true, None) => {
                self.since = Some(now);
                return Verdict::Doubt;
            }
            (true, Some(since)) if now - since < ABSENT_FOR => return Verdict::StillDoubt,
            (true, Some(_)) => self.since = None,
        }
        Verdict::Apply
    }

    /// Notes whether ACLs hide something, and returns the pause before the list is asked for again without a wait, which
    /// would last for long while nothing changes.
    pub(super) fn pause(&mut self, is_filtered: bool) -> Option<Duration> {
        self.hidden = if is_filtered { self.hidden.saturating_add(1) } else { 0 };
        match (self.since, self.hidden) {
            (Some(_), _) => Some(DOUBT_PAUSE),
            (None, 0) => None,
            (None, hidden) => {
                Some(DOUBT_PAUSE.saturating_mul(1 << hidden.min(8)).min(MAX_HIDDEN_PAUSE))
            }
        }
    }
}

/// A registered incarnation in Consul's list.
#[derive(Clone, Debug, Default)]
pub(super) struct Instance {
    /// Whether no check about its process is critical.
    pub(super) is_live: bool,
    pub(super) complaint: Complaint,
}

pub(super) type Instances = BTreeMap<(String, String), Instance>;

impl Instance {
    fn of(entry: &Value) -> Self {
        let checks = entry.get("Checks").map(Value::items).unwrap_or_default();
        let first = |status: &str, is_own: bool| {
            checks
                .iter()
                .find(|it| text(it, "Status") == status && is_about_the_process(it) == is_own)
        };
        let (critical, warning) = (first("critical", true), first("warning", true));
        let output = match critical.or(warning) {
            Some(check) => text(check, "Output").to_owned(),
            None => match first("critical", false) {
                // The reason of a maintenance is in its notes.
                Some(check) => {
                    let said = [text(check, "Output"), text(check, "Notes")];
                    let said = said.into_iter().find(|it| !it.is_empty()).unwrap_or_default();
                    format!("{}: {said}", text(check, "Name"))
                }
                None => String::new(),
            },
        };
        let is_warning = critical.is_none() && warning.is_some();
        Instance { is_live: critical.is_none(), complaint: Complaint { is_warning, output } }
    }
}

fn text<'a>(check: &'a Value, name: &str) -> &'a str {
    check.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a check tells if the process of an instance runs: the service's checks do, and the check of Consul's gossip,
/// which is critical when the agent's machine is gone. Others, as of the disk of the agent's machine, and checks that
/// stand for maintenance of the agent or the service, inform an operator.
fn is_about_the_process(check: &Value) -> bool {
    let id = text(check, "CheckID");
    let is_of_service = !text(check, "ServiceID").is_empty();
    id == "serfHealth" || is_of_service && !id.starts_with("_service_maintenance")
}

pub(super) fn is_live(instances: &Instances, incarnation: &str) -> bool {
    of_incarnation(instances, incarnation).any(|instance| instance.is_live)
}

/// The records under the nodes' prefix. Keys of other programs are ignored.
pub(super) fn records(options: &Options, entries: &Value, said: &mut Said) -> Records {
    let mut records = BTreeMap::new();
    for entry in entries.items() {
        let Some(key) = entry.get("Key").and_then(Value::as_str) else { continue };
        let Some(id) = key.strip_prefix(&options.nodes_prefix) else { continue };
        if is_of_operators(id) {
            continue;
        }
        let index = keys::index(entry);
        let record = match entry.get("Value") {
            Some(Value::Bytes(bytes)) => Record::parse(id, bytes),
            _ => None,
        };
        match record {
            Some(record) => {
                if let Some(mode) = &record.unknown_mode
                    && said.is_new(key)
                {
                    let modes = Mode::ALL.map(Mode::name).join(", ");
                    tracing::warn!(
                        key,
                        mode,
                        "the mode in a node's key is unknown and read as active; the modes are: {modes}"
                    );
                }
                records.insert(id.to_owned(), (Arc::new(record), index));
            }
            None if said.is_new(key) => tracing::warn!(key, "not a node's key"),
            None => {}
        }
    }
    records
}

/// The instances by incarnation and id. Of an instance that is registered twice, after it went to another agent, the
/// live one counts.
pub(super) fn instances(entries: &Value) -> Instances {
    let mut instances = Instances::new();
    for entry in entries.items() {
        let Some(incarnation) = incarnation(entry) else { continue };
        let name = (incarnation.to_owned(), service_id(entry).unwrap_or_default().to_owned());
        if instances.get(&name).is_none_or(|known| !known.is_live) {
            instances.insert(name, Instance::of(entry));
        }
    }
    instances
}

/// The instances of an incarnation, which has one unless another program has copied it.
pub(super) fn of_incarnation<'a>(
    instances: &'a Instances,
    incarnation: &'a str,
) -> impl Iterator<Item = &'a Instance> {
    let first = (incarnation.to_owned(), String::new());
    let later = instances.range(first..);
    later.take_while(move |((of, _), _)| of == incarnation).map(|(_, instance)| instance)
}

/// Whether an instance, as Consul lists it, lives: no check of its process or of its agent's life is critical.
pub fn is_live_instance(entry: &Value) -> bool {
    Instance::of(entry).is_live
}

/// Whether this list of instances has this incarnation as live.
pub(crate) fn is_listed_live(entries: &Value, incarnation: &str) -> bool {
    is_live(&instances(entries), incarnation)
}

/// Whether this list of instances has this incarnation, live or not.
pub(crate) fn is_listed(entries: &Value, incarnation: &str) -> bool {
    of_incarnation(&instances(entries), incarnation).next().is_some()
}

/// The names of the nodes with registered instances.
pub(crate) fn named(entries: &Value, options: &Options) -> BTreeSet<String> {
    let service = options.service();
    let name = |entry: &Value| {
        let id = service_id(entry).filter(|_| !is_of_other_cluster(options, entry))?;
        Some(id.strip_prefix(&service)?.strip_prefix('-')?.to_owned())
    };
    entries.items().iter().filter_map(name).collect()
}

/// The ids of the registered instances of an incarnation, each with its agent.
pub(crate) fn registered(entries: &Value, incarnation: &str) -> Vec<(String, String)> {
    let text = |of: Option<&Value>, name| of?.get(name)?.as_str().map(str::to_owned);
    let registered = |entry: &Value| {
        let is_its = self::incarnation(entry) == Some(incarnation);
        is_its.then_some((text(entry.get("Service"), "ID")?, text(entry.get("Node"), "Node")?))
    };
    entries.items().iter().filter_map(registered).collect()
}

/// Reads a node's key and its modify index, with a linearizable read.
pub(super) async fn read(
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
        let why = format!(
            "the key {key} holds another program's data, not a node's record: if no program needs it, {} makes room",
            kv_delete(&key)
        );
        Error::new(Kind::Conflict, why).with_maybe_applied(false)
    })
}

/// Writes a node's key if its modify index is still `before`; 0: if it does not exist.
pub(super) async fn write(
    client: &Client,
    options: &Options,
    record: &Record,
    before: u64,
) -> Result<(), Error> {
    keys::write(client, &options.node_key(&record.id), record.to_bytes(), before).await
}

/// Whether other nodes than this are live.
pub(crate) async fn others_are_live(client: &Client, options: &Options) -> Result<bool, Error> {
    let own = options.service_id();
    let is_other = |entry: &Value| service_id(entry) != Some(&own);
    lists_live(client, options, is_other).await
}

/// Whether a process that started with this node's name lives.
pub(super) async fn is_live_start(
    client: &Client,
    options: &Options,
    start: &str,
) -> Result<bool, Error> {
    let id = options.service_id();
    let is_its =
        |entry: &Value| incarnation(entry) == Some(start) && service_id(entry) == Some(id.as_str());
    lists_live(client, options, is_its).await
}

/// Whether Consul lists a live instance of this kind, in one of two answers: a single one may be older.
async fn lists_live(
    client: &Client,
    options: &Options,
    is_wanted: impl Fn(&Value) -> bool,
) -> Result<bool, Error> {
    for _ in 0..2 {
        let args = Args::new().arg(options.service()).opt("consistent", true);
        let answer = client.call_past_caches(&health::SERVICE, args).await?;
        let is_live =
            |entry: &&Value| is_live_instance(entry) && !is_of_other_cluster(options, entry);
        let mut live = answer.value.items().iter().filter(is_live);
        if live.any(&is_wanted) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The incarnation that an instance is registered for.
pub(super) fn incarnation(entry: &Value) -> Option<&str> {
    entry.get("Service")?.get("Meta")?.get("incarnation")?.as_str()
}

pub(super) fn service_id(entry: &Value) -> Option<&str> {
    entry.get("Service")?.get("ID")?.as_str()
}
