//! Contenders for one lock, each of which writes to a register that remembers the highest token; or for
//! the permits of one semaphore.

use crate::broken::Broken;
use crate::world::{FATE, Harm, Node, Report, World};
use consul_ffi::client::coordination::lock::{LOCK_FLAGS, LockOptions, acquire};
use consul_ffi::client::coordination::semaphore::{self, SemaphoreOptions};
use consul_ffi::client::coordination::{Event, Lease, Presence, Profile, Rules, Service, Wait};
use http::Method;
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

struct Scene {
    world: Rc<World>,
    /// How many permits there are, when it is about a semaphore.
    permits: Option<u64>,
    profile: Profile,
    rules: Rules,
    checks_tokens: bool,
    register: RefCell<Register>,
    leases: RefCell<Vec<Option<Arc<Lease>>>>,
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

/// Plays the history of one seed.
pub fn play(seed: u64, of_semaphore: bool, broken: Option<Broken>, traced: bool) -> Report {
    let world = World::new(seed, traced);
    let permits = of_semaphore.then(|| world.number(1..4));
    let mut profile = if world.chance(0.5) { Profile::standard() } else { Profile::fast() };
    if broken == Some(Broken::NoLockDelay) {
        profile.lock_delay = Duration::ZERO;
    }
    let rules = broken.map_or(Rules::ALL, Broken::rules);
    let contenders = world.number(2..11) as usize;
    let scene = Rc::new(Scene {
        world: Rc::clone(&world),
        permits,
        profile,
        rules,
        checks_tokens: broken != Some(Broken::NoTokenCheck),
        register: RefCell::default(),
        leases: RefCell::new(vec![None; contenders]),
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
        world.violation(|| "nobody had the lock again after all was well".to_owned());
    }
    world.end()
}

impl Scene {
    /// Starts a process that contends for the lock, again and again.
    fn start(self: &Rc<Self>, node: Node) {
        let world = &self.world;
        let (client, seed) = world.client(node);
        let service = Service {
            name: "contender".to_owned(),
            id: format!("contender-{node}-{seed:x}"),
            members: Vec::new(),
        };
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
            scene.world.count("suspensions", u64::from(suspended));
            scene.world.count("losses", u64::from(end.is_some()));
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
        self.world.count("grants", 1);
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
            self.world
                .violation(|| format!("{} leases (node, token) are valid: {who:?}", who.len()));
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
        let harm = match kind {
            0 if world.chance(0.5) => Some(Harm::Pause),
            0 => Some(Harm::PauseAtAnAnswer),
            1 => Some(Harm::ServersPause),
            2 => Some(Harm::CutOff),
            4..6 => Some(Harm::BadWeather),
            6 => Some(Harm::NoLeader),
            11.. => Some(Harm::IsolatedLeader),
            _ => None,
        };
        if harm == Some(Harm::ServersPause) {
            lasts = lasts.mul_f64(0.4);
        }
        if let Some(harm) = harm {
            world.harm(harm, node);
        }
        let what = match kind {
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
                let excused = self.profile.lease.mul_f64(1.02) + Duration::from_millis(1);
                self.excused_until.set(world.now() + excused);
                let key = self.permits.map_or(KEY.to_owned(), |_| format!("{PREFIX}/.lock"));
                world.ask(Method::DELETE, &format!("/v1/kv/{key}"), "").await;
                "the key is deleted".to_owned()
            }
            10 if self.permits.is_some() => {
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
                format!("{harm:?}")
            }
            _ => format!("{harm:?}"),
        };
        world.note(|| format!("trouble {which}: node {node} for {lasts:?}: {what}"));
        world.sleep(lasts).await;
        world.note(|| format!("trouble {which} is over"));
        match harm {
            Some(harm) => world.mend(harm, node),
            None if kind == 3 => self.start(node),
            None => world.agent.clear_faults(),
        }
    }

    async fn destroy_the_holders_session(&self) {
        if let Some((_, lease)) = self.holder() {
            let session = lease.session();
            let path = format!("/v1/session/destroy/{session}");
            self.world.ask(Method::PUT, &path, "").await;
        }
    }
}
