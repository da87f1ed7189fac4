//! The values that Consul 1.21 refuses, of keys that have an effect here.

use super::{Config, keys};
use crate::acl::is_uuid;
use crate::catalog::body::check_meta;
use crate::go;
use serde_json::Value;
use std::net::IpAddr;

const DURATIONS: &[&str] = &["default_query_time", "max_query_time", "session_ttl_min"];

/// In the order of Consul's errors.
const PORTS: &[&str] = &["dns", "http", "https"];

/// In the same order. Consul reads the second one for its own address and for that between datacenters.
const ADDRESSES: &[&str] = &["client_addr", "advertise_addr", "advertise_addr"];

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
        let durations = DURATIONS.iter().filter_map(|key| {
            let text = self.text(key)?;
            let why = go::duration(text).err()?;
            Some(format!("{key}: invalid duration: {}: {why}", go::quoted(text)))
        });
        let definitions = self.unreadable_definitions().into_iter();
        let errors: Vec<_> = definitions.chain(ports).chain(addresses).chain(durations).collect();
        if !errors.is_empty() {
            return Err(keys::errors(errors.into_iter()));
        }
        if let Some(why) = self.not_allowed() {
            return Err(why);
        }
        check_meta("", Some(&self.node_meta())).map_err(|why| format!("node_meta invalid: {why}"))
    }

    /// The first value that can be read and is not allowed.
    fn not_allowed(&self) -> Option<String> {
        let is_any =
            |address: &str| address.parse().is_ok_and(|address: IpAddr| address.is_unspecified());
        if self.text("advertise_addr").is_some_and(is_any) {
            return Some("Advertise address cannot be 0.0.0.0, :: or [::]".to_owned());
        }
        let name = self.text("datacenter").map(str::to_lowercase);
        let is_basic =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        match name {
            Some(name) if name.is_empty() => {
                return Some("datacenter cannot be empty".to_owned());
            }
            Some(name) if !name.chars().all(is_basic) => {
                let name = go::quoted(&name);
                return Some(format!(
                    "datacenter can only contain lowercase alphanumeric, - or _ characters. received: {name}"
                ));
            }
            _ => {}
        }
        let size = self.get("check_output_max_size").and_then(Value::as_i64);
        size.filter(|size| *size < 1).map(|_| {
            "check_output_max_size must be positive, to discard check output use the \
             discard_check_output flag"
                .to_owned()
        })
    }

    /// Refuses what only a start refuses: a reload leaves these as they are.
    pub(super) fn check_start(&self) -> Result<(), String> {
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
