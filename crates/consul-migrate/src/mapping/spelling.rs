//! The spellings in the name of a key for which a server of Consul may refuse it in a URL. Each release has a rule of
//! its own, so the server at hand is asked, once for each spelling that names have.

use crate::mapping::hex;
use std::collections::BTreeSet;

/// The marks of a name: its characters that some server may not take, and where they matter. Without one every server
/// takes it.
pub type Spelling = BTreeSet<String>;

/// Precedes the marks that a name has once its escapes, such as `%20`, are replaced.
const DECODED: &str = ">";

/// The spelling of a name.
pub fn spelling(name: &str) -> Spelling {
    let mut marks = Spelling::new();
    if !is_plain(name) {
        note(&mut marks, "", name);
        if let Some(decoded) = unescaped(name) {
            note(&mut marks, DECODED, &decoded);
        }
    }
    marks
}

/// Whether every server takes a name.
pub fn is_plain(name: &str) -> bool {
    name.chars().all(is_taken) && !name.contains("..")
}

fn is_taken(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/_.-".contains(c)
}

fn note(marks: &mut Spelling, stage: &str, text: &str) {
    let mut add = |mark: &str| _ = marks.insert(format!("{stage}{mark}"));
    text.chars().filter(|c| !is_taken(*c)).for_each(|c| add(&kind_of(c)));
    for (has, mark) in
        [(text.contains(".."), ".."), (text.starts_with(' '), "^ "), (text.ends_with(' '), " $")]
    {
        if has {
            add(mark);
        }
    }
}

/// The character, or its block of 256 if a language has many of them.
fn kind_of(c: char) -> String {
    match u32::from(c) {
        code @ 0x80..0x1_0000 => format!("U+{:02X}..", code >> 8),
        _ => c.to_string(),
    }
}

/// The name with its escapes replaced; `None` if it has none, or a wrong one: then servers look at it as it is.
fn unescaped(name: &str) -> Option<String> {
    let mut parts = name.split('%');
    let mut decoded = parts.next()?.as_bytes().to_vec();
    let first = decoded.len();
    for part in parts {
        decoded.extend(hex::bytes(part.get(..2)?)?);
        decoded.extend(&part.as_bytes()[2..]);
    }
    (first < name.len()).then(|| String::from_utf8_lossy(&decoded).into_owned())
}

/// Names with less marks than this one: if a server refuses one of them, that is why it refuses this one.
pub fn simpler(name: &str) -> BTreeSet<String> {
    let marks = spelling(name);
    let escaped = |c: char| {
        let mut bytes = [0; 4];
        c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")).collect::<String>()
    };
    let mut names: BTreeSet<String> = [" a", "a ", "a..a", "a%2E%2Ea"].map(str::to_owned).into();
    names.extend(name.chars().filter(|c| !is_taken(*c)).map(|c| format!("a{c}a")));
    let decoded = unescaped(name).unwrap_or_default();
    names.extend(decoded.chars().filter(|c| !is_taken(*c)).map(|c| format!("a{}a", escaped(c))));
    names.retain(|simple| {
        let has = spelling(simple);
        has.len() < marks.len() && has.is_subset(&marks)
    });
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_every_server_takes_has_no_marks() {
        for name in ["", "app/a", "a.b/c-d_e", "10.0.0.1/8080", "a/./b"] {
            assert!(is_plain(name) && spelling(name).is_empty(), "{name}");
        }
    }

    #[test]
    fn each_mark_is_found() {
        for (name, marks) in [
            ("a b", &[" "][..]),
            (" a", &[" ", "^ "]),
            ("jobs/nightly ", &[" ", " $"]),
            ("a..b", &[".."]),
            ("a:b:c?", &[":", "?"]),
            ("100%", &["%"]),
            ("a%zz", &["%"]),
            ("a%2", &["%"]),
            ("a%41", &["%"]),
            ("a%20b", &["%", "> "]),
            ("a b%41", &[" ", "%", "> "]),
            (".%2e", &["%", ">.."]),
            ("%252e", &["%", ">%"]),
            // Not a character alone.
            ("%ff", &["%", ">U+FF.."]),
            ("\u{e9}\u{eb}", &["U+00.."]),
            ("\u{4e00}", &["U+4E.."]),
            ("\u{1faea}", &["\u{1faea}"]),
        ] {
            let marks: Vec<_> = marks.iter().map(|mark| (*mark).to_owned()).collect();
            assert_eq!(Vec::from_iter(spelling(name)), marks, "{name:?}");
        }
    }

    #[test]
    fn simpler_names_have_some_of_the_marks() {
        for (name, names) in [
            ("a b", &[][..]),
            ("jobs/nightly ", &["a a"]),
            ("a:b?c", &["a:a", "a?a"]),
            ("x%20y:z", &["a%20a", "a%3Aa", "a:a"]),
            ("..%2Fa b", &["a a", "a%20a", "a..a"]),
        ] {
            let found = Vec::from_iter(simpler(name));
            assert!(names.iter().all(|name| found.contains(&(*name).to_owned())), "{found:?}");
            assert!(found.iter().all(|it| spelling(it).is_subset(&spelling(name))), "{found:?}");
            assert!(found.iter().all(|it| spelling(it) != spelling(name)), "{found:?}");
        }
    }
}
