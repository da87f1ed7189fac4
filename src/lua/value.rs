//! Values between Lua and the wire: bytes stay bytes, 64-bit integers stay exact.

use super::native::Results;
use crate::error::Error;
use crate::wire::response::{Answer, EntryMeta, Meta};
use crate::wire::value::Value;
use mlua::{IntoLua, Lua, Table, Value as LuaValue};

/// How deep a table may nest; a deeper one is most likely a cycle.
const MAX_DEPTH: usize = 100;

/// The largest integer up to which every integer is exact in a double.
const EXACT_IN_DOUBLE: u64 = 1 << 53;

/// The wire's value for a Lua value. What no call takes becomes [`Value::Foreign`].
///
/// # Errors
/// [`Error::misuse`] for a table that is neither a list nor a map of names, or that has a cycle.
pub fn from_lua(lua: &Lua, value: &LuaValue) -> Result<Value, Error> {
    from_lua_at(lua, value, 0)
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
        let is_list = members.is_empty() && table.metatable() == Some(list_metatable(lua));
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

/// The mark by which an empty list that came from Consul is still a list when it is sent back.
fn list_metatable(lua: &Lua) -> Table {
    const KEY: &str = "consul_ffi.list";
    if let Ok(metatable) = lua.named_registry_value(KEY) {
        return metatable;
    }
    let metatable = lua.create_table().and_then(|metatable| {
        metatable.set("__jsontype", "array")?;
        lua.set_named_registry_value(KEY, &metatable)?;
        Ok(metatable)
    });
    // Out of memory: the mark is lost, the list is not.
    metatable.unwrap_or_else(|_| lua.globals())
}

/// The Lua value for the wire's value.
pub fn to_lua(lua: &Lua, value: Value) -> mlua::Result<LuaValue> {
    Ok(match value {
        Value::Null | Value::Foreign(_) => LuaValue::Nil,
        Value::Bool(value) => LuaValue::Boolean(value),
        Value::Int(number) => integer(lua, number.unsigned_abs(), number < 0)?,
        Value::Uint(number) => integer(lua, number, false)?,
        Value::Float(number) => LuaValue::Number(number),
        Value::Bytes(bytes) => LuaValue::String(lua.create_string(bytes)?),
        Value::List(items) => {
            let table = lua.create_table_with_capacity(items.len(), 0)?;
            if items.is_empty() {
                table.set_metatable(Some(list_metatable(lua)))?;
            }
            for (place, item) in items.into_iter().enumerate() {
                table.raw_set(place + 1, to_lua(lua, item)?)?;
            }
            LuaValue::Table(table)
        }
        Value::Map(members) => {
            let table = lua.create_table_with_capacity(0, members.len())?;
            for (name, member) in members {
                if member != Value::Null {
                    table.raw_set(name, to_lua(lua, member)?)?;
                }
            }
            LuaValue::Table(table)
        }
    })
}

/// A number when this Lua holds it exactly, its decimal digits otherwise.
fn integer(lua: &Lua, magnitude: u64, negative: bool) -> mlua::Result<LuaValue> {
    let has_integers = cfg!(feature = "lua54");
    let limit = if has_integers { i64::MAX as u64 } else { EXACT_IN_DOUBLE };
    if magnitude <= limit {
        let number = magnitude as i64;
        let number = if negative { -number } else { number };
        return if has_integers { number.into_lua(lua) } else { (number as f64).into_lua(lua) };
    }
    let sign = if negative { "-" } else { "" };
    format!("{sign}{magnitude}").into_lua(lua)
}

/// A call's third result on success.
pub fn meta(lua: &Lua, meta: Meta) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let number = |number: Option<u64>| number.map(|number| integer(lua, number, false)).transpose();
    table.raw_set("index", number(meta.index)?)?;
    table.raw_set("known_leader", meta.known_leader)?;
    table.raw_set("last_contact_ms", number(meta.last_contact_ms)?)?;
    table.raw_set("content_hash", meta.content_hash)?;
    table.raw_set("cache", meta.cache)?;
    table.raw_set("age_s", number(meta.age_s)?)?;
    table.raw_set("backend", meta.backend)?;
    table.raw_set("request_ms", meta.request_ms)?;
    table.raw_set("endpoint", meta.endpoint)?;
    table.raw_set("attempts", meta.attempts)?;
    if let Some(EntryMeta { flags, session, lock_index, create_index, modify_index }) = meta.entry {
        table.raw_set("flags", integer(lua, flags, false)?)?;
        table.raw_set("session", session)?;
        table.raw_set("lock_index", integer(lua, lock_index, false)?)?;
        table.raw_set("create_index", integer(lua, create_index, false)?)?;
        table.raw_set("modify_index", integer(lua, modify_index, false)?)?;
    }
    Ok(table)
}

/// A call's third result on failure.
pub fn error(lua: &Lua, error: &Error) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("kind", error.kind().name())?;
    table.raw_set("message", error.message())?;
    table.raw_set("status", error.status())?;
    table.raw_set("retryable", error.retryable())?;
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
pub fn outcome(lua: &Lua, outcome: Result<Answer, Error>) -> mlua::Result<Results> {
    let (success, response, extra) = match outcome {
        Ok(answer) => (true, to_lua(lua, answer.value)?, meta(lua, answer.meta)?),
        Err(failure) => (false, failure.message().into_lua(lua)?, error(lua, &failure)?),
    };
    Ok((LuaValue::Boolean(success), response, LuaValue::Table(extra)))
}
