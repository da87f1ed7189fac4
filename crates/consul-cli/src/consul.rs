//! How Consul is reached: arguments, and the environment.

use clap::Args;
use consul_api::error::Error;
use consul_api::value::Value;
use consul_config::Config;
use std::os::unix::ffi::OsStringExt;

/// How Consul is reached. Consul's own environment variables apply, such as CONSUL_HTTP_TOKEN.
#[derive(Args)]
#[command(next_help_heading = "Consul")]
pub struct Consul {
    /// An agent's address, `host:port` or a URL; may be repeated [env: CONSUL_HTTP_ADDR].
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub http_addr: Vec<String>,
    /// The file with the token [env: CONSUL_HTTP_TOKEN_FILE].
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<String>,
    /// The authorities of the agent's certificate [env: CONSUL_CACERT].
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<String>,
    /// The client certificate [env: CONSUL_CLIENT_CERT].
    #[arg(long, global = true, value_name = "FILE")]
    pub client_cert: Option<String>,
    /// Its key [env: CONSUL_CLIENT_KEY].
    #[arg(long, global = true, value_name = "FILE")]
    pub client_key: Option<String>,
    /// The name in the agent's certificate [env: CONSUL_TLS_SERVER_NAME].
    #[arg(long, global = true, value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// The datacenter; by default the agent's.
    #[arg(long, global = true, value_name = "NAME")]
    pub datacenter: Option<String>,
    /// The time limit of each call to Consul, in milliseconds.
    #[arg(long, global = true, value_name = "MS", default_value_t = 5000)]
    pub timeout_ms: u32,
}

impl Consul {
    /// The configuration of a client.
    pub fn config(&self) -> Result<Config, Error> {
        let env = |name: &str| std::env::var_os(name).map(OsStringExt::into_vec);
        let mut config = Config::new(&self.options(), env)?;
        config.endpoints_from = match self.http_addr.is_empty() {
            true => "--http-addr or the environment variable CONSUL_HTTP_ADDR names the address",
            false => "--http-addr names this address",
        }
        .to_owned();
        Ok(config)
    }

    fn options(&self) -> Vec<(String, Value)> {
        let text = |text: &Option<String>| text.as_deref().map(Value::from);
        let addresses = self.http_addr.iter().map(|address| address.as_str().into()).collect();
        named([
            ("endpoints", (!self.http_addr.is_empty()).then_some(Value::List(addresses))),
            ("token_file", text(&self.token_file)),
            ("tls_ca_file", text(&self.ca_file)),
            ("tls_cert_file", text(&self.client_cert)),
            ("tls_key_file", text(&self.client_key)),
            ("tls_server_name", text(&self.tls_server_name)),
            ("datacenter", text(&self.datacenter)),
            ("timeout", Some(u64::from(self.timeout_ms).into())),
        ])
    }
}

/// The options that are given.
pub fn named<const N: usize>(given: [(&str, Option<Value>); N]) -> Vec<(String, Value)> {
    let given = given.into_iter();
    given.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
