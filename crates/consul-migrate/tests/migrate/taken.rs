//! A cut-over by roles is stopped, and Consul is restored to its state before: another instance works there when it goes on.

use super::etcd::text;
use super::program::{PATIENCE, Running, Servers};
use super::versions::{self, Login, log_in};
use crate::support::authority::Folder;
use crate::support::consul::RealConsul;
use crate::support::schema::fits;
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/consul-migrate.schema.json");

const OF_JOB: [&str; 4] = ["--etcd-prefix", "/app/", "--on", "path-key=skip"];

/// The role that the cut-over takes a right from.
const ROLE: &str = "readwrite";

/// How it gets it back.
const CURE: &str = "`etcdctl role grant-permission readwrite readwrite` for ";

pub fn run(version: &'static str) {
    let folder = Folder::new();
    let consul = RealConsul::start(version).unwrap();
    let mut servers = versions::servers("3.6", Login::Password, consul, &folder);
    log_in(&mut servers, "root");
    servers.run(&[&OF_JOB[..], &["copy"]].concat()).ok();
    is_open_once_it_is_given_back(&servers);
    is_told_without_the_job(&servers);
    comes_back_beside_a_tail(&servers, &folder);
    is_on_paper_after_a_kill(&servers, &folder);
    is_named_below_another_cut_over(&servers, &folder);
}

/// Consul knows nothing of the right: the output and the report have it, and a cut-over can follow when it is given back by these.
fn is_on_paper_after_a_kill(servers: &Servers, folder: &Folder) {
    let (mut cutover, report) = stopped(servers, folder);
    cutover.kill();
    let said = cutover.end();
    assert!(
        said.err.contains(&format!("  {CURE}")) && said.err.contains("give them back by"),
        "{said:?}"
    );
    assert!(said.err.contains("_migrate.sentinel/_migrate/etcd/"), "{said:?}");
    let found = read(&report);
    assert_eq!(found["error"]["kind"], "unfinished", "{found}");
    servers
        .run(&["report", &report])
        .ends(0, &["has not come to its end", "taken from roles", CURE]);
    let [right] = &found["taken"].as_array().unwrap()[..] else { panic!("{found}") };
    assert!(!may_write(servers) && right["reads"] == true);
    grant(servers, right);
    assert!(may_write(servers));
}

/// A rollback, or a finish, that has ended when it had given the rights back, and done nothing else.
fn is_open_once_it_is_given_back(servers: &Servers) {
    let run = |arguments: &[&str]| servers.run(&[&OF_JOB[..], arguments].concat());
    run(&["cutover", "--freeze", "roles", "--yes"]).ok();
    let mut record = record(servers);
    record["rights"] = json!("given-back");
    grant(servers, &record["taken"][0]);
    servers.consul().send("PUT", "/v1/kv/_migrate/etcd", record.to_string()).unwrap();
    let words = ["etcd TAKES WRITES although the job is cut over", "these may write: readwrite"];
    run(&["status"]).ends(0, &words);
    run(&["rollback", "--yes"]).ok();
    // A later cut-over that stops nobody is not one of these.
    run(&["cutover", "--freeze", "operator", "--yes"]).ok();
    run(&["status"]).ends(0, &["no cut-over has stopped the writers of etcd"]);
    run(&["rollback", "--yes"]).ok();
}

/// Consul has lost the job, and programs can write nowhere.
fn is_told_without_the_job(servers: &Servers) {
    let run = |arguments: &[&str]| servers.run(&[&OF_JOB[..], arguments].concat());
    for (freeze, cure) in [("roles", CURE), ("alarm", "`etcdctl alarm disarm`")] {
        run(&["cutover", "--freeze", freeze, "--yes"]).ok();
        let record = record(servers).to_string();
        servers.consul().send("DELETE", "/v1/kv/_migrate/etcd", "").unwrap();
        run(&["status"]).ends(1, &["there is no job \"etcd\"", "etcd refuses writes", cure]);
        servers.consul().send("PUT", "/v1/kv/_migrate/etcd", record).unwrap();
        run(&["rollback", "--yes"]).ok();
    }
}

/// Gives a taken right back, as an operator does by what the program has told.
fn grant(servers: &Servers, right: &Value) {
    let bytes = |name: &str| {
        let digits = right[name].as_str().unwrap();
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        text(&(0..digits.len()).step_by(2).map(byte).collect::<Vec<u8>>())
    };
    let permission =
        json!({ "permType": "READWRITE", "key": bytes("key"), "range_end": bytes("end") });
    let granted = json!({ "name": right["role"], "perm": permission });
    servers.etcd.gateway().post("auth/role/grant", granted);
}

/// The job's record in Consul.
fn record(servers: &Servers) -> Value {
    serde_json::from_slice(&servers.stored("_migrate/etcd").unwrap()).unwrap()
}

fn comes_back_beside_a_tail(servers: &Servers, folder: &Folder) {
    let (cutover, _) = stopped(servers, folder);
    let tail = servers.start_run(&[&OF_JOB[..], &["tail"]].concat());
    servers.wait_for_tail();
    cutover.signal("CONT");
    cutover.end().ends(4, &["not cut over: etcd takes writes again", "(tail)"]);
    assert!(may_write(servers));
    drop(tail);
}

fn is_named_below_another_cut_over(servers: &Servers, folder: &Folder) {
    let (cutover, report) = stopped(servers, folder);
    let other = ["cutover", "--freeze", "operator", "--yes", "--within", "300"];
    servers.run(&[&OF_JOB[..], &other].concat()).ok();
    cutover.signal("CONT");
    let words = ["another instance has cut the job over meanwhile", "does not name them", CURE];
    cutover.end().ends(1, &words);
    let found = read(&report);
    assert_ne!(found["error"]["kind"], "unfinished", "{found}");
    assert_eq!(found["taken"].as_array().map(Vec::len), Some(1), "{found}");
    servers.run(&["report", &report]).ends(0, &["it has failed", "taken from roles", CURE]);
    // etcd has kept what the first one has taken.
    servers.run(&[&OF_JOB[..], &["rollback", "--yes"]].concat()).ends(1, &[CURE]);
    servers.run(&[&OF_JOB[..], &["status"]].concat()).ends(0, &[CURE]);
    assert!(!may_write(servers), "it is named alone");
}

/// A report, which is as its schema says.
fn read(report: &str) -> Value {
    let read = |name: &str| serde_json::from_str(&std::fs::read_to_string(name).unwrap()).unwrap();
    let (schema, found): (Value, Value) = (read(SCHEMA), read(report));
    assert!(fits(&schema, &schema, &found), "{found}");
    found
}

/// A cut-over that has taken the right, and is stopped before it has switched, with the file of its report; Consul's record is that
/// of before, and no instance holds the job.
fn stopped(servers: &Servers, folder: &Folder) -> (Running, String) {
    let report = folder.path("report.json").to_str().unwrap().to_owned();
    let cutover = ["--report", &report, "cutover", "--freeze", "roles", "--yes", "--within", "300"];
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let before = servers.stored("_migrate/etcd").unwrap();
        let mut cutover = servers.start_run(&[&OF_JOB[..], &cutover].concat());
        while may_write(servers) {
            assert!(Instant::now() < end && !cutover.has_ended(), "{:?}", cutover.end());
            thread::sleep(Duration::from_millis(20));
        }
        cutover.signal("STOP");
        if record(servers)["phase"] != "switched" {
            let consul = servers.consul();
            consul.send("PUT", "/v1/kv/_migrate/etcd", before).unwrap();
            consul.send("DELETE", "/v1/kv/_migrate/etcd/holder", "").unwrap();
            return (cutover, report);
        }
        // The machine is busy: it was too late.
        cutover.signal("CONT");
        cutover.end().ok();
        servers.run(&[&OF_JOB[..], &["rollback", "--yes"]].concat()).ok();
    }
    panic!("each cut-over ends before it is stopped");
}

/// Whether the role has the right to write.
fn may_write(servers: &Servers) -> bool {
    let role = servers.etcd.gateway().post("auth/role/get", json!({ "role": ROLE }));
    let permissions = role["perm"].as_array().into_iter().flatten();
    permissions.into_iter().any(|it| it["permType"] == "READWRITE")
}
