//! `ConsistentHashRing`: the node of a key, by a consistent hash.

use super::node_table;
use super::runtime::native::{self, Call, Class, Failure, Method, Returned};
use super::runtime::{stack, value};
use consul_api::error::Error;
use consul_api::ring::{POINTS, Ring, points_of};
use consul_api::value::Value;
use consul_api::value::shape::ValuePath;
use mlua::{AnyUserData, IntoLua, Lua, LuaString, MultiValue, Table, Value as LuaValue};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The limit of points for a node of weight 1.
const MAX_VIRTUAL_NODES: u32 = 10_000;

/// The limit of points on a ring, which takes 80 MB with as many.
const MAX_POINTS: u64 = 1 << 22;

/// The number of nodes that `get_replica_nodes` returns by default.
const DEFAULT_REPLICAS: usize = 2;

/// The userdata of a ring. The tables of its nodes are user values, where the garbage collector sees
/// what they refer to.
pub struct ConsistentHashRing {
    virtual_nodes: u32,
    /// The weights of the nodes by id.
    weights: RefCell<BTreeMap<Vec<u8>, f64>>,
    /// The points of all nodes.
    points: Cell<u64>,
    /// The number of changes to the nodes.
    changes: Cell<u64>,
    /// Computed for the first request after a change.
    ring: RefCell<Option<Rc<Ring>>>,
}

/// The user value with the tables of the nodes by id.
const BY_ID: usize = 1;

/// The user value with the id and the table of each node, by the node's index on the ring. It is
/// replaced, never changed.
const BY_INDEX: usize = 2;

fn id_at(index: usize) -> usize {
    2 * index + 1
}

fn table_at(index: usize) -> usize {
    2 * index + 2
}

impl ConsistentHashRing {
    /// The ring and the nodes by index.
    fn ring(&self, lua: &Lua, this: &AnyUserData) -> mlua::Result<(Rc<Ring>, Table)> {
        loop {
            if let Some(ring) = &*self.ring.borrow() {
                return Ok((Rc::clone(ring), this.nth_user_value(BY_INDEX)?));
            }
            let changes = self.changes.get();
            let nodes: Vec<_> =
                self.weights.borrow().iter().map(|(id, weight)| (id.clone(), *weight)).collect();
            let by_id: Table = this.nth_user_value(BY_ID)?;
            let by_index = lua.create_table_with_capacity(2 * nodes.len(), 0)?;
            for (index, (id, _)) in nodes.iter().enumerate() {
                let id = lua.create_string(id)?;
                by_index.raw_seti(table_at(index), by_id.raw_get::<LuaValue>(&id)?)?;
                by_index.raw_seti(id_at(index), id)?;
            }
            let ring = Rc::new(Ring::with_points(&nodes, self.virtual_nodes));
            // A finalizer, which any allocation in Lua may run, may have changed the nodes.
            if self.changes.get() == changes {
                this.set_nth_user_value(BY_INDEX, by_index)?;
                self.ring.replace(Some(ring));
            }
        }
    }

    /// Adds a node, or changes its weight.
    fn add(&self, id: &[u8], weight: f64) -> Result<(), Error> {
        let points = |weight| u64::from(points_of(weight, self.virtual_nodes));
        let mut weights = self.weights.borrow_mut();
        let others = self.points.get() - weights.get(id).map_or(0, |weight| points(*weight));
        let all = others + points(weight);
        if all > MAX_POINTS {
            return Err(Error::argument(format!(
                "with info.weight {weight} the ring would have more than {MAX_POINTS} points"
            )));
        }
        weights.insert(id.to_owned(), weight);
        self.changed(all);
        Ok(())
    }

    fn remove(&self, id: &[u8]) {
        let mut weights = self.weights.borrow_mut();
        if let Some(weight) = weights.remove(id) {
            self.changed(self.points.get() - u64::from(points_of(weight, self.virtual_nodes)));
        }
    }

    fn changed(&self, points: u64) {
        self.points.set(points);
        self.changes.set(self.changes.get() + 1);
        self.ring.replace(None);
    }
}

const METHODS: &[Method<ConsistentHashRing>] = &[
    Method::raising("__tostring", |call| {
        let (nodes, each) = (call.object.weights.borrow().len(), call.object.virtual_nodes);
        native::text(call.lua, &format!("ConsistentHashRing({nodes} nodes, {each} virtual nodes)"))
    }),
    Method::raising("__len", |call| {
        let nodes = call.object.weights.borrow().len();
        Ok(Returned::Value(nodes.into_lua(call.lua)?))
    }),
    Method::new("add_node", add_node),
    Method::new("remove_node", remove_node),
    Method::raising("get_node", get_node),
    Method::raising("get_nodes", get_nodes),
    Method::new("get_replica_nodes", get_replica_nodes),
];

const FIELDS: &[Method<ConsistentHashRing>] = &[
    Method::raising("nodes", |call| Ok(Returned::Value(call.userdata.nth_user_value(BY_ID)?))),
    Method::raising("virtual_nodes", |call| {
        Ok(Returned::Value(call.object.virtual_nodes.into_lua(call.lua)?))
    }),
];

impl Class for ConsistentHashRing {
    const NAME: &'static str = "ConsistentHashRing";

    fn register(lua: &Lua) -> mlua::Result<Table> {
        let class = native::class(lua, METHODS)?;
        class.set("new", native::raising(lua, "ConsistentHashRing", new)?)?;
        class.set("fields", native::functions(lua, FIELDS)?)?;
        Ok(class)
    }
}

/// `ConsistentHashRing.new(virtual_nodes)`
fn new(lua: &Lua, values: MultiValue) -> native::Result {
    let virtual_nodes = value::argument(lua, &values, 0)
        .and_then(|given| virtual_nodes(&given))
        .map_err(|error| error.context("ConsistentHashRing"))?;
    let ring = ConsistentHashRing {
        virtual_nodes,
        weights: RefCell::default(),
        points: Cell::new(0),
        changes: Cell::new(0),
        ring: RefCell::default(),
    };
    let ring = native::object(lua, ring)?;
    ring.set_nth_user_value(BY_ID, lua.create_table()?)?;
    Ok(Returned::Value(LuaValue::UserData(ring)))
}

/// An argument that must be a string.
fn text<'a, T>(call: &'a Call<T>, place: usize, name: &str) -> Result<&'a LuaString, Error> {
    match call.lua_arg(place) {
        LuaValue::String(text) => Ok(text),
        _ => Err(ValuePath::top(name).wrong_type_text("a string", &call.arg(place)?)),
    }
}

/// The first argument, a key.
pub fn key<'a, T>(call: &'a Call<T>) -> Result<&'a LuaString, Error> {
    text(call, 1, "key")
}

/// The first argument, a list of keys.
pub fn keys<'a, T>(call: &'a Call<T>) -> Result<&'a Table, Error> {
    match call.lua_arg(1) {
        LuaValue::Table(keys) => Ok(keys),
        _ => Err(ValuePath::top("keys").wrong_type_text("a list of strings", &call.arg(1)?)),
    }
}

/// The second argument, the number of nodes to return.
pub fn replica_count<T>(call: &Call<T>) -> Result<usize, Error> {
    let (at, given) = (ValuePath::top("n"), call.arg(2)?);
    match given {
        Value::Null => Ok(DEFAULT_REPLICAS),
        Value::Int(number) if number >= 0 => Ok(number as usize),
        Value::Int(_) | Value::Float(_) => {
            Err(at.bad_value(&given, "it must be an integer that is not below 0"))
        }
        _ => Err(at.wrong_type_text("an integer", &given)),
    }
}

/// For each key the item of a list at the index, counted from 1, that `index_of` returns.
pub fn owners(
    lua: &Lua,
    keys: &Table,
    list: &Table,
    index_of: impl Fn(&[u8]) -> usize,
) -> Result<LuaValue, Failure> {
    match stack::look_up_all(lua, keys, list, index_of)? {
        owners @ LuaValue::Table(_) => Ok(owners),
        index => {
            let given = value::from_lua(lua, &keys.raw_get(&index)?)?;
            let name = format!("keys[{}]", index.to_string()?);
            Err(ValuePath::top(&name).wrong_type_text("a string", &given).into())
        }
    }
}

fn virtual_nodes(given: &Value) -> Result<u32, Error> {
    let (at, allowed) = (ValuePath::top("virtual_nodes"), 1..=i64::from(MAX_VIRTUAL_NODES));
    match given {
        Value::Null => Ok(POINTS),
        Value::Int(number) if allowed.contains(number) => Ok(*number as u32),
        _ => Err(at.wrong_type_text(&format!("an integer from 1 to {MAX_VIRTUAL_NODES}"), given)),
    }
}

/// `ring:add_node(id, info)`
fn add_node(call: &Call<ConsistentHashRing>) -> native::Result {
    let lua = call.lua;
    let id = text(call, 1, "id")?;
    if id.as_bytes().is_empty() {
        return Err(Error::argument("id is \"\": it must not be empty").into());
    }
    let node = lua.create_table()?;
    match call.lua_arg(2) {
        LuaValue::Nil => {}
        LuaValue::Table(info) => {
            for member in info.pairs::<LuaValue, LuaValue>() {
                let (name, value) = member?;
                node.raw_set(name, value)?;
            }
        }
        _ => return Err(ValuePath::top("info").wrong_type_text("a table", &call.arg(2)?).into()),
    }
    node.raw_set("id", id)?;
    let weight = weight(&value::from_lua(lua, &node.raw_get("weight")?)?)?;
    node_table::set_metatable(lua, &node)?;
    call.object.add(&id.as_bytes(), weight)?;
    call.userdata.nth_user_value::<Table>(BY_ID)?.raw_set(id, node)?;
    Ok(Returned::done())
}

/// The weight of a node, 1 by default.
fn weight(given: &Value) -> Result<f64, Error> {
    let (info, wanted) = (ValuePath::top("info"), "a number that is not below 0");
    let at = info.member("weight");
    let weight = match given {
        Value::Null => return Ok(1.0),
        Value::Int(number) => *number as f64,
        Value::Float(number) => *number,
        _ => return Err(at.wrong_type_text(wanted, given)),
    };
    if !weight.is_finite() || weight < 0.0 {
        return Err(at.bad_value(given, &format!("it must be {wanted}")));
    }
    Ok(weight)
}

/// `ring:remove_node(id)`
fn remove_node(call: &Call<ConsistentHashRing>) -> native::Result {
    let id = text(call, 1, "id")?;
    call.userdata.nth_user_value::<Table>(BY_ID)?.raw_set(id, LuaValue::Nil)?;
    call.object.remove(&id.as_bytes());
    Ok(Returned::done())
}

/// `ring:get_node(key)`: the id and the table of the owner.
fn get_node(call: &Call<ConsistentHashRing>) -> native::Result {
    let key = key(call)?;
    let (ring, by_index) = call.object.ring(call.lua, call.userdata)?;
    let Some(index) = ring.owner(&key.as_bytes()) else {
        return Ok(Returned::Pair(LuaValue::Nil, LuaValue::Nil));
    };
    let (id, table) = (by_index.raw_get(id_at(index))?, by_index.raw_get(table_at(index))?);
    Ok(Returned::Pair(id, table))
}

/// `ring:get_nodes(keys)`: the ids of the owners.
fn get_nodes(call: &Call<ConsistentHashRing>) -> native::Result {
    let keys = keys(call)?;
    let (ring, by_index) = call.object.ring(call.lua, call.userdata)?;
    if ring.owner(b"").is_none() {
        return Ok(Returned::Value(LuaValue::Nil));
    }
    let id_of = |key: &[u8]| ring.owner(key).map_or(0, id_at);
    Ok(Returned::Value(owners(call.lua, keys, &by_index, id_of)?))
}

/// `ring:get_replica_nodes(key, n)`: the tables of nodes, the owner's first.
fn get_replica_nodes(call: &Call<ConsistentHashRing>) -> native::Result {
    let (key, count) = (key(call)?, replica_count(call)?);
    let (ring, by_index) = call.object.ring(call.lua, call.userdata)?;
    let indexes = ring.replicas(&key.as_bytes(), count);
    let nodes = call.lua.create_table_with_capacity(indexes.len(), 0)?;
    for index in indexes {
        nodes.raw_push(by_index.raw_get::<LuaValue>(table_at(index))?)?;
    }
    Ok(Returned::Value(LuaValue::Table(nodes)))
}
