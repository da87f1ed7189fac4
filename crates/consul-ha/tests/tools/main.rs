//! The program consul-ha on three live nodes, at consul-sim and at a real Consul.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that panics has failed
#![deny(dead_code)]

use consul_test_support as support;

mod blind;
mod changes;
mod doctor;
mod looks;
mod lost;
mod permissions;
mod program;
mod recipes;
mod silent;
mod states;
mod stopped;
mod system;

use support::consul::{self, SIM};
use support::recipes::Setting;
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
            states::have_schemas();
        });
    }
    for version in [SIM, "1.21"] {
        let is_missing = consul::is_missing(version, "waits of consul-ha");
        let name = format!("a_wait_during_which_consul_is_wiped_is_no_success_on_{version}");
        trials.add_unless(is_missing, name, move || lost::is_no_success(version));
        let name = format!("a_request_whose_wait_has_ended_can_be_taken_back_on_{version}");
        trials.add_unless(is_missing, name, move || lost::requests_of_nobody(version));
        let name = format!("losses_that_two_operators_accept_are_both_accepted_on_{version}");
        trials.add_unless(is_missing, name, move || lost::losses_of_two(version));
        let name = format!("requests_of_two_operators_do_not_end_each_other_on_{version}");
        trials.add_unless(is_missing, name, move || lost::requests_of_two(version));
    }
    let is_long = std::env::var_os("LONG").is_some();
    for version in if is_long { &[SIM, "1.21"][..] } else { &[SIM] } {
        // The recipes have commands of the real one also on consul-sim.
        let is_missing = consul::is_missing(version, "the recipes of operators")
            || consul::is_missing("1.21", "the recipes of operators on consul-sim");
        for (setting, noun) in [(Setting::Nodes, "nodes"), (Setting::Secrets, "secrets")] {
            let name =
                format!("the_recipes_of_{noun}_print_what_the_page_shows_on_{version} [1.21]");
            trials.add_unless(is_missing, name, move || recipes::of_nodes(setting, version));
        }
    }
    // They wait for elections, and for servers that become voters.
    if is_long {
        let is_missing = consul::is_missing("1.21", "the recipes of operators on three servers");
        let name = "the_recipes_of_servers_print_what_the_page_shows [1.21]";
        trials.add_unless(is_missing, name, recipes::of_servers);
    }
    // In namespaces of its own, which scripts/soak.sh makes.
    if std::env::var_os("LAB").is_some() {
        let is_missing = consul::is_missing("1.21", "the recipes of operators in a lab");
        let name = "in_a_lab_no_recipe_refuses_a_write_or_raises_an_alert [1.21]";
        trials.add_unless(is_missing, name, recipes::of_lab);
    }
    let is_missing = consul::is_missing("1.8", "what ACLs hide");
    let name = "a_token_that_sees_no_instances_removes_no_live_node_on_1.8";
    trials.add_unless(is_missing, name, blind::removes_no_live_node);
    trials.add("each_verb_in_each_state_of_what_it_needs", states::are_told);
    trials.add("the_doctor_finds_a_429", doctor::finds_a_429);
    trials.add("a_page_says_that_consul_is_silent", silent::is_told_by_the_page);
    let name = "a_node_that_stands_still_is_down_until_it_continues";
    trials.add_unless(consul::is_missing(SIM, name), name, stopped::is_down_until_it_continues);
    let is_missing = consul::is_missing("1.21", "raft_multiplier");
    trials.add_unless(
        is_missing,
        "the_doctor_finds_raft_multiplier_5 [1.21]",
        doctor::finds_slow_raft,
    );
    trials
}

fn main() {
    trials::run(4, &[trials])
}
