//! A process as Consul sees it: a service with a TTL check that the process keeps passing, and the
//! sessions that end with that check.
//!
//! A beat is answered by the local agent alone and costs no Raft write. It shows that this process
//! lives; it does not prove that a lock is held.

use super::ending::{EndTurns, Ending, Holding};
use super::guard::{Deferred, ReleaseStep};
use super::making::Wanted;
use super::profile::Profile;
use super::proofs::Proofs;
use super::waits::Waits;
use super::{linearizable, map};
use crate::Client;
use consul_api::api::{acl, agent as agent_api, session, status};
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::response::{Answer, EntryMeta};
use consul_api::table::Endpoint;
use consul_api::value::{Value, duration};
use consul_process::clock::{BoxFuture, Instant};
use consul_process::os;
use consul_process::sync::lock;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};

/// How long Consul keeps the service of a dead process. One minute is the shortest time that Consul
/// accepts.
///
/// Source: `DeregisterCriticalServiceAfter` in "Register Check" of Consul's HTTP API reference.
const DEREGISTER_AFTER: &str = "1m";

/// How long it is remembered when the key of a lock was found to be changed by another client.
const FORGET_CHANGED_AFTER: Duration = Duration::from_secs(600);

/// How often the token of the requests is compared with that of the registration.
const TOKEN_INTERVAL: Duration = Duration::from_secs(1);

/// How many requests of contenders are on their way at a time, so that beats and proofs have connections.
const MAX_IN_TURN: usize = 24;

/// How many of those are on their way whose last request had no answer in time: what keeps silent for one key holds up
/// no other.
const MAX_UNANSWERED: usize = 16;

/// How many renewals of held locks are on their way at a time.
const MAX_RENEWALS: usize = 24;

/// The service that represents a process.
#[derive(Clone, Debug)]
pub struct Service {
    /// The service's name.
    pub name: String,
    /// The instance's id.
    pub id: String,
    /// Further members of the registration: `Address`, `Port`, `Tags`, `Meta`.
    pub members: Vec<(String, Value)>,
}

/// The way in which Consul treats the keys of a session that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behavior {
    /// It keeps them, unlocked.
    Release,
    /// It deletes them.
    Delete,
}

impl Behavior {
    pub(super) fn name(self) -> &'static str {
        match self {
            Behavior::Release => "release",
            Behavior::Delete => "delete",
        }
    }
}

impl Service {
    /// A service for a process that registers none itself: `consul_ffi` with a random id.
    pub fn for_process(client: &Client) -> Self {
        let id = format!("consul_ffi-{:016x}", client.random_u64());
        Service { name: "consul_ffi".to_owned(), id, members: Vec::new() }
    }
}

/// One registration of a process with one agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Grows with every move to another agent. Sessions of an earlier generation are not used any
    /// more.
    pub generation: u64,
    /// The index of the agent's endpoint.
    pub(super) agent: usize,
}

/// The presence of this process, which lasts as long as [`Presence::run`] runs.
#[derive(Debug)]
pub struct Presence {
    client: Arc<Client>,
    blocking_client: Arc<Client>,
    /// A client for each endpoint: service, beats and new sessions stay with one agent.
    pub(super) agents: Vec<Client>,
    profile: Profile,
    service: Service,
    registration: watch::Sender<Option<Registration>>,
    deregistration: Mutex<Option<Deferred>>,
    /// The error of the last attempt to register, if it failed.
    registration_error: watch::Sender<Option<Error>>,
    /// The sessions that are given up and have to be ended.
    pub(super) given_up: watch::Sender<Vec<Arc<Ending>>>,
    /// How many were given up.
    endings: AtomicU64,
    /// The output of the check, which then has the status `warning`.
    warning: Mutex<Option<String>>,
    /// The sessions that contenders want.
    pub(super) wanted: Wanted,
    /// When the last beat began that an agent has answered, be it with a refusal.
    answered: Mutex<Option<Instant>>,
    /// How often the service had to be registered again although the agent has it.
    registered_again: AtomicU64,
    register_again: Notify,
    /// The locks and semaphores that this process holds or waits for.
    in_use: Mutex<HashSet<String>>,
    /// The locks and semaphores whose keys other clients have changed: their modify index, and when it was first seen.
    changed: Mutex<HashMap<String, (u64, Instant)>>,
    /// Its leases.
    pub(super) proofs: Proofs,
    /// Its waiters.
    pub(super) waits: Waits,
    /// The turns of contenders' requests, and of those whose last one had no answer. Each is for one request.
    turns: Semaphore,
    unanswered_turns: Semaphore,
    /// How long Consul takes to answer a contender lately, at most.
    slowest: Mutex<Duration>,
    /// The turns of renewals of held locks, which wait for no contender.
    renewal_turns: Semaphore,
    /// The turns of the ends of sessions.
    pub(super) end_turns: EndTurns,
    rules: Rules,
}

impl Presence {
    /// A presence that begins when [`Presence::run`] does. `blocking_client` makes the blocking
    /// queries; it has connections of its own, so that a beat never waits for one.
    pub fn new(
        client: Arc<Client>,
        blocking_client: Arc<Client>,
        profile: Profile,
        service: Service,
    ) -> Arc<Self> {
        let waits = Waits::new(blocking_client.max_in_flight());
        Arc::new(Self {
            agents: client.each_endpoint(),
            client,
            blocking_client,
            profile,
            service,
            registration: watch::Sender::new(None),
            deregistration: Mutex::default(),
            registration_error: watch::Sender::new(None),
            given_up: watch::Sender::default(),
            endings: AtomicU64::new(0),
            warning: Mutex::default(),
            wanted: Wanted::default(),
            answered: Mutex::default(),
            registered_again: AtomicU64::new(0),
            register_again: Notify::new(),
            in_use: Mutex::default(),
            changed: Mutex::default(),
            proofs: Proofs::default(),
            waits,
            turns: Semaphore::new(MAX_IN_TURN),
            unanswered_turns: Semaphore::new(MAX_UNANSWERED),
            slowest: Mutex::default(),
            renewal_turns: Semaphore::new(MAX_RENEWALS),
            end_turns: EndTurns::default(),
            rules: Rules::default(),
        })
    }

    /// The same presence without a rule that makes locks safe.
    #[cfg(feature = "sabotage")]
    pub fn with_rules(self: Arc<Self>, rules: Rules) -> Arc<Self> {
        let mut presence = Arc::into_inner(self).expect("a presence that is not in use");
        presence.rules = rules;
        Arc::new(presence)
    }

    /// The beginning of a lease whose proof was requested and answered then.
    pub(super) fn lease_start(&self, begun: Instant, answered: Instant) -> Instant {
        if self.rules.has(Rule::LeaseFromStart) { begun } else { answered }
    }

    pub(super) fn renewal_is_no_proof(&self) -> bool {
        self.rules.has(Rule::RenewalIsNoProof)
    }

    /// The member of an entry that is the fencing token.
    pub(super) fn token_member(&self) -> &'static str {
        if self.token_is_modify_index() { "ModifyIndex" } else { "LockIndex" }
    }

    pub(super) fn token_of(&self, entry: &EntryMeta) -> u64 {
        if self.token_is_modify_index() { entry.modify_index } else { entry.lock_index }
    }

    pub(super) fn token_is_modify_index(&self) -> bool {
        self.rules.has(Rule::TokenIsModifyIndex)
    }

    pub(super) fn removal_needs_lock(&self) -> bool {
        self.rules.has(Rule::RemovalNeedsLock)
    }

    /// Whether the epoch of a map is older than the known one.
    pub fn is_outdated(&self, epoch: u64, known: u64) -> bool {
        self.rules.has(Rule::EpochOnlyGrows) && epoch < known
    }

    /// Marks a lock or semaphore that this process holds or waits for.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when it is marked already.
    pub(super) fn mark_in_use(self: &Arc<Self>, kind: &str, key: &str) -> Result<InUse, Error> {
        let name = format!("{kind} {key:?}");
        if !lock(&self.in_use).insert(name.clone()) {
            let message = format!("{name}: this client holds it or waits for it already");
            return Err(Error::new(Kind::Conflict, message).not_sent());
        }
        Ok(InUse { presence: Arc::clone(self), name })
    }

    /// Whether the key of a lock or semaphore, which another client has changed, has had this index for so long that nobody
    /// can hold it. Short attempts have this in common.
    pub(super) fn has_stayed(&self, name: &str, index: u64) -> bool {
        let (now, mut changed) = (self.now(), lock(&self.changed));
        match changed.get(name) {
            Some((seen, since)) if *seen == index => now - *since >= self.profile.settled_after(),
            _ => {
                changed.retain(|_, (_, since)| now - *since < FORGET_CHANGED_AFTER);
                changed.insert(name.to_owned(), (index, now));
                false
            }
        }
    }

    /// It is what it should be.
    pub(super) fn forget_changed(&self, name: &str) {
        lock(&self.changed).remove(name);
    }

    /// Makes a linearizable read, also by a transaction that only reads, with the time limit of a proof.
    pub(super) async fn read_proof(
        &self,
        endpoint: &'static Endpoint,
        args: Args,
    ) -> Result<Answer, Error> {
        let timeout_ms = self.profile.proof_timeout().as_millis() as u64;
        let args = args.opt("timeout_ms", timeout_ms);
        self.client.call_past_caches(endpoint, args).await.and_then(linearizable)
    }

    /// Waits for the turn of a contender's request.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    /// Makes a call for a contender in a turn; after an unknown outcome, as one whose answer was lost, it is made again in
    /// another turn. `begins` is called when the first turn has come.
    ///
    /// # Errors
    /// As [`Client::call`]; of the second call they say too that it may have been applied.
    pub(super) async fn call_in_turns(
        &self,
        client: &Client,
        (endpoint, args): (&'static Endpoint, Args),
        begins: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Answer, Error> {
        self.in_turns(args, begins, Error::maybe_applied, |args| {
            Box::pin(async move { client.call(endpoint, &args).await })
        })
        .await
    }

    /// The same with any request, which is made again after an error that `is_lost` tells.
    ///
    /// # Errors
    /// Errors of `begins` and of the requests.
    pub(super) async fn in_turns<'r>(
        &self,
        args: Args,
        begins: impl FnOnce() -> Result<(), Error>,
        is_lost: fn(&Error) -> bool,
        request: impl Fn(Args) -> BoxFuture<'r, Result<Answer, Error>>,
    ) -> Result<Answer, Error> {
        let turn = self.turn().await;
        begins()?;
        let first = args.clone().opt("timeout_ms", self.patience().as_millis() as u64);
        let lost = match self.timed(request(first)).await {
            Err(error) if is_lost(&error) => error,
            answered => return answered,
        };
        drop(turn);
        let _turn = self.unanswered_turns.acquire().await;
        // A silence may last for seconds, but a slow server has to be able to answer.
        let limit = self.patience() * 2;
        let limit = limit.max(self.profile.check_ttl).min(self.client.settings().timeout);
        let again = self.timed(request(args.opt("timeout_ms", limit.as_millis() as u64))).await;
        if again.as_ref().is_err_and(|error| error.kind() == Kind::Timeout) {
            let mut slowest = lock(&self.slowest);
            *slowest = limit.max(*slowest);
        }
        again.map_err(|error| match lost.maybe_applied() {
            true => error.with_maybe_applied(true),
            false => error,
        })
    }

    /// Notes how long the answer to a contender takes: a slow server is not a silent one.
    async fn timed<R>(&self, call: impl Future<Output = Result<R, Error>>) -> Result<R, Error> {
        let begun = self.now();
        let answered = call.await;
        if answered.is_ok() {
            let mut slowest = lock(&self.slowest);
            *slowest = (*slowest * 7 / 8).max(self.now() - begun);
        }
        answered
    }

    /// Renews the session of a held lock, for which it waits for no contender. Returns the time until the next renewal,
    /// by the TTL of the reply: a server under load can ask for fewer renewals by a longer one.
    ///
    /// Source: "Renew Session" in Consul's HTTP API reference.
    pub(super) async fn renew_held(&self, session: &str) -> Result<Duration, Error> {
        let _turn = self.renewal_turns.acquire().await;
        self.renew(session).await
    }

    /// Renews the session of a contender, with the same result.
    pub(super) async fn renew_waiting(&self, session: &str) -> Result<Duration, Error> {
        let _turn = self.turn().await;
        self.renew(session).await
    }

    async fn renew(&self, session: &str) -> Result<Duration, Error> {
        let args =
            Args::new().arg(session).opt("timeout_ms", self.end_timeout().as_millis() as u64);
        let renewed = self.client.call(&session::RENEW, &args).await?.value;
        let ttl = renewed.get("TTL").and_then(Value::as_str).and_then(duration::parse);
        Ok(self.profile.renew_interval_after(ttl))
    }

    /// The client that it was made with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn blocking_client(&self) -> &Client {
        &self.blocking_client
    }

    /// The times of its beats, sessions and leases.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Registers the service, keeps its check passing, makes the sessions that contenders want and proves its leases,
    /// forever. When its agent has not answered for as long as the TTL of the check, the process registers with the
    /// agent of the next endpoint.
    pub async fn run(self: &Arc<Self>) -> Infallible {
        tokio::select! {
            biased;
            never = self.stay_registered() => never,
            never = self.end_given_up() => never,
            never = self.make_sessions() => never,
            never = self.prove_leases() => never,
            never = self.watch_for_waiters() => never,
            never = self.replace_dead_guard() => never,
            never = self.follow_token() => never,
        }
    }

    /// Waits for a registration.
    ///
    /// # Errors
    /// An error that is not transient, such as a missing permission; the reason when Consul has refused each beat for
    /// the TTL of the check.
    pub async fn registered(&self) -> Result<Registration, Error> {
        let mut registration = self.registration.subscribe();
        // The sender lives as long as `self`.
        let registered = async {
            match registration.wait_for(Option::is_some).await.map(|found| *found) {
                Ok(Some(registration)) => Ok(registration),
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            error = self.refused() => Err(error),
            registered = registered => registered,
        }
    }

    /// Completes while the registration fails with an error that is not transient, such as a missing permission, or Consul
    /// has refused each beat for the TTL of the check.
    pub(super) async fn refused(&self) -> Error {
        let mut error = self.registration_error.subscribe();
        let is_final =
            |error: &Option<Error>| error.as_ref().is_some_and(|error| !error.is_transient());
        // The sender lives as long as `self`.
        match error.wait_for(is_final).await.map(|found| found.clone()) {
            Ok(Some(error)) => error,
            _ => std::future::pending().await,
        }
    }

    /// The last registration.
    pub(super) fn registration(&self) -> Option<Registration> {
        *self.registration.borrow()
    }

    /// The error of the last attempt to register, if it failed.
    pub fn registration_error(&self) -> Option<Error> {
        self.registration_error.borrow().clone()
    }

    /// Completes when the process has registered again since `registration`.
    pub async fn moved_from(&self, registration: Registration) {
        let mut watch = self.registration.subscribe();
        let moved = |now: &Option<Registration>| {
            now.is_some_and(|now| now.generation != registration.generation)
        };
        if watch.wait_for(moved).await.is_err() {
            std::future::pending().await
        }
    }

    /// Ends the sessions that are given up and deregisters the service, for a graceful stop, when
    /// [`Presence::run`] does not run any more. Sessions that are left end with the check of the service, which
    /// has no beats any more.
    ///
    /// # Errors
    /// Errors of the call.
    pub async fn deregister(&self) -> Result<(), Error> {
        let mut given_up = self.given_up.subscribe();
        let timeout = self.client.settings().timeout;
        let end = self.now() + timeout;
        tokio::select! {
            biased;
            _ = given_up.wait_for(Vec::is_empty) => {}
            never = self.end_given_up() => match never {},
            () = self.client.clock().sleep(self.profile.check_ttl.min(timeout * 3 / 4)) => {}
        }
        let registration = *self.registration.borrow();
        let Some(Registration { agent, .. }) = registration else { return Ok(()) };
        self.registration.send_replace(None);
        let left = (end - self.now()).as_millis() as u64;
        let args = self.deregister_args().opt("timeout_ms", left.max(1));
        let outcome = self.agents[agent].call(&agent_api::SERVICE_DEREGISTER, &args).await;
        lock(&self.deregistration).take();
        outcome.map(|_| ())
    }

    /// Closes the connections of a presence that has ended, once they carry no request.
    pub fn close_connections(&self) {
        // The connections to the single agents are the client's.
        self.client.close_connections();
        self.blocking_client.close_connections();
    }

    fn deregister_args(&self) -> Args {
        Args::new().arg(self.service.id.as_str())
    }

    /// Defers a call to the guard process, if there is one, until the result is dropped.
    pub(super) fn defer(
        &self,
        step: ReleaseStep,
        endpoint: &'static Endpoint,
        args: &Args,
    ) -> Result<Option<Deferred>, Error> {
        let Some(guard) = self.client.guard() else { return Ok(None) };
        let request = self.client.request(endpoint, args)?;
        let agent = self.registration.borrow().map_or(0, |registration| registration.agent);
        Ok(Some(Deferred::new(guard, step, agent, &request.http)))
    }

    async fn stay_registered(&self) -> Infallible {
        let (mut agent, mut generation, mut said) = (0, 0, HashSet::new());
        let (mut unknown_since, mut refusals) = (None, 0);
        loop {
            match self.register(agent).await {
                Ok(()) => {
                    generation += 1;
                    said.clear();
                    (unknown_since, refusals) = (None, 0);
                    self.registration_error.send_replace(None);
                    let registration = Registration { generation, agent };
                    self.registration.send_replace(Some(registration));
                    self.defer_deregistration();
                    tokio::select! {
                        biased;
                        () = self.beat_while_answered(agent) => {}
                        () = self.served_by_another_alone(agent) => {}
                    }
                    tracing::warn!(
                        service = self.service.id,
                        "the agent does not answer, refuses the token, or reaches no server; registering with the next one"
                    );
                }
                Err(error) => {
                    if said.insert((error.kind(), agent)) {
                        tracing::warn!(service = self.service.id, %error, "not registered");
                    }
                    // A server that lags behind learns a moment later of a token that was just made.
                    let is_young = error.kind() == Kind::AclNotFound && {
                        let since = *unknown_since.get_or_insert(self.now());
                        self.now() - since < self.profile.check_ttl
                    };
                    // An agent may have an old answer about a token: the others are asked, too.
                    let is_refusal = is_refused_by_acls(&error);
                    refusals = if is_refusal { refusals + 1 } else { 0 };
                    let has_others = is_refusal && refusals < self.agents.len();
                    let error = if is_young || has_others { error.retryable() } else { error };
                    self.registration_error.send_replace(Some(error));
                    if !has_others {
                        self.client.clock().sleep(self.profile.beat).await;
                    }
                }
            }
            agent = (agent + 1) % self.agents.len();
        }
    }

    fn defer_deregistration(&self) {
        let args = self.deregister_args();
        let deferred = self.defer(ReleaseStep::Deregister, &agent_api::SERVICE_DEREGISTER, &args);
        *lock(&self.deregistration) = deferred.ok().flatten();
    }

    async fn register(&self, agent: usize) -> Result<(), Error> {
        let mut check = vec![
            ("CheckID", self.check_id().into()),
            ("TTL", duration::format(self.profile.check_ttl).into()),
            ("Status", "passing".into()),
            ("DeregisterCriticalServiceAfter", DEREGISTER_AFTER.into()),
        ];
        let registered_again = self.registered_again.load(Ordering::Relaxed);
        if registered_again > 0 {
            // An agent writes only what differs from its own registration to the catalog.
            check.push(("Notes", format!("registered again, the time {registered_again}").into()));
        }
        let mut definition = vec![
            ("Name".to_owned(), self.service.name.as_str().into()),
            ("ID".to_owned(), self.service.id.as_str().into()),
            ("Check".to_owned(), map(check)),
        ];
        definition.extend(self.service.members.iter().cloned());
        let args = Args::new()
            .arg(Value::Map(definition))
            .opt("timeout_ms", self.profile.check_ttl.as_millis() as u64);
        let registered = self.agents[agent].call(&agent_api::SERVICE_REGISTER, &args).await;
        self.judged(agent, registered.map(|_| ())).await
    }

    /// The outcome of a request to an agent. An agent that cannot ask the servers about a token refuses it, for a right that
    /// the token may have: such a refusal is transient.
    ///
    /// Source: measured on client agents of Consul 1.8.7 and 1.21.0 without a server.
    async fn judged(&self, agent: usize, outcome: Result<(), Error>) -> Result<(), Error> {
        let Err(error) = outcome else { return Ok(()) };
        if !is_refused_by_acls(&error) {
            return Err(error);
        }
        let args = Args::new().opt("timeout_ms", self.profile.beat.as_millis() as u64);
        Err(match self.agents[agent].call(&acl::TOKEN_SELF, &args).await {
            Err(why) if why.is_transient() => {
                let note = "its agent cannot ask Consul's servers about the token, and refuses it until then";
                error.retryable().with_note(note)
            }
            _ => error,
        })
    }

    /// Whether an agent reaches a server, without which it answers beats and makes no session.
    async fn reaches_servers(&self, agent: usize) -> bool {
        let args = Args::new().opt("timeout_ms", self.profile.beat.as_millis() as u64);
        self.agents[agent].call(&status::LEADER, &args).await.is_ok()
    }

    /// Completes when the agent has reached no server for the TTL of the check and another one does: a move ends the locks, and
    /// helps nobody while all servers are away. Beside the beats, which wait for none of these answers.
    async fn served_by_another_alone(&self, agent: usize) {
        if self.agents.len() == 1 {
            return std::future::pending().await;
        }
        let mut reached = self.now();
        loop {
            if self.reaches_servers(agent).await {
                reached = self.now();
            } else if self.now() - reached >= self.profile.check_ttl
                && self.is_served_by_another(agent).await
            {
                return;
            }
            self.client.clock().sleep(self.profile.check_ttl / 2).await;
        }
    }

    async fn is_served_by_another(&self, agent: usize) -> bool {
        for other in (0..self.agents.len()).filter(|it| *it != agent) {
            if self.reaches_servers(other).await {
                // The servers may have come back since this one was asked.
                return !self.reaches_servers(agent).await;
            }
        }
        false
    }

    /// Beats until the agent has not answered for the TTL of the check, or forever when it is the
    /// only agent.
    async fn beat_while_answered(&self, agent: usize) {
        let mut answered = self.now();
        let mut must_register = false;
        let mut failing = Failing::default();
        let (mut registered_at, mut is_named) = (Some(answered), false);
        loop {
            let begun = self.now();
            let beat = self.beat(agent).await;
            if beat.is_ok() {
                answered = begun;
            }
            if beat.as_ref().err().is_none_or(|error| error.status().is_some()) {
                *lock(&self.answered) = Some(begun);
            }
            // The agent forgot the service, or deregistered it because it was critical for too long.
            let is_forgotten = beat.as_ref().is_err_and(|error| error.kind() == Kind::NotFound);
            must_register |= is_forgotten;
            let has_just = |at: Instant| begun - at < self.profile.check_ttl;
            if is_forgotten && registered_at.is_some_and(has_just) && !is_named {
                // An agent that restarts does not answer meanwhile.
                tracing::warn!(
                    service = self.service.id,
                    endpoint = self.agents[agent].transports[0].endpoint(),
                    "several agents seem to answer at this endpoint: locks and nodes that go through it are lost again \
                     and again; give each process the address of one agent"
                );
                is_named = true;
            }
            if beat.is_err() {
                registered_at = None;
            }
            let failed = match must_register {
                true => {
                    let failed = self.register(agent).await.err();
                    registered_at = failed.is_none().then(|| self.now());
                    failed
                }
                false => beat.err(),
            };
            // The only agent is asked on. Another one may know the token.
            let is_only = self.agents.len() == 1;
            if failed.as_ref().is_none_or(|it| is_only && is_refused_by_acls(it)) {
                answered = begun;
            }
            self.note_beat(&mut failing, failed.as_ref(), must_register);
            must_register &= failed.is_some();
            if !is_only && self.now() - answered >= self.profile.check_ttl {
                return;
            }
            tokio::select! {
                biased;
                () = self.register_again.notified() => must_register = true,
                () = self.client.clock().sleep_until(begun + self.profile.beat) => {}
            }
        }
    }

    /// Says once for each reason that beats or the registration fail, and has waits without a session end when that is
    /// refused for the TTL of the check.
    fn note_beat(&self, failing: &mut Failing, failed: Option<&Error>, is_registration: bool) {
        let Some(error) = failed else {
            *failing = Failing::default();
            self.registration_error.send_if_modified(|error| error.take().is_some());
            return;
        };
        let service = self.service.id.as_str();
        let is_final = is_refused_by_acls(error);
        let is_new = failing.said.insert((error.kind(), is_registration));
        match is_registration {
            true if is_new => tracing::warn!(service, %error, "not registered again"),
            false if is_new && is_final => tracing::warn!(
                service,
                %error,
                "Consul learns of the death of this process by the TTL of its sessions alone: a beat is refused"
            ),
            false if !is_final => tracing::info!(service, %error, "a beat failed"),
            _ => tracing::debug!(service, %error, "still no beat"),
        }
        if !is_final {
            failing.refused_since = None;
            return;
        }
        let since = *failing.refused_since.get_or_insert(self.now());
        if self.now() - since >= self.profile.check_ttl {
            self.registration_error.send_if_modified(|known| {
                let is_new = known.is_none();
                known.get_or_insert_with(|| error.clone());
                is_new
            });
        }
    }

    async fn beat(&self, agent: usize) -> Result<(), Error> {
        let args = Args::new()
            .arg(self.check_id())
            .opt("timeout_ms", self.profile.beat.as_millis() as u64);
        // A process that accepts no connections cannot tell anybody else.
        let warning = lock(&self.warning).clone().or_else(|| os::lacking().map(str::to_owned));
        let (endpoint, args) = match warning {
            Some(why) => (&agent_api::CHECK_WARN, args.opt("note", why)),
            None => (&agent_api::CHECK_PASS, args),
        };
        let answered = self.agents[agent].call(endpoint, &args).await;
        self.judged(agent, answered.map(|_| ())).await
    }

    /// Whether beats have been answered, and none since the TTL of the check: Consul takes this process for dead.
    pub fn is_unanswered(&self) -> bool {
        let answered = *lock(&self.answered);
        answered.is_some_and(|at| self.now() - at > self.profile.check_ttl)
    }

    /// Makes the check warn from the next beat on, or pass again with `None`. The process lives
    /// either way.
    pub fn set_warning(&self, why: Option<String>) {
        *lock(&self.warning) = why;
    }

    /// Registers the service again at once, in a way that makes the agent write it to the catalog, for a
    /// process that sees that its entry there is missing or wrong although its beats are answered: the
    /// servers were restored from a snapshot. By itself the agent compares its services with the
    /// catalog every one to two minutes.
    pub fn register_again(&self) {
        self.registered_again.fetch_add(1, Ordering::Relaxed);
        self.register_again.notify_one();
    }

    /// Registers the service again whenever the token file has another token: the agent reports the check with
    /// the token of the registration, so once that is deleted, Consul would not learn of this process's death.
    ///
    /// Source: measured on Consul 1.8.7 and 1.21.0, whose log then has "Check registration blocked by ACLs".
    async fn follow_token(&self) -> Infallible {
        let Some(mut registered) = self.client.token_changes() else {
            return std::future::pending().await;
        };
        loop {
            self.client.clock().sleep(TOKEN_INTERVAL).await;
            let now = self.client.token_changes().unwrap_or(registered);
            if std::mem::replace(&mut registered, now) != now {
                tracing::info!(service = self.service.id, "registering again with the new token");
                self.register_again();
            }
        }
    }

    async fn replace_dead_guard(&self) -> Infallible {
        let Some(guard) = self.client.guard() else { return std::future::pending().await };
        loop {
            self.client.clock().sleep(self.profile.beat).await;
            guard.replace_dead().await;
        }
    }

    pub(super) async fn destroy(&self, session: &str) -> Result<(), Error> {
        let timeout_ms = self.end_timeout().as_millis() as u64;
        let args = destroy_args(session).opt("timeout_ms", timeout_ms);
        self.client.call(&session::DESTROY, &args).await.map(|_| ())
    }

    /// The time limit of a request that frees a key or ends a session. It is made again.
    pub(super) fn end_timeout(&self) -> Duration {
        self.profile.patience()
    }

    /// The time limit of a contender's request before it is made again: longer than Consul takes lately.
    fn patience(&self) -> Duration {
        let slow = *lock(&self.slowest) * 2;
        slow.max(self.profile.check_ttl / 4).min(self.client.settings().timeout)
    }

    pub(super) fn check_id(&self) -> String {
        format!("service:{}", self.service.id)
    }

    pub(super) fn now(&self) -> Instant {
        self.client.clock().now()
    }
}

/// Why beats fail, until one succeeds.
#[derive(Default)]
struct Failing {
    /// The reasons that the log has.
    said: HashSet<(Kind, bool)>,
    /// Since when each fails for good.
    refused_since: Option<Instant>,
}

/// A session of this process, which is given up when it is dropped.
#[derive(Debug)]
pub struct Session {
    pub(super) id: String,
    pub(super) presence: Arc<Presence>,
    pub(super) deferred: Option<Deferred>,
    /// Its possible hold under which no holder acts.
    pub(super) held: Option<Holding>,
}

impl Session {
    /// The session's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Has [`Presence::run`] free what it may hold and end it.
    pub(super) fn give_up(mut self) -> Arc<Ending> {
        self.hand_over()
    }

    fn hand_over(&mut self) -> Arc<Ending> {
        let number = self.presence.endings.fetch_add(1, Ordering::Relaxed);
        let id = std::mem::take(&mut self.id);
        let begun = self.presence.now();
        let ending = Ending::new(number, id, begun, self.held.take(), self.deferred.take());
        self.presence.given_up.send_modify(|all| all.push(Arc::clone(&ending)));
        ending
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.id.is_empty() {
            self.hand_over();
        }
    }
}

/// The mark of a lock or semaphore that this process holds or waits for, until it is dropped.
#[derive(Debug)]
pub(super) struct InUse {
    presence: Arc<Presence>,
    name: String,
}

impl Drop for InUse {
    fn drop(&mut self) {
        lock(&self.presence.in_use).remove(&self.name);
    }
}

/// A rule that makes locks and clusters safe. A simulation leaves one out to show what goes wrong without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A lease starts when its proof is requested, not when the answer arrives.
    LeaseFromStart,
    /// A renewed session does not prove that its lock is held.
    RenewalIsNoProof,
    /// The fencing token is the modify index of the write that acquired the lock, not its lock index.
    TokenIsModifyIndex,
    /// The permit of a holder whose session has ended is given away only if Consul grants a lock of that holder's key.
    RemovalNeedsLock,
    /// A node of a cluster never replaces its shard map by one of a lower epoch.
    EpochOnlyGrows,
}

/// The rules in force.
pub type Rules = consul_process::rules::Rules<Rule>;

pub(super) fn destroy_args(session: &str) -> Args {
    Args::new().arg(session)
}

/// Whether Consul's ACLs refuse the token; a proxy that demands credentials has status 401.
fn is_refused_by_acls(error: &Error) -> bool {
    match error.kind() {
        _ if error.is_retryable() => false,
        Kind::AclNotFound => true,
        Kind::PermissionDenied => error.status() != Some(401),
        _ => false,
    }
}
