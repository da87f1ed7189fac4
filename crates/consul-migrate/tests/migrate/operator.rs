//! A cut-over whose writers the operator stops, and another that goes on with deletions.

use super::cutover::{alarms, try_put, value};
use super::etcd::text;
use super::program::{PATIENCE, Servers};
use super::storm::Over;
use crate::support::proxy::{Network, Proxy};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const KEYS: usize = 500;

/// How often a program writes that was not stopped.
const EVERY: Duration = Duration::from_millis(500);

const CUTOVER: [&str; 4] = ["cutover", "--freeze", "operator", "--yes"];

pub fn run(version: &'static str) {
    let servers = Servers::start("operator", version);
    let value = |place: usize| (format!("/app/{place:04}"), place.to_string());
    servers.etcd.gateway().fill((0..KEYS).map(value));
    servers.run(&["copy"]).ok();
    notices_a_writer(&servers);
    is_without_alarm(&servers);
    follows_no_write(&servers);
    follows_deletions(&servers);
    names_the_other_job(&servers);
}

/// A writer that nobody has stopped is noticed, and may go on.
fn notices_a_writer(servers: &Servers) {
    let is_over = AtomicBool::new(false);
    let gateway = servers.etcd.gateway();
    thread::scope(|scope| {
        let _over = Over(&is_over);
        scope.spawn(|| {
            let gateway = servers.etcd.gateway();
            while !is_over.load(Ordering::Relaxed) {
                gateway.put(b"/app/0001", b"of a writer");
                thread::sleep(EVERY);
            }
        });
        let run = servers.run(&[&CUTOVER[..], &["--within", "300"]].concat());
        run.ends(1, &["programs still write to etcd", "stop them first"]);
    });
    assert_eq!((alarms(&gateway), try_put(&gateway, b"/app/0000", b"v")), (0, 200));
    servers.run(&["status"]).ends(0, &["all changes before revision"]);
}

fn is_without_alarm(servers: &Servers) {
    let said = servers.run(&CUTOVER).ok();
    assert!(said.contains("cut over: 500 keys are equal"), "{said}");
    assert!(said.contains("leave etcd's writers stopped"), "{said}");
    let gateway = servers.etcd.gateway();
    assert_eq!(alarms(&gateway), 0);
    let wanted = ["cut over: programs use Consul", "no cut-over has stopped the writers"];
    servers.run(&["status"]).ends(0, &wanted);
    servers.run(&["rollback", "--yes"]).ok();
}

/// After the cut-over no write of etcd changes Consul, whatever its value is.
fn follows_no_write(servers: &Servers) {
    let mut cutover = servers.start_run(&[&CUTOVER[..], &["--follow", "--within", "300"]].concat());
    let end = Instant::now() + PATIENCE;
    while servers.record()["switched_at"].is_null() {
        assert!(Instant::now() < end && !cutover.has_ended(), "it is not cut over");
        thread::sleep(Duration::from_millis(50));
    }
    let gateway = servers.etcd.gateway();
    // Consul takes no value of this size.
    gateway.put(b"/app/0003", "x".repeat(600_000).as_bytes());
    gateway.delete(b"/app/0004");
    while servers.stored("app/0004").is_some() {
        assert!(Instant::now() < end && !cutover.has_ended(), "the deletion is not applied");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(servers.stored("app/0003").as_deref(), Some(&b"3"[..]));
    cutover.signal("TERM");
    cutover.end().ends(130, &["a program has set /app/0003 in etcd after the cut-over"]);
    leaves_what_programs_have_written(servers);
}

/// The way back does not overwrite what a program has set in etcd since the cut-over.
fn leaves_what_programs_have_written(servers: &Servers) {
    let (gateway, consul) = (servers.etcd.gateway(), servers.consul());
    consul.send("PUT", "/v1/kv/app/0003", "of Consul").unwrap();
    consul.send("PUT", "/v1/kv/app/0005", "of Consul").unwrap();
    for key in [&b"/app/0003"[..], b"/app/0004"] {
        gateway.put(key, b"again");
    }
    let words = ["set 1 key of etcd", "since the cut-over", "  /app/0003\n  /app/0004\n"];
    servers.run(&["rollback", "--yes"]).ends(1, &words);
    for (key, wanted) in [("3", "again"), ("4", "again"), ("5", "of Consul")] {
        let found = value(&gateway, format!("/app/000{key}").as_bytes());
        assert_eq!(found, Some(text(wanted.as_bytes())), "{key}");
    }
    // The tail takes it to Consul. The large value is in its way.
    let tail = servers.start_run(&["tail", "--on", "large-value=skip"]);
    servers.wait_for_tail();
    assert_eq!(servers.stored("app/0003").unwrap(), b"again");
    servers.run(&["verify"]).ends(0, &["0 missing, 0 extra, 0 different"]);
    drop(tail);
}

fn follows_deletions(servers: &Servers) {
    let mut cutover = servers.start_run(&["cutover", "--yes", "--follow", "--within", "300"]);
    let end = Instant::now() + PATIENCE;
    while servers.record()["switched_at"].is_null() {
        assert!(Instant::now() < end && !cutover.has_ended(), "it is not cut over");
        thread::sleep(Duration::from_millis(50));
    }
    let (gateway, consul) = (servers.etcd.gateway(), servers.consul());
    consul.send("PUT", "/v1/kv/app/0001", "of Consul").unwrap();
    for key in [&b"/app/0001"[..], b"/app/0002"] {
        gateway.delete(key);
    }
    while servers.stored("app/0002").is_some() {
        assert!(Instant::now() < end && !cutover.has_ended(), "the deletion is not applied");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(servers.stored("app/0001").unwrap(), b"of Consul");
    cutover.signal("TERM");
    let run = cutover.end();
    assert!(!run.err.contains("takes writes again"), "{run:?}");
    assert!(run.err.contains("\nconsul-migrate: start the programs with"), "{run:?}");
    run.ends(130, &["cut over: 500 keys are equal", "writers were stopped for"]);
    assert_eq!(alarms(&gateway), 1, "the freeze of a cut-over that is done stays");
    servers.run(&["rollback", "--yes"]).ok();
    assert_eq!(alarms(&gateway), 0);
}

/// Two jobs of one etcd: the alarm of one stops the other, which says so.
fn names_the_other_job(servers: &Servers) {
    let other = |verb: &[&str]| {
        servers.run(&[&["--job", "other", "--consul-prefix", "other/"], verb].concat())
    };
    other(&["copy"]).ok();
    other(&["cutover", "--yes", "--within", "300"]).ok();
    let words = ["since the cut-over of the job \"other\"", "--job other rollback"];
    servers.run(&["cutover", "--yes"]).ends(1, &words);
    servers.run(&["plan"]).ends(0, &["a cut-over would be refused: ", words[0]]);
    let alarm = |action: &str, member: u64| {
        let asked = json!({ "action": action, "memberID": member.to_string(), "alarm": "NOSPACE" });
        servers.etcd.gateway().post("maintenance/alarm", asked);
    };
    alarm("ACTIVATE", 7);
    other(&["rollback", "--yes"])
        .ends(1, &["an alarm that no job in Consul names", "after NOSPACE free etcd's disk"]);
    servers.run(&["status"]).ends(0, &["refuses writes by an alarm that is not this job's"]);
    let record = servers.stored("_migrate/other").unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    alarm("DEACTIVATE", record["alarms"][0].as_u64().unwrap());
    other(&["status"]).ends(0, &["refuses writes by an alarm that is not this job's"]);
    alarm("DEACTIVATE", 7);
    other(&["status"]).ends(0, &["etcd TAKES WRITES although the job is cut over"]);
    other(&["rollback", "--yes"]).ok();
}

/// Consul applies the last request of a cut-over, but its answer is lost, and Consul answers no more: programs may
/// have gone over to it, so that etcd must not take writes again.
pub fn run_to_unknown_end(version: &'static str) {
    let mut servers = Servers::start("unknown", version);
    servers.etcd.gateway().put(b"/app/a", b"1");
    servers.run(&["copy"]).ok();
    let gateway = servers.etcd.gateway();
    for (freeze, alarm, words) in
        [("alarm", 1, "etcd REFUSES WRITES STILL"), ("operator", 0, "leave etcd's writers stopped")]
    {
        let proxy = Proxy::new(&servers.consul[0]);
        proxy.silence_after(in_base64("\"phase\":\"switched\""));
        let direct = std::mem::replace(&mut servers.consul, vec![proxy.address.clone()]);
        let cutover = ["cutover", "--yes", "--within", "300", "--freeze", freeze];
        let mut cutover = servers.start_run(&cutover);
        servers.consul = direct;
        let end = Instant::now() + PATIENCE;
        while !proxy.is_silent() {
            assert!(Instant::now() < end && !cutover.has_ended(), "it is not cut over");
            thread::sleep(Duration::from_millis(20));
        }
        cutover.signal("TERM");
        let status = "run `consul-migrate status` when Consul answers";
        cutover.end().ends(130, &["not known whether the job is cut over", words, status]);
        assert_eq!(alarms(&gateway), alarm, "{freeze}");
        servers.run(&["status"]).ends(0, &["cut over: programs use Consul"]);
        servers.run(&["rollback", "--yes"]).ok();
    }
    ends_as_it_is_known(&mut servers);
    is_lifted_whatever_consul_says(&mut servers);
    is_left_alone(&mut servers);
}

/// The same, but Consul answers what is asked after the signal: the writers stay stopped.
fn ends_as_it_is_known(servers: &mut Servers) {
    let proxy = Proxy::new(&servers.consul[0]);
    proxy.silence_after(in_base64("\"phase\":\"switched\""));
    let direct = std::mem::replace(&mut servers.consul, vec![proxy.address.clone()]);
    let mut cutover = servers.start_run(&["cutover", "--yes", "--within", "300"]);
    servers.consul = direct;
    let end = Instant::now() + PATIENCE;
    while !proxy.is_silent() {
        assert!(Instant::now() < end && !cutover.has_ended(), "it is not cut over");
        thread::sleep(Duration::from_millis(20));
    }
    // The answer of a real server takes some milliseconds.
    thread::sleep(Duration::from_millis(500));
    proxy.end_silence();
    cutover.signal("TERM");
    let words = ["the cut-over had come to its end: etcd refuses writes"];
    cutover.end().ends(130, &words);
    assert_eq!(alarms(&servers.etcd.gateway()), 1);
    servers.run(&["rollback", "--yes"]).ok();
}

/// Consul fails at once while the alarm is on, before anything was sent that could switch the job.
fn is_lifted_whatever_consul_says(servers: &mut Servers) {
    let gateway = servers.etcd.gateway();
    gateway.fill((0..300).map(|place| (format!("/app/{place:04}"), place.to_string())));
    let proxy = Proxy::new(&servers.consul[0]);
    let direct = std::mem::replace(&mut servers.consul, vec![proxy.address.clone()]);
    let slow = [
        "cutover",
        "--yes",
        "--within",
        "300",
        "--in-flight",
        "1",
        "--txn",
        "3",
        "--patience",
        "1",
    ];
    let mut cutover = servers.start_run(&slow);
    servers.consul = direct;
    let end = Instant::now() + PATIENCE;
    while alarms(&gateway) == 0 {
        assert!(Instant::now() < end && !cutover.has_ended(), "the alarm is not raised");
    }
    proxy.set(Network::Refuse);
    let run = cutover.end();
    assert_ne!(run.status, 0, "{run:?}");
    assert!(run.err.contains("not cut over: etcd takes writes again"), "{run:?}");
    assert_eq!(alarms(&gateway), 0);
    let range =
        json!({ "key": text(b"_migrate.sentinel/"), "range_end": text(b"_migrate.sentinel0") });
    assert_eq!(gateway.post("kv/range", range)["kvs"], Value::Null);
}

/// `status` lifts no alarm on which a cut-over relies that goes on.
fn is_left_alone(servers: &mut Servers) {
    let gateway = servers.etcd.gateway();
    gateway.fill((0..300).map(|place| (format!("/app/{place:04}"), place.to_string())));
    let proxy = Proxy::new(&servers.consul[0]);
    let direct = std::mem::replace(&mut servers.consul, vec![proxy.address.clone()]);
    let slow = ["cutover", "--yes", "--within", "300", "--in-flight", "1", "--txn", "3"];
    let mut cutover = servers.start_run(&slow);
    servers.consul = direct;
    let end = Instant::now() + PATIENCE;
    while alarms(&gateway) == 0 {
        assert!(Instant::now() < end && !cutover.has_ended(), "the alarm is not raised");
    }
    proxy.set(Network::Delay(Duration::from_millis(200)));
    servers.run(&["status"]).ends(0, &["etcd refuses writes during a cut-over"]);
    cutover.end().ends(0, &["cut over: 301 keys are equal"]);
    servers.run(&["rollback", "--yes"]).ok();
}

/// The letters that base64 of any text with this one inside has, whatever is before it.
pub fn in_base64(words: &str) -> Vec<String> {
    let whole = |bytes: &[u8]| text(&bytes[..bytes.len() / 3 * 3]);
    (0..3).map(|skipped| whole(&words.as_bytes()[skipped..])).collect()
}
