//! Conversion of values between Lua and the wire. Bytes stay bytes, and 64-bit integers stay exact.

use super::native::Failure;
use super::stack;
use consul_api::error::Error;
use consul_api::response::Success;
use consul_api::tape::Tape;
use consul_api::value::Value;
use mlua::{IntoLua, Lua, MultiValue, Table, Value as LuaValue};
use std::ffi::CStr;

/// The limit of nested tables. A table that exceeds it most likely contains itself.
const MAX_DEPTH: usize = 100;

/// A double represents all integers up to this one.
const EXACT_IN_DOUBLE: u64 = 1 << 53;

/// Whether the numbers of this Lua are integers of 64 bits where they have no fraction.
pub const HAS_INTEGERS: bool = cfg!(any(feature = "lua53", feature = "lua54"));

/// A number of this Lua represents all integers up to this one.
pub const MAX_EXACT: u64 = if HAS_INTEGERS { i64::MAX as u64 } else { EXACT_IN_DOUBLE };

/// The registry's name for the metatable of empty lists from Consul, which are still lists when they are
/// sent back.
pub const LIST_METATABLE: &CStr = c"consul_ffi.list";

/// The registry's names for the metatables of errors and of metadata, which make them text.
pub const ERROR_METATABLE: &str = "consul_ffi.error";
pub const META_METATABLE: &str = "consul_ffi.meta";

/// The wire's value for a Lua value: [`Value::Foreign`] for functions, coroutines and userdata.
///
/// # Errors
/// [`Error::misuse`] for a table that is neither a list nor a map of names, or that has a cycle.
pub fn from_lua(lua: &Lua, value: &LuaValue) -> Result<Value, Error> {
    from_lua_at(lua, value, 0)
}

/// The wire's value for an argument, null if it was omitted; the first is 0.
///
/// # Errors
/// As [`from_lua`].
pub fn argument(lua: &Lua, args: &MultiValue, place: usize) -> Result<Value, Error> {
    args.get(place).map_or(Ok(Value::Null), |given| from_lua(lua, given))
}

/// The value of a table of options: names that it lacks are read from the table at `__index` of its metatable,
/// except for functions and metamethods.
///
/// # Errors
/// As [`from_lua`]; [`Error::misuse`] if `__index` is a function, whose names cannot be listed.
pub fn options(lua: &Lua, given: &LuaValue) -> Result<Value, Error> {
    let mut options = from_lua(lua, given)?;
    let (Value::Map(members), LuaValue::Table(table)) = (&mut options, given) else {
        return Ok(options);
    };
    let mut metatable = table.metatable();
    for _ in 0..MAX_DEPTH {
        let index = metatable.map_or(Ok(LuaValue::Nil), |it| it.raw_get("__index"));
        let defaults = match index.map_err(unreadable)? {
            LuaValue::Nil => return Ok(options),
            LuaValue::Table(defaults) => defaults,
            other => {
                return Err(Error::misuse(format!(
                    "a table of options has a metatable whose __index is a {}: it must be a table of defaults",
                    other.type_name()
                )));
            }
        };
        for pair in defaults.pairs::<LuaValue, LuaValue>() {
            let (LuaValue::String(name), member) = pair.map_err(unreadable)? else { continue };
            let name = name.to_string_lossy();
            let is_option = !member.is_function() && !name.starts_with("__");
            if is_option && !members.iter().any(|(known, _)| *known == name) {
                members.push((name, from_lua_at(lua, &member, 1)?));
            }
        }
        metatable = defaults.metatable();
    }
    Err(Error::misuse("a table of options has metatables whose __index goes round in a circle"))
}

fn unreadable(error: mlua::Error) -> Error {
    Error::misuse(format!("cannot read a table: {error}"))
}

fn from_lua_at(lua: &Lua, value: &LuaValue, depth: usize) -> Result<Value, Error> {
    Ok(match value {
        LuaValue::Nil => Value::Null,
        // The null of JSON libraries such as lua-cjson.
        LuaValue::LightUserData(pointer) if pointer.0.is_null() => Value::Null,
        LuaValue::Boolean(value) => Value::Bool(*value),
        LuaValue::Integer(number) => Value::Int(*number),
        LuaValue::Number(number) => {
            let is_exact = number.fract() == 0.0 && number.abs() < EXACT_IN_DOUBLE as f64;
            if is_exact { Value::Int(*number as i64) } else { Value::Float(*number) }
        }
        LuaValue::String(text) => Value::Bytes(text.as_bytes().to_vec()),
        LuaValue::Table(table) if depth < MAX_DEPTH => from_table(lua, table, depth)?,
        LuaValue::Table(_) => {
            return Err(Error::misuse(format!(
                "a table nests deeper than {MAX_DEPTH} levels; does it contain itself?"
            )));
        }
        LuaValue::Function(_) => Value::Foreign("a function"),
        LuaValue::Thread(_) => Value::Foreign("a coroutine"),
        other => boxed_integer(lua, other).unwrap_or(Value::Foreign("a userdata")),
    })
}

/// The value of LuaJIT's `123ULL` and `-5LL`, which are cdata with this text.
fn boxed_integer(lua: &Lua, value: &LuaValue) -> Option<Value> {
    if !matches!(value, LuaValue::Other(_)) {
        return None;
    }
    let to_string: mlua::Function = lua.globals().get("tostring").ok()?;
    let text: String = to_string.call(value).ok()?;
    match text.strip_suffix("ULL") {
        Some(digits) => digits.parse::<u64>().ok().map(Value::from),
        None => text.strip_suffix("LL")?.parse().ok().map(Value::Int),
    }
}

fn from_table(lua: &Lua, table: &Table, depth: usize) -> Result<Value, Error> {
    let mut members = Vec::new();
    let (mut items, mut last) = (0, 0);
    for pair in table.pairs::<LuaValue, LuaValue>() {
        let (key, member) = pair.map_err(unreadable)?;
        match key {
            LuaValue::String(name) => {
                let name = name.to_str().map_err(|_| {
                    let name = name.to_string_lossy();
                    Error::misuse(format!("a table has the key {name:?}, which is not UTF-8"))
                })?;
                let name = name.to_owned();
                let member = from_lua_at(lua, &member, depth + 1)?;
                members.push((name, member));
            }
            LuaValue::Integer(_) | LuaValue::Number(_) => {
                items += 1;
                last = last.max(place(&key));
            }
            other => {
                return Err(Error::misuse(format!(
                    "a table has a key of type {}; keys must be strings, or 1, 2, 3 … for a list",
                    other.type_name()
                )));
            }
        }
    }
    if items == 0 {
        let is_list = members.is_empty() && is_empty_list(lua, table);
        return Ok(if is_list { Value::List(Vec::new()) } else { Value::Map(members) });
    }
    if !members.is_empty() {
        return Err(Error::misuse(
            "a table has both names and list items; it must be either a map or a list",
        ));
    }
    // Lua's length of a table with a hole can be any.
    if last != items {
        return Err(Error::misuse("a list has holes or does not begin at 1"));
    }
    let item =
        |place: usize| from_lua_at(lua, &table.raw_get(place).map_err(unreadable)?, depth + 1);
    Ok(Value::List((1..=items).map(item).collect::<Result<_, _>>()?))
}

/// The place in a list that a number is the key of. A number that cannot be a place is behind all.
pub fn place(key: &LuaValue) -> usize {
    key.as_usize().filter(|place| *place > 0).unwrap_or(usize::MAX)
}

/// Creates the metatables of empty lists, of errors and of metadata; `module.lua` fills the last two.
pub fn register(lua: &Lua) -> mlua::Result<()> {
    let metatable = lua.create_table()?;
    metatable.set("__jsontype", "array")?;
    lua.set_named_registry_value(&LIST_METATABLE.to_string_lossy(), metatable)?;
    lua.set_named_registry_value(ERROR_METATABLE, lua.create_table()?)?;
    lua.set_named_registry_value(META_METATABLE, lua.create_table()?)
}

/// Has a table be a list also while it is empty, as those from Consul are.
pub fn as_list(lua: &Lua, table: Table) -> mlua::Result<Table> {
    let metatable = lua.named_registry_value(&LIST_METATABLE.to_string_lossy())?;
    table.set_metatable(Some(metatable))?;
    Ok(table)
}

fn is_empty_list(lua: &Lua, table: &Table) -> bool {
    let of_lists = lua.named_registry_value::<Table>(&LIST_METATABLE.to_string_lossy());
    matches!((table.metatable(), of_lists), (Some(this), Ok(of_lists)) if this == of_lists)
}

/// The Lua value for a wire's value.
pub fn to_lua(lua: &Lua, value: &Value) -> mlua::Result<LuaValue> {
    stack::value(lua, &Tape::from(value))
}

/// The third value of a failed call.
pub fn error(lua: &Lua, error: &Error) -> mlua::Result<LuaValue> {
    let table = lua.create_table()?;
    table.raw_set("kind", error.kind().name())?;
    table.raw_set("message", error.message())?;
    table.raw_set("status", error.status())?;
    table.raw_set("retryable", error.is_retryable())?;
    table.raw_set("maybe_applied", error.maybe_applied())?;
    table.raw_set("endpoint", error.endpoint())?;
    table.raw_set("attempts", error.attempts())?;
    if !error.refused().is_empty() {
        let operations = lua.create_table()?;
        for refused in error.refused() {
            let operation = lua.create_table()?;
            operation.raw_set("index", refused.index + 1)?;
            operation.raw_set("what", refused.what.as_str())?;
            operations.push(operation)?;
        }
        table.raw_set("operations", operations)?;
    }
    table.set_metatable(Some(lua.named_registry_value(ERROR_METATABLE)?))?;
    Ok(LuaValue::Table(table))
}

/// The outcome of a call as Lua values.
#[derive(Debug)]
pub enum Outcome {
    /// `true, response, meta`
    Success(LuaValue, LuaValue),
    /// `false, message, error`
    Failure(LuaValue, LuaValue),
}

/// Reads the answer of a call that succeeded.
///
/// # Errors
/// Errors of Lua.
pub fn success(lua: &Lua, success: Success) -> Result<Outcome, Failure> {
    let (tape, meta) = success.read();
    let (response, meta) = stack::value_and_meta(lua, &tape, &meta)?;
    Ok(Outcome::Success(response, meta))
}

/// The outcome of a call, also of a failed one.
///
/// # Errors
/// Errors of Lua.
pub fn outcome(lua: &Lua, done: Result<Outcome, Failure>) -> Result<Outcome, Failure> {
    match done {
        Err(Failure::Error(error)) => Ok(failure(lua, &error)?),
        done => done,
    }
}

/// The outcome of a call that failed.
pub fn failure(lua: &Lua, failed: &Error) -> mlua::Result<Outcome> {
    Ok(Outcome::Failure(failed.message().into_lua(lua)?, error(lua, failed)?))
}
