use super::*;
use crate::endpoint;
use crate::request::{Args, Defaults};
use crate::table::Shape;

fn request(method: &str) -> Request {
    let row = endpoint(method).expect("the method exists");
    let args =
        row.positional.iter().filter(|param| !param.optional).fold(Args::new(), |args, param| {
            match param.kind {
                Shape::Objects(_) => args.arg(Value::List(Vec::new())),
                Shape::Object(_) | Shape::Free(_) | Shape::Any => args.arg(Value::Map(Vec::new())),
                Shape::Bool => args.arg(true),
                Shape::OneOf(names) => args.arg(names[0]),
                _ => args.arg("a"),
            }
        });
    row.request(&args, &Defaults::default()).expect("the arguments are good")
}

fn respond(method: &str, status: u16, body: &str) -> Result<Answer, Error> {
    let response = Response::builder()
        .status(status)
        .header("vary", "Accept-Encoding")
        .body(Bytes::copy_from_slice(body.as_bytes()))
        .expect("a response");
    Ok(request(method).check(response)?.answer())
}

#[test]
fn an_error_has_its_kind_on_both_versions() {
    for (method, status, body, kind) in [
        ("kv_put", 400, "Missing key name", Kind::Argument),
        ("acl_token_list", 401, "ACL support disabled", Kind::Unsupported),
        ("kv_get", 403, "ACL not found", Kind::AclNotFound),
        ("acl_token_read", 403, "token does not exist: ACL not found", Kind::NotFound),
        ("acl_token_self", 403, "token does not exist: ACL not found", Kind::AclNotFound),
        ("acl_token_read", 403, "ACL not found", Kind::AclNotFound),
        ("acl_token_update", 500, "Cannot find token \"a\"", Kind::NotFound),
        ("acl_policy_update", 500, "cannot find policy x", Kind::NotFound),
        ("event_fire", 500, "ACL not found", Kind::AclNotFound),
        ("kv_get", 403, "Permission denied: anonymous token lacks …", Kind::PermissionDenied),
        (
            "agent_service_register",
            403,
            "Permission denied: token with AccessorID 'primary-dc-down' lacks permission 'service:write' on \"x\"",
            Kind::Connect,
        ),
        ("agent_check_pass", 404, "Unknown check ID \"a\"", Kind::NotFound),
        ("agent_check_pass", 500, "CheckID \"a\" does not have associated TTL", Kind::NotFound),
        ("session_renew", 404, "Session id 'a' not found", Kind::SessionInvalid),
        ("session_renew", 500, "failed session lookup: index error", Kind::SessionInvalid),
        ("kv_put", 500, "raft apply failed: invalid session \"x\"", Kind::SessionInvalid),
        ("kv_put", 500, "invalid session \"x\"", Kind::SessionInvalid),
        ("kv_put", 413, "Request body(1) too large", Kind::TooLarge),
        ("kv_get", 429, "Your IP is issuing too many concurrent connections", Kind::RateLimited),
        ("kv_get", 500, "No cluster leader", Kind::NoLeader),
        ("kv_get", 500, "No known Consul servers", Kind::Connect),
        ("kv_put", 503, "rate limit exceeded for operation …", Kind::RateLimited),
        ("query_update", 500, "Cannot modify non-existent prepared query: 'a'", Kind::NotFound),
        (
            "kv_get",
            500,
            "invalid key name, keys should respect the \"^[a-z]+$\" format",
            Kind::Argument,
        ),
        ("kv_get", 500, "something else", Kind::Http),
        ("kv_get", 404, "Invalid URL path: not a recognized HTTP API endpoint", Kind::Unsupported),
        ("kv_put", 307, "", Kind::Decode),
    ] {
        let error = respond(method, status, body).unwrap_err();
        assert_eq!(error.kind(), kind, "{method} {status} {body}");
        assert_eq!(error.status(), Some(status));
        assert!(error.message().starts_with(method), "{error}");
    }
}

#[test]
fn what_only_a_proxy_sends_is_told_with_the_option_that_helps() {
    let answer = |status: u16, name: &str, value: &str| {
        let response = Response::builder().status(status).header(name, value);
        let response = response.body(Bytes::from_static(b"no")).expect("a response");
        request("kv_put").check(response).unwrap_err()
    };
    let error = answer(401, "www-authenticate", "Basic realm=\"consul\"");
    assert_eq!((error.kind(), error.maybe_applied()), (Kind::PermissionDenied, false));
    assert!(error.message().contains("set http_auth"), "{error}");
    let page = Response::builder().status(401).header("www-authenticate", "Basic");
    let page = page.body(Bytes::from_static(b"<html>401")).expect("a response");
    let error = request("kv_get").check(page).unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
    for error in [answer(401, "date", "today"), answer(403, "www-authenticate", "Basic")] {
        assert_eq!(error.kind(), Kind::Decode, "{error}");
    }
    for (location, hint) in [("https://consul.example/v1/kv/a", true), ("http://b/v1/kv/a", false)]
    {
        let error = answer(308, "location", location);
        assert_eq!(error.message().contains("an endpoint with https://"), hint, "{error}");
    }
    for location in ["https://name:s3cret@b/v1/kv/a?s3cret", "//name:s3cret@b/v1/kv/a"] {
        let error = answer(307, "location", location);
        let is_shown = error.message().contains("//b/v1/kv/a\"");
        assert!(is_shown && !error.message().contains("s3cret"), "{error}");
    }
    for (status, is_retryable) in [
        (408, true),
        (425, true),
        (429, true),
        (500, false),
        (501, false),
        (520, true),
        (524, true),
        (529, true),
        (530, false),
    ] {
        let error = respond("kv_get", status, "error code").unwrap_err();
        assert_eq!(error.is_retryable(), is_retryable, "{status}");
    }
}

#[test]
fn an_unsupported_request_names_the_version_that_it_requires_or_the_servers_reason() {
    let unknown = "Invalid URL path: not a recognized HTTP API endpoint";
    let error = respond("peering_read", 404, unknown).unwrap_err();
    assert!(error.message().contains("requires Consul 1.13"), "{error}");
    let error = respond("peering_read", 401, "ACL support disabled").unwrap_err();
    assert!(error.message().contains("ACL support disabled"), "{error}");
}

#[test]
fn a_write_that_was_answered_with_false_was_not_applied() {
    for method in ["catalog_deregister", "kv_put"] {
        assert!(respond(method, 200, "true").is_ok() && respond(method, 200, "true\n").is_ok());
        let error = respond(method, 200, "false").unwrap_err();
        assert_eq!((error.kind(), error.maybe_applied()), (Kind::Conflict, false), "{method}");
    }
}

/// With `cas` it is answered as a write that may not be applied, without with an object, to any path too.
#[test]
fn a_guarded_deletion_of_an_entry_is_answered_with_true_or_false() {
    for (is_guarded, body, kind) in [
        (true, "true", None),
        (true, "false", Some(Kind::Conflict)),
        (true, "{}", Some(Kind::Decode)),
        (false, "{}", None),
        (false, "true", Some(Kind::Decode)),
    ] {
        let args = Args::new().arg("service-defaults").arg("web");
        let args = if is_guarded { args.opt("cas", 7) } else { args };
        let defaults = Defaults::default();
        let own = endpoint("config_delete").expect("a row").request(&args, &defaults);
        let own = own.expect("the arguments are good");
        let raw = crate::api::raw::endpoint("DELETE").expect("a method");
        let raw = raw.request(&Args::new().arg(own.http.uri().to_string()), &defaults);
        let kind_of = |request: &Request| {
            request.check(Response::new(Bytes::from(body))).err().map(|error| error.kind())
        };
        assert_eq!(kind_of(&own), kind, "{is_guarded} {body}");
        // Its caller reads `false` himself.
        let of_raw = kind.filter(|kind| *kind == Kind::Decode);
        assert_eq!(kind_of(&raw.expect("a path")), of_raw, "{is_guarded} {body}");
    }
}

#[test]
fn a_missing_policy_is_distinguished_from_a_missing_token_on_1_8() {
    for (known_leader, kind) in [("true", Kind::NotFound), ("false", Kind::AclNotFound)] {
        let response = Response::builder()
            .status(403)
            .header("x-consul-knownleader", known_leader)
            .body(Bytes::from_static(b"ACL not found"))
            .expect("a response");
        let error = request("acl_policy_read").check(response).unwrap_err();
        assert_eq!(error.kind(), kind);
    }
}

#[test]
fn an_answer_about_tokens_is_never_shown() {
    let error = respond("acl_token_self", 200, r#"{"SecretID": "s3cret""#).unwrap_err();
    assert!(!error.message().contains("s3cret"), "{error}");
}

#[test]
fn an_error_says_whether_it_is_transient_and_whether_the_request_can_have_been_applied() {
    for (status, body, transient, maybe_applied) in [
        (500, "No cluster leader", true, false),
        (500, "rpc error making call: No cluster leader", true, false),
        (500, "Raft leader not found in server lookup mapping", true, false),
        (500, "node is not the leader", true, false),
        (500, "Not ready to serve consistent reads", true, false),
        (500, "raft apply failed: leadership lost while committing log", true, true),
        (500, "rpc error making call: leadership lost while committing log", true, true),
        (500, "rpc error making call: EOF", true, true),
        (500, "rpc error getting client: failed to get conn: refused", true, false),
        (500, "No known Consul servers", true, false),
        (429, "Your IP is issuing too many concurrent connections", true, false),
        (503, "rate limit exceeded for operation that can only be …", true, false),
        (503, "", true, true),
        (502, "<html>Bad Gateway</html>", true, true),
        (504, "", true, true),
        (500, "Failed to create boolean expression evaluator: …", false, true),
        (500, "raft apply failed: invalid session \"x\"", false, false),
        (403, "Permission denied", false, false),
        (403, "Permission denied: token with AccessorID 'primary-dc-down' lacks …", true, false),
        (400, "Invalid wait time", false, false),
    ] {
        let error = respond("kv_put", status, body).unwrap_err();
        assert_eq!(error.is_retryable(), transient, "{status} {body}");
        assert_eq!(error.maybe_applied(), maybe_applied, "{status} {body}");
    }
    let lost = respond("kv_put", 200, "false").unwrap_err();
    assert!(!lost.maybe_applied() && !lost.is_retryable());
}

#[test]
fn a_web_page_is_neither_a_success_without_a_value_nor_an_absent_key() {
    for (method, status) in [("agent_service_register", 200), ("kv_get", 404)] {
        let page = Response::builder()
            .status(status)
            .header("content-type", "text/html; charset=utf-8")
            .body(Bytes::from_static(b"<html>Please log in</html>"))
            .expect("a response");
        let error = request(method).check(page).unwrap_err();
        assert_eq!(error.kind(), Kind::Decode);
        assert!(error.message().contains("Please log in"), "{error}");
    }
}

#[test]
fn two_indexes_that_differ_are_none() {
    for (first, second, index) in [("7", "7", Some(7)), ("7", "8", None), ("8", "7", None)] {
        let response = Response::builder().status(404);
        let response = response.header("x-consul-index", first).header("x-consul-index", second);
        let outcome = request("kv_get").check(response.body(Bytes::new()).unwrap());
        let found = outcome.map(|success| success.answer().meta.index);
        assert_eq!(found.map_err(|error| error.kind()), index.map(Some).ok_or(Kind::Decode));
    }
}

#[test]
fn an_absent_key_has_an_index_and_an_unknown_endpoint_has_not() {
    let check = |method, name, value| {
        let response = Response::builder().status(404).header(name, value);
        let outcome = request(method).check(response.body(Bytes::new()).unwrap());
        outcome.map(|success| success.answer().value).map_err(|error| error.kind())
    };
    assert_eq!(check("kv_get", "x-consul-index", "7"), Ok(Value::Null));
    for (name, value) in [("vary", "Accept-Encoding"), ("date", "Sat, 21 Nov 2026 12:00:00 GMT")] {
        assert_eq!(check("kv_get", name, value), Err(Kind::Decode), "{name}");
    }
    assert_eq!(
        check("peering_read", "date", "Sat, 21 Nov 2026 12:00:00 GMT"),
        Err(Kind::Unsupported)
    );
    for name in ["vary", "x-consul-index"] {
        assert_eq!(check("peering_read", name, "7"), Err(Kind::Decode), "{name}");
    }
}

#[test]
fn a_list_of_none_is_an_answer_only_to_a_query() {
    for (method, is_answer) in [
        ("session_renew", false),
        ("session_info", true),
        ("query_read", true),
        // Consul answers 404.
        ("kv_list", false),
        ("kv_keys", false),
    ] {
        let response = Response::builder().status(200).header("x-consul-index", "7");
        let response = response.body(Bytes::from_static(b"[]")).expect("a response");
        assert_eq!(request(method).check(response).is_ok(), is_answer, "{method}");
    }
}

#[test]
fn a_compressed_answer_is_refused_by_name() {
    let body = Bytes::from(format!("[{}]", entry("a")));
    for (status, coding) in [(200, "gzip"), (200, "br"), (404, "gzip"), (503, "deflate")] {
        let response = Response::builder().status(status).header("content-encoding", coding);
        let error = request("kv_get").check(response.body(body.clone()).unwrap()).unwrap_err();
        assert_eq!((error.kind(), error.status()), (Kind::Decode, Some(status)));
        assert!(error.message().contains(&format!("Content-Encoding: {coding}")), "{error}");
    }
    let response = Response::builder().header("content-encoding", "identity");
    assert!(request("kv_get").check(response.body(body).unwrap()).is_ok());
}

#[test]
fn a_broken_answer_is_quoted() {
    for (method, body) in [
        ("kv_get", "<html>It works!</html>"),
        (
            "kv_get",
            r#"[{"Key":"a","Value":"%%%","Flags":0,"LockIndex":0,"CreateIndex":1,"ModifyIndex":1}]"#,
        ),
        ("kv_list", r#"[{"Key":"a","Value":"%%%"}]"#),
        ("kv_put", "maybe"),
        ("session_create", "{}"),
        ("catalog_nodes", "[{"),
        ("txn", "[]"),
    ] {
        let error = respond(method, 200, body).unwrap_err();
        assert_eq!(error.kind(), Kind::Decode, "{method} {body}");
        assert!(error.message().contains(&body[..2]), "{error}");
    }
}

fn entry(key: &str) -> String {
    format!(
        r#"{{"Key":"{key}","Value":"dg==","Flags":0,"LockIndex":0,"CreateIndex":1,"ModifyIndex":1}}"#
    )
}

/// The result of a read of the key or prefix `a é` for these entries.
fn read(method: &str, entries: &[&str]) -> Result<Answer, Error> {
    let args = Args::new().arg("a é");
    let request = endpoint(method).unwrap().request(&args, &Defaults::default()).unwrap();
    let body = format!("[{}]", entries.join(","));
    Ok(request.check(Response::new(Bytes::from(body)))?.answer())
}

#[test]
fn an_answer_about_another_key_is_refused_without_its_value() {
    let (own, escaped, longer) = (entry("a é"), entry(r"a \u00e9"), entry("a é/b"));
    for good in [&own, &escaped] {
        assert_eq!(read("kv_get", &[good]).unwrap().value, "v".into());
    }
    for other in [&*longer, &entry("b"), &entry("a%20é"), &entry(""), &entry("A É")] {
        let error = read("kv_get", &[other]).unwrap_err();
        assert_eq!(error.kind(), Kind::Decode);
        assert!(error.message().contains("the answer is about the key"), "{error}");
        assert!(!error.message().contains("dg=="), "{error}");
    }
    assert!(read("kv_get", &[&own, &longer]).is_err());
    assert_eq!(read("kv_list", &[&own, &longer]).unwrap().value.items().len(), 2);
    for entries in [&[&*own, &entry("a")][..], &[&entry("b")]] {
        let error = read("kv_list", entries).unwrap_err();
        assert!(error.message().contains("the answer is about the key"), "{error}");
    }
}

#[test]
fn a_body_that_is_not_a_list_of_entries_is_refused() {
    for method in ["kv_get", "kv_list"] {
        for body in ["true", "5", "1.5", r#""x""#, "null", "{}", r#"{"Key":"a"}"#] {
            let error = respond(method, 200, body).unwrap_err();
            assert_eq!(error.kind(), Kind::Decode, "{method} {body}");
        }
        let entry = entry("a é");
        let entry = |value: &str| entry.replace(r#""dg==""#, value);
        let twice = entry(r#""dg==","Key":"a é""#);
        let mut entries = vec!["5".to_owned(), "null".to_owned(), "{}".to_owned(), twice];
        entries.push(format!("[{}]", entry(r#""dg==""#)));
        entries.push(entry(r#""dg==","Value":"dw==""#));
        entries.extend(["5", "-1", "1.5", "true", "[]", r#"{"a":"dg=="}"#].map(entry));
        for entry in entries {
            let error = read(method, &[&entry]).unwrap_err();
            assert_eq!(error.kind(), Kind::Decode, "{method} {entry}");
        }
        assert!(read(method, &[&entry("null")]).is_ok());
    }
    assert!(read("kv_get", &[]).is_err());
    assert!(read("kv_list", &[]).is_err(), "no entries are a 404");
    let (own, other) = (entry("a é"), entry("a é").replace("dg==", "dw=="));
    let error = read("kv_get", &[&own, &other]).unwrap_err();
    assert_eq!(error.kind(), Kind::Decode, "one key has one entry");
}

#[test]
fn agent_health_is_data_whatever_its_status() {
    let body = r#"{"AggregatedStatus":"warning","Checks":[],"Service":{"ID":"a","Service":"a"}}"#;
    for status in [200, 429, 503] {
        let answer = respond("agent_health_service_id", status, body).unwrap();
        assert_eq!(answer.value.get("AggregatedStatus"), Some(&"warning".into()));
    }
    for (method, said, body, value) in [
        ("agent_health_service_id", "ServiceId a not found", "{}", Value::Null),
        ("agent_health_service_name", "ServiceName a Not Found", "[]", Value::List(Vec::new())),
    ] {
        let response = Response::builder().status(404).header("x-consul-reason", said);
        let success = request(method).check(response.body(Bytes::from(body)).unwrap()).unwrap();
        assert_eq!(success.answer().value, value);
    }
    for (status, kind) in [(429, Kind::RateLimited), (503, Kind::Http)] {
        let error = respond("agent_health_service_id", status, "<html>Busy</html>").unwrap_err();
        assert_eq!(error.kind(), kind, "a proxy's");
    }
}

#[test]
fn large_integers_are_exact() {
    let body = r#"{"Memory":18446744073709551615,"CPU":9007199254740993,"Host":0}"#;
    let answer = respond("agent_host", 200, body).unwrap();
    assert_eq!(answer.value.get("Memory"), Some(&Value::Uint(u64::MAX)));
    assert_eq!(answer.value.get("CPU"), Some(&Value::Int(9_007_199_254_740_993)));
}

/// Other names than the requested one.
type Other = fn(&str) -> String;

/// A body of a form, whose names are those that were asked for. `other` changes one of them, by its place.
struct Body<'a> {
    asked: &'a dyn Fn(&str) -> String,
    other: Option<(usize, Other)>,
    names: usize,
}

impl Body<'_> {
    fn name(&mut self, parameter: &str) -> String {
        self.names += 1;
        let asked = (self.asked)(parameter);
        match self.other {
            Some((place, other)) if place == self.names - 1 => other(&asked),
            _ => asked,
        }
    }

    fn json(&mut self, form: &Form) -> serde_json::Value {
        use serde_json::json;
        match form {
            Form::Any | Form::Text => json!("t"),
            // The body does not say it.
            Form::Given(member) if member.starts_with(char::is_uppercase) => json!("t"),
            Form::Nothing => json!(null),
            Form::Bool => json!(true),
            Form::Number => json!(1),
            Form::Bytes => json!("dg=="),
            Form::Address => json!("a:1"),
            Form::Name | Form::NameOrId | Form::Key => self.name("").into(),
            Form::Under => (self.name("") + "/x").into(),
            Form::Given(parameter) => self.name(parameter).into(),
            Form::OrNull(form) | Form::Some(form) => self.json(form),
            Form::List(item) | Form::Entries(item) => json!([self.json(item)]),
            Form::Map(each) => json!({"x": self.json(each)}),
            Form::ByGiven(parameter, each) => json!({self.name(parameter): self.json(each)}),
            Form::Object(members) => {
                let each = members.iter().map(|it| (it.name.to_owned(), self.json(&it.form)));
                serde_json::Value::Object(each.collect())
            }
        }
    }
}

/// The rows with an object in their path that their answers do not name, and why.
const UNNAMED: &[(&str, &str)] = &[
    ("catalog_connect", "a proxy has another name than the service"),
    ("health_connect", "the same"),
    ("health_ingress", "a gateway has another name than the service"),
    ("acl_token_clone", "the clone has another id"),
    ("acl_templated_policy_preview", "the policy has a name that Consul makes"),
    ("query_execute", "only the service is named"),
    ("query_explain", "a template has another name, or none"),
];

/// The rows with an object in their query.
const IN_QUERY: [&str; 3] = ["connect_intention_exact", "connect_intention_match", "event_list"];

#[test]
fn an_answer_of_any_row_that_names_its_object_names_the_one_that_was_asked_for() {
    let (mut named, mut unnamed) = (Vec::new(), Vec::new());
    for row in crate::endpoints() {
        let value = |name: &str, shape: &Shape| match shape {
            Shape::OneOf(names) => names[names.len() - 1].to_owned(),
            _ => format!("own {name}"),
        };
        let mut args = Args::new();
        for param in row.positional.iter().filter(|param| !param.optional) {
            args = args.arg(match param.kind {
                Shape::Objects(_) => Value::List(Vec::new()),
                Shape::Object(_) | Shape::Free(_) | Shape::Any => Value::Map(Vec::new()),
                Shape::Bool => true.into(),
                _ => value(param.name, &param.kind).into(),
            });
        }
        if row.name == "event_list" {
            args = args.opt("name", "own name");
        }
        let request = row.request(&args, &Defaults::default()).expect(row.name);
        let asked = |parameter: &str| match parameter {
            "" => percent_decode_str(row.subject(request.http.uri().path()))
                .decode_utf8_lossy()
                .into_owned(),
            _ => request.given(parameter).pop().expect("it is given"),
        };
        let check = |other: Option<(usize, Other)>| {
            let mut body = Body { asked: &asked, other, names: 0 };
            let json = body.json(&row.form).to_string();
            let response = Response::builder().header("x-consul-index", "7");
            let response = response.body(Bytes::from(json.clone())).expect("a response");
            (request.check(response), body.names, json)
        };
        let (own, names, body) = check(None);
        if names == 0 {
            let is_decoded = matches!(row.form, Form::Nothing | Form::Map(Form::Nothing));
            if row.path.contains('{') && !is_decoded && row.reply != Reply::Body {
                unnamed.push(row.name);
            }
            continue;
        }
        named.push(row.name);
        own.unwrap_or_else(|error| panic!("{} {body}: {error}", row.name));
        const OTHERS: [Other; 3] =
            [|_| "another".to_owned(), |_| String::new(), |own| own[1..].to_owned()];
        for place in 0..names {
            for other in OTHERS {
                let (outcome, _, body) = check(Some((place, other)));
                let error = outcome.expect_err(&body);
                assert_eq!(error.kind(), Kind::Decode, "{} {body}: {error}", row.name);
                assert!(error.message().contains("the answer is about"), "{}: {error}", row.name);
                assert!(!error.message().contains("dg=="), "{}: {error}", row.name);
                assert!(!row.secret || !error.message().contains("\"another\""), "{error}");
            }
            // Only keys differ by their case.
            let (outcome, _, body) = check(Some((place, |own| own.to_uppercase())));
            assert_eq!(outcome.is_ok(), !row.name.starts_with("kv_"), "{} {body}", row.name);
        }
    }
    assert_eq!(unnamed, UNNAMED.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    assert!(IN_QUERY.iter().all(|row| named.contains(row)), "{named:?}");
    assert!(named.len() > 35, "{}", named.len());
}

/// Consul's index is a number above 0: `setIndex` in its agent/http.go.
#[test]
fn an_index_that_is_none_proves_no_absence() {
    for row in crate::endpoints().filter(|row| row.missing_header == Some("x-consul-index")) {
        for (index, is_absent) in [
            ("7", true),
            ("18446744073709551615", true),
            ("", false),
            ("0", false),
            ("-1", false),
            ("1.5", false),
            ("abc", false),
            ("null", false),
            ("1, 2", false),
            ("18446744073709551616", false),
        ] {
            let response = Response::builder().status(404).header("x-consul-index", index);
            let response = response.body(Bytes::new()).expect("a response");
            let checked = request(row.name).check(response);
            let is_decode = checked.as_ref().is_err_and(|error| error.kind() == Kind::Decode);
            assert_eq!(
                (checked.is_ok(), is_decode),
                (is_absent, !is_absent),
                "{} {index}",
                row.name
            );
        }
    }
}

/// An agent writes its words before the words of the server that it asked, and that one before the words of another
/// datacenter's.
#[test]
fn an_absence_is_one_through_any_number_of_agents() {
    for row in crate::endpoints() {
        for text in row.missing {
            let text = format!("{text}'a' \"a\" a");
            let said = |agents: usize| {
                let body = format!("{}{text}", "rpc error making call: ".repeat(agents));
                match respond(row.name, 404, &body) {
                    Ok(answer) => Ok(answer.value),
                    Err(error) => Err((error.kind(), error.is_retryable())),
                }
            };
            let alone = said(0);
            let is_absence =
                matches!(&alone, Ok(_) | Err((Kind::NotFound | Kind::SessionInvalid, _)));
            assert!(is_absence, "{}: {alone:?} {text}", row.name);
            for agents in [1, 2, 3] {
                assert_eq!(said(agents), said(0), "{}: {agents} {text}", row.name);
            }
        }
    }
}

#[test]
fn a_name_that_consul_writes_with_escapes_is_not_looked_for() {
    let row = endpoint("agent_check_pass").expect("a row");
    let request = row.request(&Args::new().arg("a\"b"), &Defaults::default()).expect("a name");
    let absent = Response::builder().status(404).body(Bytes::from(r#"Unknown check ID "a\"b""#));
    let error = request.check(absent.expect("a response")).expect_err("an absence");
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

#[test]
fn an_empty_404_of_a_server_that_tells_its_name_is_not_that_of_an_old_consul() {
    for row in crate::endpoints().filter(|row| row.reply != Reply::Body) {
        for name in ["envoy", "nginx", "istio-envoy", "Apache"] {
            let response = Response::builder().status(404).header("server", name);
            let response = response.body(Bytes::new()).expect("a response");
            let kind = request(row.name).check(response).expect_err("no absence").kind();
            assert_eq!(kind, Kind::Decode, "{} {name}", row.name);
        }
    }
}

#[test]
fn the_option_for_credentials_is_named_where_it_helps() {
    for (scheme, helps) in
        [("Basic realm=\"a\"", true), ("basic", true), ("Bearer", false), ("", false)]
    {
        let response = Response::builder().status(401).header("www-authenticate", scheme);
        let error = request("kv_get").check(response.body(Bytes::new()).expect("a response"));
        let error = error.expect_err("a refusal");
        assert_eq!(error.message().contains("set http_auth"), helps, "{error}");
    }
}

/// Go's `unicode.IsPrint` decides.
#[test]
fn a_name_that_cannot_be_printed_is_refused_before_it_is_sent() {
    let unprintable =
        ["\u{200b}", "\u{2028}", "\u{e000}", "\u{a0}", "\u{feff}", "\u{3000}", "\u{ad}", "\n"];
    for row in crate::endpoints() {
        let in_path = |param: &&crate::table::Param| param.location == Location::Path;
        let Some(place) = row.positional.iter().position(|param| in_path(&param)) else { continue };
        if !matches!(
            row.positional[place].kind,
            Shape::Key | Shape::KeyPrefix | Shape::Name | Shape::Segment | Shape::Text
        ) {
            continue;
        }
        for character in unprintable {
            let mut args = Args::new();
            for (number, param) in row.positional.iter().enumerate().filter(|(_, it)| !it.optional)
            {
                args = match param.kind {
                    _ if number == place => args.arg(format!("a{character}b")),
                    Shape::Objects(_) => args.arg(Value::List(Vec::new())),
                    Shape::Object(_) | Shape::Free(_) | Shape::Any => {
                        args.arg(Value::Map(Vec::new()))
                    }
                    _ => args.arg("a"),
                };
            }
            let refused = row.request(&args, &Defaults::default());
            let kind = refused.map(drop).expect_err("a refusal").kind();
            assert_eq!(kind, Kind::Argument, "{} {character:?}", row.name);
        }
    }
}

/// In the forms in which programs repeat a request: with its text as it is, as a text in JSON, in HTML and in a URL.
#[test]
fn what_another_program_repeats_of_a_request_has_none_of_its_secrets() {
    for secret in ["s3cr3t\"VALUE77", "s3c$w0r!dVA&E77<", "123456789"] {
        assert_hidden(secret);
    }
}

fn assert_hidden(secret: &str) {
    let mut errors = 0;
    let text = || Value::from(secret);
    let member = |name: &str, value: Value| Value::Map(vec![(name.to_owned(), value)]);
    let list = |value: Value| Value::List(vec![value]);
    let bodies = [
        ("agent_token", vec!["default".into(), member("Token", text())]),
        ("operator_keyring_install", vec![member("Key", text())]),
        ("peering_establish", vec![member("PeeringToken", text())]),
        ("query_create", vec![member("Token", text())]),
        ("config_write", vec![member("PrivateKey", text())]),
        ("config_write", vec![member("Config", member("password", text()))]),
        ("config_write", vec![member("AnyOther", text())]),
        ("agent_check_register", vec![member("Header", member("X-Api-Key", list(text())))]),
        ("acl_login", vec![member("BearerToken", text())]),
        ("kv_put", vec!["a".into(), text()]),
        ("kv_put", vec!["a".into(), format!("{{\"password\": {secret:?}}}").into()]),
        ("PUT", vec!["/v1/agent/token/default".into(), format!("{{\"Token\":{secret:?}}}").into()]),
        (
            "GET",
            vec![
                format!(
                    "/v1/kv/a?token={}",
                    percent_encoding::utf8_percent_encode(
                        secret,
                        percent_encoding::NON_ALPHANUMERIC
                    )
                )
                .into(),
            ],
        ),
        ("PUT", vec!["/v1/any".into(), text()]),
    ];
    for (method, args) in bodies {
        let args = args.into_iter().fold(Args::new(), Args::arg);
        let row = endpoint(method).or_else(|| crate::api::raw::endpoint(method)).expect("a method");
        let request = row.request(&args, &Defaults::default()).expect("the arguments are good");
        let sent = String::from_utf8_lossy(request.http.body()).into_owned();
        let sent = format!("{} {sent}", request.http.uri());
        let echoes = [
            format!("<pre>Cannot do {sent}</pre>"),
            serde_json::json!({ "data": sent }).to_string(),
            serde_json::json!({ "json": serde_json::from_slice::<serde_json::Value>(request.http.body()).ok(), "url": sent }).to_string(),
            sent.replace('"', "&quot;"),
            format!("{}<p>", percent_encoding::utf8_percent_encode(&sent, percent_encoding::NON_ALPHANUMERIC)),
        ];
        for (echo, status) in
            echoes.iter().flat_map(|echo| [200, 404, 400, 500].map(|status| (echo, status)))
        {
            let response = Response::builder().status(status).body(Bytes::from(echo.clone()));
            let Err(error) = request.check(response.expect("a response")) else { continue };
            // Consul's own texts may repeat what has a name that is not a secret's.
            if error.kind() != Kind::Decode && sent.contains("AnyOther") {
                continue;
            }
            let shown = format!("{error} {error:?}");
            errors += 1;
            for part in [&secret[..6], &secret[secret.len() - 6..]] {
                assert!(!shown.contains(part), "{method} {status}: {shown}");
            }
        }
    }
    assert!(errors > 100, "{errors}");
}

/// The answer is about the subject that the body asks for or names.
#[test]
fn an_answer_about_what_the_body_does_not_name_is_refused() {
    let one = r#"{"Resource":"key","Segment":"a","Access":"write","Allow":true}"#;
    let object = |members: &[(&str, &str)]| {
        Value::Map(members.iter().map(|(name, it)| ((*name).to_owned(), (*it).into())).collect())
    };
    let question = object(&[("resource", "key"), ("segment", "a"), ("access", "write")]);
    let all = object(&[("resource", "operator"), ("segment", ""), ("access", "read")]);
    let of_all = r#"{"Resource":"operator","Access":"read","Allow":true}"#;
    let of_all_named = r#"{"Resource":"operator","Segment":"","Access":"read","Allow":true}"#;
    let of_two = vec![question.clone(), all];
    for (method, body, answer, is_taken) in [
        ("acl_authorize", Value::List(vec![question.clone()]), format!("[{one}]"), true),
        ("acl_authorize", Value::List(vec![question.clone()]), "[]".to_owned(), false),
        ("acl_authorize", Value::List(vec![question.clone(); 2]), format!("[{one}]"), false),
        (
            "acl_authorize",
            Value::List(vec![question]),
            format!("[{}]", one.replace(r#""a""#, r#""b""#)),
            false,
        ),
        ("acl_authorize", Value::List(Vec::new()), "[]".to_owned(), true),
        ("acl_authorize", Value::List(of_two.clone()), format!("[{one},{of_all}]"), true),
        ("acl_authorize", Value::List(of_two), format!("[{one},{of_all_named}]"), true),
        (
            "acl_policy_create",
            object(&[("Name", "p")]),
            r#"{"ID":"1","Name":"p"}"#.to_owned(),
            true,
        ),
        (
            "acl_policy_create",
            object(&[("name", "p")]),
            r#"{"ID":"1","Name":"q"}"#.to_owned(),
            false,
        ),
        ("acl_role_create", object(&[("Name", "p")]), r#"{"ID":"1","Name":"q"}"#.to_owned(), false),
        (
            "acl_auth_method_create",
            object(&[("name", "p")]),
            r#"{"Name":"q","Type":"jwt"}"#.to_owned(),
            false,
        ),
        (
            "acl_binding_rule_create",
            object(&[("AuthMethod", "p")]),
            r#"{"ID":"1","AuthMethod":"q"}"#.to_owned(),
            false,
        ),
        (
            "acl_token_create",
            object(&[("SecretID", "p")]),
            r#"{"AccessorID":"1","SecretID":"q"}"#.to_owned(),
            false,
        ),
        ("acl_token_create", object(&[]), r#"{"AccessorID":"1","SecretID":"q"}"#.to_owned(), true),
    ] {
        let row = endpoint(method).expect("a method");
        let request = row.request(&Args::new().arg(body), &Defaults::default());
        let response = Response::new(Bytes::from(answer.clone()));
        let checked = request.expect("the arguments are good").check(response);
        assert_eq!(checked.is_ok(), is_taken, "{method} {answer}: {:?}", checked.err());
    }
}

/// Consul finds a node by its name in any case, and by the beginning of its id.
#[test]
fn a_node_is_found_by_its_name_or_the_beginning_of_its_id() {
    for method in ["catalog_node", "catalog_node_services"] {
        for (asked, is_taken) in
            [("n1", true), ("N1", true), ("n2", false), ("b4", true), ("B4F8-", true), ("b", false)]
        {
            let row = endpoint(method).expect("a method");
            let request = row.request(&Args::new().arg(asked), &Defaults::default());
            let response = Response::builder().header("x-consul-index", "7");
            let body = r#"{"Node":{"ID":"b4f8","Node":"n1","Address":"10.0.0.1"},"Services":null}"#;
            let response = response.body(Bytes::from(body)).expect("a response");
            let checked = request.expect("the arguments are good").check(response);
            assert_eq!(checked.is_ok(), is_taken, "{method} {asked}: {:?}", checked.err());
        }
    }
}

#[test]
fn an_empty_id_and_an_index_of_0_are_not_consuls() {
    for (method, body) in [
        ("session_create", r#"{"ID":""}"#),
        (
            "kv_get",
            r#"[{"Key":"a","Value":"dg==","Flags":0,"LockIndex":0,"CreateIndex":0,"ModifyIndex":0}]"#,
        ),
    ] {
        let error = respond(method, 200, body).expect_err(method);
        assert_eq!(error.kind(), Kind::Decode, "{error}");
    }
}
