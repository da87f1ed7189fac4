//! HTTP/1.1 as a client speaks it, without I/O: a request becomes bytes, bytes become an answer.

use super::http::TooLarge;
use crate::wire::response::HEADERS;
use ::http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use bytes::Bytes;
use std::error::Error as StdError;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::{fmt, str};

/// How long an answer's head may be, and the trailers and extensions of its chunks. Consul's are
/// below 1 KiB.
pub(super) const MAX_HEAD_BYTES: usize = 16 << 10;

/// How many headers an answer may have.
const MAX_HEADERS: usize = 100;

/// How much room a body gets before it has come.
const MAX_RESERVED_BYTES: usize = 1 << 20;

/// Why an answer cannot be read.
pub(super) type Unreadable = Box<dyn StdError + Send + Sync>;

/// The lines of a request's head that say the same in each request.
pub(super) struct Common {
    /// What is put before the path of each request, without a trailing slash.
    prefix: String,
    lines: Vec<(HeaderName, Vec<u8>)>,
}

impl Common {
    pub(super) fn new(prefix: &str, headers: &HeaderMap) -> Self {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            let mut line = Vec::new();
            push_line(&mut line, name, value);
            (name.clone(), line)
        };
        let prefix = prefix.trim_end_matches('/').to_owned();
        Common { prefix, lines: headers.iter().map(line).collect() }
    }

    /// The head of a request, which says the common lines unless it has one of the name itself.
    pub(super) fn head(&self, request: &Request<Bytes>) -> Vec<u8> {
        let mut head = Vec::with_capacity(256);
        head.extend_from_slice(request.method().as_str().as_bytes());
        head.push(b' ');
        head.extend_from_slice(self.prefix.as_bytes());
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        head.extend_from_slice(target.as_bytes());
        head.extend_from_slice(b" HTTP/1.1\r\n");
        for (name, line) in &self.lines {
            if !request.headers().contains_key(name) {
                head.extend_from_slice(line);
            }
        }
        for (name, value) in request.headers() {
            push_line(&mut head, name, value);
        }
        let length = request.body().len();
        if length > 0 || [Method::PUT, Method::POST].contains(request.method()) {
            // Writing to memory cannot fail.
            let _ = write!(head, "content-length: {length}\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

fn push_line(head: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    head.extend_from_slice(name.as_str().as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value.as_bytes());
    head.extend_from_slice(b"\r\n");
}

/// An answer as it comes.
pub(super) struct Incoming {
    /// The longest body that is taken.
    limit: usize,
    head: Response<()>,
    body: Vec<u8>,
    next: Next,
    is_lasting: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Head,
    /// So many bytes of a body whose length is known.
    Body(usize),
    Chunks(Chunks),
    /// A body that ends when the connection does.
    UntilEnd,
    Nothing,
}

/// Where in a body of chunks the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunks {
    at: At,
    /// How many bytes of extensions and trailers have come.
    extra: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In the length of a chunk, of which so many digits have come.
    Size(usize, u8),
    /// In what a chunk's first line says besides its length.
    Extension(usize),
    /// Before the line feed that ends a chunk's first line.
    SizeEnd(usize),
    /// In a chunk that has so many bytes left.
    Data(usize),
    /// Before the carriage return after a chunk.
    DataEnd,
    /// Before the line feed after a chunk.
    DataFeed,
    /// At the begin of a line after the last chunk.
    Trailers,
    Trailer,
    /// Before the last line feed of all.
    LastFeed,
}

impl Incoming {
    pub(super) fn new(limit: usize) -> Self {
        let (head, body) = (Response::new(()), Vec::new());
        Incoming { limit, head, body, next: Next::Head, is_lasting: false }
    }

    /// Takes bytes of the answer, from the first that was not taken yet; gives how many it took.
    /// More are to be had behind them when it takes none.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, Unreadable> {
        let mut taken = 0;
        while self.next == Next::Head {
            let Some(length) = self.take_head(&bytes[taken..])? else { return Ok(taken) };
            taken += length;
        }
        let rest = &bytes[taken..];
        match self.next {
            Next::Body(left) => {
                let part = &rest[..left.min(rest.len())];
                self.body.extend_from_slice(part);
                self.next = match left - part.len() {
                    0 => Next::Nothing,
                    left => Next::Body(left),
                };
                taken += part.len();
            }
            Next::UntilEnd => {
                self.add(rest)?;
                taken += rest.len();
            }
            Next::Chunks(chunks) => taken += self.take_chunks(chunks, rest)?,
            Next::Head | Next::Nothing => {}
        }
        Ok(taken)
    }

    /// Whether all of it has come.
    pub(super) fn is_whole(&self) -> bool {
        self.next == Next::Nothing
    }

    /// The connection has ended.
    pub(super) fn end(&mut self) -> Result<(), Unreadable> {
        match self.next {
            Next::UntilEnd => self.next = Next::Nothing,
            Next::Nothing => {}
            Next::Head => return Err("the connection was closed without an answer".into()),
            _ => return Err("the connection was closed before the answer's end".into()),
        }
        Ok(())
    }

    /// The answer, and whether its connection can be used for another one.
    pub(super) fn finish(self) -> (Response<Bytes>, bool) {
        (self.head.map(|()| self.body.into()), self.is_lasting)
    }

    /// Reads a head and gives its length; `None` when not all of it has come.
    fn take_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut head = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut head,
            &bytes[..bytes.len().min(MAX_HEAD_BYTES)],
            &mut headers,
        );
        let too_large = || Unreadable::from("the answer's head is too large");
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD_BYTES => {
                return Err(too_large());
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(too_large()),
            Err(error) => return Err(format!("the answer is no HTTP: {error}").into()),
        };
        let status = StatusCode::from_u16(head.code.unwrap_or(0))?;
        // What comes before the answer itself.
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Some(length));
        }
        *self.head.status_mut() = status;
        if head.version == Some(0) {
            *self.head.version_mut() = Version::HTTP_10;
        }
        let framing = self.take_headers(head.headers)?;
        self.is_lasting = framing.is_lasting;
        self.next = match framing {
            _ if status == StatusCode::SWITCHING_PROTOCOLS => {
                self.is_lasting = false;
                Next::Nothing
            }
            _ if [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status) => {
                Next::Nothing
            }
            Framing { is_chunked: true, .. } => {
                Next::Chunks(Chunks { at: At::Size(0, 0), extra: 0 })
            }
            Framing { length: Some(0), .. } => Next::Nothing,
            Framing { length: Some(length), .. } => {
                if length > self.limit {
                    return Err(TooLarge.into());
                }
                self.body.reserve_exact(length.min(MAX_RESERVED_BYTES));
                Next::Body(length)
            }
            Framing { length: None, .. } => {
                self.is_lasting = false;
                Next::UntilEnd
            }
        };
        Ok(Some(length))
    }

    /// Keeps the headers that somebody reads; gives what they say of the body.
    fn take_headers(&mut self, headers: &[httparse::Header]) -> Result<Framing, Unreadable> {
        let is_new = self.head.version() == Version::HTTP_11;
        let mut framing = Framing { is_chunked: false, length: None, is_lasting: is_new };
        let mut is_encoded = false;
        let kept = self.head.headers_mut();
        for header in headers {
            let named = |name: &HeaderName| header.name.eq_ignore_ascii_case(name.as_str());
            if let Some(name) = HEADERS.iter().find(|name| named(name)) {
                kept.append(name, HeaderValue::from_bytes(header.value)?);
            } else if named(&CONTENT_LENGTH) {
                let length = str::from_utf8(header.value).ok().and_then(length_of);
                let length = length.ok_or("the answer's length is no number")?;
                if framing.length.is_some_and(|other| other != length) {
                    return Err("the answer has two lengths".into());
                }
                framing.length = Some(length);
            } else if named(&TRANSFER_ENCODING) {
                is_encoded = true;
                framing.is_chunked =
                    words(header.value).last().is_some_and(|word| is(word, "chunked"));
            } else if named(&CONNECTION) {
                for word in words(header.value) {
                    framing.is_lasting &= !is(word, "close");
                    framing.is_lasting |= !is_new && is(word, "keep-alive");
                }
            }
        }
        if is_encoded {
            // It counts in place of a length, which then is of no use, nor what follows.
            framing.is_lasting &= framing.length.take().is_none();
        }
        Ok(framing)
    }

    fn add(&mut self, part: &[u8]) -> Result<(), Unreadable> {
        if part.len() > self.limit - self.body.len() {
            return Err(TooLarge.into());
        }
        self.body.extend_from_slice(part);
        Ok(())
    }

    fn take_chunks(&mut self, chunks: Chunks, bytes: &[u8]) -> Result<usize, Unreadable> {
        let Chunks { mut at, mut extra } = chunks;
        let malformed = || Unreadable::from("the answer's chunks are malformed");
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
                    return Err("the answer's chunks say too much besides their data".into());
                }
            }
            at = match (at, byte) {
                (At::Size(size, digits), _) if byte.is_ascii_hexdigit() => {
                    let digit = char::from(byte).to_digit(16).ok_or_else(malformed)? as usize;
                    // More than any answer may have, which is then refused.
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
                    self.next = Next::Nothing;
                    return Ok(taken);
                }
                _ => return Err(malformed()),
            };
        }
        self.next = Next::Chunks(Chunks { at, extra });
        Ok(taken)
    }
}

/// What an answer's headers say of its body and its connection.
struct Framing {
    is_chunked: bool,
    length: Option<usize>,
    is_lasting: bool,
}

/// The number that a length is written as: digits alone.
fn length_of(text: &str) -> Option<usize> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // More than any answer may have, which is then refused.
    is_number.then(|| text.parse().unwrap_or(usize::MAX))
}

/// The words of a list, as headers have it.
fn words(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn is(word: &[u8], wanted: &str) -> bool {
    word.eq_ignore_ascii_case(wanted.as_bytes())
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("next", &self.next).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 100;

    /// What comes of bytes that are followed by the connection's end: status, body, how many bytes
    /// were left, whether the connection could be used again. They come in parts of these lengths.
    fn read_in_parts(
        bytes: &[u8],
        parts: impl Iterator<Item = usize>,
    ) -> Result<(u16, Vec<u8>, usize, bool), String> {
        let mut incoming = Incoming::new(LIMIT);
        let (mut begin, mut end) = (0, 0);
        let mut parts = parts.filter(|length| *length > 0);
        while !incoming.is_whole() {
            if end == bytes.len() {
                incoming.end().map_err(|error| error.to_string())?;
                break;
            }
            end = (end + parts.next().unwrap_or(bytes.len())).min(bytes.len());
            begin += incoming.take(&bytes[begin..end]).map_err(|error| error.to_string())?;
        }
        let (answer, is_lasting) = incoming.finish();
        let left = bytes.len() - begin;
        Ok((answer.status().as_u16(), answer.body().to_vec(), left, is_lasting))
    }

    fn read(text: &str) -> Result<(u16, String, bool), String> {
        let (status, body, left, is_lasting) = read_in_parts(text.as_bytes(), [].into_iter())?;
        Ok((status, String::from_utf8(body).unwrap(), is_lasting && left == 0))
    }

    fn is_read_as(text: &str, status: u16, body: &str, is_lasting: bool) {
        assert_eq!(read(text), Ok((status, body.to_owned(), is_lasting)), "{text:?}");
    }

    #[test]
    fn a_body_ends_where_its_length_its_chunks_or_the_connection_say() {
        is_read_as("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, "abc", true);
        is_read_as("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", true);
        is_read_as("HTTP/1.1 404 No\r\n\r\nabc", 404, "abc", false);
        let chunked = |chunks: &str| {
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n{chunks}")
        };
        is_read_as(
            &chunked("3\r\nabc\r\n0B;x=y\r\nd\r\nefghijkl\r\n0\r\n\r\n"),
            200,
            "abcd\r\nefghijkl",
            true,
        );
        is_read_as(&chunked("1 \r\na\r\n0\r\nA: b\r\nC: d\r\n\r\n"), 200, "a", true);
        is_read_as("HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n\r\nabc", 200, "abc", false);
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        for status in [204, 304] {
            let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 3\r\n\r\n");
            is_read_as(&text, status, "", true);
        }
        is_read_as("HTTP/1.1 101 Other\r\nUpgrade: x\r\n\r\n", 101, "", false);
    }

    #[test]
    fn what_comes_before_the_answer_is_passed_over() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\n\
                    HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
        is_read_as(text, 200, "a", true);
    }

    #[test]
    fn a_connection_is_used_again_unless_one_side_says_otherwise() {
        let read = |version: &str, headers: &str| {
            let text = format!("{version} 200 OK\r\nContent-Length: 1\r\n{headers}\r\na");
            read(&text).unwrap().2
        };
        assert!(read("HTTP/1.1", ""));
        assert!(read("HTTP/1.1", "Connection: keep-alive\r\n"));
        assert!(!read("HTTP/1.1", "Connection: x, Close\r\n"));
        assert!(!read("HTTP/1.0", ""));
        assert!(read("HTTP/1.0", "connection: Keep-Alive\r\n"));
        // What nobody asked for is no answer to the next request.
        is_read_as("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", 200, "a", false);
        let both = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n";
        is_read_as(&format!("{both}0\r\n\r\n"), 200, "", false);
    }

    #[test]
    fn what_is_no_answer_is_refused_with_the_reason() {
        let refused = |text: &str, wanted: &str| {
            let error = read(text).expect_err(text);
            assert!(error.contains(wanted), "{text:?}: {error}");
        };
        let headers = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        refused("", "without an answer");
        refused("HTTP/1.1 200 OK\r\nA:", "without an answer");
        refused("SSH-2.0-OpenSSH_9.2\r\n", "invalid HTTP version");
        refused(&headers("a b\r\n"), "no HTTP: invalid header name");
        refused(&headers(&format!("a: {}\r\n", "b".repeat(MAX_HEAD_BYTES))), "head is too large");
        refused(&headers(&"a: b\r\n".repeat(MAX_HEADERS + 1)), "head is too large");
        for length in ["-1", "+1", "1 2", "x", ""] {
            refused(&headers(&format!("Content-Length: {length}\r\n")), "length is no number");
        }
        refused(&headers("Content-Length: 1\r\nContent-Length: 2\r\n"), "two lengths");
        refused(&(headers("Content-Length: 2\r\n") + "a"), "before the answer's end");
        let too_large = "larger than 256 MiB";
        refused(&headers("Content-Length: 101\r\n"), too_large);
        refused(&headers("Content-Length: 99999999999999999999\r\n"), too_large);
        refused(&(headers("") + &"a".repeat(101)), too_large);
        let chunked = |chunks: &str| headers("Transfer-Encoding: chunked\r\n") + chunks;
        refused(&chunked("2\r\na"), "before the answer's end");
        refused(&chunked("65\r\n"), too_large);
        refused(&chunked("fffffffffffffffff\r\n"), too_large);
        refused(&chunked(&format!("1;{}", "x".repeat(MAX_HEAD_BYTES + 1))), "say too much");
        refused(&chunked(&format!("0\r\n{}", "a: b\r\n".repeat(MAX_HEAD_BYTES))), "say too much");
        for chunks in ["\r\n", "g\r\n", "-1\r\n", "1\n", "1\r\nab", "1\r\na\n", "0\r\n\n", ";\r\n"]
        {
            refused(&chunked(chunks), "malformed");
        }
    }

    #[test]
    fn a_request_says_what_is_common_unless_it_says_it_itself() {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("a:1"));
        headers.insert("x-b", HeaderValue::from_static("common"));
        let head = |prefix: &str, method: Method, body: &'static [u8]| {
            let request =
                Request::builder().method(method).uri("/v1/kv/a%20b?c").header("x-b", "own");
            let request = request.body(Bytes::from_static(body)).unwrap();
            String::from_utf8(Common::new(prefix, &headers).head(&request)).unwrap()
        };
        assert_eq!(
            head("/", Method::GET, b""),
            "GET /v1/kv/a%20b?c HTTP/1.1\r\nhost: a:1\r\nx-b: own\r\n\r\n"
        );
        assert_eq!(
            head("/p/q", Method::PUT, b""),
            "PUT /p/q/v1/kv/a%20b?c HTTP/1.1\r\nhost: a:1\r\nx-b: own\r\ncontent-length: 0\r\n\r\n"
        );
        assert!(head("", Method::PUT, b"abc").ends_with("content-length: 3\r\n\r\n"));
    }

    /// Texts that look like answers, and some that do not.
    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("HTTP/1.1 200 OK\r\n"),
            Just("HTTP/1.0 404 No\r\n"),
            Just("HTTP/1.1 100 Continue\r\n\r\n"),
            Just("Content-Length: 5\r\n"),
            Just("Transfer-Encoding: chunked\r\n"),
            Just("Connection: close\r\n"),
            Just("\r\n"),
            Just("5\r\nabcde\r\n"),
            Just("0\r\n"),
            Just("3;x\r\n"),
        ];
        let piece = prop_oneof![
            9 => piece.prop_map(|text| text.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..9),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]

        #[test]
        fn an_answer_is_the_same_in_whatever_parts_it_comes(
            bytes in any_bytes(),
            parts in prop::collection::vec(1_usize..20, 0..60),
        ) {
            let whole = read_in_parts(&bytes, [].into_iter());
            let by_parts = read_in_parts(&bytes, parts.into_iter());
            let by_bytes = read_in_parts(&bytes, std::iter::repeat(1));
            match whole {
                // Where parts end decides which of two reasons is found first.
                Err(_) => prop_assert!(by_parts.is_err() && by_bytes.is_err()),
                Ok((status, body, _, is_lasting)) => {
                    for other in [by_parts, by_bytes] {
                        let (other_status, other_body, _, other_lasting) = other.unwrap();
                        prop_assert_eq!(other_status, status);
                        prop_assert_eq!(&other_body, &body);
                        prop_assert_eq!(other_lasting, is_lasting);
                    }
                }
            }
        }
    }
}
