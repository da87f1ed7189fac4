//! `/v1/operator/keyring`: the keys of gossip. There are no other members, so no message is encrypted with them.

use super::acl::{Access, Resource};
use super::go;
use super::http::decode::{GoType, Object, body, decode_error};
use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply};
use super::http::request::Call;
use super::store::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use consul_api::api::operator as wire;
use serde::Serialize;
use std::collections::BTreeMap;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::KEYRING_LIST, Handler::Now(list)),
    Route(&wire::KEYRING_INSTALL, Handler::Now(|state, call| change(state, call, install))),
    Route(&wire::KEYRING_USE, Handler::Now(|state, call| change(state, call, select))),
    Route(&wire::KEYRING_REMOVE, Handler::Now(|state, call| change(state, call, remove))),
];

/// The lengths of keys of AES.
const SIZES: [usize; 3] = [16, 24, 32];

/// The keys with which members may encrypt, and the one with which they do.
#[derive(Clone, Debug)]
pub(super) struct Keyring {
    primary: Vec<u8>,
    others: Vec<Vec<u8>>,
}

impl Keyring {
    /// A keyring with one key, as a configuration has it.
    ///
    /// # Errors
    /// Consul's text.
    pub fn new(key: &str) -> Result<Self, String> {
        let primary = decoded(key).map_err(|why| format!("encrypt has invalid key: {why}"))?;
        check_size(&primary).map_err(|why| format!("Failed to configure keyring: {why}"))?;
        Ok(Self { primary, others: Vec::new() })
    }
}

fn decoded(key: &str) -> Result<Vec<u8>, String> {
    BASE64.decode(key).map_err(|error| {
        let place = match error {
            base64::DecodeError::InvalidByte(place, _)
            | base64::DecodeError::InvalidLastSymbol { offset: place, .. } => place,
            // Go names the place of the group that is not complete.
            base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
                key.len() / 4 * 4
            }
        };
        format!("illegal base64 data at input byte {place}")
    })
}

fn check_size(key: &[u8]) -> Result<(), String> {
    match SIZES.contains(&key.len()) {
        true => Ok(()),
        false => Err("key size must be 16, 24 or 32 bytes".to_owned()),
    }
}

fn install(ring: &mut Keyring, key: Vec<u8>) -> Result<(), String> {
    check_size(&key)?;
    if ring.primary != key && !ring.others.contains(&key) {
        ring.others.push(key);
    }
    Ok(())
}

fn select(ring: &mut Keyring, key: Vec<u8>) -> Result<(), String> {
    if ring.primary == key {
        return Ok(());
    }
    let place = ring.others.iter().position(|known| *known == key);
    let place = place.ok_or("Requested key is not in the keyring")?;
    std::mem::swap(&mut ring.primary, &mut ring.others[place]);
    Ok(())
}

fn remove(ring: &mut Keyring, key: Vec<u8>) -> Result<(), String> {
    if ring.primary == key {
        return Err("Removing the primary key is not allowed".to_owned());
    }
    ring.others.retain(|known| *known != key);
    Ok(())
}

/// The keys of one pool of members, which is the only one of its kind.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Pool<'a> {
    #[serde(rename = "WAN")]
    wan: bool,
    datacenter: &'a str,
    segment: &'static str,
    keys: BTreeMap<String, u64>,
    primary_keys: BTreeMap<String, u64>,
    num_nodes: u64,
}

/// Refuses parameters that Consul refuses; returns whether only the agent's own pool is asked for.
fn is_local_only(call: &Call) -> Result<bool, Refusal> {
    let syntax = |what: &str, of: &str, text: &str| {
        let text = go::quoted(text);
        Refusal::bad(format!("Error parsing {what}: strconv.{of}: parsing {text}: invalid syntax"))
    };
    let relay = call.query.get("relay-factor");
    if !relay.is_empty() {
        let factor: i64 = relay.parse().map_err(|_| syntax("relay factor", "Atoi", relay))?;
        if !(0..=5).contains(&factor) {
            let why = "Invalid relay-factor: Relay factor must be in range: [0, 5]";
            return Err(Refusal::bad(why));
        }
    }
    match call.query.get("local-only") {
        "" => Ok(false),
        text => go::boolean(text).ok_or_else(|| syntax("local-only", "ParseBool", text)),
    }
}

/// The error that the only node of both pools reports.
fn reported(state: &State, why: &str) -> Refusal {
    let (wan, lan, datacenter) =
        (state.wan_name(), &state.node_name, state.settings.datacenter.as_str());
    failed(&[
        "WAN error: 1/1 nodes reported failure".to_owned(),
        format!("{wan}: {why}"),
        format!("{datacenter} (LAN) error: 1/1 nodes reported failure"),
        format!("{lan}: {why}"),
    ])
}

fn failed(errors: &[String]) -> Refusal {
    let lines: String = errors.iter().map(|error| format!("\t* {error}\n")).collect();
    Refusal::server(format!("{} errors occurred:\n{lines}\n", errors.len()))
}

fn list(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let local_only = is_local_only(call)?;
    state.authority(call).check(Resource::Keyring, "", Access::Read)?;
    let Some(ring) = &state.keyring else {
        return Err(reported(state, "Keyring is empty (encryption not enabled)"));
    };
    let text = |key: &Vec<u8>| (BASE64.encode(key), 1);
    let pool = |wan| Pool {
        wan,
        datacenter: &state.settings.datacenter,
        segment: "",
        keys: ring.others.iter().chain([&ring.primary]).map(text).collect(),
        primary_keys: [text(&ring.primary)].into(),
        num_nodes: 1,
    };
    let pools: Vec<_> = [true, false].into_iter().filter(|wan| !(*wan && local_only)).collect();
    Ok(Reply::json(call.style, &pools.into_iter().map(pool).collect::<Vec<_>>()))
}

fn change(
    state: &mut State,
    call: &Call,
    change: fn(&mut Keyring, Vec<u8>) -> Result<(), String>,
) -> Result<Reply, Refusal> {
    const REQUEST: GoType = GoType { value: "agent.keyringArgs", fields: "keyringArgs." };
    let json = body(&call.body)?;
    let given = Object::of_body(&json, REQUEST)?;
    given.check_known(&["Key", "RelayFactor", "LocalOnly"]).map_err(decode_error)?;
    let key = given.text("Key").map_err(decode_error)?;
    if is_local_only(call)? {
        let why = "Invalid use of local-only: local-only can only be set for list requests";
        return Err(Refusal::bad(why));
    }
    state.authority(call).check(Resource::Keyring, "", Access::Write)?;
    let key = decoded(&key).map_err(|why| {
        let datacenter = &state.settings.datacenter;
        failed(&[format!("WAN error: {why}"), format!("{datacenter} (LAN) error: {why}")])
    })?;
    let changed = match &mut state.keyring {
        Some(ring) => change(ring, key),
        None => Err("No keyring to modify (encryption not enabled)".to_owned()),
    };
    changed.map_err(|why| reported(state, &why))?;
    Ok(Reply::done())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_not_base64_are_refused_with_the_place() {
        for (key, place) in [("bad", 0), ("!", 0), ("AAAA!AAA", 4)] {
            let why = format!("encrypt has invalid key: illegal base64 data at input byte {place}");
            assert_eq!(Keyring::new(key).map(drop), Err(why), "{key}");
        }
        assert!(Keyring::new("aGVsbG8=").is_err());
    }
}
