//! Consul's language, with no I/O: the table of endpoints, how a call becomes a request and how an
//! answer becomes a value or an error.

pub mod acl;
pub mod agent;
pub mod catalog;
pub mod config_entry;
pub mod connect;
pub mod coordinate;
pub mod duration;
pub mod emit;
pub mod event;
pub mod health;
pub mod kv;
pub mod operator;
pub mod peering;
pub mod query;
pub mod raw;
pub mod request;
pub mod response;
pub mod session;
pub mod shape;
pub mod status;
pub mod table;
pub mod tape;
pub mod txn;
pub mod value;

use table::Endpoint;

/// The areas of the API: a title and the rows.
pub const AREAS: &[(&str, &[&Endpoint])] = &[
    ("Keys and values", kv::ENDPOINTS),
    ("Transactions", txn::ENDPOINTS),
    ("Sessions", session::ENDPOINTS),
    ("The agent", agent::ENDPOINTS),
    ("The catalog", catalog::ENDPOINTS),
    ("Health", health::ENDPOINTS),
    ("Events", event::ENDPOINTS),
    ("Coordinates", coordinate::ENDPOINTS),
    ("Raft status", status::ENDPOINTS),
    ("Access control", acl::ENDPOINTS),
    ("Prepared queries", query::ENDPOINTS),
    ("Central configuration", config_entry::ENDPOINTS),
    ("The mesh", connect::ENDPOINTS),
    ("Operating the servers", operator::ENDPOINTS),
    ("Peering, partitions, namespaces", peering::ENDPOINTS),
];

/// Every endpoint, area by area.
pub fn endpoints() -> impl Iterator<Item = &'static Endpoint> {
    AREAS.iter().flat_map(|(_, endpoints)| *endpoints).copied()
}

/// The endpoint whose method has this name.
pub fn endpoint(name: &str) -> Option<&'static Endpoint> {
    endpoints().find(|endpoint| endpoint.name == name)
}
