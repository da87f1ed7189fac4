//! The generated reference in the repository is current.
//!
//! `make docs` writes it: it runs this with `UPDATE_REFERENCE` set.

use super::support::pages::read;
use consul_api::endpoints;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use xtask::reference;

#[test]
fn the_reference_is_current() {
    for (name, wanted) in reference::files() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
            fs::write(&path, &wanted).expect("the file can be written");
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == wanted, "{name} is out of date; `make docs` generates it");
    }
}

/// The entries of methods in a page: their headings, each with the text below it.
fn methods(page: &str) -> Vec<(&str, &str)> {
    let entries = page.split("\n### ").skip(1).filter_map(|entry| entry.split_once('\n'));
    entries.filter(|(heading, _)| heading.contains('(')).collect()
}

#[test]
fn each_method_says_in_one_line_what_it_returns() {
    for (name, text) in reference::files().iter().filter(|(name, _)| name.contains("docs/api")) {
        let methods = methods(text);
        assert!(methods.len() > 60, "{name} has {} methods", methods.len());
        for (heading, entry) in methods {
            let entry = entry.split("\n## ").next().unwrap_or(entry);
            let lines = entry.lines().filter(|line| line.starts_with("Returns "));
            let lines: Vec<_> = lines.collect();
            let [line] = lines[..] else { panic!("{name}: {heading}: {lines:?}") };
            let is_known = line == "Returns nothing." || line.starts_with("Returns `");
            assert!(is_known && line.ends_with('.'), "{name}: {heading}: {line}");
        }
    }
}

#[test]
fn the_quick_reference_has_each_method_once() {
    let files = reference::files();
    let (_, quick) = files.iter().find(|(name, _)| name.contains("quick")).expect("the page");
    for (page, text) in files.iter().filter(|(name, _)| name.contains("docs/api")) {
        let file = page.trim_start_matches("docs/");
        for (heading, _) in methods(text) {
            let rows = quick.matches(&format!("| [`{heading}`]({file}#")).count();
            assert_eq!(rows, 1, "{page}: {heading}");
        }
    }
}

/// The classes of objects that have methods.
const OBJECTS: &[&str] =
    &["Handle", "Watch", "ServiceView", "ServiceViews", "Lock", "ReplicatedStore"];

#[test]
fn a_method_that_creates_an_object_returns_it_alone_for_the_language_server() {
    let files = reference::files();
    let (_, annotations) =
        files.iter().find(|(name, _)| name.ends_with(".d.lua")).expect("annotations");
    let mut returns = Vec::new();
    let mut found = Vec::new();
    for line in annotations.lines() {
        if let Some(value) = line.strip_prefix("---@return ") {
            returns.push(value);
        } else if let Some(function) = line.strip_prefix("function ") {
            let is_object = |value: &&&str| {
                OBJECTS.iter().any(|class| value.starts_with(&format!("consul_ffi.{class}")))
            };
            if returns.iter().any(|value| is_object(&value)) {
                assert_eq!(returns.len(), 1, "{function}: {returns:?}");
                assert!(!returns[0].contains("|false"), "{function}: {returns:?}");
                found.push(function.split('(').next().unwrap_or_default());
            }
            returns.clear();
        }
    }
    let wanted = [
        "ConsulClient:start",
        "ConsulClient:watch",
        "ConsulClient:service_view",
        "ConsulClient:service_views",
        "ServiceViews:view",
        "ConsulClient:lock",
        "ConsulClient:semaphore",
    ];
    let mut wanted = wanted.map(str::to_owned).to_vec();
    wanted.extend(["ConsulHACluster:replicate", "ReplicatedStore:start"].map(str::to_owned));
    assert_eq!(found, wanted);
}

#[test]
fn the_table_of_results_is_in_the_reference_and_in_the_questions() {
    for page in ["docs/api.md", "docs/faq.md"] {
        let files = reference::files();
        let (_, text) = files.iter().find(|(name, _)| *name == page).expect(page);
        for form in ["`local lock = assert(client:lock(k))`", "`local ok, lock = client:lock(k)`"] {
            assert!(text.contains(form), "{page}: {form}");
        }
    }
}

#[test]
fn names_and_routes_of_endpoints_are_distinct() {
    let mut names: Vec<_> = endpoints().map(|endpoint| endpoint.name).collect();
    let mut routes: Vec<_> = endpoints()
        .map(|endpoint| (endpoint.path, endpoint.method, endpoint.fixed_query))
        .collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    routes.sort_unstable();
    routes.dedup();
    assert_eq!((names.len(), routes.len()), (count, count));
}

#[test]
fn no_function_has_two_arguments_of_one_name() {
    let files = reference::files();
    let (_, annotations) =
        files.iter().find(|(name, _)| name.ends_with(".d.lua")).expect("annotations");
    let mut functions = 0;
    for function in annotations.lines().filter(|line| line.starts_with("function ")) {
        let names = function.split(['(', ')']).nth(1).unwrap_or_default();
        let mut names: Vec<_> = names.split(", ").collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{function}");
        functions += 1;
    }
    assert!(functions > 200, "{functions} functions");
}

#[test]
fn the_comparison_with_other_clients_names_what_exists() {
    let page = read("docs/comparison.md");
    let meta = read("lua/meta/library/consul_ffi.d.lua");
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words: BTreeSet<_> = meta.split(|c| !is_name(c)).collect();
    let mut named = 0;
    let (tables, _) = page.split_once("\n## Tests\n").expect("a table of tests");
    for row in tables.lines().filter(|line| line.starts_with('|')) {
        let ours = row.split('|').nth(2).unwrap_or_default();
        for code in ours.split('`').skip(1).step_by(2).filter(|code| *code != "consul-sim") {
            for word in code.split(|c| !is_name(c)).filter(|word| !word.is_empty()) {
                assert!(words.contains(word), "{row}: there is no {word}");
                named += 1;
            }
        }
    }
    assert!(named > 10, "{named} names");
}

/// As the Lua language server reads it: `words` are the patterns by which it offers the addon for a file.
#[test]
fn the_annotations_are_an_addon_for_each_module() {
    let config: serde_json::Value =
        serde_json::from_str(&read("lua/meta/config.json")).expect("JSON");
    assert_eq!(config["name"], "consul_ffi");
    let words = config["words"].as_array().expect("a list");
    for file in fs::read_dir("lua/meta/library").expect("a folder") {
        let file = file.expect("an entry").file_name().into_string().expect("a name");
        let module = file.trim_end_matches(".d.lua");
        let is_offered =
            |word: &serde_json::Value| word.as_str().is_some_and(|it| it.ends_with(module));
        assert!(words.iter().any(is_offered), "{file}");
    }
}

#[test]
fn each_picture_that_is_drawn_is_on_a_page_and_has_dark_colours() {
    let pages = ["coordination", "data", "migrating-from-etcd", "openresty"];
    let drawn: Vec<_> =
        reference::files().into_iter().filter(|(name, _)| name.ends_with(".svg")).collect();
    assert_eq!(drawn.len(), pages.len());
    for ((name, text), page) in drawn.iter().zip(pages) {
        let page = read(&format!("docs/{page}.md"));
        let link = name.strip_prefix("docs/").expect("it is in docs");
        assert!(page.contains(&format!("]({link})")), "{name} is not on its page");
        assert!(text.contains("prefers-color-scheme:dark"), "{name}");
        for line in
            text.lines().filter(|line| line.starts_with("<text") || line.starts_with("<rect"))
        {
            assert!(line.contains("class=\""), "{name}: a colour of its own: {line}");
        }
    }
}
