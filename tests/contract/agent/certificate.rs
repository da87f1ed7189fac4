//! The certificates of services in the mesh.

use crate::acl::{caller, denied, rule};
use crate::support::authority::{key_fits, verify};
use crate::target::{T, args, behaviours, table, text, texts};
use consul_ffi::simulate::acl::DefaultPolicy::Deny;
use consul_ffi::wire::value::Value;
use std::time::{Duration, Instant};

behaviours![
    a_service_has_a_certificate_with_its_name,
    the_certificate_is_signed_by_the_active_root,
    the_private_key_is_that_of_the_certificate,
    a_certificate_is_valid_for_three_days,
    the_same_certificate_is_returned_again,
    another_service_has_another_certificate,
    a_query_waits_for_a_new_certificate,
    a_certificate_requires_the_permission_to_write_its_service,
    the_roots_are_also_a_chain_of_pem,
    the_authority_has_a_configuration,
    the_configuration_requires_a_permission,
    a_new_configuration_of_the_authority_is_stored,
    new_certificates_have_the_configured_lifetime,
    an_earlier_certificate_outlives_a_new_configuration,
    an_unknown_provider_of_the_authority_is_refused,
    a_lifetime_under_an_hour_is_refused,
    a_configuration_that_is_not_json_is_refused,
    a_new_configuration_requires_a_permission,
];

async fn leaf(t: &T, name: &str) -> Value {
    t.value("agent_connect_ca_leaf", args![t.name(name)]).await
}

async fn root(t: &T) -> String {
    let roots = t.value("connect_ca_roots", args![]).await;
    texts(roots.get("Roots").unwrap(), "RootCert")[0].to_owned()
}

async fn a_service_has_a_certificate_with_its_name(t: T) {
    let leaf = leaf(&t, "web").await;
    assert_eq!(text(&leaf, "Service"), t.name("web"));
    let roots = t.value("connect_ca_roots", args![]).await;
    let uri =
        format!("spiffe://{}/ns/default/dc/dc1/svc/{}", text(&roots, "TrustDomain"), t.name("web"));
    assert_eq!(text(&leaf, "ServiceURI"), uri);
    assert!(text(&leaf, "CertPEM").starts_with("-----BEGIN CERTIFICATE-----"));
}

async fn the_certificate_is_signed_by_the_active_root(t: T) {
    let leaf = leaf(&t, "web").await;
    verify(&root(&t).await, text(&leaf, "CertPEM")).expect("it is valid for clients");
}

async fn the_private_key_is_that_of_the_certificate(t: T) {
    let leaf = leaf(&t, "web").await;
    key_fits(text(&leaf, "CertPEM"), text(&leaf, "PrivateKeyPEM")).expect("it fits");
}

async fn a_certificate_is_valid_for_three_days(t: T) {
    let leaf = leaf(&t, "web").await;
    let (after, before) = (text(&leaf, "ValidAfter"), text(&leaf, "ValidBefore"));
    assert!(after.ends_with('Z') && before.ends_with('Z') && after < before, "{after}, {before}");
    // The same time of another day.
    assert_eq!(after.split_once('T').unwrap().1, before.split_once('T').unwrap().1);
}

async fn the_same_certificate_is_returned_again(t: T) {
    let first = leaf(&t, "web").await;
    assert_eq!(leaf(&t, "web").await, first);
}

async fn another_service_has_another_certificate(t: T) {
    let (web, db) = (leaf(&t, "web").await, leaf(&t, "db").await);
    assert_ne!(text(&web, "SerialNumber"), text(&db, "SerialNumber"));
    assert_ne!(text(&web, "PrivateKeyPEM"), text(&db, "PrivateKeyPEM"));
}

async fn a_query_waits_for_a_new_certificate(t: T) {
    let index = t.index("agent_connect_ca_leaf", args![t.name("web")]).await;
    let begun = Instant::now();
    let again = args![t.name("web"); "index" = index, "wait" = "500ms"];
    assert_eq!(t.index("agent_connect_ca_leaf", again).await, index);
    assert!(begun.elapsed() >= Duration::from_millis(500));
}

async fn a_certificate_requires_the_permission_to_write_its_service(t: T) {
    let t = t.with_acls(Deny);
    let reader = caller(&t, &rule("service", &t.name("web"), "read")).await;
    denied(&reader, "agent_connect_ca_leaf", args![t.name("web")]).await;
    let writer = caller(&t, &rule("service", &t.name("web"), "write")).await;
    leaf(&writer, "web").await;
}

async fn the_roots_are_also_a_chain_of_pem(t: T) {
    let answer = t.raw("GET", "/v1/connect/ca/roots?pem=true", "").await;
    assert_eq!(answer.header("content-type"), Some("application/pem-certificate-chain"));
    assert_eq!(answer.body.trim(), root(&t).await.trim());
}

async fn the_authority_has_a_configuration(t: T) {
    let configuration = t.value("connect_ca_configuration", args![]).await;
    assert_eq!(text(&configuration, "Provider"), "consul");
    assert_eq!(text(configuration.get("Config").unwrap(), "LeafCertTTL"), "72h");
}

async fn the_configuration_requires_a_permission(t: T) {
    let t = t.with_acls(Deny);
    let other = caller(&t, &rule("service", &t.name("web"), "write")).await;
    denied(&other, "connect_ca_configuration", args![]).await;
    let operator = caller(&t, r#"operator = "write""#).await;
    operator.value("connect_ca_configuration", args![]).await;
}

/// A configuration with this lifetime of certificates.
fn lifetime(leaf: &str) -> Value {
    table! {"Provider" = "consul", "Config" = table! {"LeafCertTTL" = leaf}}
}

async fn configured_lifetime(t: &T) -> String {
    let configuration = t.value("connect_ca_configuration", args![]).await;
    text(configuration.get("Config").unwrap(), "LeafCertTTL").to_owned()
}

async fn configure(t: &T, leaf: &str) {
    t.ok("connect_ca_configuration_update", args![lifetime(leaf)]).await;
}

async fn a_new_configuration_of_the_authority_is_stored(t: T) {
    let index = |configuration: &Value| configuration.get("ModifyIndex").cloned();
    let before = t.value("connect_ca_configuration", args![]).await;
    configure(&t, "48h").await;
    let after = t.value("connect_ca_configuration", args![]).await;
    assert_eq!(text(after.get("Config").unwrap(), "LeafCertTTL"), "48h");
    assert_ne!(index(&after), index(&before));
    configure(&t, "72h").await;
}

async fn new_certificates_have_the_configured_lifetime(t: T) {
    let long = leaf(&t, "long").await;
    configure(&t, "2h").await;
    let short = leaf(&t, "short").await;
    assert!(text(&short, "ValidBefore") < text(&long, "ValidBefore"));
    configure(&t, "72h").await;
}

async fn an_earlier_certificate_outlives_a_new_configuration(t: T) {
    let before = leaf(&t, "web").await;
    configure(&t, "2h").await;
    assert_eq!(leaf(&t, "web").await, before);
    configure(&t, "72h").await;
}

async fn an_unknown_provider_of_the_authority_is_refused(t: T) {
    let before = configured_lifetime(&t).await;
    let other = r#"{"Provider": "other", "Config": {"LeafCertTTL": "5h"}}"#;
    let answer = t.raw("PUT", "/v1/connect/ca/configuration", other).await;
    assert_eq!(answer.status, 500);
    assert!(answer.body.contains(r#"unknown CA provider "other""#), "{}", answer.body);
    assert_eq!(configured_lifetime(&t).await, before);
}

async fn a_lifetime_under_an_hour_is_refused(t: T) {
    let before = configured_lifetime(&t).await;
    let short = r#"{"Provider": "consul", "Config": {"LeafCertTTL": "30m"}}"#;
    let answer = t.raw("PUT", "/v1/connect/ca/configuration", short).await;
    assert_eq!(answer.status, 500);
    assert!(answer.body.contains("leaf cert TTL must be greater"), "{}", answer.body);
    assert_eq!(configured_lifetime(&t).await, before);
}

async fn a_configuration_that_is_not_json_is_refused(t: T) {
    assert_eq!(t.raw("PUT", "/v1/connect/ca/configuration", "{").await.status, 400);
}

async fn a_new_configuration_requires_a_permission(t: T) {
    let t = t.with_acls(Deny);
    let reader = caller(&t, r#"operator = "read""#).await;
    denied(&reader, "connect_ca_configuration_update", args![lifetime("72h")]).await;
    let operator = caller(&t, r#"operator = "write""#).await;
    configure(&operator, "72h").await;
}
