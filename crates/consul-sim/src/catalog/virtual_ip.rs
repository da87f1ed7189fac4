//! `/v1/internal/service-virtual-ip`: virtual addresses that an operator assigns to services in the mesh.

use crate::acl::{Access, Resource};
use crate::go;
use crate::http::decode::{GoType, Object, body, decode_error};
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::watch::Topic;
use consul_api::table::{Endpoint, SCOPE};
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

pub(super) static ROUTES: &[Route] = &[Route(&ASSIGN, Handler::Now(assign))];

/// It is for Consul's own programs, so clients have no method for it.
static ASSIGN: Endpoint = Endpoint {
    options: &[&[SCOPE[1], SCOPE[2]]],
    ..Endpoint::write(
        "internal_service_virtual_ip",
        "/v1/internal/service-virtual-ip",
        "Assigns virtual addresses to a service.",
    )
};

/// The most addresses of a service.
const MAX_ADDRESSES: usize = 8;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Assigned {
    found: bool,
    /// The services that had an address before; null if there are none.
    unassigned_from: Option<Vec<PeeredName>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PeeredName {
    service_name: Name,
    peer: &'static str,
}

#[derive(Serialize)]
struct Name {
    #[serde(rename = "Name")]
    name: String,
}

fn assign(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    const REQUEST: GoType = GoType {
        value: "structs.AssignServiceManualVIPsRequest",
        fields: "AssignServiceManualVIPsRequest.",
    };
    let json = body(&call.body)?;
    let given = Object::of_body(&json, REQUEST)?;
    let read = || {
        given.check_known(&["Service", "ManualVIPs", "Datacenter"])?;
        Ok((given.text("Service")?, given.texts("ManualVIPs")?.unwrap_or_default()))
    };
    let (service, addresses) = read().map_err(decode_error)?;
    state.authority(call).check(Resource::Mesh, "", Access::Write)?;
    if addresses.len() > MAX_ADDRESSES {
        return Err(Refusal::server(format!(
            "cannot associate more than {MAX_ADDRESSES} manual virtual IPs with the same service"
        )));
    }
    if let Some(wrong) = addresses.iter().find(|text| text.parse::<Ipv4Addr>().is_err()) {
        let shown = wrong.parse::<IpAddr>();
        let shown = shown.map_or_else(|_| "<nil>".to_owned(), |address| address.to_string());
        let why = format!("{} is not a valid IPv4 address", go::quoted(shown));
        return Err(Refusal::server(why));
    }
    let addresses: BTreeSet<String> = addresses.into_iter().collect();
    let known = state.catalog.manual_addresses(&service);
    let found = known.is_some();
    let mut losers = Vec::new();
    if known.is_none_or(|known| *known != addresses) {
        state.next_index();
        if found {
            losers = state.catalog.assign_addresses(&service, addresses);
            state.touch(Topic::Entries);
        }
    }
    let names = losers
        .into_iter()
        .map(|name| PeeredName { service_name: Name { name }, peer: "" })
        .collect::<Vec<_>>();
    let unassigned_from = (!names.is_empty()).then_some(names);
    Ok(Reply::json(call.style, &Assigned { found, unassigned_from }))
}
