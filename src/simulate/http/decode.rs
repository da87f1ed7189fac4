//! JSON bodies as Go's decoder reads them: names without regard to case, null as absent, and the
//! texts of its errors.

use super::reply::Refusal;
use crate::ordered;
use crate::simulate::go;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
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

fn syntax_error(text: &str, error: &serde_json::Error) -> String {
    if text.trim().is_empty() {
        return "EOF".to_owned();
    }
    if error.is_eof() {
        return "unexpected EOF".to_owned();
    }
    let line = text.split('\n').nth(error.line().saturating_sub(1)).unwrap_or("");
    let wrong = line.as_bytes().get(error.column().saturating_sub(1)).copied().unwrap_or(b' ');
    format!("invalid character '{}' looking for beginning of value", char::from(wrong))
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

/// A JSON object whose fields are read by the rules of Go's decoder.
pub(crate) struct Object<'a> {
    members: &'a [(String, Json)],
    fields: &'static str,
}

impl<'a> Object<'a> {
    /// The object in `json`; null is an empty one.
    pub fn new(json: &'a Json, go_type: GoType) -> Result<Self, String> {
        let members = match json {
            Json::Object(members) => members.as_slice(),
            Json::Null => &[],
            other => return Err(other.value_type_error(go_type.value)),
        };
        Ok(Self { members, fields: go_type.fields })
    }

    /// The object with these members, whose fields are called `fields` and their name in errors.
    pub fn of_members(members: &'a [(String, Json)], fields: &'static str) -> Self {
        Self { members, fields }
    }

    /// The object of a request's body, or the error that most endpoints return.
    pub fn of_body(json: &'a Json, go_type: GoType) -> Result<Self, Refusal> {
        Self::new(json, go_type).map_err(decode_error)
    }

    /// Refuses unknown fields.
    pub fn check_known(&self, known: &[&str]) -> Result<(), String> {
        let is_known = |name: &String| known.iter().any(|known| known.eq_ignore_ascii_case(name));
        match self.members.iter().find(|(name, _)| !is_known(name)) {
            Some((name, _)) => Err(format!("json: unknown field {}", go::quoted(name))),
            None => Ok(()),
        }
    }

    /// Whether there are no fields but null ones.
    pub fn is_empty(&self) -> bool {
        self.members.iter().all(|(_, value)| *value == Json::Null)
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

    /// A string; empty if absent.
    pub fn text(&self, name: &str) -> Result<String, String> {
        match self.get(name) {
            Some(value) => value.text(&self.path(name), "string"),
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
        let Some(value) = self.get(name) else { return Ok(None) };
        let path = self.path(name);
        let items = value.list(&path, "[]string")?;
        items.iter().map(|item| item.text(&path, "string")).collect::<Result<_, _>>().map(Some)
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
        ordered::try_map(members.iter().map(read)).map(Some)
    }
}

/// The reply to a body that cannot be read.
pub(crate) fn decode_error(why: String) -> Refusal {
    Refusal::bad(format!("Request decode failed: {why}"))
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
