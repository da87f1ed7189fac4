//! Definitions of proxies: they are read back with the types of Consul, by whichever way they came.

use crate::target::{T, behaviours};
use serde_json::{Value, json};

behaviours![a_proxy_is_read_as_its_type, exposed_paths_are_checked];

/// One member with a value, and the same with the zero value of its type.
fn members() -> [(&'static str, Value, Value); 13] {
    [
        ("DestinationServiceID", json!("w1"), json!("")),
        ("LocalServiceAddress", json!("10.0.0.9"), json!("")),
        ("LocalServicePort", json!(5), json!(0)),
        ("LocalServiceSocketPath", json!("/s"), json!("")),
        ("Mode", json!("direct"), json!("")),
        ("Config", json!({"a": 0, "b": "", "c": {}}), json!({})),
        ("Upstreams", json!([upstream()]), json!([])),
        ("MeshGateway", json!({"Mode": "none"}), json!({"Mode": ""})),
        ("Expose", json!({"Checks": true}), json!({"Checks": false, "Paths": []})),
        (
            "TransparentProxy",
            json!({"OutboundListenerPort": 7, "DialedDirectly": true}),
            json!({"OutboundListenerPort": 0, "DialedDirectly": false}),
        ),
        (
            "AccessLogs",
            json!({"Enabled": true, "Type": "stdout", "TextFormat": "x"}),
            json!({"Enabled": false, "Type": "", "Path": "", "JSONFormat": "", "TextFormat": ""}),
        ),
        ("AccessLogs", json!({"Enabled": true, "DisableListenerLogs": true}), json!(null)),
        ("EnvoyExtensions", json!([{"Name": "x", "Arguments": {"a": 0}}]), json!([])),
    ]
}

fn upstream() -> Value {
    json!({
        "DestinationType": "", "DestinationName": "u", "DestinationPeer": "", "Datacenter": "",
        "LocalBindAddress": "", "LocalBindPort": 5, "LocalBindSocketPath": "", "Config": {},
        "LocalBindSocketMode": "", "MeshGateway": {"Mode": ""},
    })
}

/// The member as it is read back from the agent or from the catalog; `None` if it is not shown.
fn shown(name: &str, given: &Value, by_agent: bool, is_zero: bool) -> Option<Value> {
    match (name, is_zero) {
        ("MeshGateway" | "Expose", true) => Some(json!({})),
        ("Mode", true) if !by_agent => Some(json!("")),
        ("Upstreams", false) if by_agent => Some(json!([{
            "DestinationType": "service", "DestinationName": "u", "LocalBindPort": 5, "MeshGateway": {},
        }])),
        ("Upstreams", false) => Some(json!([{
            "DestinationType": "", "DestinationName": "u", "Datacenter": "", "LocalBindPort": 5,
            "MeshGateway": {},
        }])),
        // The agent has the extensions of the defaults.
        ("EnvoyExtensions", false) if by_agent => None,
        ("EnvoyExtensions", false) => Some(json!([{
            "Name": "x", "Required": false, "Arguments": {"a": 0}, "ConsulVersion": "",
            "EnvoyVersion": "",
        }])),
        (_, true) => None,
        _ => Some(given.clone()),
    }
}

async fn read(t: &T, target: &str) -> Value {
    let answer = t.raw("GET", target, "").await;
    serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{target}: {}", answer.body))
}

async fn a_proxy_is_read_as_its_type(t: T) {
    if t.is_1_8("a proxy has fewer members") {
        return;
    }
    let (name, node) = (t.name("p"), t.name("n"));
    let mut wrong = Vec::new();
    for (member, value, zero) in members() {
        for (given, is_zero) in [(value, false), (zero, true)] {
            let proxy = json!({"DestinationServiceName": "w", member: given});
            let service = json!({"Kind": "connect-proxy", "Name": name, "Port": 1, "Proxy": proxy});
            let body = service.to_string();
            let answer = t.raw("PUT", "/v1/agent/service/register", &body).await;
            assert_eq!(answer.status, 200, "{body}: {}", answer.body);
            let of_agent = read(&t, &format!("/v1/agent/service/{name}")).await["Proxy"].clone();
            let service =
                json!({"Kind": "connect-proxy", "Service": name, "Port": 1, "Proxy": proxy});
            let body = json!({"Node": node, "Address": "10.0.0.1", "Service": service});
            let answer = t.raw("PUT", "/v1/catalog/register", &body.to_string()).await;
            assert_eq!(answer.status, 200, "{body}: {}", answer.body);
            let of_node = read(&t, &format!("/v1/catalog/node/{node}")).await;
            let of_catalog = of_node["Services"][&name]["Proxy"].clone();
            let set = json!([{"Service": {"Verb": "set", "Node": node, "Service": service}}]);
            let answer = t.raw("PUT", "/v1/txn", &set.to_string()).await;
            assert_eq!(answer.status, 200, "{set}: {}", answer.body);
            let of_node = read(&t, &format!("/v1/catalog/node/{node}")).await;
            let of_txn = of_node["Services"][&name]["Proxy"].clone();
            // Transactions take over a few members alone.
            let is_taken = ["DestinationService", "LocalService", "MeshG", "Tr"];
            let is_taken = is_taken.iter().any(|begin| member.starts_with(begin));
            for (by, found, by_agent, is_zero) in [
                ("agent", of_agent, true, is_zero),
                ("catalog", of_catalog, false, is_zero),
                ("transaction", of_txn, false, is_zero || !is_taken),
            ] {
                let expected = shown(member, &given, by_agent, is_zero);
                if found.get(member) != expected.as_ref() {
                    wrong.push(format!("{by}, {member}: {given}: {:?}", found.get(member)));
                }
            }
        }
    }
    t.raw("PUT", &format!("/v1/agent/service/deregister/{name}"), "").await;
    t.raw("PUT", "/v1/catalog/deregister", &json!({"Node": node}).to_string()).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn exposed_paths_are_checked(t: T) {
    if t.is_1_8("a path is exposed on one port") {
        return;
    }
    let path = |path: &str, port: i64, protocol: &str| json!({"Path": path, "ListenerPort": port, "Protocol": protocol});
    let (name, node) = (t.name("p"), t.name("n"));
    for (paths, why) in [
        (json!([path("/x", 1, "http"), path("/x", 2, "HTTP2"), path("/y", 3, "")]), ""),
        (json!([path("", 1, "http")]), "expose.paths: empty path exposed"),
        (json!([path("/x", 0, "http")]), "expose.paths: invalid listener port: 0"),
        (json!([path("/x", 65_536, "http")]), "expose.paths: invalid listener port: 65536"),
        (
            json!([path("/x", 1, "http"), path("/y", 1, "http")]),
            "expose.paths: duplicate listener ports exposed",
        ),
        (
            json!([path("/x", 1, "TCP")]),
            "protocol 'tcp' not supported for path: /x, must be in: [http",
        ),
    ] {
        let proxy = json!({"DestinationServiceName": "w", "Expose": {"Paths": paths}});
        let own = json!({"Kind": "connect-proxy", "Name": name, "Port": 1, "Proxy": proxy});
        let sidecar = json!({"Port": 1, "Proxy": {"Expose": {"Paths": paths}}});
        let with_sidecar = json!({"Name": name, "Port": 1, "Connect": {"SidecarService": sidecar}});
        let of_catalog =
            json!({"Kind": "connect-proxy", "Service": name, "Port": 1, "Proxy": proxy});
        let of_catalog = json!({"Node": node, "Address": "10.0.0.1", "Service": of_catalog});
        let gateway = json!({"Kind": "mesh-gateway", "Name": name, "Port": 1, "Proxy": {"Expose": {"Paths": paths}}});
        for (target, body, status) in [
            ("/v1/agent/service/register", own, 400),
            ("/v1/agent/service/register", with_sidecar, 400),
            ("/v1/catalog/register", of_catalog, 500),
            ("/v1/agent/service/register", gateway, 200),
        ] {
            let answer = t.raw("PUT", target, &body.to_string()).await;
            let status = if why.is_empty() { 200 } else { status };
            assert_eq!(answer.status, status, "{body}: {}", answer.body);
            assert!(status == 200 || answer.body.contains(why), "{body}: {}", answer.body);
        }
    }
    t.raw("PUT", &format!("/v1/agent/service/deregister/{name}"), "").await;
    t.raw("PUT", "/v1/catalog/deregister", &json!({"Node": node}).to_string()).await;
}
