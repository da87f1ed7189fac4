//! A simulated agent on a clock that the tests move, and clients of it.

use bytes::Bytes;
use consul_ffi::client::{Client, Settings};
use consul_ffi::clock::{Clock, ManualClock};
use consul_ffi::simulate::{Agent, Options, SimTransport};
use consul_ffi::wire::request::Defaults;
use futures_util::FutureExt;
use http::Request;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Builder;

pub struct World {
    pub clock: ManualClock,
    pub agent: Arc<Agent>,
    processes: AtomicU64,
}

impl World {
    pub fn new() -> Self {
        let clock = ManualClock::new();
        let options = Options { clock: Arc::new(clock.clone()), seed: 1, ..Options::default() };
        let agent = Arc::new(Agent::new(options));
        let timers = Arc::clone(&agent);
        clock.spawn(async move { match timers.run_timers().await {} });
        Self { clock, agent, processes: AtomicU64::new(0) }
    }

    /// The client of a process of its own; the first is the client `0` of the agent's faults.
    pub fn client(&self) -> Arc<Client> {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        let transport = SimTransport::new(Arc::clone(&self.agent), "simulated");
        let transport = transport.for_client(number.to_string());
        let settings = Settings {
            timeout: Duration::from_secs(5),
            retry_count: 3,
            defaults: Defaults::default(),
        };
        let clock = Arc::new(self.clock.clone());
        let rng = fastrand::Rng::with_seed(number);
        Arc::new(Client::new(vec![Arc::new(transport)], settings, clock, rng))
    }

    /// Runs work to its end, moving the clock.
    pub fn run<R>(&self, work: impl Future<Output = R>) -> R {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(self.clock.drive(work))
    }

    pub fn wait(&self, time: Duration) {
        self.run(self.clock.sleep(time));
    }

    /// What happens by other hands, without any time passing.
    pub fn send(&self, method: &str, path: &str, body: &str) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let request = Request::builder().method(method).uri(path).body(body).expect("a request");
        let answer = self.agent.handle(request).now_or_never().expect("at once");
        assert!(answer.status().is_success(), "{path}: {answer:?}");
    }
}
