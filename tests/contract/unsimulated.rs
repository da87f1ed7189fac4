//! Methods that the simulated agent answers as an unknown endpoint; on real servers they work.

use crate::target::{T, args, behaviours, list, table, text, texts};
use consul_ffi::error::Kind;
use consul_ffi::simulate::acl::DefaultPolicy::Deny;
use consul_ffi::wire::value::Value;

behaviours![
    a_configuration_entry_is_written_read_and_deleted,
    a_configuration_entry_is_written_once_with_cas_zero,
    an_unknown_configuration_entry_is_absent,
    an_intention_allows_or_denies,
    an_intention_is_created_and_deleted_by_id,
    intentions_are_matched_by_either_end,
    a_discovery_chain_is_compiled,
    nothing_is_exported_at_first,
    the_mesh_has_a_configured_authority,
    a_snapshot_is_bytes_and_an_invalid_one_is_refused,
    an_unknown_peering_is_absent,
    enterprise_endpoints_are_unsupported,
    a_role_has_policies,
    there_are_no_auth_methods_at_first,
    templates_of_policies_are_known,
    replication_is_off_in_the_first_datacenter,
];

/// Whether the target is a simulated agent; if so, checks that the method is `unsupported`.
async fn is_unknown(t: &T, method: &str, args: consul_ffi::wire::request::Args) -> bool {
    let simulated = t.is_simulated();
    if simulated {
        t.fails(method, args, Kind::Unsupported).await;
    }
    simulated
}

fn entry(t: &T, protocol: &str) -> Value {
    table! {"Kind" = "service-defaults", "Name" = t.name("web"), "Protocol" = protocol}
}

async fn a_configuration_entry_is_written_read_and_deleted(t: T) {
    if is_unknown(&t, "config_write", args![entry(&t, "http")]).await {
        return;
    }
    t.ok("config_write", args![entry(&t, "http")]).await;
    let found = t.value("config_read", args!["service-defaults", t.name("web")]).await;
    assert_eq!(text(&found, "Protocol"), "http");
    let all = t.value("config_list", args!["service-defaults"]).await;
    assert!(texts(&all, "Name").contains(&t.name("web").as_str()));
    t.ok("config_delete", args!["service-defaults", t.name("web")]).await;
    let gone = t.value("config_read", args!["service-defaults", t.name("web")]).await;
    assert_eq!(gone, Value::Null);
}

async fn a_configuration_entry_is_written_once_with_cas_zero(t: T) {
    if is_unknown(&t, "config_list", args!["service-defaults"]).await {
        return;
    }
    t.ok("config_write", args![entry(&t, "http"); "cas" = 0]).await;
    t.fails("config_write", args![entry(&t, "grpc"); "cas" = 0], Kind::Conflict).await;
    t.ok("config_delete", args!["service-defaults", t.name("web")]).await;
}

async fn an_unknown_configuration_entry_is_absent(t: T) {
    if is_unknown(&t, "config_read", args!["service-defaults", "none"]).await {
        return;
    }
    assert_eq!(t.value("config_read", args!["service-defaults", "none"]).await, Value::Null);
    t.ok("config_delete", args!["service-defaults", "none"]).await;
}

async fn an_intention_allows_or_denies(t: T) {
    let ends = || args![t.name("a"), t.name("b")];
    if is_unknown(&t, "connect_intention_check", ends()).await {
        return;
    }
    assert_eq!(t.value("connect_intention_check", ends()).await, table! {"Allowed" = true});
    let deny = table! {"Action" = "deny"};
    if t.is_1_8("there are no intentions by their ends (before 1.9)") {
        // It takes the last part of the path for an id.
        t.fails("connect_intention_exact", ends(), Kind::Argument).await;
        return;
    }
    t.ok("connect_intention_upsert", args![t.name("a"), t.name("b"), deny]).await;
    assert_eq!(t.value("connect_intention_check", ends()).await, table! {"Allowed" = false});
    let found = t.value("connect_intention_exact", ends()).await;
    assert_eq!(text(&found, "Action"), "deny");
    t.ok("connect_intention_delete", ends()).await;
    assert_eq!(t.value("connect_intention_exact", ends()).await, Value::Null);
}

fn intention(t: &T) -> Value {
    table! {
        "SourceName" = t.name("a"), "DestinationName" = t.name("b"), "SourceType" = "consul",
        "Action" = "allow",
    }
}

async fn an_intention_is_created_and_deleted_by_id(t: T) {
    if is_unknown(&t, "connect_intention_list", args![]).await {
        return;
    }
    let id = t.value("connect_intention_create", args![intention(&t)]).await;
    let id = id.as_str().unwrap();
    let found = t.value("connect_intention_read", args![id]).await;
    assert_eq!(text(&found, "SourceName"), t.name("a"));
    // An intention that was written by source and destination has no id.
    let all = t.value("connect_intention_list", args![]).await;
    assert!(all.items().iter().any(|found| found.get("ID") == Some(&id.into())));
    t.ok("connect_intention_delete_by_id", args![id]).await;
    assert_eq!(t.value("connect_intention_read", args![id]).await, Value::Null);
}

async fn intentions_are_matched_by_either_end(t: T) {
    let by = |end: &str, name: &str| args![end, list![t.name(name)]];
    if is_unknown(&t, "connect_intention_match", by("source", "a")).await {
        return;
    }
    let id = t.value("connect_intention_create", args![intention(&t)]).await;
    for (end, name) in [("source", "a"), ("destination", "b")] {
        let found = t.value("connect_intention_match", by(end, name)).await;
        let matched = found.get(&t.name(name)).unwrap();
        assert!(texts(matched, "DestinationName").contains(&t.name("b").as_str()), "{found:?}");
    }
    t.ok("connect_intention_delete_by_id", args![id]).await;
}

async fn a_discovery_chain_is_compiled(t: T) {
    if is_unknown(&t, "discovery_chain", args!["web"]).await {
        return;
    }
    let chain = t.value("discovery_chain", args!["web"]).await;
    assert_eq!(text(chain.get("Chain").unwrap(), "ServiceName"), "web");
}

async fn nothing_is_exported_at_first(t: T) {
    if is_unknown(&t, "exported_services", args![]).await {
        return;
    }
    if t.is_1_8("there are no exported services (before 1.17.3)") {
        t.fails("exported_services", args![], Kind::Unsupported).await;
    } else {
        assert_eq!(t.value("exported_services", args![]).await, list![]);
    }
}

async fn the_mesh_has_a_configured_authority(t: T) {
    if is_unknown(&t, "connect_ca_configuration", args![]).await {
        return;
    }
    let configuration = t.value("connect_ca_configuration", args![]).await;
    assert_eq!(text(&configuration, "Provider"), "consul");
}

async fn a_snapshot_is_bytes_and_an_invalid_one_is_refused(t: T) {
    if is_unknown(&t, "snapshot_save", args![]).await {
        return;
    }
    let t = t.with_acls(Deny);
    let snapshot = t.value("snapshot_save", args![]).await;
    assert!(matches!(&snapshot, Value::Bytes(bytes) if bytes.starts_with(&[0x1f, 0x8b])));
    t.fails("snapshot_restore", args!["garbage"], Kind::Http).await;
}

async fn an_unknown_peering_is_absent(t: T) {
    let request = || args![table! {"PeerName" = "cluster-02"}];
    if is_unknown(&t, "peering_token", request()).await {
        return;
    }
    if t.is_1_8("there are no peerings (before 1.13)") {
        t.fails("peering_list", args![], Kind::Unsupported).await;
        return;
    }
    assert_eq!(t.value("peering_read", args!["none"]).await, Value::Null);
    assert_eq!(t.value("peering_list", args![]).await, list![]);
}

async fn enterprise_endpoints_are_unsupported(t: T) {
    for method in ["namespace_list", "partition_list"] {
        t.fails(method, args![], Kind::Unsupported).await;
    }
    t.fails("namespace_read", args!["default"], Kind::Unsupported).await;
}

async fn a_role_has_policies(t: T) {
    let t = t.with_acls(Deny);
    let role = table! {"Name" = t.name("r"), "Description" = "d"};
    if is_unknown(&t, "acl_role_create", args![role.clone()]).await {
        return;
    }
    let created = t.value("acl_role_create", args![role]).await;
    let id = text(&created, "ID");
    let found = t.value("acl_role_read_by_name", args![t.name("r")]).await;
    assert_eq!(text(&found, "ID"), id);
    let changed = table! {"Name" = t.name("r"), "Description" = "e"};
    t.ok("acl_role_update", args![id, changed]).await;
    assert_eq!(text(&t.value("acl_role_read", args![id]).await, "Description"), "e");
    assert!(texts(&t.value("acl_role_list", args![]).await, "ID").contains(&id));
    t.ok("acl_role_delete", args![id]).await;
    t.fails("acl_role_read", args![id], Kind::NotFound).await;
}

async fn there_are_no_auth_methods_at_first(t: T) {
    let t = t.with_acls(Deny);
    if is_unknown(&t, "acl_auth_method_list", args![]).await {
        return;
    }
    assert_eq!(t.value("acl_auth_method_list", args![]).await, list![]);
    assert_eq!(t.value("acl_binding_rule_list", args![]).await, list![]);
    t.fails("acl_auth_method_read", args![t.name("none")], Kind::NotFound).await;
    let login = table! {"AuthMethod" = t.name("none"), "BearerToken" = "x"};
    assert!(t.call("acl_login", args![login]).await.is_err());
}

async fn templates_of_policies_are_known(t: T) {
    let t = t.with_acls(Deny);
    if is_unknown(&t, "acl_templated_policy_list", args![]).await {
        return;
    }
    if t.is_1_8("there are no templates of policies (before 1.17)") {
        t.fails("acl_templated_policy_list", args![], Kind::Unsupported).await;
        return;
    }
    let templates = t.value("acl_templated_policy_list", args![]).await;
    assert!(templates.get("builtin/service").is_some());
    let one = t.value("acl_templated_policy_read", args!["builtin/service"]).await;
    assert_eq!(text(&one, "TemplateName"), "builtin/service");
    let preview = args!["builtin/service", table! {"Name" = "api"}];
    let policy = t.value("acl_templated_policy_preview", preview).await;
    assert!(text(&policy, "Rules").contains("api"));
}

async fn replication_is_off_in_the_first_datacenter(t: T) {
    let t = t.with_acls(Deny);
    if is_unknown(&t, "acl_replication", args![]).await {
        return;
    }
    let replication = t.value("acl_replication", args![]).await;
    assert_eq!(replication.get("Enabled"), Some(&false.into()));
}
