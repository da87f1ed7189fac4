//! The declared fields of a body's objects: one table reads, checks and completes them.

use super::decode::{GoType, Json, Object};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// An object of a body.
pub(crate) struct Fields {
    pub go_type: GoType,
    /// The fields in the order of replies.
    pub fields: &'static [(&'static str, Kind)],
}

/// The kind of a field's value, and what an absent one becomes.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Text,
    Flag,
    Int,
    /// A list of strings; null if absent.
    Texts,
    /// A map of strings; null if absent.
    TextMap,
    /// A map of lists of strings; null if absent.
    TextLists,
    Object(&'static Fields),
    /// A list of objects; null if absent. The text is Go's name of the list's type.
    Objects(&'static Fields, &'static str),
    /// Known and not kept.
    Unused,
}

impl Fields {
    /// The object with all its fields, in their order; unknown fields are refused.
    pub fn read(&self, json: &Json) -> Result<Json, String> {
        let given = Object::new(json, self.go_type)?;
        given.check_known(&self.fields.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
        let kept = self.fields.iter().filter(|(_, kind)| !matches!(kind, Kind::Unused));
        let member =
            |(name, kind): &(&str, Kind)| Ok(((*name).to_owned(), kind.read(&given, name)?));
        kept.map(member).collect::<Result<_, _>>().map(Json::Object)
    }
}

impl Kind {
    pub fn read(self, given: &Object<'_>, name: &str) -> Result<Json, String> {
        let texts = |list: Vec<String>| Json::List(list.into_iter().map(Json::Text).collect());
        Ok(match self {
            Kind::Text => Json::Text(given.text(name)?),
            Kind::Flag => Json::Bool(given.flag(name)?),
            Kind::Int => Json::Number(given.int(name)?.into()),
            Kind::Texts => given.texts(name)?.map_or(Json::Null, texts),
            Kind::TextMap => given.text_map(name)?.map_or(Json::Null, |map| {
                Json::Object(map.into_iter().map(|(name, text)| (name, Json::Text(text))).collect())
            }),
            Kind::TextLists => given.text_lists(name)?.map_or(Json::Null, |map| {
                let list = |list: Option<Vec<String>>| list.map_or(Json::Null, texts);
                Json::Object(map.into_iter().map(|(name, given)| (name, list(given))).collect())
            }),
            Kind::Object(fields) => {
                given.object(name, fields.go_type.value)?;
                fields.read(given.get(name).unwrap_or(&Json::Null))?
            }
            Kind::Objects(fields, list) => match given.list(name, list)? {
                Some(items) => {
                    let items = items.iter().map(|item| fields.read(item));
                    Json::List(items.collect::<Result<_, _>>()?)
                }
                None => Json::Null,
            },
            Kind::Unused => Json::Null,
        })
    }
}

impl Json {
    /// A member of an object by its exact name; null if there is none.
    pub fn at(&self, name: &str) -> &Json {
        let members: &[_] = if let Json::Object(members) = self { members } else { &[] };
        let found = members.iter().find(|(known, _)| known == name);
        found.map_or(&Json::Null, |(_, value)| value)
    }

    /// The text; empty if the value is another.
    pub fn as_text(&self) -> &str {
        if let Json::Text(text) = self { text } else { "" }
    }

    /// Whether the value is true.
    pub fn is_true(&self) -> bool {
        *self == Json::Bool(true)
    }

    /// The integer; 0 if the value is another.
    pub fn as_int(&self) -> i64 {
        if let Json::Number(number) = self { number.as_i64().unwrap_or(0) } else { 0 }
    }

    /// The items of a list; none if the value is another.
    pub fn items(&self) -> &[Json] {
        if let Json::List(items) = self { items } else { &[] }
    }

    /// The texts of a list.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.items().iter().map(Json::as_text)
    }

    /// The members of an object; none if the value is another.
    pub fn members(&self) -> &[(String, Json)] {
        if let Json::Object(members) = self { members } else { &[] }
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Null => serializer.serialize_none(),
            Json::Bool(value) => serializer.serialize_bool(*value),
            Json::Number(number) => number.serialize(serializer),
            Json::Text(text) => serializer.serialize_str(text),
            Json::List(items) => items.serialize(serializer),
            Json::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}
