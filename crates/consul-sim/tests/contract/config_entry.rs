//! Central configuration.

use crate::acl::caller;
use crate::target::{T, args, behaviours, list, table, text, texts};
use consul_api::error::Kind;
use consul_api::value::Value;
use consul_sim::acl::DefaultPolicy::Deny;
use serde_json::json;
use std::time::{Duration, Instant};

behaviours![
    a_configuration_entry_is_written_read_and_deleted,
    a_configuration_entry_is_written_once_with_cas_zero,
    a_configuration_entry_is_written_and_deleted_with_its_modify_index,
    an_unknown_configuration_entry_is_absent,
    a_body_that_is_not_an_entry_is_refused,
    an_entry_is_written_as_it_was_read,
    names_of_members_are_read_in_any_case,
    two_spellings_of_a_member_are_refused,
    durations_of_stored_kinds_are_read_in_nanoseconds,
    names_of_entries_in_another_case_are_the_same,
    all_entries_are_listed_by_kind_and_name,
    invalid_service_defaults_are_refused,
    an_entry_has_no_more_than_64_metadata,
    the_settings_of_upstreams_are_whole,
    another_order_of_metadata_changes_nothing,
    a_protocol_is_written_in_lower_case,
    invalid_resolvers_are_refused,
    settings_of_consul_enterprise_are_refused,
    the_weights_of_splits_are_a_hundred,
    invalid_routes_are_refused,
    routes_and_splits_need_a_protocol_with_requests,
    proxy_defaults_have_one_name,
    the_sources_of_intentions_are_sorted_by_precedence,
    a_read_of_an_entry_waits_for_its_change,
    entries_need_permissions_of_their_service,
    services_are_exported_to_peers,
    external_services_have_no_subsets,
    extensions_have_all_their_members,
    durations_of_passive_checks_are_numbers,
    splits_that_change_headers_may_repeat,
    metadata_of_each_kind_is_texts,
    null_in_a_list_of_an_entry_is_an_item_without_members,
    lists_in_the_place_of_objects_are_read_as_blocks,
    lists_of_one_item_are_taken_off_once_for_each_value,
    all_values_of_other_types_are_told_in_the_order_of_their_names,
    numbers_of_an_entry_have_their_types,
    members_that_are_read_and_not_shown,
    providers_of_tokens_are_there_before_intentions_refer_to_them,
    the_logs_and_failovers_of_proxies_are_checked,
    members_of_gateways_have_their_types,
    listeners_of_api_gateways_need_a_port_and_a_protocol,
    an_entry_without_a_name_is_deleted_as_one_that_is_not_there,
];

fn entry(t: &T, protocol: &str) -> Value {
    table! {"Kind" = "service-defaults", "Name" = t.name("web"), "Protocol" = protocol}
}

async fn a_configuration_entry_is_written_read_and_deleted(t: T) {
    t.ok("config_write", args![entry(&t, "http")]).await;
    let found = t.value("config_read", args!["service-defaults", t.name("web")]).await;
    assert_eq!(text(&found, "Protocol"), "http");
    let all = t.value("config_list", args!["service-defaults"]).await;
    assert!(texts(&all, "Name").contains(&t.name("web").as_str()));
    t.ok("config_delete", args!["service-defaults", t.name("web")]).await;
    let gone = t.value("config_read", args!["service-defaults", t.name("web")]).await;
    assert_eq!(gone, Value::Null);
}

async fn a_configuration_entry_is_written_once_with_cas_zero(t: T) {
    t.ok("config_write", args![entry(&t, "http"); "cas" = 0]).await;
    t.fails("config_write", args![entry(&t, "grpc"); "cas" = 0], Kind::Conflict).await;
    if !t.is_1_8("a write that changes nothing expects an index") {
        t.ok("config_write", args![entry(&t, "http"); "cas" = 0]).await;
    }
    t.ok("config_delete", args!["service-defaults", t.name("web")]).await;
}

async fn a_configuration_entry_is_written_and_deleted_with_its_modify_index(t: T) {
    t.ok("config_write", args![entry(&t, "http")]).await;
    let read = async || t.value("config_read", args!["service-defaults", t.name("web")]).await;
    let before = read().await;
    let index = before.get("ModifyIndex").unwrap().as_u64().unwrap();
    t.fails("config_write", args![entry(&t, "grpc"); "cas" = index + 1], Kind::Conflict).await;
    t.ok("config_write", args![entry(&t, "grpc"); "cas" = index]).await;
    let after = read().await;
    assert_eq!(after.get("CreateIndex"), before.get("CreateIndex"));
    assert!(after.get("ModifyIndex").unwrap().as_u64() > Some(index));
    let path = format!("/v1/config/service-defaults/{}", t.name("web"));
    let name = t.name("web");
    let name = name.as_str();
    if t.is_1_8("an entry is deleted whatever `cas` says (before 1.11)") {
        let error =
            t.fails("config_delete", args!["service-defaults", name; "cas" = index], Kind::Decode);
        assert!(error.await.maybe_applied());
    } else {
        let kept = t.raw("DELETE", &format!("{path}?cas={index}"), "").await;
        assert_eq!((kept.status, kept.body.as_str()), (200, "false"));
        let error = t
            .fails("config_delete", args!["service-defaults", name; "cas" = index], Kind::Conflict)
            .await;
        assert!(!error.maybe_applied() && error.message().contains("another modify index"));
        let index = read().await.get("ModifyIndex").and_then(Value::as_u64).unwrap();
        t.ok("config_delete", args!["service-defaults", name; "cas" = index]).await;
        t.ok("config_write", args![entry(&t, "grpc")]).await;
    }
    let deleted = t.raw("DELETE", &path, "").await;
    assert_eq!((deleted.status, deleted.body.as_str()), (200, "{}"));
}

async fn an_unknown_configuration_entry_is_absent(t: T) {
    assert_eq!(
        t.value("config_read", args!["service-defaults", t.name("none")]).await,
        Value::Null
    );
    t.ok("config_delete", args!["service-defaults", t.name("none")]).await;
}

/// Writes an entry that must be refused with this text.
async fn refused(t: &T, status: u16, body: &str, why: &str) {
    let refused = t.raw("PUT", "/v1/config", body).await;
    assert_eq!(refused.status, status, "{body}: {}", refused.body);
    assert!(refused.body.contains(why), "{body}: {}", refused.body);
}

async fn a_body_that_is_not_an_entry_is_refused(t: T) {
    for (body, why) in [
        ("", "Request decoding failed: EOF"),
        ("[]", "Request decoding failed: '' expected a map"),
        ("{}", "Payload does not contain a kind/Kind key at the top level"),
        (r#"{"Kind":"nope"}"#, "invalid config entry kind: nope"),
        (r#"{"Kind":"service-defaults","Name":"web","Bad":1}"#, "invalid config key \"Bad\""),
    ] {
        refused(&t, 400, body, why).await;
    }
    let unknown = t.raw("DELETE", "/v1/config/nope/x", "").await;
    assert!(unknown.body.contains("invalid config entry kind: nope"), "{}", unknown.body);
    assert_eq!(t.raw("DELETE", "/v1/config/service-defaults", "").await.status, 404);
}

async fn an_entry_is_written_as_it_was_read(t: T) {
    t.ok("config_write", args![entry(&t, "http")]).await;
    let read = async || t.value("config_read", args!["service-defaults", t.name("web")]).await;
    let before = read().await;
    if t.is_1_8("an entry with a hash is refused (before 1.18)") {
        t.ok("config_delete", args!["service-defaults", t.name("web")]).await;
        return;
    }
    t.ok("config_write", args![before.clone()]).await;
    assert_eq!(read().await, before);
    t.ok("config_delete", args!["service-defaults", t.name("web")]).await;
    let name = t.name("web");
    let with =
        |member: &str| format!("{{\"Kind\":\"service-defaults\",\"Name\":\"{name}\",{member}}}");
    for (member, why) in [
        (r#""create_index":7"#, "1 error occurred:\n\t* invalid config key \"create_index\""),
        (r#""Namespace":"x""#, "\"Namespace\", namespaces are a consul enterprise feature"),
        (
            r#""Bad":1,"CreateIndex":7,"Namespace":"x""#,
            "2 errors occurred:\n\t* invalid config key ",
        ),
    ] {
        refused(&t, 400, &with(member), why).await;
    }
}

async fn names_of_members_are_read_in_any_case(t: T) {
    let name = t.name("web");
    let body = format!(
        "{{\"kind\":\"service-resolver\",\"name\":\"{name}\",\"connect_timeout\":\"65s\",\
         \"default_subset\":\"v1\",\"subsets\":{{\"v1\":{{\"only_passing\":true}}}}}}"
    );
    assert_eq!(t.raw("PUT", "/v1/config", &body).await.status, 200);
    let found = t.value("config_read", args!["service-resolver", name.as_str()]).await;
    assert_eq!(text(&found, "ConnectTimeout"), "1m5s");
    let subset = found.get("Subsets").unwrap().get("v1").unwrap();
    assert_eq!(subset.get("OnlyPassing"), Some(&true.into()));
    t.ok("config_delete", args!["service-resolver", name]).await;
}

async fn durations_of_stored_kinds_are_read_in_nanoseconds(t: T) {
    if t.is_1_8("no jwt-provider and no http-route") {
        return;
    }
    for (kind, members, path) in [
        (
            "jwt-provider",
            r#""JSONWebKeySet":{"Remote":{"URI":"https://a.example","CacheDuration":"500µs"}},"Issuer":"a""#,
            "/JSONWebKeySet/Remote/CacheDuration",
        ),
        (
            "jwt-provider",
            r#""JSONWebKeySet":{"Remote":{"URI":"https://a.example","JWKSCluster":{"ConnectTimeout":"500µs"}}},"Issuer":"a""#,
            "/JSONWebKeySet/Remote/JWKSCluster/ConnectTimeout",
        ),
        (
            "http-route",
            r#""Rules":[{"Filters":{"TimeoutFilter":{"RequestTimeout":"500µs"}},"Services":[{"Name":"x"}]}]"#,
            "/Rules/0/Filters/TimeoutFilter/RequestTimeout",
        ),
    ] {
        let name = t.name("web");
        let body = format!("{{\"Kind\":\"{kind}\",\"Name\":\"{name}\",{members}}}");
        let written = t.raw("PUT", "/v1/config", &body).await;
        assert_eq!(written.status, 200, "{body}: {}", written.body);
        let read = t.raw("GET", &format!("/v1/config/{kind}/{name}"), "").await;
        let read: serde_json::Value = serde_json::from_str(&read.body).expect("an entry");
        assert_eq!(read.pointer(path), Some(&500_000.into()), "{read}");
        t.ok("config_delete", args![kind, name]).await;
    }
}

/// Consul takes the name that is exactly its own, and does not know the other.
async fn two_spellings_of_a_member_are_refused(t: T) {
    let name = t.name("web");
    let of =
        |members: &str| format!("{{\"Kind\":\"service-resolver\",\"Name\":\"{name}\",{members}}}");
    let why = |key: &str| format!("1 error occurred:\n\t* invalid config key \"{key}\"");
    for (members, key) in [
        (r#""ConnectTimeout":"7s","connecttimeout":"9s""#, "connecttimeout"),
        (r#""CONNECTTIMEOUT":"9s","ConnectTimeout":"7s""#, "CONNECTTIMEOUT"),
        (r#""ConnectTimeout":"7s","connect_timeout":"9s""#, "connecttimeout"),
        (r#""Subsets":{"v1":{"OnlyPassing":true,"onlypassing":false}}"#, "Subsets[v1].onlypassing"),
    ] {
        refused(&t, 400, &of(members), &why(key)).await;
    }
}

async fn names_of_entries_in_another_case_are_the_same(t: T) {
    let read = async |name: &str| t.value("config_read", args!["service-defaults", name]).await;
    let (upper, lower) = (t.name("WEB"), t.name("web"));
    for (name, other) in [(&upper, &lower), (&lower, &upper)] {
        let entry = table! {"Kind" = "service-defaults", "Name" = name.as_str()};
        t.ok("config_write", args![entry]).await;
        assert_eq!(text(&read(other).await, "Name"), name);
        let all = t.value("config_list", args!["service-defaults"]).await;
        let own = texts(&all, "Name").into_iter().filter(|name| name.starts_with(&t.name("")));
        assert_eq!(own.collect::<Vec<_>>(), [name]);
    }
    t.ok("config_delete", args!["service-defaults", upper]).await;
    assert_eq!(read(&lower).await, Value::Null);
}

async fn all_entries_are_listed_by_kind_and_name(t: T) {
    let service = table! {"Name" = "x"};
    let listener = table! {"Port" = 8080, "Protocol" = "tcp", "Services" = list![service]};
    let gateway =
        table! {"Kind" = "ingress-gateway", "Name" = t.name("in"), "Listeners" = list![listener]};
    t.ok("config_write", args![entry(&t, "tcp")]).await;
    t.ok("config_write", args![gateway]).await;
    let answer = t.raw("GET", "/v1/config/", "").await;
    let all: Vec<serde_json::Value> = serde_json::from_str(&answer.body).expect("a list");
    let kinds: Vec<_> = all.iter().filter_map(|entry| entry["Kind"].as_str()).collect();
    assert!(kinds.len() >= 2 && kinds.is_sorted(), "{kinds:?}");
    t.ok("config_delete", args!["service-defaults", t.name("web")]).await;
    t.ok("config_delete", args!["ingress-gateway", t.name("in")]).await;
}

async fn invalid_service_defaults_are_refused(t: T) {
    let newer = [
        (r#""Name":"web","Protocol":"bad""#, "invalid value for protocol: bad"),
        (r#""Name":"web","BalanceInboundConnections":"x""#, "balance_inbound_connections: x"),
        (
            r#""Name":"web","Destination":{"Addresses":["1.2.3.4"],"Port":0}"#,
            "Invalid Port number 0",
        ),
        (r#""Name":"*""#, "and not a wildcard"),
        (
            r#""Name":"web","Protocol":"x","BalanceInboundConnections":"y","RateLimits":{}"#,
            "3 errors occurred:\n\t* invalid value for balance_inbound_connections: y\n\t* invalid \
             value for protocol: x\n\t* invalid rate_limits config. ",
        ),
        (
            r#""Name":"web","UpstreamConfig":{},"Destination":{"Addresses":["a"],"Port":1}"#,
            "UpstreamConfig and Destination are mutually exclusive for service defaults",
        ),
        (
            r#""Name":"web","Destination":{"Addresses":["a","a","*.b",""],"Port":1}"#,
            "3 errors occurred:\n\t* Duplicate address 'a' is not allowed\n\t* Destination address '*.b' \
             is invalid ",
        ),
        (r#""Name":"web","MutualTLSMode":"x""#, "Invalid MutualTLSMode \"x\". Must be one of"),
        (
            r#""Name":"web","MutualTLSMode":"permissive""#,
            "because AllowEnablingPermissiveMutualTLS=false in the mesh config entry",
        ),
    ];
    if t.is_1_8("members of service defaults are not checked, or unknown") {
        return;
    }
    refused(&t, 500, r#"{"Kind":"service-defaults"}"#, "Name is required").await;
    let wrong = r#"{"Kind":"service-defaults","Name":"web","MaxInboundConnections":"x"}"#;
    refused(&t, 400, wrong, "cannot parse 'MaxInboundConnections' as int").await;
    for (members, why) in newer {
        refused(&t, 500, &format!("{{\"Kind\":\"service-defaults\",{members}}}"), why).await;
    }
}

async fn an_entry_has_no_more_than_64_metadata(t: T) {
    if t.is_1_8("metadata of entries are unknown, or not counted") {
        return;
    }
    let meta: Vec<_> = (0..65).map(|place| format!("\"k{place}\":\"\"")).collect();
    for kind in ["service-defaults", "service-resolver"] {
        let written = |count: usize| {
            let (name, meta) = (t.name("m"), meta[..count].join(","));
            format!("{{\"Kind\":\"{kind}\",\"Name\":\"{name}\",\"Meta\":{{{meta}}}}}")
        };
        refused(&t, 500, &written(65), "Meta exceeds maximum element count 64").await;
        assert_eq!(t.raw("PUT", "/v1/config", &written(64)).await.status, 200);
        t.ok("config_delete", args![kind, t.name("m")]).await;
    }
}

async fn the_settings_of_upstreams_are_whole(t: T) {
    if t.is_1_8("upstreams have no settings in service defaults (before 1.9)") {
        return;
    }
    let name = t.name("web");
    let body = format!(
        "{{\"Kind\":\"service-defaults\",\"Name\":\"{name}\",\"UpstreamConfig\":{{\
         \"Defaults\":{{\"Protocol\":\"HTTP\",\"ConnectTimeoutMs\":-1}},\
         \"Overrides\":[{{\"Name\":\"b\",\"ConnectTimeoutMs\":\"7\"}}]}}}}"
    );
    assert_eq!(t.raw("PUT", "/v1/config", &body).await.status, 200);
    let found = t.value("config_read", args!["service-defaults", name.as_str()]).await;
    let upstreams = found.get("UpstreamConfig").unwrap();
    let defaults = upstreams.get("Defaults").unwrap();
    assert_eq!(defaults.get("Peer"), Some(&"".into()));
    assert_eq!(defaults.get("Protocol"), Some(&"http".into()));
    assert_eq!(defaults.get("ConnectTimeoutMs"), None);
    assert!(defaults.get("MeshGateway").is_some());
    let own = &upstreams.get("Overrides").unwrap().items()[0];
    assert_eq!(own.get("ConnectTimeoutMs"), Some(&7.into()));
    t.ok("config_delete", args!["service-defaults", name]).await;
}

/// As Consul keeps no order of them.
async fn another_order_of_metadata_changes_nothing(t: T) {
    let written = async |config: &str| {
        let name = t.name("web");
        let body =
            format!("{{\"Kind\":\"service-resolver\",\"Name\":\"{name}\",\"Meta\":{{{config}}}}}");
        assert_eq!(t.raw("PUT", "/v1/config", &body).await.status, 200);
        let found = t.value("config_read", args!["service-resolver", name]).await;
        found.get("ModifyIndex").unwrap().as_u64()
    };
    if t.is_1_8("a write that changes nothing has an index") {
        return;
    }
    let first = written(r#""b":"1","a":"2""#).await;
    assert_eq!(written(r#""a":"2","b":"1""#).await, first);
    assert!(written(r#""a":"3","b":"1""#).await > first);
    t.ok("config_delete", args!["service-resolver", t.name("web")]).await;
}

async fn a_protocol_is_written_in_lower_case(t: T) {
    let name = t.name("s");
    let body =
        format!("{{\"Kind\":\"service-defaults\",\"Name\":\"{name}\",\"Protocol\":\"HTTP\"}}");
    let answer = t.raw("PUT", "/v1/config", &body).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "true"));
    let target = format!("/v1/config/service-defaults/{name}");
    let written = t.raw("GET", &target, "").await.body.replace(' ', "");
    assert!(written.contains("\"Protocol\":\"http\""), "{written}");
    t.raw("DELETE", &target, "").await;
}

async fn invalid_resolvers_are_refused(t: T) {
    let name = t.name("web");
    for (members, why) in [
        (r#""DefaultSubset":"nope""#, "DefaultSubset \"nope\" is not a valid subset"),
        (r#""Redirect":{}"#, "Redirect is empty"),
        (
            r#""Redirect":{"ServiceSubset":"x"}"#,
            "Redirect.ServiceSubset defined without Redirect.Service",
        ),
        (
            r#""Redirect":{"Service":"x"},"Failover":{"*":{"Service":"y"}}"#,
            "Redirect and Failover cannot both be set",
        ),
        (r#""Failover":{"zz":{"Service":"y"}}"#, "Bad Failover[\"zz\"]: not a valid subset"),
        (r#""ConnectTimeout":"-1s""#, "Bad ConnectTimeout '-1s', must be >= 0"),
        (r#""Subsets":{"":{}}"#, "Subset defined with empty name"),
        (
            r#""Subsets":{"a":{"Filter":"bad bad"}}"#,
            "Filter for subset \"a\" is not a valid expression",
        ),
        (
            r#""Failover":{"*":{"Service":"x","Targets":[{"Service":"y"}]}}"#,
            "Bad Failover[\"*\"]: Targets cannot be set with Service",
        ),
        (
            r#""Failover":{"*":{"Datacenters":["x",""]}}"#,
            "Bad Failover[\"*\"].Datacenters: found empty datacenter",
        ),
        (
            r#""Failover":{"*":{"Targets":[{"Service":"y"},{"Peer":"p","Datacenter":"d"}]}}"#,
            "Bad Failover[\"*\"].Targets[1]: Peer cannot be set with Datacenter",
        ),
        (
            r#""Failover":{"*":{"ServiceSubset":"q"}}"#,
            "Bad Failover[\"*\"]: ServiceSubset \"q\" is not a valid subset of \"\"",
        ),
        (
            r#""Redirect":{"Service":"x","Peer":"p","ServiceSubset":"v"}"#,
            "Redirect.Peer cannot be set with Redirect.ServiceSubset",
        ),
        (r#""Redirect":{"Peer":"p"}"#, "Redirect.Peer defined without Redirect.Service"),
        (
            r#""Redirect":{"Service":"x","SamenessGroup":"g"}"#,
            "Redirect: Setting SamenessGroup requires Consul Enterprise",
        ),
    ] {
        let is_newer = ["Targets", "Datacenters", "Peer", "ServiceSubset\":\"q", "Sameness"];
        if is_newer.iter().any(|word| members.contains(word))
            && t.is_1_8("references are not checked, or unknown")
        {
            continue;
        }
        if members.contains("Filter") && t.is_1_8("filters of subsets are not checked") {
            continue;
        }
        let body = format!("{{\"Kind\":\"service-resolver\",\"Name\":\"{name}\",{members}}}");
        refused(&t, 500, &body, why).await;
    }
}

async fn settings_of_consul_enterprise_are_refused(t: T) {
    if t.is_1_8("entries have no settings of Consul Enterprise") {
        return;
    }
    let name = t.name("web");
    for (members, why) in [
        (
            r#""Failover":{"*":{"Service":"x","Policy":{"Mode":"sequential"}}}"#,
            "Bad Failover[\"*\"]: Setting failover policies requires Consul Enterprise",
        ),
        (
            r#""Failover":{"*":{"Service":"x","SamenessGroup":"g"}}"#,
            "Bad Failover[\"*\"]: Setting SamenessGroup requires Consul Enterprise",
        ),
        (
            r#""PrioritizeByLocality":{"Mode":"failover"}"#,
            "Prioritize-by-locality requires Consul Enterprise",
        ),
    ] {
        let body = format!("{{\"Kind\":\"service-resolver\",\"Name\":\"{name}\",{members}}}");
        refused(&t, 500, &body, why).await;
    }
}

async fn the_weights_of_splits_are_a_hundred(t: T) {
    let name = t.name("web");
    for (splits, why) in [
        ("", "no splits configured"),
        (
            r#"{"Weight":90,"Service":"a"},{"Weight":5,"Service":"b"}"#,
            "the sum of all split weights must be 100, not 95.000000",
        ),
        (
            r#"{"Weight":50,"Service":"a"},{"Weight":50,"Service":"a"}"#,
            "split destination occurs more than once",
        ),
    ] {
        let body =
            format!("{{\"Kind\":\"service-splitter\",\"Name\":\"{name}\",\"Splits\":[{splits}]}}");
        refused(&t, 500, &body, why).await;
    }
}

async fn invalid_routes_are_refused(t: T) {
    let name = t.name("web");
    for (http, why) in [
        (
            r#""PathExact":"/a","PathPrefix":"/b""#,
            "should only contain at most one of PathExact, PathPrefix, or PathRegex",
        ),
        (r#""PathExact":"a""#, "Route[0] PathExact doesn't start with '/': \"a\""),
        (r#""Header":[{"Exact":"x"}]"#, "Route[0] Header[0] missing required Name field"),
        (
            r#""QueryParam":[{"Name":"x"}]"#,
            "Route[0] QueryParam[0] should only contain one of Present, Exact, or Regex",
        ),
    ] {
        let body = format!(
            "{{\"Kind\":\"service-router\",\"Name\":\"{name}\",\"Routes\":[{{\"Match\":{{\"HTTP\":{{{http}}}}}}}]}}"
        );
        refused(&t, 500, &body, why).await;
    }
    if t.is_1_8("methods are not checked") {
        return;
    }
    let body = format!(
        "{{\"Kind\":\"service-router\",\"Name\":\"{name}\",\"Routes\":[{{\"Match\":{{\"HTTP\":\
         {{\"Methods\":[\"x\"]}}}}}}]}}"
    );
    refused(&t, 500, &body, "Route[0] Methods contains an invalid method \"X\"").await;
}

async fn routes_and_splits_need_a_protocol_with_requests(t: T) {
    let name = t.name("web");
    let router = table! {"Kind" = "service-router", "Name" = name.as_str(), "Routes" = list![table! {
        "Match" = table! {"HTTP" = table! {"PathPrefix" = "/a", "Methods" = list!["get"]}},
        "Destination" = table! {"RequestTimeout" = "5s"},
    }]};
    let error = t.fails("config_write", args![router.clone()], Kind::Http).await;
    assert!(error.message().contains("does not permit advanced routing or splitting"), "{error}");
    t.ok("config_write", args![entry(&t, "http")]).await;
    t.ok("config_write", args![router]).await;
    let found = t.value("config_read", args!["service-router", name.as_str()]).await;
    let route = &found.get("Routes").unwrap().items()[0];
    let http = route.get("Match").unwrap().get("HTTP").unwrap();
    assert_eq!(text(http, "PathPrefix"), "/a");
    assert_eq!(text(route.get("Destination").unwrap(), "RequestTimeout"), "5s");
    let gone = args!["service-defaults", name.as_str()];
    let error = t.fails("config_delete", gone.clone(), Kind::Http).await;
    assert!(error.message().contains("does not permit advanced routing or splitting"), "{error}");
    t.ok("config_delete", args!["service-router", name.as_str()]).await;
    t.ok("config_delete", gone).await;
}

async fn proxy_defaults_have_one_name(t: T) {
    if t.is_1_8("the defaults of proxies are the global ones, whatever their name says") {
        return;
    }
    let config = || table! {"a" = 1, "b" = list!["x", "y"], "c" = list!["z"]};
    let defaults = |name: &str| {
        table! {"Kind" = "proxy-defaults", "Name" = name, "Config" = config()}
    };
    let error = t.fails("config_write", args![defaults("x")], Kind::Http).await;
    assert!(error.message().contains("only \"global\" is supported"), "{error}");
    let error = t.fails("config_delete", args!["proxy-defaults", "x"], Kind::Http).await;
    assert!(error.message().contains("only \"global\" is supported"), "{error}");
    let body = r#"{"Kind":"proxy-defaults","Name":"global","MutualTLSMode":"x"}"#;
    refused(&t, 500, body, "Invalid MutualTLSMode \"x\"").await;
    t.ok("config_write", args![defaults("global")]).await;
    let found = t.value("config_read", args!["proxy-defaults", "global"]).await;
    let config = found.get("Config").unwrap();
    assert_eq!(config.get("b"), Some(&list!["x", "y"]));
    // A list of one is taken for what it holds.
    assert_eq!(config.get("c"), Some(&"z".into()));
    t.ok("config_delete", args!["proxy-defaults", "global"]).await;
}

async fn the_sources_of_intentions_are_sorted_by_precedence(t: T) {
    if t.is_1_8("intentions are not entries (before 1.9)") {
        return;
    }
    let source = |name: &str, action: &str| table! {"Name" = name, "Action" = action};
    let write = |sources: Value| {
        args![table! {"Kind" = "service-intentions", "Name" = t.name("web"), "Sources" = sources}]
    };
    for (sources, why) in [
        (list![], "At least one source is required"),
        (list![source("a*", "allow")], "wildcard character '*' cannot be used with partial values"),
        (list![source("a", "x")], "Sources[0].Action must be set to 'allow' or 'deny'"),
        (
            list![source("a", "allow"), source("a", "deny")],
            "Sources[1] defines \"a\" more than once",
        ),
    ] {
        let error = t.fails("config_write", write(sources), Kind::Http).await;
        assert!(error.message().contains(why), "{error}");
    }
    let web = t.name("web");
    for (source, why) in [
        (r#""Peer":"*","Action":"allow""#, "Sources[0].Peer: cannot use wildcard '*' in peer"),
        (
            r#""SamenessGroup":"g","Action":"allow""#,
            "Sources[0].SamenessGroup: Sameness groups are a Consul Enterprise feature.",
        ),
        (
            &format!("\"Action\":\"allow\",\"Description\":\"{}\"", "x".repeat(513)),
            "Sources[0].Description exceeds maximum length 512",
        ),
        (
            r#""Permissions":[{"Action":"allow","HTTP":{"Methods":["x"]}}]"#,
            "Sources[0].Permissions[0].HTTP.Methods contains an invalid method \"X\"",
        ),
        (
            r#""Permissions":[{"Action":"allow","HTTP":{"Header":[{"Name":"h"}]}}]"#,
            "should only contain one of Present, Exact, Prefix, Suffix, Contains, or Regex",
        ),
    ] {
        let sources = format!("\"Sources\":[{{\"Name\":\"a\",{source}}}]");
        let body = format!("{{\"Kind\":\"service-intentions\",\"Name\":\"{web}\",{sources}}}");
        refused(&t, 500, &body, why).await;
    }
    // A member that only the endpoints by id write is dropped.
    let legacy = table! {"Name" = "a", "Action" = "allow", "LegacyID" = "x"};
    t.ok("config_write", write(list![legacy])).await;
    let found = t.value("config_read", args!["service-intentions", t.name("web")]).await;
    assert_eq!(found.get("Sources").unwrap().items()[0].get("LegacyID"), None);
    // One of a peer is another source.
    let of_peer = table! {"Name" = "a", "Peer" = "p", "Action" = "deny"};
    t.ok("config_write", write(list![source("a", "allow"), of_peer])).await;
    t.ok("config_write", write(list![source("*", "deny"), source("a", "allow")])).await;
    let found = t.value("config_read", args!["service-intentions", t.name("web")]).await;
    let sources = found.get("Sources").unwrap();
    assert_eq!(texts(sources, "Name"), ["a", "*"]);
    assert_eq!(texts(sources, "Type"), ["consul", "consul"]);
    assert_eq!(sources.items()[1].get("Precedence"), Some(&8.into()));
    t.ok("config_delete", args!["service-intentions", t.name("web")]).await;
}

async fn a_read_of_an_entry_waits_for_its_change(t: T) {
    t.ok("config_write", args![entry(&t, "http")]).await;
    let read = args!["service-defaults", t.name("web")];
    let index = t.index("config_read", read).await;
    let start = Instant::now();
    let list = args!["service-defaults"; "index" = index.to_string(), "wait" = "20s"];
    let change = async {
        crate::target::pause(Duration::from_millis(200)).await;
        t.ok("config_write", args![entry(&t, "grpc")]).await;
    };
    let (answer, ()) = tokio::join!(t.ok("config_list", list), change);
    assert!(start.elapsed() >= Duration::from_millis(200) || answer.meta.index > Some(index));
    assert!(answer.meta.index > Some(index));
    t.ok("config_delete", args!["service-defaults", t.name("web")]).await;
}

async fn entries_need_permissions_of_their_service(t: T) {
    let t = t.with_acls(Deny);
    let rules = format!("service \"{}\" {{ policy = \"read\" }}", t.name("web"));
    let reader = caller(&t, &rules).await;
    let writer = caller(&t, "service \"own\" { policy = \"write\" }").await;
    let redirect = table! {"Service" = t.name("other")};
    let resolver = table! {"Kind" = "service-resolver", "Name" = "own", "Redirect" = redirect};
    writer.fails("config_write", args![resolver], Kind::PermissionDenied).await;
    t.ok("config_write", args![entry(&t, "http")]).await;
    let read = || args!["service-defaults", t.name("web")];
    assert_eq!(text(&reader.value("config_read", read()).await, "Protocol"), "http");
    t.anonymous().fails("config_read", read(), Kind::PermissionDenied).await;
    assert_eq!(t.anonymous().value("config_list", args!["service-defaults"]).await, list![]);
    reader.fails("config_write", args![entry(&t, "grpc")], Kind::PermissionDenied).await;
    reader.fails("config_delete", read(), Kind::PermissionDenied).await;
    t.ok("config_delete", read()).await;
}

/// Writes an entry; the status and text of the answer.
async fn put(t: &T, body: &str) -> (u16, String) {
    let answer = t.raw("PUT", "/v1/config", &body.replace('%', &t.name("web"))).await;
    (answer.status, answer.body)
}

fn done() -> (u16, String) {
    (200, "true".to_owned())
}

async fn written(t: &T, kind: &str) -> serde_json::Value {
    let path = format!("/v1/config/{kind}/{}", t.name("web"));
    serde_json::from_str(&t.raw("GET", &path, "").await.body).unwrap()
}

async fn forget(t: &T, kinds: &[&str]) {
    for kind in kinds {
        t.raw("DELETE", &format!("/v1/config/{kind}/{}", t.name("web")), "").await;
    }
}

async fn services_are_exported_to_peers(t: T) {
    if t.is_1_8("there are no exported services (before 1.17.3)") {
        t.fails("exported_services", args![], Kind::Unsupported).await;
        return;
    }
    let exported = async || t.raw("GET", "/v1/exported-services", "").await.body;
    let empty = exported().await;
    assert_eq!(empty, "[]");
    for (services, why) in [
        ("{}", "Services[0]: service name cannot be empty"),
        (r#"{"Name":"a"}"#, "Services[0]: must have at least one consumer"),
        (
            r#"{"Name":"a","Consumers":[{"Peer":"*"}]}"#,
            "Services[0].Consumers[0]: exporting to all peers (wildcard) is not supported",
        ),
        (
            r#"{"Name":"a","Consumers":[{"Partition":"*"}]}"#,
            "Services[0].Consumers[0]: exporting to all partitions (wildcard) is not supported",
        ),
        (
            r#"{"Name":"a","Consumers":[{"Partition":"p","Peer":"q"}]}"#,
            "Services[0].Consumers[0]: must define at most one of Peer, Partition, or SamenessGroup",
        ),
        (
            r#"{"Name":"a","Consumers":[{"SamenessGroup":"p"}]}"#,
            "Services[0].Consumers[0]: sameness-groups are an enterprise-only feature",
        ),
    ] {
        let body =
            format!(r#"{{"Kind":"exported-services","Name":"default","Services":[{services}]}}"#);
        assert_eq!(put(&t, &body).await, (500, why.to_owned()), "{services}");
    }
    let body = r#"{"Kind":"exported-services","Name":"default","Services":[
        {"Name":"%","Consumers":[{"Peer":"q"},{"Peer":"p"}]},
        {"Name":"%","Consumers":[{"Peer":"r"}]},
        {"Name":"a","Consumers":[{"Peer":"p"}]},
        {"Name":"consul","Consumers":[{"Peer":"p"}]}]}"#;
    assert_eq!(put(&t, body).await, done());
    let found: serde_json::Value = serde_json::from_str(&exported().await).unwrap();
    let expected = serde_json::json!([
        {"Service": "a", "Consumers": {"Peers": ["p"]}},
        {"Service": t.name("web"), "Consumers": {"Peers": ["p", "q", "r"]}},
    ]);
    assert_eq!(found, expected);
    let node = table! {
        "Node" = t.name("n"), "Address" = "10.0.0.1", "Service" = table! {"Service" = t.name("s")},
    };
    t.ok("catalog_register", args![node]).await;
    let all = r#"{"Kind":"exported-services","Name":"default","Services":[
        {"Name":"*","Consumers":[{"Peer":"p"}]}]}"#;
    assert_eq!(put(&t, all).await, done());
    let found = exported().await;
    assert!(found.contains(&t.name("s")) && !found.contains("\"consul\""), "{found}");
    t.ok("config_delete", args!["exported-services", "default"]).await;
    t.deregister(&["n"]).await;
}

async fn external_services_have_no_subsets(t: T) {
    let defaults =
        r#"{"Kind":"service-defaults","Name":"%","Protocol":"http","ExternalSNI":"x.example"}"#;
    for (members, what) in [
        (r#""Subsets":{"v1":{}}"#, "subsets"),
        (r#""Failover":{"*":{"Service":"other"}}"#, "failover"),
        (r#""Redirect":{"Service":"other"}"#, "redirects"),
    ] {
        let resolver = format!(r#"{{"Kind":"service-resolver","Name":"%",{members}}}"#);
        let why = format!(
            "service \"{}\" has an external SNI set; cannot define {what} for external services",
            t.name("web")
        );
        for (first, second) in [(defaults, resolver.as_str()), (&resolver, defaults)] {
            assert_eq!(put(&t, first).await, done(), "{members}");
            let (status, said) = put(&t, second).await;
            // A chain begins behind a redirect.
            if what != "redirects" {
                assert_eq!((status, said.as_str()), (500, why.as_str()), "{members}");
            }
            forget(&t, &["service-resolver", "service-defaults"]).await;
        }
    }
}

async fn extensions_have_all_their_members(t: T) {
    if t.is_1_8("there are no extensions") {
        return;
    }
    let body = r#"{"Kind":"service-defaults","Name":"%","EnvoyExtensions":[
        {"Name":"builtin/lua","Arguments":{"ProxyType":"connect-proxy","Listener":"inbound","Script":"x"}}]}"#;
    assert_eq!(put(&t, body).await, done());
    let found = written(&t, "service-defaults").await["EnvoyExtensions"][0].clone();
    let expected = serde_json::json!({
        "Name": "builtin/lua", "Required": false, "ConsulVersion": "", "EnvoyVersion": "",
        "Arguments": {"ProxyType": "connect-proxy", "Listener": "inbound", "Script": "x"},
    });
    assert_eq!(found, expected);
    forget(&t, &["service-defaults"]).await;
}

async fn durations_of_passive_checks_are_numbers(t: T) {
    if t.is_1_8("they are texts in an older form") {
        return;
    }
    let check =
        r#"{"PassiveHealthCheck":{"Interval":"10s","MaxFailures":3,"BaseEjectionTime":"5s"}}"#;
    let named = check.replacen('{', r#"{"Name":"db","#, 1);
    let body = format!(
        r#"{{"Kind":"service-defaults","Name":"%","UpstreamConfig":{{"Defaults":{check},"Overrides":[{named}]}}}}"#
    );
    assert_eq!(put(&t, &body).await, done());
    let found = written(&t, "service-defaults").await["UpstreamConfig"].clone();
    for upstream in [&found["Defaults"], &found["Overrides"][0]] {
        let check = &upstream["PassiveHealthCheck"];
        assert_eq!(check["Interval"], 10_000_000_000_u64, "{found}");
        assert_eq!(check["BaseEjectionTime"], 5_000_000_000_u64, "{found}");
    }
    forget(&t, &["service-defaults"]).await;
}

async fn splits_that_change_headers_may_repeat(t: T) {
    if t.is_1_8("splits change no headers") {
        return;
    }
    put(&t, r#"{"Kind":"service-defaults","Name":"%","Protocol":"http"}"#).await;
    put(&t, r#"{"Kind":"service-resolver","Name":"%","Subsets":{"v1":{},"v2":{}}}"#).await;
    for (member, allowed) in [
        (r#","RequestHeaders":{"Set":{"a":"b"}}"#, true),
        (r#","ResponseHeaders":{}"#, true),
        ("", false),
    ] {
        let body = format!(
            r#"{{"Kind":"service-splitter","Name":"%","Splits":[
                {{"Weight":50,"ServiceSubset":"v2"{member}}},{{"Weight":50,"ServiceSubset":"v2"}}]}}"#
        );
        let (status, said) = put(&t, &body).await;
        assert_eq!(status == 200, allowed, "{member}: {said}");
    }
    forget(&t, &["service-splitter", "service-resolver", "service-defaults"]).await;
}

/// Writes an entry, reads it as JSON, and deletes it.
async fn stored(t: &T, entry: serde_json::Value) -> serde_json::Value {
    let (kind, name) = (entry["Kind"].as_str().unwrap(), entry["Name"].as_str().unwrap());
    let answer = t.raw("PUT", "/v1/config", &entry.to_string()).await;
    assert_eq!(answer.status, 200, "{entry}: {}", answer.body);
    let target = format!("/v1/config/{kind}/{name}");
    let found = t.raw("GET", &target, "").await.body;
    t.raw("DELETE", &target, "").await;
    let mut found: serde_json::Value = serde_json::from_str(&found).unwrap();
    // Only a server with gateways has conditions.
    if let Some(status) = found.get_mut("Status").and_then(|it| it.get_mut("Conditions")) {
        *status = serde_json::Value::Null;
    }
    let members = found.as_object_mut().unwrap();
    members.retain(|name, _| {
        !["Kind", "Name", "CreateIndex", "ModifyIndex", "Hash"].contains(&name.as_str())
    });
    found
}

async fn metadata_of_each_kind_is_texts(t: T) {
    if t.is_1_8("some kinds are unknown") {
        return;
    }
    let meta = json!({"a": 0, "b": true, "c": false, "d": 1.5, "e": 1e30, "f": null, "g": ["x"]});
    let texts = json!({
        "a": "0", "b": "1", "c": "0", "d": "1.5", "e": format!("1{}", "0".repeat(30)), "f": "", "g": "x",
    });
    let key = json!({"Local": {"JWKS": "e30="}});
    let protocol = json!({"Kind": "service-defaults", "Name": t.name("s"), "Protocol": "http"});
    t.raw("PUT", "/v1/config", &protocol.to_string()).await;
    for (kind, more) in [
        ("service-resolver", json!({})),
        ("service-router", json!({})),
        ("service-splitter", json!({"Splits": [{"Weight": 100}]})),
        ("service-intentions", json!({"Sources": [{"Name": "a", "Action": "allow"}]})),
        ("service-defaults", json!({})),
        ("ingress-gateway", json!({})),
        ("terminating-gateway", json!({})),
        ("api-gateway", json!({"Listeners": [{"Name": "l", "Port": 80, "Protocol": "tcp"}]})),
        ("http-route", json!({})),
        ("tcp-route", json!({})),
        ("jwt-provider", json!({"JSONWebKeySet": key})),
        ("file-system-certificate", json!({"Certificate": "/c", "PrivateKey": "/k"})),
    ] {
        for (given, kept) in [(&meta, Some(&texts)), (&json!({}), None)] {
            let mut entry = json!({"Kind": kind, "Name": t.name("s"), "Meta": given});
            let more = more.as_object().unwrap().clone();
            entry.as_object_mut().unwrap().extend(more);
            assert_eq!(stored(&t, entry).await.get("Meta"), kept, "{kind}");
        }
    }
    let entry = json!({"Kind": "service-defaults", "Name": t.name("s"), "Meta": {"a": {}}});
    let answer = t.raw("PUT", "/v1/config", &entry.to_string()).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
}

async fn null_in_a_list_of_an_entry_is_an_item_without_members(t: T) {
    if t.is_1_8("some kinds are unknown") {
        return;
    }
    let name = t.name("s");
    t.raw("PUT", "/v1/config", r#"{"Kind":"mesh"}"#).await;
    let protocol = json!({"Kind": "service-defaults", "Name": name, "Protocol": "http"});
    t.raw("PUT", "/v1/config", &protocol.to_string()).await;
    let parent = json!({"Kind": "api-gateway", "Name": "", "SectionName": ""});
    let jwks = json!({"Local": {"JWKS": "e30="}});
    for (kind, given, kept) in [
        (
            "service-splitter",
            json!({"Splits": [null, {"Weight": 100, "RequestHeaders": {"Remove": [null, "x"]}}]}),
            json!({"Splits": [{"Weight": 0}, {"Weight": 100, "RequestHeaders": {"Remove": ["", "x"]}}]}),
        ),
        ("service-router", json!({"Routes": [null, null]}), json!({"Routes": [{}, {}]})),
        (
            "service-router",
            json!({"Routes": [{"Destination": {"RetryOnStatusCodes": [null, 500]}}]}),
            json!({"Routes": [{"Destination": {"RetryOnStatusCodes": [0, 500]}}]}),
        ),
        (
            "service-resolver",
            json!({"Failover": {"*": {"Targets": [null]}}}),
            json!({"Failover": {"*": {"Targets": [{}]}}}),
        ),
        (
            "service-defaults",
            json!({"Expose": {"Paths": [null]}}),
            json!({
                "Expose": {"Paths": [{}]}, "MeshGateway": {}, "Protocol": "", "TransparentProxy": {},
            }),
        ),
        (
            "tcp-route",
            json!({"Parents": [null], "Services": [null]}),
            json!({"Parents": [parent], "Services": [{"Name": ""}], "Status": {"Conditions": null}}),
        ),
        (
            "jwt-provider",
            json!({"JSONWebKeySet": jwks, "Audiences": [null, "a"]}),
            json!({"JSONWebKeySet": jwks, "Audiences": ["", "a"], "ClockSkewSeconds": 30}),
        ),
    ] {
        let mut entry = json!({"Kind": kind, "Name": name});
        entry.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        assert_eq!(stored(&t, entry).await, kept, "{kind} {given}");
    }
    for (kind, given, status, why) in [
        ("service-splitter", json!({"Splits": [null]}), 500, "must be 100, not 0.000000"),
        ("service-splitter", json!({"Splits": [null, null]}), 500, "occurs more than once"),
        (
            "service-router",
            json!({"Routes": [{"Match": {"HTTP": {"Header": [null]}}}]}),
            500,
            "Route[0] Header[0] missing required Name field",
        ),
        (
            "service-resolver",
            json!({"Failover": {"*": {"Datacenters": [null]}}}),
            500,
            "found empty datacenter",
        ),
        (
            "service-defaults",
            json!({"UpstreamConfig": {"Overrides": [{}, {"Name": "*"}], "Defaults": {"Name": "a"}}}),
            500,
            "3 errors occurred:\n\t* error in upstream override for :: Name is required\n\t* error in \
             upstream override for *:: Wildcard name is not supported\n\t* error in upstream \
             defaults: Name must be empty",
        ),
        (
            "service-defaults",
            json!({"MutualTLSMode": "x", "Destination": {}, "UpstreamConfig": {}}),
            500,
            "1 error occurred:\n\t* UpstreamConfig and Destination are mutually exclusive",
        ),
        (
            "service-defaults",
            json!({"MutualTLSMode": "x", "Destination": {}}),
            500,
            "Invalid MutualTLSMode",
        ),
        (
            "service-intentions",
            json!({"JWT": {"Providers": [{}, {}]}, "Sources": []}),
            500,
            "2 errors occurred:\n\t* JWT provider name is required\n\t* JWT provider name is required",
        ),
        (
            "service-intentions",
            json!({"Sources": [{"Name": "a", "Permissions": [
                {"Action": "allow", "HTTP": {"PathExact": "/"}, "JWT": {"Providers": [{}]}},
            ]}]}),
            500,
            "JWT provider name is required",
        ),
        (
            "service-intentions",
            json!({"Sources": [{"Name": "a", "Permissions": [{"Action": "allow", "JWT": {}}]}]}),
            500,
            "Permissions[0].HTTP is required",
        ),
        (
            "service-intentions",
            json!({"Sources": [{"Name": "a", "Permissions": [{"Action": "allow", "HTTP": {}}]}]}),
            500,
            "Permissions[0].HTTP should not be empty",
        ),
        (
            "jwt-provider",
            json!({"JSONWebKeySet": jwks, "Locations": [{}]}),
            500,
            "must set exactly one of: JWT location header, query param or cookie",
        ),
        (
            "proxy-defaults",
            json!({"MutualTLSMode": "x", "FailoverPolicy": {"Mode": "x"}, "PrioritizeByLocality": {"Mode": "x"}}),
            500,
            "Failover-policy mode must be one of",
        ),
        (
            "proxy-defaults",
            json!({"AccessLogs": {"Type": "x"}, "PrioritizeByLocality": {"Mode": "x"}}),
            500,
            "invalid access log type: x",
        ),
        ("mesh", json!({"TLS": {"Incoming": {"CipherSuites": [[]]}}}), 400, "decoding failed"),
        ("mesh", json!({"TLS": {"X": 1}}), 400, "invalid config key \"TLS.X\""),
    ] {
        let mut entry = json!({"Kind": kind, "Name": name});
        entry.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        match kind {
            "mesh" => drop(entry.as_object_mut().unwrap().remove("Name")),
            "proxy-defaults" => entry["Name"] = json!("global"),
            _ => {}
        }
        let answer = t.raw("PUT", "/v1/config", &entry.to_string()).await;
        let is_right = answer.status == status && answer.body.contains(why);
        assert!(is_right, "{kind} {given}: {} {}", answer.status, answer.body);
    }
}

async fn providers_of_tokens_are_there_before_intentions_refer_to_them(t: T) {
    if t.is_1_8("they are unknown") {
        return;
    }
    let (service, provider, other) = (t.name("s"), t.name("p"), t.name("q"));
    let jwt = |names: &[&String]| {
        let providers: Vec<_> = names.iter().map(|name| json!({"Name": name})).collect();
        json!({"Providers": providers})
    };
    let protocol = json!({"Kind": "service-defaults", "Name": service, "Protocol": "http"});
    let intention = json!({
        "Kind": "service-intentions", "Name": service, "JWT": jwt(&[&provider, &provider]),
        "Sources": [{"Name": "a", "Permissions": [
            {"Action": "allow", "HTTP": {"PathExact": "/"}, "JWT": jwt(&[&other])},
        ]}],
    });
    t.raw("PUT", "/v1/config", &protocol.to_string()).await;
    let answer = t.raw("PUT", "/v1/config", &intention.to_string()).await;
    let why = "Referenced JWT Provider does not exist. Provider Name:";
    // In random order in Consul.
    let texts = [(&provider, &other), (&other, &provider)]
        .map(|(one, two)| format!("2 errors occurred:\n\t* {why} {one}\n\t* {why} {two}"));
    let is_told = texts.iter().any(|text| answer.body.starts_with(text));
    assert!(answer.status == 500 && is_told, "{}", answer.body);
    for name in [&provider, &other] {
        let entry = json!({
            "Kind": "jwt-provider", "Name": name, "JSONWebKeySet": {"Local": {"JWKS": "e30="}},
        });
        t.raw("PUT", "/v1/config", &entry.to_string()).await;
    }
    assert_eq!(t.raw("PUT", "/v1/config", &intention.to_string()).await.body.trim(), "true");
    let target = format!("/v1/config/jwt-provider/{other}");
    let answer = t.raw("DELETE", &target, "").await;
    let text = format!(
        "cannot delete jwt provider config entry referenced by an intention. Provider name: {other}, \
         intention name: {service}"
    );
    assert_eq!((answer.status, answer.body.trim()), (500, text.as_str()));
    t.raw("DELETE", &format!("/v1/config/service-intentions/{service}"), "").await;
    assert_eq!(t.raw("DELETE", &target, "").await.status, 200);
}

async fn members_of_gateways_have_their_types(t: T) {
    if t.is_1_8("some kinds are unknown") {
        return;
    }
    let no_filters = json!({
        "Headers": null, "JWT": null, "RetryFilter": null, "TimeoutFilter": null, "URLRewrite": null,
    });
    let parent = json!({"Kind": "api-gateway", "Name": "g", "SectionName": ""});
    let no_headers = json!({"Headers": null});
    for (kind, given, kept) in [
        (
            "api-gateway",
            json!({"Listeners": {"name": "l", "Port": "80", "Protocol": "http", "TLS": {
                "Certificates": {"Name": "c"}, "MinVersion": "TLSv1_2",
            }}}),
            json!({"Status": {"Conditions": null}, "Listeners": [{
                "Name": "l", "Hostname": "", "Port": 80, "Protocol": "http", "TLS": {
                    "Certificates": [{"Kind": "inline-certificate", "Name": "c", "SectionName": ""}],
                    "CipherSuites": null, "MinVersion": "TLSv1_2", "MaxVersion": "",
                },
            }]}),
        ),
        (
            "http-route",
            json!({}),
            json!({"Hostnames": null, "Parents": null, "Rules": null, "Status": {"Conditions": null}}),
        ),
        (
            "http-route",
            json!({"Hostnames": "a.b", "Parents": {"Name": "g"}, "Rules": [
                {"Services": [{"Name": "s", "Weight": "5"}, {"Name": "u"}], "Matches": [{}]},
                {"Filters": {
                    "Headers": [{"Add": {"a": 1}, "Remove": "c"}], "URLRewrite": {"Path": "/x"},
                    "RetryFilter": {"NumRetries": "3", "RetryOnStatusCodes": ["500"]},
                    "TimeoutFilter": {"RequestTimeout": "5s"},
                }},
            ]}),
            json!({
                "Hostnames": ["a.b"], "Parents": [parent], "Status": {"Conditions": null}, "Rules": [
                    {
                        "Filters": no_filters, "ResponseFilters": no_headers,
                        "Matches": [{
                            "Headers": null, "Method": "", "Query": null,
                            "Path": {"Match": "prefix", "Value": "/"},
                        }],
                        "Services": [
                            {"Name": "s", "Weight": 5, "Filters": no_filters, "ResponseFilters": no_headers},
                            {"Name": "u", "Weight": 1, "Filters": no_filters, "ResponseFilters": no_headers},
                        ],
                    },
                    {
                        "Filters": {
                            "Headers": [{"Add": {"a": "1"}, "Remove": ["c"], "Set": null}], "JWT": null,
                            "RetryFilter": {
                                "NumRetries": 3, "RetryOn": null, "RetryOnStatusCodes": [500],
                                "RetryOnConnectFailure": false,
                            },
                            "TimeoutFilter": {"RequestTimeout": 5_000_000_000_i64, "IdleTimeout": 0},
                            "URLRewrite": {"Path": "/x"},
                        },
                        "ResponseFilters": no_headers, "Matches": null, "Services": null,
                    },
                ],
            }),
        ),
        (
            "tcp-route",
            json!({"Parents": [{"Name": "g"}], "Services": {"Name": 1}}),
            json!({"Parents": [parent], "Services": [{"Name": "1"}], "Status": {"Conditions": null}}),
        ),
        (
            "ingress-gateway",
            json!({"Listeners": [{"Port": "8080", "Services": [{"Name": "s", "MaxConnections": "5"}]}]}),
            json!({"TLS": {"Enabled": false}, "Listeners": [{
                "Port": 8080, "Protocol": "tcp", "Services": [{"Name": "s", "Hosts": null, "MaxConnections": 5}],
            }]}),
        ),
        (
            "ingress-gateway",
            json!({"TLS": {"Enabled": 1, "CipherSuites": []}, "Defaults": {"PassiveHealthCheck": {"Interval": "5s"}}}),
            json!({"TLS": {"Enabled": true}, "Listeners": null, "Defaults": {
                "MaxConnections": 0, "MaxPendingRequests": 0, "MaxConcurrentRequests": 0,
                "PassiveHealthCheck": {"Interval": 5_000_000_000_i64},
            }}),
        ),
        ("terminating-gateway", json!({"Services": {}}), json!({"Services": []})),
        (
            "terminating-gateway",
            json!({"Services": {"Name": "s", "DisableAutoHostRewrite": "true", "SNI": ""}}),
            json!({"Services": [{"Name": "s", "DisableAutoHostRewrite": true}]}),
        ),
        (
            "jwt-provider",
            json!({"Issuer": 1, "Audiences": "a", "JSONWebKeySet": {"Remote": {
                "URI": "https://a.b", "RequestTimeoutMs": "5", "CacheDuration": "30m",
                "FetchAsynchronously": "true",
            }}, "Forwarding": {"HeaderName": "f"}, "CacheConfig": {"Size": "7"}}),
            json!({
                "Issuer": "1", "Audiences": ["a"], "ClockSkewSeconds": 30, "CacheConfig": {"Size": 7},
                "Forwarding": {"HeaderName": "f", "PadForwardPayloadHeader": false},
                "JSONWebKeySet": {"Remote": {
                    "URI": "https://a.b", "RequestTimeoutMs": 5, "CacheDuration": 1_800_000_000_000_i64,
                    "FetchAsynchronously": true,
                }},
            }),
        ),
    ] {
        let mut entry = json!({"Kind": kind, "Name": t.name("g")});
        entry.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        assert_eq!(stored(&t, entry.clone()).await, kept, "{entry}");
    }
    for (kind, wrong) in [
        ("http-route", json!({"Rules": [{"Filters": {"Odd": 1}}]})),
        ("http-route", json!({"Rules": [{"Services": [{"Weight": "x"}]}]})),
        ("api-gateway", json!({"Listeners": [{"Port": "x"}]})),
        ("jwt-provider", json!({"Odd": 1})),
        ("terminating-gateway", json!({"Services": [{"DisableAutoHostRewrite": "x"}]})),
        ("tcp-route", json!({"Services": 5})),
    ] {
        let mut entry = json!({"Kind": kind, "Name": t.name("g")});
        entry.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        let answer = t.raw("PUT", "/v1/config", &entry.to_string()).await;
        assert_eq!(answer.status, 400, "{entry}: {}", answer.body);
    }
}

async fn listeners_of_api_gateways_need_a_port_and_a_protocol(t: T) {
    if t.is_1_8("API gateways are unknown") {
        return;
    }
    let write = async |port: i64, protocol: &str| {
        let good = json!({"Name": "good", "Port": 80, "Protocol": "http"});
        let listener = json!({"Name": "l", "Port": port, "Protocol": protocol});
        let entry =
            json!({"Kind": "api-gateway", "Name": t.name("g"), "Listeners": [good, listener]});
        let answer = t.raw("PUT", "/v1/config", &entry.to_string()).await;
        (answer.status, answer.body)
    };
    for (port, protocol) in [(1, "tcp"), (65_535, "http"), (8080, "HTTP")] {
        assert_eq!(write(port, protocol).await.0, 200, "{port} {protocol}");
    }
    for port in [0, -1, 65_536, 99_999] {
        let why = format!("listener port {port} not in the range 1-65535");
        assert_eq!(write(port, "http").await, (500, why));
    }
    for protocol in ["", "udp", "nonsense"] {
        let why =
            format!("unsupported listener protocol {protocol:?}, must be one of 'tcp', or 'http'");
        assert_eq!(write(99_999, protocol).await, (500, why));
    }
}

async fn an_entry_without_a_name_is_deleted_as_one_that_is_not_there(t: T) {
    for kind in ["service-router", "service-resolver", "service-defaults"] {
        let answer = t.raw("DELETE", &format!("/v1/config/{kind}/"), "").await;
        let is_deleted = answer.status == 200 || t.is_1_8("an entry has a name");
        assert!(is_deleted, "{kind}: {}", answer.body);
        assert_eq!(t.raw("DELETE", &format!("/v1/config/{kind}"), "").await.status, 404, "{kind}");
    }
    if t.is_1_8("entries are not filtered") {
        return;
    }
    for kind in ["service-router", "service-intentions", "proxy-defaults", "http-route"] {
        let answer = t.raw("GET", &format!("/v1/config/{kind}?filter=Odd"), "").await;
        let why = format!("filtering not supported for config entry kind={kind}");
        assert_eq!((answer.status, answer.body), (500, why));
    }
}

async fn the_logs_and_failovers_of_proxies_are_checked(t: T) {
    if t.is_1_8("some kinds are unknown") {
        return;
    }
    for (kind, members, why) in [
        (
            "exported-services",
            json!({"Services": []}),
            "exported-services Name must be \"default\"",
        ),
        ("proxy-defaults", json!({"PrioritizeByLocality": {}}), ""),
        (
            "proxy-defaults",
            json!({"PrioritizeByLocality": {"Mode": "x"}}),
            "Prioritize-by-locality",
        ),
        ("proxy-defaults", json!({"AccessLogs": {"Type": "file"}}), "path must be specified"),
        ("proxy-defaults", json!({"AccessLogs": {"Type": "file", "Path": "/x"}}), ""),
        ("proxy-defaults", json!({"AccessLogs": {"Type": "x"}}), "invalid access log type: x"),
        (
            "proxy-defaults",
            json!({"AccessLogs": {"Path": "/x"}}),
            "path is only valid for file type",
        ),
        ("proxy-defaults", json!({"AccessLogs": {"JSONFormat": "x"}}), "invalid access log json"),
        ("proxy-defaults", json!({"AccessLogs": {"JSONFormat": "{\"a\": 1}"}}), ""),
        (
            "proxy-defaults",
            json!({"AccessLogs": {"JSONFormat": "{}", "TextFormat": "x"}}),
            "cannot specify both access log JSONFormat and TextFormat",
        ),
        (
            "proxy-defaults",
            json!({"FailoverPolicy": {"Mode": "x"}}),
            "Failover-policy mode must be",
        ),
        ("proxy-defaults", json!({"FailoverPolicy": {"Mode": "sequential"}}), ""),
        ("proxy-defaults", json!({"FailoverPolicy": {"Mode": "order-by-locality"}}), ""),
    ] {
        let mut entry = json!({"Kind": kind});
        entry.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let answer = t.raw("PUT", "/v1/config", &entry.to_string()).await;
        t.raw("DELETE", "/v1/config/proxy-defaults/global", "").await;
        let status = if why.is_empty() { 200 } else { 500 };
        assert_eq!(answer.status, status, "{entry}: {}", answer.body);
        assert!(answer.body.contains(why), "{entry}: {}", answer.body);
    }
}

/// Blocks of HCL are lists of objects; an object in the place of a map is one of its parts.
async fn lists_in_the_place_of_objects_are_read_as_blocks(t: T) {
    if t.is_1_8("some kinds and members are unknown") {
        return;
    }
    let (name, resolver) = (t.name("s"), "service-resolver");
    let read = |kind: &str, given: &serde_json::Value| {
        let mut entry = json!({"Kind": kind, "Name": name});
        entry.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        entry
    };
    for (kind, given, kept) in [
        (
            resolver,
            json!({"Meta": [{"a": "1", "b": 2}, {"a": "3"}]}),
            json!({"Meta": {"a": "3", "b": "2"}}),
        ),
        (resolver, json!({"Meta": [[{"a": "1"}], [], null]}), json!({"Meta": {"a": "1"}})),
        (
            resolver,
            json!({"Subsets": [{"v1": {}}, [{"v2": {"OnlyPassing": true}}]]}),
            json!({"Subsets": {"v1": {}, "v2": {"OnlyPassing": true}}}),
        ),
        (
            resolver,
            json!({"LoadBalancer": [[{"Policy": "random"}]]}),
            json!({"LoadBalancer": {"Policy": "random"}}),
        ),
        (resolver, json!({"PrioritizeByLocality": [{}]}), json!({"PrioritizeByLocality": {}})),
        (
            resolver,
            json!({"Failover": {"*": {"Service": "other", "Policy": {"Regions": ""}}}}),
            json!({"Failover": {"*": {"Service": "other", "Policy": {"Regions": [""]}}}}),
        ),
    ] {
        assert_eq!(stored(&t, read(kind, &given)).await, kept, "{kind} {given}");
    }
    let not_a_map = "expected a map, got '";
    for (kind, given, status, why) in [
        ("service-defaults", json!({"RateLimits": [[]]}), 400, not_a_map),
        ("service-defaults", json!({"RateLimits": 1}), 400, not_a_map),
        (
            "service-defaults",
            json!({"RateLimits": {"Odd": 1}}),
            400,
            "invalid config key \"RateLimits.Odd\"",
        ),
        (
            "service-defaults",
            json!({"RateLimits": {"InstanceLevel": {"Routes": [1]}}}),
            400,
            not_a_map,
        ),
        ("service-defaults", json!({"RateLimits": {}}), 500, "consul enterprise feature"),
        ("service-defaults", json!({"RateLimits": [{}]}), 500, "consul enterprise feature"),
        (resolver, json!({"Meta": [{}, 1]}), 400, not_a_map),
        (resolver, json!({"Meta": [1]}), 400, "expected a map, got 'float64'"),
        (resolver, json!({"PrioritizeByLocality": []}), 400, not_a_map),
        (resolver, json!({"PrioritizeByLocality": "x"}), 400, not_a_map),
        (
            resolver,
            json!({"Failover": {"*": {"Policy": {}}}}),
            500,
            "SamenessGroup, or Datacenters is required",
        ),
        ("service-splitter", json!({"Splits": [{"Weight": []}]}), 400, "expected type 'float32'"),
        ("service-splitter", json!({"Splits": [{"Weight": "x"}]}), 400, "as float"),
        (
            "service-router",
            json!({"Routes": [{"Destination": {"RequestHeaders": {"Add": 1}}}]}),
            400,
            not_a_map,
        ),
        ("service-intentions", json!({"Sources": [{"LegacyMeta": "x"}]}), 400, not_a_map),
        ("sameness-group", json!({"Members": [1]}), 400, not_a_map),
        ("sameness-group", json!({"Members": []}), 500, ""),
        ("api-gateway", json!({"Listeners": [{"Override": []}]}), 400, not_a_map),
        ("http-route", json!({"Rules": [{"Filters": {"JWT": 1}}]}), 400, not_a_map),
    ] {
        refused(&t, status, &read(kind, &given).to_string(), why).await;
    }
}

/// Consul takes the list around one item off once for each value, and once more for a pointer to it.
async fn lists_of_one_item_are_taken_off_once_for_each_value(t: T) {
    if t.is_1_8("some kinds and members are unknown") {
        return;
    }
    let name = t.name("s");
    let wrap = |times: usize, value: serde_json::Value| {
        (0..times).fold(value, |value, _| serde_json::Value::Array(vec![value]))
    };
    let source = json!({"Name": "a", "Action": "allow"});
    for (kind, place, value, deepest, status) in [
        // The value, where it is, how many lists are taken off, and the status with all of them.
        ("service-defaults", "/RateLimits/InstanceLevel", json!({}), 1, 500),
        ("service-defaults", "/RateLimits", json!({}), 2, 500),
        ("service-defaults", "/TransparentProxy", json!({}), 1, 200),
        ("service-defaults", "/MaxInboundConnections", json!(1), 1, 200),
        ("service-defaults", "/UpstreamConfig", json!({}), 2, 200),
        ("service-defaults", "/UpstreamConfig/Defaults/Limits/MaxConnections", json!(1), 2, 200),
        ("service-defaults", "/Expose/Paths", json!({}), 2, 200),
        ("service-intentions", "/Sources", source, 3, 200),
        ("service-resolver", "/ConnectTimeout", json!("1s"), 1, 200),
        ("service-resolver", "/Subsets/v1", json!({}), 1, 200),
        ("service-resolver", "/Subsets/v1/Filter", json!(""), 1, 200),
        ("service-resolver", "/DefaultSubset", json!(""), 1, 200),
    ] {
        for times in 0..5 {
            let given = place[1..]
                .rsplit('/')
                .fold(wrap(times, value.clone()), |inner, name| json!({name: inner}));
            let mut entry = json!({"Kind": kind, "Name": name});
            entry.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
            let (found, why) = put(&t, &entry.to_string()).await;
            let expected = if times > deepest { 400 } else { status };
            assert_eq!(found, expected, "{entry}: {why}");
        }
        t.raw("DELETE", &format!("/v1/config/{kind}/{name}"), "").await;
    }
}

async fn all_values_of_other_types_are_told_in_the_order_of_their_names(t: T) {
    if t.is_1_8("some kinds and members are unknown") {
        return;
    }
    let entry = json!({
        "Kind": "service-resolver", "Name": t.name("s"), "Unknown": 1, "Subsets": {"v1": 1},
        "DefaultSubset": [[1]], "LoadBalancer": {"HashPolicies": [{"Terminal": "x"}, 2]},
        "ConnectTimeout": "x", "Failover": {"*": {"Datacenters": ["a", {}]}},
    });
    let (status, why) = put(&t, &entry.to_string()).await;
    assert_eq!(status, 400, "{why}");
    let expected = [
        "Request decoding failed: 6 error(s) decoding:",
        "'DefaultSubset' expected type 'string'",
        "'Failover[*].Datacenters[1]' expected type 'string'",
        "'LoadBalancer.HashPolicies[1]' expected a map, got 'float64'",
        "'Subsets[v1]' expected a map, got 'float64'",
        "cannot parse 'LoadBalancer.HashPolicies[0].Terminal' as bool",
        "error decoding 'ConnectTimeout': time: invalid duration \"x\"",
    ];
    let lines: Vec<_> = why.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), expected.len(), "{why}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(expected), "{line} in {why}");
    }
}

async fn numbers_of_an_entry_have_their_types(t: T) {
    if t.is_1_8("some kinds and members are unknown") {
        return;
    }
    let name = t.name("s");
    t.raw("PUT", "/v1/config", r#"{"Kind":"mesh"}"#).await;
    let of_gateway = |given: serde_json::Value| {
        let all = json!({"MaxConnections": 0, "MaxPendingRequests": 0, "MaxConcurrentRequests": 0});
        let mut all = all;
        all.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        all
    };
    for (given, kept) in [
        (json!("0x1F"), 31),
        (json!("010"), 8),
        (json!("0b1_1"), 3),
        (json!("1_0"), 10),
        (json!(""), 0),
        (json!(true), 1),
        (json!(-1), 4_294_967_295_u64),
        (json!(5_000_000_000_u64), 705_032_704),
        (json!(1e19), 2_313_682_944),
    ] {
        let entry = json!({"Kind": "ingress-gateway", "Name": name, "Defaults": {"MaxConnections": given},
            "Listeners": [{"Port": 80, "Services": [{"Name": "a"}]}]});
        let read = stored(&t, entry).await;
        assert_eq!(read["Defaults"], of_gateway(json!({"MaxConnections": kept})), "{given}");
    }
    for given in
        [json!("+5"), json!("-1"), json!("4294967296"), json!("1__0"), json!("x"), json!("08")]
    {
        let entry =
            json!({"Kind": "ingress-gateway", "Name": name, "Defaults": {"MaxConnections": given}});
        refused(&t, 400, &entry.to_string(), "cannot parse 'Defaults.MaxConnections' as uint")
            .await;
    }
    // Consul has pointers to these, so that 0 is a value.
    let zeros = json!({"Limits": {"MaxConnections": 0, "MaxPendingRequests": 0, "MaxConcurrentRequests": 0},
        "PassiveHealthCheck": {"EnforcingConsecutive5xx": 0, "MaxEjectionPercent": 0, "MaxFailures": 0}});
    let entry =
        json!({"Kind": "service-defaults", "Name": name, "UpstreamConfig": {"Defaults": zeros}});
    let read = stored(&t, entry).await;
    let mut expected = zeros;
    expected["PassiveHealthCheck"].as_object_mut().unwrap().remove("MaxFailures");
    expected["MeshGateway"] = json!({});
    expected["Peer"] = json!("");
    assert_eq!(read["UpstreamConfig"]["Defaults"], expected);
}

async fn members_that_are_read_and_not_shown(t: T) {
    if t.is_1_8("some kinds and members are unknown") {
        return;
    }
    let name = t.name("s");
    t.raw("PUT", "/v1/config", r#"{"Kind":"mesh"}"#).await;
    let remote = json!({"Remote": {"URI": "https://localhost/jwks", "UseSNI": true}});
    let entry =
        json!({"Kind": "jwt-provider", "Name": name, "JSONWebKeySet": remote, "Issuer": "a"});
    assert_eq!(stored(&t, entry).await["JSONWebKeySet"], remote);
    let condition = json!({"Type": "Accepted", "Status": "True", "Reason": "Accepted", "Message": "",
        "Resource": {"Kind": "", "Name": "", "SectionName": ""}, "LastTransitionTime": "2026-01-01T00:00:00Z"});
    let entry = json!({"Kind": "tcp-route", "Name": name, "Status": {"Conditions": [condition]}});
    assert_eq!(put(&t, &entry.to_string()).await, done());
    let locations = json!({"Kind": "jwt-provider", "Name": name, "JSONWebKeySet": {"Local": {"JWKS": "e30="}},
        "Locations": [{}, {}]});
    refused(&t, 500, &locations.to_string(), "2 errors occurred").await;
    for (json, status) in [("{}", 200), ("{} ", 200), ("0x10", 500), ("{}x", 500)] {
        let entry = json!({"Kind": "proxy-defaults", "Name": "global", "Protocol": "grpc",
            "AccessLogs": {"JSONFormat": json}});
        let (found, why) = put(&t, &entry.to_string()).await;
        assert_eq!(found, status, "{json}: {why}");
        assert!(found == 200 || why.contains("after top-level value"), "{json}: {why}");
    }
    let target = "/v1/config/proxy-defaults/global";
    assert!(!t.raw("GET", target, "").await.body.contains("Protocol"));
    t.raw("DELETE", target, "").await;
}
