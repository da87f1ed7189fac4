//! `/v1/agent`: the agent's own services and checks.

mod agent_self;
pub(super) mod authority;
mod authority_config;
mod check_runs;
pub mod checks;
mod connect;
pub(super) mod definition;
mod health;
pub(super) mod local;
mod local_state;
mod maintenance;
mod members;
mod metrics;
mod monitor;
pub(super) mod probe;
pub(super) mod samples;
mod sidecar;

use super::acl::{Access, Resource};
use super::blocking::HashedRead;
use super::catalog::service_json::AgentService;
use super::go;
use super::http::decode::{GoType, Object, body, decode_error};
use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply, Style};
use super::http::request::Call;
use super::store::State;
use super::store::catalog::{Check, Service};
use super::store::watch::Topic;
pub(super) use agent_self::STANDARD;
use consul_api::api::agent as wire;
use definition::{Origin, is_status};
use local::LocalCheck;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

pub(super) fn routes() -> impl Iterator<Item = &'static Route> {
    let all = [
        ROUTES,
        connect::ROUTES,
        health::ROUTES,
        maintenance::ROUTES,
        members::ROUTES,
        metrics::ROUTES,
        monitor::ROUTES,
    ];
    all.into_iter().flatten()
}

static ROUTES: &[Route] = &[
    Route(&wire::SELF, Handler::Now(about)),
    Route(&wire::SERVICES, Handler::Now(services)),
    Route(&wire::SERVICE, Handler::Hashed(&SERVICE)),
    Route(&wire::CHECKS, Handler::Now(checks)),
    Route(&wire::SERVICE_REGISTER, Handler::Now(register_service)),
    Route(&wire::SERVICE_DEREGISTER, Handler::Now(deregister_service)),
    Route(&wire::CHECK_REGISTER, Handler::Now(register_check)),
    Route(&wire::CHECK_DEREGISTER, Handler::Now(deregister_check)),
    Route(&wire::CHECK_PASS, Handler::Now(pass)),
    Route(&wire::CHECK_WARN, Handler::Now(warn)),
    Route(&wire::CHECK_FAIL, Handler::Now(fail)),
    Route(&wire::CHECK_UPDATE_STATUS, Handler::Now(update)),
];

fn about(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Agent, &state.node_name, Access::Read)?;
    Ok(Reply::json(call.style, &agent_self::about(state)))
}

fn services(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let authority = state.authority(call);
    authority.known()?;
    let seen = state.local.services.values();
    let seen = seen.filter(|service| authority.sees(Resource::Service, &service.name));
    let services =
        call.select(seen.map(|service| AgentService::new(service, &state.settings.datacenter)))?;
    let services = BTreeMap::from_iter(services.into_iter().map(|service| (service.id(), service)));
    Ok(authority.mark(Reply::json(call.style, &services)))
}

fn checks(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let authority = state.authority(call);
    authority.known()?;
    let seen = |check: &&Check| match check.service_id.is_empty() {
        true => authority.sees(Resource::Node, &check.node),
        false => authority.sees(Resource::Service, &check.service_name),
    };
    let checks = state.local.checks.values().map(|local| &local.check);
    let checks = call.select(checks.filter(seen).map(Check::shown))?;
    let checks = BTreeMap::from_iter(checks.iter().map(|check| (&check.check_id, check)));
    Ok(authority.mark(Reply::json(call.style, &checks)))
}

static SERVICE: HashedRead = HashedRead {
    parameter: "hash",
    topics: |_, call| vec![Topic::LocalService(call.rest_text())],
    hash: |state, call| state.local.services.get(&call.rest_text()).map(content_hash),
    answer: |state, call| {
        let authority = state.authority(call);
        authority.known()?;
        let id = call.rest_text();
        let service = state.local.services.get(&id);
        let service =
            service.ok_or_else(|| Refusal::unknown(format!("unknown service ID: {id}")))?;
        authority.check(Resource::Service, &service.name, Access::Read)?;
        let hash = content_hash(service);
        let view = AgentService::new(service, &state.settings.datacenter).with_hash(&hash);
        Ok(Reply::json(call.style, &view).with_text("x-consul-contenthash", &hash))
    },
};

/// A hash of the service's reply, whose only meaning is whether it changes.
fn content_hash(service: &Service) -> String {
    let mut hasher = DefaultHasher::new();
    Reply::json(Style::Compact, &AgentService::new(service, "")).body.hash(&mut hasher);
    format!("{:x}", hasher.finish())
}

fn register_service(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let services = definition::services(&body(&call.body)?, state, Origin::Request)?;
    let authority = state.authority(call);
    for (service, _) in &services {
        authority.check(Resource::Service, &service.name, Access::Write)?;
        if let Some(present) = state.local.services.get(&service.id) {
            authority.check(Resource::Service, &present.name, Access::Write)?;
        }
    }
    let replace = match call.query.get("replace-existing-checks") {
        "" => call.query.has("replace-existing-checks"),
        value => value == "true",
    };
    let token = state.given_secret(call);
    for (service, checks) in services {
        state.register_service(service, checks, replace, token.as_ref());
    }
    Ok(Reply::done())
}

fn deregister_service(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let id = known_service(state, call)?;
    state.deregister_service(&id);
    Ok(Reply::done())
}

/// The id of a service of the agent that the caller may change.
pub(super) fn known_service(state: &State, call: &Call) -> Result<String, Refusal> {
    let authority = state.authority(call);
    authority.known()?;
    let id = call.rest_text();
    if let Some(service) = state.local.services.get(&id) {
        authority.check(Resource::Service, &service.name, Access::Write)?;
        return Ok(id);
    }
    Err(Refusal::unknown(format!(
        "Unknown service ID {}. Ensure that the service ID is passed, not the service name.",
        go::quoted(&id)
    )))
}

fn register_check(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let check = definition::check(&body(&call.body)?, state, Origin::Request);
    if check.as_ref().is_err_and(|refusal| refusal.status == http::StatusCode::NOT_FOUND) {
        state.authority(call).known()?;
    }
    let check = check?;
    permit_check(state, call, &check.check)?;
    let token = state.given_secret(call);
    state.register_check(LocalCheck { token, ..check });
    Ok(Reply::done())
}

/// Refuses a caller without the permission for the check's service, else its node.
fn permit_check(state: &State, call: &Call, check: &Check) -> Result<(), Refusal> {
    let authority = state.authority(call);
    match check.service_id.is_empty() {
        true => authority.check(Resource::Node, &check.node, Access::Write),
        false => authority.check(Resource::Service, &check.service_name, Access::Write),
    }
}

/// The id of a check of the agent that the caller may change.
fn known_check(state: &State, call: &Call) -> Result<String, Refusal> {
    state.authority(call).known()?;
    let id = call.rest_text();
    if let Some(local) = state.local.checks.get(&id) {
        permit_check(state, call, &local.check)?;
        return Ok(id);
    }
    Err(Refusal::unknown(format!(
        "Unknown check ID {}. Ensure that the check ID is passed, not the check name.",
        go::quoted(&id)
    )))
}

fn deregister_check(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let id = known_check(state, call)?;
    state.deregister_check(&id);
    Ok(Reply::done())
}

fn pass(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    update_check(state, call, "passing", call.query.get("note"))
}

fn warn(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    update_check(state, call, "warning", call.query.get("note"))
}

fn fail(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    update_check(state, call, "critical", call.query.get("note"))
}

fn update(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    const UPDATE: GoType = GoType { value: "agent.checkUpdate", fields: "checkUpdate." };
    let given = body(&call.body)?;
    let given = Object::of_body(&given, UPDATE)?;
    given.check_known(&["Status", "Output"]).map_err(decode_error)?;
    let status = given.text("Status").map_err(decode_error)?;
    let output = given.text("Output").map_err(decode_error)?;
    if !is_status(&status) {
        return Err(Refusal::bad(format!("Invalid check status: '{status}'")));
    }
    update_check(state, call, &status, &output)
}

fn update_check(
    state: &mut State,
    call: &Call,
    status: &str,
    output: &str,
) -> Result<Reply, Refusal> {
    let id = known_check(state, call)?;
    if state.local.checks.get(&id).is_some_and(|check| check.ttl.is_none()) {
        let id = go::quoted(&id);
        return Err(Refusal::server(format!("CheckID {id} does not have associated TTL")));
    }
    state.update_check(&id, status, output);
    Ok(Reply::done())
}

#[cfg(test)]
mod tests {
    use super::super::control::testing::{MANAGEMENT, World};
    use serde_json::Value;
    use std::time::Duration;

    const MILLISECOND: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn register(world: &World, body: &str) {
        let answer = world.put("agent/service/register", body);
        assert_eq!((answer.status(), answer.text()), (200, ""), "{body}");
    }

    fn check(world: &World, id: &str) -> Value {
        world.get("agent/checks").json()[id].clone()
    }

    #[test]
    fn a_fresh_agent_has_nothing_of_its_own() {
        let world = World::new();
        assert_eq!(world.get("agent/services").text(), "{}");
        assert_eq!(world.get("agent/checks").text(), "{}");
        let about = world.get("agent/self").json();
        assert_eq!(about["Config"]["NodeName"], "sim");
        assert_eq!(about["Member"]["Tags"]["id"], about["Config"]["NodeID"]);
    }

    #[test]
    fn a_service_reads_as_consul_writes_it() {
        let world = World::new();
        register(
            &world,
            r#"{"Name":"web","ID":"web1","Tags":["b","a"],"Meta":{"k":"v"},"Port":8080,"Address":"10.0.0.1"}"#,
        );
        let address = r#"{"Address":"10.0.0.1","Port":8080}"#;
        assert_eq!(
            world.get("agent/services").text(),
            format!(
                "{{\"web1\":{{\"ID\":\"web1\",\"Service\":\"web\",\"Tags\":[\"b\",\"a\"],\
                 \"Meta\":{{\"k\":\"v\"}},\"Port\":8080,\"Address\":\"10.0.0.1\",\
                 \"TaggedAddresses\":{{\"lan_ipv4\":{address},\"wan_ipv4\":{address}}},\
                 \"Weights\":{{\"Passing\":1,\"Warning\":1}},\"EnableTagOverride\":false,\
                 \"Datacenter\":\"dc1\"}}}}"
            )
        );
        let service = world.get("agent/service/web1");
        assert_eq!(service.json()["ContentHash"], service.header("x-consul-contenthash"));
        assert_eq!(service.header("x-consul-index"), "");
        assert_eq!(world.get("agent/service/none").text(), "unknown service ID: none");
    }

    #[test]
    fn invalid_definitions_are_refused() {
        let world = World::new();
        for (body, status, text) in [
            ("", 400, "Request decode failed: EOF"),
            ("{}", 400, "Missing service name"),
            (
                r#"{"Name":"w","Namespace":"x"}"#,
                400,
                "Request decode failed: json: unknown field \"Namespace\"",
            ),
            (
                r#"{"Name":"w","Port":"x"}"#,
                400,
                "Request decode failed: json: cannot unmarshal string into Go struct field .Alias.Port of type int",
            ),
            (r#"{"Name":"w","Address":"0.0.0.0"}"#, 400, "Invalid service address"),
            (
                r#"{"Name":"w","Meta":{"bad key":"x"}}"#,
                400,
                "Invalid Service Meta: Couldn't load metadata pair ('bad key', 'x'): Key contains invalid characters",
            ),
            (
                r#"{"Name":"w","Weights":{"Passing":0}}"#,
                400,
                "Invalid Weights: Passing must be greater than 0",
            ),
            (
                r#"{"Name":"w","Check":{"Interval":"1s"}}"#,
                400,
                "Invalid check: TTL must be > 0 for TTL checks",
            ),
            (
                r#"{"Name":"w","Check":{"HTTP":"x"}}"#,
                400,
                "Invalid check: Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks",
            ),
            (
                r#"{"Name":"w","Check":{"TTL":"1s","Status":"x"}}"#,
                400,
                "Status for checks must 'passing', 'warning', 'critical'",
            ),
            (
                r#"{"Name":"w","Check":{"TTL":"1s","ID":"x"}}"#,
                400,
                "Request decode failed: json: unknown field \"ID\"",
            ),
            (
                r#"{"Name":"w","Check":{"Args":["x"],"Interval":"1s"}}"#,
                500,
                "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true",
            ),
        ] {
            let answer = world.put("agent/service/register", body);
            assert_eq!((answer.status(), answer.text()), (status, text), "{body}");
        }
        for (body, status, text) in [
            ("{}", 400, "Missing check name"),
            (r#"{"Name":"x","TTL":"1s","Status":"z"}"#, 400, "Bad check status"),
            (
                r#"{"Name":"x","TTL":"1s","CheckID":"z"}"#,
                400,
                "Request decode failed: json: unknown field \"CheckID\"",
            ),
            (
                r#"{"Name":"x","TTL":"1s","ServiceID":"none"}"#,
                404,
                "ServiceID \"none\" does not exist",
            ),
        ] {
            let answer = world.put("agent/check/register", body);
            assert_eq!((answer.status(), answer.text()), (status, text), "{body}");
        }
        assert_eq!(world.get("agent/services").text(), "{}");
    }

    #[test]
    fn unknown_services_and_checks_cannot_be_changed() {
        let world = World::new();
        let service =
            "Unknown service ID \"x\". Ensure that the service ID is passed, not the service name.";
        let check =
            "Unknown check ID \"x\". Ensure that the check ID is passed, not the check name.";
        for (path, text) in [
            ("agent/service/deregister/x", service),
            ("agent/check/deregister/x", check),
            ("agent/check/pass/x", check),
        ] {
            let answer = world.put(path, "");
            assert_eq!((answer.status(), answer.text()), (404, text));
        }
        let answer = world.put("agent/check/update/x", r#"{"Status":"bad"}"#);
        assert_eq!((answer.status(), answer.text()), (400, "Invalid check status: 'bad'"));
        world.put("agent/check/register", r#"{"Name":"h","HTTP":"http://x","Interval":"1s"}"#);
        let answer = world.put("agent/check/pass/h", "");
        assert_eq!(
            (answer.status(), answer.text()),
            (500, "CheckID \"h\" does not have associated TTL")
        );
    }

    #[test]
    fn embedded_checks_are_named_by_their_service_and_numbered_when_several() {
        let world = World::new();
        register(&world, r#"{"Name":"w","Check":{"TTL":"1h"}}"#);
        assert_eq!(check(&world, "service:w")["Name"], "Service 'w' check");
        register(
            &world,
            r#"{"Name":"v","ID":"v1","Checks":[{"TTL":"1h"},{"TTL":"1h","CheckID":"x"}]}"#,
        );
        assert_eq!(check(&world, "service:v1:1")["Interval"], "");
        assert_eq!(check(&world, "x")["ServiceID"], "v1");
        register(&world, r#"{"Name":"u","Check":{}}"#);
        assert_eq!(
            world.get("agent/checks").json().as_object().map(|checks| checks.len()),
            Some(3)
        );
    }

    #[test]
    fn a_check_registered_again_keeps_its_state_whatever_the_definition_says() {
        let world = World::new();
        register(&world, r#"{"Name":"w","Check":{"TTL":"1h","Status":"passing"}}"#);
        world.put("agent/check/warn/service:w?note=hello", "");
        let index = world.get("health/checks/w").index();
        register(&world, r#"{"Name":"w","Check":{"TTL":"1h","Status":"passing"}}"#);
        assert_eq!(check(&world, "service:w")["Status"], "warning");
        assert_eq!(check(&world, "service:w")["Output"], "hello");
        assert_eq!(world.get("health/checks/w").index(), index);
    }

    #[test]
    fn checks_that_are_not_named_stay_unless_they_are_to_be_replaced() {
        let world = World::new();
        register(
            &world,
            r#"{"Name":"w","Checks":[{"TTL":"1h","CheckID":"a"},{"TTL":"1h","CheckID":"b"}]}"#,
        );
        register(&world, r#"{"Name":"w","Check":{"TTL":"1h","CheckID":"a"}}"#);
        assert_eq!(check(&world, "b")["CheckID"], "b");
        let replace = "agent/service/register?replace-existing-checks";
        world.put(replace, r#"{"Name":"w","Check":{"TTL":"1h","CheckID":"a"}}"#);
        assert!(check(&world, "b").is_null());
        assert_eq!(world.get("health/checks/w").json()[0]["CheckID"], "a");
    }

    #[test]
    fn a_ttl_check_expires_exactly_after_its_ttl() {
        let world = World::new();
        register(&world, r#"{"Name":"w","Check":{"TTL":"2s","Status":"passing"}}"#);
        world.advance(SECOND);
        world.put("agent/check/pass/service:w?note=hi", "");
        world.advance(SECOND * 2 - MILLISECOND);
        assert_eq!(check(&world, "service:w")["Status"], "passing");
        world.advance(MILLISECOND);
        let expired = check(&world, "service:w");
        assert_eq!(expired["Status"], "critical");
        assert_eq!(expired["Output"], "TTL expired (last output before timeout follows): hi");
        assert_eq!(world.get("health/checks/w").json()[0]["Status"], "critical");
    }

    #[test]
    fn a_new_status_reaches_the_catalog_at_once_and_a_new_note_much_later() {
        let world = World::new();
        register(&world, r#"{"Name":"w","Check":{"TTL":"1h","Status":"passing"}}"#);
        let index = world.get("health/service/w").index();
        let mut watch = world.watch(&format!("health/service/w?index={index}&wait=10m"));
        for note in ["one", "two"] {
            world.put(&format!("agent/check/pass/service:w?note={note}"), "");
        }
        assert_eq!(world.get("health/service/w").index(), index);
        world.advance(SECOND * 149);
        assert!(watch.waits());
        world.advance(SECOND * 301);
        let checks = watch.answer().expect("the note is written").json()[0]["Checks"].clone();
        assert_eq!(checks[1]["Output"], "two");
        world.put("agent/check/warn/service:w", "");
        assert_eq!(world.get("health/checks/w").json()[0]["Status"], "warning");
    }

    #[test]
    fn an_output_that_is_too_long_keeps_its_beginning() {
        let world = World::new();
        world.put("agent/check/register", r#"{"Name":"c","TTL":"1h","OutputMaxSize":4}"#);
        world.put("agent/check/update/c", r#"{"Status":"passing","Output":"abcdefgh"}"#);
        assert_eq!(check(&world, "c")["Output"], "abcd ... (captured 4 of 8 bytes)");
        world.put("agent/check/update/c", r#"{"Status":"passing","Output":"efgh"}"#);
        assert_eq!(check(&world, "c")["Output"], "efgh");
    }

    #[test]
    fn a_session_dies_with_its_service_check() {
        let world = World::new();
        for end in [
            "agent/check/fail/service:w",
            "agent/check/deregister/service:w",
            "agent/service/deregister/w",
        ] {
            register(&world, r#"{"Name":"w","Check":{"TTL":"1h","Status":"passing"}}"#);
            let id = world.session(r#"{"ServiceChecks":[{"ID":"service:w"}],"LockDelay":0}"#);
            world.put(&format!("kv/l?acquire={id}"), "");
            world.put("agent/check/warn/service:w", "");
            assert_eq!(world.get("kv/l").json()[0]["Session"], id);
            let mut watch = world.watch(&format!("kv/l?index={}", world.get("kv/l").index()));
            world.put(end, "");
            assert!(watch.answer().expect("woken").json()[0]["Session"].is_null(), "{end}");
            world.put("agent/service/deregister/w", "");
        }
    }

    #[test]
    fn a_session_needs_checks_that_are_not_critical() {
        let world = World::new();
        register(&world, r#"{"Name":"w","Check":{"TTL":"1h"}}"#);
        let answer = world.put("session/create", r#"{"ServiceChecks":[{"ID":"service:w"}]}"#);
        assert_eq!(answer.text(), "apply failed: Check 'service:w' is in critical state");
    }

    #[test]
    fn a_service_that_is_critical_for_too_long_is_deregistered() {
        let world = World::new();
        register(
            &world,
            r#"{"Name":"w","Check":{"TTL":"1h","DeregisterCriticalServiceAfter":"1s"}}"#,
        );
        world.advance(SECOND * 60);
        assert_eq!(world.get("agent/service/w").status(), 200);
        world.advance(SECOND * 30);
        assert_eq!(world.get("agent/service/w").status(), 404);
        assert_eq!(world.get("health/service/w").text(), "[]");
    }

    #[test]
    fn the_agent_corrects_the_catalog_within_a_minute() {
        let world = World::new();
        register(&world, r#"{"Name":"w","Check":{"TTL":"1h"}}"#);
        world.put("catalog/deregister", r#"{"Node":"sim","ServiceID":"w"}"#);
        world.put(
            "catalog/register",
            r#"{"Node":"sim","SkipNodeUpdate":true,"Service":{"Service":"x"}}"#,
        );
        assert_eq!(world.get("catalog/services").text(), r#"{"consul":[],"x":[]}"#);
        world.advance(SECOND * 60);
        assert_eq!(world.get("catalog/services").text(), r#"{"consul":[],"w":[]}"#);
        assert_eq!(world.get("health/checks/w").json()[0]["CheckID"], "service:w");
        let gone =
            r#"[{"Service":{"Verb":"delete","Node":"sim","Service":{"ID":"w","Service":"w"}}}]"#;
        assert_eq!(world.put("txn", gone).status(), 200);
        assert_eq!(world.get("catalog/services").text(), r#"{"consul":[]}"#);
        world.advance(SECOND * 60);
        assert_eq!(world.get("catalog/services").text(), r#"{"consul":[],"w":[]}"#);
        let own = world.get("catalog/nodes").json();
        world.put("catalog/register", r#"{"Node":"sim","Address":"9.9.9.9"}"#);
        assert_eq!(world.get("catalog/nodes").json()[0]["Address"], "9.9.9.9");
        world.advance(SECOND * 60);
        let again = world.get("catalog/nodes").json();
        for member in ["ID", "Address", "TaggedAddresses", "Meta"] {
            assert_eq!(again[0][member], own[0][member]);
        }
        world.put("catalog/deregister", r#"{"Node":"sim"}"#);
        assert_eq!(world.get("catalog/nodes").text(), "[]");
        world.advance(SECOND * 60);
        assert_eq!(world.get("health/service/w").json()[0]["Checks"][0]["CheckID"], "serfHealth");
    }

    #[test]
    fn an_agent_whose_token_may_not_write_its_node_is_known_by_gossip_alone() {
        let world = World::with_acl();
        let as_management = |path: &str| {
            let sign = if path.contains('?') { '&' } else { '?' };
            format!("{path}{sign}token={MANAGEMENT}")
        };
        let read = |path: &str| world.get(&as_management(path)).json();
        let node = || read("catalog/nodes")[0].clone();
        assert_eq!(node()["Meta"], serde_json::json!({"consul-version": crate::VERSION}));
        assert!(node()["TaggedAddresses"].is_null());
        assert_eq!(read("coordinate/nodes"), serde_json::json!([]));
        world.put(&as_management("agent/service/register"), r#"{"Name":"w"}"#);
        assert!(node()["TaggedAddresses"].is_null());
        let foreign = r#"{"Node":"sim","SkipNodeUpdate":true,"Service":{"Service":"x"}}"#;
        world.put(&as_management("catalog/register"), foreign);
        world.put(&as_management("catalog/deregister"), r#"{"Node":"sim","ServiceID":"w"}"#);
        world.advance(SECOND * 60);
        assert_eq!(
            read("catalog/services"),
            serde_json::json!({"consul": [], "w": [], "x": []}),
            "it does not see what is not its own"
        );
        let token = format!(r#"{{"Token":"{MANAGEMENT}"}}"#);
        world.put(&as_management("agent/token/agent"), &token);
        assert_eq!(node()["Meta"]["consul-network-segment"], "");
        assert_eq!(read("catalog/services"), serde_json::json!({"consul": [], "w": []}));
        assert_eq!(read("coordinate/nodes")[0]["Node"], "sim");
        world.put(&as_management("catalog/deregister"), r#"{"Node":"sim"}"#);
        world.advance(SECOND * 60);
        assert_eq!(read("coordinate/nodes")[0]["Node"], "sim");
    }

    #[test]
    fn an_agent_whose_token_is_unknown_compares_nothing() {
        let world = World::with_acl();
        let secret = "0b1e1c4e-5a0b-4f6c-9b6b-6a2d3c1f7e55";
        let write = |path: &str, body: &str| {
            assert_eq!(world.put(&format!("{path}?token={MANAGEMENT}"), body).status(), 200);
        };
        let read = |path: &str| world.get(&format!("{path}?token={MANAGEMENT}")).json();
        write("agent/token/agent", &format!(r#"{{"Token":"{secret}"}}"#));
        write("agent/service/register", r#"{"Name":"w"}"#);
        let found = serde_json::json!({"consul": [], "w": []});
        assert_eq!(read("catalog/services"), found, "a change is written by another token");
        write("catalog/deregister", r#"{"Node":"sim","ServiceID":"w"}"#);
        world.advance(SECOND * 120);
        assert_eq!(read("catalog/services"), serde_json::json!({"consul": []}));
        write("acl/token", &format!(r#"{{"SecretID":"{secret}"}}"#));
        world.advance(SECOND * 60);
        assert_eq!(read("catalog/services"), found, "it needs no right to see its own entries");
    }

    #[test]
    fn a_read_with_a_hash_waits_for_other_content() {
        let world = World::new();
        register(&world, r#"{"Name":"w","Port":1}"#);
        let hash = world.get("agent/service/w").header("x-consul-contenthash").to_owned();
        assert_eq!(world.get("agent/service/w?hash=other").status(), 200);
        assert_eq!(world.get("agent/service/none?hash=other").status(), 404);
        let path = format!("agent/service/w?hash={hash}&wait=16s");
        let (mut changed, mut same) = (world.watch(&path), world.watch(&path));
        register(&world, r#"{"Name":"w","Port":1}"#);
        assert!(changed.waits());
        drop(std::mem::replace(&mut same, world.watch("agent/service/w")));
        register(&world, r#"{"Name":"w","Port":2}"#);
        assert_eq!(changed.answer().expect("woken").json()["Port"], 2);
        assert!(!same.waits());
    }
}
