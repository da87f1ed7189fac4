//! The servers, as an operator sees them.

use crate::target::{T, args, behaviours, table, text};
use consul_api::error::Kind;
use consul_sim::acl::DefaultPolicy::Deny;

behaviours![
    raft_has_one_peer,
    a_raft_peer_that_is_not_there_is_not_removed,
    autopilot_is_configured_with_cas,
    an_invalid_configuration_of_autopilot_is_refused,
    autopilot_fills_in_what_is_not_given,
    the_servers_are_healthy,
    usage_counts_services,
    operators_need_permissions,
];

async fn raft_has_one_peer(t: T) {
    let raft = t.value("operator_raft_configuration", args![; "stale" = true]).await;
    let servers = raft.get("Servers").unwrap();
    assert_eq!(servers.items().len(), 1);
    assert_eq!(servers.items()[0].get("Leader"), Some(&true.into()));
    t.fails("operator_raft_peer_delete", args![], Kind::Argument).await;
}

async fn a_raft_peer_that_is_not_there_is_not_removed(t: T) {
    let delete =
        async |query: &str| t.raw("DELETE", &format!("/v1/operator/raft/peer?{query}"), "").await;
    let unknown = delete("address=1.2.3.4:1").await;
    assert_eq!(unknown.status, 500);
    assert!(unknown.body.contains("was not found in the Raft configuration"), "{}", unknown.body);
    let both = delete("address=1.2.3.4:1&id=x").await;
    assert_eq!(both.status, 400);
    assert!(both.body.contains("Must specify only one of ?id or ?address"), "{}", both.body);
}

async fn autopilot_is_configured_with_cas(t: T) {
    let before = t.value("operator_autopilot_configuration", args![]).await;
    let index = before.get("ModifyIndex").unwrap().as_u64().unwrap();
    let wanted = table! {"CleanupDeadServers" = true, "MaxTrailingLogs" = 300};
    let update = "operator_autopilot_configuration_update";
    t.fails(update, args![wanted.clone(); "cas" = index + 1], Kind::Conflict).await;
    t.ok(update, args![wanted; "cas" = index]).await;
    let after = t.value("operator_autopilot_configuration", args![]).await;
    assert_eq!(after.get("MaxTrailingLogs"), Some(&300.into()));
}

async fn an_invalid_configuration_of_autopilot_is_refused(t: T) {
    let path = "/v1/operator/autopilot/configuration";
    for (body, why) in [
        ("x", "Error parsing autopilot config: invalid character 'x'"),
        (
            r#"{"ServerStabilizationTime":"x"}"#,
            "Error parsing autopilot config: time: invalid duration",
        ),
        (r#"{"Bad":1}"#, "Error parsing autopilot config: json: unknown field \"Bad\""),
    ] {
        let refused = t.raw("PUT", path, body).await;
        assert_eq!(refused.status, 400);
        assert!(refused.body.contains(why), "{}", refused.body);
    }
    let refused = t.raw("PUT", &format!("{path}?cas=x"), "{}").await;
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("Error parsing cas value"), "{}", refused.body);
}

async fn autopilot_fills_in_what_is_not_given(t: T) {
    let t = t.with_acls(Deny);
    let wanted = table! {"ServerStabilizationTime" = "90s"};
    t.ok("operator_autopilot_configuration_update", args![wanted]).await;
    let found = t.value("operator_autopilot_configuration", args![]).await;
    assert_eq!(text(&found, "ServerStabilizationTime"), "1m30s");
    if t.is_1_8("autopilot's configuration has no defaults for what is not given") {
        return;
    }
    assert_eq!(text(&found, "LastContactThreshold"), "200ms");
    assert_eq!(found.get("MaxTrailingLogs"), Some(&250.into()));
    assert_eq!(found.get("CleanupDeadServers"), Some(&true.into()));
}

async fn the_servers_are_healthy(t: T) {
    // A server that just started is unhealthy for some seconds: 429, which is a success here.
    t.until("autopilot knows the server", || async {
        let health = t.value("operator_autopilot_health", args![]).await;
        health.get("Servers").unwrap().items().len() == 1
    })
    .await;
    if !t.is_1_8("there is no state of autopilot (before 1.9)") {
        let state = t.value("operator_autopilot_state", args![]).await;
        let leader = text(&state, "Leader").to_owned();
        let server = state.get("Servers").unwrap().get(&leader).unwrap();
        assert_eq!(text(server, "Status"), "leader");
    }
}

async fn usage_counts_services(t: T) {
    if t.is_1_8("there is no usage (before 1.15)") {
        t.fails("operator_usage", args![], Kind::Unsupported).await;
        return;
    }
    let count = async |of: &str| {
        let usage = t.value("operator_usage", args![]).await;
        usage.get("Usage").unwrap().get("dc1").unwrap().get(of).unwrap().as_u64().unwrap()
    };
    assert!(count("Services").await >= 1 && count("Nodes").await >= 1);
    let node = table! {
        "Node" = t.name("n"), "Address" = "10.0.0.1", "Service" = table! {"Service" = t.name("s")},
    };
    t.ok("catalog_register", args![node]).await;
    assert!(count("Services").await >= 2 && count("BillableServiceInstances").await >= 1);
    t.ok("catalog_deregister", args![table! {"Node" = t.name("n")}]).await;
}

async fn operators_need_permissions(t: T) {
    let t = t.with_acls(Deny).anonymous();
    for method in [
        "operator_raft_configuration",
        "operator_autopilot_configuration",
        "operator_autopilot_health",
    ] {
        let error = t.fails(method, args![], Kind::PermissionDenied).await;
        if !t.is_1_8("a refusal does not name the permission") {
            assert!(error.message().contains("lacks permission 'operator:read'"), "{error}");
        }
    }
    let update = "operator_autopilot_configuration_update";
    t.fails(update, args![table! {"MaxTrailingLogs" = 1}], Kind::PermissionDenied).await;
}
