//! The types of options: a row for each says what it takes, in words and for the language server, and how it is read.

use super::options::Given;
use super::parse::{address, endpoint, path, printable, secret};
use super::{Config, Simulate};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use consul_api::error::Error;
use consul_api::table::{DURATION, Shape};
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, unknown};
use consul_client::coordination::Profile;
use http::HeaderValue;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tracing::level_filters::LevelFilter;

/// Texts of environment variables and files that mean true or false.
const FLAGS: &[&str] = &["true", "false", "yes", "no", "on", "off", "0", "1"];

/// All of these names are filters of tracing, too.
const LOG_LEVELS: &[&str] = &["DEBUG", "INFO", "WARN", "ERROR", "OFF"];

/// A value that was given for an option.
struct Input<'a> {
    value: &'a Value,
    at: &'a ValuePath<'a>,
    /// The allowed values.
    words: &'a dyn Fn() -> String,
}

impl Input<'_> {
    fn wrong_type(&self) -> Error {
        self.at.wrong_type_text(&(self.words)(), self.value)
    }

    fn refused(&self, why: &str) -> Error {
        self.at.bad_value(self.value, why)
    }

    fn not_allowed(&self) -> Error {
        self.refused(&format!("it must be {}", (self.words)()))
    }
}

macro_rules! takes {
    ($($(#[$doc:meta])* $type:ident($($argument:ident: $kind:ty),*) -> $parsed:ty {
        words: $words:expr,
        lua: $lua:expr,
        parse: |$input:ident| $parse:expr,
    })+) => {
        /// The values that an option takes, each with the setter of its field.
        pub enum Takes<C: 'static = Config> {
            $($(#[$doc])* $type($($kind,)* fn(&mut C, $parsed)),)+
        }

        #[allow(unused_variables, reason = "a row uses those of its arguments that it needs")]
        impl<C> Takes<C> {
            /// The allowed values, in words.
            pub fn words(&self) -> String {
                match *self {
                    $(Takes::$type($($argument,)* _) => $words.into(),)+
                }
            }

            /// The type for the Lua language server.
            pub fn lua_type(&self) -> String {
                match *self {
                    $(Takes::$type($($argument,)* _) => $lua.into(),)+
                }
            }

            /// Checks the value and stores it.
            pub(super) fn apply(
                &self,
                config: &mut C,
                value: &Value,
                at: &ValuePath,
            ) -> Result<(), Error> {
                let input = Input { value, at, words: &|| self.words() };
                match *self {
                    $(Takes::$type($($argument,)* set) => {
                        let $input = &input;
                        set(config, $parse?);
                    })+
                }
                Ok(())
            }
        }
    };
}

takes! {
    /// True or false.
    Flag() -> bool {
        words: Shape::Bool.expected(),
        lua: "boolean",
        parse: |input| Shape::Bool.boolean(input.value, input.at),
    }
    /// A positive number of milliseconds.
    Millis() -> Duration {
        words: Shape::Millis.expected(),
        lua: "number",
        parse: |input| Shape::Millis.duration(input.value, input.at),
    }
    /// A duration: a number of seconds or a string such as `1m30s`.
    Seconds() -> Duration {
        words: DURATION.expected(),
        lua: "number|string",
        parse: |input| DURATION.duration(input.value, input.at),
    }
    /// A number between two inclusive bounds.
    Number(least: f64, most: f64) -> f64 {
        words: format!("a number from {least} to {most}"),
        lua: "number",
        parse: |input| number(input, least, most),
    }
    /// An integer between two inclusive bounds.
    Count(least: u32, most: u32) -> u32 {
        words: format!("an integer from {least} to {most}"),
        lua: "integer",
        parse: |input| count(input, least, most),
    }
    /// A non-empty UTF-8 string.
    Text() -> String {
        words: Shape::Text.expected(),
        lua: "string",
        parse: |input| Shape::Text.text(input.value, input.at),
    }
    /// `host:port`, or false: an empty one.
    Address() -> String {
        words: "`host:port` or false",
        lua: "string|false",
        parse: |input| address_or_false(input),
    }
    /// A key or a prefix of keys; one leading `/` is removed.
    Key() -> String {
        words: "a key",
        lua: "string",
        parse: |input| key(input),
    }
    /// A table of strings by name.
    TextMap() -> BTreeMap<String, String> {
        words: Shape::TextMap.expected(),
        lua: "table<string, string>",
        parse: |input| text_map(input),
    }
    /// The name of a profile, or a table of its times.
    Profile() -> Profile {
        words: format!("{} or a table of times", Shape::OneOf(Profile::NAMES).expected()),
        lua: "consul_ffi.ProfileName|consul_ffi.profile",
        parse: |input| Profile::from_value(input.value, input.at),
    }
    /// A path of any bytes.
    Path() -> PathBuf {
        words: "a path",
        lua: "string",
        parse: |input| path(input.value, input.at),
    }
    /// A table with a path for each of these names.
    Paths(names: &'static [&'static str; 3]) -> [PathBuf; 3] {
        words: format!("a table of the paths {}, {} and {}", names[0], names[1], names[2]),
        lua: format!("{{ {} }}", names.map(|name| format!("{name}: string")).join(", ")),
        parse: |input| paths(input, names),
    }
    /// The name of a log level, or OFF.
    Level() -> LevelFilter {
        words: Shape::OneOf(LOG_LEVELS).expected(),
        lua: one_of(LOG_LEVELS) + "|" + &one_of(LOG_LEVELS).to_ascii_lowercase(),
        parse: |input| level(input),
    }
    /// A function of the program, or false.
    Function() -> Given {
        words: "a function or false",
        lua: "consul_ffi.Log|false",
        parse: |input| match input.value {
            Value::Bool(false) => Ok(Given::Nothing),
            Value::Foreign("a function") => Ok(Given::Function),
            _ => Err(input.wrong_type()),
        },
    }
    /// One of these strings.
    OneOf(names: &'static [&'static str]) -> &'static str {
        words: Shape::OneOf(names).expected(),
        lua: one_of(names),
        parse: |input| name(input, names),
    }
    /// A secret string; an empty one counts as unset.
    Token() -> String {
        words: "a string",
        lua: "string",
        parse: |input| printable(input.value, input.at),
    }
    /// A secret string, or a list of them.
    Secrets() -> Vec<String> {
        words: "a string or a list of strings",
        lua: "string|string[]",
        parse: |input| secrets(input),
    }
    /// A secret, `user:password`.
    Credentials() -> HeaderValue {
        words: "a string `user:password`",
        lua: "string",
        parse: |input| credentials(input).ok_or_else(|| input.at.secret(&(input.words)())),
    }
    /// One URL or a list of them.
    Endpoints() -> Vec<String> {
        words: "a URL or a list of URLs",
        lua: "string|string[]",
        parse: |input| endpoints(input),
    }
    /// True, false or a name.
    Simulate() -> Simulate {
        words: "true, false or the name of a simulated agent",
        lua: "boolean|string",
        parse: |input| simulate(input),
    }
}

impl<C> Takes<C> {
    /// The value of an environment variable.
    pub fn from_env(&self, text: Vec<u8>) -> Value {
        match (self, text.as_slice()) {
            // As in the official client: ParseBool of Go's package strconv.
            (Takes::Flag(_), b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True") => true.into(),
            (Takes::Flag(_), b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False") => false.into(),
            _ => Value::Bytes(text),
        }
    }
}

/// The type of one of these strings, for the Lua language server.
fn one_of(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join("|")
}

fn number(input: &Input, least: f64, most: f64) -> Result<f64, Error> {
    let number = match input.value {
        Value::Int(number) => *number as f64,
        Value::Float(number) => *number,
        _ => return Err(input.wrong_type()),
    };
    if (least..=most).contains(&number) { Ok(number) } else { Err(input.not_allowed()) }
}

fn count(input: &Input, least: u32, most: u32) -> Result<u32, Error> {
    if !matches!(input.value, Value::Int(_) | Value::Uint(_) | Value::Float(_)) {
        return Err(input.wrong_type());
    }
    let count = input.value.as_u64().and_then(|count| u32::try_from(count).ok());
    count.filter(|count| (least..=most).contains(count)).ok_or_else(|| input.not_allowed())
}

fn address_or_false(input: &Input) -> Result<String, Error> {
    match input.value {
        Value::Bool(false) => Ok(String::new()),
        _ => address(input.value, input.at),
    }
}

fn key(input: &Input) -> Result<String, Error> {
    let Value::Bytes(bytes) = input.value else { return Err(input.wrong_type()) };
    let key = Value::Bytes(bytes.strip_prefix(b"/").unwrap_or(bytes).to_vec());
    Shape::Key.text(&key, input.at)
}

fn text_map(input: &Input) -> Result<BTreeMap<String, String>, Error> {
    let text = |(name, value): &(String, Value)| {
        Ok((name.clone(), Shape::TextOrEmpty.text(value, &input.at.member(name))?))
    };
    Shape::TextMap.members(input.value, input.at)?.iter().map(text).collect()
}

fn paths(input: &Input, names: &[&str; 3]) -> Result<[PathBuf; 3], Error> {
    let Value::Map(members) = input.value else { return Err(input.wrong_type()) };
    if let Some((name, _)) = members.iter().find(|(name, _)| !names.contains(&name.as_str())) {
        return Err(input.refused(&unknown("member", name, names)));
    }
    let member = |name| path(input.value.get(name).unwrap_or(&Value::Null), &input.at.member(name));
    let [first, second, third] = *names;
    Ok([member(first)?, member(second)?, member(third)?])
}

fn level(input: &Input) -> Result<LevelFilter, Error> {
    let Value::Bytes(given) = input.value else { return Err(input.wrong_type()) };
    let is_given = |name: &&&str| name.as_bytes().eq_ignore_ascii_case(given);
    let level = LOG_LEVELS.iter().find(is_given).and_then(|name| name.parse().ok());
    level.ok_or_else(|| input.not_allowed())
}

fn name(input: &Input, names: &'static [&'static str]) -> Result<&'static str, Error> {
    let given = Shape::OneOf(names).text(input.value, input.at)?;
    names.iter().find(|name| **name == given).copied().ok_or_else(|| input.not_allowed())
}

fn secrets(input: &Input) -> Result<Vec<String>, Error> {
    let one = std::slice::from_ref(input.value);
    let given = if let Value::List(list) = input.value { list.as_slice() } else { one };
    if given.is_empty() {
        return Err(input.at.secret("a string or a list of at least one string"));
    }
    given.iter().map(|it| printable(it, input.at)).collect()
}

fn credentials(input: &Input) -> Option<HeaderValue> {
    let given = secret(input.value).filter(|text| text.contains(':'))?;
    let mut header = HeaderValue::from_str(&format!("Basic {}", BASE64.encode(given))).ok()?;
    header.set_sensitive(true);
    Some(header)
}

fn endpoints(input: &Input) -> Result<Vec<String>, Error> {
    let urls = match input.value {
        Value::Bytes(_) | Value::List(_) => Shape::TextList.texts(input.value, input.at)?,
        Value::Map(members) if members.is_empty() => Vec::new(),
        _ => return Err(input.wrong_type()),
    };
    if urls.is_empty() {
        return Err(input.refused("at least one endpoint is required"));
    }
    urls.iter().map(|url| endpoint(url, input.at)).collect()
}

fn simulate(input: &Input) -> Result<Simulate, Error> {
    match input.value {
        Value::Bytes(_) => {
            let name = Shape::Text.text(input.value, input.at)?;
            if FLAGS.iter().any(|it| name.eq_ignore_ascii_case(it)) {
                return Err(input.refused(
                    "it would be the name of a simulated agent; without quotes, true or false \
                     decides whether there is one",
                ));
            }
            Ok(Simulate::Named(name))
        }
        Value::Bool(true) => Ok(Simulate::ForEndpoints),
        Value::Bool(false) => Ok(Simulate::No),
        _ => Err(input.wrong_type()),
    }
}
