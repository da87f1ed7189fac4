//! A simulated agent on a socket.

use consul_sim::acl::{Acl, DefaultPolicy, Secret};
use consul_sim::http::listen::Listener;
use consul_sim::http::serve::serve;
pub use consul_sim::{Agent, Fault, Options};
use std::sync::Arc;
use std::thread;
use tokio::runtime::Builder;

/// The management token of an agent with ACLs.
pub const MANAGEMENT: &str = "6a1253d2-1785-24fd-91c2-f8e78c745511";

/// The beginnings of the paths of endpoints that docs/consul-sim.md calls unknown.
pub const UNKNOWN_PATHS: &[&str] = &[
    "/v1/peering",
    "/v1/operator/keyring",
    "/v1/operator/autopilot/configuration",
    "/v1/discovery-chain",
    "/v1/catalog/gateway-services",
    "/v1/health/ingress",
];

/// The options of an agent that denies by default.
pub fn with_acl() -> Options {
    let acl = Acl {
        enabled: true,
        default_policy: DefaultPolicy::Deny,
        initial_management: Some(Secret::new(MANAGEMENT)),
        ..Acl::default()
    };
    Options { acl, ..Options::default() }
}

/// Serves a new agent until the process ends; returns its address.
pub fn serve_agent() -> String {
    served(Options::default()).0
}

/// Serves a new agent with these options until the process ends; returns its address, and the agent.
pub fn served(options: Options) -> (String, Arc<Agent>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    let agent = Arc::new(Agent::new(options));
    let served = Arc::clone(&agent);
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            listener.set_nonblocking(true).expect("a socket can be made so");
            let listener = tokio::net::TcpListener::from_std(listener).expect("within a runtime");
            serve(served, vec![Listener::Tcp(listener)], 200).await
        })
    });
    (address, agent)
}
