//! Transactions on keys and on the catalog.

use crate::target::{T, args, behaviours, list, table, text, texts};
use consul_api::error::Kind;
use consul_api::value::Value;

behaviours![
    all_operations_are_applied_at_one_index,
    a_refused_transaction_names_the_operation_and_applied_nothing,
    every_refused_operation_is_named,
    later_operations_see_earlier_ones,
    only_results_of_reads_have_a_value,
    values_are_bytes_both_ways,
    a_read_only_transaction_returns_values,
    deletes_return_no_result,
    lock_returns_the_index_of_the_acquiring_write,
    lock_of_a_held_key_is_refused,
    check_session_guards_a_write,
    check_session_shows_the_key_without_its_value,
    check_not_exists_guards_a_creation,
    delete_cas_with_an_old_index_is_refused,
    an_unknown_session_is_refused,
    an_empty_transaction_succeeds,
    sixty_four_operations_fit_everywhere,
    too_many_operations_are_too_large,
    wrong_operations_are_misuse,
    a_node_its_service_and_its_check_are_registered_together,
    reading_a_missing_catalog_entry_is_refused,
    the_catalog_has_compare_and_set_and_delete,
    a_refused_transaction_leaves_catalog_sessions_and_locks_alone,
    a_check_set_to_critical_in_a_transaction_ends_its_sessions,
    a_transaction_that_writes_has_no_parameters_of_reads,
];

/// One operation on a key.
fn kv(verb: &str, key: String, more: &[(&str, Value)]) -> Value {
    let mut members = vec![("Verb".to_owned(), verb.into()), ("Key".to_owned(), key.into())];
    members.extend(more.iter().map(|(name, value)| (name.to_string(), value.clone())));
    table! {"KV" = Value::Map(members)}
}

async fn all_operations_are_applied_at_one_index(t: T) {
    let set = |name: &str| kv("set", t.name(name), &[("Value", name.into()), ("Flags", 7.into())]);
    let results = t.value("txn", args![list![set("a"), set("b")]]).await;
    let entries: Vec<_> = results.items().iter().map(|result| result.get("KV").unwrap()).collect();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].get("ModifyIndex"), entries[1].get("ModifyIndex"));
    assert_eq!(entries[0].get("Flags"), Some(&7.into()));
    assert_eq!(t.value("kv_get", args![t.name("a")]).await, "a".into());
    assert_eq!(t.value("kv_get", args![t.name("b")]).await, "b".into());
}

async fn a_refused_transaction_names_the_operation_and_applied_nothing(t: T) {
    let operations = list![
        kv("set", t.name("a"), &[("Value", "1".into())]),
        kv("cas", t.name("none"), &[("Value", "2".into()), ("Index", 7.into())]),
    ];
    let error = t.fails("txn", args![operations], Kind::TxnFailed).await;
    assert_eq!(error.refused().len(), 1);
    assert_eq!(error.refused()[0].index, 1);
    assert!(error.refused()[0].what.contains("index is stale"), "{error}");
    assert!(error.message().contains("operation 2"), "{error}");
    assert_eq!(t.value("kv_get", args![t.name("a")]).await, Value::Null);
}

async fn every_refused_operation_is_named(t: T) {
    let operations = list![
        kv("get", t.name("none"), &[]),
        kv("set", t.name("a"), &[("Value", "1".into())]),
        kv("check-index", t.name("none"), &[("Index", 9.into())]),
    ];
    let error = t.fails("txn", args![operations], Kind::TxnFailed).await;
    let places: Vec<_> = error.refused().iter().map(|refused| refused.index).collect();
    assert_eq!(places, [0, 2]);
    assert!(error.refused()[0].what.contains("doesn't exist"), "{error}");
}

async fn later_operations_see_earlier_ones(t: T) {
    let operations = list![
        kv("set", t.name("a"), &[("Value", "1".into())]),
        kv("get", t.name("a"), &[]),
        kv("delete", t.name("a"), &[]),
        kv("check-not-exists", t.name("a"), &[]),
    ];
    let results = t.value("txn", args![operations]).await;
    assert_eq!(results.items().len(), 2);
    assert_eq!(text(results.items()[1].get("KV").unwrap(), "Value"), "1");
}

async fn only_results_of_reads_have_a_value(t: T) {
    t.ok("kv_put", args![t.name("a/1"), ""]).await;
    let operations = list![
        kv("get-tree", t.name("a/"), &[]),
        kv("set", t.name("a/2"), &[("Value", "v".into())]),
        kv("get", t.name("a/2"), &[]),
        kv("get", t.name("a/1"), &[]),
        kv("delete", t.name("a/2"), &[]),
        kv("set", t.name("b"), &[]),
        kv("get-tree", t.name("b"), &[]),
    ];
    let results = t.value("txn", args![operations]).await;
    let value = |result: &Value| result.get("KV").unwrap().get("Value").unwrap().clone();
    let values: Vec<_> = results.items().iter().map(value).collect();
    let (none, empty) = (Value::Null, Value::from(""));
    let wanted = [empty.clone(), none.clone(), "v".into(), empty.clone(), none, empty];
    assert_eq!(values, wanted);
}

async fn values_are_bytes_both_ways(t: T) {
    let all: Vec<u8> = (0..=255).collect();
    let set = kv("set", t.name("a"), &[("Value", all.clone().into())]);
    t.ok("txn", args![list![set]]).await;
    assert_eq!(t.value("kv_get", args![t.name("a")]).await, all.clone().into());
    let results = t.value("txn", args![list![kv("get", t.name("a"), &[])]]).await;
    assert_eq!(results.items()[0].get("KV").unwrap().get("Value"), Some(&all.into()));
}

async fn a_read_only_transaction_returns_values(t: T) {
    for name in ["p/a", "p/b"] {
        t.ok("kv_put", args![t.name(name), name]).await;
    }
    t.ok("kv_put", args![t.name("empty"), ""]).await;
    let operations = list![kv("get-tree", t.name("p/"), &[]), kv("get", t.name("empty"), &[])];
    let results = t.value("txn", args![operations]).await;
    let entries =
        Value::List(results.items().iter().map(|r| r.get("KV").unwrap().clone()).collect());
    assert_eq!(texts(&entries, "Value"), ["p/a", "p/b", ""]);
}

async fn deletes_return_no_result(t: T) {
    t.ok("kv_put", args![t.name("a"), "1"]).await;
    let operations = list![kv("delete", t.name("a"), &[]), kv("delete-tree", t.name(""), &[])];
    assert_eq!(t.value("txn", args![operations]).await, list![]);
    assert_eq!(t.value("kv_get", args![t.name("a")]).await, Value::Null);
}

async fn lock_returns_the_index_of_the_acquiring_write(t: T) {
    let session = t.session(table! {}).await;
    let lock = |value: &str| {
        kv("lock", t.name("l"), &[("Value", value.into()), ("Session", session.as_str().into())])
    };
    let results = t.value("txn", args![list![lock("me")]]).await;
    let entry = results.items()[0].get("KV").unwrap();
    assert_eq!(text(entry, "Session"), session);
    let stored = t.ok("kv_get", args![t.name("l")]).await.meta.entry.unwrap();
    assert_eq!(entry.get("ModifyIndex").unwrap().as_u64(), Some(stored.modify_index));
}

async fn lock_of_a_held_key_is_refused(t: T) {
    let (first, second) = (t.session(table! {}).await, t.session(table! {}).await);
    let lock = |session: &str| kv("lock", t.name("l"), &[("Session", session.into())]);
    t.ok("txn", args![list![lock(&first)]]).await;
    let error = t.fails("txn", args![list![lock(&second)]], Kind::TxnFailed).await;
    assert!(error.message().contains("lock is already held"), "{error}");
    let unlock = kv("unlock", t.name("l"), &[("Session", second.as_str().into())]);
    let error = t.fails("txn", args![list![unlock]], Kind::TxnFailed).await;
    assert!(error.message().contains("lock isn't held, or is held by another"), "{error}");
}

async fn check_session_guards_a_write(t: T) {
    let session = t.session(table! {}).await;
    t.ok("kv_put", args![t.name("l"), ""; "acquire" = session.as_str()]).await;
    let guarded = |session: &str, value: &str| {
        list![
            kv("check-session", t.name("l"), &[("Session", session.into())]),
            kv("set", t.name("data"), &[("Value", value.into())]),
        ]
    };
    t.ok("txn", args![guarded(&session, "mine")]).await;
    let other = t.session(table! {}).await;
    let error = t.fails("txn", args![guarded(&other, "not mine")], Kind::TxnFailed).await;
    assert!(error.message().contains("failed session check"), "{error}");
    assert_eq!(t.value("kv_get", args![t.name("data")]).await, "mine".into());
}

async fn check_session_shows_the_key_without_its_value(t: T) {
    let session = t.session(table! {}).await;
    t.ok("kv_put", args![t.name("l"), "value"; "acquire" = session.as_str()]).await;
    let check = kv("check-session", t.name("l"), &[("Session", session.as_str().into())]);
    let results = t.value("txn", args![list![check]; "consistent" = true]).await;
    let entry = results.items()[0].get("KV").unwrap();
    assert_eq!(
        (text(entry, "Key"), text(entry, "Session")),
        (t.name("l").as_str(), session.as_str())
    );
    assert_eq!(entry.get("Value"), Some(&Value::Null));
    let stored = t.ok("kv_get", args![t.name("l")]).await.meta.entry.unwrap();
    assert_eq!(entry.get("ModifyIndex").unwrap().as_u64(), Some(stored.modify_index));
}

async fn check_not_exists_guards_a_creation(t: T) {
    let create = || {
        list![
            kv("check-not-exists", t.name("a"), &[]),
            kv("set", t.name("a"), &[("Value", "1".into())]),
        ]
    };
    t.ok("txn", args![create()]).await;
    let error = t.fails("txn", args![create()], Kind::TxnFailed).await;
    assert!(error.message().contains("exists"), "{error}");
}

async fn delete_cas_with_an_old_index_is_refused(t: T) {
    t.ok("kv_put", args![t.name("a"), "1"]).await;
    let delete = kv("delete-cas", t.name("a"), &[("Index", 1.into())]);
    let error = t.fails("txn", args![list![delete]], Kind::TxnFailed).await;
    assert!(error.message().contains("failed to delete key"), "{error}");
}

async fn an_unknown_session_is_refused(t: T) {
    let never = "00000000-0000-0000-0000-000000000000";
    let lock = kv("lock", t.name("l"), &[("Session", never.into())]);
    let error = t.fails("txn", args![list![lock]], Kind::TxnFailed).await;
    assert!(error.message().contains("invalid session"), "{error}");
}

async fn an_empty_transaction_succeeds(t: T) {
    assert_eq!(t.value("txn", args![list![]]).await, list![]);
}

fn many(t: &T, count: usize) -> Value {
    let set = |n: usize| kv("set", t.name(&n.to_string()), &[("Value", "v".into())]);
    Value::List((0..count).map(set).collect())
}

async fn sixty_four_operations_fit_everywhere(t: T) {
    assert_eq!(t.value("txn", args![many(&t, 64)]).await.items().len(), 64);
}

async fn too_many_operations_are_too_large(t: T) {
    let most = if t.is_1_8("a transaction holds 64 operations, not 128") {
        64
    } else {
        consul_api::api::txn::MAX_OPERATIONS
    };
    let error = t.fails("txn", args![many(&t, most + 1)], Kind::TooLarge).await;
    assert!(error.message().contains("too many operations"), "{error}");
}

async fn wrong_operations_are_misuse(t: T) {
    for operations in [
        list![table! {"KV" = table! {"Vreb" = "set"}}],
        list![table! {"KV" = "set"}],
        list!["set"],
        table! {"KV" = table! {}},
    ] {
        let error = t.fails("txn", args![operations], Kind::Argument).await;
        assert!(error.is_misuse() && error.message().contains("operations"), "{error}");
    }
    let error = t.fails("txn", args![list![kv("put", t.name("a"), &[])]], Kind::Argument).await;
    assert!(!error.is_misuse() && error.message().contains("set, cas, lock"), "{error}");
}

fn node(t: &T, verb: &str, index: u64) -> Value {
    let node = table! {"Node" = t.name("n"), "Address" = "10.9.9.9", "ModifyIndex" = index};
    table! {"Node" = table! {"Verb" = verb, "Node" = node}}
}

fn service(t: &T, verb: &str, index: u64) -> Value {
    let service = table! {
        "ID" = t.name("1"), "Service" = t.name("s"), "Port" = 80, "ModifyIndex" = index,
    };
    table! {"Service" = table! {"Verb" = verb, "Node" = t.name("n"), "Service" = service}}
}

fn check(t: &T, verb: &str, status: &str, index: u64) -> Value {
    let check = table! {
        "Node" = t.name("n"), "CheckID" = t.name("c"), "Name" = "alive", "Status" = status,
        "ServiceID" = t.name("1"), "ModifyIndex" = index,
    };
    table! {"Check" = table! {"Verb" = verb, "Check" = check}}
}

async fn register(t: &T) -> Value {
    let operations = list![node(t, "set", 0), service(t, "set", 0), check(t, "set", "passing", 0)];
    t.value("txn", args![operations]).await
}

async fn deregister(t: &T) {
    t.ok("txn", args![list![node(t, "delete", 0)]]).await;
}

async fn a_node_its_service_and_its_check_are_registered_together(t: T) {
    let results = register(&t).await;
    let [node, instance, check] = results.items() else { panic!("{results:?}") };
    let node = node.get("Node").unwrap();
    assert_eq!((text(node, "Node"), text(node, "Address")), (&*t.name("n"), "10.9.9.9"));
    let instance = instance.get("Service").unwrap();
    assert_eq!((text(instance, "ID"), text(instance, "Service")), (&*t.name("1"), &*t.name("s")));
    assert_eq!(instance.get("Tags"), Some(&Value::Null));
    assert_eq!(instance.get("Weights"), Some(&table! {"Passing" = 1, "Warning" = 1}));
    let check = check.get("Check").unwrap();
    assert_eq!((text(check, "Status"), text(check, "ServiceName")), ("passing", &*t.name("s")));
    assert_eq!(check.get("ServiceTags"), Some(&Value::Null));
    assert_eq!(check.get("ModifyIndex"), node.get("ModifyIndex"));
    let found = t.value("catalog_service", args![t.name("s")]).await;
    assert_eq!(found.items()[0].get("ServiceTags"), Some(&list![]));
    let reads = list![node_get(&t), service(&t, "get", 0), check_get(&t)];
    let read = t.value("txn", args![reads]).await;
    assert_eq!(read.items().len(), 3);
    deregister(&t).await;
    assert_eq!(t.value("catalog_service", args![t.name("s")]).await, list![]);
}

fn node_get(t: &T) -> Value {
    table! {"Node" = table! {"Verb" = "get", "Node" = table! {"Node" = t.name("n")}}}
}

fn check_get(t: &T) -> Value {
    let check = table! {"Node" = t.name("n"), "CheckID" = t.name("c")};
    table! {"Check" = table! {"Verb" = "get", "Check" = check}}
}

async fn reading_a_missing_catalog_entry_is_refused(t: T) {
    let reads = list![node_get(&t), service(&t, "get", 0), check_get(&t)];
    let error = t.fails("txn", args![reads], Kind::TxnFailed).await;
    let (n, s, c) = (t.name("n"), t.name("1"), t.name("c"));
    let why: Vec<_> = error.refused().iter().map(|refused| refused.what.as_str()).collect();
    assert_eq!(
        why,
        [
            format!("node \"{n}\" doesn't exist"),
            format!("service \"{s}\" on node \"{n}\" doesn't exist"),
            format!("check \"{c}\" on node \"{n}\" doesn't exist"),
        ]
    );
}

async fn the_catalog_has_compare_and_set_and_delete(t: T) {
    let results = register(&t).await;
    let index = results.items()[0].get("Node").unwrap().get("ModifyIndex").unwrap();
    let index = index.as_u64().unwrap();
    for verb in ["cas", "delete-cas"] {
        let stale = list![node(&t, verb, 1), service(&t, verb, 1), check(&t, verb, "passing", 1)];
        let error = t.fails("txn", args![stale], Kind::TxnFailed).await;
        assert_eq!(error.refused().len(), 3);
        assert!(error.refused().iter().all(|why| why.what.contains("index is stale")), "{error}");
    }
    let created = t.fails("txn", args![list![node(&t, "cas", 0)]], Kind::TxnFailed).await;
    assert!(created.message().contains("index is stale"), "{created}");
    t.ok("txn", args![list![check(&t, "cas", "warning", index)]]).await;
    t.ok("txn", args![list![service(&t, "delete-cas", index)]]).await;
    assert_eq!(t.value("health_node", args![t.name("n")]).await, list![]);
    t.ok("txn", args![list![node(&t, "delete-cas", index)]]).await;
    assert_eq!(t.value("catalog_node", args![t.name("n")]).await, Value::Null);
}

/// A session on the node that ends with the check, and a key that it has locked.
async fn locked(t: &T) -> String {
    let session = t
        .session(table! {
            "Node" = t.name("n"), "NodeChecks" = list![t.name("c")], "LockDelay" = 0,
        })
        .await;
    t.ok("kv_put", args![t.name("l"), ""; "acquire" = session.as_str()]).await;
    session
}

async fn a_refused_transaction_leaves_catalog_sessions_and_locks_alone(t: T) {
    register(&t).await;
    let session = locked(&t).await;
    let index = t.index("kv_get", args![t.name("l")]).await;
    let refused = list![node(&t, "delete", 0), kv("cas", t.name("l"), &[("Index", 1.into())]),];
    t.fails("txn", args![refused], Kind::TxnFailed).await;
    assert_eq!(t.value("health_service", args![t.name("s")]).await.items().len(), 1);
    let info = t.value("session_info", args![session.as_str()]).await;
    assert_eq!(text(&info, "ID"), session);
    let lock = t.ok("kv_get", args![t.name("l")]).await;
    assert_eq!(lock.meta.index, Some(index));
    deregister(&t).await;
}

async fn a_check_set_to_critical_in_a_transaction_ends_its_sessions(t: T) {
    register(&t).await;
    let session = locked(&t).await;
    t.ok("txn", args![list![check(&t, "set", "critical", 0)]]).await;
    assert_eq!(t.value("session_info", args![session.as_str()]).await, Value::Null);
    deregister(&t).await;
}

async fn a_transaction_that_writes_has_no_parameters_of_reads(t: T) {
    if t.is_1_8("parameters of a transaction are refused") {
        return;
    }
    let write = format!(r#"[{{"KV":{{"Verb":"set","Key":"{}","Value":"MQ=="}}}}]"#, t.name("k"));
    let read = format!(r#"[{{"KV":{{"Verb":"get-or-empty","Key":"{}"}}}}]"#, t.name("k"));
    for (query, of_read) in [
        ("ns=default", 200),
        ("partition=default", 200),
        ("wait=x", 400),
        ("index=x", 400),
        ("stale&consistent", 400),
    ] {
        for (body, status) in [(&write, 200), (&read, of_read)] {
            let answer = t.raw("PUT", &format!("/v1/txn?{query}"), body).await;
            assert_eq!(answer.status, status, "{query} {body}: {}", answer.body);
        }
    }
    let body =
        format!(r#"[{{"KV":{{"Verb":"get-or-empty","Key":"{}","Index":7}}}}]"#, t.name("none"));
    let answer = t.raw("PUT", "/v1/txn", &body).await;
    assert!(answer.body.replace(' ', "").contains("\"ModifyIndex\":7"), "{}", answer.body);
}
