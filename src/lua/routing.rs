//! The methods of a cluster's node by which a Lua program learns where keys and shards belong.

use super::cluster::{ConsulHACluster, Method, node_id};
use super::held::{gives, one};
use super::native::{Failure, Results};
use super::node::reads_as_id;
use super::ring::{key, keys, owners, replica_count};
use super::value;
use crate::cluster::membership::Node;
use crate::cluster::shard_map::ReplicaState;
use crate::error::Error;
use crate::wire::shape::At;
use crate::wire::table::Shape;
use crate::wire::value::Value;
use mlua::{AnyUserData, IntoLua, Lua, MultiValue, Table, Value as LuaValue};

/// Those that give one value when they succeed.
pub const CALLS: &[(&str, Method)] = &[("get_replica_nodes", get_replica_nodes)];

/// Those that give true before their values, which may be nil.
pub const GETTERS: &[(&str, Method)] = &[
    ("get_live_nodes", |lua, this, node, _| {
        let (snapshot, tables) = node.tables(lua, this)?;
        list(lua, &tables, snapshot.live())
    }),
    ("get_node_for_key", get_node_for_key),
    ("get_nodes_for_keys", get_nodes_for_keys),
    ("get_shard_for_key", |lua, _, node, args| {
        let (key, snapshot) = (key(lua, args)?, node.snapshot()?);
        let Some(shard) = snapshot.shard_of(&key.as_bytes()) else {
            return Ok(gives(LuaValue::Nil));
        };
        let owner = snapshot.node_for(&key.as_bytes()).map(|node| node.record.id.as_str());
        Ok((LuaValue::Boolean(true), shard.into_lua(lua)?, owner.into_lua(lua)?))
    }),
    ("get_shards", |lua, _, node, args| {
        let (id, snapshot) = (node_id(lua, node, args, 1)?, node.snapshot()?);
        let shards = snapshot.map.as_ref().map_or_else(Vec::new, |map| map.shards_of(&id));
        Ok(gives(lua.create_sequence_from(shards)?.into_lua(lua)?))
    }),
    ("get_shard_replicas", get_shard_replicas),
];

/// `cluster:get_shard_replicas(shard)`: who has a shard, and whether with its data.
fn get_shard_replicas(
    lua: &Lua,
    _: &AnyUserData,
    node: &ConsulHACluster,
    args: &MultiValue,
) -> Result<Results, Failure> {
    let given = value::argument(lua, args, 1)?;
    let (shard, snapshot) = (shard(&given, &At::top("shard"))?, node.snapshot()?);
    let replicas = lua.create_table()?;
    let Some(map) = &snapshot.map else { return Ok(gives(LuaValue::Table(replicas))) };
    for (id, state) in map.nodes_of(shard) {
        let replica = lua.create_table()?;
        replica.raw_set("id", id)?;
        let (state, source) = match state {
            ReplicaState::Available => ("available", None),
            ReplicaState::Initializing { source, .. } => ("initializing", map.node(source)),
            ReplicaState::Leaving => ("leaving", None),
        };
        replica.raw_set("state", state)?;
        replica.raw_set("source", source)?;
        reads_as_id(lua, &replica)?;
        replicas.push(replica)?;
    }
    Ok(gives(LuaValue::Table(replicas)))
}

/// The number of a shard. One that there is not has no nodes.
pub fn shard(given: &Value, at: &At) -> Result<usize, Error> {
    Ok(usize::try_from(Shape::Uint.uint(given, at)?).unwrap_or(usize::MAX))
}

/// `cluster:get_node_for_key(key)`: the id and the table of the node that a key belongs to.
fn get_node_for_key(
    lua: &Lua,
    this: &AnyUserData,
    node: &ConsulHACluster,
    args: &MultiValue,
) -> Result<Results, Failure> {
    let (key, (snapshot, tables)) = (key(lua, args)?, node.tables(lua, this)?);
    let Some(owner) = snapshot.node_for(&key.as_bytes()) else {
        return Ok(gives(LuaValue::Nil));
    };
    let id = lua.create_string(&owner.record.id)?;
    let table = tables.raw_get(&id)?;
    Ok((LuaValue::Boolean(true), LuaValue::String(id), table))
}

/// `cluster:get_nodes_for_keys(keys)`: a list of ids.
fn get_nodes_for_keys(
    lua: &Lua,
    _: &AnyUserData,
    node: &ConsulHACluster,
    args: &MultiValue,
) -> Result<Results, Failure> {
    let (keys, snapshot) = (keys(lua, args)?, node.snapshot()?);
    let ids: Vec<&String> = snapshot.nodes.keys().collect();
    if snapshot.node_for(b"").is_none() {
        return Ok(gives(LuaValue::Nil));
    }
    let list = lua.create_sequence_from(ids.iter().map(|id| id.as_str()))?;
    let place = |key: &[u8]| {
        let owner = snapshot.node_for(key).map(|node| &node.record.id);
        owner.and_then(|owner| ids.binary_search(&owner).ok()).map_or(0, |place| place + 1)
    };
    Ok(gives(owners(lua, keys, &list, place)?))
}

/// `cluster:get_replica_nodes(key, n)`: tables of nodes, the owner's first.
fn get_replica_nodes(
    lua: &Lua,
    this: &AnyUserData,
    node: &ConsulHACluster,
    args: &MultiValue,
) -> Result<Results, Failure> {
    let (key, count) = (key(lua, args)?, replica_count(lua, args)?);
    let (snapshot, tables) = node.tables(lua, this)?;
    let nodes = snapshot.replicas_for(&key.as_bytes(), count);
    Ok(one(list(lua, &tables, nodes.into_iter())?.1))
}

fn list<'a>(
    lua: &Lua,
    tables: &Table,
    nodes: impl Iterator<Item = &'a Node>,
) -> Result<Results, Failure> {
    let tables = nodes.map(|node| tables.raw_get::<LuaValue>(node.record.id.as_str()));
    let tables = tables.collect::<mlua::Result<Vec<_>>>()?;
    Ok(gives(LuaValue::Table(lua.create_sequence_from(tables)?)))
}
