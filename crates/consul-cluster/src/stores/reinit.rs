//! An operator has a node make its replicas of a store again from the others, since its records are damaged, doubtful or wrong.
//!
//! For the protocol that is a replica that is lost. The node gives up one after the other: at most one shard of a store lacks a
//! replica by this at any time, so that one more node that fails stops the writes of one shard at most. The order is on the disk
//! whose replicas it is about, and so outlives the node's process and has no effect on another disk.
//!
//! A move would copy what is wrong. So the node lets no move end that copies a replica that is left, and reports the shards of
//! these replicas: the leader ends such moves, and begins none. A replica that the node gives up while it is to have none is made
//! on another node, from the others.

pub use super::document::Remaking;
use super::document::{MemberRecord, StoreMap};
use super::lists::check_whole;
use super::member::Member;
use super::reports::{StoreReports, parse};
use super::{Store, is_live, members_prefix, outside, read_map};
use crate::nodes::operate::no_such_node;
use crate::nodes::request::{Asked, Reinit};
use crate::pauses::PAUSE;
use crate::shell::{listed, operand, operands};
use crate::{Cluster, Snapshot};
use consul_api::api::kv;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::value::shape::unknown;
use consul_client::watch::State;
use consul_process::sync::lock;
use consul_replication::map::{Disk, Entry, NodeId, Place};
use consul_replication::storage::Storage;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// The name under which a disk keeps its order.
const ORDER: &str = "reinit";

/// How many obstacles a refusal names.
const SHOWN: usize = 3;

/// The times between two steps of an order, while the map changes and while it waits.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// An order, as the disk keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    id: u64,
    disk: Disk,
    /// The shards that it is about.
    #[serde(default)]
    shards: BTreeSet<u32>,
    /// The shards whose replicas are still to be made again.
    pub(super) left: BTreeSet<u32>,
    /// That of these whose replica was given up and does not count again yet.
    given_up: Option<u32>,
    /// The shards whose replicas moves had copied when the node took the order.
    #[serde(default)]
    gone: BTreeSet<u32>,
}

impl Order {
    /// The order that a disk has kept.
    pub(super) async fn kept(storage: &dyn Storage, disk: Disk) -> Result<Option<Order>, Error> {
        let kept = storage.kept(ORDER).await?;
        let order = kept.and_then(|kept| serde_json::from_slice::<Order>(&kept).ok());
        Ok(order.filter(|order| order.disk == disk))
    }

    /// How far it is.
    pub(super) fn remaking(&self, waits_for: &str) -> Remaking {
        let Order { id, shards, left, gone, .. } = self.clone();
        let shards = if left.is_empty() { BTreeSet::new() } else { shards };
        let waits_for = waits_for.to_owned();
        Remaking { order: id, left: left.len(), shards, to_remake: left, gone, waits_for }
    }
}

/// The replicas of one store that a node is to make again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// The shards.
    pub shards: BTreeSet<u32>,
    /// The disk with these replicas.
    disk: u64,
    /// The order that the node has taken last; `None`: it never had one on this disk.
    pub remaking: Option<Remaking>,
    /// Why they cannot be made again without a risk, each with its cure.
    pub obstacles: Vec<String>,
    /// Why the node does not tell whether it has an order: it is down, or does not have the store open.
    pub untold: Option<String>,
}

impl Replicas {
    /// Whether the node has an order about replicas of the store that is not done.
    pub fn are_being_made(&self) -> bool {
        self.remaking.as_ref().is_some_and(|it| it.left > 0)
    }

    /// As an order is not done, the reason why it cannot have these beside; `None`: it is about all of them.
    fn other_order(&self, node: &str, store: &str) -> Option<String> {
        let other = self.shards.iter().find(|it| {
            self.remaking.as_ref().is_none_or(|remaking| !remaking.shards.contains(it))
        })?;
        let off = reinit_off(node, store);
        Some(format!(
            "{node} makes other replicas of store {store} again, not that of shard {other}: wait until it is done, or \
             {off} ends that"
        ))
    }
}

/// A store, as Consul has it now.
struct Situation<'a> {
    store: &'a str,
    map: StoreMap,
    reports: Arc<StoreReports>,
    snapshot: Arc<Snapshot>,
}

impl<'a> Situation<'a> {
    /// `None`: there is no such store.
    async fn read(cluster: &Cluster, store: &'a str) -> Result<Option<Self>, Error> {
        let Some(map) = read_map(cluster, store).await?.0 else { return Ok(None) };
        let all = members_prefix(cluster.options());
        let prefix = format!("{all}{store}/");
        let args = Args::new().arg(prefix.as_str()).opt("consistent", true);
        let answer = cluster.client().call(&kv::LIST, &args).await?;
        check_whole(cluster, &answer, &prefix).await?;
        let state = State { answer, is_resynchronised: false, is_after_error: false };
        let reports = parse(&all, &state).remove(store).unwrap_or_default();
        let reports = reports.of(map.id);
        Ok(Some(Situation { store, map, reports, snapshot: cluster.snapshot() }))
    }

    /// The report of the present start of a node.
    fn record(&self, node: &str) -> Option<&MemberRecord> {
        let record = self.reports.members.get(node).map(|(record, _)| record)?;
        let live = self.snapshot.nodes.get(node).filter(|it| it.is_live)?;
        (live.record.incarnation == record.incarnation).then_some(record)
    }

    /// Why a node does not tell what it has of the store, with the cure.
    fn untold(&self, node: &str) -> Option<String> {
        let store = self.store;
        if !is_live(&self.snapshot, node) {
            return Some(format!("{node} is down: start it"));
        }
        let is_told = self.record(node).is_some();
        (!is_told).then(|| format!("{node} does not have store {store} open: its log says why"))
    }

    /// Why none of a node's replicas can be made again now, with the cure.
    fn obstacle(&self, node: &str) -> Option<String> {
        let Situation { store, map, snapshot, .. } = self;
        let shared = map.shared;
        let (most, least) = (
            shared.write_quorum.max(shared.read_quorum),
            shared.write_quorum.min(shared.read_quorum),
        );
        let numbers =
            format!("`consul-ha store-set {}` gives the store other numbers", operand(store, ""));
        Some(if let Some(why) = self.untold(node) {
            why
        } else if snapshot.leader.is_none() {
            "there is no leader, which would begin it: `consul-ha why` says why".to_owned()
        } else if !snapshot.frozen.is_empty() {
            let lost = snapshot.frozen.join(", ");
            format!(
                "the shard map is frozen since {lost} vanished: start them, or see `consul-ha thaw`"
            )
        } else if let Some(pause) = &snapshot.paused {
            format!("moves are paused by {}: `consul-ha resume` ends that", pause.by)
        } else if map.changing() > 0 || self.reports.wanted.is_some() {
            format!("the numbers of store {store} change: `consul-ha shards` shows how far that is")
        } else if shared.replicas == 1 {
            format!(
                "store {store} has one replica of each shard: there is no other to make it from; {numbers}"
            )
        } else if least < 2 {
            format!(
                "with write_quorum or read_quorum 1 a lost replica of store {store} needs an operator; {numbers}"
            )
        } else if most == shared.replicas {
            let what = if shared.write_quorum == most { "writes" } else { "reads" };
            format!(
                "{what} of store {store} need all {most} replicas, and would be refused meanwhile; {numbers}"
            )
        } else {
            return None;
        })
    }

    /// Why the replica of a shard cannot be made again now, with the cure.
    fn obstacle_of(&self, node: &str, shard: u32, entry: &Entry) -> Option<String> {
        if self.map.unrecovered.contains(&shard) {
            return Some(format!(
                "it is not known yet who has shard {shard}: `consul-ha why` says why"
            ));
        }
        if entry.vacant() > 0 {
            return Some(format!(
                "no node has one of the replicas of shard {shard}: start one node more"
            ));
        }
        if let Some(to) = entry.slots.iter().find_map(|slot| slot.target()) {
            return Some(format!(
                "{to} gets a replica of shard {shard}: wait until that has ended"
            ));
        }
        let mut holders = entry.counting().map(|(_, place)| place);
        holders.find_map(|place| self.doubt(node, shard, place))
    }

    /// Why the replica of a shard that a node has given up is not made at once, with the cure.
    fn delay(&self, own: Place, shard: u32, entry: &Entry) -> Option<String> {
        let node = &*own.node;
        // The leader has yet to begin it, or has begun, maybe on another node.
        let change = entry.failover_from(node, own.disk);
        let is_made_here = change.is_none_or(|change| &*change.to == node);
        let fails = self.record(node).is_some_and(|record| record.is_failing && is_made_here);
        let fails = fails.then(|| storage_fails(node));
        let not_begun = || change.is_none().then(|| self.obstacle(node)).flatten();
        let mut others = entry.counting().filter(|(_, place)| &*place.node != node);
        fails.or_else(not_begun).or_else(|| others.find_map(|(_, it)| self.doubt(node, shard, it)))
    }

    /// Why a replica may not be whole; of the own one only whether it counts.
    fn doubt(&self, node: &str, shard: u32, place: &Place) -> Option<String> {
        let holder = &*place.node;
        if !is_live(&self.snapshot, holder) {
            return Some(format!("{holder} with a replica of shard {shard} is down: start it"));
        }
        let Some(record) = self.record(holder) else {
            return Some(format!(
                "{holder} does not have store {} open: its log says why",
                self.store
            ));
        };
        let report = &record.report;
        let is_missing = record.disk != place.disk
            || report.missing.contains(&shard)
            || report.doubted.iter().any(|(it, _)| *it == shard);
        if is_missing {
            return Some(format!(
                "the replica of shard {shard} on {holder} is missing or in doubt: wait until it is whole"
            ));
        }
        (record.is_failing && holder != node).then(|| storage_fails(holder))
    }
}

/// The replicas of a node that would be made again: of one store or all, and of these shards or all.
///
/// # Errors
/// [`Kind::NotFound`] if there is no such node or store; [`Kind::Argument`] for a shard without a replica on the node; errors of
/// the calls.
pub async fn find(
    cluster: &Cluster,
    node: &str,
    store: Option<&str>,
    shards: &BTreeSet<u32>,
) -> Result<BTreeMap<String, Replicas>, Error> {
    if !cluster.snapshot().nodes.contains_key(node) {
        return Err(no_such_node(node));
    }
    let known = Vec::from_iter(outside::maps(cluster).await?.into_keys());
    if let Some(store) = store.filter(|store| !known.iter().any(|it| it == store)) {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let why = unknown("store", store, &known);
        return Err(Error::new(Kind::NotFound, why).with_maybe_applied(false));
    }
    let mut found = BTreeMap::new();
    for name in known.iter().filter(|name| store.is_none_or(|store| store == *name)) {
        let Some(situation) = Situation::read(cluster, name).await? else { continue };
        let entries = || situation.map.entries().filter(|(_, entry)| entry.names(node));
        let held = BTreeSet::from_iter(entries().map(|(shard, _)| shard));
        let record = situation.record(node);
        let remaking = record.and_then(|record| record.remaking.clone());
        if let Some(shard) = shards.difference(&held).next() {
            return Err(Error::argument(format!(
                "{node} has no replica of shard {shard} of store {name}"
            )));
        }
        // The rest of an order may be about replicas that others have got meanwhile.
        if held.is_empty() && remaking.as_ref().is_none_or(|it| it.left == 0) {
            continue;
        }
        let shards = if shards.is_empty() { held } else { shards.clone() };
        let mut obstacles = Vec::from_iter(situation.obstacle(node));
        let others = situation.reports.members.keys().filter(|id| &***id != node);
        // The order of a node that is down, maybe for good, says nothing.
        let is_busy = |id: &&NodeId| {
            let remaking = situation.record(id).and_then(|record| record.remaking.as_ref());
            remaking.is_some_and(|it| it.left > 0)
        };
        obstacles.extend(others.filter(is_busy).map(|id| {
            format!("{id} makes its replicas of store {name} again: wait until it is done")
        }));
        let of_shards = entries().filter(|(shard, _)| shards.contains(shard));
        let of_shards = of_shards.filter_map(|(shard, it)| situation.obstacle_of(node, shard, it));
        obstacles.extend(of_shards);
        let disk = record.map_or(0, |record| record.disk.0);
        let untold = situation.untold(node);
        let mut replicas = Replicas { shards, disk, remaking, obstacles, untold };
        if replicas.are_being_made() {
            replicas.obstacles = Vec::from_iter(replicas.other_order(node, name));
        }
        found.insert(name.clone(), replicas);
    }
    Ok(found)
}

/// How far a node is with its orders about these stores, as far as it tells.
///
/// # Errors
/// Errors of the calls.
pub async fn told(
    cluster: &Cluster,
    node: &str,
    stores: impl Iterator<Item = &String>,
) -> Result<BTreeMap<String, Remaking>, Error> {
    let mut told = BTreeMap::new();
    for store in stores {
        let situation = Situation::read(cluster, store).await?;
        let record = situation.as_ref().and_then(|situation| situation.record(node));
        told.extend(record.and_then(|it| Some((store.clone(), it.remaking.clone()?))));
    }
    Ok(told)
}

/// Refuses what cannot be made again without a risk.
///
/// # Errors
/// [`Kind::Conflict`] with the obstacles.
pub fn check(node: &str, replicas: &BTreeMap<String, Replicas>) -> Result<(), Error> {
    let obstacles = BTreeSet::from_iter(replicas.values().flat_map(|it| &it.obstacles));
    let why = match replicas.is_empty() {
        true => format!("{node} has no replica of a store"),
        false if obstacles.is_empty() => return Ok(()),
        false => listed(obstacles, (SHOWN, "; ")),
    };
    Err(Error::new(Kind::Conflict, why).with_maybe_applied(false))
}

/// Asks a node to make these replicas again, but for those that it makes already. `None`: it makes all of them.
///
/// # Errors
/// As [`check`]; errors of the calls.
pub async fn ask(
    cluster: &Cluster,
    node: &str,
    replicas: &BTreeMap<String, Replicas>,
) -> Result<Option<Asked>, Error> {
    check(node, replicas)?;
    let new: Vec<_> = replicas.iter().filter(|(_, it)| !it.are_being_made()).collect();
    if new.is_empty() {
        return Ok(None);
    }
    let new = new.into_iter().map(|(store, it)| (store, it.disk, &it.shards));
    cluster.ask_reinit(node, new).await.map(Some)
}

/// The command that ends what an operator has ordered of a node's replicas.
pub(crate) fn reinit_off(node: &str, store: &str) -> String {
    format!("`consul-ha reinit {}`", operands(&[node, store], "--off"))
}

fn no_map(store: &str) -> String {
    format!("store {store} has no map in Consul")
}

fn storage_fails(node: &str) -> String {
    format!("the storage of {node} fails: mend it, `consul-ha why` says what fails")
}

/// Asks a node to make no more replicas of these stores again. A replica that it has given up it makes to its end.
///
/// # Errors
/// Errors of the calls.
pub async fn end(
    cluster: &Cluster,
    node: &str,
    replicas: &BTreeMap<String, Replicas>,
) -> Result<Asked, Error> {
    let none = BTreeSet::new();
    cluster.ask_reinit(node, replicas.iter().map(|(store, it)| (store, it.disk, &none))).await
}

impl Member {
    /// Makes replicas again as operators order it.
    pub(super) async fn make_again(&self, store: &Store) -> Infallible {
        let (mut asked, mut maps) = (store.cluster.reinits.subscribe(), store.map.subscribe());
        let mut pause = SHORTEST_PAUSE;
        let name = &store.options.name;
        let own_disk = self.transfer.holder.disk();
        let mut order = self.kept_order.clone();
        loop {
            let new = asked.borrow_and_update().get(name).cloned();
            let is_new = |new: &Reinit| order.as_ref().is_none_or(|it| it.id != new.order);
            if let Some(new) = new.filter(|new| Disk(new.disk) == own_disk && is_new(new)) {
                let before = order.take();
                let given_up = before.as_ref().and_then(|order| order.given_up);
                // Two operators may have ordered at the same time; an order of no shards ends all.
                let unfinished = before.filter(|it| !it.left.is_empty() && !new.shards.is_empty());
                let (left, gone) = unfinished.map(|it| (it.left, it.gone)).unwrap_or_default();
                let shards = new.shards.into_iter().chain(left).chain(given_up);
                let shards = BTreeSet::from_iter(shards);
                tracing::info!(
                    store = name,
                    shards = shards.len(),
                    "an operator has replicas of this node made again"
                );
                let (id, left) = (new.order, shards.clone());
                let mut new = Order { id, disk: own_disk, shards, left, given_up, gone };
                self.leave_out_what_has_left(store, &mut new).await;
                self.keep_order(store, &new).await;
                order = Some(new);
            }
            let waits_for = match &mut order {
                Some(order) if !order.left.is_empty() => {
                    let before = order.clone();
                    let waits_for = self.make_next_again(store, order).await;
                    if *order != before {
                        self.keep_order(store, order).await;
                        pause = SHORTEST_PAUSE;
                    }
                    waits_for
                }
                _ => String::new(),
            };
            let remaking = order.as_ref().map(|order| order.remaking(&waits_for));
            let is_busy = remaking.as_ref().is_some_and(|it| it.left > 0);
            self.tell_remaking(remaking);
            // An order that waits reads what it waits for less and less often.
            tokio::select! {
                biased;
                _ = asked.changed() => pause = SHORTEST_PAUSE,
                Ok(()) = maps.changed(), if is_busy => {
                    pause = SHORTEST_PAUSE;
                    store.sleep(pause).await;
                }
                () = store.sleep(pause), if is_busy => pause = LONGEST_PAUSE.min(pause * 2),
            }
        }
    }

    /// Lets no move end from now on that copies a replica of an order that the node takes, and leaves out the replicas that
    /// moves have copied already.
    async fn leave_out_what_has_left(&self, store: &Store, order: &mut Order) {
        let holder = &self.transfer.holder;
        holder.set_to_remake(&order.left);
        let Some(map) = store.map.borrow().clone() else { return };
        for shard in order.left.iter().copied().filter(|it| order.given_up != Some(*it)) {
            let Some(entry) = map.map.shards.get(shard as usize) else { continue };
            if holder.has_left(shard, entry).await {
                order.gone.insert(shard);
            }
        }
        order.left.retain(|shard| !order.gone.contains(shard));
    }

    /// Keeps the order on the disk; without that nothing is given up.
    async fn keep_order(&self, store: &Store, order: &Order) {
        self.transfer.holder.set_to_remake(&order.left);
        let bytes = serde_json::to_vec(order).unwrap_or_default();
        while let Err(error) =
            self.transfer.holder.storage().keep(ORDER, bytes.clone().into()).await
        {
            tracing::debug!(store = store.options.name, %error, "an order was not kept");
            let known = lock(&self.remaking).clone();
            let waits_for = storage_fails(self.transfer.holder.node());
            self.tell_remaking(known.map(|it| Remaking { waits_for, ..it }));
            store.sleep(PAUSE).await;
        }
    }

    fn tell_remaking(&self, remaking: Option<Remaking>) {
        if *lock(&self.remaking) != remaking {
            *lock(&self.remaking) = remaking;
            self.tell_news();
        }
    }

    /// Whether nothing is left of the node's replica of a shard but what others give it.
    async fn is_made(&self, shard: u32) -> bool {
        let state = self.transfer.holder.state(shard).await;
        !state.is_whole && state.doubt.is_none()
    }

    /// Goes on with an order. Returns why it waits; empty: it does not.
    async fn make_next_again(&self, store: &Store, order: &mut Order) -> String {
        let (holder, name) = (&self.transfer.holder, &store.options.name);
        let own = holder.node();
        let Some(map) = store.map.borrow().clone() else { return String::new() };
        let entry = |shard: u32| map.map.shards.get(shard as usize);
        // Another node has made it from the others, or the shard has fewer replicas now: no move has copied it. The rest of
        // it goes at once, or the node would keep that when it gets the shard again.
        for shard in order.left.clone() {
            let Some(entry) = entry(shard).filter(|it| !it.names(own)) else { continue };
            if !map.unrecovered.contains(&shard) && holder.has_left(shard, entry).await {
                match self.transfer.drop_unnamed(shard, entry).await {
                    Ok(true) => _ = order.left.remove(&shard),
                    Ok(false) => {}
                    Err(error) => tracing::debug!(store = name, shard, %error, "a drop waits"),
                }
            }
        }
        if let Some((shard, entry)) = order.given_up.and_then(|it| Some((it, entry(it)?))) {
            // The replica may know more than the map that came last: then it is whole, and does not count yet.
            let state = holder.state(shard).await;
            let entry = state.newest(entry);
            if order.left.contains(&shard) && !holder.counts(shard, entry).await {
                return match Situation::read(&store.cluster, name).await {
                    Ok(Some(situation)) => {
                        let own = Place { node: own.clone(), disk: holder.disk(), is_first: false };
                        situation.delay(own, shard, entry).unwrap_or_default()
                    }
                    Ok(None) => no_map(name),
                    Err(error) => error.message().to_owned(),
                };
            }
            order.left.remove(&shard);
        }
        order.given_up = None;
        if order.left.is_empty() {
            tracing::info!(store = name, "an operator's order to make replicas again is done");
            return String::new();
        }
        let situation = match Situation::read(&store.cluster, name).await {
            Ok(Some(situation)) => situation,
            Ok(None) => return no_map(name),
            Err(error) => return error.message().to_owned(),
        };
        if let Some(obstacle) = situation.obstacle(own) {
            return obstacle;
        }
        let mut waits_for = String::new();
        for (shard, entry) in order.left.iter().filter_map(|it| Some((*it, entry(*it)?))) {
            let has_left = || {
                let why = format!(
                    "shard {shard} is not {own}'s any more: it drops what it has when all its replicas are there"
                );
                (!entry.names(own)).then_some(why)
            };
            let obstacle = match has_left().or_else(|| situation.obstacle_of(own, shard, entry)) {
                None => match self.transfer.give_up(shard, entry).await {
                    Ok(true) => {
                        order.given_up = Some(shard);
                        self.tell_news();
                        return String::new();
                    }
                    Ok(false) => format!("the replica of shard {shard} does not count now"),
                    Err(error) => error.message().to_owned(),
                },
                // It is made again already; a whole replica that only does not count for a while is not.
                Some(_) if self.is_made(shard).await => {
                    order.given_up = Some(shard);
                    return String::new();
                }
                Some(obstacle) => obstacle,
            };
            if waits_for.is_empty() {
                waits_for = obstacle;
            }
        }
        waits_for
    }
}
