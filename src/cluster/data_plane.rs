//! The calls of one node to others, and its queue of requests from them.

use super::inbox::{Inbox, NodeNumber, next_number};
use super::lua_storage::LuaStorage;
use super::serving::{self, Serving, handlers, serve};
use crate::runtime::closable_job::closed;
use crate::runtime::executor::Executor;
use crate::runtime::handle::CallResult;
use crate::runtime::job::Job;
use crate::runtime::native::Failure;
use consul_api::error::{Error, Kind};
use consul_cluster::data_plane::DataPlane;
use consul_cluster::{Cluster, Event};
use futures_util::StreamExt;
use futures_util::stream;
use mlua::{AnyUserData, Lua, LuaString, Value as LuaValue};
use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::watch;

/// The data plane of a node from start to stop.
pub struct NodeDataPlane {
    /// The requests and replies themselves.
    pub plane: Arc<DataPlane>,
    /// The background thread.
    pub executor: Executor,
    number: NodeNumber,
    inbox: Arc<Inbox>,
    /// True when the node is closed, which ends the handles of its calls.
    is_closed: watch::Sender<bool>,
    /// None: requests are not taken yet.
    server: Option<Job<Error>>,
}

impl NodeDataPlane {
    /// Listens, and adds the address to the key of the node.
    ///
    /// # Errors
    /// As [`DataPlane::new`] and [`Executor::thread`].
    pub fn new(lua: &Lua, cluster: Arc<Cluster>) -> Result<Self, Error> {
        // Sockets need the background thread, also for a cluster on a manual clock.
        let executor = Executor::thread()?;
        let (inbox, number) = (Serving::of(lua).inbox, next_number());
        let requests = Arc::clone(&inbox);
        let plane = DataPlane::new(cluster, move |request| requests.push(number, request))?;
        let is_closed = watch::Sender::default();
        Ok(NodeDataPlane { plane, executor, number, inbox, is_closed, server: None })
    }

    /// Takes requests for the handlers of a member, and notifies its descriptor of them.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn serve(
        &mut self,
        lua: &Lua,
        node: &AnyUserData,
        events: &Job<Event>,
    ) -> Result<(), Failure> {
        for handler in handlers(node)?.pairs::<LuaString, LuaValue>() {
            self.set_handler(&handler?.0.to_string_lossy(), true);
        }
        serving::add_node(lua, self.number, node)?;
        self.inbox.add(self.number, Arc::clone(&self.plane), events.notifier());
        let server = Arc::clone(&self.plane).serve();
        let server = stream::once(async {
            let Err(error) = server.await;
            tracing::error!(%error, "the node stopped taking requests of other nodes");
            Error::new(Kind::Config, error.to_string())
        });
        self.server = Some(Job::start(&self.executor, server)?);
        Ok(())
    }

    /// The storage of a store, whose functions the Lua state of the node calls.
    pub fn storage(&self, store: &str) -> LuaStorage {
        LuaStorage::new(store, Arc::clone(&self.inbox), self.number)
    }

    /// Adds or removes the name of a handler.
    pub fn set_handler(&self, name: &str, exists: bool) {
        self.plane.set_handler(name, exists);
    }

    /// Whether the program polls often enough for its handlers.
    pub fn is_ready(&self) -> bool {
        self.plane.is_ready()
    }

    /// Starts calls in the background, which end with the node; `label` names them in errors.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn start<F: Future<Output = CallResult> + Send + 'static>(
        &self,
        label: &str,
        calls: impl FnOnce(Arc<DataPlane>) -> F,
    ) -> Result<Job<CallResult>, Error> {
        let (calls, stopped) = (calls(Arc::clone(&self.plane)), self.closed());
        let error = closed(label, "the node was stopped");
        let result = async move {
            tokio::select! {
                result = calls => result,
                () = stopped => Err(error),
            }
        };
        Job::start(&self.executor, stream::once(result))
    }

    /// Ends the handles of its calls, and what waits for [`NodeDataPlane::closed`].
    pub fn close(&self) {
        self.is_closed.send_replace(true);
    }

    /// Completes when the node is closed.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut is_closed = self.is_closed.subscribe();
        async move {
            // An error: it is gone.
            _ = is_closed.wait_for(|is_closed| *is_closed).await;
        }
    }

    /// Runs calls in the background, and serves requests until they are complete; returns None in a
    /// child that was forked meanwhile.
    ///
    /// # Errors
    /// As [`serve`] and [`Job::start`].
    pub fn run<R: Send + 'static, F: Future<Output = R> + Send + 'static>(
        &self,
        lua: &Lua,
        calls: impl FnOnce(Arc<DataPlane>) -> F,
    ) -> Result<Option<R>, Failure> {
        let inbox = Arc::clone(&self.inbox);
        let wake = stream::poll_fn(move |_| {
            inbox.wake();
            Poll::Ready(None)
        });
        let result = stream::once(calls(Arc::clone(&self.plane)));
        let job = Job::start(&self.executor, result.chain(wake))?;
        let clock = self.plane.manual_clock();
        serve(lua, clock, None, usize::MAX, || job.belongs_to_parent() || job.is_ready())?;
        if job.belongs_to_parent() {
            return Ok(None);
        }
        Ok(match job.next()? {
            Poll::Ready(result) => result,
            Poll::Pending => None,
        })
    }
}

impl Drop for NodeDataPlane {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.cancel();
        }
        self.inbox.remove(self.number);
    }
}
