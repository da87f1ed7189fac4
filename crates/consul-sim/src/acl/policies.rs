//! Policies: `/v1/acl/policy`.

use super::{
    Access, GLOBAL_MANAGEMENT, GLOBAL_READ_ONLY, Policy, Resource, Rules, check_lookup,
    content_hash,
};
use crate::blocking::{Headers, Read, ResultIndex};
use crate::http::decode::{GoType, Json, Object, with_hint};
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::{Call, query_unescape};
use crate::store::State;
use crate::store::watch::Topic;
use consul_api::api::acl as wire;
use http::StatusCode;
use serde::Serialize;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::POLICIES, Handler::Read(&LIST)),
    Route(&wire::POLICY_CREATE, Handler::Now(create)),
    Route(&wire::POLICY_READ, Handler::Read(&BY_ID)),
    Route(&wire::POLICY_UPDATE, Handler::Now(update)),
    Route(&wire::POLICY_DELETE, Handler::Now(delete)),
    Route(&wire::POLICY_BY_NAME, Handler::Read(&BY_NAME)),
];

const MAX_NAME: usize = 128;

const POLICY: GoType =
    GoType { value: "struct { Hash string; *structs.Alias }", fields: ".Alias." };

/// A policy in replies.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct View<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    description: &'a str,
    rules: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacenters: Option<&'a [String]>,
    hash: String,
    create_index: u64,
    modify_index: u64,
}

/// A policy in lists.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Stub<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    description: &'a str,
    datacenters: Option<&'a [String]>,
    hash: String,
    create_index: u64,
    modify_index: u64,
}

impl<'a> From<&'a Policy> for Stub<'a> {
    fn from(policy: &'a Policy) -> Self {
        Self {
            id: &policy.id,
            name: &policy.name,
            description: &policy.description,
            datacenters: policy.datacenters.as_deref(),
            hash: policy.hash(),
            create_index: policy.create_index,
            modify_index: policy.modify_index,
        }
    }
}

impl Policy {
    fn hash(&self) -> String {
        let fixed = [&self.name, &self.description, &self.text];
        let datacenters = self.datacenters.iter().flatten();
        content_hash(fixed.into_iter().chain(datacenters).map(String::as_str))
    }

    /// The datacenters in which it is valid, if not in all. Lists tell an empty list from none.
    fn valid_in(&self) -> Option<&[String]> {
        self.datacenters.as_deref().filter(|names| !names.is_empty())
    }
}

impl<'a> From<&'a Policy> for View<'a> {
    fn from(policy: &'a Policy) -> Self {
        Self {
            id: &policy.id,
            name: &policy.name,
            description: &policy.description,
            rules: &policy.text,
            datacenters: policy.valid_in(),
            hash: policy.hash(),
            create_index: policy.create_index,
            modify_index: policy.modify_index,
        }
    }
}

static LIST: Read = Read {
    check: |_| Ok(()),
    topics: |_, _| vec![Topic::Policies],
    index: |state, _| ResultIndex::new(state.acl.policies_newest),
    answer: list,
    headers: Headers::Deferred,
};

fn list(state: &State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Read)?;
    let mut policies: Vec<_> = state.acl.policies.values().collect();
    policies.sort_by_key(|policy| policy.name.to_lowercase());
    Ok(Reply::json(call.style, &policies.into_iter().map(Stub::from).collect::<Vec<_>>()))
}

static BY_ID: Read = Read {
    check: |call| call.required_rest("Missing policy ID").map(|_| ()),
    answer: |state, call| read(state, call, true),
    ..LIST
};

static BY_NAME: Read = Read {
    // Consul's clients encode the name twice. Source: `ACLPolicyRead` in Consul's agent/acl_endpoint.go.
    check: |call| {
        let name = call.required_rest("Missing policy Name")?;
        query_unescape(&name).map(|_| ()).map_err(Refusal::server)
    },
    answer: |state, call| read(state, call, false),
    ..LIST
};

fn read(state: &State, call: &Call, by_id: bool) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Read)?;
    let wanted = call.rest_text();
    let policy = if by_id {
        check_lookup("policy", &wanted)?;
        state.acl.policies.get(&wanted)
    } else {
        state.acl.policy_named(&query_unescape(&wanted).map_err(Refusal::server)?)
    };
    match policy {
        Some(policy) => Ok(Reply::json(call.style, &View::from(policy))),
        None => Err(Refusal::unknown("Requested policy does not exist: ACL not found")),
    }
}

/// A policy of a request body.
struct Given {
    id: String,
    name: String,
    description: String,
    rules: String,
    datacenters: Option<Vec<String>>,
}

fn decode(call: &Call) -> Result<Given, Refusal> {
    let read = || -> Result<Given, String> {
        let json = Json::read(&call.body)?;
        let given = Object::new(&json, POLICY)?;
        given.check_known(&[
            "ID",
            "Name",
            "Description",
            "Rules",
            "Datacenters",
            "Hash",
            "CreateIndex",
            "ModifyIndex",
        ])?;
        Ok(Given {
            id: given.text("ID")?,
            name: given.text("Name")?,
            description: given.text("Description")?,
            rules: given.text("Rules")?,
            datacenters: given.texts("Datacenters")?,
        })
    };
    read().map_err(|why| Refusal::bad(format!("Policy decoding failed: {}", with_hint(why))))
}

fn create(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let given = decode(call)?;
    if !given.id.is_empty() {
        return Err(Refusal::bad("Cannot specify the ID when creating a new policy"));
    }
    add(state, call, given)
}

fn add(state: &mut State, call: &Call, given: Given) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    check_name(&given.name)?;
    let id = state.new_id();
    write(state, call, Given { id, ..given }, None)
}

fn update(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let id = call.rest_text();
    let given = decode(call)?;
    if !given.id.is_empty() && given.id != id {
        return Err(Refusal::bad("Policy ID in URL and payload do not match"));
    }
    if id.is_empty() {
        return add(state, call, given);
    }
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    check_name(&given.name)?;
    if !super::is_uuid(&id) {
        return Err(Refusal::server("Policy ID invalid UUID"));
    }
    let Some(present) = state.acl.policies.get(&id).cloned() else {
        return Err(Refusal::server(format!("cannot find policy {id}")));
    };
    write(state, call, Given { id, ..given }, Some(&present))
}

fn write(
    state: &mut State,
    call: &Call,
    given: Given,
    present: Option<&Policy>,
) -> Result<Reply, Refusal> {
    check_taken(state, &given, present)?;
    let builtin = present.filter(|present| is_builtin(&present.id));
    if let Some(Policy { name, .. }) = builtin.filter(|_| given.datacenters.is_some()) {
        return Err(Refusal::server(format!(
            "Changing the Datacenters of the {name} policy is not permitted"
        )));
    }
    if let Some(Policy { name, .. }) = builtin.filter(|it| it.text != given.rules) {
        return Err(Refusal::server(format!(
            "Changing the Rules for the builtin {name} policy is not permitted"
        )));
    }
    let rules = Rules::parse(&given.rules).map_err(Refusal::server)?;
    let index = state.next_index();
    let policy = Policy {
        id: given.id,
        name: given.name,
        description: given.description,
        text: given.rules,
        rules,
        datacenters: given.datacenters,
        create_index: present.map_or(index, |present| present.create_index),
        modify_index: index,
    };
    let reply = Reply::json(call.style, &View::from(&policy));
    state.put_policy(policy);
    Ok(reply)
}

fn is_builtin(id: &str) -> bool {
    id == GLOBAL_MANAGEMENT || id == GLOBAL_READ_ONLY
}

fn invalid(why: &str) -> Refusal {
    Refusal::server(format!("Invalid Policy: {why}"))
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_');
    if name.is_empty() {
        return Err(invalid("no Name is set"));
    }
    if name.len() > MAX_NAME {
        return Err(invalid("invalid Name. Length must be greater than 0 and less than 128"));
    }
    if !name.chars().all(is_allowed) || name.matches('/').count() > 1 {
        return Err(invalid(
            "invalid Name. Only alphanumeric characters, a single '/', '-' and '_' are allowed",
        ));
    }
    match name.starts_with('/') || name.starts_with("builtin/") {
        true => Err(invalid("invalid Name. Names cannot be prefixed with '/' or 'builtin/'")),
        false => Ok(()),
    }
}

/// Refuses a new name that a policy has, be it this one in another spelling.
fn check_taken(state: &State, given: &Given, present: Option<&Policy>) -> Result<(), Refusal> {
    let is_kept = present.is_some_and(|present| present.name == given.name);
    if is_kept || state.acl.policy_named(&given.name).is_none() {
        return Ok(());
    }
    let what = if present.is_none() { "Policy with Name" } else { "policy with name" };
    let name = crate::go::quoted(&given.name);
    Err(invalid(&format!("A {what} {name} already exists")))
}

fn delete(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let id = call.required_rest("Missing policy ID")?;
    super::check_delete(state, call, "policy")?;
    check_lookup("policy", &id)?;
    let Some(policy) = state.acl.policies.get(&id) else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "Cannot find policy to delete"));
    };
    if is_builtin(&id) {
        let name = &policy.name;
        return Err(Refusal::server(format!(
            "Delete operation not permitted on the builtin {name} policy"
        )));
    }
    state.acl.policies_newest = state.next_index();
    state.acl.policies.remove(&id);
    state.touch(Topic::Policies);
    Ok(Reply::json(call.style, &true))
}

/// Adds the built-in policies.
pub(super) fn add_builtin(state: &mut State) {
    let builtin = [
        (GLOBAL_MANAGEMENT, "global-management", "read and write", "write"),
        (GLOBAL_READ_ONLY, "builtin/global-read-only", "read-only", "read"),
    ];
    for (id, name, kind, level) in builtin {
        let index = state.next_index();
        let text = builtin_rules(level);
        state.put_policy(Policy {
            id: id.to_owned(),
            name: name.to_owned(),
            description: format!(
                "A built-in policy that grants {kind} access to all Consul features"
            ),
            // They are constants, and parse without an error.
            rules: Rules::parse(&text).unwrap_or_default(),
            text,
            datacenters: None,
            create_index: index,
            modify_index: index,
        });
    }
}

/// Rules for one access to everything, in Consul's layout.
fn builtin_rules(level: &str) -> String {
    let single = |name: &str| format!("\n{name} = \"{level}\"");
    let prefix = |name: &str| format!("\n{name}_prefix \"\" {{\n\tpolicy = \"{level}\"\n}}");
    [
        single("acl"),
        prefix("agent"),
        prefix("event"),
        prefix("key"),
        single("keyring"),
        prefix("node"),
        single("operator"),
        single("mesh"),
        single("peering"),
        prefix("query"),
        format!("\nservice_prefix \"\" {{\n\tpolicy = \"{level}\"\n\tintentions = \"{level}\"\n}}"),
        prefix("session"),
    ]
    .concat()
}
