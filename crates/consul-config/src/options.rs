//! Every option of a client, declared once: names, environment variable, parsing, messages, reference and
//! annotation follow from the declaration and the types in `takes.rs`.

use super::Config;
use super::takes::Takes;

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

const LOG_FORMATS: &[&str] = &["text", "json"];
const CONSISTENCIES: &[&str] = &["default", "stale", "consistent"];

/// A program's value where a function may stand, which only the binding can hold.
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
            "The agents or servers; the next one is asked if one does not answer. `host:port`, `http://host:port` or `https://host:port`, each with a path if Consul is behind a proxy, or `unix:///path` of a socket (`https+unix:///path` with TLS).",
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
            "True: TLS on every endpoint, also on a unix socket, without a scheme or with `http://`.",
        )
    },
    Setting {
        env: Some("CONSUL_HTTP_SSL_VERIFY"),
        ..Setting::new(
            "tls_verify",
            Takes::Flag(|config, flag| config.http.tls.verify = flag),
            "true",
            "False: a server's certificate may be of any authority, for any name, and expired, so an attacker on the network can read and change everything. Its key must still be [usable for TLS](#tls-connections).",
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
            "The host name or IP address that a server's certificate must be for, such as `server.dc1.consul`.",
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
