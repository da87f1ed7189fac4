//! The two READMEs have the same content, and the guides show the files that run.

use crate::support::pages::{blocks, read};
use crate::translations::translated;
use consul_api::error::Kind;
use std::fs;

/// The structure of a document without its prose: depth of headings, rows of tables.
fn skeleton(text: &str) -> Vec<String> {
    let part = |line: &str| match line.split_once(' ') {
        Some((marks, _)) if !marks.is_empty() && marks.chars().all(|c| c == '#') => {
            Some(marks.to_owned())
        }
        // A first cell that is code is the same in each language.
        _ if line.starts_with('|') => {
            let cell = line.split('|').nth(1).unwrap_or_default().trim();
            Some(format!("| {}", if cell.starts_with('`') { cell } else { "" }))
        }
        _ => None,
    };
    let mut in_code = false;
    text.lines()
        .filter(|line| {
            in_code ^= line.starts_with("```");
            !in_code
        })
        .filter_map(part)
        .collect()
}

#[test]
fn both_languages_have_the_same_code_sections_and_tables() {
    let (english, chinese) = (read("README.md"), read("README.zh.md"));
    assert_eq!(blocks(&english), blocks(&chinese));
    assert_eq!(skeleton(&english), skeleton(&chinese));
}

/// The files that a document links to, in their order.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let is_a_file = |target: &&str| !target.is_empty() && !target.contains("://");
    targets.filter(is_a_file).filter(|target| !target.starts_with("README")).collect()
}

#[test]
fn both_languages_link_to_the_same_files_and_they_exist() {
    let (english, chinese) = (read("README.md"), read("README.zh.md"));
    let translated: Vec<_> = links(&english).into_iter().map(translated).collect();
    assert_eq!(translated, links(&chinese));
    for link in links(&english).into_iter().chain(links(&chinese)) {
        assert!(fs::exists(link).is_ok_and(|exists| exists), "there is no {link}");
    }
}

#[test]
fn every_command_of_make_that_is_named_exists() {
    let (readme, makefile) = (read("README.md"), read("Makefile"));
    let commands = readme.split(['`', '\n']).filter_map(|code| code.strip_prefix("make "));
    for command in commands {
        let target = command.split(' ').next().unwrap_or_default();
        assert!(makefile.contains(&format!("\n## {target}")), "make {target}");
    }
}

#[test]
fn the_first_page_is_short_and_has_program_output_and_commands() {
    let readme = read("README.md");
    assert!(readme.lines().count() <= 150, "{} lines", readme.lines().count());
    let first: Vec<_> = readme.lines().take(40).collect();
    let first = first.join("\n");
    for wanted in ["make install", "```lua", "```text"] {
        assert!(first.contains(wanted), "not within the first 40 lines: {wanted}");
    }
    for wanted in ["```sh\nmake demo\nmake test\n", "images/cluster.svg", "comparison.md"] {
        assert!(readme.contains(wanted), "{wanted}");
    }
}

#[test]
fn every_kind_of_error_is_in_the_pages() {
    for page in ["docs/errors.md", "docs/zh/errors.md"] {
        let text = read(page);
        for kind in Kind::ALL {
            assert!(text.contains(&format!("\n| `{kind}` | ")), "{page}: {kind}");
        }
    }
}

#[test]
fn the_guides_to_testing_show_the_files_that_run() {
    let in_sim = ["go/main.go", "lock.py", "lock.mjs", "Lock.java", "lock.sh"];
    let in_sim = in_sim.map(|file| format!("examples/consul-sim/{file}"));
    let of_lua = ["examples/worker.lua", "spec/examples/worker_spec.lua"].map(str::to_owned);
    for (guide, files) in
        [("docs/testing-your-program.md", &of_lua[..]), ("docs/consul-sim.md", &in_sim)]
    {
        let text = read(guide);
        let blocks = blocks(&text);
        for file in files {
            let text = read(file);
            assert!(
                blocks.iter().any(|(_, block)| block == text.trim_end()),
                "{guide} does not show {file} as it is"
            );
        }
    }
}

#[test]
fn the_guide_to_concurrency_shows_the_example_for_openresty() {
    let guide = read("docs/concurrency.md");
    let example = read("examples/openresty/consul.lua");
    let blocks = blocks(&guide);
    let is_for_openresty = |block: &str| block.contains("consul_ffi.openresty");
    let (_, shown) = blocks.iter().find(|(_, block)| is_for_openresty(block)).expect("a block");
    assert!(example.contains(shown), "examples/openresty/consul.lua has not:\n{shown}");
}

/// The pages for the first minutes, which a test runs (tests/programs/quick_starts.rs).
const QUICK_STARTS: [&str; 4] = ["openresty", "operators", "tests", "tsdb"];

#[test]
fn the_quick_starts_are_short_in_both_languages() {
    for name in QUICK_STARTS {
        for folder in ["docs", "docs/zh"] {
            let lines = read(&format!("{folder}/quick-start-{name}.md")).lines().count();
            assert!(lines < 60, "{folder}/quick-start-{name}.md: {lines} lines");
        }
    }
}

#[test]
fn the_gateway_of_the_first_page_is_that_of_its_quick_start() {
    let (readme, page) = (read("README.md"), read("docs/quick-start-openresty.md"));
    let (first, whole) = (blocks(&readme), blocks(&page));
    let of_nginx = |blocks: &[(String, String)]| -> Vec<String> {
        let found = blocks.iter().filter(|(language, _)| language == "nginx");
        found.flat_map(|(_, block)| block.lines().map(|line| line.trim().to_owned())).collect()
    };
    let (first, whole) = (of_nginx(&first), of_nginx(&whole));
    assert!(first.len() > 5, "{first:?}");
    for line in first {
        assert!(whole.contains(&line), "docs/quick-start-openresty.md has not: {line}");
    }
}
