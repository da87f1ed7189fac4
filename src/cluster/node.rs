//! The userdata of a cluster's node.

use super::running_node::RunningNode;
use super::running_store::Declared;
use crate::node_table;
use crate::runtime::executor::{Executor, SHUTDOWN_TIMEOUT};
use crate::runtime::native::Failure;
use crate::runtime::wait;
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_cluster::{Node, Options, Snapshot};
use consul_config::{self as config, Config};
use consul_process::os;
use mlua::{AnyUserData, Lua, Table};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::future::Future;
use std::mem;
use std::os::unix::ffi::OsStringExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A node of a cluster, started or not.
pub struct ClusterNode {
    /// The configuration of its client.
    pub config: Config,
    /// How it takes part.
    pub options: Options,
    /// The stores of replicated shards by name. Each start of the node starts them.
    pub stores: RefCell<BTreeMap<String, Declared>>,
    /// None: it was not started, or was stopped.
    running: RefCell<Option<Rc<RunningNode>>>,
    /// The process that created this, counted in forks.
    generation: u32,
    /// The snapshot that the user value, the tables of the nodes by id, was made from.
    shown: RefCell<Option<Arc<Snapshot>>>,
}

impl ClusterNode {
    /// A node that is not started.
    ///
    /// # Errors
    /// [`Error::misuse`] for invalid options.
    pub fn new(given: Vec<(String, Value)>) -> Result<Self, Error> {
        let (options, of_client) = config::of_cluster(&given)?;
        let env = |name: &str| std::env::var_os(name).map(OsString::into_vec);
        let config = Config::new(&of_client, env)?;
        os::watch_forks().map_err(|error| {
            Error::new(Kind::Config, format!("cannot register a fork handler: {error}")).not_sent()
        })?;
        Ok(ClusterNode {
            config,
            options,
            stores: RefCell::default(),
            running: RefCell::default(),
            generation: os::fork_generation(),
            shown: RefCell::default(),
        })
    }

    /// The name in messages: `cluster node "n1"`.
    pub fn name(&self) -> String {
        format!("cluster node {:?}", self.options.node_id)
    }

    /// An error of this node.
    pub fn error(&self, kind: Kind, why: &str) -> Error {
        Error::new(kind, format!("{}: {why}", self.name())).not_sent()
    }

    /// Refuses what only members do.
    ///
    /// # Errors
    /// [`Error::misuse`] for an observer.
    pub fn check_member(&self) -> Result<(), Error> {
        let why = "this is an observer: it serves no requests, has no shards and does not lead";
        if self.options.observer { Err(Error::misuse(why)) } else { Ok(()) }
    }

    /// Whether this process is a forked child of the node's creator.
    pub fn belongs_to_parent(&self) -> bool {
        self.generation != os::fork_generation()
    }

    /// The error of a method that only works in the process that created the node.
    pub fn of_parent(&self) -> Error {
        self.error(
            Kind::Closed,
            "it belongs to the parent of this process and takes part only there",
        )
    }

    /// The running node; None if it was not started, was stopped or belongs to the parent.
    pub fn running(&self) -> Option<Rc<RunningNode>> {
        if self.belongs_to_parent() { None } else { self.running.borrow().clone() }
    }

    /// Stores a node that was started.
    pub fn set_running(&self, running: Rc<RunningNode>) {
        self.running.replace(Some(running));
    }

    /// Takes the running node out, to stop it.
    pub fn take_running(&self) -> Option<Rc<RunningNode>> {
        self.running.take()
    }

    /// The running node, for a method that requires one.
    ///
    /// # Errors
    /// [`Kind::Closed`] if there is none, or if it ended by itself.
    pub fn started(&self) -> Result<Rc<RunningNode>, Error> {
        if self.belongs_to_parent() {
            return Err(self.of_parent());
        }
        let running = self.running().filter(|running| !running.has_ended());
        running.ok_or_else(|| self.error(Kind::Closed, "it is not started"))
    }

    /// The node's knowledge of its cluster; empty unless it is running.
    ///
    /// # Errors
    /// As [`RunningNode::snapshot`].
    pub fn snapshot(&self) -> Result<Arc<Snapshot>, Error> {
        self.running().map_or_else(|| Ok(Arc::default()), |running| running.snapshot())
    }

    /// Whether the node is the leader at this moment.
    ///
    /// # Errors
    /// As [`RunningNode::run_pending`].
    pub fn is_leader(&self) -> Result<bool, Error> {
        let Some(running) = self.running() else { return Ok(false) };
        running.run_pending()?;
        Ok(running.cluster.is_leader())
    }

    /// The state of the node as the program sees it.
    pub fn state(&self) -> &'static str {
        match self.running() {
            None if self.belongs_to_parent() => "of the parent process",
            Some(running) if !running.has_ended() => running.cluster.state(),
            _ => "stopped",
        }
    }

    /// The snapshot and the tables of its nodes by id. The tables are the same until the snapshot
    /// changes.
    ///
    /// # Errors
    /// As [`ClusterNode::snapshot`].
    pub fn tables(
        &self,
        lua: &Lua,
        userdata: &AnyUserData,
    ) -> Result<(Arc<Snapshot>, Table), Failure> {
        let snapshot = self.snapshot()?;
        let is_shown = |shown: &Arc<Snapshot>| Arc::ptr_eq(shown, &snapshot);
        if !self.shown.borrow().as_ref().is_some_and(is_shown) {
            let tables = lua.create_table()?;
            for (id, node) in &snapshot.nodes {
                tables.raw_set(id.as_str(), table(lua, node)?)?;
            }
            userdata.set_user_value(tables)?;
            self.shown.replace(Some(Arc::clone(&snapshot)));
        }
        Ok((snapshot, userdata.user_value()?))
    }

    /// Runs work in the background, and waits for it.
    ///
    /// # Errors
    /// Errors of the work with the name of the node, and as [`wait::for_result`].
    pub fn run<R: Send + 'static>(
        &self,
        lua: &Lua,
        running: &RunningNode,
        work: impl Future<Output = Result<R, Error>> + Send + 'static,
    ) -> Result<R, Failure> {
        let result = wait::for_result(lua, &running.executor, work)?;
        let result = result.ok_or_else(|| self.background_ended())?;
        Ok(result.map_err(|error| error.context(&self.name()))?)
    }

    /// The error of work that did not complete.
    pub fn background_ended(&self) -> Error {
        self.error(Kind::Closed, "the background work has ended")
    }

    /// Stops the node; waits for a short time until it has left the cluster.
    pub fn close(&self) {
        self.close_within(SHUTDOWN_TIMEOUT);
    }

    /// The same with another limit.
    pub fn close_within(&self, limit: Duration) {
        if let Some((executor, leave)) = self.end() {
            executor.shut_down_within(limit, leave);
        }
    }

    /// Stops the node; the returned future leaves the cluster.
    fn end(&self) -> Option<(Executor, impl Future<Output = ()> + Send + use<>)> {
        let running = self.take_running();
        if self.belongs_to_parent() {
            // To drop it would wake the parent's connections in a copy of its background.
            mem::forget(running);
            return None;
        }
        let running = running?;
        let end = running.end();
        let leave = async move {
            if let Err(error) = end.await {
                tracing::info!(%error, "the node did not leave and stays until its check fails");
            }
        };
        Some((running.executor.clone(), leave))
    }
}

impl Drop for ClusterNode {
    fn drop(&mut self) {
        if let Some((executor, leave)) = self.end() {
            executor.hand_over(leave);
        }
    }
}

fn table(lua: &Lua, node: &Node) -> mlua::Result<Table> {
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
    node_table::set_metatable(lua, &table)?;
    Ok(table)
}
