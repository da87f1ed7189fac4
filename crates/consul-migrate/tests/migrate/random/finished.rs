//! The end of a move: nothing of it is left on either side, and etcd takes writes again.

use super::World;
use bytes::Bytes;
use consul_migrate::mapping::{Choice, Op, Problem};
use consul_migrate::{Freeze, Frozen, Stop, cut_over, finish, load};
use std::time::Duration;

pub fn run() {
    for freeze in [Freeze::Alarm, Freeze::Roles, Freeze::Operator] {
        leaves_nothing(freeze);
    }
    comes_after_the_cut_over();
}

fn with() -> World {
    let world =
        World::plain(1, &[Problem::PathKey, Problem::LargeValue].map(|it| (it, Choice::Encode)));
    for place in 0..200 {
        world.put(&format!("/app/{place:03}"), Some("1"));
    }
    world.put("/x//y", Some("odd"));
    world.put("/changed", Some("1"));
    // By a PUT, and in three parts.
    for (key, size) in [("/large", 400_000), ("/larger", 900_000)] {
        let value = Bytes::from(vec![b'l'; size]);
        assert!(world.fake.write(&[(key.into(), Some((value, 0)))]));
    }
    world
}

fn leaves_nothing(freeze: Freeze) {
    let world = with();
    if freeze == Freeze::Roles {
        world.fake.have_users("3.5.0");
        world.fake.permit("app", "READWRITE", "/", "0");
    }
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
        let done = cut_over(&run, freeze, &frozen, limit, async |_| Ok(())).await.unwrap();
        assert!(done.differences.is_empty(), "{done:?}");
        let of_program = Op::Set { key: "changed".to_owned(), value: "2".into(), flags: 9 };
        world.direct.txn_surely(&[], &[of_program]).await.unwrap();
        let before = world.found().await;
        // An unknown program, where the operator has let it go on; and a killed way back.
        let late = (b"/late".to_vec(), Some((Bytes::from_static(b"1"), 0)));
        let is_late = freeze != Freeze::Alarm && world.fake.write(&[late]);
        let sentinel = [&world.mapping.sentinels()[..], b"_migrate/job/rollback/1"].concat();
        if is_late {
            assert!(world.fake.write(&[(sentinel, Some((Bytes::new(), 0)))]));
        }

        let done = finish(&run).await.unwrap();
        assert_eq!(done.lifted, freeze != Freeze::Operator, "{freeze:?}");
        assert!(world.fake.alarms().is_empty());
        if freeze == Freeze::Roles {
            assert_eq!(world.fake.permitted("app"), ["READWRITE"]);
        }
        // Of 204 keys one was changed.
        assert_eq!((done.unmarked, done.left), (203, Some(204 + u64::from(is_late))), "{done:?}");
        let told = "204 keys in etcd: 204 moved (2 encoded); Consul has 204 keys";
        assert_eq!(done.keys.as_ref().map(ToString::to_string).as_deref(), Some(told));
        assert_eq!(done.all, done.left);
        assert_eq!(done.set_since, if is_late { vec!["/late"] } else { vec![] });
        let keys = world.fake.at(world.fake.revision());
        assert!(!keys.keys().any(|key| key.starts_with(&world.mapping.sentinels())));
        assert!(world.found().await == before, "a value has changed");
        // Nor does an instance leave anything that was stopped in between, and whose beat comes now.
        let stop = run.job.beat().await;
        assert!(stop.to_string().contains("holder in Consul was deleted"), "{stop}");
        let names = world.direct.keys("", None).await.unwrap();
        assert!(!names.iter().any(|name| name.starts_with("_migrate/")), "{names:?}");
        for name in &names {
            let stored = world.direct.entries(&[name]).await.unwrap().pop().flatten().unwrap();
            let flags = if name == "changed" { 9 } else { 0 };
            assert_eq!(stored.flags, flags, "{name}");
        }
    });
}

fn comes_after_the_cut_over() {
    let world = with();
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        match finish(&run).await {
            Err(Stop::Refused(why)) => assert!(why.contains("not cut over"), "{why}"),
            other => panic!("{other:?}"),
        }
        assert!(world.record().await.is_some());
    });
}
