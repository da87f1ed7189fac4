//! The checks of all kinds.

use super::{address_of, answer, connect, dial, http2, script, tls};
use crate::agent::checks::{CheckTls, Probe, ProbeResult, Prober};
use crate::go;
use consul_process::clock::BoxFuture;
use consul_process::os::Stream;
use http::Uri;
use tokio::net::UdpSocket;

/// Probes with all that the machine has.
#[derive(Debug)]
pub(crate) struct AllProber;

impl Prober for AllProber {
    fn probe<'a>(&'a self, probe: &'a Probe) -> BoxFuture<'a, ProbeResult> {
        Box::pin(async move { run(probe).await.unwrap_or_else(ProbeResult::Failed) })
    }
}

async fn run(probe: &Probe) -> Result<ProbeResult, String> {
    match probe {
        Probe::Tcp { address, tls } => {
            stream(address, tls.as_ref(), &[]).await.map(|_| ProbeResult::Connected)
        }
        Probe::Http { tls, .. } => answer(probe, &|uri| Box::pin(connect_with(uri, tls))).await,
        Probe::Udp(address) => udp(address).await,
        Probe::Grpc { target, tls } => http2::grpc(target, tls.as_ref()).await,
        Probe::H2Ping { address, tls } => http2::ping(address, tls.as_ref()).await,
        Probe::Script(arguments) => script::run(arguments).await,
    }
}

/// A connection, with TLS if the check has it, for one of these protocols.
pub(super) async fn stream(
    address: &str,
    tls: Option<&CheckTls>,
    protocols: &[&[u8]],
) -> Result<Box<dyn Stream>, String> {
    let stream = dial(address).await?;
    match tls {
        None => Ok(Box::new(stream)),
        Some(tls) => tls::shake_hands(stream, address, tls, protocols).await,
    }
}

async fn connect_with(uri: Uri, tls: &CheckTls) -> Result<Box<dyn Stream>, String> {
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) => {
            stream(&address_of(&uri, host, 443)?, Some(tls), &[b"http/1.1"]).await
        }
        (Some("http"), _) | (_, None) => connect(uri).await,
        (scheme, _) => {
            let scheme = go::quoted(scheme.unwrap_or_default());
            Err(format!("unsupported protocol scheme {scheme}"))
        }
    }
}

/// Whether a port answers, or at least does not refuse.
async fn udp(address: &str) -> Result<ProbeResult, String> {
    let failed = |error: std::io::Error| format!("dial udp {address}: {error}");
    let socket = UdpSocket::bind(("0.0.0.0", 0)).await.map_err(failed)?;
    socket.connect(address).await.map_err(failed)?;
    let own = socket.local_addr().map_err(failed)?;
    socket.send(b"").await.map_err(failed)?;
    match socket.recv(&mut [0; 1]).await {
        Ok(_) => Ok(ProbeResult::Connected),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err(format!("read udp {own}->{address}: read: connection refused"))
        }
        Err(error) => Err(format!("read udp {own}->{address}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    /// A port that is none must not be that of the scheme, where another program may answer.
    #[test]
    fn a_url_that_leads_nowhere_is_refused_as_consul_does() {
        for (url, error) in [
            ("http://127.0.0.1:99999/", "dial tcp: address 99999: invalid port"),
            ("https://a@[::1]:99999/", "dial tcp: address 99999: invalid port"),
            ("ftp://127.0.0.1/", "unsupported protocol scheme \"ftp\""),
            ("127.0.0.1", "unsupported protocol scheme \"\""),
        ] {
            let uri = url.parse().expect("a URI");
            let refused = connect_with(uri, &CheckTls::default()).now_or_never();
            assert_eq!(refused.expect("at once").err().as_deref(), Some(error), "{url}");
        }
    }
}
