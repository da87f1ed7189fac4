//! Numbers, durations, dates and quoted text as Go's standard library reads and writes them, with
//! the texts of its errors.

use consul_api::value::duration;
use consul_api::value::shape::is_printable;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The bytes that a path keeps as they are. Source: `shouldEscape` of Go's `net/url`.
pub(crate) const OF_A_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// Bytes as text, with one U+FFFD for each byte that is not UTF-8, as Go's JSON encoder writes it.
pub(super) fn lossy(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

/// Text in double quotes as `%q` writes it, bytes that are not UTF-8 as escapes.
pub(super) fn quoted(text: impl AsRef<[u8]>) -> String {
    let mut quoted = String::from("\"");
    for chunk in text.as_ref().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\u{7}' => quoted.push_str("\\a"),
                '\u{8}' => quoted.push_str("\\b"),
                '\u{c}' => quoted.push_str("\\f"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '\u{b}' => quoted.push_str("\\v"),
                c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if is_printable(c.encode_utf8(&mut [0; 4])) => quoted.push(c),
                c if c > '\u{ffff}' => quoted.push_str(&format!("\\U{:08x}", u32::from(c))),
                c => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            }
        }
        quoted.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    quoted.push('"');
    quoted
}

/// The text of an error of the system: in lower case and without its number.
pub(super) fn error_text(error: &std::io::Error) -> String {
    let text = error.to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// A boolean, as `strconv.ParseBool` reads it.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// An unsigned integer, as `strconv.ParseUint` reads it.
pub(super) fn uint(text: &str) -> Result<u64, String> {
    let refuse = |why: &str| Err(format!("strconv.ParseUint: parsing {}: {why}", quoted(text)));
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return refuse("invalid syntax");
    }
    text.parse().or_else(|_| refuse("value out of range"))
}

/// An integer with a sign and the prefix of its base, as `strconv.ParseInt` reads it when the text chooses the base.
pub(super) fn integer(text: &str) -> Option<i128> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let prefixed = digits.strip_prefix('0').filter(|rest| !rest.is_empty());
    let (base, digits) = match prefixed.map(|rest| (rest, rest.split_at_checked(1))) {
        Some((_, Some(("x" | "X", rest)))) => (16, rest),
        Some((_, Some(("b" | "B", rest)))) => (2, rest),
        Some((_, Some(("o" | "O", rest)))) => (8, rest),
        Some((rest, _)) => (8, rest),
        None => (10, digits),
    };
    let is_separated = digits.split('_').skip(usize::from(base != 10)).all(|part| !part.is_empty());
    if !is_separated || digits.starts_with(['+', '-']) {
        return None;
    }
    let number = i128::from_str_radix(&digits.replace('_', ""), base).ok()?;
    Some(if text.starts_with('-') { -number } else { number })
}

/// A number as an integer. If it does not fit, it is the smallest, as processors convert it for Go.
pub(super) fn int(number: &serde_json::Number) -> i64 {
    const END: f64 = 9_223_372_036_854_775_808.0;
    let float = number.as_f64().unwrap_or(0.0);
    let is_outside = !(-END..END).contains(&float);
    number.as_i64().unwrap_or(if is_outside { i64::MIN } else { float as i64 })
}

/// A duration in nanoseconds, as `time.ParseDuration` reads it.
pub(super) fn duration(text: &str) -> Result<i64, String> {
    let (negative, magnitude) = match text.strip_prefix('-') {
        Some(rest) if !rest.starts_with('+') => (true, rest),
        _ => (false, text),
    };
    let nanos = duration::parse(magnitude).and_then(|value| i64::try_from(value.as_nanos()).ok());
    match nanos {
        Some(nanos) => Ok(if negative { -nanos } else { nanos }),
        None => Err(duration_error(text, magnitude)),
    }
}

/// A text as the package `time` quotes it: byte by byte.
fn bytes_quoted(text: &str) -> String {
    let quote = |byte: u8| match byte {
        b'"' | b'\\' => format!("\\{}", char::from(byte)),
        b' '..=b'~' | 0x7f => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    format!("\"{}\"", text.bytes().map(quote).collect::<String>())
}

fn duration_error(text: &str, magnitude: &str) -> String {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut rest = magnitude.strip_prefix('+').unwrap_or(magnitude);
    while rest.starts_with(is_number) && rest.contains(|c: char| c.is_ascii_digit()) {
        let after = rest.trim_start_matches(is_number);
        let unit = after.split(is_number).next().unwrap_or("");
        if unit.is_empty() {
            return format!("time: missing unit in duration {}", bytes_quoted(text));
        }
        if duration::parse(&format!("1{unit}")).is_none() {
            return format!(
                "time: unknown unit {} in duration {}",
                bytes_quoted(unit),
                bytes_quoted(text)
            );
        }
        rest = &after[unit.len()..];
    }
    format!("time: invalid duration {}", bytes_quoted(text))
}

/// As [`duration_text`], of what may be negative.
pub(super) fn signed_duration_text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    format!("{sign}{}", duration_text(Duration::from_nanos(nanos.unsigned_abs())))
}

/// Nanoseconds as `Duration.String` writes them: `1m30s`, `1.5s`, `10ms`.
pub(super) fn duration_text(value: Duration) -> String {
    let nanos = value.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    for (unit, size) in [("ns", 1u128), ("µs", 1_000), ("ms", 1_000_000)] {
        if nanos < size * 1000 {
            return format!("{}{unit}", decimal(nanos, size));
        }
    }
    let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
    let seconds = format!("{}s", decimal(rest, 1_000_000_000));
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

/// A time since 1970 as `time.Time` is written into JSON: RFC 3339 in UTC. Empty from the year 10000 on.
pub(super) fn date_text(since_1970: Duration) -> String {
    let time = OffsetDateTime::UNIX_EPOCH.checked_add(since_1970.try_into().unwrap_or_default());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

/// Reads a time in RFC 3339. It is since 1970, and 0 if it was earlier; `None` is Go's zero time.
pub(super) fn date(text: &str) -> Result<Option<Duration>, String> {
    const ZERO: i64 = -62_135_596_800;
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|why| format!("parsing time {}: {why}", quoted(text)))?;
    if time.unix_timestamp() == ZERO && time.nanosecond() == 0 {
        return Ok(None);
    }
    let seconds = u64::try_from(time.unix_timestamp());
    Ok(Some(seconds.map_or(Duration::ZERO, |seconds| Duration::new(seconds, time.nanosecond()))))
}

fn decimal(value: u128, unit: u128) -> String {
    let digits = unit.ilog10() as usize;
    let fraction = format!("{:0digits$}", value % unit);
    match fraction.trim_end_matches('0') {
        "" => (value / unit).to_string(),
        _ if digits == 0 => value.to_string(),
        fraction => format!("{}.{fraction}", value / unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_as_go_quotes_it() {
        assert_eq!(quoted(b"a\"\\\n\x01\xff\xc3\xa4"), "\"a\\\"\\\\\\n\\x01\\xff\u{e4}\"");
    }

    #[test]
    fn a_date_that_is_written_can_be_read() {
        for seconds in [0, 951_782_400, 951_868_799, 1_709_164_800, 4_107_542_399, 253_402_300_799]
        {
            for nanos in [0, 1, 500_000_000] {
                let time = Duration::new(seconds, nanos);
                assert_eq!(date(&date_text(time)), Ok(Some(time)), "{time:?}");
            }
        }
        let noon = date("1970-01-01T12:00:00Z");
        assert_eq!(noon, Ok(Some(Duration::from_secs(12 * 3600))));
        for text in ["1970-01-01T14:30:00+02:30", "1970-01-01T12:00:00-00:00"] {
            assert_eq!(date(text), noon);
        }
        assert_eq!(date("0001-01-01T00:00:00Z"), Ok(None));
        assert_eq!(date("1969-12-31T23:59:59Z"), Ok(Some(Duration::ZERO)));
    }

    #[test]
    fn what_is_no_date_is_refused_with_its_text() {
        for text in ["x", "", "2026-11-24", "2026-13-01T00:00:00Z", "2026-02-28T00:00:00Zx"] {
            let why = date(text).unwrap_err();
            assert!(why.starts_with(&format!("parsing time {text:?}: ")), "{why}");
        }
    }

    #[test]
    fn every_byte_that_is_not_utf8_becomes_one_replacement_character() {
        assert_eq!(lossy(b"a\xf0\x9f\x98z"), "a\u{fffd}\u{fffd}\u{fffd}z");
    }

    #[test]
    fn invalid_numbers_are_refused_with_gos_errors() {
        assert_eq!(uint("18446744073709551615"), Ok(u64::MAX));
        for (text, why) in [
            ("-1", "invalid syntax"),
            ("", "invalid syntax"),
            ("+1", "invalid syntax"),
            ("18446744073709551616", "value out of range"),
        ] {
            assert_eq!(uint(text), Err(format!("strconv.ParseUint: parsing \"{text}\": {why}")));
        }
    }

    #[test]
    fn durations_may_be_negative_and_errors_are_gos() {
        assert_eq!(duration("-1.5s"), Ok(-1_500_000_000));
        for (text, error) in [
            ("5", "time: missing unit in duration \"5\""),
            ("abc", "time: invalid duration \"abc\""),
            ("", "time: invalid duration \"\""),
            ("1x", "time: unknown unit \"x\" in duration \"1x\""),
            ("1s5", "time: missing unit in duration \"1s5\""),
            ("--1s", "time: invalid duration \"--1s\""),
        ] {
            assert_eq!(duration(text), Err(error.to_owned()));
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (millis, text) in [
            (0, "0s"),
            (1, "1ms"),
            (1_500, "1.5s"),
            (10_000, "10s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(duration_text(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration_text(Duration::from_nanos(1_500)), "1.5µs");
    }

    #[test]
    fn dates_are_written_as_go_writes_them() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399_500, "2000-02-28T23:59:59.5Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_798_761_599_000, "2026-12-31T23:59:59Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date_text(Duration::from_millis(millis)), text);
        }
    }
}
