//! The catalog of nodes and services.

use crate::target::{T, args, behaviours, list, table, text, texts};
use consul_api::error::Kind;
use consul_api::value::Value;
use std::time::Duration;

behaviours![
    datacenters_are_fetched_anew_if_the_caller_says_so,
    a_node_is_what_it_was_registered_as,
    a_service_of_an_external_node_is_found,
    an_unknown_service_has_no_instances,
    an_unknown_node_is_absent_and_not_an_error,
    deregistering_an_unknown_node_succeeds,
    a_deregistered_node_takes_its_services_along,
    a_node_without_services_has_an_empty_table_but_a_null_list,
    a_tag_narrows_a_service,
    all_tags_must_match,
    node_meta_narrows_the_nodes,
    services_are_listed_with_their_tags,
    names_of_services_ignore_case,
    a_registration_without_a_node_is_refused,
    an_agents_service_is_in_the_catalog,
    a_blocking_query_on_a_service_wakes_on_an_instance,
    the_datacenter_is_known,
    an_unknown_datacenter_is_an_error,
    fields_of_other_requests_are_accepted,
    a_filter_chooses_among_nodes_services_and_instances,
    proxies_and_natives_stand_for_a_service_in_the_mesh,
    a_service_keeps_the_spelling_of_its_nodes_name,
    what_was_read_can_be_written_back,
    proxies_and_gateways_can_be_registered,
    a_registration_and_its_end_can_name_the_datacenter,
];

/// Registers a new node with one instance of a service.
async fn register(t: &T, node: &str, tags: Value) {
    let service = table! {"Service" = t.name("s"), "Tags" = tags, "Port" = 80};
    let registration = table! {"Node" = t.name(node), "Address" = "10.9.9.9", "Service" = service};
    assert_eq!(t.value("catalog_register", args![registration]).await, true.into());
}

async fn a_node_is_what_it_was_registered_as(t: T) {
    let registration = table! {
        "Node" = t.name("n"), "Address" = "10.9.9.9", "NodeMeta" = table! {"rack" = "r1"},
        "TaggedAddresses" = table! {"wan" = "1.2.3.4"},
    };
    t.ok("catalog_register", args![registration]).await;
    let node = t.value("catalog_node", args![t.name("n")]).await;
    let node = node.get("Node").unwrap();
    assert_eq!((text(node, "Node"), text(node, "Address")), (t.name("n").as_str(), "10.9.9.9"));
    assert_eq!(text(node.get("Meta").unwrap(), "rack"), "r1");
    assert_eq!(text(node.get("TaggedAddresses").unwrap(), "wan"), "1.2.3.4");
    let nodes = t.value("catalog_nodes", args![]).await;
    assert!(texts(&nodes, "Node").contains(&t.name("n").as_str()));
    t.deregister(&["n"]).await;
}

async fn a_service_of_an_external_node_is_found(t: T) {
    register(&t, "n", list!["a"]).await;
    let found = t.value("catalog_service", args![t.name("s")]).await;
    assert_eq!(found.items().len(), 1);
    let instance = &found.items()[0];
    assert_eq!(text(instance, "Node"), t.name("n"));
    assert_eq!(text(instance, "ServiceName"), t.name("s"));
    assert_eq!(text(instance, "ServiceID"), t.name("s"));
    assert_eq!(instance.get("ServicePort"), Some(&80.into()));
    assert_eq!(instance.get("ServiceTags"), Some(&list!["a"]));
    let services = t.value("catalog_node_services", args![t.name("n")]).await;
    assert_eq!(texts(services.get("Services").unwrap(), "ID"), [t.name("s")]);
    t.deregister(&["n"]).await;
}

async fn an_unknown_service_has_no_instances(t: T) {
    assert_eq!(t.value("catalog_service", args![t.name("none")]).await, list![]);
}

async fn an_unknown_node_is_absent_and_not_an_error(t: T) {
    assert_eq!(t.value("catalog_node", args![t.name("none")]).await, Value::Null);
    let services = t.value("catalog_node_services", args![t.name("none")]).await;
    assert_eq!(services.get("Node"), Some(&Value::Null));
}

async fn deregistering_an_unknown_node_succeeds(t: T) {
    let none = table! {"Node" = t.name("none")};
    assert_eq!(t.value("catalog_deregister", args![none]).await, true.into());
}

async fn a_deregistered_node_takes_its_services_along(t: T) {
    register(&t, "n", list![]).await;
    t.deregister(&["n"]).await;
    assert_eq!(t.value("catalog_service", args![t.name("s")]).await, list![]);
    assert_eq!(t.value("catalog_node", args![t.name("n")]).await, Value::Null);
}

async fn a_node_without_services_has_an_empty_table_but_a_null_list(t: T) {
    t.ok("catalog_register", args![table! {"Node" = t.name("n"), "Address" = "10.9.9.9"}]).await;
    let node = t.value("catalog_node", args![t.name("n")]).await;
    assert_eq!(node.get("Services"), Some(&table! {}));
    let services = t.value("catalog_node_services", args![t.name("n")]).await;
    assert_eq!(services.get("Services"), Some(&Value::Null));
    t.deregister(&["n"]).await;
}

async fn a_tag_narrows_a_service(t: T) {
    register(&t, "n1", list!["blue"]).await;
    register(&t, "n2", list!["green"]).await;
    let found = t.value("catalog_service", args![t.name("s"); "tag" = "green"]).await;
    assert_eq!(texts(&found, "Node"), [t.name("n2")]);
    t.deregister(&["n1", "n2"]).await;
}

async fn all_tags_must_match(t: T) {
    register(&t, "n1", list!["a"]).await;
    register(&t, "n2", list!["a", "b"]).await;
    let found = t.value("catalog_service", args![t.name("s"); "tag" = list!["a", "b"]]).await;
    assert_eq!(texts(&found, "Node"), [t.name("n2")]);
    t.deregister(&["n1", "n2"]).await;
}

async fn node_meta_narrows_the_nodes(t: T) {
    for (node, zone) in [("n1", "z1"), ("n2", "z2")] {
        let meta = table! {"zone" = zone, "test" = t.name("m")};
        let registration =
            table! {"Node" = t.name(node), "Address" = "10.9.9.9", "NodeMeta" = meta};
        t.ok("catalog_register", args![registration]).await;
    }
    let wanted = table! {"zone" = "z2", "test" = t.name("m")};
    let found = t.value("catalog_nodes", args![; "node_meta" = wanted]).await;
    assert_eq!(texts(&found, "Node"), [t.name("n2")]);
    t.deregister(&["n1", "n2"]).await;
}

async fn services_are_listed_with_their_tags(t: T) {
    register(&t, "n1", list!["a"]).await;
    register(&t, "n2", list!["b"]).await;
    let services = t.value("catalog_services", args![]).await;
    let mut tags: Vec<_> = services.get(&t.name("s")).unwrap().items().to_vec();
    tags.sort_by_key(Value::shown);
    assert_eq!(Value::List(tags), list!["a", "b"]);
    assert!(services.get("consul").is_some());
    t.deregister(&["n1", "n2"]).await;
}

async fn names_of_services_ignore_case(t: T) {
    register(&t, "n", list![]).await;
    let found = t.value("catalog_service", args![t.name("s").to_uppercase()]).await;
    assert_eq!(found.items().len(), 1);
    t.deregister(&["n"]).await;
}

async fn a_registration_without_a_node_is_refused(t: T) {
    let error = t.fails("catalog_register", args![table! {}], Kind::Http).await;
    assert!(error.message().contains("Must provide node"), "{error}");
}

async fn an_agents_service_is_in_the_catalog(t: T) {
    let service = table! {"Name" = t.name("s"), "Port" = 81};
    t.ok("agent_service_register", args![service]).await;
    let found = t.value("catalog_service", args![t.name("s")]).await;
    assert_eq!(found.items()[0].get("ServicePort"), Some(&81.into()));
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn a_blocking_query_on_a_service_wakes_on_an_instance(t: T) {
    register(&t, "n1", list![]).await;
    let index = t.index("catalog_service", args![t.name("s")]).await;
    let query = t.ok("catalog_service", args![t.name("s"); "index" = index, "wait" = "10s"]);
    let change = async {
        crate::target::pause(Duration::from_millis(200)).await;
        register(&t, "n2", list![]).await;
    };
    let (answer, ()) = tokio::join!(query, change);
    assert_eq!(answer.value.items().len(), 2);
    assert!(answer.meta.index.unwrap() > index);
    t.deregister(&["n1", "n2"]).await;
}

async fn the_datacenter_is_known(t: T) {
    assert_eq!(t.value("catalog_datacenters", args![]).await, list!["dc1"]);
    t.ok("catalog_nodes", args![; "dc" = "dc1"]).await;
}

async fn an_unknown_datacenter_is_an_error(t: T) {
    let error = t.fails("catalog_nodes", args![; "dc" = "nowhere"], Kind::Http).await;
    assert!(error.message().contains("No path to datacenter"), "{error}");
}

async fn a_filter_chooses_among_nodes_services_and_instances(t: T) {
    register(&t, "n1", list!["a"]).await;
    register(&t, "n2", list!["b"]).await;
    let filter = format!("Node == \"{}\"", t.name("n2"));
    let nodes = t.value("catalog_nodes", args![; "filter" = filter]).await;
    assert_eq!(texts(&nodes, "Node"), [t.name("n2")]);
    let tagged = args![t.name("s"); "filter" = "b in ServiceTags"];
    assert_eq!(texts(&t.value("catalog_service", tagged).await, "Node"), [t.name("n2")]);
    let node = t.value("catalog_node", args![t.name("n1"); "filter" = "Port == 81"]).await;
    assert_eq!(node.get("Services"), Some(&table! {}));
    let services = args![t.name("n1"); "filter" = "Tags contains a"];
    let services = t.value("catalog_node_services", services).await;
    assert_eq!(services.get("Services").unwrap().items().len(), 1);
    let filter = format!("ServiceName == \"{}\"", t.name("s"));
    let services = t.value("catalog_services", args![; "filter" = filter]).await;
    let unfiltered = t.is_1_8("the list of services is not filtered");
    assert!(unfiltered || services.get("consul").is_none());
    assert!(services.get(&t.name("s")).is_some());
    t.deregister(&["n1", "n2"]).await;
}

async fn proxies_and_natives_stand_for_a_service_in_the_mesh(t: T) {
    let (service, proxy) = (t.name("s"), t.name("p"));
    let proxy = format!(
        r#"{{"Service":"{proxy}","Kind":"connect-proxy","Port":81,
            "Proxy":{{"DestinationServiceName":"{service}"}}}}"#
    );
    let native = format!(r#"{{"Service":"{service}","Port":82,"Connect":{{"Native":true}}}}"#);
    let plain = format!(r#"{{"Service":"{service}","Port":80}}"#);
    for (node, service) in [("n1", proxy), ("n2", native), ("n3", plain)] {
        let node = t.name(node);
        let body = format!(r#"{{"Node":"{node}","Address":"10.9.9.9","Service":{service}}}"#);
        assert_eq!(t.raw("PUT", "/v1/catalog/register", &body).await.body, "true");
    }
    let found = t.value("catalog_connect", args![t.name("s")]).await;
    assert_eq!(texts(&found, "Node"), [t.name("n1"), t.name("n2")]);
    assert_eq!(t.value("health_connect", args![t.name("s")]).await.items().len(), 2);
    assert_eq!(t.value("catalog_connect", args![t.name("none")]).await, list![]);
    t.deregister(&["n1", "n2", "n3"]).await;
}

async fn a_service_keeps_the_spelling_of_its_nodes_name(t: T) {
    register(&t, "n", list![]).await;
    let upper = t.name("n").to_uppercase();
    let service = table! {"Service" = t.name("s"), "Port" = 81};
    let registration =
        table! {"Node" = upper.as_str(), "SkipNodeUpdate" = true, "Service" = service};
    t.ok("catalog_register", args![registration]).await;
    let found = t.value("catalog_service", args![t.name("s")]).await;
    assert_eq!(texts(&found, "Node"), [upper]);
    let node = t.value("catalog_node", args![t.name("n")]).await;
    assert_eq!(text(node.get("Node").unwrap(), "Node"), t.name("n"));
    t.deregister(&["n"]).await;
}

/// The official Go client sends some of these fields.
async fn fields_of_other_requests_are_accepted(t: T) {
    let node = t.name("n");
    let register = format!(r#"{{"Node":"{node}","Address":"a","Token":"","CreateIndex":1}}"#);
    let deregister = format!(r#"{{"Node":"{node}","Address":"a","Token":""}}"#);
    for (path, body) in [("register", register), ("deregister", deregister)] {
        let answer = t.raw("PUT", &format!("/v1/catalog/{path}"), &body).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "true"), "{path}");
    }
    let wrong = format!(r#"{{"Node":"{node}","Address":1}}"#);
    assert_eq!(t.raw("PUT", "/v1/catalog/deregister", &wrong).await.status, 400);
}

/// The node, its instances and their checks, as each read shows them.
async fn what_was_read_can_be_written_back(t: T) {
    let node = t.name("n");
    let definition = table! {
        "HTTP" = "http://10.9.9.9", "Interval" = 10, "Timeout" = "3s", "TTL" = 90,
        "Header" = table! {"X-A" = list!["b"]},
    };
    let check = |id: &str| {
        table! {
            "CheckID" = id, "Name" = "c", "Status" = "passing", "ServiceID" = t.name("s"),
            "Definition" = definition.clone(),
        }
    };
    let service = table! {"Service" = t.name("s"), "Tags" = list!["a"], "Port" = 80};
    let registration = table! {
        "Node" = node.clone(), "Address" = "10.9.9.9", "NodeMeta" = table! {"a_b" = "c"},
        "Service" = service, "Checks" = list![check("c1"), check("c2")],
    };
    t.ok("catalog_register", args![registration]).await;
    let read = async || {
        let found = t.value("catalog_node", args![node.clone()]).await;
        let checks = t.value("health_node", args![node.clone()]).await;
        (as_in_lua(&found), as_in_lua(&checks))
    };
    let before = read().await;
    let (of_node, checks) = before.clone();
    let (given, services) = (of_node.get("Node").unwrap(), of_node.get("Services").unwrap());
    let service = services.get(&t.name("s")).unwrap();
    let list = as_in_lua(&t.value("catalog_node_services", args![node.clone()]).await);
    let listed = list.get("Services").unwrap().items()[0].clone();
    let health = as_in_lua(&t.value("health_service", args![t.name("s")]).await);
    let of_health = &health.items()[0];
    let node_again =
        |given: &Value| table! {"Node" = table! {"Verb" = "set", "Node" = given.clone()}};
    let service_again = |given: &Value| {
        table! {"Service" = table! {
            "Verb" = "set", "Node" = node.clone(), "Service" = given.clone(),
        }}
    };
    let check_again =
        |given: &Value| table! {"Check" = table! {"Verb" = "set", "Check" = given.clone()}};
    for service in [service, &listed, of_health.get("Service").unwrap()] {
        let registration = table! {
            "Node" = node.clone(), "Address" = "10.9.9.9", "SkipNodeUpdate" = true,
            "Service" = service.clone(), "Check" = checks.items()[0].clone(), "Checks" = checks.clone(),
        };
        t.ok("catalog_register", args![registration]).await;
        t.ok("txn", args![list![service_again(service)]]).await;
    }
    t.ok("txn", args![list![node_again(given), node_again(of_health.get("Node").unwrap())]]).await;
    let of_check = |it: &Value| it.items().iter().map(check_again).collect::<Vec<_>>();
    t.ok("txn", args![Value::List(of_check(&checks))]).await;
    t.ok("txn", args![Value::List(of_check(of_health.get("Checks").unwrap()))]).await;
    let after = read().await;
    assert_eq!(
        after.0.get("Services").map(without_indexes),
        before.0.get("Services").map(without_indexes)
    );
    let shown = |checks: &Value| {
        let of = |check: &Value| {
            let mut definition = check.get("Definition").unwrap().clone();
            // A transaction does not keep it.
            if let Value::Map(members) = &mut definition {
                members.retain(|(name, _)| name != "TTL");
            }
            (text(check, "CheckID").to_owned(), definition)
        };
        checks.items().iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(shown(&after.1), shown(&before.1));
    t.deregister(&["n"]).await;
}

/// Without what is null, which a table of Lua does not have.
fn as_in_lua(value: &Value) -> Value {
    match value {
        Value::Map(members) => {
            let kept = members.iter().filter(|(_, it)| *it != Value::Null);
            Value::Map(kept.map(|(name, it)| (name.clone(), as_in_lua(it))).collect())
        }
        Value::List(items) => Value::List(items.iter().map(as_in_lua).collect()),
        other => other.clone(),
    }
}

/// A value without `CreateIndex` and `ModifyIndex`.
fn without_indexes(value: &Value) -> Value {
    match value {
        Value::Map(members) => {
            let kept = members
                .iter()
                .filter(|(name, _)| !name.ends_with("eIndex") && !name.ends_with("yIndex"));
            Value::Map(kept.map(|(name, it)| (name.clone(), without_indexes(it))).collect())
        }
        other => other.clone(),
    }
}

async fn proxies_and_gateways_can_be_registered(t: T) {
    let (node, name) = (t.name("n"), t.name("s"));
    let services = [
        table! {
            "Kind" = "connect-proxy", "Service" = t.name("p"), "Port" = 1,
            "Proxy" = table! {"destination_service_name" = name.clone(), "upstreams" = table! {}},
        },
        table! {"Service" = name.clone(), "Port" = 4, "Connect" = table! {"native" = true}},
        table! {"Kind" = "terminating-gateway", "Service" = t.name("t"), "Port" = 2},
        table! {"Kind" = "mesh-gateway", "Service" = t.name("m"), "Port" = 3},
    ];
    for service in services {
        let registration =
            table! {"Node" = node.clone(), "Address" = "10.9.9.9", "Service" = service};
        t.ok("catalog_register", args![registration]).await;
    }
    let found = t.value("catalog_connect", args![name]).await;
    assert_eq!(found.items().len(), 2, "{found:?}");
    let found = t.value("catalog_node", args![node.clone()]).await;
    let kind = |name: &str| {
        let service = found.get("Services").unwrap().get(&t.name(name)).unwrap();
        text(service, "Kind").to_owned()
    };
    assert_eq!((kind("t"), kind("m")), ("terminating-gateway".into(), "mesh-gateway".into()));
    let proxy = table! {
        "Kind" = "connect-proxy", "ID" = t.name("p"), "Service" = t.name("p"), "Port" = 9,
        "Proxy" = table! {"DestinationServiceName" = t.name("s")},
    };
    let operation = table! {"Verb" = "set", "Node" = node.clone(), "Service" = proxy};
    t.ok("txn", args![list![table! {"Service" = operation}]]).await;
    t.deregister(&["n"]).await;
}

async fn a_registration_and_its_end_can_name_the_datacenter(t: T) {
    let node = t.name("n");
    let mut registration = vec![
        ("node".to_owned(), Value::from(node.clone())),
        ("address".to_owned(), "10.9.9.9".into()),
    ];
    registration.push(("datacenter".to_owned(), "dc1".into()));
    if !t.is_1_8("no node has a locality") {
        let place = table! {"region" = "r", "zone" = "z"};
        registration.push(("locality".to_owned(), place));
    }
    t.ok("catalog_register", args![Value::Map(registration)]).await;
    let found = t.value("catalog_node", args![node.clone()]).await;
    let locality =
        found.get("Node").unwrap().get("Locality").map(|it| text(it, "Region").to_owned());
    assert_eq!(locality, (!t.is_1_8("no node has a locality")).then(|| "r".to_owned()));
    t.ok("catalog_deregister", args![table! {"node" = node.clone(), "datacenter" = "dc1"}]).await;
    assert_eq!(t.value("catalog_node", args![node]).await, Value::Null);
}

async fn datacenters_are_fetched_anew_if_the_caller_says_so(t: T) {
    let target = "/v1/catalog/datacenters";
    t.raw("GET", &format!("{target}?cached"), "").await;
    for (control, status, cache) in [
        ("max-age=30", 200, Some("HIT")),
        ("max-age=0", 200, Some("MISS")),
        ("must-revalidate", 200, Some("MISS")),
        ("max-age=x", 400, None),
        ("stale-if-error=x", 400, None),
    ] {
        let mut found = None;
        // A busy 1.21 has answered MISS once more. Then its answer is fresh, and the next one is a HIT.
        for _ in 0..5 {
            let answer =
                t.raw_with("GET", &format!("{target}?cached"), "cache-control", control).await;
            assert_eq!(answer.status, status, "{control}");
            let header = answer.headers.get("x-cache");
            found = header.map(|value| value.to_str().unwrap().to_owned());
            if found.as_deref() == cache {
                break;
            }
        }
        assert!(cache.is_none() || found.as_deref() == cache, "{control}: {found:?}");
    }
}
