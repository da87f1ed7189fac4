//! The key-value store.

use super::acl::{Access, Resource};
use super::blocking::{Headers, Read, ResultIndex};
use super::go;
use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply};
use super::http::request::Call;
use super::store::State;
use super::store::kv::Entry;
use super::store::watch::Topic;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use consul_api::api::kv as wire;
use consul_api::table::Endpoint;
use http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::GET, Handler::Read(&READ)),
    Route(&wire::LIST, Handler::Read(&READ)),
    Route(&wire::KEYS, Handler::Read(&READ)),
    Route(&wire::PUT, Handler::Checked(put)),
    Route(&wire::DELETE, Handler::Checked(delete)),
    Route(&wire::DELETE_TREE, Handler::Checked(delete)),
];

/// The three reads have the same path; parameters select one.
static READ: Read = Read {
    check: |call| match mode(call) {
        Mode::Key => check_key(call),
        Mode::Entries | Mode::Keys => Ok(()),
    },
    topics: |state, call| {
        let key: Box<[u8]> = call.rest.clone().into();
        if mode(call) == Mode::Key {
            return vec![Topic::Key(key)];
        }
        let near = state.kv.near(&key).map(Topic::Near);
        [Topic::Prefix(key)].into_iter().chain(near).collect()
    },
    index: |state, call| match mode(call) {
        Mode::Key => match state.kv.get(&call.rest) {
            Some(entry) => ResultIndex::new(entry.modify_index),
            None => {
                let near = call.query.has("index").then(|| state.kv.near_key(&call.rest));
                ResultIndex { missing: true, near, ..ResultIndex::new(state.kv.newest()) }
            }
        },
        Mode::Entries | Mode::Keys => ResultIndex::new(state.kv.newest_under(&call.rest)),
    },
    answer: |state, call| match mode(call) {
        Mode::Key => key(state, call),
        Mode::Entries => entries(state, call),
        Mode::Keys => keys(state, call),
    },
    headers: Headers::Plain,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Key,
    Entries,
    Keys,
}

fn mode(call: &Call) -> Mode {
    match (call.query.has("keys"), call.query.has("recurse")) {
        (true, _) => Mode::Keys,
        (false, true) => Mode::Entries,
        (false, false) => Mode::Key,
    }
}

/// Whether an endpoint is one of `/v1/kv/`.
pub(super) fn is_of_keys(endpoint: &Endpoint) -> bool {
    endpoint.path == wire::GET.path
}

fn check_key(call: &Call) -> Result<(), Refusal> {
    if call.rest.is_empty() { Err(Refusal::bad("Missing key name")) } else { Ok(()) }
}

/// An entry in replies.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct View {
    pub lock_index: u64,
    pub key: String,
    pub flags: u64,
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    pub create_index: u64,
    pub modify_index: u64,
}

impl View {
    /// An empty value is null.
    pub fn new(key: &[u8], entry: &Entry) -> Self {
        Self {
            lock_index: entry.lock_index,
            key: go::lossy(key),
            flags: entry.flags,
            value: (!entry.value.is_empty()).then(|| BASE64.encode(&entry.value)),
            session: entry.session.as_deref().map(str::to_owned),
            create_index: entry.create_index,
            modify_index: entry.modify_index,
        }
    }
}

fn key(state: &State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Key, &call.rest, Access::Read)?;
    let Some(entry) = state.kv.get(&call.rest) else {
        return Ok(Reply::empty(StatusCode::NOT_FOUND));
    };
    if !call.query.has("raw") {
        return Ok(Reply::json(call.style, &[View::new(&call.rest, entry)]));
    }
    // Values are untrusted: a browser must not render them as a page.
    let raw = Reply { body: Bytes::copy_from_slice(&entry.value), ..Reply::empty(StatusCode::OK) };
    Ok(raw
        .with(CONTENT_TYPE, HeaderValue::from_static("text/plain"))
        .with(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"))
        .with(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
}

fn entries(state: &State, call: &Call) -> Result<Reply, Refusal> {
    let authority = state.authority(call);
    authority.check_list(&call.rest)?;
    let found = state.kv.under(&call.rest).filter(|(key, _)| authority.sees(Resource::Key, key));
    let views: Vec<_> = found.map(|(key, entry)| View::new(key, entry)).collect();
    Ok(authority.mark(match views.is_empty() {
        true => Reply::empty(StatusCode::NOT_FOUND),
        false => Reply::json(call.style, &views),
    }))
}

fn keys(state: &State, call: &Call) -> Result<Reply, Refusal> {
    let authority = state.authority(call);
    authority.check_list(&call.rest)?;
    let prefix = &call.rest;
    // The parameter was once misspelled, and both spellings work since.
    let names = ["separator", "seperator"];
    let name = names.into_iter().find(|name| call.query.has(name)).unwrap_or("separator");
    let separator = call.query.get(name).as_bytes();
    let mut keys: Vec<&[u8]> = Vec::new();
    for (key, _) in state.kv.under(prefix).filter(|(key, _)| authority.sees(Resource::Key, key)) {
        let key = cut(key, prefix.len(), separator);
        if keys.last() != Some(&key) {
            keys.push(key);
        }
    }
    Ok(authority.mark(match keys.is_empty() && !prefix.is_empty() {
        true => Reply::empty(StatusCode::NOT_FOUND),
        false => Reply::json(call.style, &keys.into_iter().map(go::lossy).collect::<Vec<_>>()),
    }))
}

/// The key up to and including the first separator after the prefix.
fn cut<'a>(key: &'a [u8], prefix: usize, separator: &[u8]) -> &'a [u8] {
    if separator.is_empty() {
        return key;
    }
    let place = key[prefix..].windows(separator.len()).position(|part| part == separator);
    place.map_or(key, |place| &key[..prefix + place + separator.len()])
}

/// Refuses parameters that exclude each other.
fn check_conflict(call: &Call, parameters: &[&str]) -> Result<(), Refusal> {
    if parameters.iter().filter(|name| call.query.has(name)).count() > 1 {
        return Err(Refusal::bad(format!("Conflicting flags: {}\n", call.query.encoded())));
    }
    Ok(())
}

/// A parameter that is a number; `None` if absent.
fn number(call: &Call, name: &str) -> Result<Option<u64>, Refusal> {
    if !call.query.has(name) {
        return Ok(None);
    }
    go::uint(call.query.get(name)).map(Some).map_err(Refusal::server)
}

/// Refuses a body over the limit, unless the request did not declare its length. Source:
/// `limits.kv_max_value_size` in Consul's agent configuration reference.
pub(super) fn check_length(call: &Call, most: usize, option: &str) -> Result<(), Refusal> {
    let length = call.body.len();
    if length <= most || call.headers.contains_key(TRANSFER_ENCODING) {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!(
            "Request body({length} bytes) too large, max size: {most} bytes. See \
             https://developer.hashicorp.com/docs/agent/config/config-files#{option}."
        ),
    ))
}

fn put(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    check_key(call)?;
    check_conflict(call, &["cas", "acquire", "release"])?;
    let (key, value) = (&call.rest[..], &call.body[..]);
    let flags = number(call, "flags")?.unwrap_or(0);
    let expected = number(call, "cas")?;
    check_length(call, state.settings.kv_max_value_size, "kv_max_value_size")?;
    call.check_whole()?;
    state.authority(call).check(Resource::Key, key, Access::Write)?;
    // A lock that is refused because of a lock delay does not reach the Raft log.
    if call.query.has("acquire") && state.lock_is_delayed(key) {
        return Ok(Reply::json(call.style, &false));
    }
    let index = state.next_index();
    let applied = if let Some(expected) = expected {
        Ok(state.kv_cas(key, value, flags, expected, index))
    } else if call.query.has("acquire") {
        state.kv_lock(key, value, flags, call.query.get("acquire"), index)
    } else if call.query.has("release") {
        state.kv_unlock(key, value, flags, call.query.get("release"), index)
    } else {
        state.kv_set(key, value, flags, index);
        Ok(true)
    };
    match applied {
        Ok(applied) => Ok(Reply::json(call.style, &applied)),
        Err(why) => Err(Refusal::server(format!("raft apply failed: {why}"))),
    }
}

fn delete(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    check_conflict(call, &["recurse", "cas"])?;
    let tree = call.query.has("recurse");
    if !tree {
        check_key(call)?;
    }
    let expected = number(call, "cas")?;
    match tree {
        true => state.authority(call).check_tree(&call.rest)?,
        false => state.authority(call).check(Resource::Key, &call.rest, Access::Write)?,
    }
    let index = state.next_index();
    let applied = match (tree, expected) {
        (true, _) => {
            state.kv_delete_tree(&call.rest, index);
            true
        }
        (false, Some(expected)) => state.kv_delete_cas(&call.rest, expected, index),
        (false, None) => {
            state.kv_delete(&call.rest, index);
            true
        }
    };
    Ok(Reply::json(call.style, &applied))
}

#[cfg(test)]
mod tests {
    use super::super::control::testing::World;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_entry_reads_as_consul_writes_it() {
        let world = World::new();
        assert_eq!(world.put("kv/a/b?flags=18446744073709551615", "hello").text(), "true");
        let index = world.get("kv/a/b").index();
        assert_eq!(
            world.get("kv/a/b").text(),
            format!(
                "[{{\"LockIndex\":0,\"Key\":\"a/b\",\"Flags\":18446744073709551615,\
                 \"Value\":\"aGVsbG8=\",\"CreateIndex\":{index},\"ModifyIndex\":{index}}}]"
            )
        );
    }

    #[test]
    fn the_empty_value_is_null_and_raw_gives_the_bytes() {
        let world = World::new();
        world.put("kv/a", "");
        assert!(world.get("kv/a").json()[0]["Value"].is_null());
        world.put("kv/a", "x\u{e4}");
        let raw = world.get("kv/a?raw");
        assert_eq!((raw.text(), raw.header("content-type")), ("x\u{e4}", "text/plain"));
        assert_eq!(raw.header("content-security-policy"), "sandbox");
    }

    #[test]
    fn a_missing_key_is_404_with_the_tables_index() {
        let world = World::new();
        assert_eq!(world.get("kv/none").index(), 1);
        world.put("kv/other", "x");
        let missing = world.get("kv/none");
        assert_eq!((missing.status(), missing.text()), (404, ""));
        assert_eq!(missing.index(), world.get("kv/other").index());
        assert_eq!(missing.header("content-type"), "");
    }

    #[test]
    fn rewriting_the_same_value_moves_no_index() {
        let world = World::new();
        world.put("kv/a", "x");
        let before = world.get("kv/a").index();
        let mut watch = world.watch(&format!("kv/a?index={before}"));
        world.put("kv/a", "x");
        assert_eq!(world.get("kv/a").index(), before);
        assert!(watch.waits());
        world.put("kv/a?flags=1", "x");
        assert!(world.get("kv/a").index() > before + 1);
        assert!(!watch.waits());
    }

    #[test]
    fn cas_with_zero_creates_only() {
        let world = World::new();
        assert_eq!(world.put("kv/a?cas=5", "x").text(), "false");
        assert_eq!(world.put("kv/a?cas=0", "x").text(), "true");
        assert_eq!(world.put("kv/a?cas=0", "y").text(), "false");
        let index = world.get("kv/a").index();
        assert_eq!(world.put(&format!("kv/a?cas={index}"), "y").text(), "true");
        assert_eq!(world.put(&format!("kv/a?cas={index}"), "z").text(), "false");
    }

    #[test]
    fn delete_with_cas_wants_the_modify_index_of_a_key_that_exists() {
        let world = World::new();
        world.put("kv/a", "x");
        assert_eq!(world.delete("kv/a?cas=0").text(), "false");
        assert_eq!(world.delete("kv/a?cas=1").text(), "false");
        assert_eq!(world.delete("kv/none?cas=1").text(), "true");
        let index = world.get("kv/a").index();
        assert_eq!(world.delete(&format!("kv/a?cas={index}")).text(), "true");
        assert_eq!(world.get("kv/a").status(), 404);
    }

    #[test]
    fn invalid_numbers_and_flags_are_refused() {
        let world = World::new();
        let answer = world.put("kv/a?cas=x", "");
        assert_eq!(answer.status(), 500);
        assert_eq!(answer.text(), "strconv.ParseUint: parsing \"x\": invalid syntax");
        let answer = world.put("kv/a?cas=1&acquire=zz", "");
        assert_eq!(
            (answer.status(), answer.text()),
            (400, "Conflicting flags: acquire=zz&cas=1\n")
        );
        let answer = world.delete("kv/a?cas=1&recurse");
        assert_eq!((answer.status(), answer.text()), (400, "Conflicting flags: cas=1&recurse=\n"));
        assert_eq!(world.get("kv/").text(), "Missing key name");
    }

    #[test]
    fn a_value_over_the_limit_is_refused() {
        let world = World::new();
        assert_eq!(world.put("kv/a", &"x".repeat(524_288)).text(), "true");
        let answer = world.put("kv/a", &"x".repeat(524_289));
        assert_eq!(answer.status(), 413);
        assert!(answer.text().starts_with(
            "Request body(524289 bytes) too large, max size: 524288 bytes. See https://"
        ));
    }

    #[test]
    fn keys_are_cut_after_the_first_separator_beyond_the_prefix() {
        let world = World::new();
        for key in ["a/b/1", "a/b/2", "a/c", "a/d/e", "b"] {
            world.put(&format!("kv/{key}"), "x");
        }
        assert_eq!(world.get("kv/a/?keys&separator=/").text(), r#"["a/b/","a/c","a/d/"]"#);
        assert_eq!(world.get("kv/a?keys&seperator=/").text(), r#"["a/"]"#);
        assert_eq!(world.get("kv/a/b?keys").text(), r#"["a/b/1","a/b/2"]"#);
        assert_eq!(world.get("kv/x?keys").status(), 404);
        assert_eq!(World::new().get("kv/?keys").text(), "[]");
        assert_eq!(World::new().get("kv/?recurse").status(), 404);
    }

    #[test]
    fn a_prefix_is_plain_text() {
        let world = World::new();
        for key in ["dt", "dt2", "dt/a", "d"] {
            world.put(&format!("kv/{key}"), "x");
        }
        assert_eq!(world.delete("kv/dt?recurse").text(), "true");
        assert_eq!(world.get("kv/?keys").text(), r#"["d"]"#);
    }

    #[test]
    fn keys_are_bytes_that_are_decoded_once() {
        let world = World::new();
        for (path, shown) in [
            ("%2Fx", "/x"),
            ("a%2F%2Fb", "a//b"),
            ("a+b", "a+b"),
            ("a%20b", "a b"),
            ("%25", "%"),
            ("%C3%A4", "\u{e4}"),
            ("%FF", "\u{fffd}"),
        ] {
            world.put(&format!("kv/{path}"), path);
            assert_eq!(world.get(&format!("kv/{path}")).json()[0]["Key"], shown);
            assert_eq!(world.get(&format!("kv/{path}?raw")).text(), path);
        }
    }

    #[test]
    fn a_held_lock_is_refused_to_others_and_rewritten_by_its_holder() {
        let world = World::new();
        let (one, other) = (world.session(""), world.session(""));
        assert_eq!(world.put(&format!("kv/l?acquire={one}"), "1").text(), "true");
        assert_eq!(world.put(&format!("kv/l?acquire={other}"), "2").text(), "false");
        assert_eq!(world.put(&format!("kv/l?acquire={one}"), "3").text(), "true");
        let entry = &world.get("kv/l").json()[0];
        assert_eq!(entry["LockIndex"], 1);
        assert_eq!(entry["Session"], one);
        assert_eq!(world.put(&format!("kv/l?release={other}"), "").text(), "false");
        assert_eq!(world.put(&format!("kv/l?release={one}"), "").text(), "true");
        assert_eq!(world.put(&format!("kv/l?release={one}"), "").text(), "false");
        let entry = &world.get("kv/l").json()[0];
        assert!(entry["Session"].is_null() && entry["Value"].is_null());
        assert_eq!(world.put(&format!("kv/l?acquire={other}"), "2").text(), "true");
        assert_eq!(world.get("kv/l").json()[0]["LockIndex"], 2);
    }

    #[test]
    fn a_plain_put_keeps_the_lock_but_not_its_index() {
        let world = World::new();
        let session = world.session("");
        world.put(&format!("kv/l?acquire={session}"), "1");
        let before = world.get("kv/l").index();
        world.put("kv/l", "1");
        let entry = &world.get("kv/l").json()[0];
        assert_eq!((&entry["LockIndex"], &entry["Session"]), (&0.into(), &session.into()));
        assert!(world.get("kv/l").index() > before);
    }

    #[test]
    fn an_acquire_needs_a_session_that_exists() {
        let world = World::new();
        for (parameter, text) in [
            ("acquire=", "raft apply failed: missing session"),
            ("acquire=zz", "raft apply failed: invalid session \"zz\""),
            ("release=", "raft apply failed: missing session"),
        ] {
            let answer = world.put(&format!("kv/l?{parameter}"), "");
            assert_eq!((answer.status(), answer.text()), (500, text));
        }
        assert_eq!(world.put("kv/l?release=zz", "").text(), "false");
    }

    #[test]
    fn the_lock_of_a_deleted_key_is_free_at_once() {
        let world = World::new();
        let (one, other) = (world.session(""), world.session(""));
        world.put(&format!("kv/l?acquire={one}"), "");
        world.delete("kv/l");
        assert_eq!(world.put(&format!("kv/l?acquire={other}"), "").text(), "true");
        assert_eq!(world.get("kv/l").json()[0]["LockIndex"], 1);
    }

    #[test]
    fn a_tombstone_is_reaped_after_a_quarter_of_an_hour() {
        let world = World::new();
        world.put("kv/p/a", "x");
        world.put("kv/p/b", "x");
        world.delete("kv/p/b");
        let (kept, deleted) = (world.get("kv/p/a").index(), world.get("kv/p/?recurse").index());
        assert!(deleted > kept);
        world.advance(SECOND * 15 * 60);
        assert_eq!(world.get("kv/p/?recurse").index(), deleted);
        world.advance(SECOND * 30);
        assert_eq!(world.get("kv/p/?recurse").index(), kept);
    }
}
