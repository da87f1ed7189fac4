//! Access control: the agent writes a registration to the catalog with the token of the registration.

use crate::acl::{rule, token};
use crate::target::{T, args, behaviours, list, pause, table, text};
use consul_api::value::Value;
use consul_sim::acl::DefaultPolicy::Deny;
use std::time::Duration;

behaviours![
    a_check_is_reported_with_the_token_of_its_registration,
    a_registration_by_another_token_is_reported_with_that,
    a_service_whose_token_is_gone_is_deregistered,
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
