//! Prepared queries: `/v1/query`.

mod execute;
pub(super) mod table;
mod template;

use super::acl::{Access, Authority, Resource};
use super::blocking::{Headers, Once, Read, ResultIndex};
use super::go;
use super::http::decode::{self, GoType, Json, decode_error};
use super::http::fields::{Fields, Kind};
use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply};
use super::http::request::Call;
use super::store::State;
use super::store::watch::Topic;
use consul_api::api::query as wire;
use http::StatusCode;
use table::{Query, QueryTable};

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::LIST, Handler::Read(&LIST)),
    Route(&wire::CREATE, Handler::Now(create)),
    Route(&wire::READ, Handler::Read(&READ)),
    Route(&wire::UPDATE, Handler::Now(update)),
    Route(&wire::DELETE, Handler::Now(delete)),
    Route(&wire::EXECUTE, Handler::Once(&execute::EXECUTE)),
    Route(&wire::EXPLAIN, Handler::Once(&EXPLAIN)),
];

/// The text that a caller sees in place of a token.
const HIDDEN: &str = "<hidden>";

const HEADERS: Headers = Headers::Query { cache: false };

static QUERY: Fields = Fields {
    go_type: GoType { value: "structs.PreparedQuery", fields: "PreparedQuery." },
    fields: &[
        ("ID", Kind::Text),
        ("Name", Kind::Text),
        ("Session", Kind::Text),
        ("Token", Kind::Text),
        ("Template", Kind::Object(&TEMPLATE)),
        ("Service", Kind::Object(&SERVICE)),
        ("DNS", Kind::Object(&DNS)),
        ("CreateIndex", Kind::Unused),
        ("ModifyIndex", Kind::Unused),
    ],
};

static TEMPLATE: Fields = Fields {
    go_type: GoType {
        value: "structs.QueryTemplateOptions",
        fields: "QueryTemplateOptions.Template.",
    },
    fields: &[("Type", Kind::Text), ("Regexp", Kind::Text), ("RemoveEmptyTags", Kind::Flag)],
};

static SERVICE: Fields = Fields {
    go_type: GoType { value: "structs.ServiceQuery", fields: "ServiceQuery.Service." },
    fields: &[
        ("Service", Kind::Text),
        ("SamenessGroup", Kind::Text),
        ("Failover", Kind::Object(&FAILOVER)),
        ("OnlyPassing", Kind::Flag),
        ("IgnoreCheckIDs", Kind::Texts),
        ("Near", Kind::Text),
        ("Tags", Kind::Texts),
        ("NodeMeta", Kind::TextMap),
        ("ServiceMeta", Kind::TextMap),
        ("Connect", Kind::Flag),
        ("Peer", Kind::Text),
    ],
};

static FAILOVER: Fields = Fields {
    go_type: GoType {
        value: "structs.QueryFailoverOptions",
        fields: "QueryFailoverOptions.Service.Failover.",
    },
    fields: &[
        ("NearestN", Kind::Int),
        ("Datacenters", Kind::Texts),
        ("Targets", Kind::Objects(&TARGET, "[]structs.QueryFailoverTarget")),
    ],
};

static TARGET: Fields = Fields {
    go_type: GoType {
        value: "structs.QueryFailoverTarget",
        fields: "QueryFailoverTarget.Service.Failover.Targets.",
    },
    fields: &[("Peer", Kind::Text), ("Datacenter", Kind::Text)],
};

static DNS: Fields = Fields {
    go_type: GoType { value: "structs.QueryDNSOptions", fields: "QueryDNSOptions.DNS." },
    fields: &[("TTL", Kind::Text)],
};

fn create(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let given = given(call)?;
    if !given.at("ID").as_text().is_empty() {
        return Err(Refusal::server("ID must be empty when creating a new prepared query"));
    }
    check_write(state, call, &given)?;
    let id = state.new_id();
    write(state, id.clone(), given)?;
    Ok(Reply::json(call.style, &Json::Object(vec![("ID".to_owned(), Json::Text(id))])))
}

fn update(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let given = given(call)?;
    let id = call.rest_text();
    check_write(state, call, &given)?;
    check_present(state, call, &id)?;
    write(state, id, given)?;
    Ok(Reply::done())
}

fn delete(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let id = call.rest_text();
    state.authority(call).known()?;
    check_present(state, call, &id)?;
    let index = state.next_index();
    state.queries.remove(&id, index);
    state.touch(Topic::Queries);
    Ok(Reply::done())
}

/// The query in a body. A change may have none.
fn given(call: &Call) -> Result<Json, Refusal> {
    let body = match call.body.is_empty() && call.endpoint.path == wire::UPDATE.path {
        true => Json::Null,
        false => decode::body(&call.body)?,
    };
    QUERY.read(&body).map_err(decode_error)
}

/// Refuses a caller that must not write queries of the given name.
fn check_write(state: &State, call: &Call, given: &Json) -> Result<(), Refusal> {
    let authority = state.authority(call);
    authority.known()?;
    let name = given.at("Name").as_text();
    let is_template = !given.at("Template").at("Type").as_text().is_empty();
    match name.is_empty() && !is_template {
        true => Ok(()),
        false => authority.check(Resource::Query, name, Access::Write),
    }
}

/// Refuses the id of a query that does not exist, or that the caller must not write.
fn check_present(state: &State, call: &Call, id: &str) -> Result<(), Refusal> {
    check_lookup(id).map_err(|refusal| {
        Refusal::server(format!("Prepared Query lookup failed: {}", refusal.text))
    })?;
    let Some(query) = state.queries.get(id) else {
        let text = format!("Cannot modify non-existent prepared query: '{id}'");
        return Err(Refusal::server(text));
    };
    match query.acl_name() {
        Some(name) => state.authority(call).check(Resource::Query, name, Access::Write),
        None => Ok(()),
    }
}

fn check_lookup(id: &str) -> Result<(), Refusal> {
    match id.len() {
        36 => Ok(()),
        _ => Err(Refusal::server(
            "failed prepared query lookup: index error: UUID must be 36 characters",
        )),
    }
}

/// Checks a query and stores it.
fn write(state: &mut State, id: String, given: Json) -> Result<(), Refusal> {
    let query = Query::new(id, given);
    let invalid = |why| Refusal::server(format!("Invalid prepared query: {why}"));
    check_definition(&query).map_err(invalid)?;
    // The log has an entry of a write that the servers refuse, too.
    let index = state.next_index();
    let refused = |why| Refusal::server(format!("raft apply failed: {why}"));
    state.queries.check(&query).map_err(refused)?;
    if !query.session.is_empty() && state.sessions.get(&query.session).is_none() {
        return Err(refused(format!("invalid session {}", go::quoted(&query.session))));
    }
    template::check(&query).map_err(|why| refused(format!("failed compiling template: {why}")))?;
    state.queries.put(query, index);
    state.touch(Topic::Queries);
    Ok(())
}

/// The checks of a server before it writes.
fn check_definition(query: &Query) -> Result<(), String> {
    let service = query.definition.at("Service");
    let failover = service.at("Failover");
    if query.acl_name().is_none() && query.session.is_empty() {
        return Err("Must be bound to a session".to_owned());
    }
    if query.token == HIDDEN {
        return Err(format!(
            "Bad Token '{HIDDEN}', it looks like a query definition with a redacted token was submitted"
        ));
    }
    if service.at("Service").as_text().is_empty() {
        return Err("Must provide a Service name to query".to_owned());
    }
    if !service.at("SamenessGroup").as_text().is_empty() {
        return Err("sameness-groups are an enterprise-only feature".to_owned());
    }
    let nearest = failover.at("NearestN").as_int();
    if nearest < 0 {
        return Err(format!("Bad NearestN '{nearest}', must be >= 0"));
    }
    let elsewhere = nearest != 0 || !failover.at("Datacenters").items().is_empty();
    if elsewhere && !failover.at("Targets").items().is_empty() {
        return Err("Targets cannot be populated with NearestN or Datacenters".to_owned());
    }
    for (name, value) in service.at("NodeMeta").members() {
        if name.is_empty() {
            let value = value.as_text();
            return Err(format!(
                "Couldn't load metadata pair ('', '{value}'): Key cannot be blank"
            ));
        }
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            let value = value.as_text();
            return Err(format!(
                "Couldn't load metadata pair ('{name}', '{value}'): Key contains invalid characters"
            ));
        }
    }
    match query.definition.at("DNS").at("TTL").as_text() {
        "" => Ok(()),
        ttl => match go::duration(ttl) {
            Err(why) => Err(format!("Bad DNS TTL '{ttl}': {why}")),
            Ok(nanos) if nanos < 0 => Err(format!("DNS TTL '{nanos}', must be >=0")),
            Ok(_) => Ok(()),
        },
    }
}

static LIST: Read = Read {
    check: |_| Ok(()),
    topics: |_, _| vec![Topic::Queries],
    index: |state, _| ResultIndex::new(state.queries.newest()),
    answer: |state, call| {
        let authority = state.authority(call);
        authority.known()?;
        let queries = state.queries.all().filter(|query| may_list(&authority, query));
        let seen: Vec<_> = queries.map(|query| query.seen_by(&authority)).collect();
        Ok(authority.mark(Reply::json(call.style, &seen)))
    },
    headers: HEADERS,
};

/// Whether a list has this query. One without a name is known by its id alone.
fn may_list(authority: &Authority, query: &Query) -> bool {
    is_manager(authority)
        || query.acl_name().is_some_and(|name| authority.sees(Resource::Query, name))
}

fn is_manager(authority: &Authority) -> bool {
    authority.allows(Resource::Acl, "", Access::Write)
}

impl Query {
    /// The query as this caller sees it: only a manager sees its token.
    fn seen_by(&self, authority: &Authority) -> Json {
        match self.token.is_empty() || is_manager(authority) {
            true => self.view(),
            false => Query { token: HIDDEN.to_owned(), ..self.clone() }.view(),
        }
    }

    /// As [`Query::seen_by`], for a caller that may see it.
    fn shown_to(&self, authority: &Authority) -> Result<Json, Refusal> {
        authority.known()?;
        let may = is_manager(authority)
            || self.acl_name().is_none_or(|name| authority.sees(Resource::Query, name));
        match may {
            true => Ok(self.seen_by(authority)),
            false => Err(Refusal::new(StatusCode::FORBIDDEN, "Permission denied")),
        }
    }
}

impl QueryTable {
    /// Whether there is a query for this name.
    pub fn is_known(&self, name: &str) -> bool {
        self.resolve(name).is_ok()
    }

    /// The query of this id or name, or what the template with the longest start of the name makes.
    fn resolve(&self, wanted: &str) -> Result<Query, Refusal> {
        if let Some(query) = self.get(wanted) {
            return match query.is_template() {
                true => Err(Refusal::server(
                    "prepared query templates can only be resolved up by name, not by ID",
                )),
                false => Ok(query.clone()),
            };
        }
        let is_exact = |query: &&Query| !query.is_template() && !query.name.is_empty();
        let mut exact = self.all().filter(is_exact);
        if let Some(query) = exact.find(|query| query.name.eq_ignore_ascii_case(wanted)) {
            return Ok(query.clone());
        }
        let begins = |query: &&Query| {
            let start = wanted.as_bytes().get(..query.name.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(query.name.as_bytes()))
        };
        let templates = self.all().filter(|query| query.is_template());
        match templates.filter(begins).max_by_key(|query| query.name.len()) {
            Some(template) => template::rendered(template, wanted).map_err(Refusal::server),
            None => Err(not_found()),
        }
    }
}

fn not_found() -> Refusal {
    Refusal::unknown("Query not found")
}

static READ: Read = Read {
    check: |_| Ok(()),
    topics: |_, _| vec![Topic::Queries],
    index: |state, _| ResultIndex::new(state.queries.newest()),
    answer: |state, call| {
        let id = call.rest_text();
        check_lookup(&id)?;
        let query = state.queries.get(&id).ok_or_else(not_found)?;
        let seen = query.shown_to(&state.authority(call))?;
        Ok(Reply::json(call.style, &[seen]))
    },
    headers: HEADERS,
};

static EXPLAIN: Once = Once {
    check: |_| Ok(()),
    answer: |state, call| {
        let query = state.queries.resolve(&call.rest_text())?;
        let authority = state.authority(call);
        let shown = query.shown_to(&authority)?;
        let mut members = vec![("Query".to_owned(), shown)];
        members.extend(execute::meta(call, false));
        Ok(Reply::json(call.style, &Json::Object(members)))
    },
    headers: HEADERS,
};

#[cfg(test)]
mod tests;
