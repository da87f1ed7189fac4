//! A simulated agent on a clock that the tests move, and a client of it.

use bytes::Bytes;
use consul_ffi::client::{Client, Settings};
use consul_ffi::clock::{Clock, ManualClock};
use consul_ffi::simulate::{Agent, Options, SimTransport};
use consul_ffi::wire::request::Defaults;
use futures_util::FutureExt;
use http::Request;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub struct World {
    pub clock: ManualClock,
    pub agent: Arc<Agent>,
    pub client: Arc<Client>,
}

impl World {
    pub fn new() -> Self {
        let clock = ManualClock::new();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let options = Options { clock: Arc::clone(&shared), seed: 1, ..Options::default() };
        let agent = Arc::new(Agent::new(options));
        let settings = Settings {
            timeout: Duration::from_secs(5),
            retry_count: 3,
            defaults: Defaults::default(),
        };
        let transport = SimTransport::new(Arc::clone(&agent), "simulated");
        let rng = fastrand::Rng::with_seed(1);
        let client = Arc::new(Client::new(vec![Arc::new(transport)], settings, shared, rng));
        Self { clock, agent, client }
    }

    /// Runs work to its end, moving the clock.
    pub fn run<R>(&self, work: impl Future<Output = R>) -> R {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(self.clock.drive(work))
    }

    /// What happens by other hands, without any time passing.
    pub fn send(&self, method: &str, path: &str, body: &str) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let request = Request::builder().method(method).uri(path).body(body).expect("a request");
        let answer = self.agent.handle(request).now_or_never().expect("at once");
        assert!(answer.status().is_success(), "{path}: {answer:?}");
    }
}
