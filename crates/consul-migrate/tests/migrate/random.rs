//! Random keyspaces and histories, with faults of both sides, with instances that are killed or go on
//! although others have replaced them: both sides are equal in the end, and after the way back.
//!
//!     SEED=17 cargo test … --test migrate random      one seed
//!     FROM=200 SEEDS=300 cargo test …                 those from 200 to 299

pub mod beside;
pub mod between;
pub mod compacted;
pub mod doubled;
pub mod dropped;
pub mod emptied;
pub mod finished;
pub mod frozen;
pub mod held_up;
pub mod holder;
pub mod imports;
pub mod kept;
pub mod late;
pub mod lifted;
pub mod lost;
pub mod numbers;
pub mod odd_names;
pub mod overtaken;
pub mod rare;
pub mod refused;
pub mod replaced;
pub mod restored;
pub mod resumed;
pub mod roles;
pub mod silent;
pub mod sizes;
pub mod strangers;
pub mod switched;
pub mod together;
pub mod url_names;
pub mod waits;

use super::fake::{Change, Fake};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::request::Defaults;
use consul_client::transport::Transport;
use consul_client::{Client, Settings};
use consul_migrate::etcd::{Etcd, KeyValue};
use consul_migrate::job::{self, Instance, Job, Keys, Phase, Record};
use consul_migrate::mapping::{Choice, Mapping, Op, Problem, hex};
use consul_migrate::snapshot::survey::{Kept, survey};
use consul_migrate::target::{Outcome, Target};
use consul_migrate::{
    CutOver, Freeze, Frozen, MayChange, Pace, Report, Run, Stop, Until, cut_over, load, roll_back,
    tail,
};
use consul_process::clock::{BoxFuture, Clock, ManualClock};
use consul_sim::{Agent, KeyNames, Options, SimTransport};
use futures_util::future::{Either, join, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{Request, Response};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;

const SEEDS: u64 = 200;
const LONG_SEEDS: u64 = 5000;

/// An instance that was replaced raises its alarm after the other one has looked for those that were left.
const LATE_ALARM: u64 = 1271;

/// An instance that was replaced raises its alarm while the other one puts its sentinels.
const ALARM_BEFORE_SENTINEL: [u64; 2] = [4203, 4534];

/// An instance is replaced before it has read the record, which names the other one's alarm then.
const LATE_RECORD: u64 = 3391;

/// An instance takes over a job that is switched at that moment, and follows etcd, which has compacted its changes.
const COMPACTED_AFTER_SWITCH: u64 = 5014;

/// How many of the seeds of a part are run again with requests that arrive late.
const LATE_SEEDS: u64 = 10;

/// In each seed that this divides, etcd says often how far it is.
const NOTIFIED: u64 = 5;

/// By how much, in milliseconds.
const LATE: [u64; 4] = [20, 150, 600, 3000];

const PACE: Pace = Pace { page: 7, in_flight: 3 };

const PATIENCE: Duration = Duration::from_secs(60);

const STEMS: &[&[u8]] = &[
    b"a",
    b"b",
    b"c",
    b"d/e",
    b"d/f",
    b"",
    b"g//h",
    b"../i",
    b"nul\0",
    b"\xff",
    b"\xffz",
    b"_etcd/x",
    b"_migrate/x",
    b"z/",
];

/// The parts of the seeds, which are tests of their own.
pub const PARTS: u64 = 4;

pub fn run(part: u64) {
    if let Some(seed) = number("SEED") {
        if part == 0 {
            history(seed, false);
            history(seed, true);
        }
        return;
    }
    let count = if std::env::var_os("LONG").is_some() { LONG_SEEDS } else { SEEDS };
    let seeds = number("FROM").unwrap_or(0)..number("SEEDS").unwrap_or(count);
    let always = [LATE_ALARM, LATE_RECORD, COMPACTED_AFTER_SWITCH];
    let always = always.into_iter().chain(ALARM_BEFORE_SENTINEL);
    let late = (0..PARTS * LATE_SEEDS).map(|seed| (seed, true));
    let all = seeds.chain(always).map(|seed| (seed, false)).chain(late);
    for (seed, is_late) in all.filter(|(seed, _)| seed % PARTS == part) {
        let done = std::panic::catch_unwind(|| history(seed, is_late));
        assert!(done.is_ok(), "SEED={seed}");
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

type Bodies = Arc<Mutex<Option<(usize, &'static str)>>>;

struct World {
    clock: ManualClock,
    fake: Fake,
    etcd: Etcd,
    target: Target,
    /// Without faults.
    direct: Target,
    mapping: Mapping,
    is_over: Arc<AtomicBool>,
    is_late: Arc<AtomicBool>,
    /// How long, in milliseconds, each request and each answer is on its way, also of a call that is dropped meanwhile.
    way_ms: Arc<AtomicU64>,
    /// Whether a proxy before Consul sends each write twice, and answers with the second answer.
    is_doubled: Arc<AtomicBool>,
    /// The largest body that something before Consul lets through, and its answer to larger ones, with status 413.
    bodies: Bodies,
    /// Consul.
    agent: Arc<Agent>,
    /// Another server, which is asked about names in its place.
    judge: Arc<Mutex<Option<Arc<SimTransport>>>>,
}

/// A transport to the simulated agent, with faults.
#[derive(Debug)]
struct Faulty {
    works: Arc<SimTransport>,
    /// Whether requests that were given up may still arrive, late.
    is_late: Arc<AtomicBool>,
    way_ms: Arc<AtomicU64>,
    is_doubled: Arc<AtomicBool>,
    bodies: Bodies,
    rng: Mutex<fastrand::Rng>,
    clock: ManualClock,
    faults: u8,
    /// An agent of a newer release, which refuses names in its place.
    judge: Arc<Mutex<Option<Arc<SimTransport>>>>,
}

impl Transport for Faulty {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let (fault, pause) = {
            let rng = &mut *self.rng.lock().unwrap();
            ((rng.u8(..100) < self.faults).then(|| rng.u8(..3)), rng.u64(0..4))
        };
        let broken = || Error::new(Kind::Connect, "simulated: connection reset").retryable();
        Box::pin(async move {
            self.clock.sleep(Duration::from_millis(pause)).await;
            match fault {
                Some(0) if self.is_late.load(Ordering::Relaxed) => {
                    let (works, clock) = (Arc::clone(&self.works), self.clock.clone());
                    self.clock.spawn(async move {
                        clock.sleep(Duration::from_millis(LATE[pause as usize])).await;
                        let _ = works.send(request).await;
                    });
                    return Err(broken());
                }
                Some(0) => return Err(broken().not_sent()),
                Some(1) => self.clock.sleep(Duration::from_millis(900)).await,
                _ => {}
            }
            let bodies = *self.bodies.lock().unwrap();
            if let Some((most, text)) = bodies
                && request.body().len() > most
            {
                let refused = Response::builder().status(413);
                return Ok(refused.body(Bytes::from_static(text.as_bytes())).unwrap());
            }
            let judge = self.judge.lock().unwrap().clone();
            if let Some(judge) = judge {
                let judged = judge.send(copied(&request)).await?;
                if judged.body().windows(11).any(|it| it == b"invalid key") {
                    return Ok(judged);
                }
            }
            if request.method() == "PUT" && self.is_doubled.load(Ordering::Relaxed) {
                let _ = self.works.send(copied(&request)).await;
            }
            let way = Duration::from_millis(self.way_ms.load(Ordering::Relaxed));
            let (works, clock) = (Arc::clone(&self.works), self.clock.clone());
            let (answered, answer) = oneshot::channel();
            let goes = async move {
                clock.sleep(way).await;
                let answer = works.send(request).await;
                clock.sleep(way).await;
                let _ = answered.send(answer);
            };
            match way {
                Duration::ZERO => goes.await,
                _ => _ = self.clock.spawn(goes),
            }
            let answer = answer.await.unwrap();
            if fault == Some(2) { Err(broken()) } else { answer }
        })
    }

    fn endpoint(&self) -> &str {
        "simulated"
    }
}

/// The same request.
fn copied(request: &Request<Bytes>) -> Request<Bytes> {
    let mut copied = Request::new(request.body().clone());
    *copied.method_mut() = request.method().clone();
    *copied.uri_mut() = request.uri().clone();
    copied
}

struct Silent;

impl Report for Silent {
    fn progress(&self, _: &'static str, _: u64, _: Option<u64>) {}
    fn note(&self, _: &str) {}
}

impl World {
    fn new(seed: u64, rng: &mut fastrand::Rng) -> World {
        let faults = rng.choice([0, 3, 10]).unwrap();
        World::with_faults(faults, seed, rng)
    }

    /// `faults`: how many of a hundred requests have one.
    fn with_faults(faults: u8, seed: u64, rng: &mut fastrand::Rng) -> World {
        let clock = ManualClock::new();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let agent = Options { clock: Arc::clone(&shared), seed, ..Options::default() };
        let agent = Arc::new(Agent::new(agent));
        let timers = Arc::clone(&agent);
        clock.spawn(async move { match timers.run_timers().await {} });
        let fake = Fake::new(&clock, rng.u64(..), faults);
        if seed.is_multiple_of(2) {
            fake.speak_grpc();
        }
        let target = |transport: Arc<dyn Transport>, max_ops| {
            let settings = Settings {
                timeout: Duration::from_secs(5),
                retry_count: 2,
                defaults: Defaults::default(),
            };
            let rng = fastrand::Rng::with_seed(seed);
            let client = Client::new(vec![transport], settings, Arc::clone(&shared), rng);
            Target::new(Arc::new(client), PATIENCE, max_ops)
        };
        let works = || SimTransport::new(Arc::clone(&agent), "simulated");
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        let (is_late, way_ms) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let is_doubled = Arc::<AtomicBool>::default();
        let faulty = Faulty {
            works: Arc::new(works()),
            is_late: Arc::clone(&is_late),
            way_ms: Arc::clone(&way_ms),
            is_doubled: Arc::clone(&is_doubled),
            bodies: Arc::default(),
            rng: random,
            clock: clock.clone(),
            faults,
            judge: Arc::default(),
        };
        let (judge, bodies) = (Arc::clone(&faulty.judge), Arc::clone(&faulty.bodies));
        let servers = vec![Arc::new(fake.clone()) as _];
        World {
            etcd: Etcd::new(servers, None, Arc::clone(&shared), Duration::from_secs(5), PATIENCE),
            target: target(Arc::new(faulty), rng.usize(4..64)),
            direct: target(Arc::new(works()), 64),
            mapping: mapping(rng),
            is_over: Arc::default(),
            is_late,
            way_ms,
            is_doubled,
            bodies,
            agent,
            judge,
            fake,
            clock,
        }
    }

    /// All keys of etcd, without prefixes; no key is refused but by these choices, and no request has a fault.
    fn plain(seed: u64, on: &[(Problem, Choice)]) -> World {
        let world = World::with_faults(0, seed, &mut fastrand::Rng::with_seed(seed));
        let mapping = Mapping {
            etcd_prefix: Vec::new(),
            consul_prefix: String::new(),
            on: on.iter().copied().collect(),
            ..world.mapping.clone()
        };
        World { mapping, ..world }
    }

    /// From now on the server refuses the names that this release refuses.
    fn upgrade(&self, release: KeyNames) {
        let settings = consul_sim::settings::Settings { key_names: release, ..Default::default() };
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let agent = Agent::new(Options { settings, clock, ..Options::default() });
        *self.judge.lock().unwrap() = Some(Arc::new(SimTransport::new(Arc::new(agent), "judge")));
    }

    /// The same with a Consul of these settings.
    fn with(self, settings: consul_sim::settings::Settings) -> World {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let options = Options { settings, clock: Arc::clone(&clock), ..Options::default() };
        let agent = Arc::new(Agent::new(options));
        let transport = Arc::new(SimTransport::new(Arc::clone(&agent), "direct"));
        let settings = Settings {
            timeout: Duration::from_secs(5),
            retry_count: 2,
            defaults: Defaults::default(),
        };
        let client = Client::new(vec![transport], settings, clock, fastrand::Rng::with_seed(1));
        let direct = Target::new(Arc::new(client), PATIENCE, 64);
        World { direct, agent, ..self }.again()
    }

    /// The same world for another process.
    fn again(self) -> World {
        let (clock, works) =
            (self.clock.clone(), Arc::new(SimTransport::new(self.agent.clone(), "simulated")));
        let (rng, judge) = (Mutex::new(fastrand::Rng::with_seed(1)), Arc::clone(&self.judge));
        let (is_late, way_ms) = (Arc::clone(&self.is_late), Arc::clone(&self.way_ms));
        let is_doubled = Arc::clone(&self.is_doubled);
        let bodies = Arc::clone(&self.bodies);
        let faulty =
            Faulty { works, is_late, way_ms, is_doubled, bodies, rng, clock, faults: 0, judge };
        let settings = Settings {
            timeout: Duration::from_secs(5),
            retry_count: 2,
            defaults: Defaults::default(),
        };
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let client =
            Client::new(vec![Arc::new(faulty)], settings, clock, fastrand::Rng::with_seed(1));
        World { target: Target::new(Arc::new(client), PATIENCE, 64), ..self }
    }

    /// Works in the time of this world.
    fn works<R>(&self, work: impl Future<Output = R>) -> R {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.clock.drive(work))
    }

    /// Sets or deletes a key of etcd.
    fn put(&self, key: &str, value: Option<&str>) {
        let value = value.map(|value| (Bytes::copy_from_slice(value.as_bytes()), 0));
        assert!(self.fake.write(&[(key.as_bytes().to_vec(), value)]));
    }

    /// The text of a key in Consul.
    async fn stored(&self, key: &str) -> Option<String> {
        let stored = self.direct.entries(&[key]).await.unwrap().pop().flatten()?;
        Some(String::from_utf8(stored.value.to_vec()).unwrap())
    }

    /// The wanted content of Consul for a revision of etcd.
    fn wanted(&self, mapping: &Mapping, revision: u64) -> BTreeMap<String, Bytes> {
        let (mut wanted, mut keys) = (BTreeMap::new(), self.fake.at(revision));
        keys.retain(|key, _| key.starts_with(&mapping.etcd_prefix));
        for (key, entry) in keys {
            let mut kv = KeyValue::default();
            (kv.key.0, kv.value.0) = (key.into(), entry.value);
            kv.lease.0 = entry.lease;
            for op in mapping.load(&kv) {
                let Op::Set { key, value, .. } = op else { continue };
                assert!(wanted.insert(key.clone(), value).is_none(), "{key:?} twice");
            }
        }
        wanted
    }

    /// The content of Consul.
    async fn found(&self) -> BTreeMap<String, Bytes> {
        let mut names = self.direct.keys("", None).await.unwrap();
        names.retain(|name| !name.starts_with("_migrate/"));
        let mut found = BTreeMap::new();
        for names in names.chunks(64) {
            let asked: Vec<&str> = names.iter().map(String::as_str).collect();
            let entries = self.direct.entries(&asked).await.unwrap();
            let values = entries.into_iter().map(|entry| entry.unwrap().value);
            found.extend(names.iter().cloned().zip(values));
        }
        found
    }

    async fn record(&self) -> Option<Record> {
        let record = job::record(&self.direct, &Keys::new("job")).await.unwrap();
        record.map(|(record, _)| record)
    }

    async fn hold(&self, number: u64) -> Result<(Run<'_>, Kept), Stop> {
        let found = survey(&self.etcd, &self.target, &self.mapping, PACE, &Silent).await?;
        let mapping = found.completed(&self.mapping);
        let new = Record::new(found.cluster_id, mapping, found.revision, false);
        let me = instance(number);
        let job = Job::hold(&self.target, "job", me, &|_| true, true, Some(new)).await?;
        let run = Run { etcd: &self.etcd, job, pace: PACE, report: Arc::new(Silent) };
        Ok((run, found.kept))
    }

    /// One run of the program: a tail, or a cut-over, which returns what it did.
    async fn instance(&self, number: u64, cuts: bool) -> Result<Option<CutOver>, Stop> {
        let frozen = Frozen::default();
        let done = async {
            let (run, kept) = self.hold(number).await?;
            if number.is_multiple_of(2) {
                load(&run, kept).await?;
            }
            if !cuts {
                return tail(&run, &Until::Dropped).await.map(|_| None);
            }
            let consent = async |_| {
                self.clock.sleep(Duration::from_millis(50)).await;
                Ok(())
            };
            let limit = Duration::from_secs(120);
            cut_over(&run, Freeze::Alarm, &frozen, limit, consent).await.map(Some)
        };
        let done = done.await;
        if done.is_err() {
            frozen.lift(&self.etcd, &self.target, &Keys::new("job")).await?;
        }
        done
    }
}

fn instance(number: u64) -> Instance {
    let text = |text: &str| text.to_owned();
    let (id, host, boot, verb) = (number.to_string(), text("h"), text("b"), text("tail"));
    Instance { id, host, boot, process: 1, verb }
}

fn mapping(rng: &mut fastrand::Rng) -> Mapping {
    let choice = |rng: &mut fastrand::Rng| rng.choice([Choice::Skip, Choice::Encode]).unwrap();
    // No key has these kinds: so the seeds are as they were before there were those.
    let later = [Problem::UrlKey, Problem::LongKey, Problem::HugeKey];
    let problems = Problem::ALL.iter().filter(|problem| !later.contains(problem));
    Mapping {
        etcd_prefix: rng.choice([&b""[..], b"/", b"/d"]).unwrap().to_vec(),
        consul_prefix: rng.choice(["", "copy/"]).unwrap().to_owned(),
        on: problems.map(|problem| (*problem, choice(rng))).collect(),
        form: None,
        mark: rng.u64(1..1 << 48),
        refused: BTreeSet::new(),
    }
}

fn key(rng: &mut fastrand::Rng) -> Vec<u8> {
    let stem = *rng.choice(STEMS).unwrap();
    let key = if rng.u8(..4) > 0 { [b"/", stem].concat() } else { stem.to_vec() };
    // etcd has no empty key.
    if key.is_empty() { b"/".to_vec() } else { key }
}

fn changes(rng: &mut fastrand::Rng) -> Vec<Change> {
    let count = rng.choice([1, 1, 1, 5, 12]).unwrap();
    let mut changes = BTreeMap::new();
    for _ in 0..count {
        let size = match rng.u16(..400) {
            0 => rng.choice([390_000, 530_000, 800_000]).unwrap(),
            _ => rng.usize(..40),
        };
        let lease = u64::from(rng.u8(..10) == 0);
        let value = (rng.u8(..3) > 0).then(|| (vec![rng.u8(..); size].into(), lease));
        changes.insert(key(rng), value);
    }
    changes.into_iter().collect()
}

/// A program that writes to etcd.
async fn write(fake: Fake, clock: ManualClock, is_over: Arc<AtomicBool>, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    loop {
        clock.sleep(Duration::from_millis(rng.u64(5..400))).await;
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        fake.write(&changes(&mut rng));
        if rng.u8(..40) == 0 {
            fake.compact();
        }
    }
}

fn history(seed: u64, is_late: bool) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let world = match is_late {
        true => World::with_faults(20, seed, &mut rng),
        false => World::new(seed, &mut rng),
    };
    world.is_late.store(is_late, Ordering::Relaxed);
    if seed.is_multiple_of(NOTIFIED) {
        world.fake.notify_every(Duration::from_millis(300));
    }
    // There is always a key to move.
    world.fake.write(&[(b"/d/kept".to_vec(), Some((Bytes::new(), 0)))]);
    for _ in 0..rng.usize(..40) {
        world.fake.write(&changes(&mut rng));
    }
    for _ in 0..2 {
        let (fake, clock, is_over) =
            (world.fake.clone(), world.clock.clone(), Arc::clone(&world.is_over));
        world.clock.spawn(write(fake, clock, is_over, rng.u64(..)));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(world.clock.drive(async {
        let revision = move_over(&world, &mut rng).await;
        world.is_over.store(true, Ordering::Relaxed);
        let Record { mapping, alarms, .. } = world.record().await.unwrap();
        let on = world.fake.alarms();
        assert!(!on.is_empty(), "etcd takes writes");
        assert!(on.iter().all(|alarm| alarms.contains(alarm)), "{on:?} of {alarms:?}");
        let (found, wanted) = (world.found().await, world.wanted(&mapping, revision));
        let differing = differing(&found, &wanted);
        assert!(differing.is_empty(), "after the cut-over: {differing:?}");
        go_back(&world, &mapping, &mut rng).await;
    }));
}

/// Runs the program until a cut-over comes to its end; returns the revision that it has compared.
async fn move_over(world: &World, rng: &mut fastrand::Rng) -> u64 {
    let kills = rng.u64(..6);
    let mut replaced = FuturesUnordered::new();
    for number in 0.. {
        let (is_last, cuts) = (number >= kills, number >= kills || rng.bool());
        if is_last {
            world.fake.heal();
        }
        let mut work = Box::pin(world.instance(number, cuts));
        let life = Duration::from_millis(if is_last { 3_600_000 } else { rng.u64(..4000) });
        let ended = {
            let others = pin!(async {
                while replaced.next().await.is_some() {}
                world.clock.sleep(life).await;
            });
            let life = pin!(world.clock.sleep(life));
            match select(work.as_mut(), select(life, others)).await {
                Either::Left((ended, _)) => Some(ended),
                Either::Right(_) => None,
            }
        };
        match ended {
            Some(Ok(Some(done))) => {
                assert!(done.differences.is_empty(), "{:?}", done.differences);
                return done.revision;
            }
            // Another instance, replaced since, may have held the job for a moment. A compaction while all keys
            // are counted, or compared, ends the run.
            Some(Err(Stop::Held(_) | Stop::Compacted)) => {}
            // Another one has taken the job back, and come to the end.
            Some(Err(Stop::Refused(why)))
                if why.contains("cut over already")
                    // The one key has not the form of most.
                    || why.contains("there is nothing to move")
                    || why.contains("after the cut-over nothing is copied again") => {}
            Some(other) => panic!("{other:?}"),
            None if rng.bool() => replaced.push(work),
            None => drop(work),
        }
        if let Some(record) = world.record().await
            && record.phase == Phase::Switched
        {
            // It was killed after its last request.
            return record.revision - 1;
        }
    }
    unreachable!("the numbers have no end")
}

/// Programs change Consul, and etcd becomes as it is, but for what a program sets in etcd meanwhile. The run is killed
/// and repeated. Then the job can go on.
async fn go_back(world: &World, mapping: &Mapping, rng: &mut fastrand::Rng) {
    let names =
        ["a", "d/e", "new", "d/new"].map(|name| format!("{}{name}", mapping.plain_prefix()));
    let late = write_late(world, mapping, &names, fastrand::Rng::with_seed(rng.u64(..)));
    let kills = rng.u64(..3);
    let back = async {
        for number in 0.. {
            if world.record().await.unwrap().phase != Phase::Switched {
                // It was killed after its last request but one.
                return None;
            }
            change_consul(world, &names, rng).await;
            let before = world.found().await;
            let (run, _) = world.hold(u64::MAX - number).await.unwrap();
            let life =
                Duration::from_millis(if number < kills { rng.u64(..400) } else { 3_600_000 });
            let life = pin!(world.clock.sleep(life));
            if let Either::Left((done, _)) =
                select(pin!(roll_back(&run, MayChange::NoNewKeys)), life).await
            {
                return Some((done.unwrap(), before));
            }
        }
        unreachable!("the numbers have no end")
    };
    let (late, back) = join(late, back).await;
    assert!(world.fake.alarms().is_empty());
    let revision = world.fake.revision();
    for (key, value) in &late {
        let kept = world.fake.at(revision).get(&key[..]).map(|entry| entry.value.clone());
        assert_eq!(kept.as_ref(), Some(value), "{key:?}: {back:?}");
    }
    let Some((done, before)) = back else { return };
    let (found, wanted) = (world.found().await, world.wanted(mapping, revision));
    assert!(found == before, "Consul was changed");
    let is_late = |key: &&&String| {
        let name = key.strip_prefix(&mapping.encoded_prefix()).unwrap_or_default();
        mapping.sources(key).iter().any(|source| late.contains_key(source))
            || late.keys().any(|late| name.starts_with(&hex::text(late)))
    };
    let is_left = done.left > 0 || !done.without_source.is_empty();
    let all = differing(&found, &wanted);
    let differing: Vec<_> = all.iter().filter(|key| !is_late(key)).collect();
    assert!(differing.is_empty() || is_left, "{done:?}: {differing:?}");
    if is_left {
        return;
    }
    let again = match world.instance(0, true).await {
        Err(Stop::Refused(why)) if why.contains("there is nothing to move") => return,
        again => again.unwrap().unwrap(),
    };
    assert!(again.differences.is_empty(), "{done:?}: {:?}", again.differences);
    assert!(world.found().await == world.wanted(mapping, again.revision), "{done:?}");
}

/// An unknown program writes to etcd as soon as it takes writes again; returns what it has set.
async fn write_late(
    world: &World,
    mapping: &Mapping,
    names: &[String],
    mut rng: fastrand::Rng,
) -> BTreeMap<Bytes, Bytes> {
    let mut late = BTreeMap::new();
    for number in 0..rng.usize(..4) {
        world.clock.sleep(Duration::from_millis(rng.u64(..300))).await;
        let name = rng.choice(names).unwrap();
        let Some(key) = rng.choice(mapping.sources(name)) else { continue };
        let value = Bytes::from(format!("late {number}"));
        if world.fake.write(&[(key.to_vec(), Some((value.clone(), 0)))]) {
            late.insert(key, value);
        }
    }
    late
}

/// Programs change some keys of Consul.
async fn change_consul(world: &World, names: &[String], rng: &mut fastrand::Rng) {
    let change = |key: &String| match rng.bool() {
        true => Op::set(key.clone(), vec![rng.u8(..); 9].into()),
        false => Op::Delete { key: key.clone() },
    };
    let ops: Vec<Op> = names.iter().map(change).collect();
    let applied = world.direct.txn_surely(&[], &ops).await.unwrap();
    assert!(matches!(applied, Outcome::Applied(_)));
}

/// The keys that two states do not have alike.
fn differing<'a>(
    one: &'a BTreeMap<String, Bytes>,
    other: &'a BTreeMap<String, Bytes>,
) -> BTreeSet<&'a String> {
    let all = one.keys().chain(other.keys());
    all.filter(|key| one.get(*key) != other.get(*key)).collect()
}
