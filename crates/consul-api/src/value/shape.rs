//! Checks of arguments, options and bodies by their [`Shape`].

use super::spelling::spelled;
use super::{Value, duration};
use crate::error::Error;
use crate::table::{Field, Shape};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::{AsciiSet, percent_encode};
use std::time::Duration;

/// The characters that Consul takes for itself in the target of a request, also `#`, and that a URI cannot have; so is
/// each byte that is not ASCII.
///
/// Source: `url.ParseRequestURI` of Go.
pub const RAW_IN_TARGETS: &AsciiSet = &AsciiSet::EMPTY
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The path of a value, for messages: an argument's name, and members of it.
pub struct ValuePath<'a> {
    place: &'a str,
    parent: Option<&'a ValuePath<'a>>,
    /// Whether it is in a table that Consul has answered with.
    pub(super) is_answer: bool,
}

impl<'a> ValuePath<'a> {
    /// An argument or an option.
    pub fn top(name: &'a str) -> ValuePath<'a> {
        ValuePath { place: name, parent: None, is_answer: false }
    }

    /// The member of this name.
    pub fn member(&'a self, place: &'a str) -> ValuePath<'a> {
        ValuePath { place, parent: Some(self), is_answer: self.is_answer }
    }

    /// The same, of a table: only those that Consul has answered with have indexes.
    pub(super) fn of(&self, table: &Value) -> ValuePath<'a> {
        let has_index =
            |name: &str| ["CreateIndex", "ModifyIndex"].iter().any(|it| same_name(it, name));
        let has_one =
            matches!(table, Value::Map(members) if members.iter().any(|(it, _)| has_index(it)));
        ValuePath { place: self.place, parent: self.parent, is_answer: self.is_answer || has_one }
    }

    /// The name of the table that has the value, or of the list that has this table.
    pub(super) fn table(&self) -> Option<&'a str> {
        let parent = self.parent?;
        let is_item = parent.place.bytes().all(|byte| byte.is_ascii_digit());
        if is_item { parent.table() } else { Some(parent.place) }
    }

    pub(super) fn name(&self) -> String {
        match self.parent {
            Some(parent) => format!("{}.{}", parent.name(), self.place),
            None => self.place.to_owned(),
        }
    }

    /// The error for a value of a wrong type.
    pub fn wrong_type(&self, shape: &Shape, value: &Value) -> Error {
        self.wrong_type_text(&shape.expected(), value)
    }

    /// The error for an invalid secret, which it does not show.
    pub fn secret(&self, wanted: &str) -> Error {
        Error::argument(format!("{} must be {wanted}", self.name()))
    }

    /// The error for a value of a wrong type, with the allowed type in words.
    pub fn wrong_type_text(&self, wanted: &str, value: &Value) -> Error {
        let given = match value {
            Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_) | Value::Bytes(_) => {
                format!("{} {}", value.type_name(), value.shown())
            }
            _ => value.type_name().to_owned(),
        };
        Error::misuse(format!("{} must be {wanted}, got {given}", self.name(),))
    }

    /// The error for a table that has a member of this name in two spellings.
    pub(super) fn twice(&self, name: &str) -> Error {
        Error::misuse(format!("{} has {name} twice, in two spellings", self.name()))
    }

    /// The error for an invalid value of the right type.
    pub fn bad_value(&self, value: &Value, why: &str) -> Error {
        Error::argument(format!("{} is {}: {why}", self.name(), value.shown()))
    }
}

impl Shape {
    /// The allowed values, for messages and the reference.
    pub fn expected(&self) -> String {
        match self {
            Shape::Text | Shape::Name | Shape::Key => "a non-empty string".into(),
            Shape::Segment => "a non-empty string without a `/`".into(),
            Shape::TextOrEmpty | Shape::KeyPrefix => "a string".into(),
            Shape::EncodedPath => "a path that begins with `/`".into(),
            Shape::Payload | Shape::Base64 => "a string, number, boolean or table".into(),
            Shape::Bool | Shape::Flag => "true or false".into(),
            Shape::Uint => "an integer from 0 to 2^64-1 (a number or a decimal string)".into(),
            Shape::Port => "a port, an integer from 0 to 65535".into(),
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
            Shape::Object(_) | Shape::Free(_) | Shape::Any => "a table".into(),
            Shape::NotSent => "any value".into(),
            Shape::Objects(_) => "a list of tables".into(),
            Shape::ObjectMap(_) => "a table of tables by name".into(),
        }
    }

    /// Checks a string.
    pub fn text(&self, value: &Value, at: &ValuePath) -> Result<String, Error> {
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
            return Err(at.bad_value(value, &format!("it must be {}", self.expected())));
        }
        if matches!(self, Shape::Key | Shape::KeyPrefix) {
            check_key(text).map_err(|why| at.bad_value(value, why))?;
        }
        if matches!(self, Shape::Segment) && text.contains('/') {
            return Err(at.bad_value(value, "it must not have a `/`"));
        }
        if matches!(self, Shape::Name) {
            check_in_path(text).map_err(|why| at.bad_value(value, why))?;
        }
        Ok(text.to_owned())
    }

    /// Checks a string for the path of a request.
    pub fn path_text(&self, value: &Value, at: &ValuePath) -> Result<String, Error> {
        let text = match (self, value) {
            (Shape::EncodedPath, Value::Bytes(path)) => {
                percent_encode(path, RAW_IN_TARGETS).to_string()
            }
            _ => self.text(value, at)?,
        };
        if matches!(self, Shape::EncodedPath) {
            if !text.starts_with('/') {
                return Err(at.bad_value(value, "it must begin with `/`"));
            }
            if text.contains(' ') {
                return Err(at.bad_value(value, "a space must be written as `%20`"));
            }
        }
        // A query is not cleaned.
        let path = match self {
            Shape::EncodedPath => text.split('?').next().unwrap_or_default(),
            _ => &text,
        };
        check_in_path(path).map_err(|why| at.bad_value(value, why))?;
        Ok(text)
    }

    /// Checks a boolean.
    pub fn boolean(&self, value: &Value, at: &ValuePath) -> Result<bool, Error> {
        match value {
            Value::Bool(value) => Ok(*value),
            _ => Err(at.wrong_type(self, value)),
        }
    }

    /// Checks an unsigned integer: a number, or a decimal string.
    pub fn uint(&self, value: &Value, at: &ValuePath) -> Result<u64, Error> {
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
                "it must be an integer from 0 to 2^64-1; above 2^53 use a decimal string",
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

    fn port(&self, value: &Value, at: &ValuePath) -> Result<u16, Error> {
        let port = u16::try_from(self.uint(value, at)?);
        port.map_err(|_| at.bad_value(value, &format!("it must be {}", self.expected())))
    }

    /// Checks a duration.
    pub fn duration(&self, value: &Value, at: &ValuePath) -> Result<Duration, Error> {
        let per_second = if matches!(self, Shape::Millis) { 1000.0 } else { 1.0 };
        let seconds = |number: f64| Duration::try_from_secs_f64(number / per_second).ok();
        let duration = match (value.as_f64(), value) {
            (Some(number), _) => seconds(number),
            (None, Value::Bytes(_)) if !matches!(self, Shape::Millis) => {
                value.as_str().and_then(duration::parse)
            }
            _ => return Err(at.wrong_type(self, value)),
        };
        let wanted = || at.bad_value(value, &format!("it must be {}", self.expected()));
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

    /// Checks a list of strings, or one string.
    pub fn texts(&self, value: &Value, at: &ValuePath) -> Result<Vec<String>, Error> {
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

    /// Checks a table by names, and returns its members.
    pub fn members<'v>(
        &self,
        value: &'v Value,
        at: &ValuePath,
    ) -> Result<&'v [(String, Value)], Error> {
        match value {
            Value::Map(members) => Ok(members),
            Value::List(items) if items.is_empty() => Ok(&[]),
            _ => Err(at.wrong_type(self, value)),
        }
    }

    fn list<'v>(&self, value: &'v Value, at: &ValuePath) -> Result<&'v [Value], Error> {
        match value {
            Value::List(items) => Ok(items),
            Value::Map(members) if members.is_empty() => Ok(&[]),
            _ => Err(at.wrong_type(self, value)),
        }
    }

    /// The value with one leading slash removed from each key in it.
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

    /// Checks a value, and returns it as JSON for a body.
    pub fn json(&self, value: &Value, at: &ValuePath) -> Result<serde_json::Value, Error> {
        Ok(match self {
            Shape::Bool | Shape::Flag => self.boolean(value, at)?.into(),
            Shape::Uint => self.uint(value, at)?.into(),
            Shape::Port => self.port(value, at)?.into(),
            Shape::Duration { .. } | Shape::Millis => {
                duration::format(self.duration(value, at)?).into()
            }
            Shape::Base64 => BASE64.encode(payload(value, at)?).into(),
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
            Shape::Free(form) => match value {
                Value::Map(_) => form.json(&spelled(value, form), at)?,
                Value::List(items) if items.is_empty() => serde_json::Map::new().into(),
                _ => return Err(at.wrong_type(self, value)),
            },
            Shape::NotSent => serde_json::Value::Null,
            Shape::Any => match value {
                Value::List(_) | Value::Map(_) => {
                    value.to_json().map_err(|error| error.context(&at.name()))?
                }
                _ => return Err(at.wrong_type(self, value)),
            },
            Shape::Payload
            | Shape::Text
            | Shape::Name
            | Shape::Segment
            | Shape::TextOrEmpty
            | Shape::Key
            | Shape::KeyPrefix
            | Shape::EncodedPath
            | Shape::OneOf(_) => self.text(value, at)?.into(),
        })
    }

    fn by_name(
        &self,
        value: &Value,
        at: &ValuePath,
        each: &Shape,
    ) -> Result<serde_json::Value, Error> {
        let mut object = serde_json::Map::new();
        for (name, member) in self.members(value, at)? {
            object.insert(name.clone(), each.json(member, &at.member(name))?);
        }
        Ok(object.into())
    }

    fn object(
        &self,
        value: &Value,
        at: &ValuePath,
        fields: &[Field],
    ) -> Result<serde_json::Value, Error> {
        let at = &at.of(value);
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
            if matches!(field.kind, Shape::NotSent) {
                continue;
            }
            let json = field.kind.json(member, &at.member(name))?;
            if object.insert(field.name.to_owned(), json).is_some() {
                return Err(at.twice(field.name));
            }
        }
        Ok(object.into())
    }
}

/// Whether the spelling of a program is that of a field: `deregister_critical_service_after` is
/// `DeregisterCriticalServiceAfter`. Consul ignores case, too.
pub(crate) fn same_name(field: &str, given: &str) -> bool {
    letters(field) == letters(given)
}

/// The letters of a name that Consul and [`same_name`] compare.
pub(super) fn letters(name: &str) -> Vec<u8> {
    name.bytes().filter(|byte| *byte != b'_').map(|byte| byte.to_ascii_lowercase()).collect()
}

/// Refuses what a path cannot have at any place.
pub(super) fn check_in_path(text: &str) -> Result<(), &'static str> {
    if has_dots(text.as_bytes()) {
        Err(CLEANED)
    } else if !is_printable(text) {
        Err("Consul refuses characters here that cannot be printed")
    } else {
        Ok(())
    }
}

const CLEANED: &str =
    "the server would remove the segment `.` or `..`, which results in another path";

fn has_dots(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b".."))
}

/// Whether Consul takes a path with this text: all of its characters are letters, marks, numbers, punctuation, symbols
/// or the space, as Go's `unicode.IsPrint` decides. The standard library here may know newer characters.
pub fn is_printable(text: &str) -> bool {
    let is_ascii = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let quotes = || text.chars().filter(|c| matches!(c, '"' | '\'' | '\\')).count();
    // It escapes these, characters that are not printable, and a leading mark.
    is_ascii || format!("a{text}").escape_debug().count() == 1 + text.chars().count() + quotes()
}

/// Refuses a key that the server would not store under exactly this name.
///
/// Measured: the server redirects such paths to another key; in a transaction it stores a key that no path
/// can read.
///
/// # Errors
/// Why the server does not store it under that name.
pub fn check_key(key: &str) -> Result<(), &'static str> {
    if key.starts_with('/') {
        Err("Consul's keys have no leading `/` (the option strip_leading_slash removes it)")
    } else if key.as_bytes().windows(2).any(|pair| pair == b"//") {
        Err("the server would replace `//` by `/`, which is another key")
    } else if has_dots(key.as_bytes()) {
        Err(CLEANED)
    } else {
        Ok(())
    }
}

/// The known name that is most like this one, if its likeness, from 0 to 1, is at least `near_enough`.
pub fn nearest<'k>(name: &str, known: &[&'k str], near_enough: f64) -> Option<&'k str> {
    // A longer name is not near to any, and comparing a huge one takes long.
    const LONGEST: usize = 100;
    let name = name.to_lowercase();
    let likeness =
        |known: &str| strsim::normalized_damerau_levenshtein(&name, &known.to_lowercase());
    let known = known.iter().filter(|_| name.len() <= LONGEST).map(|it| (likeness(it), *it));
    let near = known.filter(|(likeness, _)| *likeness >= near_enough);
    near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, nearest)| nearest)
}

/// The message for an unknown name, with the nearest known one.
pub fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    const NEAR_ENOUGH: f64 = 0.6;
    match nearest(name, known, NEAR_ENOUGH) {
        Some(meant) => unknown_but(what, name, meant),
        None if known.is_empty() => {
            format!("unknown {what} {}; there are none", Value::from(name).shown())
        }
        None => {
            let name = Value::from(name).shown();
            format!("unknown {what} {name}; known are {}", known.join(", "))
        }
    }
}

/// The message for an unknown name that probably means this known one.
pub fn unknown_but(what: &str, name: &str, meant: &str) -> String {
    format!("unknown {what} {}; did you mean {meant:?}?", Value::from(name).shown())
}

/// The bytes of a [`Shape::Payload`].
pub fn payload(value: &Value, at: &ValuePath) -> Result<Vec<u8>, Error> {
    Ok(match value {
        Value::Bytes(bytes) => bytes.clone(),
        Value::Bool(_) | Value::Int(_) | Value::Uint(_) => value.shown().into_bytes(),
        Value::Float(number) if !number.is_finite() => {
            return Err(at.bad_value(value, "it is not finite"));
        }
        Value::Float(_) => value.shown().into_bytes(),
        Value::Foreign(_) => return Err(at.wrong_type(&Shape::Payload, value)),
        Value::Null | Value::List(_) | Value::Map(_) => {
            let json = value.to_json().map_err(|error| error.context(&at.name()))?;
            json.to_string().into_bytes()
        }
    })
}
