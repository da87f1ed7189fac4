//! The guard process, `consul-guard`: holds requests of another process and sends them when that
//! process has died, for whatever reason, so that the locks that it held are free at once.
//!
//! A process has one guard process, for all its clients. The two are connected by a pair of sockets. The kernel closes the end of the guarded
//! process when that process dies; a forked child closes its copy, and a program that the process
//! starts or becomes by `exec` does not inherit it. So the guard process reads the end of the
//! stream when no process relies on the locks any more. It learns everything from that socket: its
//! command line is the id of the guarded process, and its environment only names the system's
//! certificate authorities.
//!
//! ```
//! use consul_api::error::Kind;
//! use consul_client::transport::Options;
//! use consul_guard::{Connection, GuardProcess};
//! use std::path::Path;
//!
//! let connection = Connection {
//!     endpoints: vec!["http://127.0.0.1:8500".to_owned()],
//!     token_file: None,
//!     http: Options::default(),
//! };
//! // The program is looked for at once; it is started with the first lock.
//! let error = GuardProcess::new(Some(Path::new("/nowhere/consul-guard")), connection).err();
//! assert_eq!(error.map(|error| error.kind()), Some(Kind::Config));
//! ```

mod message;
mod process;
mod send;
mod watch;

pub use message::Connection;
pub use process::GuardProcess;
pub use watch::watch;

/// The program's name.
pub const PROGRAM: &str = "consul-guard";

/// The start of each answer of the guard process, with the version of the messages.
const GREETING: &str = "consul-guard/4 ";

/// The rest of the answer when it can reach Consul for the client; otherwise the rest is the error.
const READY: &str = "ready";

/// The answer to [`message::Message::Ping`].
const PONG: &str = "pong\n";
