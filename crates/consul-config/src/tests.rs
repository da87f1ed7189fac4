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

/// The name of an option, a value of it, and the resulting value as the reference writes it.
struct Case(&'static str, &'static str, fn(&Config) -> String);

/// A case for each option, with the text of an environment variable.
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
        config.tls.map_or("by the endpoint's scheme".to_owned(), |tls| tls.to_string())
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
    Case("strip_leading_slash", "true", |config| config.defaults.strip_leading_slash.to_string()),
    Case("log_level", "INFO", |config| {
        config.log_level.map_or("WARN".to_owned(), |level| level.to_string().to_uppercase())
    }),
    Case("log_format", "json", |config| {
        if config.log_json == Some(true) { "json" } else { "text" }.to_owned()
    }),
    Case("log", "false", |config| match config.log {
        None => "standard error".to_owned(),
        Some(Given::Nothing) => "false".to_owned(),
        Some(Given::Function) => "a function".to_owned(),
    }),
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

/// The value in a program's table.
fn written(text: &str) -> Value {
    match text.parse::<i64>() {
        Ok(number) => Value::Int(number),
        Err(_) => text.parse::<bool>().map_or(text.into(), Value::Bool),
    }
}

/// Options without which that of a case is refused.
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
fn every_option_works_under_each_of_its_names() {
    for (option, Case(name, text, read)) in OPTIONS.iter().zip(CASES) {
        for alias in [&[option.name], option.aliases].concat() {
            let mut given = besides(name);
            given.push((alias, written(text)));
            assert_eq!(read(&config(&given, &[]).unwrap()), *text, "{alias}");
        }
    }
}

#[test]
fn every_default_is_as_documented() {
    for (option, Case(name, text, read)) in OPTIONS.iter().zip(CASES) {
        assert_eq!(read(&config(&[], &[]).unwrap()), option.default, "{name}");
        assert_ne!(*text, option.default, "{name}: its case would show nothing");
    }
}

#[test]
fn the_program_takes_precedence_over_every_variable_and_empty_ones_are_unset() {
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
            let message = message(&[(name, Value::Foreign("a userdata"))], &[]);
            assert!(message.starts_with(&format!("{name} must be ")), "{message}");
            assert!(message.contains(&option.takes.words()), "{message}");
        }
    }
}

#[test]
fn every_option_is_suggested_for_a_similar_name() {
    for option in OPTIONS {
        let message = message(&[(&format!("{}_", option.name), 1.into())], &[]);
        assert!(message.contains(&format!("did you mean {:?}?", option.name)), "{message}");
    }
}

#[test]
fn an_invalid_variable_is_named() {
    let message = message(&[], &[("CONSUL_HTTP_SSL", "yes")]);
    assert_eq!(message, "CONSUL_HTTP_SSL must be true or false, got a string \"yes\"");
    for (variable, flag) in [("t", true), ("1", true), ("False", false), ("0", false)] {
        let env = [("CONSUL_HTTP_SSL", variable)];
        assert_eq!(config(&[], &env).unwrap().tls, Some(flag), "{variable}");
    }
}

#[test]
fn a_variable_may_have_any_bytes_if_its_option_may() {
    let bytes = |name: &'static str| move |asked: &str| (asked == name).then(|| b"/\xff".to_vec());
    let config = Config::new(&[], bytes("CONSUL_HTTP_TOKEN_FILE")).unwrap();
    assert_eq!(config.token_file.unwrap().as_os_str().as_encoded_bytes(), b"/\xff");
    let error = Config::new(&[], bytes("CONSUL_NAMESPACE")).unwrap_err();
    assert!(error.message().contains("CONSUL_NAMESPACE"), "{error}");
}

#[test]
fn what_is_likely_not_meant_is_a_warning() {
    let warnings = |given: &[(&str, Value)]| config(given, &[]).expect("valid").warnings;
    for (endpoint, meant) in [
        ("localhost", Some("likely meant: http://localhost:8500")),
        ("http://[::1]", Some("likely meant: http://[::1]:8500")),
        ("http://a:8500/v1", Some("ends in /v1")),
        ("https://a/v1/", Some("likely meant: https://a")),
        ("localhost:80", None),
        ("https://consul.example", None),
        ("http://proxy/consul", None),
        ("unix:///v", None),
    ] {
        let found = warnings(&[("endpoint", endpoint.into())]);
        assert_eq!(found.len(), usize::from(meant.is_some()), "{endpoint}: {found:?}");
        assert!(meant.is_none_or(|meant| found[0].contains(meant)), "{found:?}");
        assert!(warnings(&[("endpoint", endpoint.into()), ("simulate", true.into())]).is_empty());
    }
    for (ms, is_warned) in [(5.0, true), (49.9, true), (50.0, false)] {
        assert_eq!(!warnings(&[("timeout_ms", Value::Float(ms))]).is_empty(), is_warned, "{ms}");
    }
    let unit = "timeout is 5 milliseconds, the limit of a whole call; if seconds are meant: timeout = 5000";
    assert_eq!(warnings(&[("timeout", 5.into())]), [unit]);
}

#[test]
fn the_origin_of_the_endpoints_is_known() {
    let origin = |given: &[(&str, Value)], env: &[(&str, &str)]| {
        config(given, env).expect("valid").endpoints_from
    };
    let env = [("CONSUL_HTTP_ADDR", "b:1")];
    for (found, wanted) in [
        (origin(&[("endpoint", "a:1".into())], &env), "the option endpoint names this address"),
        (origin(&[], &env), "the environment variable CONSUL_HTTP_ADDR names this address"),
        (origin(&[], &[]), "this is the default address: the option endpoint or the environment"),
    ] {
        assert!(found.starts_with(wanted), "{found}");
        assert!(found.ends_with("; without a server: simulate = true"), "{found}");
    }
}

#[test]
fn names_that_are_like_an_option_are_found() {
    let like = |name: &str| option_like(name, &["host", "replication_factor"]);
    for (name, option, is_exact) in [
        ("host", "host", true),
        ("replication_factor", "replication_factor", true),
        ("endpoint", "endpoints", true),
        ("zone", "zone", true),
        ("replication_facter", "replication_factor", false),
        ("replica_count", "replicas", false),
        ("endpiont", "endpoints", false),
    ] {
        assert_eq!(like(name), Some((option.to_owned(), is_exact)), "{name}");
    }
    for name in ["block_size", "data_dir", "seed_nodes", "gossip_port", "compression", ""] {
        assert_eq!(like(name), None, "{name}");
    }
}

#[test]
fn the_text_of_a_flag_is_not_the_name_of_a_simulated_agent() {
    for text in ["true", "False", "0", "1", "yes", "NO", "on", "off"] {
        let why = message(&[("simulate", text.into())], &[]);
        assert!(why.starts_with(&format!("simulate is {text:?}: it would be the name")), "{why}");
    }
    assert!(config(&[("simulate", "nodes".into())], &[]).is_ok());
}

#[test]
fn two_names_of_one_option_are_refused() {
    let given = [("endpoint", Value::from("a")), ("consul_url", Value::from("b"))];
    assert!(message(&given, &[]).contains("endpoint and consul_url are the same option"));
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
        ("https+unix:///run/consul.sock", "https+unix:///run/consul.sock"),
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
        "unix:/x",
        "unix:x",
        "unix://",
        "https+unix://x",
        "http+unix:///x",
        &long,
        "a:",
        "a:0",
        "a:65536",
        "a:b",
    ] {
        assert!(message(&[("endpoint", url.into())], &[]).contains("endpoint is"), "{url}");
    }
    for url in [
        "unix:/path",
        "unix:path",
        "unix://path",
        "https+unix://path",
        "unix:",
        "/tmp/x.sock",
        "./x.sock",
        "../x",
    ] {
        let message = message(&[("endpoint", url.into())], &[]);
        assert!(message.contains(url) && message.contains("unix:///path"), "{message}");
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
fn an_empty_token_counts_as_unset_even_if_the_environment_has_one() {
    let env = [("CONSUL_HTTP_TOKEN", "t"), ("CONSUL_HTTP_TOKEN_FILE", "/f")];
    let config = config(&[("token", "".into())], &env).unwrap();
    assert_eq!((config.defaults.token, config.token_file), (None, None));
}

#[test]
fn a_token_of_the_program_takes_precedence_over_a_file_of_the_environment() {
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
fn authorities_of_the_program_are_the_only_ones() {
    let env = [("CONSUL_CACERT", "/e"), ("CONSUL_CAPATH", "/e")];
    let given = [("endpoint", Value::from("https://a")), ("tls_ca_path", "/p".into())];
    let tls = config(&given, &env).unwrap().http.tls;
    assert_eq!((tls.ca_file, tls.ca_path), (None, Some("/p".into())));
}

#[test]
fn tls_applies_to_every_endpoint_also_to_sockets() {
    let endpoints = vec![Value::from("a"), "http://b".into(), "unix:///c".into()];
    let endpoints = ("endpoints", Value::List(endpoints));
    let wanted = ["https://a", "https://b", "https+unix:///c"];
    let given = [endpoints.clone(), ("tls", true.into())];
    assert_eq!(config(&given, &[]).unwrap().endpoints, wanted);
    let env = [("CONSUL_HTTP_SSL", "true")];
    assert_eq!(config(&[endpoints], &env).unwrap().endpoints, wanted);
    assert_eq!(config(&[], &env).unwrap().endpoints, ["https://127.0.0.1:8500"]);
    let env = [("CONSUL_HTTP_SSL", "false"), ("CONSUL_HTTP_ADDR", "https://a")];
    assert_eq!(config(&[], &env).unwrap().endpoints, ["https://a"]);
}

#[test]
fn contradictions_are_refused_with_both_names() {
    let https = || ("endpoint", Value::from("https://a"));
    let env = |name| vec![(name, "/f")];
    for (given, env, names) in [
        (vec![https(), ("tls_cert_file", "/c".into())], vec![], ["tls_cert_file", "tls_key_file"]),
        (vec![https(), ("tls_key_file", "/k".into())], vec![], ["tls_key_file", "tls_cert_file"]),
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
fn tls_options_of_the_environment_are_never_a_contradiction() {
    let env = [
        ("CONSUL_CACERT", "/f"),
        ("CONSUL_TLS_SERVER_NAME", "n"),
        ("CONSUL_HTTP_SSL_VERIFY", "false"),
    ];
    assert_eq!(config(&[], &env).unwrap().endpoints, ["http://127.0.0.1:8500"]);
    // As Nomad sets them.
    let env = [("CONSUL_HTTP_SSL", "true"), ("CONSUL_HTTP_ADDR", "unix:///s")];
    assert_eq!(config(&[], &env).unwrap().endpoints, ["https+unix:///s"]);
}
