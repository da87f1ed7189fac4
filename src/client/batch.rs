//! `client:batch`: many calls at a time.

use super::arguments::named_call;
use super::consul_client::ConsulClient;
use crate::runtime::native::{self, Call, Returned};
use crate::runtime::{stack, value};
use consul_api::error::Error;
use consul_api::request::Request;
use consul_api::response::Success;
use consul_api::table::Shape;
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, unknown};
use consul_client::Client;
use consul_client::batch::MAX_IN_FLIGHT;
use mlua::{Lua, Table, Value as LuaValue};
use std::time::Duration;

/// `client:batch(calls, options)`: true and the list of outcomes.
pub fn batch(call: &Call<ConsulClient>) -> native::Result {
    let (lua, client) = (call.lua, &*call.object);
    let calls = calls(lua, client, call.lua_arg(1))?;
    let Options { concurrency, timeout } = Options::new(&call.options(2)?)?;
    let in_flight = concurrency.min(client.max_connections());
    let work = async |client: &Client| client.batch(&calls, in_flight, timeout).await;
    let outcomes = client.run(lua, "batch", work)?;
    let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.map(Success::read)).collect();
    let results = stack::outcomes(lua, &outcomes)?;
    for (index, outcome) in outcomes.iter().enumerate() {
        if let Err(error) = outcome {
            results.raw_set(index + 1, failure(lua, error)?)?;
        }
    }
    Ok(Returned::success(LuaValue::Table(results)))
}

/// The request of each call, or the error of its arguments.
fn calls(
    lua: &Lua,
    client: &ConsulClient,
    list: &LuaValue,
) -> Result<Vec<Result<Request, Error>>, Error> {
    let LuaValue::Table(list) = list else {
        let given = value::from_lua(lua, list)?;
        return Err(ValuePath::top("calls").wrong_type_text("a list of calls", &given));
    };
    let count = list.raw_len();
    let mut invalid_key = None;
    list.for_each(|key: LuaValue, _: LuaValue| {
        if !key.as_usize().is_some_and(|place| (1..=count).contains(&place)) {
            invalid_key = Some(key);
        }
        Ok(())
    })
    .map_err(unreadable)?;
    if let Some(key) = invalid_key {
        let key = value::from_lua(lua, &key)?.shown();
        return Err(Error::misuse(format!("calls must be a list of calls, got the key {key}")));
    }
    let mut requests = Vec::with_capacity(count);
    for place in 1..=count {
        let request = parts(lua, list.raw_get(place))
            .and_then(|parts| named_call(lua, parts.iter()))
            .and_then(|(endpoint, args)| client.request(endpoint, &args));
        match request {
            Err(error) if error.is_misuse() => return Err(error.context(&format!("call #{place}"))),
            request => requests.push(request),
        }
    }
    Ok(requests)
}

/// The method and the arguments of a call.
fn parts(lua: &Lua, call: mlua::Result<LuaValue>) -> Result<Vec<LuaValue>, Error> {
    let call = call.map_err(unreadable)?;
    let LuaValue::Table(call) = call else {
        let given = value::from_lua(lua, &call)?;
        return Err(Error::misuse(format!(
            "a call must be a table such as {{ \"kv_get\", \"key\" }}, got {}",
            given.type_name()
        )));
    };
    let mut parts = Vec::with_capacity(call.raw_len());
    let mut invalid_key = None;
    call.for_each(|key: LuaValue, part: LuaValue| {
        match key.as_usize() {
            Some(place @ 1..=MAX_PARTS) => {
                if parts.len() < place {
                    parts.resize(place, LuaValue::Nil);
                }
                parts[place - 1] = part;
            }
            _ => invalid_key = Some(key),
        }
        Ok(())
    })
    .map_err(unreadable)?;
    match invalid_key {
        None => Ok(parts),
        Some(key) => Err(Error::misuse(format!(
            "a call must be a list of its method, its arguments and a table of options, got the key {}",
            value::from_lua(lua, &key)?.shown()
        ))),
    }
}

fn unreadable(error: mlua::Error) -> Error {
    Error::misuse(format!("cannot read a table: {error}"))
}

/// The bound of a call's list, which is more than any method takes.
const MAX_PARTS: usize = 16;

/// The options of a batch.
struct Options {
    concurrency: usize,
    timeout: Option<Duration>,
}

impl Options {
    fn new(given: &Value) -> Result<Self, Error> {
        let mut options = Options { concurrency: MAX_IN_FLIGHT, timeout: None };
        if *given == Value::Null {
            return Ok(options);
        }
        for (name, value) in Shape::Any.members(given, &ValuePath::top("options"))? {
            let at = ValuePath::top(name);
            match name.as_str() {
                "concurrency" => options.concurrency = concurrency(value, &at)?,
                "timeout_ms" => options.timeout = Some(Shape::Millis.duration(value, &at)?),
                _ => {
                    let known = ["concurrency", "timeout_ms"];
                    return Err(Error::misuse(unknown("option", name, &known)));
                }
            }
        }
        Ok(options)
    }
}

fn concurrency(value: &Value, at: &ValuePath) -> Result<usize, Error> {
    let number = Shape::Uint.uint(value, at)?;
    let allowed = usize::try_from(number).ok().filter(|n| (1..=MAX_IN_FLIGHT).contains(n));
    allowed.ok_or_else(|| at.bad_value(value, &format!("it must be from 1 to {MAX_IN_FLIGHT}")))
}

/// The table of a failed call: `{ ok = false, message, err }`.
fn failure(lua: &Lua, error: &Error) -> mlua::Result<Table> {
    let result = lua.create_table_with_capacity(0, 3)?;
    result.raw_set("ok", false)?;
    result.raw_set("message", error.message())?;
    result.raw_set("err", value::error(lua, error)?)?;
    Ok(result)
}
