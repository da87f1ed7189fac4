//! The support for the modules with the names of older programs: `lua/consul_ha_cluster.lua`,
//! `lua/consistent_hash_cluster.lua` and the end of `module.lua`.

use super::runtime::native::{self, Returned};
use super::runtime::value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use consul_api::error::Error;
use consul_api::table::Shape;
use consul_api::value::Value;
use consul_api::value::shape::ValuePath;
use consul_config::{CLUSTER_OPTIONS, OPTIONS, Setting, option_like};
use consul_process::{logs, os};
use mlua::{IntoLua, Lua, MultiValue, Table, Value as LuaValue};
use std::time::{SystemTime, UNIX_EPOCH};

/// The native functions by name, and `options`, the set of the names of all options of a node and its client.
pub fn register(lua: &Lua) -> mlua::Result<Table> {
    let older = lua.create_table()?;
    older.set("warn", native::raising(lua, "warn", warn)?)?;
    older.set("log", native::raising(lua, "log", write)?)?;
    older.set("call", native::raising(lua, "call", call)?)?;
    older.set("warn_once", native::raising(lua, "warn_once", warn_once)?)?;
    older.set("option_like", native::raising(lua, "option_like", like)?)?;
    older.set("json", native::raising(lua, "json", json)?)?;
    older.set("node_id", native::raising(lua, "ConsulHACluster", node_id)?)?;
    let of_client = OPTIONS.iter().flat_map(Setting::names);
    let names = CLUSTER_OPTIONS.iter().flat_map(Setting::names).chain(of_client);
    older.set("options", lua.create_table_from(names.map(|name| (name, true)))?)?;
    Ok(older)
}

/// `warn(message)` writes a line to the log.
fn warn(lua: &Lua, args: MultiValue) -> native::Result {
    if let Value::Bytes(message) = value::argument(lua, &args, 0)? {
        tracing::warn!("for an older program: {}", String::from_utf8_lossy(&message));
    }
    Ok(Returned::Value(LuaValue::Nil))
}

/// `log(level, message)` writes a line of the manager to the log.
fn write(lua: &Lua, args: MultiValue) -> native::Result {
    let (level, message) = (value::argument(lua, &args, 0)?, value::argument(lua, &args, 1)?);
    if let (Value::Bytes(level), Value::Bytes(message)) = (level, message) {
        logs::of_manager(&String::from_utf8_lossy(&level), &String::from_utf8_lossy(&message));
    }
    Ok(Returned::Value(LuaValue::Nil))
}

/// `call(callback, argument)` calls a function of the program, which cannot yield: whether it returned, and the
/// text of what it raised.
fn call(lua: &Lua, args: MultiValue) -> native::Result {
    let (called, raised): (bool, LuaValue) = native::pcall(lua)?.call(args)?;
    let why = if called { LuaValue::Nil } else { native::text_of(&raised).into_lua(lua)? };
    Ok(Returned::Pair(LuaValue::Boolean(called), why))
}

/// `warn_once(message)` writes a line to the log, once in a process.
fn warn_once(lua: &Lua, args: MultiValue) -> native::Result {
    let message = value::argument(lua, &args, 0)?;
    logs::warn_once(Shape::Text.text(&message, &ValuePath::top("message"))?);
    Ok(Returned::Value(LuaValue::Nil))
}

/// `option_like(name, own)`: the option that a name means, `own` or of a client or node, and whether it is
/// exactly that name; nil if it is like none.
fn like(lua: &Lua, args: MultiValue) -> native::Result {
    let name = Shape::Text.text(&value::argument(lua, &args, 0)?, &ValuePath::top("name"))?;
    let own = Shape::TextList.texts(&value::argument(lua, &args, 1)?, &ValuePath::top("own"))?;
    let own: Vec<_> = own.iter().map(String::as_str).collect();
    let Some((option, is_exact)) = option_like(&name, &own) else {
        return Ok(Returned::Value(LuaValue::Nil));
    };
    Ok(Returned::Pair(option.into_lua(lua)?, LuaValue::Boolean(is_exact)))
}

/// `node_id(purpose)` is the default of older programs for the id of a node, another one for each node. It is
/// refused for a purpose for which a node must be the same after its next start.
fn node_id(lua: &Lua, args: MultiValue) -> native::Result {
    if let Value::Bytes(purpose) = value::argument(lua, &args, 0)? {
        let why = format!(
            "node_id is required with {}: by default the node has another one after each start, and its shards \
             would stay with the previous one",
            String::from_utf8_lossy(&purpose)
        );
        return Err(Error::misuse(why).into());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    native::text(
        lua,
        &format!("node_{now}_{:x}{:04x}", std::process::id(), os::generator().u16(..)),
    )
}

/// `json(answer)` is the answer as Consul sent it, with the values of keys in base64.
fn json(lua: &Lua, args: MultiValue) -> native::Result {
    let mut answer = value::argument(lua, &args, 0)?;
    if let Value::List(entries) = &mut answer {
        for entry in entries {
            encode_value(entry);
        }
    }
    native::text(lua, &answer.to_json()?.to_string())
}

fn encode_value(entry: &mut Value) {
    let Value::Map(members) = entry else { return };
    for (name, member) in members {
        if let ("Value", Value::Bytes(bytes)) = (name.as_str(), &*member) {
            *member = BASE64.encode(bytes).as_str().into();
        }
    }
}
