//! `lua/meta/consul_ffi.d.lua`: annotations for the Lua language server.

use super::endpoints::{GROUPS, split_options, value};
use super::{objects, options};
use crate::client::coordination::Profile;
use crate::error::Kind;
use crate::wire::AREAS;
use crate::wire::table::{COMMON, Endpoint, Field, Param, Reply, Shape};
use std::fmt::Write;

/// The file.
pub(super) fn text() -> String {
    let objects: Vec<_> = objects::OBJECTS.iter().map(|subject| subject.annotations).collect();
    let mut file = objects.join("\n");
    alias(&mut file, "ErrorKind", Kind::ALL.iter().map(|kind| (kind.name(), kind.cause())));
    let profiles = Profile::NAMED.iter().map(|named| (named.name, named.purpose));
    alias(&mut file, "ProfileName", profiles);
    file.push_str("\n---Times that differ from those of the profile `default`.\n");
    file.push_str("---@class consul_ffi.profile\n");
    for (name, doc) in Profile::TIMES {
        let _ = writeln!(file, "---@field {name}? number {doc}");
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

fn lua_value(endpoint: &Endpoint) -> &'static str {
    match endpoint.reply {
        Reply::KvValue => "string?",
        Reply::KvEntries => "consul_ffi.KvEntry[]|string",
        Reply::Applied | Reply::Done => "true|string",
        Reply::Member(_) | Reply::Body => "string",
        Reply::Json | Reply::FirstItem | Reply::Events | Reply::Txn => "any",
    }
}

/// The depth to which the fields of tables are spelled out; below, a table is just a table.
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
        Shape::Object(_) | Shape::ObjectMap(_) | Shape::Any => "table".to_owned(),
    }
}

fn table(fields: &[Field], depth: usize) -> String {
    let fields =
        fields.iter().map(|field| format!("{}?: {}", field.name, lua_type(&field.kind, depth + 1)));
    format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
}
