//! Which instance holds the job, and for whom another one waits.

use super::{PACE, World, instance};
use consul_migrate::job::{self, Job, Keys, source};
use consul_migrate::mapping::Op;
use consul_migrate::{Stop, load, restart, verify};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, join, select};
use std::pin::pin;
use std::time::Duration;

pub fn run() {
    is_replaced_without_a_beat_alone();
    one_that_takes_over_during_a_look_is_not_ended();
    a_tail_that_is_late_is_no_difference();
    a_revision_of_which_a_part_is_applied_was_there();
    without_a_mark_a_sweep_deletes_nothing();
}

fn is_replaced_without_a_beat_alone() {
    let (world, keys) = (World::plain(1, &[]), Keys::new("job"));
    world.works(async {
        let (run, _) = world.hold(1).await.unwrap();
        let lives = |is_dead| {
            let (world, keys) = (&world, &keys);
            async move { job::end_abandoned(&world.direct, keys, &|_| is_dead).await.unwrap().is_none() }
        };
        let hold = |is_dead: bool| {
            let world = &world;
            async move {
                let me = instance(2);
                Job::hold(&world.direct, "job", me, &|_| is_dead, false, None).await
            }
        };
        let looks = async {
            let held = hold(false).await;
            assert!(
                matches!(&held, Err(Stop::Held(by)) if by.contains("process 1 on h")),
                "{held:?}"
            );
            assert!(!lives(false).await, "it is ended");
        };
        match select(pin!(run.job.beat()), pin!(looks)).await {
            Either::Left((stop, _)) => panic!("{stop}"),
            Either::Right(_) => {}
        }
        // It beats no more.
        let second = hold(false).await.unwrap();
        assert!(matches!(run.job.beat().await, Stop::Held(_)));
        run.job.release().await;
        let holder = job::holder(&world.direct, &keys).await.unwrap();
        assert_eq!(holder.unwrap().0, instance(2), "one that was replaced lets nothing go");
        let beats = pin!(world.clock.sleep(Duration::from_secs(2)));
        let _ = select(pin!(second.beat()), beats).await;
        second.release().await;
        let ended = run.job.beat().await.to_string();
        assert!(
            ended.starts_with("another instance has replaced this one, and has ended"),
            "{ended}"
        );
        assert_eq!(job::holder(&world.direct, &keys).await.unwrap(), None);

        // A record that was deleted with its holder is noticed without a change of etcd.
        let (run, _) = world.hold(3).await.unwrap();
        let (_, index) = job::holder(&world.direct, &keys).await.unwrap().unwrap();
        assert!(world.direct.delete(&keys.holder, index).await.unwrap());
        let ended = run.job.beat().await;
        assert!(matches!(&ended, Stop::Refused(why) if why.contains("was deleted")), "{ended:?}");

        // An instance that has certainly ended is not waited for.
        let (_run, _) = world.hold(1).await.unwrap();
        let begun = world.clock.now();
        hold(true).await.unwrap();
        assert!(lives(true).await);
        assert_eq!(job::holder(&world.direct, &keys).await.unwrap(), None);
        assert!(world.clock.now() - begun < Duration::from_secs(1));
        let _ = world.hold(1).await.unwrap();
        assert!(lives(false).await, "it has no beat");
    });
}

/// The holder has ended, and another instance takes over while it is looked whether the first one lives.
fn one_that_takes_over_during_a_look_is_not_ended() {
    for taken_ms in [0, 500, 3000, 3950] {
        let (world, keys) = (World::plain(1, &[]), Keys::new("job"));
        world.works(async {
            let (_first, _) = world.hold(1).await.unwrap();
            let second = async {
                world.clock.sleep(Duration::from_millis(taken_ms)).await;
                let (second, _) = world.hold(2).await.unwrap();
                // Its first beat is after the look.
                world.clock.sleep(Duration::from_millis(4500 - taken_ms)).await;
                second.job.beat().await
            };
            let looks = job::end_abandoned(&world.direct, &keys, &|_| false);
            match select(pin!(looks), pin!(second)).await {
                Either::Left((lives, _)) => assert_eq!(lives.unwrap(), Some(instance(2))),
                Either::Right((stop, _)) => panic!("{stop}"),
            }
            let holder = job::holder(&world.direct, &keys).await.unwrap();
            assert_eq!(holder.unwrap().0, instance(2), "{taken_ms}");
        });
    }
}

/// A difference is looked at again, because the change may be on its way.
fn a_tail_that_is_late_is_no_difference() {
    let world = World::plain(1, &[]);
    world.put("/a", Some("1"));
    world.put("/b", Some("1"));
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        world.put("/a", Some("2"));
        world.put("/b", Some("2"));
        let mapping = run.job.record().mapping;
        let (etcd, target, revision) = (&world.etcd, &world.direct, world.fake.revision());
        let found = verify::compare_up_to(9, etcd, target, &mapping, revision, PACE, |_| ());
        let found = found.await.unwrap().differences;
        assert_eq!(found.len(), 2);
        let late = async {
            world.clock.sleep(Duration::from_millis(1500)).await;
            let set = Op::set("a".to_owned(), "2".into());
            world.direct.txn_surely(&[], &[set]).await.unwrap();
        };
        let (last, ()) = join(verify::confirmed(etcd, target, &mapping, found), late).await;
        assert_eq!(last.unwrap().iter().map(|it| &it.key[..]).collect::<Vec<_>>(), ["b"]);
    });
}

fn a_revision_of_which_a_part_is_applied_was_there() {
    let world = World::plain(1, &[]);
    world.put("/a", Some("1"));
    world.works(async {
        let (run, _) = world.hold(1).await.unwrap();
        let mut record = run.job.record();
        record.revision = world.fake.revision() + 1;
        source::check(&world.etcd, &record).await.unwrap();
        record.offset = 1;
        let refused = source::check(&world.etcd, &record).await.unwrap_err().to_string();
        assert!(refused.contains("was restored"), "{refused}");
    });
}

/// Jobs of versions without marks.
fn without_a_mark_a_sweep_deletes_nothing() {
    let mut world = World::plain(1, &[]);
    world.mapping.mark = 0;
    world.put("/a", Some("1"));
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let other = Op::set("other".to_owned(), "1".into());
        world.direct.txn_surely(&[], &[other]).await.unwrap();
        restart(&run, "the test").await.unwrap();
        load(&run, Default::default()).await.unwrap();
        assert_eq!(world.stored("other").await.as_deref(), Some("1"));
    });
}
