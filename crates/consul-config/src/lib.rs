//! The configuration of a client: from the program, else the environment, else the default.
//!
//! ```
//! use consul_config::Config;
//! use consul_api::error::Kind;
//!
//! let from_env = |name: &str| (name == "CONSUL_HTTP_ADDR").then(|| b"10.0.0.1:8500".to_vec());
//! let config = Config::new(&[("timeout".to_owned(), 2000.into())], from_env)?;
//! assert_eq!(config.endpoints, ["http://10.0.0.1:8500"]);
//! assert_eq!(config.timeout.as_secs(), 2);
//! let error = Config::new(&[("timout".to_owned(), 2000.into())], from_env).unwrap_err();
//! assert!(error.message().contains("did you mean \"timeout\""));
//! # Ok::<(), consul_api::error::Error>(())
//! ```

mod cluster;
mod conflicts;
pub mod connect;
mod options;
mod parse;
mod sources;
mod store;
mod takes;
pub mod toml;
mod warnings;

pub use cluster::{CLUSTER_OPTIONS, of_cluster};
pub use options::{Given, OPTIONS, Setting};
pub use parse::{NotAnAddress, url};
pub use sources::option_like;
pub use store::{STORE_OPTIONS, of_store};
pub use takes::Takes;

use consul_api::error::{Error, Kind};
use consul_api::request::Defaults;
use consul_api::value::Value;
use consul_api::value::shape::ValuePath;
use consul_client::transport;
use sources::{Source, Sources, check_names};
use std::path::PathBuf;
use std::time::Duration;
use tracing::level_filters::LevelFilter;

/// A client's configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The agents' URLs: `http://host:port` or `https://host:port`, each with an optional path and
    /// no trailing slash, or `unix:///path`.
    pub endpoints: Vec<String>,
    /// Where the endpoints come from, and what else a program can do, for errors of connections.
    pub endpoints_from: String,
    /// Warnings about probable mistakes, one sentence each.
    pub warnings: Vec<String>,
    /// The whole time that one call may take.
    pub timeout: Duration,
    /// How many times a call is retried after a transient failure, once each endpoint was asked.
    pub retry_count: u32,
    /// Connections, TLS and credentials of real endpoints.
    pub http: transport::Options,
    /// The option `tls`; the schemes in `endpoints` already follow it.
    pub tls: Option<bool>,
    /// The file that holds the token.
    pub token_file: Option<PathBuf>,
    /// Whether a guard process releases the locks of this process when it dies.
    pub guard: bool,
    /// The program of the guard process; by default the one installed with the module.
    pub guard_program: Option<PathBuf>,
    /// Whether a simulated agent takes the place of the endpoints.
    pub simulate: Simulate,
    /// The name by which faults of a simulated agent select this client.
    pub client_name: String,
    /// The lowest level that is logged; None: as before, or WARN.
    pub log_level: Option<LevelFilter>,
    /// Whether lines on standard error are JSON; None: as before, or text.
    pub log_json: Option<bool>,
    /// Whether the program has given a log function; None: as before.
    pub log: Option<Given>,
    /// Options of calls that do not set them.
    pub defaults: Defaults,
}

/// Which simulated agent a client uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Simulate {
    /// None: the client uses the endpoints.
    No,
    /// The one of this process that all clients with the same endpoints share.
    ForEndpoints,
    /// The one of this process with this name.
    Named(String),
}

impl Default for Config {
    fn default() -> Self {
        Config {
            endpoints: vec!["http://127.0.0.1:8500".to_owned()],
            endpoints_from: String::new(),
            warnings: Vec::new(),
            timeout: Duration::from_millis(5000),
            retry_count: 3,
            http: transport::Options::default(),
            tls: None,
            token_file: None,
            guard: false,
            guard_program: None,
            simulate: Simulate::No,
            client_name: String::new(),
            log_level: None,
            log_json: None,
            log: None,
            defaults: Defaults::default(),
        }
    }
}

impl Config {
    /// Takes the options in `given`, those that it omits from the environment, which `env` reads, and
    /// the others from the defaults. An empty environment variable counts as unset.
    ///
    /// # Errors
    /// [`Kind::Config`] for an unknown option, an invalid value or options that contradict each other.
    pub fn new(
        given: &[(String, Value)],
        env: impl Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<Self, Error> {
        let in_config = |error: Error| Error::new(Kind::Config, error.message()).not_sent();
        let mut config = Config::default();
        check_names(given)?;
        let sources = Sources::new(given, env);
        for Source { option, name, value, .. } in sources.iter() {
            option.takes.apply(&mut config, value, &ValuePath::top(name)).map_err(in_config)?;
        }
        config.reconcile(&sources)?;
        config.explain(&sources);
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
