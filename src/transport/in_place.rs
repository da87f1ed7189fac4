//! Whether a request may wait for its answer where it is, in a call of the system that blocks the
//! thread. It is faster than to leave the runtime and to be woken, and right only for a thread that
//! has nothing else to do.

use std::cell::Cell;
use std::time::Duration;

/// How long a request waits in place at most: then come timers and whatever else the thread has.
/// Consul answers in less, but for what waits on purpose.
pub(super) const LONGEST: Duration = Duration::from_millis(10);

thread_local! {
    static IS_ALLOWED: Cell<bool> = const { Cell::new(false) };
}

/// Does something, as part of which one request may wait in place.
pub fn allow<R>(work: impl FnOnce() -> R) -> R {
    struct Until(bool);
    impl Drop for Until {
        fn drop(&mut self) {
            IS_ALLOWED.set(self.0);
        }
    }
    let _until = Until(IS_ALLOWED.replace(true));
    work()
}

/// Whether a request may wait in place now. One that did has used the permission up.
pub(super) fn take() -> bool {
    IS_ALLOWED.replace(false)
}
