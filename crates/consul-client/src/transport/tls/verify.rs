//! Which certificates of servers are trusted.

use super::reason::is_of_extension;
use consul_process::files::pem;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{self, CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt;
use std::iter;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::parse_x509_certificate;
use x509_parser::x509::X509Version;

/// A certificate in a file that the options name.
#[derive(Debug)]
pub struct Named {
    certificate: CertificateDer<'static>,
    /// Whether it may sign others. A certificate in a server's own name may not.
    is_authority: bool,
    /// The Unix seconds from and to which it is valid.
    valid: RangeInclusive<i64>,
}

impl Named {
    pub fn new(certificate: CertificateDer<'static>) -> Result<Self, X509Error> {
        let (_, parsed) = parse_x509_certificate(&certificate)?;
        let constraints = parsed.basic_constraints()?;
        // Before version 3 a certificate does not say it.
        let is_authority = match constraints {
            Some(constraints) => constraints.value.ca,
            None => parsed.version() != X509Version::V3,
        } && usage_permits_to_sign(&parsed);
        let dates = parsed.validity();
        let valid = dates.not_before.timestamp()..=dates.not_after.timestamp();
        Ok(Named { certificate, is_authority, valid })
    }

    /// Its last second, in Unix time.
    pub fn end_s(&self) -> u64 {
        unix_time(*self.valid.end()).as_secs()
    }

    fn check_dates(&self, now: UnixTime) -> Result<(), CertificateError> {
        match now.as_secs() as i64 {
            at if at < *self.valid.start() => {
                let not_before = unix_time(*self.valid.start());
                Err(CertificateError::NotValidYetContext { time: now, not_before })
            }
            at if at > *self.valid.end() => {
                let not_after = unix_time(*self.valid.end());
                Err(CertificateError::ExpiredContext { time: now, not_after })
            }
            _ => Ok(()),
        }
    }
}

/// When a certificate, or a certificate behind it that signed it, expires, in Unix seconds. Superfluous ones do not count:
/// a root, which the other side has, a certificate that signed none of them, and of two of one authority the earlier.
pub fn end_of_chain(certificates: &[CertificateDer<'_>]) -> Option<u64> {
    let parsed = certificates.iter().filter_map(|it| Some(parse_x509_certificate(it).ok()?.1));
    let parsed: Vec<_> = parsed.collect();
    let end = |it: &X509Certificate<'_>| it.validity().not_after.timestamp();
    let (mut signed, others) = parsed.split_first()?;
    let mut first = end(signed);
    // No chain is longer than the file.
    for _ in others {
        let is_signer = |it: &&X509Certificate<'_>| {
            it.subject() == signed.issuer() && it.subject() != it.issuer()
        };
        let Some(signer) = others.iter().filter(is_signer).max_by_key(|it| end(it)) else { break };
        first = first.min(end(signer));
        signed = signer;
    }
    u64::try_from(first).ok()
}

fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Why a server's certificate is not trusted, in words, where rustls has no error for it.
#[derive(Debug)]
pub struct Untrusted(String);

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Untrusted {}

const MAY_NOT_SIGN: &str =
    "is signed with a certificate that may not sign others: its keyUsage lacks keyCertSign";

const LATE: &str = "cannot be trusted: the authority that signed it, and that tls_ca_file or tls_ca_path names, has expired, or is \
                    not valid yet";

impl From<Untrusted> for rustls::Error {
    fn from(why: Untrusted) -> Self {
        CertificateError::Other(OtherError(Arc::new(why))).into()
    }
}

/// The error of a signature. For rustls a signature by a key of too few bits is a wrong one.
fn of_signature<'a>(
    error: rustls::Error,
    whose: &str,
    mut signers: impl Iterator<Item = &'a CertificateDer<'a>>,
) -> rustls::Error {
    use CertificateError::{
        BadSignature, UnsupportedSignatureAlgorithmContext,
        UnsupportedSignatureAlgorithmForPublicKeyContext,
    };
    match &error {
        rustls::Error::InvalidCertificate(
            BadSignature
            | UnsupportedSignatureAlgorithmContext { .. }
            | UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
        ) => match signers.find_map(|it| pem::unusable_key(it, &pem::PEERS_RSA)) {
            Some(key) => Untrusted(format!("{whose} {key}")).into(),
            None => error,
        },
        _ => error,
    }
}

/// Whether a certificate may sign others by its `keyUsage`, or has none.
///
/// Source: RFC 5280, 4.2.1.3. Go's crypto/x509 (`CheckSignatureFrom`) and OpenSSL refuse what another one has signed; webpki
/// does not look.
fn usage_permits_to_sign(certificate: &X509Certificate<'_>) -> bool {
    match certificate.key_usage() {
        Ok(usage) => usage.is_none_or(|it| it.value.key_cert_sign()),
        Err(_) => false,
    }
}

fn may_sign(certificate: &CertificateDer<'_>) -> bool {
    // A certificate that this parser cannot read is judged by webpki.
    parse_x509_certificate(certificate).map_or(true, |(_, it)| usage_permits_to_sign(&it))
}

/// The first critical extension of a certificate that webpki does not know, in words.
///
/// Source: `remember_cert_extension` of rustls-webpki.
fn unknown_critical_extension(certificate: &CertificateDer<'_>) -> Option<String> {
    const KNOWN: [&str; 6] =
        ["2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.30", "2.5.29.31", "2.5.29.37"];
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    let critical = parsed.extensions().iter().filter(|it| it.critical);
    let mut ids = critical.map(|it| it.oid.to_id_string());
    let id = ids.find(|id| !KNOWN.contains(&id.as_str()))?;
    Some(match id.as_str() {
        "2.5.29.32" => "certificatePolicies (2.5.29.32)".to_owned(),
        "2.5.29.33" => "policyMappings (2.5.29.33)".to_owned(),
        "2.5.29.36" => "policyConstraints (2.5.29.36)".to_owned(),
        "2.5.29.54" => "inhibitAnyPolicy (2.5.29.54)".to_owned(),
        _ => id,
    })
}

/// The error of a handshake's signature, which the server makes with the key of its certificate.
fn of_handshake(error: rustls::Error, certificate: &CertificateDer<'_>) -> rustls::Error {
    of_signature(error, "cannot be used: its key is", [certificate].into_iter())
}

/// Accepts a certificate that a trusted authority has signed, and a certificate that the options name themselves, also
/// if it is an authority's, as `openssl req -x509` makes it. webpki does not look at what an authority says of itself:
/// whether it is one, and its dates.
#[derive(Debug)]
pub struct NamedOrSigned {
    /// With all authorities; `None`: there is none.
    signed: Option<Arc<WebPkiServerVerifier>>,
    /// The system's authorities.
    roots: RootCertStore,
    named: Vec<Named>,
    /// The address that certificates must be for, instead of the name that the connection is for.
    address: Option<ServerName<'static>>,
    provider: Arc<CryptoProvider>,
}

impl NamedOrSigned {
    pub fn new(
        roots: RootCertStore,
        named: Vec<Named>,
        address: Option<IpAddr>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::Error> {
        let address = address.map(|it| ServerName::IpAddress(it.into()));
        let verifier = NamedOrSigned { signed: None, roots, named, address, provider };
        Ok(NamedOrSigned { signed: verifier.signed_by(|_| true)?, ..verifier })
    }

    fn authorities(&self) -> impl Iterator<Item = &Named> {
        self.named.iter().filter(|it| it.is_authority)
    }

    /// The verifier with these of the authorities.
    fn signed_by(
        &self,
        counts: impl Fn(&Named) -> bool,
    ) -> Result<Option<Arc<WebPkiServerVerifier>>, rustls::Error> {
        let mut roots = self.roots.clone();
        for named in self.authorities().filter(|it| counts(it)) {
            roots.add(named.certificate.clone())?;
        }
        if roots.is_empty() {
            return Ok(None);
        }
        let provider = Arc::clone(&self.provider);
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let failed = |error: VerifierBuilderError| rustls::Error::General(error.to_string());
        verifier.build().map(Some).map_err(failed)
    }

    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(own) = self.named.iter().find(|it| it.certificate == *certificate) {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            own.check_dates(now)?;
            return Ok(ServerCertVerified::assertion());
        }
        let valid = match self.authorities().all(|it| it.check_dates(now).is_ok()) {
            true => self.signed.clone(),
            false => self.signed_by(|it| it.check_dates(now).is_ok())?,
        };
        let signers: Vec<_> = others.iter().filter(|it| may_sign(it)).cloned().collect();
        let verify = |by: &Option<Arc<WebPkiServerVerifier>>| match by {
            Some(by) => by.verify_server_cert(certificate, &signers, name, ocsp, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        verify(&valid).map_err(|error| {
            if error == CertificateError::UnknownIssuer.into() && verify(&self.signed).is_ok() {
                return Untrusted(LATE.to_owned()).into();
            }
            let named = self.named.iter().map(|it| &it.certificate);
            let issuer = |it: &CertificateDer<'_>| {
                let (_, parsed) = parse_x509_certificate(it).ok()?;
                Some(parsed.issuer().as_raw().to_vec())
            };
            let issuers: BTreeSet<_> =
                iter::once(certificate).chain(others).filter_map(issuer).collect();
            let is_signer = |it: &&CertificateDer<'_>| {
                parse_x509_certificate(it)
                    .is_ok_and(|(_, parsed)| issuers.contains(parsed.subject().as_raw()))
            };
            let mut signers = others.iter().chain(named).filter(is_signer);
            if error == CertificateError::UnknownIssuer.into()
                && signers.clone().any(|it| !may_sign(it))
            {
                return Untrusted(MAY_NOT_SIGN.to_owned()).into();
            }
            of_signature(error, "is signed by an authority whose key is", &mut signers)
        })
    }

    /// The error, with the name of a critical extension that is not supported.
    fn with_extension<'a>(
        &'a self,
        error: rustls::Error,
        certificate: &'a CertificateDer<'a>,
        others: &'a [CertificateDer<'a>],
    ) -> rustls::Error {
        if !is_of_extension(&error) {
            return error;
        }
        let mut signers = others.iter().chain(self.named.iter().map(|it| &it.certificate));
        let (whose, found) = match unknown_critical_extension(certificate) {
            Some(found) => ("has", Some(found)),
            None => {
                ("is signed by an authority that has", signers.find_map(unknown_critical_extension))
            }
        };
        match found {
            Some(id) => {
                Untrusted(format!("{whose} a critical extension that is not supported: {id}"))
                    .into()
            }
            None => error,
        }
    }
}

impl ServerCertVerifier for NamedOrSigned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let name = self.address.as_ref().unwrap_or(name);
        self.verify(certificate, others, name, ocsp, now)
            .map_err(|error| self.with_extension(error, certificate, others))
    }

    fn verify_tls12_signature(&self, m: &[u8], c: &CertificateDer<'_>, s: &Signature) -> Verified {
        crypto::verify_tls12_signature(m, c, s, self.algorithms())
            .map_err(|error| of_handshake(error, c))
    }

    fn verify_tls13_signature(&self, m: &[u8], c: &CertificateDer<'_>, s: &Signature) -> Verified {
        crypto::verify_tls13_signature(m, c, s, self.algorithms())
            .map_err(|error| of_handshake(error, c))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

/// Accepts every certificate, for `tls_verify = false`. The server still has to prove that it has
/// the key of its certificate, which must be usable for TLS.
#[derive(Debug)]
pub struct AnyCertificate(pub Arc<CryptoProvider>);

impl AnyCertificate {
    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.0.signature_verification_algorithms
    }
}

type Signature = DigitallySignedStruct;
type Verified = Result<HandshakeSignatureValid, rustls::Error>;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, m: &[u8], c: &CertificateDer<'_>, s: &Signature) -> Verified {
        crypto::verify_tls12_signature(m, c, s, self.algorithms())
            .map_err(|error| of_handshake(error, c))
    }

    fn verify_tls13_signature(&self, m: &[u8], c: &CertificateDer<'_>, s: &Signature) -> Verified {
        crypto::verify_tls13_signature(m, c, s, self.algorithms())
            .map_err(|error| of_handshake(error, c))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}
