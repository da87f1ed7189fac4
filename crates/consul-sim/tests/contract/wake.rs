//! Which waiting queries a write wakes: each kind of write beside each kind of waiting query.

use crate::target::{T, behaviours};
use futures_util::future::join_all;
use std::time::{Duration, Instant};

behaviours![a_write_wakes_the_queries_that_it_wakes_on_consul];

/// The state before each write. `%` is a name of its own, `$` the id of a session.
const BEFORE: &[(&str, &str)] = &[
    ("kv/%/app/data", "1"),
    ("kv/%/deep/a/b", "1"),
    (
        "catalog/register",
        r#"{"Node":"%","Address":"10.0.0.1","Service":{"ID":"%1","Service":"%-web","Port":80},"Checks":[
            {"Node":"%","CheckID":"%-n","Name":"n","Status":"passing"},
            {"Node":"%","CheckID":"%-w","Name":"w","ServiceID":"%1","Status":"passing"}]}"#,
    ),
    (
        "catalog/register",
        r#"{"Node":"%-two","Address":"10.0.0.2","Service":{"Service":"%-other"},
            "Check":{"CheckID":"%-o","Name":"o","ServiceID":"%-other","Status":"critical"}}"#,
    ),
    (
        "catalog/register",
        r#"{"Node":"%-two","Address":"10.0.0.2","Service":{"Kind":"connect-proxy","Service":"%-other-proxy",
            "Port":1,"Proxy":{"DestinationServiceName":"%-other"}}}"#,
    ),
    ("config", r#"{"Kind":"service-defaults","Name":"%-web","Protocol":"http"}"#),
    ("catalog/register", r#"{"Node":"%-far","Address":"10.0.0.8","NodeMeta":{"%":"a"}}"#),
    // A service that went: from then on reads of unknown services have its index.
    (
        "catalog/register",
        r#"{"Node":"%-gone","Address":"10.0.0.9","Service":{"Service":"%-gone"}}"#,
    ),
    ("catalog/deregister", r#"{"Node":"%-gone"}"#),
];

const SESSION: &str = r#"{"Node":"%","NodeChecks":[],"Checks":[]}"#;

const OTHER_SESSION: &str = r#"{"Node":"%-two","NodeChecks":[],"Checks":[]}"#;

/// The waiting queries, by the names that the table below has.
const QUERIES: &[(&str, &str)] = &[
    ("key", "kv/%/app/data?"),
    ("key-none", "kv/%/app/dat?"),
    ("key-far", "kv/%/zzz?"),
    ("tree", "kv/%/app/?recurse&"),
    ("tree-none", "kv/%/app,default/?recurse&"),
    ("keys-none", "kv/%/app,default/?keys&"),
    ("far-none", "kv/%/zzz/?recurse&"),
    ("deep-none", "kv/%/deep/a/c/?recurse&"),
    ("nodes", "catalog/nodes?"),
    ("services", "catalog/services?"),
    ("meta", "catalog/services?node-meta=%:a&"),
    ("meta-none", "catalog/services?node-meta=%:c&"),
    ("service", "catalog/service/%-web?"),
    ("service-none", "catalog/service/%-none?"),
    ("connect", "catalog/connect/%-other?"),
    ("connect-none", "catalog/connect/%-web?"),
    ("node", "catalog/node/%?"),
    ("node-none", "catalog/node/%-none?"),
    ("node-services", "catalog/node-services/%?"),
    ("any", "health/state/any?"),
    ("critical", "health/state/critical?"),
    ("warning", "health/state/warning?"),
    ("h-node", "health/node/%?"),
    ("h-node-two", "health/node/%-two?"),
    ("h-node-none", "health/node/%-none?"),
    ("checks", "health/checks/%-web?"),
    ("checks-none", "health/checks/%-none?"),
    ("health", "health/service/%-web?"),
    ("health-near", "health/service/%-web?near=_agent&"),
    ("health-none", "health/service/%-none?"),
    ("near-none", "health/service/%-none?near=_agent&"),
    ("h-connect", "health/connect/%-other?"),
    ("h-connect-near", "health/connect/%-other?near=_agent&"),
    ("h-connect-none", "health/connect/%-web?"),
    ("c-near-none", "health/connect/%-web?near=_agent&"),
    ("sessions", "session/list?"),
    ("s-node", "session/node/%?"),
    ("session", "session/info/$?"),
    ("session-none", "session/info/d7a02a1c-0b0b-4b0b-8b0b-000000000000?"),
    ("queries", "query?"),
    ("entries", "config/service-defaults?"),
    ("entry", "config/service-defaults/%-web?"),
    ("entry-none", "config/service-defaults/%-none?"),
    ("intentions", "connect/intentions?"),
    ("match", "connect/intentions/match?by=destination&name=%-web&"),
];

/// Each kind of write, and the queries that it wakes; one in parentheses has a newer index at the end of
/// its wait only. A status that is not 200 follows the name.
const WRITES: &[(&str, &str, &str, &str)] = &[
    (
        "PUT",
        "kv/%/app/data",
        "2",
        "key (key-none404) (key-far404) tree tree-none404 keys-none404 far-none404",
    ),
    (
        "PUT",
        "kv/%/app/other",
        "2",
        "(key-none404) (key-far404) tree tree-none404 keys-none404 far-none404",
    ),
    ("PUT", "kv/%/app/data", "1", ""),
    ("PUT", "kv/%/apps", "2", "(key-none404) (key-far404) tree-none404 keys-none404 far-none404"),
    ("PUT", "kv/%/a", "2", "(key-none404) (key-far404) tree-none404 keys-none404 far-none404"),
    ("PUT", "kv/%/zzy", "2", "(key-far404) far-none404"),
    ("PUT", "kv/%", "2", "(key-far404) far-none404"),
    (
        "PUT",
        "kv/%/app,default/x",
        "2",
        "(key-none404) (key-far404) tree-none keys-none far-none404",
    ),
    ("PUT", "kv/%/deep/a/b/c", "2", "(key-far404) far-none404 deep-none404"),
    (
        "DELETE",
        "kv/%/app/data",
        "",
        "key404 (key-none404) (key-far404) tree404 tree-none404 keys-none404 far-none404 deep-none404",
    ),
    ("DELETE", "kv/%/none", "", ""),
    (
        "DELETE",
        "kv/%/deep?recurse",
        "",
        "(key-none404) (key-far404) tree-none404 keys-none404 far-none404 deep-none404",
    ),
    ("PUT", "catalog/register", r#"{"Node":"%-new","Address":"10.0.0.3"}"#, "nodes"),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"%","Address":"10.0.0.3"}"#,
        "nodes service node node-services health health-near",
    ),
    ("PUT", "catalog/register", r#"{"Node":"%-none","Address":"10.0.0.3"}"#, "nodes node-none"),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"%","Address":"10.0.0.1","Service":{"Service":"%-new"}}"#,
        "services node node-services",
    ),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"%-two","Address":"10.0.0.2","Service":{"Service":"%-new"}}"#,
        "services meta",
    ),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"%-two","Address":"10.0.0.2","Service":{"Service":"%-none"}}"#,
        "services meta service-none health-none near-none",
    ),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"%-two","Address":"10.0.0.2","Service":{"ID":"%2","Service":"%-web"}}"#,
        "services meta service health health-near",
    ),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"%","Address":"10.0.0.1","Service":{"ID":"%1","Service":"%-web","Port":81}}"#,
        "services service node node-services health health-near",
    ),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"%","Address":"10.0.0.1","Service":{"ID":"%1","Service":"%-web","Port":80}}"#,
        "",
    ),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"%","Address":"10.0.0.1","Service":{"Kind":"connect-proxy","Service":"%-web-proxy","Port":1,
            "Proxy":{"DestinationServiceName":"%-web"}}}"#,
        "services (connect-none) node node-services h-connect-none c-near-none",
    ),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"%","Address":"10.0.0.1","Check":{"CheckID":"%-w","Name":"w","ServiceID":"%1","Status":"critical"}}"#,
        "any critical warning h-node checks checks-none health health-near",
    ),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"%","Address":"10.0.0.1","Check":{"CheckID":"%-n","Name":"n","Status":"warning"}}"#,
        "any warning h-node health health-near",
    ),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"%-two","Address":"10.0.0.2","Check":{"CheckID":"%-o","Name":"o","ServiceID":"%-other","Status":"passing"}}"#,
        "any critical h-node-two h-node-none checks-none",
    ),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"%-two","Address":"10.0.0.2","Check":{"CheckID":"%-p","Name":"p","ServiceID":"%-other-proxy","Status":"passing"}}"#,
        "any h-node-two h-node-none checks-none h-connect h-connect-near",
    ),
    (
        "PUT",
        "catalog/deregister",
        r#"{"Node":"%","CheckID":"%-w"}"#,
        "any h-node checks checks-none health health-near",
    ),
    (
        "PUT",
        "catalog/deregister",
        r#"{"Node":"%","CheckID":"%-n"}"#,
        "any h-node health health-near",
    ),
    (
        "PUT",
        "catalog/deregister",
        r#"{"Node":"%","ServiceID":"%1"}"#,
        "services meta service service-none node node-services any h-node checks checks-none health health-near near-none",
    ),
    (
        "PUT",
        "catalog/deregister",
        r#"{"Node":"%-two","ServiceID":"%-other"}"#,
        "services meta service-none any critical h-node h-node-two h-node-none checks checks-none near-none",
    ),
    (
        "PUT",
        "catalog/deregister",
        r#"{"Node":"%-two","ServiceID":"%-other-proxy"}"#,
        "services meta service-none connect connect-none near-none h-connect h-connect-near c-near-none",
    ),
    (
        "PUT",
        "catalog/deregister",
        r#"{"Node":"%"}"#,
        "nodes services meta service service-none node node-none node-services any h-node h-node-two h-node-none checks checks-none health health-near near-none sessions s-node session",
    ),
    (
        "PUT",
        "catalog/deregister",
        r#"{"Node":"%-two"}"#,
        "nodes services meta service-none connect connect-none node-none any critical h-node h-node-two h-node-none checks checks-none near-none h-connect h-connect-near c-near-none sessions",
    ),
    ("PUT", "session/create", SESSION, "sessions s-node"),
    ("PUT", "session/create", OTHER_SESSION, "sessions"),
    ("PUT", "session/destroy/$", "", "sessions s-node session"),
    ("POST", "query", r#"{"Name":"%","Service":{"Service":"%-web"}}"#, "queries"),
    (
        "PUT",
        "config",
        r#"{"Kind":"service-defaults","Name":"%-web","Protocol":"tcp"}"#,
        "entries entry (entry-none404) intentions (match)",
    ),
    (
        "PUT",
        "config",
        r#"{"Kind":"service-defaults","Name":"%-new"}"#,
        "entries (entry-none404) intentions (match)",
    ),
    (
        "PUT",
        "config",
        r#"{"Kind":"service-defaults","Name":"%-none"}"#,
        "entries entry-none intentions (match)",
    ),
    (
        "PUT",
        "config",
        r#"{"Kind":"service-resolver","Name":"%-web"}"#,
        "(entries) intentions (match)",
    ),
    (
        "DELETE",
        "config/service-defaults/%-web",
        "",
        "entries entry404 (entry-none404) intentions (match)",
    ),
    (
        "PUT",
        "connect/intentions/exact?source=%-a&destination=%-web",
        r#"{"Action":"deny"}"#,
        "(entries) intentions match",
    ),
    (
        "PUT",
        "connect/intentions/exact?source=%-a&destination=%-new",
        r#"{"Action":"deny"}"#,
        "(entries) intentions (match)",
    ),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"%-far","Address":"10.0.0.8","NodeMeta":{"%":"a"},"Service":{"Service":"%-new"}}"#,
        "services meta",
    ),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"%-new","Address":"10.0.0.8","NodeMeta":{"%":"b"}}"#,
        "nodes meta meta-none",
    ),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"%-three","Address":"10.0.0.8","Check":{"CheckID":"c","Name":"c","Status":"passing"}}"#,
        "nodes any h-node-two h-node-none",
    ),
    (
        "PUT",
        "kv/%/app/dax",
        "1",
        "(key-none404) (key-far404) tree tree-none404 keys-none404 far-none404",
    ),
    ("PUT", "event/fire/%", "", ""),
];

async fn a_write_wakes_the_queries_that_it_wakes_on_consul(t: T) {
    if t.is_1_8("queries wake with more writes, and streams do not exist") {
        return;
    }
    let mut wrong = Vec::new();
    for (number, (method, path, body, woken)) in WRITES.iter().enumerate() {
        let mut found = String::new();
        // A busy machine may be late to wake.
        for millis in [600, 3_000, 60_000] {
            found = effect(&t, number, method, path, body, Duration::from_millis(millis)).await;
            if found == *woken || woken.is_empty() {
                break;
            }
        }
        if found != *woken {
            wrong.push(format!("{number} {method} {path} {body}\n  woke {found}\n  not  {woken}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The queries that a write wakes, as the table has them.
async fn effect(
    t: &T,
    number: usize,
    method: &str,
    path: &str,
    body: &str,
    wait: Duration,
) -> String {
    let name = format!("{}-{}", t.name(&number.to_string()), wait.as_millis());
    let put = |path: &'static str, body: &'static str| {
        let (path, body) = (format!("/v1/{path}").replace('%', &name), body.replace('%', &name));
        async move { t.raw("PUT", &path, &body).await }
    };
    for (path, body) in BEFORE {
        let made = put(path, body).await;
        assert_eq!(made.status, 200, "{path}: {}", made.body);
    }
    put("session/create", OTHER_SESSION).await;
    put("session/create", r#"{"Node":"%-far","NodeChecks":[],"Checks":[]}"#).await;
    let made = put("session/create", SESSION).await;
    let session = made.body.split('"').nth(3).unwrap();
    let named = |text: &str| text.replace('%', &name).replace('$', session);
    let queries: Vec<_> = QUERIES.iter().map(|(_, path)| format!("/v1/{}", named(path))).collect();
    let before = join_all(queries.iter().map(|path| t.raw("GET", path, ""))).await;
    let index = |raw: &crate::target::Raw| raw.header("x-consul-index").unwrap().parse::<u64>();
    let millis = wait.as_millis();
    let waits = queries.iter().zip(&before).map(|(path, before)| {
        let path = format!("{path}index={}&wait={millis}ms", index(before).unwrap());
        async move {
            let begun = Instant::now();
            (t.raw("GET", &path, "").await, begun.elapsed() < wait)
        }
    });
    let write = async {
        tokio::time::sleep(wait / 4).await;
        let written = t.raw(method, &format!("/v1/{}", named(path)), &named(body)).await;
        assert_eq!(written.status, 200, "{path} {body}: {}", written.body);
    };
    let (after, ()) = tokio::join!(join_all(waits), write);
    let mut effects = Vec::new();
    for (((query, _), before), (after, early)) in QUERIES.iter().zip(&before).zip(&after) {
        let moved = index(after).unwrap() != index(before).unwrap();
        let status = if after.status == 200 { String::new() } else { after.status.to_string() };
        match (early, moved) {
            (true, _) => effects.push(format!("{query}{status}{}", if moved { "" } else { "=" })),
            (false, true) => effects.push(format!("({query}{status})")),
            (false, false) => {}
        }
    }
    effects.join(" ")
}
