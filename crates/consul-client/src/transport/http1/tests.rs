use super::*;
use proptest::prelude::*;

const LIMIT: usize = 100;

/// Parses bytes that arrive in parts of these lengths, before the end of the connection.
/// Returns status, body, number of unused bytes, and whether the connection can be used again.
fn read_in_parts(
    bytes: &[u8],
    parts: impl Iterator<Item = usize>,
) -> Result<(u16, Vec<u8>, usize, bool), String> {
    let mut parser = ResponseParser::new(LIMIT);
    let (mut begin, mut end) = (0, 0);
    let mut parts = parts.filter(|length| *length > 0);
    while !parser.is_complete() {
        if end == bytes.len() {
            parser.end_of_stream().map_err(|error| error.to_string())?;
            break;
        }
        end = (end + parts.next().unwrap_or(bytes.len())).min(bytes.len());
        begin += parser.parse(&bytes[begin..end]).map_err(|error| error.to_string())?;
    }
    let (answer, keeps_alive) = parser.finish();
    let left = bytes.len() - begin;
    Ok((answer.status().as_u16(), answer.body().to_vec(), left, keeps_alive))
}

fn read(text: &str) -> Result<(u16, String, bool), String> {
    let (status, body, left, keeps_alive) = read_in_parts(text.as_bytes(), [].into_iter())?;
    Ok((status, String::from_utf8(body).unwrap(), keeps_alive && left == 0))
}

fn is_read_as(text: &str, status: u16, body: &str, keeps_alive: bool) {
    assert_eq!(read(text), Ok((status, body.to_owned(), keeps_alive)), "{text:?}");
}

#[test]
fn a_body_ends_where_its_length_its_chunks_or_the_connection_say() {
    is_read_as("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, "abc", true);
    is_read_as("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", true);
    is_read_as("HTTP/1.1 404 No\r\n\r\nabc", 404, "abc", false);
    let chunked =
        |chunks: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n{chunks}");
    is_read_as(
        &chunked("3\r\nabc\r\n0B;x=y\r\nd\r\nefghijkl\r\n0\r\n\r\n"),
        200,
        "abcd\r\nefghijkl",
        true,
    );
    is_read_as(&chunked("1 \r\na\r\n0\r\nA: b\r\nC: d\r\n\r\n"), 200, "a", true);
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
fn interim_answers_are_skipped() {
    let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\n\
                HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
    is_read_as(text, 200, "a", true);
}

#[test]
fn interim_answers_without_end_are_refused() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    let end = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
    is_read_as(&(interim.repeat(16) + end), 200, "a", true);
    let error = ResponseParser::new(LIMIT).parse(interim.repeat(17).as_bytes()).unwrap_err();
    assert!(error.to_string().contains("too many interim responses"), "{error}");
}

#[test]
fn a_status_line_has_the_reason_of_the_server() {
    for line in ["200 OK", "200 Fine", "404 Not Found", "299", "599 Own"] {
        let mut parser = ResponseParser::new(LIMIT);
        assert_eq!((parser.status(), parser.status_line()), (None, None));
        parser.parse(format!("HTTP/1.1 {line}\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(parser.status_line().as_deref(), Some(line));
    }
}

#[test]
fn a_parser_of_all_headers_keeps_those_about_the_body_too() {
    let text = "HTTP/1.1 200 OK\r\nX-Own: a\r\nX-Own: b\r\nX-Consul-Index: 7\r\nContent-Length: 1\r\n\r\nx";
    for (mut parser, wanted) in [
        (ResponseParser::new(LIMIT), vec!["x-consul-index"]),
        (
            ResponseParser { keeps_all: true, ..ResponseParser::new(LIMIT) },
            vec!["x-own", "x-own", "x-consul-index", "content-length"],
        ),
    ] {
        assert_eq!(parser.parse(text.as_bytes()).unwrap(), text.len());
        let (answer, keeps_alive) = parser.finish();
        assert_eq!((answer.body().as_ref(), keeps_alive), (&b"x"[..], true));
        let names: Vec<_> = answer.headers().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, wanted);
    }
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
    for both in ["close, keep-alive", "keep-alive, close", "close\r\nConnection: keep-alive"] {
        assert!(!read("HTTP/1.0", &format!("Connection: {both}\r\n")), "{both}");
        assert!(!read("HTTP/1.1", &format!("Connection: {both}\r\n")), "{both}");
    }
    let chunks = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n";
    is_read_as(&format!("{chunks}0\r\n\r\n"), 200, "", false);
    // Further bytes are not the answer to the next request.
    is_read_as("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", 200, "a", false);
    let both = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n";
    is_read_as(&format!("{both}0\r\n\r\n"), 200, "", false);
}

#[test]
fn an_invalid_answer_is_refused_with_the_reason() {
    let refused = |text: &str, wanted: &str| {
        let error = read(text).expect_err(text);
        assert!(error.contains(wanted), "{text:?}: {error}");
    };
    let headers = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
    refused("", "without an answer");
    refused("HTTP/1.1 200 OK\r\nA:", "without an answer");
    refused("SSH-2.0-OpenSSH_9.2\r\n", "invalid HTTP version");
    refused(&headers("a b\r\n"), "not HTTP: invalid header name");
    refused(&headers(&format!("a: {}\r\n", "b".repeat(MAX_HEAD_BYTES))), "head is too large");
    refused(&headers(&"a: b\r\n".repeat(MAX_HEADERS + 1)), "head is too large");
    for length in ["-1", "+1", "1 2", "x", ""] {
        refused(
            &headers(&format!("Content-Length: {length}\r\n")),
            "Content-Length of the answer is not a number",
        );
    }
    refused(&headers("Content-Length: 1\r\nContent-Length: 2\r\n"), "two values");
    for codings in ["x", "gzip, chunked", "chunked, gzip", "chunked, chunked", ""] {
        refused(&headers(&format!("Transfer-Encoding: {codings}\r\n")), "was not requested");
    }
    refused(&(headers("Content-Length: 2\r\n") + "a"), "before the answer's end");
    let too_large = "larger than 256 MiB";
    refused(&headers("Content-Length: 101\r\n"), too_large);
    refused(&headers("Content-Length: 99999999999999999999\r\n"), too_large);
    refused(&(headers("") + &"a".repeat(101)), too_large);
    let chunked = |chunks: &str| headers("Transfer-Encoding: chunked\r\n") + chunks;
    refused(&chunked("2\r\na"), "before the answer's end");
    refused(&chunked("65\r\n"), too_large);
    refused(&chunked(&format!("63\r\n{}\r\n2\r\n", "a".repeat(99))), too_large);
    refused(&chunked("fffffffffffffffff\r\n"), too_large);
    refused(&chunked(&format!("1;{}", "x".repeat(MAX_HEAD_BYTES + 1))), "too long");
    refused(&chunked(&format!("0\r\n{}", "a: b\r\n".repeat(MAX_HEAD_BYTES))), "too long");
    for chunks in ["\r\n", "g\r\n", "-1\r\n", "1\n", "1\r\nab", "1\r\na\n", "0\r\n\n", ";\r\n"] {
        refused(&chunked(chunks), "malformed");
    }
}

#[test]
fn a_request_says_what_is_common_unless_it_says_it_itself() {
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("a:1"));
    headers.insert("x-b", HeaderValue::from_static("common"));
    let head = |prefix: &str, method: Method, body: &'static [u8]| {
        let request = Request::builder().method(method).uri("/v1/kv/a%20b?c").header("x-b", "own");
        let request = request.body(Bytes::from_static(body)).unwrap();
        String::from_utf8(RequestHeads::new(prefix, &headers).encode(&request)).unwrap()
    };
    assert_eq!(
        head("/", Method::GET, b""),
        "GET /v1/kv/a%20b?c HTTP/1.1\r\nHost: a:1\r\nX-B: own\r\n\r\n"
    );
    assert_eq!(
        head("/p/q", Method::PUT, b""),
        "PUT /p/q/v1/kv/a%20b?c HTTP/1.1\r\nHost: a:1\r\nX-B: own\r\nContent-Length: 0\r\n\r\n"
    );
    assert!(head("", Method::PUT, b"abc").ends_with("Content-Length: 3\r\n\r\n"));
}

/// Valid answers and similar texts.
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
            Ok((status, body, _, keeps_alive)) => {
                for other in [by_parts, by_bytes] {
                    let (other_status, other_body, _, other_lasting) = other.unwrap();
                    prop_assert_eq!(other_status, status);
                    prop_assert_eq!(&other_body, &body);
                    prop_assert_eq!(other_lasting, keeps_alive);
                }
            }
        }
    }
}
