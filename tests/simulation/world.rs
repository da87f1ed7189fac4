//! A world of processes that share a Consul, on one thread and one virtual clock: the same seed
//! gives the same history.

use bytes::Bytes;
use consul_ffi::client::{Client, Settings};
use consul_ffi::clock::{BoxFuture, Clock, Instant, ManualClock};
use consul_ffi::error::{Error, Kind};
use consul_ffi::simulate::{Agent, Fault, Options, SimTransport};
use consul_ffi::transport::Transport;
use consul_ffi::wire::request::Defaults;
use http::{Method, Request, Response, StatusCode};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;
use tokio::sync::oneshot;

/// A place where tasks run: a process of ours, or the servers.
pub type Node = usize;

/// Where the servers run, and where what acts upon all of them does.
pub const SERVERS: Node = usize::MAX;
pub const FATE: Node = usize::MAX - 1;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// All that happens.
pub struct World {
    pub clock: ManualClock,
    pub agent: Arc<Agent>,
    rng: RefCell<fastrand::Rng>,
    network: RefCell<Network>,
    tasks: RefCell<BTreeMap<u64, (Node, Task)>>,
    next_task: Cell<u64>,
    ready: Arc<Mutex<Ready>>,
    /// The nodes that stand still, with their tasks that would run.
    paused: RefCell<BTreeMap<Node, Vec<u64>>>,
    /// The nodes that stop at the moment at which their next answer arrives.
    doomed: RefCell<Vec<Node>>,
    /// Requests from nodes to the servers, which run there.
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    trace: Option<RefCell<Vec<String>>>,
    report: RefCell<Report>,
}

/// What came of a history.
#[derive(Clone, Debug, Default)]
pub struct Report {
    counts: BTreeMap<&'static str, u64>,
    pub violations: Vec<String>,
    pub trace: Vec<String>,
}

impl Report {
    pub fn add(&mut self, other: &Report) {
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }

    pub fn counted(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }

    /// What was counted, in words.
    pub fn summary(&self) -> String {
        let counts = self.counts.iter().map(|(what, count)| format!("{count} {what}"));
        counts.collect::<Vec<_>>().join(", ")
    }
}

/// The tasks that can go on, each once.
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

/// What goes wrong for a while, whatever runs on the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// A node stands still.
    Pause,
    /// A node stands still when its next answer has arrived and was not looked at.
    PauseAtAnAnswer,
    /// The servers stand still.
    ServersPause,
    /// Nothing from a node arrives, nor anything for it.
    CutOff,
    /// Messages are late, lost, cut or there twice, whoever sends them.
    BadWeather,
    /// The servers have no leader.
    NoLeader,
    /// A node speaks to a leader that is cut off from the other servers.
    IsolatedLeader,
}

/// What the network does to each message. Chances are from 0 to 1.
#[derive(Clone, Debug, Default)]
struct Weather {
    longest_delay: Duration,
    request_lost: f64,
    reply_lost: f64,
    reply_cut: f64,
    duplicated: f64,
    /// A write is applied and answered with an error of the servers.
    commit_ambiguous: f64,
}

#[derive(Default)]
struct Network {
    weather: Weather,
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
            doomed: RefCell::default(),
            arrivals: Arc::default(),
            trace: traced.then(RefCell::default),
            report: RefCell::default(),
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

    /// Lets everything happen until `end`; `look` is called after every moment.
    pub fn run(self: &Rc<Self>, end: Duration, mut look: impl FnMut()) {
        let stop = self.clock.clone();
        self.spawn(FATE, async move {
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
            look();
            if self.now() >= end || !self.clock.advance_to_next() {
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

    /// Stops a node as SIGSTOP does; its clock goes on.
    fn pause(&self, node: Node) {
        self.paused.borrow_mut().entry(node).or_default();
    }

    fn resume(&self, node: Node) {
        self.doomed.borrow_mut().retain(|other| *other != node);
        let waiting = self.paused.borrow_mut().remove(&node).unwrap_or_default();
        let mut ready = self.ready.lock().expect("no panic elsewhere");
        waiting.into_iter().for_each(|id| ready.push(id));
    }

    /// Ends a node as SIGKILL does.
    pub fn kill(&self, node: Node) {
        let doomed: Vec<_> = {
            let mut tasks = self.tasks.borrow_mut();
            let ids: Vec<_> =
                tasks.iter().filter(|(_, task)| task.0 == node).map(|(id, _)| *id).collect();
            ids.into_iter().filter_map(|id| tasks.remove(&id)).collect()
        };
        drop(doomed);
    }

    /// A number from 0 to 1.
    pub fn part(&self) -> f64 {
        self.rng.borrow_mut().f64()
    }

    pub fn chance(&self, chance: f64) -> bool {
        self.part() < chance
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

    pub fn count(&self, what: &'static str, count: u64) {
        *self.report.borrow_mut().counts.entry(what).or_default() += count;
    }

    pub fn violation(&self, what: impl FnOnce() -> String) {
        let what = format!("{:.4} s: {}", self.now().as_secs_f64(), what());
        self.note(|| format!("VIOLATION {what}"));
        let violations = &mut self.report.borrow_mut().violations;
        if violations.len() < 5 {
            violations.push(what);
        }
    }

    /// Ends everything, and says what came of it.
    pub fn end(&self) -> Report {
        // Tasks hold the world that holds them.
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
        let mut report = self.report.take();
        report.trace = self.trace.as_ref().map(RefCell::take).unwrap_or_default();
        report
    }

    /// A client of a process that starts, on a clock of its own; and what its randomness begins with.
    pub fn client(&self, node: Node) -> (Arc<Client>, u64) {
        let rate = 0.9901 + 0.0198 * self.part();
        let seed = self.number(0..u64::MAX);
        let clock = Arc::new(DriftingClock { true_clock: self.clock.clone(), rate });
        let settings = Settings {
            timeout: Duration::from_secs(5),
            retry_count: 3,
            defaults: Defaults::default(),
        };
        let transport = NodeTransport { node, arrivals: Arc::clone(&self.arrivals) };
        let rng = fastrand::Rng::with_seed(seed);
        (Arc::new(Client::new(vec![Arc::new(transport)], settings, clock, rng)), seed)
    }

    /// What somebody asks of the servers who has nothing to do with the nodes.
    pub async fn ask(&self, method: Method, path: &str, body: &'static str) -> String {
        let request =
            Request::builder().method(method).uri(path).body(Bytes::from_static(body.as_bytes()));
        let response = self.agent.handle(request.expect("a request")).await;
        String::from_utf8_lossy(response.body()).into_owned()
    }

    /// Lets the check of a service fail whose id begins so.
    pub async fn flap_check(&self, service: &str) {
        let checks = self.ask(Method::GET, "/v1/agent/checks", "").await;
        let prefix = format!("service:{service}");
        if let Some(check) = checks.split('"').find(|text| text.starts_with(&prefix)) {
            self.ask(Method::PUT, &format!("/v1/agent/check/fail/{check}"), "").await;
        }
    }

    /// Something goes wrong with a node, the network or the servers, until [`World::mend`].
    pub fn harm(&self, harm: Harm, node: Node) {
        match harm {
            Harm::Pause => self.pause(node),
            Harm::PauseAtAnAnswer => self.doomed.borrow_mut().push(node),
            Harm::ServersPause => self.pause(SERVERS),
            Harm::CutOff => self.network.borrow_mut().cut_off.push(node),
            Harm::BadWeather => {
                self.network.borrow_mut().weather = Weather {
                    longest_delay: self.millis(10..3000),
                    request_lost: 0.1,
                    reply_lost: 0.1,
                    reply_cut: 0.1,
                    duplicated: 0.2,
                    commit_ambiguous: 0.1,
                };
            }
            Harm::NoLeader => self.agent.add_fault(Fault { no_leader: true, ..Fault::default() }),
            Harm::IsolatedLeader => self.agent.add_fault(Fault {
                clients: vec![node.to_string()],
                isolated_leader: true,
                ..Fault::default()
            }),
        }
    }

    pub fn mend(&self, harm: Harm, node: Node) {
        match harm {
            Harm::Pause | Harm::PauseAtAnAnswer => self.resume(node),
            Harm::ServersPause => self.resume(SERVERS),
            Harm::CutOff => self.network.borrow_mut().cut_off.retain(|other| *other != node),
            Harm::BadWeather => self.network.borrow_mut().weather = Weather::default(),
            Harm::NoLeader | Harm::IsolatedLeader => self.agent.clear_faults(),
        }
    }

    /// Sends what the nodes have asked on its way; whether there was any.
    fn deliver(self: &Rc<Self>) -> bool {
        let arrivals = std::mem::take(&mut *self.arrivals.lock().expect("no panic elsewhere"));
        let any = !arrivals.is_empty();
        for Arrival { node, request, reply } in arrivals {
            self.count("requests", 1);
            let weather = self.network.borrow().weather.clone();
            if self.is_cut_off(node) || self.chance(weather.request_lost) {
                // Nothing comes back, not even an error: the reply's sender must live.
                self.spawn(SERVERS, hold(reply));
                continue;
            }
            if self.chance(weather.duplicated) {
                let again = request.clone();
                let world = Rc::clone(self);
                let late = self.delay(&weather) * 4;
                self.spawn(SERVERS, async move {
                    world.sleep(late).await;
                    world.note(|| format!("node {node}: a copy of {} arrives", again.uri()));
                    let _ = world.servers(node).send(again).await;
                });
            }
            let there = self.delay(&weather);
            let world = Rc::clone(self);
            self.spawn(SERVERS, async move {
                world.sleep(there).await;
                let is_write = request.method() != Method::GET;
                let answer = world.servers(node).send(request).await;
                let weather = world.network.borrow().weather.clone();
                world.sleep(world.delay(&weather)).await;
                if world.is_cut_off(node) || world.chance(weather.reply_lost) {
                    return hold(reply).await;
                }
                let answer = match answer {
                    Ok(_) if world.chance(weather.reply_cut) => {
                        Err(Error::new(Kind::Connect, "the connection was cut").transient())
                    }
                    Ok(_) if is_write && world.chance(weather.commit_ambiguous) => {
                        let text = "leadership lost while committing log";
                        let mut answer = Response::new(Bytes::from_static(text.as_bytes()));
                        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                        Ok(answer)
                    }
                    answer => answer,
                };
                if world.doomed.borrow().contains(&node) {
                    world.pause(node);
                }
                let _ = reply.send(answer);
            });
        }
        any
    }

    fn servers(&self, node: Node) -> SimTransport {
        SimTransport::new(Arc::clone(&self.agent), "servers").for_client(node.to_string())
    }

    fn is_cut_off(&self, node: Node) -> bool {
        self.network.borrow().cut_off.contains(&node)
    }

    /// Mostly short, sometimes long.
    fn delay(&self, weather: &Weather) -> Duration {
        const USUAL: Duration = Duration::from_micros(300);
        USUAL + weather.longest_delay.mul_f64(self.part().powi(4))
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

/// A node's way to the servers.
#[derive(Debug)]
struct NodeTransport {
    node: Node,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
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
}

/// A node's clock, which goes a little faster or slower than the servers'.
#[derive(Debug)]
struct DriftingClock {
    true_clock: ManualClock,
    /// Seconds of this clock in a true second.
    rate: f64,
}

impl Clock for DriftingClock {
    fn now(&self) -> Instant {
        Instant::from_origin(self.true_clock.now().since_origin().mul_f64(self.rate))
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let at = deadline.since_origin().div_f64(self.rate) + Duration::from_nanos(2);
        self.true_clock.sleep_until(Instant::from_origin(at))
    }
}
