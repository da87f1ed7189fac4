//! The operating system, as a library inside the process of another program has to see it: forks,
//! signals, threads, sockets, descriptors for event loops, files, the machine's clock; and what the guard
//! process needs.
//!
//! The process's own state (signal dispositions, masks, threads that handle signals) stays as it
//! was.

#![allow(unsafe_code)]

mod clock;
mod descriptors;
mod event_fd;
mod file;
mod fork;
mod per_process;
mod private_socket;
mod process;
mod random;
mod signals;
mod socket;

pub use clock::{boot_id, uptime};
pub use descriptors::{cure_of, is_lack, lacking};
pub use event_fd::EventFd;
pub use file::{open_to_append, read_file, without_waiting};
pub use fork::{CloseOnFork, fork_generation, watch_forks};
pub use per_process::PerProcess;
pub use private_socket::listen as listen_privately;
pub use process::{Process, daemonize, hide_memory, kill_group, module_path};
pub use random::generator;
pub use signals::{NoSigpipe, block_signals, spawn};
pub use socket::{ReceiveMode, Stream, is_idle, receive, send, watch};
