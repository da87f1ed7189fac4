//! From a configuration to a client: the one place that knows both a real agent and the simulated
//! one.

use crate::client::{Client, Settings};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Simulate};
use crate::error::Error;
use crate::simulate::{self, SimTransport};
use crate::transport::Transport;
use crate::transport::http::HttpTransport;
use crate::transport::token_file::{TokenFile, WithTokenFile};
use std::sync::Arc;

/// A client with this configuration. Nothing is sent yet; the files that it names are read.
///
/// # Errors
/// [`crate::error::Kind::Config`] when a transport cannot be made or a file cannot be used.
pub fn connect(config: &Config) -> Result<Client, Error> {
    let settings = Settings {
        timeout: config.timeout,
        retry_count: config.retry_count,
        defaults: config.defaults.clone(),
    };
    let (mut transports, clock, rng) = match &config.simulate {
        Simulate::No => real(config)?,
        Simulate::ForEndpoints => {
            let mut endpoints = config.endpoints.clone();
            endpoints.sort();
            simulated(config, &endpoints.join(","))
        }
        Simulate::Named(name) => simulated(config, name),
    };
    if let Some(path) = &config.token_file {
        let file = TokenFile::open(path, Arc::clone(&clock))?;
        let with_file = |transport| -> Arc<dyn Transport> {
            Arc::new(WithTokenFile { transport, file: Arc::clone(&file) })
        };
        transports = transports.into_iter().map(with_file).collect();
    }
    Ok(Client::new(transports, settings, clock, rng))
}

type Connection = (Vec<Arc<dyn Transport>>, Arc<dyn Clock>, fastrand::Rng);

fn real(config: &Config) -> Result<Connection, Error> {
    let transport = |endpoint: &String| -> Result<Arc<dyn Transport>, Error> {
        Ok(Arc::new(HttpTransport::new(endpoint, &config.http)?))
    };
    let transports = config.endpoints.iter().map(transport).collect::<Result<_, _>>()?;
    Ok((transports, Arc::new(SystemClock::new()), fastrand::Rng::new()))
}

/// A client of a simulated agent goes by that agent's clock and seed, so that the same program
/// gives the same trace.
fn simulated(config: &Config, name: &str) -> Connection {
    let agent = simulate::shared(name);
    let clock = Arc::clone(agent.clock());
    let rng = fastrand::Rng::with_seed(agent.seed());
    let transport = SimTransport::new(agent, format!("simulate:{name}"));
    (vec![Arc::new(transport.for_client(&config.client_name))], clock, rng)
}
