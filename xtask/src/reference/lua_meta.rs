//! `lua/meta/library/consul_ffi.d.lua`: annotations for the Lua language server.

use super::endpoints::{GROUPS, split_options, value};
use super::{objects, options};
use consul_api::AREAS;
use consul_api::error::Kind;
use consul_api::table::{Absent, COMMON, Endpoint, Field, Param, Reply, Shape};
use consul_client::coordination::Profile;
use std::fmt::Write;

/// The classes of Consul's answers.
const ANSWERS: &str = include_str!("texts/annotations/answers.d.lua");

/// The types of the common answers, by endpoint. The others are `any`.
const TYPES: &[(&str, &str)] = &[
    ("kv_keys", "string[]"),
    ("txn", "consul_ffi.TxnResult[]"),
    ("session_info", "consul_ffi.SessionEntry?"),
    ("session_node", "consul_ffi.SessionEntry[]"),
    ("session_list", "consul_ffi.SessionEntry[]"),
    ("session_renew", "consul_ffi.SessionEntry"),
    ("agent_services", "table<string, consul_ffi.NodeService>"),
    ("agent_service", "consul_ffi.NodeService"),
    ("agent_checks", "table<string, consul_ffi.HealthCheck>"),
    ("agent_members", "consul_ffi.AgentMember[]"),
    ("agent_health_service_id", "consul_ffi.AgentHealth"),
    ("agent_health_service_name", "consul_ffi.AgentHealth[]"),
    ("catalog_datacenters", "string[]"),
    ("catalog_nodes", "consul_ffi.CatalogNode[]"),
    ("catalog_services", "table<string, string[]>"),
    ("catalog_service", "consul_ffi.CatalogService[]"),
    (
        "catalog_node",
        "{ Node: consul_ffi.CatalogNode, Services: table<string, consul_ffi.NodeService> }?",
    ),
    (
        "catalog_node_services",
        "{ Node: consul_ffi.CatalogNode, Services: consul_ffi.NodeService[] }?",
    ),
    ("catalog_connect", "consul_ffi.CatalogService[]"),
    ("health_service", "consul_ffi.HealthEntry[]"),
    ("health_connect", "consul_ffi.HealthEntry[]"),
    ("health_ingress", "consul_ffi.HealthEntry[]"),
    ("health_node", "consul_ffi.HealthCheck[]"),
    ("health_checks", "consul_ffi.HealthCheck[]"),
    ("health_state", "consul_ffi.HealthCheck[]"),
    ("event_fire", "consul_ffi.UserEvent"),
    ("event_list", "consul_ffi.UserEvent[]"),
    ("coordinate_nodes", "consul_ffi.Coordinate[]"),
    ("coordinate_node", "consul_ffi.Coordinate[]"),
    ("status_leader", "string"),
    ("status_peers", "string[]"),
    ("query_execute", "consul_ffi.QueryResult"),
    ("acl_bootstrap", "consul_ffi.AclToken"),
    ("acl_login", "consul_ffi.AclToken"),
    ("acl_token_list", "consul_ffi.AclToken[]"),
    ("acl_token_self", "consul_ffi.AclToken"),
    ("acl_token_create", "consul_ffi.AclToken"),
    ("acl_token_read", "consul_ffi.AclToken"),
    ("acl_token_update", "consul_ffi.AclToken"),
    ("acl_token_clone", "consul_ffi.AclToken"),
    ("acl_policy_list", "consul_ffi.AclPolicy[]"),
    ("acl_policy_create", "consul_ffi.AclPolicy"),
    ("acl_policy_read", "consul_ffi.AclPolicy"),
    ("acl_policy_update", "consul_ffi.AclPolicy"),
    ("acl_policy_read_by_name", "consul_ffi.AclPolicy"),
    ("acl_role_list", "consul_ffi.AclRole[]"),
    ("acl_role_create", "consul_ffi.AclRole"),
    ("acl_role_read", "consul_ffi.AclRole"),
    ("acl_role_update", "consul_ffi.AclRole"),
    ("acl_role_read_by_name", "consul_ffi.AclRole"),
];

/// The file.
pub(super) fn text() -> String {
    let mut objects: Vec<_> = objects::OBJECTS.iter().map(|subject| subject.annotations).collect();
    objects.push(ANSWERS);
    let mut file = objects.join("\n");
    alias(&mut file, "ErrorKind", Kind::ALL.iter().map(|kind| (kind.name(), kind.cause())));
    let profiles = Profile::NAMED.iter().map(|named| (named.name, named.purpose));
    alias(&mut file, "ProfileName", profiles);
    file.push_str("\n---Times that differ from the profile `default`.\n");
    file.push_str("---@class consul_ffi.profile\n");
    for (name, kind, doc) in Profile::MEMBERS {
        let _ = writeln!(file, "---@field {name}? {kind} {doc}");
    }
    file.push_str(&options::lua_classes());
    for (name, group) in [("Options", COMMON)].iter().chain(GROUPS) {
        let _ = write!(file, "\n---@class consul_ffi.{name}\n");
        fields(&mut file, group.iter());
    }
    for (title, endpoints) in AREAS {
        let _ = write!(file, "\n-- {title}\n");
        endpoints.iter().for_each(|endpoint| method(&mut file, endpoint));
    }
    let _ = write!(file, "\n{}", objects::MODULE.annotations);
    file
}

/// A type of these strings, each with its meaning.
fn alias(file: &mut String, name: &str, texts: impl Iterator<Item = (&'static str, &'static str)>) {
    let _ = write!(file, "\n---@alias consul_ffi.{name}\n");
    for (text, doc) in texts {
        let _ = writeln!(file, "---| \"{text}\" # {doc}");
    }
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
    for Param { name, kind, optional, doc, .. } in endpoint.positional {
        let mark = if *optional { "?" } else { "" };
        let _ = writeln!(file, "---@param {name}{mark} {} {doc}", lua_type(kind, 0));
    }
    let _ = writeln!(file, "---@param options? consul_ffi.{name}.options");
    let doc = value(endpoint).unwrap_or_default();
    let value = format!("---@return {} value {doc}", lua_value(endpoint));
    let _ = writeln!(file, "---@return boolean success\n{}", value.trim_end());
    let _ = writeln!(file, "---@return consul_ffi.Meta|consul_ffi.Error meta");
    let mut names: Vec<_> = endpoint.positional.iter().map(|param| param.name).collect();
    names.push("options");
    let _ = writeln!(file, "function ConsulClient:{name}({}) end", names.join(", "));
}

/// The type of the value of a success. That of a failure is a string: as a type of its own it would have language servers
/// mark each use of a list or a table, as if the program had not looked at the success.
fn lua_value(endpoint: &Endpoint) -> String {
    let known = TYPES.iter().find(|(name, _)| *name == endpoint.name);
    let kind = match (endpoint.reply, known) {
        (Reply::KvValue, _) => "string?",
        (Reply::KvEntries, _) => "consul_ffi.KvEntry[]",
        (Reply::Applied | Reply::Done, _) => "true|string",
        (Reply::Member(_) | Reply::Body | Reply::Archive, _) => "string",
        (_, Some((_, kind))) if endpoint.absent == Absent::Null => return format!("{kind}?"),
        (_, Some((_, kind))) => kind,
        (Reply::Json | Reply::FirstItem | Reply::Events | Reply::Txn, None) => "any",
    };
    kind.to_owned()
}

/// The depth to which the fields of tables are spelled out; below, a table is just a table.
const SPELLED_DEPTH: usize = 3;

fn lua_type(shape: &Shape, depth: usize) -> String {
    match shape {
        Shape::Text
        | Shape::Name
        | Shape::Segment
        | Shape::TextOrEmpty
        | Shape::Key
        | Shape::KeyPrefix
        | Shape::EncodedPath => "string".to_owned(),
        Shape::Payload | Shape::Base64 => "string|number|boolean|table".to_owned(),
        Shape::Bool | Shape::Flag => "boolean".to_owned(),
        Shape::Uint | Shape::Port => "integer|string".to_owned(),
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
        Shape::Object(_) | Shape::ObjectMap(_) | Shape::Free(_) | Shape::Any => "table".to_owned(),
        Shape::NotSent => "any".to_owned(),
    }
}

fn table(fields: &[Field], depth: usize) -> String {
    let fields =
        fields.iter().map(|field| format!("{}?: {}", field.name, lua_type(&field.kind, depth + 1)));
    format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_of_an_answer_is_that_of_an_endpoint() {
        for (name, _) in TYPES {
            let mut endpoints = AREAS.iter().flat_map(|(_, endpoints)| endpoints.iter());
            let found = endpoints.find(|it| it.name == *name);
            let found = found.unwrap_or_else(|| panic!("{name}: there is no such endpoint"));
            assert!(!matches!(found.reply, Reply::Applied | Reply::Done), "{name}");
        }
    }
}
