//! Auth methods, binding rules, logins and logouts.

use super::{UNKNOWN, caller, denied, policy, rule};
use crate::support::authority::Authority;
use crate::target::{T, args, behaviours, list, pause, table, text, texts};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use consul_api::error::{Error, Kind};
use consul_api::response::Answer;
use consul_api::value::Value;
use consul_sim::acl::DefaultPolicy::Deny;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use serde_json::json;
use std::time::{Duration, SystemTime};

behaviours![
    an_auth_method_is_what_it_was_created_as,
    an_auth_method_is_replaced_as_a_whole,
    invalid_auth_methods_are_refused,
    a_binding_rule_is_what_it_was_created_as,
    invalid_binding_rules_are_refused,
    a_login_gives_what_the_rules_bind,
    a_login_that_no_rule_fits_is_denied,
    a_role_or_policy_that_is_missing_binds_nothing,
    tokens_of_others_are_refused,
    claims_of_another_type_are_refused,
    tokens_of_each_algorithm_are_accepted,
    tokens_are_valid_for_a_time_and_an_audience,
    claims_become_text,
    a_logout_ends_the_token_of_a_login_alone,
    a_token_of_a_login_stays_one,
    tokens_of_an_auth_method_expire_when_it_says,
    a_deleted_auth_method_ends_its_rules_and_tokens,
    local_tokens_outlive_a_method_that_became_global,
    auth_methods_and_rules_need_permissions_for_tokens,
    a_list_of_auth_methods_wakes_on_a_new_one,
    an_auth_method_of_kubernetes_is_stored,
    invalid_auth_methods_of_kubernetes_are_refused,
    rules_of_kubernetes_know_the_account_of_a_service,
];

/// A key that signs tokens.
pub struct Issuer(rcgen::KeyPair);

impl Issuer {
    pub fn new() -> Self {
        Issuer(rcgen::KeyPair::generate().expect("a key"))
    }

    pub fn public_key(&self) -> String {
        self.0.public_key_pem()
    }

    pub fn sign(&self, claims: &serde_json::Value) -> String {
        self.sign_as(&json!({ "alg": "ES256", "typ": "JWT" }), claims)
    }

    fn sign_as(&self, header: &serde_json::Value, claims: &serde_json::Value) -> String {
        let signed = [header, claims].map(|part| BASE64.encode(part.to_string())).join(".");
        let (rng, der) = (SystemRandom::new(), self.0.serialize_der());
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &rng);
        let signature = key.expect("a key of P-256").sign(&rng, signed.as_bytes());
        format!("{signed}.{}", BASE64.encode(signature.expect("a signature")))
    }
}

/// The part of a token that is signed.
fn signed(algorithm: &str, claims: &serde_json::Value) -> String {
    let parts = [json!({ "alg": algorithm, "typ": "JWT" }), claims.clone()];
    parts.map(|part| BASE64.encode(part.to_string())).join(".")
}

fn now_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs()
}

/// Claims that `method` accepts.
pub fn claims() -> serde_json::Value {
    json!({
        "iss": "issuer", "aud": "consul", "sub": "Ann", "team": "a", "groups": ["g1", "g2"],
        "iat": now_s(), "exp": now_s() + 600,
    })
}

/// These claims with a change.
fn with(name: &str, value: impl Into<serde_json::Value>) -> serde_json::Value {
    let mut claims = claims();
    claims[name] = value.into();
    claims
}

/// The configuration of a method that accepts tokens of an issuer.
fn config(issuer: &Issuer) -> Value {
    table! {
        "JWTValidationPubKeys" = list![issuer.public_key()],
        "BoundIssuer" = "issuer",
        "BoundAudiences" = list!["consul"],
        "ClaimMappings" = table!{"sub" = "user", "team" = "team"},
        "ListClaimMappings" = table!{"groups" = "groups"},
    }
}

/// A new auth method of an issuer; returns its name.
pub async fn method(t: &T, name: &str, issuer: &Issuer) -> String {
    let name = t.name(name);
    let method = table! {"Name" = name.as_str(), "Type" = "jwt", "Config" = config(issuer)};
    t.ok("acl_auth_method_create", args![method]).await;
    name
}

async fn bind(t: &T, method: &str, kind: &str, name: &str, selector: &str) -> Value {
    let rule = table! {
        "AuthMethod" = method, "BindType" = kind, "BindName" = name, "Selector" = selector,
    };
    t.value("acl_binding_rule_create", args![rule]).await
}

pub async fn login(t: &T, method: &str, token: &str) -> Value {
    let login = table! {"AuthMethod" = method, "BearerToken" = token};
    t.anonymous().value("acl_login", args![login]).await
}

/// The message with which a login is refused.
async fn refused(t: &T, method: &str, token: &str) -> String {
    let login = table! {"AuthMethod" = method, "BearerToken" = token};
    match t.anonymous().call("acl_login", args![login]).await {
        Err(error) => error.message().to_owned(),
        Ok(answer) => panic!("{token}: {:?}", answer.value),
    }
}

async fn an_auth_method_is_what_it_was_created_as(t: T) {
    let t = t.with_acls(Deny);
    let config = config(&Issuer::new());
    let given = table! {
        "Name" = t.name("m"), "Type" = "jwt", "DisplayName" = "shown", "Description" = "for a test",
        "MaxTokenTTL" = "5m", "TokenLocality" = "local", "Config" = config.clone(),
    };
    let created = t.value("acl_auth_method_create", args![given]).await;
    for (name, wanted) in [
        ("Name", &*t.name("m")),
        ("Type", "jwt"),
        ("DisplayName", "shown"),
        ("Description", "for a test"),
        ("MaxTokenTTL", "5m0s"),
        ("TokenLocality", "local"),
    ] {
        assert_eq!(text(&created, name), wanted);
    }
    for name in ["JWTValidationPubKeys", "BoundIssuer", "ClaimMappings"] {
        assert_eq!(created.get("Config").unwrap().get(name), config.get(name), "{name}");
    }
    assert_eq!(t.value("acl_auth_method_read", args![t.name("m")]).await, created);
    let all = t.value("acl_auth_method_list", args![]).await;
    let listed =
        all.items().iter().find(|it| text(it, "Name") == t.name("m")).expect("it is listed");
    assert_eq!((text(listed, "Type"), listed.get("Config")), ("jwt", None));
    t.ok("acl_auth_method_delete", args![t.name("m")]).await;
    t.fails("acl_auth_method_read", args![t.name("m")], Kind::NotFound).await;
    t.ok("acl_auth_method_delete", args![t.name("m")]).await;
}

async fn an_auth_method_is_replaced_as_a_whole(t: T) {
    let t = t.with_acls(Deny);
    let issuer = Issuer::new();
    let name = method(&t, "m", &issuer).await;
    let before = t.value("acl_auth_method_read", args![name.as_str()]).await;
    let change = table! {"Description" = "changed", "Config" = config(&issuer)};
    let after = t.value("acl_auth_method_update", args![name.as_str(), change]).await;
    assert_eq!((text(&after, "Description"), text(&after, "Type")), ("changed", "jwt"));
    assert_eq!(after.get("CreateIndex"), before.get("CreateIndex"));
    assert_ne!(after.get("ModifyIndex"), before.get("ModifyIndex"));
    // To create it again is the same.
    let again = table! {"Name" = name.as_str(), "Type" = "jwt", "Config" = config(&issuer)};
    let again = t.value("acl_auth_method_create", args![again]).await;
    assert_eq!(
        (again.get("Description"), again.get("CreateIndex")),
        (None, before.get("CreateIndex"))
    );
    let other = table! {"Name" = "other", "Type" = "jwt", "Config" = config(&issuer)};
    t.fails("acl_auth_method_update", args![name.as_str(), other], Kind::Argument).await;
    let kind = table! {"Type" = "kubernetes", "Config" = config(&issuer)};
    let why = t.fails("acl_auth_method_update", args![name.as_str(), kind], Kind::Http).await;
    assert!(why.message().contains("the Type field of an Auth Method is immutable"), "{why}");
}

async fn invalid_auth_methods_are_refused(t: T) {
    let t = t.with_acls(Deny);
    let key = Issuer::new().public_key();
    let keys = || list![key.as_str()];
    let config = |config: Value| table! {"Name" = t.name("m"), "Type" = "jwt", "Config" = config};
    for (given, why) in [
        (table! {"Type" = "jwt"}, "no Name is set"),
        (table! {"Name" = "a b", "Type" = "jwt"}, "invalid Name"),
        (table! {"Name" = t.name("m"), "Type" = "none"}, "Type should be one of"),
        (table! {"Name" = t.name("m"), "Type" = "jwt"}, "exactly one of 'JWTValidationPubKeys'"),
        (config(table! {"JWTValidationPubKeys" = list!["x"]}), "JWTValidationPubKeys[0]"),
        (config(table! {"JWTValidationPubKeys" = keys(), "X" = 1}), "has invalid keys: X"),
        (
            config(table! {"JWTValidationPubKeys" = keys(), "JWTSupportedAlgs" = list!["HS256"]}),
            "HS256",
        ),
        (
            config(table! {
                "JWTValidationPubKeys" = keys(), "ClaimMappings" = table!{"a" = "x", "b" = "x"},
            }),
            "multiple mappings for key \"x\"",
        ),
        (
            table! {
                "Name" = t.name("m"), "Type" = "jwt", "MaxTokenTTL" = "1s",
                "Config" = table!{"JWTValidationPubKeys" = keys()},
            },
            "MaxTokenTTL 1s cannot be less than 1m0s",
        ),
        (
            table! {
                "Name" = t.name("m"), "Type" = "jwt", "TokenLocality" = "here",
                "Config" = table!{"JWTValidationPubKeys" = keys()},
            },
            "TokenLocality should be one of 'local' or 'global'",
        ),
    ] {
        let error = t.fails("acl_auth_method_create", args![given], Kind::Http).await;
        assert!(error.message().contains(why), "{why}: {error}");
    }
    t.fails("acl_auth_method_read", args![t.name("m")], Kind::NotFound).await;
}

async fn a_binding_rule_is_what_it_was_created_as(t: T) {
    let t = t.with_acls(Deny);
    let method = method(&t, "m", &Issuer::new()).await;
    let created = bind(&t, &method, "service", "web-${value.user}", "value.team == a").await;
    let id = text(&created, "ID");
    assert_eq!(text(&created, "AuthMethod"), method);
    assert_eq!(
        (text(&created, "BindType"), text(&created, "BindName")),
        ("service", "web-${value.user}")
    );
    assert_eq!(text(&created, "Selector"), "value.team == a");
    assert_eq!(t.value("acl_binding_rule_read", args![id]).await, created);
    let mine = t.value("acl_binding_rule_list", args![; "auth_method" = method.as_str()]).await;
    assert_eq!(mine, list![created.clone()]);
    let none = t.value("acl_binding_rule_list", args![; "auth_method" = t.name("none")]).await;
    assert_eq!(none, list![]);
    let change = table! {"BindType" = "node", "BindName" = "n"};
    let after = t.value("acl_binding_rule_update", args![id, change]).await;
    assert_eq!((text(&after, "BindType"), text(&after, "Selector")), ("node", ""));
    assert_eq!(after.get("CreateIndex"), created.get("CreateIndex"));
    t.ok("acl_binding_rule_delete", args![id]).await;
    t.fails("acl_binding_rule_read", args![id], Kind::NotFound).await;
    t.ok("acl_binding_rule_delete", args![id]).await;
}

async fn invalid_binding_rules_are_refused(t: T) {
    let t = t.with_acls(Deny);
    let method = method(&t, "m", &Issuer::new()).await;
    let of = |kind: &str, name: &str, selector: &str| {
        table! {
            "AuthMethod" = method.as_str(), "BindType" = kind, "BindName" = name, "Selector" = selector,
        }
    };
    let none = t.name("none");
    for (given, why) in [
        (table! {"BindType" = "service", "BindName" = "a"}, "no AuthMethod is set"),
        (
            table! {"AuthMethod" = none.as_str(), "BindType" = "service", "BindName" = "a"},
            none.as_str(),
        ),
        (of("", "a", ""), "no BindType is set"),
        (of("service", "", ""), "no BindName is set"),
        (of("other", "a", ""), "BindType"),
        (of("service", "Web", ""), "Web"),
        (of("service", "${value.none}", ""), "value.none"),
        (of("service", "web-${", ""), "expected expression but found end of string"),
        (of("service", "a", "value.user =="), "Selector is invalid: 1:14 (13): no match found"),
        (of("service", "a", "user == b"), "Selector is invalid: Selector \"user\" is not valid"),
        (of("service", "a", "list.groups == b"), "Invalid match operator"),
    ] {
        let error = t.fails("acl_binding_rule_create", args![given.clone()], Kind::Http).await;
        let differs = t.is_1_8("some texts about invalid binding rules are others");
        assert!(differs || error.message().contains(why), "{why}: {error}");
    }
    let change = table! {"AuthMethod" = none};
    let id = bind(&t, &method, "service", "a", "").await;
    t.fails("acl_binding_rule_update", args![text(&id, "ID"), change], Kind::Http).await;
    t.fails("acl_binding_rule_update", args![UNKNOWN, of("node", "n", "")], Kind::Http).await;
}

async fn a_login_gives_what_the_rules_bind(t: T) {
    let t = t.with_acls(Deny);
    let issuer = Issuer::new();
    let method = method(&t, "m", &issuer).await;
    let key = t.name("key");
    let id = policy(&t, "p", &rule("key", &key, "write")).await;
    let links = list![table! {"ID" = id}];
    t.ok("acl_role_create", args![table! {"Name" = t.name("r"), "Policies" = links}]).await;
    for (kind, name, selector) in [
        ("service", "web-${value.user}", "value.team == a"),
        ("role", &*t.name("r"), "g2 in list.groups"),
        ("service", "not-this-one", "value.team != a"),
        ("service", "web-${value.user}", ""),
    ] {
        bind(&t, &method, kind, name, selector).await;
    }
    let given = table! {
        "AuthMethod" = method.as_str(), "BearerToken" = issuer.sign(&claims()),
        "Meta" = table!{"host" = "h1"},
    };
    let token = t.anonymous().value("acl_login", args![given]).await;
    assert_eq!(text(&token, "Description"), "token created via login: {\"host\":\"h1\"}");
    assert_eq!(
        (text(&token, "AuthMethod"), token.get("Local")),
        (&*method, Some(&Value::Bool(true)))
    );
    assert_eq!(texts(token.get("ServiceIdentities").unwrap(), "ServiceName"), ["web-ann"]);
    assert_eq!(texts(token.get("Roles").unwrap(), "Name"), [&*t.name("r")]);
    let me = t.with_token(text(&token, "SecretID"));
    me.ok("kv_put", args![key.as_str(), "1"]).await;
    denied(&me, "kv_put", args![t.name("other"), "1"]).await;
    let listed = t.value("acl_token_list", args![; "auth_method" = method]).await;
    assert_eq!(texts(&listed, "AccessorID"), [text(&token, "AccessorID")]);
    t.ok("kv_delete", args![key]).await;
}

async fn a_login_that_no_rule_fits_is_denied(t: T) {
    let t = t.with_acls(Deny);
    let issuer = Issuer::new();
    let method = method(&t, "m", &issuer).await;
    bind(&t, &method, "service", "web", "value.team == b").await;
    let token = issuer.sign(&claims());
    let given = || table! {"AuthMethod" = method.as_str(), "BearerToken" = token.as_str()};
    denied(&t.anonymous(), "acl_login", args![given()]).await;
    bind(&t, &method, "service", "web", "").await;
    login(&t, &method, &token).await;
    // A file's end of line stays on a token that is read from it.
    let token = login(&t, &method.to_uppercase(), &format!(" {token}\n")).await;
    assert_eq!(text(&token, "AuthMethod"), method);
    let token = issuer.sign(&claims());
    let none = table! {"AuthMethod" = t.name("none"), "BearerToken" = token.as_str()};
    assert!(t.anonymous().call("acl_login", args![none]).await.is_err());
}

async fn a_role_or_policy_that_is_missing_binds_nothing(t: T) {
    let t = t.with_acls(Deny);
    let issuer = Issuer::new();
    let method = method(&t, "m", &issuer).await;
    bind(&t, &method, "role", &t.name("${value.team}"), "").await;
    let token = issuer.sign(&claims());
    let given = table! {"AuthMethod" = method.as_str(), "BearerToken" = token.as_str()};
    denied(&t.anonymous(), "acl_login", args![given]).await;
    t.ok("acl_role_create", args![table! {"Name" = t.name("a")}]).await;
    let token = login(&t, &method, &token).await;
    assert_eq!(texts(token.get("Roles").unwrap(), "Name"), [&*t.name("a")]);
}

async fn tokens_of_others_are_refused(t: T) {
    let t = t.with_acls(Deny);
    let issuer = Issuer::new();
    let method = method(&t, "m", &issuer).await;
    bind(&t, &method, "service", "web", "").await;
    let good = issuer.sign(&claims());
    login(&t, &method, &good).await;
    assert!(refused(&t, &method, "x").await.contains("must have three parts"));
    // A public key is known to all.
    let signed = signed("HS256", &claims());
    let secret = hmac::Key::new(hmac::HMAC_SHA256, issuer.public_key().as_bytes());
    let shared = BASE64.encode(hmac::sign(&secret, signed.as_bytes()));
    let (payload, signature) = good.rsplit_once('.').expect("three parts");
    let other = with("sub", "bob").to_string();
    let changed = format!("{}.{}", payload.split('.').next().unwrap(), BASE64.encode(other));
    for token in [
        Issuer::new().sign(&claims()),
        format!("{signed}.{shared}"),
        format!("{}.", self::signed("none", &claims())),
        format!("{changed}.{signature}"),
        format!("{payload}.{}", BASE64.encode([0; 64])),
        issuer.sign(&with("exp", "soon")),
        issuer.sign(&with("aud", serde_json::Value::Null)),
        issuer.sign_as(&json!({ "alg": "ES256", "crit": ["x"], "x": 1 }), &claims()),
    ] {
        let why = refused(&t, &method, &token).await;
        assert!(why.contains("no known key successfully validated the token signature"), "{why}");
    }
}

/// No claim of the wrong type is taken for an absent one.
async fn claims_of_another_type_are_refused(t: T) {
    let t = t.with_acls(Deny);
    let issuer = Issuer::new();
    let method = method(&t, "m", &issuer).await;
    bind(&t, &method, "service", "web", "").await;
    let text = |text: &str| json!(text);
    let (objects, lists) = (json!({ "a": 1 }), json!([1]));
    let (soon, number) = ((now_s() + 600).to_string(), json!(7));
    for (name, wrong) in [
        ("exp", [text(&soon), json!(true), objects.clone(), lists.clone()]),
        ("nbf", [text("0"), json!(false), objects.clone(), lists.clone()]),
        ("iat", [text("0"), json!(true), objects.clone(), json!([])]),
        ("iss", [number.clone(), json!(true), objects.clone(), json!(["issuer"])]),
        ("sub", [number.clone(), json!(false), json!({}), json!(["Ann"])]),
        ("jti", [number.clone(), json!(true), objects.clone(), json!([])]),
        ("aud", [number, json!(true), json!({ "consul": true }), json!(["consul", 1])]),
    ] {
        for wrong in wrong {
            let token = issuer.sign(&with(name, wrong.clone()));
            let why = refused(&t, &method, &token).await;
            let known = "no known key successfully validated the token signature";
            assert!(why.contains(known), "{name} = {wrong}: {why}");
        }
        // That of the right type is accepted.
        let right = if name == "jti" { text("id") } else { claims()[name].clone() };
        let right = if name == "nbf" { json!(now_s()) } else { right };
        login(&t, &method, &issuer.sign(&with(name, right))).await;
    }
}

/// A key of RSA for tests, which signs nothing else.
const RSA: &str = include_str!("rsa.pem");

type Sign<'a> = &'a dyn Fn(&str) -> Vec<u8>;

/// Each algorithm with its key, also in a certificate; no key is used for an algorithm of another kind.
async fn tokens_of_each_algorithm_are_accepted(t: T) {
    let t = t.with_acls(Deny);
    let rng = SystemRandom::new();
    let new = |algorithm| rcgen::KeyPair::generate_for(algorithm).expect("a key");
    let (p256, p384, ed) = (
        new(&rcgen::PKCS_ECDSA_P256_SHA256),
        new(&rcgen::PKCS_ECDSA_P384_SHA384),
        new(&rcgen::PKCS_ED25519),
    );
    let rsa = rcgen::KeyPair::from_pem(RSA).expect("a key");
    let of_rsa = RsaKeyPair::from_pkcs8(&rsa.serialize_der()).expect("a key");
    let sign_rsa = |padding: &'static dyn RsaEncoding, text: &str| {
        let mut signature = vec![0; of_rsa.public().modulus_len()];
        of_rsa.sign(padding, &rng, text.as_bytes(), &mut signature).expect("a signature");
        signature
    };
    let sign_ec = |algorithm, key: &rcgen::KeyPair, text: &str| {
        let key = EcdsaKeyPair::from_pkcs8(algorithm, &key.serialize_der(), &rng).expect("a key");
        key.sign(&rng, text.as_bytes()).expect("a signature").as_ref().to_vec()
    };
    let sign_ed = |text: &str| {
        let key = Ed25519KeyPair::from_pkcs8(&ed.serialize_der()).expect("a key");
        key.sign(text.as_bytes()).as_ref().to_vec()
    };
    let all: [(&str, &rcgen::KeyPair, Sign); 9] = [
        ("RS256", &rsa, &|text| sign_rsa(&RSA_PKCS1_SHA256, text)),
        ("RS384", &rsa, &|text| sign_rsa(&RSA_PKCS1_SHA384, text)),
        ("RS512", &rsa, &|text| sign_rsa(&RSA_PKCS1_SHA512, text)),
        ("PS256", &rsa, &|text| sign_rsa(&RSA_PSS_SHA256, text)),
        ("PS384", &rsa, &|text| sign_rsa(&RSA_PSS_SHA384, text)),
        ("PS512", &rsa, &|text| sign_rsa(&RSA_PSS_SHA512, text)),
        ("ES256", &p256, &|text| sign_ec(&ECDSA_P256_SHA256_FIXED_SIGNING, &p256, text)),
        ("ES384", &p384, &|text| sign_ec(&ECDSA_P384_SHA384_FIXED_SIGNING, &p384, text)),
        ("EdDSA", &ed, &|text| sign_ed(text)),
    ];
    for (place, (algorithm, key, sign)) in all.iter().enumerate() {
        let certificate = || {
            let parameters = rcgen::CertificateParams::new(vec!["issuer".to_owned()]);
            parameters.expect("a name").self_signed(key).expect("a certificate").pem()
        };
        let pem = if place % 2 == 0 { key.public_key_pem() } else { certificate() };
        let name = t.name(algorithm);
        let config =
            table! {"JWTValidationPubKeys" = list![pem], "BoundAudiences" = list!["consul"]};
        let method = table! {"Name" = name.as_str(), "Type" = "jwt", "Config" = config};
        t.ok("acl_auth_method_create", args![method]).await;
        bind(&t, &name, "service", "web", "").await;
        let signed = signed(algorithm, &claims());
        let token = |signature: &[u8]| format!("{signed}.{}", BASE64.encode(signature));
        login(&t, &name, &token(&sign(&signed))).await;
        for (_, _, other) in all.iter().filter(|(other, ..)| other != algorithm) {
            refused(&t, &name, &token(&other(&signed))).await;
        }
    }
    // A private key is none with which tokens are checked, also if it has the public one.
    for pem in
        [RSA, &p256.serialize_pem(), "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
    {
        let config = table! {"JWTValidationPubKeys" = list![pem]};
        let method = table! {"Name" = t.name("m"), "Type" = "jwt", "Config" = config};
        let why = t.fails("acl_auth_method_create", args![method], Kind::Http).await;
        assert!(why.message().contains("JWTValidationPubKeys[0]"), "{why}");
    }
}

async fn tokens_are_valid_for_a_time_and_an_audience(t: T) {
    let t = t.with_acls(Deny);
    let issuer = Issuer::new();
    let method = method(&t, "m", &issuer).await;
    bind(&t, &method, "service", "web", "").await;
    let now = now_s();
    let without = |names: &[&str]| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().retain(|name, _| !names.contains(&name.as_str()));
        claims
    };
    for (claims, why) in [
        (with("iss", "other"), "invalid issuer claim (iss)"),
        (with("aud", "other"), "aud claim does not match any bound audience"),
        (without(&["aud"]), "aud claim does not match any bound audience"),
        (with("exp", now - 120), "token is expired (exp)"),
        (with("nbf", now + 600), "token not valid yet (nbf)"),
        (with("iat", now + 600), "token not valid yet (nbf)"),
        (without(&["iat", "exp"]), "no issue time, notbefore, or expiration time"),
    ] {
        let said = refused(&t, &method, &issuer.sign(&claims)).await;
        assert!(said.contains(why), "{why}: {said}");
    }
    // Clocks may differ by a minute.
    for claims in [
        with("aud", json!(["x", "consul"])),
        with("exp", now - 30),
        with("nbf", now + 30),
        without(&["exp"]),
    ] {
        login(&t, &method, &issuer.sign(&claims)).await;
    }
}

async fn claims_become_text(t: T) {
    let t = t.with_acls(Deny);
    let issuer = Issuer::new();
    let method = method(&t, "m", &issuer).await;
    bind(&t, &method, "service", "t-${value.team}", "").await;
    bind(&t, &method, "service", "in-7", "\"7\" in list.groups").await;
    for (claims, wanted) in [
        (with("team", 7), vec!["t-7"]),
        (with("team", true), vec!["t-true"]),
        // Numbers are floats, and cut off.
        (with("team", 7.9), vec!["t-7"]),
        (with("team", -0.5), vec!["t-0"]),
        (with("team", 9_007_199_254_740_993_u64), vec!["t-9007199254740992"]),
        (with("groups", json!([7.5])), vec!["in-7", "t-a"]),
        (with("groups", "one"), vec!["t-a"]),
        (with("groups", json!([7])), vec!["in-7", "t-a"]),
    ] {
        let token = login(&t, &method, &issuer.sign(&claims)).await;
        let mut names = texts(token.get("ServiceIdentities").unwrap(), "ServiceName");
        names.sort_unstable();
        assert_eq!(names, wanted, "{claims}");
    }
    for (claims, why) in [
        (with("team", serde_json::Value::Null), "invalid bind name: \"t-\""),
        (with("team", "a b"), "invalid bind name: \"t-a b\""),
        (with("team", json!({})), "error converting claim 'team' to string from unknown type"),
        // The client shows no text that begins as JSON does: it could be an answer with a secret.
        (with("groups", json!({})), "Internal Server Error"),
        (with("groups", json!([[1]])), "list claim could not be parsed as string"),
    ] {
        let said = refused(&t, &method, &issuer.sign(&claims)).await;
        let differs = t.is_1_8("the text about an invalid bind name is another");
        assert!(differs || said.contains(why), "{why}: {said}");
    }
}

async fn a_logout_ends_the_token_of_a_login_alone(t: T) {
    let t = t.with_acls(Deny);
    let issuer = Issuer::new();
    let method = method(&t, "m", &issuer).await;
    bind(&t, &method, "service", "web", "").await;
    let token = login(&t, &method, &issuer.sign(&claims())).await;
    let me = t.with_token(text(&token, "SecretID"));
    me.ok("acl_token_self", args![]).await;
    me.ok("acl_logout", args![]).await;
    me.fails("acl_token_self", args![], Kind::AclNotFound).await;
    me.fails("acl_logout", args![], Kind::AclNotFound).await;
    denied(&caller(&t, "").await, "acl_logout", args![]).await;
    assert!(t.anonymous().call("acl_logout", args![]).await.is_err());
}

async fn a_token_of_a_login_stays_one(t: T) {
    let t = t.with_acls(Deny);
    let issuer = Issuer::new();
    let method = method(&t, "m", &issuer).await;
    bind(&t, &method, "service", "web", "").await;
    let token = login(&t, &method, &issuer.sign(&claims())).await;
    let accessor = text(&token, "AccessorID");
    let why = t.fails("acl_token_clone", args![accessor, table! {}], Kind::Http).await;
    assert!(why.message().contains("Cannot clone a token created from an auth method"), "{why}");
    let change = |method: &str| {
        table! {"Description" = "x", "Local" = true, "AuthMethod" = method}
    };
    let why = t.fails("acl_token_update", args![accessor, change("other")], Kind::Http).await;
    assert!(why.message().contains("Cannot change AuthMethod of"), "{why}");
    let after = t.value("acl_token_update", args![accessor, change(&method)]).await;
    assert_eq!((text(&after, "Description"), text(&after, "AuthMethod")), ("x", &*method));
    let why = t.fails("acl_token_create", args![table! {"AuthMethod" = method}], Kind::Http).await;
    assert!(why.message().contains("AuthMethod field is disallowed outside of"), "{why}");
}

async fn tokens_of_an_auth_method_expire_when_it_says(t: T) {
    let t = t.with_acls(Deny);
    let issuer = Issuer::new();
    let given = table! {
        "Name" = t.name("m"), "Type" = "jwt", "MaxTokenTTL" = "90s", "TokenLocality" = "global",
        "Config" = config(&issuer),
    };
    t.ok("acl_auth_method_create", args![given]).await;
    bind(&t, &t.name("m"), "node", "n", "").await;
    let token = login(&t, &t.name("m"), &issuer.sign(&claims())).await;
    assert_eq!(token.get("Local"), Some(&Value::Bool(false)));
    assert!(text(&token, "ExpirationTime") > text(&token, "CreateTime"));
    let nodes = token.get("NodeIdentities").unwrap();
    assert_eq!((texts(nodes, "NodeName"), texts(nodes, "Datacenter")), (vec!["n"], vec!["dc1"]));
}

async fn a_deleted_auth_method_ends_its_rules_and_tokens(t: T) {
    let t = t.with_acls(Deny);
    let issuer = Issuer::new();
    let method = method(&t, "m", &issuer).await;
    let rule = bind(&t, &method, "service", "web", "").await;
    let token = login(&t, &method, &issuer.sign(&claims())).await;
    t.ok("acl_auth_method_delete", args![method.as_str()]).await;
    t.fails("acl_binding_rule_read", args![text(&rule, "ID")], Kind::NotFound).await;
    let me = t.with_token(text(&token, "SecretID"));
    t.until("the token is deleted", async || me.call("acl_token_self", args![]).await.is_err())
        .await;
    assert!(!refused(&t, &method, &issuer.sign(&claims())).await.is_empty());
}

/// Tokens of another datacenter's method with the same name would be.
async fn local_tokens_outlive_a_method_that_became_global(t: T) {
    let t = t.with_acls(Deny);
    let issuer = Issuer::new();
    let method = method(&t, "m", &issuer).await;
    bind(&t, &method, "service", "web", "").await;
    let token = login(&t, &method, &issuer.sign(&claims())).await;
    let change = table! {"TokenLocality" = "global", "Config" = config(&issuer)};
    t.ok("acl_auth_method_update", args![method.as_str(), change]).await;
    t.ok("acl_auth_method_delete", args![method.as_str()]).await;
    let own = t.with_token(text(&token, "SecretID")).value("acl_token_self", args![]).await;
    assert_eq!(text(&own, "AuthMethod"), method);
}

async fn auth_methods_and_rules_need_permissions_for_tokens(t: T) {
    let t = t.with_acls(Deny);
    let issuer = Issuer::new();
    let method = method(&t, "m", &issuer).await;
    let rule = bind(&t, &method, "service", "web", "").await;
    let (id, nobody) = (text(&rule, "ID"), t.anonymous());
    let given = || table! {"Name" = method.as_str(), "Type" = "jwt", "Config" = config(&issuer)};
    for (call, args) in [
        ("acl_auth_method_list", args![]),
        ("acl_auth_method_read", args![method.as_str()]),
        ("acl_auth_method_create", args![given()]),
        ("acl_auth_method_update", args![method.as_str(), given()]),
        ("acl_auth_method_delete", args![method.as_str()]),
        ("acl_binding_rule_list", args![]),
        ("acl_binding_rule_read", args![id]),
        ("acl_binding_rule_delete", args![id]),
        ("acl_binding_rule_create", args![table! {"AuthMethod" = method.as_str()}]),
    ] {
        denied(&nobody, call, args).await;
    }
    let reader = caller(&t, "acl = \"read\"").await;
    reader.ok("acl_auth_method_read", args![method.as_str()]).await;
    denied(&reader, "acl_auth_method_delete", args![method]).await;
}

async fn a_list_of_auth_methods_wakes_on_a_new_one(t: T) {
    let t = t.with_acls(Deny);
    method(&t, "m", &Issuer::new()).await;
    let index = t.index("acl_auth_method_list", args![]).await;
    let wait = args![; "index" = index.to_string(), "wait" = "60s"];
    let change = async {
        pause(Duration::from_millis(200)).await;
        method(&t, "n", &Issuer::new()).await
    };
    let (answer, _) = tokio::join!(t.ok("acl_auth_method_list", wait), change);
    assert!(answer.meta.index > Some(index));
}

/// The configuration of a method that asks a Kubernetes that is not there.
fn of_kubernetes() -> Vec<(String, Value)> {
    let (authority, token) = (Authority::new("kubernetes").pem(), Issuer::new().sign(&claims()));
    let host = "https://192.0.2.42:8443".to_owned();
    let config = [("Host", host), ("CACert", authority), ("ServiceAccountJWT", token)];
    config.map(|(name, value)| (name.to_owned(), value.into())).into()
}

async fn create_of_kubernetes(t: &T, config: Vec<(String, Value)>) -> Result<Answer, Error> {
    let method = table! {
        "Name" = t.name("k"), "Type" = "kubernetes", "Config" = Value::Map(config),
    };
    t.call("acl_auth_method_create", args![method]).await
}

async fn an_auth_method_of_kubernetes_is_stored(t: T) {
    let t = t.with_acls(Deny);
    create_of_kubernetes(&t, of_kubernetes()).await.expect("it is valid");
    let found = t.value("acl_auth_method_read", args![t.name("k")]).await;
    assert_eq!(text(&found, "Type"), "kubernetes");
    assert_eq!(text(found.get("Config").unwrap(), "Host"), "https://192.0.2.42:8443");
    let all = t.value("acl_auth_method_list", args![]).await;
    let listed = all.items().iter().find(|method| text(method, "Name") == t.name("k")).unwrap();
    assert_eq!((text(listed, "Type"), listed.get("Config")), ("kubernetes", None));
    // The type stays.
    let jwt = table! {"Type" = "jwt"};
    let error = t.fails("acl_auth_method_update", args![t.name("k"), jwt], Kind::Http).await;
    assert!(error.message().contains("the Type field of an Auth Method is immutable"), "{error}");
    t.ok("acl_auth_method_delete", args![t.name("k")]).await;
}

async fn invalid_auth_methods_of_kubernetes_are_refused(t: T) {
    let t = t.with_acls(Deny);
    for (member, value, why) in [
        ("Host", "", "Invalid Auth Method: Config.Host is required"),
        ("CACert", "", "Invalid Auth Method: Config.CACert is required"),
        ("CACert", "x", "error parsing kubernetes ca cert: data does not contain any valid RSA or"),
        ("ServiceAccountJWT", "", "Invalid Auth Method: Config.ServiceAccountJWT is required"),
        ("ServiceAccountJWT", "x", "Config.ServiceAccountJWT is not a valid JWT: "),
        ("Foo", "x", "error decoding config: 1 error"),
    ] {
        let mut config = of_kubernetes();
        config.retain(|(name, _)| name != member);
        config.push((member.to_owned(), value.into()));
        let error = create_of_kubernetes(&t, config).await.expect_err(why);
        assert!(error.message().contains(why), "{member} {value}: {error}");
    }
}

async fn rules_of_kubernetes_know_the_account_of_a_service(t: T) {
    let t = t.with_acls(Deny);
    create_of_kubernetes(&t, of_kubernetes()).await.expect("it is valid");
    let (method, name) = (t.name("k"), "${serviceaccount.namespace}-${serviceaccount.name}");
    let selector = "serviceaccount.namespace == default";
    let bound = bind(&t, &method, "service", name, selector).await;
    assert_eq!(text(&bound, "BindName"), name);
    for (name, selector, why) in [
        ("${value.x}", "", "unknown variable accessed: value.x"),
        ("a", "value.x == default", "Selector is invalid: "),
    ] {
        let rule = table! {
            "AuthMethod" = method.as_str(), "BindType" = "service", "BindName" = name,
            "Selector" = selector,
        };
        let error = t.fails("acl_binding_rule_create", args![rule], Kind::Http).await;
        assert!(error.message().contains(why), "{error}");
    }
    // A token that is not a JWT is refused before Kubernetes is asked.
    let why = refused(&t, &method, "x").await;
    assert!(why.contains("failed to parse and validate JWT: "), "{why}");
    t.ok("acl_auth_method_delete", args![method]).await;
}
