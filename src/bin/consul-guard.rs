//! `consul-guard`: acts for a process when it is gone. The module starts it; on its standard input
//! is the socket by which it is told what to do.
//!
//! ```text
//! consul-guard PID
//! consul-guard version
//! ```

use consul_ffi::guard::{PROGRAM, watch};
use consul_ffi::os::{self, Process};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match &arguments[..] {
        [word] if word == "version" => {
            writeln!(io::stdout(), "{PROGRAM} {}", env!("CARGO_PKG_VERSION"))
        }
        [id] if id.parse::<u32>().is_ok() => guard(id.parse().unwrap_or_default()),
        _ => {
            let usage = format!("usage: {PROGRAM} PID, started by the module; {PROGRAM} version");
            Err(io::Error::other(usage))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A reader that is gone is no reason to end otherwise.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn guard(id: u32) -> io::Result<()> {
    let socket = || io::Result::Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?));
    socket()?.peer_addr()?;
    os::detach()?;
    watch(&socket()?, &Process::new(id))
}
