//! TLS of checks.

use crate::agent::checks::CheckTls;
use consul_client::transport::{TlsOptions, tls};
use consul_process::clock::SystemClock;
use consul_process::os::Stream;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The connection after a handshake, which offers these protocols.
pub(super) async fn shake_hands(
    stream: TcpStream,
    address: &str,
    tls: &CheckTls,
    protocols: &[&[u8]],
) -> Result<Box<dyn Stream>, String> {
    let failed = |why: String| format!("tls: {why}");
    let options = TlsOptions { verify: !tls.skip_verify, ..TlsOptions::default() };
    let config = tls::config(&options, Arc::new(SystemClock::new()), Ok)
        .map_err(|error| failed(error.message().to_owned()))?;
    let mut config = config.current();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let host = match tls.server_name.as_str() {
        "" => address.rsplit_once(':').map_or(address, |(host, _)| host),
        name => name,
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(error.to_string()))?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream =
        connector.connect(name, stream).await.map_err(|error| failed(error.to_string()))?;
    Ok(Box::new(stream))
}
