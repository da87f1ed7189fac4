//! A node that stands still for a while, in a cluster whose third member has the name of the program: processes of
//! the module, on consul-sim.

use crate::program::{PATIENCE, Run, Server};
use crate::support::consul::{RealConsul, SIM};
use crate::support::program;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The name by which the program calls nodes.
const NAMESAKE: &str = "consul-ha";

/// All that may be reported of the node while it stands still.
const OF_STOPPED: [&str; 2] = ["node_silent", "node_down"];

/// A process of node.lua. It ends when this is dropped.
struct Node {
    child: Child,
    _input: ChildStdin,
}

impl Node {
    fn start(consul: &RealConsul, name: &str) -> Node {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "luajit", "tests/programs/page/node.lua", name, "a"])
            .arg(port.to_string())
            .env("LUA_PATH", "./lua/?.lua;;")
            .env("LUA_CPATH", program::modules().join("luajit/?.so"))
            .env("CONSUL_HTTP_ADDR", &consul.address)
            .current_dir(crate::support::root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Node { child, _input: input }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.unwrap().success(), "{name}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Operator<'a>([(&'a str, &'a str); 2]);

impl Operator<'_> {
    fn run(&self, arguments: &[&str]) -> Run {
        Run::of(arguments, &self.0)
    }

    /// The names of the problems of `n2`, which is always a member.
    fn problems_of_n2(&self, document: &Value) -> Vec<String> {
        let nodes = document["nodes"].as_array().unwrap();
        assert!(nodes.iter().any(|it| it["id"] == "n2"), "it is a member: {document}");
        let problems = document["problems"].as_array().unwrap().iter();
        let of_n2 = problems.filter(|it| it["of"] == "n2");
        of_n2.map(|it| it["problem"].as_str().unwrap().to_owned()).collect()
    }
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn node<'a>(document: &'a Value, id: &str) -> &'a Value {
    document["nodes"].as_array().unwrap().iter().find(|it| it["id"] == id).unwrap_or(&Value::Null)
}

pub fn is_down_until_it_continues() {
    let consul = RealConsul::start(SIM).expect("it is there");
    let operator =
        Operator([("CONSUL_HTTP_ADDR", &consul.address), ("CONSUL_HA_PREFIX", "tsdb/cluster/")]);
    let [_one, two, _three] = ["n1", "n2", NAMESAKE].map(|name| Node::start(&consul, name));
    wait_for("all nodes have shards and replicas of the store", || {
        let nodes = operator.run(&["nodes", "--json"]).json()["nodes"].clone();
        let has = |it: &Value, what: &str| it[what].as_u64() > Some(0);
        let nodes = nodes.as_array().unwrap();
        nodes.len() == 3 && nodes.iter().all(|it| has(it, "primaries") && has(it, "store_replicas"))
    });
    operator.run(&["why", "--wait", "--limit", "60"]).ok();
    let server = Server::start(&operator.0);
    is_no_observer(&operator, &server);
    two.signal("-STOP");
    wait_for("n2 is down", || {
        let found = operator.problems_of_n2(&server.cluster());
        assert!(found.iter().all(|it| OF_STOPPED.contains(&it.as_str())), "{found:?}");
        found == ["node_down"]
    });
    is_shown_as_down(&operator, &server);
    two.signal("-CONT");
    assert!(operator.run(&["why", "--wait", "--limit", "60"]).ok().ends_with("all is well\n"));
    wait_for("the page shows that n2 is back", || {
        let document = server.cluster();
        let node = node(&document, "n2");
        node["state"] == "live" && node["down_for_ms"].is_null() && node["silent"].is_null()
    });
    assert!(operator.run(&["doctor"]).ok().ends_with("nothing is wrong\n"));
}

/// The member with the name of the program is asked and shown as every other one.
fn is_no_observer(operator: &Operator<'_>, server: &Server) {
    let nodes = operator.run(&["nodes", "--json"]).json();
    let epoch = node(&nodes, "n1")["map_epoch"].clone();
    let namesake = node(&nodes, NAMESAKE);
    assert_eq!((&namesake["state"], &namesake["silent"]), (&"live".into(), &Value::Null));
    assert_eq!(namesake["map_epoch"], epoch, "it has answered");
    let mut document = Value::Null;
    wait_for("the server knows what all nodes tell", || {
        document = server.cluster();
        document["endpoints"].as_array().is_some_and(|it| it.len() == 4)
    });
    assert_eq!(document["told_by"], Value::Null, "no member");
    let endpoints = document["endpoints"].as_array().unwrap().iter();
    let tellers: Vec<&str> = endpoints.map(|it| it["told_by"].as_str().unwrap()).collect();
    assert_eq!(tellers, [NAMESAKE, "n1", "n2", "consul-ha (observer)"]);
}

fn is_shown_as_down(operator: &Operator<'_>, server: &Server) {
    let why = operator.run(&["why"]);
    assert_eq!(why.status, 1, "{why:?}");
    let says_down = ["error: n2 is down\n", "error: n2 has been down for "];
    assert!(says_down.iter().any(|it| why.out.contains(it)), "{why:?}");
    assert!(why.out.contains("\n    start it, or `consul-ha forget n2`\n"), "{why:?}");
    assert!(!why.out.contains("n2 has left") && !why.out.contains("n2 is gone"), "{why:?}");
    let nodes = operator.run(&["nodes"]).ok();
    let line = nodes.lines().find(|line| line.starts_with("n2 ")).unwrap_or(&nodes);
    assert!(line.contains("  active  down "), "{nodes}");
    let shown = node(&operator.run(&["nodes", "--json"]).json(), "n2").clone();
    assert_eq!((&shown["state"], &shown["mode"]), (&"down".into(), &"active".into()));
    assert!(shown["check_output"].as_str().unwrap().contains("TTL"), "{shown}");
    let page = server.cluster();
    assert_eq!(node(&page, "n2")["state"], "down");
    assert!(node(&page, "n2")["down_for_ms"].is_number(), "{page}");
    // It has its key and its registration, so that nothing of it is left over.
    let doctor = operator.run(&["doctor"]);
    assert!(doctor.status == 1 && doctor.out.contains("\nnode_down: n2 "), "{doctor:?}");
    assert!(!doctor.out.contains("left_over"), "{doctor:?}");
    operator.run(&["leave", "n2"]).refused(1, &["n2 is down: `consul-ha forget n2`"]);
}
