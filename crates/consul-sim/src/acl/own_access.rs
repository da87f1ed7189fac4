//! The rights of the caller's own token (`/v1/internal/acl/authorize`), and the replication of tokens, which is off.

use super::{Access, Resource};
use crate::go;
use crate::http::decode::{GoType, Json, Object};
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use consul_api::api::acl as wire;
use serde::Serialize;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::AUTHORIZE, Handler::Now(authorize)),
    Route(&wire::REPLICATION, Handler::Checked(replication)),
];

const REQUESTS: &str = "[]structs.ACLAuthorizationRequest";
const REQUEST: GoType =
    GoType { value: "structs.ACLAuthorizationRequest", fields: "ACLAuthorizationRequest." };
const MAX_REQUESTS: usize = 64;

/// One access that the caller asks for, and the answer.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Authorization {
    resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    segment: String,
    access: String,
    allow: bool,
}

fn authorize(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let mut requests = decode(call)
        .map_err(|why| Refusal::bad(format!("Failed to decode request body: {why}")))?;
    if requests.len() > MAX_REQUESTS {
        let why = format!("Refusing to process more than {MAX_REQUESTS} authorizations at once");
        return Err(Refusal::bad(why));
    }
    if !requests.is_empty() {
        call.check_datacenter(&state.settings)?;
    }
    let authority = state.authority(call);
    authority.known()?;
    for request in &mut requests {
        let resource = request.resource()?;
        let name = if resource.has_names() { request.segment.as_str() } else { "" };
        request.allow = match request.access.as_str() {
            "write-prefix" if resource == Resource::Key => authority.allows_tree(name.as_bytes()),
            _ => authority.allows(resource, name, request.access(resource)?),
        };
    }
    Ok(Reply::json(call.style, &requests))
}

fn decode(call: &Call) -> Result<Vec<Authorization>, String> {
    let json = Json::read(&call.body)?;
    let items = match &json {
        Json::Null => &[],
        Json::List(items) => items.as_slice(),
        other => return Err(other.value_type_error(REQUESTS)),
    };
    let read = |item: &Json| {
        let item = Object::new(item, REQUEST)?;
        item.check_known(&["Resource", "Segment", "Access"])?;
        Ok(Authorization {
            resource: item.text("Resource")?,
            segment: item.text("Segment")?,
            access: item.text("Access")?,
            allow: false,
        })
    };
    items.iter().map(read).collect()
}

impl Authorization {
    fn resource(&self) -> Result<Resource, Refusal> {
        let name = self.resource.as_str();
        Resource::of_name(name).ok_or_else(|| {
            Refusal::bad(format!("Invalid ACL resource requested: {}", go::quoted(name)))
        })
    }

    fn access(&self, resource: Resource) -> Result<Access, Refusal> {
        match self.access.as_str() {
            "read" => Ok(Access::Read),
            "write" => Ok(Access::Write),
            "list" if resource == Resource::Key => Ok(Access::List),
            other => {
                let name = &self.resource;
                Err(Refusal::bad(format!("Invalid access level for {name} resource: {other}")))
            }
        }
    }
}

/// The state of the only datacenter, which copies from no other. Anybody may read it.
fn replication(_: &mut State, call: &Call) -> Result<Reply, Refusal> {
    const NEVER: &str = "0001-01-01T00:00:00Z";
    #[derive(Default, Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Status {
        enabled: bool,
        running: bool,
        source_datacenter: &'static str,
        replication_type: &'static str,
        replicated_index: u64,
        replicated_role_index: u64,
        replicated_token_index: u64,
        last_success: &'static str,
        last_error: &'static str,
        last_error_message: &'static str,
    }
    let status = Status { last_success: NEVER, last_error: NEVER, ..Status::default() };
    Ok(Reply::json(call.style, &status))
}
