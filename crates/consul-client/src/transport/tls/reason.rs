//! Errors of TLS in words.

use super::verify::Untrusted;
use consul_process::files::pem;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, ExtendedKeyPurpose, PeerIncompatible};
use x509_parser::asn1_rs::{FromDer as _, Oid};
use x509_parser::time::ASN1Time;

/// The algorithms of the provider of cryptography, for messages; docs/configuration.md lists them too.
fn algorithms() -> String {
    format!("supported are TLS 1.2 and 1.3, and keys of {}", pem::KEYS)
}

/// An error of TLS in words, with the option that may correct it.
pub fn reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => {
            format!("the server's certificate {}", certificate_problem(error, "tls_ca_file"))
        }
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

/// The name of a signature's algorithm, by how its identifier begins in DER.
///
/// Source: RFC 3279, RFC 4055, RFC 5758, RFC 8410.
fn signature_kind(id: &[u8]) -> String {
    let Ok((_, id)) = Oid::from_der(id) else { return "of an unknown one".to_owned() };
    let id = id.to_id_string();
    let known = match id.as_str() {
        "1.2.840.113549.1.1.4" => "MD5 with RSA",
        "1.2.840.113549.1.1.5" => "SHA-1 with RSA",
        "1.2.840.113549.1.1.10" => "RSA-PSS with other parameters",
        "1.2.840.113549.1.1.13" => "SHA-512 with RSA",
        "1.2.840.113549.1.1.14" => "SHA-224 with RSA",
        "1.2.840.10045.4.1" => "SHA-1 with ECDSA",
        "1.2.840.10045.4.3.1" => "SHA-224 with ECDSA",
        "1.2.840.10045.4.3.2" => "SHA-256 with ECDSA",
        "1.2.840.10045.4.3.3" => "SHA-384 with ECDSA",
        "1.2.840.10045.4.3.4" => "SHA-512 with ECDSA",
        "1.3.101.113" => "Ed448",
        _ => &id,
    };
    known.to_owned()
}

/// The name of an alert in the standard, such as `handshake_failure`, or its number.
///
/// Source: RFC 8446, 6.
pub fn alert_name(alert: AlertDescription) -> String {
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

/// The fault of a certificate, in words that follow "the certificate"; `ca_option` names the option that trusts
/// authorities.
pub fn certificate_problem(error: &CertificateError, ca_option: &str) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            format!("is not signed by a trusted authority (set {ca_option})")
        }
        CertificateError::Other(other) if other.0.is::<Untrusted>() => other.0.to_string(),
        _ if is_of_authority(error) => {
            format!(
                "is that of an authority, and not one that {ca_option} names (name it there, or make one with \
                 basicConstraints CA:FALSE)"
            )
        }
        CertificateError::NotValidForNameContext { expected, presented }
            if presented.is_empty() =>
        {
            format!(
                "has no subjectAltName, but perhaps a CN, which is not read: it must name {}",
                expected.to_str()
            )
        }
        CertificateError::NotValidForNameContext {
            expected: expected @ ServerName::IpAddress(_),
            presented,
        } if presented.contains(&format!("DnsName({:?})", expected.to_str())) => {
            format!(
                "has the address {0} as a DNS name in its subjectAltName, where it must be an IP address (IP:{0})",
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
            format!(
                "has expired: it was valid until {}, and it is {}",
                date(*not_after),
                date(*time)
            )
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
        CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: id,
            ..
        }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: id,
            ..
        } => {
            format!(
                "has a signature of a kind that is not supported ({}), or an authority that signed it has one: supported are \
                 SHA-256, SHA-384 and SHA-512, but for keys of P-256 and P-384 not SHA-512",
                signature_kind(id)
            )
        }
        CertificateError::InvalidPurposeContext { presented, required } => {
            let (role, lacks) = match required {
                ExtendedKeyPurpose::ClientAuth => ("a client", "clientAuth"),
                _ => ("a server", "serverAuth"),
            };
            match presented == &[any_purpose()] {
                true => format!(
                    "is not one of {role}: its extendedKeyUsage is anyExtendedKeyUsage alone, and lacks {lacks}"
                ),
                false => format!("is not one of {role} (its extendedKeyUsage lacks {lacks})"),
            }
        }
        CertificateError::InvalidPurpose => {
            "is not one for this side of a connection (its extendedKeyUsage)".to_owned()
        }
        CertificateError::BadEncoding | CertificateError::UnhandledCriticalExtension => {
            "cannot be read: it is damaged, or has a critical extension that is not known"
                .to_owned()
        }
        CertificateError::Other(other) => match other.0.downcast_ref() {
            Some(error) => of_webpki(error).to_owned(),
            None => "cannot be trusted".to_owned(),
        },
        _ => "cannot be trusted".to_owned(),
    }
}

/// anyExtendedKeyUsage, for which webpki does not accept a server.
///
/// Source: RFC 5280, 4.2.1.12.
fn any_purpose() -> ExtendedKeyPurpose {
    ExtendedKeyPurpose::Other(vec![2, 5, 29, 37, 0])
}

/// The errors of webpki for which rustls has no own, as what follows "the certificate".
fn of_webpki(error: &webpki::Error) -> &'static str {
    use webpki::Error as Why;
    match error {
        Why::UnsupportedCriticalExtension => {
            "has, or an authority that signed it has, a critical extension that is not supported"
        }
        Why::NameConstraintViolation => {
            "is for a name that the nameConstraints of an authority that signed it do not permit"
        }
        Why::MalformedNameConstraint | Why::InvalidNetworkMaskConstraint => {
            "is signed by an authority whose nameConstraints cannot be read"
        }
        Why::EndEntityUsedAsCa => {
            "is signed with a certificate that is not an authority's (its basicConstraints lack CA:TRUE)"
        }
        Why::PathLenConstraintViolated => {
            "is signed by more intermediates than the pathlen of an authority permits (basicConstraints)"
        }
        Why::UnsupportedCertVersion => {
            "is of version 1 of X.509, or signed with one of that version: version 3 is required (a certificate with \
             extensions, such as subjectAltName)"
        }
        Why::MaximumPathDepthExceeded
        | Why::MaximumPathBuildCallsExceeded
        | Why::MaximumSignatureChecksExceeded
        | Why::MaximumNameConstraintComparisonsExceeded => {
            "is signed by too many intermediates, or by ones with too many nameConstraints"
        }
        Why::InvalidSerialNumber
        | Why::SignatureAlgorithmMismatch
        | Why::ExtensionValueInvalid
        | Why::EmptyEkuExtension
        | Why::MalformedExtensions
        | Why::MalformedDnsIdentifier => {
            "is not valid: its serial number, its algorithms, an extension or a name in it is not what X.509 permits"
        }
        _ => "cannot be trusted",
    }
}

/// Whether a certificate is refused because of a critical extension.
pub(super) fn is_of_extension(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return false;
    };
    matches!(other.0.downcast_ref(), Some(webpki::Error::UnsupportedCriticalExtension))
}

/// Whether the server ended the handshake because of the client's certificate, or of its absence.
/// With TLS 1.3 the client learns this only after it has sent its request, which the server did not
/// read.
pub fn refuses_certificate(error: &rustls::Error) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ContentType, InvalidMessage, OtherError, PeerMisbehaved};
    use std::sync::Arc;
    use std::time::Duration;

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
