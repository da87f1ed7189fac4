//! Locks and semaphores.

pub(super) mod lock;
pub(super) mod worker;
