//! The guard process, `consul-guard`: holds requests of another process and sends them when that
//! process has died, for whatever reason, so that the locks that it held are free at once.
//!
//! A process has one guard process, for all its clients. The two are connected by a pair of sockets. The kernel closes the end of the guarded
//! process when that process dies; a forked child closes its copy, and a program that the process
//! starts or becomes by `exec` does not inherit it. So the guard process reads the end of the
//! stream when no process relies on the locks any more. It learns everything from that socket: its
//! command line is the id of the guarded process, and its environment only names the system's
//! certificate authorities.

mod message;
mod process;
#[cfg(feature = "guard")]
mod send;
#[cfg(feature = "guard")]
mod watch;

pub use message::Connection;
pub use process::GuardProcess;
#[cfg(feature = "guard")]
pub use watch::watch;

/// The program's name.
pub const PROGRAM: &str = "consul-guard";

/// The start of each answer of the guard process, with the version of the messages.
const GREETING: &str = "consul-guard/3 ";

/// The rest of the answer when it can reach Consul for the client; otherwise the rest is the error.
const READY: &str = "ready";

/// The answer to [`message::Message::Ping`].
const PONG: &str = "pong\n";
