//! Sessions, which are made by the presence: a contender that ends while its session is on its way leaves none, since what
//! comes for nobody is given up at once.

use super::acquire::{IN_TURN, Step};
use super::guard::ReleaseStep;
use super::map;
use super::presence::{Behavior, Presence, Registration, Session, destroy_args};
use consul_api::api::session;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::value::{Value, duration};
use consul_process::sync::lock;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// A session can be created only when its check is in the catalog, where the agent puts it a moment
/// after the registration: how long to try, and the first pause, which doubles.
const CATALOG_LAG: Duration = Duration::from_secs(2);
const FIRST_CATALOG_PAUSE: Duration = Duration::from_millis(20);

/// The sessions that contenders want and nobody makes yet.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    orders: Mutex<Vec<Order>>,
    added: Notify,
}

/// A session that a contender wants.
#[derive(Debug)]
struct Order {
    registration: Registration,
    name: String,
    behavior: Behavior,
    step: Arc<Step>,
    made: oneshot::Sender<Result<Session, Error>>,
}

impl Presence {
    /// Has [`Presence::run`] create a session that ends with the check of this process, with its agent or, at the
    /// latest, with its own TTL.
    ///
    /// # Errors
    /// Errors of the call; [`Kind::Config`] when the guard process cannot be started.
    pub(super) async fn session(
        &self,
        registration: Registration,
        name: String,
        behavior: Behavior,
        step: Arc<Step>,
    ) -> Result<Session, Error> {
        let (made, session) = oneshot::channel();
        lock(&self.wanted.orders).push(Order { registration, name, behavior, step, made });
        self.wanted.added.notify_one();
        session
            .await
            .unwrap_or_else(|_| Err(Error::new(Kind::Closed, "the client is closed").not_sent()))
    }

    /// Makes the sessions that contenders want, forever.
    pub(super) async fn make_sessions(self: &Arc<Self>) -> Infallible {
        let mut making = FuturesUnordered::new();
        loop {
            let orders = std::mem::take(&mut *lock(&self.wanted.orders));
            making.extend(orders.into_iter().map(|order| async move {
                let session = self.make_session(&order).await;
                // Without a receiver the session is dropped, which gives it up.
                drop(order.made.send(session));
            }));
            tokio::select! {
                biased;
                Some(()) = making.next() => {}
                () = self.wanted.added.notified() => {}
            }
        }
    }

    async fn make_session(self: &Arc<Self>, order: &Order) -> Result<Session, Error> {
        let check = Value::Map(vec![("ID".to_owned(), self.check_id().into())]);
        let mut definition = vec![
            ("Name", order.name.as_str().into()),
            ("TTL", duration::format(self.profile().session_ttl).into()),
            ("LockDelay", duration::format(self.profile().lock_delay).into()),
            ("Behavior", order.behavior.name().into()),
            ("ServiceChecks", Value::List(vec![check])),
        ];
        let without_node_checks = ("NodeChecks", Value::List(Vec::new()));
        let mut has_node_checks = self.profile().node_checks;
        if !has_node_checks {
            definition.push(without_node_checks.clone());
        }
        if let Some(guard) = self.client().guard() {
            order.step.set("the guard process has not answered");
            guard.start().await?;
        }
        let (begun, mut has_registered) = (self.now(), false);
        let give_up = begun + CATALOG_LAG;
        let mut pause = FIRST_CATALOG_PAUSE;
        loop {
            let args = Args::new().arg(map(definition.clone()));
            let is_wanted = || {
                if order.made.is_closed() {
                    let why = "nobody wants the session any more";
                    return Err(Error::new(Kind::Closed, why).not_sent());
                }
                order.step.set("Consul has not answered the request for a session");
                Ok(())
            };
            order.step.set(IN_TURN);
            let agent = &self.agents[order.registration.agent];
            match self.call_in_turns(agent, (&session::CREATE, args), is_wanted).await {
                Ok(answer) => {
                    let id = answer.value.as_str().unwrap_or_default().to_owned();
                    let deferred =
                        self.defer(ReleaseStep::EndSession, &session::DESTROY, &destroy_args(&id))?;
                    let presence = Arc::clone(self);
                    return Ok(Session { id, presence, deferred, held: None });
                }
                Err(error) if is_unknown_check(&error) => {
                    if self.now() >= give_up && lacks_serf_health(&error) && has_node_checks {
                        // Its TTL ends it when its machine dies.
                        tracing::info!(
                            %error,
                            "somebody deregistered the agent's node: a session goes without the check of its machine"
                        );
                        definition.push(without_node_checks.clone());
                        has_node_checks = false;
                        continue;
                    }
                    if self.now() >= give_up {
                        self.register_again();
                        return Err(error);
                    }
                    if self.now() >= begun + CATALOG_LAG / 4 && !has_registered {
                        // Beats are answered although the catalog lacks the service.
                        self.register_again();
                        has_registered = true;
                    }
                    self.client().clock().sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(refused_for_good(error)),
            }
        }
    }
}

/// Gives a lasting refusal a kind that ends a wait, and names the option that cures it.
fn refused_for_good(error: Error) -> Error {
    if !error.message().contains("Invalid Session TTL") {
        return error;
    }
    let why = format!(
        "the option session_ttl_s of the profile is below Consul's session_ttl_min, or above 24 hours: {}",
        error.message()
    );
    Error::new(Kind::Config, why).with_maybe_applied(false)
}

/// Whether the catalog lacks the check of a session or its node.
fn is_unknown_check(error: &Error) -> bool {
    let lacks = |what| error.message().contains(what);
    error.kind() == Kind::Http && (lacks("Missing check") || lacks("Missing node registration"))
}

/// Whether what is unknown is the check of the agent's machine. After the node was deregistered, the servers make it again
/// when they compare their members with the catalog, once a minute.
fn lacks_serf_health(error: &Error) -> bool {
    error.message().contains("'serfHealth'")
}
