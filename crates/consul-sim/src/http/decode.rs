//! JSON bodies as Go's decoder reads them: names without regard to case, null as absent, and the
//! texts of its errors.

use super::reply::Refusal;
use crate::go;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// A JSON value whose members keep their order and duplicates.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads the first JSON value of a body and ignores what follows it.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(body);
        let mut reader = serde_json::Deserializer::from_str(&text);
        Json::deserialize(&mut reader).map_err(|error| syntax_error(&text, &error))
    }

    /// Reads a text that has one JSON value.
    pub fn read_whole(text: &str) -> Result<Self, String> {
        let value = Json::read(text.as_bytes())?;
        let mut values =
            serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
        values.next();
        match text[values.byte_offset()..].trim_start().chars().next() {
            Some(next) => Err(format!("invalid character '{next}' after top-level value")),
            None => Ok(value),
        }
    }

    /// The kind of value, as Go's decoder names it.
    fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "bool",
            Json::Number(_) => "number",
            Json::Text(_) => "string",
            Json::List(_) => "array",
            Json::Object(_) => "object",
        }
    }

    /// The items of a list, or the error of a field of Go type `go_type`.
    pub fn list(&self, field: &str, go_type: &str) -> Result<&[Json], String> {
        match self {
            Json::List(items) => Ok(items),
            other => Err(other.field_type_error(field, go_type)),
        }
    }

    fn text(&self, field: &str, go_type: &str) -> Result<String, String> {
        match self {
            Json::Text(text) => Ok(text.clone()),
            Json::Null => Ok(String::new()),
            other => Err(other.field_type_error(field, go_type)),
        }
    }

    fn text_items(&self, field: &str) -> Result<Vec<String>, String> {
        let items = self.list(field, "[]string")?.iter();
        items.map(|item| item.text(field, "string")).collect()
    }

    /// The error of a value that does not fit Go type `go_type`.
    pub fn value_type_error(&self, go_type: &str) -> String {
        format!("json: cannot unmarshal {} into Go value of type {go_type}", self.kind())
    }

    /// The error of a field that does not fit.
    pub fn field_type_error(&self, field: &str, go_type: &str) -> String {
        let kind = self.kind();
        format!("json: cannot unmarshal {kind} into Go struct field {field} of type {go_type}")
    }
}

impl From<&Json> for serde_json::Value {
    fn from(json: &Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => Self::Number(number.clone()),
            Json::Text(text) => Self::String(text.clone()),
            Json::List(items) => items.iter().map(Self::from).collect(),
            Json::Object(members) => {
                members.iter().map(|(name, value)| (name.clone(), Self::from(value))).collect()
            }
        }
    }
}

const IN_KEY: &str = "looking for beginning of object key string";

/// Where a wrong character is, as the reader here and as Go's decoder say it.
const SYNTAX_ERRORS: &[(&str, &str)] = &[
    ("key must be a string", IN_KEY),
    ("trailing comma", "looking for beginning of value"),
    ("expected `:`", "after object key"),
    ("expected `,` or `}`", "after object key:value pair"),
    ("expected `,` or `]`", "after array element"),
    ("control character", "in string literal"),
    ("invalid escape", "in string escape code"),
];

fn syntax_error(text: &str, error: &serde_json::Error) -> String {
    if text.trim().is_empty() {
        return "EOF".to_owned();
    }
    if error.is_eof() {
        return "unexpected EOF".to_owned();
    }
    let line = text.split('\n').nth(error.line().saturating_sub(1)).unwrap_or("");
    let wrong = line.as_bytes().get(error.column().saturating_sub(1)).copied().unwrap_or(b' ');
    let wrong = match wrong {
        b'\'' => "\\'".to_owned(),
        b'"' => "\"".to_owned(),
        other => go::quoted(char::from(other).to_string()).trim_matches('"').to_owned(),
    };
    let why = error.to_string();
    let place = SYNTAX_ERRORS.iter().find(|(own, _)| why.starts_with(own));
    let place = match place {
        // A comma that is followed by the end of its object, not of its list.
        Some(("trailing comma", _)) if wrong == "}" => IN_KEY,
        Some((_, place)) => place,
        None => "looking for beginning of value",
    };
    format!("invalid character '{wrong}' {place}")
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("not a finite number"))?;
        Ok(Json::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = object.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}

/// The names of a Go type in the errors of its decoder.
#[derive(Clone, Copy)]
pub(crate) struct GoType {
    /// The type itself, for a body that is not an object.
    pub value: &'static str,
    /// The prefix of the field names.
    pub fields: &'static str,
}

/// A map of lists of strings, which may be null.
pub(crate) type TextLists = BTreeMap<String, Option<Vec<String>>>;

/// A JSON object whose fields are read by the rules of Go's decoder.
pub(crate) struct Object<'a> {
    members: &'a [(String, Json)],
    fields: Cow<'static, str>,
    /// Whether errors name the type around a decoder of its own, and not the innermost one.
    in_own_decoder: bool,
}

impl<'a> Object<'a> {
    /// The object in `json`; null is an empty one.
    pub fn new(json: &'a Json, go_type: GoType) -> Result<Self, String> {
        let members = match json {
            Json::Object(members) => members.as_slice(),
            Json::Null => &[],
            other => return Err(other.value_type_error(go_type.value)),
        };
        Ok(Self { members, fields: go_type.fields.into(), in_own_decoder: false })
    }

    /// The object with these members, whose fields are called `fields` and their name in errors.
    pub fn of_members(members: &'a [(String, Json)], fields: &'static str) -> Self {
        Self { members, fields: fields.into(), in_own_decoder: false }
    }

    /// The object in a field, or in an item or a member of it; null is an empty one. A Go type
    /// without a name has a decoder of its own, in which its fields belong to an `Alias`.
    pub fn nested(&self, name: &str, json: &'a Json, go_type: &str) -> Result<Object<'a>, String> {
        let members = match json {
            Json::Object(members) => members.as_slice(),
            Json::Null => &[],
            other => return Err(other.field_type_error(&self.path(name), go_type)),
        };
        let (around, path) = self.fields.split_once('.').unwrap_or_default();
        let is_nameless = go_type.starts_with("struct ");
        let own = go_type.rsplit_once('.').map_or(go_type, |(_, own)| own);
        let own = if is_nameless || self.in_own_decoder { around } else { own };
        let alias = if is_nameless { "Alias." } else { "" };
        let fields = format!("{own}.{path}{name}.{alias}").into();
        Ok(Object { members, fields, in_own_decoder: self.in_own_decoder || is_nameless })
    }

    /// As [`Object::nested`]; `None` if the field is null or absent.
    pub fn inner(&self, name: &str, go_type: &str) -> Result<Option<Object<'a>>, String> {
        self.get(name).map(|json| self.nested(name, json, go_type)).transpose()
    }

    /// Refuses null in a field whose type has a decoder of its own. Consul's handler panics there.
    pub fn refuse_null(&self, name: &str, go_type: &str) -> Result<(), String> {
        match self.member(name) {
            Some(Json::Null) => Err(Json::Null.field_type_error(&self.path(name), go_type)),
            _ => Ok(()),
        }
    }

    /// The object of a request's body, or the error that most endpoints return.
    pub fn of_body(json: &'a Json, go_type: GoType) -> Result<Self, Refusal> {
        Self::new(json, go_type).map_err(decode_error)
    }

    /// Refuses unknown fields, and values of wrong types in those that Consul decodes though nothing depends on them.
    pub fn check_known(&self, known: &[&str]) -> Result<(), String> {
        let is_known = |name: &String| known.iter().any(|known| known.eq_ignore_ascii_case(name));
        if let Some((name, _)) = self.members.iter().find(|(name, _)| !is_known(name)) {
            return Err(format!("json: unknown field {}", go::quoted(name)));
        }
        for name in known {
            match *name {
                "PeerName" | "Token" | "Hash" | "CreatedAt" | "UpdatedAt" => {
                    self.text(name)?;
                }
                "CreateIndex" | "ModifyIndex" => {
                    self.uint(name)?;
                }
                "Precedence" => {
                    self.int(name)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the field is present, even as null.
    pub fn has(&self, name: &str) -> bool {
        self.member(name).is_some()
    }

    /// The field's value; `None` if it is null or absent.
    pub fn get(&self, name: &str) -> Option<&'a Json> {
        self.member(name).filter(|value| **value != Json::Null)
    }

    fn member(&self, name: &str) -> Option<&'a Json> {
        let same_name = |(known, _): &&(String, Json)| known.eq_ignore_ascii_case(name);
        self.members.iter().rev().find(same_name).map(|(_, value)| value)
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.fields)
    }

    /// Whether every field has the zero value of its type. A duration is a text or a number, and
    /// anything else says nothing of it.
    pub fn is_zero(&self, is_time: impl Fn(&str) -> bool) -> bool {
        self.members.iter().all(|(name, value)| match (value, is_time(name)) {
            (Json::Null | Json::Bool(false), _) => true,
            (Json::Text(text), true) => go::duration(text) == Ok(0),
            (Json::Text(text), false) => text.is_empty(),
            (Json::Number(number), is_time) => {
                number.as_f64().is_some_and(|it| it == 0.0 || is_time && it.abs() < 1.0)
            }
            (Json::Bool(true) | Json::List(_) | Json::Object(_), is_time) => is_time,
        })
    }

    /// A string; empty if absent.
    pub fn text(&self, name: &str) -> Result<String, String> {
        self.text_of(name, "string")
    }

    /// A string of a Go type of its own; empty if absent.
    pub fn text_of(&self, name: &str, go_type: &str) -> Result<String, String> {
        match self.get(name) {
            Some(value) => value.text(&self.path(name), go_type),
            None => Ok(String::new()),
        }
    }

    /// A boolean; false if absent.
    pub fn flag(&self, name: &str) -> Result<bool, String> {
        match self.get(name) {
            Some(Json::Bool(value)) => Ok(*value),
            Some(other) => Err(other.field_type_error(&self.path(name), "bool")),
            None => Ok(false),
        }
    }

    /// An integer; 0 if absent.
    pub fn int(&self, name: &str) -> Result<i64, String> {
        let Some(value) = self.get(name) else { return Ok(0) };
        let number = match value {
            Json::Number(number) => number,
            other => return Err(other.field_type_error(&self.path(name), "int")),
        };
        number.as_i64().ok_or_else(|| {
            let path = self.path(name);
            format!(
                "json: cannot unmarshal number {number} into Go struct field {path} of type int"
            )
        })
    }

    /// An unsigned integer; 0 if absent.
    pub fn uint(&self, name: &str) -> Result<u64, String> {
        let Some(value) = self.get(name) else { return Ok(0) };
        let number = match value {
            Json::Number(number) => number,
            other => return Err(other.field_type_error(&self.path(name), "uint64")),
        };
        number.as_u64().ok_or_else(|| {
            let path = self.path(name);
            format!(
                "json: cannot unmarshal number {number} into Go struct field {path} of type uint64"
            )
        })
    }

    /// A list of strings; `None` if absent.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<String>>, String> {
        self.get(name).map(|value| value.text_items(&self.path(name))).transpose()
    }

    /// A map of lists of strings, which may be null; `None` if absent.
    pub fn text_lists(&self, name: &str) -> Result<Option<TextLists>, String> {
        let Some(members) = self.object(name, "map[string][]string")? else { return Ok(None) };
        let path = self.path(name);
        let read = |(name, value): &(String, Json)| {
            let list = (*value != Json::Null).then(|| value.text_items(&path)).transpose()?;
            Ok((name.clone(), list))
        };
        members.iter().map(read).collect::<Result<_, _>>().map(Some)
    }

    /// A list; `None` if absent.
    pub fn list(&self, name: &str, go_type: &str) -> Result<Option<&'a [Json]>, String> {
        self.get(name).map(|value| value.list(&self.path(name), go_type)).transpose()
    }

    /// The members of an object; `None` if absent.
    pub fn object(
        &self,
        name: &str,
        go_type: &str,
    ) -> Result<Option<&'a [(String, Json)]>, String> {
        match self.get(name) {
            Some(Json::Object(members)) => Ok(Some(members)),
            Some(other) => Err(other.field_type_error(&self.path(name), go_type)),
            None => Ok(None),
        }
    }

    /// A map of strings; `None` if absent.
    pub fn text_map(&self, name: &str) -> Result<Option<BTreeMap<String, String>>, String> {
        let Some(members) = self.object(name, "map[string]string")? else { return Ok(None) };
        let path = self.path(name);
        let read =
            |(name, value): &(String, Json)| Ok((name.clone(), value.text(&path, "string")?));
        members.iter().map(read).collect::<Result<_, _>>().map(Some)
    }
}

/// The reply to a body that cannot be read.
pub(crate) fn decode_error(why: String) -> Refusal {
    Refusal::bad(format!("Request decode failed: {why}"))
}

/// The error of an unknown field, with a hint if only Consul Enterprise has it. Some endpoints give it.
pub(crate) fn with_hint(mut why: String) -> String {
    if why == "json: unknown field \"Namespace\"" {
        why += " - Namespaces are a Consul Enterprise feature";
    }
    why
}

/// The JSON of a required body.
pub(crate) fn body(bytes: &[u8]) -> Result<Json, Refusal> {
    Json::read(bytes).map_err(decode_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: GoType = GoType { value: "api.Thing", fields: ".Thing." };

    fn read(text: &str) -> Json {
        Json::read(text.as_bytes()).expect("JSON")
    }

    #[test]
    fn fields_are_found_without_regard_to_case_and_the_last_one_counts() {
        let json = read(r#"{"NAME":"a","name":"b","Other":null}"#);
        let object = Object::new(&json, ANY).expect("an object");
        assert_eq!(object.text("Name"), Ok("b".to_owned()));
        assert!(object.has("other") && object.get("other").is_none());
    }

    #[test]
    fn the_first_unknown_field_is_named() {
        let json = read(r#"{"z":1,"name":"b","a":2}"#);
        let object = Object::new(&json, ANY).expect("an object");
        assert_eq!(object.check_known(&["Name"]), Err("json: unknown field \"z\"".to_owned()));
    }

    #[test]
    fn a_wrong_type_is_refused_with_gos_error() {
        let json = read(r#"{"Port":"x"}"#);
        let object = Object::new(&json, ANY).expect("an object");
        let error = "json: cannot unmarshal string into Go struct field .Thing.Port of type int";
        assert_eq!(object.int("Port"), Err(error.to_owned()));
    }

    #[test]
    fn syntax_errors_are_gos() {
        for (text, error) in [
            ("", "EOF"),
            ("{\"a", "unexpected EOF"),
            ("x", "invalid character 'x' looking for beginning of value"),
        ] {
            assert_eq!(Json::read(text.as_bytes()), Err(error.to_owned()));
        }
    }
}
