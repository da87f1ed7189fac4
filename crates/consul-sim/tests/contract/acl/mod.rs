//! Access control: tokens and policies.

pub mod logins;
pub mod permissions;
pub mod registrations;
pub mod roles;
pub mod templates;

use crate::target::{T, args, behaviours, list, pause, table, text, texts};
use consul_api as wire;
use consul_api::error::Kind;
use consul_api::request::Defaults;
use consul_api::value::Value;
use consul_sim::acl::DefaultPolicy::Deny;
use std::time::Duration;

behaviours![
    without_acls_their_methods_are_unsupported,
    permissions_change_at_once,
    a_policy_is_what_it_was_created_as,
    a_token_is_what_it_was_created_as,
    a_token_may_name_the_time_of_its_end,
    a_clone_has_the_same_policies_and_another_secret,
    a_deleted_policy_is_gone_from_its_tokens,
    a_token_does_not_delete_itself,
    secrets_of_tokens_are_hidden_without_write_permission,
    unknown_tokens_and_policies_are_not_found,
    deleting_an_unknown_token_or_policy_succeeds,
    a_token_that_is_not_ascii_is_unknown,
    a_policys_name_is_also_read_when_it_is_encoded_twice,
    queries_of_a_deleted_token_end_as_on_consul,
    policies_with_invalid_rules_are_refused,
    builtin_policies_and_tokens_cannot_be_deleted,
    bootstrap_works_only_once,
    a_list_of_policies_wakes_on_a_new_one,
    a_token_is_never_shown,
    replication_is_off_in_the_first_datacenter,
];

pub const UNKNOWN: &str = "8a1b2c3d-0000-4000-8000-123456789abc";
pub const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";
const GLOBAL_MANAGEMENT: &str = "00000000-0000-0000-0000-000000000001";

/// A new policy with these rules, and its id.
pub async fn policy(t: &T, name: &str, rules: &str) -> String {
    let definition = table! {"Name" = t.name(name), "Rules" = rules};
    let policy = t.value("acl_policy_create", args![definition]).await;
    text(&policy, "ID").to_owned()
}

/// A new token with these policies.
pub async fn token_with(t: &T, policies: &[&str]) -> Value {
    let links = policies.iter().map(|id| table! {"ID" = *id}).collect();
    t.value("acl_token_create", args![table! {"Policies" = Value::List(links)}]).await
}

/// A new token with a policy with these rules.
pub async fn token(t: &T, rules: &str) -> Value {
    let id = policy(t, &format!("p{}", fastrand::u32(..)), rules).await;
    token_with(t, &[&id]).await
}

/// A caller with the permissions of these rules.
pub async fn caller(t: &T, rules: &str) -> T {
    t.with_token(text(&token(t, rules).await, "SecretID"))
}

/// A rule that grants a level for one name, or for all names that begin with it.
pub fn rule(resource: &str, name: &str, level: &str) -> String {
    format!("{resource} \"{name}\" {{ policy = \"{level}\" }}\n")
}

pub async fn denied(t: &T, method: &str, args: wire::request::Args) -> String {
    t.fails(method, args, Kind::PermissionDenied).await.message().to_owned()
}

async fn without_acls_their_methods_are_unsupported(t: T) {
    for method in ["acl_token_list", "acl_token_self", "acl_policy_list", "acl_bootstrap"] {
        let error = t.fails(method, args![], Kind::Unsupported).await;
        assert!(error.message().contains("ACL support disabled"), "{error}");
    }
    t.fails("acl_token_create", args![table! {}], Kind::Unsupported).await;
    t.fails("acl_policy_read", args![UNKNOWN], Kind::Unsupported).await;
    t.fails("agent_token", args!["default", table! {"Token" = ""}], Kind::Unsupported).await;
    t.fails("acl_authorize", args![list![]], Kind::Unsupported).await;
    t.ok("kv_keys", args![t.name("x"); "token" = "whatever"]).await;
}

async fn permissions_change_at_once(t: T) {
    let t = t.with_acls(Deny);
    let key = t.name("x");
    let key = key.as_str();
    let id = policy(&t, "p", &rule("key", key, "read")).await;
    let token = token_with(&t, &[&id]).await;
    let me = t.with_token(text(&token, "SecretID"));
    denied(&me, "kv_put", args![key, "1"]).await;
    let write = table! {"Name" = t.name("p"), "Rules" = rule("key", key, "write")};
    t.ok("acl_policy_update", args![id.as_str(), write]).await;
    me.ok("kv_put", args![key, "1"]).await;
    let accessor = text(&token, "AccessorID");
    t.ok("acl_token_update", args![accessor, table! {"Policies" = list![]}]).await;
    denied(&me, "kv_get", args![key]).await;
    t.ok("acl_token_delete", args![accessor]).await;
    me.fails("kv_get", args![key], Kind::AclNotFound).await;
}

async fn a_policy_is_what_it_was_created_as(t: T) {
    let t = t.with_acls(Deny);
    let rules = rule("key", "a", "read");
    let definition = table! {
        "Name" = t.name("p"), "Description" = "for a test", "Rules" = rules.as_str(),
        "Datacenters" = list!["dc1"],
    };
    let created = t.value("acl_policy_create", args![definition.clone()]).await;
    let id = text(&created, "ID");
    let read = t.value("acl_policy_read", args![id]).await;
    assert_eq!(read, created);
    assert_eq!((text(&read, "Name"), text(&read, "Rules")), (&*t.name("p"), &*rules));
    assert_eq!(text(&read, "Description"), "for a test");
    assert_eq!(read.get("Datacenters"), Some(&list!["dc1"]));
    let by_name = t.value("acl_policy_read_by_name", args![t.name("p")]).await;
    assert_eq!(by_name, created);
    let error = t.fails("acl_policy_create", args![definition], Kind::Http).await;
    assert!(error.message().contains("already exists"), "{error}");
    let renamed = table! {"Name" = t.name("q"), "Rules" = ""};
    let updated = t.value("acl_policy_update", args![id, renamed]).await;
    assert_eq!((text(&updated, "ID"), text(&updated, "Name")), (id, &*t.name("q")));
    let policies = t.value("acl_policy_list", args![]).await;
    assert!(texts(&policies, "Name").contains(&&*t.name("q")));
    assert_eq!(t.value("acl_policy_delete", args![id]).await, true.into());
    t.fails("acl_policy_read", args![id], Kind::NotFound).await;
}

async fn a_token_is_what_it_was_created_as(t: T) {
    let t = t.with_acls(Deny);
    let policy = policy(&t, "p", "").await;
    let (accessor, secret) = (uuid(), uuid());
    let definition = table! {
        "AccessorID" = accessor.as_str(), "SecretID" = secret.as_str(), "Description" = "a test's",
        "Policies" = list![table! {"Name" = t.name("p")}],
        "ServiceIdentities" = list![table! {"ServiceName" = "web"}],
    };
    let created = t.value("acl_token_create", args![definition.clone()]).await;
    assert_eq!(text(&created, "AccessorID"), accessor);
    assert_eq!(text(&created, "SecretID"), secret);
    let read = t.value("acl_token_read", args![accessor.as_str()]).await;
    assert_eq!(read, created);
    assert_eq!(texts(read.get("Policies").unwrap(), "ID"), [policy.as_str()]);
    assert_eq!(texts(read.get("ServiceIdentities").unwrap(), "ServiceName"), ["web"]);
    let own = t.with_token(&secret).value("acl_token_self", args![]).await;
    assert_eq!(own, created);
    t.fails("acl_token_create", args![definition], Kind::Http).await;
    for id in ["AccessorID", "SecretID"] {
        let reserved = Value::Map(vec![(id.to_owned(), RESERVED.into())]);
        let error = t.fails("acl_token_create", args![reserved], Kind::Http).await;
        assert!(error.message().contains("UUIDs with the prefix"), "{error}");
    }
    let tokens = t.value("acl_token_list", args![; "policy" = policy]).await;
    assert_eq!(texts(&tokens, "AccessorID"), [accessor.as_str()]);
    let changed = table! {"Description" = "another"};
    let updated = t.value("acl_token_update", args![accessor.as_str(), changed]).await;
    assert_eq!(text(&updated, "Description"), "another");
    assert!(updated.get("Policies").is_none(), "an update replaces the token");
    assert_eq!(t.value("acl_token_delete", args![accessor.as_str()]).await, true.into());
    t.fails("acl_token_read", args![accessor], Kind::NotFound).await;
}

/// An id that is Consul's own.
const RESERVED: &str = "00000000-0000-0000-0000-000000000007";

fn uuid() -> String {
    let hex = format!("{:032x}", fastrand::u128(..));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

async fn a_token_may_name_the_time_of_its_end(t: T) {
    let t = t.with_acls(Deny);
    let hour = table! {"ExpirationTTL" = "1h"};
    let later = t.value("acl_token_create", args![hour]).await;
    let later = text(&later, "ExpirationTime");
    let made = t.value("acl_token_create", args![table! {"ExpirationTime" = later}]).await;
    assert_eq!(text(&made, "ExpirationTime"), later);
    let accessor = text(&made, "AccessorID");
    let read = t.value("acl_token_read", args![accessor]).await;
    assert_eq!(text(&read, "ExpirationTime"), later);
    let same = table! {"ExpirationTime" = later};
    t.ok("acl_token_update", args![accessor, same]).await;
    let changed = table! {"ExpirationTime" = "2100-01-01T00:00:00Z"};
    for changed in [changed, table! {"ExpirationTTL" = "1h"}] {
        let error = t.fails("acl_token_update", args![accessor, changed], Kind::Http).await;
        assert!(error.message().contains("Cannot change expiration time of"), "{error}");
    }
    let early = table! {"ExpirationTime" = "1969-12-31T23:00:00Z"};
    let both = table! {"ExpirationTime" = later, "ExpirationTTL" = "1h"};
    let unread = table! {"ExpirationTime" = "soon"};
    for (given, status, why) in [
        (early, 500, "ExpirationTime cannot be before CreateTime"),
        (both, 500, "Token Expiration TTL and Expiration Time cannot both be set"),
        (unread, 400, "soon"),
    ] {
        let answer = t.call("acl_token_create", args![given]).await;
        let error = answer.expect_err("it is refused");
        assert_eq!(error.status(), Some(status), "{error}");
        assert!(error.message().contains(why), "{error}");
    }
}

async fn a_clone_has_the_same_policies_and_another_secret(t: T) {
    let t = t.with_acls(Deny);
    let source = token(&t, &rule("key", &t.name("x"), "write")).await;
    let clone = t.value("acl_token_clone", args![text(&source, "AccessorID")]).await;
    let own = t.value("acl_token_self", args![]).await;
    let own = text(&own, "SecretID");
    let named = table! {"Description" = "first"};
    let named = t.value("acl_token_create", args![named]).await;
    let accessor = text(&named, "AccessorID");
    for (given, kept) in [("", "first"), ("second", "second")] {
        let body = format!("{{\"Description\":\"{given}\"}}");
        let path = format!("/v1/acl/token/{accessor}/clone?token={own}");
        let clone = t.raw("PUT", &path, &body).await.body;
        let clone: serde_json::Value = serde_json::from_str(&clone).unwrap();
        assert_eq!(clone["Description"], kept);
    }
    assert_eq!(clone.get("Policies"), source.get("Policies"));
    assert_ne!(text(&clone, "AccessorID"), text(&source, "AccessorID"));
    assert_ne!(text(&clone, "SecretID"), text(&source, "SecretID"));
    t.with_token(text(&clone, "SecretID")).ok("kv_put", args![t.name("x"), "1"]).await;
    let described = args![text(&source, "AccessorID"), table! {"Description" = "a clone"}];
    let clone = t.value("acl_token_clone", described).await;
    assert_eq!(text(&clone, "Description"), "a clone");
}

async fn a_deleted_policy_is_gone_from_its_tokens(t: T) {
    let t = t.with_acls(Deny);
    let id = policy(&t, "p", &rule("key", &t.name("x"), "read")).await;
    let token = token_with(&t, &[&id]).await;
    t.ok("acl_policy_delete", args![id]).await;
    let token = t.value("acl_token_read", args![text(&token, "AccessorID")]).await;
    assert!(token.get("Policies").is_none());
    denied(&t.with_token(text(&token, "SecretID")), "kv_get", args![t.name("x")]).await;
}

async fn a_token_does_not_delete_itself(t: T) {
    let t = t.with_acls(Deny);
    let token = token(&t, "acl = \"write\"").await;
    let (accessor, me) = (text(&token, "AccessorID"), t.with_token(text(&token, "SecretID")));
    let error = me.fails("acl_token_delete", args![accessor], Kind::Http).await;
    let why = "Deletion of the request's authorization token is not permitted";
    assert!(error.message().contains(why), "{error}");
    t.ok("acl_token_delete", args![accessor]).await;
}

async fn secrets_of_tokens_are_hidden_without_write_permission(t: T) {
    let t = t.with_acls(Deny);
    let reader = caller(&t, "acl = \"read\"").await;
    let token = token(&t, "").await;
    let read = reader.value("acl_token_read", args![text(&token, "AccessorID")]).await;
    assert_eq!(text(&read, "SecretID"), "<hidden>");
    let tokens = reader.value("acl_token_list", args![]).await;
    let shown = |token: &Value| token.get("SecretID").is_some_and(|s| *s != "<hidden>".into());
    assert!(!tokens.items().iter().any(shown));
    assert_ne!(text(&reader.value("acl_token_self", args![]).await, "SecretID"), "<hidden>");
}

async fn unknown_tokens_and_policies_are_not_found(t: T) {
    let t = t.with_acls(Deny);
    t.fails("acl_token_read", args![UNKNOWN], Kind::NotFound).await;
    t.fails("acl_policy_read", args![UNKNOWN], Kind::NotFound).await;
    t.fails("acl_policy_read_by_name", args![t.name("none")], Kind::NotFound).await;
    t.fails("acl_token_update", args![UNKNOWN, table! {}], Kind::NotFound).await;
    let policy = table! {"Name" = t.name("p"), "Rules" = ""};
    t.fails("acl_policy_update", args![UNKNOWN, policy], Kind::NotFound).await;
    let kind = if t.is_1_8("cloning an unknown token says only that an ACL was not found") {
        Kind::AclNotFound
    } else {
        Kind::NotFound
    };
    t.fails("acl_token_clone", args![UNKNOWN], kind).await;
    let link = table! {"Policies" = list![table! {"Name" = t.name("none")}]};
    let error = t.fails("acl_token_create", args![link], Kind::Http).await;
    assert!(error.message().contains("No such ACL policy with name"), "{error}");
}

async fn a_token_that_is_not_ascii_is_unknown(t: T) {
    let t = t.with_acls(Deny);
    let unknown = t.raw("GET", "/v1/kv/a?token=%C3%A4", "").await;
    assert_eq!(unknown.status, 403);
    for token in [&b"\xc3\xa4"[..], b"\xff"] {
        let given = t.raw_by("GET", "/v1/kv/a", token).await;
        assert_eq!((given.status, given.body), (403, unknown.body.clone()));
    }
}

async fn deleting_an_unknown_token_or_policy_succeeds(t: T) {
    let t = t.with_acls(Deny);
    for method in ["acl_token_delete", "acl_policy_delete"] {
        assert_eq!(t.value(method, args![UNKNOWN]).await, true.into());
    }
}

async fn policies_with_invalid_rules_are_refused(t: T) {
    let t = t.with_acls(Deny);
    for (rules, why) in [
        ("key \"a\" { policy = \"maybe\" }", "Invalid key policy"),
        ("service_prefix \"\" { policy = \"list\" }", "Invalid service_prefix policy"),
        ("acl = \"maybe\"", "Invalid acl policy: \"maybe\""),
        ("key \"a\" { policy = \"read\"", "Failed to parse ACL rules"),
        ("@", "Failed to parse ACL rules: At 1:1: illegal char"),
    ] {
        let policy = table! {"Name" = t.name("p"), "Rules" = rules};
        let error = t.fails("acl_policy_create", args![policy], Kind::Http).await;
        assert!(error.message().contains(why), "{error}");
    }
    for name in ["", "two words"] {
        let policy = table! {"Name" = name, "Rules" = ""};
        assert!(t.call("acl_policy_create", args![policy]).await.is_err());
    }
}

async fn builtin_policies_and_tokens_cannot_be_deleted(t: T) {
    let t = t.with_acls(Deny);
    let error = t.fails("acl_policy_delete", args![GLOBAL_MANAGEMENT], Kind::Http).await;
    assert!(error.message().contains("not permitted on the builtin"), "{error}");
    let error = t.fails("acl_token_delete", args![ANONYMOUS], Kind::Http).await;
    assert!(error.message().contains("not permitted on the anonymous token"), "{error}");
    let own = t.value("acl_token_self", args![]).await;
    assert_eq!(texts(own.get("Policies").unwrap(), "Name"), ["global-management"]);
}

async fn bootstrap_works_only_once(t: T) {
    let said = denied(&t.with_acls(Deny), "acl_bootstrap", args![]).await;
    assert!(said.contains("ACL bootstrap no longer allowed (reset index: "), "{said}");
}

async fn a_list_of_policies_wakes_on_a_new_one(t: T) {
    let t = t.with_acls(Deny);
    let index = t.index("acl_policy_list", args![]).await;
    let wait = args![; "index" = index, "wait" = "9s"];
    let change = async {
        pause(Duration::from_millis(100)).await;
        policy(&t, "p", "").await
    };
    let (_, answer) = tokio::join!(change, t.ok("acl_policy_list", wait));
    assert!(answer.meta.index.unwrap() > index);
}

async fn a_token_is_never_shown(t: T) {
    let t = t.with_acls(Deny);
    let token = token(&t, "").await;
    let secret = text(&token, "SecretID");
    let me = t.with_token(secret);
    let change = table! {"SecretID" = secret};
    let mut shown =
        vec![format!("{:?}", Defaults { token: Some(secret.into()), ..Defaults::default() })];
    for (method, args) in [
        ("kv_get", args![t.name("x")]),
        ("kv_get", args![t.name("x"); "token" = secret]),
        ("acl_token_create", args![change.clone()]),
        ("acl_token_update", args![ANONYMOUS, change.clone()]),
        ("agent_token", args!["default", table! {"Token" = secret}]),
    ] {
        let error = me.call(method, args.clone()).await.expect_err("it has no right");
        shown.push(format!("{error} {error:?}"));
        let defaults = Defaults { token: Some(secret.into()), ..Defaults::default() };
        let request = wire::endpoint(method).unwrap().request(&args, &defaults).unwrap();
        shown.push(format!("{} {request:?}", request.http.uri()));
    }
    // Not even in an error of the server about the token.
    let error = t.fails("acl_token_create", args![change], Kind::Http).await;
    shown.push(format!("{error} {error:?}"));
    let error = me.fails("kv_get", args![t.name("x"); "token" = UNKNOWN], Kind::AclNotFound).await;
    shown.push(format!("{error} {error:?}"));
    assert!(!shown.iter().any(|text| text.contains(secret) || text.contains(UNKNOWN)), "{shown:?}");
}

async fn replication_is_off_in_the_first_datacenter(t: T) {
    let t = t.with_acls(Deny);
    let replication = t.value("acl_replication", args![]).await;
    assert_eq!(replication.get("Enabled"), Some(&false.into()));
    assert_eq!(replication.get("Running"), Some(&false.into()));
    assert_eq!(text(&replication, "LastSuccess"), "0001-01-01T00:00:00Z");
}

/// As Consul's own client encodes it.
async fn a_policys_name_is_also_read_when_it_is_encoded_twice(t: T) {
    let t = t.with_acls(Deny);
    if t.is_1_8("a name has no slash") {
        return;
    }
    let name = t.name("team/read");
    t.ok("acl_policy_create", args![table! {"Name" = name.as_str()}]).await;
    for (slash, status) in [("/", 200), ("%2F", 200), ("%252F", 200), ("%25252F", 404)] {
        let path = format!("/v1/acl/policy/name/{}", name.replace('/', slash));
        let answer = t.raw_own("GET", &path, "").await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
    }
    let answer = t.raw_own("GET", "/v1/acl/policy/name/a%25zzb", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (500, "invalid URL escape \"%zz\""));
}

/// The waiting queries that end at once, with a refusal, when their token is deleted.
async fn queries_of_a_deleted_token_end_as_on_consul(t: T) {
    let t = t.with_acls(Deny);
    if t.is_1_8("there are no streams") {
        return;
    }
    const QUERIES: &[(&str, bool)] = &[
        ("kv/%?", false),
        ("kv/%/?recurse&", false),
        ("catalog/nodes?", false),
        ("catalog/services?", false),
        ("catalog/service/consul?", false),
        ("catalog/service/%?", false),
        ("catalog/node/%?", false),
        ("health/service/consul?", true),
        ("health/service/%?", true),
        ("health/connect/%?", true),
        ("health/service/consul?near=_agent&", false),
        ("health/service/consul?cached&", true),
        ("health/node/%?", false),
        ("health/checks/consul?", false),
        ("health/state/any?", false),
        ("session/list?", false),
        ("query?", false),
        ("config/service-defaults?", false),
        ("connect/intentions?", false),
        ("coordinate/nodes?", false),
    ];
    let rules = "node_prefix \"\" { policy = \"read\" } service_prefix \"\" { policy = \"read\" }
        key_prefix \"\" { policy = \"read\" } session_prefix \"\" { policy = \"read\" }";
    let token = token_with(&t, &[&policy(&t, "p", rules).await]).await;
    let own = t.with_token(text(&token, "SecretID"));
    let paths: Vec<_> = QUERIES
        .iter()
        .map(|(path, _)| format!("/v1/{}", path.replace('%', &t.name("none"))))
        .collect();
    t.until("the agent has written its node", || async {
        t.raw_own("GET", "/v1/catalog/nodes", "").await.body.contains("lan_ipv4")
    })
    .await;
    let wait = Duration::from_secs(2);
    let waits = paths.iter().map(|path| {
        let own = &own;
        async move {
            let before = own.raw_own("GET", path, "").await;
            let index = before.header("x-consul-index").unwrap_or("1").to_owned();
            let begun = std::time::Instant::now();
            let after = own.raw_own("GET", &format!("{path}index={index}&wait=2s"), "").await;
            (index, after.status, begun.elapsed() < wait)
        }
    });
    let delete = async {
        pause(wait / 4).await;
        t.ok("acl_token_delete", args![text(&token, "AccessorID")]).await;
    };
    let (ended, ()) = tokio::join!(futures_util::future::join_all(waits), delete);
    let mut wrong = Vec::new();
    for ((&(path, ends), asked), (index, after, early)) in QUERIES.iter().zip(&paths).zip(&ended) {
        let refused = *after == 403;
        if refused == ends && (*early || !ends) {
            continue;
        }
        // A write of the server's own to what was asked for, as of a coordinate, ends one too.
        let now = t.raw_own("GET", asked, "").await;
        if !(refused && *early && now.header("x-consul-index") != Some(index)) {
            wrong.push((path, ends, *after, *early));
        }
    }
    assert!(wrong.is_empty(), "path, is to end, status, early: {wrong:#?}");
}
