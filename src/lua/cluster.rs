//! `ConsulHACluster`: a node of a cluster as a Lua program holds it. What makes it one goes on in the
//! background, whatever the program does.

use super::background::{Home, Job};
use super::client::init_logs;
use super::data_plane::{self, Link};
use super::held::{done, gives, one, wait_limit};
use super::hooks;
use super::native::{self, Failure, Results};
use super::node::reads_as_id;
use super::routing::{self, shard};
use super::serving;
use super::standing::FAREWELL;
use super::value;
use crate::client::Client;
use crate::cluster::membership::{Mode, Node};
use crate::cluster::{Cluster, Event, Options, Snapshot};
use crate::config::{self, Config};
use crate::connect::connect;
use crate::error::{Error, Kind};
use crate::os;
use crate::wire::request::Args;
use crate::wire::shape::{At, payload};
use crate::wire::status;
use crate::wire::table::Shape;
use crate::wire::value::Value;
use futures_util::future::{Either, select};
use futures_util::stream;
use mlua::{
    AnyUserData, IntoLua, Lua, MetaMethod, MultiValue, Table, UserData, UserDataFields,
    UserDataMethods, Value as LuaValue,
};
use std::cell::RefCell;
use std::ffi::OsString;
use std::future::Future;
use std::mem;
use std::os::unix::ffi::OsStringExt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A node as a Lua program holds it.
pub struct ConsulHACluster {
    config: Config,
    options: Options,
    /// None: it was not started, or was stopped.
    running: RefCell<Option<Rc<Running>>>,
    /// The process that made this, counted in forks.
    generation: u32,
    /// The snapshot that the user value, the nodes' tables by id, was made from.
    shown: RefCell<Option<Arc<Snapshot>>>,
}

/// What it has from start to stop.
pub struct Running {
    cluster: Arc<Cluster>,
    home: Home,
    run: Job<Progress>,
    events: Job<Event>,
    /// Its data plane.
    pub link: Link,
}

/// How far a start has come.
enum Progress {
    Started,
    /// The time for the start is over, and this is what is missing.
    Late(String),
    Ended(Error),
}

impl Running {
    fn new(
        lua: &Lua,
        this: &AnyUserData,
        config: &Config,
        options: &Options,
    ) -> Result<Rc<Self>, Failure> {
        // Connections of its own for queries that wait: they must keep no beat from having one.
        let (client, waiting) = (Arc::new(connect(config)?), Arc::new(connect(config)?));
        let home = match client.clock().as_manual() {
            Some(clock) => Home::Clock(clock.clone()),
            None => Home::thread()?,
        };
        let options = Options { epoch: unix_epoch(&client), ..options.clone() };
        let limit = options.start_timeout;
        let cluster = Cluster::new(Arc::clone(&client), waiting, options)?;
        let mut link = Link::new(lua, Arc::clone(&cluster))?;
        let (starting, running, telling) =
            (Arc::clone(&cluster), Arc::clone(&cluster), Arc::clone(&cluster));
        let begin = stream::once(async move {
            match select(pin!(starting.started()), client.clock().sleep(limit)).await {
                Either::Left(_) => Progress::Started,
                Either::Right(_) => Progress::Late(missing(&starting, &client).await),
            }
        });
        let end = stream::once(async move { Progress::Ended(running.run().await) });
        let run = Job::start(&home, stream::select(end, begin))?;
        let events = stream::unfold(Some(telling), |telling| async move {
            let cluster = telling?;
            let event = cluster.next_event().await;
            let is_last = matches!(event, Event::Stopped(_));
            Some((event, (!is_last).then_some(cluster)))
        });
        let events = Job::start_paced(&home, events)?;
        link.serve(lua, this, &events)?;
        Ok(Rc::new(Running { cluster, home, run, events, link }))
    }

    /// Whether it takes part no more without having been stopped. To be asked once it has started.
    pub fn has_ended(&self) -> bool {
        self.run.has_news()
    }

    /// Takes part no more; what it gives leaves in order.
    fn end(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        self.run.cancel();
        self.events.cancel();
        let cluster = Arc::clone(&self.cluster);
        async move { cluster.leave().await }
    }
}

/// What is missing for a start.
async fn missing(cluster: &Cluster, client: &Client) -> String {
    const PATIENCE_MS: u64 = 1000;
    let snapshot = cluster.snapshot();
    let me = snapshot.nodes.get(&cluster.options().node_id);
    if !snapshot.in_touch {
        let args = Args::new().opt("timeout_ms", PATIENCE_MS);
        if let Err(error) = client.call(&status::LEADER, &args).await {
            return error.message().to_owned();
        }
    }
    let missing = match me {
        None => "its key is not written",
        Some(me) if !me.is_live => "its check does not pass",
        Some(_) => "nobody leads",
    };
    missing.to_owned()
}

/// The Unix time at the origin of a client's clock. A clock that a test moves begins at 0.
fn unix_epoch(client: &Client) -> Duration {
    if client.clock().as_manual().is_some() {
        return Duration::ZERO;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(client.clock().now().since_origin())
}

impl ConsulHACluster {
    fn new(given: Vec<(String, Value)>) -> Result<Self, Error> {
        let (options, of_client) = config::of_cluster(&given)?;
        let env = |name: &str| std::env::var_os(name).map(OsString::into_vec);
        let config = Config::new(&of_client, env)?;
        init_logs(config.log_level);
        os::watch_forks().map_err(|error| {
            Error::new(Kind::Config, format!("forks cannot be noticed: {error}")).not_sent()
        })?;
        Ok(ConsulHACluster {
            config,
            options,
            running: RefCell::default(),
            generation: os::fork_generation(),
            shown: RefCell::default(),
        })
    }

    /// As it reads in messages: `cluster node "n1"`.
    pub fn name(&self) -> String {
        format!("cluster node {:?}", self.options.node_id)
    }

    /// Whether this is a forked child and the node its parent's.
    pub fn is_of_parent(&self) -> bool {
        self.generation != os::fork_generation()
    }

    /// An error of this node.
    pub fn error(&self, kind: Kind, why: &str) -> Error {
        Error::new(kind, format!("{}: {why}", self.name())).not_sent()
    }

    /// What it has, while it takes part.
    pub fn running(&self) -> Option<Rc<Running>> {
        if self.is_of_parent() { None } else { self.running.borrow().clone() }
    }

    /// The same for what needs it.
    pub fn started(&self) -> Result<Rc<Running>, Error> {
        if self.is_of_parent() {
            return Err(self.of_parent());
        }
        let running = self.running().filter(|running| !running.has_ended());
        running.ok_or_else(|| self.error(Kind::Closed, "it is not started"))
    }

    fn of_parent(&self) -> Error {
        self.error(Kind::Closed, "it belongs to this process's parent, and takes part only there")
    }

    /// What is known of the cluster; nothing unless it is started.
    pub fn snapshot(&self) -> Result<Arc<Snapshot>, Error> {
        let Some(running) = self.running() else { return Ok(Arc::default()) };
        running.run.settle()?;
        Ok(running.cluster.snapshot())
    }

    fn is_leader(&self) -> Result<bool, Error> {
        let Some(running) = self.running() else { return Ok(false) };
        running.run.settle()?;
        Ok(running.cluster.is_leader())
    }

    /// The snapshot and the tables of its nodes by their ids, the same until something changes.
    pub fn tables(&self, lua: &Lua, this: &AnyUserData) -> Result<(Arc<Snapshot>, Table), Failure> {
        let snapshot = self.snapshot()?;
        let is_shown = |shown: &Arc<Snapshot>| Arc::ptr_eq(shown, &snapshot);
        if !self.shown.borrow().as_ref().is_some_and(is_shown) {
            let tables = lua.create_table()?;
            for (id, node) in &snapshot.nodes {
                tables.raw_set(id.as_str(), node_table(lua, node)?)?;
            }
            this.set_user_value(tables)?;
            self.shown.replace(Some(Arc::clone(&snapshot)));
        }
        Ok((snapshot, this.user_value()?))
    }

    /// Ends what runs, waiting a little for an orderly end.
    fn close(&self) {
        let running = self.running.take();
        if self.is_of_parent() {
            // To drop it would wake the parent's connections in a copy of its background.
            mem::forget(running);
        } else if let Some(running) = running {
            let end = running.end();
            let farewell = async move {
                if let Err(error) = end.await {
                    tracing::info!(%error, "the node is left to its check");
                }
            };
            running.home.finish(farewell, FAREWELL);
        }
    }

    /// Does something in the background, and waits for it.
    fn run<R: Send + 'static>(
        &self,
        lua: &Lua,
        home: &Home,
        work: impl Future<Output = Result<R, Error>> + Send + 'static,
    ) -> Result<R, Failure> {
        let job = Job::start(home, stream::once(work))?;
        job.wait(None, hooks::INTERVAL, || hooks::run(lua))?;
        if !job.is_of_parent()
            && let Poll::Ready(Some(result)) = job.next()?
        {
            return Ok(result.map_err(|error| error.context(&self.name()))?);
        }
        Err(self.error(Kind::Closed, "the background has ended").into())
    }

    fn state(&self) -> &'static str {
        match self.running() {
            None if self.is_of_parent() => "of the parent process",
            Some(running) if !running.has_ended() => running.cluster.state(),
            _ => "stopped",
        }
    }
}

impl Drop for ConsulHACluster {
    fn drop(&mut self) {
        self.close();
    }
}

impl UserData for ConsulHACluster {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| {
            Ok(format!("ConsulHACluster({:?}, {})", this.options.node_id, this.state()))
        });
        #[cfg(feature = "lua54")]
        methods.add_meta_method(MetaMethod::Close, |_, this, _: LuaValue| {
            this.close();
            Ok(())
        });
    }

    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_meta_field("__name", "ConsulHACluster");
        fields.add_meta_field_with("__index", |lua| {
            lua.named_registry_value::<mlua::Function>(INDEX)
        });
    }
}

/// The registry's name for the Lua function that looks members of a cluster up.
const INDEX: &str = "consul_ffi.cluster.index";

/// A method on the node and all arguments.
pub type Method = fn(&Lua, &AnyUserData, &ConsulHACluster, &MultiValue) -> Result<Results, Failure>;

/// Those that give one value when they succeed.
const CALLS: &[(&str, Method)] = &[
    ("start", start),
    ("stop", stop),
    ("close", |_, _, node, _| {
        node.close();
        Ok(done())
    }),
    ("hand_over", |_, _, node, _| {
        let running = node.started()?;
        if !running.cluster.is_leader() {
            return Err(node.error(Kind::Conflict, "it does not lead").into());
        }
        running.cluster.hand_over();
        running.run.settle()?;
        Ok(done())
    }),
    ("drain", |lua, _, node, args| set_mode(lua, node, args, Mode::Draining)),
    ("maintenance", |lua, _, node, args| set_mode(lua, node, args, Mode::Maintenance)),
    ("resume", |lua, _, node, _| {
        let running = node.started()?;
        let cluster = Arc::clone(&running.cluster);
        node.run(lua, &running.home, async move { cluster.thaw().await })?;
        Ok(done())
    }),
    ("fenced_put", fenced_put),
    ("shards_ready", shards_ready),
    ("fd", |lua, _, node, _| {
        let fd = node.started()?.events.fd().map_err(|error| {
            node.error(Kind::Config, &format!("there is no descriptor: {error}"))
        })?;
        Ok(one(fd.into_lua(lua)?))
    }),
];

/// Those that give true before their values, which may be nil.
const GETTERS: &[(&str, Method)] = &[
    ("is_leader_node", |_, _, node, _| Ok(gives(LuaValue::Boolean(node.is_leader()?)))),
    ("get_leader_info", |lua, _, node, _| {
        Ok(gives(match &node.snapshot()?.leader {
            Some(leader) => {
                let table = lua.create_table()?;
                table.raw_set("node_id", leader.node_id.as_str())?;
                table.raw_set("address", leader.address.as_str())?;
                table.raw_set("session_id", leader.session_id.as_str())?;
                table.raw_set("elected_at", leader.elected_at_ms / 1000)?;
                reads_as_id(lua, &table)?;
                LuaValue::Table(table)
            }
            None => LuaValue::Nil,
        }))
    }),
    ("get_node_count", |lua, _, node, _| Ok(gives(node.snapshot()?.nodes.len().into_lua(lua)?))),
    ("token", |lua, _, node, _| {
        let lease = node.running().and_then(|running| running.cluster.lease());
        let lease = lease.filter(|lease| !lease.has_ended());
        let token = lease.map_or(Value::Null, |lease| lease.token().into());
        Ok(gives(value::to_lua(lua, &token)?))
    }),
    ("status", |lua, _, node, _| {
        let snapshot = node.snapshot()?;
        let frozen = snapshot.frozen.iter().map(|id| Value::from(id.as_str())).collect();
        let is_ready = node.running().map(|running| Value::Bool(running.link.is_ready()));
        let members = [
            ("state", node.state().into()),
            ("ready", is_ready.unwrap_or(Value::Null)),
            ("in_touch", Value::Bool(snapshot.in_touch)),
            ("map_epoch", snapshot.map.as_ref().map_or(Value::Null, |map| map.epoch().into())),
            ("frozen", Value::List(frozen)),
        ];
        let members = members.map(|(name, value)| (name.to_owned(), value));
        Ok(gives(value::to_lua(lua, &Value::Map(members.into()))?))
    }),
    ("poll_event", |lua, _, node, _| next_event(lua, node, Some(Duration::ZERO))),
    ("next_event", |lua, _, node, args| {
        next_event(lua, node, wait_limit(&value::argument(lua, args, 1)?)?)
    }),
];

/// The native functions that `module.lua` builds the class from.
pub fn register(lua: &Lua) -> mlua::Result<Table> {
    let method = |(name, method): &(&'static str, Method)| {
        let (name, method) = (*name, *method);
        (name, move |lua: &Lua, args: MultiValue| invoke(lua, name, method, &args))
    };
    let calls = CALLS.iter().chain(routing::CALLS).chain(data_plane::CALLS);
    let native = native::class(lua, INDEX, calls.map(method))?;
    let replies = native::class(lua, INDEX, data_plane::REPLIES.iter().map(method))?;
    native.set("replies", replies.get::<Table>("methods")?)?;
    let getters = native::class(lua, INDEX, GETTERS.iter().chain(routing::GETTERS).map(method))?;
    native.set("getters", getters.get::<Table>("methods")?)?;
    native.set(
        "new",
        native::function(lua, "ConsulHACluster", |lua, args| {
            let made = value::argument(lua, &args, 0).and_then(|given| match given {
                Value::Map(given) => ConsulHACluster::new(given),
                Value::Null => ConsulHACluster::new(Vec::new()),
                other => Err(At::top("the configuration").wrong_type_text("a table", &other)),
            });
            let node = made
                .map_err(|error| Error::misuse(format!("ConsulHACluster: {}", error.message())))?;
            let node = lua.create_userdata(node)?;
            serving::prepare(lua, &node)?;
            Ok(one(LuaValue::UserData(node)))
        })?,
    )?;
    native.set("field", native::function(lua, "ConsulHACluster", field)?)?;
    Ok(native)
}

fn invoke(lua: &Lua, name: &str, method: Method, args: &MultiValue) -> Result<Results, Failure> {
    let this = args.front().and_then(LuaValue::as_userdata);
    let node = this.and_then(|this| Some((this, this.borrow::<ConsulHACluster>().ok()?)));
    let outcome = match node {
        Some((this, node)) => method(lua, this, &node, args),
        None => Err(Error::misuse("call it with a colon").into()),
    };
    outcome.map_err(|failure| match failure {
        Failure::Error(error) if error.is_misuse() || error.kind() == Kind::Argument => {
            Failure::Error(error.context(name))
        }
        failure => failure,
    })
}

/// `cluster.node_id` and the like.
fn field(lua: &Lua, args: MultiValue) -> Result<Results, Failure> {
    let this = args.front().and_then(LuaValue::as_userdata);
    let node = this.and_then(|this| Some((this, this.borrow::<ConsulHACluster>().ok()?)));
    let (Some((this, node)), Some(LuaValue::String(name))) = (node, args.get(1)) else {
        return Ok(gives(LuaValue::Nil));
    };
    Ok(gives(match &*name.as_bytes() {
        b"node_id" => node.options.node_id.as_str().into_lua(lua)?,
        b"node_address" => node.options.node_address.as_str().into_lua(lua)?,
        b"cluster_nodes" => LuaValue::Table(node.tables(lua, this)?.1),
        b"is_leader" => LuaValue::Boolean(node.is_leader()?),
        b"profile" => {
            let values = node.options.profile.values().into_iter();
            let values = values.map(|(name, value)| (name.to_owned(), value)).collect();
            value::to_lua(lua, &Value::Map(values))?
        }
        _ => LuaValue::Nil,
    }))
}

/// `cluster:start()`
fn start(
    lua: &Lua,
    this: &AnyUserData,
    node: &ConsulHACluster,
    _: &MultiValue,
) -> Result<Results, Failure> {
    if node.is_of_parent() {
        return Err(node.of_parent().into());
    }
    match node.running() {
        Some(running) if !running.has_ended() => {
            return Err(node.error(Kind::Conflict, "it is started already").into());
        }
        _ => node.close(),
    }
    let running = Running::new(lua, this, &node.config, &node.options)?;
    node.running.replace(Some(Rc::clone(&running)));
    if let Err(failure) = running.run.wait(None, hooks::INTERVAL, || hooks::run(lua)) {
        node.close();
        return Err(failure);
    }
    let is_ours = node.running().is_some_and(|now| Rc::ptr_eq(&now, &running));
    let why = match running.run.next()? {
        _ if !is_ours => node.error(Kind::Closed, "it was stopped while it started"),
        Poll::Ready(Some(Progress::Started)) => return Ok(done()),
        Poll::Ready(Some(Progress::Ended(why))) => why.context(&node.name()),
        Poll::Ready(Some(Progress::Late(missing))) => {
            let limit = node.options.start_timeout.as_millis();
            node.error(Kind::Timeout, &format!("not started within {limit} ms: {missing}"))
        }
        Poll::Ready(None) | Poll::Pending => node.error(Kind::Closed, "the background has ended"),
    };
    if is_ours {
        node.close();
    }
    Err(why.into())
}

/// `cluster:stop()`
fn stop(
    lua: &Lua,
    _: &AnyUserData,
    node: &ConsulHACluster,
    _: &MultiValue,
) -> Result<Results, Failure> {
    if node.is_of_parent() {
        node.close();
        return Ok(done());
    }
    if let Some(running) = node.running.take() {
        let (end, limit) = (running.end(), node.config.timeout);
        let job = Job::start(&running.home, stream::once(end))?;
        job.wait(Some(limit), hooks::INTERVAL, || hooks::run(lua))?;
        let left = match job.next()? {
            Poll::Ready(Some(left)) => left,
            _ => Err(Error::new(Kind::Timeout, "Consul does not answer")),
        };
        left.map_err(|error| {
            error.context(&format!("{}: stopped, but left to its check", node.name()))
        })?;
    }
    Ok(done())
}

/// `cluster:drain(on, node_id)` and `cluster:maintenance(on, node_id)`
fn set_mode(
    lua: &Lua,
    node: &ConsulHACluster,
    args: &MultiValue,
    mode: Mode,
) -> Result<Results, Failure> {
    let on = match args.get(1).unwrap_or(&LuaValue::Nil) {
        LuaValue::Nil => true,
        given => Shape::Bool.boolean(&value::from_lua(lua, given)?, &At::top("on"))?,
    };
    let id = node_id(lua, node, args, 2)?;
    let mode = if on { mode } else { Mode::Active };
    let running = node.started()?;
    let cluster = Arc::clone(&running.cluster);
    node.run(lua, &running.home, async move { cluster.set_mode(&id, mode).await })?;
    Ok(done())
}

/// The node that an argument names; this one when there is none.
pub fn node_id(
    lua: &Lua,
    node: &ConsulHACluster,
    args: &MultiValue,
    place: usize,
) -> Result<String, Error> {
    match args.get(place).unwrap_or(&LuaValue::Nil) {
        LuaValue::Nil => Ok(node.options.node_id.clone()),
        given => Shape::Text.text(&value::from_lua(lua, given)?, &At::top("node_id")),
    }
}

/// `cluster:fenced_put(key, value)`: the index of the write.
fn fenced_put(
    lua: &Lua,
    _: &AnyUserData,
    node: &ConsulHACluster,
    args: &MultiValue,
) -> Result<Results, Failure> {
    let arg = |place| value::argument(lua, args, place);
    let key = Shape::Key.text(&arg(1)?, &At::top("key"))?;
    let value = match arg(2)? {
        Value::Null => {
            return Err(At::top("value").wrong_type(&Shape::Payload, &Value::Null).into());
        }
        value => payload(&value, &At::top("value"))?,
    };
    let running = node.started()?;
    let lease = running.cluster.lease();
    let lease = lease.ok_or_else(|| node.error(Kind::Conflict, "it does not lead"))?;
    let put = async move { lease.fenced_put(&key, value).await };
    let index = node.run(lua, &running.home, put)?;
    Ok(one(value::to_lua(lua, &index.into())?))
}

/// `cluster:shards_ready(shards)`: this node has the data of these shards.
fn shards_ready(
    lua: &Lua,
    _: &AnyUserData,
    node: &ConsulHACluster,
    args: &MultiValue,
) -> Result<Results, Failure> {
    if !node.options.hand_off {
        let why = "the node was made without hand_off = true: its shards are available at once";
        return Err(Error::misuse(why).into());
    }
    let given = value::argument(lua, args, 1)?;
    let at = At::top("shards");
    let shards = match &given {
        Value::List(shards) => shards.iter().map(|it| shard(it, &at)).collect::<Result<_, _>>()?,
        Value::Map(members) if members.is_empty() => Vec::new(),
        other => return Err(at.wrong_type_text("a list of numbers of shards", other).into()),
    };
    let running = node.started()?;
    let cluster = Arc::clone(&running.cluster);
    node.run(lua, &running.home, async move { cluster.shards_ready(&shards).await })?;
    Ok(done())
}

fn node_table(lua: &Lua, node: &Node) -> mlua::Result<Table> {
    let record = &node.record;
    let meta = record.meta.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    let table = lua.create_table()?;
    table.raw_set("id", record.id.as_str())?;
    table.raw_set("address", record.address.as_str())?;
    table.raw_set("status", node.status())?;
    table.raw_set("zone", record.zone.as_str())?;
    table.raw_set("weight", record.weight)?;
    table.raw_set("meta", lua.create_table_from(meta)?)?;
    table.raw_set("started_at", record.started_ms / 1000)?;
    reads_as_id(lua, &table)?;
    Ok(table)
}

/// The next thing that happens, after waiting for it: its name, and what there is to say of it.
fn next_event(
    lua: &Lua,
    node: &ConsulHACluster,
    limit: Option<Duration>,
) -> Result<Results, Failure> {
    let Some(running) = node.running() else { return Ok(gives(LuaValue::Nil)) };
    running.events.wait(limit, hooks::INTERVAL, || hooks::run(lua))?;
    let Poll::Ready(Some(event)) = running.events.next()? else {
        return Ok(gives(LuaValue::Nil));
    };
    let (name, detail) = match event {
        Event::LeaderChanged(id) => ("leader_changed", id.into_lua(lua)?),
        Event::NodeJoined(id) => ("node_joined", id.into_lua(lua)?),
        Event::NodeLeft(id) => ("node_left", id.into_lua(lua)?),
        Event::ShardsChanged(epoch) => ("shards_changed", value::to_lua(lua, &epoch.into())?),
        Event::Suspended => ("suspended", LuaValue::Nil),
        Event::Resumed => ("resumed", LuaValue::Nil),
        Event::Frozen(ids) if ids.is_empty() => ("thawed", LuaValue::Nil),
        Event::Frozen(ids) => ("frozen", lua.create_sequence_from(ids)?.into_lua(lua)?),
        Event::Stopped(why) => ("stopped", why.into_lua(lua)?),
    };
    Ok((LuaValue::Boolean(true), name.into_lua(lua)?, detail))
}
