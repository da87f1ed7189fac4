//! A node from start to stop, in the background.

use super::data_plane::NodeDataPlane;
use super::running_store::{Declared, RunningStore, lead};
use super::watchdog::Watched;
use crate::runtime::executor::Executor;
use crate::runtime::job::Job;
use crate::runtime::native::Failure;
use crate::runtime::wait;
use crate::status;
use consul_api::error::{Error, Kind};
use consul_client::Client;
use consul_cluster::nodes::start;
use consul_cluster::observe::report::Overviews;
use consul_cluster::observe::systemd::Systemd;
use consul_cluster::stores::Store;
use consul_cluster::{Cluster, Event, Options, Snapshot};
use consul_config::Config;
use consul_config::connect::connect;
use consul_process::clock::{Clock, WallClock};
use futures_util::FutureExt;
use futures_util::stream;
use mlua::{AnyUserData, Lua};
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// The parts of a node from start to stop.
pub struct RunningNode {
    /// The node itself.
    pub cluster: Arc<Cluster>,
    /// The executor of its background work.
    pub executor: Executor,
    /// Its events for the program.
    pub events: Job<Event>,
    /// Its calls to and from other nodes.
    pub data_plane: NodeDataPlane,
    /// Its stores of replicated shards by name.
    pub stores: RefCell<BTreeMap<String, RunningStore>>,
    /// Its client.
    pub client: Arc<Client>,
    /// Its reports to operators and to other nodes of its cluster.
    overviews: Arc<Overviews>,
    /// None: no stores can be here.
    leader: Option<Job<Infallible>>,
    /// None: systemd is not notified of this node.
    systemd: Option<Arc<Systemd>>,
    to_systemd: OnceCell<Job<Infallible>>,
    watched: Option<Arc<Watched>>,
    start: Job<Progress>,
    end: Job<Error>,
}

/// The progress of a start, for the program.
pub enum Progress {
    /// The node takes part.
    Started,
    /// The start took too long, for this reason.
    TimedOut(String),
    /// The node ended by itself, or cannot start.
    Ended(Error),
}

impl RunningNode {
    /// Starts a node whose handlers belong to this userdata.
    ///
    /// # Errors
    /// As [`connect`], [`Cluster::new`], [`NodeDataPlane::new`] and [`Job::start`].
    pub fn new(
        lua: &Lua,
        userdata: &AnyUserData,
        config: &Config,
        options: &Options,
    ) -> Result<Self, Failure> {
        // Blocking queries have connections of their own, so that they cannot delay a beat.
        let (client, waiting) = (Arc::new(connect(config)?), Arc::new(connect(config)?));
        let (executor, wall_clock) = match client.clock().as_manual() {
            Some(clock) => (Executor::Clock(clock.clone()), WallClock::from_origin(Duration::ZERO)),
            None => (Executor::thread()?, WallClock::machine()),
        };
        let systemd = match options.notify {
            true => Systemd::of_environment(|name| std::env::var_os(name))?,
            false => None,
        };
        let options = Options { wall_clock, ..options.clone() };
        let limit = options.start_timeout;
        let cluster = Cluster::new(Arc::clone(&client), waiting, options)?;
        let mut data_plane = NodeDataPlane::new(lua, Arc::clone(&cluster))?;
        let (starting, running) = (Arc::clone(&cluster), Arc::clone(&cluster));
        let systemd = systemd.map(Arc::new);
        let watched = systemd.as_ref().map(|it| Watched::new(Arc::clone(&data_plane.plane), it));
        let watched = watched.transpose()?;
        let ending = watched.clone();
        let run = async move {
            let why = running.run().await;
            ending.iter().for_each(|node| node.end());
            why
        };
        let run = run.boxed().shared();
        let end = Job::start(&executor, stream::once(run.clone()))?;
        let start = stream::once(async move {
            tokio::select! {
                biased;
                why = run => Progress::Ended(why),
                started = starting.started() => match started {
                    Ok(()) => Progress::Started,
                    Err(why) => Progress::Ended(why),
                },
                why = start::missing_after(&starting, limit) => Progress::TimedOut(why),
            }
        });
        let start = Job::start(&executor, start)?;
        let events = stream::unfold(Some(Arc::clone(&cluster)), |cluster| async move {
            let cluster = cluster?;
            let event = cluster.next_event().await;
            let is_last = matches!(event, Event::Stopped(_));
            Some((event, (!is_last).then_some(cluster)))
        });
        let events = Job::start_bounded(&executor, events)?;
        if !cluster.options().observer {
            data_plane.serve(lua, userdata, &events)?;
        }
        let overviews = Overviews::new(Arc::clone(&cluster), Some(Arc::clone(&data_plane.plane)));
        status::nodes().add(&overviews);
        let is_member = !cluster.options().observer;
        let leader = if is_member { lead(&cluster, &client, &data_plane)? } else { None };
        let to_systemd = OnceCell::new();
        let stores = RefCell::default();
        Ok(RunningNode {
            cluster,
            executor,
            events,
            data_plane,
            stores,
            client,
            overviews,
            leader,
            systemd,
            to_systemd,
            watched,
            start,
            end,
        })
    }

    /// Starts a store.
    ///
    /// # Errors
    /// As [`RunningStore::new`].
    pub fn start_store(&self, declared: &Declared) -> Result<(), Error> {
        let store = RunningStore::new(&self.cluster, &self.client, &self.data_plane, declared)?;
        self.overviews.add_store(&store.store);
        self.stores.borrow_mut().insert(declared.options.name.clone(), store);
        Ok(())
    }

    /// Tells systemd when the node and the stores that were started take part.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn notify(&self) -> Result<(), Error> {
        let Some(systemd) = self.systemd.clone() else { return Ok(()) };
        let node = Arc::clone(&self.overviews);
        let report = async move { systemd.report(&node).await };
        let job = Job::start(&self.executor, stream::once(report))?;
        self.to_systemd.get_or_init(|| job);
        Ok(())
    }

    /// Whether its program polls for requests.
    pub fn is_polled(&self) -> bool {
        self.data_plane.is_ready()
    }

    /// Whether its program polls for requests, and each of its stores does what it has to.
    ///
    /// # Errors
    /// The reason why not.
    pub fn ready(&self) -> Result<(), String> {
        if !self.is_polled() {
            return Err("the program does not poll often enough".to_owned());
        }
        self.overviews.stores_serve()
    }

    /// Ends the stores, and flushes their storages: a restart of the machine takes nothing from them then. Serves the
    /// calls of these storages meanwhile.
    ///
    /// # Errors
    /// As [`NodeDataPlane::run`].
    pub fn close_stores(&self, lua: &Lua, limit: Duration) -> Result<(), Failure> {
        let stores = self.stores.take().into_values().map(|it| Arc::clone(&it.store));
        let stores: Vec<Arc<Store>> = stores.filter(|store| store.has_to_close()).collect();
        if stores.is_empty() {
            return Ok(());
        }
        let clock = self.clock();
        let closed = |_| async move {
            let end = clock.now() + limit;
            for store in stores {
                let closed = tokio::select! {
                    biased;
                    closed = store.close() => closed,
                    () = clock.sleep_until(end) => {
                        Err(Error::new(Kind::Timeout, "the program's storage does not answer"))
                    }
                };
                if let Err(error) = closed {
                    let store = &store.options().name;
                    tracing::warn!(store, %error, "a storage was not flushed before the stop");
                }
            }
        };
        self.data_plane.run(lua, closed).map(|_| ())
    }

    /// The clock of the node.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(self.client.clock())
    }

    /// Waits for the end of the start; None if the background has ended.
    ///
    /// # Errors
    /// As [`wait::for_job`].
    pub fn wait_for_start(&self, lua: &Lua) -> Result<Option<Progress>, Failure> {
        wait::for_job(lua, &self.start, None)?;
        Ok(match self.start.next()? {
            Poll::Ready(progress) => progress,
            Poll::Pending => None,
        })
    }

    /// On a manual clock, runs the work of the node as far as it gets at this moment.
    ///
    /// # Errors
    /// As [`Job::run_pending`].
    pub fn run_pending(&self) -> Result<(), Error> {
        self.end.run_pending()
    }

    /// Whether the node ended by itself.
    pub fn has_ended(&self) -> bool {
        self.end.is_ready()
    }

    /// The node's knowledge of its cluster.
    ///
    /// # Errors
    /// As [`Job::run_pending`].
    pub fn snapshot(&self) -> Result<Arc<Snapshot>, Error> {
        self.run_pending()?;
        Ok(self.cluster.snapshot())
    }

    /// Ends the background work; the returned future leaves the cluster gracefully.
    pub fn end(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        self.data_plane.close();
        self.stores.take();
        self.leader.iter().for_each(Job::cancel);
        self.to_systemd.get().into_iter().for_each(Job::cancel);
        self.watched.iter().for_each(|node| node.end());
        self.start.cancel();
        self.end.cancel();
        self.events.cancel();
        let cluster = Arc::clone(&self.cluster);
        async move { cluster.leave().await }
    }
}
