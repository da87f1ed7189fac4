//! Matches text piece by piece, with the errors of the PEG parser that Consul uses.
//!
//! The errors have two sources. Some rules report one themselves; it stands even if another
//! alternative then matches. If there is none, the error lists what would have been accepted at the
//! farthest position. So every attempt to match is recorded here.

use crate::go;
use std::collections::BTreeSet;

/// A text and the position in it.
pub(super) struct Scanner<'a> {
    text: &'a str,
    pub at: usize,
    /// The number of open parentheses.
    pub depth: usize,
    /// Inside a negative look-ahead, where a match was not expected.
    inverted: bool,
    /// The farthest position of an attempt, and what was expected there.
    farthest: usize,
    expected: BTreeSet<String>,
    errors: Vec<String>,
}

/// A class of characters, with its name in errors.
pub(super) type Class = (&'static str, fn(char) -> bool);

const SPACE: Class = ("[ \\t\\r\\n]", |c| matches!(c, ' ' | '\t' | '\r' | '\n'));
pub(super) const LETTER: Class = ("[a-zA-Z]", |c| c.is_ascii_alphabetic());
pub(super) const WORD: Class = ("[a-zA-Z0-9_]", |c| c.is_ascii_alphanumeric() || c == '_');
pub(super) const DIGIT: Class = ("[0-9]", |c| c.is_ascii_digit());
pub(super) const LEADING_DIGIT: Class = ("[1-9]", |c| matches!(c, '1'..='9'));
pub(super) const ANY: Class = (".", |_| true);

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
            inverted: false,
            farthest: 0,
            expected: BTreeSet::new(),
            errors: Vec::new(),
        }
    }

    /// The result of parsing the whole text. The error is the text of all errors, one per line.
    pub fn finish<T>(self, found: Option<T>) -> Result<T, String> {
        match found {
            _ if !self.errors.is_empty() => Err(self.errors.join("\n")),
            Some(found) => Ok(found),
            None => Err(self.no_match()),
        }
    }
}

/// Matching: each method advances, or returns `None` and stays.
impl Scanner<'_> {
    fn record(&mut self, matched: bool, at: usize, what: &str) {
        if matched != self.inverted || at < self.farthest {
            return;
        }
        if at > self.farthest {
            self.farthest = at;
            self.expected.clear();
        }
        let sign = if self.inverted { "!" } else { "" };
        self.expected.insert(format!("{sign}{what}"));
    }

    pub fn literal(&mut self, wanted: &str) -> Option<()> {
        let matched = self.text[self.at..].starts_with(wanted);
        self.record(matched, self.at, &go::quoted(wanted));
        matched.then(|| self.at += wanted.len())
    }

    pub fn class(&mut self, (name, accepts): Class) -> Option<()> {
        let next = self.text[self.at..].chars().next().filter(|c| accepts(*c));
        self.record(next.is_some(), self.at, name);
        next.map(|c| self.at += c.len_utf8())
    }

    pub fn attempt<T>(&mut self, part: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let start = self.at;
        let found = part(self);
        if found.is_none() {
            self.at = start;
        }
        found
    }

    pub fn is_ahead<T>(&mut self, part: impl FnOnce(&mut Self) -> Option<T>) -> bool {
        let start = self.at;
        let found = part(self).is_some();
        self.at = start;
        found
    }

    pub fn is_not_ahead<T>(&mut self, part: impl FnOnce(&mut Self) -> Option<T>) -> bool {
        self.inverted = !self.inverted;
        let found = self.is_ahead(part);
        self.inverted = !self.inverted;
        !found
    }

    pub fn slice(&mut self, part: impl FnOnce(&mut Self) -> Option<()>) -> Option<String> {
        let start = self.at;
        self.attempt(part)?;
        Some(self.text[start..self.at].to_owned())
    }

    pub fn space(&mut self) -> Option<()> {
        self.class(SPACE)?;
        while self.class(SPACE).is_some() {}
        Some(())
    }

    pub fn end(&mut self) -> Option<()> {
        self.is_not_ahead(|p| p.class(ANY)).then_some(())
    }
}

/// Errors.
impl Scanner<'_> {
    /// A position as `line:column (offset)`. A line break is column 0 of the line that it begins.
    fn place(&self, at: usize) -> String {
        let (before, after) = self.text.split_at(at);
        let (line, column) = match after.starts_with('\n') {
            true => (2 + before.matches('\n').count(), 0),
            false => {
                let line = before.rsplit('\n').next().unwrap_or("");
                (1 + before.matches('\n').count(), 1 + line.chars().count())
            }
        };
        format!("{line}:{column} ({at})")
    }

    /// Records the error of a rule.
    pub fn error(&mut self, at: usize, rule: &str, why: &str) {
        let error = format!("{}: rule \"{rule}\": {why}", self.place(at));
        // Every alternative that gets this far reports it again.
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    fn no_match(mut self) -> String {
        let wants_end = self.expected.remove("!.");
        let mut expected: Vec<_> = std::mem::take(&mut self.expected).into_iter().collect();
        expected.extend(wants_end.then(|| "EOF".to_owned()));
        let last = expected.pop().unwrap_or_default();
        let list = match expected.is_empty() {
            true => last,
            false => format!("{} or {last}", expected.join(", ")),
        };
        format!("{}: no match found, expected: {list}", self.place(self.farthest))
    }
}
