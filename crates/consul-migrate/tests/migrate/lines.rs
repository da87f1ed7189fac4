//! An export, and its import into an empty Consul.

use super::program::Servers;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Keys that are easily changed on their way.
const KEYS: &[&str] =
    &["a", "nul\0in", "\u{7f}", "größe/東京", "a b%20c+d", "q?r#s", "a\\\"b", "z/"];

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn run(version: &'static str) {
    let servers = Servers::start("lines", version);
    let name = format!("migrate-{}-lines-{version}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(name));
    std::fs::create_dir_all(&folder.0).unwrap();
    let file = |name: &str| folder.0.join(name).to_str().unwrap().to_owned();
    let (given, first, second) = (file("given"), file("first"), file("second"));

    let large = BASE64.encode((0..900_000_u32).map(|at| (at / 3) as u8).collect::<Vec<_>>());
    let alone = BASE64.encode(vec![7; 500_000]);
    let mut lines = String::new();
    let mut add = |line: Value| writeln!(lines, "{line}").unwrap();
    for (place, key) in KEYS.iter().enumerate() {
        add(json!({ "key": key, "value": BASE64.encode([0, 255, place as u8]), "flags": place }));
    }
    add(json!({ "key": "empty", "value": "" }));
    add(json!({ "key": "large", "value": alone, "flags": u64::MAX }));
    add(json!({ "etcd_key": BASE64.encode(b"/\xff\0"), "value": large, "flags": 1_u64 << 47 }));
    std::fs::write(&given, &lines).unwrap();
    servers.run(&["import", &given]).ends(1, &["nothing was written", "was cut", "--partial"]);
    assert!(all(&servers).is_empty());
    writeln!(lines, "{}", json!({ "lines": 11 })).unwrap();
    std::fs::write(&given, &lines).unwrap();

    servers
        .run(&["import", "--patience", "600", &given])
        .ends(0, &["imported 11 keys (1 encoded)"]);
    servers.consul().send("PUT", "/v1/kv/_migrate/job", "not a key of the programs").unwrap();
    let before = all(&servers);
    assert_eq!(before.len(), 11 + 2, "the large value is three parts");
    let flags_of_parts = before.iter().filter(|(key, ..)| is_part(key)).map(|(.., flags)| flags);
    assert_eq!(flags_of_parts.collect::<Vec<_>>(), vec![&json!(1_u64 << 47); 3]);
    servers.run(&["import", &given]).ends(1, &["Consul has keys already", "--merge"]);
    servers
        .run(&["export", "--patience", "600", &first])
        .ends(0, &["exported 11 keys (1 encoded)"]);
    servers.run(&["export", &first]).ends(2, &["exists"]);
    let (other, part) = (file("other"), file("other.part"));
    std::fs::write(&part, "of an export that runs").unwrap();
    servers.run(&["export", &other]).ends(2, &["other.part", "another export writes it"]);
    assert_eq!(std::fs::read_to_string(&part).unwrap(), "of an export that runs");
    assert!(servers.run(&["export"]).ok() == std::fs::read_to_string(&first).unwrap());

    servers.consul().send("DELETE", "/v1/kv/?recurse", "").unwrap();
    assert!(all(&servers).is_empty());
    servers.run(&["import", &first]).ok();
    assert!(all(&servers) == before, "the import differs");
    servers.run(&["import", "--merge", &first]).ok();
    servers.run(&["export", &second]).ok();
    let read = |name| std::fs::read_to_string(name).unwrap();
    assert!(read(&first) == read(&second));
    is_cut(&servers, &read(&first), &file("cut"));
    has_all_parts(&servers, &large, &file("parts"));
    std::fs::write(&given, "{\"key\":\"y\",\"value\":\"\"}\n").unwrap();
    let other = ["import", "--partial", "--consul-prefix", "x/", &given];
    servers.run(&other).ends(1, &["line 1 is not of an export", "--consul-prefix"]);
    assert_eq!(servers.stored("y"), None);

    let job = json!({ "key": "_migrate/job", "value": "" }).to_string();
    std::fs::write(&given, job).unwrap();
    servers.run(&["import", "--merge", "--partial", &given]).ends(1, &["line 1", "that of a job"]);
    assert_eq!(servers.stored("_migrate/job"), None);

    long_names(&servers, &file("long"));
    reports(&servers, &file("report"));

    let odd = json!([{ "KV": { "Verb": "set", "Key": "//odd", "Value": "" } }]).to_string();
    servers.consul().send("PUT", "/v1/txn", odd).unwrap();
    servers.run(&["export"]).ends(1, &["//odd", "leading `/`"]);
    std::fs::write(&given, "{\"key\":\"x\",\"value\":\"\"}\n{\"key\":3}\n").unwrap();
    let import = ["import", "--merge", "--partial", &given];
    servers.run(&import).ends(1, &["line 2 is not of an export"]);
}

/// An export without its end is not taken for a whole one, and an export that fails leaves no file.
fn is_cut(servers: &Servers, whole: &str, file: &str) {
    let lines: Vec<&str> = whole.lines().collect();
    let (last, others) = lines.split_last().unwrap();
    assert_eq!(*last, "{\"lines\":11}");
    let import = |text: String, more: &[&str]| {
        std::fs::write(file, text).unwrap();
        servers.run(&[&["import", "--merge", file], more].concat())
    };
    import(others.join("\n"), &[]).ends(1, &["nothing was written", "was cut"]);
    import(others.join("\n"), &["--partial"]).ok();
    import(format!("{}\n{last}", others[1..].join("\n")), &[]).ends(1, &["10 lines of 11"]);
    import(format!("{whole}{last}\n"), &[]).ends(1, &["line 13 is after the end"]);
    let mut piped = servers.program(&["import", "--merge"]);
    std::fs::write(file, others.join("\n")).unwrap();
    let piped = piped.stdin(std::fs::File::open(file).unwrap()).output().unwrap();
    assert_eq!(piped.status.code(), Some(1), "{piped:?}");
    std::fs::remove_file(file).unwrap();

    // A key that cannot be read ends an export in the middle.
    let odd = |verb: &str| {
        let op = json!([{ "KV": { "Verb": verb, "Key": "a//odd", "Value": "" } }]).to_string();
        servers.consul().send("PUT", "/v1/txn", op).unwrap();
    };
    odd("set");
    servers.run(&["export", file]).ends(1, &["a//odd"]);
    odd("delete");
    let folder = std::path::Path::new(file).parent().unwrap();
    let names = std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("cut")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A smaller value leaves no part of a larger one, and a value with a missing part is not exported.
fn has_all_parts(servers: &Servers, large: &str, file: &str) {
    let import = |value: &str| {
        let line = json!({ "etcd_key": BASE64.encode(b"/\xff\0"), "value": value });
        std::fs::write(file, line.to_string()).unwrap();
        servers.run(&["import", "--merge", "--partial", file]).ok();
        let mut names: Vec<Value> = all(servers).into_iter().map(|(key, ..)| key).collect();
        names.retain(is_part);
        names
    };
    assert_eq!(import(&BASE64.encode("small")), ["_etcd/2fff00/0000-0001"]);
    assert_eq!(import(large).len(), 3);
    // A part is a program's own, and so is all of the key.
    let part = BASE64.decode(large).unwrap()[..360_000].to_vec();
    servers.consul().send("PUT", "/v1/kv/_etcd/2fff00/0000-0003?flags=7", part).unwrap();
    let lines = servers.run(&["export"]).ok();
    let line = lines.lines().find(|line| line.contains("etcd_key")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert!(line["value"] == large && line["flags"].is_null());
    servers.consul().send("DELETE", "/v1/kv/_etcd/2fff00/0001-0003", "").unwrap();
    let lines = servers.run(&["export"]);
    assert!(lines.err.contains("the parts of the key at _etcd/2fff00/ are not whole"), "{lines:?}");
    let lines = lines.ok();
    let is_line = |part: &str| lines.contains(&format!("{{\"key\":\"_etcd/2fff00/{part}\""));
    assert!(is_line("0000-0003") && is_line("0002-0003") && !lines.contains("etcd_key"));
    assert_eq!(import(large).len(), 3);
}

/// Whether a key of Consul is a part of the encoded one.
fn is_part(name: &Value) -> bool {
    name.as_str().unwrap().starts_with("_etcd/2fff00/")
}

/// Names that together are larger than a transaction may be, also when their characters are escaped.
fn long_names(servers: &Servers, file: &str) {
    let name = |place: usize| format!("long/{place}{}", "\u{1}".repeat(15_000));
    let lines = (0..20).map(|place| json!({ "key": name(place), "value": "" }).to_string());
    std::fs::write(file, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let long = |verb: &[&str]| servers.run(&[verb, &["--consul-prefix", "long/"]].concat());
    long(&["import", "--partial", file]).ends(0, &["imported 20 keys"]);
    assert_eq!(long(&["export"]).ok().lines().count(), 21);
    servers.consul().send("DELETE", "/v1/kv/long/?recurse", "").unwrap();
}

/// The report is written, also of a failure, and what cannot be written is told before anything is done.
fn reports(servers: &Servers, report: &str) {
    let import = |report: &str, file: &str| {
        servers.run(&["import", "--merge", "--partial", "--report", report, file])
    };
    let read = || serde_json::from_str::<Value>(&std::fs::read_to_string(report).unwrap()).unwrap();
    let given = format!("{report}.jsonl");
    std::fs::write(&given, "{\"key\":\"of-report\",\"value\":\"\"}\n").unwrap();
    import("/no/folder/report", &given).ends(2, &["--report", "/no/folder/report"]);
    assert_eq!(servers.stored("of-report"), None);
    std::fs::write(report, "of a longer run before\n".repeat(50)).unwrap();
    import(report, &given).ok();
    assert_eq!((&read()["verb"], &read()["keys"]["consul"]), (&json!("import"), &json!(1)));
    assert_eq!(read()["consul"]["addresses"], json!([format!("http://{}", servers.consul[0])]));
    // A failure replaces no report of a success.
    import(report, "/no/file").ends(2, &["/no/file", report]);
    assert_eq!((&read()["keys"]["consul"], read().get("error")), (&json!(1), None));
    std::fs::remove_file(report).unwrap();
    import(report, "/no/file").ends(2, &["/no/file"]);
    assert_eq!(read()["error"]["kind"], "usage", "{}", read());
    import("/dev/full", &given).ends(1, &["imported 1 key", "/dev/full", "cannot be written"]);
    servers.consul().send("DELETE", "/v1/kv/of-report", "").unwrap();
}

/// The name, the value and the flags of all keys of Consul but jobs' keys.
fn all(servers: &Servers) -> Vec<(Value, Value, Value)> {
    let (_, body) = servers.consul().send("GET", "/v1/kv/?recurse", "").unwrap();
    let entries: Vec<Value> = serde_json::from_slice(&body).unwrap_or_default();
    let of = |kv: &Value| (kv["Key"].clone(), kv["Value"].clone(), kv["Flags"].clone());
    let is_job = |key: &Value| key.as_str().unwrap().starts_with("_migrate/");
    entries.iter().map(of).filter(|(key, ..)| !is_job(key)).collect()
}
