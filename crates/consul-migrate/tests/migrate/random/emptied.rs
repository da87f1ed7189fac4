//! One side has lost all keys of the job: what the other has may be the last copy, and nothing of it goes without a word.

use super::World;
use consul_migrate::mapping::Op;
use consul_migrate::{
    Freeze, Frozen, MayChange, Run, Stop, Until, cut_over, load, restart, roll_back, tail,
};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, select};
use std::pin::pin;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

async fn cut(run: &Run<'_>, freeze: Freeze) {
    cut_over(run, freeze, &Frozen::default(), LIMIT, async |_| Ok(())).await.unwrap();
}

fn world() -> World {
    let world = World::plain(1, &[]);
    (0..9).for_each(|at| world.put(&format!("/app/{at}"), Some("1")));
    world
}

fn why<T: std::fmt::Debug>(done: Result<T, Stop>) -> String {
    match done {
        Err(Stop::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

async fn delete_all_of_consul(world: &World) {
    let all = Op::DeleteTree { prefix: "app/".to_owned() };
    world.direct.txn_surely(&[], &[all]).await.unwrap();
}

/// Consul has the job, and none of its keys: the way back deletes none of etcd unless the operator wants that. The keys that
/// programs have set in etcd since the cut-over stay then, too.
pub fn consul_before_the_way_back() {
    for is_late in [false, true] {
        let world = world();
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            cut(&run, Freeze::Operator).await;
            delete_all_of_consul(&world).await;
            if is_late {
                world.put("/app/new", Some("2"));
            }
            let before = world.fake.at(world.fake.revision());
            let why = why(roll_back(&run, MayChange::NoNewKeys).await);
            for words in ["may be the last copy", "/app/0", "--overwrite", "Nothing was changed"] {
                assert!(why.contains(words), "{words}: {why}");
            }
            let would = roll_back(&run, MayChange::Nothing).await.unwrap();
            assert_eq!(would.deleted, 9, "{would:?}");
            assert!(world.fake.at(world.fake.revision()) == before);
            let done = roll_back(&run, MayChange::Restored).await.unwrap();
            assert_eq!((done.deleted, done.changed.len()), (9, usize::from(is_late)), "{done:?}");
            assert_eq!(world.fake.at(world.fake.revision()).len(), usize::from(is_late));
        });
    }
}

/// How a new snapshot comes about.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    CopyAgain,
    /// A tail, or a cut-over, whose next changes are compacted.
    Tail,
    CutOver,
}

/// etcd has none of the job's keys any more, at a revision that does not show a restore, and the job needs a new snapshot:
/// Consul keeps all until etcd has keys again.
pub fn etcd_before_a_new_snapshot() {
    for by in [By::CopyAgain, By::Tail, By::CutOver] {
        for has_others in [false, true] {
            keeps_all_of_consul(by, has_others);
        }
    }
}

fn keeps_all_of_consul(by: By, has_others: bool) {
    let world = world();
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let before = world.found().await;
        (0..9).for_each(|at| world.put(&format!("/app/{at}"), None));
        (0..20).for_each(|_| world.put("/x", Some("0")));
        world.put("/x", None);
        if has_others {
            world.fake.raise(99);
            world.fake.lift();
        }
        world.fake.compact();
        let again = async || match by {
            By::CopyAgain => restart(&run, "--again").await,
            By::CutOver => {
                let frozen = Frozen::default();
                let cuts = cut_over(&run, Freeze::Operator, &frozen, LIMIT, async |_| Ok(()));
                cuts.await.map(|_| ())
            }
            By::Tail => {
                let tails = pin!(tail(&run, &Until::Dropped));
                match select(tails, world.clock.sleep(LIMIT)).await {
                    Either::Left((ended, _)) => ended.map(|_| ()),
                    Either::Right(_) => Ok(()),
                }
            }
        };
        let why = why(again().await);
        let is_refused = by == By::CutOver || why.contains("may be the last copy");
        assert!(is_refused && why.contains("nothing to move"), "{by:?}: {why}");
        assert!(world.found().await == before, "{by:?}: {why}");
        world.put("/app/new", Some("2"));
        again().await.unwrap();
        if by == By::CopyAgain {
            load(&run, Default::default()).await.unwrap();
        }
        assert_eq!(world.found().await.keys().collect::<Vec<_>>(), ["app/new"], "{by:?}");
    });
}

/// An operator empties etcd by one request while a tail follows a job that is cut over, or before it begins, and programs use Consul:
/// it keeps all.
pub fn etcd_under_a_tail_after_the_cut_over() {
    for after_ms in [0, 50, 300, 1500] {
        let world = world();
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            cut(&run, Freeze::Alarm).await;
            let before = world.found().await;
            let emptied = async {
                world.clock.sleep(Duration::from_millis(after_ms)).await;
                let all = world.fake.at(world.fake.revision());
                let all: Vec<_> = all.keys().map(|key| (key.to_vec(), None)).collect();
                assert!(all.len() > 9 && world.fake.write(&all));
                world.clock.sleep(LIMIT).await;
            };
            let tails = pin!(tail(&run, &Until::Dropped));
            let Either::Left((ended, _)) = select(tails, pin!(emptied)).await else {
                panic!("it goes on: {:?}", world.found().await)
            };
            let why = why(ended);
            assert!(why.contains("all its keys were deleted"), "{why}");
            assert!(world.found().await == before, "after {after_ms} ms: {why}");
        });
    }
}
