//! The configuration of a client: what the program says, else the environment, else the default.

mod cluster;
pub mod emit;
mod options;
pub mod toml;

pub use cluster::{CLUSTER_OPTIONS, of_cluster};
pub use options::{OPTIONS, Setting, Takes};

use crate::error::{Error, Kind};
use crate::transport;
use crate::wire::request::Defaults;
use crate::wire::shape::{At, unknown};
use crate::wire::value::Value;
use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

/// A client's configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The agents' URLs: `http://host:port` or `https://host:port`, each with an optional path and
    /// no trailing slash, or `unix:///path`.
    pub endpoints: Vec<String>,
    /// The whole time that one call may take.
    pub timeout: Duration,
    /// How many times a call is made again after a failure that may pass, when each endpoint has
    /// been asked once.
    pub retry_count: u32,
    /// How the endpoints are connected to.
    pub http: transport::Options,
    /// Whether TLS was asked for or refused, apart from the endpoints' schemes, which follow it.
    pub tls: Option<bool>,
    /// The file that holds the token.
    pub token_file: Option<PathBuf>,
    /// Whether a guard frees what this process holds when it dies.
    pub guard: bool,
    /// The guard's program, when it is not where it was installed with the module.
    pub guard_program: Option<PathBuf>,
    /// Which simulated agent to use instead of a real one.
    pub simulate: Simulate,
    /// A name for this client, by which faults of a simulated agent can concern it alone.
    pub client_name: String,
    /// The least important log lines that are written.
    pub log_level: tracing::Level,
    /// What every request says unless the call says otherwise.
    pub defaults: Defaults,
}

/// Whether the client speaks to a simulated agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Simulate {
    /// No: to the endpoints.
    No,
    /// To the one that stands for these endpoints in this process.
    ForEndpoints,
    /// To the one of this name in this process.
    Named(String),
}

impl Default for Config {
    fn default() -> Self {
        Config {
            endpoints: vec!["http://127.0.0.1:8500".to_owned()],
            timeout: Duration::from_millis(5000),
            retry_count: 3,
            http: transport::Options::default(),
            tls: None,
            token_file: None,
            guard: false,
            guard_program: None,
            simulate: Simulate::No,
            client_name: String::new(),
            log_level: tracing::Level::WARN,
            defaults: Defaults::default(),
        }
    }
}

impl Config {
    /// The configuration that `given` says; what it does not say comes from the environment, as
    /// `env` reads it, and else is the default. An empty environment variable is none.
    ///
    /// # Errors
    /// [`Kind::Config`], naming the option, what was given and what is allowed; or two options that
    /// contradict each other.
    pub fn new(
        given: &[(String, Value)],
        env: impl Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<Self, Error> {
        let in_config = |error: Error| Error::new(Kind::Config, error.message()).not_sent();
        let mut config = Config::default();
        check_names(given)?;
        let said = Said::all(given, env);
        for Saying { option, name, value, .. } in &said.0 {
            option.takes.apply(&mut config, value, &At::top(name)).map_err(in_config)?;
        }
        config.settle(&said)?;
        Ok(config)
    }

    /// Refuses options that contradict each other, and decides what follows from several of them.
    fn settle(&mut self, said: &Said<'_>) -> Result<(), Error> {
        if let (Some(token), Some(file)) = (said.given("token"), said.given("token_file")) {
            return contradiction(&format!("both {token} and {file} say the token; say one"));
        }
        if self.token_file.is_some() {
            // Both come from the environment, where the official client prefers the file too.
            self.defaults.token = None;
        }
        match (said.name("tls_cert_file"), said.name("tls_key_file")) {
            (Some(cert), None) => {
                return contradiction(&format!(
                    "{cert} needs the key of the certificate: tls_key_file"
                ));
            }
            (None, Some(key)) => {
                return contradiction(&format!(
                    "{key} needs the certificate of the key: tls_cert_file"
                ));
            }
            _ => {}
        }
        if self.defaults.consistency == Some("consistent") && self.defaults.stale_if_error {
            let consistency = said.name("consistency").unwrap_or("consistency");
            return contradiction(&format!(
                "{consistency} = \"consistent\" and stale_if_error contradict each other"
            ));
        }
        if let (Some(program), false) = (said.given("guard_program"), self.guard) {
            return contradiction(&format!("{program} has no effect without guard = true"));
        }
        self.settle_tls(said)
    }

    /// A request for TLS holds for every endpoint that can speak it, whatever its scheme says, as
    /// with the official client; a refusal of TLS never turns an `https://` endpoint into another.
    fn settle_tls(&mut self, said: &Said<'_>) -> Result<(), Error> {
        if self.tls == Some(true) {
            for endpoint in &mut self.endpoints {
                if let Some(rest) = endpoint.strip_prefix("http://") {
                    *endpoint = format!("https://{rest}");
                }
            }
        }
        let secure = self.endpoints.iter().find(|endpoint| endpoint.starts_with("https://"));
        match (said.given("tls"), self.tls, secure) {
            (Some(tls), Some(false), Some(endpoint)) => {
                return contradiction(&format!(
                    "{tls} is false, but the endpoint {endpoint} asks for TLS"
                ));
            }
            (Some(tls), Some(true), None) => {
                return contradiction(&format!("{tls} is true, but a unix socket has no TLS"));
            }
            _ => {}
        }
        let without_effect = TLS_ONLY.iter().find_map(|option| said.given(option));
        match (without_effect, secure) {
            (Some(option), None) => contradiction(&format!(
                "{option} has no effect, because no endpoint uses TLS ({}): say tls = true or https://",
                self.endpoints.join(", ")
            )),
            _ => Ok(()),
        }
    }
}

/// The options that say how TLS is done. Only the program's own are checked for having an effect:
/// the environment is the same for every client.
const TLS_ONLY: &[&str] = &[
    "tls_verify",
    "tls_ca_file",
    "tls_ca_path",
    "tls_cert_file",
    "tls_key_file",
    "tls_server_name",
];

fn contradiction(message: &str) -> Result<(), Error> {
    Err(Error::new(Kind::Config, message).not_sent())
}

/// One option that was said.
struct Saying<'a> {
    option: &'static Setting,
    /// The name it was said by: one of the option's, or the environment variable's.
    name: &'a str,
    value: Cow<'a, Value>,
    by_program: bool,
}

/// Every option that was said, in the order of [`OPTIONS`].
struct Said<'a>(Vec<Saying<'a>>);

impl<'a> Said<'a> {
    fn all(given: &'a [(String, Value)], env: impl Fn(&str) -> Option<Vec<u8>>) -> Self {
        let find = |option: &Setting| {
            given.iter().find(|(name, value)| option.is_called(name) && *value != Value::Null)
        };
        let is_given =
            |name: &str| OPTIONS.iter().any(|option| option.name == name && find(option).is_some());
        let said = OPTIONS.iter().filter_map(|option| {
            if let Some((name, value)) = find(option) {
                let value = Cow::Borrowed(value);
                return Some(Saying { option, name, value, by_program: true });
            }
            if option.instead.iter().any(|other| is_given(other)) {
                return None;
            }
            let name = option.env?;
            let text = env(name).filter(|text| !text.is_empty())?;
            let value = Cow::Owned(option.takes.from_env(text));
            Some(Saying { option, name, value, by_program: false })
        });
        Said(said.collect())
    }

    /// The name by which this option was said, when it was.
    fn name(&self, option: &str) -> Option<&'a str> {
        self.0.iter().find(|saying| saying.option.name == option).map(|saying| saying.name)
    }

    /// The name by which the program itself said this option, when it did.
    fn given(&self, option: &str) -> Option<&'a str> {
        let saying = self.0.iter().find(|saying| saying.option.name == option);
        saying.filter(|saying| saying.by_program).map(|saying| saying.name)
    }
}

fn check_names(given: &[(String, Value)]) -> Result<(), Error> {
    for (name, _) in given {
        let Some(option) = OPTIONS.iter().find(|option| option.is_called(name)) else {
            return Err(unknown_option(name, OPTIONS.iter().flat_map(Setting::names)));
        };
        only_once(option, name, given)?;
    }
    Ok(())
}

fn unknown_option(name: &str, known: impl Iterator<Item = &'static str>) -> Error {
    let message = unknown("option", name, &known.collect::<Vec<_>>());
    Error::new(Kind::Config, message).not_sent()
}

/// Refuses an option that is said by two of its names.
fn only_once<C>(option: &Setting<C>, name: &str, given: &[(String, Value)]) -> Result<(), Error> {
    match given.iter().find(|(other, _)| other != name && option.is_called(other)) {
        Some((twin, _)) => {
            contradiction(&format!("the options {name} and {twin} say the same thing twice"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(given: &[(&str, Value)], env: &[(&str, &str)]) -> Result<Config, Error> {
        let given: Vec<_> = given.iter().map(|(name, v)| (name.to_string(), v.clone())).collect();
        Config::new(&given, |name| {
            env.iter().find(|(known, _)| *known == name).map(|(_, text)| text.as_bytes().to_vec())
        })
    }

    fn message(given: &[(&str, Value)], env: &[(&str, &str)]) -> String {
        let error = config(given, env).expect_err("a bad configuration");
        assert_eq!((error.kind(), error.maybe_applied()), (Kind::Config, false));
        error.message().to_owned()
    }

    /// A value that the option of this name takes, and where it ends up, written as the reference
    /// writes defaults.
    struct Case(&'static str, &'static str, fn(&Config) -> String);

    /// One case for each option. The text is what the environment would say; a program says the
    /// number or boolean that it is.
    const CASES: &[Case] = &[
        Case("endpoints", "https://a:1/p", |config| config.endpoints.join(",")),
        Case("timeout", "1", |config| millis(config.timeout)),
        Case("connect_timeout_ms", "1", |config| millis(config.http.connect_timeout)),
        Case("retry_count", "1", |config| config.retry_count.to_string()),
        Case("stale_if_error", "true", |config| config.defaults.stale_if_error.to_string()),
        Case("max_connections", "1", |config| config.http.max_connections.to_string()),
        Case("max_idle_connections", "1", |config| config.http.max_idle_connections.to_string()),
        Case("idle_timeout_ms", "1", |config| millis(config.http.idle_timeout)),
        Case("token", "t", |config| text(&config.defaults.token, "none")),
        Case("token_file", "/f", |config| path(&config.token_file, "none")),
        Case("http_auth", "Aladdin:open sesame", |config| match &config.http.authorization {
            // The example of RFC 7617.
            Some(header) if header == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==" => {
                "Aladdin:open sesame".to_owned()
            }
            other => other.as_ref().map_or("none".to_owned(), |header| format!("{header:?}")),
        }),
        Case("datacenter", "d", |config| text(&config.defaults.dc, "the agent's own")),
        Case("namespace", "n", |config| text(&config.defaults.namespace, "none")),
        Case("partition", "p", |config| text(&config.defaults.partition, "none")),
        Case("consistency", "stale", |config| {
            config.defaults.consistency.unwrap_or("default").to_owned()
        }),
        Case("tls", "true", |config| {
            config.tls.map_or("as the endpoint's scheme says".to_owned(), |tls| tls.to_string())
        }),
        Case("tls_verify", "false", |config| config.http.tls.verify.to_string()),
        Case("tls_ca_file", "/f", |config| path(&config.http.tls.ca_file, SYSTEM)),
        Case("tls_ca_path", "/f", |config| path(&config.http.tls.ca_path, SYSTEM)),
        Case("tls_cert_file", "/f", |config| path(&config.http.tls.cert_file, "none")),
        Case("tls_key_file", "/f", |config| path(&config.http.tls.key_file, "none")),
        Case("tls_server_name", "n", |config| {
            text(&config.http.tls.server_name, "the endpoint's host")
        }),
        Case("guard", "true", |config| config.guard.to_string()),
        Case("guard_program", "/f", |config| {
            path(&config.guard_program, "where it was installed with the module")
        }),
        Case("simulate", "true", |config| match &config.simulate {
            Simulate::No => "false".to_owned(),
            Simulate::ForEndpoints => "true".to_owned(),
            Simulate::Named(name) => name.clone(),
        }),
        Case("client_name", "n", |config| match config.client_name.as_str() {
            "" => "none".to_owned(),
            name => name.to_owned(),
        }),
        Case("strip_leading_slash", "true", |config| {
            config.defaults.strip_leading_slash.to_string()
        }),
        Case("log_level", "INFO", |config| config.log_level.to_string()),
    ];

    const SYSTEM: &str = "the system's store";

    fn millis(duration: Duration) -> String {
        duration.as_millis().to_string()
    }

    fn text(text: &Option<String>, none: &str) -> String {
        text.clone().unwrap_or(none.to_owned())
    }

    fn path(path: &Option<PathBuf>, none: &str) -> String {
        path.as_ref().map_or(none.to_owned(), |path| path.display().to_string())
    }

    /// The value that a program would write.
    fn written(text: &str) -> Value {
        match text.parse::<i64>() {
            Ok(number) => Value::Int(number),
            Err(_) => text.parse::<bool>().map_or(text.into(), Value::Bool),
        }
    }

    /// What a case's option cannot do without.
    fn besides(name: &str) -> Vec<(&'static str, Value)> {
        let more: &[_] = match name {
            "tls_cert_file" => &[("tls_key_file", "/k")],
            "tls_key_file" => &[("tls_cert_file", "/c")],
            _ => &[],
        };
        if name == "guard_program" {
            return vec![("guard", true.into())];
        }
        let tls = [("endpoint", "https://a")].into_iter().filter(|_| name.starts_with("tls_"));
        tls.chain(more.iter().copied()).map(|(name, text)| (name, text.into())).collect()
    }

    #[test]
    fn every_option_has_its_case() {
        let names: Vec<_> = OPTIONS.iter().map(|option| option.name).collect();
        assert_eq!(CASES.iter().map(|case| case.0).collect::<Vec<_>>(), names);
    }

    #[test]
    fn every_option_is_said_by_each_of_its_names() {
        for (option, Case(name, text, read)) in OPTIONS.iter().zip(CASES) {
            for alias in [&[option.name], option.aliases].concat() {
                let mut given = besides(name);
                given.push((alias, written(text)));
                assert_eq!(read(&config(&given, &[]).unwrap()), *text, "{alias}");
            }
        }
    }

    #[test]
    fn every_default_is_what_the_reference_says() {
        for (option, Case(name, text, read)) in OPTIONS.iter().zip(CASES) {
            assert_eq!(read(&config(&[], &[]).unwrap()), option.default, "{name}");
            assert_ne!(*text, option.default, "{name}: its case would show nothing");
        }
    }

    #[test]
    fn every_variable_is_beaten_by_the_program_and_is_none_when_empty() {
        for (option, Case(name, text, read)) in OPTIONS.iter().zip(CASES) {
            let Some(variable) = option.env else { continue };
            let besides = besides(name);
            let from_env = config(&besides, &[(variable, text)]).unwrap();
            assert_eq!(read(&from_env), *text, "{variable}");
            let empty = config(&besides, &[(variable, "")]);
            match empty {
                Ok(empty) => assert_eq!(read(&empty), option.default, "{variable}"),
                // A certificate without its key.
                Err(error) => assert!(error.message().contains(name), "{error}"),
            }
            let mut given = besides;
            given.push((name, written(text)));
            let other = match option.takes {
                Takes::Flag(_) if *text == "true" => "false",
                Takes::Flag(_) => "true",
                Takes::Credentials(_) => "other:other",
                _ => "other",
            };
            assert_eq!(read(&config(&given, &[(variable, other)]).unwrap()), *text, "{variable}");
        }
    }

    #[test]
    fn the_variables_are_those_of_the_official_client() {
        let mut variables: Vec<_> = OPTIONS.iter().filter_map(|option| option.env).collect();
        variables.sort_unstable();
        assert_eq!(
            variables,
            [
                "CONSUL_CACERT",
                "CONSUL_CAPATH",
                "CONSUL_CLIENT_CERT",
                "CONSUL_CLIENT_KEY",
                "CONSUL_HTTP_ADDR",
                "CONSUL_HTTP_AUTH",
                "CONSUL_HTTP_SSL",
                "CONSUL_HTTP_SSL_VERIFY",
                "CONSUL_HTTP_TOKEN",
                "CONSUL_HTTP_TOKEN_FILE",
                "CONSUL_NAMESPACE",
                "CONSUL_PARTITION",
                "CONSUL_TLS_SERVER_NAME",
            ]
        );
    }

    #[test]
    fn every_option_names_itself_and_what_it_takes_when_the_type_is_wrong() {
        for option in OPTIONS {
            for name in [&[option.name], option.aliases].concat() {
                let message = message(&[(name, Value::Foreign("a function"))], &[]);
                assert!(message.starts_with(&format!("{name} must be ")), "{message}");
                assert!(message.contains(&option.takes.words()), "{message}");
            }
        }
    }

    #[test]
    fn every_option_is_suggested_for_a_name_that_is_nearly_its() {
        for option in OPTIONS {
            let message = message(&[(&format!("{}_", option.name), 1.into())], &[]);
            assert!(message.contains(&format!("did you mean {:?}?", option.name)), "{message}");
        }
    }

    #[test]
    fn a_variable_that_is_wrong_is_named() {
        let message = message(&[], &[("CONSUL_HTTP_SSL", "yes")]);
        assert_eq!(message, "CONSUL_HTTP_SSL must be true or false, got a string \"yes\"");
        for (variable, flag) in [("t", true), ("1", true), ("False", false), ("0", false)] {
            let env = [("CONSUL_HTTP_SSL", variable)];
            assert_eq!(config(&[], &env).unwrap().tls, Some(flag), "{variable}");
        }
    }

    #[test]
    fn a_variable_need_not_be_text_but_for_what_is() {
        let bytes =
            |name: &'static str| move |asked: &str| (asked == name).then(|| b"/\xff".to_vec());
        let config = Config::new(&[], bytes("CONSUL_HTTP_TOKEN_FILE")).unwrap();
        assert_eq!(config.token_file.unwrap().as_os_str().as_encoded_bytes(), b"/\xff");
        let error = Config::new(&[], bytes("CONSUL_NAMESPACE")).unwrap_err();
        assert!(error.message().contains("CONSUL_NAMESPACE"), "{error}");
    }

    #[test]
    fn two_names_of_one_option_are_refused() {
        let given = [("endpoint", Value::from("a")), ("consul_url", Value::from("b"))];
        assert!(message(&given, &[]).contains("endpoint and consul_url say the same thing twice"));
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for (name, value) in [
            ("timeout", 0),
            ("timeout", -1),
            ("idle_timeout_ms", 0),
            ("retry_count", 101),
            ("retry_count", -1),
            ("max_connections", 0),
        ] {
            let message = message(&[(name, value.into())], &[]);
            assert!(message.starts_with(&format!("{name} is {value}: ")), "{message}");
        }
    }

    #[test]
    fn an_endpoint_has_a_scheme_and_no_slash_at_its_end() {
        for (given, wanted) in [
            ("consul", "http://consul"),
            ("[::1]:8500", "http://[::1]:8500"),
            ("HTTPS://consul:8501/", "https://consul:8501"),
            ("http://proxy/consul/", "http://proxy/consul"),
            ("unix:///run/consul.sock", "unix:///run/consul.sock"),
        ] {
            assert_eq!(config(&[("endpoint", given.into())], &[]).unwrap().endpoints, [wanted]);
        }
    }

    #[test]
    fn a_bad_endpoint_is_refused_without_its_password() {
        let long = format!("unix:///{}", "x".repeat(107));
        for url in [
            "ftp://x",
            "http://",
            "http://a b",
            "http://x?y",
            "",
            "unix://x",
            "unix://",
            &long,
            "a:",
            "a:0",
            "a:65536",
            "a:b",
        ] {
            assert!(message(&[("endpoint", url.into())], &[]).contains("endpoint is"), "{url}");
        }
        for url in ["http://user:hunter2@host", "user:hunter2@host", "http://u:hunt/er2@host"] {
            let message = message(&[("endpoint", url.into())], &[]);
            assert!(message.contains("http_auth") && !message.contains("hunt"), "{message}");
        }
    }

    #[test]
    fn no_message_and_no_debug_text_shows_a_secret() {
        for (name, value) in [
            ("token", Value::Bytes(b"s3cr\xff".to_vec())),
            ("token", "s3cr\n".into()),
            ("token", Value::List(vec!["s3cr".into()])),
            ("http_auth", "s3cr".into()),
            ("http_auth", Value::Bytes(b"u:s3cr\xff".to_vec())),
        ] {
            let message = message(&[(name, value)], &[]);
            assert!(message.contains(name) && !message.contains("s3cr"), "{message}");
        }
        let given = [("token", Value::from("s3cr")), ("http_auth", "u:s3cr".into())];
        let debug = format!("{:?}", config(&given, &[]).unwrap());
        assert!(!debug.contains("s3cr") && !debug.contains("dTpzM2Ny"), "{debug}");
    }

    #[test]
    fn an_empty_token_is_none_even_when_the_environment_has_one() {
        let env = [("CONSUL_HTTP_TOKEN", "t"), ("CONSUL_HTTP_TOKEN_FILE", "/f")];
        let config = config(&[("token", "".into())], &env).unwrap();
        assert_eq!((config.defaults.token, config.token_file), (None, None));
    }

    #[test]
    fn a_token_that_the_program_says_beats_a_file_that_the_environment_says() {
        let env = [("CONSUL_HTTP_TOKEN", "e"), ("CONSUL_HTTP_TOKEN_FILE", "/e")];
        let token_and_file = |given: &[(&str, Value)]| {
            let config = config(given, &env).unwrap();
            (config.defaults.token, config.token_file)
        };
        assert_eq!(token_and_file(&[("token", "p".into())]), (Some("p".into()), None));
        assert_eq!(token_and_file(&[("token_file", "/p".into())]), (None, Some("/p".into())));
        assert_eq!(token_and_file(&[]), (None, Some("/e".into())));
    }

    #[test]
    fn authorities_that_the_program_names_are_the_only_ones() {
        let env = [("CONSUL_CACERT", "/e"), ("CONSUL_CAPATH", "/e")];
        let given = [("endpoint", Value::from("https://a")), ("tls_ca_path", "/p".into())];
        let tls = config(&given, &env).unwrap().http.tls;
        assert_eq!((tls.ca_file, tls.ca_path), (None, Some("/p".into())));
    }

    #[test]
    fn a_request_for_tls_turns_every_endpoint_into_a_secure_one() {
        let endpoints = vec![Value::from("a"), "http://b".into(), "unix:///c".into()];
        let endpoints = ("endpoints", Value::List(endpoints));
        let wanted = ["https://a", "https://b", "unix:///c"];
        let given = [endpoints.clone(), ("tls", true.into())];
        assert_eq!(config(&given, &[]).unwrap().endpoints, wanted);
        let env = [("CONSUL_HTTP_SSL", "true")];
        assert_eq!(config(&[endpoints], &env).unwrap().endpoints, wanted);
        assert_eq!(config(&[], &env).unwrap().endpoints, ["https://127.0.0.1:8500"]);
        let env = [("CONSUL_HTTP_SSL", "false"), ("CONSUL_HTTP_ADDR", "https://a")];
        assert_eq!(config(&[], &env).unwrap().endpoints, ["https://a"]);
    }

    #[test]
    fn options_that_contradict_each_other_are_refused_by_both_names() {
        let https = || ("endpoint", Value::from("https://a"));
        let env = |name| vec![(name, "/f")];
        for (given, env, names) in [
            (
                vec![https(), ("tls_cert_file", "/c".into())],
                vec![],
                ["tls_cert_file", "tls_key_file"],
            ),
            (
                vec![https(), ("tls_key_file", "/k".into())],
                vec![],
                ["tls_key_file", "tls_cert_file"],
            ),
            (vec![], env("CONSUL_CLIENT_CERT"), ["CONSUL_CLIENT_CERT", "tls_key_file"]),
            (vec![], env("CONSUL_CLIENT_KEY"), ["CONSUL_CLIENT_KEY", "tls_cert_file"]),
            (
                vec![("acl_token", "t".into()), ("token_file", "/f".into())],
                vec![],
                ["acl_token", "token_file"],
            ),
            (
                vec![("consistency", "consistent".into()), ("stale_if_error", true.into())],
                vec![],
                ["consistency", "stale_if_error"],
            ),
            (vec![https(), ("tls", false.into())], vec![], ["tls", "https://a"]),
            (
                vec![("endpoint", "unix:///s".into()), ("tls_enabled", true.into())],
                vec![],
                ["tls_enabled", "unix"],
            ),
            (vec![("tls_server_name", "n".into())], vec![], ["tls_server_name", "https://"]),
            (vec![("guard_program", "/g".into())], vec![], ["guard_program", "guard = true"]),
            (
                vec![("tls_ca_file", "/c".into()), ("endpoint", "unix:///s".into())],
                vec![],
                ["tls_ca_file", "unix:///s"],
            ),
            (
                vec![("tls_ca_path", "/c".into()), ("tls", false.into())],
                vec![],
                ["tls_ca_path", "tls = true"],
            ),
        ] {
            let message = message(&given, &env);
            assert!(names.iter().all(|name| message.contains(name)), "{message}");
        }
    }

    #[test]
    fn what_the_environment_says_of_tls_is_no_contradiction() {
        let env = [
            ("CONSUL_CACERT", "/f"),
            ("CONSUL_TLS_SERVER_NAME", "n"),
            ("CONSUL_HTTP_SSL_VERIFY", "false"),
        ];
        assert_eq!(config(&[], &env).unwrap().endpoints, ["http://127.0.0.1:8500"]);
        let socket = [("endpoint", Value::from("unix:///s"))];
        assert!(config(&socket, &[("CONSUL_HTTP_SSL", "true")]).is_ok());
    }
}
