//! A connection that breaks once, at each request of each verb of locks, semaphores and leaders: before the request is sent,
//! when it is applied and its answer on the way, or when it is on the way itself. Measured is the time until there is the next
//! holder.

use crate::profiles;
use crate::world::{Disruption, ENVIRONMENT, Node, Report, World};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_client::coordination::lock::{LockOptions, acquire};
use consul_client::coordination::semaphore::{self, SemaphoreOptions};
use consul_client::coordination::{Lease, Presence, Profile, Service, Wait};
use consul_client::transport::Transport;
use consul_cluster::{Cluster, Options};
use consul_process::clock::BoxFuture;
use http::{Request, Response};
use std::cell::{Cell, RefCell};
use std::future::pending;
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// The process whose request breaks, another process, which waits, and the holder before them.
const ACTOR: Node = 0;
const OTHER: Node = 1;
const FORMER: Node = 2;

/// How long a cut lasts, in milliseconds: a blink, less than a beat, less than the TTL of each check, about as long, longer.
const LENGTHS_MS: [Range<u64>; 5] = [1..50, 50..400, 400..2000, 2000..3500, 3500..5000];

/// After a cut with a shorter check's TTL than this the pauses between attempts would be longer than a takeover.
const SHORTEST_TTL: Duration = Duration::from_secs(1);

/// By then there is a holder, or never.
const END: Duration = Duration::from_secs(90);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Object {
    Lock,
    Permit,
    Leader,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Verb {
    /// A wait without a limit; of a cluster: nodes start.
    Acquire,
    WaitFor,
    Try,
    /// A wait that its program drops.
    Abandon,
    Release,
    /// The holder is collected as garbage.
    Garbage,
    Stop,
    HandOver,
    /// The cut is that of the node which is to lead next.
    Succeed,
}

/// All verbs of all objects.
const VERBS: [(Object, Verb); 18] = {
    use Object::{Leader, Lock, Permit};
    [
        (Lock, Verb::Acquire),
        (Lock, Verb::WaitFor),
        (Lock, Verb::Try),
        (Lock, Verb::Abandon),
        (Lock, Verb::Release),
        (Lock, Verb::Garbage),
        (Lock, Verb::Stop),
        (Permit, Verb::Acquire),
        (Permit, Verb::WaitFor),
        (Permit, Verb::Try),
        (Permit, Verb::Abandon),
        (Permit, Verb::Release),
        (Permit, Verb::Garbage),
        (Permit, Verb::Stop),
        (Leader, Verb::Acquire),
        (Leader, Verb::Stop),
        (Leader, Verb::HandOver),
        (Leader, Verb::Succeed),
    ]
};

/// The number of seeds after which each verb was played.
const SEEDS_FOR_EACH_VERB: u64 = VERBS.len() as u64;

/// The way in which the connection breaks at a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    BeforeItIsSent,
    /// It arrives although its sender knows that the connection has broken.
    OnItsWay,
    BeforeItsAnswer,
}

const PLACES: [Place; 3] = [Place::BeforeItIsSent, Place::OnItsWay, Place::BeforeItsAnswer];

/// How the lock is before the actor wants it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    Free,
    /// Its holder releases it.
    Released,
    /// Its holder is killed.
    Killed,
}

/// All that a seed decides.
#[derive(Clone, Debug)]
struct Story {
    seed: u64,
    object: Object,
    verb: Verb,
    profile: Profile,
    lasts: Duration,
    /// No request fails: none is answered.
    is_silent: bool,
    /// The sender knows of a request that it was not sent.
    is_known: bool,
    /// The connections of all processes break.
    is_shared: bool,
    /// This process is stopped for that long, so long after the cut has begun.
    pause: Option<(Node, Duration, Duration)>,
    longest_delay: Duration,
    before: Before,
    /// When the holder before goes, how long a wait lasts, and when the verb begins.
    goes_after: Duration,
    wait: Duration,
    begins: Duration,
    /// Whether the other process waits before the verb begins.
    waits_before: bool,
    nodes: usize,
    /// The limit of the semaphore by which the other process waits; that of the others is 1.
    others_limit: u64,
}

impl Story {
    fn of(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut ms = |bounds: Range<u64>| Duration::from_millis(rng.u64(bounds));
        let [number, class] = [seed % SEEDS_FOR_EACH_VERB, seed / SEEDS_FOR_EACH_VERB];
        let (object, verb) = VERBS[number as usize];
        let lasts = ms(LENGTHS_MS[class as usize % LENGTHS_MS.len()].clone());
        let is_silent = class / LENGTHS_MS.len() as u64 % 2 == 1;
        let [goes_after, wait, begins] = [ms(0..1500), ms(1..3000), ms(1000..2000)];
        let pause = (ms(0..1500), ms(10..1000));
        let longest_delay = [0, 5, 30][rng.usize(0..3)];
        Story {
            seed,
            object,
            verb,
            profile: match rng.usize(0..4) {
                named @ 0..3 => (Profile::NAMED[named].profile)(),
                _ => profiles::random(SHORTEST_TTL, |below| rng.u64(0..below)),
            },
            lasts,
            is_silent,
            is_known: rng.bool(),
            is_shared: rng.u8(0..4) == 0,
            pause: (rng.u8(0..4) == 0).then(|| (rng.usize(0..2), pause.0, pause.1)),
            longest_delay: Duration::from_millis(longest_delay),
            before: [Before::Free, Before::Released, Before::Killed][rng.usize(0..3)],
            goes_after,
            wait,
            begins,
            waits_before: rng.bool(),
            nodes: rng.usize(2..5),
            others_limit: rng.u64(1..3),
        }
    }

    fn is_acquiring(&self) -> bool {
        matches!(self.verb, Verb::Acquire | Verb::WaitFor | Verb::Try | Verb::Abandon)
    }
}

/// Where the connection breaks.
#[derive(Clone, Copy, Debug)]
struct Cut {
    nth: u64,
    place: Place,
}

/// The connections of a play.
#[derive(Debug)]
struct Wires {
    state: Mutex<State>,
    /// Turns true when the cut begins.
    broken: watch::Sender<bool>,
    is_silent: bool,
    is_known: bool,
    is_shared: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Whose requests are counted, from the beginning of the verb to the next holder.
    counted: Option<Node>,
    requests: u64,
    cut: Option<Cut>,
    /// Whose connections have broken.
    broken: Option<Node>,
    is_healed: bool,
    /// The requests for a session whose answers have not arrived.
    unknown_sessions: usize,
}

impl Wires {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic elsewhere")
    }

    fn is_cut(&self, state: &State, node: Node) -> bool {
        let is_of = |broken: Node| self.is_shared || broken == node;
        !state.is_healed && state.broken.is_some_and(is_of)
    }

    /// How the connection breaks at this request; `None`: it does not.
    fn next(&self, node: Node, path: &str) -> Option<Place> {
        let mut state = self.state();
        if self.is_cut(&state, node) {
            return Some(Place::BeforeItIsSent);
        }
        // A beat is not of the verb.
        if state.counted != Some(node) || path.contains("/check/") {
            return None;
        }
        state.requests += 1;
        let place = state.cut.filter(|cut| cut.nth + 1 == state.requests)?.place;
        drop(state);
        if place != Place::BeforeItsAnswer {
            self.break_at(node);
        }
        Some(place)
    }

    fn break_at(&self, node: Node) {
        self.state().broken = Some(node);
        self.broken.send_replace(true);
    }

    async fn is_lost(&self, node: Node) {
        let mut broken = self.broken.subscribe();
        loop {
            // The sender lives as long as `self`.
            let _ = broken.changed().await;
            if self.is_cut(&self.state(), node) {
                return;
            }
        }
    }

    async fn failure(&self, is_sent: bool) -> Error {
        if self.is_silent {
            pending::<()>().await;
        }
        let error = Error::new(Kind::Connect, "the connection broke").retryable();
        if is_sent || !self.is_known { error } else { error.not_sent() }
    }
}

#[derive(Debug)]
struct Line {
    inner: Arc<dyn Transport>,
    node: Node,
    wires: Arc<Wires>,
}

impl Transport for Line {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            let (node, wires) = (self.node, &*self.wires);
            let path = request.uri().path();
            let place = wires.next(node, path);
            let is_session = usize::from(path == "/v1/session/create");
            if place == Some(Place::BeforeItIsSent) {
                return Err(wires.failure(false).await);
            }
            // From here on it is on its way, and arrives.
            let mut answer = self.inner.send(request);
            wires.state().unknown_sessions += is_session;
            let answered = match place {
                Some(Place::OnItsWay) => None,
                Some(_) => {
                    let _ = answer.await;
                    wires.break_at(node);
                    None
                }
                None => tokio::select! {
                    biased;
                    () = wires.is_lost(node) => return Err(wires.failure(true).await),
                    answered = &mut answer => Some(answered),
                },
            };
            let Some(answered) = answered else { return Err(wires.failure(true).await) };
            wires.state().unknown_sessions -= is_session;
            answered
        })
    }

    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }

    fn max_in_flight(&self) -> usize {
        self.inner.max_in_flight()
    }
}

/// One play of a story, with its connection broken at one place or nowhere.
struct Play {
    world: Rc<World>,
    story: Story,
    wires: Arc<Wires>,
    leases: RefCell<Vec<(Node, Arc<Lease>)>>,
    clusters: RefCell<Vec<Arc<Cluster>>>,
    /// From when on the time until the next holder counts, if the connection works.
    since: Cell<Duration>,
    is_over: Cell<bool>,
    /// The end of the cut, and of a pause.
    works_from: Cell<Duration>,
    next_holder: Cell<Option<(Node, Duration)>>,
}

/// Plays the story of one seed, without a cut and then with a cut at each of its requests.
pub fn play(seed: u64, traced: bool) -> Report {
    let story = Story::of(seed);
    let (requests, mut report) = once(&story, None, false);
    let cuts = (0..requests).flat_map(|nth| PLACES.map(|place| Cut { nth, place }));
    for cut in std::iter::once(None).chain(cuts.map(Some)) {
        let (_, mut played) = once(&story, cut, false);
        if traced && !played.violations.is_empty() {
            let (_, traced) = once(&story, cut, true);
            report.trace.push(format!("{cut:?} {story:?}"));
            report.trace.extend(traced.trace);
        }
        report.add(&played);
        report.violations.append(&mut played.violations);
    }
    report
}

/// Returns the number of requests, too.
fn once(story: &Story, cut: Option<Cut>, traced: bool) -> (u64, Report) {
    let world = World::new(story.seed, traced);
    world.delay_messages(story.longest_delay);
    let wires = Wires {
        state: Mutex::new(State { cut, ..State::default() }),
        broken: watch::Sender::new(false),
        is_silent: story.is_silent,
        is_known: story.is_known,
        is_shared: story.is_shared,
    };
    let play = Rc::new(Play {
        world: Rc::clone(&world),
        story: story.clone(),
        wires: Arc::new(wires),
        leases: RefCell::default(),
        clusters: RefCell::default(),
        since: Cell::default(),
        is_over: Cell::default(),
        works_from: Cell::default(),
        next_holder: Cell::default(),
    });
    let script = Rc::clone(&play);
    world.spawn(ENVIRONMENT, async move {
        match script.story.object {
            Object::Leader => script.play_cluster().await,
            _ => script.play_claim().await,
        }
    });
    let cutter = Rc::clone(&play);
    world.spawn(ENVIRONMENT, async move { cutter.heal().await });
    let observer = Rc::clone(&play);
    world.run(END, move || observer.observe());
    if play.next_holder.get().is_none() {
        world.violation(|| format!("{cut:?} {story:?}: no holder again"));
    }
    let requests = play.wires.state().requests;
    if cut.is_some() {
        world.count("cuts", 1);
    }
    play.clusters.borrow_mut().clear();
    play.leases.borrow_mut().clear();
    (requests, world.end())
}

impl Play {
    /// The transport of a process, which can break.
    fn client(self: &Rc<Self>, node: Node) -> (Arc<consul_client::Client>, u64) {
        let wires = Arc::clone(&self.wires);
        self.world.client_through(node, |inner| Arc::new(Line { inner, node, wires }))
    }

    /// Runs work in a process. `None`: the process was killed.
    async fn on<T: 'static>(
        &self,
        node: Node,
        work: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        self.world.spawn(node, async move { drop(done.send(work.await)) });
        result.await.ok()
    }

    /// From now on requests count, and the time until the next holder.
    fn arm(&self, node: Node) {
        self.wires.state().counted = Some(node);
        self.counts_from(self.world.now());
    }

    /// The time until the next holder does not count before then.
    fn counts_from(&self, at: Duration) {
        self.since.set(self.since.get().max(at));
    }

    async fn is_broken(&self) {
        let mut broken = self.wires.broken.subscribe();
        // The sender lives as long as `self`.
        let _ = broken.wait_for(|broken| *broken).await;
    }

    /// Ends the cut, and stops a process meanwhile.
    async fn heal(self: Rc<Self>) {
        self.is_broken().await;
        let now = self.world.now();
        let mut works_from = now + self.story.lasts;
        if let Some((node, after, lasts)) = self.story.pause {
            works_from = works_from.max(now + after + lasts);
            let world = Rc::clone(&self.world);
            self.world.spawn(ENVIRONMENT, async move {
                world.sleep(after).await;
                world.note(|| format!("node {node} is stopped for {lasts:?}"));
                world.disrupt(Disruption::Pause, node);
                world.sleep(lasts).await;
                world.heal(Disruption::Pause, node);
            });
        }
        self.works_from.set(works_from);
        self.world.note(|| format!("the connection is cut for {:?}", self.story.lasts));
        self.world.sleep(self.story.lasts).await;
        self.world.note(|| "the connection works again".to_owned());
        self.wires.state().is_healed = true;
    }

    /// Notes the next holder, and checks when it is one.
    fn has_it(&self, node: Node) {
        if self.next_holder.get().is_some() {
            return;
        }
        let (world, story, now) = (&self.world, &self.story, self.world.now());
        self.next_holder.set(Some((node, now)));
        let state = self.wires.state();
        let (cut, is_broken) = (state.cut, state.broken.is_some());
        drop(state);
        self.wires.state().counted = None;
        world.note(|| format!("node {node} has it"));
        if !is_broken {
            return;
        }
        let took = now.saturating_sub(self.since.get().max(self.works_from.get()));
        let takeover = story.profile.takeover();
        world.note_most("% of takeover_ms", (took.as_millis() * 100 / takeover.as_millis()) as u64);
        if took > takeover {
            let name = story.profile.name;
            world.violation(|| format!("{took:?} with {name}: {cut:?} {story:?}"));
        }
    }

    fn observe(&self) {
        let leases = self.leases.borrow();
        let clusters = self.clusters.borrow();
        let led = clusters.iter().filter(|cluster| cluster.is_leader()).count();
        let held = leases.iter().filter(|(_, lease)| lease.is_held()).count();
        if led + held > 1 {
            self.world.violation(|| format!("{} hold it: {:?}", led + held, self.story));
        }
    }

    /// Waits until there has been time for a takeover after the cut.
    async fn settle(&self) {
        let from = self.world.now().max(self.works_from.get()) + self.story.profile.takeover();
        self.world.sleep(from - self.world.now()).await;
    }

    /// Starts a process that can hold locks.
    fn process(self: &Rc<Self>, node: Node) -> Arc<Presence> {
        let (client, seed) = self.client(node);
        let id = format!("contender-{node}-{seed:x}");
        let service = Service { name: "contender".to_owned(), id, members: Vec::new() };
        let presence =
            Presence::new(Arc::clone(&client), client, self.story.profile.clone(), service);
        let beating = Arc::clone(&presence);
        self.world.spawn(node, async move { match beating.run().await {} });
        presence
    }

    /// Has a process acquire it and keep it.
    async fn acquire(
        self: &Rc<Self>,
        node: Node,
        presence: &Arc<Presence>,
        wait: Wait,
    ) -> Result<Arc<Lease>, Error> {
        let lease = match self.story.object {
            Object::Permit => {
                let limit = if node == OTHER { self.story.others_limit } else { 1 };
                let options = SemaphoreOptions { limit, value: Vec::new(), wait };
                semaphore::acquire(presence, "permits", &options).await?
            }
            _ => {
                let options = LockOptions { value: None, wait, is_own: false };
                acquire(presence, "locks/one", &options).await?
            }
        };
        self.leases.borrow_mut().push((node, Arc::clone(&lease)));
        let keeper = Arc::clone(&lease);
        self.world.spawn(node, async move { drop(keeper.keep().await) });
        Ok(lease)
    }

    /// The other process waits, from now on or from the moment at which the connection breaks or the verb is over.
    fn other_waits(self: &Rc<Self>, presence: &Arc<Presence>, from_now: bool) {
        let (play, presence) = (Rc::clone(self), Arc::clone(presence));
        self.world.spawn(OTHER, async move {
            while !from_now && !play.is_over.get() && play.wires.state().broken.is_none() {
                play.world.sleep(Duration::from_millis(1)).await;
            }
            match play.acquire(OTHER, &presence, Wait::Forever).await {
                Ok(_) => play.has_it(OTHER),
                Err(error) => play.world.violation(|| format!("{error}: {:?}", play.story)),
            }
        });
    }

    async fn play_claim(self: Rc<Self>) {
        let story = self.story.clone();
        let (actor, other) = (self.process(ACTOR), self.process(OTHER));
        let former = self.process(FORMER);
        self.world.sleep(story.begins).await;
        if story.is_acquiring() {
            self.acquires(&actor, &other, &former).await;
        } else {
            self.ends(&actor, &other).await;
        }
        self.is_over.set(true);
        while self.next_holder.get().is_none() {
            self.world.sleep(Duration::from_millis(10)).await;
        }
        // The others have left nothing.
        self.settle().await;
        let unknown = self.wires.state().unknown_sessions;
        let sessions = self.world.agent.stats().sessions;
        if self.next_holder.get().is_some_and(|(node, _)| node == OTHER)
            && story.verb != Verb::Acquire
            && sessions > 1 + unknown
        {
            let cut = self.wires.state().cut;
            self.world
                .violation(|| format!("{sessions} sessions, {unknown} unknown: {cut:?} {story:?}"));
        }
        self.world.stop();
    }

    async fn acquires(
        self: &Rc<Self>,
        actor: &Arc<Presence>,
        other: &Arc<Presence>,
        former: &Arc<Presence>,
    ) {
        let story = &self.story;
        let (play, presence) = (Rc::clone(self), Arc::clone(former));
        let before = match story.before {
            Before::Free => None,
            _ => {
                let work = async move { play.acquire(FORMER, &presence, Wait::Forever).await };
                self.on(FORMER, work).await.and_then(Result::ok)
            }
        };
        self.arm(ACTOR);
        if let Some(lease) = before {
            let play = Rc::clone(self);
            self.world.spawn(ENVIRONMENT, async move {
                play.world.sleep(play.story.goes_after).await;
                let now = play.world.now();
                if play.story.before == Before::Killed {
                    play.world.kill(FORMER);
                    play.counts_from(now + play.story.profile.takeover());
                } else {
                    play.counts_from(now);
                    play.on(FORMER, async move { drop(lease.release().await) }).await;
                }
            });
            // It is not free before.
            self.counts_from(self.world.now() + story.goes_after);
        }
        self.other_waits(other, false);
        let (play, presence) = (Rc::clone(self), Arc::clone(actor));
        let work = async move {
            let wait = match play.story.verb {
                Verb::Try => Wait::Once,
                Verb::WaitFor => Wait::For(play.story.wait),
                _ => Wait::Forever,
            };
            let acquired = play.acquire(ACTOR, &presence, wait);
            if play.story.verb != Verb::Abandon {
                return acquired.await.ok();
            }
            tokio::select! {
                biased;
                acquired = acquired => acquired.ok(),
                () = play.world.sleep(play.story.wait / 4) => None,
            }
        };
        match self.on(ACTOR, work).await.flatten() {
            Some(_) => self.has_it(ACTOR),
            None => self.counts_from(self.world.now()),
        }
    }

    async fn ends(self: &Rc<Self>, actor: &Arc<Presence>, other: &Arc<Presence>) {
        let story = &self.story;
        let (play, presence) = (Rc::clone(self), Arc::clone(actor));
        let work = async move { play.acquire(ACTOR, &presence, Wait::Forever).await };
        let Some(Ok(lease)) = self.on(ACTOR, work).await else {
            return self.world.violation(|| format!("it is free: {story:?}"));
        };
        self.other_waits(other, story.waits_before);
        self.world.sleep(story.goes_after).await;
        self.arm(ACTOR);
        let presence = Arc::clone(actor);
        match story.verb {
            Verb::Garbage => lease.give_up(),
            Verb::Stop => {
                self.world.kill(ACTOR);
                let work = async move {
                    drop(lease.release().await);
                    drop(presence.deregister().await);
                };
                self.on(ACTOR, work).await;
            }
            _ => {
                let work = async move {
                    // After an unknown outcome it is asked for again.
                    while lease.release().await.is_err_and(|error| error.maybe_applied()) {}
                };
                self.on(ACTOR, work).await;
            }
        }
    }

    /// Starts a node.
    fn node(self: &Rc<Self>, node: Node) -> Arc<Cluster> {
        let (client, _) = self.client(node);
        let options = Options {
            node_id: format!("n{node}"),
            profile: self.story.profile.clone(),
            shards: 8,
            replicas: 1,
            ..Options::new("", "10.0.0.1:9000")
        };
        let cluster = Cluster::new(Arc::clone(&client), client, options).expect("good options");
        self.clusters.borrow_mut().push(Arc::clone(&cluster));
        let (world, running) = (Rc::clone(&self.world), Arc::clone(&cluster));
        self.world.spawn(node, async move {
            let why = running.run().await;
            world.violation(|| format!("n{node} ends: {why}"));
        });
        cluster
    }

    fn leader(&self, except: Option<u64>) -> Option<Node> {
        self.clusters.borrow().iter().position(|cluster| {
            let lease = cluster.lease().filter(|lease| lease.is_held());
            lease.is_some_and(|lease| Some(lease.token()) != except)
        })
    }

    async fn play_cluster(self: Rc<Self>) {
        let (story, world) = (self.story.clone(), Rc::clone(&self.world));
        let ms = Duration::from_millis(1);
        if story.verb == Verb::Acquire {
            self.arm(ACTOR);
        }
        for node in 0..story.nodes {
            self.node(node);
            world.sleep(story.wait / 4).await;
        }
        let mut last = None;
        if story.verb != Verb::Acquire {
            // A leader that knows all nodes, and a map.
            world.sleep(Duration::from_secs(8) + story.begins).await;
            let Some(leader) = self.leader(None) else {
                return world.violation(|| format!("no leader: {story:?}"));
            };
            let cluster = Arc::clone(&self.clusters.borrow()[leader]);
            last = cluster.lease().map(|lease| lease.token());
            self.arm(if story.verb == Verb::Succeed { (leader + 1) % story.nodes } else { leader });
            match story.verb {
                Verb::Stop => {
                    world.kill(leader);
                    world.spawn(leader, async move { drop(cluster.leave().await) });
                }
                Verb::Succeed if story.before == Before::Killed => {
                    world.kill(leader);
                    self.counts_from(world.now() + story.profile.takeover());
                }
                _ => cluster.hand_over(),
            }
        } else {
            self.counts_from(world.now());
        }
        let next = loop {
            if let Some(next) = self.leader(last) {
                break next;
            }
            world.sleep(ms).await;
        };
        self.has_it(next);
        self.settle().await;
        world.stop();
    }
}
