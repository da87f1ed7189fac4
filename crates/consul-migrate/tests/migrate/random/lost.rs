//! A cut-over by roles ends, and the job's record has nothing of what it has taken: Consul was restored or wiped, and another
//! instance works there. Each right comes back where that is safe, and is named otherwise.

use super::World;
use bytes::Bytes;
use consul_migrate::etcd::Right;
use consul_migrate::job::{Keys, Phase, Record, Rights};
use consul_migrate::mapping::Op;
use consul_migrate::{
    Freeze, Frozen, Left, MayChange, Run, Stop, Until, cut_over, lift_left_of, load, may_cut_over,
    opened_late, roll_back, tail, taken_late,
};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, join, select};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

const NAMES: [&str; 3] = ["/app/a", "/app/b", "/app/c"];

/// The number of an earlier taking.
const EARLIER: u64 = 7;

/// The record that is there when the cut-over ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lost {
    /// That of before the cut-over.
    Older,
    /// A new one: Consul was wiped, and the job has begun again.
    BegunAgain,
    /// That of an earlier job with this name and more steps, after a cut-over by roles and its way back.
    Earlier,
    /// The same before its way back: that gives the same rights back.
    EarlierCutOver,
    /// That of before the cut-over, with which another operator has cut over since.
    CutOverBy(By),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Alarm,
    Roles,
    Operator,
}

/// Whether the cut-over is dropped, or finds out by itself; and whether the other instance lives when it ends.
type Ends = (bool, bool);

const LOST: [Lost; 7] = [
    Lost::Older,
    Lost::BegunAgain,
    Lost::Earlier,
    Lost::EarlierCutOver,
    Lost::CutOverBy(By::Alarm),
    Lost::CutOverBy(By::Roles),
    Lost::CutOverBy(By::Operator),
];

pub fn run() {
    let (first, whole) = times();
    // While it takes the rights, while it compares, and right before it switches.
    let moments: Vec<u64> = (first - 6..first + 8)
        .chain((first + 8..whole).step_by(500))
        .chain((whole - 60..whole).step_by(12))
        .collect();
    let all = [(true, true), (true, false), (false, true), (false, false)];
    for (lost, ends) in LOST.into_iter().flat_map(|lost| all.map(|ends| (lost, ends))) {
        let mut taken = BTreeMap::<usize, usize>::new();
        for ms in &moments {
            if let Some(count) = ends_after(lost, ends, *ms) {
                *taken.entry(count).or_default() += 1;
            }
        }
        assert!(taken.len() == 4 && taken[&3] > 4, "{lost:?} {ends:?}: {taken:?}");
    }
}

/// A way back is held up at each moment, and another instance goes back and cuts over again meanwhile. The program tells
/// if the first one has given a right back below that.
pub fn given_back_late() {
    let (mut opened, mut closed) = (0, 0);
    for ms in 0.. {
        match is_opened(ms) {
            None => break,
            Some(true) => opened += 1,
            Some(false) => closed += 1,
        }
    }
    assert!(opened > 0 && closed > 10, "{opened} {closed}");
}

/// Whether the way back has opened the next cut-over; `None` if it had come to its end.
fn is_opened(ms: u64) -> Option<bool> {
    let world = world();
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        cut(&run, Freeze::Roles, &Frozen::default()).await.unwrap();
        let (etcd, keys) = (&world.etcd, Keys::new("job"));
        assert!(!etcd.has_given_back());
        world.fake.permit("app", "READWRITE", "/app/by-hand", "");
        let told = async || opened_late(etcd, &world.target, &keys).await.unwrap();
        assert_eq!(told().await, None, "it is not by this process");
        world.fake.forbid("app", "/app/by-hand", "");
        world.way_ms.store(4, Ordering::Relaxed);
        let mut back = Box::pin(roll_back(&run, MayChange::NoNewKeys));
        let held_up = pin!(world.clock.sleep(Duration::from_millis(ms)));
        if let Either::Left(_) = select(back.as_mut(), held_up).await {
            return None;
        }
        let (other, kept) = world.hold(2).await.unwrap();
        if other.job.record().phase == Phase::Switched {
            roll_back(&other, MayChange::NoNewKeys).await.unwrap();
        }
        load(&other, kept).await.unwrap();
        cut(&other, Freeze::Roles, &Frozen::default()).await.unwrap();
        let switched = world.fake.permissions("app");
        assert_eq!(told().await, None);
        let _ = back.await;
        let told = told().await;
        let is_opened = world.fake.permissions("app") != switched;
        assert_eq!(told.is_some(), is_opened, "{ms}: {told:?}");
        if let Some(told) = told {
            assert!(told.contains("etcd TAKES") && told.contains("app, the key /app/"), "{told}");
        }
        Some(is_opened)
    })
}

/// A cut-over by roles has come to its end, or was killed, and Consul is restored to before it, or has begun the job again: what the
/// roles lack is named with what gives it back, until they have it, also after another cut-over.
pub fn known_to_etcd() {
    for lost in [Lost::Older, Lost::BegunAgain, Lost::Earlier] {
        for next in [By::Alarm, By::Roles, By::Operator] {
            is_known_to_etcd(lost, next);
        }
    }
}

fn is_known_to_etcd(lost: Lost, next: By) {
    let shown = format!("{lost:?} {next:?}");
    let world = world();
    let before = world.fake.permissions("app");
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let (keys, older) = (run.job.keys.clone(), run.job.record());
        cut(&run, Freeze::Roles, &Frozen::default()).await.unwrap();
        let told = async |record: &Record| {
            let left = taken_late(&world.etcd, &world.target, record, &keys).await.unwrap();
            left.map(|left| left.to_string())
        };
        assert_eq!(told(&run.job.record()).await, None, "{shown}");
        let rights: Vec<Right> = NAMES.map(right).into();
        restore(&world, &keys, &restored(lost, &older, rights.clone())).await;
        let (other, kept) = world.hold(2).await.unwrap();
        lift_left_of(&world.etcd, &other.job).await.unwrap();
        load(&other, kept).await.unwrap();
        let names_all = |told: Option<String>, count: usize| {
            let told = told.unwrap_or_default();
            let named = rights.iter().filter(|it| told.contains(&it.to_string())).count();
            assert_eq!(named, count, "{shown}: {told}");
            told
        };
        let said = names_all(told(&other.job.record()).await, 3);
        assert!(
            said.starts_with(&Left::forgotten().to_string()) || lost == Lost::Earlier,
            "{shown}: {said}"
        );
        let by_roles =
            may_cut_over(&world.etcd, &world.target, &other.job.record(), &keys, Freeze::Roles)
                .await;
        names_all(by_roles.err().map(|it| it.to_string()), 3);
        // Another role, so that there are rights to take.
        world.fake.permit("another", "READWRITE", NAMES[0], "");
        let freeze = match next {
            By::Alarm => Freeze::Alarm,
            By::Roles => Freeze::Roles,
            By::Operator => Freeze::Operator,
        };
        cut(&other, freeze, &Frozen::default()).await.unwrap();
        names_all(told(&other.job.record()).await, 3);
        let back = roll_back(&other, MayChange::NoNewKeys).await.unwrap();
        assert_eq!(back.not_given_back.len(), 3, "{shown}: {back:?}");
        names_all(told(&other.job.record()).await, 3);
        world.fake.permit("app", "READWRITE", NAMES[0], "");
        names_all(told(&other.job.record()).await, 2);
        world.fake.permit("app", "READWRITE", NAMES[1], "");
        world.fake.permit("app", "READWRITE", NAMES[2], "");
        assert_eq!(told(&other.job.record()).await, None, "{shown}");
        assert_eq!(world.fake.permissions("app"), before, "{shown}");
    });
}

async fn cut(run: &Run<'_>, freeze: Freeze, frozen: &Frozen) -> Result<(), Stop> {
    let limit = Duration::from_secs(60);
    cut_over(run, freeze, frozen, limit, async |_| Ok(())).await.map(|_| ())
}

fn world() -> World {
    let world = World::plain(1, &[]);
    NAMES.iter().for_each(|name| world.put(name, Some("1")));
    world.fake.have_users("3.6.0");
    NAMES.iter().for_each(|name| world.fake.permit("app", "READWRITE", name, ""));
    // So that moments lie between the rights.
    world.fake.be_slow(Duration::from_millis(2));
    world
}

/// After how many milliseconds a cut-over has taken the first right, and after how many it has ended.
fn times() -> (u64, u64) {
    let world = world();
    let before = world.fake.permissions("app");
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let begun = world.clock.now();
        let ms = || (world.clock.now() - begun).as_millis() as u64;
        let looks = async {
            while world.fake.permissions("app") == before {
                world.clock.sleep(Duration::from_millis(1)).await;
            }
            ms()
        };
        let (done, first) = join(cut(&run, Freeze::Roles, &Frozen::default()), looks).await;
        done.unwrap();
        (first, ms())
    })
}

/// Returns how many rights were taken, unless it had switched.
fn ends_after(lost: Lost, (is_dropped, lives): Ends, ms: u64) -> Option<usize> {
    let shown = format!("{lost:?} after {ms} ms, dropped: {is_dropped}, other lives: {lives}");
    let world = world();
    let before = world.fake.permissions("app");
    let lacking = || {
        let now = world.fake.permissions("app");
        let lacks = |name: &&str| {
            let has = |((key, _), kind): &((Vec<u8>, Vec<u8>), String)| {
                key == name.as_bytes() && kind == "READWRITE"
            };
            !now.iter().any(has)
        };
        NAMES.into_iter().filter(lacks).map(|it| it.as_bytes().to_vec()).collect::<Vec<_>>()
    };
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let (keys, older, frozen) = (Keys::new("job"), run.job.record(), Frozen::default());
        let mut cuts = Some(Box::pin(cut(&run, Freeze::Roles, &frozen)));
        let ends = pin!(world.clock.sleep(Duration::from_millis(ms)));
        if let Either::Left(_) = select(cuts.as_mut().unwrap(), ends).await {
            return None;
        }
        if is_dropped {
            cuts = None;
        }
        if world.record().await.unwrap().phase == Phase::Switched {
            return None;
        }
        let has_taken = lacking().len();
        let rights: Vec<Right> = NAMES.map(right).into();
        restore(&world, &keys, &restored(lost, &older, rights)).await;
        let (other, kept) = world.hold(2).await.unwrap();
        if let Lost::CutOverBy(by) = lost {
            let freeze = match by {
                By::Alarm => Freeze::Alarm,
                By::Roles => Freeze::Roles,
                By::Operator => Freeze::Operator,
            };
            // Those that the first one has taken are not there for the other.
            world.fake.permit("another", "READWRITE", NAMES[0], "");
            world.fake.permit("another", "READWRITE", NAMES[1], "");
            lift_left_of(&world.etcd, &other.job).await.unwrap();
            cut(&other, freeze, &Frozen::default()).await.unwrap();
        } else if lost != Lost::EarlierCutOver {
            lift_left_of(&world.etcd, &other.job).await.unwrap();
            load(&other, kept).await.unwrap();
        }
        if !lives {
            other.job.release().await;
        }
        let was_switched = other.job.record().phase == Phase::Switched;
        let at_end = world.fake.permissions("app");
        let told = {
            let works = pin!(join(other.job.beat(), tail(&other, &Until::Dropped)));
            let lifts = pin!(async {
                if let Some(cuts) = cuts.take() {
                    assert!(cuts.await.is_err(), "{shown}");
                }
                frozen.lift(&world.etcd, &world.target, &keys).await.unwrap()
            });
            match lives {
                false => lifts.await,
                true => match select(lifts, works).await {
                    Either::Left((told, _)) => told,
                    Either::Right((ended, _)) => panic!("{shown}: the other ends: {ended:?}"),
                },
            }
        };
        if was_switched {
            // But for requests that were on their way: some may take rights, and one may give one back.
            let now = world.fake.permissions("app");
            let differing: Vec<_> = now.iter().filter(|it| !at_end.contains(it)).collect();
            let given = differing.iter().filter(|(_, kind)| kind == "READWRITE").count();
            assert!(given <= usize::from(!is_dropped), "{shown}: {at_end:?} {now:?}");
            assert!(differing.is_empty() || !is_dropped, "{shown}: {at_end:?} {now:?}");
        }
        let record = world.record().await.unwrap();
        let is_named = |key: &Vec<u8>| {
            record.may_be_taken().iter().any(|it| it.role == "app" && it.key == *key)
        };
        let mut left = lacking();
        left.retain(|key| !is_named(key));
        let told: Vec<_> = told.unwrap_or_default().into_iter().map(|it| it.key).collect();
        assert_eq!(told, left, "{shown}: {record:?}");
        let kept: Vec<_> = frozen.taken().into_iter().map(|it| it.key).collect();
        assert_eq!(kept, told, "{shown}");
        if !was_switched {
            assert_eq!(world.fake.permissions("app"), before, "{shown}");
        }
        Some(has_taken)
    })
}

fn right(name: &str) -> Right {
    let (role, key) = ("app".to_owned(), name.as_bytes().to_vec());
    Right { role, key, end: Vec::new(), reads: true, beside: Vec::new() }
}

/// The record that Consul has then; `None` if it is empty.
fn restored(lost: Lost, older: &Record, taken: Vec<Right>) -> Option<Record> {
    let mut earlier = older.clone();
    earlier.mapping.mark ^= 1;
    (earlier.step, earlier.taken, earlier.taking) = (older.step + 1000, taken, EARLIER);
    match lost {
        Lost::Older | Lost::CutOverBy(_) => Some(older.clone()),
        Lost::BegunAgain => None,
        Lost::Earlier => Some(Record { rights: Rights::GivenBack, ..earlier }),
        Lost::EarlierCutOver => Some(Record { phase: Phase::Switched, ..earlier }),
    }
}

async fn restore(world: &World, keys: &Keys, record: &Option<Record>) {
    let ops = match record {
        None => ["app/", "_migrate/"].map(|it| Op::DeleteTree { prefix: it.to_owned() }).to_vec(),
        Some(record) => {
            let value = Bytes::from(serde_json::to_vec(record).unwrap());
            let holder = Op::Delete { key: keys.holder.clone() };
            vec![Op::set(keys.record.clone(), value), holder]
        }
    };
    world.direct.txn_surely(&[], &ops).await.unwrap();
}
