//! The commands of docs/migrating-from-etcd.md, in their order.

use super::program::Servers;
use std::path::Path;
use std::process::{Command, Output, Stdio};

pub fn run(version: &'static str) {
    let servers = Servers::start("guide", version);
    servers.etcd.gateway().fill((0..50).map(|place| (format!("/app/{place}"), place.to_string())));
    let text = std::fs::read_to_string("docs/migrating-from-etcd.md").unwrap();
    let blocks = text.split("\n```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
    let commands: Vec<&str> = blocks.filter(|block| block.starts_with("consul-migrate")).collect();
    assert_eq!(commands.len(), 6, "{commands:?}");
    let mut tail = None;
    for command in commands {
        if command == "consul-migrate tail" {
            tail = Some(servers.start_run(&["tail"]));
            servers.etcd.gateway().put(b"/app/late", b"1");
            servers.wait_for_tail();
            continue;
        }
        if command.contains("rollback") {
            assert_eq!(servers.stored("app/late").unwrap(), b"1");
            servers.consul().send("PUT", "/v1/kv/app/late", "2").unwrap();
        }
        // A pasted command that stops production asks.
        let asks = ["cutover", "rollback"].iter().any(|verb| command.contains(verb));
        let output = shell(&servers, command);
        assert_eq!(output.status.success(), !asks, "{command}: {output:?}");
        let output = if asks { shell(&servers, &format!("{command} --yes")) } else { output };
        assert!(output.status.success(), "{command}: {output:?}");
    }
    assert_eq!(tail.unwrap().end().status, 4, "the cut-over has taken the job over");
    let found = super::cutover::value(&servers.etcd.gateway(), b"/app/late");
    assert_eq!(found, Some(super::etcd::text(b"2")));
}

/// Runs a command as the guide says: the addresses are in the environment.
fn shell(servers: &Servers, command: &str) -> Output {
    let folder = Path::new(env!("CARGO_BIN_EXE_consul-migrate")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new("sh")
        .args(["-e", "-c", command])
        .env("PATH", format!("{}:{path}", folder.display()))
        .env("ETCDCTL_ENDPOINTS", &servers.etcd.url)
        .env("CONSUL_HTTP_ADDR", &servers.consul[0])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}
