//! What a value must look like: the one place where arguments, options and bodies are checked.

use super::duration;
use super::table::{Field, Shape};
use super::value::Value;
use crate::error::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::time::Duration;

/// Where a value stands, for messages: an argument's name, or a path into it.
pub struct At<'a> {
    place: &'a str,
    parent: Option<&'a At<'a>>,
}

impl<'a> At<'a> {
    /// A named argument or option.
    pub fn top(name: &'a str) -> At<'a> {
        At { place: name, parent: None }
    }

    /// The member of this name of what stands here.
    pub fn member(&'a self, place: &'a str) -> At<'a> {
        At { place, parent: Some(self) }
    }

    fn name(&self) -> String {
        match self.parent {
            Some(parent) => format!("{}.{}", parent.name(), self.place),
            None => self.place.to_owned(),
        }
    }

    /// The error for a value of another type than `shape` takes.
    pub fn wrong_type(&self, shape: &Shape, value: &Value) -> Error {
        self.wrong_type_text(&shape.wanted(), value)
    }

    /// The error for a secret, which it does not show.
    pub fn secret(&self, wanted: &str) -> Error {
        Error::argument(format!("{} must be {wanted}", self.name()))
    }

    /// The error for a value of another type than the words in `wanted` say.
    pub fn wrong_type_text(&self, wanted: &str, value: &Value) -> Error {
        let given = match value {
            Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_) | Value::Bytes(_) => {
                format!("{} {}", value.type_name(), value.shown())
            }
            _ => value.type_name().to_owned(),
        };
        Error::misuse(format!("{} must be {wanted}, got {given}", self.name(),))
    }

    /// The error for a value of the right type that is not acceptable.
    pub fn bad_value(&self, value: &Value, why: &str) -> Error {
        Error::argument(format!("{} is {}: {why}", self.name(), value.shown()))
    }
}

impl Shape {
    /// What is allowed, for messages and for the reference.
    pub fn wanted(&self) -> String {
        match self {
            Shape::Text | Shape::Key => "a non-empty string".into(),
            Shape::TextOrEmpty | Shape::KeyPrefix | Shape::Base64 => "a string".into(),
            Shape::EncodedPath => "a path that begins with `/`".into(),
            Shape::Payload => "a string, number, boolean or table".into(),
            Shape::Bool | Shape::Flag => "true or false".into(),
            Shape::Uint => "an integer from 0 to 2^64-1 (a number or a decimal string)".into(),
            Shape::Int => "an integer".into(),
            Shape::Duration { min_s, max_s } => {
                let range = match (min_s, *max_s) {
                    (0, max) if max >= u32::MAX as u64 => String::new(),
                    (min, max) => format!(", from {min} to {max} seconds"),
                };
                format!("a duration (a number of seconds or a string such as \"1m30s\"{range})")
            }
            Shape::Millis => "a positive number of milliseconds".into(),
            Shape::OneOf(names) => format!("one of {}", names.join(", ")),
            Shape::TextList => "a string or a list of strings".into(),
            Shape::TextMap => "a table of strings by name".into(),
            Shape::TextListMap => "a table of lists of strings by name".into(),
            Shape::Object(_) | Shape::Any => "a table".into(),
            Shape::Objects(_) => "a list of tables".into(),
            Shape::ObjectMap(_) => "a table of tables by name".into(),
        }
    }

    /// The text of a value of a string's shape.
    pub fn text(&self, value: &Value, at: &At) -> Result<String, Error> {
        let Value::Bytes(bytes) = value else {
            return Err(at.wrong_type(self, value));
        };
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Err(at.bad_value(value, "it must be UTF-8"));
        };
        let may_be_empty = matches!(self, Shape::TextOrEmpty | Shape::KeyPrefix);
        if text.is_empty() && !may_be_empty {
            return Err(at.bad_value(value, "it must not be empty"));
        }
        if let Shape::OneOf(names) = self
            && !names.contains(&text)
        {
            return Err(at.bad_value(value, &format!("it must be {}", self.wanted())));
        }
        if matches!(self, Shape::Key | Shape::KeyPrefix) {
            check_key(text).map_err(|why| at.bad_value(value, why))?;
        }
        Ok(text.to_owned())
    }

    /// As [`Shape::text`], for a part of a request's path.
    pub fn path_text(&self, value: &Value, at: &At) -> Result<String, Error> {
        let text = self.text(value, at)?;
        if matches!(self, Shape::EncodedPath) && !text.starts_with('/') {
            return Err(at.bad_value(value, "it must begin with `/`"));
        }
        if text.split('/').any(is_dots) {
            return Err(at.bad_value(value, CLEANED));
        }
        if text.contains(|c: char| c.is_control()) {
            return Err(at.bad_value(value, "Consul refuses control characters here"));
        }
        Ok(text)
    }

    /// The truth of a value.
    pub fn boolean(&self, value: &Value, at: &At) -> Result<bool, Error> {
        match value {
            Value::Bool(value) => Ok(*value),
            _ => Err(at.wrong_type(self, value)),
        }
    }

    /// The unsigned integer that a value is.
    pub fn uint(&self, value: &Value, at: &At) -> Result<u64, Error> {
        const TWO_TO_53: f64 = 9_007_199_254_740_992.0;
        match value {
            Value::Int(_) | Value::Uint(_) => {
                value.as_u64().ok_or_else(|| at.bad_value(value, "it must not be negative"))
            }
            Value::Float(number) if number.fract() == 0.0 && (0.0..=TWO_TO_53).contains(number) => {
                Ok(*number as u64)
            }
            Value::Float(_) => Err(at.bad_value(
                value,
                "it must be an integer from 0 to 2^64-1; above 2^53 write it as a decimal string",
            )),
            Value::Bytes(bytes) => std::str::from_utf8(bytes)
                .ok()
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| {
                    at.bad_value(value, "it must be a decimal integer from 0 to 2^64-1")
                }),
            _ => Err(at.wrong_type(self, value)),
        }
    }

    fn int(&self, value: &Value, at: &At) -> Result<i64, Error> {
        match value {
            Value::Int(number) => Ok(*number),
            Value::Float(number) if number.fract() == 0.0 && number.abs() < i64::MAX as f64 => {
                Ok(*number as i64)
            }
            Value::Uint(_) | Value::Float(_) => Err(at.bad_value(value, "it must be an integer")),
            _ => Err(at.wrong_type(self, value)),
        }
    }

    /// The duration that a value is.
    pub fn duration(&self, value: &Value, at: &At) -> Result<Duration, Error> {
        let per_second = if matches!(self, Shape::Millis) { 1000.0 } else { 1.0 };
        let seconds = |number: f64| Duration::try_from_secs_f64(number / per_second).ok();
        let duration = match value {
            Value::Int(number) => seconds(*number as f64),
            Value::Uint(number) => seconds(*number as f64),
            Value::Float(number) => seconds(*number),
            Value::Bytes(_) if !matches!(self, Shape::Millis) => {
                value.as_str().and_then(duration::parse)
            }
            _ => return Err(at.wrong_type(self, value)),
        };
        let wanted = || at.bad_value(value, &format!("it must be {}", self.wanted()));
        let duration = duration.ok_or_else(wanted)?;
        let allowed = match *self {
            Shape::Duration { min_s, max_s } => {
                duration.is_zero()
                    || (min_s..=max_s).contains(&duration.as_secs())
                        && duration <= Duration::from_secs(max_s)
            }
            _ => !duration.is_zero(),
        };
        if allowed { Ok(duration) } else { Err(wanted()) }
    }

    /// The strings of a list, or one string.
    pub fn texts(&self, value: &Value, at: &At) -> Result<Vec<String>, Error> {
        let item = |item: &Value| match item {
            Value::Bytes(_) => Shape::TextOrEmpty.text(item, at),
            _ => Err(at.wrong_type(self, item)),
        };
        match value {
            Value::Bytes(_) => Ok(vec![item(value)?]),
            Value::List(items) => items.iter().map(item).collect(),
            Value::Map(members) if members.is_empty() => Ok(Vec::new()),
            _ => Err(at.wrong_type(self, value)),
        }
    }

    /// The members of a table.
    pub fn members<'v>(&self, value: &'v Value, at: &At) -> Result<&'v [(String, Value)], Error> {
        match value {
            Value::Map(members) => Ok(members),
            Value::List(items) if items.is_empty() => Ok(&[]),
            _ => Err(at.wrong_type(self, value)),
        }
    }

    fn list<'v>(&self, value: &'v Value, at: &At) -> Result<&'v [Value], Error> {
        match value {
            Value::List(items) => Ok(items),
            Value::Map(members) if members.is_empty() => Ok(&[]),
            _ => Err(at.wrong_type(self, value)),
        }
    }

    /// The value with one leading slash off each key in it.
    pub fn without_leading_slash(&self, value: &Value) -> Value {
        match (self, value) {
            (Shape::Key | Shape::KeyPrefix, Value::Bytes(key)) if key.starts_with(b"/") => {
                Value::Bytes(key[1..].to_vec())
            }
            (Shape::Objects(fields), Value::List(items)) => {
                let each = |item| Shape::Object(fields).without_leading_slash(item);
                Value::List(items.iter().map(each).collect())
            }
            (Shape::Object(fields), Value::Map(members)) => {
                let each = |(name, member): &(String, Value)| {
                    let field = fields.iter().find(|field| same_name(field.name, name));
                    let strip = |field: &Field| field.kind.without_leading_slash(member);
                    (name.clone(), field.map_or_else(|| member.clone(), strip))
                };
                Value::Map(members.iter().map(each).collect())
            }
            _ => value.clone(),
        }
    }

    /// The value as the JSON that a body carries.
    pub fn json(&self, value: &Value, at: &At) -> Result<serde_json::Value, Error> {
        Ok(match self {
            Shape::Bool | Shape::Flag => self.boolean(value, at)?.into(),
            Shape::Uint => self.uint(value, at)?.into(),
            Shape::Int => self.int(value, at)?.into(),
            Shape::Duration { .. } | Shape::Millis => {
                duration::format(self.duration(value, at)?).into()
            }
            Shape::Base64 => match value {
                Value::Bytes(bytes) => BASE64.encode(bytes).into(),
                _ => return Err(at.wrong_type(self, value)),
            },
            Shape::TextList => self.texts(value, at)?.into(),
            Shape::TextMap => self.by_name(value, at, &Shape::TextOrEmpty)?,
            Shape::TextListMap => self.by_name(value, at, &Shape::TextList)?,
            Shape::ObjectMap(fields) => self.by_name(value, at, &Shape::Object(fields))?,
            Shape::Object(fields) => self.object(value, at, fields)?,
            Shape::Objects(fields) => {
                let mut items = Vec::new();
                for (place, item) in self.list(value, at)?.iter().enumerate() {
                    let number = (place + 1).to_string();
                    items.push(Shape::Object(fields).json(item, &at.member(&number))?);
                }
                items.into()
            }
            Shape::Any => match value {
                Value::List(_) | Value::Map(_) => {
                    value.to_json().map_err(|error| error.context(&at.name()))?
                }
                _ => return Err(at.wrong_type(self, value)),
            },
            Shape::Payload
            | Shape::Text
            | Shape::TextOrEmpty
            | Shape::Key
            | Shape::KeyPrefix
            | Shape::EncodedPath
            | Shape::OneOf(_) => self.text(value, at)?.into(),
        })
    }

    fn by_name(&self, value: &Value, at: &At, each: &Shape) -> Result<serde_json::Value, Error> {
        let mut object = serde_json::Map::new();
        for (name, member) in self.members(value, at)? {
            object.insert(name.clone(), each.json(member, &at.member(name))?);
        }
        Ok(object.into())
    }

    fn object(&self, value: &Value, at: &At, fields: &[Field]) -> Result<serde_json::Value, Error> {
        let mut object = serde_json::Map::new();
        for (name, member) in self.members(value, at)? {
            let Some(field) = fields.iter().find(|field| same_name(field.name, name)) else {
                let known: Vec<_> = fields.iter().map(|field| field.name).collect();
                return Err(Error::misuse(unknown(
                    &format!("field in {}", at.name()),
                    name,
                    &known,
                )));
            };
            let json = field.kind.json(member, &at.member(name))?;
            if object.insert(field.name.to_owned(), json).is_some() {
                return Err(Error::misuse(format!(
                    "{} says {} twice, in two spellings",
                    at.name(),
                    field.name
                )));
            }
        }
        Ok(object.into())
    }
}

/// Whether a program's spelling means Consul's field: `deregister_critical_service_after` is
/// `DeregisterCriticalServiceAfter`. Consul too compares names without regard to case.
fn same_name(field: &str, given: &str) -> bool {
    let letters = |name: &str| -> Vec<u8> {
        name.bytes().filter(|byte| *byte != b'_').map(|byte| byte.to_ascii_lowercase()).collect()
    };
    letters(field) == letters(given)
}

const CLEANED: &str = "the server would clean the segment `.` or `..` away: another path";

fn is_dots(segment: &str) -> bool {
    segment == "." || segment == ".."
}

/// Why the server would not store a key under exactly this name.
///
/// Measured: it redirects such paths to another key, or, in a transaction, stores a key that no
/// path can read.
fn check_key(key: &str) -> Result<(), &'static str> {
    if key.starts_with('/') {
        Err("Consul's keys have no leading `/` (the option strip_leading_slash takes it off)")
    } else if key.contains("//") {
        Err("the server would fold `//` into `/`: another key")
    } else if key.split('/').any(is_dots) {
        Err(CLEANED)
    } else {
        Ok(())
    }
}

/// The message for a name that is not known, with the nearest known one.
pub fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    const NEAR_ENOUGH: f64 = 0.6;
    // No name is near to one that is longer, and to compare with a huge one takes long.
    const LONGEST: usize = 100;
    let nearest = known
        .iter()
        .filter(|_| name.len() <= LONGEST)
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(
                    &name.to_lowercase(),
                    &candidate.to_lowercase(),
                ),
                candidate,
            )
        })
        .filter(|(likeness, _)| *likeness >= NEAR_ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let name = Value::from(name).shown();
    match nearest {
        Some((_, nearest)) => format!("unknown {what} {name}; did you mean {nearest:?}?"),
        None if known.is_empty() => format!("unknown {what} {name}; there are none"),
        None => format!("unknown {what} {name}; known are {}", known.join(", ")),
    }
}

/// The bytes of a value that is sent as it is.
pub fn payload(value: &Value, at: &At) -> Result<Vec<u8>, Error> {
    Ok(match value {
        Value::Bytes(bytes) => bytes.clone(),
        Value::Bool(_) | Value::Int(_) | Value::Uint(_) => value.shown().into_bytes(),
        Value::Float(number) if !number.is_finite() => {
            return Err(at.bad_value(value, "it has no text to send"));
        }
        Value::Float(_) => value.shown().into_bytes(),
        Value::Foreign(_) => return Err(at.wrong_type(&Shape::Payload, value)),
        Value::Null | Value::List(_) | Value::Map(_) => {
            let json = value.to_json().map_err(|error| error.context(&at.name()))?;
            json.to_string().into_bytes()
        }
    })
}
