//! The services and checks that a client has registered with its agent.

use consul_api::api::agent;
use consul_api::request::Request;
use consul_api::table::Endpoint;
use consul_api::value::Value;
use percent_encoding::percent_decode_str;
use std::collections::BTreeSet;

/// The ids of services and checks. They count from the request on, whatever its outcome.
#[derive(Debug, Default)]
pub struct Registered {
    services: BTreeSet<String>,
    checks: BTreeSet<String>,
}

impl Registered {
    /// Notes what a request registers or deregisters.
    pub fn note(&mut self, request: &Request) {
        let is = |endpoint: &Endpoint| request.endpoint.path == endpoint.path;
        if is(&agent::SERVICE_REGISTER) {
            self.services.extend(defined(request));
        } else if is(&agent::CHECK_REGISTER) {
            self.checks.extend(defined(request));
        } else if is(&agent::SERVICE_DEREGISTER) {
            self.services.remove(&in_path(request));
        } else if is(&agent::CHECK_DEREGISTER) {
            self.checks.remove(&in_path(request));
        }
    }

    /// `{ services, checks }`, lists of ids.
    pub fn shown(&self) -> Value {
        let list = |ids: &BTreeSet<String>| {
            Value::List(ids.iter().map(|id| Value::from(id.as_str())).collect())
        };
        Value::Map(vec![
            ("services".to_owned(), list(&self.services)),
            ("checks".to_owned(), list(&self.checks)),
        ])
    }
}

/// The id in a definition: by default the name.
fn defined(request: &Request) -> Option<String> {
    let definition: serde_json::Value = serde_json::from_slice(request.http.body()).ok()?;
    let id = definition.get("ID").or_else(|| definition.get("Name"))?;
    id.as_str().map(str::to_owned)
}

/// The id that is the last segment of the path.
fn in_path(request: &Request) -> String {
    let id = request.http.uri().path().rsplit('/').next().unwrap_or_default();
    percent_decode_str(id).decode_utf8_lossy().into_owned()
}
