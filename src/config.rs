//! The configuration of a client: every option is declared once, in [`OPTIONS`].

use crate::error::{Error, Kind};
use crate::wire::request::Defaults;
use crate::wire::shape::{At, unknown};
use crate::wire::table::Shape;
use crate::wire::value::Value;
use std::time::Duration;

/// A client's configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The agents' URLs, each `scheme://host:port` with an optional path and no trailing slash.
    pub endpoints: Vec<String>,
    /// The whole time that one call may take.
    pub timeout: Duration,
    /// How long making one connection may take.
    pub connect_timeout: Duration,
    /// How many times a call is made again after a failure that may pass, when each endpoint has
    /// been asked once.
    pub retry_count: u32,
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

/// One option of the configuration.
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Other names for the same option, kept for older programs.
    pub aliases: &'static [&'static str],
    /// What it takes, in words.
    pub takes: &'static str,
    /// The environment variable that says it when the program does not.
    pub env: Option<&'static str>,
    /// Its default, as a reader would write it.
    pub default: &'static str,
    /// What it is for.
    pub doc: &'static str,
    apply: fn(&mut Config, &Value, &At) -> Result<(), Error>,
}

const LOG_LEVELS: &[&str] = &["DEBUG", "INFO", "WARN", "ERROR"];
const CONSISTENCIES: &[&str] = &["default", "stale", "consistent"];

/// Every option.
pub const OPTIONS: &[Setting] = &[
    Setting {
        name: "endpoints",
        aliases: &["endpoint", "consul_url", "consul_endpoints"],
        takes: "a URL or a list of URLs; the scheme may be left out",
        env: Some("CONSUL_HTTP_ADDR"),
        default: "http://127.0.0.1:8500",
        doc: "The agents to speak to; the next one is asked when one does not answer.",
        apply: |config, value, at| {
            let urls = Shape::TextList.texts(value, at)?;
            config.endpoints =
                urls.iter().map(|url| endpoint(url, at)).collect::<Result<_, _>>()?;
            if config.endpoints.is_empty() {
                return Err(at.bad_value(value, "at least one endpoint is needed"));
            }
            Ok(())
        },
    },
    Setting {
        name: "timeout",
        aliases: &["timeout_ms"],
        takes: "milliseconds",
        env: None,
        default: "5000",
        doc: "The whole time that one call may take, all attempts together; a blocking query gets its wait in addition.",
        apply: |config, value, at| {
            config.timeout = Shape::Millis.duration(value, at)?;
            Ok(())
        },
    },
    Setting {
        name: "connect_timeout_ms",
        aliases: &[],
        takes: "milliseconds",
        env: None,
        default: "2000",
        doc: "How long making one connection may take.",
        apply: |config, value, at| {
            config.connect_timeout = Shape::Millis.duration(value, at)?;
            Ok(())
        },
    },
    Setting {
        name: "retry_count",
        aliases: &[],
        takes: "an integer",
        env: None,
        default: "3",
        doc: "How many times a call is made again after a failure that may pass, when each endpoint has been asked once.",
        apply: |config, value, at| {
            const MOST: u64 = 100;
            match Shape::Uint.uint(value, at)? {
                count if count <= MOST => config.retry_count = count as u32,
                _ => return Err(at.bad_value(value, "it must be from 0 to 100")),
            }
            Ok(())
        },
    },
    Setting {
        name: "simulate",
        aliases: &[],
        takes: "true, false or the name of a simulated agent",
        env: None,
        default: "false",
        doc: "Speak to an agent in this process's memory instead of a server. Clients with the same endpoints share one; a name makes one of its own.",
        apply: |config, value, at| {
            config.simulate = match value {
                Value::Bytes(_) => Simulate::Named(Shape::Text.text(value, at)?),
                Value::Bool(true) => Simulate::ForEndpoints,
                Value::Bool(false) => Simulate::No,
                _ => return Err(at.wrong_type_text("true, false or a name", value)),
            };
            Ok(())
        },
    },
    Setting {
        name: "client_name",
        aliases: &[],
        takes: "a string",
        env: None,
        default: "none",
        doc: "A name by which faults of a simulated agent can concern this client alone.",
        apply: |config, value, at| {
            config.client_name = Shape::Text.text(value, at)?;
            Ok(())
        },
    },
    Setting {
        name: "token",
        aliases: &["acl_token"],
        takes: "a string",
        env: Some("CONSUL_HTTP_TOKEN"),
        default: "none",
        doc: "The ACL token.",
        apply: |config, value, at| {
            // An empty token is none, as for Consul itself.
            config.defaults.token =
                Some(Shape::TextOrEmpty.text(value, at).map_err(|_| at.secret("a string"))?)
                    .filter(|token| !token.is_empty());
            Ok(())
        },
    },
    Setting {
        name: "datacenter",
        aliases: &["dc"],
        takes: "a string",
        env: None,
        default: "the agent's own",
        doc: "The datacenter that calls go to unless they say another.",
        apply: |config, value, at| {
            config.defaults.dc = Some(Shape::Text.text(value, at)?);
            Ok(())
        },
    },
    Setting {
        name: "namespace",
        aliases: &[],
        takes: "a string",
        env: Some("CONSUL_NAMESPACE"),
        default: "none",
        doc: "The namespace (Consul Enterprise).",
        apply: |config, value, at| {
            config.defaults.namespace = Some(Shape::Text.text(value, at)?);
            Ok(())
        },
    },
    Setting {
        name: "partition",
        aliases: &[],
        takes: "a string",
        env: Some("CONSUL_PARTITION"),
        default: "none",
        doc: "The admin partition (Consul Enterprise).",
        apply: |config, value, at| {
            config.defaults.partition = Some(Shape::Text.text(value, at)?);
            Ok(())
        },
    },
    Setting {
        name: "consistency",
        aliases: &[],
        takes: "\"default\", \"stale\" or \"consistent\"",
        env: None,
        default: "default",
        doc: "How fresh reads are unless they say otherwise.",
        apply: |config, value, at| {
            let mode = Shape::OneOf(CONSISTENCIES).text(value, at)?;
            config.defaults.consistency =
                CONSISTENCIES[1..].iter().copied().find(|known| *known == mode);
            Ok(())
        },
    },
    Setting {
        name: "stale_if_error",
        aliases: &[],
        takes: "true or false",
        env: None,
        default: "false",
        doc: "When the leader does not answer a read within half of its time, any server may; `meta.stale` then says so.",
        apply: |config, value, at| {
            config.defaults.stale_if_error = Shape::Bool.boolean(value, at)?;
            Ok(())
        },
    },
    Setting {
        name: "strip_leading_slash",
        aliases: &[],
        takes: "true or false",
        env: None,
        default: "false",
        doc: "Take one leading `/` off keys, as etcd's keys have it, instead of refusing them.",
        apply: |config, value, at| {
            config.defaults.strip_leading_slash = Shape::Bool.boolean(value, at)?;
            Ok(())
        },
    },
    Setting {
        name: "log_level",
        aliases: &[],
        takes: "\"DEBUG\", \"INFO\", \"WARN\" or \"ERROR\"",
        env: None,
        default: "WARN",
        doc: "What is written to standard error. The first client of a process decides.",
        apply: |config, value, at| {
            let level = Shape::OneOf(LOG_LEVELS).text(value, at)?;
            config.log_level = level.parse().map_err(|_| at.bad_value(value, "no log level"))?;
            Ok(())
        },
    },
];

impl Default for Config {
    fn default() -> Self {
        Config {
            endpoints: vec!["http://127.0.0.1:8500".to_owned()],
            timeout: Duration::from_millis(5000),
            connect_timeout: Duration::from_millis(2000),
            retry_count: 3,
            simulate: Simulate::No,
            client_name: String::new(),
            log_level: tracing::Level::WARN,
            defaults: Defaults::default(),
        }
    }
}

impl Config {
    /// The configuration that `given` says; what it does not say comes from the environment, as
    /// `env` reads it, and else is the default.
    ///
    /// # Errors
    /// [`Kind::Config`], naming the option, what was given and what is allowed.
    pub fn new(
        given: &[(String, Value)],
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let mut config = Config::default();
        check_names(given)?;
        for option in OPTIONS {
            let said =
                given.iter().find(|(name, value)| option.is_called(name) && *value != Value::Null);
            match said {
                Some((name, value)) => (option.apply)(&mut config, value, &At::top(name)),
                None => match option.env.and_then(|name| Some((name, env(name)?))) {
                    Some((name, text)) if !text.is_empty() => {
                        (option.apply)(&mut config, &text.into(), &At::top(name))
                    }
                    _ => Ok(()),
                },
            }
            .map_err(|error| Error::new(Kind::Config, error.message()).not_sent())?;
        }
        if config.defaults.stale_if_error && config.defaults.consistency == Some("consistent") {
            let message = "stale_if_error and consistency = \"consistent\" contradict each other";
            return Err(Error::new(Kind::Config, message).not_sent());
        }
        Ok(config)
    }
}

impl Setting {
    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

fn check_names(given: &[(String, Value)]) -> Result<(), Error> {
    let refuse = |message: String| Err(Error::new(Kind::Config, message).not_sent());
    for (name, _) in given {
        let Some(option) = OPTIONS.iter().find(|option| option.is_called(name)) else {
            let known = OPTIONS.iter().flat_map(|option| [&[option.name], option.aliases].concat());
            return refuse(unknown("option", name, &known.collect::<Vec<_>>()));
        };
        let twin = given.iter().find(|(other, _)| other != name && option.is_called(other));
        if let Some((twin, _)) = twin {
            return refuse(format!("the options {name} and {twin} say the same thing twice"));
        }
    }
    Ok(())
}

/// The URL of an endpoint, with a scheme and no trailing slash.
fn endpoint(text: &str, at: &At) -> Result<String, Error> {
    let refuse = |why: &str| Err(at.bad_value(&text.into(), why));
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let Ok(uri) = url.parse::<http::Uri>() else { return refuse("it is no URL") };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return refuse("the scheme must be http or https");
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            return Err(at.secret("a URL without credentials"));
        }
        Some(authority) if !authority.host().is_empty() => {}
        _ => return refuse("it names no host"),
    }
    if uri.query().is_some() {
        return refuse("an endpoint has no query");
    }
    Ok(url.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(given: &[(&str, Value)], env: &[(&str, &str)]) -> Result<Config, Error> {
        let given: Vec<_> = given.iter().map(|(name, v)| (name.to_string(), v.clone())).collect();
        Config::new(&given, |name| {
            env.iter().find(|(known, _)| *known == name).map(|(_, text)| text.to_string())
        })
    }

    #[test]
    fn explicit_beats_environment_beats_default() {
        let env = [("CONSUL_HTTP_ADDR", "10.0.0.1:8500")];
        assert_eq!(config(&[], &[]).unwrap().endpoints, ["http://127.0.0.1:8500"]);
        assert_eq!(config(&[], &env).unwrap().endpoints, ["http://10.0.0.1:8500"]);
        let given = [("endpoint", Value::from("https://consul:8501/"))];
        assert_eq!(config(&given, &env).unwrap().endpoints, ["https://consul:8501"]);
    }

    #[test]
    fn an_unknown_option_suggests_the_nearest() {
        let error = config(&[("time_out", 5.into())], &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.message().contains("did you mean \"timeout\""), "{error}");
    }

    #[test]
    fn two_names_of_one_option_are_refused() {
        let given = [("endpoint", Value::from("a")), ("consul_url", Value::from("b"))];
        assert!(config(&given, &[]).unwrap_err().message().contains("twice"));
    }

    #[test]
    fn every_setting_names_itself_in_its_error() {
        for option in OPTIONS {
            let error = config(&[(option.name, Value::Float(f64::NAN))], &[]).unwrap_err();
            assert!(error.message().contains(option.name), "{}: {error}", option.name);
        }
    }

    #[test]
    fn a_bad_endpoint_is_refused_without_its_password() {
        for url in ["ftp://x", "http://", "http://a b", "http://x?y", ""] {
            assert!(config(&[("endpoint", url.into())], &[]).is_err(), "{url}");
        }
        let error = config(&[("endpoint", "http://user:hunter2@host".into())], &[]).unwrap_err();
        assert!(!error.message().contains("hunter2"), "{error}");
    }

    #[test]
    fn contradictions_are_refused() {
        let given = [("stale_if_error", true.into()), ("consistency", "consistent".into())];
        assert!(config(&given, &[]).unwrap_err().message().contains("contradict"));
    }

    #[test]
    fn a_token_is_never_in_an_error() {
        let error = config(&[("token", Value::Bytes(b"s3cr\xff".to_vec()))], &[]).unwrap_err();
        assert!(!error.message().contains("s3cr"), "{error}");
    }
}
