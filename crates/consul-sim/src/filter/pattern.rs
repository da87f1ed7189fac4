//! Regular expressions in RE2's syntax, as Go's `regexp` reads it, with the texts of its errors.
//!
//! A pattern is rewritten for the `regex_lite` crate, whose syntax differs in details. Not
//! supported are Unicode classes (`\pL`), which get Go's error for an unknown class, `(?i)` for
//! letters beyond ASCII, and more than 50 nested groups.

use regex_lite::Regex;
use std::fmt::Write;

/// Compiles a pattern; the error is Go's.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    let mut rewriter =
        Rewriter { pattern, at: 0, open: 0, can_repeat: false, repeat: None, out: String::new() };
    let whole = match rewriter.rewrite() {
        Ok(()) => Regex::new(&rewriter.out).map_err(|_| ("expression too large", pattern)),
        Err(error) => Err(error),
    };
    whole.map_err(|(why, part)| format!("error parsing regexp: {why}: `{part}`"))
}

/// The error, and the part of the pattern that it is about.
type Fault<'a> = (&'static str, &'a str);

struct Rewriter<'a> {
    pattern: &'a str,
    at: usize,
    /// The number of open groups.
    open: usize,
    /// Whether a repetition can follow.
    can_repeat: bool,
    /// The start of the repetition that ends here.
    repeat: Option<usize>,
    out: String,
}

const MISSING_BRACKET: &str = "missing closing ]";
const INVALID_RANGE: &str = "invalid character class range";
const INVALID_ESCAPE: &str = "invalid escape sequence";
const INVALID_CAPTURE: &str = "invalid named capture";
const INVALID_COUNT: &str = "invalid repeat count";

/// The largest count of a repetition.
const MAX_COUNT: u64 = 1000;

const NAMED_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "word", "xdigit",
];

impl<'a> Rewriter<'a> {
    fn rest(&self) -> &'a str {
        &self.pattern[self.at..]
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn skip(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        self.at += if found { text.len() } else { 0 };
        found
    }

    fn since(&self, start: usize) -> &'a str {
        &self.pattern[start..self.at]
    }

    fn rewrite(&mut self) -> Result<(), Fault<'a>> {
        loop {
            let start = self.at;
            let last_repeat = self.repeat.take();
            let Some(c) = self.next() else { break };
            match c {
                '(' if self.skip("?") => self.group_with_flags(start)?,
                '(' => self.open_group("("),
                ')' if self.open == 0 => return Err(("unexpected )", self.pattern)),
                ')' => {
                    self.open -= 1;
                    self.item(")");
                }
                '|' => {
                    self.out.push('|');
                    self.can_repeat = false;
                }
                '^' | '$' | '.' => self.item(&self.pattern[start..self.at]),
                '[' => self.class(start)?,
                '*' | '+' | '?' => self.repetition(start, last_repeat)?,
                '{' => match self.count(start)? {
                    true => self.repetition(start, last_repeat)?,
                    false => self.literal('{'),
                },
                '\\' => self.escaped(start)?,
                c => self.literal(c),
            }
        }
        if self.open > 0 { Err(("missing closing )", self.pattern)) } else { Ok(()) }
    }

    fn item(&mut self, text: &str) {
        self.out.push_str(text);
        self.can_repeat = true;
    }

    /// A literal character, also in a class.
    fn character(&mut self, c: char) {
        match c {
            c if c.is_ascii_alphanumeric() || !c.is_ascii() => self.out.push(c),
            // Writing to a string cannot fail.
            c => drop(write!(self.out, "\\x{{{:x}}}", u32::from(c))),
        }
    }

    fn literal(&mut self, c: char) {
        self.character(c);
        self.can_repeat = true;
    }

    fn open_group(&mut self, text: &str) {
        self.open += 1;
        self.out.push_str(text);
        self.can_repeat = false;
    }

    /// The rest of `(?`: a named group, a group with flags, or flags for the rest.
    fn group_with_flags(&mut self, start: usize) -> Result<(), Fault<'a>> {
        if (self.rest().starts_with("P<") && self.rest().len() > 2) || self.rest().starts_with('<')
        {
            let name_at = self.at + self.rest().find('<').map_or(0, |place| place + 1);
            let Some(length) = self.pattern[name_at..].find('>') else {
                return Err((INVALID_CAPTURE, &self.pattern[start..]));
            };
            let name = &self.pattern[name_at..name_at + length];
            self.at = name_at + length + 1;
            let is_valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(is_valid) {
                return Err((INVALID_CAPTURE, self.since(start)));
            }
            self.open_group("(");
            return Ok(());
        }
        let mut flags = [String::new(), String::new()];
        let mut is_off = false;
        while let Some(c) = self.next() {
            match c {
                // Each once; the last one of on and off counts.
                'i' | 'm' | 's' | 'U' => {
                    flags.iter_mut().for_each(|flags| flags.retain(|flag| flag != c));
                    flags[usize::from(is_off)].push(c);
                }
                '-' if !is_off => is_off = true,
                ':' | ')' if !is_off || !flags[1].is_empty() => {
                    let [on, off] = &flags;
                    let sign = if off.is_empty() { "" } else { "-" };
                    match (c, on.is_empty() && off.is_empty()) {
                        (':', _) => self.open_group(&format!("(?{on}{sign}{off}:")),
                        (_, true) => (),
                        (_, false) => self.out.push_str(&format!("(?{on}{sign}{off})")),
                    }
                    return Ok(());
                }
                _ => break,
            }
        }
        Err(("invalid or unsupported Perl syntax", self.since(start)))
    }

    /// Adds a repetition that was read from `start` on, and a `?` behind it.
    fn repetition(&mut self, start: usize, last: Option<usize>) -> Result<(), Fault<'a>> {
        self.skip("?");
        if let Some(last) = last {
            return Err(("invalid nested repetition operator", self.since(last)));
        }
        if !self.can_repeat {
            return Err(("missing argument to repetition operator", self.since(start)));
        }
        self.out.push_str(self.since(start));
        self.repeat = Some(start);
        Ok(())
    }

    /// Reads `2}`, `2,}` or `2,3}`; in anything else, the brace is a literal.
    fn count(&mut self, start: usize) -> Result<bool, Fault<'a>> {
        let Some((inner, _)) = self.rest().split_once('}') else { return Ok(false) };
        let (low, high) = inner.split_once(',').unwrap_or((inner, inner));
        let is_number = |text: &str| {
            let has_leading_zero = text.len() > 1 && text.starts_with('0');
            !text.is_empty() && !has_leading_zero && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !is_number(low) || !(high.is_empty() || is_number(high)) {
            return Ok(false);
        }
        self.at += inner.len() + 1;
        let number = |text: &str| text.parse().unwrap_or(u64::MAX);
        let (low, high) = (number(low), if high.is_empty() { MAX_COUNT } else { number(high) });
        if low > high || high > MAX_COUNT {
            return Err((INVALID_COUNT, self.since(start)));
        }
        Ok(true)
    }

    /// Reads an escape outside of a class, after the backslash.
    fn escaped(&mut self, start: usize) -> Result<(), Fault<'a>> {
        let rest = self.rest();
        match rest.chars().next() {
            Some('A' | 'b' | 'B' | 'z' | 'd' | 'D' | 's' | 'S' | 'w' | 'W') => {
                self.at += 1;
                self.item(&self.pattern[start..self.at]);
            }
            Some('Q') => {
                let literal = rest[1..].split("\\E").next().unwrap_or("");
                self.at += 1 + literal.len();
                self.skip("\\E");
                literal.chars().for_each(|c| self.literal(c));
            }
            Some('p' | 'P') => return self.unicode_class(start),
            _ => {
                let c = self.escape(start)?;
                self.literal(c);
            }
        }
        Ok(())
    }

    fn unicode_class<T>(&mut self, start: usize) -> Result<T, Fault<'a>> {
        self.next();
        let is_long = self.next() == Some('{');
        if is_long {
            self.at += self.rest().find('}').map_or(self.rest().len(), |place| place + 1);
        }
        Err((INVALID_RANGE, self.since(start)))
    }

    /// Reads an escaped character, after the backslash.
    fn escape(&mut self, start: usize) -> Result<char, Fault<'a>> {
        let Some(c) = self.next() else {
            return Err(("trailing backslash at end of expression", ""));
        };
        let value = match c {
            'a' => Some(0x07),
            'f' => Some(0x0c),
            'n' => Some(0x0a),
            'r' => Some(0x0d),
            't' => Some(0x09),
            'v' => Some(0x0b),
            'x' => self.hexadecimal(),
            '0' => Some(self.octal(start)),
            // One digit alone would be a backreference.
            '1'..='7' if self.rest().starts_with(|c: char| c.is_digit(8)) => {
                Some(self.octal(start))
            }
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => return Ok(c),
            _ => None,
        };
        value.and_then(char::from_u32).ok_or_else(|| (INVALID_ESCAPE, self.since(start)))
    }

    fn octal(&mut self, start: usize) -> u32 {
        while self.at < start + 4 && self.rest().starts_with(|c: char| c.is_digit(8)) {
            self.at += 1;
        }
        u32::from_str_radix(&self.pattern[start + 1..self.at], 8).unwrap_or(0)
    }

    fn hexadecimal(&mut self) -> Option<u32> {
        if !self.skip("{") {
            // Both are read before either is checked.
            let (high, low) = (self.next()?.to_digit(16), self.next()?.to_digit(16));
            return Some(high? * 16 + low?);
        }
        let mut value = None;
        loop {
            match self.next()? {
                '}' => return value,
                c => value = Some(value.unwrap_or(0) * 16 + c.to_digit(16)?),
            }
            value = value.filter(|value| *value <= u32::from(char::MAX));
            value?;
        }
    }

    fn class(&mut self, start: usize) -> Result<(), Fault<'a>> {
        self.out.push('[');
        if self.skip("^") {
            self.out.push('^');
        }
        let mut is_first = true;
        while is_first || !self.skip("]") {
            is_first = false;
            let item = self.at;
            if self.rest().starts_with("[:") && self.named_class()? {
                continue;
            }
            if self.rest().starts_with("\\p") || self.rest().starts_with("\\P") {
                self.at += 1;
                return self.unicode_class(item);
            }
            if let Some(class) = ["\\d", "\\D", "\\s", "\\S", "\\w", "\\W"]
                .into_iter()
                .find(|class| self.skip(class))
            {
                self.out.push_str(class);
                continue;
            }
            let low = self.class_character(start)?;
            let mut high = low;
            let rest = self.rest();
            if rest.len() > 1 && rest.starts_with('-') && !rest.starts_with("-]") {
                self.at += 1;
                high = self.class_character(start)?;
            }
            if high < low {
                return Err((INVALID_RANGE, self.since(item)));
            }
            self.character(low);
            self.out.push('-');
            self.character(high);
        }
        self.item("]");
        Ok(())
    }

    /// Reads `[:alpha:]` and the like; false if it does not end as one.
    fn named_class(&mut self) -> Result<bool, Fault<'a>> {
        let start = self.at;
        let Some(length) = self.rest()[2..].find(":]") else { return Ok(false) };
        self.at += length + 4;
        let name = &self.pattern[start + 2..start + 2 + length];
        if !NAMED_CLASSES.contains(&name.strip_prefix('^').unwrap_or(name)) {
            return Err((INVALID_RANGE, self.since(start)));
        }
        self.out.push_str(self.since(start));
        Ok(true)
    }

    fn class_character(&mut self, class: usize) -> Result<char, Fault<'a>> {
        let start = self.at;
        match self.next() {
            None => Err((MISSING_BRACKET, &self.pattern[class..])),
            Some('\\') => self.escape(start),
            Some(c) => Ok(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, text, matches) in [
            ("", "x", true),
            ("^web[0-9]$", "web1", true),
            ("(?i)WEB", "web1", true),
            ("(?ii-s:A).", "ab", true),
            ("a(?)b", "ab", true),
            ("(?P<1>a)(?<1>b)", "ab", true),
            ("a{2}", "aa", true),
            ("a{,2}", "a{,2}", true),
            ("a{01}", "a", false),
            ("x{", "x{", true),
            ("\\Qa.b\\E.", "a.bc", true),
            ("\\Qa.b\\E", "axb", false),
            ("\\x41\\x{62}\\103\\01", "AbC\u{1}", true),
            ("\\<a\\>", "<a>", true),
            ("[]a]+$", "]a", true),
            ("[a&&b]", "&", true),
            ("[[:alpha:][:^alpha:]]", "1", true),
            ("[[a]", "[", true),
            ("[^a-]", "-", false),
            ("[^\\d]", "1", false),
            ("a$", "a\n", false),
            (".", "\n", false),
            ("~# -ü", "~# -ü", true),
        ] {
            let compiled = compile(pattern).map(|regex| regex.is_match(text));
            assert_eq!(compiled, Ok(matches), "{pattern} on {text}");
        }
    }

    #[test]
    fn invalid_patterns_are_refused_with_gos_errors() {
        for (pattern, error) in [
            ("[", "missing closing ]: `[`"),
            ("x[^a", "missing closing ]: `[^a`"),
            ("(a", "missing closing ): `(a`"),
            ("a)", "unexpected ): `a)`"),
            ("*a", "missing argument to repetition operator: `*`"),
            ("a|{2}", "missing argument to repetition operator: `{2}`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a{2}*?", "invalid nested repetition operator: `{2}*?`"),
            ("a{2,1}", "invalid repeat count: `{2,1}`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("\\", "trailing backslash at end of expression: ``"),
            ("\\y", "invalid escape sequence: `\\y`"),
            ("\\8", "invalid escape sequence: `\\8`"),
            ("\\x{110000}", "invalid escape sequence: `\\x{110000`"),
            ("[b-a]", "invalid character class range: `b-a`"),
            ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
            ("\\p{Foo}", "invalid character class range: `\\p{Foo}`"),
            ("(?x)", "invalid or unsupported Perl syntax: `(?x`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?i", "invalid or unsupported Perl syntax: `(?i`"),
            ("(?P<a-b>c)", "invalid named capture: `(?P<a-b>`"),
            ("(?P<a", "invalid named capture: `(?P<a`"),
        ] {
            let refused = compile(pattern).map(|_| ());
            assert_eq!(refused, Err(format!("error parsing regexp: {error}")), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn compiling_never_panics(pattern in "\\PC*") {
            let _ = compile(&pattern);
        }
    }
}
