//! Certificates of API gateways: their members, and what Consul refuses.

use super::routes::is_host;
use super::shape::{Member as M, Shape};
use crate::go;
use crate::http::decode::Json;
use consul_process::files::pem;
use std::net::{Ipv4Addr, Ipv6Addr};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::parse_der;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

pub(super) static SHAPE: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name").always(),
    M::text("Certificate").always(),
    M::text("PrivateKey").always(),
    M::texts("Meta"),
]);

const MIN_RSA_BITS: u32 = 2048;

pub(super) fn check(entry: &Json) -> Result<(), String> {
    let read = |name: &str, what: &str| {
        let pem = Pem::iter_from_buffer(entry.at(name).as_text().as_bytes()).next();
        pem.and_then(Result::ok).ok_or_else(|| format!("failed to parse {what} PEM"))
    };
    let key = read("PrivateKey", "private key")?;
    if key.label == "RSA PRIVATE KEY"
        && rsa_bits(&key.contents).is_some_and(|bits| bits < MIN_RSA_BITS)
    {
        return Err(format!("key length must be at least {MIN_RSA_BITS} bits"));
    }
    let certificate = read("Certificate", "certificate")?;
    let (_, certificate) = X509Certificate::from_der(&certificate.contents)
        .map_err(|_| "failed to parse certificate: x509: malformed certificate")?;
    check_key(&certificate, entry.at("PrivateKey").as_text())?;
    match hosts(&certificate).into_iter().find(|host| !is_host(host)) {
        Some(host) => Err(format!("host {} must be a valid DNS hostname", go::quoted(host))),
        None => Ok(()),
    }
}

/// The length of an RSA key in the form of PKCS #1 (RFC 8017).
fn rsa_bits(der: &[u8]) -> Option<u32> {
    let (_, key) = parse_der(der).ok()?;
    let modulus = key.as_sequence().ok()?.get(1)?.as_slice().ok()?;
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    let unused = modulus.first()?.leading_zeros();
    Some(u32::try_from(modulus.len()).ok()? * 8 - unused)
}

/// Refuses a key that is not the certificate's: the first of the text, which can have other blocks before it.
fn check_key(certificate: &X509Certificate<'_>, text: &str) -> Result<(), String> {
    let mut skipped = Vec::new();
    let mut blocks = Pem::iter_from_buffer(text.as_bytes()).map_while(Result::ok);
    let key = loop {
        match blocks.next() {
            Some(block) if block.label.ends_with("PRIVATE KEY") => break block,
            Some(block) => skipped.push(block.label),
            None => return Err(no_key(&skipped)),
        }
    };
    let of_certificate = certificate.public_key();
    let Some(key) = pem::public_key(&key.label, &key.contents) else {
        return match is_readable(of_certificate) {
            true => Err("tls: failed to parse private key".to_owned()),
            false => Ok(()),
        };
    };
    if of_certificate.raw == key {
        return Ok(());
    }
    let has_same_type = SubjectPublicKeyInfo::from_der(&key)
        .is_ok_and(|(_, key)| key.algorithm.algorithm == of_certificate.algorithm.algorithm);
    Err(match has_same_type {
        true => "tls: private key does not match public key",
        false => "tls: private key type does not match public key type",
    }
    .to_owned())
}

fn no_key(skipped: &[String]) -> String {
    if skipped == ["CERTIFICATE"] {
        return "tls: found a certificate rather than a key in the PEM for the private key"
            .to_owned();
    }
    format!(
        "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after \
         skipping PEM blocks of the following types: [{}]",
        skipped.join(" ")
    )
}

/// Whether `ring` reads the private key of a public key: it has no P-521, and RSA of 2048 to 4096 bits.
fn is_readable(key: &SubjectPublicKeyInfo<'_>) -> bool {
    match key.parsed() {
        Ok(PublicKey::RSA(key)) => (2048..=4096).contains(&key.key_size()),
        Ok(PublicKey::EC(point)) => point.key_size() <= 384,
        _ => true,
    }
}

/// The common name, and the alternative names that are hosts.
fn hosts(certificate: &X509Certificate<'_>) -> Vec<String> {
    let common = certificate.subject().iter_common_name().next();
    let common = common.and_then(|name| name.as_str().ok()).unwrap_or_default();
    let mut hosts = vec![common.to_owned()];
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map_or(&[] as &[_], |names| names.value.general_names.as_slice());
    for name in names {
        match name {
            GeneralName::DNSName(name) => hosts.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(|bytes| Ipv4Addr::from(bytes).to_string());
                let v6 =
                    <[u8; 16]>::try_from(*bytes).map(|bytes| Ipv6Addr::from(bytes).to_string());
                hosts.extend(v4.or(v6));
            }
            _ => {}
        }
    }
    hosts
}
