//! Contenders for one lock, each of which writes to a register that remembers the highest token; or for
//! the permits of one semaphore.

use crate::world::{DriftingClock, FATE, Node, SERVERS, Weather, World};
use bytes::Bytes;
use consul_ffi::client::coordination::lock::{LOCK_FLAGS, LockOptions, acquire};
use consul_ffi::client::coordination::semaphore::{self, SemaphoreOptions};
use consul_ffi::client::coordination::{Event, Lease, Presence, Profile, Rules, Service, Wait};
use consul_ffi::client::{Client, Settings};
use consul_ffi::simulate::Fault;
use consul_ffi::wire::request::Defaults;
use http::{Method, Request};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const KEY: &str = "locks/register";
const PREFIX: &str = "permits";

/// How long things go wrong, and how long after that somebody must have the lock again: the
/// session's TTL of 10 s is kept up to twice, then come the lock delay and a waiting query.
const TROUBLE: Duration = Duration::from_secs(40);
const HEALED_WITHIN: Duration = Duration::from_secs(35);

/// A rule that is left out to show that it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    LeaseFromTheReply,
    NoLockDelay,
    RenewalAsProof,
    LockIndexAsToken,
    NoTokenCheck,
}

impl Broken {
    pub const ALL: &'static [Broken] = &[
        Broken::LeaseFromTheReply,
        Broken::NoLockDelay,
        Broken::RenewalAsProof,
        Broken::LockIndexAsToken,
        Broken::NoTokenCheck,
    ];
}

/// What was counted in one history.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub grants: u64,
    pub losses: u64,
    pub suspensions: u64,
    pub writes: u64,
    pub refused_writes: u64,
    pub requests: u64,
    pub violations: Vec<String>,
    pub trace: Vec<String>,
}

struct Scene {
    world: Rc<World>,
    /// How many permits there are, when it is about a semaphore.
    permits: Option<u64>,
    profile: Profile,
    rules: Rules,
    checks_tokens: bool,
    register: RefCell<Register>,
    leases: RefCell<Vec<Option<Arc<Lease>>>>,
    report: RefCell<Report>,
    /// Too many leases may be valid until then: a third party deleted the key, and no client can know.
    excused_until: Cell<Duration>,
    /// When somebody was first seen to hold the lock after all was well again.
    healed: Cell<Option<Duration>>,
}

#[derive(Default)]
struct Register {
    highest: u64,
    granted: u64,
}

/// What is contended for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Lock,
    Semaphore,
}

/// Plays the history of one seed.
pub fn play(seed: u64, what: What, broken: Option<Broken>, traced: bool) -> Report {
    let world = World::new(seed, traced);
    let permits = (what == What::Semaphore).then(|| world.number(1..4));
    let mut profile = if world.chance(0.5) { Profile::standard() } else { Profile::fast() };
    if broken == Some(Broken::NoLockDelay) {
        profile.lock_delay = Duration::ZERO;
    }
    let rules = Rules {
        lease_from_start: broken != Some(Broken::LeaseFromTheReply),
        renewal_is_no_proof: broken != Some(Broken::RenewalAsProof),
        token_is_modify_index: broken != Some(Broken::LockIndexAsToken),
    };
    let contenders = world.number(2..11) as usize;
    let scene = Rc::new(Scene {
        world: Rc::clone(&world),
        permits,
        profile,
        rules,
        checks_tokens: broken != Some(Broken::NoTokenCheck),
        register: RefCell::default(),
        leases: RefCell::new(vec![None; contenders]),
        report: RefCell::default(),
        excused_until: Cell::new(Duration::ZERO),
        healed: Cell::new(None),
    });
    for node in 0..contenders {
        scene.start(node);
    }
    for trouble in 0..world.number(3..12) {
        let scene = Rc::clone(&scene);
        let begins = scene.world.millis(1000..TROUBLE.as_millis() as u64 - 6000);
        world.spawn(FATE, async move {
            scene.world.sleep(begins).await;
            scene.trouble(trouble, contenders).await;
        });
    }
    let looked = Rc::clone(&scene);
    world.run(TROUBLE + HEALED_WITHIN, move || looked.look());
    if scene.healed.get().is_none() {
        scene.violation(|| "nobody had the lock again after all was well".to_owned());
    }
    let mut report = scene.report.borrow().clone();
    report.requests = world.requests.get();
    report.trace = world.trace();
    report
}

impl Scene {
    /// Starts a process that contends for the lock, again and again.
    fn start(self: &Rc<Self>, node: Node) {
        let world = &self.world;
        let rate = 0.9901 + 0.0198 * world.part();
        let seed = world.number(0..u64::MAX);
        let clock = Arc::new(DriftingClock { true_clock: world.clock.clone(), rate });
        let settings = Settings {
            timeout: Duration::from_secs(5),
            retry_count: 3,
            defaults: Defaults::default(),
        };
        let client = Client::new(
            vec![Arc::new(world.transport(node))],
            settings,
            clock,
            fastrand::Rng::with_seed(seed),
        );
        let service = Service {
            name: "contender".to_owned(),
            id: format!("contender-{node}-{seed:x}"),
            members: Vec::new(),
        };
        let client = Arc::new(client);
        let presence = Presence::new(Arc::clone(&client), client, self.profile.clone(), service);
        let presence = presence.with_rules(self.rules);
        let beating = Arc::clone(&presence);
        world.spawn(node, async move { match beating.run().await {} });
        let scene = Rc::clone(self);
        world.spawn(node, async move { scene.contend(node, presence).await });
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
                None => acquire(&presence, KEY, &LockOptions { value: None, wait }).await,
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
        let scene = Rc::clone(self);
        world.spawn(node, async move {
            let end = keeper.keep().await;
            scene.world.note(|| format!("node {node}: keeps {} no more: {end:?}", keeper.token()));
            let mut suspended = false;
            while let Some(event) = keeper.poll_event() {
                suspended |= event == Event::Suspended;
            }
            let mut report = scene.report.borrow_mut();
            report.suspensions += u64::from(suspended);
            report.losses += u64::from(end.is_some());
        });
        let until = world.now() + world.millis(500..12_000);
        while world.now() < until && lease.remaining() > Duration::ZERO {
            // What a program does: it looks, and what it does then takes its time to arrive. A node
            // that is stopped in between arrives with it as late as it likes.
            if lease.is_held() {
                world.sleep(world.millis(0..20)).await;
                let scene = Rc::clone(self);
                let flight = self.profile.in_flight.mul_f64(world.part() * 0.9);
                let token = lease.token();
                world.spawn(FATE, async move {
                    scene.world.sleep(flight).await;
                    scene.write(node, token);
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
        self.report.borrow_mut().grants += 1;
        self.leases.borrow_mut()[node] = Some(Arc::clone(lease));
        if self.world.now() >= TROUBLE {
            self.healed.set(self.healed.get().or(Some(self.world.now())));
        }
        let mut register = self.register.borrow_mut();
        // Of a semaphore's grants the news can come in another order, and of a lock's when a third
        // party's DELETE ended the older one before its holder heard of it.
        let is_ordered = self.permits.is_none() && self.world.now() > self.excused_until.get();
        if is_ordered && lease.is_held() && lease.token() <= register.granted {
            let (token, granted) = (lease.token(), register.granted);
            self.violation(|| format!("node {node} was granted {token} after {granted}"));
        }
        register.granted = register.granted.max(lease.token());
    }

    fn write(&self, node: Node, token: u64) {
        let mut register = self.register.borrow_mut();
        let mut report = self.report.borrow_mut();
        if self.permits.is_none() && token < register.highest {
            if self.checks_tokens {
                report.refused_writes += 1;
                return;
            }
            drop(report);
            let highest = register.highest;
            self.violation(|| format!("node {node} wrote with {token} after {highest}"));
            return;
        }
        register.highest = token;
        report.writes += 1;
    }

    fn holder(&self) -> Option<(Node, Arc<Lease>)> {
        let leases = self.leases.borrow();
        let held = |lease: &Arc<Lease>| lease.is_held().then(|| Arc::clone(lease));
        leases.iter().enumerate().find_map(|(node, lease)| Some((node, held(lease.as_ref()?)?)))
    }

    /// At every moment at most one lease is valid, or as many as there are permits.
    fn look(&self) {
        let leases = self.leases.borrow();
        let holders = || {
            leases.iter().enumerate().filter_map(|(node, lease)| {
                lease.as_ref().filter(|lease| lease.is_held()).map(|lease| (node, lease.token()))
            })
        };
        if self.world.now() >= TROUBLE && self.healed.get().is_none() && holders().next().is_some()
        {
            self.healed.set(Some(self.world.now()));
        }
        let limit = self.permits.unwrap_or(1) as usize;
        if self.world.now() > self.excused_until.get() && holders().nth(limit).is_some() {
            let who: Vec<_> = holders().collect();
            self.violation(|| format!("{} leases (node, token) are valid: {who:?}", who.len()));
        }
    }

    fn violation(&self, what: impl FnOnce() -> String) {
        let what = format!("{:.4} s: {}", self.world.now().as_secs_f64(), what());
        self.world.note(|| format!("VIOLATION {what}"));
        let mut report = self.report.borrow_mut();
        if report.violations.len() < 5 {
            report.violations.push(what);
        }
    }

    /// One thing goes wrong for a while, and is well again before [`TROUBLE`] is over.
    async fn trouble(self: &Rc<Self>, which: u64, contenders: usize) {
        let world = &self.world;
        // The one that matters most, or any.
        let node = match self.holder() {
            Some((node, _)) if world.chance(0.5) => node,
            _ => world.number(0..contenders as u64) as usize,
        };
        let mut lasts = world.millis(50..6000);
        let kind = world.number(0..12);
        let what = match kind {
            0 if world.chance(0.5) => {
                world.pause(node);
                "stands still"
            }
            0 => {
                world.pause_at_an_answer(node);
                "stands still at an answer"
            }
            1 => {
                lasts = lasts.mul_f64(0.4);
                world.pause(SERVERS);
                "the servers stand still"
            }
            2 => {
                world.cut_off(node);
                "is cut off"
            }
            3 => {
                world.kill(node);
                self.leases.borrow_mut()[node] = None;
                "is killed"
            }
            4..6 => {
                world.set_weather(Weather {
                    longest_delay: world.millis(10..3000),
                    request_lost: 0.1,
                    reply_lost: 0.1,
                    reply_cut: 0.1,
                    duplicated: 0.2,
                    commit_ambiguous: 0.1,
                });
                "bad weather"
            }
            6 => {
                world.agent.add_fault(Fault { no_leader: true, ..Fault::default() });
                "the servers have no leader"
            }
            7 => {
                self.destroy_the_holders_session().await;
                "the holder's session is destroyed"
            }
            8 => {
                self.flap_a_check(node).await;
                "a check flaps"
            }
            9 => {
                let excused = self.profile.lease.mul_f64(1.02) + Duration::from_millis(1);
                self.excused_until.set(world.now() + excused);
                let key = self.permits.map_or(KEY.to_owned(), |_| format!("{PREFIX}/.lock"));
                self.ask(Method::DELETE, &format!("/v1/kv/{key}"), "").await;
                "the key is deleted"
            }
            10 if self.permits.is_some() => {
                if let Some((_, lease)) = self.holder() {
                    let path = format!("/v1/kv/{PREFIX}/{}", lease.session());
                    self.ask(Method::DELETE, &path, "").await;
                }
                "the holder's key is deleted"
            }
            10 => {
                let path = format!("/v1/kv/{KEY}?flags={LOCK_FLAGS}");
                self.ask(Method::PUT, &path, "written").await;
                "the key is written"
            }
            _ => {
                world.agent.add_fault(Fault {
                    clients: vec![node.to_string()],
                    isolated_leader: true,
                    ..Fault::default()
                });
                world.sleep(world.millis(0..500)).await;
                if world.chance(0.5) {
                    self.destroy_the_holders_session().await;
                }
                "speaks to an isolated leader"
            }
        };
        world.note(|| format!("trouble {which}: node {node} for {lasts:?}: {what}"));
        world.sleep(lasts).await;
        world.note(|| format!("trouble {which} is over"));
        match kind {
            0 => world.resume(node),
            1 => world.resume(SERVERS),
            2 => world.reconnect(node),
            3 => self.start(node),
            4..6 => world.set_weather(Weather::default()),
            _ => world.agent.clear_faults(),
        }
    }

    async fn destroy_the_holders_session(&self) {
        if let Some((_, lease)) = self.holder() {
            let session = lease.session();
            self.ask(Method::PUT, &format!("/v1/session/destroy/{session}"), "").await;
        }
    }

    async fn flap_a_check(&self, node: Node) {
        let checks = self.ask(Method::GET, "/v1/agent/checks", "").await;
        let prefix = format!("service:contender-{node}-");
        let found = checks.split('"').find(|text| text.starts_with(&prefix));
        if let Some(check) = found {
            self.ask(Method::PUT, &format!("/v1/agent/check/fail/{check}"), "").await;
        }
    }

    async fn ask(&self, method: Method, path: &str, body: &'static str) -> String {
        let request =
            Request::builder().method(method).uri(path).body(Bytes::from_static(body.as_bytes()));
        let response = self.world.agent.handle(request.expect("a request")).await;
        String::from_utf8_lossy(response.body()).into_owned()
    }
}
