//! Values between Lua and the wire: bytes stay bytes, 64-bit integers stay exact.

use super::native::Results;
use super::stack;
use crate::error::Error;
use crate::wire::response::Success;
use crate::wire::tape::Tape;
use crate::wire::value::Value;
use mlua::{IntoLua, Lua, MultiValue, Table, Value as LuaValue};
use std::ffi::CStr;

/// How deep a table may nest; a deeper one is most likely a cycle.
const MAX_DEPTH: usize = 100;

/// The largest integer up to which every integer is exact in a double.
const EXACT_IN_DOUBLE: u64 = 1 << 53;

/// The largest integer up to which every integer is exact in a number of this Lua.
pub const MAX_EXACT: u64 = if cfg!(feature = "lua54") { i64::MAX as u64 } else { EXACT_IN_DOUBLE };

/// The registry's name for the mark by which an empty list that came from Consul is still a list
/// when it is sent back: its metatable.
pub const LIST_METATABLE: &CStr = c"consul_ffi.list";

/// The wire's value for a Lua value. What no call takes becomes [`Value::Foreign`].
///
/// # Errors
/// [`Error::misuse`] for a table that is neither a list nor a map of names, or that has a cycle.
pub fn from_lua(lua: &Lua, value: &LuaValue) -> Result<Value, Error> {
    from_lua_at(lua, value, 0)
}

/// The wire's value for an argument, null for one that was not given; 0 is the first.
///
/// # Errors
/// As [`from_lua`].
pub fn argument(lua: &Lua, args: &MultiValue, place: usize) -> Result<Value, Error> {
    args.get(place).map_or(Ok(Value::Null), |given| from_lua(lua, given))
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

/// LuaJIT's `123ULL` and `-5LL`, which are cdata and print like that.
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
    let unreadable = |error: mlua::Error| Error::misuse(format!("a table cannot be read: {error}"));
    let mut members = Vec::new();
    let mut items = 0;
    for pair in table.pairs::<LuaValue, LuaValue>() {
        let (key, member) = pair.map_err(unreadable)?;
        match key {
            LuaValue::String(name) => {
                let name = name.to_string_lossy();
                let member = from_lua_at(lua, &member, depth + 1)?;
                members.push((name, member));
            }
            LuaValue::Integer(_) | LuaValue::Number(_) => items += 1,
            other => {
                return Err(Error::misuse(format!(
                    "a table has a key that is a {}; keys are strings or 1, 2, 3 …",
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
        return Err(Error::misuse("a table mixes a list and names; it must be one of them"));
    }
    if table.raw_len() != items {
        return Err(Error::misuse("a list has holes or does not begin at 1"));
    }
    let item =
        |item: mlua::Result<LuaValue>| from_lua_at(lua, &item.map_err(unreadable)?, depth + 1);
    Ok(Value::List(table.sequence_values().map(item).collect::<Result<_, _>>()?))
}

/// Makes the metatable of empty lists.
pub fn register(lua: &Lua) -> mlua::Result<()> {
    let metatable = lua.create_table()?;
    metatable.set("__jsontype", "array")?;
    lua.set_named_registry_value(&LIST_METATABLE.to_string_lossy(), metatable)
}

fn is_empty_list(lua: &Lua, table: &Table) -> bool {
    let mark = lua.named_registry_value::<Table>(&LIST_METATABLE.to_string_lossy());
    matches!((table.metatable(), mark), (Some(metatable), Ok(mark)) if metatable == mark)
}

/// The Lua value for the wire's value.
pub fn to_lua(lua: &Lua, value: &Value) -> mlua::Result<LuaValue> {
    stack::value(lua, &Tape::from(value))
}

/// A call's third result on failure.
pub fn error(lua: &Lua, error: &Error) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("kind", error.kind().name())?;
    table.raw_set("message", error.message())?;
    table.raw_set("status", error.status())?;
    table.raw_set("retryable", error.retryable())?;
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
    Ok(table)
}

/// A call's three results: `true, value, meta` or `false, message, error`.
pub fn outcome(lua: &Lua, outcome: Result<Success, Error>) -> mlua::Result<Results> {
    let (success, response, extra) = match outcome.and_then(Success::read) {
        Ok((tape, meta)) => {
            let (value, meta) = stack::results(lua, &tape, &meta)?;
            (true, value, meta)
        }
        Err(failure) => (false, failure.message().into_lua(lua)?, error(lua, &failure)?),
    };
    Ok((LuaValue::Boolean(success), response, LuaValue::Table(extra)))
}
