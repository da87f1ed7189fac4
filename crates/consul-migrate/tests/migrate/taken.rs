//! A cut-over by roles is stopped, and Consul is restored to its state before: another instance works there when it goes on.

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

pub fn run(version: &'static str) {
    let folder = Folder::new();
    let consul = RealConsul::start(version).unwrap();
    let mut servers = versions::servers("3.6", Login::Password, consul, &folder);
    log_in(&mut servers, "root");
    servers.run(&[&OF_JOB[..], &["copy"]].concat()).ok();
    comes_back_beside_a_tail(&servers, &folder);
    is_named_below_another_cut_over(&servers, &folder);
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
    let cure = "etcdctl role grant-permission readwrite readwrite";
    let words = ["another instance has cut the job over meanwhile", "does not name them", cure];
    cutover.end().ends(1, &words);
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(SCHEMA).unwrap()).unwrap();
    let found: Value = serde_json::from_str(&std::fs::read_to_string(&report).unwrap()).unwrap();
    assert!(fits(&schema, &schema, &found), "{found}");
    assert_eq!(found["taken"].as_array().map(Vec::len), Some(1), "{found}");
    servers.run(&["report", &report]).ends(0, &["it has failed", "taken from roles", cure]);
    servers.run(&[&OF_JOB[..], &["rollback", "--yes"]].concat()).ok();
    assert!(!may_write(servers), "nothing knows of it any more");
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
        let record: Value =
            serde_json::from_slice(&servers.stored("_migrate/etcd").unwrap()).unwrap();
        if record["phase"] != "switched" {
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
