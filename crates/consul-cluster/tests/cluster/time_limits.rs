//! No method of a node takes longer than the time limit of its client, also when each answer comes just in time and another
//! program changes the key meanwhile.

use crate::nodes::{Process, node};
use crate::support::world::World;
use consul_api::error::Error;
use consul_cluster::{Mode, Options};
use consul_process::clock::{BoxFuture, Clock as _};
use consul_sim::Fault;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);

type Method = fn(&Process) -> BoxFuture<'_, Result<(), Error>>;

macro_rules! methods {
    ($($name:literal: |$node:ident| $call:expr;)*) => {
        [$(($name, (|$node| Box::pin(async move { $call.await.map(|_| ()) })) as Method)),*]
    };
}

/// Every method that sends more than one request.
const METHODS: [(&str, Method); 11] = methods! {
    "drain": |it| it.cluster.set_mode("n1", Mode::Draining);
    "maintenance of another": |it| it.cluster.set_mode("n2", Mode::Maintenance);
    "mode of one that is stopped": |it| it.cluster.set_mode("n3", Mode::Active);
    "thaw": |it| it.cluster.thaw();
    "pause": |it| it.cluster.pause_moves(None, "a test", "");
    "resume": |it| it.cluster.resume_moves(None);
    "shards_ready": |it| it.cluster.shards_ready(&[1]);
    "forget": |it| it.cluster.forget(None, "n3");
    "hand over": |it| it.cluster.ask_hand_over(None, Some("n2"));
    "ask to leave": |it| it.cluster.ask_leave(None, "n2");
    "leave": |it| it.cluster.leave();
};

#[test]
#[ignore = "computes long: make test-all"]
fn no_method_takes_longer_than_its_limit_when_answers_come_just_in_time() {
    for latency in [0.3, 0.5, 0.95] {
        for has_conflicts in [false, true] {
            for (name, method) in METHODS {
                let what = format!("{name}, {latency} of the limit, conflicts: {has_conflicts}");
                let world = World::new();
                let options = |id| Options { hand_off: true, ..node(id) };
                let first = world.start(options("n1"));
                let _others = ["n2", "n3"].map(|id| world.start(options(id)));
                world.wait(Duration::from_secs(8));
                world.kill(&_others[1]);
                world.wait(Duration::from_secs(8));
                if name == "resume" {
                    world.run(first.cluster.pause_moves(None, "a test", "")).expect("a pause");
                }
                let latency = TIMEOUT.mul_f64(latency);
                let clients = vec!["0".to_owned()];
                world.agent.add_fault(Fault { clients, latency, ..Fault::default() });
                let began = world.clock.now();
                let call = async {
                    let changes = async {
                        loop {
                            world.clock.sleep(Duration::from_millis(700)).await;
                            if has_conflicts {
                                touch_all(&world);
                            }
                        }
                    };
                    tokio::select! {
                        biased;
                        _ = method(&first) => {}
                        () = changes => {}
                    }
                };
                world.run(call);
                let took = world.clock.now() - began;
                assert!(took <= TIMEOUT + Duration::from_millis(50), "{what}: {took:?}");
            }
        }
    }
}

/// Writes each key of the cluster again as it is, which changes its modify index.
fn touch_all(world: &World) {
    let names = world.get("/v1/kv/tsdb/cluster/?keys").expect("keys");
    let names: Vec<String> = serde_json::from_str(&names).expect("a list");
    for name in names.iter().filter(|name| !name.ends_with("/leader")) {
        if let Some(value) = world.value(&format!("/v1/kv/{name}")) {
            world.send("PUT", &format!("/v1/kv/{name}?flags=1"), &value);
            world.send("PUT", &format!("/v1/kv/{name}"), &value);
        }
    }
}
