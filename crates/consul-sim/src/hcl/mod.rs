//! HCL in version 1, in which policies and agent configurations are written: assignments, blocks with names, lists, strings,
//! heredocs, numbers, booleans and comments. A text that begins with a brace is JSON.

mod scan;

use super::go;
use scan::{Kind, Place, Scanner, Token};
use std::num::IntErrorKind;

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
    /// The text of a value that is neither a list nor an object.
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
    Parser::read(text)
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

/// Why a text ends to be read.
enum Stop {
    /// Its end, where a member or its value would begin.
    End,
    Error(String),
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Stop::Error(why)
    }
}

struct Parser {
    scanner: Scanner,
    token: Token,
    /// Whether the token is to be read again.
    again: bool,
    depth: usize,
    /// The first number that is none.
    number: Option<String>,
}

impl Parser {
    fn read(text: &str) -> Result<Object, String> {
        let token = Token {
            kind: Kind::End,
            place: Place(0, 0),
            text: String::new(),
            value: String::new(),
        };
        let scanner = Scanner::new(text);
        let mut parser = Self { scanner, token, again: false, depth: 0, number: None };
        let members = parser.members(false);
        match (parser.scanner.error(), members, parser.number) {
            (Some(why), ..) | (None, Err(why), _) | (None, Ok(_), Some(why)) => Err(why),
            (None, Ok(members), None) => Ok(members),
        }
    }

    fn take(&mut self) -> Kind {
        if !std::mem::take(&mut self.again) {
            self.token = self.scanner.token();
        }
        self.token.kind
    }

    fn peek(&mut self) -> Kind {
        let kind = self.take();
        self.again = true;
        kind
    }

    fn error<T, E: From<String>>(&self, what: &str) -> Result<T, E> {
        self.token.place.error(what).map_err(E::from)
    }

    /// Reads the inside of a token.
    fn inside<T, E: From<String>>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        if self.depth == MAX_DEPTH {
            return self.error(&format!("nested too deeply: the limit is {MAX_DEPTH} levels"));
        }
        self.depth += 1;
        let found = read(self)?;
        self.depth -= 1;
        Ok(found)
    }

    /// The members up to the end of the text, or up to the closing brace if `inside`. A member at the end of the text that
    /// has no value is none.
    fn members(&mut self, inside: bool) -> Result<Object, String> {
        let mut members = Object::new();
        while !inside || self.peek() != Kind::Sign('}') {
            match self.member() {
                Ok(member) => members.push(member),
                Err(Stop::End) => break,
                Err(Stop::Error(why)) => return Err(why),
            }
            if self.peek() == Kind::Sign(',') {
                self.take();
            }
        }
        match inside.then(|| self.take()) {
            None | Some(Kind::Sign('}')) => Ok(members),
            Some(kind) => {
                self.error(&format!("object expected closing RBRACE got: {}", kind.name()))
            }
        }
    }

    fn object(&mut self) -> Result<Value, String> {
        self.inside(|it| it.members(true)).map(Value::Object)
    }

    /// A name and a value, or names and a block.
    fn member(&mut self) -> Result<(String, Value), Stop> {
        let (mut names, mut written) = (Vec::new(), Vec::new());
        let value = loop {
            match self.take() {
                Kind::Identifier | Kind::Text if names.len() + self.depth < MAX_DEPTH => {
                    names.push(self.token.value.clone());
                    written.push(self.token.text.clone());
                }
                Kind::Identifier | Kind::Text => {
                    return self
                        .error(&format!("nested too deeply: the limit is {MAX_DEPTH} levels"));
                }
                Kind::Sign('=') => match names.len() {
                    0 => return self.error("no object keys found!"),
                    1 => break self.value()?,
                    _ => return self.error("nested object expected: LBRACE got: ASSIGN"),
                },
                Kind::Sign('{') if names.is_empty() => {
                    return self.error("expected: IDENT | STRING got: LBRACE");
                }
                Kind::Sign('{') => {
                    let depth = self.depth;
                    self.depth += names.len() - 1;
                    let block = self.object()?;
                    self.depth = depth;
                    break block;
                }
                Kind::End if names.is_empty() => return Err(Stop::End),
                Kind::End | Kind::Sign('}') if !names.is_empty() => {
                    let names = written.join(" ");
                    return self.error(&format!(
                        "key '{names}' expected start of object ('{{') or assignment ('=')"
                    ));
                }
                kind => {
                    let kind = kind.name();
                    return self
                        .error(&format!("expected: IDENT | STRING | ASSIGN | LBRACE got: {kind}"));
                }
            }
        };
        self.peek();
        let first = names.remove(0);
        let nested = names.into_iter().rev();
        Ok((first, nested.fold(value, |value, name| Value::Object(vec![(name, value)]))))
    }

    fn value(&mut self) -> Result<Value, Stop> {
        match self.take() {
            Kind::End => Err(Stop::End),
            Kind::Sign('{') => Ok(self.object()?),
            Kind::Sign('[') => Ok(self.inside(Self::list)?),
            kind => match self.literal() {
                Some(literal) => Ok(literal),
                None => {
                    let Token { place: Place(line, column), text, .. } = &self.token;
                    self.error(&format!("Unknown token: {line}:{column} {} {text}", kind.name()))
                }
            },
        }
    }

    /// The value of a token that is one.
    fn literal(&mut self) -> Option<Value> {
        let Token { kind, text, value, .. } = &self.token;
        Some(match kind {
            Kind::Text | Kind::Heredoc => Value::Text(value.clone()),
            Kind::Bool => Value::Bool(text == "true"),
            Kind::Number | Kind::Float => {
                let number = if *kind == Kind::Float { float(text) } else { integer(text) };
                Value::Number(number.unwrap_or_else(|why| {
                    self.number.get_or_insert(why);
                    String::new()
                }))
            }
            _ => return None,
        })
    }

    fn list(&mut self) -> Result<Value, String> {
        let (mut items, mut is_after_item) = (Vec::new(), false);
        loop {
            let kind = self.take();
            match kind {
                Kind::Sign(']') => return Ok(Value::List(items)),
                Kind::Sign(',') => {
                    is_after_item = false;
                    continue;
                }
                _ if is_after_item => {
                    return self.error(&format!(
                        "error parsing list, expected comma or list end, got: {}",
                        kind.name()
                    ));
                }
                _ => {}
            }
            let place = self.token.place;
            let within = |what: &'static str| {
                move |why| {
                    format!(
                        "At {}:{}: error while trying to parse {what} within list: {why}",
                        place.0, place.1
                    )
                }
            };
            // A list within a list needs no comma after it.
            is_after_item = kind != Kind::Sign('[');
            items.push(match kind {
                Kind::Sign('{') => self.object().map_err(within("object"))?,
                Kind::Sign('[') => self.inside(Self::list).map_err(within("list"))?,
                _ => match self.literal() {
                    Some(literal) => literal,
                    None => {
                        let kind = kind.name();
                        return self.error(&format!("unexpected token while parsing list: {kind}"));
                    }
                },
            });
        }
    }
}

/// A whole number in decimal form. As in Go, `0x` begins a hexadecimal one and `0` an octal one.
fn integer(text: &str) -> Result<String, String> {
    let failed = |why| format!("strconv.ParseInt: parsing {}: {why}", go::quoted(text));
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (radix, digits) = match digits.strip_prefix('0') {
        Some(rest) if rest.starts_with(['x', 'X']) => (16, &rest[1..]),
        Some(rest) if !rest.is_empty() => (8, rest),
        _ => (10, digits),
    };
    match i64::from_str_radix(&format!("{sign}{digits}"), radix) {
        Ok(number) => Ok(number.to_string()),
        Err(error) => Err(failed(match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        })),
    }
}

fn float(text: &str) -> Result<String, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(format!("{number:?}")),
        Ok(_) => {
            Err(format!("strconv.ParseFloat: parsing {}: value out of range", go::quoted(text)))
        }
        Err(_) => Err(format!("strconv.ParseFloat: parsing {}: invalid syntax", go::quoted(text))),
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

    /// Consul 1.21 reads the same.
    #[test]
    fn strings_have_escapes_interpolations_and_heredocs() {
        for (written, read) in [
            (r#""\x62\101\u00e4\U0001F600\a""#, "bA\u{e4}\u{1f600}\u{7}"),
            (r#""\ud800""#, "\u{fffd}"),
            (r#""${a "b{}\n"}c""#, "${a \"b{}\\n\"}c"),
            ("\"${\n}\"", "${\n}"),
            ("<<EOF\na\n\n b\nEOF\n", "a\n\n b\n"),
            ("<<EOF\r\na\r\nEOF\r\n", "a\n"),
            ("<<EOF\nEOF\n", ""),
            ("<<EOF\na\n  EOF\n", "a\n  "),
            ("<<-EOF\n    a\n      b\n    EOF\n", "a\n  b\n"),
            ("<<-EOF\n  a\n    EOF\n", "  a\n"),
        ] {
            let wanted =
                Ok(vec![("a".to_owned(), text(read)), ("b".to_owned(), Value::Bool(true))]);
            assert_eq!(parse(&format!("a = {written}\nb = true")), wanted, "{written}");
        }
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (written, read) in [
            ("0x1F", "31"),
            ("010", "8"),
            ("-5", "-5"),
            ("1e3", "1000.0"),
            (".5", "0.5"),
            ("1.", "1.0"),
            ("0.25", "0.25"),
        ] {
            let wanted = Value::Object(vec![("a".to_owned(), Value::Number(read.to_owned()))]);
            assert_eq!(
                parse(&format!("a = {written}")).map(Value::Object),
                Ok(wanted),
                "{written}"
            );
        }
    }

    /// Consul 1.21 returns the same errors.
    #[test]
    fn errors_name_the_place() {
        for (text, error) in [
            ("}", "At 1:1: expected: IDENT | STRING | ASSIGN | LBRACE got: RBRACE"),
            ("@", "At 1:1: illegal char"),
            ("key \"a { policy", "At 1:16: literal not terminated"),
            ("key \"a\n\" {}", "At 2:5: literal not terminated"),
            ("key \"a\" [", "At 1:9: expected: IDENT | STRING | ASSIGN | LBRACE got: LBRACK"),
            ("key \"a\" = \"read\"", "At 1:9: nested object expected: LBRACE got: ASSIGN"),
            ("key a", "At 1:7: key 'key a' expected start of object ('{') or assignment ('=')"),
            ("= 1", "At 1:1: no object keys found!"),
            ("a = 1 {}", "At 1:7: expected: IDENT | STRING got: LBRACE"),
            ("true = 1", "At 1:1: expected: IDENT | STRING | ASSIGN | LBRACE got: BOOL"),
            ("acl = read", "At 1:7: Unknown token: 1:7 IDENT read"),
            ("acl = ]", "At 1:7: Unknown token: 1:7 RBRACK ]"),
            ("acl = -", "At 1:7: Unknown token: 1:7 SUB -"),
            ("acl = 0x", "At 1:9: illegal hexadecimal number"),
            ("acl = 08", "strconv.ParseInt: parsing \"08\": invalid syntax"),
            ("acl = 1e ", "strconv.ParseFloat: parsing \"1e \": invalid syntax"),
            (
                "acl = 99999999999999999999",
                "strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
            ),
            ("acl = \"\\q\"", "At 1:9: illegal char escape"),
            ("acl = [1 2]", "At 1:10: error parsing list, expected comma or list end, got: NUMBER"),
            ("acl = [", "At 1:8: unexpected token while parsing list: EOF"),
            (
                "acl = [{]",
                "At 1:8: error while trying to parse object within list: \
                 At 1:9: expected: IDENT | STRING | ASSIGN | LBRACE got: RBRACK",
            ),
            ("acl { a = 1,, }", "At 1:13: expected: IDENT | STRING | ASSIGN | LBRACE got: COMMA"),
            ("acl = { a = 1", "At 1:17: object expected closing RBRACE got: EOF"),
            ("key \"a\" {\n", "At 2:2: object expected closing RBRACE got: EOF"),
            ("key \"a\" {", "At 1:11: object expected closing RBRACE got: EOF"),
            ("/* a", "At 1:5: comment not terminated"),
            ("/ a", "At 1:1: expected '/' for comment"),
            ("a = <EOF", "At 1:6: heredoc expected second '<', didn't see it"),
            ("a = <<E-F\nb\nE-F\n", "At 1:8: invalid characters in heredoc anchor"),
            ("a = <<\nb\n", "At 1:7: zero-length heredoc anchor"),
            ("a = <<EOF\nb\nEOF", "At 3:4: heredoc not terminated"),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()), "{text}");
        }
        // A value that the end of the text cuts off is none.
        assert_eq!(parse("acl = "), Ok(Object::new()));
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
        let parts = [
            "key", "\"a\"", "{", "}", "=", "[", "]", ",", "\"", "\\", "/*", "#", "\u{e4}", "<<",
            "-", "\n", "${", "0", "x1", "1e", "\0",
        ];
        for seed in 0..2000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let text: Vec<_> =
                (0..rng.usize(..12)).map(|_| parts[rng.usize(..parts.len())]).collect();
            let _ = parse(&text.join(if rng.bool() { " " } else { "" }));
        }
    }
}
