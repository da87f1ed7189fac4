//! Mutual TLS between the nodes of a cluster. Every certificate that the cluster's authorities have signed
//! is one of a member, whatever names are in it: nodes move between addresses, and with one secret key they
//! are all alike, too.

use super::refusal;
use consul_api::error::{Error, Kind};
use consul_client::transport::crypto::provider;
use consul_client::transport::tls::{alert_name, certificate_problem};
use consul_process::clock::SystemClock;
use consul_process::files::FromFiles;
use consul_process::files::pem::PemFile;
use consul_process::sync::lock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    ServerConfig, SignatureScheme,
};
use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// The first byte of a TLS connection: a record of the handshake.
pub(super) const HANDSHAKE: u8 = 0x16;

/// How long a connection is used after the certificates at its ends were checked, which may expire.
pub(super) const MAX_AGE: Duration = Duration::from_secs(60);

/// How far the end of a certificate's validity is looked for: 20 years.
const FORESEEN: Duration = Duration::from_secs(20 * 365 * 86_400);

/// The files of mutual TLS between nodes, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataTls {
    /// The node's certificate, followed by those that signed it.
    pub cert_file: PathBuf,
    /// The private key of the certificate.
    pub key_file: PathBuf,
    /// The authorities that sign the certificates of members, and of nobody else.
    pub ca_file: PathBuf,
}

/// The TLS configuration for both ends of a node's connections, made again when the files change.
#[derive(Debug)]
pub(super) struct Tls(FromFiles<[PemFile; 3], Arc<Ends>>);

/// The configuration of both ends of connections, from one state of the files.
#[derive(Debug)]
pub(super) struct Ends {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    members: Arc<dyn ClientCertVerifier>,
    /// When other nodes begin to refuse this node's certificate.
    pub expires: Option<UnixTime>,
}

impl Tls {
    /// Reads the files now, and again when they change. An observer's certificate may have expired: it still sees in Consul
    /// what the nodes' own reports would add to.
    ///
    /// # Errors
    /// [`Kind::Config`], naming the file that cannot be used.
    pub fn new(files: &DataTls, is_observer: bool) -> Result<Self, Error> {
        let files = files.clone();
        let read = move || {
            Ok([
                PemFile::read("data_tls.cert_file", &files.cert_file)?,
                PemFile::read("data_tls.key_file", &files.key_file)?,
                PemFile::read("data_tls.ca_file", &files.ca_file)?,
            ])
        };
        let clock = Arc::new(SystemClock::new());
        Ok(Tls(FromFiles::open("files of data_tls", clock, read, move |files| {
            Ends::new(files, is_observer).map(Arc::new)
        })?))
    }

    /// The configuration of new connections.
    pub fn current(&self) -> Arc<Ends> {
        self.0.current()
    }
}

impl Ends {
    fn new(
        [certificate, key, authorities]: &[PemFile; 3],
        is_observer: bool,
    ) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        authorities.add_to(&mut roots, authorities.some_certificates()?)?;
        let (roots, provider) = (Arc::new(roots), provider());
        let failed = |error: &dyn StdError| {
            Error::new(Kind::Config, format!("data_tls: {error}")).not_sent()
        };
        let members =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| failed(&error))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| failed(&error))?
            .with_client_cert_verifier(Arc::clone(&members))
            .with_single_cert(certificate.some_certificates()?, key.private_key()?)
            .map_err(|error| certificate.unusable(key, &error))?;
        let verifier = Arc::new(AnyName { roots, provider: Arc::clone(&provider) });
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| failed(&error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(certificate.some_certificates()?, key.private_key()?)
            .map_err(|error| certificate.unusable(key, &error))?;
        let certificates = certificate.some_certificates()?;
        let mut expires = certificates
            .split_first()
            .and_then(|(own, others)| end_of_validity(&*members, (own, others), UnixTime::now()));
        if let Some((own, others)) = certificates.split_first()
            && let Err(why) = members.verify_client_cert(own, others, UnixTime::now())
        {
            if is_not_valid_now(&why) && !is_observer {
                return Err(certificate.error(&why));
            }
            if has_expired(&why) {
                expires = Some(UnixTime::now());
            }
            let (cert_file, ca_file) = (certificate.path().display(), authorities.path().display());
            tracing::warn!(
                %cert_file, %ca_file, %why,
                "the authorities in data_tls.ca_file do not vouch for data_tls.cert_file: other nodes \
                 with this ca_file refuse this node"
            );
        }
        // A resumed session would not show its certificate again.
        server.send_tls13_tickets = 0;
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        Ok(Ends { server: Arc::new(server), client: Arc::new(client), members, expires })
    }

    /// The calling side of a connection to another node.
    ///
    /// # Errors
    /// [`Kind::Tls`] or [`Kind::Connect`], with the reason.
    pub async fn connect(&self, stream: TcpStream) -> Result<client::TlsStream<TcpStream>, Error> {
        // No name is indicated or checked.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let connected = TlsConnector::from(Arc::clone(&self.client)).connect(name, stream).await;
        connected.map_err(|error| {
            let broken = || {
                let why = format!("the TLS handshake broke: {error}");
                Error::new(Kind::Connect, why).retryable()
            };
            reason(&error).unwrap_or_else(broken).not_sent()
        })
    }

    /// The receiving side of a connection from another node, and the certificates of that node.
    ///
    /// # Errors
    /// The reason, with the stream, on which the other side has been told.
    pub async fn accept(
        self: &Arc<Self>,
        stream: TcpStream,
    ) -> Result<(server::TlsStream<TcpStream>, Member), (io::Error, TcpStream)> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.server));
        let stream = acceptor.accept(stream).into_fallible().await?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificates = certificates.iter().map(|one| one.clone().into_owned()).collect();
        let last = Check { by: Arc::clone(self), at: UnixTime::now() };
        Ok((stream, Member { certificates, last: Mutex::new(last) }))
    }
}

/// The node at the other end of a connection.
pub(super) struct Member {
    /// Its own certificate, then those that signed it.
    certificates: Vec<CertificateDer<'static>>,
    last: Mutex<Check>,
}

/// When a certificate was checked, and by which files.
struct Check {
    by: Arc<Ends>,
    at: UnixTime,
}

impl Member {
    /// Checks the certificate again if the files have changed since the last check, or if it may have
    /// expired.
    ///
    /// # Errors
    /// [`Kind::PermissionDenied`] if it is not one of a member any more.
    pub fn check(&self, tls: &Tls) -> Result<(), Error> {
        self.check_at(tls.current(), UnixTime::now())
    }

    fn check_at(&self, current: Arc<Ends>, now: UnixTime) -> Result<(), Error> {
        let mut last = lock(&self.last);
        let age_s = now.as_secs().abs_diff(last.at.as_secs());
        if Arc::ptr_eq(&current, &last.by) && age_s < MAX_AGE.as_secs() {
            return Ok(());
        }
        let checked = self
            .certificates
            .split_first()
            .map(|(own, others)| current.members.verify_client_cert(own, others, now));
        let why = match checked {
            Some(Ok(_)) => {
                *last = Check { by: current, at: now };
                return Ok(());
            }
            Some(Err(error)) if has_expired(&error) => "the caller's certificate has expired",
            _ => "it does not trust the caller's certificate any more (data_tls.ca_file)",
        };
        Err(refusal(401, Kind::PermissionDenied, why))
    }
}

/// When a certificate that is valid now, or the first of those that signed it, ends to be; `None`: not in [`FORESEEN`].
fn end_of_validity(
    members: &dyn ClientCertVerifier,
    (own, others): (&CertificateDer<'_>, &[CertificateDer<'_>]),
    now: UnixTime,
) -> Option<UnixTime> {
    let time = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let is_valid = |seconds| members.verify_client_cert(own, others, time(seconds)).is_ok();
    let (mut valid, mut over) = (now.as_secs(), now.as_secs() + FORESEEN.as_secs());
    if !is_valid(valid) || is_valid(over) {
        return None;
    }
    while over - valid > 1 {
        let middle = valid + (over - valid) / 2;
        let end = if is_valid(middle) { &mut valid } else { &mut over };
        *end = middle;
    }
    Some(time(over))
}

fn has_expired(error: &rustls::Error) -> bool {
    use CertificateError::{Expired, ExpiredContext};
    matches!(error, rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }))
}

fn is_not_valid_now(error: &rustls::Error) -> bool {
    use CertificateError::{NotValidYet, NotValidYetContext};
    has_expired(error)
        || matches!(
            error,
            rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. })
        )
}

/// The reason in words if TLS ended a connection.
pub(super) fn reason(error: &(dyn StdError + 'static)) -> Option<Error> {
    let inner = |error: &(dyn StdError + 'static)| match error.downcast_ref::<io::Error>() {
        // The source of an io::Error is the source of the error that it wraps, not that error.
        Some(error) => error.get_ref().and_then(|it| it.downcast_ref::<rustls::Error>()).cloned(),
        None => error.downcast_ref::<rustls::Error>().cloned(),
    };
    let cause = std::iter::successors(Some(error), |error| (*error).source()).find_map(inner)?;
    let why = match &cause {
        rustls::Error::InvalidMessage(_) => {
            "it does not speak TLS: its node has no data_tls".to_owned()
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is not signed by an authority in data_tls.ca_file".to_owned()
        }
        rustls::Error::InvalidCertificate(error) => {
            format!("its certificate {}", certificate_problem(error, "data_tls.ca_file"))
        }
        rustls::Error::AlertReceived(alert) => {
            let what = match is_about_certificate(*alert) {
                true => "refuses this node's certificate (data_tls.cert_file)",
                false => "ends the handshake",
            };
            format!("it {what}: its alert is {}", alert_name(*alert))
        }
        rustls::Error::NoCertificatesPresented => "it has no certificate".to_owned(),
        rustls::Error::General(why) => format!("TLS ended the connection: {why}"),
        _ => "TLS ended the connection: the other side does not keep to the protocol, or has no version or algorithm in \
              common with this node"
            .to_owned(),
    };
    Some(Error::new(Kind::Tls, why))
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::UnknownCA
            | Alert::CertificateRequired
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRevoked
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied
    )
}

/// Accepts every name in a certificate of the authorities.
#[derive(Debug)]
struct AnyName {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

type Signature = DigitallySignedStruct;
type Verified = Result<HandshakeSignatureValid, rustls::Error>;

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let own = ParsedCertificate::try_from(own)?;
        verify_server_cert_signed_by_trust_anchor(&own, &self.roots, others, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, m: &[u8], c: &CertificateDer<'_>, s: &Signature) -> Verified {
        crypto::verify_tls12_signature(m, c, s, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(&self, m: &[u8], c: &CertificateDer<'_>, s: &Signature) -> Verified {
        crypto::verify_tls13_signature(m, c, s, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    /// The configuration and the certificate of a node of a new authority.
    pub fn node() -> (Arc<Ends>, CertificateDer<'static>) {
        node_with(CertificateParams::default())
    }

    fn node_with(of_node: CertificateParams) -> (Arc<Ends>, CertificateDer<'static>) {
        let key = || KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, key()).expect("an authority");
        let key = key();
        let own = of_node.signed_by(&key, &authority).expect("a certificate");
        let files = [own.pem(), key.serialize_pem(), authority.pem()].map(PemFile::of);
        (Arc::new(Ends::new(&files, false).expect("usable files")), own.der().clone())
    }

    #[test]
    fn an_expired_certificate_stops_a_node_and_no_observer() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = || KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key()).expect("an authority");
        let (mut expired, key) = (CertificateParams::default(), key());
        expired.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let own = expired.signed_by(&key, &authority).expect("a certificate");
        let files = [own.pem(), key.serialize_pem(), authority.pem()].map(PemFile::of);
        let Err(refused) = Ends::new(&files, false) else {
            panic!("a node would be refused by all")
        };
        assert!(refused.message().contains("expired"), "{refused}");
        let ends = Ends::new(&files, true).expect("an observer looks");
        assert!(ends.expires.expect("it is known").as_secs() <= UnixTime::now().as_secs());
    }

    #[test]
    fn it_is_known_to_the_second_when_a_certificate_ends() {
        let end = UnixTime::now().as_secs() + 13 * 86_400;
        let mut of_node = CertificateParams::default();
        of_node.not_after =
            std::time::UNIX_EPOCH.checked_add(Duration::from_secs(end)).expect("a time").into();
        let (ends, _) = node_with(of_node);
        // It is valid in its last second.
        assert_eq!(ends.expires.map(|it| it.as_secs()), Some(end + 1));
        assert_eq!(node().0.expires, None, "these end in the year 4095");
    }

    #[test]
    fn a_certificate_is_checked_again_because_it_may_have_expired() {
        let (ends, certificate) = node();
        let last = Mutex::new(Check { by: Arc::clone(&ends), at: UnixTime::now() });
        let member = Member { certificates: vec![certificate], last };
        let check = |time| member.check_at(Arc::clone(&ends), time);
        let later = UnixTime::now().as_secs() + 2 * MAX_AGE.as_secs();
        check(UnixTime::since_unix_epoch(Duration::from_secs(later))).expect("it is valid");
        // After the year 4095, in which these certificates end.
        let error = check(UnixTime::since_unix_epoch(Duration::from_secs(70_000_000_000)));
        let error = error.expect_err("it has expired");
        assert_eq!(error.kind(), Kind::PermissionDenied);
        assert!(error.message().contains("certificate has expired"), "{error}");
    }
}
