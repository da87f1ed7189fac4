//! Applies a match to an entry: checks its selector and operator against the schema, and compares
//! values of the selected type.

use super::expression::{Match, Operator, Relation};
use super::schema::{Field, Type};
use super::{literal, pattern};
use crate::go;
use regex_lite::Regex;
use serde_json::Value;
use std::net::IpAddr;

/// A match that is valid for its schema.
#[derive(Debug)]
pub(super) struct Comparison {
    selector: Vec<String>,
    fields: &'static [Field],
    test: Test,
    operator: Operator,
}

#[derive(Debug)]
enum Test {
    Text(String),
    Int(i64),
    Uint(u64),
    Bool(bool),
    Matches(Regex),
    IsEmpty,
}

impl Comparison {
    /// Validates a match; the error is Consul's.
    pub fn new(found: Match, fields: &'static [Field]) -> Result<Self, String> {
        let Match { selector, operator, value } = found;
        let selected = resolve(&selector, fields)?;
        let name = go::quoted(selector.join("."));
        if !selected.supports(operator.relation) {
            let operator = go::quoted(operator.name());
            return Err(format!("Invalid match operator {operator} for selector {name}"));
        }
        let test = match operator.relation {
            Relation::IsEmpty => Test::IsEmpty,
            Relation::Matches => Test::Matches(pattern(&value).map_err(|why| {
                let value = go::quoted(&value);
                format!("Failed to compile regular expression {value}: {why}")
            })?),
            Relation::Equal | Relation::In => selected.read(&value).map_err(|why| {
                let value = go::quoted(&value);
                format!("Failed to coerce value {value} for selector {name}: {why}")
            })?,
        };
        Ok(Self { selector, fields, test, operator })
    }

    /// Whether the entry matches.
    pub fn holds(&self, entry: &Value) -> bool {
        self.follow(&self.selector, Type::Struct(self.fields), Some(entry))
    }

    /// Follows the rest of the selector from a value, if the JSON has one.
    fn follow(&self, selector: &[String], of: Type, value: Option<&Value>) -> bool {
        let Some((name, rest)) = selector.split_first() else {
            return self.relates(of, value) != self.operator.negated;
        };
        let value = value.filter(|value| !value.is_null());
        let inner = value.and_then(|value| value.get(name));
        match of {
            // A real agent panics here and closes the connection. This one answers: a missing value
            // matches no comparison, not even `!=`.
            Type::Optional(_) if value.is_none() => false,
            Type::Struct(fields) | Type::Optional(fields) => {
                field(fields, name).is_some_and(|of| self.follow(rest, of, inner))
            }
            Type::Structs(fields) => {
                items(value).any(|item| self.follow(selector, Type::Struct(fields), Some(item)))
            }
            Type::Map(of) if inner.is_some() => self.follow(rest, *of, inner),
            Type::Map(_) => self.holds_of_missing_key(),
            _ => false,
        }
    }

    /// The result for a key that the map does not have, `matches` included.
    fn holds_of_missing_key(&self) -> bool {
        match self.operator.relation {
            Relation::Equal | Relation::In => self.operator.negated,
            Relation::IsEmpty => !self.operator.negated,
            Relation::Matches => true,
        }
    }

    /// The result for a value, before negation.
    fn relates(&self, of: Type, value: Option<&Value>) -> bool {
        let text = || value.and_then(Value::as_str).unwrap_or("");
        match (&self.test, of) {
            (Test::Text(wanted), Type::Text) if self.operator.relation == Relation::In => {
                text().contains(wanted.as_str())
            }
            (Test::Text(wanted), Type::Text) => text() == wanted,
            (Test::Text(wanted), Type::Texts) => items(value).any(|item| item == wanted.as_str()),
            (Test::Text(wanted), _) => value.and_then(|value| value.get(wanted)).is_some(),
            (Test::Uint(wanted), Type::Bytes) => {
                bytes(text()).iter().any(|byte| u64::from(*byte) == *wanted)
            }
            (Test::Uint(wanted), _) => value.and_then(Value::as_u64).unwrap_or(0) == *wanted,
            (Test::Int(wanted), _) => value.and_then(Value::as_i64).unwrap_or(0) == *wanted,
            (Test::Bool(wanted), _) => value.and_then(Value::as_bool).unwrap_or(false) == *wanted,
            (Test::Matches(pattern), _) => pattern.is_match(text()),
            (Test::IsEmpty, _) => match value {
                Some(Value::Array(items)) => items.is_empty(),
                Some(Value::Object(members)) => members.is_empty(),
                _ => text().is_empty(),
            },
        }
    }
}

/// The type of the selected value.
fn resolve(selector: &[String], fields: &'static [Field]) -> Result<Type, String> {
    let mut selected = Type::Struct(fields);
    for (place, name) in selector.iter().enumerate() {
        let inner = match selected {
            Type::Struct(fields) | Type::Optional(fields) | Type::Structs(fields) => {
                field(fields, name)
            }
            Type::Map(of) => Some(*of),
            _ => None,
        };
        selected = inner.ok_or_else(|| {
            format!("Selector {} is not valid", go::quoted(selector[..=place].join(".")))
        })?;
    }
    Ok(selected)
}

impl Type {
    /// Whether values of this type can be compared by a relation.
    fn supports(self, relation: Relation) -> bool {
        match self {
            Type::Text => relation != Relation::IsEmpty,
            Type::Bool | Type::Int | Type::Uint(_) => relation == Relation::Equal,
            Type::Texts | Type::Bytes | Type::Map(_) => {
                matches!(relation, Relation::In | Relation::IsEmpty)
            }
            Type::Structs(_) => relation == Relation::IsEmpty,
            Type::Struct(_) | Type::Optional(_) => false,
        }
    }

    /// The value to compare with, or the error of an invalid text.
    fn read(self, text: &str) -> Result<Test, String> {
        match self {
            Type::Bool => literal::boolean(text).map(Test::Bool),
            Type::Int => literal::int(text).map(Test::Int),
            Type::Uint(max) => literal::uint(text, max).map(Test::Uint),
            Type::Bytes => literal::uint(text, u8::MAX.into()).map(Test::Uint),
            _ => Ok(Test::Text(text.to_owned())),
        }
    }
}

fn field(fields: &[Field], name: &str) -> Option<Type> {
    fields.iter().find(|(known, _)| *known == name).map(|(_, of)| *of)
}

fn items(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

/// The bytes of an address.
fn bytes(address: &str) -> Vec<u8> {
    match address.parse() {
        Ok(IpAddr::V4(address)) => address.octets().to_vec(),
        Ok(IpAddr::V6(address)) => address.octets().to_vec(),
        Err(_) => Vec::new(),
    }
}
