//! The command line of `consul agent`, in the form of Go's package `flag`: `-name=value`, `-name value`, `-switch`.

use super::keys;

/// The type of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Switch,
    Text,
    Int,
}

use Kind::{Int, Switch, Text};

/// The flags of `consul agent` 1.21, the key that each sets and its help, and consul-sim's own flags, whose names begin
/// with `sim-`. Those without a key are read by [`super::Config`].
const FLAGS: &[(&str, Kind, &str, &str)] = &[
    ("advertise", Text, "advertise_addr", "the address that the catalog has for this agent"),
    ("advertise-wan", Text, "advertise_addr_wan", "the address that other datacenters use"),
    (
        "allow-write-http-from",
        Text,
        "http_config.allow_write_http_from",
        "the networks (CIDR) whose requests may write; may be repeated",
    ),
    ("alt-domain", Text, "alt_domain", "a second domain of the DNS names"),
    (
        "auto-reload-config",
        Switch,
        "auto_reload_config",
        "reads changed configuration files again by itself",
    ),
    ("bind", Text, "bind_addr", "the address for the traffic between servers"),
    ("bootstrap", Switch, "bootstrap", "lets this server elect itself"),
    (
        "bootstrap-expect",
        Int,
        "bootstrap_expect",
        "the number of servers that a datacenter waits for",
    ),
    ("check_output_max_size", Int, "check_output_max_size", "the most bytes of a check's output"),
    ("client", Text, "client_addr", "the addresses on which HTTP, DNS and gRPC answer"),
    ("config-dir", Text, "", "reads each file of this folder that ends in .hcl or .json"),
    ("config-file", Text, "", "reads this file; may be repeated"),
    ("config-format", Text, "", "the format of files with other names: hcl or json"),
    ("data-dir", Text, "data_dir", "the folder for data; it is only tested, all stays in memory"),
    ("datacenter", Text, "datacenter", "the name of the datacenter"),
    (
        "default-query-time",
        Text,
        "default_query_time",
        "how long a blocking query without ?wait waits",
    ),
    ("dev", Switch, "", "starts with the settings of Consul's dev mode"),
    (
        "disable-host-node-id",
        Switch,
        "disable_host_node_id",
        "gives the node a random id, not one made from the machine's",
    ),
    ("disable-keyring-file", Switch, "disable_keyring_file", "keeps gossip keys out of files"),
    ("dns-port", Int, "ports.dns", "the port of DNS, UDP and TCP; -1: none"),
    ("domain", Text, "domain", "the domain of the DNS names; default consul."),
    (
        "enable-local-script-checks",
        Switch,
        "enable_local_script_checks",
        "allows checks that run programs, if they come from files",
    ),
    (
        "enable-script-checks",
        Switch,
        "enable_script_checks",
        "allows checks that run programs, also by the API",
    ),
    ("encrypt", Text, "encrypt", "the gossip key"),
    ("grpc-port", Int, "ports.grpc", "the port of gRPC"),
    ("grpc-tls-port", Int, "ports.grpc_tls", "the port of gRPC over TLS"),
    ("hcl", Text, "", "settings in HCL, as in a file"),
    ("http-port", Int, "ports.http", "the port of HTTP; -1: none, 0: a free one"),
    ("https-port", Int, "ports.https", "the port of HTTPS; -1: none"),
    ("join", Text, "retry_join", "a server to join at the start; may be repeated"),
    ("join-wan", Text, "retry_join_wan", "a server of another datacenter to join; may be repeated"),
    ("log-file", Text, "log_file", "a file for the log too"),
    ("log-json", Switch, "log_json", "writes the log as JSON"),
    ("log-level", Text, "log_level", "trace, debug, info, warn or error"),
    ("log-rotate-bytes", Int, "log_rotate_bytes", "the bytes after which another log file begins"),
    (
        "log-rotate-duration",
        Text,
        "log_rotate_duration",
        "the time after which another log file begins",
    ),
    ("log-rotate-max-files", Int, "log_rotate_max_files", "how many earlier log files stay"),
    ("max-query-time", Text, "max_query_time", "the longest ?wait of a blocking query"),
    ("node", Text, "node_name", "the node's name; default: the machine's"),
    ("node-id", Text, "node_id", "the node's id, a UUID"),
    ("node-meta", Text, "node_meta", "a pair key:value of the node's metadata; may be repeated"),
    ("non-voting-server", Switch, "non_voting_server", "an old name of -read-replica"),
    ("pid-file", Text, "pid_file", "a file for the id of the process"),
    (
        "primary-gateway",
        Text,
        "primary_gateways",
        "a mesh gateway of the primary datacenter; may be repeated",
    ),
    ("protocol", Int, "protocol", "the version of the gossip protocol"),
    ("raft-protocol", Int, "raft_protocol", "the version of the Raft protocol"),
    ("read-replica", Switch, "read_replica", "makes the server one that does not vote"),
    ("recursor", Text, "recursors", "a DNS server for other domains; may be repeated"),
    ("rejoin", Switch, "rejoin_after_leave", "joins again after a leave"),
    ("retry-interval", Text, "retry_interval", "the pause between tries to join"),
    (
        "retry-interval-wan",
        Text,
        "retry_interval_wan",
        "the pause between tries to join another datacenter",
    ),
    ("retry-join", Text, "retry_join", "a server to join, until it works; may be repeated"),
    (
        "retry-join-wan",
        Text,
        "retry_join_wan",
        "a server of another datacenter to join, until it works; may be repeated",
    ),
    ("retry-max", Int, "retry_max", "how often joining is tried; 0: without end"),
    (
        "retry-max-wan",
        Int,
        "retry_max_wan",
        "how often joining another datacenter is tried; 0: without end",
    ),
    ("segment", Text, "segment", "the network segment to join"),
    (
        "serf-lan-allowed-cidrs",
        Text,
        "serf_lan_allowed_cidrs",
        "the networks (CIDR) of members; may be repeated",
    ),
    ("serf-lan-bind", Text, "serf_lan", "the address for gossip in the datacenter"),
    ("serf-lan-port", Int, "ports.serf_lan", "the port for gossip in the datacenter"),
    (
        "serf-wan-allowed-cidrs",
        Text,
        "serf_wan_allowed_cidrs",
        "the networks (CIDR) of members of other datacenters; may be repeated",
    ),
    ("serf-wan-bind", Text, "serf_wan", "the address for gossip between datacenters"),
    ("serf-wan-port", Int, "ports.serf_wan", "the port for gossip between datacenters"),
    ("server", Switch, "server", "runs as a server"),
    ("server-port", Int, "ports.server", "the port for the traffic between servers"),
    ("sim-address", Text, "", "the address of the control endpoints; default 127.0.0.1"),
    (
        "sim-clock",
        Text,
        "",
        "real, the default: the time passes and can be advanced; manual: it stands still until it is advanced",
    ),
    (
        "sim-host",
        Text,
        "",
        "a further name under which the control endpoints answer; may be repeated",
    ),
    (
        "sim-key-names",
        Text,
        "",
        "the names of keys that a server of 1.21.0 (the default), 1.21.5 or 1.22 takes",
    ),
    (
        "sim-port",
        Int,
        "",
        "the port of the control endpoints, which a test uses; 0: a free one; without it there are none",
    ),
    ("sim-ready-file", Text, "", "a file that appears when the agent answers, with its URLs"),
    ("sim-seed", Int, "", "the seed of ids and faults; default: a random one"),
    ("syslog", Switch, "enable_syslog", "writes the log to syslog too"),
    ("ui", Switch, "ui_config.enabled", "serves the web page"),
    ("ui-content-path", Text, "ui_config.content_path", "the path of the web page"),
    ("ui-dir", Text, "ui_config.dir", "a folder with files in place of the built-in web page"),
];

/// A command line.
#[derive(Clone, Debug)]
pub struct CommandLine {
    pub(super) flags: Vec<Flag>,
    /// The arguments after the flags.
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
        let line = |(name, kind, key, meaning): &(&str, Kind, &str, &str)| {
            let value = match kind {
                Switch => "",
                Text => "=TEXT",
                Int => "=N",
            };
            let effect = if keys::has_effect(key) { "" } else { "; has no effect here" };
            format!("  {:<32} {meaning}{effect}", format!("-{name}{value}"))
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
            let (name, kind, key, _) =
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
        for (name, _, key, meaning) in FLAGS {
            let line = help.lines().find(|line| {
                let flag = line.trim_start().split([' ', '=']).next();
                flag.and_then(|it| it.strip_prefix('-')) == Some(name)
            });
            let line = line.unwrap_or_else(|| panic!("-{name} is missing"));
            assert!(meaning.len() > 5 && line.contains(meaning), "{line}");
            let is_said = line.ends_with("; has no effect here");
            assert_eq!(is_said, !keys::has_effect(key), "{line}");
        }
        assert_eq!(help.lines().count(), FLAGS.len());
    }
}
