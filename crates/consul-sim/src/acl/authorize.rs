//! Authentication and authorization of callers: the one place that every handler uses.

use super::{ANONYMOUS, ANONYMOUS_SECRET, Access, DefaultPolicy, Level, Resource, Rules, Secret};
use crate::go;
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::catalog::Check;
use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderName};
use std::cell::Cell;

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// The permissions of a caller.
pub(crate) struct Authority {
    caller: Caller,
    key_lists: bool,
    /// Whether the request named a token; without one it has the anonymous token.
    has_token: bool,
    /// Whether entries were filtered for lack of permission.
    filtered: Cell<bool>,
}

enum Caller {
    /// ACLs are off: everything is allowed.
    Unchecked,
    /// The token has the name of one of Consul's own authorities.
    Reserved,
    /// The token does not exist.
    Unknown {
        bootstrapped: bool,
    },
    Known {
        accessor: String,
        rules: Rules,
        default: DefaultPolicy,
    },
}

impl State {
    /// The permissions of the caller at this moment.
    pub fn authority(&self, call: &Call) -> Authority {
        self.authority_by(&|| self.given_secret(call))
    }

    /// The permissions of a token at this moment.
    pub fn authority_of(&self, secret: &Secret) -> Authority {
        self.authority_by(&|| Some(secret.clone()))
    }

    /// The permissions of a token whose secret is only asked for under access control.
    fn authority_by(&self, secret: &dyn Fn() -> Option<Secret>) -> Authority {
        let acl = &self.acl;
        let mut has_token = false;
        let caller = if !acl.is_enabled() {
            Caller::Unchecked
        } else {
            let given = secret();
            has_token = given.is_some();
            let is_recovery = has_token && given == acl.config.recovery_token;
            let given = given.unwrap_or_else(anonymous);
            match acl.tokens.get(&given) {
                _ if ["allow", "deny", "manage"].contains(&given.0.as_str()) => Caller::Reserved,
                _ if is_recovery => self.recovery(),
                Some(token) => Caller::Known {
                    accessor: token.accessor.clone(),
                    rules: acl.rules_of(token, &self.settings.datacenter),
                    default: acl.config.default_policy,
                },
                None => Caller::Unknown { bootstrapped: acl.bootstrapped.is_some() },
            }
        };
        Authority {
            caller,
            key_lists: acl.config.enable_key_list_policy,
            has_token,
            filtered: Cell::new(false),
        }
    }

    /// The permissions of the recovery token, whatever the default policy is.
    fn recovery(&self) -> Caller {
        let mut rules = Rules::default();
        rules.add(Resource::Agent, false, &self.node_name, Level::Write);
        rules.add(Resource::Node, true, "", Level::Read);
        let accessor = format!("agent-recovery:{}", self.node_name);
        Caller::Known { accessor, rules, default: DefaultPolicy::Deny }
    }

    /// The secret of the request's token.
    pub(super) fn secret(&self, call: &Call) -> Secret {
        self.given_secret(call).unwrap_or_else(anonymous)
    }

    /// The secret that the request or the agent's configuration names.
    pub fn given_secret(&self, call: &Call) -> Option<Secret> {
        // Source: "Authentication" in Consul's HTTP reference.
        let bearer = call.header(&AUTHORIZATION).split_once(' ');
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let given = [
            call.query.get("token"),
            call.header(&TOKEN),
            bearer.map_or("", |(_, token)| token.trim()),
        ];
        match given.into_iter().find(|secret| !secret.is_empty()) {
            Some(secret) => Some(Secret::new(secret)),
            None => self.acl.config.default_token.clone(),
        }
    }

    /// The permissions of the agent's default token.
    pub fn own_authority(&self) -> Authority {
        self.authority_by(&|| self.acl.config.default_token.clone())
    }

    /// The permissions with which the agent reads and removes entries of its node.
    pub fn agent_authority(&self) -> Authority {
        let config = &self.acl.config;
        let secret = config.agent_token.as_ref().or(config.default_token.as_ref());
        self.authority_by(&|| secret.cloned())
    }

    /// The permissions of DNS, whose requests have no token.
    pub fn dns_authority(&self) -> Authority {
        let config = &self.acl.config;
        let secret = config.dns_token.as_ref().or(config.default_token.as_ref());
        self.authority_by(&|| secret.cloned())
    }
}

fn anonymous() -> Secret {
    Secret::new(ANONYMOUS_SECRET)
}

impl Authority {
    /// Refuses a token that does not exist.
    pub fn known(&self) -> Result<(), Refusal> {
        match self.caller {
            Caller::Unknown { bootstrapped } => {
                let why = "ACL system must be bootstrapped before making any requests that \
                           require authorization: ";
                let why = if bootstrapped { "" } else { why };
                Err(Refusal::new(StatusCode::FORBIDDEN, format!("{why}ACL not found")))
            }
            Caller::Reserved => Err(Refusal::server("Cannot resolve root ACL")),
            Caller::Unchecked | Caller::Known { .. } => Ok(()),
        }
    }

    /// Whether the caller has this access to the resource of this name; the name of a resource
    /// without names is "".
    pub fn allows(&self, resource: Resource, name: impl AsRef<[u8]>, access: Access) -> bool {
        let name = name.as_ref();
        self.holds(access, resource, |rules| match (resource, name) {
            (Resource::Intention, b"*") => rules.wildcard_level(access),
            _ => rules.level(resource, name),
        })
    }

    fn holds(
        &self,
        access: Access,
        resource: Resource,
        level: impl Fn(&Rules) -> Option<Level>,
    ) -> bool {
        match &self.caller {
            Caller::Unchecked => true,
            Caller::Reserved | Caller::Unknown { .. } => false,
            Caller::Known { rules, default, .. } => match level(rules) {
                Some(level) => level.allows(access),
                // The default policy does not apply to tokens and policies.
                None => *default == DefaultPolicy::Allow && resource != Resource::Acl,
            },
        }
    }

    /// Refuses a caller without this access.
    pub fn check(
        &self,
        resource: Resource,
        name: impl AsRef<[u8]>,
        access: Access,
    ) -> Result<(), Refusal> {
        let name = name.as_ref();
        match self.allows(resource, name, access) {
            true => Ok(()),
            false => self.refuse(resource, name, access),
        }
    }

    /// Whether the caller may write all keys with a prefix.
    pub fn allows_tree(&self, prefix: &[u8]) -> bool {
        let level = |rules: &Rules| rules.tree_level(Resource::Key, prefix);
        self.holds(Access::Write, Resource::Key, level)
    }

    /// Refuses a caller without the permission to write all keys with a prefix.
    pub fn check_tree(&self, prefix: &[u8]) -> Result<(), Refusal> {
        match self.allows_tree(prefix) {
            true => Ok(()),
            false => self.refuse(Resource::Key, prefix, Access::Write),
        }
    }

    /// Refuses a caller without the permission to list keys, if the configuration requires one.
    pub fn check_list(&self, prefix: &[u8]) -> Result<(), Refusal> {
        match self.key_lists {
            true => self.check(Resource::Key, prefix, Access::List),
            false => Ok(()),
        }
    }

    fn refuse(&self, resource: Resource, name: &[u8], access: Access) -> Result<(), Refusal> {
        self.known()?;
        let who = match &self.caller {
            Caller::Known { accessor, .. } if accessor != ANONYMOUS => {
                format!("token with AccessorID '{accessor}'")
            }
            _ => "anonymous token".to_owned(),
        };
        let on =
            if name.is_empty() { String::new() } else { format!(" on \"{}\"", go::lossy(name)) };
        let hint = match self.is_anonymous() {
            true => {
                ". The anonymous token is used implicitly when a request does not specify a token."
            }
            false => "",
        };
        let (resource, access) = (resource.name(), access.name());
        let text =
            format!("Permission denied: {who} lacks permission '{resource}:{access}'{on}{hint}");
        Err(Refusal::new(StatusCode::FORBIDDEN, text))
    }

    fn is_anonymous(&self) -> bool {
        matches!(&self.caller, Caller::Known { accessor, .. } if accessor == ANONYMOUS)
    }

    /// Whether the caller may read the resource; a filtered entry is recorded.
    pub fn sees(&self, resource: Resource, name: impl AsRef<[u8]>) -> bool {
        let may = self.allows(resource, name, Access::Read);
        self.filtered.set(self.filtered.get() || !may);
        may
    }

    /// Whether the caller may read an instance of a service on a node.
    pub fn sees_instance(&self, node: &str, service: &str) -> bool {
        self.sees(Resource::Node, node) && self.sees(Resource::Service, service)
    }

    /// Whether the caller may read a check in the catalog.
    pub fn sees_check(&self, check: &Check) -> bool {
        self.sees(Resource::Node, &check.node)
            && (check.service_id.is_empty() || self.sees(Resource::Service, &check.service_name))
    }

    /// Whether entries were filtered. Callers without a token do not learn it.
    pub fn has_filtered(&self) -> bool {
        self.filtered.get() && self.has_token
    }

    /// Adds the header that reports filtered entries.
    pub fn mark(&self, reply: Reply) -> Reply {
        match self.has_filtered() {
            true => reply.with_text("x-consul-results-filtered-by-acls", "true"),
            false => reply,
        }
    }
}
