//! The rights come back after each end of a cut-over but its success, and never under another one.

use super::{Permissions, REFUSED, ROLES, VERSIONS, cut, why, with, with_seed, write};
use crate::etcd::text;
use crate::random::{World, instance};
use bytes::Bytes;
use consul_migrate::etcd::{Range, Right};
use consul_migrate::job::{self, Job, Keys, Phase, Record, Rights};
use consul_migrate::mapping::{Mapping, Op};
use consul_migrate::{
    Freeze, Frozen, MayChange, Run, cut_over, lift_left_of, load, may_cut_over, roll_back,
    taken_late,
};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, select};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

pub fn run() {
    for version in VERSIONS {
        for permissions in ROLES {
            are_given_back(version, permissions);
            are_given_back_after_a_kill(version, permissions);
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
    of_a_lost_record_are_given_back_unless_another_cut_over_may_rely_on_them();
}

/// A range and the kind of its permission.
type Permitted = ((Vec<u8>, Vec<u8>), String);

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
