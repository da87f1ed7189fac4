//! Roles: permissions that several tokens have in common.

use super::{UNKNOWN, caller, denied, policy, rule};
use crate::target::{T, args, behaviours, list, pause, table, text, texts};
use consul_api::error::Kind;
use consul_api::value::Value;
use consul_sim::acl::DefaultPolicy::Deny;
use std::time::Duration;

behaviours![
    a_role_is_what_it_was_created_as,
    a_role_is_found_by_its_name_and_in_the_list,
    a_role_is_replaced_as_a_whole,
    a_token_has_the_permissions_of_its_roles,
    a_change_of_a_role_counts_for_its_tokens_at_once,
    a_deleted_role_is_gone_from_its_tokens,
    identities_of_a_role_are_permissions,
    tokens_are_listed_by_their_role,
    an_expanded_token_shows_its_roles_and_their_policies,
    an_expanded_token_shows_what_its_identities_and_templates_permit,
    invalid_roles_are_refused,
    unknown_roles_are_not_found,
    links_to_unknown_policies_and_roles_are_refused,
    roles_need_permissions_for_tokens,
    a_list_of_roles_wakes_on_a_new_one,
];

/// A new role with these members and its own name.
async fn role(t: &T, name: &str, members: Value) -> Value {
    let Value::Map(mut members) = members else { panic!("not a table") };
    members.push(("Name".to_owned(), t.name(name).into()));
    t.value("acl_role_create", args![Value::Map(members)]).await
}

/// A new token with a role.
async fn token_of(t: &T, role: &Value) -> Value {
    let roles = list![table! {"ID" = text(role, "ID")}];
    t.value("acl_token_create", args![table! {"Roles" = roles}]).await
}

async fn a_role_is_what_it_was_created_as(t: T) {
    let t = t.with_acls(Deny);
    let id = policy(&t, "p", &rule("key", "a", "read")).await;
    let created = role(
        &t,
        "r",
        table! {
            "Description" = "for a test",
            "Policies" = list![table! {"Name" = t.name("p")}, table! {"ID" = id.as_str()}],
            "ServiceIdentities" = list![table! {"ServiceName" = "web", "Datacenters" = list!["dc1"]}],
            "NodeIdentities" = list![table! {"NodeName" = "n1", "Datacenter" = "dc1"}],
        },
    )
    .await;
    assert_eq!(
        (text(&created, "Name"), text(&created, "Description")),
        (&*t.name("r"), "for a test")
    );
    let policies = created.get("Policies").unwrap();
    assert_eq!((texts(policies, "ID"), texts(policies, "Name")), (vec![&*id], vec![&*t.name("p")]));
    assert_eq!(texts(created.get("ServiceIdentities").unwrap(), "ServiceName"), ["web"]);
    assert_eq!(texts(created.get("NodeIdentities").unwrap(), "NodeName"), ["n1"]);
    assert_eq!(t.value("acl_role_read", args![text(&created, "ID")]).await, created);
}

async fn a_role_is_found_by_its_name_and_in_the_list(t: T) {
    let t = t.with_acls(Deny);
    let created = role(&t, "r", table! {"Description" = "d"}).await;
    assert_eq!(t.value("acl_role_read_by_name", args![t.name("r")]).await, created);
    let all = t.value("acl_role_list", args![]).await;
    assert!(all.items().contains(&created), "{all:?}");
    let names = texts(&all, "Name");
    assert!(
        t.is_1_8("roles are listed in the order of their ids") || names.is_sorted(),
        "{names:?}"
    );
}

async fn a_role_is_replaced_as_a_whole(t: T) {
    let t = t.with_acls(Deny);
    let id = policy(&t, "p", &rule("key", "a", "read")).await;
    let before = role(&t, "r", table! {"Policies" = list![table! {"ID" = id}]}).await;
    let role = text(&before, "ID");
    let change = table! {"Name" = t.name("q"), "Description" = "e"};
    let after = t.value("acl_role_update", args![role, change]).await;
    assert_eq!((text(&after, "ID"), text(&after, "Name")), (role, &*t.name("q")));
    assert_eq!((text(&after, "Description"), after.get("Policies")), ("e", None));
    assert_eq!(after.get("CreateIndex"), before.get("CreateIndex"));
    assert_ne!(after.get("Hash"), before.get("Hash"));
    t.fails("acl_role_read_by_name", args![t.name("r")], Kind::NotFound).await;
}

async fn a_token_has_the_permissions_of_its_roles(t: T) {
    let t = t.with_acls(Deny);
    let key = t.name("x");
    let id = policy(&t, "p", &rule("key", &key, "write")).await;
    let role = role(&t, "r", table! {"Policies" = list![table! {"ID" = id}]}).await;
    let token = token_of(&t, &role).await;
    assert_eq!(texts(token.get("Roles").unwrap(), "Name"), [&*t.name("r")]);
    let me = t.with_token(text(&token, "SecretID"));
    me.ok("kv_put", args![key.as_str(), "1"]).await;
    denied(&me, "kv_put", args![t.name("other"), "1"]).await;
    let own = me.value("acl_token_self", args![]).await;
    assert_eq!(own.get("Roles"), token.get("Roles"));
    t.ok("kv_delete", args![key]).await;
}

async fn a_change_of_a_role_counts_for_its_tokens_at_once(t: T) {
    let t = t.with_acls(Deny);
    let key = t.name("x");
    let id = policy(&t, "p", &rule("key", &key, "write")).await;
    let role = role(&t, "r", table! {}).await;
    let me = t.with_token(text(&token_of(&t, &role).await, "SecretID"));
    denied(&me, "kv_put", args![key.as_str(), "1"]).await;
    let more = table! {"Name" = t.name("r"), "Policies" = list![table! {"ID" = id}]};
    t.ok("acl_role_update", args![text(&role, "ID"), more]).await;
    me.ok("kv_put", args![key.as_str(), "1"]).await;
    t.ok("kv_delete", args![key]).await;
}

async fn a_deleted_role_is_gone_from_its_tokens(t: T) {
    let t = t.with_acls(Deny);
    let key = t.name("x");
    let id = policy(&t, "p", &rule("key", &key, "write")).await;
    let role = role(&t, "r", table! {"Policies" = list![table! {"ID" = id}]}).await;
    let token = token_of(&t, &role).await;
    let me = t.with_token(text(&token, "SecretID"));
    me.ok("kv_put", args![key.as_str(), "1"]).await;
    assert_eq!(t.value("acl_role_delete", args![text(&role, "ID")]).await, true.into());
    denied(&me, "kv_put", args![key.as_str(), "1"]).await;
    let after = t.value("acl_token_read", args![text(&token, "AccessorID")]).await;
    assert_eq!(after.get("Roles"), None);
    t.ok("kv_delete", args![key]).await;
}

async fn identities_of_a_role_are_permissions(t: T) {
    let t = t.with_acls(Deny);
    // Names of identities are in lower case.
    let (service, node) = (format!("s{}", fastrand::u32(..)), format!("n{}", fastrand::u32(..)));
    let role = role(
        &t,
        "r",
        table! {
            "ServiceIdentities" = list![table! {"ServiceName" = service.as_str()}],
            "NodeIdentities" = list![table! {"NodeName" = node.as_str(), "Datacenter" = "dc1"}],
        },
    )
    .await;
    let me = t.with_token(text(&token_of(&t, &role).await, "SecretID"));
    let registered = |node: &str, service: &str| {
        args![table! {
            "Node" = node, "Address" = "192.0.2.1", "Service" = table! {"Service" = service},
        }]
    };
    me.ok("catalog_register", registered(&node, &service)).await;
    denied(&me, "catalog_register", registered(&node, "another")).await;
    denied(&me, "catalog_register", registered("another", &service)).await;
    assert_eq!(me.value("catalog_service", args![service]).await.items().len(), 1);
    t.ok("catalog_deregister", args![table! {"Node" = node}]).await;
}

async fn tokens_are_listed_by_their_role(t: T) {
    let t = t.with_acls(Deny);
    let (one, other) = (role(&t, "r", table! {}).await, role(&t, "q", table! {}).await);
    let token = token_of(&t, &one).await;
    let path = |role: &str| format!("/v1/acl/tokens?role={role}");
    let listed = async |role: &str| t.value("acl_token_list", args![; "role" = role]).await;
    let found = listed(text(&one, "ID")).await;
    assert_eq!(texts(&found, "AccessorID"), [text(&token, "AccessorID")]);
    assert_eq!(listed(text(&other, "ID")).await, list![]);
    assert_eq!(t.anonymous().raw("GET", &path(UNKNOWN), "").await.status, 403);
}

async fn an_expanded_token_shows_its_roles_and_their_policies(t: T) {
    if t.is_1_8("a token is not expanded (before 1.12)") {
        return;
    }
    let t = t.with_acls(Deny);
    let id = policy(&t, "p", &rule("key", "a", "read")).await;
    let role = role(&t, "r", table! {"Policies" = list![table! {"ID" = id.as_str()}]}).await;
    let token = token_of(&t, &role).await;
    let accessor = text(&token, "AccessorID");
    let found = t.value("acl_token_read", args![accessor; "expanded" = true]).await;
    assert_eq!(texts(found.get("ExpandedPolicies").unwrap(), "ID"), [&*id]);
    assert_eq!(found.get("ExpandedRoles"), Some(&Value::List(vec![role])));
}

async fn an_expanded_token_shows_what_its_identities_and_templates_permit(t: T) {
    if t.is_1_8("a token is not expanded (before 1.12)") {
        return;
    }
    let t = t.with_acls(Deny);
    let service = |name: &str| table! {"ServiceName" = name};
    let here = |name: &str| table! {"ServiceName" = name, "Datacenters" = list!["dc1"]};
    let node = |name: &str, dc: &str| table! {"NodeName" = name, "Datacenter" = dc};
    let template = |name: &str| {
        table! {"TemplateName" = name, "TemplateVariables" = table! {"name" = "own"}}
    };
    let names =
        ["api-gateway", "dns", "node", "nomad-client", "nomad-server", "service"].into_iter();
    let templates: Vec<_> = names.map(|name| template(&format!("builtin/{name}"))).collect();
    let role = role(
        &t,
        "r",
        table! {
            "ServiceIdentities" = list![here("web"), service("api")],
            "NodeIdentities" = list![node("n2", "dc1")],
            "TemplatedPolicies" = list![template("builtin/service")],
        },
    )
    .await;
    let mut shown = Vec::new();
    for members in [
        table! {},
        table! {"ServiceIdentities" = list![service("web"), service("own")]},
        table! {"NodeIdentities" = list![node("n1", "dc1"), node("n2", "dc2")]},
        table! {"TemplatedPolicies" = Value::List(templates)},
    ] {
        for role in [None, Some(&role)] {
            let Value::Map(mut members) = members.clone() else { panic!("not a table") };
            if let Some(role) = role {
                let roles = list![table! {"ID" = text(role, "ID")}];
                members.push(("Roles".to_owned(), roles));
            }
            let token = t.value("acl_token_create", args![Value::Map(members)]).await;
            let accessor = text(&token, "AccessorID");
            let found = t.value("acl_token_read", args![accessor; "expanded" = true]).await;
            let policies = found.get("ExpandedPolicies").unwrap();
            if *policies == Value::Null {
                shown.push("none".to_owned());
                continue;
            }
            let mut lines: Vec<_> = policies
                .items()
                .iter()
                .map(|policy| {
                    let (id, rules) = (text(policy, "ID"), text(policy, "Rules"));
                    let hex: String = rules.bytes().map(|byte| format!("{byte:02x}")).collect();
                    assert_eq!(id, format!("{hex}6c62272e07bb014262b821756295c58d"));
                    assert_eq!(text(policy, "Name"), format!("synthetic-policy-{id}"));
                    let made = text(policy, "Description").rsplit('/').next().unwrap().to_owned();
                    let names: Vec<_> = rules.split('"').skip(1).step_by(2).collect();
                    let places = policy.get("Datacenters").map_or(&[][..], Value::items);
                    let places: Vec<_> = places.iter().filter_map(Value::as_str).collect();
                    format!("{made} {} {}", names[0], places.join(","))
                })
                .collect();
            lines.sort_unstable();
            shown.push(lines.join("; "));
        }
    }
    let of_role = "node n2 dc1; service api ; service own ; service web dc1";
    let all =
        "api-gateway read ; dns  ; node own ; nomad-client  ; nomad-server write ; service own ";
    assert_eq!(
        shown,
        [
            "none",
            of_role,
            "service own ; service web ",
            "node n2 dc1; service api ; service own ; service own ; service web dc1",
            "node n1 dc1; node n2 dc2",
            "node n1 dc1; node n2 dc1; service api ; service own ; service web dc1",
            all,
            "api-gateway read ; dns  ; node n2 dc1; node own ; nomad-client  ; nomad-server write ; \
             service api ; service own ; service web dc1",
        ]
    );
}

async fn invalid_roles_are_refused(t: T) {
    let t = t.with_acls(Deny);
    role(&t, "r", table! {}).await;
    let name = || t.name("q");
    for (role, why) in [
        (table! {}, "no Name is set"),
        (
            table! {"Name" = "a b"},
            "invalid Name. Only alphanumeric characters, '-' and '_' are allowed",
        ),
        (table! {"Name" = t.name("r")}, "already exists"),
        (
            table! {"Name" = name(), "ServiceIdentities" = list![table! {}]},
            "Service identity is missing the service name field on this role",
        ),
        (
            table! {"Name" = name(), "ServiceIdentities" = list![table! {"ServiceName" = "A"}]},
            "has an invalid name",
        ),
        (
            table! {"Name" = name(), "NodeIdentities" = list![table! {"NodeName" = "n"}]},
            "Node identity is missing the datacenter field on this role",
        ),
    ] {
        let error = t.fails("acl_role_create", args![role], Kind::Http).await;
        assert!(error.message().contains(why), "{error}");
    }
}

async fn unknown_roles_are_not_found(t: T) {
    let t = t.with_acls(Deny);
    t.fails("acl_role_read_by_name", args![t.name("r")], Kind::NotFound).await;
    t.fails("acl_role_read", args![UNKNOWN], Kind::NotFound).await;
    let change = table! {"Name" = t.name("r")};
    let error = t.fails("acl_role_update", args![UNKNOWN, change], Kind::NotFound).await;
    assert!(error.message().contains(&format!("cannot find role {UNKNOWN}")), "{error}");
    t.ok("acl_role_delete", args![UNKNOWN]).await;
}

async fn links_to_unknown_policies_and_roles_are_refused(t: T) {
    let t = t.with_acls(Deny);
    let none = || list![table! {"Name" = t.name("none")}];
    let unknown = table! {"Name" = t.name("r"), "Policies" = none()};
    let error = t.fails("acl_role_create", args![unknown], Kind::Http).await;
    assert!(error.message().contains("No such ACL policy with name"), "{error}");
    let error = t.fails("acl_token_create", args![table! {"Roles" = none()}], Kind::Http).await;
    assert!(error.message().contains("No such ACL role with name"), "{error}");
}

async fn roles_need_permissions_for_tokens(t: T) {
    let t = t.with_acls(Deny);
    let role = role(&t, "r", table! {}).await;
    let id = text(&role, "ID");
    let reader = caller(&t, "acl = \"read\"").await;
    assert_eq!(reader.value("acl_role_read", args![id]).await, role);
    denied(&reader, "acl_role_create", args![table! {"Name" = t.name("q")}]).await;
    denied(&reader, "acl_role_delete", args![id]).await;
    let nobody = t.anonymous();
    for (method, args) in [
        ("acl_role_list", args![]),
        ("acl_role_read", args![id]),
        ("acl_role_read_by_name", args![t.name("r")]),
        ("acl_role_update", args![id, table! {"Name" = t.name("q")}]),
    ] {
        denied(&nobody, method, args).await;
    }
}

async fn a_list_of_roles_wakes_on_a_new_one(t: T) {
    let t = t.with_acls(Deny);
    role(&t, "r", table! {}).await;
    let index = t.index("acl_role_list", args![]).await;
    let wait = args![; "index" = index.to_string(), "wait" = "60s"];
    let change = async {
        pause(Duration::from_millis(200)).await;
        role(&t, "q", table! {}).await
    };
    let (answer, created) = tokio::join!(t.ok("acl_role_list", wait), change);
    assert!(answer.meta.index > Some(index));
    assert!(answer.value.items().len() > 1 || answer.value.items().contains(&created));
}
