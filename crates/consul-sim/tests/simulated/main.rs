//! The simulated agent survives every request, and gives the same answers as a real Consul.

#![deny(dead_code)] // a test that is not listed

mod checks;
mod commands;
mod config;
mod controlled;
mod dns;
mod fuzz;
mod interop;
mod languages;
mod monitor;
mod parameters;
mod random;
mod seldom;
mod served;
mod walk;
use consul_test_support as support;

fn main() {
    // Most tests wait most of the time.
    support::trials::run(
        4,
        &[
            interop::trials,
            languages::trials,
            random::trials,
            walk::trials,
            fuzz::trials,
            served::trials,
            config::trials,
            seldom::trials,
            parameters::trials,
            checks::trials,
            controlled::trials,
            dns::trials,
            monitor::trials,
            commands::trials,
        ],
    );
}
