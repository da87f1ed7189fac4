//! The findings of the doctor, and none on a healthy system.

use crate::program::{PATIENCE, Run};
use crate::support::consul;
use crate::system::{DEAF, System, object};
use consul_api::api::{agent, catalog, kv, session};
use consul_api::request::Args;
use consul_api::value::Value;
use consul_process::clock::WallClock;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The names of the findings.
fn findings(run: &Run) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    let found = json["findings"].as_array().unwrap();
    found.iter().map(|it| it["finding"].as_str().unwrap().to_owned()).collect()
}

pub fn run(system: &System) {
    healthy(system);
    left_over(system);
    rights(system);
    unseen_sessions(system);
    live_locks(system);
    wanted(system);
    nodes(system);
}

fn healthy(system: &System) {
    let before = system.traces();
    let run = system.run(&["doctor"]);
    assert!(run.out.ends_with("nothing is wrong\n"), "{run:?}");
    assert!(run.out.contains("Consul                  1.21"), "{run:?}");
    assert!(run.out.contains("latency                 median "), "{run:?}");
    assert_eq!(run.status, 0);
    let run = system.run(&["doctor", "--json"]);
    assert_eq!(findings(&run), Vec::<String>::new());
    let latency = &run.json()["facts"]["latency"];
    let [median, p95, longest] =
        ["median_ms", "p95_ms", "longest_ms"].map(|it| latency[it].as_f64().unwrap());
    assert!(0.0 < median && median <= p95 && p95 <= longest, "{latency}");
    assert_eq!(system.traces(), before, "the doctor leaves nothing behind");
}

fn left_over(system: &System) {
    system.put("ha/nodes/n1.bak", "{}");
    system.put("ha/notes", "x");
    system.put("ha/my notes", "x");
    let service = [("Name", "ha-nodes".into()), ("ID", "ha-nodes-gone".into())];
    system.call(&agent::SERVICE_REGISTER, Args::new().arg(object(&service)));
    // One whose check passes lives, and is not left over.
    let check = object(&[("TTL", "300s".into()), ("Status", "passing".into())]);
    let service = [("Name", "ha-nodes".into()), ("ID", "ha-nodes-lives".into()), ("Check", check)];
    system.call(&agent::SERVICE_REGISTER, Args::new().arg(object(&service)));
    let name = Args::new().arg(object(&[("Name", "lock ha/leader".into())]));
    let left = system.call(&session::CREATE, name);
    let left = left.as_str().or_else(|| left.get("ID").and_then(Value::as_str)).unwrap().to_owned();
    // It has no name, and holds a key of the cluster.
    let holder = session(system);
    let acquire = Args::new().arg("ha/nodes/n1.bak").arg(b"{}".to_vec());
    system.call(&kv::PUT, acquire.opt("acquire", holder.as_str()));
    of_a_dead_agent(system);
    let run = system.run(&["doctor"]);
    assert_eq!(run.status, 1, "{run:?}");
    // Commands that can be pasted.
    let destroy = |id: &str| format!("/v1/session/destroy/{id}`");
    for part in [
        "ha/my notes, ha/nodes/n1.bak, ha/notes",
        "`consul kv delete 'ha/my notes'`, `consul kv delete ha/nodes/n1.bak`",
        "ha-nodes-gone on ",
        "`consul services deregister -id=ha-nodes-gone`",
        "\"ServiceID\":\"ha-nodes-gone\"}'`",
        &destroy(&left),
        &destroy(&holder),
    ] {
        assert!(run.out.contains(part), "{part}: {run:?}");
    }
    // On a busy machine a node may not answer in time, which is found too.
    system.wait_for("the doctor finds what is left over, alone", || {
        let found = findings(&system.run(&["doctor", "--json"]));
        found == ["foreign_key", "left_over_service", "left_over_session"]
    });
    of_another_cluster(system);
    for id in [&left, &holder] {
        system.call(&session::DESTROY, Args::new().arg(id.as_str()));
    }
    system.call(&agent::SERVICE_DEREGISTER, Args::new().arg("ha-nodes-gone"));
    system.call(&agent::SERVICE_DEREGISTER, Args::new().arg("ha-nodes-lives"));
    system.call(&kv::DELETE, Args::new().arg("ha/notes"));
    system.call(&kv::DELETE, Args::new().arg("ha/my notes"));
    system.call(&kv::DELETE, Args::new().arg("ha/nodes/n1.bak"));
    system.wait_for("the service is gone", || system.run(&["doctor"]).status == 0);
}

/// An instance of another cluster that has the same service is not left over, whatever its checks are.
fn of_another_cluster(system: &System) {
    let meta = object(&[("incarnation", "theirs".into()), ("nodes_prefix", "ha-nodes/".into())]);
    let id = "ha-nodes-theirs";
    let service = [("Name", "ha-nodes".into()), ("ID", id.into()), ("Meta", meta)];
    system.call(&agent::SERVICE_REGISTER, Args::new().arg(object(&service)));
    let run = system.run(&["doctor"]);
    assert!(run.out.contains("service_shared: ") && !run.out.contains(id), "{run:?}");
    system.call(&agent::SERVICE_DEREGISTER, Args::new().arg(id));
}

/// A service whose agent is dead: its own check is as it was.
fn of_a_dead_agent(system: &System) {
    let check = |id: &str, service: &str, status: &str| {
        object(&[("CheckID", id.into()), ("ServiceID", service.into()), ("Status", status.into())])
    };
    let id = "ha-nodes-unseen";
    let checks = vec![check("serfHealth", "", "critical"), check("service:it", id, "passing")];
    let dead = object(&[
        ("Node", "dead".into()),
        ("Address", "127.0.0.1".into()),
        ("Service", object(&[("Service", "ha-nodes".into()), ("ID", id.into())])),
        ("Checks", Value::List(checks)),
    ]);
    // Servers remove agents that they do not know from time to time.
    system.wait_for("the doctor finds the service of a dead agent", || {
        system.call(&catalog::REGISTER, Args::new().arg(dead.clone()));
        system.run(&["doctor"]).out.contains("ha-nodes-unseen on dead")
    });
    let node = object(&[("Node", "dead".into())]);
    system.call(&catalog::DEREGISTER, Args::new().arg(node));
}

/// A session without a name.
fn session(system: &System) -> String {
    let session = system.call(&session::CREATE, Args::new());
    session.as_str().or_else(|| session.get("ID").and_then(Value::as_str)).unwrap().to_owned()
}

fn rights(system: &System) {
    let with = |leader: &str, session: &str| {
        system.token(&format!(
            r#"key_prefix "ha/" {{ policy = "write" }} key "ha/leader" {{ policy = "{leader}" }}
            service_prefix "" {{ policy = "write" }} node_prefix "" {{ policy = "read" }}
            session_prefix "" {{ policy = "{session}" }}"#
        ))
    };
    let texts = |token: &str| {
        let run = system.run_as(token, &["doctor"]);
        (run.status, run.out)
    };
    let (status, out) = texts(&with("read", "write"));
    assert!(status == 1 && out.contains("lacks key:write on \"ha/leader\""), "{out}");
    assert!(!out.contains("session:write"), "{out}");
    let (status, out) = texts(&with("write", "read"));
    assert!(status == 1 && out.contains("lacks session:write on "), "{out}");
    assert!(!out.contains("key:write"), "{out}");
    // A node of a busy machine may answer late.
    let token = with("write", "write");
    system.wait_for("the doctor finds nothing", || texts(&token).0 == 0);
}

/// A token that cannot see sessions finds none, and says so.
fn unseen_sessions(system: &System) {
    let token = system.token(
        r#"key_prefix "ha/" { policy = "write" } service_prefix "" { policy = "write" }
        node_prefix "" { policy = "read" }"#,
    );
    let out = system.run_as(&token, &["doctor", "--as", "operator"]).out;
    assert!(out.contains("not examined: sessions"), "{out}");
    assert!(out.contains("lacks session:read on "), "{out}");
    // A key that it may not read is a finding, and the rest is examined.
    let token = system.token(r#"key_prefix "ha/nodes/" { policy = "read" }"#);
    let out = system.run_as(&token, &["doctor"]).out;
    assert!(out.contains("permission: ") && out.contains("right: the token lacks "), "{out}");
}

/// The lock of another program, whose key begins as the leader's does.
fn live_locks(system: &System) {
    let id = session(system);
    let acquire = Args::new().arg("ha/leader-of-jobs").arg(b"x".to_vec());
    let acquire = acquire.opt("acquire", id.as_str());
    system.call(&kv::PUT, acquire);
    system.wait_for("the doctor finds the key alone", || {
        findings(&system.run(&["doctor", "--json"])) == ["foreign_key"]
    });
    system.call(&session::DESTROY, Args::new().arg(id.as_str()));
    system.call(&kv::DELETE, Args::new().arg("ha/leader-of-jobs"));
}

/// The settings of an operator are told, and the doctor finds nothing.
fn wanted(system: &System) {
    let leader = system.run(&["leader", "--json"]).json()["leader"]["node_id"].clone();
    let node = if leader == "n1" { "n2" } else { "n1" };
    system.run(&["maintenance", node]).ok();
    system.wait_for("a note alone does not fail", || {
        let why = system.run(&["why"]);
        why.status == 0 && why.out.starts_with(&format!("note: {node} is in maintenance"))
    });
    system.wait_for("the doctor finds nothing", || system.run(&["doctor"]).status == 0);
    system.run(&["maintenance", node, "--off"]).ok();
}

/// A node whose clock is 5 s ahead, and a node that does not answer.
fn nodes(system: &System) {
    let ahead = WallClock::new({
        let begun = Instant::now();
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(5);
        move |_| at + begun.elapsed()
    });
    system.start_node_with("n5", ahead, false);
    system.start_node_with(DEAF, WallClock::machine(), false);
    let live = |id: &str| system.node(id)["state"] == "live";
    system.wait_for("n4 and n5 are live", || live("n4") && live("n5"));
    system.wait_for("the doctor finds both", || {
        findings(&system.run(&["doctor", "--json"])) == ["clock", "node_silent"]
    });
    // The time of a call counts, on a busy machine too.
    let mut out = String::new();
    system.wait_for("n5 is 5 s ahead", || {
        out = system.run(&["doctor"]).out;
        out.contains("the clock of n5 is 5.0 s ahead of this machine's")
    });
    assert!(out.contains("n4 is live in Consul, and does not answer at its data address"), "{out}");
    let why = system.run(&["why", "--json"]);
    assert_eq!(why.status, 1, "{why:?}");
    assert!(why.out.contains("\"problem\":\"node_silent\""), "{why:?}");
}

/// An agent that answers each request with 429.
pub fn finds_a_429() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
    });
    let run =
        Run::of(&["doctor", "--json", "--timeout-ms", "2000"], &[("CONSUL_HTTP_ADDR", &address)]);
    assert_eq!((run.status, findings(&run)), (1, vec!["rate_limited".to_owned()]), "{run:?}");
}

/// A real server with Consul's default.
pub fn finds_slow_raft() {
    let binary = consul::binary("1.21").expect("it is there");
    let folder = std::env::temp_dir().join(format!("consul-ha-{:016x}", fastrand::u64(..)));
    std::fs::create_dir(&folder).unwrap();
    let held: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<u16> = held.iter().map(|it| it.local_addr().unwrap().port()).collect();
    drop(held);
    let mut server = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(binary)
        .args(["agent", "-server", "-bootstrap-expect=1", "-bind=127.0.0.1", "-node=slow"])
        .args(["-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-serf-wan-port=-1"])
        .arg(format!("-data-dir={}", folder.display()))
        .args(["-http-port", &ports[0].to_string(), "-server-port", &ports[1].to_string()])
        .args(["-serf-lan-port", &ports[2].to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = format!("127.0.0.1:{}", ports[0]);
    let end = Instant::now() + PATIENCE;
    let run = loop {
        let run = Run::of(&["doctor"], &[("CONSUL_HTTP_ADDR", &address)]);
        if run.out.contains("raft_multiplier is 5") || Instant::now() > end {
            break run;
        }
        thread::sleep(Duration::from_millis(500));
    };
    server.kill().unwrap();
    server.wait().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(run.out.contains("raft_multiplier is 5"), "{run:?}");
    assert_eq!(run.status, 1);
}
