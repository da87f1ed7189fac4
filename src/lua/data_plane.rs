//! `cluster:call` and what answers it: handlers run on the thread of their Lua state, whenever the
//! state waits for something or polls.

use super::background::{Home, Job};
use super::cluster::{ConsulHACluster, Method};
use super::held::{one, wait_limit};
use super::hooks;
use super::inbox::{Inbox, NodeNumber, fresh_number};
use super::native::{Failure, Results};
use super::{stack, value};
use crate::cluster::data_plane::{Body, CallOptions, DataPlane, Request};
use crate::cluster::{Cluster, Event};
use crate::error::{Error, Kind};
use crate::wire::shape::{At, unknown};
use crate::wire::table::Shape;
use crate::wire::tape::{Base64, Tape};
use crate::wire::value::Value;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use mlua::{AnyUserData, Function, IntoLua, Lua, MultiValue, Table, Value as LuaValue};
use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// How deep handlers may nest, which make calls and answer others meanwhile.
const MOST_NESTED: usize = 8;

/// How many requests a poll serves, unless it is told.
const POLLED: u64 = 64;

/// The registry's name for the nodes of a state by their numbers, which keeps none alive.
const NODES: &str = "consul_ffi.cluster.nodes";

/// The registry's name for Lua's `pcall`.
const PCALL: &str = "consul_ffi.pcall";

/// The place of a node's handlers among its user values.
const HANDLERS: usize = 2;

/// What a Lua state has for the requests of other nodes.
#[derive(Clone, Default)]
struct Serving {
    inbox: Arc<Inbox>,
    /// How many handlers run, each in a call of the one before.
    depth: Rc<Cell<usize>>,
}

impl Serving {
    fn of(lua: &Lua) -> Self {
        lua.app_data_ref::<Serving>().map(|serving| serving.clone()).unwrap_or_default()
    }

    fn may_nest(&self) -> Result<(), Error> {
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

/// The data plane of a node, from start to stop.
pub struct Link {
    plane: Arc<DataPlane>,
    number: NodeNumber,
    inbox: Arc<Inbox>,
    home: Home,
    serving: Option<Job<Error>>,
}

impl Link {
    /// Listens, and has the node's key say where.
    ///
    /// # Errors
    /// As [`DataPlane::new`] and [`Home::thread`].
    pub fn new(lua: &Lua, cluster: Arc<Cluster>) -> Result<Self, Error> {
        // Sockets need a runtime that goes on, also where the cluster's clock stands still.
        let (home, inbox, number) = (Home::thread()?, Serving::of(lua).inbox, fresh_number());
        let of_requests = Arc::clone(&inbox);
        let plane = DataPlane::new(cluster, move |request| of_requests.push(number, request))?;
        Ok(Link { plane, number, inbox, home, serving: None })
    }

    /// Takes requests for a node's handlers.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn serve(
        &mut self,
        lua: &Lua,
        node: &AnyUserData,
        events: &Job<Event>,
    ) -> Result<(), Failure> {
        for name in handlers(node)?.pairs::<mlua::LuaString, LuaValue>() {
            self.plane.set_handler(&name?.0.to_string_lossy(), true);
        }
        lua.named_registry_value::<Table>(NODES)?.raw_set(self.number, node)?;
        self.inbox.add(self.number, Arc::clone(&self.plane), events.ringer());
        let serving = Arc::clone(&self.plane).serve();
        let serving = stream::once(async {
            let Err(error) = serving.await;
            tracing::error!(%error, "a node takes no requests of others any more");
            Error::new(Kind::Config, error.to_string())
        });
        self.serving = Some(Job::start(&self.home, serving)?);
        Ok(())
    }

    /// Whether the program polls often enough for its handlers.
    pub fn is_ready(&self) -> bool {
        self.plane.is_ready()
    }

    /// Does something in the background, and serves requests until it is done.
    fn wait<R: Send + 'static>(
        &self,
        lua: &Lua,
        node: &ConsulHACluster,
        work: impl Future<Output = R> + Send + 'static,
    ) -> Result<R, Failure> {
        let inbox = Arc::clone(&self.inbox);
        let wake = stream::poll_fn(move |_| {
            inbox.wake();
            Poll::Ready(None)
        });
        let job = Job::start(&self.home, stream::once(work).chain(wake))?;
        serve(lua, None, usize::MAX, || node.is_of_parent() || job.has_news())?;
        if !node.is_of_parent()
            && let Poll::Ready(Some(result)) = job.next()?
        {
            return Ok(result);
        }
        Err(node.error(Kind::Closed, "the background has ended").into())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.cancel();
        }
        self.inbox.remove(self.number);
    }
}

fn handlers(node: &AnyUserData) -> mlua::Result<Table> {
    node.nth_user_value(HANDLERS)
}

/// Serves requests of all nodes of this state: until something is over, `most` are served, or nothing
/// more has come within `limit`. Says how many.
fn serve(
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
pub fn serve_in_pause(lua: &Lua) -> Result<(), Failure> {
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

fn to_lua(lua: &Lua, body: &Body) -> Result<LuaValue, Failure> {
    if !body.is_json {
        return Ok(LuaValue::String(lua.create_string(&body.bytes)?));
    }
    let tape = Tape::of_json(body.bytes.clone(), Base64::Nowhere);
    let tape = tape.map_err(|error| Error::new(Kind::Decode, format!("no JSON: {error}")))?;
    Ok(stack::value(lua, &tape)?)
}

fn from_lua(lua: &Lua, value: &LuaValue) -> Result<Body, Error> {
    Ok(match value::from_lua(lua, value)? {
        Value::Bytes(bytes) => Body::bytes(bytes),
        Value::Foreign(what) => {
            return Err(Error::misuse(format!("it must be what JSON can hold, got {what}")));
        }
        value => Body::json(value.to_json()?.to_string()),
    })
}

/// Those that give one value when they succeed.
pub const CALLS: &[(&str, Method)] = &[("handle", handle), ("poll", poll), ("run", run)];

/// Those that give true and a value.
pub const REPLIES: &[(&str, Method)] = &[("call", call), ("broadcast", broadcast)];

/// `cluster:handle(name, fn)`
fn handle(
    lua: &Lua,
    this: &AnyUserData,
    node: &ConsulHACluster,
    args: &MultiValue,
) -> Result<Results, Failure> {
    let name = text(lua, args, 1, "name")?;
    let handler = args.get(2).unwrap_or(&LuaValue::Nil);
    if !handler.is_function() && !handler.is_nil() {
        let given = value::from_lua(lua, handler)?;
        return Err(At::top("the handler").wrong_type_text("a function or nil", &given).into());
    }
    handlers(this)?.raw_set(name.as_str(), handler)?;
    if let Some(running) = node.running() {
        running.link.plane.set_handler(&name, handler.is_function());
    }
    Ok(one(LuaValue::Boolean(true)))
}

/// `cluster:poll(timeout_ms, max)`
fn poll(
    lua: &Lua,
    _: &AnyUserData,
    node: &ConsulHACluster,
    args: &MultiValue,
) -> Result<Results, Failure> {
    let arg = |place| args.get(place).map_or(Ok(Value::Null), |arg| value::from_lua(lua, arg));
    let limit = match arg(1)? {
        Value::Null => Some(Duration::ZERO),
        limit_ms => wait_limit(&limit_ms)?,
    };
    let most = match arg(2)? {
        Value::Null => POLLED,
        most => Shape::Uint.uint(&most, &At::top("max"))?,
    };
    let running = node.started()?;
    let is_over = || node.is_of_parent() || running.has_ended();
    let served = serve(lua, limit, usize::try_from(most).unwrap_or(usize::MAX), is_over)?;
    Ok(one(served.into_lua(lua)?))
}

/// `cluster:run()`
fn run(
    lua: &Lua,
    _: &AnyUserData,
    node: &ConsulHACluster,
    _: &MultiValue,
) -> Result<Results, Failure> {
    let started = node.started()?;
    let is_still = |running: Rc<_>| Rc::ptr_eq(&running, &started) && !started.has_ended();
    serve(lua, None, usize::MAX, || !node.running().is_some_and(is_still))?;
    Ok(one(LuaValue::Boolean(true)))
}

/// `cluster:call(node_id, name, body, options)`
fn call(
    lua: &Lua,
    _: &AnyUserData,
    node: &ConsulHACluster,
    args: &MultiValue,
) -> Result<Results, Failure> {
    let (id, name) = (text(lua, args, 1, "node_id")?, text(lua, args, 2, "name")?);
    let body = body(lua, args, 3)?;
    let mut options = CallOptions::default();
    const KNOWN: &[&str] = &["timeout_ms", "shard", "idempotency_key"];
    for (option, value) in given_options(lua, args, 4)? {
        let at = At::top(&option);
        match option.as_str() {
            "timeout_ms" => options.timeout = Shape::Millis.duration(&value, &at)?,
            "shard" => options.shard = Some(Shape::Uint.uint(&value, &at)?),
            "idempotency_key" => options.idempotency_key = Some(Shape::Text.text(&value, &at)?),
            _ => return Err(Error::misuse(unknown("option", &option, KNOWN)).into()),
        }
    }
    let running = node.started()?;
    Serving::of(lua).may_nest()?;
    let plane = Arc::clone(&running.link.plane);
    let work = async move { plane.call(&id, &name, &body, &options).await };
    let reply = running.link.wait(lua, node, work)?.map_err(|error| error.context(&node.name()))?;
    Ok((LuaValue::Boolean(true), to_lua(lua, &reply)?, LuaValue::Nil))
}

/// `cluster:broadcast(name, body, options)`
fn broadcast(
    lua: &Lua,
    _: &AnyUserData,
    node: &ConsulHACluster,
    args: &MultiValue,
) -> Result<Results, Failure> {
    let name = text(lua, args, 1, "name")?;
    let body = body(lua, args, 2)?;
    let (mut options, mut nodes) = (CallOptions::default(), None);
    for (option, value) in given_options(lua, args, 3)? {
        let at = At::top(&option);
        match option.as_str() {
            "timeout_ms" => options.timeout = Shape::Millis.duration(&value, &at)?,
            "nodes" => nodes = Some(Shape::TextList.texts(&value, &at)?),
            _ => {
                let known = &["timeout_ms", "nodes"];
                return Err(Error::misuse(unknown("option", &option, known)).into());
            }
        }
    }
    let running = node.started()?;
    Serving::of(lua).may_nest()?;
    let nodes = match nodes {
        Some(nodes) => nodes,
        None => node.snapshot()?.live().map(|node| node.record.id.clone()).collect(),
    };
    let plane = Arc::clone(&running.link.plane);
    let work = async move {
        let calls = nodes.into_iter().map(|id| {
            let (plane, name, body, options) = (&plane, &name, &body, &options);
            async move {
                let outcome = plane.call(&id, name, body, options).await;
                (id, outcome)
            }
        });
        join_all(calls).await
    };
    let results = lua.create_table()?;
    for (id, outcome) in running.link.wait(lua, node, work)? {
        let result = lua.create_table()?;
        result.raw_set("success", outcome.is_ok())?;
        match outcome {
            Ok(reply) => result.raw_set("data", to_lua(lua, &reply)?)?,
            Err(error) => result.raw_set("error", error.message())?,
        }
        results.raw_set(id, result)?;
    }
    Ok((LuaValue::Boolean(true), LuaValue::Table(results), LuaValue::Nil))
}

fn text(lua: &Lua, args: &MultiValue, place: usize, name: &str) -> Result<String, Error> {
    let given = args.get(place).map_or(Ok(Value::Null), |given| value::from_lua(lua, given))?;
    Shape::Text.text(&given, &At::top(name))
}

fn body(lua: &Lua, args: &MultiValue, place: usize) -> Result<Body, Error> {
    let given = args.get(place).unwrap_or(&LuaValue::Nil);
    from_lua(lua, given).map_err(|error| error.context("body"))
}

fn given_options(
    lua: &Lua,
    args: &MultiValue,
    place: usize,
) -> Result<Vec<(String, Value)>, Error> {
    match args.get(place).map_or(Ok(Value::Null), |given| value::from_lua(lua, given))? {
        Value::Null => Ok(Vec::new()),
        Value::Map(options) => Ok(options),
        other => Err(At::top("options").wrong_type_text("a table", &other)),
    }
}
