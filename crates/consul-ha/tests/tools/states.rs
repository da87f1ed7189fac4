//! Each verb in each state of what it needs to know. Nodes are what Consul has of them.

use crate::program::{PATIENCE, Run, are_of_schema};
use crate::support::agent::{Agent, Fault, MANAGEMENT, served, with_acl};
use crate::system::{client, object, token};
use consul_api::api::{acl, agent, kv, session};
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

/// Where nobody listens.
const NOBODY: &str = "127.0.0.1:1";

/// The word that agrees.
const YES: &str = "yes";

/// The end of a question.
const QUESTION: &str = "Type yes to go on:";

/// A verb that changes something.
struct Change {
    line: &'static [&'static str],
    /// The words of its question, if no other verb undoes it; empty: it does not ask.
    asks: &'static str,
    /// The exit status while the cluster has no leader, and why.
    leaderless: (i32, &'static str),
    /// The same while no node has a key.
    without_members: (i32, &'static str),
}

const UNKNOWN_NODE: (i32, &str) = (1, "unknown node");
const NO_LEADER: (i32, &str) = (1, "there is no leader");
const NO_MEMBERS: (i32, &str) =
    (1, "no node has a key in Consul: it is not known which nodes live");
const DONE: (i32, &str) = (0, "");

const CHANGES: [Change; 14] = [
    Change { line: &["drain", "n1"], asks: "", leaderless: DONE, without_members: UNKNOWN_NODE },
    Change {
        line: &["maintenance", "n1"],
        asks: "",
        leaderless: DONE,
        without_members: UNKNOWN_NODE,
    },
    Change { line: &["hand-over"], asks: "", leaderless: NO_LEADER, without_members: (1, "stays") },
    Change {
        line: &["leave", "n1"],
        asks: "",
        leaderless: NO_LEADER,
        without_members: UNKNOWN_NODE,
    },
    Change {
        line: &["thaw"],
        asks: "n3 count as lost",
        leaderless: DONE,
        without_members: NO_MEMBERS,
    },
    Change { line: &["pause"], asks: "", leaderless: DONE, without_members: DONE },
    Change { line: &["resume"], asks: "", leaderless: DONE, without_members: DONE },
    Change {
        line: &["forget", "n3"],
        asks: "n3 is not a member any more",
        leaderless: DONE,
        without_members: UNKNOWN_NODE,
    },
    Change {
        line: &["accept-loss", "points", "0"],
        asks: "acknowledged writes of store points may be lost",
        leaderless: DONE,
        without_members: NO_MEMBERS,
    },
    Change {
        line: &["accept-loss", "gone", "0"],
        asks: "what is missing of shard 0 when the leader knows it",
        leaderless: (1, "it is not known which replicas of shard 0 are missing"),
        without_members: NO_MEMBERS,
    },
    Change {
        line: &["store-set", "points", "--write-quorum", "3"],
        asks: "",
        leaderless: DONE,
        without_members: DONE,
    },
    Change {
        line: &["forget-store", "other"],
        asks: "its records stay on the disks of n8",
        leaderless: NO_LEADER,
        without_members: DONE,
    },
    Change {
        line: &["reinit", "n1", "points"],
        asks: "n1 drops its",
        leaderless: (1, "n1 does not have store points open"),
        without_members: UNKNOWN_NODE,
    },
    Change {
        line: &["set-weight", "n1", "2"],
        asks: "",
        leaderless: DONE,
        without_members: UNKNOWN_NODE,
    },
];

/// The verbs that show something, with their exit statuses: while all is known, with a token that may not read keys, and
/// without a Raft leader.
const SHOWS: [(&[&str], [i32; 3]); 10] = [
    (&["nodes"], [0, 5, 0]),
    (&["shards"], [0, 5, 0]),
    (&["shards", "KEY"], [0, 5, 0]),
    (&["leader"], [0, 5, 0]),
    (&["history"], [0, 5, 0]),
    (&["why"], [1, 5, 1]),
    (&["events"], [0, 5, 0]),
    (&["doctor"], [1, 1, 1]),
    (&["locks"], [0, 0, 0]),
    (&["names"], [0, 5, 0]),
];

/// The verbs that do not end, or ask no cluster.
const OTHERS: [&str; 4] = ["serve", "completion", "man", "help"];

struct Cluster {
    address: String,
    agent: Arc<Agent>,
    client: Arc<Client>,
    runtime: Runtime,
    session: String,
}

impl Cluster {
    fn start() -> Cluster {
        let (address, agent) = served(with_acl());
        let client = client(&address, MANAGEMENT);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let mut cluster = Cluster { address, agent, client, runtime, session: String::new() };
        let id = cluster.call(&session::CREATE, Args::new());
        cluster.session = id.as_str().expect("an id").to_owned();
        for id in ["n1", "n2"] {
            let service = object(&[
                ("Name", "ha-nodes".into()),
                ("ID", format!("ha-nodes-{id}").into()),
                ("Meta", object(&[("incarnation", format!("i-{id}").into())])),
            ]);
            cluster.call(&agent::SERVICE_REGISTER, Args::new().arg(service));
        }
        cluster
    }

    fn call(&self, endpoint: &'static Endpoint, args: Args) -> Value {
        self.runtime.block_on(self.client.call(endpoint, &args)).expect("an answer").value
    }

    fn put(&self, key: &str, value: &Json) {
        self.call(&kv::PUT, Args::new().arg(key).arg(value.to_string().into_bytes()));
    }

    fn delete(&self, below: &str) {
        self.call(&kv::DELETE_TREE, Args::new().arg(below));
    }

    /// Two live nodes, and n2 leads; n3 is lost, and has frozen the map.
    fn set_up(&self) {
        self.delete("ha/");
        for id in ["n1", "n2", "n3"] {
            let record = json!({
                "id": id, "address": NOBODY, "weight": 1, "started_ms": 1, "incarnation": format!("i-{id}"),
            });
            self.put(&format!("ha/nodes/{id}"), &record);
        }
        self.put("ha/shards/epoch", &json!({ "epoch": 7, "digest": "0", "frozen": ["n3"] }));
        let map = json!({
            "format": 1, "epoch": 7, "token": 1, "replicas": 1, "nodes": ["n1"], "shards": [[0]],
        });
        self.put("ha/shards/map", &map);
        let place = |node: &str| json!({ "node": node, "disk": 1 });
        let mut store = json!({
            "format": 1, "version": 3, "openings": {}, "nodes": [],
            "shared": { "shards": 1, "replicas": 3, "write_quorum": 2, "read_quorum": 2 },
            "places": [place("n1"), place("n3"), place("n4")], "shards": [[0, [0, 1, 2], []]],
        });
        self.put("ha/shards/maps/points", &store);
        store["unrecovered"] = json!([0]);
        self.put("ha/shards/maps/gone", &store);
        self.put("ha/shards/waiting/other", &json!("n8 opens its storage"));
        self.put("ha/shards/members/other/nodes/n8", &json!({}));
        self.put(
            "ha/shards/leaders",
            &json!([{ "node_id": "n2", "token": 1, "elected_at_ms": 1 }]),
        );
        let leader = json!({ "node_id": "n2", "address": NOBODY, "elected_at_ms": 1 });
        let acquire = Args::new().arg("ha/leader").arg(leader.to_string().into_bytes());
        let acquire = acquire.opt("acquire", self.session.as_str());
        self.call(&kv::PUT, acquire.opt("flags", LOCK_FLAGS));
    }

    /// All keys with their values.
    fn keys(&self) -> Vec<(Value, Value)> {
        let entries = self.call(&kv::LIST, Args::new().arg(""));
        let of = |entry: &Value, name| entry.get(name).cloned().unwrap_or(Value::Null);
        entries.items().iter().map(|it| (of(it, "Key"), of(it, "Value"))).collect()
    }

    fn environment<'a>(&'a self, token: &'a str) -> [(&'static str, &'a str); 3] {
        [
            ("CONSUL_HTTP_ADDR", self.address.as_str()),
            ("CONSUL_HTTP_TOKEN", token),
            ("CONSUL_HA_PREFIX", "ha/"),
        ]
    }

    /// A change in each way in which it can be run, which is refused with this status, asks nothing, and changes nothing.
    fn is_refused(
        &self,
        change: &Change,
        environment: &[(&str, &str)],
        (status, why): (i32, &str),
    ) {
        let line = change.line;
        let before = self.keys();
        let mut ways = vec![(false, line.to_vec()), (false, [line, &["--dry-run"]].concat())];
        if !change.asks.is_empty() {
            ways.extend([(true, line.to_vec()), (false, [line, &["--yes"]].concat())]);
        }
        for (on_terminal, line) in ways {
            let run = match on_terminal {
                true => Run::on_terminal(&line, environment, YES),
                false => Run::of(&line, environment),
            };
            let said = format!("{}{}", run.out, run.err);
            assert!(!said.contains(QUESTION), "{line:?}: {run:?}");
            assert!(run.status == status && said.contains(why), "{line:?}: {run:?}");
        }
        assert_eq!(self.keys(), before, "{line:?}");
    }
}

/// The verbs of the help, with the help of each.
pub fn verbs() -> Vec<(String, String)> {
    let help = Run::of(&["--help"], &[]).ok();
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.split_whitespace().next());
    let help = |name: &str| match name {
        "help" => String::new(),
        _ => Run::of(&[name, "--help"], &[]).ok(),
    };
    names.map(|name| (name.to_owned(), help(name))).collect()
}

/// The JSON of each verb that has some is as its schema says.
pub fn have_schemas() {
    let verbs = verbs();
    let without = ["completion", "man", "help"];
    let verbs = verbs.iter().map(|(verb, _)| verb.as_str()).filter(|verb| !without.contains(verb));
    are_of_schema(verbs);
}

/// The program's own table of verbs has a row here for each, and those that ask have `--yes`.
fn tables_have_all_verbs() {
    for (verb, help) in verbs() {
        let rows: Vec<&Change> = CHANGES.iter().filter(|it| it.line[0] == verb).collect();
        assert_eq!(help.contains("--dry-run"), !rows.is_empty(), "{verb} changes something");
        for row in rows {
            assert_eq!(help.contains("--yes"), !row.asks.is_empty(), "{verb} asks");
        }
        let shows = SHOWS.iter().any(|(line, _)| line[0] == verb) || OTHERS.contains(&&*verb);
        assert_eq!(help.contains("--dry-run"), !shows, "{verb} shows something");
    }
}

pub fn are_told() {
    tables_have_all_verbs();
    let cluster = Cluster::start();
    all_is_known(&cluster);
    let blind = r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;
    let blind = cluster.runtime.block_on(token(&cluster.client, blind));
    let (whole, blind) = (cluster.environment(MANAGEMENT), cluster.environment(&blind));
    let nobody = [("CONSUL_HTTP_ADDR", NOBODY), ("CONSUL_HA_PREFIX", "ha/")];
    for change in &CHANGES {
        cluster.set_up();
        cluster.is_refused(change, &blind, (5, "key:read"));
        cluster.is_refused(change, &nobody, (3, NOBODY));
        without(&cluster, "ha/leader", change, change.leaderless);
        without(&cluster, "ha/nodes/", change, change.without_members);
    }
    cluster.set_up();
    cluster.put("ha/shards/epoch", &json!("junk"));
    let thaw = CHANGES.iter().find(|it| it.line == ["thaw"]).expect("a row");
    cluster.is_refused(thaw, &whole, (1, "it is not known whether the shard map is frozen"));
    cluster.set_up();
    for (line, [known, hidden, _]) in SHOWS {
        for (environment, status) in [(&whole[..], known), (&blind, hidden), (&nobody, 3)] {
            let run = Run::of(line, environment);
            assert_eq!(run.status, status, "{line:?}: {run:?}");
            assert!(!run.err.contains("no Raft leader"), "{line:?}: {run:?}");
        }
    }
    leaders_with_clocks_apart(&cluster);
    of_nodes_that_are_not_there(&cluster);
    without_consul(&cluster);
    without_raft_leader(&cluster);
    token_ends_meanwhile(&cluster);
}

/// Each verb that asks something of a node, with its status and its words for a node that is down, for a stopped node, and for
/// a name that no node has.
fn of_nodes_that_are_not_there(cluster: &Cluster) {
    type Said = (i32, &'static str);
    const TAKES: Said = (0, "n3 is down: its next start takes the mode");
    const AT_START: Said = (0, ", when it starts");
    const DOWN: Said = (1, "n3 is down");
    const DRAINS: Said = (1, "n4 drains: `consul-ha drain n4 --off`");
    const STOPPED: Said = (1, "n4 is stopped");
    let verbs: [(&[&str], [Said; 2]); 10] = [
        (&["drain"], [TAKES, AT_START]),
        (&["drain", "--off"], [TAKES, AT_START]),
        (&["maintenance"], [TAKES, DRAINS]),
        (&["maintenance", "--off"], [TAKES, DRAINS]),
        (&["set-weight", "2"], [AT_START, AT_START]),
        (&["hand-over"], [(1, "n3 is not live and active"), STOPPED]),
        (&["leave"], [DOWN, STOPPED]),
        (&["forget", "--yes"], [(0, "n3 is not a member any more"), (0, "n4 is not a member")]),
        (&["reinit", "--yes"], [DOWN, STOPPED]),
        (
            &["reinit", "--off"],
            [(1, "it is not known whether n3 has an order on its disk"), STOPPED],
        ),
    ];
    let environment = cluster.environment(MANAGEMENT);
    for (words, of_nodes) in verbs {
        let states = of_nodes.into_iter().zip(["n3", "n4"]);
        for ((status, said), node) in states.chain([(UNKNOWN_NODE, "n9")]) {
            cluster.set_up();
            cluster.put("ha/nodes/n4/mode", &json!({ "mode": "draining" }));
            let line = [&words[..1], &[node], &words[1..]].concat();
            let run = Run::of(&line, &environment);
            let all = format!("{}{}", run.out, run.err);
            assert!(run.status == status && all.contains(said), "{line:?}: {run:?}");
        }
    }
    cluster.set_up();
}

/// By its own clock a leader was elected before the last one: how long that one led is not known.
fn leaders_with_clocks_apart(cluster: &Cluster) {
    let leader =
        |node: &str, at_ms: u64| json!({ "node_id": node, "token": 1, "elected_at_ms": at_ms });
    let leaders = json!([leader("n1", 9000), leader("n2", 4000), leader("n1", 6000)]);
    cluster.put("ha/shards/leaders", &leaders);
    let history = Run::of(&["history"], &cluster.environment(MANAGEMENT)).ok();
    let led: Vec<&str> =
        history.lines().skip(1).map(|it| it.rsplit("  ").next().unwrap().trim()).collect();
    assert_eq!(led, ["-", "2 s", "-"], "{history}");
}

/// The token of each verb that waits for its effect ends when the order is given: the failure says that the order stands.
fn token_ends_meanwhile(cluster: &Cluster) {
    type Case = (&'static [&'static str], &'static str, &'static str, &'static [&'static str]);
    let taken_back = &["it was not withdrawn", "may still take effect"][..];
    let cases: [Case; 5] = [
        (
            &["drain", "n1", "--wait"],
            "ha/nodes/n1",
            "draining",
            &["n1 drains: `consul-ha drain n1 --off` ends that"],
        ),
        (&["leave", "n1", "--wait"], "ha/nodes/n1", "\"leave\"", taken_back),
        (&["hand-over"], "ha/nodes/n2", "\"hand_over\"", taken_back),
        (&["set-weight", "n1", "2"], "ha/nodes/all/weights", "n1", &["the weight stays set"]),
        (
            &["forget-store", "other", "--yes"],
            "ha/shards/members/other/forget/all",
            "by",
            &["the request may still take effect"],
        ),
    ];
    let rules = r#"key_prefix "" { policy = "write" } service_prefix "" { policy = "read" }
        node_prefix "" { policy = "read" }"#;
    for (line, key, value, words) in cases {
        cluster.set_up();
        cluster.delete("ha/shards/maps/");
        cluster.put("ha/shards/epoch", &json!({ "epoch": 7, "digest": "0" }));
        let secret = cluster.runtime.block_on(token(&cluster.client, rules));
        let own = client(&cluster.address, &secret);
        let own = async { own.call(&acl::TOKEN_SELF, &Args::new()).await };
        let own = cluster.runtime.block_on(own).expect("a token").value;
        let id = own.get("AccessorID").and_then(Value::as_str).expect("an id");
        let environment = cluster.environment(&secret);
        let run = thread::scope(|scope| {
            let run = scope.spawn(move || Run::of(line, &environment));
            let is_ordered = || match cluster.call(&kv::GET, Args::new().arg(key)) {
                Value::Bytes(bytes) => String::from_utf8(bytes).is_ok_and(|it| it.contains(value)),
                _ => false,
            };
            let end = Instant::now() + PATIENCE;
            while !is_ordered() {
                assert!(Instant::now() < end && !run.is_finished(), "{line:?}: it is not ordered");
                thread::sleep(Duration::from_millis(20));
            }
            cluster.call(&acl::TOKEN_DELETE, Args::new().arg(id));
            run.join().expect("a run")
        });
        run.refused(5, &[&["ACL not found"][..], words].concat());
    }
}

/// A server that fails, or a proxy before it, has not answered.
fn without_consul(cluster: &Cluster) {
    let environment = cluster.environment(MANAGEMENT);
    for status in [500, 502, 503] {
        let status = status.to_string().parse().ok();
        cluster.agent.add_fault(Fault { status, status_chance: 1.0, ..Fault::default() });
        let lines = SHOWS.iter().map(|(line, _)| *line).chain([&["pause"][..]]);
        for line in lines {
            let run = Run::of(&[line, &["--timeout-ms", "500"]].concat(), &environment);
            assert_eq!(run.status, 3, "{status:?} {line:?}: {run:?}");
        }
        cluster.agent.clear_faults();
    }
}

/// A verb that cannot be undone asks on a terminal, and needs `--yes` without one; all others ask nothing.
fn all_is_known(cluster: &Cluster) {
    let environment = cluster.environment(MANAGEMENT);
    for Change { line, asks, .. } in &CHANGES {
        cluster.set_up();
        let before = cluster.keys();
        let dry = Run::on_terminal(&[*line, &["--dry-run"]].concat(), &environment, YES);
        // A map that is frozen lets no node go, and no replica.
        let is_refused = ["leave", "reinit"].contains(&line[0]);
        let status = if is_refused { 1 } else { 0 };
        assert!(dry.status == status && !dry.out.contains(QUESTION), "{line:?}: {dry:?}");
        let asks = if is_refused { "" } else { asks };
        if !asks.is_empty() {
            for no in ["no", "", "YES", "y"] {
                let run = Run::on_terminal(line, &environment, no);
                let asked = run.out.contains(asks) && run.out.contains(QUESTION);
                assert!(asked && run.out.contains("nothing was changed"), "{line:?}: {run:?}");
                assert_eq!(run.status, 1, "{line:?}: {run:?}");
            }
            Run::of(line, &environment).refused(2, &["without a terminal it needs --yes"]);
        }
        assert_eq!(cluster.keys(), before, "{line:?}");
        if asks.is_empty() {
            continue;
        }
        // Nobody leads, so that the leader does not remove the store.
        let (more, status) = match line[0] {
            "forget-store" => (&["--limit", "0"][..], 4),
            _ => (&[][..], 0),
        };
        let agreed = Run::on_terminal(&[*line, more].concat(), &environment, YES);
        assert!(agreed.status == status && agreed.out.contains(QUESTION), "{line:?}: {agreed:?}");
        assert!(status != 0 || cluster.keys() != before, "{line:?}: it is done");
        cluster.set_up();
        let agreed = Run::of(&[*line, more, &["--yes"]].concat(), &environment);
        assert!(agreed.status == status && !agreed.err.contains(QUESTION), "{line:?}: {agreed:?}");
        assert!(status != 0 || cluster.keys() != before, "{line:?}: it is done");
    }
}

/// These keys are gone: of the leader, or of all nodes.
fn without(cluster: &Cluster, keys: &str, change: &Change, expected: (i32, &'static str)) {
    cluster.set_up();
    cluster.delete(keys);
    let environment = cluster.environment(MANAGEMENT);
    match expected {
        DONE => {
            Run::of(&[change.line, &["--dry-run"]].concat(), &environment).ok();
        }
        refused => cluster.is_refused(change, &environment, refused),
    }
}

/// Every verb that shows something shows the last state, with its age.
fn without_raft_leader(cluster: &Cluster) {
    let environment = cluster.environment(MANAGEMENT);
    let known = |line: &[&str]| Run::of(line, &environment).out;
    let lines = SHOWS.map(|(line, statuses)| (line, statuses, known(line)));
    cluster.agent.add_fault(Fault { no_leader: true, ..Fault::default() });
    for (line, [_, _, status], before) in lines {
        let run = Run::of(line, &environment);
        assert_eq!(run.status, status, "{line:?}: {run:?}");
        if line == ["names"] {
            assert_eq!(run.out, before, "{line:?}");
            continue;
        }
        let said = format!("{}{}", run.out, run.err);
        assert!(said.contains("Consul's servers have no Raft leader"), "{line:?}: {run:?}");
        assert!(said.contains(" s old"), "{line:?}: {run:?}");
        if !["why", "doctor", "leader"].contains(&line[0]) {
            assert_eq!(run.out, before, "{line:?}");
        }
        if !["events", "doctor"].contains(&line[0]) {
            let json: Json =
                serde_json::from_str(&Run::of(&[line, &["--json"]].concat(), &environment).out)
                    .unwrap();
            assert!(json["age_ms"].is_number(), "{line:?}: {json}");
        }
    }
    for change in &CHANGES {
        let limit = ["--timeout-ms", "1000"];
        let run = Run::of(&[change.line, &limit].concat(), &environment);
        run.refused(3, &["Consul's servers have no Raft leader: `consul-ha why`"]);
    }
    let terminal = Run::on_terminal(&["thaw", "--timeout-ms", "1000"], &environment, YES);
    assert!(terminal.status == 3 && !terminal.out.contains(QUESTION), "{terminal:?}");
    cluster.agent.clear_faults();
}
