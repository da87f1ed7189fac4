//! A simulated world of processes with one Consul, on one thread and a virtual clock: the same seed
//! gives the same history.

use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::request::Defaults;
use consul_client::transport::Transport;
use consul_client::{Client, Settings};
use consul_process::clock::{BoxFuture, Clock, Instant, ManualClock};
use consul_sim::{Agent, Fault, Options, SimTransport};
use http::{Method, Request, Response, StatusCode};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;
use tokio::sync::oneshot;

/// The owner of tasks: a client process, the servers or the environment.
pub type Node = usize;

/// The owners of the servers' tasks, and of those that start, stop and disrupt the others.
pub const SERVERS: Node = usize::MAX;
pub const ENVIRONMENT: Node = usize::MAX - 1;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The state of the simulation.
pub struct World {
    pub clock: ManualClock,
    pub agent: Arc<Agent>,
    rng: RefCell<fastrand::Rng>,
    network: RefCell<Network>,
    tasks: RefCell<BTreeMap<u64, (Node, Task)>>,
    next_task: Cell<u64>,
    ready: Arc<Mutex<Ready>>,
    /// The paused nodes, each with its tasks that are ready to run.
    paused: RefCell<BTreeMap<Node, Vec<u64>>>,
    /// Whether the clocks of machines stand still while they are suspended.
    pub clocks_stop: Cell<bool>,
    /// How long the machine of each node has been suspended.
    suspensions: RefCell<BTreeMap<Node, Suspensions>>,
    /// The nodes to pause when their next answer arrives.
    pausing: RefCell<Vec<Node>>,
    /// Requests on their way from the nodes to the servers.
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    /// The last body that was answered to each path: many nodes get the same large lists at once.
    bodies: RefCell<HashMap<String, Bytes>>,
    trace: Option<RefCell<Vec<String>>>,
    report: RefCell<Report>,
    is_over: Cell<bool>,
}

/// The result of a history.
#[derive(Clone, Debug, Default)]
pub struct Report {
    counts: BTreeMap<&'static str, u64>,
    most: BTreeMap<&'static str, u64>,
    pub violations: Vec<String>,
    pub trace: Vec<String>,
}

impl Report {
    pub fn add(&mut self, other: &Report) {
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
        for (what, number) in &other.most {
            self.note_most(what, *number);
        }
    }

    fn note_most(&mut self, what: &'static str, number: u64) {
        let most = self.most.entry(what).or_default();
        *most = number.max(*most);
    }

    pub fn counted(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }

    /// The counts, as text.
    pub fn summary(&self) -> String {
        let counts = self.counts.iter().map(|(what, count)| format!("{count} {what}"));
        let most = self.most.iter().map(|(what, number)| format!("at most {number} {what}"));
        counts.chain(most).collect::<Vec<_>>().join(", ")
    }
}

/// The queue of tasks that are ready to run, each at most once.
#[derive(Default)]
struct Ready {
    queue: VecDeque<u64>,
    queued: HashSet<u64>,
}

impl Ready {
    fn push(&mut self, id: u64) {
        if self.queued.insert(id) {
            self.queue.push_back(id);
        }
    }

    fn pop(&mut self) -> Option<u64> {
        let id = self.queue.pop_front()?;
        self.queued.remove(&id);
        Some(id)
    }
}

/// A temporary disruption of a node, the network or the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disruption {
    /// A node is paused.
    Pause,
    /// The machine of a node is suspended: its clock goes on, and its timers stop.
    Suspend,
    /// A node is paused when its next answer has arrived and was not processed yet.
    PauseAtAnAnswer,
    /// The servers are paused.
    ServersPause,
    /// All messages from and to a node are lost.
    CutOff,
    /// Messages of all nodes are delayed, lost, cut or duplicated.
    BadNetwork,
    /// The servers have no leader.
    NoLeader,
    /// A node talks to a Raft leader that is cut off from the other servers.
    IsolatedLeader,
}

/// The faults of the network, as probabilities from 0 to 1 for each message.
#[derive(Clone, Debug, Default)]
struct MessageFaults {
    longest_delay: Duration,
    request_lost: f64,
    reply_lost: f64,
    reply_cut: f64,
    duplicated: f64,
    /// A write is applied, but answered with a server error.
    commit_ambiguous: f64,
}

#[derive(Default)]
struct Network {
    faults: MessageFaults,
    cut_off: Vec<Node>,
}

struct Arrival {
    node: Node,
    request: Request<Bytes>,
    reply: oneshot::Sender<Result<Response<Bytes>, Error>>,
}

impl World {
    pub fn new(seed: u64, traced: bool) -> Rc<Self> {
        let clock = ManualClock::new();
        let agent = Agent::new(Options {
            clock: Arc::new(clock.clone()),
            seed,
            epoch: Duration::ZERO,
            ..Options::default()
        });
        let world = Rc::new(Self {
            clock,
            agent: Arc::new(agent),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            network: RefCell::default(),
            tasks: RefCell::default(),
            next_task: Cell::new(0),
            ready: Arc::default(),
            paused: RefCell::default(),
            suspensions: RefCell::default(),
            clocks_stop: Cell::new(false),
            pausing: RefCell::default(),
            arrivals: Arc::default(),
            bodies: RefCell::default(),
            trace: traced.then(RefCell::default),
            report: RefCell::default(),
            is_over: Cell::new(false),
        });
        let agent = Arc::clone(&world.agent);
        world.spawn(SERVERS, async move { match agent.run_timers().await {} });
        world
    }

    pub fn now(&self) -> Duration {
        self.clock.now().since_origin()
    }

    pub fn spawn(&self, node: Node, task: impl Future<Output = ()> + 'static) {
        let id = self.next_task.get();
        self.next_task.set(id + 1);
        self.tasks.borrow_mut().insert(id, (node, Box::pin(task)));
        self.ready.lock().expect("no panic elsewhere").push(id);
    }

    pub async fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration).await;
    }

    /// Ends [`World::run`] after this step of the clock.
    pub fn stop(&self) {
        self.is_over.set(true);
    }

    /// Runs all tasks until `end`; `observe` is called after every step of the clock.
    pub fn run(self: &Rc<Self>, end: Duration, mut observe: impl FnMut()) {
        let stop = self.clock.clone();
        self.spawn(ENVIRONMENT, async move {
            stop.sleep_until(Instant::from_origin(end)).await;
        });
        loop {
            loop {
                let next = self.ready.lock().expect("no panic elsewhere").pop();
                match next {
                    Some(id) => self.poll(id),
                    None if self.deliver() => {}
                    None => break,
                }
            }
            observe();
            if self.is_over.get() || self.now() >= end || !self.clock.advance_to_next() {
                return;
            }
        }
    }

    fn poll(&self, id: u64) {
        let Some((node, mut task)) = self.tasks.borrow_mut().remove(&id) else { return };
        if let Some(waiting) = self.paused.borrow_mut().get_mut(&node) {
            waiting.push(id);
            self.tasks.borrow_mut().insert(id, (node, task));
            return;
        }
        let waker = Waker::from(Arc::new(TaskWaker { id, ready: Arc::clone(&self.ready) }));
        if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            self.tasks.borrow_mut().insert(id, (node, task));
        }
    }

    /// Pauses a node like SIGSTOP; its clock goes on.
    fn pause(&self, node: Node) {
        self.paused.borrow_mut().entry(node).or_default();
    }

    fn suspensions(&self, node: Node) -> Suspensions {
        self.suspensions.borrow_mut().entry(node).or_default().clone()
    }

    fn resume(&self, node: Node) {
        self.pausing.borrow_mut().retain(|other| *other != node);
        let waiting = self.paused.borrow_mut().remove(&node).unwrap_or_default();
        let mut ready = self.ready.lock().expect("no panic elsewhere");
        waiting.into_iter().for_each(|id| ready.push(id));
    }

    /// Ends a node like SIGKILL.
    pub fn kill(&self, node: Node) {
        let pausing: Vec<_> = {
            let mut tasks = self.tasks.borrow_mut();
            let ids: Vec<_> =
                tasks.iter().filter(|(_, task)| task.0 == node).map(|(id, _)| *id).collect();
            ids.into_iter().filter_map(|id| tasks.remove(&id)).collect()
        };
        drop(pausing);
    }

    /// A random number from 0 to 1.
    pub fn fraction(&self) -> f64 {
        self.rng.borrow_mut().f64()
    }

    pub fn chance(&self, chance: f64) -> bool {
        self.fraction() < chance
    }

    pub fn number(&self, bounds: std::ops::Range<u64>) -> u64 {
        self.rng.borrow_mut().u64(bounds)
    }

    pub fn millis(&self, bounds: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.number(bounds))
    }

    pub fn note(&self, text: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            trace.borrow_mut().push(format!("{:>10.4} {}", self.now().as_secs_f64(), text()));
        }
    }

    /// Delays all messages by a random time, mostly short and up to this long.
    pub fn delay_messages(&self, longest: Duration) {
        self.network.borrow_mut().faults.longest_delay = longest;
    }

    pub fn count(&self, what: &'static str, count: u64) {
        *self.report.borrow_mut().counts.entry(what).or_default() += count;
    }

    /// Notes a number; the largest counts.
    pub fn note_most(&self, what: &'static str, number: u64) {
        self.report.borrow_mut().note_most(what, number);
    }

    pub fn violation(&self, what: impl FnOnce() -> String) {
        let what = format!("{:.4} s: {}", self.now().as_secs_f64(), what());
        self.note(|| format!("VIOLATION {what}"));
        let violations = &mut self.report.borrow_mut().violations;
        if violations.len() < 5 {
            violations.push(what);
        }
    }

    /// Drops all tasks and returns the report.
    pub fn end(&self) -> Report {
        // The tasks own the world and the world owns the tasks.
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
        let mut report = self.report.take();
        report.trace = self.trace.as_ref().map(RefCell::take).unwrap_or_default();
        report
    }

    /// A client for a process that starts, with its own drifting clock, and the seed of its randomness.
    pub fn client(&self, node: Node) -> (Arc<Client>, u64) {
        self.client_through(node, |transport| transport)
    }

    /// The same with a transport around that to the servers.
    pub fn client_through(
        &self,
        node: Node,
        through: impl FnOnce(Arc<dyn Transport>) -> Arc<dyn Transport>,
    ) -> (Arc<Client>, u64) {
        let rate = 0.9901 + 0.0198 * self.fraction();
        let seed = self.number(0..u64::MAX);
        let clock = Arc::new(DriftingClock {
            true_clock: self.clock.clone(),
            rate,
            suspensions: self.suspensions(node),
            stops: self.clocks_stop.get(),
        });
        let settings = Settings {
            timeout: Duration::from_secs(5),
            retry_count: 3,
            defaults: Defaults::default(),
        };
        // With one query at a time a waiter shares it.
        let max_in_flight = if seed.is_multiple_of(2) { 1 } else { 64 };
        let transport = NodeTransport { node, arrivals: Arc::clone(&self.arrivals), max_in_flight };
        let rng = fastrand::Rng::with_seed(seed);
        let transport = through(Arc::new(transport));
        (Arc::new(Client::new(vec![transport], settings, clock, rng)), seed)
    }

    /// Sends a request to the servers that is not from any node.
    pub async fn ask(&self, method: Method, path: &str, body: &'static str) -> String {
        let request =
            Request::builder().method(method).uri(path).body(Bytes::from_static(body.as_bytes()));
        let response = self.agent.handle(request.expect("a request")).await;
        String::from_utf8_lossy(response.body()).into_owned()
    }

    /// Sets the check of the service whose id begins with `service` to critical.
    pub async fn flap_check(&self, service: &str) {
        let checks = self.ask(Method::GET, "/v1/agent/checks", "").await;
        let prefix = format!("service:{service}");
        if let Some(check) = checks.split('"').find(|text| text.starts_with(&prefix)) {
            self.ask(Method::PUT, &format!("/v1/agent/check/fail/{check}"), "").await;
        }
    }

    /// Starts a disruption, which lasts until [`World::heal`].
    pub fn disrupt(&self, disruption: Disruption, node: Node) {
        match disruption {
            Disruption::Pause => self.pause(node),
            Disruption::Suspend => {
                self.pause(node);
                self.suspensions(node).begin(self.now());
            }
            Disruption::PauseAtAnAnswer => self.pausing.borrow_mut().push(node),
            Disruption::ServersPause => self.pause(SERVERS),
            Disruption::CutOff => self.network.borrow_mut().cut_off.push(node),
            Disruption::BadNetwork => {
                self.network.borrow_mut().faults = MessageFaults {
                    longest_delay: self.millis(10..3000),
                    request_lost: 0.1,
                    reply_lost: 0.1,
                    reply_cut: 0.1,
                    duplicated: 0.2,
                    commit_ambiguous: 0.1,
                };
            }
            Disruption::NoLeader => {
                self.agent.add_fault(Fault { no_leader: true, ..Fault::default() })
            }
            Disruption::IsolatedLeader => self.agent.add_fault(Fault {
                clients: vec![node.to_string()],
                isolated_leader: true,
                ..Fault::default()
            }),
        }
    }

    pub fn heal(&self, disruption: Disruption, node: Node) {
        match disruption {
            Disruption::Pause | Disruption::PauseAtAnAnswer => self.resume(node),
            Disruption::Suspend => {
                self.suspensions(node).end(self.now());
                self.resume(node);
            }
            Disruption::ServersPause => self.resume(SERVERS),
            Disruption::CutOff => self.network.borrow_mut().cut_off.retain(|other| *other != node),
            Disruption::BadNetwork => self.network.borrow_mut().faults = MessageFaults::default(),
            Disruption::NoLeader | Disruption::IsolatedLeader => self.agent.clear_faults(),
        }
    }

    /// Delivers the pending requests of the nodes; returns whether there were any.
    fn deliver(self: &Rc<Self>) -> bool {
        let arrivals = std::mem::take(&mut *self.arrivals.lock().expect("no panic elsewhere"));
        let any = !arrivals.is_empty();
        for Arrival { node, request, reply } in arrivals {
            self.count("requests", 1);
            self.note(|| format!("node {node}: {} {}", request.method(), request.uri()));
            let faults = self.network.borrow().faults.clone();
            if self.is_cut_off(node) || self.chance(faults.request_lost) {
                // No answer arrives, not even an error: the sender of the reply must not be dropped.
                self.spawn(SERVERS, hold(reply));
                continue;
            }
            if self.chance(faults.duplicated) {
                let again = request.clone();
                let world = Rc::clone(self);
                let late = self.delay(&faults) * 4;
                self.spawn(SERVERS, async move {
                    world.sleep(late).await;
                    world.note(|| format!("node {node}: a copy of {} arrives", again.uri()));
                    let _ = world.servers(node).send(again).await;
                });
            }
            let there = self.delay(&faults);
            let world = Rc::clone(self);
            self.spawn(SERVERS, async move {
                world.sleep(there).await;
                let is_write = request.method() != Method::GET;
                let path = request.uri().path().to_owned();
                let answer = world.servers(node).send(request).await;
                let answer = answer.map(|answer| answer.map(|body| world.shared(path, body)));
                let faults = world.network.borrow().faults.clone();
                world.sleep(world.delay(&faults)).await;
                if world.is_cut_off(node) || world.chance(faults.reply_lost) {
                    return hold(reply).await;
                }
                let answer = match answer {
                    Ok(_) if world.chance(faults.reply_cut) => {
                        Err(Error::new(Kind::Connect, "the connection was cut").retryable())
                    }
                    Ok(_) if is_write && world.chance(faults.commit_ambiguous) => {
                        let text = "leadership lost while committing log";
                        let mut answer = Response::new(Bytes::from_static(text.as_bytes()));
                        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                        Ok(answer)
                    }
                    answer => answer,
                };
                if world.pausing.borrow().contains(&node) {
                    world.pause(node);
                }
                let _ = reply.send(answer);
            });
        }
        any
    }

    /// The same body, in the memory of the last one of this path if that is equal.
    fn shared(&self, path: String, body: Bytes) -> Bytes {
        let mut bodies = self.bodies.borrow_mut();
        let last = bodies.entry(path).or_default();
        if *last != body {
            *last = body;
        }
        last.clone()
    }

    fn servers(&self, node: Node) -> SimTransport {
        SimTransport::new(Arc::clone(&self.agent), "servers").for_client(node.to_string())
    }

    fn is_cut_off(&self, node: Node) -> bool {
        self.network.borrow().cut_off.contains(&node)
    }

    /// A random delay, mostly short and sometimes long.
    fn delay(&self, faults: &MessageFaults) -> Duration {
        const USUAL: Duration = Duration::from_micros(300);
        USUAL + faults.longest_delay.mul_f64(self.fraction().powi(4))
    }
}

async fn hold<T>(value: T) {
    std::future::pending::<()>().await;
    drop(value);
}

struct TaskWaker {
    id: u64,
    ready: Arc<Mutex<Ready>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.lock().expect("no panic elsewhere").push(self.id);
    }
}

/// The transport from a node to the servers.
#[derive(Debug)]
struct NodeTransport {
    node: Node,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    max_in_flight: usize,
}

impl std::fmt::Debug for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} from {}", self.request.uri(), self.node)
    }
}

impl Transport for NodeTransport {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let (reply, answer) = oneshot::channel();
        self.arrivals.lock().expect("no panic elsewhere").push(Arrival {
            node: self.node,
            request,
            reply,
        });
        Box::pin(async move {
            answer.await.unwrap_or_else(|_| Err(Error::new(Kind::Connect, "the servers are gone")))
        })
    }

    fn endpoint(&self) -> &str {
        "servers"
    }

    fn max_in_flight(&self) -> usize {
        self.max_in_flight
    }
}

/// How long a machine has been suspended, and since when it is.
#[derive(Clone, Debug, Default)]
struct Suspensions(Arc<Mutex<(Duration, Option<Duration>)>>);

impl Suspensions {
    fn begin(&self, now: Duration) {
        self.0.lock().expect("no panic elsewhere").1.get_or_insert(now);
    }

    fn end(&self, now: Duration) {
        let mut it = self.0.lock().expect("no panic elsewhere");
        if let Some(since) = it.1.take() {
            it.0 += now - since;
        }
    }

    fn total(&self) -> Duration {
        self.0.lock().expect("no panic elsewhere").0
    }

    fn total_until(&self, now: Duration) -> Duration {
        let it = self.0.lock().expect("no panic elsewhere");
        it.0 + it.1.map_or(Duration::ZERO, |since| now - since)
    }
}

/// A node's clock, a little faster or slower than that of the servers. It goes on while its machine is suspended, unlike its
/// timers, as that of a real machine does.
#[derive(Debug)]
struct DriftingClock {
    true_clock: ManualClock,
    /// Seconds of this clock per second of the true clock.
    rate: f64,
    suspensions: Suspensions,
    /// Whether it stands still meanwhile.
    stops: bool,
}

impl Clock for DriftingClock {
    fn now(&self) -> Instant {
        let now = self.true_clock.now().since_origin();
        let lacks = if self.stops { self.suspensions.total_until(now) } else { Duration::ZERO };
        Instant::from_origin((now - lacks).mul_f64(self.rate))
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let mut at = deadline.since_origin().div_f64(self.rate) + Duration::from_nanos(2);
        let (clock, suspensions) = (self.true_clock.clone(), self.suspensions.clone());
        let mut before = suspensions.total();
        if self.stops {
            at += before;
        }
        Box::pin(async move {
            loop {
                clock.sleep_until(Instant::from_origin(at)).await;
                let suspended = suspensions.total() - before;
                if suspended.is_zero() {
                    return;
                }
                (at, before) = (at + suspended, before + suspended);
            }
        })
    }
}
