//! Prepared queries.

use crate::target::{T, args, behaviours, list, table, text, texts};
use consul_api::error::Kind;
use consul_api::value::Value;
use consul_sim::acl::DefaultPolicy::Deny;
use std::time::{Duration, Instant};

behaviours![
    a_prepared_query_is_created_run_and_deleted,
    an_unknown_prepared_query_is_absent,
    an_object_that_is_gone_is_deleted_again,
    a_prepared_query_of_a_used_name_is_refused,
    a_prepared_query_without_name_needs_a_session,
    a_prepared_query_ends_with_its_session,
    invalid_prepared_queries_are_refused,
    a_critical_instance_is_not_found_unless_its_check_is_ignored,
    an_instance_on_a_critical_node_is_not_found,
    a_limit_below_zero_is_none,
    only_passing_leaves_out_warnings,
    tags_and_metadata_filter_the_instances,
    an_answer_tells_no_tags_from_an_empty_list,
    the_nearest_instance_is_the_first,
    an_empty_answer_is_looked_for_at_the_peers,
    a_query_template_is_explained,
    the_template_with_the_longest_name_answers,
    a_template_makes_its_texts_from_groups_of_the_name,
    a_template_that_cannot_be_compiled_is_refused,
    a_list_of_queries_waits_for_changes,
    a_query_is_written_and_read_with_permissions_of_its_name,
];

fn query(t: &T) -> Value {
    table! {"Name" = t.name("q"), "Service" = table! {"Service" = "consul"}}
}

/// Creates a query with this service and returns its id.
async fn create(t: &T, name: &str, service: Value) -> String {
    let query = table! {"Name" = t.name(name), "Service" = service};
    t.value("query_create", args![query]).await.as_str().unwrap().to_owned()
}

/// Registers an instance of a service on a node of its own, with one check.
async fn register(t: &T, node: &str, tag: &str, status: &str) {
    let service = table! {
        "Service" = t.name("web"), "Tags" = list![tag], "Meta" = table! {"kind" = tag},
    };
    let check = table! {
        "CheckID" = t.name(node), "Name" = "c", "Status" = status, "ServiceID" = t.name("web"),
    };
    let registration = table! {
        "Node" = t.name(node), "Address" = "10.0.0.1", "NodeMeta" = table! {"rack" = node},
        "Service" = service, "Check" = check,
    };
    t.ok("catalog_register", args![registration]).await;
}

/// The nodes that a query finds, sorted.
async fn found(t: &T, name: &str) -> Vec<String> {
    let answer = t.value("query_execute", args![t.name(name)]).await;
    let nodes = answer.get("Nodes").unwrap().items();
    let nodes = nodes.iter().map(|node| text(node.get("Node").unwrap(), "Node").to_owned());
    let mut nodes: Vec<_> = nodes.collect();
    nodes.sort();
    nodes
}

async fn a_prepared_query_is_created_run_and_deleted(t: T) {
    let id = t.value("query_create", args![query(&t)]).await;
    let id = id.as_str().unwrap();
    assert_eq!(text(&t.value("query_read", args![id]).await, "Name"), t.name("q"));
    assert!(texts(&t.value("query_list", args![]).await, "ID").contains(&id));
    let found = t.value("query_execute", args![t.name("q"); "limit" = 1]).await;
    assert_eq!(found.get("Nodes").unwrap().items().len(), 1);
    assert_eq!((text(&found, "Datacenter"), found.get("Failovers")), ("dc1", Some(&0.into())));
    let changed = table! {"Name" = t.name("q2"), "Service" = table! {"Service" = "none"}};
    t.ok("query_update", args![id, changed]).await;
    let found = t.value("query_execute", args![t.name("q2")]).await;
    assert_eq!(found.get("Nodes").unwrap().items().len(), 0);
    t.ok("query_delete", args![id]).await;
    assert_eq!(t.value("query_read", args![id]).await, Value::Null);
}

async fn an_object_that_is_gone_is_deleted_again(t: T) {
    let id = t.value("query_create", args![query(&t)]).await;
    for _ in 0..2 {
        t.ok("query_delete", args![id.clone()]).await;
    }
    for method in ["connect_intention_delete_by_id", "query_delete"] {
        t.ok(method, args!["7b6b2b3a-5f5c-4f3e-9d0c-3f1c8a2d4e5f"]).await;
    }
}

async fn an_unknown_prepared_query_is_absent(t: T) {
    const UNKNOWN: &str = "5d2c1b1e-0000-4000-8000-000000000000";
    assert_eq!(t.value("query_read", args![UNKNOWN]).await, Value::Null);
    t.fails("query_execute", args![t.name("none")], Kind::NotFound).await;
    t.fails("query_explain", args![t.name("none")], Kind::NotFound).await;
    t.fails("query_update", args![UNKNOWN, query(&t)], Kind::NotFound).await;
    t.ok("query_delete", args![UNKNOWN]).await;
}

async fn a_prepared_query_of_a_used_name_is_refused(t: T) {
    let id = t.value("query_create", args![query(&t)]).await;
    let error = t.fails("query_create", args![query(&t)], Kind::Http).await;
    assert!(error.message().contains("aliases an existing query name"), "{error}");
    let alias = table! {"Name" = id.clone(), "Service" = table! {"Service" = "consul"}};
    let error = t.fails("query_create", args![alias], Kind::Http).await;
    assert!(error.message().contains("aliases an existing query ID"), "{error}");
    t.ok("query_delete", args![id]).await;
}

async fn a_prepared_query_without_name_needs_a_session(t: T) {
    let nameless = |session: &str| {
        table! {"Session" = session, "Service" = table! {"Service" = "consul"}}
    };
    let error = t.fails("query_create", args![nameless("")], Kind::Http).await;
    assert!(error.message().contains("Must be bound to a session"), "{error}");
    let error = t.fails("query_create", args![nameless("none")], Kind::SessionInvalid).await;
    assert!(error.message().contains("invalid session"), "{error}");
    let session = t.session(table! {}).await;
    let id = t.value("query_create", args![nameless(&session)]).await;
    let found = t.value("query_execute", args![id.clone()]).await;
    assert_eq!(found.get("Nodes").unwrap().items().len(), 1);
    t.ok("session_destroy", args![session]).await;
}

async fn a_prepared_query_ends_with_its_session(t: T) {
    let session = t.session(table! {}).await;
    let query = table! {
        "Name" = t.name("q"), "Session" = session.as_str(),
        "Service" = table! {"Service" = "consul"},
    };
    let id = t.value("query_create", args![query]).await;
    assert_eq!(text(&t.value("query_read", args![id.clone()]).await, "Session"), session);
    t.ok("session_destroy", args![session]).await;
    assert_eq!(t.value("query_read", args![id]).await, Value::Null);
    t.fails("query_execute", args![t.name("q")], Kind::NotFound).await;
}

async fn invalid_prepared_queries_are_refused(t: T) {
    for (fields, status, why) in [
        (r#""Service":{}"#, 500, "Must provide a Service name to query"),
        (r#""Service":{"Service":"x","Bad":1}"#, 400, "unknown field"),
        (r#""Service":{"Service":1}"#, 400, "Request decode failed: json: cannot unmarshal number"),
        (
            r#""Service":{"Service":"x","Failover":{"NearestN":-1}}"#,
            500,
            "Bad NearestN '-1', must be >= 0",
        ),
        (
            r#""Service":{"Service":"x","NodeMeta":{"a b":"c"}}"#,
            500,
            "Key contains invalid characters",
        ),
        (
            r#""Service":{"Service":"x","NodeMeta":{"":"c"}}"#,
            500,
            "Couldn't load metadata pair ('', 'c'): Key cannot be blank",
        ),
        (r#""Service":{"Service":"x"},"DNS":{"TTL":"x"}"#, 500, "Bad DNS TTL 'x'"),
        (
            r#""Service":{"Service":"x"},"DNS":{"TTL":"-1s"}"#,
            500,
            "DNS TTL '-1000000000', must be >=0",
        ),
        (r#""Service":{"Service":"x"},"Token":"<hidden>""#, 500, "a redacted token was submitted"),
        (r#""Service":{"Service":"x"},"ID":"x""#, 500, "ID must be empty"),
    ] {
        let body = format!("{{\"Name\":\"{}\",{fields}}}", t.name("q"));
        let refused = t.raw("POST", "/v1/query", &body).await;
        assert_eq!(refused.status, status, "{body}: {}", refused.body);
        assert!(refused.body.contains(why), "{body}: {}", refused.body);
    }
    for (parameter, why) in
        [("limit=x", "Bad limit"), ("connect=x", "Error parsing 'connect' value")]
    {
        if parameter == "connect=x" && t.is_1_8("`connect` of an execution is not checked") {
            continue;
        }
        let refused = t.raw("GET", &format!("/v1/query/none/execute?{parameter}"), "").await;
        assert_eq!(refused.status, 500);
        assert!(refused.body.contains(why), "{}", refused.body);
    }
}

async fn a_critical_instance_is_not_found_unless_its_check_is_ignored(t: T) {
    register(&t, "a", "x", "warning").await;
    register(&t, "b", "x", "critical").await;
    let id = create(&t, "q", table! {"Service" = t.name("web")}).await;
    assert_eq!(found(&t, "q").await, [t.name("a")]);
    let (a, b) = (t.name("a"), t.name("b"));
    let (a, b) = (a.as_str(), b.as_str());
    // The ignored checks, whether instances must pass, and those that are found.
    let courses: &[(&[&str], bool, &[&str])] = &[
        (&[b], false, &[a, b]),
        (&[b], true, &[b]),
        (&[a], true, &[a]),
        (&[a, b], true, &[a, b]),
        (&[], true, &[]),
    ];
    for (ignored, only_passing, expected) in courses {
        let ignored = Value::List(ignored.iter().map(|id| (*id).into()).collect());
        let service = table! {
            "Service" = t.name("web"), "IgnoreCheckIDs" = ignored, "OnlyPassing" = *only_passing,
        };
        let ignoring = table! {"Name" = t.name("q"), "Service" = service};
        t.ok("query_update", args![id.as_str(), ignoring]).await;
        assert_eq!(found(&t, "q").await, *expected, "{only_passing}");
    }
    t.ok("query_delete", args![id]).await;
    t.deregister(&["a", "b"]).await;
}

async fn an_instance_on_a_critical_node_is_not_found(t: T) {
    register(&t, "a", "x", "passing").await;
    register(&t, "b", "x", "passing").await;
    let check = table! {"CheckID" = t.name("node"), "Status" = "critical"};
    let node = table! {"Node" = t.name("b"), "Address" = "10.0.0.1", "Check" = check};
    t.ok("catalog_register", args![node]).await;
    let id = create(&t, "q", table! {"Service" = t.name("web")}).await;
    assert_eq!(found(&t, "q").await, [t.name("a")]);
    t.ok("query_delete", args![id]).await;
    t.deregister(&["a", "b"]).await;
}

async fn a_limit_below_zero_is_none(t: T) {
    register(&t, "a", "x", "passing").await;
    register(&t, "b", "x", "passing").await;
    let id = create(&t, "q", table! {"Service" = t.name("web")}).await;
    for (limit, count) in [(-1, 2), (0, 2), (1, 1), (3, 2)] {
        let answer = t.raw("GET", &format!("/v1/query/{id}/execute?limit={limit}"), "").await;
        let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(answer["Nodes"].as_array().unwrap().len(), count, "{limit}");
    }
    t.ok("query_delete", args![id]).await;
    t.deregister(&["a", "b"]).await;
}

async fn only_passing_leaves_out_warnings(t: T) {
    register(&t, "a", "x", "warning").await;
    register(&t, "b", "x", "passing").await;
    let passing = table! {"Service" = t.name("web"), "OnlyPassing" = true};
    let id = create(&t, "q", passing).await;
    assert_eq!(found(&t, "q").await, [t.name("b")]);
    t.ok("query_delete", args![id]).await;
    t.deregister(&["a", "b"]).await;
}

async fn an_answer_tells_no_tags_from_an_empty_list(t: T) {
    for (node, tags) in [("a", ""), ("b", ",\"Tags\":[]")] {
        let service = format!("{{\"Service\":\"{}\"{tags}}}", t.name("web"));
        let node = t.name(node);
        let body = format!(
            "{{\"Node\":\"{node}\",\"Address\":\"10.0.0.1\",\"Service\":{service},\"Check\":{{\"CheckID\":\"c\",\"Status\":\"passing\"}}}}"
        );
        assert_eq!(t.raw("PUT", "/v1/catalog/register", &body).await.status, 200);
    }
    let id = create(&t, "q", table! {"Service" = t.name("web")}).await;
    let answer = t.raw("GET", &format!("/v1/query/{id}/execute"), "").await.body;
    let answer = answer.replace([' ', '\n'], "");
    let count = |text: &str| answer.matches(text).count();
    assert_eq!((count("\"Tags\":null"), count("\"Tags\":[]")), (1, 1), "{answer}");
    assert_eq!(count("\"ServiceTags\":null"), 2, "{answer}");
    t.ok("query_delete", args![id]).await;
    t.deregister(&["a", "b"]).await;
}

async fn tags_and_metadata_filter_the_instances(t: T) {
    register(&t, "a", "Blue", "passing").await;
    register(&t, "b", "green", "passing").await;
    let id = create(&t, "q", table! {"Service" = t.name("web")}).await;
    for (filter, node) in [
        (("Tags", list!["BLUE"]), "a"),
        (("Tags", list!["!blue"]), "b"),
        (("NodeMeta", table! {"rack" = "b"}), "b"),
        (("ServiceMeta", table! {"kind" = "Blue"}), "a"),
    ] {
        let mut service = table! {"Service" = t.name("web")};
        if let Value::Map(members) = &mut service {
            members.push((filter.0.to_owned(), filter.1));
        }
        let changed = table! {"Name" = t.name("q"), "Service" = service.clone()};
        t.ok("query_update", args![id.as_str(), changed]).await;
        assert_eq!(found(&t, "q").await, [t.name(node)], "{service:?}");
    }
    t.ok("query_delete", args![id]).await;
    t.deregister(&["a", "b"]).await;
}

async fn the_nearest_instance_is_the_first(t: T) {
    for node in ["a", "b", "c"] {
        register(&t, node, "x", "passing").await;
    }
    let id = create(&t, "q", table! {"Service" = t.name("web"), "Near" = t.name("b")}).await;
    let first = async |args| {
        let answer = t.value("query_execute", args).await;
        let nodes = answer.get("Nodes").unwrap().items();
        text(nodes[0].get("Node").unwrap(), "Node").to_owned()
    };
    for _ in 0..4 {
        assert_eq!(first(args![t.name("q")]).await, t.name("b"));
        assert_eq!(first(args![t.name("q"); "near" = t.name("c")]).await, t.name("c"));
    }
    t.ok("query_delete", args![id]).await;
    t.deregister(&["a", "b", "c"]).await;
}

async fn an_empty_answer_is_looked_for_at_the_peers(t: T) {
    if t.is_1_8("there are no peers (before 1.13)") {
        return;
    }
    let failover = table! {"Targets" = list![table! {"Peer" = "one"}, table! {"Peer" = "two"}]};
    let id = create(&t, "q", table! {"Service" = t.name("none"), "Failover" = failover}).await;
    let answer = t.value("query_execute", args![t.name("q")]).await;
    assert_eq!((text(&answer, "PeerName"), text(&answer, "Datacenter")), ("two", ""));
    assert_eq!(answer.get("Failovers"), Some(&2.into()));
    t.ok("query_delete", args![id]).await;
    let failover = table! {"NearestN" = 2, "Datacenters" = list!["dc1", "dc2"]};
    let id = create(&t, "q", table! {"Service" = t.name("none"), "Failover" = failover}).await;
    let answer = t.value("query_execute", args![t.name("q")]).await;
    assert_eq!((text(&answer, "PeerName"), text(&answer, "Datacenter")), ("", "dc1"));
    assert_eq!(answer.get("Failovers"), Some(&0.into()));
    t.ok("query_delete", args![id]).await;
}

/// Creates a template and returns its id.
async fn template(t: &T, name: &str, regexp: &str, service: Value) -> String {
    let template = table! {
        "Name" = t.name(name),
        "Template" = table! {"Type" = "name_prefix_match", "Regexp" = regexp},
        "Service" = service,
    };
    t.value("query_create", args![template]).await.as_str().unwrap().to_owned()
}

/// The service of the query that a name stands for.
async fn explained(t: &T, name: &str) -> Value {
    let explained = t.value("query_explain", args![t.name(name)]).await;
    explained.get("Query").unwrap().get("Service").unwrap().clone()
}

async fn a_query_template_is_explained(t: T) {
    let id = template(&t, "t-", "", table! {"Service" = "${name.suffix}"}).await;
    assert_eq!(text(&explained(&t, "t-web").await, "Service"), "web");
    let error = t.fails("query_explain", args![id.as_str()], Kind::Http).await;
    assert!(error.message().contains("can only be resolved up by name, not by ID"), "{error}");
    t.ok("query_delete", args![id]).await;
}

async fn the_template_with_the_longest_name_answers(t: T) {
    let short = template(&t, "t-", "", table! {"Service" = "short"}).await;
    let long = template(&t, "t-db-", "", table! {"Service" = "long"}).await;
    let exact = create(&t, "t-db-exact", table! {"Service" = "exact"}).await;
    for (name, service) in
        [("t-x", "short"), ("t-db-x", "long"), ("t-db-exact", "exact"), ("t-db-exacter", "long")]
    {
        assert_eq!(text(&explained(&t, name).await, "Service"), service);
    }
    for id in [short, long, exact] {
        t.ok("query_delete", args![id]).await;
    }
}

async fn a_template_makes_its_texts_from_groups_of_the_name(t: T) {
    let service = table! {
        "Service" = "${match(2)}.${match(1)}-${match(9)}",
        "Tags" = list!["${name.prefix}", "$${x}", "a${match(1)}b"],
    };
    let id = template(&t, "t-", "-t-(.*?)-([^-]+)$", service).await;
    let made = explained(&t, "t-a-b-c").await;
    assert_eq!(text(&made, "Service"), "c.a-b-");
    assert_eq!(made.get("Tags"), Some(&list![t.name("t-"), "${x}", "aa-bb"]));
    assert_eq!(text(&explained(&t, "t-a").await, "Service"), ".-");
    t.ok("query_delete", args![id]).await;
}

async fn a_template_that_cannot_be_compiled_is_refused(t: T) {
    for (template, why) in [
        (r#""Type":"bad""#, "Bad Template.Type 'bad'"),
        (r#""Type":"name_prefix_match","Regexp":"(""#, "Bad Regexp: error parsing regexp: "),
    ] {
        let name = t.name("t");
        let body = format!(
            "{{\"Name\":\"{name}\",\"Template\":{{{template}}},\"Service\":{{\"Service\":\"x\"}}}}"
        );
        let refused = t.raw("POST", "/v1/query", &body).await;
        assert_eq!(refused.status, 500);
        assert!(refused.body.contains(why), "{}", refused.body);
    }
    let template = table! {
        "Name" = t.name("t"), "Template" = table! {"Type" = "name_prefix_match"},
        "Service" = table! {"Service" = "x-${nope}"},
    };
    let error = t.fails("query_create", args![template], Kind::Http).await;
    let why =
        "Bad evaluation for 'x-${nope}' in Service.Service: 1:5: unknown variable accessed: nope";
    assert!(error.message().contains(why), "{error}");
}

async fn a_list_of_queries_waits_for_changes(t: T) {
    let id = create(&t, "q", table! {"Service" = "consul"}).await;
    let index = t.index("query_read", args![id.as_str()]).await;
    let start = Instant::now();
    let read = args![id.as_str(); "index" = index.to_string(), "wait" = "20s"];
    let changed = table! {"Name" = t.name("r"), "Service" = table! {"Service" = "consul"}};
    let change = async {
        crate::target::pause(Duration::from_millis(200)).await;
        t.ok("query_update", args![id.as_str(), changed]).await;
    };
    let (answer, ()) = tokio::join!(t.ok("query_read", read), change);
    assert!(start.elapsed() >= Duration::from_millis(200));
    // Queries of other behaviours wake it too.
    assert!(answer.meta.index > Some(index));
    assert_eq!(text(&t.value("query_read", args![id.as_str()]).await, "Name"), t.name("r"));
    t.ok("query_delete", args![id]).await;
}

async fn a_query_is_written_and_read_with_permissions_of_its_name(t: T) {
    let t = t.with_acls(Deny);
    let token = async |level: &str| {
        let rules = format!("query_prefix \"{}\" {{ policy = \"{level}\" }}", t.name("q"));
        let policy = table! {"Name" = format!("{level}-{}", t.name("p")), "Rules" = rules};
        let policy = t.value("acl_policy_create", args![policy]).await;
        let policies = list![table! {"ID" = text(&policy, "ID")}];
        let token = t.value("acl_token_create", args![table! {"Policies" = policies}]).await;
        t.with_token(text(&token, "SecretID"))
    };
    let (reader, writer) = (token("read").await, token("write").await);
    t.anonymous().fails("query_create", args![query(&t)], Kind::PermissionDenied).await;
    let error = reader.fails("query_create", args![query(&t)], Kind::PermissionDenied).await;
    if !t.is_1_8("a refusal does not name the permission") {
        assert!(error.message().contains("lacks permission 'query:write'"), "{error}");
    }
    let secret = table! {
        "Name" = t.name("q"), "Token" = "x", "Service" = table! {"Service" = "consul"},
    };
    let id = writer.value("query_create", args![secret]).await;
    assert_eq!(text(&t.value("query_read", args![id.clone()]).await, "Token"), "x");
    assert_eq!(text(&reader.value("query_read", args![id.clone()]).await, "Token"), "<hidden>");
    t.anonymous().fails("query_read", args![id.clone()], Kind::PermissionDenied).await;
    t.anonymous().fails("query_explain", args![t.name("q")], Kind::PermissionDenied).await;
    assert_eq!(t.anonymous().value("query_list", args![]).await, list![]);
    // An execution has the permissions of the query's token, which is unknown here.
    t.fails("query_execute", args![t.name("q")], Kind::AclNotFound).await;
    t.ok("query_update", args![id.clone(), query(&t)]).await;
    let seen = t.value("query_execute", args![t.name("q")]).await;
    assert_eq!(seen.get("Nodes").unwrap().items().len(), 1);
    let seen = reader.value("query_execute", args![t.name("q")]).await;
    assert_eq!(seen.get("Nodes").unwrap().items().len(), 0);
    reader.fails("query_delete", args![id.clone()], Kind::PermissionDenied).await;
    writer.ok("query_delete", args![id]).await;
}
