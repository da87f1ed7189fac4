//! Alarms while one instance has replaced another.

use super::{World, changes};
use consul_migrate::mapping::Op;
use consul_migrate::{CutOver, Freeze, Frozen, MayChange, Run, Stop, cut_over, roll_back};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, join, select};
use std::pin::pin;
use std::time::Duration;

pub fn run() {
    let mut rng = fastrand::Rng::with_seed(0);
    let world = World::with_faults(0, 0, &mut rng);
    for _ in 0..40 {
        world.fake.write(&changes(&mut rng));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(world.clock.drive(async {
        let (replaced, _) = world.hold(1).await.unwrap();
        let (holder, _) = world.hold(2).await.unwrap();
        assert!(cut(&holder).await.unwrap().differences.is_empty());
        relies_on_its_alarm(&world, &replaced).await;
        goes_back_in_spite_of_a_late_alarm(&world).await;
    }));
    lifts_also_those_of_replaced_instances();
}

async fn cut(run: &Run<'_>) -> Result<CutOver, Stop> {
    let limit = Duration::from_secs(60);
    cut_over(run, Freeze::Alarm, &Frozen::default(), limit, async |_| Ok(())).await
}

/// The instance that was replaced neither lifts the other one's alarm nor takes it for one of etcd itself.
async fn relies_on_its_alarm(world: &World, replaced: &Run<'_>) {
    let on = world.fake.alarms();
    assert_eq!(on.len(), 1);
    let done = cut(replaced).await;
    assert!(matches!(done, Err(Stop::Held(_))), "{done:?}");
    assert_eq!(world.fake.alarms(), on);
}

/// The alarm of the cut-over comes once more after the way back has lifted it.
async fn goes_back_in_spite_of_a_late_alarm(world: &World) {
    let on = world.fake.alarms();
    let (run, _) = world.hold(3).await.unwrap();
    let key = format!("{}new", run.job.record().mapping.plain_prefix());
    world.direct.txn_surely(&[], &[Op::set(key, "of Consul".into())]).await.unwrap();
    let late = async {
        while !world.fake.alarms().is_empty() {
            world.clock.sleep(Duration::from_millis(1)).await;
        }
        // The look whether it is off takes 3 ms at most to come.
        world.clock.sleep(Duration::from_millis(5)).await;
        world.fake.raise(*on.first().unwrap());
    };
    let (done, ()) = join(roll_back(&run, MayChange::NoNewKeys), late).await;
    assert_eq!(done.unwrap().set, 1);
    assert!(world.fake.alarms().is_empty(), "etcd takes no writes");
}

/// Of two cut-overs that end too early, the first one's alarm comes late: the second lifts both.
fn lifts_also_those_of_replaced_instances() {
    let world = World::plain(1, &[]);
    world.put("/a", Some("1"));
    world.works(async {
        let (replaced, _) = world.hold(1).await.unwrap();
        while_stopped(&world, cut(&replaced)).await;
        let late = *world.fake.alarms().first().unwrap();
        let (holder, _) = world.hold(2).await.unwrap();
        let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
        let cut = cut_over(&holder, Freeze::Alarm, &frozen, limit, async |_| Ok(()));
        while_stopped(&world, cut).await;
        assert!(!world.fake.alarms().contains(&late));
        world.fake.raise(late);
        frozen
            .lift(&world.etcd, &world.target, &consul_migrate::job::Keys::new("job"))
            .await
            .unwrap();
        assert!(world.fake.alarms().is_empty());
    });
}

/// Cuts over until an alarm is on that was not before.
async fn while_stopped(world: &World, cut: impl Future<Output = Result<CutOver, Stop>>) {
    let before = world.fake.alarms();
    let stopped = async {
        while world.fake.alarms().is_subset(&before) {
            world.clock.sleep(Duration::from_millis(1)).await;
        }
    };
    match select(pin!(cut), pin!(stopped)).await {
        Either::Left((done, _)) => panic!("{done:?}"),
        Either::Right(_) => {}
    }
}
