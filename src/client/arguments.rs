//! From the arguments of a Lua call to the arguments of an endpoint.

use crate::runtime::value;
use consul_api as wire;
use consul_api::api::raw;
use consul_api::error::Error;
use consul_api::request::Args;
use consul_api::table::{Endpoint, Param, Shape};
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, unknown};
use mlua::{Lua, Value as LuaValue};

/// The method for any path, which has no row.
pub const HTTP_REQUEST: &str = "http_request";

/// The endpoint and the arguments of a call that names its method first, as in `start("kv_get", "key")`.
///
/// # Errors
/// [`Error::misuse`] for an unknown method and for arguments that it does not take.
pub fn named_call<'a>(
    lua: &Lua,
    mut given: impl ExactSizeIterator<Item = &'a LuaValue>,
) -> Result<(&'static Endpoint, Args), Error> {
    let method = match given.next().unwrap_or(&LuaValue::Nil) {
        LuaValue::String(name) => name.to_string_lossy(),
        other => {
            let other = value::from_lua(lua, other)?;
            return Err(ValuePath::top("method").wrong_type_text("the name of a method", &other));
        }
    };
    let row = wire::endpoint(&method);
    if row.is_none() && method != HTTP_REQUEST {
        let names: Vec<_> = wire::endpoints().map(|endpoint| endpoint.name).collect();
        return Err(Error::misuse(unknown("method", &method, &names)));
    }
    call(lua, &method, row, given)
}

/// The endpoint and the arguments of a method; `row` is None for `http_request`.
///
/// # Errors
/// [`Error::misuse`] for arguments that the method does not take.
pub fn call<'a>(
    lua: &Lua,
    method: &str,
    row: Option<&'static Endpoint>,
    given: impl ExactSizeIterator<Item = &'a LuaValue>,
) -> Result<(&'static Endpoint, Args), Error> {
    let prepared = match row {
        Some(endpoint) => positional(lua, endpoint, given).map(|args| (endpoint, args)),
        None => http_request(lua, given),
    };
    prepared.map_err(|error| error.context(method))
}

/// Refuses more arguments than the positional ones and a table of options.
///
/// # Errors
/// [`Error::misuse`] for too many arguments.
pub fn check_count(given: usize, positional: usize) -> Result<(), Error> {
    let max = positional + 1;
    if given <= max {
        return Ok(());
    }
    Err(Error::misuse(format!(
        "got {given} arguments: the maximum is {max}, the last one a table of options"
    )))
}

/// The arguments of an endpoint: its positional ones, then a table of options.
///
/// # Errors
/// [`Error::misuse`] for too many arguments, and for options that are not a table.
pub fn positional<'a>(
    lua: &Lua,
    endpoint: &Endpoint,
    given: impl ExactSizeIterator<Item = &'a LuaValue>,
) -> Result<Args, Error> {
    let mut args = Args::new();
    let expected = endpoint.positional.len();
    let mut misplaced = None;
    check_count(given.len(), expected)?;
    for (place, argument) in given.enumerate() {
        if let Some(param) = endpoint.positional.get(place) {
            let value = value::from_lua(lua, argument)?;
            misplaced = misplaced_options(endpoint, param, &value);
            args = args.arg(value);
        } else if !argument.is_nil() {
            misplaced = None;
            args = options(args, value::options(lua, argument)?)?;
        }
    }
    misplaced.map_or(Ok(args), Err)
}

/// The error of a call without options whose last argument is a table of options where a payload belongs.
fn misplaced_options(endpoint: &Endpoint, param: &Param, value: &Value) -> Option<Error> {
    let (Shape::Payload, Value::Map(members)) = (param.kind, value) else { return None };
    let is_option = |name: &String| endpoint.all_options().any(|option| option.name == name);
    if members.is_empty() || !members.iter().all(|(name, _)| is_option(name)) {
        return None;
    }
    let names: Vec<_> = members.iter().map(|(name, _)| name.as_str()).collect();
    let given = names.join(", ");
    Some(Error::misuse(format!(
        "{} is a table with only names of options ({given}): a value comes before the options; \
         to send this table itself, add an empty table of options",
        param.name
    )))
}

fn options(mut args: Args, value: Value) -> Result<Args, Error> {
    match value {
        Value::Null => Ok(args),
        Value::Map(members) => {
            for (name, member) in members {
                args = args.opt(name, member);
            }
            Ok(args)
        }
        other => Err(Error::misuse(format!(
            "the last argument must be a table of options, got {}",
            other.type_name()
        ))),
    }
}

/// `client:http_request(method, path, body, params, options)`
fn http_request<'a>(
    lua: &Lua,
    mut given: impl Iterator<Item = &'a LuaValue>,
) -> Result<(&'static Endpoint, Args), Error> {
    let mut lua_next = || given.next().unwrap_or(&LuaValue::Nil);
    let mut next = || value::from_lua(lua, lua_next());
    let method = next()?;
    let endpoint = match &method {
        Value::Bytes(name) => raw::endpoint(&String::from_utf8_lossy(name)),
        _ => None,
    };
    let endpoint = endpoint.ok_or_else(|| {
        Error::misuse(format!(
            "the method must be GET, PUT, POST or DELETE, got {}",
            method.shown()
        ))
    })?;
    let args = Args::new().arg(next()?).arg(next()?).opt("params", next()?);
    Ok((endpoint, options(args, value::options(lua, lua_next())?)?))
}
