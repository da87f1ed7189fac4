//! What nodes say to each other over HTTP, without I/O: the headers of a request, what of it is
//! signed, and a reply or an error as a response.

use super::auth::{self, ClusterKey};
use crate::error::{Error, Kind};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use std::str::FromStr;
use std::time::Duration;

/// Where requests go.
pub(super) const CALL_PATH: &str = "/v1/call";

/// Where a connection's nonce is asked for.
pub(super) const NONCE_PATH: &str = "/v1/nonce";

/// How long the head of a request or a response may be.
pub(super) const MAX_HEAD_BYTES: usize = 16 << 10;

/// How long a handler's name and an idempotency key may be, so that heads are short enough.
const LONGEST_NAME: usize = 256;

const CLUSTER: HeaderName = HeaderName::from_static("node-cluster");
const FROM: HeaderName = HeaderName::from_static("node-from");
const TO: HeaderName = HeaderName::from_static("node-to");
const NAME: HeaderName = HeaderName::from_static("node-call");
const EPOCH: HeaderName = HeaderName::from_static("node-epoch");
const SHARD: HeaderName = HeaderName::from_static("node-shard");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const DEADLINE_MS: HeaderName = HeaderName::from_static("node-deadline-ms");
pub(super) const NONCE: HeaderName = HeaderName::from_static("node-nonce");
const COUNTER: HeaderName = HeaderName::from_static("node-counter");
const DIGEST: HeaderName = HeaderName::from_static("node-digest");
const SIGNATURE: HeaderName = HeaderName::from_static("node-signature");
/// An error's kind.
const ERROR: HeaderName = HeaderName::from_static("node-error");
/// Whether the handler can have seen the request.
const MAYBE_APPLIED: HeaderName = HeaderName::from_static("node-maybe-applied");

/// What a header's value cannot hold, and what escapes it.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'"');

/// What a request or a reply carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The JSON text, or the bytes as they are.
    pub bytes: Bytes,
    /// Which of the two it is.
    pub is_json: bool,
}

impl Body {
    /// Bytes as they are.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Body { bytes: bytes.into(), is_json: false }
    }

    /// A JSON text.
    pub fn json(text: impl Into<Bytes>) -> Self {
        Body { bytes: text.into(), is_json: true }
    }

    fn content_type(&self) -> &'static str {
        if self.is_json { "application/json" } else { "application/octet-stream" }
    }

    /// The body of a message with these headers.
    pub(super) fn of(bytes: Bytes, headers: &HeaderMap) -> Self {
        let is_json = headers.get(CONTENT_TYPE).is_some_and(|it| it == "application/json");
        Body { bytes, is_json }
    }
}

/// What the headers of a request say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The prefix of the cluster's nodes, which tells clusters apart.
    pub cluster: String,
    pub from: String,
    pub to: String,
    pub name: String,
    pub epoch: u64,
    pub shard: Option<u64>,
    pub idempotency_key: String,
    /// How long the caller still waits.
    pub deadline: Duration,
}

/// What a head and a body are signed with, on one connection.
pub(super) struct Signing<'a> {
    pub key: &'a ClusterKey,
    pub nonce: &'a str,
    pub counter: u64,
}

impl Head {
    /// Whether it can be said in headers.
    ///
    /// # Errors
    /// [`Kind::Argument`], naming what is too long.
    pub fn check(&self) -> Result<(), Error> {
        for (what, text) in
            [("the name", &self.name), ("the idempotency key", &self.idempotency_key)]
        {
            if text.is_empty() || text.len() > LONGEST_NAME {
                let length = text.len();
                let why = format!("{what} has {length} bytes: it must have 1 to {LONGEST_NAME}");
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

    /// The head that headers say.
    ///
    /// # Errors
    /// [`Kind::Decode`], naming the header.
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

    /// The request that says this and carries `body`.
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
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(body.content_type()));
        for (name, value) in self.fields() {
            headers.insert(&name, value_of(&name, &value)?);
        }
        if let Some(signing) = signing {
            sign(headers, "request", &body.bytes, signing)?;
        }
        Ok(request)
    }
}

/// Signs a message's headers and body.
pub(super) fn sign(
    headers: &mut HeaderMap,
    what: &str,
    body: &[u8],
    signing: &Signing,
) -> Result<(), Error> {
    headers.insert(COUNTER, HeaderValue::from(signing.counter));
    headers.insert(DIGEST, value_of(&DIGEST, &auth::digest(body))?);
    let signature = signing.key.sign(&signed_text(headers, what, signing.nonce));
    headers.insert(SIGNATURE, value_of(&SIGNATURE, &signature)?);
    Ok(())
}

/// Whether a message's headers were signed on the connection of this nonce; the counter then. The
/// body is to be compared with their digest.
pub(super) fn is_signed(
    headers: &HeaderMap,
    what: &str,
    key: &ClusterKey,
    nonce: &str,
) -> Option<u64> {
    let signature = header(headers, &SIGNATURE).ok()?;
    let counter = number(headers, &COUNTER).ok()?;
    key.has_signed(&signed_text(headers, what, nonce), signature).then_some(counter)
}

/// Whether a body is the one that was signed.
pub(super) fn is_signed_body(headers: &HeaderMap, body: &[u8]) -> bool {
    headers.get(DIGEST).is_some_and(|digest| *digest == auth::digest(body))
}

/// Every header that means anything, in one order; what is not there is an empty line.
fn signed_text(headers: &HeaderMap, what: &str, nonce: &str) -> String {
    const SIGNED: [HeaderName; 13] = [
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
    let mut text = format!("{what}\n{nonce}\n");
    for name in &SIGNED {
        // No value has a line's end in it.
        text.push_str(header(headers, name).unwrap_or_default());
        text.push('\n');
    }
    text
}

/// The response for what became of a request.
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
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(body.content_type()));
    if let Some(error) = error {
        headers.insert(ERROR, HeaderValue::from_static(error.kind().name()));
        let maybe_applied = if error.maybe_applied() { "true" } else { "false" };
        headers.insert(MAYBE_APPLIED, HeaderValue::from_static(maybe_applied));
    }
    response
}

/// What a response says.
///
/// # Errors
/// The error that the node answers with; [`Kind::Decode`] when it is no node's answer.
pub(super) fn outcome(response: Response<Bytes>) -> Result<Body, Error> {
    let (parts, bytes) = response.into_parts();
    // The status is not signed.
    let error = header(&parts.headers, &ERROR).ok();
    if parts.status == StatusCode::OK && error.is_none() {
        return Ok(Body::of(bytes, &parts.headers));
    }
    let kind = error.and_then(|name| Kind::ALL.iter().find(|kind| kind.name() == name));
    let Some(kind) = kind else {
        let why = format!("it answers {}, which is no node's answer", parts.status);
        return Err(Error::new(Kind::Decode, why));
    };
    let maybe_applied = parts.headers.get(MAYBE_APPLIED).is_none_or(|it| it != "false");
    let error = Error::new(*kind, String::from_utf8_lossy(&bytes).into_owned())
        .with_status(parts.status.as_u16())
        .with_maybe_applied(maybe_applied);
    let may_pass = [StatusCode::CONFLICT, StatusCode::TOO_MANY_REQUESTS].contains(&parts.status)
        || *kind == Kind::NotReady;
    Err(if may_pass { error.transient() } else { error })
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
    Error::new(Kind::Decode, format!("the header {name} is missing or not as it must be"))
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
        let signing = Signing { key: &key(), nonce: "nonce", counter: 7 };
        let host = HeaderValue::from_static("a");
        let body = Body::bytes(body.to_vec());
        head.request(&host, &body, Some(&signing)).expect("a request")
    }

    proptest! {
        #[test]
        fn what_a_head_says_arrives(head in any_head()) {
            let request = request(&head, b"");
            prop_assert_eq!(Head::parse(request.headers()).expect("a head"), head);
        }

        #[test]
        fn any_headers_are_a_head_or_name_one(values in prop::collection::vec("[ -~]{0,20}", 8)) {
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
        fn a_signature_is_for_all_that_is_said(head in any_head(), other in any_head()) {
            let signed = request(&head, b"body");
            let is_signed = |headers: &HeaderMap, nonce| is_signed(headers, "request", &key(), nonce);
            prop_assert_eq!(is_signed(signed.headers(), "nonce"), Some(7));
            prop_assert_eq!(is_signed(signed.headers(), "another"), None);
            prop_assert!(is_signed_body(signed.headers(), b"body"));
            prop_assert!(!is_signed_body(signed.headers(), b"another"));
            for (name, value) in request(&other, b"").headers() {
                let mut headers = signed.headers().clone();
                let is_other = headers.insert(name, value.clone()).as_ref() != Some(value);
                let means_nothing = *name == HOST;
                prop_assert_eq!(
                    is_signed(&headers, "nonce").is_none(),
                    is_other && !means_nothing,
                    "{}", name
                );
            }
        }
    }

    #[test]
    fn an_error_arrives_as_it_is() {
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
            assert_eq!((error.retryable(), error.maybe_applied()), (is_transient, is_transient));
        }
    }
}
