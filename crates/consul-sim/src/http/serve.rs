//! Serves the agent and its control endpoints on sockets, for `consul-sim`.

use super::listen::Listener;
use super::request::Cut;
use crate::Agent;
use crate::dns::Listening;
use crate::go;
use crate::log::{Level, Monitor};
use bytes::Bytes;
use consul_api::error::Error;
use consul_api::value::shape::RAW_IN_TARGETS;
use consul_process::os::Stream;
use consul_process::sync::lock;
use futures_util::StreamExt;
use futures_util::future::select_all;
use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, HOST, HeaderName};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either as EitherBody, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::rt::{Sleep, Timer};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_encode;
use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io::{self, Cursor, IoSlice, Write as _};
use std::mem;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// The largest body, in bytes; the agent's own limits are lower.
const MAX_BODY: usize = 64 << 20;

/// The largest head of a request, in bytes: that of a Go server.
const MAX_HEAD: usize = (1 << 20) + 4096;

/// The most headers of a request. A Go server has no such limit; here each request takes memory for all of them: for a
/// thousand that is a tenth of its time.
const MAX_HEADERS: usize = 256;

/// The time limit for the head of a request, so that half-open connections are closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The answer to a client with too many connections, before its connection is closed.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\n\
    Content-Type: text/plain\r\nConnection: close\r\nContent-Length: 81\r\n\r\n\
    Your IP is issuing too many concurrent connections, please rate limit your calls\n";

/// The header by which a client says its name, so that faults can be limited to it.
const CLIENT: HeaderName = HeaderName::from_static("x-sim-client");

/// The body of an answer: whole, or the lines of a log.
type Body = EitherBody<Full<Bytes>, UnsyncBoxBody<Bytes, Infallible>>;

/// Answers the requests of sockets.
pub trait Answer: Send + Sync + 'static {
    /// Answers a request of the client of this name; after an error its connection is closed.
    fn answer(
        &self,
        client: &str,
        request: Request<Bytes>,
    ) -> impl Future<Output = Result<Response<Bytes>, Error>> + Send;
}

impl Answer for Agent {
    async fn answer(
        &self,
        client: &str,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Error> {
        if !self.log.is_read() {
            return self.exchange(client, "consul-sim", request).await;
        }
        let (method, url) = (request.method().to_string(), shown(request.uri()));
        let begun = self.clock.now();
        let answer = self.exchange(client, "consul-sim", request).await;
        self.with(|state| {
            let latency = go::duration_text(state.now - begun);
            let fields =
                [("method", &*method), ("url", &url), ("from", client), ("latency", &latency)];
            state.log(Level::Debug, "agent.http", "Request finished", &fields);
        });
        answer
    }
}

/// A URL without the secret of a parameter `token`.
fn shown(url: &Uri) -> String {
    let Some(query) = url.query() else { return url.path().to_owned() };
    let parameters = query.split('&').map(|parameter| match parameter.starts_with("token=") {
        true => "token=<hidden>",
        false => parameter,
    });
    format!("{}?{}", url.path(), parameters.collect::<Vec<_>>().join("&"))
}

/// An agent on its sockets, until it is dropped.
pub struct Serving(AbortHandle);

impl Serving {
    /// Serves an agent in the background; a socket that fails ends it.
    pub fn start(
        agent: Arc<Agent>,
        listeners: Vec<Listener>,
        dns: Listening,
        connections_per_client: usize,
    ) -> Self {
        let serving = async move {
            let http = serve(Arc::clone(&agent), listeners, connections_per_client);
            tokio::select! {
                Err(error) = http => tracing::error!(%error, "an agent is no longer served"),
                never = dns.serve() => match never {},
                () = agent.left() => {}
            }
        };
        Serving(tokio::spawn(serving).abort_handle())
    }
}

impl Agent {
    /// Waits until the agent is told to leave, and a moment longer so that the answer reaches its caller.
    pub async fn left(&self) {
        const MOMENT: Duration = Duration::from_millis(100);
        let left = self.with(|state| Arc::clone(&state.left));
        left.notified().await;
        tokio::time::sleep(MOMENT).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves the agent and drives its timers until this is dropped.
///
/// `connections_per_client` is the limit of connections from one address.
///
/// # Errors
/// When a socket fails.
pub async fn serve(
    agent: Arc<Agent>,
    listeners: Vec<Listener>,
    connections_per_client: usize,
) -> io::Result<Infallible> {
    let timers = Arc::clone(&agent);
    let driver =
        Serving(tokio::spawn(async move { match timers.run_timers().await {} }).abort_handle());
    let ended = serve_answers(agent, listeners, connections_per_client).await;
    drop(driver);
    ended
}

/// Serves what answers requests until this is dropped, which closes the connections.
///
/// # Errors
/// When a socket fails.
pub async fn serve_answers(
    answers: Arc<impl Answer>,
    listeners: Vec<Listener>,
    connections_per_client: usize,
) -> io::Result<Infallible> {
    let clients = Arc::new(Clients { most: connections_per_client, held: Mutex::default() });
    let each = listeners.into_iter().map(|listener| {
        let (answers, clients) = (Arc::clone(&answers), Arc::clone(&clients));
        Box::pin(async move { accept(&answers, &listener, &clients).await })
    });
    match each.len() {
        0 => std::future::pending().await,
        _ => select_all(each).await.0,
    }
}

async fn accept(
    answers: &Arc<impl Answer>,
    listener: &Listener,
    clients: &Arc<Clients>,
) -> io::Result<Infallible> {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (accepted, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if error.raw_os_error().is_some_and(|code| NO_ROOM.contains(&code)) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => return Err(error),
        };
        let answers = Arc::clone(answers);
        let place = address.map(|address| clients.enter(address));
        connections.spawn(async move {
            let stream = match timeout(HEAD_TIMEOUT, accepted.stream()).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
                Err(_) => return,
            };
            match place {
                Some(None) => refuse(stream).await,
                place => connection(answers, address, place.flatten(), stream).await,
            }
        });
    }
}

/// The process or the machine has no free file descriptor or memory at the moment: ENOMEM, ENFILE, EMFILE, ENOBUFS.
const NO_ROOM: [i32; 4] = [12, 23, 24, 105];

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// The times by which a connection's heads of requests must have come: the first within [`HEAD_TIMEOUT`], a later one within
/// that of the first look that finds it begun. A connection that is idle between two requests stays open, as Consul's do. Only
/// one look in [`HEAD_TIMEOUT`] goes to the timers of the runtime, which all connections share.
#[derive(Clone)]
struct HeadTimer(Arc<Heads>);

struct Heads {
    timer: Mutex<Pin<Box<tokio::time::Sleep>>>,
    limit: Duration,
    /// How far the head of the next request is.
    head: AtomicU8,
}

/// Nothing of it has come.
const ABSENT: u8 = 0;
/// Something has come since the last look.
const BEGUN: u8 = 1;
/// It has its last time limit.
const LAST: u8 = 2;

impl HeadTimer {
    fn new(limit: Duration) -> Self {
        let timer = Mutex::new(Box::pin(tokio::time::sleep(limit)));
        HeadTimer(Arc::new(Heads { timer, limit, head: AtomicU8::new(LAST) }))
    }

    /// A request has its answer.
    fn answered(&self) {
        self.0.head.store(ABSENT, Relaxed);
    }

    /// Bytes have come. Returns whether they are the first of a request.
    fn received(&self) -> bool {
        self.0.head.compare_exchange(ABSENT, BEGUN, Relaxed, Relaxed).is_ok()
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(HeadDeadline { at: deadline.into(), timer: self.clone() })
    }
}

struct HeadDeadline {
    at: tokio::time::Instant,
    timer: HeadTimer,
}

impl Sleep for HeadDeadline {}

impl Future for HeadDeadline {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let heads = Arc::clone(&self.timer.0);
        let mut shared = lock(&heads.timer);
        while shared.as_mut().poll(context).is_ready() {
            // It was that of an earlier request, which came in time.
            if shared.deadline() >= self.at {
                match heads.head.load(Relaxed) {
                    LAST => return Poll::Ready(()),
                    BEGUN => heads.head.store(LAST, Relaxed),
                    _ => {}
                }
                self.at = shared.deadline() + heads.limit;
            }
            shared.as_mut().reset(self.at);
        }
        Poll::Pending
    }
}

/// A stream on which the head and the body of a small answer are one text: the kernel takes longer for two. In the line of
/// a request it escapes what a Go server takes and hyper does not, or cuts off.
struct Joined {
    stream: Box<dyn Stream>,
    heads: HeadTimer,
    line: Line,
    /// The bytes that were read and escaped, and had no room.
    left: Vec<u8>,
}

/// How far the line of a request has been read.
#[derive(Clone, Copy, PartialEq)]
enum Line {
    /// Empty lines may precede it.
    Method,
    Target,
    Ended,
}

impl Joined {
    fn new(stream: Box<dyn Stream>, heads: HeadTimer) -> Self {
        Joined { stream, heads, line: Line::Method, left: Vec::new() }
    }

    /// Escapes the request line as far as it is read; `None` if there is nothing to escape.
    fn escaped(&mut self, read: &[u8]) -> Option<Vec<u8>> {
        let target = match self.line {
            Line::Ended => return None,
            Line::Target => 0,
            Line::Method => {
                let begin = read.iter().position(|byte| *byte == b' ');
                begin.inspect(|_| self.line = Line::Target)?
            }
        };
        let end = read[target..].iter().position(|byte| *byte == b'\n');
        if end.is_some() {
            self.line = Line::Ended;
        }
        let end = end.map_or(read.len(), |end| target + end);
        let escaped: Cow<str> = percent_encode(&read[target..end], RAW_IN_TARGETS).into();
        (escaped.len() > end - target)
            .then(|| [&read[..target], escaped.as_bytes(), &read[end..]].concat())
    }
}

/// The largest answer that is joined, in bytes: answers with keys of short values are smaller.
const MOST_JOINED: usize = 1024;

impl AsyncRead for Joined {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = room.filled().len();
        if self.left.is_empty() {
            let read = Pin::new(&mut self.stream).poll_read(context, room);
            if room.filled().len() == before {
                return read;
            }
            if self.heads.received() {
                self.line = Line::Method;
            }
            let Some(escaped) = self.escaped(&room.filled()[before..]) else { return read };
            room.set_filled(before);
            self.left = escaped;
        }
        let most = room.remaining().min(self.left.len());
        room.put_slice(&self.left[..most]);
        self.left.drain(..most);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Joined {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        text: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, text)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > MOST_JOINED {
            return stream.poll_write_vectored(context, parts);
        }
        let mut joined = Cursor::new([0; MOST_JOINED]);
        for part in parts {
            joined.write_all(part)?;
        }
        stream.poll_write(context, &joined.get_ref()[..length])
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

async fn connection(
    answers: Arc<impl Answer>,
    address: Option<IpAddr>,
    place: Option<Place>,
    stream: Box<dyn Stream>,
) {
    let address: Arc<str> = address.map_or_else(String::new, |address| address.to_string()).into();
    let (heads, place) = (HeadTimer::new(HEAD_TIMEOUT), Arc::new(place));
    let service = service_fn(|request: Request<Incoming>| {
        let place = can_wait(&request).then(|| Arc::clone(&place));
        let answer = answer(Arc::clone(&answers), Arc::clone(&address), heads.clone(), request);
        Answering { answer: Some(Box::pin(answer)), place }
    });
    let served = http1::Builder::new()
        .timer(heads.clone())
        .header_read_timeout(HEAD_TIMEOUT)
        .title_case_headers(true)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Joined::new(stream, heads.clone())), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}

fn can_wait(request: &Request<Incoming>) -> bool {
    let parameters = request.uri().query().unwrap_or_default().split('&');
    parameters.into_iter().any(|parameter| parameter.starts_with("index="))
}

/// An answer. If its query waits when the connection is closed, the connection counts until it has ended.
///
/// Source: hashicorp/consul#8524; measured on 1.8.7 and 1.21.0.
struct Answering<F: Future<Output: Send> + Send + 'static> {
    answer: Option<Pin<Box<F>>>,
    /// That of the connection, if the query can wait.
    place: Option<Arc<Option<Place>>>,
}

impl<F: Future<Output: Send> + Send + 'static> Future for Answering<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(answer) = &mut self.answer else { return Poll::Pending };
        let answered = answer.as_mut().poll(context);
        if answered.is_ready() {
            self.answer = None;
        }
        answered
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Answering<F> {
    fn drop(&mut self) {
        if let (Some(answer), Some(place)) = (self.answer.take(), self.place.take())
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                drop(answer.await);
                drop(place);
            });
        }
    }
}

async fn answer(
    answers: Arc<impl Answer>,
    address: Arc<str>,
    heads: HeadTimer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
    let mut is_cut = false;
    let mut response = match refusal(&request) {
        Some(refusal) => refusal.map(Body::Left),
        None => {
            let (mut parts, body) = request.into_parts();
            let body = match body.is_end_stream() {
                true => Bytes::new(),
                false => {
                    let (body, cut) = received(body).await?;
                    is_cut = cut.is_some();
                    cut.map(|cut| parts.extensions.insert(cut));
                    body
                }
            };
            let named = parts.headers.get(CLIENT).and_then(|name| name.to_str().ok());
            let client = named.map_or_else(|| Arc::clone(&address), Arc::from);
            let answered = answers.answer(&client, Request::from_parts(parts, body)).await;
            let answered = answered.map_err(|error| error.message().to_owned())?;
            match answered.extensions().get::<Monitor>().cloned() {
                None => answered.map(|body| Body::Left(Full::new(body))),
                Some(monitor) => {
                    let lines = monitor.lines().map(|line| Ok(Frame::data(line)));
                    answered.map(|_| Body::Right(UnsyncBoxBody::new(StreamBody::new(lines))))
                }
            }
        }
    };
    if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
        // Its name in Go.
        response.extensions_mut().insert(ReasonPhrase::from_static(b"Request Entity Too Large"));
    }
    if is_cut {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // The bytes from here on are of another request.
    heads.answered();
    Ok(response)
}

/// The part of a body that comes, and why it is not the whole one.
async fn received(
    body: Incoming,
) -> Result<(Bytes, Option<Cut>), Box<dyn std::error::Error + Send + Sync>> {
    let mut body = Limited::new(body, MAX_BODY);
    let mut whole: Vec<Bytes> = Vec::new();
    let cut = loop {
        match body.frame().await {
            None => break None,
            Some(Ok(frame)) => whole.extend(frame.into_data().ok()),
            Some(Err(error)) if error.is::<LengthLimitError>() => return Err(error),
            Some(Err(error)) => {
                let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
                let is_bad = |why: &&io::Error| why.kind() == io::ErrorKind::InvalidInput;
                break Some(Cut(match cause.filter(is_bad).map(ToString::to_string) {
                    None => "unexpected EOF",
                    Some(why) if why.contains("chunk body") => "malformed chunked encoding",
                    Some(_) => "invalid byte in chunk length",
                }));
            }
        }
    };
    Ok((if let [one] = &mut whole[..] { mem::take(one) } else { whole.concat().into() }, cut))
}

/// Whether a host has only characters that Go's server takes.
fn is_host(host: &HeaderValue) -> bool {
    const SIGNS: &[u8] = b"!$%&()*+,-.:;=[']_~";
    host.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || SIGNS.contains(byte))
}

/// The answer of a Go server, or of Consul before it reads the body, to a request that no handler gets.
fn refusal(request: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    let is_star = request.uri().path() == "*";
    let expected = request.headers().get(EXPECT).map(HeaderValue::as_bytes).unwrap_or_default();
    let (status, text) = match request.body().size_hint().exact() {
        _ if host.is_none() && request.version() == Version::HTTP_11 => {
            (StatusCode::BAD_REQUEST, "400 Bad Request: missing required Host header".to_owned())
        }
        _ if another.is_some() || !(is_star || request.uri().path().starts_with('/')) => {
            (StatusCode::BAD_REQUEST, "400 Bad Request".to_owned())
        }
        _ if host.is_some_and(|host| !is_host(host)) => {
            (StatusCode::BAD_REQUEST, "400 Bad Request: malformed Host header".to_owned())
        }
        _ if !expected.is_empty() && !expected.eq_ignore_ascii_case(b"100-continue") => {
            return Some(without_text(StatusCode::EXPECTATION_FAILED));
        }
        _ if is_star && request.method() == Method::OPTIONS => return Some(Response::default()),
        _ if is_star => return Some(without_text(StatusCode::BAD_REQUEST)),
        Some(length) if length > MAX_BODY as u64 => (
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("Request body({length} bytes) too large, max size: {MAX_BODY} bytes."),
        ),
        _ => return None,
    };
    let reason = text.strip_prefix("400 ").and_then(|reason| reason.as_bytes().try_into().ok());
    let mut response = without_text(status).map(|_| Full::from(text));
    reason.map(|reason: ReasonPhrase| response.extensions_mut().insert(reason));
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    Some(response)
}

fn without_text(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = status;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn refuse(mut stream: Box<dyn Stream>) {
    let _ = stream.write_all(TOO_MANY).await;
    let _ = stream.shutdown().await;
}

/// The number of connections of each client's address.
struct Clients {
    most: usize,
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// One counted connection, released when dropped.
struct Place {
    clients: Arc<Clients>,
    address: IpAddr,
}

impl Clients {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut held = lock(&self.held);
        let count = held.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { clients: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = lock(&self.clients.held);
        if let Some(count) = held.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    /// Takes only the first part of what comes in parts.
    #[derive(Clone, Default)]
    struct FirstPart(Arc<Mutex<Vec<u8>>>);

    impl AsyncWrite for FirstPart {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            text: &[u8],
        ) -> Poll<io::Result<usize>> {
            lock(&self.0).extend(text);
            Poll::Ready(Ok(text.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_small_answer_is_one_write_and_a_large_one_is_not_copied() {
        let client = FirstPart::default();
        let stream = Box::new(tokio::io::join(tokio::io::empty(), client.clone()));
        let mut joined = Joined::new(stream, HeadTimer::new(HEAD_TIMEOUT));
        let mut write = |body: &[u8]| {
            let parts = [IoSlice::new(b"head"), IoSlice::new(body)];
            joined.write_vectored(&parts).now_or_never().expect("at once").expect("written")
        };
        assert_eq!(write(&[b'b'; MOST_JOINED - 4]), MOST_JOINED);
        assert_eq!(write(&[b'b'; MOST_JOINED - 3]), 4);
        let came = lock(&client.0);
        assert_eq!(came.len(), MOST_JOINED + 4);
        assert!(came.starts_with(b"headb") && came.ends_with(b"bhead"));
    }

    #[test]
    fn a_connection_is_idle_as_long_as_it_likes_and_a_head_that_has_begun_must_end() {
        const LIMIT: Duration = Duration::from_millis(20);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(async {
            let timer = HeadTimer::new(LIMIT);
            timer.received();
            timer.answered();
            let mut deadline = timer.sleep(LIMIT);
            assert!(timeout(LIMIT * 5, &mut deadline).await.is_err());
            timer.received();
            let begun = Instant::now();
            deadline.await;
            assert!(begun.elapsed() >= LIMIT);
        });
    }

    #[test]
    fn a_head_that_came_in_time_does_not_shorten_the_time_of_the_next_one() {
        const LIMIT: Duration = Duration::from_millis(20);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(async {
            let begun = Instant::now();
            let timer = HeadTimer::new(LIMIT);
            let _ = timer.sleep_until(begun + LIMIT).now_or_never();
            timer.sleep_until(begun + LIMIT * 3).await;
            assert!(begun.elapsed() >= LIMIT * 3);
        });
    }
}
