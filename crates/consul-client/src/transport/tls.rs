//! TLS with `https://` endpoints: the files of trusted authorities and of the client's own certificate.

mod reason;
mod verify;

pub use self::reason::{alert_name, certificate_problem};
pub(super) use self::reason::{reason, refuses_certificate};

use self::verify::{AnyCertificate, Named, NamedOrSigned, end_of_chain};
use super::crypto::provider;
use super::{Expiry, TlsOptions};
use consul_api::error::{Error, Kind};
use consul_process::clock::Clock;
use consul_process::files::FromFiles;
use consul_process::files::pem::{self, PemFile};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

    /// Which certificates expire first: the client's own, with the authorities that signed it, or all authorities that the
    /// client trusts.
    pub(super) fn expiry(&self) -> Option<Expiry> {
        let all = |file: &PemFile| file.certificates().unwrap_or_default();
        let ends = |file: &PemFile| {
            let named = all(file).into_iter().filter_map(|it| Named::new(it).ok());
            named.map(|it| it.end_s()).collect::<Vec<_>>()
        };
        let of = |option| move |at_s| Expiry { at_s, option };
        let own = self.certificate.as_ref().and_then(|file| end_of_chain(&all(file)));
        let own = own.map(of("tls_cert_file"));
        let authority = match (&self.authorities, &self.folder) {
            (None, Some(_)) => "tls_ca_path",
            _ => "tls_ca_file",
        };
        let authorities = self.authorities.iter().chain(self.folder.iter().flatten());
        let authorities = authorities.flat_map(ends).max().map(of(authority));
        own.into_iter().chain(authorities).min()
    }

    fn config(&self, options: &TlsOptions) -> Result<ClientConfig, Error> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?;
        let verifier: Arc<dyn ServerCertVerifier> = match options.verify {
            true => Arc::new(self.verifier(options, Arc::clone(&provider))?),
            false => Arc::new(AnyCertificate(Arc::clone(&provider))),
        };
        let own = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some(certificate.with_key(key, &provider)?),
            _ => None,
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match own {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
            None => builder.with_no_client_auth(),
        };
        // An address is not indicated (RFC 6066, 3), and no other name takes its place.
        config.enable_sni = options.server_address().is_none();
        Ok(config)
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
        let address = options.server_address();
        NamedOrSigned::new(roots, named, address, provider).map_err(|error| unusable(&error))
    }

    /// The certificates in the configured files.
    fn named(&self, options: &TlsOptions) -> Result<Vec<Named>, Error> {
        let mut named = Vec::new();
        let mut add = |file: &PemFile, certificates: Vec<CertificateDer<'static>>| {
            // A certificate that rustls cannot use is refused with the name of its file.
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
