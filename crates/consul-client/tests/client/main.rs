//! The client: calls, watches and views, against servers within the tests.

mod answers;
mod bytes;
mod event_loop;
mod failover;
mod hostile;
mod http_transport;
mod key_names;
mod methods;
#[allow(dead_code)]
#[path = "../../../consul-test-support/src/world.rs"]
mod own_world;
mod secrets;
mod service_views;

/// The common parts of tests, to which this binary adds methods.
mod support {
    pub(crate) use crate::own_world as world;
    pub use consul_test_support::*;
}
mod view;
mod watch;
