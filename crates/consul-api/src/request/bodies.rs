//! The durations and lists of Consul's bodies: what its structs have, compared with what the rows do.

use super::tests::good;
use super::{Args, Defaults, Request};
use crate::error::Error;
use crate::table::{FreeForm, Shape};
use crate::value::Value;
use crate::{endpoint, endpoints};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

/// The fields of a body that some rows send. In their paths `[]` is an item of a list, and `{}` a member that the
/// program names.
struct Body {
    rows: &'static [&'static str],
    /// The subject of the body; of an entry its kind.
    kind: &'static str,
    /// Durations that Consul reads as a text.
    durations: &'static str,
    /// Those that it reads as a number of nanoseconds.
    nanoseconds: &'static str,
    lists: &'static str,
    /// Tables with the name of a list.
    tables: &'static str,
}

const NOTHING: Body =
    Body { rows: &[], kind: "", durations: "", nanoseconds: "", lists: "", tables: "" };

/// Written down from the structs of Consul 1.21.0 in its folders api and agent/structs; of auth methods also those in
/// agent/consul/authmethod. `RotationPeriod` is of 1.8.7, the coordinate is Serf's. Fields of a row without free tables
/// that the row does not have are refused, and not here.
const BODIES: &[Body] = &[
    Body {
        rows: &["config_write"],
        kind: "service-defaults",
        durations: "\
            UpstreamConfig.Defaults.PassiveHealthCheck.BaseEjectionTime \
            UpstreamConfig.Defaults.PassiveHealthCheck.Interval \
            UpstreamConfig.Overrides[].PassiveHealthCheck.BaseEjectionTime \
            UpstreamConfig.Overrides[].PassiveHealthCheck.Interval",
        lists: "\
            Destination.Addresses EnvoyExtensions Expose.Paths RateLimits.InstanceLevel.Routes \
            UpstreamConfig.Overrides",
        ..NOTHING
    },
    Body {
        rows: &["config_write"],
        kind: "proxy-defaults",
        lists: "EnvoyExtensions Expose.Paths FailoverPolicy.Regions",
        ..NOTHING
    },
    Body {
        rows: &["config_write"],
        kind: "service-router",
        durations: "Routes[].Destination.IdleTimeout Routes[].Destination.RequestTimeout",
        lists: "\
            Routes Routes[].Destination.RequestHeaders.Remove \
            Routes[].Destination.ResponseHeaders.Remove Routes[].Destination.RetryOn \
            Routes[].Destination.RetryOnStatusCodes Routes[].Match.HTTP.Header \
            Routes[].Match.HTTP.Methods Routes[].Match.HTTP.QueryParam",
        ..NOTHING
    },
    Body {
        rows: &["config_write"],
        kind: "service-splitter",
        lists: "Splits Splits[].RequestHeaders.Remove Splits[].ResponseHeaders.Remove",
        ..NOTHING
    },
    Body {
        rows: &["config_write"],
        kind: "service-resolver",
        durations: "ConnectTimeout LoadBalancer.HashPolicies[].CookieConfig.TTL RequestTimeout",
        lists: "\
            Failover{}.Datacenters Failover{}.Policy.Regions Failover{}.Targets \
            LoadBalancer.HashPolicies",
        ..NOTHING
    },
    Body {
        rows: &["config_write"],
        kind: "ingress-gateway",
        durations: "\
            Defaults.PassiveHealthCheck.BaseEjectionTime Defaults.PassiveHealthCheck.Interval \
            Listeners[].Services[].PassiveHealthCheck.BaseEjectionTime \
            Listeners[].Services[].PassiveHealthCheck.Interval",
        lists: "\
            Listeners Listeners[].Services Listeners[].Services[].Hosts \
            Listeners[].Services[].RequestHeaders.Remove \
            Listeners[].Services[].ResponseHeaders.Remove Listeners[].TLS.CipherSuites \
            TLS.CipherSuites",
        ..NOTHING
    },
    Body { rows: &["config_write"], kind: "terminating-gateway", lists: "Services", ..NOTHING },
    Body {
        rows: &["config_write"],
        kind: "service-intentions",
        lists: "\
            JWT.Providers JWT.Providers[].VerifyClaims JWT.Providers[].VerifyClaims[].Path \
            Sources Sources[].Permissions Sources[].Permissions[].HTTP.Header \
            Sources[].Permissions[].HTTP.Methods Sources[].Permissions[].JWT.Providers \
            Sources[].Permissions[].JWT.Providers[].VerifyClaims \
            Sources[].Permissions[].JWT.Providers[].VerifyClaims[].Path",
        ..NOTHING
    },
    Body {
        rows: &["config_write"],
        kind: "mesh",
        lists: "TLS.Incoming.CipherSuites TLS.Outgoing.CipherSuites",
        ..NOTHING
    },
    Body {
        rows: &["config_write"],
        kind: "exported-services",
        lists: "Services Services[].Consumers",
        ..NOTHING
    },
    Body { rows: &["config_write"], kind: "sameness-group", lists: "Members", ..NOTHING },
    Body {
        rows: &["config_write"],
        kind: "api-gateway",
        lists: "\
            Listeners Listeners[].Default.JWT.Providers \
            Listeners[].Default.JWT.Providers[].VerifyClaims \
            Listeners[].Default.JWT.Providers[].VerifyClaims[].Path \
            Listeners[].Override.JWT.Providers Listeners[].Override.JWT.Providers[].VerifyClaims \
            Listeners[].Override.JWT.Providers[].VerifyClaims[].Path \
            Listeners[].TLS.Certificates Listeners[].TLS.CipherSuites Status.Conditions",
        ..NOTHING
    },
    Body { rows: &["config_write"], kind: "inline-certificate", ..NOTHING },
    Body { rows: &["config_write"], kind: "file-system-certificate", ..NOTHING },
    Body {
        rows: &["config_write"],
        kind: "http-route",
        durations: "\
            Rules[].Filters.TimeoutFilter.IdleTimeout \
            Rules[].Filters.TimeoutFilter.RequestTimeout \
            Rules[].Services[].Filters.TimeoutFilter.IdleTimeout \
            Rules[].Services[].Filters.TimeoutFilter.RequestTimeout",
        lists: "\
            Hostnames Parents Rules Rules[].Filters.Headers Rules[].Filters.Headers[].Remove \
            Rules[].Filters.JWT.Providers Rules[].Filters.JWT.Providers[].VerifyClaims \
            Rules[].Filters.JWT.Providers[].VerifyClaims[].Path \
            Rules[].Filters.RetryFilter.RetryOn Rules[].Filters.RetryFilter.RetryOnStatusCodes \
            Rules[].Matches Rules[].Matches[].Headers Rules[].Matches[].Query \
            Rules[].ResponseFilters.Headers Rules[].ResponseFilters.Headers[].Remove \
            Rules[].Services Rules[].Services[].Filters.Headers \
            Rules[].Services[].Filters.Headers[].Remove Rules[].Services[].Filters.JWT.Providers \
            Rules[].Services[].Filters.JWT.Providers[].VerifyClaims \
            Rules[].Services[].Filters.JWT.Providers[].VerifyClaims[].Path \
            Rules[].Services[].Filters.RetryFilter.RetryOn \
            Rules[].Services[].Filters.RetryFilter.RetryOnStatusCodes \
            Rules[].Services[].ResponseFilters.Headers \
            Rules[].Services[].ResponseFilters.Headers[].Remove Status.Conditions",
        tables: "Rules[].Matches[].Path",
        ..NOTHING
    },
    Body {
        rows: &["config_write"],
        kind: "tcp-route",
        lists: "Parents Services Status.Conditions",
        ..NOTHING
    },
    Body {
        rows: &["config_write"],
        kind: "jwt-provider",
        durations: "\
            JSONWebKeySet.Remote.CacheDuration JSONWebKeySet.Remote.JWKSCluster.ConnectTimeout \
            JSONWebKeySet.Remote.RetryPolicy.RetryPolicyBackOff.BaseInterval \
            JSONWebKeySet.Remote.RetryPolicy.RetryPolicyBackOff.MaxInterval",
        lists: "Audiences Locations",
        tables: "Locations[].Header Locations[].QueryParam",
        ..NOTHING
    },
    Body { rows: &["config_write"], kind: "control-plane-request-limit", ..NOTHING },
    Body {
        rows: &["agent_service_register"],
        kind: "a service",
        durations: "\
            Check.DeregisterCriticalServiceAfter Check.Interval Check.TTL Check.Timeout \
            Checks[].DeregisterCriticalServiceAfter Checks[].Interval Checks[].TTL \
            Checks[].Timeout Connect.SidecarService.Check.DeregisterCriticalServiceAfter \
            Connect.SidecarService.Check.Interval Connect.SidecarService.Check.TTL \
            Connect.SidecarService.Check.Timeout \
            Connect.SidecarService.Checks[].DeregisterCriticalServiceAfter \
            Connect.SidecarService.Checks[].Interval Connect.SidecarService.Checks[].TTL \
            Connect.SidecarService.Checks[].Timeout \
            Connect.SidecarService.Proxy.Upstreams[].Config.passive_health_check.base_ejection_time \
            Connect.SidecarService.Proxy.Upstreams[].Config.passive_health_check.interval \
            Proxy.Upstreams[].Config.passive_health_check.base_ejection_time \
            Proxy.Upstreams[].Config.passive_health_check.interval",
        lists: "\
            Check.Args Check.Header{} Checks Checks[].Args Checks[].Header{} \
            Connect.PeerMeta.SNI Connect.PeerMeta.SpiffeID Connect.SidecarService.Check.Header{} \
            Connect.SidecarService.Check.ScriptArgs Connect.SidecarService.Checks \
            Connect.SidecarService.Checks[].Header{} Connect.SidecarService.Checks[].ScriptArgs \
            Connect.SidecarService.Proxy.EnvoyExtensions \
            Connect.SidecarService.Proxy.Expose.Paths Connect.SidecarService.Proxy.Upstreams \
            Connect.SidecarService.Tags Proxy.EnvoyExtensions Proxy.Expose.Paths Proxy.Upstreams \
            Tags",
        tables: "\
            Check.Header Checks[].Header Connect.SidecarService.Check.Header \
            Connect.SidecarService.Checks[].Header",
        ..NOTHING
    },
    Body {
        rows: &["agent_check_register"],
        kind: "a check",
        durations: "DeregisterCriticalServiceAfter Interval TTL Timeout",
        lists: "Args Header{}",
        tables: "Header",
        ..NOTHING
    },
    Body {
        rows: &["catalog_register"],
        kind: "a node",
        durations: "\
            Check.Definition.DeregisterCriticalServiceAfter Check.Definition.Interval \
            Check.Definition.TTL Check.Definition.Timeout \
            Checks[].Definition.DeregisterCriticalServiceAfter Checks[].Definition.Interval \
            Checks[].Definition.TTL Checks[].Definition.Timeout \
            Service.Proxy.Upstreams[].Config.PassiveHealthCheck.BaseEjectionTime \
            Service.Proxy.Upstreams[].Config.PassiveHealthCheck.Interval",
        lists: "\
            Check.Definition.Header{} Check.Definition.ScriptArgs Checks \
            Checks[].Definition.Header{} Checks[].Definition.ScriptArgs Service.Tags \
            Check.ServiceTags Checks[].ServiceTags Service.Proxy.EnvoyExtensions \
            Service.Proxy.Expose.Paths Service.Proxy.Upstreams Service.Connect.PeerMeta.SNI \
            Service.Connect.PeerMeta.SpiffeID",
        tables: "Check.Definition.Header Checks[].Definition.Header",
        ..NOTHING
    },
    Body {
        rows: &["txn"],
        kind: "operations",
        durations: "\
            [].Check.Check.Definition.DeregisterCriticalServiceAfter \
            [].Check.Check.Definition.Interval [].Check.Check.Definition.TTL \
            [].Check.Check.Definition.Timeout \
            [].Service.Service.Proxy.Upstreams[].Config.PassiveHealthCheck.BaseEjectionTime \
            [].Service.Service.Proxy.Upstreams[].Config.PassiveHealthCheck.Interval",
        lists: "\
            [].Check.Check.Definition.Header{} [].Check.Check.Definition.ScriptArgs \
            [].Check.Check.ServiceTags [].Service.Service.Proxy.EnvoyExtensions \
            [].Service.Service.Proxy.Expose.Paths [].Service.Service.Proxy.Upstreams \
            [].Service.Service.Tags",
        tables: "[].Check.Check.Definition.Header",
        ..NOTHING
    },
    Body {
        rows: &["query_create", "query_update"],
        kind: "a query",
        durations: "DNS.TTL",
        lists: "\
            Service.Failover.Datacenters Service.Failover.Targets Service.IgnoreCheckIDs \
            Service.Tags",
        ..NOTHING
    },
    Body {
        rows: &["connect_intention_create", "connect_intention_update", "connect_intention_upsert"],
        kind: "an intention",
        lists: "\
            JWT.Providers JWT.Providers[].VerifyClaims JWT.Providers[].VerifyClaims[].Path \
            Permissions Permissions[].HTTP.Header Permissions[].HTTP.Methods \
            Permissions[].JWT.Providers Permissions[].JWT.Providers[].VerifyClaims \
            Permissions[].JWT.Providers[].VerifyClaims[].Path",
        ..NOTHING
    },
    Body {
        rows: &["connect_ca_configuration_update"],
        kind: "a certificate authority",
        durations: "\
            Config.IntermediateCertTTL Config.LeafCertTTL Config.RootCertTTL \
            Config.RotationPeriod",
        ..NOTHING
    },
    Body {
        rows: &["operator_autopilot_configuration_update"],
        kind: "autopilot",
        durations: "LastContactThreshold ServerStabilizationTime",
        ..NOTHING
    },
    Body {
        rows: &["acl_token_create", "acl_token_update"],
        kind: "a token",
        durations: "ExpirationTTL",
        lists: "\
            NodeIdentities Policies Roles ServiceIdentities ServiceIdentities[].Datacenters \
            TemplatedPolicies TemplatedPolicies[].Datacenters",
        ..NOTHING
    },
    Body {
        rows: &["acl_policy_create", "acl_policy_update"],
        kind: "a policy",
        lists: "Datacenters",
        ..NOTHING
    },
    Body {
        rows: &["acl_role_create", "acl_role_update"],
        kind: "a role",
        lists: "\
            NodeIdentities Policies ServiceIdentities ServiceIdentities[].Datacenters \
            TemplatedPolicies TemplatedPolicies[].Datacenters",
        ..NOTHING
    },
    Body {
        rows: &["acl_binding_rule_create", "acl_binding_rule_update"],
        kind: "a binding rule",
        ..NOTHING
    },
    Body {
        rows: &["acl_auth_method_create", "acl_auth_method_update"],
        kind: "an auth method",
        durations: "MaxTokenTTL",
        nanoseconds: "Config.ClockSkewLeeway Config.ExpirationLeeway Config.NotBeforeLeeway",
        lists: "\
            Config.AllowedRedirectURIs Config.AllowedSTSHeaderValues Config.BoundAudiences \
            Config.BoundIAMPrincipalARNs Config.IAMEntityTags Config.JWTSupportedAlgs \
            Config.JWTValidationPubKeys Config.OIDCACRValues Config.OIDCScopes NamespaceRules",
        ..NOTHING
    },
    Body {
        rows: &["namespace_create", "namespace_update", "partition_create", "partition_update"],
        kind: "a namespace or a partition, which has no lists",
        lists: "ACLs.PolicyDefaults ACLs.RoleDefaults",
        ..NOTHING
    },
    Body { rows: &["coordinate_update"], kind: "a coordinate", lists: "Coord.Vec", ..NOTHING },
    Body {
        rows: &["session_create"],
        kind: "a session",
        durations: "LockDelay TTL",
        lists: "Checks NodeChecks ServiceChecks",
        ..NOTHING
    },
];

/// The row that sends the body, and the place of the body among its arguments.
fn sender(row: &str) -> (&'static crate::table::Endpoint, usize) {
    let row = endpoint(row).expect("a row");
    let is_table =
        |shape: &Shape| matches!(shape, Shape::Object(_) | Shape::Objects(_) | Shape::Free(_));
    let place = row.positional.iter().position(|param| is_table(&param.kind));
    (row, place.expect("a row with a body"))
}

/// The names in a path, and `[]` for each item.
fn names(path: &str) -> Vec<String> {
    let path = path.replace("[]", ".[]").replace("{}", ".my_own");
    path.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The request of a row with a value at this path of its body.
pub(super) fn request(row: &str, path: &str, value: Value) -> Result<Request, Error> {
    let body = names(path).iter().rev().fold(value, |value, name| match &**name {
        "[]" => Value::List(vec![value]),
        _ => Value::Map(vec![(name.clone(), value)]),
    });
    let (row, place) = sender(row);
    let args =
        row.positional.iter().enumerate().filter(|(at, param)| *at <= place || !param.optional);
    let args = args.fold(Args::new(), |args, (at, param)| {
        args.arg(if at == place { body.clone() } else { good(&param.kind) })
    });
    row.request(&args, &Defaults::default())
}

/// The value that the row sends at this path for a value there.
fn sent(row: &str, path: &str, value: Value) -> Json {
    let request = request(row, path, value).expect(path);
    let sent: Json = serde_json::from_slice(request.http.body()).expect("JSON");
    names(path).iter().fold(sent, |sent, name| match &**name {
        "[]" => sent[0].clone(),
        _ => sent[name].clone(),
    })
}

#[test]
fn each_duration_and_each_list_of_consul_is_one() {
    let empty = || Value::Map(Vec::new());
    let mut wrong = Vec::new();
    for body in BODIES {
        for row in body.rows {
            for (paths, given, wanted) in [
                (body.durations, Value::Int(30), json!("30s")),
                (body.durations, Value::Float(10.5), json!("10500ms")),
                (body.durations, "30s".into(), json!("30s")),
                (body.nanoseconds, Value::Int(30), json!(30_000_000_000_u64)),
                (body.lists, empty(), json!([])),
                (body.tables, empty(), json!({})),
            ] {
                for path in paths.split_whitespace() {
                    let sent = sent(row, path, given.clone());
                    if sent != wanted {
                        wrong.push(format!("{row} {} {path}: {sent}", body.kind));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} fields:\n{}", wrong.len(), wrong.join("\n"));
}

/// The durations that Consul answers with as numbers of nanoseconds, with their tables.
///
/// Recorded on 1.8.7 and 1.21.0. An upstream's are kept as they were written.
const ANSWERED_IN_NANOSECONDS: &[&str] = &[
    "CookieConfig.TTL",
    "Definition.TTL",
    "JWKSCluster.ConnectTimeout",
    "PassiveHealthCheck.BaseEjectionTime",
    "PassiveHealthCheck.Interval",
    "Remote.CacheDuration",
    "RetryPolicyBackOff.BaseInterval",
    "RetryPolicyBackOff.MaxInterval",
    "TimeoutFilter.IdleTimeout",
    "TimeoutFilter.RequestTimeout",
];

#[test]
fn in_what_was_read_a_number_is_in_nanoseconds_where_consul_answers_with_them() {
    let (mut used, mut wrong) = (BTreeSet::<&str>::new(), Vec::new());
    for body in BODIES {
        // The tables of the others with durations are not free, or do not belong to an answer.
        let rows = body.rows.iter().filter(|row| {
            ["config_write", "catalog_register", "txn", "query_create"].contains(row)
        });
        for (row, path) in
            rows.flat_map(|row| body.durations.split_whitespace().map(move |path| (row, path)))
        {
            let known = ANSWERED_IN_NANOSECONDS.iter().find(|known| path.ends_with(**known));
            used.extend(known);
            let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
            let read = |number: f64| {
                let members = [(name.to_owned(), number.into()), ("CreateIndex".into(), 7.into())];
                let request = request(row, table, Value::Map(members.into()))?;
                let sent: Json = serde_json::from_slice(request.http.body()).expect("JSON");
                let at = |sent: Json, name: &String| match &**name {
                    "[]" => sent[0].clone(),
                    _ => sent[name].clone(),
                };
                Ok::<_, Error>(names(path).iter().fold(sent, at))
            };
            let is_good = match known {
                Some(_) => read(7e9).is_ok_and(|it| it == json!(7e9)) && read(1e6).is_err(),
                None => read(1e6).is_ok_and(|it| it == json!("1000000s")),
            };
            if !is_good || !read(30.0).is_ok_and(|it| it == json!("30s")) {
                wrong.push(format!("{row} {} {path}: {:?}", body.kind, read(1e6)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} fields:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(used.len(), ANSWERED_IN_NANOSECONDS.len(), "{used:?}");
}

/// The forms of the free tables in a shape.
fn forms(shape: &Shape) -> Vec<&'static FreeForm> {
    match shape {
        Shape::Free(form) => vec![*form],
        Shape::Object(fields) | Shape::Objects(fields) | Shape::ObjectMap(fields) => {
            fields.iter().flat_map(|field| forms(&field.kind)).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn a_free_table_has_no_durations_or_lists_that_consul_has_not() {
    for row in endpoints() {
        for form in row.positional.iter().flat_map(|param| forms(&param.kind)) {
            let mut bodies = BODIES.iter().filter(|body| body.rows.contains(&row.name)).peekable();
            assert!(bodies.peek().is_some(), "{} sends a body that is not here", row.name);
            let mut known = BTreeSet::new();
            for body in bodies {
                for path in
                    [body.durations, body.nanoseconds, body.lists].map(str::split_whitespace)
                {
                    known.extend(path.map(|path| match path.strip_suffix("{}") {
                        Some(path) => format!("{}.*", last_name(path)),
                        None => last_name(path).to_lowercase().replace('_', ""),
                    }));
                }
            }
            for name in form.durations.iter().chain(form.nanoseconds).chain(form.lists) {
                let own = name.rsplit_once('.').map_or(*name, |(_, own)| own);
                let is_known = known.contains(*name) || known.contains(&own.to_lowercase());
                assert!(is_known, "{} {name}", row.name);
            }
        }
    }
}

fn last_name(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, name)| name)
}

#[test]
fn what_a_proxy_reads_by_itself_is_sent_as_it_is() {
    for row in endpoints() {
        for form in row.positional.iter().flat_map(|param| forms(&param.kind)) {
            for (kept, own) in form.kept.iter().flat_map(|kept| {
                form.durations.iter().chain(form.lists).map(move |own| (kept, own))
            }) {
                let given = json!({*kept: {*own: 90, "x": {*own: {}}}});
                let at = crate::value::shape::ValuePath::top("body");
                let sent = form.json(&Value::from(given.clone()), &at).expect(own);
                assert_eq!(sent, given, "{} {own}", row.name);
            }
        }
    }
}

/// Consul keeps these names as they are given, and reads its own spelling alone.
#[test]
fn a_configuration_that_consul_keeps_has_its_spelling_of_each_name() {
    let authority = [
        ("leaf_cert_ttl", "LeafCertTTL"),
        ("root_cert_ttl", "RootCertTTL"),
        ("intermediate_cert_ttl", "IntermediateCertTTL"),
        ("csr_max_per_second", "CSRMaxPerSecond"),
        ("csr_max_concurrent", "CSRMaxConcurrent"),
        ("private_key_type", "PrivateKeyType"),
        ("private_key_bits", "PrivateKeyBits"),
        ("skip_validate", "SkipValidate"),
        ("root_pki_path", "RootPKIPath"),
        ("root_pki_namespace", "RootPKINamespace"),
        ("intermediate_pki_path", "IntermediatePKIPath"),
        ("intermediate_pki_namespace", "IntermediatePKINamespace"),
        ("ca_file", "CAFile"),
        ("ca_path", "CAPath"),
        ("tls_server_name", "TLSServerName"),
        ("tls_skip_verify", "TLSSkipVerify"),
        ("existing_arn", "ExistingARN"),
        ("LeafCertTTL", "LeafCertTTL"),
        ("a_b", "AB"),
    ];
    let method = [
        ("service_account_jwt", "ServiceAccountJWT"),
        ("ca_cert", "CACert"),
        ("bound_iam_principal_arns", "BoundIAMPrincipalARNs"),
        ("enable_iam_entity_details", "EnableIAMEntityDetails"),
        ("iam_entity_tags", "IAMEntityTags"),
        ("server_id_header_value", "ServerIDHeaderValue"),
        ("iam_endpoint", "IAMEndpoint"),
        ("sts_endpoint", "STSEndpoint"),
        ("sts_region", "STSRegion"),
        ("allowed_sts_header_values", "AllowedSTSHeaderValues"),
        ("jwt_supported_algs", "JWTSupportedAlgs"),
        ("bound_audiences", "BoundAudiences"),
        ("oidc_discovery_url", "OIDCDiscoveryURL"),
        ("oidc_discovery_ca_cert", "OIDCDiscoveryCACert"),
        ("oidc_client_id", "OIDCClientID"),
        ("oidc_client_secret", "OIDCClientSecret"),
        ("oidc_scopes", "OIDCScopes"),
        ("oidc_acr_values", "OIDCACRValues"),
        ("allowed_redirect_uris", "AllowedRedirectURIs"),
        ("verbose_oidc_logging", "VerboseOIDCLogging"),
        ("jwks_url", "JWKSURL"),
        ("jwks_ca_cert", "JWKSCACert"),
        ("jwt_validation_pub_keys", "JWTValidationPubKeys"),
        ("bound_issuer", "BoundIssuer"),
    ];
    let mut wrong = Vec::new();
    for (rows, names) in [
        (&["connect_ca_configuration_update"][..], &authority[..]),
        (&["acl_auth_method_create", "acl_auth_method_update"], &method),
    ] {
        for (row, (given, wanted)) in
            rows.iter().flat_map(|row| names.iter().map(move |it| (row, it)))
        {
            let request = request(row, &format!("Config.{given}"), "1h".into()).expect(given);
            let sent: Json = serde_json::from_slice(request.http.body()).expect("JSON");
            if sent["Config"] != json!({*wanted: "1h"}) {
                wrong.push(format!("{row} {given}: {sent}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A table of the program's own.
    let claims = request("acl_auth_method_create", "Config.ClaimMappings.ca_cert", "x".into());
    let sent: Json = serde_json::from_slice(claims.expect("a request").http.body()).expect("JSON");
    assert_eq!(sent["Config"]["ClaimMappings"], json!({"ca_cert": "x"}));
}
