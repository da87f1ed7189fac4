//! The checks of all kinds.

use super::{answer, connect, dial, http2, script, tls};
use crate::clock::BoxFuture;
use crate::os::Stream;
use crate::simulate::agent::checks::{CheckTls, Probe, ProbeResult, Prober};
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
            let address = format!("{host}:{}", uri.port_u16().unwrap_or(443));
            stream(&address, Some(tls), &[b"http/1.1"]).await
        }
        _ => connect(uri).await,
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
