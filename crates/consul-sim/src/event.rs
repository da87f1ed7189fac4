//! User events: `/v1/event`. Gossip delivers them at once here.

use super::acl::{Access, Authority, Resource};
use super::blocking::HashedRead;
use super::filter::pattern;
use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply};
use super::http::request::Call;
use super::store::State;
use super::store::event::Event;
use super::store::watch::Topic;
use consul_api::api::event as wire;
use http::StatusCode;
use regex_lite::Regex;

pub(super) static ROUTES: &[Route] =
    &[Route(&wire::FIRE, Handler::Now(fire)), Route(&wire::LIST, Handler::Hashed(&LIST))];

/// The largest event in gossip, in bytes, and the size of its message without its texts: its id,
/// the names of its fields and their lengths.
///
/// Source: the default of Serf's `UserEventSizeLimit`; the rest is measured.
const SIZE_LIMIT: usize = 512;
const OVERHEAD: usize = 96;

impl Event {
    /// The size in gossip, in bytes.
    fn size(&self) -> usize {
        let filters = [&self.node_filter, &self.service_filter, &self.tag_filter];
        let filters = filters.into_iter().filter(|filter| !filter.is_empty());
        let filters: usize = filters.map(|filter| filter.len() + 4).sum();
        // The name is also sent outside of the message.
        OVERHEAD + self.name.len() * 2 + self.payload.len() + filters
    }

    /// The index of a list that ends with this event: its id, folded.
    fn index(&self) -> u64 {
        let digits: String = self.id.chars().filter(|c| *c != '-').collect();
        let bits = u128::from_str_radix(&digits, 16).unwrap_or(0);
        (bits >> 64) as u64 ^ bits as u64
    }
}

fn fire(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    permit(state, call)?;
    call.check_whole()?;
    let event = Event {
        name: call.required_rest("Missing name")?,
        id: state.new_id(),
        payload: call.body.to_vec(),
        node_filter: call.query.get("node").to_owned(),
        service_filter: call.query.get("service").to_owned(),
        tag_filter: call.query.get("tag").to_owned(),
        version: 1,
        time: 0,
    };
    if !event.tag_filter.is_empty() && event.service_filter.is_empty() {
        return Err(Refusal::server("Cannot provide tag filter without service filter"));
    }
    let node = filter("node", &event.node_filter)?;
    let service = filter("service", &event.service_filter)?;
    let tag = filter("tag", &event.tag_filter)?;
    if event.size() > SIZE_LIMIT {
        return Err(Refusal::server(format!(
            "error broadcasting event: user event exceeds configured limit of {SIZE_LIMIT} bytes \
             before encoding"
        )));
    }
    let is_for_us = node.is_none_or(|node| node.is_match(&state.node_name))
        && service.is_none_or(|service| has_service(state, &service, tag.as_ref()));
    let time = state.events.fire();
    // Remote execution takes its own events.
    if is_for_us && event.name != "_rexec" {
        state.events.keep(Event { time, ..event.clone() });
        state.touch(Topic::Events);
    }
    Ok(Reply::json(call.style, &event))
}

/// Refuses a caller without the permission, with a shorter text than other endpoints.
fn permit(state: &State, call: &Call) -> Result<(), Refusal> {
    let name = call.required_rest("Missing name")?;
    let authority = state.authority(call);
    authority.known().map_err(|refusal| Refusal::server(refusal.text))?;
    match authority.allows(Resource::Event, &name, Access::Write) {
        true => Ok(()),
        false => Err(Refusal::new(StatusCode::FORBIDDEN, "Permission denied")),
    }
}

fn filter(what: &str, text: &str) -> Result<Option<Regex>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    pattern(text).map(Some).map_err(|why| Refusal::server(format!("Invalid {what} filter: {why}")))
}

/// Whether the agent has a service whose id matches, with a tag that does.
fn has_service(state: &State, service: &Regex, tag: Option<&Regex>) -> bool {
    let matching = state.local.services.values().filter(|found| service.is_match(&found.id));
    let mut tags = matching.map(|found| found.tags.as_deref().unwrap_or_default());
    tags.any(|tags| tag.is_none_or(|tag| tags.iter().any(|found| tag.is_match(found))))
}

/// The events that the caller may see, filtered by the name in the query.
fn found<'a>(state: &'a State, call: &Call, authority: &Authority) -> Vec<&'a Event> {
    let name = call.query.get("name");
    let wanted = state.events.all().filter(|event| name.is_empty() || event.name == name);
    wanted.filter(|event| authority.sees(Resource::Event, &event.name)).collect()
}

fn index(state: &State, call: &Call) -> String {
    found(state, call, &state.authority(call)).last().map_or(1, |event| event.index()).to_string()
}

/// The index is a hash: a read waits for any other than the caller's, not for a greater one.
static LIST: HashedRead = HashedRead {
    parameter: "index",
    topics: |_, _| vec![Topic::Events],
    hash: |state, call| Some(index(state, call)),
    answer: |state, call| {
        let authority = state.authority(call);
        authority.known()?;
        let reply = Reply::json(call.style, &found(state, call, &authority));
        Ok(authority.mark(reply).with_text("x-consul-index", &index(state, call)))
    },
};
