//! What the program prints: tables for people, JSON for programs.

use super::arguments::Watched;
use super::failure::Failure;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};
use std::process;
use std::time::Duration;

/// Clears a terminal, for the next look.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// One look at something: the same as text and as JSON, and whether it is well.
pub struct Shown {
    pub text: String,
    pub json: Value,
    pub is_well: bool,
}

impl Shown {
    pub fn well(text: String, json: Value) -> Self {
        Shown { text, json, is_well: true }
    }
}

#[derive(Clone, Copy)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Prints one look.
    pub fn show(self, shown: &Shown) -> Result<(), Failure> {
        if self.json {
            print_json(&shown.json);
        } else {
            print(&inert(shown.text.trim_end()));
        }
        if shown.is_well { Ok(()) } else { Err(Failure::NotWell) }
    }

    /// Looks once, or again and again if asked to.
    pub async fn repeated<F: Future<Output = Result<Shown, Failure>>>(
        self,
        watched: &Watched,
        mut look: impl FnMut() -> F,
    ) -> Result<(), Failure> {
        let Some(seconds) = watched.watch else { return self.show(&look().await?) };
        let clears = !self.json && io::stdout().is_terminal();
        loop {
            let shown = look().await;
            if clears {
                print(CLEAR);
            }
            match shown {
                Ok(shown) => _ = self.show(&shown),
                Err(failure) => self.failure(&failure),
            }
            if !self.json && !clears {
                print("");
            }
            tokio::time::sleep(Duration::from_secs(seconds.into())).await;
        }
    }

    /// Says what was done, or would be.
    pub fn done(self, text: &str, mut json: Value, is_dry: bool) {
        if self.json {
            json["dry_run"] = is_dry.into();
            print_json(&json);
        } else if is_dry {
            print(&format!("would be done: {}", line(text)));
        } else {
            print(&line(text));
        }
    }

    pub fn failure(self, failure: &Failure) {
        let text = failure.to_string();
        if text.is_empty() {
            return;
        }
        if self.json {
            print_json(&failed(failure.kind(), &text));
        }
        say(&format!("consul-ha: {text}"));
    }
}

/// A failure for programs.
pub fn failed(kind: &str, message: &str) -> Value {
    json!({ "error": { "kind": kind, "message": message } })
}

/// The exit status when the output cannot be written.
const UNWRITTEN: i32 = 1;

/// Prints a line. When nobody reads any more, the program ends.
pub fn print(line: &str) {
    let mut stdout = io::stdout();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => process::exit(0),
        Err(error) => {
            say(&format!("consul-ha: the output cannot be written: {error}"));
            process::exit(UNWRITTEN);
        }
    }
}

/// Prints a document, without characters that a terminal acts on.
pub fn print_json(json: &Value) {
    let mut text = String::new();
    for c in json.to_string().chars() {
        match acts(c) {
            // Such a character is within a string.
            true => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => text.push(c),
        }
    }
    print(&text);
}

/// Prints a line for people on standard error.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{}", line(text));
}

/// Whether a terminal acts on a character instead of showing it: it is a control character, or changes the
/// direction of what follows.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text of others as a part of one line.
pub fn line(text: &str) -> String {
    let shown = |c: char| if acts(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// A text of several lines, each of which is inert.
fn inert(text: &str) -> String {
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// A table without borders; the columns of numbers are aligned to the right.
pub fn table(
    header: &[&str],
    numbers: &[usize],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| line(cell)));
    }
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&place) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// A count with its noun.
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// How long ago this moment was, in words for people.
pub fn ago(at_ms: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = now.map_or(0, |now| (now.as_millis() as u64).saturating_sub(at_ms) / 1000);
    match seconds {
        0..=119 => format!("{seconds} s ago"),
        120..=7199 => format!("{} min ago", seconds / 60),
        7200..=172_799 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "\u{1b}[2J\u{202e}live\nFORGED";

    #[test]
    fn what_others_wrote_stays_one_line_that_a_terminal_only_shows() {
        let shown = r"\u{1b}[2J\u{202e}live\nFORGED";
        assert_eq!(line(HOSTILE), shown);
        assert_eq!(line("größe 東京 'x'"), "größe 東京 'x'");
        let table = table(&["A", "B"], &[], [vec![HOSTILE.to_owned(), "x".to_owned()]]);
        assert_eq!(table.lines().nth(1), Some(format!("{shown}  x").as_str()));
        assert_eq!(inert("a\n\u{7}b"), "a\n\\u{7}b");
    }
}
