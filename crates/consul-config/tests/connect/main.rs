//! Clients from a configuration, on sockets of servers within the tests.

mod connections;
mod tls;

use consul_test_support as support;
