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
    a_certificate_needs_the_name_of_a_service,
    the_agent_describes_its_ports_in_one_way,
    requests_are_in_the_metrics,
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

async fn a_certificate_needs_the_name_of_a_service(t: T) {
    if t.is_1_8("there is a certificate without a name") {
        return;
    }
    let answer = t.raw("GET", "/v1/agent/connect/ca/leaf/", "").await;
    let why = "URI must be either service, agent, server, or kind";
    assert_eq!((answer.status, answer.body.as_str()), (500, why));
}

/// Which harnesses choose at random.
async fn the_agent_describes_its_ports_in_one_way(t: T) {
    let about = t.value("agent_self", args![]).await;
    let (config, member) = (about.get("DebugConfig").unwrap(), about.get("Member").unwrap());
    let port = |name: &str| config.get(name).unwrap().as_u64().unwrap();
    let server = port("ServerPort");
    assert_eq!(member.get("Port").unwrap().as_u64(), Some(port("SerfPortLAN")));
    let tags = member.get("Tags").unwrap();
    assert_eq!(text(tags, "port"), server.to_string());
    assert_eq!(text(tags, "wan_join_port"), port("SerfPortWAN").to_string());
    let leader = t.value("status_leader", args![]).await;
    assert!(leader.as_str().unwrap().ends_with(&format!(":{server}")), "{leader:?}");
    let own = t.value("catalog_service", args!["consul"]).await;
    assert_eq!(own.items()[0].get("ServicePort").unwrap().as_u64(), Some(server));
    let wan = t.value("agent_members", args![; "wan" = true]).await;
    assert_eq!(wan.items()[0].get("Port").unwrap().as_u64(), Some(port("SerfPortWAN")));
    let raft = t.value("operator_raft_configuration", args![]).await;
    let address = text(&raft.get("Servers").unwrap().items()[0], "Address").to_owned();
    assert_eq!(address, leader.as_str().unwrap());
}

async fn requests_are_in_the_metrics(t: T) {
    t.until("a whole interval has requests", || async {
        t.value("catalog_datacenters", args![]).await;
        let metrics = t.value("agent_metrics", args![]).await;
        let time = text(&metrics, "Timestamp").to_owned();
        assert!(time.starts_with("20") && time.ends_with(" +0000 UTC"), "{time}");
        let samples = metrics.get("Samples").unwrap().items().to_vec();
        samples.iter().any(|sample| {
            let path = sample.get("Labels").and_then(|labels| labels.get("path"));
            let is_own = path.is_some_and(|path| path.as_str() == Some("v1_catalog_datacenters"));
            is_own && sample.get("Count").unwrap().as_u64() >= Some(1)
        }) || t.is_1_8("samples of requests have no labels")
    })
    .await;
}
