//! The mesh's certificate authority in consul-sim: a root of its own or an operator's, those before it, and a certificate for each
//! service that asks.
//!
//! Source: "Built-in CA provider" in Consul's documentation for lifetimes; the SPIFFE standard for names (SPIFFE-ID, X509-SVID).

use crate::go;
use consul_process::files::pem::{self, PrivateKey};
use consul_process::sync::lock;
use rcgen::string::{Ia5String, PrintableString};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use url::Url;
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// In nanoseconds.
pub(super) const HOUR: i64 = 3_600_000_000_000;

/// How long an earlier root vouches for a new one.
const CROSS_SIGNED_FOR: Duration = DAY.saturating_mul(7);

/// A certificate is valid a little earlier, for clocks that are slow.
const BEFORE: Duration = Duration::from_secs(60);

/// The serial number of the first root, after which the leaves' come. As on a fresh server.
const ROOT_SERIAL: u64 = 7;

/// The index at which a fresh server creates its certificate authority.
pub(super) const INDEX: u64 = 9;

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The active root, then the earlier ones.
    pub(super) roots: Vec<Root>,
    issued: Mutex<Issued>,
}

struct Issued {
    serial: u64,
    leaves: BTreeMap<String, Arc<Leaf>>,
}

/// The fields of a root that are shown.
#[derive(Clone)]
pub(super) struct Root {
    pub id: String,
    pub serial: u64,
    pub signing_key_id: String,
    pub pem: String,
    pub not_before: String,
    pub not_after: String,
    /// Its certificates that earlier roots have signed.
    pub intermediates: Vec<String>,
    pub create_index: u64,
    pub modify_index: u64,
}

/// The configuration of the authority.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AuthorityConfig {
    pub(super) provider: String,
    /// As it was given.
    pub(super) config: Value,
    pub(super) state: Option<BTreeMap<String, String>>,
    pub(super) force_without_cross_signing: bool,
    pub(super) create_index: u64,
    pub modify_index: u64,
}

impl Default for AuthorityConfig {
    fn default() -> Self {
        Self {
            provider: "consul".to_owned(),
            config: json!({
                "IntermediateCertTTL": "8760h", "LeafCertTTL": "72h", "RootCertTTL": "87600h",
            }),
            state: None,
            force_without_cross_signing: false,
            create_index: INDEX,
            modify_index: INDEX,
        }
    }
}

impl AuthorityConfig {
    /// The lifetime of a new certificate.
    pub fn leaf_lifetime(&self) -> Duration {
        self.time("LeafCertTTL", 72 * HOUR)
    }

    /// The lifetime of a new root.
    pub fn root_lifetime(&self) -> Duration {
        self.time("RootCertTTL", 87_600 * HOUR)
    }

    fn time(&self, name: &str, default: i64) -> Duration {
        Duration::from_nanos(
            nanos(self.config.get(name), default).unwrap_or(default).unsigned_abs(),
        )
    }

    /// The operator's settings of the root; another value requires another root.
    pub(super) fn given(&self) -> Given<'_> {
        let text = |name| {
            self.config.get(name).and_then(Value::as_str).filter(|text| !text.trim().is_empty())
        };
        Given { private_key: text("PrivateKey"), certificate: text("RootCert") }
    }
}

pub(super) fn nanos(given: Option<&Value>, default: i64) -> Result<i64, String> {
    match given {
        None | Some(Value::Null) => Ok(default),
        Some(Value::String(text)) => go::duration(text),
        Some(Value::Number(number)) => Ok(number.as_i64().unwrap_or(i64::MAX)),
        Some(_) => Err("expected type 'time.Duration'".to_owned()),
    }
}

/// The parts of a root that an operator sets; empty for a generated root.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Given<'a> {
    pub private_key: Option<&'a str>,
    pub certificate: Option<&'a str>,
}

/// A service's certificate, with its key.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Leaf {
    serial_number: String,
    #[serde(rename = "CertPEM")]
    cert_pem: String,
    #[serde(rename = "PrivateKeyPEM")]
    private_key_pem: String,
    service: String,
    #[serde(rename = "ServiceURI")]
    service_uri: String,
    valid_after: String,
    valid_before: String,
    pub create_index: u64,
    pub modify_index: u64,
    #[serde(skip)]
    renews: Duration,
}

/// A root that has no place among others yet.
struct NewRoot {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, as another root signs it.
    params: CertificateParams,
    root: Root,
}

impl Authority {
    /// A new one for this trust domain; `now` is the time since 1970.
    pub fn new(trust_domain: &str, now: Duration, lifetime: Duration) -> Result<Self, String> {
        let new = generated(trust_domain, KeyPair::generate(), ROOT_SERIAL, now, lifetime)
            .map_err(|why| why.to_string())?;
        let issued = Mutex::new(Issued { serial: ROOT_SERIAL, leaves: BTreeMap::new() });
        Ok(Self { issuer: new.issuer, roots: vec![new.root], issued })
    }

    /// The same with another root, for which the present one vouches. All services get new certificates. `None` if it is the
    /// present one.
    ///
    /// # Errors
    /// The given certificate is not a root.
    pub(super) fn rotated(
        &self,
        trust_domain: &str,
        given: Given<'_>,
        now: Duration,
        lifetime: Duration,
        index: u64,
    ) -> Result<Option<Self>, String> {
        let mut serial = lock(&self.issued).serial + 1;
        let private = given.private_key.map(key);
        let NewRoot { issuer, params, mut root } = match (given.certificate, private) {
            (Some(pem), Some(key)) => imported(pem, key?)?,
            (_, key) => {
                serial += 1;
                let key = key.transpose()?.map_or_else(KeyPair::generate, Ok);
                generated(trust_domain, key, serial - 1, now, lifetime)
                    .map_err(|why| why.to_string())?
            }
        };
        if root.id == self.root().id {
            return Ok(None);
        }
        let mut vouched = params;
        vouched.serial_number = Some(SerialNumber::from(serial));
        set_validity(&mut vouched, now.saturating_sub(BEFORE), now + CROSS_SIGNED_FOR - BEFORE);
        vouched.use_authority_key_identifier_extension = true;
        let vouched = vouched.signed_by(issuer.key(), &self.issuer);
        root.intermediates = vec![vouched.map_err(|why| why.to_string())?.pem()];
        (root.create_index, root.modify_index) = (index, index);
        let earlier = self.roots.iter().filter(|earlier| earlier.id != root.id);
        let earlier = earlier.map(|root| Root { modify_index: index, ..root.clone() });
        let roots = std::iter::once(root.clone()).chain(earlier).collect();
        let issued = Mutex::new(Issued { serial, leaves: BTreeMap::new() });
        Ok(Some(Self { issuer, roots, issued }))
    }

    /// The root that signs.
    pub(super) fn root(&self) -> &Root {
        &self.roots[0]
    }

    /// The certificate of a service, a new one if the last third of its lifetime has begun.
    pub fn leaf(
        &self,
        uri: &Url,
        service: &str,
        now: Duration,
        lifetime: Duration,
    ) -> Result<Arc<Leaf>, rcgen::Error> {
        let mut issued = lock(&self.issued);
        let before = issued.leaves.get(service);
        if let Some(leaf) = before.filter(|leaf| now < leaf.renews) {
            return Ok(Arc::clone(leaf));
        }
        let created = before.map(|leaf| leaf.create_index);
        issued.serial += 1;
        let serial = issued.serial;
        let (after, ends) = (now.saturating_sub(BEFORE), now + lifetime - BEFORE);
        let mut params = params(serial, after, ends);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::DataEncipherment,
            KeyUsagePurpose::KeyAgreement,
        ];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri.as_str())?)];
        let key = KeyPair::generate()?;
        // Each certificate is a write to the server's log.
        let index = INDEX + serial;
        // Those who trust an earlier root need what it has signed.
        let mut cert_pem = params.signed_by(&key, &self.issuer)?.pem();
        cert_pem.extend(self.root().intermediates.iter().map(String::as_str));
        let leaf = Arc::new(Leaf {
            serial_number: with_colons(without_zeros(&serial.to_be_bytes())),
            cert_pem,
            private_key_pem: key.serialize_pem(),
            service: service.to_owned(),
            service_uri: uri.to_string(),
            valid_after: whole_seconds(after),
            valid_before: whole_seconds(ends),
            create_index: created.unwrap_or(index),
            modify_index: index,
            renews: ends - lifetime / 3,
        });
        issued.leaves.insert(service.to_owned(), Arc::clone(&leaf));
        Ok(leaf)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("root", &self.root().id).finish_non_exhaustive()
    }
}

/// A root with a name of its own.
fn generated(
    trust_domain: &str,
    key: Result<KeyPair, rcgen::Error>,
    serial: u64,
    now: Duration,
    lifetime: Duration,
) -> Result<NewRoot, rcgen::Error> {
    let key = key?;
    let short = trust_domain.split('-').next().unwrap_or(trust_domain);
    let mut params = params(serial, now, now + lifetime);
    let name = format!("pri-sim{serial}.consul.ca.{short}.consul");
    params.distinguished_name.push(DnType::CommonName, name);
    let uri = Ia5String::try_from(format!("spiffe://{trust_domain}.consul"))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    make_authority(&mut params);
    let certificate = params.self_signed(&key)?;
    let root = Root {
        id: root_id(certificate.der()),
        serial,
        signing_key_id: with_colons(&params.key_identifier(&key)),
        pem: certificate.pem(),
        not_before: whole_seconds(now),
        not_after: whole_seconds(now + lifetime),
        intermediates: Vec::new(),
        create_index: INDEX,
        modify_index: INDEX,
    };
    Ok(NewRoot { issuer: Issuer::new(params.clone(), key), params, root })
}

fn make_authority(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
}

/// The root that an operator has. Consul 1.21 takes a key of another certificate too, and then signs nothing that is valid.
fn imported(pem: &str, key: KeyPair) -> Result<NewRoot, String> {
    let der = pem::certificate(pem).ok_or("no PEM-encoded data found")?;
    let failed = |why: &dyn fmt::Display| format!("error parsing the root certificate: {why}");
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|why| failed(&why))?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err("the private key is not that of the root certificate".to_owned());
    }
    let validity = certificate.validity();
    let time = |seconds: i64| Duration::from_secs(seconds.try_into().unwrap_or(0));
    let (after, before) =
        (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()));
    let mut params = params(0, after, before);
    params.distinguished_name = name_of(&certificate)?;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => {
                params.key_identifier_method = KeyIdMethod::PreSpecified(id.0.to_vec());
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    if let GeneralName::URI(uri) = name {
                        let uri = Ia5String::try_from(*uri).map_err(|why| failed(&why))?;
                        params.subject_alt_names.push(SanType::URI(uri));
                    }
                }
            }
            _ => {}
        }
    }
    make_authority(&mut params);
    let serial = certificate.raw_serial().iter().rev().take(8).rev();
    let root = Root {
        id: root_id(&der),
        serial: serial.fold(0, |serial, byte| serial << 8 | u64::from(*byte)),
        signing_key_id: with_colons(&params.key_identifier(&key)),
        pem: pem.to_owned(),
        not_before: whole_seconds(after),
        not_after: whole_seconds(before),
        intermediates: Vec::new(),
        create_index: 0,
        modify_index: 0,
    };
    Ok(NewRoot { issuer: Issuer::new(params.clone(), key), params, root })
}

/// The name of a certificate, in the same encoding: a certificate that it signs has it as its issuer.
fn name_of(certificate: &X509Certificate<'_>) -> Result<DistinguishedName, String> {
    let mut name = DistinguishedName::new();
    for attribute in certificate.subject().iter_attributes() {
        let refused = || "the name of the root certificate is not text".to_owned();
        let kind: Vec<u64> = attribute.attr_type().iter().ok_or_else(refused)?.collect();
        let text = attribute.as_str().map_err(|_| refused())?;
        let value = match attribute.attr_value().tag() {
            Tag::PrintableString => {
                DnValue::PrintableString(PrintableString::try_from(text).map_err(|_| refused())?)
            }
            Tag::Ia5String => DnValue::Ia5String(Ia5String::try_from(text).map_err(|_| refused())?),
            _ => DnValue::Utf8String(text.to_owned()),
        };
        name.push(DnType::from_oid(&kind), value);
    }
    Ok(name)
}

/// A private key of an elliptic curve in either form of PEM.
fn key(pem: &str) -> Result<KeyPair, String> {
    let failed = |why: &str| {
        let pem = go::quoted(pem);
        format!(
            "error generating CA root certificate: error generating CA: error parsing private key {pem}: {why}"
        )
    };
    let other = || "consul-sim has only EC keys of 256 bits".to_owned();
    let pkcs8 = match pem::private_key(pem).ok_or_else(|| failed("no PEM-encoded data found"))? {
        PrivateKey::Pkcs8(key) => key,
        PrivateKey::Sec1(key) => as_pkcs8(&key),
        PrivateKey::Other => return Err(other()),
    };
    let key = KeyPair::try_from(pkcs8).map_err(|_| other())?;
    match key.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
        true => Ok(key),
        false => Err(other()),
    }
}

/// A key of the curve P-256 in the form of SEC 1 (RFC 5915), wrapped as PKCS #8 (RFC 5208).
fn as_pkcs8(sec1: &[u8]) -> Vec<u8> {
    /// Version 0, and the identifiers `ecPublicKey` and `prime256v1`.
    const HEAD: &[u8] = &[
        0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
        0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
    ];
    const SEQUENCE: u8 = 0x30;
    const OCTETS: u8 = 0x04;
    let wrapped = |tag: u8, content: &[u8]| {
        let length = content.len().to_be_bytes();
        let length = without_zeros(&length);
        let mut der = vec![tag];
        match content.len() {
            short @ 0..0x80 => der.extend(u8::try_from(short)),
            _ => {
                der.push(0x80 | u8::try_from(length.len()).unwrap_or(0));
                der.extend(length);
            }
        }
        der.extend(content);
        der
    };
    wrapped(SEQUENCE, &[HEAD, &wrapped(OCTETS, sec1)].concat())
}

/// The parameters of a certificate that is valid between two times since 1970.
fn params(serial: u64, after: Duration, before: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from(serial));
    set_validity(&mut params, after, before);
    params
}

/// The end of the year 9999, since 1970 in seconds: a certificate has no later date.
const LAST_DATE: u64 = 253_402_300_799;

fn set_validity(params: &mut CertificateParams, after: Duration, before: Duration) {
    let date = |since_1970: Duration| {
        let seconds = since_1970.as_secs().min(LAST_DATE);
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    (params.not_before, params.not_after) = (date(after), date(before));
}

fn root_id(der: &[u8]) -> String {
    with_colons(digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref())
}

fn whole_seconds(since_1970: Duration) -> String {
    go::date_text(Duration::from_secs(since_1970.as_secs()))
}

/// The bytes of a number without the first ones that are zero.
fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// Bytes in hexadecimal, with colons between them.
fn with_colons(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_in_the_last_third_of_its_lifetime() {
        let now = DAY * 20_000;
        let authority = Authority::new("domain", now, DAY * 3650).expect("a key");
        let uri = Url::parse("spiffe://domain.consul/ns/default/dc/dc1/svc/web").expect("a URI");
        let after = |time| authority.leaf(&uri, "web", now + time, DAY * 3).expect("a key");
        let first = after(Duration::ZERO);
        assert!(Arc::ptr_eq(&first, &after(DAY)));
        let second = after(DAY * 2);
        assert_ne!(second.serial_number, first.serial_number);
        assert_ne!(second.cert_pem, first.cert_pem);
        assert_eq!(second.create_index, first.create_index);
        assert!(second.modify_index > first.modify_index);
        assert!(second.valid_before > first.valid_before);
    }

    #[test]
    fn a_certificate_ends_with_the_year_9999_at_the_latest() {
        let now = Duration::from_secs(LAST_DATE) + DAY * 365_000;
        let authority = Authority::new("domain", now, DAY * 3650).expect("a key");
        let uri = Url::parse("spiffe://domain.consul/ns/default/dc/dc1/svc/web").expect("a URI");
        let leaf = authority.leaf(&uri, "web", now, DAY * 3).expect("a key");
        let der = pem::certificate(&leaf.cert_pem).expect("a certificate");
        let (_, certificate) = X509Certificate::from_der(&der).expect("valid DER");
        let end = certificate.validity().not_after.timestamp();
        assert_eq!(u64::try_from(end), Ok(LAST_DATE));
    }
}
