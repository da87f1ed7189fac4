//! Locks and semaphores, and the guard of a process that holds them.

#![deny(dead_code)] // a test that is not listed

mod guard;
#[allow(dead_code)] // benches/failover uses the rest
mod holder;
mod locks;
use consul_test_support as support;

fn main() {
    // The guard's tests start this program again as the process that holds a lock.
    if holder::is_one(guard::act) {
        return;
    }
    // Most tests wait most of the time.
    support::trials::run(4, &[locks::trials, guard::trials]);
}
