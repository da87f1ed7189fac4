//! `filter=`: boolean expressions over the entries of an answer.
//!
//! Consul 1.21 evaluates them with go-bexpr 0.1.2. [`parse`] has the grammar, [`schema`] the
//! selectable fields, and [`compare`] the comparisons.

mod compare;
mod expression;
mod literal;
mod parse;
mod scan;
pub(super) mod schema;

use compare::Comparison;
use expression::Expression;
use regex_lite::Regex;
use schema::Schema;
use serde_json::Value;

/// A filter for the entries of one schema.
#[derive(Debug)]
pub(super) struct Filter {
    checked: Result<Expression<Comparison>, String>,
}

impl Filter {
    /// Compiles an expression; the error is Consul's whole text. The caller handles an empty
    /// expression, which means no filter.
    pub fn compile(expression: &str, schema: &Schema) -> Result<Self, String> {
        let refuse = |why| format!("Failed to create boolean expression evaluator: {why}");
        let parsed = parse::parse(expression).map_err(refuse)?;
        let checked = parsed.try_map(&mut |found| Comparison::new(found, schema.fields));
        match checked {
            Err(why) if !schema.is_checked_late => Err(refuse(why)),
            checked => Ok(Self { checked }),
        }
    }

    /// Whether to keep the entry. Fails only for a schema that is checked late, then for every
    /// entry, with Consul's whole text.
    pub fn matches(&self, entry: &Value) -> Result<bool, String> {
        let expression = self.checked.as_ref().map_err(String::clone)?;
        Ok(expression.holds(&|comparison| comparison.holds(entry)))
    }
}

/// The error of an expression that was not UTF-8: it has the replacement character in the place of the first wrong byte.
pub(super) fn invalid_encoding(expression: &str) -> String {
    let at = expression.find(char::REPLACEMENT_CHARACTER).unwrap_or_default();
    let place = scan::Scanner::new(expression).place(at);
    format!("Failed to create boolean expression evaluator: {place}: invalid encoding")
}

/// Compiles a regular expression. Its syntax is that of the crate `regex_lite`, which has no `\Q` and no classes of Unicode.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|why| format!("error parsing regexp: {why}: `{text}`"))
}

#[cfg(test)]
mod tests;
