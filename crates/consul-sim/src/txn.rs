//! Transactions: all operations or none.

use super::acl::{Access, Authority, Resource};
use super::blocking::ReadOptions;
use super::catalog::txn::{self, Found};
use super::go;
use super::http::decode::{GoType, Json, Object};
use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply};
use super::http::request::Call;
use super::kv::{self, View};
use super::store::State;
use super::store::kv::Entry;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, PAD};
use consul_api::api::txn as wire;
use http::StatusCode;
use serde::Serialize;

pub(super) static ROUTES: &[Route] = &[Route(&wire::TXN, Handler::Now(txn))];

enum Operation {
    Kv(KvOperation),
    Catalog(Box<txn::Operation>),
}

impl Operation {
    fn writes(&self) -> bool {
        match self {
            Operation::Kv(operation) => operation.writes(),
            Operation::Catalog(operation) => operation.writes(),
        }
    }

    /// Completes the operation, or returns the error of a server before it applies anything.
    fn prepare(&mut self, state: &State, authority: &Authority) -> Result<(), String> {
        match self {
            Operation::Kv(operation) => operation.check(state, authority),
            Operation::Catalog(operation) => {
                operation.prepare()?;
                operation.permit(state, authority).map_err(|refusal| refusal.text)
            }
        }
    }
}

/// One operation on a key.
struct KvOperation {
    verb: String,
    key: Vec<u8>,
    value: Vec<u8>,
    flags: u64,
    index: u64,
    session: String,
}

impl KvOperation {
    fn writes(&self) -> bool {
        let verbs = ["set", "delete", "delete-cas", "delete-tree", "cas", "lock", "unlock"];
        verbs.contains(&self.verb.as_str())
    }

    fn reads(&self) -> bool {
        let verbs =
            ["get", "get-or-empty", "get-tree", "check-session", "check-index", "check-not-exists"];
        verbs.contains(&self.verb.as_str())
    }

    fn check(&self, state: &State, authority: &Authority) -> Result<(), String> {
        if self.key.is_empty() && self.verb != "delete-tree" {
            return Err("Must provide key".to_owned());
        }
        if !self.writes() && !self.reads() {
            return Err(format!("unknown KV operation: {}", self.verb));
        }
        self.permit(authority).map_err(|refusal| refusal.text)?;
        if self.verb == "lock" && state.lock_is_delayed(&self.key) {
            return Err(format!("failed to lock key {} due to lock delay", go::quoted(&self.key)));
        }
        Ok(())
    }

    /// Refuses a caller without the permission. Results of reads are filtered instead.
    fn permit(&self, authority: &Authority) -> Result<(), Refusal> {
        match self.verb.as_str() {
            "get" | "get-or-empty" | "get-tree" => Ok(()),
            "check-session" | "check-index" => {
                authority.check(Resource::Key, &self.key, Access::Read)
            }
            "delete-tree" => authority.check_tree(&self.key),
            _ => authority.check(Resource::Key, &self.key, Access::Write),
        }
    }
}

#[derive(Serialize)]
struct Refused {
    #[serde(rename = "OpIndex")]
    place: usize,
    #[serde(rename = "What")]
    what: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    Kv {
        #[serde(rename = "KV")]
        view: View,
    },
    Catalog(Box<Found>),
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Results {
    results: Option<Vec<Outcome>>,
    errors: Option<Vec<Refused>>,
    #[serde(flatten)]
    read: Option<ReadTail>,
}

/// Further fields of the reply to a transaction without writes.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ReadTail {
    index: u64,
    last_contact: u64,
    known_leader: bool,
    consistency_level: &'static str,
    not_modified: bool,
    backend: u64,
    #[serde(rename = "ResultsFilteredByACLs")]
    results_filtered_by_acls: bool,
}

impl ReadTail {
    /// `reached`: whether a server handled the transaction, without which there is no index.
    fn new(reached: bool, filtered: bool) -> Self {
        Self {
            index: reached.into(),
            last_contact: 0,
            known_leader: reached,
            consistency_level: "",
            not_modified: false,
            backend: 0,
            results_filtered_by_acls: filtered,
        }
    }
}

fn txn(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    kv::check_length(call, state.settings.txn_max_req_len, "txn_max_req_len")?;
    let mut operations =
        decode(&call.body).map_err(|why| Refusal::bad(format!("Failed to parse body: {why}")))?;
    if operations.len() > wire::MAX_OPERATIONS {
        return Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "Transaction contains too many operations ({} > {})",
                operations.len(),
                wire::MAX_OPERATIONS
            ),
        ));
    }
    for operation in &operations {
        if let Operation::Kv(operation) = operation {
            state.settings.key_names.check_operation(&operation.key)?;
        }
    }
    let writes = operations.iter().any(Operation::writes);
    if !writes {
        ReadOptions::parse(call, &state.settings)?;
    }
    let authority = state.authority(call);
    authority.known()?;
    let refused = prepare(state, &authority, &mut operations);
    let reached = refused.is_empty();
    let (results, errors) =
        if reached { apply(state, &authority, &operations, writes) } else { (Vec::new(), refused) };
    let failed = !errors.is_empty();
    let body = Results {
        results: (!failed).then_some(results),
        errors: failed.then_some(errors),
        read: (!writes).then(|| ReadTail::new(reached, !failed && authority.has_filtered())),
    };
    let status = if failed { StatusCode::CONFLICT } else { StatusCode::OK };
    let reply = Reply::json_with(status, call.style, &body);
    if writes {
        return Ok(reply);
    }
    let known_leader = if reached { "true" } else { "false" };
    Ok(reply.with_text("x-consul-knownleader", known_leader).with_text("x-consul-lastcontact", "0"))
}

fn decode(body: &[u8]) -> Result<Vec<Operation>, String> {
    let json = Json::read(body)?;
    let items = match &json {
        Json::List(items) => items.as_slice(),
        Json::Null => &[],
        other => return Err(other.value_type_error("api.TxnOps")),
    };
    let mut operations = Vec::new();
    for item in items {
        // Consul closes the connection, and applies nothing.
        if matches!(item, Json::Null) {
            return Err("an operation is null".to_owned());
        }
        let item = Object::new(item, GoType { value: "api.TxnOp", fields: "TxnOp." })?;
        item.check_known(&["KV", "Node", "Service", "Check"])?;
        for other in ["Node", "Service", "Check"] {
            item.object(other, &format!("api.{other}TxnOp"))?;
        }
        if let Some(json) = item.object("KV", "api.KVTxnOp")? {
            let operation = decode_kv(&Object::of_members(json, "KVTxnOp.KV."))?;
            operations.push(Operation::Kv(operation));
        } else {
            let operation = txn::Operation::decode(&item)?;
            operations.extend(operation.map(Box::new).map(Operation::Catalog));
        }
    }
    Ok(operations)
}

fn decode_kv(given: &Object<'_>) -> Result<KvOperation, String> {
    given.check_known(&[
        "Verb",
        "Key",
        "Value",
        "Flags",
        "Index",
        "Session",
        "Namespace",
        "Partition",
    ])?;
    Ok(KvOperation {
        verb: given.text("Verb")?,
        key: given.text("Key")?.into_bytes(),
        value: bytes(given)?,
        flags: given.uint("Flags")?,
        index: given.uint("Index")?,
        session: given.text("Session")?,
    })
}

/// A value is a text in base64, or a list of its bytes.
fn bytes(given: &Object<'_>) -> Result<Vec<u8>, String> {
    let Some(Json::List(items)) = given.get("Value") else {
        return decode_base64(&given.text("Value")?);
    };
    let byte = |item: &Json| match item {
        Json::Null => Some(0),
        Json::Number(number) => number.as_u64().and_then(|byte| byte.try_into().ok()),
        _ => None,
    };
    let wrong = |item: &Json| item.field_type_error("KVTxnOp.KV.Value", "uint8");
    items.iter().map(|item| byte(item).ok_or_else(|| wrong(item))).collect()
}

pub(super) fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    use base64::DecodeError::InvalidByte;
    const LENIENT: GeneralPurpose =
        GeneralPurpose::new(&STANDARD, PAD.with_decode_allow_trailing_bits(true));
    // Go's decoder skips line ends, and reports the position of the wrong byte, else of its group
    // of four.
    let text: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    LENIENT.decode(&text).map_err(|error| {
        let place = match error {
            InvalidByte(place, _) => place,
            _ => text.len() / 4 * 4,
        };
        format!("illegal base64 data at input byte {place}")
    })
}

/// Completes the operations and returns the errors of a server before it applies anything.
fn prepare(state: &State, authority: &Authority, operations: &mut [Operation]) -> Vec<Refused> {
    let refused = operations.iter_mut().enumerate().filter_map(|(place, operation)| {
        let what = operation.prepare(state, authority).err()?;
        Some(Refused { place, what })
    });
    refused.collect()
}

/// Applies the operations in order, each to the result of the ones before it, and rolls all back if
/// one is refused.
fn apply(
    state: &mut State,
    authority: &Authority,
    operations: &[Operation],
    writes: bool,
) -> (Vec<Outcome>, Vec<Refused>) {
    let index = if writes { state.next_index() } else { 0 };
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    let in_catalog = operations.iter().filter_map(|operation| match operation {
        Operation::Catalog(operation) if operation.writes() => Some(operation.node().to_owned()),
        _ => None,
    });
    let nodes: Vec<_> = in_catalog.collect();
    let before = (!nodes.is_empty()).then(|| state.before());
    state.kv.begin();
    for (place, operation) in operations.iter().enumerate() {
        let applied = match operation {
            Operation::Kv(operation) => apply_kv(state, operation, index).map(|views| {
                let views = views.into_iter();
                let seen = views.filter(|view| authority.sees(Resource::Key, &view.key));
                results.extend(seen.map(|view| Outcome::Kv { view }));
            }),
            Operation::Catalog(operation) => operation.apply(state, index).map(|found| {
                let seen = found.filter(|found| txn::Operation::sees(authority, found));
                results.extend(seen.map(Box::new).map(Outcome::Catalog));
            }),
        };
        errors.extend(applied.err().map(|what| Refused { place, what }));
    }
    if errors.is_empty() {
        state.kv.commit();
        nodes.iter().for_each(|node| state.catalog_changed(node));
    } else {
        state.kv.roll_back();
        state.forget_touched();
        if let Some(before) = before {
            state.roll_back(before);
        }
    }
    (results, errors)
}

fn apply_kv(state: &mut State, operation: &KvOperation, index: u64) -> Result<Vec<View>, String> {
    let KvOperation { key, value, flags, session, .. } = operation;
    let name = || go::quoted(key);
    match operation.verb.as_str() {
        "set" => state.kv_set(key, value, *flags, index),
        "delete" => {
            state.kv_delete(key, index);
            return Ok(Vec::new());
        }
        "delete-cas" => {
            return match state.kv_delete_cas(key, operation.index, index) {
                true => Ok(Vec::new()),
                false => Err(format!("failed to delete key {}, index is stale", name())),
            };
        }
        "delete-tree" => {
            state.kv_delete_tree(key, index);
            return Ok(Vec::new());
        }
        "cas" => {
            if !state.kv_cas(key, value, *flags, operation.index, index) {
                return Err(format!("failed to set key {}, index is stale", name()));
            }
        }
        "lock" => {
            if !state.kv_lock(key, value, *flags, session, index)? {
                return Err(format!("failed to lock key {}, lock is already held", name()));
            }
        }
        "unlock" => {
            if !state.kv_unlock(key, value, *flags, session, index)? {
                let why = "lock isn't held, or is held by another session";
                return Err(format!("failed to unlock key {}, {why}", name()));
            }
        }
        _ => return read_kv(state, operation),
    }
    Ok(without_value(key, state.kv.get(key)))
}

fn read_kv(state: &State, operation: &KvOperation) -> Result<Vec<View>, String> {
    let key = &operation.key;
    let name = go::quoted(key);
    let entry = state.kv.get(key);
    match (operation.verb.as_str(), entry) {
        ("get-tree", _) => {
            Ok(state.kv.under(key).map(|(key, entry)| View::new(key, entry)).collect())
        }
        ("get" | "get-or-empty", Some(entry)) => Ok(vec![View::new(key, entry)]),
        ("get", None) => Err(format!("key {name} doesn't exist")),
        ("get-or-empty", None) => Ok(vec![empty(operation)]),
        ("check-session", Some(entry)) => {
            let holder = entry.session.as_deref().unwrap_or("");
            if holder == operation.session {
                return Ok(without_value(key, Some(entry)));
            }
            let (holder, expected) = (go::quoted(holder), go::quoted(&operation.session));
            Err(format!(
                "failed session check for key {name}, current session {holder} != {expected}"
            ))
        }
        ("check-index", Some(entry)) => {
            let (present, expected) = (entry.modify_index, operation.index);
            if present == expected {
                return Ok(without_value(key, Some(entry)));
            }
            Err(format!(
                "failed index check for key {name}, current modify index {present} != {expected}"
            ))
        }
        ("check-session", None) => {
            Err(format!("failed to check session, key {name} doesn't exist"))
        }
        ("check-index", None) => Err(format!("failed to check index, key {name} doesn't exist")),
        (_, Some(_)) => Err(format!("key {name} exists")),
        (_, None) => Ok(Vec::new()),
    }
}

fn without_value(key: &[u8], entry: Option<&Entry>) -> Vec<View> {
    entry.map(|entry| View { value: None, ..View::new(key, entry) }).into_iter().collect()
}

/// The entry of a missing key has the values of the operation.
fn empty(operation: &KvOperation) -> View {
    View {
        lock_index: 0,
        key: go::lossy(&operation.key),
        flags: operation.flags,
        value: None,
        session: Some(operation.session.clone()).filter(|session| !session.is_empty()),
        create_index: 0,
        modify_index: operation.index,
    }
}

#[cfg(test)]
mod tests {
    use super::super::control::testing::World;

    #[test]
    fn a_transaction_that_writes_shows_no_values_but_those_it_got() {
        let world = World::new();
        let answer = world.put(
            "txn",
            r#"[{"KV":{"Verb":"set","Key":"t/a","Value":"MQ==","Flags":7}},{"KV":{"Verb":"get","Key":"t/a"}},
                {"KV":{"Verb":"set","Key":"t/b"}},{"KV":{"Verb":"delete","Key":"t/b"}}]"#,
        );
        let index = world.get("kv/t/a").index();
        let entry = |value| {
            format!(
                "{{\"KV\":{{\"LockIndex\":0,\"Key\":\"t/a\",\"Flags\":7,\"Value\":{value},\
                 \"CreateIndex\":{index},\"ModifyIndex\":{index}}}}}"
            )
        };
        let (set, got) = (entry("null"), entry("\"MQ==\""));
        let deleted = set.replace("t/a", "t/b").replace("\"Flags\":7", "\"Flags\":0");
        assert_eq!(
            answer.text(),
            format!("{{\"Results\":[{set},{got},{deleted}],\"Errors\":null}}")
        );
        assert_eq!((answer.status(), answer.header("x-consul-knownleader")), (200, ""));
        assert_eq!(world.get("kv/t/b").status(), 404);
    }

    #[test]
    fn a_refused_transaction_changes_nothing_and_names_every_reason() {
        let world = World::new();
        world.put("kv/a", "1");
        let index = world.get("kv/a").index();
        let mut watch = world.watch(&format!("kv/a?index={index}"));
        let answer = world.put(
            "txn",
            r#"[{"KV":{"Verb":"set","Key":"a","Value":"Mg=="}},{"KV":{"Verb":"get","Key":"none"}},
                {"KV":{"Verb":"cas","Key":"a","Index":1}},{"KV":{"Verb":"delete-tree","Key":""}}]"#,
        );
        assert_eq!(answer.status(), 409);
        assert_eq!(
            answer.text(),
            r#"{"Results":null,"Errors":[{"OpIndex":1,"What":"key \"none\" doesn't exist"},{"OpIndex":2,"What":"failed to set key \"a\", index is stale"}]}"#
        );
        assert_eq!((world.get("kv/a").index(), world.get("kv/a?raw").text()), (index, "1"));
        assert!(watch.waits());
    }

    #[test]
    fn a_transaction_that_only_reads_has_another_reply() {
        let world = World::new();
        let answer = world.put("txn", r#"[{"KV":{"Verb":"get-or-empty","Key":"x"}}]"#);
        assert_eq!(
            answer.text(),
            r#"{"Results":[{"KV":{"LockIndex":0,"Key":"x","Flags":0,"Value":null,"CreateIndex":0,"ModifyIndex":0}}],"Errors":null,"Index":1,"LastContact":0,"KnownLeader":true,"ConsistencyLevel":"","NotModified":false,"Backend":0,"ResultsFilteredByACLs":false}"#
        );
        assert_eq!(answer.header("x-consul-knownleader"), "true");
        assert_eq!(answer.header("x-consul-index"), "");
        for body in ["[]", "null", "[{}]"] {
            assert!(world.put("txn", body).text().starts_with(r#"{"Results":[],"#));
        }
        let answer = world.put("txn", r#"[{"KV":{"Verb":"set","Key":"x"}},null]"#);
        assert_eq!((answer.status(), world.get("kv/x").status()), (400, 404));
    }

    #[test]
    fn operations_are_refused_in_consuls_words() {
        let world = World::new();
        world.put("kv/a", "1");
        let index = world.get("kv/a").index();
        let check = format!("failed index check for key \"a\", current modify index {index} != 1");
        for (operation, what) in [
            (r#""Verb":"set","Key":"""#, "Must provide key"),
            (r#""Verb":"bogus","Key":"a""#, "unknown KV operation: bogus"),
            (
                r#""Verb":"delete-cas","Key":"a","Index":1"#,
                "failed to delete key \"a\", index is stale",
            ),
            (r#""Verb":"check-index","Key":"a","Index":1"#, check.as_str()),
            (
                r#""Verb":"check-index","Key":"x","Index":1"#,
                "failed to check index, key \"x\" doesn't exist",
            ),
            (
                r#""Verb":"check-session","Key":"a","Session":"s""#,
                "failed session check for key \"a\", current session \"\" != \"s\"",
            ),
            (
                r#""Verb":"check-session","Key":"x""#,
                "failed to check session, key \"x\" doesn't exist",
            ),
            (r#""Verb":"check-not-exists","Key":"a""#, "key \"a\" exists"),
            (r#""Verb":"lock","Key":"a""#, "missing session"),
            (r#""Verb":"lock","Key":"a","Session":"s""#, "invalid session \"s\""),
            (
                r#""Verb":"unlock","Key":"a","Session":"s""#,
                "failed to unlock key \"a\", lock isn't held, or is held by another session",
            ),
        ] {
            let answer = world.put("txn", &format!("[{{\"KV\":{{{operation}}}}}]"));
            assert_eq!(answer.status(), 409);
            assert_eq!(answer.json()["Errors"][0]["What"], what);
        }
    }

    #[test]
    fn a_lock_in_its_delay_is_refused_before_anything_is_applied() {
        let world = World::new();
        let (holder, other) = (world.session(""), world.session(""));
        world.put(&format!("kv/l?acquire={holder}"), "");
        let lock =
            format!("[{{\"KV\":{{\"Verb\":\"lock\",\"Key\":\"l\",\"Session\":\"{other}\"}}}}]");
        let held = world.put("txn", &lock).json();
        assert_eq!(held["Errors"][0]["What"], "failed to lock key \"l\", lock is already held");
        world.put(&format!("session/destroy/{holder}"), "");
        let delayed = world.put("txn", &lock).json();
        assert_eq!(delayed["Errors"][0]["What"], "failed to lock key \"l\" due to lock delay");
    }

    #[test]
    fn invalid_bodies_are_refused() {
        let world = World::new();
        for (body, text) in [
            ("", "Failed to parse body: EOF"),
            (
                "{}",
                "Failed to parse body: json: cannot unmarshal object into Go value of type api.TxnOps",
            ),
            (r#"[{"Foo":1}]"#, "Failed to parse body: json: unknown field \"Foo\""),
            (
                r#"[{"KV":{"Verb":"set","Key":"a","Foo":1}}]"#,
                "Failed to parse body: json: unknown field \"Foo\"",
            ),
            (
                r#"[{"KV":{"Value":"!!"}}]"#,
                "Failed to parse body: illegal base64 data at input byte 0",
            ),
            (
                r#"[{"KV":{"Index":"a"}}]"#,
                "Failed to parse body: json: cannot unmarshal string into Go struct field KVTxnOp.KV.Index of type uint64",
            ),
        ] {
            let answer = world.put("txn", body);
            assert_eq!((answer.status(), answer.text()), (400, text), "{body}");
        }
    }

    #[test]
    fn there_is_a_limit_of_operations() {
        let world = World::new();
        let operations =
            |count| format!("[{}]", vec![r#"{"KV":{"Verb":"get","Key":"a"}}"#; count].join(","));
        assert_eq!(world.put("txn", &operations(128)).status(), 409);
        let answer = world.put("txn", &operations(129));
        assert_eq!(answer.status(), 413);
        assert_eq!(answer.text(), "Transaction contains too many operations (129 > 128)");
    }
}
