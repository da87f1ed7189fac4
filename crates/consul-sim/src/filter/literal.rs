//! Strings and numbers of Go's syntax, with the errors of its `strconv`.

use crate::go;

/// The value of a string literal in its quotes, as `strconv.Unquote` reads it.
pub(super) fn unquote(literal: &str) -> Option<String> {
    let inner = &literal[1..literal.len() - 1];
    if literal.starts_with('`') {
        return Some(inner.replace('\r', ""));
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\n' => return None,
            '\\' => rest = unescape(rest, &mut bytes)?,
            c => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    // Escapes such as `\xff` can make invalid UTF-8, and no text in an answer equals it either way.
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads the escape after a backslash and returns the rest of the text.
fn unescape<'a>(text: &'a str, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let kind = text.chars().next()?;
    let number = |from: usize, digits: usize, radix| {
        let digits = text.get(from..from + digits)?;
        // `from_str_radix` would accept a sign.
        let is_number = digits.chars().all(|c| c.is_digit(radix));
        is_number.then(|| u32::from_str_radix(digits, radix).ok()).flatten()
    };
    let simple = match kind {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' => b'\\',
        '"' => b'"',
        'x' => {
            bytes.push(u8::try_from(number(1, 2, 16)?).ok()?);
            return Some(&text[3..]);
        }
        '0'..='7' => {
            bytes.push(u8::try_from(number(0, 3, 8)?).ok()?);
            return Some(&text[3..]);
        }
        'u' | 'U' => {
            let digits = if kind == 'u' { 4 } else { 8 };
            let c = char::from_u32(number(1, digits, 16)?)?;
            bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(&text[1 + digits..]);
        }
        _ => return None,
    };
    bytes.push(simple);
    Some(&text[1..])
}

/// A signed integer of 64 bits, as `strconv.ParseInt` reads it with base 0.
pub(super) fn int(text: &str) -> Result<i64, String> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let limit = i64::MIN.unsigned_abs();
    let read = match magnitude(unsigned, u64::MAX) {
        Ok(value) if text.starts_with('-') && value <= limit => {
            Ok(0i64.wrapping_sub_unsigned(value))
        }
        Ok(value) => i64::try_from(value).map_err(|_| OUT_OF_RANGE),
        Err(why) => Err(why),
    };
    read.map_err(|why| error("ParseInt", text, why))
}

/// An unsigned integer up to `max`, as `strconv.ParseUint` reads it with base 0.
pub(super) fn uint(text: &str, max: u64) -> Result<u64, String> {
    magnitude(text, max).map_err(|why| error("ParseUint", text, why))
}

/// A boolean, as `strconv.ParseBool` reads it.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(error("ParseBool", text, INVALID)),
    }
}

const INVALID: &str = "invalid syntax";
const OUT_OF_RANGE: &str = "value out of range";

fn error(function: &str, text: &str, why: &str) -> String {
    format!("strconv.{function}: parsing {}: {why}", go::quoted(text))
}

fn magnitude(text: &str, max: u64) -> Result<u64, &'static str> {
    let prefix = text.get(..2).filter(|_| text.len() > 2).map(str::to_ascii_lowercase);
    let (radix, digits, mut after_digit) = match prefix.as_deref() {
        Some("0x") => (16, &text[2..], true),
        Some("0o") => (8, &text[2..], true),
        Some("0b") => (2, &text[2..], true),
        _ if text.starts_with('0') => (8, &text[1..], true),
        _ if text.is_empty() => return Err(INVALID),
        _ => (10, text, false),
    };
    let mut value = 0u64;
    for c in digits.chars() {
        if c == '_' && after_digit {
            after_digit = false;
            continue;
        }
        let digit = c.to_digit(radix).ok_or(INVALID)?;
        let next = value.checked_mul(radix.into()).and_then(|it| it.checked_add(digit.into()));
        value = next.filter(|value| *value <= max).ok_or(OUT_OF_RANGE)?;
        after_digit = true;
    }
    if after_digit { Ok(value) } else { Err(INVALID) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_may_be_written_in_any_base_with_underscores() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("+7", 7),
            ("0x1f", 31),
            ("0X_1F", 31),
            ("0b11", 3),
            ("0o17", 15),
            ("017", 15),
            ("0_7", 7),
            ("1_000", 1000),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(int(text), Ok(value), "{text}");
        }
        for text in ["", "-", "+-1", "0x", "08", "_1", "1_", "1__0", "1e5", "1.5"] {
            let error = format!("strconv.ParseInt: parsing \"{text}\": invalid syntax");
            assert_eq!(int(text), Err(error));
        }
        for text in ["9223372036854775808", "-9223372036854775809", "99999999999999999999"] {
            let error = format!("strconv.ParseInt: parsing \"{text}\": value out of range");
            assert_eq!(int(text), Err(error));
        }
    }

    #[test]
    fn escapes_are_gos() {
        for (literal, text) in [
            ("`a\\n\r`", Some("a\\n")),
            ("\"\\a\\b\\f\\n\\r\\t\\v\\\\\\\"\"", Some("\u{7}\u{8}\u{c}\n\r\t\u{b}\\\"")),
            ("\"\\xc3\\xa4\\101\\u00e4\\U0001F600\"", Some("äAä😀")),
            ("\"\\'\"", None),
            ("\"\\x+1\"", None),
            ("\"\\400\"", None),
            ("\"\\18\"", None),
            ("\"\\ud800\"", None),
            ("\"\\U00110000\"", None),
            ("\"\\\"", None),
        ] {
            assert_eq!(unquote(literal).as_deref(), text, "{literal}");
        }
    }
}
