//! Cluster peering: `/v1/peering`, as far as one cluster goes. Nothing connects to another cluster, so that a peering stays
//! as it is before its first connection, and no services come from others.
//!
//! Source: "Cluster Peering" in Consul's HTTP reference, and the answers of Consul 1.21.

use super::acl::{Access, Resource};
use super::agent::connect;
use super::blocking::{Headers, Read, ResultIndex};
use super::catalog::body::check_meta;
use super::go;
use super::http::decode::{GoType, Json, Object};
use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply};
use super::http::request::Call;
use super::store::State;
use super::store::catalog::TextMap;
use super::store::watch::Topic;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, Engine as _};
use consul_api::api::peering as wire;
use consul_process::files::pem::is_certificate;
use serde::{Deserialize, Serialize};
use serde_json::{json, to_string};
use std::collections::BTreeMap;
use std::net::SocketAddr;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::TOKEN_CREATE, Handler::Now(create_token)),
    Route(&wire::ESTABLISH, Handler::Now(establish)),
    Route(&wire::READ, Handler::Read(&READ)),
    Route(&wire::DELETE, Handler::Now(delete)),
    Route(&wire::LIST, Handler::Read(&LIST)),
];

/// The longest name, that of a label in DNS.
const MAX_NAME: usize = 63;

const NEW: GoType =
    GoType { value: "api.PeeringGenerateTokenRequest", fields: "PeeringGenerateTokenRequest." };
const ESTABLISHMENT: GoType =
    GoType { value: "api.PeeringEstablishRequest", fields: "PeeringEstablishRequest." };
const TOKEN: GoType = GoType { value: "structs.PeeringToken", fields: "PeeringToken." };
const REMOTE: GoType =
    GoType { value: "structs.PeeringTokenRemote", fields: "PeeringToken.Remote." };

/// As Go's `base64.StdEncoding`.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// All peerings, by name.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct PeeringTable {
    by_name: BTreeMap<String, Peering>,
    newest: u64,
}

/// Another cluster, for which this one has made a token, or whose token it has.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Peering {
    id: String,
    meta: TextMap,
    /// What the other cluster's token says; `None` if this one has made the token.
    dialed: Option<Dialed>,
    create_index: u64,
    modify_index: u64,
}

/// The other cluster as its token describes it.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Dialed {
    peer_id: String,
    authorities: Vec<String>,
    server_name: String,
    addresses: Vec<String>,
    remote: Remote,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Remote {
    partition: String,
    datacenter: String,
}

/// What a token has, in base64, in the order of Consul's.
#[derive(Serialize)]
struct Token<'a> {
    #[serde(rename = "CA")]
    authorities: Vec<&'a str>,
    #[serde(rename = "ManualServerAddresses")]
    manual_addresses: Option<Vec<String>>,
    #[serde(rename = "ServerAddresses")]
    addresses: [String; 1],
    #[serde(rename = "ServerName")]
    server_name: String,
    #[serde(rename = "PeerID")]
    peer_id: &'a str,
    #[serde(rename = "EstablishmentSecret")]
    secret: String,
    #[serde(rename = "Remote")]
    remote: serde_json::Value,
}

/// A peering in replies.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct View<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    meta: &'a TextMap,
    state: &'static str,
    #[serde(rename = "PeerID", skip_serializing_if = "str::is_empty")]
    peer_id: &'a str,
    #[serde(rename = "PeerCAPems", skip_serializing_if = "<[_]>::is_empty")]
    authorities: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    peer_server_name: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    peer_server_addresses: &'a [String],
    stream_status: Stream,
    create_index: u64,
    modify_index: u64,
    remote: Remote,
}

/// The connection to the other cluster, which there never is.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Stream {
    imported_services: (),
    exported_services: (),
    last_heartbeat: (),
    last_receive: (),
    last_send: (),
}

impl<'a> From<(&'a String, &'a Peering)> for View<'a> {
    fn from((name, peering): (&'a String, &'a Peering)) -> Self {
        let dialed = peering.dialed.as_ref();
        Self {
            id: &peering.id,
            name,
            meta: &peering.meta,
            state: if dialed.is_some() { "ESTABLISHING" } else { "PENDING" },
            peer_id: dialed.map_or("", |dialed| &dialed.peer_id),
            authorities: dialed.map_or(&[], |dialed| &dialed.authorities),
            peer_server_name: dialed.map_or("", |dialed| &dialed.server_name),
            peer_server_addresses: dialed.map_or(&[], |dialed| &dialed.addresses),
            stream_status: Stream::default(),
            create_index: peering.create_index,
            modify_index: peering.modify_index,
            remote: dialed.map(|dialed| dialed.remote.clone()).unwrap_or_default(),
        }
    }
}

static LIST: Read = Read {
    check: |_| Ok(()),
    topics: |_| vec![Topic::Peerings],
    index: |state, _| ResultIndex::new(state.peerings.newest),
    answer: |state, call| {
        state.authority(call).check(Resource::Peering, "", Access::Read)?;
        let all: Vec<_> = state.peerings.by_name.iter().map(View::from).collect();
        Ok(Reply::json(call.style, &all))
    },
    headers: Headers::Plain,
};

static READ: Read = Read {
    check: |call| call.required_rest(MISSING).map(|_| ()),
    index: |state, call| match state.peerings.by_name.get(&call.rest_text()) {
        Some(peering) => ResultIndex::new(peering.modify_index),
        None => ResultIndex { value: state.peerings.newest, missing: true },
    },
    answer: |state, call| {
        state.authority(call).check(Resource::Peering, "", Access::Read)?;
        let name = call.rest_text();
        match state.peerings.by_name.get_key_value(&name) {
            Some(found) => Ok(Reply::json(call.style, &View::from(found))),
            None => Err(Refusal::unknown(format!("Peering not found for {}", go::quoted(&name)))),
        }
    },
    ..LIST
};

const MISSING: &str = "Must specify a name to fetch.";

/// The body of a request: what both kinds have, and the field `own` of the kind.
struct Given<R> {
    name: String,
    meta: TextMap,
    partition: String,
    own: R,
}

fn decode<R>(
    call: &Call,
    go_type: GoType,
    field: &str,
    read: impl FnOnce(&Object<'_>) -> Result<R, String>,
) -> Result<Given<R>, Refusal> {
    let decode = || {
        let json = Json::read(&call.body)?;
        let given = Object::new(&json, go_type)?;
        given.check_known(&["PeerName", "Partition", "Meta", field])?;
        Ok(Given {
            name: given.text("PeerName")?,
            meta: given.text_map("Meta")?.unwrap_or_default(),
            partition: given.text("Partition")?,
            own: read(&given)?,
        })
    };
    decode().map_err(|why: String| Refusal::bad(format!("Body decoding failed: {why}")))
}

impl<R> Given<R> {
    fn check(&self) -> Result<(), Refusal> {
        if !matches!(self.partition.as_str(), "" | "default") {
            return Err(Refusal::server("Partitions are a Consul Enterprise feature"));
        }
        let name = &self.name;
        let is_end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_valid = name.starts_with(is_end)
            && name.ends_with(is_end)
            && name.chars().all(|c| is_end(c) || c == '-')
            && name.len() <= MAX_NAME;
        match is_valid {
            true => Ok(()),
            false => Err(Refusal::server(format!(
                "{name} is not a valid peer name: a valid peering name must consist of lower case \
                 alphanumeric characters or '-', and must start and end with an alphanumeric \
                 character"
            ))),
        }
    }

    fn check_meta(&self) -> Result<(), Refusal> {
        check_meta(Some(&self.meta))
            .map_err(|why| Refusal::server(format!("meta tags failed validation: {why}")))
    }

    /// The refusal of a name that is taken.
    fn taken(&self, why: &str) -> Refusal {
        let name = go::quoted(&self.name);
        Refusal::server(format!("cannot create peering with name: {name}; there is {why}"))
    }
}

/// The name of this cluster's servers for others.
fn server_name(state: &State) -> String {
    let settings = &state.settings;
    format!("server.{}.peering.{}.consul", settings.datacenter, settings.cluster_id)
}

fn create_token(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let own = "ServerExternalAddresses";
    let given = decode(call, NEW, own, |given| given.texts(own))?;
    if given.name.is_empty() {
        let why = "PeerName is required in the payload when generating a new peering token.";
        return Err(Refusal::bad(why));
    }
    given.check()?;
    given.check_meta()?;
    state.authority(call).check(Resource::Peering, "", Access::Write)?;
    let Some(port) = state.settings.grpc_tls_port else {
        return Err(Refusal::server("TLS for gRPC must be enabled when generating peering tokens"));
    };
    let known = state.peerings.by_name.get(&given.name);
    if known.is_some_and(|known| known.dialed.is_some()) {
        return Err(given.taken("already an established peering"));
    }
    let known = known.map(|known| (known.id.clone(), known.meta.clone()));
    // A further token leaves the metadata.
    let (id, meta) = known.unwrap_or_else(|| (state.new_id(), given.meta));
    let secret = state.new_id();
    let token = Token {
        authorities: connect::root_pems(state)?,
        manual_addresses: given.own.filter(|addresses| !addresses.is_empty()),
        addresses: [SocketAddr::new(state.settings.address, port).to_string()],
        server_name: server_name(state),
        peer_id: &id,
        secret,
        remote: json!({
            "Partition": "", "Datacenter": state.settings.datacenter, "Locality": null,
        }),
    };
    let token = to_string(&token).map_err(|why| Refusal::server(why.to_string()))?;
    put(state, given.name, id, meta, None);
    Ok(Reply::json(call.style, &json!({"PeeringToken": BASE64.encode(token)})))
}

fn establish(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let own = "PeeringToken";
    let given = decode(call, ESTABLISHMENT, own, |given| given.text(own))?;
    let required = |field, value: &str| match value {
        "" => Err(Refusal::bad(format!(
            "{field} is required in the payload when establishing a peering."
        ))),
        _ => Ok(()),
    };
    required("PeerName", &given.name)?;
    required("PeeringToken", &given.own)?;
    given.check()?;
    let dialed = dialed(&given.own).map_err(Refusal::server)?;
    given.check_meta()?;
    state.authority(call).check(Resource::Peering, "", Access::Write)?;
    let known = state.peerings.by_name.get(&given.name);
    let own_name = server_name(state);
    if dialed.server_name == own_name {
        return Err(Refusal::server(format!(
            "cannot create a peering within the same cluster {}. Refer to the `exported-services` \
             documentation if you want to export between partitions without peering",
            go::quoted(&own_name)
        )));
    }
    if known.is_some_and(|known| known.dialed.is_none()) {
        return Err(given.taken("an existing peering expecting to be dialed"));
    }
    let id = known.map(|known| known.id.clone());
    let id = id.unwrap_or_else(|| state.new_id());
    put(state, given.name, id, given.meta, Some(dialed));
    Ok(Reply::json(call.style, &json!({})))
}

/// What a token says, or Consul's error.
fn dialed(token: &str) -> Result<Dialed, String> {
    let bytes = BASE64.decode(token).map_err(|why| {
        let place = match why {
            DecodeError::InvalidByte(place, _) => place,
            _ => token.len() / 4 * 4,
        };
        format!("failed to decode token: illegal base64 data at input byte {place}")
    })?;
    let json = Json::read(&bytes)?;
    let token = Object::new(&json, TOKEN)?;
    let authorities = token.texts("CA")?.unwrap_or_default();
    let manual = token.texts("ManualServerAddresses")?.unwrap_or_default();
    let addresses = token.texts("ServerAddresses")?.unwrap_or_default();
    let remote = token.object("Remote", REMOTE.value)?.unwrap_or_default();
    let remote = Object::of_members(remote, REMOTE.fields);
    let dialed = Dialed {
        peer_id: token.text("PeerID")?,
        server_name: token.text("ServerName")?,
        remote: Remote {
            partition: remote.text("Partition")?,
            datacenter: remote.text("Datacenter")?,
        },
        authorities,
        addresses,
    };
    for authority in &dialed.authorities {
        if !is_certificate(authority) {
            return Err("peering token invalid CA: no PEM-encoded data found".to_owned());
        }
    }
    let mut all = manual.iter().chain(&dialed.addresses).peekable();
    if all.peek().is_none() {
        return Err("peering token server addresses value is empty".to_owned());
    }
    let is_valid = |address: &&String| {
        let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        matches!(port, Some(Ok(1..)))
    };
    if let Some(wrong) = all.find(|address| !is_valid(address)) {
        return Err(format!("{wrong} is not a valid peering server address"));
    }
    if !dialed.authorities.is_empty() && dialed.server_name.is_empty() {
        return Err("peering token server name value is empty".to_owned());
    }
    if dialed.peer_id.is_empty() {
        return Err("peering token peer ID value is empty".to_owned());
    }
    Ok(dialed)
}

fn put(state: &mut State, name: String, id: String, meta: TextMap, dialed: Option<Dialed>) {
    let index = state.next_index();
    let known = state.peerings.by_name.get(&name);
    let create_index = known.map_or(index, |known| known.create_index);
    let peering = Peering { id, meta, dialed, create_index, modify_index: index };
    state.peerings.by_name.insert(name, peering);
    state.peerings.newest = index;
    state.touch(Topic::Peerings);
}

fn delete(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let name = call.required_rest(MISSING)?;
    state.authority(call).check(Resource::Peering, "", Access::Write)?;
    if state.peerings.by_name.remove(&name).is_some() {
        // One index marks it as deleted, another removes it.
        state.next_index();
        state.peerings.newest = state.next_index();
        state.touch(Topic::Peerings);
    }
    Ok(Reply::done())
}
