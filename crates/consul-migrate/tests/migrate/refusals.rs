//! The refusals of etcd: a clear error and its exit status.

use super::etcd::{Etcd, text};
use super::program::{PATIENCE, Servers, VERBS};
use crate::support::proxy::{Network, Proxy};
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const PASSWORD: &str = "s3cret-of-root";

pub fn run(version: &'static str) {
    let mut servers = Servers::start("refusals", version);
    servers.etcd.gateway().put(b"/app/a", b"1");
    servers.run(&["copy"]).ok();
    servers.run(&["plan"]).ends(0, &["copied already: go on with tail"]);
    servers.run(&["plan", "--on", "path-key=maybe"]).ends(2, &["skip, encode or refuse"]);
    servers.run(&["plan", "--on", "odd=skip"]).ends(2, &["unknown kind", "path-key"]);
    for prefix in ["_migrate/", "_migrate/etcd/", "_etcd/"] {
        let own = "has keys of its own";
        servers.run(&["plan", "--consul-prefix", prefix]).ends(2, &[own]);
        servers.run(&["export", "--consul-prefix", prefix]).ends(2, &[own]);
    }
    servers.run(&["plan", "--consul-prefix", "/x"]).ends(2, &["do not begin with `/`"]);

    // Another cluster than the job began with.
    let first = std::mem::replace(&mut servers.etcd, Etcd::start("another"));
    for verb in VERBS {
        servers.run(verb).ends(1, &["began with the etcd cluster", "--replace"]);
    }
    servers.etcd = first;
    is_of_another(&mut servers);
    moves_nothing(&servers);
    goes_back(&servers);
    differs_in_many(&servers);
    users(&servers);

    servers.etcd = Etcd::with("off", &["--enable-grpc-gateway=false"]);
    servers.run(&["plan"]).ends(1, &["gateway is off", "--enable-grpc-gateway"]);
    let url = servers.etcd.url.replace("http", "https");
    without_tls(&servers, &url);
    without_tls(&servers, &without_tls_server(answers_in_plain));
    without_tls(&servers, &without_tls_server(resets));
    servers.run(&["plan", "--etcd", "127.0.0.1:1", "--patience", "0"]).ends(3, &["127.0.0.1:1"]);
}

/// A job that another copy has begun otherwise, before this one or meanwhile.
fn is_of_another(servers: &mut Servers) {
    let words = [
        "the job \"etcd\" began with --etcd-prefix \"\" and --consul-prefix \"\"",
        "now it is --etcd-prefix \"/app/\" and --consul-prefix \"x/\"",
        "use another --job",
    ];
    let prefixes = ["--etcd-prefix", "/app/", "--consul-prefix", "x/"];
    for verb in ["plan", "copy", "tail"] {
        servers.run(&[&prefixes[..], &[verb]].concat()).ends(1, &words);
    }
    let words = ["began with --on leased=skip", "--on leased=encode is given", "use another --job"];
    servers.run(&["copy", "--on", "leased=encode"]).ends(1, &words);

    // It waits for etcd, after it has seen that there is no such job.
    let proxy = Proxy::new(servers.etcd.url.strip_prefix("http://").unwrap());
    proxy.set(Network::BlackHole);
    let direct = std::mem::replace(&mut servers.etcd.url, proxy.url());
    let late = servers.start_run(&["copy", "--job", "twice", "--consul-prefix", "late/"]);
    let end = Instant::now() + PATIENCE;
    while proxy.connections() == 0 {
        assert!(Instant::now() < end, "it asks etcd nothing");
        std::thread::sleep(Duration::from_millis(20));
    }
    servers.etcd.url = direct;
    servers.run(&["copy", "--job", "twice", "--consul-prefix", "first/"]).ok();
    proxy.set(Network::Good);
    late.end().ends(1, &["the job \"twice\" began with", "\"first/\"", "now it is", "\"late/\""]);
    servers.consul().send("DELETE", "/v1/kv/first/?recurse", "").unwrap();
}

/// A prefix with a slash too few, and a prefix whose keys all have a lease.
fn moves_nothing(servers: &Servers) {
    let gateway = servers.etcd.gateway();
    let lease = gateway.post("lease/grant", json!({ "TTL": "600" }));
    let leased = json!({ "key": text(b"/leased/a"), "value": "", "lease": lease["ID"] });
    gateway.post("kv/put", leased);
    for (prefix, words) in [
        (
            "app/",
            &["begins with --etcd-prefix \"app/\"", "keys that begin with \"/app/\", \"/leased/\""]
                [..],
        ),
        ("/leased/", &["are left out (leased)"]),
    ] {
        let of_it = |verb: &'static str| {
            ["--job", "none", "--etcd-prefix", prefix, "--consul-prefix", "none/", verb]
        };
        let shown = |verb: &'static str| servers.run(&of_it(verb));
        shown("plan").ends(1, words);
        shown("plan").ends(1, &["there is nothing to move", "a cut-over would be refused"]);
        shown("copy").ends(0, words);
        shown("verify").ends(0, words);
        for freeze in ["alarm", "operator"] {
            let cutover = [&of_it("cutover")[..], &["--yes", "--freeze", freeze]].concat();
            servers.run(&cutover).ends(1, words);
            servers.run(&cutover).ends(1, &["not cut over, and no writer was stopped"]);
        }
        assert_eq!(super::cutover::alarms(&gateway), 0);
        assert_eq!(super::cutover::try_put(&gateway, b"/app/a", b"1"), 200);
        let record = servers.consul().send("DELETE", "/v1/kv/_migrate/none?recurse", "");
        assert_eq!(record.unwrap().0, 200);
    }
    gateway.delete(b"/leased/a");
}

/// etcd answers no more, and closes no connection: the tail ends when its patience does.
pub fn run_silent(version: &'static str) {
    let mut servers = Servers::start("silent", version);
    servers.etcd.gateway().put(b"/app/a", b"1");
    servers.run(&["copy"]).ok();
    let proxy = Proxy::new(servers.etcd.url.strip_prefix("http://").unwrap());
    let direct = std::mem::replace(&mut servers.etcd.url, proxy.url());
    let tail = servers.start_run(&["tail", "--patience", "1"]);
    servers.etcd.url = direct;
    servers.etcd.gateway().put(b"/app/b", b"1");
    servers.wait_for_tail();
    proxy.set(Network::BlackHole);
    let begun = Instant::now();
    tail.end().ends(3, &["no answer within 5000 ms"]);
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
}

/// The alarm would let anyone delete keys, and switch the access control off, before version 3.6.
fn is_not_opened(servers: &Servers) {
    let (_, said) = servers.etcd.gateway().send("GET", "/version", "").unwrap();
    if !["3.4", "3.5"]
        .iter()
        .any(|it| String::from_utf8_lossy(&said).contains(&format!("\"etcdcluster\":\"{it}")))
    {
        return;
    }
    let run = |more: &[&str]| {
        let job = ["--job", "reader", "--etcd-prefix", "/app/", "--consul-prefix", "reader/"];
        let mut program = servers.program(&[&job[..], more].concat());
        program.env("ETCDCTL_USER", "root").env("ETCDCTL_PASSWORD", PASSWORD);
        let output = program.output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), said)
    };
    let delete = json!({ "key": text(b"/app/a") }).to_string();
    let deletes = || {
        let answer = servers.etcd.gateway().send("POST", "/v3/kv/deleterange", delete.clone());
        answer.unwrap().0
    };
    let words = ["etcd has users, and is version 3.", "--freeze operator", "--accept-open-deletes"];
    for asked in [&["cutover", "--yes"][..], &["cutover", "--yes", "--freeze", "alarm"]] {
        let (status, said) = run(asked);
        assert_eq!(status, 1, "{said}");
        words.iter().for_each(|words| assert!(said.contains(words), "{words}: {said}"));
        assert_ne!(deletes(), 200);
    }
    let (status, said) = run(&["cutover", "--yes", "--freeze", "roles"]);
    assert!(status == 1 && said.contains("no role of etcd but root"), "{status}: {said}");
    let (status, said) = run(&["plan"]);
    assert!(status == 0 && said.contains("--freeze alarm is refused"), "{status}: {said}");
    let (status, said) =
        run(&["cutover", "--yes", "--freeze", "operator", "--accept-open-deletes"]);
    assert!(status == 2 && said.contains("is for --freeze alarm"), "{status}: {said}");
    let (status, said) = run(&["cutover", "--yes", "--within", "300", "--accept-open-deletes"]);
    assert!(status == 0 && said.contains("nobody's rights are checked"), "{status}: {said}");
    let (status, said) = run(&["rollback", "--yes"]);
    assert_eq!(status, 0, "{said}");
    let (status, said) = run(&["cutover", "--yes", "--within", "300", "--freeze", "operator"]);
    assert_eq!(status, 0, "{said}");
    assert_ne!(deletes(), 200);
    let (status, said) = run(&["rollback", "--yes"]);
    assert_eq!(status, 0, "{said}");
}

/// etcd is restored, and has less than the job has applied.
fn goes_back(servers: &Servers) {
    let keys = |count: usize| (0..count).map(|place| (format!("/app/{place}"), "1".to_owned()));
    servers.etcd.gateway().fill(keys(500));
    let tail = servers.start_run(&["tail"]);
    servers.wait_for_tail();
    servers.etcd.lose_all();
    let words = ["etcd is at revision 1, and the job has applied revision", "copy --again"];
    tail.end().ends(1, &words);
    for verb in ["plan", "copy", "tail", "verify", "status"].map(|verb| vec![verb]) {
        servers.run(&verb).ends(1, &words);
    }
    servers.run(&["cutover", "--yes"]).ends(1, &words);
    for (more, words) in [
        (&[][..], ["nothing was changed: ", "`export` saves it"]),
        (&["--replace", "--yes"], ["nothing was written: ", "there is nothing to move"]),
    ] {
        servers.run(&[&["copy", "--again"][..], more].concat()).ends(1, &words);
    }
    assert_eq!(servers.stored("app/0").unwrap(), b"1");
    servers.etcd.gateway().fill(keys(1));
    servers.run(&["copy", "--again"]).ok();
    servers.run(&["verify"]).ends(0, &["compared 1 key", "0 missing, 0 extra, 0 different"]);
    servers.run(&["cutover", "--yes"]).ok();
    servers.etcd.lose_all();
    servers.run(&["verify"]).ends(1, &["`rollback` makes etcd as it is"]);
    let words = ["was restored from a snapshot", "Consul is the truth", "at the cut-over: 1 key"];
    servers.run(&["status"]).ends(1, &words);
    servers.run(&["rollback", "--yes"]).ends(0, &["set 1 key of etcd"]);
    servers.run(&["verify"]).ends(0, &["compared 1 key", "0 missing, 0 extra, 0 different"]);
}

/// A comparison that ends early says so, and that its count is not all.
fn differs_in_many(servers: &Servers) {
    let file = std::env::temp_dir().join(format!("migrate-{}-many", std::process::id()));
    let line = |place| json!({ "key": format!("many/{place}"), "value": "" }).to_string();
    std::fs::write(&file, (0..10_100).map(line).collect::<Vec<_>>().join("\n")).unwrap();
    servers.run(&["import", "--merge", "--partial", file.to_str().unwrap()]).ok();
    std::fs::remove_file(&file).unwrap();
    servers.run(&["verify"]).ends(1, &["at least: 0 missing, 200 extra, 0 different"]);
    // Before the others.
    let gateway = servers.etcd.gateway();
    gateway.fill((0..10_100).map(|place| (format!("/first/{place}"), String::new())));
    let verify = servers.run(&["verify"]);
    let compared = verify.out.split(' ').nth(1).and_then(|count| count.parse::<u32>().ok());
    assert!(compared > Some(1000), "{verify:?}");
    verify.ends(1, &["and ended there, at least: "]);
    let all = json!({ "key": text(b"/first/"), "range_end": text(b"/first0") });
    gateway.post("kv/deleterange", all);
    servers.run(&["cutover", "--yes"]).ends(1, &["not cut over: at least 1000 keys differ"]);
    servers.consul().send("DELETE", "/v1/kv/many/?recurse", "").unwrap();
}

fn without_tls(servers: &Servers, url: &str) {
    let run = servers.run(&["plan", "--etcd", url, "--patience", "0"]);
    run.ends(3, &[url, "TLS handshake", "does it speak TLS?"]);
}

/// The `https://…` of a server that serves one connection so.
fn without_tls_server(serve: fn(TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || serve(listener.accept().unwrap().0));
    url
}

fn answers_in_plain(mut connection: TcpStream) {
    assert_ne!(connection.read(&mut [0; 16 << 10]).unwrap(), 0);
    connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    // Bytes that are not read when a socket is closed reset its connection.
    std::io::copy(&mut connection, &mut std::io::sink()).unwrap();
}

fn resets(connection: TcpStream) {
    assert_ne!(connection.peek(&mut [0]).unwrap(), 0);
}

fn users(servers: &Servers) {
    let gateway = servers.etcd.gateway();
    let post = |what: &str, body| _ = gateway.post(what, body);
    let range = json!({ "permType": "READ", "key": text(b"/app/"), "range_end": text(b"/app0") });
    for name in ["root", "reader"] {
        post("auth/user/add", json!({ "name": name, "password": PASSWORD }));
        post("auth/role/add", json!({ "name": name }));
        post("auth/user/grant", json!({ "user": name, "role": name }));
    }
    post("auth/role/grant", json!({ "name": "reader", "perm": range }));
    post("auth/user/add", json!({ "name": "of:colons:", "password": PASSWORD }));
    post("auth/user/grant", json!({ "user": "of:colons:", "role": "root" }));
    post("auth/enable", json!({}));

    servers.run(&["plan"]).ends(5, &["requires a user"]);
    let run = |user: &str, password: &str, more: &[&str]| {
        let arguments = [&["plan", "--etcd-user", user], more].concat();
        let output =
            servers.program(&arguments).env("ETCDCTL_PASSWORD", password).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(!said.contains(PASSWORD), "{said}");
        (output.status.code().unwrap(), said)
    };
    let (status, said) = run("root", "wrong", &[]);
    assert!(status == 5 && said.contains("the user or the password is wrong"), "{status}: {said}");
    let (status, said) = run("reader", PASSWORD, &[]);
    let words =
        "lacks the right to read all keys; one whose role is for a prefix needs --etcd-prefix";
    assert!(status == 5 && said.contains(words), "{status}: {said}");
    let (status, said) = run("reader", PASSWORD, &["--etcd-prefix", "/app/", "--job", "app"]);
    assert!(said.contains("1 key of"), "{status}: {said}");
    let (_, said) = run("root", PASSWORD, &[]);
    assert!(said.contains("1 key of"), "{said}");
    for verb in ["copy", "verify"] {
        let more = [verb, "--etcd-prefix", "/app/", "--consul-prefix", "reader/"];
        let mut program = servers.program(&["--etcd-user", "reader", "--job", "reader"]);
        let output = program.args(more).env("ETCDCTL_PASSWORD", PASSWORD).output().unwrap();
        assert!(output.status.success(), "{verb}: {output:?}");
    }

    is_not_opened(servers);

    // Other places of the password.
    let file = std::env::temp_dir().join(format!("migrate-{}-password", std::process::id()));
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let in_file = ["plan", "--etcd-user", "root", "--etcd-password-file", file.to_str().unwrap()];
    let of_colons = ["plan", "--etcd-user", "of:colons:"];
    let in_file_of_colons = [&of_colons[..], &in_file[3..]].concat();
    for (arguments, user, password) in [
        (&in_file[..], "x", "wrong"),
        (&["plan"], &format!("root:{PASSWORD}"), ""),
        // As for etcdctl, a name is whole if the password is in another place.
        (&["plan"], "of:colons:", PASSWORD),
        (&of_colons, "x", PASSWORD),
        (&in_file_of_colons, "x", "wrong"),
    ] {
        let mut program = servers.program(arguments);
        program.env("ETCDCTL_USER", user).env("ETCDCTL_PASSWORD", password);
        let output = program.output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(said.contains("1 key of") && !said.contains(PASSWORD), "{said}");
    }
    std::fs::remove_file(&file).unwrap();
}
