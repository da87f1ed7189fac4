//! Auth methods of type `jwt` with fixed public keys.

use crate::go;
use crate::http::decode::{GoType, Json, Object};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;
use std::fmt;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The leeways that Consul has by default, in seconds: for clocks, and for the ends of tokens that have no time of
/// their own for it. Source: "JWT Auth Method" in Consul's documentation.
const SKEW_S: i64 = 60;
const LEEWAY_S: i64 = 150;

const NANOS: i64 = 1_000_000_000;

/// The fields of `Config` that a method of this type knows.
const KNOWN: &[&str] = &[
    "BoundAudiences",
    "BoundIssuer",
    "ClaimMappings",
    "ClockSkewLeeway",
    "ExpirationLeeway",
    "JWKSCACert",
    "JWKSURL",
    "JWTSupportedAlgs",
    "JWTValidationPubKeys",
    "ListClaimMappings",
    "NotBeforeLeeway",
    "OIDCDiscoveryCACert",
    "OIDCDiscoveryURL",
];

/// The algorithms of signatures that Consul accepts.
const ALGORITHMS: &[&str] =
    &["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"];

/// How tokens are checked, and what of them becomes variables.
#[derive(Clone, Default)]
pub(super) struct Jwt {
    keys: Vec<Key>,
    issuer: String,
    audiences: Vec<String>,
    /// The variables by claim.
    values: BTreeMap<String, String>,
    lists: BTreeMap<String, String>,
    skew_s: i64,
    expiration_s: i64,
    not_before_s: i64,
}

/// A public key, and whether it is for a family of algorithms.
#[derive(Clone)]
struct Key {
    family: Family,
    key: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Rsa,
    Ec,
    Ed,
}

/// The claims of a valid token.
#[derive(Debug)]
pub(super) struct Identity {
    /// By variable, as templates name it: `value.user`. Each has a value, which may be empty.
    pub values: BTreeMap<String, String>,
    /// The value that selectors see.
    pub selectable: Value,
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwt").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// The error of a configuration that cannot be read.
pub(super) fn refused(why: &str) -> String {
    format!("error decoding config: 1 error(s) decoding:\n\n* {why}")
}

/// Refuses a configuration with other fields.
pub(super) fn check_known(config: &[(String, Json)], known: &[&str]) -> Result<(), String> {
    let is_known = |name: &str| known.iter().any(|known| known.eq_ignore_ascii_case(name));
    let names = config.iter().map(|(name, _)| name.as_str());
    let mut unknown: Vec<&str> = names.filter(|name| !is_known(name)).collect();
    unknown.sort_unstable();
    match unknown.is_empty() {
        true => Ok(()),
        false => Err(refused(&format!("'' has invalid keys: {}", unknown.join(", ")))),
    }
}

impl Jwt {
    /// Reads the configuration of a method.
    pub fn new(config: &[(String, Json)]) -> Result<Self, String> {
        check_known(config, KNOWN)?;
        let given = Object::of_members(config, "");
        let read = || -> Result<(Self, Vec<String>), String> {
            let jwt = Jwt {
                keys: Vec::new(),
                issuer: text(&given, "BoundIssuer")?,
                audiences: texts(&given, "BoundAudiences")?,
                values: mappings(&given, "ClaimMappings")?,
                lists: mappings(&given, "ListClaimMappings")?,
                skew_s: leeway(&given, "ClockSkewLeeway", SKEW_S)?,
                expiration_s: leeway(&given, "ExpirationLeeway", LEEWAY_S)?,
                not_before_s: leeway(&given, "NotBeforeLeeway", LEEWAY_S)?,
            };
            Ok((jwt, texts(&given, "JWTSupportedAlgs")?))
        };
        let (mut jwt, algorithms) = read().map_err(|why| refused(&why))?;
        let pems = texts(&given, "JWTValidationPubKeys").map_err(|why| refused(&why))?;
        let urls = ["JWKSURL", "OIDCDiscoveryURL"].map(|name| given.get(name).is_some());
        let sources = usize::from(!pems.is_empty()) + urls.iter().filter(|url| **url).count();
        if sources != 1 {
            return Err(
                "exactly one of 'JWTValidationPubKeys', 'JWKSURL', or 'OIDCDiscoveryURL' must be \
                        set for type \"jwt\""
                    .to_owned(),
            );
        }
        if pems.is_empty() {
            return Err(
                "the simulated agent takes JWTValidationPubKeys alone, and asks no URL".to_owned()
            );
        }
        for (place, pem) in pems.iter().enumerate() {
            jwt.keys.push(Key::new(pem).ok_or_else(|| {
                format!(
                    "error parsing public key JWTValidationPubKeys[{place}]: data does not contain any \
                     valid RSA, ECDSA, or ED25519 public keys"
                )
            })?);
        }
        if let Some(wrong) = algorithms.iter().find(|name| !ALGORITHMS.contains(&name.as_str())) {
            return Err(format!("Invalid supported algorithm: {wrong}"));
        }
        for (name, mappings) in [("ClaimMappings", &jwt.values), ("ListClaimMappings", &jwt.lists)]
        {
            let mut targets: Vec<&String> = mappings.values().collect();
            targets.sort_unstable();
            if let Some(twice) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
                let key = go::quoted(twice[0]);
                return Err(format!("{name} contains multiple mappings for key {key}"));
            }
        }
        Ok(jwt)
    }

    /// The variables of templates, each with the text that stands for it when a rule is checked.
    pub fn variables(&self) -> BTreeMap<String, String> {
        self.values.values().map(|name| (variable(name), "fake".to_owned())).collect()
    }

    /// The claims of a token, if it is valid at this time, in seconds since 1970.
    ///
    /// # Errors
    /// Consul's text.
    pub fn identity(&self, token: &str, now_s: i64) -> Result<Identity, String> {
        if token.is_empty() {
            return Err("missing jwt".to_owned());
        }
        let claims = self.verified(token)?;
        self.check_times(&claims, now_s)?;
        self.check_audience(&claims.audiences)?;
        self.identity_of(&claims.all)
    }

    fn verified(&self, token: &str) -> Result<Claims, String> {
        let failed = |why: &str| format!("error parsing token: {why}");
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts[..] else {
            return Err(failed("go-jose/go-jose: compact JWS format must have three parts"));
        };
        let mut decoded = Vec::new();
        for part in [header, payload, signature] {
            let bytes = BASE64.decode(part).map_err(|error| {
                let place = match error {
                    base64::DecodeError::InvalidByte(place, _)
                    | base64::DecodeError::InvalidLastSymbol { offset: place, .. } => place,
                    _ => part.len() / 4 * 4,
                };
                failed(&format!("illegal base64 data at input byte {place}"))
            })?;
            decoded.push(bytes);
        }
        const HEADER: GoType = GoType { value: "jose.rawHeader", fields: "rawHeader." };
        let json = Json::read(&decoded[0]).map_err(|why| failed(&why))?;
        let given = Object::new(&json, HEADER).map_err(|why| failed(&why))?;
        let algorithm = given.text("alg").map_err(|why| failed(&why))?;
        let signed = &token[..header.len() + 1 + payload.len()];
        // Consul understands no extension that a token declares critical.
        let is_understood = given.get("crit").is_none();
        let is_valid = is_understood
            && algorithm_of(&algorithm).is_some_and(|(family, algorithm)| {
                let keys = self.keys.iter().filter(|key| key.family == family);
                keys.clone().any(|key| {
                    let key = UnparsedPublicKey::new(algorithm, &key.key);
                    key.verify(signed.as_bytes(), &decoded[2]).is_ok()
                })
            });
        let claims = is_valid.then(|| Claims::read(&decoded[1])).flatten();
        claims.ok_or_else(|| "no known key successfully validated the token signature".to_owned())
    }

    fn check_times(&self, claims: &Claims, now_s: i64) -> Result<(), String> {
        let (issued, given, expires) = (claims.issued, claims.not_before, claims.expires);
        if issued == 0 && given == 0 && expires == 0 {
            let why = "no issue time, notbefore, or expiration time encoded in token";
            return Err(why.to_owned());
        }
        let expires = if expires == 0 {
            issued.max(given).saturating_add(self.expiration_s)
        } else {
            expires
        };
        let not_before = match (given, issued) {
            (0, 0) => expires.saturating_sub(self.not_before_s),
            (0, issued) => issued,
            (given, _) => given,
        };
        let why = if !self.issuer.is_empty() && claims.issuer != self.issuer {
            "validation failed, invalid issuer claim (iss)"
        } else if now_s + self.skew_s < not_before {
            "validation failed, token not valid yet (nbf)"
        } else if now_s - self.skew_s > expires {
            "validation failed, token is expired (exp)"
        } else if now_s + self.skew_s < issued {
            "validation field, token issued in the future (iat)"
        } else {
            return Ok(());
        };
        Err(format!("error validating claims: go-jose/go-jose/jwt: {why}"))
    }

    fn check_audience(&self, audiences: &[String]) -> Result<(), String> {
        let why = if self.audiences.is_empty() && !audiences.is_empty() {
            "audience claim found in JWT but no audiences are bound"
        } else if !self.audiences.is_empty()
            && !audiences.iter().any(|audience| self.audiences.contains(audience))
        {
            "aud claim does not match any bound audience"
        } else {
            return Ok(());
        };
        Err(format!("error validating claims: {why}"))
    }

    fn identity_of(&self, claims: &Map<String, Value>) -> Result<Identity, String> {
        let mut values: BTreeMap<_, _> =
            self.values.values().map(|name| (variable(name), String::new())).collect();
        let (mut selectable, mut lists) = (Map::new(), Map::new());
        for (name, target) in &self.values {
            let Some(claim) = claim(claims, name) else { continue };
            let text = shown(claim).ok_or_else(|| {
                format!(
                    "error converting claim '{name}' to string from unknown type {}",
                    kind(claim)
                )
            })?;
            values.insert(variable(target), text.clone());
            selectable.insert(target.clone(), text.into());
        }
        for (name, target) in &self.lists {
            let quoted = go::quoted(name);
            let items = match claim(claims, name) {
                None => continue,
                Some(Value::Array(items)) => items.clone(),
                Some(Value::Object(_)) => {
                    return Err(format!(
                        "{quoted} list claim could not be converted to string list"
                    ));
                }
                Some(one) => vec![one.clone()],
            };
            let texts = items.iter().map(|item| {
                shown(item).map(Value::from).ok_or_else(|| {
                    let item = go_text(item);
                    format!("value {item} in {quoted} list claim could not be parsed as string")
                })
            });
            lists.insert(target.clone(), texts.collect::<Result<Vec<_>, _>>()?.into());
        }
        Ok(Identity {
            values,
            selectable: serde_json::json!({ "value": selectable, "list": lists }),
        })
    }
}

impl Key {
    /// The first block of a text in PEM: a public key, or a certificate with one.
    fn new(pem: &str) -> Option<Self> {
        let block = Pem::iter_from_buffer(pem.as_bytes()).next()?.ok()?;
        if let Ok((_, key)) = SubjectPublicKeyInfo::from_der(&block.contents) {
            return Key::of(&key);
        }
        let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
        Key::of(certificate.public_key())
    }

    fn of(key: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let family = match key.parsed().ok()? {
            PublicKey::RSA(_) => Family::Rsa,
            PublicKey::EC(_) => Family::Ec,
            _ if key.algorithm.algorithm == OID_SIG_ED25519 => Family::Ed,
            _ => return None,
        };
        Some(Key { family, key: key.subject_public_key.data.to_vec() })
    }
}

/// The algorithm of a header. One with a shared secret is never used: a public key is known to all.
fn algorithm_of(name: &str) -> Option<(Family, &'static dyn VerificationAlgorithm)> {
    Some(match name {
        "RS256" => (Family::Rsa, &signature::RSA_PKCS1_2048_8192_SHA256),
        "RS384" => (Family::Rsa, &signature::RSA_PKCS1_2048_8192_SHA384),
        "RS512" => (Family::Rsa, &signature::RSA_PKCS1_2048_8192_SHA512),
        "PS256" => (Family::Rsa, &signature::RSA_PSS_2048_8192_SHA256),
        "PS384" => (Family::Rsa, &signature::RSA_PSS_2048_8192_SHA384),
        "PS512" => (Family::Rsa, &signature::RSA_PSS_2048_8192_SHA512),
        "ES256" => (Family::Ec, &signature::ECDSA_P256_SHA256_FIXED),
        "ES384" => (Family::Ec, &signature::ECDSA_P384_SHA384_FIXED),
        "EdDSA" => (Family::Ed, &signature::ED25519),
        _ => return None,
    })
}

/// The claims of a token; times are seconds since 1970, 0 if absent.
struct Claims {
    issuer: String,
    audiences: Vec<String>,
    issued: i64,
    not_before: i64,
    expires: i64,
    all: Map<String, Value>,
}

impl Claims {
    /// `None` if it has no claims, or a registered one has another type.
    fn read(payload: &[u8]) -> Option<Self> {
        let Ok(Value::Object(all)) = serde_json::from_slice(payload) else { return None };
        let text = |name: &str| match all.get(name) {
            None | Some(Value::Null) => Some(String::new()),
            Some(Value::String(text)) => Some(text.clone()),
            Some(_) => None,
        };
        let time = |name: &str| match all.get(name) {
            None | Some(Value::Null) => Some(0),
            Some(Value::Number(number)) => {
                number.as_i64().or_else(|| number.as_f64().map(|seconds| seconds as i64))
            }
            Some(_) => None,
        };
        let audiences = match all.get("aud") {
            None => Vec::new(),
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>()?
            }
            Some(_) => return None,
        };
        let (issuer, _, _) = (text("iss")?, text("sub")?, text("jti")?);
        let (issued, not_before, expires) = (time("iat")?, time("nbf")?, time("exp")?);
        Some(Claims { issuer, audiences, issued, not_before, expires, all })
    }
}

/// A claim by its name or, if that begins with a slash, by its JSON pointer.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let found = match name.strip_prefix('/') {
        None => claims.get(name),
        Some(path) => {
            let (first, rest) =
                path.split_once('/').map_or((path, ""), |(first, _)| (first, &path[first.len()..]));
            claims.get(first).and_then(|value| value.pointer(rest))
        }
    };
    found.filter(|value| !value.is_null())
}

fn variable(name: &str) -> String {
    format!("value.{name}")
}

/// A claim as text; `None` for a list or an object.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        // Source: `stringifyMetadataValue`: claims are decoded as floats and truncated.
        Value::Number(number) => {
            let float = number.as_f64().and_then(Number::from_f64)?;
            Some(go::int(&float).to_string())
        }
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "[]interface {}",
        _ => "map[string]interface {}",
    }
}

/// A value as Go's `%v` shows it.
fn go_text(value: &Value) -> String {
    let all = |texts: Vec<String>| texts.join(" ");
    match value {
        Value::Array(items) => format!("[{}]", all(items.iter().map(go_text).collect())),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| format!("{name}:{}", go_text(value)));
            format!("map[{}]", all(members.collect()))
        }
        Value::Number(number) => number.to_string(),
        other => shown(other).unwrap_or_else(|| "<nil>".to_owned()),
    }
}

fn text(given: &Object<'_>, name: &str) -> Result<String, String> {
    match given.get(name) {
        None => Ok(String::new()),
        Some(Json::Text(text)) => Ok(text.clone()),
        Some(_) => Err(format!("'{name}' expected type 'string'")),
    }
}

fn texts(given: &Object<'_>, name: &str) -> Result<Vec<String>, String> {
    match given.get(name) {
        // One text is a list of it.
        Some(Json::Text(one)) => Ok(vec![one.clone()]),
        _ => given.texts(name).map(Option::unwrap_or_default),
    }
}

fn mappings(given: &Object<'_>, name: &str) -> Result<BTreeMap<String, String>, String> {
    given.text_map(name).map(Option::unwrap_or_default)
}

/// A leeway of the configuration, in seconds: a negative one is none.
fn leeway(given: &Object<'_>, name: &str, default_s: i64) -> Result<i64, String> {
    Ok(match given.int(name)? {
        0 => default_s,
        nanos => nanos.max(0) / NANOS,
    })
}
