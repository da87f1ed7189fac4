//! `json_decode`, `json_encode`, `array`, `toml_decode`, `base64_encode` and `base64_decode`.

use super::runtime::native::{self, Returned};
use super::runtime::value::{self, Outcome};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_config::toml;
use mlua::{IntoLua as _, Lua, MultiValue, Table, Value as LuaValue};

/// Decodes a text: its value, and a second value.
type Decode = fn(&[u8]) -> Result<(Value, Value), Error>;

/// The native functions by name.
pub fn register(lua: &Lua) -> mlua::Result<Table> {
    let native = lua.create_table()?;
    for (name, decode) in
        [("json_decode", json as Decode), ("toml_decode", toml), ("base64_decode", base64)]
    {
        let function = native::function(lua, name, move |lua, args| run(lua, name, decode, &args))?;
        native.set(name, function)?;
    }
    native.set("base64_encode", native::function(lua, "base64_encode", base64_encode)?)?;
    native.set("json_encode", native::function(lua, "json_encode", json_encode)?)?;
    native.set("array", native::function(lua, "array", array)?)?;
    Ok(native)
}

/// `json_encode(value)`
fn json_encode(lua: &Lua, args: MultiValue) -> native::Result {
    let text = value::argument(lua, &args, 0)?.to_json()?.to_string();
    Ok(Returned::success(text.into_lua(lua)?))
}

/// `array(list)`
fn array(lua: &Lua, args: MultiValue) -> native::Result {
    let table = match args.front() {
        None | Some(LuaValue::Nil) => lua.create_table()?,
        Some(LuaValue::Table(table)) => table.clone(),
        Some(other) => {
            let given = value::from_lua(lua, other)?.type_name();
            return Err(Error::misuse(format!("array: list must be a list, got {given}")).into());
        }
    };
    match value::from_lua(lua, &LuaValue::Table(table.clone()))? {
        Value::Map(members) if !members.is_empty() => {
            Err(Error::misuse("array: list must be a list, got a table with names").into())
        }
        _ => Ok(Returned::Value(LuaValue::Table(value::as_list(lua, table)?))),
    }
}

/// `base64_encode(text)`
fn base64_encode(lua: &Lua, args: MultiValue) -> native::Result {
    let bytes = text(lua, "base64_encode", &args)?;
    Ok(Returned::Value(value::to_lua(lua, &BASE64.encode(bytes).into())?))
}

/// The argument of the function `name`, a string.
fn text(lua: &Lua, name: &str, args: &MultiValue) -> Result<Vec<u8>, Error> {
    match value::argument(lua, args, 0)? {
        Value::Bytes(text) => Ok(text),
        other => {
            Err(Error::misuse(format!("{name}: text must be a string, got {}", other.type_name())))
        }
    }
}

fn run(lua: &Lua, name: &str, decode: Decode, args: &MultiValue) -> native::Result {
    let (decoded, second) = decode(&text(lua, name, args)?)?;
    let (decoded, second) = (value::to_lua(lua, &decoded)?, value::to_lua(lua, &second)?);
    Ok(Returned::Outcome(Outcome::Success(decoded, second)))
}

fn json(text: &[u8]) -> Result<(Value, Value), Error> {
    let decoded: serde_json::Value = serde_json::from_slice(text)
        .map_err(|error| Error::new(Kind::Decode, error.to_string()).not_sent())?;
    Ok((decoded.into(), Value::Null))
}

fn base64(text: &[u8]) -> Result<(Value, Value), Error> {
    let decoded = BASE64
        .decode(text)
        .map_err(|error| Error::new(Kind::Decode, format!("not base64: {error}")).not_sent())?;
    Ok((Value::Bytes(decoded), Value::Null))
}

fn toml(text: &[u8]) -> Result<(Value, Value), Error> {
    let text = std::str::from_utf8(text)
        .map_err(|error| Error::new(Kind::Decode, format!("not UTF-8: {error}")).not_sent())?;
    let (decoded, lines) = toml::decode(text)?;
    let lines = lines.into_iter().map(|(path, line)| (path, (line as u64).into())).collect();
    Ok((decoded, Value::Map(lines)))
}
