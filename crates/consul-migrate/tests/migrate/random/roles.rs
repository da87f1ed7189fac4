//! A cut-over that takes the right to write from the roles of etcd: which it takes, and when it is refused.

pub mod given_back;
pub mod told;

use super::super::fake::RolesBy;
use super::World;
use bytes::Bytes;
use consul_migrate::job::{Keys, Phase, Record, Rights};
use consul_migrate::mapping::{Mapping, Op};
use consul_migrate::{
    CutOver, Freeze, Frozen, MayChange, Run, Stop, cut_over, load, roles_refused, roll_back,
};
use consul_process::clock::Clock as _;
use std::collections::BTreeSet;
use std::time::Duration;

const VERSIONS: [&str; 3] = ["3.4.0", "3.5.0", "3.6.0"];

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
    end_with_access_control();
    that_another_job_has_taken_are_not_relied_on();
    are_needed();
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
