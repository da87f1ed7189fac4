//! Access control as a whole.

use super::super::control::testing::{MANAGEMENT, World};
use super::*;
use crate::Options;
use http::{Method, Request};
use serde_json::{Value, json};
use std::time::Duration;

fn manage(world: &World, path: &str, body: Value) -> Value {
    let answer = world.send_as(MANAGEMENT, Method::PUT, path, &body.to_string());
    assert_eq!(answer.status(), 200, "{path}: {answer:?}");
    answer.json()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// A new token with these rules.
fn token(world: &World, name: &str, rules: &str) -> Value {
    manage(world, "acl/policy", json!({"Name": name, "Rules": rules}));
    manage(world, "acl/token", json!({"Policies": [{"Name": name}]}))
}

#[test]
fn without_access_control_its_endpoints_are_refused_and_tokens_mean_nothing() {
    let world = World::new();
    for path in
        ["acl/tokens", "acl/token/self", "acl/policies?index=5", "acl/policy/xx", "acl/roles"]
    {
        let answer = world.get(path);
        assert_eq!((answer.status(), answer.text()), (401, "ACL support disabled"));
        assert_eq!(answer.header("x-consul-index"), "");
    }
    assert_eq!(world.put("acl/bootstrap", "").status(), 401);
    assert_eq!(world.put("agent/token/default", "{}").status(), 401);
    assert_eq!(world.get("acl/replication").status(), 401);
    assert_eq!(world.send_as("nope", Method::GET, "kv/?keys", "").status(), 200);
}

#[test]
fn the_first_management_token_is_given_once() {
    let acl = Acl { enabled: true, default_policy: DefaultPolicy::Deny, ..Acl::default() };
    let world = World::with(Options { seed: 1, acl, ..Options::default() });
    let secret = "2b778dd9-f5f1-6f29-b4b4-9a5fa948757a";
    assert_eq!(world.put("acl/bootstrap", r#"{"BootstrapSecret":"x"}"#).status(), 500);
    let body = format!("{{\"BootstrapSecret\":\"{secret}\"}}");
    let token = world.put("acl/bootstrap", &body).json();
    assert_eq!((&token["ID"], &token["SecretID"]), (&secret.into(), &secret.into()));
    assert_eq!(token["CreateTime"], "1970-01-01T00:00:00Z");
    let again = world.put("acl/bootstrap", "");
    let index = &token["CreateIndex"];
    let text = format!("Permission denied: ACL bootstrap no longer allowed (reset index: {index})");
    assert_eq!((again.status(), again.text()), (403, text.as_str()));
    assert_eq!(world.send_as(secret, Method::GET, "acl/tokens", "").status(), 200);
}

#[test]
fn the_query_beats_the_header_which_beats_the_bearer() {
    let world = World::with_acl();
    let ask = |query: &str, header: &str, bearer: &str| {
        let request = Request::get(format!("/v1/kv/?keys&token={query}"))
            .header("x-consul-token", header)
            .header("authorization", bearer);
        world.send(request.body(bytes::Bytes::new()).expect("a request")).status()
    };
    let bearer = format!("bEARER  {MANAGEMENT} ");
    assert_eq!(ask(MANAGEMENT, "nope", "Bearer nope"), 200);
    assert_eq!(ask("", MANAGEMENT, "Bearer nope"), 200);
    assert_eq!(ask("", "", &bearer), 200);
    assert_eq!(ask("nope", MANAGEMENT, &bearer), 403);
    assert_eq!(ask("", "nope", &bearer), 403);
    assert_eq!(ask("", "", "Basic nope"), 200);
}

#[test]
fn requests_without_a_token_have_the_agents_default_one() {
    let world = World::with_acl();
    let secret = text(&token(&world, "p", "key_prefix \"\" { policy = \"write\" }")["SecretID"]);
    assert_eq!(world.put("kv/a", "1").status(), 403);
    let body = json!({"Token": secret}).to_string();
    let path = "agent/token/default";
    assert_eq!(world.put(path, &body).status(), 403);
    assert_eq!(world.send_as(MANAGEMENT, Method::PUT, path, &body).status(), 200);
    assert_eq!(world.put("kv/a", "1").status(), 200);
    let answer = world.send_as(MANAGEMENT, Method::PUT, "agent/token/none", &body);
    assert_eq!((answer.status(), answer.text()), (404, "Token \"none\" is unknown"));
}

#[test]
fn a_token_ends_when_its_time_is_over() {
    let world = World::with_acl();
    let short = json!({"ExpirationTTL": "59s"}).to_string();
    let answer = world.send_as(MANAGEMENT, Method::PUT, "acl/token", &short);
    assert_eq!(answer.text(), "ExpirationTime cannot be less than 1m0s in the future (was 59s)");
    let negative = json!({"ExpirationTTL": "-1h"}).to_string();
    let answer = world.send_as(MANAGEMENT, Method::PUT, "acl/token", &negative);
    assert_eq!(answer.text(), "Token Expiration TTL '-1h0m0s' should be > 0");
    let token = manage(&world, "acl/token", json!({"ExpirationTTL": "60s"}));
    assert_eq!(token["ExpirationTime"], "1970-01-01T00:01:00Z");
    let secret = text(&token["SecretID"]);
    let path = format!("acl/token/{}/clone", text(&token["AccessorID"]));
    let clone = text(&manage(&world, &path, json!({}))["SecretID"]);
    let status = || {
        [&secret, &clone]
            .map(|secret| world.send_as(secret, Method::GET, "acl/token/self", "").status())
    };
    world.advance(Duration::from_millis(59_999));
    assert_eq!(status(), [200, 200]);
    world.advance(Duration::from_millis(1));
    assert_eq!(status(), [403, 403]);
}

#[test]
fn a_blocking_query_shows_what_may_be_read_when_it_wakes() {
    let world = World::with_acl();
    let rules = "key_prefix \"a\" { policy = \"read\" } key \"a/2\" { policy = \"deny\" }";
    let token = token(&world, "p", rules);
    let secret = text(&token["SecretID"]);
    let write = |path: &str| world.send_as(MANAGEMENT, Method::PUT, path, "x").text().to_owned();
    write("kv/a/1");
    write("kv/a/2");
    let index = world.send_as(&secret, Method::GET, "kv/a?keys", "").index();
    let mut watch = world.watch(&format!("kv/a?keys&index={index}&token={secret}"));
    assert!(watch.waits());
    write("kv/a/3");
    let answer = watch.answer().expect("woken");
    assert_eq!(answer.text(), r#"["a/1","a/3"]"#);
    assert_eq!(answer.header("x-consul-results-filtered-by-acls"), "true");
    let mut watch = world.watch(&format!("kv/a?keys&index=9999&token={secret}"));
    assert!(watch.waits());
    let path = format!("acl/token/{}", text(&token["AccessorID"]));
    world.send_as(MANAGEMENT, Method::DELETE, &path, "");
    write("kv/a/4");
    assert_eq!(watch.answer().expect("woken").text(), "ACL not found");
    let mut forbidden = world.watch("kv/b?index=9999");
    assert_eq!(forbidden.answer().expect("at once").status(), 403);
}

/// As 1.21 does it: the stream of a service's instances ends with its token, other queries end after their wait with what
/// the token could read at the last change.
#[test]
fn a_waiting_query_whose_token_is_deleted_ends_as_its_backend_does() {
    let world = World::with_acl();
    let write = |path: &str, body: &str| {
        world.send_as(MANAGEMENT, Method::PUT, path, body);
    };
    write("kv/a", "1");
    write("agent/service/register", r#"{"Name":"web"}"#);
    let rules = "key_prefix \"\" { policy = \"read\" } service_prefix \"\" { policy = \"read\" } \
                 node_prefix \"\" { policy = \"read\" }";
    let paths = [
        "health/service/web",
        "catalog/service/web",
        "catalog/services",
        "health/node/node-1",
        "kv/a",
    ];
    for (number, path) in (0..).zip(paths.into_iter().cycle().take(2 * paths.len())) {
        let token = token(&world, &format!("p{number}"), rules);
        let secret = text(&token["SecretID"]);
        let before = world.send_as(&secret, Method::GET, path, "");
        let index = if number < paths.len() { before.index() } else { 9999 };
        let mut watch = world.watch(&format!("{path}?index={index}&wait=10s&token={secret}"));
        assert!(watch.waits(), "{path}");
        let accessor = format!("acl/token/{}", text(&token["AccessorID"]));
        world.send_as(MANAGEMENT, Method::DELETE, &accessor, "");
        if path.starts_with("health/service") {
            assert_eq!(watch.answer().expect("at once").text(), "ACL not found");
            continue;
        }
        assert!(watch.waits(), "{path}");
        world.advance(Duration::from_secs(11));
        assert_eq!(watch.answer().expect("after the wait").text(), before.text(), "{path}");
    }
}

#[test]
fn listing_keys_can_be_a_right_of_its_own() {
    let acl = Acl {
        enabled: true,
        default_policy: DefaultPolicy::Deny,
        enable_key_list_policy: true,
        initial_management: Some(Secret::new(MANAGEMENT)),
        default_token: None,
        agent_token: None,
        registration_token: None,
        recovery_token: None,
        dns_token: None,
    };
    let world = World::with(Options { seed: 1, acl, ..Options::default() });
    let rules = "key_prefix \"a\" { policy = \"read\" } key_prefix \"b\" { policy = \"list\" }";
    let secret = text(&token(&world, "p", rules)["SecretID"]);
    for (path, status) in [("kv/a?keys", 403), ("kv/a?recurse", 403), ("kv/b?keys", 404)] {
        let answer = world.send_as(&secret, Method::GET, path, "");
        assert_eq!(answer.status(), status, "{path}");
        assert!(status == 404 || answer.text().ends_with("'key:list' on \"a\""));
    }
}

#[test]
fn identities_give_what_a_service_and_a_node_need() {
    let world = World::with_acl();
    let identities = json!({
        "ServiceIdentities": [{"ServiceName": "web"}],
        "NodeIdentities": [{"NodeName": "sim", "Datacenter": "dc1"}],
    });
    let secret = text(&manage(&world, "acl/token", identities)["SecretID"]);
    let put = |path: &str, body: &str| world.send_as(&secret, Method::PUT, path, body).status();
    assert_eq!(put("agent/service/register", r#"{"Name":"web"}"#), 200);
    assert_eq!(put("agent/service/register", r#"{"Name":"web-sidecar-proxy"}"#), 200);
    assert_eq!(put("agent/service/register", r#"{"Name":"db"}"#), 403);
    assert_eq!(put("agent/check/register", r#"{"Name":"c","TTL":"1h"}"#), 200);
    let services = world.send_as(&secret, Method::GET, "catalog/services", "").json();
    assert!(services.get("consul").is_some());
}

#[test]
fn what_is_built_in_cannot_be_changed_and_secrets_are_for_writers() {
    let world = World::with_acl();
    let ask = |method: Method, path: &str, body: Value| {
        let answer = world.send_as(MANAGEMENT, method, path, &body.to_string());
        (answer.status(), answer.text().to_owned())
    };
    let policy = format!("acl/policy/{GLOBAL_MANAGEMENT}");
    assert_eq!(
        ask(Method::DELETE, &policy, json!({})).1,
        "Delete operation not permitted on the builtin global-management policy"
    );
    assert_eq!(
        ask(Method::PUT, &policy, json!({"Name": "global-management", "Rules": ""})).1,
        "Changing the Rules for the builtin global-management policy is not permitted"
    );
    assert_eq!(
        ask(Method::DELETE, &format!("acl/token/{ANONYMOUS}"), json!({})).1,
        "Delete operation not permitted on the anonymous token"
    );
    let secret = text(&token(&world, "p", "acl = \"read\"")["SecretID"]);
    let tokens = world.send_as(&secret, Method::GET, "acl/tokens", "");
    assert!(!tokens.text().contains(MANAGEMENT));
    assert_eq!(tokens.json()[0]["SecretID"], "<hidden>");
}

#[test]
fn no_secret_is_printed() {
    let world = World::with_acl();
    let state = format!("{:?}", world.agent.lock());
    assert!(!state.contains(MANAGEMENT) && state.contains("<hidden>"));
}

#[test]
fn the_mesh_asks_for_rights_on_services_and_shows_its_roots_to_all() {
    let world = World::with_acl();
    assert_eq!(world.send_as("nope", Method::GET, "connect/ca/roots", "").status(), 200);
    let secret = text(&token(&world, "p", "service \"web\" { policy = \"write\" }")["SecretID"]);
    let ask = |target: &str| {
        let uri = "spiffe://x.consul/ns/default/dc/dc1/svc/db";
        let body = json!({"Target": target, "ClientCertURI": uri}).to_string();
        world.send_as(&secret, Method::POST, "agent/connect/authorize", &body)
    };
    assert_eq!(ask("web").json()["Authorized"], false);
    assert_eq!(ask("db").status(), 403);
}

#[test]
fn variables_are_of_templated_policies_alone() {
    const KEY: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEPteYfaTHJ5p9R5Fqx4Oq7/47EnJM\nsKKXDfmSjDhcqlDgowp3lxwc5WJiFbKNNE1xZ4bY/InSATElKjG5Gt8iMA==\n-----END PUBLIC KEY-----";
    let world = World::with_acl();
    let config = json!({"JWTValidationPubKeys": [KEY]});
    manage(&world, "acl/auth-method", json!({"Name": "m", "Type": "jwt", "Config": config}));
    let rule = json!({"AuthMethod": "m", "BindType": "service", "BindName": "a", "BindVars": {"Name": "x"}});
    let answer = world.send_as(MANAGEMENT, Method::PUT, "acl/binding-rule", &rule.to_string());
    assert_eq!(
        answer.text(),
        "invalid Binding Rule: BindVars cannot be set when bind type is not templated-policy."
    );
}
