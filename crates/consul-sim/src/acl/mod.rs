//! Access control: tokens, policies, permissions.

mod authorize;
mod bootstrap;
mod login;
mod own_access;
mod policies;
mod policy;
mod roles;
pub(super) mod table;
mod template_reads;
mod templates;
mod token_body;
mod token_view;
mod tokens;

pub(super) use authorize::Authority;
pub(super) use policy::{Access, Resource};
pub use table::{Acl, DefaultPolicy, Secret};

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
use std::hash::{DefaultHasher, Hash, Hasher};
use table::{AclTable, NodeIdentity, Policy, RESERVED, Role, ServiceIdentity, Token};
use templates::Templated;

pub(super) fn routes() -> impl Iterator<Item = &'static Route> {
    policies::ROUTES
        .iter()
        .chain(roles::ROUTES)
        .chain(tokens::ROUTES)
        .chain(template_reads::ROUTES)
        .chain(bootstrap::ROUTES)
        .chain(own_access::ROUTES)
        .chain(login::routes())
}

/// The ids of the built-in policies and token.
const GLOBAL_MANAGEMENT: &str = "00000000-0000-0000-0000-000000000001";
const GLOBAL_READ_ONLY: &str = "00000000-0000-0000-0000-000000000002";
const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";

/// The anonymous token's secret, the only one without the form of a UUID.
const ANONYMOUS_SECRET: &str = "anonymous";

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
    templates: &'a [Templated],
) -> impl Iterator<Item = &'a str> {
    let of_service = |service: &'a ServiceIdentity| {
        std::iter::once(&service.name).chain(service.datacenters.iter().flatten())
    };
    let of_node = |node: &'a NodeIdentity| [&node.name, &node.datacenter];
    let texts = services.iter().flat_map(of_service).chain(nodes.iter().flat_map(of_node));
    texts.map(String::as_str).chain(templates.iter().flat_map(Templated::texts))
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
