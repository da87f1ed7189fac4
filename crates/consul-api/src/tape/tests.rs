use super::*;
use proptest::prelude::*;

fn tape(json: &str, base64: Base64) -> Result<Tape, serde_json::Error> {
    Tape::of_json(Bytes::copy_from_slice(json.as_bytes()), base64)
}

fn read(json: &str, base64: Base64) -> Value {
    tape(json, base64).expect("it is JSON").value()
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<u64>().prop_map(serde_json::Value::from),
        // Halves, since serde_json reads long fractions to the last digit but one.
        any::<i32>().prop_map(|number| serde_json::Value::from(f64::from(number) / 2.0)),
        any::<String>().prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(5, 50, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(serde_json::Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..8)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>())
                .prop_map(serde_json::Value::from),
        ]
    })
}

proptest! {
    /// serde_json's own tree is the oracle.
    #[test]
    fn any_json_reads_as_serde_json_reads_it(json in any_json(), pretty in any::<bool>()) {
        let text = if pretty { format!("{json:#}") } else { json.to_string() };
        prop_assert_eq!(read(&text, Base64::Nowhere), Value::from(json));
    }

    #[test]
    fn a_value_on_a_tape_stays_the_same(json in any_json()) {
        let value = Value::from(json);
        prop_assert_eq!(Tape::from(&value).value(), value);
    }

    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = Tape::of_json(Bytes::from(body), Base64::InEntries);
    }

    /// Cut anywhere, a table is not JSON any more.
    #[test]
    fn a_part_of_a_table_is_refused(json in any_json(), cut in any::<prop::sample::Index>()) {
        let text = serde_json::json!([json]).to_string();
        let mut bytes = text.into_bytes();
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(Tape::of_json(Bytes::from(bytes), Base64::Nowhere).is_err());
    }
}

#[test]
fn base64_is_decoded_where_an_entry_has_it_and_nowhere_else() {
    let entry = r#"{"Key": "a", "Value": "AP8=", "Other": {"Value": "AP8="}}"#;
    let decoded = |value: &Value| {
        assert_eq!(value.get("Value"), Some(&Value::from(vec![0, 255])));
        assert_eq!(value.get("Other").and_then(|v| v.get("Value")), Some(&"AP8=".into()));
    };
    decoded(&read(&format!("[{entry}]"), Base64::InEntries).items()[0]);
    let result = format!(r#"{{"Results": [{{"KV": {entry}}}], "KV": {entry}}}"#);
    let result = read(&result, Base64::InResults);
    decoded(result.get("Results").unwrap().items()[0].get("KV").unwrap());
    assert_eq!(result.get("KV").unwrap().get("Value"), Some(&"AP8=".into()));
    assert_eq!(read(entry, Base64::Nowhere).get("Value"), Some(&"AP8=".into()));
    assert_eq!(read(r#"{"Value": null}"#, Base64::InEntries).get("Value"), Some(&"".into()));
    assert_eq!(read(r#"{"Payload": "\u0041A=="}"#, Base64::InEntries), {
        Value::Map(vec![("Payload".into(), Value::from(vec![0]))])
    });
    let error = tape(r#"[{"Value": "%%"}]"#, Base64::InEntries).unwrap_err();
    assert!(error.to_string().contains("not base64"), "{error}");
}

#[test]
fn the_last_of_two_members_with_one_name_counts() {
    let twice = r#"{"a": 1, "b": [{}], "a": [2, {"a": 3}], "c": 0}"#;
    let last = Value::List(vec![2.into(), Value::Map(vec![("a".into(), 3.into())])]);
    assert_eq!(read(twice, Base64::Nowhere).get("a"), Some(&last));
    let member = tape(twice, Base64::Nowhere).unwrap().into_member("a").unwrap();
    assert_eq!(member.value(), last);
    assert_eq!(member.items().count(), 5);
}

#[test]
fn a_part_is_a_tape_of_its_own() {
    let list = |json| tape(json, Base64::Nowhere).unwrap();
    let part = list(r#"[[1, {"a": []}], 2]"#).into_first().unwrap();
    assert_eq!((part.count(), part.items().count()), (5, 5));
    assert_eq!(list("[]").into_first().unwrap().value(), Value::Null);
    assert!(list("{}").into_first().is_none());
    assert!(list(r#"{"a": 1}"#).into_member("b").is_none());
    assert!(list(r#"[["a", 1]]"#).into_member("a").is_none());
}

#[test]
fn too_deep_nesting_is_refused() {
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(tape(&nested(127), Base64::Nowhere).unwrap().depth(), 127);
    assert!(tape(&nested(128), Base64::Nowhere).is_err());
    assert!(tape(&nested(100_000), Base64::Nowhere).is_err());
}

#[test]
fn a_string_that_is_not_utf8_is_refused() {
    assert!(Tape::of_json(Bytes::from_static(b"\"\xff\""), Base64::Nowhere).is_err());
}
