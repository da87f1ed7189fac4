//! The numbers of a process, and the metrics that they are shown as.

use super::source::Sources;
use super::table::*;
use super::{Counter, Histogram, Outcomes, Page};
use std::sync::OnceLock;

/// More than Consul has endpoints.
const MAX_ENDPOINTS: usize = 256;

/// The numbers of a process.
pub struct Numbers {
    endpoints: [OnceLock<Box<EndpointNumbers>>; MAX_ENDPOINTS],
    pub(super) sources: Sources,
}

impl Default for Numbers {
    fn default() -> Self {
        Numbers {
            endpoints: [const { OnceLock::new() }; MAX_ENDPOINTS],
            sources: Sources::default(),
        }
    }
}

/// The calls of one of Consul's endpoints.
#[derive(Debug)]
pub struct EndpointNumbers {
    name: &'static str,
    /// The calls that have ended.
    pub requests: Outcomes,
    /// The requests sent for them.
    pub attempts: Counter,
    /// How long they took, unless they waited for a change.
    pub durations: Histogram,
}

impl Numbers {
    /// The numbers of the endpoint with this place in the caller's list and this name.
    pub fn endpoint(&self, place: usize, name: &'static str) -> &EndpointNumbers {
        self.endpoints[place.min(MAX_ENDPOINTS - 1)].get_or_init(|| {
            Box::new(EndpointNumbers {
                name,
                requests: Outcomes::default(),
                attempts: Counter::default(),
                durations: Histogram::default(),
            })
        })
    }

    pub(super) fn write(&self, page: &mut Page) {
        for endpoint in self.endpoints.iter().filter_map(OnceLock::get) {
            endpoint.write(page);
        }
    }
}

impl EndpointNumbers {
    fn write(&self, page: &mut Page) {
        for (outcome, count) in self.requests.counted() {
            page.count(&CLIENT_REQUESTS, &[self.name, outcome], count);
        }
        page.count(&CLIENT_ATTEMPTS, &[self.name], self.attempts.get());
        page.durations(&CLIENT_DURATION, &[self.name], &self.durations);
    }
}
