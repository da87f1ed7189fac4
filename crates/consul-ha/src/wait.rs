//! The waits for a node that drains, leaves or makes replicas again.
//!
//! An empty Consul says of each node that it has no shard and no key. So a wait knows what was there before.

use super::connection::Session;
use super::failure::Failure;
use super::follow::is_note;
use super::output::{Output, counted, line, say};
use super::progress::Progress;
use consul_cluster::shell::listed;
use consul_cluster::stores::outside::{HeldShards, held_shards};
use consul_cluster::stores::reinit::{Remaking, told};
use consul_cluster::{Asked, Cluster, Leave, Mode, Node, Record, Snapshot};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pause between two looks of a wait.
const PAUSE: Duration = Duration::from_millis(500);

/// The input of a wait; nothing while Consul has a short failure, which is printed.
pub fn during_wait<T, E: Into<Failure>>(read: Result<T, E>) -> Result<Option<T>, Failure> {
    match read.map_err(Into::into) {
        Ok(read) => Ok(Some(read)),
        Err(Failure::Call(error)) if error.is_transient() => {
            say(&format!("consul-ha: {error}"));
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// The failure of a wait during which Consul has lost its data.
pub fn lost_data(lost: &str, unknown: &str) -> Failure {
    Failure::Limit(format!("Consul has lost its data: {lost}; {unknown}"))
}

/// The cluster at one moment, as far as a wait for a node needs it.
struct Now {
    snapshot: Arc<Snapshot>,
    stores: BTreeMap<String, HeldShards>,
}

impl Now {
    async fn of(cluster: &Cluster, node: &str) -> Result<Now, Failure> {
        let stores = held_shards(cluster, node).await?;
        Ok(Now { snapshot: cluster.snapshot(), stores })
    }

    async fn look(session: &Session, node: &str) -> Result<Now, Failure> {
        Now::of(&*session.look().await?, node).await
    }

    /// The epoch of the shard map, 0 if there is none; `None`: it cannot be read.
    fn epoch(&self) -> Option<u64> {
        match &self.snapshot.map {
            Some(map) => Some(map.epoch()),
            None => self.snapshot.unreadable.is_empty().then_some(0),
        }
    }

    fn record(&self, node: &str) -> Option<&Record> {
        self.snapshot.nodes.get(node).map(|node| &*node.record)
    }

    /// How many shards of the map and of the stores name a node that drains.
    fn left(&self, node: &str) -> Result<usize, Failure> {
        let of_stores: usize = self.stores.values().map(|held| held.shards).sum();
        Ok(left_of_map(&self.snapshot, node)? + of_stores)
    }
}

/// How many shards of the map name it.
fn left_of_map(snapshot: &Snapshot, node: &str) -> Result<usize, Failure> {
    if snapshot.nodes.get(node).is_some_and(|it| it.record.mode == Mode::Active) {
        return Err(Failure::Refused(format!("{node} is active again")));
    }
    if let Some(why) = snapshot.unreadable.first() {
        return Err(Failure::Refused(format!("it is not known what {node} has: {why}")));
    }
    Ok(snapshot.map.as_ref().map_or(0, |map| map.shards_of(node).len()))
}

/// The newest that a wait has seen, and what Consul has lost of it.
#[derive(Debug, Default)]
pub struct Seen {
    /// The epoch of the shard map.
    epoch: u64,
    /// The identity and the version of each store's map.
    stores: BTreeMap<String, (Option<u64>, u64)>,
    /// The modify index of each node's key.
    keys: BTreeMap<String, u64>,
    lost: Option<String>,
}

impl Seen {
    /// The state before the wait.
    pub async fn of(cluster: &Cluster, node: &str) -> Result<Seen, Failure> {
        let mut seen = Seen::default();
        seen.note(&Now::of(cluster, node).await?);
        Ok(seen)
    }

    /// The loss of Consul, as of the last look.
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// Notes the present state, or that Consul has lost data, which is printed once. Whether it is whole.
    fn note(&mut self, now: &Now) -> bool {
        let lost = self.missing(now);
        if let Some(what) = lost.as_ref().filter(|_| self.lost.is_none()) {
            say(&format!("consul-ha: Consul has lost its data: {what}"));
        }
        self.lost = lost;
        if self.lost.is_some() {
            return false;
        }
        self.epoch = now.epoch().unwrap_or(self.epoch);
        let version =
            |(store, held): (&String, &HeldShards)| (store.clone(), (held.store_id, held.version));
        self.stores.extend(now.stores.iter().map(version));
        let key = |(id, node): (&String, &Node)| (id.clone(), node.modify_index);
        self.keys.extend(now.snapshot.nodes.iter().map(key));
        true
    }

    /// The part of all that was seen that is gone or older now. A key that was written again has a later index.
    fn missing(&self, now: &Now) -> Option<String> {
        let went_back = |what: &str, from: u64, to: u64| {
            (to < from).then(|| match to {
                0 => format!("{what} is gone"),
                _ => format!("{what} went back from {from} to {to}"),
            })
        };
        let of_store = |(store, (id, version)): (&String, &(Option<u64>, u64))| {
            let name = format!("the map of store {store}");
            match now.stores.get(store) {
                Some(held) if held.store_id != *id => Some(format!("{name} is of another store")),
                held => went_back(&name, *version, held.map_or(0, |held| held.version)),
            }
        };
        let no_keys = (now.snapshot.nodes.is_empty() && !self.keys.is_empty())
            .then(|| "no node has a key".to_owned());
        let of_key = |(id, node): (&String, &Node)| {
            let seen = self.keys.get(id).copied().unwrap_or_default();
            went_back(&format!("the key of {id}"), seen, node.modify_index)
        };
        now.epoch()
            .and_then(|epoch| went_back("the shard map", self.epoch, epoch))
            .or_else(|| self.stores.iter().find_map(of_store))
            .or_else(|| now.snapshot.nodes.iter().find_map(of_key))
            .or(no_keys)
    }
}

/// Waits until neither the shard map nor a store names a node.
pub async fn until_empty(
    session: &Session,
    node: &str,
    seen: Seen,
    limit: u64,
    output: Output,
) -> Result<(), Failure> {
    let unknown = format!("it is not known what {node} has");
    let over = |left: &str| format!("{node} still has {left} after {limit} s, and drains");
    until(session, node, seen, (limit, output), |_| true, &unknown, over).await
}

/// Waits until a node that leaves has no shard, and has deleted its key.
pub async fn until_gone(
    session: &Session,
    node: &str,
    seen: Seen,
    limit: u64,
    output: Output,
) -> Result<(), Failure> {
    let unknown = format!("it is not known whether {node} has left");
    let over = |_: &str| format!("{node} has not left after {limit} s, and drains");
    let is_gone = |now: &Now| now.record(node).is_none();
    until(session, node, seen, (limit, output), is_gone, &unknown, over).await
}

async fn until(
    session: &Session,
    node: &str,
    mut seen: Seen,
    (limit, output): (u64, Output),
    is_done: impl Fn(&Now) -> bool,
    unknown: &str,
    over: impl Fn(&str) -> String,
) -> Result<(), Failure> {
    let end = Instant::now() + Duration::from_secs(limit);
    let mut progress = Progress::new(&format!("shards of {node}"), output.json);
    loop {
        let mut left = "shards".to_owned();
        if let Some(now) = during_wait(Now::look(session, node).await)?
            && seen.note(&now)
        {
            let count = now.left(node)?;
            if count == 0 && is_done(&now) {
                return Ok(());
            }
            progress.tell(count);
            left = counted(count, "shard");
        }
        if Instant::now() >= end {
            return Err(match seen.lost() {
                Some(lost) => lost_data(lost, unknown),
                None => Failure::Limit(over(&left) + &obstacles(session, node).await),
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The problems of a cluster, as the end of a message about a wait for a node that has not ended; an order for which its
/// moves wait is one of them.
async fn obstacles(session: &Session, node: &str) -> String {
    let Ok(view) = session.settled_view().await else { return String::new() };
    let problems = view
        .overview
        .problems
        .iter()
        .filter(|it| !is_note(it) || it.problem == "replicas_made_again" && it.of == node);
    problems.take(SHOWN).map(|problem| format!("; {}", line(&problem.text))).collect()
}

/// How many problems such a message names.
const SHOWN: usize = 3;

/// Whether a node has taken the request to leave.
pub async fn has_taken(session: &Session, asked: &Asked, seen: &mut Seen) -> Result<bool, Failure> {
    let node = &asked.node_id;
    let now = Now::look(session, node).await?;
    match &asked.request.leave {
        Some(leave) if seen.note(&now) => {
            taken(node, now.record(node), leave).map_err(Failure::Refused)
        }
        _ => Ok(false),
    }
}

/// As [`has_taken`]; `Err`: why the node will not take it. It drains with the write that takes the request.
fn taken(node: &str, record: Option<&Record>, leave: &Leave) -> Result<bool, String> {
    let Some(record) = record else { return Ok(true) };
    let asked = record.request.as_ref().and_then(|request| request.leave.as_ref());
    if record.incarnation != leave.incarnation {
        return Err(format!("{node} has been started again: that start was not asked to leave"));
    }
    match (asked == Some(leave), record.mode) {
        (true, _) => Ok(false),
        (false, Mode::Draining) => Ok(true),
        (false, _) => {
            Err(format!("{node} stays: somebody has withdrawn the request, or has made it active"))
        }
    }
}

/// The orders that a node has, by store, to make its replicas again.
pub struct Orders<'a> {
    pub node: &'a str,
    pub orders: BTreeMap<String, u64>,
}

impl Orders<'_> {
    /// The members, and the node's word about each of the stores.
    async fn told(
        &self,
        session: &Session,
    ) -> Result<(Arc<Snapshot>, BTreeMap<String, Remaking>), Failure> {
        let cluster = session.look().await?;
        let told = told(&cluster, self.node, self.orders.keys()).await?;
        Ok((cluster.snapshot(), told))
    }

    /// How many of the orders the node tells.
    fn known(&self, told: &BTreeMap<String, Remaking>) -> usize {
        told.iter().filter(|(store, it)| self.orders.get(*store) == Some(&it.order)).count()
    }

    /// Why it is not known how far the node is; `None`: it is known.
    fn unknown(&self, snapshot: &Snapshot, told: &BTreeMap<String, Remaking>) -> Option<Untold> {
        let Orders { node, orders } = self;
        if self.known(told) == orders.len() {
            return None;
        }
        Some(if told.len() == orders.len() {
            let why = format!(
                "{node} has another order now: somebody has given it, or has ended this one by `--off`"
            );
            Untold { why, is_over: true }
        } else if snapshot.nodes.contains_key(*node) {
            let why = format!("{node} does not tell: it is down, or has another disk now");
            Untold { why, is_over: false }
        } else {
            let why = format!(
                "{node} is not a member now: it has left or was forgotten, or Consul has lost its data"
            );
            Untold { why, is_over: false }
        })
    }

    /// Whether the node takes them within this time.
    pub async fn are_taken(&self, session: &Session, within: u64) -> Result<bool, Failure> {
        let end = Instant::now() + Duration::from_secs(within);
        loop {
            if let Some((_, told)) = during_wait(self.told(session).await)?
                && self.known(&told) == self.orders.len()
            {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until all replicas are made again.
    pub async fn until_made(
        &self,
        session: &Session,
        limit: u64,
        output: Output,
    ) -> Result<(), Failure> {
        let node = self.node;
        let end = Instant::now() + Duration::from_secs(limit);
        let mut progress = Progress::new(&format!("replicas of {node}"), output.json);
        let (mut obstacle, mut lost_since) = (String::new(), None);
        loop {
            if let Some((snapshot, told)) = during_wait(self.told(session).await)? {
                let unknown = self.unknown(&snapshot, &told);
                let left: usize = told.values().map(|it| it.left).sum();
                if unknown.is_none() && left == 0 {
                    return made(node, &told);
                }
                let waits_for = told.values().map(|it| &it.waits_for).find(|why| !why.is_empty());
                let now = match &unknown {
                    Some(untold) => untold.why.clone(),
                    None => waits_for.cloned().unwrap_or_default(),
                };
                if unknown.is_none() {
                    progress.tell(left);
                }
                if now != obstacle && !now.is_empty() {
                    say(&format!("consul-ha: it waits: {now}"));
                }
                obstacle = now;
                let since = *lost_since.get_or_insert_with(Instant::now);
                match unknown {
                    None => lost_since = None,
                    Some(it) if it.is_over && since.elapsed() >= RESTORED_WITHIN => {
                        return Err(Failure::Refused(it.why));
                    }
                    Some(it) if since.elapsed() >= TELLS_AGAIN_WITHIN => {
                        return Err(Failure::Limit(it.why));
                    }
                    Some(_) => {}
                }
            }
            if Instant::now() >= end {
                let why = if obstacle.is_empty() { String::new() } else { format!(": {obstacle}") };
                return Err(Failure::Limit(format!(
                    "{node} has not made all replicas again after {limit} s, and goes on{why}"
                )));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Why it is not known how far a node is with an order.
struct Untold {
    why: String,
    /// Whether the order has ended.
    is_over: bool,
}

/// The end of a wait for orders that have nothing left.
fn made(node: &str, told: &BTreeMap<String, Remaking>) -> Result<(), Failure> {
    let gone = told.iter().filter(|(_, it)| !it.gone.is_empty());
    let gone =
        gone.map(|(store, it)| format!("shards {} of {store}", listed(&it.gone, (SHOWN, ", "))));
    let gone = Vec::from_iter(gone).join("; ");
    if gone.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "the replicas of {gone} had moved to other nodes when {node} took the order: these may have copied what is wrong, \
         `consul-ha shards` names them; make them again there"
    )))
}

/// How long a node may be away during a wait for what it makes again: a restart.
const TELLS_AGAIN_WITHIN: Duration = Duration::from_secs(120);

/// How long Consul may have an older report of a node: it was set back.
const RESTORED_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use consul_cluster::shard_map::ShardMap;
    use consul_cluster::{Complaint, Request};
    use serde_json::json;

    fn record(mode: Mode) -> Record {
        let record = json!({
            "id": "n1", "address": "a:1", "weight": 1.0, "mode": mode.name(), "started_ms": 1, "incarnation": "i",
        });
        serde_json::from_value(record).expect("a record")
    }

    /// A node with a key of this modify index, and a map of this epoch in which n1 has the only shard.
    fn now(modify_index: u64, epoch: u64) -> Now {
        let node = Node {
            record: record(Mode::Draining).into(),
            modify_index,
            is_live: true,
            down_since: None,
            vanished_at: None,
            complaint: Complaint::default(),
        };
        let map = json!({
            "format": 1, "epoch": epoch, "token": 1, "replicas": 1, "nodes": ["n1"], "shards": [[0]],
        });
        let map = ShardMap::decode(map.to_string().as_bytes()).expect("a map");
        let mut snapshot = Snapshot::default();
        snapshot.nodes.insert("n1".to_owned(), node);
        snapshot.map = Some(Arc::new(map));
        let held = HeldShards { store_id: Some(1), version: 5, shards: 2 };
        Now { snapshot: Arc::new(snapshot), stores: [("points".to_owned(), held)].into() }
    }

    fn without_snapshot(stores: BTreeMap<String, HeldShards>) -> Now {
        Now { snapshot: Arc::default(), stores }
    }

    /// The data that is lost now, after this was seen.
    fn lost(now: &Now) -> Option<String> {
        let mut seen = Seen::default();
        assert!(seen.note(&self::now(8, 7)));
        seen.note(now);
        seen.lost
    }

    #[test]
    fn what_consul_has_no_more_is_lost_also_if_only_a_part_went_back() {
        assert_eq!(lost(&now(9, 8)), None);
        let empty = without_snapshot(BTreeMap::new());
        assert_eq!(lost(&empty), Some("the shard map is gone".to_owned()));
        assert_eq!(lost(&now(9, 6)), Some("the shard map went back from 7 to 6".to_owned()));
        assert_eq!(lost(&now(7, 8)), Some("the key of n1 went back from 8 to 7".to_owned()));
        let no_stores = Now { stores: BTreeMap::new(), ..now(9, 8) };
        assert_eq!(lost(&no_stores), Some("the map of store points is gone".to_owned()));
        let mut older = now(9, 8);
        older.stores.get_mut("points").expect("it").version = 4;
        assert_eq!(lost(&older), Some("the map of store points went back from 5 to 4".to_owned()));
        let mut other = now(9, 8);
        other.stores.get_mut("points").expect("it").store_id = Some(2);
        assert_eq!(lost(&other), Some("the map of store points is of another store".to_owned()));
        let mut seen = Seen::default();
        seen.note(&Now { snapshot: now(8, 7).snapshot, stores: BTreeMap::new() });
        seen.epoch = 0;
        seen.note(&without_snapshot(BTreeMap::new()));
        assert_eq!(seen.lost(), Some("no node has a key"));
    }

    #[test]
    fn what_was_put_back_is_whole_again() {
        let mut seen = Seen::default();
        assert!(seen.note(&now(8, 7)));
        assert!(!seen.note(&now(8, 6)));
        assert!(seen.note(&now(8, 7)));
        assert_eq!(seen.lost(), None);
    }

    fn refusal(left: Result<usize, Failure>) -> String {
        left.map_or_else(|failure| failure.to_string(), |left| format!("{left} left"))
    }

    #[test]
    fn a_drain_is_not_over_while_the_map_is_not_known() {
        let drains = now(8, 7);
        assert_eq!(refusal(drains.left("n1")), "3 left");
        assert_eq!(refusal(left_of_map(&drains.snapshot, "n3")), "0 left", "a node that is gone");
        let mut unknown = Snapshot::default();
        unknown.unreadable = vec!["ha/shards/map: junk".to_owned()];
        assert_eq!(
            refusal(left_of_map(&unknown, "n1")),
            "it is not known what n1 has: ha/shards/map: junk"
        );
    }

    #[test]
    fn a_map_that_cannot_be_read_is_not_lost() {
        let mut seen = Seen::default();
        assert!(seen.note(&now(8, 7)));
        let mut unreadable = now(8, 7);
        let snapshot = Arc::get_mut(&mut unreadable.snapshot).expect("one owner");
        snapshot.map = None;
        snapshot.unreadable = vec!["ha/shards/map: junk".to_owned()];
        assert!(seen.note(&unreadable));
        assert!(!seen.note(&now(8, 6)), "the epoch is known as before");
    }

    #[test]
    fn the_wait_for_a_drain_that_was_ended_ends() {
        let mut now = now(8, 7);
        let snapshot = Arc::get_mut(&mut now.snapshot).expect("one owner");
        snapshot.nodes.get_mut("n1").expect("it").record = record(Mode::Active).into();
        assert_eq!(refusal(now.left("n1")), "n1 is active again");
    }

    #[test]
    fn a_request_is_taken_only_if_the_node_drains_without_it() {
        let leave = Leave { incarnation: "i".to_owned() };
        let asked = |mode| Record {
            request: Some(Request { leave: Some(leave.clone()), ..Request::default() }),
            ..record(mode)
        };
        let said = |record: Option<&Record>| taken("n1", record, &leave);
        assert_eq!(said(Some(&asked(Mode::Active))), Ok(false));
        assert_eq!(said(Some(&asked(Mode::Draining))), Ok(false));
        assert_eq!(said(Some(&record(Mode::Draining))), Ok(true));
        assert_eq!(said(None), Ok(true));
        let withdrawn = said(Some(&record(Mode::Active))).expect_err("it stays");
        assert!(withdrawn.contains("has withdrawn the request"), "{withdrawn}");
        let again = Record { incarnation: "j".to_owned(), ..record(Mode::Draining) };
        let again = said(Some(&again)).expect_err("another start");
        assert!(again.contains("n1 has been started again"), "{again}");
    }

    #[test]
    fn an_order_whose_replicas_had_moved_is_not_called_done() {
        let remaking = |gone: &[u32]| Remaking {
            order: 7,
            gone: gone.iter().copied().collect(),
            ..Remaking::default()
        };
        let told = |gone: &[u32]| BTreeMap::from([("points".to_owned(), remaking(gone))]);
        assert!(made("n3", &told(&[])).is_ok());
        let why = made("n3", &told(&[1, 4, 5, 7])).expect_err("not made").to_string();
        assert!(
            why.contains("shards 1, 4, 5 and 1 more of points had moved to other nodes"),
            "{why}"
        );
    }

    #[test]
    fn another_order_has_ended_the_first_and_a_node_that_does_not_tell_has_not() {
        let orders = Orders { node: "n1", orders: BTreeMap::from([("points".to_owned(), 7)]) };
        let snapshot = now(1, 1).snapshot;
        let told = |order| {
            BTreeMap::from([("points".to_owned(), Remaking { order, ..Remaking::default() })])
        };
        let unknown = |snapshot: &Snapshot, told: &BTreeMap<String, Remaking>| {
            orders.unknown(snapshot, told).map(|it| (it.is_over, it.why))
        };
        assert_eq!(unknown(&snapshot, &told(7)), None);
        let (is_over, why) = unknown(&snapshot, &told(8)).expect("another order");
        assert!(is_over && why.contains("n1 has another order now"), "{why}");
        let (is_over, why) = unknown(&snapshot, &BTreeMap::new()).expect("nothing is told");
        assert!(!is_over && why.contains("n1 does not tell"), "{why}");
        let (is_over, why) =
            unknown(&Snapshot::default(), &BTreeMap::new()).expect("nothing is told");
        assert!(!is_over && why.contains("n1 is not a member now"), "{why}");
    }
}
