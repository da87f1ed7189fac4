//! The crash guard: a process of its own that makes calls for this one when it is gone, however it
//! came to its end, so that the locks that it held are free at once.
//!
//! This process is at one end of a pair of sockets, the guard at the other. The kernel closes this
//! end when the process ends; a forked child closes its copy, and a program that the process becomes
//! or starts has none. So the guard reads the end of the socket when there is nobody left who
//! believes in the locks. All it knows it has from there; its command line is the id of the process
//! that it looks after, and its environment has nothing but where the system's authorities are.

mod keeper;
mod order;
#[cfg(feature = "guard")]
mod send;
#[cfg(feature = "guard")]
mod watch;

pub use keeper::Keeper;
pub use order::Connection;
#[cfg(feature = "guard")]
pub use watch::watch;

/// The program's name.
pub const PROGRAM: &str = "consul-guard";

/// The first word that a guard says, with the version of what it understands.
const GREETING: &str = "consul-guard/1 ";

/// What follows when it is ready; else it says why it is not.
const READY: &str = "ready";
