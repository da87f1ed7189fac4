//! The client: makes calls to Consul over one or several transports.

pub mod batch;
mod call;
pub mod coordination;
mod endpoints;
mod settle;
pub mod view;
pub mod watch;

use crate::clock::Clock;
use crate::error::Error;
use crate::sync::lock;
use crate::transport::Transport;
use crate::wire::request::{Args, Defaults, Request};
use crate::wire::response::{Answer, Success};
use crate::wire::table::Endpoint;
use coordination::Guard;
use endpoints::Endpoints;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How a client makes its calls.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The whole time that one call may take, all attempts together; a blocking query gets its
    /// wait in addition.
    pub timeout: Duration,
    /// How many times a call is made again after a failure that may pass, when each endpoint has
    /// been asked once.
    pub retry_count: u32,
    /// What every request says unless the call says otherwise.
    pub defaults: Defaults,
}

/// A client of one Consul, whose endpoints are agents that can stand in for each other.
#[derive(Debug)]
pub struct Client {
    transports: Vec<Arc<dyn Transport>>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    rng: Mutex<fastrand::Rng>,
    /// What is known of the transports' health.
    endpoints: Mutex<Endpoints>,
    guard: Option<Arc<dyn Guard>>,
}

impl Client {
    /// A client over these transports, of which there must be one at least; nothing is sent yet.
    pub fn new(
        transports: Vec<Arc<dyn Transport>>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        rng: fastrand::Rng,
    ) -> Self {
        let endpoints = Mutex::new(Endpoints::new(transports.len()));
        Client { transports, settings, clock, rng: Mutex::new(rng), endpoints, guard: None }
    }

    /// The same client, whose locks and semaphores are entrusted to this guard.
    pub fn with_guard(self, guard: Arc<dyn Guard>) -> Self {
        Client { guard: Some(guard), ..self }
    }

    /// For each endpoint a client that asks it alone.
    pub fn each_endpoint(&self) -> Vec<Client> {
        let only = |transport: &Arc<dyn Transport>| {
            let rng = lock(&self.rng).fork();
            let (settings, clock) = (self.settings.clone(), Arc::clone(&self.clock));
            Client::new(vec![Arc::clone(transport)], settings, clock, rng)
        };
        self.transports.iter().map(only).collect()
    }

    /// How this client makes its calls.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The clock that its timeouts and pauses go by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Makes one call and waits for its outcome.
    ///
    /// # Errors
    /// An unacceptable argument, before anything is sent; then whatever the transport or the
    /// server refused, after the retries that the endpoint allows.
    pub async fn call(&self, endpoint: &'static Endpoint, args: &Args) -> Result<Answer, Error> {
        self.fetch(endpoint, args).await?.answer()
    }

    /// Makes one call and leaves its answer to be read.
    ///
    /// # Errors
    /// As [`Client::call`], but for an answer that cannot be read.
    pub async fn fetch(&self, endpoint: &'static Endpoint, args: &Args) -> Result<Success, Error> {
        self.perform(&self.request(endpoint, args)?).await
    }

    /// Checks a call's arguments and builds its request; nothing is sent yet.
    ///
    /// # Errors
    /// An unacceptable argument.
    pub fn request(&self, endpoint: &'static Endpoint, args: &Args) -> Result<Request, Error> {
        endpoint.request(args, &self.settings.defaults)
    }

    fn guard(&self) -> Option<&Arc<dyn Guard>> {
        self.guard.as_ref()
    }

    fn endpoints(&self) -> MutexGuard<'_, Endpoints> {
        lock(&self.endpoints)
    }

    /// Any number by chance.
    pub(crate) fn random(&self) -> u64 {
        lock(&self.rng).u64(..)
    }

    /// A number from 0 to 1 by chance.
    pub(crate) fn chance(&self) -> f64 {
        lock(&self.rng).f64()
    }
}
