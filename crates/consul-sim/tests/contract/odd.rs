//! Consul's answers about members and parameters that no sound client sends.

use crate::target::{T, args, behaviours, pause, text, texts};
use consul_sim::acl::DefaultPolicy;
use serde_json::{Value, json};
use std::time::Duration;

behaviours![
    parameters_of_wrong_values_are_refused,
    a_token_with_a_reserved_name_is_refused,
    what_is_not_text_in_a_filter_is_refused,
    members_that_nothing_depends_on_have_their_types,
    the_bodies_of_the_agent_have_no_other_members,
    exported_services_are_asked_for_in_printable_characters,
    matches_are_in_the_order_of_their_names,
    a_nested_field_of_a_wrong_type_is_named_with_its_path,
    unknown_members_of_nested_fields_are_refused,
    broken_json_is_refused_with_the_place_of_the_mistake,
    a_negative_ttl_of_a_services_check_is_refused,
    an_empty_check_in_a_list_is_refused,
    weights_are_checked_before_metadata,
    the_catalog_keeps_no_invalid_weights,
    a_zone_needs_a_region,
    addresses_of_all_of_a_host_are_refused_as_they_are_written,
    the_agents_own_service_is_read_with_any_consistency,
    identities_of_tokens_have_names_and_datacenters,
    a_token_expires_in_the_future,
    a_policys_name_has_a_length,
    a_name_in_another_spelling_is_taken,
    an_id_in_a_body_is_not_that_of_a_path_without_one,
    a_clone_expires_with_its_token,
    identities_are_kept_once_and_in_order,
    a_refusal_names_what_it_refuses_as_it_is,
    an_instances_new_name_leaves_the_index_of_the_old_one,
    a_token_keeps_the_hash_of_the_policies_that_it_had,
    a_built_in_policy_takes_no_list_of_datacenters,
    policies_and_roles_are_listed_without_regard_to_case,
    a_caller_that_names_the_anonymous_token_learns_that_entries_were_filtered,
    no_tags_are_told_from_an_empty_list,
    an_instance_stays_while_a_check_spells_its_id_in_another_way,
    a_check_of_another_kind_alone_is_not_written_to_the_catalog,
    an_unknown_node_needs_the_permission_to_write_it_also_if_known_ones_are_left_as_they_are,
    another_datacenter_is_what_is_wrong_first_with_a_registration,
    the_anonymous_token_is_read_by_a_caller_that_names_it,
    another_place_of_a_node_needs_the_permission_to_write_it,
    a_check_of_an_unknown_service_is_an_error_for_any_caller,
    a_changed_node_is_refused_before_a_service_that_is_replaced,
    odd_requests_are_answered_as_they_are,
    odd_requests_with_acls_are_answered_as_they_are,
];

const SERVICE: &str = "/v1/agent/service/register";
const CATALOG: &str = "/v1/catalog/register";

/// The status and text of the answer to a body.
async fn put(t: &T, target: &str, body: &Value) -> (u16, String) {
    let answer = t.raw("PUT", target, &body.to_string()).await;
    (answer.status, answer.body)
}

/// Fails if a service with these members is not refused with this text. The texts of Go's decoder are
/// others on 1.8.
async fn refused(t: &T, target: &str, body: Value, why: &str) {
    let (status, said) = put(t, target, &body).await;
    let expected = if why.starts_with("json: ") || why.starts_with("invalid character") {
        format!("Request decode failed: {why}")
    } else {
        why.to_owned()
    };
    let is_same = said == expected || t.is_1_8("texts of wrong bodies are shorter");
    assert!(status >= 400 && is_same, "{body}: {status} {said}");
}

async fn a_nested_field_of_a_wrong_type_is_named_with_its_path(t: T) {
    if t.is_1_8("a place has no locality, and fields have no path") {
        return;
    }
    for (field, value, go) in [
        (
            "Weights",
            json!(true),
            "bool into Go struct field .Alias.Weights of type structs.Weights",
        ),
        (
            "Weights",
            json!({"Passing": "x"}),
            "string into Go struct field Weights.Alias.Weights.Passing of type int",
        ),
        (
            "TaggedAddresses",
            json!({"lan": 1}),
            "number into Go struct field .Alias.TaggedAddresses of type structs.ServiceAddress",
        ),
        (
            "TaggedAddresses",
            json!({"lan": {"Port": []}}),
            "array into Go struct field ServiceAddress.Alias.TaggedAddresses.Port of type int",
        ),
        (
            "Locality",
            json!({"Zone": 1}),
            "number into Go struct field Locality.Alias.Locality.Zone of type string",
        ),
        ("Kind", json!({}), "object into Go struct field .Alias.Kind of type structs.ServiceKind"),
        ("Token", json!(1), "number into Go struct field .Alias.Token of type string"),
        (
            "Check",
            json!({"CheckID": 1}),
            "number into Go struct field .Alias.Check.Alias.CheckID of type types.CheckID",
        ),
        (
            "Checks",
            json!([{"Header": {"a": [1]}}]),
            "number into Go struct field .Alias.Checks.Alias.Header of type string",
        ),
    ] {
        let body = json!({"Name": t.name("s"), field: value});
        refused(&t, SERVICE, body, &format!("json: cannot unmarshal {go}")).await;
    }
    for (body, go) in [
        (json!({"ID": 1}), "number into Go struct field RegisterRequest.ID of type types.NodeID"),
        (
            json!({"Service": 1}),
            "number into Go struct field RegisterRequest.Service of type structs.NodeService",
        ),
        (
            json!({"Service": {"Weights": {"Passing": "x"}}}),
            "string into Go struct field Weights.Service.Weights.Passing of type int",
        ),
        (
            json!({"Checks": [{"Name": 1}]}),
            "number into Go struct field HealthCheck.Checks.Name of type string",
        ),
        (
            json!({"Check": {"Definition": {"HTTP": 1}}}),
            "number into Go struct field HealthCheck.Check.Definition.Alias.HTTP of type string",
        ),
    ] {
        refused(&t, CATALOG, body, &format!("json: cannot unmarshal {go}")).await;
    }
}

async fn unknown_members_of_nested_fields_are_refused(t: T) {
    for (field, value) in [
        ("Weights", json!({"Passing": 1, "Odd": 1})),
        ("TaggedAddresses", json!({"lan": {"Odd": 1}})),
        ("Check", json!({"Odd": 1})),
    ] {
        let service = json!({"Name": t.name("s"), field: value});
        refused(&t, SERVICE, service, "json: unknown field \"Odd\"").await;
    }
}

async fn broken_json_is_refused_with_the_place_of_the_mistake(t: T) {
    for (body, why) in [
        ("{'Name'", "'\\'' looking for beginning of object key string"),
        (r#"{"Name":"a",}"#, "'}' looking for beginning of object key string"),
        (r#"{"Name" "a"}"#, "'\"' after object key"),
        (r#"{"Name":"a" "b"}"#, "'\"' after object key:value pair"),
        (r#"{"Tags":["a" "b"]}"#, "'\"' after array element"),
    ] {
        let answer = t.raw("PUT", SERVICE, body).await;
        let expected = format!("Request decode failed: invalid character {why}");
        assert_eq!((answer.status, answer.body), (400, expected), "{body}");
    }
}

async fn a_negative_ttl_of_a_services_check_is_refused(t: T) {
    for check in [json!({"TTL": "-1s"}), json!({"TTL": -1}), json!({"Interval": "-5s"})] {
        let body = json!({"Name": t.name("s"), "Check": check});
        refused(&t, SERVICE, body, "Invalid check: TTL must be > 0 for TTL checks").await;
    }
}

async fn an_empty_check_in_a_list_is_refused(t: T) {
    let body = json!({"Name": t.name("s"), "Checks": [{}]});
    refused(&t, SERVICE, body, "Invalid check: TTL must be > 0 for TTL checks").await;
}

async fn weights_are_checked_before_metadata(t: T) {
    let body = json!({"Name": t.name("s"), "Weights": {"Passing": 0}, "Meta": {"a b": "c"}});
    refused(&t, SERVICE, body, "Invalid Weights: Passing must be greater than 0").await;
}

async fn the_catalog_keeps_no_invalid_weights(t: T) {
    if t.is_1_8("the catalog keeps invalid weights") {
        return;
    }
    let (node, service) = (t.name("n"), t.name("s"));
    for (given, kept) in [
        (json!({"Passing": -1, "Warning": 2}), (1, 1)),
        (json!({"Passing": 2, "Warning": -1}), (1, 1)),
        (json!({"Passing": 2, "Warning": 65_536}), (1, 1)),
        (json!({"Passing": 2}), (2, 0)),
    ] {
        let own = json!({"Service": service, "Weights": given});
        let body = json!({"Node": node, "Address": "10.0.0.1", "Service": own});
        assert_eq!(put(&t, CATALOG, &body).await.0, 200);
        let set = json!([{"Service": {"Verb": "set", "Node": node, "Service": own}}]);
        for is_set_again in [false, true] {
            if is_set_again {
                assert_eq!(put(&t, "/v1/txn", &set).await.0, 200);
            }
            let found = t.raw("GET", &format!("/v1/catalog/service/{service}"), "").await;
            let found: Value = serde_json::from_str(&found.body).unwrap();
            let weights = json!({"Passing": kept.0, "Warning": kept.1});
            assert_eq!(found[0]["ServiceWeights"], weights, "{given}");
        }
    }
    put(&t, "/v1/catalog/deregister", &json!({"Node": node})).await;
}

async fn a_zone_needs_a_region(t: T) {
    if t.is_1_8("a place has no locality") {
        return;
    }
    let why = "1 error occurred:\n\t* zone cannot be set without region";
    let place = json!({"Zone": "z"});
    let service = json!({"Name": t.name("s"), "Locality": place});
    refused(&t, SERVICE, service, &format!("Validation failed: {why}")).await;
    let service = json!({"Service": t.name("s"), "Locality": place});
    let body = json!({"Node": t.name("n"), "Address": "10.0.0.1", "Service": service});
    refused(&t, CATALOG, body, why).await;
    let service = json!({"Name": t.name("s"), "Locality": {"region": "r"}});
    assert_eq!(put(&t, SERVICE, &service).await.0, 200);
    let found = t.raw("GET", &format!("/v1/agent/service/{}", t.name("s")), "").await;
    let found: Value = serde_json::from_str(&found.body).unwrap();
    assert_eq!(found["Locality"], json!({"Region": "r", "Zone": ""}));
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn addresses_of_all_of_a_host_are_refused_as_they_are_written(t: T) {
    for address in ["0.0.0.0", "::", "[::]"] {
        let body = json!({"Name": t.name("s"), "Address": address});
        refused(&t, SERVICE, body, "Invalid service address").await;
    }
    let body = json!({"Name": t.name("s"), "Address": "0:0:0:0:0:0:0:0"});
    assert_eq!(put(&t, SERVICE, &body).await, (200, String::new()));
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn the_agents_own_service_is_read_with_any_consistency(t: T) {
    let target = format!("/v1/agent/service/{}", t.name("none"));
    for query in ["stale&consistent", "max_stale=x", "cached&consistent"] {
        assert_eq!(t.raw("GET", &format!("{target}?{query}"), "").await.status, 404, "{query}");
    }
    for query in ["wait=x", "index=x"] {
        assert_eq!(t.raw("GET", &format!("{target}?{query}"), "").await.status, 400, "{query}");
    }
}

/// The answer to a body that needs the management token.
async fn put_as_manager(t: &T, target: &str, body: &Value) -> (u16, String) {
    let own = t.value("acl_token_self", args![]).await;
    put(t, &format!("{target}?token={}", text(&own, "SecretID")), body).await
}

async fn identities_of_tokens_have_names_and_datacenters(t: T) {
    if t.is_1_8("identities of nodes are not known") {
        return;
    }
    let t = t.with_acls(DefaultPolicy::Deny);
    const ALLOWED: &str = "Only lowercase alphanumeric characters, '-' and '_' are allowed";
    for (body, why) in [
        (
            json!({"ServiceIdentities": [{"ServiceName": "-1"}]}),
            format!("Service identity \"-1\" has an invalid name. {ALLOWED}"),
        ),
        (
            json!({"Local": true, "ServiceIdentities": [{"ServiceName": "a", "Datacenters": ["dc1"]}]}),
            "Service identity \"a\" cannot specify a list of datacenters on a local token"
                .to_owned(),
        ),
        (
            json!({"NodeIdentities": [{"NodeName": "A", "Datacenter": "dc1"}]}),
            format!("Node identity has an invalid name. {ALLOWED}"),
        ),
        (
            json!({"NodeIdentities": [{"NodeName": "a"}]}),
            "Node identity is missing the datacenter field on this token".to_owned(),
        ),
    ] {
        assert_eq!(put_as_manager(&t, "/v1/acl/token", &body).await, (500, why));
    }
    let body = json!({"Policies": [{"Odd": 1}]});
    let why = "Token decoding failed: json: unknown field \"Odd\"";
    assert_eq!(put_as_manager(&t, "/v1/acl/token", &body).await, (400, why.to_owned()));
    let body = json!({"Name": "a", "Policies": [1]});
    let why = "Role decoding failed: json: cannot unmarshal number into Go struct field \
               .Alias.Policies of type structs.ACLRolePolicyLink";
    assert_eq!(put_as_manager(&t, "/v1/acl/role", &body).await, (400, why.to_owned()));
}

async fn a_token_expires_in_the_future(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    let body = json!({"ExpirationTTL": "-0.5h"});
    let (status, said) = put_as_manager(&t, "/v1/acl/token", &body).await;
    assert_eq!((status, said.as_str()), (500, "Token Expiration TTL '-30m0s' should be > 0"));
    let body = json!({"ExpirationTTL": ""});
    assert_eq!(put_as_manager(&t, "/v1/acl/token", &body).await.0, 400);
}

async fn a_policys_name_has_a_length(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    let body = json!({"Name": "n".repeat(129)});
    let (status, said) = put_as_manager(&t, "/v1/acl/policy", &body).await;
    let why = "Invalid Policy: invalid Name. Length must be greater than 0 and less than 128";
    assert!(status == 500 && (said == why || t.is_1_8("the text names the characters")), "{said}");
    // A rule of an empty text says nothing, and no datacenters are none.
    let body = json!({"Name": t.name("p"), "Rules": "acl = \"\"", "Datacenters": []});
    if !t.is_1_8("an empty rule is refused") {
        let (status, said) = put_as_manager(&t, "/v1/acl/policy", &body).await;
        assert!(status == 200 && !said.contains("Datacenters"), "{said}");
    }
}

/// As [`put_as_manager`], with the answer as JSON.
async fn written(t: &T, target: &str, body: &Value) -> Value {
    let (status, said) = put_as_manager(t, target, body).await;
    assert_eq!(status, 200, "{body}: {said}");
    serde_json::from_str(&said).unwrap()
}

fn id<'a>(written: &'a Value, member: &str) -> &'a str {
    written[member].as_str().unwrap()
}

async fn a_name_in_another_spelling_is_taken(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    for (what, title) in [("policy", "Policy"), ("role", "Role")] {
        let name = t.name("p").replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let own = written(&t, &format!("/v1/acl/{what}"), &json!({"Name": name})).await;
        let target = format!("/v1/acl/{what}/{}", id(&own, "ID"));
        let body = json!({"Name": name, "Description": "d"});
        assert_eq!(put_as_manager(&t, &target, &body).await.0, 200);
        let other = name.to_uppercase();
        let why = format!("Invalid {title}: A {what} with name \"{other}\" already exists");
        assert_eq!(put_as_manager(&t, &target, &json!({"Name": other})).await, (500, why));
    }
}

async fn an_id_in_a_body_is_not_that_of_a_path_without_one(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    for (target, member, what) in [
        ("/v1/acl/policy/", "ID", "Policy ID"),
        ("/v1/acl/role/", "ID", "Role ID"),
        ("/v1/acl/token/", "AccessorID", "Token Accessor ID"),
    ] {
        let (status, said) = put_as_manager(&t, target, &json!({member: "x"})).await;
        let why = format!("{what} in URL and payload do not match");
        // 1.8 has words before it.
        assert!(status == 400 && said.ends_with(&why), "{said}");
    }
    let token = written(&t, "/v1/acl/token/", &json!({"Description": "d"})).await;
    assert!(token["AccessorID"].is_string());
}

async fn a_clone_expires_with_its_token(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    for (body, expires) in [(json!({"ExpirationTTL": "1h"}), true), (json!({}), false)] {
        let token = written(&t, "/v1/acl/token", &body).await;
        let target = format!("/v1/acl/token/{}/clone", id(&token, "AccessorID"));
        let clone = written(&t, &target, &json!({})).await;
        assert_eq!(clone["ExpirationTime"].is_string(), expires);
        assert_eq!(clone["ExpirationTime"], token["ExpirationTime"]);
    }
}

async fn identities_are_kept_once_and_in_order(t: T) {
    if t.is_1_8("identities of nodes are not known") {
        return;
    }
    let t = t.with_acls(DefaultPolicy::Deny);
    for (given, kept) in [
        (json!([["b", "a"]]), json!(["a", "b"])),
        (json!([["a", "a"]]), json!(["a", "a"])),
        (json!([["b", "b"], ["a", "b"]]), json!(["a", "b", "b"])),
        (json!([["a"], []]), json!(["a"])),
        (json!([[], []]), Value::Null),
    ] {
        let identity = |names| json!({"ServiceName": "s", "Datacenters": names});
        let identities: Vec<_> = given.as_array().unwrap().iter().map(identity).collect();
        let body = json!({"ServiceIdentities": identities});
        let token = written(&t, "/v1/acl/token", &body).await;
        let list = token["ServiceIdentities"].as_array().unwrap();
        assert_eq!((list.len(), &list[0]["Datacenters"]), (1, &kept), "{given}");
    }
    let node = json!({"NodeName": "s", "Datacenter": "dc1"});
    let token = written(&t, "/v1/acl/token", &json!({"NodeIdentities": [node, node]})).await;
    assert_eq!(token["NodeIdentities"], json!([node]));
    // The hash is one of the texts alone.
    let service = json!({"ServiceName": "s", "Datacenters": ["dc1"]});
    let other = written(&t, "/v1/acl/token", &json!({"ServiceIdentities": [service]})).await;
    assert_eq!(token["Hash"], other["Hash"]);
}

async fn a_refusal_names_what_it_refuses_as_it_is(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    let node = "a\"\\b\u{2028}\n";
    let (status, said) = put(&t, "/v1/catalog/deregister", &json!({"Node": node})).await;
    let is_named = said.contains(&format!("on \"{node}\""));
    assert!(status == 403 && (is_named || t.is_1_8("the text names nothing")), "{said}");
}

async fn an_instances_new_name_leaves_the_index_of_the_old_one(t: T) {
    const INSTANCES: u32 = 20;
    let node = t.name("n");
    let register = async |id: u32, name: &str| {
        let service = json!({"ID": id.to_string(), "Service": t.name(name)});
        let body = json!({"Node": node, "Address": "10.0.0.1", "Service": service});
        assert_eq!(put(&t, CATALOG, &body).await.0, 200);
    };
    for id in 0..INSTANCES {
        register(id, "old").await;
    }
    let read = async |area: &str, query: &str| {
        let target = format!("/v1/{area}/service/{}{query}", t.name("old"));
        let index = t.raw("GET", &target, "").await.header("x-consul-index").map(str::to_owned);
        index.unwrap().parse::<u64>().unwrap()
    };
    let before = read("health", "").await;
    let query = format!("?index={before}&wait=60s");
    let renames = async {
        for id in 1..INSTANCES {
            // A waiter that comes late sees the next one.
            pause(Duration::from_millis(300)).await;
            register(id, "new").await;
        }
    };
    if t.is_1_8("the new name is not an event") {
        register(1, "new").await;
    } else {
        let woken = tokio::select! {
            woken = read("health", &query) => Some(woken),
            () = renames => None,
        };
        assert!(woken.is_some_and(|woken| woken > before), "{woken:?} {before}");
    }
    for area in ["catalog", "health"] {
        assert_eq!(read(area, "").await, before, "{area}");
    }
    put(&t, "/v1/catalog/deregister", &json!({"Node": node})).await;
}

async fn a_token_keeps_the_hash_of_the_policies_that_it_had(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    let name = t.name("p").replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let policy = written(&t, "/v1/acl/policy", &json!({"Name": name})).await;
    let token = written(&t, "/v1/acl/token", &json!({"Policies": [{"Name": name}]})).await;
    t.ok("acl_policy_delete", args![id(&policy, "ID")]).await;
    let target = format!("/v1/acl/token/{}", id(&token, "AccessorID"));
    let after = written(&t, &format!("{target}/clone"), &json!({})).await;
    assert_eq!(after.get("Policies"), None);
    assert_ne!(after["Hash"], token["Hash"]);
    let own = t.value("acl_token_self", args![]).await;
    let found = t.raw("GET", &format!("{target}?token={}", text(&own, "SecretID")), "").await;
    let found: Value = serde_json::from_str(&found.body).unwrap();
    assert_eq!((found.get("Policies"), &found["Hash"]), (None, &token["Hash"]));
}

async fn a_built_in_policy_takes_no_list_of_datacenters(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    let target = "/v1/acl/policy/00000000-0000-0000-0000-000000000001";
    for (datacenters, changes) in [(json!([]), "Datacenters of"), (json!(null), "Rules for")] {
        let body = json!({"Name": "global-management", "Datacenters": datacenters});
        let (status, said) = put_as_manager(&t, target, &body).await;
        let is_named = said.starts_with(&format!("Changing the {changes} the "));
        assert!(status == 500 && is_named, "{said}");
    }
}

async fn policies_and_roles_are_listed_without_regard_to_case(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    let prefix = t.name("p").replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    for what in ["policy", "role"] {
        let names = ["a", "B", "c"].map(|name| format!("{prefix}-{name}"));
        for name in names.iter().rev() {
            written(&t, &format!("/v1/acl/{what}"), &json!({"Name": name})).await;
        }
        let listed = t.value(&format!("acl_{what}_list"), args![]).await;
        let listed = texts(&listed, "Name").into_iter();
        let own: Vec<_> = listed.filter(|name| name.starts_with(&prefix)).collect();
        assert!(own == names || t.is_1_8("capitals come first"), "{own:?}");
    }
}

async fn a_caller_that_names_the_anonymous_token_learns_that_entries_were_filtered(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny).anonymous();
    for (query, told) in [("?token=anonymous", Some("true")), ("", None)] {
        let answer = t.raw("GET", &format!("/v1/catalog/nodes{query}"), "").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "[]"));
        let header = answer.header("x-consul-results-filtered-by-acls");
        let is_same = header == told || t.is_1_8("answers do not report it");
        assert!(is_same, "{query}: {header:?}");
    }
}

async fn no_tags_are_told_from_an_empty_list(t: T) {
    for (place, given) in [json!(null), json!([])].into_iter().enumerate() {
        let id = t.name(&place.to_string());
        let service = json!({"Name": id, "Tags": given, "Check": {"TTL": "1h"}});
        assert_eq!(put(&t, SERVICE, &service).await.0, 200);
        let health = t.raw("GET", &format!("/v1/agent/health/service/id/{id}"), "").await;
        let health: Value = serde_json::from_str(&health.body).unwrap();
        assert_eq!(health["Service"]["Tags"], json!([]));
        let checks = health["Checks"].as_array().unwrap().iter();
        let own = checks.into_iter().find(|check| check["ServiceID"] == id.as_str()).unwrap();
        assert_eq!(own["ServiceTags"], given);
        let node = t.name("n");
        let service = json!({"Service": id, "Tags": given});
        let check = json!({"Name": id, "ServiceID": id});
        let body = json!({"Node": node, "Address": "1.1.1.1", "Service": service, "Check": check});
        assert_eq!(put(&t, CATALOG, &body).await.0, 200);
        let read = json!([
            {"Service": {"Verb": "get", "Node": node, "Service": {"ID": id}}},
            {"Check": {"Verb": "get", "Check": {"Node": node, "CheckID": id}}},
        ]);
        let (_, found) = put(&t, "/v1/txn", &read).await;
        let found: Value = serde_json::from_str(&found).unwrap();
        assert_eq!(found["Results"][0]["Service"]["Tags"], given, "{found}");
        assert_eq!(found["Results"][1]["Check"]["ServiceTags"], given);
        for target in [format!("/v1/health/service/{id}"), format!("/v1/health/node/{node}")] {
            let shown = t.raw("GET", &target, "").await.body.replace(' ', "");
            assert!(shown.contains("Tags\":[]") && !shown.contains("Tags\":null"), "{shown}");
        }
        put(&t, "/v1/catalog/deregister", &json!({"Node": node})).await;
        t.raw("PUT", &format!("/v1/agent/service/deregister/{id}"), "").await;
    }
}

async fn an_instance_stays_while_a_check_spells_its_id_in_another_way(t: T) {
    let node = t.name("n");
    let register = async |id: &str, check: Value| {
        let service = json!({"ID": id, "Service": t.name("s")});
        let body = json!({"Node": node, "Address": "1.1.1.1", "Service": service, "Check": check});
        assert_eq!(put(&t, CATALOG, &body).await.0, 200);
    };
    let delete = async |what: Value| {
        let mut body = json!({"Node": node});
        body.as_object_mut().unwrap().append(what.clone().as_object_mut().unwrap());
        put(&t, "/v1/catalog/deregister", &body).await
    };
    if t.is_1_8("the check is deleted with the instance") {
        return;
    }
    let refused = (500, "Missing service registration".to_owned());
    register("web", json!({"Name": "c", "ServiceID": "web"})).await;
    register("Web", Value::Null).await;
    for id in ["web", "Web"] {
        assert_eq!(delete(json!({"ServiceID": id})).await, refused);
        let service =
            json!({"Verb": "delete", "Node": node, "Service": {"ID": id, "Service": t.name("s")}});
        let (status, said) = put(&t, "/v1/txn", &json!([{"Service": service}])).await;
        assert!(status == 409 && said.contains(&refused.1), "{said}");
    }
    assert_eq!(delete(json!({"CheckID": "c"})).await.0, 200);
    assert_eq!(delete(json!({"ServiceID": "web"})).await.0, 200);
    register("web", json!({"Name": "c", "ServiceID": "web"})).await;
    register("Web", Value::Null).await;
    assert_eq!(delete(json!({})).await.0, 200);
}

async fn a_check_of_another_kind_alone_is_not_written_to_the_catalog(t: T) {
    let id = t.name("s");
    let register = async |members: Value| {
        let mut body = json!({"Name": id});
        body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        assert_eq!(put(&t, SERVICE, &body).await.0, 200);
    };
    let is_written = async |kind: &str, tags: &Value, notes: &str| {
        let found = t.raw("GET", &format!("/v1/health/service/{id}"), "").await.body;
        let found: Value = serde_json::from_str(&found).unwrap();
        let checks = found[0]["Checks"].as_array().cloned().unwrap_or_default();
        let own = checks.into_iter().find(|check| check["ServiceID"] == id.as_str());
        own.is_some_and(|own| {
            own["Type"] == kind && own["ServiceTags"] == *tags && own["Notes"] == notes
        })
    };
    register(json!({"Check": {"TTL": "1h"}})).await;
    register(json!({"Tags": ["t"]})).await;
    // The catalog gives a check that is written the tags of its service.
    t.raw("PUT", &format!("/v1/agent/check/pass/service:{id}"), "").await;
    t.until("the check passes", async || is_written("ttl", &json!(["t"]), "").await).await;
    register(json!({"Check": {"TCP": "127.0.0.1:1", "Interval": "1h"}})).await;
    let is_kept = is_written("ttl", &json!(["t"]), "").await;
    assert!(is_kept || t.is_1_8("another kind alone is written"));
    register(json!({"Check": {"TCP": "127.0.0.1:1", "Interval": "1h", "Notes": "n"}})).await;
    t.until("the check is written", async || is_written("tcp", &json!([]), "n").await).await;
    t.raw("PUT", &format!("/v1/agent/service/deregister/{id}"), "").await;
}

async fn an_unknown_node_needs_the_permission_to_write_it_also_if_known_ones_are_left_as_they_are(
    t: T,
) {
    let t = t.with_acls(DefaultPolicy::Deny);
    let node = t.name("n");
    let known = json!({"Node": node, "Address": "1.1.1.1"});
    let left = json!({"Node": node, "Address": "1.1.1.2", "SkipNodeUpdate": true});
    let anonymous = t.anonymous();
    let (status, said) = put(&anonymous, CATALOG, &left).await;
    assert_eq!(status, 403, "{said}");
    assert_eq!(put_as_manager(&t, CATALOG, &known).await.0, 200);
    assert_eq!(put(&anonymous, CATALOG, &left).await.0, 200);
    let node = json!({"Node": node});
    assert_eq!(put_as_manager(&t, "/v1/catalog/deregister", &node).await.0, 200);
}

async fn another_datacenter_is_what_is_wrong_first_with_a_registration(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    for target in [CATALOG, "/v1/catalog/deregister"] {
        for token in ["", "?token=5d2c1b1e-0000-4000-8000-000000000000"] {
            let body = json!({"Node": "", "Datacenter": "nope"});
            let answer = put(&t, &format!("{target}{token}"), &body).await;
            assert_eq!(answer, (500, "No path to datacenter".to_owned()), "{target}{token}");
        }
    }
}

async fn the_anonymous_token_is_read_by_a_caller_that_names_it(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    let named = t.raw("GET", "/v1/acl/token/self?token=anonymous", "").await;
    assert!(named.status == 200 && named.body.contains("\"anonymous\""), "{}", named.body);
    assert_eq!(t.raw("GET", "/v1/acl/token/self", "").await.status, 403);
}

async fn another_place_of_a_node_needs_the_permission_to_write_it(t: T) {
    if t.is_1_8("a place has no locality") {
        return;
    }
    let t = t.with_acls(DefaultPolicy::Deny);
    let node = json!({"Node": t.name("n"), "Address": "1.1.1.1"});
    let mut moved = node.clone();
    moved["Locality"] = json!({"Region": "r"});
    assert_eq!(put_as_manager(&t, CATALOG, &node).await.0, 200);
    let anonymous = t.anonymous();
    assert_eq!(put(&anonymous, CATALOG, &node).await.0, 200);
    let (status, said) = put(&anonymous, CATALOG, &moved).await;
    assert_eq!(status, 403, "{said}");
    let node = json!({"Node": node["Node"]});
    assert_eq!(put_as_manager(&t, "/v1/catalog/deregister", &node).await.0, 200);
}

async fn a_check_of_an_unknown_service_is_an_error_for_any_caller(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    let node = json!({"Node": t.name("n"), "Address": "1.1.1.1"});
    assert_eq!(put_as_manager(&t, CATALOG, &node).await.0, 200);
    let mut orphan = node.clone();
    orphan["Check"] = json!({"CheckID": "orphan", "Name": "a", "ServiceID": "no"});
    let (status, said) = put(&t.anonymous(), CATALOG, &orphan).await;
    assert_eq!(status, 500, "{said}");
    let text = match t.is_1_8("the text is shorter") {
        true => "Unknown service 'no' for check 'orphan'",
        false => "Unknown service ID 'no' for check ID 'orphan'",
    };
    assert_eq!(said, text);
    let node = json!({"Node": node["Node"]});
    assert_eq!(put_as_manager(&t, "/v1/catalog/deregister", &node).await.0, 200);
}

async fn a_changed_node_is_refused_before_a_service_that_is_replaced(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    let own = t.name("own");
    let token = json!({"ServiceIdentities": [{"ServiceName": own}]});
    let (status, token) = put_as_manager(&t, "/v1/acl/token", &token).await;
    assert_eq!(status, 200, "{token}");
    let token: serde_json::Value = serde_json::from_str(&token).expect("JSON");
    let target = format!("{CATALOG}?token={}", token["SecretID"].as_str().expect("a secret"));
    let other = json!({"ID": "one", "Service": t.name("other")});
    let node = json!({"Node": t.name("n"), "Address": "1.1.1.1", "Service": other});
    assert_eq!(put_as_manager(&t, CATALOG, &node).await.0, 200);
    let mut changed = node.clone();
    changed["Service"]["Service"] = json!(own);
    let (status, said) = put(&t.anonymous(), &target, &changed).await;
    assert_eq!((status, said.as_str()), (403, "Permission denied"));
    changed["Address"] = json!("1.1.1.2");
    let (status, said) = put(&t.anonymous(), &target, &changed).await;
    assert_eq!(status, 403, "{said}");
    assert!(said.contains("node:write") || t.is_1_8("the text names no permission"), "{said}");
    let node = json!({"Node": node["Node"]});
    assert_eq!(put_as_manager(&t, "/v1/catalog/deregister", &node).await.0, 200);
}

/// Requests that the walker of odd requests has found, with the status and the end of the answer.
const ODD: &[(&str, &str, &str, u16, &str)] = &[
    (
        "PUT",
        "/v1/config",
        r#"{"KIND":"service-defaults","Name":"NAME"}"#,
        400,
        "a kind/Kind key at the top level",
    ),
    (
        "PUT",
        "/v1/config",
        r#"{"Kind":"service-defaults","Name":"NAME","Expose":{"Checks":"x"}}"#,
        400,
        "",
    ),
    (
        "PUT",
        "/v1/config",
        r#"{"Kind":"service-defaults","Name":"NAME","MaxInboundConnections":["a"]}"#,
        400,
        "",
    ),
    (
        "PUT",
        "/v1/config",
        r#"{"Kind":"service-resolver","Name":"NAME","Subsets":{"v1":{"OnlyPassing":"1h"}}}"#,
        400,
        "",
    ),
    (
        "PUT",
        "/v1/config",
        r#"{"Kind":"service-resolver","Name":"NAME","Subsets":{"v1":null}}"#,
        200,
        "true",
    ),
    (
        "PUT",
        "/v1/config",
        r#"{"Kind":"service-resolver","Name":"NAME","Subsets":[[]]}"#,
        200,
        "true",
    ),
    (
        "PUT",
        "/v1/config",
        r#"{"Kind":"service-resolver","Name":"NAME","ConnectTimeout":true}"#,
        200,
        "true",
    ),
    (
        "PUT",
        "/v1/config",
        r#"{"Kind":"service-defaults","Name":"NAME","MaxInboundConnections":[1]}"#,
        200,
        "true",
    ),
    ("DELETE", "/v1/config/service-defaults/NAME", "", 200, "{}"),
    (
        "PUT",
        "/v1/config",
        r#"{"Kind":"service-resolver","Name":"NAME","ConnectTimeout":1e30}"#,
        500,
        "must be >= 0",
    ),
    (
        "PUT",
        "/v1/config?cas=99999999999999999999",
        r#"{"Kind":"service-resolver","Name":"NAME"}"#,
        500,
        "value out of range",
    ),
    ("DELETE", "/v1/config/service-resolver/NAME", "", 200, "{}"),
    ("GET", "/v1/config/x?filter=x", "", 500, "invalid config entry kind: x"),
    ("GET", "/v1/config/?filter=x", "", 500, "filtering not supported for config entry kind="),
    ("PUT", "/v1/query/x", "", 500, "UUID must be 36 characters"),
    ("OPTIONS", "/v1/query/x", "", 200, "{}"),
    (
        "PUT",
        "/v1/coordinate/update",
        r#"{"Node":"NAME","Segment":1,"Coord":{"Vec":[0,0,0,0,0,0,0,0]}}"#,
        400,
        "of type string",
    ),
    (
        "PUT",
        "/v1/coordinate/update",
        r#"{"Node":"NAME","Coord":{"Unknown":1}}"#,
        400,
        "unknown field \"Unknown\"",
    ),
    (
        "PUT",
        "/v1/coordinate/update",
        r#"{"Node":"NAME","Coord":{"Vec":[null,0,0,0,0,0,0,0]}}"#,
        200,
        "",
    ),
    (
        "PUT",
        "/v1/agent/check/register",
        r#"{"Name":"NAME","TCP":"127.0.0.1:1","Interval":1e30}"#,
        400,
        "",
    ),
    (
        "PUT",
        "/v1/session/create",
        r#"{"Checks":[""]}"#,
        500,
        "index error: object is missing a value for this index",
    ),
    (
        "PUT",
        "/v1/session/create",
        r#"{"NodeChecks":["z"],"ServiceChecks":[{"ID":"a"}]}"#,
        500,
        "Missing check 'z' registration",
    ),
    (
        "PUT",
        "/v1/session/create",
        r#"{"Checks":[],"TTL":"é"}"#,
        500,
        r#"invalid duration "\xc3\xa9""#,
    ),
    (
        "PUT",
        "/v1/txn",
        r#"[{"KV":{"Verb":"check-not-exists","Key":"NAME","Value":[null,1]}}]"#,
        200,
        "",
    ),
    (
        "PUT",
        "/v1/connect/intentions/exact?source=a&source=a",
        r#"{"Action":"deny"}"#,
        500,
        "parameter 'source' not set",
    ),
    ("PUT", "/v1/agent/force-leave/NAME?wan", "", 500, "agent: No node found with name ''"),
    (
        "PUT",
        "/v1/session/create",
        r#"{"NodeChecks":[],"ServiceChecks":[null]}"#,
        500,
        "index error: object is missing a value for this index",
    ),
    (
        "PUT",
        "/v1/session/create",
        r#"{"NodeChecks":[null],"ServiceChecks":[{"ID":"c"}]}"#,
        500,
        "Missing check 'c' registration",
    ),
    ("PUT", "/v1/config", r#"{"Kind":"service-defaults","Name":"NAME","Meta":[[]]}"#, 200, "true"),
    ("DELETE", "/v1/config/service-defaults/NAME", "", 200, "{}"),
];

async fn odd_requests_are_answered_as_they_are(t: T) {
    if t.is_1_8("odd requests have other answers") {
        return;
    }
    let name = t.name("odd");
    for (method, target, body, status, end) in ODD {
        let answer =
            t.raw(method, &target.replace("NAME", &name), &body.replace("NAME", &name)).await;
        let is_right = answer.status == *status && answer.body.trim_end().ends_with(end);
        assert!(is_right, "{method} {target} {body}: {} {}", answer.status, answer.body);
    }
    let body = r#"{"Checks":[],"LockDelay":"-5s"}"#;
    let created = t.raw("PUT", "/v1/session/create", body).await;
    let created: Value = serde_json::from_str(&created.body).expect("JSON");
    let id = created["ID"].as_str().expect("an id");
    let session = t.raw("GET", &format!("/v1/session/info/{id}"), "").await;
    let session: Value = serde_json::from_str(&session.body).expect("JSON");
    assert_eq!(session[0]["LockDelay"], json!(-5_000_000_000_000_000_000_i64));
    assert_eq!(t.raw("PUT", &format!("/v1/session/destroy/{id}"), "").await.status, 200);
    let answer = t.raw("PATCH", "/v1/query/x", "").await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET,PUT,DELETE")));
}

async fn odd_requests_with_acls_are_answered_as_they_are(t: T) {
    if t.is_1_8("odd requests have other answers") {
        return;
    }
    let t = t.with_acls(DefaultPolicy::Deny);
    for (method, target, body, status, end) in [
        ("GET", "/v1/agent/checks?filter=x", "", 403, "ACL not found"),
        ("GET", "/v1/agent/services?filter=x", "", 403, "ACL not found"),
        (
            "PUT",
            "/v1/agent/check/register",
            r#"{"Name":"n","TTL":"1h","ServiceID":"none"}"#,
            403,
            "ACL not found",
        ),
    ] {
        let target = format!("{target}{}token=nope", if target.contains('?') { '&' } else { '?' });
        let answer = t.anonymous().raw(method, &target, body).await;
        assert!(
            answer.status == status && answer.body.ends_with(end),
            "{target}: {} {}",
            answer.status,
            answer.body
        );
    }
    for (method, target, body, status, end) in [
        ("POST", "/v1/acl/login", "null", 500, "Missing auth parameters"),
        ("GET", "/v1/acl/tokens?policy=x&role=x", "", 500, "or methodName at a time"),
        (
            "GET",
            "/v1/acl/templated-policies?ns=default",
            "",
            400,
            "Namespaces are a Consul Enterprise feature",
        ),
        (
            "POST",
            "/v1/internal/acl/authorize?dc=nope",
            r#"[{"Resource":"key","Access":"read"}]"#,
            500,
            "No path to datacenter",
        ),
    ] {
        let answer = t.raw_own(method, target, body).await;
        assert!(
            answer.status == status && answer.body.ends_with(end),
            "{target}: {} {}",
            answer.status,
            answer.body
        );
    }
}

async fn parameters_of_wrong_values_are_refused(t: T) {
    let has_no = |feature: &str, place: &str| {
        format!("Invalid query parameter: \"{place}\" - {feature}s are a Consul Enterprise feature")
    };
    let out_of_range =
        |text: &str| format!("Bad limit: strconv.Atoi: parsing \"{text}\": value out of range");
    let text = |text: &str| text.to_owned();
    let long = "99999999999999999999";
    let rows = [
        (
            "GET",
            text("/v1/connect/ca/roots?pem=x"),
            400,
            text("The 'pem' query parameter must be a boolean value"),
        ),
        (
            "GET",
            text("/v1/connect/ca/roots?pem=2"),
            400,
            text("The 'pem' query parameter must be a boolean value"),
        ),
        (
            "GET",
            text("/v1/connect/intentions/check?source=a&destination=b&source-type="),
            500,
            text("unsupported SourceType: \"\""),
        ),
        (
            "GET",
            text("/v1/connect/intentions/check?source=a&destination=b&source-type=x"),
            500,
            text("unsupported SourceType: \"x\""),
        ),
        (
            "PUT",
            text("/v1/agent/join/127.0.0.1:1?partition=x"),
            400,
            has_no("Partition", "partition"),
        ),
        ("GET", format!("/v1/query/none/execute?limit={long}"), 500, out_of_range(long)),
        (
            "GET",
            format!("/v1/query/none/execute?limit=-{long}"),
            500,
            out_of_range(&format!("-{long}")),
        ),
        (
            "GET",
            text("/v1/query/none/execute?limit=x"),
            500,
            text("Bad limit: strconv.Atoi: parsing \"x\": invalid syntax"),
        ),
    ];
    if !t.is_1_8("it reads fewer parameters") {
        for (method, target, status, body) in rows {
            let answer = t.raw(method, &target, "").await;
            assert_eq!((answer.status, answer.body), (status, body), "{target}");
        }
        let t = t.with_acls(DefaultPolicy::Deny);
        for path in ["policies", "policy/name/builtin/service"] {
            for (feature, parameter) in [("Namespace", "ns"), ("Partition", "partition")] {
                let target = format!("/v1/acl/templated-{path}?{parameter}=x");
                let answer = t.raw_own("GET", &target, "").await;
                assert_eq!((answer.status, answer.body), (400, has_no(feature, parameter)));
            }
        }
        let answer = t.raw_own("GET", "/v1/acl/replication", "").await;
        let body = answer.body.replace(['\n', ' '], "");
        let beginning = "{\"Enabled\":false,\"Running\":false,\"SourceDatacenter\":\"\"";
        assert!(body.starts_with(beginning), "{body}");
    }
}

async fn a_token_with_a_reserved_name_is_refused(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    for name in ["allow", "deny", "manage"] {
        for path in ["/v1/kv/a", "/v1/agent/self", "/v1/catalog/nodes", "/v1/session/list"] {
            let answer = t.raw_by("GET", path, name.as_bytes()).await;
            let seen = (answer.status, answer.body.as_str());
            assert_eq!(seen, (500, "Cannot resolve root ACL"), "{path}");
        }
    }
}

async fn matches_are_in_the_order_of_their_names(t: T) {
    let [first, last] = ["a", "b"].map(|name| t.name(name));
    let target =
        format!("/v1/connect/intentions/match?by=source&name={last}&name={first}&name={last}");
    let answer = t.raw("GET", &target, "").await;
    let body = answer.body.replace(['\n', ' '], "");
    assert_eq!(body, format!("{{\"{first}\":null,\"{last}\":null}}"));
}

async fn what_is_not_text_in_a_filter_is_refused(t: T) {
    for path in [
        "catalog/nodes",
        "catalog/services",
        "catalog/service/s",
        "catalog/connect/s",
        "catalog/node/n",
        "catalog/node-services/n",
        "health/node/n",
        "health/checks/s",
        "health/service/s",
        "health/connect/s",
        "health/state/any",
        "agent/services",
        "agent/checks",
    ] {
        let is_newer = path == "catalog/services";
        if is_newer && t.is_1_8("the names of services have no filter") {
            continue;
        }
        for filter in
            ["%ff", "%C3", "ID==%22%ff%22", "ID==%60%80%60", "ID==%F0%9F", "%22%ff%22+in+Tags"]
        {
            let answer = t.raw("GET", &format!("/v1/{path}?filter={filter}"), "").await;
            assert_eq!(answer.status, 500, "{path} {filter} {}", answer.body);
        }
    }
}

async fn exported_services_are_asked_for_in_printable_characters(t: T) {
    if t.is_1_8("it does not know which services are exported") {
        return;
    }
    for value in ["%C3%A9", "a%0Ab", "%7f", "%ff", "%00", "%09"] {
        for (name, header) in [("filter", "filter"), ("token", "x-consul-token")] {
            let answer = t.raw("GET", &format!("/v1/exported-services?{name}={value}"), "").await;
            let why = format!(
                "header key \"{header}\" contains value with non-printable ASCII characters"
            );
            assert_eq!((answer.status, answer.body.trim()), (500, why.as_str()), "{value}");
        }
    }
    for value in ["a+b", "(", "~", "%22"] {
        let target = format!("/v1/exported-services?filter={value}&token={value}");
        assert_eq!(t.raw("GET", &target, "").await.status, 200, "{value}");
    }
}

async fn members_that_nothing_depends_on_have_their_types(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    let (name, node) = (t.name("x"), t.name("n"));
    let indexes: &[(&str, &[Value])] =
        &[("CreateIndex", &[json!("t"), json!({}), json!(-1)]), ("ModifyIndex", &[json!("t")])];
    let texts = [json!(1), json!({}), json!([])];
    let rows: Vec<(String, Value, Vec<&str>)> = vec![
        ("acl/policy".into(), json!({"Name": name}), vec!["Hash"]),
        ("acl/role".into(), json!({"Name": name}), vec!["Hash"]),
        ("acl/token".into(), json!({}), vec!["Hash", "CreateTime"]),
        ("acl/auth-method".into(), json!({"Name": name, "Type": "jwt"}), vec![]),
        ("acl/binding-rule".into(), json!({"AuthMethod": name, "BindType": "service"}), vec![]),
        ("catalog/register".into(), json!({"Node": node, "Address": "10.0.0.1"}), vec!["Token"]),
        ("session/create".into(), json!({}), vec!["ID"]),
        ("query".into(), json!({"Name": name, "Service": {"Service": name}}), vec!["Token"]),
        (
            format!("connect/intentions/exact?source={name}&destination={name}"),
            json!({"Action": "allow"}),
            vec!["Hash", "UpdatedAt", "CreatedAt", "Precedence"],
        ),
    ];
    for (path, body, members) in rows {
        if path.contains("exact") && t.is_1_8("intentions have no names") {
            continue;
        }
        let method = if path == "query" { "POST" } else { "PUT" };
        let wrong_texts = members.iter().flat_map(|member| {
            let numbers = *member == "Precedence";
            texts.iter().filter(move |it| !numbers || !it.is_number()).map(move |it| (*member, it))
        });
        let wrong_indexes =
            indexes.iter().flat_map(|(member, values)| values.iter().map(move |it| (*member, it)));
        for (member, value) in wrong_texts.chain(wrong_indexes) {
            let mut body = body.clone();
            body[member] = value.clone();
            let answer = t.raw_own(method, &format!("/v1/{path}"), &body.to_string()).await;
            let is_decoding = answer.body.contains("decod");
            assert_eq!((answer.status, is_decoding), (400, true), "{path} {body} {}", answer.body);
        }
    }
}

async fn the_bodies_of_the_agent_have_no_other_members(t: T) {
    let t = t.with_acls(DefaultPolicy::Deny);
    if t.is_1_8("the agent reads over other members") {
        return;
    }
    for (method, path) in [
        ("PUT", "agent/token/dns"),
        ("PUT", "agent/token/none"),
        ("POST", "agent/connect/authorize"),
    ] {
        for member in ["X", "", "Namespace", "ID"] {
            let body = json!({ member: 1 }).to_string();
            let answer = t.raw_own(method, &format!("/v1/{path}"), &body).await;
            let why = format!("Request decode failed: json: unknown field \"{member}\"");
            assert_eq!((answer.status, answer.body), (400, why), "{path}");
        }
    }
}
