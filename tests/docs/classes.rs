//! Rules for all source files: classes, unsafe code, and a fixed order on the virtual clock.

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

/// With the random order of `select!` a history on the virtual clock cannot be played again. Code that waits for sockets is
/// left out: its order is the system's.
#[test]
fn what_runs_on_the_virtual_clock_waits_in_a_fixed_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    let mut files = Vec::new();
    for folder in ["consul-client/src", "consul-cluster/src", "consul-cluster/tests"] {
        rust_files(&root.join(folder), &mut files);
    }
    let on_sockets = ["data_plane", "observe"].map(|it| root.join("consul-cluster/src").join(it));
    files.retain(|path| !on_sockets.iter().any(|folder| path.starts_with(folder)));
    let mut found = 0;
    for path in files {
        let text = fs::read_to_string(&path).expect("text");
        for (_, block) in
            text.match_indices("tokio::select! {").map(|(at, it)| text.split_at(at + it.len()))
        {
            let is_example =
                block.lines().nth(1).is_some_and(|line| line.trim_start().starts_with("//"));
            assert!(
                is_example || block.trim_start().starts_with("biased;"),
                "{}: not biased",
                path.display()
            );
            found += 1;
        }
    }
    assert!(found > 40, "{found}");
}
