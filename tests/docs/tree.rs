//! The tree in CONTRIBUTING.md names files that exist, and each folder of the first two levels; the code in its guide for
//! endpoints is that of the files.

use crate::release::files;
use crate::support::pages::{blocks, read};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The folders with two levels in the tree, here and in each crate.
const SHOWN: [&str; 8] = ["src", "lua", "tests", "scripts", "docs", "examples", "spec", "benches"];

/// It has a folder for each release, which the tree need not name.
const RELEASES: &str = "tests/golden";

/// A line with more spaces before it goes on with the description above.
const DEEPEST: usize = 10;

/// The paths that a tree names, each with the places where it may be. A line begins with names, which are in the folder
/// above, and after two spaces describes them: a path there begins in the folder of the line, beside it or at the root.
fn named(tree: &str) -> Vec<Vec<PathBuf>> {
    let mut named = Vec::new();
    // The folders around a line, with the spaces before their own lines; and the first path of the line.
    let mut folders: Vec<(usize, PathBuf)> = Vec::new();
    let mut own = PathBuf::new();
    for line in tree.lines() {
        let text = line.trim_start();
        let spaces = line.len() - text.len();
        let mut description = text;
        if spaces < DEEPEST {
            let (names, rest) = text.split_once("  ").unwrap_or((text, ""));
            description = rest;
            folders.retain(|(before, _)| *before < spaces);
            let parent = folders.last().map(|(_, folder)| folder.clone()).unwrap_or_default();
            own = parent.join(names.split(' ').next().unwrap_or_default());
            for name in names.split(' ') {
                let path = parent.join(name);
                if name.ends_with('/') {
                    folders.push((spaces, path.clone()));
                }
                named.push(vec![path]);
            }
        }
        for word in description.split_whitespace() {
            let word = word.trim_start_matches(['(', '`']);
            let word = word.trim_end_matches([',', ';', ':', '.', ')', '`']);
            let is_file = [".rs", ".lua", ".md", ".sh", ".txt"].iter().any(|it| word.ends_with(it));
            if (is_file || word.ends_with('/')) && !word.contains('*') {
                let beside = own.parent().unwrap_or(Path::new(""));
                named.push(vec![own.join(word), beside.join(word), word.into()]);
            }
        }
    }
    named
}

fn of_contributing() -> Vec<Vec<PathBuf>> {
    let blocks = blocks(&read("CONTRIBUTING.md"));
    let (_, tree) = blocks.iter().find(|(language, _)| language == "text").expect("the tree");
    let named = named(tree);
    assert!(named.len() > 300, "{named:?}");
    named
}

#[test]
fn the_tree_names_what_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = of_contributing();
    named.retain(|places| !places.iter().any(|place| root.join(place).exists()));
    assert!(named.is_empty(), "CONTRIBUTING.md: there is none of {named:#?}");
}

#[test]
fn the_tree_names_every_folder_of_two_levels() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = BTreeSet::new();
    for file in files() {
        let file = file.strip_prefix(root).expect("a path in the checkout");
        // The number of folders around that in which these are: crates/NAME has two.
        let outside = if file.starts_with("crates") { 2 } else { 0 };
        let inside: PathBuf = file.iter().skip(outside).collect();
        if SHOWN.iter().any(|folder| inside.starts_with(folder)) {
            let above = file.ancestors().skip(1);
            let depth = |folder: &Path| folder.components().count().saturating_sub(outside);
            folders.extend(above.filter(|it| matches!(depth(it), 2 | 3)).map(Path::to_owned));
        }
    }
    assert!(folders.len() > 100, "{folders:?}");
    // A file of the folder, or the module whose parts the folder has, names it too.
    let named = of_contributing().concat();
    folders.retain(|folder| {
        let modules = ["rs", "lua"].map(|kind| folder.with_extension(kind));
        let is_named = |path: &PathBuf| path.starts_with(folder) || modules.contains(path);
        !named.iter().any(is_named) && folder.parent() != Some(Path::new(RELEASES))
    });
    assert!(folders.is_empty(), "CONTRIBUTING.md: the tree lacks {folders:#?}");
}

#[test]
fn names_are_read_from_the_beginning_of_a_line_and_from_its_description() {
    let tree = "src/\n  a/              one; b.rs has\n                  more in `c/`.\n    d.rs e.rs\nf.md  two";
    let first: Vec<_> = named(tree).into_iter().map(|places| places[0].clone()).collect();
    let wanted = ["src", "src/a", "src/a/b.rs", "src/a/c", "src/a/d.rs", "src/a/e.rs", "f.md"];
    assert_eq!(first, wanted.map(PathBuf::from));
}

#[test]
fn the_guide_for_endpoints_has_code_that_is_there() {
    let guide = read("CONTRIBUTING.md");
    let (_, guide) = guide.split_once("## Adding an endpoint").expect("the guide");
    let guide = guide.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let code = ["api/src/api/status.rs", "sim/src/status.rs", "sim/tests/contract/status.rs"]
        .map(|file| read(&format!("crates/consul-{file}")))
        .concat();
    let code: BTreeSet<_> = code.lines().map(str::trim).collect();
    let shown = blocks(&guide).into_iter().filter(|(language, _)| language == "rust");
    let shown: Vec<_> = shown.flat_map(|(_, text)| lines(&text)).collect();
    let absent: Vec<_> = shown.iter().filter(|line| !code.contains(line.as_str())).collect();
    assert!(shown.len() > 15 && absent.is_empty(), "CONTRIBUTING.md: there is none of {absent:#?}");
    let target = read("crates/consul-sim/tests/contract/target.rs");
    for call in guide.split("`t.").skip(1) {
        let (name, _) = call.split_once('(').expect("a method");
        assert!(target.contains(&format!("fn {name}(")), "CONTRIBUTING.md: there is no t.{name}");
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}
