//! Matches text piece by piece, with the errors of the PEG parser that Consul uses.
//!
//! The errors have two sources. Some rules report one themselves; it stands even if another
//! alternative then matches. If there is none, the error has the farthest position at which nothing matched; what would have been
//! accepted there, which Consul lists, is left out.

/// A text and the position in it.
pub(super) struct Scanner<'a> {
    text: &'a str,
    pub at: usize,
    /// The number of open parentheses.
    pub depth: usize,
    /// The farthest position at which something did not match.
    farthest: usize,
    errors: Vec<String>,
}

/// A class of characters.
pub(super) type Class = fn(char) -> bool;

const SPACE: Class = |c| matches!(c, ' ' | '\t' | '\r' | '\n');
pub(super) const LETTER: Class = |c| c.is_ascii_alphabetic();
pub(super) const WORD: Class = |c| c.is_ascii_alphanumeric() || c == '_';
pub(super) const DIGIT: Class = |c| c.is_ascii_digit();
pub(super) const LEADING_DIGIT: Class = |c| matches!(c, '1'..='9');
pub(super) const ANY: Class = |_| true;

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0, farthest: 0, errors: Vec::new() }
    }

    /// The result of parsing the whole text. The error is the text of all errors, one per line.
    pub fn finish<T>(self, found: Option<T>) -> Result<T, String> {
        match found {
            _ if !self.errors.is_empty() => Err(self.errors.join("\n")),
            Some(found) => Ok(found),
            None => Err(format!("{}: no match found", self.place(self.farthest))),
        }
    }
}

/// Matching: each method advances, or returns `None` and stays.
impl Scanner<'_> {
    fn advance(&mut self, length: Option<usize>) -> Option<()> {
        match length {
            Some(length) => self.at += length,
            None => self.farthest = self.farthest.max(self.at),
        }
        length.map(drop)
    }

    pub fn literal(&mut self, wanted: &str) -> Option<()> {
        let matched = self.text[self.at..].starts_with(wanted);
        self.advance(matched.then_some(wanted.len()))
    }

    pub fn class(&mut self, accepts: Class) -> Option<()> {
        let next = self.text[self.at..].chars().next().filter(|c| accepts(*c));
        self.advance(next.map(char::len_utf8))
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
        let farthest = self.farthest;
        let found = self.is_ahead(part);
        self.farthest = if found { farthest.max(self.at) } else { farthest };
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
    pub fn place(&self, at: usize) -> String {
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
}
