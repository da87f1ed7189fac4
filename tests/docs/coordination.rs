//! docs/coordination.md, docs/cluster.md, docs/data.md and docs/comparison.md name tests that exist, and show the
//! current profiles.

use consul_api::value::Value;
use consul_client::coordination::Profile;
use std::fs;
use std::path::Path;

const LOCKS: &str = include_str!("../../docs/coordination.md");
const CLUSTER: &str = include_str!("../../docs/cluster.md");
const DATA: &str = include_str!("../../docs/data.md");
const COMPARISON: &str = include_str!("../../docs/comparison.md");

fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let is_source = path.extension().is_some_and(|kind| kind == "rs" || kind == "lua");
        if path.is_dir() {
            sources(&path, text);
        } else if is_source {
            text.push_str(&fs::read_to_string(path).expect("a text"));
        }
    }
}

/// The names of tests in a page: in backticks after "Shown by", up to the full stop or the end of a cell.
fn claimed(page: &str) -> Vec<String> {
    let mut names = Vec::new();
    for claim in page.split("*Shown by*").skip(1) {
        let parts: Vec<_> = claim.split('`').collect();
        for pair in parts.chunks_exact(2) {
            // Between two names there is a comma.
            if pair[0].contains(['.', '|']) {
                break;
            }
            names.push(pair[1].split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    names
}

/// The names of tests in the last cells of a text's tables.
fn in_tables(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for row in text.lines().filter(|line| line.starts_with('|')) {
        let cell = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let in_ticks = cell.split('`').skip(1).step_by(2);
        names.extend(in_ticks.filter(|name| !name.contains('/')).map(str::to_owned));
    }
    names
}

/// The tests of a page that lists them at its end.
fn tests_section(page: &str) -> Option<&str> {
    let (_, section) = page.split_once("\n## Tests\n")?;
    Some(section.split("\n## ").next().unwrap_or_default())
}

/// The names of pages of docs, with their texts.
fn pages() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let paths = fs::read_dir(folder).expect("docs").map(|entry| entry.expect("an entry").path());
    let pages = paths.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    pages
        .map(|path| (path.display().to_string(), fs::read_to_string(&path).expect("a page")))
        .collect()
}

#[test]
fn a_page_with_a_table_of_tests_names_none_in_its_prose() {
    let pages = pages();
    let with_table: Vec<_> =
        pages.iter().filter(|(_, page)| tests_section(page).is_some()).collect();
    assert!(with_table.len() >= 3, "{} pages have tables of tests", with_table.len());
    for (name, page) in with_table {
        let words = page.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!words.contains("*Shown by*"), "{name} has tests in its prose");
    }
}

#[test]
fn every_claim_is_shown_by_a_test_that_exists() {
    let mut text = String::new();
    for folder in ["src", "crates", "spec", "tests"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut text);
    }
    let of_page = |page: &str| {
        let mut names = claimed(page);
        names.extend(tests_section(page).map(in_tables).unwrap_or_default());
        names
    };
    let mut names: Vec<_> = [LOCKS, CLUSTER, DATA, COMPARISON].map(of_page).to_vec();
    names.push(in_tables(LOCKS));
    assert!(names.iter().all(|names| names.len() > 5), "{names:?}");
    names.extend(pages().iter().filter_map(|(_, page)| tests_section(page).map(in_tables)));
    let names = names.concat();
    let is_a_test = |name: &String| {
        let forms =
            ["fn {}(", "\"{}\"", "\"{} #smoke\"", "\"{} ["].map(|form| form.replace("{}", name));
        forms.iter().any(|form| text.contains(form)) || text.contains(&format!("\"{name}::"))
    };
    let missing: Vec<_> = names.iter().filter(|name| !is_a_test(name)).collect();
    assert!(missing.is_empty(), "there are no such tests: {missing:#?}");
}

#[test]
fn the_table_of_profiles_is_what_the_code_says() {
    let profiles: Vec<_> = Profile::NAMED.iter().map(|named| (named.profile)()).collect();
    let mut table = format!("| value | {} |\n", Profile::NAMES.join(" | "));
    table += &format!("|---{}|\n", "|---".repeat(profiles.len()));
    for (place, (name, _)) in profiles[0].values().iter().enumerate().skip(1) {
        let shown = profiles.iter().map(|profile| match &profile.values()[place].1 {
            Value::Float(number) => number.to_string(),
            value => value.shown(),
        });
        table += &format!("| `{name}` | {} |\n", shown.collect::<Vec<_>>().join(" | "));
    }
    assert!(LOCKS.contains(&table), "the table should be:\n{table}");
    for named in Profile::NAMED {
        let line = format!("\n- `{}` {}\n", named.name, named.purpose);
        assert!(LOCKS.contains(&line), "below it there should be:{line}");
    }
}
