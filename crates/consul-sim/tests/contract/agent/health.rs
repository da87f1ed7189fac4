//! The health of the agent's services, their maintenance, and filters over them.

use crate::target::{T, args, behaviours, list, table, text, texts};
use consul_api::error::Kind;
use consul_api::value::Value;

behaviours![
    the_health_of_an_instance_is_a_status,
    the_health_of_a_service_is_its_worst_instances,
    an_unknown_service_has_no_health,
    a_service_in_maintenance_is_critical,
    maintenance_of_the_node_requires_on_or_off,
    maintenance_of_an_unknown_service_is_not_found,
    a_filter_chooses_services_and_checks,
    a_wrong_filter_is_an_error,
];

async fn register_with_check(t: &T, id: &str, status: &str) {
    let check = table! {"TTL" = "1m", "Status" = status};
    let service = table! {"ID" = t.name(id), "Name" = t.name("s"), "Check" = check};
    t.ok("agent_service_register", args![service]).await;
}

async fn health(t: &T, id: &str, query: &str) -> (u16, String) {
    let target = format!("/v1/agent/health/service/id/{}{query}", t.name(id));
    let answer = t.raw("GET", &target, "").await;
    let reason = answer.header("x-consul-reason").unwrap().to_owned();
    if query == "?format=text" {
        assert_eq!((&answer.body, answer.header("content-type")), (&reason, Some("text/plain")));
    }
    (answer.status, reason)
}

async fn the_health_of_an_instance_is_a_status(t: T) {
    for (status, code) in [("passing", 200), ("warning", 429), ("critical", 503)] {
        register_with_check(&t, status, status).await;
        for query in ["", "?format=text"] {
            assert_eq!(health(&t, status, query).await, (code, status.to_owned()));
        }
        let value = t.value("agent_health_service_id", args![t.name(status)]).await;
        assert_eq!(text(&value, "AggregatedStatus"), status);
        assert_eq!(text(value.get("Service").unwrap(), "ID"), t.name(status));
        let checks = texts(value.get("Checks").unwrap(), "CheckID").join(" ");
        assert!(checks.contains(&format!("service:{}", t.name(status))), "{checks}");
        t.ok("agent_service_deregister", args![t.name(status)]).await;
    }
}

async fn the_health_of_a_service_is_its_worst_instances(t: T) {
    register_with_check(&t, "1", "passing").await;
    register_with_check(&t, "2", "warning").await;
    let target = format!("/v1/agent/health/service/name/{}", t.name("s"));
    let answer = t.raw("GET", &target, "").await;
    assert_eq!((answer.status, answer.header("x-consul-reason")), (429, Some("warning")));
    let found = t.value("agent_health_service_name", args![t.name("s")]).await;
    let mut each = texts(&found, "AggregatedStatus");
    each.sort_unstable();
    assert_eq!(each, ["passing", "warning"]);
    for id in ["1", "2"] {
        t.ok("agent_service_deregister", args![t.name(id)]).await;
    }
}

async fn an_unknown_service_has_no_health(t: T) {
    let none = t.value("agent_health_service_id", args![t.name("none")]).await;
    assert_eq!(none, Value::Null);
    let none = t.value("agent_health_service_name", args![t.name("none")]).await;
    assert_eq!(none, list![]);
    let reason = format!("ServiceId {} not found", t.name("none"));
    let is_json =
        t.is_1_8("the health of an unknown service is JSON, whatever format is requested");
    let query = if is_json { "" } else { "?format=text" };
    assert_eq!(health(&t, "none", query).await, (404, reason));
}

async fn a_service_in_maintenance_is_critical(t: T) {
    register_with_check(&t, "1", "passing").await;
    let enable = |reason: &str| args![t.name("1"), true; "reason" = reason];
    t.ok("agent_service_maintenance", enable("upgrade")).await;
    t.ok("agent_service_maintenance", enable("another")).await;
    let id = format!("_service_maintenance:{}", t.name("1"));
    let checks = t.value("agent_checks", args![]).await;
    let check = checks.get(&id).unwrap();
    assert_eq!((text(check, "Status"), text(check, "Type")), ("critical", "maintenance"));
    assert_eq!(
        (text(check, "Notes"), text(check, "Name")),
        ("upgrade", "Service Maintenance Mode")
    );
    assert_eq!(health(&t, "1", "").await, (503, "maintenance".to_owned()));
    let healthy = t.value("health_service", args![t.name("s"); "passing" = true]).await;
    assert_eq!(healthy, list![]);
    t.ok("agent_service_maintenance", args![t.name("1"), false]).await;
    t.ok("agent_service_maintenance", args![t.name("1"), false]).await;
    assert_eq!(health(&t, "1", "").await, (200, "passing".to_owned()));
    t.ok("agent_service_deregister", args![t.name("1")]).await;
}

// Maintenance of the node would make the services of concurrent behaviours fail.
async fn maintenance_of_the_node_requires_on_or_off(t: T) {
    for (query, why) in
        [("", "Missing value for enable"), ("?enable=x", "Invalid value for enable: \"x\"")]
    {
        let answer = t.raw("PUT", &format!("/v1/agent/maintenance{query}"), "").await;
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains(why), "{}", answer.body);
    }
    t.ok("agent_maintenance", args![false]).await;
}

async fn maintenance_of_an_unknown_service_is_not_found(t: T) {
    t.fails("agent_service_maintenance", args![t.name("none"), true], Kind::NotFound).await;
}

async fn a_filter_chooses_services_and_checks(t: T) {
    register_with_check(&t, "1", "passing").await;
    register_with_check(&t, "2", "passing").await;
    let filter = format!("ID == \"{}\"", t.name("2"));
    let services = t.value("agent_services", args![; "filter" = filter]).await;
    assert!(services.get(&t.name("2")).is_some() && services.get(&t.name("1")).is_none());
    let filter = format!("ServiceID == \"{}\"", t.name("1"));
    let checks = t.value("agent_checks", args![; "filter" = filter]).await;
    assert!(checks.get(&format!("service:{}", t.name("1"))).is_some());
    assert!(checks.get(&format!("service:{}", t.name("2"))).is_none());
    for id in ["1", "2"] {
        t.ok("agent_service_deregister", args![t.name(id)]).await;
    }
}

async fn a_wrong_filter_is_an_error(t: T) {
    let error = t.fails("agent_services", args![; "filter" = "Nope == x"], Kind::Http).await;
    assert!(error.message().contains("Selector \"Nope\" is not valid"), "{error}");
    let error = t.fails("agent_services", args![; "filter" = "bad"], Kind::Http).await;
    assert!(error.message().contains("1:4 (3): no match found"), "{error}");
}
