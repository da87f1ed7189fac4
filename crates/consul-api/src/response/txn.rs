//! Which results of a transaction have a value: Consul sends null for an empty one, and for none.

use crate::tape::Tape;
use serde::Deserialize;
use std::collections::HashSet;

/// An operation on a key; those on the catalog have no fields here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Operation {
    verb: String,
    #[serde(default)]
    key: String,
}

#[derive(Deserialize)]
struct Sent {
    #[serde(rename = "KV")]
    operation: Option<Operation>,
}

/// Makes the values null in the results of operations that read none. `operations` is the request's body.
pub(super) fn remove_values(results: &mut Tape, operations: &[u8]) {
    let sent: Vec<Sent> = serde_json::from_slice(operations).unwrap_or_default();
    let operations: Vec<_> = sent.into_iter().filter_map(|sent| sent.operation).collect();
    if !operations.iter().any(|operation| operation.gives() == Gives::NoValue) {
        return;
    }
    let entries = results.entries();
    let without_value = [false, true].into_iter().find_map(|may_miss| {
        let entries = entries.iter().map(|(key, at)| (*key, results.is_empty_at(*at))).collect();
        let mut fit = Fit { operations: &operations, entries, may_miss, ..Fit::default() };
        fit.fits(0, 0).then_some(fit.without_value)
    });
    let nulls: Vec<_> = without_value.into_iter().flatten().map(|place| entries[place].1).collect();
    nulls.into_iter().for_each(|at| results.set_null(at));
}

/// Finds the operation of each result. The server does not name it, and a tree has any number of results.
#[derive(Default)]
struct Fit<'a> {
    operations: &'a [Operation],
    /// The key of each result, and whether its value is empty.
    entries: Vec<(&'a [u8], bool)>,
    /// Whether results of reads can be missing, for lack of a permission.
    may_miss: bool,
    /// The results that have no value.
    without_value: Vec<usize>,
    tried: HashSet<(usize, usize)>,
}

impl Fit<'_> {
    /// Whether the results from `at` on can be those of the operations from `next` on.
    fn fits(&mut self, next: usize, at: usize) -> bool {
        let Some(operation) = self.operations.get(next) else { return at == self.entries.len() };
        if !self.tried.insert((next, at)) {
            return false;
        }
        let entry = self.entries.get(at).filter(|(key, _)| *key == operation.key.as_bytes());
        match (operation.gives(), entry) {
            (Gives::NoValue, Some((_, true))) => {
                self.without_value.push(at);
                self.fits(next + 1, at + 1) || {
                    self.without_value.pop();
                    false
                }
            }
            (Gives::NoValue, _) => false,
            (Gives::Value, entry) => {
                entry.is_some() && self.fits(next + 1, at + 1)
                    || self.may_miss && self.fits(next + 1, at)
            }
            (Gives::Tree, _) => {
                let end = at + self.tree_len(at, operation.key.as_bytes());
                (at..=end).rev().any(|end| self.fits(next + 1, end))
            }
            (Gives::Nothing, _) => self.fits(next + 1, at),
        }
    }

    /// The number of results from `at` on that can be a tree, whose keys are in order.
    fn tree_len(&self, at: usize, prefix: &[u8]) -> usize {
        let entries = &self.entries[at..];
        let is_in_tree = |place: &usize| {
            let (key, _) = entries[*place];
            key.starts_with(prefix) && (*place == 0 || entries[place - 1].0 < key)
        };
        (0..entries.len()).take_while(is_in_tree).count()
    }
}

/// The results of an operation on a key.
#[derive(PartialEq, Eq)]
enum Gives {
    Nothing,
    Value,
    Tree,
    NoValue,
}

impl Operation {
    fn gives(&self) -> Gives {
        match self.verb.as_str() {
            "get" | "get-or-empty" => Gives::Value,
            "get-tree" => Gives::Tree,
            "set" | "cas" | "lock" | "unlock" | "check-index" | "check-session" => Gives::NoValue,
            _ => Gives::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::Base64;
    use crate::value::Value;

    /// The values of the results with these keys and values, `null` for none.
    fn values(operations: &[(&str, &str)], results: &[(&str, &str)]) -> Vec<Value> {
        let operations = operations
            .iter()
            .map(|(verb, key)| serde_json::json!({"KV": {"Verb": verb, "Key": key}}));
        let operations = serde_json::Value::from_iter(operations);
        let entry = |(key, value): &(&str, &str)| {
            format!(r#"{{"KV": {{"Key": "{key}", "Value": {value}, "Flags": 0}}}}"#)
        };
        let body: Vec<_> = results.iter().map(entry).collect();
        let body = format!(r#"{{"Results": [{}]}}"#, body.join(","));
        let outcome = Tape::of_json(body.into(), Base64::InResults).expect("it is JSON");
        let mut results = outcome.into_member("Results").expect("it has results");
        remove_values(&mut results, operations.to_string().as_bytes());
        let value = |result: &Value| result.get("KV")?.get("Value").cloned();
        results.value().items().iter().filter_map(value).collect()
    }

    #[test]
    fn an_empty_value_is_a_string_only_where_an_operation_reads_it() {
        let (none, empty, v) = (Value::Null, Value::from(""), Value::from("v"));
        assert_eq!(
            values(&[("set", "k"), ("get", "k")], &[("k", "null"), ("k", r#""dg==""#)]),
            [none.clone(), v.clone()]
        );
        assert_eq!(
            values(&[("get", "k"), ("set", "k"), ("get", "k")], &[("k", "null"); 3]),
            [empty.clone(), none.clone(), empty.clone()]
        );
        assert_eq!(
            values(
                &[("delete", "a"), ("lock", "a"), ("get", "b")],
                &[("a", "null"), ("b", "null")]
            ),
            [none.clone(), empty.clone()]
        );
    }

    #[test]
    fn a_tree_ends_where_the_results_of_the_other_operations_fit() {
        let (none, empty) = (Value::Null, Value::from(""));
        let operations = [("get-tree", "a/"), ("set", "a/3"), ("check-index", "a/1")];
        let results = [("a/1", "null"), ("a/2", "null"), ("a/3", "null"), ("a/1", "null")];
        let wanted = [empty.clone(), empty.clone(), none.clone(), none.clone()];
        assert_eq!(values(&operations, &results), wanted);
        let operations = [("get-tree", "a"), ("set", "a2"), ("get-tree", "a"), ("get", "a2")];
        let results =
            [("a1", "null"), ("a2", "null"), ("a1", "null"), ("a2", "null"), ("a2", "null")];
        let wanted = [empty.clone(), none.clone(), empty.clone(), empty.clone(), empty.clone()];
        assert_eq!(values(&operations, &results), wanted);
        // The first tree is empty.
        let operations = [("get-tree", "x"), ("set", "b"), ("get-tree", "a")];
        let results = [("b", "null"), ("a1", "null"), ("a2", "null")];
        assert_eq!(values(&operations, &results), [none, empty.clone(), empty]);
    }

    #[test]
    fn results_that_may_not_be_read_are_skipped() {
        let operations = [("get", "a"), ("get-tree", "t/"), ("set", "b")];
        assert_eq!(values(&operations, &[("b", "null")]), [Value::Null]);
    }

    #[test]
    fn results_that_fit_no_operation_stay_as_they_are() {
        assert_eq!(values(&[("set", "a")], &[("b", "null")]), [Value::from("")]);
    }
}
