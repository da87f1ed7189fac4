//! Sound requests in which one thing is made odd.

use super::side::Step;
use fastrand::Rng;
use serde_json::{Map, Value, json};

/// The requests as lines `METHOD TARGET BODY`, with the parameters that an endpoint has of its own after `?`, separated by
/// commas, with `!` those that it needs. `{name}` and the like is one of [`NAMES`]. In a body a text `|a|b` is one of these, read as JSON if it is some, and
/// a member `?name` is absent half of the time.
const OF_AGENT: &str = include_str!("agent.txt");
const OF_ACL: &str = include_str!("acl.txt");

const NAMES: &[(&str, &[&str])] = &[
    ("{name}", &["web", "db", "none", "a b", "é", "x/y", "Web", "_x", "%25", "日"]),
    ("{node}", &["ext1", "ext2", "none", "EXT1", "é"]),
    ("{key}", &["a", "a/1", "dir/", "é", "a b", "%41", "a//b", "日/x", "a?b", "\""]),
    ("{check}", &["c1", "service:web", "none", "é"]),
    ("{state}", &["any", "passing", "critical", "Passing", "x"]),
    ("{kind}", &["service-defaults", "service-resolver", "service-intentions", "x"]),
    ("{id}", &["{id0}", "{id1}", "d7a02a1c-0b0b-4b0b-8b0b-000000000000", "x"]),
];

/// Parameters with values, most odd.
const PARAMETERS: &[(&str, &[&str])] = &[
    ("index", &["0", "-1", "x", "1.5", "", "18446744073709551616"]),
    ("wait", &["1ms", "0", "-1s", "x", "5", "10ms1"]),
    ("stale", &["", "1", "false"]),
    ("consistent", &["", "true"]),
    ("dc", &["dc1", "nope", "DC1", "", "é"]),
    ("near", &["_agent", "ext1", "none", ""]),
    (
        "filter",
        &["", "x", "Foo==1", "Node==ext1", "Node==ext1 and", "Meta.a==b", "\"web\" in Tags"],
    ),
    ("node-meta", &["a:b", "a", "", "a:b:c"]),
    ("pretty", &["", "false"]),
    ("ns", &["default", ""]),
    ("partition", &["default", ""]),
    ("peer", &["p", ""]),
    ("max-stale", &["1s", "x"]),
    ("unknown", &["1", ""]),
    ("passing", &["", "1", "true", "false", "x"]),
    ("tag", &["a", "b", "", "A"]),
    ("raw", &["", "x"]),
    ("recurse", &["", "false"]),
    ("keys", &["", "1"]),
    ("separator", &["/", "", "a", "é"]),
    ("cas", &["0", "1", "-1", "x", "", "99999999999999999999"]),
    ("flags", &["0", "1", "-1", "x", "", "18446744073709551615"]),
    ("acquire", &["{id0}", "x", ""]),
    ("release", &["{id0}", "x", ""]),
    ("enable", &["true", "false", "x", "", "1", "TRUE"]),
    ("reason", &["é", "a b", ""]),
    ("note", &["n", "é", ""]),
    ("limit", &["0", "1", "-1", "x"]),
    ("by", &["source", "destination", "x", ""]),
    ("name", &["web", "db", "*", "", "é"]),
    ("source", &["web", "*", "", "é"]),
    ("destination", &["web", "db", "*", ""]),
    ("replace-existing-checks", &["", "true", "false"]),
    ("format", &["text", "json", "x"]),
    ("policy", &["{id0}", "x"]),
    ("role", &["{id0}", "x"]),
    ("expanded", &["", "1"]),
    ("kind", &["service-defaults", "x", ""]),
    ("hash", &["", "x"]),
];

/// The parameters that each endpoint may get.
const COMMON: &[&str] = &[
    "index",
    "wait",
    "stale",
    "consistent",
    "dc",
    "pretty",
    "filter",
    "near",
    "node-meta",
    "unknown",
    "ns",
    "peer",
];

/// The values that take the place of a sound one.
fn odd_value(rng: &mut Rng) -> Value {
    let texts = [
        "",
        "10s",
        "-5s",
        " 10s",
        "10",
        "x",
        "é",
        "a\u{0}b",
        "10ms",
        "1h",
        "9999999h",
        "5d",
        "true",
        "\u{1f600}",
    ];
    let others = [
        json!(null),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(true),
        json!([]),
        json!({}),
        json!([null]),
        json!([{}]),
        json!({"a": 1}),
        json!({"": ""}),
        json!([""]),
        json!(["a", "a"]),
        json!([1]),
        json!(60_000_000_000_u64),
        json!(9_223_372_036_854_775_808_u64),
        json!(1e30),
        json!([[]]),
        json!({"a": null}),
    ];
    match rng.bool() {
        true => pick(rng, &texts).into(),
        false => pick(rng, &others),
    }
}

fn pick<T: Clone>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())].clone()
}

/// The next request: sound, or with one odd thing in it.
pub fn step(rng: &mut Rng, has_acls: bool) -> Step {
    let text = if has_acls && rng.u8(..4) > 0 { OF_ACL } else { OF_AGENT };
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let mut parts = pick(rng, &lines).splitn(3, ' ');
    let [method, target, body] = [(); 3].map(|()| parts.next().unwrap_or(""));
    let (path, own) = target.split_once('?').unwrap_or((target, ""));
    let needed: Vec<&str> = own.split(',').filter_map(|name| name.strip_suffix('!')).collect();
    let own: Vec<&str> = own
        .split(',')
        .map(|name| name.trim_end_matches('!'))
        .filter(|name| !name.is_empty())
        .collect();
    let mut step =
        Step { method: method.to_owned(), target: Vec::new(), token: None, body: Vec::new() };
    let mut body: Option<Value> = serde_json::from_str(body).ok().map(|body| chosen(rng, body));
    let kind = rng.u8(..10);
    // Another token is the odd thing then.
    step.target = path_of(rng, path, if has_acls && kind == 0 { 2 } else { kind });
    let mut parameters: Vec<_> = needed.iter().map(|name| (*name, values_of(name)[0])).collect();
    // A parameter of the endpoint's own is sound in its first values.
    if !own.is_empty() && rng.bool() {
        let name = pick(rng, &own);
        parameters.retain(|(known, _)| *known != name);
        parameters.push((name, values_of(name)[0]));
    }
    match kind {
        2 => {
            let name =
                if own.is_empty() || rng.bool() { pick(rng, COMMON) } else { pick(rng, &own) };
            parameters.retain(|(known, _)| *known != name);
            parameters.push((name, pick(rng, values_of(name))));
            if rng.u8(..6) == 0 {
                parameters.retain(|(known, _)| *known != name);
                parameters.extend([(name, values_of(name)[0]); 2]);
            }
        }
        3 if rng.u8(..3) == 0 => {
            step.method =
                pick(rng, &["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH"]).to_owned()
        }
        4..9 => body = body.map(|body| one_odd(rng, body)),
        _ => {}
    }
    step.target.extend(query(rng, &parameters));
    step.body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
    if kind == 9 && !step.body.is_empty() && rng.u8(..3) == 0 {
        let whole = ["", "{", "[]", "null", "{}", "\"x\"", "[{}]", "{} x", "\u{feff}{}", "[null]"];
        step.body = pick(rng, &whole).into();
    }
    if has_acls {
        let tokens = [
            "{management}",
            "{management}",
            "{management}",
            "{management}",
            "{id1}",
            "anonymous",
            "nope",
        ];
        let is_other = kind == 0 && rng.bool();
        step.token = Some(if is_other { pick(rng, &tokens) } else { tokens[0] }.to_owned());
    }
    step
}

fn values_of(parameter: &str) -> &'static [&'static str] {
    let known = PARAMETERS.iter().find(|(name, _)| *name == parameter);
    known.unwrap_or_else(|| panic!("the parameter {parameter} has no values")).1
}

/// The path with its names; in odd paths a name may be written in another way.
fn path_of(rng: &mut Rng, path: &str, kind: u8) -> Vec<u8> {
    let mut path = path.to_owned();
    for (place, names) in NAMES {
        if path.contains(place) {
            // The first names are known ones.
            let name =
                if kind > 1 || rng.bool() { names[rng.usize(..2)] } else { pick(rng, names) };
            path = path.replace(place, &escaped(rng, name, kind == 1));
        }
    }
    path.into_bytes()
}

fn escaped(rng: &mut Rng, name: &str, is_odd: bool) -> String {
    if name.starts_with("{id") {
        return name.to_owned();
    }
    let plain = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    match (is_odd, rng.u8(..5)) {
        (false, _) => plain(name).replace("%2F", "/").replace("%2D", "-").replace("%3A", ":"),
        (true, 0 | 1) => plain(&plain(name)),
        (true, 2) => plain(name),
        (true, 3) => name.bytes().map(|byte| format!("%{byte:02x}")).collect(),
        (true, _) => String::new(),
    }
}

fn query(rng: &mut Rng, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut text = String::new();
    for (name, value) in parameters {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        if !value.is_empty() || rng.bool() {
            let value = value
                .replace(' ', "+")
                .replace('"', "%22")
                .replace('é', pick(rng, &["%C3%A9", "é"]));
            text = text + "=" + &value;
        }
        if *name == "index" {
            text.push_str("&wait=15ms");
        }
    }
    text.into_bytes()
}

/// The body with each choice made.
fn chosen(rng: &mut Rng, body: Value) -> Value {
    match body {
        Value::String(text) => match text.strip_prefix('|') {
            Some(choices) => {
                let choice = pick(rng, &choices.split('|').collect::<Vec<_>>());
                serde_json::from_str(choice).unwrap_or_else(|_| choice.into())
            }
            None => text.into(),
        },
        Value::Array(items) => items.into_iter().map(|item| chosen(rng, item)).collect(),
        Value::Object(members) => {
            let mut kept = Map::new();
            for (name, member) in members {
                match name.strip_prefix('?') {
                    Some(_) if rng.bool() => {}
                    Some(name) => drop(kept.insert(name.to_owned(), chosen(rng, member))),
                    None => drop(kept.insert(name, chosen(rng, member))),
                }
            }
            kept.into()
        }
        other => other,
    }
}

/// The body with one member that is odd.
fn one_odd(rng: &mut Rng, mut body: Value) -> Value {
    let mut places = Vec::new();
    find_places("", &body, &mut places);
    if places.is_empty() {
        return body;
    }
    let place = pick(rng, &places);
    let (parent, own) = place.rsplit_once('/').expect("a pointer has a slash");
    let own = own.replace("~1", "/").replace("~0", "~");
    let how = rng.u8(..12);
    match body.pointer_mut(parent) {
        Some(Value::Object(members)) if how < 4 => {
            let member = members.remove(&own).unwrap_or_default();
            let name = match how {
                0 => own.to_lowercase(),
                1 => own.to_uppercase(),
                2 => underscored(&own),
                _ => return body,
            };
            members.insert(name, member);
        }
        Some(Value::Object(members)) if how == 4 => {
            drop(members.insert("Unknown".to_owned(), odd_value(rng)))
        }
        _ => {
            if let Some(at) = body.pointer_mut(&place) {
                *at = odd_value(rng);
            }
        }
    }
    body
}

fn find_places(at: &str, body: &Value, places: &mut Vec<String>) {
    let members: Vec<(String, &Value)> = match body {
        Value::Object(members) => {
            members.iter().map(|(name, member)| (name.clone(), member)).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().map(|(place, item)| (place.to_string(), item)).collect()
        }
        _ => return,
    };
    for (name, member) in members {
        let place = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        find_places(&place, member, places);
        places.push(place);
    }
}

/// `TaggedAddresses` as `tagged_addresses`.
fn underscored(name: &str) -> String {
    let mut written = String::new();
    let mut is_after_lower = false;
    for letter in name.chars() {
        if letter.is_uppercase() && is_after_lower {
            written.push('_');
        }
        is_after_lower = letter.is_lowercase();
        written.extend(letter.to_lowercase());
    }
    written
}
