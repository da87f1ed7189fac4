//! Warnings about valid but improbable configurations, with the source of the endpoints.

use super::sources::Sources;
use super::{Config, Simulate};
use std::time::Duration;

/// A shorter timeout is more likely one in seconds than one in milliseconds.
const SHORTEST_LIKELY_TIMEOUT: Duration = Duration::from_millis(50);

impl Config {
    /// Notes where the endpoints come from, and the warnings.
    pub(super) fn explain(&mut self, sources: &Sources<'_>) {
        let origin = match (sources.program_name("endpoints"), sources.name("endpoints")) {
            (Some(option), _) => format!("the option {option} names this address"),
            (None, Some(variable)) => {
                format!("the environment variable {variable} names this address")
            }
            (None, None) => "this is the default address: the option endpoint or the environment \
                             variable CONSUL_HTTP_ADDR names another one"
                .to_owned(),
        };
        self.endpoints_from = format!("{origin}; without a server: simulate = true");
        if self.simulate == Simulate::No {
            self.warnings = self.endpoints.iter().filter_map(|it| unlikely_endpoint(it)).collect();
        }
        if self.timeout < SHORTEST_LIKELY_TIMEOUT {
            let (name, ms) =
                (sources.name("timeout").unwrap_or("timeout"), self.timeout.as_secs_f64() * 1e3);
            self.warnings.push(format!(
                "{name} is {ms} milliseconds, the limit of a whole call; if seconds are meant: {name} = {}",
                ms * 1e3
            ));
        }
    }
}

/// The warning about an endpoint that is valid and probably a mistake.
fn unlikely_endpoint(endpoint: &str) -> Option<String> {
    if let Some(base) = endpoint.strip_suffix("/v1") {
        return Some(format!(
            "the endpoint {endpoint} ends in /v1, with which every path of Consul's API begins: \
             requests go to /v1/v1/…; likely meant: {base}"
        ));
    }
    let uri: http::Uri = endpoint.strip_prefix("http://").and(endpoint.parse().ok())?;
    (uri.port().is_none() && uri.path().len() <= 1).then(|| {
        format!(
            "the endpoint {endpoint} has no port, so requests go to port 80, and Consul's is 8500; \
             likely meant: {endpoint}:8500"
        )
    })
}
