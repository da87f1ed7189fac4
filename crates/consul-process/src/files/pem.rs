//! Certificates and private keys in PEM files.

use crate::os;
use consul_api::error::{Error, Kind};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use x509_parser::parse_x509_certificate;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The largest file that is read, in bytes. All authorities of a system together are a quarter of it.
pub const MAX_BYTES: usize = 1 << 20;

/// The keys that TLS can use, for messages.
pub const KEYS: &str = "RSA from 2048 bits, P-256, P-384, P-521 and Ed25519";

/// The sizes of an RSA key in bits: of a peer's, and of an own one.
pub const PEERS_RSA: RangeInclusive<usize> = 2048..=8192;
const OWN_RSA: RangeInclusive<usize> = 2048..=4096;

/// Whether a text has a certificate in PEM.
pub fn is_certificate(text: &str) -> bool {
    certificate(text).is_some()
}

/// The first certificate of a text in PEM, as DER.
pub fn certificate(text: &str) -> Option<Vec<u8>> {
    CertificateDer::from_pem_slice(text.as_bytes()).ok().map(|der| der.to_vec())
}

/// A private key as DER.
pub enum PrivateKey {
    /// Of PKCS #8.
    Pkcs8(Vec<u8>),
    /// Of SEC 1: one of an elliptic curve.
    Sec1(Vec<u8>),
    /// Of another form.
    Other,
}

/// The first private key of a text in PEM.
pub fn private_key(text: &str) -> Option<PrivateKey> {
    Some(match PrivateKeyDer::from_pem_slice(text.as_bytes()).ok()? {
        PrivateKeyDer::Pkcs8(key) => PrivateKey::Pkcs8(key.secret_pkcs8_der().to_vec()),
        PrivateKeyDer::Sec1(key) => PrivateKey::Sec1(key.secret_sec1_der().to_vec()),
        _ => PrivateKey::Other,
    })
}

/// The kind of a certificate's key in words, and why TLS cannot use it; `None` if it can.
pub fn unusable_key(certificate: &[u8], rsa_bits: &RangeInclusive<usize>) -> Option<String> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    let key = parsed.public_key();
    if let Ok(PublicKey::RSA(rsa)) = key.parsed() {
        let (bits, least, most) = (rsa.key_size(), rsa_bits.start(), rsa_bits.end());
        return match bits {
            _ if bits < *least => {
                Some(format!("RSA with {bits} bits: at least {least} are needed"))
            }
            _ if bits > *most => Some(format!("RSA with {bits} bits: up to {most} are supported")),
            _ => None,
        };
    }
    let kind = match kind_of(key).as_str() {
        // P-256, P-384, P-521, Ed25519
        "1.2.840.10045.3.1.7" | "1.3.132.0.34" | "1.3.132.0.35" | "1.3.101.112" => return None,
        "1.2.840.10045.3.1.1" => "P-192".to_owned(),
        "1.3.132.0.33" => "P-224".to_owned(),
        "1.3.132.0.10" => "secp256k1".to_owned(),
        "1.3.101.113" => "Ed448".to_owned(),
        "1.2.840.10040.4.1" => "DSA".to_owned(),
        "1.2.840.113549.1.1.10" => "RSA for PSS alone".to_owned(),
        id => format!("of the kind {id}"),
    };
    Some(format!("{kind}: supported are {KEYS}"))
}

/// The object identifier of a key's curve, or else of its algorithm.
fn kind_of(key: &SubjectPublicKeyInfo<'_>) -> String {
    const ELLIPTIC_CURVE: &str = "1.2.840.10045.2.1";
    let algorithm = key.algorithm.algorithm.to_id_string();
    let curve = key.algorithm.parameters.as_ref().and_then(|it| it.as_oid().ok());
    match curve {
        Some(curve) if algorithm == ELLIPTIC_CURVE => curve.to_id_string(),
        _ => algorithm,
    }
}

const ESCAPED: &str = "it is not valid PEM: it has the two characters \\n where lines must end";

const DAMAGED: &str = "a certificate in it cannot be read: it is damaged";

/// A file's content without the byte order mark that editors of Windows put first.
fn without_mark(bytes: Vec<u8>) -> Vec<u8> {
    bytes.strip_prefix("\u{feff}".as_bytes()).map(<[u8]>::to_vec).unwrap_or(bytes)
}

/// The content of a PEM file, and the option that names the file.
#[derive(PartialEq, Eq)]
pub struct PemFile {
    option: &'static str,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl PemFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Kind::Config`], naming the option and the file.
    pub fn read(option: &'static str, path: &Path) -> Result<Self, Error> {
        let bytes =
            os::read_file(path, MAX_BYTES).map_err(|error| refusal(option, path, &error))?;
        Ok(PemFile { option, path: path.to_owned(), bytes: without_mark(bytes) })
    }

    /// For tests: a file with this text, which is at no path.
    pub fn of(text: String) -> Self {
        let bytes = without_mark(text.into_bytes());
        PemFile { option: "a test", path: PathBuf::new(), bytes }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The certificates in the file, which may have none.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        CertificateDer::pem_slice_iter(&self.bytes)
            .collect::<Result<_, _>>()
            .map_err(|error| self.error(&self.syntax(&error)))
    }

    /// The certificates in the file, at least one.
    pub fn some_certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let found = self.certificates()?;
        if found.is_empty() {
            return Err(self.error(&match self.is_escaped() {
                true => ESCAPED,
                false => "it has no certificate in PEM",
            }));
        }
        Ok(found)
    }

    /// The private key in the file.
    pub fn private_key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|error| {
            self.error(&match error {
                // An encrypted key of the old form has lines that are not base64.
                pem::Error::NoItemsFound | pem::Error::Base64Decode(_) if !self.is_escaped() => {
                    "it has no private key in PEM (an encrypted one cannot be used)"
                }
                error => self.syntax(&error),
            })
        })
    }

    /// The fault of the text. The parser's own errors show the line, which can be a whole private key.
    fn syntax(&self, error: &pem::Error) -> &'static str {
        match error {
            _ if self.is_escaped() => ESCAPED,
            pem::Error::IllegalSectionStart { .. } => {
                "it is not valid PEM: a line that begins with -----BEGIN does not end with -----"
            }
            pem::Error::MissingSectionEnd { .. } => {
                "it is not valid PEM: a section does not end with a line -----END …-----"
            }
            pem::Error::Base64Decode(_) => "it is not valid PEM: a section in it is not base64",
            _ => "it is not valid PEM",
        }
    }

    /// Whether its lines end with a backslash and an `n`, as texts in environment variables and in JSON have them.
    fn is_escaped(&self) -> bool {
        self.bytes.windows(7).any(|it| it == br"-----\n")
    }

    /// The certificates of this file, with the key in another.
    ///
    /// The first one is only compared with the key, so it may be of version 1 of X.509, which rustls does not read: what
    /// `openssl x509 -req` makes without extensions, and what Go's crypto/tls and curl present.
    ///
    /// # Errors
    /// [`Kind::Config`], naming the option and the file of the unusable one.
    pub fn with_key(&self, key: &PemFile, by: &CryptoProvider) -> Result<CertifiedKey, Error> {
        let (certificates, private) = (self.some_certificates()?, key.private_key()?);
        let loaded = by.key_provider.load_private_key(private);
        let loaded = loaded.map_err(|error| self.unusable(key, &error))?;
        let own = certificates.first().map(|own| parse_x509_certificate(own));
        let Some(Ok(([], own))) = own else { return Err(self.error(&DAMAGED)) };
        if loaded.public_key().is_some_and(|it| it.as_ref() != own.public_key().raw) {
            return Err(self.unusable(key, &InconsistentKeys::KeyMismatch.into()));
        }
        Ok(CertifiedKey::new(certificates, loaded))
    }

    /// Adds certificates of this file to the trusted authorities.
    pub fn add_to(
        &self,
        roots: &mut RootCertStore,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Result<(), Error> {
        let mut certificates = certificates.into_iter();
        certificates.try_for_each(|one| roots.add(one).map_err(|_| self.error(&DAMAGED)))
    }

    /// The error for a certificate, in this file, and its key, in another, that cannot be used.
    pub fn unusable(&self, key: &PemFile, error: &rustls::Error) -> Error {
        let path = self.path.display();
        let own = self.certificates().unwrap_or_default();
        let kind = own.first().and_then(|own| unusable_key(own, &OWN_RSA));
        match (error, kind) {
            (rustls::Error::InvalidCertificate(_), _) => self.error(&DAMAGED),
            (rustls::Error::InconsistentKeys(_), _) => key.error(&format!("not the key of {path}")),
            (_, Some(kind)) => key.error(&format!("the key of {path} is {kind}")),
            _ => key.error(&format!("it cannot be used: supported are {KEYS}")),
        }
    }

    /// The file cannot be used for this reason.
    pub fn error(&self, why: &dyn Display) -> Error {
        refusal(self.option, &self.path, why)
    }
}

/// Without the content, which may be a private key.
impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PemFile").field(&self.path).finish()
    }
}

/// The error for a file that cannot be used.
pub fn refusal(option: &'static str, path: &Path, why: &dyn Display) -> Error {
    Error::new(Kind::Config, format!("{option}: {}: {why}", path.display())).not_sent()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files whose lines do not end, begin or hold what PEM needs.
    fn damaged() -> Vec<String> {
        let section = |kind: &str, body: &str| {
            format!("-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n")
        };
        let mut whole = Vec::new();
        for kind in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "CERTIFICATE", "SECRET"] {
            whole.push(section(kind, "U0VDUkVUU0VDUkVU\nU0VDUkVUU0VDUkVU"));
            whole.push(section(kind, "U0VDUkVU!U0VDUkVU"));
        }
        whole.push(whole.concat());
        let mut found = Vec::new();
        for text in whole {
            found.push(text.replace('\n', "\\n"));
            found.push(text.replace('\n', "\\n").trim_end_matches("\\n").to_owned());
            found.push(text.replace('\n', "\\r\\n"));
            for join in ["", " ", "\t", "\r", "\\\n"] {
                found.push(text.replace('\n', join));
            }
            for cut in 0..text.len() {
                found.extend([text[..cut].to_owned(), text[cut..].to_owned()]);
                found.push(format!("{}{}", &text[..cut], &text[cut + 1..]));
            }
        }
        found
    }

    #[test]
    fn no_message_about_a_file_shows_what_is_in_it() {
        let mut seen = 0;
        for text in damaged() {
            let file = PemFile::of(text.clone());
            let errors = [
                file.certificates().err(),
                file.some_certificates().err(),
                file.private_key().err(),
            ];
            for error in errors.into_iter().flatten() {
                seen += 1;
                let message = error.to_string();
                let shows =
                    ["U0VD", "SECRET", "[", "83, ", "85, "].iter().any(|it| message.contains(it));
                assert!(!shows && message.len() < 200, "{text:?}: {message}");
            }
        }
        assert!(seen > 1000, "{seen}");
    }

    #[test]
    fn a_byte_order_mark_is_not_a_part_of_a_file() {
        let text =
            |kind: &str| format!("\u{feff}-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n");
        let certificates = PemFile::of(text("CERTIFICATE")).some_certificates();
        assert_eq!(certificates.expect("one").len(), 1);
        PemFile::of(text("PRIVATE KEY")).private_key().expect("a key");
    }

    #[test]
    fn what_is_wrong_with_the_text_is_said() {
        let certificate = |text: &str| {
            PemFile::of(text.into()).some_certificates().expect_err(text).message().to_owned()
        };
        let key = |text: &str| {
            PemFile::of(text.into()).private_key().expect_err(text).message().to_owned()
        };
        let escaped = r"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----";
        for escaped in [escaped.to_owned(), format!("{escaped}\n"), format!(r"{escaped}\n")] {
            for message in [certificate(&escaped), key(&escaped)] {
                assert!(
                    message.contains(r"the two characters \n where lines must end"),
                    "{message}"
                );
            }
        }
        for (text, why) in [
            ("-----BEGIN CERTIFICATE\nAAAA\n", "begins with -----BEGIN does not end with -----"),
            ("-----BEGIN PRIVATE KEY\nAAAA\n", "begins with -----BEGIN does not end with -----"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", "does not end with a line -----END"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n", "does not end with a line -----END"),
        ] {
            for message in [certificate(text), key(text)] {
                assert!(message.contains(why), "{text:?}: {message}");
            }
        }
        let text = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
        assert!(certificate(text).contains("is not base64"));
        let text = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        assert!(key(text).contains("an encrypted one cannot be used"));
    }
}
