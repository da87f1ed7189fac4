//! The servers, as an operator sees them.

use crate::target::{T, args, behaviours, table, text};
use consul_api::error::Kind;
use consul_sim::acl::DefaultPolicy::Deny;

behaviours![
    raft_has_one_peer,
    the_servers_are_healthy,
    usage_counts_services,
    operators_need_permissions,
    reads_have_one_consistency,
];

async fn raft_has_one_peer(t: T) {
    let raft = t.value("operator_raft_configuration", args![; "stale" = true]).await;
    let servers = raft.get("Servers").unwrap();
    assert_eq!(servers.items().len(), 1);
    assert_eq!(servers.items()[0].get("Leader"), Some(&true.into()));
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
    t.deregister(&["n"]).await;
}

async fn operators_need_permissions(t: T) {
    let t = t.with_acls(Deny).anonymous();
    for method in ["operator_raft_configuration", "operator_autopilot_health"] {
        let error = t.fails(method, args![], Kind::PermissionDenied).await;
        if !t.is_1_8("a refusal does not name the permission") {
            assert!(error.message().contains("lacks permission 'operator:read'"), "{error}");
        }
    }
}

async fn reads_have_one_consistency(t: T) {
    for target in ["connect/ca/configuration", "catalog/datacenters", "operator/raft/configuration"]
    {
        for query in ["stale&consistent", "index=x", "wait=x"] {
            // Only its consistency is read.
            if target == "catalog/datacenters" && query != "stale&consistent" {
                continue;
            }
            let answer = t.raw("GET", &format!("/v1/{target}?{query}"), "").await;
            let is_refused = answer.status == 400 || t.is_1_8("fewer reads are checked");
            assert!(is_refused, "{target}?{query}: {} {}", answer.status, answer.body);
        }
    }
    if t.is_1_8("there are no numbers of services") {
        return;
    }
    for (query, level) in [("", "leader"), ("stale", "stale"), ("consistent", "consistent")] {
        let answer = t.raw("GET", &format!("/v1/operator/usage?{query}"), "").await;
        let found: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(found["ConsistencyLevel"], level);
    }
}
