//! Stores as their maps in Consul show them, for operators whose process has none of them open.

use super::document::StoreMap;
use super::lists::check_whole;
use super::reports::{LossAcceptance, Wanted, log_acceptance};
use super::{accepted_key, is_live, map_key, members_prefix, read_map, wanted_key};
use crate::keys::{self, Update};
use crate::nodes::rights::Right;
use crate::{Cluster, Options, Unchanged};
use consul_api::api::kv;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::value::Value;
use consul_api::value::shape::unknown;
use consul_client::coordination::{set, transact, unchanged};
use consul_replication::map::{Entry, NodeId, Place, Quorums};
use std::collections::{BTreeMap, BTreeSet};

/// The maps of all stores by name. A map of another release is an error.
pub(super) async fn maps(cluster: &Cluster) -> Result<BTreeMap<String, StoreMap>, Error> {
    let prefix = map_key(cluster.options(), "");
    let args = Args::new().arg(prefix.as_str()).opt("consistent", true);
    let listed = cluster.client().call(&kv::LIST, &args).await?;
    check_whole(cluster, &listed, &prefix).await?;
    let mut maps = BTreeMap::new();
    for entry in listed.value.items() {
        let key = entry.get("Key").and_then(Value::as_str);
        let Some((key, store)) = key.and_then(|key| Some((key, key.strip_prefix(&prefix)?))) else {
            continue;
        };
        if let Some(Value::Bytes(bytes)) = entry.get("Value") {
            let map = StoreMap::decode(bytes).map_err(|error| error.context(key))?;
            maps.insert(store.to_owned(), map);
        }
    }
    Ok(maps)
}

/// The part of a node in the map of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldShards {
    /// Which store it is; `None`: a release before ids has written the map.
    pub store_id: Option<u64>,
    /// The version of the map.
    pub version: u64,
    /// How many of its shards name the node, or may be its: since Consul went back it is not known who has them.
    pub shards: usize,
}

/// The part of a node in the maps of all stores.
///
/// # Errors
/// Errors of the call; [`Kind::PermissionDenied`] if ACLs hide some; [`Kind::Unsupported`] for a map of another
/// release.
pub async fn held_shards(
    cluster: &Cluster,
    node: &str,
) -> Result<BTreeMap<String, HeldShards>, Error> {
    let of = |map: StoreMap| {
        let may_be =
            |(shard, entry): &(u32, &Entry)| map.unrecovered.contains(shard) || entry.names(node);
        let shards = map.entries().filter(may_be).count();
        HeldShards { store_id: map.id.map(|id| id.0), version: map.map.version, shards }
    };
    Ok(maps(cluster).await?.into_iter().map(|(store, map)| (store, of(map))).collect())
}

/// The stores whose replicas a node has or may get, each with the number of nodes that it needs.
///
/// # Errors
/// As [`held_shards`].
pub async fn needed_nodes(cluster: &Cluster, node: &str) -> Result<BTreeMap<String, usize>, Error> {
    let mut maps = maps(cluster).await?;
    let snapshot = cluster.snapshot();
    let may_get = snapshot.live().any(|it| it.record.id == node && it.record.may_get_shards());
    maps.retain(|_, map| may_get || map.names(node));
    Ok(maps.into_iter().map(|(store, map)| (store, map.shared.replicas)).collect())
}

/// The nodes with the replicas that are missing of a shard, if the store's map has the version `at`, or those
/// among `of` if that names some; `None`: it is not known which are missing.
///
/// # Errors
/// [`Kind::NotFound`] if there is no such store; [`Kind::Argument`] for a shard that does not exist;
/// [`Kind::Conflict`] if its map has another version, or if no replica is missing on one of the nodes;
/// errors of the calls.
pub async fn missing(
    cluster: &Cluster,
    store: &str,
    shard: u32,
    of: &[String],
    at: Option<u64>,
) -> Result<Option<Vec<NodeId>>, Error> {
    let (map, _) = read_at(cluster, store, shard, at).await?;
    let missing = missing_of(cluster, Some(&map), shard);
    Ok(only(missing, shard, of)?.as_ref().map(nodes))
}

/// The missing replicas that are on these nodes; without nodes all.
fn only(
    missing: Option<BTreeSet<Place>>,
    shard: u32,
    of: &[String],
) -> Result<Option<BTreeSet<Place>>, Error> {
    let refused = |why: String| Err(Error::new(Kind::Conflict, why).with_maybe_applied(false));
    if of.is_empty() {
        return Ok(missing);
    }
    let Some(mut missing) = missing else {
        return refused(format!(
            "it is not known yet which replicas of shard {shard} are missing, so that nodes cannot be named"
        ));
    };
    let has = |node: &&String| missing.iter().any(|place| *place.node == ***node);
    if let Some(node) = of.iter().find(|node| !has(node)) {
        return refused(format!("no replica of shard {shard} is missing on node {node:?}"));
    }
    missing.retain(|place| of.iter().any(|node| *place.node == **node));
    Ok(Some(missing))
}

/// Lets the failovers of a shard do without the replicas that are missing now, although acknowledged writes
/// may be lost. Returns what [`missing`] does; if that is `None`, it applies to those that are missing when
/// the leader knows.
///
/// # Errors
/// As [`missing`].
pub async fn accept_loss(
    cluster: &Cluster,
    store: &str,
    shard: u32,
    of: &[String],
    at: Option<u64>,
) -> Result<Option<Vec<NodeId>>, Error> {
    let (map, index) = read_at(cluster, store, shard, at).await?;
    let condition = at.map(|_| Unchanged { key: map_key(cluster.options(), store), index });
    accept(cluster, store, (Some(&map), shard), of, condition.as_ref()).await
}

/// Writes that the loss of the missing replicas of a shard is accepted, if some are missing, or of those on these nodes,
/// and leaves what was accepted before.
pub(super) async fn accept(
    cluster: &Cluster,
    store: &str,
    (map, shard): (Option<&StoreMap>, u32),
    of: &[String],
    condition: Option<&Unchanged>,
) -> Result<Option<Vec<NodeId>>, Error> {
    let lost = only(missing_of(cluster, map, shard), shard, of)?;
    if !lost.as_ref().is_some_and(BTreeSet::is_empty) {
        let key = accepted_key(cluster.options(), store, shard);
        let add = |found: Option<&[u8]>| {
            let all = LossAcceptance::merged(found, lost.as_ref());
            Ok(Update::Put(LossAcceptance::encode(all.as_ref())))
        };
        cluster.update_while(condition, &key, add).await?;
    }
    lost.iter().for_each(|lost| log_acceptance(store, shard, lost));
    Ok(lost.as_ref().map(nodes))
}

/// The names of all stores with a map or a report in Consul.
///
/// # Errors
/// Errors of the calls.
pub async fn names(cluster: &Cluster) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::from_iter(maps(cluster).await?.into_keys());
    let prefix = members_prefix(cluster.options());
    let args = Args::new().arg(prefix.as_str()).opt("separator", "/");
    let found = cluster.client().call(&kv::KEYS, &args).await?;
    let folders = found.value.items().iter().filter_map(Value::as_str);
    names.extend(
        folders.filter_map(|it| Some(it.strip_prefix(&prefix)?.strip_suffix('/')?.to_owned())),
    );
    Ok(names)
}

/// N, W and R of a store as they are wanted, and as an operator wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The numbers of its map, or those that an operator has asked for since.
    pub now: Quorums,
    /// Those that it is to have.
    pub wanted: Quorums,
    /// The number of shards that have not the map's numbers yet: an earlier change goes on.
    pub changing: usize,
    /// The live nodes that may get replicas.
    pub nodes: usize,
}

/// The changes that [`set_numbers`] would make; a number that is `None` in a change stays as it is.
///
/// # Errors
/// [`Kind::NotFound`] if there is no such store; [`Kind::Config`] if the numbers do not fit together; [`Kind::Conflict`] if
/// its map has another version than `at`; errors of the calls.
pub async fn numbers(
    cluster: &Cluster,
    store: &str,
    change: NumbersChange,
    at: Option<u64>,
) -> Result<Numbers, Error> {
    let asked = asked(cluster, store).await?;
    let (map, _) = read_store(cluster, store, at).await?;
    let now = quorums(&map, asked.wanted);
    let wanted = Quorums {
        replicas: change.replicas.unwrap_or(now.replicas),
        write: change.write.unwrap_or(now.write),
        read: change.read.unwrap_or(now.read),
    };
    map.shared.with(wanted).check()?;
    let nodes = cluster.snapshot().live().filter(|it| it.record.may_get_shards()).count();
    Ok(Numbers { now, wanted, changing: map.changing(), nodes })
}

/// The numbers that an operator gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NumbersChange {
    /// N.
    pub replicas: Option<usize>,
    /// W.
    pub write: Option<usize>,
    /// R.
    pub read: Option<usize>,
}

/// The request of an operator to the leader, and the modify index of the key.
struct AskedNumbers {
    wanted: Option<Wanted>,
    index: u64,
}

async fn asked(cluster: &Cluster, store: &str) -> Result<AskedNumbers, Error> {
    let found = keys::read(cluster.client(), &wanted_key(cluster.options(), store)).await?;
    let (bytes, index) = found.unwrap_or_default();
    Ok(AskedNumbers { wanted: serde_json::from_slice(&bytes).ok(), index })
}

/// The numbers of a map after the leader has done what it is asked for.
fn quorums(map: &StoreMap, asked: Option<Wanted>) -> Quorums {
    let asked = asked.filter(|asked| !asked.is_done(map));
    asked.map_or_else(|| map.shared.quorums(), Wanted::quorums)
}

/// Asks the leader to give a store the wanted ones of the numbers that [`numbers`] has shown, step by step.
///
/// # Errors
/// As [`numbers`]; also [`Kind::Conflict`] if somebody else has changed the numbers since they were shown.
pub async fn set_numbers(
    cluster: &Cluster,
    store: &str,
    shown: &Numbers,
    at: Option<u64>,
) -> Result<(), Error> {
    let key = wanted_key(cluster.options(), store);
    loop {
        let AskedNumbers { wanted, index } = asked(cluster, store).await?;
        let (map, map_index) = read_store(cluster, store, at).await?;
        let now = quorums(&map, wanted);
        if now == shown.wanted {
            return Ok(());
        }
        if now != shown.now {
            let Quorums { replicas, write, read } = now;
            let why = format!(
                "another operator has given store {store:?} N/W/R {replicas}/{write}/{read} meanwhile: nothing was changed"
            );
            return Err(Error::new(Kind::Conflict, why).with_maybe_applied(false));
        }
        let change = [
            unchanged(&map_key(cluster.options(), store), map_index),
            unchanged(&key, index),
            set(&key, Wanted::new(shown.wanted).encode()),
        ];
        match transact(cluster.client(), change, None).await {
            Err(error) if error.kind() == Kind::TxnFailed => {
                cluster.client().pause(keys::CONFLICT_PAUSE_MS).await;
            }
            changed => return changed.map(|_| ()),
        }
    }
}

/// The rights to change the numbers of a store.
pub fn to_set_numbers(options: &Options, store: &str) -> [Right; 2] {
    [Right::read("key", &map_key(options, store)), Right::write("key", &wanted_key(options, store))]
}

/// The rights to accept the loss of a shard.
pub fn to_accept(options: &Options, store: &str, shard: u32) -> [Right; 2] {
    [
        Right::read("key", &map_key(options, store)),
        Right::write("key", &accepted_key(options, store, shard)),
    ]
}

fn missing_of(cluster: &Cluster, map: Option<&StoreMap>, shard: u32) -> Option<BTreeSet<Place>> {
    let snapshot = cluster.snapshot();
    map?.missing(shard, |node| is_live(&snapshot, node))
}

fn nodes(places: &BTreeSet<Place>) -> Vec<NodeId> {
    places.iter().map(|place| NodeId::clone(&place.node)).collect()
}

/// A store's map that has the shard and this version, and the modify index of its key.
async fn read_at(
    cluster: &Cluster,
    store: &str,
    shard: u32,
    at: Option<u64>,
) -> Result<(StoreMap, u64), Error> {
    let (map, index) = read_store(cluster, store, at).await?;
    let most = map.shared.shards - 1;
    if shard > most {
        return Err(Error::argument(format!("shard is {shard}: it must be from 0 to {most}")));
    }
    Ok((map, index))
}

/// A store's map that has this version, and the modify index of its key.
async fn read_store(
    cluster: &Cluster,
    store: &str,
    at: Option<u64>,
) -> Result<(StoreMap, u64), Error> {
    let refused = |kind, why: String| Error::new(kind, why).with_maybe_applied(false);
    let (map, index) = read_map(cluster, store).await?;
    let Some(map) = map else {
        let stores = maps(cluster).await?;
        let known: Vec<&str> = stores.keys().map(String::as_str).collect();
        return Err(refused(Kind::NotFound, unknown("store", store, &known)));
    };
    let version = map.map.version;
    match at.filter(|at| *at != version) {
        Some(at) => {
            let why = format!("the map of store {store:?} has version {version}, not {at}");
            Err(refused(Kind::Conflict, why))
        }
        None => Ok((map, index)),
    }
}
