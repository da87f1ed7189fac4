//! User events.

use crate::support::AT_ONCE;
use crate::target::{LONG, T, args, behaviours, list, table, text, texts};
use consul_api::error::Kind;
use consul_api::value::Value;
use std::time::{Duration, Instant};

behaviours![
    an_event_that_was_fired_is_listed,
    a_list_of_no_events_has_the_index_one,
    only_events_of_a_name_are_listed,
    events_are_listed_the_oldest_first,
    an_event_for_other_nodes_does_not_reach_this_one,
    an_event_for_a_service_reaches_the_nodes_that_have_it,
    a_tag_without_a_service_is_refused,
    a_filter_that_is_not_a_regular_expression_is_refused,
    an_event_that_is_too_large_is_refused,
    a_list_waits_for_the_next_event,
    any_other_index_answers_at_once,
    events_of_remote_execution_are_not_listed,
];

async fn fire(t: &T, name: &str, payload: &str) -> Value {
    t.value("event_fire", args![t.name(name), payload]).await
}

async fn listed(t: &T, name: &str) -> Value {
    t.value("event_list", args![; "name" = t.name(name)]).await
}

/// Gossip takes a moment.
async fn arrives(t: &T, name: &str) {
    t.until("the event arrives", || async { !listed(t, name).await.items().is_empty() }).await;
}

async fn an_event_that_was_fired_is_listed(t: T) {
    let fired = fire(&t, "e", "payload").await;
    assert_eq!((text(&fired, "Name"), text(&fired, "Payload")), (&*t.name("e"), "payload"));
    assert_eq!((fired.get("Version"), fired.get("LTime")), (Some(&1.into()), Some(&0.into())));
    arrives(&t, "e").await;
    let found = listed(&t, "e").await;
    assert_eq!(texts(&found, "ID"), [text(&fired, "ID")]);
    assert_eq!(texts(&found, "Payload"), ["payload"]);
    assert!(found.items()[0].get("LTime").unwrap().as_u64() > Some(1));
}

async fn a_list_of_no_events_has_the_index_one(t: T) {
    let answer = t.ok("event_list", args![; "name" = t.name("none")]).await;
    assert_eq!((answer.value, answer.meta.index), (list![], Some(1)));
}

async fn only_events_of_a_name_are_listed(t: T) {
    fire(&t, "a", "").await;
    fire(&t, "b", "").await;
    arrives(&t, "b").await;
    assert_eq!(texts(&listed(&t, "b").await, "Name"), [t.name("b")]);
}

async fn events_are_listed_the_oldest_first(t: T) {
    for payload in ["1", "2", "3"] {
        fire(&t, "e", payload).await;
        t.until("the event arrives", || async {
            texts(&listed(&t, "e").await, "Payload").contains(&payload)
        })
        .await;
    }
    let found = listed(&t, "e").await;
    assert_eq!(texts(&found, "Payload"), ["1", "2", "3"]);
    let times: Vec<_> = found.items().iter().map(|event| event.get("LTime").unwrap()).collect();
    assert!(times[0].as_u64() < times[1].as_u64() && times[1].as_u64() < times[2].as_u64());
}

async fn an_event_for_other_nodes_does_not_reach_this_one(t: T) {
    let other = args![t.name("e"), "other"; "node" = "^no-such-node$"];
    let fired = t.value("event_fire", other).await;
    assert_eq!(text(&fired, "NodeFilter"), "^no-such-node$");
    t.ok("event_fire", args![t.name("e"), "all"; "node" = "."]).await;
    arrives(&t, "e").await;
    assert_eq!(texts(&listed(&t, "e").await, "Payload"), ["all"]);
}

async fn an_event_for_a_service_reaches_the_nodes_that_have_it(t: T) {
    let service = table! {"Name" = t.name("s"), "Tags" = list!["blue"]};
    t.ok("agent_service_register", args![service]).await;
    let name = format!("^{}$", t.name("s"));
    let to = |payload: &str, service: &str| args![t.name("e"), payload; "service" = service];
    t.ok("event_fire", to("other service", "^no-such-service$")).await;
    t.ok("event_fire", to("this service", &name)).await;
    let tagged = args![t.name("e"), "this tag"; "service" = name.as_str(), "tag" = "^bl"];
    t.ok("event_fire", tagged).await;
    t.until("both arrive", || async { listed(&t, "e").await.items().len() == 2 }).await;
    let found = listed(&t, "e").await;
    let mut payloads = texts(&found, "Payload");
    payloads.sort_unstable();
    assert_eq!(payloads, ["this service", "this tag"]);
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn a_tag_without_a_service_is_refused(t: T) {
    let error = t.fails("event_fire", args![t.name("e"), ""; "tag" = "x"], Kind::Http).await;
    assert!(error.message().contains("Cannot provide tag filter without service filter"));
}

async fn a_filter_that_is_not_a_regular_expression_is_refused(t: T) {
    let error = t.fails("event_fire", args![t.name("e"), ""; "node" = "["], Kind::Http).await;
    let why = "Invalid node filter: error parsing regexp: ";
    assert!(error.message().contains(why), "{error}");
}

async fn an_event_that_is_too_large_is_refused(t: T) {
    let send = async |size: usize| t.raw("PUT", "/v1/event/fire/deploy", &"x".repeat(size)).await;
    assert_eq!(send(404).await.status, 200);
    let refused = send(405).await;
    assert_eq!(refused.status, 500);
    assert!(refused.body.contains("user event exceeds configured limit of 512 bytes"));
}

async fn a_list_waits_for_the_next_event(t: T) {
    fire(&t, "e", "1").await;
    arrives(&t, "e").await;
    let index = t.index("event_list", args![; "name" = t.name("e")]).await;
    let list = args![; "name" = t.name("e"), "index" = index.to_string(), "wait" = LONG];
    let query = t.ok("event_list", list);
    let change = async {
        crate::target::pause(Duration::from_millis(200)).await;
        fire(&t, "e", "2").await;
    };
    let start = Instant::now();
    let (answer, ()) = tokio::join!(query, change);
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(texts(&answer.value, "Payload"), ["1", "2"]);
    assert!(answer.meta.index.is_some_and(|found| found != index));
}

async fn any_other_index_answers_at_once(t: T) {
    fire(&t, "e", "1").await;
    arrives(&t, "e").await;
    let start = Instant::now();
    for index in ["1", "18446744073709551615"] {
        t.ok("event_list", args![; "name" = t.name("e"), "index" = index, "wait" = LONG]).await;
    }
    assert!(start.elapsed() < AT_ONCE);
}

async fn events_of_remote_execution_are_not_listed(t: T) {
    for name in ["_rexec", "_rexec2"] {
        let answer = t.raw("PUT", &format!("/v1/event/fire/{name}"), "x").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let listed = |name: &'static str| {
        let t = &t;
        async move { t.raw("GET", &format!("/v1/event/list?name={name}"), "").await.body != "[]" }
    };
    t.until("the other is listed", || listed("_rexec2")).await;
    assert!(!listed("_rexec").await);
}
