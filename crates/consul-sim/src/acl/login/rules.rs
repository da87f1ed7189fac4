//! Binding rules: `/v1/acl/binding-rule`.

use super::table::{Bind, Rule, filter};
use crate::acl::templates;
use crate::acl::{Access, Resource, check_lookup, is_uuid};
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
    Route(&wire::BINDING_RULES, Handler::Read(&LIST)),
    Route(&wire::BINDING_RULE_CREATE, Handler::Now(create)),
    Route(&wire::BINDING_RULE_READ, Handler::Read(&ONE)),
    Route(&wire::BINDING_RULE_UPDATE, Handler::Now(update)),
    Route(&wire::BINDING_RULE_DELETE, Handler::Now(delete)),
];

const RULE: GoType = GoType { value: "structs.ACLBindingRule", fields: "ACLBindingRule." };

const MISSING: &str = "Missing binding rule ID";

/// Consul's words before the error of a filter, but not before a selector's.
const OF_FILTERS: &str = "Failed to create boolean expression evaluator: ";

/// A rule in replies.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct View<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    description: &'a str,
    auth_method: &'a str,
    selector: &'a str,
    bind_type: Bind,
    bind_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bind_vars: Option<templates::Variables<'a>>,
    create_index: u64,
    modify_index: u64,
}

impl<'a> From<&'a Rule> for View<'a> {
    fn from(rule: &'a Rule) -> Self {
        Self {
            id: &rule.id,
            description: &rule.description,
            auth_method: &rule.method,
            selector: &rule.selector,
            bind_type: rule.bind,
            bind_name: &rule.bind_name,
            bind_vars: rule.variable.as_deref().map(|name| templates::Variables { name }),
            create_index: rule.create_index,
            modify_index: rule.modify_index,
        }
    }
}

static LIST: Read = Read {
    check: |_| Ok(()),
    topics: |_, _| vec![Topic::BindingRules],
    index: |state, _| ResultIndex::new(state.acl.logins.rules_newest),
    answer: list,
    headers: Headers::Deferred,
};

fn list(state: &State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Read)?;
    let method = call.query.get("authmethod");
    let rules = state.acl.logins.rules.values();
    let rules = rules.filter(|rule| method.is_empty() || rule.method == method);
    Ok(Reply::json(call.style, &rules.map(View::from).collect::<Vec<_>>()))
}

static ONE: Read =
    Read { check: |call| call.required_rest(MISSING).map(|_| ()), answer: read, ..LIST };

fn read(state: &State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Read)?;
    let id = call.rest_text();
    check_lookup("binding rule", &id)?;
    match state.acl.logins.rules.get(&id) {
        Some(rule) => Ok(Reply::json(call.style, &View::from(rule))),
        None => Err(Refusal::unknown("Requested binding rule does not exist: ACL not found")),
    }
}

/// A rule of a request body.
struct Given {
    id: String,
    description: String,
    method: String,
    selector: String,
    bind_type: String,
    bind_name: String,
    variable: Option<String>,
}

fn decode(call: &Call, id: &str) -> Result<Given, Refusal> {
    let read = || -> Result<Given, String> {
        let json = Json::read(&call.body)?;
        let given = Object::new(&json, RULE)?;
        given.check_known(&[
            "ID",
            "Description",
            "AuthMethod",
            "Selector",
            "BindType",
            "BindName",
            "BindVars",
            "CreateIndex",
            "ModifyIndex",
        ])?;
        Ok(Given {
            id: given.text("ID")?,
            description: given.text("Description")?,
            method: given.text("AuthMethod")?,
            selector: given.text("Selector")?,
            bind_type: given.text("BindType")?,
            bind_name: given.text("BindName")?,
            variable: templates::variable(&given, "BindVars")?,
        })
    };
    let given = read()
        .map_err(|why| Refusal::bad(format!("BindingRule decoding failed: {}", with_hint(why))))?;
    match given.id.is_empty() || given.id == id {
        true => Ok(given),
        false => Err(Refusal::bad("BindingRule ID in URL and payload do not match")),
    }
}

fn create(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let given = decode(call, "")?;
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    let id = state.new_id();
    write(state, call, Given { id, ..given }, None)
}

fn update(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let id = call.rest_text();
    if id.is_empty() {
        return create(state, call);
    }
    let given = decode(call, &id)?;
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    if !is_uuid(&id) {
        return Err(Refusal::server("Binding Rule ID invalid UUID"));
    }
    let Some(known) = state.acl.logins.rules.get(&id) else {
        return Err(Refusal::server(format!("cannot find binding rule {id}")));
    };
    let method = if given.method.is_empty() { known.method.clone() } else { given.method.clone() };
    if method != known.method {
        return Err(Refusal::server("the AuthMethod field of an Binding Rule is immutable"));
    }
    let created = known.create_index;
    write(state, call, Given { id, method, ..given }, Some(created))
}

fn invalid(why: &str) -> Refusal {
    Refusal::server(format!("Invalid Binding Rule: {why}"))
}

fn write(
    state: &mut State,
    call: &Call,
    given: Given,
    created: Option<u64>,
) -> Result<Reply, Refusal> {
    if given.method.is_empty() {
        return Err(invalid("no AuthMethod is set"));
    }
    let Some(method) = state.acl.logins.methods.get(&given.method) else {
        let name = go::quoted(&given.method);
        return Err(Refusal::server(format!("cannot find auth method with name {name}")));
    };
    let filter = filter(&given.selector, method.kind.identities()).map_err(|why| {
        let why = why.strip_prefix(OF_FILTERS).unwrap_or(&why);
        Refusal::server(format!("invalid Binding Rule: Selector is invalid: {why}"))
    })?;
    if given.bind_type.is_empty() {
        return Err(invalid("no BindType is set"));
    }
    if given.bind_name.is_empty() {
        return Err(invalid("no BindName is set"));
    }
    let wrong = |why: &str| invalid(&format!("invalid BindName or BindVars: {why}"));
    let kind = go::quoted(&given.bind_type);
    let Some(bind) = Bind::new(&given.bind_type) else {
        return Err(wrong(&format!("invalid Binding Rule: unknown BindType {kind}")));
    };
    if given.variable.is_some() && bind != Bind::TemplatedPolicy {
        return Err(Refusal::server(
            "invalid Binding Rule: BindVars cannot be set when bind type is not templated-policy.",
        ));
    }
    let variables = method.kind.variables();
    let mut rule = Rule {
        id: given.id,
        description: given.description,
        method: given.method,
        selector: given.selector,
        filter,
        bind,
        bind_name: given.bind_name,
        variable: given.variable,
        create_index: 0,
        modify_index: 0,
    };
    let checked = match bind {
        Bind::TemplatedPolicy => rule.templated(&variables).map(drop),
        _ => rule.name(&variables).map(drop),
    };
    checked.map_err(|why| wrong(&format!("failed to validate bindType {kind}: {why}")))?;
    let index = state.next_index();
    (rule.create_index, rule.modify_index) = (created.unwrap_or(index), index);
    let reply = Reply::json(call.style, &View::from(&rule));
    state.acl.logins.rules_newest = index;
    state.acl.logins.rules.insert(rule.id.clone(), rule);
    state.touch(Topic::BindingRules);
    Ok(reply)
}

fn delete(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let id = call.required_rest(MISSING)?;
    super::super::check_delete(state, call, "binding rule")?;
    check_lookup("binding rule", &id)?;
    if state.acl.logins.rules.remove(&id).is_none() {
        return Err(Refusal::unknown("Cannot find binding rule to delete"));
    }
    state.acl.logins.rules_newest = state.next_index();
    state.touch(Topic::BindingRules);
    Ok(Reply::json(call.style, &true))
}
