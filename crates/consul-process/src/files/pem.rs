//! Certificates and private keys in PEM files.

use crate::os;
use consul_api::error::{Error, Kind};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

/// The largest file that is read, in bytes. All authorities of a system together are a quarter of it.
pub const MAX_BYTES: usize = 1 << 20;

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
        Ok(PemFile { option, path: path.to_owned(), bytes })
    }

    /// This text, as if it were read from a file.
    /// For tests: a file with this text, which is at no path.
    pub fn of(text: String) -> Self {
        PemFile { option: "a test", path: PathBuf::new(), bytes: text.into() }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The certificates in the file, which may have none.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        CertificateDer::pem_slice_iter(&self.bytes)
            .collect::<Result<_, _>>()
            .map_err(|error| self.error(&format!("it is not valid PEM: {error}")))
    }

    /// The certificates in the file, at least one.
    pub fn some_certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let found = self.certificates()?;
        if found.is_empty() {
            return Err(self.error(&"it has no certificate in PEM"));
        }
        Ok(found)
    }

    /// The private key in the file.
    pub fn private_key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|_| {
            self.error(&"it has no private key in PEM (an encrypted one cannot be used)")
        })
    }

    /// Adds certificates of this file to those of trusted authorities.
    pub fn add_to(
        &self,
        roots: &mut RootCertStore,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Result<(), Error> {
        let mut certificates = certificates.into_iter();
        certificates.try_for_each(|one| roots.add(one).map_err(|error| self.error(&error)))
    }

    /// The error for a certificate, in this file, and its key, in another, that cannot be used.
    pub fn unusable(&self, key: &PemFile, error: &rustls::Error) -> Error {
        match error {
            rustls::Error::InvalidCertificate(_) => self.error(error),
            _ => key.error(&format!("not the key of {}: {error}", self.path.display())),
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
