//! The results of a transaction: whether they belong to its operations, and which of them have a value. Consul sends
//! null for an empty one, and for none.

use crate::tape::Tape;
use serde::Deserialize;
use serde_json::Value;

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

/// The operations in a request's body, whose names Consul takes in any case.
fn operations_of(body: &[u8]) -> Vec<Operation> {
    let read = serde_json::from_slice::<Vec<Sent>>(body).ok();
    let all = read.and_then(|sent| sent.into_iter().map(Sent::operation).collect::<Option<_>>());
    all.unwrap_or_else(|| {
        let sent: Vec<Value> = serde_json::from_slice(body).unwrap_or_default();
        let sent = sent.into_iter().map(|it| serde_json::from_value::<Sent>(renamed(it)).ok());
        sent.flatten().filter_map(Sent::operation).collect()
    })
}

/// A value whose members have the names of Consul's fields.
fn renamed(value: Value) -> Value {
    const NAMES: [&str; 8] = ["KV", "Node", "Service", "Check", "Verb", "Key", "ID", "CheckID"];
    let Value::Object(members) = value else { return value };
    let members = members.into_iter().map(|(name, member)| {
        let known = NAMES.iter().find(|known| known.eq_ignore_ascii_case(&name));
        (known.map_or(name, |known| (*known).to_owned()), renamed(member))
    });
    Value::Object(members.collect())
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

/// The operations that Consul left out, if these can be the results of the operations in a request's body; `None`: they
/// cannot. Makes the values null in the results of operations that read none.
pub(super) fn take_results(results: &mut Tape, operations: &[u8]) -> Option<Vec<usize>> {
    let operations = operations_of(operations);
    let found = Found::all(results)?;
    let fit = Fit { operations: &operations, found: &found };
    let all = [Missing::None, Missing::Reads, Missing::Checks];
    let Fitting { without_value, left_out } =
        all.into_iter().find_map(|missing| fit.find(missing))?;
    let nulls: Vec<_> = without_value.into_iter().filter_map(|place| found[place].value).collect();
    nulls.into_iter().for_each(|at| results.set_null(at));
    Some(left_out)
}

/// The results that can be missing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Missing {
    None,
    /// Of reads, for lack of a permission.
    Reads,
    /// These, and of writes of checks with `cas`: Consul leaves one out if its node or its service does not exist.
    Checks,
}

/// The results that have no value, and the operations without a result that should have one.
#[derive(Debug, PartialEq, Eq)]
struct Fitting {
    without_value: Vec<usize>,
    left_out: Vec<usize>,
}

/// Finds the operation of each result. The server does not name it, and a tree has any number of results.
struct Fit<'a> {
    operations: &'a [Operation],
    found: &'a [Found<'a>],
}

/// The places from which on the results fit the operations that are left; one is behind the last result.
struct Places(Vec<u64>);

impl Places {
    fn with(count: usize, mut fits: impl FnMut(usize) -> bool) -> Self {
        let mut words = vec![0; count / 64 + 1];
        for at in (0..=count).filter(|at| fits(*at)) {
            words[at / 64] |= 1 << (at % 64);
        }
        Places(words)
    }

    fn has(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
    }
}

impl Fit<'_> {
    /// The kinds of the results, if all are results of the operations. From the last operation to the first, so that it
    /// takes time for each operation and result once, whatever the results are.
    fn find(&self, missing: Missing) -> Option<Fitting> {
        let count = self.found.len();
        let mut places = vec![Places::with(count, |at| at == count)];
        for operation in self.operations.iter().rev() {
            let next = places.last()?;
            let row = match operation.gives() {
                Gives::Tree => {
                    let ends = self.ends_of_trees(operation.name.as_bytes());
                    let mut last = None;
                    let fits: Vec<_> = (0..=count)
                        .map(|end| {
                            last = Some(end).filter(|end| next.has(*end)).or(last);
                            last
                        })
                        .collect();
                    Places::with(count, |at| fits[ends[at]].is_some_and(|end| end >= at))
                }
                _ => Places::with(count, |at| self.step(operation, at, next, missing).is_some()),
            };
            places.push(row);
        }
        places.reverse();
        let (mut without_value, mut left_out) = (Vec::new(), Vec::new());
        let mut at = Some(0).filter(|at| places[0].has(*at))?;
        for (index, (operation, next)) in self.operations.iter().zip(&places[1..]).enumerate() {
            let gives = operation.gives();
            let after = match gives {
                Gives::Tree => {
                    let end = self.ends_of_trees(operation.name.as_bytes())[at];
                    (at..=end).rev().find(|end| next.has(*end))?
                }
                _ => self.step(operation, at, next, missing)?,
            };
            match gives {
                Gives::NoValue if after == at => left_out.push(index),
                Gives::NoValue => without_value.push(at),
                _ => {}
            }
            at = after;
        }
        Some(Fitting { without_value, left_out })
    }

    /// The place of the next operation's results if the results of this one, which gives no tree, are at `at`.
    fn step(
        &self,
        operation: &Operation,
        at: usize,
        next: &Places,
        missing: Missing,
    ) -> Option<usize> {
        let found = || self.found.get(at).filter(|found| operation.is_about(found));
        let is_there = match operation.gives() {
            Gives::NoValue => {
                next.has(at + 1)
                    && found().is_some_and(|found| found.is_empty || found.value.is_none())
            }
            Gives::Value => next.has(at + 1) && found().is_some(),
            Gives::Nothing | Gives::Tree => false,
        };
        let may_be_none = match operation.gives() {
            Gives::Value => missing >= Missing::Reads,
            Gives::NoValue => missing == Missing::Checks && operation.is_cas_of_check(),
            gives => gives == Gives::Nothing,
        };
        match is_there {
            true => Some(at + 1),
            false => (may_be_none && next.has(at)).then_some(at),
        }
    }

    /// Where the longest tree ends that begins at each place. Its keys are in order, but for those that are not UTF-8, which
    /// JSON has with other bytes.
    fn ends_of_trees(&self, prefix: &[u8]) -> Vec<usize> {
        let is_changed = |name: &[u8]| name.windows(3).any(|it| it == "\u{fffd}".as_bytes());
        let follows =
            |before: &[u8], name: &[u8]| before < name || is_changed(before) || is_changed(name);
        let mut ends: Vec<_> = (0..=self.found.len()).collect();
        for at in (0..self.found.len()).rev() {
            let Found { area, name, .. } = self.found[at];
            if area == b"KV" && name.starts_with(prefix) {
                let next = self.found.get(at + 1).filter(|next| follows(name, next.name));
                ends[at] = next.map_or(at + 1, |_| ends[at + 1].max(at + 1));
            }
        }
        ends
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

    fn is_cas_of_check(&self) -> bool {
        (self.area, self.verb.as_str()) == ("Check", "cas")
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
        assert_eq!(take_results(&mut results, operations.to_string().as_bytes()), Some(vec![]));
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

    /// Recorded on 1.8.7 and 1.21.0: 200, with one result less.
    #[test]
    fn a_check_that_consul_left_out_is_named() {
        let cas = r#"{"Check": {"Verb": "cas", "Check": {"Node": "n", "CheckID": "c"}}}"#;
        let set = r#"{"KV": {"Verb": "set", "Key": "k"}}"#;
        let entry = r#"{"KV": {"Key": "k", "Value": null, "Flags": 0, "LockIndex": 0, "CreateIndex": 1, "ModifyIndex": 1}}"#;
        let check = r#"{"Check": {"Node": "n", "CheckID": "c"}}"#;
        let outcome = |operations: &[&str], results: &[&str]| {
            let body = format!(r#"{{"Results": [{}], "Errors": null}}"#, results.join(","));
            let outcome = Tape::of_answer(body.into(), &TXN.form, b"", &|_| Vec::new());
            let mut results = outcome.expect("an answer").into_member("Results").expect("results");
            take_results(&mut results, format!("[{}]", operations.join(",")).as_bytes())
        };
        assert_eq!(outcome(&[set, cas], &[entry, check]), Some(vec![]));
        assert_eq!(outcome(&[set, cas], &[entry]), Some(vec![1]));
        assert_eq!(outcome(&[cas, set, cas], &[entry]), Some(vec![0, 2]));
        assert_eq!(outcome(&[cas, set, cas], &[check, entry]), Some(vec![2]));
        assert_eq!(outcome(&[cas], &[]), Some(vec![0]));
        assert_eq!(outcome(&[set, cas], &[check]), None);
        assert_eq!(outcome(&[set, set], &[entry]), None);
        let other = check.replace("\"c\"", "\"d\"");
        assert_eq!(outcome(&[set, cas], &[entry, &other]), None);
        for verb in ["set", "get"] {
            assert_eq!(
                outcome(&[set, &cas.replace("cas", verb)], &[entry]).is_some(),
                verb == "get"
            );
        }
    }

    /// Consul sends U+FFFD for bytes that are not UTF-8, in the order of the original bytes.
    #[test]
    fn keys_of_a_tree_that_are_not_utf8_are_in_any_order() {
        let operations = [("get-tree", "t/"), ("set", "t/a")];
        let keys = ["t/\u{fffd}z", "t/\u{e9}", "t/\u{fffd}a", "t/\u{fffd}a", "t/b", "t/a"];
        assert_eq!(values(&operations, &keys.map(|key| (key, "null"))).len(), 6);
    }

    /// Of many ways to divide the results none is tried twice: 64 trees of 2,000 keys once took minutes.
    #[test]
    fn many_trees_and_a_missing_result_are_told_apart_in_one_pass() {
        let keys: Vec<String> = (0..2000).map(|number| format!("t/{number:04}")).collect();
        let tree = keys.iter().map(|key| (key.as_str(), "null"));
        let mut results: Vec<_> = std::iter::repeat_n(tree, 64).flatten().collect();
        results.push(("b", "null"));
        let mut operations = vec![("get-tree", "t/"); 64];
        operations.extend([("get", "hidden"), ("set", "b")]);
        let found: Vec<_> = results
            .iter()
            .map(|(name, _)| Found {
                area: b"KV",
                name: name.as_bytes(),
                value: None,
                is_empty: true,
            })
            .collect();
        let operations: Vec<_> = operations
            .iter()
            .map(|(verb, name)| Operation {
                area: "KV",
                verb: (*verb).into(),
                name: (*name).into(),
            })
            .collect();
        let fit = Fit { operations: &operations, found: &found };
        assert_eq!(fit.find(Missing::None), None);
        let fitting = Fitting { without_value: vec![64 * 2000], left_out: vec![] };
        assert_eq!(fit.find(Missing::Reads), Some(fitting));
    }

    #[test]
    fn results_that_may_not_be_read_are_skipped() {
        let operations = [("get", "a"), ("get-tree", "t/"), ("set", "b")];
        assert_eq!(values(&operations, &[("b", "null")]), [Value::Null]);
    }
}
