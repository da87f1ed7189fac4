//! The tokens of HCL, with the places and the words of HashiCorp's scanner in version 1 of the language.
//!
//! Its errors do not stop it: the last one outweighs what the parser then finds wrong. Each look beyond the end of the text
//! counts as a column.

/// A line and a column, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place(pub usize, pub usize);

impl Place {
    pub(super) fn error<T>(self, what: &str) -> Result<T, String> {
        Err(format!("At {}:{}: {what}", self.0, self.1))
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Identifier,
    Bool,
    Number,
    Float,
    Text,
    Heredoc,
    Sign(char),
    Illegal,
    End,
}

impl Kind {
    /// The kind's name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Identifier => "IDENT",
            Self::Bool => "BOOL",
            Self::Number => "NUMBER",
            Self::Float => "FLOAT",
            Self::Text => "STRING",
            Self::Heredoc => "HEREDOC",
            Self::Sign('{') => "LBRACE",
            Self::Sign('}') => "RBRACE",
            Self::Sign('[') => "LBRACK",
            Self::Sign(']') => "RBRACK",
            Self::Sign('=') => "ASSIGN",
            Self::Sign('.') => "PERIOD",
            Self::Sign('+') => "ADD",
            Self::Sign('-') => "SUB",
            Self::Sign(_) => "COMMA",
            Self::Illegal => "ILLEGAL",
            Self::End => "EOF",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Token {
    pub kind: Kind,
    pub place: Place,
    /// As it is written.
    pub text: String,
    /// The value of a string or a heredoc.
    pub value: String,
}

pub(super) struct Scanner {
    text: Vec<char>,
    at: usize,
    /// The line, and how many characters of it are read.
    line: usize,
    column: usize,
    last_line_length: usize,
    before: (usize, usize),
    error: Option<(Place, String)>,
}

impl Scanner {
    pub(super) fn new(text: &str) -> Self {
        let text = text.replace("\r\n", "\n").chars().collect();
        Self { text, at: 0, line: 1, column: 0, last_line_length: 0, before: (1, 0), error: None }
    }

    /// The last error, which outweighs the parser's errors.
    pub(super) fn error(&self) -> Option<String> {
        let (place, what) = self.error.as_ref()?;
        place.error::<()>(what).err()
    }

    fn fail(&mut self, what: &str) {
        self.error = Some((self.place(), what.to_owned()));
    }

    /// Where the last character is.
    fn place(&self) -> Place {
        match self.column {
            0 => Place(self.line - 1, self.last_line_length),
            column => Place(self.line, column),
        }
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.before = (self.line, self.column);
        self.column += 1;
        self.at += usize::from(next.is_some());
        match next {
            Some('\n') => {
                self.line += 1;
                self.last_line_length = self.column;
                self.column = 0;
            }
            Some('\0') => {
                self.fail("unexpected null character (0x00)");
                return None;
            }
            _ => {}
        }
        next
    }

    /// Goes back before the last character, if it was one.
    fn back(&mut self, last: Option<char>) {
        if last.is_some() {
            self.at -= 1;
            (self.line, self.column) = self.before;
        }
    }

    /// Reads on while characters are such ones; the first other one is read too.
    fn run(&mut self, mut last: Option<char>, wanted: impl Fn(char) -> bool) -> Option<char> {
        while last.is_some_and(&wanted) {
            last = self.next();
        }
        last
    }

    /// The next token that is not a comment.
    pub(super) fn token(&mut self) -> Token {
        loop {
            let first = self.next();
            let first = self.run(first, |c| matches!(c, ' ' | '\t' | '\n' | '\r'));
            let (begin, place) = (self.at - usize::from(first.is_some()), self.place());
            let mut value = None;
            let kind = match first {
                None => Kind::End,
                Some('#' | '/') => {
                    self.comment(first);
                    continue;
                }
                Some(c) if is_letter(c) => {
                    let last = self.next();
                    let last = self
                        .run(last, |c| is_letter(c) || c.is_numeric() || matches!(c, '-' | '.'));
                    self.back(last);
                    Kind::Identifier
                }
                Some(c) if c.is_ascii_digit() => self.number(c),
                Some('-') if self.peek().is_some_and(|c| c.is_ascii_digit()) => {
                    let first = self.next().unwrap_or('0');
                    self.number(first)
                }
                Some('.') if self.peek().is_some_and(|c| c.is_ascii_digit()) => {
                    self.digits();
                    self.exponent();
                    Kind::Float
                }
                Some('"') => {
                    value = Some(self.string());
                    Kind::Text
                }
                Some('<') => {
                    value = self.heredoc();
                    Kind::Heredoc
                }
                Some(sign @ ('{' | '}' | '[' | ']' | '=' | ',' | '.' | '+' | '-')) => {
                    Kind::Sign(sign)
                }
                Some(_) => {
                    self.fail("illegal char");
                    Kind::Illegal
                }
            };
            let text: String = self.text[begin.min(self.at)..self.at].iter().collect();
            let kind = match kind {
                Kind::Identifier if text == "true" || text == "false" => Kind::Bool,
                kind => kind,
            };
            return Token { kind, place, value: value.unwrap_or_else(|| text.clone()), text };
        }
    }

    fn comment(&mut self, first: Option<char>) {
        match (first, self.peek()) {
            (Some('/'), Some('*')) => {
                self.next();
                let mut last = self.next();
                while let Some(c) = last {
                    last = self.next();
                    if c == '*' && last == Some('/') {
                        return;
                    }
                }
                self.fail("comment not terminated");
            }
            (Some('#'), _) | (_, Some('/')) => {
                let last = self.next();
                let last = self.run(last, |c| c != '\n');
                self.back(last);
            }
            _ => self.fail("expected '/' for comment"),
        }
    }

    /// A number after its first digit.
    fn number(&mut self, first: char) -> Kind {
        let mut last = self.next();
        let mut is_octal = true;
        match (first, last) {
            ('0', Some('x' | 'X')) => {
                last = self.next();
                if !last.is_some_and(|c| c.is_ascii_hexdigit()) {
                    self.fail("illegal hexadecimal number");
                }
                last = self.run(last, |c| c.is_ascii_hexdigit());
                self.back(last);
                return Kind::Number;
            }
            ('0', _) => {
                while last.is_some_and(|c| c.is_ascii_digit()) {
                    last = self.next();
                    is_octal &= !matches!(last, Some('8' | '9'));
                }
            }
            _ => {
                last = self.run(last, |c| c.is_ascii_digit());
                if last.is_none() {
                    self.next();
                }
            }
        }
        match last {
            Some('.') => {
                self.digits();
                self.exponent();
                Kind::Float
            }
            Some('e' | 'E') => {
                self.back(last);
                self.exponent();
                Kind::Float
            }
            _ => {
                if !is_octal {
                    self.fail("illegal octal number");
                }
                self.back(last);
                Kind::Number
            }
        }
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.next();
        }
    }

    /// An exponent, to which whatever follows its sign belongs.
    fn exponent(&mut self) {
        if matches!(self.peek(), Some('e' | 'E')) {
            self.next();
            if matches!(self.next(), Some('-' | '+')) {
                self.next();
            }
            self.digits();
        }
    }

    /// A string after its quotation mark. Inside of `${…}` everything stands for itself.
    fn string(&mut self) -> String {
        let (mut value, mut braces) = (Vec::new(), 0);
        loop {
            let begin = self.at;
            let c = match self.next() {
                Some(c) if c != '\n' || braces > 0 => c,
                _ => {
                    self.fail("literal not terminated");
                    break;
                }
            };
            let mut escaped = None;
            match c {
                '"' if braces == 0 => break,
                '$' if braces == 0 && self.peek() == Some('{') => {
                    self.next();
                    braces = 1;
                }
                '{' if braces > 0 => braces += 1,
                '}' if braces > 0 => braces -= 1,
                '\\' => escaped = Some(self.escaped()).filter(|_| braces == 0),
                _ => {}
            }
            let written = || self.text[begin..self.at].iter().collect::<String>().into_bytes();
            value.extend(escaped.unwrap_or_else(written));
        }
        String::from_utf8_lossy(&value).into_owned()
    }

    /// The bytes that an escape stands for.
    fn escaped(&mut self) -> Vec<u8> {
        let character = |code| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        let utf8 = |code| character(code).to_string().into_bytes();
        match self.next() {
            Some('a') => vec![7],
            Some('b') => vec![8],
            Some('t') => vec![b'\t'],
            Some('n') => vec![b'\n'],
            Some('v') => vec![11],
            Some('f') => vec![12],
            Some('r') => vec![b'\r'],
            Some('\\') => vec![b'\\'],
            Some('"') => vec![b'"'],
            first @ Some('0'..='7') => vec![self.code(first, 8, 3) as u8],
            Some('x') => {
                let first = self.next();
                vec![self.code(first, 16, 2) as u8]
            }
            Some('u') => {
                let first = self.next();
                utf8(self.code(first, 16, 4))
            }
            Some('U') => {
                let first = self.next();
                utf8(self.code(first, 16, 8))
            }
            _ => {
                self.fail("illegal char escape");
                Vec::new()
            }
        }
    }

    /// The number of up to `count` digits; the first digit is read already.
    fn code(&mut self, mut last: Option<char>, radix: u32, count: usize) -> u32 {
        let (mut code, mut left) = (0u32, count);
        while let Some(digit) = last.and_then(|c| c.to_digit(radix)).filter(|_| left > 0) {
            code = code.wrapping_mul(radix).wrapping_add(digit);
            last = self.next();
            if last.is_none() {
                break;
            }
            left -= 1;
        }
        if left > 0 {
            self.fail("illegal char escape");
        }
        if left < count {
            self.back(last);
        }
        code
    }

    /// A heredoc after its first sign. The lines of one with `-` lose the indentation of its end.
    fn heredoc(&mut self) -> Option<String> {
        if self.next() != Some('<') {
            self.fail("heredoc expected second '<', didn't see it");
            return None;
        }
        let begin = self.at;
        let mut last = self.next();
        let is_indented = last == Some('-');
        if is_indented {
            last = self.next();
        }
        match self.run(last, |c| is_letter(c) || c.is_numeric()) {
            None => self.fail("heredoc not terminated"),
            Some('\n') => {
                let name: String = self.text[begin..self.at - 1].iter().collect();
                match name.strip_prefix('-').unwrap_or(&name) {
                    "" => self.fail("zero-length heredoc anchor"),
                    end => return self.lines(end, name.len(), is_indented),
                }
            }
            Some(_) => self.fail("invalid characters in heredoc anchor"),
        }
        None
    }

    /// The lines up to this one, which has `least` bytes or more.
    fn lines(&mut self, end: &str, least: usize, is_indented: bool) -> Option<String> {
        let mut lines = Vec::new();
        loop {
            let begin = self.at;
            let first = self.next();
            if self.run(first, |c| c != '\n').is_none() {
                self.fail("heredoc not terminated");
                return None;
            }
            let line: String = self.text[begin..self.at - 1].iter().collect();
            let name = line.trim_end_matches('\r').trim_ascii_start();
            if name != end || line.len() < least {
                lines.push(line);
                continue;
            }
            let margin = &line[..line.len() - line.trim_ascii_start().len()];
            let without = |line: &String| line.strip_prefix(margin).map(str::to_owned);
            let unindented: Option<Vec<_>> = lines.iter().map(without).collect();
            return Some(match (is_indented, unindented) {
                (false, _) => joined(&lines) + margin,
                (true, Some(unindented)) => joined(&unindented),
                (true, None) => joined(&lines),
            });
        }
    }
}

fn joined(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn is_letter(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}
