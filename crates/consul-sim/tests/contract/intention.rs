//! Intentions of the mesh.

use crate::acl::token;
use crate::target::{T, args, behaviours, list, table, text, texts};
use consul_api::error::Kind;
use consul_api::value::Value;
use consul_sim::acl::DefaultPolicy::Deny;

behaviours![
    an_intention_has_the_metadata_and_the_peer_of_its_entry,
    an_intention_decides_about_a_connection,
    an_intention_allows_or_denies,
    the_most_exact_intention_counts,
    an_intention_is_created_and_deleted_by_id,
    an_intention_is_changed_by_id,
    an_intention_with_an_id_has_a_hash_of_its_content,
    a_destination_in_another_case_is_the_same,
    intentions_are_matched_by_either_end,
    an_intention_is_a_source_of_an_entry,
    a_deletion_by_names_ends_the_older_form_of_the_entry,
    invalid_intentions_are_refused,
    both_ends_must_be_given,
    names_have_only_the_default_namespace,
    intentions_need_permissions_of_the_destination,
    alike_intentions_are_listed_by_their_names,
    an_intention_may_be_for_all_destinations,
    an_intention_needs_a_destination,
    all_that_is_wrong_with_an_intention_by_its_id_is_said,
    an_intention_by_its_id_keeps_its_destination_and_its_creation,
    either_end_is_enough_to_read_an_intention,
    a_repeated_parameter_is_a_missing_one,
    metadata_of_an_intention_by_id_stops_changes_by_names,
];

/// Whether source may call destination.
async fn may(t: &T, source: &str, destination: &str) -> bool {
    let ends = args![t.name(source), t.name(destination)];
    let answer = t.value("connect_intention_check", ends).await;
    answer.get("Allowed") == Some(&true.into())
}

async fn upsert(t: &T, source: &str, destination: &str, action: &str) {
    let intention = table! {"Action" = action};
    t.ok("connect_intention_upsert", args![source, t.name(destination), intention]).await;
}

async fn an_intention_allows_or_denies(t: T) {
    let ends = || args![t.name("a"), t.name("b")];
    assert_eq!(t.value("connect_intention_check", ends()).await, table! {"Allowed" = true});
    if t.is_1_8("there are no intentions by their ends (before 1.9)") {
        // It takes the last part of the path for an id.
        t.fails("connect_intention_exact", ends(), Kind::Argument).await;
        return;
    }
    upsert(&t, &t.name("a"), "b", "deny").await;
    assert_eq!(t.value("connect_intention_check", ends()).await, table! {"Allowed" = false});
    let found = t.value("connect_intention_exact", ends()).await;
    assert_eq!(text(&found, "Action"), "deny");
    t.ok("connect_intention_delete", ends()).await;
    assert_eq!(t.value("connect_intention_exact", ends()).await, Value::Null);
    t.ok("connect_intention_delete", ends()).await;
}

async fn the_most_exact_intention_counts(t: T) {
    if t.is_1_8("there are no intentions by their ends (before 1.9)") {
        return;
    }
    upsert(&t, "*", "b", "deny").await;
    upsert(&t, &t.name("a"), "b", "allow").await;
    assert!(may(&t, "a", "b").await && !may(&t, "other", "b").await);
    t.ok("connect_intention_delete", args![t.name("a"), t.name("b")]).await;
    assert!(!may(&t, "a", "b").await);
    t.ok("connect_intention_delete", args!["*", t.name("b")]).await;
    assert!(may(&t, "a", "b").await);
}

fn intention(t: &T, action: &str) -> Value {
    table! {
        "SourceName" = t.name("a"), "DestinationName" = t.name("b"), "SourceType" = "consul",
        "Action" = action,
    }
}

async fn an_intention_is_created_and_deleted_by_id(t: T) {
    let id = t.value("connect_intention_create", args![intention(&t, "allow")]).await;
    let id = id.as_str().unwrap();
    let found = t.value("connect_intention_read", args![id]).await;
    assert_eq!(text(&found, "SourceName"), t.name("a"));
    assert_eq!((text(&found, "SourceNS"), found.get("Precedence")), ("default", Some(&9.into())));
    // An intention that was written by source and destination has no id.
    let all = t.value("connect_intention_list", args![]).await;
    assert!(all.items().iter().any(|found| found.get("ID") == Some(&id.into())));
    t.ok("connect_intention_delete_by_id", args![id]).await;
    assert_eq!(t.value("connect_intention_read", args![id]).await, Value::Null);
}

async fn an_intention_is_changed_by_id(t: T) {
    let id = t.value("connect_intention_create", args![intention(&t, "allow")]).await;
    t.fails("connect_intention_create", args![intention(&t, "deny")], Kind::Http).await;
    assert!(may(&t, "a", "b").await);
    t.ok("connect_intention_update", args![id.clone(), intention(&t, "deny")]).await;
    assert!(!may(&t, "a", "b").await);
    let found = t.value("connect_intention_read", args![id.clone()]).await;
    assert_eq!((text(&found, "Action"), found.get("ID")), ("deny", Some(&id)));
    t.ok("connect_intention_delete_by_id", args![id]).await;
}

async fn an_intention_with_an_id_has_a_hash_of_its_content(t: T) {
    let id = t.value("connect_intention_create", args![intention(&t, "allow")]).await;
    let read = async || {
        let found = t.value("connect_intention_read", args![id.clone()]).await;
        text(&found, "Hash").to_owned()
    };
    let before = read().await;
    assert_eq!(before.len(), 44);
    t.ok("connect_intention_update", args![id.clone(), intention(&t, "allow")]).await;
    assert_eq!(read().await, before);
    t.ok("connect_intention_update", args![id.clone(), intention(&t, "deny")]).await;
    assert_ne!(read().await, before);
    t.ok("connect_intention_delete_by_id", args![id]).await;
    if t.is_1_8("there are no intentions by their ends (before 1.9)") {
        return;
    }
    upsert(&t, &t.name("a"), "b", "deny").await;
    let found = t.value("connect_intention_exact", args![t.name("a"), t.name("b")]).await;
    assert_eq!(found.get("Hash"), None);
    t.ok("connect_intention_delete", args![t.name("a"), t.name("b")]).await;
}

async fn a_destination_in_another_case_is_the_same(t: T) {
    if t.is_1_8("there are no intentions by their ends (before 1.9)") {
        return;
    }
    upsert(&t, &t.name("a"), "b", "deny").await;
    upsert(&t, &t.name("c"), "B", "deny").await;
    let entry = t.value("config_read", args!["service-intentions", t.name("B")]).await;
    assert_eq!(text(&entry, "Name"), t.name("b"));
    let found = t.value("connect_intention_exact", args![t.name("c"), t.name("B")]).await;
    assert_eq!(text(&found, "DestinationName"), t.name("b"));
    let other = t.value("connect_intention_exact", args![t.name("C"), t.name("b")]).await;
    assert_eq!(other, Value::Null);
    let found = t.value("connect_intention_match", args!["destination", t.name("B")]).await;
    // Those for all destinations are there too.
    let sources = texts(found.get(&t.name("B")).unwrap(), "SourceName");
    assert!(["a", "c"].iter().all(|name| sources.contains(&t.name(name).as_str())), "{sources:?}");
    for source in ["a", "c"] {
        t.ok("connect_intention_delete", args![t.name(source), t.name("B")]).await;
    }
    assert_eq!(t.value("config_read", args!["service-intentions", t.name("b")]).await, Value::Null);
}

async fn intentions_are_matched_by_either_end(t: T) {
    let by = |end: &str, name: &str| args![end, list![t.name(name)]];
    let id = t.value("connect_intention_create", args![intention(&t, "allow")]).await;
    for (end, name) in [("source", "a"), ("destination", "b")] {
        let found = t.value("connect_intention_match", by(end, name)).await;
        let matched = found.get(&t.name(name)).unwrap();
        assert!(texts(matched, "DestinationName").contains(&t.name("b").as_str()), "{found:?}");
    }
    let found = t.value("connect_intention_match", by("source", "b")).await;
    // Intentions of all services match, too.
    let matched = texts(found.get(&t.name("b")).unwrap(), "SourceName");
    assert!(matched.iter().all(|source| *source == "*"), "{found:?}");
    t.ok("connect_intention_delete_by_id", args![id]).await;
}

async fn an_intention_is_a_source_of_an_entry(t: T) {
    if t.is_1_8("intentions are not entries (before 1.9)") {
        return;
    }
    upsert(&t, &t.name("a"), "b", "allow").await;
    upsert(&t, "*", "b", "deny").await;
    let entry = t.value("config_read", args!["service-intentions", t.name("b")]).await;
    assert_eq!(texts(entry.get("Sources").unwrap(), "Name"), [&*t.name("a"), "*"]);
    let error = t.fails("connect_intention_create", args![intention(&t, "deny")], Kind::Http).await;
    assert!(error.message().contains("cannot use legacy intention API"), "{error}");
    t.ok("config_delete", args!["service-intentions", t.name("b")]).await;
    assert_eq!(t.value("connect_intention_exact", args!["*", t.name("b")]).await, Value::Null);
}

async fn a_deletion_by_names_ends_the_older_form_of_the_entry(t: T) {
    if t.is_1_8("intentions are not entries (before 1.9)") {
        return;
    }
    let ends = |source: &str| {
        format!(
            r#"{{"SourceName":"{source}","DestinationName":"{}","Action":"allow"}}"#,
            t.name("b")
        )
    };
    for (source, status) in [("a", 200), ("c", 200)] {
        assert_eq!(t.raw("POST", "/v1/connect/intentions", &ends(source)).await.status, status);
    }
    let target = format!("/v1/connect/intentions/exact?source=a&destination={}", t.name("b"));
    assert_eq!(t.raw("DELETE", &target, "").await.status, 200);
    let answer = t.raw("POST", "/v1/connect/intentions", &ends("d")).await;
    assert!(
        answer.status == 500 && answer.body.contains("cannot use legacy intention API"),
        "{}",
        answer.body
    );
    t.ok("config_delete", args!["service-intentions", t.name("b")]).await;
}

async fn invalid_intentions_are_refused(t: T) {
    for (members, why) in [
        (
            r#""SourceName":"a","SourceType":"bad","Action":"allow""#,
            "SourceType must be set to 'consul'",
        ),
        (r#""SourceName":"","SourceType":"consul","Action":"allow""#, "SourceName must be set"),
        (
            r#""SourceName":"a","SourceType":"consul","Action":"x""#,
            "Action must be set to 'allow' or 'deny'",
        ),
        (
            r#""SourceName":"a*","SourceType":"consul","Action":"allow""#,
            "wildcard character '*' cannot be used with partial values",
        ),
    ] {
        let body = format!("{{\"DestinationName\":\"{}\",{members}}}", t.name("b"));
        let refused = t.raw("POST", "/v1/connect/intentions", &body).await;
        assert_eq!(refused.status, 500, "{}", refused.body);
        assert!(refused.body.contains(why), "{}", refused.body);
    }
}

async fn both_ends_must_be_given(t: T) {
    for (query, why) in [
        ("check?destination=b", "required query parameter 'source' not set"),
        ("check?source=a", "required query parameter 'destination' not set"),
        ("match?name=a", "required query parameter 'by' not set"),
        ("match?by=x&name=a", "'by' parameter must be one of 'source' or 'destination'"),
        ("exact?source=&destination=b", "SourceName is missing"),
        ("exact?source=a&destination=", "DestinationName is missing"),
    ] {
        if query.starts_with("exact") && t.is_1_8("intentions are read by id alone") {
            continue;
        }
        let refused = t.raw("GET", &format!("/v1/connect/intentions/{query}"), "").await;
        assert_eq!(refused.status, 500, "{query}: {}", refused.body);
        assert!(refused.body.contains(why), "{query}: {}", refused.body);
    }
    // An end without a name is one of nobody's intentions.
    for query in ["check?source=&destination=b", "check?source=a&destination="] {
        let answer = t.raw("GET", &format!("/v1/connect/intentions/{query}"), "").await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
    }
    if !t.is_1_8("intentions are not written by their ends") {
        let target = "/v1/connect/intentions/exact?source=&destination=b";
        for method in ["PUT", "DELETE"] {
            let refused = t.raw(method, target, r#"{"Action":"allow"}"#).await;
            assert_eq!(refused.body, "required query parameter 'source' not set");
        }
    }
}

async fn names_have_only_the_default_namespace(t: T) {
    if t.is_1_8("the names of intentions have no namespaces (before 1.9)") {
        return;
    }
    upsert(&t, &t.name("a"), "b", "deny").await;
    let [a, b] = ["a", "b"].map(|name| t.name(name));
    for source in [format!("default/{a}"), format!("/{a}"), format!("p/default/{a}")] {
        let answer = t.value("connect_intention_check", args![source.clone(), b.clone()]).await;
        assert_eq!(answer.get("Allowed"), Some(&false.into()), "{source}");
    }
    let of_other = "Namespaces is a Consul Enterprise feature";
    for (path, why) in [
        ("check?source=x/a&destination=b", format!("Invalid source namespace \"x\": {of_other}")),
        (
            "check?source=a&destination=y/b",
            format!("Invalid destination namespace \"y\": {of_other}"),
        ),
        ("exact?source=x/a&destination=b", format!("Invalid SourceNS \"x\": {of_other}")),
        ("match?by=source&name=x/a", format!("Invalid match entry namespace \"x\": {of_other}")),
        (
            "check?source=a/b/c/d&destination=b",
            "source \"a/b/c/d\" is invalid: input can contain at most two '/'".to_owned(),
        ),
    ] {
        let refused = t.raw("GET", &format!("/v1/connect/intentions/{path}"), "").await;
        assert_eq!((refused.status, refused.body), (500, why), "{path}");
    }
    t.ok("connect_intention_delete", args![a, b]).await;
}

async fn intentions_need_permissions_of_the_destination(t: T) {
    if t.is_1_8("there are no intentions by their ends (before 1.9)") {
        return;
    }
    let t = t.with_acls(Deny);
    let token = async |rights: &str| {
        let rules = format!("service \"{}\" {{ {rights} }}", t.name("b"));
        let policy =
            table! {"Name" = t.name(&rights.replace([' ', '=', '"'], "")), "Rules" = rules};
        let policy = t.value("acl_policy_create", args![policy]).await;
        let policies = list![table! {"ID" = text(&policy, "ID")}];
        let token = t.value("acl_token_create", args![table! {"Policies" = policies}]).await;
        t.with_token(text(&token, "SecretID"))
    };
    let reader = token("policy = \"write\"").await;
    let writer = token("policy = \"read\" intentions = \"write\"").await;
    let ends = || args![t.name("a"), t.name("b")];
    let write = || args![t.name("a"), t.name("b"), table! {"Action" = "allow"}];
    // The right to write a service is one to read its intentions.
    reader.fails("connect_intention_upsert", write(), Kind::PermissionDenied).await;
    writer.ok("connect_intention_upsert", write()).await;
    assert_eq!(text(&reader.value("connect_intention_exact", ends()).await, "Action"), "allow");
    t.anonymous().fails("connect_intention_exact", ends(), Kind::PermissionDenied).await;
    t.anonymous().fails("connect_intention_check", ends(), Kind::PermissionDenied).await;
    assert_eq!(t.anonymous().value("connect_intention_list", args![]).await, list![]);
    assert_eq!(reader.value("connect_intention_list", args![]).await.items().len(), 1);
    assert_eq!(writer.value("connect_intention_check", ends()).await, table! {"Allowed" = true});
    // Without an intention, the default policy counts.
    writer.ok("connect_intention_delete", ends()).await;
    assert_eq!(writer.value("connect_intention_check", ends()).await, table! {"Allowed" = false});
}

async fn alike_intentions_are_listed_by_their_names(t: T) {
    if t.is_1_8("there are no intentions by their ends (before 1.9)") {
        return;
    }
    let ends =
        [("b", "y"), ("a", "z"), ("a", "x")].map(|(one, other)| [one, other].map(|it| t.name(it)));
    for [source, destination] in &ends {
        let denied = table! {"Action" = "deny"};
        t.ok("connect_intention_upsert", args![source.as_str(), destination.as_str(), denied])
            .await;
    }
    let all = t.value("connect_intention_list", args![]).await;
    let own = t.name("");
    let found = texts(&all, "SourceName").into_iter().zip(texts(&all, "DestinationName"));
    let found: Vec<_> = found.filter(|(source, _)| source.starts_with(&own)).collect();
    let [b_y, a_z, a_x] = &ends;
    assert_eq!(found, [a_x, a_z, b_y].map(|[source, destination]| (&**source, &**destination)));
    for [source, destination] in &ends {
        t.ok("connect_intention_delete", args![source.as_str(), destination.as_str()]).await;
    }
}

async fn an_intention_may_be_for_all_destinations(t: T) {
    if t.is_1_8("there are no intentions by their ends (before 1.9)") {
        return;
    }
    let denied = table! {"Action" = "deny"};
    t.ok("connect_intention_upsert", args![t.name("a"), "*", denied]).await;
    assert!(!may(&t, "a", "b").await && may(&t, "c", "b").await);
    t.ok("connect_intention_delete", args![t.name("a"), "*"]).await;
    assert!(may(&t, "a", "b").await);
}

async fn an_intention_needs_a_destination(t: T) {
    if t.is_1_8("intentions are not entries (before 1.9)") {
        return;
    }
    let body = format!("{{\"SourceName\": \"{}\", \"Action\": \"allow\"}}", t.name("a"));
    let refused = t.raw("POST", "/v1/connect/intentions", &body).await;
    assert_eq!((refused.status, refused.body.as_str()), (403, "Permission denied"));
}

async fn all_that_is_wrong_with_an_intention_by_its_id_is_said(t: T) {
    if t.is_1_8("intentions are checked one by one, and have no peers") {
        return;
    }
    let long = "x".repeat(513);
    for (status, members, why) in [
        (
            500,
            r#""Permissions":[{"Action":"allow","HTTP":{"PathExact":"/a"}}]"#,
            "3 errors occurred:\n\t* SourceName must be set\n\t* Action must be set to 'allow' or \
             'deny'\n\t* Permissions must not be set when using the legacy APIs",
        ),
        (
            500,
            &format!("\"SourceName\":\"a\",\"Action\":\"deny\",\"Description\":\"{long}\""),
            "1 error occurred:\n\t* Description exceeds maximum length 512",
        ),
        (
            400,
            r#""SourceName":"a","Action":"deny","SourceNS":"x""#,
            "Invalid SourceNS(x): Namespaces is a Consul Enterprise feature",
        ),
        (
            500,
            r#""SourceName":"a","Action":"deny","SourcePeer":"p""#,
            "SourcePeer field is not supported on this endpoint. Use config entries instead",
        ),
        (
            500,
            r#""SourceName":1"#,
            "Failed to decode request body: json: cannot unmarshal number into Go struct field \
             .Alias.SourceName of type string",
        ),
    ] {
        let body = format!("{{\"DestinationName\":\"{}\",{members}}}", t.name("b"));
        let refused = t.raw("POST", "/v1/connect/intentions", &body).await;
        assert_eq!((refused.status, refused.body.as_str()), (status, why), "{members}");
    }
    let path = "/v1/connect/intentions/exact?source=a&destination=b";
    let refused = t.raw("PUT", path, "").await;
    assert_eq!((refused.status, refused.body.as_str()), (400, "Request decode failed: EOF"));
}

async fn an_intention_by_its_id_keeps_its_destination_and_its_creation(t: T) {
    if t.is_1_8("the destination of an intention may change (before 1.9)") {
        return;
    }
    let body = |destination: &str, action: &str| {
        let (source, destination) = (t.name("a"), t.name(destination));
        format!(
            "{{\"SourceName\":\"{source}\",\"DestinationName\":\"{destination}\",\"Action\":\"{action}\"}}"
        )
    };
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let created = t.raw("POST", "/v1/connect/intentions", &body("b", "allow")).await;
    let path = format!("/v1/connect/intentions/{}", json(&created.body)["ID"].as_str().unwrap());
    let before = json(&t.raw("GET", &path, "").await.body);
    let refused = t.raw("PUT", &path, &body("c", "deny")).await;
    assert!(refused.body.starts_with("Cannot modify Destination"), "{}", refused.body);
    crate::target::pause(std::time::Duration::from_millis(5)).await;
    assert_eq!(t.raw("PUT", &path, &body("b", "deny")).await.status, 200);
    let after = json(&t.raw("GET", &path, "").await.body);
    assert_eq!((&after["CreatedAt"], &after["Action"]), (&before["CreatedAt"], &"deny".into()));
    assert_ne!(after["UpdatedAt"], before["UpdatedAt"]);
    t.raw("DELETE", &path, "").await;
}

async fn either_end_is_enough_to_read_an_intention(t: T) {
    if t.is_1_8("there are no intentions by their ends (before 1.9)") {
        return;
    }
    let t = t.with_acls(Deny);
    let ends = || args![t.name("a"), t.name("b")];
    let denied = table! {"Action" = "deny"};
    t.ok("connect_intention_upsert", args![t.name("a"), t.name("b"), denied]).await;
    for (end, reads, matches) in [("a", true, false), ("b", true, true), ("c", false, false)] {
        let rule =
            format!("service \"{}\" {{ policy = \"read\" intentions = \"read\" }}", t.name(end));
        let token = token(&t, &rule).await;
        let secret = text(&token, "SecretID");
        let reader = t.with_token(secret);
        assert_eq!(reader.call("connect_intention_exact", ends()).await.is_ok(), reads, "{end}");
        let query = format!("by=destination&name={}&token={secret}", t.name("b"));
        let path = format!("/v1/connect/intentions/match?{query}");
        let status = if matches { 200 } else { 403 };
        assert_eq!(reader.raw("GET", &path, "").await.status, status, "{end}");
    }
    t.ok("connect_intention_delete", ends()).await;
}

/// The intentions for a destination, as a list and matched by it.
async fn of_destination(t: &T, name: &str) -> [serde_json::Value; 2] {
    let list = t.raw("GET", "/v1/connect/intentions", "").await.body;
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let found = list.as_array().unwrap().iter().find(|one| one["DestinationName"] == name);
    let path = format!("/v1/connect/intentions/match?by=destination&name={name}");
    let matched: serde_json::Value =
        serde_json::from_str(&t.raw("GET", &path, "").await.body).unwrap();
    [found.unwrap().clone(), matched[name][0].clone()]
}

async fn an_intention_has_the_metadata_and_the_peer_of_its_entry(t: T) {
    if t.is_1_8("intentions have no entries") {
        return;
    }
    let name = t.name("web");
    let body = format!(
        r#"{{"Kind":"service-intentions","Name":"{name}","Meta":{{"a":"b"}},
            "Sources":[{{"Name":"p","Peer":"pe","Action":"deny"}}]}}"#
    );
    assert_eq!(t.raw("PUT", "/v1/config", &body).await.body, "true");
    for found in of_destination(&t, &name).await {
        assert_eq!((&found["SourcePeer"], &found["Meta"]["a"]), (&"pe".into(), &"b".into()));
    }
    // That of a peer is not one of a service of the same name here.
    let path = format!("/v1/connect/intentions/check?source=p&destination={name}");
    assert!(t.raw("GET", &path, "").await.body.contains("true"));
    t.ok("config_delete", args!["service-intentions", name]).await;
}

async fn an_intention_decides_about_a_connection(t: T) {
    if t.is_1_8("the reason has another text") {
        return;
    }
    let (from, to) = (t.name("from"), t.name("to"));
    let ask = async || {
        let uri = format!("spiffe://x.consul/ns/default/dc/dc1/svc/{from}");
        let body = format!(r#"{{"Target":"{to}","ClientCertURI":"{uri}"}}"#);
        let said = t.raw("POST", "/v1/agent/connect/authorize", &body).await.body;
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        (said["Authorized"] == true, said["Reason"].as_str().unwrap().to_owned())
    };
    assert_eq!(ask().await, (true, "Default behavior configured by ACLs".to_owned()));
    for (action, allowed) in [("deny", false), ("allow", true)] {
        upsert(&t, &from, "to", action).await;
        let shown = action.to_uppercase();
        let reason = format!(
            "Matched L4 intention: default/{from} => default/{to} (Precedence: 9, Action: {shown})"
        );
        // The agent learns of it a moment later.
        t.until(&reason, || async { ask().await == (allowed, reason.clone()) }).await;
    }
    t.ok("config_delete", args!["service-intentions", to]).await;
}

async fn a_repeated_parameter_is_a_missing_one(t: T) {
    for (query, missing) in [
        ("match?by=source&by=source&name=a", "by"),
        ("check?source=a&source=b&destination=c", "source"),
        ("check?source=a&destination=b&destination=c", "destination"),
        ("exact?source=a&source=b&destination=c", "source"),
        ("exact?source=a&destination=b&destination=b", "destination"),
    ] {
        if t.is_1_8("intentions have no names") && query.starts_with("exact") {
            continue;
        }
        let answer = t.raw("GET", &format!("/v1/connect/intentions/{query}"), "").await;
        let why = format!("required query parameter '{missing}' not set");
        assert_eq!((answer.status, answer.body), (500, why), "{query}");
    }
}

async fn metadata_of_an_intention_by_id_stops_changes_by_names(t: T) {
    if t.is_1_8("intentions have no names") {
        return;
    }
    for (meta, status) in [("", 200), (r#","Meta":{"a":"b"}"#, 500)] {
        let name = t.name(&format!("db{status}"));
        let body = format!(
            r#"{{"SourceName":"one{status}","DestinationName":"{name}","Action":"deny"{meta}}}"#
        );
        let answer = t.raw("POST", "/v1/connect/intentions", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        for (method, body) in
            [("PUT", r#"{"Action":"allow"}"#), ("PUT", r#"{"Action":"deny"}"#), ("DELETE", "")]
        {
            let target = format!("/v1/connect/intentions/exact?source=other&destination={name}");
            if method == "DELETE" && status == 500 {
                // It is deleted without a change where it is not there.
                let answer = t.raw(method, &target, "").await;
                assert_eq!(answer.status, 200, "{}", answer.body);
                continue;
            }
            let answer = t.raw(method, &target, body).await;
            assert_eq!(answer.status, status, "{method} {meta}: {}", answer.body);
            assert!(
                status == 200 || answer.body.contains("LegacyMeta must be omitted"),
                "{}",
                answer.body
            );
        }
        t.raw("DELETE", &format!("/v1/config/service-intentions/{name}"), "").await;
    }
}
