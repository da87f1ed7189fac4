//! Cluster peering: tokens and what is known of other clusters, up to the first connection to one.

use crate::target::{T, args, behaviours, list, pause, table, text, texts};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use consul_api::error::Kind;
use consul_api::value::Value;
use consul_sim::acl::DefaultPolicy::Deny;
use serde_json::json;
use std::time::{Duration, Instant};

behaviours![
    an_unknown_peering_is_absent,
    a_token_describes_its_cluster,
    a_peering_is_pending_after_its_token,
    a_further_token_keeps_the_peering,
    names_and_bodies_are_checked,
    tokens_are_checked,
    a_cluster_has_no_peering_with_itself,
    a_token_is_remembered,
    a_deleted_peering_is_gone,
    a_list_waits_for_a_peering,
    peerings_need_their_permission,
];

fn has_none(t: &T) -> bool {
    t.is_1_8("there are no peerings (before 1.13)")
}

/// A name that is unique to this run, as short as a peering's.
fn name(t: &T) -> String {
    let name = t.name("p").replace('_', "-");
    name[name.len().saturating_sub(40)..].trim_start_matches('-').to_owned()
}

async fn token(t: &T, name: &str) -> String {
    let token = t.value("peering_token", args![table! {"PeerName" = name}]).await;
    token.as_str().expect("a token is text").to_owned()
}

fn decoded(token: &str) -> serde_json::Value {
    serde_json::from_slice(&STANDARD.decode(token).unwrap()).unwrap()
}

async fn an_unknown_peering_is_absent(t: T) {
    if has_none(&t) {
        t.fails("peering_list", args![], Kind::Unsupported).await;
        return;
    }
    assert_eq!(t.value("peering_read", args!["none"]).await, Value::Null);
    t.ok("peering_delete", args!["none"]).await;
    let answer = t.raw("GET", "/v1/peering/none", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (404, "Peering not found for \"none\""));
    assert_eq!(answer.header("x-consul-index"), None);
}

async fn a_token_describes_its_cluster(t: T) {
    if has_none(&t) {
        return;
    }
    let external = list!["32.1.2.3:8502", "not checked"];
    let request = table! {"PeerName" = name(&t), "ServerExternalAddresses" = external};
    let token = t.value("peering_token", args![request]).await;
    let token = decoded(token.as_str().unwrap());
    let roots = t.value("connect_ca_roots", args![]).await;
    let domain = text(&roots, "TrustDomain");
    assert_eq!(token["ServerName"], format!("server.dc1.peering.{domain}"));
    assert_eq!(token["CA"], json!(texts(roots.get("Roots").unwrap(), "RootCert")));
    assert_eq!(token["ManualServerAddresses"], json!(["32.1.2.3:8502", "not checked"]));
    let remote = json!({"Partition": "", "Datacenter": "dc1", "Locality": null});
    assert_eq!(token["Remote"], remote);
    assert_eq!(token["EstablishmentSecret"].as_str().unwrap().len(), 36);
    let own = token["ServerAddresses"][0].as_str().unwrap();
    assert!(own.starts_with("127.0.0.1:"), "{own}");
    let peering = t.value("peering_read", args![name(&t)]).await;
    assert_eq!(token["PeerID"], text(&peering, "ID"));
}

async fn a_peering_is_pending_after_its_token(t: T) {
    if has_none(&t) {
        return;
    }
    let name = name(&t);
    let request = json!({"PeerName": name, "Meta": {"a": "b"}}).to_string();
    let answer = t.raw("POST", "/v1/peering/token", &request).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = t.raw("GET", &format!("/v1/peering/{name}"), "").await;
    let mut peering: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let index = peering["ModifyIndex"].as_u64().unwrap();
    assert_eq!(answer.header("x-consul-index"), Some(index.to_string().as_str()));
    assert_eq!(peering["CreateIndex"], index);
    for varying in ["ID", "CreateIndex", "ModifyIndex"] {
        peering.as_object_mut().unwrap().remove(varying);
    }
    let expected = json!({
        "Name": name, "Meta": {"a": "b"}, "State": "PENDING",
        "StreamStatus": {
            "ImportedServices": null, "ExportedServices": null, "LastHeartbeat": null,
            "LastReceive": null, "LastSend": null,
        },
        "Remote": {"Partition": "", "Datacenter": ""},
    });
    assert_eq!(peering, expected);
    let all = t.value("peering_list", args![]).await;
    assert!(texts(&all, "Name").contains(&name.as_str()));
}

async fn a_further_token_keeps_the_peering(t: T) {
    if has_none(&t) {
        return;
    }
    let name = name(&t);
    let (first, second) = (decoded(&token(&t, &name).await), decoded(&token(&t, &name).await));
    assert_eq!(first["PeerID"], second["PeerID"]);
    assert_ne!(first["EstablishmentSecret"], second["EstablishmentSecret"]);
    let peering = t.value("peering_read", args![name]).await;
    assert_ne!(peering.get("CreateIndex"), peering.get("ModifyIndex"));
}

async fn refused(t: &T, path: &str, cases: &[(String, u16, &str)]) {
    for (body, status, expected) in cases {
        let answer = t.raw("POST", path, body).await;
        assert_eq!((answer.status, answer.body.as_str()), (*status, *expected), "{body}");
    }
}

async fn names_and_bodies_are_checked(t: T) {
    if has_none(&t) {
        return;
    }
    let required = "PeerName is required in the payload when generating a new peering token.";
    let cases = [
        ("", 400, "Body decoding failed: EOF"),
        (r#"{"X":1}"#, 400, "Body decoding failed: json: unknown field \"X\""),
        ("{}", 400, required),
        (r#"{"PeerName":"p","Partition":"x"}"#, 500, "Partitions are a Consul Enterprise feature"),
        (
            r#"{"PeerName":"p","Meta":{"":"x"}}"#,
            500,
            "meta tags failed validation: Couldn't load metadata pair ('', 'x'): Key cannot be blank",
        ),
    ];
    let cases = cases.map(|(body, status, expected)| (body.to_owned(), status, expected));
    refused(&t, "/v1/peering/token", &cases).await;
    for wrong in ["UPPER", "a_b", "-a", "a-", &"a".repeat(64)] {
        let error = t.fails("peering_token", args![table! {"PeerName" = wrong}], Kind::Http).await;
        assert!(error.message().contains("is not a valid peer name"), "{error}");
    }
    let answer = t.raw("GET", "/v1/peering/", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (400, "Must specify a name to fetch."));
}

/// The body that establishes a peering with this token.
fn establishment(name: &str, token: &serde_json::Value) -> String {
    json!({"PeerName": name, "PeeringToken": STANDARD.encode(token.to_string())}).to_string()
}

async fn tokens_are_checked(t: T) {
    if has_none(&t) {
        return;
    }
    let encoded = |token| establishment("p", &token);
    let required = |field| json!({"PeerName": "p", "PeeringToken": field}).to_string();
    let cases = [
        ("{}".to_owned(), 400, "PeerName is required in the payload when establishing a peering."),
        (required(""), 400, "PeeringToken is required in the payload when establishing a peering."),
        (required("a b"), 500, "failed to decode token: illegal base64 data at input byte 1"),
        (required("eA=="), 500, "invalid character 'x' looking for beginning of value"),
        (encoded(json!({})), 500, "peering token server addresses value is empty"),
        (
            encoded(json!({"ServerAddresses": ["a:0"]})),
            500,
            "a:0 is not a valid peering server address",
        ),
        (encoded(json!({"CA": ["x"]})), 500, "peering token invalid CA: no PEM-encoded data found"),
        (encoded(json!({"ServerAddresses": ["a:1"]})), 500, "peering token peer ID value is empty"),
    ];
    refused(&t, "/v1/peering/establish", &cases).await;
}

async fn a_cluster_has_no_peering_with_itself(t: T) {
    if has_none(&t) {
        return;
    }
    let token = token(&t, &name(&t)).await;
    let request = table! {"PeerName" = "self", "PeeringToken" = token};
    let error = t.fails("peering_establish", args![request], Kind::Http).await;
    assert!(error.message().contains("cannot create a peering within the same cluster"), "{error}");
}

async fn a_token_is_remembered(t: T) {
    if has_none(&t) {
        return;
    }
    let (made, got) = (name(&t), format!("g-{}", name(&t)));
    token(&t, &made).await;
    let other = json!({
        "CA": [], "ServerAddresses": ["127.0.0.1:1"], "ServerName": "x", "PeerID": "y",
        "EstablishmentSecret": "z", "Remote": {"Datacenter": "dc2"},
    });
    let why = "there is an existing peering expecting to be dialed";
    let why = format!("cannot create peering with name: \"{made}\"; {why}");
    refused(&t, "/v1/peering/establish", &[(establishment(&made, &other), 500, &why)]).await;
    // Consul calls the other cluster, which is not there; the simulated agent does not.
    let answer = t.raw("POST", "/v1/peering/establish", &establishment(&got, &other)).await;
    assert_eq!(answer.status, if t.is_simulated() { 200 } else { 503 }, "{}", answer.body);
    let peering = t.value("peering_read", args![got.as_str()]).await;
    assert_eq!((text(&peering, "PeerID"), text(&peering, "PeerServerName")), ("y", "x"));
    assert_eq!(peering.get("PeerServerAddresses"), Some(&list!["127.0.0.1:1"]));
    assert_eq!(text(peering.get("Remote").unwrap(), "Datacenter"), "dc2");
    let state = if t.is_simulated() { "ESTABLISHING" } else { "PENDING" };
    assert_eq!(text(&peering, "State"), state);
    let why = "there is already an established peering";
    let why = format!("cannot create peering with name: \"{got}\"; {why}");
    let again = json!({"PeerName": got}).to_string();
    refused(&t, "/v1/peering/token", &[(again, 500, &why)]).await;
    t.ok("peering_delete", args![got]).await;
}

async fn a_deleted_peering_is_gone(t: T) {
    if has_none(&t) {
        return;
    }
    let name = name(&t);
    let before = decoded(&token(&t, &name).await);
    t.ok("peering_delete", args![name.as_str()]).await;
    t.until("the peering is gone", || async {
        t.value("peering_read", args![name.as_str()]).await == Value::Null
    })
    .await;
    assert!(!texts(&t.value("peering_list", args![]).await, "Name").contains(&name.as_str()));
    assert_ne!(decoded(&token(&t, &name).await)["PeerID"], before["PeerID"]);
}

async fn a_list_waits_for_a_peering(t: T) {
    if has_none(&t) {
        return;
    }
    let index = t.index("peering_list", args![]).await;
    let begun = Instant::now();
    let waiting = format!("/v1/peerings?index={index}&wait=15s");
    let waiting = t.raw("GET", &waiting, "");
    let created = async {
        pause(Duration::from_millis(300)).await;
        token(&t, &name(&t)).await
    };
    let (answer, _) = tokio::join!(waiting, created);
    let after: u64 = answer.header("x-consul-index").unwrap().parse().unwrap();
    assert!(after > index);
    assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());
}

async fn peerings_need_their_permission(t: T) {
    if has_none(&t) {
        return;
    }
    let t = t.with_acls(Deny);
    let name = name(&t);
    for (rules, may_write) in [("peering = \"read\"", false), ("peering = \"write\"", true)] {
        let policy = t.name(if may_write { "write" } else { "read" });
        let policy = table! {"Name" = policy, "Rules" = rules};
        let policy = t.value("acl_policy_create", args![policy]).await;
        let policies = list![table! {"ID" = text(&policy, "ID")}];
        let token = t.value("acl_token_create", args![table! {"Policies" = policies}]).await;
        let caller = t.with_token(text(&token, "SecretID"));
        caller.ok("peering_list", args![]).await;
        let request = || args![table! {"PeerName" = name.as_str()}];
        if may_write {
            caller.ok("peering_token", request()).await;
            caller.ok("peering_delete", args![name.as_str()]).await;
        } else {
            caller.fails("peering_token", request(), Kind::PermissionDenied).await;
            caller.fails("peering_delete", args![name.as_str()], Kind::PermissionDenied).await;
        }
    }
    let anonymous = t.anonymous();
    anonymous.fails("peering_read", args![name.as_str()], Kind::PermissionDenied).await;
    anonymous.fails("peering_list", args![], Kind::PermissionDenied).await;
}
