//! The agent itself: its cluster, its host, its mesh.

use crate::target::{T, args, behaviours, list, text, texts};
use consul_api::error::Kind;
use consul_api::value::Value;

behaviours![
    the_agent_is_a_member_of_its_cluster,
    the_agent_can_join_only_itself,
    an_unknown_member_cannot_be_forced_to_leave,
    agent_tokens_need_acls,
    the_agent_has_metrics_and_a_host,
    the_mesh_has_an_active_root,
];

async fn the_agent_is_a_member_of_its_cluster(t: T) {
    let about = t.value("agent_self", args![]).await;
    let name = text(about.get("Config").unwrap(), "NodeName");
    let members = t.value("agent_members", args![]).await;
    assert_eq!(texts(&members, "Name"), [name]);
    assert_eq!(members.items()[0].get("Status"), Some(&1.into()));
    let servers = t.value("agent_members", args![; "wan" = true]).await;
    assert_eq!(texts(&servers, "Name"), [format!("{name}.dc1")]);
    if !t.is_1_8("the list of members is not filtered (before 1.14.9)") {
        let none = t.value("agent_members", args![; "filter" = "Name == none"]).await;
        assert_eq!(none, list![]);
    }
}

async fn the_agent_can_join_only_itself(t: T) {
    let about = t.value("agent_self", args![]).await;
    let port = about.get("Member").unwrap().get("Port").unwrap().as_u64().unwrap();
    t.ok("agent_join", args![format!("127.0.0.1:{port}")]).await;
    let error = t.fails("agent_join", args!["127.0.0.1:1"], Kind::Http).await;
    assert!(error.message().contains("127.0.0.1:1: connect: connection refused"), "{error}");
}

async fn an_unknown_member_cannot_be_forced_to_leave(t: T) {
    let answer = t.raw("PUT", &format!("/v1/agent/force-leave/{}", t.name("none")), "").await;
    assert_eq!(answer.status, 500);
    assert!(answer.body.contains("No node found with name"), "{}", answer.body);
}

async fn agent_tokens_need_acls(t: T) {
    let answer = t.raw("PUT", "/v1/agent/token/default", r#"{"Token":"x"}"#).await;
    assert_eq!((answer.status, answer.body.as_str()), (401, "ACL support disabled"));
}

async fn the_agent_has_metrics_and_a_host(t: T) {
    let metrics = t.value("agent_metrics", args![]).await;
    let gauges = metrics.get("Gauges").unwrap();
    assert!(texts(gauges, "Name").iter().any(|name| name.starts_with("consul.")));
    let host = t.value("agent_host", args![]).await;
    assert!(host.get("Host").is_some() && host.get("Memory").is_some());
    if !t.is_1_8("agent/version does not exist (before 1.16)") {
        let version = t.value("agent_version", args![]).await;
        assert_eq!(text(&version, "HumanVersion"), "1.21.0");
    }
}

async fn the_mesh_has_an_active_root(t: T) {
    for method in ["agent_connect_ca_roots", "connect_ca_roots"] {
        let roots = t.value(method, args![]).await;
        let active = text(&roots, "ActiveRootID");
        // Other tests replace the root, and earlier ones stay.
        let is_active = |root: &&Value| root.get("Active") == Some(&true.into());
        let now: Vec<_> = roots.get("Roots").unwrap().items().iter().filter(is_active).collect();
        assert_eq!(now.len(), 1, "{roots:?}");
        assert_eq!(text(now[0], "ID"), active);
        let certificate = text(now[0], "RootCert");
        assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"), "{certificate}");
    }
}
