//! A node: its state, and the work of a process that takes part in a cluster.

use crate::event::{Event, Events, PastEvent};
use crate::leader::election;
use crate::nodes::membership::{self, Reported};
use crate::nodes::node::{Mode, Record};
use crate::nodes::{request, settings, start};
use crate::options::Options;
use crate::shard_map::publication;
use crate::snapshot::Snapshot;
use crate::stores;
use consul_api::api::{health, kv};
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::table::Endpoint;
use consul_client::Client;
#[cfg(feature = "sabotage")]
use consul_client::coordination::Rules;
use consul_client::coordination::{Lease, Presence};
use consul_client::watch::{State, WatchOptions, states};
use consul_process::clock::Instant;
use consul_process::metrics;
use consul_process::sync::lock;
use futures_util::stream::StreamExt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How long the leader leaves the map unchanged after Consul has lost data or was unreachable, so that
/// a node with a newer map can restore it. Longer than the pause of a watch after failures, and longer
/// than a blocking query waits that was sent after the loss with an index from before it.
pub(crate) const MAP_HOLD_OFF: Duration = Duration::from_secs(6);

/// The least step of a map's version, and half of the largest, when Consul has or may have lost maps: more
/// than the number of maps that can have been lost.
const VERSION_GAP: u64 = 1000;

/// The pause before an operation is retried after a transient failure.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// The pause before this node stands for leader again after a refusal.
pub(crate) const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// How often the same reason for not having joined yet is logged.
const REMINDER: Duration = Duration::from_secs(60);

/// The longest wait of a blocking query for a single key; Consul adds up to a sixteenth. It limits how
/// long a silently dead connection goes unnoticed.
pub(crate) const WAIT: Duration = Duration::from_secs(5);

/// The longest wait of a blocking query for a list of all nodes.
const LIST_WAIT: Duration = Duration::from_secs(20);

/// The pause before the next list of all nodes, for each node in the last one, and its bound. Every change makes each
/// node read a list of all, so that the work grows with the square of their number: nodes that were too busy with lists
/// to renew their checks in time would fail and return, which are changes again, without an end.
const LIST_PAUSE: Duration = Duration::from_millis(4);
const MAX_LIST_PAUSE: Duration = Duration::from_secs(1);

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
    /// Signals that Consul's list of keys lacks this node's record.
    pub(crate) own_key_lost: Notify,
    pub(crate) lease: Mutex<Option<Arc<Lease>>>,
    /// The highest pair of a map's epoch and a leader's fencing token that this node has seen.
    pub(crate) newest_leadership: Mutex<(u64, u64)>,
    /// The leader does not change the map before this time.
    pub(crate) hold_off_until: Mutex<Instant>,
    /// Changes with each requested hand-over of the leadership, to the successor if one is named.
    pub(crate) hand_overs: watch::Sender<Option<String>>,
    /// Whether an operator has asked this node to leave.
    pub(crate) leaves: watch::Sender<bool>,
    /// The nodes that refuse this leader's `cluster_key`, or whose key it refuses.
    pub(crate) refusing: Mutex<Vec<String>>,
    /// The stores that the process has opened.
    pub(crate) stores: Mutex<Vec<Weak<stores::Store>>>,
    /// Whether the process has once seen the state of the cluster.
    pub(crate) has_looked: AtomicBool,
    /// The last refusal.
    pub(crate) refusal: watch::Sender<Option<Error>>,
    /// Since when this node has a shard map.
    pub(crate) mapped_since: Mutex<Option<Instant>>,
    /// Why this node cannot take part in the cluster that it has found.
    pub(crate) misfit: watch::Sender<Option<Error>>,
    pub(crate) events: Events,
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
        let incarnation = format!("{:016x}", client.random_u64());
        let record = Record::new(&options, &incarnation, client.clock().now());
        let service = membership::service(&options, &record);
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
            own_key_lost: Notify::new(),
            lease: Mutex::default(),
            newest_leadership: Mutex::default(),
            hold_off_until: Mutex::default(),
            hand_overs: watch::Sender::default(),
            leaves: watch::Sender::default(),
            refusing: Mutex::default(),
            stores: Mutex::default(),
            has_looked: AtomicBool::default(),
            refusal: watch::Sender::default(),
            mapped_since: Mutex::default(),
            misfit: watch::Sender::default(),
            events: Events::default(),
        }))
    }

    /// The same node with some safety rules disabled, for tests which show that each rule is needed.
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

    /// Emits an event. What a process sees when it looks for the first time did not happen then, so
    /// operators do not get it as an event.
    pub(crate) fn emit(&self, event: Event) {
        let own = self.options.member_id();
        let is_own = match &event {
            Event::NodeJoined(id) | Event::LeaderChanged(Some(id)) => Some(id.as_str()) == own,
            Event::Suspended | Event::Resumed | Event::Stopped(_) => true,
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

    /// Completes when this node is a live member and the cluster has a leader. An observer needs a live
    /// node, a leader and a shard map.
    ///
    /// # Errors
    /// A refusal, such as a missing permission: of a read that the node needs, of its registration, or of
    /// its attempt to become the leader of a cluster that has none.
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
        tokio::select! {
            biased;
            _ = changes.wait_for(is_ready) => Ok(()),
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
        let is_refusal = REFUSALS.contains(&error.kind());
        if is_refusal {
            self.refusal.send_replace(Some(error.clone()));
        }
        is_refusal
    }

    /// Runs the node until a permanent error, which is returned. An observer only reads.
    ///
    /// If this future is dropped, the other nodes see this one go down. For a graceful stop, call
    /// [`Cluster::leave`] after that.
    pub async fn run(&self) -> Error {
        let _shown = metrics::register(self.this.clone() as _);
        let joined = if self.options.observer { Ok(()) } else { self.join().await };
        let why = match joined {
            Ok(()) => {
                let error = self.participate().await;
                if !*self.leaves.borrow() {
                    tracing::error!(node = self.options.node_id, %error, "the node has ended");
                }
                error
            }
            Err(why) => why,
        };
        if (*self.leaves.borrow() || self.misfit.borrow().is_some())
            && let Err(error) = self.leave().await
        {
            tracing::info!(%error, "the node did not leave and stays until its check fails");
        }
        *lock(&self.lease) = None;
        self.emit(Event::Stopped(why.message().to_owned()));
        why
    }

    /// Leaves the cluster gracefully, after [`Cluster::run`] has ended: hands over the leadership, and
    /// removes the node's key and service.
    ///
    /// # Errors
    /// Those of the calls. Every step is tried even if another fails.
    pub async fn leave(&self) -> Result<(), Error> {
        if self.options.observer {
            self.update(|snapshot| *snapshot = Snapshot::default());
            return Ok(());
        }
        let lease = lock(&self.lease).take();
        let released = match lease {
            Some(lease) if !lease.has_ended() => lease.release().await,
            _ => Ok(()),
        };
        let removed = self.remove_record().await;
        // If another node has the key, the service of this name belongs to it too.
        let withdrawn = match removed {
            Ok(false) => Ok(()),
            _ => self.presence.deregister().await,
        };
        self.update(|snapshot| *snapshot = Snapshot::default());
        released.and(removed.map(|_| ())).and(withdrawn)
    }

    /// Hands over the leadership to another node, if this node is the leader.
    pub fn hand_over(&self) {
        self.hand_overs.send_replace(None);
    }

    /// Checks the shared settings, claims the node's name and writes its key.
    pub(crate) async fn join(&self) -> Result<(), Error> {
        let mut logged = None;
        loop {
            let joined = match settings::check(self).await {
                Ok(()) => {
                    let record = lock(&self.record).clone();
                    membership::claim_name(&self.client, &self.options, &record).await
                }
                disagreed => disagreed,
            };
            match joined {
                Err(error) if error.is_transient() => {
                    let now = self.now();
                    let reason = (error.kind(), error.status());
                    let is_logged = |(why, at)| why == reason && now - at < REMINDER;
                    if !logged.is_some_and(is_logged) {
                        tracing::warn!(node = self.options.node_id, %error, "not joined yet");
                        logged = Some((reason, now));
                    }
                    self.client.clock().sleep(PAUSE).await;
                }
                joined => return joined,
            }
        }
    }

    pub(crate) async fn participate(&self) -> Error {
        let Options { nodes_prefix, leader_key, .. } = &self.options;
        let nodes = self.observe(&kv::LIST, nodes_prefix, LIST_WAIT, |state| async move {
            if let Some(state) = state {
                self.hold_off_after_loss(&state);
                self.apply_records(&state);
                // A list of many nodes is large.
                drop(state);
                self.pace().await;
            }
        });
        let service = self.options.service();
        // The index of this query goes back whenever a server starts to stream it, so that does not
        // mean that Consul has lost data.
        let health = self.observe(&health::SERVICE, &service, LIST_WAIT, |state| async move {
            if let Some(state) = state {
                self.apply_health(&state);
                drop(state);
                self.pace().await;
            }
        });
        let leader = self.observe(&kv::GET, leader_key, WAIT, |state| async move {
            if let Some(state) = &state {
                self.hold_off_after_loss(state);
            }
            election::apply_leader(self, state.as_ref());
        });
        let epoch_key = self.options.epoch_key();
        let map = self.observe(&kv::GET, &epoch_key, WAIT, |state| async move {
            if let Some(state) = state {
                self.hold_off_after_loss(&state);
                publication::apply_announcement(self, state).await;
            }
        });
        let is_member = !self.options.observer;
        tokio::select! {
            biased;
            never = self.presence.run(), if is_member => match never {},
            never = self.drop_lost_nodes() => match never {},
            never = start::note_hidden(self) => match never {},
            why = self.maintain_record(), if is_member => why,
            why = request::asked_to_leave(self), if is_member => why,
            why = settings::is_misfit(self), if is_member => why,
            why = nodes => why,
            why = health => why,
            why = leader => why,
            why = map => why,
            never = election::campaign(self), if is_member => match never {},
        }
    }

    /// Watches an endpoint, and calls `apply` with each new state, and with `None` when an outage starts.
    pub(crate) async fn observe<F: Future<Output = ()>>(
        &self,
        endpoint: &'static Endpoint,
        name: &str,
        wait: Duration,
        mut apply: impl FnMut(Option<State>) -> F,
    ) -> Error {
        let args = Args::new().arg(name);
        let client = Arc::clone(&self.waiting);
        let options = WatchOptions { wait, ..WatchOptions::default() };
        let states = match states(client, endpoint, args, options) {
            Ok(states) => states,
            Err(error) => return error,
        };
        let mut states = pin!(states);
        loop {
            match states.next().await {
                Some(Ok(state)) => apply(Some(state)).await,
                Some(Err(error)) => {
                    self.note_refusal(&error);
                    self.hold_off();
                    apply(None).await;
                }
                None => return Error::new(Kind::Closed, "a watch has ended"),
            }
        }
    }

    /// Pauses before the next list of all nodes is read.
    pub(crate) async fn pace(&self) {
        let nodes = self.snapshot().nodes.len();
        self.client.clock().sleep((LIST_PAUSE * nodes as u32).min(MAX_LIST_PAUSE)).await;
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

    pub(crate) async fn sleep_until(&self, deadline: Instant) {
        self.client.clock().sleep_until(deadline).await;
    }

    /// Notes the nodes with which this leader cannot speak, since they have another `cluster_key`.
    pub(crate) fn note_refusing(&self, nodes: Vec<String>) {
        *lock(&self.refusing) = nodes;
    }

    pub(crate) fn refusing(&self) -> Vec<String> {
        lock(&self.refusing).clone()
    }
}
