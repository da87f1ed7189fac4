//! Calls of gRPC that have one answer, to servers that are reached by HTTP otherwise.
//!
//! Source: "gRPC over HTTP2".

use ::http::{HeaderMap, HeaderValue, Request, Uri};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use consul_api::error::{Error, Kind};
use consul_client::transport::tls::{self, TlsConfig};
use consul_client::transport::{Cause, Options};
use consul_process::clock::SystemClock;
use consul_process::os::Stream;
use consul_process::sync::lock;
use h2::client::{Builder, SendRequest};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::error::Error as StdError;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The time limit of a call. A slower request can be made by HTTP.
const LIMIT: Duration = Duration::from_secs(5);

/// The largest message that is read.
const MAX_MESSAGE: usize = 24 << 20;

/// How much a server may send before it is read: about a message.
const WINDOW: u32 = 4 << 20;

/// The compression and the length of a message.
const HEAD: usize = 5;

/// The way to one server, on one connection.
pub(crate) struct Grpc {
    base: String,
    host: String,
    port: u16,
    tls: Option<(TlsConfig<Arc<ClientConfig>>, ServerName<'static>)>,
    connect_timeout: Duration,
    state: Mutex<State>,
}

enum State {
    /// Nothing is known of the server, or its connection has ended.
    New,
    /// The server has answered.
    Open(Arc<Connection>),
    /// The server does not speak it.
    Off,
}

/// A connection that ends when it is dropped.
struct Connection {
    requests: SendRequest<Bytes>,
    work: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.work.abort();
    }
}

/// Why a call has no message.
enum Missing {
    /// The server has refused it, with this status.
    Refused(String),
    /// The answer of the server was not gRPC.
    Failed(Cause),
}

impl<E: StdError + Send + Sync + 'static> From<E> for Missing {
    fn from(error: E) -> Self {
        Missing::Failed(error.into())
    }
}

impl Grpc {
    /// For `http://…` or `https://…`. Nothing is connected yet; the files that the options name are read now.
    ///
    /// # Errors
    /// [`Kind::Config`] when the URL is not valid or a file cannot be used.
    pub(crate) fn new(endpoint: &str, options: &Options) -> Result<Self, Error> {
        let refuse = |why: &str| Error::new(Kind::Config, format!("{endpoint}: {why}")).not_sent();
        let url: Uri = endpoint.parse().map_err(|_| refuse("it is not a URL"))?;
        let is_tls = url.scheme_str() == Some("https");
        let authority = url.authority().ok_or_else(|| refuse("it has no host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tls = is_tls.then(|| {
            let with_protocol = |mut config: ClientConfig| {
                config.alpn_protocols = vec![b"h2".to_vec()];
                Ok(Arc::new(config))
            };
            let config = tls::config(&options.tls, Arc::new(SystemClock::new()), with_protocol)?;
            let name = options.tls.name_for(&host);
            let name = ServerName::try_from(name).map_err(|error| refuse(&error.to_string()))?;
            Ok::<_, Error>((config, name))
        });
        Ok(Grpc {
            base: format!("{}://{authority}", if is_tls { "https" } else { "http" }),
            host,
            port,
            tls: tls.transpose()?,
            connect_timeout: options.connect_timeout,
            state: Mutex::new(State::New),
        })
    }

    /// Calls a method such as `/etcdserverpb.KV/Range`; `None` without a success.
    pub(crate) async fn call(
        &self,
        method: &str,
        token: Option<&str>,
        message: &[u8],
    ) -> Option<Bytes> {
        let open = match &*lock(&self.state) {
            State::Off => return None,
            State::Open(connection) => Some(Arc::clone(connection)),
            State::New => None,
        };
        let was_open = open.is_some();
        let why = match timeout(LIMIT, self.ask(open, method, token, message)).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(Missing::Refused(status))) => {
                tracing::debug!(method, %status, "a call of gRPC was refused");
                return None;
            }
            Ok(Err(Missing::Failed(cause))) => cause,
            Err(late) => late.into(),
        };
        tracing::debug!(method, %why, "a call of gRPC failed");
        *lock(&self.state) = if was_open { State::New } else { State::Off };
        None
    }

    async fn ask(
        &self,
        open: Option<Arc<Connection>>,
        method: &str,
        token: Option<&str>,
        message: &[u8],
    ) -> Result<Bytes, Missing> {
        let connection = match open {
            Some(connection) => connection,
            None => {
                let connection = timeout(self.connect_timeout, self.connect()).await?;
                Arc::new(connection.map_err(Missing::Failed)?)
            }
        };
        let answer = self.exchange(&connection, method, token, message).await;
        if !matches!(answer, Err(Missing::Failed(_))) {
            *lock(&self.state) = State::Open(connection);
        }
        answer
    }

    async fn connect(&self) -> Result<Connection, Cause> {
        let stream = TcpStream::connect((&*self.host, self.port)).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some((config, name)) => {
                let connector = TlsConnector::from(config.current());
                Box::new(connector.connect(name.clone(), stream).await?)
            }
        };
        let mut builder = Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (requests, connection) = builder.enable_push(false).handshake(stream).await?;
        let work = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection of gRPC ended");
            }
        });
        Ok(Connection { requests, work: work.abort_handle() })
    }

    async fn exchange(
        &self,
        connection: &Connection,
        method: &str,
        token: Option<&str>,
        message: &[u8],
    ) -> Result<Bytes, Missing> {
        let mut request = Request::post(format!("{}{method}", self.base))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = token {
            let mut token = HeaderValue::from_str(token)?;
            token.set_sensitive(true);
            request = request.header("token", token);
        }
        let mut requests = connection.requests.clone().ready().await?;
        let (answer, mut body) = requests.send_request(request.body(())?, false)?;
        body.send_data(framed(message)?, true)?;
        let (head, mut body) = answer.await?.into_parts();
        let kind = head.headers.get("content-type").map(HeaderValue::as_bytes);
        if !kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
            let why = format!("the answer is not gRPC's (HTTP {})", head.status);
            return Err(Missing::Failed(why.into()));
        }
        // An answer without a message has only one head.
        if head.headers.contains_key("grpc-status") {
            check(&head.headers)?;
        }
        let mut said = BytesMut::new();
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            if said.is_empty() && part.len() >= HEAD {
                said.reserve(length(&part).min(MAX_MESSAGE) + HEAD);
            }
            said.extend_from_slice(&part);
            if said.len() > MAX_MESSAGE {
                return Err(Missing::Refused("the message is too large".to_owned()));
            }
        }
        check(&body.trailers().await?.unwrap_or_default())?;
        if said.len() < HEAD || said[0] != 0 || length(&said) != said.len() - HEAD {
            return Err(Missing::Failed("the answer is not one message".into()));
        }
        said.advance(HEAD);
        Ok(said.freeze())
    }
}

/// A message after its head.
fn framed(message: &[u8]) -> Result<Bytes, Missing> {
    let mut framed = BytesMut::with_capacity(HEAD + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len().try_into()?);
    framed.put_slice(message);
    Ok(framed.freeze())
}

/// The length that the head of a message says.
fn length(message: &[u8]) -> usize {
    (&message[1..HEAD]).get_u32() as usize
}

/// Refuses what is not the status OK.
fn check(headers: &HeaderMap) -> Result<(), Missing> {
    match headers.get("grpc-status").map(HeaderValue::as_bytes) {
        Some(b"0") => Ok(()),
        Some(status) => Err(Missing::Refused(String::from_utf8_lossy(status).into_owned())),
        None => Err(Missing::Failed("the answer has no status".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::Response;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    /// A server that sends each message back; `/no` it refuses, and after `/last` it closes the connection.
    async fn serve(stream: TcpStream) {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, mut answer))) = connection.accept().await {
            let head = Response::builder().header("content-type", "application/grpc");
            match request.uri().path() {
                "/no" => {
                    let head = head.header("grpc-status", "7").body(()).unwrap();
                    answer.send_response(head, true).unwrap();
                }
                "/last" => return,
                _ => {
                    assert_eq!(request.headers()["token"], "t");
                    let mut body = answer.send_response(head.body(()).unwrap(), false).unwrap();
                    tokio::spawn(async move {
                        let mut asked = request.into_body();
                        while let Some(Ok(part)) = asked.data().await {
                            // In several parts.
                            for byte in part {
                                body.send_data(Bytes::from(vec![byte]), false).unwrap();
                            }
                        }
                        let status = ("grpc-status".parse().unwrap(), "0".parse().unwrap());
                        body.send_trailers(HeaderMap::from_iter([status])).unwrap();
                    });
                }
            }
        }
    }

    /// The results of calls one after the other, and the number of connections that they took.
    fn called<W: Future<Output = ()> + Send + 'static>(
        methods: &[&str],
        serve: fn(TcpStream) -> W,
    ) -> (Vec<Option<Bytes>>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let connections = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&connections);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve(stream));
                }
            });
            let grpc = Grpc::new(&url, &Options::default()).unwrap();
            let mut results = Vec::new();
            for method in methods {
                results.push(grpc.call(method, Some("t"), b"a message").await);
            }
            (results, connections.load(Ordering::Relaxed))
        })
    }

    #[test]
    fn a_connection_that_has_ended_is_made_again() {
        let (results, connections) = called(&["/yes", "/no", "/yes", "/last", "/yes"], serve);
        let message = Some(Bytes::from_static(b"a message"));
        assert_eq!(results, [message.clone(), None, message.clone(), None, message]);
        assert_eq!(connections, 2);
    }

    #[test]
    fn a_server_without_it_is_asked_once() {
        async fn plain(mut stream: TcpStream) {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
        let (results, connections) = called(&["/yes", "/yes"], plain);
        assert_eq!((results, connections), (vec![None, None], 1));
    }
}
