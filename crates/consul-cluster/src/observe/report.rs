//! The reports of nodes to each other and to observers, which are not in Consul: their last events, their endpoints of
//! Consul, the leader's lease, and how far their copies are. It is asked for over the data plane when an
//! overview is made, and only then.

mod bounds;

use super::overview::{EndpointOverview, MAP_TIME, MapOverview, NewestMaps, Overview};
use crate::data_plane::{Body, CallOptions, DataPlane, Service};
use crate::event::{MAX_KEPT, PastEvent};
use crate::keys::has_no_raft_leader;
use crate::nodes::rights::{self, Right};
use crate::options::Options;
use crate::shard_map::ShardMap;
use crate::snapshot::Snapshot;
use crate::stores::reinit::Remaking;
use crate::stores::{CopyReport, Store, StoreFault, StoreMaps};
use crate::{Cluster, Mode, Node};
use bounds::cut_message;
use consul_api::error::{Error, Kind};
use consul_process::clock::Instant;
use consul_process::files;
use consul_process::metrics::{self, Page, Registered, Source, table};
use consul_process::os;
use consul_process::sync::lock;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::time::timeout;

/// The name under which nodes serve it.
pub const SERVICE: &str = "cluster/report";

/// The shortest time between two times that the nodes and Consul are asked.
const ASK_PAUSE: Duration = Duration::from_secs(1);

/// How long they are waited for: an overview is made without those that do not answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long one waits for them that may be far away: a first call over TLS takes four round trips.
const DISTANT_PATIENCE: Duration = Duration::from_secs(2);

/// How long a node waits for its own shards, which requests to them may hold.
const OWN_PATIENCE: Duration = Duration::from_millis(200);

/// The shortest time between two times that a node asks which rights it has.
const RIGHTS_PAUSE: Duration = Duration::from_secs(3);

/// How long an overview is given out again.
const FRESH: Duration = Duration::from_millis(200);

/// How long the numbers have what an overview has found.
const COUNTED: Duration = Duration::from_secs(60);

/// The question of a process to a node.
#[derive(Serialize, Deserialize)]
struct Question {
    /// The start of the node whose events it has, up to this number.
    incarnation: String,
    seq: u64,
}

/// The answer of a node. A later release may add to it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Report {
    #[serde(default)]
    incarnation: String,
    /// The time of day by its clock, in Unix milliseconds.
    #[serde(default)]
    at_ms: Option<u64>,
    /// The epoch of its shard map, 0 without one; `None`: it does not tell.
    #[serde(default)]
    map_epoch: Option<u64>,
    /// `None`: it does not tell whether it has one.
    #[serde(default, deserialize_with = "told")]
    lease: Option<Option<LeaseReport>>,
    /// The session of its last leadership.
    #[serde(default)]
    led_session: Option<String>,
    /// The nodes that refuse its `cluster_key`, or whose key it refuses, if it is the leader.
    #[serde(default)]
    refusing: Vec<String>,
    /// The live nodes that it cannot reach, if it is the leader.
    #[serde(default)]
    unreached: Vec<String>,
    /// The live nodes that its calls avoid since they do not answer.
    #[serde(default)]
    avoided: Vec<String>,
    /// When its certificate for calls ends, in Unix milliseconds.
    #[serde(default)]
    certificate_expires_ms: Option<u64>,
    /// The certificates for its connections to Consul that expire first.
    #[serde(default)]
    consul_expiry: Option<ConsulExpiry>,
    #[serde(default)]
    endpoints: Vec<EndpointOverview>,
    #[serde(default)]
    copies: Vec<CopyReport>,
    /// The stores that its program uses; `None`: an earlier release does not report them.
    #[serde(default)]
    stores: Option<Vec<String>>,
    /// Its faults as a node of stores.
    #[serde(default)]
    faults: Vec<StoreFault>,
    /// The lack of its process within the last minute.
    #[serde(default)]
    lacking: Option<String>,
    /// The files of its process that cannot be used since they have changed.
    #[serde(default)]
    unusable_files: Option<String>,
    /// The rights that its token lacks.
    #[serde(default)]
    no_rights: Option<String>,
    /// The refusal of its token by Consul, which does not know it.
    #[serde(default)]
    unknown_token: Option<String>,
    /// Why it is not in the history of leaders, if it is the leader.
    #[serde(default)]
    no_history: Option<String>,
    /// Why it takes part no more, although its process runs.
    #[serde(default)]
    ended: Option<String>,
    /// The events that the process does not have yet.
    #[serde(default)]
    events: Vec<PastEvent>,
}

impl Report {
    /// The part about its process, its files and its token.
    fn of_itself(self) -> Self {
        Report {
            incarnation: self.incarnation,
            certificate_expires_ms: self.certificate_expires_ms,
            consul_expiry: self.consul_expiry,
            unusable_files: self.unusable_files,
            unknown_token: self.unknown_token,
            lacking: self.lacking,
            ..Report::default()
        }
    }
}

/// The end of certificates for connections to Consul.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsulExpiry {
    /// The option that names them.
    pub option: String,
    /// When they expire, in Unix milliseconds.
    pub at_ms: u64,
}

/// The lease of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseReport {
    pub token: u64,
    /// How long it may act without a further proof.
    pub left_ms: u64,
}

/// The last report of a node to this process.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The start of the node that was asked.
    incarnation: String,
    /// Its last answer, without the events; `None`: it does not answer.
    report: Option<Report>,
    /// Its last events, the newest at the end.
    pub events: VecDeque<PastEvent>,
    /// The start of the node that the newest of them is of.
    events_of: String,
    /// Why it did not answer.
    pub silent: Option<String>,
    /// Whether that is because it and this process refuse each other's `cluster_key`.
    pub refuses_key: bool,
    /// Whether a process has answered at its data address, be it with a refusal.
    pub answers: bool,
    /// Why that process may be another one.
    pub doubt: Option<String>,
    /// Whether it is another start of the node than its key has.
    pub is_other_start: bool,
    /// Why it takes part no more, although its process runs.
    pub ended: Option<String>,
    /// How far its clock is ahead of this process's.
    pub clock_ahead_ms: Option<i64>,
}

/// The one of a list of stores, sorted by these, that is about this store.
fn of_store<'a, T>(list: &'a [T], store: &str, name: impl Fn(&T) -> &str) -> Option<&'a T> {
    let place = list.binary_search_by(|it| name(it).cmp(store)).ok()?;
    list.get(place)
}

impl Told {
    /// Whether it is about this start of the node.
    pub fn is_of(&self, incarnation: &str) -> bool {
        self.incarnation == incarnation
    }

    pub fn map_epoch(&self) -> Option<u64> {
        self.report.as_ref()?.map_epoch
    }

    pub fn certificate_expires_ms(&self) -> Option<u64> {
        self.report.as_ref()?.certificate_expires_ms
    }

    /// The certificates for its connections to Consul that expire first.
    pub fn consul_expiry(&self) -> Option<&ConsulExpiry> {
        self.report.as_ref()?.consul_expiry.as_ref()
    }

    pub fn lease(&self) -> Option<LeaseReport> {
        self.report.as_ref()?.lease?
    }

    /// Whether it has led with this session.
    pub fn has_led_with(&self, session: &str) -> bool {
        self.report.as_ref().is_some_and(|report| report.led_session.as_deref() == Some(session))
    }

    /// Whether it may act as the leader with this token, once it had the time to know that it is; `None`: it does not tell.
    /// A time before its election is that of a clock which was set back.
    pub fn leads(&self, token: u64, elected_at_ms: u64) -> Option<bool> {
        let report = self.report.as_ref().filter(|_| self.silent.is_none())?;
        let may_act = report.lease?.is_some_and(|lease| lease.token == token && lease.left_ms > 0);
        let is_known = |at: u64| u128::from(at.abs_diff(elected_at_ms)) >= MAP_TIME.as_millis();
        (may_act || report.at_ms.is_some_and(is_known)).then_some(may_act)
    }

    /// Whether it has found, as the leader, that a node and it refuse each other's `cluster_key`.
    pub fn is_refused_by(&self, node: &str) -> bool {
        self.report.iter().flat_map(|report| &report.refusing).any(|id| id == node)
    }

    /// Whether it has found, as the leader, that it cannot reach a node.
    pub fn cannot_reach(&self, node: &str) -> bool {
        self.report.iter().flat_map(|report| &report.unreached).any(|id| id == node)
    }

    /// The nodes that its calls avoid since they do not answer.
    pub fn avoided(&self) -> &[String] {
        let report = self.report.as_ref().filter(|_| self.silent.is_none());
        report.map_or(&[], |report| &report.avoided)
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &EndpointOverview> {
        self.report.iter().flat_map(|report| &report.endpoints)
    }

    /// How far it is with its copies for a store.
    pub fn copies_of(&self, store: &str) -> Option<&CopyReport> {
        of_store(&self.report.as_ref()?.copies, store, |copies| &copies.store)
    }

    /// How far it is with replicas of a store that an operator has it make again.
    pub fn remaking(&self, store: &str) -> Option<&Remaking> {
        self.copies_of(store).filter(|_| self.silent.is_none())?.remaking.as_ref()
    }

    /// Whether its program does not use a store, by its own word.
    pub fn is_without(&self, store: &str) -> bool {
        let stores = self.report.as_ref().and_then(|report| report.stores.as_ref());
        stores.is_some_and(|stores| of_store(stores, store, |it| it).is_none())
    }

    /// The rights that its token lacks.
    pub fn no_rights(&self) -> Option<&String> {
        self.report.as_ref()?.no_rights.as_ref()
    }

    /// The refusal of its token by Consul, which does not know it.
    pub fn unknown_token(&self) -> Option<&String> {
        self.report.as_ref()?.unknown_token.as_ref()
    }

    /// Why it is not in the history of leaders, if it is the leader.
    pub fn no_history(&self) -> Option<&String> {
        self.report.as_ref()?.no_history.as_ref()
    }

    /// The lack of its process within the last minute.
    pub fn lacking(&self) -> Option<&String> {
        self.report.as_ref()?.lacking.as_ref()
    }

    /// The files of its process that cannot be used since they have changed.
    pub fn unusable_files(&self) -> Option<&String> {
        self.report.as_ref()?.unusable_files.as_ref()
    }

    /// Its faults as a node of stores.
    pub fn faults(&self) -> impl Iterator<Item = &StoreFault> {
        self.report.iter().flat_map(|report| &report.faults)
    }

    /// Its fault as a node of a store.
    pub fn fault_of(&self, store: &str) -> Option<&StoreFault> {
        of_store(&self.report.as_ref()?.faults, store, |fault| &fault.store)
    }

    #[cfg(test)]
    pub fn of_fault(fault: StoreFault) -> Self {
        let report = Report { faults: vec![fault], ..Report::default() };
        Told { report: Some(report), ..Told::default() }
    }

    #[cfg(test)]
    pub fn of_map(map_epoch: u64) -> Self {
        Told {
            report: Some(Report { map_epoch: Some(map_epoch), ..Report::default() }),
            ..Told::default()
        }
    }

    #[cfg(test)]
    pub fn of_refusing(node: &str) -> Self {
        let refusing = vec![node.to_owned()];
        Told { report: Some(Report { refusing, ..Report::default() }), ..Told::default() }
    }

    #[cfg(test)]
    pub fn of_lease(token: u64, left_ms: u64) -> Self {
        let lease = Some(Some(LeaseReport { token, left_ms }));
        Told { report: Some(Report { lease, ..Report::default() }), ..Told::default() }
    }

    /// Of a node whose calls avoid another one, that it cannot reach as the leader and that refuses its key, with this for
    /// the rest.
    #[cfg(test)]
    pub fn of_words(other: &str, why: &str) -> Self {
        let (others, why) = (vec![other.to_owned()], Some(why.to_owned()));
        let report = Report {
            avoided: others.clone(),
            unreached: others.clone(),
            refusing: others,
            no_history: why.clone(),
            lacking: why.clone(),
            unusable_files: why.clone(),
            unknown_token: why.clone(),
            no_rights: why,
            ..Report::default()
        };
        Told { report: Some(report), ..Told::default() }
    }

    #[cfg(test)]
    pub fn told_at(mut self, at_ms: u64) -> Self {
        self.report.iter_mut().for_each(|report| report.at_ms = Some(at_ms));
        self
    }

    #[cfg(test)]
    pub fn of_stores(stores: &[&str]) -> Self {
        let stores = Some(stores.iter().map(|store| (*store).to_owned()).collect());
        let report = Report { stores, ..Report::default() }.bounded("");
        Told { report: Some(report), ..Told::default() }
    }

    #[cfg(test)]
    pub fn of_copies(copies: CopyReport) -> Self {
        let report = Report { copies: vec![copies], ..Report::default() };
        Told { report: Some(report), ..Told::default() }
    }

    fn question(&self) -> Question {
        let seq = self.events.back().map_or(0, |event| event.seq);
        Question { incarnation: self.events_of.clone(), seq }
    }

    /// Takes the answer of a node.
    fn learn(&mut self, (node, incarnation): (&str, &str), answer: Result<Report, Error>) {
        incarnation.clone_into(&mut self.incarnation);
        self.refuses_key =
            answer.as_ref().is_err_and(|error| error.kind() == Kind::PermissionDenied);
        self.answers = answer.as_ref().map_or_else(is_answered, |_| true);
        let is_other = |it: &str| !it.is_empty() && it != incarnation;
        self.is_other_start = answer.as_ref().is_ok_and(|it| is_other(&it.incarnation));
        self.doubt = answer.as_ref().err().filter(|it| is_of_anybody(it)).map(message);
        match answer {
            Ok(report) => {
                let mut report = report.bounded(node);
                self.events.extend(std::mem::take(&mut report.events));
                self.events_of.clone_from(&report.incarnation);
                self.ended = report.ended.take();
                let skipped = self.events.len().saturating_sub(MAX_KEPT);
                self.events.drain(..skipped);
                (self.report, self.silent) = (Some(report), None);
            }
            // A node of an earlier release.
            Err(error) if error.kind() == Kind::NotFound => self.silent = None,
            Err(error) => self.silent = Some(message(&error)),
        }
    }
}

fn message(error: &Error) -> String {
    cut_message(error.message().to_owned())
}

/// Whether somebody has sent this error: a reply has a status.
fn is_answered(error: &Error) -> bool {
    let is_reply = error.status().is_some();
    let is_nodes = matches!(error.kind(), Kind::NotFound | Kind::RateLimited | Kind::Timeout);
    is_reply && is_nodes || is_of_anybody(error)
}

/// Whether an error proves nothing of its sender: a node of another cluster, which has the address now, refuses this process
/// as a node with another key does.
fn is_of_anybody(error: &Error) -> bool {
    match error.kind() {
        Kind::PermissionDenied | Kind::Tls => true,
        Kind::Unsupported => error.status().is_some(),
        _ => false,
    }
}

/// The knowledge of a process about its cluster beside the snapshot.
#[derive(Default)]
pub(crate) struct Known {
    /// The reports of the nodes, this process's included if it is one.
    pub told: BTreeMap<String, Told>,
    /// The report of this process itself, if it is an observer, and its name.
    pub observer: Option<(String, Told)>,
    /// When this process began to look.
    pub begun: Option<Instant>,
    /// The maps of the replicated stores.
    pub maps: StoreMaps,
    /// Whether Consul's servers have answered that they have no Raft leader.
    pub has_no_raft_leader: bool,
    /// Whether Consul has not answered the last question, for long.
    pub is_unanswered: bool,
    /// The newest shard maps that this process or nodes have had.
    pub newest: NewestMaps,
    /// The shard map that was shown last, and its picture, which is the same until the map changes.
    pub picture: Option<(Arc<ShardMap>, Arc<MapOverview>)>,
}

impl Known {
    /// The report of this process itself, if it has made one.
    pub fn of_own(&self, options: &Options) -> Option<&Told> {
        match options.member_id() {
            Some(id) => self.told.get(id),
            None => self.observer.as_ref().map(|(_, told)| told),
        }
    }

    /// Each process that has told something, with its name.
    pub fn tellers(&self) -> impl Iterator<Item = (&str, &Told)> {
        let nodes = self.told.iter().map(|(id, told)| (id.as_str(), told));
        nodes.chain(self.observer.as_ref().map(|(id, told)| (id.as_str(), told)))
    }

    /// The report of this process itself.
    fn own<'a>(&'a mut self, options: &'a Options, snapshot: &Snapshot) -> (&'a str, &'a mut Told) {
        let id = &options.node_id;
        if !options.observer {
            return (id, self.told.entry(id.clone()).or_default());
        }
        let (name, told) = self.observer.get_or_insert_default();
        // It may have the name of a member.
        *name = match snapshot.nodes.contains_key(id) {
            true => format!("{id} (observer)"),
            false => id.clone(),
        };
        (name, told)
    }
}

struct State {
    known: Known,
    asked: Option<Instant>,
}

/// Makes the overviews of a cluster in a process, and answers the questions of others.
pub struct Overviews {
    cluster: Arc<Cluster>,
    /// How long Consul is waited for, and within limits the nodes.
    patience: Duration,
    plane: Option<Arc<DataPlane>>,
    stores: Mutex<Vec<Weak<Store>>>,
    state: tokio::sync::Mutex<State>,
    /// The last overview, and when it was made.
    made: Mutex<Option<(Instant, Arc<Overview>)>>,
    rights: tokio::sync::Mutex<Rights>,
    /// The rights that the token of this process lacks.
    lacking: Mutex<Option<String>>,
    /// The refusal of the token by Consul, which does not know it.
    unknown_token: Mutex<Option<String>>,
    _shown: Registered,
}

/// The agent of the node, if it is known, and the rights that the token of this process lacks.
type Lacking = Result<(Option<String>, Vec<Right>), Error>;

/// The question about the rights of the token of this process.
#[derive(Default)]
struct Rights {
    asked: Option<Instant>,
    /// The agent of the node, once it is known.
    agent: Option<String>,
    /// A question that Consul has not answered yet.
    asking: Option<BoxFuture<'static, Lacking>>,
}

impl fmt::Debug for Overviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overviews")
            .field("node", &self.cluster.options().node_id)
            .finish_non_exhaustive()
    }
}

impl Overviews {
    /// Overviews of the cluster of this node or observer, which answers the other processes from now on.
    /// Without a data plane the nodes are not asked.
    pub fn new(cluster: Arc<Cluster>, plane: Option<Arc<DataPlane>>) -> Arc<Self> {
        Overviews::patient(cluster, plane, PATIENCE)
    }

    /// As [`Overviews::new`], for a process that rather waits this long than knows less.
    pub fn patient(
        cluster: Arc<Cluster>,
        plane: Option<Arc<DataPlane>>,
        patience: Duration,
    ) -> Arc<Self> {
        let (stores, made, rights, lacking, unknown_token) = Default::default();
        let known = Known { begun: Some(cluster.now()), ..Known::default() };
        let state = tokio::sync::Mutex::new(State { known, asked: None });
        let overviews = Arc::new_cyclic(|this: &Weak<Overviews>| {
            let _shown = metrics::register(this.clone());
            Overviews {
                cluster,
                patience,
                plane,
                stores,
                state,
                made,
                rights,
                lacking,
                unknown_token,
                _shown,
            }
        });
        let members_plane = overviews.plane.as_ref().filter(|plane| !plane.options().observer);
        if let Some(plane) = members_plane {
            plane.set_service(SERVICE, Some(served(Arc::downgrade(&overviews))));
        }
        overviews
    }

    /// The node or observer.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Reports the copies of a store, too.
    pub fn add_store(&self, store: &Arc<Store>) {
        let mut stores = lock(&self.stores);
        stores.retain(|store| store.strong_count() > 0);
        stores.push(Arc::downgrade(store));
    }

    fn stores(&self) -> Vec<Arc<Store>> {
        lock(&self.stores).iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether each of its stores does what it has to, with all replicas that its map gives to the node.
    ///
    /// # Errors
    /// The first reason why one does not.
    pub fn stores_serve(&self) -> Result<(), String> {
        self.stores().iter().try_for_each(|store| store.serves())
    }

    /// Whether there is something that it cannot do for a store.
    pub fn has_faults(&self) -> bool {
        self.stores().iter().any(|store| store.fault().is_some())
    }

    /// Whether the process serves requests of its cluster.
    ///
    /// # Errors
    /// The reason why it does not.
    pub fn ready(&self) -> Result<(), String> {
        let Cluster { options, .. } = &*self.cluster;
        if !self.cluster.has_looked() {
            return Err(format!("{} has not joined yet", options.node_id));
        }
        let of_stores = || self.stores_serve().map_err(|why| format!("{}: {why}", options.node_id));
        if options.observer {
            return of_stores();
        }
        let snapshot = self.cluster.snapshot();
        let why = match snapshot.nodes.get(&options.node_id) {
            None => "it has no key in Consul",
            Some(node) if !self.cluster.is_me(&node.record) => "another process has its name",
            Some(node) if !self.cluster.may_live(node) => "its check does not pass",
            Some(node) if node.record.mode == Mode::Maintenance => "it is in maintenance",
            Some(_) if self.plane.as_ref().is_some_and(|plane| !plane.is_ready()) => {
                "its program does not poll for requests"
            }
            Some(_) => return of_stores(),
        };
        Err(format!("{}: {why}", options.node_id))
    }

    /// The state of the cluster as this process knows it now. The nodes and Consul are asked at most once
    /// a second, and for half a second; what they do not tell is what they told before. Requires a tokio
    /// runtime.
    pub async fn overview(&self) -> Arc<Overview> {
        let mut state = self.state.lock().await;
        if let Some(made) = self.made_within(FRESH) {
            return made;
        }
        let now = self.cluster.now();
        if state.asked.is_none_or(|at| now - at >= ASK_PAUSE) {
            state.asked = Some(now);
            self.ask(&mut state.known).await;
        }
        let made = Arc::new(Overview::new(&self.cluster, &mut state.known));
        *lock(&self.made) = Some((self.cluster.now(), Arc::clone(&made)));
        made
    }

    /// The last overview, if it is not older.
    fn made_within(&self, limit: Duration) -> Option<Arc<Overview>> {
        let (made, now) = (lock(&self.made), self.cluster.now());
        made.as_ref().filter(|(at, _)| now - *at < limit).map(|(_, made)| Arc::clone(made))
    }

    /// Asks the nodes and Consul, all at the same time.
    async fn ask(&self, known: &mut Known) {
        let snapshot = self.cluster.snapshot();
        let options = self.cluster.options();
        let is_own = |id: &str| Some(id) == options.member_id();
        known.told.retain(|id, _| is_own(id) || snapshot.nodes.contains_key(id));
        for told in known.told.values_mut() {
            (told.silent, told.refuses_key, told.answers) = (None, false, false);
            (told.doubt, told.ended, told.is_other_start) = (None, None, false);
        }
        // A node that is down may live without its way to Consul.
        let others = snapshot.nodes.values();
        let others =
            others.filter(|it| !is_own(&it.record.id) && !it.record.data_address.is_empty());
        let patience = self.patience.clamp(PATIENCE, DISTANT_PATIENCE);
        let answers = others.filter_map(|Node { record, is_live, .. }| {
            let plane = self.plane.as_ref()?;
            let question = known.told.entry(record.id.clone()).or_default().question();
            Some(async move {
                let answer = ask_node(plane, (&record.id, *is_live), &question, patience).await;
                (record, answer, self.cluster.unix_ms())
            })
        });
        let answers = join_all(answers.collect::<Vec<_>>());
        let own_question = known.own(options, &snapshot).1.question();
        let maps = timeout(self.patience, StoreMaps::read(&self.cluster));
        let has_no_leader = timeout(patience, has_no_raft_leader(self.cluster.client()));
        let (answers, maps, has_no_leader, own_report) =
            futures_util::join!(answers, maps, has_no_leader, self.report(&own_question));
        known.has_no_raft_leader = has_no_leader.unwrap_or_default();
        for (record, answer, answered_ms) in answers {
            let told = known.told.entry(record.id.clone()).or_default();
            let at_ms = answer.as_ref().ok().and_then(|report| report.at_ms);
            let ahead = |at: u64| i128::from(at) - i128::from(answered_ms);
            told.clock_ahead_ms = at_ms.and_then(|at| i64::try_from(ahead(at)).ok());
            told.learn((&record.id, &record.incarnation), answer);
        }
        let incarnation = own_report.incarnation.clone();
        let (name, own) = known.own(options, &snapshot);
        own.learn((name, &incarnation), Ok(own_report));
        let is_unanswered = match maps {
            Ok(Ok(maps)) => {
                known.maps = maps;
                false
            }
            Ok(Err(error)) => {
                known.maps.missed(error.message());
                [Kind::Timeout, Kind::Connect].contains(&error.kind())
            }
            Err(_) => {
                let limit = self.patience.as_millis();
                known.maps.missed(&format!("Consul has not answered within {limit} ms"));
                true
            }
        };
        // A busy Consul may take longer than half a second.
        known.is_unanswered = is_unanswered && self.patience > PATIENCE;
        for (id, told) in &mut known.told {
            if !is_own(id) && !snapshot.nodes.get(id).is_some_and(|node| node.is_live) {
                // A node that is cut off from Consul says of the cluster what was so before; of itself it says what is so.
                let is_told = told.answers && told.silent.is_none();
                let report = told.report.take().filter(|_| is_told);
                told.report = report.map(Report::of_itself);
            }
        }
    }

    /// The rights that the token of this process lacks. It may not need them for long: who has lost them goes on as before,
    /// and a query that waits is not refused.
    async fn no_rights(&self) -> Option<String> {
        // Of several reports at once one waits for Consul. Who asks does not wait for them one after another.
        if let Ok(mut rights) = self.rights.try_lock() {
            self.ask_rights(&mut rights).await;
        }
        lock(&self.lacking).clone()
    }

    async fn ask_rights(&self, rights: &mut Rights) {
        let (now, is_lacking) = (self.cluster.now(), lock(&self.lacking).is_some());
        let pause = if is_lacking { ASK_PAUSE } else { RIGHTS_PAUSE };
        let mut asking = match rights.asking.take() {
            Some(asking) => asking,
            None if rights.asked.is_some_and(|at| now - at < pause) => return,
            None => {
                rights.asked = Some(now);
                lacking(Arc::clone(&self.cluster), rights.agent.clone()).boxed()
            }
        };
        match timeout(OWN_PATIENCE, &mut asking).await {
            Ok(Ok((agent, lacking))) => {
                rights.agent = agent;
                *lock(&self.unknown_token) = None;
                *lock(&self.lacking) = (!lacking.is_empty()).then(|| rights::listed(&lacking));
            }
            Ok(Err(error)) if error.kind() == Kind::AclNotFound => {
                *lock(&self.unknown_token) = Some(message(&error));
            }
            Ok(Err(_)) => {}
            // A slow Consul answers for the next report.
            Err(_) => rights.asking = Some(asking),
        }
    }

    /// The answer of this process.
    async fn report(&self, question: &Question) -> Report {
        let cluster = &self.cluster;
        let is_same = question.incarnation == cluster.incarnation;
        let health = cluster.client().endpoint_health().into_iter();
        let own = cluster.options().node_id.as_str();
        let stores = self.stores();
        let copies = join_all(stores.iter().map(|store| store.copy_report()));
        // At the same time: who asks does not wait for both.
        let copies = timeout(OWN_PATIENCE, copies);
        let (no_rights, copies) = futures_util::join!(self.no_rights(), copies);
        let expires_s = self.plane.as_ref().and_then(|plane| plane.certificate_expires_s());
        Report {
            incarnation: cluster.incarnation.clone(),
            at_ms: Some(cluster.unix_ms()),
            map_epoch: Some(cluster.epoch()),
            lease: Some(cluster.lease().map(|lease| LeaseReport {
                token: lease.token(),
                left_ms: lease.remaining().as_millis() as u64,
            })),
            led_session: lock(&cluster.led_session).clone(),
            refusing: if cluster.lease().is_some() { cluster.refusing() } else { Vec::new() },
            unreached: if cluster.lease().is_some() { cluster.unreached() } else { Vec::new() },
            avoided: self.plane.as_ref().map(|plane| plane.avoided()).unwrap_or_default(),
            certificate_expires_ms: expires_s.map(|seconds| seconds * 1000),
            consul_expiry: cluster.client().expiry().map(|it| ConsulExpiry {
                option: it.option.to_owned(),
                at_ms: it.at_s.saturating_mul(1000),
            }),
            endpoints: health.map(|health| EndpointOverview::new(own, health)).collect(),
            events: cluster.events_after(if is_same { question.seq } else { 0 }),
            faults: stores.iter().filter_map(|store| store.fault()).collect(),
            lacking: os::lacking().map(str::to_owned),
            unusable_files: files::unusable(),
            no_rights,
            unknown_token: lock(&self.unknown_token).clone(),
            no_history: lock(&cluster.history_refused)
                .clone()
                .filter(|_| cluster.lease().is_some()),
            ended: cluster.ended(),
            copies: copies.unwrap_or_default(),
            stores: Some(stores.iter().map(|store| store.options().name.clone()).collect()),
        }
    }
}

/// The problems that the last overview has found.
impl Source for Overviews {
    fn write(&self, page: &mut Page) {
        let Some(overview) = self.made_within(COUNTED) else { return };
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for problem in &overview.problems {
            *counts.entry(problem.problem).or_default() += 1;
        }
        let options = self.cluster.options();
        for (problem, count) in counts {
            let labels = [&options.nodes_prefix, &options.node_id, problem];
            page.at_least(&table::CLUSTER_PROBLEMS, &labels, f64::from(count));
        }
    }
}

async fn lacking(cluster: Arc<Cluster>, mut agent: Option<String>) -> Lacking {
    let (client, options) = (cluster.client(), cluster.options());
    if options.observer {
        let mut needed = rights::to_look(options);
        // A policy may name the agents of the nodes alone.
        let is_hidden = cluster.snapshot().is_hidden();
        needed.retain(|right| right.resource != "node" || is_hidden);
        return Ok((None, rights::lacking(client, needed).await?));
    }
    if agent.is_none() {
        agent = rights::agent_of(client, options).await;
    }
    let mut needed = rights::to_take_part(options);
    let of_agent = |agent: &String| [Right::read("node", agent), Right::write("session", agent)];
    needed.extend(agent.iter().flat_map(of_agent));
    let lacking = rights::lacking(client, needed).await?;
    Ok((agent, lacking))
}

/// Answers the questions of other processes.
fn served(overviews: Weak<Overviews>) -> Service {
    Arc::new(move |body| {
        let overviews = overviews.upgrade();
        Box::pin(async move {
            let Some(overviews) = overviews else {
                return Err(Error::new(Kind::Closed, "the node was stopped"));
            };
            let question = serde_json::from_slice(&body.bytes).map_err(|error| {
                Error::new(Kind::Decode, format!("not a question for a report: {error}"))
            })?;
            let report = overviews.report(&question).await;
            // Numbers and strings can always be encoded.
            Ok(Body::json(serde_json::to_vec(&report).unwrap_or_default()))
        })
    })
}

async fn ask_node(
    plane: &DataPlane,
    (id, is_live): (&str, bool),
    question: &Question,
    patience: Duration,
) -> Result<Report, Error> {
    let options = CallOptions {
        timeout: patience,
        retries: 0,
        of_service: true,
        is_down: !is_live,
        ..CallOptions::default()
    };
    let question = Body::json(serde_json::to_vec(question).unwrap_or_default());
    let reply = plane.call(id, SERVICE, &question, &options).await?;
    read_report(&reply.bytes)
        .map_err(|error| Error::new(Kind::Decode, format!("node {id:?}: not a report: {error}")))
}

/// Reads a member that may be null, and is there.
fn told<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// Reads a report. A member that another release writes otherwise is left out: the others are true all the same.
fn read_report(bytes: &[u8]) -> Result<Report, serde_json::Error> {
    serde_json::from_slice(bytes).or_else(|_| {
        let mut members: serde_json::Map<_, _> = serde_json::from_slice(bytes)?;
        members.retain(|name, value| {
            let alone = serde_json::json!({ name: value }).to_string();
            serde_json::from_slice::<Report>(alone.as_bytes()).is_ok()
        });
        // Which of them are new is not known.
        if !members.contains_key("incarnation") {
            members.remove("events");
        }
        serde_json::from_slice(serde_json::Value::Object(members).to_string().as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::overview::EndpointState;
    use bytes::Bytes;
    use consul_api::request::Defaults;
    use consul_client::transport::Transport;
    use consul_client::{Client, Settings};
    use consul_process::clock::{BoxFuture as ClockFuture, SystemClock};
    use http::{Request, Response};

    fn events(seqs: std::ops::RangeInclusive<u64>) -> Vec<PastEvent> {
        let event = |seq| PastEvent {
            seq,
            at_ms: seq,
            event: "node_joined".to_owned(),
            detail: String::new(),
        };
        seqs.map(event).collect()
    }

    fn report(incarnation: &str, events: Vec<PastEvent>) -> Result<Report, Error> {
        Ok(Report { incarnation: incarnation.to_owned(), events, ..Report::default() })
    }

    /// A Consul that answers nothing.
    #[derive(Debug)]
    struct Silent;

    impl Transport for Silent {
        fn send(&self, _: Request<Bytes>) -> ClockFuture<'_, Result<Response<Bytes>, Error>> {
            Box::pin(std::future::pending())
        }

        fn endpoint(&self) -> &str {
            "silent"
        }
    }

    #[test]
    fn of_many_reports_at_once_one_waits_for_consul() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let _within = runtime.enter();
        let settings = Settings {
            timeout: Duration::from_secs(5),
            retry_count: 0,
            defaults: Defaults::default(),
        };
        let clock = Arc::new(SystemClock::new());
        let rng = fastrand::Rng::with_seed(1);
        let client = Arc::new(Client::new(vec![Arc::new(Silent)], settings, clock, rng));
        let options = Options::new("n1", "127.0.0.1:1");
        let cluster = Cluster::new(Arc::clone(&client), client, options).expect("options");
        let overviews = Overviews::new(cluster, None);
        let question = Question { incarnation: String::new(), seq: 0 };
        let mut first = Box::pin(overviews.report(&question));
        assert!((&mut first).now_or_never().is_none());
        for _ in 0..100 {
            overviews.report(&question).now_or_never().expect("it waits for nobody");
        }
        assert!(runtime.block_on(first).no_rights.is_none());
    }

    #[test]
    fn the_next_question_is_about_the_start_that_answered() {
        let mut told = Told::default();
        let asked = |told: &Told| {
            let Question { incarnation, seq } = told.question();
            (incarnation, seq)
        };
        assert_eq!(asked(&told), (String::new(), 0));
        told.learn(("n1", "first"), report("first", events(1..=7)));
        assert_eq!(asked(&told), ("first".to_owned(), 7));
        assert!(!told.is_other_start);
        // It was another start by the time it answered.
        told.learn(("n1", "first"), report("second", events(1..=2)));
        assert!(told.is_other_start);
        assert_eq!(asked(&told), ("second".to_owned(), 2));
    }

    #[test]
    fn the_last_events_alone_are_kept() {
        let mut told = Told::default();
        let most = MAX_KEPT as u64;
        told.learn(("n1", "first"), report("first", events(1..=most)));
        told.learn(("n1", "first"), report("first", events(most + 1..=most + 3)));
        let kept: Vec<u64> = told.events.iter().map(|event| event.seq).collect();
        assert_eq!(kept, (4..=most + 3).collect::<Vec<_>>());
    }

    /// It is done for each replica of each store.
    #[test]
    fn a_report_about_many_stores_is_looked_up_in_few_steps() {
        let name = |i: usize| format!("s{i:04}");
        // In the order of the program that has opened them.
        let names = || (0..1000).rev().map(name);
        let report = Report {
            copies: names().map(|store| CopyReport { store, ..CopyReport::default() }).collect(),
            stores: Some(names().collect()),
            faults: names().map(|store| StoreFault { store, ..StoreFault::default() }).collect(),
            ..Report::default()
        };
        let mut told = Told::default();
        told.learn(("n1", "first"), Ok(report));
        for (store, is_there) in names().map(|it| (it, true)).chain([("t".to_owned(), false)]) {
            assert_eq!(told.copies_of(&store).map(|it| &it.store), is_there.then_some(&store));
            assert_eq!(told.fault_of(&store).map(|it| &it.store), is_there.then_some(&store));
            assert_eq!(told.is_without(&store), !is_there);
        }
        let sorted: Vec<String> = (0..1000).map(name).collect();
        let mut steps = 0;
        let each = |steps: &mut usize, store: &str| {
            let count = std::cell::Cell::new(0);
            let found = of_store(&sorted, store, |it| {
                count.set(count.get() + 1);
                it
            });
            *steps = count.get().max(*steps);
            found.is_some()
        };
        assert!(names().all(|it| each(&mut steps, &it)) && !each(&mut steps, "t"));
        assert!(steps <= 12, "{steps} of 1000");
    }

    /// A rolling upgrade must not call the nodes silent that it has reached.
    #[test]
    fn what_another_release_tells_otherwise_is_left_out_of_its_report_alone() {
        let endpoint = EndpointOverview {
            told_by: "n1".to_owned(),
            address: "a".to_owned(),
            state: EndpointState::Ok,
            latency_ms: Some(1.5),
        };
        let (functions, why) = (vec!["keep".to_owned()], "full".to_owned());
        let full = Report {
            incarnation: "first".to_owned(),
            at_ms: Some(1),
            map_epoch: Some(2),
            lease: Some(Some(LeaseReport { token: 3, left_ms: 4 })),
            led_session: Some("s".to_owned()),
            refusing: vec!["n2".to_owned()],
            unreached: vec!["n3".to_owned()],
            avoided: vec!["n4".to_owned()],
            certificate_expires_ms: Some(5),
            consul_expiry: Some(ConsulExpiry { option: "f".to_owned(), at_ms: 6 }),
            endpoints: vec![endpoint],
            copies: Vec::new(),
            stores: Some(vec!["points".to_owned()]),
            faults: vec![StoreFault { functions, why, ..StoreFault::default() }],
            lacking: Some("a".to_owned()),
            unusable_files: Some("e".to_owned()),
            no_rights: Some("b".to_owned()),
            unknown_token: Some("g".to_owned()),
            no_history: Some("c".to_owned()),
            ended: Some("d".to_owned()),
            events: events(1..=2),
        };
        let whole = serde_json::to_value(&full).expect("an object");
        let read = |value: &serde_json::Value| {
            let report = read_report(value.to_string().as_bytes()).expect("a report");
            serde_json::to_value(report).expect("an object")
        };
        let nothing = read(&serde_json::json!({}));
        assert_eq!(read(&whole), whole);
        let others = ["text", "{}", "[[]]", "-1", "1.5", "[{\"state\": \"other\"}]", "true"];
        let others: [serde_json::Value; 7] =
            others.map(|it| serde_json::from_str(it).unwrap_or_else(|_| it.into()));
        for name in whole.as_object().expect("an object").keys() {
            for other in others.iter().filter(|it| it.is_string() != whole[name].is_string()) {
                let mut expected = whole.clone();
                expected[name] = nothing[name].clone();
                if name == "incarnation" {
                    expected["events"] = nothing["events"].clone();
                }
                let mut told = whole.clone();
                told[name] = other.clone();
                told["later"] = other.clone();
                assert_eq!(read(&told), expected, "{name}: {other}");
            }
        }
        assert!(read_report(b"1").is_err());
        let told = |text: &str| {
            let mut told = Told::default();
            told.learn(("n1", "first"), Ok(read_report(text.as_bytes()).expect("a report")));
            (told.leads(3, 0), told.map_epoch())
        };
        assert_eq!(told(r#"{"at_ms":9000,"lease":null,"map_epoch":0}"#), (Some(false), Some(0)));
        for other in [r#"{"at_ms":9000,"lease":"x","map_epoch":"2"}"#, r#"{"at_ms":9000}"#] {
            assert_eq!(told(other), (None, None), "{other}: nothing is said of it");
        }
    }

    /// A node of an earlier release, which has no report, lives too, and so does a busy one. A process that refuses us may be
    /// another one.
    #[test]
    fn a_reply_is_an_answer_and_a_refusal_is_one_of_somebody() {
        for kind in Kind::ALL.iter().copied() {
            for is_reply in [false, true] {
                let (is_answer, is_doubted) = match kind {
                    Kind::PermissionDenied | Kind::Tls => (true, true),
                    Kind::Unsupported => (is_reply, is_reply),
                    Kind::NotFound | Kind::RateLimited | Kind::Timeout => (is_reply, false),
                    _ => (false, false),
                };
                let error = Error::new(kind, "why");
                let error = if is_reply { error.with_status(400) } else { error };
                let mut told = Told::default();
                told.learn(("n1", "first"), Err(error));
                assert_eq!(told.answers, is_answer, "{kind:?} {is_reply}");
                let doubt = is_doubted.then_some("why");
                assert_eq!(told.doubt.as_deref(), doubt, "{kind:?} {is_reply}");
                assert_eq!(told.silent.is_none(), kind == Kind::NotFound, "{kind:?}");
                assert_eq!(told.refuses_key, kind == Kind::PermissionDenied, "{kind:?}");
                told.learn(("n1", "first"), report("first", Vec::new()));
                assert!(told.answers && told.doubt.is_none(), "{kind:?}");
            }
        }
    }

    /// It says nothing of now.
    #[test]
    fn a_silent_node_avoids_nobody_and_makes_nothing_again() {
        let remaking = Some(Remaking::default());
        let copies = CopyReport { store: "a".to_owned(), remaking, ..CopyReport::default() };
        let avoided = vec!["n2".to_owned()];
        let report = Report { avoided, copies: vec![copies], ..Report::default() };
        let mut told = Told { report: Some(report), ..Told::default() };
        assert!(!told.avoided().is_empty() && told.remaking("a").is_some());
        told.silent = Some("no answer".to_owned());
        assert!(told.avoided().is_empty() && told.remaking("a").is_none());
    }

    #[test]
    fn a_node_that_answers_again_is_not_silent() {
        let mut told = Told::default();
        told.learn(("n1", "first"), Err(Error::new(Kind::Timeout, "no answer")));
        assert_eq!(told.silent.as_deref(), Some("no answer"));
        told.learn(("n1", "first"), report("first", Vec::new()));
        assert_eq!(told.silent, None);
    }
}
