//! The words for an operator about rights: before a cut-over takes them, and when they are not as they should be.

use super::{ROLES, cut, why, with, write};
use crate::random::World;
use consul_migrate::etcd::{Range, Right};
use consul_migrate::job::{self, Keys, Phase, Record, Rights};
use consul_migrate::mapping::{Mapping, Op};
use consul_migrate::{
    Freeze, Frozen, MayChange, Report, Run, Stop, cut_over, finish, lift_left_of, load, rights_now,
    roll_back, taken_late,
};
use consul_process::clock::Clock as _;
use futures_util::future::{join, select};
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub fn run() {
    are_named_by_state();
    of_keys_of_other_jobs_are_told();
    given_back_before_the_switch_are_told();
    are_told_when_a_way_back_ends_early();
    tell_who_has_switched();
    that_a_late_request_took_are_named_by_later_cut_overs();
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
