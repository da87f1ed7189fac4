//! TOML as values, with the line of each.

use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The values of a document, and the line of each by its path (`cluster.min_nodes`).
///
/// # Errors
/// [`Kind::Decode`], naming line and column.
pub fn decode(text: &str) -> Result<(Value, Vec<(String, usize)>), Error> {
    let document = DeTable::parse(text).map_err(|error| {
        let at = position(text, error.span().map_or(text.len(), |span| span.start));
        let why = error.message().replace('\n', ", ");
        Error::new(Kind::Decode, format!("line {}, column {}: {why}", at.0, at.1)).not_sent()
    })?;
    let ends = text.match_indices('\n').map(|(end, _)| end).collect();
    let mut lines = Lines { ends, found: Vec::new() };
    let values = lines.table(document.get_ref(), "");
    Ok((values, lines.found))
}

/// Line and column of an offset, from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

struct Lines {
    /// The offsets of the line breaks.
    ends: Vec<usize>,
    /// The line of each value, by its path.
    found: Vec<(String, usize)>,
}

impl Lines {
    fn table(&mut self, table: &DeTable, path: &str) -> Value {
        let member = |(name, member): (&Spanned<_>, &Spanned<DeValue>)| {
            let name: &std::borrow::Cow<str> = name.get_ref();
            let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
            let start = member.span().start;
            self.found.push((path.clone(), self.ends.partition_point(|end| *end < start) + 1));
            (name.to_string(), self.value(member.get_ref(), &path))
        };
        Value::Map(table.iter().map(member).collect())
    }

    fn value(&mut self, found: &DeValue, path: &str) -> Value {
        match found {
            DeValue::String(text) => text.as_ref().into(),
            DeValue::Boolean(flag) => (*flag).into(),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| number.as_str().into(), Value::Int),
            DeValue::Float(number) => {
                number.as_str().parse().map_or_else(|_| number.as_str().into(), Value::Float)
            }
            DeValue::Datetime(time) => time.to_string().as_str().into(),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| self.value(item.get_ref(), path)).collect())
            }
            DeValue::Table(members) => self.table(members, path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn values_have_their_lines() {
        let text = "# servers\n[consul]\nservers = [\n  \"a:1\",\n]\ntimeout = 1.5\n\n[cluster]\nmin_nodes = 0x10\nfree = true\nsince = 2026-01-02\n";
        let (values, lines) = decode(text).expect("TOML");
        let of =
            |section: &str, name: &str| values.get(section).and_then(|it| it.get(name)).cloned();
        assert_eq!(of("consul", "servers"), Some(Value::List(vec!["a:1".into()])));
        assert_eq!(of("consul", "timeout"), Some(Value::Float(1.5)));
        assert_eq!(of("cluster", "min_nodes"), Some(16.into()));
        assert_eq!(of("cluster", "free"), Some(true.into()));
        assert_eq!(of("cluster", "since"), Some("2026-01-02".into()));
        let line = |path: &str| lines.iter().find(|(name, _)| name == path).map(|(_, line)| *line);
        assert_eq!(line("cluster.min_nodes"), Some(9));
        assert_eq!(line("consul.timeout"), Some(6));
    }

    /// When the lines were counted from the beginning for each value, this took minutes.
    #[test]
    fn a_large_document_takes_time_in_proportion_to_its_size() {
        let text: String = (0..60_000).map(|number| format!("name{number} = 1\n")).collect();
        let begun = Instant::now();
        let (_, lines) = decode(&text).expect("TOML");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(lines.iter().map(|(_, line)| line).max(), Some(&60_000));
    }

    #[test]
    fn invalid_toml_is_reported_by_line_and_column() {
        for (text, place) in [
            ("a = 1\nb = \n", "line 2, column 5: "),
            ("a = 1\na = 2\n", "line 2, column 1: "),
            ("é = 1", "line 1, column 1: "),
            ("a = \"", "line 1, column 6: "),
        ] {
            let error = decode(text).expect_err(text);
            assert_eq!(error.kind(), Kind::Decode);
            assert!(error.message().starts_with(place), "{text:?}: {error}");
        }
    }
}
