//! The reference in the repository is what the tables of endpoints and options say.
//!
//! `make docs` writes it: it runs this with `UPDATE_REFERENCE` set.

use consul_ffi::config;
use consul_ffi::wire::{emit, endpoints};
use std::fs;
use std::path::Path;

fn is_fresh(name: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
        fs::write(&path, wanted).expect("the file can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "{name} is not what the table says; `make docs` writes it anew");
}

#[test]
fn the_reference_is_fresh() {
    is_fresh("docs/api.md", &emit::api_md());
}

#[test]
fn the_reference_of_options_is_fresh() {
    is_fresh("docs/configuration.md", &config::emit::configuration_md());
}

#[test]
fn the_annotations_are_fresh() {
    is_fresh("lua/meta/consul_ffi.d.lua", &emit::lua_meta(&config::emit::lua_classes()));
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
