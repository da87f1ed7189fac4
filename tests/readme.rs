//! The two READMEs say the same, and what they show works.

use consul_ffi::error::Kind;
use std::fs;
use std::process::Command;

fn read(name: &str) -> String {
    fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).expect(name)
}

/// The code blocks of a document: language and text.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            found.push((language.to_owned(), block.join("\n")));
        }
    }
    found
}

/// What a document is made of besides prose: depth of headings, rows of tables.
fn skeleton(text: &str) -> Vec<String> {
    let part = |line: &str| match line.split_once(' ') {
        Some((marks, _)) if !marks.is_empty() && marks.chars().all(|c| c == '#') => {
            Some(marks.to_owned())
        }
        // The first cell holds a name, which is the same in each language when it is code.
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
    assert_eq!(links(&english), links(&chinese));
    for link in links(&english) {
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

/// What a program of the README may use: a client, and a service that passes its check. Nothing asks
/// a server.
const BEFORE: &str = "local consul_ffi = require('consul_ffi') \
    local client = consul_ffi.new({ simulate = true }) \
    local index, user_id = 1, 'a user' \
    assert(client:agent_service_register({ \
      name = 'web', port = 80, tags = { 'v2' }, check = { ttl = '15s', status = 'passing' }, \
    })) \
    local new = consul_ffi.ConsulHACluster.new \
    function consul_ffi.ConsulHACluster.new(class, options) \
      options.simulate = true \
      return new(class, options) \
    end ";

/// How long a program may run that waits for ever.
const LONG_ENOUGH: &str = "3";

/// What `timeout` gives when it ends a program.
const ENDED: i32 = 124;

#[test]
fn every_program_that_is_shown_runs() {
    for (_, program) in blocks(&read("README.md")).iter().filter(|(language, _)| language == "lua")
    {
        let output = Command::new("timeout")
            .args([LONG_ENOUGH, "luajit", "-e", &format!("{BEFORE}{program}")])
            .env("LUA_CPATH", "./target/lua/luajit/?.so;;")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("luajit runs");
        let goes_on = program.contains("while true") || program.contains(":events()");
        let ended = goes_on && output.status.code() == Some(ENDED);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || ended, "{program}\n{said}");
    }
}

#[test]
fn the_first_program_works_when_pasted() {
    let readme = read("README.md");
    let blocks = blocks(&readme);
    let (_, program) = blocks.iter().find(|(language, _)| language == "lua").expect("a program");
    let output = Command::new("luajit")
        .args(["-e", program])
        .env("LUA_CPATH", "./target/lua/luajit/?.so;;")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("luajit runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.starts_with("blue\tat index "), "{printed}");
    assert!(printed.contains("\nfalse\tconflict\t"), "{printed}");
}

#[test]
fn the_cluster_that_is_shown_works() {
    let program = read("examples/cluster.lua");
    let readme = read("README.md");
    let blocks = blocks(&readme);
    let at = blocks.iter().position(|(_, block)| block == program.trim_end());
    let (_, shown) =
        &blocks[at.expect("the README does not show examples/cluster.lua as it is") + 1];
    let output = Command::new("luajit")
        .arg("examples/cluster.lua")
        .env("LUA_CPATH", "./target/lua/luajit/?.so;;")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("luajit runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Which shards go where depends on who had started when the first map was made.
    let words = |text: &str| -> Vec<String> {
        let is_fixed = |word: &&str| !word.contains(|c: char| c.is_ascii_digit());
        text.split_whitespace().filter(is_fixed).map(str::to_owned).collect()
    };
    assert_eq!(words(&String::from_utf8_lossy(&output.stdout)), words(shown));
}

#[test]
fn what_a_reader_sees_first_is_on_the_first_page() {
    let readme = read("README.md");
    let first: Vec<_> = readme.lines().take(60).collect();
    let first = first.join("\n");
    for wanted in ["```lua", "make demo", "make test", "luarocks", "Contents:"] {
        assert!(first.contains(wanted), "not within the first 60 lines: {wanted}");
    }
}

/// The names in the first cells of the table whose head begins so.
fn first_cells(text: &str, head: &str) -> Vec<String> {
    let rows = text.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| row.split('`').nth(1)).map(str::to_owned).collect()
}

#[test]
fn every_kind_of_error_has_its_cause_and_its_cure() {
    let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(first_cells(&read("docs/operations.md"), "| kind | cause | cure |"), kinds);
    assert_eq!(first_cells(&read("README.md"), "| kind | cause |"), kinds);
}

#[test]
fn the_guide_to_testing_shows_the_files_that_run() {
    let guide = read("docs/testing-your-program.md");
    let blocks = blocks(&guide);
    for file in ["examples/worker.lua", "spec/examples/worker_spec.lua"] {
        let text = read(file);
        assert!(
            blocks.iter().any(|(_, block)| block == text.trim_end()),
            "docs/testing-your-program.md does not show {file} as it is"
        );
    }
}

#[test]
fn the_guide_to_concurrency_shows_the_example_for_openresty() {
    let guide = read("docs/concurrency.md");
    let example = read("examples/openresty/consul.lua");
    let blocks = blocks(&guide);
    let (_, shown) = blocks.iter().find(|(_, block)| block.contains("ngx.sleep")).expect("a block");
    assert!(example.contains(shown), "examples/openresty/consul.lua has not:\n{shown}");
}
