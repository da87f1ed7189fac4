//! The client: calls, watches and views, against servers within the tests.

mod answers;
mod bytes;
mod connections;
mod failover;
mod hostile;
mod http_transport;
mod methods;
mod secrets;
mod service_views;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod view;
mod watch;
