//! A proxy before Consul sends each write twice, and gives back what the second one was answered.

use super::World;
use bytes::Bytes;
use consul_migrate::job::Phase;
use consul_migrate::mapping::{Choice, Op, Problem};
use consul_migrate::{
    Freeze, Frozen, MayChange, Until, cut_over, finish, load, restart, roll_back, tail,
};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, select};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Each verb comes to its end, and does its work once.
pub fn run() {
    for freeze in [Freeze::Alarm, Freeze::Roles, Freeze::Operator] {
        for seed in 0..2 {
            each_verb_ends(seed, freeze);
        }
    }
}

fn each_verb_ends(seed: u64, freeze: Freeze) {
    let world =
        World::plain(seed, &[Problem::PathKey, Problem::LargeValue].map(|it| (it, Choice::Encode)));
    world.is_doubled.store(true, Ordering::Relaxed);
    world.fake.have_users("3.6.0");
    world.fake.permit("app", "READWRITE", "/", "0");
    (0..50).for_each(|at| world.put(&format!("/app/{at:02}"), Some("1")));
    world.put("/x//y", Some("odd"));
    let large = Bytes::from(vec![b'l'; 400_000]);
    assert!(world.fake.write(&[(b"/large".to_vec(), Some((large, 0)))]));
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let writers = async {
            for at in 0..50 {
                world.put(&format!("/app/{at:02}"), Some("2"));
                world.put(&format!("/new/{at:02}"), Some("2"));
                world.put(&format!("/app/{:02}", at / 2), None);
                world.clock.sleep(Duration::from_millis(50)).await;
            }
        };
        match select(pin!(tail(&run, &Until::Dropped)), pin!(writers)).await {
            Either::Left((ended, _)) => panic!("{ended:?}"),
            Either::Right(_) => {}
        }
        restart(&run, "a test").await.unwrap();
        load(&run, Default::default()).await.unwrap();
        for round in 0..2 {
            let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
            let done = cut_over(&run, freeze, &frozen, limit, async |_| Ok(())).await.unwrap();
            assert!(done.differences.is_empty(), "{done:?}");
            assert_eq!(run.job.record().phase, Phase::Switched);
            assert!(world.found().await == world.wanted(&world.mapping, done.revision));
            if round == 0 {
                let change = Op::set("app/back".to_owned(), Bytes::from_static(b"3"));
                world.direct.txn_surely(&[], &[change]).await.unwrap();
                roll_back(&run, MayChange::NoNewKeys).await.unwrap();
                let now = world.fake.at(world.fake.revision());
                assert_eq!(now[&b"/app/back"[..]].value, "3");
            }
        }
        let done = finish(&run, false).await.unwrap();
        // One is a program's.
        assert_eq!(Some(done.unmarked + 1), done.keys.as_ref().map(|keys| keys.moved), "{done:?}");
        let names = world.direct.keys("", None).await.unwrap();
        assert!(!names.iter().any(|name| name.starts_with("_migrate/")), "{names:?}");
    });
}
