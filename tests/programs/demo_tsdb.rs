//! The demo of a database in processes succeeds on the simulated agent behind a socket and on a real Consul: all
//! acknowledged points are there, although its processes were killed, restarted, added and removed.

use crate::support::consul;
use crate::support::program;
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use std::process::Command;

/// The parts of the output, in this order; between them are figures.
const ACCOUNT: &[&str] = &[
    "2000 points in 100 series, 64 shards, 3 replicas, write and read quorum 2",
    "n1, n2 and n3 have all shards, after ",
    "n2 is killed (kill -9)",
    "n2 is back, ",
    "n1 is restarted: stopped in ",
    "n2 is restarted: stopped in ",
    "n3 is restarted: stopped in ",
    "n4 has joined and has 48 shards, after ",
    "n1 has handed its shards over and left, after ",
    "\n  2000 of 2000, 2000 acknowledged",
    "2000 points in ",
    "read through n2: 2000 points in ",
    "read through n3: 2000 points in ",
    "read through n4: 2000 points in ",
    "2000 acknowledged; 0 lost, 0 doubled, 0 out of order, 0 altered, 0 refused; longest gap ",
    "all acknowledged points are there",
    "Left behind: nothing",
];

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    trials.add("the_demo_of_a_database_comes_to_its_end [consul-sim]", || demo(&[]));
    let missing = consul::is_missing("1.21", "the demo of a database on Consul 1.21");
    let name = "the_demo_of_a_database_comes_to_its_end [1.21]";
    trials.add_unless(missing, name, || demo(&["CONSUL=1.21"]));
    trials.add("the_demo_fails_where_there_is_no_consul", without_consul);
    trials
}

fn make() -> Command {
    let mut make = program::make("demo-tsdb");
    make.args(["POINTS=2000", "SHARDS=64"]);
    make
}

fn demo(variables: &[&str]) -> Result<(), Failed> {
    program::tells(make().args(variables), ACCOUNT)
}

fn without_consul() -> Result<(), Failed> {
    // Nothing listens on port 1.
    let output = make().env("CONSUL_HTTP_ADDR", "127.0.0.1:1").output()?;
    let is_told = program::errors(&output).contains("examples/tsdb/demo.lua failed: ");
    if output.status.success() || !is_told {
        return program::failed("it did not fail with the expected message", &output);
    }
    Ok(())
}
