//! The program consul-ha on three live nodes, at consul-sim and at a real Consul.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that panics has failed
#![deny(dead_code)]

#[path = "../support/mod.rs"]
mod support;

mod changes;
mod doctor;
mod looks;
mod permissions;
mod program;
mod system;

use support::consul::{self, SIM};
use support::trials::{self, Trials};
use system::System;

/// One system for all verbs of a target: three nodes take seconds to start.
fn trials() -> Trials {
    let mut trials = Trials::of("tools");
    for version in [SIM, "1.21"] {
        let is_missing = consul::is_missing(version, "consul-ha");
        trials.add_unless(is_missing, format!("every_verb_on_{version}"), move || {
            let system = System::start(version);
            looks::run(&system);
            permissions::run(&system);
            doctor::run(&system);
            changes::run(&system);
            changes::without_leader(&system);
            system.says_no_secret();
        });
    }
    trials.add("the_doctor_finds_a_429", doctor::finds_a_429);
    let is_missing = consul::is_missing("1.21", "raft_multiplier");
    trials.add_unless(is_missing, "the_doctor_finds_raft_multiplier_5", doctor::finds_slow_raft);
    trials
}

fn main() {
    trials::run(4, &[trials])
}
