//! TLS with `https://` endpoints: trusted authorities, the client's own certificate, and errors in
//! words.

use super::TlsOptions;
use super::crypto::provider;
use consul_api::error::{Error, Kind};
use consul_process::clock::Clock;
use consul_process::files::FromFiles;
use consul_process::files::pem::{self, PemFile};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{self, CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, OtherError,
    PeerIncompatible, RootCertStore, SignatureScheme,
};
use std::error::Error as StdError;
use std::fmt::{self, Display};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use x509_parser::error::X509Error;
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

/// The configuration of TLS, made again when the files that the options name change.
pub type TlsConfig<V> = FromFiles<TlsFiles, V>;

/// The content of the files that the options name.
#[derive(PartialEq)]
pub struct TlsFiles {
    authorities: Option<PemFile>,
    folder: Option<Vec<PemFile>>,
    certificate: Option<PemFile>,
    key: Option<PemFile>,
}

/// Reads the files now, and again when they change. `make` makes a value of the configuration.
///
/// # Errors
/// [`Kind::Config`], naming the option and the file that cannot be read or used.
pub fn config<V: Clone>(
    options: &TlsOptions,
    clock: Arc<dyn Clock>,
    make: impl Fn(ClientConfig) -> Result<V, Error> + Send + Sync + 'static,
) -> Result<TlsConfig<V>, Error> {
    let (of_files, of_config) = (options.clone(), options.clone());
    FromFiles::open(
        "TLS files",
        clock,
        move || TlsFiles::read(&of_files),
        move |files| make(files.config(&of_config)?),
    )
}

impl TlsFiles {
    fn read(options: &TlsOptions) -> Result<Self, Error> {
        let read = |option, path: &Option<PathBuf>| {
            path.as_ref().map(|path| PemFile::read(option, path)).transpose()
        };
        // Without verification nothing is asked of the authorities.
        let (ca_file, ca_path) = match options.verify {
            true => (&options.ca_file, &options.ca_path),
            false => (&None, &None),
        };
        Ok(TlsFiles {
            authorities: read("tls_ca_file", ca_file)?,
            folder: ca_path.as_ref().map(|path| read_folder(path)).transpose()?,
            certificate: read("tls_cert_file", &options.cert_file)?,
            key: read("tls_key_file", &options.key_file)?,
        })
    }

    fn config(&self, options: &TlsOptions) -> Result<ClientConfig, Error> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?;
        let verifier: Arc<dyn ServerCertVerifier> = match options.verify {
            true => Arc::new(self.verifier(options, provider)?),
            false => Arc::new(AnyCertificate(provider)),
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let (Some(certificate), Some(key)) = (&self.certificate, &self.key) else {
            return Ok(builder.with_no_client_auth());
        };
        let config =
            builder.with_client_auth_cert(certificate.some_certificates()?, key.private_key()?);
        config.map_err(|error| certificate.unusable(key, &error))
    }

    fn verifier(
        &self,
        options: &TlsOptions,
        provider: Arc<CryptoProvider>,
    ) -> Result<NamedOrSigned, Error> {
        let named = self.named(options)?;
        let mut roots = RootCertStore::empty();
        if self.authorities.is_none() && self.folder.is_none() {
            // The system's store may have certificates that rustls cannot use; they are left out.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let message = "this system has no store of certificates; set tls_ca_file";
                return Err(Error::new(Kind::Config, message).not_sent());
            }
        }
        NamedOrSigned::new(roots, named, provider).map_err(|error| unusable(&error))
    }

    /// The certificates in the configured files.
    fn named(&self, options: &TlsOptions) -> Result<Vec<Named>, Error> {
        let mut named = Vec::new();
        let mut add = |file: &PemFile, certificates: Vec<CertificateDer<'static>>| {
            // What rustls cannot use is refused with the name of its file.
            file.add_to(&mut RootCertStore::empty(), certificates.clone())?;
            for certificate in certificates {
                named.push(Named::new(certificate).map_err(|why| file.error(&why))?);
            }
            Ok(())
        };
        if let Some(file) = &self.authorities {
            add(file, file.some_certificates()?)?;
        }
        for file in self.folder.iter().flatten() {
            add(file, file.certificates()?)?;
        }
        if let (true, Some(path)) = (named.is_empty(), &options.ca_path) {
            let why = "no file in it has a certificate in PEM";
            return Err(pem::refusal("tls_ca_path", path, &why));
        }
        Ok(named)
    }
}

/// The error of a configuration that rustls does not take.
fn unusable(error: &dyn Display) -> Error {
    Error::new(Kind::Config, format!("TLS: {error}")).not_sent()
}

/// The files in a folder, sorted by name.
fn read_folder(folder: &Path) -> Result<Vec<PemFile>, Error> {
    let unreadable = |error| pem::refusal("tls_ca_path", folder, &error);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_file() {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    paths.iter().map(|path| PemFile::read("tls_ca_path", path)).collect()
}

/// What the provider of cryptography supports, for messages; docs/configuration.md says it too.
fn algorithms() -> String {
    format!("supported are TLS 1.2 and 1.3, and keys of {}", pem::KEYS)
}

/// An error of TLS in words, with the option that may correct it.
pub(super) fn reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => certificate_reason(error),
        rustls::Error::InvalidMessage(_) => {
            "the TLS handshake failed: the answer is not one of TLS: does it speak TLS?".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server demands a certificate of the client (set tls_cert_file and tls_key_file)"
                .to_owned()
        }
        // OpenSSL's answer to a missing certificate in TLS 1.2.
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            format!(
                "the server ends the handshake: it demands another certificate of the client (tls_cert_file), or has no \
                 version or algorithm in common with it; {}",
                algorithms()
            )
        }
        rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        )
        | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            // OpenSSL says the same of a version that the server's key cannot be used with.
            format!(
                "the server does not support TLS 1.2 or 1.3, or not with its key; {}",
                algorithms()
            )
        }
        rustls::Error::AlertReceived(AlertDescription::InsufficientSecurity)
        | rustls::Error::PeerIncompatible(_) => {
            format!(
                "the server and this client have no version or algorithm in common; {}",
                algorithms()
            )
        }
        rustls::Error::AlertReceived(alert) => {
            let what = match refuses_certificate(error) {
                true => "refuses the client's certificate, or demands one",
                false => "ends the handshake",
            };
            format!("the server {what}: its alert is {}", alert_name(*alert))
        }
        rustls::Error::NoCertificatesPresented => "the server has no certificate".to_owned(),
        rustls::Error::General(why) => format!("the TLS handshake failed: {why}"),
        _ => "the TLS handshake failed: the server does not keep to the protocol of TLS".to_owned(),
    }
}

/// The name of an alert in the standard, such as `handshake_failure`, or its number.
///
/// Source: RFC 8446, 6.
fn alert_name(alert: AlertDescription) -> String {
    let Some(name) = alert.as_str() else { return u8::from(alert).to_string() };
    let (mut found, mut before) = (String::new(), 'A');
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && before.is_ascii_lowercase() {
            found.push('_');
        }
        found.push(letter.to_ascii_lowercase());
        before = letter;
    }
    found
}

/// A moment in words.
fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    ASN1Time::from_timestamp(seconds).map_or_else(|_| seconds.to_string(), |date| date.to_string())
}

fn certificate_reason(error: &CertificateError) -> String {
    let why = match error {
        CertificateError::UnknownIssuer => {
            "is not signed by a trusted authority (set tls_ca_file)".to_owned()
        }
        CertificateError::Other(other) if other.0.is::<Untrusted>() => other.0.to_string(),
        _ if is_of_authority(error) => {
            "is that of an authority, and not one that tls_ca_file names (name it there, or make one with \
             basicConstraints CA:FALSE)"
                .to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } if presented.is_empty() => {
            format!(
                "has no subjectAltName, but perhaps a CN, which is not read: it must name {}",
                expected.to_str()
            )
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            // `DnsName("a.example")`, `IpAddress(10.0.0.1)`
            let name = |shown: &String| {
                let name = shown.split_once('(').map_or(shown.as_str(), |(_, name)| name);
                name.trim_end_matches(')').trim_matches('"').to_owned()
            };
            let names: Vec<_> = presented.iter().map(name).collect();
            format!(
                "is for {}, not for {} (set tls_server_name if the certificate is right)",
                names.join(", "),
                expected.to_str()
            )
        }
        CertificateError::Expired => "has dates that no day is between".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("has expired: it was valid until {}, and it is {}", date(*not_after), date(*time))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            format!(
                "is not valid yet: it is valid from {}, and it is {}",
                date(*not_before),
                date(*time)
            )
        }
        CertificateError::Revoked => "was revoked".to_owned(),
        CertificateError::BadSignature => "has a signature that is not its authority's".to_owned(),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            format!("is of an algorithm that is not supported; {}", algorithms())
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not one of a server (its extendedKeyUsage lacks serverAuth)".to_owned()
        }
        CertificateError::BadEncoding | CertificateError::UnhandledCriticalExtension => {
            "cannot be read: it is damaged, or has a critical extension that is not known".to_owned()
        }
        _ => "cannot be trusted".to_owned(),
    };
    format!("the server's certificate {why}")
}

/// Whether the server ended the handshake because of the client's certificate, or of its absence.
/// With TLS 1.3 the client learns this only after it has sent its request, which the server did not
/// read.
pub(super) fn refuses_certificate(error: &rustls::Error) -> bool {
    use AlertDescription as Alert;
    matches!(
        error,
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
                | Alert::NoCertificate
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
        )
    )
}

/// Whether a certificate is refused only because it is an authority's.
fn is_of_authority(error: &CertificateError) -> bool {
    let CertificateError::Other(other) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// A certificate in a file that the options name.
#[derive(Debug)]
struct Named {
    certificate: CertificateDer<'static>,
    /// Whether it may sign others. What a server has in its own name may not.
    is_authority: bool,
    /// The Unix seconds from and to which it is valid.
    valid: RangeInclusive<i64>,
}

impl Named {
    fn new(certificate: CertificateDer<'static>) -> Result<Self, X509Error> {
        let (_, parsed) = parse_x509_certificate(&certificate)?;
        let constraints = parsed.basic_constraints()?;
        // Before version 3 a certificate does not say it.
        let is_authority = match constraints {
            Some(constraints) => constraints.value.ca,
            None => parsed.version() != X509Version::V3,
        };
        let dates = parsed.validity();
        let valid = dates.not_before.timestamp()..=dates.not_after.timestamp();
        Ok(Named { certificate, is_authority, valid })
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

fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Why a server's certificate is not trusted, in words, where rustls has no error for it.
#[derive(Debug)]
struct Untrusted(String);

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Untrusted {}

const LATE: &str = "cannot be trusted: the authority that signed it, and that tls_ca_file or tls_ca_path names, has expired, or is \
                    not valid yet";

impl From<Untrusted> for rustls::Error {
    fn from(why: Untrusted) -> Self {
        CertificateError::Other(OtherError(Arc::new(why))).into()
    }
}

/// The error of a signature. For rustls one that was made with a key of too few bits is a wrong one.
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

/// The error of a handshake's signature, which the server makes with the key of its certificate.
fn of_handshake(error: rustls::Error, certificate: &CertificateDer<'_>) -> rustls::Error {
    of_signature(error, "cannot be used: its key is", [certificate].into_iter())
}

/// Whether a certificate is that of the authority that another one names as its own.
fn is_issuer(authority: &CertificateDer<'_>, of: &CertificateDer<'_>) -> bool {
    let parsed = (parse_x509_certificate(authority), parse_x509_certificate(of));
    let (Ok((_, authority)), Ok((_, of))) = parsed else { return false };
    authority.subject().as_raw() == of.issuer().as_raw()
}

/// Accepts a certificate that a trusted authority has signed, and one that the options name themselves, also if it is an
/// authority's, as `openssl req -x509` makes it. webpki does not look at what an authority says of itself: whether it is one,
/// and its dates.
#[derive(Debug)]
struct NamedOrSigned {
    /// With all authorities; `None`: there is none.
    signed: Option<Arc<WebPkiServerVerifier>>,
    /// Those of the system.
    roots: RootCertStore,
    named: Vec<Named>,
    provider: Arc<CryptoProvider>,
}

impl NamedOrSigned {
    fn new(
        roots: RootCertStore,
        named: Vec<Named>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::Error> {
        let verifier = NamedOrSigned { signed: None, roots, named, provider };
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
        if let Some(own) = self.named.iter().find(|it| it.certificate == *certificate) {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            own.check_dates(now)?;
            return Ok(ServerCertVerified::assertion());
        }
        let valid = match self.authorities().all(|it| it.check_dates(now).is_ok()) {
            true => self.signed.clone(),
            false => self.signed_by(|it| it.check_dates(now).is_ok())?,
        };
        let verify = |by: &Option<Arc<WebPkiServerVerifier>>| match by {
            Some(by) => by.verify_server_cert(certificate, others, name, ocsp, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        verify(&valid).map_err(|error| {
            if error == CertificateError::UnknownIssuer.into() && verify(&self.signed).is_ok() {
                return Untrusted(LATE.to_owned()).into();
            }
            let named = self.authorities().map(|it| &it.certificate);
            let is_signer = |it: &&CertificateDer<'_>| {
                is_issuer(it, certificate) || others.iter().any(|of| is_issuer(it, of))
            };
            let signers = others.iter().chain(named).filter(is_signer);
            of_signature(error, "is signed by an authority whose key is", signers)
        })
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
/// the key of its certificate, which must be one that TLS can use.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

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

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ContentType, InvalidMessage, PeerMisbehaved};

    /// A name of rustls, such as `HandshakeFailure` or `Some(…)`.
    fn is_code(word: &str) -> bool {
        let letters: Vec<_> = word.chars().filter(char::is_ascii_alphabetic).collect();
        let begins = letters.first().is_some_and(char::is_ascii_uppercase);
        let joins = |pair: &[char]| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase();
        word.contains("::") || word.contains('{') || begins && letters.windows(2).any(joins)
    }

    #[test]
    fn no_error_of_tls_shows_a_name_of_the_librarys_code() {
        use CertificateError as Certificate;
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let certificates = [
            Certificate::BadEncoding,
            Certificate::Expired,
            Certificate::ExpiredContext { time: at(1_700_000_000), not_after: at(1_600_000_000) },
            Certificate::NotValidYet,
            Certificate::NotValidYetContext { time: at(0), not_before: at(1_600_000_000) },
            Certificate::Revoked,
            Certificate::UnhandledCriticalExtension,
            Certificate::UnknownIssuer,
            Certificate::UnknownRevocationStatus,
            Certificate::ExpiredRevocationList,
            Certificate::BadSignature,
            Certificate::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: vec![1],
                supported_algorithms: Vec::new(),
            },
            Certificate::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: vec![1],
                public_key_algorithm_id: vec![2],
            },
            Certificate::NotValidForName,
            Certificate::InvalidPurpose,
            Certificate::InvalidOcspResponse,
            Certificate::ApplicationVerificationFailure,
            Certificate::Other(OtherError(Arc::new(webpki::Error::CaUsedAsEndEntity))),
            Certificate::Other(OtherError(Arc::new(webpki::Error::PathLenConstraintViolated))),
            Certificate::Other(OtherError(Arc::new(webpki::Error::UnsupportedCertVersion))),
            Certificate::Other(OtherError(Arc::new(webpki::Error::NameConstraintViolation))),
        ];
        let incompatible = [
            PeerIncompatible::NoCipherSuitesInCommon,
            PeerIncompatible::NoKxGroupsInCommon,
            PeerIncompatible::NoSignatureSchemesInCommon,
            PeerIncompatible::ServerDoesNotSupportTls12Or13,
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            PeerIncompatible::ServerRejectedEncryptedClientHello(None),
        ];
        let others = [
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType),
            rustls::Error::InappropriateMessage {
                expect_types: vec![ContentType::Handshake],
                got_type: ContentType::Alert,
            },
            rustls::Error::PeerMisbehaved(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec),
            rustls::Error::NoCertificatesPresented,
            rustls::Error::DecryptError,
            rustls::Error::PeerSentOversizedRecord,
            rustls::Error::NoApplicationProtocol,
            rustls::Error::FailedToGetCurrentTime,
        ];
        let alerts = (0..=u8::MAX).map(|code| rustls::Error::AlertReceived(code.into()));
        let errors = certificates
            .into_iter()
            .map(rustls::Error::from)
            .chain(incompatible.into_iter().map(rustls::Error::from))
            .chain(others)
            .chain(alerts);
        for error in errors {
            let message = reason(&error);
            assert!(!message.split_whitespace().any(is_code), "{error:?}: {message}");
            assert!(message.contains(' '), "{error:?}: {message}");
        }
        let alert = |alert| reason(&rustls::Error::AlertReceived(alert));
        assert!(alert(AlertDescription::UnknownCA).ends_with("its alert is unknown_ca"));
        assert!(alert(AlertDescription::BadRecordMac).ends_with("its alert is bad_record_mac"));
        assert!(alert(AlertDescription::from(200)).ends_with("its alert is 200"));
    }
}
