//! Locks and semaphores through the Rust API: on the simulated agent and a clock that the test
//! advances, then on consul-sim and real Consuls with network faults, and with agents that stall,
//! answer 500 or restart. Random histories are in `simulation`, the specs of the Lua API in `spec`.

mod agents;
mod cuts;
mod many;
mod on_a_clock;
mod on_sockets;
mod refused;
mod silent;
mod tokens;

use crate::support::trials::Trials;
use consul_api as wire;
use consul_api::error::Error;
use consul_api::request::{Args, Defaults};
use consul_api::value::Value;
use consul_client::coordination::lock::{self, LockOptions};
use consul_client::coordination::semaphore::{self, SemaphoreOptions};
use consul_client::coordination::{Lease, Presence, Profile, Service, Wait};
use consul_client::{Client, Settings};
use consul_sim as simulate;
use consul_sim::acl::{Acl, DefaultPolicy, Secret};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

const KEY: &str = "locks/tested";

/// The delay that a loaded machine may add.
const SLACK: Duration = Duration::from_secs(3);

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    agents::add_to(&mut trials);
    cuts::add_to(&mut trials);
    many::add_to(&mut trials);
    on_a_clock::add_to(&mut trials);
    on_sockets::add_to(&mut trials);
    refused::add_to(&mut trials);
    silent::add_to(&mut trials);
    tokens::add_to(&mut trials);
    trials
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn settings(token: Option<&str>) -> Settings {
    let defaults = Defaults { token: token.map(str::to_owned), ..Defaults::default() };
    Settings { timeout: Duration::from_secs(5), retry_count: 3, defaults }
}

fn present(client: Client, profile: Profile) -> Arc<Presence> {
    let client = Arc::new(client);
    let service = Service::for_process(&client);
    Presence::new(Arc::clone(&client), client, profile, service)
}

async fn acquire(presence: &Arc<Presence>, wait: Wait) -> Result<Arc<Lease>, Error> {
    lock::acquire(presence, KEY, &LockOptions { value: None, wait, is_own: false }).await
}

async fn permit(presence: &Arc<Presence>, limit: u64, wait: Wait) -> Result<Arc<Lease>, Error> {
    let options = SemaphoreOptions { limit, value: Vec::new(), wait };
    semaphore::acquire(presence, "permits", &options).await
}

async fn call(client: &Client, method: &str, args: Args) -> Value {
    let endpoint = wire::endpoint(method).expect("a method");
    client.call(endpoint, &args).await.unwrap_or_else(|error| panic!("{method}: {error}")).value
}

const MANAGEMENT: &str = "6a1253d2-1785-24fd-91c2-f8e78c745511";

/// A simulated agent that allows only what a token allows.
fn with_acl() -> simulate::Options {
    let acl = Acl {
        enabled: true,
        default_policy: DefaultPolicy::Deny,
        initial_management: Some(Secret::new(MANAGEMENT)),
        // Without one the agent removes nothing from the catalog.
        agent_token: Some(Secret::new(MANAGEMENT)),
        ..Acl::default()
    };
    simulate::Options { acl, ..simulate::Options::default() }
}

/// A token with a policy of its own.
struct Token {
    secret: String,
    accessor: String,
    policy: String,
}

impl Token {
    async fn new(manager: &Client, rules: &str) -> Token {
        let name = format!("p{}", fastrand::u64(..));
        let policy = table(&[("Name", name.as_str().into()), ("Rules", rules.into())]);
        let policy = call(manager, "acl_policy_create", Args::new().arg(policy)).await;
        let links = Value::List(vec![table(&[("Name", name.as_str().into())])]);
        let token = Args::new().arg(table(&[("Policies", links)]));
        let token = call(manager, "acl_token_create", token).await;
        let text =
            |of: &Value, name| of.get(name).and_then(Value::as_str).expect("a text").to_owned();
        Token {
            secret: text(&token, "SecretID"),
            accessor: text(&token, "AccessorID"),
            policy: text(&policy, "ID"),
        }
    }

    async fn set_rules(&self, manager: &Client, rules: &str) {
        let id = self.policy.as_str();
        let policy = table(&[("Name", id.into()), ("Rules", rules.into())]);
        call(manager, "acl_policy_update", Args::new().arg(id).arg(policy)).await;
    }
}

fn table(members: &[(&str, Value)]) -> Value {
    Value::Map(members.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}
