//! Calls, watches and clusters on real sockets, while the network or the servers fail.

#![deny(dead_code)] // a test that is not listed

mod calls;
mod clusters;
use consul_test_support as support;
mod token_file;
mod watches;

fn main() {
    // They wait most of the time, but in an election three servers need the processors at once.
    let modules = [clusters::trials, calls::trials, watches::trials, token_file::trials];
    support::trials::run(3, &modules);
}
