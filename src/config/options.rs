//! Every option of a client, declared once: the declaration yields parsing, other names, the
//! environment variable, messages, the reference and the annotation.

use super::{Config, Simulate};
use crate::client::coordination::Profile;
use crate::error::Error;
use crate::wire::shape::At;
use crate::wire::table::{DURATION, Shape};
use crate::wire::value::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderValue;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

/// One option of the configuration.
pub struct Setting<C: 'static = Config> {
    /// Its name.
    pub name: &'static str,
    /// Other names for the same option, kept for older programs.
    pub aliases: &'static [&'static str],
    /// What it takes, and where that goes.
    pub takes: Takes<C>,
    /// The environment variable that says it when the program does not.
    pub env: Option<&'static str>,
    /// Options that, when the program says them, stand in for this one: then its environment
    /// variable is not looked at.
    pub instead: &'static [&'static str],
    /// Its default, as a reader would write it.
    pub default: &'static str,
    /// What it is for.
    pub doc: &'static str,
}

/// What an option takes, and the place in the configuration that it goes to.
pub enum Takes<C: 'static = Config> {
    /// True or false.
    Flag(fn(&mut C, bool)),
    /// A positive number of milliseconds.
    Millis(fn(&mut C, Duration)),
    /// A duration: a number of seconds or a string such as `1m30s`.
    Seconds(fn(&mut C, Duration)),
    /// A number between two bounds, which are allowed.
    Number(f64, f64, fn(&mut C, f64)),
    /// An integer between two bounds, which are allowed.
    Count(u32, u32, fn(&mut C, u32)),
    /// A non-empty UTF-8 string.
    Text(fn(&mut C, String)),
    /// A key or a prefix of keys; a `/` that it begins with is taken off.
    Key(fn(&mut C, String)),
    /// A table of strings by name.
    TextMap(fn(&mut C, BTreeMap<String, String>)),
    /// The name of a profile, or a table of its times.
    Profile(fn(&mut C, Profile)),
    /// A path of a file or folder, of any bytes.
    Path(fn(&mut C, PathBuf)),
    /// One of these strings.
    OneOf(&'static [&'static str], fn(&mut C, &'static str)),
    /// A string that no message shows; the empty one is none.
    Token(fn(&mut C, String)),
    /// `user:password`, which no message shows.
    Credentials(fn(&mut C, HeaderValue)),
    /// One URL or a list of them.
    Endpoints(fn(&mut C, Vec<String>)),
    /// True, false or a name.
    Simulate(fn(&mut C, Simulate)),
}

const LOG_LEVELS: &[&str] = &["DEBUG", "INFO", "WARN", "ERROR"];
const CONSISTENCIES: &[&str] = &["default", "stale", "consistent"];

/// The longest path of a unix socket in bytes.
///
/// Source: unix(7): `sun_path` has 108 bytes, the last one of which ends the string.
const LONGEST_SOCKET_PATH: usize = 107;

/// Every option.
pub const OPTIONS: &[Setting] = &[
    Setting {
        aliases: &["endpoint", "consul_url", "consul_endpoints"],
        env: Some("CONSUL_HTTP_ADDR"),
        ..Setting::new(
            "endpoints",
            Takes::Endpoints(|config, endpoints| config.endpoints = endpoints),
            "http://127.0.0.1:8500",
            "The agents to speak to; the next one is asked when one does not answer. `host:port`, `http://host:port`, `https://host:port`, each with a path when Consul is behind a proxy, or `unix:///path` of a socket.",
        )
    },
    Setting {
        aliases: &["timeout_ms"],
        ..Setting::new(
            "timeout",
            Takes::Millis(|config, timeout| config.timeout = timeout),
            "5000",
            "The whole time that one call may take, in milliseconds, all attempts together; a blocking query gets its wait in addition.",
        )
    },
    Setting::new(
        "connect_timeout_ms",
        Takes::Millis(|config, timeout| config.http.connect_timeout = timeout),
        "2000",
        "How long making one connection may take, the TLS handshake included.",
    ),
    Setting::new(
        "retry_count",
        Takes::Count(0, 100, |config, count| config.retry_count = count),
        "3",
        "How many times a call is made again after a failure that may pass, when each endpoint has been asked once.",
    ),
    Setting::new(
        "stale_if_error",
        Takes::Flag(|config, flag| config.defaults.stale_if_error = flag),
        "false",
        "When the leader does not answer a read within half of its time, any server may; `meta.stale` then says so.",
    ),
    Setting::new(
        "max_connections",
        Takes::Count(1, 1000, |config, count| config.http.max_connections = count as usize),
        "64",
        "How many requests may be under way to one endpoint at a time, each on a connection of its own; more wait for their turn, at most `connect_timeout_ms`. An agent refuses more than 200 connections from one address.",
    ),
    Setting::new(
        "max_idle_connections",
        Takes::Count(0, 1000, |config, count| config.http.max_idle_connections = count as usize),
        "64",
        "How many connections to one endpoint are kept for later requests.",
    ),
    Setting::new(
        "idle_timeout_ms",
        Takes::Millis(|config, timeout| config.http.idle_timeout = timeout),
        "90000",
        "A connection that was idle for longer is not used again, and closed within the same time once more.",
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
            "A file that holds the ACL token; it is read again when it changes.",
        )
    },
    Setting {
        env: Some("CONSUL_HTTP_AUTH"),
        ..Setting::new(
            "http_auth",
            Takes::Credentials(|config, header| config.http.authorization = Some(header)),
            "none",
            "User and password for a proxy in front of Consul that asks for HTTP basic authentication.",
        )
    },
    Setting {
        aliases: &["dc"],
        ..Setting::new(
            "datacenter",
            Takes::Text(|config, dc| config.defaults.dc = Some(dc)),
            "the agent's own",
            "The datacenter that calls go to unless they say another.",
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
        "How fresh reads are unless they say otherwise.",
    ),
    Setting {
        aliases: &["tls_enabled"],
        env: Some("CONSUL_HTTP_SSL"),
        ..Setting::new(
            "tls",
            Takes::Flag(|config, flag| config.tls = Some(flag)),
            "as the endpoint's scheme says",
            "True: every endpoint but unix sockets is spoken to over TLS, also one without a scheme or with `http://`.",
        )
    },
    Setting {
        env: Some("CONSUL_HTTP_SSL_VERIFY"),
        ..Setting::new(
            "tls_verify",
            Takes::Flag(|config, flag| config.http.tls.verify = flag),
            "true",
            "False: any certificate of a server is accepted, so that who sits between can read and change everything.",
        )
    },
    Setting {
        env: Some("CONSUL_CACERT"),
        instead: &["tls_ca_path"],
        ..Setting::new(
            "tls_ca_file",
            Takes::Path(|config, path| config.http.tls.ca_file = Some(path)),
            "the system's store",
            "A PEM file with the certificates of the authorities that servers are trusted by, and no others.",
        )
    },
    Setting {
        env: Some("CONSUL_CAPATH"),
        instead: &["tls_ca_file"],
        ..Setting::new(
            "tls_ca_path",
            Takes::Path(|config, path| config.http.tls.ca_path = Some(path)),
            "the system's store",
            "A folder of such files; with `tls_ca_file` both are trusted.",
        )
    },
    Setting {
        env: Some("CONSUL_CLIENT_CERT"),
        ..Setting::new(
            "tls_cert_file",
            Takes::Path(|config, path| config.http.tls.cert_file = Some(path)),
            "none",
            "A PEM file with the certificate that this client shows to servers, then those that signed it.",
        )
    },
    Setting {
        env: Some("CONSUL_CLIENT_KEY"),
        ..Setting::new(
            "tls_key_file",
            Takes::Path(|config, path| config.http.tls.key_file = Some(path)),
            "none",
            "A PEM file with the key of that certificate, not encrypted.",
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
        "Start a program of its own, `consul-guard`, with the first lock or semaphore, which frees what this process holds as soon as it dies, however it does.",
    ),
    Setting::new(
        "guard_program",
        Takes::Path(|config, path| config.guard_program = Some(path)),
        "where it was installed with the module",
        "The file of that program.",
    ),
    Setting::new(
        "simulate",
        Takes::Simulate(|config, simulate| config.simulate = simulate),
        "false",
        "Speak to an agent in this process's memory instead of a server. Clients with the same endpoints share one; a name makes one of its own.",
    ),
    Setting::new(
        "client_name",
        Takes::Text(|config, name| config.client_name = name),
        "none",
        "A name by which faults of a simulated agent can concern this client alone.",
    ),
    Setting::new(
        "strip_leading_slash",
        Takes::Flag(|config, flag| config.defaults.strip_leading_slash = flag),
        "false",
        "Take one leading `/` off keys, as etcd's keys have it, instead of refusing them.",
    ),
    Setting::new(
        "log_level",
        Takes::OneOf(LOG_LEVELS, |config, level| {
            // Each of the names is one that tracing knows too.
            config.log_level = level.parse().unwrap_or(config.log_level);
        }),
        "WARN",
        "What is written to standard error. The first client of a process decides.",
    ),
];

impl<C> Setting<C> {
    pub(super) const fn new(
        name: &'static str,
        takes: Takes<C>,
        default: &'static str,
        doc: &'static str,
    ) -> Self {
        Setting { name, aliases: &[], takes, env: None, instead: &[], default, doc }
    }

    /// All its names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<C> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// Whether this is one of its names.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

impl<C> Takes<C> {
    /// What is allowed, in words.
    pub fn words(&self) -> String {
        match self {
            Takes::Flag(_) => Shape::Bool.wanted(),
            Takes::Millis(_) => Shape::Millis.wanted(),
            Takes::Seconds(_) => DURATION.wanted(),
            Takes::Number(least, most, _) => format!("a number from {least} to {most}"),
            Takes::Key(_) => "a key".to_owned(),
            Takes::TextMap(_) => Shape::TextMap.wanted(),
            Takes::Profile(_) => {
                format!("{} or a table of times", Shape::OneOf(Profile::NAMES).wanted())
            }
            Takes::Count(least, most, _) => format!("an integer from {least} to {most}"),
            Takes::Text(_) => Shape::Text.wanted(),
            Takes::Path(_) => "a path".to_owned(),
            Takes::OneOf(names, _) => Shape::OneOf(names).wanted(),
            Takes::Token(_) => "a string".to_owned(),
            Takes::Credentials(_) => "a string `user:password`".to_owned(),
            Takes::Endpoints(_) => "a URL or a list of URLs".to_owned(),
            Takes::Simulate(_) => "true, false or the name of a simulated agent".to_owned(),
        }
    }

    /// Its type for the Lua language server.
    pub fn lua_type(&self) -> String {
        match self {
            Takes::Flag(_) => "boolean".to_owned(),
            Takes::Millis(_) | Takes::Number(..) => "number".to_owned(),
            Takes::Seconds(_) => "number|string".to_owned(),
            Takes::TextMap(_) => "table<string, string>".to_owned(),
            Takes::Profile(_) => "string|table".to_owned(),
            Takes::Count(..) => "integer".to_owned(),
            Takes::Text(_)
            | Takes::Key(_)
            | Takes::Path(_)
            | Takes::Token(_)
            | Takes::Credentials(_) => "string".to_owned(),
            Takes::OneOf(names, _) => {
                names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join("|")
            }
            Takes::Endpoints(_) => "string|string[]".to_owned(),
            Takes::Simulate(_) => "boolean|string".to_owned(),
        }
    }

    /// The value that the text of an environment variable stands for.
    pub fn from_env(&self, text: Vec<u8>) -> Value {
        match (self, text.as_slice()) {
            // As the official client takes them.
            // Source: ParseBool in Go's package strconv.
            (Takes::Flag(_), b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True") => true.into(),
            (Takes::Flag(_), b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False") => false.into(),
            _ => Value::Bytes(text),
        }
    }

    /// Checks the value and puts it into its place.
    pub(super) fn apply(&self, config: &mut C, value: &Value, at: &At) -> Result<(), Error> {
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
                set(config, members.map(text).collect::<Result<_, Error>>()?);
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
            Takes::Path(set) => match value {
                Value::Bytes(path) if path.is_empty() => {
                    return Err(at.bad_value(value, "it must not be empty"));
                }
                Value::Bytes(path) => set(config, OsString::from_vec(path.clone()).into()),
                _ => return Err(at.wrong_type_text(&self.words(), value)),
            },
            Takes::OneOf(names, set) => {
                let given = Shape::OneOf(names).text(value, at)?;
                if let Some(name) = names.iter().find(|name| **name == given) {
                    set(config, name);
                }
            }
            Takes::Token(set) => {
                let token =
                    secret(value).ok_or_else(|| at.secret("a string of printable characters"))?;
                HeaderValue::from_str(&token)
                    .map_err(|_| at.secret("a string of printable characters"))?;
                set(config, token);
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
                    return Err(at.bad_value(value, "at least one endpoint is needed"));
                }
                set(config, urls.iter().map(|url| endpoint(url, at)).collect::<Result<_, _>>()?);
            }
            Takes::Simulate(set) => match value {
                Value::Bytes(_) => {
                    set(config, Simulate::Named(Shape::Text.text(value, at)?));
                }
                Value::Bool(true) => set(config, Simulate::ForEndpoints),
                Value::Bool(false) => set(config, Simulate::No),
                _ => return Err(at.wrong_type_text(&self.words(), value)),
            },
        }
        Ok(())
    }
}

fn secret(value: &Value) -> Option<String> {
    match value {
        Value::Bytes(bytes) => String::from_utf8(bytes.clone()).ok(),
        _ => None,
    }
}

/// The URL of an endpoint, with a scheme and no trailing slash.
fn endpoint(text: &str, at: &At) -> Result<String, Error> {
    let refuse = |why: &str| Err(at.bad_value(&text.into(), why));
    if let Some(path) = text.strip_prefix("unix://") {
        return match path {
            _ if !path.starts_with('/') => refuse("a socket's path begins with `/`: unix:///path"),
            _ if path.len() > LONGEST_SOCKET_PATH => {
                refuse("a socket's path has at most 107 bytes")
            }
            _ if path.contains('\0') => refuse("a path has no zero bytes"),
            _ => Ok(text.to_owned()),
        };
    }
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    // A password must not get into the message of one of the other mistakes.
    if url.contains('@') {
        return Err(at.secret("a URL without credentials; the option http_auth takes them"));
    }
    let Ok(uri) = url.parse::<http::Uri>() else { return refuse("it is no URL") };
    let scheme = match uri.scheme_str() {
        Some(scheme @ ("http" | "https")) => scheme,
        _ => return refuse("the scheme must be http, https or unix"),
    };
    let authority = match uri.authority() {
        Some(authority) if !authority.host().is_empty() => authority,
        _ => return refuse("it names no host"),
    };
    let names_port = authority.as_str().len() > authority.host().len();
    if names_port && authority.port_u16().is_none_or(|port| port == 0) {
        return refuse("the port must be from 1 to 65535");
    }
    if uri.query().is_some() {
        return refuse("an endpoint has no query");
    }
    Ok(format!("{scheme}://{authority}{}", uri.path().trim_end_matches('/')))
}
