//! The methods by which a Lua program calls other nodes and answers them.

use super::background::{Home, Job};
use super::cluster::{ConsulHACluster, Method};
use super::held::{done, one, wait_limit};
use super::inbox::{Inbox, NodeNumber, fresh_number};
use super::native::{Failure, Results};
use super::serving::{self, Serving, from_lua, handlers, serve, to_lua};
use super::value;
use crate::cluster::data_plane::{Body, CallOptions, DataPlane};
use crate::cluster::{Cluster, Event};
use crate::error::{Error, Kind};
use crate::wire::shape::{At, unknown};
use crate::wire::table::Shape;
use crate::wire::value::Value;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use mlua::{AnyUserData, IntoLua, Lua, MultiValue, Value as LuaValue};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// How many requests a poll serves, unless it is told.
const POLLED: u64 = 64;

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
        serving::add(lua, self.number, node)?;
        self.inbox.add(self.number, Arc::clone(&self.plane), events.ringer());
        let served = Arc::clone(&self.plane).serve();
        let served = stream::once(async {
            let Err(error) = served.await;
            tracing::error!(%error, "a node takes no requests of others any more");
            Error::new(Kind::Config, error.to_string())
        });
        self.serving = Some(Job::start(&self.home, served)?);
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
    Ok(done())
}

/// `cluster:poll(timeout_ms, max)`
fn poll(
    lua: &Lua,
    _: &AnyUserData,
    node: &ConsulHACluster,
    args: &MultiValue,
) -> Result<Results, Failure> {
    let arg = |place| value::argument(lua, args, place);
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
    Ok(done())
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
    Shape::Text.text(&value::argument(lua, args, place)?, &At::top(name))
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
    match value::argument(lua, args, place)? {
        Value::Null => Ok(Vec::new()),
        Value::Map(options) => Ok(options),
        other => Err(At::top("options").wrong_type_text("a table", &other)),
    }
}
