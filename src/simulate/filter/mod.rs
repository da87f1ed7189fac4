//! `filter=`: boolean expressions over the entries of an answer.
//!
//! Consul 1.21 reads them with go-bexpr 0.1.2. The grammar is in [`parse`], what can be selected
//! in [`schema`], what a comparison means in [`compare`], and RE2's syntax in [`pattern`].

mod compare;
mod expression;
mod literal;
mod parse;
pub(super) mod pattern;
mod scan;
pub(super) mod schema;

use compare::Comparison;
use expression::Expression;
use schema::Schema;
use serde_json::Value;

/// A filter, ready for the entries that its schema describes.
#[derive(Debug)]
pub(super) struct Filter {
    checked: Result<Expression<Comparison>, String>,
}

impl Filter {
    /// Reads an expression; the error is Consul's whole text. An empty expression is no filter,
    /// which is for the caller to see.
    pub fn compile(expression: &str, schema: &Schema) -> Result<Self, String> {
        let refuse = |why| format!("Failed to create boolean expression evaluator: {why}");
        let parsed = parse::parse(expression).map_err(refuse)?;
        let checked = parsed.try_map(&mut |found| Comparison::new(found, schema.fields));
        match checked {
            Err(why) if !schema.is_checked_late => Err(refuse(why)),
            checked => Ok(Self { checked }),
        }
    }

    /// Whether the entry is to be kept. Fails only for a schema that is checked late, then for
    /// every entry, and with Consul's whole text.
    pub fn matches(&self, entry: &Value) -> Result<bool, String> {
        let expression = self.checked.as_ref().map_err(String::clone)?;
        Ok(expression.holds(&|comparison| comparison.holds(entry)))
    }
}

#[cfg(test)]
mod tests;
