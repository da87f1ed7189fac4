//! Access control: tokens, policies, and what they allow.

use crate::target::{T, args, behaviours, list, table, text, texts};
use consul_ffi::error::Kind;
use consul_ffi::simulate::acl::DefaultPolicy::{Allow, Deny};
use consul_ffi::wire;
use consul_ffi::wire::request::Defaults;
use consul_ffi::wire::value::Value;
use std::time::Duration;

behaviours![
    without_acls_their_methods_are_unsupported,
    an_unknown_token_is_acl_not_found,
    a_call_without_a_token_is_denied,
    a_denial_names_the_token_and_the_permission,
    each_method_wants_its_own_permission,
    what_everybody_may_ask_needs_no_token,
    the_token_of_a_call_beats_the_clients,
    the_rule_that_fits_a_key_best_decides,
    of_several_policies_deny_wins,
    rules_may_be_json,
    lists_of_keys_leave_out_what_is_forbidden,
    a_tree_is_deleted_only_when_all_of_it_may_be,
    a_transaction_without_a_right_is_refused_by_operation,
    a_transaction_leaves_out_what_must_not_be_read,
    a_session_wants_a_right_on_its_node,
    lists_of_sessions_leave_out_what_is_forbidden,
    an_agents_service_wants_a_right_on_its_name,
    an_agents_check_wants_the_right_of_its_service_or_node,
    a_node_and_a_service_must_be_readable_to_be_found,
    a_forbidden_node_is_absent,
    a_registration_wants_rights_on_the_service_and_the_changed_node,
    a_deregistration_wants_the_right_to_the_node_or_the_service,
    a_blocking_query_shows_only_what_may_be_read,
    a_forbidden_blocking_query_does_not_wait,
    rights_change_at_once,
    a_call_without_a_token_has_the_anonymous_tokens_rights,
    default_allow_forbids_what_a_rule_denies,
    default_allow_opens_everything_but_acls,
    a_policy_is_what_it_was_created_as,
    a_token_is_what_it_was_created_as,
    a_clone_has_the_same_policies_and_another_secret,
    a_deleted_policy_is_gone_from_its_tokens,
    secrets_are_for_those_who_may_write_tokens,
    unknown_tokens_and_policies_are_not_found,
    deleting_what_is_not_there_succeeds,
    rules_that_make_no_sense_are_refused,
    what_is_built_in_cannot_be_deleted,
    there_is_one_first_token_only,
    a_list_of_policies_wakes_on_a_new_one,
    a_token_is_never_shown,
];

const UNKNOWN: &str = "8a1b2c3d-0000-4000-8000-123456789abc";
const GLOBAL_MANAGEMENT: &str = "00000000-0000-0000-0000-000000000001";
const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";

/// A new policy with these rules, and its id.
async fn policy(t: &T, name: &str, rules: &str) -> String {
    let definition = table! {"Name" = t.name(name), "Rules" = rules};
    let policy = t.value("acl_policy_create", args![definition]).await;
    text(&policy, "ID").to_owned()
}

/// A new token with these policies.
async fn token_with(t: &T, policies: &[&str]) -> Value {
    let links = policies.iter().map(|id| table! {"ID" = *id}).collect();
    t.value("acl_token_create", args![table! {"Policies" = Value::List(links)}]).await
}

/// A new token with a policy with these rules.
async fn token(t: &T, rules: &str) -> Value {
    let id = policy(t, &format!("p{}", fastrand::u32(..)), rules).await;
    token_with(t, &[&id]).await
}

/// A caller who may do what these rules say.
async fn caller(t: &T, rules: &str) -> T {
    t.with_token(text(&token(t, rules).await, "SecretID"))
}

/// A rule that gives a level on one name, or on all that begin with it.
fn rule(resource: &str, name: &str, level: &str) -> String {
    format!("{resource} \"{name}\" {{ policy = \"{level}\" }}\n")
}

async fn own_node(t: &T) -> String {
    let own = t.value("agent_self", args![]).await;
    text(own.get("Config").unwrap(), "NodeName").to_owned()
}

async fn denied(t: &T, method: &str, args: wire::request::Args) -> String {
    t.fails(method, args, Kind::PermissionDenied).await.message().to_owned()
}

async fn without_acls_their_methods_are_unsupported(t: T) {
    for method in ["acl_token_list", "acl_token_self", "acl_policy_list", "acl_bootstrap"] {
        let error = t.fails(method, args![], Kind::Unsupported).await;
        assert!(error.message().contains("ACL support disabled"), "{error}");
    }
    t.fails("acl_token_create", args![table! {}], Kind::Unsupported).await;
    t.fails("acl_policy_read", args![UNKNOWN], Kind::Unsupported).await;
    t.fails("agent_token", args!["default", table! {"Token" = ""}], Kind::Unsupported).await;
    t.ok("kv_keys", args![t.name("x"); "token" = "whatever"]).await;
}

async fn an_unknown_token_is_acl_not_found(t: T) {
    let t = t.guarded(Deny).with_token(UNKNOWN);
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
    let t = t.guarded(Deny).anonymous();
    let said = denied(&t, "kv_get", args![t.name("x")]).await;
    assert!(t.is_1_8() || said.contains("anonymous token lacks permission 'key:read'"), "{said}");
    denied(&t, "acl_policy_list", args![]).await;
    t.fails("acl_token_self", args![], Kind::AclNotFound).await;
}

async fn a_denial_names_the_token_and_the_permission(t: T) {
    let t = t.guarded(Deny);
    let token = token(&t, "").await;
    let none = t.with_token(text(&token, "SecretID"));
    let key = t.name("x");
    let said = denied(&none, "kv_put", args![key.as_str(), "1"]).await;
    let accessor = text(&token, "AccessorID");
    let names_all = said.contains(&format!("'{accessor}' lacks permission 'key:write' on"))
        && said.contains(&format!("{key:?}"));
    assert!(t.is_1_8() || names_all, "{said}");
}

async fn each_method_wants_its_own_permission(t: T) {
    let t = t.guarded(Deny);
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
        (rule("service", name, "write"), "agent_service_register", args![service]),
        (rule("service", name, "read"), "agent_service", args![name]),
        (rule("service", name, "write"), "agent_service_deregister", args![name]),
        (rule("node", &node, "write"), "agent_check_register", args![check]),
        (rule("node", &node, "write"), "agent_check_pass", args![name]),
        (rule("node", &node, "write"), "agent_check_deregister", args![name]),
        (rule("node", name, "write"), "catalog_register", args![external.clone()]),
        (rule("node", name, "write"), "catalog_deregister", args![table! {"Node" = name}]),
        ("acl = \"read\"".to_owned(), "acl_token_list", args![]),
        ("acl = \"read\"".to_owned(), "acl_policy_list", args![]),
        ("acl = \"write\"".to_owned(), "acl_token_create", args![table! {}]),
        ("acl = \"write\"".to_owned(), "acl_policy_create", args![policy]),
    ] {
        let none = caller(&t, "").await;
        denied(&none, method, args.clone()).await;
        // A read is no write.
        if permission.contains("write") {
            let reader = caller(&t, &permission.replace("write", "read")).await;
            denied(&reader, method, args.clone()).await;
        }
        caller(&t, &permission).await.ok(method, args).await;
    }
}

async fn what_everybody_may_ask_needs_no_token(t: T) {
    let t = t.guarded(Deny).anonymous();
    for method in ["status_leader", "status_peers", "catalog_datacenters"] {
        t.ok(method, args![]).await;
        t.ok(method, args![; "token" = UNKNOWN]).await;
    }
}

async fn the_token_of_a_call_beats_the_clients(t: T) {
    let t = t.guarded(Deny);
    let (one, other) = (t.name("one"), t.name("other"));
    let mine = caller(&t, &rule("key", &one, "write")).await;
    let theirs = token(&t, &rule("key", &other, "write")).await;
    let theirs = text(&theirs, "SecretID");
    mine.ok("kv_put", args![one.as_str(), "1"]).await;
    denied(&mine, "kv_put", args![other.as_str(), "1"]).await;
    mine.ok("kv_put", args![other.as_str(), "1"; "token" = theirs]).await;
    denied(&mine, "kv_put", args![one.as_str(), "1"; "token" = theirs]).await;
}

async fn the_rule_that_fits_a_key_best_decides(t: T) {
    let t = t.guarded(Deny);
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
    let t = t.guarded(Deny);
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
    let t = t.guarded(Deny);
    let key = t.name("a");
    let rules = format!("{{\"key\": {{\"{key}\": {{\"policy\": \"write\"}}}}, \"acl\": \"read\"}}");
    let me = caller(&t, &rules).await;
    me.ok("kv_put", args![key, "1"]).await;
    me.ok("acl_policy_list", args![]).await;
}

async fn lists_of_keys_leave_out_what_is_forbidden(t: T) {
    let t = t.guarded(Deny);
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

async fn a_tree_is_deleted_only_when_all_of_it_may_be(t: T) {
    let t = t.guarded(Deny);
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

async fn a_transaction_without_a_right_is_refused_by_operation(t: T) {
    let t = t.guarded(Deny);
    let rules = rule("key_prefix", &t.name("a"), "write") + &rule("key", &t.name("b"), "read");
    let me = caller(&t, &rules).await;
    let operations = list![
        kv("set", t.name("a")),
        kv("set", t.name("b")),
        get("delete", t.name("c")),
        get("check-session", t.name("c")),
    ];
    let error = me.fails("txn", args![operations], Kind::TxnFailed).await;
    let places: Vec<_> = error.refused().iter().map(|refused| refused.index).collect();
    assert_eq!(places, [1, 2, 3]);
    assert!(error.refused().iter().all(|refused| refused.what.contains("Permission denied")));
    assert_eq!(t.value("kv_get", args![t.name("a")]).await, Value::Null);
    me.ok("txn", args![list![kv("set", t.name("a"))]]).await;
}

async fn a_transaction_leaves_out_what_must_not_be_read(t: T) {
    let t = t.guarded(Deny);
    for key in ["a/1", "a/2"] {
        t.ok("kv_put", args![t.name(key), key]).await;
    }
    let me = caller(&t, &rule("key", &t.name("a/1"), "read")).await;
    let operations = list![get("get", t.name("a/2")), get("get-tree", t.name("a/"))];
    let results = me.value("txn", args![operations]).await;
    let entries: Vec<_> = results.items().iter().map(|r| r.get("KV").unwrap().clone()).collect();
    assert_eq!(texts(&Value::List(entries), "Key"), [t.name("a/1")]);
}

async fn a_session_wants_a_right_on_its_node(t: T) {
    let t = t.guarded(Deny);
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

async fn lists_of_sessions_leave_out_what_is_forbidden(t: T) {
    let t = t.guarded(Deny);
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

async fn an_agents_service_wants_a_right_on_its_name(t: T) {
    let t = t.guarded(Deny);
    let (mine, other) = (t.name("mine"), t.name("other"));
    let (mine, other) = (mine.as_str(), other.as_str());
    let me = caller(&t, &rule("service", mine, "write")).await;
    t.ok("agent_service_register", args![table! {"Name" = other}]).await;
    me.ok("agent_service_register", args![table! {"Name" = mine}]).await;
    denied(&me, "agent_service_register", args![table! {"Name" = other}]).await;
    // Nor may it take an id that belongs to another service.
    let stolen = table! {"Name" = mine, "ID" = other};
    denied(&me, "agent_service_register", args![stolen]).await;
    denied(&me, "agent_service_deregister", args![other]).await;
    denied(&me, "agent_service", args![other]).await;
    let services = me.value("agent_services", args![]).await;
    assert!(services.get(mine).is_some() && services.get(other).is_none());
    me.ok("agent_service_deregister", args![mine]).await;
    t.ok("agent_service_deregister", args![other]).await;
}

async fn an_agents_check_wants_the_right_of_its_service_or_node(t: T) {
    let t = t.guarded(Deny);
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

/// Registers a node of its own with one instance of a service and a check of it.
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
    let t = t.guarded(Deny);
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
        // 1.8.7 shows the name of a service whose nodes must not be read.
        let services = me.value("catalog_services", args![]).await;
        if !t.is_1_8() {
            assert_eq!(services.get(&service).is_some(), instances == 1, "{rules}");
        }
    }
    t.ok("catalog_deregister", args![table! {"Node" = node}]).await;
}

async fn a_forbidden_node_is_absent(t: T) {
    let t = t.guarded(Deny);
    let (node, service) = register(&t).await;
    let none = caller(&t, "").await;
    assert_eq!(none.value("catalog_node", args![node.as_str()]).await, Value::Null);
    let me = caller(&t, &rule("node", &node, "read")).await;
    let seen = me.value("catalog_node", args![node.as_str()]).await;
    assert!(seen.get("Services").is_none_or(|services| services.get(&service).is_none()));
    t.ok("catalog_deregister", args![table! {"Node" = node}]).await;
}

async fn a_registration_wants_rights_on_the_service_and_the_changed_node(t: T) {
    let t = t.guarded(Deny);
    let (node, service) = register(&t).await;
    let registration = |address: &str, service: &str| {
        let service = table! {"Service" = service};
        args![table! {"Node" = node.as_str(), "Address" = address, "Service" = service}]
    };
    let me = caller(&t, &rule("service", &service, "write")).await;
    me.ok("catalog_register", registration("10.9.9.9", &service)).await;
    denied(&me, "catalog_register", registration("10.9.9.8", &service)).await;
    denied(&me, "catalog_register", registration("10.9.9.9", &t.name("other"))).await;
    let me = caller(&t, &rule("node", &node, "write")).await;
    me.ok("catalog_register", args![table! {"Node" = node.as_str(), "Address" = "10.9.9.8"}]).await;
    denied(&me, "catalog_register", registration("10.9.9.8", &service)).await;
    t.ok("catalog_deregister", args![table! {"Node" = node}]).await;
}

async fn a_deregistration_wants_the_right_to_the_node_or_the_service(t: T) {
    let t = t.guarded(Deny);
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

async fn a_blocking_query_shows_only_what_may_be_read(t: T) {
    let t = t.guarded(Deny);
    let rules = rule("key_prefix", &t.name("a/"), "read") + &rule("key", &t.name("a/2"), "deny");
    let me = caller(&t, &rules).await;
    t.ok("kv_put", args![t.name("a/1"), "1"]).await;
    let index = me.index("kv_keys", args![t.name("a/")]).await;
    let wait = args![t.name("a/"); "index" = index, "wait" = "5s"];
    let change = async {
        crate::target::pause(Duration::from_millis(100)).await;
        t.ok("kv_put", args![t.name("a/2"), "1"]).await;
        t.ok("kv_put", args![t.name("a/3"), "1"]).await;
    };
    let (_, keys) = tokio::join!(change, me.value("kv_keys", wait));
    assert!(keys.items().len() <= 2 && !keys.items().contains(&t.name("a/2").into()));
    let keys = me.value("kv_keys", args![t.name("a/")]).await;
    assert_eq!(keys, list![t.name("a/1"), t.name("a/3")]);
}

async fn a_forbidden_blocking_query_does_not_wait(t: T) {
    let t = t.guarded(Deny);
    let none = caller(&t, "").await;
    let begun = std::time::Instant::now();
    denied(&none, "kv_get", args![t.name("x"); "index" = 1_000_000, "wait" = "9s"]).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
}

async fn rights_change_at_once(t: T) {
    let t = t.guarded(Deny);
    let key = t.name("x");
    let key = key.as_str();
    let id = policy(&t, "p", &rule("key", key, "read")).await;
    let token = token_with(&t, &[&id]).await;
    let me = t.with_token(text(&token, "SecretID"));
    denied(&me, "kv_put", args![key, "1"]).await;
    let write = table! {"Name" = t.name("p"), "Rules" = rule("key", key, "write")};
    t.ok("acl_policy_update", args![id.as_str(), write]).await;
    me.ok("kv_put", args![key, "1"]).await;
    let accessor = text(&token, "AccessorID");
    t.ok("acl_token_update", args![accessor, table! {"Policies" = list![]}]).await;
    denied(&me, "kv_get", args![key]).await;
    t.ok("acl_token_delete", args![accessor]).await;
    me.fails("kv_get", args![key], Kind::AclNotFound).await;
}

async fn a_call_without_a_token_has_the_anonymous_tokens_rights(t: T) {
    let t = t.guarded(Deny);
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
    let t = t.guarded(Allow);
    let rules = rule("key_prefix", &t.name("a"), "deny") + &rule("key", &t.name("b"), "read");
    let me = caller(&t, &rules).await;
    denied(&me, "kv_get", args![t.name("a1")]).await;
    denied(&me, "kv_put", args![t.name("b"), "1"]).await;
    denied(&me, "kv_delete_tree", args![t.name("")]).await;
    me.ok("kv_get", args![t.name("b")]).await;
    me.ok("kv_put", args![t.name("c"), "1"]).await;
    me.ok("kv_delete_tree", args![t.name("c")]).await;
}

async fn default_allow_opens_everything_but_acls(t: T) {
    let t = t.guarded(Allow);
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

async fn a_policy_is_what_it_was_created_as(t: T) {
    let t = t.guarded(Deny);
    let rules = rule("key", "a", "read");
    let definition = table! {
        "Name" = t.name("p"), "Description" = "for a test", "Rules" = rules.as_str(),
        "Datacenters" = list!["dc1"],
    };
    let created = t.value("acl_policy_create", args![definition.clone()]).await;
    let id = text(&created, "ID");
    let read = t.value("acl_policy_read", args![id]).await;
    assert_eq!(read, created);
    assert_eq!((text(&read, "Name"), text(&read, "Rules")), (&*t.name("p"), &*rules));
    assert_eq!(text(&read, "Description"), "for a test");
    assert_eq!(read.get("Datacenters"), Some(&list!["dc1"]));
    let by_name = t.value("acl_policy_read_by_name", args![t.name("p")]).await;
    assert_eq!(by_name, created);
    let error = t.fails("acl_policy_create", args![definition], Kind::Http).await;
    assert!(error.message().contains("already exists"), "{error}");
    let renamed = table! {"Name" = t.name("q"), "Rules" = ""};
    let updated = t.value("acl_policy_update", args![id, renamed]).await;
    assert_eq!((text(&updated, "ID"), text(&updated, "Name")), (id, &*t.name("q")));
    let policies = t.value("acl_policy_list", args![]).await;
    assert!(texts(&policies, "Name").contains(&&*t.name("q")));
    assert_eq!(t.value("acl_policy_delete", args![id]).await, true.into());
    t.fails("acl_policy_read", args![id], Kind::NotFound).await;
}

async fn a_token_is_what_it_was_created_as(t: T) {
    let t = t.guarded(Deny);
    let policy = policy(&t, "p", "").await;
    let (accessor, secret) = (uuid(), uuid());
    let definition = table! {
        "AccessorID" = accessor.as_str(), "SecretID" = secret.as_str(), "Description" = "a test's",
        "Policies" = list![table! {"Name" = t.name("p")}],
        "ServiceIdentities" = list![table! {"ServiceName" = "web"}],
    };
    let created = t.value("acl_token_create", args![definition.clone()]).await;
    assert_eq!(text(&created, "AccessorID"), accessor);
    assert_eq!(text(&created, "SecretID"), secret);
    let read = t.value("acl_token_read", args![accessor.as_str()]).await;
    assert_eq!(read, created);
    assert_eq!(texts(read.get("Policies").unwrap(), "ID"), [policy.as_str()]);
    assert_eq!(texts(read.get("ServiceIdentities").unwrap(), "ServiceName"), ["web"]);
    let own = t.with_token(&secret).value("acl_token_self", args![]).await;
    assert_eq!(own, created);
    t.fails("acl_token_create", args![definition], Kind::Http).await;
    let tokens = t.value("acl_token_list", args![; "policy" = policy]).await;
    assert_eq!(texts(&tokens, "AccessorID"), [accessor.as_str()]);
    let changed = table! {"Description" = "another"};
    let updated = t.value("acl_token_update", args![accessor.as_str(), changed]).await;
    assert_eq!(text(&updated, "Description"), "another");
    assert!(updated.get("Policies").is_none(), "an update replaces the token");
    assert_eq!(t.value("acl_token_delete", args![accessor.as_str()]).await, true.into());
    t.fails("acl_token_read", args![accessor], Kind::NotFound).await;
}

fn uuid() -> String {
    let hex = format!("{:032x}", fastrand::u128(..));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

async fn a_clone_has_the_same_policies_and_another_secret(t: T) {
    let t = t.guarded(Deny);
    let source = token(&t, &rule("key", &t.name("x"), "write")).await;
    let clone = t.value("acl_token_clone", args![text(&source, "AccessorID")]).await;
    assert_eq!(clone.get("Policies"), source.get("Policies"));
    assert_ne!(text(&clone, "AccessorID"), text(&source, "AccessorID"));
    assert_ne!(text(&clone, "SecretID"), text(&source, "SecretID"));
    t.with_token(text(&clone, "SecretID")).ok("kv_put", args![t.name("x"), "1"]).await;
    let described = args![text(&source, "AccessorID"), table! {"Description" = "a clone"}];
    let clone = t.value("acl_token_clone", described).await;
    assert_eq!(text(&clone, "Description"), "a clone");
}

async fn a_deleted_policy_is_gone_from_its_tokens(t: T) {
    let t = t.guarded(Deny);
    let id = policy(&t, "p", &rule("key", &t.name("x"), "read")).await;
    let token = token_with(&t, &[&id]).await;
    t.ok("acl_policy_delete", args![id]).await;
    let token = t.value("acl_token_read", args![text(&token, "AccessorID")]).await;
    assert!(token.get("Policies").is_none());
    denied(&t.with_token(text(&token, "SecretID")), "kv_get", args![t.name("x")]).await;
}

async fn secrets_are_for_those_who_may_write_tokens(t: T) {
    let t = t.guarded(Deny);
    let reader = caller(&t, "acl = \"read\"").await;
    let token = token(&t, "").await;
    let read = reader.value("acl_token_read", args![text(&token, "AccessorID")]).await;
    assert_eq!(text(&read, "SecretID"), "<hidden>");
    let tokens = reader.value("acl_token_list", args![]).await;
    let shown = |token: &Value| token.get("SecretID").is_some_and(|s| *s != "<hidden>".into());
    assert!(!tokens.items().iter().any(shown));
    assert_ne!(text(&reader.value("acl_token_self", args![]).await, "SecretID"), "<hidden>");
}

async fn unknown_tokens_and_policies_are_not_found(t: T) {
    let t = t.guarded(Deny);
    t.fails("acl_token_read", args![UNKNOWN], Kind::NotFound).await;
    t.fails("acl_policy_read", args![UNKNOWN], Kind::NotFound).await;
    t.fails("acl_policy_read_by_name", args![t.name("none")], Kind::NotFound).await;
    t.fails("acl_token_update", args![UNKNOWN, table! {}], Kind::NotFound).await;
    let policy = table! {"Name" = t.name("p"), "Rules" = ""};
    t.fails("acl_policy_update", args![UNKNOWN, policy], Kind::NotFound).await;
    let kind = if t.is_1_8() { Kind::AclNotFound } else { Kind::NotFound };
    t.fails("acl_token_clone", args![UNKNOWN], kind).await;
    let link = table! {"Policies" = list![table! {"Name" = t.name("none")}]};
    let error = t.fails("acl_token_create", args![link], Kind::Http).await;
    assert!(error.message().contains("No such ACL policy with name"), "{error}");
}

async fn deleting_what_is_not_there_succeeds(t: T) {
    let t = t.guarded(Deny);
    for method in ["acl_token_delete", "acl_policy_delete"] {
        assert_eq!(t.value(method, args![UNKNOWN]).await, true.into());
    }
}

async fn rules_that_make_no_sense_are_refused(t: T) {
    let t = t.guarded(Deny);
    for (rules, why) in [
        ("key \"a\" { policy = \"maybe\" }", "Invalid key policy"),
        ("service_prefix \"\" { policy = \"list\" }", "Invalid service_prefix policy"),
        ("acl = \"maybe\"", "Invalid acl policy: \"maybe\""),
        ("key \"a\" { policy = \"read\"", "Failed to parse ACL rules"),
        ("@", "Failed to parse ACL rules: At 1:1: illegal char"),
    ] {
        let policy = table! {"Name" = t.name("p"), "Rules" = rules};
        let error = t.fails("acl_policy_create", args![policy], Kind::Http).await;
        assert!(error.message().contains(why), "{error}");
    }
    for name in ["", "two words"] {
        let policy = table! {"Name" = name, "Rules" = ""};
        assert!(t.call("acl_policy_create", args![policy]).await.is_err());
    }
}

async fn what_is_built_in_cannot_be_deleted(t: T) {
    let t = t.guarded(Deny);
    let error = t.fails("acl_policy_delete", args![GLOBAL_MANAGEMENT], Kind::Http).await;
    assert!(error.message().contains("not permitted on the builtin"), "{error}");
    let error = t.fails("acl_token_delete", args![ANONYMOUS], Kind::Http).await;
    assert!(error.message().contains("not permitted on the anonymous token"), "{error}");
    let own = t.value("acl_token_self", args![]).await;
    assert_eq!(texts(own.get("Policies").unwrap(), "Name"), ["global-management"]);
}

async fn there_is_one_first_token_only(t: T) {
    let said = denied(&t.guarded(Deny), "acl_bootstrap", args![]).await;
    assert!(said.contains("ACL bootstrap no longer allowed (reset index: "), "{said}");
}

async fn a_list_of_policies_wakes_on_a_new_one(t: T) {
    let t = t.guarded(Deny);
    let index = t.index("acl_policy_list", args![]).await;
    let wait = args![; "index" = index, "wait" = "9s"];
    let change = async {
        crate::target::pause(Duration::from_millis(100)).await;
        policy(&t, "p", "").await
    };
    let (_, answer) = tokio::join!(change, t.ok("acl_policy_list", wait));
    assert!(answer.meta.index.unwrap() > index);
}

async fn a_token_is_never_shown(t: T) {
    let t = t.guarded(Deny);
    let token = token(&t, "").await;
    let secret = text(&token, "SecretID");
    let me = t.with_token(secret);
    let change = table! {"SecretID" = secret};
    let mut shown =
        vec![format!("{:?}", Defaults { token: Some(secret.into()), ..Defaults::default() })];
    for (method, args) in [
        ("kv_get", args![t.name("x")]),
        ("kv_get", args![t.name("x"); "token" = secret]),
        ("acl_token_create", args![change.clone()]),
        ("acl_token_update", args![ANONYMOUS, change.clone()]),
        ("agent_token", args!["default", table! {"Token" = secret}]),
    ] {
        let error = me.call(method, args.clone()).await.expect_err("it has no right");
        shown.push(format!("{error} {error:?}"));
        let defaults = Defaults { token: Some(secret.into()), ..Defaults::default() };
        let request = wire::endpoint(method).unwrap().request(&args, &defaults).unwrap();
        shown.push(format!("{} {request:?}", request.http.uri()));
    }
    // Nor when the server has reason to speak of it.
    let error = t.fails("acl_token_create", args![change], Kind::Http).await;
    shown.push(format!("{error} {error:?}"));
    let error = me.fails("kv_get", args![t.name("x"); "token" = UNKNOWN], Kind::AclNotFound).await;
    shown.push(format!("{error} {error:?}"));
    assert!(!shown.iter().any(|text| text.contains(secret) || text.contains(UNKNOWN)), "{shown:?}");
}
