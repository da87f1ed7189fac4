//! Access control: the agent writes a registration to the catalog with the token of the registration.

use crate::acl::{caller, rule, token};
use crate::target::{T, args, behaviours, list, pause, table, text};
use consul_api::error::Kind;
use consul_api::value::Value;
use consul_sim::acl::DefaultPolicy::Deny;
use std::time::Duration;

behaviours![
    a_check_is_reported_with_the_token_of_its_registration,
    a_registration_by_another_token_is_reported_with_that,
    a_service_whose_token_is_gone_is_deregistered,
    a_check_is_written_with_its_service_by_the_token_of_the_check,
    entries_are_removed_with_the_token_of_the_agent,
    an_entry_that_comes_again_is_not_removed,
    the_recovery_token_changes_the_agent,
];

/// The ways to take the rights of a registration away.
#[derive(Clone, Copy, Debug)]
enum End {
    Deleted,
    WithoutPolicies,
}

async fn end(t: &T, token: &Value, end: End) {
    let id = text(token, "AccessorID");
    match end {
        End::Deleted => t.ok("acl_token_delete", args![id]).await,
        End::WithoutPolicies => {
            let none = table! {"AccessorID" = id, "Policies" = list![]};
            t.ok("acl_token_update", args![id, none]).await
        }
    };
}

async fn own_node(t: &T) -> String {
    let own = t.value("agent_self", args![]).await;
    text(own.get("Config").unwrap(), "NodeName").to_owned()
}

/// The status and the notes of a check in the catalog.
async fn in_catalog(t: &T, node: &str, check: &str) -> Option<(String, String)> {
    let checks = t.value("health_node", args![node]).await;
    let found = checks.items().iter().find(|found| text(found, "CheckID") == check)?;
    Some((text(found, "Status").to_owned(), text(found, "Notes").to_owned()))
}

async fn until_reported(t: &T, node: &str, check: &str, status: &str, notes: &str) {
    let expected = Some((status.to_owned(), notes.to_owned()));
    t.until("it is reported", || async { in_catalog(t, node, check).await == expected }).await;
}

/// A check by itself, of a service or of the node.
fn check(id: &str, service: Option<&str>, notes: &str) -> Value {
    let mut check = vec![("ID", id), ("Name", id), ("TTL", "1h"), ("Status", "passing")];
    check.push(("Notes", notes));
    check.extend(service.map(|service| ("ServiceID", service)));
    Value::Map(check.into_iter().map(|(name, it)| (name.to_owned(), it.into())).collect())
}

fn service(id: &str, notes: &str) -> Value {
    let check = table! {
        "CheckID" = format!("service:{id}"), "TTL" = "1h", "Status" = "passing", "Notes" = notes,
    };
    table! {"Name" = id, "Check" = check}
}

/// Each kind of registration with a check: the method, the check's id, and the definition with these notes.
async fn kinds(t: &T, name: &str) -> Vec<(&'static str, String, Box<dyn Fn(&str) -> Value>)> {
    let (own, of_service, of_node) =
        (t.name(name), t.name(&format!("{name}s")), t.name(&format!("{name}n")));
    t.ok("agent_service_register", args![table! {"Name" = of_service.as_str()}]).await;
    let (its, nodes) = (format!("{of_service}-check"), format!("{of_node}-check"));
    let checks = (its.clone(), nodes.clone());
    vec![
        ("agent_service_register", format!("service:{own}"), Box::new(move |it| service(&own, it))),
        ("agent_check_register", its, Box::new(move |it| check(&checks.0, Some(&of_service), it))),
        ("agent_check_register", nodes, Box::new(move |it| check(&checks.1, None, it))),
    ]
}

async fn a_check_is_reported_with_the_token_of_its_registration(t: T) {
    let t = t.with_acls(Deny);
    let node = own_node(&t).await;
    for (number, how) in [End::Deleted, End::WithoutPolicies].into_iter().enumerate() {
        for (method, id, definition) in kinds(&t, &format!("r{number}")).await {
            let rules = rule("service_prefix", "", "write") + &rule("node", &node, "write");
            let token = token(&t, &rules).await;
            let caller = t.with_token(text(&token, "SecretID"));
            caller.ok(method, args![definition("")]).await;
            until_reported(&t, &node, &id, "passing", "").await;
            end(&t, &token, how).await;
            t.ok("agent_check_fail", args![id.as_str()]).await;
            let checks = t.value("agent_checks", args![]).await;
            assert_eq!(text(checks.get(&id).unwrap(), "Status"), "critical", "{how:?} {id}");
            pause(Duration::from_millis(300)).await;
            let found = in_catalog(&t, &node, &id).await.unwrap();
            assert_eq!(found.0, "passing", "{how:?} {id}: nobody may report it");
        }
    }
}

async fn a_registration_by_another_token_is_reported_with_that(t: T) {
    let t = t.with_acls(Deny);
    let node = own_node(&t).await;
    for (method, id, definition) in kinds(&t, "r").await {
        let rules = rule("service_prefix", "", "write") + &rule("node", &node, "write");
        let (old, new) = (token(&t, &rules).await, token(&t, &rules).await);
        t.with_token(text(&old, "SecretID")).ok(method, args![definition("")]).await;
        until_reported(&t, &node, &id, "passing", "").await;
        end(&t, &old, End::Deleted).await;
        t.ok("agent_check_fail", args![id.as_str()]).await;
        let caller = t.with_token(text(&new, "SecretID"));
        caller.ok(method, args![definition("another")]).await;
        until_reported(&t, &node, &id, "critical", "another").await;
        t.ok("agent_check_pass", args![id.as_str()]).await;
        until_reported(&t, &node, &id, "passing", "another").await;
    }
}

async fn a_service_whose_token_is_gone_is_deregistered(t: T) {
    let t = t.with_acls(Deny);
    let node = own_node(&t).await;
    let id = t.name("s");
    let check = format!("service:{id}");
    let token = token(&t, &rule("service", &id, "write")).await;
    let caller = t.with_token(text(&token, "SecretID"));
    caller.ok("agent_service_register", args![service(&id, "")]).await;
    until_reported(&t, &node, &check, "passing", "").await;
    end(&t, &token, End::Deleted).await;
    t.ok("agent_service_deregister", args![id.as_str()]).await;
    assert!(t.value("agent_services", args![]).await.get(&id).is_none());
    if t.is_1_8("the agent deregisters a service with the token of its registration") {
        pause(Duration::from_millis(300)).await;
        assert!(in_catalog(&t, &node, &check).await.is_some(), "nobody may remove it");
    } else {
        t.until("it is gone", || async { in_catalog(&t, &node, &check).await.is_none() }).await;
    }
}

async fn a_check_is_written_with_its_service_by_the_token_of_the_check(t: T) {
    let t = t.with_acls(Deny);
    let node = own_node(&t).await;
    let (id, check_id) = (t.name("s"), t.name("c"));
    let owner = token(&t, &rule("service", &id, "write")).await;
    let caller = t.with_token(text(&owner, "SecretID"));
    caller.ok("agent_service_register", args![table! {"Name" = id.as_str()}]).await;
    end(&t, &owner, End::Deleted).await;
    t.ok("catalog_deregister", args![table! {"Node" = node.as_str(), "ServiceID" = id.as_str()}])
        .await;
    t.ok("agent_check_register", args![check(&check_id, Some(&id), "")]).await;
    until_reported(&t, &node, &check_id, "passing", "").await;
}

async fn set_agent_token(t: &T, secret: &str) {
    t.ok("agent_token", args!["agent", table! {"Token" = secret}]).await;
}

async fn entries_are_removed_with_the_token_of_the_agent(t: T) {
    let t = t.with_acls(Deny);
    let node = own_node(&t).await;
    let all = rule("service_prefix", "", "write") + &rule("node", &node, "write");
    // The rules of the agent's token, and whether it removes entries of services and of the node.
    let services = rule("service_prefix", "", "write");
    let of_node = rule("node", &node, "write");
    let tokens = [
        (None, false, false),
        (Some(rule("key", "k", "write")), false, false),
        (Some(services), true, false),
        (Some(of_node), true, true),
        (Some(all.clone()), true, true),
    ];
    for (number, (rules, removes_services, removes_checks)) in tokens.into_iter().enumerate() {
        let secret = match &rules {
            Some(rules) => text(&token(&t, rules).await, "SecretID").to_owned(),
            None => String::new(),
        };
        let caller = caller(&t, &all).await;
        let names = ["whole", "part", "mode"].map(|name| t.name(&format!("{name}{number}")));
        for name in &names {
            caller.ok("agent_service_register", args![service(name, "")]).await;
        }
        let [whole, part, mode] = names.each_ref().map(String::as_str);
        let of_service = format!("{part}-check");
        let alone = format!("{part}-alone");
        caller.ok("agent_check_register", args![check(&of_service, Some(part), "")]).await;
        caller.ok("agent_check_register", args![check(&alone, None, "")]).await;
        caller.ok("agent_service_maintenance", args![mode, true]).await;
        let maintenance = format!("_service_maintenance:{mode}");
        for (id, status) in
            [(&maintenance, "critical"), (&of_service, "passing"), (&alone, "passing")]
        {
            t.until("it is reported", || async {
                in_catalog(&t, &node, id).await.is_some_and(|found| found.0 == status)
            })
            .await;
        }
        set_agent_token(&t, &secret).await;
        caller.ok("agent_service_deregister", args![whole]).await;
        caller.ok("agent_check_deregister", args![of_service.as_str()]).await;
        caller.ok("agent_check_deregister", args![alone.as_str()]).await;
        caller.ok("agent_service_maintenance", args![mode, false]).await;
        let ids = [
            (format!("service:{whole}"), removes_services),
            (of_service.clone(), removes_services),
            (maintenance, removes_services),
            (alone.clone(), removes_checks),
        ];
        let by_registration =
            t.is_1_8("the agent removes entries with the token of their registration");
        let local = t.value("agent_checks", args![]).await;
        for (id, removed) in &ids {
            assert!(local.get(id).is_none(), "{rules:?} {id}");
            if *removed || by_registration {
                t.until("it is gone", || async { in_catalog(&t, &node, id).await.is_none() }).await;
            }
        }
        pause(Duration::from_millis(300)).await;
        for (id, removed) in &ids {
            let stays = in_catalog(&t, &node, id).await.is_some();
            assert_eq!(stays, !removed && !by_registration, "{rules:?} {id}");
        }
        // A token that may removes what is left.
        set_agent_token(&t, text(&token(&t, &all).await, "SecretID")).await;
        for (id, _) in &ids {
            t.until("it is gone", || async { in_catalog(&t, &node, id).await.is_none() }).await;
        }
        for name in [part, mode] {
            t.ok("agent_service_deregister", args![name]).await;
        }
    }
}

async fn an_entry_that_comes_again_is_not_removed(t: T) {
    let t = t.with_acls(Deny);
    if t.is_1_8("the agent removes entries with the token of their registration") {
        return;
    }
    let node = own_node(&t).await;
    let all = rule("service_prefix", "", "write") + &rule("node", &node, "write");
    let caller = caller(&t, &all).await;
    let id = t.name("s");
    let check = format!("service:{id}");
    let created = async || {
        let checks = t.value("health_node", args![node.as_str()]).await;
        let found = checks.items().iter().find(|found| text(found, "CheckID") == check);
        found.map(|found| found.get("CreateIndex").unwrap().clone())
    };
    caller.ok("agent_service_register", args![service(&id, "")]).await;
    until_reported(&t, &node, &check, "passing", "").await;
    let first = created().await;
    set_agent_token(&t, "").await;
    caller.ok("agent_service_deregister", args![id.as_str()]).await;
    caller.ok("agent_service_register", args![service(&id, "again")]).await;
    until_reported(&t, &node, &check, "passing", "again").await;
    set_agent_token(&t, text(&token(&t, &all).await, "SecretID")).await;
    // Another registration shows that the agent has compared.
    let last = t.name("last");
    caller.ok("agent_service_register", args![service(&last, "")]).await;
    until_reported(&t, &node, &format!("service:{last}"), "passing", "").await;
    pause(Duration::from_millis(300)).await;
    assert_eq!(created().await, first, "it was never removed");
    for name in [id, last] {
        t.ok("agent_service_deregister", args![name]).await;
    }
}

async fn the_recovery_token_changes_the_agent(t: T) {
    let t = t.with_acls(Deny);
    let is_1_8 = t.is_1_8("the recovery token has an older name, and its servers do not know it");
    let kind = if is_1_8 { "agent_master" } else { "agent_recovery" };
    let secret = "0b1e1c4e-5a0b-4f6c-9b6b-6a2d3c1f7e55";
    let recovery = t.with_token(secret);
    recovery.fails("agent_self", args![], Kind::AclNotFound).await;
    t.ok("agent_token", args![kind, table! {"Token" = secret}]).await;
    recovery.ok("agent_self", args![]).await;
    assert!(recovery.value("agent_services", args![]).await.items().is_empty());
    if !is_1_8 {
        assert!(!recovery.value("catalog_nodes", args![]).await.items().is_empty());
        recovery.fails("kv_put", args!["k", "v"], Kind::PermissionDenied).await;
        recovery.fails("acl_token_list", args![], Kind::PermissionDenied).await;
    }
    recovery.ok("agent_token", args![kind, table! {"Token" = ""}]).await;
    recovery.fails("agent_self", args![], Kind::AclNotFound).await;
}
