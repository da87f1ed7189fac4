//! With a simulated Consul in the test: no server, no sleeping.

use consul_api::error::Error;
use consul_api::request::Defaults;
use consul_client::{Client, Settings};
use consul_process::clock::{Clock, ManualClock};
use consul_sim::{Agent, Fault, Options, SimTransport};
use example_leader::becomes_leader;
use http::StatusCode;
use std::sync::Arc;
use std::time::Duration;

/// A Consul, and the clock that the test advances.
fn consul() -> (ManualClock, Arc<Agent>) {
    let clock = ManualClock::new();
    let options = Options { clock: Arc::new(clock.clone()), ..Options::default() };
    let agent = Arc::new(Agent::new(options));
    let timers = Arc::clone(&agent);
    clock.spawn(async move { match timers.run_timers().await {} });
    (clock, agent)
}

fn client(clock: &ManualClock, agent: &Arc<Agent>) -> Client {
    let transport = Arc::new(SimTransport::new(Arc::clone(agent), "simulated"));
    let timeout = Duration::from_secs(5);
    let settings = Settings { timeout, retry_count: 0, defaults: Defaults::default() };
    Client::new(vec![transport], settings, Arc::new(clock.clone()), fastrand::Rng::with_seed(1))
}

fn run<R>(clock: &ManualClock, work: impl Future<Output = R>) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(clock.drive(work))
}

#[test]
fn another_instance_leads_when_the_session_of_the_first_has_ended() -> Result<(), Error> {
    let (clock, agent) = consul();
    let client = client(&clock, &agent);
    run(&clock, async {
        assert!(becomes_leader(&client, "a").await?);
        assert!(!becomes_leader(&client, "b").await?);
        // At twice its TTL at the latest. No real time passes.
        clock.sleep(Duration::from_secs(20)).await;
        assert!(becomes_leader(&client, "b").await?);
        Ok(())
    })
}

#[test]
fn a_failing_consul_is_an_error() {
    let (clock, agent) = consul();
    let client = client(&clock, &agent);
    let status = Some(StatusCode::INTERNAL_SERVER_ERROR);
    agent.add_fault(Fault { status, status_chance: 1.0, ..Fault::default() });
    let error = run(&clock, becomes_leader(&client, "a")).expect_err("a refusal");
    assert!(error.message().contains("500"), "{error}");
}
