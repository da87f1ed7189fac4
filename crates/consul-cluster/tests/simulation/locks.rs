//! Histories of contenders for one lock, which write to a register that checks fencing tokens, or for the
//! permits of one semaphore.

use crate::omitted_rule::OmittedRule;
use crate::profiles;
use crate::world::{Disruption, ENVIRONMENT, Node, Report, World};
use consul_client::coordination::lock::{LOCK_FLAGS, LockOptions, acquire};
use consul_client::coordination::semaphore::{self, SemaphoreOptions};
use consul_client::coordination::{Event, Lease, Presence, Profile, Rules, Service, Wait};
use http::Method;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const KEY: &str = "locks/register";
const PREFIX: &str = "permits";

/// How long disruptions go on. After that a contender must have the lock within the longest `takeover_ms` and
/// the time limit of a waiter's blocking query, whose answer may be lost. A session that only its TTL of 10 to
/// 20 s ended would take longer.
const DISRUPTED_FOR: Duration = Duration::from_secs(40);
const QUERY_LIMIT: Duration = Duration::from_secs(11);
const QUERY_WAIT: Duration = Duration::from_secs(6);

struct Scenario {
    world: Rc<World>,
    /// The number of permits in a history of a semaphore.
    permits: Option<u64>,
    /// The profile of each contender.
    profiles: Vec<Profile>,
    is_mixed: bool,
    is_suspended: bool,
    rules: Rules,
    checks_tokens: bool,
    register: RefCell<Register>,
    leases: RefCell<Vec<Option<Arc<Lease>>>>,
    /// Too many leases may be valid until this time: a third party has deleted the key, which no client
    /// can know.
    excused_until: Cell<Duration>,
    /// When the lock was first held after the end of all disruptions.
    recovered: Cell<Option<Duration>>,
}

#[derive(Default)]
struct Register {
    highest: u64,
    granted: u64,
}

/// The kind of a history.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Whether it is of a semaphore.
    pub of_semaphore: bool,
    /// Whether each contender has a profile of its own.
    pub is_mixed: bool,
    /// Whether profiles have times of their own.
    pub is_custom: bool,
    /// Whether the machines of holders are suspended, and nothing else happens.
    pub is_suspended: bool,
}

/// Plays the history of one seed.
pub fn play(seed: u64, kind: Kind, omitted: Option<OmittedRule>, traced: bool) -> Report {
    let world = World::new(seed, traced);
    world.clocks_stop.set(omitted == Some(OmittedRule::ClockThatStops));
    let permits = kind.of_semaphore.then(|| world.number(1..4));
    let mut profile = if world.chance(0.5) { Profile::standard() } else { Profile::fast() };
    if omitted == Some(OmittedRule::NoLockDelay) {
        profile.lock_delay = Duration::ZERO;
    }
    let rules = omitted.map_or_else(Rules::default, OmittedRule::rules);
    let contenders = world.number(2..11) as usize;
    let custom = || profiles::random(Duration::ZERO, |below| world.number(0..below));
    // Only profiles with the lock delays of the named ones may be mixed where another client overwrites a document.
    let is_mixed = kind.is_mixed && !(kind.is_custom && kind.of_semaphore);
    if kind.is_custom && !is_mixed {
        profile = custom();
    }
    let profiles = (0..contenders).map(|_| match is_mixed {
        true if kind.is_custom => custom(),
        true => (Profile::NAMED[world.number(0..3) as usize].profile)(),
        false => profile.clone(),
    });
    let profiles: Vec<Profile> = profiles.collect();
    let query_limit = profiles.iter().map(|it| it.check_ttl / 2 + QUERY_WAIT).max();
    let query_limit = query_limit.unwrap_or_default().max(QUERY_LIMIT);
    let scenario = Rc::new(Scenario {
        world: Rc::clone(&world),
        permits,
        profiles,
        is_mixed,
        is_suspended: kind.is_suspended,
        rules,
        checks_tokens: omitted != Some(OmittedRule::NoTokenCheck),
        register: RefCell::default(),
        leases: RefCell::new(vec![None; contenders]),
        excused_until: Cell::new(Duration::ZERO),
        recovered: Cell::new(None),
    });
    for node in 0..contenders {
        scenario.start(node);
    }
    for number in 0..world.number(3..12) {
        let scenario = Rc::clone(&scenario);
        let begins = scenario.world.millis(1000..DISRUPTED_FOR.as_millis() as u64 - 6000);
        world.spawn(ENVIRONMENT, async move {
            scenario.world.sleep(begins).await;
            scenario.disrupt(number, contenders).await;
        });
    }
    let observer = Rc::clone(&scenario);
    let takeover = scenario.profiles.iter().map(Profile::takeover).max().unwrap_or_default();
    world.run(DISRUPTED_FOR + takeover + query_limit, move || observer.observe());
    if scenario.recovered.get().is_none() {
        world.violation(|| "the lock was not held again after the disruptions".to_owned());
    }
    world.end()
}

impl Scenario {
    /// Starts a process that acquires and releases the lock repeatedly.
    fn start(self: &Rc<Self>, node: Node) {
        let world = &self.world;
        let (client, seed) = world.client(node);
        let service = Service {
            name: "contender".to_owned(),
            id: format!("contender-{node}-{seed:x}"),
            members: Vec::new(),
        };
        let profile = self.profiles[node].clone();
        let presence = Presence::new(Arc::clone(&client), client, profile, service);
        let presence = presence.with_rules(self.rules);
        let beating = Arc::clone(&presence);
        world.spawn(node, async move { match beating.run().await {} });
        let scenario = Rc::clone(self);
        world.spawn(node, async move { scenario.contend(node, presence).await });
    }

    async fn contend(self: Rc<Self>, node: Node, presence: Arc<Presence>) {
        let world = &self.world;
        loop {
            let wait = match world.number(0..10) {
                0 => Wait::Once,
                1..4 => Wait::For(Duration::from_secs(3)),
                _ => Wait::Forever,
            };
            let acquired = match self.permits {
                None => {
                    acquire(&presence, KEY, &LockOptions { value: None, wait, is_own: false }).await
                }
                Some(limit) => {
                    let options = SemaphoreOptions { limit, value: Vec::new(), wait };
                    semaphore::acquire(&presence, PREFIX, &options).await
                }
            };
            match acquired {
                Ok(lease) => self.use_lock(node, lease).await,
                Err(error) => world.note(|| format!("node {node}: {error}")),
            }
            world.sleep(world.millis(1..400)).await;
        }
    }

    async fn use_lock(self: &Rc<Self>, node: Node, lease: Arc<Lease>) {
        let world = &self.world;
        self.granted(node, &lease);
        let keeper = Arc::clone(&lease);
        let scenario = Rc::clone(self);
        world.spawn(node, async move {
            let end = keeper.keep().await;
            scenario.world.note(|| format!("node {node}: {} has ended: {end:?}", keeper.token()));
            let mut suspended = false;
            while let Some(event) = keeper.poll_event() {
                suspended |= event == Event::Suspended;
            }
            scenario.world.count("suspensions", u64::from(suspended));
            scenario.world.count("losses", u64::from(end.is_some()));
        });
        let until = world.now() + world.millis(500..12_000);
        while world.now() < until && lease.remaining() > Duration::ZERO {
            // A program checks the lease and then writes, which takes time to arrive. If the node is
            // paused in between, the write arrives at any later time.
            if lease.is_held() {
                world.sleep(world.millis(0..20)).await;
                let scenario = Rc::clone(self);
                let flight = self.profiles[node].in_flight.mul_f64(world.fraction() * 0.9);
                let token = lease.token();
                world.spawn(ENVIRONMENT, async move {
                    scenario.world.sleep(flight).await;
                    scenario.write(node, token);
                });
            }
            world.sleep(world.millis(20..200)).await;
        }
        let released = lease.release().await;
        world.note(|| format!("node {node}: releases {}: {released:?}", lease.token()));
        self.leases.borrow_mut()[node] = None;
    }

    fn granted(&self, node: Node, lease: &Arc<Lease>) {
        self.world.note(|| format!("node {node}: has the lock with token {}", lease.token()));
        self.world.count("grants", 1);
        self.leases.borrow_mut()[node] = Some(Arc::clone(lease));
        if self.world.now() >= DISRUPTED_FOR {
            self.recovered.set(self.recovered.get().or(Some(self.world.now())));
        }
        let mut register = self.register.borrow_mut();
        // Contenders can learn of the grants of a semaphore out of order, and of a lock's if a third party's DELETE
        // ended the older one before its holder knew of it.
        let is_ordered = self.permits.is_none() && self.world.now() > self.excused_until.get();
        if is_ordered && lease.is_held() && lease.token() <= register.granted {
            let (token, granted) = (lease.token(), register.granted);
            self.world.violation(|| format!("node {node} was granted {token} after {granted}"));
        }
        register.granted = register.granted.max(lease.token());
    }

    fn write(&self, node: Node, token: u64) {
        let mut register = self.register.borrow_mut();
        if self.permits.is_none() && token < register.highest {
            if self.checks_tokens {
                return self.world.count("refused writes", 1);
            }
            let highest = register.highest;
            self.world.violation(|| format!("node {node} wrote with {token} after {highest}"));
            return;
        }
        register.highest = token;
        self.world.count("writes", 1);
    }

    fn holder(&self) -> Option<(Node, Arc<Lease>)> {
        let leases = self.leases.borrow();
        let held = |lease: &Arc<Lease>| lease.is_held().then(|| Arc::clone(lease));
        leases.iter().enumerate().find_map(|(node, lease)| Some((node, held(lease.as_ref()?)?)))
    }

    /// Checks that at most one lease is valid at any time, or one for each permit.
    fn observe(&self) {
        let leases = self.leases.borrow();
        let holders = || {
            leases.iter().enumerate().filter_map(|(node, lease)| {
                lease.as_ref().filter(|lease| lease.is_held()).map(|lease| (node, lease.token()))
            })
        };
        if self.world.now() >= DISRUPTED_FOR
            && self.recovered.get().is_none()
            && holders().next().is_some()
        {
            self.recovered.set(Some(self.world.now()));
        }
        let limit = self.permits.unwrap_or(1) as usize;
        if self.world.now() > self.excused_until.get() && holders().nth(limit).is_some() {
            let holders: Vec<_> = holders().collect();
            self.world.violation(|| {
                format!("{} leases (node, token) are valid: {holders:?}", holders.len())
            });
        }
    }

    /// Runs one random disruption, which ends before [`DISRUPTED_FOR`] is over.
    async fn disrupt(self: &Rc<Self>, number: u64, contenders: usize) {
        let world = &self.world;
        // The holder or a random contender.
        let node = match self.holder() {
            Some((node, _)) if world.chance(0.5) => node,
            _ => world.number(0..contenders as u64) as usize,
        };
        let mut lasts = world.millis(50..6000);
        let kind = if self.is_suspended { 0 } else { world.number(0..12) };
        let disruption = match kind {
            0 if self.is_suspended => Some(Disruption::Suspend),
            0 if world.chance(0.5) => Some(Disruption::Pause),
            0 => Some(Disruption::PauseAtAnAnswer),
            1 => Some(Disruption::ServersPause),
            2 => Some(Disruption::CutOff),
            4..6 => Some(Disruption::BadNetwork),
            6 => Some(Disruption::NoLeader),
            11.. => Some(Disruption::IsolatedLeader),
            _ => None,
        };
        if disruption == Some(Disruption::ServersPause) {
            lasts = lasts.mul_f64(0.4);
        }
        if let Some(disruption) = disruption {
            world.disrupt(disruption, node);
        }
        let what = match kind {
            2 if self.is_mixed => {
                world.sleep(world.millis(0..500)).await;
                let lease = self.leases.borrow()[node].clone();
                if let Some(lease) = lease {
                    self.destroy_the_session_of(&lease).await;
                }
                format!("{disruption:?}, and its session is destroyed")
            }
            3 => {
                world.kill(node);
                self.leases.borrow_mut()[node] = None;
                "is killed".to_owned()
            }
            7 => {
                self.destroy_the_holders_session().await;
                "the holder's session is destroyed".to_owned()
            }
            8 => {
                world.flap_check(&format!("contender-{node}-")).await;
                "a check flaps".to_owned()
            }
            9 => {
                self.excuse();
                let key = self.permits.map_or(KEY.to_owned(), |_| format!("{PREFIX}/.lock"));
                world.ask(Method::DELETE, &format!("/v1/kv/{key}"), "").await;
                "the key is deleted".to_owned()
            }
            10 if self.permits.is_some() && world.chance(0.5) => {
                let value = ["", "data", "{}"][world.number(0..3) as usize];
                world.ask(Method::PUT, &format!("/v1/kv/{PREFIX}/.lock"), value).await;
                "the document is overwritten".to_owned()
            }
            10 if self.permits.is_some() => {
                self.excuse();
                if let Some((_, lease)) = self.holder() {
                    let path = format!("/v1/kv/{PREFIX}/{}", lease.session());
                    world.ask(Method::DELETE, &path, "").await;
                }
                "the holder's key is deleted".to_owned()
            }
            10 => {
                let path = format!("/v1/kv/{KEY}?flags={LOCK_FLAGS}");
                world.ask(Method::PUT, &path, "written").await;
                "the key is written".to_owned()
            }
            11 => {
                world.sleep(world.millis(0..500)).await;
                if world.chance(0.5) {
                    self.destroy_the_holders_session().await;
                }
                format!("{disruption:?}")
            }
            _ => format!("{disruption:?}"),
        };
        world.note(|| format!("disruption {number}: node {node} for {lasts:?}: {what}"));
        world.sleep(lasts).await;
        world.note(|| format!("disruption {number} is over"));
        match disruption {
            Some(disruption) => world.heal(disruption, node),
            None if kind == 3 => self.start(node),
            None => world.agent.clear_faults(),
        }
    }

    /// From now on there may be too many leases for as long as a holder may rely on its last proof.
    fn excuse(&self) {
        let longest = self.profiles.iter().map(|profile| profile.lease).max();
        let excused = longest.unwrap_or_default().mul_f64(1.02) + Duration::from_millis(1);
        self.excused_until.set(self.world.now() + excused);
    }

    async fn destroy_the_holders_session(&self) {
        if let Some((_, lease)) = self.holder() {
            self.destroy_the_session_of(&lease).await;
        }
    }

    async fn destroy_the_session_of(&self, lease: &Lease) {
        let path = format!("/v1/session/destroy/{}", lease.session());
        self.world.ask(Method::PUT, &path, "").await;
    }
}
