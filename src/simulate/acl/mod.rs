//! Access control: tokens, their policies, and who may do what.

mod authorize;
mod policies;
mod policy;
mod tokens;

pub(super) use authorize::Authority;
pub(super) use policy::{Access, Resource};

use super::DATACENTER;
use super::reply::Refusal;
use super::request::Call;
use super::route::Route;
use super::store::State;
use super::store::watch::Topic;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::StatusCode;
use policy::{Level, Rules};
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

pub(super) fn routes() -> impl Iterator<Item = &'static Route> {
    policies::ROUTES.iter().chain(tokens::ROUTES)
}

/// Access control as an agent is configured.
///
/// Source: `acl` in Consul's agent configuration reference.
#[derive(Clone, Debug, Default)]
pub struct Acl {
    /// Whether tokens are looked at.
    pub enabled: bool,
    /// What a token may do that no rule of its policies speaks of.
    pub default_policy: DefaultPolicy,
    /// Whether reading keys by prefix wants the access `list` to the prefix.
    pub enable_key_list_policy: bool,
    /// The secret of a management token that is there from the start, a UUID.
    pub initial_management: Option<Secret>,
    /// The secret of the token that requests without one have; default: the anonymous token.
    pub default_token: Option<Secret>,
}

/// What a token may do that no rule of its policies speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefaultPolicy {
    /// Everything but to see and change tokens and policies.
    #[default]
    Allow,
    /// Nothing.
    Deny,
}

/// A token's secret, which is never shown by accident.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret(String);

impl Secret {
    /// The secret of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// The ids of what is there from the start.
const GLOBAL_MANAGEMENT: &str = "00000000-0000-0000-0000-000000000001";
const GLOBAL_READ_ONLY: &str = "00000000-0000-0000-0000-000000000002";
const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";

/// The anonymous token's secret, the only one that is no UUID.
const ANONYMOUS_SECRET: &str = "anonymous";

/// What ids of users' own things must not begin with.
const RESERVED: &str = "00000000-0000-0000-0000-0000000000";

/// One policy.
#[derive(Clone, Debug)]
struct Policy {
    id: String,
    name: String,
    description: String,
    /// As they were given.
    text: String,
    rules: Rules,
    /// Where it holds; none: everywhere.
    datacenters: Option<Vec<String>>,
    create_index: u64,
    modify_index: u64,
}

/// One token.
#[derive(Clone, Debug)]
struct Token {
    accessor: String,
    secret: Secret,
    description: String,
    /// The ids of its policies.
    policies: Vec<String>,
    services: Vec<ServiceIdentity>,
    nodes: Vec<NodeIdentity>,
    local: bool,
    /// When it came to be and when it ends, RFC 3339.
    created: String,
    ends: Option<String>,
    create_index: u64,
    modify_index: u64,
}

/// A service that a token may act as.
#[derive(Clone, Debug, Hash)]
struct ServiceIdentity {
    name: String,
    datacenters: Option<Vec<String>>,
}

/// A node that a token may act as.
#[derive(Clone, Debug, Hash)]
struct NodeIdentity {
    name: String,
    datacenter: String,
}

/// All tokens and policies.
#[derive(Debug)]
pub(super) struct AclTable {
    config: Acl,
    /// By secret, the order in which they are listed.
    tokens: BTreeMap<Secret, Token>,
    tokens_newest: u64,
    /// By id.
    policies: BTreeMap<String, Policy>,
    policies_newest: u64,
    /// The index of the first management token, after which there is no other first one.
    bootstrapped: Option<u64>,
}

impl AclTable {
    /// Nothing but how it is configured.
    pub fn new(config: Acl) -> Self {
        Self {
            config,
            tokens: BTreeMap::new(),
            tokens_newest: 0,
            policies: BTreeMap::new(),
            policies_newest: 0,
            bootstrapped: None,
        }
    }

    /// Whether tokens are looked at.
    pub fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    fn token_of(&self, accessor: &str) -> Option<&Token> {
        self.tokens.values().find(|token| token.accessor == accessor)
    }

    fn policy_named(&self, name: &str) -> Option<&Policy> {
        self.policies.values().find(|policy| policy.name == name)
    }

    /// Everything that the token's policies and identities say.
    fn rules_of(&self, token: &Token) -> Rules {
        let mut rules = Rules::default();
        let is_here = |datacenters: &Option<Vec<String>>| {
            datacenters.as_ref().is_none_or(|all| all.iter().any(|name| name == DATACENTER))
        };
        for policy in token.policies.iter().filter_map(|id| self.policies.get(id)) {
            if is_here(&policy.datacenters) {
                rules.add_all(&policy.rules);
            }
        }
        // Source: "Service identities" and "Node identities" in Consul's documentation of ACLs.
        for service in token.services.iter().filter(|service| is_here(&service.datacenters)) {
            let proxy = format!("{}-sidecar-proxy", service.name);
            rules.add(Resource::Service, false, &service.name, Level::Write);
            rules.add(Resource::Service, false, &proxy, Level::Write);
            rules.add(Resource::Service, true, "", Level::Read);
            rules.add(Resource::Node, true, "", Level::Read);
        }
        for node in token.nodes.iter().filter(|node| node.datacenter == DATACENTER) {
            rules.add(Resource::Node, false, &node.name, Level::Write);
            rules.add(Resource::Service, true, "", Level::Read);
        }
        rules
    }
}

impl State {
    /// Puts in what a server with access control has from the start.
    pub fn start_acl(&mut self) {
        if !self.acl.is_enabled() {
            return;
        }
        policies::put_builtin(self);
        if let Some(secret) = self.acl.config.initial_management.clone() {
            tokens::put_management(self, secret, "Initial Management Token");
        }
        tokens::put_anonymous(self);
    }

    fn put_policy(&mut self, policy: Policy) {
        self.acl.policies_newest = policy.modify_index;
        self.acl.policies.insert(policy.id.clone(), policy);
        self.touch(Topic::Policies);
    }

    fn put_token(&mut self, token: Token) {
        self.acl.tokens_newest = token.modify_index;
        self.acl.tokens.insert(token.secret.clone(), token);
        self.touch(Topic::Tokens);
    }

    /// Takes a token out; false when there is none.
    pub fn delete_token(&mut self, accessor: &str) -> bool {
        let Some(secret) = self.acl.token_of(accessor).map(|token| token.secret.clone()) else {
            return false;
        };
        self.acl.tokens_newest = self.next_index();
        self.acl.tokens.remove(&secret);
        self.touch(Topic::Tokens);
        true
    }
}

/// Refuses what is about access control where there is none.
pub(super) fn check_enabled(enabled: bool, call: &Call) -> Result<(), Refusal> {
    let path = call.endpoint.path;
    if enabled || !(path.starts_with("/v1/acl/") || path.starts_with("/v1/agent/token/")) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::UNAUTHORIZED, "ACL support disabled"))
}

/// A hash of what a token or a policy says. Only whether it changes means anything.
fn content_hash(content: &impl Hash) -> String {
    let part = |part: u8| {
        let mut hasher = DefaultHasher::new();
        (part, content).hash(&mut hasher);
        hasher.finish().to_be_bytes()
    };
    BASE64.encode([part(0), part(1), part(2), part(3)].concat())
}

/// Whether it has the form of a UUID.
fn is_uuid(text: &str) -> bool {
    let lengths: Vec<_> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// Refuses an id that cannot be looked up.
fn check_lookup(table: &str, id: &str) -> Result<(), Refusal> {
    if id.len() == 36 {
        return Ok(());
    }
    Err(Refusal::server(format!(
        "failed acl {table} lookup: index error: UUID must be 36 characters"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::testing::{MANAGEMENT, World};
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
        for path in ["acl/tokens", "acl/token/self", "acl/policies?index=5", "acl/policy/xx"] {
            let answer = world.get(path);
            assert_eq!((answer.status(), answer.text()), (401, "ACL support disabled"));
            assert_eq!(answer.header("x-consul-index"), "");
        }
        assert_eq!(world.put("acl/bootstrap", "").status(), 401);
        assert_eq!(world.put("agent/token/default", "{}").status(), 401);
        assert_eq!(world.get("acl/roles").status(), 404);
        assert_eq!(world.send_as("nope", Method::GET, "kv/?keys", "").status(), 200);
    }

    #[test]
    fn the_first_management_token_is_given_once() {
        let acl = Acl { enabled: true, default_policy: DefaultPolicy::Deny, ..Acl::default() };
        let world = World::with(1, acl);
        let secret = "2b778dd9-f5f1-6f29-b4b4-9a5fa948757a";
        assert_eq!(world.put("acl/bootstrap", r#"{"BootstrapSecret":"x"}"#).status(), 500);
        let body = format!("{{\"BootstrapSecret\":\"{secret}\"}}");
        let token = world.put("acl/bootstrap", &body).json();
        assert_eq!((&token["ID"], &token["SecretID"]), (&secret.into(), &secret.into()));
        assert_eq!(token["CreateTime"], "1970-01-01T00:00:00Z");
        let again = world.put("acl/bootstrap", "");
        let index = &token["CreateIndex"];
        let text =
            format!("Permission denied: ACL bootstrap no longer allowed (reset index: {index})");
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
        let bearer = format!("bEARER {MANAGEMENT}");
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
        let secret =
            text(&token(&world, "p", "key_prefix \"\" { policy = \"write\" }")["SecretID"]);
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
        assert_eq!(
            answer.text(),
            "ExpirationTime cannot be less than 1m0s in the future (was 59s)"
        );
        let token = manage(&world, "acl/token", json!({"ExpirationTTL": "60s"}));
        assert_eq!(token["ExpirationTime"], "1970-01-01T00:01:00Z");
        let secret = text(&token["SecretID"]);
        let status = || world.send_as(&secret, Method::GET, "acl/token/self", "").status();
        world.advance(Duration::from_millis(59_999));
        assert_eq!(status(), 200);
        world.advance(Duration::from_millis(1));
        assert_eq!(status(), 403);
    }

    #[test]
    fn a_blocking_query_shows_what_may_be_read_when_it_wakes() {
        let world = World::with_acl();
        let rules = "key_prefix \"a\" { policy = \"read\" } key \"a/2\" { policy = \"deny\" }";
        let token = token(&world, "p", rules);
        let secret = text(&token["SecretID"]);
        let write =
            |path: &str| world.send_as(MANAGEMENT, Method::PUT, path, "x").text().to_owned();
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

    #[test]
    fn listing_keys_can_be_a_right_of_its_own() {
        let acl = Acl {
            enabled: true,
            default_policy: DefaultPolicy::Deny,
            enable_key_list_policy: true,
            initial_management: Some(Secret::new(MANAGEMENT)),
            default_token: None,
        };
        let world = World::with(1, acl);
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
}
