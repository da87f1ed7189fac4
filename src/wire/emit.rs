//! The reference, made from the table: `docs/api.md` for people, `lua/meta/consul_ffi.d.lua` for
//! the Lua language server.

use super::AREAS;
use super::table::{
    Absent, BLOCKING, COMMON, CONSISTENCY, Endpoint, FILTER, Field, NODES, Param, Repeat, Reply,
    SCOPE, Shape,
};
use std::fmt::Write;

/// The groups of options that many methods share, so that they are described once.
const GROUPS: &[(&str, &[Param])] = &[
    ("Scope", SCOPE),
    ("Consistency", CONSISTENCY),
    ("Blocking", BLOCKING),
    ("Filter", FILTER),
    ("Nodes", NODES),
];

/// The name of a shared group.
fn group_name(group: &[Param]) -> Option<&'static str> {
    let is = |known: &[Param]| {
        known.len() == group.len() && known.iter().zip(group).all(|(a, b)| a.name == b.name)
    };
    GROUPS.iter().find(|(_, known)| is(known)).map(|(name, _)| *name)
}

/// The options that only this method has, and the names of the groups that it shares.
fn split_options(endpoint: &Endpoint) -> (Vec<&'static Param>, Vec<&'static str>) {
    let mut own = Vec::new();
    let mut shared = Vec::new();
    for group in endpoint.options {
        match group_name(group) {
            Some(name) => shared.push(name),
            None => own.extend(group.iter()),
        }
    }
    (own, shared)
}

/// The older names, with what they are now.
const ALIASES: &[(&str, &str, &str)] = &[
    (
        "register_service",
        "register_service(id, name, address, port, tags)",
        "`agent_service_register`; also `(name, address, port, tags)` and one table. It attaches no check unless asked.",
    ),
    ("deregister_service", "deregister_service(id)", "`agent_service_deregister`"),
    (
        "discover_services",
        "discover_services(name, options)",
        "the passing instances of `health_service`, each `{ id, name, address, port, tags, meta, node }`",
    ),
    (
        "create_session",
        "create_session(name, ttl)",
        "`session_create`; the response prints as JSON, answers string methods and has `id`",
    ),
    ("destroy_session", "destroy_session(session)", "`session_destroy`"),
    (
        "http_request",
        "http_request(method, path, body, params, options)",
        "any request; gives the answer's body",
    ),
];

/// The methods that make calls of other methods, in Markdown.
const MANY_CALLS: &str = "
## Many calls at once

[Concurrency](concurrency.md) shows how they are used. A call is named by its method: those above, and
`http_request`.

### batch(calls, options)

Makes many calls on the calling thread, some of them in flight at once.

| parameter | takes | |
|---|---|---|
| `calls` | a list of calls (required) | Each is a list of a method's name and its arguments: `{ \"kv_put\", \"key\", \"value\", { cas = 1 } }`. |
| `concurrency` | an integer from 1 to 64 | How many are in flight at once. Default 64. |
| `timeout_ms` | a positive number of milliseconds | The longest the batch may take; what is not answered then fails with `timeout`. Default: as long as the calls' own timeouts allow. |

Gives a list of outcomes in the order of the calls: `{ ok = true, value = …, meta = … }` or
`{ ok = false, message = …, err = … }`. A misuse in any of the calls is raised before anything is sent.

### start(method, …)

Starts a call with these arguments in the background, and gives a handle on it. At most `max_connections` calls
of a client are in flight in the background; the others wait for their turn, at most for as long as their timeout. It
raises what the call would raise; any other failure is the handle's result.

| method of a handle | gives |
|---|---|
| `poll()` | false while the call runs; then `true, success, response, extra`, as often as it is asked |
| `wait(timeout_ms)` | the same, after waiting for the call; without `timeout_ms` until it is done |
| `fd()` | a descriptor that is readable once the call is done, for poll(2); it is not to be read or closed. False, a message and an error when the process has none left |
| `cancel()` | true; ends the call: unless it is done already it has failed with `closed`. A write may have been done |
| `close()` | true; cancels, and gives the descriptor back. So does the garbage collector, and in Lua 5.4 the end of a `<close>` variable's scope |
";

/// Watches and service views, in Markdown.
const WATCHES: &str = "
## Watches and service views

[Watches and service views](watches.md) shows how they are used.

### watch(method, …)

Watches what a method with blocking queries reads, with these arguments; the last one is a table of its options and of
those of the watch. It raises what the call would raise. The options `index`, `hash`, `timeout_ms` and `retry` are the
watch's own. Fails with `argument`, `closed`, and with `config` when the client has as many watches as connections.

| parameter | takes | |
|---|---|---|
| `rate_per_s` | a number above 0 | The most states that are asked for in a second. Default 20. |
| `wait` | a duration (a number of seconds or a string such as \"1m30s\", up to 600 seconds) | The longest that one query waits on the server. Default 1 minute. |

| method of a watch | gives |
|---|---|
| `next(timeout_ms)` | `true, change, meta`, after waiting for a change; true alone when the time is over first; `false, message, err` when an outage begins, after which the watch goes on, and with `closed` when it has ended |
| `poll()` | the same, without waiting |
| `changes()` | an iterator over the changes until the watch ends, which passes over outages: `for change, meta in watch:changes() do` |
| `fd()` | a descriptor that is readable as long as there is something, for poll(2); it is not to be read or closed |
| `close()` | true; ends the watch. So do the garbage collector, `client:close()` and in Lua 5.4 the end of a `<close>` variable's scope |

A change is a table `{ type, id, value }`; `type` is `initial`, `put`, `delete` or `resynchronised`.

### service_view(service, options)

The instances of a service, kept up to date in the background. It takes the options of `health_service` but for those of
a blocking query, and fails as `watch`.

| parameter | takes | |
|---|---|---|
| `service` | a non-empty string (required) | The service's name. |
| `empty_hold_s` | a duration (a number of seconds or a string such as \"1m30s\") | How long an answer without instances is not believed right after an outage. Default 30. |

| method of a view | gives |
|---|---|
| `ready(timeout_ms)` | true, after waiting for Consul's first answer; without `timeout_ms` until there is one |
| `pick()` | the instance whose turn it is by weight; fails with `not_found` when there is none |
| `pick(key)` | the instance that a string belongs to on a consistent hash ring; fails as `pick()` |
| `all()` | a list of the instances that pass or warn, each `{ id, name, address, port, tags, meta, node, status, weight }`, not to be changed |
| `age_s()` | how many seconds ago Consul said that these are the instances |
| `close()` | true; ends the view. So do the garbage collector, `client:close()` and in Lua 5.4 the end of a `<close>` variable's scope |

Before the first answer they fail with the reason that there is none (`timeout` when it is only awaited), and after the
end with `closed`: `false, message, err`. No call but `ready` waits, and none sends anything.
";

/// Locks and semaphores, in Markdown.
const LOCKS: &str = "
## Locks and semaphores

[Coordination](coordination.md) says what they promise and how to choose a profile. What keeps them goes on in the
background, whatever the program does; a client has one service and one TTL check for all of its locks of a profile.

### lock(key, options)

A lock on a key. Nothing is sent yet.

| parameter | takes | |
|---|---|---|
| `key` | a non-empty string (required) | The key. |
| `value` | a string, number, boolean or table | The key's value while the lock is held, for people and programs to read. Default: the value that it has. |
| `profile` | one of default, fast, wan, or a table | How fast a crash is noticed against how long a stall is borne. A table says in what it differs from the default: `beat_ms`, `check_ttl_ms`, `drift`, `in_flight_ms`, `lease_ms`, `lock_delay_ms` (default: the shortest that is safe), `session_ttl_s`. |

### semaphore(prefix, limit, options)

A permit of the semaphore under a prefix, of which there are `limit`; all contenders must say the same. The options are
those of a lock; `value` is that of the contender's key.

| method of a lock or semaphore | gives |
|---|---|
| `acquire(options)` | true and the fencing token, after waiting for it: for ever, at most `wait_s` seconds, or with `try = true` not at all. Fails with `conflict` when it is held by others and was tried once, when this client holds it or waits for it already, and when the key is no lock; with `timeout` when the wait is over; else as `txn` |
| `start(options)` | true at once; waits in the background, and `acquired` or `failed` is an event |
| `is_held()` | whether it may be acted upon now. This asks nobody: it is true up to a moment that the last proof fixed |
| `remaining_ms()` | for how long that is so without a further proof; 0 when it is not held |
| `token()` | the fencing token, which grows with every grant, whoever gets it: a number when that is exact, else a decimal string; nil when nothing is held. While it is suspended the token stays |
| `fenced_put(key, value)` | true and the modify index, after writing another key on condition that this is held, which Consul itself checks; fails with `conflict` when it is not |
| `release()` | true; gives it up, so that the next one has it at once, or waits for it no more. Fails with `conflict` when it is not held |
| `poll()` | the next event and what there is to say of it; nil when there is none |
| `next_event(timeout_ms)` | the same, after waiting for it; nil when the time is over, or at once when nothing is held or waited for |
| `events()` | an iterator over the events, which ends when nothing is held or waited for: `for event, detail in lock:events() do` |
| `fd()` | a descriptor that is readable as long as there is an event, for poll(2); it is not to be read or closed |
| `profile()` | a table of all times that it goes by, chosen and derived |
| `close()` | true; releases it, waiting a second for that at most. So do the garbage collector, the end of the Lua state, `client:close()` and in Lua 5.4 the end of a `<close>` variable's scope |

| event | what has happened | detail |
|---|---|---|
| `acquired` | what `start` waited for is held | the token |
| `failed` | it was not acquired | the error |
| `suspended` | the time of the last proof is over: nothing may be done under it any more, unless `resumed` follows | |
| `resumed` | there is a proof again, of the same grant: it was held all the while | |
| `lost` | it is gone; nothing follows | why |

A forked child has none of its parent's locks: there they are not held, and their methods fail with `closed`.
";

/// The reference for people, in Markdown.
pub fn api_md() -> String {
    let mut page = String::from(
        "# Methods\n\n\
         Made from the table in `src/wire` by `make docs`; do not edit.\n\n\
         A method takes its arguments in order and then, optionally, a table of options. It returns\n\
         `true, value, meta`, or `false, message, err`; the [README](../README.md#results-and-errors)\n\
         says what they are. Where a method names a Consul version, older servers answer `unsupported`.\n\n\
         Every method takes these options:\n\n",
    );
    parameters(&mut page, COMMON.iter());
    page.push_str("\nThese groups of options are shared; a method names those that it takes:\n");
    for (name, group) in GROUPS {
        let _ = write!(page, "\n**{name}**\n\n");
        parameters(&mut page, group.iter());
    }
    page.push_str(
        "\nEvery method can fail with `argument`, `connect`, `timeout`, `tls`, `http`, `permission_denied`,\n\
         `acl_not_found`, `rate_limited`, `no_leader`, `decode` and `closed`; what else it can fail with is\n\
         said with it.\n",
    );
    for (title, endpoints) in AREAS {
        let _ = write!(page, "\n## {title}\n");
        for endpoint in *endpoints {
            section(&mut page, endpoint);
        }
    }
    page.push_str(MANY_CALLS);
    page.push_str(WATCHES);
    page.push_str(LOCKS);
    page.push_str("\n## Older names\n\n| call | is |\n|---|---|\n");
    for (_, call, is) in ALIASES {
        let _ = writeln!(page, "| `{call}` | {is} |");
    }
    page
}

fn section(page: &mut String, endpoint: &Endpoint) {
    let Endpoint { name, path, doc, .. } = endpoint;
    let names: Vec<_> = endpoint.positional.iter().map(|param| param.name).collect();
    let verb = http::Method::from(endpoint.method);
    let fixed = if endpoint.fixed_query.is_empty() { "" } else { "?" };
    let _ = write!(page, "\n### {name}({})\n\n{doc}\n\n", names.join(", "));
    let _ = write!(page, "`{verb} {path}{fixed}{}`", endpoint.fixed_query);
    if let Some(version) = endpoint.since {
        let _ = write!(page, ", from Consul {version}");
    }
    let _ = writeln!(page, ". {}", repeat(endpoint));
    let (own, shared) = split_options(endpoint);
    if !endpoint.positional.is_empty() || !own.is_empty() {
        page.push('\n');
        parameters(page, endpoint.positional.iter().chain(own));
    }
    if !shared.is_empty() {
        let _ = write!(page, "\nShared options: {}.\n", shared.join(", "));
    }
    for param in endpoint.positional {
        let (Shape::Object(fields) | Shape::Objects(fields)) = param.kind else { continue };
        let _ = write!(page, "\nFields of `{}`:\n\n", param.name);
        field_list(page, fields, 0);
    }
    let _ = write!(page, "\nGives {}.", value(endpoint));
    let errors = errors(endpoint);
    if !errors.is_empty() {
        let _ = write!(page, " Fails also with {}.", errors.join(", "));
    }
    page.push('\n');
}

fn repeat(endpoint: &Endpoint) -> &'static str {
    match endpoint.repeat {
        Repeat::Read => "It changes nothing and is retried.",
        Repeat::Once => "It is sent again only when the server cannot have acted on it.",
        Repeat::Idempotent if guards(endpoint) => {
            "It is retried, but with a guarding option only when the server cannot have seen it."
        }
        Repeat::Idempotent => "It is retried.",
    }
}

fn guards(endpoint: &Endpoint) -> bool {
    endpoint.all_options().any(|param| param.guards.is_some())
}

fn parameters(page: &mut String, params: impl Iterator<Item = &'static Param>) {
    page.push_str("| parameter | takes | |\n|---|---|---|\n");
    for param in params {
        let optional = if param.optional { "" } else { " (required)" };
        let _ = writeln!(
            page,
            "| `{}` | {}{optional} | {} |",
            param.name,
            param.kind.wanted(),
            param.doc
        );
    }
}

fn field_list(page: &mut String, fields: &[Field], depth: usize) {
    for field in fields {
        let indent = "  ".repeat(depth);
        let _ =
            writeln!(page, "{indent}- `{}`: {}; {}", field.name, field.kind.wanted(), field.doc);
        if let Shape::Object(inner) | Shape::Objects(inner) | Shape::ObjectMap(inner) = field.kind {
            field_list(page, inner, depth + 1);
        }
    }
}

/// What a success gives, in words.
fn value(endpoint: &Endpoint) -> String {
    let absent = match endpoint.absent {
        Absent::Null => ", nil when it does not exist",
        Absent::EmptyList => ", empty when there is nothing",
        Absent::Error | Absent::Done | Absent::SessionInvalid => "",
    };
    let value = match endpoint.reply {
        Reply::Json => "what Consul answers, with its field names",
        Reply::Member(name) => return format!("the string `{name}`"),
        Reply::FirstItem => "what Consul answers, with its field names, nil when there is none",
        Reply::KvValue => "the value as a string of bytes; the entry's other fields are in `meta`",
        Reply::KvEntries => {
            "a list of entries with Consul's field names, `Value` as a string of bytes"
        }
        Reply::Events => {
            "what Consul answers, with its field names, `Payload` as a string of bytes"
        }
        Reply::Applied | Reply::Done => "true",
        Reply::Txn => "a list of results, `KV.Value` as a string of bytes",
        Reply::Body => "the answer's body as a string of bytes",
    };
    format!("{value}{absent}")
}

/// The kinds of error that only some methods have.
fn errors(endpoint: &Endpoint) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    if endpoint.absent == Absent::Error && endpoint.path.contains('{') {
        kinds.push("`not_found`");
    }
    if endpoint.absent == Absent::SessionInvalid || endpoint.name == "kv_put" {
        kinds.push("`session_invalid`");
    }
    if guards(endpoint) {
        kinds.push("`conflict`");
    }
    if endpoint.reply == Reply::Txn {
        kinds.push("`txn_failed`");
    }
    if endpoint.reply == Reply::Txn || endpoint.name == "kv_put" {
        kinds.push("`too_large`");
    }
    if endpoint.since.is_some() {
        kinds.push("`unsupported`");
    }
    kinds
}

/// The annotations for the Lua language server; `config` is the class of a client's configuration.
pub fn lua_meta(config: &str) -> String {
    let mut file = String::from(LUA_HEAD);
    file.push_str(config);
    for (name, group) in [("Options", COMMON)].iter().chain(GROUPS) {
        let _ = write!(file, "\n---@class consul_ffi.{name}\n");
        fields(&mut file, group.iter());
    }
    for (title, endpoints) in AREAS {
        let _ = write!(file, "\n-- {title}\n");
        for endpoint in *endpoints {
            method(&mut file, endpoint);
        }
    }
    file.push_str(LUA_TAIL);
    file
}

fn fields(file: &mut String, params: impl IntoIterator<Item = &'static Param>) {
    for Param { name, kind, doc, .. } in params {
        let _ = writeln!(file, "---@field {name}? {} {doc}", lua_type(kind, 0));
    }
}

fn method(file: &mut String, endpoint: &Endpoint) {
    let name = endpoint.name;
    let (own, shared) = split_options(endpoint);
    let bases: String = shared.iter().map(|group| format!(", consul_ffi.{group}")).collect();
    let _ = write!(file, "\n---@class consul_ffi.{name}.options: consul_ffi.Options{bases}\n");
    fields(file, own);
    let _ = write!(file, "\n---{}\n", endpoint.doc);
    if let Some(version) = endpoint.since {
        let _ = writeln!(file, "---From Consul {version}.");
    }
    for param in endpoint.positional {
        let optional = if param.optional { "?" } else { "" };
        let _ = writeln!(
            file,
            "---@param {}{optional} {} {}",
            param.name,
            lua_type(&param.kind, 0),
            param.doc
        );
    }
    let _ = writeln!(file, "---@param options? consul_ffi.{name}.options");
    let _ = writeln!(file, "---@return boolean success");
    let _ = writeln!(
        file,
        "---@return {} response the value, or the message of a failure",
        lua_value(endpoint)
    );
    let _ = writeln!(file, "---@return consul_ffi.Meta|consul_ffi.Error extra");
    let mut names: Vec<_> = endpoint.positional.iter().map(|param| param.name).collect();
    names.push("options");
    let _ = writeln!(file, "function ConsulClient:{name}({}) end", names.join(", "));
}

fn lua_value(endpoint: &Endpoint) -> &'static str {
    match endpoint.reply {
        Reply::KvValue => "string?",
        Reply::KvEntries => "consul_ffi.KvEntry[]|string",
        Reply::Applied | Reply::Done => "true|string",
        Reply::Member(_) | Reply::Body => "string",
        Reply::Json | Reply::FirstItem | Reply::Events | Reply::Txn => "any",
    }
}

/// How deep a table's fields are spelled out; below, it is a table.
const SPELLED_DEPTH: usize = 3;

fn lua_type(shape: &Shape, depth: usize) -> String {
    match shape {
        Shape::Text
        | Shape::TextOrEmpty
        | Shape::Key
        | Shape::KeyPrefix
        | Shape::EncodedPath
        | Shape::Base64 => "string".to_owned(),
        Shape::Payload => "string|number|boolean|table".to_owned(),
        Shape::Bool | Shape::Flag => "boolean".to_owned(),
        Shape::Uint => "integer|string".to_owned(),
        Shape::Int => "integer".to_owned(),
        Shape::Duration { .. } => "number|string".to_owned(),
        Shape::Millis => "number".to_owned(),
        Shape::OneOf(names) => {
            names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join("|")
        }
        Shape::TextList => "string|string[]".to_owned(),
        Shape::TextMap => "table<string, string>".to_owned(),
        Shape::TextListMap => "table<string, string[]>".to_owned(),
        Shape::Object(fields) if depth < SPELLED_DEPTH => table(fields, depth),
        Shape::Objects(fields) if depth < SPELLED_DEPTH => format!("{}[]", table(fields, depth)),
        Shape::ObjectMap(fields) if depth < SPELLED_DEPTH => {
            format!("table<string, {}>", table(fields, depth))
        }
        Shape::Objects(_) => "table[]".to_owned(),
        Shape::Object(_) | Shape::ObjectMap(_) | Shape::Any => "table".to_owned(),
    }
}

fn table(fields: &[Field], depth: usize) -> String {
    let fields =
        fields.iter().map(|field| format!("{}?: {}", field.name, lua_type(&field.kind, depth + 1)));
    format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
}

const LUA_HEAD: &str = r#"---@meta consul_ffi
-- Made from the table in src/wire by `make docs`; do not edit.

---What a success says about itself.
---@class consul_ffi.Meta
---@field index? integer|string the index to wait for a change from
---@field known_leader? boolean
---@field last_contact_ms? integer
---@field content_hash? string
---@field cache? "HIT"|"MISS"
---@field age_s? integer
---@field backend? string
---@field request_ms number
---@field endpoint string
---@field attempts integer
---@field stale boolean whether any server may be its source (`stale_if_error`)
---@field flags? integer|string
---@field session? string
---@field lock_index? integer|string
---@field create_index? integer|string
---@field modify_index? integer|string

---Why a call failed.
---@class consul_ffi.Error
---@field kind "argument"|"config"|"connect"|"timeout"|"tls"|"http"|"not_found"|"permission_denied"|"acl_not_found"|"rate_limited"|"no_leader"|"conflict"|"txn_failed"|"session_invalid"|"too_large"|"decode"|"closed"|"unsupported"
---@field message string
---@field status? integer
---@field retryable boolean whether the same call may succeed later
---@field maybe_applied boolean false when the request certainly changed nothing
---@field endpoint? string
---@field attempts integer
---@field operations? { index: integer, what: string }[]

---@class consul_ffi.KvEntry
---@field Key string
---@field Value string
---@field Flags integer|string
---@field Session? string
---@field LockIndex integer|string
---@field CreateIndex integer|string
---@field ModifyIndex integer|string

---@class consul_ffi.ConsulClient
---@field initialized boolean true until the client is closed
---@field consul_url string
---@field timeout integer milliseconds
---@field simulate boolean
local ConsulClient = {}

---A client; the same as consul_ffi.new.
---@param config? consul_ffi.ConsulConfig
---@return consul_ffi.ConsulClient
function ConsulClient:new(config) end

---Closes the client; calls after it fail. It may be called again.
function ConsulClient:close() end

---The older name of close.
function ConsulClient:destroy() end

---Any request; gives the answer's body.
---@param method "GET"|"PUT"|"POST"|"DELETE"
---@param path string the path as it goes to the server, encoded
---@param body? string|number|boolean|table
---@param params? table<string, any> the query's parameters; true stands for one without a value
---@param options? consul_ffi.Options
---@return boolean success
---@return string response the body, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:http_request(method, path, body, params, options) end

---@class consul_ffi.batch.options
---@field concurrency? integer how many calls are in flight at once, 1 to 64; default 64
---@field timeout_ms? number the longest the batch may take

---What came of one call of a batch.
---@class consul_ffi.Outcome
---@field ok boolean
---@field value any of a success
---@field meta? consul_ffi.Meta of a success
---@field message? string of a failure
---@field err? consul_ffi.Error of a failure

---Makes many calls on the calling thread, some of them in flight at once. Raises when any of them is misused,
---before anything is sent.
---@param calls any[][] each a method's name and its arguments: { "kv_get", "key", { stale = true } }
---@param options? consul_ffi.batch.options
---@return boolean success
---@return consul_ffi.Outcome[]|string response the outcomes in the order of the calls, or the message of a failure
---@return consul_ffi.Error? err
function ConsulClient:batch(calls, options) end

---Starts a call in the background.
---@param method string the method's name
---@param ... any its arguments
---@return consul_ffi.Handle
function ConsulClient:start(method, ...) end

---A call in the background.
---@class consul_ffi.Handle
local Handle = {}

---Whether the call is done, and then its results.
---@return boolean done
---@return boolean? success
---@return any response
---@return consul_ffi.Meta|consul_ffi.Error|nil extra
function Handle:poll() end

---Waits for the call, then as poll.
---@param timeout_ms? number the longest wait; nil: until the call is done
---@return boolean done
---@return boolean? success
---@return any response
---@return consul_ffi.Meta|consul_ffi.Error|nil extra
function Handle:wait(timeout_ms) end

---A descriptor that is readable once the call is done; it is not to be read or closed.
---@return integer|false fd
---@return string? message
---@return consul_ffi.Error? err
function Handle:fd() end

---Ends the call: unless it is done already it has failed with kind closed.
---@return true
function Handle:cancel() end

---Cancels, and gives the descriptor back.
---@return true
function Handle:close() end

---@class consul_ffi.Change
---@field type "initial"|"put"|"delete"|"resynchronised"
---@field id? string which of several things has changed
---@field value any what it is, or was before a delete; the whole value for initial and resynchronised

---Watches what a method with blocking queries reads.
---@param method string the method's name
---@param ... any its arguments; the last one is a table of its options, with rate_per_s and wait of the watch
---@return consul_ffi.Watch|false watch
---@return string? message
---@return consul_ffi.Error? err
function ConsulClient:watch(method, ...) end

---What becomes of what a method reads.
---@class consul_ffi.Watch
local Watch = {}

---The next change, after waiting for it; success alone when the time is over first.
---@param timeout_ms? number the longest wait; nil: until there is one
---@return boolean success false when an outage begins, or with kind closed when the watch has ended
---@return consul_ffi.Change|string|nil response the change, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error|nil extra
function Watch:next(timeout_ms) end

---The next change when there is one, as next.
---@return boolean success
---@return consul_ffi.Change|string|nil response
---@return consul_ffi.Meta|consul_ffi.Error|nil extra
function Watch:poll() end

---The changes until the watch ends; outages are passed over.
---@return fun(): consul_ffi.Change?, consul_ffi.Meta?
function Watch:changes() end

---A descriptor that is readable as long as there is something; it is not to be read or closed.
---@return integer|false fd
---@return string? message
---@return consul_ffi.Error? err
function Watch:fd() end

---Ends the watch.
---@return true
function Watch:close() end

---@class consul_ffi.service_view.options: consul_ffi.health_service.options
---@field empty_hold_s? number|string how long an answer without instances is not believed right after an outage; default 30

---The instances of a service, kept up to date in the background.
---@param service string
---@param options? consul_ffi.service_view.options
---@return consul_ffi.ServiceView|false view
---@return string? message
---@return consul_ffi.Error? err
function ConsulClient:service_view(service, options) end

---An instance of a service; not to be changed.
---@class consul_ffi.Instance
---@field id string
---@field name string
---@field address string its own, or its node's
---@field port integer 0 when it registered none
---@field tags string[]
---@field meta table<string, string>
---@field node string
---@field status "passing"|"warning"
---@field weight integer

---A service's instances, without a request for each answer.
---@class consul_ffi.ServiceView
local ServiceView = {}

---Waits for Consul's first answer.
---@param timeout_ms? number the longest wait; nil: until there is one
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ServiceView:ready(timeout_ms) end

---The instance whose turn it is by weight, or the one that a key belongs to.
---@param key? string
---@return consul_ffi.Instance|false instance
---@return string? message
---@return consul_ffi.Error? err
function ServiceView:pick(key) end

---The instances that pass or warn.
---@return consul_ffi.Instance[]|false instances
---@return string? message
---@return consul_ffi.Error? err
function ServiceView:all() end

---How many seconds ago Consul said that these are the instances.
---@return number|false age_s
---@return string? message
---@return consul_ffi.Error? err
function ServiceView:age_s() end

---Ends the view.
---@return true
function ServiceView:close() end

---@class consul_ffi.profile
---@field beat_ms? number
---@field check_ttl_ms? number
---@field drift? number
---@field in_flight_ms? number
---@field lease_ms? number
---@field lock_delay_ms? number
---@field session_ttl_s? number

---@class consul_ffi.lock.options
---@field value? string|number|boolean|table the key's value while the lock is held
---@field profile? "default"|"fast"|"wan"|consul_ffi.profile

---@class consul_ffi.acquire.options
---@field wait_s? number how long to wait; nil: for ever
---@field try? boolean true: not to wait at all

---A lock on a key; nothing is sent yet.
---@param key string
---@param options? consul_ffi.lock.options
---@return consul_ffi.Lock|false lock
---@return string? message
---@return consul_ffi.Error? err
function ConsulClient:lock(key, options) end

---A permit of the semaphore under a prefix; nothing is sent yet.
---@param prefix string
---@param limit integer how many permits there are; all contenders must say the same
---@param options? consul_ffi.lock.options
---@return consul_ffi.Lock|false semaphore
---@return string? message
---@return consul_ffi.Error? err
function ConsulClient:semaphore(prefix, limit, options) end

---A lock, or a permit of a semaphore.
---@class consul_ffi.Lock
local Lock = {}

---Waits until it is held.
---@param options? consul_ffi.acquire.options
---@return boolean success
---@return number|string response the fencing token, or the message of a failure
---@return consul_ffi.Error? err
function Lock:acquire(options) end

---Waits in the background; acquired or failed is an event.
---@param options? consul_ffi.acquire.options
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function Lock:start(options) end

---Whether it may be acted upon now; asks nobody.
---@return boolean
function Lock:is_held() end

---For how long it may be acted upon without a further proof.
---@return number
function Lock:remaining_ms() end

---The fencing token; nil when nothing is held.
---@return number|string|nil
function Lock:token() end

---Writes another key on condition that this is held, which Consul itself checks.
---@param key string
---@param value string|number|boolean|table
---@return boolean success
---@return number|string response the modify index of the write, or the message of a failure
---@return consul_ffi.Error? err
function Lock:fenced_put(key, value) end

---Gives it up, or waits for it no more.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function Lock:release() end

---The next event, when there is one.
---@return "acquired"|"failed"|"suspended"|"resumed"|"lost"|nil event
---@return any detail the token, the error, or why it was lost
function Lock:poll() end

---The next event, after waiting for it.
---@param timeout_ms? number the longest wait; nil: until there is one or nothing is held or waited for
---@return "acquired"|"failed"|"suspended"|"resumed"|"lost"|nil event
---@return any detail the token, the error, or why it was lost
function Lock:next_event(timeout_ms) end

---The events as they happen, until nothing is held or waited for.
---@return fun(): string?, any
function Lock:events() end

---A descriptor that is readable as long as there is an event; it is not to be read or closed.
---@return integer|false fd
---@return string? message
---@return consul_ffi.Error? err
function Lock:fd() end

---All times that it goes by, chosen and derived.
---@return table<string, string|number>
function Lock:profile() end

---Releases it, waiting a second for that at most.
---@return true
function Lock:close() end
"#;

const LUA_TAIL: &str = r#"
---@class consul_ffi
---@field _VERSION string
---@field ConsulClient consul_ffi.ConsulClient
local consul_ffi = {}

---A client; raises when the configuration is not acceptable, and touches no network.
---@param config? consul_ffi.ConsulConfig
---@return consul_ffi.ConsulClient
function consul_ffi.new(config) end

return consul_ffi
"#;
