//! Sidecars, gateways and virtual addresses: what the agent registers for the mesh.

use crate::target::{T, args, behaviours, list, table, text, texts};
use consul_api::value::Value;

behaviours![
    a_sidecar_is_registered_with_its_service,
    a_sidecar_has_what_its_definition_says,
    a_sidecar_has_the_address_of_its_service_and_checks_it_there,
    only_mesh_gateways_have_metadata_of_the_mesh,
    a_sidecar_checks_its_port_and_its_service,
    sidecars_have_ports_of_their_own_and_keep_them,
    a_sidecar_may_be_named_in_snake_case,
    registering_a_service_without_a_sidecar_keeps_the_one_that_it_has,
    deregistering_a_service_removes_its_sidecar,
    deregistering_a_sidecar_keeps_its_service,
    a_sidecar_has_no_id_and_no_sidecar_of_its_own,
    upstreams_have_a_destination_and_a_port_of_their_own,
    the_catalog_shows_what_upstreams_always_have,
    gateways_have_no_sidecar_and_no_destination,
    an_instance_in_the_mesh_has_the_virtual_address_of_its_service,
    reads_of_instances_in_the_mesh_ignore_tags,
];

const PORTS: std::ops::RangeInclusive<i64> = 21000..=21255;

/// Registers the service `s` with these further fields; returns status and body.
async fn try_register(t: &T, fields: &str) -> (u16, String) {
    let name = t.name("s");
    let body = format!(r#"{{"Name":"{name}","Port":8080{fields}}}"#);
    let answer = t.raw("PUT", "/v1/agent/service/register", &body).await;
    (answer.status, answer.body)
}

async fn register(t: &T, fields: &str) {
    let answer = try_register(t, fields).await;
    assert_eq!(answer, (200, String::new()), "{fields}");
}

async fn refused(t: &T, fields: &str, why: &str) {
    let (status, body) = try_register(t, fields).await;
    assert_eq!(status, 400, "{fields}: {body}");
    assert!(body.contains(why), "{fields}: {body}");
}

fn sidecar_id(t: &T) -> String {
    format!("{}-sidecar-proxy", t.name("s"))
}

async fn sidecar(t: &T) -> Value {
    t.value("agent_service", args![sidecar_id(t)]).await
}

fn port(service: &Value) -> i64 {
    match service.get("Port") {
        Some(Value::Int(port)) => *port,
        other => panic!("a port: {other:?}"),
    }
}

async fn deregister(t: &T) {
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn a_sidecar_is_registered_with_its_service(t: T) {
    register(&t, r#","Tags":["a"],"Meta":{"m":"1"},"Connect":{"SidecarService":{}}"#).await;
    let own = t.value("agent_service", args![t.name("s")]).await;
    assert_eq!(own.get("Connect"), None, "{own:?}");
    let sidecar = sidecar(&t).await;
    assert_eq!(text(&sidecar, "Kind"), "connect-proxy");
    assert_eq!(text(&sidecar, "Service"), sidecar_id(&t));
    assert!(PORTS.contains(&port(&sidecar)), "{sidecar:?}");
    assert_eq!(sidecar.get("Tags"), Some(&list!["a"]));
    assert_eq!(text(sidecar.get("Meta").unwrap(), "m"), "1");
    let proxy = sidecar.get("Proxy").unwrap();
    assert_eq!(text(proxy, "DestinationServiceName"), t.name("s"));
    assert_eq!(text(proxy, "DestinationServiceID"), t.name("s"));
    assert_eq!(text(proxy, "LocalServiceAddress"), "127.0.0.1");
    assert_eq!(proxy.get("LocalServicePort"), Some(&8080.into()));
    assert_eq!(proxy.get("MeshGateway"), Some(&table! {}));
    deregister(&t).await;
}

async fn a_sidecar_has_what_its_definition_says(t: T) {
    let given = r#""Name":"own","Port":7443,"Tags":["b"],"Address":"10.1.2.3",
        "Proxy":{"LocalServicePort":81,"Upstreams":[{"DestinationName":"db","LocalBindPort":9191}]}"#;
    register(&t, &format!(r#","Tags":["a"],"Connect":{{"SidecarService":{{{given}}}}}"#)).await;
    let sidecar = sidecar(&t).await;
    assert_eq!((text(&sidecar, "Service"), port(&sidecar)), ("own", 7443));
    assert_eq!(sidecar.get("Tags"), Some(&list!["b"]));
    let tagged = sidecar.get("TaggedAddresses").and_then(|all| all.get("lan_ipv4"));
    let tagged = tagged.expect("a tagged address");
    assert_eq!((text(tagged, "Address"), port(tagged)), ("10.1.2.3", 7443));
    let proxy = sidecar.get("Proxy").unwrap();
    assert_eq!(proxy.get("LocalServicePort"), Some(&81.into()));
    let upstreams = proxy.get("Upstreams").unwrap();
    assert_eq!(texts(upstreams, "DestinationName"), ["db"]);
    assert_eq!(texts(upstreams, "DestinationType"), ["service"]);
    deregister(&t).await;
}

async fn a_sidecar_has_the_address_of_its_service_and_checks_it_there(t: T) {
    if t.is_1_8("a sidecar has no address by default") {
        return;
    }
    for (given, own, checked) in [
        (r#""Address":"127.0.0.5","Connect":{"SidecarService":{}}"#, "127.0.0.5", "127.0.0.5"),
        (r#""Connect":{"SidecarService":{"Address":"127.0.0.6"}}"#, "127.0.0.6", "127.0.0.6"),
        (
            r#""Connect":{"SidecarService":{"Proxy":{"LocalServiceAddress":"127.0.0.7"}}}"#,
            "",
            "127.0.0.7",
        ),
        (
            r#""Address":"127.0.0.5","Connect":{"SidecarService":{"Port":20999}}"#,
            "127.0.0.5",
            "127.0.0.5",
        ),
    ] {
        register(&t, &format!(",{given}")).await;
        let sidecar = sidecar(&t).await;
        assert_eq!(text(&sidecar, "Address"), own, "{given}");
        for side in ["lan_ipv4", "wan_ipv4"] {
            let tagged = sidecar.get("TaggedAddresses").and_then(|all| all.get(side));
            let tagged = tagged.map(|tagged| (text(tagged, "Address"), port(tagged)));
            let expected = Some((own, port(&sidecar))).filter(|(own, _)| !own.is_empty());
            assert_eq!(tagged, expected, "{given}: {side}");
        }
        let dialed = format!("dial tcp {checked}:{}", port(&sidecar));
        t.until(&dialed, || async {
            let checks = t.value("agent_checks", args![]).await;
            let check = checks.get(&format!("service:{}:1", sidecar_id(&t))).unwrap();
            text(check, "Output").starts_with(&dialed)
        })
        .await;
        deregister(&t).await;
    }
}

async fn only_mesh_gateways_have_metadata_of_the_mesh(t: T) {
    if t.is_1_8("a place has no metadata of the mesh") {
        return;
    }
    for (kind, status) in [("mesh-gateway", 200), ("ingress-gateway", 400), ("", 400)] {
        let service = format!(r#""Kind":"{kind}","Port":1,"Meta":{{"consul-wan-federation":"1"}}"#);
        let name = t.name("g");
        let body = format!(r#"{{"Name":"{name}",{service}}}"#);
        let answer = t.raw("PUT", "/v1/agent/service/register", &body).await;
        assert_eq!(answer.status, status, "{kind}: {}", answer.body);
        let node = t.name("n");
        let body = format!(
            r#"{{"Node":"{node}","Address":"10.0.0.1","Service":{{"Service":"{name}",{service}}}}}"#
        );
        let answer = t.raw("PUT", "/v1/catalog/register", &body).await;
        assert_eq!(answer.status == 200, status == 200, "{kind}: {}", answer.body);
    }
    t.ok("agent_service_deregister", args![t.name("g")]).await;
    t.deregister(&["n"]).await;
}

async fn a_sidecar_checks_its_port_and_its_service(t: T) {
    register(&t, r#","Connect":{"SidecarService":{}}"#).await;
    let checks = t.value("agent_checks", args![]).await;
    let check = |number: u8| checks.get(&format!("service:{}:{number}", sidecar_id(&t)));
    let (listening, alias) = (check(1).expect("the first"), check(2).expect("the second"));
    assert_eq!(text(listening, "Name"), "Connect Sidecar Listening");
    assert_eq!(text(listening, "Type"), "tcp");
    assert_eq!(text(alias, "Name"), format!("Connect Sidecar Aliasing {}", t.name("s")));
    assert_eq!(text(alias, "Type"), "alias");
    register(&t, r#","Connect":{"SidecarService":{"Check":{"TTL":"1h"}}}"#).await;
    let checks = t.value("agent_checks", args![]).await;
    assert!(checks.get(&format!("service:{}", sidecar_id(&t))).is_some(), "{checks:?}");
    deregister(&t).await;
}

async fn sidecars_have_ports_of_their_own_and_keep_them(t: T) {
    register(&t, r#","Connect":{"SidecarService":{}}"#).await;
    let other = t.name("other");
    register(&t, &format!(r#","ID":"{other}","Connect":{{"SidecarService":{{}}}}"#)).await;
    let first = port(&sidecar(&t).await);
    let other_sidecar = format!("{other}-sidecar-proxy");
    let second = port(&t.value("agent_service", args![other_sidecar]).await);
    assert_ne!(first, second);
    register(&t, r#","Connect":{"SidecarService":{"Tags":["x"]}}"#).await;
    assert_eq!(port(&sidecar(&t).await), first);
    deregister(&t).await;
    t.ok("agent_service_deregister", args![other]).await;
}

async fn a_sidecar_may_be_named_in_snake_case(t: T) {
    let proxy = r#"{"destination_service_name":"web","local_service_port":1}"#;
    register(&t, &format!(r#","connect":{{"sidecar_service":{{"proxy":{proxy}}}}}"#)).await;
    let sidecar = sidecar(&t).await;
    let proxy = sidecar.get("Proxy").unwrap();
    assert_eq!(text(proxy, "DestinationServiceName"), "web");
    assert_eq!(proxy.get("LocalServicePort"), Some(&1.into()));
    deregister(&t).await;
}

async fn registering_a_service_without_a_sidecar_keeps_the_one_that_it_has(t: T) {
    register(&t, r#","Connect":{"SidecarService":{}}"#).await;
    register(&t, "").await;
    assert_eq!(text(&sidecar(&t).await, "Kind"), "connect-proxy");
    deregister(&t).await;
    assert_eq!(sidecar(&t).await, Value::Null);
}

async fn deregistering_a_service_removes_its_sidecar(t: T) {
    register(&t, r#","Connect":{"SidecarService":{}}"#).await;
    deregister(&t).await;
    assert_eq!(sidecar(&t).await, Value::Null);
    let checks = t.value("agent_checks", args![]).await;
    assert_eq!(checks.get(&format!("service:{}:1", sidecar_id(&t))), None);
    // A service that only has the name of a sidecar stays.
    let proxy = sidecar_id(&t);
    let body = format!(r#"{{"Name":"{proxy}","Port":1}}"#);
    t.raw("PUT", "/v1/agent/service/register", &body).await;
    register(&t, "").await;
    deregister(&t).await;
    assert_eq!(text(&sidecar(&t).await, "ID"), proxy);
    t.ok("agent_service_deregister", args![proxy]).await;
}

async fn deregistering_a_sidecar_keeps_its_service(t: T) {
    register(&t, r#","Connect":{"SidecarService":{}}"#).await;
    t.ok("agent_service_deregister", args![sidecar_id(&t)]).await;
    assert_eq!(sidecar(&t).await, Value::Null);
    let own = t.value("agent_service", args![t.name("s")]).await;
    assert_eq!(text(&own, "ID"), t.name("s"));
    deregister(&t).await;
}

async fn a_sidecar_has_no_id_and_no_sidecar_of_its_own(t: T) {
    let with_id = r#","Connect":{"SidecarService":{"ID":"x"}}"#;
    refused(&t, with_id, "cannot specify an ID as this is managed by the agent").await;
    let nested = r#","Connect":{"SidecarService":{"Connect":{"SidecarService":{}}}}"#;
    refused(&t, nested, "cannot have a nested SidecarService").await;
    let native = r#","Connect":{"SidecarService":{"Connect":{"Native":true}}}"#;
    if !t.is_1_8("a sidecar may be native") {
        refused(&t, native, "A Proxy cannot also be Connect Native").await;
    }
    let unknown = r#","Connect":{"SidecarService":{"Nope":1}}"#;
    refused(&t, unknown, r#"json: unknown field "Nope""#).await;
    if !t.is_1_8("a wrong check of a sidecar is a server's error") {
        let check = r#","Connect":{"SidecarService":{"Check":{"HTTP":"x"}}}"#;
        refused(&t, check, "Invalid check in sidecar_service: Interval must be > 0").await;
    }
    deregister(&t).await;
}

async fn the_catalog_shows_what_upstreams_always_have(t: T) {
    let name = t.name("s");
    let proxy = format!(
        r#"{{"DestinationServiceName":"{name}","Upstreams":[{{"DestinationName":"db","LocalBindPort":1}}]}}"#
    );
    let service =
        format!(r#"{{"Service":"{name}-proxy","Kind":"connect-proxy","Port":9,"Proxy":{proxy}}}"#);
    let node = t.name("n");
    let body = format!(r#"{{"Node":"{node}","Address":"10.0.0.1","Service":{service}}}"#);
    assert_eq!(t.raw("PUT", "/v1/catalog/register", &body).await.status, 200);
    let found = t.raw("GET", &format!("/v1/catalog/connect/{name}"), "").await.body;
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    let upstream = &found[0]["ServiceProxy"]["Upstreams"][0];
    assert_eq!((&upstream["DestinationType"], &upstream["Datacenter"]), (&"".into(), &"".into()));
    assert_eq!(upstream["MeshGateway"], serde_json::json!({}));
    t.raw("PUT", "/v1/catalog/deregister", &format!(r#"{{"Node":"{node}"}}"#)).await;
}

async fn upstreams_have_a_destination_and_a_port_of_their_own(t: T) {
    let with = |upstreams: &str| {
        format!(
            r#","Kind":"connect-proxy","Proxy":{{"DestinationServiceName":"x","Upstreams":[{upstreams}]}}"#
        )
    };
    let db = r#"{"DestinationName":"db","LocalBindPort":1}"#;
    for (upstreams, why) in [
        (r#"{"LocalBindPort":1}"#.to_owned(), "upstream destination name cannot be empty"),
        (r#"{"DestinationName":"db"}"#.to_owned(), "upstream local bind port"),
        (
            r#"{"DestinationName":"db","LocalBindPort":1,"DestinationType":"bad"}"#.to_owned(),
            r#"unknown upstream destination type: "bad""#,
        ),
        (
            format!(r#"{db},{{"DestinationName":"db","LocalBindPort":2}}"#),
            "upstreams cannot contain duplicates of",
        ),
        (
            format!(r#"{db},{{"DestinationName":"other","LocalBindPort":1}}"#),
            r#""127.0.0.1:1" is specified twice"#,
        ),
    ] {
        refused(&t, &with(&upstreams), why).await;
    }
    register(&t, &with(db)).await;
    deregister(&t).await;
}

async fn gateways_have_no_sidecar_and_no_destination(t: T) {
    let refuse = async |name: &str, fields: &str, why: &str| {
        let body = format!(r#"{{"Name":"{}",{fields}}}"#, t.name(name));
        let answer = t.raw("PUT", "/v1/agent/service/register", &body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.body);
        assert!(answer.body.contains(why), "{body}: {}", answer.body);
    };
    for kind in ["mesh-gateway", "terminating-gateway"] {
        let portless = format!("Port must be non-zero for a {kind}");
        refuse("g", &format!(r#""Kind":"{kind}""#), &portless).await;
    }
    for kind in ["mesh-gateway", "terminating-gateway", "ingress-gateway"] {
        let with = |fields: &str| format!(r#""Kind":"{kind}","Port":1,{fields}"#);
        let sidecar = with(r#""Connect":{"SidecarService":{}}"#);
        let why = format!("A {kind} cannot have a sidecar service defined");
        refuse("g", &sidecar, &why).await;
        let destination = with(r#""Proxy":{"DestinationServiceName":"x"}"#);
        let why = format!("The Proxy.DestinationServiceName configuration is invalid for a {kind}");
        refuse("g", &destination, &why).await;
    }
}

/// The virtual address of each instance of a service in the catalog, if it has one.
async fn virtual_addresses(t: &T, service: &str) -> Vec<Option<String>> {
    let found = t.value("catalog_service", args![t.name(service)]).await;
    let address = |instance: &Value| {
        let tagged = instance.get("ServiceTaggedAddresses")?.get("consul-virtual")?;
        Some(text(tagged, "Address").to_owned())
    };
    found.items().iter().map(address).collect()
}

async fn an_instance_in_the_mesh_has_the_virtual_address_of_its_service(t: T) {
    if t.is_1_8("there are no virtual addresses") {
        return;
    }
    let service = t.name("s");
    let put = async |name: &str, fields: &str| {
        let (node, name) = (t.name("n"), t.name(name));
        let service = format!(r#"{{"Service":"{name}","Port":7{fields}}}"#);
        let body = format!(r#"{{"Node":"{node}","Address":"10.0.0.1","Service":{service}}}"#);
        assert_eq!(t.raw("PUT", "/v1/catalog/register", &body).await.body, "true");
    };
    let proxy_of = |name: &str| {
        format!(r#","Kind":"connect-proxy","Proxy":{{"DestinationServiceName":"{name}"}}"#)
    };
    put("s", r#","Connect":{"Native":true}"#).await;
    put("p", &proxy_of(&service)).await;
    put("q", &proxy_of(&t.name("other"))).await;
    put("plain", "").await;
    let native = virtual_addresses(&t, "s").await;
    let address = native[0].as_deref().expect("a virtual address");
    assert!(address.starts_with("240."), "{address}");
    assert_eq!(virtual_addresses(&t, "p").await, native);
    assert_ne!(virtual_addresses(&t, "q").await, native);
    assert_eq!(virtual_addresses(&t, "plain").await, [None]);
    t.deregister(&["n"]).await;
}

async fn reads_of_instances_in_the_mesh_ignore_tags(t: T) {
    register(&t, r#","Tags":["x"],"Connect":{"Native":true}"#).await;
    let listed = async |method: &str, tag: &str| {
        let found = t.value(method, args![t.name("s"); "tag" = tag]).await;
        found.items().len()
    };
    t.until("the service is in the catalog", || async {
        listed("catalog_connect", "x").await == 1
    })
    .await;
    for method in ["catalog_connect", "health_connect"] {
        assert_eq!(listed(method, "none").await, 1, "{method}");
    }
    assert_eq!(listed("catalog_service", "none").await, 0);
    deregister(&t).await;
}
