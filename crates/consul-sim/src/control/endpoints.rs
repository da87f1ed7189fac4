//! The control endpoints of consul-sim, with which tests in any language do what the Lua simulator can: `/sim/advance`,
//! `/sim/fault`, `/sim/restart`, `/sim/reset`, `/sim/stats` and `/sim/agents`.

use super::Retained;
use super::clock::SteeredClock;
use super::fault::Fault;
use crate::Agent;
use crate::config::{CommandLine, Config};
use crate::http::request::Cut;
use crate::http::serve::{Answer, Serving};
use bytes::Bytes;
use consul_api::error::Error;
use consul_api::table::{DURATION, Shape};
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, unknown};
use consul_process::hosts::{Hosts, Refusal as HostRefusal};
use consul_process::sync::lock;
use http::header::{CONTENT_TYPE, ORIGIN};
use http::{HeaderValue, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex};

/// The name of the agent that the command line starts.
pub const FIRST: &str = "first";

/// The flags of each further agent, before its own ones.
const FURTHER: [&str; 2] = ["-dev", "-http-port=0"];

/// The agents of a process, by name.
pub struct Control {
    hosts: Hosts,
    agents: Mutex<BTreeMap<String, Controlled>>,
}

#[derive(Clone)]
struct Controlled {
    agent: Arc<Agent>,
    clock: SteeredClock,
    urls: Vec<String>,
    dns: Vec<String>,
    /// Ends its service with the last clone; none for the first agent, which is served as long as the process lives.
    _serving: Option<Arc<Serving>>,
}

/// The status and the text of a refusal.
#[derive(Debug)]
struct Refused(StatusCode, String);

type Answered = Result<serde_json::Value, Refused>;

fn bad(why: impl Into<String>) -> Refused {
    Refused(StatusCode::BAD_REQUEST, why.into())
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        bad(error.message())
    }
}

impl Control {
    /// Control endpoints without agents, which answer under these names.
    pub fn new(hosts: Hosts) -> Self {
        Self { hosts, agents: Mutex::default() }
    }

    /// Adds the agent of the command line, which the caller serves.
    pub fn add_first(
        &self,
        agent: Arc<Agent>,
        clock: SteeredClock,
        urls: Vec<String>,
        dns: Vec<String>,
    ) {
        let first = Controlled { agent, clock, urls, dns, _serving: None };
        lock(&self.agents).insert(FIRST.to_owned(), first);
    }

    fn named(&self, name: &str) -> Result<Controlled, Refused> {
        let found = lock(&self.agents).get(name).cloned();
        found.ok_or_else(|| {
            Refused(StatusCode::NOT_FOUND, format!("no agent has the name {name:?}"))
        })
    }

    /// The agent that a request is about.
    fn agent_of(&self, request: &Request<Bytes>) -> Result<Controlled, Refused> {
        let mut name = FIRST.to_owned();
        for (parameter, value) in
            url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
        {
            match &*parameter {
                "agent" => name = value.into_owned(),
                other => return Err(bad(unknown("parameter", other, &["agent"]))),
            }
        }
        self.named(&name)
    }

    async fn answered(&self, request: &Request<Bytes>) -> Answered {
        match self.hosts.check(request) {
            Err(HostRefusal::Malformed) => return Err(bad("one Host header is required")),
            Err(HostRefusal::Foreign) => {
                let why = "the Host header names another server: give its name by -sim-host";
                return Err(Refused(StatusCode::MISDIRECTED_REQUEST, why.to_owned()));
            }
            Ok(()) => {}
        }
        // Each web page that a browser shows can send a POST to this machine, but not without this header.
        if request.headers().contains_key(ORIGIN) {
            return Err(Refused(
                StatusCode::FORBIDDEN,
                "requests of web pages are refused".to_owned(),
            ));
        }
        let path = request.uri().path();
        match (request.method().as_str(), path) {
            ("POST", "/sim/agents") => return self.start(&options(request)?).await,
            ("GET", "/sim/agents") => return Ok(self.list()),
            ("DELETE", path) if path.starts_with("/sim/agents/") => {
                let name = percent_decode_str(path.trim_start_matches("/sim/agents/"));
                return self.end(&name.decode_utf8_lossy());
            }
            _ => {}
        }
        let controlled = self.agent_of(request)?;
        let Controlled { agent, clock, .. } = &controlled;
        match (request.method().as_str(), path) {
            ("POST", "/sim/advance") => {
                let by = sole(&options(request)?, "by")?;
                clock.advance(DURATION.duration(&by, &ValuePath::top("by"))?);
                agent.tick();
            }
            ("POST", "/sim/fault") => agent.add_fault(Fault::from_options(&options(request)?)?),
            ("DELETE", "/sim/fault") => agent.clear_faults(),
            ("POST", "/sim/restart") => {
                agent.restart(Retained::from_options(&options(request)?)?);
                again(agent)?;
            }
            ("POST", "/sim/reset") => {
                match &options(request)?[..] {
                    [] => agent.reset(),
                    [(name, seed)] if name == "seed" => {
                        agent.reset_to(Shape::Uint.uint(seed, &ValuePath::top("seed"))?);
                    }
                    [(other, _), ..] => return Err(bad(unknown("option", other, &["seed"]))),
                }
                again(agent)?;
            }
            ("GET", "/sim/stats") => {
                let stats = agent.stats();
                return Ok(json!({
                    "now": agent.clock().now().since_origin().as_secs_f64(),
                    "requests": stats.requests,
                    "index": stats.index,
                    "keys": stats.keys,
                    "sessions": stats.sessions,
                    "waiting": stats.waiting,
                }));
            }
            (_, "/sim/advance" | "/sim/fault" | "/sim/restart" | "/sim/reset" | "/sim/stats") => {
                let why = format!("{} does not take {}", path, request.method());
                return Err(Refused(StatusCode::METHOD_NOT_ALLOWED, why));
            }
            _ => {
                return Err(Refused(
                    StatusCode::NOT_FOUND,
                    format!("no control endpoint is {path}"),
                ));
            }
        }
        Ok(json!({}))
    }

    fn list(&self) -> serde_json::Value {
        let agents = lock(&self.agents);
        let places = |agent: &Controlled| json!({ "urls": agent.urls, "dns": agent.dns });
        agents.iter().map(|(name, agent)| (name.clone(), places(agent))).collect()
    }

    /// Starts a further agent.
    async fn start(&self, options: &[(String, Value)]) -> Answered {
        let (mut name, mut flags) = (String::new(), FURTHER.map(str::to_owned).to_vec());
        for (option, value) in options {
            let at = ValuePath::top(option);
            match option.as_str() {
                "name" => name = Shape::Text.text(value, &at)?,
                "flags" => flags.extend(Shape::TextList.texts(value, &at)?),
                _ => return Err(bad(unknown("option", option, &["name", "flags"]))),
            }
        }
        if name.is_empty() || name.contains('/') {
            return Err(bad("name must be a non-empty string without \"/\""));
        }
        let config = Config::read(&CommandLine::parse(&flags).map_err(bad)?).map_err(bad)?;
        if let Some(flag) = config.flag_of_a_process() {
            return Err(bad(format!("flags must not have -{flag}, which is one of the process")));
        }
        let clock = config.clock().map_err(bad)?;
        let agent = Arc::new(config.agent(Arc::new(clock.clone())).map_err(bad)?);
        let (urls, listeners): (Vec<_>, Vec<_>) =
            config.listeners(&agent).await.map_err(bad)?.into_iter().unzip();
        let asked = config.dns(Arc::clone(&agent)).await.map_err(bad)?;
        let dns = asked.addresses();
        match lock(&self.agents).entry(name) {
            Entry::Occupied(taken) => {
                let why = format!("an agent has the name {:?} already", taken.key());
                return Err(Refused(StatusCode::CONFLICT, why));
            }
            Entry::Vacant(place) => {
                let most = config.connections_per_client();
                let serving = Serving::start(Arc::clone(&agent), listeners, asked, most);
                let _serving = Some(Arc::new(serving));
                let (urls, dns) = (urls.clone(), dns.clone());
                place.insert(Controlled { agent, clock, urls, dns, _serving });
            }
        }
        Ok(json!({ "urls": urls, "dns": dns }))
    }

    /// Ends a further agent and its connections.
    fn end(&self, name: &str) -> Answered {
        self.named(name)?;
        if name == FIRST {
            return Err(bad("the first agent ends with the process"));
        }
        lock(&self.agents).remove(name);
        Ok(json!({}))
    }
}

/// Reads the configuration into an agent that has begun again.
fn again(agent: &Agent) -> Result<(), Refused> {
    agent.reload().map_err(|why| Refused(StatusCode::INTERNAL_SERVER_ERROR, why))
}

/// The members of a body; none without one.
fn options(request: &Request<Bytes>) -> Result<Vec<(String, Value)>, Refused> {
    if let Some(Cut(why)) = request.extensions().get() {
        return Err(bad(format!("the body is cut: {why}")));
    }
    if request.body().is_empty() {
        return Ok(Vec::new());
    }
    let body: serde_json::Value = serde_json::from_slice(request.body())
        .map_err(|error| bad(format!("the body is not JSON: {error}")))?;
    match Value::from(body) {
        Value::Map(members) => Ok(members),
        _ => Err(bad("the body must be an object")),
    }
}

/// The only member that a body must have.
fn sole(options: &[(String, Value)], name: &'static str) -> Result<Value, Refused> {
    match options {
        [] => Err(bad(format!("{name} is required"))),
        [(given, value)] if given == name => Ok(value.clone()),
        _ => {
            let other = options.iter().find(|(given, _)| given != name);
            Err(bad(unknown("option", other.map_or(name, |(given, _)| given), &[name])))
        }
    }
}

impl Answer for Control {
    async fn answer(&self, _: &str, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        let (status, body) = match self.answered(&request).await {
            Ok(body) => (StatusCode::OK, body),
            Err(Refused(status, why)) => (status, json!({ "error": why })),
        };
        let mut response = Response::new(Bytes::from(format!("{body}\n")));
        *response.status_mut() = status;
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::serve::serve_answers;
    use consul_process::clock::Clock;
    use futures_util::FutureExt;
    use http::Method;
    use http::header::HOST;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    fn control() -> Control {
        let (control, clock) =
            (Control::new(Hosts::new(Ipv4Addr::LOCALHOST.into(), &[])), SteeredClock::standing());
        let options = crate::Options { clock: Arc::new(clock.clone()), ..Default::default() };
        control.add_first(Arc::new(Agent::new(options)), clock, Vec::new(), Vec::new());
        control
    }

    fn ask(control: &Control, method: &str, target: &str, body: &str) -> (u16, serde_json::Value) {
        let request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap());
        let request = request
            .uri(target)
            .header(HOST, "localhost")
            .body(Bytes::copy_from_slice(body.as_bytes()))
            .unwrap();
        let answer = control.answer("", request).now_or_never().expect("at once").unwrap();
        (answer.status().as_u16(), serde_json::from_slice(answer.body()).expect("JSON"))
    }

    #[test]
    fn invalid_requests_are_refused_with_their_reason() {
        let control = control();
        for (method, target, body, status, why) in [
            ("POST", "/sim/advance", "", 400, "by is required"),
            ("POST", "/sim/advance", r#"{"by": "-1s"}"#, 400, "by is"),
            ("POST", "/sim/advance", r#"{"by": 1, "to": 2}"#, 400, "unknown option \"to\""),
            ("POST", "/sim/advance", "[1]", 400, "the body must be an object"),
            ("POST", "/sim/fault", r#"{"latncy_ms": 1}"#, 400, "latency_ms"),
            ("POST", "/sim/restart", r#"{"wipe": 1}"#, 400, "wipe must be true or false"),
            ("POST", "/sim/reset", r#"{"sead": 1}"#, 400, "seed"),
            ("POST", "/sim/reset?agnt=a", "", 400, "agent"),
            ("POST", "/sim/reset?agent=none", "", 404, "none"),
            ("GET", "/sim/reset", "", 405, "GET"),
            ("GET", "/sim/other", "", 404, "/sim/other"),
            ("DELETE", "/sim/agents/first", "", 400, "process"),
            ("DELETE", "/sim/agents/%66irst", "", 400, "process"),
            ("DELETE", "/sim/agents/a%20%C3%A9%2Fb", "", 404, r#""a é/b""#),
            ("POST", "/sim/agents", r#"{"name": "a/b"}"#, 400, "name"),
            ("POST", "/sim/agents", r#"{"name": "b", "flags": ["-sim-port=0"]}"#, 400, "-sim-port"),
            ("POST", "/sim/agents", r#"{"name": "b", "flags": ["-no"]}"#, 400, "-no"),
        ] {
            let (answered, body) = ask(&control, method, target, body);
            let error = body["error"].as_str().unwrap_or_default();
            assert!(answered == status && error.contains(why), "{method} {target}: {body}");
        }
    }

    /// An agent with `-http-port=-1` may have DNS alone.
    #[test]
    fn an_agent_without_a_socket_is_served() {
        let served = serve_answers(Arc::new(control()), Vec::new(), 1);
        assert!(served.now_or_never().is_none(), "it goes on");
    }

    #[test]
    fn a_web_page_is_refused() {
        let control = control();
        let request = Request::post("/sim/reset")
            .header(HOST, "localhost")
            .header(ORIGIN, "http://example.com");
        let request = request.body(Bytes::new()).unwrap();
        let answer = control.answer("", request).now_or_never().expect("at once").unwrap();
        assert_eq!(answer.status(), 403);
    }

    #[test]
    fn the_clock_moves_and_the_figures_tell() {
        let control = control();
        assert_eq!(ask(&control, "POST", "/sim/advance", r#"{"by": "1m30s"}"#).0, 200);
        assert_eq!(ask(&control, "POST", "/sim/advance", r#"{"by": 0.5}"#).0, 200);
        assert_eq!(ask(&control, "GET", "/sim/stats", "").1["now"], 90.5);
        let clock = control.named(FIRST).unwrap().clock;
        assert_eq!(clock.now().since_origin(), Duration::from_millis(90_500));
    }
}
