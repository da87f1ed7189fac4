//! The strangers that a run meets: a server of another cluster, another job, a record of another version, a Consul that
//! refuses the last request or counts from the beginning again, and an etcd that is gone.

use super::{PACE, PATIENCE, Silent, World, instance};
use crate::operator::in_base64;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::request::Defaults;
use consul_client::transport::Transport;
use consul_client::{Client, Settings};
use consul_migrate::etcd::{Change, Etcd, Range, Refused, Right};
use consul_migrate::job::{self, Job, Keys, Phase, Record};
use consul_migrate::mapping::{Mapping, Op};
use consul_migrate::snapshot::survey::{Kept, survey};
use consul_migrate::target::Target;
use consul_migrate::{
    Freeze, Frozen, MayChange, Run, Stop, Until, cut_over, finish, finish_without_etcd, load,
    may_cut_over, restart, roll_back, tail, taken_late,
};
use consul_process::clock::{BoxFuture, Clock, ManualClock};
use consul_sim::SimTransport;
use futures_util::future::{Either, join, select};
use http::{Request, Response};
use serde_json::{Value, json};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn with() -> World {
    let world = World::plain(1, &[]);
    for key in ["/app/a", "/app/b", "/app/c"] {
        world.put(key, Some("1"));
    }
    world
}

fn why<T: std::fmt::Debug>(done: Result<T, Stop>) -> String {
    match done {
        Err(Stop::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

async fn cut(run: &Run<'_>, freeze: Freeze, frozen: &Frozen) -> Result<(), Stop> {
    let done = cut_over(run, freeze, frozen, LIMIT, async |_| Ok(())).await?;
    assert!(done.differences.is_empty(), "{done:?}");
    Ok(())
}

/// Holds a job of this name.
async fn hold<'w>(
    world: &'w World,
    name: &str,
    mapping: &Mapping,
) -> Result<(Run<'w>, Kept), Stop> {
    let found = survey(&world.etcd, &world.target, mapping, PACE, &Silent).await?;
    let new = Record::new(found.cluster_id.clone(), found.completed(mapping), found.revision, true);
    let me = instance(9);
    let job = Job::hold(&world.target, name, me, &|_| true, true, Some(new)).await?;
    Ok((Run { etcd: &world.etcd, job, pace: PACE, report: Arc::new(Silent) }, found.kept))
}

/// A tail that is ended after a while.
async fn follow(world: &World, run: &Run<'_>) -> Result<(), Stop> {
    let tail = async { tail(run, &Until::Dropped).await.map(|_| ()) };
    let later = async {
        world.clock.sleep(Duration::from_secs(3)).await;
        Ok(())
    };
    match select(pin!(tail), pin!(later)).await {
        Either::Left((done, _)) | Either::Right((done, _)) => done,
    }
}

/// No request that changes something is sent to a server of another cluster.
pub fn servers() {
    let clock = ManualClock::new();
    let [own, other] = [1, 2].map(|seed| crate::fake::Fake::new(&clock, seed, 0));
    other.belong_to(8);
    other.have_users("3.6.0");
    other.permit("app", "READWRITE", "/", "0");
    let servers = [&own, &other].map(|it| Arc::new(it.clone()) as _).to_vec();
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let etcd = Etcd::new(servers, None, shared, Duration::from_secs(5), PATIENCE);
    let key = Bytes::from_static(b"/app/a");
    let role = "app".to_owned();
    let right = Right { role, key: b"/".into(), end: b"0".into(), reads: true, beside: Vec::new() };
    let change = || [Change { key: key.clone(), value: Some(Bytes::new()), from: 0 }];
    let (etcd, one) = (&etcd, Range::one(&key));
    let writes: Vec<(&str, BoxFuture<'_, Result<(), Refused>>)> = vec![
        ("touch", Box::pin(etcd.touch(&key))),
        ("delete", Box::pin(etcd.delete(&one))),
        ("change", Box::pin(async { etcd.change(&change(), &key, 0).await.map(|_| ()) })),
        ("raise", Box::pin(etcd.raise_alarm(5))),
        ("lift", Box::pin(async { etcd.lift_alarms(&[6]).await.map(|_| ()) })),
        ("take", Box::pin(etcd.take(&right))),
        (
            "give back",
            Box::pin(async {
                let may_go_on = async |_: &Right| Ok::<_, Refused>(true);
                etcd.give_back(std::slice::from_ref(&right), may_go_on).await.map(|_| ())
            }),
        ),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(clock.drive(async {
        other.raise(6);
        let before = (other.revision(), other.alarms(), other.permitted("app"));
        etcd.status(&key).await.unwrap();
        for (name, write) in writes {
            etcd.leave_server();
            match write.await {
                Err(Refused::Failed(error)) => {
                    assert_eq!(error.kind(), Kind::Config, "{name}: {error:?}");
                }
                other => panic!("{name}: {other:?}"),
            }
            let now = (other.revision(), other.alarms(), other.permitted("app"));
            assert_eq!(now, before, "{name}");
        }
        // The other servers of the cluster are still good.
        etcd.touch(&key).await.unwrap();
    }));
}

/// A tail of another job begins at each moment of a cut-over: it ends that, or changes nothing that programs use since.
pub fn that_begin_meanwhile() {
    let (mut switched, mut refused) = (0, 0);
    for ms in (0..4600).step_by(15) {
        match is_spared(ms) {
            true => switched += 1,
            false => refused += 1,
        }
    }
    assert!(switched > 20 && refused > 20, "{switched} {refused}");
}

/// Returns whether the job was cut over.
fn is_spared(ms: u64) -> bool {
    let world = with();
    world.fake.have_users("3.6.0");
    world.fake.permit("app", "READWRITE", "/", "0");
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let (other, kept) = Box::pin(hold(&world, "other", &world.mapping)).await.unwrap();
        Box::pin(load(&other, kept)).await.unwrap();
        other.job.release().await;
        // So that moments lie between the last looks.
        world.fake.be_slow(Duration::from_millis(50));
        let frozen = Frozen::default();
        let programs = async {
            if cut(&run, Freeze::Roles, &frozen).await.is_err() {
                return false;
            }
            let of_program = Op::Set { key: "app/a".to_owned(), value: "2".into(), flags: 0 };
            world.direct.txn_surely(&[], &[of_program]).await.unwrap();
            world.put("/app/a", None);
            world.clock.sleep(Duration::from_secs(10)).await;
            assert_eq!(world.stored("app/a").await.as_deref(), Some("2"), "after {ms} ms");
            true
        };
        let tails = async {
            world.clock.sleep(Duration::from_millis(ms)).await;
            let (other, _) = Box::pin(hold(&world, "other", &world.mapping)).await.unwrap();
            let works = pin!(tail(&other, &Until::Dropped));
            select(works, pin!(other.job.beat())).await;
            std::future::pending::<()>().await;
        };
        match select(pin!(programs), pin!(tails)).await {
            Either::Left((is_switched, _)) => is_switched,
            Either::Right(_) => unreachable!("it waits"),
        }
    })
}

/// Instances of other jobs that have ended, or hang, are told from living ones before the writers are stopped, each at the same
/// time, and change nothing any more.
pub fn that_have_ended() {
    let world = with();
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        Box::pin(load(&run, kept)).await.unwrap();
        let mut others = Vec::new();
        for name in ["x", "y", "z"] {
            let (other, kept) = Box::pin(hold(&world, name, &world.mapping)).await.unwrap();
            Box::pin(load(&other, kept)).await.unwrap();
            others.push(other);
        }
        let begun = world.clock.now();
        let frozen = Frozen::default();
        let cuts = cut_over(&run, Freeze::Alarm, &frozen, LIMIT, async |_| {
            for other in &others {
                assert!(other.job.apply(&[]).await.is_err());
            }
            Ok(())
        });
        let done = Box::pin(cuts).await.unwrap();
        assert!(done.differences.is_empty() && done.stopped < Duration::from_secs(1), "{done:?}");
        assert!(world.clock.now() - begun < Duration::from_secs(8));
    });
}

/// Rights that the cut-over of another job has taken are neither named as lost, nor what a cut-over is refused for.
pub fn rights_of_another() {
    let world = with();
    world.fake.have_users("3.6.0");
    world.fake.permit("app", "READWRITE", "/", "0");
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        Box::pin(load(&run, kept)).await.unwrap();
        Box::pin(cut(&run, Freeze::Roles, &Frozen::default())).await.unwrap();
        Box::pin(roll_back(&run, MayChange::NoNewKeys)).await.unwrap();
        let (record, keys) = (run.job.record(), &run.job.keys);
        run.job.release().await;
        let (other, kept) = Box::pin(hold(&world, "other", &world.mapping)).await.unwrap();
        Box::pin(load(&other, kept)).await.unwrap();
        Box::pin(cut(&other, Freeze::Roles, &Frozen::default())).await.unwrap();
        let late = async || taken_late(&world.etcd, &world.target, &record, keys).await.unwrap();
        assert_eq!(late().await, None);
        let may = may_cut_over(&world.etcd, &world.target, &record, keys, Freeze::Roles).await;
        let said = why(may);
        assert!(said.contains("since the cut-over of the job \"other\""), "{said}");
        Box::pin(roll_back(&other, MayChange::NoNewKeys)).await.unwrap();
        let may = may_cut_over(&world.etcd, &world.target, &record, keys, Freeze::Roles).await;
        assert!(late().await.is_none() && may.is_ok(), "{may:?}");
        // Nobody gives this one back.
        world.etcd.take(&record.taken[0]).await.unwrap();
        assert!(late().await.unwrap().to_string().contains("app"));
    });
}

/// No other job changes the keys that a job has handed over to programs, whatever phase that is in.
pub fn jobs() {
    for phase in [Phase::Load, Phase::Sweep, Phase::Tail] {
        let world = with();
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            Box::pin(load(&run, kept)).await.unwrap();
            let (other, kept) = Box::pin(hold(&world, "other", &world.mapping)).await.unwrap();
            Box::pin(load(&other, kept)).await.unwrap();
            other.job.save(Record { phase, ..other.job.record() }, &[]).await.unwrap();
            other.job.release().await;
            Box::pin(cut(&run, Freeze::Operator, &Frozen::default())).await.unwrap();
            let of_program = Op::Set { key: "app/a".to_owned(), value: "2".into(), flags: 0 };
            world.direct.txn_surely(&[], &[of_program]).await.unwrap();
            world.put("/app/a", None);
            let before = world.found().await;

            let (other, kept) = Box::pin(hold(&world, "other", &world.mapping)).await.unwrap();
            let frozen = Frozen::default();
            for said in [
                why(Box::pin(load(&other, kept)).await),
                why(Box::pin(follow(&world, &other)).await),
                why(Box::pin(restart(&other, "--again")).await),
                why(Box::pin(cut(&other, Freeze::Operator, &frozen)).await),
            ] {
                assert!(said.contains("since the cut-over of the job \"job\""), "{said}");
            }
            // A new one, whose keys are some of these.
            let mapping = Mapping { etcd_prefix: b"/app/a".into(), ..world.mapping.clone() };
            let (new, kept) = Box::pin(hold(&world, "new", &mapping)).await.unwrap();
            why(Box::pin(load(&new, kept)).await);
            assert!(world.found().await == before, "{phase:?}");
            // Other places.
            let mapping = Mapping { consul_prefix: "else/".to_owned(), ..world.mapping.clone() };
            let (new, kept) = Box::pin(hold(&world, "else", &mapping)).await.unwrap();
            let is_below = mapping.shares_keys(&world.mapping);
            assert_eq!(Box::pin(load(&new, kept)).await.is_err(), is_below);
            // etcd is the truth again.
            let _ = Box::pin(roll_back(&run, MayChange::NoNewKeys)).await.unwrap();
            assert!(Box::pin(load(&other, Kept::default())).await.is_ok(), "{phase:?}");
        });
    }
}

/// A record of another version, or a damaged one, is named as such, and stays as it is.
pub fn records() {
    let world = with();
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let good = serde_json::to_value(run.job.record()).unwrap();
        let keys = Keys::new("job");
        let mut bad = vec![Value::Null, json!(1), json!([]), json!({})];
        let mut also = |change: &dyn Fn(&mut Value)| {
            let mut changed = good.clone();
            change(&mut changed);
            bad.push(changed);
        };
        also(&|it| it["of a later version"] = json!(1));
        also(&|it| it["mapping"]["of a later version"] = json!(1));
        also(&|it| it["phase"] = json!("paused"));
        also(&|it| it["revision"] = json!(0));
        for name in good.as_object().unwrap().keys() {
            for value in [json!(u64::MAX), json!(-1), json!("x"), json!({})] {
                also(&|it| it[name] = value.clone());
            }
        }
        for bad in bad {
            let value: Bytes = serde_json::to_vec(&bad).unwrap().into();
            let op = Op::Set { key: keys.record.clone(), value: value.clone(), flags: 0 };
            world.direct.txn_surely(&[], &[op]).await.unwrap();
            match job::record(&world.target, &keys).await {
                // Any value of a cluster, mark or index.
                Ok(Some((record, _))) => assert!(
                    bad["cluster_id"] == "x"
                        || [record.replaces, record.switched_at.unwrap_or(0)].contains(&u64::MAX)
                        || bad["loaded"] == "x",
                    "{bad}"
                ),
                Ok(None) => panic!("{bad}"),
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Decode);
                    let said = error.message();
                    assert!(
                        said.contains("_migrate/job, is not one that this version knows"),
                        "{said}"
                    );
                    let others = job::others(&world.target, &Keys::new("other")).await;
                    let is_some =
                        ["cluster_id", "mapping", "phase"].iter().all(|it| bad.get(it).is_some());
                    assert_eq!(others.is_err(), is_some, "{bad}");
                }
            }
            let stored = world.direct.entries(&[&keys.record]).await.unwrap().pop().flatten();
            assert_eq!(stored.unwrap().value, value);
        }
    });
}

/// Answers the request that switches the job in the place of Consul.
#[derive(Debug)]
struct Last {
    works: SimTransport,
    clock: ManualClock,
    answer: Option<u16>,
    /// Consul has applied it, and then says this to everything; 0 is nothing.
    after: Option<u16>,
    is_over: AtomicBool,
}

impl Last {
    fn says(status: u16) -> Result<Response<Bytes>, Error> {
        if status == 0 {
            return Err(Error::new(Kind::Connect, "reset").retryable().not_sent());
        }
        let mut answer = Response::new(Bytes::from_static(b"Permission denied"));
        *answer.status_mut() = http::StatusCode::from_u16(status).unwrap();
        Ok(answer)
    }
}

impl Transport for Last {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let is_last = in_base64("\"phase\":\"switched\"")
            .iter()
            .any(|text| request.body().windows(text.len()).any(|it| it == text.as_bytes()));
        Box::pin(async move {
            self.clock.sleep(Duration::from_millis(2)).await;
            match (self.answer, self.after) {
                (_, Some(after)) if self.is_over.load(Relaxed) => Last::says(after),
                (_, Some(_)) if is_last => {
                    self.is_over.store(true, Relaxed);
                    self.works.send(request).await?;
                    Err(Error::new(Kind::Connect, "reset").with_maybe_applied(true))
                }
                (Some(status), _) if is_last => Last::says(status),
                (None, _) if is_last => {
                    Err(Error::new(Kind::Connect, "reset").with_maybe_applied(true))
                }
                _ => self.works.send(request).await,
            }
        })
    }

    fn endpoint(&self) -> &str {
        "last"
    }
}

/// If Consul refuses to switch the job, writers need not stay stopped until it is known whether it is switched.
pub fn last_requests() {
    for freeze in [Freeze::Alarm, Freeze::Roles, Freeze::Operator] {
        for patience in [2, 60] {
            last_request(freeze, Some(403), None, patience);
            for after in [None, Some(0), Some(403), Some(404), Some(413), Some(500), Some(502)] {
                last_request(freeze, None, after, patience);
            }
        }
    }
}

fn last_request(freeze: Freeze, answer: Option<u16>, after: Option<u16>, patience: u64) {
    let is_open = answer.is_none();
    let world = with();
    if freeze == Freeze::Roles {
        world.fake.have_users("3.5.0");
        world.fake.permit("app", "READWRITE", "/", "0");
    }
    let works = SimTransport::new(Arc::clone(&world.agent), "simulated");
    let settings =
        Settings { timeout: Duration::from_secs(5), retry_count: 0, defaults: Defaults::default() };
    let clock: Arc<dyn Clock> = Arc::new(world.clock.clone());
    let rng = fastrand::Rng::with_seed(1);
    let client = Client::new(
        vec![Arc::new(Last {
            works,
            clock: world.clock.clone(),
            answer,
            after,
            is_over: AtomicBool::default(),
        })],
        settings,
        clock,
        rng,
    );
    let world =
        World { target: Target::new(Arc::new(client), Duration::from_secs(patience), 64), ..world };
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let frozen = Frozen::default();
        let done = cut_over(&run, freeze, &frozen, Duration::from_secs(20), async |_| Ok(())).await;
        assert!(done.is_err(), "{answer:?}: {done:?}");
        assert_eq!(frozen.may_be_on(), freeze != Freeze::Operator);
        let shown = format!("{freeze:?} {answer:?} {after:?} {patience}");
        assert_eq!(frozen.may_be_switched(), is_open, "{shown}");
    });
}

/// A deletion that follows the cut-over deletes nothing that a program has written, also if the keys were taken to a Consul
/// that counts from the beginning again.
pub fn indexes() {
    let world = with();
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        cut(&run, Freeze::Operator, &Frozen::default()).await.unwrap();
        let record = run.job.record();
        run.job.save(Record { switched_at: Some(1 << 40), ..record }, &[]).await.unwrap();
        let of_program = Op::Set { key: "app/a".to_owned(), value: "2".into(), flags: 0 };
        world.direct.txn_surely(&[], &[of_program]).await.unwrap();
        world.put("/app/a", None);
        world.put("/app/b", None);
        follow(&world, &run).await.unwrap();
        assert_eq!(world.stored("app/a").await.as_deref(), Some("2"));
        assert_eq!(world.stored("app/b").await, None);
    });
}

/// How the job is when its etcd goes.
const PHASES: [Phase; 4] = [Phase::Load, Phase::Sweep, Phase::Tail, Phase::Switched];

/// Without etcd nothing of the job is left in Consul, and nothing is changed in etcd.
pub fn gone() {
    for freeze in [Freeze::Alarm, Freeze::Roles, Freeze::Operator] {
        for phase in PHASES {
            is_finished(freeze, phase);
        }
    }
}

fn is_finished(freeze: Freeze, phase: Phase) {
    let world = with();
    if freeze == Freeze::Roles {
        world.fake.have_users("3.5.0");
        world.fake.permit("app", "READWRITE", "/", "0");
    }
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        if phase == Phase::Switched {
            cut(&run, freeze, &Frozen::default()).await.unwrap();
        } else {
            run.job.save(Record { phase, ..run.job.record() }, &[]).await.unwrap();
        }
        let (revision, alarms, before) =
            (world.fake.revision(), world.fake.alarms(), world.found().await);
        world.fake.answer_as(Some((503, "gone")));
        let done = finish_without_etcd(&run).await.unwrap();
        assert_eq!((done.unmarked, done.left, done.all), (3, None, None), "{done:?}");
        assert_eq!(done.keys.is_some(), phase == Phase::Switched);
        let words = match freeze {
            Freeze::Roles => "role grant-permission app readwrite",
            _ => "etcdctl alarm disarm",
        };
        let is_stopped = phase == Phase::Switched && freeze != Freeze::Operator;
        assert_eq!(done.not_lifted.len(), usize::from(is_stopped), "{done:?}");
        assert!(done.not_lifted.iter().all(|text| text.contains(words)), "{done:?}");
        assert_eq!((world.fake.revision(), world.fake.alarms()), (revision, alarms));
        assert!(world.found().await == before);
        let names = world.direct.keys("", None).await.unwrap();
        assert!(!names.iter().any(|name| name.starts_with("_migrate/")), "{names:?}");
        for name in &names {
            let stored = world.direct.entries(&[name]).await.unwrap().pop().flatten().unwrap();
            assert_eq!(stored.flags, 0, "{name}");
        }
        world.fake.answer_as(None);
        // With etcd only a job that is cut over is finished.
        let (run, _) = world.hold(2).await.unwrap();
        why(finish(&run, false).await);
    });
}

/// The record of a job is as before its cut-over, because Consul was restored: its alarm is still told as its own.
pub fn forgotten() {
    for asks in ["job", "other"] {
        for is_later in [false, true] {
            is_told_as_its_own(asks, is_later);
        }
    }
}

/// `is_later`: whether the restored record has an earlier alarm, of a cut-over that was taken back.
fn is_told_as_its_own(asks: &str, is_later: bool) {
    let world = with();
    world.put("/b/a", Some("1"));
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        if is_later {
            cut(&run, Freeze::Alarm, &Frozen::default()).await.unwrap();
            roll_back(&run, MayChange::NoNewKeys).await.unwrap();
        }
        let before = run.job.record();
        let (own, other) = (Keys::new("job"), Keys::new("other"));
        cut(&run, Freeze::Alarm, &Frozen::default()).await.unwrap();
        let alarm = *world.fake.alarms().first().unwrap();
        assert!(before.has_raised(&own, alarm) && alarm < 1 << 48);
        assert!(!run.job.record().has_raised(&own, alarm), "its record names it");
        assert!(!before.has_raised(&other, alarm) && !before.has_raised(&own, alarm ^ 1 << 40));
        let value = Bytes::from(serde_json::to_vec(&before).unwrap());
        let restored = Op::set(own.record.clone(), value);
        world.direct.txn_surely(&[], &[restored]).await.unwrap();

        let mark = world.mapping.mark + 1;
        let mapping = Mapping { consul_prefix: "else/".to_owned(), mark, ..world.mapping.clone() };
        let (run, words) = match asks {
            "job" => (world.hold(3).await.unwrap().0, "Consul was restored"),
            _ => (Box::pin(hold(&world, asks, &mapping)).await.unwrap().0, "of the job \"job\""),
        };
        let said = why(cut(&run, Freeze::Alarm, &Frozen::default()).await);
        assert!(said.contains(words), "{said}");
        assert_eq!(world.fake.alarms().len(), 1, "it is not lifted");
        // As the message says.
        world.fake.lift();
        load(&run, Kept::default()).await.unwrap();
        cut(&run, Freeze::Alarm, &Frozen::default()).await.unwrap();
    });
}

/// Two jobs of one etcd are cut over at the same moment: the alarm of one of them at most is left, and each can go back.
pub fn at_once() {
    let mut both = 0;
    for seed in 1..=4 {
        for after_ms in (0..15).chain([40, 100]) {
            both += u64::from(leave_one_alarm(seed, Duration::from_millis(after_ms)));
        }
    }
    assert!(both > 0, "no alarm has met another one");
    for order in [["job", "other"], ["other", "job"]] {
        go_back_from_two_alarms(order);
    }
}

fn with_two(seed: u64) -> World {
    let world = World::plain(seed, &[]);
    for key in ["/app/a", "/app/b", "/b/a"] {
        world.put(key, Some("1"));
    }
    let mapping = Mapping { etcd_prefix: b"/app/".into(), ..world.mapping.clone() };
    World { mapping, ..world }
}

async fn two(world: &World) -> [Run<'_>; 2] {
    let (one, kept) = world.hold(1).await.unwrap();
    load(&one, kept).await.unwrap();
    let mark = world.mapping.mark + 1;
    let mapping = Mapping { etcd_prefix: b"/b/".into(), mark, ..world.mapping.clone() };
    let (other, kept) = Box::pin(hold(world, "other", &mapping)).await.unwrap();
    load(&other, kept).await.unwrap();
    [one, other]
}

/// Returns whether a cut-over was refused after it had raised its alarm.
fn leave_one_alarm(seed: u64, after: Duration) -> bool {
    let world = with_two(seed);
    world.works(async {
        let [one, other] = two(&world).await;
        let frozen = [Frozen::default(), Frozen::default()];
        let cut = async |run: &Run<'_>, frozen: &Frozen| {
            let done = cut(run, Freeze::Alarm, frozen).await;
            let had_raised = done.is_err() && frozen.may_be_on();
            if done.is_err() {
                frozen.lift(&world.etcd, &world.target, &Keys::new("job")).await.unwrap();
            }
            (done, had_raised)
        };
        let later = async {
            world.clock.sleep(after).await;
            cut(&other, &frozen[1]).await
        };
        let (first, second) = join(cut(&one, &frozen[0]), later).await;
        let mut refused = 0;
        for (done, _) in [&first, &second] {
            let Err(stop) = done else { continue };
            assert!(stop.to_string().contains("of the job"), "{stop}");
            refused += 1;
        }
        assert!(refused >= 1, "{after:?}: both are cut over");
        assert_eq!(world.fake.alarms().len(), 2 - refused, "{after:?}");
        for run in [&one, &other] {
            if run.job.record().phase == Phase::Switched {
                roll_back(run, MayChange::NoNewKeys).await.unwrap();
            }
        }
        assert!(world.fake.alarms().is_empty());
        first.1 || second.1
    })
}

/// As a version has left them that did not look again.
fn go_back_from_two_alarms(order: [&str; 2]) {
    let world = with_two(1);
    world.works(async {
        let [one, other] = two(&world).await;
        cut(&one, Freeze::Alarm, &Frozen::default()).await.unwrap();
        let alarm = *world.fake.alarms().first().unwrap();
        world.fake.lift();
        cut(&other, Freeze::Alarm, &Frozen::default()).await.unwrap();
        world.fake.raise(alarm);
        let run = |name: &str| if name == "job" { &one } else { &other };
        let said = why(roll_back(run(order[0]), MayChange::NoNewKeys).await);
        assert!(said.contains(&format!("--job {} rollback", order[1])), "{said}");
        for name in [order[1], order[0]] {
            roll_back(run(name), MayChange::NoNewKeys).await.unwrap();
            assert_eq!(run(name).job.record().phase, Phase::Tail);
        }
        assert!(world.fake.alarms().is_empty());
    });
}
