//! Transactions on keys.

use crate::target::{T, args, behaviours, list, table, text, texts};
use consul_ffi::error::Kind;
use consul_ffi::wire::value::Value;

behaviours![
    all_operations_are_applied_at_one_index,
    a_refused_transaction_names_the_operation_and_applied_nothing,
    every_refused_operation_is_named,
    later_operations_see_earlier_ones,
    values_are_bytes_both_ways,
    a_read_only_transaction_gives_values,
    deletes_give_no_result,
    lock_gives_the_index_of_the_acquiring_write,
    lock_of_a_held_key_is_refused,
    check_session_guards_a_write,
    check_not_exists_guards_a_creation,
    delete_cas_with_an_old_index_is_refused,
    an_unknown_session_is_refused,
    no_operations_are_no_error,
    sixty_four_operations_fit_everywhere,
    too_many_operations_are_too_large,
    wrong_operations_are_misuse,
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

async fn values_are_bytes_both_ways(t: T) {
    let all: Vec<u8> = (0..=255).collect();
    let set = kv("set", t.name("a"), &[("Value", all.clone().into())]);
    t.ok("txn", args![list![set]]).await;
    assert_eq!(t.value("kv_get", args![t.name("a")]).await, all.clone().into());
    let results = t.value("txn", args![list![kv("get", t.name("a"), &[])]]).await;
    assert_eq!(results.items()[0].get("KV").unwrap().get("Value"), Some(&all.into()));
}

async fn a_read_only_transaction_gives_values(t: T) {
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

async fn deletes_give_no_result(t: T) {
    t.ok("kv_put", args![t.name("a"), "1"]).await;
    let operations = list![kv("delete", t.name("a"), &[]), kv("delete-tree", t.name(""), &[])];
    assert_eq!(t.value("txn", args![operations]).await, list![]);
    assert_eq!(t.value("kv_get", args![t.name("a")]).await, Value::Null);
}

async fn lock_gives_the_index_of_the_acquiring_write(t: T) {
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

async fn no_operations_are_no_error(t: T) {
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
        consul_ffi::wire::txn::MAX_OPERATIONS
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
