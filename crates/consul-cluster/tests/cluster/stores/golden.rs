//! Clusters that ended with an earlier release: Consul's keys and the nodes' disks as it left them.

use super::*;
use crate::support::golden;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use consul_cluster::Mode;
use consul_replication::record::Record;
use serde_json::{Value, json};

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const SHARDS: u32 = 8;

fn text(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

fn bytes(text: &Value) -> Bytes {
    BASE64.decode(text.as_str().expect("a text")).expect("Base64").into()
}

impl Cases {
    /// The content of a disk.
    fn content(&self, disk: &Disk) -> Value {
        let names = ["disk", "map"].map(str::to_owned).into_iter();
        let names = names.chain((0..SHARDS).map(|it| format!("shard/{it}")));
        let kept = |name: String| {
            let value = self.world.run(disk.kept(&name)).expect("memory");
            value.map(|value| (name, text(&value).into()))
        };
        let records = |shard| {
            let found = self.world.run(disk.scan(shard, Range::all(), usize::MAX)).expect("memory");
            let record = |it: Record| {
                json!([text(&it.id), it.version.to_string(), it.data.map(|data| text(&data))])
            };
            Value::from_iter(found.into_iter().map(record))
        };
        json!({
            "kept": names.filter_map(kept).collect::<serde_json::Map<String, Value>>(),
            "shards": (0..SHARDS).map(records).collect::<Value>(),
        })
    }

    /// A disk with this content.
    fn disk_of(&self, content: &Value) -> Arc<Disk> {
        let disk = Disk::new();
        self.world.run(async {
            for (name, value) in content["kept"].as_object().expect("an object") {
                disk.keep(name, bytes(value)).await.expect("memory");
            }
            for (shard, records) in (0..).zip(content["shards"].as_array().expect("a list")) {
                let record = |it: &Value| Record {
                    id: bytes(&it[0]),
                    version: it[1].as_str().and_then(|it| it.parse().ok()).expect("a version"),
                    data: (!it[2].is_null()).then(|| bytes(&it[2])),
                };
                let records = records.as_array().expect("a list").iter().map(record).collect();
                disk.apply(shard, records).await.expect("memory");
            }
        });
        disk
    }

    fn delete(&self, at: &Process, key: &str) {
        let record = (Bytes::from(key.to_owned()), None);
        let work = at.store.write(key.as_bytes(), vec![record], self.deadline(10));
        self.world.run(work).expect("a quorum");
    }
}

/// A cluster that is killed while its fourth node hands over its replicas.
fn killed_in_a_move() -> String {
    let (cases, nodes) = Cases::filled(4);
    cases.write(&nodes[0], "deleted", "once").expect("a quorum");
    cases.delete(&nodes[0], "deleted");
    cases.world.run(nodes[0].cluster.set_mode("n4", Mode::Draining)).expect("the right to do so");
    cases.wait_until(10, || nodes[0].store.status().iter().any(|it| !it.targets.is_empty()));
    nodes.iter().for_each(|node| cases.kill(node));
    let keys = cases.world.get("/v1/kv/?recurse").expect("keys");
    let keys: Value = serde_json::from_str(&keys).expect("JSON");
    let disks =
        NODES.iter().zip(&nodes).map(|(id, node)| (String::from(*id), cases.content(&node.disk)));
    let disks: serde_json::Map<String, Value> = disks.collect();
    serde_json::to_string_pretty(&json!({ "keys": keys, "disks": disks })).expect("JSON")
}

#[test]
fn the_cluster_of_each_release_goes_on() {
    for text in golden::of_each_release("cluster.json", killed_in_a_move) {
        let left: Value = serde_json::from_str(&text).expect("JSON");
        let cases = Cases::new();
        for key in left["keys"].as_array().expect("a list") {
            let value = String::from_utf8(bytes(&key["Value"]).to_vec()).expect("a text");
            let name = key["Key"].as_str().expect("a name");
            cases.world.send("PUT", &format!("/v1/kv/{name}?flags={}", key["Flags"]), &value);
        }
        let disks = NODES.map(|id| cases.disk_of(&left["disks"][id]));
        let start = |(id, disk): (&&str, &Arc<Disk>)| cases.start(id, disk);
        let nodes: Vec<Process> = NODES.iter().zip(&disks).map(start).collect();
        for node in &nodes {
            cases.world.run(node.store.ready()).expect("its map");
            cases.has(node, "before");
            assert_eq!(cases.read(node, "deleted"), None);
        }
        // A node that starts is active.
        cases.world.run(nodes[0].cluster.set_mode("n4", Mode::Draining)).expect("the right to");
        cases.wait_until(60, || !nodes[0].holders().contains("n4") && nodes[0].is_settled(3));
        cases.kill(&nodes[3]);
        cases.fill(&nodes[1], "after");
        cases.has(&nodes[2], "before");
        // An unreadable value is moved aside, to a key of this form.
        let keys = cases.world.get("/v1/kv/?keys").expect("keys");
        assert!(!keys.contains("map."), "{keys}");
        keeps_its_members(&left, &cases, &nodes);
    }
}

/// Documents of this build have all members that the release's nodes wrote, which read them after a way back.
fn keeps_its_members(left: &Value, cases: &Cases, nodes: &[Process]) {
    let keys = cases.world.get("/v1/kv/?recurse").expect("keys");
    let keys: Value = serde_json::from_str(&keys).expect("JSON");
    let mut written: BTreeMap<String, Value> = BTreeMap::new();
    let mut released: BTreeMap<String, Value> = BTreeMap::new();
    for (documents, keys) in [(&mut written, &keys), (&mut released, &left["keys"])] {
        for key in keys.as_array().expect("a list") {
            documents.insert(key["Key"].as_str().expect("a name").to_owned(), key["Value"].clone());
        }
    }
    for (id, node) in NODES.iter().zip(nodes).take(3) {
        let now = cases.content(&node.disk);
        for (documents, content) in [(&mut written, &now), (&mut released, &left["disks"][id])] {
            for (name, value) in content["kept"].as_object().expect("an object") {
                documents.insert(format!("{id}: {name}"), value.clone());
            }
        }
    }
    let mut compared = 0;
    for (name, then) in released {
        let Some(now) = written.get(&name) else { continue };
        let members = |value| match serde_json::from_slice(&bytes(value)).expect(&name) {
            Value::Object(members) => members.into_iter().map(|(member, _)| member).collect(),
            other => panic!("{name}: {other}"),
        };
        let (then, now): (BTreeSet<String>, BTreeSet<String>) = (members(&then), members(now));
        assert!(then.is_subset(&now), "{name}: {then:?} were written, and now {now:?}");
        compared += 1;
    }
    assert!(compared > 20, "{compared} documents");
}
