//! The module in whole programs: the demos, the examples, nginx, the programs of pages, the rock, the page.

#![deny(dead_code)] // a test that is not listed

mod answers;
mod demo;
mod demo_cluster;
mod demo_gateway;
mod demo_tsdb;
mod encrypted;
mod examples;
mod logs;
mod nginx;
mod packaging;
mod page;
mod production;
mod quick_starts;
mod readme;
mod replicated;
mod secrets;
use consul_test_support as support;
mod systemd;

fn main() {
    // The longest come first; they wait most of the time.
    let modules = [
        production::trials,
        replicated::trials,
        demo_cluster::trials,
        demo_tsdb::trials,
        demo_gateway::trials,
        page::trials,
        page::documents::trials,
        packaging::trials,
        examples::trials,
        demo::trials,
        quick_starts::trials,
        readme::trials,
        nginx::trials,
        answers::trials,
        encrypted::trials,
        logs::trials,
        secrets::trials,
        systemd::trials,
    ];
    support::trials::run(4, &modules);
}
