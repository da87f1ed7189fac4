//! The methods of a node about the nodes of keys and shards.

use super::methods::node_id;
use super::node::ClusterNode;
use crate::node_table;
use crate::ring::{key, keys, owners, replica_count};
use crate::runtime::native::{self, Call, Method, Returned};
use consul_api::error::Error;
use consul_api::table::Shape;
use consul_api::value::Value;
use consul_api::value::shape::ValuePath;
use consul_cluster::Node;
use consul_cluster::shard_map::ReplicaState;
use mlua::{IntoLua, Lua, Table, Value as LuaValue};

/// The methods by name.
pub const METHODS: &[Method<ClusterNode>] = &[
    Method::new("get_replica_nodes", |call| {
        let (key, count) = (key(call)?, replica_count(call)?);
        let (snapshot, tables) = call.object.tables(call.lua, call.userdata)?;
        let nodes = snapshot.replicas_for(&key.as_bytes(), count);
        list(call.lua, &tables, nodes.into_iter())
    }),
    Method::raising("get_live_nodes", |call| {
        let (snapshot, tables) = call.object.tables(call.lua, call.userdata)?;
        list(call.lua, &tables, snapshot.live())
    }),
    Method::raising("get_node_for_key", get_node_for_key),
    Method::raising("get_nodes_for_keys", get_nodes_for_keys),
    Method::raising("get_shard_for_key", |call| {
        let (key, snapshot) = (key(call)?, call.object.snapshot()?);
        let Some(shard) = snapshot.shard_of(&key.as_bytes()) else {
            return Ok(Returned::Value(LuaValue::Nil));
        };
        let owner = snapshot.node_for(&key.as_bytes()).map(|node| node.record.id.as_str());
        Ok(Returned::Pair(shard.into_lua(call.lua)?, owner.into_lua(call.lua)?))
    }),
    Method::raising("get_shards", |call| {
        let (id, snapshot) = (node_id(call, 1)?, call.object.snapshot()?);
        let shards = snapshot.map.as_ref().map_or_else(Vec::new, |map| map.shards_of(&id));
        Ok(Returned::Value(call.lua.create_sequence_from(shards)?.into_lua(call.lua)?))
    }),
    Method::raising("get_shard_replicas", get_shard_replicas),
];

/// `cluster:get_shard_replicas(shard)`: the nodes with a replica of a shard, and its state.
fn get_shard_replicas(call: &Call<ClusterNode>) -> native::Result {
    let lua = call.lua;
    let shard = shard(&call.arg(1)?, &ValuePath::top("shard"))?;
    let snapshot = call.object.snapshot()?;
    let replicas = lua.create_table()?;
    for (id, state) in snapshot.map.iter().flat_map(|map| map.nodes_of(shard)) {
        let replica = lua.create_table()?;
        replica.raw_set("id", id)?;
        let (state, source) = match state {
            ReplicaState::Available => ("available", None),
            ReplicaState::Initializing { source, .. } => ("initializing", Some(source)),
            ReplicaState::Leaving => ("leaving", None),
        };
        let source = source.zip(snapshot.map.as_ref()).and_then(|(source, map)| map.node(source));
        replica.raw_set("state", state)?;
        replica.raw_set("source", source)?;
        node_table::set_metatable(lua, &replica)?;
        replicas.push(replica)?;
    }
    Ok(Returned::Value(LuaValue::Table(replicas)))
}

/// The number of a shard. A shard that does not exist has no nodes.
pub fn shard(given: &Value, at: &ValuePath) -> Result<usize, Error> {
    Ok(usize::try_from(Shape::Uint.uint(given, at)?).unwrap_or(usize::MAX))
}

/// `cluster:get_node_for_key(key)`: the id and the table of the node.
fn get_node_for_key(call: &Call<ClusterNode>) -> native::Result {
    let key = key(call)?;
    let (snapshot, tables) = call.object.tables(call.lua, call.userdata)?;
    let Some(owner) = snapshot.node_for(&key.as_bytes()) else {
        return Ok(Returned::Value(LuaValue::Nil));
    };
    let id = call.lua.create_string(&owner.record.id)?;
    let table = tables.raw_get(&id)?;
    Ok(Returned::Pair(LuaValue::String(id), table))
}

/// `cluster:get_nodes_for_keys(keys)`: a list of ids.
fn get_nodes_for_keys(call: &Call<ClusterNode>) -> native::Result {
    let (keys, snapshot) = (keys(call)?, call.object.snapshot()?);
    let ids: Vec<&String> = snapshot.nodes.keys().collect();
    if snapshot.node_for(b"").is_none() {
        return Ok(Returned::Value(LuaValue::Nil));
    }
    let list = call.lua.create_sequence_from(ids.iter().map(|id| id.as_str()))?;
    let index_of = |key: &[u8]| {
        let owner = snapshot.node_for(key).map(|node| &node.record.id);
        owner.and_then(|owner| ids.binary_search(&owner).ok()).map_or(0, |index| index + 1)
    };
    Ok(Returned::Value(owners(call.lua, keys, &list, index_of)?))
}

fn list<'a>(lua: &Lua, tables: &Table, nodes: impl Iterator<Item = &'a Node>) -> native::Result {
    let list = lua.create_table()?;
    for node in nodes {
        list.raw_push(tables.raw_get::<LuaValue>(node.record.id.as_str())?)?;
    }
    Ok(Returned::Value(LuaValue::Table(list)))
}
