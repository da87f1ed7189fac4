//! A process in Consul's eyes: a service with a TTL check that it keeps passing, and the sessions
//! that die with that check.
//!
//! A beat is answered by the local agent alone and costs no Raft write. It says that this process
//! lives; it is never evidence that a lock is held.

use super::contend::may_pass;
use super::guard::{Deed, Entrusted};
use super::map;
use super::profile::Profile;
use crate::client::Client;
use crate::clock::Instant;
use crate::error::{Error, Kind};
use crate::sync::lock;
use crate::wire::duration;
use crate::wire::request::Args;
use crate::wire::response::EntryMeta;
use crate::wire::table::Endpoint;
use crate::wire::value::Value;
use crate::wire::{agent, session};
use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How long Consul keeps the service of a process that is gone; it takes no less.
const FORGOTTEN_AFTER: &str = "1m";

/// How long a session waits for its check to arrive in the catalog, which the agent does by itself
/// a moment after the registration, and how often it asks.
const CATALOG_LAG: Duration = Duration::from_secs(2);
const CATALOG_POLL: Duration = Duration::from_millis(20);

/// The service that stands for a process.
#[derive(Clone, Debug)]
pub struct Service {
    /// The service's name.
    pub name: String,
    /// The instance's id.
    pub id: String,
    /// Further members of the registration: `Address`, `Port`, `Tags`, `Meta`.
    pub members: Vec<(String, Value)>,
}

/// What becomes of the keys that a session holds when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behavior {
    /// They stay, and are free.
    Release,
    /// They are deleted.
    Delete,
}

impl Behavior {
    fn name(self) -> &'static str {
        match self {
            Behavior::Release => "release",
            Behavior::Delete => "delete",
        }
    }
}

impl Service {
    /// The service of a process that has none of its own: `consul_ffi` with a random id.
    pub fn of_a_process(client: &Client) -> Self {
        let id = format!("consul_ffi-{:016x}", client.random());
        Service { name: "consul_ffi".to_owned(), id, members: Vec::new() }
    }
}

/// Where a process is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Grows whenever the process was registered anew with another agent; sessions of an earlier
    /// one are given up.
    pub generation: u64,
    home: usize,
}

/// The presence of this process, which is kept up as long as [`Presence::run`] runs.
#[derive(Debug)]
pub struct Presence {
    client: Arc<Client>,
    /// The client for queries that wait.
    waiting: Arc<Client>,
    /// The same client for each single endpoint: service, beats and sessions stay with one agent.
    homes: Vec<Client>,
    profile: Profile,
    service: Service,
    registration: watch::Sender<Option<Registration>>,
    /// That the guard takes the service away.
    deregistration: Mutex<Option<Entrusted>>,
    /// Why the last attempt to register failed, if it did.
    refusal: watch::Sender<Option<Error>>,
    /// Sessions that nobody wants any more.
    orphans: Mutex<Vec<(String, Option<Entrusted>)>>,
    orphaned: Notify,
    /// What the check warns of.
    warning: Mutex<Option<String>>,
    /// Whether the agent may have another service under this one's id.
    is_doubted: AtomicBool,
    /// What this process holds or waits for.
    entered: Mutex<HashSet<String>>,
    rules: Rules,
}

impl Presence {
    /// A presence that begins when [`Presence::run`] does. Queries that wait go through `waiting`,
    /// which has connections of its own, so that they keep no beat from having one.
    pub fn new(
        client: Arc<Client>,
        waiting: Arc<Client>,
        profile: Profile,
        service: Service,
    ) -> Arc<Self> {
        Arc::new(Self {
            homes: client.each_endpoint(),
            client,
            waiting,
            profile,
            service,
            registration: watch::Sender::new(None),
            deregistration: Mutex::default(),
            refusal: watch::Sender::new(None),
            orphans: Mutex::default(),
            orphaned: Notify::new(),
            warning: Mutex::default(),
            is_doubted: AtomicBool::new(false),
            entered: Mutex::default(),
            rules: Rules::ALL,
        })
    }

    /// The same presence without some of the rules that make locks safe.
    #[cfg(feature = "sabotage")]
    pub fn with_rules(self: Arc<Self>, rules: Rules) -> Arc<Self> {
        let mut presence = Arc::into_inner(self).expect("a presence that is not in use");
        presence.rules = rules;
        Arc::new(presence)
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Says that this process holds or waits for something; it can do so once.
    pub(super) fn enter(self: &Arc<Self>, kind: &str, key: &str) -> Result<Entered, Error> {
        let name = format!("{kind} {key:?}");
        if !lock(&self.entered).insert(name.clone()) {
            let message = format!("{name}: this client holds it or waits for it already");
            return Err(Error::new(Kind::Conflict, message).not_sent());
        }
        Ok(Entered { presence: Arc::clone(self), name })
    }

    /// Makes a read one whose answer is true at some moment since it was asked.
    pub(super) fn proof(&self, args: Args) -> Args {
        let timeout_ms = self.profile.proof_timeout().as_millis() as u64;
        args.opt("consistent", true).opt("timeout_ms", timeout_ms)
    }

    pub(super) async fn renew(&self, session: &str) -> Result<(), Error> {
        let timeout_ms = self.profile.renew_interval().as_millis() as u64;
        let args = Args::new().arg(session).opt("timeout_ms", timeout_ms);
        self.client.call(&session::RENEW, &args).await.map(|_| ())
    }

    /// The client that it speaks through.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The client for queries that wait.
    pub(super) fn waiting(&self) -> &Client {
        &self.waiting
    }

    /// The times that it goes by.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Registers the service and keeps its check passing, for ever. When its agent does not answer
    /// for so long that the check has expired, the next endpoint's agent takes its place.
    pub async fn run(&self) -> Infallible {
        tokio::select! {
            biased;
            never = self.stay() => never,
            never = self.sweep() => never,
            never = self.keep_guard() => never,
        }
    }

    /// The present registration, once there is one.
    ///
    /// # Errors
    /// Why there will be none, as when a permission is missing.
    pub async fn registered(&self) -> Result<Registration, Error> {
        let mut registration = self.registration.subscribe();
        let mut refusal = self.refusal.subscribe();
        let is_final =
            |refusal: &Option<Error>| refusal.as_ref().is_some_and(|refusal| !may_pass(refusal));
        // The senders live as long as `self`.
        let registered = async {
            match registration.wait_for(Option::is_some).await.map(|found| *found) {
                Ok(Some(registration)) => Ok(registration),
                _ => std::future::pending().await,
            }
        };
        let refused = async {
            match refusal.wait_for(is_final).await.map(|found| found.clone()) {
                Ok(Some(refusal)) => Err(refusal),
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            registered = registered => registered,
            refused = refused => refused,
        }
    }

    /// Completes when the process is registered elsewhere than in `registration`.
    pub async fn left(&self, registration: Registration) {
        let mut watch = self.registration.subscribe();
        let moved = |now: &Option<Registration>| {
            now.is_some_and(|now| now.generation != registration.generation)
        };
        if watch.wait_for(moved).await.is_err() {
            std::future::pending().await
        }
    }

    /// Removes the service; for a process that ends in order, when [`Presence::run`] runs no more.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn withdraw(&self) -> Result<(), Error> {
        let registration = *self.registration.borrow();
        let Some(Registration { home, .. }) = registration else { return Ok(()) };
        self.registration.send_replace(None);
        let args = self.deregister_args();
        let withdrawn = self.homes[home].call(&agent::SERVICE_DEREGISTER, &args).await;
        lock(&self.deregistration).take();
        withdrawn.map(|_| ())
    }

    fn deregister_args(&self) -> Args {
        Args::new().arg(self.service.id.as_str())
    }

    /// Entrusts a call to the guard, if there is one, until what this gives is dropped.
    pub(super) fn entrust(
        &self,
        deed: Deed,
        endpoint: &'static Endpoint,
        args: &Args,
    ) -> Result<Option<Entrusted>, Error> {
        let Some(guard) = self.client.guard() else { return Ok(None) };
        let request = self.client.request(endpoint, args)?;
        let home = self.registration.borrow().map_or(0, |registration| registration.home);
        Ok(Some(Entrusted::new(guard, deed, home, &request.http)))
    }

    /// A session that dies with this process's check, with its agent and, if all of that fails to,
    /// with its TTL.
    ///
    /// # Errors
    /// Those of the call; [`Kind::Config`] when the guard that is to be cannot be started.
    pub async fn session(
        self: &Arc<Self>,
        registration: Registration,
        name: String,
        behavior: Behavior,
    ) -> Result<Session, Error> {
        let check = Value::Map(vec![("ID".to_owned(), self.check_id().into())]);
        let definition = map(vec![
            ("Name", name.into()),
            ("TTL", duration::format(self.profile.session_ttl).into()),
            ("LockDelay", duration::format(self.profile.lock_delay).into()),
            ("Behavior", behavior.name().into()),
            ("ServiceChecks", Value::List(vec![check])),
        ]);
        if let Some(guard) = self.client.guard() {
            guard.start().await?;
        }
        let give_up = self.now() + CATALOG_LAG;
        loop {
            let args = Args::new().arg(definition.clone());
            match self.homes[registration.home].call(&session::CREATE, &args).await {
                Ok(answer) => {
                    let id = answer.value.as_str().unwrap_or_default().to_owned();
                    let entrusted =
                        self.entrust(Deed::EndSession, &session::DESTROY, &destroy_args(&id))?;
                    let presence = Arc::clone(self);
                    return Ok(Session { id, presence, entrusted, is_wanted: true });
                }
                Err(error) if is_unknown_check(&error) && self.now() < give_up => {
                    self.client.clock().sleep(CATALOG_POLL).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn stay(&self) -> Infallible {
        let mut home = 0;
        let mut generation = 0;
        loop {
            match self.register(home).await {
                Ok(()) => {
                    generation += 1;
                    self.refusal.send_replace(None);
                    let registration = Registration { generation, home };
                    self.registration.send_replace(Some(registration));
                    self.entrust_deregistration();
                    self.beat_while_it_answers(home).await;
                    tracing::warn!(
                        service = self.service.id,
                        "the agent does not answer; registering with the next one"
                    );
                }
                Err(error) => {
                    let is_known = self.refusal.borrow().as_ref().is_some_and(|refusal| {
                        (refusal.kind(), refusal.endpoint()) == (error.kind(), error.endpoint())
                    });
                    if !is_known {
                        tracing::warn!(service = self.service.id, %error, "not registered");
                    }
                    self.refusal.send_replace(Some(error));
                    self.client.clock().sleep(self.profile.beat).await;
                }
            }
            home = (home + 1) % self.homes.len();
        }
    }

    fn entrust_deregistration(&self) {
        let args = self.deregister_args();
        let entrusted = self.entrust(Deed::Deregister, &agent::SERVICE_DEREGISTER, &args);
        *lock(&self.deregistration) = entrusted.ok().flatten();
    }

    async fn register(&self, home: usize) -> Result<(), Error> {
        let check = map(vec![
            ("CheckID", self.check_id().into()),
            ("TTL", duration::format(self.profile.check_ttl).into()),
            ("Status", "passing".into()),
            ("DeregisterCriticalServiceAfter", FORGOTTEN_AFTER.into()),
        ]);
        let mut definition = vec![
            ("Name".to_owned(), self.service.name.as_str().into()),
            ("ID".to_owned(), self.service.id.as_str().into()),
            ("Check".to_owned(), check),
        ];
        definition.extend(self.service.members.iter().cloned());
        let args = Args::new()
            .arg(Value::Map(definition))
            .opt("timeout_ms", self.profile.check_ttl.as_millis() as u64);
        self.homes[home].call(&agent::SERVICE_REGISTER, &args).await.map(|_| ())
    }

    /// Beats until the agent has not answered for as long as the check lives, if there is another
    /// agent to go to.
    async fn beat_while_it_answers(&self, home: usize) {
        let mut answered = self.now();
        loop {
            let begun = self.now();
            let mut is_forgotten = self.is_doubted.swap(false, Ordering::Relaxed);
            match self.beat(home).await {
                Ok(()) => answered = begun,
                // The agent forgot the service, or gave it up after a long silence.
                Err(error) if error.kind() == Kind::NotFound => is_forgotten = true,
                Err(error) => tracing::info!(service = self.service.id, %error, "a beat failed"),
            }
            if is_forgotten && let Err(error) = self.register(home).await {
                tracing::warn!(service = self.service.id, %error, "not registered again");
            }
            if self.homes.len() > 1 && self.now() - answered >= self.profile.check_ttl {
                return;
            }
            self.client.clock().sleep_until(begun + self.profile.beat).await;
        }
    }

    async fn beat(&self, home: usize) -> Result<(), Error> {
        let args = Args::new()
            .arg(self.check_id())
            .opt("timeout_ms", self.profile.beat.as_millis() as u64)
            .opt("retry", false);
        let warning = lock(&self.warning).clone();
        let (endpoint, args) = match warning {
            Some(why) => (&agent::CHECK_WARN, args.opt("note", why)),
            None => (&agent::CHECK_PASS, args),
        };
        self.homes[home].call(endpoint, &args).await.map(|_| ())
    }

    /// Has the check warn of something from the next beat on, or of nothing any more. The process
    /// lives either way.
    pub fn warn(&self, why: Option<String>) {
        *lock(&self.warning) = why;
    }

    /// Has the service registered again with the next beat: beats are answered, but what others see
    /// is not this service.
    pub fn doubt(&self) {
        self.is_doubted.store(true, Ordering::Relaxed);
    }

    /// Replaces a guard that is gone.
    async fn keep_guard(&self) -> Infallible {
        let Some(guard) = self.client.guard() else { return std::future::pending().await };
        loop {
            self.client.clock().sleep(self.profile.beat).await;
            guard.keep().await;
        }
    }

    /// Ends the sessions that were dropped.
    async fn sweep(&self) -> Infallible {
        loop {
            self.orphaned.notified().await;
            loop {
                let Some((id, _entrusted)) = lock(&self.orphans).pop() else { break };
                if let Err(error) = self.destroy(&id).await {
                    tracing::info!(%error, "a session is left to its TTL");
                }
            }
        }
    }

    async fn destroy(&self, session: &str) -> Result<(), Error> {
        self.client.call(&session::DESTROY, &destroy_args(session)).await.map(|_| ())
    }

    fn check_id(&self) -> String {
        format!("service:{}", self.service.id)
    }

    fn now(&self) -> Instant {
        self.client.clock().now()
    }
}

/// A session of this process. Dropping it lets [`Presence::run`] end it.
#[derive(Debug)]
pub struct Session {
    id: String,
    presence: Arc<Presence>,
    /// That the guard ends it.
    entrusted: Option<Entrusted>,
    is_wanted: bool,
}

impl Session {
    /// The session's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Ends it, and waits for that.
    ///
    /// # Errors
    /// Those of the call; then it is tried again in the background, and ends with its TTL at last.
    pub async fn end(mut self) -> Result<(), Error> {
        let ended = self.presence.destroy(&self.id).await;
        self.is_wanted = ended.is_err();
        ended
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.is_wanted {
            let orphan = (std::mem::take(&mut self.id), self.entrusted.take());
            lock(&self.presence.orphans).push(orphan);
            self.presence.orphaned.notify_one();
        }
    }
}

/// That this process holds something, or waits for it.
#[derive(Debug)]
pub(super) struct Entered {
    presence: Arc<Presence>,
    name: String,
}

impl Drop for Entered {
    fn drop(&mut self) {
        lock(&self.presence.entered).remove(&self.name);
    }
}

/// The rules that make locks and clusters safe. All are in force, but for simulations that show what happens
/// without one.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// A proof counts from the moment it was asked for, not from that of its answer.
    pub lease_from_start: bool,
    /// That a session could be renewed proves nothing.
    pub renewal_is_no_proof: bool,
    /// The token is the acquiring write's modify index, not the lock index.
    pub token_is_modify_index: bool,
    /// A node of a cluster takes no map of an older epoch than it has.
    pub epoch_only_grows: bool,
}

impl Rules {
    /// All of them.
    pub const ALL: Rules = Rules {
        lease_from_start: true,
        renewal_is_no_proof: true,
        token_is_modify_index: true,
        epoch_only_grows: true,
    };

    pub(super) fn counts_from(&self, begun: Instant, answered: Instant) -> Instant {
        if self.lease_from_start { begun } else { answered }
    }

    pub(crate) fn is_outdated(&self, epoch: u64, known: u64) -> bool {
        self.epoch_only_grows && epoch < known
    }

    pub(super) fn token_of(&self, entry: &EntryMeta) -> u64 {
        if self.token_is_modify_index { entry.modify_index } else { entry.lock_index }
    }

    pub(super) fn token_member(&self) -> &'static str {
        if self.token_is_modify_index { "ModifyIndex" } else { "LockIndex" }
    }
}

fn destroy_args(session: &str) -> Args {
    Args::new().arg(session)
}

fn is_unknown_check(error: &Error) -> bool {
    error.kind() == Kind::Http && error.message().contains("Missing check")
}
