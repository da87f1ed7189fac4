//! Something between a client and the simulated agent that answers in its place: a router, a login page, another
//! program on the port.

use bytes::Bytes;
use consul_api::error::Error;
use consul_api::request::Defaults;
use consul_client::transport::Transport;
use consul_client::{Client, Settings};
use consul_process::clock::{BoxFuture, Clock};
use consul_sim::{Agent, SimTransport};
use http::{Request, Response};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Answers of others to any request, by status and body.
pub const ANSWERS: &[(u16, &str)] = &[
    (404, "404 page not found"),
    (404, "{}"),
    (400, "<html>400 The plain HTTP request was sent to HTTPS port</html>"),
    (401, r#"{"message":"Unauthorized"}"#),
    (403, "<html>Request blocked</html>"),
    (403, r#"{"error":"forbidden"}"#),
    (409, "<!DOCTYPE html>"),
    (410, "<html>Gone</html>"),
    (451, "<html>"),
    (500, r#"{"timestamp":1,"status":500,"error":"Internal Server Error"}"#),
    (500, "<html>"),
    (200, r#"{"error":"please log in"}"#),
    (200, r#"[{"error":"please log in"}]"#),
    (200, "null"),
    (200, "<html>"),
    (200, "[]"),
    (200, "{}"),
    (200, ""),
    (200, "5"),
    (200, "true"),
    (200, "[5]"),
    (200, "[][]"),
    (200, r#"[{"Key":"a""#),
    (301, ""),
    (400, ""),
    (401, "Unauthorized"),
    (402, "pay first"),
    (403, "RBAC: access denied"),
    (404, ""),
    (405, "Method Not Allowed"),
    (421, "Misdirected Request"),
    (500, ""),
    (501, "not implemented"),
];

/// With an index it is Consul's answer that there is nothing.
const NOTHING: [&str; 3] = ["[]", "{}", ""];

/// The answer of another program.
pub fn answer(status: u16, body: &'static str) -> Response<Bytes> {
    let response = Response::builder().status(status);
    let response = match NOTHING.contains(&body) {
        true => response,
        false => response.header("x-consul-index", "9"),
    };
    response.body(Bytes::from_static(body.as_bytes())).expect("a response")
}

/// The beginning of paths that are answered by another program, and its answer.
pub type Other = (&'static str, (u16, &'static str));

/// A transport to the agent, and what answers in its place while there is something.
#[derive(Clone, Debug)]
pub struct Between {
    consul: Arc<SimTransport>,
    other: Arc<Mutex<Option<Other>>>,
    requests: Arc<AtomicUsize>,
    /// The requests of this number and its multiples get the other answer.
    each: usize,
    name: &'static str,
}

impl Between {
    pub fn new(agent: &Arc<Agent>, name: &'static str) -> Between {
        let consul = Arc::new(SimTransport::new(Arc::clone(agent), "simulated"));
        Between { consul, other: Arc::default(), requests: Arc::default(), each: 1, name }
    }

    /// The same, which lets others of the requests through.
    pub fn each(self, each: usize) -> Between {
        Between { each, ..self }
    }

    pub fn set(&self, other: Option<Other>) {
        *self.other.lock().expect("no panic") = other;
    }
}

impl Transport for Between {
    fn endpoint(&self) -> &str {
        self.name
    }

    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let other = *self.other.lock().expect("no panic");
        let other = other.filter(|(path, _)| request.uri().path().starts_with(path));
        let is_due = || self.requests.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.each);
        match other.filter(|_| is_due()) {
            None => self.consul.send(request),
            Some((_, (status, body))) => Box::pin(async move { Ok(answer(status, body)) }),
        }
    }
}

/// A transport to an agent that does not take the names of keys with a colon, as servers of 1.21.5.
#[derive(Clone, Debug)]
pub struct WithoutColons {
    consul: Arc<SimTransport>,
    refused: Arc<AtomicUsize>,
}

/// The text of that refusal.
pub const INVALID_KEY_NAME: &str =
    r#"invalid key name, keys should respect the "^[a-zA-Z0-9,_./\\-?&=]+$" format"#;

impl WithoutColons {
    pub fn new(agent: &Arc<Agent>) -> WithoutColons {
        let consul = Arc::new(SimTransport::new(Arc::clone(agent), "simulated"));
        WithoutColons { consul, refused: Arc::default() }
    }

    /// A client of that agent.
    pub fn client(&self, clock: Arc<dyn Clock>) -> Arc<Client> {
        let (timeout, defaults) = (Duration::from_secs(60), Defaults::default());
        let settings = Settings { timeout, retry_count: 3, defaults };
        let rng = fastrand::Rng::with_seed(1);
        Arc::new(Client::new(vec![Arc::new(self.clone())], settings, clock, rng))
    }

    /// How many requests were refused.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Transport for WithoutColons {
    fn endpoint(&self) -> &str {
        "simulated"
    }

    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let path = request.uri().path();
        if path.starts_with("/v1/kv/") && path.contains("%3A") {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let refusal = Response::builder().status(500).body(INVALID_KEY_NAME.into());
            return Box::pin(async { Ok(refusal.expect("an answer")) });
        }
        self.consul.send(request)
    }
}
