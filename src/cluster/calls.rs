//! The methods of a node that call other nodes and serve their requests.

use super::node::ClusterNode;
use super::serving::{Serving, from_lua, handlers, serve, to_lua};
use crate::runtime::handle::{CallResult, Handle};
use crate::runtime::native::{self, Call, Method, Returned};
use crate::runtime::value::Outcome;
use crate::runtime::wait;
use consul_api::error::Error;
use consul_api::table::Shape;
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, unknown};
use consul_cluster::data_plane::{Body, CallOptions, DataPlane, MAX_RETRIES};
use mlua::{IntoLua, Value as LuaValue};
use std::rc::Rc;
use std::time::Duration;

/// How many requests a poll serves by default.
const DEFAULT_POLL_MAX: u64 = 64;

/// The methods by name.
pub const METHODS: &[Method<ClusterNode>] = &[
    Method::new("handle", handle),
    Method::new("poll", poll),
    Method::new("run", run),
    Method::new("call", call_node),
    Method::new("broadcast", broadcast),
];

/// `cluster:handle(name, fn)`
fn handle(call: &Call<ClusterNode>) -> native::Result {
    call.object.check_member()?;
    let name = text(call, 1, "name")?;
    let handler = call.lua_arg(2);
    if call.args().len() < 2 {
        let why =
            format!("{name:?} has no handler: a function is required; nil removes the handler");
        return Err(Error::misuse(why).into());
    }
    if !handler.is_function() && !handler.is_nil() {
        let given = call.arg(2)?;
        return Err(ValuePath::top("the handler")
            .wrong_type_text("a function or nil", &given)
            .into());
    }
    handlers(call.userdata)?.raw_set(name.as_str(), handler)?;
    if let Some(running) = call.object.running() {
        running.data_plane.set_handler(&name, handler.is_function());
    }
    Ok(Returned::done())
}

/// `cluster:poll(timeout_ms, max)`
fn poll(call: &Call<ClusterNode>) -> native::Result {
    let limit = match call.arg(1)? {
        Value::Null => Some(Duration::ZERO),
        limit_ms => wait::limit(&limit_ms)?,
    };
    let max = match call.arg(2)? {
        Value::Null => DEFAULT_POLL_MAX,
        max => Shape::Uint.uint(&max, &ValuePath::top("max"))?,
    };
    let node = &*call.object;
    let running = node.started()?;
    let is_over = || node.belongs_to_parent() || running.has_ended();
    let (clock, max) = (running.data_plane.plane.manual_clock(), usize::try_from(max));
    let served = serve(call.lua, clock, limit, max.unwrap_or(usize::MAX), is_over)?;
    Ok(Returned::Value(served.into_lua(call.lua)?))
}

/// `cluster:run()`
fn run(call: &Call<ClusterNode>) -> native::Result {
    let node = &*call.object;
    let started = node.started()?;
    let is_still = |running: Rc<_>| Rc::ptr_eq(&running, &started) && !started.has_ended();
    let clock = started.data_plane.plane.manual_clock();
    serve(call.lua, clock, None, usize::MAX, || !node.running().is_some_and(is_still))?;
    Ok(Returned::done())
}

/// `cluster:call(node_id, name, body, options)`
fn call_node(call: &Call<ClusterNode>) -> native::Result {
    make(call, Calls::to_node(call, 1)?)
}

/// `cluster:broadcast(name, body, options)`
fn broadcast(call: &Call<ClusterNode>) -> native::Result {
    make(call, Calls::to_nodes(call, 1)?)
}

/// `cluster:start(method, …)`: a handle.
pub fn start(call: &Call<ClusterNode>) -> native::Result {
    let node = &*call.object;
    let method = text(call, 1, "method")?;
    let calls = match method.as_str() {
        "call" => Calls::to_node(call, 2),
        "broadcast" => Calls::to_nodes(call, 2),
        _ => {
            let known = ["call", "broadcast"];
            return Err(Error::misuse(unknown("method", &method, &known)).into());
        }
    };
    let calls = calls.map_err(|error| error.context(&method))?;
    let label = calls.label();
    let named = format!("{}: {label}", node.name());
    let job = node.started().and_then(|running| {
        let name = node.name();
        running.data_plane.start(&named, |plane| async move {
            calls.make(&plane).await.map_err(|error| error.context(&name))
        })
    });
    Handle::of(call.lua, label, job)
}

/// Makes calls on the calling thread, and serves requests meanwhile.
fn make(call: &Call<ClusterNode>, calls: Calls) -> native::Result {
    let (lua, node) = (call.lua, &*call.object);
    let running = node.started()?;
    Serving::of(lua).check_depth()?;
    let result = running.data_plane.run(lua, |plane| async move { calls.make(&plane).await })?;
    let result = result.ok_or_else(|| node.background_ended())?;
    let values = result.map_err(|error| error.context(&node.name()))?;
    Ok(Returned::Outcome(values(lua)?))
}

/// A call of one node, or the same call of many.
struct Calls {
    to: To,
    name: String,
    body: Body,
    options: CallOptions,
}

enum To {
    Node(String),
    Nodes(Vec<String>),
}

impl Calls {
    /// The arguments of `call`; the first has this place.
    fn to_node(call: &Call<ClusterNode>, first: usize) -> Result<Self, Error> {
        let (id, name) = (text(call, first, "node_id")?, text(call, first + 1, "name")?);
        let body = body(call, first + 2)?;
        let mut options = CallOptions::default();
        for (option, value) in call.named_options(first + 3)? {
            let at = ValuePath::top(&option);
            match option.as_str() {
                "timeout_ms" => options.timeout = Shape::Millis.duration(&value, &at)?,
                "shard" => options.shard = Some(Shape::Uint.uint(&value, &at)?),
                "idempotency_key" => options.idempotency_key = Some(Shape::Text.text(&value, &at)?),
                "retries" => options.retries = retries(&value, &at)?,
                _ => {
                    let known = ["timeout_ms", "shard", "idempotency_key", "retries"];
                    return Err(Error::misuse(unknown("option", &option, &known)));
                }
            }
        }
        Ok(Calls { to: To::Node(id), name, body, options })
    }

    /// The arguments of `broadcast`; the first has this place.
    fn to_nodes(call: &Call<ClusterNode>, first: usize) -> Result<Self, Error> {
        let name = text(call, first, "name")?;
        let body = body(call, first + 1)?;
        let (mut options, mut ids) = (CallOptions::default(), None);
        for (option, value) in call.named_options(first + 2)? {
            let at = ValuePath::top(&option);
            match option.as_str() {
                "timeout_ms" => options.timeout = Shape::Millis.duration(&value, &at)?,
                "nodes" => ids = Some(Shape::TextList.texts(&value, &at)?),
                _ => {
                    let known = ["timeout_ms", "nodes"];
                    return Err(Error::misuse(unknown("option", &option, &known)));
                }
            }
        }
        let ids = match ids {
            Some(ids) => ids,
            None => {
                let snapshot = call.object.snapshot()?;
                snapshot.live().map(|node| node.record.id.clone()).collect()
            }
        };
        Ok(Calls { to: To::Nodes(ids), name, body, options })
    }

    fn label(&self) -> String {
        match &self.to {
            To::Node(id) => format!("node {id:?}: call {:?}", self.name),
            To::Nodes(_) => format!("broadcast {:?}", self.name),
        }
    }

    async fn make(self, plane: &DataPlane) -> CallResult {
        let Calls { to, name, body, options } = self;
        let ids = match to {
            To::Node(id) => {
                let reply = plane.call(&id, &name, &body, &options).await?;
                return Ok(Box::new(move |lua| {
                    Ok(Outcome::Success(to_lua(lua, &reply)?, LuaValue::Nil))
                }));
            }
            To::Nodes(ids) => ids,
        };
        let outcomes = plane.broadcast(ids, &name, &body, &options).await;
        Ok(Box::new(move |lua| {
            let results = lua.create_table()?;
            for (id, outcome) in outcomes {
                let result = lua.create_table()?;
                result.raw_set("success", outcome.is_ok())?;
                match outcome {
                    Ok(reply) => result.raw_set("data", to_lua(lua, &reply)?)?,
                    Err(error) => result.raw_set("error", error.message())?,
                }
                results.raw_set(id, result)?;
            }
            Ok(Outcome::Success(LuaValue::Table(results), LuaValue::Nil))
        }))
    }
}

fn text(call: &Call<ClusterNode>, place: usize, name: &str) -> Result<String, Error> {
    Shape::Text.text(&call.arg(place)?, &ValuePath::top(name))
}

fn body(call: &Call<ClusterNode>, place: usize) -> Result<Body, Error> {
    from_lua(call.lua, call.lua_arg(place)).map_err(|error| error.context("body"))
}

fn retries(value: &Value, at: &ValuePath) -> Result<u32, Error> {
    match u32::try_from(Shape::Uint.uint(value, at)?) {
        Ok(count @ 0..=MAX_RETRIES) => Ok(count),
        _ => Err(at.bad_value(value, &format!("it must be an integer from 0 to {MAX_RETRIES}"))),
    }
}
