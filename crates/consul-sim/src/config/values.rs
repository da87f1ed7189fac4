//! The values that Consul 1.21 refuses, also those of keys without an effect here.

use super::{Config, keys};
use crate::acl::is_uuid;
use crate::catalog::body::check_meta;
use crate::entry::check_tls_version;
use crate::go;
use crate::keyring::Keyring;
use serde_json::Value;
use std::net::IpAddr;

/// The keys of durations, with another name in errors where they have one.
const DURATIONS: &[(&str, &str)] = &[
    ("acl.policy_ttl", ""),
    ("acl.role_ttl", ""),
    ("acl.token_ttl", ""),
    ("autopilot.last_contact_threshold", ""),
    ("autopilot.server_stabilization_time", ""),
    ("default_query_time", ""),
    ("discovery_max_stale", ""),
    ("dns_config.cache_max_age", ""),
    ("dns_config.max_stale", ""),
    ("dns_config.recursor_timeout", "recursor_timeout"),
    ("gossip_lan.gossip_interval", "gossip_lan..gossip_interval"),
    ("gossip_lan.probe_interval", "gossip_lan..probe_interval"),
    ("gossip_lan.probe_timeout", "gossip_lan..probe_timeout"),
    ("limits.https_handshake_timeout", ""),
    ("limits.rpc_client_timeout", ""),
    ("limits.rpc_handshake_timeout", ""),
    ("log_rotate_duration", ""),
    ("max_query_time", ""),
    ("reconnect_timeout", ""),
    ("reconnect_timeout_wan", ""),
    ("retry_interval", ""),
    ("retry_interval_wan", ""),
    ("session_ttl_min", ""),
    ("telemetry.prometheus_retention_time", "prometheus_retention_time"),
];

/// In the order of Consul's errors.
const PORTS: &[&str] = &[
    "dns",
    "http",
    "https",
    "server",
    "grpc",
    "grpc_tls",
    "serf_lan",
    "serf_wan",
    "sidecar_min_port",
    "sidecar_max_port",
    "expose_min_port",
    "expose_max_port",
];

/// In the same order. Consul reads the second one for its own address and for that between datacenters.
const ADDRESSES: &[&str] = &[
    "client_addr",
    "advertise_addr",
    "serf_lan",
    "serf_wan",
    "advertise_addr",
    "advertise_addr_wan",
];

impl Config {
    /// Refuses the values that cannot be read, all at once, then the first that is not allowed: at the start, and at a reload
    /// before it changes anything.
    pub(super) fn check_values(&self) -> Result<(), String> {
        let addresses = ADDRESSES.iter().flat_map(|key| {
            let texts = self.text(key).unwrap_or_default().split_whitespace();
            texts.filter_map(move |text| not_address(key, text))
        });
        let ports = PORTS.iter().filter_map(|name| {
            let port = self.get(&format!("ports.{name}"))?.as_i64()?;
            (port > i64::from(u16::MAX)).then(|| format!("ports.{name}: invalid port: {port}"))
        });
        let networks = self.items("http_config.allow_write_http_from").iter().filter_map(|text| {
            let text = text.as_str().filter(|text| !is_network(text))?;
            Some(format!("allow_write_http_from: invalid cidr: {text}"))
        });
        let durations = DURATIONS.iter().filter_map(|(key, name)| {
            let text = self.text(key)?;
            let why = go::duration(text).err()?;
            let name = if name.is_empty() { key } else { name };
            Some(format!("{name}: invalid duration: {}: {why}", go::quoted(text)))
        });
        let modes = [
            ("limits.request_limits.mode", "mode", &["disabled", "permissive", "enforcing"][..]),
            ("dns_config.recursor_strategy", "strategy", &["sequential", "random"]),
        ];
        let modes = modes.into_iter().filter_map(|(key, kind, allowed)| {
            let text = self.text(key).filter(|text| !text.is_empty() && !allowed.contains(text))?;
            Some(format!("{key}: invalid {kind}: {}", go::quoted(text)))
        });
        let protocols = ["defaults", "internal_rpc", "https", "grpc"].into_iter();
        let versions = protocols.filter_map(|protocol| {
            let key = format!("tls.{protocol}.tls_min_version");
            let why = check_tls_version(self.text(&key)?).err()?;
            Some(format!("{key}: invalid TLS version: {why}"))
        });
        let definitions = self.unreadable_definitions().into_iter();
        let errors: Vec<_> = definitions
            .chain(ports)
            .chain(addresses)
            .chain(networks)
            .chain(durations)
            .chain(modes)
            .chain(versions)
            .collect();
        if !errors.is_empty() {
            return Err(keys::errors(errors.into_iter()));
        }
        for key in ["serf_lan_allowed_cidrs", "serf_wan_allowed_cidrs"] {
            let texts = self.items(key).iter().filter_map(Value::as_str);
            let errors: Vec<_> = texts
                .filter(|text| !is_network(text))
                .map(|text| format!("invalid cidr: {text}"))
                .collect();
            if !errors.is_empty() {
                return Err(format!("{key}: {}", keys::errors(errors.into_iter())));
            }
        }
        if let Some(why) = self.not_allowed() {
            return Err(why);
        }
        if let Some(key) = self.text("encrypt").filter(|key| !key.is_empty()) {
            Keyring::new(key)?;
        }
        check_meta(Some(&self.node_meta())).map_err(|why| format!("node_meta invalid: {why}"))
    }

    /// The first value that can be read and is not allowed.
    fn not_allowed(&self) -> Option<String> {
        let number = |key: &str| self.get(key).and_then(Value::as_i64);
        let is_any =
            |address: &str| address.parse().is_ok_and(|address: IpAddr| address.is_unspecified());
        if let Some(factor) =
            number("performance.raft_multiplier").filter(|it| !(1..=10).contains(it))
        {
            return Some(format!(
                "performance.raft_multiplier cannot be {factor}. Must be between 1 and 10"
            ));
        }
        for kind in ["sidecar", "expose"] {
            let [least, most] =
                ["min", "max"].map(|end| number(&format!("ports.{kind}_{end}_port")));
            let (first, last) = if kind == "sidecar" { (21_000, 21_255) } else { (21_500, 21_755) };
            let (least, most) = (least.unwrap_or(first), most.unwrap_or(last));
            if least > most {
                return Some(format!(
                    "{kind}_min_port must be less than {kind}_max_port. To disable, set both to zero."
                ));
            }
        }
        // Of a template the address is not known.
        let is_bound = |text: &str| {
            text.contains("{{") || text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        };
        if self.text("bind_addr").is_some_and(|text| !is_bound(text)) {
            return Some("bind_addr cannot be empty".to_owned());
        }
        for (key, name) in
            [("advertise_addr", "Advertise"), ("advertise_addr_wan", "Advertise WAN")]
        {
            if self.text(key).is_some_and(is_any) {
                return Some(format!("{name} address cannot be 0.0.0.0, :: or [::]"));
            }
        }
        for (key, name) in [("server", "server-port"), ("serf_lan", "serf-lan-port")] {
            if number(&format!("ports.{key}")).is_some_and(|port| port <= 0) {
                return Some(format!("{name} must be greater than zero"));
            }
        }
        if let Some(version) = number("raft_protocol").filter(|version| *version != 3) {
            return Some(format!(
                "raft_protocol version {version} is not supported by this version of Consul"
            ));
        }
        if let Some(path) = self.text("ui_config.content_path") {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/');
            if !path.chars().all(is_plain) {
                return Some(format!(
                    "ui-content-path can only contain alphanumeric, -, _, or /. received: {}",
                    go::quoted(path)
                ));
            }
        }
        match number("bootstrap_expect") {
            Some(count) if count < 0 => {
                return Some(format!(
                    "bootstrap_expect cannot be {count}. Must be greater than or equal to zero"
                ));
            }
            Some(count) if count > 1 && self.is_dev => {
                return Some("'bootstrap_expect > 0' not allowed in dev mode".to_owned());
            }
            _ => {}
        }
        if let Some(count) = number("autopilot.max_trailing_logs").filter(|count| *count < 0) {
            return Some(format!(
                "autopilot.max_trailing_logs cannot be {count}. Must be greater than or equal to zero"
            ));
        }
        if self.text("raft_logstore.backend").is_some_and(|it| !["boltdb", "wal"].contains(&it)) {
            return Some("raft_logstore.backend must be one of 'boltdb' or 'wal'".to_owned());
        }
        let providers = ["consul", "vault", "aws-pca", ""];
        if let Some(other) = self.text("connect.ca_provider").filter(|it| !providers.contains(it)) {
            return Some(format!("{other} is not a valid CA provider"));
        }
        if self.text("segment").is_some_and(|segment| !segment.is_empty()) {
            return Some("Network segments are not supported in this version of Consul".to_owned());
        }
        let (zone, region) = (self.text("locality.zone"), self.text("locality.region"));
        if zone.is_some_and(|zone| !zone.is_empty()) && region.is_none_or(str::is_empty) {
            return Some("locality is invalid: zone cannot be set without region".to_owned());
        }
        let is_basic =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        for key in ["datacenter", "primary_datacenter"] {
            let name = self.text(key).map(str::to_lowercase);
            if let Some(name) = name.filter(|name| !name.chars().all(is_basic)) {
                let name = go::quoted(&name);
                return Some(format!(
                    "{key} can only contain lowercase alphanumeric, - or _ characters. received: {name}"
                ));
            }
        }
        if self.text("datacenter").is_some_and(str::is_empty) {
            return Some("datacenter cannot be empty".to_owned());
        }
        number("check_output_max_size").filter(|size| *size < 1).map(|_| {
            "check_output_max_size must be positive, to discard check output use the \
             discard_check_output flag"
                .to_owned()
        })
    }

    /// Refuses what only a start refuses: a reload leaves these as they are.
    pub(super) fn check_start(&self) -> Result<(), String> {
        let levels = ["TRACE", "DEBUG", "INFO", "WARN", "ERR", "ERROR"];
        let is_level = |level: &str| levels.contains(&level.to_ascii_uppercase().as_str());
        if let Some(level) = self.text("log_level").filter(|level| !is_level(level)) {
            let levels = levels.join(" ");
            return Err(format!("Invalid log level: {level}. Valid log levels are: [{levels}]"));
        }
        let id = self.text("node_id").filter(|id| !id.is_empty() && !is_uuid(&id.to_lowercase()));
        let Some(id) = id else { return Ok(()) };
        let why = match id.chars().find(|c| !c.is_ascii_hexdigit() && *c != '-') {
            _ if id.len() != 36 => "uuid string is wrong length".to_owned(),
            Some(c) => format!("encoding/hex: invalid byte: U+{:04X} '{c}'", c as u32),
            None => "uuid is improperly formatted".to_owned(),
        };
        Err(format!("failed to setup node ID: specified NodeID is invalid: {why}"))
    }
}

fn not_address(key: &str, text: &str) -> Option<String> {
    if text.starts_with("unix://") {
        return None;
    }
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    plain.parse::<IpAddr>().err().map(|_| format!("{key}: invalid ip address: {text}"))
}

/// Whether this is an address with the length of its prefix.
fn is_network(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let most = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= most)
}
