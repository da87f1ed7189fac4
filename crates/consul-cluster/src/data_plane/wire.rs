//! The HTTP messages between nodes, without I/O: the headers of a request, the signed text, and the
//! response for a reply or an error.

use super::auth::{self, ClusterKey};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use std::str::FromStr;
use std::time::Duration;

/// The path of a call.
pub(super) const CALL_PATH: &str = "/v1/call";

/// The path that returns the nonce of the connection.
pub(super) const NONCE_PATH: &str = "/v1/nonce";

/// The version of this protocol. Nodes of different versions do not call each other.
const VERSION: &str = "2";

/// The largest head of a request or a response.
pub(super) const MAX_HEAD_BYTES: usize = 16 << 10;

/// The longest name of a handler and idempotency key, which keeps heads below [`MAX_HEAD_BYTES`].
pub(crate) const MAX_NAME_BYTES: usize = 256;

const CLUSTER: HeaderName = HeaderName::from_static("node-cluster");
const FROM: HeaderName = HeaderName::from_static("node-from");
const TO: HeaderName = HeaderName::from_static("node-to");
const NAME: HeaderName = HeaderName::from_static("node-call");
const EPOCH: HeaderName = HeaderName::from_static("node-epoch");
const SHARD: HeaderName = HeaderName::from_static("node-shard");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const DEADLINE_MS: HeaderName = HeaderName::from_static("node-deadline-ms");
const PROTOCOL: HeaderName = HeaderName::from_static("node-protocol");
/// In a request, the nonce of the caller; otherwise that of the receiver.
const NONCE: HeaderName = HeaderName::from_static("node-nonce");
const COUNTER: HeaderName = HeaderName::from_static("node-counter");
const DIGEST: HeaderName = HeaderName::from_static("node-digest");
const SIGNATURE: HeaderName = HeaderName::from_static("node-signature");
/// The kind of an error.
const ERROR: HeaderName = HeaderName::from_static("node-error");
/// Whether the handler can have seen the request.
const MAYBE_APPLIED: HeaderName = HeaderName::from_static("node-maybe-applied");

/// The characters that are escaped in header values.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'"');

/// The payload of a request or a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// A JSON text or any bytes.
    pub bytes: Bytes,
    /// Whether it is a JSON text.
    pub is_json: bool,
}

impl Body {
    /// A payload of any bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Body { bytes: bytes.into(), is_json: false }
    }

    /// A payload of JSON text.
    pub fn json(text: impl Into<Bytes>) -> Self {
        Body { bytes: text.into(), is_json: true }
    }

    fn content_type(&self) -> &'static str {
        if self.is_json { "application/json" } else { "application/octet-stream" }
    }

    /// A received payload; its type is in the headers.
    pub(super) fn of(bytes: Bytes, headers: &HeaderMap) -> Self {
        let is_json = headers.get(CONTENT_TYPE).is_some_and(|it| it == "application/json");
        Body { bytes, is_json }
    }
}

/// The content of a request's headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The `nodes_prefix`, which identifies the cluster.
    pub cluster: String,
    pub from: String,
    pub to: String,
    pub name: String,
    pub epoch: u64,
    pub shard: Option<u64>,
    pub idempotency_key: String,
    /// The remaining time of the call.
    pub deadline: Duration,
}

/// The context that a signature covers besides the message, so that it is valid nowhere else.
#[derive(Clone, Copy)]
pub(super) enum Bound<'a> {
    /// Of a request: the nonce that its receiver made for the connection.
    ToConnection(&'a str),
    /// Of a reply: the signature of its request.
    ToRequest(&'a str),
}

/// How a request is signed.
pub(super) struct Signing<'a> {
    pub key: &'a ClusterKey,
    /// The receiver's nonce for the connection.
    pub connection: &'a str,
    /// The caller's nonce for this request.
    pub nonce: &'a str,
    /// Greater than that of any earlier request on the connection.
    pub counter: u64,
}

impl Head {
    /// Checks the lengths of the name and the idempotency key.
    ///
    /// # Errors
    /// [`Kind::Argument`], naming the part that is empty or too long.
    pub fn check(&self) -> Result<(), Error> {
        for (what, text) in
            [("the name", &self.name), ("the idempotency key", &self.idempotency_key)]
        {
            if text.is_empty() || text.len() > MAX_NAME_BYTES {
                let length = text.len();
                let why = format!("{what} has {length} bytes: it must have 1 to {MAX_NAME_BYTES}");
                return Err(Error::argument(why));
            }
        }
        Ok(())
    }

    fn fields(&self) -> Vec<(HeaderName, String)> {
        let escaped = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
        let mut fields = vec![
            (CLUSTER, escaped(&self.cluster)),
            (FROM, escaped(&self.from)),
            (TO, escaped(&self.to)),
            (NAME, escaped(&self.name)),
            (EPOCH, self.epoch.to_string()),
            (IDEMPOTENCY_KEY, escaped(&self.idempotency_key)),
            (DEADLINE_MS, self.deadline.as_millis().to_string()),
        ];
        fields.extend(self.shard.map(|shard| (SHARD, shard.to_string())));
        fields
    }

    /// Reads the headers of a request.
    ///
    /// # Errors
    /// [`Kind::Decode`], naming the missing or invalid header.
    pub fn parse(headers: &HeaderMap) -> Result<Self, Error> {
        let text = |name: &HeaderName| {
            let decoded = percent_decode_str(header(headers, name)?).decode_utf8();
            decoded.map(|text| text.into_owned()).map_err(|_| unreadable(name))
        };
        let shard = headers.contains_key(SHARD).then(|| number(headers, &SHARD)).transpose()?;
        Ok(Head {
            cluster: text(&CLUSTER)?,
            from: text(&FROM)?,
            to: text(&TO)?,
            name: text(&NAME)?,
            epoch: number(headers, &EPOCH)?,
            shard,
            idempotency_key: text(&IDEMPOTENCY_KEY)?,
            deadline: Duration::from_millis(number(headers, &DEADLINE_MS)?),
        })
    }

    /// The HTTP request with these headers and `body`, signed if there is a key.
    pub fn request(
        &self,
        host: &HeaderValue,
        body: &Body,
        signing: Option<&Signing>,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::new(Full::new(body.bytes.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(CALL_PATH);
        let headers = request.headers_mut();
        headers.insert(HOST, host.clone());
        headers.insert(PROTOCOL, HeaderValue::from_static(VERSION));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(body.content_type()));
        for (name, value) in self.fields() {
            headers.insert(&name, value_of(&name, &value)?);
        }
        if let Some(signing) = signing {
            headers.insert(NONCE, value_of(&NONCE, signing.nonce)?);
            headers.insert(COUNTER, HeaderValue::from(signing.counter));
            sign(headers, &body.bytes, signing.key, Bound::ToConnection(signing.connection))?;
        }
        Ok(request)
    }
}

/// Signs a message's headers and body.
pub(super) fn sign(
    headers: &mut HeaderMap,
    body: &[u8],
    key: &ClusterKey,
    bound: Bound,
) -> Result<(), Error> {
    headers.insert(DIGEST, value_of(&DIGEST, &auth::digest(body))?);
    let signature = key.sign(&signed_text(headers, bound));
    headers.insert(SIGNATURE, value_of(&SIGNATURE, &signature)?);
    Ok(())
}

/// The secret with which a message's headers are signed. The body is compared with [`has_signed_body`].
pub(super) fn signer(headers: &HeaderMap, key: &ClusterKey, bound: Bound) -> Option<ClusterKey> {
    key.signer(&signed_text(headers, bound), signature(headers)?)
}

/// The signature of a message, not verified.
pub(super) fn signature(headers: &HeaderMap) -> Option<&str> {
    header(headers, &SIGNATURE).ok()
}

/// The number of a request on its connection.
pub(super) fn counter(headers: &HeaderMap) -> Result<u64, Error> {
    number(headers, &COUNTER)
}

/// The nonce in the response for [`NONCE_PATH`].
pub(super) fn nonce(headers: &HeaderMap) -> Option<&str> {
    header(headers, &NONCE).ok().filter(|nonce| !nonce.is_empty())
}

/// Whether a response refuses a connection without TLS.
pub(super) fn demands_tls(headers: &HeaderMap) -> bool {
    headers.get(ERROR).is_some_and(|kind| kind == Kind::Tls.name())
}

/// The response for [`NONCE_PATH`].
pub(super) fn nonce_response(nonce: &str) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    let headers = response.headers_mut();
    headers.insert(PROTOCOL, HeaderValue::from_static(VERSION));
    HeaderValue::from_str(nonce).into_iter().for_each(|nonce| _ = headers.insert(NONCE, nonce));
    response
}

/// Refuses a message of another version of the protocol.
///
/// # Errors
/// [`Kind::Unsupported`] for another version; [`Kind::Decode`] for none.
pub(super) fn check_version(headers: &HeaderMap) -> Result<(), Error> {
    let (kind, why) = match header(headers, &PROTOCOL) {
        Ok(VERSION) => return Ok(()),
        Ok(other) => (Kind::Unsupported, format!("version {other:?}")),
        Err(_) => (
            Kind::Decode,
            "no version: the sender is not a node, or has an older release".to_owned(),
        ),
    };
    let why = format!(
        "nodes speak version {VERSION} of their protocol, the message has {why}: \"Upgrading\" in docs/operating.md"
    );
    Err(Error::new(kind, why).with_status(StatusCode::BAD_REQUEST.as_u16()))
}

/// Whether a body matches the signed digest.
pub(super) fn has_signed_body(headers: &HeaderMap, body: &[u8]) -> bool {
    headers.get(DIGEST).is_some_and(|digest| *digest == auth::digest(body))
}

/// The text that is signed: the value of every header with a meaning, one per line in a fixed order; an
/// absent header is an empty line.
fn signed_text(headers: &HeaderMap, bound: Bound) -> String {
    const SIGNED: [HeaderName; 15] = [
        PROTOCOL,
        NONCE,
        CONTENT_TYPE,
        CLUSTER,
        FROM,
        TO,
        NAME,
        EPOCH,
        SHARD,
        IDEMPOTENCY_KEY,
        DEADLINE_MS,
        COUNTER,
        DIGEST,
        ERROR,
        MAYBE_APPLIED,
    ];
    let mut text = match bound {
        Bound::ToConnection(nonce) => format!("request\n{nonce}\n"),
        Bound::ToRequest(signature) => format!("reply\n{signature}\n"),
    };
    for name in &SIGNED {
        // A header value contains no line break.
        text.push_str(header(headers, name).unwrap_or_default());
        text.push('\n');
    }
    text
}

/// The HTTP response for the outcome of a request.
pub(super) fn response(outcome: Result<Body, Error>) -> Response<Full<Bytes>> {
    let (status, body, error) = match outcome {
        Ok(body) => (StatusCode::OK, body, None),
        Err(error) => {
            let status = error.status().and_then(|status| StatusCode::from_u16(status).ok());
            let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, Body::bytes(error.message().to_owned()), Some(error))
        }
    };
    let mut response = Response::new(Full::new(body.bytes.clone()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(PROTOCOL, HeaderValue::from_static(VERSION));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(body.content_type()));
    if let Some(error) = error {
        headers.insert(ERROR, HeaderValue::from_static(error.kind().name()));
        let maybe_applied = if error.maybe_applied() { "true" } else { "false" };
        headers.insert(MAYBE_APPLIED, HeaderValue::from_static(maybe_applied));
    }
    response
}

/// The outcome in an HTTP response.
///
/// # Errors
/// The error that the node answers with; [`Kind::Decode`] if the response is not from a node.
pub(super) fn outcome(response: Response<Bytes>) -> Result<Body, Error> {
    let (parts, bytes) = response.into_parts();
    // The status is not signed.
    let error = header(&parts.headers, &ERROR).ok();
    if parts.status == StatusCode::OK && error.is_none() {
        return Ok(Body::of(bytes, &parts.headers));
    }
    let kind = error.and_then(|name| Kind::ALL.iter().find(|kind| kind.name() == name));
    let Some(kind) = kind else {
        let why = format!("it answers {}, which is not a reply of a node", parts.status);
        return Err(Error::new(Kind::Decode, why));
    };
    let maybe_applied = parts.headers.get(MAYBE_APPLIED).is_none_or(|it| it != "false");
    let error = Error::new(*kind, String::from_utf8_lossy(&bytes).into_owned())
        .with_status(parts.status.as_u16())
        .with_maybe_applied(maybe_applied);
    let is_retryable = [StatusCode::CONFLICT, StatusCode::TOO_MANY_REQUESTS]
        .contains(&parts.status)
        || *kind == Kind::NotReady;
    Err(if is_retryable { error.retryable() } else { error })
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, Error> {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.ok_or_else(|| unreadable(name))
}

fn number<T: FromStr>(headers: &HeaderMap, name: &HeaderName) -> Result<T, Error> {
    header(headers, name)?.parse().map_err(|_| unreadable(name))
}

fn value_of(name: &HeaderName, text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|_| unreadable(name))
}

fn unreadable(name: &HeaderName) -> Error {
    Error::new(Kind::Decode, format!("the header {name} is missing or invalid"))
        .with_status(StatusCode::BAD_REQUEST.as_u16())
        .not_sent()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_head() -> impl Strategy<Value = Head> {
        let texts = (".*", ".*", ".*", ".*", ".*");
        (texts, any::<u64>(), any::<Option<u64>>(), any::<u64>()).prop_map(
            |((cluster, from, to, name, idempotency_key), epoch, shard, deadline_ms)| {
                let deadline = Duration::from_millis(deadline_ms);
                Head { cluster, from, to, name, epoch, shard, idempotency_key, deadline }
            },
        )
    }

    fn key() -> ClusterKey {
        ClusterKey::new("a secret of the cluster")
    }

    fn request(head: &Head, body: &[u8]) -> Request<Full<Bytes>> {
        let signing = Signing { key: &key(), connection: "connection", nonce: "nonce", counter: 7 };
        let host = HeaderValue::from_static("a");
        let body = Body::bytes(body.to_vec());
        head.request(&host, &body, Some(&signing)).expect("a request")
    }

    proptest! {
        #[test]
        fn a_head_is_read_as_it_was_written(head in any_head()) {
            let request = request(&head, b"");
            prop_assert_eq!(Head::parse(request.headers()).expect("a head"), head);
        }

        #[test]
        fn any_headers_are_a_head_or_an_error(values in prop::collection::vec("[ -~]{0,20}", 8)) {
            let names = [CLUSTER, FROM, TO, NAME, EPOCH, SHARD, IDEMPOTENCY_KEY, DEADLINE_MS];
            let values = values.iter().map(|it| HeaderValue::from_str(it).expect("a value"));
            let headers: HeaderMap = names.into_iter().zip(values).collect();
            if let Err(error) = Head::parse(&headers) {
                prop_assert_eq!((error.kind(), error.status()), (Kind::Decode, Some(400)));
            }
        }

        #[test]
        fn any_response_is_a_reply_or_an_error(
            status in 100..1000_u16,
            error in prop::option::of("[a-z_]{0,12}"),
            body in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut response = Response::new(Bytes::from(body));
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            let is_reply = status == 200 && error.is_none();
            if let Some(error) = error {
                let error = HeaderValue::from_str(&error).expect("a value");
                response.headers_mut().insert(ERROR, error);
            }
            prop_assert_eq!(outcome(response).is_ok(), is_reply);
        }

        #[test]
        fn a_signature_covers_every_header(head in any_head(), other in any_head()) {
            let signed = request(&head, b"body");
            let verified =
                |headers: &HeaderMap, bound| signer(headers, &key(), bound).is_some();
            let here = Bound::ToConnection("connection");
            prop_assert!(verified(signed.headers(), here));
            prop_assert!(!verified(signed.headers(), Bound::ToConnection("another")));
            prop_assert!(!verified(signed.headers(), Bound::ToRequest("connection")));
            prop_assert!(has_signed_body(signed.headers(), b"body"));
            prop_assert!(!has_signed_body(signed.headers(), b"another"));
            for (name, value) in request(&other, b"").headers() {
                let mut headers = signed.headers().clone();
                let is_other = headers.insert(name, value.clone()).as_ref() != Some(value);
                let is_unsigned = *name == HOST;
                prop_assert_eq!(
                    !verified(&headers, here),
                    is_other && !is_unsigned,
                    "{}", name
                );
            }
        }
    }

    #[test]
    fn another_version_is_refused_and_cannot_be_written_over() {
        let text = || "a".to_owned();
        let head = Head {
            cluster: text(),
            from: text(),
            to: text(),
            name: text(),
            epoch: 0,
            shard: None,
            idempotency_key: text(),
            deadline: Duration::ZERO,
        };
        let mut headers = request(&head, b"").headers().clone();
        check_version(&headers).expect("the same version");
        headers.insert(PROTOCOL, HeaderValue::from_static("1"));
        let error = check_version(&headers).expect_err("an older version");
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.message().contains("version \"1\""), "{error}");
        assert!(signer(&headers, &key(), Bound::ToConnection("connection")).is_none());
        headers.remove(PROTOCOL);
        assert_eq!(check_version(&headers).expect_err("no version").kind(), Kind::Decode);
        assert!(signer(&headers, &key(), Bound::ToConnection("connection")).is_none());
    }

    /// As nodes of 0.1.0 sign it.
    #[test]
    fn a_signature_is_that_of_the_first_release() {
        let text = |text: &str| text.to_owned();
        let head = Head {
            cluster: text("tsdb/cluster/nodes/"),
            from: text("n1"),
            to: text("n2"),
            name: text("write"),
            epoch: 7,
            shard: Some(3),
            idempotency_key: text("a key"),
            deadline: Duration::from_millis(1500),
        };
        let request = request(&head, b"body");
        assert_eq!(
            signature(request.headers()),
            Some("n8/yeIbMzoWrYOaHGnPapTSIp6/zfjEKPFPw44pFGec")
        );
        let (mut headers, bound) = (HeaderMap::new(), Bound::ToRequest("signature"));
        headers.insert(ERROR, HeaderValue::from_static("not_ready"));
        headers.insert(MAYBE_APPLIED, HeaderValue::from_static("false"));
        sign(&mut headers, b"why", &key(), bound).expect("a signature");
        assert_eq!(signature(&headers), Some("nJEwTUyF3xUrCX7foYgjizfQTskM7sv5RTxfBSNn6Ko"));
    }

    #[test]
    fn a_signed_error_cannot_be_declared_harmless() {
        let (mut headers, bound) = (HeaderMap::new(), Bound::ToRequest("signature"));
        headers.insert(MAYBE_APPLIED, HeaderValue::from_static("true"));
        sign(&mut headers, b"", &key(), bound).expect("a signature");
        assert!(signer(&headers, &key(), bound).is_some());
        headers.insert(MAYBE_APPLIED, HeaderValue::from_static("false"));
        assert!(signer(&headers, &key(), bound).is_none());
    }

    #[test]
    fn an_error_is_read_as_it_was_written() {
        for (kind, status, is_transient) in [
            (Kind::NotReady, 503, true),
            (Kind::Closed, 503, false),
            (Kind::RateLimited, 429, true),
            (Kind::Http, 500, false),
        ] {
            let error =
                Error::new(kind, "why").with_status(status).with_maybe_applied(is_transient);
            let (parts, _) = response(Err(error)).into_parts();
            let error = outcome(Response::from_parts(parts, "why".into())).expect_err("an error");
            assert_eq!((error.kind(), error.message()), (kind, "why"));
            assert_eq!(error.status(), Some(status));
            assert_eq!((error.is_retryable(), error.maybe_applied()), (is_transient, is_transient));
        }
    }
}
