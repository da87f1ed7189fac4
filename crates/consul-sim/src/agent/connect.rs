//! The service mesh, as far as it is simulated: its root certificates, the certificates of services, and
//! permission for all services to connect.

use super::authority::{Authority, INDEX, Leaf, Root};
use super::authority_config;
use crate::acl::{Access, DefaultPolicy, Resource};
use crate::blocking::{Headers, Read, ResultIndex, cache_headers};
use crate::entry::intentions;
use crate::go;
use crate::http::decode::{GoType, Object, body, decode_error};
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::watch::Topic;
use consul_api::api::{agent, connect as wire};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use std::iter;
use std::sync::Arc;
use url::Url;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::CA_ROOTS, Handler::Read(&ROOTS)),
    Route(&agent::CONNECT_CA_ROOTS, Handler::Read(&CACHED_ROOTS)),
    Route(&agent::CONNECT_CA_LEAF, Handler::Read(&LEAF)),
    Route(&wire::CA_CONFIGURATION, Handler::Checked(authority_config::read)),
    Route(&wire::CA_CONFIGURATION_UPDATE, Handler::Now(authority_config::update)),
    Route(&agent::CONNECT_AUTHORIZE, Handler::Now(authorize)),
];

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Roots<'a> {
    #[serde(rename = "ActiveRootID")]
    active_root_id: &'a str,
    trust_domain: String,
    roots: Vec<RootView<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootView<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'static str,
    serial_number: u64,
    #[serde(rename = "SigningKeyID")]
    signing_key_id: &'a str,
    external_trust_domain: &'a str,
    not_before: &'a str,
    not_after: &'a str,
    root_cert: &'a str,
    intermediate_certs: Option<&'a [String]>,
    active: bool,
    private_key_type: &'static str,
    private_key_bits: u64,
    create_index: u64,
    modify_index: u64,
}

static ROOTS: Read = Read {
    check: |call| match call.query.get("pem") {
        text if text.is_empty() || go::boolean(text).is_some() => Ok(()),
        _ => Err(Refusal::bad("The 'pem' query parameter must be a boolean value")),
    },
    topics: |_, _| vec![Topic::Authority],
    index: |state, _| ResultIndex::new(state.authority_config.modify_index),
    answer: roots,
    headers: Headers::Deferred,
};

static CACHED_ROOTS: Read = Read { check: |_| Ok(()), headers: Headers::Cached, ..ROOTS };

fn roots(state: &State, call: &Call) -> Result<Reply, Refusal> {
    if !state.connect {
        return Err(disabled());
    }
    let known = known_roots(state)?;
    // The first one is active.
    let active_root_id = known.first().map_or("", |root| root.id.as_str());
    let known = in_order(known);
    if go::boolean(call.query.get("pem")) == Some(true) {
        const CHAIN: HeaderValue = HeaderValue::from_static("application/pem-certificate-chain");
        let pems = known.iter().flat_map(|root| iter::once(&root.pem).chain(&root.intermediates));
        let pems: Vec<_> = pems.map(String::as_str).collect();
        return Ok(Reply::text(StatusCode::OK, pems.concat()).with(CONTENT_TYPE, CHAIN));
    }
    let views = known.into_iter().map(|root| RootView {
        id: &root.id,
        name: "Consul CA Primary Cert",
        serial_number: root.serial,
        signing_key_id: &root.signing_key_id,
        external_trust_domain: &state.settings.cluster_id,
        not_before: &root.not_before,
        not_after: &root.not_after,
        root_cert: &root.pem,
        intermediate_certs: Some(root.intermediates.as_slice()).filter(|some| !some.is_empty()),
        active: root.id == active_root_id,
        private_key_type: "ec",
        private_key_bits: 256,
        create_index: root.create_index,
        modify_index: root.modify_index,
    });
    let roots = views.collect();
    let trust_domain = format!("{}.consul", state.settings.cluster_id);
    Ok(Reply::json(call.style, &Roots { active_root_id, trust_domain, roots }))
}

/// Roots in the order of replies.
fn in_order(roots: &[Root]) -> Vec<&Root> {
    let mut roots: Vec<_> = roots.iter().collect();
    roots.sort_by(|one, other| one.id.cmp(&other.id));
    roots
}

pub(super) fn disabled() -> Refusal {
    Refusal::server("Connect must be enabled in order to use this endpoint")
}

fn known_roots(state: &State) -> Result<&[Root], Refusal> {
    Ok(&authority(state)?.roots)
}

pub(super) fn authority(state: &State) -> Result<&Authority, Refusal> {
    let new = || {
        let lifetime = state.authority_config.root_lifetime();
        Authority::new(&state.settings.cluster_id, state.since_1970(), lifetime)
    };
    state.authority.get_or_init(new).as_ref().map_err(|why| Refusal::server(why.clone()))
}

static LEAF: Read = Read {
    check: |_| Ok(()),
    topics: |_, _| vec![Topic::Authority],
    index: |state, call| {
        let leaf = leaf(state, &call.rest_text());
        ResultIndex::new(leaf.map_or(INDEX, |leaf| leaf.modify_index))
    },
    answer: |state, call| {
        let name = call.rest_text();
        if name.is_empty() {
            return Err(Refusal::server("URI must be either service, agent, server, or kind"));
        }
        state.authority(call).check(Resource::Service, &name, Access::Write)?;
        if !state.connect {
            return Err(disabled());
        }
        Ok(Reply::json(call.style, &*leaf(state, &name)?))
    },
    headers: Headers::Cached,
};

fn leaf(state: &State, service: &str) -> Result<Arc<Leaf>, Refusal> {
    let failed = |why: String| Refusal::server(format!("cannot sign for {service}: {why}"));
    let mut uri = Url::parse(&format!("spiffe://{}.consul", state.settings.cluster_id))
        .map_err(|error| failed(error.to_string()))?;
    let datacenter = &state.settings.datacenter;
    if let Ok(mut path) = uri.path_segments_mut() {
        path.extend(["ns", "default", "dc", datacenter.as_str(), "svc", service]);
    }
    let signed = authority(state)?.leaf(
        &uri,
        service,
        state.since_1970(),
        state.authority_config.leaf_lifetime(),
    );
    signed.map_err(|error| failed(error.to_string()))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Authorization {
    authorized: bool,
    reason: String,
}

/// The first intention for both services decides, else the default policy.
fn authorize(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    const REQUEST: GoType =
        GoType { value: "structs.ConnectAuthorizeRequest", fields: "ConnectAuthorizeRequest." };
    let json = body(&call.body)?;
    let given = Object::of_body(&json, REQUEST)?;
    given.check_known(&["Target", "ClientCertURI", "ClientCertSerial"]).map_err(decode_error)?;
    let target = given.text("Target").map_err(decode_error)?;
    if target.is_empty() {
        return Err(Refusal::bad("Target service must be specified"));
    }
    let uri = given.text("ClientCertURI").map_err(decode_error)?;
    given.text("ClientCertSerial").map_err(decode_error)?;
    let Some(source) = service_of(&uri) else {
        return Err(Refusal::bad("ClientCertURI not a valid Connect identifier"));
    };
    state.authority(call).check(Resource::Service, &target, Access::Write)?;
    let by_default = || {
        let allowed = state.acl.default_policy() == DefaultPolicy::Allow;
        (allowed, "Default behavior configured by ACLs".to_owned())
    };
    let verdict = intentions::verdict(state, source, &target);
    let (authorized, reason) = verdict.unwrap_or_else(by_default);
    let reply = Reply::json(call.style, &Authorization { authorized, reason });
    Ok(cache_headers(reply, state, call, true))
}

/// The service of a certificate's URI: `spiffe://HOST/ns/NAMESPACE/dc/DC/svc/NAME`.
fn service_of(uri: &str) -> Option<&str> {
    let parts: Vec<&str> = uri.strip_prefix("spiffe://")?.split('/').collect();
    match parts[..] {
        [_, "ns", _, "dc", _, "svc", name] if !name.is_empty() => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::control::testing::World;
    use crate::{Agent, Options};
    use http::Method;

    #[test]
    fn the_root_is_the_one_that_is_active() {
        let world = World::new();
        let roots = world.get("connect/ca/roots").json();
        assert_eq!(roots["ActiveRootID"], roots["Roots"][0]["ID"]);
        assert_eq!(world.get("agent/connect/ca/roots").json(), roots);
        assert_eq!(world.get("connect/ca/roots?pem=true").text(), roots["Roots"][0]["RootCert"]);
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
