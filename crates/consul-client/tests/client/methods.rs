//! Every method is called once on the simulated agent, which answers it, or it is listed as not
//! simulated, with the reason.

use consul_api as wire;
use consul_api::error::Kind;
use consul_api::request::{Args, Defaults};
use consul_api::table::{Endpoint, Param, Shape};
use consul_api::value::Value;
use consul_client::{Client, Settings};
use consul_process::clock::SystemClock;
use consul_sim::{Agent, Options, SimTransport};
use std::sync::Arc;
use std::time::Duration;

/// The methods that the simulated agent answers as unknown endpoints, and the reasons.
const NOT_SIMULATED: &[(&str, &str)] = &[
    ("partition_", "Consul Enterprise"),
    ("namespace_", "Consul Enterprise"),
    ("peering_", "there is one cluster"),
    ("operator_keyring_", "there is no gossip"),
    ("operator_raft_transfer_leader", "there is one server"),
    ("operator_raft_peer_delete", "there is one server"),
    ("operator_autopilot_configuration", "there is one server"),
    ("discovery_chain", "there are no proxies"),
    ("catalog_gateway_services", "there are no gateways"),
    ("health_ingress", "there are no gateways"),
];

fn is_simulated(endpoint: &Endpoint) -> bool {
    !NOT_SIMULATED.iter().any(|(prefix, _)| endpoint.name.starts_with(prefix))
}

/// A value that the parameter takes.
pub fn sample(param: &Param) -> Value {
    match param.kind {
        Shape::Object(_) | Shape::Free(_) | Shape::Any => Value::Map(Vec::new()),
        Shape::Objects(_) => Value::List(Vec::new()),
        Shape::OneOf(names) => names[0].into(),
        Shape::Bool => true.into(),
        _ => "a".into(),
    }
}

#[test]
fn every_method_is_understood_or_said_not_to_be() {
    let agent = Arc::new(Agent::new(Options::default()));
    let transport = Arc::new(SimTransport::new(agent, "simulated"));
    let settings =
        Settings { timeout: Duration::from_secs(5), retry_count: 0, defaults: Defaults::default() };
    let clock = Arc::new(SystemClock::new());
    let client = Client::new(vec![transport], settings, clock, fastrand::Rng::with_seed(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut wrong = Vec::new();
    for endpoint in wire::endpoints() {
        let required = endpoint.positional.iter().filter(|param| !param.optional);
        let args = required.fold(Args::new(), |args, param| args.arg(sample(param)));
        let outcome = runtime.block_on(client.call(endpoint, &args));
        let kind = outcome.as_ref().err().map(|error| error.kind());
        // 401 is the answer of an agent without access control, which knows the method.
        let status = outcome.as_ref().err().and_then(|error| error.status());
        let understood = kind != Some(Kind::Unsupported) || status == Some(401);
        let refused = status == Some(401);
        if understood != is_simulated(endpoint)
            || refused != (endpoint.needs_acl && is_simulated(endpoint))
            || kind == Some(Kind::Decode)
        {
            wrong.push(format!("{}: {outcome:?}", endpoint.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
