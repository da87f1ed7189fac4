//! Links between the pages lead to files and headings that exist.

use crate::support::pages::read;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The text without code blocks.
fn prose(text: &str) -> String {
    let mut in_code = false;
    let is_prose = |line: &&str| {
        in_code ^= line.starts_with("```");
        !in_code
    };
    text.lines().filter(is_prose).collect::<Vec<_>>().join("\n")
}

/// The anchor that Markdown viewers make of a heading.
fn anchor(heading: &str) -> String {
    let is_kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let kept: String = heading.trim().chars().filter(is_kept).collect();
    kept.to_lowercase().replace(' ', "-")
}

/// The anchors of a page; a heading that occurs twice has none.
fn anchors(text: &str) -> HashSet<String> {
    let prose = prose(text);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let (mut anchors, mut twice) = (HashSet::new(), HashSet::new());
    for heading in headings.map(|line| anchor(line.trim_start_matches('#'))) {
        if !anchors.insert(heading.clone()) {
            twice.insert(heading);
        }
    }
    anchors.difference(&twice).cloned().collect()
}

/// The pages in all languages.
fn pages() -> impl Iterator<Item = PathBuf> {
    let folders = ["docs", "docs/decisions", "docs/zh"];
    let folders = folders.map(|folder| fs::read_dir(folder).expect(folder));
    let in_docs = folders.into_iter().flatten().map(|entry| entry.expect("an entry").path());
    let pages = in_docs.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    let others = ["README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"];
    pages.chain(others.map(Into::into)).chain(["examples/README.md".into()])
}

/// Without it cargo chooses other versions of the libraries than those that were tested.
#[test]
fn each_program_is_installed_with_the_versions_of_the_lock_file() {
    let mut checked = 0;
    for page in pages() {
        let text = read(page.to_str().expect("a name"));
        for line in text.lines().filter(|line| line.contains("cargo install ")) {
            checked += 1;
            assert!(line.contains(" --locked"), "{}: {line}", page.display());
        }
    }
    assert!(checked >= 7, "{checked}");
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let (mut checked, mut broken) = (0, Vec::new());
    for page in pages() {
        let text = prose(&read(page.to_str().expect("a name")));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            checked += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                _ => page.parent().unwrap_or(Path::new("")).join(file),
            };
            let leads = fs::exists(&target).is_ok_and(|exists| exists)
                && (heading.is_empty()
                    || fs::read_to_string(&target)
                        .is_ok_and(|text| anchors(&text).contains(heading)));
            if !leads {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(checked > 500, "{checked} links");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
