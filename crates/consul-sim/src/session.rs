//! Sessions.

use super::SERF_HEALTH;
use super::acl::{Access, Resource};
use super::blocking::{Headers, Read, ResultIndex};
use super::go;
use super::http::decode::{GoType, Json, Object, body, decode_error};
use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply};
use super::http::request::Call;
use super::store::State;
use super::store::session::{Behavior, Session};
use super::store::watch::Topic;
use consul_api::api::session as wire;
use serde::Serialize;
use std::time::Duration;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::CREATE, Handler::Now(create)),
    Route(&wire::DESTROY, Handler::Now(destroy)),
    Route(&wire::RENEW, Handler::Checked(renew)),
    Route(&wire::INFO, Handler::Read(&INFO)),
    Route(&wire::NODE, Handler::Read(&NODE)),
    Route(&wire::LIST, Handler::Read(&LIST)),
];

/// The default lock delay, in nanoseconds. Source: Consul's HTTP reference of sessions.
const DEFAULT_LOCK_DELAY_NS: i64 = 15_000_000_000;

/// A lock delay below this number is in seconds, else in nanoseconds.
const SECONDS_BELOW: i64 = 1000;

const SESSION: GoType =
    GoType { value: "struct { LockDelay interface {}; *structs.Alias }", fields: ".Alias." };

static INFO: Read = Read {
    check: |call| call.required_rest("Missing session").map(|_| ()),
    topics: |_, call| vec![Topic::Session(call.rest_text().into())],
    index: |state, call| ResultIndex {
        missing: state.sessions.get(&call.rest_text()).is_none(),
        ..ResultIndex::new(state.sessions.newest())
    },
    answer: |state, call| views(state, call, state.sessions.get(&call.rest_text()).into_iter()),
    headers: Headers::Deferred,
};

static NODE: Read = Read {
    check: |call| call.required_rest("Missing node name").map(|_| ()),
    topics: |_, call| vec![Topic::NodeSessions(call.rest_text().to_lowercase())],
    index: |state, _| ResultIndex::new(state.sessions.newest()),
    answer: |state, call| views(state, call, state.sessions.of_node(&call.rest_text())),
    headers: Headers::Deferred,
};

static LIST: Read = Read {
    check: |_| Ok(()),
    topics: |_, _| vec![Topic::Sessions],
    index: |state, _| ResultIndex::new(state.sessions.newest()),
    answer: |state, call| views(state, call, state.sessions.all()),
    headers: Headers::Deferred,
};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct View<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    node: &'a str,
    lock_delay: i64,
    behavior: &'static str,
    #[serde(rename = "TTL")]
    ttl: &'a str,
    node_checks: Option<&'a [String]>,
    service_checks: Option<Vec<CheckView<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<&'a [String]>,
    create_index: u64,
    modify_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CheckView<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    namespace: &'a str,
}

impl<'a> From<&'a Session> for View<'a> {
    fn from(session: &'a Session) -> Self {
        let service_checks = session.service_checks.as_deref().map(|checks| {
            checks.iter().map(|(id, namespace)| CheckView { id, namespace }).collect()
        });
        Self {
            id: &session.id,
            name: &session.name,
            node: &session.node,
            lock_delay: session.lock_delay_ns,
            behavior: match session.behavior {
                Behavior::Release => "release",
                Behavior::Delete => "delete",
            },
            ttl: &session.ttl_text,
            node_checks: session.node_checks.as_deref(),
            service_checks,
            checks: session.checks.as_deref(),
            create_index: session.create_index,
            modify_index: session.modify_index,
        }
    }
}

fn views<'a>(
    state: &State,
    call: &Call,
    sessions: impl Iterator<Item = &'a Session>,
) -> Result<Reply, Refusal> {
    let authority = state.authority(call);
    let seen = sessions.filter(|session| authority.sees(Resource::Session, &session.node));
    Ok(authority.mark(Reply::json(call.style, &seen.map(View::from).collect::<Vec<_>>())))
}

#[derive(Serialize)]
struct Created<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
}

fn create(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let given = if call.body.is_empty() { Json::Null } else { body(&call.body)? };
    let given = Object::of_body(&given, SESSION)?;
    let mut session = decode(&given, &state.node_name).map_err(decode_error)?;
    let behavior = given.text("Behavior").map_err(decode_error)?;
    // A session without a node is refused below, whatever the token.
    if !session.node.is_empty() {
        state.authority(call).check(Resource::Session, &session.node, Access::Write)?;
    }
    check(state, &mut session, &behavior)?;
    let index = state.next_index();
    check_bound(state, &session).map_err(|why| Refusal::server(format!("apply failed: {why}")))?;
    session.id = state.new_id().into();
    (session.create_index, session.modify_index) = (index, index);
    let reply = Reply::json(call.style, &Created { id: &session.id });
    state.insert_session(session, index);
    Ok(reply)
}

/// The session that a body describes, before its behavior and TTL are validated.
fn decode(given: &Object<'_>, own_node: &str) -> Result<Session, String> {
    let serf_health = || Some(vec![SERF_HEALTH.to_owned()]);
    let own_text = |name: &str, default: &str| match given.get(name) {
        Some(_) => given.text(name),
        None => Ok(default.to_owned()),
    };
    let named = |name: &str| match given.get(name) {
        // Go reads into the default, and null keeps its element.
        Some(Json::List(items)) if items.first() == Some(&Json::Null) => {
            let mut names = given.texts(name)?;
            names.iter_mut().flatten().take(1).for_each(|first| *first = SERF_HEALTH.to_owned());
            Ok(names)
        }
        _ if given.has(name) => given.texts(name),
        _ => Ok(serf_health()),
    };
    given.text("ID")?;
    for name in ["CreateIndex", "ModifyIndex"] {
        given.uint(name)?;
    }
    let mut node_checks = named("NodeChecks")?;
    let mut checks = named("Checks")?;
    // The old list still decides if it is empty, and is not kept if it is the default.
    let old = given.list("Checks", "[]string")?;
    if given.has("Checks") && old.is_none_or(<[_]>::is_empty) {
        node_checks = Some(Vec::new());
        checks = None;
    }
    checks = checks.filter(|checks| !checks.is_empty() && *checks != [SERF_HEALTH]);
    if node_checks.as_ref().is_none_or(Vec::is_empty) {
        checks = None;
    }
    Ok(Session {
        id: "".into(),
        name: given.text("Name")?,
        node: own_text("Node", own_node)?,
        lock_delay_ns: lock_delay(given.get("LockDelay"))?,
        behavior: Behavior::Release,
        ttl_text: given.text("TTL")?,
        ttl: Duration::ZERO,
        node_checks,
        service_checks: service_checks(given)?,
        checks,
        create_index: 0,
        modify_index: 0,
        expires: None,
    })
}

fn lock_delay(given: Option<&Json>) -> Result<i64, String> {
    let whole = match given {
        None => return Ok(DEFAULT_LOCK_DELAY_NS),
        Some(Json::Text(text)) => go::duration(text)?,
        Some(Json::Number(number)) => go::int(number),
        Some(_) => 0,
    };
    Ok(if whole < SECONDS_BELOW { whole.wrapping_mul(1_000_000_000) } else { whole })
}

fn service_checks(given: &Object<'_>) -> Result<Option<Vec<(String, String)>>, String> {
    let Some(items) = given.list("ServiceChecks", "[]structs.ServiceCheck")? else {
        return Ok(None);
    };
    let read = |item: &Json| {
        let (Json::Object(_) | Json::Null) = item else {
            return Err(item.field_type_error(".Alias.ServiceChecks", "structs.ServiceCheck"));
        };
        let check = Object::new(
            item,
            GoType { value: "structs.ServiceCheck", fields: ".Alias.ServiceChecks." },
        )?;
        Ok((check.text("ID")?, check.text("Namespace")?))
    };
    items.iter().map(read).collect::<Result<_, _>>().map(Some)
}

/// Validates what a server validates before it writes to its log.
fn check(state: &State, session: &mut Session, behavior: &str) -> Result<(), Refusal> {
    if session.node.is_empty() {
        return Err(Refusal::server("Must provide Node"));
    }
    session.behavior = match behavior {
        "" | "release" => Behavior::Release,
        "delete" => Behavior::Delete,
        other => return Err(Refusal::server(format!("Invalid Behavior setting '{other}'"))),
    };
    let ttl = match session.ttl_text.as_str() {
        "" => 0,
        text => go::duration(text)
            .map_err(|why| Refusal::server(format!("Session TTL '{text}' invalid: {why}")))?,
    };
    let (min, max) = (state.settings.session_ttl_min, Duration::from_secs(wire::TTL_RANGE_S.1));
    let length = Duration::from_nanos(u64::try_from(ttl).unwrap_or(0));
    if ttl != 0 && !(min..=max).contains(&length) {
        let (min, max) = (go::duration_text(min), go::duration_text(max));
        let text = format!("Invalid Session TTL '{ttl}', must be between [{min}={max}]");
        return Err(Refusal::server(text));
    }
    session.ttl = length;
    Ok(())
}

/// Requires that the session's node exists and its checks are not critical.
fn check_bound(state: &State, session: &Session) -> Result<(), String> {
    if state.catalog.node(&session.node).is_none() {
        return Err("Missing node registration".to_owned());
    }
    let of_services = session.service_checks.iter().flatten().map(|(id, _)| id);
    let of_node = session.node_checks.iter().flatten();
    for id in session.checks.iter().flatten().chain(of_node).chain(of_services) {
        match state.catalog.check(&session.node, id) {
            None if id.is_empty() => {
                return Err(
                    "failed check lookup: index error: object is missing a value for this index"
                        .to_owned(),
                );
            }
            None => return Err(format!("Missing check '{id}' registration")),
            Some(check) if check.status == "critical" => {
                return Err(format!("Check '{id}' is in critical state"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Refuses a caller who may not change a session.
fn permit(state: &State, call: &Call, id: &str) -> Result<(), Refusal> {
    let authority = state.authority(call);
    authority.known()?;
    match state.sessions.get(id) {
        Some(session) => authority.check(Resource::Session, &session.node, Access::Write),
        None => Ok(()),
    }
}

fn destroy(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let id = call.required_rest("Missing session")?;
    permit(state, call, &id)?;
    // An unknown session is not written to the Raft log.
    if state.sessions.get(&id).is_some() {
        let index = state.next_index();
        state.end_session(&id, index);
    }
    Ok(Reply::json(call.style, &true))
}

/// Restarts the TTL. It is kept in the leader's memory only: nothing is written.
fn renew(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let id = call.required_rest("Missing session")?;
    permit(state, call, &id)?;
    state.start_ttl(&id);
    match state.sessions.get(&id) {
        Some(session) => Ok(Reply::json(call.style, &[View::from(session)])),
        None => Err(Refusal::unknown(format!("Session id '{id}' not found"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::control::testing::World;
    use std::time::Duration;

    const MILLISECOND: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_session_with_no_body_has_the_defaults() {
        let world = World::new();
        let id = world.session("");
        let answer = world.get(&format!("session/info/{id}"));
        let index = answer.index();
        assert_eq!(
            answer.text(),
            format!(
                "[{{\"ID\":\"{id}\",\"Name\":\"\",\"Node\":\"sim\",\"LockDelay\":15000000000,\
                 \"Behavior\":\"release\",\"TTL\":\"\",\"NodeChecks\":[\"serfHealth\"],\
                 \"ServiceChecks\":null,\"CreateIndex\":{index},\"ModifyIndex\":{index}}}]"
            )
        );
    }

    #[test]
    fn a_number_of_lock_delay_is_seconds_when_it_is_small() {
        let world = World::new();
        for (given, nanos) in [
            ("0", 0i64),
            ("\"0s\"", 0),
            ("1.9", 1_000_000_000),
            ("1000", 1000),
            ("\"61s\"", 61_000_000_000),
        ] {
            let id = world.session(&format!("{{\"LockDelay\":{given}}}"));
            assert_eq!(world.get(&format!("session/info/{id}")).json()[0]["LockDelay"], nanos);
        }
    }

    #[test]
    fn invalid_definitions_are_refused() {
        let world = World::new();
        for (body, status, text) in [
            (
                r#"{"TTL":"5s"}"#,
                500,
                "Invalid Session TTL '5000000000', must be between [10s=24h0m0s]",
            ),
            (
                r#"{"TTL":"-1s"}"#,
                500,
                "Invalid Session TTL '-1000000000', must be between [10s=24h0m0s]",
            ),
            (r#"{"TTL":"abc"}"#, 500, "Session TTL 'abc' invalid: time: invalid duration \"abc\""),
            (
                r#"{"TTL":10}"#,
                400,
                "Request decode failed: json: cannot unmarshal number into Go struct field .Alias.TTL of type string",
            ),
            (
                r#"{"LockDelay":"5"}"#,
                400,
                "Request decode failed: time: missing unit in duration \"5\"",
            ),
            (r#"{"Behavior":"x"}"#, 500, "Invalid Behavior setting 'x'"),
            (r#"{"Node":""}"#, 500, "Must provide Node"),
            (r#"{"Node":"x"}"#, 500, "apply failed: Missing node registration"),
            (r#"{"NodeChecks":["nope"]}"#, 500, "apply failed: Missing check 'nope' registration"),
            (
                r#"{"ServiceChecks":["x"]}"#,
                400,
                "Request decode failed: json: cannot unmarshal string into Go struct field .Alias.ServiceChecks of type structs.ServiceCheck",
            ),
        ] {
            let answer = world.put("session/create", body);
            assert_eq!((answer.status(), answer.text()), (status, text), "{body}");
        }
    }

    #[test]
    fn the_old_list_of_checks_empties_the_new_one_when_it_is_empty() {
        let world = World::new();
        let checks = |body: &str| {
            let id = world.session(body);
            let session = world.get(&format!("session/info/{id}")).json()[0].clone();
            (session["NodeChecks"].to_string(), session["Checks"].to_string())
        };
        let null = || "null".to_owned();
        assert_eq!(checks(r#"{"Checks":[]}"#), ("[]".to_owned(), null()));
        assert_eq!(checks(r#"{"NodeChecks":[]}"#), ("[]".to_owned(), null()));
        assert_eq!(checks(r#"{"NodeChecks":null}"#), (null(), null()));
        for body in [r#"{"NodeChecks":[null]}"#, r#"{"Checks":[null]}"#] {
            assert_eq!(checks(body), (r#"["serfHealth"]"#.to_owned(), null()), "{body}");
        }
        assert_eq!(
            checks(r#"{"Checks":["serfHealth"]}"#),
            (r#"["serfHealth"]"#.to_owned(), null())
        );
    }

    #[test]
    fn an_unrenewed_session_goes_after_twice_its_ttl() {
        let world = World::new();
        let id = world.session(r#"{"TTL":"10s"}"#);
        world.advance(SECOND * 15);
        assert_eq!(world.put(&format!("session/renew/{id}"), "").json()[0]["ID"], id);
        world.advance(SECOND * 20 - MILLISECOND);
        assert_eq!(world.get(&format!("session/info/{id}")).json()[0]["ID"], id);
        world.advance(MILLISECOND);
        assert_eq!(world.get(&format!("session/info/{id}")).text(), "[]");
        let answer = world.put(&format!("session/renew/{id}"), "");
        assert_eq!(
            (answer.status(), answer.text()),
            (404, format!("Session id '{id}' not found").as_str())
        );
    }

    #[test]
    fn the_end_of_a_session_releases_its_locks_at_one_index() {
        let world = World::new();
        let id = world.session(r#"{"LockDelay":"1s"}"#);
        world.put(&format!("kv/a?acquire={id}"), "1");
        world.put(&format!("kv/b?acquire={id}"), "2");
        let mut watch = world.watch(&format!("kv/a?index={}", world.get("kv/a").index()));
        assert_eq!(world.put(&format!("session/destroy/{id}"), "").text(), "true");
        let entry = watch.answer().expect("woken").json()[0].clone();
        assert!(entry["Session"].is_null());
        assert_eq!((&entry["Value"], &entry["LockIndex"]), (&"MQ==".into(), &1.into()));
        assert_eq!(world.get("kv/a").index(), world.get("kv/b").index());
    }

    #[test]
    fn a_lost_lock_is_free_only_after_its_delay() {
        let world = World::new();
        let (holder, other) = (world.session(r#"{"LockDelay":"1.5s"}"#), world.session(""));
        world.put(&format!("kv/l?acquire={holder}"), "1");
        world.put(&format!("session/destroy/{holder}"), "");
        let before = world.get("kv/l").index();
        let acquire = format!("kv/l?acquire={other}");
        assert_eq!(world.put(&acquire, "2").text(), "false");
        assert_eq!(world.put("kv/l", "3").text(), "true");
        assert_eq!(world.get("kv/l").index(), before + 1, "a delayed acquire takes no Raft index");
        world.advance(MILLISECOND * 1499);
        assert_eq!(world.put(&acquire, "2").text(), "false");
        world.advance(MILLISECOND);
        assert_eq!(world.put(&acquire, "2").text(), "true");
    }

    #[test]
    fn a_lock_delay_is_up_to_a_minute_and_zero_is_none() {
        let world = World::new();
        let other = world.session("");
        for (delay, seconds) in [("2h", 60), ("0s", 0), ("-5s", 0)] {
            let holder = world.session(&format!("{{\"LockDelay\":\"{delay}\"}}"));
            world.put(&format!("kv/{delay}?acquire={holder}"), "1");
            world.put(&format!("session/destroy/{holder}"), "");
            let acquire = format!("kv/{delay}?acquire={other}");
            if seconds > 0 {
                world.advance(SECOND * seconds - MILLISECOND);
                assert_eq!(world.put(&acquire, "").text(), "false");
                world.advance(MILLISECOND);
            }
            assert_eq!(world.put(&acquire, "").text(), "true");
        }
    }

    #[test]
    fn a_session_with_behavior_delete_takes_its_keys_with_it() {
        let world = World::new();
        let holder = world.session(r#"{"Behavior":"delete","LockDelay":"1s"}"#);
        let other = world.session("");
        world.put(&format!("kv/l?acquire={holder}"), "1");
        world.put(&format!("session/destroy/{holder}"), "");
        assert_eq!(world.get("kv/l").status(), 404);
        assert_eq!(world.put(&format!("kv/l?acquire={other}"), "").text(), "false");
    }

    #[test]
    fn reads_show_the_tables_index_and_wake_for_their_own_sessions_only() {
        let world = World::new();
        let id = world.session("");
        let index = world.get(&format!("session/info/{id}")).index();
        let mut info = world.watch(&format!("session/info/{id}?index={index}"));
        let mut unknown = world.watch(&format!("session/info/none?index={index}"));
        let mut list = world.watch(&format!("session/list?index={index}"));
        world.session("");
        assert!(info.waits() && unknown.waits());
        assert_eq!(list.answer().expect("woken").json().as_array().map(Vec::len), Some(2));
        assert_eq!(world.get("session/info/none").index(), index + 1);
        world.put(&format!("session/destroy/{id}"), "");
        assert_eq!(info.answer().expect("woken").text(), "[]");
        assert!(unknown.waits());
    }
}
