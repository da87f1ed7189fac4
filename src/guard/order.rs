//! What a process tells its guard: one line of JSON for each order.

use crate::client::coordination::Deed;
use crate::transport::TlsOptions;
use bytes::Bytes;
use http::Request;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One line.
#[derive(Deserialize, Serialize)]
pub enum Order {
    /// The first: how Consul is reached.
    Connect(Connection),
    /// What is to be done when the process is gone, under a number of its own.
    Entrust(u64, Errand),
    /// That what has this number is not to be done any more.
    Withdraw(u64),
}

/// How Consul is reached. It can hold secrets, so it has no `Debug`.
#[derive(Clone, Deserialize, Serialize)]
pub struct Connection {
    /// The agents' URLs.
    pub endpoints: Vec<String>,
    /// The header `Authorization` of every request.
    pub authorization: Option<String>,
    /// The file of the token of requests that have none.
    pub token_file: Option<PathBuf>,
    /// How TLS is done.
    pub tls: TlsOptions,
}

/// A request, and what it is for. It can hold a token, so it has no `Debug`.
#[derive(Deserialize, Serialize)]
pub struct Errand {
    /// What is done by it.
    pub deed: Deed,
    /// The endpoint that is asked first, by its place in the list.
    pub home: usize,
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Errand {
    pub fn new(deed: Deed, home: usize, request: &Request<Bytes>) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self {
            deed,
            home,
            method: request.method().to_string(),
            target: request.uri().to_string(),
            headers: request
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
                .collect(),
            // What Consul is told is JSON, or nothing.
            body: text(request.body()),
        }
    }
}

impl Order {
    /// The line.
    pub fn line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}
