//! The messages from a guarded process to its guard process: one line of JSON each.

use bytes::Bytes;
use consul_client::coordination::ReleaseStep;
use consul_client::transport::Options;
use http::Request;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Deserialize, Serialize)]
pub enum Message {
    /// Asks for a sign of life.
    Ping,
    /// How the client of this number reaches Consul; answered once it is known whether it does.
    Connect(u64, Connection),
    /// A request to send after the death of the process: its number, its client, and itself.
    Defer(u64, u64, DeferredRequest),
    /// Drops the request of this number.
    Cancel(u64),
    /// The client of this number has ended.
    Disconnect(u64),
}

/// How to reach Consul. It can hold secrets, so it has no `Debug`.
#[derive(Clone, Deserialize, Serialize)]
pub struct Connection {
    /// The agents' URLs.
    pub endpoints: Vec<String>,
    /// The file of the token of requests that have none.
    pub token_file: Option<PathBuf>,
    /// The client's HTTP options.
    pub http: Options,
}

/// A request to send after the death of the process. It can hold a token, so it has no `Debug`.
#[derive(Deserialize, Serialize)]
pub struct DeferredRequest {
    pub step: ReleaseStep,
    /// The index of the endpoint that is asked first.
    pub endpoint: usize,
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl DeferredRequest {
    pub fn new(step: ReleaseStep, endpoint: usize, request: &Request<Bytes>) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self {
            step,
            endpoint,
            method: request.method().to_string(),
            target: request.uri().to_string(),
            headers: request
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
                .collect(),
            // JSON, or empty.
            body: text(request.body()),
        }
    }
}

impl Message {
    /// The line, with its line feed.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}
