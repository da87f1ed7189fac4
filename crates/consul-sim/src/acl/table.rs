//! The configuration of access control, and the stored tokens, policies and roles.

use super::login::table as logins;
use super::policy::{Level, Resource, Rules};
use super::templates::Templated;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The prefix of ids that users must not choose.
pub(super) const RESERVED: &str = "00000000-0000-0000-0000-0000000000";

/// The ACL configuration of an agent.
///
/// Source: `acl` in Consul's agent configuration reference.
#[derive(Clone, Debug, Default)]
pub struct Acl {
    /// Whether tokens are looked at.
    pub enabled: bool,
    /// The rights of a token where no rule of its policies applies.
    pub default_policy: DefaultPolicy,
    /// Whether reading keys by prefix requires the access `list` to the prefix.
    pub enable_key_list_policy: bool,
    /// The secret of a management token that exists from the start, a UUID.
    pub initial_management: Option<Secret>,
    /// The secret of the token of requests without one; by default the anonymous token.
    pub default_token: Option<Secret>,
    /// The secret of the token with which the agent writes its node and removes its entries from the catalog; by default that
    /// of requests without one.
    pub agent_token: Option<Secret>,
    /// The secret of the token with which the agent registers the services and checks of its files; by default that of
    /// requests without one.
    pub registration_token: Option<Secret>,
    /// The secret of a token that may always change the agent, and read all nodes.
    pub recovery_token: Option<Secret>,
    /// The secret of the token of DNS; by default that of requests without one.
    pub dns_token: Option<Secret>,
}

/// The rights of a token where no rule of its policies applies.
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
pub struct Secret(pub(super) String);

impl Secret {
    /// Whether this is true of its text.
    pub(crate) fn holds(&self, is_true: impl FnOnce(&str) -> bool) -> bool {
        is_true(&self.0)
    }

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

/// One policy.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(super) struct Policy {
    pub id: String,
    pub name: String,
    pub description: String,
    /// The rules as given.
    pub text: String,
    #[serde(skip)]
    pub rules: Rules,
    /// Where the policy applies; `None`: everywhere.
    pub datacenters: Option<Vec<String>>,
    pub create_index: u64,
    pub modify_index: u64,
}

/// Permissions that several tokens have in common.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(super) struct Role {
    pub id: String,
    pub name: String,
    pub description: String,
    /// The ids of its policies.
    pub policies: Vec<String>,
    pub services: Vec<ServiceIdentity>,
    pub nodes: Vec<NodeIdentity>,
    #[serde(default)]
    pub templates: Vec<Templated>,
    pub create_index: u64,
    pub modify_index: u64,
}

/// One token.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(super) struct Token {
    pub accessor: String,
    pub secret: Secret,
    pub description: String,
    /// The ids of its policies.
    pub policies: Vec<String>,
    /// The ids of its roles.
    pub roles: Vec<String>,
    pub services: Vec<ServiceIdentity>,
    pub nodes: Vec<NodeIdentity>,
    #[serde(default)]
    pub templates: Vec<Templated>,
    pub local: bool,
    /// The auth method of the login that created it.
    pub method: Option<String>,
    /// In RFC 3339.
    pub created: String,
    /// As the time since 1970.
    pub expires: Option<Duration>,
    pub create_index: u64,
    pub modify_index: u64,
}

/// A service that a token may act as.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(super) struct ServiceIdentity {
    pub name: String,
    pub datacenters: Option<Vec<String>>,
}

/// A node that a token may act as.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
pub(super) struct NodeIdentity {
    pub name: String,
    pub datacenter: String,
}

/// All tokens, policies and roles.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(crate) struct AclTable {
    #[serde(skip)]
    pub config: Acl,
    /// By secret, the order of lists.
    pub(super) tokens: BTreeMap<Secret, Token>,
    pub(super) tokens_newest: u64,
    /// By id.
    pub(super) policies: BTreeMap<String, Policy>,
    pub(super) policies_newest: u64,
    /// By id.
    pub(super) roles: BTreeMap<String, Role>,
    pub(super) roles_newest: u64,
    pub(super) logins: logins::Table,
    /// The index of the first management token, after which bootstrapping is refused.
    pub(super) bootstrapped: Option<u64>,
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
            logins: logins::Table::default(),
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

    pub(super) fn token_of(&self, accessor: &str) -> Option<&Token> {
        self.tokens.values().find(|token| token.accessor == accessor)
    }

    pub(super) fn policy_named(&self, name: &str) -> Option<&Policy> {
        self.policies.values().find(|policy| policy.name.eq_ignore_ascii_case(name))
    }

    pub(super) fn role_named(&self, name: &str) -> Option<&Role> {
        self.roles.values().find(|role| role.name.eq_ignore_ascii_case(name))
    }

    pub(super) fn roles_of(&self, token: &Token) -> impl Iterator<Item = &Role> {
        token.roles.iter().filter_map(|id| self.roles.get(id))
    }

    /// The policies of a token and of its roles.
    pub(super) fn policies_of(&self, token: &Token) -> Vec<&Policy> {
        let ids = token.policies.iter().chain(self.roles_of(token).flat_map(|role| &role.policies));
        let mut seen: Vec<&Policy> = Vec::new();
        for policy in ids.filter_map(|id| self.policies.get(id)) {
            if !seen.iter().any(|known| known.id == policy.id) {
                seen.push(policy);
            }
        }
        seen
    }

    /// The policies that identities and templates of a token and of its roles stand for.
    pub(super) fn synthetic_of(&self, token: &Token) -> impl Iterator<Item = Policy> {
        let own = (&token.services, &token.nodes, &token.templates);
        let of_roles =
            self.roles_of(token).map(|role| (&role.services, &role.nodes, &role.templates));
        let (mut identities, mut templated) = (BTreeMap::new(), BTreeMap::new());
        for (services, nodes, templates) in std::iter::once(own).chain(of_roles) {
            let services = services.iter().map(|one| {
                let datacenters = one.datacenters.clone().unwrap_or_default();
                Templated::of("builtin/service", &one.name, datacenters)
            });
            let nodes = nodes
                .iter()
                .map(|one| Templated::of("builtin/node", &one.name, vec![one.datacenter.clone()]));
            // The last one of those with the same rules counts.
            let keyed = |policy: Policy| (policy.id.clone(), policy);
            let of_identities = services.chain(nodes).filter_map(|one| one.synthetic());
            identities.extend(of_identities.map(keyed));
            templated.extend(templates.iter().filter_map(Templated::synthetic).map(keyed));
        }
        identities.into_values().chain(templated.into_values())
    }

    /// The rules of the token's policies, roles and identities.
    pub(super) fn rules_of(&self, token: &Token, datacenter: &str) -> Rules {
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
        let templates = self.roles_of(token).flat_map(|role| &role.templates);
        for template in token.templates.iter().chain(templates) {
            let names = &template.datacenters;
            if names.is_empty() || names.iter().any(|name| name == datacenter) {
                rules.add_all(&template.rules());
            }
        }
        rules
    }
}
