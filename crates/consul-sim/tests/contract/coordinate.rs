//! Network coordinates, and the order by distance that they give.

use crate::target::{T, args, behaviours, list, table, text, texts};
use consul_api::value::Value;

behaviours![
    the_servers_have_coordinates_in_their_datacenter,
    an_unknown_node_has_no_coordinates,
    a_coordinate_is_written_a_little_later,
    a_coordinate_of_other_dimensions_is_refused,
    the_nearest_come_first,
    near_an_unknown_node_the_order_is_that_of_names,
    an_update_has_no_unknown_members,
    there_is_one_segment,
];

fn at(place: i32) -> Value {
    let vec = list![place, 0, 0, 0, 0, 0, 0, 0];
    table! {"Vec" = vec, "Error" = 1, "Adjustment" = 0, "Height" = 0}
}

async fn register(t: &T, node: &str) {
    let registration = table! {
        "Node" = t.name(node), "Address" = "10.9.9.9", "NodeMeta" = table! {"test" = t.name("m")},
        "Service" = table! {"Service" = t.name("s")},
        "Check" = table! {"Name" = t.name("c"), "ServiceID" = t.name("s"), "Status" = "passing"},
    };
    t.ok("catalog_register", args![registration]).await;
}

/// Sets the coordinate of a node; the server writes coordinates in batches, every 5 s.
async fn place(t: &T, node: &str, place: i32) {
    let update = table! {"Node" = t.name(node), "Coord" = at(place)};
    t.ok("coordinate_update", args![update]).await;
}

async fn coordinates(t: &T, node: &str) -> Value {
    t.value("coordinate_node", args![t.name(node)]).await
}

async fn is_placed(t: &T, node: &str) {
    t.until("it is written", || async { !coordinates(t, node).await.items().is_empty() }).await;
}

async fn the_servers_have_coordinates_in_their_datacenter(t: T) {
    let pools = t.value("coordinate_datacenters", args![]).await;
    assert_eq!(texts(&pools, "Datacenter"), ["dc1"]);
    assert_eq!(texts(&pools, "AreaID"), ["wan"]);
    let servers = pools.items()[0].get("Coordinates").unwrap();
    assert_eq!(servers.items().len(), 1);
}

async fn an_unknown_node_has_no_coordinates(t: T) {
    assert_eq!(coordinates(&t, "none").await, list![]);
}

async fn a_coordinate_is_written_a_little_later(t: T) {
    register(&t, "n").await;
    place(&t, "n", 3).await;
    is_placed(&t, "n").await;
    let found = coordinates(&t, "n").await;
    let found = &found.items()[0];
    assert_eq!((text(found, "Node"), text(found, "Segment")), (&*t.name("n"), ""));
    assert_eq!(found.get("Coord").unwrap().get("Vec").unwrap().items()[0].as_u64(), Some(3));
    let nodes = t.value("coordinate_nodes", args![]).await;
    assert!(texts(&nodes, "Node").contains(&&*t.name("n")));
    t.deregister(&["n"]).await;
    assert_eq!(coordinates(&t, "n").await, list![]);
}

async fn a_coordinate_of_other_dimensions_is_refused(t: T) {
    let body = r#"{"Node":"x","Coord":{"Vec":[1],"Error":1,"Adjustment":0,"Height":0}}"#;
    let answer = t.raw("PUT", "/v1/coordinate/update", body).await;
    assert_eq!((answer.status, answer.body.as_str()), (500, "incompatible coordinate"));
}

async fn the_nearest_come_first(t: T) {
    for (node, at) in [("n1", 9), ("n2", 2), ("n3", 1)] {
        register(&t, node).await;
        place(&t, node, at).await;
    }
    register(&t, "n4").await;
    is_placed(&t, "n1").await;
    is_placed(&t, "n2").await;
    is_placed(&t, "n3").await;
    let [n1, n2, n3, n4] = ["n1", "n2", "n3", "n4"].map(|node| t.name(node));
    let order = [&n3, &n2, &n1, &n4];
    let near = || n3.as_str();
    let instances = t.value("catalog_service", args![t.name("s"); "near" = near()]).await;
    assert_eq!(texts(&instances, "Node"), order);
    let checks = t.value("health_checks", args![t.name("s"); "near" = near()]).await;
    assert_eq!(texts(&checks, "Node"), order);
    let instances = t.value("health_service", args![t.name("s"); "near" = near()]).await;
    let nodes = instances.items().iter().map(|item| text(item.get("Node").unwrap(), "Node"));
    assert_eq!(nodes.collect::<Vec<_>>(), order);
    let ours = table! {"test" = t.name("m")};
    let nodes = t.value("catalog_nodes", args![; "node_meta" = ours, "near" = near()]).await;
    assert_eq!(texts(&nodes, "Node"), order);
    for node in order {
        t.ok("catalog_deregister", args![table! {"Node" = node.as_str()}]).await;
    }
}

async fn near_an_unknown_node_the_order_is_that_of_names(t: T) {
    register(&t, "n2").await;
    register(&t, "n1").await;
    let found = t.value("catalog_service", args![t.name("s"); "near" = t.name("none")]).await;
    assert_eq!(texts(&found, "Node"), [t.name("n1"), t.name("n2")]);
    for node in ["n1", "n2"] {
        t.deregister(&[node]).await;
    }
}

async fn an_update_has_no_unknown_members(t: T) {
    let body = r#"{"Node":"n","Odd":1,"Coord":{"Vec":[0,0,0,0,0,0,0,0]}}"#;
    let answer = t.raw("PUT", "/v1/coordinate/update", body).await;
    assert!(answer.status == 400 || t.is_1_8("unknown members are ignored"), "{}", answer.body);
}

async fn there_is_one_segment(t: T) {
    register(&t, "n").await;
    place(&t, "n", 3).await;
    is_placed(&t, "n").await;
    for (segment, is_there) in [("", true), ("?segment", true), ("?segment=x", false)] {
        let all = t.raw("GET", &format!("/v1/coordinate/nodes{segment}"), "").await;
        assert_eq!(all.body.contains(&t.name("n")), is_there, "{segment}");
        let one = t.raw("GET", &format!("/v1/coordinate/node/{}{segment}", t.name("n")), "").await;
        assert_eq!(one.status, if is_there { 200 } else { 404 }, "{segment}");
    }
    t.deregister(&["n"]).await;
}
