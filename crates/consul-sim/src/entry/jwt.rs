//! Providers of JSON web tokens: their members, and what Consul refuses.

use super::kinds::INTENTIONS;
use super::routes::member;
use super::shape::{Member as M, Shape, errors};
use super::table::EntryTable;
use crate::go;
use crate::http::decode::Json;
use crate::txn::decode_base64;

pub(super) static PROVIDER: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name"),
    M::optional(
        "JSONWebKeySet",
        &Shape(&[
            M::optional("Local", &Shape(&[M::text("JWKS"), M::text("Filename")])),
            M::optional("Remote", &REMOTE),
        ]),
    ),
    M::text("Issuer"),
    M::plain("Audiences"),
    M::list(
        "Locations",
        &Shape(&[
            M::optional(
                "Header",
                &Shape(&[M::text("Name"), M::text("ValuePrefix"), M::flag("Forward")]),
            ),
            M::optional("QueryParam", &Shape(&[M::text("Name")])),
            M::optional("Cookie", &Shape(&[M::text("Name")])),
        ]),
    ),
    M::optional(
        "Forwarding",
        &Shape(&[M::text("HeaderName"), M::flag("PadForwardPayloadHeader").always()]),
    ),
    M::count("ClockSkewSeconds").always(),
    M::optional("CacheConfig", &Shape(&[M::count("Size")])),
    M::texts("Meta"),
]);

static REMOTE: Shape = Shape(&[
    M::text("URI"),
    M::count("RequestTimeoutMs"),
    M::nanos("CacheDuration"),
    M::flag("FetchAsynchronously"),
    M::flag("UseSNI"),
    M::optional(
        "RetryPolicy",
        &Shape(&[
            M::count("NumRetries"),
            M::optional(
                "RetryPolicyBackOff",
                &Shape(&[M::nanos("BaseInterval"), M::nanos("MaxInterval")]),
            ),
        ]),
    ),
    M::optional(
        "JWKSCluster",
        &Shape(&[
            M::text("DiscoveryType"),
            M::optional("TLSCertificates", &TLS_CERTIFICATES),
            M::nanos("ConnectTimeout"),
        ]),
    ),
]);

static TLS_CERTIFICATES: Shape = Shape(&[
    M::optional(
        "CaCertificateProviderInstance",
        &Shape(&[M::text("InstanceName"), M::text("CertificateName")]),
    ),
    M::optional("TrustedCA", &Shape(&TRUSTED)),
]);

const TRUSTED: [M; 4] = [
    M::text("Filename"),
    M::text("EnvironmentVariable"),
    M::text("InlineString"),
    M::bytes("InlineBytes"),
];

/// How many seconds the clocks of others may differ, by default.
const CLOCK_SKEW: i64 = 30;

/// A provider with what Consul adds.
pub(super) fn completed(mut entry: Json) -> Json {
    if let Some(skew) = member(&mut entry, "ClockSkewSeconds")
        && skew.as_int() == 0
    {
        *skew = Json::Number(CLOCK_SKEW.into());
    }
    entry
}

fn has(object: &Json, name: &str) -> bool {
    !matches!(object.at(name), Json::Null)
}

pub(super) fn check(entry: &Json) -> Result<(), String> {
    let keys = entry.at("JSONWebKeySet");
    let refuse = |why: &str| Err(why.to_owned());
    if !has(entry, "JSONWebKeySet") {
        return refuse("JSONWebKeySet is required");
    }
    match (has(keys, "Local"), has(keys, "Remote")) {
        (false, true) => check_remote(keys.at("Remote"))?,
        (true, false) => check_local(keys.at("Local"))?,
        _ => return refuse("must specify exactly one of Local or Remote JSON Web key set"),
    }
    let wrong: Vec<String> = entry
        .at("Locations")
        .items()
        .iter()
        .filter_map(wrong_location)
        .map(str::to_owned)
        .collect();
    errors(&wrong)?;
    let forwarding = entry.at("Forwarding");
    match has(entry, "Forwarding") && forwarding.at("HeaderName").as_text().is_empty() {
        true => refuse("Header name required for forwarding config"),
        false => Ok(()),
    }
}

fn check_local(keys: &Json) -> Result<(), String> {
    let (text, file) = (keys.at("JWKS").as_text(), keys.at("Filename").as_text());
    if text.is_empty() == file.is_empty() {
        return Err("must specify exactly one of String or filename for local keyset".to_owned());
    }
    match decode_base64(text) {
        Ok(_) => Ok(()),
        Err(_) => Err("JWKS must be valid base64 encoded string".to_owned()),
    }
}

fn check_remote(keys: &Json) -> Result<(), String> {
    let uri = keys.at("URI").as_text();
    if uri.is_empty() {
        return Err("Remote JWKS URI is required".to_owned());
    }
    if !uri.starts_with('/') && !has_scheme(uri) {
        let why = match uri.starts_with(':') {
            true => "missing protocol scheme",
            false => "invalid URI for request",
        };
        let quoted = go::quoted(uri);
        return Err(format!("Remote JWKS URI is invalid: parse {quoted}: {why}, uri: {uri}"));
    }
    let pause = keys.at("RetryPolicy").at("RetryPolicyBackOff");
    let (base, most) = (pause.at("BaseInterval").as_int(), pause.at("MaxInterval").as_int());
    if most != 0 && base > most {
        return Err(
            "retry policy backoff's MaxInterval should be greater or equal to BaseInterval"
                .to_owned(),
        );
    }
    let cluster = keys.at("JWKSCluster");
    let discovery = cluster.at("DiscoveryType").as_text();
    if !["", "STRICT_DNS", "STATIC", "LOGICAL_DNS", "EDS", "ORIGINAL_DST"].contains(&discovery) {
        let quoted = go::quoted(discovery);
        return Err(format!("unsupported jwks cluster discovery type: {quoted}"));
    }
    let certificates = cluster.at("TLSCertificates");
    if !has(cluster, "TLSCertificates") {
        return Ok(());
    }
    let trusted = certificates.at("TrustedCA");
    if has(certificates, "CaCertificateProviderInstance") == has(certificates, "TrustedCA") {
        return Err("must specify exactly one of: CaCertificateProviderInstance or TrustedCA for \
                    JKWS' TLSCertificates"
            .to_owned());
    }
    let given = TRUSTED.iter().filter(|member| has(trusted, member.name)).count();
    match has(certificates, "TrustedCA") && given != 1 {
        true => Err("must specify exactly one of: Filename, EnvironmentVariable, InlineString or \
                     InlineBytes for JWKS' TrustedCA"
            .to_owned()),
        false => Ok(()),
    }
}

/// Whether a text begins with the scheme of a URI (RFC 3986).
fn has_scheme(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

/// Why a location of a token is refused.
fn wrong_location(location: &Json) -> Option<&'static str> {
    let kinds = [
        ("Header", "JWT location header name must be specified"),
        ("QueryParam", "JWT location query param name must be specified"),
        ("Cookie", "JWT location cookie name must be specified"),
    ];
    let given: Vec<_> = kinds.iter().filter(|(kind, _)| has(location, kind)).collect();
    match given.as_slice() {
        [(kind, why)] => location.at(kind).at("Name").as_text().is_empty().then_some(why),
        _ => Some("must set exactly one of: JWT location header, query param or cookie"),
    }
}

/// The providers that an intention and its permissions name.
pub(super) fn required_by(intention: &Json) -> impl Iterator<Item = &Json> {
    let sources = intention.at("Sources").items().iter();
    let permissions = sources.flat_map(|source| source.at("Permissions").items());
    let all = std::iter::once(intention).chain(permissions);
    all.flat_map(|object| object.at("JWT").at("Providers").items())
}

/// Refuses to delete a provider that an intention names.
pub(super) fn check_unused(name: &str, entries: &EntryTable) -> Result<(), String> {
    for (intention, entry) in entries.of_kind(INTENTIONS) {
        if required_by(&entry.body).any(|provider| provider.at("Name").as_text() == name) {
            return Err(format!(
                "cannot delete jwt provider config entry referenced by an intention. Provider name: \
                 {name}, intention name: {intention}"
            ));
        }
    }
    Ok(())
}
