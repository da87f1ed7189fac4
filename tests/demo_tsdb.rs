//! The demo of a database on three processes comes to its end on the simulated agent behind a socket
//! and on a real Consul: what was acknowledged is there, though one process was killed.

#[allow(dead_code)]
#[path = "support/consul.rs"]
mod consul;
#[path = "support/outside.rs"]
mod outside;
#[allow(dead_code)]
#[path = "support/program.rs"]
mod program;

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::Command;

/// What is told, in this order; between the parts are figures.
const ACCOUNT: &[&str] = &[
    "2000 points, 3 replicas, written on 2 at least",
    "directly into SQLite: 2000 points in ",
    "n1, n2 and n3 have all shards",
    " of 2000, ",
    "n2 is killed (kill -9) while n1 writes",
    "2000 of 2000, ",
    "through the cluster: 2000 points in ",
    "read through n1: ",
    "; 0 lost, 0 doubled, 0 out of order, 0 other than written",
    "read through n3: ",
    "; 0 lost, 0 doubled, 0 out of order, 0 other than written",
    "all that was acknowledged is there",
    "Left behind: nothing",
];

fn main() {
    let real = consul::is_missing("1.21", "the demo of a database on Consul 1.21");
    let trials = vec![
        Trial::test("the_demo_of_a_database_comes_to_its_end [consul-sim]", || demo(&[])),
        Trial::test("the_demo_of_a_database_comes_to_its_end [1.21]", || demo(&["CONSUL=1.21"]))
            .with_ignored_flag(real),
        Trial::test("the_demo_fails_where_there_is_no_consul", without_consul),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn make() -> Command {
    let mut make = program::make("demo-tsdb");
    make.arg("POINTS=2000");
    make
}

fn demo(variables: &[&str]) -> Result<(), Failed> {
    program::tells(make().args(variables), ACCOUNT)
}

fn without_consul() -> Result<(), Failed> {
    // Nothing listens on the port 1.
    let output = make().env("CONSUL_HTTP_ADDR", "127.0.0.1:1").output()?;
    let is_told = program::errors(&output).contains("examples/tsdb/demo.lua failed: ");
    if output.status.success() || !is_told {
        return program::failed("it did not fail as such", &output);
    }
    Ok(())
}
