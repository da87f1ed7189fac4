//! A process's knowledge of a whole cluster, as one document for operators: from its snapshot, the maps of
//! the replicated stores, and what the nodes tell ([`super::report`]).
//!
//! A document has no key, value or token of the program's data.

mod problems;
#[cfg(test)]
mod tests;

use super::report::{ConsulExpiry, Known, Told};
use crate::keys;
use crate::leader::record::Blocked;
use crate::nodes::kept_mode::Modes;
use crate::nodes::node::{Mode, Node};
use crate::nodes::pause::Pause;
use crate::nodes::request::Request;
use crate::nodes::weights::Weights;
use crate::options::Options;
use crate::shard_map::{Replica, ReplicaState, ShardMap};
use crate::snapshot::{Sight, Snapshot};
use crate::stores::{StoreFault, StoreOverview, UnreadStores};
use crate::{Cluster, event};
use consul_client::EndpointHealth;
use consul_process::clock::Instant;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use problems::{Level, Problem, problems};

/// The version of the document. A later release may add fields without another version.
pub const VERSION: u32 = 1;

/// Events of several nodes with the same name and detail are one event if they are noticed within this time.
const SAME_EVENT: Duration = Duration::from_secs(5);

/// How long a node may take to get a new map. A new leader's first map has an epoch far above the last one,
/// so that only the time tells whether a node is behind.
pub const MAP_TIME: Duration = Duration::from_secs(2);

/// The events that are about the node which notices them.
const OF_ONE_NODE: [&str; 3] = ["suspended", "resumed", "stopped"];

/// The state of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overview {
    /// [`VERSION`].
    pub version: u32,
    /// When it was made, in Unix milliseconds by the clock of the process.
    pub at_ms: u64,
    /// The node that made it; `None`: an observer.
    pub told_by: Option<String>,
    /// Whether this process gets answers from Consul.
    pub in_touch: bool,
    /// While Consul has no Raft leader: how old what is shown of it is, in milliseconds; `None`: it has one, or that is not
    /// known.
    pub age_ms: Option<u64>,
    /// The common beginning of the cluster's keys.
    pub prefix: String,
    /// The leader, if it is known.
    pub leader: Option<LeaderOverview>,
    /// The members whose loss has frozen the map; empty: it is not frozen.
    pub frozen: Vec<String>,
    /// The pause of all automatic moves of shards, if an operator has ordered one.
    pub paused: Option<Pause>,
    /// The modes that operators have given to nodes which are not there: their next start takes them.
    pub kept_modes: Modes,
    /// The weights that operators have set in place of the configurations' weights.
    pub weights: Weights,
    /// Whether the map was put back after Consul had lost it, and no leader has made another one since.
    pub restored: bool,
    /// The kinds of things that ACLs hide from this process.
    pub hidden: Vec<&'static str>,
    /// The rights without which ACLs may hide nodes from this process, while Consul does not tell whether
    /// they do.
    pub may_hide: Option<String>,
    /// All members by name.
    pub nodes: Vec<NodeOverview>,
    /// The shard map; `None` until the first one is known.
    pub map: Option<Arc<MapOverview>>,
    /// The replicated stores by name.
    pub stores: Vec<StoreOverview>,
    /// The stores without a map, and what the first one waits for.
    pub waiting: BTreeMap<String, String>,
    /// The endpoints of Consul, as each process finds them.
    pub endpoints: Vec<EndpointOverview>,
    /// The last events of all nodes, the newest at the end.
    pub events: Vec<EventOverview>,
    /// When this process's own certificate for calls ends, if it is an observer, in Unix milliseconds.
    #[serde(skip)]
    pub own_certificate_ms: Option<u64>,
    /// The certificates for the connections of this process to Consul that expire first, if it is an observer.
    #[serde(skip)]
    pub own_consul_expiry: Option<ConsulExpiry>,
    /// The rights that the token of this process lacks; the problems tell them.
    #[serde(skip)]
    pub no_rights: Option<String>,
    /// Whether Consul's servers have answered that they have no Raft leader; the problems tell it.
    #[serde(skip)]
    pub has_no_raft_leader: bool,
    /// The cause that keeps all nodes from the leader's key; the problems tell it.
    #[serde(skip)]
    pub blocked: Option<Blocked>,
    /// Why the weights that operators set cannot be read.
    #[serde(skip)]
    pub foreign_weights: Option<String>,
    /// Why this process does not know all of the stores' maps.
    #[serde(skip)]
    pub unread_stores: Vec<UnreadStores>,
    /// The nodes' prefixes of other clusters whose nodes are instances of the same service.
    #[serde(skip)]
    pub other_clusters: BTreeSet<String>,
    /// Why this process cannot read keys of the shard map.
    #[serde(skip)]
    pub unread_map: Vec<String>,
    /// Whether this process is a node that has just started, and has yet to learn the state of the cluster.
    #[serde(skip)]
    pub is_starting: bool,
    /// All that is not well, the worst first.
    pub problems: Vec<Problem>,
}

/// The leader.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeaderOverview {
    /// The node's name.
    pub node_id: String,
    /// The address of its program.
    pub address: String,
    /// When it tried to become the leader, in Unix milliseconds by its own clock.
    pub elected_at_ms: u64,
    /// The session that holds the leader's key.
    pub session: String,
    /// The fencing token.
    pub token: u64,
    /// How long it may act without a further proof, in milliseconds; `None`: it has not told.
    pub lease_ms: Option<u64>,
    /// Whether it may act, as it tells itself; `None`: it has not told.
    pub leads: Option<bool>,
}

impl LeaderOverview {
    /// Whether it tells that it may not act.
    pub fn does_not_lead(&self) -> bool {
        self.leads == Some(false)
    }
}

/// A member.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeOverview {
    /// Its name.
    pub id: String,
    /// The address of its program; empty: none.
    pub address: String,
    /// The address of its data plane; empty: none.
    pub data_address: String,
    /// Its zone; empty: none.
    pub zone: String,
    /// Its share of the shards.
    pub weight: f64,
    /// The version of its release; empty: it does not tell.
    pub version: String,
    /// How it takes part.
    pub mode: Mode,
    /// The mode in its key, if there is no such mode.
    pub unknown_mode: Option<String>,
    /// Whether it lives.
    pub state: NodeState,
    /// How long ago this process has last seen it live, in milliseconds; `None`: it is not down, or was never seen live.
    pub down_for_ms: Option<u64>,
    /// The epoch of its shard map; `None`: it has not told.
    pub map_epoch: Option<u64>,
    /// The epochs from that to the newest map, if it has had the time to get a newer one; otherwise 0.
    pub map_lag: Option<u64>,
    /// The number of shards whose primary it is.
    pub primaries: usize,
    /// The number of shards with another replica on it.
    pub replicas: usize,
    /// The shards that it copies to itself.
    pub moving_in: usize,
    /// The shards that leave it.
    pub moving_out: usize,
    /// The replicas of stores that it has or gets.
    pub store_replicas: usize,
    /// The output of the worst of its checks that do not pass, else the name and the output of a critical one of its agent;
    /// empty: all pass.
    pub check_output: String,
    /// Why it did not answer this process; `None`: it did, or was not asked.
    pub silent: Option<String>,
    /// Whether it and this process, or it and the leader, refuse each other's `cluster_key`.
    pub refuses_key: bool,
    /// Whether it and the leader do, as the leader tells.
    #[serde(skip)]
    pub is_refused_by_leader: bool,
    /// Whether the leader cannot reach it, as that tells.
    #[serde(skip)]
    pub is_unreached_by_leader: bool,
    /// The live nodes that its calls avoid since they do not answer; the problems tell it.
    #[serde(skip)]
    pub avoids: Vec<String>,
    /// Whether a process answers at its data address although it is down in Consul.
    pub lost_consul: bool,
    /// Why that process may be another one; the problems tell it.
    #[serde(skip)]
    pub doubt: Option<String>,
    /// Whether it is a new start of the node, which has yet to join.
    #[serde(skip)]
    pub starts_again: bool,
    /// Whether its key has just been written, and its check does not pass yet.
    #[serde(skip)]
    pub is_new: bool,
    /// Why it takes part no more, although its process answers; the problems tell it.
    #[serde(skip)]
    pub ended: Option<String>,
    /// Why it is not in the history of leaders, if it leads; the problems tell it.
    #[serde(skip)]
    pub no_history: Option<String>,
    /// How far its clock is ahead of this process's, in milliseconds, give or take the time of a call;
    /// `None`: it has not told.
    pub clock_ahead_ms: Option<i64>,
    /// When its certificate for calls ends, in Unix milliseconds; `None`: it has none, or that is years away, or it has not
    /// told.
    pub certificate_expires_ms: Option<u64>,
    /// The certificates for its connections to Consul that expire first; the problems tell it.
    #[serde(skip)]
    pub consul_expiry: Option<ConsulExpiry>,
    /// Why it may not do a leader's work; the problems tell it.
    #[serde(skip)]
    pub cannot_lead: Option<String>,
    /// The rights that its token lacks; the problems tell it.
    #[serde(skip)]
    pub no_rights: Option<String>,
    /// The refusal of its token by Consul, which does not know it; the problems tell it.
    #[serde(skip)]
    pub unknown_token: Option<String>,
    /// The lack of its process, and the cure; the problems tell it.
    #[serde(skip)]
    pub lacking: Option<String>,
    /// The files of its process that cannot be used since they have changed; the problems tell it.
    #[serde(skip)]
    pub unusable_files: Option<String>,
    /// Its faults as a node of stores; the problems tell them.
    #[serde(skip)]
    pub faults: Vec<StoreFault>,
    /// The stores for which it has another disk than the map names.
    #[serde(skip)]
    pub other_disks: BTreeSet<String>,
    /// The stores that its program does not use; the problems tell it.
    #[serde(skip)]
    pub unused: BTreeSet<String>,
    /// An operator's requests that it has yet to take.
    #[serde(skip)]
    pub asked: Request,
}

/// Whether a node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Its check passes.
    Live,
    /// It lives, and its check warns.
    Unavailable,
    /// Its service is not registered, or has a critical check.
    Down,
}

/// The shard map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapOverview {
    /// Its epoch.
    pub epoch: u64,
    /// The number of shards.
    pub shards: usize,
    /// The desired number of replicas of each.
    pub replicas: usize,
    /// The nodes that have a replica.
    pub nodes: Vec<String>,
    /// The replicas of each shard, the primary first.
    pub placement: Vec<Vec<Placed>>,
}

/// A replica: the index of its node, its state, and the index of the node that it is copied from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Placed {
    /// `a`: it has the data; `l`: it leaves.
    Whole(usize, char),
    /// `i`: it is being copied.
    Copied(usize, char, Option<usize>),
}

/// An endpoint of Consul, as one process finds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointOverview {
    /// The process.
    pub told_by: String,
    /// Its URL.
    pub address: String,
    /// Whether calls use it.
    pub state: EndpointState,
    /// The mean time of its recent answers, in milliseconds; `None`: it has not answered yet.
    pub latency_ms: Option<f64>,
}

/// Whether calls use an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// They do.
    Ok,
    /// It failed, and is left alone for some time.
    Benched,
}

/// An event, as one node noticed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventOverview {
    /// Its number among the events of that node since its start.
    pub seq: u64,
    /// When the node noticed it, in Unix milliseconds by its own clock.
    pub at_ms: u64,
    /// The node.
    pub node_id: String,
    /// Its name, such as `node_left`.
    pub event: String,
    /// Its subject: a node, an epoch, a reason.
    pub detail: String,
}

impl Placed {
    /// The index of its node.
    pub fn node(self) -> usize {
        match self {
            Placed::Whole(node, _) | Placed::Copied(node, ..) => node,
        }
    }
}

impl EndpointOverview {
    pub(crate) fn new(told_by: &str, health: EndpointHealth) -> Self {
        let ms = |latency: Duration| (latency.as_secs_f64() * 1e6).round() / 1e3;
        EndpointOverview {
            told_by: told_by.to_owned(),
            address: health.address,
            state: if health.is_benched { EndpointState::Benched } else { EndpointState::Ok },
            latency_ms: health.latency.map(ms),
        }
    }
}

impl NodeOverview {
    /// Which process may answer at its data address, for a sentence; `None`: no other than this node.
    pub fn who_may_answer(&self) -> Option<String> {
        let (id, why) = (&self.id, self.doubt.as_ref()?);
        Some(format!("may be {id}, a node of another cluster or another program: {why}"))
    }
}

impl Overview {
    /// Makes the document from what this process knows at this moment.
    pub(crate) fn new(cluster: &Cluster, known: &mut Known) -> Self {
        let (options, snapshot) = (cluster.options(), cluster.snapshot());
        let map = snapshot.map.as_ref().map(|map| picture(map, &mut known.picture));
        let is_live = |id: &str| snapshot.nodes.get(id).is_some_and(|node| node.is_live);
        let at_ms = cluster.unix_ms();
        let is_young = known.begun.is_some_and(|begun| cluster.now() - begun < MAP_TIME);
        let has_learned = cluster.has_looked() && snapshot.map.is_some();
        let of_observer = known
            .observer
            .as_ref()
            .map(|(_, told)| (told.certificate_expires_ms(), told.consul_expiry().cloned()));
        let (own_certificate_ms, own_consul_expiry) = of_observer.unwrap_or_default();
        let mut overview = Overview {
            version: VERSION,
            at_ms,
            is_starting: !options.observer && is_young && !has_learned,
            told_by: options.member_id().map(str::to_owned),
            in_touch: cluster.is_in_touch() && !known.is_unanswered,
            age_ms: snapshot.age_ms,
            prefix: prefix(options),
            leader: leader(&snapshot, &known.told),
            frozen: snapshot.frozen.clone(),
            paused: snapshot.paused.clone(),
            kept_modes: snapshot.kept_modes.clone(),
            weights: snapshot.weights.clone(),
            restored: snapshot.is_restored,
            hidden: hidden(&snapshot),
            may_hide: snapshot.may_hide().map(str::to_owned),
            nodes: nodes(&snapshot, known, (cluster.now(), at_ms)),
            map,
            stores: known.maps.overviews(is_live, &known.told),
            waiting: known.maps.waiting(),
            endpoints: known.tellers().flat_map(|(_, told)| told.endpoints()).cloned().collect(),
            events: events(known.tellers()),
            own_certificate_ms,
            own_consul_expiry,
            no_rights: known.of_own(options).and_then(Told::no_rights).cloned(),
            has_no_raft_leader: known.has_no_raft_leader,
            blocked: snapshot.blocked.clone().map(|blocked| {
                let is_nodes = |id: &str| known.told.values().any(|told| told.has_led_with(id));
                blocked.seen_by(is_nodes)
            }),
            foreign_weights: snapshot
                .has_foreign_weights
                .then(|| keys::foreign(&options.weights_key()).message().to_owned()),
            unread_stores: known.maps.unread().to_vec(),
            other_clusters: snapshot.other_clusters.clone(),
            unread_map: snapshot.unreadable.clone(),
            problems: Vec::new(),
        };
        let own =
            overview.nodes.iter_mut().find(|node| Some(node.id.as_str()) == options.member_id());
        if let Some(node) = own {
            // It may not be able to write that in its key.
            node.cannot_lead.clone_from(&snapshot.cannot_lead);
        }
        overview.problems = problems(&overview);
        overview
    }

    /// The leader, if it is a node and does not say itself that it does not lead.
    pub fn leading(&self) -> Option<&LeaderOverview> {
        self.leader.as_ref().filter(|it| !it.does_not_lead() && !self.is_unknown(it))
    }

    /// Whether the leader's key names none of the nodes, while all of them are seen.
    fn is_unknown(&self, leader: &LeaderOverview) -> bool {
        let sees_all = self.hidden.is_empty() && self.may_hide.is_none();
        let is_it = |node: &NodeOverview| node.id == leader.node_id;
        sees_all && !self.nodes.is_empty() && !self.nodes.iter().any(is_it)
    }

    /// The document without what changes all the time: times, and how long ago something was.
    pub fn steady(&self) -> Self {
        let age_ms = self.age_ms.map(|_| 0);
        let mut steady = Overview { at_ms: 0, age_ms, ..self.clone() };
        if let Some(leader) = &mut steady.leader {
            leader.lease_ms = leader.lease_ms.map(|left| u64::from(left > 0));
        }
        for node in &mut steady.nodes {
            node.down_for_ms = node.down_for_ms.map(|_| 0);
            node.silent = node.silent.take().map(|_| String::new());
            node.clock_ahead_ms = None;
        }
        steady.endpoints.iter_mut().for_each(|endpoint| endpoint.latency_ms = None);
        steady.problems.iter_mut().for_each(|problem| problem.text.clear());
        steady
    }
}

/// The common beginning of the cluster's keys, up to a `/`.
fn prefix(options: &Options) -> String {
    let keys =
        [&options.nodes_prefix, &options.shards_prefix, &options.leader_key, &options.config_key];
    let is_shared = |end: &usize| keys.iter().all(|key| key.starts_with(&keys[0][..*end]));
    let ends = keys[0].match_indices('/').map(|(at, _)| at + 1);
    let end = ends.take_while(is_shared).last().unwrap_or_default();
    keys[0][..end].to_owned()
}

fn leader(snapshot: &Snapshot, told: &BTreeMap<String, Told>) -> Option<LeaderOverview> {
    let leader = snapshot.leader.as_ref()?;
    let told = told.get(&leader.node_id);
    let lease = told.and_then(Told::lease);
    Some(LeaderOverview {
        node_id: leader.node_id.clone(),
        address: leader.address.clone(),
        elected_at_ms: leader.elected_at_ms,
        session: leader.session_id.clone(),
        token: leader.token,
        lease_ms: lease.filter(|lease| lease.token == leader.token).map(|lease| lease.left_ms),
        leads: told.and_then(|told| told.leads(leader.token, leader.elected_at_ms)),
    })
}

fn hidden(snapshot: &Snapshot) -> Vec<&'static str> {
    let keys = snapshot.hides_keys.then_some("keys of nodes");
    let instances = (snapshot.sight == Sight::Part).then_some("instances of nodes");
    keys.into_iter().chain(instances).collect()
}

/// The epoch of the newest map: this process's own, or an epoch that two nodes tell, since one may tell anything.
fn newest_epoch(snapshot: &Snapshot, told: &BTreeMap<String, Told>) -> u64 {
    let mut epochs: Vec<u64> = told.values().filter_map(Told::map_epoch).collect();
    epochs.sort_unstable_by(|a, b| b.cmp(a));
    let own = snapshot.map.as_ref().map(|map| map.epoch());
    own.into_iter().chain(epochs.get(1).copied()).max().unwrap_or(0)
}

/// The newest maps of the last seconds, each with the time at which this process learned of it.
#[derive(Debug, Default)]
pub(crate) struct NewestMaps(VecDeque<(Instant, u64)>);

impl NewestMaps {
    /// Notes the epoch of the newest map, and returns that of the newest one which every node has had the
    /// time to get; 0: none.
    fn settled(&mut self, now: Instant, newest: u64) -> u64 {
        match self.0.back() {
            Some((_, last)) if *last == newest => {}
            last => {
                // Maps that Consul has lost are not waited for.
                if last.is_some_and(|(_, last)| *last > newest) {
                    self.0.clear();
                }
                self.0.push_back((now, newest));
            }
        }
        let is_settled = |(at, _): &(Instant, u64)| now >= *at + MAP_TIME;
        while self.0.get(1).is_some_and(is_settled) {
            self.0.pop_front();
        }
        self.0.front().filter(|it| is_settled(it)).map_or(0, |(_, epoch)| *epoch)
    }
}

fn nodes(
    snapshot: &Snapshot,
    known: &mut Known,
    (now, now_ms): (Instant, u64),
) -> Vec<NodeOverview> {
    let mut loads = snapshot.map.as_deref().map(Loads::of).unwrap_or_default();
    let newest = newest_epoch(snapshot, &known.told);
    let settled = known.newest.settled(now, newest);
    let lag = |epoch: u64| if epoch < settled { newest.saturating_sub(epoch) } else { 0 };
    let told = &known.told;
    let leader = snapshot.leader.as_ref().and_then(|leader| told.get(&leader.node_id));
    let is_refused_by_leader = |id: &str, node: &Node| {
        node.is_live && leader.is_some_and(|leader| leader.is_refused_by(id))
    };
    let token =
        |id: &str| snapshot.leader.as_ref().filter(|it| it.node_id == id).map(|it| it.token);
    let overview = |(id, node): (&String, &Node)| {
        let record = &node.record;
        let Loads { primaries, replicas, moving_in, moving_out } =
            loads.remove(id.as_str()).unwrap_or_default();
        let told = told.get(id).filter(|told| told.is_of(&record.incarnation));
        let map_epoch = told.and_then(Told::map_epoch);
        let starts_again = told.is_some_and(|told| told.is_other_start);
        let age_ms = u128::from(now_ms.abs_diff(record.started_ms));
        let is_new = !node.is_live && age_ms < MAP_TIME.as_millis();
        NodeOverview {
            id: id.clone(),
            address: record.address.clone(),
            data_address: record.data_address.clone(),
            zone: record.zone.clone(),
            weight: record.weight,
            mode: record.mode,
            version: record.version.clone(),
            unknown_mode: record.unknown_mode.clone(),
            state: match node.is_live {
                true if node.complaint.is_warning => NodeState::Unavailable,
                true => NodeState::Live,
                false => NodeState::Down,
            },
            down_for_ms: node.vanished_at.map(|since| (now - since).as_millis() as u64),
            map_epoch,
            map_lag: map_epoch.filter(|_| !starts_again).map(lag),
            primaries,
            replicas,
            moving_in,
            moving_out,
            store_replicas: known.maps.held(id),
            check_output: node.complaint.output.clone(),
            silent: told.and_then(|told| told.silent.clone()).filter(|_| node.is_live),
            refuses_key: is_refused_by_leader(id, node)
                || node.is_live && told.is_some_and(|told| told.refuses_key),
            is_refused_by_leader: is_refused_by_leader(id, node),
            is_unreached_by_leader: node.is_live
                && leader.is_some_and(|leader| leader.cannot_reach(id)),
            avoids: told
                .map(|told| told.avoided().to_vec())
                .filter(|_| node.is_live)
                .unwrap_or_default(),
            lost_consul: !node.is_live
                && told.is_some_and(|told| told.answers && told.ended.is_none()),
            starts_again: starts_again && !node.is_live,
            is_new,
            doubt: told.and_then(|told| told.doubt.clone()).filter(|_| !node.is_live),
            ended: told.and_then(|told| told.ended.clone()).filter(|_| !node.is_live),
            no_history: told.and_then(Told::no_history).cloned(),
            clock_ahead_ms: told.and_then(|told| told.clock_ahead_ms),
            certificate_expires_ms: told.and_then(Told::certificate_expires_ms),
            consul_expiry: told.and_then(Told::consul_expiry).cloned(),
            cannot_lead: record.cannot_lead.clone().filter(|_| node.is_live),
            no_rights: told.and_then(Told::no_rights).cloned(),
            unknown_token: told.and_then(Told::unknown_token).cloned(),
            lacking: told.and_then(Told::lacking).cloned(),
            unusable_files: told.and_then(Told::unusable_files).cloned(),
            faults: told.into_iter().flat_map(Told::faults).cloned().collect(),
            other_disks: known.maps.of_other_disks(told),
            unused: known.maps.unused(told),
            asked: record
                .request
                .as_ref()
                .map(|it| it.in_force(&record.incarnation, token(id)))
                .unwrap_or_default(),
        }
    };
    snapshot.nodes.iter().map(overview).collect()
}

/// The shards of a node.
#[derive(Clone, Copy, Default)]
struct Loads {
    primaries: usize,
    replicas: usize,
    moving_in: usize,
    moving_out: usize,
}

impl Loads {
    fn of(map: &ShardMap) -> BTreeMap<&str, Loads> {
        let mut loads = vec![Loads::default(); map.node_ids().len()];
        for shard in map.shards() {
            let primary = shard.iter().position(Replica::is_available);
            for (place, replica) in shard.iter().enumerate() {
                let load = &mut loads[replica.node];
                match replica.state {
                    _ if Some(place) == primary => load.primaries += 1,
                    ReplicaState::Initializing { .. } => load.moving_in += 1,
                    _ => load.replicas += 1,
                }
                load.moving_out += usize::from(replica.state == ReplicaState::Leaving);
            }
        }
        BTreeMap::from_iter(map.node_ids().iter().map(String::as_str).zip(loads))
    }
}

impl MapOverview {
    fn new(map: &ShardMap) -> Self {
        let placed = |replica: &Replica| match replica.state {
            ReplicaState::Available => Placed::Whole(replica.node, 'a'),
            ReplicaState::Leaving => Placed::Whole(replica.node, 'l'),
            ReplicaState::Initializing { source, .. } => {
                Placed::Copied(replica.node, 'i', Some(source))
            }
        };
        let placement = |shard: &Vec<Replica>| {
            let mut placed: Vec<Placed> = shard.iter().map(placed).collect();
            if let Some(primary) = shard.iter().position(Replica::is_available) {
                placed[..=primary].rotate_right(1);
            }
            placed
        };
        MapOverview {
            epoch: map.epoch(),
            shards: map.shard_count(),
            replicas: map.replicas(),
            nodes: map.node_ids().to_vec(),
            placement: map.shards().iter().map(placement).collect(),
        }
    }
}

/// The picture of a map, which is made once.
fn picture(
    map: &Arc<ShardMap>,
    last: &mut Option<(Arc<ShardMap>, Arc<MapOverview>)>,
) -> Arc<MapOverview> {
    let current = last.take().filter(|(shown, _)| Arc::ptr_eq(shown, map));
    let (_, picture) =
        last.insert(current.unwrap_or_else(|| (Arc::clone(map), Arc::new(MapOverview::new(map)))));
    Arc::clone(picture)
}

/// The events of all nodes by time. An event that several nodes noticed is one event, of the first of them.
fn events<'a>(tellers: impl Iterator<Item = (&'a str, &'a Told)>) -> Vec<EventOverview> {
    let of_node = |(id, told): (&str, &Told)| {
        let id = id.to_owned();
        let event = move |past: &event::PastEvent| EventOverview {
            seq: past.seq,
            at_ms: past.at_ms,
            node_id: id.clone(),
            event: past.event.clone(),
            detail: past.detail.clone(),
        };
        told.events.iter().map(event).collect::<Vec<_>>()
    };
    let mut all: Vec<EventOverview> = tellers.flat_map(of_node).collect();
    all.sort_by(|a, b| (a.at_ms, &a.node_id, a.seq).cmp(&(b.at_ms, &b.node_id, b.seq)));
    let mut distinct: Vec<(EventOverview, BTreeSet<String>)> = Vec::new();
    for event in all {
        let limit = event.at_ms.saturating_sub(SAME_EVENT.as_millis() as u64);
        let mut recent = distinct.iter_mut().rev().take_while(|(it, _)| it.at_ms >= limit);
        let is_own = OF_ONE_NODE.contains(&event.event.as_str());
        let is_same = |it: &EventOverview| {
            !is_own && (&it.event, &it.detail) == (&event.event, &event.detail)
        };
        let same = recent.find(|(it, by)| is_same(it) && !by.contains(&event.node_id));
        match same {
            Some((_, by)) => _ = by.insert(event.node_id),
            None => {
                let by = BTreeSet::from([event.node_id.clone()]);
                distinct.push((event, by));
            }
        }
    }
    let skipped = distinct.len().saturating_sub(event::MAX_KEPT);
    distinct.into_iter().skip(skipped).map(|(event, _)| event).collect()
}
