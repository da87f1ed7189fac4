//! Access control: tokens, policies, permissions.

mod authorize;
mod bootstrap;
mod login;
mod own_access;
mod policies;
mod policy;
mod roles;
mod token_body;
mod token_view;
mod tokens;

pub(super) use authorize::Authority;
pub(super) use policy::{Access, Resource};

use super::http::handler::Route;
use super::http::reply::Refusal;
use super::http::request::Call;
use super::store::State;
use super::store::timer::Timer;
use super::store::watch::Topic;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::StatusCode;
use policy::{Level, Rules};
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

pub(super) fn routes() -> impl Iterator<Item = &'static Route> {
    policies::ROUTES
        .iter()
        .chain(roles::ROUTES)
        .chain(tokens::ROUTES)
        .chain(bootstrap::ROUTES)
        .chain(own_access::ROUTES)
        .chain(login::routes())
}

/// The ACL configuration of an agent.
///
/// Source: `acl` in Consul's agent configuration reference.
#[derive(Clone, Debug, Default)]
pub struct Acl {
    /// Whether tokens are looked at.
    pub enabled: bool,
    /// What a token may do that no rule of its policies speaks of.
    pub default_policy: DefaultPolicy,
    /// Whether reading keys by prefix requires the access `list` to the prefix.
    pub enable_key_list_policy: bool,
    /// The secret of a management token that exists from the start, a UUID.
    pub initial_management: Option<Secret>,
    /// The secret of the token of requests without one; by default the anonymous token.
    pub default_token: Option<Secret>,
    /// The secret of the token of DNS; by default that of requests without one.
    pub dns_token: Option<Secret>,
}

/// What a token may do that no rule of its policies speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefaultPolicy {
    /// Everything except reading and writing tokens and policies.
    #[default]
    Allow,
    /// Nothing.
    Deny,
}

/// A token's secret, which `Debug` hides.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
pub struct Secret(String);

impl Secret {
    /// A secret of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// The ids of the built-in policies and token.
const GLOBAL_MANAGEMENT: &str = "00000000-0000-0000-0000-000000000001";
const GLOBAL_READ_ONLY: &str = "00000000-0000-0000-0000-000000000002";
const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";

/// The anonymous token's secret, the only one that is not a UUID.
const ANONYMOUS_SECRET: &str = "anonymous";

/// The prefix of ids that users must not choose.
const RESERVED: &str = "00000000-0000-0000-0000-0000000000";

/// One policy.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
struct Policy {
    id: String,
    name: String,
    description: String,
    /// The rules as given.
    text: String,
    #[serde(skip)]
    rules: Rules,
    /// Where the policy applies; `None`: everywhere.
    datacenters: Option<Vec<String>>,
    create_index: u64,
    modify_index: u64,
}

/// Permissions that several tokens have in common.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
struct Role {
    id: String,
    name: String,
    description: String,
    /// The ids of its policies.
    policies: Vec<String>,
    services: Vec<ServiceIdentity>,
    nodes: Vec<NodeIdentity>,
    create_index: u64,
    modify_index: u64,
}

/// One token.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
struct Token {
    accessor: String,
    secret: Secret,
    description: String,
    /// The ids of its policies.
    policies: Vec<String>,
    /// The ids of its roles.
    roles: Vec<String>,
    services: Vec<ServiceIdentity>,
    nodes: Vec<NodeIdentity>,
    local: bool,
    /// The auth method of the login that created it.
    method: Option<String>,
    /// In RFC 3339.
    created: String,
    /// As the time since 1970.
    expires: Option<Duration>,
    create_index: u64,
    modify_index: u64,
}

/// A service that a token may act as.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
struct ServiceIdentity {
    name: String,
    datacenters: Option<Vec<String>>,
}

/// A node that a token may act as.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
struct NodeIdentity {
    name: String,
    datacenter: String,
}

/// All tokens, policies and roles.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(super) struct AclTable {
    #[serde(skip)]
    pub config: Acl,
    /// By secret, the order of lists.
    tokens: BTreeMap<Secret, Token>,
    tokens_newest: u64,
    /// By id.
    policies: BTreeMap<String, Policy>,
    policies_newest: u64,
    /// By id.
    roles: BTreeMap<String, Role>,
    roles_newest: u64,
    logins: login::Table,
    /// The index of the first management token, after which bootstrapping is refused.
    bootstrapped: Option<u64>,
}

impl AclTable {
    /// An empty table.
    pub fn new(config: Acl) -> Self {
        Self {
            config,
            tokens: BTreeMap::new(),
            tokens_newest: 0,
            policies: BTreeMap::new(),
            policies_newest: 0,
            roles: BTreeMap::new(),
            roles_newest: 0,
            logins: login::Table::default(),
            bootstrapped: None,
        }
    }

    /// Whether tokens are looked at.
    pub fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// The default policy; allow if ACLs are off.
    pub fn default_policy(&self) -> DefaultPolicy {
        if self.config.enabled { self.config.default_policy } else { DefaultPolicy::Allow }
    }

    /// Reads again what a snapshot has as text alone.
    pub fn complete(&mut self) -> Result<(), String> {
        for policy in self.policies.values_mut() {
            policy.rules = Rules::parse(&policy.text)?;
        }
        self.logins.complete()
    }

    fn token_of(&self, accessor: &str) -> Option<&Token> {
        self.tokens.values().find(|token| token.accessor == accessor)
    }

    fn policy_named(&self, name: &str) -> Option<&Policy> {
        self.policies.values().find(|policy| policy.name.eq_ignore_ascii_case(name))
    }

    fn role_named(&self, name: &str) -> Option<&Role> {
        self.roles.values().find(|role| role.name.eq_ignore_ascii_case(name))
    }

    fn roles_of(&self, token: &Token) -> impl Iterator<Item = &Role> {
        token.roles.iter().filter_map(|id| self.roles.get(id))
    }

    /// The policies of a token, those of its roles included.
    fn policies_of(&self, token: &Token) -> Vec<&Policy> {
        let ids = token.policies.iter().chain(self.roles_of(token).flat_map(|role| &role.policies));
        let mut seen: Vec<&Policy> = Vec::new();
        for policy in ids.filter_map(|id| self.policies.get(id)) {
            if !seen.iter().any(|known| known.id == policy.id) {
                seen.push(policy);
            }
        }
        seen
    }

    /// The rules of the token's policies, roles and identities.
    fn rules_of(&self, token: &Token, datacenter: &str) -> Rules {
        let mut rules = Rules::default();
        let is_here = |datacenters: &Option<Vec<String>>| {
            let names = datacenters.as_deref().unwrap_or_default();
            names.is_empty() || names.iter().any(|name| name == datacenter)
        };
        for policy in self.policies_of(token) {
            if is_here(&policy.datacenters) {
                rules.add_all(&policy.rules);
            }
        }
        // Source: "Service identities" and "Node identities" in Consul's documentation of ACLs.
        let services = self.roles_of(token).flat_map(|role| &role.services);
        let services = token.services.iter().chain(services);
        for service in services.filter(|service| is_here(&service.datacenters)) {
            let proxy = format!("{}-sidecar-proxy", service.name);
            rules.add_service(false, &service.name, Level::Write, None);
            rules.add_service(false, &proxy, Level::Write, None);
            rules.add_service(true, "", Level::Read, None);
            rules.add(Resource::Node, true, "", Level::Read);
        }
        let nodes = self.roles_of(token).flat_map(|role| &role.nodes);
        for node in token.nodes.iter().chain(nodes).filter(|node| node.datacenter == datacenter) {
            rules.add(Resource::Node, false, &node.name, Level::Write);
            rules.add_service(true, "", Level::Read, None);
        }
        rules
    }
}

impl State {
    /// Adds the built-in policies and tokens, if ACLs are on.
    pub fn start_acl(&mut self) {
        if !self.acl.is_enabled() {
            return;
        }
        policies::add_builtin(self);
        if let Some(secret) = self.acl.config.initial_management.clone() {
            bootstrap::add_management(self, secret, "Initial Management Token");
        }
        bootstrap::add_anonymous(self);
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

    /// Replaces the tokens, policies and roles; the configuration stays.
    pub fn restore_acl(&mut self, table: AclTable) {
        let config = std::mem::take(&mut self.acl.config);
        self.acl = AclTable { config, ..table };
        let expiring = self.acl.tokens.values().filter_map(|token| {
            let left = token.expires?.saturating_sub(self.since_1970());
            Some((left, token.accessor.clone()))
        });
        for (left, accessor) in expiring.collect::<Vec<_>>() {
            self.timers.set(self.now + left, Timer::TokenExpires(accessor));
        }
    }

    /// Deletes a token; false if it does not exist.
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

/// Refuses ACL endpoints if ACLs are off.
pub(super) fn check_enabled(enabled: bool, call: &Call) -> Result<(), Refusal> {
    if enabled || !call.endpoint.needs_acl {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::UNAUTHORIZED, "ACL support disabled"))
}

/// A hash of a token or policy, whose only meaning is whether it changes. As in Consul, it is one of its
/// texts in a row, so that a service's identity may have the hash of a node's.
pub(super) fn content_hash<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let content: String = texts.collect();
    let part = |part: u8| {
        let mut hasher = DefaultHasher::new();
        (part, &content).hash(&mut hasher);
        hasher.finish().to_be_bytes()
    };
    BASE64.encode([part(0), part(1), part(2), part(3)].concat())
}

/// The texts of identities in their hash.
fn identity_texts<'a>(
    services: &'a [ServiceIdentity],
    nodes: &'a [NodeIdentity],
) -> impl Iterator<Item = &'a str> {
    let of_service = |service: &'a ServiceIdentity| {
        std::iter::once(&service.name).chain(service.datacenters.iter().flatten())
    };
    let of_node = |node: &'a NodeIdentity| [&node.name, &node.datacenter];
    let texts = services.iter().flat_map(of_service).chain(nodes.iter().flat_map(of_node));
    texts.map(String::as_str)
}

pub(super) fn is_uuid(text: &str) -> bool {
    let lengths: Vec<_> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// Refuses an id of the table that its index cannot look up.
fn check_lookup(table: &str, id: &str) -> Result<(), Refusal> {
    // Two implementations of such an index, with texts of their own.
    check_index(table, id, if table == "token" { "invalid" } else { "Invalid" })
}

fn check_index(table: &str, id: &str, invalid: &str) -> Result<(), Refusal> {
    let why = if id.len() != 36 {
        "UUID must be 36 characters".to_owned()
    } else {
        match id.chars().find(|c| *c != '-' && !c.is_ascii_hexdigit()) {
            None => return Ok(()),
            Some(c) => {
                format!("{invalid} UUID: encoding/hex: invalid byte: U+{:04X} '{c}'", u32::from(c))
            }
        }
    };
    Err(Refusal::server(format!("failed acl {table} lookup: index error: {why}")))
}

/// Refuses a caller who may not delete; to one whose token is unknown, so is everything else.
fn check_delete(state: &State, call: &Call, what: &str) -> Result<(), Refusal> {
    let authority = state.authority(call);
    let unknown = |_| Refusal::unknown(format!("Cannot find {what} to delete"));
    authority.known().map_err(unknown)?;
    authority.check(Resource::Acl, "", Access::Write)
}

#[cfg(test)]
mod tests;
