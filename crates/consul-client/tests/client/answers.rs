//! Answers that are not Consul's: from a router, a login page, another program on the port. None of them is a success,
//! an absence or an empty list, for any row and for anything that waits on a row.

use crate::methods::sample;
use crate::support::between::{ANSWERS, Between, answer};
use crate::support::lines::logged;
use crate::support::world::World;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::request::{Args, Defaults, Request};
use consul_api::response::Answer;
use consul_api::table::{Absent, Endpoint, Repeat, Reply, Shape};
use consul_api::value::Value;
use consul_api::{self, api::kv};
use consul_client::transport::Transport;
use consul_client::view::{EMPTY_HOLD, view};
use consul_client::views::{Wanted, views};
use consul_client::watch::{Change, WatchOptions, watch};
use consul_client::{Client, Settings};
use consul_process::clock::{BoxFuture, Clock};
use futures_util::StreamExt;
use http::Response;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;
use tracing::Level;

/// Bodies that other programs send with 200 and with errors.
const BODIES: &[&str] = &[
    // Login pages, routers and proxies.
    r#"{"error":"please log in"}"#,
    r#"{"error":{"code":404,"message":"not found"}}"#,
    r#"{"message":"no Route matched with those values","request_id":"5f"}"#,
    r#"{"timestamp":"2026-11-25T03:00:00Z","status":404,"error":"Not Found","path":"/v1/kv/a"}"#,
    "<html><body>It works!</body></html>",
    "<html><head><title>404 Not Found</title></head><body><center>nginx</center></body></html>",
    "404 page not found\n",
    "default backend - 404",
    "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
    // etcd and Vault.
    r#"{"error":"not found","code":5,"message":"not found","details":[]}"#,
    r#"{"code":5,"message":"Not Found"}"#,
    r#"{"errors":["permission denied"],"warnings":{}}"#,
    r#"{"request_id":"","lease_id":"","renewable":false,"data":{"keys":["a"]},"warnings":null}"#,
    // JSON of other shapes, cut or doubled.
    r#"[{"error":"please log in"}]"#,
    "[5]",
    "[null]",
    "[[]]",
    "[true,false]",
    "[{}]",
    r#"{"a":5}"#,
    r#"{"a":"b"}"#,
    r#"{"a":{}}"#,
    "5",
    "-1.5e3",
    "false!",
    "nil",
    "null null",
    "true true",
    "[][]",
    "{}{}",
    "[",
    "{",
    r#"[{"Key":"a""#,
    "\u{feff}[]",
    "ok",
    "OK\n",
];

/// JSON that is the right form of some rows: its kind, and its rows, by the beginnings of their names.
const RIGHT_FOR_SOME: &[(&str, &[&str])] = &[
    // Of a service, of keys below a node and of kinds of entries there may be none; old releases send null for lists.
    ("null", &["catalog_node", "catalog_gateway_services"]),
    ("true", &APPLIED),
    (r#""10.0.0.1:8300""#, &["status_leader"]),
    (r#""x""#, &[]),
    (r#"["x"]"#, &["catalog_datacenters"]),
    (r#"["a/b"]"#, &["catalog_datacenters", "kv_keys"]),
    (
        "{}",
        &[
            "agent_services",
            "agent_checks",
            "catalog_services",
            "config_delete",
            "peering_establish",
        ],
    ),
];

/// The operations that answer `true`.
const APPLIED: [&str; 17] = [
    "kv_put",
    "kv_delete",
    "session_destroy",
    "catalog_register",
    "catalog_deregister",
    "config_write",
    "operator_autopilot_configuration_update",
    "acl_logout",
    "acl_token_delete",
    "acl_policy_delete",
    "acl_role_delete",
    "acl_auth_method_delete",
    "acl_binding_rule_delete",
    "connect_intention_upsert",
    "connect_intention_delete",
    "connect_intention_delete_by_id",
    "kv_delete_tree",
];

fn request(row: &'static Endpoint) -> Request {
    let required = row.positional.iter().filter(|param| !param.optional);
    let args = required.fold(Args::new(), |args, param| args.arg(sample(param)));
    row.request(&args, &Defaults::default()).expect("the arguments are good")
}

fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Response<Bytes> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Bytes::copy_from_slice(body.as_bytes())).expect("a response")
}

/// The headers that an answer may have: none, what a cache adds, and what a server before Consul has left of it.
const HEADERS: &[&[(&str, &str)]] = &[
    &[],
    &[("content-type", "application/json"), ("vary", "Accept-Encoding")],
    &[("content-type", "text/html"), ("x-consul-index", "7"), ("x-consul-knownleader", "true")],
    &[("content-type", "text/plain"), ("x-consul-reason", "no such route")],
];

/// Checks what a row says to an answer that is not Consul's.
fn refuses(
    row: &'static Endpoint,
    status: u16,
    headers: &[(&str, &str)],
    body: &str,
    wrong: &mut Vec<String>,
) {
    let request = request(row);
    let outcome: Result<Answer, Error> =
        request.check(response(status, headers, body)).map(|success| success.answer());
    let is_refused = |error: &Error| {
        error.kind() == Kind::Decode && (row.repeat == Repeat::Read || error.maybe_applied())
    };
    if !outcome.as_ref().is_err_and(is_refused) {
        let said = outcome
            .map(|answer| answer.value)
            .map_err(|error| (error.kind(), error.message().to_owned()));
        wrong.push(format!("{} {status} {headers:?} {body}: {said:?}", row.name));
    }
    if row.secret
        && body.len() > 20
        && let Err(error) = request.check(response(status, headers, body))
    {
        assert!(!error.message().contains(body.trim()), "{error}");
    }
}

fn fail_with(wrong: &[String]) {
    let shown = wrong.iter().take(60).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} answers were taken for Consul's:\n{shown}", wrong.len());
}

#[test]
fn no_row_takes_another_programs_200_for_a_success() {
    let mut wrong = Vec::new();
    for row in consul_api::endpoints() {
        let others = RIGHT_FOR_SOME.iter().filter(|(_, rows)| !rows.contains(&row.name));
        for body in BODIES.iter().copied().chain(others.map(|(body, _)| *body)) {
            for headers in HEADERS {
                refuses(row, 200, headers, body, &mut wrong);
            }
        }
    }
    fail_with(&wrong);
}

#[test]
fn no_row_takes_another_programs_404_for_an_absence() {
    let mut wrong = Vec::new();
    for row in consul_api::endpoints() {
        let right = RIGHT_FOR_SOME.iter().map(|(body, _)| *body);
        for body in BODIES.iter().copied().chain(right).chain(["[]", "not found", "Not Found"]) {
            for headers in HEADERS {
                refuses(row, 404, headers, body, &mut wrong);
            }
        }
    }
    fail_with(&wrong);
}

/// The page of a firewall, a login, a gateway: Consul's errors are plain text.
#[test]
#[ignore = "computes long: make test-all"]
fn no_row_takes_another_programs_error_for_its_own() {
    // With plain text these may be Consul's.
    const OWN: [u16; 4] = [400, 413, 415, 500];
    const OTHERS: [u16; 34] = [
        300, 301, 302, 303, 305, 307, 308, 401, 402, 403, 405, 406, 407, 409, 410, 411, 412, 414,
        416, 417, 418, 421, 422, 423, 424, 426, 428, 431, 451, 501, 505, 507, 508, 511,
    ];
    let mut wrong = Vec::new();
    let is_page = |body: &&str| body.is_empty() || body.starts_with(['<', '{', '[']);
    let right = RIGHT_FOR_SOME.iter().map(|(body, _)| *body);
    let texts = ["", "RBAC: access denied", "Unauthorized", "Method Not Allowed", "\n"];
    let bodies: Vec<&str> = BODIES.iter().copied().chain(right).chain(texts).collect();
    for row in consul_api::endpoints() {
        for status in OWN.into_iter().chain(OTHERS) {
            let is_own = OWN.contains(&status);
            for body in bodies.iter().copied().filter(|body| !is_own || is_page(body)) {
                for headers in HEADERS {
                    refuses(row, status, headers, body, &mut wrong);
                }
            }
        }
    }
    fail_with(&wrong);
}

/// Consul, or Go's server in it, says each of these.
#[test]
fn consuls_own_errors_are_not_taken_for_another_programs() {
    let get = |path: &str| {
        let raw = consul_api::api::raw::endpoint("GET").expect("a method");
        raw.request(&Args::new().arg(path), &Defaults::default()).expect("a path")
    };
    for (path, status, body) in [
        ("/v1/kv/a", 431, "431 Request Header Fields Too Large"),
        ("/v1/kv/a%01", 400, ""),
        ("/v1/catalog/nodes?filter=a;b", 500, ""),
        ("/v1/catalog/nodes?dc=%25zz", 500, "No path to datacenter"),
        ("/v1/kv/a", 403, "Permission denied: token with AccessorID 'x' lacks permission"),
        ("/v1/kv/a", 403, "rpc error making call: ACL not found"),
        ("/v1/kv/a", 403, "Endpoint is blocked by agent configuration"),
        ("/v1/kv/a", 403, "Access is restricted"),
        (
            "/v1/peerings",
            403,
            "a new peering token must be generated: invalid peering establishment secret",
        ),
        ("/v1/peerings", 500, "{x} is not a valid peer name"),
        ("/v1/peerings", 500, "[a] is not a valid peer name"),
        ("/v1/kv/a", 500, "[FAILED] deleting serviceIndex"),
        ("/v1/acl/tokens", 401, "ACL support disabled"),
        ("/v1/kv/a", 405, "method PATCH not allowed"),
        ("/v1/kv/a?keys&recurse", 200, r#"["a/x"]"#),
        ("/v1/event/list?name=my+deploy", 200, "[]"),
        ("/v1/event/list?name=my+deploy", 200, r#"[{"ID":"1","Name":"my deploy","Payload":null}]"#),
        // JSON has no such byte.
        (
            "/v1/kv/a%FF",
            200,
            r#"[{"Key":"a\ufffd","Value":null,"Flags":0,"LockIndex":0,"CreateIndex":1,"ModifyIndex":1}]"#,
        ),
    ] {
        let headers = [("x-consul-index", "7")];
        let outcome = get(path).check(response(status, &headers, body));
        let kind = outcome.as_ref().err().map(Error::kind);
        assert_ne!(kind, Some(Kind::Decode), "{path} {status} {body}: {outcome:?}");
        assert_eq!(outcome.is_ok(), status == 200, "{path} {status} {body}: {outcome:?}");
    }
}

/// They got no answer from Consul, or none in time, or let nobody through: a later try may succeed.
#[test]
fn the_errors_of_proxies_are_errors_of_every_row_that_may_be_tried_again() {
    let statuses = [408, 425, 429, 502, 503, 504].into_iter().chain(520..=529);
    let right = RIGHT_FOR_SOME.iter().map(|(body, _)| *body);
    let bodies: Vec<&str> = BODIES.iter().copied().chain(right).chain([""]).collect();
    for row in consul_api::endpoints() {
        for status in statuses.clone() {
            for (body, headers) in
                bodies.iter().flat_map(|body| HEADERS.iter().map(move |headers| (*body, *headers)))
            {
                let outcome = request(row).check(response(status, headers, body));
                let case = format!("{} {status} {headers:?} {body}", row.name);
                let error = outcome.expect_err(&case);
                assert!(matches!(error.kind(), Kind::Http | Kind::RateLimited), "{case}: {error}");
                assert!(error.is_retryable(), "{case}: {error}");
                // A request that was not let through was not applied.
                let is_refused = [425, 429].contains(&status);
                assert_eq!(error.maybe_applied(), !is_refused, "{case}: {error}");
            }
        }
    }
}

/// `http_request`, with which other libraries' names are served, knows the rows by their paths.
#[test]
fn a_request_to_the_path_of_a_row_takes_no_other_answer() {
    let mut count = 0;
    for row in consul_api::endpoints() {
        let own = request(row);
        let target = own.http.uri().to_string();
        let raw = consul_api::api::raw::endpoint(own.http.method().as_str()).expect("a method");
        for (whole, (status, body)) in
            [false, true].into_iter().flat_map(|whole| ANSWERS.iter().map(move |it| (whole, it)))
        {
            let args = Args::new().arg(target.as_str()).opt("full_response", whole);
            let mut asked = raw.request(&args, &Defaults::default()).expect("a path");
            *asked.http.body_mut() = own.http.body().clone();
            // A caller of the whole answer judges what a success has, if there is something.
            let is_callers =
                whole && *status == 200 && !["", "[]", "{}", "null"].contains(&body.trim());
            let (found, known) =
                (asked.check(answer(*status, body)), own.check(answer(*status, body)));
            let case = format!("{} {status} {body}: {found:?}", row.name);
            match known {
                Err(error) if error.kind() == Kind::Decode && !is_callers => {
                    count += 1;
                    assert_eq!(found.expect_err(&case).kind(), Kind::Decode, "{case}");
                }
                // Without the whole answer a status is an error.
                _ => assert!(found.is_ok() || !whole && *status != 200, "{case}"),
            }
        }
    }
    assert!(count > 3000, "{count}");
    // Another form is the caller's matter.
    for path in [
        "/v1/kv/a?raw",
        "/v1/agent/metrics?format=prometheus",
        "/v1/connect/ca/roots?pem=true",
        "/v1/unknown",
    ] {
        let raw = consul_api::api::raw::endpoint("GET").expect("a method");
        let asked = raw.request(&Args::new().arg(path), &Defaults::default()).expect("a path");
        asked.check(response(200, &[], "text")).expect(path);
    }
    for status in [200, 201, 202, 204] {
        let raw = consul_api::api::raw::endpoint("PUT").expect("a method");
        let args = Args::new().arg("/v1/unknown").arg("");
        let asked = raw.request(&args, &Defaults::default()).expect("a path");
        asked.check(response(status, &[], "")).expect("a success of a path without a row");
    }
}

#[test]
fn a_redirect_to_another_program_is_none_of_consuls_and_shows_no_password() {
    for row in consul_api::endpoints() {
        for location in [
            "https://user:pa55word@login.example/?to=/v1/kv/a",
            "http://login.example/#pa55word",
            "/login",
            "//evil.example/v1x",
            "https://login.example/v1/login",
        ] {
            let answer = response(302, &[("location", location)], "");
            let error = request(row).check(answer).expect_err(row.name);
            assert_eq!(error.kind(), Kind::Decode, "{}: {error}", row.name);
            assert!(!error.message().contains("pa55word"), "{error}");
        }
        let path = request(row).http.uri().path().to_owned();
        for (status, location) in [
            (307, path.clone()),
            (301, format!("{path}?a=b")),
            (308, format!("https://consul.example{path}")),
            (301, format!("https://consul.example/prefix{path}")),
            (302, format!("//consul.example{path}")),
            (302, path.trim_end_matches('/').rsplit_once('/').expect("a path").0.to_owned()),
        ] {
            let answer = response(status, &[("location", &location)], "");
            let error = request(row).check(answer).expect_err(row.name);
            assert_eq!(error.kind(), Kind::Decode, "{} {location}: {error}", row.name);
        }
    }
    // Consul has this one: of a path that is not clean.
    let raw = consul_api::api::raw::endpoint("GET").expect("a method");
    for (path, location) in
        [("/v1/kv//a%20b?raw", "/v1/kv/a%20b?raw"), ("/v1//catalog/nodes", "/v1/catalog/nodes")]
    {
        let asked = raw.request(&Args::new().arg(path), &Defaults::default()).expect("a path");
        let error = asked.check(response(301, &[("location", location)], "")).expect_err(path);
        assert_eq!(error.kind(), Kind::Argument, "{path}: {error}");
    }
}

/// Go's server sends it before a program has seen the request, and then ends the connection; so it is of another one.
#[test]
fn a_400_without_consuls_headers_may_be_that_of_another_request() {
    for row in consul_api::endpoints().filter(|row| row.repeat != Repeat::Read) {
        let refused = |headers: &[(&str, &str)], text: &str| {
            let error = request(row).check(response(400, headers, text)).expect_err(row.name);
            (error.kind(), error.maybe_applied())
        };
        let text = "400 Bad Request";
        assert!(refused(&[("content-type", "text/plain; charset=utf-8")], text).1, "{}", row.name);
        assert!(refused(&[], "400 Bad Request: missing required Host header").1, "{}", row.name);
        let own = [("vary", "Accept-Encoding")];
        assert_eq!(refused(&own, "Invalid x"), (Kind::Argument, false), "{}", row.name);
        let to_tls = "Client sent an HTTP request to an HTTPS server.";
        assert_eq!(refused(&[], to_tls), (Kind::Tls, false), "{}", row.name);
    }
}

/// As `resty.consul` sends them.
#[test]
fn a_whole_answer_that_is_empty_or_compressed_is_not_consuls() {
    for (method, path) in [("GET", "/v1/kv/a"), ("PUT", "/v1/kv/a"), ("PUT", "/v1/txn")] {
        let raw = consul_api::api::raw::endpoint(method).expect("a method");
        let args = Args::new().arg(path).opt("full_response", true);
        let asked = raw.request(&args, &Defaults::default()).expect("a path");
        let gzip = [("content-encoding", "gzip")];
        for answer in [response(200, &[], ""), response(200, &[], " \n"), response(200, &gzip, "x")]
        {
            let error = asked.check(answer).expect_err(path);
            assert_eq!(error.kind(), Kind::Decode, "{method} {path}: {error}");
        }
    }
}

/// Consul takes the names of a transaction's members in any case.
#[test]
fn a_transaction_by_its_path_is_judged_as_one_in_any_case() {
    let raw = consul_api::api::raw::endpoint("PUT").expect("a method");
    for body in [
        r#"[{"KV":{"Verb":"set","Key":"a","Value":"dg=="}}]"#,
        r#"[{"kv":{"verb":"set","key":"a","value":"dg=="}}]"#,
        r#"[{"Kv":{"VERB":"set","KEY":"a","VALUE":"dg=="}}]"#,
    ] {
        let args = Args::new().arg("/v1/txn").arg(body);
        let asked = raw.request(&args, &Defaults::default()).expect("a path");
        let good = format!(r#"{{"Results":[{ENTRY}],"Errors":null}}"#);
        asked.check(response(200, &[], &good)).expect(body);
        for wrong in ["", "<html>log in</html>", r#"{"error":"x"}"#, "true", "[]", "{}", "null"] {
            let error = asked.check(response(200, &[], wrong)).expect_err(wrong);
            let found = (error.kind(), error.maybe_applied());
            assert_eq!(found, (Kind::Decode, true), "{body} {wrong}: {error}");
        }
    }
}

/// As debugging pages, echo servers and some gateways do.
#[test]
fn an_answer_that_repeats_the_request_shows_none_of_its_secrets() {
    const TOKEN: &str = "5f0c2a4e-secret-token";
    let mut count = 0;
    for row in consul_api::endpoints() {
        let args = row.positional.iter().filter(|param| !param.optional);
        let args = args.fold(Args::new(), |args, param| match param.kind {
            Shape::Free(_) => {
                let inner = Value::Map(vec![("Token".to_owned(), "a-secret-of-the-body".into())]);
                args.arg(Value::Map(vec![("Config".to_owned(), inner)]))
            }
            _ => args.arg(sample(param)),
        });
        let args = args.opt("token", TOKEN);
        let request = row.request(&args, &Defaults::default()).expect("good arguments");
        let body = String::from_utf8_lossy(request.http.body()).into_owned();
        let is_secret = row.secret && body.contains("a-secret-of-the-body");
        count += usize::from(is_secret);
        for page in [
            format!("X-Consul-Token: {TOKEN}\r\nAuthorization: Basic dXNlcjpwYXNz\r\n\r\n{body}"),
            format!(
                r#"{{"headers":{{"x-consul-token":["{TOKEN}"],"AUTHORIZATION" : "Bearer dXNlcjpwYXNz"}},"body":{body:?}}}"#
            ),
            format!(
                "<td>authorization</td><td>Basic dXNlcjpwYXNz</td> you sent {TOKEN} and {body}"
            ),
            format!("<td>X-Consul-Token</td><td>{TOKEN}</td><td>dXNlcjpwYXNz</td>"),
            format!(r#"{{"name":"Authorization","value":"Basic dXNlcjpwYXNz","token":"{TOKEN}"}}"#),
            format!("token {TOKEN} is unknown"),
        ] {
            for status in [200, 301, 400, 401, 403, 404, 500, 502, 503] {
                let Err(error) = request.check(response(status, &[], &page)) else { continue };
                for secret in [TOKEN, "dXNlcjpwYXNz"] {
                    assert!(!error.message().contains(secret), "{} {status}: {error}", row.name);
                }
                let shows = error.message().contains("a-secret-of-the-body");
                assert!(!is_secret || !shows, "{} {status}: {error}", row.name);
            }
        }
    }
    assert!(count >= 2, "{count}");
}

/// Whether a row takes a text for the absence of its object is a matter of this row alone.
#[test]
fn an_objects_absence_is_said_by_the_texts_of_its_own_row() {
    let rows = || consul_api::endpoints().filter(|row| row.reply != Reply::Body);
    let texts: Vec<&str> = rows().flat_map(|row| row.missing).copied().collect();
    assert!(texts.len() > 30);
    for row in rows().filter(|row| row.absent != Absent::SessionInvalid) {
        let path = request(row).http.uri().path().to_owned();
        let named: Vec<String> =
            row.segments(&path).map(|(_, name)| format!("\"{name}\"")).collect();
        let named = named.join(" / ");
        for text in &texts {
            let begins = |own: &&str| text.to_lowercase().starts_with(&own.to_lowercase());
            let is_own = row.missing.iter().any(begins);
            for before in ["", "rpc error making call: "] {
                for (status, in_lower_case) in [(404, false), (500, false), (500, true)] {
                    let text = if in_lower_case { text.to_lowercase() } else { (*text).to_owned() };
                    let outcome = request(row).check(response(
                        status,
                        HEADERS[1],
                        &format!("{before}{text}{named}."),
                    ));
                    // The name of each sample is at the beginning of the one and at the end of the other.
                    for other in
                        ["another", "za"].into_iter().filter(|_| is_own && !named.is_empty())
                    {
                        let another = format!("{before}{text}\"{other}\"");
                        let error = request(row).check(response(status, HEADERS[1], &another));
                        let error = error.expect_err(&another);
                        let kind = if status == 404 { Kind::Decode } else { Kind::Http };
                        assert_eq!(error.kind(), kind, "{} {another}: {error}", row.name);
                    }
                    let case = format!("{} {status} {before}{text}: {outcome:?}", row.name);
                    match outcome {
                        Ok(_) => assert!(is_own && row.absent != Absent::Error, "{case}"),
                        Err(error) => {
                            assert_eq!(error.kind() == Kind::NotFound, is_own, "{case}");
                        }
                    }
                }
            }
        }
    }
}

/// Of objects of access control 1.8.7 says so with 403.
#[test]
fn only_rows_of_access_control_take_a_403_for_an_absence() {
    for row in consul_api::endpoints().filter(|row| !row.needs_acl && row.reply != Reply::Body) {
        for body in ["ACL not found", "Requested token does not exist: ACL not found"] {
            let headers = [("x-consul-knownleader", "true")];
            let error = request(row).check(response(403, &headers, body)).expect_err(row.name);
            assert_eq!(error.kind(), Kind::AclNotFound, "{}", row.name);
        }
    }
}

/// A cache, a stub or a gateway that answers for a service without instances.
#[test]
fn a_row_that_can_wait_takes_nothing_without_an_index_for_nothing() {
    let (mut wrong, mut empty) = (Vec::new(), 0);
    for row in consul_api::endpoints().filter(|row| row.can_block()) {
        for body in ["[]", "{}", "null", " [] \n"] {
            for headers in &HEADERS[..2] {
                refuses(row, 200, headers, body, &mut wrong);
            }
            let index = [("x-consul-index", "7")];
            empty += usize::from(request(row).check(response(200, &index, body)).is_ok());
        }
    }
    fail_with(&wrong);
    assert!(empty > 50, "{empty} are Consul's with an index");
}

/// Its lists of entries have one at least: that there are none is a 404.
#[test]
fn entries_are_no_empty_list() {
    let headers = [("x-consul-index", "7")];
    for row in [&kv::LIST, &kv::KEYS] {
        let list = request(row).check(response(200, &headers, "[]")).expect_err("no list");
        assert_eq!(list.kind(), Kind::Decode, "{list}");
        let none = request(row).check(response(404, &headers, "")).expect("an absence");
        assert_eq!(none.answer().value, Value::List(Vec::new()));
    }
    // Below the empty prefix there are no keys with 200, and no entries with 404.
    let all = |row: &'static Endpoint| {
        let request = row.request(&Args::new().arg(""), &Defaults::default()).expect("a request");
        request.check(response(200, &headers, "[]")).map(|success| success.answer().value)
    };
    assert_eq!(all(&kv::KEYS).expect("no keys"), Value::List(Vec::new()));
    assert_eq!(all(&kv::LIST).expect_err("no list").kind(), Kind::Decode);
}

#[test]
fn only_200_is_a_success() {
    let mut wrong = Vec::new();
    for row in consul_api::endpoints() {
        for status in [201, 202, 203, 204, 205, 206, 208] {
            for body in ["", "true", "[]", "{}", "null"] {
                refuses(row, status, &[("x-consul-index", "7")], body, &mut wrong);
            }
        }
    }
    fail_with(&wrong);
}

#[test]
fn an_operation_without_a_value_that_answers_nothing_is_done_and_a_read_is_not() {
    for row in consul_api::endpoints() {
        let outcome = request(row).check(response(200, &[], "")).map(|success| success.answer());
        if row.repeat == Repeat::Read {
            assert_eq!(outcome.expect_err(row.name).kind(), Kind::Decode, "{}", row.name);
        }
    }
}

#[test]
fn the_proxy_of_a_service_has_another_name() {
    let connect = consul_api::endpoint("health_connect").expect("a row");
    let request =
        connect.request(&Args::new().arg("web"), &Defaults::default()).expect("a request");
    let proxy = r#"[{"Node":{"Node":"n"},"Service":{"ID":"p","Service":"web-sidecar-proxy","Kind":"connect-proxy","Proxy":{"DestinationServiceName":"web"}},"Checks":[]}]"#;
    request.check(response(200, &[], proxy)).map(|success| success.answer()).expect("a proxy");
}

/// The result of a transaction for an answer.
fn transact(operations: &str, body: &str) -> Result<Value, Error> {
    transact_with(operations, 200, body)
}

fn transact_with(operations: &str, status: u16, body: &str) -> Result<Value, Error> {
    let operations = serde_json::from_str::<serde_json::Value>(operations).expect("JSON");
    let args = Args::new().arg(Value::from(operations));
    let request =
        consul_api::api::txn::TXN.request(&args, &Defaults::default()).expect("a request");
    Ok(request.check(response(status, &[], body))?.answer().value)
}

const ENTRY: &str =
    r#"{"KV":{"LockIndex":0,"Key":"a","Flags":0,"Value":null,"CreateIndex":1,"ModifyIndex":1}}"#;

#[test]
fn a_transaction_is_applied_only_if_its_answer_fits_its_operations() {
    let set = r#"[{"KV":{"Verb":"set","Key":"a","Value":"v"}}]"#;
    let two = r#"[{"KV":{"Verb":"set","Key":"a","Value":"v"}},{"KV":{"Verb":"delete","Key":"b"}},{"KV":{"Verb":"get","Key":"a"}}]"#;
    let delete = r#"[{"KV":{"Verb":"delete","Key":"a"}}]"#;
    let node = r#"[{"Node":{"Verb":"set","Node":{"Node":"n1","Address":"10.0.0.1"}}}]"#;
    let service = r#"[{"Service":{"Verb":"set","Node":"n1","Service":{"ID":"w","Service":"web"}}},{"Check":{"Verb":"set","Check":{"Node":"n1","CheckID":"c","Name":"c"}}}]"#;
    let fenced = r#"[{"KV":{"Verb":"check-session","Key":"a","Session":"s"}},{"KV":{"Verb":"set","Key":"b","Value":"v"}}]"#;
    let tree = r#"[{"KV":{"Verb":"get-tree","Key":"a/"}}]"#;
    let unnamed = r#"[{"Service":{"Verb":"set","Node":"n1","Service":{"Service":"w"}}}]"#;
    let results = |items: &[&str]| format!(r#"{{"Results":[{}],"Errors":null}}"#, items.join(","));
    let of_node = r#"{"Node":{"ID":"","Node":"n1","Address":"10.0.0.1"}}"#;
    let of_service = r#"{"Service":{"ID":"w","Service":"web"}}"#;
    let other = ENTRY.replace(r#""a""#, r#""b""#);
    let of_check = r#"{"Check":{"Node":"n1","CheckID":"c","Name":"c","Status":"critical"}}"#;
    for (operations, good) in [
        (set, results(&[ENTRY])),
        (two, results(&[ENTRY, ENTRY])),
        (delete, r#"{"Results":null,"Errors":null}"#.to_owned()),
        (delete, r#"{"Results":[],"Errors":[]}"#.to_owned()),
        (delete, r#"{"Results":[],"Errors":null,"Index":1,"KnownLeader":true}"#.to_owned()),
        (node, results(&[of_node])),
        (node, results(&[&of_node.replace("n1", "N1")])),
        (service, results(&[of_service, of_check])),
        (unnamed, results(&[of_service])),
        (fenced, results(&[ENTRY, &other])),
        (tree, results(&[&ENTRY.replace(r#""a""#, r#""a/b""#)])),
        (
            r#"[{"Node":{"Verb":"delete","Node":{"Node":"n1"}}}]"#,
            r#"{"Results":null,"Errors":null}"#.to_owned(),
        ),
    ] {
        transact(operations, &good).unwrap_or_else(|error| panic!("{operations}: {error}"));
    }
    let refused =
        r#"{"Results":[ENTRY],"Errors":[{"OpIndex":0,"What":"no"}]}"#.replace("ENTRY", ENTRY);
    for (operations, bad) in [
        (set, r#"{"error":"please log in"}"#.to_owned()),
        (set, "{}".to_owned()),
        (set, r#"{"Results":null}"#.to_owned()),
        (set, r#"{"Results":null,"Errors":null}"#.to_owned()),
        (set, results(&[])),
        (set, results(&[&other])),
        (set, results(&[&ENTRY.replace(r#""a""#, r#""A""#)])),
        (set, results(&[&ENTRY.replace("null", r#""dg==""#)])),
        (set, results(&[&of_node.replace("n1", "a")])),
        (tree, results(&[ENTRY])),
        (fenced, results(&[&other])),
        (set, results(&[ENTRY, ENTRY])),
        (set, results(&[of_node])),
        (set, results(&["{}"])),
        (set, results(&["5"])),
        (set, refused),
        (delete, "{}".to_owned()),
        (delete, results(&[ENTRY])),
        (node, results(&[])),
        (node, results(&[&of_node.replace("n1", "n2")])),
        (service, results(&[of_service])),
        (service, results(&[of_check, of_service])),
        (service, results(&[&of_service.replace("\"w\"", "\"x\""), of_check])),
    ] {
        let error = transact(operations, &bad).expect_err(&bad);
        assert_eq!((error.kind(), error.maybe_applied()), (Kind::Decode, true), "{bad}: {error}");
    }
}

/// A refused one has changed nothing; what another program answers with the same status shows nothing.
#[test]
fn a_transaction_is_refused_only_by_errors_of_its_operations() {
    let set = r#"[{"KV":{"Verb":"set","Key":"a","Value":"v"}}]"#;
    for (errors, kind) in [
        (r#"[{"OpIndex":0,"What":"no"}]"#, Kind::TxnFailed),
        (r#"[{"OpIndex":1,"What":"no"}]"#, Kind::Decode),
        ("[]", Kind::Decode),
        ("null", Kind::Decode),
    ] {
        let body = format!(r#"{{"Results":null,"Errors":{errors}}}"#);
        let error = transact_with(set, 409, &body).expect_err(errors);
        let maybe_applied = kind == Kind::Decode;
        assert_eq!((error.kind(), error.maybe_applied()), (kind, maybe_applied), "{error}");
    }
}

fn client(world: &World, transports: Vec<Arc<dyn Transport>>) -> Arc<Client> {
    let settings = Settings { timeout: SECOND, retry_count: 0, defaults: Defaults::default() };
    let clock: Arc<dyn Clock> = Arc::new(world.clock.clone());
    Arc::new(Client::new(transports, settings, clock, fastrand::Rng::with_seed(1)))
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_next_endpoint_is_asked_at_once_for_every_read_and_then_first() {
    let proxies = [408, 425, 429, 502, 503, 504].into_iter().chain(520..=529);
    let answers = ANSWERS.iter().copied().chain(proxies.map(|status| (status, "")));
    for (status, body) in answers {
        let world = World::new();
        let (router, good) =
            (Between::new(&world.agent, "router"), Between::new(&world.agent, "good"));
        router.set(Some(("/", (status, body))));
        let client = client(&world, vec![Arc::new(router), Arc::new(good)]);
        world.run(async {
            for row in consul_api::endpoints().filter(|row| row.repeat == Repeat::Read) {
                let own = request(row);
                // Its own answer in a row or two.
                if own.check(answer(status, body)).is_ok() {
                    continue;
                }
                let begun = world.clock.now();
                let outcome = client.execute(&own).await;
                let asked = match &outcome {
                    Ok(success) => Some(success.meta.endpoint.as_str()),
                    Err(error) => error.endpoint(),
                };
                assert_eq!(asked, Some("good"), "{} {status} {body}: {outcome:?}", row.name);
                let waited = world.clock.now() - begun;
                assert!(waited <= SECOND / 10, "{} {status} {body}: {waited:?}", row.name);
            }
        });
    }
}

#[test]
fn a_write_that_is_sent_once_is_not_sent_to_the_next_endpoint() {
    let world = World::new();
    let (router, good) = (Between::new(&world.agent, "router"), Between::new(&world.agent, "good"));
    router.set(Some(("/", (404, "404 page not found"))));
    let client = client(&world, vec![Arc::new(router), Arc::new(good)]);
    world.run(async {
        let args = Args::new().arg("a").arg("1").opt("cas", 0);
        let error = client.call(&kv::PUT, &args).await.expect_err("not Consul");
        assert_eq!(
            (error.kind(), error.maybe_applied(), error.attempts()),
            (Kind::Decode, true, 1)
        );
    });
}

#[test]
fn a_watch_reports_no_change_and_keeps_what_it_knows() {
    let count = Cell::new(0);
    for row in consul_api::endpoints().filter(|row| row.can_block()) {
        let method = row.name;
        for (status, body) in ANSWERS {
            if request(row).check(answer(*status, body)).is_ok() {
                continue;
            }
            let world = World::new();
            world.send("PUT", "/v1/kv/web", "1");
            world.send(
                "PUT",
                "/v1/agent/service/register",
                r#"{"Name":"web","Address":"10.0.0.1"}"#,
            );
            let between = Between::new(&world.agent, "between");
            let client = client(&world, vec![Arc::new(between.clone())]);
            let required = row.positional.iter().filter(|param| !param.optional);
            let named = |sample: Value| if sample == "a".into() { "web".into() } else { sample };
            let args = required.fold(Args::new(), |args, it| args.arg(named(sample(it))));
            world.run(async {
                let mut changes =
                    watch(client, row, args, WatchOptions::default()).expect("a watch").boxed();
                // Without access control, or without such an object, there is nothing to watch.
                let Ok((first, _)) = changes.next().await.expect("no end") else { return };
                count.set(count.get() + 1);
                let Change::Initial(first) = first else { panic!("{first:?}") };
                between.set(Some(("/", (*status, *body))));
                // Ends the wait.
                world.send("PUT", "/v1/kv/web", "1");
                world.send("PUT", "/v1/agent/service/register", r#"{"Name":"other"}"#);
                world.send("PUT", "/v1/session/create", "");
                let mut error = None;
                while error.is_none() {
                    match changes.next().await.expect("no end") {
                        Err(why) => error = Some(why),
                        Ok((Change::Put { .. }, _)) => {}
                        Ok((change, _)) => panic!("{method} {status} {body}: {change:?}"),
                    }
                }
                // So an older Consul answers.
                let is_older = *status == 404 && body.is_empty() && !row.is_in_every_release();
                let kind = if is_older { Kind::Unsupported } else { Kind::Decode };
                assert_eq!(error.expect("it fails").kind(), kind, "{method} {status} {body}");
                world.clock.sleep(SECOND * 10).await;
                between.set(None);
                let last = changes.next().await.expect("no end").expect("no outage").0;
                let Change::Resynchronised(last) = last else {
                    panic!("{method} {status} {body}: {last:?}")
                };
                assert!(last == first || method != "kv_get", "{last:?}");
            });
        }
    }
    assert!(count.get() > 600, "{}", count.get());
}

#[test]
fn views_keep_their_lists_and_age() {
    for (status, body) in ANSWERS {
        for path in ["/v1/health/service/", "/"] {
            let world = World::new();
            world.send(
                "PUT",
                "/v1/agent/service/register",
                r#"{"Name":"web","Address":"10.0.0.1","Port":80}"#,
            );
            let between = Between::new(&world.agent, "between");
            let client = client(&world, vec![Arc::new(between.clone())]);
            let (one, answers) =
                view(Arc::clone(&client), Args::new().arg("web"), EMPTY_HOLD).expect("a view");
            world.clock.spawn(answers.for_each(|()| async {}));
            let (all, news) = views(client, Wanted::Chosen, EMPTY_HOLD).expect("views");
            let told = Arc::clone(&all);
            world.clock.spawn(news.for_each(move |()| {
                told.were_told();
                while let Some((name, _)) = told.next_offered() {
                    told.choose(name, true);
                }
                async {}
            }));
            world.wait(SECOND * 3);
            let names = all.names();
            assert!(names.iter().any(|name| name == "web"), "{names:?}");
            between.set(Some((path, (*status, *body))));
            world.send(
                "PUT",
                "/v1/agent/service/register",
                r#"{"Name":"web","Address":"10.0.0.2","Port":80}"#,
            );
            world.wait(SECOND * 60);
            assert_eq!(one.all().expect("a list").instances().len(), 1, "{status} {body}");
            assert!(one.age().expect("a list") > SECOND * 30, "{status} {body}");
            assert_eq!(all.names(), names, "{status} {body}");
            let web = all.view("web").expect("a view");
            assert_eq!(web.all().expect("a list").instances().len(), 1, "{status} {body}");
            between.set(None);
            world.wait(SECOND * 20);
            assert_eq!(
                one.all().expect("a list").instances()[0].address,
                "10.0.0.2",
                "{status} {body}"
            );
        }
    }
}

#[test]
fn the_log_says_it_once_for_each_endpoint_and_minute() {
    let world = World::new();
    let routers = [Between::new(&world.agent, "router-1"), Between::new(&world.agent, "router-2")];
    routers.iter().for_each(|router| router.set(Some(("/", (404, "404 page not found")))));
    let transports = routers.map(|router| Arc::new(router) as Arc<dyn Transport>);
    let client = client(&world, transports.into());
    logged(Level::WARN, Arc::new(world.clock.clone()), |lines| {
        world.run(async {
            let mut changes =
                watch(client, &kv::LIST, Args::new().arg("secret/"), WatchOptions::default())
                    .expect("a watch")
                    .boxed();
            let end = world.clock.sleep(SECOND * 150);
            let watching = async { while changes.next().await.is_some() {} };
            futures_util::future::select(std::pin::pin!(end), std::pin::pin!(watching)).await;
        });
        for router in ["router-1", "router-2"] {
            let said = lines.text();
            let own = |line: &&str| {
                line.contains(": an answer is not Consul's endpoint")
                    && line.contains(&format!("endpoint=\"{router}\""))
            };
            let count = said.lines().filter(own).count();
            assert_eq!(count, 3, "{router}: {said}");
        }
        assert!(!lines.text().contains("secret/"), "{}", lines.text());
        assert_eq!(lines.count("WARN"), 6, "{}", lines.text());
    });
}

/// A router that redirects every request: to https, or to itself.
#[derive(Debug)]
struct Redirects(u16, &'static str);

impl Transport for Redirects {
    fn endpoint(&self) -> &str {
        "router"
    }

    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let location = format!("{}{}", self.1, request.uri());
        let answer = response(self.0, &[("location", &location)], "");
        Box::pin(std::future::ready(Ok(answer)))
    }
}

#[test]
fn a_redirect_leads_to_the_next_endpoint() {
    for (status, to) in [(301, "/login"), (302, ""), (307, ""), (308, "https://consul.example")] {
        let world = World::new();
        world.send("PUT", "/v1/kv/a", "v");
        let good = Between::new(&world.agent, "good");
        let client = client(&world, vec![Arc::new(Redirects(status, to)), Arc::new(good)]);
        let answer = world.run(client.call(&kv::GET, &Args::new().arg("a"))).expect("an answer");
        assert_eq!(answer.value, "v".into(), "{status}");
    }
}
