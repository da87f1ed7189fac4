//! How a Lua state serves the requests of other nodes, by handlers, and the calls of its storages: on its
//! own thread, whenever it waits or polls.

use super::deferred;
use super::inbox::{Inbox, NodeNumber, Waiting};
use super::lua_storage::StorageCall;
use crate::runtime::executor::in_runtime;
use crate::runtime::native::{Failure, pcall, text_of};
use crate::runtime::{log, stack, value, wait};
use consul_api::error::{Error, Kind};
use consul_api::tape::Tape;
use consul_api::value::Value;
use consul_cluster::data_plane::{Body, Request};
use consul_process::clock::{Clock, ManualClock};
use mlua::{AnyUserData, Lua, Table, Value as LuaValue};
use regex_lite::Regex;
use std::cell::{Cell, RefCell};
use std::mem;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// How deep handlers may nest: a handler that makes a call serves other requests meanwhile.
const MAX_DEPTH: usize = 8;

/// The registry's name for the nodes of a state by number, with weak references.
const NODES: &str = "consul_ffi.cluster.nodes";

/// The user value of a node with its handlers by name.
const HANDLERS: usize = 2;

/// The user value of a node with the tables of its storages by the name of the store.
const STORAGES: usize = 3;

/// The parts of a Lua state for serving requests.
#[derive(Clone, Default)]
pub struct Serving {
    /// The queue of requests.
    pub inbox: Arc<Inbox>,
    /// The handlers that run, each in a call of the one before.
    pub running: Rc<RefCell<Vec<Running>>>,
    /// Whether a function of a storage runs.
    is_storing: Rc<Cell<bool>>,
}

/// A handler that runs.
pub struct Running {
    /// The node of the request.
    pub node: NodeNumber,
    /// The second argument of the handler.
    pub details: Table,
    /// None: it is deferred.
    pub request: Option<Request>,
    /// The number of the deferred request in the inbox.
    pub deferred: Option<u64>,
}

impl Serving {
    /// The parts of this state.
    pub fn of(lua: &Lua) -> Self {
        lua.app_data_ref::<Serving>().map(|serving| serving.clone()).unwrap_or_default()
    }

    /// Refuses one more handler, or a call that would serve it, at [`MAX_DEPTH`] and in a function of a
    /// storage.
    ///
    /// # Errors
    /// [`Kind::RateLimited`] at that depth; [`Error::misuse`] in a storage.
    pub fn check_depth(&self) -> Result<(), Error> {
        if self.is_storing.get() {
            let why = "a function of a storage must not call nodes, poll, or use a store: \
                       the next call of the storage would wait for it";
            return Err(Error::misuse(why));
        }
        if self.running.borrow().len() < MAX_DEPTH {
            return Ok(());
        }
        let why = format!("handlers are nested {MAX_DEPTH} deep, each in a call of the one before");
        Err(Error::new(Kind::RateLimited, why).retryable().not_sent())
    }
}

/// Prepares a Lua state.
pub fn register(lua: &Lua) -> mlua::Result<()> {
    let (nodes, weak) = (lua.create_table()?, lua.create_table()?);
    weak.set("__mode", "v")?;
    nodes.set_metatable(Some(weak))?;
    lua.set_named_registry_value(NODES, nodes)?;
    lua.set_app_data(Serving::default());
    wait::set_in_pause(lua, serve_in_pause);
    Ok(())
}

/// Creates the tables of handlers and storages of a new node.
pub fn create_handlers(lua: &Lua, node: &AnyUserData) -> mlua::Result<()> {
    node.set_nth_user_value(HANDLERS, lua.create_table()?)?;
    node.set_nth_user_value(STORAGES, lua.create_table()?)
}

/// Adds a node whose handlers serve the requests with its number.
pub fn add_node(lua: &Lua, number: NodeNumber, node: &AnyUserData) -> mlua::Result<()> {
    lua.named_registry_value::<Table>(NODES)?.raw_set(number, node)
}

/// The handlers of a node by name.
pub fn handlers(node: &AnyUserData) -> mlua::Result<Table> {
    node.nth_user_value(HANDLERS)
}

/// The storages of a node by the name of the store.
pub fn storages(node: &AnyUserData) -> mlua::Result<Table> {
    node.nth_user_value(STORAGES)
}

/// How long a wait gives sockets before it moves a manual clock.
const FOR_SOCKETS: Duration = Duration::from_millis(5);

/// Serves requests and storages of all nodes of this state until `is_over`, until `max` are served, or
/// until none came within `limit`. Returns how many were served. A wait moves a manual clock: at once to
/// the end of `limit`, and without a limit as far as real time passes, by which calls between nodes have theirs.
///
/// # Errors
/// As [`Serving::check_depth`]; what a hook raised; errors of Lua outside of handlers.
pub fn serve(
    lua: &Lua,
    clock: Option<&ManualClock>,
    limit: Option<Duration>,
    max: usize,
    is_over: impl Fn() -> bool,
) -> Result<usize, Failure> {
    let serving = Serving::of(lua);
    let inbox = &serving.inbox;
    serving.check_depth()?;
    let begun = Instant::now();
    let began_at = clock.map(Clock::now);
    let passed = || match (clock, began_at) {
        (Some(clock), Some(began_at)) => clock.now() - began_at,
        _ => begun.elapsed(),
    };
    let mut served = 0;
    loop {
        inbox.poll();
        if is_over() || served == max {
            return Ok(served);
        }
        if let Some((number, waiting)) = inbox.take() {
            match waiting {
                Waiting::Request(request) => answer(lua, &serving, number, request)?,
                Waiting::Storage(call) => store(lua, &serving, number, call)?,
            }
            served += 1;
            log::deliver(lua);
            continue;
        }
        let left = limit.map(|limit| limit.saturating_sub(passed()));
        if left.is_some_and(|left| left.is_zero() || served > 0) {
            return Ok(served);
        }
        let turn = left.unwrap_or(wait::INTERVAL).min(wait::INTERVAL);
        let found = match clock {
            None => inbox.wait(turn, &is_over),
            Some(clock) => {
                let found = inbox.wait(FOR_SOCKETS, &is_over);
                if !found {
                    let turn = if limit.is_some() { turn } else { FOR_SOCKETS };
                    in_runtime(|_| clock.advance(turn))?;
                }
                found
            }
        };
        if !found {
            wait::run_hooks(lua)?;
        }
    }
}

/// How long a pause waits for the next call of a storage, which often follows the one before at once.
const NEXT_CALL: Duration = Duration::from_millis(5);

/// Serves queued requests, in a pause of a call that waits for something else.
///
/// # Errors
/// Errors of Lua outside of handlers.
fn serve_in_pause(lua: &Lua) -> Result<(), Failure> {
    let serving = Serving::of(lua);
    serving.inbox.poll();
    let end = Instant::now() + wait::INTERVAL;
    while serving.inbox.has_waiting() && serving.check_depth().is_ok() && Instant::now() < end {
        serve(lua, None, Some(Duration::ZERO), usize::MAX, || false)?;
        serving.inbox.wait(NEXT_CALL, || false);
    }
    Ok(())
}

/// The userdata of a node.
fn node(lua: &Lua, number: NodeNumber) -> mlua::Result<Option<AnyUserData>> {
    lua.named_registry_value::<Table>(NODES)?.raw_get(number)
}

/// Makes a call of a storage.
fn store(
    lua: &Lua,
    serving: &Serving,
    number: NodeNumber,
    call: StorageCall,
) -> Result<(), Failure> {
    let storage = match node(lua, number)? {
        Some(node) => storages(&node)?.raw_get(&*call.store)?,
        None => None,
    };
    serving.is_storing.set(true);
    let made = call.run(lua, storage);
    serving.is_storing.set(false);
    made
}

/// Calls the handler of a request and sends the reply.
fn answer(
    lua: &Lua,
    serving: &Serving,
    number: NodeNumber,
    mut request: Request,
) -> Result<(), Failure> {
    let handler = match node(lua, number)? {
        Some(node) => handlers(&node)?.raw_get::<LuaValue>(request.name.as_str())?,
        None => LuaValue::Nil,
    };
    let LuaValue::Function(handler) = handler else {
        let error = Error::new(Kind::NotFound, "it no longer has a handler of this name");
        request.refuse(error.with_status(404));
        return Ok(());
    };
    // A deferred request stays for as long as its caller waits, its bytes need not.
    let body = mem::replace(&mut request.body, Body::bytes(Vec::new()));
    let body = match to_lua(lua, &body) {
        Ok(body) => body,
        Err(Failure::Error(error)) => {
            request.refuse(error.with_status(400));
            return Ok(());
        }
        Err(failure) => return Err(failure),
    };
    let details = details(lua, &request)?;
    let own_name = handler.info().short_src;
    let (name, from) = (request.name.clone(), request.from.clone());
    let pcall = pcall(lua)?;
    let running =
        Running { node: number, details: details.clone(), request: Some(request), deferred: None };
    serving.running.borrow_mut().push(running);
    let called = pcall.call::<(bool, LuaValue, LuaValue)>((handler, body, details));
    let running = serving.running.borrow_mut().pop();
    let (ran, reply, message) = called?;
    let reply = match (ran, &reply, &message) {
        (false, error, _) => {
            let error = text_of(error);
            tracing::warn!(handler = name, from, error, "a handler raised an error");
            Err(without_positions(&error, own_name.as_deref()))
        }
        (true, LuaValue::Nil, message) if !message.is_nil() => {
            Err(without_positions(&text_of(message), own_name.as_deref()))
        }
        (true, reply, _) => from_lua(lua, reply).map_err(|error| format!("the reply: {error}")),
    };
    let request = running.and_then(|it| match it.deferred {
        // Later results of the handler are not a reply.
        Some(deferred) if !ran => serving.inbox.take_deferred(deferred),
        _ => it.request,
    });
    if let Some(request) = request {
        request.reply(reply);
    }
    Ok(())
}

/// The most bytes of a program's message that others get.
const MAX_MESSAGE_BYTES: usize = 8 << 10;

/// The beginning of an error's text without the files and lines of the program, which are not for other nodes.
/// `own_name` is the file of the handler as messages show it.
pub fn without_positions(text: &str, own_name: Option<&str>) -> String {
    static IN_TEXT: LazyLock<Regex> = LazyLock::new(|| {
        let name = r#"\[string "[^\n]*?"\]|[/.][^\n:]*?\.lua|[^\s:'"(]+\.lua"#;
        // Positions in a row share the space between them.
        Regex::new(&format!(r#"(?m)(^|[\s'"(])(?:(?:{name}):\d+:? ?)+"#)).expect("a valid pattern")
    });
    static AT_START: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^[^\s:]*/[^\s:]*:\d+: ").expect("a valid pattern"));
    static LINE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^:\d+: ").expect("a valid pattern"));
    let mut end = text.len().min(MAX_MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut left = &text[..end];
    loop {
        let own = own_name
            .and_then(|name| LINE.find(left.strip_prefix(name)?).map(|it| name.len() + it.end()));
        match own.or_else(|| AT_START.find(left).map(|found| found.end())) {
            Some(end) => left = &left[end..],
            None => break,
        }
    }
    IN_TEXT.replace_all(left, "$1").into_owned()
}

/// The second argument of a handler.
fn details(lua: &Lua, request: &Request) -> mlua::Result<Table> {
    let details = lua.create_table()?;
    details.raw_set("from", request.from.as_str())?;
    details.raw_set("name", request.name.as_str())?;
    details.raw_set("deadline_ms", request.left().as_millis() as u64)?;
    details.raw_set("idempotency_key", request.idempotency_key.as_str())?;
    details.raw_set("shard", request.shard)?;
    details.raw_set("epoch", request.epoch)?;
    deferred::set_metatable(lua, &details)?;
    Ok(details)
}

/// The Lua value of a body.
pub fn to_lua(lua: &Lua, body: &Body) -> Result<LuaValue, Failure> {
    if !body.is_json {
        return Ok(LuaValue::String(lua.create_string(&body.bytes)?));
    }
    let tape = Tape::of_json(body.bytes.clone());
    let tape =
        tape.map_err(|error| Error::new(Kind::Decode, format!("the body is not JSON: {error}")))?;
    Ok(stack::value(lua, &tape)?)
}

/// The body for a Lua value.
pub fn from_lua(lua: &Lua, value: &LuaValue) -> Result<Body, Error> {
    Ok(match value::from_lua(lua, value)? {
        Value::Bytes(bytes) => Body::bytes(bytes),
        Value::Foreign(what) => {
            return Err(Error::misuse(format!(
                "it must be a value that JSON can represent, got {what}"
            )));
        }
        value => Body::json(value.to_json()?.to_string()),
    })
}
