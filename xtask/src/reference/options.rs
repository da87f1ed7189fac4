//! The options, from their declarations: `docs/configuration.md`, and classes for the Lua language
//! server.

use super::page::Page;
use consul_config::{CLUSTER_OPTIONS, OPTIONS, STORE_OPTIONS, Setting};
use std::fmt::Write;

const INTRODUCTION: &str = include_str!("texts/prose/configuration.md");
/// Sections; the last one has a node's options.
const RULES: &str = include_str!("texts/prose/configuration_rules.md");
/// The tests that show what the page claims.
const TESTS: &str = include_str!("texts/prose/configuration_tests.md");

/// The page in Markdown.
pub(super) fn markdown() -> String {
    let mut page = Page::new(INTRODUCTION.to_owned());
    page.section("Options of a client");
    page.add(&table(OPTIONS));
    entries(&mut page, OPTIONS);
    for section in RULES.split("## ").skip(1) {
        let (title, text) = section.split_once('\n').unwrap_or((section, ""));
        page.section(title);
        page.add(text.trim());
    }
    page.add(&table(CLUSTER_OPTIONS));
    entries(&mut page, CLUSTER_OPTIONS);
    page.section("Options of replicated shards");
    page.add("The third argument of `cluster:replicate(name, storage, options)`.");
    page.add(&documented(STORE_OPTIONS));
    page.section("Tests");
    page.add(TESTS.trim());
    page.finish()
}

/// A table with what the options mean, since some have names of options of a node.
fn documented<C>(options: &[Setting<C>]) -> String {
    let mut table = "| option | takes | default | |\n|---|---|---|---|\n".to_owned();
    for Setting { name, takes, default, doc, .. } in options {
        let _ = writeln!(table, "| `{name}` | {} | {default} | {doc} |", takes.words());
    }
    table
}

fn table<C>(options: &[Setting<C>]) -> String {
    let mut table = "| option | takes | environment | default |\n|---|---|---|---|\n".to_owned();
    for Setting { name, takes, env, default, .. } in options {
        let env = env.map_or(String::new(), |env| format!("`{env}`"));
        let words = takes.words();
        let _ = writeln!(table, "| [`{name}`](#{name}) | {words} | {env} | {default} |");
    }
    table
}

fn entries<C>(page: &mut Page, options: &[Setting<C>]) {
    for Setting { name, aliases, doc, .. } in options {
        page.entry(name, name);
        page.add(doc);
        if !aliases.is_empty() {
            let names: Vec<_> = aliases.iter().map(|alias| format!("`{alias}`")).collect();
            page.add(&format!("Other names: {}.", names.join(", ")));
        }
    }
}

/// The classes of configurations for the Lua language server.
pub(super) fn lua_classes() -> String {
    let client = "\n---A program's function for lines of the log; docs/configuration.md describes it.\n\
         ---@alias consul_ffi.Log fun(level: \"DEBUG\"|\"INFO\"|\"WARN\"|\"ERROR\", message: string, \
         fields: table<string, string|number|boolean>)\n\
         \n---The options of a client; docs/configuration.md describes them.\n\
         ---@class consul_ffi.ConsulConfig\n";
    let node = "\n---The options of a cluster's node; docs/configuration.md describes them.\n\
         ---@class consul_ffi.ClusterConfig: consul_ffi.ConsulConfig\n";
    let store = "\n---The options of replicated shards; docs/configuration.md describes them.\n\
         ---@class consul_ffi.ReplicateOptions\n";
    let (of_client, of_node) = (fields(OPTIONS), fields(CLUSTER_OPTIONS));
    [client, &of_client, node, &of_node, store, &fields(STORE_OPTIONS)].concat()
}

fn fields<C>(options: &[Setting<C>]) -> String {
    let mut fields = String::new();
    for Setting { name, aliases, takes, doc, default, .. } in options {
        let lua_type = takes.lua_type();
        let default = match *default {
            "required" => "Required.".to_owned(),
            default => format!("Default: {default}."),
        };
        let _ = writeln!(fields, "---@field {name}? {lua_type} {doc} {default}");
        for alias in *aliases {
            let _ = writeln!(fields, "---@field {alias}? {lua_type} Another name of `{name}`.");
        }
    }
    fields
}
