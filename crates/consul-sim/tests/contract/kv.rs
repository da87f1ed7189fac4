//! Keys and values.

use crate::support::AT_ONCE;
use crate::target::{LONG, T, args, behaviours, list, pause, table, text, texts};
use consul_api::error::Kind;
use consul_api::value::Value;
use std::time::{Duration, Instant};

behaviours![
    a_value_is_kept_byte_for_byte,
    the_empty_value_is_not_an_absent_one,
    a_missing_key_is_absent_and_not_an_error,
    numbers_booleans_and_tables_are_stored_as_text,
    flags_up_to_the_largest_are_exact,
    a_put_without_flags_sets_them_to_zero,
    keys_with_special_characters_are_stored_under_their_own_name,
    a_trailing_slash_makes_another_key,
    keys_are_case_sensitive,
    dirty_keys_are_refused_before_any_request,
    a_plain_delete_leaves_what_only_begins_with_the_key,
    deleting_a_missing_key_succeeds,
    a_tree_is_a_plain_prefix,
    list_returns_every_entry_under_a_prefix_in_order,
    a_changed_key_keeps_the_index_of_its_creation,
    list_of_an_unused_prefix_is_empty,
    keys_returns_names_only,
    keys_with_a_separator_are_cut_after_it,
    cas_zero_creates_once,
    cas_with_the_present_index_writes,
    cas_with_an_old_index_is_a_conflict,
    cas_with_an_index_on_a_missing_key_is_a_conflict,
    delete_cas_needs_the_present_index,
    the_same_value_again_moves_no_index,
    another_flag_moves_the_index,
    a_missing_keys_index_is_a_reads_index,
    the_index_of_a_deleted_key_keeps_growing,
    a_blocking_query_wakes_on_a_change,
    a_blocking_query_wakes_on_a_delete,
    a_blocking_query_returns_at_its_wait,
    a_blocking_query_ignores_unrelated_keys,
    a_blocking_query_on_a_prefix_wakes_on_a_new_key,
    a_blocking_query_with_an_old_index_answers_at_once,
    a_blocking_query_with_a_future_index_waits_and_returns_the_real_one,
    acquire_takes_a_free_key_and_writes_it,
    acquire_by_another_session_is_a_conflict,
    acquire_again_by_the_holder_keeps_the_lock_index,
    acquire_by_a_dead_session_is_session_invalid,
    release_by_the_holder_frees_the_key,
    release_by_another_session_is_a_conflict,
    a_put_over_a_held_lock_keeps_the_session,
    a_delete_frees_a_lock,
    a_value_of_the_largest_size_fits,
    a_larger_value_is_too_large,
    stale_and_consistent_reads_return_the_value,
];

fn bytes(value: &Value) -> &[u8] {
    match value {
        Value::Bytes(bytes) => bytes,
        other => panic!("not bytes: {other:?}"),
    }
}

async fn a_value_is_kept_byte_for_byte(t: T) {
    let all: Vec<u8> = (0..=255).collect();
    t.ok("kv_put", args![t.name("k"), all.clone()]).await;
    assert_eq!(bytes(&t.value("kv_get", args![t.name("k")]).await), all);
    let entries = t.value("kv_list", args![t.name("k")]).await;
    assert_eq!(bytes(entries.items()[0].get("Value").unwrap()), all);
}

async fn the_empty_value_is_not_an_absent_one(t: T) {
    t.ok("kv_put", args![t.name("k"), ""]).await;
    assert_eq!(t.value("kv_get", args![t.name("k")]).await, "".into());
    let entries = t.value("kv_list", args![t.name("k")]).await;
    assert_eq!(text(&entries.items()[0], "Value"), "");
}

async fn a_missing_key_is_absent_and_not_an_error(t: T) {
    let answer = t.ok("kv_get", args![t.name("none")]).await;
    assert_eq!(answer.value, Value::Null);
    assert!(answer.meta.index.is_some(), "a missing key can be waited for");
    assert_eq!(answer.meta.entry, None);
}

async fn numbers_booleans_and_tables_are_stored_as_text(t: T) {
    for (value, stored) in [
        (Value::Int(42), "42"),
        (Value::Float(1.5), "1.5"),
        (Value::Bool(true), "true"),
        (list![1, "a"], r#"[1,"a"]"#),
        (table! {"price" = 150.25, "symbol" = "AAPL"}, r#"{"price":150.25,"symbol":"AAPL"}"#),
    ] {
        t.ok("kv_put", args![t.name("k"), value]).await;
        assert_eq!(t.value("kv_get", args![t.name("k")]).await, stored.into());
    }
}

async fn flags_up_to_the_largest_are_exact(t: T) {
    for flags in [0, 1, 1 << 53, (1 << 53) + 1, 3_304_740_253_564_472_344, u64::MAX] {
        t.ok("kv_put", args![t.name("k"), "v"; "flags" = flags]).await;
        let entry = t.ok("kv_get", args![t.name("k")]).await.meta.entry.unwrap();
        assert_eq!(entry.flags, flags);
        let entries = t.value("kv_list", args![t.name("k")]).await;
        assert_eq!(entries.items()[0].get("Flags").unwrap().as_u64(), Some(flags));
    }
}

async fn a_put_without_flags_sets_them_to_zero(t: T) {
    t.ok("kv_put", args![t.name("k"), "v"; "flags" = 7]).await;
    t.ok("kv_put", args![t.name("k"), "v"]).await;
    assert_eq!(t.ok("kv_get", args![t.name("k")]).await.meta.entry.unwrap().flags, 0);
}

async fn keys_with_special_characters_are_stored_under_their_own_name(t: T) {
    let names = [
        "a b",
        " lead",
        "é",
        "日本",
        "q?x=1",
        "h#1",
        "100%",
        "%2F",
        "a+b",
        "a&b=c",
        "a:b",
        "a;b",
        "a,b",
        "[x]",
        "{y}",
        "\"quoted\"",
        "back\\slash",
        "~tilde",
        "a.b",
        "..a",
        "a..",
        "*",
        "'",
    ];
    for name in names {
        let key = t.name(&format!("dir/{name}"));
        t.ok("kv_put", args![key.as_str(), name]).await;
        assert_eq!(t.value("kv_get", args![key.as_str()]).await, name.into(), "{name}");
    }
    let entries = t.value("kv_list", args![t.name("dir/")]).await;
    assert_eq!(entries.items().len(), names.len());
    for entry in entries.items() {
        assert_eq!(text(entry, "Key"), t.name(&format!("dir/{}", text(entry, "Value"))));
    }
}

async fn a_trailing_slash_makes_another_key(t: T) {
    t.ok("kv_put", args![t.name("k"), "file"]).await;
    t.ok("kv_put", args![t.name("k/"), "folder"]).await;
    assert_eq!(t.value("kv_get", args![t.name("k")]).await, "file".into());
    assert_eq!(t.value("kv_get", args![t.name("k/")]).await, "folder".into());
}

async fn keys_are_case_sensitive(t: T) {
    t.ok("kv_put", args![t.name("k"), "small"]).await;
    assert_eq!(t.value("kv_get", args![t.name("K")]).await, Value::Null);
}

async fn dirty_keys_are_refused_before_any_request(t: T) {
    for key in ["/k", "a//b", "a/../b", "./a", "..", "a/.", "a\nb", "a\0b"] {
        let error = t.fails("kv_put", args![key, "v"], Kind::Argument).await;
        assert!(!error.maybe_applied() && !error.is_misuse(), "{key}");
        assert!(error.message().contains("key"), "{error}");
    }
    assert!(t.fails("kv_put", args!["", "v"], Kind::Argument).await.message().contains("empty"));
    t.fails("kv_get", args![b"\xff".to_vec()], Kind::Argument).await;
}

async fn a_plain_delete_leaves_what_only_begins_with_the_key(t: T) {
    for name in ["t", "t1", "t/2"] {
        t.ok("kv_put", args![t.name(name), "v"]).await;
    }
    t.ok("kv_delete", args![t.name("t")]).await;
    assert_eq!(t.value("kv_get", args![t.name("t")]).await, Value::Null);
    assert_eq!(t.value("kv_get", args![t.name("t1")]).await, "v".into());
    assert_eq!(t.value("kv_get", args![t.name("t/2")]).await, "v".into());
}

async fn deleting_a_missing_key_succeeds(t: T) {
    assert_eq!(t.value("kv_delete", args![t.name("none")]).await, true.into());
    assert_eq!(t.value("kv_delete_tree", args![t.name("none")]).await, true.into());
}

async fn a_tree_is_a_plain_prefix(t: T) {
    for name in ["t", "t2", "t/a", "u"] {
        t.ok("kv_put", args![t.name(name), "v"]).await;
    }
    t.ok("kv_delete_tree", args![t.name("t")]).await;
    let left = t.value("kv_keys", args![t.name("")]).await;
    assert_eq!(left, list![t.name("u")]);
}

async fn list_returns_every_entry_under_a_prefix_in_order(t: T) {
    for name in ["b", "a/2", "a/10", "a", "B"] {
        t.ok("kv_put", args![t.name(name), name; "flags" = 3]).await;
    }
    let entries = t.value("kv_list", args![t.name("")]).await;
    assert_eq!(texts(&entries, "Value"), ["B", "a", "a/10", "a/2", "b"]);
    let first = &entries.items()[0];
    assert_eq!(text(first, "Key"), t.name("B"));
    assert_eq!(first.get("Flags").unwrap().as_u64(), Some(3));
    assert_eq!(first.get("LockIndex").unwrap().as_u64(), Some(0));
    assert_eq!(first.get("CreateIndex"), first.get("ModifyIndex"));
}

async fn a_changed_key_keeps_the_index_of_its_creation(t: T) {
    let indexes = async || {
        let entry = t.value("kv_list", args![t.name("k")]).await.items()[0].clone();
        ["CreateIndex", "ModifyIndex"].map(|name| entry.get(name).unwrap().as_u64().unwrap())
    };
    t.ok("kv_put", args![t.name("k"), "1"]).await;
    let [created, _] = indexes().await;
    t.ok("kv_put", args![t.name("k"), "2"]).await;
    let [still, modified] = indexes().await;
    assert!(still == created && modified > created, "{created}, then {still} and {modified}");
    t.ok("kv_delete", args![t.name("k")]).await;
    t.ok("kv_put", args![t.name("k"), "3"]).await;
    let [again, _] = indexes().await;
    assert!(again > modified, "{again} after {modified}");
}

async fn list_of_an_unused_prefix_is_empty(t: T) {
    assert_eq!(t.value("kv_list", args![t.name("none")]).await, list![]);
    assert_eq!(t.value("kv_keys", args![t.name("none")]).await, list![]);
}

async fn keys_returns_names_only(t: T) {
    for name in ["a", "b/c"] {
        t.ok("kv_put", args![t.name(name), "v"]).await;
    }
    let keys = t.value("kv_keys", args![t.name("")]).await;
    assert_eq!(keys, list![t.name("a"), t.name("b/c")]);
}

async fn keys_with_a_separator_are_cut_after_it(t: T) {
    for name in ["/a", "/b/1", "/b/2", "/b/c/3", "/d/4"] {
        t.ok("kv_put", args![t.name(name), "v"]).await;
    }
    let keys = t.value("kv_keys", args![t.name("/"); "separator" = "/"]).await;
    assert_eq!(keys, list![t.name("/a"), t.name("/b/"), t.name("/d/")]);
}

async fn cas_zero_creates_once(t: T) {
    t.ok("kv_put", args![t.name("k"), "1"; "cas" = 0]).await;
    let error = t.fails("kv_put", args![t.name("k"), "2"; "cas" = 0], Kind::Conflict).await;
    assert!(!error.is_retryable());
    assert_eq!(t.value("kv_get", args![t.name("k")]).await, "1".into());
}

async fn cas_with_the_present_index_writes(t: T) {
    t.ok("kv_put", args![t.name("k"), "1"]).await;
    let index = t.ok("kv_get", args![t.name("k")]).await.meta.entry.unwrap().modify_index;
    t.ok("kv_put", args![t.name("k"), "2"; "cas" = index]).await;
    assert_eq!(t.value("kv_get", args![t.name("k")]).await, "2".into());
}

async fn cas_with_an_old_index_is_a_conflict(t: T) {
    t.ok("kv_put", args![t.name("k"), "1"]).await;
    let index = t.ok("kv_get", args![t.name("k")]).await.meta.entry.unwrap().modify_index;
    t.ok("kv_put", args![t.name("k"), "2"]).await;
    t.fails("kv_put", args![t.name("k"), "3"; "cas" = index], Kind::Conflict).await;
    assert_eq!(t.value("kv_get", args![t.name("k")]).await, "2".into());
}

async fn cas_with_an_index_on_a_missing_key_is_a_conflict(t: T) {
    t.fails("kv_put", args![t.name("none"), "1"; "cas" = 5], Kind::Conflict).await;
}

async fn delete_cas_needs_the_present_index(t: T) {
    t.ok("kv_put", args![t.name("k"), "1"]).await;
    let index = t.ok("kv_get", args![t.name("k")]).await.meta.entry.unwrap().modify_index;
    t.fails("kv_delete", args![t.name("k"); "cas" = index + 1], Kind::Conflict).await;
    t.fails("kv_delete", args![t.name("k"); "cas" = 0], Kind::Conflict).await;
    t.ok("kv_delete", args![t.name("k"); "cas" = index]).await;
    assert_eq!(t.value("kv_get", args![t.name("k")]).await, Value::Null);
}

async fn the_same_value_again_moves_no_index(t: T) {
    t.ok("kv_put", args![t.name("k"), "same"; "flags" = 1]).await;
    let before = t.index("kv_get", args![t.name("k")]).await;
    t.ok("kv_put", args![t.name("k"), "same"; "flags" = 1]).await;
    t.ok("kv_put", args![t.name("k"), "same"; "flags" = 1, "cas" = before]).await;
    assert_eq!(t.index("kv_get", args![t.name("k")]).await, before);
    assert_eq!(t.index("kv_list", args![t.name("k")]).await, before);
}

async fn another_flag_moves_the_index(t: T) {
    t.ok("kv_put", args![t.name("k"), "same"; "flags" = 1]).await;
    let before = t.index("kv_get", args![t.name("k")]).await;
    t.ok("kv_put", args![t.name("k"), "same"; "flags" = 2]).await;
    assert!(t.index("kv_get", args![t.name("k")]).await > before);
}

async fn a_missing_keys_index_is_a_reads_index(t: T) {
    t.ok("kv_put", args![t.name("k"), "v"]).await;
    let present = t.index("kv_get", args![t.name("k")]).await;
    assert!(t.index("kv_get", args![t.name("none")]).await >= present);
}

async fn the_index_of_a_deleted_key_keeps_growing(t: T) {
    t.ok("kv_put", args![t.name("k"), "v"]).await;
    let before = t.index("kv_get", args![t.name("k")]).await;
    t.ok("kv_delete", args![t.name("k")]).await;
    assert!(t.index("kv_get", args![t.name("k")]).await > before);
    assert!(t.index("kv_list", args![t.name("k")]).await > before);
}

/// Starts a blocking query, does something meanwhile, and returns the answer with its duration.
async fn while_waiting(
    t: &T,
    method: &str,
    name: &str,
    index: u64,
    wait: &str,
    something: impl Future<Output = ()>,
) -> (consul_api::response::Answer, Duration) {
    let start = Instant::now();
    let query = async {
        let answer = t.ok(method, args![t.name(name); "index" = index, "wait" = wait]).await;
        (answer, start.elapsed())
    };
    let meanwhile = async {
        pause(Duration::from_millis(200)).await;
        something.await;
    };
    tokio::join!(query, meanwhile).0
}

async fn a_blocking_query_wakes_on_a_change(t: T) {
    t.ok("kv_put", args![t.name("k"), "1"]).await;
    let index = t.index("kv_get", args![t.name("k")]).await;
    let change = async { drop(t.ok("kv_put", args![t.name("k"), "2"]).await) };
    let (answer, time) = while_waiting(&t, "kv_get", "k", index, LONG, change).await;
    assert_eq!(answer.value, "2".into());
    assert!(answer.meta.index.unwrap() > index);
    assert!(time < AT_ONCE, "woke after {time:?}");
}

async fn a_blocking_query_wakes_on_a_delete(t: T) {
    t.ok("kv_put", args![t.name("k"), "1"]).await;
    let index = t.index("kv_get", args![t.name("k")]).await;
    let change = async { drop(t.ok("kv_delete", args![t.name("k")]).await) };
    let (answer, time) = while_waiting(&t, "kv_get", "k", index, LONG, change).await;
    assert_eq!(answer.value, Value::Null);
    assert!(time < AT_ONCE, "woke after {time:?}");
}

async fn a_blocking_query_returns_at_its_wait(t: T) {
    t.ok("kv_put", args![t.name("k"), "1"]).await;
    let index = t.index("kv_get", args![t.name("k")]).await;
    let start = Instant::now();
    let answer = t.ok("kv_get", args![t.name("k"); "index" = index, "wait" = "800ms"]).await;
    let time = start.elapsed();
    assert_eq!((answer.value, answer.meta.index), ("1".into(), Some(index)));
    // At least the wait, and up to a sixteenth more; the rest is for a busy machine.
    assert!(time >= Duration::from_millis(799), "{time:?}");
    assert!(time < AT_ONCE, "{time:?}");
}

async fn a_blocking_query_ignores_unrelated_keys(t: T) {
    t.ok("kv_put", args![t.name("k"), "1"]).await;
    let index = t.index("kv_get", args![t.name("k")]).await;
    let change = async {
        for name in ["k1", "k/below", "other"] {
            t.ok("kv_put", args![t.name(name), "2"]).await;
        }
        t.ok("kv_put", args![t.name("k"), "1"]).await;
    };
    let (answer, time) = while_waiting(&t, "kv_get", "k", index, "3s", change).await;
    assert_eq!((answer.value, answer.meta.index), ("1".into(), Some(index)));
    assert!(time >= Duration::from_millis(2999), "woke after {time:?}");
}

async fn a_blocking_query_on_a_prefix_wakes_on_a_new_key(t: T) {
    t.ok("kv_put", args![t.name("p/1"), "1"]).await;
    let index = t.index("kv_list", args![t.name("p/")]).await;
    let change = async {
        t.ok("kv_put", args![t.name("q/1"), "1"]).await;
        pause(Duration::from_millis(300)).await;
        t.ok("kv_put", args![t.name("p/2"), "2"]).await;
    };
    let (answer, time) = while_waiting(&t, "kv_list", "p/", index, LONG, change).await;
    assert_eq!(texts(&answer.value, "Value"), ["1", "2"]);
    assert!(time >= Duration::from_millis(490) && time < AT_ONCE, "{time:?}");
}

async fn a_blocking_query_with_an_old_index_answers_at_once(t: T) {
    t.ok("kv_put", args![t.name("k"), "1"]).await;
    let index = t.index("kv_get", args![t.name("k")]).await;
    t.ok("kv_put", args![t.name("k"), "2"]).await;
    let start = Instant::now();
    let args = args![t.name("k"); "index" = index, "wait" = LONG];
    assert_eq!(t.value("kv_get", args).await, "2".into());
    assert!(start.elapsed() < AT_ONCE);
}

async fn a_blocking_query_with_a_future_index_waits_and_returns_the_real_one(t: T) {
    t.ok("kv_put", args![t.name("k"), "1"]).await;
    let index = t.index("kv_get", args![t.name("k")]).await;
    let start = Instant::now();
    let args = args![t.name("k"); "index" = u64::MAX / 2, "wait" = "500ms"];
    assert_eq!(t.index("kv_get", args).await, index);
    assert!(start.elapsed() >= Duration::from_millis(499));
}

async fn acquire_takes_a_free_key_and_writes_it(t: T) {
    let session = t.session(table! {}).await;
    t.ok("kv_put", args![t.name("k"), "mine"; "acquire" = session.as_str(), "flags" = 5]).await;
    let answer = t.ok("kv_get", args![t.name("k")]).await;
    let entry = answer.meta.entry.unwrap();
    assert_eq!(answer.value, "mine".into());
    assert_eq!((entry.session, entry.lock_index, entry.flags), (Some(session), 1, 5));
}

async fn acquire_by_another_session_is_a_conflict(t: T) {
    let (first, second) = (t.session(table! {}).await, t.session(table! {}).await);
    t.ok("kv_put", args![t.name("k"), "first"; "acquire" = first]).await;
    t.fails("kv_put", args![t.name("k"), "second"; "acquire" = second], Kind::Conflict).await;
    assert_eq!(t.value("kv_get", args![t.name("k")]).await, "first".into());
}

async fn acquire_again_by_the_holder_keeps_the_lock_index(t: T) {
    let session = t.session(table! {}).await;
    for value in ["1", "2"] {
        t.ok("kv_put", args![t.name("k"), value; "acquire" = session.as_str()]).await;
    }
    let answer = t.ok("kv_get", args![t.name("k")]).await;
    assert_eq!((answer.value, answer.meta.entry.unwrap().lock_index), ("2".into(), 1));
}

async fn acquire_by_a_dead_session_is_session_invalid(t: T) {
    let session = t.session(table! {}).await;
    t.ok("session_destroy", args![session.as_str()]).await;
    t.fails("kv_put", args![t.name("k"), "v"; "acquire" = session], Kind::SessionInvalid).await;
    let never = "00000000-0000-0000-0000-000000000000";
    t.fails("kv_put", args![t.name("k"), "v"; "acquire" = never], Kind::SessionInvalid).await;
    let garbage = "zz";
    t.fails("kv_put", args![t.name("k"), "v"; "acquire" = garbage], Kind::SessionInvalid).await;
    assert_eq!(t.value("kv_get", args![t.name("k")]).await, Value::Null);
}

async fn release_by_the_holder_frees_the_key(t: T) {
    let (first, second) = (t.session(table! {}).await, t.session(table! {}).await);
    t.ok("kv_put", args![t.name("k"), "1"; "acquire" = first.as_str()]).await;
    t.ok("kv_put", args![t.name("k"), "2"; "release" = first.as_str()]).await;
    let answer = t.ok("kv_get", args![t.name("k")]).await;
    let entry = answer.meta.entry.unwrap();
    assert_eq!((answer.value, entry.session, entry.lock_index), ("2".into(), None, 1));
    t.fails("kv_put", args![t.name("k"), "3"; "release" = first], Kind::Conflict).await;
    // An explicit release has no lock delay.
    t.ok("kv_put", args![t.name("k"), "4"; "acquire" = second]).await;
    let entry = t.ok("kv_get", args![t.name("k")]).await.meta.entry.unwrap();
    assert_eq!(entry.lock_index, 2);
}

async fn release_by_another_session_is_a_conflict(t: T) {
    let (first, second) = (t.session(table! {}).await, t.session(table! {}).await);
    t.ok("kv_put", args![t.name("k"), "1"; "acquire" = first.as_str()]).await;
    t.fails("kv_put", args![t.name("k"), "2"; "release" = second], Kind::Conflict).await;
    let answer = t.ok("kv_get", args![t.name("k")]).await;
    assert_eq!((answer.value, answer.meta.entry.unwrap().session), ("1".into(), Some(first)));
}

async fn a_put_over_a_held_lock_keeps_the_session(t: T) {
    let session = t.session(table! {}).await;
    t.ok("kv_put", args![t.name("k"), "1"; "acquire" = session.as_str()]).await;
    t.ok("kv_put", args![t.name("k"), "2"]).await;
    let entry = t.ok("kv_get", args![t.name("k")]).await.meta.entry.unwrap();
    assert_eq!((entry.session, entry.lock_index), (Some(session), 0));
}

async fn a_delete_frees_a_lock(t: T) {
    let (first, second) = (t.session(table! {}).await, t.session(table! {}).await);
    t.ok("kv_put", args![t.name("k"), "1"; "acquire" = first]).await;
    t.ok("kv_delete", args![t.name("k")]).await;
    t.ok("kv_put", args![t.name("k"), "2"; "acquire" = second]).await;
    assert_eq!(t.ok("kv_get", args![t.name("k")]).await.meta.entry.unwrap().lock_index, 1);
}

async fn a_value_of_the_largest_size_fits(t: T) {
    let largest = vec![b'x'; consul_api::api::kv::MAX_VALUE_BYTES];
    t.ok("kv_put", args![t.name("k"), largest.clone()]).await;
    assert_eq!(bytes(&t.value("kv_get", args![t.name("k")]).await).len(), largest.len());
}

async fn a_larger_value_is_too_large(t: T) {
    let larger = vec![b'x'; consul_api::api::kv::MAX_VALUE_BYTES + 1];
    let error = t.fails("kv_put", args![t.name("k"), larger], Kind::TooLarge).await;
    assert_eq!(error.status(), Some(413));
    assert_eq!(t.value("kv_get", args![t.name("k")]).await, Value::Null);
}

async fn stale_and_consistent_reads_return_the_value(t: T) {
    t.ok("kv_put", args![t.name("k"), "v"]).await;
    for mode in ["stale", "consistent"] {
        let answer = t.ok("kv_get", args![t.name("k")].opt(mode, true)).await;
        assert_eq!(answer.value, "v".into());
        assert_eq!(answer.meta.known_leader, Some(true));
        assert_eq!(answer.meta.last_contact_ms, Some(0));
    }
    let both = args![t.name("k"); "stale" = true, "consistent" = true];
    t.fails("kv_get", both, Kind::Argument).await;
}
