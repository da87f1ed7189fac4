//! Tokens: `/v1/acl/token`, the first of them, and those that the agent itself has.

use super::{
    ANONYMOUS, ANONYMOUS_SECRET, Access, Authority, DefaultPolicy, GLOBAL_MANAGEMENT, NodeIdentity,
    RESERVED, Resource, Secret, ServiceIdentity, Token, check_lookup, content_hash, is_uuid,
    policies,
};
use crate::simulate::blocking::{Headers, Position, Read};
use crate::simulate::decode::{GoType, Json, Object, body, undecodable};
use crate::simulate::go;
use crate::simulate::reply::{Refusal, Reply};
use crate::simulate::request::Call;
use crate::simulate::route::{Handler, Route};
use crate::simulate::store::State;
use crate::simulate::store::timer::Timer;
use crate::simulate::store::watch::Topic;
use crate::wire::{acl as wire, agent};
use http::StatusCode;
use serde::Serialize;
use std::time::Duration;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::BOOTSTRAP, Handler::Now(bootstrap)),
    Route(&wire::TOKENS, Handler::Read(&LIST)),
    Route(&wire::TOKEN_SELF, Handler::Read(&OWN)),
    Route(&wire::TOKEN_CREATE, Handler::Now(create)),
    Route(&wire::TOKEN_READ, Handler::Read(&BY_ACCESSOR)),
    Route(&wire::TOKEN_UPDATE, Handler::Now(update_or_clone)),
    Route(&wire::TOKEN_DELETE, Handler::Now(delete)),
    Route(&agent::TOKEN_UPDATE, Handler::Now(set_agent_token)),
];

const TOKEN: GoType = GoType { value: "struct { *structs.Alias }", fields: ".Alias." };
const BOOTSTRAP: GoType = GoType { value: "api.BootstrapRequest", fields: "BootstrapRequest." };
const LINK: GoType = GoType { value: "structs.ACLTokenPolicyLink", fields: ".Alias.Policies." };
const AGENT_TOKEN: GoType = GoType { value: "api.AgentToken", fields: "AgentToken." };

/// The shortest life of a token that ends. Source: `ExpirationTTL` in Consul's HTTP reference.
const MIN_TTL: Duration = Duration::from_secs(60);

/// What an agent needs tokens for. Source: "Update ACL tokens" in Consul's HTTP reference of
/// agents, with the older names.
const AGENT_TOKENS: &[&str] = &[
    "default",
    "acl_token",
    "agent",
    "acl_agent_token",
    "agent_recovery",
    "agent_master",
    "acl_agent_master_token",
    "replication",
    "acl_replication_token",
    "config_file_service_registration",
    "dns",
];

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct View<'a> {
    /// The secret once more, under the name that the first token's reply has it.
    #[serde(rename = "ID", skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "AccessorID")]
    accessor: &'a str,
    #[serde(rename = "SecretID")]
    secret: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<Link<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service_identities: Vec<ServiceView<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    node_identities: Vec<NodeView<'a>>,
    local: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_time: Option<&'a str>,
    create_time: &'a str,
    hash: String,
    create_index: u64,
    modify_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Link<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceView<'a> {
    service_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacenters: Option<&'a [String]>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeView<'a> {
    node_name: &'a str,
    datacenter: &'a str,
}

impl<'a> View<'a> {
    fn new(state: &'a State, token: &'a Token) -> Self {
        let link = |id: &String| {
            let policy = state.acl.policies.get(id)?;
            Some(Link { id: &policy.id, name: &policy.name })
        };
        let service = |service: &'a ServiceIdentity| ServiceView {
            service_name: &service.name,
            datacenters: service.datacenters.as_deref(),
        };
        let node = |node: &'a NodeIdentity| NodeView {
            node_name: &node.name,
            datacenter: &node.datacenter,
        };
        Self {
            id: None,
            accessor: &token.accessor,
            secret: &token.secret.0,
            description: &token.description,
            policies: token.policies.iter().filter_map(link).collect(),
            service_identities: token.services.iter().map(service).collect(),
            node_identities: token.nodes.iter().map(node).collect(),
            local: token.local,
            expiration_time: token.ends.as_deref(),
            create_time: &token.created,
            hash: content_hash(&(
                &token.description,
                &token.policies,
                &token.services,
                &token.nodes,
                token.local,
            )),
            create_index: token.create_index,
            modify_index: token.modify_index,
        }
    }

    /// The token as somebody sees it who may not write tokens, and so must not have their secrets.
    fn for_reader(mut self, authority: &Authority) -> Self {
        if !authority.allows(Resource::Acl, "", Access::Write) {
            self.secret = "<hidden>";
        }
        self
    }
}

/// A token with what is behind it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Expanded<'a, P> {
    #[serde(flatten)]
    token: View<'a>,
    expanded_policies: Vec<P>,
    expanded_roles: Option<()>,
    #[serde(rename = "NamespaceDefaultPolicyIDs")]
    namespace_default_policy_ids: Option<()>,
    #[serde(rename = "NamespaceDefaultRoleIDs")]
    namespace_default_role_ids: Option<()>,
    #[serde(rename = "AgentACLDefaultPolicy")]
    default_policy: &'static str,
    #[serde(rename = "AgentACLDownPolicy")]
    down_policy: &'static str,
    resolved_by_agent: &'a str,
}

fn position(state: &State, _: &Call) -> Position {
    Position::at(state.acl.tokens_newest)
}

fn not_found() -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "token does not exist: ACL not found")
}

static LIST: Read = Read {
    check: |_| Ok(()),
    topics: |_| vec![Topic::Tokens],
    position,
    answer: |state, call| list(state, call).unwrap_or_else(Reply::from),
    headers: Headers::Deferred,
};

fn list(state: &State, call: &Call) -> Result<Reply, Refusal> {
    let authority = state.authority(call);
    authority.check(Resource::Acl, "", Access::Read)?;
    let policy = call.query.get("policy");
    if !policy.is_empty() {
        check_lookup("token", policy)?;
    }
    let service = call.query.get("servicename");
    let is_wanted = |token: &&Token| {
        let has_policy = policy.is_empty() || token.policies.iter().any(|id| id == policy);
        let has_service =
            service.is_empty() || token.services.iter().any(|identity| identity.name == service);
        // No token has a role, or comes from an auth method.
        let filters = [call.query.get("role"), call.query.get("authmethod")];
        has_policy && has_service && filters.iter().all(|filter| filter.is_empty())
    };
    let tokens = state.acl.tokens.values().filter(is_wanted);
    let views: Vec<_> =
        tokens.map(|token| View::new(state, token).for_reader(&authority)).collect();
    Ok(Reply::json(call.style, &views))
}

static OWN: Read = Read {
    check: |_| Ok(()),
    topics: |_| vec![Topic::Tokens],
    position,
    answer: |state, call| own(state, call).unwrap_or_else(Reply::from),
    headers: Headers::Deferred,
};

fn own(state: &State, call: &Call) -> Result<Reply, Refusal> {
    let secret = state.secret(call);
    // Nobody is asked for a right, but a caller without any token has none to look at.
    let token = state.acl.tokens.get(&secret).filter(|token| token.accessor != ANONYMOUS);
    let token = token.ok_or_else(not_found)?;
    Ok(Reply::json(call.style, &View::new(state, token)))
}

static BY_ACCESSOR: Read = Read {
    check: |call| call.named("Missing token AccessorID").map(|_| ()),
    topics: |_| vec![Topic::Tokens],
    position,
    answer: |state, call| read(state, call).unwrap_or_else(Reply::from),
    headers: Headers::Deferred,
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
    let policies = token.policies.iter().filter_map(|id| state.acl.policies.get(id));
    let expanded = Expanded {
        token: view,
        expanded_policies: policies.map(policies::view).collect(),
        expanded_roles: None,
        namespace_default_policy_ids: None,
        namespace_default_role_ids: None,
        default_policy: match state.acl.config.default_policy {
            DefaultPolicy::Allow => "allow",
            DefaultPolicy::Deny => "deny",
        },
        down_policy: "extend-cache",
        resolved_by_agent: &state.node_name,
    };
    Ok(Reply::json(call.style, &expanded))
}

/// A token as a body gives it.
struct Given {
    accessor: String,
    secret: String,
    description: String,
    /// Ids and names.
    policies: Vec<(String, String)>,
    roles: Vec<(String, String)>,
    services: Vec<ServiceIdentity>,
    nodes: Vec<NodeIdentity>,
    has_templates: bool,
    local: bool,
    ends: String,
    ttl: Duration,
}

fn decode(call: &Call) -> Result<Given, Refusal> {
    let read = || -> Result<Given, String> {
        let json = Json::read(&call.body)?;
        let given = Object::new(&json, TOKEN)?;
        given.check_known(&[
            "AccessorID",
            "SecretID",
            "Description",
            "Policies",
            "Roles",
            "ServiceIdentities",
            "NodeIdentities",
            "TemplatedPolicies",
            "Local",
            "AuthMethod",
            "ExpirationTime",
            "ExpirationTTL",
            "CreateTime",
            "Hash",
            "CreateIndex",
            "ModifyIndex",
        ])?;
        Ok(Given {
            accessor: given.text("AccessorID")?,
            secret: given.text("SecretID")?,
            description: given.text("Description")?,
            policies: links(&given, "Policies")?,
            roles: links(&given, "Roles")?,
            services: services(&given)?,
            nodes: nodes(&given)?,
            has_templates: given
                .list("TemplatedPolicies", "structs.ACLTemplatedPolicies")?
                .is_some_and(|templates| !templates.is_empty()),
            local: given.flag("Local")?,
            ends: given.text("ExpirationTime")?,
            ttl: ttl(&given)?,
        })
    };
    read().map_err(|why| Refusal::bad(format!("Token decoding failed: {why}")))
}

fn ttl(given: &Object<'_>) -> Result<Duration, String> {
    let nanos = match given.get("ExpirationTTL") {
        Some(Json::Text(text)) if !text.is_empty() => go::duration(text)?,
        Some(Json::Number(_)) => given.int("ExpirationTTL")?,
        _ => 0,
    };
    Ok(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
}

fn links(given: &Object<'_>, name: &str) -> Result<Vec<(String, String)>, String> {
    let items = given.list(name, "[]structs.ACLTokenPolicyLink")?.unwrap_or_default();
    let read = |item: &Json| {
        let link = Object::new(item, LINK)?;
        Ok((link.text("ID")?, link.text("Name")?))
    };
    items.iter().map(read).collect()
}

fn services(given: &Object<'_>) -> Result<Vec<ServiceIdentity>, String> {
    let items = given.list("ServiceIdentities", "structs.ACLServiceIdentities")?;
    let read = |item: &Json| {
        let item = Object::new(item, LINK)?;
        Ok(ServiceIdentity {
            name: item.text("ServiceName")?,
            datacenters: item.texts("Datacenters")?.filter(|names| !names.is_empty()),
        })
    };
    items.unwrap_or_default().iter().map(read).collect()
}

fn nodes(given: &Object<'_>) -> Result<Vec<NodeIdentity>, String> {
    let items = given.list("NodeIdentities", "structs.ACLNodeIdentities")?;
    let read = |item: &Json| {
        let item = Object::new(item, LINK)?;
        Ok(NodeIdentity { name: item.text("NodeName")?, datacenter: item.text("Datacenter")? })
    };
    items.unwrap_or_default().iter().map(read).collect()
}

fn create(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let given = decode(call)?;
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    check_new_id("AccessorID", &given.accessor, state.acl.token_of(&given.accessor).is_some())?;
    let secret = Secret::new(given.secret.as_str());
    check_new_id("SecretID", &given.secret, state.acl.tokens.contains_key(&secret))?;
    if !given.ends.is_empty() {
        return Err(Refusal::server("ExpirationTime is not simulated, ExpirationTTL is"));
    }
    if !given.ttl.is_zero() && given.ttl < MIN_TTL {
        let (least, ttl) = (go::duration_text(MIN_TTL), go::duration_text(given.ttl));
        return Err(Refusal::server(format!(
            "ExpirationTime cannot be less than {least} in the future (was {ttl})"
        )));
    }
    write(state, call, given, None)
}

/// Looks at an id that a user chose.
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

/// The two share path and method; the end of the path says which one is meant.
fn update_or_clone(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let path = call.named("Missing token AccessorID")?;
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
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
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
    if !given.ends.is_empty() && present.ends.as_ref() != Some(&given.ends) {
        return Err(Refusal::server(format!("Cannot change expiration time of {accessor}")));
    }
    write(state, call, given, Some(&present))
}

fn clone(state: &mut State, call: &Call, accessor: &str) -> Result<Reply, Refusal> {
    let given = decode(call)?;
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    let source = state.acl.token_of(accessor).cloned().ok_or_else(not_found)?;
    let description = match given.description {
        none if none.is_empty() => source.description.clone(),
        description => description,
    };
    let index = state.next_index();
    let token = Token {
        accessor: state.new_id(),
        secret: Secret::new(state.new_id()),
        description,
        created: state.date(Duration::ZERO),
        create_index: index,
        modify_index: index,
        ..source
    };
    Ok(put(state, call, token))
}

/// Writes a token that was looked at; `present` is the one that it replaces.
fn write(
    state: &mut State,
    call: &Call,
    given: Given,
    present: Option<&Token>,
) -> Result<Reply, Refusal> {
    let policies = resolve(state, &given)?;
    let index = state.next_index();
    let id_or_new = |state: &mut State, id: String| match id {
        none if none.is_empty() => state.new_id(),
        id => id,
    };
    let token = match present {
        Some(present) => Token {
            description: given.description,
            policies,
            services: given.services,
            nodes: given.nodes,
            modify_index: index,
            ..present.clone()
        },
        None => Token {
            accessor: id_or_new(state, given.accessor),
            secret: Secret::new(id_or_new(state, given.secret)),
            description: given.description,
            policies,
            services: given.services,
            nodes: given.nodes,
            local: given.local,
            created: state.date(Duration::ZERO),
            ends: (!given.ttl.is_zero()).then(|| state.date(given.ttl)),
            create_index: index,
            modify_index: index,
        },
    };
    if present.is_none() && !given.ttl.is_zero() {
        let timer = Timer::TokenExpires(token.accessor.clone());
        state.timers.set(state.now + given.ttl, timer);
    }
    Ok(put(state, call, token))
}

/// The ids of the policies that a token is to have.
fn resolve(state: &State, given: &Given) -> Result<Vec<String>, Refusal> {
    let named = |kind: &str, (id, name): &(String, String)| {
        let (field, text) = if id.is_empty() { ("name", name) } else { ("ID", id) };
        Refusal::server(format!("No such ACL {kind} with {field} {}", go::quoted(text)))
    };
    let mut policies = Vec::new();
    for link in &given.policies {
        let (id, name) = link;
        let policy = match id.is_empty() {
            true => state.acl.policy_named(name),
            false => state.acl.policies.get(id),
        };
        let policy = policy.ok_or_else(|| named("policy", link))?;
        if !policies.contains(&policy.id) {
            policies.push(policy.id.clone());
        }
    }
    if let Some(role) = given.roles.first() {
        return Err(named("role", role));
    }
    if given.has_templates {
        return Err(Refusal::server("templated policies are not simulated"));
    }
    if given.services.iter().any(|service| service.name.is_empty()) {
        let why = "Service identity is missing the service name field on this token";
        return Err(Refusal::server(why));
    }
    if given.nodes.iter().any(|node| node.name.is_empty()) {
        let why = "Node identity is missing the node name field on this token";
        return Err(Refusal::server(why));
    }
    Ok(policies)
}

fn put(state: &mut State, call: &Call, token: Token) -> Reply {
    let reply = Reply::json(call.style, &View::new(state, &token));
    state.put_token(token);
    reply
}

fn delete(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let accessor = call.named("Missing token AccessorID")?;
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    if !is_uuid(&accessor) {
        return Err(Refusal::server("Accessor ID is missing or an invalid UUID"));
    }
    if accessor == ANONYMOUS {
        return Err(Refusal::server("Delete operation not permitted on the anonymous token"));
    }
    match state.delete_token(&accessor) {
        true => Ok(Reply::json(call.style, &true)),
        false => Err(Refusal::unknown("Cannot find token to delete")),
    }
}

fn bootstrap(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let secret = bootstrap_secret(call)
        .map_err(|why| Refusal::bad(format!("Request decoding failed: {why}")))?;
    if let Some(index) = state.acl.bootstrapped {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            format!("Permission denied: ACL bootstrap no longer allowed (reset index: {index})"),
        ));
    }
    let secret = match secret {
        none if none.is_empty() => state.new_id(),
        wrong if !is_uuid(&wrong) => {
            return Err(Refusal::server("uuid string is wrong length"));
        }
        taken if taken.starts_with(RESERVED) => {
            return Err(Refusal::server(
                "Provided token cannot be used because a token with that secret already exists.",
            ));
        }
        secret => secret,
    };
    let secret = Secret::new(secret);
    put_management(state, secret.clone(), "Bootstrap Token (Global Management)");
    let token = state.acl.tokens.get(&secret).ok_or_else(not_found)?;
    let view = View { id: Some(&token.secret.0), ..View::new(state, token) };
    Ok(Reply::json(call.style, &view))
}

fn bootstrap_secret(call: &Call) -> Result<String, String> {
    if call.body.is_empty() {
        return Ok(String::new());
    }
    let json = Json::read(&call.body)?;
    let given = Object::new(&json, BOOTSTRAP)?;
    given.check_known(&["BootstrapSecret"])?;
    given.text("BootstrapSecret")
}

/// Puts in the first token that may do everything.
pub(super) fn put_management(state: &mut State, secret: Secret, description: &str) {
    let index = state.next_index();
    state.acl.bootstrapped = Some(index);
    let token = Token {
        accessor: state.new_id(),
        policies: vec![GLOBAL_MANAGEMENT.to_owned()],
        ..plain(state, secret, description, index)
    };
    state.put_token(token);
}

/// Puts in the token that requests without one have.
pub(super) fn put_anonymous(state: &mut State) {
    let index = state.next_index();
    let token = plain(state, Secret::new(ANONYMOUS_SECRET), "Anonymous Token", index);
    state.put_token(Token { accessor: ANONYMOUS.to_owned(), ..token });
}

/// A token with no rights, still without an accessor id.
fn plain(state: &State, secret: Secret, description: &str, index: u64) -> Token {
    Token {
        accessor: String::new(),
        secret,
        description: description.to_owned(),
        policies: Vec::new(),
        services: Vec::new(),
        nodes: Vec::new(),
        local: false,
        created: state.date(Duration::ZERO),
        ends: None,
        create_index: index,
        modify_index: index,
    }
}

fn set_agent_token(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Agent, &state.node_name, Access::Write)?;
    let json = body(&call.body)?;
    let secret = Object::of_body(&json, AGENT_TOKEN)?.text("Token").map_err(undecodable)?;
    let kind = call.rest_text();
    if !AGENT_TOKENS.contains(&kind.as_str()) {
        return Err(Refusal::unknown(format!("Token {} is unknown", go::quoted(&kind))));
    }
    // The other ones are for what a simulated agent does without asking anybody.
    if kind == "default" || kind == "acl_token" {
        state.acl.config.default_token = (!secret.is_empty()).then(|| Secret::new(secret));
    }
    Ok(Reply::done())
}
