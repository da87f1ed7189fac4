//! The demo of a cluster comes to its end on the simulated agent behind a socket and on a real
//! Consul, and leaves nothing.

#[allow(dead_code)]
#[path = "support/consul.rs"]
mod consul;
#[path = "support/outside.rs"]
mod outside;

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::Command;

/// What is told, in this order; between the parts are figures and who it was.
const ACCOUNT: &[&str] = &[
    "Three nodes in one process, with no server",
    "all three have started after ",
    "node-3   up         68",
    "who leads, as each node knows: node-1, node-1, node-1",
    "the key stocks/AAPL is in shard 519, on node-",
    "Three processes on 127.0.0.1:",
    "node-3   up         68",
    " leads and is killed (kill -9)",
    " leads after ",
    "down         0",
    " comes back",
    "it has its shards after ",
    "node-3   up         68",
    " hands the leadership over",
    " leads after ",
    "Left behind: nothing",
];

fn main() {
    let real = consul::is_missing("1.21", "the demo of a cluster on Consul 1.21");
    let trials = vec![
        Trial::test("the_demo_of_a_cluster_comes_to_its_end [consul-sim]", || demo(&[])),
        Trial::test("the_demo_of_a_cluster_comes_to_its_end [1.21]", || demo(&["CONSUL=1.21"]))
            .with_ignored_flag(real),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn demo(variables: &[&str]) -> Result<(), Failed> {
    let mut make = Command::new("make");
    make.args(["--no-print-directory", "demo-cluster"]).args(variables);
    make.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("CONSUL_HTTP_ADDR");
    let output = outside::outside_cargo(&mut make).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = |why: String| {
        Err(format!("{why}\n{text}\n{}", String::from_utf8_lossy(&output.stderr)).into())
    };
    if !output.status.success() {
        return failed(output.status.to_string());
    }
    let mut rest = &*text;
    for part in ACCOUNT {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return failed(format!("missing, or not in its place: {part}")),
        }
    }
    Ok(())
}
