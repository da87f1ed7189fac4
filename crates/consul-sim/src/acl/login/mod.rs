//! Logging in: a token of another system is exchanged for one of Consul's.
//!
//! Source: "Auth Methods" in Consul's documentation of ACLs, and what a server of 1.21 answers.

mod jwt;
mod kubernetes;
mod methods;
mod rules;
pub(super) mod table;
mod template;

use super::templates::Templated;
use super::{NodeIdentity, Secret, ServiceIdentity, Token, token_view, tokens};
use crate::go;
use crate::http::decode::{GoType, Json, Object};
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::timer::Timer;
use consul_api::api::acl as wire;
use http::StatusCode;
use jwt::Identity;
use std::collections::BTreeMap;
use std::time::Duration;
use table::Bind;

pub(super) fn routes() -> impl Iterator<Item = &'static Route> {
    OWN.iter().chain(methods::ROUTES).chain(rules::ROUTES)
}

static OWN: &[Route] =
    &[Route(&wire::LOGIN, Handler::Now(login)), Route(&wire::LOGOUT, Handler::Now(logout))];

const LOGIN: GoType = GoType { value: "structs.ACLLoginParams", fields: "ACLLoginParams." };

/// The grants of the binding rules to a new token.
#[derive(Default)]
struct Bound {
    policies: Vec<String>,
    roles: Vec<String>,
    services: Vec<ServiceIdentity>,
    nodes: Vec<NodeIdentity>,
    templates: Vec<Templated>,
}

impl Bound {
    fn is_empty(&self) -> bool {
        self.policies.is_empty()
            && self.roles.is_empty()
            && self.services.is_empty()
            && self.nodes.is_empty()
            && self.templates.is_empty()
    }
}

/// The body of a login.
struct Given {
    method: String,
    bearer: String,
    meta: BTreeMap<String, String>,
}

fn decode(call: &Call) -> Result<Given, Refusal> {
    let read = || -> Result<Given, String> {
        let json = Json::read(&call.body)?;
        let given = Object::new(&json, LOGIN)?;
        given.check_known(&["AuthMethod", "BearerToken", "Meta"])?;
        Ok(Given {
            method: given.text("AuthMethod")?,
            bearer: given.text("BearerToken")?,
            meta: given.text_map("Meta")?.unwrap_or_default(),
        })
    };
    read().map_err(|why| Refusal::bad(format!("Failed to decode request body: {why}")))
}

fn login(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let given = decode(call)?;
    if call.body.trim_ascii() == b"null" {
        return Err(Refusal::server("Invalid Login request: Missing auth parameters"));
    }
    let mut methods = state.acl.logins.methods.values();
    let Some(method) = methods.find(|method| method.name.eq_ignore_ascii_case(&given.method))
    else {
        let name = go::quoted(&given.method);
        let why = format!("ACL not found: auth method {name} not found");
        return Err(Refusal::new(StatusCode::FORBIDDEN, why));
    };
    let now_s = i64::try_from(state.since_1970().as_secs()).unwrap_or(i64::MAX);
    let identity = method.kind.identity(given.bearer.trim(), now_s).map_err(Refusal::server)?;
    let name = method.name.clone();
    let bound = bound(state, &name, &identity)?;
    if bound.is_empty() {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "Permission denied"));
    }
    let (ttl, is_local) = (method.max_token_ttl, method.is_local());
    let index = state.next_index();
    let token = Token {
        accessor: state.new_id(),
        secret: Secret::new(state.new_id()),
        description: description(&given.meta),
        policies: bound.policies,
        roles: bound.roles,
        services: bound.services,
        nodes: bound.nodes,
        templates: bound.templates,
        local: is_local,
        method: Some(name),
        created: state.date(Duration::ZERO),
        expires: (!ttl.is_zero()).then(|| state.since_1970() + ttl),
        create_index: index,
        modify_index: index,
    };
    if !ttl.is_zero() {
        state.timers.set(state.now + ttl, Timer::TokenExpires(token.accessor.clone()));
    }
    let reply = Reply::json(call.style, &token_view::View::new(state, &token));
    state.put_token(token);
    Ok(reply)
}

fn description(meta: &BTreeMap<String, String>) -> String {
    const TEXT: &str = "token created via login";
    if meta.is_empty() {
        return TEXT.to_owned();
    }
    // As Go writes JSON.
    let json = serde_json::json!(meta).to_string();
    let json = json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    format!("{TEXT}: {json}")
}

/// The grants of an auth method's rules to this identity. Roles and policies that do not exist are left out.
fn bound(state: &State, method: &str, identity: &Identity) -> Result<Bound, Refusal> {
    let mut bound = Bound::default();
    for rule in state.acl.logins.rules.values().filter(|rule| rule.method == method) {
        if !rule.applies_to(identity) {
            continue;
        }
        let name = rule.name(&identity.values).map_err(Refusal::server)?;
        match rule.bind {
            Bind::TemplatedPolicy => {
                let one = rule.templated(&identity.values).map_err(Refusal::server)?;
                bound.templates.push(one);
            }
            Bind::Service => {
                if bound.services.iter().all(|known| known.name != name) {
                    bound.services.push(ServiceIdentity { name, datacenters: None });
                }
            }
            Bind::Node => {
                if bound.nodes.iter().all(|known| known.name != name) {
                    let datacenter = state.settings.datacenter.clone();
                    bound.nodes.push(NodeIdentity { name, datacenter });
                }
            }
            Bind::Role => {
                let role = state.acl.role_named(&name).map(|role| role.id.clone());
                bound.roles.extend(role.filter(|id| !bound.roles.contains(id)));
            }
            Bind::Policy => {
                let policy = state.acl.policy_named(&name).map(|policy| policy.id.clone());
                bound.policies.extend(policy.filter(|id| !bound.policies.contains(id)));
            }
        }
    }
    Ok(bound)
}

fn logout(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let Some(secret) = state.given_secret(call) else {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "Supplied token does not exist"));
    };
    call.check_datacenter(&state.settings)?;
    let Some(token) = state.acl.tokens.get(&secret) else {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "ACL not found"));
    };
    if token.method.is_none() {
        let why = "Permission denied: token wasn't created via login";
        return Err(Refusal::new(StatusCode::FORBIDDEN, why));
    }
    let accessor = token.accessor.clone();
    match state.delete_token(&accessor) {
        true => Ok(Reply::json(call.style, &true)),
        false => Err(tokens::not_found()),
    }
}

/// Deletes the rules and tokens of a method.
fn forget(state: &mut State, method: &str, is_local: bool) {
    state.acl.logins.rules.retain(|_, rule| rule.method != method);
    let is_of = |token: &&Token| token.method.as_deref() == Some(method) && token.local == is_local;
    let tokens: Vec<_> = state.acl.tokens.values().filter(is_of).collect();
    let accessors: Vec<String> = tokens.iter().map(|token| token.accessor.clone()).collect();
    for accessor in accessors {
        state.delete_token(&accessor);
    }
}
