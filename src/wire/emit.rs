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

/// What is said of methods that are in no row, because they make calls of other methods or none.
const SECTIONS: &[&str] = &[
    include_str!("emit/many_calls.md"),
    include_str!("emit/watches.md"),
    include_str!("emit/locks.md"),
    include_str!("emit/ring.md"),
    include_str!("emit/cluster.md"),
    include_str!("emit/texts.md"),
];

/// The annotations around those of the rows.
const LUA_HEAD: &str = include_str!("emit/head.d.lua");
const LUA_TAIL: &str = include_str!("emit/tail.d.lua");

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
    for section in SECTIONS {
        let _ = write!(page, "\n{section}");
    }
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
    let _ = write!(file, "\n{LUA_TAIL}");
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
