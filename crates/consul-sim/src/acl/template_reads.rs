//! Reads of templated policies: `/v1/acl/templated-policy`.

use super::policies;
use super::policy::{Access, Resource};
use super::templates::{SCHEMA, TEMPLATES, Template};
use crate::go;
use crate::http::decode::{GoType, Json, Object};
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use consul_api::api::acl as wire;
use serde::Serialize;
use std::collections::BTreeMap;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::TEMPLATED_POLICIES, Handler::Now(list)),
    Route(&wire::TEMPLATED_POLICY_READ, Handler::Now(read)),
    Route(&wire::TEMPLATED_POLICY_PREVIEW, Handler::Now(preview)),
];

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    template_name: &'static str,
    schema: &'static str,
    template: String,
    description: &'static str,
}

impl From<&Template> for Shown {
    fn from(template: &Template) -> Self {
        Self {
            template_name: template.name,
            schema: if template.has_name() { SCHEMA } else { "" },
            template: template.rules("{{.Name}}"),
            description: template.description,
        }
    }
}

fn list(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Read)?;
    let all = TEMPLATES.iter().map(|template| (template.name, Shown::from(template)));
    Ok(Reply::json(call.style, &BTreeMap::from_iter(all)))
}

/// The template of a path; `unknown` is the error text for a missing template.
fn wanted(
    state: &State,
    call: &Call,
    unknown: impl Fn(&str) -> String,
) -> Result<&'static Template, Refusal> {
    let name = call.required_rest("Missing templated policy Name")?;
    state.authority(call).check(Resource::Acl, "", Access::Read)?;
    Template::named(&name).ok_or_else(|| Refusal::bad(unknown(&name)))
}

fn read(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let template = wanted(state, call, |name| format!("Invalid templated policy Name: {name}"))?;
    Ok(Reply::json(call.style, &Shown::from(template)))
}

const VARIABLES: GoType =
    GoType { value: "structs.ACLTemplatedPolicyVariables", fields: "ACLTemplatedPolicyVariables." };

fn preview(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let unknown = |name: &str| format!("templated policy {} does not exist", go::quoted(name));
    let template = wanted(state, call, unknown)?;
    let read = || -> Result<String, String> {
        let json = Json::read(&call.body)?;
        let given = Object::new(&json, VARIABLES)?;
        given.check_known(&["name"])?;
        given.text("name")
    };
    let variable =
        read().map_err(|why| Refusal::bad(format!("Failed to decode request body: {why}")))?;
    template.check(Some(&variable)).map_err(|why| {
        let name = go::quoted(template.name);
        Refusal::bad(format!("validation error for templated policy: {name}: {why}"))
    })?;
    let policy = template.synthetic(&variable, None);
    Ok(Reply::json(call.style, &policies::View::from(&policy)))
}
