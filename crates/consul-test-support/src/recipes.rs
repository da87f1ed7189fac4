//! The recipes of the operators' page: a section each, with the commands and what they print.

use super::pages::read;
use std::fmt::Write as _;

/// The page with the recipes.
pub const PAGE: &str = "docs/operating.md";

/// The section with the commands that stand for the reader's own.
const PREAMBLE: &str = "Before you begin";

/// Where a recipe runs in tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setting {
    /// On nodes, at consul-sim; with LONG at a real Consul, too.
    Nodes,
    /// As [`Setting::Nodes`], on nodes of their own, so that both run at the same time.
    Secrets,
    /// On nodes and three real servers of Consul.
    Servers,
}

/// Every recipe, in the order in which its setting runs them.
pub const RECIPES: &[(&str, Setting)] = &[
    ("Rolling restart", Setting::Nodes),
    ("Adding a node", Setting::Nodes),
    ("Removing a node", Setting::Nodes),
    ("Replacing a dead node", Setting::Nodes),
    ("Making the replicas of a node again", Setting::Nodes),
    ("Moving the leadership", Setting::Nodes),
    ("Rotating the tokens", Setting::Secrets),
    ("Rotating the nodes' certificates and their CA", Setting::Secrets),
    ("Rotating the cluster key", Setting::Secrets),
    ("Upgrading", Setting::Nodes),
    ("Rotating Consul's certificates and their CA", Setting::Servers),
    ("Backup", Setting::Servers),
    ("Restoring a snapshot of Consul", Setting::Servers),
    ("Going back to a backup of the records", Setting::Servers),
    ("A lost quorum of Consul", Setting::Servers),
];

/// Commands, and what they print if the page shows it.
pub struct Step {
    pub commands: String,
    pub prints: Option<String>,
}

/// A section of the page.
pub struct Recipe {
    pub name: String,
    pub steps: Vec<Step>,
}

/// The commands before the recipes, and the recipes.
pub fn recipes() -> (String, Vec<Recipe>) {
    let page = read(PAGE);
    let sections = page.split("\n## ").skip(1).map(section);
    let (preamble, recipes): (Vec<_>, _) = sections.partition(|it| it.name == PREAMBLE);
    let steps = preamble.into_iter().flat_map(|it| it.steps);
    (steps.map(|step| step.commands).collect::<Vec<_>>().join("\n"), recipes)
}

fn section(text: &str) -> Recipe {
    let name = text.lines().next().unwrap_or_default().to_owned();
    let mut steps: Vec<Step> = Vec::new();
    for (language, block) in super::pages::blocks(text) {
        match (language.as_str(), steps.last_mut()) {
            ("sh", _) => steps.push(Step { commands: block, prints: None }),
            ("text", Some(step)) if step.prints.is_none() => step.prints = Some(block),
            _ => {}
        }
    }
    Recipe { name, steps }
}

/// Compares what was printed with the page: white space, numbers, ids and addresses may differ, `…` stands for the rest of a
/// line, and a line `…` for any lines. `Err` has both.
pub fn compare(shown: &str, printed: &str) -> Result<(), String> {
    let lines =
        |text: &str| text.lines().map(normal).filter(|it| !it.is_empty()).collect::<Vec<_>>();
    let (wanted, found) = (lines(shown), lines(printed));
    if matches(&wanted, &found) {
        return Ok(());
    }
    let mut why = String::new();
    let _ = write!(why, "the page shows\n{shown}\nand the commands have printed\n{printed}");
    Err(why)
}

fn matches(wanted: &[String], found: &[String]) -> bool {
    match (wanted, found) {
        ([], found) => found.is_empty(),
        ([any, rest @ ..], found) if any == "…" => {
            (0..=found.len()).any(|skipped| matches(rest, &found[skipped..]))
        }
        ([line, wanted @ ..], [first, found @ ..]) => {
            let fits = match line.strip_suffix('…') {
                Some(beginning) => first.starts_with(beginning.trim_end()),
                None => line == first,
            };
            fits && matches(wanted, found)
        }
        _ => false,
    }
}

/// A line with `#` for each word that is a number, an id or an address.
fn normal(line: &str) -> String {
    let word = |word: &str| -> String {
        let core = word.trim_matches(|c: char| !c.is_alphanumeric());
        let is_number = core.starts_with(|c: char| c.is_ascii_digit())
            && core.chars().all(|c| c.is_ascii_digit() || ".:/-".contains(c));
        let is_id = core.len() == 36 && core.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        if is_number || is_id { word.replace(core, "#") } else { word.to_owned() }
    };
    line.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn numbers_may_differ_and_words_may_not() {
        let shown = "NODE  LAG\nn1    127.0.0.1:9001  7\n…\nelected 3 s ago, token 17…";
        let printed = "NODE LAG\nn1 127.0.0.1:31002 12\nn2\nelected 0 s ago, token 4 of n1";
        compare(shown, printed).expect("the same but for numbers");
        for other in [
            "NODE LAG\nn2 127.0.0.1:31002 12\nelected 0 s ago, token 4",
            "NODE LAG\nn1 127.0.0.1:31002 12\nelected 0 s ago",
            "NODE LAG\nn1 127.0.0.1:31002 12\nelected 0 s ago, token 4\nmore",
        ] {
            compare(shown, other).expect_err(other);
        }
    }
}
