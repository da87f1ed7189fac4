//! The certificates of services in the mesh.

use crate::acl::{caller, denied, rule};
use crate::support::authority::{key_fits, verify};
use crate::target::{T, args, behaviours, table, text, texts};
use consul_api::value::Value;
use consul_sim::acl::DefaultPolicy::Deny;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
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
    another_datacenter_has_no_roots,
    the_authority_has_a_configuration,
    the_configuration_requires_a_permission,
    a_new_configuration_of_the_authority_is_stored,
    new_certificates_have_the_configured_lifetime,
    an_earlier_certificate_outlives_a_new_configuration,
    an_unknown_provider_of_the_authority_is_refused,
    a_lifetime_under_an_hour_is_refused,
    a_configuration_that_is_not_json_is_refused,
    a_new_configuration_requires_a_permission,
    another_root_replaces_the_first,
    a_query_waits_for_another_root,
    a_service_gets_a_certificate_of_the_new_root,
    a_root_is_made_for_a_given_key,
    what_is_not_a_root_is_refused,
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

async fn another_datacenter_has_no_roots(t: T) {
    for path in ["/v1/connect/ca/roots", "/v1/agent/connect/ca/roots"] {
        let answer = t.raw("GET", &format!("{path}?dc=nope"), "").await;
        assert_eq!((answer.status, answer.body.as_str()), (500, "No path to datacenter"));
        assert_eq!(t.raw("GET", &format!("{path}?dc=dc1"), "").await.status, 200);
    }
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

/// A root with its key, in PEM.
fn new_root() -> (String, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "CA of an operator");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

async fn set(t: &T, config: Value) {
    let configuration = table! {"Provider" = "consul", "Config" = config};
    t.ok("connect_ca_configuration_update", args![configuration]).await;
}

async fn replace_root(t: &T) -> String {
    let (certificate, key) = new_root();
    set(t, table! {"RootCert" = certificate.as_str(), "PrivateKey" = key}).await;
    certificate
}

/// A root of the authority's own again.
async fn restore(t: &T) {
    configure(t, "72h").await;
}

/// The roots: the certificate of the active one, and the others' certificates.
async fn all_roots(t: &T) -> (String, Vec<String>) {
    let roots = t.value("connect_ca_roots", args![]).await;
    let (mut active, mut others) = (Vec::new(), Vec::new());
    for root in roots.get("Roots").unwrap().items() {
        let pem = text(root, "RootCert").to_owned();
        match root.get("Active") == Some(&true.into()) {
            true => {
                assert_eq!(root.get("ID"), roots.get("ActiveRootID"));
                active.push(pem);
            }
            false => others.push(pem),
        }
    }
    assert_eq!(active.len(), 1, "{roots:?}");
    (active.remove(0), others)
}

async fn another_root_replaces_the_first(t: T) {
    let (before, _) = all_roots(&t).await;
    let new = replace_root(&t).await;
    let (active, others) = all_roots(&t).await;
    assert_eq!(active.trim(), new.trim());
    assert!(others.contains(&before));
    let chain = t.raw("GET", "/v1/connect/ca/roots?pem=true", "").await;
    assert!(chain.body.contains(before.trim()) && chain.body.contains(new.trim()));
    // The earlier root vouches for the new one.
    t.until("the agent knows by which root", || async {
        let roots = t.value("agent_connect_ca_roots", args![]).await;
        let mut root = roots.get("Roots").unwrap().items().iter();
        let root = root.find(|root| root.get("Active") == Some(&true.into())).unwrap();
        root.get("IntermediateCerts").unwrap().items().len() == 1
    })
    .await;
    restore(&t).await;
    assert!(all_roots(&t).await.1.iter().any(|other| other.trim() == new.trim()));
}

async fn a_query_waits_for_another_root(t: T) {
    let index = t.index("agent_connect_ca_roots", args![]).await;
    let again = args![; "index" = index, "wait" = "60s"];
    let change = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        replace_root(&t).await
    };
    let (answer, new) = tokio::join!(t.ok("agent_connect_ca_roots", again), change);
    assert!(answer.meta.index > Some(index));
    t.until("the agent has the new root", || async {
        let roots = t.value("agent_connect_ca_roots", args![]).await;
        let roots = texts(roots.get("Roots").unwrap(), "RootCert").join("\n");
        roots.contains(new.trim())
    })
    .await;
    restore(&t).await;
}

async fn a_service_gets_a_certificate_of_the_new_root(t: T) {
    let (old, _) = all_roots(&t).await;
    let first = leaf(&t, "web").await;
    let new = replace_root(&t).await;
    if t.is_1_8("a certificate is replaced up to 30 s after its root") {
        restore(&t).await;
        return;
    }
    let second = leaf(&t, "web").await;
    assert_ne!(text(&second, "PrivateKeyPEM"), text(&first, "PrivateKeyPEM"));
    assert_ne!(second.get("ModifyIndex"), first.get("ModifyIndex"));
    let chain = text(&second, "CertPEM");
    verify(&new, chain).expect("it is valid for those who know the new root");
    verify(&old, chain).expect("it is valid for those who know the old root");
    restore(&t).await;
}

async fn a_root_is_made_for_a_given_key(t: T) {
    /// As openssl and Go write a key.
    const KEY: &str = "-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIKXZN0CtECcdR8mPWelVdHjttKuCj+Ram2Ku4H69tRvuoAoGCCqGSM49
AwEHoUQDQgAEW+crbHs9zjw4RzmCJQIdf3Prw+RNYW08g1DNqVl9l2cPxxutwGai
KasqJAUtfZKj7QEcC5pTDQyu8W7xThcbgA==
-----END EC PRIVATE KEY-----
";
    let (before, _) = all_roots(&t).await;
    set(&t, table! {"PrivateKey" = KEY}).await;
    let (active, others) = all_roots(&t).await;
    assert!(active != before && others.contains(&before));
    verify(&active, text(&leaf(&t, "new").await, "CertPEM")).expect("it signs");
    // Another lifetime of certificates needs no other root.
    set(&t, table! {"PrivateKey" = KEY, "LeafCertTTL" = "71h"}).await;
    assert_eq!(all_roots(&t).await.0, active);
    restore(&t).await;
}

async fn what_is_not_a_root_is_refused(t: T) {
    let (before, _) = all_roots(&t).await;
    let (certificate, key) = new_root();
    let config = |member: &str, value: &str| serde_json::json!({ member: value });
    let mut no_certificate = config("PrivateKey", &key);
    no_certificate["RootCert"] = "x".into();
    for (config, why) in [
        (config("PrivateKey", "x"), "error parsing private key \"x\": no PEM-encoded data found"),
        (config("RootCert", &certificate), "must provide a private key when providing a root cert"),
        (no_certificate, "no PEM-encoded data found"),
    ] {
        let body = serde_json::json!({"Provider": "consul", "Config": config});
        let answer = t.raw("PUT", "/v1/connect/ca/configuration", &body.to_string()).await;
        assert_eq!(answer.status, 500);
        assert!(answer.body.contains(why), "{}", answer.body);
    }
    assert_eq!(all_roots(&t).await.0, before);
}
