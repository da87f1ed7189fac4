//! Templated policies.

use super::logins::{Issuer, claims, login, method};
use crate::target::{T, behaviours, text};
use consul_sim::acl::DefaultPolicy::Deny;
use serde_json::Value;

behaviours![
    the_six_templates_are_those_of_consul,
    a_preview_is_the_policy_of_a_template,
    tokens_and_roles_have_templated_policies,
    a_wrong_templated_policy_is_refused,
    a_templated_policy_gives_its_permissions,
    a_login_gives_a_templated_policy,
];

/// A server with ACLs, unless it is too old.
fn with_templates(t: T) -> Option<T> {
    let old = t.is_1_8("there are no templates of policies (before 1.17)");
    (!old).then(|| t.with_acls(Deny))
}

async fn json(t: &T, method: &str, path: &str, body: &str) -> Value {
    let raw = t.raw_own(method, path, body).await;
    assert_eq!(raw.status, 200, "{path} {body}: {}", raw.body);
    serde_json::from_str(&raw.body).unwrap()
}

/// The name, whether it has a variable, the number at the end of its id, and the length and a sum of its
/// texts.
const TEMPLATES: &[(&str, bool, u8, usize, u32)] = &[
    ("builtin/api-gateway", true, 8, 415, 670_539_890),
    ("builtin/dns", false, 5, 200, 517_754_790),
    ("builtin/node", true, 4, 486, 4_058_565_473),
    ("builtin/nomad-client", false, 9, 232, 2_490_874_287),
    ("builtin/nomad-server", false, 6, 211, 2_857_544_820),
    ("builtin/service", true, 3, 616, 3_827_806_216),
];

fn sum(text: &str) -> u32 {
    text.bytes().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)))
}

async fn the_six_templates_are_those_of_consul(t: T) {
    let Some(t) = with_templates(t) else { return };
    let all = json(&t, "GET", "/v1/acl/templated-policies", "").await;
    let all = all.as_object().unwrap();
    assert_eq!(all.len(), TEMPLATES.len());
    let mut found = Vec::new();
    for (name, has_variable, number, ..) in TEMPLATES {
        let one = json(&t, "GET", &format!("/v1/acl/templated-policy/name/{name}"), "").await;
        assert_eq!(&one, &all[*name]);
        assert_eq!(one["TemplateName"], *name);
        let schema = one["Schema"].as_str().unwrap();
        assert_eq!(!schema.is_empty(), *has_variable, "{name}");
        let texts =
            [schema, one["Template"].as_str().unwrap(), one["Description"].as_str().unwrap()];
        let text = texts.concat();
        found.push((*name, *has_variable, *number, text.len(), sum(&text)));
    }
    assert_eq!(found, TEMPLATES);
    let unknown = t.raw_own("GET", "/v1/acl/templated-policy/name/none", "").await;
    assert_eq!((unknown.status, &*unknown.body), (400, "Invalid templated policy Name: none"));
    let unknown = t.raw_own("GET", "/v1/acl/templated-policy/name/", "").await;
    assert_eq!((unknown.status, &*unknown.body), (400, "Missing templated policy Name"));
}

async fn a_preview_is_the_policy_of_a_template(t: T) {
    let Some(t) = with_templates(t) else { return };
    let path = "/v1/acl/templated-policy/preview/builtin/node";
    let policy = json(&t, "POST", path, r#"{"Name":"n1"}"#).await;
    let rules = policy["Rules"].as_str().unwrap();
    assert_eq!(
        rules,
        "\nnode \"n1\" {\n\tpolicy = \"write\"\n}\nservice_prefix \"\" {\n\tpolicy = \"read\"\n}"
    );
    let id = policy["ID"].as_str().unwrap();
    assert!(
        id.starts_with("0a6e6f6465") && id.ends_with("7d6c62272e07bb014262b821756295c58d"),
        "{id}"
    );
    assert_eq!(policy["Name"], format!("synthetic-policy-{id}"));
    let text = "synthetic policy generated from templated policy: builtin/node";
    assert_eq!(policy["Description"], text);
    for (name, body, text) in [
        ("none", "{}", "templated policy \"none\" does not exist"),
        ("", "{}", "Missing templated policy Name"),
        ("builtin/node", "[]", "Failed to decode request body: "),
        (
            "builtin/node",
            r#"{"Nme":"x"}"#,
            "Failed to decode request body: json: unknown field \"Nme\"",
        ),
        (
            "builtin/node",
            r#"{"Name":"-"}"#,
            "validation error for templated policy: \"builtin/node\": node identity \"-\"  has an invalid name. \
             Only lowercase alphanumeric characters, '-' and '_' are allowed",
        ),
        (
            "builtin/api-gateway",
            "{}",
            "validation error for templated policy: \"builtin/api-gateway\": 1 error occurred:\n\t* name is required",
        ),
    ] {
        let refused =
            t.raw_own("POST", &format!("/v1/acl/templated-policy/preview/{name}"), body).await;
        assert_eq!(refused.status, 400, "{name} {body}: {}", refused.body);
        assert!(refused.body.starts_with(text), "{name} {body}: {}", refused.body);
    }
}

const GIVEN: &str = r#"[{"TemplateName":"builtin/service","TemplateVariables":{"Name":"web"},"Datacenters":["dc1"]},
    {"TemplateName":"builtin/service","TemplateVariables":{"Name":"web"}},
    {"TemplateName":"builtin/dns","TemplateVariables":{"Name":"x"}},{"TemplateName":"builtin/dns"}]"#;

async fn tokens_and_roles_have_templated_policies(t: T) {
    let Some(t) = with_templates(t) else { return };
    let kept: Value = serde_json::from_str(
        r#"[{"TemplateID":"00000000-0000-0000-0000-000000000003","TemplateName":"builtin/service",
            "TemplateVariables":{"name":"web"},"Datacenters":["dc1"]},
            {"TemplateID":"00000000-0000-0000-0000-000000000005","TemplateName":"builtin/dns",
            "TemplateVariables":{"name":"x"}}]"#,
    )
    .unwrap();
    let body = format!(r#"{{"TemplatedPolicies":{GIVEN}}}"#);
    let token = json(&t, "PUT", "/v1/acl/token", &body).await;
    assert_eq!(token["TemplatedPolicies"], kept);
    let path = format!("/v1/acl/token/{}", token["AccessorID"].as_str().unwrap());
    assert_eq!(json(&t, "GET", &path, "").await["TemplatedPolicies"], kept);
    assert_eq!(json(&t, "PUT", &format!("{path}/clone"), "{}").await["TemplatedPolicies"], kept);
    assert_eq!(json(&t, "PUT", &path, "{}").await["TemplatedPolicies"], Value::Null);
    let body = format!(r#"{{"Name":"{}","TemplatedPolicies":{GIVEN}}}"#, t.name("r"));
    let role = json(&t, "PUT", "/v1/acl/role", &body).await;
    assert_eq!(role["TemplatedPolicies"], kept);
    let path = format!("/v1/acl/role/{}", role["ID"].as_str().unwrap());
    assert_eq!(json(&t, "GET", &path, "").await["TemplatedPolicies"], kept);
}

async fn a_wrong_templated_policy_is_refused(t: T) {
    let Some(t) = with_templates(t) else { return };
    for (policy, of_token, of_role) in [
        (
            "{}",
            "templated policy is missing the template name field on this token",
            "templated policy is missing the template name field on this role",
        ),
        (
            r#"{"TemplateName":"none"}"#,
            "no such ACL templated policy with Name \"none\"",
            "templated policy with an invalid templated name: none for this role",
        ),
        (
            r#"{"TemplateName":"builtin/service"}"#,
            "validation error for templated policy \"builtin/service\": 1 error occurred:\n\t* Invalid type. \
             Expected: object, given: null",
            "encountered role with invalid templated policy: 1 error occurred:\n\t* Invalid type. Expected: object, \
             given: null",
        ),
        (
            r#"{"TemplateName":"builtin/service","TemplateVariables":{"Name":"A"}}"#,
            "validation error for templated policy \"builtin/service\": service identity \"A\" has an invalid name. \
             Only lowercase alphanumeric characters, '-' and '_' are allowed",
            "encountered role with invalid templated policy: service identity \"A\" has an invalid name. Only \
             lowercase alphanumeric characters, '-' and '_' are allowed",
        ),
    ] {
        let token = format!(r#"{{"TemplatedPolicies":[{policy}]}}"#);
        let refused = t.raw_own("PUT", "/v1/acl/token", &token).await;
        assert_eq!((refused.status, &*refused.body), (500, of_token), "{policy}");
        let role = format!(r#"{{"Name":"{}","TemplatedPolicies":[{policy}]}}"#, t.name("r"));
        let refused = t.raw_own("PUT", "/v1/acl/role", &role).await;
        assert_eq!((refused.status, &*refused.body), (500, of_role), "{policy}");
    }
}

async fn a_templated_policy_gives_its_permissions(t: T) {
    let Some(t) = with_templates(t) else { return };
    let role = format!(
        r#"{{"Name":"{}","TemplatedPolicies":[{{"TemplateName":"builtin/nomad-client"}}]}}"#,
        t.name("r")
    );
    let role = json(&t, "PUT", "/v1/acl/role", &role).await;
    let body = format!(
        r#"{{"Roles":[{{"ID":{}}}],"TemplatedPolicies":[{{"TemplateName":"builtin/node",
            "TemplateVariables":{{"Name":"n1"}}}},{{"TemplateName":"builtin/dns","Datacenters":["dc9"]}}]}}"#,
        role["ID"]
    );
    let token = json(&t, "PUT", "/v1/acl/token", &body).await;
    let t = t.with_token(token["SecretID"].as_str().unwrap());
    let asked = r#"[{"Resource":"node","Segment":"n1","Access":"write"},{"Resource":"node","Segment":"n2","Access":"write"},
        {"Resource":"service","Segment":"x","Access":"write"},{"Resource":"key","Segment":"k","Access":"read"},
        {"Resource":"key","Segment":"k","Access":"write"},{"Resource":"query","Segment":"q","Access":"read"}]"#;
    let answer = json(&t, "POST", "/v1/internal/acl/authorize", asked).await;
    let allowed: Vec<_> =
        answer.as_array().unwrap().iter().map(|one| one["Allow"].as_bool().unwrap()).collect();
    assert_eq!(allowed, [true, false, true, true, false, false]);
}

async fn a_login_gives_a_templated_policy(t: T) {
    let Some(t) = with_templates(t) else { return };
    let issuer = Issuer::new();
    let method = method(&t, "m", &issuer).await;
    let rule = |name: &str, variables: &str| {
        format!(
            r#"{{"AuthMethod":"{method}","BindType":"templated-policy","BindName":"{name}"{variables}}}"#
        )
    };
    let made = rule("builtin/service", r#","BindVars":{"Name":"web"}"#);
    let made = json(&t, "PUT", "/v1/acl/binding-rule", &made).await;
    assert_eq!(
        (&made["BindType"], &made["BindVars"]["name"]),
        (&"templated-policy".into(), &"web".into())
    );
    for (name, variables, text) in [
        (
            "none",
            "",
            "Bind name for templated-policy bind type does not match existing template name: none",
        ),
        (
            "builtin/service",
            "",
            "templated policy failed validation: 1 error occurred:\n\t* Invalid type. Expected: object, given: null",
        ),
    ] {
        let refused = t.raw_own("PUT", "/v1/acl/binding-rule", &rule(name, variables)).await;
        let text = format!(
            "Invalid Binding Rule: invalid BindName or BindVars: failed to validate bindType \"templated-policy\": {text}"
        );
        assert_eq!((refused.status, refused.body), (500, text));
    }
    let token = login(&t, &method, &issuer.sign(&claims())).await;
    let policies = token.get("TemplatedPolicies").unwrap().items();
    assert_eq!(text(policies[0].get("TemplateVariables").unwrap(), "name"), "web");
}
