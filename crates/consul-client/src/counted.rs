//! The numbers of calls, by the row of their endpoint.

use consul_api as wire;
use consul_api::table::Endpoint;
use consul_process::metrics::{EndpointNumbers, numbers};
use std::sync::LazyLock;

/// The address of each row, sorted: a row is found without hashing its name.
static ROWS: LazyLock<Vec<usize>> = LazyLock::new(|| {
    let mut rows: Vec<_> = wire::endpoints().map(address).collect();
    rows.sort_unstable();
    rows
});

fn address(endpoint: &'static Endpoint) -> usize {
    std::ptr::from_ref(endpoint).addr()
}

/// The numbers of calls with this row. The rows for any path share theirs.
pub(super) fn of(endpoint: &'static Endpoint) -> &'static EndpointNumbers {
    let place = ROWS.binary_search(&address(endpoint)).map_or(0, |place| place + 1);
    numbers().endpoint(place, endpoint.name)
}
