//! Intentions: `/v1/connect/intentions`. Each is a source of an entry `service-intentions`.

use super::check::LONGEST_DESCRIPTION;
use super::kinds::INTENTIONS;
use super::shape::{errors, one_error};
use super::table::Entry;
use super::{check, completed, kinds};
use crate::acl::{Access, Authority, DefaultPolicy, Resource, content_hash};
use crate::blocking::{Headers, Read, ResultIndex};
use crate::go;
use crate::http::decode::{GoType, Json, Object};
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::watch::Topic;
use consul_api::api::connect as wire;
use http::StatusCode;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::INTENTIONS, Handler::Read(&LIST)),
    Route(&wire::INTENTION_CREATE, Handler::Now(create)),
    Route(&wire::INTENTION_READ, Handler::Checked(read)),
    Route(&wire::INTENTION_WRITE, Handler::Now(upsert)),
    Route(&wire::INTENTION_DELETE, Handler::Now(delete)),
    Route(&wire::INTENTION_CHECK, Handler::Checked(allowed)),
    Route(&wire::INTENTION_MATCH, Handler::Read(&MATCH)),
    Route(&wire::INTENTION_READ_BY_ID, Handler::Checked(read_by_id)),
    Route(&wire::INTENTION_UPDATE_BY_ID, Handler::Now(update_by_id)),
    Route(&wire::INTENTION_DELETE_BY_ID, Handler::Now(delete_by_id)),
];

/// Which of two intentions counts: the one for fewer services, above all of destinations.
///
/// Source: "Precedence and match order" in Consul's documentation of intentions.
fn precedence(source: &str, destination: &str) -> u8 {
    match (destination, source) {
        ("*", "*") => 5,
        ("*", _) => 6,
        (_, "*") => 8,
        (_, _) => 9,
    }
}

/// Sources with what Consul adds, those that count first in front.
pub(super) fn complete_sources(destination: &str, sources: &mut [Json]) {
    for source in sources.iter_mut() {
        super::upper_case_methods(source);
        let precedence = precedence(source.at("Name").as_text(), destination);
        let kind = match source.at("Type").as_text() {
            "" => "consul",
            kind => kind,
        };
        let added = [
            ("Precedence", Json::Number(precedence.into())),
            ("Type", Json::Text(kind.to_owned())),
        ];
        let members = source.members().iter();
        let kept = members.filter(|(name, _)| !matches!(name.as_str(), "Precedence" | "Type"));
        let added = added.into_iter().map(|(name, value)| (name.to_owned(), value));
        *source = Json::Object(kept.cloned().chain(added).collect());
    }
    sources.sort_by_key(|source| Reverse(source.at("Precedence").as_int()));
}

/// Drops from the sources of an entry what only the endpoints by id write.
pub(super) fn drop_legacy(entry: &mut Json) {
    let Json::Object(members) = entry else { return };
    for (name, value) in members {
        if let (Json::List(sources), "Sources") = (value, name.as_str()) {
            sources.iter_mut().for_each(|source| *source = without_legacy(source));
        }
    }
}

/// A source without what only the endpoints by id write.
fn without_legacy(source: &Json) -> Json {
    let members = source.members().iter();
    Json::Object(members.filter(|(name, _)| !name.starts_with("Legacy")).cloned().collect())
}

/// One intention, as a source of its entry.
struct Intention<'a> {
    destination: &'a str,
    entry: &'a Json,
    source: &'a Json,
    create_index: u64,
    modify_index: u64,
}

impl Intention<'_> {
    fn source_name(&self) -> &str {
        self.source.at("Name").as_text()
    }

    /// One with permissions for requests alone has no action.
    fn allows(&self) -> bool {
        self.source.at("Action").as_text() == "allow"
    }

    fn view(&self) -> Json {
        let text = |text: &str| Json::Text(text.to_owned());
        let all = [
            ("CreatedAt", self.source.at("LegacyCreateTime").clone()),
            ("UpdatedAt", self.source.at("LegacyUpdateTime").clone()),
            ("ID", self.source.at("LegacyID").clone()),
            ("Description", self.source.at("Description").clone()),
            ("SourceNS", text("default")),
            ("SourceName", self.source.at("Name").clone()),
            ("DestinationNS", text("default")),
            ("DestinationName", text(self.destination)),
            ("SourcePeer", self.source.at("Peer").clone()),
            ("SourceType", self.source.at("Type").clone()),
            ("Action", self.source.at("Action").clone()),
            ("Permissions", self.source.at("Permissions").clone()),
            ("JWT", self.entry.at("JWT").clone()),
            ("Meta", self.meta().clone()),
            ("Precedence", self.source.at("Precedence").clone()),
            ("Hash", self.hash()),
            ("CreateIndex", Json::Number(self.create_index.into())),
            ("ModifyIndex", Json::Number(self.modify_index.into())),
        ];
        let present = all.into_iter().filter(|(_, value)| *value != Json::Null);
        Json::Object(present.map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// That of an intention with an id is its own.
    fn meta(&self) -> &Json {
        match self.source.at("LegacyID") {
            Json::Null => self.entry.at("Meta"),
            _ => self.source.at("LegacyMeta"),
        }
    }

    /// Of an intention with an id: what only says whether it changes.
    fn hash(&self) -> Json {
        if *self.source.at("LegacyID") == Json::Null {
            return Json::Null;
        }
        let own = ["LegacyID", "Description", "Name", "Type", "Action"];
        let own = own.into_iter().map(|name| self.source.at(name).as_text());
        let meta = self.source.at("LegacyMeta").members().iter();
        let meta = meta.flat_map(|(name, value)| [name.as_str(), value.as_text()]);
        Json::Text(content_hash(own.chain([self.destination]).chain(meta)))
    }
}

/// Whether two names of destinations, which are names of entries, are the same.
fn is_same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

/// All intentions, those that count first in front.
fn all(state: &State) -> Vec<Intention<'_>> {
    let mut all = Vec::new();
    for (destination, entry) in state.entries.of_kind(INTENTIONS) {
        for source in entry.body.at("Sources").items() {
            let (create_index, modify_index) = (entry.create_index, entry.modify_index);
            let entry = &entry.body;
            all.push(Intention { destination, entry, source, create_index, modify_index });
        }
    }
    all.sort_by(|one, other| {
        let precedence = |intention: &Intention<'_>| intention.source.at("Precedence").as_int();
        let names = (one.source_name(), one.destination);
        let order = precedence(other).cmp(&precedence(one));
        order.then_with(|| names.cmp(&(other.source_name(), other.destination)))
    });
    all
}

static LIST: Read = Read {
    check: |_| Ok(()),
    topics: |_, _| vec![Topic::Entries],
    index: |state, _| ResultIndex::new(state.entries.newest()),
    answer: |state, call| {
        let authority = state.authority(call);
        authority.known()?;
        let found = all(state);
        let seen = found.iter().filter(|intention| {
            authority.allows(Resource::Intention, intention.source_name(), Access::Read)
                || authority.sees(Resource::Intention, intention.destination)
        });
        let seen = call.select(seen.map(Intention::view))?;
        Ok(authority.mark(Reply::json(call.style, &seen)))
    },
    headers: Headers::Deferred,
};

fn required<'a>(call: &'a Call, name: &'static str) -> Result<&'a str, Refusal> {
    // A repeated parameter counts as a missing one.
    match call.query.has(name) && (name == "name" || call.query.all(name).count() == 1) {
        true => Ok(call.query.get(name)),
        false => Err(not_set(name)),
    }
}

fn not_set(name: &str) -> Refusal {
    Refusal::server(format!("required query parameter '{name}' not set"))
}

static MATCH: Read = Read {
    index: |state, call| {
        let value = state.entries.newest();
        let of = |path: &str| state.entries.changed(&format!("service-intentions{path}"));
        let changed = match call.query.get("by") {
            "source" => of(""),
            _ => {
                let names = call.query.all("name");
                let own = names.map(|name| of(&format!("/{}", name.to_lowercase()))).max();
                of("/*").max(own.unwrap_or(value))
            }
        };
        ResultIndex { changed, ..ResultIndex::new(value) }
    },
    check: |call| {
        match required(call, "by")? {
            "source" | "destination" => {}
            _ => {
                let text = "'by' parameter must be one of 'source' or 'destination'";
                return Err(Refusal::server(text));
            }
        }
        required(call, "name").map(|_| ())
    },
    answer: |state, call| {
        let authority = state.authority(call);
        let mut found = BTreeMap::new();
        for given in call.query.all("name") {
            let (namespace, name) = service(given, "name")?;
            is_default(namespace, "match entry namespace")?;
            authority.check(Resource::Intention, name, Access::Read)?;
            let all = all(state);
            let matching = all.iter().filter(|intention| {
                let (end, is_named) = match call.query.get("by") {
                    "source" => (intention.source_name(), intention.source_name() == name),
                    _ => (intention.destination, is_same(intention.destination, name)),
                };
                is_named || end == "*"
            });
            let matching: Vec<_> = matching.map(Intention::view).collect();
            let list = if matching.is_empty() { Json::Null } else { Json::List(matching) };
            found.insert(given.to_owned(), list);
        }
        Ok(Reply::json(call.style, &Json::Object(found.into_iter().collect())))
    },
    headers: Headers::Catalog { cache: true },
    ..LIST
};

/// Source and destination of the query, and their namespaces.
fn ends(call: &Call) -> Result<[(&str, &str); 2], Refusal> {
    let source = service(required(call, "source")?, "source")?;
    Ok([source, service(required(call, "destination")?, "destination")?])
}

/// The same of a write, which need a name each.
fn written_ends(call: &Call) -> Result<[(&str, &str); 2], Refusal> {
    match ["source", "destination"]
        .iter()
        .find(|name| required(call, name).is_err() || call.query.get(name).is_empty())
    {
        Some(name) => Err(not_set(name)),
        None => ends(call),
    }
}

/// Source and destination of the query, in the only namespace; `called` says how errors name theirs.
fn own_ends<'a>(call: &'a Call, called: [&str; 2]) -> Result<(&'a str, &'a str), Refusal> {
    let ends = ends(call)?;
    for ((namespace, _), called) in ends.iter().zip(called) {
        is_default(namespace, called)?;
    }
    let [(_, source), (_, destination)] = ends;
    Ok((source, destination))
}

/// The namespace and name of `[[PARTITION/]NAMESPACE/]NAME`.
fn service<'a>(text: &'a str, parameter: &str) -> Result<(&'a str, &'a str), Refusal> {
    let mut parts = text.rsplitn(4, '/');
    let name = parts.next().unwrap_or_default();
    let namespace = parts.next().unwrap_or_default();
    match parts.nth(1) {
        None => Ok((namespace, name)),
        Some(_) => Err(Refusal::server(format!(
            "{parameter} {} is invalid: input can contain at most two '/'",
            go::quoted(text)
        ))),
    }
}

fn is_default(namespace: &str, called: &str) -> Result<(), Refusal> {
    match namespace {
        "" | "default" => Ok(()),
        _ => Err(Refusal::server(format!(
            "Invalid {called} {}: Namespaces is a Consul Enterprise feature",
            go::quoted(namespace)
        ))),
    }
}

fn denied() -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "Permission denied")
}

fn check_write(authority: &Authority, destination: &str) -> Result<(), Refusal> {
    authority.known()?;
    match !destination.is_empty()
        && authority.allows(Resource::Intention, destination, Access::Write)
    {
        true => Ok(()),
        false => Err(denied()),
    }
}

/// An intention in a reply, if the caller may see it.
fn shown(state: &State, call: &Call, found: Option<&Intention<'_>>) -> Result<Reply, Refusal> {
    let authority = state.authority(call);
    authority.known()?;
    let intention = found.ok_or_else(|| Refusal::unknown("Intention not found"))?;
    let may = |name: &str| authority.allows(Resource::Intention, name, Access::Read);
    match may(intention.destination) || may(intention.source_name()) {
        true => Ok(Reply::json(call.style, &intention.view())),
        false => Err(denied()),
    }
}

fn read(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let (source, destination) = own_ends(call, ["SourceNS", "DestinationNS"])?;
    for (what, name) in [("SourceName", source), ("DestinationName", destination)] {
        if name.is_empty() {
            return Err(Refusal::server(one_error(&format!("{what} is missing"))));
        }
    }
    let all = all(state);
    let mut all = all.iter();
    let found =
        all.find(|found| found.source_name() == source && is_same(found.destination, destination));
    shown(state, call, found)
}

fn read_by_id(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let id = call.rest_text();
    let invalid = "failed config entry lookup: index error: UUID must be 36 characters";
    if id.len() != 36 {
        return Err(Refusal::bad(invalid));
    }
    let all = all(state);
    shown(state, call, all.iter().find(|found| found.source.at("LegacyID").as_text() == id))
}

/// The first intention for a source of this cluster and a destination.
fn deciding<'a>(state: &'a State, source: &str, destination: &str) -> Option<Intention<'a>> {
    let is = |end: &str, name: &str| end == name || end == "*";
    all(state).into_iter().find(|intention| {
        let is_here = *intention.source.at("Peer") == Json::Null;
        is_here && is(intention.source_name(), source) && is(intention.destination, destination)
    })
}

/// Whether the first intention for a source and a destination allows them to connect, and which it is.
pub(crate) fn verdict(state: &State, source: &str, destination: &str) -> Option<(bool, String)> {
    let intention = deciding(state, source, destination)?;
    let permissions = intention.source.at("Permissions").items().len();
    let (layer, detail) = match permissions {
        0 => {
            let action = intention.source.at("Action").as_text().to_uppercase();
            ("L4", format!("Action: {action}"))
        }
        count => ("L7", format!("Permissions: {count}")),
    };
    let id = match intention.source.at("LegacyID").as_text() {
        "" => String::new(),
        id => format!("ID: {id}, "),
    };
    let reason = format!(
        "Matched {layer} intention: default/{} => default/{} ({id}Precedence: {}, {detail})",
        intention.source_name(),
        intention.destination,
        intention.source.at("Precedence").as_int(),
    );
    Some((intention.allows(), reason))
}

/// Whether the source may call the destination: what the first intention for both says, else the default policy.
fn allowed(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let (source, destination) = own_ends(call, ["source namespace", "destination namespace"])?;
    let kind = call.query.get("source-type");
    if call.query.has("source-type") && kind != "consul" {
        let kind = go::quoted(kind);
        return Err(Refusal::server(format!("unsupported SourceType: {kind}")));
    }
    state.authority(call).check(Resource::Service, destination, Access::Read)?;
    let allowed = match deciding(state, source, destination) {
        Some(intention) => intention.allows(),
        None => state.acl.default_policy() == DefaultPolicy::Allow,
    };
    let answer = Json::Object(vec![("Allowed".to_owned(), Json::Bool(allowed))]);
    Ok(Reply::json(call.style, &answer))
}

const BODY: GoType = GoType {
    value: "struct { Hash string; CreatedAt string; UpdatedAt string; *structs.Alias }",
    fields: ".Alias.",
};

/// The intention of a body as a source, and the other members that matter.
struct Given {
    id: String,
    destination: String,
    source: Vec<(String, Json)>,
    meta: Json,
    /// The member with another namespace than the only one, and that namespace.
    elsewhere: Option<(&'static str, String)>,
    has_peer: bool,
}

/// The body of a request for an intention that has ends or an id already.
fn changed(call: &Call) -> Result<Given, Refusal> {
    given(call, |why| Refusal::bad(format!("Request decode failed: {why}")))
}

fn given(call: &Call, failed: impl FnOnce(String) -> Refusal) -> Result<Given, Refusal> {
    let read = || -> Result<Given, String> {
        let json = Json::read(&call.body)?;
        let given = Object::new(&json, BODY)?;
        given.check_known(&[
            "ID",
            "Description",
            "SourceNS",
            "SourceName",
            "SourcePartition",
            "SourcePeer",
            "SourceType",
            "DestinationNS",
            "DestinationName",
            "DestinationPartition",
            "DestinationAddr",
            "DestinationPort",
            "DefaultAddr",
            "DefaultPort",
            "Action",
            "Permissions",
            "Meta",
            "Precedence",
            "CreatedAt",
            "UpdatedAt",
            "Hash",
            "CreateIndex",
            "ModifyIndex",
        ])?;
        let mut source = Vec::new();
        let names = [("Name", "SourceName"), ("Action", "Action"), ("Type", "SourceType")];
        for (member, field) in names.into_iter().chain([("Description", "Description")]) {
            let text = given.text(field)?;
            if !text.is_empty() {
                source.push((member.to_owned(), Json::Text(text)));
            }
        }
        if let Some(permissions) = given.list("Permissions", "[]*structs.IntentionPermission")? {
            source.push(("Permissions".to_owned(), Json::List(permissions.to_vec())));
        }
        let meta = given.text_map("Meta")?.filter(|meta| !meta.is_empty());
        let texts = |(name, text)| (name, Json::Text(text));
        let mut elsewhere = None;
        for end in ["SourceNS", "DestinationNS"] {
            let namespace = given.text(end)?;
            if elsewhere.is_none() && !["", "default"].contains(&namespace.as_str()) {
                elsewhere = Some((end, namespace));
            }
        }
        Ok(Given {
            id: given.text("ID")?,
            destination: given.text("DestinationName")?,
            source,
            meta: meta
                .map_or(Json::Null, |meta| Json::Object(meta.into_iter().map(texts).collect())),
            elsewhere,
            has_peer: !given.text("SourcePeer")?.is_empty(),
        })
    };
    read().map_err(failed)
}

fn sources(state: &State, destination: &str) -> Vec<Json> {
    let entry = state.entries.get(INTENTIONS, destination);
    entry.map_or_else(Vec::new, |entry| entry.body.at("Sources").items().to_vec())
}

/// Stores the sources of a destination; none: its entry ends.
fn store(state: &mut State, destination: &str, sources: Vec<Json>) -> Result<(), Refusal> {
    let kind = kinds::of_name(INTENTIONS).map_err(Refusal::server)?;
    if sources.is_empty() {
        let index = state.next_index();
        return state.remove_entry(kind.name, destination, index);
    }
    let entry = state.entries.get(INTENTIONS, destination);
    let destination = entry.and_then(Entry::name).unwrap_or(destination).to_owned();
    let meta = entry.map(|entry| entry.body.at("Meta").clone());
    let mut members = vec![("Sources".to_owned(), Json::List(sources))];
    let meta = meta.filter(|meta| *meta != Json::Null);
    members.extend(meta.map(|meta| ("Meta".to_owned(), meta)));
    let body = completed(kind, &destination, Json::Object(members));
    check::check(kind, &destination, &body).map_err(Refusal::server)?;
    let index = state.next_index();
    state.put_entry(kind.name, destination, body, index)
}

fn upsert(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let [(_, source), (_, destination)] = written_ends(call)?;
    let given = changed(call)?;
    check_write(&state.authority(call), destination)?;
    if given.meta != Json::Null {
        let text = "Meta must not be specified, or should be unchanged during an update.";
        return Err(Refusal::server(text));
    }
    let more = given.source.into_iter().filter(|(name, _)| name != "Name");
    let name = ("Name".to_owned(), Json::Text(source.to_owned()));
    let new = Json::Object(std::iter::once(name).chain(more).collect());
    let mut sources = sources(state, destination);
    let is_kept = |known: &&Json| known.at("Name").as_text() != source;
    check_legacy(sources.iter().filter(is_kept))?;
    sources.iter_mut().for_each(|source| *source = without_legacy(source));
    match sources.iter_mut().find(|known| known.at("Name").as_text() == source) {
        Some(present) => *present = new,
        None => sources.push(new),
    }
    store(state, destination, sources)?;
    Ok(Reply::json(call.style, &true))
}

fn delete(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let [(_, source), (_, destination)] = written_ends(call)?;
    check_write(&state.authority(call), destination)?;
    let present = sources(state, destination);
    let is_other = |known: &Json| known.at("Name").as_text() != source;
    if present.iter().all(is_other) {
        state.next_index();
        return Ok(Reply::json(call.style, &true));
    }
    check_legacy(present.iter().filter(|known| is_other(known)))?;
    let kept = present.iter().filter(|known| is_other(known)).map(without_legacy).collect();
    store(state, destination, kept)?;
    Ok(Reply::json(call.style, &true))
}

/// Refuses metadata of the endpoints by id beside a change by names.
fn check_legacy<'a>(mut kept: impl Iterator<Item = &'a Json>) -> Result<(), Refusal> {
    match kept.position(|source| !source.at("LegacyMeta").members().is_empty()) {
        Some(place) => Err(Refusal::server(format!("Sources[{place}].LegacyMeta must be omitted"))),
        None => Ok(()),
    }
}

/// The checks of the endpoints by id, and the source with its id and dates.
fn legacy_source(
    state: &State,
    id: &str,
    created: Option<&Json>,
    given: Given,
) -> Result<Json, Refusal> {
    let source = Json::Object(given.source);
    let name = source.at("Name").as_text();
    let kind = source.at("Type").as_text();
    let is_long = source.at("Description").as_text().len() > LONGEST_DESCRIPTION;
    let is_action = ["allow", "deny"].contains(&source.at("Action").as_text());
    let wrong = [
        (name.is_empty(), "SourceName must be set"),
        (
            name != "*" && name.contains('*'),
            "SourceName: wildcard character '*' cannot be used with partial values",
        ),
        (!["", "consul"].contains(&kind), "SourceType must be set to 'consul'"),
        (is_long, "Description exceeds maximum length 512"),
        (!is_action, "Action must be set to 'allow' or 'deny'"),
        (
            *source.at("Permissions") != Json::Null,
            "Permissions must not be set when using the legacy APIs",
        ),
    ];
    let wrong: Vec<_> =
        wrong.iter().filter(|(is, _)| *is).map(|(_, why)| (*why).to_owned()).collect();
    errors(&wrong).map_err(Refusal::server)?;
    let now = Json::Text(state.date(Duration::ZERO));
    let Json::Object(mut members) = source else { return Ok(source) };
    let added = [
        ("LegacyID", Json::Text(id.to_owned())),
        ("LegacyMeta", given.meta),
        ("LegacyCreateTime", created.cloned().unwrap_or_else(|| now.clone())),
        ("LegacyUpdateTime", now),
    ];
    let added = added.into_iter().filter(|(_, value)| *value != Json::Null);
    members.extend(added.map(|(name, value)| (name.to_owned(), value)));
    Ok(Json::Object(members))
}

fn create(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let failed = |why| Refusal::server(format!("Failed to decode request body: {why}"));
    let given = given(call, failed)?;
    if let Some((end, namespace)) = &given.elsewhere {
        return Err(Refusal::bad(format!(
            "Invalid {end}({namespace}): Namespaces is a Consul Enterprise feature"
        )));
    }
    if given.has_peer {
        let text = "SourcePeer field is not supported on this endpoint. Use config entries instead";
        return Err(Refusal::server(text));
    }
    if !given.id.is_empty() {
        return Err(Refusal::server("ID must be empty when creating a new intention"));
    }
    let destination = given.destination.clone();
    check_write(&state.authority(call), &destination)?;
    let id = state.new_id();
    let source = legacy_source(state, &id, None, given)?;
    let mut sources = sources(state, &destination);
    if sources.iter().any(|source| *source.at("LegacyID") == Json::Null) {
        return Err(Refusal::server(format!(
            "cannot use legacy intention API to edit intentions with a destination of {} after \
             editing them via a service-intentions config entry",
            go::quoted(&destination)
        )));
    }
    sources.push(source);
    store(state, &destination, sources)?;
    Ok(Reply::json(call.style, &id_of(&id)))
}

fn id_of(id: &str) -> Json {
    Json::Object(vec![("ID".to_owned(), Json::Text(id.to_owned()))])
}

/// The destination of the intention with this id, and its place among the sources.
fn find(state: &State, id: &str, verb: &str) -> Result<(String, usize), Refusal> {
    if id.len() != 36 {
        return Err(Refusal::server(
            "Intention lookup failed: failed config entry lookup: index error: UUID must be 36 characters",
        ));
    }
    for (destination, entry) in state.entries.of_kind(INTENTIONS) {
        let mut sources = entry.body.at("Sources").items().iter();
        if let Some(place) = sources.position(|source| source.at("LegacyID").as_text() == id) {
            return Ok((destination.to_owned(), place));
        }
    }
    Err(Refusal::server(format!("Cannot {verb} non-existent intention: '{id}'")))
}

fn update_by_id(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let id = call.rest_text();
    let given = changed(call)?;
    let (destination, place) = find(state, &id, "modify")?;
    check_write(&state.authority(call), &destination)?;
    if given.destination != destination {
        let text =
            "Cannot modify Destination partition/namespace/name for an intention once it exists.";
        return Err(Refusal::server(text));
    }
    let mut sources = sources(state, &destination);
    let created = sources[place].at("LegacyCreateTime").clone();
    sources[place] = legacy_source(state, &id, Some(&created), given)?;
    store(state, &destination, sources)?;
    Ok(Reply::json(call.style, &id_of(&id)))
}

fn delete_by_id(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let (destination, place) = find(state, &call.rest_text(), "delete")?;
    check_write(&state.authority(call), &destination)?;
    let mut sources = sources(state, &destination);
    sources.remove(place);
    store(state, &destination, sources)?;
    Ok(Reply::json(call.style, &true))
}
