//! etcd is restored from a snapshot: it has an earlier revision, and the names and addresses that it had.

use super::World;
use consul_migrate::{
    Freeze, Frozen, MayChange, Run, Stop, Until, cut_over, load, roll_back, tail,
};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, select};
use std::pin::pin;
use std::time::Duration;

/// etcd is away for a time, at each moment of a tail; programs write as soon as it is back.
pub fn a_tail() {
    for away_ms in [0, 100, 900, 2500] {
        for after_ms in (0..2200).step_by(100) {
            for sets in [0, 1, 3] {
                is_noticed(Duration::from_millis(away_ms), Duration::from_millis(after_ms), sets);
            }
        }
    }
}

fn is_noticed(away: Duration, after: Duration, sets: usize) {
    let world = World::plain(1, &[]);
    (0..9).for_each(|at| world.put(&format!("/{at}"), Some("1")));
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let restored = async {
            world.clock.sleep(after).await;
            if away > Duration::ZERO {
                world.fake.answer_as(Some((503, "")));
                world.fake.cut_watches();
                world.clock.sleep(away).await;
                world.fake.answer_as(None);
            }
            world.fake.restore(4);
            (0..sets).for_each(|_| world.put("/new", Some("2")));
            world.clock.sleep(Duration::from_secs(10)).await;
        };
        match select(pin!(tail(&run, &Until::Dropped)), pin!(restored)).await {
            Either::Left((Err(Stop::Refused(why)), _)) => {
                assert!(why.contains("was restored from a snapshot"), "{why}");
            }
            _ => panic!("not noticed: away for {away:?}, after {after:?}, {sets}"),
        }
    });
}

async fn cut_over_with<'w>(world: &'w World) -> Run<'w> {
    let (run, kept) = world.hold(1).await.unwrap();
    load(&run, kept).await.unwrap();
    let limit = Duration::from_secs(60);
    cut_over(&run, Freeze::Alarm, &Frozen::default(), limit, async |_| Ok(())).await.unwrap();
    run
}

/// A key, and its new value; `None` deletes it.
type Write = (&'static str, Option<&'static str>);

pub fn a_way_back() {
    let all = [("/a", "1"), ("/b", "1"), ("/c", "1"), ("/d", "1")];
    // Changes of programs in the restored etcd, and the keys that a rollback would overwrite or delete.
    let cases: [(&[Write], &[&str]); 6] = [
        (&[], &[]),
        (&[("/new", Some("2"))], &["/new"]),
        (&[("/a", Some("2"))], &["/a"]),
        (&[("/a", None)], &[]),
        (&[("/a", Some("1"))], &[]),
        (&[("/a", Some("2")), ("/b", None), ("/new", Some("2"))], &["/a", "/new"]),
    ];
    for (changes, at_risk) in cases {
        for revision in 1..=5 {
            let world = World::plain(1, &[]);
            all.iter().for_each(|(key, value)| world.put(key, Some(value)));
            world.works(async {
                let run = cut_over_with(&world).await;
                world.fake.restore(revision);
                changes.iter().for_each(|(key, value)| world.put(key, *value));
                let before = world.fake.at(world.fake.revision());
                let done = roll_back(&run, MayChange::NoNewKeys).await;
                if at_risk.is_empty() {
                    done.unwrap();
                } else {
                    let Err(Stop::Refused(why)) = done else { panic!("{done:?}") };
                    at_risk.iter().for_each(|key| assert!(why.contains(key), "{key}: {why}"));
                    assert!(why.contains("--overwrite"), "{why}");
                    assert_eq!(world.fake.at(world.fake.revision()), before);
                    let would = roll_back(&run, MayChange::Nothing).await.unwrap();
                    assert_eq!(would.overwritten.len(), at_risk.len(), "{:?}", would.overwritten);
                    roll_back(&run, MayChange::Restored).await.unwrap();
                }
                let found = world.fake.at(world.fake.revision());
                let found = found.iter().map(|(key, entry)| (&key[..], &entry.value[..]));
                let wanted = all.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
                assert!(found.eq(wanted), "{changes:?} {revision}");
            });
        }
    }
}
