//! Hashes of Go's values, as those replies have that are compared with hashes of other agents.
//!
//! Source: version 1 of the library mitchellh/hashstructure, with FNV-1.

use serde_json::Value;

/// The type of a value.
pub(super) enum Type {
    Text,
    Int,
    Flag,
    /// `interface{}`.
    Any,
    List(&'static Type),
    Map(&'static Type),
    Struct(&'static Struct),
    /// A pointer to a struct.
    Optional(&'static Struct),
}

/// A struct: its name, and its fields that are part of the hash.
pub(super) struct Struct(pub &'static str, pub &'static [(&'static str, Type)]);

impl Struct {
    /// The hash of an object with these fields; those that it does not have are zero.
    pub fn hash(&self, object: &Value) -> u64 {
        let Self(name, fields) = self;
        fields.iter().fold(text(name), |hash, (field, kind)| {
            hash ^ ordered(text(field), kind.hash(object.get(field).unwrap_or(&Value::Null)))
        })
    }
}

impl Type {
    fn hash(&self, value: &Value) -> u64 {
        match self {
            Type::Text => text(value.as_str().unwrap_or_default()),
            Type::Int => int(value.as_i64().unwrap_or_default()),
            Type::Flag => flag(value.as_bool().unwrap_or_default()),
            Type::Any => any(value),
            Type::List(item) => list(value, |value| item.hash(value)),
            Type::Map(item) => map(value, |value| item.hash(value)),
            Type::Struct(fields) => fields.hash(value),
            Type::Optional(_) if value.is_null() => NOTHING,
            Type::Optional(fields) => fields.hash(value),
        }
    }
}

/// The hash of a null pointer: that of the integer 0.
const NOTHING: u64 = 0xa8c7_f832_281a_39c5;

fn any(value: &Value) -> u64 {
    match value {
        Value::Null => NOTHING,
        Value::Bool(value) => flag(*value),
        Value::Number(number) => bytes(&number.as_f64().unwrap_or_default().to_le_bytes()),
        Value::String(value) => text(value),
        Value::Array(_) => list(value, any),
        Value::Object(_) => map(value, any),
    }
}

fn list(value: &Value, item: impl Fn(&Value) -> u64) -> u64 {
    let items = value.as_array().into_iter().flatten();
    items.fold(0, |hash, value| ordered(hash, item(value)))
}

fn map(value: &Value, item: impl Fn(&Value) -> u64) -> u64 {
    let members = value.as_object().into_iter().flatten();
    members.fold(0, |hash, (name, value)| hash ^ ordered(text(name), item(value)))
}

fn text(value: &str) -> u64 {
    bytes(value.as_bytes())
}

fn int(value: i64) -> u64 {
    bytes(&value.to_le_bytes())
}

fn flag(value: bool) -> u64 {
    bytes(&[value.into()])
}

fn ordered(first: u64, second: u64) -> u64 {
    bytes([first.to_le_bytes(), second.to_le_bytes()].as_flattened())
}

/// FNV-1.
fn bytes(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(OFFSET, |hash, byte| hash.wrapping_mul(PRIME) ^ u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_pointer_is_the_integer_0() {
        assert_eq!(NOTHING, int(0));
    }

    #[test]
    fn the_order_of_members_does_not_count() {
        let [one, other] = [r#"{"a":1,"b":[2]}"#, r#"{"b":[2],"a":1}"#]
            .map(|text| any(&serde_json::from_str(text).expect("JSON")));
        assert_eq!(one, other);
        assert_ne!(one, any(&serde_json::json!({"a": 2, "b": [1]})));
    }
}
