//! Roles: `/v1/acl/role`.

use super::templates::{self, Templated};
use super::token_body::{self, Link};
use super::token_view::{self, NodeView, ServiceView};
use super::{
    Access, NodeIdentity, Policy, Resource, Role, ServiceIdentity, check_lookup, content_hash,
    identity_texts,
};
use crate::blocking::{Headers, Read, ResultIndex};
use crate::go;
use crate::http::decode::{GoType, Json, Object, with_hint};
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::watch::Topic;
use consul_api::api::acl as wire;
use serde::Serialize;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::ROLES, Handler::Read(&LIST)),
    Route(&wire::ROLE_CREATE, Handler::Now(create)),
    Route(&wire::ROLE_READ, Handler::Read(&BY_ID)),
    Route(&wire::ROLE_UPDATE, Handler::Now(update)),
    Route(&wire::ROLE_DELETE, Handler::Now(delete)),
    Route(&wire::ROLE_BY_NAME, Handler::Read(&BY_NAME)),
];

const ROLE: GoType = GoType { value: "struct { Hash string; *structs.Alias }", fields: ".Alias." };

/// The longest name of a role or an identity.
const MAX_NAME: usize = 256;

/// A role in replies.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct View<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<token_view::Link<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service_identities: Vec<ServiceView<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    node_identities: Vec<NodeView<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    templated_policies: Vec<templates::View<'a>>,
    hash: String,
    create_index: u64,
    modify_index: u64,
}

impl<'a> View<'a> {
    pub fn new(state: &'a State, role: &'a Role) -> Self {
        Self {
            id: &role.id,
            name: &role.name,
            description: &role.description,
            policies: token_view::policy_links(state, &role.policies),
            service_identities: role.services.iter().map(ServiceView::from).collect(),
            node_identities: role.nodes.iter().map(NodeView::from).collect(),
            templated_policies: role.templates.iter().map(templates::View::from).collect(),
            hash: content_hash(
                [&role.name, &role.description]
                    .into_iter()
                    .chain(&role.policies)
                    .map(String::as_str)
                    .chain(identity_texts(&role.services, &role.nodes, &role.templates)),
            ),
            create_index: role.create_index,
            modify_index: role.modify_index,
        }
    }
}

static LIST: Read = Read {
    check: |_| Ok(()),
    topics: |_, _| vec![Topic::Roles],
    index: |state, _| ResultIndex::new(state.acl.roles_newest),
    answer: list,
    headers: Headers::Deferred,
};

fn list(state: &State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Read)?;
    let policy = call.query.get("policy");
    if !policy.is_empty() {
        super::check_index("role", policy, "invalid")?;
    }
    let has_policy =
        |role: &&Role| policy.is_empty() || role.policies.iter().any(|id| id == policy);
    let mut roles: Vec<_> = state.acl.roles.values().filter(has_policy).collect();
    roles.sort_by_key(|role| role.name.to_lowercase());
    let views: Vec<_> = roles.into_iter().map(|role| View::new(state, role)).collect();
    Ok(Reply::json(call.style, &views))
}

static BY_ID: Read = Read {
    check: |call| call.required_rest("Missing role ID").map(|_| ()),
    answer: |state, call| read(state, call, true),
    ..LIST
};

static BY_NAME: Read = Read {
    check: |call| call.required_rest("Missing role Name").map(|_| ()),
    answer: |state, call| read(state, call, false),
    ..LIST
};

fn read(state: &State, call: &Call, by_id: bool) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Read)?;
    let wanted = call.rest_text();
    let role = if by_id {
        check_lookup("role", &wanted)?;
        state.acl.roles.get(&wanted)
    } else {
        state.acl.role_named(&wanted)
    };
    match role {
        Some(role) => Ok(Reply::json(call.style, &View::new(state, role))),
        None => Err(Refusal::unknown("Requested role does not exist: ACL not found")),
    }
}

/// A role of a request body.
struct Given {
    id: String,
    name: String,
    description: String,
    policies: Vec<Link>,
    services: Vec<ServiceIdentity>,
    nodes: Vec<NodeIdentity>,
    templates: Vec<Templated>,
}

fn decode(call: &Call) -> Result<Given, Refusal> {
    let read = || -> Result<Given, String> {
        let json = Json::read(&call.body)?;
        let given = Object::new(&json, ROLE)?;
        given.check_known(&[
            "ID",
            "Name",
            "Description",
            "Policies",
            "ServiceIdentities",
            "NodeIdentities",
            "TemplatedPolicies",
            "Hash",
            "CreateIndex",
            "ModifyIndex",
        ])?;
        Ok(Given {
            id: given.text("ID")?,
            name: given.text("Name")?,
            description: given.text("Description")?,
            policies: token_body::links(&given, "Policies", "structs.ACLRolePolicyLink")?,
            services: token_body::services(&given)?,
            nodes: token_body::nodes(&given)?,
            templates: Templated::read_all(&given)?,
        })
    };
    read().map_err(|why| Refusal::bad(format!("Role decoding failed: {}", with_hint(why))))
}

fn create(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let given = decode(call)?;
    check_same_id(&given, "")?;
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    check_name(&given.name)?;
    if state.acl.role_named(&given.name).is_some() {
        let name = go::quoted(&given.name);
        return Err(invalid(&format!("A Role with Name {name} already exists")));
    }
    let id = state.new_id();
    write(state, call, Given { id, ..given }, None)
}

fn update(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let id = call.rest_text();
    if id.is_empty() {
        return create(state, call);
    }
    let given = decode(call)?;
    check_same_id(&given, &id)?;
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    check_name(&given.name)?;
    if !super::is_uuid(&id) {
        return Err(Refusal::server("Role ID invalid UUID"));
    }
    let Some(present) = state.acl.roles.get(&id) else {
        return Err(Refusal::server(format!("cannot find role {id}")));
    };
    let created = present.create_index;
    // Its own name in another spelling is taken, too.
    if present.name != given.name && state.acl.role_named(&given.name).is_some() {
        let name = go::quoted(&given.name);
        return Err(invalid(&format!("A role with name {name} already exists")));
    }
    write(state, call, Given { id, ..given }, Some(created))
}

fn check_same_id(given: &Given, id: &str) -> Result<(), Refusal> {
    match given.id.is_empty() || given.id == id {
        true => Ok(()),
        false => Err(Refusal::bad("Role ID in URL and payload do not match")),
    }
}

fn invalid(why: &str) -> Refusal {
    Refusal::server(format!("Invalid Role: {why}"))
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let is_right = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() {
        return Err(invalid("no Name is set"));
    }
    match name.len() <= MAX_NAME && name.chars().all(is_right) {
        true => Ok(()),
        false => {
            Err(invalid("invalid Name. Only alphanumeric characters, '-' and '_' are allowed"))
        }
    }
}

/// Writes a role; `created` is the create index of the role that it replaces.
fn write(
    state: &mut State,
    call: &Call,
    given: Given,
    created: Option<u64>,
) -> Result<Reply, Refusal> {
    for (_, name) in given.policies.iter().filter(|(id, _)| id.is_empty()) {
        named_policy(state, name)?;
    }
    token_body::check_identities(&given.services, &given.nodes, "role", false)?;
    let templates = templates::checked(given.templates, "role")?;
    let policies = policies(state, &given.policies)?;
    let index = state.next_index();
    let role = Role {
        id: given.id,
        name: given.name,
        description: given.description,
        policies,
        services: given.services,
        nodes: given.nodes,
        templates,
        create_index: created.unwrap_or(index),
        modify_index: index,
    };
    let reply = Reply::json(call.style, &View::new(state, &role));
    state.acl.roles_newest = index;
    state.acl.roles.insert(role.id.clone(), role);
    state.touch(Topic::Roles);
    Ok(reply)
}

fn named_policy<'a>(state: &'a State, name: &str) -> Result<&'a Policy, Refusal> {
    let unknown = || Refusal::server(format!("No such ACL policy with name {}", go::quoted(name)));
    state.acl.policy_named(name).ok_or_else(unknown)
}

/// The ids of a role's policies; refuses unknown ones.
fn policies(state: &State, links: &[Link]) -> Result<Vec<String>, Refusal> {
    let mut policies = Vec::new();
    for (id, name) in links {
        let found = if id.is_empty() {
            named_policy(state, name)?
        } else {
            let upsert =
                |why: &str| Refusal::server(format!("Failed to apply role upsert request: {why}"));
            check_lookup("policy", id).map_err(|why| upsert(&why.text))?;
            let found = state.acl.policies.get(id);
            found.ok_or_else(|| upsert(&format!("No such policy with ID: {id}")))?
        };
        let id = &found.id;
        if !policies.contains(id) {
            policies.push(id.clone());
        }
    }
    Ok(policies)
}

fn delete(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let id = call.required_rest("Missing role ID")?;
    super::check_delete(state, call, "role")?;
    check_lookup("role", &id)?;
    if state.acl.roles.remove(&id).is_none() {
        return Err(Refusal::unknown("Cannot find role to delete"));
    }
    state.acl.roles_newest = state.next_index();
    state.touch(Topic::Roles);
    Ok(Reply::json(call.style, &true))
}
