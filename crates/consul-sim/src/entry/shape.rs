//! The declared members of an entry, read as Consul's decoder of configuration does: names in any case and with underscores,
//! text for numbers and numbers for text.

use crate::go;
use crate::http::decode::Json;
use serde_json::Number;
use std::time::Duration;

/// The members of an object, in the order of replies.
pub(super) struct Shape(pub &'static [Member]);

/// The members of an object as a text, which takes less room than a table: `Name:type`, each with `!` behind it if replies
/// have it when it is absent, with `?` if they then have null, or with `=` and the value that they then have. Types are a
/// letter, the members of an object in braces, or the members of each item of a list in brackets.
pub(super) fn shape_of(text: &'static str) -> Shape {
    members_of(&mut &*text)
}

fn members_of(text: &mut &'static str) -> Shape {
    let mut members = Vec::new();
    loop {
        *text = text.trim_start();
        let Some((name, rest)) = text.split_once(':') else { break };
        if name.starts_with(['}', ']']) {
            break;
        }
        let (kind, rest) = rest.split_at(1);
        *text = rest;
        let inner = |text: &mut &'static str| -> &'static Shape {
            let shape = Box::leak(Box::new(members_of(text)));
            *text = text.get(1..).unwrap_or_default();
            shape
        };
        let kind = match kind {
            "{" => Kind::Object(inner(text)),
            "[" => Kind::List(inner(text)),
            "b" => Kind::Flag,
            "c" => Kind::Counts,
            "d" => Kind::Nanos,
            "m" => Kind::Texts,
            "n" => Kind::Count,
            "s" => Kind::Lines,
            _ => Kind::Text,
        };
        let end = text.find([' ', '}', ']']).unwrap_or(text.len());
        let (mark, rest) = text.split_at(end);
        *text = rest;
        let mut member = Member::new(name, kind);
        (member.always, member.is_null, member.usual) =
            (!mark.is_empty(), mark == "?", mark.strip_prefix('=').unwrap_or_default());
        members.push(member);
    }
    Shape(Box::leak(members.into_boxed_slice()))
}

pub(super) struct Member {
    pub name: &'static str,
    kind: Kind,
    /// Whether replies have it when it is absent.
    always: bool,
    /// Whether it is null in replies when it is absent.
    is_null: bool,
    /// Its value when it is absent or empty, if not the empty one.
    usual: &'static str,
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// A number of any kind, kept as given.
    Float,
    /// A number.
    Count,
    /// A boolean.
    Flag,
    /// Members of any name and value, in which a list of one item stands for the item.
    Config,
    /// Texts by name.
    Texts,
    /// A list of texts, or of numbers, in which null is an empty text, or 0.
    Lines,
    Counts,
    /// A duration, as a text or in nanoseconds.
    Time,
    /// A duration, which replies have in nanoseconds.
    Nanos,
    Object(&'static Shape),
    List(&'static Shape),
    /// A list of objects in which null stays null.
    Pointers(&'static Shape),
    Map(&'static Shape),
}

impl Member {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, always: false, is_null: false, usual: "" }
    }

    pub const fn text(name: &'static str) -> Self {
        Self::new(name, Kind::Text)
    }

    pub const fn float(name: &'static str) -> Self {
        Self::new(name, Kind::Float)
    }

    pub const fn count(name: &'static str) -> Self {
        Self::new(name, Kind::Count)
    }

    pub const fn flag(name: &'static str) -> Self {
        Self::new(name, Kind::Flag)
    }

    pub const fn lines(name: &'static str) -> Self {
        Self::new(name, Kind::Lines)
    }

    pub const fn counts(name: &'static str) -> Self {
        Self::new(name, Kind::Counts)
    }

    pub const fn texts(name: &'static str) -> Self {
        Self::new(name, Kind::Texts)
    }

    pub const fn config(name: &'static str) -> Self {
        Self::new(name, Kind::Config)
    }

    pub const fn time(name: &'static str) -> Self {
        Self::new(name, Kind::Time)
    }

    pub const fn nanos(name: &'static str) -> Self {
        Self::new(name, Kind::Nanos)
    }

    pub const fn object(name: &'static str, shape: &'static Shape) -> Self {
        Self::new(name, Kind::Object(shape))
    }

    pub const fn list(name: &'static str, shape: &'static Shape) -> Self {
        Self::new(name, Kind::List(shape))
    }

    pub const fn pointers(name: &'static str, shape: &'static Shape) -> Self {
        Self::new(name, Kind::Pointers(shape))
    }

    pub const fn map(name: &'static str, shape: &'static Shape) -> Self {
        Self::new(name, Kind::Map(shape))
    }

    pub const fn always(self) -> Self {
        Self { always: true, ..self }
    }

    /// Whether Consul has a pointer to the object, which is in replies only if it was given, or null.
    fn is_pointer(&self) -> bool {
        matches!(self.kind, Kind::Object(_)) && (!self.always || self.is_null)
    }

    /// The value in replies in the place of an absent member.
    fn empty(&self) -> Option<Json> {
        self.always.then(|| match self.kind {
            _ if self.is_null => Json::Null,
            Kind::Text => Json::Text(self.usual.to_owned()),
            Kind::Count => Json::Number(self.usual.parse::<i64>().unwrap_or(0).into()),
            Kind::Flag => Json::Bool(false),
            Kind::Nanos | Kind::Float => Json::Number(0.into()),
            Kind::Object(shape) => {
                let members = shape.0.iter().filter_map(|member| {
                    member.empty().map(|value| (member.name.to_owned(), value))
                });
                Json::Object(members.collect())
            }
            _ => Json::Null,
        })
    }

    /// Whether a reply leaves the value out. An empty object is a value, an empty map is not.
    fn is_left_out(&self, value: &Json) -> bool {
        match value {
            Json::Text(text) if !self.usual.is_empty() => text.is_empty(),
            Json::Number(number) if !self.usual.is_empty() => number.as_f64() == Some(0.0),
            _ if self.always => false,
            Json::Object(members) => {
                matches!(self.kind, Kind::Texts | Kind::Map(_)) && members.is_empty()
            }
            Json::Null | Json::Bool(false) => true,
            Json::Number(number) => number.as_f64() == Some(0.0),
            Json::Text(text) => text.is_empty(),
            Json::List(items) => items.is_empty(),
            _ => false,
        }
    }
}

/// The member of an object that the decoder takes for `name`.
pub(super) fn member<'a>(object: &'a Json, name: &str) -> Option<&'a Json> {
    let found = object.members().iter().find(|(given, _)| is_same(given, name));
    found.map(|(_, value)| value).filter(|value| **value != Json::Null)
}

/// Members that the store writes, and a caller may send back.
pub(super) const OF_THE_STORE: [&str; 4] = ["CreateIndex", "ModifyIndex", "Hash", "RaftIndex"];

fn unknown_key(name: &str) -> String {
    let lower = name.to_lowercase();
    let why = match () {
        () if lower.ends_with("namespace") => ", namespaces are a consul enterprise feature",
        () => "",
    };
    format!("invalid config key {}{why}", go::quoted(name))
}

fn is_same(given: &str, name: &str) -> bool {
    given == name || given.replace('_', "").eq_ignore_ascii_case(name)
}

/// The object of a block of HCL, which is a list of it.
fn block(given: &Json) -> &Json {
    match given.items() {
        [only @ Json::Object(_)] => only,
        _ => given,
    }
}

/// The maps in a list, also in lists in it, are one.
fn merged(items: &[Json], path: &str) -> Result<Json, String> {
    let mut members: Vec<(String, Json)> = Vec::new();
    for (place, item) in items.iter().enumerate() {
        let path = format!("{path}[{place}]");
        let given = match item {
            Json::Null => continue,
            Json::List(items) => merged(items, &path)?,
            Json::Object(_) => item.clone(),
            _ => return Err(not_a_map(item, &path)),
        };
        for (name, value) in given.members() {
            members.retain(|(known, _)| known != name);
            members.push((name.clone(), value.clone()));
        }
    }
    Ok(Json::Object(members))
}

impl Shape {
    /// The members of an entry under their own names, without those that are empty.
    pub fn read_entry(&self, given: &Json) -> Result<Json, String> {
        let mut unknown = Vec::new();
        let read = self.read(given, "", &mut unknown)?;
        errors(&unknown)?;
        Ok(read)
    }

    fn read(&self, given: &Json, path: &str, unknown: &mut Vec<String>) -> Result<Json, String> {
        let given = block(given);
        if !matches!(given, Json::Object(_)) {
            return Err(not_a_map(given, path));
        }
        let at = |name: &str| match path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        let mut members = Vec::new();
        for known in self.0 {
            let mut same: Vec<_> = given
                .members()
                .iter()
                .filter(|(name, value)| *value != Json::Null && is_same(name, known.name))
                .collect();
            // The name that is exactly the member's own counts. Source: `decodeStructFromMap` of mapstructure, and
            // `HookTranslateKeys` in Consul's folder lib/decode, which writes names with underscores in small letters.
            same.sort_by_key(|(name, _)| name != known.name);
            unknown.extend(same.iter().skip(1).map(|(name, _)| match name.contains('_') {
                true => unknown_key(&at(&known.name.to_lowercase())),
                false => unknown_key(&at(name)),
            }));
            let value = match same.first() {
                // A list is taken off for the pointer to an object, and another for the object.
                Some((_, Json::List(items))) if known.is_pointer() && items.len() == 1 => {
                    Some(known.kind.read(&items[0], &at(known.name), unknown)?)
                }
                Some((_, value)) => Some(known.kind.read(value, &at(known.name), unknown)?)
                    .filter(|value| !known.is_left_out(value)),
                None => None,
            };
            if let Some(value) = value.or_else(|| known.empty()) {
                members.push((known.name.to_owned(), value));
            }
        }
        for (name, _) in given.members() {
            let is_own = path.is_empty() && OF_THE_STORE.contains(&name.as_str());
            if !is_own && !self.0.iter().any(|member| is_same(name, member.name)) {
                unknown.push(unknown_key(&at(name)));
            }
        }
        Ok(Json::Object(members))
    }
}

impl Kind {
    fn read(self, given: &Json, path: &str, unknown: &mut Vec<String>) -> Result<Json, String> {
        let wrong = |what: &str| Err(one_decoding(&format!("'{path}' expected {what}")));
        let is_map = matches!(self, Kind::Config | Kind::Map(_) | Kind::Texts);
        Ok(match (self, given) {
            (_, Json::List(items)) if is_map => match items.as_slice() {
                [only] if !matches!(only, Json::List(_)) => self.read(only, path, unknown)?,
                all => self.read(&merged(all, path)?, path, unknown)?,
            },
            (Kind::Config, Json::Object(members)) => sorted(unwrapped(members)),
            (Kind::Config, _) => return Err(not_a_map(given, path)),
            (Kind::Texts, Json::Object(members)) => {
                let read = |(name, value): &(String, Json)| {
                    let value = match value {
                        Json::Null => Json::Text(String::new()),
                        value => Kind::Text.read(value, &format!("{path}[{name}]"), unknown)?,
                    };
                    Ok((name.clone(), value))
                };
                sorted(Json::Object(members.iter().map(read).collect::<Result<_, String>>()?))
            }
            (Kind::Texts, _) => return Err(not_a_map(given, path)),
            (Kind::Lines | Kind::Counts, given) => {
                let items = match given {
                    Json::List(items) => items.as_slice(),
                    Json::Object(members) if members.is_empty() => &[],
                    one => std::slice::from_ref(one),
                };
                let (kind, zero) = match self {
                    Kind::Lines => (Kind::Text, Json::Text(String::new())),
                    _ => (Kind::Count, Json::Number(0.into())),
                };
                let items = items.iter().map(|item| if *item == Json::Null { &zero } else { item });
                let items = items
                    .enumerate()
                    .map(|(place, item)| kind.read(item, &format!("{path}[{place}]"), unknown));
                Json::List(items.collect::<Result<_, _>>()?)
            }
            // One item in a list stands for the item.
            (
                Kind::Text | Kind::Count | Kind::Float | Kind::Flag | Kind::Time | Kind::Nanos,
                Json::List(items),
            ) if items.len() == 1 => self.read(&items[0], path, unknown)?,
            (Kind::Text, Json::Text(text)) => Json::Text(text.clone()),
            (Kind::Text, Json::Number(number)) => match number.as_f64() {
                Some(number) => Json::Text(format!("{number}")),
                None => Json::Text(number.to_string()),
            },
            (Kind::Text, Json::Bool(flag)) => Json::Text(u8::from(*flag).to_string()),
            (Kind::Text, Json::Object(members)) if members.is_empty() => {
                return wrong(
                    "type 'string', got unconvertible type 'map[string]interface {}', value: 'map[]'",
                );
            }
            (Kind::Text, _) => return wrong("type 'string'"),
            (Kind::Count, Json::Bool(flag)) => Json::Number(i64::from(*flag).into()),
            (Kind::Count, Json::Text(text)) if text.is_empty() => Json::Number(0.into()),
            (Kind::Count, Json::Text(text)) => match text.parse::<i64>() {
                Ok(number) => Json::Number(number.into()),
                Err(_) => {
                    let text = go::quoted(text);
                    return Err(one_decoding(&format!(
                        "cannot parse '{path}' as int: strconv.ParseInt: parsing {text}: invalid syntax"
                    )));
                }
            },
            (Kind::Count, Json::Number(number)) => Json::Number(go::int(number).into()),
            (Kind::Count, _) => return wrong("type 'int'"),
            (Kind::Float, Json::Number(_)) => given.clone(),
            (Kind::Float, Json::Text(text)) if !text.is_empty() => {
                let float = || text.parse().ok().and_then(Number::from_f64);
                let number = text.parse::<i64>().ok().map(Number::from).or_else(float);
                Json::Number(number.ok_or_else(|| {
                    let text = go::quoted(text);
                    one_decoding(&format!(
                        "cannot parse '{path}' as float: strconv.ParseFloat: parsing {text}: invalid syntax"
                    ))
                })?)
            }
            (Kind::Float, Json::Bool(_) | Json::Text(_)) => {
                Kind::Count.read(given, path, unknown)?
            }
            (Kind::Float, _) => return wrong("type 'float32'"),
            (Kind::Flag, Json::Bool(flag)) => Json::Bool(*flag),
            (Kind::Flag, Json::Number(number)) => Json::Bool(number.as_f64() != Some(0.0)),
            (Kind::Flag, Json::Text(text)) if text.is_empty() => Json::Bool(false),
            (Kind::Flag, Json::Text(text)) => match go::boolean(text) {
                Some(is_on) => Json::Bool(is_on),
                None => return wrong("type 'bool'"),
            },
            (Kind::Flag, _) => return wrong("type 'bool'"),
            (Kind::Time | Kind::Nanos, Json::Text(text)) => {
                let nanos = go::duration(text)
                    .map_err(|why| one_decoding(&format!("error decoding '{path}': {why}")))?;
                match self {
                    Kind::Nanos => Json::Number(nanos.into()),
                    _ => Json::Text(time_text(nanos)),
                }
            }
            (Kind::Nanos, Json::Number(number)) => Json::Number(go::int(number).into()),
            (Kind::Time, Json::Number(number)) => Json::Text(time_text(go::int(number))),
            (Kind::Nanos, Json::Bool(flag)) => Json::Number(i64::from(*flag).into()),
            (Kind::Time, Json::Bool(flag)) => Json::Text(time_text(i64::from(*flag))),
            (Kind::Time | Kind::Nanos, _) => return wrong("type 'time.Duration'"),
            (Kind::Object(shape), object) => shape.read(object, path, unknown)?,
            (Kind::List(shape) | Kind::Pointers(shape), given) => {
                // An item that is not in a list is a list of it, and an object without members an empty one. Null is an
                // item without members.
                let none = Json::Object(Vec::new());
                let items = match given {
                    Json::List(items) => items.as_slice(),
                    Json::Object(members) if members.is_empty() => &[],
                    one => std::slice::from_ref(one),
                };
                let items = items.iter().enumerate().map(|(place, item)| match (item, self) {
                    (Json::Null, Kind::Pointers(_)) => Ok(Json::Null),
                    (Json::Null, _) => shape.read(&none, path, unknown),
                    _ => shape.read(item, &format!("{path}[{place}]"), unknown),
                });
                Json::List(items.collect::<Result<_, _>>()?)
            }
            (Kind::Map(shape), Json::Object(members)) => {
                let read = |(name, value): &(String, Json)| {
                    let none = Json::Object(Vec::new());
                    let value = if *value == Json::Null { &none } else { value };
                    Ok((name.clone(), shape.read(value, &format!("{path}[{name}]"), unknown)?))
                };
                Json::Object(members.iter().map(read).collect::<Result<_, String>>()?)
            }
            (Kind::Map(_), _) => return Err(not_a_map(given, path)),
        })
    }
}

/// An object with the item in the place of each list of one.
fn unwrapped(members: &[(String, Json)]) -> Json {
    let unwrap = |value: &Json| match value.items() {
        [Json::Object(members)] => unwrapped(members),
        [item] => item.clone(),
        _ => value.clone(),
    };
    Json::Object(members.iter().map(|(name, value)| (name.clone(), unwrap(value))).collect())
}

/// A duration as Go prints it; empty if it is zero.
fn time_text(nanos: i64) -> String {
    let text = go::duration_text(Duration::from_nanos(nanos.unsigned_abs()));
    match nanos {
        0 => String::new(),
        1.. => text,
        _ => format!("-{text}"),
    }
}

/// A value with the members of its objects by name: Consul does not keep their order.
fn sorted(value: Json) -> Json {
    match value {
        Json::Object(members) => {
            let mut members: Vec<_> =
                members.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            members.sort_by(|one, other| one.0.cmp(&other.0));
            Json::Object(members)
        }
        Json::List(items) => Json::List(items.into_iter().map(sorted).collect()),
        plain => plain,
    }
}

/// Refuses for all of these reasons, in the layout of Consul's lists of errors.
pub(super) fn errors(wrong: &[String]) -> Result<(), String> {
    match wrong {
        [] => Ok(()),
        [why] => Err(one_error(why)),
        all => {
            let lines: String = all.iter().map(|why| format!("\t* {why}\n")).collect();
            Err(format!("{} errors occurred:\n{lines}\n", all.len()))
        }
    }
}

/// One error in the layout of Consul's lists of errors.
pub(super) fn one_error(why: &str) -> String {
    format!("1 error occurred:\n\t* {why}\n\n")
}

fn not_a_map(given: &Json, path: &str) -> String {
    let kind = match given {
        Json::Bool(_) => "bool",
        Json::Number(_) => "float64",
        Json::Text(_) => "string",
        Json::Null | Json::List(_) => "slice",
        Json::Object(_) => "map",
    };
    one_decoding(&format!("'{path}' expected a map, got '{kind}'"))
}

fn one_decoding(why: &str) -> String {
    format!("1 error(s) decoding:\n\n* {why}")
}
