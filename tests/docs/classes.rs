//! The classes of the module are those that it registers, and unsafe code is where its reasons are.

use std::fs;
use std::path::{Path, PathBuf};

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_class_is_registered() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let registered = fs::read_to_string(src.join("lib.rs")).expect("the root of the module");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let texts: Vec<_> = files.iter().map(|path| fs::read_to_string(path).expect("text")).collect();
    let classes: Vec<_> = texts
        .iter()
        .flat_map(|text| text.split("impl Class for ").skip(1))
        .filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next())
        .collect();
    assert!(classes.len() >= 8, "{classes:?}");
    for class in classes {
        assert!(registered.contains(&format!("Registration::of::<{class}>")), "{class}");
    }
}

#[test]
fn unsafe_code_is_in_the_stack_of_lua_and_in_what_a_process_asks_of_its_system() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    for entry in fs::read_dir(root.join("crates")).expect("crates") {
        rust_files(&entry.expect("a crate").path().join("src"), &mut files);
    }
    let allows =
        |path: &PathBuf| fs::read_to_string(path).expect("text").contains("allow(unsafe_code)");
    let mut allowed: Vec<_> = files.iter().filter(|path| allows(path)).collect();
    allowed.sort_unstable();
    let wanted = ["crates/consul-process/src/os/mod.rs", "src/runtime/stack/mod.rs"];
    assert_eq!(allowed, wanted.map(|path| root.join(path)).iter().collect::<Vec<_>>());
}
