//! The sockets on which an agent is served.

use consul_api::error::{Error, Kind};
use consul_process::files::pem::PemFile;
use consul_process::os::Stream;
use consul_process::sync::lock;
use rustls::crypto::ring;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ALL_VERSIONS, RootCertStore, ServerConfig};
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

/// A socket that takes connections.
pub enum Listener {
    /// A port.
    Tcp(TcpListener),
    /// A port with TLS.
    Tls(TcpListener, SharedTls),
    /// A path.
    Unix(UnixListener, SocketFile),
}

/// The file of a socket, which is removed with it, unless another one has its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The certificate that new connections get; none before there is a port with TLS.
#[derive(Clone, Default)]
pub struct SharedTls(Arc<Mutex<Option<TlsAcceptor>>>);

impl SharedTls {
    pub(crate) fn set(&self, acceptor: TlsAcceptor) {
        *lock(&self.0) = Some(acceptor);
    }

    pub(crate) fn is_used(&self) -> bool {
        lock(&self.0).is_some()
    }

    fn get(&self) -> io::Result<TlsAcceptor> {
        lock(&self.0).clone().ok_or_else(|| io::Error::other("no certificate"))
    }
}

impl fmt::Debug for SharedTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTls").finish_non_exhaustive()
    }
}

/// The certificate of a port with TLS, and the authorities of its clients if they need certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// `cert_file`
    pub certificate: PathBuf,
    /// `key_file`
    pub key: PathBuf,
    /// `ca_file` or the folder `ca_path`, with `verify_incoming`
    pub authorities: Option<PathBuf>,
    /// `tls_min_version`: whether only TLS 1.3 is spoken
    pub is_1_3: bool,
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Kind::Config`], naming the file that cannot be used.
    pub fn acceptor(&self) -> Result<TlsAcceptor, Error> {
        let certificate = PemFile::read("cert_file", &self.certificate)?;
        let key = PemFile::read("key_file", &self.key)?;
        let provider = Arc::new(ring::default_provider());
        let versions = ALL_VERSIONS.iter().copied().filter(|it| !self.is_1_3 || **it == TLS13);
        let versions: Vec<_> = versions.collect();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(|error| failed(&error))?;
        let builder = match &self.authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                let files = match fs::read_dir(path) {
                    Ok(files) => files.flatten().map(|file| file.path()).collect(),
                    Err(_) => vec![path.clone()],
                };
                for file in files {
                    let authorities = PemFile::read("ca_file", &file)?;
                    authorities.add_to(&mut roots, authorities.some_certificates()?)?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(|error| failed(&error))?)
            }
        };
        let config = builder
            .with_single_cert(certificate.some_certificates()?, key.private_key()?)
            .map_err(|error| certificate.unusable(&key, &error))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Answers with a certificate that no client trusts: the one of a port without files.
///
/// # Errors
/// [`Kind::Config`], if there is none.
pub fn self_signed() -> Result<TlsAcceptor, Error> {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let signed = signed.map_err(|error| failed(&error))?;
    let key = PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key.into())
        .map_err(|error| failed(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn failed(error: &dyn std::error::Error) -> Error {
    Error::new(Kind::Config, format!("tls: {error}"))
}

impl Listener {
    /// Takes connections at a path. A file that is there is replaced, as in Consul.
    ///
    /// # Errors
    /// The path cannot be used.
    pub fn unix(path: &Path) -> io::Result<Self> {
        // Without it, or with a full folder in its place, the next step fails.
        let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
        let listener = UnixListener::bind(path)?;
        let inode = fs::symlink_metadata(path)?.ino();
        Ok(Listener::Unix(listener, SocketFile { path: path.to_owned(), inode }))
    }

    /// The next connection, and the address of its client on a port.
    pub(super) async fn accept(&self) -> io::Result<(Accepted, Option<IpAddr>)> {
        let on_port = |(stream, address): (TcpStream, SocketAddr)| {
            // An answer is one write; Nagle's algorithm would only delay it.
            let _ = stream.set_nodelay(true);
            (stream, Some(address.ip()))
        };
        Ok(match self {
            Listener::Tcp(listener) => {
                let (stream, address) = on_port(listener.accept().await?);
                (Accepted::Tcp(stream), address)
            }
            Listener::Tls(listener, acceptor) => {
                let (stream, address) = on_port(listener.accept().await?);
                (Accepted::Tls(stream, acceptor.get()?), address)
            }
            Listener::Unix(listener, _) => (Accepted::Unix(listener.accept().await?.0), None),
        })
    }
}

/// A connection before its handshake.
pub(super) enum Accepted {
    Tcp(TcpStream),
    Tls(TcpStream, TlsAcceptor),
    Unix(UnixStream),
}

impl Accepted {
    /// The connection after its handshake.
    pub async fn stream(self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Accepted::Tcp(stream) => Box::new(stream),
            Accepted::Tls(stream, acceptor) => Box::new(acceptor.accept(stream).await?),
            Accepted::Unix(stream) => Box::new(stream),
        })
    }
}
