//! The reports of a run, and what people and other programs give and take: addresses, dashes, `consul kv`.

use super::etcd::text;
use super::program::{Run, Servers};
use crate::support::consul;
use crate::support::schema::fits;
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/consul-migrate.schema.json");

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("migrate-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

fn read(file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// Keys of four kinds: one is moved as it is, and one each is encoded, leased and skipped.
fn fill(servers: &Servers) {
    let gateway = servers.etcd.gateway();
    gateway.put(b"/cfg/a", b"1");
    gateway.put(b"/cfg//b", b"2");
    gateway.put(b"/blob", &[b'x'; 900_000]);
    let lease = gateway.post("lease/grant", json!({ "TTL": "600" }));
    let leased = json!({ "key": text(b"/workers/w1"), "value": text(b"up"), "lease": lease["ID"] });
    gateway.post("kv/put", leased);
}

const KEYS: &str = "4 keys in etcd: 2 moved (1 encoded), 1 leased, 1 skipped (path-key 1)";

pub fn run(version: &'static str) {
    let servers = Servers::start("reports", version);
    let folder = Folder::new("reports");
    fill(&servers);
    let choices = ["--on=path-key=skip", "--on=large-value=encode"];
    let begin = |verb| servers.run(&[&choices[..], &[verb]].concat());
    for verb in ["plan", "copy"] {
        begin(verb).ends(0, &[KEYS]);
    }
    let with_consul = format!("{KEYS}; Consul has 2 keys");
    servers.run(&["plan"]).ends(0, &[KEYS, "copied already"]);
    servers.run(&["status"]).ends(0, &[KEYS, "etcd is the truth", "0 revisions ahead"]);
    servers.run(&["verify"]).ends(0, &["compared 2 keys", &with_consul]);

    let schema = read(SCHEMA);
    let report = folder.file("cutover.json");
    differs(&servers, &report, &schema);
    let cutover = ["cutover", "--yes", "--within", "300", "--report", &report];
    let mut followed = servers.start_run(&[&cutover[..], &["--follow"]].concat());
    let is_there = || read(&report)["different"] == 0;
    while !followed.has_ended() && !is_there() {
        std::thread::sleep(Duration::from_millis(50));
    }
    followed.signal("TERM");
    let said = followed.end();
    for words in ["cut over: 2 keys are equal", &with_consul] {
        assert!(said.err.contains(words), "{said:?}");
    }
    let done = read(&report);
    let keys = json!({
        "etcd": 4, "moved": 2, "encoded": 1, "leased": 1, "skipped": { "path-key": 1 }, "refused": {}, "consul": 2,
    });
    assert_eq!(done["keys"], keys);
    assert_eq!(done["etcd"]["addresses"], json!([servers.etcd.url]));
    assert_eq!(done["digests"]["etcd"], done["digests"]["consul"]);
    is_of_schema(&schema, &done);
    has_no_less(&schema, &done);
    shows(&servers, &report, &with_consul);
    servers.run(&["status"]).ends(0, &[&with_consul, "Consul is the truth"]);
    let failed = folder.file("failed.json");
    servers.run(&["cutover", "--yes", "--report", &failed]).ends(1, &["cut over already"]);
    is_of_schema(&schema, &read(&failed));
    let keeps = ["has the report of the cut-over of 20", "and keeps it"];
    servers.run(&cutover).ends(1, &keeps);
    servers.run(&["status", "--report", &report]).ends(1, &keeps);
    assert_eq!(read(&report), done);
    servers.run(&["report", &failed]).ends(0, &["it has failed (refused): the job is cut over"]);
    for verb in [&["verify"][..], &["status"], &["rollback", "--dry-run"], &["plan"]] {
        let said = servers.run(&[verb, &["--json"]].concat());
        is_of_schema(&schema, &serde_json::from_str(&said.out).unwrap());
    }
    servers.run(&["export", &folder.file("lines")]).ends(0, &["exported 2 keys (1 encoded)"]);
    lists_are_cut_with_their_rest(&servers);
    goes_to_consul_kv_and_back(&servers, version, &folder);
    says_what_to_do(&servers, &folder);
    is_finished(&servers, &schema);
}

/// The parts of one key are one difference, and the digests are not the same.
fn differs(servers: &Servers, report: &str, schema: &Value) {
    let part = |place: usize| format!("/v1/kv/_etcd/2f626c6f62/{place:04}-0003");
    let consul = servers.consul();
    let before: Vec<_> =
        (0..2).map(|at| consul.send("GET", &format!("{}?raw", part(at)), "").unwrap().1).collect();
    for at in 0..2 {
        consul.send("PUT", &part(at), "x").unwrap();
    }
    let run = servers.run(&["cutover", "--yes", "--within", "300", "--report", report]);
    run.ends(
        1,
        &["of 2 keys of etcd and those of Consul 1 differ", "different: _etcd/2f626c6f62/"],
    );
    let found = read(report);
    assert_eq!((&found["different"], &found["whole"]), (&json!(1), &json!(true)));
    assert_ne!(found["digests"]["etcd"], found["digests"]["consul"]);
    is_of_schema(schema, &found);
    servers.run(&["report", report]).ends(0, &["1 different", "NOT the same"]);
    servers.run(&["verify"]).ends(1, &["0 missing, 0 extra, 1 different"]);
    for (at, part_before) in before.into_iter().enumerate() {
        consul.send("PUT", &part(at), part_before).unwrap();
    }
}

fn shows(servers: &Servers, report: &str, keys: &str) {
    let words = [
        "cutover of the job \"etcd\" at 20",
        "writers were stopped for",
        "the same on both sides",
        keys,
    ];
    servers.run(&["report", report]).ends(0, &words);
    let mut piped = servers.program(&["report", "-"]);
    let piped = piped.stdin(std::fs::File::open(report).unwrap()).output().unwrap();
    assert!(piped.status.success(), "{piped:?}");
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), servers.run(&["report", report]).out);
    servers.run(&["report", "/no/such/file"]).ends(2, &["/no/such/file"]);
    servers.run(&["report", SCHEMA]).ends(2, &["it is not a report"]);
    servers.run(&["status", "--report", "-"]).ends(2, &["--json prints it"]);
}

/// Without any field of it a report is not one.
fn has_no_less(schema: &Value, report: &Value) {
    for name in report.as_object().unwrap().keys() {
        let mut less = report.clone();
        less.as_object_mut().unwrap().remove(name);
        assert!(!fits(schema, schema, &less), "without {name}");
    }
    for (side, name) in [("etcd", "cluster_id"), ("consul", "version"), ("keys", "leased")] {
        let mut less = report.clone();
        less[side].as_object_mut().unwrap().remove(name);
        assert!(!fits(schema, schema, &less), "without {side}.{name}");
        less[side][name] = json!([]);
        assert!(!fits(schema, schema, &less), "{side}.{name} is a list");
    }
}

#[track_caller]
fn is_of_schema(schema: &Value, document: &Value) {
    assert!(fits(schema, schema, document), "{document}");
}

/// Each list says how many more there are.
fn lists_are_cut_with_their_rest(servers: &Servers) {
    let gateway = servers.etcd.gateway();
    servers.run(&["rollback", "--yes"]).ok();
    gateway.fill((0..30).map(|at| (format!("/many/{at:02}"), "1".to_owned())));
    let tail = servers.start_run(&["tail"]);
    servers.wait_for_tail();
    drop(tail);
    let consul = servers.consul();
    for at in 0..30 {
        consul.send("PUT", &format!("/v1/kv/many/{at:02}"), "2").unwrap();
    }
    let more = "and 10 more (--json names all)";
    servers.run(&["verify"]).ends(1, &["30 different", more]);
    servers.run(&["cutover", "--yes", "--within", "300"]).ends(1, &["30 differ", more]);
    for at in 0..30 {
        consul.send("PUT", &format!("/v1/kv/many/{at:02}"), "1").unwrap();
    }
    servers.run(&["cutover", "--yes", "--within", "300", "--freeze", "operator"]).ok();
    for at in 0..30 {
        consul.send("PUT", &format!("/v1/kv/many/{at:02}"), "2").unwrap();
    }
    servers
        .run(&["rollback", "--dry-run"])
        .ends(0, &["set 30 keys", "and 10 more (--json names 1000)"]);
    gateway.fill((0..30).map(|at| (format!("/many/{at:02}"), "3".to_owned())));
    servers.run(&["rollback", "--yes"]).ends(1, &["they stay", more]);
}

/// The same keys by `consul kv export` and `import`, and by this program.
fn goes_to_consul_kv_and_back(servers: &Servers, version: &str, folder: &Folder) {
    let binary = consul::binary(version).unwrap();
    let kv = |verb: &[&str]| {
        let mut command = Command::new(&binary);
        let address = format!("-http-addr={}", servers.consul[0]);
        command.args(["kv"]).args(&verb[..1]).arg(&address).args(&verb[1..]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{verb:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let forget = || {
        servers.consul().send("DELETE", "/v1/kv/_migrate/?recurse", "").unwrap();
    };
    forget();
    let theirs = kv(&["export", ""]);
    let listed = |text: &str| -> Vec<(Value, Value, Value)> {
        let all: Vec<Value> = serde_json::from_str(text).unwrap();
        all.iter()
            .map(|one| (one["key"].clone(), one["flags"].clone(), one["value"].clone()))
            .collect()
    };
    let ours = servers.run(&["export", "--format", "consul-kv", "-"]).ok();
    assert!(listed(&ours) == listed(&theirs) && listed(&ours).len() == 34, "{}", ours.len());
    assert!(!std::path::Path::new("-").exists());
    let (from_theirs, from_ours) = (folder.file("theirs"), folder.file("ours"));
    std::fs::write(&from_theirs, &theirs).unwrap();
    std::fs::write(&from_ours, &ours).unwrap();
    let clear = || servers.consul().send("DELETE", "/v1/kv/?recurse", "").unwrap();
    clear();
    servers.run(&["import", &from_theirs]).ends(1, &["--format consul-kv"]);
    piped(servers, &["import", "-"], theirs.as_bytes()).ends(1, &["--format consul-kv"]);
    let import = ["import", "--format", "consul-kv"];
    piped(servers, &[&import[..], &["-"]].concat(), theirs.as_bytes())
        .ends(0, &["imported 32 keys (1 encoded)"]);
    assert!(kv(&["export", ""]) == theirs);
    clear();
    kv(&["import", &format!("@{from_ours}")]);
    assert!(kv(&["export", ""]) == theirs);
    // A file that is cut, or has a key that is not taken, sets nothing.
    clear();
    let cut = &theirs[..theirs.len() / 2];
    piped(servers, &import, cut.as_bytes()).ends(1, &["nothing was written"]);
    let odd = br#"[{"key":"x","flags":0,"value":""},{"key":"/y","flags":0,"value":""}]"#;
    piped(servers, &import, odd)
        .ends(1, &["nothing was written: key 2 of the list", "leading slash"]);
    assert_eq!(servers.stored("x"), None);
    for (line, number) in [
        ("{\"key\":\"/x\",\"value\":\"\"}", 1),
        ("{\"key\":\"a\",\"value\":\"\"}\n{\"key\":\"a//b\",\"value\":\"\"}", 2),
    ] {
        let run = piped(servers, &["import", "--merge", "--partial"], line.as_bytes());
        assert!(!run.err.contains("strip_leading_slash"), "{run:?}");
        run.ends(1, &[&format!("line {number} is not of an export"), "leading slash"]);
    }
}

fn piped(servers: &Servers, arguments: &[&str], input: &[u8]) -> Run {
    let mut program = servers.program(arguments);
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended before it has read all.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run {
        out: text(output.stdout),
        err: text(output.stderr),
        status: output.status.code().unwrap(),
    }
}

/// Messages in the words of this program's flags, addresses as elsewhere, and a prefix that takes more than it seems to.
fn says_what_to_do(servers: &Servers, folder: &Folder) {
    let plan = |more: &[&str]| {
        let mut program = servers.program(&[more, &["plan"]].concat());
        let output = program.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run {
            out: text(output.stdout),
            err: text(output.stderr),
            status: output.status.code().unwrap(),
        }
    };
    for (address, words) in [
        ("http://user:s3cret@127.0.0.1:2379", "--etcd-user"),
        ("127.0.0.1:0", "from 1 to 65535"),
        ("http://127.0.0.1:1/v3", "it must not have a path"),
    ] {
        let run = plan(&["--etcd", address]);
        assert!(!run.err.contains("s3cret"), "{run:?}");
        run.ends(2, &["--etcd", words]);
    }
    let run = plan(&["--http-addr", "http://user:s3cret@127.0.0.1:8500"]);
    assert!(!run.err.contains("s3cret"), "{run:?}");
    run.ends(2, &["--http-addr", "CONSUL_HTTP_AUTH"]);
    let missing = folder.file("missing.pem");
    for (flag, address) in [("--etcd-ca-file", "--etcd"), ("--ca-file", "--http-addr")] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_consul-migrate"));
        let output =
            program.args([address, "https://127.0.0.1:1", flag, &missing, "plan"]).output();
        let output = output.unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.contains(&format!("{flag}: ")) && err.contains("missing.pem"), "{err}");
    }
    servers.etcd.gateway().put(b"/cfg-of-another/x", b"1");
    let prefix = ["--etcd-prefix", "/cfg", "--job", "beside", "--on=path-key=skip"];
    plan(&prefix).ends(0, &["does not end with a slash", "/cfg-of-another/x"]);
}

/// The numbers of the cut-over, and a report of the end.
fn is_finished(servers: &Servers, schema: &Value) {
    let run = |verb: &[&str]| {
        let job = ["--job", "end", "--etcd-prefix", "/cfg-of-another/"];
        servers.run(&[&job[..], verb].concat())
    };
    run(&["copy", "--replace", "--yes"]).ok();
    run(&["cutover", "--yes", "--within", "300", "--freeze", "operator"]).ok();
    let done = run(&["finish", "--yes", "--json"]);
    let document: Value = serde_json::from_str(&done.out).unwrap();
    is_of_schema(schema, &document);
    let keys = json!({
        "etcd": 1, "moved": 1, "encoded": 0, "leased": 0, "skipped": {}, "refused": {}, "consul": 1,
    });
    assert_eq!((done.status, &document["keys"]), (0, &keys), "{document}");
    assert_eq!(document["done"]["unmarked"], json!(1), "{document}");
}
