//! One request at a time, each on a connection of its own, on the calling thread: all that a guard
//! needs of HTTP.

use super::order::{Connection, Errand};
use crate::error::{Error, Kind};
use crate::transport::{tls, token_file};
use http::Uri;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one endpoint may take to connect, and then for each part of its answer.
const LIMIT: Duration = Duration::from_secs(1);

/// What is read of an answer at most: its head is far shorter.
const MOST_BYTES: usize = 16 << 10;

/// How Consul is reached.
pub struct Sender {
    connection: Connection,
    endpoints: Vec<Endpoint>,
}

/// Why a request was not successful.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may be later.
    Transient,
    /// It never will be.
    Refused,
}

struct Endpoint {
    address: Address,
    /// The header `Host`.
    host: String,
    /// What a request's path is put behind.
    base: String,
}

enum Address {
    Unix(String),
    Tcp(String, u16),
    Tls(String, u16, ServerName<'static>, Arc<ClientConfig>),
}

impl Sender {
    /// Reads the files that the connection names.
    ///
    /// # Errors
    /// When one cannot be used, or an endpoint is none.
    pub fn new(connection: Connection) -> Result<Self, Error> {
        let mut tls = None;
        let mut endpoints = Vec::new();
        for url in &connection.endpoints {
            endpoints.push(Endpoint::new(url, &connection, &mut tls)?);
        }
        Ok(Self { connection, endpoints })
    }

    /// Sends a request to one endpoint after the other, until one answers.
    ///
    /// # Errors
    /// When none answers, or what does refuses it.
    pub fn send(&self, errand: &Errand, deadline: Instant) -> Result<(), Failure> {
        let count = self.endpoints.len();
        for place in 0..count {
            let endpoint = &self.endpoints[(errand.home + place) % count];
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match self.exchange(endpoint, errand, left.min(LIMIT)) {
                Ok(200..=299) => return Ok(()),
                Ok(429 | 500..) | Err(_) => {}
                Ok(_) => return Err(Failure::Refused),
            }
        }
        Err(Failure::Transient)
    }

    /// Makes a request; the status of its answer.
    fn exchange(&self, endpoint: &Endpoint, errand: &Errand, limit: Duration) -> io::Result<u16> {
        let request = self.request(endpoint, errand);
        match &endpoint.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(limit))?;
                stream.set_write_timeout(Some(limit))?;
                status(stream, &request)
            }
            Address::Tcp(host, port) => status(connect(host, *port, limit)?, &request),
            Address::Tls(host, port, name, config) => {
                let tls = ClientConnection::new(Arc::clone(config), name.clone());
                let tls = tls.map_err(io::Error::other)?;
                status(StreamOwned::new(tls, connect(host, *port, limit)?), &request)
            }
        }
    }

    fn request(&self, endpoint: &Endpoint, errand: &Errand) -> Vec<u8> {
        let Errand { method, target, headers, body, .. } = errand;
        let mut text = format!("{method} {}{target} HTTP/1.1\r\n", endpoint.base);
        let mut add = |name: &str, value: &str| {
            // To a String it cannot fail.
            let _ = write!(text, "{name}: {value}\r\n");
        };
        add(HOST.as_str(), &endpoint.host);
        add(CONNECTION.as_str(), "close");
        add(CONTENT_LENGTH.as_str(), &body.len().to_string());
        if let Some(authorization) = &self.connection.authorization {
            add(AUTHORIZATION.as_str(), authorization);
        }
        for (name, value) in headers {
            add(name, value);
        }
        let has_token = headers.iter().any(|(name, _)| *name == token_file::TOKEN.as_str());
        if let (false, Some(file)) = (has_token, &self.connection.token_file)
            && let Ok(token) = token_file::read(file)
            && let Ok(token) = token.to_str()
        {
            add(token_file::TOKEN.as_str(), token);
        }
        text.push_str("\r\n");
        text.push_str(body);
        text.into_bytes()
    }
}

impl Endpoint {
    /// `tls` is made when the first endpoint needs it.
    fn new(
        url: &str,
        connection: &Connection,
        tls: &mut Option<Arc<ClientConfig>>,
    ) -> Result<Self, Error> {
        if let Some(path) = url.strip_prefix("unix://") {
            let address = Address::Unix(path.to_owned());
            // The host that the official client names too.
            return Ok(Self { address, host: "localhost".to_owned(), base: String::new() });
        }
        let refuse = || Error::new(Kind::Config, format!("{url} is no endpoint"));
        let uri: Uri = url.parse().map_err(|_| refuse())?;
        let authority = uri.authority().ok_or_else(refuse)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16();
        let address = match uri.scheme_str() {
            Some("http") => Address::Tcp(host, port.unwrap_or(80)),
            Some("https") => {
                let name = connection.tls.server_name.clone().unwrap_or_else(|| host.clone());
                let name = ServerName::try_from(name).map_err(|_| refuse())?;
                let config = match tls {
                    Some(config) => Arc::clone(config),
                    None => Arc::clone(tls.insert(Arc::new(tls::config(&connection.tls)?))),
                };
                Address::Tls(host, port.unwrap_or(443), name, config)
            }
            _ => return Err(refuse()),
        };
        let base = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { address, host: authority.to_string(), base })
    }
}

/// A connection to one of the addresses of a host.
fn connect(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let mut last = io::ErrorKind::NotFound.into();
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => {
                stream.set_read_timeout(Some(limit))?;
                stream.set_write_timeout(Some(limit))?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Sends a request and reads the status of its answer.
fn status(mut stream: impl Read + Write, request: &[u8]) -> io::Result<u16> {
    stream.write_all(request)?;
    stream.flush()?;
    let mut head = Vec::new();
    let mut part = [0; 4096];
    loop {
        let count = stream.read(&mut part)?;
        if count == 0 || head.len() > MOST_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&part[..count]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut headers);
        if answer.parse(&head).map_err(io::Error::other)?.is_complete()
            && let Some(code) = answer.code
        {
            return Ok(code);
        }
    }
}
