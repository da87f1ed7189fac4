//! No method of a node takes longer than the time limit of its client, also when each answer comes just in time and another
//! program changes the key meanwhile.

use crate::nodes::{Process, node};
use crate::support::world::World;
use bytes::Bytes;
use consul_api::error::Error;
use consul_client::transport::Transport;
use consul_cluster::{Mode, Options};
use consul_process::clock::{BoxFuture, Clock as _, ManualClock};
use consul_sim::{Fault, SimTransport};
use http::{Request, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
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

/// Gives one transaction that writes no answer.
#[derive(Debug)]
struct Silent {
    consul: SimTransport,
    clock: ManualClock,
    /// How many transactions are still answered before that one.
    before: AtomicI64,
    /// Whether Consul has applied it.
    is_applied: bool,
}

impl Transport for Silent {
    fn endpoint(&self) -> &str {
        "silent"
    }

    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let is_change =
            request.uri().path() == "/v1/txn" && !request.uri().to_string().contains("consistent");
        let is_lost = is_change && self.before.fetch_sub(1, Relaxed) == 0;
        Box::pin(async move {
            if !is_lost {
                return self.consul.send(request).await;
            }
            if self.is_applied {
                drop(self.consul.send(request).await);
            }
            self.clock.sleep(Duration::from_secs(3600)).await;
            Err(Error::argument("nobody waits for it"))
        })
    }
}

/// The methods and starts of a node that change keys in a transaction.
const CHANGES: [(&str, Method); 3] = methods! {
    "pause, by an operator who has seen the map": |it| async {
        let epoch = it.cluster.snapshot().map.as_ref().map_or(0, |map| map.epoch());
        let seen = it.cluster.at_epoch(epoch).await?;
        it.cluster.pause_moves(Some(&seen), "a test", "").await
    };
    "leave": |it| it.cluster.leave();
    "start after a stop in maintenance": |it| async {
        it.cluster.started().await
    };
};

/// Another connection may work.
#[test]
fn a_transaction_without_an_answer_is_sent_again_in_time() {
    for (name, method) in CHANGES {
        let mut usual = Duration::ZERO;
        for (lost, is_applied) in [(i64::MAX, false), (0, false), (0, true)] {
            let what = format!("{name}, applied: {is_applied}");
            let world = World::new();
            let _other = world.node("n2");
            world.wait(Duration::from_secs(6));
            let consul = SimTransport::new(Arc::clone(&world.agent), "simulated");
            let (clock, before) = (world.clock.clone(), AtomicI64::new(i64::MAX));
            let silent = Arc::new(Silent { consul, clock, before, is_applied });
            let connect = || world.client_over(Arc::clone(&silent) as Arc<dyn Transport>, 3);
            let options = || Options { hand_off: true, ..node("n1") };
            let mut process = world.start_with(connect(), options());
            world.wait(Duration::from_secs(6));
            let begun = if name.starts_with("start") {
                world.run(process.cluster.set_mode("n1", Mode::Maintenance)).expect("maintenance");
                world.stop(&process);
                silent.before.store(lost, Relaxed);
                let begun = world.clock.now();
                process = world.start_with(connect(), options());
                begun
            } else {
                silent.before.store(lost, Relaxed);
                world.clock.now()
            };
            world.run(method(&process)).unwrap_or_else(|error| panic!("{what}: {error}"));
            let took = world.clock.now() - begun;
            if lost == i64::MAX {
                usual = took;
                continue;
            }
            assert!(silent.before.load(Relaxed) < 0, "{what}: no transaction");
            let limit = usual + process.cluster.options().profile.patience() * 2;
            assert!(took <= limit, "{what}: {took:?}, usually {usual:?}");
        }
    }
}
