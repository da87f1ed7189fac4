//! `json_decode` and `toml_decode`.

use super::runtime::native::{self, Returned};
use super::runtime::value::{self, Outcome};
use crate::config::toml;
use crate::error::{Error, Kind};
use crate::wire::value::Value;
use mlua::{Lua, MultiValue, Table};

/// Decodes a text: its value, and a second value.
type Decode = fn(&[u8]) -> Result<(Value, Value), Error>;

/// The native functions by name.
pub fn register(lua: &Lua) -> mlua::Result<Table> {
    let native = lua.create_table()?;
    for (name, decode) in [("json_decode", json as Decode), ("toml_decode", toml)] {
        let function = native::function(lua, name, move |lua, args| run(lua, name, decode, &args))?;
        native.set(name, function)?;
    }
    Ok(native)
}

fn run(lua: &Lua, name: &str, decode: Decode, args: &MultiValue) -> native::Result {
    let given = value::argument(lua, args, 0)?;
    let Value::Bytes(text) = given else {
        let why = format!("{name}: text must be a string, got {}", given.type_name());
        return Err(Error::misuse(why).into());
    };
    let (decoded, second) = decode(&text)?;
    let (decoded, second) = (value::to_lua(lua, &decoded)?, value::to_lua(lua, &second)?);
    Ok(Returned::Outcome(Outcome::Success(decoded, second)))
}

fn json(text: &[u8]) -> Result<(Value, Value), Error> {
    let decoded: serde_json::Value = serde_json::from_slice(text)
        .map_err(|error| Error::new(Kind::Decode, error.to_string()).not_sent())?;
    Ok((decoded.into(), Value::Null))
}

fn toml(text: &[u8]) -> Result<(Value, Value), Error> {
    let text = std::str::from_utf8(text)
        .map_err(|error| Error::new(Kind::Decode, format!("not UTF-8: {error}")).not_sent())?;
    let (decoded, lines) = toml::decode(text)?;
    let lines = lines.into_iter().map(|(path, line)| (path, (line as u64).into())).collect();
    Ok((decoded, Value::Map(lines)))
}
