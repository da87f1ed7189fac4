//! The dependency rule: which layer of `src` may use which. A violation is reported with file and
//! line.

#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::fs;
use std::path::{Path, PathBuf};

/// Each layer with the modules of the crate that it may use, itself included.
const MAY_USE: &[(&str, &[&str])] = &[
    ("sync", &["sync"]),
    ("clock", &["clock", "os", "sync"]),
    ("error", &["error"]),
    ("hosts", &["hosts"]),
    ("files", &["files", "error", "clock", "os", "sync"]),
    ("log_file", &["log_file", "os"]),
    ("logs", &["logs", "clock", "metrics", "os", "sync"]),
    ("metrics", &["metrics", "error", "os", "sync"]),
    ("os", &["os", "sync"]),
    ("ring", &["ring"]),
    ("wire", &["wire", "error"]),
    ("transport", &["transport", "wire", "error", "files", "clock", "metrics", "os", "sync"]),
    ("client", &["client", "transport", "wire", "error", "clock", "metrics", "ring", "sync"]),
    (
        "cluster",
        &["cluster", "client", "wire", "error", "files", "clock", "metrics", "os", "ring", "sync"],
    ),
    ("status", &["status", "cluster", "error", "hosts", "metrics", "os", "sync"]),
    (
        "simulate",
        // os and files: the configuration and the certificates of consul-sim.
        &["simulate", "transport", "wire", "error", "clock", "hosts", "sync", "os", "files"],
    ),
    ("config", &["config", "cluster", "client", "transport", "wire", "error"]),
    ("reference", &["reference", "config", "client", "metrics", "wire", "error"]),
    ("migrate", &["migrate", "client", "transport", "wire", "error", "clock", "sync"]),
    ("guard", &["guard", "client", "transport", "error", "clock", "os", "sync"]),
    (
        "connect",
        &[
            "connect",
            "config",
            "client",
            "guard",
            "simulate",
            "transport",
            "wire",
            "error",
            "clock",
            "logs",
        ],
    ),
    (
        "lua",
        &[
            "lua",
            "connect",
            "config",
            "client",
            "cluster",
            "simulate",
            "transport",
            "wire",
            "error",
            "clock",
            "log_file",
            "logs",
            "metrics",
            "os",
            "ring",
            "status",
            "sync",
        ],
    ),
];

/// Names that only these files or folders may use.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("mlua", &["lua/"]),
    ("reqwest", &["transport/https.rs", "transport/streaming.rs"]),
    ("hyper", &["simulate/http/serve.rs", "cluster/data_plane/", "status/"]),
    ("httparse", &["transport/http1.rs"]),
    ("prometheus_client", &["metrics/page.rs"]),
    (
        "rustls",
        &[
            "cluster/data_plane/tls.rs",
            "files/pem.rs",
            "transport/grpc.rs",
            "transport/http.rs",
            "transport/https.rs",
            "transport/tls.rs",
            "guard/send.rs",
            "simulate/agent/probe/tls.rs",
            "simulate/http/listen.rs",
        ],
    ),
    // Only the code that creates a client knows a real transport.
    ("transport::http", &["connect.rs", "transport/mod.rs"]),
    ("libc", &["os/"]),
    ("unsafe", &["lua/runtime/stack/", "os/"]),
    // Other objects would have no metatable before the first of them is created.
    ("create_userdata", &["lua/runtime/native.rs"]),
];

/// Every violation in one file, as `file:line: what`.
fn violations(file: &str, text: &str) -> Vec<String> {
    let layer = file.split('/').next().unwrap_or(file).trim_end_matches(".rs");
    let allowed = MAY_USE.iter().find(|(name, _)| *name == layer).map(|(_, allowed)| *allowed);
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or(line);
        let mut report = |what: String| found.push(format!("src/{file}:{}: {what}", number + 1));
        for used in words_after(code, "crate::") {
            match allowed {
                Some(allowed) if !allowed.contains(&used.as_str()) => {
                    report(format!("{layer} must not use {used}"));
                }
                None if layer != "lib" => report(format!("{layer} is in no layer of this test")),
                _ => {}
            }
        }
        // In a nested module, such as tests, one more `super` stays inside the layer.
        let depth = depth(file) + usize::from(code.starts_with(' '));
        if code.contains(&"super::".repeat(depth + 1)) {
            report("leaves its layer by super; say crate::".to_owned());
        }
        for (name, places) in ONLY_IN {
            if has_word(code, name) && !places.iter().any(|place| file.starts_with(place)) {
                report(format!("{name} belongs only in {}", places.join(", ")));
            }
        }
    }
    found
}

/// The number of `super` that stay inside the layer, at the top of a file.
fn depth(file: &str) -> usize {
    let is_mod = file.ends_with("/mod.rs") || !file.contains('/');
    file.matches('/').count() - usize::from(is_mod && file.contains('/'))
}

fn words_after(code: &str, marker: &str) -> Vec<String> {
    let word = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    code.match_indices(marker).map(|(at, _)| word(&code[at + marker.len()..])).collect()
}

fn has_word(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(is_part) && !code[at + word.len()..].starts_with(is_part)
    })
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_class_is_registered() {
    let lua = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lua");
    let registered = fs::read_to_string(lua.join("mod.rs")).unwrap();
    let mut files = Vec::new();
    rust_files(&lua, &mut files);
    let texts = files.iter().map(|path| fs::read_to_string(path).unwrap());
    let classes: Vec<_> = texts.flat_map(|text| words_after(&text, "impl Class for ")).collect();
    assert!(classes.len() >= 8, "{classes:?}");
    for class in classes {
        assert!(registered.contains(&format!("Registration::of::<{class}>")), "{class}");
    }
}

#[test]
fn every_layer_uses_only_what_it_may() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    assert!(files.len() > 20, "only {} files found", files.len());
    let found: Vec<_> = files
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap();
            violations(name, &fs::read_to_string(path).unwrap())
        })
        .collect();
    assert!(found.is_empty(), "the dependency rule is broken:\n{}", found.join("\n"));
}

#[test]
fn a_broken_rule_is_found_and_named() {
    for (file, line) in [
        ("wire/kv.rs", "use crate::client::Client;"),
        ("simulate/kv.rs", "let x = crate::client::Client::new();"),
        ("client/call.rs", "use crate::transport::http::HttpTransport;"),
        ("client/call.rs", "use crate::simulate;"),
        ("error.rs", "use crate::clock::Clock;"),
        ("os/fork.rs", "use crate::clock::Clock;"),
        ("wire/kv.rs", "use mlua::Lua;"),
        ("transport/mod.rs", "reqwest::get(url)"),
        ("wire/kv.rs", "use super::super::client;"),
        ("client/mod.rs", "unsafe { x() }"),
        ("simulate/mod.rs", "use super::client;"),
        ("simulate/store/kv.rs", "    use super::super::super::super::client;"),
        ("new_layer/mod.rs", "use crate::wire;"),
    ] {
        let found = violations(file, &format!("\n{line}"));
        assert!(!found.is_empty(), "{file}: {line}");
        assert!(found[0].starts_with(&format!("src/{file}:2: ")), "{found:?}");
    }
    for (file, line) in [
        ("wire/kv.rs", "use crate::error::Error; // not crate::client"),
        ("wire/kv.rs", "    use super::super::request::Args;"),
        ("simulate/store/kv.rs", "use super::super::http::go::quoted;"),
    ] {
        assert_eq!(violations(file, line), Vec::<String>::new());
    }
}
