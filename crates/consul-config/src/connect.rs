//! A client from a configuration: the only module that knows both real agents and the simulated
//! one.

use crate::{Config, Simulate};
use consul_api::error::Error;
use consul_client::transport::Transport;
use consul_client::transport::event_loop::{LoopClock, LoopTransport};
use consul_client::transport::http::HttpTransport;
use consul_client::transport::token_file::{TokenFile, WithTokenFile};
use consul_client::{Client, Settings};
use consul_guard::{Connection as GuardedConnection, GuardProcess};
use consul_process::clock::{Clock, SystemClock};
use consul_process::{logs, os};
use consul_sim::{self as simulate, SimTransport};
use std::sync::Arc;

/// Makes a client. Nothing is sent yet; the files that the configuration names are read.
///
/// # Errors
/// [`consul_api::error::Kind::Config`] when a URL is not valid, a file cannot be used, or consul-guard
/// is not found.
pub fn connect(config: &Config) -> Result<Client, Error> {
    let connection = match &config.simulate {
        Simulate::No => real(config)?,
        Simulate::ForEndpoints => {
            let mut endpoints = config.endpoints.clone();
            endpoints.sort_unstable();
            simulated(config, &endpoints.join(","))
        }
        Simulate::Named(name) => simulated(config, name),
    };
    config.warnings.iter().for_each(|warning| logs::warn_once(warning.clone()));
    let client = client(config, connection)?;
    match guard(config)? {
        Some(guard) => Ok(client.with_guard(guard)),
        None => Ok(client),
    }
}

/// Makes a client for [`consul_client::transport::event_loop::LoopCall`]s. `None` if an event loop cannot connect to each
/// endpoint: for TLS, a name that has to be looked up, and the simulated agent.
///
/// # Errors
/// As [`connect`].
pub fn connect_in_loop(config: &Config) -> Result<Option<Client>, Error> {
    if config.simulate != Simulate::No {
        return Ok(None);
    }
    let mut transports: Vec<Arc<dyn Transport>> = Vec::new();
    for endpoint in &config.endpoints {
        let Some(transport) = LoopTransport::new(endpoint, &config.http)? else { return Ok(None) };
        transports.push(Arc::new(transport));
    }
    let clock = Arc::new(LoopClock::new(Arc::new(SystemClock::new())));
    client(config, (transports, clock, os::generator())).map(Some)
}

fn client(config: &Config, connection: Connection) -> Result<Client, Error> {
    let (mut transports, clock, rng) = connection;
    let settings = Settings {
        timeout: config.timeout,
        retry_count: config.retry_count,
        defaults: config.defaults.clone(),
    };
    if let Some(path) = &config.token_file {
        let file = TokenFile::open(path, Arc::clone(&clock))?;
        let with_file = |transport| -> Arc<dyn Transport> {
            Arc::new(WithTokenFile { transport, file: Arc::clone(&file) })
        };
        transports = transports.into_iter().map(with_file).collect();
    }
    let client = Client::new(transports, settings, clock, rng);
    Ok(client.with_endpoints_from(config.endpoints_from.clone()))
}

/// The guard process, if configured. A simulated agent needs none: it ends with this process, and
/// all its locks with it.
fn guard(config: &Config) -> Result<Option<Arc<GuardProcess>>, Error> {
    if !config.guard || config.simulate != Simulate::No {
        return Ok(None);
    }
    let connection = GuardedConnection {
        endpoints: config.endpoints.clone(),
        token_file: config.token_file.clone(),
        http: config.http.clone(),
    };
    GuardProcess::new(config.guard_program.as_deref(), connection).map(Some)
}

type Connection = (Vec<Arc<dyn Transport>>, Arc<dyn Clock>, fastrand::Rng);

fn real(config: &Config) -> Result<Connection, Error> {
    let transport = |endpoint: &String| -> Result<Arc<dyn Transport>, Error> {
        Ok(Arc::new(HttpTransport::new(endpoint, &config.http)?))
    };
    let transports = config.endpoints.iter().map(transport).collect::<Result<_, _>>()?;
    Ok((transports, Arc::new(SystemClock::new()), os::generator()))
}

/// A client of a simulated agent uses the clock of that agent and a seed from it, so that the same
/// program produces the same trace.
fn simulated(config: &Config, name: &str) -> Connection {
    let agent = simulate::shared(name);
    let clock = Arc::clone(agent.clock());
    let rng = fastrand::Rng::with_seed(agent.client_seed());
    let transport = SimTransport::new(agent, format!("simulate:{name}"));
    (vec![Arc::new(transport.for_client(&config.client_name))], clock, rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OPTIONS;
    use consul_api::error::Kind;
    use consul_api::value::Value;
    use proptest::prelude::*;

    /// Plausible endpoints, and arbitrary text.
    fn any_endpoint() -> impl Strategy<Value = String> {
        prop_oneof![
            "(http://|HTTP://|unix://|)[a-z0-9.:/@%_-]{0,20}",
            r"(http://|)\[[0-9a-f:]{0,9}\](:[0-9]{0,6})?",
            "\\PC{0,20}",
        ]
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any_endpoint().prop_map(Value::from),
            prop::collection::vec(any::<u8>(), 0..10).prop_map(Value::Bytes),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            any::<f64>().prop_map(Value::Float),
            prop::collection::vec(any_endpoint().prop_map(Value::from), 0..3).prop_map(Value::List),
            Just(Value::Null),
            Just(Value::Foreign("a function")),
        ]
    }

    /// Requires a client, or an error of the kind `config`.
    fn is_made_or_refused(given: &[(String, Value)]) -> Result<(), TestCaseError> {
        let made = Config::new(given, |_| None).and_then(|config| connect(&config));
        if let Err(error) = made {
            prop_assert_eq!(error.kind(), Kind::Config);
            prop_assert!(!error.maybe_applied() && !error.message().is_empty());
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn any_endpoint_makes_a_client_or_is_refused(endpoint in any_endpoint()) {
            is_made_or_refused(&[("endpoint".to_owned(), endpoint.into())])?;
        }

        #[test]
        fn any_values_of_options_make_a_client_or_are_refused(
            given in prop::collection::vec((0..OPTIONS.len(), any_value()), 0..4),
        ) {
            let given = given.into_iter().map(|(place, v)| (OPTIONS[place].name.to_owned(), v));
            is_made_or_refused(&given.collect::<Vec<_>>())?;
        }
    }
}
