//! The answers of the server.

use super::limits::Answering;
use super::{State, stream};
use crate::observe::report::Overviews;
use bytes::Bytes;
use consul_process::hosts::Refusal;
use consul_process::metrics::{self, Format};
use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use std::convert::Infallible;
use std::sync::Arc;

/// The page: nothing but its own files, and requests to its own server.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The headers of every answer. There is none that lets other sites read it.
const HEADERS: [(HeaderName, &str); 5] = [
    (CACHE_CONTROL, "no-store"),
    (CONTENT_SECURITY_POLICY, PAGE_POLICY),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// The files of the page: path, type, content.
const PAGE: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
];

type Events = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;
type Answer = Response<Either<Full<Bytes>, Events>>;

/// Answers a request, whose connection keeps its place meanwhile.
pub(super) async fn answer(
    state: Arc<State>,
    answering: Answering,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let mut answer = match refusal(&state, &request) {
        Some(refusal) => refusal,
        None => routed(&state, answering, &request).await,
    };
    let headers = answer.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(answer)
}

fn whole(status: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(content.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn line(status: StatusCode, text: &str) -> Answer {
    whole(status, TEXT, format!("{text}\n"))
}

/// The answer to a request that this server has nothing for, whatever its path.
fn refusal(state: &State, request: &Request<Incoming>) -> Option<Answer> {
    let mut refused = match state.hosts.check(request) {
        Err(Refusal::Malformed) => line(StatusCode::BAD_REQUEST, "one Host header is required"),
        Err(Refusal::Foreign) => {
            let why =
                "this server has another name: give the name of the request as one of its hosts";
            line(StatusCode::MISDIRECTED_REQUEST, why)
        }
        Ok(()) if ![Method::GET, Method::HEAD].contains(request.method()) => {
            let mut refused =
                line(StatusCode::METHOD_NOT_ALLOWED, "this server only answers GET and HEAD");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refused
        }
        Ok(()) if !request.body().is_end_stream() => {
            line(StatusCode::BAD_REQUEST, "a request to this server has no body")
        }
        Ok(()) => return None,
    };
    refused.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Some(refused)
}

async fn routed(state: &State, answering: Answering, request: &Request<Incoming>) -> Answer {
    let path = request.uri().path();
    if let Some((_, content_type, content)) = PAGE.iter().find(|(at, ..)| *at == path) {
        return whole(StatusCode::OK, content_type, *content);
    }
    match path {
        "/live" => return line(StatusCode::OK, "live"),
        "/metrics" => return numbers(state, request).await,
        _ => {}
    }
    let known = ["/ready", "/leader", "/cluster", "/events"];
    if !known.contains(&path) {
        return line(StatusCode::NOT_FOUND, "there is no such page");
    }
    let nodes = match chosen(state.nodes.all(), request.uri().query()) {
        Ok(nodes) => nodes,
        Err(why) => {
            let is_check = path == "/ready" || path == "/leader";
            let absent =
                if is_check { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::NOT_FOUND };
            return line(absent, &why);
        }
    };
    match path {
        "/ready" => ready(&nodes),
        "/leader" => leader(&nodes),
        "/cluster" => cluster(&nodes[0]).await,
        _ => events(state, &nodes[0], answering, request.method()),
    }
}

/// The numbers of the process, as OpenMetrics for a client that asks for it.
async fn numbers(state: &State, request: &Request<Incoming>) -> Answer {
    // The numbers have the problems of these.
    let nodes = state.nodes.all();
    join_all(nodes.iter().map(|node| node.overview())).await;
    let accepted = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let is_open = accepted.is_some_and(|accept| accept.contains("application/openmetrics-text"));
    let format = if is_open { Format::OpenMetrics } else { Format::Prometheus };
    whole(StatusCode::OK, format.content_type(), metrics::text(format))
}

/// The nodes that a request is about, at least one: that of `node=ID` in the query, or all.
fn chosen(nodes: Vec<Arc<Overviews>>, query: Option<&str>) -> Result<Vec<Arc<Overviews>>, String> {
    if nodes.is_empty() {
        return Err("there is no node of a cluster in this process".to_owned());
    }
    let fields = query.into_iter().flat_map(|query| query.split('&'));
    let mut ids = fields.filter_map(|field| field.strip_prefix("node="));
    let Some(id) = ids.next() else { return Ok(nodes) };
    let id = percent_encoding::percent_decode_str(id).decode_utf8_lossy();
    let node = nodes.into_iter().find(|node| node.cluster().options().node_id == *id);
    node.map(|node| vec![node]).ok_or_else(|| "there is no such node in this process".to_owned())
}

/// Whether all nodes serve.
fn ready(nodes: &[Arc<Overviews>]) -> Answer {
    let reasons: Vec<String> = nodes.iter().filter_map(|node| node.ready().err()).collect();
    match reasons.as_slice() {
        [] => line(StatusCode::OK, "ready"),
        reasons => line(StatusCode::SERVICE_UNAVAILABLE, &reasons.join("; ")),
    }
}

/// Whether one of the nodes is the leader and may act.
fn leader(nodes: &[Arc<Overviews>]) -> Answer {
    match nodes.iter().find(|node| node.cluster().is_leader()) {
        Some(node) => line(StatusCode::OK, &format!("{} leads", node.cluster().options().node_id)),
        None => {
            let is_here =
                |id: &str| nodes.iter().any(|it| it.cluster().options().member_id() == Some(id));
            let why = match &nodes[0].cluster().snapshot().leader {
                Some(leader) if is_here(&leader.node_id) => {
                    format!("{} has the leader's key, and no proof that it leads", leader.node_id)
                }
                Some(leader) => format!("the leader is {}", leader.node_id),
                None => "no leader is known".to_owned(),
            };
            line(StatusCode::SERVICE_UNAVAILABLE, &why)
        }
    }
}

async fn cluster(node: &Overviews) -> Answer {
    let overview = node.overview().await;
    // Numbers and strings can always be encoded.
    whole(StatusCode::OK, JSON, serde_json::to_vec(&*overview).unwrap_or_default())
}

fn events(state: &State, node: &Arc<Overviews>, answering: Answering, method: &Method) -> Answer {
    let content_type = HeaderValue::from_static("text/event-stream");
    if method == Method::HEAD {
        return whole(StatusCode::OK, "text/event-stream", "");
    }
    let Some(place) = state.streams.take() else {
        let mut answer =
            line(StatusCode::SERVICE_UNAVAILABLE, "too many pages follow this cluster");
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        return answer;
    };
    let events: BoxStream<'static, _> = Box::pin(stream::events(node, (place, answering)));
    let mut answer = Response::new(Either::Right(StreamBody::new(events)));
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}
