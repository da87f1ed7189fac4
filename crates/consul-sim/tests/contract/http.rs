//! The common properties of all answers, to requests that bypass the client's own checks.

use crate::target::{T, args, behaviours};
use consul_api::error::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

behaviours![
    an_index_is_never_zero,
    a_bad_wait_or_index_is_refused,
    stale_with_consistent_is_refused,
    a_wrong_method_is_refused_with_the_allowed_ones,
    an_unknown_path_is_unsupported,
    a_dirty_path_is_redirected_and_never_followed,
    an_encoded_path_is_that_of_the_endpoint,
    enterprise_namespaces_are_refused,
    json_is_sent_as_json,
    a_value_can_be_read_raw,
    a_full_response_has_status_headers_and_body_whatever_the_status,
    presence_alone_switches_recurse_on,
    a_malformed_body_is_refused,
    a_path_that_cannot_be_decoded_ends_the_connection,
];

async fn an_index_is_never_zero(t: T) {
    for method in ["session_list", "catalog_nodes", "catalog_services"] {
        assert!(t.index(method, args![]).await >= 1, "{method}");
    }
}

async fn a_bad_wait_or_index_is_refused(t: T) {
    for (query, said) in [
        ("wait=abc", "Invalid wait time"),
        ("wait=10", "Invalid wait time"),
        ("index=abc", "Invalid index"),
        ("index=-1", "Invalid index"),
    ] {
        let answer = t.raw("GET", &format!("/v1/catalog/nodes?{query}"), "").await;
        assert_eq!((answer.status, answer.body.as_str()), (400, said), "{query}");
    }
}

async fn stale_with_consistent_is_refused(t: T) {
    let answer = t.raw("GET", "/v1/kv/a?stale&consistent", "").await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("Cannot specify ?stale with ?consistent"), "{}", answer.body);
}

async fn a_wrong_method_is_refused_with_the_allowed_ones(t: T) {
    let answer = t.raw("POST", "/v1/kv/a", "").await;
    assert_eq!(answer.status, 405);
    assert_eq!(answer.header("allow"), Some("OPTIONS,GET,PUT,DELETE"));
    assert_eq!(answer.body, "method POST not allowed");
}

async fn an_unknown_path_is_unsupported(t: T) {
    let endpoint = consul_api::api::raw::endpoint("get").unwrap();
    let request = endpoint.request(&args!["/v1/no/such/thing"], &Default::default()).unwrap();
    let answer = t.raw("GET", "/v1/no/such/thing", "").await;
    let mut response = ::http::Response::new(bytes::Bytes::from(answer.body));
    *response.status_mut() = ::http::StatusCode::from_u16(answer.status).unwrap();
    *response.headers_mut() = answer.headers;
    assert_eq!(request.check(response).unwrap_err().kind(), Kind::Unsupported);
}

async fn a_dirty_path_is_redirected_and_never_followed(t: T) {
    let answer = t.raw("PUT", &format!("/v1/kv//{}", t.name("k")), "v").await;
    assert_eq!(
        answer.status,
        if t.is_1_8("an unclean path is redirected with 301, not 307") { 301 } else { 307 }
    );
    assert_eq!(answer.header("location"), Some(format!("/v1/kv/{}", t.name("k")).as_str()));
    let keys = t.value("kv_keys", args![t.name("")]).await;
    assert_eq!(keys.items().len(), 0);
}

async fn an_encoded_path_is_that_of_the_endpoint(t: T) {
    assert_eq!(t.raw("GET", "/v1/%73tatus/leader", "").await.status, 200);
    let key = t.name("a/b");
    t.ok("kv_put", args![key.as_str(), "v"]).await;
    for path in
        [format!("/%76%31/%6bv/{key}?raw"), format!("/v1/kv/{}?raw", key.replace('/', "%2F"))]
    {
        assert_eq!(t.raw("GET", &path, "").await.body, "v", "{path}");
    }
    let slashes = t.raw("GET", &format!("/v1/kv%2F{key}?raw"), "").await;
    if t.is_1_8("an encoded slash is one between the segments of a path") {
        assert_eq!(slashes.body, "v");
    } else {
        assert!(slashes.body.starts_with("Invalid URL path: not a recognized"), "{}", slashes.body);
        let redirected = t.raw("GET", "/v1//kv/a%20b!", "").await;
        assert_eq!(redirected.header("location"), Some("/v1/kv/a%2520b%21"));
    }
}

async fn enterprise_namespaces_are_refused(t: T) {
    let error = t.fails("kv_get", args![t.name("k"); "namespace" = "x"], Kind::Argument).await;
    assert_eq!(error.status(), Some(400));
    assert!(error.message().contains("Namespaces are a Consul Enterprise feature"), "{error}");
}

async fn json_is_sent_as_json(t: T) {
    let answer = t.raw("GET", "/v1/status/leader", "").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
}

async fn a_value_can_be_read_raw(t: T) {
    t.ok("kv_put", args![t.name("k"), "as it is"]).await;
    let answer = t.raw("GET", &format!("/v1/kv/{}?raw", t.name("k")), "").await;
    assert_eq!(answer.body, "as it is");
    assert_eq!(answer.header("content-type"), Some("text/plain"));
}

async fn a_full_response_has_status_headers_and_body_whatever_the_status(t: T) {
    let key = t.name("k");
    t.ok("kv_put", args![key.as_str(), "v"]).await;
    let row = consul_api::api::raw::endpoint("GET").unwrap();
    let read = async |path: String| {
        let args = args![path.as_str(); "full_response" = true];
        t.client().call(row, &args).await.expect("any status is a success")
    };
    let answer = read(format!("/v1/kv/{key}?raw")).await;
    assert_eq!(answer.value.get("status"), Some(&200.into()));
    assert_eq!(answer.value.get("body"), Some(&"v".into()));
    let index = answer.meta.index.expect("a read has an index").to_string();
    let headers = answer.value.get("headers").expect("the headers");
    assert_eq!(headers.get("x-consul-index"), Some(&index.as_str().into()));
    assert_eq!(headers.get("content-type"), Some(&"text/plain".into()));
    let absent = read(format!("/v1/kv/{key}/none")).await;
    assert_eq!(absent.value.get("status"), Some(&404.into()));
    assert_eq!(absent.value.get("body"), Some(&"".into()));
    let refused = read("/v1/catalog/nodes?index=x".to_owned()).await;
    assert_eq!(refused.value.get("status"), Some(&400.into()));
    assert_eq!(refused.value.get("body"), Some(&"Invalid index".into()));
}

async fn presence_alone_switches_recurse_on(t: T) {
    for name in ["p/a", "p/b"] {
        t.ok("kv_put", args![t.name(name), "v"]).await;
    }
    let target = format!("/v1/kv/{}?recurse=false", t.name("p/"));
    assert_eq!(t.raw("GET", &target, "").await.body.matches("\"Key\"").count(), 2);
    t.raw("DELETE", &target, "").await;
    assert_eq!(t.value("kv_keys", args![t.name("")]).await.items().len(), 0);
}

async fn a_malformed_body_is_refused(t: T) {
    let answer = t.raw("PUT", "/v1/agent/service/register", "{").await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.starts_with("Request decode failed:"), "{}", answer.body);
    let answer = t.raw("PUT", "/v1/txn", "{}").await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.starts_with("Failed to parse body:"), "{}", answer.body);
}

async fn a_path_that_cannot_be_decoded_ends_the_connection(t: T) {
    // An agent in this process has no connection.
    let Some(address) = t.address() else {
        let answer = t.raw("GET", "/v1/kv/%zz", "").await;
        return assert_eq!((answer.status, answer.header("connection")), (400, Some("close")));
    };
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = "GET /v1/kv/%zz HTTP/1.1\r\nHost: a\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let answer = answer.to_lowercase();
    assert!(answer.contains(" 400 ") && answer.contains("\r\nconnection: close"), "{answer}");
}
