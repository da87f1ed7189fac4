//! Many processes that share work: who is there, who leads, and who has which part of it.
//!
//! Each process is a [`Cluster`] and runs it. What they know of each other is in Consul: a key that
//! each node writes of itself, a service whose TTL check says that it lives, the lock on the leader's
//! key, and the shard map, which the leader alone changes.

pub mod data_plane;
mod election;
mod event;
mod keys;
mod leader;
pub mod membership;
pub mod options;
mod primaries;
mod publication;
pub mod rebalancer;
pub mod shard_map;
mod shares;
pub mod snapshot;

pub use event::Event;
pub use options::Options;
pub use snapshot::{Leader, Snapshot};

use crate::client::Client;
use crate::client::coordination::{self, Lease, Presence};
use crate::client::watch::{State, WatchOptions, states};
use crate::clock::Instant;
use crate::error::{Error, Kind};
use crate::sync::lock;
use crate::wire::request::Args;
use crate::wire::table::Endpoint;
use crate::wire::{health, kv};
use event::Events;
use futures_util::stream::StreamExt;
use keys::Then;
use membership::{Mode, Record};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// How long after Consul has lost data, or was away, the map is left alone, so that whoever has a
/// newer one can put it back: longer than a watch pauses after failures, and longer than its query
/// waits that came after the loss with an index from before it.
const SETTLING: Duration = Duration::from_secs(6);

/// The pause after something has failed that may pass.
const PAUSE: Duration = Duration::from_millis(500);

/// The longest that a query for something small waits, before Consul adds up to a sixteenth: so soon
/// a connection that is dead without a word is found out.
const WAIT: Duration = Duration::from_secs(5);

/// The longest that a query for a list of all nodes waits, and how long after each the next is made, for
/// every node in it. The lists of many nodes, asked for by each of them, are much to send.
const LIST_WAIT: Duration = Duration::from_secs(20);
const LIST_PAUSE: Duration = Duration::from_micros(500);

/// A node of a cluster.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    client: Arc<Client>,
    waiting: Arc<Client>,
    presence: Arc<Presence>,
    incarnation: String,
    /// What this node says of itself.
    record: Mutex<Record>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    /// The incarnations that live, as Consul said last.
    live: Mutex<Option<BTreeSet<String>>>,
    lease: Mutex<Option<Arc<Lease>>>,
    unsettled_until: Mutex<Instant>,
    /// How many times the leadership was asked to be handed over.
    hand_overs: watch::Sender<u64>,
    events: Events,
}

/// What all nodes of a cluster must agree on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Agreement {
    shards: usize,
    replicas: usize,
}

impl Cluster {
    /// A node that takes part as long as [`Cluster::run`] runs. Queries that wait go through
    /// `waiting`, which has connections of its own.
    ///
    /// # Errors
    /// [`Kind::Config`], when the options do not fit together.
    pub fn new(
        client: Arc<Client>,
        waiting: Arc<Client>,
        options: Options,
    ) -> Result<Arc<Self>, Error> {
        options.check()?;
        let incarnation = format!("{:016x}", client.random());
        let record = Record::new(&options, &incarnation, client.clock().now());
        let service = membership::service(&options, &record);
        let presence = Presence::new(
            Arc::clone(&client),
            Arc::clone(&waiting),
            options.profile.clone(),
            service,
        );
        Ok(Arc::new(Cluster {
            options,
            client,
            waiting,
            presence,
            incarnation,
            record: Mutex::new(record),
            snapshot: watch::Sender::default(),
            live: Mutex::default(),
            lease: Mutex::default(),
            unsettled_until: Mutex::default(),
            hand_overs: watch::Sender::default(),
            events: Events::default(),
        }))
    }

    /// The same node without some of the rules that make clusters safe.
    #[cfg(feature = "sabotage")]
    pub fn with_rules(self: Arc<Self>, rules: coordination::Rules) -> Arc<Self> {
        let mut cluster = Arc::into_inner(self).expect("a node that does not run");
        cluster.presence = cluster.presence.with_rules(rules);
        Arc::new(cluster)
    }

    /// The options that it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What is known now; asks nobody.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Whether this node leads and may act as the leader; asks nobody.
    pub fn is_leader(&self) -> bool {
        lock(&self.lease).as_ref().is_some_and(|lease| lease.is_held())
    }

    /// The leadership, while this node has it: its fencing token, and writes that Consul makes only
    /// for the leader.
    pub fn lease(&self) -> Option<Arc<Lease>> {
        lock(&self.lease).clone()
    }

    /// Has this node's key say where its data plane listens.
    fn advertise(&self, data_address: String) {
        lock(&self.record).data_address = data_address;
    }

    /// Has this node's check warn of something, or of nothing any more.
    fn warn(&self, why: Option<String>) {
        self.presence.warn(why);
    }

    /// Whether this node takes part, and how.
    pub fn mode(&self) -> Mode {
        lock(&self.record).mode
    }

    /// `joining`, `follower`, `candidate`, `leader`, `suspended`, `draining` or `maintenance`.
    pub fn state(&self) -> &'static str {
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

    /// The next thing that happens.
    pub async fn next_event(&self) -> Event {
        self.events.next().await
    }

    /// The next thing that has happened.
    pub fn poll_event(&self) -> Option<Event> {
        self.events.poll()
    }

    /// Completes when this node is a live member and somebody leads.
    pub async fn started(&self) {
        let mut changes = self.changes();
        let is_ready = |snapshot: &Arc<Snapshot>| {
            let me = snapshot.nodes.get(&self.options.node_id);
            let is_live = me.is_some_and(|me| me.is_live && self.is_me(&me.record));
            is_live && snapshot.leader.is_some()
        };
        // The sender lives as long as `self`.
        let _ = changes.wait_for(is_ready).await;
    }

    /// Takes part until it cannot any more; says why.
    ///
    /// A node that was ended by dropping this future is down for the others; one that ends in order
    /// calls [`Cluster::leave`] then.
    pub async fn run(&self) -> Error {
        let why = match self.join().await {
            Ok(()) => self.take_part().await,
            Err(why) => why,
        };
        *lock(&self.lease) = None;
        self.events.tell(Event::Stopped(why.message().to_owned()));
        why
    }

    /// Leaves the cluster in order, when [`Cluster::run`] runs no more: hands the leadership over and
    /// takes the node's key and service away.
    ///
    /// # Errors
    /// Those of the calls, after all was tried.
    pub async fn leave(&self) -> Result<(), Error> {
        let lease = lock(&self.lease).take();
        let released = match lease {
            Some(lease) if !lease.has_ended() => lease.release().await,
            _ => Ok(()),
        };
        let removed = self.remove_record().await;
        // The service of this name is another node's when that has the key.
        let withdrawn = match removed {
            Ok(false) => Ok(()),
            _ => self.presence.withdraw().await,
        };
        self.update(|snapshot| *snapshot = Snapshot::default());
        released.and(removed.map(|_| ())).and(withdrawn)
    }

    /// Hands the leadership over to another node, if this one has it.
    pub fn hand_over(&self) {
        self.hand_overs.send_modify(|count| *count += 1);
    }

    /// Takes the name and says what this node is.
    async fn join(&self) -> Result<(), Error> {
        loop {
            let joined = match self.agree().await {
                Ok(()) => {
                    let record = lock(&self.record).clone();
                    membership::claim(&self.client, &self.options, &record).await
                }
                disagreed => disagreed,
            };
            match joined {
                Err(error) if coordination::may_pass(&error) => {
                    tracing::warn!(node = self.options.node_id, %error, "not joined yet");
                    self.client.clock().sleep(PAUSE).await;
                }
                joined => return joined,
            }
        }
    }

    /// Refuses to take part in a cluster of another shape.
    async fn agree(&self) -> Result<(), Error> {
        let Options { shards, replicas, config_key, .. } = &self.options;
        let ours = Agreement { shards: *shards, replicas: *replicas };
        keys::change(&self.client, config_key, |found| {
            let Some(bytes) = found else {
                return Ok(Then::Put(serde_json::to_vec(&ours).unwrap_or_default()));
            };
            let why = match serde_json::from_slice::<Agreement>(bytes).ok() {
                Some(theirs) if theirs == ours => return Ok(Then::Keep),
                Some(theirs) => format!(
                    "the cluster has shards = {} and replicas = {}, as the key {config_key} says; this node says {shards} and {replicas}",
                    theirs.shards, theirs.replicas
                ),
                None => format!("the key {config_key} holds another program's data"),
            };
            Err(Error::new(Kind::Conflict, why).with_maybe_applied(false))
        })
        .await
    }

    async fn take_part(&self) -> Error {
        let Options { nodes_prefix, leader_key, .. } = &self.options;
        let nodes = self.follow(&kv::LIST, nodes_prefix, LIST_WAIT, |state| async move {
            if let Some(state) = state {
                self.unsettle_after(&state);
                self.take_records(&state);
                self.rest().await;
            }
        });
        let service = self.options.service();
        // Its index goes back whenever a server begins to stream it, so nothing follows from that.
        let health = self.follow(&health::SERVICE, &service, LIST_WAIT, |state| async move {
            if let Some(state) = state {
                self.take_liveness(&state);
                self.rest().await;
            }
        });
        let leader = self.follow(&kv::GET, leader_key, WAIT, |state| async move {
            if let Some(state) = &state {
                self.unsettle_after(state);
            }
            self.take_leader(state.as_ref());
        });
        let epoch_key = self.options.epoch_key();
        let map = self.follow(&kv::GET, &epoch_key, WAIT, |state| async move {
            if let Some(state) = state {
                self.unsettle_after(&state);
                self.take_announcement(state).await;
            }
        });
        tokio::select! {
            biased;
            never = self.presence.run() => match never {},
            why = self.keep_record() => why,
            why = nodes => why,
            why = health => why,
            why = leader => why,
            why = map => why,
            never = self.campaign() => match never {},
        }
    }

    /// Watches what an endpoint reads, and takes each state, and nothing when an outage begins.
    async fn follow<F: Future<Output = ()>>(
        &self,
        endpoint: &'static Endpoint,
        name: &str,
        wait: Duration,
        mut take: impl FnMut(Option<State>) -> F,
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
                Some(Ok(state)) => take(Some(state)).await,
                Some(Err(_)) => {
                    self.unsettle();
                    take(None).await;
                }
                None => return Error::new(Kind::Closed, "a watch has ended"),
            }
        }
    }

    /// Waits before the next list of all nodes.
    async fn rest(&self) {
        let nodes = self.snapshot().nodes.len();
        self.client.clock().sleep(LIST_PAUSE * nodes as u32).await;
    }

    fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshot.send_modify(|snapshot| *snapshot = Arc::new(snapshot.with(change)));
    }

    fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    fn is_me(&self, record: &Record) -> bool {
        record.incarnation == self.incarnation
    }

    fn client(&self) -> &Client {
        &self.client
    }

    fn unsettle(&self) {
        *lock(&self.unsettled_until) = self.now() + SETTLING;
    }

    fn unsettle_after(&self, state: &State) {
        if state.is_resynchronised {
            self.unsettle();
        }
    }

    fn unsettled_until(&self) -> Instant {
        *lock(&self.unsettled_until)
    }

    fn now(&self) -> Instant {
        self.client.clock().now()
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.client.clock().sleep_until(deadline).await;
    }
}
