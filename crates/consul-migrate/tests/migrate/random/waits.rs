//! Nothing is silent while a side does not answer, and a tail waits for it.

use super::{PACE, PATIENCE, World};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::request::Defaults;
use consul_client::transport::Transport;
use consul_client::{Client, Settings};
use consul_migrate::etcd::Etcd;
use consul_migrate::etcd::streaming::{Parts, Streaming};
use consul_migrate::job::{Keys, source};
use consul_migrate::snapshot::survey::survey;
use consul_migrate::target::Target;
use consul_migrate::{
    Form, Freeze, Frozen, MayChange, Report, Run, Stop, Until, cut_over, export, finish, import,
    job, lift_left, load, roll_back, rollback_has_begun, tail, verify,
};
use consul_process::clock::{BoxFuture, Clock, Instant, ManualClock};
use consul_sim::SimTransport;
use futures_util::future::{Either, select};
use http::{Request, Response};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Nothing is silent for longer.
const LONGEST: Duration = Duration::from_secs(3);

/// The verbs; those after `EARLY` need a copy.
const VERBS: [&str; 10] = [
    "plan", "copy", "export", "import", "verify", "tail", "cutover", "rollback", "finish", "status",
];
const EARLY: usize = 4;

/// For so long a side does not answer.
const OUTAGE: Duration = Duration::from_secs(30);

/// The reports, with their times.
#[derive(Debug)]
pub struct Said {
    clock: ManualClock,
    pub notes: Mutex<Vec<(Instant, String)>>,
    behind: Mutex<Vec<(Instant, u64, Duration)>>,
}

impl Said {
    pub fn new(clock: &ManualClock) -> Said {
        Said { clock: clock.clone(), notes: Mutex::default(), behind: Mutex::default() }
    }
}

impl Report for Said {
    fn progress(&self, _: &'static str, _: u64, _: Option<u64>) {}

    fn behind(&self, revisions: u64, time: Duration) {
        self.behind.lock().unwrap().push((self.clock.now(), revisions, time));
    }

    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push((self.clock.now(), text.to_owned()));
    }
}

/// A side whose answers take some milliseconds, or that does not answer: requests to it stay open, or are refused at once.
#[derive(Debug)]
struct Slow<T> {
    works: T,
    clock: ManualClock,
    takes: Arc<AtomicU64>,
    refuses: bool,
}

const FOREVER: u64 = u64::MAX;

impl<T> Slow<T> {
    async fn takes(&self) -> Result<(), Error> {
        loop {
            match self.takes.load(Ordering::Relaxed) {
                0 => return Ok(()),
                FOREVER if self.refuses => {
                    let error = Error::new(Kind::Connect, "connection refused");
                    return Err(error.retryable().not_sent());
                }
                FOREVER => self.clock.sleep(Duration::from_millis(50)).await,
                ms => {
                    self.clock.sleep(Duration::from_millis(ms)).await;
                    return Ok(());
                }
            }
        }
    }
}

impl<T: Streaming> Streaming for Slow<T> {
    fn open(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Parts>, Error>> {
        Box::pin(async move {
            self.takes().await?;
            self.works.open(request).await
        })
    }

    fn endpoint(&self) -> &str {
        "http://of-etcd"
    }
}

impl<T: Transport> Transport for Slow<T> {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            self.takes().await?;
            self.works.send(request).await
        })
    }

    fn endpoint(&self) -> &str {
        "http://of-consul"
    }
}

/// Both sides; one does not answer from some moment on.
struct Outage {
    world: World,
    said: Arc<Said>,
    etcd: Arc<AtomicU64>,
    consul: Arc<AtomicU64>,
}

impl Outage {
    fn new(refuses: bool) -> Outage {
        let mut world = World::plain(1, &[]);
        for place in 0..40 {
            world.put(&format!("/app/{place:02}"), Some("1"));
        }
        let (etcd, consul) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let clock = world.clock.clone();
        let said = Arc::new(Said::new(&clock));
        let works = world.fake.clone();
        let slow = Slow { works, clock: clock.clone(), takes: Arc::clone(&etcd), refuses };
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let timeout = Duration::from_secs(20);
        let of_etcd = Etcd::new(vec![Arc::new(slow)], None, Arc::clone(&shared), timeout, PATIENCE);
        world.etcd = of_etcd.reporting(said.clone());
        let works = SimTransport::new(Arc::clone(&world.agent), "simulated");
        let slow = Slow { works, clock, takes: Arc::clone(&consul), refuses };
        let defaults = Defaults::default();
        let settings = Settings { timeout: Duration::from_secs(5), retry_count: 2, defaults };
        let rng = fastrand::Rng::with_seed(1);
        let client = Client::new(vec![Arc::new(slow)], settings, shared, rng);
        world.target = Target::new(Arc::new(client), PATIENCE, 4).reporting(said.clone());
        Outage { world, said, etcd, consul }
    }

    fn side(&self, side: &str) -> &AtomicU64 {
        if side == "etcd" { &self.etcd } else { &self.consul }
    }

    async fn hold(&self, number: u64) -> Result<Run<'_>, Stop> {
        let (run, _) = self.world.hold(number).await?;
        Ok(Run { report: self.said.clone(), ..run })
    }

    /// The work of a verb, on a job that is as far as the verb needs.
    async fn works(&self, verb: &str) -> Result<(), Stop> {
        let world = &self.world;
        if verb == "plan" {
            return survey(&world.etcd, &world.target, &world.mapping, PACE, &*self.said)
                .await
                .map(|_| ());
        }
        if verb == "verify" {
            let record = world.record().await.unwrap();
            let (most, revision) = (9, world.fake.revision());
            let (etcd, target, mapping) = (&world.etcd, &world.target, &record.mapping);
            let found = verify::compare_up_to(most, etcd, target, mapping, revision, PACE, |_| ());
            return found.await.map(|_| ());
        }
        if let "export" | "import" = verb {
            let (target, mapping, report) = (&world.target, &world.mapping, &*self.said);
            let lines = (0..40).map(|at| format!("{{\"key\":\"app/{at}\",\"value\":\"\"}}\n"));
            let lines = lines.collect::<String>();
            let done = match verb {
                "export" => export(target, mapping, Form::Lines, &mut Vec::new(), report).await,
                _ => {
                    let from = &mut lines.as_bytes();
                    import(target, mapping, Form::Lines, from, true, report).await
                }
            };
            return done.map(|_| ());
        }
        if verb == "status" {
            // Its questions to both sides.
            let keys = Keys::new("job");
            let (record, _) = job::record(&world.target, &keys).await?.unwrap();
            source::check(&world.etcd, &record).await?;
            lift_left(&world.etcd, &record).await?;
            return rollback_has_begun(&world.etcd, &record, &keys).await.map(|_| ());
        }
        let run = self.hold(2).await?;
        let works = async {
            match verb {
                "copy" => load(&run, Default::default()).await,
                "tail" => tail(&run, &Until::Dropped).await.map(|_| ()),
                "cutover" => cut(&run).await,
                "rollback" => roll_back(&run, MayChange::Nothing).await.map(|_| ()),
                "finish" => finish(&run, false).await.map(|_| ()),
                other => panic!("{other}"),
            }
        };
        match select(pin!(works), pin!(run.job.beat())).await {
            Either::Left((done, _)) => done,
            Either::Right((stop, _)) => Err(stop),
        }
    }
}

async fn cut(run: &Run<'_>) -> Result<(), Stop> {
    let limit = Duration::from_secs(600);
    cut_over(run, Freeze::Alarm, &Frozen::default(), limit, async |_| Ok(())).await.map(|_| ())
}

pub fn run() {
    for refuses in [false, true] {
        for side in ["etcd", "Consul"] {
            for verb in VERBS {
                let is_unasked = match side {
                    // The plan asks nothing of it here.
                    "Consul" => verb == "plan",
                    _ => ["export", "import"].contains(&verb),
                };
                if is_unasked {
                    continue;
                }
                for after in [0, 7, 1700] {
                    is_not_silent(refuses, side, verb, Duration::from_millis(after));
                }
            }
            a_tail_waits(refuses, side);
        }
    }
    a_tail_tells_its_lag();
}

/// The side does not answer for some time, from the beginning of a verb on or from a moment in its middle.
fn is_not_silent(refuses: bool, side: &str, verb: &str, after: Duration) {
    let outage = Outage::new(refuses);
    let world = &outage.world;
    let what = format!("{verb} without {side} after {after:?}, refused: {refuses}");
    let (begun, answers) = world.works(async {
        if VERBS[EARLY..].contains(&verb) {
            let run = outage.hold(1).await.unwrap();
            load(&run, Default::default()).await.unwrap();
            if ["rollback", "finish", "status"].contains(&verb) {
                cut(&run).await.unwrap();
            }
        }
        let clock = &world.clock;
        let breaks = async {
            if after > Duration::ZERO {
                clock.sleep(after).await;
            }
            outage.side(side).store(FOREVER, Ordering::Relaxed);
            let begun = clock.now();
            clock.sleep(OUTAGE).await;
            outage.side(side).store(0, Ordering::Relaxed);
            let answers = clock.now();
            clock.sleep(Duration::from_secs(20)).await;
            (begun, answers)
        };
        let mut breaks = pin!(breaks);
        // An outage at once is before the first request.
        match select(&mut breaks, pin!(outage.works(verb))).await {
            // It was done before.
            Either::Right((done, _)) => {
                done.unwrap_or_else(|stop| panic!("{what}: {stop}"));
                breaks.await
            }
            Either::Left((times, _)) => times,
        }
    });
    let notes = outage.said.notes.lock().unwrap();
    let of_it: Vec<_> = notes.iter().filter(|(_, text)| text.starts_with(side)).collect();
    if of_it.is_empty() && after > Duration::ZERO && verb != "tail" {
        return;
    }
    let (mut before, mut longest) = (begun, 0);
    for (at, text) in of_it.iter().filter(|(at, _)| *at < answers) {
        assert!(*at - before <= LONGEST, "{what}: {:?} of silence before {text:?}", *at - before);
        assert!(text.contains("has not answered for"), "{text}");
        let numbers: Vec<u64> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [time, until] = numbers[..2] else { panic!("{text}") };
        assert!(time >= longest && until >= 60, "{what}: {of_it:?}");
        (before, longest) = (*at, time);
    }
    assert!(answers - before <= LONGEST, "{what}: {:?} of silence: {notes:?}", answers - before);
    assert!(of_it.iter().any(|(_, text)| text.contains("answers again")), "{what}: {of_it:?}");
}

/// A tail goes on after an outage that is longer than the patience of others; a tail that is told to does not.
fn a_tail_waits(refuses: bool, side: &str) {
    for is_patient in [true, false] {
        let outage = Outage::new(refuses);
        let world = &outage.world;
        world.works(async {
            let run = outage.hold(1).await.unwrap();
            load(&run, Default::default()).await.unwrap();
            if is_patient {
                world.etcd.wait_without_end();
                world.target.wait_without_end();
            }
            let breaks = async {
                world.clock.sleep(Duration::from_secs(2)).await;
                outage.side(side).store(FOREVER, Ordering::Relaxed);
                world.put("/app/during", Some("1"));
                world.clock.sleep(Duration::from_secs(3600)).await;
                outage.side(side).store(0, Ordering::Relaxed);
                while world.stored("app/during").await.is_none() {
                    world.clock.sleep(Duration::from_secs(1)).await;
                }
            };
            match select(pin!(tail(&run, &Until::Dropped)), pin!(breaks)).await {
                Either::Left((Err(Stop::Failed(error)), _)) if !is_patient => {
                    assert_eq!(error.kind().exit_status(), 3, "{error}");
                }
                Either::Left((ended, _)) => panic!("{side}, refused: {refuses}: {ended:?}"),
                Either::Right(_) => assert!(is_patient, "{side}, refused: {refuses}: it goes on"),
            }
        });
        if is_patient {
            let notes = outage.said.notes.lock().unwrap();
            let is_line = |text: &str| text.starts_with(side) && text.contains("has not answered");
            let said: Vec<_> = notes.iter().filter(|(_, text)| is_line(text)).collect();
            let longest = said.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap();
            assert!(longest <= LONGEST, "{side}, refused: {refuses}: {longest:?} of silence");
            assert!(said.len() > 1200, "{side}: {}", said.len());
        }
    }
}

/// Consul is slow, and etcd has many changes.
fn a_tail_tells_its_lag() {
    const CHANGES: u64 = 300;
    let outage = Outage::new(false);
    let world = &outage.world;
    world.works(async {
        let run = outage.hold(1).await.unwrap();
        load(&run, Default::default()).await.unwrap();
        let looks = async {
            world.clock.sleep(Duration::from_secs(3)).await;
            outage.consul.store(200, Ordering::Relaxed);
            for place in 0..CHANGES {
                world.put(&format!("/app/{:02}", place % 40), Some(&place.to_string()));
            }
            world.put("/app/last", Some("1"));
            while world.stored("app/last").await.is_none() {
                world.clock.sleep(Duration::from_millis(100)).await;
            }
            world.clock.sleep(Duration::from_secs(3)).await;
        };
        let _ = select(pin!(tail(&run, &Until::Dropped)), pin!(looks)).await;
    });
    let behind = outage.said.behind.lock().unwrap();
    let most = behind.iter().map(|(_, revisions, _)| *revisions).max().unwrap();
    assert!((CHANGES / 2..=CHANGES + 1).contains(&most), "{behind:?}");
    let longest = behind.iter().map(|(.., time)| *time).max().unwrap();
    assert!(longest > Duration::from_secs(5), "{behind:?}");
    for end in [behind.first(), behind.last()] {
        let (_, revisions, time) = end.unwrap();
        assert_eq!((*revisions, *time), (0, Duration::ZERO), "{behind:?}");
    }
    let looks = behind.windows(2).map(|pair| pair[1].0 - pair[0].0);
    assert!(looks.max().unwrap() <= LONGEST, "{behind:?}");
}
