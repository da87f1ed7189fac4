//! TLS with `https://` endpoints: whom to trust, the client's own certificate, and what went wrong
//! in words.

use super::TlsOptions;
use crate::error::{Error, Kind};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The set-up that the options say. Their files are read now, and not again.
///
/// # Errors
/// [`Kind::Config`] naming the option and the file that cannot be read or used.
pub(crate) fn config(options: &TlsOptions) -> Result<ClientConfig, Error> {
    let builder = builder()?;
    let builder = match options.verify {
        true => builder.with_root_certificates(trusted(options)?),
        false => {
            let provider = Arc::clone(builder.crypto_provider());
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAnybody(provider)))
        }
    };
    match (&options.cert_file, &options.key_file) {
        (Some(cert_file), Some(key_file)) => {
            let chain = certificates("tls_cert_file", cert_file)?;
            let key = PrivateKeyDer::from_pem_slice(&read("tls_key_file", key_file)?);
            let key = key.map_err(|_| {
                let why = "it holds no private key in PEM (an encrypted one cannot be used)";
                unusable("tls_key_file", key_file, &why)
            })?;
            builder.with_client_auth_cert(chain, key).map_err(|error| match error {
                rustls::Error::InvalidCertificate(_) => {
                    unusable("tls_cert_file", cert_file, &error)
                }
                _ => {
                    let why = format!("not the key of {}: {error}", cert_file.display());
                    unusable("tls_key_file", key_file, &why)
                }
            })
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;

fn builder() -> Result<Builder, Error> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Kind::Config, format!("TLS: {error}")).not_sent())
}

/// The authorities of the named files; without any, those of the system.
fn trusted(options: &TlsOptions) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &options.ca_file {
        add(&mut roots, "tls_ca_file", file, certificates("tls_ca_file", file)?)?;
    }
    if let Some(folder) = &options.ca_path {
        for file in files(folder)? {
            let pem = read("tls_ca_path", &file)?;
            add(&mut roots, "tls_ca_path", &file, parse("tls_ca_path", &file, &pem)?)?;
        }
        if roots.is_empty() {
            return Err(unusable(
                "tls_ca_path",
                folder,
                &"no file in it holds a certificate in PEM",
            ));
        }
    }
    if options.ca_file.is_none() && options.ca_path.is_none() {
        // The system's store may have certificates that rustls cannot use; the others count.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            let message = "this system has no store of certificates; name one by tls_ca_file";
            return Err(Error::new(Kind::Config, message).not_sent());
        }
    }
    Ok(roots)
}

/// The files in a folder, in the order of their names.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |error| unusable("tls_ca_path", folder, &error);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn add(
    roots: &mut RootCertStore,
    option: &str,
    file: &Path,
    certificates: Vec<CertificateDer<'static>>,
) -> Result<(), Error> {
    certificates.into_iter().try_for_each(|certificate| {
        roots.add(certificate).map_err(|error| unusable(option, file, &error))
    })
}

/// The certificates in a file, one at least.
fn certificates(option: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = parse(option, file, &read(option, file)?)?;
    if found.is_empty() {
        return Err(unusable(option, file, &"it holds no certificate in PEM"));
    }
    Ok(found)
}

fn parse(option: &str, file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(option, file, &format!("it is no PEM: {error}")))
}

fn read(option: &str, file: &Path) -> Result<Vec<u8>, Error> {
    fs::read(file).map_err(|error| unusable(option, file, &error))
}

fn unusable(option: &str, file: &Path, why: &dyn Display) -> Error {
    Error::new(Kind::Config, format!("{option}: {}: {why}", file.display())).not_sent()
}

/// What went wrong, in words and with the option that may mend it.
pub(super) fn reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => certificate_reason(error),
        rustls::Error::InvalidMessage(_) => {
            format!("the server does not seem to speak TLS on this port: {error}")
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server demands a certificate of the client (tls_cert_file, tls_key_file)"
                .to_owned()
        }
        rustls::Error::AlertReceived(_) if refuses_certificate(error) => {
            format!("the server refuses the client's certificate, or demands one: {error}")
        }
        _ => error.to_string(),
    }
}

fn certificate_reason(error: &CertificateError) -> String {
    let why = match error {
        CertificateError::UnknownIssuer => {
            "is signed by no trusted authority (tls_ca_file names those to trust)".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "is for {}, not for {} (tls_server_name says another name)",
            presented.join(", "),
            expected.to_str()
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("has expired: {error}")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("is not valid yet: {error}")
        }
        _ => format!("cannot be trusted: {error}"),
    };
    format!("the server's certificate {why}")
}

/// Whether the server ended the handshake over the client's certificate, or over its absence. With
/// TLS 1.3 a client learns this only after it has sent its request, which the server did not read.
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

/// Accepts every certificate: what `tls_verify = false` asks for. That the server owns the key of
/// the certificate that it shows is still checked.
#[derive(Debug)]
struct TrustAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnybody {
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

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
