//! Permission for a request to wait for its answer by a short blocking read on the calling thread.
//! That is faster than to leave the runtime and to be woken, and right only for a thread that has
//! no other work to do.

use std::cell::Cell;
use std::time::Duration;

/// The longest blocking read, after which timers and other work of the thread get their turn.
/// Consul answers in less time, except to blocking queries.
pub(super) const MAX_WAIT: Duration = Duration::from_millis(10);

thread_local! {
    static IS_ALLOWED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, in which one request may use a blocking read.
pub fn allow<R>(work: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            IS_ALLOWED.set(self.0);
        }
    }
    let _restore = Restore(IS_ALLOWED.replace(true));
    work()
}

/// Takes the permission, if there is one.
pub(super) fn take() -> bool {
    IS_ALLOWED.replace(false)
}
