//! `cluster:leave`: hands the replicas of a node over to others, then stops it.

use super::methods::stop;
use super::node::ClusterNode;
use crate::runtime::native::{self, Call};
use crate::runtime::wait;
use consul_api::error::{Error, Kind};
use consul_api::table::{DURATION, Shape};
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, unknown};
use consul_client::Client;
use consul_cluster::stores::{self, ShardStatus, Store};
use consul_cluster::{Cluster, Mode, Record, Snapshot};
use consul_process::clock::Instant;
use std::sync::Arc;
use std::time::Duration;

/// How long the replicas may take by default.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The pause between two looks at the remaining shards.
const PAUSE: Duration = Duration::from_millis(50);

/// How often a leave is tried when others that leave too may be refused, and the longest pause between.
const ATTEMPTS: u32 = 5;
const ATTEMPT_PAUSE: Duration = Duration::from_secs(1);

/// The action of a node whose leave has failed after its shards had moved.
const STAYS: &str = "it stays, and drains";

/// `cluster:leave(options)`
pub fn leave(call: &Call<ClusterNode>) -> native::Result {
    let node = &*call.object;
    let limit = limit(&call.options(1)?)?;
    node.check_member()?;
    let running = node.started()?;
    let stores: Vec<Arc<Store>> =
        running.stores.borrow().values().map(|it| Arc::clone(&it.store)).collect();
    let (cluster, client) = (Arc::clone(&running.cluster), Arc::clone(&running.client));
    let closed = running.data_plane.closed();
    let is_manual = client.clock().as_manual().is_some();
    let moved = async move {
        tokio::select! {
            moved = hand_over(&cluster, &client, &stores, limit) => moved,
            () = closed => {
                let why = "it was stopped before its shards had moved: they stay its own until \
                           replace_after_s is over";
                Err(Error::new(Kind::Closed, why))
            }
        }
    };
    let left = match is_manual {
        // It waits for the clock alone, which moves meanwhile.
        true => wait::for_result(call.lua, &running.executor, moved)?,
        false => running.data_plane.run(call.lua, |_| moved)?,
    };
    let left = left.ok_or_else(|| node.background_ended())?;
    let left = left.map_err(|error| error.context(&node.name()))?;
    let stopped = stop(call)?;
    if left > 0 {
        let limit = limit.as_secs_f64();
        let why = format!(
            "stopped, but {left} of its shards have not moved within {limit} s and stay its own until \
             replace_after_s is over"
        );
        return Err(node.error(Kind::Timeout, &why).into());
    }
    Ok(stopped)
}

/// Drains the node until the stores do not name it; returns how many shards do after the time limit.
async fn hand_over(
    cluster: &Cluster,
    client: &Client,
    stores: &[Arc<Store>],
    limit: Duration,
) -> Result<usize, Error> {
    let (id, clock) = (cluster.options().node_id.as_str(), client.clock());
    let end = clock.now() + limit;
    // Consul may not answer.
    let is_drained = tokio::select! {
        biased;
        drained = drain_in_turn(cluster, client, stores, end) => drained.map(|()| true)?,
        () = clock.sleep_until(end) => false,
    };
    let (mut is_left, mut unread) = (false, None);
    while is_drained && clock.now() < end {
        let looked = tokio::select! {
            biased;
            looked = is_without_shards(cluster, stores) => looked,
            () = clock.sleep_until(end) => break,
        };
        match looked {
            Ok(found) => (is_left, unread) = (found, None),
            Err(why) if why.is_transient() => unread = Some(why),
            Err(why) => return Err(why.context(STAYS)),
        }
        if is_left {
            break;
        }
        let snapshot = cluster.snapshot();
        if snapshot.nodes.get(id).is_some_and(|node| !drains(&node.record)) {
            let why = "it stays: an operator has made it active";
            return Err(Error::new(Kind::Conflict, why).with_maybe_applied(false));
        }
        clock.sleep(PAUSE).await;
    }
    let left = stores.iter().map(|store| held(store, id)).sum();
    if is_drained && left == 0 && !is_left {
        let still = "Consul's maps of the stores still name it, or are older than what it knows";
        let why = unread.map_or(still.to_owned(), |why: Error| why.message().to_owned());
        let error = Error::new(Kind::Timeout, format!("{STAYS}: {why}"));
        return Err(error.with_maybe_applied(false));
    }
    Ok(left)
}

/// Whether neither this process nor Consul knows of a shard of the node. Consul may have lost what it knew.
async fn is_without_shards(cluster: &Cluster, stores: &[Arc<Store>]) -> Result<bool, Error> {
    if stores.is_empty() {
        return Ok(true);
    }
    Ok(stores.iter().all(|store| store.holds_none()) && stores::leave::holds_none(cluster).await?)
}

/// Drains the node; again for a while if others that leave at the same time may be refused.
async fn drain_in_turn(
    cluster: &Cluster,
    client: &Client,
    stores: &[Arc<Store>],
    end: Instant,
) -> Result<(), Error> {
    let id = cluster.options().node_id.as_str();
    let mut attempt = 1;
    while let Err(why) = drain(cluster, client, stores, end).await {
        let snapshot = cluster.snapshot();
        let others_leave = snapshot.live().any(|node| drains(&node.record) && node.record.id != id);
        if !others_leave || attempt == ATTEMPTS {
            return Err(why);
        }
        attempt += 1;
        client.clock().sleep(ATTEMPT_PAUSE.mul_f64(client.random_fraction())).await;
    }
    Ok(())
}

/// Drains the node if others can take its shards; else nothing has changed.
async fn drain(
    cluster: &Cluster,
    client: &Client,
    stores: &[Arc<Store>],
    end: Instant,
) -> Result<(), Error> {
    check_targets(cluster, stores).await?;
    let (id, before) = (cluster.options().node_id.as_str(), cluster.mode());
    cluster.drain_to_leave().await?;
    // Of nodes that leave at once, the last by Consul's order sees the changes of all others.
    let is_seen = || cluster.snapshot().nodes.get(id).is_some_and(|node| drains(&node.record));
    while client.clock().now() < end && !is_seen() {
        client.clock().sleep(PAUSE).await;
    }
    if let Err(why) = check_targets(cluster, stores).await {
        let undone = cluster.set_mode(id, before).await;
        undone.map_err(|error| error.context("it cannot hand its shards over, and drains"))?;
        return Err(why);
    }
    Ok(())
}

/// Whether other nodes can take the shards of this one, also when all nodes that drain are gone.
async fn check_targets(cluster: &Cluster, stores: &[Arc<Store>]) -> Result<(), Error> {
    let id = cluster.options().node_id.as_str();
    // First the nodes: a node that has gone from the list has changed the maps before.
    let snapshot = cluster.snapshot();
    for store in stores {
        let learned = store.refresh().await;
        learned.map_err(|error| error.context("it cannot hand its shards over"))?;
        if let Some(shard) = without_target(store, id, &snapshot) {
            let name = &store.options().name;
            let why = format!("no_target: no other node can take shard {shard} of store {name:?}");
            return Err(Error::new(Kind::Conflict, why).not_sent());
        }
    }
    Ok(())
}

fn drains(record: &Record) -> bool {
    record.mode == Mode::Draining
}

/// How many shards of a store name the node.
fn held(store: &Store, id: &str) -> usize {
    let names = |shard: &&ShardStatus| {
        let targets = shard.targets.iter().map(|(node, _)| node);
        shard.holders.iter().chain(targets).any(|node| **node == *id)
    };
    store.status().iter().filter(names).count()
}

/// A shard of this node whose leaving holders are more than the nodes that can take one of its replicas.
fn without_target(store: &Store, id: &str, snapshot: &Snapshot) -> Option<u32> {
    let leaves = |node: &str| {
        node == id || snapshot.nodes.get(node).is_some_and(|node| drains(&node.record))
    };
    let is_target =
        |record: &&Record| record.id != id && record.mode == Mode::Active && record.weight > 0.0;
    let targets: Vec<&Record> =
        snapshot.live().map(|node| &*node.record).filter(is_target).collect();
    let is_held = |shard: &ShardStatus, id: &str| shard.holders.iter().any(|node| **node == *id);
    let shards = store.status();
    let mut held = shards.iter().filter(|shard| is_held(shard, id));
    let shard = held.find(|shard| {
        let leaving = shard.holders.iter().filter(|node| leaves(node)).count();
        targets.iter().filter(|record| !is_held(shard, &record.id)).count() < leaving
    });
    shard.map(|shard| shard.shard)
}

/// The option of a leave.
fn limit(options: &Value) -> Result<Duration, Error> {
    let mut limit = TIMEOUT;
    if *options != Value::Null {
        for (name, value) in Shape::Any.members(options, &ValuePath::top("options"))? {
            if name != "timeout_s" {
                return Err(Error::misuse(unknown("option", name, &["timeout_s"])));
            }
            limit = DURATION.duration(value, &ValuePath::top(name))?;
        }
    }
    Ok(limit)
}
