use super::*;
use crate::error::Error;
use crate::table::Shape;
use crate::value::Value;
use crate::{endpoint, endpoints};
use proptest::prelude::*;

fn build(method: &str, args: Args) -> Result<Request, Error> {
    endpoint(method).unwrap().request(&args, &Defaults::default())
}

fn target(method: &str, args: Args) -> String {
    build(method, args).unwrap().http.uri().to_string()
}

#[test]
fn a_path_is_escaped_but_a_keys_slashes_are_not() {
    assert_eq!(
        target("kv_get", Args::new().arg("a b/é?#%+&=:;")),
        "/v1/kv/a%20b/%C3%A9%3F%23%25%2B%26%3D%3A%3B"
    );
    assert_eq!(target("agent_service", Args::new().arg("a/b c")), "/v1/agent/service/a%2Fb%20c");
}

#[test]
fn flags_are_sent_by_presence_or_not_at_all() {
    let key = || Args::new().arg("k");
    assert_eq!(target("kv_get", key().opt("stale", true)), "/v1/kv/k?stale");
    assert_eq!(target("kv_get", key().opt("stale", false)), "/v1/kv/k");
    assert_eq!(target("kv_list", key()), "/v1/kv/k?recurse");
}

#[test]
fn lists_and_maps_are_repeated_parameters() {
    let tags = Value::List(vec!["a".into(), "b&c".into()]);
    let meta = Value::Map(vec![("zone".into(), "z 1".into())]);
    let args = Args::new().arg("web").opt("tag", tags).opt("node_meta", meta);
    assert_eq!(
        target("catalog_service", args),
        "/v1/catalog/service/web?tag=a&tag=b%26c&node-meta=zone%3Az%201"
    );
}

#[test]
fn a_guarded_write_is_never_repeated() {
    let put = || Args::new().arg("k").arg("v");
    assert_eq!(build("kv_put", put()).unwrap().repeat, Repeat::Idempotent);
    assert_eq!(build("kv_put", put().opt("cas", 1)).unwrap().repeat, Repeat::Once);
    assert_eq!(build("kv_put", put().opt("acquire", "s")).unwrap().repeat, Repeat::Once);
    assert_eq!(build("kv_put", put().opt("retry", false)).unwrap().repeat, Repeat::Once);
    let none = Value::List(Vec::new());
    assert_eq!(build("txn", Args::new().arg(none)).unwrap().repeat, Repeat::Once);
}

#[test]
fn only_a_blocking_query_waits_on_the_server() {
    let get = |args: Args| build("kv_get", args).unwrap().server_wait;
    let key = || Args::new().arg("k");
    assert_eq!(get(key()), Duration::ZERO);
    assert_eq!(get(key().opt("wait", "10s")), Duration::ZERO);
    assert_eq!(get(key().opt("index", 0)), Duration::ZERO);
    assert_eq!(get(key().opt("index", 5)), DEFAULT_WAIT);
    assert_eq!(get(key().opt("index", 5).opt("wait", 0)), Duration::ZERO);
    assert_eq!(get(key().opt("index", 5).opt("wait", 1.5)), Duration::from_millis(1500));
}

#[test]
fn a_token_goes_into_a_header_that_is_never_shown() {
    let defaults = Defaults { token: Some("s3cret".into()), ..Defaults::default() };
    let request = endpoint("kv_get").unwrap().request(&Args::new().arg("k"), &defaults).unwrap();
    assert_eq!(request.http.headers()["x-consul-token"], "s3cret");
    assert!(!format!("{request:?}").contains("s3cret"));
    assert_eq!(request.http.uri(), "/v1/kv/k");
}

#[test]
fn the_consistency_of_a_call_overrides_the_clients() {
    let defaults = Defaults { consistency: Some("stale"), ..Defaults::default() };
    let target = |args: Args| {
        let request = endpoint("kv_get").unwrap().request(&args, &defaults).unwrap();
        request.http.uri().to_string()
    };
    assert_eq!(target(Args::new().arg("k")), "/v1/kv/k?stale");
    assert_eq!(target(Args::new().arg("k").opt("consistent", true)), "/v1/kv/k?consistent");
}

#[test]
fn consistency_options_contradict_each_other_by_value_not_by_presence() {
    let defaults = Defaults { consistency: Some("stale"), ..Defaults::default() };
    let target = |options: &[(&'static str, bool)]| {
        let args = Args::new().arg("k");
        let args = options.iter().fold(args, |args, (name, value)| args.opt(*name, *value));
        let request = endpoint("health_service").unwrap().request(&args, &defaults)?;
        Ok::<_, Error>(request.http.uri().query().unwrap_or("").to_owned())
    };
    assert_eq!(target(&[("stale", false), ("consistent", false)]).unwrap(), "");
    assert_eq!(target(&[("consistent", false)]).unwrap(), "stale");
    for other in ["stale", "cached", "stale_if_error"] {
        let harmless = target(&[(other, false), ("consistent", true)]);
        assert_eq!(harmless.unwrap(), "consistent", "{other}");
        let error = target(&[(other, true), ("consistent", true)]).unwrap_err();
        assert!(error.message().contains(&format!("{other} and consistent contradict")), "{error}");
    }
}

/// Rows, and a place in the body of each.
type Places = &'static [(&'static str, &'static str)];

/// The parameters in paths, with how those paths begin, and the places in the bodies of other rows that create what
/// they find. Without one, Consul makes the name, or knows it.
const CREATED: &[(&str, &str, Places)] = &[
    ("/v1/kv/", "key", &[("txn", "[].KV.Key")]),
    ("/v1/session/", "session", &[]),
    ("/v1/", "node", NODES),
    ("/v1/agent/join/", "address", &[]),
    ("/v1/agent/token/", "kind", &[]),
    (
        "/v1/agent/",
        "service_id",
        &[
            ("agent_service_register", "Name"),
            ("agent_service_register", "ID"),
            ("agent_service_register", "Connect.SidecarService.ID"),
            ("agent_service_register", "Connect.SidecarService.Name"),
            ("catalog_register", "Service.ID"),
            ("txn", "[].Service.Service.ID"),
        ],
    ),
    (
        "/v1/agent/check/",
        "check_id",
        &[
            ("agent_check_register", "ID"),
            ("agent_check_register", "Name"),
            ("agent_service_register", "Check.CheckID"),
            ("agent_service_register", "Check.Name"),
            ("agent_service_register", "Checks[].CheckID"),
            ("agent_service_register", "Checks[].Name"),
            ("agent_service_register", "Connect.SidecarService.Check.CheckID"),
            ("agent_service_register", "Connect.SidecarService.Check.Name"),
            ("agent_service_register", "Connect.SidecarService.Checks[].CheckID"),
            ("agent_service_register", "Connect.SidecarService.Checks[].Name"),
            ("catalog_register", "Check.CheckID"),
            ("catalog_register", "Check.Name"),
            ("catalog_register", "Checks[].CheckID"),
            ("catalog_register", "Checks[].Name"),
            ("txn", "[].Check.Check.CheckID"),
            ("txn", "[].Check.Check.Name"),
        ],
    ),
    ("/v1/", "service", SERVICES),
    ("/v1/catalog/gateway-services/", "gateway", SERVICES),
    ("/v1/health/state/", "state", &[]),
    ("/v1/event/fire/", "name", &[]),
    (
        "/v1/acl/token/",
        "accessor",
        &[("acl_token_create", "AccessorID"), ("acl_token_update", "AccessorID")],
    ),
    ("/v1/acl/policy/", "policy_id", &[]),
    (
        "/v1/acl/policy/name/",
        "name",
        &[("acl_policy_create", "Name"), ("acl_policy_update", "Name")],
    ),
    ("/v1/acl/role/", "role_id", &[]),
    ("/v1/acl/role/name/", "name", &[("acl_role_create", "Name"), ("acl_role_update", "Name")]),
    (
        "/v1/acl/auth-method/",
        "method",
        &[("acl_auth_method_create", "Name"), ("acl_auth_method_update", "Name")],
    ),
    ("/v1/acl/binding-rule/", "rule", &[]),
    ("/v1/acl/templated-policy/", "name", &[]),
    ("/v1/query/", "query", &[("query_create", "Name"), ("query_update", "Name")]),
    ("/v1/config/", "kind", &[("config_write", "Kind")]),
    (
        "/v1/config/",
        "name",
        &[
            ("config_write", "Name"),
            ("connect_intention_create", "DestinationName"),
            ("connect_intention_update", "DestinationName"),
            ("connect_intention_upsert", "DestinationName"),
        ],
    ),
    ("/v1/connect/intentions/", "intention_id", &[]),
    ("/v1/peering/", "name", &[("peering_token", "PeerName"), ("peering_establish", "PeerName")]),
    ("/v1/partition/", "name", &[("partition_create", "Name"), ("partition_update", "Name")]),
    ("/v1/namespace/", "name", &[("namespace_create", "Name"), ("namespace_update", "Name")]),
];

const NODES: Places = &[
    ("catalog_register", "Node"),
    ("catalog_register", "Check.Node"),
    ("catalog_register", "Checks[].Node"),
    ("coordinate_update", "Node"),
    ("txn", "[].Node.Node.Node"),
    ("txn", "[].Service.Node"),
    ("txn", "[].Check.Check.Node"),
];

const SERVICES: Places = &[
    ("agent_service_register", "Name"),
    ("agent_service_register", "Connect.SidecarService.Name"),
    ("catalog_register", "Service.Service"),
    ("config_write", "Name"),
    ("txn", "[].Service.Service.Service"),
];

/// Else it could neither be read nor removed.
#[test]
fn what_a_path_refuses_is_refused_wherever_it_is_created() {
    let mut used = vec![false; CREATED.len()];
    for row in endpoints() {
        let segments = row.path.split('/').filter_map(|it| it.strip_prefix('{')?.strip_suffix('}'));
        for parameter in segments {
            let fits = |(begins, name, _): &&(&str, &str, _)| {
                *name == parameter && row.path.starts_with(begins)
            };
            let place = CREATED.iter().position(|created| fits(&created));
            used[place.unwrap_or_else(|| panic!("{} {parameter}", row.path))] = true;
        }
    }
    assert!(used.iter().all(|used| *used), "{used:?}");
    let mut wrong = Vec::new();
    for (_, parameter, places) in CREATED {
        for (row, place) in *places {
            for name in ["..", ".", "a/../b", "a/.", "x\u{7}y"] {
                // A transaction reads and deletes such keys, too.
                if *parameter == "key" && name.contains('\u{7}') {
                    continue;
                }
                match bodies::request(row, place, name.into()) {
                    Ok(_) => wrong.push(format!("{row} {place} {name:?}")),
                    Err(error) => {
                        let field = place.rsplit('.').next().unwrap_or_default();
                        assert!(error.message().contains(field) && !error.is_misuse(), "{error}");
                    }
                }
            }
            for name in ["a..b", "a.b/..c", "é"] {
                bodies::request(row, place, name.into()).expect("no segment of dots alone");
            }
        }
    }
    assert!(wrong.is_empty(), "{} names:\n{}", wrong.len(), wrong.join("\n"));
}

/// Consul takes a wait of nothing for its default of five minutes.
#[test]
fn a_wait_of_nothing_in_any_spelling_does_not_wait() {
    let raw = |path: &str| {
        let row = crate::api::raw::endpoint("GET").unwrap();
        let request = row.request(&Args::new().arg(path), &Defaults::default()).unwrap();
        (request.http.uri().to_string(), request.server_wait)
    };
    for row in crate::endpoints().filter(|row| row.can_block()) {
        let required = row.positional.iter().filter(|param| !param.optional);
        let args = || required.clone().fold(Args::new(), |args, param| args.arg(good(&param.kind)));
        for (wait, value) in [("0", Value::Int(0)), ("0s", "0s".into()), ("0h0m", "0h0m".into())] {
            let args = args().opt("index", 7).opt("wait", value);
            let request = row.request(&args, &Defaults::default()).unwrap();
            let target = request.http.uri().to_string();
            assert!(!target.contains("wait=") && !target.contains("index="), "{wait}: {target}");
            assert_eq!(request.server_wait, Duration::ZERO, "{target}");
        }
    }
    for wait in ["0", "0s", "0ms", "%30s", "00.0s", "%2B0s", "-0s", "-5m"] {
        let target = raw(&format!("/v1/kv/a?index=7&raw&wait={wait}")).0;
        assert_eq!(target, "/v1/kv/a?raw", "{wait}");
        assert_eq!(raw(&format!("/v1/kv/a?w%61it={wait}&hash=7")).0, "/v1/kv/a", "{wait}");
    }
    for query in ["index=7&wait=1ns", "index=7&wait=", "index=7", "waits=0", "wait"] {
        assert_eq!(raw(&format!("/v1/kv/a?{query}")).0, format!("/v1/kv/a?{query}"));
    }
}

#[test]
fn any_request_takes_the_clients_settings_unless_it_has_its_own() {
    let defaults = Defaults {
        dc: Some("dc2".into()),
        namespace: Some("team".into()),
        partition: Some("part".into()),
        consistency: Some("stale"),
        ..Defaults::default()
    };
    let target = |method, path: &str, params: Value| {
        let args = Args::new().arg(path).opt("params", params);
        let row = crate::api::raw::endpoint(method).unwrap();
        row.request(&args, &defaults).unwrap().http.uri().to_string()
    };
    let all = "dc=dc2&ns=team&partition=part";
    let none = || Value::Map(Vec::new());
    let one = |name: &str, value: Value| Value::Map(vec![(name.to_owned(), value)]);
    assert_eq!(target("GET", "/v1/a", none()), format!("/v1/a?{all}&stale"));
    assert_eq!(target("PUT", "/v1/a?flags=1", none()), format!("/v1/a?flags=1&{all}"));
    let rest = "ns=team&partition=part&stale";
    assert_eq!(target("GET", "/v1/a?dc=", none()), format!("/v1/a?dc=&{rest}"));
    assert_eq!(target("GET", "/v1/a?%64c=dc3", none()), format!("/v1/a?%64c=dc3&{rest}"));
    assert_eq!(target("GET", "/v1/a", one("dc", "dc3".into())), format!("/v1/a?dc=dc3&{rest}"));
    for own in ["consistent", "stale", "cached"] {
        assert_eq!(target("GET", &format!("/v1/a?{own}"), none()), format!("/v1/a?{own}&{all}"));
        assert_eq!(target("GET", "/v1/a", one(own, true.into())), format!("/v1/a?{own}&{all}"));
    }
}

/// Consul takes an empty one for none, and then reads the header.
#[test]
fn a_token_in_the_query_of_any_request_is_instead_of_the_clients() {
    let defaults = Defaults { token: Some("s3cret".into()), ..Defaults::default() };
    let header = |path: &str, params: serde_json::Value, own: Option<&str>| {
        let args = Args::new().arg(path).opt("params", Value::from(params));
        let args = own.into_iter().fold(args, |args, own| args.opt("token", own));
        let row = crate::api::raw::endpoint("GET").unwrap();
        let request = row.request(&args, &defaults).unwrap();
        request.http.headers()["x-consul-token"].to_str().unwrap().to_owned()
    };
    let none = || serde_json::json!({});
    for path in ["/v1/a?token=", "/v1/a?token", "/v1/a?b=1&tok%65n=", "/v1/a?token=other"] {
        assert_eq!(header(path, none(), None), "", "{path}");
    }
    for params in [serde_json::json!({"token": ""}), serde_json::json!({"token": true})] {
        assert_eq!(header("/v1/a", params.clone(), None), "", "{params}");
        assert_eq!(header("/v1/a", params.clone(), Some("own")), "own", "{params}");
    }
    assert_eq!(header("/v1/a", none(), Some("")), "");
    for path in ["/v1/a", "/v1/a?tokens=", "/v1/token=?a"] {
        assert_eq!(header(path, none(), None), "s3cret", "{path}");
    }
}

#[test]
fn dots_are_refused_in_the_path_of_any_request_and_not_in_its_query() {
    let row = crate::api::raw::endpoint("GET").unwrap();
    let target = |path: &str| {
        let request = row.request(&Args::new().arg(path), &Defaults::default());
        request.map(|it| it.http.uri().to_string())
    };
    for path in ["/v1/x?a=/../b", "/v1/x?a=..", "/v1/x?/./", "/v1/x..y?a=1"] {
        assert_eq!(target(path).expect(path), path);
    }
    for path in ["/v1/../x", "/v1/x/..?a=1", "/v1/./x?a=/b", "/v1/x?a=\u{7}"] {
        assert_eq!(target(path).expect_err(path).kind(), crate::error::Kind::Argument, "{path}");
    }
}

#[test]
fn deleting_every_key_requires_the_option_everything() {
    let operation = |verb: &str, key: Option<&str>| {
        let mut members = vec![("verb".to_owned(), verb.into())];
        members.extend(key.map(|key| ("key".to_owned(), key.into())));
        Value::Map(vec![("KV".into(), Value::Map(members))])
    };
    let txn = |key| {
        let operations = vec![operation("get-tree", Some("")), operation("delete-tree", key)];
        Args::new().arg(Value::List(operations))
    };
    let tree = |prefix: &str| Args::new().arg(prefix);
    for (method, all, some) in [
        ("kv_delete_tree", tree(""), tree("a")),
        ("txn", txn(Some("")), txn(Some("a"))),
        ("txn", txn(None), txn(Some("a"))),
    ] {
        for args in [all.clone(), all.clone().opt("everything", false)] {
            let error = build(method, args).unwrap_err();
            assert!(!error.is_misuse() && error.message().contains("everything = true"), "{error}");
        }
        assert!(build(method, all.opt("everything", true)).is_ok());
        assert!(build(method, some).is_ok());
    }
    let error = build("txn", txn(None)).unwrap_err();
    assert!(error.message().contains("operations.2.KV.Key"), "{error}");
    // The key is empty only after the slash is removed.
    let defaults = Defaults { strip_leading_slash: true, ..Defaults::default() };
    assert!(endpoint("kv_delete_tree").unwrap().request(&tree("/"), &defaults).is_err());
    assert!(build("kv_list", tree("")).is_ok());
}

#[test]
fn a_retry_waits_for_the_rest_of_the_wait() {
    let sent = |method: &str, args: Args, waited_ms: u64| {
        let request = build(method, args).unwrap();
        request.to_send(Duration::from_millis(waited_ms), false).uri().to_string()
    };
    let key = || Args::new().arg("k");
    let blocking = || key().opt("index", 5).opt("wait", "10s").opt("dc", "a");
    assert_eq!(sent("kv_get", blocking(), 0), "/v1/kv/k?dc=a&index=5&wait=10s");
    assert_eq!(sent("kv_get", blocking(), 2500), "/v1/kv/k?dc=a&index=5&wait=7500ms");
    let request = build("kv_get", key().opt("index", 5).opt("wait", 5)).unwrap();
    let sent_after =
        |micros| request.to_send(Duration::from_micros(micros), false).uri().to_string();
    assert_eq!(sent_after(40), "/v1/kv/k?index=5&wait=5s");
    assert_eq!(sent_after(1040), "/v1/kv/k?index=5&wait=4999ms");
    assert_eq!(sent("kv_get", blocking(), 10_000), "/v1/kv/k?dc=a");
    assert_eq!(sent("kv_get", key().opt("index", 5), 1000), "/v1/kv/k?index=5&wait=299000ms");
    assert_eq!(sent("kv_get", key().opt("wait", "10s"), 2500), "/v1/kv/k?wait=10s");
    assert_eq!(sent("agent_service", key().opt("hash", "h"), 300_000), "/v1/agent/service/k");
}

#[test]
fn stale_if_error_is_for_reads_that_do_not_set_their_consistency() {
    let falls_back = |args: Args, consistency: Option<&'static str>| {
        let defaults = Defaults { stale_if_error: true, consistency, ..Defaults::default() };
        endpoint("kv_get").unwrap().request(&args, &defaults).unwrap().stale_if_error
    };
    let key = || Args::new().arg("k");
    assert!(falls_back(key(), None));
    assert!(!falls_back(key(), Some("stale")));
    assert!(!falls_back(key(), Some("consistent")));
    assert!(!falls_back(key().opt("consistent", true), None));
    assert!(!falls_back(key().opt("stale_if_error", false), None));
    assert!(!falls_back(key().opt("retry", false), None));
    let request = build("kv_list", key().opt("stale_if_error", true)).unwrap();
    assert_eq!(request.to_send(Duration::ZERO, false).uri(), "/v1/kv/k?recurse");
    assert_eq!(request.to_send(Duration::ZERO, true).uri(), "/v1/kv/k?recurse&stale");
    let both = key().opt("stale_if_error", true).opt("consistent", true);
    assert!(build("kv_get", both).unwrap_err().message().contains("contradict"));
}

#[test]
fn the_lookup_of_a_lock_reads_the_same_key_with_the_same_rights() {
    let defaults = Defaults { token: Some("s3cret".into()), ..Defaults::default() };
    let args = Args::new().arg("a b").arg("v").opt("acquire", "s 1").opt("dc", "far");
    let request = endpoint("kv_put").unwrap().request(&args, &defaults).unwrap();
    assert_eq!(request.lock_step, Some(LockStep::Acquire("s 1".into())));
    let lookup = request.lock_lookup();
    assert_eq!(lookup.http.method(), http::Method::GET);
    assert_eq!(lookup.http.uri(), "/v1/kv/a%20b?consistent&dc=far");
    assert_eq!(lookup.http.headers()["x-consul-token"], "s3cret");
    let never = args.opt("retry", false);
    let request = endpoint("kv_put").unwrap().request(&never, &defaults).unwrap();
    assert_eq!(request.lock_step, None);
}

#[test]
fn the_age_of_an_answer_of_the_cache_is_limited_by_a_header() {
    let mut count = 0;
    for row in endpoints() {
        let has = |name: &str| row.all_options().any(|option| option.name == name);
        assert_eq!(has("cached"), has("cache_control"), "{}", row.name);
        if !has("cached") {
            continue;
        }
        let args = row.positional.iter().fold(Args::new(), |args, it| args.arg(good(&it.kind)));
        let own = row.request(&args.clone().opt("cached", true), &Defaults::default()).unwrap();
        assert!(!own.http.headers().contains_key("cache-control"), "{}", row.name);
        for control in ["max-age=30", "max-age=5, stale-if-error=60", "must-revalidate"] {
            let args = args.clone().opt("cached", true).opt("cache_control", control);
            let request = row.request(&args, &Defaults::default()).unwrap();
            assert_eq!(request.http.headers()["cache-control"], control, "{}", row.name);
            assert_eq!(request.http.uri(), own.http.uri(), "{}", row.name);
        }
        count += 1;
    }
    assert_eq!(count, 9);
    let args = Args::new().arg("web").opt("cache_control", "max-age=1\r\nx: y");
    assert!(build("health_service", args).is_err(), "a header has one line");
}

#[test]
fn a_body_is_checked_field_by_field() {
    let check = Value::Map(vec![("ttl".into(), 90.into()), ("check_id".into(), "c".into())]);
    let service = Value::Map(vec![("name".into(), "web".into()), ("check".into(), check)]);
    let request = build("agent_service_register", Args::new().arg(service)).unwrap();
    let body: serde_json::Value = serde_json::from_slice(request.http.body()).unwrap();
    let wanted = serde_json::json!({"Name": "web", "Check": {"TTL": "90s", "CheckID": "c"}});
    assert_eq!(body, wanted);
}

#[test]
fn a_body_of_any_json_is_sent_as_it_is() {
    let inner = Value::Map(vec![("list".into(), Value::List(vec![1.5.into(), true.into()]))]);
    let entry = Value::Map(vec![("Kind".into(), "x".into()), ("Config".into(), inner)]);
    let request = build("config_write", Args::new().arg(entry)).unwrap();
    let body: serde_json::Value = serde_json::from_slice(request.http.body()).unwrap();
    assert_eq!(body, serde_json::json!({"Kind": "x", "Config": {"list": [1.5, true]}}));
}

#[test]
fn an_empty_table_is_an_object_or_a_list_as_the_body_demands() {
    let body = |method, value| build(method, Args::new().arg(value)).unwrap().http.into_body();
    assert_eq!(body("session_create", Value::List(Vec::new())), "{}");
    assert_eq!(body("txn", Value::Map(Vec::new())), "[]");
}

#[test]
fn a_missing_object_is_sent_empty_where_it_is_optional() {
    let body = |method, args| build(method, args).unwrap().http.into_body();
    assert_eq!(body("session_create", Args::new()), "{}");
    assert_eq!(body("event_fire", Args::new().arg("deploy")), "");
    let error = build("catalog_deregister", Args::new()).unwrap_err();
    assert!(error.message().contains("is missing"), "{error}");
}

#[test]
fn one_leading_slash_is_removed_from_a_key_if_the_client_says_so() {
    let defaults = Defaults { strip_leading_slash: true, ..Defaults::default() };
    let path = |key: &str| {
        let request = endpoint("kv_get").unwrap().request(&Args::new().arg(key), &defaults);
        request.unwrap().http.uri().to_string()
    };
    assert_eq!(path("/a/b"), "/v1/kv/a/b");
    assert_eq!(path("a/b"), "/v1/kv/a/b");
}

#[test]
fn a_field_in_two_spellings_is_misuse() {
    let twice = Value::Map(vec![("Name".into(), "a".into()), ("name".into(), "b".into())]);
    assert!(build("session_create", Args::new().arg(twice)).unwrap_err().is_misuse());
}

/// Values that some shape takes and others do not.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        Just(Value::Foreign("a function")),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::Float),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Bytes),
        prop_oneof!["a", "10s", "/k", "a//b", "..", "", "passing", "5", "release", "set"]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| {
        let name = prop_oneof![Just("Name"), Just("KV"), Just("ttl"), Just("x"), Just("Verb")];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::vec((name.prop_map(str::to_owned), inner), 0..4).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any arguments give a request, or an error that names the method; never a panic.
    #[test]
    fn any_arguments_give_a_request_or_a_named_error(
        method in prop::sample::select(endpoints().collect::<Vec<_>>()),
        positional in prop::collection::vec(any_value(), 0..4),
        options in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 0..3),
    ) {
        let mut args = positional.into_iter().fold(Args::new(), Args::arg);
        let names: Vec<_> = method.all_options().map(|param| param.name).collect();
        for (index, value) in options {
            args = args.opt(*index.get(&names), value);
        }
        if let Err(error) = method.request(&args, &Defaults::default()) {
            prop_assert!(error.message().starts_with(method.name), "{error}");
            prop_assert_eq!(error.kind(), crate::error::Kind::Argument);
            prop_assert!(!error.maybe_applied());
        }
    }
}

#[test]
fn every_parameter_of_every_method_refuses_a_foreign_value_by_name() {
    for method in endpoints() {
        for place in 0..method.positional.len() {
            let mut args = Args::new();
            for param in &method.positional[..place] {
                args = args.arg(good(&param.kind));
            }
            let error = method
                .request(&args.arg(Value::Foreign("a function")), &Defaults::default())
                .unwrap_err();
            assert!(error.is_misuse(), "{error}");
            assert!(error.message().contains(method.positional[place].name), "{error}");
            assert!(error.message().contains("a function"), "{error}");
        }
        for param in method.all_options() {
            let args =
                method.positional.iter().fold(Args::new(), |args, p| args.arg(good(&p.kind)));
            let args = args.opt(param.name, Value::Foreign("a function"));
            let error = method.request(&args, &Defaults::default()).unwrap_err();
            assert!(error.is_misuse(), "{error}");
            assert!(error.message().contains(param.name), "{error}");
        }
    }
}

/// A value that the shape takes.
pub(super) fn good(shape: &Shape) -> Value {
    match shape {
        Shape::Object(_) | Shape::Free(_) | Shape::Any => Value::Map(Vec::new()),
        Shape::Objects(_) => Value::List(Vec::new()),
        Shape::OneOf(names) => names[0].into(),
        Shape::Bool | Shape::Flag => true.into(),
        Shape::Uint | Shape::Port => 1.into(),
        _ => "a".into(),
    }
}

#[test]
fn a_list_repeats_a_parameter_of_any_request() {
    let row = crate::api::raw::endpoint("GET").unwrap();
    let target = |params: serde_json::Value| {
        let args = Args::new().arg("/v1/x").opt("params", Value::from(params));
        row.request(&args, &Defaults::default()).map(|it| it.http.uri().to_string())
    };
    for (params, wanted) in [
        (serde_json::json!({"tag": ["x", "y&z"]}), "/v1/x?tag=x&tag=y%26z"),
        (
            serde_json::json!({"tag": [1, true, false, 1.5]}),
            "/v1/x?tag=1&tag=true&tag=false&tag=1.5",
        ),
        (serde_json::json!({"tag": "x"}), "/v1/x?tag=x"),
        (serde_json::json!({"tag": true}), "/v1/x?tag"),
        (serde_json::json!({"tag": []}), "/v1/x"),
        (serde_json::json!({"tag": {}}), "/v1/x"),
    ] {
        assert_eq!(target(params.clone()).expect("a request"), wanted, "{params}");
    }
    for params in [
        serde_json::json!({"tag": [["x"]]}),
        serde_json::json!({"tag": [{"a": 1}]}),
        serde_json::json!({"tag": {"a": 1}}),
    ] {
        let error = target(params.clone()).expect_err("a nested table");
        assert!(error.is_misuse() && error.message().contains("params.tag"), "{params}: {error}");
    }
}
