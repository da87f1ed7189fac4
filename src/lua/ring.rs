//! `ConsistentHashRing`: which of some nodes a key belongs to, and what is known of each node.

use super::held::{done, one};
use super::native::{self, Failure, Results};
use super::node::reads_as_id;
use super::stack;
use super::value;
use crate::error::Error;
use crate::ring::{POINTS, Ring, points_of};
use crate::wire::shape::At;
use crate::wire::value::Value;
use mlua::{
    AnyUserData, IntoLua, Lua, LuaString, MetaMethod, MultiValue, Table, UserData, UserDataFields,
    UserDataMethods, Value as LuaValue,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The most points that a node of weight 1 may have.
const MOST_VIRTUAL_NODES: u32 = 10_000;

/// The most points of a ring, which then takes 80 MB.
const MOST_POINTS: u64 = 1 << 22;

/// How many nodes `get_replica_nodes` gives when the program does not say.
const REPLICAS: usize = 2;

/// A ring as a Lua program holds it.
///
/// The nodes' tables are its user values, where the garbage collector sees what they refer to.
struct ConsistentHashRing {
    virtual_nodes: u32,
    /// The nodes' weights by their ids.
    weights: RefCell<BTreeMap<Vec<u8>, f64>>,
    /// How many points they have together.
    points: Cell<u64>,
    /// How often the nodes have changed.
    changes: Cell<u64>,
    /// Made when it is first asked for after a change.
    ring: RefCell<Option<Rc<Ring>>>,
}

/// The user value with the nodes' tables by id.
const BY_ID: usize = 1;

/// The user value with each node's id and table, in the order of the places on the ring. No change is
/// made to it; another one takes its place.
const BY_PLACE: usize = 2;

fn id_at(place: usize) -> usize {
    2 * place + 1
}

fn table_at(place: usize) -> usize {
    2 * place + 2
}

impl ConsistentHashRing {
    /// The ring and what its places stand for.
    fn ring(&self, lua: &Lua, this: &AnyUserData) -> mlua::Result<(Rc<Ring>, Table)> {
        loop {
            if let Some(ring) = &*self.ring.borrow() {
                return Ok((Rc::clone(ring), this.nth_user_value(BY_PLACE)?));
            }
            let changes = self.changes.get();
            let nodes: Vec<_> =
                self.weights.borrow().iter().map(|(id, weight)| (id.clone(), *weight)).collect();
            let by_id: Table = this.nth_user_value(BY_ID)?;
            let by_place = lua.create_table_with_capacity(2 * nodes.len(), 0)?;
            for (place, (id, _)) in nodes.iter().enumerate() {
                let id = lua.create_string(id)?;
                by_place.raw_seti(table_at(place), by_id.raw_get::<LuaValue>(&id)?)?;
                by_place.raw_seti(id_at(place), id)?;
            }
            let ring = Rc::new(Ring::with_points(&nodes, self.virtual_nodes));
            // A finalizer, which any allocation in Lua may run, may have changed the nodes meanwhile.
            if self.changes.get() == changes {
                this.set_nth_user_value(BY_PLACE, by_place)?;
                self.ring.replace(Some(ring));
            }
        }
    }

    /// Puts a node on the ring, or changes its weight.
    fn put(&self, id: &[u8], weight: f64) -> Result<(), Error> {
        let points = |weight| u64::from(points_of(weight, self.virtual_nodes));
        let mut weights = self.weights.borrow_mut();
        let others = self.points.get() - weights.get(id).map_or(0, |weight| points(*weight));
        let all = others + points(weight);
        if all > MOST_POINTS {
            return Err(Error::argument(format!(
                "with info.weight {weight} the ring would have more than {MOST_POINTS} points"
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

impl UserData for ConsistentHashRing {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| {
            let nodes = this.weights.borrow().len();
            Ok(format!("ConsistentHashRing({nodes} nodes, {} virtual nodes)", this.virtual_nodes))
        });
        methods.add_meta_method(MetaMethod::Len, |_, this, ()| Ok(this.weights.borrow().len()));
    }

    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_meta_field("__name", "ConsistentHashRing");
        fields.add_meta_field_with("__index", |lua| {
            lua.named_registry_value::<mlua::Function>(INDEX)
        });
    }
}

/// The registry's name for the Lua function that looks members of a ring up.
const INDEX: &str = "consul_ffi.ring.index";

type Method = fn(&Lua, &AnyUserData, &ConsistentHashRing, &MultiValue) -> Result<Results, Failure>;

const METHODS: &[(&str, Method)] = &[
    ("add_node", add_node),
    ("remove_node", remove_node),
    ("get_node", get_node),
    ("get_nodes", get_nodes),
    ("get_replica_nodes", get_replica_nodes),
];

/// The native functions that `module.lua` builds the class from.
pub fn register(lua: &Lua) -> mlua::Result<Table> {
    let native = native::class(
        lua,
        INDEX,
        METHODS.iter().map(|(name, method)| {
            (*name, move |lua: &Lua, args: MultiValue| invoke(lua, name, *method, &args))
        }),
    )?;
    native.set(
        "new",
        native::function(lua, "ConsistentHashRing", |lua, args| {
            let virtual_nodes =
                value::argument(lua, &args, 0).and_then(|given| virtual_nodes(&given)).map_err(
                    |error| Error::misuse(format!("ConsistentHashRing: {}", error.message())),
                )?;
            let ring = lua.create_userdata(ConsistentHashRing {
                virtual_nodes,
                weights: RefCell::default(),
                points: Cell::new(0),
                changes: Cell::new(0),
                ring: RefCell::default(),
            })?;
            ring.set_nth_user_value(BY_ID, lua.create_table()?)?;
            Ok(one(LuaValue::UserData(ring)))
        })?,
    )?;
    native.set(
        "field",
        lua.create_function(|lua, (this, name): (AnyUserData, LuaString)| {
            match &*name.as_bytes() {
                b"nodes" => this.nth_user_value(BY_ID),
                b"virtual_nodes" => {
                    this.borrow::<ConsistentHashRing>()?.virtual_nodes.into_lua(lua)
                }
                _ => Ok(LuaValue::Nil),
            }
        })?,
    )?;
    Ok(native)
}

fn invoke(lua: &Lua, name: &str, method: Method, args: &MultiValue) -> Result<Results, Failure> {
    let this = args.front().and_then(LuaValue::as_userdata);
    let ring = this.and_then(|this| Some((this, this.borrow::<ConsistentHashRing>().ok()?)));
    let outcome = match ring {
        Some((this, ring)) => method(lua, this, &ring, args),
        None => Err(Error::misuse("call it with a colon").into()),
    };
    outcome.map_err(|failure| match failure {
        Failure::Error(error) => Failure::Error(error.context(name)),
        lua => lua,
    })
}

/// A string that is an argument of a method.
fn text<'a>(
    lua: &Lua,
    args: &'a MultiValue,
    place: usize,
    name: &str,
) -> Result<&'a LuaString, Error> {
    match args.get(place).unwrap_or(&LuaValue::Nil) {
        LuaValue::String(text) => Ok(text),
        other => Err(At::top(name).wrong_type_text("a string", &value::from_lua(lua, other)?)),
    }
}

/// The first argument of a method, which is a key.
pub fn key<'a>(lua: &Lua, args: &'a MultiValue) -> Result<&'a LuaString, Error> {
    text(lua, args, 1, "key")
}

/// The first argument of a method, which is a list of keys.
pub fn keys<'a>(lua: &Lua, args: &'a MultiValue) -> Result<&'a Table, Error> {
    match args.get(1).unwrap_or(&LuaValue::Nil) {
        LuaValue::Table(keys) => Ok(keys),
        other => {
            let given = value::from_lua(lua, other)?;
            Err(At::top("keys").wrong_type_text("a list of strings", &given))
        }
    }
}

/// The second argument of a method, which is how many nodes it gives.
pub fn replica_count(lua: &Lua, args: &MultiValue) -> Result<usize, Error> {
    let (at, given) = (At::top("n"), value::argument(lua, args, 2)?);
    match given {
        Value::Null => Ok(REPLICAS),
        Value::Int(number) if number >= 0 => Ok(number as usize),
        Value::Int(_) | Value::Float(_) => {
            Err(at.bad_value(&given, "it must be an integer that is not below 0"))
        }
        _ => Err(at.wrong_type_text("an integer", &given)),
    }
}

/// For each key what a list has at the place, counted from 1, that `place_of` says.
pub fn owners(
    lua: &Lua,
    keys: &Table,
    list: &Table,
    place_of: impl Fn(&[u8]) -> usize,
) -> Result<LuaValue, Failure> {
    match stack::picked(lua, keys, list, place_of)? {
        owners @ LuaValue::Table(_) => Ok(owners),
        number => {
            let given = value::from_lua(lua, &keys.raw_get(&number)?)?;
            let place = format!("keys[{}]", number.to_string()?);
            Err(At::top(&place).wrong_type_text("a string", &given).into())
        }
    }
}

fn virtual_nodes(given: &Value) -> Result<u32, Error> {
    let (at, allowed) = (At::top("virtual_nodes"), 1..=i64::from(MOST_VIRTUAL_NODES));
    match given {
        Value::Null => Ok(POINTS),
        Value::Int(number) if allowed.contains(number) => Ok(*number as u32),
        _ => Err(at.wrong_type_text(&format!("an integer from 1 to {MOST_VIRTUAL_NODES}"), given)),
    }
}

/// `ring:add_node(id, info)`
fn add_node(
    lua: &Lua,
    this: &AnyUserData,
    ring: &ConsistentHashRing,
    args: &MultiValue,
) -> Result<Results, Failure> {
    let id = text(lua, args, 1, "id")?;
    if id.as_bytes().is_empty() {
        return Err(Error::argument("id is \"\": it must not be empty").into());
    }
    let node = lua.create_table()?;
    match args.get(2).unwrap_or(&LuaValue::Nil) {
        LuaValue::Nil => {}
        LuaValue::Table(info) => {
            for member in info.pairs::<LuaValue, LuaValue>() {
                let (name, value) = member?;
                node.raw_set(name, value)?;
            }
        }
        other => {
            let given = value::from_lua(lua, other)?;
            return Err(At::top("info").wrong_type_text("a table", &given).into());
        }
    }
    node.raw_set("id", id)?;
    let weight = weight(&value::from_lua(lua, &node.raw_get("weight")?)?)?;
    reads_as_id(lua, &node)?;
    ring.put(&id.as_bytes(), weight)?;
    this.nth_user_value::<Table>(BY_ID)?.raw_set(id, node)?;
    Ok(done())
}

/// A node weighs 1 when nothing is said.
fn weight(given: &Value) -> Result<f64, Error> {
    let (info, wanted) = (At::top("info"), "a number that is not below 0");
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
fn remove_node(
    lua: &Lua,
    this: &AnyUserData,
    ring: &ConsistentHashRing,
    args: &MultiValue,
) -> Result<Results, Failure> {
    let id = text(lua, args, 1, "id")?;
    this.nth_user_value::<Table>(BY_ID)?.raw_set(id, LuaValue::Nil)?;
    ring.remove(&id.as_bytes());
    Ok(done())
}

/// `ring:get_node(key)`: true, and the owner's id and table.
fn get_node(
    lua: &Lua,
    this: &AnyUserData,
    ring: &ConsistentHashRing,
    args: &MultiValue,
) -> Result<Results, Failure> {
    let key = key(lua, args)?;
    let (ring, by_place) = ring.ring(lua, this)?;
    let (id, table) = match ring.owner(&key.as_bytes()) {
        Some(place) => (by_place.raw_get(id_at(place))?, by_place.raw_get(table_at(place))?),
        None => (LuaValue::Nil, LuaValue::Nil),
    };
    Ok((LuaValue::Boolean(true), id, table))
}

/// `ring:get_nodes(keys)`: true, and the owners' ids.
fn get_nodes(
    lua: &Lua,
    this: &AnyUserData,
    ring: &ConsistentHashRing,
    args: &MultiValue,
) -> Result<Results, Failure> {
    let keys = keys(lua, args)?;
    let (ring, by_place) = ring.ring(lua, this)?;
    let ids = match ring.owner(b"") {
        Some(_) => {
            let id_of = |key: &[u8]| ring.owner(key).map_or(0, id_at);
            owners(lua, keys, &by_place, id_of)?
        }
        None => LuaValue::Nil,
    };
    Ok((LuaValue::Boolean(true), ids, LuaValue::Nil))
}

/// `ring:get_replica_nodes(key, n)`: tables of nodes, the owner's first.
fn get_replica_nodes(
    lua: &Lua,
    this: &AnyUserData,
    ring: &ConsistentHashRing,
    args: &MultiValue,
) -> Result<Results, Failure> {
    let (key, count) = (key(lua, args)?, replica_count(lua, args)?);
    let (ring, by_place) = ring.ring(lua, this)?;
    let places = ring.replicas(&key.as_bytes(), count).into_iter();
    let nodes = places.map(|place| by_place.raw_get::<LuaValue>(table_at(place)));
    Ok(one(lua.create_sequence_from(nodes.collect::<mlua::Result<Vec<_>>>()?)?.into_lua(lua)?))
}
