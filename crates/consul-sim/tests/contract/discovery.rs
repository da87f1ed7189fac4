//! Discovery chains, and the virtual addresses of services.

use crate::acl::{caller, denied, rule};
use crate::target::{T, args, behaviours, table, text};
use consul_sim::acl::DefaultPolicy::Deny;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

behaviours![
    a_service_without_entries_has_a_default_chain,
    a_resolver_sets_timeouts,
    a_default_subset_and_failover_are_targets,
    a_redirect_leads_to_the_other_service,
    a_splitter_leads_to_the_resolvers_of_its_parts,
    a_router_comes_first_and_ends_with_the_service_itself,
    a_proxy_can_override_what_the_entries_say,
    a_chain_is_compiled_for_another_datacenter,
    an_external_name_is_the_sni_of_a_target,
    invalid_overrides_are_refused,
    a_chain_waits_for_a_new_entry,
    a_chain_needs_the_permission_to_read_its_service,
    a_service_with_an_entry_has_a_virtual_address,
];

fn is_older(t: &T) -> bool {
    t.is_1_8(
        "the ids in discovery chains have no partition, and virtual addresses are not assigned",
    )
}

async fn write(t: &T, entry: Value) {
    let answer = t.raw("PUT", "/v1/config", &entry.to_string()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "true"), "{entry}");
}

/// Gives a service a protocol with requests.
async fn speaks_http(t: &T, name: &str) {
    write(t, json!({"Kind": "service-defaults", "Name": t.name(name), "Protocol": "http"})).await;
}

async fn get(t: &T, path: &str) -> Value {
    let answer = t.raw("GET", path, "").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).expect("JSON")
}

async fn chain(t: &T, name: &str) -> Value {
    get(t, &format!("/v1/discovery-chain/{}", t.name(name))).await["Chain"].take()
}

/// The chain with these overrides.
async fn overridden(t: &T, name: &str, query: &str, overrides: Value) -> Value {
    let path = format!("/v1/discovery-chain/{}{query}", t.name(name));
    let answer = t.raw("POST", &path, &overrides.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let mut json: Value = serde_json::from_str(&answer.body).expect("JSON");
    json["Chain"].take()
}

fn id(t: &T, name: &str) -> String {
    format!("{}.default.default.dc1", t.name(name))
}

async fn a_service_without_entries_has_a_default_chain(t: T) {
    if is_older(&t) {
        let chain = t.value("discovery_chain", args![t.name("web")]).await;
        assert_eq!(text(chain.get("Chain").unwrap(), "ServiceName"), t.name("web"));
        return;
    }
    let roots = t.value("connect_ca_roots", args![]).await;
    let (web, id) = (t.name("web"), id(&t, "web"));
    let sni = format!("{web}.default.dc1.internal.{}", text(&roots, "TrustDomain"));
    let expected = json!({
        "ServiceName": web, "Namespace": "default", "Partition": "default", "Datacenter": "dc1",
        "Default": true, "Protocol": "tcp", "StartNode": format!("resolver:{id}"),
        "Nodes": {format!("resolver:{id}"): {
            "Type": "resolver", "Name": id,
            "Resolver": {"ConnectTimeout": "5s", "Default": true, "Target": id},
        }},
        "Targets": {&id: {
            "ConnectTimeout": "5s", "ID": id, "Service": web, "Namespace": "default",
            "Partition": "default", "Datacenter": "dc1", "MeshGateway": {}, "Subset": {},
            "TransparentProxy": {}, "SNI": sni, "Name": sni,
        }},
        "AutoVirtualIPs": null, "ManualVirtualIPs": null,
    });
    assert_eq!(chain(&t, "web").await, expected);
}

async fn a_resolver_sets_timeouts(t: T) {
    if is_older(&t) {
        return;
    }
    let (name, id) = (t.name("web"), id(&t, "web"));
    let times = json!({
        "Kind": "service-resolver", "Name": name, "ConnectTimeout": "33s", "RequestTimeout": "7s",
    });
    write(&t, times).await;
    let chain = chain(&t, "web").await;
    let expected =
        json!({"ConnectTimeout": "33s", "RequestTimeout": 7_000_000_000_u64, "Target": id});
    assert_eq!(chain["Nodes"][format!("resolver:{id}")]["Resolver"], expected);
    assert_eq!(chain["Targets"][id]["ConnectTimeout"], "33s");
    assert_eq!(chain.get("Default"), None);
}

async fn a_default_subset_and_failover_are_targets(t: T) {
    if is_older(&t) {
        return;
    }
    let subset = json!({"Filter": "Service.Meta.v == 1", "OnlyPassing": true});
    let balancer = json!({"Policy": "ring_hash", "RingHashConfig": {"MinimumRingSize": 3}});
    let resolver = json!({
        "Kind": "service-resolver", "Name": t.name("web"), "DefaultSubset": "v1",
        "Subsets": {"v1": subset, "v2": {}}, "LoadBalancer": balancer,
        "Failover": {"v1": {"Service": t.name("other")}, "*": {"Datacenters": ["dc2", "dc3"]}},
    });
    write(&t, resolver).await;
    let found = chain(&t, "web").await;
    let (v1, other) = (format!("v1.{}", id(&t, "web")), id(&t, "other"));
    let node = &found["Nodes"][format!("resolver:{v1}")];
    assert_eq!(node["Resolver"]["Failover"], json!({"Targets": [other]}));
    assert_eq!(node["LoadBalancer"], balancer);
    assert_eq!(found["StartNode"], format!("resolver:{v1}"));
    assert_eq!(found["Targets"][&v1]["Subset"], subset);
    assert_eq!(found["Targets"][other]["Subset"], json!({}));
    // The other subset has the failover of all.
    let redirect = json!({"Service": t.name("web"), "ServiceSubset": "v2"});
    let old = json!({"Kind": "service-resolver", "Name": t.name("old"), "Redirect": redirect});
    write(&t, old).await;
    let found = chain(&t, "old").await;
    let v2 = format!("v2.{}.default.default", t.name("web"));
    let targets = json!({"Targets": [format!("{v2}.dc2"), format!("{v2}.dc3")]});
    assert_eq!(found["Nodes"][format!("resolver:{v2}.dc1")]["Resolver"]["Failover"], targets);
}

async fn a_redirect_leads_to_the_other_service(t: T) {
    if is_older(&t) {
        return;
    }
    let redirect = json!({"Service": t.name("new")});
    let entry = json!({"Kind": "service-resolver", "Name": t.name("old"), "Redirect": redirect});
    write(&t, entry).await;
    let found = chain(&t, "old").await;
    assert_eq!(found["ServiceName"], t.name("old"));
    assert_eq!(found["StartNode"], format!("resolver:{}", id(&t, "new")));
    assert_eq!(found["Targets"].as_object().map(serde_json::Map::len), Some(1));
    assert_eq!(found.get("Default"), None);
}

/// A splitter of two services.
async fn splitter(t: &T) -> Value {
    speaks_http(t, "web").await;
    speaks_http(t, "canary").await;
    let splits = json!([
        {"Weight": 90},
        {"Weight": 10, "Service": t.name("canary"), "RequestHeaders": {"Set": {"x": "y"}}},
    ]);
    let entry = json!({"Kind": "service-splitter", "Name": t.name("web"), "Splits": splits});
    write(t, entry).await;
    splits
}

async fn a_splitter_leads_to_the_resolvers_of_its_parts(t: T) {
    if is_older(&t) {
        return;
    }
    let splits = splitter(&t).await;
    let found = chain(&t, "web").await;
    let key = format!("splitter:{}.default.default", t.name("web"));
    assert_eq!(found["StartNode"], key);
    assert_eq!(found["Protocol"], "http");
    let next = |name| format!("resolver:{}", id(&t, name));
    let expected = json!([
        {"Definition": splits[0], "Weight": 90, "NextNode": next("web")},
        {"Definition": splits[1], "Weight": 10, "NextNode": next("canary")},
    ]);
    assert_eq!(found["Nodes"][key]["Splits"], expected);
    assert_eq!(found["Targets"].as_object().map(serde_json::Map::len), Some(2));
}

async fn a_router_comes_first_and_ends_with_the_service_itself(t: T) {
    if is_older(&t) {
        return;
    }
    splitter(&t).await;
    let by_prefix = json!({
        "Match": {"HTTP": {"PathPrefix": "/x"}},
        "Destination": {"Service": t.name("canary"), "PrefixRewrite": "/"},
    });
    let to_itself = json!({"Match": {"HTTP": {"PathExact": "/y"}}});
    let routes = [by_prefix, to_itself];
    let entry = json!({"Kind": "service-router", "Name": t.name("web"), "Routes": routes});
    write(&t, entry).await;
    let found = chain(&t, "web").await;
    let key = format!("router:{}.default.default", t.name("web"));
    assert_eq!(found["StartNode"], key);
    let splitter = format!("splitter:{}.default.default", t.name("web"));
    let rest = json!({
        "Match": {"HTTP": {"PathPrefix": "/"}},
        "Destination": {
            "Service": t.name("web"), "Namespace": "default", "Partition": "default",
        },
    });
    let expected = json!([
        {"Definition": routes[0], "NextNode": format!("resolver:{}", id(&t, "canary"))},
        {"Definition": routes[1], "NextNode": splitter},
        {"Definition": rest, "NextNode": splitter},
    ]);
    assert_eq!(found["Nodes"][key]["Routes"], expected);
    // Without requests there is nothing to route.
    let tcp = overridden(&t, "web", "", json!({"OverrideProtocol": "tcp"})).await;
    assert_eq!(tcp["StartNode"], format!("resolver:{}", id(&t, "web")));
    assert_eq!(tcp["Protocol"], "tcp");
    assert!(tcp["CustomizationHash"].is_string(), "{tcp}");
}

async fn a_proxy_can_override_what_the_entries_say(t: T) {
    if is_older(&t) {
        return;
    }
    let overrides = json!({
        "OverrideMeshGateway": {"Mode": "local"}, "OverrideProtocol": "grpc",
        "OverrideConnectTimeout": "22s",
    });
    let found = overridden(&t, "web", "", overrides).await;
    assert!(found["CustomizationHash"].is_string(), "{found}");
    assert_eq!(found["Protocol"], "grpc");
    let target = &found["Targets"][id(&t, "web")];
    assert_eq!(target["MeshGateway"], json!({"Mode": "local"}));
    assert_eq!(target["ConnectTimeout"], "22s");
    // What changes nothing does not count.
    let found = overridden(&t, "web", "", json!({"override_connect_timeout": "5s"})).await;
    assert_eq!(found.get("CustomizationHash"), None);
}

async fn a_chain_is_compiled_for_another_datacenter(t: T) {
    if is_older(&t) {
        return;
    }
    let path = format!("/v1/discovery-chain/{}?compile-dc=dc2", t.name("web"));
    let found = get(&t, &path).await["Chain"].take();
    assert_eq!(found["Datacenter"], "dc2");
    assert_eq!(found["StartNode"], format!("resolver:{}.default.default.dc2", t.name("web")));
}

async fn an_external_name_is_the_sni_of_a_target(t: T) {
    if is_older(&t) {
        return;
    }
    let entry = json!({
        "Kind": "service-defaults", "Name": t.name("web"), "Protocol": "tcp",
        "ExternalSNI": "x.example", "Meta": {"a": "b"}, "MeshGateway": {"Mode": "local"},
    });
    write(&t, entry).await;
    let found = chain(&t, "web").await;
    let target = &found["Targets"][id(&t, "web")];
    assert_eq!((&target["SNI"], &target["External"]), (&json!("x.example"), &json!(true)));
    assert_eq!(target["MeshGateway"], json!({}));
    assert_eq!(found["ServiceMeta"], json!({"a": "b"}));
}

async fn invalid_overrides_are_refused(t: T) {
    if is_older(&t) {
        return;
    }
    for (body, why) in [
        (r#"{"OverrideMeshGateway":{"Mode":"x"}}"#, "Invalid OverrideMeshGateway.Mode parameter"),
        (
            r#"{"OverrideConnectTimeout":"x"}"#,
            "Request decoding failed: 1 error(s) decoding:\n\n* error decoding \
             'OverrideConnectTimeout': time: invalid duration \"x\"",
        ),
        ("", "Request decoding failed: EOF"),
        (
            "[]",
            "Request decoding failed: json: cannot unmarshal array into Go value of type \
             map[string]interface {}",
        ),
    ] {
        let answer = t.raw("POST", "/v1/discovery-chain/x", body).await;
        assert_eq!((answer.status, answer.body.as_str()), (400, why));
    }
    let answer = t.raw("GET", "/v1/discovery-chain/", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (400, "Missing chain name"));
}

async fn a_chain_waits_for_a_new_entry(t: T) {
    let first = t.index("discovery_chain", args![t.name("web")]).await;
    let begun = Instant::now();
    let changed = async {
        let mut index = first;
        loop {
            let again = args![t.name("web"); "index" = index, "wait" = "60s"];
            let answer = t.ok("discovery_chain", again).await;
            index = answer.meta.index.expect("the answer has an index");
            if text(answer.value.get("Chain").unwrap(), "Protocol") == "http" {
                return index;
            }
        }
    };
    let change = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        speaks_http(&t, "web").await;
    };
    let (index, ()) = tokio::join!(changed, change);
    assert!(index > first);
    assert!(begun.elapsed() < Duration::from_secs(55));
}

async fn a_chain_needs_the_permission_to_read_its_service(t: T) {
    let t = t.with_acls(Deny);
    let other = caller(&t, &rule("service", &t.name("other"), "read")).await;
    denied(&other, "discovery_chain", args![t.name("web")]).await;
    let reader = caller(&t, &rule("service", &t.name("web"), "read")).await;
    reader.ok("discovery_chain", args![t.name("web")]).await;
}

async fn a_service_with_an_entry_has_a_virtual_address(t: T) {
    if is_older(&t) {
        return;
    }
    write(&t, json!({"Kind": "service-resolver", "Name": t.name("web")})).await;
    let found = chain(&t, "web").await;
    let addresses = found["AutoVirtualIPs"].as_array().expect("a list");
    assert!(addresses[0].as_str().is_some_and(|address| address.starts_with("240.0.")));
    assert_eq!(found["ManualVirtualIPs"], json!([]));
    // Its instances have the same.
    let service = table! {
        "Name" = t.name("web"), "Port" = 80, "Connect" = table! {"Native" = true},
    };
    t.ok("agent_service_register", args![service]).await;
    t.until("the catalog has it", || async {
        let path = format!("/v1/catalog/service/{}", t.name("web"));
        let instances = get(&t, &path).await;
        instances[0]["ServiceTaggedAddresses"]["consul-virtual"]["Address"] == addresses[0]
    })
    .await;
    t.ok("agent_service_deregister", args![t.name("web")]).await;
}
