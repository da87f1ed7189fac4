//! From a configuration to a client: the one place that knows both a real agent and the simulated
//! one.

use crate::client::{Client, Settings};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Simulate};
use crate::error::Error;
use crate::simulate;
use crate::transport::Transport;
use crate::transport::http::HttpTransport;
use std::sync::Arc;

/// A client with this configuration. Nothing is sent yet.
///
/// # Errors
/// [`crate::error::Kind::Config`] when a transport cannot be made.
pub fn connect(config: &Config) -> Result<Client, Error> {
    let settings = Settings {
        timeout: config.timeout,
        retry_count: config.retry_count,
        defaults: config.defaults.clone(),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    Ok(Client::new(transports(config)?, settings, clock, fastrand::Rng::new()))
}

fn transports(config: &Config) -> Result<Vec<Arc<dyn Transport>>, Error> {
    match &config.simulate {
        Simulate::No => config
            .endpoints
            .iter()
            .map(|endpoint| {
                let transport = HttpTransport::new(endpoint, config.connect_timeout)?;
                Ok(Arc::new(transport) as Arc<dyn Transport>)
            })
            .collect(),
        Simulate::ForEndpoints => {
            let mut endpoints = config.endpoints.clone();
            endpoints.sort();
            Ok(vec![simulated(&endpoints.join(","))])
        }
        Simulate::Named(name) => Ok(vec![simulated(name)]),
    }
}

fn simulated(name: &str) -> Arc<dyn Transport> {
    Arc::new(simulate::SimTransport::new(simulate::shared(name), format!("simulate:{name}")))
}
