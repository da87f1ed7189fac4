//! The reports to operators about each failure: by `why`, the page and `/cluster`, the numbers and the alerts. Three
//! nodes on the simulated agent and a clock that the test moves call each other over loopback; the table of
//! docs/monitoring.md is what was seen.

mod lab;

use super::*;
use consul_sim::Fault;
use lab::{Lab, Seen};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;

/// The table, which `make docs` puts into docs/monitoring.md and docs/zh/monitoring.md.
const TABLE: &str = "xtask/src/reference/texts/prose/told.md";

/// After so long an operator knows it, in seconds.
const AT_ONCE_S: u64 = 5;

/// The key of the weights that operators have set.
const WEIGHTS: &str = "tsdb/cluster/nodes/all/weights";

/// A failure.
struct Failure {
    name: &'static str,
    lab: fn() -> Lab,
    /// Whether it is the lab of the failure before.
    is_same_lab: bool,
    provoke: fn(&mut Lab),
    mend: fn(&mut Lab),
    who: Who,
    /// Whether it is over before an alert could fire.
    is_short: bool,
}

/// Who tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    All,
    /// It is the operator's own.
    Operator,
    /// Nothing is wrong.
    Nobody,
}

const NOTHING: Failure = Failure {
    name: "",
    lab: Lab::new,
    is_same_lab: false,
    provoke: |_| {},
    mend: |_| {},
    who: Who::All,
    is_short: false,
};

const FAILURES: &[Failure] = &[
    Failure {
        name: "the disk of a node is full",
        provoke: |lab| lab.disk("n3").is_full.store(true, Relaxed),
        mend: |lab| lab.disk("n3").is_full.store(false, Relaxed),
        ..NOTHING
    },
    Failure {
        name: "the disks of two nodes are full",
        is_same_lab: true,
        provoke: |lab| ["n2", "n3"].iter().for_each(|id| lab.disk(id).is_full.store(true, Relaxed)),
        mend: |lab| ["n2", "n3"].iter().for_each(|id| lab.disk(id).is_full.store(false, Relaxed)),
        ..NOTHING
    },
    Failure {
        name: "the storage of a node raises",
        is_same_lab: true,
        provoke: |lab| *lab.disk("n3").broken.lock().expect("no panic") = Some("apply"),
        mend: |lab| *lab.disk("n3").broken.lock().expect("no panic") = None,
        ..NOTHING
    },
    Failure {
        name: "the storage of a node hangs",
        is_same_lab: true,
        provoke: |lab| lab.disk("n3").hang(true),
        mend: |lab| lab.disk("n3").hang(false),
        ..NOTHING
    },
    Failure {
        name: "a node died",
        provoke: |lab| lab.kill("n3"),
        mend: |lab| lab.start("n3"),
        ..NOTHING
    },
    Failure {
        name: "a node was stopped",
        provoke: |lab| lab.stop("n3"),
        mend: |lab| lab.start("n3"),
        ..NOTHING
    },
    Failure {
        name: "a node was never started",
        lab: || Lab::of(&["n1", "n2"]),
        provoke: |_| {},
        mend: |lab| lab.start("n3"),
        ..NOTHING
    },
    Failure {
        name: "a node is cut off from Consul alone",
        provoke: |lab| lab.cut_from_consul("n3"),
        mend: |lab| lab.cases.world.agent.clear_faults(),
        ..NOTHING
    },
    Failure {
        name: "a node is cut off from its peers alone",
        provoke: |lab| lab.cut_from_peers("n3"),
        mend: |lab| lab.restart("n3"),
        ..NOTHING
    },
    Failure {
        name: "two nodes do not reach each other",
        provoke: |lab| lab.cut_apart("n2", "n3", true),
        mend: |lab| lab.cut_apart("n2", "n3", false),
        ..NOTHING
    },
    Failure {
        name: "Consul has no Raft leader",
        provoke: |lab| lab.fault(Fault { no_leader: true, ..Fault::default() }),
        mend: |lab| lab.cases.world.agent.clear_faults(),
        ..NOTHING
    },
    Failure {
        name: "Consul has lost all data",
        provoke: |lab| lab.cases.world.agent.restart(Retained::Nothing),
        is_short: true,
        ..NOTHING
    },
    Failure {
        name: "Consul was restored from a snapshot with another leader",
        provoke: |lab| {
            let snapshot = lab.cases.world.agent.back_up();
            lab.hand_over();
            lab.cases.world.agent.restore_snapshot(&snapshot);
        },
        is_short: true,
        ..NOTHING
    },
    Failure {
        name: "the token of a node has lost half its rights",
        lab: Lab::with_acl,
        provoke: |lab| lab.set_rules("n3", lab::HALF),
        mend: |lab| lab.set_rules("n3", lab::ALL),
        ..NOTHING
    },
    Failure {
        name: "a node has another `cluster_key`",
        provoke: |lab| {
            lab.kill("n3");
            lab.change("n3", |it| it.key = "of another cluster, and long enough");
            lab.start("n3");
        },
        mend: |lab| {
            lab.kill("n3");
            lab.change("n3", |it| it.key = lab::KEY);
            lab.start("n3");
        },
        ..NOTHING
    },
    Failure {
        name: "an operator has another `cluster_key`",
        is_same_lab: true,
        provoke: |lab| lab.operator.key = "of another cluster, and long enough",
        mend: |lab| lab.operator.key = lab::KEY,
        who: Who::Operator,
        ..NOTHING
    },
    Failure {
        name: "the clock of a node is 5 s ahead",
        provoke: |lab| lab.change("n3", |it| it.ahead_s.store(5, Relaxed)),
        mend: |lab| lab.change("n3", |it| it.ahead_s.store(0, Relaxed)),
        ..NOTHING
    },
    Failure {
        name: "the clock of an operator is 5 s ahead",
        is_same_lab: true,
        provoke: |lab| lab.operator.ahead_s.store(5, Relaxed),
        mend: |lab| lab.operator.ahead_s.store(0, Relaxed),
        who: Who::Operator,
        ..NOTHING
    },
    Failure {
        name: "the certificate of a node ends in 13 days",
        lab: Lab::encrypted,
        provoke: |lab| lab.certify("n3", 13 * 86_400 + 3600),
        mend: |lab| lab.certify("n3", 90 * 86_400),
        ..NOTHING
    },
    Failure {
        name: "the certificate of a node ends today",
        is_same_lab: true,
        provoke: |lab| lab.certify("n3", 6 * 3600),
        mend: |lab| lab.certify("n3", 90 * 86_400),
        ..NOTHING
    },
    Failure {
        name: "nobody replicates a store any more",
        provoke: |lab| lab.restart_without_store(),
        mend: |lab| lab.forget_store(),
        ..NOTHING
    },
    Failure {
        name: "another program has written the weights of nodes",
        provoke: |lab| lab.cases.world.write(WEIGHTS, "my own notes"),
        mend: |lab| lab.cases.world.write(WEIGHTS, "{}"),
        ..NOTHING
    },
    Failure {
        name: "two healthy clusters have one name",
        provoke: |lab| lab.add_twin(),
        who: Who::Nobody,
        ..NOTHING
    },
];

#[test]
#[ignore = "computes long: make test-all"]
fn each_failure_is_told_at_once_by_all_and_nothing_else_is() {
    in_own_process("each_failure_is_told_at_once_by_all_and_nothing_else_is", tell);
}

#[test]
fn a_process_without_descriptors_says_so_by_its_check() {
    in_own_process("a_process_without_descriptors_says_so_by_its_check", || {
        let lab = Lab::new();
        let record = lab.cases.world.read("tsdb/cluster/nodes/n3").expect("its key");
        let record: serde_json::Value = serde_json::from_str(&record).expect("a record");
        let address = record["data_address"].as_str().expect("an address");
        let pid = std::process::id().to_string();
        let limit = Command::new("prlimit").args(["--pid", &pid, "--nofile=300:300"]).status();
        assert!(limit.expect("it runs").success());
        let mut taken = Vec::new();
        while let Ok(file) = fs::File::open("/dev/null") {
            taken.push(file);
        }
        // One for this call, which n3 then cannot accept.
        taken.pop();
        let call = std::net::TcpStream::connect(address).expect("the machine takes it");
        while consul_process::os::lacking().is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop((taken, call));
        lab.cases.world.wait(Duration::from_secs(AT_ONCE_S));
        let snapshot = crate::requests::look(&lab.cases.world).snapshot();
        let complaint = &snapshot.nodes["n3"].complaint;
        assert!(complaint.is_warning && complaint.output.contains("ulimit"), "{complaint:?}");
        let said = lab.why();
        assert!(said.contains("`no_descriptors` n3"), "{said:?}");
        assert!(!said.iter().any(|it| it.contains("node_unavailable")), "one cause: {said:?}");
    });
}

#[test]
#[ignore = "computes long: make test-all"]
fn each_right_that_a_node_lacks_is_told() {
    in_own_process("each_right_that_a_node_lacks_is_told", || {
        let mut lab = Lab::with_acl();
        let mut is_told = |rules: &str| {
            lab.set_rules("n3", rules);
            lab.scrape_for(2 * AT_ONCE_S);
            lab.why().contains("`token_lacks` n3")
        };
        for (subject, left) in [
            (r#"key "tsdb/cluster/nodes/n3""#, "read"),
            (r#"key "tsdb/cluster/leader""#, "read"),
            (r#"key "tsdb/cluster/config""#, "read"),
            (r#"key_prefix "tsdb/cluster/shards/""#, "read"),
            (r#"service "tsdb-cluster-nodes""#, "read"),
            (r#"session_prefix "s""#, "read"),
            (r#"key_prefix "tsdb/cluster/nodes/n""#, "deny"),
            (r#"key_prefix "tsdb/cluster/nodes/any""#, "deny"),
            (r#"node_prefix "s""#, "deny"),
        ] {
            let without = format!(r#"{} {subject} {{ policy = "{left}" }}"#, lab::ALL);
            assert!(is_told(&without), "without {subject}");
            assert!(!is_told(lab::ALL), "with {subject} again");
        }
    });
}

#[test]
#[ignore = "computes long: make test-all"]
fn the_rights_that_a_slow_consul_tells_are_told() {
    in_own_process("the_rights_that_a_slow_consul_tells_are_told", || {
        let mut lab = Lab::with_acl();
        lab.slow_down("n3", Duration::from_millis(300));
        for (rules, is_lacking) in [(lab::HALF, true), (lab::ALL, false)] {
            lab.set_rules("n3", rules);
            let is_told = (0..2 * AT_ONCE_S).any(|_| {
                lab.scrape_for(1);
                lab.why().contains("`token_lacks` n3") == is_lacking
            });
            assert!(is_told, "{rules}: {:?}", lab.why());
        }
    });
}

/// At whatever moment it is given back.
#[test]
#[ignore = "computes long: make test-all"]
fn a_right_that_is_back_ends_its_problem_at_once() {
    in_own_process("a_right_that_is_back_ends_its_problem_at_once", || {
        let mut lab = Lab::with_acl();
        let is_told = |lab: &Lab| lab.pages()["n3"].contains("`hidden_by_acl`");
        for subject in [
            r#"key_prefix "tsdb/cluster/nodes/n""#,
            r#"service "tsdb-cluster-nodes""#,
            r#"node_prefix "s""#,
        ] {
            for moment_s in 0..5 {
                lab.set_rules("n3", &format!(r#"{} {subject} {{ policy = "deny" }}"#, lab::ALL));
                // A query that waits is not refused before something changes.
                lab.restart("n2");
                lab.scrape_for(4 * AT_ONCE_S + moment_s);
                assert!(is_told(&lab), "without {subject}: {:?}", lab.pages());
                lab.set_rules("n3", lab::ALL);
                lab.scrape_for(AT_ONCE_S);
                assert!(!is_told(&lab), "with {subject} again, at {moment_s} s");
            }
        }
    });
}

#[test]
fn a_recipe_tells_only_what_is_so() {
    in_own_process("a_recipe_tells_only_what_is_so", || {
        type Step = (&'static str, fn(&mut Lab), &'static [&'static str]);
        const BEGIN: &[&str] = &["no_leader ", "no_map ", "store_waits points"];
        const AWAY: &[&str] = &["replicas_missing points"];
        const CHANGE: &[&str] = &["store_changing points"];
        let steps: [Step; 9] = [
            ("first start", |lab| ["n1", "n2", "n3"].iter().for_each(|id| lab.start(id)), BEGIN),
            ("stop of n1", |lab| lab.stop("n1"), AWAY),
            ("start of n1", |lab| lab.start("n1"), AWAY),
            ("stop of n2", |lab| lab.stop("n2"), AWAY),
            ("start of n2", |lab| lab.start("n2"), AWAY),
            ("hand-over", |lab| lab.hand_over(), &[]),
            ("other numbers", |lab| lab.set_numbers((3, 3, 2)), CHANGE),
            ("old numbers", |lab| lab.set_numbers((3, 2, 2)), CHANGE),
            ("fewer replicas", |lab| lab.set_numbers((2, 2, 2)), CHANGE),
        ];
        let mut lab = Lab::of(&[]);
        lab.watch();
        for (name, step, expected) in steps {
            step(&mut lab);
            lab.pass(Duration::from_secs(20));
            let mut told = lab.watched();
            told.retain(|it, _| !it.starts_with("endpoint_benched"));
            let other = told.iter().find(|(it, _)| !expected.contains(&it.as_str()));
            assert_eq!(other, None, "{name}");
        }
    });
}

#[test]
fn a_map_of_another_format_is_told_once_and_its_cure_helps() {
    in_own_process("a_map_of_another_format_is_told_once_and_its_cure_helps", || {
        let mut lab = Lab::new();
        lab.use_all();
        lab.watch();
        let key = "tsdb/cluster/shards/maps/points";
        let map = lab.cases.world.read(key).expect("a map");
        lab.cases.world.write(key, &map.replacen("\"format\":1", "\"format\":99", 1));
        lab.pass(Duration::from_secs(5));
        let is_told_once = |lab: &Lab| {
            lab.watched();
            lab.pass(Duration::from_secs(5));
            let told = lab.watched();
            let told = Vec::from_iter(told.iter());
            let [(name, text)] = &told[..] else { panic!("{told:?}") };
            assert_eq!(name.as_str(), "stores_unknown ");
            assert!(text.contains(key) && text.contains("format is 99"), "{text}");
        };
        is_told_once(&lab);
        let start_again = |lab: &mut Lab| {
            for id in ["n1", "n2", "n3"] {
                lab.restart(id);
            }
            lab.pass(Duration::from_secs(20));
        };
        start_again(&mut lab);
        is_told_once(&lab);
        lab.cases.world.send("DELETE", &format!("/v1/kv/{key}"), "");
        start_again(&mut lab);
        lab.pass(Duration::from_secs(20));
        lab.watched();
        lab.pass(Duration::from_secs(5));
        assert_eq!(lab.watched(), BTreeMap::new());
        assert!(lab.reads("key-1"));
    });
}

/// Their records do not come: who has the disks puts them back, and who has lost them accepts that.
#[test]
fn the_cure_of_two_new_disks_helps() {
    in_own_process("the_cure_of_two_new_disks_helps", || {
        let mut lab = Lab::new();
        lab.use_all();
        lab.watch();
        lab.kill("n2");
        lab.kill("n3");
        lab.pass(Duration::from_secs(20));
        let disks = ["n2", "n3"].map(|id| lab.new_disk(id));
        ["n2", "n3"].iter().for_each(|id| lab.start(id));
        lab.pass(Duration::from_secs(20));
        let problems = lab.problems();
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert_eq!(problem.problem, "shard_at_risk");
        for words in [
            "put back the disk of n2, n3 that the map names",
            "`consul-ha accept-loss points 0`, and likewise for shards 1, 2, 3",
            ", with --force for a node that lives",
        ] {
            assert!(problem.cure.contains(words), "{words}: {problem:?}");
        }
        assert!(!problem.cure.contains("wait"), "{problem:?}");
        let is_well = |lab: &Lab| {
            lab.pass(Duration::from_secs(60));
            lab.watched();
            lab.pass(Duration::from_secs(5));
            assert_eq!(lab.watched(), BTreeMap::new());
            assert!(lab.reads("key-1"));
        };
        ["n2", "n3"].iter().for_each(|id| lab.kill(id));
        for (id, disk) in ["n2", "n3"].into_iter().zip(disks) {
            lab.change(id, |it| it.disk = disk);
            lab.start(id);
        }
        is_well(&lab);
        ["n2", "n3"].iter().for_each(|id| lab.kill(id));
        lab.pass(Duration::from_secs(20));
        for id in ["n2", "n3"] {
            lab.new_disk(id);
            lab.start(id);
        }
        lab.pass(Duration::from_secs(20));
        (0..8).for_each(|shard| lab.accept_loss(shard));
        is_well(&lab);
    });
}

/// The counters of a process are for all its nodes: the failures have a process of their own.
fn in_own_process(test: &str, tell: impl FnOnce()) {
    const OWN: &str = "TOLD_IN_THIS_PROCESS";
    if std::env::var_os(OWN).is_some() {
        return tell();
    }
    let name = format!("stores::told::{test}");
    let own = std::env::current_exe().expect("this program");
    let arguments = ["--exact", &name, "--nocapture", "--include-ignored"];
    let child = Command::new(own).args(arguments).env(OWN, "1").output().expect("it runs");
    let said = [child.stdout, child.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    // Not because it has run nothing.
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

fn tell() {
    let wanted = std::env::var("TOLD").unwrap_or_default();
    let chosen = FAILURES.iter().filter(|it| it.name.contains(&wanted));
    let shown = fs::read_to_string(file()).unwrap_or_default();
    let (mut table, mut wrong) = (String::new(), Vec::new());
    let mut last = None;
    for failure in chosen {
        let begun = std::time::Instant::now();
        let lab = last.take().filter(|_| failure.is_same_lab);
        let mut lab = lab.unwrap_or_else(|| (failure.lab)());
        let alerts = alerts_of(&shown, failure.name);
        let mut seen = see(&mut lab, failure);
        if !seen.wrong.is_empty() || !shown.contains(&seen.line(failure.name, alerts)) {
            // A node of a busy machine answers late, by real time.
            lab = (failure.lab)();
            seen = see(&mut lab, failure);
        }
        last = Some(lab);
        wrong.extend(seen.wrong.iter().map(|why| format!("{}: {why}", failure.name)));
        let line = seen.line(failure.name, alerts);
        _ = writeln!(std::io::stdout(), "{line}   ({:?})", begun.elapsed());
        _ = writeln!(table, "{line}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    if wanted.is_empty() {
        compare(&table);
    }
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(TABLE)
}

/// The alerts in the row of a failure.
fn alerts_of<'a>(table: &'a str, name: &str) -> &'a str {
    let row = table.lines().find(|row| row.starts_with(&format!("| {name} |")));
    let cell = row.and_then(|row| row.trim_end_matches(" |").rsplit_once("| "));
    cell.map_or("", |(_, alerts)| alerts)
}

fn compare(table: &str) {
    if std::env::var_os("WRITE").is_some() {
        fs::write(file(), table).expect("it can be written");
    }
    let shown = fs::read_to_string(file()).expect("the table");
    assert!(shown == table, "WRITE=1 writes {TABLE}, and `make docs` what has it:\n{table}");
}

fn see(lab: &mut Lab, failure: &Failure) -> Seen {
    let mut seen = Seen::default();
    lab.begin_again();
    if lab.is_whole() {
        lab.scrape_for(60);
        seen.nobody_says_anything(lab, "before");
    }
    (failure.provoke)(lab);
    lab.use_all();
    for _ in 0..AT_ONCE_S {
        lab.scrape_for(1);
        seen.at_once.extend(lab.why());
    }
    seen.page_at_once = lab.pages();
    lab.hold(16 * 60);
    seen.later = lab.why();
    seen.page = lab.pages();
    seen.numbers = lab.changed_numbers();
    seen.alerts = lab.alerts();
    (failure.mend)(lab);
    lab.use_all();
    lab.hold(15 * 60);
    seen.nobody_says_anything(lab, "after");
    seen.check(failure);
    seen
}
