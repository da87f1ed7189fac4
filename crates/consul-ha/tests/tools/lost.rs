//! Waits for a node while Consul loses its data. The nodes are what Consul has of them, so that nothing puts it back.

use crate::program::{PATIENCE, Run};
use crate::support::consul::RealConsul;
use crate::system::{client, object};
use consul_api::api::{agent, kv, session};
use consul_api::request::Args;
use consul_api::table::Endpoint;
use consul_api::value::Value;
use consul_client::Client;
use consul_client::coordination::lock::LOCK_FLAGS;
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// Two live nodes: n2 leads, and n1 has the only shard.
struct Pretended {
    consul: RealConsul,
    client: Arc<Client>,
    runtime: Runtime,
}

impl Pretended {
    fn start(version: &str) -> Pretended {
        let consul = RealConsul::start(version).expect("it is there");
        let client = client(&consul.address, "");
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Pretended { consul, client, runtime }
    }

    fn call(&self, endpoint: &'static Endpoint, args: Args) -> Value {
        self.runtime.block_on(self.client.call(endpoint, &args)).expect("an answer").value
    }

    fn put(&self, key: &str, value: &Json) {
        self.call(&kv::PUT, Args::new().arg(key).arg(value.to_string().into_bytes()));
    }

    fn set_up(&self) {
        self.wipe();
        for id in ["n1", "n2"] {
            self.put(&format!("ha/nodes/{id}"), &node(id));
            let service = object(&[
                ("Name", "ha-nodes".into()),
                ("ID", format!("ha-nodes-{id}").into()),
                ("Meta", object(&[("incarnation", format!("i-{id}").into())])),
            ]);
            self.call(&agent::SERVICE_REGISTER, Args::new().arg(service));
        }
        self.put("ha/shards/epoch", &json!({ "epoch": 7, "digest": "0" }));
        self.put("ha/shards/map", &map(7, "n1"));
        let id = self.call(&session::CREATE, Args::new());
        let id = id.as_str().or_else(|| id.get("ID").and_then(Value::as_str)).unwrap().to_owned();
        let leader = json!({ "node_id": "n2", "address": "127.0.0.1:1", "elected_at_ms": 1 });
        let acquire = Args::new().arg("ha/leader").arg(leader.to_string().into_bytes());
        self.call(&kv::PUT, acquire.opt("acquire", id.as_str()).opt("flags", LOCK_FLAGS));
    }

    /// As a Consul that lost its data.
    fn wipe(&self) {
        self.call(&kv::DELETE_TREE, Args::new().arg("ha/"));
    }

    fn record(&self) -> Json {
        self.record_of("n1")
    }

    fn record_of(&self, id: &str) -> Json {
        match self.call(&kv::GET, Args::new().arg(format!("ha/nodes/{id}"))) {
            Value::Bytes(bytes) => serde_json::from_slice(&bytes).unwrap(),
            _ => Json::Null,
        }
    }

    fn environment(&self) -> [(&str, &str); 2] {
        [("CONSUL_HTTP_ADDR", self.consul.address.as_str()), ("CONSUL_HA_PREFIX", "ha/")]
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::of(arguments, &self.environment())
    }

    /// A verb, and what happens when n1's key is so.
    fn during(&self, verb: &[&str], is_so: impl Fn(&Json) -> bool, then: impl FnOnce()) -> Run {
        let environment = self.environment();
        thread::scope(|scope| {
            let verb = scope.spawn(move || Run::of(verb, &environment));
            let end = Instant::now() + PATIENCE;
            while !is_so(&self.record()) {
                assert!(Instant::now() < end && !verb.is_finished(), "{:?}", self.record());
                thread::sleep(Duration::from_millis(50));
            }
            then();
            verb.join().unwrap()
        })
    }

    /// A verb that is interrupted once it has asked this node.
    fn interrupted(&self, verb: &[&str], id: &str) -> Run {
        Run::interrupted(verb, &self.environment(), || {
            let end = Instant::now() + PATIENCE;
            while self.record_of(id)["request"].is_null() {
                assert!(Instant::now() < end, "{:?}", self.record_of(id));
                thread::sleep(Duration::from_millis(50));
            }
        })
    }

    /// The node takes the request out of its key, and drains.
    fn take(&self) {
        let mut record = node("n1");
        record["mode"] = "draining".into();
        self.put("ha/nodes/n1", &record);
    }
}

fn node(id: &str) -> Json {
    json!({
        "id": id, "address": "127.0.0.1:1", "weight": 1, "started_ms": 1, "incarnation": format!("i-{id}"),
    })
}

fn map(epoch: u64, node: &str) -> Json {
    json!({ "format": 1, "epoch": epoch, "token": 1, "replicas": 1, "nodes": [node], "shards": [[0]] })
}

fn drains(record: &Json) -> bool {
    record["mode"] == "draining"
}

fn is_asked(record: &Json) -> bool {
    !record["request"]["leave"].is_null()
}

const LOST: &str = "Consul has lost its data: the shard map is gone; it is not known ";

pub fn is_no_success(version: &str) {
    let cluster = Pretended::start(version);
    cluster.set_up();
    let drain = ["drain", "n1", "--wait", "--limit", "5"];
    let run = cluster.during(&drain, drains, || cluster.wipe());
    run.refused(4, &[&format!("{LOST}what n1 has")]);
    cluster.set_up();
    let older = || cluster.put("ha/shards/map", &map(6, "n2"));
    let run = cluster.during(&drain, drains, older);
    run.refused(4, &["Consul has lost its data: the shard map went back from 7 to 6"]);
    cluster.set_up();
    let newer = || cluster.put("ha/shards/map", &map(8, "n2"));
    assert_eq!(cluster.during(&drain, drains, newer).ok(), "n1 has no shard\n");
    unreadable(&cluster);
    leaves(&cluster);
}

/// A map of another release, or junk, is not lost.
fn unreadable(cluster: &Pretended) {
    cluster.set_up();
    let drain = ["drain", "n1", "--wait", "--limit", "30"];
    let run = cluster.during(&drain, drains, || cluster.put("ha/shards/map", &json!("junk")));
    run.refused(1, &["it is not known what n1 has: ha/shards/map: "]);
}

/// Two losses of a shard that are accepted one after the other.
pub fn losses_of_two(version: &str) {
    let cluster = Pretended::start(version);
    cluster.set_up();
    let place = |node: &str| json!({ "node": node, "disk": 1 });
    let mut map = json!({
        "format": 1, "version": 3, "openings": {}, "nodes": [],
        "shared": { "shards": 1, "replicas": 3, "write_quorum": 2, "read_quorum": 2 },
        "places": [place("n1"), place("n3"), place("n4")], "shards": [[0, [0, 1, 2], []]],
    });
    cluster.put("ha/shards/maps/points", &map);
    let accepted = || {
        let key = "ha/shards/members/points/accepted/0";
        let Value::Bytes(word) = cluster.call(&kv::GET, Args::new().arg(key)) else {
            panic!("no word")
        };
        String::from_utf8(word).unwrap()
    };
    let accept = |of: &[&str]| {
        cluster.run(&[&["accept-loss", "points", "0", "--yes"], of].concat()).ok();
        accepted()
    };
    assert!(!accept(&["--node", "n3"]).contains("n4"));
    let both = accept(&["--node", "n4"]);
    assert!(both.contains("n3") && both.contains("n4"), "{both}");
    assert_eq!(accept(&["--node", "n4"]), both);
    cluster.put("ha/shards/members/points/accepted/0", &json!("unbound"));
    assert_eq!(accept(&["--node", "n4"]), "accepted", "it is about all that is missing");
    // n1 lives, and may have its records soon.
    map["down"] = json!({ "n1": 1 });
    cluster.put("ha/shards/maps/points", &map);
    cluster.put("ha/shards/members/points/accepted/0", &json!("untouched"));
    let before = accepted();
    for of in [&["--yes"][..], &["--dry-run"], &["--yes", "--node", "n1"]] {
        let run = cluster.run(&[&["accept-loss", "points", "0"], of].concat());
        run.refused(1, &["n1 lives", "--force"]);
        assert_eq!(accepted(), before, "{of:?}");
    }
    accept(&["--node", "n3", "--node", "n4"]);
    accept(&["--node", "n1", "--force"]);
}

fn leaves(cluster: &Pretended) {
    let leave = ["leave", "n1", "--wait", "--limit", "5"];
    cluster.set_up();
    let run = cluster.during(&leave, is_asked, || cluster.wipe());
    run.refused(4, &[&format!("{LOST}whether n1 leaves")]);
    cluster.set_up();
    let wiped = || {
        cluster.take();
        thread::sleep(Duration::from_secs(1));
        cluster.wipe();
    };
    let run = cluster.during(&leave, is_asked, wiped);
    run.refused(4, &[&format!("{LOST}whether n1 has left")]);
    cluster.set_up();
    let left = || {
        cluster.take();
        cluster.put("ha/shards/map", &map(8, "n2"));
        cluster.call(&kv::DELETE, Args::new().arg("ha/nodes/n1"));
    };
    assert_eq!(cluster.during(&leave, is_asked, left).ok(), "n1 has left\n");
}

/// Requests of two operators to one node.
pub fn requests_of_two(version: &str) {
    let cluster = Pretended::start(version);
    cluster.set_up();
    // It is taken back, and what the other asked for stays.
    let mut other = node("n1");
    other["request"] = json!({ "hand_over": { "token": 1 } });
    cluster.put("ha/nodes/n1", &other);
    let run = cluster.run(&["leave", "n1", "--limit", "1"]);
    run.refused(4, &["n1 has not acted within 1 s", "the request is withdrawn"]);
    assert_eq!(cluster.record()["request"], other["request"]);
    // Only the other's request is taken.
    let hand_over_is_taken = || {
        let mut record = cluster.record();
        assert_eq!(record["request"]["hand_over"], other["request"]["hand_over"]);
        record["request"].as_object_mut().unwrap().remove("hand_over");
        cluster.put("ha/nodes/n1", &record);
    };
    let run = cluster.during(&["leave", "n1", "--limit", "2"], is_asked, hand_over_is_taken);
    run.refused(4, &["n1 has not acted within 2 s", "the request is withdrawn"]);
    assert!(cluster.record()["request"].is_null());
    // Somebody else takes it back.
    let withdrawn = || cluster.put("ha/nodes/n1", &node("n1"));
    let run = cluster.during(&["leave", "n1"], is_asked, withdrawn);
    run.refused(1, &["n1 stays: somebody has withdrawn the request"]);
    // The same was asked before.
    let mut asked = node("n1");
    asked["request"] = json!({ "leave": { "incarnation": "i-n1" } });
    cluster.put("ha/nodes/n1", &asked);
    let run = cluster.run(&["leave", "n1", "--limit", "1"]);
    run.refused(4, &["somebody else had asked the same, which stays"]);
    assert!(is_asked(&cluster.record()));
    hands_over(&cluster);
}

/// Requests whose effect nobody awaits any more.
pub fn requests_of_nobody(version: &str) {
    let cluster = Pretended::start(version);
    cluster.set_up();
    for (verb, id) in [(&["leave", "n1"][..], "n1"), (&["hand-over"], "n2")] {
        let run = cluster.interrupted(&[verb, &["--limit", "60"]].concat(), id);
        run.refused(130, &["interrupted; the request is withdrawn"]);
        assert_eq!(cluster.record_of(id)["request"], Json::Null);
    }
    let mut asked = node("n1");
    asked["request"] = json!({ "leave": { "incarnation": "i-n1" }, "hand_over": { "token": 1 } });
    cluster.put("ha/nodes/n1", &asked);
    let why = cluster.run(&["why"]).out;
    assert!(why.contains("note: n1 has yet to take the request to leave"), "{why}");
    assert!(!why.contains("hand over"), "it is about an earlier leadership: {why}");
    cluster.run(&["drain", "n1", "--off"]).ok();
    assert_eq!(cluster.record()["request"], json!({ "hand_over": { "token": 1 } }));
    orders_of_nobody(&cluster);
    let token = cluster.run(&["leader", "--json"]).json()["leader"]["token"].clone();
    let mut leader = node("n2");
    leader["request"] = json!({ "hand_over": { "token": token, "to": "n3" } });
    cluster.put("ha/nodes/n2", &leader);
    let why = cluster.run(&["why"]).out;
    assert!(why.contains("n2 has yet to take the request to hand over the leadership to n3"));
    cluster
        .run(&["hand-over", "n1"])
        .refused(1, &["`consul-ha hand-over --withdraw` takes it back"]);
    cluster.run(&["hand-over", "--withdraw", "--dry-run"]).ok();
    assert_eq!(cluster.record_of("n2"), leader);
    let done = cluster.run(&["hand-over", "--withdraw"]).ok();
    assert_eq!(done, "the request to n2 to hand over is withdrawn\n");
    assert_eq!(cluster.record_of("n2")["request"], Json::Null);
    assert_eq!(cluster.run(&["hand-over", "--withdraw"]).ok(), "n2 is not asked to hand over\n");
}

/// A node hangs, and has yet to take orders to make its replicas again.
fn orders_of_nobody(cluster: &Pretended) {
    let place = |node: &str| json!({ "node": node, "disk": 1 });
    let map = json!({
        "format": 1, "version": 3, "openings": {}, "nodes": [],
        "shared": { "shards": 1, "replicas": 3, "write_quorum": 2, "read_quorum": 2 },
        "places": [place("n1"), place("n3"), place("n4")], "shards": [[0, [0, 1, 2], []]],
    });
    for store in ["points", "events"] {
        cluster.put(&format!("ha/shards/maps/{store}"), &map);
    }
    let order =
        |shards: &[u32]| json!({ "incarnation": "i-n1", "order": 7, "disk": 1, "shards": shards });
    let mut asked = node("n1");
    let leave = json!({ "incarnation": "i-n1" });
    asked["request"] = json!({
        "leave": leave.clone(),
        "reinit": { "points": order(&[0]), "events": order(&[0]), "spans": order(&[0]) },
    });
    cluster.put("ha/nodes/n1", &asked);
    let why = cluster.run(&["why"]).out;
    let cure = "`consul-ha reinit n1 points --off` takes it back";
    assert!(why.contains("has yet to take the request to make its replicas of store points again"));
    assert!(why.contains(cure), "{why}");
    cluster.run(&["reinit", "n1", "points", "--off", "--dry-run"]).ok();
    assert_eq!(cluster.record()["request"], asked["request"]);
    let off = cluster.run(&["reinit", "n1", "points", "--off"]).ok();
    assert_eq!(off, "n1 makes no more replicas of points again\n");
    let left = json!({ "leave": leave, "reinit": { "events": order(&[0]), "spans": order(&[0]) } });
    assert_eq!(cluster.record()["request"], left);
    let off = cluster.run(&["reinit", "n1", "--off"]).ok();
    assert_eq!(off, "n1 makes no more replicas of events, spans again\n");
    assert_eq!(cluster.record()["request"], json!({ "leave": leave }));
    let unknown = "it is not known whether n1 has an order on its disk";
    cluster.run(&["reinit", "n1", "--off"]).refused(1, &[unknown, "does not have store"]);
    for store in ["points", "events"] {
        cluster.call(&kv::DELETE, Args::new().arg(format!("ha/shards/maps/{store}")));
    }
    cluster.put("ha/nodes/n1", &node("n1"));
}

fn hands_over(cluster: &Pretended) {
    cluster.put("ha/nodes/n1", &node("n1"));
    let json = cluster.run(&["leader", "--json"]).json();
    let mut leader = node("n2");
    leader["request"] = json!({ "hand_over": { "token": json["leader"]["token"], "to": "n3" } });
    cluster.put("ha/nodes/n2", &leader);
    let pending = "has yet to take the request to hand over to \"n3\"";
    cluster.run(&["hand-over", "n1"]).refused(1, &[pending]);
    cluster.run(&["hand-over"]).refused(1, &[pending]);
    // That of an earlier leadership has no effect.
    leader["request"]["hand_over"]["token"] = 1.into();
    cluster.put("ha/nodes/n2", &leader);
    let run = cluster.run(&["hand-over", "n1", "--limit", "1"]);
    run.refused(4, &["n2 has not acted within 1 s", "the request is withdrawn"]);
}
