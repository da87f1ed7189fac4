//! Methods that the simulated agent answers as an unknown endpoint; on real servers they work.

use crate::target::{T, args, behaviours, list, table, text};
use consul_api::error::Kind;
use consul_api::value::Value;

behaviours![
    enterprise_endpoints_are_unsupported,
    other_clusters_and_the_keys_of_gossip_are_unknown,
    the_configuration_of_autopilot_is_unknown,
    what_proxies_and_gateways_ask_for_is_unknown,
    entries_of_gateways_are_stored,
    defaults_are_merged_into_proxies_alone,
];

/// Whether the target is a simulated agent; if so, checks that the method is `unsupported`.
async fn is_unknown(t: &T, method: &str, args: consul_api::request::Args) -> bool {
    let simulated = t.is_simulated();
    if simulated {
        t.fails(method, args, Kind::Unsupported).await;
    }
    simulated
}

async fn enterprise_endpoints_are_unsupported(t: T) {
    for method in ["namespace_list", "partition_list"] {
        t.fails(method, args![], Kind::Unsupported).await;
    }
    t.fails("namespace_read", args!["default"], Kind::Unsupported).await;
}

async fn other_clusters_and_the_keys_of_gossip_are_unknown(t: T) {
    let peering = table! {"PeerName" = "other"};
    let key = table! {"Key" = "d8wu8CSUrqgtjVsvcBPmhQ=="};
    for (method, args) in [
        ("peering_list", args![]),
        ("peering_token", args![peering]),
        ("peering_read", args!["other"]),
        ("peering_delete", args!["other"]),
        ("operator_keyring_list", args![]),
        ("operator_keyring_install", args![key]),
    ] {
        if !is_unknown(&t, method, args).await {
            return;
        }
    }
}

async fn the_configuration_of_autopilot_is_unknown(t: T) {
    let method = "operator_autopilot_configuration";
    if !is_unknown(&t, method, args![]).await {
        let before = t.value(method, args![]).await;
        t.ok("operator_autopilot_configuration_update", args![before.clone()]).await;
        let after = t.value(method, args![]).await;
        for name in ["LastContactThreshold", "ServerStabilizationTime", "MaxTrailingLogs"] {
            assert_eq!(after.get(name), before.get(name), "{name}");
        }
    }
}

async fn what_proxies_and_gateways_ask_for_is_unknown(t: T) {
    for method in ["discovery_chain", "catalog_gateway_services", "health_ingress"] {
        if !is_unknown(&t, method, args![t.name("web")]).await {
            t.ok(method, args![t.name("web")]).await;
        }
    }
}

/// On real servers with defaults and checks, on the simulated agent with few of them.
async fn entries_of_gateways_are_stored(t: T) {
    let services = list![table! {"Name" = t.name("s")}];
    let listeners = list![table! {"Port" = 8080, "Protocol" = "tcp", "Services" = services}];
    let entry = table! {"Kind" = "ingress-gateway", "Name" = t.name("in"), "Listeners" = listeners};
    t.ok("config_write", args![entry]).await;
    let found = t.value("config_read", args!["ingress-gateway", t.name("in")]).await;
    assert_eq!(found.get("Listeners").unwrap().items()[0].get("Port"), Some(&8080.into()));
    t.ok("config_delete", args!["ingress-gateway", t.name("in")]).await;
    if t.is_1_8("API gateways are unknown") {
        return;
    }
    let listeners = list![table! {"Name" = "l", "Port" = 80, "Protocol" = "http"}];
    let entry = table! {"Kind" = "api-gateway", "Name" = t.name("g"), "Listeners" = listeners};
    t.ok("config_write", args![entry]).await;
    let found = t.value("config_read", args!["api-gateway", t.name("g")]).await;
    assert_eq!(text(&found.get("Listeners").unwrap().items()[0], "Name"), "l");
    t.ok("config_delete", args!["api-gateway", t.name("g")]).await;
}

/// Each read of instances, of a service and of its node.
fn reads_of_instances(service: &str, node: &str) -> [String; 5] {
    [
        format!("health/service/{service}"),
        format!("health/connect/{service}"),
        format!("catalog/service/{service}"),
        format!("catalog/connect/{service}"),
        format!("catalog/node-services/{node}"),
    ]
}

async fn defaults_are_merged_into_proxies_alone(t: T) {
    let (node, plain, proxied) = (t.name("n"), t.name("plain"), t.name("proxied"));
    let register = |of: Value| {
        table! {"Node" = node.as_str(), "Address" = "10.0.0.1", "Service" = of}
    };
    t.ok("catalog_register", args![register(table! {"Service" = plain.as_str()})]).await;
    for path in reads_of_instances(&plain, &node) {
        for wait in ["", "&index=1&wait=1s", "&cached"] {
            let ask =
                async |query: &str| t.raw("GET", &format!("/v1/{path}?{query}{wait}"), "").await;
            let (merged, given) = (ask("merge-central-config").await, ask("").await);
            let backend = merged.header("x-consul-query-backend").map(str::to_owned);
            assert_eq!((merged.status, &merged.body), (200, &given.body), "{path} {wait}");
            assert_ne!(backend.as_deref(), Some("streaming"), "{path} {wait}");
        }
    }
    let proxy = table! {
        "Kind" = "connect-proxy", "Service" = t.name("proxy"), "Port" = 1,
        "Proxy" = table! {"DestinationServiceName" = proxied.as_str()},
    };
    t.ok("catalog_register", args![register(proxy)]).await;
    let [_, health, _, catalog, of_node] = reads_of_instances(&proxied, &node);
    for path in [health, catalog, of_node] {
        for query in ["merge-central-config", "merge-central-config=false"] {
            let answer = t.raw("GET", &format!("/v1/{path}?{query}"), "").await;
            let is_named = answer.body.contains("\"merge-central-config\"");
            let status = if t.is_simulated() { 400 } else { 200 };
            assert_eq!((answer.status, is_named), (status, t.is_simulated()), "{path}?{query}");
        }
    }
}
