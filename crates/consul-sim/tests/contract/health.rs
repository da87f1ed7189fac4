//! Health of nodes and services.

use crate::support::AT_ONCE;
use crate::target::{LONG, T, args, behaviours, list, pause, table, text, texts};
use consul_api::error::Kind;
use consul_api::value::Value;
use std::time::{Duration, Instant};

behaviours![
    an_instance_comes_with_its_node_and_checks,
    passing_leaves_out_instances_that_warn_or_fail,
    the_last_instance_takes_the_place_of_one_that_does_not_pass,
    an_unknown_service_or_node_is_an_empty_list,
    a_node_check_makes_its_services_unhealthy,
    checks_are_found_by_state,
    an_unknown_state_is_refused_before_any_request,
    the_servers_own_node_is_alive,
    a_blocking_query_wakes_when_a_check_fails,
    a_cached_read_is_marked_in_the_metadata,
    a_filter_chooses_instances_and_checks,
    the_checks_of_a_service_are_found_in_any_case,
    a_wait_for_the_nearest_instance_is_not_streamed,
];

async fn register(t: &T, node: &str, status: &str) {
    let id = t.name("s");
    let registration = table! {
        "Node" = t.name(node), "Address" = "10.9.9.9",
        "Service" = table! {"Service" = id.as_str(), "Port" = 80},
        "Check" = table! {
            "CheckID" = t.name("c"), "Name" = "alive", "Status" = status, "ServiceID" = id.as_str(),
        },
    };
    t.ok("catalog_register", args![registration]).await;
}

fn nodes(found: &Value) -> Vec<&str> {
    found.items().iter().map(|item| text(item.get("Node").unwrap(), "Node")).collect()
}

async fn an_instance_comes_with_its_node_and_checks(t: T) {
    register(&t, "n", "passing").await;
    let found = t.value("health_service", args![t.name("s")]).await;
    assert_eq!(nodes(&found), [t.name("n")]);
    let instance = &found.items()[0];
    assert_eq!(text(instance.get("Service").unwrap(), "Service"), t.name("s"));
    assert_eq!(instance.get("Service").unwrap().get("Port"), Some(&80.into()));
    let checks = instance.get("Checks").unwrap();
    assert_eq!(texts(checks, "CheckID"), [t.name("c")]);
    assert_eq!(texts(checks, "Status"), ["passing"]);
    assert_eq!(t.value("health_checks", args![t.name("s")]).await.items().len(), 1);
    assert_eq!(t.value("health_node", args![t.name("n")]).await.items().len(), 1);
    t.deregister(&["n"]).await;
}

async fn passing_leaves_out_instances_that_warn_or_fail(t: T) {
    register(&t, "n1", "passing").await;
    register(&t, "n2", "warning").await;
    register(&t, "n3", "critical").await;
    let all = t.value("health_service", args![t.name("s"); "passing" = false]).await;
    assert_eq!(all.items().len(), 3);
    let healthy = t.value("health_service", args![t.name("s"); "passing" = true]).await;
    assert_eq!(nodes(&healthy), [t.name("n1")]);
    t.deregister(&["n1", "n2", "n3"]).await;
}

async fn the_last_instance_takes_the_place_of_one_that_does_not_pass(t: T) {
    for (node, status) in
        [("n1", "warning"), ("n2", "passing"), ("n3", "critical"), ("n4", "passing")]
    {
        register(&t, node, status).await;
    }
    let healthy = t.value("health_service", args![t.name("s"); "passing" = true]).await;
    assert_eq!(nodes(&healthy), [t.name("n4"), t.name("n2")]);
    t.deregister(&["n1", "n2", "n3", "n4"]).await;
}

async fn an_unknown_service_or_node_is_an_empty_list(t: T) {
    assert_eq!(t.value("health_service", args![t.name("none")]).await, list![]);
    assert_eq!(t.value("health_checks", args![t.name("none")]).await, list![]);
    assert_eq!(t.value("health_node", args![t.name("none")]).await, list![]);
}

async fn a_node_check_makes_its_services_unhealthy(t: T) {
    register(&t, "n", "passing").await;
    let check = table! {"CheckID" = "disk", "Name" = "disk", "Status" = "critical"};
    let registration = table! {"Node" = t.name("n"), "Address" = "10.9.9.9", "Check" = check};
    t.ok("catalog_register", args![registration]).await;
    let healthy = t.value("health_service", args![t.name("s"); "passing" = true]).await;
    assert_eq!(healthy, list![]);
    let all = t.value("health_service", args![t.name("s")]).await;
    let checks = all.items()[0].get("Checks").unwrap();
    assert_eq!(texts(checks, "CheckID"), ["disk".to_owned(), t.name("c")]);
    t.deregister(&["n"]).await;
}

async fn checks_are_found_by_state(t: T) {
    register(&t, "n", "warning").await;
    let is_ours = |found: &Value| texts(found, "Node").contains(&t.name("n").as_str());
    assert!(is_ours(&t.value("health_state", args!["warning"]).await));
    assert!(is_ours(&t.value("health_state", args!["any"]).await));
    assert!(!is_ours(&t.value("health_state", args!["critical"]).await));
    t.deregister(&["n"]).await;
}

async fn an_unknown_state_is_refused_before_any_request(t: T) {
    let error = t.fails("health_state", args!["bad"], Kind::Argument).await;
    assert!(error.message().contains("any, passing, warning, critical"), "{error}");
}

async fn the_servers_own_node_is_alive(t: T) {
    let found = t.value("health_service", args!["consul"; "passing" = true]).await;
    let checks = found.items()[0].get("Checks").unwrap();
    assert!(texts(checks, "CheckID").contains(&"serfHealth"));
}

async fn a_blocking_query_wakes_when_a_check_fails(t: T) {
    register(&t, "n", "passing").await;
    let index = t.index("health_service", args![t.name("s")]).await;
    let start = Instant::now();
    let query = t.ok("health_service", args![t.name("s"); "index" = index, "wait" = LONG]);
    let change = async {
        pause(Duration::from_millis(200)).await;
        register(&t, "n", "critical").await;
    };
    let (answer, ()) = tokio::join!(query, change);
    assert!(start.elapsed() < AT_ONCE);
    let checks = answer.value.items()[0].get("Checks").unwrap();
    assert_eq!(texts(checks, "Status"), ["critical"]);
    t.deregister(&["n"]).await;
}

async fn a_cached_read_is_marked_in_the_metadata(t: T) {
    register(&t, "n", "passing").await;
    let cached = || args![t.name("s"); "cached" = true];
    // The first one is MISS or HIT, depending on how soon the stream of a real agent begins.
    assert!(t.ok("health_service", cached()).await.meta.cache.is_some());
    let answer = t.ok("health_service", cached()).await;
    assert_eq!(answer.meta.cache.as_deref(), Some("HIT"));
    assert!(answer.meta.age_s.is_some());
    let control = |control: &str| args![t.name("s"); "cached" = true, "cache_control" = control];
    let answer = t.ok("health_service", control("max-age=60, stale-if-error=600")).await;
    assert!(answer.meta.age_s.is_some_and(|age| age <= 60), "{:?}", answer.meta);
    t.fails("health_service", control("max-age=soon"), Kind::Argument).await;
    t.deregister(&["n"]).await;
}

async fn a_filter_chooses_instances_and_checks(t: T) {
    register(&t, "n1", "passing").await;
    register(&t, "n2", "warning").await;
    let warning = args![t.name("s"); "filter" = "Checks.Status == warning"];
    assert_eq!(nodes(&t.value("health_service", warning).await), [t.name("n2")]);
    let filter = format!("Node.Node != \"{}\"", t.name("n2"));
    let others = t.value("health_service", args![t.name("s"); "filter" = filter]).await;
    assert_eq!(nodes(&others), [t.name("n1")]);
    let passing = args![t.name("s"); "filter" = "Status == passing"];
    assert_eq!(texts(&t.value("health_checks", passing).await, "Node"), [t.name("n1")]);
    let none = args![t.name("n1"); "filter" = "Status == critical"];
    assert_eq!(t.value("health_node", none).await, list![]);
    t.deregister(&["n1", "n2"]).await;
}

async fn the_checks_of_a_service_are_found_in_any_case(t: T) {
    let service = t.name("Web");
    let registration = table! {
        "Node" = t.name("n"), "Address" = "10.9.9.9",
        "Service" = table! {"Service" = service.as_str()},
        "Check" = table! {"CheckID" = "c", "Status" = "passing", "ServiceID" = service.as_str()},
    };
    t.ok("catalog_register", args![registration]).await;
    for name in [service.to_uppercase(), service.to_lowercase(), service] {
        assert_eq!(t.value("health_checks", args![name]).await.items().len(), 1);
    }
    t.deregister(&["n"]).await;
}

async fn a_wait_for_the_nearest_instance_is_not_streamed(t: T) {
    if t.is_1_8("no answer names its backend") {
        return;
    }
    register(&t, "n", "passing").await;
    for (near, backend) in [("", "streaming"), ("&near=_agent", "blocking-query")] {
        let path = format!("/v1/health/service/{}?index=1{near}", t.name("s"));
        let answer = t.raw("GET", &path, "").await;
        assert_eq!(answer.header("x-consul-query-backend"), Some(backend), "{path}");
    }
    t.deregister(&["n"]).await;
}
