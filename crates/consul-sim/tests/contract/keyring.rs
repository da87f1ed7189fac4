//! The keys of gossip.

use crate::acl::caller;
use crate::target::{GOSSIP_KEY, T, args, behaviours, table, text};
use consul_api::error::Kind;
use consul_api::value::Value;
use consul_sim::acl::DefaultPolicy::Deny;

behaviours![
    the_first_key_is_that_of_the_configuration,
    an_installed_key_is_in_both_pools,
    a_list_can_be_of_the_own_pool_alone,
    messages_are_encrypted_with_the_selected_key,
    the_selected_key_is_not_removed,
    a_key_that_is_not_installed_is_not_selected,
    keys_have_a_length_of_aes,
    invalid_requests_for_keys_are_refused,
    without_encryption_there_are_no_keys,
    keys_need_their_own_permission,
];

const PATH: &str = "/v1/operator/keyring";

fn key(key: &str) -> Value {
    table! {"Key" = key}
}

async fn pools(t: &T) -> Value {
    t.value("operator_keyring_list", args![]).await
}

/// Whether each pool has a key, in this member.
async fn have(t: &T, member: &str, key: &str) -> bool {
    let pools = pools(t).await;
    let mut found = pools.items().iter().map(|pool| pool.get(member).unwrap().get(key).is_some());
    let first = found.next().expect("there are pools");
    assert!(found.all(|other| other == first), "{pools:?}");
    first
}

async fn the_first_key_is_that_of_the_configuration(t: T) {
    let pools = pools(&t).await;
    assert_eq!(pools.items().len(), 2);
    for pool in pools.items() {
        assert_eq!(text(pool, "Datacenter"), "dc1");
        assert_eq!(pool.get("NumNodes"), Some(&1.into()));
        assert_eq!(
            pool.get("PrimaryKeys"),
            Some(&Value::Map(vec![(GOSSIP_KEY.to_owned(), 1.into())]))
        );
    }
    let is_wan = |pool: &Value| pool.get("WAN").cloned();
    assert_eq!(is_wan(&pools.items()[0]), Some(true.into()));
    assert_eq!(is_wan(&pools.items()[1]), Some(false.into()));
}

async fn an_installed_key_is_in_both_pools(t: T) {
    let new = "AAAAAAAAAAAAAAAAAAAAAQ==";
    t.ok("operator_keyring_install", args![key(new)]).await;
    // A second time it changes nothing.
    t.ok("operator_keyring_install", args![key(new)]).await;
    assert!(have(&t, "Keys", new).await && !have(&t, "PrimaryKeys", new).await);
    t.ok("operator_keyring_remove", args![key(new)]).await;
    assert!(!have(&t, "Keys", new).await);
    t.ok("operator_keyring_remove", args![key(new)]).await;
}

async fn a_list_can_be_of_the_own_pool_alone(t: T) {
    let own = t.value("operator_keyring_list", args![; "local_only" = true]).await;
    assert_eq!(own.items().len(), 1);
    assert_eq!(own.items()[0].get("WAN"), Some(&false.into()));
}

async fn messages_are_encrypted_with_the_selected_key(t: T) {
    let new = "AAAAAAAAAAAAAAAAAAAAAg==";
    t.ok("operator_keyring_install", args![key(new)]).await;
    t.ok("operator_keyring_use", args![key(new)]).await;
    assert!(have(&t, "PrimaryKeys", new).await && !have(&t, "PrimaryKeys", GOSSIP_KEY).await);
    assert!(have(&t, "Keys", GOSSIP_KEY).await);
    t.ok("operator_keyring_use", args![key(GOSSIP_KEY)]).await;
    t.ok("operator_keyring_remove", args![key(new)]).await;
    assert!(have(&t, "PrimaryKeys", GOSSIP_KEY).await && !have(&t, "Keys", new).await);
}

/// Sends a key that must be refused by the only node of both pools.
async fn refused(t: &T, method: &str, key: &str, why: &str) {
    let answer = t.raw(method, PATH, &format!(r#"{{"Key":"{key}"}}"#)).await;
    assert_eq!(answer.status, 500, "{}", answer.body);
    assert!(answer.body.starts_with("4 errors occurred:\n\t* WAN error: 1/1 nodes"));
    assert_eq!(answer.body.matches(why).count(), 2, "{}", answer.body);
}

async fn the_selected_key_is_not_removed(t: T) {
    refused(&t, "DELETE", GOSSIP_KEY, ": Removing the primary key is not allowed").await;
    assert!(have(&t, "Keys", GOSSIP_KEY).await);
}

async fn a_key_that_is_not_installed_is_not_selected(t: T) {
    let other = "AAAAAAAAAAAAAAAAAAAAAw==";
    refused(&t, "PUT", other, ": Requested key is not in the keyring").await;
}

async fn keys_have_a_length_of_aes(t: T) {
    refused(&t, "POST", "aGVsbG8=", ": key size must be 16, 24 or 32 bytes").await;
    let answer = t.raw("POST", PATH, r#"{"Key":"bad"}"#).await;
    let why = "2 errors occurred:\n\t* WAN error: illegal base64 data at input byte 0\n\t* dc1 \
               (LAN) error: illegal base64 data at input byte 0";
    assert_eq!((answer.status, answer.body.trim()), (500, why));
}

async fn invalid_requests_for_keys_are_refused(t: T) {
    for (query, why) in [
        ("relay-factor=6", "Relay factor must be in range: [0, 5]"),
        ("relay-factor=x", "Error parsing relay factor: strconv.Atoi: parsing \"x\": invalid"),
        ("local-only=x", "Error parsing local-only: strconv.ParseBool: parsing \"x\": invalid"),
    ] {
        let answer = t.raw("GET", &format!("{PATH}?{query}"), "").await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.body.contains(why), "{}", answer.body);
    }
    let answer = t.raw("POST", &format!("{PATH}?local-only=true"), r#"{"Key":"x"}"#).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("local-only can only be set for list"), "{}", answer.body);
    assert_eq!(t.raw("POST", PATH, "x").await.status, 400);
}

async fn without_encryption_there_are_no_keys(t: T) {
    // The servers with access control do not encrypt.
    let t = t.with_acls(Deny);
    let why = t.fails("operator_keyring_list", args![], Kind::Http).await;
    assert!(why.message().contains("Keyring is empty (encryption not enabled)"), "{why}");
    let new = args![key(GOSSIP_KEY)];
    let why = t.fails("operator_keyring_install", new, Kind::Http).await;
    assert!(why.message().contains("No keyring to modify (encryption not enabled)"), "{why}");
}

async fn keys_need_their_own_permission(t: T) {
    let t = t.with_acls(Deny);
    let reader = caller(&t, r#"keyring = "read""#).await;
    reader.fails("operator_keyring_list", args![], Kind::Http).await;
    let refused = match t.is_1_8("a refusal to change or read gossip keys has the status 500") {
        true => Kind::Http,
        false => Kind::PermissionDenied,
    };
    for method in ["operator_keyring_install", "operator_keyring_use", "operator_keyring_remove"] {
        reader.fails(method, args![key(GOSSIP_KEY)], refused).await;
    }
    let other = caller(&t, r#"operator = "write""#).await;
    other.fails("operator_keyring_list", args![], refused).await;
    let writer = caller(&t, r#"keyring = "write""#).await;
    writer.fails("operator_keyring_install", args![key(GOSSIP_KEY)], Kind::Http).await;
}
