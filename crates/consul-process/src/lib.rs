//! The parts of a process: its clock, files that change, log, metrics, forks and sockets.
//!
//! ```
//! use consul_process::clock::{Clock, ManualClock};
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicBool, Ordering};
//! use std::time::Duration;
//!
//! let clock = ManualClock::new();
//! let is_over = Arc::new(AtomicBool::new(false));
//! let (timer, over) = (clock.clone(), Arc::clone(&is_over));
//! clock.spawn(async move {
//!     timer.sleep(Duration::from_secs(3600)).await;
//!     over.store(true, Ordering::Relaxed);
//! });
//! clock.run_until_stalled();
//! // No real time passes.
//! clock.advance(Duration::from_secs(3600));
//! clock.run_until_stalled();
//! assert!(is_over.load(Ordering::Relaxed));
//! ```

pub mod clock;
pub mod files;
pub mod hosts;
pub mod log_file;
pub mod logs;
pub mod metrics;
pub mod os;
pub mod rules;
pub mod sync;
