//! A cut-over that takes the right to write from the roles of etcd, and what gives it back.

use super::super::etcd::text;
use super::super::fake::RolesBy;
use super::{World, instance};
use bytes::Bytes;
use consul_migrate::etcd::{Range, Right};
use consul_migrate::job::{self, Job, Keys, Phase, Record, Rights};
use consul_migrate::mapping::{Mapping, Op};
use consul_migrate::{
    CutOver, Freeze, Frozen, MayChange, Report, Run, Stop, cut_over, finish, lift_left_of, load,
    may_cut_over, rights_now, roles_refused, roll_back, taken_late,
};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, join, select};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const VERSIONS: [&str; 3] = ["3.4.0", "3.5.0", "3.6.0"];

/// A range and the kind of its permission.
type Permitted = ((Vec<u8>, Vec<u8>), String);

/// The permissions of the role of the programs: their kind, the key and the end.
type Permissions = &'static [(&'static str, &'static str, &'static str)];

const ROLES: &[Permissions] = &[
    &[("READWRITE", "/", "0")],
    &[("READWRITE", "\0", "\0")],
    &[("READ", "/", "0"), ("WRITE", "/app/", "/app0")],
    &[("READWRITE", "/app/a", ""), ("READWRITE", "/app/b", "/app/c")],
    &[("WRITE", "/app/a", ""), ("READ", "/app/b", ""), ("READWRITE", "/app/", "/app0")],
];

/// The same with several that begin with one key: a key and its prefix, ranges, and doubles, which etcd lets appear beside
/// another one.
const REFUSED: &[Permissions] = &[
    &[("READWRITE", "/app/", ""), ("READWRITE", "/app/", "/app0")],
    &[("READ", "/app/", ""), ("READWRITE", "/app/", "/app0")],
    &[("READWRITE", "/app/", "/app/m"), ("WRITE", "/app/", "/app0"), ("READ", "/app/", "")],
    &[("READ", "/app/", ""), ("READWRITE", "/app/", "/app0"), ("READWRITE", "/app/", "/app0")],
    &[("READ", "/app/", "-"), ("READ", "/app/", "/app0"), ("WRITE", "/app/", "/app0")],
    &[("READ", "/", "\0"), ("WRITE", "/", "0"), ("READWRITE", "/app/", "/app0")],
];

/// The things that may be between the program and the requests that change roles.
const BETWEEN: [RolesBy; 4] = [RolesBy::Itself, RolesBy::First, RolesBy::Second, RolesBy::Losing];

fn with(version: &'static str, permissions: Permissions) -> World {
    with_seed(1, version, permissions)
}

fn with_seed(seed: u64, version: &'static str, permissions: Permissions) -> World {
    let world = World::plain(seed, &[]);
    world.put("/app/a", Some("1"));
    world.put("/app/b", Some("1"));
    world.fake.have_users(version);
    world.fake.permit("root", "READ", "none", "");
    for (kind, key, end) in permissions {
        world.fake.permit("app", kind, key, end);
    }
    world
}

fn write(world: &World, value: &'static str) -> bool {
    let changes = [(b"/app/a".to_vec(), Some((Bytes::from_static(value.as_bytes()), 0)))];
    world.fake.write_as("app", &changes)
}

async fn cut(run: &Run<'_>, frozen: &Frozen, meanwhile: impl FnOnce()) -> Result<CutOver, Stop> {
    let consent = async |_| {
        meanwhile();
        Ok(())
    };
    cut_over(run, Freeze::Roles, frozen, Duration::from_secs(60), consent).await
}

fn why<T: std::fmt::Debug>(done: Result<T, Stop>) -> String {
    match done {
        Err(Stop::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

pub fn run() {
    for version in VERSIONS {
        for permissions in ROLES {
            stop_the_writers_until_the_way_back(version, permissions);
            are_given_back(version, permissions);
            are_given_back_after_a_kill(version, permissions);
        }
        for permissions in REFUSED {
            with_one_first_key_are_refused(version, permissions);
        }
        do_not_stop_root(version);
    }
    for number in 1..=30 {
        for between in BETWEEN {
            of_any_number_come_back(number, between);
        }
    }
    for permissions in &ROLES[2..] {
        are_not_given_back_under_another_cut_over(permissions);
        are_not_taken_by_an_instance_that_was_replaced(permissions);
    }
    for permissions in REFUSED {
        of_a_build_before_come_back(permissions);
    }
    are_not_given_back_by_one_that_ends_meanwhile(None);
    for restored in [Restored::Wiped, Restored::WithoutRecord, Restored::Older] {
        are_given_back_after_consul_was_restored(restored);
        are_not_given_back_by_one_that_ends_meanwhile(Some(restored));
    }
    are_named_by_state();
    of_keys_of_other_jobs_are_told();
    end_with_access_control();
    given_back_before_the_switch_are_told();
    of_a_lost_record_are_given_back_unless_another_cut_over_may_rely_on_them();
    that_another_job_has_taken_are_not_relied_on();
    are_told_when_a_way_back_ends_early();
    tell_who_has_switched();
    that_a_late_request_took_are_named_by_later_cut_overs();
    are_needed();
}

/// The notes and stops that an operator was told.
#[derive(Default)]
struct Paper {
    notes: Mutex<String>,
    stops: Mutex<Option<Vec<Right>>>,
    is_full: bool,
}

impl Report for Paper {
    fn progress(&self, _: &'static str, _: u64, _: Option<u64>) {}

    fn note(&self, text: &str) {
        *self.notes.lock().unwrap() += text;
    }

    fn stops(&self, how: &str, taken: &[Right]) -> Result<(), Stop> {
        if self.is_full {
            return Err(Stop::Refused("no space".to_owned()));
        }
        self.note(how);
        *self.stops.lock().unwrap() = Some(taken.to_vec());
        Ok(())
    }
}

/// The writers wait while rights are taken, and each is a request to both sides, which take their time.
pub fn some_at_once() {
    const ROLES: usize = 200;
    let world = World::plain(1, &[]);
    (0..ROLES).for_each(|at| world.put(&format!("/app/{at:03}"), Some("1")));
    world.fake.have_users("3.6.0");
    let roles: Vec<_> = (0..ROLES).map(|at| format!("role{at:03}")).collect();
    for (at, role) in roles.iter().enumerate() {
        world.fake.permit(role, "READWRITE", &format!("/app/{at:03}"), "");
    }
    let permissions = || roles.iter().map(|role| world.fake.permissions(role)).collect::<Vec<_>>();
    let before = permissions();
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        world.way_ms.store(25, std::sync::atomic::Ordering::Relaxed);
        let done = cut(&run, &Frozen::default(), || ()).await.unwrap();
        assert_eq!(done.taken.len(), ROLES);
        assert!(permissions().iter().zip(&before).all(|(now, before)| now != before));
        // One after the other they would take 10 s.
        assert!(done.stopped < Duration::from_secs(5), "{:?}", done.stopped);
        roll_back(&run, MayChange::NoNewKeys).await.unwrap();
        assert!(permissions() == before);
    });
}

/// A cut-over is killed at each moment: whatever it has changed in etcd was told before, with what undoes it.
pub fn are_told_before_they_are_taken() {
    for freeze in [Freeze::Alarm, Freeze::Roles, Freeze::Operator] {
        let changed: Vec<_> = (0..120).map(|life| told_when_killed(freeze, life)).collect();
        let is_some = |has: fn(&(bool, bool)) -> bool| changed.iter().filter(|it| has(it)).count();
        assert!(is_some(|it| it.0) > 20, "{freeze:?}");
        assert_eq!(is_some(|it| it.1) > 20, freeze != Freeze::Operator, "{freeze:?}");
        nothing_is_stopped_untold(freeze);
    }
}

fn with_roles() -> World {
    let world = with("3.6.0", ROLES[3]);
    world.fake.permit("other", "WRITE", "/", "0");
    world
}

/// Returns whether it has put keys into etcd, and stopped writers.
fn told_when_killed(freeze: Freeze, life: u64) -> (bool, bool) {
    let world = with_roles();
    let permissions = || ["app", "other"].map(|role| world.fake.permissions(role));
    let before = permissions();
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let taken = world.etcd.rights_to_write(&Range::prefix(b"")).await.unwrap();
        let paper = Arc::new(Paper::default());
        let run = Run { report: paper.clone(), ..run };
        {
            let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
            let cuts = pin!(cut_over(&run, freeze, &frozen, limit, async |_| Ok(())));
            select(cuts, pin!(world.clock.sleep(Duration::from_millis(life)))).await;
        }
        let told = paper.stops.lock().unwrap().clone();
        let notes = paper.notes.lock().unwrap().clone();
        // A request that was on its way.
        world.clock.sleep(Duration::from_secs(1)).await;
        let prefix = String::from_utf8(world.mapping.sentinels()).unwrap();
        let has_put = world.fake.revision() > 3;
        assert!(!has_put || notes.contains(&prefix), "{freeze:?} {life}: {notes}");
        let has_alarm = !world.fake.alarms().is_empty();
        assert!(!has_alarm || notes.contains("etcdctl alarm disarm"), "{freeze:?} {life}: {notes}");
        let has_taken = permissions() != before;
        assert!(!has_taken || told == Some(taken), "{freeze:?} {life}: {told:?}");
        (has_put, has_alarm || has_taken)
    })
}

fn nothing_is_stopped_untold(freeze: Freeze) {
    let world = with_roles();
    let permissions = || ["app", "other"].map(|role| world.fake.permissions(role));
    let before = permissions();
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let run = Run { report: Arc::new(Paper { is_full: true, ..Paper::default() }), ..run };
        let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
        let done = cut_over(&run, freeze, &frozen, limit, async |_| Ok(())).await;
        let record = run.job.record();
        if freeze == Freeze::Operator {
            done.unwrap();
            return;
        }
        assert_eq!(why(done), "no space");
        assert!(permissions() == before && world.fake.alarms().is_empty() && !frozen.may_be_on());
        assert!(record.alarms.is_empty() && record.taken.is_empty(), "{record:?}");
    });
}

/// The Consul that is there while a cut-over goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Restored {
    Wiped,
    WithoutRecord,
    /// As before the cut-over.
    Older,
}

impl Restored {
    fn ops(self, keys: &Keys, older: &Record) -> Vec<Op> {
        let older = Bytes::from(serde_json::to_vec(older).unwrap());
        match self {
            Restored::Wiped => {
                ["app/", "_migrate/"].map(|it| Op::DeleteTree { prefix: it.to_owned() }).to_vec()
            }
            Restored::WithoutRecord => vec![Op::Delete { key: keys.record.clone() }],
            Restored::Older => vec![Op::set(keys.record.clone(), older)],
        }
    }
}

fn are_given_back_after_consul_was_restored(restored: Restored) {
    for permissions in ROLES {
        let world = with("3.5.0", permissions);
        let before = world.fake.permissions("app");
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            let (keys, older) = (Keys::new("job"), run.job.record());
            let frozen = cut_with_a_difference(&world, &run).await;
            world.direct.txn_surely(&[], &restored.ops(&keys, &older)).await.unwrap();
            let lacking = frozen.lift(&world.etcd, &world.target, &keys).await.unwrap();
            assert_eq!(lacking, Some(Vec::new()), "{restored:?}");
            assert_eq!(world.fake.permissions("app"), before, "{restored:?}");
            assert!(write(&world, "2") && !frozen.may_be_on());
        });
    }
}

/// A cut-over ends at each moment, and its way back is held up at each moment, while another instance cuts over. Only a
/// request that was on its way may change etcd then, and only for what was really taken.
fn are_not_given_back_by_one_that_ends_meanwhile(restored: Option<Restored>) {
    const NAMES: [&str; 3] = ["/app/a", "/app/b", "/app/c"];
    let (mut untaken, mut taken) = (0, 0);
    for (ends_ms, held_ms) in
        (60..140_u64).flat_map(|ends| [0, 1, 2, 5, 15, 30].map(|held| (ends, held)))
    {
        // Each has other times of the requests.
        let world = with_seed(ends_ms % 3, "3.5.0", &[]);
        NAMES.iter().for_each(|name| world.fake.permit("app", "READWRITE", name, ""));
        let before = world.fake.permissions("app");
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            let (keys, older, frozen) = (Keys::new("job"), run.job.record(), Frozen::default());
            {
                let ends = pin!(world.clock.sleep(Duration::from_millis(ends_ms)));
                select(pin!(cut(&run, &frozen, || {})), ends).await;
            }
            let has_taken = world.fake.permissions("app") != before;
            if let Some(restored) = restored {
                world.direct.txn_surely(&[], &restored.ops(&keys, &older)).await.unwrap();
            }
            let mut lifts = pin!(frozen.lift(&world.etcd, &world.target, &keys));
            let held = pin!(world.clock.sleep(Duration::from_millis(held_ms)));
            if let Either::Left(_) = select(lifts.as_mut(), held).await {
                return;
            }
            // The record may be changed meanwhile by the instance that is held up.
            let cuts = async {
                let (other, kept) = world.hold(2).await?;
                lift_left_of(&world.etcd, &other.job).await?;
                load(&other, kept).await?;
                cut(&other, &Frozen::default(), || {}).await
            };
            if cuts.await.is_err() {
                return;
            }
            let switched = world.fake.permissions("app");
            let _ = lifts.await;
            let given: Vec<_> = world
                .fake
                .permissions("app")
                .into_iter()
                .filter(|it| !switched.contains(it))
                .collect();
            let shown = format!("{restored:?} {ends_ms} {held_ms} {has_taken}: {given:?}");
            assert!(given.len() <= usize::from(has_taken), "{shown}");
            *if has_taken { &mut taken } else { &mut untaken } += 1;
        });
    }
    assert!(untaken > 0 && taken > 10, "{restored:?}: {untaken} {taken}");
}

/// Each set of rights that a cut-over has taken and that roles have again.
fn are_named_by_state() {
    let names = ["/app/a", "/app/b", "/app/c"];
    for (state, rights) in
        (0..8_usize).flat_map(|it| [(it, Rights::Taken), (it, Rights::GivingBack)])
    {
        let world = with("3.5.0", &[]);
        names.iter().for_each(|name| world.fake.permit("app", "READWRITE", name, ""));
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            cut(&run, &Frozen::default(), || {}).await.unwrap();
            let has = |at: &usize| state >> at & 1 == 1;
            (0..3).filter(has).for_each(|at| world.fake.permit("app", "READWRITE", names[at], ""));
            run.job.save(Record { rights, ..run.job.record() }, &[]).await.unwrap();
            let said = rights_now(&world.etcd, &run.job.record()).await.unwrap();
            let words = match (state, rights) {
                (0, _) => "may not write since the cut-over",
                (7, Rights::GivingBack) => "a rollback or a finish has begun",
                (7, _) => "etcd TAKES WRITES although",
                (_, Rights::GivingBack) => "a rollback or a finish has begun to give",
                _ => "another job, an operator, or a request that came late",
            };
            assert!(said.contains(words), "{state} {rights:?}: {said}");
            let is_some = !matches!(state, 0 | 7);
            assert_eq!(said.contains("etcd TAKES SOME WRITES"), is_some, "{said}");
            for (at, name) in names.iter().enumerate() {
                assert_eq!(said.contains(*name), has(&at), "{state} {at}: {said}");
            }
            // A role that another job, or an operator, has let write since.
            names.iter().for_each(|name| world.fake.forbid("app", name, ""));
            world.fake.permit("later", "WRITE", "/", "0");
            let said = rights_now(&world.etcd, &run.job.record()).await.unwrap();
            assert!(said.contains("WRITES although") && said.contains("later, the keys"), "{said}");
        });
    }
}

fn that_a_late_request_took_are_named_by_later_cut_overs() {
    for freeze in [Freeze::Roles, Freeze::Alarm, Freeze::Operator] {
        for finishes in [false, true] {
            let world = with("3.6.0", ROLES[3]);
            world.works(async {
                let (run, kept) = world.hold(1).await.unwrap();
                load(&run, kept).await.unwrap();
                cut(&run, &Frozen::default(), || {}).await.unwrap();
                roll_back(&run, MayChange::NoNewKeys).await.unwrap();
                let late = run.job.record().taken[0].clone();
                world.etcd.take(&late).await.unwrap();
                for round in 0..2 {
                    let limit = Duration::from_secs(60);
                    let done =
                        cut_over(&run, freeze, &Frozen::default(), limit, async |_| Ok(())).await;
                    assert!(done.unwrap().taken.iter().all(|it| *it != late));
                    let named = match (finishes, round) {
                        (true, 1) => finish(&run, false).await.unwrap().not_lifted,
                        _ => roll_back(&run, MayChange::NoNewKeys).await.unwrap().not_given_back,
                    };
                    assert!(
                        named.len() == 1 && named[0].contains(&late.to_string()),
                        "{freeze:?}: {named:?}"
                    );
                    if !(finishes && round == 1) {
                        let (record, keys) = (run.job.record(), &run.job.keys);
                        let left = taken_late(&world.etcd, &world.target, &record, keys).await;
                        let said = left.unwrap().unwrap().to_string();
                        assert!(said.contains(&late.to_string()), "{said}");
                    }
                    assert!(!write(&world, "lost"));
                }
            });
        }
    }
}

/// The permissions with each range once, as far as etcd lets a role read and write.
fn merged(permissions: &[Permitted]) -> BTreeMap<(Vec<u8>, Vec<u8>), BTreeSet<&str>> {
    let mut merged = BTreeMap::<_, BTreeSet<&str>>::new();
    for (range, kind) in permissions {
        let may = merged.entry(range.clone()).or_default();
        may.extend(["READ", "WRITE"].iter().filter(|it| kind.contains(**it)));
    }
    merged
}

/// The right as it is in the record of a build that took several permissions with one first key.
fn of_a_build_before((range, kind): &Permitted, all: &[Permitted]) -> Right {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let permission = |((key, end), kind): &Permitted| json!({ "permType": kind, "key": text(key), "range_end": text(end) });
    let beside: Vec<_> =
        all.iter().filter(|(other, _)| other.0 == range.0).map(permission).collect();
    let right = json!({
        "role": "app", "key": hex(&range.0), "end": hex(&range.1), "reads": kind != "WRITE",
        "beside": if beside.len() > 1 { beside } else { vec![] },
    });
    serde_json::from_value(right).unwrap()
}

/// A build took several permissions with one first key, and was killed at some moment, or cut over.
fn of_a_build_before_come_back(permissions: Permissions) {
    // Each range is as before, without permission, or may be read alone.
    for state in 0..3_usize.pow(permissions.len() as u32) {
        let is_switched = state % 2 == 0;
        let world = with("3.5.0", permissions);
        let before = world.fake.permissions("app");
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            if is_switched {
                let frozen = Frozen::default();
                let limit = Duration::from_secs(60);
                cut_over(&run, Freeze::Operator, &frozen, limit, async |_| Ok(())).await.unwrap();
            }
            let taken = before.iter().filter(|(_, kind)| kind != "READ");
            let taken: Vec<_> = taken.map(|it| of_a_build_before(it, &before)).collect();
            let record = Record { taken, rights: Rights::Taken, ..run.job.record() };
            run.job.save(record, &[]).await.unwrap();
            for (at, (kind, key, end)) in permissions.iter().enumerate() {
                let is_beside =
                    before.iter().filter(|(range, _)| range.0 == key.as_bytes()).count() > 1;
                match state / 3_usize.pow(at as u32) % 3 {
                    0 => continue,
                    _ if !is_beside => continue,
                    1 => world.fake.forbid("app", key, end),
                    _ => {
                        world.fake.forbid("app", key, end);
                        if kind.starts_with("READ") {
                            world.fake.permit("app", "READ", key, end);
                        }
                    }
                }
            }
            match is_switched {
                true => {
                    let done = roll_back(&run, MayChange::NoNewKeys).await.unwrap();
                    assert!(done.not_given_back.is_empty(), "{done:?}");
                }
                false => _ = lift_left_of(&world.etcd, &run.job).await.unwrap(),
            }
            let now = world.fake.permissions("app");
            assert_eq!(merged(&now), merged(&before), "{permissions:?} {state} {is_switched}");
            let record = run.job.record();
            assert!(record.may_be_taken().is_empty());
            assert_eq!(
                taken_late(&world.etcd, &world.target, &record, &run.job.keys).await.unwrap(),
                None
            );
        });
    }
}

fn stop_the_writers_until_the_way_back(version: &'static str, permissions: Permissions) {
    let world = with(version, permissions);
    let before = world.fake.permissions("app");
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let frozen = Frozen::default();
        let done = cut(&run, &frozen, || assert!(write(&world, "2"))).await.unwrap();
        assert!(done.differences.is_empty(), "{done:?}");
        assert_eq!(run.job.record().phase, Phase::Switched);
        assert_eq!(world.stored("app/a").await.as_deref(), Some("2"));
        // Reads go on.
        let left = world.fake.permitted("app");
        assert!(!write(&world, "3") && left.iter().all(|kind| kind == "READ"), "{left:?}");
        let mut reads = before.clone();
        reads.retain(|(_, kind)| kind.starts_with("READ"));
        reads.sort();
        reads.dedup_by(|(one, _), (other, _)| one == other);
        assert_eq!(left.len(), reads.len(), "{permissions:?}");
        assert!(!frozen.may_be_on());
        roll_back(&run, MayChange::NoNewKeys).await.unwrap();
        assert_eq!(world.fake.permissions("app"), before);
        assert!(write(&world, "4") && run.job.record().may_be_taken().is_empty());
    });
}

/// Before the consent, and nothing is changed.
fn with_one_first_key_are_refused(version: &'static str, permissions: Permissions) {
    let world = with(version, permissions);
    let before = world.fake.permissions("app");
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let said = why(cut(&run, &Frozen::default(), || panic!("it asks")).await);
        let planned = roles_refused(&world.etcd, b"").await.unwrap();
        assert_eq!(planned.as_ref(), Some(&said), "{permissions:?}");
        for needed in ["the role app", "several permissions", "Merge them", "--freeze operator"] {
            assert!(said.contains(needed), "{needed}: {said}");
        }
        assert!(world.fake.permissions("app") == before && run.job.record().taken.is_empty());
    });
}

/// Requests that are repeated, and answers that are lost, leave each right as it was.
fn of_any_number_come_back(number: u64, between: RolesBy) {
    let world = with("3.5.0", ROLES[0]);
    let mut rng = fastrand::Rng::with_seed(number);
    world.fake.forbid("app", "/", "0");
    let name = |at: u64| format!("/app/{:02}", (at * 7) % 31);
    for at in 0..number {
        let kind =
            if at == 0 { "READWRITE" } else { rng.choice(["READ", "WRITE", "READWRITE"]).unwrap() };
        let end = rng.choice([
            String::new(),
            format!("{}0", name(at)),
            "/app0".to_owned(),
            "\0".to_owned(),
        ]);
        world.fake.permit("app", kind, &name(at), &end.unwrap());
    }
    world.fake.change_roles_by(between);
    let before = world.fake.permissions("app");
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let done = cut(&run, &Frozen::default(), || {}).await.unwrap();
        assert!(done.differences.is_empty(), "{done:?}");
        let mut reads = before.clone();
        reads.retain(|(_, kind)| kind != "WRITE");
        reads.iter_mut().for_each(|(_, kind)| "READ".clone_into(kind));
        assert_eq!(world.fake.permissions("app"), reads, "{number}, {between:?}");
        roll_back(&run, MayChange::NoNewKeys).await.unwrap();
        assert_eq!(world.fake.permissions("app"), before, "{number}, {between:?}");
    });
}

/// A key that Consul has and etcd has not.
const EXTRA: &str = "app/extra";

/// A cut-over that finds it, and is given up with the rights taken.
async fn cut_with_a_difference(world: &World, run: &Run<'_>) -> Frozen {
    let extra = Op::set(EXTRA.to_owned(), Bytes::new());
    world.direct.txn_surely(&[], &[extra]).await.unwrap();
    let frozen = Frozen::default();
    let done = cut(run, &frozen, || {}).await.unwrap();
    assert_eq!(done.differences.len(), 1, "{done:?}");
    frozen
}

/// A cut-over that finds a difference, or in which another program gives a right back.
fn are_given_back(version: &'static str, permissions: Permissions) {
    let world = with(version, permissions);
    let before = world.fake.permissions("app");
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let frozen = cut_with_a_difference(&world, &run).await;
        assert!(frozen.may_be_on() && !write(&world, "2"));
        frozen.lift(&world.etcd, &world.target, &Keys::new("job")).await.unwrap();
        assert_eq!(world.fake.permissions("app"), before);
        let record = world.record().await.unwrap();
        assert_eq!((record.rights, record.may_be_taken()), (Rights::GivenBack, &[][..]));
        assert_eq!(
            taken_late(&world.etcd, &world.target, &record, &run.job.keys).await.unwrap(),
            None
        );
        // A request of the cut-over comes late, or an operator takes it: the program says so, and it stays.
        world.etcd.take(&record.taken[0]).await.unwrap();
        let now = world.fake.permissions("app");
        let left = taken_late(&world.etcd, &world.target, &record, &run.job.keys).await.unwrap();
        let said = left.unwrap().to_string();
        assert!(said.contains(&record.taken[0].to_string()), "{said}");
        let (again, _) = world.hold(2).await.unwrap();
        assert!(!lift_left_of(&world.etcd, &again.job).await.unwrap());
        assert_eq!(world.fake.permissions("app"), now);
        // Of an etcd that was restored to the middle of the cut-over, all are taken.
        for right in &record.taken {
            world.etcd.take(right).await.unwrap();
        }
        let said =
            why(may_cut_over(&world.etcd, &world.target, &record, &run.job.keys, Freeze::Roles)
                .await);
        assert!(said.contains("no role of etcd but root"), "{said}");
        record.taken.iter().for_each(|it| assert!(said.contains(&it.to_string()), "{it}: {said}"));
    });
}

fn are_given_back_after_a_kill(version: &'static str, permissions: Permissions) {
    for life in [0, 2, 5, 8, 11, 14, 17, 20, 60, 150, 400] {
        let world = with(version, permissions);
        let before = world.fake.permissions("app");
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            let frozen = Frozen::default();
            let limit = Duration::from_secs(60);
            {
                // Killed some time after the first right was taken.
                let stopped = async {
                    while world.fake.permissions("app") == before {
                        world.clock.sleep(Duration::from_millis(1)).await;
                    }
                    world.clock.sleep(Duration::from_millis(life)).await;
                };
                let cut = cut_over(&run, Freeze::Roles, &frozen, limit, async |_| Ok(()));
                let _ = select(pin!(cut), pin!(stopped)).await;
            }
            let me = instance(2);
            let job = Job::hold(&world.target, "job", me, &|_| true, true, None).await.unwrap();
            if job.record().phase == Phase::Switched {
                assert!(!write(&world, "2"));
                return;
            }
            if life < 20 {
                // Killed again while it gives back.
                let again = world.clock.sleep(Duration::from_millis(life));
                let _ = select(pin!(lift_left_of(&world.etcd, &job)), pin!(again)).await;
            }
            lift_left_of(&world.etcd, &job).await.unwrap();
            assert_eq!(world.fake.permissions("app"), before, "{life}");
            assert!(write(&world, "2") && job.record().may_be_taken().is_empty());
            // The operator stops the writers: nobody gives that back.
            let all = world.fake.permissions("app");
            let text = |of: &[u8]| String::from_utf8(of.to_vec()).unwrap();
            all.iter().for_each(|((key, end), _)| world.fake.forbid("app", &text(key), &text(end)));
            assert!(!lift_left_of(&world.etcd, &job).await.unwrap());
            assert!(!write(&world, "3"));
        });
    }
}

/// Who gives back what a cut-over has left: itself, or `status` after it was killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Itself,
    Status,
}

/// An instance is held up at each moment while it gives back, and another one cuts over meanwhile: then the first one changes
/// neither etcd nor the record any more.
fn are_not_given_back_under_another_cut_over(permissions: Permissions) {
    for (by, ms) in (0..40).flat_map(|ms| [(By::Itself, ms), (By::Status, ms)]) {
        let world = with("3.5.0", permissions);
        let before = world.fake.permissions("app");
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            let frozen = cut_with_a_difference(&world, &run).await;
            let extra = Op::Delete { key: EXTRA.to_owned() };
            world.direct.txn_surely(&[], &[extra]).await.unwrap();

            let (keys, taking) = (Keys::new("job"), run.job.record().taking);
            let gives = async {
                match by {
                    By::Itself => frozen.lift(&world.etcd, &world.target, &keys).await,
                    By::Status => job::give_back(&world.etcd, &world.target, &keys, taking)
                        .await
                        .map(|_| None),
                }
            };
            let mut gives = pin!(gives);
            let held_up = pin!(world.clock.sleep(Duration::from_millis(ms)));
            let held_up = select(gives.as_mut(), held_up).await;
            let has_ended = matches!(held_up, futures_util::future::Either::Left(_));
            let (other, _) = world.hold(2).await.unwrap();
            assert!(lift_left_of(&world.etcd, &other.job).await.is_ok());
            assert_eq!(world.fake.permissions("app"), before, "{by:?} {ms}");
            let done = cut(&other, &Frozen::default(), || {}).await.unwrap();
            assert!(done.differences.is_empty(), "{done:?}");
            let switched = world.record().await.unwrap();
            if !has_ended {
                let lacking = gives.await.unwrap().unwrap_or_default();
                assert!(lacking.is_empty(), "{by:?} {ms}: it says to give back {lacking:?}");
            }
            assert_eq!(world.record().await.unwrap(), switched, "{by:?} {ms}");
            assert!(!write(&world, "lost") && switched.phase == Phase::Switched);
            roll_back(&other, MayChange::NoNewKeys).await.unwrap();
            assert_eq!(world.fake.permissions("app"), before, "{by:?} {ms}");
        });
    }
}

/// An instance is held up at each moment of a cut-over, and another one gives back what it has taken: in the end nothing is.
fn are_not_taken_by_an_instance_that_was_replaced(permissions: Permissions) {
    let mut begun = 0;
    for ms in 60..140 {
        let world = with("3.5.0", permissions);
        let before = world.fake.permissions("app");
        begun += world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            let frozen = Frozen::default();
            let mut cuts = pin!(cut(&run, &frozen, || {}));
            let held_up = pin!(world.clock.sleep(Duration::from_millis(ms)));
            let ended = select(cuts.as_mut(), held_up).await;
            assert!(matches!(ended, Either::Right(_)), "it takes seconds");
            let (other, _) = world.hold(2).await.unwrap();
            let has_begun = !other.job.record().may_be_taken().is_empty();
            lift_left_of(&world.etcd, &other.job).await.unwrap();
            assert!(cuts.await.is_err(), "{ms}");
            frozen.lift(&world.etcd, &world.target, &Keys::new("job")).await.unwrap();
            assert_eq!(world.fake.permissions("app"), before, "{ms}");
            assert!(write(&world, "2"), "{ms}");
            usize::from(has_begun)
        });
    }
    assert!(begun > 3, "{begun}");
}

/// A program with the role root writes on.
fn do_not_stop_root(version: &'static str) {
    let world = with(version, ROLES[0]);
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let (fake, clock) = (world.fake.clone(), world.clock.clone());
        world.clock.spawn(async move {
            for _ in 0..10_000 {
                clock.sleep(Duration::from_millis(50)).await;
                fake.write(&[(b"/app/b".to_vec(), Some((Bytes::from_static(b"root"), 0)))]);
            }
        });
        let frozen = Frozen::default();
        let why = why(cut(&run, &frozen, || {}).await);
        assert!(why.contains("programs still write to etcd"), "{why}");
        frozen.lift(&world.etcd, &world.target, &Keys::new("job")).await.unwrap();
        assert!(write(&world, "2"));
    });
}

/// An operator switches access control off at each moment of a cut-over, until shortly before its end.
fn end_with_access_control() {
    let lasts = |off: Option<Duration>| {
        let world = with("3.6.0", ROLES[0]);
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            let begun = world.clock.now();
            if let Some(off) = off {
                let (fake, clock) = (world.fake.clone(), world.clock.clone());
                world.clock.spawn(async move {
                    clock.sleep(off).await;
                    fake.have_no_users();
                });
            }
            let done = cut(&run, &Frozen::default(), || {}).await;
            (done, world.clock.now() - begun)
        })
    };
    let whole = lasts(None).1;
    let mut said = BTreeSet::new();
    for ms in (0..whole.as_millis() as u64 - 50).step_by(20) {
        said.insert(why(lasts(Some(Duration::from_millis(ms))).0));
    }
    let is_late = |it: &String| it.contains("switched etcd's access control off");
    assert!(said.len() == 2 && said.iter().filter(|it| is_late(it)).count() == 1, "{said:?}");
}

/// Another program lets the writers go on at each of the last moments of a cut-over, which then does not come to its end or says
/// so.
fn given_back_before_the_switch_are_told() {
    let open = [
        (Freeze::Roles, (|world| world.fake.have_no_users()) as fn(&World)),
        (Freeze::Roles, |world| world.fake.permit("app", "READWRITE", "/app/", "/app0")),
        (Freeze::Alarm, |world| world.fake.lift()),
    ];
    for (place, (freeze, open)) in open.into_iter().enumerate() {
        let lasts = |after: Option<Duration>| {
            let world = with("3.6.0", ROLES[0]);
            world.works(async {
                let (run, kept) = world.hold(1).await.unwrap();
                load(&run, kept).await.unwrap();
                let begun = world.clock.now();
                let is_early = async {
                    let Some(after) = after else { return false };
                    world.clock.sleep(after).await;
                    let is_early =
                        world.record().await.is_none_or(|it| it.phase != Phase::Switched)
                            && (freeze == Freeze::Roles || !world.fake.alarms().is_empty());
                    open(&world);
                    is_early
                };
                let consent = async |_| Ok(());
                let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
                let cut = Box::pin(cut_over(&run, freeze, &frozen, limit, consent));
                let (done, is_early) = join(cut, is_early).await;
                (done, is_early, world.clock.now() - begun)
            })
        };
        let whole = lasts(None).2.as_millis() as u64;
        let mut ends = BTreeSet::new();
        for ms in whole.saturating_sub(60)..whole {
            let (done, is_early, _) = lasts(Some(Duration::from_millis(ms)));
            let is_told = done.is_err() || done.is_ok_and(|it| it.opened.is_some());
            assert!(is_told || !is_early, "{place}, {ms} of {whole} ms");
            ends.insert((is_early, is_told));
        }
        assert!(ends.contains(&(true, true)), "{place}: {ends:?}");
    }
}

/// Consul has lost the record of what a cut-over has taken, and another one may rely on that: of the same job, or of another one.
fn of_a_lost_record_are_given_back_unless_another_cut_over_may_rely_on_them() {
    let phases = [Phase::Tail, Phase::Switched];
    let states = [None, Some(Rights::Taken), Some(Rights::GivingBack), Some(Rights::GivenBack)];
    let jobs = [("job", "/app/"), ("other", "/app/"), ("other", "/b/")];
    for ((phase, state), (job, prefix)) in phases
        .into_iter()
        .flat_map(|it| states.map(|state| (it, state)))
        .flat_map(|it| jobs.map(|job| (it, job)))
    {
        let world = with("3.5.0", ROLES[3]);
        let before = world.fake.permissions("app");
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            let (keys, older) = (Keys::new("job"), run.job.record());
            let frozen = cut_with_a_difference(&world, &run).await;
            world.fake.permit("later", "READWRITE", "/app/x", "");
            let all = world.etcd.rights_to_write(&Range::prefix(b"/app/")).await.unwrap();
            let (taken, rights) = match state {
                None => (Vec::new(), Rights::Taken),
                Some(rights) => (all, rights),
            };
            let mapping = Mapping { etcd_prefix: prefix.into(), ..older.mapping.clone() };
            let other = Record { phase, taken, rights, taking: 7, mapping, ..older.clone() };
            let lost = Restored::WithoutRecord.ops(&keys, &older);
            let value = serde_json::to_vec(&other).unwrap().into();
            let other = Op::set(Keys::new(job).record, value);
            world.direct.txn_surely(&[], &lost).await.unwrap();
            world.direct.txn_surely(&[], &[other]).await.unwrap();
            let lacking = frozen.lift(&world.etcd, &world.target, &keys).await.unwrap();
            let is_held = matches!(state, Some(Rights::Taken | Rights::GivingBack));
            let is_left = match (job, phase) {
                (_, Phase::Switched) => prefix == "/app/",
                ("job", _) => is_held,
                _ => false,
            };
            let case = format!("{phase:?} {state:?} {job} {prefix}");
            assert_eq!(lacking.is_some_and(|it| !it.is_empty()), is_left, "{case}");
            assert_eq!(world.fake.permissions("app") == before, !is_left, "{case}");
            assert_eq!(frozen.taken().is_empty(), !is_left, "{case}");
        });
    }
}

/// Whose rights have keys of this job, by phase and by what has become of them.
fn that_another_job_has_taken_are_not_relied_on() {
    let phases = [Phase::Tail, Phase::Switched];
    let states = [Rights::Taken, Rights::GivingBack, Rights::GivenBack];
    let ranges = [(("/", "0"), true), (("/app/a", ""), true), (("/b/", "/b0"), false)];
    // Before the cut-over, and as late as in the consent.
    let moments = [Freeze::Roles, Freeze::Operator]
        .into_iter()
        .flat_map(|freeze| [(freeze, false), (freeze, true)]);
    for (((phase, state), (range, overlaps)), (freeze, is_late)) in phases
        .into_iter()
        .flat_map(|it| states.map(|state| (it, state)))
        .flat_map(|it| ranges.map(|range| (it, range)))
        .flat_map(|it| moments.clone().map(move |moment| (it, moment)))
    {
        let world = with("3.5.0", &[]);
        let mapping = Mapping { etcd_prefix: b"/app/".into(), ..world.mapping.clone() };
        let world = World { mapping, ..world };
        world.fake.permit("other", "READWRITE", range.0, range.1);
        let is_refused = freeze == Freeze::Roles
            && phase != Phase::Switched
            && state != Rights::GivenBack
            && overlaps;
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            let key = if range.0 == "/b/" { "/b/a" } else { "/app/a" };
            let all = consul_migrate::etcd::Range::one(&Bytes::from(key));
            let taken = world.etcd.rights_to_write(&all).await.unwrap();
            assert_eq!(taken.len(), 1);
            for right in &taken {
                world.etcd.take(right).await.unwrap();
            }
            world.fake.permit("own", "WRITE", "/app/b", "");
            let other = Record { phase, taken, rights: state, ..run.job.record() };
            let mapping = Mapping { consul_prefix: "other/".to_owned(), ..world.mapping.clone() };
            let value = serde_json::to_vec(&Record { mapping, ..other }).unwrap().into();
            let (key, flags) = ("_migrate/other".to_owned(), 0);
            let other = Op::Set { key, value, flags };
            let limit = Duration::from_secs(60);
            if !is_late {
                world.direct.txn_surely(&[], std::slice::from_ref(&other)).await.unwrap();
            }
            let consent = async |_| {
                world.direct.txn_surely(&[], &[other]).await?;
                Ok(())
            };
            let frozen = Frozen::default();
            let done = cut_over(&run, freeze, &frozen, limit, consent).await;
            if !is_refused {
                assert!(done.unwrap().differences.is_empty());
                return;
            }
            let said = why(done);
            assert!(said.contains("the job \"other\" has taken rights"), "{said}");
            assert_eq!(frozen.may_be_on(), is_late);
        });
    }
}

/// A rollback has given the rights back, and ends before the job is not cut over any more.
fn are_told_when_a_way_back_ends_early() {
    let world = with("3.6.0", ROLES[0]);
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        cut(&run, &Frozen::default(), || {}).await.unwrap();
        let switched = run.job.record();
        roll_back(&run, MayChange::NoNewKeys).await.unwrap();
        let early = Record { rights: Rights::GivenBack, ..switched };
        let said = rights_now(&world.etcd, &early).await.unwrap();
        for needed in
            ["etcd TAKES WRITES", "a rollback or a finish has begun, and has given the rights back"]
        {
            assert!(said.contains(needed), "{said}");
        }
    });
}

/// A cut-over ends at some moments, and another instance has cut over since.
fn tell_who_has_switched() {
    let mut of_another = 0;
    for freeze in [Freeze::Roles, Freeze::Alarm, Freeze::Operator] {
        let whole = ended_after(freeze, 60_000, &mut of_another);
        let moments = (60..whole).step_by(20);
        for ends_ms in moments {
            ended_after(freeze, ends_ms, &mut of_another);
        }
    }
    assert!(of_another > 10, "{of_another}");
}

/// Returns how long it took, in milliseconds.
fn ended_after(freeze: Freeze, ends_ms: u64, of_another: &mut u32) -> u64 {
    let world = with("3.6.0", ROLES[0]);
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
        let begun = world.clock.now();
        {
            let ends = pin!(world.clock.sleep(Duration::from_millis(ends_ms)));
            let cuts = cut_over(&run, freeze, &frozen, limit, async |_| Ok(()));
            select(pin!(cuts), ends).await;
        }
        let took = (world.clock.now() - begun).as_millis() as u64;
        let record = world.record().await.unwrap();
        if record.phase == Phase::Switched {
            return took;
        }
        let (other, _) = world.hold(2).await.unwrap();
        lift_left_of(&world.etcd, &other.job).await.unwrap();
        let later = Frozen::default();
        let done = cut_over(&other, Freeze::Operator, &later, limit, async |_| Ok(()));
        // Something of the first one may come meanwhile.
        if done.await.is_ok() {
            let record = other.job.record();
            assert!(!frozen.has_switched(&record), "{freeze:?} {ends_ms}");
            *of_another += 1;
        }
        took
    })
}

fn are_needed() {
    let world = World::plain(1, &[]);
    let mapping = Mapping { etcd_prefix: b"/app/".into(), ..world.mapping.clone() };
    let world = World { mapping, ..world };
    world.put("/app/a", Some("1"));
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let asks = || panic!("it asks");
        let said = why(cut(&run, &Frozen::default(), asks).await);
        assert!(said.contains("etcd has no users"), "{said}");
        world.fake.have_users("3.5.0");
        world.fake.permit("root", "READWRITE", "\0", "\0");
        world.fake.permit("other", "READWRITE", "/b", "\0");
        world.fake.permit("reader", "READ", "\0", "\0");
        world.fake.permit("before", "WRITE", "/a", "/app/");
        let said = why(cut(&run, &Frozen::default(), asks).await);
        assert!(said.contains("no role of etcd but root"), "{said}");
    });
}

/// Two jobs, one cut over by roles whose right has keys of the other.
fn of_keys_of_other_jobs_are_told() {
    for (right, prefix, phase, is_told) in [
        (("/", "0"), "/other/", Phase::Switched, true),
        (("\0", "\0"), "/other/", Phase::Switched, true),
        (("/", "0"), "", Phase::Switched, true),
        (("/", "0"), "/other/", Phase::Tail, false),
        (("/app/", "/app0"), "/other/", Phase::Switched, false),
    ] {
        let permissions = [("READWRITE", right.0, right.1)];
        let world = with("3.5.0", &[]);
        permissions.iter().for_each(|(kind, key, end)| world.fake.permit("app", kind, key, end));
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            cut(&run, &Frozen::default(), || {}).await.unwrap();
            let record = run.job.record();
            let mapping = Mapping {
                etcd_prefix: prefix.into(),
                consul_prefix: "other/".to_owned(),
                ..world.mapping.clone()
            };
            let other = Record { phase, mapping, taken: Vec::new(), ..record.clone() };
            let value = serde_json::to_vec(&other).unwrap().into();
            let key = "_migrate/other".to_owned();
            world.direct.txn_surely(&[], &[Op::Set { key, value, flags: 0 }]).await.unwrap();
            let told = job::also_opened(&world.target, &Keys::new("job"), &record).await.unwrap();
            assert_eq!(told.len(), usize::from(is_told), "{right:?} {prefix} {phase:?}: {told:?}");
        });
    }
}
