//! This process's node in a cluster: its state, and what everything in the process may ask of it.

use crate::event::{Event, Events, PastEvent};
use crate::leader::refused::Refused;
use crate::nodes::kept_mode::Lost;
use crate::nodes::node::{Mode, Node, Record};
use crate::nodes::registered::{self, Reported};
use crate::nodes::request::Reinit;
use crate::options::Options;
use crate::pauses::MAP_HOLD_OFF;
use crate::snapshot::Snapshot;
use consul_api::error::{Error, Kind};
use consul_client::Client;
#[cfg(feature = "sabotage")]
use consul_client::coordination::Rules;
use consul_client::coordination::{Lease, Presence};
use consul_client::watch::State;
use consul_process::clock::Instant;
use consul_process::metrics::{self, ClusterNumbers};
use consul_process::sync::lock;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// The least step of a map's version, and half of the largest, when Consul has or may have lost maps: more
/// than the number of maps that can have been lost.
const VERSION_GAP: u64 = 1000;

/// How long after its time limit a call of several requests ends.
const AFTER_LIMIT: Duration = Duration::from_millis(20);

/// This process's node in a cluster.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) this: Weak<Cluster>,
    pub(crate) options: Options,
    pub(crate) client: Arc<Client>,
    pub(crate) waiting: Arc<Client>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) incarnation: String,
    /// The intended content of this node's key.
    pub(crate) record: Mutex<Record>,
    pub(crate) snapshot: watch::Sender<Arc<Snapshot>>,
    /// The nodes' keys and services in the last answers of Consul.
    pub(crate) reported: Mutex<Reported>,
    /// Until this time, nodes that Consul has lost stay as they were.
    pub(crate) kept_until: watch::Sender<Instant>,
    /// The modify index at which this node has read its own key last; 0 after a write.
    pub(crate) own_key_seen: AtomicU64,
    /// Signals that Consul's list of keys lacks this node's record.
    pub(crate) own_key_lost: Notify,
    /// Signals that Consul's list of instances lacks this node's own.
    pub(crate) own_instance_lost: Notify,
    /// Whether the node's key shows another start, and it is not known yet whether that one lives.
    pub(crate) is_name_doubted: AtomicBool,
    pub(crate) lease: Mutex<Option<Arc<Lease>>>,
    /// The leader's document that an attempt of this node to become it writes, until the attempt has ended.
    pub(crate) candidacy: watch::Sender<Option<Vec<u8>>>,
    /// When the leader's key was last seen to be deleted while a node led.
    pub(crate) leader_key_gone: Mutex<Option<Instant>>,
    /// The highest pair of a map's epoch and a leader's fencing token that this node has seen.
    pub(crate) newest_leadership: Mutex<(u64, u64)>,
    /// The leader does not change the map before this time.
    pub(crate) hold_off_until: Mutex<Instant>,
    /// Changes with each requested hand-over of the leadership, to the successor if one is named.
    pub(crate) hand_overs: watch::Sender<Option<String>>,
    /// The mode from which this node leaves, which its next start takes.
    pub(crate) left_from: Mutex<Option<Mode>>,
    /// The modes of stopped nodes that Consul has lost.
    pub(crate) lost_modes: watch::Sender<Lost>,
    /// Whether an operator has asked this node to leave.
    pub(crate) leaves: watch::Sender<bool>,
    /// The replicas that an operator has this node make again, by store.
    pub(crate) reinits: watch::Sender<BTreeMap<String, Reinit>>,
    /// Why this leader is not in the history of leaders.
    pub(crate) history_refused: Mutex<Option<String>>,
    /// The session of the last leadership of this node.
    pub(crate) led_session: Mutex<Option<String>>,
    /// The nodes that refuse this leader's `cluster_key`, or whose key it refuses.
    pub(crate) refusing: Mutex<Vec<String>>,
    /// The live nodes that this leader cannot reach.
    pub(crate) unreached: Mutex<Vec<String>>,
    /// The nodes whose storage of a store fails, as they have told this leader.
    pub(crate) failing: Mutex<BTreeMap<String, BTreeSet<String>>>,
    /// The keys that it may not write as the leader.
    pub(crate) refused: Mutex<Refused>,
    /// The stores that the process has opened. Their type, of a module above this one, is in `stores::leave`.
    pub(crate) stores: Mutex<Vec<Weak<dyn Any + Send + Sync>>>,
    /// Whether the process has once seen the state of the cluster.
    pub(crate) has_looked: AtomicBool,
    /// The last refusal.
    pub(crate) refusal: watch::Sender<Option<Error>>,
    /// Since when this node has a shard map.
    pub(crate) mapped_since: Mutex<Option<Instant>>,
    /// Why this node cannot take part in the cluster that it has found.
    pub(crate) misfit: watch::Sender<Option<Error>>,
    pub(crate) events: Events,
    /// The numbers of the cluster in this process.
    pub(crate) numbers: &'static ClusterNumbers,
}

impl Cluster {
    /// A node that takes part as long as [`Cluster::run`] runs, or an observer. Blocking queries go through `waiting`,
    /// which has its own connections.
    ///
    /// # Errors
    /// [`Kind::Config`] if the options contradict each other.
    pub fn new(
        client: Arc<Client>,
        waiting: Arc<Client>,
        options: Options,
    ) -> Result<Arc<Self>, Error> {
        options.check()?;
        if !options.observer {
            // A node that starts or waits to lead does so in time although an answer is lost without a sign.
            for it in [&client, &waiting] {
                it.repeat_after(options.profile.patience());
            }
        }
        let incarnation = format!("{:016x}", client.random_u64());
        let record = Record::new(&options, &incarnation, client.clock().now());
        let service = registered::service(&options, &record);
        let numbers = metrics::numbers().cluster(&options.nodes_prefix);
        let presence = Presence::new(
            Arc::clone(&client),
            Arc::clone(&waiting),
            options.profile.clone(),
            service,
        );
        Ok(Arc::new_cyclic(|this| Cluster {
            this: this.clone(),
            options,
            client,
            waiting,
            presence,
            incarnation,
            record: Mutex::new(record),
            snapshot: watch::Sender::default(),
            reported: Mutex::default(),
            kept_until: watch::Sender::default(),
            own_key_seen: AtomicU64::new(0),
            own_key_lost: Notify::new(),
            own_instance_lost: Notify::new(),
            is_name_doubted: AtomicBool::default(),
            lease: Mutex::default(),
            candidacy: watch::Sender::default(),
            leader_key_gone: Mutex::default(),
            newest_leadership: Mutex::default(),
            hold_off_until: Mutex::default(),
            hand_overs: watch::Sender::default(),
            left_from: Mutex::default(),
            lost_modes: watch::Sender::default(),
            leaves: watch::Sender::default(),
            reinits: watch::Sender::default(),
            history_refused: Mutex::default(),
            led_session: Mutex::default(),
            refusing: Mutex::default(),
            unreached: Mutex::default(),
            failing: Mutex::default(),
            refused: Mutex::default(),
            stores: Mutex::default(),
            has_looked: AtomicBool::default(),
            refusal: watch::Sender::default(),
            mapped_since: Mutex::default(),
            misfit: watch::Sender::default(),
            events: Events::default(),
            numbers,
        }))
    }

    /// The same node without a safety rule, for tests which show that it is needed.
    #[cfg(feature = "sabotage")]
    pub fn with_rules(self: Arc<Self>, rules: Rules) -> Arc<Self> {
        let mut cluster = Arc::into_inner(self).expect("a node that does not run");
        cluster.presence = cluster.presence.with_rules(rules);
        Arc::new_cyclic(|this| Cluster { this: this.clone(), ..cluster })
    }

    /// The options given to [`Cluster::new`].
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The current state of the cluster as this node knows it. Makes no request.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Whether this node is the leader and its lease is valid. Makes no request.
    pub fn is_leader(&self) -> bool {
        lock(&self.lease).as_ref().is_some_and(|lease| lease.is_held())
    }

    /// The lease of the leadership while this node is the leader: it has the fencing token, and makes
    /// writes that Consul accepts only from the leader.
    pub fn lease(&self) -> Option<Arc<Lease>> {
        lock(&self.lease).clone()
    }

    /// Publishes the address of the data plane in this node's key.
    pub(crate) fn advertise(&self, data_address: String) {
        lock(&self.record).data_address = data_address;
    }

    /// Sets this node's check to warning with this text, or back to passing.
    pub(crate) fn set_warning(&self, why: Option<String>) {
        self.presence.set_warning(why);
    }

    /// The mode of this node, from its key.
    pub fn mode(&self) -> Mode {
        lock(&self.record).mode
    }

    /// `joining`, `follower`, `candidate`, `leader`, `suspended`, `draining`, `maintenance` or `observer`.
    pub fn state(&self) -> &'static str {
        if self.options.observer {
            return "observer";
        }
        let snapshot = self.snapshot();
        let is_member = snapshot.nodes.get(&self.options.node_id);
        match (self.lease(), is_member) {
            (Some(lease), _) if lease.is_held() => "leader",
            (Some(_), _) => "suspended",
            (None, None) => "joining",
            (None, Some(_)) if self.mode() != Mode::Active => self.mode().name(),
            (None, Some(_)) if snapshot.leader.is_none() => "candidate",
            (None, Some(_)) => "follower",
        }
    }

    /// Waits for the next event.
    pub async fn next_event(&self) -> Event {
        self.events.next().await
    }

    /// The next event, if there is one already.
    pub fn poll_event(&self) -> Option<Event> {
        self.events.poll()
    }

    /// Emits an event. A change that a process finds at its first look did not happen then, so operators do not get it
    /// as an event.
    pub(crate) fn emit(&self, event: Event) {
        let own = self.options.member_id();
        let is_own = match &event {
            Event::NodeJoined(id) | Event::LeaderChanged(Some(id)) => Some(id.as_str()) == own,
            Event::Suspended | Event::Resumed | Event::DiskInDoubt(_) | Event::Stopped(_) => true,
            _ => false,
        };
        let is_new = is_own || self.has_looked();
        self.events.emit(event, is_new.then(|| self.unix_ms()));
    }

    pub(crate) fn has_looked(&self) -> bool {
        self.has_looked.load(Ordering::Relaxed)
    }

    /// Notes whether the process has seen the cluster's state: a member when it is live, an observer when
    /// it can route.
    pub(crate) fn note_first_look(&self) {
        if self.is_ready(&self.snapshot()) {
            self.has_looked.store(true, Ordering::Relaxed);
        }
    }

    /// The last events with higher numbers than this one, whether or not the program has taken them; up to
    /// 256, the newest at the end.
    pub fn events_after(&self, seq: u64) -> Vec<PastEvent> {
        self.events.after(seq)
    }

    /// Why [`Cluster::run`] has ended.
    pub(crate) fn ended(&self) -> Option<String> {
        let last = self.events_after(0).pop();
        last.filter(|it| it.event == "stopped").map(|it| it.detail)
    }

    /// Completes when this node is a live member and the cluster has a leader. An observer needs a live
    /// node, a leader and a shard map.
    ///
    /// # Errors
    /// A refusal, such as a missing permission or the name of a key that the server does not take: of a read that the
    /// node or one of its stores needs, of its registration, or of its attempt to become the leader of a cluster that
    /// has none.
    pub async fn started(&self) -> Result<(), Error> {
        let mut changes = self.changes();
        let is_ready = |snapshot: &Arc<Snapshot>| self.is_ready(snapshot);
        let mut refusals = self.refusal.subscribe();
        let registration_fails = async {
            match self.presence.registered().await {
                Ok(_) => std::future::pending().await,
                Err(error) => error.context("its service is not registered"),
            }
        };
        // The senders live as long as `self`.
        let ready = async {
            let _ = changes.wait_for(is_ready).await;
            if !self.options.observer {
                self.has_name().await;
            }
        };
        tokio::select! {
            biased;
            () = ready => Ok(()),
            refusal = refusals.wait_for(Option::is_some) => match refusal.map(|error| error.clone()) {
                Ok(Some(error)) => Err(error),
                _ => Ok(()),
            },
            error = registration_fails => Err(error),
        }
    }

    pub(crate) fn is_ready(&self, snapshot: &Snapshot) -> bool {
        if self.options.observer {
            let knows_nodes = snapshot.live().next().is_some();
            return knows_nodes && snapshot.leader.is_some() && snapshot.map.is_some();
        }
        let me = snapshot.nodes.get(&self.options.node_id);
        me.is_some_and(|me| me.is_live && self.is_me(&me.record)) && snapshot.leader.is_some()
    }

    /// Notes an error if it is a refusal, which waiting does not end; returns whether it is one.
    pub(crate) fn note_refusal(&self, error: &Error) -> bool {
        const REFUSALS: [Kind; 3] = [Kind::PermissionDenied, Kind::AclNotFound, Kind::Config];
        // So Consul refuses the name of a key.
        let is_name = error.kind() == Kind::Argument && error.status() == Some(500);
        let is_refusal = is_name || REFUSALS.contains(&error.kind());
        if is_refusal {
            self.refusal.send_replace(Some(error.clone()));
        }
        is_refusal
    }

    /// Hands over the leadership to another node, if this node is the leader.
    pub fn hand_over(&self) {
        self.hand_overs.send_replace(None);
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshot.send_modify(|snapshot| *snapshot = Arc::new(snapshot.with(change)));
    }

    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    /// Notes the fencing token of a leader with the map of this epoch.
    pub(crate) fn note_leadership(&self, epoch: u64, token: u64) {
        let mut newest = lock(&self.newest_leadership);
        *newest = (*newest).max((epoch, token));
    }

    pub(crate) fn newest_leadership(&self) -> (u64, u64) {
        *lock(&self.newest_leadership)
    }

    /// The epoch of this node's shard map; 0: none.
    pub(crate) fn epoch(&self) -> u64 {
        self.snapshot.borrow().map.as_ref().map_or(0, |map| map.epoch())
    }

    /// A version far beyond this one, for the next map when Consul has or may have lost maps.
    pub(crate) fn beyond(&self, version: u64) -> u64 {
        version + VERSION_GAP + (self.client.random_fraction() * VERSION_GAP as f64) as u64
    }

    pub(crate) fn is_me(&self, record: &Record) -> bool {
        record.incarnation == self.incarnation
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Keeps the leader from changing the map for [`MAP_HOLD_OFF`].
    pub(crate) fn hold_off(&self) {
        *lock(&self.hold_off_until) = self.now() + MAP_HOLD_OFF;
    }

    pub(crate) fn hold_off_after_loss(&self, state: &State) {
        if state.is_resynchronised {
            self.hold_off();
        }
    }

    pub(crate) fn hold_off_until(&self) -> Instant {
        *lock(&self.hold_off_until)
    }

    pub(crate) fn now(&self) -> Instant {
        self.client.clock().now()
    }

    pub(crate) fn unix_ms(&self) -> u64 {
        self.options.wall_clock.unix_ms(self.now())
    }

    /// Makes the requests of one call, which have one time limit together: that of the client for a single one. The error of
    /// the last one comes first, since it has that limit too.
    ///
    /// # Errors
    /// Errors of the requests; [`Kind::Timeout`] if they take longer.
    pub(crate) async fn in_time<R>(
        &self,
        requests: impl Future<Output = Result<R, Error>>,
    ) -> Result<R, Error> {
        let limit = self.client.settings().timeout;
        let end = self.now() + limit + AFTER_LIMIT;
        tokio::select! {
            biased;
            done = requests => done,
            () = self.sleep_until(end) => {
                let why = format!("no answer to all of its requests within {} ms", limit.as_millis());
                Err(Error::new(Kind::Timeout, why).retryable())
            }
        }
    }

    pub(crate) async fn sleep_until(&self, deadline: Instant) {
        self.client.clock().sleep_until(deadline).await;
    }

    /// Whether this process gets answers from Consul. A waiting query notices later than a beat that it gets none.
    pub(crate) fn is_in_touch(&self) -> bool {
        self.snapshot.borrow().is_connected && !self.presence.is_unanswered()
    }

    /// Whether a node lives, or may: the last answer of a Consul that is silent may be of a moment in which no check passed.
    pub(crate) fn may_live(&self, node: &Node) -> bool {
        node.is_live || !self.is_in_touch()
    }

    /// Notes the nodes with which this leader cannot speak, since they have another `cluster_key`.
    pub(crate) fn note_refusing(&self, nodes: Vec<String>) {
        *lock(&self.refusing) = nodes;
    }

    pub(crate) fn refusing(&self) -> Vec<String> {
        lock(&self.refusing).clone()
    }

    /// Notes the live nodes that this leader cannot reach.
    pub(crate) fn note_unreached(&self, nodes: Vec<String>) {
        *lock(&self.unreached) = nodes;
    }

    pub(crate) fn unreached(&self) -> Vec<String> {
        lock(&self.unreached).clone()
    }

    /// Notes the live nodes whose storage of a store fails.
    pub(crate) fn note_failing(&self, store: &str, nodes: BTreeSet<String>) {
        lock(&self.failing).insert(store.to_owned(), nodes);
    }

    /// The ones of a store; of use while this node leads.
    pub(crate) fn failing(&self, store: &str) -> BTreeSet<String> {
        lock(&self.failing).get(store).cloned().unwrap_or_default()
    }
}
