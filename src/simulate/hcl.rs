//! The part of HCL that policies and agent configurations use: assignments, blocks with names,
//! lists, strings, numbers, booleans and comments. A text that begins with a brace is JSON.

use std::iter::Peekable;
use std::str::CharIndices;

/// The most levels of lists, objects and names of blocks, as for JSON. A real server has no limit.
const MAX_DEPTH: usize = 128;

/// A value. A block with names is an object inside of objects, as in its JSON form.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string.
    Text(String),
    /// The text of a number.
    Number(String),
    /// A boolean.
    Bool(bool),
    /// A list.
    List(Vec<Value>),
    /// Members in the order of the text; names may repeat.
    Object(Object),
}

impl Value {
    /// The text of what is neither a list nor an object.
    pub fn literal(&self) -> Option<&str> {
        match self {
            Value::Text(text) | Value::Number(text) => Some(text),
            Value::Bool(true) => Some("true"),
            Value::Bool(false) => Some("false"),
            Value::List(_) | Value::Object(_) => None,
        }
    }
}

/// The members of an object.
pub type Object = Vec<(String, Value)>;

/// Reads a text.
///
/// # Errors
/// The line, column and reason, in the words of HashiCorp's parser.
pub fn parse(text: &str) -> Result<Object, String> {
    if text.trim_start().starts_with('{') {
        let json = serde_json::from_str(text)
            .map_err(|error| format!("At {}:{}: {error}", error.line(), error.column()))?;
        return Ok(match from_json(&json) {
            Value::Object(members) => members,
            _ => Object::new(),
        });
    }
    let mut parser = Parser { lexer: Lexer::new(text), next: None, depth: 0 };
    let members = parser.members(false)?;
    Ok(members)
}

fn from_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::String(text) => Value::Text(text.clone()),
        serde_json::Value::Bool(on) => Value::Bool(*on),
        serde_json::Value::Array(items) => Value::List(items.iter().map(from_json).collect()),
        serde_json::Value::Object(members) => Value::Object(
            members.iter().map(|(name, value)| (name.clone(), from_json(value))).collect(),
        ),
        other => Value::Number(other.to_string()),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Identifier(String),
    Text(String),
    Number(String),
    Sign(char),
    End,
}

impl Token {
    /// The token's kind, as HashiCorp's parser names it.
    fn kind(&self) -> &'static str {
        match self {
            Token::Identifier(_) => "IDENT",
            Token::Text(_) => "STRING",
            Token::Number(_) => "NUMBER",
            Token::Sign('{') => "LBRACE",
            Token::Sign('}') => "RBRACE",
            Token::Sign('[') => "LBRACK",
            Token::Sign(']') => "RBRACK",
            Token::Sign('=') => "ASSIGN",
            Token::Sign(_) => "COMMA",
            Token::End => "EOF",
        }
    }
}

/// A line and a column, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place(usize, usize);

impl Place {
    fn error<T>(self, what: &str) -> Result<T, String> {
        Err(format!("At {}:{}: {what}", self.0, self.1))
    }
}

struct Lexer<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
    place: Place,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, rest: text.char_indices().peekable(), place: Place(1, 1) }
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().map(|(_, c)| *c)
    }

    fn take(&mut self) -> Option<char> {
        let (_, c) = self.rest.next()?;
        self.place = match c {
            '\n' => Place(self.place.0 + 1, 1),
            _ => Place(self.place.0, self.place.1 + 1),
        };
        Some(c)
    }

    fn offset(&mut self) -> usize {
        self.rest.peek().map_or(self.text.len(), |(offset, _)| *offset)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let begin = self.offset();
        while self.peek().is_some_and(&wanted) {
            self.take();
        }
        let end = self.offset();
        self.text[begin..end].to_owned()
    }

    fn skip_blanks(&mut self) -> Result<(), String> {
        loop {
            self.take_while(char::is_whitespace);
            let begin = self.offset();
            let place = self.place;
            let rest = &self.text[begin..];
            if rest.starts_with('#') || rest.starts_with("//") {
                self.take_while(|c| c != '\n');
            } else if let Some(inside) = rest.strip_prefix("/*") {
                let Some(length) = inside.find("*/") else {
                    return place.error("comment not terminated");
                };
                let end = begin + length + 4;
                while self.offset() < end {
                    self.take();
                }
            } else {
                return Ok(());
            }
        }
    }

    fn next(&mut self) -> Result<(Token, Place), String> {
        self.skip_blanks()?;
        let place = self.place;
        let token = match self.peek() {
            None => Token::End,
            Some('"') => Token::Text(self.string()?),
            Some(sign @ ('{' | '}' | '[' | ']' | '=' | ',')) => {
                self.take();
                Token::Sign(sign)
            }
            Some(c) if c.is_alphabetic() || c == '_' => {
                let part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
                Token::Identifier(self.take_while(part))
            }
            Some(c) if c.is_ascii_digit() || c == '-' => {
                let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
                Token::Number(self.take_while(part))
            }
            Some(_) => return place.error("illegal char"),
        };
        Ok((token, place))
    }

    fn string(&mut self) -> Result<String, String> {
        self.take();
        let mut text = String::new();
        loop {
            match self.take() {
                None | Some('\n') => return self.place.error("literal not terminated"),
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escaped()?),
                Some(c) => text.push(c),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, String> {
        match self.take() {
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some('u') => {
                let digits: String = (0..4).filter_map(|_| self.take()).collect();
                let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                code.map_or_else(|| self.place.error("illegal char escape"), Ok)
            }
            Some(c @ ('"' | '\\')) => Ok(c),
            _ => self.place.error("illegal char escape"),
        }
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    next: Option<(Token, Place)>,
    depth: usize,
}

impl Parser<'_> {
    fn take(&mut self) -> Result<(Token, Place), String> {
        match self.next.take() {
            Some(next) => Ok(next),
            None => self.lexer.next(),
        }
    }

    fn peek(&mut self) -> Result<(Token, Place), String> {
        let next = self.take()?;
        self.next = Some(next.clone());
        Ok(next)
    }

    /// Reads what is inside of a token at this place.
    fn inside<T>(
        &mut self,
        place: Place,
        read: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        if self.depth == MAX_DEPTH {
            return place.error(&format!("nested too deeply: the limit is {MAX_DEPTH} levels"));
        }
        self.depth += 1;
        let found = read(self)?;
        self.depth -= 1;
        Ok(found)
    }

    /// The members up to the end of the text, or up to the closing brace if `inside`.
    fn members(&mut self, inside: bool) -> Result<Object, String> {
        let mut members = Object::new();
        loop {
            let (token, place) = self.take()?;
            match token {
                Token::End if inside => {
                    return place.error("object expected closing RBRACE got: EOF");
                }
                Token::End => return Ok(members),
                Token::Sign('}') if inside => return Ok(members),
                Token::Sign(',') if inside => {}
                Token::Identifier(name) | Token::Text(name) => members.push(self.member(name)?),
                other => {
                    let kind = other.kind();
                    let what = format!("expected: IDENT | STRING | ASSIGN | LBRACE got: {kind}");
                    return place.error(&what);
                }
            }
        }
    }

    /// The rest of a member after its first name: more names and a block, or a value.
    fn member(&mut self, name: String) -> Result<(String, Value), String> {
        let (token, place) = self.take()?;
        match token {
            Token::Sign('=') => Ok((name, self.value()?)),
            Token::Sign('{') => {
                Ok((name, Value::Object(self.inside(place, |it| it.members(true))?)))
            }
            Token::Identifier(inner) | Token::Text(inner) => {
                let inner = self.inside(place, |it| it.member(inner))?;
                Ok((name, Value::Object(vec![inner])))
            }
            Token::End => place.error(&format!(
                "key '{name}' expected start of object ('{{') or assignment ('=')"
            )),
            other => {
                let kind = other.kind();
                place.error(&format!("expected: IDENT | STRING | ASSIGN | LBRACE got: {kind}"))
            }
        }
    }

    fn value(&mut self) -> Result<Value, String> {
        let (token, place) = self.take()?;
        match token {
            Token::Text(text) => Ok(Value::Text(text)),
            Token::Number(text) => Ok(Value::Number(text)),
            Token::Identifier(word) if word == "true" || word == "false" => {
                Ok(Value::Bool(word == "true"))
            }
            Token::Sign('{') => Ok(Value::Object(self.inside(place, |it| it.members(true))?)),
            Token::Sign('[') => self.inside(place, Self::list),
            Token::Identifier(word) => {
                place.error(&format!("Unknown token: {}:{} IDENT {word}", place.0, place.1))
            }
            other => {
                place.error(&format!("Unknown token: {}:{} {}", place.0, place.1, other.kind()))
            }
        }
    }

    fn list(&mut self) -> Result<Value, String> {
        let mut items = Vec::new();
        loop {
            match self.peek()? {
                (Token::Sign(']'), _) => {
                    self.take()?;
                    return Ok(Value::List(items));
                }
                (Token::Sign(','), _) => {
                    self.take()?;
                }
                _ => items.push(self.value()?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn object(members: &[(&str, Value)]) -> Value {
        let members = members.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        Value::Object(members.collect())
    }

    #[test]
    fn blocks_assignments_and_json_say_the_same() {
        let wanted = object(&[("key", object(&[("a/b", object(&[("policy", text("read"))]))]))]);
        for text in [
            "key \"a/b\" {\n  policy = \"read\" # as in the documentation\n}\n",
            "// one\n/* two */ key \"a/b\" { policy = \"read\", }",
            "key = { \"a/b\" = { policy = \"read\" } }",
            r#" {"key": {"a\/b": {"policy": "read"}}}"#,
        ] {
            assert_eq!(parse(text).map(Value::Object), Ok(wanted.clone()), "{text}");
        }
    }

    #[test]
    fn literals_keep_their_kind_and_text() {
        let parsed = parse(r#"a = true b = -1.5 c = ["x", 2, ] d = "q\"\\\n\u00e4""#);
        let list = Value::List(vec![text("x"), Value::Number("2".to_owned())]);
        let wanted = object(&[
            ("a", Value::Bool(true)),
            ("b", Value::Number("-1.5".to_owned())),
            ("c", list),
            ("d", text("q\"\\\n\u{e4}")),
        ]);
        assert_eq!(parsed.map(Value::Object), Ok(wanted));
        assert_eq!(parse(""), Ok(Object::new()));
    }

    /// Consul 1.21 returns the same errors.
    #[test]
    fn errors_name_the_place() {
        for (text, error) in [
            ("}", "At 1:1: expected: IDENT | STRING | ASSIGN | LBRACE got: RBRACE"),
            ("@", "At 1:1: illegal char"),
            ("key \"a { policy", "At 1:16: literal not terminated"),
            ("key \"a\" [", "At 1:9: expected: IDENT | STRING | ASSIGN | LBRACE got: LBRACK"),
            ("acl = read", "At 1:7: Unknown token: 1:7 IDENT read"),
            ("key \"a\" {\n", "At 2:1: object expected closing RBRACE got: EOF"),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()));
        }
    }

    /// Without the limit the stack overflows, which ends the process.
    #[test]
    fn what_nests_too_deeply_is_refused_at_its_place() {
        let forms: [fn(usize) -> String; 4] = [
            |depth| format!("a = {}{}", "[".repeat(depth), "]".repeat(depth)),
            |depth| format!("{}{}", "a {".repeat(depth), "}".repeat(depth)),
            |depth| format!("a = {}{}", "{a = ".repeat(depth), "}".repeat(depth)),
            |depth| format!("{}{{}}", "a ".repeat(depth)),
        ];
        for form in forms {
            let error = parse(&form(100_000)).expect_err("too deep");
            assert!(error.starts_with("At 1:") && error.ends_with("128 levels"), "{error}");
        }
        assert!(parse(&forms[0](MAX_DEPTH)).is_ok() && parse(&forms[1](MAX_DEPTH)).is_ok());
        assert!(parse(&forms[0](MAX_DEPTH + 1)).is_err());
        let error = parse(&"{\"a\":".repeat(100_000)).expect_err("JSON that is too deep");
        assert!(error.contains("recursion limit"), "{error}");
    }

    #[test]
    fn no_text_makes_it_panic_or_run_forever() {
        let parts = ["key", "\"a\"", "{", "}", "=", "[", "]", ",", "\"", "\\", "/*", "#", "\u{e4}"];
        for seed in 0..2000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let text: Vec<_> =
                (0..rng.usize(..12)).map(|_| parts[rng.usize(..parts.len())]).collect();
            let _ = parse(&text.join(if rng.bool() { " " } else { "" }));
        }
    }
}
