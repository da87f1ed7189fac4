//! How a Lua state answers the requests of other nodes: by handlers, on its own thread, whenever it
//! waits for something or polls.

use super::hooks;
use super::inbox::{Inbox, NodeNumber};
use super::native::Failure;
use super::{stack, value};
use crate::cluster::data_plane::{Body, Request};
use crate::error::{Error, Kind};
use crate::wire::tape::{Base64, Tape};
use crate::wire::value::Value;
use mlua::{AnyUserData, Function, Lua, Table, Value as LuaValue};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How deep handlers may nest, which make calls and answer others meanwhile.
const MOST_NESTED: usize = 8;

/// The registry's name for the nodes of a state by their numbers, which keeps none alive.
const NODES: &str = "consul_ffi.cluster.nodes";

/// The registry's name for Lua's `pcall`.
const PCALL: &str = "consul_ffi.pcall";

/// The place of a node's handlers among its user values.
const HANDLERS: usize = 2;

/// What a Lua state has for the requests of other nodes.
#[derive(Clone, Default)]
pub struct Serving {
    /// The requests that wait.
    pub inbox: Arc<Inbox>,
    /// How many handlers run, each in a call of the one before.
    depth: Rc<Cell<usize>>,
}

impl Serving {
    /// That of this state.
    pub fn of(lua: &Lua) -> Self {
        lua.app_data_ref::<Serving>().map(|serving| serving.clone()).unwrap_or_default()
    }

    /// Whether one more handler may run, or a call be made in which it does.
    ///
    /// # Errors
    /// [`Kind::RateLimited`] when as many are nested as may be.
    pub fn may_nest(&self) -> Result<(), Error> {
        if self.depth.get() < MOST_NESTED {
            return Ok(());
        }
        let why =
            format!("handlers are nested {MOST_NESTED} deep, each in a call of the one before");
        Err(Error::new(Kind::RateLimited, why).transient().not_sent())
    }
}

/// Prepares a Lua state.
pub fn register(lua: &Lua) -> mlua::Result<()> {
    let (nodes, weak) = (lua.create_table()?, lua.create_table()?);
    weak.set("__mode", "v")?;
    nodes.set_metatable(Some(weak))?;
    lua.set_named_registry_value(NODES, nodes)?;
    lua.set_named_registry_value(PCALL, lua.globals().get::<Function>("pcall")?)?;
    lua.set_app_data(Serving::default());
    Ok(())
}

/// Gives a new node its table of handlers.
pub fn prepare(lua: &Lua, node: &AnyUserData) -> mlua::Result<()> {
    node.set_nth_user_value(HANDLERS, lua.create_table()?)
}

/// Has a node's handlers answer its requests.
pub fn add(lua: &Lua, number: NodeNumber, node: &AnyUserData) -> mlua::Result<()> {
    lua.named_registry_value::<Table>(NODES)?.raw_set(number, node)
}

/// The handlers of a node by name.
pub fn handlers(node: &AnyUserData) -> mlua::Result<Table> {
    node.nth_user_value(HANDLERS)
}

/// Serves requests of all nodes of this state: until something is over, `most` are served, or nothing
/// more has come within `limit`. Says how many.
///
/// # Errors
/// As [`Serving::may_nest`]; what a hook raised; those of Lua that are no handler's.
pub fn serve(
    lua: &Lua,
    limit: Option<Duration>,
    most: usize,
    is_over: impl Fn() -> bool,
) -> Result<usize, Failure> {
    let serving = Serving::of(lua);
    let inbox = &serving.inbox;
    serving.may_nest()?;
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let mut served = 0;
    loop {
        inbox.poll();
        if is_over() || served == most {
            return Ok(served);
        }
        if let Some((number, request)) = inbox.take() {
            answer(lua, &serving, number, request)?;
            served += 1;
            continue;
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero() || served > 0) {
            return Ok(served);
        }
        let turn = left.unwrap_or(hooks::INTERVAL).min(hooks::INTERVAL);
        if !inbox.wait(turn, &is_over) {
            hooks::call(lua)?;
        }
    }
}

/// Serves what waits, in a pause of a call that waits for something else.
///
/// # Errors
/// Those of Lua that are no handler's.
pub fn in_pause(lua: &Lua) -> Result<(), Failure> {
    let serving = Serving::of(lua);
    serving.inbox.poll();
    if serving.inbox.has_requests() && serving.may_nest().is_ok() {
        serve(lua, Some(Duration::ZERO), usize::MAX, || false)?;
    }
    Ok(())
}

/// Answers a request by its handler.
fn answer(
    lua: &Lua,
    serving: &Serving,
    number: NodeNumber,
    request: Request,
) -> Result<(), Failure> {
    let node: Option<AnyUserData> = lua.named_registry_value::<Table>(NODES)?.raw_get(number)?;
    let handler = match node {
        Some(node) => handlers(&node)?.raw_get::<LuaValue>(request.name.as_str())?,
        None => LuaValue::Nil,
    };
    let LuaValue::Function(handler) = handler else {
        let error = Error::new(Kind::NotFound, "it has no handler of this name any more");
        request.refuse(error.with_status(404));
        return Ok(());
    };
    let body = match to_lua(lua, &request.body) {
        Ok(body) => body,
        Err(Failure::Error(error)) => {
            request.refuse(error.with_status(400));
            return Ok(());
        }
        Err(failure) => return Err(failure),
    };
    let details = details(lua, &request)?;
    let pcall: Function = lua.named_registry_value(PCALL)?;
    serving.depth.set(serving.depth.get() + 1);
    let called = pcall.call::<(bool, LuaValue, LuaValue)>((handler, body, details));
    serving.depth.set(serving.depth.get() - 1);
    let (ran, reply, message) = called?;
    let why = |value: &LuaValue| value.to_string().unwrap_or_else(|_| value.type_name().to_owned());
    request.reply(match (ran, &reply, &message) {
        (false, error, _) => Err(why(error)),
        (true, LuaValue::Nil, message) if !message.is_nil() => Err(why(message)),
        (true, reply, _) => from_lua(lua, reply).map_err(|error| format!("the reply: {error}")),
    });
    Ok(())
}

/// What a handler learns of a request besides its body.
fn details(lua: &Lua, request: &Request) -> mlua::Result<Table> {
    let details = lua.create_table()?;
    details.raw_set("from", request.from.as_str())?;
    details.raw_set("name", request.name.as_str())?;
    details.raw_set("deadline_ms", request.left().as_millis() as u64)?;
    details.raw_set("idempotency_key", request.idempotency_key.as_str())?;
    details.raw_set("shard", request.shard)?;
    details.raw_set("epoch", request.epoch)?;
    Ok(details)
}

/// The Lua value of a body.
pub fn to_lua(lua: &Lua, body: &Body) -> Result<LuaValue, Failure> {
    if !body.is_json {
        return Ok(LuaValue::String(lua.create_string(&body.bytes)?));
    }
    let tape = Tape::of_json(body.bytes.clone(), Base64::Nowhere);
    let tape = tape.map_err(|error| Error::new(Kind::Decode, format!("no JSON: {error}")))?;
    Ok(stack::value(lua, &tape)?)
}

/// The body for a Lua value.
pub fn from_lua(lua: &Lua, value: &LuaValue) -> Result<Body, Error> {
    Ok(match value::from_lua(lua, value)? {
        Value::Bytes(bytes) => Body::bytes(bytes),
        Value::Foreign(what) => {
            return Err(Error::misuse(format!("it must be what JSON can hold, got {what}")));
        }
        value => Body::json(value.to_json()?.to_string()),
    })
}
