//! A store of replicated shards: how a program declares it, and what it is while its node runs.

use super::data_plane::NodeDataPlane;
use super::lua_storage::{FUNCTIONS, member};
use crate::runtime::executor::Executor;
use crate::runtime::job::Job;
use crate::runtime::value;
use consul_api::error::{Error, Kind};
use consul_api::table::Shape;
use consul_api::value::shape::ValuePath;
use consul_client::Client;
use consul_cluster::Cluster;
use consul_cluster::data_plane::{DataPlane, Service};
use consul_cluster::stores::leader::{self, Reach};
use consul_cluster::stores::remote::{Background, Remote, service, service_name};
use consul_cluster::stores::{Store, StoreOptions, Survives};
use consul_process::clock::BoxFuture;
use consul_replication::map::NodeId;
use consul_replication::message::{Reply, Request};
use consul_replication::peers::Peers;
use consul_replication::storage::{Memory, Storage};
use futures_util::stream;
use mlua::{Lua, Table};
use std::convert::Infallible;
use std::sync::{Arc, Weak};

/// A store as the program declared it.
pub struct Declared {
    /// Its options.
    pub options: StoreOptions,
    /// Where the node keeps its records.
    pub place: Place,
}

/// Where a node keeps the records of a store.
pub enum Place {
    /// Nowhere: it is an observer.
    Nowhere,
    /// In memory, which stays from one start of the node to the next.
    Memory(Arc<Memory>),
    /// In a table of functions.
    Table,
}

/// Checks that a table of the program is a storage; returns what its records survive.
///
/// # Errors
/// [`Error::misuse`], naming the function or field that is missing.
pub fn survives(lua: &Lua, storage: &Table) -> Result<Survives, Error> {
    let member = |name: &str| {
        member(storage, name).map_err(|why| Error::misuse(format!("storage.{name}: {why}")))
    };
    for name in FUNCTIONS {
        let function = member(name)?;
        if !function.is_function() {
            let (at, given) = (format!("storage.{name}"), value::from_lua(lua, &function)?);
            return Err(ValuePath::top(&at).wrong_type_text("a function", &given));
        }
    }
    let (at, given) = ("storage.survives", value::from_lua(lua, &member("survives")?)?);
    let known = Shape::OneOf(&["machine", "process", "nothing"]);
    Ok(match known.text(&given, &ValuePath::top(at))?.as_str() {
        "machine" => Survives::Machine,
        "process" => Survives::Process,
        _ => Survives::Nothing,
    })
}

/// Does the work of the cluster's leader for all stores, while the node leads. None on a clock that the
/// program moves, which has no stores.
///
/// # Errors
/// As [`Job::start`].
pub fn lead(
    cluster: &Arc<Cluster>,
    client: &Client,
    data_plane: &NodeDataPlane,
) -> Result<Option<Job<Infallible>>, Error> {
    if client.clock().as_manual().is_some() {
        return Ok(None);
    }
    let (cluster, plane) = (Arc::clone(cluster), Arc::clone(&data_plane.plane));
    let timeout = StoreOptions::new("", cluster.options()).timeout;
    let reach: Reach =
        Arc::new(move |store| match Remote::new(Arc::clone(&plane), store, timeout) {
            Ok(remote) => Arc::new(remote),
            Err(why) => Arc::new(Unreachable(why)),
        });
    let work = stream::once(async move { leader::run(&cluster, &reach).await });
    Job::start(&data_plane.executor, work).map(Some)
}

/// Nodes that cannot be asked because of this process's own options.
struct Unreachable(Error);

impl Peers for Unreachable {
    fn ask(&self, _: &NodeId, _: Request) -> BoxFuture<'static, Result<Reply, Error>> {
        let why = self.0.clone();
        Box::pin(async { Err(why) })
    }
}

/// A store of a running node.
pub struct RunningStore {
    /// The store.
    pub store: Arc<Store>,
    plane: Arc<DataPlane>,
    _work: Job<Error>,
}

impl RunningStore {
    /// Starts a store in the background, and answers the other nodes' requests about it.
    ///
    /// # Errors
    /// As [`Store::new`], [`Remote::new`] and [`Job::start`]; [`Kind::Unsupported`] on a clock that the
    /// program moves.
    pub fn new(
        cluster: &Arc<Cluster>,
        client: &Arc<Client>,
        data_plane: &NodeDataPlane,
        declared: &Declared,
    ) -> Result<Self, Error> {
        let options = declared.options.clone();
        let (name, plane) = (options.name.clone(), Arc::clone(&data_plane.plane));
        let thread = match &data_plane.executor {
            Executor::Thread(thread) if client.clock().as_manual().is_none() => thread.clone(),
            _ => {
                let why = "it needs the machine's clock, and the simulated agent has a manual one";
                let why = format!("store {name:?}: {why}");
                return Err(Error::new(Kind::Unsupported, why).not_sent());
            }
        };
        let storage: Option<Arc<dyn Storage>> = match &declared.place {
            Place::Nowhere => None,
            Place::Memory(memory) => Some(Arc::clone(memory) as Arc<dyn Storage>),
            Place::Table => Some(Arc::new(data_plane.storage(&name))),
        };
        let peers = Arc::new(Remote::new(Arc::clone(&plane), &name, options.timeout)?);
        let runtime = Arc::new(Background::new(thread, Arc::clone(client)));
        let has_storage = storage.is_some();
        let store = Store::new(Arc::clone(cluster), peers, runtime, storage, options)?;
        if has_storage {
            plane.set_service(&service_name(&name), Some(served(Arc::downgrade(&store))));
        }
        if let Place::Table = declared.place {
            // The node's check warns while the program does not poll, which the storage needs.
            plane.set_handler(&service_name(&name), true);
        }
        let running = Arc::clone(&store);
        let work = stream::once(async move { running.run().await });
        let _work = Job::start(&data_plane.executor, work)?;
        Ok(RunningStore { store, plane, _work })
    }
}

impl Drop for RunningStore {
    fn drop(&mut self) {
        let name = service_name(&self.store.options().name);
        self.plane.set_service(&name, None);
        self.plane.set_handler(&name, false);
    }
}

/// The service of a store's requests, which are refused until its storage is open.
fn served(store: Weak<Store>) -> Service {
    Arc::new(move |body| {
        let store = store.upgrade();
        if let Some((store, holder)) = store.as_ref().and_then(|it| Some((it, it.holder()?))) {
            let options = store.options();
            return service(holder, options.shards)(body);
        }
        let why = match store.map(|store| store.checked()) {
            Some(Err(error)) => format!("its store cannot be used: {error}"),
            _ => "its storage is not open yet: a storage of functions is when its program polls"
                .to_owned(),
        };
        let error = Error::new(Kind::NotReady, why).retryable().with_status(503).not_sent();
        Box::pin(async { Err(error) })
    })
}
