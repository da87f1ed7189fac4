//! `client:batch`: many calls in one.

use super::client::{ConsulClient, prepare, this};
use super::native::{Failure, Results};
use super::{stack, value};
use crate::client::Client;
use crate::client::batch::MAX_IN_FLIGHT;
use crate::error::Error;
use crate::wire::request::Request;
use crate::wire::response::Success;
use crate::wire::shape::{At, unknown};
use crate::wire::table::Shape;
use crate::wire::value::Value;
use mlua::{Lua, MultiValue, Table, Value as LuaValue};
use std::time::Duration;

/// `client:batch(calls, options)`: true and the list of outcomes.
pub fn batch(lua: &Lua, args: MultiValue) -> Result<Results, Failure> {
    let client = this(&args, "batch")?;
    let nil = LuaValue::Nil;
    let arg = |place| args.get(place).unwrap_or(&nil);
    let in_batch = |error: Error| error.context("batch");
    let calls = calls(lua, &client, arg(1)).map_err(in_batch)?;
    let options = value::from_lua(lua, arg(2)).and_then(|options| Options::new(&options));
    let Options { concurrency, timeout } = options.map_err(in_batch)?;
    let in_flight = concurrency.min(client.max_connections());
    let work = async |client: &Client| client.batch(&calls, in_flight, timeout).await;
    let outcomes = client.run(lua, "batch", work)?;
    let outcomes: Vec<_> =
        outcomes.into_iter().map(|outcome| outcome.and_then(Success::read)).collect();
    let results = stack::outcomes(lua, &outcomes)?;
    for (place, outcome) in outcomes.iter().enumerate() {
        if let Err(error) = outcome {
            results.raw_set(place + 1, failure(lua, error)?)?;
        }
    }
    Ok((LuaValue::Boolean(true), LuaValue::Table(results), LuaValue::Nil))
}

/// The requests of the calls, each built already or refused for an argument.
fn calls(
    lua: &Lua,
    client: &ConsulClient,
    list: &LuaValue,
) -> Result<Vec<Result<Request, Error>>, Error> {
    let LuaValue::Table(list) = list else {
        let given = value::from_lua(lua, list)?;
        return Err(At::top("calls").wrong_type_text("a list of calls", &given));
    };
    let count = list.raw_len();
    let mut strange = None;
    list.for_each(|key: LuaValue, _: LuaValue| {
        if !key.as_usize().is_some_and(|place| (1..=count).contains(&place)) {
            strange = Some(key);
        }
        Ok(())
    })
    .map_err(unreadable)?;
    if let Some(key) = strange {
        let key = value::from_lua(lua, &key)?.shown();
        return Err(Error::misuse(format!("calls must be a list of calls, got one at {key}")));
    }
    let mut requests = Vec::with_capacity(count);
    for place in 1..=count {
        let request = parts(lua, list.raw_get(place))
            .and_then(|args| prepare(lua, args))
            .and_then(|(endpoint, args)| client.request(endpoint, &args));
        match request {
            Err(error) if error.is_misuse() => return Err(error.context(&format!("call #{place}"))),
            request => requests.push(request),
        }
    }
    Ok(requests)
}

/// The method and the arguments of a call.
fn parts(lua: &Lua, call: mlua::Result<LuaValue>) -> Result<MultiValue, Error> {
    let call = call.map_err(unreadable)?;
    let LuaValue::Table(call) = call else {
        let given = value::from_lua(lua, &call)?;
        return Err(Error::misuse(format!(
            "a call is a table such as {{ \"kv_get\", \"key\" }}, got {}",
            given.type_name()
        )));
    };
    let mut parts = Vec::with_capacity(call.raw_len());
    let mut strange = None;
    call.for_each(|key: LuaValue, part: LuaValue| {
        match key.as_usize() {
            Some(place @ 1..=MOST_PARTS) => {
                if parts.len() < place {
                    parts.resize(place, LuaValue::Nil);
                }
                parts[place - 1] = part;
            }
            _ => strange = Some(key),
        }
        Ok(())
    })
    .map_err(unreadable)?;
    match strange {
        None => Ok(MultiValue::from_vec(parts)),
        Some(key) => Err(Error::misuse(format!(
            "a call is a list of its method, its arguments and a table of options; {} is no part \
             of it",
            value::from_lua(lua, &key)?.shown()
        ))),
    }
}

fn unreadable(error: mlua::Error) -> Error {
    Error::misuse(format!("a table cannot be read: {error}"))
}

/// More than any call has.
const MOST_PARTS: usize = 16;

/// How a batch is run.
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
        for (name, value) in Shape::Any.members(given, &At::top("options"))? {
            let at = At::top(name);
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

fn concurrency(value: &Value, at: &At) -> Result<usize, Error> {
    let number = Shape::Uint.uint(value, at)?;
    let allowed = usize::try_from(number).ok().filter(|n| (1..=MAX_IN_FLIGHT).contains(n));
    allowed.ok_or_else(|| at.bad_value(value, &format!("it must be from 1 to {MAX_IN_FLIGHT}")))
}

/// A failure as a table: `{ ok = false, message, err }`.
fn failure(lua: &Lua, error: &Error) -> mlua::Result<Table> {
    let result = lua.create_table_with_capacity(0, 3)?;
    result.raw_set("ok", false)?;
    result.raw_set("message", error.message())?;
    result.raw_set("err", value::error(lua, error)?)?;
    Ok(result)
}
