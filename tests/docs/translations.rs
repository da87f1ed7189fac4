//! The pages of docs/zh and README.zh.md say what the English ones do: the same sections, code, tables, identifiers and
//! numbers, in sentences that are as short.

use crate::support::pages::read;
use std::collections::BTreeSet;
use std::fs;
use std::mem::take;

/// The index of docs/zh, with the glossary: it has no counterpart.
const INDEX: &str = "README.md";

/// The text below a heading, up to the next one.
#[derive(Default)]
struct Section {
    heading: String,
    level: usize,
    /// Code blocks as they are, pictures without their labels, and tables as "rows x columns", in their order.
    parts: Vec<String>,
    /// The texts in backticks: identifiers, options, commands and names of tests.
    identifiers: BTreeSet<String>,
    /// The numbers in digits, sorted.
    numbers: Vec<String>,
}

fn columns(row: &str) -> usize {
    row.replace("\\|", "").matches('|').count() - 1
}

/// A line of a picture without what a reader sees as text.
fn without_labels(line: &str) -> String {
    let line: String = line.split(['"', '|']).step_by(2).collect();
    let end = [": ", " as "].iter().filter_map(|mark| line.find(mark)).min();
    line[..end.unwrap_or(line.len())].to_owned()
}

fn sections(page: &str) -> Vec<Section> {
    let (mut sections, mut section, mut prose) = (Vec::new(), Section::default(), String::new());
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            let code = lines.by_ref().take_while(|line| *line != "```");
            let code: Vec<_> = match line {
                "```mermaid" => code.map(without_labels).collect(),
                _ => code.map(str::to_owned).collect(),
            };
            section.parts.push(format!("{line}\n{}", code.join("\n")));
            continue;
        }
        if line.starts_with('#') {
            finish(&mut section, &mut prose);
            sections.push(take(&mut section));
            section.heading = line.to_owned();
            section.level = line.chars().take_while(|c| *c == '#').count();
        } else if line.trim_start().starts_with('|') {
            let mut rows = vec![line];
            while let Some(row) = lines.next_if(|line| line.trim_start().starts_with('|')) {
                rows.push(row);
            }
            let widths: BTreeSet<_> = rows.iter().map(|row| columns(row)).collect();
            section.parts.push(format!("table: {} x {widths:?}", rows.len()));
            prose += &rows.join("\n");
        }
        prose += line;
        prose.push('\n');
    }
    finish(&mut section, &mut prose);
    sections.push(section);
    sections
}

fn finish(section: &mut Section, prose: &mut String) {
    let prose = take(prose);
    let words = |code: &str| code.split_whitespace().collect::<Vec<_>>().join(" ");
    section.identifiers = prose.split('`').skip(1).step_by(2).map(words).collect();
    let numbers = prose.split(|c: char| !c.is_ascii_digit() && c != '.' && c != ',');
    let numbers = numbers.map(|number| number.trim_matches(['.', ',']).to_owned());
    section.numbers = numbers.filter(|number| !number.is_empty()).collect();
    section.numbers.sort();
}

fn names() -> Vec<String> {
    let entries = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/zh")).expect("docs/zh");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string());
    names.map(|name| name.expect("a name")).filter(|name| name != INDEX).collect()
}

/// The pages of docs/zh, each with its English one, and their name.
fn pairs() -> Vec<(String, String, String)> {
    let pages = names().into_iter();
    let pairs: Vec<_> = pages
        .map(|name| (read(&format!("docs/{name}")), read(&format!("docs/zh/{name}")), name))
        .collect();
    assert!(pairs.len() > 1, "{} pages", pairs.len());
    pairs
}

/// The numbers that are in `some` more often than in `others`.
fn surplus(some: &[String], others: &[String]) -> Vec<String> {
    let mut left = some.to_vec();
    for other in others {
        if let Some(place) = left.iter().position(|number| number == other) {
            left.remove(place);
        }
    }
    left
}

/// The differences, up to the first section that has no counterpart.
fn differences(english: &str, chinese: &str) -> Vec<String> {
    let (english, chinese) = (sections(english), sections(chinese));
    let mut found = Vec::new();
    if english.len() != chinese.len() {
        found.push(format!("{} and {} sections", english.len() - 1, chinese.len() - 1));
    }
    for (one, other) in english.iter().zip(&chinese) {
        let headings = format!("\"{}\" and \"{}\"", one.heading, other.heading);
        if (one.level, &one.parts) != (other.level, &other.parts) {
            found.push(format!("{headings}: {:#?} are not {:#?}", one.parts, other.parts));
            break;
        }
        let differing: Vec<_> = one.identifiers.symmetric_difference(&other.identifiers).collect();
        if !differing.is_empty() {
            found.push(format!("{headings}: only one of them has {differing:?}"));
        }
        let missing = surplus(&one.numbers, &other.numbers);
        let extra = surplus(&other.numbers, &one.numbers);
        if !missing.is_empty() || !extra.is_empty() {
            found.push(format!(
                "{headings}: lacks the numbers {missing:?}, and has {extra:?} instead"
            ));
        }
    }
    found
}

#[test]
fn translated_pages_have_the_same_sections_code_tables_identifiers_and_numbers() {
    let mut found = Vec::new();
    let readme = (read("README.md"), read("README.zh.md"), "README.zh.md".to_owned());
    for (english, chinese, name) in pairs().into_iter().chain([readme]) {
        found.extend(differences(&english, &chinese).iter().map(|it| format!("{name}: {it}")));
    }
    assert!(found.is_empty(), "the languages differ:\n{}", found.join("\n"));
}

#[test]
fn a_section_a_table_row_a_line_of_code_or_a_number_that_is_missing_is_found() {
    let page = "# A\n\n`a`, 5 s\n\n## B\n\n```sh\nls\npwd\n```\n\n```mermaid\nA->>B: c\n```\n\n## C\n\n| a | b |\n|---|---|\n| `c` | d |\n";
    assert!(differences(page, page).is_empty());
    for left_out in ["## B\n", "pwd\n", "A->>", "| `c` | d |\n", "`a`", "5"] {
        assert!(!differences(page, &page.replace(left_out, "")).is_empty(), "{left_out}");
    }
}

#[test]
fn each_page_links_to_its_other_language_at_the_top() {
    for (english, chinese, name) in pairs() {
        let has = |page: &str, link: &str| page.lines().take(8).any(|line| line.contains(link));
        assert!(has(&english, &format!("[中文](zh/{name})")), "docs/{name}");
        assert!(has(&chinese, &format!("[English](../{name})")), "docs/zh/{name}");
    }
}

/// Where a link of an English page leads from the Chinese one: to the translation, if there is one.
pub fn translated(link: &str) -> String {
    match link.strip_prefix("docs/") {
        Some(page) if fs::exists(format!("docs/zh/{page}")).is_ok_and(|exists| exists) => {
            format!("docs/zh/{page}")
        }
        _ => link.to_owned(),
    }
}

#[test]
fn chinese_pages_link_to_chinese_ones() {
    for (_, chinese, name) in pairs() {
        for other in names() {
            let links = chinese.matches(&format!("](../{other}")).count();
            assert_eq!(links, usize::from(other == name), "docs/zh/{name}: ../{other}");
        }
    }
}

/// `**文。**字` is not bold in Markdown: a closing mark after punctuation has to be followed by space or punctuation.
#[test]
fn bold_text_ends_before_its_punctuation() {
    for (_, chinese, name) in pairs() {
        for line in chinese.lines() {
            for bold in line.split("**").skip(1).step_by(2) {
                assert!(!bold.ends_with(['。', '：', '，', '；']), "docs/zh/{name}: {bold}");
            }
        }
    }
}

/// The translations that the glossary rules out: its last column.
fn ruled_out(glossary: &str) -> Vec<&str> {
    let (_, glossary) = glossary.split_once("## 术语表").expect("the glossary");
    let rows = glossary.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches(['|', ' ']).rsplit('|').next().unwrap_or_default().trim())
        .collect()
}

#[test]
fn the_pages_use_the_words_of_the_glossary() {
    let glossary = read("docs/zh/README.md");
    let words = ruled_out(&glossary);
    assert!(words.len() > 30 && words.iter().all(|word| !word.is_empty()), "{words:?}");
    let pages = names().into_iter().map(|name| format!("docs/zh/{name}"));
    for page in pages.chain(["README.zh.md".to_owned()]) {
        let text = read(&page);
        let found: Vec<_> = words.iter().filter(|word| text.contains(**word)).collect();
        assert!(found.is_empty(), "{page}: {found:?}; docs/zh/README.md has what to write");
    }
}

/// The longest sentence: punctuation counts, and an identifier, a number or a Latin word counts as one character.
const LONGEST: usize = 60;

/// The paragraphs, items and cells of a page, without code blocks, headings and the targets of links.
fn passages(page: &str) -> Vec<String> {
    let (mut passages, mut passage, mut in_code) = (Vec::new(), String::new(), false);
    for line in page.lines().map(str::trim) {
        let is_fence = line.starts_with("```");
        in_code ^= is_fence;
        if is_fence || in_code || line.is_empty() || line.starts_with(['#', '|', '-', '<', '!']) {
            passages.push(take(&mut passage));
        }
        if line.starts_with('|') {
            passages.extend(line.replace("\\|", "").split('|').map(str::to_owned));
        } else if !(is_fence || in_code || line.starts_with(['#', '<', '!'])) {
            passage += line.trim_start_matches("- ");
        }
    }
    passages.push(passage);
    passages.iter().map(|passage| without_targets(passage)).collect()
}

fn without_targets(passage: &str) -> String {
    let mut parts = passage.split("](");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text += part.split_once(')').map_or(part, |(_, rest)| rest);
    }
    text
}

/// The sentences of a page with their lengths.
fn sentences(page: &str) -> Vec<(usize, String)> {
    let passages = passages(page);
    let sentences = passages.iter().flat_map(|it| it.split_inclusive(['。', '！', '？', '；']));
    sentences.map(|it| (length(it), it.to_owned())).collect()
}

fn length(sentence: &str) -> usize {
    let (mut count, mut in_word) = (0, false);
    for (place, part) in sentence.split('`').enumerate() {
        if place % 2 == 1 {
            count += usize::from(!in_word);
            in_word = true;
            continue;
        }
        for c in part.chars() {
            let is_wide = matches!(c, '\u{3000}'..='\u{9fff}' | '\u{ff00}'..='\u{ffef}');
            let is_word =
                c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | ':' | '+' | '-');
            count += usize::from(is_wide || (is_word && !in_word));
            in_word = is_word;
        }
    }
    count
}

#[test]
fn no_sentence_of_the_chinese_pages_is_long() {
    let mut found = Vec::new();
    let pages = names().into_iter().chain([INDEX.to_owned()]);
    let pages = pages.map(|name| format!("docs/zh/{name}"));
    for page in pages.chain(["README.zh.md".to_owned()]) {
        let long = sentences(&read(&page)).into_iter().filter(|(length, _)| *length > LONGEST);
        found.extend(long.map(|(length, sentence)| format!("{page}: {length}: {sentence}")));
    }
    assert!(found.is_empty(), "longer than {LONGEST}:\n{}", found.join("\n"));
}

#[test]
fn a_sentence_is_measured_without_its_code_and_links() {
    let page = "# 标题\n\n键 `a/b c` 在[这里](x.md#y)。下一句；\n再一句\n\n```lua\n代码。\n```\n\n| 甲乙 | 丙 |\n|---|---|\n- 丁 12.5 ms\n";
    let lengths = sentences(page).into_iter().map(|(length, _)| length).filter(|it| *it > 1);
    assert_eq!(lengths.collect::<Vec<_>>(), [6, 4, 3, 2, 3]);
}

/// The names of the pages that a text links to with this prefix.
fn linked(text: &str, prefix: &str) -> BTreeSet<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let names = targets.filter_map(|target| target.strip_prefix(prefix));
    names.filter(|name| name.ends_with(".md") && !name.contains('/')).map(str::to_owned).collect()
}

/// A page is in Chinese or listed as English alone: none is there by half.
#[test]
fn the_index_lists_each_page_once_and_says_which_are_in_english_alone() {
    let index = read("docs/zh/README.md");
    let (translated, rest) = index.split_once("## 只有英文的页面").expect("the heading");
    let english_alone = rest.split("\n## ").next().unwrap_or_default();
    assert_eq!(linked(translated, ""), names().into_iter().collect());
    let entries =
        fs::read_dir("docs").expect("docs").map(|entry| entry.expect("an entry").file_name());
    let pages =
        entries.filter_map(|name| name.into_string().ok()).filter(|name| name.ends_with(".md"));
    let pages: BTreeSet<_> =
        pages.filter(|name| name != INDEX && !names().contains(name)).collect();
    assert_eq!(linked(english_alone, "../"), pages);
}

/// Pages for operators, for installing and for moving are complete in Chinese.
#[test]
fn pages_for_operators_first_steps_and_migrations_are_in_chinese() {
    let (index, names) = (read("docs/README.md"), names());
    let part = |title: &str| {
        let (_, rest) = index.split_once(&format!("## {title}\n")).expect(title);
        linked(rest.split("\n## ").next().unwrap_or_default(), "")
    };
    let all = linked(&index, "").into_iter();
    let moves = all.filter(|name| {
        name.contains("migrat") || ["operating.md", "consul-ha.md"].contains(&&**name)
    });
    let needed: Vec<_> =
        part("First steps").into_iter().chain(part("Operations")).chain(moves).collect();
    assert!(needed.len() > 12, "{needed:?}");
    let missing: Vec<_> = needed.iter().filter(|name| !names.contains(name)).collect();
    assert!(missing.is_empty(), "not in docs/zh: {missing:?}");
}
