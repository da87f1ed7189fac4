//! Templates of queries: the texts of a query's service are made from the name that is asked for.
//!
//! An expression is a variable, a text, an integer or `match(n)`; Consul's language has arithmetic and conditions too, which
//! are refused here, as are escapes and expressions within texts.

use super::table::Query;
use crate::filter::pattern;
use crate::http::decode::Json;
use regex_lite::Regex;

/// Refuses a template that cannot be compiled, or not be rendered for its own name.
pub(super) fn check(query: &Query) -> Result<(), String> {
    match query.definition.at("Template").at("Type").as_text() {
        "" => Ok(()),
        "name_prefix_match" => rendered(query, &query.name).map(|_| ()),
        other => Err(format!("Bad Template.Type '{other}'")),
    }
}

/// The query that a template makes for a name.
pub(super) fn rendered(template: &Query, name: &str) -> Result<Query, String> {
    let options = template.definition.at("Template");
    let regexp = match options.at("Regexp").as_text() {
        "" => None,
        text => Some(pattern(text).map_err(|why| format!("Bad Regexp: {why}"))?),
    };
    let names = Names { full: name, prefix: &template.name, regexp: regexp.as_ref() };
    let mut query = template.clone();
    let Json::Object(parts) = &mut query.definition else { return Ok(query) };
    for (_, service) in parts.iter_mut().filter(|(part, _)| part == "Service") {
        names.render(service, "Service")?;
        if options.at("RemoveEmptyTags").is_true() {
            remove_empty_tags(service);
        }
    }
    Ok(query)
}

fn remove_empty_tags(service: &mut Json) {
    let Json::Object(members) = service else { return };
    for (_, tags) in members.iter_mut().filter(|(name, _)| name == "Tags") {
        if let Json::List(tags) = tags {
            tags.retain(|tag| !tag.as_text().is_empty());
        }
    }
}

/// The values of the variables and of `match`.
struct Names<'a> {
    full: &'a str,
    prefix: &'a str,
    regexp: Option<&'a Regex>,
}

impl Names<'_> {
    /// Renders all texts of a value.
    fn render(&self, value: &mut Json, path: &str) -> Result<(), String> {
        match value {
            Json::Text(text) => *text = self.rendered(text, path)?,
            Json::List(items) => {
                for (place, item) in items.iter_mut().enumerate() {
                    self.render(item, &format!("{path}[{place}]"))?;
                }
            }
            Json::Object(members) => {
                let is_map = path.ends_with("Meta");
                for (name, member) in members {
                    let path =
                        if is_map { format!("{path}[{name}]") } else { format!("{path}.{name}") };
                    self.render(member, &path)?;
                }
            }
            Json::Null | Json::Bool(_) | Json::Number(_) => {}
        }
        Ok(())
    }

    fn rendered(&self, text: &str, path: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            out.push_str(&rest[..start]);
            if let Some(before) = out.strip_suffix('$') {
                // `$${` is a dollar sign and a brace.
                out.truncate(before.len());
                out.push_str("${");
                rest = &rest[start + 2..];
                continue;
            }
            let at = text.len() - rest.len() + start + 2;
            let mut scan = Scan { text, at };
            let value = self.expression(&mut scan).and_then(|value| {
                scan.expect('}')?;
                value
            });
            let value = value.map_err(|fault| fault.say(text, path))?;
            out.push_str(&value);
            rest = &text[scan.at..];
        }
        out.push_str(rest);
        Ok(out)
    }

    /// Reads an expression to its end before it reports that it cannot be evaluated, as Consul does.
    fn expression(&self, scan: &mut Scan<'_>) -> Result<Evaluated, Fault> {
        scan.skip_spaces();
        let at = scan.at;
        let digits = scan.take(|c| c.is_ascii_digit() || c == '-');
        if !digits.is_empty() {
            let value = digits.parse::<i64>().map_err(|_| Fault::unsupported())?;
            return Ok(Ok(value.to_string()));
        }
        if scan.eat('"') {
            let text = scan.take(|c| c != '"').to_owned();
            if text.contains('\\') || text.contains("${") {
                return Err(Fault::unsupported());
            }
            return scan.expect('"').map(|()| Ok(text));
        }
        let word = scan.take(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if word.is_empty() {
            return Err(scan.expected("expression"));
        }
        let wrong = |why: String| Err(Fault::evaluation(at, why));
        if !scan.eat('(') {
            let value = self.variable(word).map(Ok);
            return Ok(value.unwrap_or_else(|| wrong(format!("unknown variable accessed: {word}"))));
        }
        if scan.eat(')') {
            return Ok(wrong("match: expected 1 arguments, got 0".to_owned()));
        }
        let argument = self.expression(scan)?;
        scan.expect(')')?;
        if word != "match" {
            return Ok(wrong(format!("unknown function called: {word}")));
        }
        Ok(argument.and_then(|text| match text.parse() {
            Ok(group) => Ok(self.group(group)),
            Err(_) => Err(Fault::number(&text)),
        }))
    }

    fn variable(&self, name: &str) -> Option<String> {
        Some(match name {
            "name.full" => self.full.to_owned(),
            "name.prefix" => self.prefix.to_owned(),
            "name.suffix" => self.full.strip_prefix(self.prefix).unwrap_or(self.full).to_owned(),
            "agent.segment" => String::new(),
            "true" | "false" => name.to_owned(),
            _ => return None,
        })
    }

    /// The text of a group of the regular expression; empty if there is none.
    fn group(&self, group: i64) -> String {
        let found = self.regexp.and_then(|regexp| regexp.captures(self.full));
        let group = usize::try_from(group).ok();
        let found = found.as_ref().zip(group).and_then(|(found, group)| found.get(group));
        found.map_or_else(String::new, |found| found.as_str().to_owned())
    }
}

/// The value of an expression, or why it has none.
type Evaluated = Result<String, Fault>;

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn skip_spaces(&mut self) {
        self.take(char::is_whitespace);
    }

    fn eat(&mut self, c: char) -> bool {
        self.skip_spaces();
        let is_next = self.text[self.at..].starts_with(c);
        self.at += if is_next { c.len_utf8() } else { 0 };
        is_next
    }

    fn expect(&mut self, c: char) -> Result<(), Fault> {
        match self.eat(c) {
            true => Ok(()),
            false => Err(self.expected(&format!("\"{c}\""))),
        }
    }

    fn expected(&self, what: &str) -> Fault {
        const OPERATORS: &str = "+-*/%=!<>&|?(.";
        let found = match self.text[self.at..].chars().next() {
            Some(c) if OPERATORS.contains(c) => return Fault::unsupported(),
            Some(c) => format!("\"{c}\""),
            None => "end of string".to_owned(),
        };
        let column = self.at + 1;
        Fault {
            stage: "format",
            why: format!("parse error at 1:{column}: expected {what} but found {found}"),
        }
    }
}

/// Why a text is not rendered.
struct Fault {
    /// Consul's word for the stage that failed.
    stage: &'static str,
    why: String,
}

impl Fault {
    fn evaluation(at: usize, why: String) -> Self {
        let column = at + 1;
        Self { stage: "evaluation", why: format!("1:{column}: {why}") }
    }

    fn unsupported() -> Self {
        let why = "only variables, texts, integers and match are supported by the simulated agent";
        Self { stage: "format", why: why.to_owned() }
    }

    fn number(text: &str) -> Self {
        let text = crate::go::quoted(text);
        let why =
            format!("__builtin_StringToInt: strconv.ParseInt: parsing {text}: invalid syntax");
        Self { stage: "evaluation", why }
    }

    fn say(&self, text: &str, path: &str) -> String {
        let preposition = if self.stage == "format" { "Bad format" } else { "Bad evaluation for" };
        format!("{preposition} '{text}' in {path}: {}", self.why)
    }
}
