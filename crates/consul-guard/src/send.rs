//! Sends deferred requests by blocking I/O, one at a time, each on a connection of its own.

use super::message::{Connection, DeferredRequest};
use bytes::Bytes;
use consul_api::api::raw;
use consul_api::error::{Error, Kind};
use consul_api::request::{Args, Defaults};
use consul_client::is_endpoint_failure;
use consul_client::transport::http1::{HeadWriter, ReceiveBuffer, ResponseParser};
use consul_client::transport::https::OVER_SOCKET;
use consul_client::transport::tls::{self, TlsConfig};
use consul_client::transport::token_file;
use consul_process::clock::SystemClock;
use http::header::{CONNECTION, HOST};
use http::{HeaderMap, Response, Uri};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time limit for a connection to one endpoint, then for each part of its answer; twice for the whole answer.
pub const TIMEOUT: Duration = Duration::from_secs(1);

/// The most bytes of an answer: Consul's to a release are shorter.
const MAX_BODY: usize = 1024 * 1024;

/// Sends requests to the endpoints of a connection.
pub struct Sender {
    /// The headers of every request.
    headers: HeaderMap,
    token_file: Option<PathBuf>,
    endpoints: Vec<Endpoint>,
}

/// Why a request was not successful.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// A retry may succeed.
    Transient,
    /// A retry would be refused again.
    Refused,
}

struct Endpoint {
    address: Address,
    /// The header `Host`.
    host: String,
    /// The path before the target of each request.
    prefix: String,
}

/// The name that a certificate must be for, and the configuration.
type Tls = (ServerName<'static>, Arc<TlsConfig<Arc<ClientConfig>>>);

enum Address {
    Unix(String),
    Tcp(String, u16),
    Tls(String, u16, Tls),
    UnixTls(String, Tls),
}

impl Sender {
    /// Reads the files that the connection names.
    ///
    /// # Errors
    /// When one cannot be used, or an endpoint is not valid.
    pub fn new(connection: Connection) -> Result<Self, Error> {
        let mut tls = None;
        let mut endpoints = Vec::new();
        for url in &connection.endpoints {
            endpoints.push(Endpoint::new(url, &connection, &mut tls)?);
        }
        let Connection { http, token_file, .. } = connection;
        Ok(Self { headers: http.headers(), token_file, endpoints })
    }

    /// Sends a request to one endpoint after the other, until one answers, each with a time limit.
    ///
    /// # Errors
    /// When none answers, or one refuses it.
    pub fn send(
        &self,
        request: &DeferredRequest,
        limit: Duration,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let count = self.endpoints.len();
        for offset in 0..count {
            let endpoint = &self.endpoints[(request.endpoint + offset) % count];
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let answer = endpoint.send(&self.encode(endpoint, request), left.min(limit));
            match answer.map_err(|_| Failure::Transient).and_then(|it| request.judge(it)) {
                Err(Failure::Transient) => {}
                outcome => return outcome,
            }
        }
        Err(Failure::Transient)
    }

    /// A request in bytes, with the token of the token file if it has none.
    fn encode(&self, endpoint: &Endpoint, request: &DeferredRequest) -> Vec<u8> {
        let DeferredRequest { method, target, headers, body, .. } = request;
        let mut head = HeadWriter::new(method, &endpoint.prefix, target);
        head.add(HOST.as_str(), endpoint.host.as_bytes());
        head.add(CONNECTION.as_str(), b"close");
        for (name, value) in &self.headers {
            head.add(name.as_str(), value.as_bytes());
        }
        for (name, value) in headers {
            head.add(name, value.as_bytes());
        }
        let has_token = headers.iter().any(|(name, _)| *name == token_file::TOKEN.as_str());
        if let (false, Some(file)) = (has_token, &self.token_file)
            && let Ok(token) = token_file::read(file)
        {
            head.add(token_file::TOKEN.as_str(), token.as_bytes());
        }
        let mut request = head.finish(Some(body.len()));
        request.extend_from_slice(body.as_bytes());
        request
    }
}

impl DeferredRequest {
    /// Judges an answer as the client does: by the row of the request's path. An answer that is not Consul's answers nothing.
    fn judge(&self, answer: Response<Bytes>) -> Result<(), Failure> {
        let row = raw::endpoint(&self.method).ok_or(Failure::Refused)?;
        let asked = row.request(&Args::new().arg(self.target.as_str()), &Defaults::default());
        let mut asked = asked.map_err(|_| Failure::Refused)?;
        *asked.http.body_mut() = Bytes::copy_from_slice(self.body.as_bytes());
        match asked.check(answer) {
            Ok(_) => Ok(()),
            Err(error) if error.is_retryable() || is_endpoint_failure(&error) => {
                Err(Failure::Transient)
            }
            Err(_) => Err(Failure::Refused),
        }
    }
}

impl Endpoint {
    /// `tls` is set by the first endpoint that needs it.
    fn new(
        url: &str,
        connection: &Connection,
        tls: &mut Option<Arc<TlsConfig<Arc<ClientConfig>>>>,
    ) -> Result<Self, Error> {
        let invalid = || Error::new(Kind::Config, format!("{url} is not a valid endpoint"));
        if let Some(path) = url.strip_prefix("unix://") {
            // The header `Host` is that of Consul's Go client.
            let (address, host) = (Address::Unix(path.to_owned()), "localhost".to_owned());
            return Ok(Self { address, host, prefix: String::new() });
        }
        let mut tls = |host: &str| {
            let name = connection.http.tls.name_for(host);
            let name = ServerName::try_from(name).map_err(|_| invalid())?;
            let config = match tls {
                Some(config) => Arc::clone(config),
                None => {
                    let clock = Arc::new(SystemClock::new());
                    let config = tls::config(&connection.http.tls, clock, |it| Ok(Arc::new(it)))?;
                    Arc::clone(tls.insert(Arc::new(config)))
                }
            };
            Ok((name, config))
        };
        if let Some(path) = url.strip_prefix(OVER_SOCKET) {
            let host = "localhost".to_owned();
            let address = Address::UnixTls(path.to_owned(), tls(&host)?);
            return Ok(Self { address, host, prefix: String::new() });
        }
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        let authority = uri.authority().ok_or_else(invalid)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16();
        let address = match uri.scheme_str() {
            Some("http") => Address::Tcp(host, port.unwrap_or(80)),
            Some("https") => {
                let tls = tls(&host)?;
                Address::Tls(host, port.unwrap_or(443), tls)
            }
            _ => return Err(invalid()),
        };
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { address, host: authority.to_string(), prefix })
    }

    /// Sends a request; returns the answer.
    fn send(&self, request: &[u8], timeout: Duration) -> io::Result<Response<Bytes>> {
        match &self.address {
            Address::Unix(path) => exchange(connect_to_socket(path, timeout)?, request, timeout),
            Address::UnixTls(path, tls) => {
                exchange_tls(tls, connect_to_socket(path, timeout)?, request, timeout)
            }
            Address::Tcp(host, port) => exchange(connect(host, *port, timeout)?, request, timeout),
            Address::Tls(host, port, tls) => {
                exchange_tls(tls, connect(host, *port, timeout)?, request, timeout)
            }
        }
    }
}

/// Connects to the first address of a host that accepts.
fn connect(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::ErrorKind::NotFound.into();
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_to_socket(path: &str, timeout: Duration) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

/// As [`exchange`], over TLS.
fn exchange_tls(
    (name, config): &Tls,
    stream: impl Read + Write,
    request: &[u8],
    timeout: Duration,
) -> io::Result<Response<Bytes>> {
    let tls = ClientConnection::new(config.current(), name.clone()).map_err(io::Error::other)?;
    exchange(StreamOwned::new(tls, stream), request, timeout)
}

/// Sends a request and reads the answer.
fn exchange(
    mut stream: impl Read + Write,
    request: &[u8],
    timeout: Duration,
) -> io::Result<Response<Bytes>> {
    let end = Instant::now() + timeout * 2;
    stream.write_all(request)?;
    stream.flush()?;
    let (mut buffer, mut answer) = (ReceiveBuffer::default(), ResponseParser::new(MAX_BODY));
    while !answer.is_complete() {
        let count = stream.read(buffer.room())?;
        if count == 0 {
            answer.end_of_stream().map_err(io::Error::other)?;
        }
        buffer.parse(count, &mut answer).map_err(io::Error::other)?;
        if Instant::now() > end {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(answer.finish().0)
}
