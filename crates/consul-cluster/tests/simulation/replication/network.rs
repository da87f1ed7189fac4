//! Storages that take time and can lose what they have, and the network between the nodes.

use crate::world::Node;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::clock::{BoxFuture, Clock, ManualClock};
use consul_replication::map::{Disk as MapDisk, NodeId};
use consul_replication::message::{Reply, Request};
use consul_replication::peers::{Peers, Runtime};
use consul_replication::record::{Range, Record, Version};
use consul_replication::state::State;
use consul_replication::storage::{Memory, Storage};
use futures_util::FutureExt as _;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The time limit of a request between nodes.
const LIMIT: Duration = Duration::from_secs(1);

/// A disk: what a process has stored when it ends is there when it starts again.
pub struct Disk {
    pub memory: Memory,
    clock: ManualClock,
    rng: Mutex<fastrand::Rng>,
    /// The longest time of an operation, in milliseconds.
    pub slowness_ms: Mutex<u64>,
    /// The usual one.
    pub usual_ms: u64,
    /// The states of shards that were looked at, beside what they were decoded from.
    states: Mutex<BTreeMap<u32, (Option<Bytes>, State)>>,
}

/// The part of an operator's order to make replicas again that concerns the checks.
#[derive(Deserialize)]
struct Order {
    disk: MapDisk,
    left: BTreeSet<u32>,
}

/// The content of a shard on a disk.
pub struct OnDisk {
    pub records: Vec<Record>,
    kept: Option<Bytes>,
}

/// The result of a call of a memory.
fn at_once<T>(call: BoxFuture<'_, Result<T, Error>>) -> T {
    call.now_or_never().expect("memory does not wait").expect("it does not fail")
}

impl Disk {
    pub fn new(clock: &ManualClock, seed: u64, usual_ms: u64) -> Arc<Self> {
        Arc::new(Disk {
            memory: Memory::new(),
            clock: clock.clone(),
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            slowness_ms: Mutex::new(usual_ms),
            usual_ms,
            states: Mutex::default(),
        })
    }

    /// Makes it as fast as usual.
    pub fn be_usual(&self) {
        *self.slowness_ms.lock().expect("no panic elsewhere") = self.usual_ms;
    }

    /// Its content of a shard.
    pub fn shard(&self, shard: u32) -> OnDisk {
        let records = self.memory.scan(shard, Range::all(), usize::MAX);
        OnDisk { records: at_once(records), kept: self.kept_of(shard) }
    }

    /// The same, if its node knows something of the shard.
    pub fn known(&self, shard: u32) -> Option<OnDisk> {
        Some(self.shard(shard)).filter(|it| it.kept.is_some())
    }

    fn kept_of(&self, shard: u32) -> Option<Bytes> {
        at_once(self.memory.kept(&format!("shard/{shard}")))
    }

    /// The knowledge and the promises of its node about a shard. It is looked at far more often than it changes.
    fn with_state<R>(&self, shard: u32, look: impl FnOnce(&State) -> R) -> R {
        let kept = self.kept_of(shard);
        let mut states = self.states.lock().expect("no panic elsewhere");
        let (known, state) = states.entry(shard).or_default();
        if *known != kept {
            let decoded = kept.as_deref().map(serde_json::from_slice);
            *state = decoded.map_or_else(State::default, |state| state.expect("what was kept"));
            *known = kept;
        }
        look(state)
    }

    /// Whether its mark says that it has all of a shard.
    pub fn is_marked(&self, shard: u32) -> bool {
        self.with_state(shard, |state| state.is_whole)
    }

    /// The shards whose replicas its node is to make again, if it is this disk of the node's, or any.
    pub fn to_remake(&self, disk: Option<MapDisk>) -> BTreeSet<u32> {
        let kept = at_once(self.memory.kept("reinit"));
        let order = kept.map(|it| serde_json::from_slice::<Order>(&it).expect("what was kept"));
        order
            .filter(|order| disk.is_none_or(|disk| order.disk == disk))
            .map(|order| order.left)
            .unwrap_or_default()
    }

    /// Whether a copy of a shard to it is in progress.
    pub fn is_being_copied_to(&self, shard: u32) -> bool {
        self.with_state(shard, |state| state.work.as_ref().is_some_and(|work| !work.is_done))
    }

    /// Gives a shard back what it was.
    pub fn restore(&self, shard: u32, old: OnDisk) {
        at_once(self.memory.drop_shard(shard));
        at_once(self.memory.apply(shard, old.records));
        at_once(self.memory.keep(&format!("shard/{shard}"), old.kept.unwrap_or_default()));
    }

    async fn delay(&self) {
        let most = *self.slowness_ms.lock().expect("no panic elsewhere");
        let ms = self.rng.lock().expect("no panic elsewhere").u64(0..=most * 10);
        self.clock.sleep(Duration::from_micros(ms * 100)).await;
    }
}

impl Storage for Disk {
    fn apply(
        &self,
        shard: u32,
        records: Vec<Record>,
    ) -> BoxFuture<'_, Result<Vec<(usize, Version)>, Error>> {
        Box::pin(async move {
            self.delay().await;
            let kept = self.memory.apply(shard, records).await;
            self.delay().await;
            kept
        })
    }

    fn scan(
        &self,
        shard: u32,
        range: Range,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>> {
        Box::pin(async move {
            let found = self.memory.scan(shard, range, limit).await;
            self.delay().await;
            found
        })
    }

    fn purge(&self, shard: u32, below: Version) -> BoxFuture<'_, Result<(), Error>> {
        self.memory.purge(shard, below)
    }

    fn drop_shard(&self, shard: u32) -> BoxFuture<'_, Result<(), Error>> {
        self.memory.drop_shard(shard)
    }

    fn keep(&self, name: &str, value: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        let name = name.to_owned();
        Box::pin(async move {
            self.delay().await;
            self.memory.keep(&name, value).await
        })
    }

    fn kept(&self, name: &str) -> BoxFuture<'_, Result<Option<Bytes>, Error>> {
        self.memory.kept(name)
    }

    fn flush(&self) -> BoxFuture<'_, Result<bool, Error>> {
        self.memory.flush()
    }
}

/// A message that a process hands to the world.
pub enum Sent {
    Request { from: Node, to: NodeId, request: Box<Request>, reply: oneshot::Sender<Reply> },
    Task { owner: Node, task: BoxFuture<'static, ()> },
}

/// The way out of one process.
#[derive(Clone)]
pub struct Way {
    pub owner: Node,
    pub clock: ManualClock,
    pub out: mpsc::UnboundedSender<Sent>,
    pub rng: Arc<Mutex<fastrand::Rng>>,
}

impl Peers for Way {
    fn ask(&self, node: &NodeId, request: Request) -> BoxFuture<'static, Result<Reply, Error>> {
        let (reply, answer) = oneshot::channel();
        let from = self.owner;
        let request = Box::new(request);
        _ = self.out.send(Sent::Request { from, to: node.clone(), request, reply });
        let timeout = self.clock.sleep(LIMIT);
        Box::pin(async move {
            tokio::select! {
                biased;
                answer = answer => answer.map_err(|_| Error::new(Kind::Connect, "it is down")),
                () = timeout => Err(Error::new(Kind::Timeout, "no reply")),
            }
        })
    }
}

impl Runtime for Way {
    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        _ = self.out.send(Sent::Task { owner: self.owner, task });
    }

    fn fraction(&self) -> f64 {
        self.rng.lock().expect("no panic elsewhere").f64()
    }
}
