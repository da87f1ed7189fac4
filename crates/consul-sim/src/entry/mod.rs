//! Central configuration: `/v1/config`, and the intentions, which are entries too.

mod chain;
mod check;
mod defaults;
mod exported;
pub(super) mod intentions;
mod kinds;
mod shape;
pub(super) mod table;

use super::acl::{Access, Authority, Resource};
use super::blocking::{Headers, Read, ResultIndex};
use super::go;
use super::http::decode::Json;
use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply};
use super::http::request::Call;
use super::store::State;
use super::store::watch::Topic;
use consul_api::api::config_entry as wire;
use http::StatusCode;
use kinds::{INTENTIONS, Kind};
use shape::{OF_THE_STORE, errors, member};
use table::EntryTable;

pub(super) fn routes() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().chain(intentions::ROUTES).chain(exported::ROUTES)
}

static ROUTES: &[Route] = &[
    Route(&wire::LIST, Handler::Read(&LIST)),
    Route(&wire::READ, Handler::Read(&READ)),
    Route(&wire::WRITE, Handler::Now(write)),
    Route(&wire::DELETE, Handler::Now(delete)),
];

/// Kind and name of the path.
fn address(call: &Call) -> (String, String) {
    let path = call.rest_text();
    let (kind, name) = path.split_once('/').unwrap_or((&path, ""));
    (kind.to_owned(), name.to_owned())
}

fn kind_of(call: &Call) -> Result<&'static Kind, Refusal> {
    kinds::of_name(&address(call).0).map_err(Refusal::server)
}

impl Kind {
    /// Whether a list of this kind takes a filter.
    fn is_filtered(&self) -> bool {
        self.name == "service-defaults"
    }

    /// Refuses a caller that must not read an entry.
    fn check_read(&self, authority: &Authority, name: &str) -> Result<(), Refusal> {
        authority.known()?;
        match self.reads {
            Some(resource) => authority.check(resource, of(resource, name), Access::Read),
            None => Ok(()),
        }
    }

    /// Whether the caller may read an entry; a hidden entry is recorded.
    fn is_seen(&self, authority: &Authority, name: &str) -> bool {
        self.reads.is_none_or(|resource| authority.sees(resource, of(resource, name)))
    }

    /// Refuses a caller that must not write an entry.
    fn check_write(&self, authority: &Authority, name: &str) -> Result<(), Refusal> {
        authority.check(self.writes, of(self.writes, name), Access::Write)
    }
}

/// The name that rules for a resource speak of.
fn of(resource: Resource, name: &str) -> &str {
    if resource == Resource::Mesh { "" } else { name }
}

static LIST: Read = Read {
    check: |call| {
        if call.query.get("filter").is_empty() {
            return Ok(());
        }
        let kind = call.rest_text();
        match kind.is_empty() || !kind_of(call)?.is_filtered() {
            true => Err(Refusal::server(format!(
                "filtering not supported for config entry kind={kind}"
            ))),
            false => Ok(()),
        }
    },
    topics: |_, _| vec![Topic::Entries],
    index: |state, call| {
        let value = state.entries.newest();
        let changed = match call.rest_text().as_str() {
            "" => value,
            kind => state.entries.changed(kind),
        };
        ResultIndex { changed, ..ResultIndex::new(value) }
    },
    answer: |state, call| {
        let authority = state.authority(call);
        authority.known()?;
        let kind = match call.rest_text().as_str() {
            "" => None,
            _ => Some(kind_of(call)?),
        };
        let kinds = kind.map_or_else(kinds::all, std::slice::from_ref);
        let mut seen = Vec::new();
        for kind in kinds {
            for (name, entry) in state.entries.of_kind(kind.name) {
                if kind.is_seen(&authority, name) {
                    seen.push(entry.view());
                }
            }
        }
        let seen = call.select(seen.into_iter())?;
        Ok(authority.mark(Reply::json(call.style, &seen)))
    },
    headers: Headers::Entry,
};

static READ: Read = Read {
    check: |_| Ok(()),
    // A query for a missing entry waits for the entries of its kind.
    topics: |state, call| {
        let (kind, name) = address(call);
        vec![Topic::Entry(match state.entries.get(&kind, &name) {
            Some(_) => format!("{kind}/{}", name.to_lowercase()),
            None => kind,
        })]
    },
    index: |state, call| {
        let (kind, name) = address(call);
        let missing = state.entries.get(&kind, &name).is_none();
        ResultIndex { missing, ..ResultIndex::new(state.entries.newest()) }
    },
    answer: |state, call| {
        let kind = kind_of(call)?;
        let (_, name) = address(call);
        kind.check_read(&state.authority(call), &name)?;
        match state.entries.get(kind.name, &name) {
            Some(entry) => Ok(Reply::json(call.style, &entry.view())),
            None => {
                let (kind, name) = (go::quoted(kind.name), go::quoted(&name));
                Err(Refusal::unknown(format!("Config entry not found for {kind} / {name}")))
            }
        }
    },
    ..LIST
};

/// The modify index of `?cas`.
fn expected(call: &Call) -> Result<Option<u64>, Refusal> {
    match call.query.get("cas") {
        "" => Ok(None),
        text => go::uint(text).map(Some).map_err(Refusal::server),
    }
}

fn write(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let (kind, given) = Json::read(&call.body)
        .and_then(decode)
        .map_err(|why| Refusal::bad(format!("Request decoding failed: {why}")))?;
    let expected = expected(call)?;
    let (name, body) = checked(kind, given).map_err(Refusal::server)?;
    let authority = state.authority(call);
    kind.check_write(&authority, &name)?;
    check_references(&authority, kind, &body, &name)?;
    check_known(state, &body).map_err(Refusal::server)?;
    let present = state.entries.get(kind.name, &name);
    // A write that changes nothing does not reach the log, and no index is expected of it.
    if present.is_some_and(|present| present.body == body) {
        return Ok(Reply::json(call.style, &true));
    }
    let present = present.map_or(0, |entry| entry.modify_index);
    let index = state.next_index();
    if expected.is_some_and(|expected| expected != present) {
        return Ok(Reply::json(call.style, &false));
    }
    state.put_entry(kind.name, name, body, index)?;
    Ok(Reply::json(call.style, &true))
}

/// Writes the entries of the configuration that do not exist, as a leader does when it starts and reads its files again.
///
/// # Errors
/// The first entry that is invalid, as Consul prints it at its start.
pub(super) fn bootstrap(state: &mut State, given: &[serde_json::Value]) -> Result<(), String> {
    let read = |(place, entry): (usize, &serde_json::Value)| {
        let entry = Json::read(entry.to_string().as_bytes()).and_then(decode);
        let entry = entry.and_then(|(kind, given)| Ok((kind, checked(kind, given)?)));
        entry.map_err(|why| format!("config_entries.bootstrap[{place}]: {why}"))
    };
    let entries: Vec<_> = given.iter().enumerate().map(read).collect::<Result<_, _>>()?;
    for (kind, (name, body)) in entries {
        if state.entries.get(kind.name, &name).is_some() {
            continue;
        }
        let failed =
            |why: String| format!("failed to apply config entry {} / {name}: {why}", kind.name);
        check_known(state, &body).map_err(failed)?;
        let index = state.next_index();
        let written = state.put_entry(kind.name, name.clone(), body, index);
        written.map_err(|refusal| failed(refusal.text))?;
    }
    Ok(())
}

/// The name of an entry that its members alone do not forbid, and the entry with what Consul adds.
fn checked(kind: &Kind, mut given: Json) -> Result<(String, Json), String> {
    let own = member(&given, "Name").map_or("", Json::as_text);
    let name = kind
        .only_name
        .filter(|only| own.is_empty() && *only != "default")
        .unwrap_or(own)
        .to_owned();
    intentions::drop_legacy(&mut given);
    let body = completed(kind, &name, given);
    check::check(kind, &name, &body)?;
    Ok((name, body))
}

/// Refuses what another entry must allow or define first.
fn check_known(state: &State, entry: &Json) -> Result<(), String> {
    if entry.at("MutualTLSMode").as_text() == "permissive" {
        let mesh = state.entries.get("mesh", "mesh");
        if !mesh.is_some_and(|mesh| mesh.body.at("AllowEnablingPermissiveMutualTLS").is_true()) {
            return Err("cannot set MutualTLSMode=permissive because \
                        AllowEnablingPermissiveMutualTLS=false in the mesh config entry"
                .to_owned());
        }
    }
    let unknown = jwt_providers(entry)
        .filter(|name| state.entries.get("jwt-provider", name).is_none())
        .map(|name| format!("Referenced JWT Provider does not exist. Provider Name: {name}"));
    let mut wrong: Vec<_> = Vec::new();
    for why in unknown {
        if !wrong.contains(&why) {
            wrong.push(why);
        }
    }
    errors(&wrong)
}

/// The names of the providers of tokens to which an entry refers.
fn jwt_providers(entry: &Json) -> impl Iterator<Item = &str> {
    let sources = entry.at("Sources").items().iter();
    let permissions = sources.flat_map(|source| source.at("Permissions").items());
    let referring = [entry].into_iter().chain(permissions).map(|it| it.at("JWT"));
    referring.flat_map(|jwt| jwt.at("Providers").items()).map(|it| it.at("Name").as_text())
}

/// Refuses a caller that must not read the services to which an entry sends requests.
fn check_references(
    authority: &Authority,
    kind: &Kind,
    entry: &Json,
    own: &str,
) -> Result<(), Refusal> {
    let routes = entry.at("Routes").items().iter().map(|route| route.at("Destination"));
    let failovers = entry.at("Failover").members().iter().map(|(_, failover)| failover);
    let references = entry.at("Splits").items().iter().chain(routes).chain(failovers);
    if kind.writes != Resource::Service {
        return Ok(());
    }
    for reference in references.chain([entry.at("Redirect")]) {
        let name = reference.at("Service").as_text();
        if !name.is_empty() && name != own {
            authority.check(Resource::Service, name, Access::Read)?;
        }
    }
    Ok(())
}

/// The kind of an entry, and its members.
fn decode(given: Json) -> Result<(&'static Kind, Json), String> {
    match &given {
        Json::Object(_) => {}
        Json::List(_) => return Err("'' expected a map, got 'slice'".to_owned()),
        _ => return Err("'' expected a map".to_owned()),
    }
    let kind = given.members().iter().find(|(name, _)| matches!(&**name, "Kind" | "kind"));
    let Some((_, kind)) = kind else {
        return Err("Payload does not contain a kind/Kind key at the top level".to_owned());
    };
    let kind = kinds::of_name(kind.as_text())?;
    Ok((kind, kind.shape().read_entry(&given)?))
}

/// The entry with what Consul adds.
fn completed(kind: &Kind, name: &str, given: Json) -> Json {
    let is_named = kind.only_name != Some("mesh");
    let mut members = vec![("Kind".to_owned(), Json::Text(kind.name.to_owned()))];
    if is_named {
        members.push(("Name".to_owned(), Json::Text(name.to_owned())));
    }
    let Json::Object(given) = given else { return Json::Object(members) };
    let is_more = |(name, _): &(String, Json)| {
        let is_first = ["kind", "name"].iter().any(|known| name.eq_ignore_ascii_case(known));
        !is_first && !OF_THE_STORE.contains(&name.as_str())
    };
    members.extend(given.into_iter().filter(is_more));
    for (member, value) in &mut members {
        match (kind.name, member.as_str(), value) {
            (INTENTIONS, "Sources", Json::List(sources)) => {
                intentions::complete_sources(name, sources);
            }
            ("service-defaults", "Protocol", Json::Text(protocol)) => {
                *protocol = protocol.to_lowercase();
            }
            ("service-defaults", "UpstreamConfig", Json::Object(upstreams)) => {
                for (_, upstream) in upstreams {
                    complete_upstreams(upstream);
                }
            }
            ("service-router", "Routes", Json::List(routes)) => {
                routes.iter_mut().for_each(upper_case_methods);
            }
            _ => {}
        }
    }
    Json::Object(members)
}

/// Writes the protocols of upstreams in lower case, and leaves out times below zero.
fn complete_upstreams(upstream: &mut Json) {
    match upstream {
        Json::Object(members) => {
            members.retain(|(name, value)| name != "ConnectTimeoutMs" || value.as_int() >= 0);
            for (name, value) in members {
                if let ("Protocol", Json::Text(protocol)) = (name.as_str(), value) {
                    *protocol = protocol.to_lowercase();
                }
            }
        }
        Json::List(items) => items.iter_mut().for_each(complete_upstreams),
        _ => {}
    }
}

/// Writes the methods of all HTTP matches below a value in upper case.
fn upper_case_methods(value: &mut Json) {
    match value {
        Json::Object(members) => {
            for (name, member) in members {
                match (name.as_str(), member) {
                    ("Methods", Json::List(methods)) => {
                        for method in methods {
                            *method = Json::Text(method.as_text().to_uppercase());
                        }
                    }
                    (_, other) => upper_case_methods(other),
                }
            }
        }
        Json::List(items) => items.iter_mut().for_each(upper_case_methods),
        _ => {}
    }
}

fn delete(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let (kind, name) = address(call);
    if kind.is_empty() || !call.rest.contains(&b'/') {
        let text = "Must provide both a kind and name to delete";
        return Err(Refusal::new(StatusCode::NOT_FOUND, text));
    }
    let kind = kinds::of_name(&kind).map_err(Refusal::bad)?;
    let expected = expected(call)?;
    kind.check_write(&state.authority(call), &name)?;
    if kind.name == "proxy-defaults" && name != "global" {
        return Err(Refusal::server(check::only_name(&name, "global")));
    }
    let present = state.entries.get(kind.name, &name);
    let modified = present.map(|entry| entry.modify_index);
    let applies = expected.is_none_or(|expected| modified.is_none_or(|found| found == expected));
    let refers = |entry: &Json| jwt_providers(entry).any(|known| known == name);
    let referring = state.entries.of_kind(INTENTIONS).find(|(_, entry)| refers(&entry.body));
    let referring = referring.map(|(own, _)| own.to_owned());
    if let Some(own) = referring.filter(|_| applies && kind.name == "jwt-provider") {
        return Err(Refusal::server(format!(
            "cannot delete jwt provider config entry referenced by an intention. Provider name: \
             {name}, intention name: {own}"
        )));
    }
    if let Some(present) = present.filter(|_| applies) {
        // That of the path can differ in case.
        let name = present.name().unwrap_or(&name).to_owned();
        let index = state.next_index();
        state.remove_entry(kind.name, &name, index)?;
    }
    match expected {
        Some(_) => Ok(Reply::json(call.style, &applies)),
        None => Ok(Reply::json(call.style, &Json::Object(Vec::new()))),
    }
}

impl State {
    /// Stores an entry, if all entries still fit each other.
    fn put_entry(
        &mut self,
        kind: &'static str,
        name: String,
        body: Json,
        index: u64,
    ) -> Result<(), Refusal> {
        self.change_entries(|entries| entries.put(kind, &name, body, index))?;
        self.update_virtual_address(kind, &name);
        Ok(())
    }

    fn remove_entry(&mut self, kind: &str, name: &str, index: u64) -> Result<(), Refusal> {
        self.change_entries(|entries| entries.remove(kind, name, index))?;
        self.update_virtual_address(kind, name);
        Ok(())
    }

    /// A service has a virtual address while an entry of the mesh has its name.
    fn update_virtual_address(&mut self, kind: &str, name: &str) {
        if kinds::OF_THE_MESH.contains(&kind) && name != "*" {
            let mut kinds = kinds::OF_THE_MESH.iter();
            let is_named = kinds.any(|kind| self.entries.get(kind, name).is_some());
            self.catalog.set_virtual_of_entry(name, is_named);
        }
    }

    fn change_entries(&mut self, change: impl FnOnce(&mut EntryTable)) -> Result<(), Refusal> {
        let mut changed = self.entries.clone();
        change(&mut changed);
        chain::check(&changed).map_err(Refusal::server)?;
        self.entries = changed;
        self.touch(Topic::Entries);
        for path in self.entries.last_changes().cloned().collect::<Vec<_>>() {
            self.touch(Topic::Entry(path));
        }
        Ok(())
    }
}
