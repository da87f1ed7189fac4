//! The spelling of Consul's names where it keeps them as they are given, and reads another spelling beside them.

use super::Value;
use super::shape::same_name;
use crate::table::FreeForm;

/// Names in snake_case whose words differ from the words of camel case.
///
/// Source: `CommonCAProviderConfig` and the providers' configurations in Consul's file agent/structs/connect_ca.go, the
/// types `Config` in its folder agent/consul/authmethod, and `OIDCAuthMethodConfig` in its folder api.
const NAMES: &[&str] = &[
    // Of certificate authorities.
    "CAFile",
    "CAPath",
    "CSRMaxConcurrent",
    "CSRMaxPerSecond",
    "ExistingARN",
    "IntermediateCertTTL",
    "IntermediatePKINamespace",
    "IntermediatePKIPath",
    "LeafCertTTL",
    "RootCertTTL",
    "RootPKINamespace",
    "RootPKIPath",
    "TLSServerName",
    "TLSSkipVerify",
    // Of auth methods.
    "AllowedRedirectURIs",
    "AllowedSTSHeaderValues",
    "BoundIAMPrincipalARNs",
    "CACert",
    "EnableIAMEntityDetails",
    "IAMEndpoint",
    "IAMEntityTags",
    "JWKSCACert",
    "JWKSURL",
    "JWTSupportedAlgs",
    "JWTValidationPubKeys",
    "OIDCACRValues",
    "OIDCClientID",
    "OIDCClientSecret",
    "OIDCDiscoveryCACert",
    "OIDCDiscoveryURL",
    "OIDCScopes",
    "STSEndpoint",
    "STSRegion",
    "ServerIDHeaderValue",
    "ServiceAccountJWT",
    "VerboseOIDCLogging",
];

/// The value with Consul's spelling of these names, but in the tables that the form sends as they are.
pub fn spelled(value: &Value, form: &FreeForm) -> Value {
    match value {
        Value::List(items) => Value::List(items.iter().map(|it| spelled(it, form)).collect()),
        Value::Map(members) => {
            let member = |(given, member): &(String, Value)| {
                let is = |known: &[&str]| known.iter().any(|known| same_name(known, given));
                let member = match is(form.kept) || is(form.opaque) || is(form.by_name) {
                    true => member.clone(),
                    false => spelled(member, form),
                };
                let known = if given.contains('_') { NAMES } else { &[] };
                let name = known.iter().find(|known| same_name(known, given));
                (name.map_or_else(|| given.clone(), |name| (*name).to_owned()), member)
            };
            Value::Map(members.iter().map(member).collect())
        }
        scalar => scalar.clone(),
    }
}
