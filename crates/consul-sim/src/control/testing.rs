//! An agent on a manual clock, for unit tests.

use crate::acl::{Acl, DefaultPolicy, Secret};
use crate::agent::checks::Prober;
use crate::{Agent, Options};
use bytes::Bytes;
use consul_process::clock::ManualClock;
use http::{Method, Request, Response};
use serde_json::Value;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// The secret of a management token.
pub(crate) const MANAGEMENT: &str = "11111111-2222-3333-4444-555555555555";

/// The agent and its clock.
pub(crate) struct World {
    pub agent: Arc<Agent>,
    pub clock: ManualClock,
}

/// A response, with access to its parts.
#[derive(Debug)]
pub(crate) struct Answer(Response<Bytes>);

impl Answer {
    pub fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    pub fn header(&self, name: &str) -> &str {
        self.0.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    pub fn index(&self) -> u64 {
        self.header("x-consul-index").parse().expect("an index header")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(self.0.body()).expect("UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(self.0.body()).expect("JSON")
    }
}

/// A request that has no answer yet.
pub(crate) struct Waiting {
    future: Pin<Box<dyn Future<Output = Answer> + Send>>,
    woken: Arc<Woken>,
}

#[derive(Debug)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

impl Waiting {
    /// The answer, if there is one by now: the request is polled as long as it wakes itself.
    pub fn answer(&mut self) -> Option<Answer> {
        let waker = Waker::from(Arc::clone(&self.woken));
        while self.woken.0.swap(false, Relaxed) {
            let polled = self.future.as_mut().poll(&mut Context::from_waker(&waker));
            if let Poll::Ready(answer) = polled {
                return Some(answer);
            }
        }
        None
    }

    /// Whether the request was woken since its last poll.
    pub fn was_woken(&self) -> bool {
        self.woken.0.load(Relaxed)
    }

    /// Whether there is no answer yet.
    pub fn waits(&mut self) -> bool {
        self.answer().is_none()
    }
}

impl World {
    pub fn new() -> Self {
        Self::with_seed(1)
    }

    pub fn with_seed(seed: u64) -> Self {
        Self::with(Options { seed, ..Options::default() })
    }

    /// An agent with default policy deny, and the management token `MANAGEMENT`.
    pub fn with_acl() -> Self {
        let initial_management = Some(Secret::new(MANAGEMENT));
        let default_policy = DefaultPolicy::Deny;
        let acl = Acl { enabled: true, default_policy, initial_management, ..Acl::default() };
        Self::with(Options { seed: 1, acl, ..Options::default() })
    }

    pub fn with_prober(prober: Arc<dyn Prober>) -> Self {
        Self::with(Options { seed: 1, prober, ..Options::default() })
    }

    pub fn with(options: Options) -> Self {
        let clock = ManualClock::new();
        let epoch = Duration::ZERO;
        let agent = Agent::new(Options { clock: Arc::new(clock.clone()), epoch, ..options });
        Self { agent: Arc::new(agent), clock }
    }

    /// Sends a request and polls it once.
    pub fn start(&self, request: Request<Bytes>) -> Waiting {
        let agent = Arc::clone(&self.agent);
        let future = Box::pin(async move { Answer(agent.driving(agent.handle(request)).await) });
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let mut waiting = Waiting { future, woken };
        if let Some(answer) = waiting.answer() {
            waiting.future = Box::pin(std::future::ready(answer));
            waiting.woken.0.store(true, Relaxed);
        }
        waiting
    }

    pub fn send(&self, request: Request<Bytes>) -> Answer {
        self.start(request).answer().expect("an answer at once")
    }

    pub fn request(method: Method, path: &str, body: &str) -> Request<Bytes> {
        let request = Request::builder().method(method).uri(format!("/v1/{path}"));
        request.body(Bytes::copy_from_slice(body.as_bytes())).expect("a request")
    }

    /// Sends a request with a token.
    pub fn send_as(&self, token: &str, method: Method, path: &str, body: &str) -> Answer {
        let mut request = Self::request(method, path, body);
        let token = token.parse().expect("a header's value");
        request.headers_mut().insert("x-consul-token", token);
        self.send(request)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send(Self::request(Method::GET, path, ""))
    }

    pub fn put(&self, path: &str, body: &str) -> Answer {
        self.send(Self::request(Method::PUT, path, body))
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.send(Self::request(Method::DELETE, path, ""))
    }

    /// Starts a blocking query.
    pub fn watch(&self, path: &str) -> Waiting {
        self.start(Self::request(Method::GET, path, ""))
    }

    /// Creates a session and returns its id.
    pub fn session(&self, body: &str) -> String {
        let created = self.put("session/create", body);
        created.json()["ID"]
            .as_str()
            .unwrap_or_else(|| panic!("no session: {created:?}"))
            .to_owned()
    }

    /// Advances the clock and fires the timers that are due.
    pub fn advance(&self, duration: Duration) {
        self.clock.advance(duration);
        self.agent.tick();
    }
}
