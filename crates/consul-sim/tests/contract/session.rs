//! Sessions and the locks that they hold.

use crate::support::AT_ONCE;
use crate::target::{LONG, T, args, behaviours, list, pause, table, text, texts};
use consul_api::error::Kind;
use consul_api::value::Value;
use std::time::{Duration, Instant};

behaviours![
    a_session_has_the_documented_defaults,
    a_session_is_what_it_was_created_as,
    lock_delay_zero_is_really_zero,
    a_lost_lock_cannot_be_acquired_within_the_lock_delay,
    the_lock_delay_is_not_applied_to_puts,
    the_lock_delay_is_for_the_names_that_a_session_held_when_it_ended,
    a_ttl_out_of_range_is_refused_before_any_request,
    a_lock_delay_above_the_cap_is_refused_before_any_request,
    an_unknown_session_is_absent_and_not_an_error,
    destroying_an_unknown_session_succeeds,
    a_session_ends_with_a_check_that_is_spelt_in_another_way,
    renewing_an_unknown_session_is_session_invalid,
    renew_returns_the_session,
    destroy_releases_locks_and_keeps_values,
    behavior_delete_deletes_the_keys,
    sessions_are_listed_by_node,
    a_session_dies_with_its_critical_check,
    a_session_dies_with_its_deregistered_service,
    a_session_survives_a_warning,
    a_session_cannot_begin_with_a_critical_check,
    a_session_cannot_begin_with_an_unknown_check,
    a_session_list_wakes_on_a_new_session,
    an_empty_node_checks_overrides_the_old_list_of_checks,
];

async fn own_node(t: &T) -> String {
    let own = t.value("agent_self", args![]).await;
    text(own.get("Config").unwrap(), "NodeName").to_owned()
}

async fn a_session_has_the_documented_defaults(t: T) {
    let id = t.session(table! {}).await;
    let session = t.value("session_info", args![id.as_str()]).await;
    assert_eq!(text(&session, "ID"), id);
    assert_eq!(text(&session, "Node"), own_node(&t).await);
    assert_eq!(text(&session, "Behavior"), "release");
    assert_eq!(session.get("LockDelay").unwrap().as_u64(), Some(15_000_000_000));
    assert_eq!(session.get("NodeChecks"), Some(&list!["serfHealth"]));
}

async fn a_session_is_what_it_was_created_as(t: T) {
    let definition = table! {
        "name" = "worker", "ttl" = "30s", "lock_delay" = 1.5, "behavior" = "delete",
        "node_checks" = list![],
    };
    let id = t.session(definition).await;
    let session = t.value("session_info", args![id]).await;
    assert_eq!(text(&session, "Name"), "worker");
    assert_eq!(text(&session, "TTL"), "30s");
    assert_eq!(text(&session, "Behavior"), "delete");
    assert_eq!(session.get("LockDelay").unwrap().as_u64(), Some(1_500_000_000));
    assert!(session.get("NodeChecks").is_none_or(|checks| checks.items().is_empty()));
}

async fn lock_delay_zero_is_really_zero(t: T) {
    let first = t.session(table! {"LockDelay" = 0}).await;
    let second = t.session(table! {}).await;
    let session = t.value("session_info", args![first.as_str()]).await;
    assert_eq!(session.get("LockDelay").unwrap().as_u64(), Some(0));
    t.ok("kv_put", args![t.name("k"), "1"; "acquire" = first.as_str()]).await;
    t.ok("session_destroy", args![first]).await;
    t.ok("kv_put", args![t.name("k"), "2"; "acquire" = second]).await;
}

async fn a_lost_lock_cannot_be_acquired_within_the_lock_delay(t: T) {
    let first = t.session(table! {"LockDelay" = "1s"}).await;
    let second = t.session(table! {}).await;
    t.ok("kv_put", args![t.name("k"), "1"; "acquire" = first.as_str()]).await;
    t.ok("session_destroy", args![first]).await;
    let lost = Instant::now();
    let acquire = args![t.name("k"), "2"; "acquire" = second];
    t.fails("kv_put", acquire.clone(), Kind::Conflict).await;
    t.until("the lock is free again", || async { t.call("kv_put", acquire.clone()).await.is_ok() })
        .await;
    let held_back = lost.elapsed();
    assert!(held_back >= Duration::from_millis(950), "{held_back:?}");
    // Without the option it would be 15 s.
    assert!(held_back < Duration::from_secs(14), "{held_back:?}");
}

async fn the_lock_delay_is_not_applied_to_puts(t: T) {
    let session = t.session(table! {"LockDelay" = "5s"}).await;
    t.ok("kv_put", args![t.name("k"), "1"; "acquire" = session.as_str()]).await;
    t.ok("session_destroy", args![session]).await;
    t.ok("kv_put", args![t.name("k"), "2"]).await;
    t.ok("kv_delete", args![t.name("k")]).await;
}

/// The changes of a client to a key that a session has locked, or that it had locked.
const CHANGES: [&[&str]; 4] = [&[], &["put"], &["delete"], &["delete", "put"]];

async fn change(t: &T, key: &str, changes: &[&str]) {
    for change in changes {
        match *change {
            "put" => t.ok("kv_put", args![key, "other"]).await,
            _ => t.ok("kv_delete", args![key]).await,
        };
    }
}

async fn the_lock_delay_is_for_the_names_that_a_session_held_when_it_ended(t: T) {
    let node = t.name("n");
    let register = table! {
        "Node" = node.as_str(), "Address" = "127.0.0.1",
        "Check" = table! { "CheckID" = t.name("c"), "Name" = "c", "Status" = "passing" },
    };
    for end in ["destroy", "ttl", "check", "node"] {
        t.ok("catalog_register", args![register.clone()]).await;
        let definition = table! {
            "Node" = node.as_str(), "NodeChecks" = list![t.name("c")], "LockDelay" = "60s",
            "TTL" = "10s",
        };
        let session = t.session(definition).await;
        let key = |at: &str, n: usize| t.name(&format!("{end}-{at}-{n}"));
        for (n, changes) in CHANGES.iter().enumerate() {
            for at in ["before", "after"] {
                t.ok("kv_put", args![key(at, n), "1"; "acquire" = session.as_str()]).await;
            }
            change(&t, &key("before", n), changes).await;
        }
        match end {
            "destroy" => drop(t.ok("session_destroy", args![session.as_str()]).await),
            "check" => {
                let critical = table! {
                    "Node" = node.as_str(), "SkipNodeUpdate" = true,
                    "Check" = table! { "CheckID" = t.name("c"), "Name" = "c", "Status" = "critical" },
                };
                t.ok("catalog_register", args![critical]).await;
            }
            "node" => {
                drop(t.ok("catalog_deregister", args![table! { "Node" = node.as_str() }]).await)
            }
            _ => {}
        }
        t.until("the session is gone", || is_gone(&t, &session)).await;
        let next = t.session(table! {}).await;
        for (n, changes) in CHANGES.iter().enumerate() {
            change(&t, &key("after", n), changes).await;
            let is_held_back = async |at| {
                let acquire = args![key(at, n), "2"; "acquire" = next.as_str()];
                t.call("kv_put", acquire).await.is_err()
            };
            // A put leaves the session on the key, and a deletion takes it away.
            let had_session = !changes.contains(&"delete");
            assert_eq!(is_held_back("before").await, had_session, "{end}: {changes:?} before");
            assert!(is_held_back("after").await, "{end}: {changes:?} after");
        }
    }
    t.ok("catalog_deregister", args![table! { "Node" = node }]).await;
}

async fn a_ttl_out_of_range_is_refused_before_any_request(t: T) {
    for ttl in [Value::from("5s"), 9.into(), "86401s".into(), "abc".into(), (-1).into()] {
        let error = t.fails("session_create", args![table! {"TTL" = ttl}], Kind::Argument).await;
        assert!(!error.maybe_applied() && error.message().contains("TTL"), "{error}");
    }
}

async fn a_lock_delay_above_the_cap_is_refused_before_any_request(t: T) {
    let error =
        t.fails("session_create", args![table! {"LockDelay" = "61s"}], Kind::Argument).await;
    assert!(!error.maybe_applied() && error.message().contains("LockDelay"), "{error}");
}

const UNKNOWN: &str = "5d2c1b1e-0000-4000-8000-000000000000";

async fn an_unknown_session_is_absent_and_not_an_error(t: T) {
    assert_eq!(t.value("session_info", args![UNKNOWN]).await, Value::Null);
    assert_eq!(t.value("session_node", args![t.name("none")]).await, list![]);
}

async fn destroying_an_unknown_session_succeeds(t: T) {
    assert_eq!(t.value("session_destroy", args![UNKNOWN]).await, true.into());
}

async fn a_session_ends_with_a_check_that_is_spelt_in_another_way(t: T) {
    if t.is_1_8("ids of checks are told apart by their capitals") {
        return;
    }
    let with = |status: &str| {
        let check = table! {"CheckID" = "Disk", "Status" = status};
        table! {"Node" = t.name("n"), "Address" = "10.0.0.1", "Check" = check}
    };
    t.ok("catalog_register", args![with("passing")]).await;
    let bound = table! {"Node" = t.name("n"), "NodeChecks" = list!["disk"]};
    let id = t.session(bound).await;
    assert_eq!(
        t.value("session_info", args![id.as_str()]).await.get("ID"),
        Some(&id.as_str().into())
    );
    t.ok("catalog_register", args![with("critical")]).await;
    assert_eq!(t.value("session_info", args![id]).await, Value::Null);
    t.deregister(&["n"]).await;
}

async fn renewing_an_unknown_session_is_session_invalid(t: T) {
    t.fails("session_renew", args![UNKNOWN], Kind::SessionInvalid).await;
    t.fails("session_renew", args!["no-uuid"], Kind::SessionInvalid).await;
}

async fn renew_returns_the_session(t: T) {
    let longest = t.session(table! {"TTL" = "86400s"}).await;
    t.ok("session_destroy", args![longest]).await;
    let id = t.session(table! {"TTL" = "10s"}).await;
    let session = t.value("session_renew", args![id.as_str()]).await;
    assert_eq!((text(&session, "ID"), text(&session, "TTL")), (id.as_str(), "10s"));
}

async fn destroy_releases_locks_and_keeps_values(t: T) {
    let session = t.session(table! {}).await;
    for name in ["a", "b"] {
        t.ok("kv_put", args![t.name(name), name; "acquire" = session.as_str()]).await;
    }
    t.ok("session_destroy", args![session]).await;
    let mut indexes = Vec::new();
    for name in ["a", "b"] {
        let answer = t.ok("kv_get", args![t.name(name)]).await;
        let entry = answer.meta.entry.unwrap();
        assert_eq!((answer.value, entry.session, entry.lock_index), (name.into(), None, 1));
        indexes.push(entry.modify_index);
    }
    assert_eq!(indexes[0], indexes[1], "one change frees all locks of a session");
}

async fn behavior_delete_deletes_the_keys(t: T) {
    let session = t.session(table! {"Behavior" = "delete"}).await;
    t.ok("kv_put", args![t.name("k"), "v"; "acquire" = session.as_str()]).await;
    t.ok("session_destroy", args![session]).await;
    assert_eq!(t.value("kv_get", args![t.name("k")]).await, Value::Null);
}

async fn sessions_are_listed_by_node(t: T) {
    let id = t.session(table! {}).await;
    let node = own_node(&t).await;
    assert!(texts(&t.value("session_node", args![node]).await, "ID").contains(&id.as_str()));
    assert!(texts(&t.value("session_list", args![]).await, "ID").contains(&id.as_str()));
}

/// A service with a passing TTL check, and a session bound to it; returns the session's id.
async fn session_of_a_service(t: &T) -> String {
    let check = table! {"TTL" = "1m", "Status" = "passing"};
    let service = table! {"Name" = t.name("s"), "Check" = check};
    t.ok("agent_service_register", args![service]).await;
    let checks = list![table! {"ID" = format!("service:{}", t.name("s"))}];
    t.session(table! {"ServiceChecks" = checks, "LockDelay" = 0}).await
}

async fn is_gone(t: &T, session: &str) -> bool {
    t.value("session_info", args![session]).await == Value::Null
}

async fn a_session_dies_with_its_critical_check(t: T) {
    let session = session_of_a_service(&t).await;
    t.ok("kv_put", args![t.name("k"), "v"; "acquire" = session.as_str()]).await;
    t.ok("agent_check_fail", args![format!("service:{}", t.name("s"))]).await;
    t.until("the session is gone", || is_gone(&t, &session)).await;
    assert_eq!(t.ok("kv_get", args![t.name("k")]).await.meta.entry.unwrap().session, None);
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn a_session_dies_with_its_deregistered_service(t: T) {
    let session = session_of_a_service(&t).await;
    t.ok("agent_service_deregister", args![t.name("s")]).await;
    t.until("the session is gone", || is_gone(&t, &session)).await;
}

async fn a_session_survives_a_warning(t: T) {
    let session = session_of_a_service(&t).await;
    t.ok("agent_check_warn", args![format!("service:{}", t.name("s"))]).await;
    pause(Duration::from_millis(300)).await;
    assert!(!is_gone(&t, &session).await);
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn a_session_cannot_begin_with_a_critical_check(t: T) {
    let service = table! {"Name" = t.name("s"), "Check" = table! {"TTL" = "1m"}};
    t.ok("agent_service_register", args![service]).await;
    let checks = list![table! {"ID" = format!("service:{}", t.name("s"))}];
    let definition = table! {"ServiceChecks" = checks};
    let error = t.fails("session_create", args![definition], Kind::Http).await;
    assert!(error.message().contains("is in critical state"), "{error}");
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn a_session_cannot_begin_with_an_unknown_check(t: T) {
    let definition = table! {"NodeChecks" = list!["serfHealth", "nope"]};
    let error = t.fails("session_create", args![definition], Kind::Http).await;
    assert!(error.message().contains("Missing check 'nope' registration"), "{error}");
}

async fn a_session_list_wakes_on_a_new_session(t: T) {
    let index = t.index("session_list", args![]).await;
    let create = async {
        pause(Duration::from_millis(200)).await;
        t.session(table! {}).await
    };
    let query = t.index("session_list", args![; "index" = index, "wait" = LONG]);
    let start = Instant::now();
    let (woken_at, _) = tokio::join!(query, create);
    assert!(woken_at > index);
    assert!(start.elapsed() < AT_ONCE);
}

async fn an_empty_node_checks_overrides_the_old_list_of_checks(t: T) {
    let checks = table! {"NodeChecks" = list![], "Checks" = list![t.name("unknown")]};
    let id = t.session(checks).await;
    let session = t.value("session_info", args![id.as_str()]).await;
    assert_eq!((session.get("NodeChecks"), session.get("Checks")), (Some(&list![]), None));
    t.ok("session_destroy", args![id]).await;
}
