//! A token from which ACLs hide keys: no comparison and no backup is without them.

use super::etcd::Etcd;
use super::program::{Run, Servers};
use crate::support::consul::RealConsul;
use serde_json::{Value, json};

/// Reads all keys, and writes no copy.
const READS: &str = r#"
    key_prefix "" { policy = "read" }
    key_prefix "_migrate/" { policy = "write" }"#;

/// Writes all keys of the application but one, which it may not even read.
const RULES: &str = r#"
    key_prefix "app/" { policy = "write" }
    key "app/1" { policy = "deny" }
    key_prefix "_migrate/" { policy = "write" }
    session_prefix "" { policy = "write" }"#;

pub fn run(version: &'static str) {
    let consul = RealConsul::start_with_acl(version, "deny").unwrap();
    let servers = Servers::of(Etcd::start(&format!("acl-{version}")), vec![consul.address.clone()]);
    servers.etcd.gateway().fill((0..3).map(|place| (format!("/app/{place}"), place.to_string())));
    let run = |token: &str, arguments: &[&str]| {
        let mut command = servers.program(arguments);
        let output = command.env("CONSUL_HTTP_TOKEN", token).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        Run { out, err, status: output.status.code().unwrap() }
    };
    let prefix = ["--etcd-prefix", "/app/"];
    let all = |verb: &[&str]| run(&consul.token, &[&prefix[..], verb].concat());
    all(&["copy"]).ok();
    all(&["verify"]).ok();

    // An older server does not say which keys it leaves out of lists.
    if version != "1.8" {
        let reads = limited(&servers, &consul.token, "reads", READS);
        let copy = ["--etcd-prefix", "/app/", "--consul-prefix", "x/", "--job", "x"];
        let reads = |verb: &str| run(&reads, &[&copy[..], &[verb]].concat());
        let plan = reads("plan");
        assert!(!plan.out.contains("_migrate/"), "{plan:?}");
        plan.ends(1, &["may not write \"x/app/0\"", "a copy would be refused"]);
        // A right for some keys is enough if these are all.
        let rules = RULES.replace(
            "key \"app/1\" { policy = \"deny\" }",
            "key_prefix \"\" { policy = \"read\" }",
        );
        let below = limited(&servers, &consul.token, "below", &rules);
        let of_all = run(&below, &["--job", "below", "--consul-prefix", "y/", "plan"]);
        of_all.ends(1, &["may not write \"y/app/0\""]);
        let rules = rules.replace("\"app/\"", "\"y/app/\"");
        let below = limited(&servers, &consul.token, "below-y", &rules);
        run(&below, &["--job", "below", "--consul-prefix", "y/", "plan"])
            .ends(0, &["nothing is in the way of a copy"]);
        reads("copy").ends(5, &["ermission denied", "; and 2 more"]);
    }

    let limited = limited(&servers, &consul.token, "few", RULES);
    let few = |verb: &[&str]| run(&limited, &[&prefix[..], verb].concat());
    let file = std::env::temp_dir().join(format!("migrate-{}-acl-{version}", std::process::id()));
    let file = file.to_str().unwrap();
    let words = ["ACLs", "hide keys of Consul", "app/"];
    few(&["plan"]).ends(5, &words);
    few(&["verify"]).ends(5, &words);
    few(&["export", file, "--consul-prefix", "app/"]).ends(5, &words);
    let cutover = few(&["cutover", "--yes"]);
    assert!(!cutover.err.contains("are stopped"), "{}", cutover.err);
    cutover.ends(5, &words);
    all(&["cutover", "--yes"]).ok();
    few(&["rollback", "--yes"]).ends(5, &words);
    run("", &["verify", "--etcd-prefix", "/app/"]).ends(5, &["ermission denied"]);
    run("", &["export", "--consul-prefix", "app/"]).ends(5, &words);
    run("", &["export", "--consul-prefix", "app/"])
        .ends(5, &["no token is given", "CONSUL_HTTP_TOKEN"]);
    assert_eq!(super::cutover::value(&servers.etcd.gateway(), b"/app/1").unwrap(), "MQ==");
    all(&["rollback", "--yes"]).ok();
}

/// The secret of a token with the rules.
fn limited(servers: &Servers, token: &str, name: &str, rules: &str) -> String {
    let consul = servers.consul();
    let create = |what: &str, body: Value| -> Value {
        let path = format!("/v1/acl/{what}?token={token}");
        serde_json::from_slice(&consul.send("PUT", &path, body.to_string()).unwrap().1).unwrap()
    };
    create("policy", json!({ "Name": name, "Rules": rules }));
    let made = create("token", json!({ "Policies": [{ "Name": name }] }));
    made["SecretID"].as_str().unwrap().to_owned()
}
