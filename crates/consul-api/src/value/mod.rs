//! The values of arguments and answers: as in JSON, but with strings of bytes and exact 64-bit integers.

pub mod duration;
mod free_form;
pub mod shape;
mod spelling;

use crate::error::Error;
use serde_json::Number;

/// A value between a program and Consul. A string need not be UTF-8, like the value of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// JSON's null, Lua's nil.
    Null,
    /// True or false.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An integer above [`i64::MAX`]; smaller ones are [`Value::Int`].
    Uint(u64),
    /// Any other number.
    Float(f64),
    /// A string of bytes.
    Bytes(Vec<u8>),
    /// A list, also if it is empty.
    List(Vec<Value>),
    /// Named values in their order.
    Map(Vec<(String, Value)>),
    /// A value that no call takes, with its type for messages: `a function`.
    Foreign(&'static str),
}

impl Value {
    /// The member `name` of a map.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Map(members) => members.iter().find(|(key, _)| key == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text of a string; `None` if it is not UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The items of a list; no items for any other value.
    pub fn items(&self) -> &[Value] {
        match self {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The number as an unsigned integer.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Int(number) => u64::try_from(*number).ok(),
            Value::Uint(number) => Some(*number),
            _ => None,
        }
    }

    /// The number as a double.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Int(number) => Some(*number as f64),
            Value::Uint(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// The type, for messages: `a string`, `a table`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "nil",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Uint(_) | Value::Float(_) => "a number",
            Value::Bytes(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a table",
            Value::Foreign(name) => name,
        }
    }

    /// The value in a message; long strings are truncated.
    pub fn shown(&self) -> String {
        const SHOWN_CHARS: usize = 60;
        match self {
            Value::Bool(value) => value.to_string(),
            Value::Int(number) => number.to_string(),
            Value::Uint(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Bytes(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                match text.char_indices().nth(SHOWN_CHARS) {
                    Some((cut, _)) => format!("{:?}…", &text[..cut]),
                    None => format!("{text:?}"),
                }
            }
            Value::Null | Value::List(_) | Value::Map(_) | Value::Foreign(_) => {
                self.type_name().to_owned()
            }
        }
    }

    /// The value as JSON.
    ///
    /// # Errors
    /// The path of a value that JSON cannot represent: a string that is not UTF-8, a number that is not
    /// finite, a foreign value.
    pub fn to_json(&self) -> Result<serde_json::Value, Error> {
        self.to_json_at(&mut Vec::new())
    }

    fn to_json_at<'a>(&'a self, path: &mut Vec<&'a str>) -> Result<serde_json::Value, Error> {
        let refuse = |path: &[&str], why: &str| {
            let place = if path.is_empty() { "the value" } else { &path.join(".") };
            Err(Error::argument(format!("{place} cannot be written as JSON: {why}")))
        };
        Ok(match self {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(number) => (*number).into(),
            Value::Uint(number) => (*number).into(),
            Value::Float(number) => match Number::from_f64(*number) {
                Some(number) => number.into(),
                None => return refuse(path, &format!("{number} is not a finite number")),
            },
            Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => text.into(),
                Err(_) => return refuse(path, "the string is not UTF-8"),
            },
            Value::Foreign(name) => return refuse(path, &format!("it is {name}")),
            Value::List(items) => items
                .iter()
                .map(|item| item.to_json_at(path))
                .collect::<Result<Vec<_>, _>>()?
                .into(),
            Value::Map(members) => {
                let mut object = serde_json::Map::with_capacity(members.len());
                for (name, member) in members {
                    path.push(name);
                    object.insert(name.clone(), member.to_json_at(path)?);
                    path.pop();
                }
                object.into()
            }
        })
    }
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Value::Int(number),
                (None, Some(number)) => Value::Uint(number),
                (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Value::Bytes(text.into_bytes()),
            serde_json::Value::Array(items) => {
                Value::List(items.into_iter().map(Value::from).collect())
            }
            serde_json::Value::Object(members) => {
                Value::Map(members.into_iter().map(|(name, v)| (name, Value::from(v))).collect())
            }
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        i64::try_from(number).map_or(Value::Uint(number), Value::Int)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Value::Int(number.into())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Value::Float(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Bytes(text.as_bytes().to_vec())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Bytes(text.into_bytes())
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Value::Bytes(bytes)
    }
}
