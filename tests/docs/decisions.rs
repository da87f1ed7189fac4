//! Each decision has its three parts, and stands in the index and in the table of docs/architecture.md.

use crate::support::pages::read;
use std::fs;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/decisions");

#[test]
fn every_decision_has_its_parts_and_is_listed() {
    let (index, architecture) = (read("docs/decisions/README.md"), read("docs/architecture.md"));
    let entries = fs::read_dir(FOLDER).expect(FOLDER);
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string());
    let mut names: Vec<_> = names.map(|name| name.expect("a name")).collect();
    names.retain(|name| name != "README.md");
    names.sort_unstable();
    for (place, name) in names.iter().enumerate() {
        let text = read(&format!("docs/decisions/{name}"));
        let number = format!("{:03}", place + 1);
        assert!(name.starts_with(&format!("{number}-")), "{name} is not number {number}");
        let title = text.lines().next().unwrap_or_default();
        let title = title.strip_prefix(&format!("# {number}: ")).expect(name);
        let headings = text.lines().filter(|line| line.starts_with("## "));
        let headings: Vec<_> = headings.collect();
        assert_eq!(headings, ["## Context", "## Decision", "## Consequences"], "{name}");
        assert!(index.contains(&format!("- [{number}]({name}): {title}\n")), "{name}");
        let in_table = format!("| [{number}](decisions/{name}): {title} |\n");
        assert!(architecture.contains(&in_table), "docs/architecture.md: {in_table}");
    }
    assert!(names.len() > 20, "{names:?}");
}

#[test]
fn the_page_about_the_architecture_is_short() {
    let lines = read("docs/architecture.md").lines().count();
    assert!(lines <= 200, "{lines} lines; reasons go to docs/decisions");
}
