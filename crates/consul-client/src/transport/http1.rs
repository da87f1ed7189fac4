//! HTTP/1.1 of a client, without I/O: encodes the heads of requests, parses answers. The transport
//! without TLS, the guard process and the HTTP checks of the simulated agent use it.

use ::http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use bytes::Bytes;
use consul_api::request::AllHeaders;
use consul_api::response::HEADERS;
use std::error::Error as StdError;
use std::mem::MaybeUninit;
use std::{fmt, str};

/// The largest accepted body of an answer. Larger ones are lists that a Lua program cannot hold, or
/// never end. It has room for some 365 KV values of the largest size, 512 KiB, which are 683 KiB
/// each in JSON.
pub(super) const MAX_REPLY_BYTES: usize = 256 << 20;

/// The longest accepted head of an answer, and the longest total of its chunks' extensions and
/// trailers. Consul's heads are below 1 KiB.
pub const MAX_HEAD_BYTES: usize = 16 << 10;

const MAX_HEADERS: usize = 100;

/// How many interim responses (1xx) may come before an answer. Consul sends none.
const MAX_INTERIM_RESPONSES: u8 = 16;

/// The largest room that is reserved for a body before it arrives.
const MAX_RESERVED_BYTES: usize = 1 << 20;

/// The reason why an answer cannot be parsed.
pub type ParseError = Box<dyn StdError + Send + Sync>;

/// The error of an answer above [`MAX_REPLY_BYTES`].
#[derive(Debug)]
pub(super) struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer is larger than {} MiB", MAX_REPLY_BYTES >> 20)
    }
}

impl StdError for TooLarge {}

/// Encodes the heads of the requests to one endpoint.
pub struct RequestHeads {
    /// The path before the target of each request, without a trailing slash.
    prefix: String,
    /// The header lines of each request.
    lines: Vec<(HeaderName, Vec<u8>)>,
}

impl RequestHeads {
    /// The heads of requests whose paths begin with `prefix`, with these headers.
    pub fn new(prefix: &str, headers: &HeaderMap) -> Self {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            let mut line = HeadWriter(Vec::new());
            line.add(name.as_str(), value.as_bytes());
            (name.clone(), line.0)
        };
        let prefix = prefix.trim_end_matches('/').to_owned();
        RequestHeads { prefix, lines: headers.iter().map(line).collect() }
    }

    /// The head of a request. Its own headers replace common ones of the same name.
    pub fn encode(&self, request: &Request<Bytes>) -> Vec<u8> {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let mut head = HeadWriter::new(request.method().as_str(), &self.prefix, target);
        for (name, line) in &self.lines {
            if !request.headers().contains_key(name) {
                head.0.extend_from_slice(line);
            }
        }
        for (name, value) in request.headers() {
            head.add(name.as_str(), value.as_bytes());
        }
        let length = request.body().len();
        let has_length = length > 0 || [Method::PUT, Method::POST].contains(request.method());
        head.finish(has_length.then_some(length))
    }
}

/// Writes the head of one request.
pub struct HeadWriter(Vec<u8>);

impl HeadWriter {
    /// A head that begins with the request line of `method` and of `prefix` and `target`.
    pub fn new(method: &str, prefix: &str, target: &str) -> Self {
        let mut head = Vec::with_capacity(256);
        for part in [method, " ", prefix, target, " HTTP/1.1\r\n"] {
            head.extend_from_slice(part.as_bytes());
        }
        HeadWriter(head)
    }

    /// Adds a header, with the name spelt as Go does (`X-Consul-Token`), for targets of HTTP checks
    /// that do not ignore case.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        let mut last = b'-';
        for byte in name.bytes() {
            self.0.push(if last == b'-' { byte.to_ascii_uppercase() } else { byte });
            last = byte;
        }
        for part in [b": ", value, b"\r\n"] {
            self.0.extend_from_slice(part);
        }
    }

    /// Ends the head, with the length of the body if there is one.
    pub fn finish(mut self, length: Option<usize>) -> Vec<u8> {
        if let Some(length) = length {
            self.add(CONTENT_LENGTH.as_str(), length.to_string().as_bytes());
        }
        self.0.extend_from_slice(b"\r\n");
        self.0
    }
}

/// Parses one answer from the bytes of a connection.
pub struct ResponseParser {
    /// The longest accepted body.
    limit: usize,
    status: StatusCode,
    /// The reason phrase, unless it is the usual one of the status.
    reason: Option<Box<str>>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether it keeps the headers that are not in [`HEADERS`] too.
    keeps_all: bool,
    /// How many interim responses came before it.
    interim_responses: u8,
    body: Vec<u8>,
    state: State,
    keeps_alive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// In a body with this number of bytes left.
    Body(usize),
    Chunks(Chunks),
    /// In a body that ends with the connection.
    UntilEnd,
    Complete,
}

/// The position in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunks {
    at: At,
    /// The total length of extensions and trailers.
    extra: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In the size of a chunk: its value and its number of digits.
    Size(usize, u8),
    /// In an extension after the size.
    Extension(usize),
    /// Before the line feed after the size.
    SizeEnd(usize),
    /// In a chunk with this number of bytes left.
    Data(usize),
    /// Before the carriage return after a chunk.
    DataEnd,
    /// Before the line feed after a chunk.
    DataFeed,
    /// At the start of a line after the last chunk.
    Trailers,
    Trailer,
    /// Before the line feed at the end of the body.
    LastFeed,
}

impl ResponseParser {
    /// A parser of one response, which refuses bodies of more than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        ResponseParser {
            limit,
            status: StatusCode::OK,
            reason: None,
            headers: Vec::new(),
            keeps_all: false,
            interim_responses: 0,
            body: Vec::new(),
            state: State::Head,
            keeps_alive: false,
        }
    }

    /// A parser of the answer to a request of a client.
    pub(super) fn of_answer_to(request: &Request<Bytes>) -> Self {
        let keeps_all = request.extensions().get::<AllHeaders>().is_some();
        ResponseParser { keeps_all, ..ResponseParser::new(MAX_REPLY_BYTES) }
    }

    /// Parses the bytes that were not parsed yet, and returns how many of them it has taken; 0 when
    /// it needs more.
    pub fn parse(&mut self, bytes: &[u8]) -> Result<usize, ParseError> {
        let mut taken = 0;
        while self.state == State::Head {
            let Some(length) = self.parse_head(&bytes[taken..])? else { return Ok(taken) };
            taken += length;
        }
        let rest = &bytes[taken..];
        match self.state {
            State::Body(left) => {
                let part = &rest[..left.min(rest.len())];
                self.body.extend_from_slice(part);
                self.state = match left - part.len() {
                    0 => State::Complete,
                    left => State::Body(left),
                };
                taken += part.len();
            }
            State::UntilEnd => {
                self.add(rest)?;
                taken += rest.len();
            }
            State::Chunks(chunks) => taken += self.parse_chunks(chunks, rest)?,
            State::Head | State::Complete => {}
        }
        Ok(taken)
    }

    /// Whether the whole response is parsed.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// The status, once the head is complete.
    pub fn status(&self) -> Option<StatusCode> {
        (self.state != State::Head).then_some(self.status)
    }

    /// The status and the reason phrase, once the head is complete: `200 OK`.
    pub fn status_line(&self) -> Option<String> {
        let status = self.status()?;
        let reason = self.reason.as_deref().or(status.canonical_reason()).unwrap_or_default();
        Some(format!("{} {reason}", status.as_str()).trim_end().to_owned())
    }

    /// The part of the body that has arrived.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Completes an answer that ends with its connection.
    pub fn end_of_stream(&mut self) -> Result<(), ParseError> {
        match self.state {
            State::UntilEnd => self.state = State::Complete,
            State::Complete => {}
            State::Head => return Err("the connection was closed without an answer".into()),
            _ => return Err("the connection was closed before the answer's end".into()),
        }
        Ok(())
    }

    /// The answer, and whether its connection can be used for another request.
    pub fn finish(self) -> (Response<Bytes>, bool) {
        let mut answer = Response::new(self.body.into());
        *answer.status_mut() = self.status;
        answer.headers_mut().reserve(self.headers.len());
        for (name, value) in self.headers {
            answer.headers_mut().append(name, value);
        }
        (answer, self.keeps_alive)
    }

    /// Parses a head and returns its length; `None` when it is not complete.
    fn parse_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, ParseError> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut head = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut head,
            &bytes[..bytes.len().min(MAX_HEAD_BYTES)],
            &mut headers,
        );
        let too_large = || ParseError::from("the answer's head is too large");
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD_BYTES => {
                return Err(too_large());
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(too_large()),
            Err(error) => return Err(format!("the answer is not HTTP: {error}").into()),
        };
        let status = StatusCode::from_u16(head.code.unwrap_or(0))?;
        // Interim responses come before the answer itself.
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            if self.interim_responses == MAX_INTERIM_RESPONSES {
                return Err("too many interim responses (1xx) came before the answer".into());
            }
            self.interim_responses += 1;
            return Ok(Some(length));
        }
        self.status = status;
        self.reason =
            head.reason.filter(|text| Some(*text) != status.canonical_reason()).map(Box::from);
        let framing =
            self.parse_headers(&bytes[..length], head.headers, head.version == Some(1))?;
        self.keeps_alive = framing.keeps_alive;
        self.state = match framing {
            _ if status == StatusCode::SWITCHING_PROTOCOLS => {
                self.keeps_alive = false;
                State::Complete
            }
            _ if [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status) => {
                State::Complete
            }
            Framing { is_chunked: true, .. } => {
                State::Chunks(Chunks { at: At::Size(0, 0), extra: 0 })
            }
            Framing { length: Some(0), .. } => State::Complete,
            Framing { length: Some(length), .. } => {
                if length > self.limit {
                    return Err(TooLarge.into());
                }
                self.body.reserve_exact(length.min(MAX_RESERVED_BYTES));
                State::Body(length)
            }
            Framing { length: None, .. } => {
                self.keeps_alive = false;
                State::UntilEnd
            }
        };
        Ok(Some(length))
    }

    /// Keeps headers, which share one copy of the head, and reads those about the body and the connection.
    fn parse_headers(
        &mut self,
        head: &[u8],
        headers: &[httparse::Header],
        is_http_11: bool,
    ) -> Result<Framing, ParseError> {
        let mut framing = Framing { is_chunked: false, length: None, keeps_alive: is_http_11 };
        let (mut is_encoded, mut closes) = (false, false);
        let copy = Bytes::copy_from_slice(head);
        self.headers.reserve(headers.len());
        for header in headers {
            let named = |name: &HeaderName| header.name.eq_ignore_ascii_case(name.as_str());
            let known = HEADERS.iter().find(|name| named(name));
            let kept = match known {
                Some(name) => Some(name.clone()),
                None if self.keeps_all => Some(HeaderName::from_bytes(header.name.as_bytes())?),
                None => None,
            };
            if let Some(name) = kept {
                let at = header.value.as_ptr() as usize - head.as_ptr() as usize;
                let value = copy.slice(at..at + header.value.len());
                self.headers.push((name, HeaderValue::from_maybe_shared(value)?));
            }
            if known.is_some() {
                continue;
            }
            if named(&CONTENT_LENGTH) {
                let length = str::from_utf8(header.value).ok().and_then(parse_length);
                let length = length.ok_or("the Content-Length of the answer is not a number")?;
                if framing.length.is_some_and(|other| other != length) {
                    return Err("the answer has two values of Content-Length".into());
                }
                framing.length = Some(length);
            } else if named(&TRANSFER_ENCODING) {
                is_encoded = true;
                for word in words(header.value) {
                    if framing.is_chunked || !is(word, "chunked") {
                        let list = String::from_utf8_lossy(header.value);
                        let why = format!("Transfer-Encoding: {list} was not requested");
                        return Err(why.into());
                    }
                    framing.is_chunked = true;
                }
            } else if named(&CONNECTION) {
                for word in words(header.value) {
                    closes |= is(word, "close");
                    framing.keeps_alive |= is(word, "keep-alive");
                }
            }
        }
        framing.keeps_alive &= !closes;
        if is_encoded {
            // It overrides a length. After an answer with both, or of HTTP/1.0, which has no chunks, the
            // connection is not trusted.
            framing.keeps_alive &= framing.length.take().is_none() && is_http_11;
        }
        Ok(framing)
    }

    fn add(&mut self, part: &[u8]) -> Result<(), ParseError> {
        if part.len() > self.limit - self.body.len() {
            return Err(TooLarge.into());
        }
        self.body.extend_from_slice(part);
        Ok(())
    }

    fn parse_chunks(&mut self, chunks: Chunks, bytes: &[u8]) -> Result<usize, ParseError> {
        let Chunks { mut at, mut extra } = chunks;
        let malformed = || ParseError::from("the answer's chunks are malformed");
        let mut taken = 0;
        while taken < bytes.len() {
            if let At::Data(left) = at {
                let part = &bytes[taken..][..left.min(bytes.len() - taken)];
                self.add(part)?;
                taken += part.len();
                at = if left == part.len() { At::DataEnd } else { At::Data(left - part.len()) };
                continue;
            }
            let byte = bytes[taken];
            taken += 1;
            if matches!(at, At::Extension(_) | At::Trailer) {
                extra += 1;
                if extra > MAX_HEAD_BYTES {
                    return Err(
                        "the extensions and trailers of the answer's chunks are too long".into()
                    );
                }
            }
            at = match (at, byte) {
                (At::Size(size, digits), _) if byte.is_ascii_hexdigit() => {
                    let digit = char::from(byte).to_digit(16).ok_or_else(malformed)? as usize;
                    // A saturated size is above any limit.
                    At::Size(
                        size.saturating_mul(16).saturating_add(digit),
                        digits.saturating_add(1),
                    )
                }
                (At::Size(_, 0), _) => return Err(malformed()),
                (At::Size(size, _), b'\r') => At::SizeEnd(size),
                (At::Size(size, _), b';' | b' ' | b'\t') => At::Extension(size),
                (At::Extension(size), b'\r') => At::SizeEnd(size),
                (At::Extension(size), byte) if byte != b'\n' => At::Extension(size),
                (At::SizeEnd(0), b'\n') => At::Trailers,
                (At::SizeEnd(size), b'\n') if size > self.limit - self.body.len() => {
                    return Err(TooLarge.into());
                }
                (At::SizeEnd(size), b'\n') => At::Data(size),
                (At::DataEnd, b'\r') => At::DataFeed,
                (At::DataFeed, b'\n') => At::Size(0, 0),
                (At::Trailers, b'\r') => At::LastFeed,
                (At::Trailers, byte) if byte != b'\n' => At::Trailer,
                (At::Trailer, b'\n') => At::Trailers,
                (At::Trailer, _) => At::Trailer,
                (At::LastFeed, b'\n') => {
                    self.state = State::Complete;
                    return Ok(taken);
                }
                _ => return Err(malformed()),
            };
        }
        self.state = State::Chunks(Chunks { at, extra });
        Ok(taken)
    }
}

/// How a body ends, and whether the connection stays open after it.
struct Framing {
    is_chunked: bool,
    length: Option<usize>,
    keeps_alive: bool,
}

/// A length, written in digits alone.
fn parse_length(text: &str) -> Option<usize> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // A saturated length is above any limit.
    is_number.then(|| text.parse().unwrap_or(usize::MAX))
}

/// The items of a comma-separated header.
fn words(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn is(word: &[u8], wanted: &str) -> bool {
    word.eq_ignore_ascii_case(wanted.as_bytes())
}

/// Bytes of a connection that were received and not parsed yet.
pub struct ReceiveBuffer {
    bytes: Box<[u8]>,
    filled: usize,
}

impl Default for ReceiveBuffer {
    /// An empty buffer.
    fn default() -> Self {
        ReceiveBuffer { bytes: vec![0; MAX_HEAD_BYTES].into_boxed_slice(), filled: 0 }
    }
}

impl ReceiveBuffer {
    /// Whether it has no unread bytes.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// The room for further bytes, which is not empty between two calls of
    /// [`ReceiveBuffer::parse`].
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    /// Has `parser` take the bytes, after `received` more of them were written to the room.
    pub fn parse(
        &mut self,
        received: usize,
        parser: &mut ResponseParser,
    ) -> Result<(), ParseError> {
        self.filled += received;
        let parsed = parser.parse(&self.bytes[..self.filled])?;
        self.bytes.copy_within(parsed..self.filled, 0);
        self.filled -= parsed;
        Ok(())
    }
}

impl fmt::Debug for ResponseParser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseParser").field("state", &self.state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
