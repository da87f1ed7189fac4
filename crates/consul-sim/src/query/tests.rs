use crate::control::testing::World;
use http::Method;

fn create(world: &World, body: &str) -> String {
    let created = world.send(World::request(Method::POST, "query", body));
    created.json()["ID"].as_str().unwrap_or_else(|| panic!("{body}: {}", created.text())).to_owned()
}

fn service(world: &World, node: &str, id: &str) {
    let body = format!(
        "{{\"Node\":\"{node}\",\"Address\":\"1.1.1.1\",\"Service\":{{\"ID\":\"{id}\",\"Service\":\"web\"}}}}"
    );
    assert_eq!(world.put("catalog/register", &body).text(), "true");
}

#[test]
fn the_order_is_random_and_the_same_for_the_same_seed() {
    let orders = || {
        let world = World::new();
        for place in 0..5 {
            service(&world, &format!("n{place}"), "web");
        }
        create(&world, r#"{"Name":"q","Service":{"Service":"web"}}"#);
        let order = || {
            let nodes = world.get("query/q/execute").json()["Nodes"].clone();
            let nodes = nodes.as_array().into_iter().flatten();
            nodes.map(|node| node["Node"]["Node"].to_string()).collect::<Vec<_>>().join(" ")
        };
        (0..10).map(|_| order()).collect::<Vec<_>>()
    };
    let one = orders();
    assert_eq!(one, orders());
    assert!(one.iter().any(|order| *order != one[0]));
}

#[test]
fn a_list_of_queries_wakes_for_each_change_and_for_the_end_of_their_session() {
    let world = World::new();
    let session = world.session("");
    let watch = |world: &World| {
        let index = world.get("query").index();
        world.watch(&format!("query?index={index}"))
    };
    let mut created = watch(&world);
    world.put("kv/a", "1");
    assert!(created.waits());
    let body = format!("{{\"Session\":\"{session}\",\"Service\":{{\"Service\":\"web\"}}}}");
    let id = create(&world, &body);
    assert!(!created.waits());
    let mut ended = watch(&world);
    world.put(&format!("session/destroy/{session}"), "");
    assert_eq!(ended.answer().expect("woken").text(), "[]");
    assert_eq!(world.get(&format!("query/{id}")).status(), 404);
}

/// A reader sees them in this order, and so does a test that compares texts.
#[test]
fn the_members_of_an_answer_are_in_consuls_order() {
    let world = World::new();
    service(&world, "n", "web");
    create(&world, r#"{"Name":"q","Service":{"Service":"web"}}"#);
    let answer = world.get("query/q/execute");
    let text = answer.text();
    let place = |name: &str| text.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{text}"));
    let of_nodes = ["Nodes", "Node", "Checks", "DNS"].map(place);
    assert!(of_nodes.is_sorted(), "{text}");
    let own = ["Failovers", "LastContact", "KnownLeader", "NotModified"].map(place);
    assert!(own.is_sorted() && own[0] > of_nodes[3], "{text}");
}

#[test]
fn the_node_that_near_names_is_the_first() {
    let world = World::new();
    for node in ["a", "b", "c"] {
        service(&world, node, "web");
    }
    create(&world, r#"{"Name":"q","Service":{"Service":"web","Near":"b"}}"#);
    for _ in 0..5 {
        for (query, first) in [("", "b"), ("?near=C", "c")] {
            let found = world.get(&format!("query/q/execute{query}")).json();
            assert_eq!(found["Nodes"][0]["Node"]["Node"], first);
        }
        assert_eq!(
            world.get("query/q/execute?limit=2").json()["Nodes"][2],
            serde_json::Value::Null
        );
    }
}

#[test]
fn the_named_node_is_the_first_only_if_it_is_among_the_first_ten() {
    let world = World::new();
    for place in 0..10 {
        service(&world, &format!("n{place}"), "web");
    }
    create(&world, r#"{"Name":"q","Service":{"Service":"web","Near":"n0"}}"#);
    let is_first = || world.get("query/q/execute").json()["Nodes"][0]["Node"]["Node"] == "n0";
    assert!((0..110).all(|_| is_first()));
    service(&world, "n10", "web");
    let count = (0..110).filter(|_| is_first()).count();
    // It is the eleventh in one of eleven.
    assert!((85..110).contains(&count), "{count}");
}

/// Consul computes these.
#[test]
fn templates_with_more_than_variables_are_refused_in_words() {
    let world = World::new();
    let ask = |service: &str| {
        let template = r#""Template":{"Type":"name_prefix_match"}"#;
        let body = serde_json::json!({"Service": service}).to_string();
        let body = format!("{{\"Name\":\"t\",{template},\"Service\":{body}}}");
        world.send(World::request(Method::POST, "query", &body)).text().to_owned()
    };
    for service in [
        "${1 + 2}",
        "${(1)}",
        "${1.5}",
        "${--5}",
        "${name.full == name.prefix ? 1 : 2}",
        "${!true}",
        r#"${"a\n"}"#,
        r#"${"${name.full}"}"#,
    ] {
        let why = "only variables, texts, integers and match are supported by the simulated agent";
        assert!(ask(service).ends_with(why), "{service}: {}", ask(service));
    }
    assert!(ask(r#"${true}${-7}${"a"}"#).starts_with("{\"ID\""));
}

/// Consul 1.21 says the same of these.
#[test]
fn templates_that_cannot_be_compiled_are_refused() {
    let world = World::new();
    for (near, why) in [
        (
            "${nope",
            "format '${nope' in Service.Near: parse error at 1:7: expected \"}\" but found end of string",
        ),
        (
            "x${nope}",
            "evaluation for 'x${nope}' in Service.Near: 1:4: unknown variable accessed: nope",
        ),
        (
            "${upper(name.full)}",
            "evaluation for '${upper(name.full)}' in Service.Near: 1:3: unknown function called: upper",
        ),
        (
            "${match(name.full)}",
            "evaluation for '${match(name.full)}' in Service.Near: __builtin_StringToInt: strconv.ParseInt: parsing \"t\": invalid syntax",
        ),
        (
            "${}",
            "format '${}' in Service.Near: parse error at 1:3: expected expression but found \"}\"",
        ),
    ] {
        let template = r#""Template":{"Type":"name_prefix_match"}"#;
        let body = format!(
            "{{\"Name\":\"t\",{template},\"Service\":{{\"Service\":\"s\",\"Near\":\"{near}\"}}}}"
        );
        let refused = world.send(World::request(Method::POST, "query", &body));
        assert_eq!(
            refused.text(),
            format!("raft apply failed: failed compiling template: Bad {why}")
        );
    }
}
