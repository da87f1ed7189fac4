//! The verbs that only show, and what no verb leaves behind.

use crate::program::Run;
use crate::support::authority::Folder;
use crate::system::{System, object};
use consul_api::api::{kv, session};
use consul_api::request::Args;
use consul_client::coordination::lock::LOCK_FLAGS;
use consul_client::coordination::semaphore::SEMAPHORE_FLAGS;
use std::net::TcpListener;
use std::time::{Duration, Instant};

pub fn run(system: &System) {
    hostile_record(system);
    unread_stores(system);
    junk_map(system);
    leaders_key(system);
    overwritten_leader(system);
    let before = system.traces();
    nodes(system);
    shards(system);
    leader(system);
    locks(system);
    other_keys(system);
    assert_eq!(system.run(&["why"]).ok(), "all is well\n");
    assert_eq!(system.run(&["why", "--wait"]).ok(), "all is well\n");
    let events = system.run(&["events"]).ok();
    assert!(events.contains("  leader_changed n"), "{events}");
    let event = system.run(&["events", "--json"]).ok();
    assert!(event.starts_with("{\"at_ms\":"), "{event}");
    serve(system);
    completion(system);
    manual();
    profiles(system);
    history(system);
    unreachable();
    slow();
    bad_lines(system);
    assert_eq!(system.traces(), before, "the program is not a member");
}

fn nodes(system: &System) {
    let table = system.run(&["nodes"]).ok();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("NODE  ADDRESS"), "{table}");
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[1].starts_with("n1    127.0.0.1:9000  zone-n1  active  live"), "{table}");
    assert!(!table.contains('\x1b'), "no colour: {table}");
    let json = system.run(&["nodes", "--json"]).json();
    let nodes = json["nodes"].as_array().unwrap();
    let primaries: u64 = nodes.iter().map(|node| node["primaries"].as_u64().unwrap()).sum();
    assert_eq!(primaries, 16);
    assert!(nodes.iter().all(|node| node["store_replicas"].as_u64() > Some(0)), "{json}");
    assert_eq!(nodes[0]["mode"], "active");
}

fn shards(system: &System) {
    let json = system.run(&["shards", "--json"]).json();
    let map = &json["map"];
    assert_eq!((&map["shards"], &map["replicas"]), (&16.into(), &2.into()));
    assert_eq!(json["listed"].as_array().unwrap().len(), 16);
    assert_eq!(json["stores"][0]["name"], "points");
    let table = system.run(&["shards"]).ok();
    assert!(table.starts_with(&format!("epoch {}, 16 shards", map["epoch"])), "{table}");
    let of_key = system.run(&["shards", "user:1", "--json"]).json();
    let shard = of_key["shard"].as_u64().unwrap() as usize;
    let primary = map["placement"][shard][0][0].as_u64().unwrap() as usize;
    assert_eq!(of_key["replicas"][0]["node"], map["nodes"][primary]);
    assert!(table.contains("STORE   SHARDS  N/W/R") && table.contains("\npoints"), "{table}");
    assert_eq!(of_key["requests_go_to"], of_key["replicas"][0]["node"]);
    let of_node = system.run(&["shards", "--node", "n2"]).ok();
    let listed = of_node.lines().skip(3).take_while(|line| !line.is_empty());
    assert!(listed.clone().count() > 0 && listed.clone().all(|line| line.contains("n2")));
    let moving = system.run(&["shards", "--only", "moving", "--json"]).json();
    assert_eq!(moving["listed"], serde_json::json!([]), "no replica comes or goes");
    system.run(&["shards", "--node", "n22"]).refused(1, &["did you mean \"n2\"?"]);
}

fn leader(system: &System) {
    let json = system.run(&["leader", "--json"]).json();
    let leader = json["leader"]["node_id"].as_str().unwrap();
    let text = system.run(&["leader"]).ok();
    assert!(text.starts_with(&format!("{leader} at 127.0.0.1:9000, elected ")), "{text}");
}

fn locks(system: &System) {
    let json = system.run(&["locks", "ha/", "--json"]).json();
    let lock = &json["locks"][0];
    assert_eq!((&lock["key"], &lock["kind"]), (&"ha/leader".into(), &"lock".into()));
    assert_eq!(lock["token"], system.run(&["leader", "--json"]).json()["leader"]["token"]);
    let table = system.run(&["locks"]).ok();
    assert!(table.contains("ha/leader  lock  held"), "{table}");
    let elsewhere = Args::new().arg("user/lock").opt("flags", LOCK_FLAGS);
    system.call(&kv::PUT, elsewhere.arg(b"x".to_vec()));
    let table = system.run(&["locks"]).ok();
    assert!(
        table.contains("user/lock  lock  free"),
        "the cluster's prefix is not that of locks: {table}"
    );
    system.call(&kv::DELETE, Args::new().arg("user/lock"));
    let permits = ["user/permits/.lock", "user/permits/one"];
    for key in permits {
        let put = Args::new().arg(key).arg(b"{}".to_vec()).opt("flags", SEMAPHORE_FLAGS);
        system.call(&kv::PUT, put);
    }
    let shown = system.run(&["locks", "user/", "--json"]).json();
    let keys: Vec<&str> =
        shown["locks"].as_array().unwrap().iter().map(|it| it["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["user/permits/one"], "the document of a semaphore holds no permit");
    blocked_locks(system);
    for key in permits {
        system.call(&kv::DELETE, Args::new().arg(key));
    }
    assert_eq!(system.run(&["locks", "user/"]).ok(), "no locks\n");
}

/// The cause that keeps permits and locks from their waiters is named, with the command against it.
fn blocked_locks(system: &System) {
    let blocking = || system.run(&["locks", "user/", "--json"]).json()["blocking"].clone();
    for (value, flags) in [("{}", 0), ("another program's", SEMAPHORE_FLAGS), ("", SEMAPHORE_FLAGS)]
    {
        let put = Args::new().arg("user/permits/.lock").arg(value).opt("flags", flags);
        system.call(&kv::PUT, put);
        assert_eq!(blocking(), serde_json::json!(["user/permits/.lock"]), "{value:?} {flags}");
        let text = system.run(&["locks", "user/"]).ok();
        assert!(text.contains("`consul kv delete user/permits/.lock` makes room"), "{text}");
    }
    let document = Args::new().arg("user/permits/.lock").opt("flags", SEMAPHORE_FLAGS);
    system.call(&kv::PUT, document.arg(r#"{"Limit":2,"Holders":{}}"#));
    assert_eq!(blocking(), serde_json::json!([]));
}

/// A leader's key that a stranger's session holds is named by each verb once, with the command that cures it.
fn leaders_key(system: &System) {
    let of_session = object(&[("LockDelay", "0s".into())]);
    let stranger = system.call(&session::CREATE, Args::new().arg(of_session));
    let stranger = stranger.as_str().expect("an id").to_owned();
    system.call(&kv::DELETE, Args::new().arg("ha/leader"));
    let command = format!("`curl -X PUT …/v1/session/destroy/{stranger}`");
    for flags in [0, 7, LOCK_FLAGS] {
        for content in ["", "data", r#"{"node_id":"ghost","address":"a:1"}"#] {
            let acquire = Args::new().arg("ha/leader").arg(content).opt("flags", flags);
            system.call(&kv::PUT, acquire.opt("acquire", stranger.as_str()));
            let is_ghost = flags == LOCK_FLAGS && content.contains("ghost");
            for verb in ["why", "doctor", "locks"] {
                let run = system.run(&[verb]);
                let named = run.out.matches(&command).count();
                assert!(
                    run.out.contains("ha/leader") || is_ghost,
                    "{verb} {flags} {content}: {run:?}"
                );
                assert_eq!(named, 1, "{verb} {flags} {content}: {run:?}");
            }
        }
    }
    system.call(&session::DESTROY, Args::new().arg(stranger.as_str()));
    system.wait_for("all is well", || system.run(&["why"]).status == 0);
    system.wait_for("one session", || system.traces()[2].len() == 1);
}

/// The session of a node whose record another program has overwritten is not that program's.
fn overwritten_leader(system: &System) {
    for _ in 0..3 {
        let session = system.run(&["leader", "--json"]).json()["leader"]["session"].clone();
        system.put("ha/leader", "another program's");
        for _ in 0..3 {
            let why = system.run(&["why"]).out;
            assert!(!why.contains(&format!("destroy/{}", session.as_str().unwrap())), "{why}");
        }
        system.wait_for("all is well", || system.run(&["why"]).status == 0);
        system.wait_for("one session", || system.traces()[2].len() == 1);
    }
}

/// A lock is kept from its waiters by data at its key, which an operator names, or by a stranger's session.
fn other_keys(system: &System) {
    let stranger = system.call(&session::CREATE, Args::new());
    let stranger = stranger.as_str().expect("an id").to_owned();
    for flags in [0, 7, LOCK_FLAGS] {
        for content in ["", "data"] {
            for is_held in [false, true] {
                let what = format!("flags {flags}, {content:?}, held: {is_held}");
                let put = Args::new().arg("user/lock").arg(content).opt("flags", flags);
                let put = if is_held { put.opt("acquire", stranger.as_str()) } else { put };
                system.call(&kv::PUT, put);
                let command = match (flags, is_held) {
                    (LOCK_FLAGS, _) => None,
                    (_, true) => Some(format!("`curl -X PUT …/v1/session/destroy/{stranger}`")),
                    (0, false) if content.is_empty() => None,
                    (_, false) => Some("`consul kv delete user/lock`".to_owned()),
                };
                let out = system.run(&["locks", "user/lock"]).ok();
                let named = command.as_ref().map_or(0, |command| out.matches(command).count());
                assert_eq!(named, usize::from(command.is_some()), "{what}: {out}");
                let json = system.run(&["locks", "user/lock", "--json"]).json();
                let blocking = if command.is_some() { vec!["user/lock"] } else { vec![] };
                assert_eq!(json["blocking"], serde_json::json!(blocking), "{what}");
                system.call(&kv::DELETE, Args::new().arg("user/lock"));
            }
        }
    }
    system.call(&session::DESTROY, Args::new().arg(stranger.as_str()));
}

/// The text of a record is shown in one line, and no cure runs a command of it.
fn hostile_record(system: &System) {
    let record = r#"{"id":"x$(touch f)","address":"a\u001b]0;t\u0007:1\nFORGED","zone":"z\u001b[2J\nFORGED\u202e",
        "weight":0,"started_ms":1,"incarnation":"none"}"#;
    system.put("ha/nodes/x$(touch f)", record);
    for verb in ["nodes", "why", "shards"] {
        for run in [system.run(&[verb]), system.run(&[verb, "--json"])] {
            let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!run.out.contains(acts) && !run.out.contains("\nFORGED"), "{verb}: {run:?}");
        }
    }
    let nodes = system.run(&["nodes"]).ok();
    assert!(nodes.contains(r"z\u{1b}[2J\nFORGED\u{202e}"), "{nodes}");
    let why = system.run(&["why"]).out;
    assert!(why.contains("`consul-ha forget 'x$(touch f)'`"), "{why}");
    system.run(&["forget", "x$(touch f)", "--yes"]).ok();
}

/// Stores whose maps cannot be read are not well.
fn unread_stores(system: &System) {
    let token = system.token(
        r#"key_prefix "ha/" { policy = "read" } key_prefix "ha/shards/maps/" { policy = "deny" }
        service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#,
    );
    let why = system.run_as(&token, &["why", "--json"]);
    assert!(why.status == 1 && why.out.contains("\"problem\":\"stores_unknown\""), "{why:?}");
    assert!(why.out.contains("key:read"), "{why:?}");
    system.put("ha/shards/maps/junk", "{}");
    let why = system.run(&["why"]);
    assert!(why.status == 1 && why.out.contains("ha/shards/maps/junk"), "{why:?}");
    system.run(&["drain", "n3", "--wait"]).refused(1, &["ha/shards/maps/junk"]);
    system.call(&kv::DELETE, Args::new().arg("ha/shards/maps/junk"));
}

/// A shard map that cannot be read hides nothing else, and its cure works.
fn junk_map(system: &System) {
    // Put before each: the leader writes the map again after 5 s, and a busy machine takes longer for a program.
    let told = |arguments: &[&str], word: &str| {
        system.wait_for("the junk is told", || {
            system.put("ha/shards/map", "junk");
            let Run { out, err, status } = system.run(arguments);
            let text = out + &err;
            status == 1 && text.contains("ha/shards/map") && text.contains(word)
        });
    };
    told(&["why", "--json"], "\"map_unreadable\"");
    told(&["doctor", "--json"], "\"map_unreadable\"");
    told(&["shards"], "ha/shards/map");
    system.put("ha/shards/map", "junk");
    for verb in ["nodes", "leader"] {
        system.run(&[verb]).ok();
    }
    system.call(&kv::DELETE, Args::new().arg("ha/shards/epoch"));
    system.wait_for("the map is back", || system.run(&["shards"]).status == 0);
    system.wait_for("all is well", || system.run(&["why"]).status == 0);
    let kept = |key: &String| key.starts_with("ha/shards/map.");
    for key in system.traces()[0].iter().filter(|key| kept(key)) {
        system.call(&kv::DELETE, Args::new().arg(key.as_str()));
    }
}

/// The page's server shows the whole cluster, and nobody needs a key of it.
fn serve(system: &System) {
    let mut server = system.serve();
    let knows_all = || {
        let document = server.cluster();
        let nodes = document["nodes"].as_array().map_or(0, Vec::len);
        nodes == 3 && document["leader"].is_object() && document["stores"][0]["name"] == "points"
    };
    system.wait_for("the server knows the cluster", knows_all);
    assert!(server.get("/").contains("<!doctype html>"));
    assert!(server.get("/metrics").starts_with("HTTP/1.0 200"));
    server.stop();
}

fn completion(system: &System) {
    for (shell, part) in [("bash", "_consul__ha()"), ("zsh", "#compdef"), ("fish", "complete -c")] {
        let script = Run::of(&["completion", shell], &[]).ok();
        assert!(script.contains(part) && script.contains("hand-over"), "{shell}");
        assert!(script.contains("consul-ha names"), "{shell}: it asks for the names of nodes");
    }
    let complete = |words: &str, last: &str| {
        let count = words.split(' ').count();
        system.shell(&format!(
            "source <(consul-ha completion bash); COMP_WORDS=({words} {last}); COMP_CWORD={count}; \
             _consul-ha_with_nodes consul-ha '{last}' x; printf '%s ' \"${{COMPREPLY[@]}}\""
        ))
    };
    for verb in ["drain", "maintenance", "leave", "forget", "hand-over", "set-weight"] {
        assert_eq!(complete(&format!("consul-ha {verb}"), "n"), "n1 n2 n3 ", "{verb}");
    }
    assert_eq!(complete("consul-ha drain", "n2"), "n2 ");
    assert_eq!(complete("consul-ha", "his"), "history ");
    assert!(complete("consul-ha drain", "--wa").contains("--wait"));
    system.put("ha/nodes/n$(touch${IFS}f)", &record("n$(touch${IFS}f)"));
    assert_eq!(complete("consul-ha drain", "n"), "n1 n2 n3 ", "no name is a command");
    system.run(&["forget", "n$(touch${IFS}f)", "--yes"]).ok();
}

/// A profile says where the cluster is; the command line goes before it, and the environment before a profile that the command
/// line does not name; nothing of it is printed.
fn profiles(system: &System) {
    let folder = Folder::new();
    let token = folder.file("token", &system.consul.token);
    let file = folder.file(
        "profiles.toml",
        format!(
            "[prod]\nhttp_addr = \"127.0.0.1:1\"\nprefix = \"ha/\"\ntoken_file = {token:?}\n[other]\nprefix = \"other/\"\n\
             [bad]\ntoken = \"a secret of ours\"\n[worse]\ntimeout_ms = 0\n"
        ),
    );
    let address = system.consul.address.as_str();
    let given = [("CONSUL_HA_PROFILES", file.as_str()), ("CONSUL_HTTP_ADDR", address)];
    let run = |line: &[&str]| Run::of(line, &given);
    // Variables of another cluster do not lead a command that names one to it.
    for line in [["nodes", "--profile", "prod"], ["--profile", "prod", "nodes"]] {
        run(&line).refused(3, &["127.0.0.1:1"]);
    }
    let elsewhere = [given[0], given[1], ("CONSUL_HA_PREFIX", "ha/")];
    let token = ["--token-file", token.as_str(), "nodes", "--profile", "other"];
    assert!(!Run::of(&token, &elsewhere).ok().contains("n1"), "it is another prefix");
    let of_flag = Run::of(
        &[
            "--profile",
            "other",
            "--profiles",
            &file,
            "--prefix",
            "ha/",
            "nodes",
            "--http-addr",
            address,
        ],
        &[("CONSUL_HTTP_TOKEN", &system.consul.token)],
    );
    assert!(of_flag.ok().contains("n1"));
    let names = [given[0], given[1], ("CONSUL_HA_PROFILE", "prod")];
    assert!(Run::of(&["nodes"], &names).ok().contains("n1"), "the environment has the address");
    let at = Run::of(&["nodes", "--profile", "prod"], &[given[0]]);
    at.refused(3, &["127.0.0.1:1"]);
    run(&["nodes", "--profile", "prdo"]).refused(2, &[&file, "did you mean \"prod\"?"]);
    let secret = run(&["nodes", "--profile", "bad"]);
    assert!(!secret.err.contains("a secret of ours"), "{secret:?}");
    secret.refused(2, &[&file, "line 8: profile \"bad\": unknown key \"token\""]);
    run(&["nodes", "--profile", "worse"]).refused(2, &["--timeout-ms is 0"]);
    let missing = run(&["nodes", "--profile", "prod", "--profiles", "/nope"]);
    missing.refused(2, &["--profiles \"/nope\": No such file"]);
    let json = run(&["--json", "nodes", "--profile", "prdo"]);
    assert!(json.out.starts_with("{\"error\":{\"kind\":\"usage\""), "{json:?}");
}

/// A record of a node that does not live.
fn record(id: &str) -> String {
    serde_json::json!({
        "id": id, "address": "a:1", "weight": 1, "started_ms": 1, "incarnation": "none",
    })
    .to_string()
}

/// The manual page has the rows of `--help`.
fn manual() {
    let (page, help) = (Run::of(&["man"], &[]).ok(), Run::of(&["--help"], &[]).ok());
    let page = page.replace("\\-", "-");
    let verbs = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs = verbs.take_while(|line| !line.is_empty());
    let verbs: Vec<&str> = verbs.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(verbs.contains(&"set-weight") && !verbs.contains(&"names"), "{verbs:?}");
    for verb in verbs.iter().filter(|verb| **verb != "help") {
        assert!(page.contains(&format!("\n.SS \"consul-ha {verb}")), "{verb}: {page}");
    }
    let flags = help.split(|c: char| c.is_whitespace() || c == ',' || c == '`');
    for flag in flags.filter(|it| it.starts_with("--") && !["--help", "--version"].contains(it)) {
        assert!(page.contains(flag.trim_end_matches('.')), "{flag}: {page}");
    }
    assert!(
        page.contains("\n.SH \"EXIT STATUSES\"") && page.contains("CONSUL_HA_PREFIX"),
        "{page}"
    );
}

/// The leaders, from Consul.
fn history(system: &System) {
    let leaders = system.run(&["history", "--json"]).json()["leaders"].clone();
    let last = leaders.as_array().and_then(|it| it.last()).cloned().unwrap_or_default();
    let leader = system.run(&["leader", "--json"]).json()["leader"].clone();
    assert_eq!((&last["node_id"], &last["token"]), (&leader["node_id"], &leader["token"]));
    assert_eq!(last["version"], env!("CARGO_PKG_VERSION"));
    let table = system.run(&["history"]).ok();
    assert!(table.starts_with("ELECTED (UTC)  "), "{table}");
}

/// Command lines that are refused.
fn bad_lines(system: &System) {
    let set = [("CONSUL_HA_PREFIX", "ha/"), ("CONSUL_HTTP_ADDR", "127.0.0.1:1")];
    Run::of(&["drain"], &set).refused(2, &["Usage: consul-ha drain <NODE>\n"]);
    let longest = u64::MAX.to_string();
    for verb in
        [&["drain", "n1", "--wait"][..], &["leave", "n1"], &["hand-over"], &["why", "--wait"]]
    {
        system.run(&[verb, &["--limit", &longest]].concat()).refused(2, &["604800"]);
    }
    system.run(&["serve", "--host", "a b:c"]).refused(2, &["without a port"]);
    for junk in ["x", "1e3", "0x10", "12 ", "", "99999999999999999999"] {
        for verb in [&["drain", "n1"][..], &["thaw"], &["accept-loss", "points", "0"]] {
            let epoch = format!("--expect-epoch={junk}");
            system.run(&[verb, &[epoch.as_str()]].concat()).refused(2, &["--expect-epoch"]);
        }
    }
    in_flags(system);
    let usage = system.run(&["--json", "drain"]);
    assert!(usage.out.starts_with("{\"error\":{\"kind\":\"usage\""), "{usage:?}");
    let elsewhere = system.run(&["nodes", "--nodes-prefix", "other/nodes"]).ok();
    let expected = "no nodes below other/nodes/: --prefix names another cluster's keys\n";
    assert_eq!(elsewhere, expected, "the flag goes before the environment");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    system.run_into(full, &["why"]).refused(1, &["the output cannot be written"]);
    unread(system);
}

/// The reader of the output has ended, as `head` does: the exit status is that of what was done.
fn unread(system: &System) {
    let closed = || std::fs::File::from(std::os::fd::OwnedFd::from(std::io::pipe().unwrap().1));
    let status = |arguments: &[&str]| system.run_into(closed(), arguments).status;
    assert_eq!(status(&["leader"]), 0);
    assert_eq!(status(&["nodes", "--watch", "1"]), 0);
    assert_eq!(status(&["events", "--follow"]), 0);
    let refused = system.run_into(closed(), &["drain", "n11", "--json"]);
    refused.refused(1, &["unknown node \"n11\""]);
    assert_eq!(status(&["doctor", "--nodes-prefix", "other/nodes"]), 1);
}

/// A fault is told in the words of the flags.
fn in_flags(system: &System) {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (line, words) in [
        (&["nodes", "--token-file", "/nope"][..], "consul-ha: --token-file: /nope: No such file"),
        (&["nodes", "--http-addr", "ftp://x"], "consul-ha: --http-addr is \"ftp://x\": the scheme"),
        (&["nodes", "--timeout-ms", "0"], "consul-ha: --timeout-ms is 0: "),
        (&["nodes", "--ca-file", "x"], "consul-ha: --ca-file has no effect, because no endpoint"),
        (
            &["nodes", "--leader-key", "ha/nodes/x"],
            "--nodes-prefix is \"ha/nodes/\" and --leader-key is \"ha/nodes/x\": they overlap",
        ),
        (&["nodes", "--cluster-key-file", "/nope"], "consul-ha: --cluster-key-file \"/nope\": "),
        (
            &["serve", "--listen", "127.0.0.1"],
            "consul-ha: --listen \"127.0.0.1\" must be host:port",
        ),
        (&["serve", "--listen", &taken], "is in use by another program: choose another port"),
    ] {
        system.run(line).refused(2, &[words]);
    }
}

/// The verbs that ask Consul.
const VERBS: [&[&str]; 14] = [
    &["nodes"],
    &["shards"],
    &["leader"],
    &["why"],
    &["events"],
    &["doctor"],
    &["locks"],
    &["drain", "n1"],
    &["maintenance", "n1"],
    &["hand-over"],
    &["leave", "n1"],
    &["forget", "n1"],
    &["accept-loss", "points", "0"],
    &["store-set", "points", "--replicas", "3"],
];

/// A Consul that accepts connections, and answers nothing.
fn slow() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let silent = [("CONSUL_HTTP_ADDR", address.as_str()), ("CONSUL_HA_PREFIX", "ha/")];
    for verb in VERBS {
        let begun = Instant::now();
        let run = Run::of(&[verb, &["--timeout-ms", "300"]].concat(), &silent);
        assert!(begun.elapsed() < Duration::from_secs(20), "{verb:?}: {:?}", begun.elapsed());
        let asked = if verb == ["locks"] { "kv_list \"\"" } else { "ha/" };
        run.refused(3, &["no answer from", &address, asked, " ms\n"]);
    }
}

fn unreachable() {
    let run = || Run::of(&["nodes", "--json"], &[("CONSUL_HTTP_ADDR", "127.0.0.1:1")]);
    assert!(run().out.contains("\"kind\":\"connect\""), "{:?}", run());
    run()
        .refused(3, &["127.0.0.1:1", "; --http-addr or the environment variable CONSUL_HTTP_ADDR"]);
    assert!(!run().err.contains("simulate"), "{:?}", run());
    Run::of(&["nodess"], &[]).refused(2, &["'nodes'"]);
    let tls = [("CONSUL_HTTP_ADDR", "127.0.0.1:1")];
    Run::of(&["nodes", "--ca-file", "x.pem"], &tls).refused(2, &["no endpoint uses TLS"]);
}
