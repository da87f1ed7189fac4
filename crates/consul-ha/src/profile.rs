//! Profiles: the clusters of an operator by name, in a file. A profile gives flags their values where the command line does not,
//! and if the environment names it, where that does not either. It holds no secret, only the files that have them.

use super::arguments::CommandLine;
use super::failure::Failure;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use consul_api::value::Value;
use consul_api::value::shape::unknown;
use consul_cli::text_file;
use consul_config::toml;
use std::ffi::OsString;
use std::path::PathBuf;

/// The flags that say which cluster is meant and how it is reached.
const FLAGS: &[&str] = &[
    "http_addr",
    "token_file",
    "ca_file",
    "client_cert",
    "client_key",
    "tls_server_name",
    "datacenter",
    "timeout_ms",
    "prefix",
    "leader_key",
    "nodes_prefix",
    "shards_prefix",
    "config_key",
    "cluster_key_file",
    "data_cert",
    "data_key",
    "data_ca",
];

/// The variables of Consul's own programs, which count as the variables of flags do.
const OF_CONSUL: &[(&str, &str)] = &[
    ("http_addr", "CONSUL_HTTP_ADDR"),
    ("token_file", "CONSUL_HTTP_TOKEN_FILE"),
    ("ca_file", "CONSUL_CACERT"),
    ("client_cert", "CONSUL_CLIENT_CERT"),
    ("client_key", "CONSUL_CLIENT_KEY"),
    ("tls_server_name", "CONSUL_TLS_SERVER_NAME"),
];

/// The command line with the values of its profile, if it names one.
pub fn with_profile(line: CommandLine) -> Result<CommandLine, Failure> {
    let Some(name) = line.profile.profile.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(line);
    };
    let file = line.profile.profiles.clone().filter(|file| !file.is_empty());
    let Some(file) = file.map(PathBuf::from).or_else(default_file) else {
        return Err(Failure::Usage("--profiles is required, since HOME is not set".to_owned()));
    };
    let shown = format!("--profiles {:?}", file.display().to_string());
    let text = text_file(&shown, &file).map_err(Failure::Usage)?;
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let given = matches(&arguments).map_err(|error| Failure::Usage(error.to_string()))?;
    // Who names a cluster in a command means no other one, whatever the shell has set for another.
    let is_named = source(&given, "profile") == Some(ValueSource::CommandLine);
    let is_given = |flag: &str| match source(&given, flag) {
        Some(ValueSource::CommandLine) => true,
        found => !is_named && (found.is_some() || is_set(flag)),
    };
    let more =
        flags(&text, name, is_given).map_err(|why| Failure::Usage(format!("{shown}: {why}")))?;
    // Before the verb: every verb has these flags.
    let mut all = arguments;
    let rest = all.split_off(all.len().min(1));
    all.extend(more.into_iter().map(OsString::from));
    all.extend(rest);
    let of_profile = |error: clap::Error| {
        let why = error.to_string();
        let why = why.trim_start_matches("error: ").lines().next().unwrap_or_default();
        Failure::Usage(format!("{shown}: profile {name:?}: {why}"))
    };
    let matches = matches(&all).map_err(of_profile)?;
    CommandLine::from_arg_matches(&matches).map_err(of_profile)
}

fn matches(arguments: &[OsString]) -> Result<ArgMatches, clap::Error> {
    CommandLine::command().try_get_matches_from(arguments)
}

fn default_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    let folder = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(folder.join("consul-ha/profiles.toml"))
}

/// The source of a flag's value, if that is not the default.
fn source(matches: &ArgMatches, flag: &str) -> Option<ValueSource> {
    let mut below = Some(matches);
    while let Some(matches) = below {
        let source = matches.try_contains_id(flag).ok().and_then(|_| matches.value_source(flag));
        if source.is_some_and(|source| source != ValueSource::DefaultValue) {
            return source;
        }
        below = matches.subcommand().map(|(_, matches)| matches);
    }
    None
}

/// Whether a variable of Consul's own programs has the value of a flag.
fn is_set(flag: &str) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    OF_CONSUL.iter().any(|(of, variable)| *of == flag && is_set(variable))
}

/// A profile as flags.
fn flags(text: &str, name: &str, is_given: impl Fn(&str) -> bool) -> Result<Vec<String>, String> {
    let (profiles, lines) = toml::decode(text).map_err(|error| error.message().to_owned())?;
    let Value::Map(profiles) = profiles else { return Err("it is not a table".to_owned()) };
    let known: Vec<&str> = profiles.iter().map(|(name, _)| name.as_str()).collect();
    let found = profiles.iter().find(|(other, _)| other == name);
    let (_, profile) = found.ok_or_else(|| unknown("profile", name, &known))?;
    let Value::Map(values) = profile else {
        return Err(format!("profile {name:?} must be a table: [{name}]"));
    };
    let mut flags = Vec::new();
    for (key, value) in values {
        let path = format!("{name}.{key}");
        let line = lines.iter().find(|(other, _)| *other == path).map_or(0, |(_, line)| *line);
        let at = |why: String| format!("line {line}: profile {name:?}: {why}");
        if !FLAGS.contains(&key.as_str()) {
            return Err(at(unknown("key", key, FLAGS)));
        }
        if is_given(key) {
            continue;
        }
        for text in texts(key, value).map_err(at)? {
            flags.push(format!("--{}={text}", key.replace('_', "-")));
        }
    }
    Ok(flags)
}

/// The values of a flag.
fn texts(key: &str, value: &Value) -> Result<Vec<String>, String> {
    let takes_several = key == "http_addr";
    let wrong = |value: &Value| {
        let allowed = match key {
            "timeout_ms" => "a number of milliseconds",
            _ if takes_several => "a text or a list of texts",
            _ => "a text",
        };
        format!("{key} must be {allowed}, got {}", value.shown())
    };
    let text = |item: &Value| match (item, item.as_str()) {
        (_, Some(text)) if !text.is_empty() && key != "timeout_ms" => Ok(text.to_owned()),
        (Value::Int(number), _) if key == "timeout_ms" => Ok(number.to_string()),
        _ => Err(wrong(item)),
    };
    match value {
        Value::List(items) if takes_several && !items.is_empty() => {
            items.iter().map(text).collect()
        }
        value => Ok(vec![text(value)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    const FILE: &str = "[prod]\nhttp_addr = [\"https://c1:8501\", \"https://c2:8501\"]\ntimeout_ms = 900\n\
                        prefix = \"prod/\"\n[staging]\nhttp_addr = \"10.0.0.1:8500\"\n";

    #[test]
    fn every_flag_that_names_a_cluster_is_a_key() {
        let is_of_cluster = |it: &&Arg| {
            it.is_global_set() && !["json", "profile", "profiles"].contains(&it.get_id().as_str())
        };
        let command = CommandLine::command();
        let keys = command.get_arguments().filter(is_of_cluster);
        let mut keys: Vec<String> = keys.map(|it| it.get_id().to_string()).collect();
        keys.sort_unstable();
        let mut known: Vec<String> = FLAGS.iter().map(|it| (*it).to_owned()).collect();
        known.sort_unstable();
        assert_eq!(known, keys);
    }

    #[test]
    fn a_profile_gives_what_is_not_given() {
        let all = flags(FILE, "prod", |_| false).expect("a profile");
        let wanted = [
            "--http-addr=https://c1:8501",
            "--http-addr=https://c2:8501",
            "--timeout-ms=900",
            "--prefix=prod/",
        ];
        let sorted = |mut all: Vec<String>| {
            all.sort_unstable();
            all
        };
        assert_eq!(sorted(all), sorted(wanted.map(str::to_owned).into()));
        let rest = flags(FILE, "prod", |flag| flag != "prefix").expect("a profile");
        assert_eq!(rest, ["--prefix=prod/"]);
        assert_eq!(flags(FILE, "staging", |_| true).expect("a profile"), [""; 0]);
    }

    #[test]
    fn a_mistake_is_named_with_its_line_the_value_and_what_is_allowed() {
        for (text, name, why) in [
            (FILE, "prdo", "unknown profile \"prdo\"; did you mean \"prod\"?"),
            ("", "prod", "unknown profile \"prod\"; there are none"),
            ("prod = 1", "prod", "profile \"prod\" must be a table: [prod]"),
            (
                "[prod]\nprefxi = \"a/\"",
                "prod",
                "line 2: profile \"prod\": unknown key \"prefxi\"; did you mean \"prefix\"?",
            ),
            (
                "[prod]\n\nprefix = 5",
                "prod",
                "line 3: profile \"prod\": prefix must be a text, got 5",
            ),
            ("[prod]\nprefix = \"\"", "prod", "prefix must be a text, got \"\""),
            (
                "[prod]\ntimeout_ms = \"1\"",
                "prod",
                "timeout_ms must be a number of milliseconds, got \"1\"",
            ),
            ("[prod]\nhttp_addr = []", "prod", "http_addr must be a text or a list of texts, got "),
            (
                "[prod]\nhttp_addr = [1]",
                "prod",
                "http_addr must be a text or a list of texts, got 1",
            ),
            ("[prod]\ndata_ca = [\"a\"]", "prod", "data_ca must be a text, got "),
            ("[prod", "prod", "line 1, column "),
        ] {
            let said = flags(text, name, |_| false).expect_err(text);
            assert!(said.contains(why), "{text}: {said}");
        }
        for secret in ["token", "cluster_key", "password"] {
            let text = format!("[prod]\n{secret} = \"the secret itself\"");
            let said = flags(&text, "prod", |_| false).expect_err(secret);
            assert!(said.contains(&format!("unknown key {secret:?}")), "{said}");
            assert!(!said.contains("the secret itself"), "{said}");
        }
    }
}
