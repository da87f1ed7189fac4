//! Tokens: `/v1/acl/token`.

use super::templates;
use super::token_body::{self, Given, Link, decode};
use super::token_view::{Expanded, View};
use super::{ANONYMOUS, Access, RESERVED, Resource, Secret, Token, check_lookup, is_uuid};
use crate::blocking::{Headers, Read, ResultIndex};
use crate::go;
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::timer::Timer;
use crate::store::watch::Topic;
use consul_api::api::acl as wire;
use http::StatusCode;
use std::time::Duration;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::TOKENS, Handler::Read(&LIST)),
    Route(&wire::TOKEN_SELF, Handler::Read(&OWN)),
    Route(&wire::TOKEN_CREATE, Handler::Now(create)),
    Route(&wire::TOKEN_READ, Handler::Read(&BY_ACCESSOR)),
    Route(&wire::TOKEN_UPDATE, Handler::Now(update_or_clone)),
    Route(&wire::TOKEN_DELETE, Handler::Now(delete)),
];

/// The shortest TTL of a token. Source: `ExpirationTTL` in Consul's HTTP reference.
const MIN_TTL: Duration = Duration::from_secs(60);

pub(super) fn not_found() -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "token does not exist: ACL not found")
}

static LIST: Read = Read {
    check: |_| Ok(()),
    topics: |_, _| vec![Topic::Tokens],
    index: |state, _| ResultIndex::new(state.acl.tokens_newest),
    answer: list,
    headers: Headers::Deferred,
};

fn list(state: &State, call: &Call) -> Result<Reply, Refusal> {
    let authority = state.authority(call);
    authority.check(Resource::Acl, "", Access::Read)?;
    let policy = call.query.get("policy");
    let role = call.query.get("role");
    let service = call.query.get("servicename");
    let method = call.query.get("authmethod");
    if [policy, role, service, method].iter().filter(|filter| !filter.is_empty()).count() > 1 {
        let why = "can only filter by one of policy, role, serviceName, or methodName at a time";
        return Err(Refusal::server(why));
    }
    for link in [policy, role].into_iter().filter(|link| !link.is_empty()) {
        check_lookup("token", link)?;
    }
    let is_wanted = |token: &&Token| {
        let has_policy = policy.is_empty() || token.policies.iter().any(|id| id == policy);
        let has_service =
            service.is_empty() || token.services.iter().any(|identity| identity.name == service);
        let has_role = role.is_empty() || token.roles.iter().any(|id| id == role);
        let has_method = method.is_empty() || token.method.as_deref() == Some(method);
        has_policy && has_role && has_service && has_method
    };
    let tokens = state.acl.tokens.values().filter(is_wanted);
    let views: Vec<_> =
        tokens.map(|token| View::new(state, token).for_reader(&authority)).collect();
    Ok(Reply::json(call.style, &views))
}

static OWN: Read = Read { answer: own, ..LIST };

fn own(state: &State, call: &Call) -> Result<Reply, Refusal> {
    // No permission is required, but a token must be named, be it the anonymous one.
    let secret = state.given_secret(call);
    let token = secret.and_then(|secret| state.acl.tokens.get(&secret)).ok_or_else(not_found)?;
    Ok(Reply::json(call.style, &View::new(state, token)))
}

static BY_ACCESSOR: Read = Read {
    check: |call| call.required_rest("Missing token AccessorID").map(|_| ()),
    answer: read,
    ..LIST
};

fn read(state: &State, call: &Call) -> Result<Reply, Refusal> {
    let authority = state.authority(call);
    authority.check(Resource::Acl, "", Access::Read)?;
    let accessor = call.rest_text();
    check_lookup("token", &accessor)?;
    let token = state.acl.token_of(&accessor).ok_or_else(not_found)?;
    let view = View::new(state, token).for_reader(&authority);
    if !call.query.has("expanded") {
        return Ok(Reply::json(call.style, &view));
    }
    let synthetic: Vec<_> = state.acl.synthetic_of(token).collect();
    let expanded = Expanded::new(state, token, &synthetic, view);
    Ok(Reply::json(call.style, &expanded))
}

fn create(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let given = decode(call)?;
    add(state, call, given)
}

fn add(state: &mut State, call: &Call, mut given: Given) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    check_new_id("AccessorID", &given.accessor, state.acl.token_of(&given.accessor).is_some())?;
    let secret = Secret::new(given.secret.as_str());
    check_new_id("SecretID", &given.secret, state.acl.tokens.contains_key(&secret))?;
    if given.ttl < 0 {
        let ttl = go::signed_duration_text(given.ttl);
        return Err(Refusal::server(format!("Token Expiration TTL '{ttl}' should be > 0")));
    }
    let now = state.since_1970();
    if given.ttl > 0 {
        if given.expires.is_some() {
            let why = "Token Expiration TTL and Expiration Time cannot both be set";
            return Err(Refusal::server(why));
        }
        given.expires = Some(now + Duration::from_nanos(given.ttl.unsigned_abs()));
    }
    if !given.method.is_empty() {
        return Err(Refusal::server("AuthMethod field is disallowed outside of login"));
    }
    if let Some(expires) = given.expires {
        let left = expires.checked_sub(now);
        check_ttl(left.ok_or(Refusal::server("ExpirationTime cannot be before CreateTime"))?)?;
    }
    write(state, call, given, None)
}

/// Refuses to create a token that expires so soon.
fn check_ttl(ttl: Duration) -> Result<(), Refusal> {
    if ttl >= MIN_TTL {
        return Ok(());
    }
    let (least, ttl) = (go::duration_text(MIN_TTL), go::duration_text(ttl));
    Err(Refusal::server(format!(
        "ExpirationTime cannot be less than {least} in the future (was {ttl})"
    )))
}

/// Validates an id that the user chose.
fn check_new_id(field: &str, id: &str, is_taken: bool) -> Result<(), Refusal> {
    let why = if id.is_empty() {
        return Ok(());
    } else if !is_uuid(id) {
        format!("{field} - not a valid UUID")
    } else if id.starts_with(RESERVED) {
        format!("{field} - UUIDs with the prefix {} are reserved", go::quoted(RESERVED))
    } else if is_taken {
        format!("{field} is already in use")
    } else {
        return Ok(());
    };
    Err(Refusal::server(format!("Invalid Token: {why}")))
}

/// Both have the same path and method; the end of the path decides.
fn update_or_clone(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let path = call.rest_text();
    match path.strip_suffix("/clone") {
        Some(accessor) => clone(state, call, accessor),
        None => update(state, call, path),
    }
}

fn update(state: &mut State, call: &Call, accessor: String) -> Result<Reply, Refusal> {
    let given = decode(call)?;
    if !given.accessor.is_empty() && given.accessor != accessor {
        return Err(Refusal::bad("Token Accessor ID in URL and payload do not match"));
    }
    if accessor.is_empty() {
        return add(state, call, given);
    }
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    if !is_uuid(&accessor) {
        return Err(Refusal::server("AccessorID is not a valid UUID"));
    }
    let Some(present) = state.acl.token_of(&accessor).cloned() else {
        let accessor = go::quoted(&accessor);
        return Err(Refusal::server(format!("Cannot find token {accessor}")));
    };
    if !given.secret.is_empty() && given.secret != present.secret.0 {
        return Err(Refusal::server("Changing a token's SecretID is not permitted"));
    }
    if given.local != present.local {
        return Err(Refusal::server(format!("Cannot toggle local mode of {accessor}")));
    }
    if !given.method.is_empty() && present.method.as_ref() != Some(&given.method) {
        return Err(Refusal::server(format!("Cannot change AuthMethod of {accessor}")));
    }
    // Also by the same TTL as before.
    let has_ttl = given.ttl != 0;
    if has_ttl || given.expires.is_some() && present.expires != given.expires {
        return Err(Refusal::server(format!("Cannot change expiration time of {accessor}")));
    }
    write(state, call, given, Some(&present))
}

fn clone(state: &mut State, call: &Call, accessor: &str) -> Result<Reply, Refusal> {
    let given = decode(call)?;
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    check_lookup("token", accessor)?;
    let source = state.acl.token_of(accessor).cloned().ok_or_else(not_found)?;
    if source.method.is_some() {
        return Err(Refusal::server("Cannot clone a token created from an auth method"));
    }
    let description = match given.description {
        none if none.is_empty() => source.description.clone(),
        description => description,
    };
    let acl = &state.acl;
    let policies = source.policies.iter().filter(|id| acl.policies.contains_key(*id)).cloned();
    let policies = policies.collect();
    let roles = acl.roles_of(&source).map(|role| role.id.clone()).collect();
    let ttl = source.expires.map(|expires| expires.saturating_sub(state.since_1970()));
    ttl.map_or(Ok(()), check_ttl)?;
    let index = state.next_index();
    let token = Token {
        accessor: state.new_id(),
        secret: Secret::new(state.new_id()),
        description,
        policies,
        roles,
        created: state.date(Duration::ZERO),
        create_index: index,
        modify_index: index,
        ..source
    };
    expire_after(state, &token, ttl);
    Ok(put(state, call, token))
}

/// Writes a validated token; `present` is the token that it replaces.
fn write(
    state: &mut State,
    call: &Call,
    given: Given,
    present: Option<&Token>,
) -> Result<Reply, Refusal> {
    let roles = roles(state, &given)?;
    let policies = resolve(state, &given)?;
    token_body::check_identities(&given.services, &given.nodes, "token", given.local)?;
    let templates = templates::checked(given.templates, "token")?;
    let index = state.next_index();
    let id_or_new = |state: &mut State, id: String| match id {
        none if none.is_empty() => state.new_id(),
        id => id,
    };
    let token = match present {
        Some(present) => Token {
            description: given.description,
            policies,
            roles,
            services: given.services,
            nodes: given.nodes,
            templates,
            modify_index: index,
            ..present.clone()
        },
        None => Token {
            accessor: id_or_new(state, given.accessor),
            secret: Secret::new(id_or_new(state, given.secret)),
            description: given.description,
            policies,
            roles,
            services: given.services,
            nodes: given.nodes,
            templates,
            local: given.local,
            method: None,
            created: state.date(Duration::ZERO),
            expires: given.expires,
            create_index: index,
            modify_index: index,
        },
    };
    if present.is_none() {
        let left = token.expires.map(|expires| expires.saturating_sub(state.since_1970()));
        expire_after(state, &token, left);
    }
    Ok(put(state, call, token))
}

fn expire_after(state: &mut State, token: &Token, ttl: Option<Duration>) {
    if let Some(ttl) = ttl {
        let timer = Timer::TokenExpires(token.accessor.clone());
        state.timers.set(state.now + ttl, timer);
    }
}

/// The ids of the token's policies; refuses unknown ones.
fn resolve(state: &State, given: &Given) -> Result<Vec<String>, Refusal> {
    let mut policies = Vec::new();
    for link in &given.policies {
        let (id, name) = link;
        let policy = if id.is_empty() {
            state.acl.policy_named(name)
        } else {
            check_linked("policy", id)?;
            state.acl.policies.get(id)
        };
        let policy = policy.ok_or_else(|| no_such("policy", link))?;
        if !policies.contains(&policy.id) {
            policies.push(policy.id.clone());
        }
    }
    Ok(policies)
}

/// The ids of the token's roles; refuses unknown ones.
fn roles(state: &State, given: &Given) -> Result<Vec<String>, Refusal> {
    let mut roles = Vec::new();
    for link in &given.roles {
        let (id, name) = link;
        let role = if id.is_empty() {
            state.acl.role_named(name)
        } else {
            check_linked("role", id)?;
            state.acl.roles.get(id)
        };
        let role = role.ok_or_else(|| no_such("role", link))?;
        if !roles.contains(&role.id) {
            roles.push(role.id.clone());
        }
    }
    Ok(roles)
}

fn check_linked(table: &str, id: &str) -> Result<(), Refusal> {
    check_lookup(table, id).map_err(|why| {
        let (id, why) = (go::quoted(id), why.text);
        Refusal::server(format!("Error looking up {table} for ID: {id}: {why}"))
    })
}

fn no_such(kind: &str, (id, name): &Link) -> Refusal {
    let (field, text) = if id.is_empty() { ("name", name) } else { ("ID", id) };
    Refusal::server(format!("No such ACL {kind} with {field} {}", go::quoted(text)))
}

fn put(state: &mut State, call: &Call, token: Token) -> Reply {
    let reply = Reply::json(call.style, &View::new(state, &token));
    state.put_token(token);
    reply
}

fn delete(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let accessor = call.required_rest("Missing token AccessorID")?;
    super::check_delete(state, call, "token")?;
    if !is_uuid(&accessor) {
        return Err(Refusal::server("Accessor ID is missing or an invalid UUID"));
    }
    if accessor == ANONYMOUS {
        return Err(Refusal::server("Delete operation not permitted on the anonymous token"));
    }
    let own = state.secret(call);
    if state.acl.token_of(&accessor).is_some_and(|token| token.secret == own) {
        let why = "Deletion of the request's authorization token is not permitted";
        return Err(Refusal::server(why));
    }
    match state.delete_token(&accessor) {
        true => Ok(Reply::json(call.style, &true)),
        false => Err(Refusal::unknown("Cannot find token to delete")),
    }
}
