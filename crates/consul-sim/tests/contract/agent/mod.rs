//! The agent's services and TTL checks.

pub mod certificate;
pub mod check;
pub mod health;
pub mod member;
pub mod sidecar;

use crate::target::{T, args, behaviours, list, pause, table, text, texts};
use consul_api::error::Kind;
use consul_api::value::Value;
use std::time::{Duration, Instant};

behaviours![
    a_service_is_what_it_was_registered_as,
    a_service_has_the_documented_defaults,
    the_hash_of_a_service_changes_with_its_definition,
    a_service_without_checks_is_passing,
    fields_may_be_written_in_snake_case,
    registering_again_changes_the_service,
    deregistering_removes_the_service_and_its_checks,
    deregistering_an_unknown_service_or_check_succeeds,
    an_unknown_service_is_absent_and_not_an_error,
    a_ttl_check_is_critical_at_first,
    a_ttl_check_follows_its_updates,
    a_ttl_check_turns_critical_and_comes_back,
    an_update_restarts_the_ttl,
    the_note_of_an_update_is_shown,
    updating_an_unknown_check_is_not_found,
    a_check_of_an_unknown_service_is_not_found,
    several_checks_are_numbered,
    registering_again_keeps_checks_not_named,
    replace_existing_checks_removes_checks_not_named,
    a_service_without_a_name_is_refused,
    unknown_fields_are_misuse,
    a_bad_state_is_refused_before_any_request,
    a_check_without_a_kind_is_refused,
    the_agent_describes_itself,
    only_a_check_by_itself_has_a_token,
];

async fn own_service(t: &T, id: &str) -> Value {
    t.value("agent_service", args![id]).await
}

async fn check_status(t: &T, id: &str) -> String {
    let checks = t.value("agent_checks", args![]).await;
    let check = checks.get(id).unwrap_or_else(|| panic!("no check {id}"));
    text(check, "Status").to_owned()
}

async fn a_service_is_what_it_was_registered_as(t: T) {
    let service = table! {
        "ID" = t.name("1"), "Name" = t.name("s"), "Tags" = list!["a", "b"],
        "Meta" = table! {"version" = "2"}, "Address" = "10.0.0.1", "Port" = 8080,
        "Weights" = table! {"Passing" = 5, "Warning" = 2},
    };
    t.ok("agent_service_register", args![service]).await;
    let service = own_service(&t, &t.name("1")).await;
    assert_eq!(text(&service, "Service"), t.name("s"));
    assert_eq!(service.get("Tags"), Some(&list!["a", "b"]));
    assert_eq!(text(service.get("Meta").unwrap(), "version"), "2");
    assert_eq!((text(&service, "Address"), service.get("Port")), ("10.0.0.1", Some(&8080.into())));
    assert_eq!(service.get("Weights").unwrap().get("Passing"), Some(&5.into()));
    let all = t.value("agent_services", args![]).await;
    assert!(all.get(&t.name("1")).is_some());
    t.ok("agent_service_deregister", args![t.name("1")]).await;
}

async fn a_service_has_the_documented_defaults(t: T) {
    t.ok("agent_service_register", args![table! {"Name" = t.name("s")}]).await;
    let service = own_service(&t, &t.name("s")).await;
    assert_eq!(text(&service, "ID"), t.name("s"));
    assert_eq!(service.get("Tags"), Some(&list![]));
    assert_eq!(service.get("Weights"), Some(&table! {"Passing" = 1, "Warning" = 1}));
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn a_service_without_checks_is_passing(t: T) {
    t.ok("agent_service_register", args![table! {"Name" = t.name("s")}]).await;
    // The maintenance of the node, which another test has for a moment, hides it.
    t.until("it is passing", || async {
        let passing = args![t.name("s"); "passing" = true];
        t.value("health_service", passing).await.items().len() == 1
    })
    .await;
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn fields_may_be_written_in_snake_case(t: T) {
    let service = table! {
        "name" = t.name("s"), "enable_tag_override" = true,
        "check" = table! {"check_id" = t.name("c"), "ttl" = 60, "status" = "passing"},
    };
    t.ok("agent_service_register", args![service]).await;
    assert_eq!(own_service(&t, &t.name("s")).await.get("EnableTagOverride"), Some(&true.into()));
    assert_eq!(check_status(&t, &t.name("c")).await, "passing");
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn registering_again_changes_the_service(t: T) {
    for port in [1, 2] {
        let service = table! {"Name" = t.name("s"), "Port" = port};
        t.ok("agent_service_register", args![service]).await;
    }
    assert_eq!(own_service(&t, &t.name("s")).await.get("Port"), Some(&2.into()));
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn deregistering_removes_the_service_and_its_checks(t: T) {
    let check = table! {"CheckID" = t.name("c"), "TTL" = "1m"};
    let service = table! {"Name" = t.name("s"), "Check" = check};
    t.ok("agent_service_register", args![service]).await;
    t.ok("agent_service_deregister", args![t.name("s")]).await;
    assert_eq!(own_service(&t, &t.name("s")).await, Value::Null);
    assert_eq!(t.value("agent_checks", args![]).await.get(&t.name("c")), None);
    assert_eq!(t.value("catalog_service", args![t.name("s")]).await, list![]);
}

// 1.8.7 answers 200, newer servers 404: both mean success.
async fn deregistering_an_unknown_service_or_check_succeeds(t: T) {
    assert_eq!(t.value("agent_service_deregister", args![t.name("none")]).await, true.into());
    assert_eq!(t.value("agent_check_deregister", args![t.name("none")]).await, true.into());
}

async fn an_unknown_service_is_absent_and_not_an_error(t: T) {
    assert_eq!(own_service(&t, &t.name("none")).await, Value::Null);
}

async fn ttl_service(t: &T, ttl: &str) -> String {
    let service = table! {"Name" = t.name("s"), "Check" = table! {"TTL" = ttl}};
    t.ok("agent_service_register", args![service]).await;
    format!("service:{}", t.name("s"))
}

async fn a_ttl_check_is_critical_at_first(t: T) {
    let check = ttl_service(&t, "1m").await;
    assert_eq!(check_status(&t, &check).await, "critical");
    let found = t.value("health_service", args![t.name("s"); "passing" = true]).await;
    assert_eq!(found, list![]);
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn a_ttl_check_follows_its_updates(t: T) {
    let check = ttl_service(&t, "1m").await;
    for (method, status) in [
        ("agent_check_pass", "passing"),
        ("agent_check_warn", "warning"),
        ("agent_check_fail", "critical"),
    ] {
        t.ok(method, args![check.as_str()]).await;
        assert_eq!(check_status(&t, &check).await, status);
        t.until("the catalog follows", || async {
            let checks = t.value("health_checks", args![t.name("s")]).await;
            texts(&checks, "Status") == [status]
        })
        .await;
    }
    let update = table! {"Status" = "passing", "Output" = "fine"};
    t.ok("agent_check_update", args![check.as_str(), update]).await;
    assert_eq!(check_status(&t, &check).await, "passing");
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn a_ttl_check_turns_critical_and_comes_back(t: T) {
    let check = ttl_service(&t, "1s").await;
    t.ok("agent_check_pass", args![check.as_str(); "note" = "alive"]).await;
    let passed = Instant::now();
    t.until("the check is critical", || async { check_status(&t, &check).await == "critical" })
        .await;
    let lived = passed.elapsed();
    assert!(lived >= Duration::from_millis(950), "{lived:?}");
    let checks = t.value("agent_checks", args![]).await;
    let output = text(checks.get(&check).unwrap(), "Output");
    assert_eq!(output, "TTL expired (last output before timeout follows): alive");
    t.ok("agent_check_pass", args![check.as_str()]).await;
    assert_eq!(check_status(&t, &check).await, "passing");
    // Registered again, it forgets the output.
    t.ok("agent_check_pass", args![check.as_str(); "note" = "alive"]).await;
    assert_eq!(ttl_service(&t, "1s").await, check);
    t.until("the output is forgotten", || async {
        let checks = t.value("agent_checks", args![]).await;
        let found = checks.get(&check).unwrap();
        text(found, "Status") == "critical" && text(found, "Output") == "TTL expired"
    })
    .await;
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn an_update_restarts_the_ttl(t: T) {
    let check = ttl_service(&t, "1s").await;
    for _ in 0..6 {
        t.ok("agent_check_pass", args![check.as_str()]).await;
        pause(Duration::from_millis(300)).await;
    }
    assert_eq!(check_status(&t, &check).await, "passing");
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn the_note_of_an_update_is_shown(t: T) {
    let check = ttl_service(&t, "1m").await;
    t.ok("agent_check_warn", args![check.as_str(); "note" = "disk 91 % & rising"]).await;
    let checks = t.value("agent_checks", args![]).await;
    assert_eq!(text(checks.get(&check).unwrap(), "Output"), "disk 91 % & rising");
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn updating_an_unknown_check_is_not_found(t: T) {
    for method in ["agent_check_pass", "agent_check_warn", "agent_check_fail"] {
        t.fails(method, args![t.name("none")], Kind::NotFound).await;
    }
    let update = table! {"Status" = "passing"};
    t.fails("agent_check_update", args![t.name("none"), update], Kind::NotFound).await;
}

async fn a_check_of_an_unknown_service_is_not_found(t: T) {
    let check = table! {"Name" = t.name("c"), "TTL" = "1m", "ServiceID" = t.name("none")};
    t.fails("agent_check_register", args![check], Kind::NotFound).await;
}

async fn several_checks_are_numbered(t: T) {
    let checks = list![table! {"TTL" = "1m"}, table! {"TTL" = "2m"}];
    let service = table! {"Name" = t.name("s"), "Checks" = checks};
    t.ok("agent_service_register", args![service]).await;
    for number in 1..=2 {
        check_status(&t, &format!("service:{}:{number}", t.name("s"))).await;
    }
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn register_with_check(t: &T, check: &str, replace: bool) {
    let check = table! {"CheckID" = t.name(check), "TTL" = "1m"};
    let service = table! {"Name" = t.name("s"), "Check" = check};
    t.ok("agent_service_register", args![service; "replace_existing_checks" = replace]).await;
}

async fn registering_again_keeps_checks_not_named(t: T) {
    register_with_check(&t, "c1", false).await;
    register_with_check(&t, "c2", false).await;
    let checks = t.value("agent_checks", args![]).await;
    assert!(checks.get(&t.name("c1")).is_some() && checks.get(&t.name("c2")).is_some());
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn replace_existing_checks_removes_checks_not_named(t: T) {
    register_with_check(&t, "c1", false).await;
    register_with_check(&t, "c2", true).await;
    let checks = t.value("agent_checks", args![]).await;
    assert!(checks.get(&t.name("c1")).is_none() && checks.get(&t.name("c2")).is_some());
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn a_service_without_a_name_is_refused(t: T) {
    let error =
        t.fails("agent_service_register", args![table! {"Port" = 80}], Kind::Argument).await;
    assert!(error.message().contains("Missing service name"), "{error}");
    assert_eq!(error.status(), Some(400));
}

async fn unknown_fields_are_misuse(t: T) {
    let service = table! {"Name" = t.name("s"), "Adress" = "10.0.0.1"};
    let error = t.fails("agent_service_register", args![service], Kind::Argument).await;
    assert!(error.is_misuse(), "{error}");
    assert!(error.message().contains("did you mean \"Address\""), "{error}");
}

async fn a_bad_state_is_refused_before_any_request(t: T) {
    let update = table! {"Status" = "fine"};
    let error = t.fails("agent_check_update", args![t.name("c"), update], Kind::Argument).await;
    assert!(!error.maybe_applied() && error.message().contains("passing, warning"), "{error}");
}

async fn a_check_without_a_kind_is_refused(t: T) {
    let check = table! {"Name" = t.name("c"), "Interval" = "10s"};
    let error = t.fails("agent_check_register", args![check], Kind::Argument).await;
    assert!(error.message().contains("TTL must be > 0"), "{error}");
}

async fn the_agent_describes_itself(t: T) {
    let own = t.value("agent_self", args![]).await;
    let config = own.get("Config").unwrap();
    assert_eq!(text(config, "Datacenter"), "dc1");
    assert_eq!(text(own.get("Member").unwrap(), "Name"), text(config, "NodeName"));
}

async fn only_a_check_by_itself_has_a_token(t: T) {
    let name = t.name("c");
    let alone = format!(r#"{{"Name":"{name}","TTL":"10s","Token":""}}"#);
    assert_eq!(t.raw("PUT", "/v1/agent/check/register", &alone).await.status, 200);
    t.ok("agent_check_deregister", args![name.as_str()]).await;
    let of_service = format!(r#"{{"Name":"{name}","Check":{{"TTL":"10s","Token":""}}}}"#);
    let answer = t.raw("PUT", "/v1/agent/service/register", &of_service).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.ends_with("json: unknown field \"Token\""), "{}", answer.body);
}

async fn the_hash_of_a_service_changes_with_its_definition(t: T) {
    let mut seen = Vec::new();
    for port in [8080, 8080, 8081] {
        let service = table! {"Name" = "hashed", "Tags" = list!["b", "a"], "Port" = port};
        t.ok("agent_service_register", args![service]).await;
        let found = t.raw("GET", "/v1/agent/service/hashed", "").await;
        let body: serde_json::Value = serde_json::from_str(&found.body).unwrap();
        assert_eq!(body["ContentHash"], found.header("x-consul-contenthash").unwrap());
        seen.push(body["ContentHash"].clone());
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[1], seen[2]);
    t.ok("agent_service_deregister", args!["hashed"]).await;
}
