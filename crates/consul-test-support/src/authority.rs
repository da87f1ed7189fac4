//! Certificate authorities for tests, their certificates, and files with them.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, crypto::ring};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, both in PEM.
pub struct Identity {
    /// The certificate; behind it may be those that have signed it.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// A new one of this name, with a self-signed certificate.
    pub fn new(name: &str) -> Authority {
        Self::new_changed(name, |_| {})
    }

    /// The same with changed parameters.
    pub fn new_changed(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Authority {
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// A server's certificate, whose key signs others although it may not: of an authority, or self-signed.
    pub fn of_leaf(by: Option<&Authority>) -> Authority {
        let mut params = named("leaf", &["127.0.0.1"]);
        params.is_ca = IsCa::ExplicitNoCa;
        let key = KeyPair::generate().expect("a key");
        Authority(match by {
            Some(by) => CertifiedIssuer::signed_by(params, key, &by.0).expect("a certificate"),
            None => CertifiedIssuer::self_signed(params, key).expect("a certificate"),
        })
    }

    /// An authority that this one has signed, with changed parameters.
    pub fn intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> Authority {
        let mut params = named("intermediate", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::signed_by(params, key, &self.0).expect("a certificate"))
    }

    /// Its certificate in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these names.
    pub fn sign(&self, names: &[&str]) -> Identity {
        self.sign_changed(names, |_| {})
    }

    /// A certificate for these names, with changed parameters.
    pub fn sign_changed(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut params = named("leaf", names);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate").pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

/// Whether a client's certificate is valid with this root, and those that follow it.
pub fn verify(root: &str, certificate: &str) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let root = CertificateDer::from_pem_slice(root.as_bytes()).map_err(|error| failed(&error))?;
    roots.add(root).map_err(|error| failed(&error))?;
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let verifier = verifier.build().map_err(|error| failed(&error))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
    let chain = chain.map_err(|error| failed(&error))?;
    let (leaf, more) = chain.split_first().ok_or("there is no certificate")?;
    let verified = verifier.verify_client_cert(leaf, more, UnixTime::now());
    verified.map(drop).map_err(|error| failed(&error))
}

/// Whether a private key is that of a certificate.
pub fn key_fits(certificate: &str, key: &str) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let leaf = CertificateDer::from_pem_slice(certificate.as_bytes());
    let leaf = leaf.map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| failed(&error))?;
    let fits = CertifiedKey::from_der(vec![leaf], key, &ring::default_provider());
    fits.map(drop).map_err(|error| failed(&error))
}

impl Identity {
    /// A self-signed certificate for these names.
    pub fn self_signed(names: &[&str]) -> Identity {
        Self::self_signed_changed(names, |_| {})
    }

    /// One with changed parameters.
    pub fn self_signed_changed(
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = named("itself", names);
        change(&mut params);
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    /// A server with this certificate. With `clients` it requires client certificates from that
    /// authority.
    pub fn server(&self, clients: Option<&Authority>) -> ServerConfig {
        self.server_of(clients, rustls::ALL_VERSIONS)
    }

    /// The same with these versions of TLS.
    pub fn server_of(
        &self,
        clients: Option<&Authority>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(der(&authority.pem())).expect("a certificate");
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key");
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
        let key = ring::sign::any_supported_type(&key).expect("a key of TLS");
        // Not `with_single_cert`, which reads the certificate, and refuses what tests of clients present.
        let own = SingleCertAndKey::from(CertifiedKey::new(chain, key));
        builder.with_cert_resolver(Arc::new(own))
    }
}

fn named(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

/// A folder that is deleted when it is dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// An empty one, short enough for a socket's path.
    pub fn new() -> Folder {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("consul_ffi-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("the folder can be made");
        Folder(path)
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file and returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, content).expect("the file can be written");
        path.to_str().expect("a path of text").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
