//! The pages name tests that exist, in tables at their ends; docs/coordination.md shows the current profiles.

use consul_api::value::Value;
use consul_client::coordination::Profile;
use std::collections::HashSet;
use std::fs;
use std::path::Path;

const LOCKS: &str = include_str!("../../docs/coordination.md");

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

/// A page without its headings, tables and code, in one line.
fn prose(page: &str) -> String {
    let mut is_code = false;
    let lines = page.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence && !line.starts_with(['#', '|'])
    });
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_page_names_its_tests_in_a_table_at_its_end_and_not_in_its_prose() {
    let pages = pages();
    let with_table = pages.iter().filter(|(_, page)| tests_section(page).is_some()).count();
    assert!(with_table >= 6, "{with_table} pages have tables of tests");
    for (name, page) in pages {
        assert!(!prose(&page).contains("*Shown by*"), "{name} has tests in its prose");
    }
}

/// The sentences that begin with "What", as a subject of their own, hide who does what.
#[test]
fn no_sentence_begins_with_what_but_questions() {
    let of_page = |(name, page): (String, String)| {
        let text = prose(&page);
        let sentences: Vec<_> = text.split_inclusive(['.', ':', '!', '?']).collect();
        let odd = sentences.iter().map(|sentence| sentence.trim_start_matches([' ', '*', '-']));
        odd.filter(|sentence| {
            ["What ", "Whatever ", "That which "].iter().any(|w| sentence.starts_with(w))
        })
        .filter(|sentence| !sentence.ends_with('?'))
        .map(|sentence| format!("{name}: {sentence}"))
        .collect::<Vec<_>>()
    };
    let odd: Vec<_> = pages().into_iter().flat_map(of_page).collect();
    assert!(odd.is_empty(), "name the subject: {odd:#?}");
}

#[test]
fn every_claim_is_shown_by_a_test_that_exists() {
    let mut text = String::new();
    for folder in ["src", "crates", "spec", "tests"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut text);
    }
    let tables = |page: &str| tests_section(page).map(in_tables).unwrap_or_default();
    let mut names: Vec<_> = pages().iter().map(|(_, page)| tables(page)).collect();
    assert!(names.iter().filter(|names| names.len() > 5).count() >= 6, "{names:?}");
    names.push(in_tables(LOCKS));
    let names = names.concat();
    let functions = text.split("fn ").filter_map(|it| it.split_once('(')).map(|it| it.0);
    // With the tag of a spec, or the engine or the server that a test is for.
    let ends = [" #smoke", " [", "::"];
    let strings = text.split('"').flat_map(|it| {
        let cut = ends.iter().filter_map(move |end| it.split_once(end)).map(|it| it.0);
        cut.chain([it])
    });
    let tests: HashSet<&str> = functions.chain(strings).collect();
    let missing: Vec<_> = names.iter().filter(|name| !tests.contains(name.as_str())).collect();
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
