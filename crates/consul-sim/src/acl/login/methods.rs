//! Auth methods: `/v1/acl/auth-method`.

use super::table::{JWT, KUBERNETES, Kind, Method};
use crate::acl::{Access, Resource};
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
use serde_json::Value;
use std::time::Duration;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::AUTH_METHODS, Handler::Read(&LIST)),
    Route(&wire::AUTH_METHOD_CREATE, Handler::Now(create)),
    Route(&wire::AUTH_METHOD_READ, Handler::Read(&ONE)),
    Route(&wire::AUTH_METHOD_UPDATE, Handler::Now(update)),
    Route(&wire::AUTH_METHOD_DELETE, Handler::Now(delete)),
];

const METHOD: GoType =
    GoType { value: "struct { MaxTokenTTL interface {}; *structs.Alias }", fields: ".Alias." };

/// The longest name.
const MAX_NAME: usize = 128;

/// The shortest life of a token, and the unit in which a number gives it.
const MIN_TTL: Duration = Duration::from_secs(60);

const MISSING: &str = "Missing auth method name";

/// The types that Consul knows; the simulated agent has two of them.
const TYPES: &[&str] = &["aws-iam", JWT, KUBERNETES];
/// A method in replies; in lists without its configuration.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct View<'a> {
    #[serde(rename = "MaxTokenTTL", skip_serializing_if = "Option::is_none")]
    max_token_ttl: Option<String>,
    name: &'a str,
    r#type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    display_name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    token_locality: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<&'a Value>,
    create_index: u64,
    modify_index: u64,
}

impl<'a> View<'a> {
    fn new(method: &'a Method) -> Self {
        let ttl = method.max_token_ttl;
        Self {
            max_token_ttl: (!ttl.is_zero()).then(|| go::duration_text(ttl)),
            name: &method.name,
            r#type: &method.r#type,
            display_name: &method.display_name,
            description: &method.description,
            token_locality: &method.locality,
            config: Some(&method.config),
            create_index: method.create_index,
            modify_index: method.modify_index,
        }
    }
}

static LIST: Read = Read {
    check: |_| Ok(()),
    topics: |_, _| vec![Topic::AuthMethods],
    index: |state, _| ResultIndex::new(state.acl.logins.methods_newest),
    answer: list,
    headers: Headers::Deferred,
};

fn list(state: &State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Read)?;
    let methods = state.acl.logins.methods.values();
    let views: Vec<_> = methods.map(|it| View { config: None, ..View::new(it) }).collect();
    Ok(Reply::json(call.style, &views))
}

static ONE: Read =
    Read { check: |call| call.required_rest(MISSING).map(|_| ()), answer: read, ..LIST };

fn read(state: &State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Read)?;
    match state.acl.logins.methods.get(&call.rest_text()) {
        Some(method) => Ok(Reply::json(call.style, &View::new(method))),
        None => Err(Refusal::unknown("Requested auth method does not exist: ACL not found")),
    }
}

/// A method of a request body.
struct Given {
    name: String,
    r#type: String,
    display_name: String,
    description: String,
    ttl_nanos: i64,
    locality: String,
    config: Vec<(String, Json)>,
}

fn decode(call: &Call) -> Result<Given, Refusal> {
    let read = || -> Result<Given, String> {
        let json = Json::read(&call.body)?;
        let given = Object::new(&json, METHOD)?;
        given.check_known(&[
            "Name",
            "Type",
            "DisplayName",
            "Description",
            "MaxTokenTTL",
            "TokenLocality",
            "Config",
            "CreateIndex",
            "ModifyIndex",
        ])?;
        Ok(Given {
            name: given.text("Name")?,
            r#type: given.text("Type")?,
            display_name: given.text("DisplayName")?,
            description: given.text("Description")?,
            ttl_nanos: match given.get("MaxTokenTTL") {
                Some(Json::Text(text)) if !text.is_empty() => go::duration(text)?,
                Some(Json::Text(_)) => 0,
                Some(Json::Number(_)) => given.int("MaxTokenTTL")?,
                _ => 0,
            },
            locality: given.text("TokenLocality")?,
            config: given.object("Config", "map[string]interface {}")?.unwrap_or(&[]).to_vec(),
        })
    };
    read().map_err(|why| Refusal::bad(format!("AuthMethod decoding failed: {}", with_hint(why))))
}

fn create(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let given = decode(call)?;
    write(state, call, given)
}

fn update(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let name = call.rest_text();
    let given = decode(call)?;
    if !given.name.is_empty() && !name.is_empty() && given.name != name {
        return Err(Refusal::bad("AuthMethod Name in URL and payload do not match"));
    }
    let name = if name.is_empty() { given.name.clone() } else { name };
    write(state, call, Given { name, ..given })
}

fn invalid(why: &str) -> Refusal {
    Refusal::server(format!("Invalid Auth Method: {why}"))
}

fn write(state: &mut State, call: &Call, mut given: Given) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    let is_right = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if given.name.is_empty() {
        return Err(invalid("no Name is set"));
    }
    if given.name.len() > MAX_NAME || !given.name.chars().all(is_right) {
        return Err(invalid("invalid Name. Only alphanumeric characters, '-' and '_' are allowed"));
    }
    let known = state.acl.logins.methods.get(&given.name);
    let created = known.map(|known| known.create_index);
    if let Some(known) = known {
        if given.r#type.is_empty() {
            given.r#type.clone_from(&known.r#type);
        }
        if given.r#type != known.r#type {
            return Err(Refusal::server("the Type field of an Auth Method is immutable"));
        }
    }
    if !TYPES.contains(&given.r#type.as_str()) {
        return Err(invalid(&format!("Type should be one of: [{}]", TYPES.join(" "))));
    }
    let max_token_ttl = Duration::from_nanos(given.ttl_nanos.unsigned_abs());
    if given.ttl_nanos != 0 && (given.ttl_nanos < 0 || max_token_ttl < MIN_TTL) {
        let sign = if given.ttl_nanos < 0 { "-" } else { "" };
        let (ttl, least) = (go::duration_text(max_token_ttl), go::duration_text(MIN_TTL));
        return Err(Refusal::server(format!(
            "MaxTokenTTL {sign}{ttl} cannot be less than {least}"
        )));
    }
    if !["", "local", "global"].contains(&given.locality.as_str()) {
        return Err(invalid("TokenLocality should be one of 'local' or 'global'"));
    }
    let kind = Kind::new(&given.r#type, &given.config).map_err(|why| invalid(&why))?;
    let index = state.next_index();
    let method = Method {
        name: given.name,
        r#type: given.r#type,
        display_name: given.display_name,
        description: given.description,
        max_token_ttl,
        locality: given.locality,
        config: Value::from(&Json::Object(given.config)),
        kind,
        create_index: created.unwrap_or(index),
        modify_index: index,
    };
    let reply = Reply::json(call.style, &View::new(&method));
    state.acl.logins.methods_newest = index;
    state.acl.logins.methods.insert(method.name.clone(), method);
    state.touch(Topic::AuthMethods);
    Ok(reply)
}

fn delete(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let name = call.required_rest(MISSING)?;
    super::super::check_delete(state, call, "auth method")?;
    let Some(method) = state.acl.logins.methods.remove(&name) else {
        return Err(Refusal::unknown("Cannot find auth method to delete"));
    };
    super::forget(state, &name, method.is_local());
    let index = state.next_index();
    state.acl.logins.methods_newest = index;
    state.acl.logins.rules_newest = index;
    state.touch(Topic::AuthMethods);
    state.touch(Topic::BindingRules);
    Ok(Reply::json(call.style, &true))
}
