//! The demo of a cluster succeeds on the simulated agent behind a socket and on a real
//! Consul, and leaves nothing.

use crate::support::consul;
use crate::support::program;
use crate::support::trials::Trials;
use libtest_mimic::Failed;

/// The parts of the output, in this order; between them are figures and names of nodes.
const ACCOUNT: &[&str] = &[
    "Three nodes in one process, without a server",
    "all three have joined after ",
    "node-3   up         68",
    "the leader, as each node sees it: node-1, node-1, node-1",
    "the key stocks/AAPL is in shard 519, on node-",
    "Three processes on 127.0.0.1:",
    "node-3   up         68",
    " is killed (kill -9)",
    " leads after ",
    "down         0",
    " is restarted",
    "it has its shards after ",
    "node-3   up         68",
    " hands the leadership over",
    " leads after ",
    "Left behind: nothing",
];

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    trials.add("the_demo_of_a_cluster_comes_to_its_end [consul-sim]", || demo(&[]));
    let missing = consul::is_missing("1.21", "the demo of a cluster on Consul 1.21");
    let name = "the_demo_of_a_cluster_comes_to_its_end [1.21]";
    trials.add_unless(missing, name, || demo(&["CONSUL=1.21"]));
    trials
}

fn demo(variables: &[&str]) -> Result<(), Failed> {
    program::tells(program::make("demo-cluster").args(variables), ACCOUNT)
}
