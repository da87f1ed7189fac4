//! The command line of `consul agent`, in the form of Go's package `flag`: `-name=value`, `-name value`, `-switch`.

/// The type of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Switch,
    Text,
    Int,
}

use Kind::{Int, Switch, Text};

/// The flags of `consul agent` 1.21, and the key that each sets, and those of consul-sim, whose names begin with `sim-`. Those
/// without a key are read by [`super::Config`].
const FLAGS: &[(&str, Kind, &str)] = &[
    ("advertise", Text, "advertise_addr"),
    ("advertise-wan", Text, "advertise_addr_wan"),
    ("allow-write-http-from", Text, "http_config.allow_write_http_from"),
    ("alt-domain", Text, "alt_domain"),
    ("auto-reload-config", Switch, "auto_reload_config"),
    ("bind", Text, "bind_addr"),
    ("bootstrap", Switch, "bootstrap"),
    ("bootstrap-expect", Int, "bootstrap_expect"),
    ("check_output_max_size", Int, "check_output_max_size"),
    ("client", Text, "client_addr"),
    ("config-dir", Text, ""),
    ("config-file", Text, ""),
    ("config-format", Text, ""),
    ("data-dir", Text, "data_dir"),
    ("datacenter", Text, "datacenter"),
    ("default-query-time", Text, "default_query_time"),
    ("dev", Switch, ""),
    ("disable-host-node-id", Switch, "disable_host_node_id"),
    ("disable-keyring-file", Switch, "disable_keyring_file"),
    ("dns-port", Int, "ports.dns"),
    ("domain", Text, "domain"),
    ("enable-local-script-checks", Switch, "enable_local_script_checks"),
    ("enable-script-checks", Switch, "enable_script_checks"),
    ("encrypt", Text, "encrypt"),
    ("grpc-port", Int, "ports.grpc"),
    ("grpc-tls-port", Int, "ports.grpc_tls"),
    ("hcl", Text, ""),
    ("http-port", Int, "ports.http"),
    ("https-port", Int, "ports.https"),
    ("join", Text, "retry_join"),
    ("join-wan", Text, "retry_join_wan"),
    ("log-file", Text, "log_file"),
    ("log-json", Switch, "log_json"),
    ("log-level", Text, "log_level"),
    ("log-rotate-bytes", Int, "log_rotate_bytes"),
    ("log-rotate-duration", Text, "log_rotate_duration"),
    ("log-rotate-max-files", Int, "log_rotate_max_files"),
    ("max-query-time", Text, "max_query_time"),
    ("node", Text, "node_name"),
    ("node-id", Text, "node_id"),
    ("node-meta", Text, "node_meta"),
    ("non-voting-server", Switch, "non_voting_server"),
    ("pid-file", Text, "pid_file"),
    ("primary-gateway", Text, "primary_gateways"),
    ("protocol", Int, "protocol"),
    ("raft-protocol", Int, "raft_protocol"),
    ("read-replica", Switch, "read_replica"),
    ("recursor", Text, "recursors"),
    ("rejoin", Switch, "rejoin_after_leave"),
    ("retry-interval", Text, "retry_interval"),
    ("retry-interval-wan", Text, "retry_interval_wan"),
    ("retry-join", Text, "retry_join"),
    ("retry-join-wan", Text, "retry_join_wan"),
    ("retry-max", Int, "retry_max"),
    ("retry-max-wan", Int, "retry_max_wan"),
    ("segment", Text, "segment"),
    ("serf-lan-allowed-cidrs", Text, "serf_lan_allowed_cidrs"),
    ("serf-lan-bind", Text, "serf_lan"),
    ("serf-lan-port", Int, "ports.serf_lan"),
    ("serf-wan-allowed-cidrs", Text, "serf_wan_allowed_cidrs"),
    ("serf-wan-bind", Text, "serf_wan"),
    ("serf-wan-port", Int, "ports.serf_wan"),
    ("server", Switch, "server"),
    ("server-port", Int, "ports.server"),
    ("sim-address", Text, ""),
    ("sim-clock", Text, ""),
    ("sim-host", Text, ""),
    ("sim-key-names", Text, ""),
    ("sim-port", Int, ""),
    ("sim-ready-file", Text, ""),
    ("sim-seed", Int, ""),
    ("syslog", Switch, "enable_syslog"),
    ("ui", Switch, "ui_config.enabled"),
    ("ui-content-path", Text, "ui_config.content_path"),
    ("ui-dir", Text, "ui_config.dir"),
];

/// What the flags do that do not set one key.
const MEANINGS: &[(&str, &str)] = &[
    ("config-dir", "reads each file of this folder that ends in .hcl or .json"),
    ("config-file", "reads this file; may be repeated"),
    ("config-format", "the format of files with other names: hcl or json"),
    ("dev", "starts with the settings of Consul's dev mode"),
    ("hcl", "settings in HCL, as in a file"),
    ("sim-address", "the address of the control endpoints; default 127.0.0.1"),
    (
        "sim-clock",
        "real, the default: the time passes and can be advanced; manual: it stands still until it is advanced",
    ),
    ("sim-host", "a further name under which the control endpoints answer; may be repeated"),
    (
        "sim-key-names",
        "the names of keys that a server of 1.21.0 (the default), 1.21.5 or 1.22 takes",
    ),
    (
        "sim-port",
        "the port of the control endpoints, which a test uses; 0: a free one; without it there are none",
    ),
    ("sim-ready-file", "a file that appears when the agent answers, with its URLs"),
    ("sim-seed", "the seed of ids and faults; default: a random one"),
];

/// A command line.
#[derive(Clone, Debug)]
pub struct CommandLine {
    pub(super) flags: Vec<Flag>,
    /// What follows the flags.
    pub(super) rest: Vec<String>,
}

/// A flag with its value.
#[derive(Clone, Debug)]
pub(super) struct Flag {
    pub name: &'static str,
    /// The key that it sets; empty if it is not the name of one.
    pub key: &'static str,
    pub value: Given,
}

#[derive(Clone, Debug)]
pub(super) enum Given {
    Switch(bool),
    Text(String),
    Int(i64),
}

impl CommandLine {
    /// Each flag with its meaning, a line each.
    pub fn help() -> String {
        let line = |(name, kind, key): &(&str, Kind, &str)| {
            let value = match kind {
                Switch => "",
                Text => "=TEXT",
                Int => "=N",
            };
            let meaning = MEANINGS.iter().find(|(known, _)| known == name);
            let meaning =
                meaning.map_or_else(|| format!("sets the key {key}"), |it| it.1.to_owned());
            format!("  {:<32} {meaning}", format!("-{name}{value}"))
        };
        FLAGS.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Reads the arguments of `consul agent`.
    ///
    /// # Errors
    /// Consul's text for an unknown flag or an invalid value.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut flags = Vec::new();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.as_slice().first() {
            let Some(flag) = argument.strip_prefix('-').filter(|flag| !flag.is_empty()) else {
                break;
            };
            arguments.next();
            if flag == "-" {
                break;
            }
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, given) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let known = FLAGS.iter().find(|(known, ..)| *known == name);
            let (name, kind, key) =
                known.ok_or_else(|| format!("flag provided but not defined: -{name}"))?;
            let text = match (given, kind) {
                (Some(text), _) => text,
                (None, Switch) => "true".to_owned(),
                (None, _) => {
                    let next = arguments.next().cloned();
                    next.ok_or_else(|| format!("flag needs an argument: -{name}"))?
                }
            };
            flags.push(Flag { name, key, value: value(name, *kind, text)? });
        }
        Ok(Self { flags, rest: arguments.cloned().collect() })
    }

    /// The values of these flags, in their order.
    pub(super) fn texts_of(&self, names: &'static [&str]) -> impl Iterator<Item = &str> {
        self.flags.iter().filter_map(move |flag| match &flag.value {
            Given::Text(text) if names.contains(&flag.name) => Some(text.as_str()),
            _ => None,
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag.name == name)
    }

    /// The value of a flag that is a number, the last one of several.
    pub(super) fn number_of(&self, name: &'static str) -> Option<i64> {
        self.flags.iter().rev().find_map(|flag| match flag.value {
            Given::Int(number) if flag.name == name => Some(number),
            _ => None,
        })
    }
}

fn value(name: &str, kind: Kind, text: String) -> Result<Given, String> {
    use crate::go::{boolean, quoted};
    match kind {
        Text => Ok(Given::Text(text)),
        Switch => match boolean(&text) {
            Some(on) => Ok(Given::Switch(on)),
            None => {
                let text = quoted(&text);
                Err(format!(
                    "invalid boolean value {text} for -{name}: strconv.ParseBool: parsing {text}: invalid syntax"
                ))
            }
        },
        Int => text.parse().map(Given::Int).map_err(|_| {
            let text = quoted(&text);
            format!("invalid value {text} for flag -{name}: strconv.Atoi: parsing {text}: invalid syntax")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_explains_each_flag() {
        let help = CommandLine::help();
        for (name, _, key) in FLAGS {
            let line = help.lines().find(|line| {
                let flag = line.trim_start().split([' ', '=']).next();
                flag.and_then(|it| it.strip_prefix('-')) == Some(name)
            });
            let line = line.unwrap_or_else(|| panic!("-{name} is missing"));
            let has_meaning =
                MEANINGS.iter().any(|(known, text)| known == name && line.ends_with(text));
            assert!(has_meaning != (!key.is_empty() && line.ends_with(key)), "{line}");
        }
        assert_eq!(help.lines().count(), FLAGS.len());
    }
}
