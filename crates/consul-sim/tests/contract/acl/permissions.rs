//! Access control: the permissions of a token.

use crate::acl::{ANONYMOUS, UNKNOWN, caller, denied, policy, rule, token, token_with};
use crate::support::AT_ONCE;
use crate::target::{LONG, T, args, behaviours, list, pause, table, text, texts};
use consul_api::error::Kind;
use consul_api::value::Value;
use consul_client::view::view;
use consul_sim::acl::DefaultPolicy::{Allow, Deny};
use futures_util::StreamExt;
use std::pin::pin;
use std::time::{Duration, Instant};

behaviours![
    an_unknown_token_is_acl_not_found,
    a_call_without_a_token_is_denied,
    a_denial_names_the_token_and_the_permission,
    each_method_requires_its_own_permission,
    public_methods_require_no_token,
    the_token_of_a_call_overrides_the_clients,
    the_most_specific_rule_decides,
    of_several_policies_deny_wins,
    rules_may_be_json,
    lists_of_keys_leave_out_forbidden_ones,
    a_tree_is_deleted_only_with_permission_for_all_of_it,
    a_transaction_names_each_operation_without_permission,
    a_transaction_leaves_out_unreadable_entries,
    a_transaction_requires_permission_for_what_it_registers,
    a_transaction_shows_a_service_without_its_node,
    a_session_requires_permission_for_its_node,
    lists_of_sessions_leave_out_forbidden_ones,
    an_agents_service_requires_permission_for_its_name,
    an_agents_check_requires_permission_for_its_service_or_node,
    events_are_listed_only_with_read_permission,
    the_agents_node_is_listed_as_a_member_only_with_read_permission,
    a_node_and_a_service_must_be_readable_to_be_found,
    what_acls_hide_is_told,
    an_empty_view_says_that_acls_hide_its_instances,
    a_forbidden_node_is_absent,
    the_services_of_a_node_are_left_out_by_their_ids,
    the_agents_cache_is_the_tokens,
    a_registration_requires_permission_for_the_service_and_a_changed_node,
    a_deregistration_requires_permission_for_the_node_or_the_service,
    a_blocking_query_returns_only_readable_entries,
    a_forbidden_blocking_query_does_not_wait,
    a_call_without_a_token_has_the_anonymous_tokens_permissions,
    default_allow_forbids_what_a_rule_denies,
    default_allow_permits_everything_but_acls,
    authorize_returns_the_permissions_of_the_token,
    authorize_refuses_unknown_resources_and_accesses,
];

async fn own_node(t: &T) -> String {
    let own = t.value("agent_self", args![]).await;
    text(own.get("Config").unwrap(), "NodeName").to_owned()
}

async fn an_unknown_token_is_acl_not_found(t: T) {
    let t = t.with_acls(Deny).with_token(UNKNOWN);
    for method in ["catalog_nodes", "session_list", "agent_self", "agent_services"] {
        t.fails(method, args![], Kind::AclNotFound).await;
    }
    for method in ["kv_get", "kv_list", "kv_keys", "kv_delete", "health_service", "catalog_node"] {
        t.fails(method, args![t.name("x")], Kind::AclNotFound).await;
    }
    t.fails("kv_put", args![t.name("x"), "1"], Kind::AclNotFound).await;
    t.fails("session_create", args![], Kind::AclNotFound).await;
    t.fails("session_destroy", args![UNKNOWN], Kind::AclNotFound).await;
    t.fails("agent_service_register", args![table! {"Name" = "x"}], Kind::AclNotFound).await;
    t.fails("txn", args![list![]], Kind::AclNotFound).await;
    t.fails("acl_token_self", args![], Kind::AclNotFound).await;
    t.fails("acl_token_read", args![UNKNOWN], Kind::AclNotFound).await;
    t.fails("acl_policy_read", args![UNKNOWN], Kind::AclNotFound).await;
}

async fn a_call_without_a_token_is_denied(t: T) {
    let t = t.with_acls(Deny).anonymous();
    let said = denied(&t, "kv_get", args![t.name("x")]).await;
    let says_nothing = t.is_1_8("a denial does not say what permission is lacking");
    assert!(says_nothing || said.contains("anonymous token lacks permission 'key:read'"), "{said}");
    denied(&t, "acl_policy_list", args![]).await;
    t.fails("acl_token_self", args![], Kind::AclNotFound).await;
}

async fn a_denial_names_the_token_and_the_permission(t: T) {
    let t = t.with_acls(Deny);
    let token = token(&t, "").await;
    let none = t.with_token(text(&token, "SecretID"));
    let key = t.name("x");
    let said = denied(&none, "kv_put", args![key.as_str(), "1"]).await;
    let accessor = text(&token, "AccessorID");
    let names_all = said.contains(&format!("'{accessor}' lacks permission 'key:write' on"))
        && said.contains(&format!("{key:?}"));
    let says_nothing = t.is_1_8("a denial does not say what permission is lacking");
    assert!(says_nothing || names_all, "{said}");
}

async fn each_method_requires_its_own_permission(t: T) {
    let t = t.with_acls(Deny);
    let (node, name) = (own_node(&t).await, t.name("x"));
    let name = name.as_str();
    let check = table! {"Name" = name, "TTL" = "1h"};
    let external = table! {"Node" = name, "Address" = "10.9.9.9"};
    let service = table! {"Name" = name};
    let policy = table! {"Name" = t.name("p"), "Rules" = ""};
    for (permission, method, args) in [
        (rule("key", name, "read"), "kv_get", args![name]),
        (rule("key", name, "write"), "kv_put", args![name, "1"]),
        (rule("key", name, "write"), "kv_delete", args![name]),
        (rule("key_prefix", name, "write"), "kv_delete_tree", args![name]),
        (rule("session", &node, "write"), "session_create", args![]),
        (rule("agent", &node, "read"), "agent_self", args![]),
        (rule("service", name, "write"), "agent_service_register", args![service.clone()]),
        (rule("service", name, "read"), "agent_service", args![name]),
        (rule("service", name, "write"), "agent_service_deregister", args![name]),
        (rule("node", &node, "write"), "agent_check_register", args![check]),
        (rule("node", &node, "write"), "agent_check_pass", args![name]),
        (rule("node", &node, "write"), "agent_check_deregister", args![name]),
        (rule("node", name, "write"), "catalog_register", args![external.clone()]),
        (rule("node", name, "write"), "catalog_deregister", args![table! {"Node" = name}]),
        (rule("service", name, "write"), "agent_service_register", args![service.clone()]),
        (rule("service", name, "write"), "agent_service_maintenance", args![name, false]),
        (rule("service", name, "read"), "agent_health_service_id", args![name]),
        (rule("service", name, "read"), "agent_health_service_name", args![name]),
        (rule("service", name, "write"), "agent_service_deregister", args![name]),
        (rule("node", &node, "write"), "agent_maintenance", args![false]),
        (rule("agent", &node, "read"), "agent_metrics", args![]),
        (rule("agent", &node, "write"), "agent_reload", args![]),
        ("operator = \"read\"".to_owned(), "agent_host", args![]),
        (rule("event", name, "write"), "event_fire", args![name]),
        (rule("node", &node, "read"), "coordinate_node", args![node.as_str()]),
        ("acl = \"read\"".to_owned(), "acl_token_list", args![]),
        ("acl = \"read\"".to_owned(), "acl_policy_list", args![]),
        ("acl = \"write\"".to_owned(), "acl_token_create", args![table! {}]),
        ("acl = \"write\"".to_owned(), "acl_policy_create", args![policy]),
    ] {
        let none = caller(&t, "").await;
        denied(&none, method, args.clone()).await;
        // Read permission does not include write.
        if permission.contains("write") {
            let reader = caller(&t, &permission.replace("write", "read")).await;
            denied(&reader, method, args.clone()).await;
        }
        caller(&t, &permission).await.ok(method, args).await;
    }
}

async fn public_methods_require_no_token(t: T) {
    let t = t.with_acls(Deny).anonymous();
    for method in ["status_leader", "status_peers", "catalog_datacenters"] {
        t.ok(method, args![]).await;
        t.ok(method, args![; "token" = UNKNOWN]).await;
    }
}

async fn the_token_of_a_call_overrides_the_clients(t: T) {
    let t = t.with_acls(Deny);
    let (one, other) = (t.name("one"), t.name("other"));
    let mine = caller(&t, &rule("key", &one, "write")).await;
    let theirs = token(&t, &rule("key", &other, "write")).await;
    let theirs = text(&theirs, "SecretID");
    mine.ok("kv_put", args![one.as_str(), "1"]).await;
    denied(&mine, "kv_put", args![other.as_str(), "1"]).await;
    mine.ok("kv_put", args![other.as_str(), "1"; "token" = theirs]).await;
    denied(&mine, "kv_put", args![one.as_str(), "1"; "token" = theirs]).await;
}

async fn the_most_specific_rule_decides(t: T) {
    let t = t.with_acls(Deny);
    let rules = [
        rule("key_prefix", &t.name(""), "read"),
        rule("key_prefix", &t.name("a/"), "write"),
        rule("key_prefix", &t.name("a/x"), "deny"),
        rule("key", &t.name("a/1"), "read"),
    ];
    let me = caller(&t, &rules.concat()).await;
    for (key, reads, writes) in
        [("b", true, false), ("a/2", true, true), ("a/x/1", false, false), ("a/1", true, false)]
    {
        let key = t.name(key);
        assert_eq!(me.call("kv_get", args![key.as_str()]).await.is_ok(), reads, "{key}");
        assert_eq!(me.call("kv_put", args![key.as_str(), "1"]).await.is_ok(), writes, "{key}");
    }
}

async fn of_several_policies_deny_wins(t: T) {
    let t = t.with_acls(Deny);
    let key = t.name("a");
    let mut ids = Vec::new();
    for level in ["read", "write", "deny"] {
        ids.push(policy(&t, level, &rule("key_prefix", &key, level)).await);
    }
    for (policies, reads, writes) in [
        (&ids[..1], true, false),
        (&ids[..2], true, true),
        (&ids[1..], false, false),
        (&ids[..], false, false),
    ] {
        let policies: Vec<_> = policies.iter().map(String::as_str).collect();
        let token = token_with(&t, &policies).await;
        let me = t.with_token(text(&token, "SecretID"));
        assert_eq!(me.call("kv_get", args![key.as_str()]).await.is_ok(), reads);
        assert_eq!(me.call("kv_put", args![key.as_str(), "1"]).await.is_ok(), writes);
    }
}

async fn rules_may_be_json(t: T) {
    let t = t.with_acls(Deny);
    let key = t.name("a");
    let rules = format!("{{\"key\": {{\"{key}\": {{\"policy\": \"write\"}}}}, \"acl\": \"read\"}}");
    let me = caller(&t, &rules).await;
    me.ok("kv_put", args![key, "1"]).await;
    me.ok("acl_policy_list", args![]).await;
}

async fn lists_of_keys_leave_out_forbidden_ones(t: T) {
    let t = t.with_acls(Deny);
    for key in ["a/1", "a/2", "b/1"] {
        t.ok("kv_put", args![t.name(key), key]).await;
    }
    let rules = rule("key_prefix", &t.name("a/"), "read") + &rule("key", &t.name("a/2"), "deny");
    let me = caller(&t, &rules).await;
    let entries = me.value("kv_list", args![t.name("")]).await;
    assert_eq!(texts(&entries, "Key"), [t.name("a/1")]);
    assert_eq!(me.value("kv_keys", args![t.name("")]).await, list![t.name("a/1")]);
    let folders = args![t.name(""); "separator" = "/"];
    assert_eq!(me.value("kv_keys", folders).await, list![t.name("a/")]);
    assert_eq!(me.value("kv_list", args![t.name("b")]).await, list![]);
    assert_eq!(t.anonymous().value("kv_keys", args![t.name("")]).await, list![]);
}

async fn a_tree_is_deleted_only_with_permission_for_all_of_it(t: T) {
    let t = t.with_acls(Deny);
    for key in ["a/1", "a/x/1"] {
        t.ok("kv_put", args![t.name(key), key]).await;
    }
    let rules = rule("key_prefix", &t.name("a/"), "write") + &rule("key", &t.name("a/x/1"), "read");
    let me = caller(&t, &rules).await;
    denied(&me, "kv_delete_tree", args![t.name("a/")]).await;
    denied(&me, "kv_delete_tree", args![t.name("a")]).await;
    me.ok("kv_delete_tree", args![t.name("a/1")]).await;
    assert_eq!(t.value("kv_keys", args![t.name("")]).await, list![t.name("a/x/1")]);
}

fn kv(verb: &str, key: String) -> Value {
    table! {"KV" = table! {"Verb" = verb, "Key" = key, "Value" = "1"}}
}

fn get(verb: &str, key: String) -> Value {
    table! {"KV" = table! {"Verb" = verb, "Key" = key}}
}

async fn a_transaction_names_each_operation_without_permission(t: T) {
    let t = t.with_acls(Deny);
    let rules = rule("key_prefix", &t.name("a"), "write") + &rule("key", &t.name("b"), "read");
    let me = caller(&t, &rules).await;
    let operations = list![
        kv("set", t.name("a")),
        kv("set", t.name("b")),
        get("delete", t.name("c")),
        get("check-session", t.name("c")),
    ];
    let error = me.fails("txn", args![operations], Kind::PermissionDenied).await;
    assert!(!error.maybe_applied() && error.status() == Some(409), "{error}");
    let places: Vec<_> = error.refused().iter().map(|refused| refused.index).collect();
    assert_eq!(places, [1, 2, 3]);
    assert!(error.refused().iter().all(|refused| refused.what.starts_with("Permission denied")));
    for (permission, key) in [("key:write", "b"), ("key:write", "c"), ("key:read", "c")] {
        let lacking = format!("lacks permission '{permission}' on {:?}", t.name(key));
        assert!(error.message().contains(&lacking), "{error}");
    }
    assert_eq!(t.value("kv_get", args![t.name("a")]).await, Value::Null);
    me.ok("txn", args![list![kv("set", t.name("a"))]]).await;
}

async fn a_transaction_leaves_out_unreadable_entries(t: T) {
    let t = t.with_acls(Deny);
    for key in ["a/1", "a/2"] {
        t.ok("kv_put", args![t.name(key), key]).await;
    }
    let me = caller(&t, &rule("key", &t.name("a/1"), "read")).await;
    let operations = list![get("get", t.name("a/2")), get("get-tree", t.name("a/"))];
    let results = me.value("txn", args![operations]).await;
    let entries: Vec<_> = results.items().iter().map(|r| r.get("KV").unwrap().clone()).collect();
    assert_eq!(texts(&Value::List(entries), "Key"), [t.name("a/1")]);
}

async fn a_transaction_requires_permission_for_what_it_registers(t: T) {
    let t = t.with_acls(Deny);
    let (node, service) = (t.name("n"), t.name("s"));
    let definition = table! {"Node" = node.as_str(), "Address" = "10.9.9.9"};
    let set_node = table! {"Node" = table! {"Verb" = "set", "Node" = definition}};
    let definition = table! {"ID" = service.as_str(), "Service" = service.as_str()};
    let set_service = table! {
        "Service" = table! {"Verb" = "set", "Node" = node.as_str(), "Service" = definition},
    };
    let both = list![set_node, set_service];
    for (rules, refused) in [
        (String::new(), vec![0, 1]),
        (rule("node", &node, "write"), vec![1]),
        (rule("service", &service, "write"), vec![0]),
    ] {
        let me = caller(&t, &rules).await;
        let error = me.fails("txn", args![both.clone()], Kind::PermissionDenied).await;
        let places: Vec<_> = error.refused().iter().map(|refused| refused.index).collect();
        assert_eq!(places, refused, "{error}");
    }
    let rules = rule("node", &node, "write") + &rule("service", &service, "write");
    caller(&t, &rules).await.ok("txn", args![both]).await;
    let get = table! {"Node" = table! {"Verb" = "get", "Node" = table! {"Node" = node.as_str()}}};
    let none = caller(&t, "").await;
    assert_eq!(none.value("txn", args![list![get]]).await, list![]);
    t.ok("catalog_deregister", args![table! {"Node" = node}]).await;
}

async fn a_transaction_shows_a_service_without_its_node(t: T) {
    let t = t.with_acls(Deny);
    let (node, service) = register(&t).await;
    let own = table! {"ID" = service.as_str()};
    let service_of = |definition: Value| {
        table! {"Service" = table! {
            "Verb" = "get", "Node" = node.as_str(), "Service" = definition,
        }}
    };
    let check = table! {"Node" = node.as_str(), "CheckID" = "c"};
    let check = table! {"Check" = table! {"Verb" = "get", "Check" = check}};
    let both = list![service_of(own), check];
    for (rules, kinds) in [
        (rule("service", &service, "read"), vec!["Service", "Check"]),
        (rule("node", &node, "read"), vec![]),
    ] {
        let found = caller(&t, &rules).await.value("txn", args![both.clone()]).await;
        assert_eq!(found.items().len(), kinds.len(), "{rules}: {found:?}");
        let is_kind = |(found, kind): (&Value, &&str)| found.get(kind).is_some();
        assert!(found.items().iter().zip(&kinds).all(is_kind), "{rules}: {found:?}");
    }
    t.ok("catalog_deregister", args![table! {"Node" = node}]).await;
}

async fn a_session_requires_permission_for_its_node(t: T) {
    let t = t.with_acls(Deny);
    let node = own_node(&t).await;
    let reader = caller(&t, &rule("session", &node, "read")).await;
    let writer = caller(&t, &rule("session", &node, "write")).await;
    let other = caller(&t, &rule("session", &t.name("n"), "write")).await;
    denied(&other, "session_create", args![]).await;
    let id = writer.session(table! {}).await;
    let id = id.as_str();
    denied(&reader, "session_renew", args![id]).await;
    denied(&reader, "session_destroy", args![id]).await;
    reader.fails("session_renew", args![UNKNOWN], Kind::SessionInvalid).await;
    reader.ok("session_destroy", args![UNKNOWN]).await;
    writer.ok("session_renew", args![id]).await;
    writer.ok("session_destroy", args![id]).await;
}

async fn lists_of_sessions_leave_out_forbidden_ones(t: T) {
    let t = t.with_acls(Deny);
    let id = t.session(table! {}).await;
    let id = id.as_str();
    let reader = caller(&t, &rule("session_prefix", "", "read")).await;
    let none = caller(&t, "").await;
    assert!(texts(&reader.value("session_list", args![]).await, "ID").contains(&id));
    assert_eq!(none.value("session_list", args![]).await, list![]);
    assert_eq!(none.value("session_info", args![id]).await, Value::Null);
    assert_eq!(none.value("session_node", args![own_node(&t).await]).await, list![]);
    t.ok("session_destroy", args![id]).await;
}

async fn an_agents_service_requires_permission_for_its_name(t: T) {
    let t = t.with_acls(Deny);
    let (mine, other) = (t.name("mine"), t.name("other"));
    let (mine, other) = (mine.as_str(), other.as_str());
    let me = caller(&t, &rule("service", mine, "write")).await;
    t.ok("agent_service_register", args![table! {"Name" = other}]).await;
    me.ok("agent_service_register", args![table! {"Name" = mine}]).await;
    denied(&me, "agent_service_register", args![table! {"Name" = other}]).await;
    // The same for an id that belongs to another service.
    let stolen = table! {"Name" = mine, "ID" = other};
    denied(&me, "agent_service_register", args![stolen]).await;
    denied(&me, "agent_service_deregister", args![other]).await;
    denied(&me, "agent_service", args![other]).await;
    let services = me.value("agent_services", args![]).await;
    assert!(services.get(mine).is_some() && services.get(other).is_none());
    me.ok("agent_service_deregister", args![mine]).await;
    t.ok("agent_service_deregister", args![other]).await;
}

async fn an_agents_check_requires_permission_for_its_service_or_node(t: T) {
    let t = t.with_acls(Deny);
    let (service, of_node, own) = (t.name("s"), t.name("c"), t.name("own"));
    let check = table! {"CheckID" = own.as_str(), "TTL" = "1h"};
    let definition = table! {"Name" = service.as_str(), "Check" = check};
    t.ok("agent_service_register", args![definition]).await;
    t.ok("agent_check_register", args![table! {"Name" = of_node.as_str(), "TTL" = "1h"}]).await;
    let me = caller(&t, &rule("service", &service, "write")).await;
    me.ok("agent_check_pass", args![own.as_str()]).await;
    denied(&me, "agent_check_pass", args![of_node.as_str()]).await;
    denied(&me, "agent_check_deregister", args![of_node.as_str()]).await;
    me.fails("agent_check_pass", args![t.name("none")], Kind::NotFound).await;
    let checks = me.value("agent_checks", args![]).await;
    assert!(checks.get(&own).is_some() && checks.get(&of_node).is_none());
    t.ok("agent_service_deregister", args![service]).await;
    t.ok("agent_check_deregister", args![of_node]).await;
}

async fn events_are_listed_only_with_read_permission(t: T) {
    let t = t.with_acls(Deny);
    let (mine, other) = (t.name("mine"), t.name("other"));
    for name in [mine.as_str(), other.as_str()] {
        t.ok("event_fire", args![name]).await;
        let seen =
            || async { !t.value("event_list", args![; "name" = name]).await.items().is_empty() };
        t.until("the event has reached the agent", seen).await;
    }
    let me = caller(&t, &rule("event", &mine, "read")).await;
    assert_eq!(texts(&me.value("event_list", args![]).await, "Name"), [mine.as_str()]);
    denied(&me, "event_fire", args![other]).await;
    me.fails("event_list", args![; "token" = UNKNOWN], Kind::AclNotFound).await;
    me.fails("event_fire", args![t.name("x"); "token" = UNKNOWN], Kind::AclNotFound).await;
}

async fn the_agents_node_is_listed_as_a_member_only_with_read_permission(t: T) {
    let t = t.with_acls(Deny);
    let reader = caller(&t, &rule("node", &own_node(&t).await, "read")).await;
    let none = caller(&t, "").await;
    for method in ["agent_members", "coordinate_nodes"] {
        assert_eq!(none.value(method, args![]).await, list![]);
    }
    assert_eq!(reader.value("agent_members", args![]).await.items().len(), 1);
}

/// Registers a new node with one instance of a service and a check of it.
async fn register(t: &T) -> (String, String) {
    let (node, service) = (t.name("n"), t.name("s"));
    let check = table! {"Name" = "c", "ServiceID" = service.as_str(), "Status" = "passing"};
    let registration = table! {
        "Node" = node.as_str(), "Address" = "10.9.9.9",
        "Service" = table! {"Service" = service.as_str()}, "Check" = check,
    };
    t.ok("catalog_register", args![registration]).await;
    (node, service)
}

async fn a_node_and_a_service_must_be_readable_to_be_found(t: T) {
    let t = t.with_acls(Deny);
    let (node, service) = register(&t).await;
    let (node_rule, service_rule) =
        (rule("node", &node, "read"), rule("service", &service, "read"));
    for (rules, nodes, instances) in [
        (String::new(), 0, 0),
        (service_rule.clone(), 0, 0),
        (node_rule.clone(), 1, 0),
        (node_rule + &service_rule, 1, 1),
    ] {
        let me = caller(&t, &rules).await;
        assert_eq!(me.value("catalog_nodes", args![]).await.items().len(), nodes);
        for method in ["catalog_service", "health_service", "health_checks"] {
            let found = me.value(method, args![service.as_str()]).await;
            assert_eq!(found.items().len(), instances, "{method} {rules}");
        }
        let checks = me.value("health_node", args![node.as_str()]).await;
        assert_eq!(checks.items().len(), instances, "{rules}");
        let checks = me.value("health_state", args!["any"]).await;
        assert_eq!(checks.items().len(), instances, "{rules}");
        let services = me.value("catalog_services", args![]).await;
        if !t.is_1_8("the name of a service is listed although its nodes must not be read") {
            assert_eq!(services.get(&service).is_some(), instances == 1, "{rules}");
        }
    }
    t.ok("catalog_deregister", args![table! {"Node" = node}]).await;
}

async fn what_acls_hide_is_told(t: T) {
    let t = t.with_acls(Deny);
    let (node, service) = register(&t).await;
    t.ok("kv_put", args![t.name("a/1"), "1"]).await;
    t.ok("agent_service_register", args![table! {"Name" = service.as_str()}]).await;
    let session = t.session(table! {}).await;
    let none = caller(&t, "").await;
    let is_old = t.is_1_8(
        "no answer tells that ACLs hide entries (before 1.11), or the default policy (before 1.9)",
    );
    for (method, args) in [
        ("kv_list", args![t.name("a/")]),
        ("kv_keys", args![t.name("a/")]),
        ("catalog_nodes", args![]),
        ("catalog_services", args![]),
        ("catalog_service", args![service.as_str()]),
        ("catalog_node", args![node.as_str()]),
        ("health_service", args![service.as_str()]),
        ("health_checks", args![service.as_str()]),
        ("health_node", args![node.as_str()]),
        ("health_state", args!["any"]),
        ("agent_services", args![]),
        ("session_list", args![]),
    ] {
        let told = async |caller: &T| {
            let meta = caller.ok(method, args.clone()).await.meta;
            (meta.filtered_by_acl, meta.default_acl_policy)
        };
        let deny = if is_old { None } else { Some("deny") };
        assert_eq!(told(&t).await, (None, deny), "{method}: everything may be read");
        assert_eq!(told(&none).await, ((!is_old).then_some(true), deny), "{method}");
        assert_eq!(told(&t.anonymous()).await, (None, deny), "{method}: without a token");
    }
    t.ok("session_destroy", args![session]).await;
    t.ok("agent_service_deregister", args![service]).await;
    t.ok("catalog_deregister", args![table! {"Node" = node}]).await;
    let allow = t.with_acls(Allow).ok("kv_list", args!["none"]).await.meta;
    assert_eq!(allow.default_acl_policy, if is_old { None } else { Some("allow") });
}

async fn an_empty_view_says_that_acls_hide_its_instances(t: T) {
    let t = t.with_acls(Deny);
    let (node, service) = register(&t).await;
    let is_old = t.is_1_8("an empty view cannot say that ACLs hide instances");
    let none = caller(&t, "").await;
    let empty = t.name("none");
    for (caller, service, hint) in [
        (&none, &service, Some("are hidden by ACLs")),
        (&t.anonymous(), &service, Some("may be hidden by ACLs")),
        (&t, &empty, None),
    ] {
        let args = args![service.as_str()];
        let (view, answers) = view(caller.client(), args, Duration::ZERO).unwrap();
        let mut answers = pin!(answers);
        answers.next().await;
        let error = view.pick().unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
        let says = error.message().split("; instances ").nth(1);
        match hint.filter(|_| !is_old) {
            Some(hint) => assert!(says.is_some_and(|says| says.starts_with(hint)), "{error}"),
            None => assert_eq!(says, None),
        }
    }
    t.ok("catalog_deregister", args![table! {"Node" = node}]).await;
}

async fn a_forbidden_node_is_absent(t: T) {
    let t = t.with_acls(Deny);
    let (node, service) = register(&t).await;
    let none = caller(&t, "").await;
    assert_eq!(none.value("catalog_node", args![node.as_str()]).await, Value::Null);
    let me = caller(&t, &rule("node", &node, "read")).await;
    let seen = me.value("catalog_node", args![node.as_str()]).await;
    assert!(seen.get("Services").is_none_or(|services| services.get(&service).is_none()));
    t.ok("catalog_deregister", args![table! {"Node" = node}]).await;
}

/// Consul compares the rules for services with the id of an instance, where it shows them by their ids.
async fn the_services_of_a_node_are_left_out_by_their_ids(t: T) {
    let t = t.with_acls(Deny);
    let (node, name, id) = (t.name("n"), t.name("s"), t.name("id"));
    let service = table! {"Service" = name.as_str(), "ID" = id.as_str()};
    let body = table! {"Node" = node.as_str(), "Address" = "10.9.9.9", "Service" = service};
    t.ok("catalog_register", args![body]).await;
    for (allowed, in_map, in_list) in [(&name, false, true), (&id, true, false)] {
        let rules = rule("node", &node, "read") + &rule("service", allowed, "read");
        let me = caller(&t, &rules).await;
        let read = async |of: &str| {
            let answer = me.raw_own("GET", &format!("/v1/catalog/{of}/{node}"), "").await;
            serde_json::from_str::<serde_json::Value>(&answer.body).expect("JSON")["Services"]
                .clone()
        };
        assert_eq!(read("node").await.get(&id).is_some(), in_map, "{allowed}");
        if !t.is_1_8("a node has no list of services") {
            let services = read("node-services").await;
            let services = services.as_array().expect("a list, also if all were left out");
            assert_eq!(!services.is_empty(), in_list, "{allowed}");
        }
    }
    t.ok("catalog_deregister", args![table! {"Node" = node}]).await;
}

async fn the_agents_cache_is_the_tokens(t: T) {
    let t = t.with_acls(Deny);
    let rules = rule("node_prefix", "", "read") + &rule("service_prefix", "", "read");
    let target = format!("/v1/catalog/service/{}?cached", t.name("none"));
    for _ in 0..2 {
        let me = caller(&t, &rules).await;
        for expected in ["MISS", "HIT"] {
            let answer = me.raw_own("GET", &target, "").await;
            assert_eq!(answer.headers["x-cache"], expected);
        }
    }
}

async fn a_registration_requires_permission_for_the_service_and_a_changed_node(t: T) {
    let t = t.with_acls(Deny);
    let (node, service) = register(&t).await;
    let registration = |address: &str, service: &str| {
        let service = table! {"Service" = service};
        args![table! {"Node" = node.as_str(), "Address" = address, "Service" = service}]
    };
    let me = caller(&t, &rule("service", &service, "write")).await;
    me.ok("catalog_register", registration("10.9.9.9", &service)).await;
    denied(&me, "catalog_register", registration("10.9.9.8", &service)).await;
    denied(&me, "catalog_register", registration("10.9.9.9", &t.name("other"))).await;
    let check = table! {"CheckID" = "of-the-node", "Status" = "passing"};
    let check = table! {"Node" = node.as_str(), "Address" = "10.9.9.9", "Check" = check};
    denied(&me, "catalog_register", args![check]).await;
    let me = caller(&t, &rule("node", &node, "write")).await;
    me.ok("catalog_register", args![table! {"Node" = node.as_str(), "Address" = "10.9.9.8"}]).await;
    denied(&me, "catalog_register", registration("10.9.9.8", &service)).await;
    t.ok("catalog_deregister", args![table! {"Node" = node}]).await;
}

async fn a_deregistration_requires_permission_for_the_node_or_the_service(t: T) {
    let t = t.with_acls(Deny);
    let (node, service) = register(&t).await;
    let instance = table! {"Node" = node.as_str(), "ServiceID" = service.as_str()};
    let none = caller(&t, "").await;
    denied(&none, "catalog_deregister", args![instance.clone()]).await;
    denied(&none, "catalog_deregister", args![table! {"Node" = node.as_str()}]).await;
    let me = caller(&t, &rule("service", &service, "write")).await;
    me.ok("catalog_deregister", args![instance.clone()]).await;
    register(&t).await;
    let me = caller(&t, &rule("node", &node, "write")).await;
    me.ok("catalog_deregister", args![instance]).await;
    me.ok("catalog_deregister", args![table! {"Node" = node}]).await;
}

async fn a_blocking_query_returns_only_readable_entries(t: T) {
    let t = t.with_acls(Deny);
    let rules = rule("key_prefix", &t.name("a/"), "read") + &rule("key", &t.name("a/2"), "deny");
    let me = caller(&t, &rules).await;
    t.ok("kv_put", args![t.name("a/1"), "1"]).await;
    let index = me.index("kv_keys", args![t.name("a/")]).await;
    let wait = args![t.name("a/"); "index" = index, "wait" = "5s"];
    let change = async {
        pause(Duration::from_millis(100)).await;
        t.ok("kv_put", args![t.name("a/2"), "1"]).await;
        t.ok("kv_put", args![t.name("a/3"), "1"]).await;
    };
    let (_, keys) = tokio::join!(change, me.value("kv_keys", wait));
    assert!(keys.items().len() <= 2 && !keys.items().contains(&t.name("a/2").into()));
    let keys = me.value("kv_keys", args![t.name("a/")]).await;
    assert_eq!(keys, list![t.name("a/1"), t.name("a/3")]);
}

async fn a_forbidden_blocking_query_does_not_wait(t: T) {
    let t = t.with_acls(Deny);
    let none = caller(&t, "").await;
    let begun = Instant::now();
    denied(&none, "kv_get", args![t.name("x"); "index" = 1_000_000, "wait" = LONG]).await;
    assert!(begun.elapsed() < AT_ONCE);
}

async fn a_call_without_a_token_has_the_anonymous_tokens_permissions(t: T) {
    let t = t.with_acls(Deny);
    let key = t.name("x");
    denied(&t.anonymous(), "kv_get", args![key.as_str()]).await;
    let id = policy(&t, "p", &rule("key", &key, "read")).await;
    let links = table! {"Policies" = list![table! {"ID" = id}]};
    t.ok("acl_token_update", args![ANONYMOUS, links]).await;
    t.anonymous().ok("kv_get", args![key.as_str()]).await;
    t.ok("acl_token_update", args![ANONYMOUS, table! {"Policies" = list![]}]).await;
    denied(&t.anonymous(), "kv_get", args![key]).await;
}

async fn default_allow_forbids_what_a_rule_denies(t: T) {
    let t = t.with_acls(Allow);
    let rules = rule("key_prefix", &t.name("a"), "deny") + &rule("key", &t.name("b"), "read");
    let me = caller(&t, &rules).await;
    denied(&me, "kv_get", args![t.name("a1")]).await;
    denied(&me, "kv_put", args![t.name("b"), "1"]).await;
    denied(&me, "kv_delete_tree", args![t.name("")]).await;
    me.ok("kv_get", args![t.name("b")]).await;
    me.ok("kv_put", args![t.name("c"), "1"]).await;
    me.ok("kv_delete_tree", args![t.name("c")]).await;
}

async fn default_allow_permits_everything_but_acls(t: T) {
    let t = t.with_acls(Allow);
    let anonymous = t.anonymous();
    anonymous.ok("kv_put", args![t.name("x"), "1"]).await;
    assert!(!anonymous.value("catalog_nodes", args![]).await.items().is_empty());
    let id = anonymous.session(table! {}).await;
    anonymous.ok("session_destroy", args![id]).await;
    anonymous.ok("agent_self", args![]).await;
    denied(&anonymous, "acl_policy_list", args![]).await;
    denied(&anonymous, "acl_token_create", args![table! {}]).await;
    anonymous.fails("kv_get", args![t.name("x"); "token" = UNKNOWN], Kind::AclNotFound).await;
}

/// The question whether the token has an access to a resource.
fn access(resource: &str, segment: &str, access: &str) -> Value {
    table! {"Resource" = resource, "Segment" = segment, "Access" = access}
}

async fn authorize_returns_the_permissions_of_the_token(t: T) {
    let t = t.with_acls(Deny);
    let keys = rule("key_prefix", "w/", "write") + &rule("key", "w/x", "read");
    let rules = rule("key_prefix", "a/", "list") + &rule("service", "web", "write") + &keys;
    let t = caller(&t, &(rules + "operator = \"read\"")).await;
    let expected = [
        (access("key", "a/b", "read"), true),
        (access("key", "a/b", "list"), true),
        (access("key", "a/b", "write"), false),
        (access("key", "b", "read"), false),
        (access("key", "w/", "write"), true),
        (access("key", "w/", "write-prefix"), false),
        (access("key", "w/y", "write-prefix"), true),
        (access("service", "web", "write"), true),
        (access("service", "db", "read"), false),
        (access("operator", "", "read"), true),
        (access("operator", "any", "read"), true),
        (access("operator", "", "write"), false),
        (access("acl", "", "read"), false),
    ];
    let questions = expected.iter().map(|(question, _)| question.clone()).collect();
    let answers = t.value("acl_authorize", args![Value::List(questions)]).await;
    assert_eq!(answers.items().len(), expected.len());
    for (answer, (question, allowed)) in answers.items().iter().zip(&expected) {
        assert_eq!(answer.get("Allow"), Some(&Value::Bool(*allowed)), "{question:?}");
        assert_eq!(text(answer, "Resource"), text(question, "Resource"));
    }
    let none = t.anonymous().value("acl_authorize", args![list![access("key", "b", "read")]]).await;
    assert_eq!(none.items()[0].get("Allow"), Some(&Value::Bool(false)));
    assert_eq!(t.value("acl_authorize", args![list![]]).await, list![]);
}

async fn authorize_refuses_unknown_resources_and_accesses(t: T) {
    let t = t.with_acls(Deny);
    for (question, why) in [
        (access("kei", "a", "read"), "Invalid ACL resource requested: \"kei\""),
        (access("service", "a", "list"), "Invalid access level for service resource: list"),
        (
            access("node", "a", "write-prefix"),
            "Invalid access level for node resource: write-prefix",
        ),
    ] {
        let error = t.fails("acl_authorize", args![list![question]], Kind::Argument).await;
        assert!(error.message().contains(why), "{error}");
    }
    let many = (0..65).map(|_| access("key", "a", "read")).collect();
    let error = t.fails("acl_authorize", args![Value::List(many)], Kind::Argument).await;
    assert!(error.message().contains("more than 64 authorizations"), "{error}");
    let unknown = t.with_token(UNKNOWN);
    let question = list![access("key", "a", "read")];
    unknown.fails("acl_authorize", args![question], Kind::AclNotFound).await;
}
