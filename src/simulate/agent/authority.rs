//! The mesh's certificate authority in consul-sim: a root of its own, and a certificate for each service that asks.
//!
//! Source: "Built-in CA provider" in Consul's documentation for lifetimes; the SPIFFE standard for names (SPIFFE-ID, X509-SVID).

use super::connect::Root;
use crate::simulate::go;
use crate::sync::lock;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use url::Url;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ROOT_LIFETIME: Duration = DAY.saturating_mul(3650);

/// A certificate is valid a little earlier, for clocks that are slow.
const BEFORE: Duration = Duration::from_secs(60);

/// The serial number of the root, after which the leaves' come. Those of a fresh server.
const ROOT_SERIAL: u64 = 7;

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(super) root: Root,
    issued: Mutex<Issued>,
}

struct Issued {
    serial: u64,
    leaves: BTreeMap<String, Arc<Leaf>>,
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

impl Authority {
    /// A new one for this trust domain; `now` is the time since 1970.
    pub fn new(trust_domain: &str, now: Duration) -> Result<Self, rcgen::Error> {
        let short = trust_domain.split('-').next().unwrap_or(trust_domain);
        let mut params = params(ROOT_SERIAL, now, now + ROOT_LIFETIME);
        let name = format!("pri-sim.consul.ca.{short}.consul");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        let uri = Ia5String::try_from(format!("spiffe://{trust_domain}.consul"))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let key = KeyPair::generate()?;
        let signing_key_id = with_colons(&params.key_identifier(&key));
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        let root = Root {
            id: with_colons(digest(&SHA1_FOR_LEGACY_USE_ONLY, issuer.der()).as_ref()),
            signing_key_id,
            pem: issuer.pem(),
            not_before: whole_seconds(now),
            not_after: whole_seconds(now + ROOT_LIFETIME),
        };
        let issued = Mutex::new(Issued { serial: ROOT_SERIAL, leaves: BTreeMap::new() });
        Ok(Self { issuer, root, issued })
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
        let index = super::connect::INDEX + serial;
        let leaf = Arc::new(Leaf {
            serial_number: with_colons(&SerialNumber::from(serial).to_bytes()),
            cert_pem: params.signed_by(&key, &self.issuer)?.pem(),
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
        f.debug_struct("Authority").field("root", &self.root.id).finish_non_exhaustive()
    }
}

/// The parameters of a certificate that is valid between two times since 1970.
fn params(serial: u64, after: Duration, before: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from(serial));
    let origin = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = origin + Duration::from_secs(after.as_secs());
    params.not_after = origin + Duration::from_secs(before.as_secs());
    params
}

fn whole_seconds(since_1970: Duration) -> String {
    go::date_text(Duration::from_secs(since_1970.as_secs()))
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
        let authority = Authority::new("domain", now).expect("a key");
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
}
