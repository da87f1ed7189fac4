//! The protocol of replicated shards as an explicit-state model, searched to its end: one shard with
//! three replicas on four nodes, and every order of events. `rules.rs` has what can be switched off,
//! `state.rs` the states, `steps.rs` the steps and what is left out, `search.rs` the search.
//!
//! `make test-all` searches small limits, `make model` the large ones.

#![allow(clippy::print_stdout)]

mod compare_and_set;
mod numbers;
mod rules;
mod search;
mod state;
mod steps;

use rules::{Limits, Rule};
use search::{search, shortest_loss};

/// Searches to the end and demands that no acknowledged write is ever missed by a read.
fn holds(limits: Limits) {
    let report = search(limits, None);
    println!("{limits:?}: {report}");
    assert!(!report.has_loss, "a write is lost:\n{}", shortest_loss(limits, None).join("\n"));
}

const fn limits(changes: u8, writes: u8, set_back: bool, lost_disk: bool) -> Limits {
    Limits { changes, writes, set_back, silent: false, lost_disk }
}

const fn silent(changes: u8, writes: u8, lost_disk: bool) -> Limits {
    Limits { changes, writes, set_back: false, silent: true, lost_disk }
}

#[test]
fn no_acknowledged_write_is_lost() {
    for limits in [
        limits(3, 1, false, false),
        limits(2, 2, false, false),
        limits(2, 1, true, false),
        limits(2, 1, false, true),
        silent(2, 1, false),
    ] {
        holds(limits);
    }
}

/// The search that the protocol rests on.
#[test]
#[ignore = "takes an hour and 10 GB; `make model` runs it"]
fn no_acknowledged_write_is_lost_in_chains_of_four_changes() {
    for limits in [
        limits(4, 2, false, false),
        limits(4, 1, false, true),
        limits(4, 1, true, false),
        limits(4, 1, true, true),
        limits(3, 2, true, true),
        silent(3, 1, true),
        silent(4, 1, false),
    ] {
        holds(limits);
    }
}

/// A rule whose absence loses nothing would be a rule that the model does not test.
#[test]
fn each_rule_is_needed() {
    for rule in Rule::ALL {
        let report = search(rule.needed_within(), Some(rule));
        println!("without {rule:?}: a loss among {report}");
        assert!(report.has_loss, "nothing is lost without {rule:?}");
    }
}
