//! Requests that are answered after their handlers have returned.

use super::inbox::Inbox;
use super::serving::{Serving, from_lua, without_positions};
use crate::runtime::native::{self, Class, Method, Returned};
use consul_api::error::{Error, Kind};
use consul_api::table::Shape;
use consul_api::value::shape::ValuePath;
use consul_cluster::data_plane::Body;
use consul_process::os;
use mlua::{Lua, MultiValue, Table, Value as LuaValue};
use std::cell::Cell;
use std::sync::Arc;

/// The registry's name for the metatable of requests, which has their methods.
const METATABLE: &str = "consul_ffi.cluster.request";

/// The userdata of a deferred request. `module.lua` has it by the table that the handler got, so that the
/// request fails when the program has dropped that table.
pub struct DeferredRequest {
    inbox: Arc<Inbox>,
    /// Its number in the inbox.
    number: u64,
    /// Its name in messages.
    label: String,
    is_answered: Cell<bool>,
    generation: u32,
}

impl DeferredRequest {
    /// Answers the request.
    fn answer(&self, reply: Result<Body, String>) -> native::Result {
        let error = |kind, why: &str| Error::new(kind, format!("{}: {why}", self.label)).not_sent();
        if self.generation != os::fork_generation() {
            let why = "it belongs to the parent of this process";
            return Err(error(Kind::Closed, why).into());
        }
        if self.is_answered.replace(true) {
            return Err(Error::misuse(format!("{} is answered already", self.label)).into());
        }
        let Some(request) = self.inbox.take_deferred(self.number) else {
            let why = "it has ended: its node was stopped, or its handler raised an error";
            return Err(error(Kind::Closed, why).into());
        };
        if request.is_given_up() || request.left().is_zero() {
            return Err(error(Kind::Timeout, "its caller no longer waits").into());
        }
        request.reply(reply);
        Ok(Returned::done())
    }
}

impl Drop for DeferredRequest {
    fn drop(&mut self) {
        // To answer in a child would wake the parent's connections in a copy of its background.
        if self.generation == os::fork_generation()
            && let Some(request) = self.inbox.take_deferred(self.number)
        {
            request.reply(Err("its program dropped the request without a reply".to_owned()));
        }
    }
}

const METHODS: &[Method<DeferredRequest>] = &[
    Method::new("reply", |call| {
        let body = from_lua(call.lua, call.lua_arg(1)).map_err(|error| error.context("value"))?;
        call.object.answer(Ok(body))
    }),
    Method::new("fail", |call| {
        let message = Shape::Text.text(&call.arg(1)?, &ValuePath::top("message"))?;
        call.object.answer(Err(without_positions(&message, None)))
    }),
];

impl Class for DeferredRequest {
    const NAME: &'static str = "DeferredRequest";

    fn register(lua: &Lua) -> mlua::Result<Table> {
        let class = native::class(lua, METHODS)?;
        class.set("defer", native::raising(lua, "defer", defer)?)?;
        let set_metatable = |lua: &Lua, it: Table| lua.set_named_registry_value(METATABLE, it);
        class.set("set_metatable", lua.create_function(set_metatable)?)?;
        Ok(class)
    }
}

/// Gives the second argument of a handler its methods.
pub fn set_metatable(lua: &Lua, details: &Table) -> mlua::Result<()> {
    details.set_metatable(Some(lua.named_registry_value(METATABLE)?))
}

/// `request:defer()`: the userdata of the request.
fn defer(lua: &Lua, values: MultiValue) -> native::Result {
    let serving = Serving::of(lua);
    let mut running = serving.running.borrow_mut();
    let given = values.front().and_then(LuaValue::as_table);
    let Some(handler) = running.iter_mut().find(|it| Some(&it.details) == given) else {
        let why = "defer: call request:defer() in the handler of the request, before it returns";
        return Err(Error::misuse(why).into());
    };
    let Some(request) = handler.request.take() else {
        return Err(Error::misuse("defer: the request is deferred already").into());
    };
    let label = format!("the request {:?} of node {:?}", request.name, request.from);
    let number = serving.inbox.defer(handler.node, request);
    handler.deferred = Some(number);
    drop(running);
    let deferred = DeferredRequest {
        inbox: serving.inbox,
        number,
        label,
        is_answered: Cell::new(false),
        generation: os::fork_generation(),
    };
    Ok(Returned::Value(LuaValue::UserData(native::object(lua, deferred)?)))
}
