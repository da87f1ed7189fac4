//! Bodies whose fields are Consul's and not declared here: what a Lua program writes like any other body is made what
//! Consul reads. A number where Consul has a duration is in seconds, an empty table where it has a list is a list, and
//! names in snake_case are Consul's.

use super::shape::{ValuePath, check_in_path, letters, same_name};
use super::{Value, duration};
use crate::error::Error;
use crate::table::FreeForm;
use serde_json::Value as Json;
use std::collections::HashSet;
use std::time::Duration;

/// The meaning of a number in an object that Consul has answered: there Consul has nanoseconds, and the program may
/// have set seconds since.
#[derive(PartialEq)]
enum Unit {
    Seconds,
    Nanoseconds,
    Unclear,
}

impl Unit {
    /// Nobody waits for less than 0.1 ms, or for more than three years; between them a number can be either.
    fn of(number: f64) -> Self {
        match number {
            ..1e5 => Unit::Seconds,
            1e5..1e8 => Unit::Unclear,
            _ => Unit::Nanoseconds,
        }
    }
}

/// The nature of the names in a table.
#[derive(Clone, Copy, PartialEq)]
enum Names {
    /// Consul's fields.
    Fields,
    /// The program's, of tables with Consul's fields.
    Own,
    /// Of something that takes them only as they are, at every depth: a proxy, or a program of the user's.
    Kept,
    /// The same, of the one table there that Consul reads itself.
    PassiveHealthCheck,
}

impl FreeForm {
    /// The body for a table.
    ///
    /// # Errors
    /// A duration that is none, a name in two spellings, what JSON cannot represent.
    pub fn json(&self, value: &Value, at: &ValuePath) -> Result<Json, Error> {
        self.walk(value, at, Names::Fields)
    }

    fn walk(&self, value: &Value, at: &ValuePath, names: Names) -> Result<Json, Error> {
        match value {
            Value::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (place, item) in items.iter().enumerate() {
                    list.push(self.walk(item, &at.member(&(place + 1).to_string()), names)?);
                }
                Ok(list.into())
            }
            Value::Map(members) => {
                let at = &at.of(value);
                let mut object = serde_json::Map::with_capacity(members.len());
                let mut read = HashSet::new();
                for (given, member) in members {
                    let name = match names {
                        Names::Fields => in_camel_case(given),
                        _ => given.clone(),
                    };
                    let is_read = matches!(names, Names::Fields | Names::PassiveHealthCheck);
                    if is_read && !read.insert(letters(given)) {
                        return Err(at.twice(&name));
                    }
                    let json = self.member(&name, member, &at.member(given), names)?;
                    object.insert(name, json);
                }
                Ok(object.into())
            }
            scalar => scalar.to_json().map_err(|error| error.context(&at.name())),
        }
    }

    fn member(
        &self,
        name: &str,
        value: &Value,
        at: &ValuePath,
        names: Names,
    ) -> Result<Json, Error> {
        let is = |known: &[&str]| known.iter().any(|known| same_name(known, name));
        let is_empty = matches!(value, Value::Map(members) if members.is_empty());
        if is_empty && self.is_list(name, at, names) {
            return Ok(Json::Array(Vec::new()));
        }
        if names == Names::Own {
            return self.walk(value, at, Names::Fields);
        }
        let is_fields = names == Names::Fields;
        if is_fields && self.is_name(name, at) {
            let text = value.as_str().unwrap_or_default();
            check_in_path(text).map_err(|why| at.bad_value(value, why))?;
        }
        let has_durations = is_fields || names == Names::PassiveHealthCheck;
        if has_durations && is(self.durations) {
            return self.duration(name, value, at);
        }
        if has_durations && is(self.nanoseconds) {
            return nanoseconds(value, at);
        }
        match value {
            Value::Map(_) if is(self.opaque) => {
                value.to_json().map_err(|error| error.context(&at.name()))
            }
            Value::Map(_) if is_fields && is(self.by_name) => self.walk(value, at, Names::Own),
            Value::Map(_) if is_fields && is(self.kept) => self.walk(value, at, Names::Kept),
            Value::Map(_) if names == Names::Kept && is(&["PassiveHealthCheck"]) => {
                self.walk(value, at, Names::PassiveHealthCheck)
            }
            _ => self.walk(value, at, names),
        }
    }

    /// Whether a path finds the created object by the member of this name.
    fn is_name(&self, name: &str, at: &ValuePath) -> bool {
        self.names.iter().any(|known| known.contains('.') && is_in_table(known, name, at))
    }

    /// Whether the member of this name is one of the lists.
    fn is_list(&self, name: &str, at: &ValuePath, names: Names) -> bool {
        self.lists.iter().any(|list| {
            let (table, own) = list.split_once('.').unwrap_or(("", list));
            let is_own = match own {
                "*" => names == Names::Own,
                _ => names == Names::Fields && same_name(own, name),
            };
            is_own && (table.is_empty() || at.table().is_some_and(|it| same_name(table, it)))
        })
    }

    /// The text of a duration.
    fn duration(&self, name: &str, value: &Value, at: &ValuePath) -> Result<Json, Error> {
        let mut answered = self.answered_in_nanoseconds.iter();
        if answered.any(|known| is_in_table(known, name, at)) && is_in_nanoseconds(value, at)? {
            return value.to_json();
        }
        match value {
            _ if is_none(value) => value.to_json(),
            Value::Bytes(_) => checked_duration(value, at).and_then(|_| value.to_json()),
            _ => Ok(duration::format(checked_duration(value, at)?).into()),
        }
    }
}

/// The number of nanoseconds of a duration. One below 0 switches a leeway off.
fn nanoseconds(value: &Value, at: &ValuePath) -> Result<Json, Error> {
    let is_negative = value.as_f64().is_some_and(|number| number < 0.0);
    if is_negative || is_none(value) || is_in_nanoseconds(value, at)? {
        return value.to_json();
    }
    let (sign, value) = match value.as_str().and_then(|text| text.strip_prefix('-')) {
        Some(text) => (-1, &Value::from(text)),
        None => (1, value),
    };
    // Not more than an i64 has.
    Ok((sign * checked_duration(value, at)?.as_nanos() as i64).into())
}

/// Whether the member at this place is the one of this name, which `Table.Name` is in a table of that name alone.
fn is_in_table(known: &str, name: &str, at: &ValuePath) -> bool {
    let (table, own) = known.split_once('.').unwrap_or(("", known));
    same_name(own, name) && (table.is_empty() || at.table().is_some_and(|it| same_name(table, it)))
}

/// Whether a value sets no duration: Consul answers with an empty text.
fn is_none(value: &Value) -> bool {
    *value == Value::Null || value.as_str() == Some("")
}

/// Whether a number, where Consul answers with nanoseconds, is one of these.
fn is_in_nanoseconds(value: &Value, at: &ValuePath) -> Result<bool, Error> {
    let Some(number) = value.as_f64() else { return Ok(false) };
    match Unit::of(number) {
        Unit::Nanoseconds if at.is_answer => Ok(true),
        Unit::Unclear if !at.is_answer => Ok(false),
        Unit::Seconds => Ok(false),
        _ => Err(at.bad_value(
            value,
            "it can be seconds, or nanoseconds as in an answer of Consul: set a string such as \"1m30s\" or \"720h\"",
        )),
    }
}

/// A duration that Go can have.
fn checked_duration(value: &Value, at: &ValuePath) -> Result<Duration, Error> {
    let longest = Duration::from_nanos(i64::MAX as u64);
    let duration = match (value.as_f64(), value) {
        (Some(number), _) => Duration::try_from_secs_f64(number).ok(),
        (None, Value::Bytes(_)) => value.as_str().and_then(duration::parse),
        _ => {
            let wanted = "a number of seconds or a string such as \"1m30s\"";
            return Err(at.wrong_type_text(wanted, value));
        }
    };
    duration.filter(|it| *it <= longest).ok_or_else(|| {
        let wanted = "it must be a number of seconds, not negative, or a string such as \"1m30s\"";
        at.bad_value(value, wanted)
    })
}

/// Consul's spelling of a name in snake_case, but for capitals, since it ignores these. Any other name is as it was.
fn in_camel_case(name: &str) -> String {
    if !name.contains('_') || name.starts_with('_') {
        return name.to_owned();
    }
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
    };
    name.split('_').map(|word| -> String { capital(word) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use serde_json::json;

    const FORM: FreeForm = FreeForm {
        durations: &["Interval", "ConnectTimeout", "TTL"],
        answered_in_nanoseconds: &["Check.Interval", "TTL"],
        nanoseconds: &["Leeway"],
        lists: &["Tags", "Targets", "HTTP.Query", "Header.*"],
        names: &["entry.Name"],
        by_name: &["Subsets", "Header"],
        kept: &["Config"],
        opaque: &["Meta"],
    };

    fn json(form: &FreeForm, given: Json) -> Result<Json, String> {
        let top = ValuePath::top("entry");
        form.json(&Value::from(given), &top).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn each_kind_of_member_is_what_consul_reads() {
        for (given, sent) in [
            (json!({"connect_timeout": 5}), json!({"ConnectTimeout": "5s"})),
            (json!({"ConnectTimeout": 0.25}), json!({"ConnectTimeout": "250ms"})),
            (json!({"ConnectTimeout": "7m"}), json!({"ConnectTimeout": "7m"})),
            (json!({"a": {"b": [{"interval": 0}]}}), json!({"a": {"b": [{"interval": "0s"}]}})),
            (json!({"Tags": {}, "Other": {}}), json!({"Tags": [], "Other": {}})),
            (json!({"a_b": {"tags": {}}}), json!({"AB": {"tags": []}})),
            (
                json!({"Subsets": {"my_own": {"only_passing": true, "targets": {}}}}),
                json!({"Subsets": {"my_own": {"OnlyPassing": true, "targets": []}}}),
            ),
            (
                json!({"Query": {}, "http": {"query": {}, "x": {"Query": {}}}, "y": {"HTTP": [{"Query": {}}]}}),
                json!({"Query": {}, "http": {"query": [], "x": {"Query": {}}}, "y": {"HTTP": [{"Query": []}]}}),
            ),
            (
                json!({"Header": {"My_Own": {}, "Tags": ["a"], "*": {}}, "Subsets": {"Tags": {}, "*": {}}}),
                json!({"Header": {"My_Own": [], "Tags": ["a"], "*": []}, "Subsets": {"Tags": {}, "*": {}}}),
            ),
            (
                json!({"Config": {"my_check": {"max_failures": 5, "interval": 10}, "tags": {}}}),
                json!({"Config": {"my_check": {"max_failures": 5, "interval": 10}, "tags": {}}}),
            ),
            (
                json!({"Config": {"passive_health_check": {"interval": 10, "a_b": {}}, "interval": 1}}),
                json!({"Config": {"passive_health_check": {"interval": "10s", "a_b": {}}, "interval": 1}}),
            ),
            (
                json!({"Leeway": 7, "x": [{"leeway": 0.5}, {"leeway": "7s"}, {"leeway": -1}]}),
                json!({"Leeway": 7_000_000_000_u64, "x": [{"leeway": 500_000_000}, {"leeway": 7_000_000_000_u64}, {"leeway": -1}]}),
            ),
            (
                json!({"Leeway": "1m30s", "x": {"Leeway": "-5s"}}),
                json!({"Leeway": 90_000_000_000_u64, "x": {"Leeway": -5_000_000_000_i64}}),
            ),
            (
                json!({"Meta": {"interval": 5, "a_b": {}}}),
                json!({"Meta": {"interval": 5, "a_b": {}}}),
            ),
            (
                json!({"Name": "a..b", "x": {"Name": ".."}}),
                json!({"Name": "a..b", "x": {"Name": ".."}}),
            ),
            (json!({"_hidden": 1, "": 2, "a__b_": 3}), json!({"_hidden": 1, "": 2, "AB": 3})),
            (json!([1, {"Interval": 1e6}]), json!([1, {"Interval": "1000000s"}])),
        ] {
            assert_eq!(json(&FORM, given.clone()), Ok(sent), "{given}");
        }
    }

    #[test]
    fn a_wrong_duration_a_wrong_name_and_one_in_two_spellings_are_refused() {
        for (given, why) in [
            (json!({"Interval": -1}), "entry.Interval is -1: it must be a number of seconds"),
            (json!({"a": [{"Interval": 1e300}]}), "entry.a.1.Interval is"),
            (json!({"a_b": 1, "AB": 2}), "entry has AB twice"),
            (
                json!({"name": "a/.."}),
                "entry.name is \"a/..\": the server would remove the segment",
            ),
        ] {
            let said = json(&FORM, given).expect_err(why);
            assert!(said.contains(why), "{said}");
        }
    }

    /// Consul's answers have indexes. Each of `REFUSED` could be either.
    #[test]
    fn where_consul_answers_with_nanoseconds_they_can_be_sent_back() {
        const SECONDS: [f64; 4] = [0.5, 10.0, 86_400.0, 99_999.0];
        const NANOSECONDS: [f64; 4] = [1e8, 5e8, 3e10, 2.592e15];
        const REFUSED: [f64; 6] = [1e5, 5e5, 604_800.0, 1e6, 2_592_000.0, 9e7];
        let with = |number: f64, path: [&str; 2], index: &str| {
            let mut given = json!({path[0]: {path[1]: number}});
            if !index.is_empty() {
                given[index] = json!(7);
            }
            let sent = json(&FORM, given)?;
            Ok::<_, String>(sent[path[0]][path[1]].clone())
        };
        let text = |number: f64| json!(duration::format(Duration::from_secs_f64(number)));
        for (path, in_seconds) in [
            (["a", "TTL"], &(|number| text(number)) as &dyn Fn(f64) -> Json),
            (["Check", "Interval"], &|number| text(number)),
            (["a", "Leeway"], &|number| json!((number * 1e9) as u64)),
        ] {
            for index in ["", "CreateIndex", "modify_index"] {
                for number in SECONDS {
                    assert_eq!(with(number, path, index), Ok(in_seconds(number)), "{path:?}");
                }
                for number in REFUSED {
                    let sent = with(number, path, index);
                    match index {
                        "" => assert_eq!(sent, Ok(in_seconds(number)), "{path:?} {number}"),
                        _ => assert!(sent.expect_err("unclear").contains("set a string such as")),
                    }
                }
                for number in NANOSECONDS {
                    let sent = with(number, path, index);
                    match index {
                        "" => assert!(sent.expect_err("unclear").contains("set a string such as")),
                        _ => assert_eq!(sent, Ok(json!(number)), "{path:?} {number}"),
                    }
                }
            }
        }
        // Where Consul answers with a text, a number is one of seconds.
        for number in SECONDS.into_iter().chain(REFUSED) {
            for (path, index) in
                [(["a", "Interval"], "CreateIndex"), (["Checks", "Interval"], "ModifyIndex")]
            {
                assert_eq!(with(number, path, index), Ok(text(number)), "{path:?} {number}");
            }
        }
    }

    #[test]
    fn what_is_neither_a_number_nor_a_duration_is_refused() {
        let wrong = [
            json!(true),
            json!(false),
            json!({}),
            json!([]),
            json!([1]),
            json!([true]),
            json!({"a": 1}),
            json!("10"),
            json!("1d"),
            json!(" 10s"),
            json!("-5s"),
            json!("9999999999s"),
            json!("x"),
        ];
        for name in ["Interval", "TTL", "connect_timeout", "Leeway"] {
            for given in &wrong {
                // One below 0 switches a leeway off.
                if (name, given) == ("Leeway", &json!("-5s")) {
                    continue;
                }
                let top = ValuePath::top("entry");
                let body = Value::from(json!({"a": [{name: given}]}));
                let error = FORM.json(&body, &top).expect_err(&format!("{name} {given}"));
                assert_eq!(error.kind(), Kind::Argument);
                assert!(error.message().contains(&format!("entry.a.1.{name} ")), "{error}");
                assert!(error.message().contains("\"1m30s\""), "{error}");
            }
            // Consul answers with an empty text where none is set.
            for given in [json!(null), json!("")] {
                assert_eq!(json(&FORM, json!({name: given})).map(drop), Ok(()), "{name} {given}");
            }
        }
    }

    /// Consul ignores case, and keeps one of both.
    #[test]
    fn a_name_in_two_cases_is_refused_where_consul_reads_it() {
        for given in [
            json!({"name": "a", "Name": "b"}),
            json!({"x": [{"connecttimeout": 1, "ConnectTimeout": 2}]}),
            json!({"Subsets": {"v1": {"onlyPassing": true, "only_passing": false}}}),
            json!({"Config": {"passive_health_check": {"Interval": 1, "interval": 2}}}),
        ] {
            let said = json(&FORM, given.clone()).expect_err("twice");
            assert!(said.contains(" twice, in two spellings"), "{given}: {said}");
        }
        for given in [
            json!({"Meta": {"a": "1", "A": "2", "a_": "3"}}),
            json!({"Subsets": {"v1": {}, "V1": {}}}),
            json!({"Config": {"a": 1, "A": 2, "x": {"b": 1, "B": 2}}}),
        ] {
            assert_eq!(json(&FORM, given.clone()), Ok(given));
        }
    }
}
