//! Bodies whose fields are Consul's and not declared here: what a Lua program writes like any other body is made what
//! Consul reads. A number where Consul has a duration is in seconds, an empty table where it has a list is a list, and
//! names in snake_case are Consul's.

use super::shape::{ValuePath, check_in_path, same_name};
use super::{Value, duration};
use crate::error::Error;
use crate::table::FreeForm;
use serde_json::Value as Json;
use std::time::Duration;

/// What a number in an object that Consul has answered means: there Consul has nanoseconds, and the program may have set
/// seconds since.
#[derive(PartialEq)]
enum Unit {
    Seconds,
    Nanoseconds,
    Unclear,
}

impl Unit {
    /// Nobody waits for less than 0.1 ms, or for more than three years; between them only whole milliseconds are known for
    /// nanoseconds.
    fn of(number: f64) -> Self {
        match number {
            ..1e5 => Unit::Seconds,
            1e5..1e8 if number % 1e6 != 0.0 => Unit::Unclear,
            _ => Unit::Nanoseconds,
        }
    }
}

/// What the names in a table are.
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
                for (given, member) in members {
                    let name = match names {
                        Names::Fields => in_camel_case(given),
                        _ => given.clone(),
                    };
                    let json = self.member(&name, member, &at.member(given), names)?;
                    if object.insert(name.clone(), json).is_some() {
                        return Err(at.twice(&name));
                    }
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
        match value.as_f64().filter(|_| has_durations) {
            Some(number) if is(self.durations) => return self.duration(number, value, at),
            Some(number) if is(self.nanoseconds) => {
                return self.nanoseconds(number, value, at);
            }
            _ => {}
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

    /// Whether the member of this name is one by which a path finds what is created.
    fn is_name(&self, name: &str, at: &ValuePath) -> bool {
        self.names.iter().filter_map(|known| known.split_once('.')).any(|(table, own)| {
            same_name(own, name) && at.table().is_some_and(|it| same_name(table, it))
        })
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

    fn duration(&self, number: f64, value: &Value, at: &ValuePath) -> Result<Json, Error> {
        if self.answers_nanoseconds && self.has_nanoseconds(number, value, at)? {
            return value.to_json();
        }
        let wanted = "it must be a number of seconds, not negative, or a string such as \"1m30s\"";
        let duration = of_seconds(number).ok_or_else(|| at.bad_value(value, wanted))?;
        Ok(duration::format(duration).into())
    }

    /// A number of nanoseconds, for a number of seconds or for one that Consul has answered.
    fn nanoseconds(&self, number: f64, value: &Value, at: &ValuePath) -> Result<Json, Error> {
        // One below 0 switches a leeway off.
        if number < 0.0 || self.has_nanoseconds(number, value, at)? {
            return value.to_json();
        }
        let wanted = "it must be a number of seconds";
        let duration = of_seconds(number).ok_or_else(|| at.bad_value(value, wanted))?;
        Ok((duration.as_nanos() as u64).into())
    }

    /// Whether a number is in nanoseconds, as Consul has answered it.
    fn has_nanoseconds(&self, number: f64, value: &Value, at: &ValuePath) -> Result<bool, Error> {
        let wanted = "in an answer of Consul this can be nanoseconds or seconds: set a string such as \"720h\" or \"500us\"";
        match Unit::of(number) {
            _ if !at.is_answer => Ok(false),
            Unit::Unclear => Err(at.bad_value(value, wanted)),
            unit => Ok(unit == Unit::Nanoseconds),
        }
    }
}

/// The duration of a number of seconds, if Go can have it.
fn of_seconds(number: f64) -> Option<Duration> {
    let longest = Duration::from_nanos(i64::MAX as u64);
    Duration::try_from_secs_f64(number).ok().filter(|it| *it <= longest)
}

/// Consul's spelling of a name in snake_case, but for capitals, of which it takes no notice. Any other name is as it was.
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
    use serde_json::json;

    const FORM: FreeForm = FreeForm {
        durations: &["Interval", "ConnectTimeout"],
        nanoseconds: &["Leeway"],
        lists: &["Tags", "Targets", "HTTP.Query", "Header.*"],
        names: &["entry.Name"],
        by_name: &["Subsets", "Header"],
        kept: &["Config"],
        opaque: &["Meta"],
        answers_nanoseconds: false,
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
                json!({"Query": {}, "http": {"query": {}, "x": {"Query": {}}}, "HTTP": [{"Query": {}}]}),
                json!({"Query": {}, "http": {"query": [], "x": {"Query": {}}}, "HTTP": [{"Query": []}]}),
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
                json!({"Leeway": 7_000_000_000_u64, "x": [{"leeway": 500_000_000}, {"leeway": "7s"}, {"leeway": -1}]}),
            ),
            (
                json!({"Meta": {"interval": 5, "a_b": {}}}),
                json!({"Meta": {"interval": 5, "a_b": {}}}),
            ),
            (
                json!({"Name": "a..b", "x": {"Name": ".."}}),
                json!({"Name": "a..b", "x": {"Name": ".."}}),
            ),
            (json!({"Interval": {"interval": 1}}), json!({"Interval": {"interval": "1s"}})),
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
        const NANOSECONDS: [f64; 4] = [1e6, 5e8, 3e10, 2.592e15];
        const REFUSED: [f64; 4] = [1e5, 5e5, 604_800.0, 2_592_000.0];
        let form = FreeForm { answers_nanoseconds: true, ..FORM };
        let with = |number: f64, name: &str, index: &str| {
            let mut given = json!({"a": {name: number}});
            if !index.is_empty() {
                given[index] = json!(7);
            }
            let sent = json(&form, given)?;
            Ok::<_, String>(sent["a"][name].clone())
        };
        for number in SECONDS.into_iter().chain(NANOSECONDS).chain(REFUSED) {
            let format = |number: f64| duration::format(Duration::from_secs_f64(number));
            let text = json!(format(number.min(9e9)));
            if number < 9e9 {
                assert_eq!(with(number, "Interval", ""), Ok(text.clone()), "{number}");
                let nanoseconds = json!((number * 1e9) as u64);
                assert_eq!(with(number, "Leeway", ""), Ok(nanoseconds), "{number}");
            }
            for (name, index) in [
                ("Interval", "CreateIndex"),
                ("Interval", "modify_index"),
                ("Leeway", "ModifyIndex"),
            ] {
                let sent = with(number, name, index);
                match (NANOSECONDS.contains(&number), REFUSED.contains(&number)) {
                    (true, _) => assert_eq!(sent, Ok(json!(number)), "{name} {number}"),
                    (_, true) => {
                        assert!(sent.expect_err("unclear").contains("set a string such as"))
                    }
                    _ if name == "Leeway" => assert_eq!(sent, Ok(json!((number * 1e9) as u64))),
                    _ => assert_eq!(sent, Ok(text.clone()), "{number}"),
                }
            }
        }
    }
}
