//! The demo of a cluster comes to its end on the simulated agent behind a socket and on a real
//! Consul, and leaves nothing.

#[allow(dead_code)]
#[path = "support/consul.rs"]
mod consul;
#[path = "support/outside.rs"]
mod outside;
#[allow(dead_code)]
#[path = "support/program.rs"]
mod program;

use libtest_mimic::{Arguments, Failed, Trial};

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
    program::tells(program::make("demo-cluster").args(variables), ACCOUNT)
}
