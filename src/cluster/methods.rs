//! The methods of a node, but for those about keys and shards and those that call other nodes.

use super::calls;
use super::leave::leave;
use super::node::ClusterNode;
use super::routing::shard;
use super::running_node::{Progress, RunningNode};
use crate::coordination::lock::key_and_value;
use crate::node_table;
use crate::runtime::job::Job;
use crate::runtime::native::{self, Call, Method, Returned};
use crate::runtime::{value, wait, wake};
use consul_api::error::{Error, Kind};
use consul_api::table::Shape;
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, unknown};
use consul_cluster::stores::{forget, reinit as remake};
use consul_cluster::{Event, Mode};
use futures_util::stream;
use mlua::{IntoLua, Value as LuaValue};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// How long a start whose time is over waits until its node has left.
const AT_ONCE: Duration = Duration::from_millis(30);

/// The methods by name.
pub const METHODS: &[Method<ClusterNode>] = &[
    Method::raising("__tostring", |call| {
        let (id, state) = (&call.object.options.node_id, call.object.state());
        native::text(call.lua, &format!("ConsulHACluster({id:?}, {state})"))
    }),
    Method::new("start", start),
    Method::new("stop", stop),
    Method::new("leave", leave),
    Method::new("close", |call| {
        call.object.close();
        Ok(Returned::done())
    }),
    Method::new("hand_over", |call| {
        let node = &*call.object;
        node.check_member()?;
        let running = node.started()?;
        if !running.cluster.is_leader() {
            return Err(not_leader(node).into());
        }
        running.cluster.hand_over();
        running.run_pending()?;
        Ok(Returned::done())
    }),
    Method::new("drain", |call| set_mode(call, Mode::Draining)),
    Method::new("maintenance", |call| set_mode(call, Mode::Maintenance)),
    Method::new("thaw", thaw),
    // The name of older releases.
    Method::new("resume", thaw),
    Method::new("pause_moves", pause_moves),
    Method::new("resume_moves", |call| {
        let running = call.object.started()?;
        let cluster = Arc::clone(&running.cluster);
        call.object.run(call.lua, &running, async move { cluster.resume_moves(None).await })?;
        Ok(Returned::done())
    }),
    Method::new("forget_store", forget_store),
    Method::new("reinit", reinit),
    Method::new("fenced_put", fenced_put),
    Method::new("shards_ready", shards_ready),
    Method::new("fd", |call| {
        let node = &*call.object;
        let fd = node.started()?.events.fd().map_err(|error| {
            node.error(Kind::Config, &format!("cannot create a descriptor: {error}"))
        })?;
        Ok(Returned::Value(fd.into_lua(call.lua)?))
    }),
    Method::new("unix_socket", |call| {
        wake::unix_socket(call.lua, &call.object.started()?.events, 0, || None)
    }),
    Method::raising("is_leader_node", |call| {
        Ok(Returned::Value(LuaValue::Boolean(call.object.is_leader()?)))
    }),
    Method::raising("get_leader_info", get_leader_info),
    Method::raising("get_node_count", |call| {
        let count = call.object.snapshot()?.nodes.len();
        Ok(Returned::Value(count.into_lua(call.lua)?))
    }),
    Method::raising("token", |call| {
        let lease = call.object.running().and_then(|running| running.cluster.lease());
        let lease = lease.filter(|lease| !lease.has_ended());
        let token = lease.map_or(Value::Null, |lease| lease.token().into());
        Ok(Returned::Value(value::to_lua(call.lua, &token)?))
    }),
    Method::raising("status", status),
    Method::raising("poll_event", |call| next_event(call, Some(Duration::ZERO))),
    Method::raising("next_event", |call| next_event(call, wait::limit(&call.arg(1)?)?)),
];

/// The fields of a node.
pub const FIELDS: &[Method<ClusterNode>] = &[
    Method::raising("node_id", |call| native::text(call.lua, &call.object.options.node_id)),
    Method::raising("node_address", |call| {
        native::text(call.lua, &call.object.options.node_address)
    }),
    Method::raising("cluster_nodes", |call| {
        Ok(Returned::Value(LuaValue::Table(call.object.tables(call.lua, call.userdata)?.1)))
    }),
    Method::raising("is_leader", |call| {
        Ok(Returned::Value(LuaValue::Boolean(call.object.is_leader()?)))
    }),
    Method::raising("profile", |call| {
        let values = call.object.options.profile.values().into_iter();
        let values = values.map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Returned::Value(value::to_lua(call.lua, &Value::Map(values))?))
    }),
];

/// `cluster:start(options)`, and `cluster:start(method, …)` for a handle
fn start(call: &Call<ClusterNode>) -> native::Result {
    if call.lua_arg(1).is_string() {
        return calls::start(call);
    }
    let (lua, node) = (call.lua, &*call.object);
    let keeps_joining = keeps_joining(&call.options(1)?)?;
    if node.belongs_to_parent() {
        return Err(node.of_parent().into());
    }
    match node.running() {
        Some(running) if !running.has_ended() => {
            return Err(node.error(Kind::Conflict, "it is started already").into());
        }
        _ => node.close(),
    }
    let running = Rc::new(RunningNode::new(lua, call.userdata, &node.config, &node.options)?);
    for store in node.stores.borrow().values() {
        running.start_store(store)?;
    }
    running.notify()?;
    node.set_running(Rc::clone(&running));
    let progress = running.wait_for_start(lua).inspect_err(|_| node.close())?;
    // A hook may have stopped the node, or started it again.
    if !node.running().is_some_and(|now| Rc::ptr_eq(&now, &running)) {
        return Err(node.error(Kind::Closed, "it was stopped during its start").into());
    }
    let why = match progress {
        Some(Progress::Started) => return Ok(Returned::done()),
        Some(Progress::Ended(why)) => why.context(&node.name()),
        Some(Progress::TimedOut(why)) => {
            let limit = node.options.start_timeout.as_millis();
            let why = format!("not started within {limit} ms: {why}");
            let why = node.error(Kind::Timeout, &why);
            if keeps_joining {
                return Err(why.into());
            }
            // The time is over; what Consul does not answer at once is done in the background.
            node.close_within(AT_ONCE);
            why
        }
        None => node.background_ended(),
    };
    node.close();
    Err(why.into())
}

/// The option of a start.
fn keeps_joining(options: &Value) -> Result<bool, Error> {
    let mut keeps = false;
    if *options != Value::Null {
        for (name, value) in Shape::Any.members(options, &ValuePath::top("options"))? {
            if name != "keep_joining" {
                return Err(Error::misuse(unknown("option", name, &["keep_joining"])));
            }
            keeps = Shape::Bool.boolean(value, &ValuePath::top(name))?;
        }
    }
    Ok(keeps)
}

/// `cluster:stop()`
pub fn stop(call: &Call<ClusterNode>) -> native::Result {
    let node = &*call.object;
    if node.belongs_to_parent() {
        node.close();
        return Ok(Returned::done());
    }
    if let Some(running) = node.take_running() {
        let (clock, timeout) = (running.clock(), node.config.timeout);
        let end = clock.now() + timeout;
        // The rest of the time is for Consul if a storage does not answer.
        running.close_stores(call.lua, timeout * 3 / 4)?;
        let job = Job::start(&running.executor, stream::once(running.end()))?;
        wait::for_job(call.lua, &job, Some(end - clock.now()))?;
        let left = match job.next()? {
            Poll::Ready(Some(left)) => left,
            _ => Err(Error::new(Kind::Timeout, "Consul does not answer")),
        };
        left.map_err(|error| {
            let name = node.name();
            error.context(&format!("{name}: stopped, but its entries stay until its check fails"))
        })?;
    }
    Ok(Returned::done())
}

/// `cluster:drain(on, node_id)` and `cluster:maintenance(on, node_id)`
fn set_mode(call: &Call<ClusterNode>, mode: Mode) -> native::Result {
    let on = match call.arg(1)? {
        Value::Null => true,
        given => Shape::Bool.boolean(&given, &ValuePath::top("on"))?,
    };
    let id = node_id(call, 2)?;
    if call.lua_arg(2).is_nil() {
        call.object.check_member()?;
    }
    let mode = if on { mode } else { Mode::Active };
    let running = call.object.started()?;
    let cluster = Arc::clone(&running.cluster);
    call.object.run(call.lua, &running, async move { cluster.set_mode(&id, mode).await })?;
    Ok(Returned::done())
}

/// An argument that is the id of a node, by default of this one.
pub fn node_id(call: &Call<ClusterNode>, place: usize) -> Result<String, Error> {
    match call.arg(place)? {
        Value::Null => Ok(call.object.options.node_id.clone()),
        given => Shape::Text.text(&given, &ValuePath::top("node_id")),
    }
}

/// `cluster:thaw()`
fn thaw(call: &Call<ClusterNode>) -> native::Result {
    let running = call.object.started()?;
    let cluster = Arc::clone(&running.cluster);
    call.object.run(call.lua, &running, async move { cluster.thaw().await })?;
    Ok(Returned::done())
}

/// `cluster:pause_moves(why)`
fn pause_moves(call: &Call<ClusterNode>) -> native::Result {
    let why = match call.arg(1)? {
        Value::Null => String::new(),
        given => Shape::Text.text(&given, &ValuePath::top("why"))?.to_string(),
    };
    let running = call.object.started()?;
    let (cluster, by) = (Arc::clone(&running.cluster), call.object.options.node_id.clone());
    let paused = async move { cluster.pause_moves(None, &by, &why).await };
    call.object.run(call.lua, &running, paused)?;
    Ok(Returned::done())
}

/// `cluster:forget_store(store)`
fn forget_store(call: &Call<ClusterNode>) -> native::Result {
    let node = &*call.object;
    let store = Shape::Text.text(&call.arg(1)?, &ValuePath::top("store"))?.to_string();
    let running = node.started()?;
    let (cluster, by) = (Arc::clone(&running.cluster), node.options.node_id.clone());
    let asked = async move {
        let Some(found) = forget::find(&cluster, &store).await? else {
            let why = format!("there is no store {store:?}");
            return Err(Error::new(Kind::NotFound, why).not_sent());
        };
        if !found.users.is_empty() {
            let users = Vec::from_iter(found.users).join(", ");
            let why = format!("store {store:?} is in use by {users}: it is not forgotten");
            return Err(Error::new(Kind::Conflict, why).not_sent());
        }
        forget::ask(&cluster, &store, &by).await
    };
    node.run(call.lua, &running, asked)?;
    Ok(Returned::done())
}

/// `cluster:reinit(node_id, store, shards)`
fn reinit(call: &Call<ClusterNode>) -> native::Result {
    let node = &*call.object;
    let id = Shape::Text.text(&call.arg(1)?, &ValuePath::top("node_id"))?.to_string();
    let store = Shape::Text.text(&call.arg(2)?, &ValuePath::top("store"))?.to_string();
    let given = call.arg(3)?;
    let shards = match &given {
        Value::Null => BTreeSet::new(),
        given => some_shards(given)?,
    };
    let running = node.started()?;
    let cluster = Arc::clone(&running.cluster);
    let asked = async move {
        let found = remake::find(&cluster, &id, Some(&store), &shards).await?;
        remake::ask(&cluster, &id, &found).await
    };
    node.run(call.lua, &running, asked)?;
    Ok(Returned::done())
}

/// The numbers of a list of at least one shard: a list of none must not mean all.
fn some_shards(given: &Value) -> Result<BTreeSet<u32>, Error> {
    let numbers = shards(given)?.into_iter().map(u32::try_from).collect::<Result<BTreeSet<_>, _>>();
    numbers.ok().filter(|numbers| !numbers.is_empty()).ok_or_else(|| {
        let wanted = "a list of at least one shard, or nil for all";
        ValuePath::top("shards").wrong_type_text(wanted, given)
    })
}

/// The numbers of a list of shards.
fn shards(given: &Value) -> Result<Vec<usize>, Error> {
    let at = ValuePath::top("shards");
    match given {
        Value::List(shards) => shards.iter().map(|it| shard(it, &at)).collect(),
        Value::Map(members) if members.is_empty() => Ok(Vec::new()),
        other => Err(at.wrong_type_text("a list of shard numbers", other)),
    }
}

/// `cluster:fenced_put(key, value)`: true and the index of the write.
fn fenced_put(call: &Call<ClusterNode>) -> native::Result {
    let node = &*call.object;
    node.check_member()?;
    let (key, value) = key_and_value(call, 1)?;
    let running = node.started()?;
    let lease = running.cluster.lease().ok_or_else(|| not_leader(node))?;
    let put = async move { lease.fenced_put(&key, value).await };
    let index = node.run(call.lua, &running, put)?;
    Ok(Returned::success(value::to_lua(call.lua, &index.into())?))
}

fn not_leader(node: &ClusterNode) -> Error {
    node.error(Kind::Conflict, "it is not the leader")
}

/// `cluster:shards_ready(shards)`: this node has the data of these shards.
fn shards_ready(call: &Call<ClusterNode>) -> native::Result {
    let node = &*call.object;
    node.check_member()?;
    if !node.options.hand_off {
        let why = "the node has no option hand_off = true: its shards are available at once";
        return Err(Error::misuse(why).into());
    }
    let shards = shards(&call.arg(1)?)?;
    let running = node.started()?;
    let cluster = Arc::clone(&running.cluster);
    node.run(call.lua, &running, async move { cluster.shards_ready(&shards).await })?;
    Ok(Returned::done())
}

/// `cluster:get_leader_info()`
fn get_leader_info(call: &Call<ClusterNode>) -> native::Result {
    let snapshot = call.object.snapshot()?;
    let Some(leader) = &snapshot.leader else { return Ok(Returned::Value(LuaValue::Nil)) };
    let table = call.lua.create_table()?;
    table.raw_set("node_id", leader.node_id.as_str())?;
    table.raw_set("address", leader.address.as_str())?;
    table.raw_set("session_id", leader.session_id.as_str())?;
    table.raw_set("elected_at", leader.elected_at_ms / 1000)?;
    node_table::set_metatable(call.lua, &table)?;
    Ok(Returned::Value(LuaValue::Table(table)))
}

/// `cluster:status()`
fn status(call: &Call<ClusterNode>) -> native::Result {
    let node = &*call.object;
    let snapshot = node.snapshot()?;
    let frozen = snapshot.frozen.iter().map(|id| Value::from(id.as_str())).collect();
    let (mut is_ready, mut is_polled, mut reason) = (Value::Null, Value::Null, Value::Null);
    if let Some(running) = node.running() {
        let ready = running.ready();
        is_ready = Value::Bool(ready.is_ok());
        is_polled = Value::Bool(running.is_polled());
        reason = ready.err().map_or(Value::Null, Value::from);
    }
    let members = [
        ("state", node.state().into()),
        ("ready", is_ready),
        ("not_ready_because", reason),
        ("polled", is_polled),
        ("in_touch", Value::Bool(snapshot.is_connected)),
        ("map_epoch", snapshot.map.as_ref().map_or(Value::Null, |map| map.epoch().into())),
        ("frozen", Value::List(frozen)),
        ("cannot_lead", snapshot.cannot_lead.clone().map_or(Value::Null, Value::from)),
        ("service_id", node.options.service_id().into()),
    ];
    let members = members.map(|(name, value)| (name.to_owned(), value));
    Ok(Returned::Value(value::to_lua(call.lua, &Value::Map(members.into()))?))
}

/// Waits for the next event: its name and its detail.
fn next_event(call: &Call<ClusterNode>, limit: Option<Duration>) -> native::Result {
    let lua = call.lua;
    let Some(running) = call.object.running() else { return Ok(Returned::Value(LuaValue::Nil)) };
    wait::for_job(lua, &running.events, limit)?;
    let Poll::Ready(Some(event)) = running.events.next()? else {
        return Ok(Returned::Value(LuaValue::Nil));
    };
    let name = event.name().into_lua(lua)?;
    let detail = match event {
        Event::LeaderChanged(id) => id.into_lua(lua)?,
        Event::ShardsChanged(epoch) => value::to_lua(lua, &epoch.into())?,
        Event::Suspended | Event::Resumed => LuaValue::Nil,
        Event::Frozen(ids) if ids.is_empty() => LuaValue::Nil,
        Event::Frozen(ids) => lua.create_sequence_from(ids)?.into_lua(lua)?,
        Event::NodeJoined(what)
        | Event::NodeLeft(what)
        | Event::StoreChanges(what)
        | Event::StoreChanged(what)
        | Event::DiskInDoubt(what)
        | Event::Stopped(what) => what.into_lua(lua)?,
    };
    Ok(Returned::Pair(name, detail))
}
