//! Random requests with odd members and parameters: a sound request, of which one thing is replaced.
//!
//! One thing only, mostly: of several mistakes Go's decoder reports the first in the order of the
//! body, and the simulated agent the first in the order in which it reads them.

use super::steps::{NODES, STATUSES, Step, pick};
use fastrand::Rng;
use serde_json::{Value, json};

/// Where what a sequence asks for lies.
#[derive(Clone, Copy, PartialEq)]
pub enum Area {
    /// The agent, the catalog and health.
    Catalog,
    /// Tokens, policies and roles, and what they allow.
    Acl,
}

pub fn step(rng: &mut Rng, area: Area) -> Step {
    let mut step = match (area, rng.u8(..100)) {
        (Area::Acl, 0..75) => acl(rng),
        (Area::Acl, 75..82) => catalog(rng),
        (Area::Acl, _) => {
            let mut step = read(rng);
            // To a caller without permissions it says that there is no leader.
            step.target = step.target.replace("/catalog/connect/", "/catalog/service/");
            step
        }
        (_, 0..25) => service(rng),
        (_, 25..40) => check(rng),
        (_, 40..50) => agent(rng),
        (_, 50..68) => catalog(rng),
        _ => read(rng),
    };
    // Of several mistakes the agents may tell another one.
    match (step.method, area, rng.u8(..10)) {
        ("GET", Area::Catalog, 0..4) if !says_two_things(&step.target) => {
            add_parameter(rng, &mut step.target, PARAMETERS);
            add_parameter(rng, &mut step.target, SOUND_PARAMETERS);
        }
        ("GET", Area::Catalog, 4) if !says_two_things(&step.target) => {
            step.headers.push(header(rng));
        }
        ("GET", _, 0..7) => add_parameter(rng, &mut step.target, SOUND_PARAMETERS),
        ("PUT" | "DELETE", _, 0) => {
            add_parameter(rng, &mut step.target, PARAMETERS_OF_WRITES);
        }
        _ => {}
    }
    if area == Area::Acl {
        let token = pick(rng, &["{management}", "{management}", "{management}", "{token}", ""]);
        if !token.is_empty() {
            step.headers.push(("x-consul-token", token.to_owned()));
        }
    }
    step
}

/// Names of services, checks, policies: few, so that they meet, and odd ones.
fn name(rng: &mut Rng) -> Value {
    let usual = ["web", "db", "Web"];
    let odd = ["", "a b", "é", "web/1", "*", "_x", "web.1", "<web>", "\"", "web-", "%41", "🦀"];
    match rng.u8(..8) {
        0 => pick(rng, &odd).into(),
        1 if rng.u8(..4) == 0 => "n".repeat(300).into(),
        _ => pick(rng, &usual).into(),
    }
}

/// Any value, most of which fit no field.
fn value(rng: &mut Rng) -> Value {
    match rng.u8(..22) {
        0 | 1 => Value::Null,
        2 => true.into(),
        3 => false.into(),
        4 => 0.into(),
        5 => 1.into(),
        6 => (-1).into(),
        7 => json!(1.5),
        8 => 65_536.into(),
        9 => json!(9_223_372_036_854_775_808_u64),
        10 => "".into(),
        11 => "x".into(),
        12 => "-1".into(),
        13 => "é\u{1f980} <&>\u{2028}".into(),
        14 => "long ".repeat(120).into(),
        15 => json!([]),
        16 => json!({}),
        17 => json!([null]),
        18 => json!(["x"]),
        19 => json!([1]),
        20 => json!({"x": 1}),
        _ => json!({"": "x"}),
    }
}

/// A duration that nothing waits for.
fn duration(rng: &mut Rng) -> Value {
    match rng.u8(..14) {
        0 => "".into(),
        1 => "0s".into(),
        2 => "-1s".into(),
        3 => "1x".into(),
        4 => "1".into(),
        5 => 0.into(),
        6 => (-1).into(),
        7 => "-0.5h".into(),
        8 => "1.5h".into(),
        9 => json!(3_600_000_000_000_u64),
        10 => "99999999h".into(),
        11 => Value::Null,
        12 => pick(rng, &["x", " 1h", "1 h", "1h1", "+1h", "1H"]).into(),
        _ => "1h".into(),
    }
}

/// A value for a member of this name: of its own kind, but odd; or any.
fn odd(rng: &mut Rng, member: &str) -> Value {
    let is_duration = matches!(
        member,
        "TTL" | "Interval" | "Timeout" | "DeregisterCriticalServiceAfter" | "ExpirationTTL"
    );
    if is_duration {
        return duration(rng);
    }
    if rng.u8(..3) == 0 {
        return value(rng);
    }
    match member {
        "Name" | "Service" | "ID" | "CheckID" | "ServiceID" | "ServiceName" | "NodeName" => {
            name(rng)
        }
        "Address" => {
            pick(rng, &["0.0.0.0", "::", "[::]", "::1", "a b", "host", "10.0.0.256", "é"]).into()
        }
        "Status" => {
            pick(rng, &["", "Passing", "maintenance", "any", "critical ", "unknown", "warning"])
                .into()
        }
        "Kind" => pick(rng, &["", "typical", "x", "connect-proxy", "Connect-Proxy"]).into(),
        "Weights" => pick_value(
            rng,
            &[
                json!({"Passing": 0}),
                json!({"Passing": -1, "Warning": 1}),
                json!({"Passing": 1, "Warning": -1}),
                json!({"Passing": 65_535, "Warning": 65_536}),
                json!({"Warning": 3}),
                json!({"passing": 2, "WARNING": 2}),
                json!({"Passing": 1, "Other": 1}),
            ],
        ),
        "Passing" | "Warning" | "Port" => {
            pick_value(rng, &[json!(-1), json!(0), json!(65_535), json!(65_536), json!("1")])
        }
        "Meta" | "NodeMeta" => pick_value(
            rng,
            &[
                json!({"": "x"}),
                json!({"a b": "x"}),
                json!({"consul-x": "1"}),
                json!({"a": "v".repeat(513)}),
                json!({"k".repeat(129): "1"}),
                json!({"é": "1"}),
                json!({"a": null}),
                json!({"a": ""}),
            ],
        ),
        "Tags" | "ServiceTags" => pick_value(
            rng,
            &[json!([]), json!([""]), json!(["a", "a"]), json!([null]), json!(["é", "B", "a"])],
        ),
        "TaggedAddresses" => pick_value(
            rng,
            &[
                json!({"lan": {}}),
                json!({"lan": null}),
                json!({"": {"Address": "1.1.1.1"}}),
                json!({"wan": {"Address": "0.0.0.0", "Port": -1}}),
                json!({"lan": {"address": "10.0.0.3", "PORT": 2}}),
                json!({"lan_ipv4": {"Address": "10.0.0.9", "Port": 9}}),
                json!({"lan": "10.0.0.3"}),
            ],
        ),
        "Locality" => pick_value(
            rng,
            &[
                json!({}),
                json!({"Region": "r"}),
                json!({"Zone": "z"}),
                json!({"Region": "", "Zone": ""}),
                json!({"region": "r", "zone": "é"}),
                json!({"Region": "r", "Other": "x"}),
            ],
        ),
        "Rules" => rules(rng).into(),
        _ => value(rng),
    }
}

fn rules(rng: &mut Rng) -> &'static str {
    pick(
        rng,
        &[
            "",
            "key \"a\" { policy = \"write\" }",
            "key \"a\" { policy = \"x\" }",
            "service_prefix \"\" { policy = \"read\" intentions = \"deny\" }",
            "node_prefix \"\" { policy = \"read\" }\nservice \"web\" { policy = \"write\" }",
            "acl = \"read\"",
            "acl = \"x\"",
            "operator = \"write\"",
            "unknown = \"write\"",
            "agent_prefix \"\" { policy = \"read\" }",
            "{\"key\": {\"\": {\"policy\": \"read\"}}}",
            "# nothing",
            "query_prefix \"\" { policy = \"deny\" }",
            "key_prefix \"é\" { policy = \"list\" }",
        ],
    )
}

fn pick_value(rng: &mut Rng, from: &[Value]) -> Value {
    from[rng.usize(..from.len())].clone()
}

/// Where the members of a body and of its objects are, as pointers.
fn places(at: &str, body: &Value, places: &mut Vec<String>) {
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
        self::places(&place, member, places);
        places.push(place);
    }
}

/// Makes one thing of the body odd.
fn mutate(rng: &mut Rng, body: &mut Value) {
    let mut all = Vec::new();
    places("", body, &mut all);
    if all.is_empty() {
        return;
    }
    let place = all[rng.usize(..all.len())].clone();
    let (parent, own) = place.rsplit_once('/').expect("a pointer has a slash");
    let own = own.replace("~1", "/").replace("~0", "~");
    match rng.u8(..12) {
        0 | 1 => {
            if let Some(Value::Object(members)) = body.pointer_mut(parent)
                && let Some(member) = members.remove(&own)
            {
                let renamed = match rng.u8(..4) {
                    0 => own.to_lowercase(),
                    1 => own.to_uppercase(),
                    2 => format!("{own}x"),
                    _ => underscored(&own),
                };
                members.insert(renamed, member);
            }
        }
        2 => {
            if let Some(Value::Object(members)) = body.pointer_mut(parent) {
                members.insert(
                    pick(rng, &["Unknown", "", "Namespace", "é", "ID"]).to_owned(),
                    json!("x"),
                );
            }
        }
        _ => {
            // The index of an item says nothing of its kind.
            let of_list = parent.rsplit('/').next().unwrap_or("");
            let member = if own.parse::<u8>().is_ok() { of_list } else { &own };
            let odd = odd(rng, member);
            if let Some(at) = body.pointer_mut(&place) {
                *at = odd;
            }
        }
    }
}

/// `TaggedAddresses` as `tagged_addresses`.
fn underscored(name: &str) -> String {
    let mut written = String::new();
    let mut after_lower = false;
    for c in name.chars() {
        if c.is_uppercase() && after_lower {
            written.push('_');
        }
        after_lower = c.is_lowercase();
        written.extend(c.to_lowercase());
    }
    written
}

/// The body as text, most often with something odd in it.
fn written(rng: &mut Rng, mut body: Value) -> String {
    match rng.u8(..40) {
        0 => {
            return pick(
                rng,
                &["", "null", "[]", "\"x\"", "1", "true", "{", "x", "{}", " ", "{}x", "[{}]"],
            )
            .to_owned();
        }
        1..12 => {}
        _ => mutate(rng, &mut body),
    }
    body.to_string()
}

/// Leaves out random members of the body.
fn thin(rng: &mut Rng, body: &mut Value, kept: &[&str]) {
    if let Some(members) = body.as_object_mut() {
        members.retain(|name, _| kept.contains(&name.as_str()) || rng.u8(..3) == 0);
    }
}

/// The body with one spelling of the ids of the agent's services and checks. `web` and `Web` are two
/// for the agent and one for the catalog: the agent writes them in turn, in the random order of a map
/// of Go, and tries again after some seconds what the catalog refuses.
fn spelled_alike(mut body: String) -> String {
    let is_named_by_id = body.contains("\"ID\":\"") && !body.contains("\"ID\":\"\"");
    let members: &[&str] =
        if is_named_by_id { &["ID", "CheckID"] } else { &["ID", "CheckID", "Name"] };
    for member in members {
        body = body.replace(&format!("\"{member}\":\"Web\""), &format!("\"{member}\":\"web\""));
    }
    body
}

fn embedded_check(rng: &mut Rng) -> Value {
    let mut check = match rng.u8(..5) {
        0 => {
            json!({"HTTP": "http://127.0.0.1:1/", "Interval": "1h", "Timeout": "5s", "Method": "PUT", "Header": {"X": ["y"]}, "Body": "b"})
        }
        1 => json!({"TCP": "127.0.0.1:1", "Interval": "2h", "Timeout": "5s"}),
        _ => json!({"TTL": "1h"}),
    };
    for (name, member) in [
        ("Name", json!("n")),
        ("Notes", json!("note")),
        ("Status", json!(pick(rng, STATUSES))),
        ("DeregisterCriticalServiceAfter", json!("2h")),
        ("OutputMaxSize", json!(10)),
        ("SuccessBeforePassing", json!(1)),
        ("FailuresBeforeCritical", json!(2)),
        ("FailuresBeforeWarning", json!(1)),
    ] {
        if rng.u8(..4) == 0 {
            check[name] = member;
        }
    }
    check
}

fn service(rng: &mut Rng) -> Step {
    let check = embedded_check(rng);
    let mut several = vec![embedded_check(rng), embedded_check(rng)];
    several[0]["CheckID"] = json!("c1");
    several[1]["CheckID"] = json!("c2");
    let mut body = json!({
        "Name": pick(rng, &["web", "db"]), "ID": pick(rng, &["web", "db", "web2"]),
        "Tags": ["t1", "T2"], "Port": 80, "Address": "10.0.0.1",
        "TaggedAddresses": {"lan": {"Address": "10.0.0.3", "Port": 3}},
        "Meta": {"a": "b"}, "Weights": {"Passing": 2, "Warning": 1}, "EnableTagOverride": true,
        "Locality": {"Region": "r", "Zone": "z"}, "Kind": "", "Token": "", "SocketPath": "",
        "Check": check, "Checks": several, "Connect": {}, "Proxy": null,
    });
    thin(rng, &mut body, &["Name"]);
    let body = spelled_alike(written(rng, body));
    let query = pick(
        rng,
        &[
            "",
            "",
            "",
            "?replace-existing-checks",
            "?replace-existing-checks=false",
            "?replace-existing-checks=x",
        ],
    );
    Step::new("PUT", format!("/v1/agent/service/register{query}"), &body)
}

fn check(rng: &mut Rng) -> Step {
    if rng.u8(..3) == 0 {
        let body = json!({"Status": pick(rng, STATUSES), "Output": "out"});
        let body = written(rng, body);
        let target = format!("/v1/agent/check/update/{}", pick(rng, CHECKS));
        return Step::new("PUT", target, &body);
    }
    let mut body = embedded_check(rng);
    body["Name"] = json!(pick(rng, &["c1", "alive"]));
    if rng.bool() {
        body["ID"] = json!(pick(rng, &["c1", "c3"]));
    }
    if rng.u8(..3) == 0 {
        body["ServiceID"] = json!(pick(rng, &["web", "db", "none"]));
    }
    let body = spelled_alike(written(rng, body));
    Step::new("PUT", "/v1/agent/check/register".to_owned(), &body)
}

const CHECKS: &[&str] = &[
    "c1",
    "c1",
    "c3",
    "alive",
    "service:web",
    "service:web",
    "service:db",
    "service:web2",
    "none",
    "",
    "a%20b",
    "%C3%A9",
    "serfHealth",
    "_node_maintenance",
];
const IDS: &[&str] = &["web", "web", "db", "web2", "none", "", "Web", "%C3%A9", "a%20b", "web%2F1"];

fn agent(rng: &mut Rng) -> Step {
    let note = pick(rng, &["", "", "?note=x", "?note=%C3%A9%3C", "?note=", "?note=a&note=b"]);
    let target = match rng.u8(..8) {
        0 => format!("/v1/agent/check/pass/{}{note}", pick(rng, CHECKS)),
        1 => format!("/v1/agent/check/warn/{}{note}", pick(rng, CHECKS)),
        2 => format!("/v1/agent/check/fail/{}{note}", pick(rng, CHECKS)),
        3 => format!("/v1/agent/check/deregister/{}", pick(rng, CHECKS)),
        4 => format!("/v1/agent/service/deregister/{}", pick(rng, IDS)),
        5 => {
            let enable = pick(
                rng,
                &[
                    "enable=true",
                    "enable=false",
                    "enable=1",
                    "enable=T",
                    "enable=yes",
                    "enable=",
                    "",
                    "enable",
                    "enable=true&reason=%C3%A9",
                    "enable=true&enable=false",
                ],
            );
            format!("/v1/agent/service/maintenance/{}?{enable}", pick(rng, IDS))
        }
        6 => {
            let enable = pick(
                rng,
                &[
                    "enable=true",
                    "enable=false",
                    "enable=0",
                    "enable=x",
                    "enable=true&reason=r",
                    "",
                ],
            );
            format!("/v1/agent/maintenance?{enable}")
        }
        _ => format!("/v1/agent/force-leave/{}", pick(rng, &["none", ""])),
    };
    Step::new("PUT", target, "")
}

fn catalog(rng: &mut Rng) -> Step {
    if rng.u8(..4) == 0 {
        let mut body = json!({
            "Node": pick(rng, NODES), "ServiceID": pick(rng, &["web", "none"]), "CheckID": "alive",
            "Datacenter": "dc1", "Address": "x",
        });
        thin(rng, &mut body, &["Node"]);
        return Step::new("PUT", "/v1/catalog/deregister".to_owned(), &written(rng, body));
    }
    let check = json!({
        "CheckID": "alive", "Name": "a", "Status": pick(rng, STATUSES), "ServiceID": pick(rng, &["", "web"]),
        "Notes": "n", "Output": "o", "Type": "", "ServiceTags": ["x"],
        "Definition": {"HTTP": "http://x", "Interval": "10s", "Timeout": "5s", "DeregisterCriticalServiceAfter": "30s", "TCP": "x:1", "Method": "GET", "Header": {"a": ["b"]}, "TLSSkipVerify": true},
    });
    let mut check = check;
    thin(rng, &mut check, &["CheckID", "Name", "Status", "ServiceID"]);
    let mut service = json!({
        "ID": pick(rng, &["web", "web1"]), "Service": pick(rng, &["web", "db"]), "Tags": ["t1", "T2"],
        "Port": 80, "Address": "10.0.0.5", "TaggedAddresses": {"lan": {"Address": "10.0.0.3", "Port": 3}},
        "Meta": {"a": "b"}, "Weights": {"Passing": 2, "Warning": 1}, "EnableTagOverride": true,
        "Locality": {"Region": "r", "Zone": "z"}, "Kind": "", "SocketPath": "", "Connect": {},
    });
    thin(rng, &mut service, &["Service"]);
    let mut body = json!({
        "Node": pick(rng, NODES), "Address": "10.0.0.1", "Datacenter": "dc1",
        "ID": "", "NodeMeta": {"rack": "1"}, "TaggedAddresses": {"lan": "10.0.0.2", "wan": "10.0.0.3"},
        "Locality": {"Region": "r", "Zone": "z"}, "SkipNodeUpdate": rng.bool(),
        "Service": service, "Check": check, "Checks": [check],
    });
    thin(rng, &mut body, &["Node", "Address", "Service"]);
    Step::new("PUT", "/v1/catalog/register".to_owned(), &written(rng, body))
}

/// Whether there is a second thing to say of a request with an odd parameter: that a name is missing;
/// the datacenters, which are also given after a refusal.
fn says_two_things(target: &str) -> bool {
    target == DATACENTERS || target.ends_with('/')
}

const DATACENTERS: &str = "/v1/catalog/datacenters";

fn read(rng: &mut Rng) -> Step {
    let id = pick(rng, IDS);
    let node = pick(rng, &["ext1", "ext2", "EXT1", "none", "", "%C3%A9", "{node}"]);
    let target = match rng.u8(..21) {
        0 => "/v1/catalog/nodes".to_owned(),
        1 => "/v1/catalog/services".to_owned(),
        2 => format!("/v1/catalog/service/{id}"),
        3 => format!("/v1/catalog/connect/{id}"),
        4 => format!("/v1/catalog/node/{node}"),
        5 => format!("/v1/catalog/node-services/{node}"),
        6 => format!("/v1/catalog/gateway-services/{id}"),
        7 => DATACENTERS.to_owned(),
        8 => format!("/v1/health/node/{node}"),
        9 => format!("/v1/health/checks/{id}"),
        10 | 11 => format!("/v1/health/service/{id}"),
        12 => format!("/v1/health/connect/{id}"),
        13 => format!("/v1/health/ingress/{id}"),
        14 => {
            let state = ["any", "passing", "critical", "Passing", "x", "", "unknown", "%C3%A9"];
            format!("/v1/health/state/{}", pick(rng, &state))
        }
        15 => "/v1/agent/services".to_owned(),
        16 => "/v1/agent/checks".to_owned(),
        17 => format!("/v1/agent/service/{id}"),
        18 => format!("/v1/agent/health/service/id/{id}"),
        19 => format!("/v1/agent/health/service/name/{id}"),
        _ => pick(
            rng,
            &[
                // The agent's own node has a coordinate some seconds after its start.
                "/v1/coordinate/node/ext1",
                "/v1/coordinate/node/",
                "/v1/agent/host/x",
                "/v1/health",
                "/v1/catalog/",
            ],
        )
        .to_owned(),
    };
    Step::get(&target)
}

const PARAMETERS: &[&str] = &[
    "near=ext1",
    "near=none",
    "near=",
    "near=_ip",
    "peer=x",
    "peer=",
    "sg=x",
    "sg=",
    "peer=x&sg=y",
    "ns=",
    "ns=default",
    "ns=x",
    "ns=*",
    "partition=",
    "partition=default",
    "partition=x",
    "ap=x",
    "dc=",
    "dc=dc1",
    "dc=DC1",
    "dc=nope",
    "dc=%C3%A9",
    "datacenter=nope",
    "stale",
    "stale=false",
    "consistent",
    "stale&consistent",
    "max_stale=1s",
    "max_stale=x",
    "max_stale=-1s",
    "max_stale=1s&consistent",
    "cached&consistent",
    "index=0",
    "index=x",
    "index=-1",
    "index=1.5",
    "index=",
    "wait=1s",
    "wait=x",
    "wait=-1s",
    "wait=1",
    "wait=",
    "node-meta=rack:1",
    "node-meta=rack",
    "node-meta=",
    "node-meta=rack:1&node-meta=b:2",
    "node-meta=rack:1:2",
    "node-meta=:",
    "tag=t1",
    "tag=T1",
    "tag=",
    "tag=t1&tag=t2",
    "tag=none",
    "passing",
    "passing=true",
    "passing=false",
    "passing=0",
    "passing=x",
    "passing=",
    "pretty",
    "pretty=false",
    "hash=",
    "hash=x",
    "format=text",
    "format=x",
    "raw",
    "connect",
    "merge-central-config",
    "merge-central-config=x",
    "filter=",
    "filter=x",
    "filter=Node==ext1",
    "filter=Node!=ext1",
    "filter=Status==passing",
    "filter=Port==80",
    "filter=Service==web",
    "filter=ID==web",
    "filter=Node==ext1&filter=x",
    "filter=x&filter=Node==ext1",
    "filter=%22",
    "filter=Tags+contains+t1",
    "filter=t1+in+Tags",
    "filter=Meta.a==b",
    "filter=Meta+is+empty",
    "filter=Service.Port==80",
    "filter=Node.Node==ext1",
    "filter=Checks.Status==passing",
    "filter=ServicePort==x",
    "filter=Port==x",
    "filter=Port==-1",
    "filter=Weights.Passing==2",
    "filter=(Node==ext1",
    "filter=not+Node==ext1",
    "filter=Node+matches+%22%5Be%22",
    "filter=Node+matches+e.t",
    "filter=ServiceTags+contains+t1",
    "filter=TaggedAddresses.lan.Address==x",
    "filter=Definition.HTTP==x",
    "filter=Locality.Zone==z",
    "filter=ServiceWeights.Passing==2",
    "filter=Proxy.Mode==x",
    "filter=CheckID==alive",
    "filter=Nosuch==1",
    "%C3%A9",
    "a;b",
    "%zz",
    "=",
    "&&",
    "token=",
    "wan",
    "segment=x",
    "segment=_all",
    "policy",
    "acl=x",
];

const SOUND_PARAMETERS: &[&str] = &[
    "near=ext1",
    "near=none",
    "peer=x",
    "ns=",
    "partition=",
    "dc=dc1",
    "stale",
    "max_stale=1s",
    "index=0",
    "wait=1s",
    "node-meta=rack:1",
    "tag=t1",
    "tag=T1",
    "passing",
    "passing=0",
    "pretty",
    "x=y",
    "",
];

/// Not another datacenter, and nothing of Consul Enterprise: the simulated agent refuses these before it
/// reads a body, Consul often after.
const PARAMETERS_OF_WRITES: &[&str] = &[
    "stale&consistent",
    "cached&consistent",
    "index=x",
    "wait=x",
    "filter=x",
    "pretty",
    "peer=x",
    "near=x",
    "ns=",
    "dc=dc1",
    "%C3%A9",
];

fn add_parameter(rng: &mut Rng, target: &mut String, from: &[&str]) {
    target.push(if target.contains('?') { '&' } else { '?' });
    target.push_str(pick(rng, from));
}

fn header(rng: &mut Rng) -> (&'static str, String) {
    let headers: &[(&str, &[&str])] = &[
        ("x-consul-namespace", &["", "default", "x"]),
        ("x-consul-partition", &["", "default", "x"]),
        (
            "cache-control",
            &[
                "no-cache",
                "max-age=10",
                "max-age=x",
                "must-revalidate",
                "stale-if-error=x",
                "max-age=-1",
                "",
            ],
        ),
        ("content-type", &["", "text/plain", "application/json; charset=x"]),
        ("accept", &["text/plain", "application/json", "x", ""]),
        ("accept-encoding", &["identity", ""]),
        ("x-forwarded-for", &["1.2.3.4", "x"]),
        ("authorization", &["Bearer", "Basic x", ""]),
    ];
    let (name, values) = headers[rng.usize(..headers.len())];
    (name, pick(rng, values).to_owned())
}

/// The ids of what the sequence created, of which later steps ask.
fn id_of(rng: &mut Rng, kind: &str) -> String {
    match rng.u8(..8) {
        0 => pick(
            rng,
            &[
                "x",
                "none",
                "%C3%A9",
                "00000000-0000-0000-0000-000000000001",
                "5d2c1b1e-0000-4000-8000-000000000000",
                "5D2C1B1E-0000-4000-8000-00000000000x",
            ],
        )
        .to_owned(),
        1 => String::new(),
        2 => {
            pick(rng, &["00000000-0000-0000-0000-000000000002", "{management accessor}"]).to_owned()
        }
        _ => format!("{{{kind}{}}}", rng.u8(..3)),
    }
}

fn link(rng: &mut Rng, kind: &str, names: &[&str]) -> Value {
    match rng.u8(..3) {
        0 => json!({"ID": format!("{{{kind}{}}}", rng.u8(..3))}),
        1 => json!({"Name": pick(rng, names)}),
        _ => json!({"ID": format!("{{{kind}{}}}", rng.u8(..3)), "Name": pick(rng, names)}),
    }
}

const POLICIES: &[&str] = &["p1", "p1", "p2", "p/3", "builtin/global-read-only", "none"];
const ROLES: &[&str] = &["r1", "r2", "none"];

fn acl(rng: &mut Rng) -> Step {
    // The management token stays, and nothing else gets its rights.
    match rng.u8(..10) {
        0..3 => policy(rng),
        3..6 => token(rng),
        6 | 7 => role(rng),
        _ => acl_read(rng),
    }
}

fn policy(rng: &mut Rng) -> Step {
    if rng.u8(..6) == 0 {
        return Step::new("DELETE", format!("/v1/acl/policy/{}", id_of(rng, "policy")), "");
    }
    let mut body = json!({
        "Name": pick(rng, &["p1", "p2", "p/3"]), "Description": "d",
        "Rules": rules(rng), "Datacenters": pick_value(rng, &[json!(["dc1"]), json!([]), json!(["DC2"]), json!([""])]),
    });
    thin(rng, &mut body, &["Name", "Rules"]);
    let body = written(rng, body);
    let target = match rng.u8(..3) {
        0 => format!("/v1/acl/policy/{}", id_of(rng, "policy")),
        _ => "/v1/acl/policy".to_owned(),
    };
    Step::new("PUT", target, &body)
}

fn identities(rng: &mut Rng, body: &mut Value) {
    if rng.u8(..3) == 0 {
        body["ServiceIdentities"] = json!([{"ServiceName": pick(rng, &["web", "db", "Web", "a b", "-x"]), "Datacenters": ["dc1"]}]);
    }
    if rng.u8(..3) == 0 {
        body["NodeIdentities"] =
            json!([{"NodeName": pick(rng, &["ext1", "a b", "Ext"]), "Datacenter": "dc1"}]);
    }
}

fn token(rng: &mut Rng) -> Step {
    match rng.u8(..8) {
        0 => {
            let id = id_of(rng, "token").replace("{management accessor}", "x");
            return Step::new("DELETE", format!("/v1/acl/token/{id}"), "");
        }
        1 => {
            let body = json!({"Description": "copy"});
            let target = format!("/v1/acl/token/{}/clone", id_of(rng, "token"));
            return Step::new("PUT", target, &written(rng, body));
        }
        _ => {}
    }
    let mut body = json!({
        "Description": "d", "Policies": [link(rng, "policy", POLICIES)], "Roles": [link(rng, "role", ROLES)],
        "Local": rng.bool(), "ExpirationTTL": "1h", "AuthMethod": "",
    });
    thin(rng, &mut body, &[]);
    identities(rng, &mut body);
    let body = written(rng, body);
    let target = match rng.u8(..3) {
        0 => {
            let id = id_of(rng, "token").replace("{management accessor}", "x");
            format!("/v1/acl/token/{id}")
        }
        _ => "/v1/acl/token".to_owned(),
    };
    Step::new("PUT", target, &body)
}

fn role(rng: &mut Rng) -> Step {
    if rng.u8(..6) == 0 {
        return Step::new("DELETE", format!("/v1/acl/role/{}", id_of(rng, "role")), "");
    }
    let mut body = json!({
        "Name": pick(rng, &["r1", "r2"]), "Description": "d", "Policies": [link(rng, "policy", POLICIES)],
    });
    thin(rng, &mut body, &["Name"]);
    identities(rng, &mut body);
    let body = written(rng, body);
    let target = match rng.u8(..3) {
        0 => format!("/v1/acl/role/{}", id_of(rng, "role")),
        _ => "/v1/acl/role".to_owned(),
    };
    Step::new("PUT", target, &body)
}

fn acl_read(rng: &mut Rng) -> Step {
    let name = pick(rng, &["p1", "p2", "p%2F3", "p/3", "global-management", "none", "", "%C3%A9"]);
    Step::get(&match rng.u8(..10) {
        0 => "/v1/acl/policies".to_owned(),
        1 => format!("/v1/acl/policy/{}", id_of(rng, "policy")),
        2 => format!("/v1/acl/policy/name/{name}"),
        3 => {
            let filters = [
                "",
                "?policy={policy0}",
                "?role={role0}",
                "?servicename=web",
                "?authmethod=x",
                "?policy=x",
                "?role=bad",
                "?policy={policy0}&role={role0}",
                "?servicename=",
                "?policy={policy0}&servicename=web",
            ];
            format!("/v1/acl/tokens{}", pick(rng, &filters))
        }
        4 => format!("/v1/acl/token/{}", id_of(rng, "token")),
        5 => "/v1/acl/token/self".to_owned(),
        6 => format!("/v1/acl/roles{}", pick(rng, &["", "?policy={policy0}", "?policy=x"])),
        7 => format!("/v1/acl/role/{}", id_of(rng, "role")),
        8 => format!("/v1/acl/role/name/{}", pick(rng, &["r1", "none", "", "a%20b"])),
        _ => pick(
            rng,
            &[
                "/v1/acl/replication",
                // Others may have identities, whose policies the simulated agent does not expand.
                "/v1/acl/token/{management accessor}?expanded",
                "/v1/agent/services",
                "/v1/catalog/nodes",
                "/v1/health/state/any",
            ],
        )
        .to_owned(),
    })
}
