//! Finds the handler of a request, and does what all endpoints have in common.

use super::handler::{Handler, Parameters, Route};
use super::reply::{Refusal, Reply, Style};
use super::request::{Call, Cut, Query, unescape};
use crate::blocking::{self, ReadOptions};
use crate::filter::{self, Filter};
use crate::go::{OF_A_PATH, lossy};
use crate::settings::Settings;
use crate::{
    Agent, acl, agent, catalog, entry, event, kv, operator, query, session, snapshot, status, txn,
};
use bytes::Bytes;
use consul_api::api::agent::JOIN;
use consul_api::api::connect::EXPORTED_SERVICES as EXPORTED;
use consul_api::api::operator as operator_rows;
use consul_api::api::txn::TXN;
use consul_api::table::{Endpoint, Enterprise, Location, Verb};
use consul_api::value::shape::is_printable;
use consul_process::sync::lock;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, LOCATION, VARY};
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use percent_encoding::utf8_percent_encode;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

const NAMESPACE: HeaderName = HeaderName::from_static("x-consul-namespace");
const PARTITION: HeaderName = HeaderName::from_static("x-consul-partition");
const DEFAULT_ACL_POLICY: HeaderName = HeaderName::from_static("x-consul-default-acl-policy");

/// Every route, area by area.
fn routes() -> impl Iterator<Item = &'static Route> {
    [
        kv::ROUTES,
        txn::ROUTES,
        session::ROUTES,
        status::ROUTES,
        event::ROUTES,
        query::ROUTES,
        operator::ROUTES,
        snapshot::ROUTES,
    ]
    .into_iter()
    .flatten()
    .chain(agent::routes())
    .chain(catalog::routes())
    .chain(acl::routes())
    .chain(entry::routes())
}

/// The routes by path. A path that ends in a slash matches all paths below it, as in Go's
/// `http.ServeMux`.
struct Mux(HashMap<&'static str, Routes>);

/// The routes of one fixed part with their tails, those with more after their first parameter before the others.
type Routes = Vec<(&'static Route, &'static str)>;

/// The routes that fit a path, one for each method, in the order of the methods.
type Fitting = Vec<&'static Route>;

static MUX: LazyLock<Mux> = LazyLock::new(|| {
    let mut paths: HashMap<&str, Routes> = HashMap::new();
    for route in routes() {
        let (fixed, tail) = parts_of(route);
        let known = paths.entry(fixed).or_default();
        let is_same =
            |other: &(&Route, &str)| (other.0.0.method, other.1) == (route.0.method, tail);
        if !known.iter().any(is_same) {
            let place = if tail.is_empty() { known.len() } else { 0 };
            known.insert(place, (route, tail));
        }
    }
    Mux(paths)
});

/// The path of a route before its first parameter, and after it.
fn parts_of(route: &Route) -> (&'static str, &'static str) {
    let path = route.0.path;
    let fixed = path.find('{').map_or(path, |parameter| &path[..parameter]);
    (fixed, path.find('}').map_or("", |end| &path[end + 1..]))
}

impl Mux {
    /// The routes of a path, and the rest of the path after their fixed part, decoded.
    fn find<'a>(&self, path: &'a str) -> Option<(&Routes, Cow<'a, [u8]>)> {
        let segments = decoded_segments(path);
        if let Some(exact) = self.0.get(&*segments) {
            return Some((exact, Cow::default()));
        }
        let ends = segments.match_indices('/').map(|(place, _)| place + 1);
        let (fixed, routes) = ends.rev().find_map(|end| {
            let fixed = &segments[..end];
            Some((fixed, self.0.get(fixed)?))
        })?;
        let rest = match segments {
            Cow::Borrowed(_) => &path[fixed.len()..],
            Cow::Owned(_) => path.splitn(fixed.matches('/').count() + 1, '/').last()?,
        };
        Some((routes, unescape(rest.as_bytes())?))
    }
}

/// The path with each segment decoded, but for those that have an encoded slash: no route has their names.
fn decoded_segments(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return path.into();
    }
    let decoded = |segment| match unescape(str::as_bytes(segment)) {
        Some(bytes) if !bytes.contains(&b'/') => lossy(&bytes),
        _ => segment.to_owned(),
    };
    path.split('/').map(decoded).collect::<Vec<_>>().join("/").into()
}

/// The routes that fit the rest of a path, and the rest without a fixed end.
fn fitting<'a>(routes: &Routes, rest: &'a [u8]) -> (Fitting, &'a [u8]) {
    let ended = routes
        .iter()
        .find_map(|(_, tail)| (is_fixed(tail) && rest.ends_with(tail.as_bytes())).then_some(*tail));
    let mut verbs = Fitting::with_capacity(routes.len());
    for (route, tail) in routes {
        let has_more = tail.contains('{');
        if ended.map_or(is_fixed(tail), |ended| *tail != ended) {
            continue;
        }
        // A handler with two parameters reports a missing one itself.
        let method = route.0.method;
        let place = verbs.iter().position(|known| known.0.method >= method).unwrap_or(verbs.len());
        let is_known = verbs.get(place).is_some_and(|known| known.0.method == method);
        if !is_known {
            verbs.insert(place, route);
        } else if has_more == rest.contains(&b'/') {
            verbs[place] = route;
        }
    }
    (verbs, rest.strip_suffix(ended.unwrap_or("").as_bytes()).unwrap_or(rest))
}

/// Whether this end of a route's path has no parameter.
fn is_fixed(tail: &str) -> bool {
    !tail.is_empty() && !tail.contains('{')
}

/// The endpoint of a request; `None` if no path and method match.
pub(crate) fn endpoint(request: &Request<Bytes>) -> Option<&'static Endpoint> {
    let (routes, rest) = MUX.find(request.uri().path())?;
    let (verbs, _) = fitting(routes, &rest);
    of_method(&verbs, request.method()).map(|route| route.0)
}

fn of_method(verbs: &[&'static Route], method: &Method) -> Option<&'static Route> {
    verbs.iter().find(|route| Method::from(route.0.method) == *method).copied()
}

/// Answers a request, and adds the headers of the configuration.
pub(crate) async fn answer(agent: &Agent, parts: Parts, body: Bytes) -> Reply {
    let headers = agent.options.settings.response_headers.iter();
    let reply = answer_without_own_headers(agent, parts, body).await;
    headers.fold(reply, |reply, (name, value)| reply.with(name.clone(), value.clone()))
}

/// Checks the path, finds the route, and adds the headers of all replies.
async fn answer_without_own_headers(agent: &Agent, parts: Parts, body: Bytes) -> Reply {
    let path = parts.uri.path();
    let Some(decoded) = unescape(path.as_bytes()) else {
        let close = HeaderValue::from_static("close");
        return Reply::text(StatusCode::BAD_REQUEST, "400 Bad Request").with(CONNECTION, close);
    };
    let decoded = String::from_utf8_lossy(&decoded);
    if !is_printable(&decoded) {
        return Reply::empty(StatusCode::BAD_REQUEST);
    }
    let found = MUX.find(path);
    if let Some(target) = redirect(path, found.as_ref().is_some_and(|(_, rest)| rest.is_empty())) {
        return redirected(&parts.method, &parts.uri, &target);
    }
    match found {
        Some((routes, rest)) => {
            let (verbs, rest) = fitting(routes, &rest);
            let rest = rest.to_vec();
            let reply = if agent.options.settings.blocks(&decoded) {
                Reply::text(StatusCode::FORBIDDEN, "Endpoint is blocked by agent configuration")
            } else {
                routed(agent, &verbs, rest, parts, body).await
            };
            reply
                .with(VARY, HeaderValue::from_static("Accept-Encoding"))
                .with(DEFAULT_ACL_POLICY, HeaderValue::from_static(agent.default_policy))
        }
        None => unknown(&decoded),
    }
}

async fn routed(
    agent: &Agent,
    verbs: &[&'static Route],
    rest: Vec<u8>,
    parts: Parts,
    body: Bytes,
) -> Reply {
    let Some(query) = Query::parse(parts.uri.query().unwrap_or("")) else {
        return Reply::text(StatusCode::INTERNAL_SERVER_ERROR, "");
    };
    if parts.method == Method::OPTIONS {
        let done = if is_of_query(verbs) {
            Reply::json(Style::Compact, &serde_json::json!({}))
        } else {
            Reply::done()
        };
        return done.with(ALLOW, list(&allowed(verbs)));
    }
    let Some(route) = of_method(verbs, &parts.method) else {
        let text = format!("method {} not allowed", parts.method);
        let methods = if is_of_query(verbs) { names(verbs).join(",") } else { allowed(verbs) };
        return Reply::text(StatusCode::METHOD_NOT_ALLOWED, text).with(ALLOW, list(&methods));
    };
    let style = match (query.has("pretty"), agent.pretty) {
        (true, _) => Style::IndentedLine,
        (false, true) => Style::Indented,
        (false, false) => Style::Compact,
    };
    let cut = parts.extensions.get::<Cut>().copied();
    let headers = parts.headers;
    let mut call = Call { endpoint: route.0, rest, query, headers, body, cut, style, filter: None };
    let begun = agent.clock.now();
    let reply = dispatch(agent, &route.1, &mut call).await.unwrap_or_else(Reply::from);
    let ended = agent.clock.now();
    lock(&agent.samples).add(route.0.method.name(), parts_of(route).0, ended - begun, ended);
    reply
}

async fn dispatch(agent: &Agent, handler: &Handler, call: &mut Call) -> Result<Reply, Refusal> {
    let options = match prepare(agent, handler, call)? {
        Prepared::Ready(options) => options,
        Prepared::Refused(reply) => return Ok(reply),
    };
    match handler {
        Handler::Now(act) | Handler::Checked(act) => agent.with(|state| act(state, call)),
        Handler::Read(read) => Ok(agent.read(read, call, &options).await),
        Handler::Once(once) => Ok(agent.read_once(once, call, &options)),
        Handler::Hashed(read) => agent.read_hashed(read, call, &options).await,
    }
}

/// A call after the checks that endpoints have in common.
enum Prepared {
    /// It can be handled, with these parameters of a read.
    Ready(ReadOptions),
    /// It is refused as its handler refuses, with the headers of its reads.
    Refused(Reply),
}

/// Makes the checks in Consul's order: parameters of reads, the name of a key, parameters of Enterprise, of the handler, then datacenter and filter.
fn prepare(agent: &Agent, handler: &Handler, call: &mut Call) -> Result<Prepared, Refusal> {
    let settings = &agent.options.settings;
    acl::check_enabled(agent.options.acl.enabled, call)?;
    let options = match handler.parameters() {
        Parameters::None => ReadOptions::default_of(settings),
        Parameters::Wait => ReadOptions::waiting(call, settings)?,
        Parameters::Read => ReadOptions::parse(call, settings)?,
    };
    settings.key_names.check_path(call)?;
    check_enterprise(call)?;
    handler.check(call)?;
    // The agent answers a hashed read itself, for any datacenter and without a filter.
    // It also reads the filter of its own services and checks after the token.
    if call.endpoint.path.starts_with("/v1/agent/") && !call.query.get("filter").is_empty() {
        agent.with(|state| state.authority(call).known())?;
    }
    let scope = match handler {
        Handler::Hashed(_) => Ok(()),
        _ => check_scope(call, settings),
    };
    match (scope, handler.headers()) {
        (Ok(()), _) => Ok(Prepared::Ready(options)),
        (Err(refusal), Some(headers)) => Ok(Prepared::Refused(blocking::failed(headers, refusal))),
        (Err(refusal), None) => Err(refusal),
    }
}

fn takes(endpoint: &Endpoint, parameter: &'static str) -> bool {
    endpoint.all_options().any(|option| option.location == Location::Query(parameter))
}

/// Refuses the parameters of Consul Enterprise.
fn check_enterprise(call: &Call) -> Result<(), Refusal> {
    let Endpoint { enterprise, .. } = call.endpoint;
    if call.endpoint.path == TXN.path {
        return Ok(());
    }
    let is_usage = call.endpoint.path == operator_rows::USAGE.path;
    let has_none = *enterprise == Enterprise::OfNodes || call.endpoint.path == EXPORTED.path;
    let is_template = call.endpoint.path.starts_with("/v1/acl/templated-polic");
    let namespace = || is_usage || is_template || !has_none && takes(call.endpoint, "ns");
    let partition = || {
        let of_members = *enterprise == Enterprise::OfMembers || call.endpoint.path == JOIN.path;
        is_usage || is_template || of_members || takes(call.endpoint, "partition")
    };
    let features: [(_, _, _, &dyn Fn() -> bool); 2] = [
        ("ns", &NAMESPACE, "Namespace", &namespace),
        ("partition", &PARTITION, "Partition", &partition),
    ];
    for (parameter, header, noun, is_checked) in features {
        let place = if !call.query.get(parameter).is_empty() {
            format!("query parameter: \"{parameter}\"")
        } else if !call.header(header).is_empty() {
            format!("header: \"X-Consul-{noun}\"")
        } else {
            continue;
        };
        if !is_checked() {
            continue;
        }
        return Err(Refusal::bad(format!(
            "Invalid {place} - {noun}s are a Consul Enterprise feature"
        )));
    }
    Ok(())
}

/// Refuses other datacenters, and reads the filter.
fn check_scope(call: &mut Call, settings: &Settings) -> Result<(), Refusal> {
    if asks_a_datacenter(call.endpoint) {
        call.check_datacenter(settings)?;
    }
    let expression = call.query.get("filter");
    if let Some(schema) = call.endpoint.filter.map(filter::schema::of)
        && !expression.is_empty()
    {
        if call.query.has_broken_filter() {
            return Err(Refusal::server(filter::invalid_encoding(expression)));
        }
        call.filter = Some(Filter::compile(expression, schema).map_err(Refusal::server)?);
    }
    Ok(())
}

/// The paths whose writes go to the primary datacenter, whatever the parameter says.
const OF_PRIMARY: &[&str] = &[
    "/v1/acl/token",
    "/v1/acl/policy",
    "/v1/acl/role",
    "/v1/internal/acl/authorize",
    "/v1/catalog/",
    "/v1/config",
    "/v1/connect/intentions",
];

/// Whether requests of an endpoint go to the datacenter of their parameter.
fn asks_a_datacenter(endpoint: &Endpoint) -> bool {
    let is_primary = || OF_PRIMARY.iter().any(|path| endpoint.path.starts_with(path));
    match endpoint.path {
        // They are of the agent's datacenter.
        path if path == operator_rows::USAGE.path || path == EXPORTED.path => false,
        "/v1/acl/token/self" => true,
        _ => takes(endpoint, "dc") && (endpoint.method == Verb::Get || !is_primary()),
    }
}

/// Whether a path is of one query: its handler looks at the method itself.
fn is_of_query(verbs: &[&'static Route]) -> bool {
    verbs.iter().any(|route| route.0.path.starts_with("/v1/query/"))
}

fn names(verbs: &[&'static Route]) -> Vec<String> {
    verbs.iter().map(|route| Method::from(route.0.method).to_string()).collect()
}

fn allowed(verbs: &[&'static Route]) -> String {
    format!("OPTIONS,{}", names(verbs).join(","))
}

fn list(methods: &str) -> HeaderValue {
    HeaderValue::from_str(methods).unwrap_or(HeaderValue::from_static("OPTIONS"))
}

fn unknown(path: &str) -> Reply {
    let text = if path == "/" {
        return Reply::text(
            StatusCode::OK,
            "Consul Agent: UI disabled. To enable, set ui_config.enabled=true in the agent \
             configuration and restart.",
        );
    } else if path.contains("/v1/") {
        "Invalid URL path: not a recognized HTTP API endpoint\n"
    } else {
        "Invalid URL path: if attempting to use the HTTP API, ensure the path starts with '/v1/'\n"
    };
    Reply::text(StatusCode::NOT_FOUND, text)
}

/// The target of a redirect, for a path that is not clean, or is not that of a route (`is_exact`) and lacks the slash at its end.
fn redirect(path: &str, is_exact: bool) -> Option<String> {
    let is_unclean = |pair: &[u8]| matches!(pair, b"//" | b"/.");
    let is_clean = path.starts_with('/') && !path.as_bytes().windows(2).any(is_unclean);
    if !is_clean {
        let mut clean = cleaned(path);
        if clean != path {
            if !MUX.0.contains_key(&*clean) && MUX.0.contains_key(&*format!("{clean}/")) {
                clean.push('/');
            }
            // Go's mux cleans the encoded path and encodes it again.
            return Some(utf8_percent_encode(&clean, OF_A_PATH).to_string());
        }
    }
    if is_exact {
        return None;
    }
    let below = [&*decoded_segments(path), "/"].concat();
    MUX.0.contains_key(below.as_str()).then_some(below)
}

/// The path without empty segments, `.` and `..`.
fn cleaned(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut clean = format!("/{}", segments.join("/"));
    if path.ends_with('/') && clean != "/" {
        clean.push('/');
    }
    clean
}

fn redirected(method: &Method, uri: &Uri, target: &str) -> Reply {
    let location = match uri.query() {
        Some(query) => format!("{target}?{query}"),
        None => target.to_owned(),
    };
    let mut reply = Reply::empty(StatusCode::TEMPORARY_REDIRECT);
    if *method == Method::GET {
        let escaped = location.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let escaped = escaped.replace('"', "&#34;").replace('\'', "&#39;");
        reply.body = format!("<a href=\"{escaped}\">Temporary Redirect</a>.\n\n").into();
        reply = reply.with(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    match HeaderValue::from_str(&location) {
        Ok(location) => reply.with(LOCATION, location),
        Err(_) => reply,
    }
}

#[cfg(test)]
mod tests {
    use crate::control::testing::World;
    use bytes::Bytes;
    use http::{Method, Request};

    #[test]
    fn unknown_paths_are_404_with_consuls_text() {
        let world = World::new();
        for path in ["nope", "session/list/", "namespace/x"] {
            let answer = world.get(path);
            assert_eq!(answer.status(), 404);
            assert_eq!(answer.text(), "Invalid URL path: not a recognized HTTP API endpoint\n");
            assert_eq!(answer.header("vary"), "");
        }
        let request = Request::builder().uri("/foo").body(Bytes::new()).expect("a request");
        assert!(world.send(request).text().contains("ensure the path starts with '/v1/'"));
    }

    #[test]
    fn a_wrong_method_is_405_with_the_methods_that_are_right() {
        let world = World::new();
        let answer = world.send(World::request(Method::POST, "kv/a", ""));
        assert_eq!((answer.status(), answer.text()), (405, "method POST not allowed"));
        assert_eq!(answer.header("allow"), "OPTIONS,GET,PUT,DELETE");
        let answer = world.send(World::request(Method::OPTIONS, "session/create", ""));
        assert_eq!((answer.status(), answer.text()), (200, ""));
        assert_eq!(answer.header("allow"), "OPTIONS,PUT");
    }

    #[test]
    fn unclean_paths_are_redirected_with_their_query() {
        let world = World::new();
        for (path, location) in [
            ("kv", "/v1/kv/"),
            ("session/info", "/v1/session/info/"),
            ("kv//x?a=1", "/v1/kv/x?a=1"),
            ("kv/a/../b", "/v1/kv/b"),
            ("kv/a/./b", "/v1/kv/a/b"),
            ("kv/a/..", "/v1/kv/"),
            ("kv/a/../../session/info/.", "/v1/session/info/"),
            ("status/./leader", "/v1/status/leader"),
            ("kv/a//", "/v1/kv/a/"),
            ("%6bv", "/v1/kv/"),
            ("kv//a%20b!", "/v1/kv/a%2520b%21"),
        ] {
            let answer = world.put(path, "");
            assert_eq!((answer.status(), answer.header("location")), (307, location));
            assert_eq!(answer.text(), "");
        }
        let text = "<a href=\"/v1/kv/\">Temporary Redirect</a>.\n\n";
        assert_eq!(world.get("kv").text(), text);
    }

    #[test]
    fn encoded_names_are_those_of_the_route_but_for_encoded_slashes() {
        let world = World::new();
        for path in ["%73tatus/leader", "status/le%61der"] {
            assert_eq!(world.get(path).status(), 200, "{path}");
        }
        world.put("kv/a/b", "1");
        for path in ["%6bv/a/b", "kv/a%2Fb", "kv/%61/b"] {
            assert_eq!(world.get(path).status(), 200, "{path}");
        }
        for path in ["kv%2Fa/b", "status%2Fleader", "status/leader%3F"] {
            let answer = world.get(path);
            assert_eq!(answer.text(), "Invalid URL path: not a recognized HTTP API endpoint\n");
        }
        assert_eq!(world.get("query/a%2Fexecute").text(), "Query not found");
    }

    #[test]
    fn unprintable_characters_are_refused_in_a_path() {
        let world = World::new();
        // A control character, a zero-width space, another space, a private and an unassigned one.
        for name in ["%00", "a%0A", "%7F", "%E2%80%8B", "%C2%A0", "%EE%80%80", "%CD%B8"] {
            let answer = world.get(&format!("kv/{name}"));
            assert_eq!((answer.status(), answer.text()), (400, ""), "{name}");
        }
        // Quotes, an umlaut, a combining mark, an emoji, bytes that are not UTF-8.
        for name in ["%22'%5C", "%C3%BC", "%CC%88", "%F0%9F%98%80", "%FF"] {
            assert_eq!(world.get(&format!("kv/{name}")).status(), 404, "{name}");
        }
    }

    #[test]
    fn queries_that_go_cannot_read_are_500() {
        let world = World::new();
        for path in ["kv/a?x=%zz", "kv/a?a;b"] {
            let answer = world.get(path);
            assert_eq!((answer.status(), answer.text()), (500, ""));
        }
    }

    #[test]
    fn another_datacenter_and_enterprise_features_are_refused() {
        let world = World::new();
        for path in ["kv/a?dc=nope", "kv/a?dc=dc1&datacenter=nope", "status/leader?dc=nope"] {
            let answer = world.get(path);
            assert_eq!((answer.status(), answer.text()), (500, "No path to datacenter"));
        }
        assert_eq!(world.get("session/list?dc=nope").header("x-consul-index"), "1");
        assert_eq!(
            world.get("kv/a?ns=default").text(),
            "Invalid query parameter: \"ns\" - Namespaces are a Consul Enterprise feature"
        );
        assert_eq!(
            world.get("kv/a?partition=default").text(),
            "Invalid query parameter: \"partition\" - Partitions are a Consul Enterprise feature"
        );
        assert_eq!(world.get("kv/a?ns=&dc=&ap=x").status(), 404);
    }

    #[test]
    fn every_reply_of_an_endpoint_names_the_acl_policy() {
        let world = World::new();
        for path in ["kv/none", "status/leader", "session/info/"] {
            let answer = world.get(path);
            assert_eq!(answer.header("x-consul-default-acl-policy"), "allow");
            assert_eq!(answer.header("vary"), "Accept-Encoding");
        }
    }

    #[test]
    fn no_request_makes_it_panic() {
        let world = World::new();
        let texts = [
            "",
            "%",
            "%FF",
            "%2e%2e",
            "{}",
            "[",
            "null",
            "[null]",
            "\"x\"",
            "-1",
            "99999999999999999999",
        ];
        let paths: Vec<_> = super::routes().map(|route| route.0.path).collect();
        for path in paths {
            let fixed = path.trim_start_matches("/v1/");
            let fixed = fixed.find('{').map_or(fixed, |end| &fixed[..end]);
            for text in texts {
                for method in [Method::GET, Method::PUT, Method::DELETE] {
                    let query = text.replace(['{', '}', '[', '"'], "");
                    let uri = format!(
                        "/v1/{fixed}{query}?cas={query}&keys&separator={query}&hash={query}"
                    );
                    let request = Request::builder().method(method).uri(uri);
                    if let Ok(request) = request.body(Bytes::copy_from_slice(text.as_bytes())) {
                        world.start(request);
                    }
                }
            }
        }
    }
}
