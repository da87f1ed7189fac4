//! What threads share.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a mutex guards, also after a thread panicked while it held it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
