//! The service mesh, as far as it is simulated: its root certificate, and permission for all
//! services to connect. Leaf certificates are not issued.

use crate::simulate::acl::{Access, DefaultPolicy, Resource};
use crate::simulate::blocking::{Headers, Read, ResultIndex, cache_headers};
use crate::simulate::go;
use crate::simulate::http::decode::{GoType, Object, body, decode_error};
use crate::simulate::http::handler::{Handler, Route};
use crate::simulate::http::reply::{Refusal, Reply};
use crate::simulate::http::request::Call;
use crate::simulate::store::State;
use crate::wire::api::{agent, connect as wire};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::CA_ROOTS, Handler::Read(&ROOTS)),
    Route(&agent::CONNECT_CA_ROOTS, Handler::Read(&CACHED_ROOTS)),
    Route(&agent::CONNECT_CA_LEAF, Handler::Now(leaf)),
    Route(&agent::CONNECT_AUTHORIZE, Handler::Now(authorize)),
];

/// A certificate that is valid until 2126, and its fields. It has signed nothing.
const ROOT_CERT: &str = include_str!("ca_root.pem");
const ROOT_ID: &str = "a2:10:43:42:b2:0a:77:78:38:35:7a:c1:38:af:81:25:5c:82:2a:0a";
const SIGNING_KEY_ID: &str = "81:d3:ed:a0:15:68:64:49:fb:13:13:7c:ec:36:42:aa:80:34:ad:b5";
const TRUST_DOMAIN: &str = "5ca1ab1e-0000-4000-8000-000000000001";
const NOT_BEFORE: &str = "2026-11-20T09:50:25Z";
const NOT_AFTER: &str = "2126-10-27T09:50:25Z";

/// The index at which a fresh server creates its certificate authority.
const INDEX: u64 = 9;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Roots {
    #[serde(rename = "ActiveRootID")]
    active_root_id: &'static str,
    trust_domain: String,
    roots: [Root; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Root {
    #[serde(rename = "ID")]
    id: &'static str,
    name: &'static str,
    serial_number: u64,
    #[serde(rename = "SigningKeyID")]
    signing_key_id: &'static str,
    external_trust_domain: &'static str,
    not_before: &'static str,
    not_after: &'static str,
    root_cert: &'static str,
    intermediate_certs: Option<Vec<&'static str>>,
    active: bool,
    private_key_type: &'static str,
    private_key_bits: u64,
    create_index: u64,
    modify_index: u64,
}

static ROOTS: Read = Read {
    check: |_| Ok(()),
    topics: |_| Vec::new(),
    index: |_, _| ResultIndex::new(INDEX),
    answer: roots,
    headers: Headers::Deferred,
};

static CACHED_ROOTS: Read = Read { headers: Headers::Cached, ..ROOTS };

fn roots(state: &State, call: &Call) -> Result<Reply, Refusal> {
    if !state.connect {
        return Err(disabled());
    }
    if go::boolean(call.query.get("pem")) == Some(true) {
        const CHAIN: HeaderValue = HeaderValue::from_static("application/pem-certificate-chain");
        return Ok(Reply::text(StatusCode::OK, ROOT_CERT).with(CONTENT_TYPE, CHAIN));
    }
    let root = Root {
        id: ROOT_ID,
        name: "Consul CA Primary Cert",
        serial_number: 7,
        signing_key_id: SIGNING_KEY_ID,
        external_trust_domain: TRUST_DOMAIN,
        not_before: NOT_BEFORE,
        not_after: NOT_AFTER,
        root_cert: ROOT_CERT,
        intermediate_certs: None,
        active: true,
        private_key_type: "ec",
        private_key_bits: 256,
        create_index: INDEX,
        modify_index: INDEX,
    };
    let trust_domain = format!("{TRUST_DOMAIN}.consul");
    let roots = Roots { active_root_id: ROOT_ID, trust_domain, roots: [root] };
    Ok(Reply::json(call.style, &roots))
}

fn disabled() -> Refusal {
    Refusal::server("Connect must be enabled in order to use this endpoint")
}

/// The error of an agent without a mesh, since leaf certificates are not issued.
fn leaf(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Service, &call.rest, Access::Write)?;
    Err(disabled())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Authorization {
    authorized: bool,
    reason: &'static str,
}

/// There are no intentions, so the default policy decides.
fn authorize(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    const REQUEST: GoType =
        GoType { value: "structs.ConnectAuthorizeRequest", fields: "ConnectAuthorizeRequest." };
    let json = body(&call.body)?;
    let given = Object::of_body(&json, REQUEST)?;
    let target = given.text("Target").map_err(decode_error)?;
    if target.is_empty() {
        return Err(Refusal::bad("Target service must be specified"));
    }
    let uri = given.text("ClientCertURI").map_err(decode_error)?;
    if !is_service(&uri) {
        return Err(Refusal::bad("ClientCertURI not a valid Connect identifier"));
    }
    state.authority(call).check(Resource::Service, &target, Access::Write)?;
    let reason = "Default behavior configured by ACLs";
    let authorized = state.acl.default_policy() == DefaultPolicy::Allow;
    let reply = Reply::json(call.style, &Authorization { authorized, reason });
    Ok(cache_headers(reply, state, call, true))
}

/// Whether a certificate's URI is a service's: `spiffe://HOST/ns/NAMESPACE/dc/DC/svc/NAME`.
fn is_service(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix("spiffe://") else { return false };
    let parts: Vec<&str> = rest.split('/').collect();
    matches!(parts[..], [_, "ns", _, "dc", _, "svc", name] if !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::control::testing::World;
    use crate::simulate::{Agent, Options};
    use http::Method;

    #[test]
    fn the_root_is_the_one_that_is_active() {
        let world = World::new();
        let roots = world.get("connect/ca/roots").json();
        assert_eq!(roots["ActiveRootID"], roots["Roots"][0]["ID"]);
        assert_eq!(world.get("agent/connect/ca/roots").json(), roots);
        assert_eq!(world.get("connect/ca/roots?pem=true").text(), ROOT_CERT);
    }

    #[test]
    fn without_a_mesh_there_are_no_roots() {
        let agent = Agent::new(Options { connect: false, ..Options::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let request = World::request(Method::GET, "connect/ca/roots", "");
        let answer = runtime.block_on(agent.handle(request));
        assert_eq!(answer.status(), 500);
        assert_eq!(answer.body(), "Connect must be enabled in order to use this endpoint");
    }

    #[test]
    fn any_service_may_connect_to_any_other() {
        let world = World::new();
        let ask = |body: &str| {
            let answer = world.send(World::request(Method::POST, "agent/connect/authorize", body));
            (answer.status(), answer.text().to_owned())
        };
        let uri = "spiffe://x.consul/ns/default/dc/dc1/svc/web";
        let allowed = r#"{"Authorized":true,"Reason":"Default behavior configured by ACLs"}"#;
        let body = format!("{{\"Target\":\"db\",\"ClientCertURI\":\"{uri}\"}}");
        assert_eq!(ask(&body), (200, allowed.to_owned()));
        assert_eq!(ask("{}").1, "Target service must be specified");
        assert_eq!(ask(r#"{"Target":"db"}"#).0, 400);
    }
}
