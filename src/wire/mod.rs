//! Consul's language, with no I/O: the table of endpoints, how a call becomes a request and how an
//! answer becomes a value or an error.

pub mod acl;
pub mod agent;
pub mod catalog;
pub mod config_entry;
pub mod connect;
pub mod coordinate;
pub mod duration;
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
pub mod txn;
pub mod value;

use table::Endpoint;

/// Every endpoint, area by area.
pub fn endpoints() -> impl Iterator<Item = &'static Endpoint> {
    [
        kv::ENDPOINTS,
        txn::ENDPOINTS,
        session::ENDPOINTS,
        agent::ENDPOINTS,
        catalog::ENDPOINTS,
        health::ENDPOINTS,
        event::ENDPOINTS,
        coordinate::ENDPOINTS,
        status::ENDPOINTS,
        acl::ENDPOINTS,
        query::ENDPOINTS,
        config_entry::ENDPOINTS,
        connect::ENDPOINTS,
        operator::ENDPOINTS,
        peering::ENDPOINTS,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// The endpoint whose method has this name.
pub fn endpoint(name: &str) -> Option<&'static Endpoint> {
    endpoints().find(|endpoint| endpoint.name == name)
}
