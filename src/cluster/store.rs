//! `ReplicatedStore`: the records of replicated shards, from `cluster:replicate`.

use super::node::ClusterNode;
use super::routing::shard;
use super::running_node::RunningNode;
use super::running_store::{Declared, Place, survives};
use super::serving::{Serving, storages};
use crate::runtime::handle::{CallResult, Handle, IntoValues};
use crate::runtime::native::{self, Borrowed, Call, Class, Failure, Method, Returned};
use crate::runtime::value::Outcome;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::table::Shape;
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, unknown};
use consul_cluster::stores::{ShardStatus, Store, Write};
use consul_config::of_store;
use consul_process::clock::{BoxFuture, Instant};
use consul_replication::map::ChangeKind;
use consul_replication::quorum::Page;
use consul_replication::record::{Range, Record};
use consul_replication::storage::Memory;
use mlua::{AnyUserData, IntoLua, Lua, Table, Value as LuaValue};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The time limit of a call, retries included.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The records of a page by default, and the most.
const PAGE: u64 = 1000;
const MAX_PAGE: u64 = 10_000;

/// The userdata of a store. Its user value is the node.
pub struct ReplicatedStore {
    name: String,
}

/// The methods of a node about stores.
pub const METHODS_OF_NODE: &[Method<ClusterNode>] = &[Method::raising("replicate", replicate)];

const METHODS: &[Method<ReplicatedStore>] = &[
    Method::raising("__tostring", |call| {
        let name = &call.object.name;
        native::text(
            call.lua,
            &format!("ReplicatedStore({name:?}, {})", node(call.userdata)?.state()),
        )
    }),
    Method::new("write", |call| run(call, "write")),
    Method::new("write_many", |call| run(call, "write_many")),
    Method::new("delete", |call| run(call, "delete")),
    // A page of the iterator that `module.lua` returns.
    Method::new("read", |call| run(call, "read")),
    Method::new("accept_loss", |call| run(call, "accept_loss")),
    Method::new("start", start),
    Method::new("status", status),
];

impl Class for ReplicatedStore {
    const NAME: &'static str = "ReplicatedStore";

    fn register(lua: &Lua) -> mlua::Result<Table> {
        native::class(lua, METHODS)
    }
}

/// `cluster:replicate(name, storage, options)`
fn replicate(call: &Call<ClusterNode>) -> native::Result {
    let (lua, node) = (call.lua, &*call.object);
    let name = Shape::Text.text(&call.arg(1)?, &ValuePath::top("name"))?;
    let mut options = of_store(&name, &node.options, &call.named_options(3)?)?;
    let (place, table) = match call.lua_arg(2) {
        LuaValue::Nil if node.options.observer => (Place::Nowhere, None),
        _ if node.options.observer => {
            return Err(Error::misuse("storage must be nil: an observer keeps no records").into());
        }
        LuaValue::Nil => (Place::Memory(Arc::new(Memory::new())), None),
        LuaValue::String(name) if name == "memory" => {
            (Place::Memory(Arc::new(Memory::new())), None)
        }
        LuaValue::Table(table) => {
            options.survives = survives(lua, table)?;
            (Place::Table, Some(table))
        }
        _ => {
            let wanted = "a table of functions, \"memory\" or nil";
            return Err(ValuePath::top("storage").wrong_type_text(wanted, &call.arg(2)?).into());
        }
    };
    if node.stores.borrow().contains_key(&name) {
        return Err(node.error(Kind::Conflict, &format!("it has a store {name:?} already")).into());
    }
    let storages = storages(call.userdata)?;
    for pair in storages.pairs::<String, Table>() {
        let (other, storage) = pair?;
        if table == Some(&storage) {
            let why = format!("store {other:?} has this storage: each store needs one of its own");
            return Err(node.error(Kind::Conflict, &why).into());
        }
    }
    storages.raw_set(name.as_str(), table)?;
    let declared = Declared { options, place };
    if let Some(running) = node.running().filter(|running| !running.has_ended()) {
        running.start_store(&declared)?;
    }
    node.stores.borrow_mut().insert(name.clone(), declared);
    let store = native::object(lua, ReplicatedStore { name })?;
    store.set_user_value(call.userdata)?;
    Ok(Returned::Value(LuaValue::UserData(store)))
}

/// The node of a store.
fn node(store: &AnyUserData) -> Result<Borrowed<ClusterNode>, Failure> {
    let userdata: AnyUserData = store.user_value()?;
    let node = Borrowed::of(&userdata);
    Ok(node.ok_or_else(|| Error::new(Kind::Closed, "its node is gone"))?)
}

impl ReplicatedStore {
    /// The running node, and the store there.
    fn running(&self, node: &ClusterNode) -> Result<(Rc<RunningNode>, Arc<Store>), Error> {
        let running = node.started()?;
        let store = running.stores.borrow().get(&self.name).map(|it| Arc::clone(&it.store));
        let store = store.ok_or_else(|| node.error(Kind::Closed, "it was stopped"))?;
        Ok((running, store))
    }

    fn label(&self) -> String {
        format!("store {:?}", self.name)
    }
}

/// A call of a store, whose arguments are checked.
struct Work {
    /// The method and its key, for errors.
    label: String,
    timeout: Duration,
    make: Box<dyn FnOnce(Arc<Store>, Instant) -> BoxFuture<'static, CallResult> + Send>,
}

impl Work {
    /// Makes the call by its deadline; errors name the store and the call.
    async fn run(self, store: Arc<Store>, now: Instant, of: String) -> CallResult {
        let Work { label, timeout, make } = self;
        make(store, now + timeout).await.map_err(|error| error.context(&format!("{of}: {label}")))
    }

    /// A call with this label, a key and options; the first option is `timeout_ms`.
    fn new<F: Future<Output = CallResult> + Send + 'static>(
        label: String,
        timeout: Duration,
        make: impl FnOnce(Arc<Store>, Instant) -> F + Send + 'static,
    ) -> Self {
        Work { label, timeout, make: Box::new(|store, deadline| Box::pin(make(store, deadline))) }
    }
}

/// Makes a call on the calling thread, and serves requests and storages meanwhile.
fn run(call: &Call<ReplicatedStore>, method: &str) -> native::Result {
    let work = work(call, method, 1)?;
    let node = node(call.userdata)?;
    let (running, store) = call.object.running(&node)?;
    Serving::of(call.lua).check_depth()?;
    let (now, of) = (running.clock().now(), call.object.label());
    let result = running.data_plane.run(call.lua, |_| work.run(store, now, of))?;
    let values = result.ok_or_else(|| node.background_ended())??;
    Ok(Returned::Outcome(values(call.lua)?))
}

/// `store:start(method, …)`: a handle.
fn start(call: &Call<ReplicatedStore>) -> native::Result {
    let method = Shape::Text.text(&call.arg(1)?, &ValuePath::top("method"))?;
    let node = node(call.userdata)?;
    let of = call.object.label();
    let (label, job) = match work(call, &method, 2) {
        Ok(work) => {
            let (label, of) = (format!("{of}: {}", work.label), of);
            let job = call.object.running(&node).and_then(|(running, store)| {
                let now = running.clock().now();
                running.data_plane.start(&label, |_| work.run(store, now, of))
            });
            (label, job)
        }
        Err(error) => (format!("{of}: {method}"), Err(error.context(&method))),
    };
    Handle::of(call.lua, label, job)
}

/// The arguments of a method; the first has this place.
fn work(call: &Call<ReplicatedStore>, method: &str, first: usize) -> Result<Work, Error> {
    match method {
        "write" => write(call, first),
        "write_many" => write_many(call, first),
        "delete" => delete(call, first),
        "read" => read(call, first),
        "accept_loss" => accept_loss(call, first),
        _ => {
            let known = ["write", "write_many", "delete", "read", "accept_loss"];
            Err(Error::misuse(unknown("method", method, &known)))
        }
    }
}

/// `store:write(key, records, options)`
fn write(call: &Call<ReplicatedStore>, first: usize) -> Result<Work, Error> {
    let key = bytes(call.arg(first)?, &ValuePath::top("key"))?;
    let records = records(call.arg(first + 1)?, &ValuePath::top("records"))?;
    let timeout = timeout(call, first + 2)?;
    let label = format!("write {:?}", String::from_utf8_lossy(&key));
    Ok(write_of(label, key, records, timeout))
}

/// `store:delete(key, ids, options)`
fn delete(call: &Call<ReplicatedStore>, first: usize) -> Result<Work, Error> {
    let key = bytes(call.arg(first)?, &ValuePath::top("key"))?;
    let (at, given) = (ValuePath::top("ids"), call.arg(first + 1)?);
    let ids = match given {
        Value::List(ids) => ids,
        Value::Map(members) if members.is_empty() => Vec::new(),
        other => return Err(at.wrong_type_text("a list of strings", &other)),
    };
    let id = |id: Value| match id {
        Value::Bytes(id) => Ok((Bytes::from(id), None)),
        other => Err(at.wrong_type_text("a list of strings", &other)),
    };
    let records = ids.into_iter().map(id).collect::<Result<Vec<Write>, Error>>()?;
    let label = format!("delete {:?}", String::from_utf8_lossy(&key));
    Ok(write_of(label, key, records, timeout(call, first + 2)?))
}

/// Writes records of one shard; returns their version.
fn write_of(label: String, key: Bytes, records: Vec<Write>, timeout: Duration) -> Work {
    Work::new(label, timeout, move |store, deadline| async move {
        if records.is_empty() {
            return Ok(nothing());
        }
        let version = store.write(&key, records, deadline).await?.to_string();
        Ok(success(move |lua| version.into_lua(lua)))
    })
}

/// `store:write_many(writes, options)`
fn write_many(call: &Call<ReplicatedStore>, first: usize) -> Result<Work, Error> {
    let wanted = "a list of { key, records }";
    let (at, given) = (ValuePath::top("writes"), call.arg(first)?);
    let given = match given {
        Value::List(given) => given,
        Value::Map(members) if members.is_empty() => Vec::new(),
        other => return Err(at.wrong_type_text(wanted, &other)),
    };
    let mut writes: Vec<(Bytes, Vec<Write>)> = Vec::with_capacity(given.len());
    for (index, given) in given.into_iter().enumerate() {
        let place = format!("writes[{}]", index + 1);
        let at = ValuePath::top(&place);
        let pair = match given {
            Value::List(pair) => <[Value; 2]>::try_from(pair).map_err(Value::List),
            other => Err(other),
        };
        let [of, list] = pair.map_err(|it| at.wrong_type_text("{ key, records }", &it))?;
        writes.push((bytes(of, &at.member("key"))?, records(list, &at.member("records"))?));
    }
    let timeout = timeout(call, first + 1)?;
    let label = format!("write_many of {} keys", writes.len());
    Ok(Work::new(label, timeout, move |store, deadline| async move {
        store.write_many(writes, deadline).await?;
        Ok(nothing())
    }))
}

/// A page of `store:read(key, options)`: its other arguments are the last id of the page before and the number
/// of records until then. Also `store:start("read", key, options)`.
fn read(call: &Call<ReplicatedStore>, first: usize) -> Result<Work, Error> {
    let key = bytes(call.arg(first)?, &ValuePath::top("key"))?;
    let mut range = Range::all();
    let (mut limit, mut size, mut timeout) = (u64::MAX, PAGE, TIMEOUT);
    for (name, value) in call.named_options(first + 1)? {
        let at = ValuePath::top(&name);
        match name.as_str() {
            "from" => range.from = bytes(value, &at)?,
            "to" => range.to = Some(bytes(value, &at)?),
            "after" => range.after = Some(bytes(value, &at)?),
            "limit" => limit = Shape::Uint.uint(&value, &at)?,
            "page" => {
                size = Shape::Uint.uint(&value, &at)?;
                if !(1..=MAX_PAGE).contains(&size) {
                    let why = format!("it must be an integer from 1 to {MAX_PAGE}");
                    return Err(at.bad_value(&value, &why));
                }
            }
            "timeout_ms" => timeout = Shape::Millis.duration(&value, &at)?,
            _ => {
                let known = ["from", "to", "after", "limit", "page", "timeout_ms"];
                return Err(Error::misuse(unknown("option", &name, &known)));
            }
        }
    }
    // Where an iterator is.
    if let Value::Bytes(after) = call.arg(first + 2)? {
        range.after = Some(after.into());
    }
    let taken = call.arg(first + 3)?.as_u64().unwrap_or(0);
    let count = size.min(limit.saturating_sub(taken)) as usize;
    let label = format!("read {:?}", String::from_utf8_lossy(&key));
    Ok(Work::new(label, timeout, move |store, deadline| async move {
        if count == 0 {
            return Ok(page(Page::default()));
        }
        let mut found = store.read(&key, &range, count, deadline).await?;
        if found.records.len() > count {
            found.records.truncate(count);
            found.next = found.records.last().map(|record| record.id.clone());
        }
        Ok(page(found))
    }))
}

/// The values of a page: the records, and where the next one begins.
fn page(page: Page) -> IntoValues {
    Box::new(move |lua| {
        let list = lua.create_table_with_capacity(page.records.len(), 0)?;
        for Record { id, version, data } in page.records {
            let record = lua.create_table_with_capacity(0, 3)?;
            record.raw_set("id", lua.create_string(&id)?)?;
            record.raw_set("version", version.to_string())?;
            record.raw_set("data", data.map(|data| lua.create_string(&data)).transpose()?)?;
            list.raw_push(record)?;
        }
        let meta = lua.create_table()?;
        meta.raw_set("next", page.next.map(|next| lua.create_string(&next)).transpose()?)?;
        Ok(Outcome::Success(LuaValue::Table(list), LuaValue::Table(meta)))
    })
}

/// `store:accept_loss(shard, options)`
fn accept_loss(call: &Call<ReplicatedStore>, first: usize) -> Result<Work, Error> {
    let shard = shard(&call.arg(first)?, &ValuePath::top("shard"))?;
    let timeout = timeout(call, first + 1)?;
    Ok(Work::new(format!("accept_loss {shard}"), timeout, move |store, deadline| async move {
        let shard = store.check_shard(shard as u64)?;
        store.by(deadline, store.accept_loss(shard)).await?;
        Ok(nothing())
    }))
}

/// `store:status(key)`: a table for each shard, or for that of a key.
fn status(call: &Call<ReplicatedStore>) -> native::Result {
    let lua = call.lua;
    let of_key = match call.arg(1)? {
        Value::Null => None,
        key => Some(bytes(key, &ValuePath::top("key"))?),
    };
    let (_, store) = call.object.running(&*node(call.userdata)?)?;
    let of_key = of_key.map(|key| store.shard_of(&key));
    let list = lua.create_table()?;
    let is_wanted = |it: &ShardStatus| of_key.is_none_or(|shard| it.shard == shard);
    for shard in store.status().into_iter().filter(is_wanted) {
        let targets = lua.create_table()?;
        for (node, kind) in &shard.targets {
            let kind = match kind {
                ChangeKind::Move => "move",
                ChangeKind::Failover => "failover",
            };
            targets.raw_set(&**node, kind)?;
        }
        let table = lua.create_table()?;
        table.raw_set("shard", shard.shard)?;
        table.raw_set("epoch", shard.epoch)?;
        let holders = shard.holders.iter().map(|node| &**node);
        table.raw_set("holders", lua.create_sequence_from(holders)?)?;
        table.raw_set("targets", targets)?;
        table.raw_set("at_risk", shard.is_at_risk)?;
        table.raw_set("unrecovered", shard.is_unrecovered)?;
        table.raw_set("repaired_s", shard.repaired.map(|ago| ago.as_secs()))?;
        list.raw_push(table)?;
    }
    let waits_for = store.waits_for().map(|why| lua.create_string(&why)).transpose()?;
    let waits_for = waits_for.map_or(LuaValue::Nil, LuaValue::String);
    Ok(Returned::Outcome(Outcome::Success(LuaValue::Table(list), waits_for)))
}

fn nothing() -> IntoValues {
    success(|_| Ok(LuaValue::Boolean(true)))
}

fn success(value: impl FnOnce(&Lua) -> mlua::Result<LuaValue> + Send + 'static) -> IntoValues {
    Box::new(|lua| Ok(Outcome::Success(value(lua)?, LuaValue::Nil)))
}

fn bytes(given: Value, at: &ValuePath) -> Result<Bytes, Error> {
    match given {
        Value::Bytes(bytes) => Ok(bytes.into()),
        other => Err(at.wrong_type_text("a string", &other)),
    }
}

/// A list of records to write.
fn records(given: Value, at: &ValuePath) -> Result<Vec<Write>, Error> {
    let wanted = "a list of records, { id = string, data = string }";
    let given = match given {
        Value::List(given) => given,
        Value::Map(members) if members.is_empty() => Vec::new(),
        other => return Err(at.wrong_type_text(wanted, &other)),
    };
    let record = |(index, given): (usize, Value)| {
        let place = format!("{}", index + 1);
        let at = at.member(&place);
        let Value::Map(members) = given else {
            return Err(at.wrong_type_text("a record, { id = string, data = string }", &given));
        };
        let (mut id, mut data) = (Value::Null, Value::Null);
        for (name, value) in members {
            match name.as_str() {
                "id" => id = value,
                "data" => data = value,
                // A record that a read has returned can be written again; its version is a new one.
                "version" => {}
                _ => {
                    return Err(Error::misuse(unknown(
                        "field of a record",
                        &name,
                        &["id", "data"],
                    )));
                }
            }
        }
        Ok((bytes(id, &at.member("id"))?, Some(bytes(data, &at.member("data"))?)))
    };
    given.into_iter().enumerate().map(record).collect()
}

/// The options of a write; there is one.
fn timeout(call: &Call<ReplicatedStore>, place: usize) -> Result<Duration, Error> {
    let mut timeout = TIMEOUT;
    for (name, value) in call.named_options(place)? {
        if name != "timeout_ms" {
            return Err(Error::misuse(unknown("option", &name, &["timeout_ms"])));
        }
        timeout = Shape::Millis.duration(&value, &ValuePath::top(&name))?;
    }
    Ok(timeout)
}
