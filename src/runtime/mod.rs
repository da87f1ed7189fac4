//! The common parts of the module's objects: background jobs, waits, values, and native functions.

pub(super) mod closable_job;
pub(super) mod executor;
pub(super) mod handle;
pub(super) mod job;
pub(super) mod log;
pub(super) mod native;
pub(super) mod nginx;
pub(super) mod stack;
pub(super) mod value;
pub(super) mod wait;
pub(super) mod wake;
