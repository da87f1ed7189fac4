//! Consul's HTTP API without I/O: the endpoints as rows, arguments to requests, answers to values or
//! errors.
//!
//! ```
//! use consul_api::api::kv;
//! use consul_api::request::{Args, Defaults};
//!
//! let args = Args::new().arg("a b").opt("consistent", true);
//! let request = kv::GET.request(&args, &Defaults::default())?;
//! assert_eq!(request.http.uri(), "/v1/kv/a%20b?consistent");
//! # Ok::<(), consul_api::error::Error>(())
//! ```

pub mod api;
pub mod error;
pub mod request;
pub mod response;
pub mod ring;
pub mod shell;
pub mod table;
pub mod tape;
pub mod value;

use std::collections::HashMap;
use std::sync::LazyLock;
use table::Endpoint;

/// The areas of the API: titles and rows.
pub const AREAS: &[(&str, &[&Endpoint])] = &[
    ("Keys and values", api::kv::ENDPOINTS),
    ("Transactions", api::txn::ENDPOINTS),
    ("Sessions", api::session::ENDPOINTS),
    ("The agent", api::agent::ENDPOINTS),
    ("The catalog", api::catalog::ENDPOINTS),
    ("Health", api::health::ENDPOINTS),
    ("Events", api::event::ENDPOINTS),
    ("Coordinates", api::coordinate::ENDPOINTS),
    ("Raft status", api::status::ENDPOINTS),
    ("Access control", api::acl::ENDPOINTS),
    ("Prepared queries", api::query::ENDPOINTS),
    ("Central configuration", api::config_entry::ENDPOINTS),
    ("The mesh", api::connect::ENDPOINTS),
    ("Operating the servers", api::operator::ENDPOINTS),
    ("Peering, partitions, namespaces", api::peering::ENDPOINTS),
];

/// Every endpoint, area by area.
pub fn endpoints() -> impl Iterator<Item = &'static Endpoint> {
    AREAS.iter().flat_map(|(_, endpoints)| *endpoints).copied()
}

/// The endpoints whose paths begin as this one does, up to the first name after `/v1/`.
fn near(path: &str) -> impl Iterator<Item = &'static Endpoint> {
    type ByName = HashMap<&'static str, Vec<&'static Endpoint>>;
    static NEAR: LazyLock<ByName> = LazyLock::new(|| {
        let mut near = ByName::new();
        endpoints().for_each(|it| near.entry(area(it.path)).or_default().push(it));
        near
    });
    NEAR.get(area(path)).into_iter().flatten().copied()
}

fn area(path: &str) -> &str {
    path.split('/').nth(2).unwrap_or_default()
}

/// Whether an answer from this path can hold a secret: as the rows with this path say, and true if there
/// is none. The path has no query.
pub fn is_secret(path: &str) -> bool {
    let mut there = near(path).filter(|endpoint| endpoint.is_at(path)).peekable();
    there.peek().is_none() || there.any(|endpoint| endpoint.secret)
}

/// The endpoint of a request to any path; `None`: none has this path, or a parameter of the query asks for an answer of
/// another form.
pub fn endpoint_at(method: &http::Method, uri: &http::Uri) -> Option<&'static Endpoint> {
    let names = || {
        let pairs = uri.query().unwrap_or_default().split('&');
        pairs.filter_map(|pair| pair.split('=').next())
    };
    if names().any(|name| ["raw", "format", "pem"].contains(&name)) {
        return None;
    }
    let is_it = |endpoint: &&Endpoint| {
        let fixed = endpoint.fixed_query;
        *method == http::Method::from(endpoint.method)
            && endpoint.is_at(uri.path())
            && (fixed.is_empty() || names().any(|name| name == fixed))
    };
    // `/v1/acl/token/self` does not name a token, and of a key's rows that of the query is meant.
    let literal = |path: &str| path.split('/').filter(|it| !it.starts_with('{')).count();
    let order = |fixed: &str| ["", "recurse", "keys"].iter().position(|it| *it == fixed);
    near(uri.path()).filter(is_it).max_by_key(|it| (order(it.fixed_query), literal(it.path)))
}

/// The endpoint of the method with this name.
pub fn endpoint(name: &str) -> Option<&'static Endpoint> {
    static BY_NAME: LazyLock<HashMap<&str, &Endpoint>> =
        LazyLock::new(|| endpoints().map(|endpoint| (endpoint.name, endpoint)).collect());
    BY_NAME.get(name).copied()
}
