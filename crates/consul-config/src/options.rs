//! Every option of a client, declared once: names, environment variable, parsing, messages, reference and
//! annotation follow from the declaration.

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

/// The declaration of an option.
pub struct Setting<C: 'static = Config> {
    /// The name in a program's table.
    pub name: &'static str,
    /// Other names, for older programs.
    pub aliases: &'static [&'static str],
    /// Names that are often written instead and refused: messages suggest the option.
    pub mistaken: &'static [&'static str],
    /// The values that it takes, and where they go.
    pub takes: Takes<C>,
    /// The environment variable that is read if the program omits the option.
    pub env: Option<&'static str>,
    /// Options of the program with which this one's environment variable is ignored.
    pub instead: &'static [&'static str],
    /// The default, for the reference.
    pub default: &'static str,
    /// Sentences for the reference.
    pub doc: &'static str,
}

/// The values that an option takes, each with the setter of its field.
pub enum Takes<C: 'static = Config> {
    /// True or false.
    Flag(fn(&mut C, bool)),
    /// A positive number of milliseconds.
    Millis(fn(&mut C, Duration)),
    /// A duration: a number of seconds or a string such as `1m30s`.
    Seconds(fn(&mut C, Duration)),
    /// A number between two inclusive bounds.
    Number(f64, f64, fn(&mut C, f64)),
    /// An integer between two inclusive bounds.
    Count(u32, u32, fn(&mut C, u32)),
    /// A non-empty UTF-8 string.
    Text(fn(&mut C, String)),
    /// `host:port`, or false: an empty one.
    Address(fn(&mut C, String)),
    /// A key or a prefix of keys; one leading `/` is removed.
    Key(fn(&mut C, String)),
    /// A table of strings by name.
    TextMap(fn(&mut C, BTreeMap<String, String>)),
    /// The name of a profile, or a table of its times.
    Profile(fn(&mut C, Profile)),
    /// A path of any bytes.
    Path(fn(&mut C, PathBuf)),
    /// A table with a path for each of these names.
    Paths(&'static [&'static str; 3], fn(&mut C, [PathBuf; 3])),
    /// The name of a log level, or OFF.
    Level(fn(&mut C, LevelFilter)),
    /// A function of the program, or false.
    Function(fn(&mut C, Given)),
    /// One of these strings.
    OneOf(&'static [&'static str], fn(&mut C, &'static str)),
    /// A secret string; an empty one counts as unset.
    Token(fn(&mut C, String)),
    /// A secret string, or a list of them.
    Secrets(fn(&mut C, Vec<String>)),
    /// A secret, `user:password`.
    Credentials(fn(&mut C, HeaderValue)),
    /// One URL or a list of them.
    Endpoints(fn(&mut C, Vec<String>)),
    /// True, false or a name.
    Simulate(fn(&mut C, Simulate)),
}

/// All of these names are filters of tracing, too.
const LOG_LEVELS: &[&str] = &["DEBUG", "INFO", "WARN", "ERROR", "OFF"];
const LOG_FORMATS: &[&str] = &["text", "json"];
const CONSISTENCIES: &[&str] = &["default", "stale", "consistent"];

/// What a program gives where a function may stand, which only the binding can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// False.
    Nothing,
    /// A function.
    Function,
}

/// Every option.
pub const OPTIONS: &[Setting] = &[
    Setting {
        aliases: &["endpoint", "consul_url", "consul_endpoints"],
        mistaken: &["url", "address", "addr", "server", "servers", "host", "hosts"],
        env: Some("CONSUL_HTTP_ADDR"),
        ..Setting::new(
            "endpoints",
            Takes::Endpoints(|config, endpoints| config.endpoints = endpoints),
            "http://127.0.0.1:8500",
            "The agents or servers; the next one is asked if one does not answer. `host:port`, `http://host:port` or `https://host:port`, each with a path if Consul is behind a proxy, or `unix:///path` of a socket.",
        )
    },
    Setting {
        aliases: &["timeout_ms"],
        ..Setting::new(
            "timeout",
            Takes::Millis(|config, timeout| config.timeout = timeout),
            "5000",
            "The time limit of a call in milliseconds, all attempts included; a blocking query gets its wait in addition.",
        )
    },
    Setting::new(
        "connect_timeout_ms",
        Takes::Millis(|config, timeout| config.http.connect_timeout = timeout),
        "2000",
        "The time limit for making a connection in milliseconds, including the TLS handshake.",
    ),
    Setting::new(
        "retry_count",
        Takes::Count(0, 100, |config, count| config.retry_count = count),
        "3",
        "The number of retries after transient failures, once each endpoint was asked.",
    ),
    Setting::new(
        "stale_if_error",
        Takes::Flag(|config, flag| config.defaults.stale_if_error = flag),
        "false",
        "If the leader does not answer a read within half of its time, any server may, and `meta.stale` is true.",
    ),
    Setting::new(
        "max_connections",
        Takes::Count(1, 1000, |config, count| config.http.max_connections = count as usize),
        "64",
        "The most requests in flight to one endpoint, each on a connection of its own; further ones wait up to `connect_timeout_ms`. An agent refuses more than 200 connections from one address.",
    ),
    Setting::new(
        "max_idle_connections",
        Takes::Count(0, 1000, |config, count| config.http.max_idle_connections = count as usize),
        "64",
        "The most idle connections to one endpoint that are kept for later requests.",
    ),
    Setting::new(
        "idle_timeout_ms",
        Takes::Millis(|config, timeout| config.http.idle_timeout = timeout),
        "90000",
        "A connection that was idle for longer, in milliseconds, is not used again, and is closed within the same time.",
    ),
    Setting {
        aliases: &["acl_token"],
        env: Some("CONSUL_HTTP_TOKEN"),
        instead: &["token_file"],
        ..Setting::new(
            "token",
            Takes::Token(|config, token| {
                config.defaults.token = Some(token).filter(|token| !token.is_empty());
            }),
            "none",
            "The ACL token.",
        )
    },
    Setting {
        env: Some("CONSUL_HTTP_TOKEN_FILE"),
        instead: &["token"],
        ..Setting::new(
            "token_file",
            Takes::Path(|config, path| config.token_file = Some(path)),
            "none",
            "A file with the ACL token; it is read again when it changes.",
        )
    },
    Setting {
        env: Some("CONSUL_HTTP_AUTH"),
        ..Setting::new(
            "http_auth",
            Takes::Credentials(|config, header| config.http.authorization = Some(header)),
            "none",
            "User and password for a proxy in front of Consul that requires HTTP basic authentication.",
        )
    },
    Setting {
        aliases: &["dc"],
        ..Setting::new(
            "datacenter",
            Takes::Text(|config, dc| config.defaults.dc = Some(dc)),
            "the agent's own",
            "The datacenter of calls that do not set `dc`.",
        )
    },
    Setting {
        env: Some("CONSUL_NAMESPACE"),
        ..Setting::new(
            "namespace",
            Takes::Text(|config, name| config.defaults.namespace = Some(name)),
            "none",
            "The namespace (Consul Enterprise).",
        )
    },
    Setting {
        env: Some("CONSUL_PARTITION"),
        ..Setting::new(
            "partition",
            Takes::Text(|config, name| config.defaults.partition = Some(name)),
            "none",
            "The admin partition (Consul Enterprise).",
        )
    },
    Setting::new(
        "consistency",
        Takes::OneOf(CONSISTENCIES, |config, mode| {
            config.defaults.consistency = (mode != CONSISTENCIES[0]).then_some(mode);
        }),
        "default",
        "The consistency of reads that do not set it.",
    ),
    Setting {
        aliases: &["tls_enabled"],
        env: Some("CONSUL_HTTP_SSL"),
        ..Setting::new(
            "tls",
            Takes::Flag(|config, flag| config.tls = Some(flag)),
            "by the endpoint's scheme",
            "True: TLS on every endpoint except unix sockets, also without a scheme or with `http://`.",
        )
    },
    Setting {
        env: Some("CONSUL_HTTP_SSL_VERIFY"),
        ..Setting::new(
            "tls_verify",
            Takes::Flag(|config, flag| config.http.tls.verify = flag),
            "true",
            "False: any certificate is accepted, so an attacker on the network can read and change everything.",
        )
    },
    Setting {
        env: Some("CONSUL_CACERT"),
        instead: &["tls_ca_path"],
        ..Setting::new(
            "tls_ca_file",
            Takes::Path(|config, path| config.http.tls.ca_file = Some(path)),
            "the system's store",
            "A PEM file with the only authorities that are trusted to sign certificates of servers.",
        )
    },
    Setting {
        env: Some("CONSUL_CAPATH"),
        instead: &["tls_ca_file"],
        ..Setting::new(
            "tls_ca_path",
            Takes::Path(|config, path| config.http.tls.ca_path = Some(path)),
            "the system's store",
            "A directory of such files; with `tls_ca_file` both are trusted.",
        )
    },
    Setting {
        env: Some("CONSUL_CLIENT_CERT"),
        ..Setting::new(
            "tls_cert_file",
            Takes::Path(|config, path| config.http.tls.cert_file = Some(path)),
            "none",
            "A PEM file with the client's certificate, followed by those that signed it.",
        )
    },
    Setting {
        env: Some("CONSUL_CLIENT_KEY"),
        ..Setting::new(
            "tls_key_file",
            Takes::Path(|config, path| config.http.tls.key_file = Some(path)),
            "none",
            "A PEM file with the private key of the client's certificate, not encrypted.",
        )
    },
    Setting {
        env: Some("CONSUL_TLS_SERVER_NAME"),
        ..Setting::new(
            "tls_server_name",
            Takes::Text(|config, name| config.http.tls.server_name = Some(name)),
            "the endpoint's host",
            "The host name that a server's certificate must be for, such as `server.dc1.consul`.",
        )
    },
    Setting::new(
        "guard",
        Takes::Flag(|config, flag| config.guard = flag),
        "false",
        "True: the first lock or semaphore starts the program `consul-guard`, which releases the locks and permits of this process as soon as it dies, for whatever reason.",
    ),
    Setting::new(
        "guard_program",
        Takes::Path(|config, path| config.guard_program = Some(path)),
        "where it was installed with the module",
        "The path of the program `consul-guard`.",
    ),
    Setting::new(
        "simulate",
        Takes::Simulate(|config, simulate| config.simulate = simulate),
        "false",
        "True: an agent in this process's memory takes the place of the endpoints; clients with the same endpoints share one. A name: the simulated agent with this name; texts of flags such as \"true\", \"no\", \"off\", \"0\" and \"\" are refused.",
    ),
    Setting::new(
        "client_name",
        Takes::Text(|config, name| config.client_name = name),
        "none",
        "The name by which faults of a simulated agent select this client.",
    ),
    Setting::new(
        "strip_leading_slash",
        Takes::Flag(|config, flag| config.defaults.strip_leading_slash = flag),
        "false",
        "Remove one leading `/` from keys, as etcd's keys have it, instead of refusing them.",
    ),
    Setting::new(
        "log_level",
        Takes::Level(|config, level| config.log_level = Some(level)),
        "WARN",
        "The lowest level that is logged, in capitals or small letters. Above DEBUG, up to 10 lines of one kind are written within 10 s; the next one ends with the number of those left out. As all options of the [log](#the-log), it is the process's.",
    ),
    Setting::new(
        "log_format",
        Takes::OneOf(LOG_FORMATS, |config, format| config.log_json = Some(format == "json")),
        "text",
        "How lines are written to standard error: as text, or each as a JSON object with `timestamp`, `level`, `target`, `message` and `fields`.",
    ),
    Setting {
        mistaken: &["logger", "log_function", "on_log"],
        ..Setting::new(
            "log",
            Takes::Function(|config, given| config.log = Some(given)),
            "standard error",
            "The program's function for lines of the log, `log(level, message, fields)`, instead of standard error. It is called on the program's own thread, in calls of this library. False: standard error again.",
        )
    },
];

impl<C> Setting<C> {
    pub(super) const fn new(
        name: &'static str,
        takes: Takes<C>,
        default: &'static str,
        doc: &'static str,
    ) -> Self {
        Setting { name, aliases: &[], mistaken: &[], takes, env: None, instead: &[], default, doc }
    }

    /// The name and the other names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<C> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// Whether this is one of its names.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

impl<C> Takes<C> {
    /// The allowed values, in words.
    pub fn words(&self) -> String {
        match self {
            Takes::Flag(_) => Shape::Bool.expected(),
            Takes::Millis(_) => Shape::Millis.expected(),
            Takes::Seconds(_) => DURATION.expected(),
            Takes::Number(least, most, _) => format!("a number from {least} to {most}"),
            Takes::Address(_) => "`host:port` or false".to_owned(),
            Takes::Key(_) => "a key".to_owned(),
            Takes::TextMap(_) => Shape::TextMap.expected(),
            Takes::Profile(_) => {
                format!("{} or a table of times", Shape::OneOf(Profile::NAMES).expected())
            }
            Takes::Count(least, most, _) => format!("an integer from {least} to {most}"),
            Takes::Text(_) => Shape::Text.expected(),
            Takes::Path(_) => "a path".to_owned(),
            Takes::Paths([first, second, third], _) => {
                format!("a table of the paths {first}, {second} and {third}")
            }
            Takes::Level(_) => Shape::OneOf(LOG_LEVELS).expected(),
            Takes::Function(_) => "a function or false".to_owned(),
            Takes::OneOf(names, _) => Shape::OneOf(names).expected(),
            Takes::Token(_) => "a string".to_owned(),
            Takes::Secrets(_) => "a string or a list of strings".to_owned(),
            Takes::Credentials(_) => "a string `user:password`".to_owned(),
            Takes::Endpoints(_) => "a URL or a list of URLs".to_owned(),
            Takes::Simulate(_) => "true, false or the name of a simulated agent".to_owned(),
        }
    }

    /// The type for the Lua language server.
    pub fn lua_type(&self) -> String {
        match self {
            Takes::Flag(_) => "boolean".to_owned(),
            Takes::Millis(_) | Takes::Number(..) => "number".to_owned(),
            Takes::Seconds(_) => "number|string".to_owned(),
            Takes::TextMap(_) => "table<string, string>".to_owned(),
            Takes::Profile(_) => "consul_ffi.ProfileName|consul_ffi.profile".to_owned(),
            Takes::Paths(names, _) => {
                format!("{{ {} }}", names.map(|name| format!("{name}: string")).join(", "))
            }
            Takes::Count(..) => "integer".to_owned(),
            Takes::Address(_) => "string|false".to_owned(),
            Takes::Text(_)
            | Takes::Key(_)
            | Takes::Path(_)
            | Takes::Token(_)
            | Takes::Credentials(_) => "string".to_owned(),
            Takes::OneOf(names, _) => one_of(names),
            Takes::Level(_) => one_of(LOG_LEVELS) + "|" + &one_of(LOG_LEVELS).to_ascii_lowercase(),
            Takes::Function(_) => "consul_ffi.Log|false".to_owned(),
            Takes::Endpoints(_) | Takes::Secrets(_) => "string|string[]".to_owned(),
            Takes::Simulate(_) => "boolean|string".to_owned(),
        }
    }

    /// The value of an environment variable.
    pub fn from_env(&self, text: Vec<u8>) -> Value {
        match (self, text.as_slice()) {
            // As in the official client: ParseBool of Go's package strconv.
            (Takes::Flag(_), b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True") => true.into(),
            (Takes::Flag(_), b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False") => false.into(),
            _ => Value::Bytes(text),
        }
    }

    /// Checks the value and stores it.
    pub(super) fn apply(&self, config: &mut C, value: &Value, at: &ValuePath) -> Result<(), Error> {
        match *self {
            Takes::Flag(set) => set(config, Shape::Bool.boolean(value, at)?),
            Takes::Millis(set) => set(config, Shape::Millis.duration(value, at)?),
            Takes::Seconds(set) => set(config, DURATION.duration(value, at)?),
            Takes::Number(least, most, set) => {
                let number = match value {
                    Value::Int(number) => *number as f64,
                    Value::Float(number) => *number,
                    _ => return Err(at.wrong_type_text(&self.words(), value)),
                };
                if !(least..=most).contains(&number) {
                    return Err(at.bad_value(value, &format!("it must be {}", self.words())));
                }
                set(config, number);
            }
            Takes::Address(set) => match value {
                Value::Bool(false) => set(config, String::new()),
                _ => set(config, address(value, at)?),
            },
            Takes::Key(set) => {
                let Value::Bytes(bytes) = value else {
                    return Err(at.wrong_type_text(&self.words(), value));
                };
                let key = Value::Bytes(bytes.strip_prefix(b"/").unwrap_or(bytes).to_vec());
                set(config, Shape::Key.text(&key, at)?);
            }
            Takes::TextMap(set) => {
                let text = |(name, value): &(String, Value)| {
                    Ok((name.clone(), Shape::TextOrEmpty.text(value, &at.member(name))?))
                };
                let members = Shape::TextMap.members(value, at)?.iter();
                set(config, members.map(text).collect::<Result<_, _>>()?);
            }
            Takes::Profile(set) => set(config, Profile::from_value(value, at)?),
            Takes::Count(least, most, set) => {
                if !matches!(value, Value::Int(_) | Value::Uint(_) | Value::Float(_)) {
                    return Err(at.wrong_type_text(&self.words(), value));
                }
                match value.as_u64().and_then(|count| u32::try_from(count).ok()) {
                    Some(count) if (least..=most).contains(&count) => set(config, count),
                    _ => return Err(at.bad_value(value, &format!("it must be {}", self.words()))),
                }
            }
            Takes::Text(set) => set(config, Shape::Text.text(value, at)?),
            Takes::Path(set) => set(config, path(value, at)?),
            Takes::Paths(names, set) => {
                let Value::Map(members) = value else {
                    return Err(at.wrong_type_text(&self.words(), value));
                };
                if let Some((name, _)) =
                    members.iter().find(|(name, _)| !names.contains(&name.as_str()))
                {
                    return Err(at.bad_value(value, &unknown("member", name, names)));
                }
                let member =
                    |name: &str| path(value.get(name).unwrap_or(&Value::Null), &at.member(name));
                let [first, second, third] = *names;
                set(config, [member(first)?, member(second)?, member(third)?]);
            }
            Takes::OneOf(names, set) => {
                let given = Shape::OneOf(names).text(value, at)?;
                if let Some(name) = names.iter().find(|name| **name == given) {
                    set(config, name);
                }
            }
            Takes::Level(set) => {
                let Value::Bytes(given) = value else {
                    return Err(at.wrong_type_text(&self.words(), value));
                };
                let is_given = |name: &&&str| name.as_bytes().eq_ignore_ascii_case(given);
                match LOG_LEVELS.iter().find(is_given).map(|name| name.parse()) {
                    Some(Ok(level)) => set(config, level),
                    _ => return Err(at.bad_value(value, &format!("it must be {}", self.words()))),
                }
            }
            Takes::Function(set) => match value {
                Value::Bool(false) => set(config, Given::Nothing),
                Value::Foreign("a function") => set(config, Given::Function),
                _ => return Err(at.wrong_type_text(&self.words(), value)),
            },
            Takes::Token(set) => set(config, printable(value, at)?),
            Takes::Secrets(set) => {
                let one = std::slice::from_ref(value);
                let given = if let Value::List(list) = value { list.as_slice() } else { one };
                if given.is_empty() {
                    return Err(at.secret("a string or a list of at least one string"));
                }
                set(config, given.iter().map(|it| printable(it, at)).collect::<Result<_, _>>()?);
            }
            Takes::Credentials(set) => {
                let given = secret(value).filter(|text| text.contains(':'));
                let given = given.ok_or_else(|| at.secret(&self.words()))?;
                let header = HeaderValue::from_str(&format!("Basic {}", BASE64.encode(given)));
                let mut header = header.map_err(|_| at.secret(&self.words()))?;
                header.set_sensitive(true);
                set(config, header);
            }
            Takes::Endpoints(set) => {
                let urls = match value {
                    Value::Bytes(_) | Value::List(_) => Shape::TextList.texts(value, at)?,
                    Value::Map(members) if members.is_empty() => Vec::new(),
                    _ => return Err(at.wrong_type_text(&self.words(), value)),
                };
                if urls.is_empty() {
                    return Err(at.bad_value(value, "at least one endpoint is required"));
                }
                set(config, urls.iter().map(|url| endpoint(url, at)).collect::<Result<_, _>>()?);
            }
            Takes::Simulate(set) => match value {
                Value::Bytes(_) => {
                    let name = Shape::Text.text(value, at)?;
                    if FLAGS.iter().any(|it| name.eq_ignore_ascii_case(it)) {
                        let why = "it would be the name of a simulated agent; without quotes, \
                                   true or false decides whether there is one";
                        return Err(at.bad_value(value, why));
                    }
                    set(config, Simulate::Named(name));
                }
                Value::Bool(true) => set(config, Simulate::ForEndpoints),
                Value::Bool(false) => set(config, Simulate::No),
                _ => return Err(at.wrong_type_text(&self.words(), value)),
            },
        }
        Ok(())
    }
}

/// The type of one of these strings, for the Lua language server.
fn one_of(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join("|")
}
