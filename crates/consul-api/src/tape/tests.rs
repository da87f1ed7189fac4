use super::*;
use crate::table::{Form, has, may_have};
use proptest::prelude::*;

fn tape(json: &str) -> Result<Tape, serde_json::Error> {
    Tape::of_json(Bytes::copy_from_slice(json.as_bytes()))
}

fn read(json: &str) -> Value {
    tape(json).expect("it is JSON").value()
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
        prop_assert_eq!(read(&text), Value::from(json));
    }

    #[test]
    fn a_value_on_a_tape_stays_the_same(json in any_json()) {
        let value = Value::from(json);
        prop_assert_eq!(Tape::from(&value).value(), value);
    }

    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = Tape::of_answer(Bytes::from(body), &ENTRIES, b"a", &|_| Vec::new());
    }

    /// Cut anywhere, a table is not JSON any more.
    #[test]
    fn a_part_of_a_table_is_refused(json in any_json(), cut in any::<prop::sample::Index>()) {
        let text = serde_json::json!([json]).to_string();
        let mut bytes = text.into_bytes();
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(Tape::of_json(Bytes::from(bytes)).is_err());
    }
}

/// The form of a list of entries in the tests.
const ENTRIES: Form =
    Form::List(&Form::Object(&[has("Key", Form::Under), has("Value", Form::Bytes)]));

fn answer(json: &str, form: Form) -> Result<Value, NotTheAnswer> {
    Ok(Tape::of_answer(Bytes::copy_from_slice(json.as_bytes()), &form, b"a", &|_| Vec::new())?
        .value())
}

#[test]
fn base64_is_decoded_where_the_form_has_it_and_nowhere_else() {
    let entry = r#"{"Key": "a", "Value": "AP8=", "Other": {"Value": "AP8="}}"#;
    let list = answer(&format!("[{entry}]"), ENTRIES).unwrap();
    let decoded = &list.items()[0];
    assert_eq!(decoded.get("Value"), Some(&Value::from(vec![0, 255])));
    assert_eq!(decoded.get("Other").and_then(|v| v.get("Value")), Some(&"AP8=".into()));
    assert_eq!(read(entry).get("Value"), Some(&"AP8=".into()));
    let value = |json| {
        let list = answer(&format!(r#"[{{"Key":"a","Value":{json}}}]"#), ENTRIES).unwrap();
        list.items()[0].get("Value").cloned()
    };
    assert_eq!(value("null"), Some("".into()));
    assert_eq!(value(r#""\u0041A==""#), Some(Value::from(vec![0])));
    let error = answer(r#"[{"Key": "a", "Value": "%%"}]"#, ENTRIES).unwrap_err();
    assert!(matches!(error, NotTheAnswer::Invalid(why) if why.contains("not base64")));
}

#[test]
fn a_value_of_another_form_is_refused_with_what_was_expected() {
    const HAS_A: Form = Form::Object(&[has("A", Form::Any)]);
    const MAY_HAVE_A: Form = Form::Object(&[may_have("A", Form::Text)]);
    const SOME: Form =
        Form::Entries(&Form::Object(&[has("A", Form::Object(&[has("B", Form::Name)]))]));
    for (form, json, why) in [
        (Form::List(&Form::Text), r#"["a", 5]"#, "number, expected a string"),
        (Form::List(&Form::Text), "{}", "map, expected a list"),
        (Form::Map(&Form::Number), r#"{"x": null}"#, "null, expected a number"),
        (Form::Map(&Form::Nothing), r#"{"x": 5}"#, "expected nothing"),
        (HAS_A, r#"{"a": 5}"#, "it has no A"),
        (HAS_A, r#"{"A": 5, "A": 6}"#, "twice"),
        (Form::OrNull(&Form::Bool), "5", "expected true or false"),
        (SOME, r#"[{"error": 1}, 5, null]"#, "no item of the list"),
    ] {
        match answer(json, form) {
            Err(NotTheAnswer::Invalid(said)) => assert!(said.contains(why), "{json}: {said}"),
            other => panic!("{json}: {other:?}"),
        }
    }
    for (form, json) in [
        (Form::OrNull(&Form::Bool), "null"),
        (Form::Map(&Form::Nothing), "{}"),
        (MAY_HAVE_A, r#"{"B": 5}"#),
        (SOME, "[]"),
        (SOME, r#"[5, {"A": 5}, {"A": {"B": "A"}}, {"A": {}}]"#),
    ] {
        assert!(answer(json, form).is_ok(), "{json}");
    }
    for (form, json) in [
        (ENTRIES, r#"[{"Key": "b", "Value": null}]"#),
        (Form::Key, r#""A""#),
        (Form::Name, r#""b""#),
        (SOME, r#"[{"A": {"B": "a"}}, {"A": {"B": "b"}}]"#),
    ] {
        assert!(matches!(answer(json, form), Err(NotTheAnswer::AboutAnother(_))), "{json}");
    }
}

#[test]
fn the_last_of_two_members_with_one_name_counts() {
    let twice = r#"{"a": 1, "b": [{}], "a": [2, {"a": 3}], "c": 0}"#;
    let last = Value::List(vec![2.into(), Value::Map(vec![("a".into(), 3.into())])]);
    assert_eq!(read(twice).get("a"), Some(&last));
    let member = tape(twice).unwrap().into_member("a").unwrap();
    assert_eq!(member.value(), last);
    assert_eq!(member.items().count(), 5);
}

#[test]
fn a_part_is_a_tape_of_its_own() {
    let list = |json| tape(json).unwrap();
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
    assert_eq!(tape(&nested(127)).unwrap().depth(), 127);
    assert!(tape(&nested(128)).is_err());
    assert!(tape(&nested(100_000)).is_err());
}

#[test]
fn a_string_that_is_not_utf8_is_refused() {
    assert!(Tape::of_json(Bytes::from_static(b"\"\xff\"")).is_err());
}
