//! A simulated agent on a clock that the tests advance, and its clients.

use bytes::Bytes;
use consul_api::api::acl;
use consul_api::request::{Args, Defaults};
use consul_api::value::Value;
use consul_client::transport::Transport;
use consul_client::{Client, Settings};
use consul_process::clock::{Clock, ManualClock};
use consul_sim::acl::{Acl, DefaultPolicy, Secret};
use consul_sim::{Agent, Options, SimTransport};
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
        Self::with(clock, Options::default())
    }

    /// A world whose agent denies by default, and the management token of that agent.
    pub fn with_acl() -> (Self, &'static str) {
        const MANAGEMENT: &str = "6a1253d2-1785-24fd-91c2-f8e78c745511";
        let acl = Acl {
            enabled: true,
            default_policy: DefaultPolicy::Deny,
            initial_management: Some(Secret::new(MANAGEMENT)),
            ..Acl::default()
        };
        let options = Options { acl, ..Options::default() };
        (Self::with(ManualClock::new(), options), MANAGEMENT)
    }

    fn with(clock: ManualClock, options: Options) -> Self {
        let options = Options { clock: Arc::new(clock.clone()), seed: 1, ..options };
        let agent = Arc::new(Agent::new(options));
        let timers = Arc::clone(&agent);
        clock.spawn(async move { match timers.run_timers().await {} });
        Self { clock, agent, processes: AtomicU64::new(0) }
    }

    /// A client as of another process; the first one has the name `0` in the agent's faults.
    pub fn client(&self) -> Arc<Client> {
        self.client_with(Defaults::default())
    }

    /// Creates a token with these rules, and returns a client that uses it.
    pub fn client_with_rules(&self, management: &str, rules: &str) -> Arc<Client> {
        let with_token = |token: &str| {
            self.client_with(Defaults { token: Some(token.to_owned()), ..Defaults::default() })
        };
        let manager = with_token(management);
        let name = format!("rules-{}", self.processes.load(Ordering::Relaxed));
        let member = |name: &str, value: Value| (name.to_owned(), value);
        let policy = vec![member("Name", name.as_str().into()), member("Rules", rules.into())];
        let link = Value::Map(vec![member("Name", name.into())]);
        let token = vec![member("Policies", Value::List(vec![link]))];
        self.run(async {
            let policy = Args::new().arg(Value::Map(policy));
            manager.call(&acl::POLICY_CREATE, &policy).await.expect("a policy");
            let token = Args::new().arg(Value::Map(token));
            let token = manager.call(&acl::TOKEN_CREATE, &token).await.expect("a token").value;
            with_token(token.get("SecretID").and_then(Value::as_str).expect("a secret"))
        })
    }

    fn client_with(&self, defaults: Defaults) -> Arc<Client> {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        let transport = SimTransport::new(Arc::clone(&self.agent), "simulated");
        let transport = transport.for_client(number.to_string());
        let settings = Settings { timeout: Duration::from_secs(5), retry_count: 3, defaults };
        let clock = Arc::new(self.clock.clone());
        let rng = fastrand::Rng::with_seed(number);
        Arc::new(Client::new(vec![Arc::new(transport)], settings, clock, rng))
    }

    /// A client with this transport and number of retries.
    pub fn client_over(&self, transport: Arc<dyn Transport>, retry_count: u32) -> Arc<Client> {
        let (timeout, defaults) = (Duration::from_secs(5), Defaults::default());
        let settings = Settings { timeout, retry_count, defaults };
        let clock = Arc::new(self.clock.clone());
        Arc::new(Client::new(vec![transport], settings, clock, fastrand::Rng::with_seed(7)))
    }

    /// Runs work to its end, and advances the clock.
    pub fn run<R>(&self, work: impl Future<Output = R>) -> R {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(self.clock.drive(work))
    }

    pub fn wait(&self, time: Duration) {
        self.run(self.clock.sleep(time));
    }

    /// The value of a key, by the path of its endpoint.
    pub fn value(&self, path: &str) -> Option<String> {
        self.get(&format!("{path}?raw"))
    }

    /// The body of a successful answer.
    pub fn get(&self, path: &str) -> Option<String> {
        let request = Request::builder().uri(path).body(Bytes::new());
        let answer =
            self.agent.handle(request.expect("a request")).now_or_never().expect("at once");
        let text = || String::from_utf8(answer.body().to_vec()).expect("a text");
        answer.status().is_success().then(text)
    }

    /// Gives the first client of [`World::client_with_rules`] these rules instead of its own.
    pub fn change_rules(&self, management: &str, rules: &str) {
        self.change_rules_of("rules-1", management, rules);
    }

    /// Gives a policy these rules.
    pub fn change_rules_of(&self, name: &str, management: &str, rules: &str) {
        let path = |of: &str| format!("/v1/acl/policy/{of}?token={management}");
        let policy = self.answer("GET", &path(&format!("name/{name}")), "");
        let policy: serde_json::Value = serde_json::from_slice(&policy).expect("a policy");
        let body = serde_json::json!({"Name": name, "Rules": rules}).to_string();
        self.send("PUT", &path(policy["ID"].as_str().expect("an id")), &body);
    }

    /// Runs the work of other processes, without any time passing.
    pub fn send(&self, method: &str, path: &str, body: &str) {
        self.answer(method, path, body);
    }

    fn answer(&self, method: &str, path: &str, body: &str) -> Bytes {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let request = Request::builder().method(method).uri(path).body(body).expect("a request");
        let answer = self.agent.handle(request).now_or_never().expect("at once");
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        answer.into_body()
    }
}

/// The agent's timers hold the agent, which holds the clock: each test would leave these behind, and with them the
/// descriptors of its runtimes.
impl Drop for World {
    fn drop(&mut self) {
        self.clock.cancel_all();
    }
}

#[cfg(test)]
mod tests {
    use super::World;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn a_world_leaves_nothing_behind() {
        let world = World::new();
        let client = world.client();
        world.clock.spawn(async move {
            let _kept = client;
            std::future::pending().await
        });
        world.wait(Duration::from_secs(60));
        let agent = Arc::downgrade(&world.agent);
        drop(world);
        assert!(agent.upgrade().is_none(), "the agent is kept");
    }
}
