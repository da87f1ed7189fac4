//! Consul 1.8.7 does not tell that ACLs hide instances.

use crate::program::Run;
use crate::support::consul::RealConsul;
use crate::system::{client, object, token};
use consul_ffi::client::Client;
use consul_ffi::wire::api::{agent, kv};
use consul_ffi::wire::request::Args;
use consul_ffi::wire::value::Value;
use tokio::runtime::Builder;

const NODE: &str =
    r#"{"id":"n1","address":"127.0.0.1:1","weight":1,"started_ms":1,"incarnation":"i1"}"#;

const KEYS: &str =
    r#"key_prefix "ha/" { policy = "write" } session_prefix "" { policy = "write" } "#;
const SERVICES: &str = r#"service_prefix "" { policy = "write" } "#;
const NODES: &str = r#"node_prefix "" { policy = "read" } "#;

/// A live node, as Consul has it.
async fn register(client: &Client) {
    let node = Args::new().arg("ha/nodes/n1").arg(NODE.as_bytes().to_vec());
    client.call(&kv::PUT, &node).await.expect("a key");
    let service = object(&[
        ("Name", "ha-nodes".into()),
        ("ID", "ha-nodes-n1".into()),
        ("Meta", object(&[("incarnation", "i1".into())])),
    ]);
    client.call(&agent::SERVICE_REGISTER, &Args::new().arg(service)).await.expect("a service");
}

pub fn removes_no_live_node() {
    let consul = RealConsul::start_with_acl("1.8", "deny").expect("it is there");
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let admin = client(&consul.address, &consul.token);
    runtime.block_on(register(&admin));
    let run = |rules: &[&str], arguments: &[&str]| {
        let token = runtime.block_on(token(&admin, &rules.concat()));
        let environment = [
            ("CONSUL_HTTP_ADDR", consul.address.as_str()),
            ("CONSUL_HTTP_TOKEN", token.as_str()),
            ("CONSUL_HA_PREFIX", "ha/"),
        ];
        Run::of(arguments, &environment)
    };
    let all = [KEYS, SERVICES, NODES];
    run(&all, &["forget", "n1"]).refused(1, &["n1 is live"]);
    for verb in [&["forget", "n1"][..], &["leave", "n1"], &["why"], &["nodes"]] {
        run(&[KEYS, SERVICES], verb).refused(5, &["node:read on \"\""]);
        run(&[KEYS, NODES], verb).refused(5, &["service:read on \"ha-nodes\""]);
    }
    run(&[SERVICES, NODES], &["nodes"]).refused(5, &["key:read on \"ha/nodes/\""]);
    let doctor = run(&[KEYS, SERVICES], &["doctor"]).out;
    assert!(doctor.contains("lacks node:read on "), "{doctor}");
    let key = runtime.block_on(admin.call(&kv::GET, &Args::new().arg("ha/nodes/n1")));
    assert!(matches!(key.unwrap().value, Value::Bytes(_)), "the node is a member");
}
