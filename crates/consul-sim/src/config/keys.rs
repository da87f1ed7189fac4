//! The keys of a configuration and their types: `keys.txt` lists those that Consul 1.21 knows, in lines
//! `path type [used]`, where `used` marks keys with an effect on a simulated agent. The members of the types `service` and
//! `check` are listed as `@service.` and `@check.`.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The type of a key's value, by its name in Go where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Scalar(&'static str),
    Any,
    /// Names that the user chooses, with texts.
    Map,
    Object,
    /// An object with the members of this definition.
    Definition(&'static str),
    ListOfText,
    ListOfObject,
    /// Objects whose members are not checked.
    ListOfAny,
    ListOf(&'static str),
}

impl Type {
    fn named(name: &'static str) -> Self {
        match name {
            "any" => Type::Any,
            "map" => Type::Map,
            "object" => Type::Object,
            "list of string" => Type::ListOfText,
            "list of object" => Type::ListOfObject,
            "list of any" => Type::ListOfAny,
            "list of service" => Type::ListOf("@service"),
            "list of check" => Type::ListOf("@check"),
            "service" => Type::Definition("@service"),
            "check" => Type::Definition("@check"),
            scalar => Type::Scalar(scalar),
        }
    }
}

struct Key {
    r#type: Type,
    is_used: bool,
}

static KEYS: LazyLock<BTreeMap<&'static str, Key>> = LazyLock::new(|| {
    let line = |line: &'static str| {
        let (path, rest) = line.split_once(' ')?;
        let name = rest.strip_suffix(" used");
        Some((path, Key { r#type: Type::named(name.unwrap_or(rest)), is_used: name.is_some() }))
    };
    include_str!("keys.txt").lines().filter_map(line).collect()
});

/// Whether the value of a key is a list of texts.
pub(super) fn is_list(path: &str) -> bool {
    KEYS.get(path).is_some_and(|key| key.r#type == Type::ListOfText)
}

/// Checks the keys and types of one file, and gives each value the shape of its type.
///
/// # Errors
/// Consul's text for unknown keys, or for values of another type.
pub(super) fn check(members: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut check = Check::default();
    let checked = check.members("", "", members);
    if !check.mistakes.is_empty() {
        check.mistakes.sort();
        let lines = check.mistakes.iter().map(|mistake| format!("\n* {mistake}"));
        return Err(format!(
            "{} error(s) decoding:\n{}",
            check.mistakes.len(),
            lines.collect::<String>()
        ));
    }
    if check.unknown.is_empty() {
        return Ok(checked);
    }
    check.unknown.sort();
    Err(errors(check.unknown.iter().map(|path| format!("invalid config key {path}"))))
}

/// Several errors as Consul lists them.
pub(super) fn errors(all: impl ExactSizeIterator<Item = String>) -> String {
    let count = all.len();
    let noun = if count == 1 { "error" } else { "errors" };
    let lines = all.map(|error| format!("\t* {error}\n"));
    format!("{count} {noun} occurred:\n{}\n", lines.collect::<String>())
}

/// The keys that a configuration sets and that have no effect here.
pub(super) fn unused(config: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    collect_unused("", config, &mut found);
    found
}

/// Whether a key has an effect here; also a name that is not a key.
pub(super) fn has_effect(path: &str) -> bool {
    KEYS.get(path).is_none_or(|key| key.is_used)
}

fn collect_unused(path: &str, members: &Map<String, Value>, found: &mut Vec<String>) {
    for (name, value) in members {
        let path = join(path, name);
        match (KEYS.get(&*path), value) {
            (Some(Key { r#type: Type::Object, .. }), Value::Object(inner)) => {
                collect_unused(&path, inner, found);
            }
            (Some(Key { r#type: Type::Any, is_used: false }), Value::Object(inner)) => {
                let paths = inner.keys().map(|name| join(&path, name));
                found
                    .extend(paths.filter(|path| !KEYS.get(&**path).is_some_and(|key| key.is_used)));
            }
            (Some(key), _) if !key.is_used => found.push(path),
            _ => {}
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[derive(Default)]
struct Check {
    unknown: Vec<String>,
    mistakes: Vec<String>,
}

impl Check {
    /// Checks the members of an object. `known` is its path in the list of keys, `shown` its path in messages.
    fn members(
        &mut self,
        known: &str,
        shown: &str,
        members: &Map<String, Value>,
    ) -> Map<String, Value> {
        let mut checked = Map::new();
        for (name, value) in members {
            let (path, shown) = (join(known, &name.to_lowercase()), join(shown, name));
            match KEYS.get(&*path) {
                _ if name.contains('.') => self.unknown.push(shown),
                None => self.unknown.push(shown),
                Some(_) if value.is_null() => {}
                Some(key) => {
                    let value = self.value(key.r#type, &path, &shown, value);
                    checked.insert(name.to_lowercase(), value);
                }
            }
        }
        checked
    }

    fn value(&mut self, r#type: Type, path: &str, shown: &str, value: &Value) -> Value {
        match (r#type, single(r#type, value)) {
            (Type::Any, value) => value.clone(),
            (Type::Object, Value::Object(members)) => self.members(path, shown, members).into(),
            (Type::Definition(members), Value::Object(given)) => {
                self.members(members, shown, given).into()
            }
            (Type::Map, Value::Object(members)) => {
                let text = |(name, value): (&String, &Value)| {
                    let shown = format!("{shown}[{name}]");
                    (name.clone(), self.scalar("string", &shown, value))
                };
                Value::Object(members.iter().map(text).collect())
            }
            (Type::ListOfText, Value::Array(items)) => {
                let text =
                    |(place, item)| self.scalar("string", &format!("{shown}[{place}]"), item);
                items.iter().enumerate().map(text).collect()
            }
            (Type::ListOfObject, Value::Array(items)) => {
                self.list(Type::Object, path, shown, items)
            }
            (Type::ListOfAny, Value::Array(items)) => {
                let item = |(place, item): (usize, &Value)| match item {
                    Value::Object(_) => item.clone(),
                    other => {
                        let kind = if other.is_array() { "slice" } else { go_type(other) };
                        self.mistaken(format!("'{shown}[{place}]' expected a map, got '{kind}'"))
                    }
                };
                items.iter().enumerate().map(item).collect()
            }
            (Type::ListOf(definition), Value::Array(items)) => {
                self.list(Type::Definition(definition), path, shown, items)
            }
            (Type::Scalar(name), value) => self.scalar(name, shown, value),
            (Type::Object | Type::Definition(_) | Type::Map, value) => {
                let kind = if value.is_array() { "slice" } else { go_type(value) };
                self.mistaken(format!("'{shown}' expected a map, got '{kind}'"))
            }
            (Type::ListOfText | Type::ListOfObject | Type::ListOfAny | Type::ListOf(_), value) => {
                let kind = if value.is_object() { "map" } else { go_type(value) };
                self.mistaken(format!(
                    "'{shown}': source data must be an array or slice, got {kind}"
                ))
            }
        }
    }

    fn list(&mut self, of: Type, path: &str, shown: &str, items: &[Value]) -> Value {
        let item = |(place, item)| self.value(of, path, &format!("{shown}[{place}]"), item);
        items.iter().enumerate().map(item).collect()
    }

    fn scalar(&mut self, name: &'static str, shown: &str, value: &Value) -> Value {
        let fits = match name {
            "string" => value.is_string(),
            "bool" => value.is_boolean(),
            _ => value.is_number(),
        };
        if !fits {
            let (r#type, value) = (go_type(value), go_value(value));
            return self.mistaken(format!(
                "'{shown}' expected type '{name}', got unconvertible type '{type}', value: '{value}'"
            ));
        }
        match value.as_f64() {
            Some(number) if name.starts_with("uint") && number < 0.0 => {
                self.mistaken(format!("cannot parse '{shown}', {value} overflows uint"))
            }
            // Go cuts the fraction off.
            Some(number) if name != "float64" => Value::from(number as i64),
            _ => value.clone(),
        }
    }

    fn mistaken(&mut self, text: String) -> Value {
        self.mistakes.push(text);
        Value::Null
    }
}

/// A block of HCL is a list of one object; so where one value is wanted, a list of one stands for it.
fn single(r#type: Type, value: &Value) -> &Value {
    match (r#type, value) {
        (
            Type::Any | Type::ListOfText | Type::ListOfObject | Type::ListOfAny | Type::ListOf(_),
            list,
        ) => list,
        (_, Value::Array(items)) if items.len() == 1 => &items[0],
        (_, value) => value,
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(items) if items.iter().all(Value::is_object) => "[]map[string]interface {}",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A value as Go's `%v` prints it.
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(on) => on.to_string(),
        Value::Number(number) => match number.as_f64() {
            Some(number) if number.fract() == 0.0 => format!("{number:.0}"),
            _ => number.to_string(),
        },
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(go_value).collect::<Vec<_>>().join(" "))
        }
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| format!("{name}:{}", go_value(value));
            format!("map[{}]", members.iter().map(member).collect::<Vec<_>>().join(" "))
        }
    }
}
