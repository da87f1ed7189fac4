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
            print(&shown.json.to_string());
        } else {
            print(shown.text.trim_end());
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
            print(&json.to_string());
        } else if is_dry {
            print(&format!("would be done: {text}"));
        } else {
            print(text);
        }
    }

    pub fn failure(self, failure: &Failure) {
        let text = failure.to_string();
        if text.is_empty() {
            return;
        }
        if self.json {
            print(&json!({ "error": { "kind": failure.kind(), "message": text } }).to_string());
        }
        say(&format!("consul-ha: {text}"));
    }
}

/// Prints a line. When nobody reads any more, the program ends.
pub fn print(line: &str) {
    let mut stdout = io::stdout();
    if writeln!(stdout, "{line}").and_then(|()| stdout.flush()).is_err() {
        process::exit(0);
    }
}

/// Prints a line for people on standard error.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
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
    rows.into_iter().for_each(|row| _ = table.add_row(row));
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
