//! One instance replaces another at each moment of its work.

use super::{PACE, World, instance};
use bytes::Bytes;
use consul_migrate::job::Job;
use consul_migrate::mapping::{Mapping, Op};
use consul_migrate::{CutOver, Freeze, Frozen, Run, Stop, Until, cut_over, load, tail};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, join, select};
use std::pin::pin;
use std::time::Duration;

pub fn run() {
    what_was_replaced_writes_nothing();
    a_value_is_there_although_requests_are_lost();
    for ms in 0..40 {
        a_large_value_of_the_other_stays(ms);
        a_cut_over_without_its_alarm_has_no_end(ms, false);
        a_cut_over_without_its_alarm_has_no_end(ms, true);
        a_change_of_the_other_is_no_difference(ms);
        a_late_deletion_is_not_of_the_other_ones_sentinel(ms);
    }
}

async fn cut(run: &Run<'_>) -> Result<CutOver, Stop> {
    let limit = Duration::from_secs(60);
    cut_over(run, Freeze::Alarm, &Frozen::default(), limit, async |_| Ok(())).await
}

fn what_was_replaced_writes_nothing() {
    let world = World::plain(1, &[]);
    world.works(async {
        let (replaced, _) = world.hold(1).await.unwrap();
        let (holder, _) = world.hold(2).await.unwrap();
        let set = [Op::set("a".to_owned(), "1".into())];
        for done in [
            replaced.job.apply(&set).await.map(|_| ()),
            replaced.job.apply_all(&set).await,
            replaced.job.save(replaced.job.record(), &set).await,
            replaced.job.next_epoch().await,
        ] {
            assert!(matches!(done, Err(Stop::Held(_))), "{done:?}");
        }
        assert_eq!(world.stored("a").await, None);
        holder.job.apply(&set).await.unwrap();
    });
}

fn a_value_is_there_although_requests_are_lost() {
    let mut world = World::with_faults(80, 1, &mut fastrand::Rng::with_seed(1));
    world.mapping = Mapping { consul_prefix: String::new(), ..world.mapping };
    world.works(async {
        let (run, _) = world.hold(1).await.unwrap();
        for place in 0..200 {
            let (key, value) = (format!("key/{place}"), b"value");
            run.job.put(&key, value, 7).await.unwrap();
            let stored = world.direct.get(&key).await.unwrap().unwrap();
            assert!(stored.value == value[..] && stored.flags == 7, "{key}");
        }
    });
}

fn a_large_value_of_the_other_stays(ms: u64) {
    let world = World::plain(ms, &[]);
    world.works(async {
        let (replaced, _) = world.hold(1).await.unwrap();
        let large = vec![b'x'; 400_000];
        let other = async {
            world.clock.sleep(Duration::from_millis(ms / 2)).await;
            let job =
                Job::hold(&world.direct, "job", instance(2), &|_| true, true, None).await.unwrap();
            job.apply(&[Op::set("a".to_owned(), "of the other".into())]).await.unwrap();
        };
        let (_, ()) = join(replaced.job.put("a", &large, 0), other).await;
        assert_eq!(world.stored("a").await.as_deref(), Some("of the other"), "{ms} ms");
    });
}

/// Waits until the writers are stopped, and then for `ms` more.
async fn while_stopped(world: &World, ms: u64) {
    while world.fake.alarms().is_empty() {
        world.clock.sleep(Duration::from_millis(1)).await;
    }
    world.clock.sleep(Duration::from_millis(ms)).await;
}

/// Its alarm is lifted, by a program or by an instance that has taken over.
fn a_cut_over_without_its_alarm_has_no_end(ms: u64, by_other: bool) {
    let world = World::plain(ms, &[]);
    world.works(async {
        world.put("/a", Some("1"));
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let other = async {
            while_stopped(&world, ms).await;
            if by_other {
                let me = instance(2);
                Job::hold(&world.direct, "job", me, &|_| true, true, None).await.unwrap();
            }
            world.fake.lift();
        };
        let (done, ()) = join(cut(&run), other).await;
        match done {
            // It was over before.
            Ok(done) => assert!(done.differences.is_empty() && (ms > 5 || done.tally.moved == 1)),
            Err(Stop::Held(_)) if by_other => return,
            Err(Stop::Refused(why)) if !by_other => {
                assert!(why.contains("another program has lifted the alarm"), "{why}");
                return;
            }
            other => panic!("{ms} ms, {by_other}: {other:?}"),
        }
        assert!(ms > 5, "{ms} ms, {by_other}: it has not noticed");
    });
}

fn a_change_of_the_other_is_no_difference(ms: u64) {
    let world = World::plain(ms, &[]);
    world.works(async {
        for place in 0..40 {
            world.put(&format!("/{place}"), Some("1"));
        }
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let other = async {
            while_stopped(&world, ms).await;
            let me = instance(2);
            let job = Job::hold(&world.direct, "job", me, &|_| true, true, None).await.unwrap();
            if job.record().switched_at.is_some() {
                return;
            }
            world.put("/39", None);
            let other = Run { etcd: &world.etcd, job, pace: PACE, report: run.report.clone() };
            let follows = pin!(tail(&other, &Until::Dropped));
            let _ = select(follows, world.clock.sleep(Duration::from_millis(200))).await;
        };
        let (done, ()) = join(cut(&run), other).await;
        match done {
            Ok(done) => assert!(done.differences.is_empty(), "{ms} ms: {done:?}"),
            Err(Stop::Held(_)) => {}
            Err(other) => panic!("{ms} ms: {other:?}"),
        }
    });
}

fn a_late_deletion_is_not_of_the_other_ones_sentinel(ms: u64) {
    let world = World::plain(ms, &[]);
    world.put("/a", Some(""));
    world.works(async {
        let (replaced, _) = world.hold(1).await.unwrap();
        let (holder, _) = world.hold(2).await.unwrap();
        let first = async {
            world.clock.sleep(Duration::from_millis(3 * ms)).await;
            cut(&replaced).await
        };
        let writes = async {
            loop {
                world.fake.write(&[(b"/a".to_vec(), Some((Bytes::new(), 0)))]);
                world.clock.sleep(Duration::from_millis(1)).await;
            }
        };
        let both = pin!(join(first, cut(&holder)));
        let (first, second) = match select(both, pin!(writes)).await {
            Either::Left((both, _)) => both,
            Either::Right((never, _)) => never,
        };
        let is_over = matches!(&first, Err(Stop::Refused(why)) if why.contains("cut over already"));
        assert!(is_over || matches!(first, Err(Stop::Held(_))), "{ms} ms: {first:?}");
        assert!(second.is_ok(), "{ms} ms: {second:?}");
    });
}
