//! The results of a transaction: whether they are those of its operations, and which of them have a value. Consul sends
//! null for an empty one, and for none.

use crate::tape::Tape;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;

/// An operation of a request, by its area; the value that it stores is not read.
#[derive(Deserialize)]
struct Sent {
    #[serde(rename = "KV")]
    kv: Option<Fields>,
    #[serde(rename = "Node")]
    node: Option<Fields>,
    #[serde(rename = "Service")]
    service: Option<Fields>,
    #[serde(rename = "Check")]
    check: Option<Fields>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Fields {
    verb: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    node: Value,
    #[serde(default)]
    service: Value,
    #[serde(default)]
    check: Value,
}

/// An operation: its results have this member, with this name of its subject. Without a name any fits.
struct Operation {
    area: &'static str,
    verb: String,
    name: String,
}

impl Sent {
    fn operation(self) -> Option<Operation> {
        let of = |area, verb, name: &Value| {
            let name = name.as_str().unwrap_or_default().to_owned();
            Some(Operation { area, verb, name })
        };
        match self {
            Sent { kv: Some(kv), .. } => {
                Some(Operation { area: "KV", verb: kv.verb, name: kv.key })
            }
            Sent { node: Some(it), .. } => of("Node", it.verb, &it.node["Node"]),
            Sent { service: Some(it), .. } => of("Service", it.verb, &it.service["ID"]),
            Sent { check: Some(it), .. } => of("Check", it.verb, &it.check["CheckID"]),
            _ => None,
        }
    }
}

/// A result: the member that it has, the name of its subject, and for a key the index of its value.
struct Found<'a> {
    area: &'a [u8],
    name: &'a [u8],
    value: Option<usize>,
    is_empty: bool,
}

impl<'a> Found<'a> {
    fn all(results: &'a Tape) -> Option<Vec<Self>> {
        let found = results.tagged()?.into_iter().map(|(area, at)| {
            let name = match area {
                b"KV" => "Key",
                b"Node" => "Node",
                b"Service" => "ID",
                _ => "CheckID",
            };
            let value = results.member(at, b"Value").filter(|_| area == b"KV");
            let is_empty = value.is_some_and(|at| results.is_empty_at(at));
            Some(Found { area, name: results.text_at(at, &[name])?, value, is_empty })
        });
        found.collect()
    }
}

/// Whether these can be the results of the operations in a request's body. Makes the values null in the results of
/// operations that read none.
pub(super) fn take_results(results: &mut Tape, operations: &[u8]) -> bool {
    let sent: Vec<Sent> = serde_json::from_slice(operations).unwrap_or_default();
    let operations: Vec<_> = sent.into_iter().filter_map(Sent::operation).collect();
    let Some(found) = Found::all(results) else { return false };
    let without_value = [false, true].into_iter().find_map(|may_miss| {
        let (operations, found) = (&operations, &found);
        let mut fit =
            Fit { operations, found, may_miss, without_value: Vec::new(), tried: HashSet::new() };
        fit.fits(0, 0).then_some(fit.without_value)
    });
    let Some(without_value) = without_value else { return false };
    let nulls: Vec<_> = without_value.into_iter().filter_map(|place| found[place].value).collect();
    nulls.into_iter().for_each(|at| results.set_null(at));
    true
}

/// Finds the operation of each result. The server does not name it, and a tree has any number of results.
struct Fit<'a> {
    operations: &'a [Operation],
    found: &'a [Found<'a>],
    /// Whether results of reads can be missing, for lack of a permission.
    may_miss: bool,
    /// The results that have no value.
    without_value: Vec<usize>,
    tried: HashSet<(usize, usize)>,
}

impl Fit<'_> {
    /// Whether the results from `at` on can be those of the operations from `next` on.
    fn fits(&mut self, next: usize, at: usize) -> bool {
        let Some(operation) = self.operations.get(next) else { return at == self.found.len() };
        if !self.tried.insert((next, at)) {
            return false;
        }
        let found = self.found.get(at).filter(|found| operation.is_about(found));
        match operation.gives() {
            Gives::NoValue => {
                if !found.is_some_and(|found| found.is_empty || found.value.is_none()) {
                    return false;
                }
                self.without_value.push(at);
                self.fits(next + 1, at + 1) || {
                    self.without_value.pop();
                    false
                }
            }
            Gives::Value => {
                found.is_some() && self.fits(next + 1, at + 1)
                    || self.may_miss && self.fits(next + 1, at)
            }
            Gives::Tree => {
                let end = at + self.tree_len(at, operation.name.as_bytes());
                (at..=end).rev().any(|end| self.fits(next + 1, end))
            }
            Gives::Nothing => self.fits(next + 1, at),
        }
    }

    /// The number of results from `at` on that can be a tree, whose keys are in order.
    fn tree_len(&self, at: usize, prefix: &[u8]) -> usize {
        let found = &self.found[at..];
        let is_in_tree = |place: &usize| {
            let key = found[*place].name;
            found[*place].area == b"KV"
                && key.starts_with(prefix)
                && (*place == 0 || found[place - 1].name < key)
        };
        (0..found.len()).take_while(is_in_tree).count()
    }
}

/// The results of an operation.
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

    fn is_about(&self, found: &Found) -> bool {
        let (name, other) = (self.name.as_bytes(), found.name);
        found.area == self.area.as_bytes()
            && (other == name
                || self.area != "KV" && (name.is_empty() || other.eq_ignore_ascii_case(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::txn::TXN;
    use crate::value::Value;

    /// The values of the results with these keys and values, `null` for none.
    fn values(operations: &[(&str, &str)], results: &[(&str, &str)]) -> Vec<Value> {
        let operations = operations
            .iter()
            .map(|(verb, key)| serde_json::json!({"KV": {"Verb": verb, "Key": key}}));
        let operations = serde_json::Value::from_iter(operations);
        let entry = |(key, value): &(&str, &str)| {
            format!(
                r#"{{"KV": {{"Key": "{key}", "Value": {value}, "Flags": 0, "LockIndex": 0, "CreateIndex": 1, "ModifyIndex": 1}}}}"#
            )
        };
        let body: Vec<_> = results.iter().map(entry).collect();
        let body = format!(r#"{{"Results": [{}], "Errors": null}}"#, body.join(","));
        let outcome =
            Tape::of_answer(body.into(), &TXN.form, b"", &|_| Vec::new()).expect("it is an answer");
        let mut results = outcome.into_member("Results").expect("it has results");
        assert!(take_results(&mut results, operations.to_string().as_bytes()));
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
}
