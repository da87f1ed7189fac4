//! Requests for a datacenter that is not there, to each endpoint.

use crate::support::agent::UNKNOWN_PATHS;
use crate::target::{T, behaviours};
use consul_api as wire;
use consul_api::table::{Endpoint, Verb};
use consul_sim::acl::DefaultPolicy;
use http::Method;

behaviours![another_datacenter_is_refused_where_it_is_asked];

/// Endpoints of Consul Enterprise and of more servers, those that end the server or do not end, and certificates of services, which the
/// agent has in its cache or not.
const NOT_ASKED: &[&str] = &[
    "/v1/namespace",
    "/v1/partition",
    "/v1/operator/raft/transfer-leader",
    "/v1/operator/raft/peer",
    "/v1/agent/connect/ca/leaf",
    "/v1/agent/leave",
    "/v1/agent/reload",
    "/v1/agent/monitor",
];

/// Reads of the agent, and of all datacenters.
const READS_OF_THE_AGENT: &[&str] = &[
    "/v1/agent/",
    "/v1/acl/templated-polic",
    "/v1/catalog/datacenters",
    "/v1/coordinate/datacenters",
    "/v1/event/list",
    "/v1/exported-services",
    "/v1/operator/usage",
];

/// Writes to the agent, and those that go to the primary datacenter whatever they ask for.
const WRITES_WITHOUT_DATACENTER: &[&str] = &[
    "/v1/acl/bootstrap",
    "/v1/acl/policy",
    "/v1/acl/role",
    "/v1/acl/templated-policy",
    "/v1/acl/token",
    "/v1/agent/",
    "/v1/catalog/",
    "/v1/config",
    "/v1/connect/intentions",
    "/v1/internal/acl/authorize",
];

const ID: &str = "d7a02a1c-0b0b-4b0b-8b0b-000000000000";

/// A path of an endpoint, with a query that it needs.
fn target(endpoint: &Endpoint, name: &str) -> String {
    let mut path = endpoint.path.to_owned();
    while let Some((start, end)) = path.find('{').zip(path.find('}')) {
        let filled = match &path[start..=end] {
            "{accessor}" | "{policy_id}" | "{role_id}" | "{rule}" | "{session}"
            | "{intention_id}" | "{query}" => ID,
            "{kind}" => "service-defaults",
            "{state}" => "any",
            _ => name,
        };
        path.replace_range(start..=end, filled);
    }
    let query = match endpoint.name {
        "connect_intention_match" => "by=source&name=a",
        "kv_list" | "kv_delete_tree" => "recurse",
        "kv_keys" => "keys",
        _ if endpoint.path.starts_with("/v1/connect/intentions/") => "source=a&destination=b",
        _ => "",
    };
    format!("{path}?dc=nope&{query}")
}

/// A body that the endpoint takes; one of the agent gets none, so that it changes nothing.
fn body(endpoint: &Endpoint, name: &str) -> String {
    let body = match endpoint.name {
        "acl_login" => r#"{"AuthMethod":"x","BearerToken":"y"}"#,
        "acl_policy_create" | "acl_role_create" | "acl_policy_update" | "acl_role_update" => {
            r#"{"Name":"NAME"}"#
        }
        "acl_auth_method_create" | "acl_auth_method_update" => r#"{"Name":"NAME","Type":"jwt"}"#,
        "acl_binding_rule_create" | "acl_binding_rule_update" => {
            r#"{"AuthMethod":"x","BindType":"service","BindName":"x"}"#
        }
        "acl_authorize" => "[]",
        "catalog_register" => r#"{"Node":"NAME","Address":"10.0.0.1"}"#,
        "catalog_deregister" => r#"{"Node":"NAME"}"#,
        "config_write" => r#"{"Kind":"service-defaults","Name":"NAME"}"#,
        "connect_ca_configuration_update" => r#"{"Provider":"consul","Config":{}}"#,
        "connect_intention_upsert" => r#"{"Action":"allow"}"#,
        "connect_intention_create" | "connect_intention_update" => {
            r#"{"SourceName":"a","DestinationName":"NAME","Action":"allow"}"#
        }
        "coordinate_update" => r#"{"Node":"NAME","Coord":{"Vec":[0,0,0,0,0,0,0,0]}}"#,
        "query_create" | "query_update" => r#"{"Name":"NAME","Service":{"Service":"x"}}"#,
        "txn" => r#"[{"KV":{"Verb":"set","Key":"NAME","Value":"MQ=="}}]"#,
        _ if endpoint.path.starts_with("/v1/agent/") => "",
        _ => "{}",
    };
    body.replace("NAME", name)
}

async fn another_datacenter_is_refused_where_it_is_asked(t: T) {
    if t.is_1_8("some endpoints and parameters are others") {
        return;
    }
    let t = t.with_acls(DefaultPolicy::Deny);
    let name = t.name("n").replace('_', "-");
    let begins = |endpoint: &Endpoint, paths: &[&str]| {
        paths.iter().any(|path| endpoint.path.starts_with(path))
    };
    let mut wrong = Vec::new();
    for endpoint in wire::endpoints().filter(|endpoint| endpoint.path.starts_with("/v1/")) {
        if begins(endpoint, UNKNOWN_PATHS) || begins(endpoint, NOT_ASKED) {
            continue;
        }
        let is_read = endpoint.method == Verb::Get;
        let ignored = if is_read { READS_OF_THE_AGENT } else { WRITES_WITHOUT_DATACENTER };
        // The agent asks the server for roots.
        let is_roots = endpoint.path == "/v1/agent/connect/ca/roots";
        let is_refused = is_roots || !begins(endpoint, ignored);
        let method = Method::from(endpoint.method);
        let target = target(endpoint, &name);
        let answer = t.raw_own(method.as_str(), &target, &body(endpoint, &name)).await;
        let found = (answer.status, answer.body.as_str()) == (500, "No path to datacenter");
        if found != is_refused {
            wrong.push(format!("{method} {target}: {} {}", answer.status, answer.body));
        }
    }
    for (method, target, status) in
        [("GET", "/v1/acl/token/self?dc=nope", 500), ("POST", "/v1/acl/logout?dc=nope", 401)]
    {
        let answer = t.anonymous().raw(method, target, "").await;
        if answer.status != status {
            wrong.push(format!("{method} {target}: {} {}", answer.status, answer.body));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for target in [
        format!("/v1/config/service-defaults/{name}"),
        format!("/v1/connect/intentions/exact?source=a&destination={name}"),
        "/v1/connect/intentions/exact?source=a&destination=b".to_owned(),
    ] {
        t.raw_own("DELETE", &target, "").await;
    }
}
