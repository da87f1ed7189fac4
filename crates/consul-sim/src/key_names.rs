//! Which names of keys a server takes: newer ones refuse some.
//!
//! Sources, in github.com/hashicorp/consul: 1.21.5 has a pattern (pull request 22682; its text is in issue 22835). 1.21.6 and
//! 1.22 have it no more, and refuse paths that lead upwards and spaces at the ends (22850, with the backports 22931 and
//! 22939; `validateKVKey` in agent/kvs_endpoint.go, from which the texts are). Only later releases of 1.22 look at the keys
//! of transactions (23185, with the backport 23188; `convertOps` in agent/txn_endpoint.go). Their handler of `/v1/kv/` also
//! takes `a/../b` for `b`, which is refused here.

use super::http::reply::Refusal;
use super::http::request::Call;
use super::kv;
use percent_encoding::percent_decode;

/// The rules for the names of keys, by the release that has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyNames {
    /// Of 1.21.0, and of earlier ones: any name.
    #[default]
    V1_21_0,
    /// Of 1.21.5: letters, digits and some other characters.
    V1_21_5,
    /// Of 1.22, and of 1.21.6 except for transactions: no path that leads upwards, no space at the ends.
    V1_22,
}

impl KeyNames {
    /// The releases by which an option names the rules.
    pub const NAMES: [&str; 3] = ["1.21.0", "1.21.5", "1.22"];

    /// The rules of this release; `None` if it is not one of [`KeyNames::NAMES`].
    pub fn of(release: &str) -> Option<Self> {
        let all = [Self::V1_21_0, Self::V1_21_5, Self::V1_22];
        Self::NAMES.iter().zip(all).find(|(name, _)| **name == release).map(|(_, rules)| rules)
    }

    /// Refuses the key of a request for `/v1/kv/`, whatever it is for; without one it is for all keys.
    pub(crate) fn check_path(self, call: &Call) -> Result<(), Refusal> {
        if !kv::is_of_keys(call.endpoint) || call.rest.is_empty() {
            return Ok(());
        }
        match self {
            Self::V1_21_0 => Ok(()),
            Self::V1_21_5 => check_pattern(&call.rest),
            Self::V1_22 => check(&call.rest),
        }
        .map_err(Refusal::server)
    }

    /// Refuses the key of an operation of a transaction.
    pub(crate) fn check_operation(self, key: &[u8]) -> Result<(), Refusal> {
        match self {
            Self::V1_21_0 | Self::V1_21_5 => Ok(()),
            Self::V1_22 => {
                check(key).map_err(|why| Refusal::bad(format!("Invalid key in transaction: {why}")))
            }
        }
    }
}

fn check_pattern(key: &[u8]) -> Result<(), &'static str> {
    let is_taken = |byte: &u8| byte.is_ascii_alphanumeric() || b",_./-?&=".contains(byte);
    match key.iter().all(is_taken) {
        true => Ok(()),
        false => {
            Err(r#"invalid key name, keys should respect the "^[a-zA-Z0-9,_./\\-?&=]+$" format"#)
        }
    }
}

fn check(key: &[u8]) -> Result<(), &'static str> {
    const UPWARDS: &str = "invalid key name, path traversal is not allowed";
    const SPACES: &str = "invalid key name, leading/trailing spaces are not allowed";
    if key.is_empty() {
        return Err("empty key name is not allowed");
    }
    if key.starts_with(b"/") {
        return Err("invalid key name, must not begin with '/'");
    }
    if key.starts_with(b" ") || key.ends_with(b" ") {
        return Err(SPACES);
    }
    if key.split(|byte| *byte == b'/').any(|part| part == b"..") {
        return Err(UPWARDS);
    }
    let Some(decoded) = unescaped(key) else { return Ok(()) };
    if decoded.windows(2).any(|pair| pair == b"..") {
        return Err(UPWARDS);
    }
    if decoded.contains(&b' ') {
        return Err(SPACES);
    }
    Ok(())
}

/// The key with its escapes replaced, as Go's `url.PathUnescape` does; `None` if it has none or a wrong one.
fn unescaped(key: &[u8]) -> Option<Vec<u8>> {
    let is_escape =
        |rest: &[u8]| rest.len() > 1 && rest[0].is_ascii_hexdigit() && rest[1].is_ascii_hexdigit();
    let mut rests = key.split(|byte| *byte == b'%').skip(1).peekable();
    rests.peek()?;
    rests.all(is_escape).then(|| percent_decode(key).collect())
}

#[cfg(test)]
mod tests {
    use super::KeyNames;
    use crate::Options;
    use crate::control::testing::World;
    use crate::settings::Settings;
    use http::Method;

    /// The refusals of a name by the rules of each release, on `/v1/kv/`.
    const CASES: &[(&str, [Option<&str>; 3])] = &[
        ("plain/a-b_c.d,e?f=1&g", [None, None, None]),
        ("jobs/import: daily", [None, Some(PATTERN), None]),
        ("ü", [None, Some(PATTERN), None]),
        ("a b", [None, Some(PATTERN), None]),
        ("a%2Fb", [None, Some(PATTERN), None]),
        ("100%", [None, Some(PATTERN), None]),
        ("a..b", [None, None, None]),
        (" a", [None, Some(PATTERN), Some(SPACES)]),
        ("a ", [None, Some(PATTERN), Some(SPACES)]),
        ("a%20b", [None, Some(PATTERN), Some(SPACES)]),
        ("../a", [None, None, Some(UPWARDS)]),
        ("a/../b", [None, None, Some(UPWARDS)]),
        ("a/..", [None, None, Some(UPWARDS)]),
        ("..%2F..%2Fetc", [None, Some(PATTERN), Some(UPWARDS)]),
        ("%2e%2e/a", [None, Some(PATTERN), Some(UPWARDS)]),
        ("/a", [None, None, Some("must not begin with '/'")]),
    ];

    const PATTERN: &str = r#"keys should respect the "^[a-zA-Z0-9,_./\\-?&=]+$" format"#;
    const SPACES: &str = "leading/trailing spaces are not allowed";
    const UPWARDS: &str = "path traversal is not allowed";

    fn world(key_names: KeyNames) -> World {
        let settings = Settings { key_names, ..Settings::default() };
        World::with(Options { settings, ..Options::default() })
    }

    #[test]
    fn each_release_takes_the_names_of_its_rules_on_its_paths_of_keys() {
        for (place, release) in KeyNames::NAMES.iter().enumerate() {
            let world = world(KeyNames::of(release).expect("a release"));
            for (key, refusals) in CASES {
                // No `/` and no `.` as they are: Go's mux redirects such paths.
                let path: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
                let requests = [
                    (Method::PUT, ""),
                    (Method::GET, ""),
                    (Method::GET, "?recurse"),
                    (Method::GET, "?keys"),
                    (Method::DELETE, ""),
                    (Method::DELETE, "?recurse"),
                ];
                for (method, query) in requests {
                    let path = format!("kv/{path}{query}");
                    let answer = world.send(World::request(method.clone(), &path, "x"));
                    let what = format!("{release}: {method} {path}: {}", answer.text());
                    match refusals[place] {
                        None => assert_eq!(answer.status(), 200, "{what}"),
                        Some(why) => {
                            assert_eq!(answer.status(), 500, "{what}");
                            assert_eq!(answer.text(), format!("invalid key name, {why}"), "{what}");
                        }
                    }
                }
            }
            assert_eq!(world.get("kv/?keys").status(), 200);
        }
    }

    #[test]
    fn only_the_newest_rules_are_those_of_transactions_too() {
        for (place, release) in KeyNames::NAMES.iter().enumerate() {
            let world = world(KeyNames::of(release).expect("a release"));
            for (key, refusals) in CASES {
                for verb in ["set", "get-or-empty", "delete", "delete-tree"] {
                    let body = format!(r#"[{{"KV": {{"Verb": "{verb}", "Key": "{key}"}}}}]"#);
                    let answer = world.put("txn", &body);
                    let what = format!("{release}: {verb} {key:?}: {}", answer.text());
                    match refusals[place].filter(|_| *release == "1.22") {
                        None => assert_eq!(answer.status(), 200, "{what}"),
                        Some(why) => {
                            assert_eq!(answer.status(), 400, "{what}");
                            let text =
                                format!("Invalid key in transaction: invalid key name, {why}");
                            assert_eq!(answer.text(), text, "{what}");
                        }
                    }
                }
            }
        }
    }
}
