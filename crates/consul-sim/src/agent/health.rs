//! The health of the agent's services, for load balancers: `/v1/agent/health`.

use super::maintenance::{NODE_MAINTENANCE, SERVICE_MAINTENANCE};
use crate::acl::{Access, Resource};
use crate::catalog::service_json::AgentService;
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::catalog::{Check, Service};
use consul_api::api::agent as wire;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::HEALTH_SERVICE_ID, Handler::Now(by_id)),
    Route(&wire::HEALTH_SERVICE_NAME, Handler::Now(by_name)),
];

/// The aggregated status of an instance's checks, the worst last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Passing,
    Warning,
    Critical,
    Maintenance,
}

impl Health {
    fn of(check: &Check) -> Self {
        let in_maintenance =
            check.check_id == NODE_MAINTENANCE || check.check_id.starts_with(SERVICE_MAINTENANCE);
        match check.status.as_str() {
            _ if in_maintenance => Health::Maintenance,
            "passing" => Health::Passing,
            "warning" => Health::Warning,
            _ => Health::Critical,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Health::Passing => "passing",
            Health::Warning => "warning",
            Health::Critical => "critical",
            Health::Maintenance => "maintenance",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Health::Passing => StatusCode::OK,
            Health::Warning => StatusCode::TOO_MANY_REQUESTS,
            Health::Critical | Health::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct View<'a> {
    aggregated_status: &'static str,
    service: Option<AgentService<'a>>,
    checks: Option<Vec<CheckView<'a>>>,
}

/// A check in the form of Consul's Go client, which includes an empty definition.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CheckView<'a> {
    node: &'a str,
    #[serde(rename = "CheckID")]
    check_id: &'a str,
    name: &'a str,
    status: &'a str,
    notes: &'a str,
    output: &'a str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: Option<&'a [String]>,
    r#type: &'static str,
    exposed_port: u8,
    definition: Definition,
    create_index: u64,
    modify_index: u64,
}

/// An empty definition.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Definition {
    interval: NoTime,
    timeout: NoTime,
    deregister_critical_service_after: NoTime,
    #[serde(rename = "HTTP")]
    http: &'static str,
    header: (),
    method: &'static str,
    body: &'static str,
    #[serde(rename = "TLSServerName")]
    tls_server_name: &'static str,
    #[serde(rename = "TLSSkipVerify")]
    tls_skip_verify: bool,
    #[serde(rename = "TCP")]
    tcp: &'static str,
    #[serde(rename = "TCPUseTLS")]
    tcp_use_tls: bool,
    #[serde(rename = "UDP")]
    udp: &'static str,
    #[serde(rename = "GRPC")]
    grpc: &'static str,
    #[serde(rename = "OSService")]
    os_service: &'static str,
    #[serde(rename = "GRPCUseTLS")]
    grpc_use_tls: bool,
}

#[derive(Default, Serialize)]
enum NoTime {
    #[default]
    #[serde(rename = "0s")]
    Zero,
}

impl<'a> From<&'a Check> for CheckView<'a> {
    fn from(check: &'a Check) -> Self {
        Self {
            node: &check.node,
            check_id: &check.check_id,
            name: &check.name,
            status: &check.status,
            notes: &check.notes,
            output: &check.output,
            service_id: &check.service_id,
            service_name: &check.service_name,
            service_tags: check.service_tags.as_deref(),
            r#type: "",
            exposed_port: 0,
            definition: Definition::default(),
            create_index: 0,
            modify_index: 0,
        }
    }
}

/// An instance with its own and its node's checks, and their aggregated status.
fn health_of<'a>(state: &'a State, service: &'a Service) -> (Health, View<'a>) {
    let checks = state.local.checks.values().map(|local| &local.check);
    let checks =
        checks.filter(|check| check.service_id.is_empty() || check.service_id == service.id);
    let health = checks.clone().map(Health::of).max().unwrap_or(Health::Passing);
    let view = View {
        aggregated_status: health.name(),
        service: Some(AgentService::new(service, &state.settings.datacenter)),
        checks: Some(checks.map(CheckView::from).collect()),
    };
    (health, view)
}

fn by_id(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let id = call.rest_text();
    if id.is_empty() {
        return Err(Refusal::server("Missing serviceID"));
    }
    let authority = state.authority(call);
    authority.known()?;
    Ok(match state.local.services.get(&id) {
        Some(service) => {
            authority.check(Resource::Service, &service.name, Access::Read)?;
            let (health, view) = health_of(state, service);
            answer(call, health.status(), health.name(), &view)
        }
        None => {
            let view = View { aggregated_status: "critical", service: None, checks: None };
            answer(call, StatusCode::NOT_FOUND, &format!("ServiceId {id} not found"), &view)
        }
    })
}

fn by_name(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let name = call.rest_text();
    if name.is_empty() {
        return Err(Refusal::server("Missing service Name"));
    }
    state.authority(call).check(Resource::Service, &name, Access::Read)?;
    let services = state.local.services.values().filter(|service| service.name == name);
    let (healths, views): (Vec<_>, Vec<_>) =
        services.map(|service| health_of(state, service)).unzip();
    Ok(match healths.into_iter().max() {
        Some(worst) => answer(call, worst.status(), worst.name(), &views),
        None => {
            let why = format!("ServiceName {name} Not Found");
            answer(call, StatusCode::NOT_FOUND, &why, &views)
        }
    })
}

/// The view as JSON, or only the reason if the caller wants text.
fn answer(call: &Call, status: StatusCode, reason: &str, view: &impl Serialize) -> Reply {
    let wants_text =
        call.query.get("format") == "text" || call.header(&ACCEPT).contains("text/plain");
    let reply = if wants_text {
        Reply::text(status, reason).with(CONTENT_TYPE, HeaderValue::from_static("text/plain"))
    } else {
        Reply::json_with(status, call.style, view)
    };
    reply.with_text("x-consul-reason", reason)
}

#[cfg(test)]
mod tests {
    use crate::control::testing::World;

    #[test]
    fn a_check_is_written_out_as_consuls_go_client_writes_it() {
        let world = World::new();
        world.put("agent/service/register", r#"{"Name":"w","Check":{"TTL":"1h"}}"#);
        let answer = world.get("agent/health/service/id/w");
        assert_eq!((answer.status(), answer.header("x-consul-reason")), (503, "critical"));
        let expected = r#""ServiceTags":null,"Type":"","ExposedPort":0,"Definition":{"Interval":"0s","Timeout":"0s","DeregisterCriticalServiceAfter":"0s","HTTP":"","Header":null,"Method":"","Body":"","TLSServerName":"","TLSSkipVerify":false,"TCP":"","TCPUseTLS":false,"UDP":"","GRPC":"","OSService":"","GRPCUseTLS":false},"CreateIndex":0,"ModifyIndex":0}]}"#;
        assert!(answer.text().ends_with(expected), "{}", answer.text());
    }

    #[test]
    fn an_unknown_service_is_404_with_the_reason() {
        let world = World::new();
        let answer = world.get("agent/health/service/id/none");
        let expected = r#"{"AggregatedStatus":"critical","Service":null,"Checks":null}"#;
        assert_eq!((answer.status(), answer.text()), (404, expected));
        assert_eq!(answer.header("x-consul-reason"), "ServiceId none not found");
        let answer = world.get("agent/health/service/name/none?format=text");
        assert_eq!((answer.status(), answer.text()), (404, "ServiceName none Not Found"));
        assert_eq!(answer.header("content-type"), "text/plain");
        assert_eq!(world.get("agent/health/service/id/").text(), "Missing serviceID");
    }
}
