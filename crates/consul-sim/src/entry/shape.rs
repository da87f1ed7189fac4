//! The declared members of an entry, read as Consul's decoder of configuration does: names in any case and with underscores,
//! text for numbers and numbers for text.

use crate::go;
use crate::http::decode::Json;
use serde_json::Number;
use std::time::Duration;

/// The members of an object, in the order of replies.
pub(super) struct Shape(pub &'static [Member]);

/// The members of an object as a text, which takes less room than a table: `Name:type`, each with `!` behind it if replies
/// have it when it is absent, with `?` if they then have null, with `=` and the value that they then have, or with `*` if they
/// also have 0 when that is given. Types are a letter, the members of an object in braces, or the members of each item of a list in brackets.
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
            "u" => Kind::Unsigned(32),
            _ => Kind::Text,
        };
        let end = text.find([' ', '}', ']']).unwrap_or(text.len());
        let (mark, rest) = text.split_at(end);
        *text = rest;
        let mut member = Member::new(name, kind);
        (member.always, member.is_null, member.usual) =
            (!matches!(mark, "" | "*"), mark == "?", mark.strip_prefix('=').unwrap_or_default());
        member.keeps_zero = mark == "*";
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
    /// Whether replies have it when 0 was given: Consul has a pointer to the number.
    keeps_zero: bool,
    /// Whether it is never in replies.
    is_hidden: bool,
    /// Its value when it is absent or empty, if not the empty one.
    usual: &'static str,
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// A number of any kind, kept as given.
    Float,
    /// An integer, also without a sign, of a number of bits.
    Count,
    Unsigned(u8),
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
        Self {
            name,
            kind,
            always: false,
            is_null: false,
            keeps_zero: false,
            is_hidden: false,
            usual: "",
        }
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

    pub const fn unsigned(name: &'static str, bits: u8) -> Self {
        Self::new(name, Kind::Unsigned(bits))
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

    pub const fn keeps_zero(self) -> Self {
        Self { keeps_zero: true, ..self }
    }

    pub const fn hidden(self) -> Self {
        Self { is_hidden: true, ..self }
    }

    /// Whether Consul has a pointer to the value, which is in replies only if it was given, or null.
    fn is_pointer(&self) -> bool {
        let is_object = matches!(self.kind, Kind::Object(_));
        self.keeps_zero || is_object && (!self.always || self.is_null)
    }

    /// The value in replies in the place of an absent member.
    fn empty(&self) -> Option<Json> {
        self.always.then(|| match self.kind {
            _ if self.is_null => Json::Null,
            Kind::Text => Json::Text(self.usual.to_owned()),
            Kind::Count | Kind::Unsigned(_) => {
                Json::Number(self.usual.parse::<i64>().unwrap_or(0).into())
            }
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
            _ if self.is_hidden => true,
            Json::Text(text) if !self.usual.is_empty() => text.is_empty(),
            Json::Number(number) if !self.usual.is_empty() => number.as_f64() == Some(0.0),
            _ if self.always || self.keeps_zero => false,
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

/// A value as the decoder takes it, which is without the list around the only item of a list. Source:
/// `HookWeakDecodeFromSlice` in Consul's folder lib/decode, which is called once for each value, and once for a pointer to it.
fn taken(given: &Json) -> &Json {
    match given.items() {
        [only] => only,
        _ => given,
    }
}

/// The maps in a list, also in lists in it, are one.
fn merged(given: &Json, path: &str) -> Result<Json, String> {
    let items = match taken(given) {
        Json::List(items) => items,
        map @ Json::Object(_) => return Ok(map.clone()),
        other => return Err(not_a_map(other, path)),
    };
    if !items.is_empty() && items.iter().all(|item| *item == Json::Null) {
        return Ok(Json::Null);
    }
    let mut members: Vec<(String, Json)> = Vec::new();
    for (place, item) in items.iter().enumerate().filter(|(_, item)| **item != Json::Null) {
        for (name, value) in merged(item, &format!("{path}[{place}]"))?.members() {
            members.retain(|(known, _)| known != name);
            members.push((name.clone(), value.clone()));
        }
    }
    Ok(Json::Object(members))
}

/// The mistakes in an entry.
#[derive(Default)]
struct Mistakes {
    /// Values of other types.
    types: Vec<String>,
    /// Names of members that there are not.
    names: Vec<String>,
}

impl Shape {
    /// The members of an entry under their own names, without those that are empty.
    ///
    /// # Errors
    /// All values of other types in the order of their texts, or all unknown names.
    pub fn read_entry(&self, given: &Json) -> Result<Json, String> {
        let mut mistakes = Mistakes::default();
        let read = self.read(given, "", &mut mistakes);
        let Mistakes { mut types, names } = mistakes;
        if types.is_empty() {
            return errors(&names).map(|()| read);
        }
        types.sort();
        Err(format!("{} error(s) decoding:\n\n* {}", types.len(), types.join("\n* ")))
    }

    fn read(&self, given: &Json, path: &str, mistakes: &mut Mistakes) -> Json {
        let given = taken(given);
        if !matches!(given, Json::Object(_)) {
            mistakes.types.push(not_a_map(given, path));
            return Json::Null;
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
            mistakes.names.extend(same.iter().skip(1).map(|(name, _)| match name.contains('_') {
                true => unknown_key(&at(&known.name.to_lowercase())),
                false => unknown_key(&at(name)),
            }));
            let given = same.first().map(|(_, value)| match known.is_pointer() {
                true => taken(value),
                false => value,
            });
            let value = given
                .map(|given| known.kind.read(given, &at(known.name), mistakes))
                .filter(|value| !known.is_left_out(value))
                .or_else(|| known.empty());
            if let Some(value) = value {
                members.push((known.name.to_owned(), value));
            }
        }
        for (name, _) in given.members() {
            let is_own = path.is_empty() && OF_THE_STORE.contains(&name.as_str());
            if !is_own && !self.0.iter().any(|member| is_same(name, member.name)) {
                mistakes.names.push(unknown_key(&at(name)));
            }
        }
        Json::Object(members)
    }
}

impl Kind {
    fn read(self, given: &Json, path: &str, mistakes: &mut Mistakes) -> Json {
        let none = Json::Object(Vec::new());
        let at = |place: usize| format!("{path}[{place}]");
        match self {
            // An item that is not in a list is a list of it, and an object without members an empty one. Null is an item
            // without members.
            Kind::Lines | Kind::Counts | Kind::List(_) | Kind::Pointers(_) => {
                let items = match given {
                    Json::List(items) => items.as_slice(),
                    Json::Object(members) if members.is_empty() => &[],
                    one => std::slice::from_ref(one),
                };
                let read = |(place, item): (usize, &Json)| match (self, item) {
                    (Kind::Lines, Json::Null) => Json::Text(String::new()),
                    (Kind::Counts, Json::Null) => Json::Number(0.into()),
                    (Kind::Lines, item) => Kind::Text.read(item, &at(place), mistakes),
                    (Kind::Counts, item) => Kind::Unsigned(32).read(item, &at(place), mistakes),
                    (Kind::List(shape), Json::Null) => shape.read(&none, path, mistakes),
                    (Kind::List(shape), item) => shape.read(item, &at(place), mistakes),
                    (Kind::Pointers(shape), item) if *item != Json::Null => {
                        shape.read(taken(item), &at(place), mistakes)
                    }
                    _ => Json::Null,
                };
                Json::List(items.iter().enumerate().map(read).collect())
            }
            Kind::Object(shape) => shape.read(given, path, mistakes),
            Kind::Config | Kind::Texts | Kind::Map(_) => {
                let given = merged(given, path).unwrap_or_else(|why| {
                    mistakes.types.push(why);
                    Json::Null
                });
                if given == Json::Null {
                    return Json::Null;
                }
                let read = |(name, value): &(String, Json)| {
                    let path = format!("{path}[{name}]");
                    let value = match (self, value) {
                        (Kind::Texts, Json::Null) => Json::Text(String::new()),
                        (Kind::Texts, value) => Kind::Text.read(value, &path, mistakes),
                        (Kind::Map(shape), Json::Null) => shape.read(&none, &path, mistakes),
                        (Kind::Map(shape), value) => shape.read(value, &path, mistakes),
                        (_, Json::List(items)) if items.len() == 1 => unwrapped(&items[0]),
                        (_, value) => value.clone(),
                    };
                    (name.clone(), value)
                };
                let read = Json::Object(given.members().iter().map(read).collect());
                if let Kind::Map(_) = self { read } else { sorted(read) }
            }
            scalar => scalar.read_scalar(taken(given), path).unwrap_or_else(|why| {
                mistakes.types.push(why);
                Json::Null
            }),
        }
    }

    /// A value that has no parts.
    fn read_scalar(self, given: &Json, path: &str) -> Result<Json, String> {
        let go_type = match self {
            Kind::Flag => "bool",
            Kind::Count => "int",
            Kind::Unsigned(64) => "uint64",
            Kind::Unsigned(_) => "uint32",
            Kind::Float => "float32",
            Kind::Time | Kind::Nanos => "time.Duration",
            _ => "string",
        };
        let wrong = || format!("'{path}' expected type '{go_type}', got unconvertible type");
        let syntax = |kind: &str, reader: &str, text: &str| {
            let text = go::quoted(text);
            format!(
                "cannot parse '{path}' as {kind}: strconv.{reader}: parsing {text}: invalid syntax"
            )
        };
        Ok(match (self, given) {
            (_, Json::Null | Json::List(_) | Json::Object(_)) => return Err(wrong()),
            (Kind::Flag, Json::Bool(flag)) => Json::Bool(*flag),
            (Kind::Flag, Json::Number(number)) => Json::Bool(number.as_f64() != Some(0.0)),
            (Kind::Flag, Json::Text(text)) if text.is_empty() => Json::Bool(false),
            (Kind::Flag, Json::Text(text)) => {
                Json::Bool(go::boolean(text).ok_or_else(|| syntax("bool", "ParseBool", text))?)
            }
            (Kind::Time | Kind::Nanos, Json::Text(text)) => {
                let nanos =
                    go::duration(text).map_err(|why| format!("error decoding '{path}': {why}"))?;
                self.number(nanos)
            }
            (Kind::Float, Json::Number(_)) => given.clone(),
            (Kind::Float, Json::Text(text)) if !text.is_empty() => {
                let float = || text.parse().ok().and_then(Number::from_f64);
                let number = text.parse::<i64>().ok().map(Number::from).or_else(float);
                Json::Number(number.ok_or_else(|| syntax("float", "ParseFloat", text))?)
            }
            (Kind::Float | Kind::Count | Kind::Unsigned(_), Json::Text(text))
                if text.is_empty() =>
            {
                self.number(0)
            }
            (Kind::Unsigned(bits), Json::Text(text)) => {
                let number =
                    Some(text).filter(|text| !text.starts_with('+')).and_then(|it| go::integer(it));
                let number = number.and_then(|number| u64::try_from(number).ok());
                let number = number.filter(|number| bits == 64 || *number >> bits == 0);
                Json::Number(number.ok_or_else(|| syntax("uint", "ParseUint", text))?.into())
            }
            (Kind::Count, Json::Text(text)) => {
                let number = go::integer(text).and_then(|number| i64::try_from(number).ok());
                Json::Number(number.ok_or_else(|| syntax("int", "ParseInt", text))?.into())
            }
            (
                Kind::Float | Kind::Count | Kind::Unsigned(_) | Kind::Time | Kind::Nanos,
                Json::Bool(flag),
            ) => self.number(i64::from(*flag)),
            (Kind::Unsigned(bits), Json::Number(number)) if number.as_f64() > Some(0.0) => {
                let float = number.as_f64().unwrap_or_default();
                let number = number.as_u64().unwrap_or(float as u64);
                Json::Number(if bits == 32 { (number as u32).into() } else { number.into() })
            }
            (Kind::Count | Kind::Unsigned(_) | Kind::Time | Kind::Nanos, Json::Number(number)) => {
                self.number(go::int(number))
            }
            (_, Json::Number(number)) => match number.as_f64() {
                Some(number) => Json::Text(format!("{number}")),
                None => Json::Text(number.to_string()),
            },
            (_, Json::Bool(flag)) => Json::Text(u8::from(*flag).to_string()),
            (_, text @ Json::Text(_)) => text.clone(),
        })
    }

    /// A number as a value of this kind.
    fn number(self, number: i64) -> Json {
        match self {
            Kind::Time => Json::Text(time_text(number)),
            Kind::Unsigned(32) => Json::Number((number as u32).into()),
            Kind::Unsigned(_) => Json::Number((number as u64).into()),
            _ => Json::Number(number.into()),
        }
    }
}

/// A value in which each list of one item that is a member is its item. Source: `unSlice` in Consul's folder lib/decode.
fn unwrapped(value: &Json) -> Json {
    match value {
        Json::Object(members) => {
            let unwrap = |(name, value): &(String, Json)| (name.clone(), unwrapped(taken(value)));
            Json::Object(members.iter().map(unwrap).collect())
        }
        Json::List(items) => Json::List(items.iter().map(unwrapped).collect()),
        plain => plain.clone(),
    }
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
    format!("'{path}' expected a map, got '{kind}'")
}
