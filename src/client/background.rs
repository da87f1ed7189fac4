//! A client's work in the background: calls, watches, views, and the workers that keep its locks.

use crate::coordination::worker::CoordinationWorker;
use crate::runtime::closable_job::closed;
use crate::runtime::executor::Executor;
use crate::runtime::handle::{CallResult, IntoValues};
use crate::runtime::job::Job;
use crate::runtime::native::Failure;
use crate::runtime::value;
use consul_api::error::{Error, Kind};
use consul_api::request::Request;
use consul_api::response::Success;
use consul_client::Client;
use consul_client::coordination::Profile;
use consul_config::Config;
use consul_config::connect::connect;
use consul_process::sync::lock;
use futures_util::future::{Either, join_all, select};
use futures_util::stream::{self, Stream, StreamExt, unfold};
use mlua::Lua;
use std::mem;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// A client for background work. It has transports of its own, because a connection belongs to the
/// runtime that created it.
///
/// Only objects of Lua hold it: the drop of the last one ends the workers, so that the end of the Lua state
/// knows of their last work. Jobs hold what they use.
pub struct Background {
    config: Config,
    executor: Executor,
    shared: Arc<Shared>,
    watches: Arc<AtomicUsize>,
    /// One for each profile in use.
    workers: Mutex<Vec<Arc<CoordinationWorker>>>,
}

/// The parts that the jobs use.
struct Shared {
    client: Arc<Client>,
    /// A permit for each call that may be in flight.
    in_flight: Semaphore,
    max_connections: usize,
    is_closed: watch::Sender<bool>,
}

impl Background {
    /// The background of a client with this configuration.
    ///
    /// # Errors
    /// [`Kind::Config`] if the transport or the background thread cannot be created.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let client = Arc::new(connect(config)?);
        let executor = match client.clock().as_manual() {
            Some(clock) => Executor::Clock(clock.clone()),
            None => Executor::thread()?,
        };
        Ok(Background {
            config: config.clone(),
            executor,
            shared: Arc::new(Shared {
                client,
                in_flight: Semaphore::new(config.http.max_connections),
                max_connections: config.http.max_connections,
                is_closed: watch::Sender::new(false),
            }),
            watches: Arc::default(),
            workers: Mutex::default(),
        })
    }

    /// Ends all jobs and releases all locks; waits for a short time.
    pub fn close(&self) {
        self.shared.is_closed.send_replace(true);
        let workers = mem::take(&mut *lock(&self.workers));
        let ends: Vec<_> = workers.iter().filter_map(|worker| worker.end()).collect();
        if !ends.is_empty() {
            self.executor.shut_down(async move { drop(join_all(ends).await) });
        }
        // Handles, watches and views have the client until they are collected.
        self.shared.client.close_connections();
    }

    /// The worker that keeps this client's locks with this profile.
    ///
    /// # Errors
    /// [`Kind::Closed`] if the client is closed, and as [`Background::new`].
    pub fn worker(&self, profile: &Profile) -> Result<Arc<CoordinationWorker>, Error> {
        if *self.shared.is_closed.borrow() {
            return Err(Error::new(Kind::Closed, "the client is closed").not_sent());
        }
        let mut workers = lock(&self.workers);
        if let Some(worker) = workers.iter().find(|worker| worker.profile() == profile) {
            return Ok(Arc::clone(worker));
        }
        // Connections of their own: other calls cannot delay a beat, and waiters delay no other calls.
        let (client, waiting) =
            (Arc::new(connect(&self.config)?), Arc::new(connect(&self.config)?));
        let executor = self.executor.clone();
        let worker = CoordinationWorker::new(client, waiting, profile.clone(), executor)?;
        workers.push(Arc::clone(&worker));
        Ok(worker)
    }

    /// The client whose calls run in the background.
    pub fn client(&self) -> &Arc<Client> {
        &self.shared.client
    }

    /// Starts a bounded job that ends, with an error, when the client is closed. `label` names it in
    /// errors.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn start<T: Send + 'static>(
        &self,
        label: &str,
        results: impl Stream<Item = Result<T, Error>> + Send + 'static,
    ) -> Result<Job<Result<T, Error>>, Error> {
        let shared = Arc::clone(&self.shared);
        let closed = closed(label, "the client was closed");
        let until_closed = unfold(Some(Box::pin(results)), move |results| {
            let (shared, closed) = (Arc::clone(&shared), closed.clone());
            async move {
                let mut results = results?;
                let mut closing = shared.is_closed.subscribe();
                let closing = pin!(closing.wait_for(|is_closed| *is_closed));
                match select(results.next(), closing).await {
                    Either::Left((result, _)) => Some((result?, Some(results))),
                    Either::Right(_) => Some((Err(closed), None)),
                }
            }
        });
        Job::start_bounded(&self.executor, until_closed)
    }

    /// Counts one more watch, until the slot is dropped. A watch occupies a connection, and an agent
    /// limits the connections from one address.
    ///
    /// # Errors
    /// [`Kind::Config`] if `max_connections` watches are open.
    pub fn watch_slot(&self, lua: &Lua, label: &str) -> Result<WatchSlot, Failure> {
        let max_connections = self.shared.max_connections;
        if self.watches.load(Ordering::Relaxed) >= max_connections {
            // Watches that the program dropped have slots until they are collected.
            lua.gc_collect()?;
        }
        let slot = WatchSlot(Arc::clone(&self.watches));
        if self.watches.fetch_add(1, Ordering::Relaxed) < max_connections {
            return Ok(slot);
        }
        let message = format!(
            "{label}: {max_connections} watches of this client are open, which is its max_connections"
        );
        Err(Error::new(Kind::Config, message).not_sent().into())
    }

    /// Starts one call.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn call(&self, request: Request) -> Result<Job<CallResult>, Error> {
        let (shared, label) = (Arc::clone(&self.shared), request.label.clone());
        let result = async move {
            let success = shared.execute(&request).await?;
            let values: IntoValues = Box::new(|lua| value::success(lua, success));
            Ok(values)
        };
        self.start(&label, stream::once(result))
    }
}

impl Shared {
    async fn execute(&self, request: &Request) -> Result<Success, Error> {
        let budget = self.client.budget(request);
        let _permit = match self.in_flight.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                let limit = self.client.clock().sleep(budget);
                match select(pin!(self.in_flight.acquire()), limit).await {
                    Either::Left((Ok(permit), _)) => permit,
                    _ => return Err(self.not_sent_within(budget, request)),
                }
            }
        };
        self.client.execute(request).await
    }

    fn not_sent_within(&self, budget: Duration, request: &Request) -> Error {
        let message = format!(
            "{}: not sent within {} ms: {} other calls of this client are in flight",
            request.label,
            budget.as_millis(),
            self.max_connections
        );
        Error::new(Kind::Timeout, message).not_sent().retryable()
    }
}

/// One of the watches that a client may have open.
pub struct WatchSlot(Arc<AtomicUsize>);

impl Drop for WatchSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
