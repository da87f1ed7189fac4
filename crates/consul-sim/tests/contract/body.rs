//! Bodies as a Lua program writes them: numbers of seconds, names in snake_case, empty tables, and what was read.

use crate::acl::logins::Issuer;
use crate::target::{T, args, behaviours, list, table, text};
use consul_api::value::Value;
use consul_sim::acl::DefaultPolicy::Deny;

behaviours![
    a_number_of_seconds_is_a_duration_in_every_body,
    names_in_snake_case_are_consuls_in_every_body,
    names_of_the_programs_own_stay_as_they_are,
    an_empty_table_is_a_list_where_consul_has_one,
    an_object_of_access_control_is_written_as_it_was_read,
    a_query_is_written_as_it_was_read,
    an_intention_is_written_as_it_was_read,
    a_token_is_written_as_it_was_read_with_its_rules,
    what_logins_need_is_written_as_it_was_read,
    an_intention_of_an_id_is_written_as_it_was_read,
    the_configuration_of_the_authority_is_written_as_it_was_read,
    entries_of_the_mesh_are_written_as_they_were_read,
];

async fn read_entry(t: &T, kind: &str) -> Value {
    t.value("config_read", args![kind, t.name("web")]).await
}

async fn a_number_of_seconds_is_a_duration_in_every_body(t: T) {
    let subsets = table! {"v1" = table! {}};
    let entry = table! {
        "Kind" = "service-resolver", "Name" = t.name("web"), "ConnectTimeout" = 5, "Subsets" = subsets,
    };
    t.ok("config_write", args![entry]).await;
    let stored = read_entry(&t, "service-resolver").await;
    assert_eq!(text(&stored, "ConnectTimeout"), "5s");
    // As it was read, too.
    t.ok("config_write", args![stored.clone()]).await;
    assert_eq!(
        read_entry(&t, "service-resolver").await.get("ConnectTimeout"),
        stored.get("ConnectTimeout")
    );
    t.ok("config_delete", args!["service-resolver", t.name("web")]).await;

    let definition = table! {
        "http" = "http://10.0.0.1/", "interval" = 10, "timeout" = 0.5, "deregister_critical_service_after" = 90,
    };
    let check = table! {"Name" = "c", "Status" = "passing", "Definition" = definition};
    let node = table! {"Node" = t.name("ext"), "Address" = "10.0.0.1", "Check" = check};
    t.ok("catalog_register", args![node]).await;
    let checks = t.value("health_node", args![t.name("ext")]).await;
    let definition = checks.items()[0].get("Definition").unwrap();
    for (name, value) in
        [("Interval", "10s"), ("Timeout", "500ms"), ("DeregisterCriticalServiceAfter", "1m30s")]
    {
        assert_eq!(text(definition, name), value);
    }
    t.deregister(&["ext"]).await;
}

async fn names_in_snake_case_are_consuls_in_every_body(t: T) {
    let subsets = table! {"v1" = table! {"only_passing" = true}};
    let entry = table! {
        "kind" = "service-resolver", "name" = t.name("web"), "connect_timeout" = 5,
        "default_subset" = "v1", "subsets" = subsets,
    };
    t.ok("config_write", args![entry]).await;
    let stored = read_entry(&t, "service-resolver").await;
    let subset = stored.get("Subsets").unwrap().get("v1").unwrap();
    assert_eq!(
        (text(&stored, "DefaultSubset"), subset.get("OnlyPassing")),
        ("v1", Some(&true.into()))
    );
    t.ok("config_delete", args!["service-resolver", t.name("web")]).await;

    let service = table! {"service" = "consul", "only_passing" = true};
    let query = table! {"name" = t.name("q"), "service" = service};
    let id = t.value("query_create", args![query]).await;
    let stored = t.value("query_read", args![id.clone()]).await;
    assert_eq!(stored.get("Service").unwrap().get("OnlyPassing"), Some(&true.into()));
    t.ok("query_delete", args![id]).await;
}

async fn names_of_the_programs_own_stay_as_they_are(t: T) {
    let own = || table! {"my_key" = "a_b", "interval" = "x"};
    let subsets = table! {"tags" = table! {"only_passing" = true}};
    let entry = table! {
        "Kind" = "service-resolver", "Name" = t.name("web"), "Subsets" = subsets, "Meta" = own(),
    };
    t.ok("config_write", args![entry]).await;
    let stored = read_entry(&t, "service-resolver").await;
    assert!(stored.get("Subsets").unwrap().get("tags").is_some(), "{stored:?}");
    if !t.is_1_8("entries of this kind have no metadata") {
        assert_eq!(stored.get("Meta").unwrap().get("my_key"), Some(&"a_b".into()));
    }
    t.ok("config_delete", args!["service-resolver", t.name("web")]).await;

    let service = table! {"Service" = "consul", "NodeMeta" = own(), "ServiceMeta" = own()};
    let id =
        t.value("query_create", args![table! {"Name" = t.name("q"), "Service" = service}]).await;
    let stored = t.value("query_read", args![id.clone()]).await;
    for name in ["NodeMeta", "ServiceMeta"] {
        let meta = stored.get("Service").unwrap().get(name).unwrap();
        assert_eq!((text(meta, "my_key"), text(meta, "interval")), ("a_b", "x"));
    }
    t.ok("query_delete", args![id]).await;
}

async fn an_empty_table_is_a_list_where_consul_has_one(t: T) {
    let failover = table! {"NearestN" = 0, "Datacenters" = table! {}};
    let service = table! {"Service" = "consul", "Tags" = table! {}, "Failover" = failover};
    let query = table! {"Name" = t.name("q"), "Service" = service};
    let id = t.value("query_create", args![query]).await;
    t.ok("query_delete", args![id]).await;
    let entry =
        table! {"Kind" = "ingress-gateway", "Name" = t.name("web"), "Listeners" = table! {}};
    t.ok("config_write", args![entry]).await;
    t.ok("config_delete", args!["ingress-gateway", t.name("web")]).await;
    // Consul reads an object without members as an empty list, in each entry.
    for (kind, list) in [
        ("ingress-gateway", "Listeners"),
        ("terminating-gateway", "Services"),
        ("service-router", "Routes"),
    ] {
        let body = format!(r#"{{"Kind":"{kind}","Name":"{}","{list}":{{}}}}"#, t.name(kind));
        let written = t.raw("PUT", "/v1/config", &body).await;
        let is_about_protocol = written.body.contains("protocol");
        assert!(written.status == 200 || is_about_protocol, "{kind}: {}", written.body);
        t.ok("config_delete", args![kind, t.name(kind)]).await;
    }
}

async fn an_object_of_access_control_is_written_as_it_was_read(t: T) {
    let t = t.with_acls(Deny);
    let policy = table! {
        "Name" = t.name("p"), "Rules" = r#"key "a" { policy = "read" }"#, "Datacenters" = list!["dc1"],
    };
    let policy = t.value("acl_policy_create", args![policy]).await;
    let links = || list![table! {"ID" = text(&policy, "ID")}];
    let services = || list![table! {"ServiceName" = "web", "Datacenters" = list!["dc1"]}];
    let nodes = || list![table! {"NodeName" = "n1", "Datacenter" = "dc1"}];
    let role = table! {
        "Name" = t.name("r"), "Policies" = links(), "ServiceIdentities" = services(), "NodeIdentities" = nodes(),
    };
    let role = t.value("acl_role_create", args![role]).await;
    let roles = list![table! {"ID" = text(&role, "ID")}];
    let token = table! {
        "Description" = "d", "Policies" = links(), "Roles" = roles, "ServiceIdentities" = services(),
        "NodeIdentities" = nodes(), "ExpirationTTL" = 3600,
    };
    let token = t.value("acl_token_create", args![token]).await;
    for (kind, id) in [
        ("policy", text(&policy, "ID")),
        ("role", text(&role, "ID")),
        ("token", text(&token, "AccessorID")),
    ] {
        let read = format!("acl_{kind}_read");
        let before = t.value(&read, args![id]).await;
        let after = t.value(&format!("acl_{kind}_update"), args![id, before.clone()]).await;
        for name in ["Hash", "Name", "Description", "Policies", "Roles", "ExpirationTime"] {
            assert_eq!(after.get(name), before.get(name), "{kind} {name}");
        }
        assert_eq!(t.value(&read, args![id]).await.get("Hash"), before.get("Hash"));
    }
    t.ok("acl_token_delete", args![text(&token, "AccessorID")]).await;
    t.ok("acl_role_delete", args![text(&role, "ID")]).await;
    t.ok("acl_policy_delete", args![text(&policy, "ID")]).await;
}

async fn a_query_is_written_as_it_was_read(t: T) {
    let service =
        table! {"Service" = "consul", "Tags" = list!["a"], "NodeMeta" = table! {"k" = "v"}};
    let dns = table! {"TTL" = 10};
    let query = table! {"Name" = t.name("q"), "Service" = service, "DNS" = dns};
    let id = t.value("query_create", args![query]).await;
    let before = t.value("query_read", args![id.clone()]).await;
    assert_eq!(text(before.get("DNS").unwrap(), "TTL"), "10s");
    t.ok("query_update", args![id.clone(), before.clone()]).await;
    let after = t.value("query_read", args![id.clone()]).await;
    for name in ["Name", "Service", "DNS"] {
        assert_eq!(after.get(name), before.get(name), "{name}");
    }
    t.ok("query_delete", args![id]).await;
}

async fn an_intention_is_written_as_it_was_read(t: T) {
    let source = table! {"Name" = t.name("a"), "Action" = "deny"};
    let entry =
        table! {"Kind" = "service-intentions", "Name" = t.name("web"), "Sources" = list![source]};
    if t.is_1_8("intentions are not entries") {
        return;
    }
    t.ok("config_write", args![entry]).await;
    let before = read_entry(&t, "service-intentions").await;
    t.ok("config_write", args![before.clone()]).await;
    assert_eq!(read_entry(&t, "service-intentions").await.get("Sources"), before.get("Sources"));
    t.ok("config_delete", args!["service-intentions", t.name("web")]).await;
}

async fn a_token_is_written_as_it_was_read_with_its_rules(t: T) {
    let t = t.with_acls(Deny);
    let policy = table! {"Name" = t.name("p"), "Rules" = r#"key "a" { policy = "read" }"#};
    let policy = t.value("acl_policy_create", args![policy]).await;
    let links = list![table! {"ID" = text(&policy, "ID")}];
    let token = t.value("acl_token_create", args![table! {"Policies" = links}]).await;
    let id = text(&token, "AccessorID");
    let before = as_in_lua(t.value("acl_token_read", args![id; "expanded" = true]).await);
    let after = t.value("acl_token_update", args![id, before.clone()]).await;
    for name in ["Hash", "Policies", "SecretID"] {
        assert_eq!(after.get(name), before.get(name), "{name}");
    }
    t.ok("acl_token_delete", args![id]).await;
    t.ok("acl_policy_delete", args![text(&policy, "ID")]).await;
}

/// An object as Lua has it: without the members that are null.
fn as_in_lua(value: Value) -> Value {
    match value {
        Value::Map(members) => {
            Value::Map(members.into_iter().filter(|(_, member)| *member != Value::Null).collect())
        }
        value => value,
    }
}

/// The members of an object that do not count changes.
fn content(value: &Value) -> Vec<(String, Value)> {
    let Value::Map(members) = value else { panic!("not an object: {value:?}") };
    let counts = |name: &str| matches!(name, "ModifyIndex" | "UpdatedAt" | "Hash");
    members.iter().filter(|(name, _)| !counts(name)).cloned().collect()
}

async fn what_logins_need_is_written_as_it_was_read(t: T) {
    let t = t.with_acls(Deny);
    let config = table! {
        "JWTValidationPubKeys" = list![Issuer::new().public_key()], "BoundIssuer" = "issuer",
        "BoundAudiences" = list!["consul"], "ClaimMappings" = table! {"sub" = "user"},
        "ExpirationLeeway" = 7,
    };
    let method = table! {
        "Name" = t.name("m"), "Type" = "jwt", "MaxTokenTTL" = 300, "Config" = config,
    };
    t.ok("acl_auth_method_create", args![method]).await;
    let rule = table! {
        "AuthMethod" = t.name("m"), "BindType" = "service", "BindName" = "web",
        "Selector" = "value.user == x", "Description" = "d",
    };
    let rule = t.value("acl_binding_rule_create", args![rule]).await;
    for (kind, id) in [("auth_method", &*t.name("m")), ("binding_rule", text(&rule, "ID"))] {
        let read = format!("acl_{kind}_read");
        let before = t.value(&read, args![id]).await;
        t.ok(&format!("acl_{kind}_update"), args![id, before.clone()]).await;
        assert_eq!(content(&t.value(&read, args![id]).await), content(&before), "{kind}");
    }
    t.ok("acl_auth_method_delete", args![t.name("m")]).await;
}

async fn an_intention_of_an_id_is_written_as_it_was_read(t: T) {
    let intention = table! {
        "SourceName" = t.name("a"), "DestinationName" = t.name("b"), "SourceType" = "consul",
        "Action" = "allow", "Description" = "d", "Meta" = table! {"my_key" = "v"},
    };
    let id = t.value("connect_intention_create", args![intention]).await;
    let before = t.value("connect_intention_read", args![id.clone()]).await;
    t.ok("connect_intention_update", args![id.clone(), before.clone()]).await;
    let after = t.value("connect_intention_read", args![id.clone()]).await;
    assert_eq!(content(&after), content(&before));
    t.ok("connect_intention_delete_by_id", args![id]).await;
}

async fn the_configuration_of_the_authority_is_written_as_it_was_read(t: T) {
    let before = t.value("connect_ca_configuration", args![]).await;
    t.ok("connect_ca_configuration_update", args![before.clone()]).await;
    let after = t.value("connect_ca_configuration", args![]).await;
    assert_eq!(content(&after), content(&before));
}

async fn entries_of_the_mesh_are_written_as_they_were_read(t: T) {
    let name = t.name("web");
    let proxy = table! {
        "Kind" = "proxy-defaults", "Name" = "global",
        "Config" = table! {"local_connect_timeout_ms" = 1000},
        "Expose" = table! {"Paths" = list![table! {"Path" = "/health", "LocalPathPort" = 80, "ListenerPort" = 8080}]},
    };
    let check = table! {"Interval" = 10, "MaxFailures" = 5};
    let upstreams = match t.is_1_8("an entry has no defaults of upstreams") {
        true => Value::Null,
        false => table! {"Defaults" = table! {"PassiveHealthCheck" = check}},
    };
    let service = table! {
        "Kind" = "service-defaults", "Name" = name.as_str(), "Protocol" = "http",
        "UpstreamConfig" = upstreams,
    };
    let listener = table! {
        "Port" = 8080, "Protocol" = "http",
        "Services" = list![table! {"Name" = name.as_str(), "Hosts" = list!["web.example"]}],
    };
    let ingress = table! {
        "Kind" = "ingress-gateway", "Name" = t.name("ingress"), "Listeners" = list![listener],
    };
    let terminating = table! {
        "Kind" = "terminating-gateway", "Name" = t.name("terminating"),
        "Services" = list![table! {"Name" = name.as_str(), "CAFile" = "/ca.pem"}],
    };
    let router = table! {
        "Kind" = "service-router", "Name" = name.as_str(),
        "Routes" = list![table! {"Destination" = table! {"RequestTimeout" = 5}}],
    };
    let splitter = table! {
        "Kind" = "service-splitter", "Name" = name.as_str(),
        "Splits" = list![table! {"Weight" = 100}],
    };
    let entries = [proxy, as_in_lua(service), router, splitter, ingress, terminating];
    for entry in &entries {
        let (kind, name) = (text(entry, "Kind"), text(entry, "Name"));
        t.ok("config_write", args![entry.clone()]).await;
        let before = t.value("config_read", args![kind, name]).await;
        t.ok("config_write", args![before.clone()]).await;
        let after = t.value("config_read", args![kind, name]).await;
        assert_eq!(content(&after), content(&before), "{kind}");
    }
    for entry in entries.iter().rev() {
        t.ok("config_delete", args![text(entry, "Kind"), text(entry, "Name")]).await;
    }
}
